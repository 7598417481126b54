"""What deploy/ec2 can show without an account: the template and user data hold together, the bench reports."""

import json
import os
import re
import subprocess

from harness import BROKER, ROOT, release_only

EC2 = ROOT / "deploy/ec2"


def test_the_template_is_valid_and_takes_the_user_data_as_the_readme_says():
    command = re.search(r'^sed .*?template\.json', (EC2 / "README.md").read_text(), re.M).group()
    made = subprocess.run(["bash", "-c", command.split(">")[0]], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    template = json.loads(made.stdout)
    decoded = subprocess.run(["base64", "-d"], input=template["UserData"], capture_output=True, text=True, check=True, timeout=60)
    assert decoded.stdout == (EC2 / "user-data").read_text()
    assert len(template["UserData"]) < 16384 * 4 / 3, "the most that an instance takes"
    assert template["MetadataOptions"]["HttpTokens"] == "required"


def test_what_the_user_data_changes_is_in_the_configuration():
    assert '"127.0.0.1:8080"' in (ROOT / "config/broker.conf").read_text()


@release_only
def test_the_bench_reports_each_reactor(start):
    broker = start(reactors=2)
    reported = subprocess.run(
        [EC2 / "bench", "local", broker.address(), "4", "--subscribers", "20", "--bytes", "128", "--window", "32"],
        env={**os.environ, "PATH": f"{BROKER.parent}:{os.environ['PATH']}", "BROKER_PID": str(broker.pid)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert reported.returncode == 0, reported.stderr
    shown = re.findall(r"^(reactor-\d)\s+\d+(?:\s+[\d.]+%){3}$", reported.stdout, re.M)
    assert shown == ["reactor-0", "reactor-1"]
    per_cpu_second = int(re.search(r"^all\s+[\d.]+%\s+(\d+)$", reported.stdout, re.M).group(1))
    delivered = int(re.search(r"^delivered (\d+)/s; latency p50 [\d.]+ ms", reported.stdout, re.M).group(1))
    assert per_cpu_second > delivered / 2, "two reactors have two seconds of CPU in each second"
