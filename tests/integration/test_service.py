"""The broker as a service: what the service manager hears, the watchdog, and the unit file."""

import contextlib
import ctypes
import os
import queue
import re
import signal
import socket
import subprocess
import threading
import time

import pytest

from filters import under
from harness import FACTOR, PATIENCE, ROOT, TEST_SECONDS, at_most, release_only

UNIT = ROOT / "deploy/broker.service"


class Manager:
    """The other end of NOTIFY_SOCKET. It reads all the time, as systemd does: a broker waits in a full queue (of 10)."""

    def __init__(self, directory):
        self.path = str(directory / "notify")
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(self.path)
        self.heard = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        while message := self.socket.recv(4096):
            self.heard.put(message)

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)

    def environment(self, **more):
        """For preexec."""
        return lambda: os.environ.update(NOTIFY_SOCKET=self.path, **more)

    def hears(self, seconds=PATIENCE):
        """The next message; None: there was none."""
        try:
            message = self.heard.get(timeout=seconds)
        except queue.Empty:
            return None
        return dict(line.split("=", 1) for line in message.decode().splitlines())

    def forget(self):
        while self.hears(0):
            pass


@pytest.fixture
def manager(tmp_path):
    manager = Manager(tmp_path)
    yield manager
    manager.close()


def test_the_manager_hears_ready_reloading_and_stopping(start, manager):
    broker = start(reactors=2, preexec=manager.environment())
    assert manager.hears() == {"READY": "1"}
    begin = time.monotonic_ns() // 1000
    broker.configure(log_level="debug")
    broker.send_signal(signal.SIGHUP)
    reloading = manager.hears()
    assert reloading.pop("RELOADING") == "1"
    assert begin <= int(reloading.pop("MONOTONIC_USEC")) <= time.monotonic_ns() // 1000
    assert manager.hears() == {"READY": "1"}
    broker.configure(text="nonsense = 1\n")
    broker.send_signal(signal.SIGHUP)
    assert manager.hears()["RELOADING"] == "1"
    assert manager.hears() == {"READY": "1"}, "it goes on with the old configuration"
    broker.works()
    broker.stop()
    assert manager.hears() == {"STOPPING": "1"}
    assert manager.hears(0) is None, "and without WATCHDOG_USEC nothing else"


@contextlib.contextmanager
def halted(tid):
    """Stops one thread of another process, and no other (ptrace(2))."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
    seize, interrupt, detach, wall = 0x4206, 0x4207, 17, 0x40000000
    if ptrace(seize, tid, None, None) or ptrace(interrupt, tid, None, None):
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(tid, wall)
    try:
        yield
    finally:
        ptrace(detach, tid, None, None)


def reactors(broker):
    tasks = f"/proc/{broker.pid}/task"
    names = {tid: open(f"{tasks}/{tid}/comm").read() for tid in os.listdir(tasks)}
    return sorted(int(tid) for tid, name in names.items() if name.startswith("reactor"))


@pytest.mark.parametrize("which", [0, 2])
def test_the_watchdog_is_fed_only_while_every_reactor_turns(start, manager, which):
    usec = int(400_000 * FACTOR)
    broker = start(reactors=3, preexec=manager.environment(WATCHDOG_USEC=str(usec)))
    assert manager.hears() == {"READY": "1"}
    begin = time.monotonic()
    for _ in range(6):
        assert manager.hears(at_most(0.4)) == {"WATCHDOG": "1"}
    assert time.monotonic() - begin > 4 * usec / 2e6, "not more often than twice in the time"
    with halted(reactors(broker)[which]):
        time.sleep(usec / 1e6)  # for the round that was under way
        manager.forget()
        assert manager.hears(3 * usec / 1e6) is None, "the other reactors and the main thread run"
    assert manager.hears() == {"WATCHDOG": "1"}
    broker.works()


def test_the_watchdog_is_fed_while_the_broker_drains(start, manager):
    usec = int(400_000 * FACTOR)
    broker = start(reactors=2, drain_seconds=60, preexec=manager.environment(WATCHDOG_USEC=str(usec)))
    slow = broker.subscribe("t", rcvbuf=4096)
    slow.stall()
    broker.publish("t", *[b"x" * 1000] * 5000)
    broker.send_signal(signal.SIGTERM)
    broker.says("draining")
    broker.loop.sleep(0.2)
    assert broker.running()
    manager.forget()
    assert manager.hears(at_most(0.4)) == {"WATCHDOG": "1"}
    assert manager.hears(at_most(0.4)) == {"WATCHDOG": "1"}
    assert slow.rest()[-1] == b"ERROR draining"
    broker.finish()


# --- the unit ----------------------------------------------------------------------------------------


def test_the_units_exposure_is_at_most_2():
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager", UNIT],
        capture_output=True, text=True, timeout=TEST_SECONDS,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout + judged.stderr
    assert float(re.search(r"exposure level for \S+: ([0-9.]+)", judged.stdout).group(1)) <= 2.0


def test_the_unit_has_no_mistakes(tmp_path):
    unit = tmp_path / "broker.service"
    unit.write_text(UNIT.read_text().replace("/usr/bin/broker", "/bin/true"))
    judged = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=TEST_SECONDS
    )
    assert judged.returncode == 0, judged.stderr
    assert "broker.service" not in judged.stderr, judged.stderr


def test_the_unit_gives_a_drain_the_time_it_needs():
    limit = int(re.search(r"^TimeoutStopSec=(\d+)$", UNIT.read_text(), re.M).group(1))
    drain = int(re.search(r"^drain_seconds\s*=\s*(\d+)", (ROOT / "config/broker.conf").read_text(), re.M).group(1))
    assert limit > drain


def calls_in(sets):
    """The system calls in a set of systemd's, "@system-service"; sets hold others."""
    listed = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager", *sets], capture_output=True, text=True, timeout=TEST_SECONDS)
    names = re.findall(r"^    (@?[a-z0-9_-]+)$", listed.stdout, re.M)
    nested = [n for n in names if n.startswith("@")]
    return {n for n in names if not n.startswith("@")} | (calls_in(nested) if nested else set())


@release_only
def test_the_units_filter_lets_the_broker_do_all_it_does(start):
    """What is refused is mostly not fatal, and easily missed: that the broker could no longer filter calls itself was."""
    allowed = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", UNIT.read_text(), re.M):
        names = line.lstrip("~").split()
        sets = [n for n in names if n.startswith("@")]
        calls = {n for n in names if not n.startswith("@")} | (calls_in(sets) if sets else set())
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    assert "io_uring_setup" in allowed and "ptrace" not in allowed
    # The manager allows these to everybody.
    broker = start(reactors=2, preexec=under(allowed | calls_in(["@default"])))
    assert "sandbox: rings restricted, system calls filtered" in broker.log()
    assert "cannot be pinned" not in broker.log()
    broker.works()
