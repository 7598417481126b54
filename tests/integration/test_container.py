"""The container's seccomp profile: the broker works under it, and names the cause without io_uring in it."""

import errno
import json
import re
import signal
import subprocess

import pytest

from filters import number, under
from harness import BROKER, DEFAULTS, ROOT, TEST_SECONDS, config_text, numbered, release_only, run

PROFILE = json.loads((ROOT / "deploy/container/seccomp.json").read_text())
ALLOWED = [name for rule in PROFILE["syscalls"] for name in rule["names"]]


def test_the_profile_names_each_call_once_and_allows_by_name_only():
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO" and PROFILE["defaultErrnoRet"] == errno.EPERM
    assert not [name for name in ALLOWED if number(name) == -1], "no such system call"
    assert len(ALLOWED) == len(set(ALLOWED))
    assert all(set(rule) == {"comment", "names", "action"} for rule in PROFILE["syscalls"])


@release_only
def test_the_image_has_the_libraries_that_the_broker_is_linked_with():
    dynamic = subprocess.run(["readelf", "-d", BROKER], capture_output=True, text=True, check=True, timeout=TEST_SECONDS).stdout
    packages = set()
    for name in re.findall(r"NEEDED.*\[(.*)\]", dynamic):
        owner = subprocess.run(["dpkg", "-S", f"*/{name}"], capture_output=True, text=True, check=True, timeout=TEST_SECONDS)
        packages.add(owner.stdout.split(":")[0])
    dockerfile = (ROOT / "deploy/container/Dockerfile").read_text()
    installed = re.search(r"FROM (?!.* AS ).*?install (.*?)&&", dockerfile, re.S).group(1)
    assert packages - {"libc6"} == set(re.findall(r"lib[a-z0-9.-]+", installed))


@release_only
@pytest.mark.parametrize("sandbox", [True, False])
def test_traffic_reload_and_drain_work_under_the_profile(start, sandbox):
    broker = start(reactors=2, sandbox=sandbox, preexec=under(ALLOWED))
    subscribers = broker.subscribe_many(["t"] * 10)
    messages = numbered(b"m", 2000) + [b"x" * 500_000]
    broker.publish("t", *messages)
    assert all(s.take(len(messages)) == messages for s in subscribers)
    since = broker.log_size()
    broker.send_signal(signal.SIGHUP)
    broker.says("INFO.*reload.*in force", since)
    assert not sandbox or "sandbox: rings restricted, system calls filtered" in broker.log()
    broker.stop(dropped=0)


@release_only
def test_without_io_uring_in_it_the_cause_is_named(tmp_path):
    path = tmp_path / "broker.conf"
    path.write_text(config_text(**DEFAULTS))
    ended = run("-c", path, preexec=under([n for n in ALLOWED if "io_uring" not in n]))
    assert ended.returncode == 3
    assert "seccomp profile" in ended.stderr and "io_uring_register" in ended.stderr
    shown = (ROOT / "deploy/container/README.md").read_text()
    assert re.search("ERROR .*", ended.stderr).group() in shown, "the message that people see is in the documentation"
