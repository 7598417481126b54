"""The sandbox: on by default, no obstacle to the broker's work, and off by its key."""

import os
import signal

import pytest

from harness import numbered


def filters(broker):
    """Each thread's seccomp mode and no_new_privs."""
    modes = set()
    for tid in os.listdir(f"/proc/{broker.pid}/task"):
        status = dict(
            line.split(":\t", 1) for line in open(f"/proc/{broker.pid}/task/{tid}/status").read().splitlines()
        )
        modes.add((int(status["Seccomp"]), status["NoNewPrivs"].strip()))
    return modes


def test_it_is_on_by_default_for_every_thread_and_said(start):
    broker = start(reactors=3)
    assert "INFO  sandbox: rings restricted, system calls filtered, files " in broker.log()
    assert filters(broker) == {(2, "1")}


@pytest.mark.parametrize("engine", [{}, {"sqpoll_idle_ms": 1}, {"linger_us": 200}], ids=str)
def test_traffic_reload_and_drain_work_within_it(start, tmp_path, engine):
    unix = {"address": f"unix:{tmp_path}/socket", "protocols": ["line"]}
    broker = start(reactors=2, engine=engine, listen={"main": {"address": "127.0.0.1:0", "protocols": ["line"]}, "u": unix})
    subscribers = broker.subscribe_many(["t"] * 20)
    messages = numbered(b"m", 5000) + [b"x" * 500_000]
    broker.publish("t", *messages)
    assert all(s.take(len(messages)) == messages for s in subscribers)
    since = broker.log_size()
    broker.configure(log_level="debug", limits={"connections": 500})
    broker.send_signal(signal.SIGHUP)
    broker.says("INFO.*reload.*in force", since)
    broker.works()
    broker.stop(dropped=0, late=0)
    assert not (tmp_path / "socket").exists()


def test_it_is_off_when_told_so(start):
    broker = start(reactors=2, sandbox=False)
    assert "INFO  sandbox: off" in broker.log()
    assert filters(broker) == {(0, "0")}
    broker.works()
