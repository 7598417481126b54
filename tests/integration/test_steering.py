"""engine.steer = "cpu": a connection goes to the reactor on the cpu that its first packet arrives on."""

import os
import re

import pytest

from harness import STATS


@pytest.fixture
def pinned():
    """Runs this thread on one cpu; on loopback packets arrive on the cpu of who sends them."""
    everywhere = os.sched_getaffinity(0)
    yield lambda cpu: os.sched_setaffinity(0, {cpu})
    os.sched_setaffinity(0, everywhere)


def connections(broker):
    """By reactor."""
    since = broker.log_size()
    broker.loop.wait(lambda: broker.totals(broker.log(since)) is not None, "statistics of every reactor")
    newest = {}
    for line in STATS.findall(broker.log(since)):
        newest[int(re.search(r"reactor=(\d+)", line)[1])] = int(re.search(r" connections=(\d+)", line)[1])
    return [n for _, n in sorted(newest.items())]


def test_connections_follow_their_packets(start, pinned):
    cpus = sorted(os.sched_getaffinity(0))[:2]
    broker = start(reactors=len(cpus), placement="threads", engine={"steer": "cpu"})
    assert "connections go to the reactor on the cpu" in broker.log()
    placed = [int(cpu) for cpu in re.search(r"on cpus ([\d ]+);", broker.log())[1].split()]
    expected = [0] * len(cpus)
    for reactor, cpu in enumerate(placed):
        pinned(cpu)
        for i in range(10 + reactor):
            broker.subscribe(f"t.{i}")
            expected[reactor] += 1
    assert connections(broker) == expected
    broker.works()
    broker.stop()


@pytest.mark.parametrize("config", [{"placement": "none"}, {"reactors": 2 * len(os.sched_getaffinity(0))}], ids=str)
def test_without_a_cpu_for_each_reactor_they_are_spread_evenly_and_it_is_said(start, config):
    broker = start(**{"reactors": 2, "engine": {"steer": "cpu"}, **config})
    broker.says("WARN.*engine.steer has no effect.*a cpu each")
    broker.subscribe_many(["t"] * 64)
    assert all(connections(broker))
    broker.works()


def test_it_is_not_the_default(start):
    broker = start(reactors=2)
    assert "their packets arrive" not in broker.log()


def test_a_unix_socket_is_no_obstacle(start, tmp_path):
    unix = {"address": f"unix:{tmp_path}/socket", "protocols": ["line"]}
    start(reactors=2, placement="threads", engine={"steer": "cpu"}, listen={"u": unix}).works()
