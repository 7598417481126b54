"""What a release consists of: tarball, bill of materials, packages, image. Building them takes minutes (`make deb`, `make rpm`); this
holds what can go wrong with them unseen."""

import fnmatch
import hashlib
import json
import os
import re
import shutil
import subprocess
import tarfile

import pytest

from harness import BROKER, ROOT, TEST_SECONDS, release_only

VERSION = (ROOT / "VERSION").read_text().strip()


def call(*command, **options):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(command, capture_output=True, text=True, timeout=TEST_SECONDS, env=environment, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def tree(tmp_path):
    """A few of the tree's files as a repository of their own, for the tree that is tested may have none."""
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "deploy", tree / "deploy", ignore=shutil.ignore_patterns("node_modules"))
    for name in ("VERSION", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    (tree / ".gitignore").write_text("/build/\n")
    who = ["-c", "user.name=a", "-c", "user.email=a@localhost"]
    for words in (["init", "-q"], ["add", "-A"], [*who, "commit", "-q", "-m", "A tree"]):
        call("git", *words, cwd=tree)
    return tree


@release_only
def test_a_release_is_the_same_bytes_each_time_and_says_what_is_in_it(tree):
    def made():
        call(tree / "deploy/dist", BROKER)
        return {p.name: p.read_bytes() for p in (tree / "build/dist").iterdir()}

    first = made()
    name = f"uring-broker-{VERSION}"
    assert set(first) == {f"{name}.tar.gz", f"{name}.cdx.json", "SHA256SUMS"}
    assert made() == first
    for line in first["SHA256SUMS"].decode().splitlines():
        digest, file = line.split()
        assert hashlib.sha256(first[file]).hexdigest() == digest
    with tarfile.open(tree / f"build/dist/{name}.tar.gz") as tar:
        members = tar.getnames()
    assert {f"{name}/VERSION", f"{name}/LICENSE", f"{name}/deploy/dist"} <= set(members)
    assert not [m for m in members if "/.git/" in m or "/build/" in m] and {m.split("/")[0] for m in members} == {name}

    bill = json.loads(first[f"{name}.cdx.json"])
    assert (bill["bomFormat"], bill["specVersion"], bill["metadata"]["component"]["version"]) == ("CycloneDX", "1.5", VERSION)
    needed = re.findall(r"NEEDED.*\[(.*)\]", call("readelf", "-d", BROKER))
    owners = {line.split(":")[0] for line in call("dpkg-query", "-S", *(f"*/{os.uname().machine}-linux-gnu/{library}" for library in needed)).splitlines()}
    assert {c["name"] for c in bill["components"]} == owners and {"libssl3", "libjansson4"} <= owners
    versions = call("dpkg-query", "-W", "-f", "${Package} ${Version}\n", *owners).split()
    assert {c["name"]: c["version"] for c in bill["components"]} == dict(zip(versions[::2], versions[1::2]))
    assert bill["dependencies"][0]["dependsOn"] == [c["bom-ref"] for c in bill["components"]]


@release_only
def test_the_rpm_has_what_is_installed_and_its_source_package_can_be_made(tree, tmp_path):
    out = call(tree / "deploy/rpm/build", "-bs")
    assert f"uring-broker-{VERSION}-1.src.rpm" in out
    spec = call("rpmspec", "-P", tree / "build/rpm/SPECS/broker.spec")
    files = spec.split("%files\n")[1].split("%changelog")[0].splitlines()
    named = [line.split()[-1] for line in files if line.startswith(("/", "%dir", "%config"))]
    call("make", "install", f"DESTDIR={tmp_path / 'root'}", "PREFIX=/usr", "sysconfdir=/etc", cwd=ROOT)
    installed = {"/" + str(p.relative_to(tmp_path / "root")) for p in (tmp_path / "root").rglob("*") if not p.is_dir()}
    assert len(installed) > 15
    assert [f for f in installed if not any(fnmatch.fnmatch(f, n) or f.startswith(n + "/") for n in named)] == []
    assert [n for n in named if not any(fnmatch.fnmatch(f, n) or f.startswith(n + "/") for f in installed)] == []


def test_the_packages_need_the_same_libraries():
    """By the names that each distribution has for them."""
    fedora = {"libcrypt-dev": "libxcrypt-devel", "libhttp-parser-dev": "http-parser-devel", "libssl-dev": "openssl-devel",
              "libck-dev": "ck-devel", "libhwloc-dev": "hwloc-devel", "libjansson-dev": "jansson-devel", "libsystemd-dev": "systemd-devel",
              "libwslay-dev": "wslay-devel", "systemtap-sdt-dev": "systemtap-sdt-devel", "libc6-dev": None}
    lines = re.sub("#.*", "", (ROOT / "deploy/packages.build").read_text()).split()
    wanted = {fedora.get(name, name.replace("-dev", "-devel")) for name in lines} - {None}
    spec = set(re.findall(r"^BuildRequires: *(\S+)", (ROOT / "deploy/rpm/broker.spec").read_text(), re.M)) - {"systemd-rpm-macros"}
    assert spec == wanted
    assert {n for n in spec if "devel" in n} <= set((ROOT / "deploy/ec2/README.md").read_text().split())


@release_only
def test_the_image_has_a_configuration_with_every_door(tmp_path):
    recipe = (ROOT / "deploy/container/Dockerfile").read_text()
    command = re.search(r"^RUN (sed .*?)^(?=[A-Z])", recipe, re.M | re.S).group(1)
    shutil.copy(ROOT / "config/broker.conf", tmp_path)
    call("sh", "-ec", command.replace("/etc/broker/", f"{tmp_path}/"))
    said = call(BROKER, "-c", tmp_path / "broker.conf", "--check")
    ports = re.search(r"^EXPOSE (.*)$", recipe, re.M).group(1).split()
    assert ports == ["8080", "4222", "6379", "1883"]
    for port in ports:
        assert f"0.0.0.0:{port}" in said
