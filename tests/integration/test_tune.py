"""Tuning a host: the script on made-up machines, and the kernel settings."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from harness import ROOT, TEST_SECONDS

TUNE = ROOT / "deploy/tune.sh"
SYSCTL = ROOT / "deploy/sysctl.d/60-broker.conf"

ETHTOOL = """#!/bin/sh
case $1 in
-l) printf 'Channel parameters for %s:\\nPre-set maximums:\\nCombined:\\t{most}\\nCurrent hardware settings:\\nCombined:\\t%s\\n' \
\t"$2" "$(cat {state})" ;;
-L) test "$3" = combined && echo "$4" >{state}; test ! -e {state}.deadly || kill -KILL $PPID ;;
*) exit 1 ;;
esac
"""


class Machine:
    """Files below a folder, and an ethtool, for a card with some queues and eight cpus."""

    def __init__(self, directory, queues, most, names):
        self.root = directory / "root"
        self.queues = directory / "queues"
        self.queues.write_text(f"{queues}\n")
        tool = directory / "bin/ethtool"
        tool.parent.mkdir()
        tool.write_text(ETHTOOL.format(state=self.queues, most=most))
        tool.chmod(0o755)
        self.path = f"{tool.parent}:{os.environ['PATH']}"
        self.state = directory / "state"
        self.put("proc/net/route", "Iface\tDestination\tGateway\nens5\t0000100A\t0\nens5\t00000000\t0100100A\n")
        lines = ["           CPU0       CPU1"]
        for number, name in enumerate(names, 30):
            self.put(f"sys/class/net/ens5/device/msi_irqs/{number}", "msix\n")
            self.put(f"proc/irq/{number}/smp_affinity_list", "0-7\n")
            lines.append(f" {number}:  1  0  PCI-MSIX-0000:00:05.0  {number}-edge  {name}")
        self.put("proc/interrupts", "\n".join([*lines, " 99:  1  0  PCI-MSIX-0000:00:06.0  0-edge  other-3\n"]))
        for q in range(queues):
            self.put(f"sys/class/net/ens5/queues/rx-{q}/rps_cpus", "00000000,00000000\n")
            self.put(f"sys/class/net/ens5/queues/tx-{q}/xps_cpus", "00000000,00000000\n")
        for cpu in range(8):
            self.put(f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor", "powersave\n")
        self.put("proc/sys/net/core/somaxconn", "128\n")
        self.put("proc/sys/net/core/wmem_max", "4194304\n")

    def put(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def get(self, path):
        return (self.root / path).read_text().strip()

    def everything(self):
        files = {str(p): p.read_text() for p in self.root.rglob("*") if p.is_file()}
        return {**files, "queues": self.queues.read_text()}

    def tune(self, *arguments, code=0):
        ended = subprocess.run(
            [TUNE, "--root", self.root, "--state", self.state, *arguments],
            env={**os.environ, "PATH": self.path}, capture_output=True, text=True, timeout=TEST_SECONDS,
        )  # fmt: skip
        assert ended.returncode == code, ended.stdout + ended.stderr
        return ended.stdout + ended.stderr


@pytest.fixture
def machine(tmp_path):
    def make(queues, most=8):
        return Machine(tmp_path, queues, most, ["ena-mgmnt@pci:0000:00:05.0"] + [f"ens5-Tx-Rx-{q}" for q in range(queues)])

    return make


def test_a_dry_run_is_the_default_says_why_and_changes_nothing(machine):
    m = machine(queues=2)
    before = m.everything()
    said = m.tune("--cpus", "0,2,4,6")
    assert said == m.tune("--cpus", "0,2,4,6", "--dry-run").replace("--dry-run", "")
    assert m.everything() == before and not m.state.exists()
    assert "ethtool -L ens5 combined 4 (now 2)" in said
    assert "scaling_governor: powersave -> performance" in said
    assert re.search(r"somaxconn: 128 -> 4096\n +The listeners ask", said)
    assert "wmem_max" not in said, "what is right already is not spoken of"
    changes = len(re.findall(r"->|ethtool -L", said))
    assert f"{changes} changes; tune.sh --apply" in said


def test_applied_each_reactor_has_its_queue_and_undone_all_is_as_before(machine):
    m = machine(queues=4)
    before = m.everything()
    m.tune("--apply", "--cpus", "1,3,5,7", "--interface", "ens5")
    assert m.get("proc/irq/30/smp_affinity_list") == "0-7", "the card's management interrupt"
    assert [m.get(f"proc/irq/{n}/smp_affinity_list") for n in range(31, 35)] == ["1", "3", "5", "7"]
    assert [m.get(f"sys/class/net/ens5/queues/tx-{q}/xps_cpus") for q in range(4)] == ["2", "8", "20", "80"]
    assert m.get("sys/class/net/ens5/queues/rx-0/rps_cpus") == "00000000,00000000"
    assert m.get("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor") == "performance"
    assert m.get("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") == "powersave"
    assert m.get("proc/sys/net/core/somaxconn") == "4096"
    assert "nothing to change" in m.tune("--cpus", "1,3,5,7")
    assert "--undo first" in m.tune("--apply", "--cpus", "1,3,5,7", code=1)
    m.tune("--undo")
    assert m.everything() == before
    assert "nothing to undo" in m.tune("--undo", code=1)


def test_an_interrupted_run_can_be_undone(machine):
    m = machine(queues=2)
    before = m.everything()
    m.queues.with_suffix(".deadly").touch()
    m.tune("--apply", "--cpus", "0-3", code=-9)
    assert m.queues.read_text() == "4\n", "it was killed in the middle"
    assert "--undo first" in m.tune("--apply", "--cpus", "0-3", code=1)
    m.queues.with_suffix(".deadly").unlink()
    m.tune("--undo")
    assert m.everything() == before


def test_a_dry_run_reckons_with_the_queues_that_there_will_be(machine):
    said = machine(queues=2).tune("--cpus", "0-3")
    assert "combined 4 (now 2)" in said and "rps_cpus" not in said


def test_what_is_more_than_needed_is_not_lowered(machine):
    m = machine(queues=2)
    m.put("proc/sys/net/core/somaxconn", "65535\n")
    m.put("proc/sys/net/ipv4/tcp_slow_start_after_idle", "1\n")
    m.tune("--apply", "--cpus", "0,1")
    assert m.get("proc/sys/net/core/somaxconn") == "65535"
    assert m.get("proc/sys/net/ipv4/tcp_slow_start_after_idle") == "0"


def test_queues_go_as_far_as_the_card_can_and_software_does_the_rest(machine):
    m = machine(queues=1, most=2)
    before = m.everything()
    m.tune("--apply", "--cpus", "0-3", "--busy-poll")
    assert m.queues.read_text() == "2\n"
    assert m.get("sys/class/net/ens5/queues/rx-0/rps_cpus") == "f"
    m.tune("--undo")
    assert m.everything() == before


def test_masks_of_high_cpus_are_written_as_the_kernel_wants_them(machine):
    m = machine(queues=4)
    m.tune("--apply", "--cpus", "0,31,32,70")
    masks = [m.get(f"sys/class/net/ens5/queues/tx-{q}/xps_cpus") for q in range(4)]
    assert masks == ["1", "80000000", "1,00000000", "40,00000000,00000000"]


def test_the_cpus_are_those_of_brokers_plan(machine, tmp_path):
    m = machine(queues=2)
    plan = tmp_path / "bin/broker"
    plan.write_text("#!/bin/sh\nprintf 'x: valid\\nreactors: 2\\n  reactor 0: cpu 4 (core 4)\\n  reactor 1: cpu 6 (core 6)\\n'\n")
    plan.chmod(0o755)
    assert "2 reactors on cpus 4 6" in m.tune("-c", "any.conf")
    plan.write_text("#!/bin/sh\nexit 2\n")
    assert "says no" in m.tune("-c", "any.conf", code=1)


@pytest.mark.parametrize("arguments", [["--nonsense"], ["--cpus"], ["--interface", "eth9", "--cpus", "0"]], ids=" ".join)
def test_bad_arguments_change_nothing(machine, arguments):
    m = machine(queues=2)
    before = m.everything()
    m.tune(*arguments, "--apply" if "--cpus" in arguments[1:] else "--dry-run", code=1)
    assert m.everything() == before


def test_every_kernel_setting_has_a_reason_and_exists():
    lines = SYSCTL.read_text().split("\n\n", 1)[1].splitlines()
    settings = [(reason, setting) for reason, setting in zip(lines, lines[1:]) if re.match(r"-?[a-z]", setting)]
    assert len(settings) > 5
    for reason, setting in settings:
        assert reason.startswith("# ") and reason.endswith("."), setting
        optional, key, _ = re.fullmatch(r"(-?)([a-z0-9_.]+) = (\d+)", setting).groups()
        assert optional or Path("/proc/sys", key.replace(".", "/")).exists(), key
