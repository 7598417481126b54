"""Attacks at small sizes, each beside a pair of clients that loses nothing; `make storms` has the full ones, and times."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from harness import TEST_SECONDS

STORMS = Path(__file__).resolve().parents[1] / "storms"
sys.path.append(str(STORMS))

import clients  # noqa: E402
import storms  # noqa: E402

# A half-open peer takes CAP_NET_ADMIN to make: that one has a network of its own, below.
HERE = [s for s in storms.STORMS if s.name != "half-open" and not s.by_hand]


@pytest.mark.parametrize("storm", HERE, ids=lambda s: s.name)
def test_a_storm_breaks_nothing_and_a_pair_beside_it_loses_nothing(storm, start, tmp_path):
    broker = start(**storms.config_of(storm.config, tmp_path / "certificates"))
    pair = clients.Pair(broker.address(), rate=100) if storm.beside else None
    try:
        if pair:
            broker.loop.wait(lambda: broker.stats()["subscriptions"] == 1, "the pair is there")
        print({k: v for k, v in storm.run(broker, storm.small).items() if k != "span"})
        if pair:
            pair.finish()
        broker.works()
    finally:
        if pair:
            pair.kill()


def test_half_open_peers_are_found_by_keep_alive():
    """In a network namespace, where everybody may make half-open peers; root also in a chroot, where none has users."""
    unshare = ["unshare", "--net", *([] if os.geteuid() == 0 else ["--user", "--map-root-user"])]
    run = [sys.executable, STORMS / "run.py", "--small", "--rounds", "0", "--only", "half-open"]
    done = subprocess.run([*unshare, *run], capture_output=True, text=True, timeout=TEST_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all found" in done.stdout
