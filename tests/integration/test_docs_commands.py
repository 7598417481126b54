"""What the pages tell people to type works.

A fenced block whose first line says `run` is run, in the order of its page, against a broker that listens where a
default one does, with every door open, in a network of its own. Lines that wait for messages run beside those that
follow, until the block is over; `expect=word` is what they, or the block, must have said by then. A block of commands
that cannot be run here (it installs, or takes an hour) says `by-hand`; `conf` is looked at by broker --check.
"""

import fcntl
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import BROKER, FACTOR, NPM, ROOT, TEST_SECONDS, release_only

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\S*)[ ]*([^\n`]*)\n(.*?)^```$", re.M | re.S)
WAITS = re.compile(r"curl -N|redis-cli.* P?SUBSCRIBE|mosquitto_sub|nats sub|nc ")
COMMANDS = re.compile(r"^(?:sudo |\$ )?(?:curl|nc|nats|redis-cli|mosquitto_\w+|broker|broker-load|make|docker|git|apt|pip|npm|python3?|node|bpftrace|taskset)\b", re.M)
CONF = """
reactors = 2
placement = "none"
listen "main"  { address = "127.0.0.1:8080" protocols = { "line", "http" } }
listen "nats"  { address = "127.0.0.1:4222" protocols = { "nats" } }
listen "redis" { address = "127.0.0.1:6379" protocols = { "resp" } }
listen "mqtt"  { address = "127.0.0.1:1883" protocols = { "mqtt" } }
"""


def blocks(page):
    """[(line number, language, words behind it, text)]"""
    text = page.read_text()
    return [(text.count("\n", 0, m.start()) + 1, m[1], m[2].split(), m[3]) for m in FENCE.finditer(text)]


RUN = [(page, *block) for page in PAGES for block in blocks(page) if "run" in block[2]]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_a_block_of_commands_says_whether_it_is_run(page):
    for line, language, words, text in blocks(page):
        if language in ("sh", "") and COMMANDS.search(text):
            assert {"run", "by-hand"} & set(words), f"{page.name}:{line}: run, or by-hand?"


@pytest.mark.parametrize("page", [p for p in PAGES if any(b[1] == "conf" for b in blocks(p))], ids=lambda p: p.name)
def test_a_configuration_on_a_page_is_one(page, tmp_path):
    for line, language, _, text in blocks(page):
        if language == "conf":
            path = tmp_path / "broker.conf"
            path.write_text(text)
            done = subprocess.run([BROKER, "-c", path, "--check"], capture_output=True, text=True, timeout=TEST_SECONDS)
            assert done.returncode == 0, f"{page.name}:{line}: {done.stderr}"


@release_only
def test_every_command_that_pages_tell_people_to_type_works(tmp_path):
    assert len(RUN) > 18, "the pages were read"
    apart = ["unshare", "--net", "--pid", "--fork", "--mount-proc", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    done = subprocess.run([*apart, sys.executable, __file__, tmp_path], capture_output=True, text=True, timeout=TEST_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr


# ---- in a network of its own -------------------------------------------------------------------------


def lift_loopback():
    with socket.socket() as s:
        fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up, running


def script_of(language, text, directory):
    """The command that runs a block that is no shell's."""
    path = directory / {"python": "block.py", "js": "block.mjs"}[language]
    path.write_text(text)
    return ["/usr/bin/python3", path] if language == "python" else ["node", path]


def commands_of(text):
    text = re.sub(r"\\\n\s*", " ", text)
    for line in text.splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield re.sub(r"^broker-load\b", "broker-load --duration 0.3 --warmup 0 --quiet", line)


class Block:
    """One that is run, with what waits beside it."""

    def __init__(self, directory):
        self.directory, self.beside, self.said = directory, [], ""

    def start(self, command):
        log = self.directory / f"beside.{len(self.beside)}"
        with open(log, "wb") as out:
            process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, cwd=self.directory,
                                       start_new_session=True)
        self.beside.append((process, log))
        # Most say something when they are there.
        deadline = time.monotonic() + 0.4 * FACTOR
        while log.stat().st_size == 0 and time.monotonic() < deadline:
            time.sleep(0.02)

    def run(self, command):
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, cwd=self.directory, timeout=20 * FACTOR)
        self.said += done.stdout + done.stderr
        assert done.returncode == 0, f"{command}\n{self.said}"

    def all_said(self):
        return self.said + "".join(log.read_text(errors="replace") for _, log in self.beside)

    def finish(self, expected):
        deadline = time.monotonic() + 5 * FACTOR
        while not all(word in self.all_said() for word in expected):
            assert time.monotonic() < deadline, f"it has not said {expected}: {self.all_said()}"
            time.sleep(0.05)
        for process, _ in self.beside:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def run_block(language, words, text, directory):
    block = Block(directory)
    expected = [word.removeprefix("expect=") for word in words if word.startswith("expect=")]
    if language in ("python", "js"):
        command = script_of(language, text, directory)
        block.start(command) if "beside" in words else block.run(command)
    for line in commands_of(text) if language == "sh" else ():
        command = ["bash", "-euo", "pipefail", "-c", line]
        block.start(command) if WAITS.match(line) else block.run(command)
    block.finish(expected)


def main(directory):
    lift_loopback()
    os.environ["PATH"] = f"{BROKER.parent}:{os.environ['PATH']}"
    (directory / "broker.conf").write_text(CONF)
    (directory / "node_modules").symlink_to(NPM / "node_modules")
    broker = subprocess.Popen([BROKER, "-c", directory / "broker.conf"], stderr=(directory / "log").open("w"))
    while " ready: " not in (directory / "log").read_text():
        assert broker.poll() is None, (directory / "log").read_text()
        time.sleep(0.02)
    failed = 0
    for page, line, language, words, text in RUN:
        try:
            run_block(language, words, text, directory)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            failed += 1
            print(f"{page.name}:{line}: {error}")
    broker.terminate()
    assert broker.wait(20 * FACTOR) == 0
    assert failed == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
