"""The manual pages and completions say what the programs and the shipped configuration say."""

import os
import re
import subprocess

import pytest

from harness import BROKER, ROOT, TEST_SECONDS, run

MAN = ROOT / "docs/man"
COMPLETION = ROOT / "deploy/completion"
LOAD = BROKER.parent / "broker-load"
PROGRAMS = [BROKER, *([LOAD] if (ROOT / "bench/load").is_dir() else [])]


def shipped_keys():
    """{"engine.batch": "64", ...} of config/broker.conf; a key outside any section has no dot, one in a section
    within a section two."""
    keys, sections = {}, []
    for line in (ROOT / "config/broker.conf").read_text().splitlines():
        line = re.sub(r'#(?=([^"]*"[^"]*")*[^"]*$).*', "", line).strip()
        if head := re.fullmatch(r'(\w+)(?: "[^"]*")? \{', line):
            sections.append(head.group(1))
        elif line == "}":
            sections.pop()
        elif line:
            key, value = re.fullmatch(r"(\w+)\s*=\s*(.*)", line).groups()
            keys[".".join([*sections, key])] = value
    return keys


def described_keys():
    """The same from broker.conf(5), where each key stands as `.It Ic key = default`."""
    keys, section = {}, ""
    for line in (MAN / "broker.conf.5").read_text().splitlines():
        if head := re.fullmatch(r"\.Ss (.*)", line):
            section = "" if head.group(1) == "Top level" else head.group(1) + "."
        elif item := re.fullmatch(r"\.It Ic (\w+) = (.*)", line):
            key = section + item.group(1)
            assert key not in keys, f"{key} is described twice"
            keys[key] = item.group(2).replace(r"\(dq", '"')
    return keys


def shown_options(program):
    """The options that --help names."""
    text = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=TEST_SECONDS, check=True).stdout
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", text))


def described_options(program):
    """The options that have an item in the page's list."""
    items = re.findall(r"^\.It (Fl .*)$", (MAN / f"{program.name}.1").read_text(), re.M)
    return {"-" + name for item in items for name in re.findall(r"(?:^|Fl )(-[a-z][a-z-]*)", item)}


def test_every_key_is_described_with_its_default_and_no_other():
    shipped, described = shipped_keys(), described_keys()
    assert len(shipped) > 40, "the configuration was read"
    assert described == shipped


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
def test_every_option_is_described_and_no_other(program):
    shown = shown_options(program)
    assert "--help" in shown
    assert described_options(program) == shown


def test_every_error_that_a_line_client_may_see_is_described_and_no_other():
    sources = "".join(p.read_text() for d in ("src", "include") for p in (ROOT / d).rglob("*.[ch]"))
    names = dict(re.findall(r'#define (LINE_\w+) "(.*)"', sources))
    said = set(re.findall(r'LINE_ERROR_TEXT\(\s*"(.*?)"\s*\)', sources))
    said |= {names[n] for n in re.findall(r"LINE_ERROR_TEXT\(\s*(LINE_\w+)\s*\)", sources)}
    said |= set(re.findall(r'WORDS\(REASON_\w+, "(.*?)"\)', sources))
    assert len(said) > 8, "the sources were read"
    described = (MAN / "broker.1").read_text().split(".Ss What clients are told\n")[1].split(".El\n")[0]
    assert set(re.findall(r"^\.It (.*)$", described, re.M)) == said


@pytest.mark.parametrize("page", sorted(MAN.iterdir()), ids=lambda p: p.name)
def test_a_page_has_no_mistakes(page):
    subprocess.run(["mandoc", "-Tlint", "-Wwarning", page], check=True, timeout=TEST_SECONDS)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda p: p.name)
def test_bash_offers_the_options(program):
    script = f"""
        PATH={BROKER.parent}:$PATH
        source {COMPLETION}/broker.bash
        COMP_WORDS=({program.name} --) COMP_CWORD=1
        _broker {program.name} -- {program.name}
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    offered = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=TEST_SECONDS, check=True).stdout
    assert set(offered.split()) == shown_options(program)


def test_bash_offers_files_for_the_configuration(tmp_path):
    (tmp_path / "some.conf").touch()
    script = f"""
        cd {tmp_path}
        source {COMPLETION}/broker.bash
        _broker broker so -c
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    offered = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=TEST_SECONDS, check=True).stdout
    assert offered.split() == ["some.conf"]


def test_zsh_offers_the_options():
    """Its file is a list of its own; that zsh understands it needs a zsh, that it is complete does not."""
    text = (COMPLETION / "broker.zsh").read_text()
    assert text.startswith("#compdef broker")
    assert set(re.findall(r"--[a-z]+(?:-[a-z]+)*", text)) == shown_options(BROKER)
    subprocess.run(["zsh", "-n", COMPLETION / "broker.zsh"], check=True, timeout=TEST_SECONDS)


@pytest.mark.parametrize("page", [p for p in sorted(ROOT.rglob("*.md")) if "build" not in p.relative_to(ROOT).parts],
                         ids=lambda p: str(p.relative_to(ROOT)))
def test_a_page_links_to_what_is_there(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_maintainer_comes_from_one_place():
    assert "<" in (ROOT / "deploy/deb/maintainer").read_text()
    assert "\nMaintainer: @maintainer@\n" in (ROOT / "deploy/deb/control").read_text()
    assert " -- $maintainer  $(date" in (ROOT / "deploy/deb/build").read_text()


def test_the_version_comes_from_one_place():
    assert run("--version").stdout == f"broker {(ROOT / 'VERSION').read_text().strip()}\n"


def test_what_is_installed_is_what_was_built(tmp_path):
    """make install below a folder, twice; a changed configuration is kept; uninstall leaves just that."""

    def make(target):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
        variant = BROKER.parent.name
        subprocess.run(
            ["make", target, f"SAN={'' if variant == 'release' else variant}", f"DESTDIR={tmp_path}", "PREFIX=/usr"],
            cwd=ROOT, env=environment, check=True, capture_output=True, timeout=TEST_SECONDS,
        )  # fmt: skip

    def files():
        return {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}

    config = "usr/etc/broker/broker.conf"
    make("install")
    assert files() >= {
        "usr/bin/broker", "usr/share/man/man1/broker.1", "usr/share/man/man5/broker.conf.5", config,
        "usr/share/bash-completion/completions/broker", "usr/share/zsh/site-functions/_broker",
    }  # fmt: skip
    (tmp_path / config).write_text("# mine\n")
    make("install")
    assert (tmp_path / config).read_text() == "# mine\n"
    make("uninstall")
    assert files() == {config}
