"""The broker's probes, their table in docs/TRACING.md and the scripts that use them are in step."""

import functools
import os
import re
import shutil
import subprocess
import sys

import pytest

from harness import BROKER, ROOT, TEST_SECONDS, release_only

TRACE = ROOT / "deploy/trace"
SCRIPTS = sorted(TRACE.glob("*.bt"))


def probes_built():
    """{"park": 1, ...}: the number of arguments of each probe in the binary."""
    notes = subprocess.run(["readelf", "-n", BROKER], capture_output=True, text=True, timeout=TEST_SECONDS, check=True).stdout
    found = re.findall(r"Provider: broker\n\s+Name: (\w+)\n.*\n\s+Arguments: (.*)", notes)
    return {name: len(re.findall(r"-?\d@\S+", arguments)) for name, arguments in found}


def probes_described():
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|(.*)\|$", (ROOT / "docs/TRACING.md").read_text(), re.M)
    rows = {name: [cell.strip() for cell in cells.split("|")] for name, cells in rows}
    return {name: len([c for c in cells if c]) for name, cells in rows.items() if len(cells) == 6}


def test_the_table_lists_every_probe_with_its_arguments():
    assert probes_described() == probes_built()
    assert len(probes_built()) >= 8, "the broker was built with sys/sdt.h"


def test_every_script_is_run():
    assert sorted(SHOWS) == [script.stem for script in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda p: p.name)
def test_a_script_uses_what_there_is_and_fits_on_a_screen(script):
    text = script.read_text()
    built = probes_built()
    for name, body in re.findall(r"^usdt:\*:broker:(\w+)\s*(\{.*?^\})", text, re.M | re.S):
        assert all(int(n) < built[name] for n in re.findall(r"\barg(\d)", body)), name
    assert len(text.splitlines()) <= 50
    assert script.stem in (ROOT / "docs/TRACING.md").read_text()


def test_the_tracepoints_are_those_of_every_kernel_that_the_broker_runs_on():
    """io_uring_submit_req was io_uring_submit_sqe before Linux 6.4."""
    used = {name for script in SCRIPTS for name in re.findall(r"^tracepoint:(\S+)", script.read_text(), re.M)}
    since_6_1 = {"io_uring:io_uring_complete", "io_uring:io_uring_queue_async_work", "io_uring:io_uring_submit_*",
                 "syscalls:sys_enter_io_uring_enter", "syscalls:sys_exit_io_uring_enter"}  # fmt: skip
    assert used == since_6_1


@functools.cache
def why_not():
    """Why nothing can be traced here, or None."""
    if os.geteuid() != 0:
        return "tracing needs root"
    if not shutil.which("bpftrace"):
        return "bpftrace is not installed"
    if not os.path.isdir("/sys/kernel/tracing/events") and subprocess.run(["mount", "-t", "tracefs", "tracefs", "/sys/kernel/tracing"], capture_output=True).returncode:
        return "there is no tracefs, and it cannot be mounted"
    program = f"uprobe:{BROKER}:main {{ }} tracepoint:io_uring:io_uring_complete {{ }} BEGIN {{ exit(); }}"
    tried = subprocess.run(["bpftrace", "-e", program], capture_output=True, text=True, timeout=TEST_SECONDS)
    return f"bpftrace cannot attach to programs and the kernel: {tried.stderr.strip()}" if tried.returncode else None


SHOWS = {
    "fanout": r"^@fan_out_us\[[01]\]:(?s:.)*^@send_us\[[01]\]:",
    "goodbyes": r"^\d\d:\d\d:\d\d  [01] +\d+ +close +closed$(?s:.)*^@closed\[closed\]: \d+$",
    "latency": r"^@us\[(26|9)\]:",
    "letters": r"^@letters_per_push\[[01]\]:(?s:.)*^@messages_per_block:",
    "submit": r"^@requests_per_enter\[reactor [01]\]:",
    "wakeups": r"^@wake_us\[[01]\]:",
    "workers": r"^@submitted\[(26|9)\]: \d+$",
}  # fmt: skip


def shows(start, script, tmp_path, env=None):
    """What a script shows of a second of a broker's work."""
    if why_not():
        pytest.skip(why_not())
    broker = start(reactors=2)
    subscribers = broker.subscribe_many([f"traced.{n}" for n in range(4)])
    with open(tmp_path / "shown", "w+") as shown:
        command = [TRACE / "run", script, str(broker.pid), "1"]
        trace = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=shown, stderr=subprocess.STDOUT)
        try:
            while trace.poll() is None:
                for n, subscriber in enumerate(subscribers):
                    broker.publish(f"traced.{n}", b"message")
                    assert subscriber.take(1) == [b"message"]
                broker.loop.sleep(0.01)
        finally:
            trace.kill()
            trace.wait()
        return (tmp_path / "shown").read_text()


@release_only
@pytest.mark.parametrize("script", SHOWS)
def test_a_script_shows_what_a_broker_does(start, script, tmp_path):
    text = shows(start, script, tmp_path)
    assert re.search(SHOWS[script], text, re.M), text


@release_only
def test_the_seconds_of_a_script_begin_when_it_sees_what_it_looks_for(start, tmp_path):
    """On a busy machine it may take longer than that to begin."""
    slow = tmp_path / "bpftrace"
    slow.write_text(f'#!/bin/sh\nsleep 1.5\nexec {shutil.which("bpftrace")} "$@"\n')
    slow.chmod(0o755)
    text = shows(start, "latency", tmp_path, {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"})
    assert re.search(SHOWS["latency"], text, re.M), text


@release_only
def test_scripts_see_a_broker_whose_processes_have_numbers_of_their_own():
    """As in a container: bpftrace sees those of the machine."""
    if why_not():
        pytest.skip(why_not())
    apart = ["unshare", "--pid", "--fork", "--mount-proc"]
    test = [__file__, "-k", "test_a_script_shows_what_a_broker_does and (submit or workers or fanout)"]
    done = subprocess.run([*apart, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *test],
                          capture_output=True, text=True, timeout=3 * TEST_SECONDS)  # fmt: skip
    assert done.returncode == 0 and "3 passed" in done.stdout, done.stdout + done.stderr
