"""What deploy/ec2 can show without an account: the template and user data hold together, the bench reports."""

import json
import os
import re
import socket
import subprocess

import pytest

from harness import BROKER, ROOT, TEST_SECONDS, release_only

EC2 = ROOT / "deploy/ec2"


def test_the_template_is_valid_and_takes_the_user_data_as_the_readme_says():
    command = re.search(r'^sed .*?template\.json', (EC2 / "README.md").read_text(), re.M).group()
    made = subprocess.run(["bash", "-c", command.split(">")[0]], cwd=ROOT, capture_output=True, text=True, check=True, timeout=TEST_SECONDS)
    template = json.loads(made.stdout)
    decoded = subprocess.run(["base64", "-d"], input=template["UserData"], capture_output=True, text=True, check=True, timeout=TEST_SECONDS)
    assert decoded.stdout == (EC2 / "user-data").read_text()
    assert len(template["UserData"]) < 16384 * 4 / 3, "the most that an instance takes"
    assert template["MetadataOptions"]["HttpTokens"] == "required"


def test_what_the_user_data_changes_is_in_the_configuration():
    assert '"127.0.0.1:8080"' in (ROOT / "config/broker.conf").read_text()


def bench(*arguments, **env):
    ran = subprocess.run(
        [EC2 / "bench", *arguments], capture_output=True, text=True, timeout=TEST_SECONDS,
        env={**os.environ, "PATH": f"{BROKER.parent}:{os.environ['PATH']}", **env},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@release_only
def test_the_bench_reports_each_reactor(start):
    broker = start(reactors=2)
    reported = bench("local", broker.address(), "4", "--subscribers", "20", "--bytes", "128", "--window", "32", BROKER_PID=str(broker.pid))
    shown = re.findall(r"^(reactor-\d)\s+\d+(?:\s+[\d.]+%){3}$", reported, re.M)
    assert shown == ["reactor-0", "reactor-1"]
    per_cpu_second = int(re.search(r"^all\s+[\d.]+%\s+(\d+)$", reported, re.M).group(1))
    delivered = int(re.search(r"^delivered (\d+)/s; latency p50 [\d.]+ ms", reported, re.M).group(1))
    assert per_cpu_second > delivered / 2, "two reactors have two seconds of CPU in each second"


@release_only
def test_the_bench_says_what_more_reactors_bring():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % free.getsockname()[1]
    rows = [list(map(int, row)) for row in re.findall(r"^(\d+) +(\d+) +(\d+) +(\d+)%$", bench("--scaling", "local", address, "1"), re.M)]
    assert [row[0] for row in rows] == [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n <= int(subprocess.check_output("nproc"))]
    assert rows[0][1] == rows[0][2] > 0 and rows[0][3] == 100
    for n, delivered, each, percent in rows:
        assert abs(delivered / n - each) <= 1 and abs(100 * each / rows[0][2] - percent) <= 1
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.split(":")[0], int(address.split(":")[1])))
