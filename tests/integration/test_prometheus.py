"""/metrics in both of its forms, and what is shipped for those who collect them: a real Prometheus scrapes a real broker."""

import json
import re
import socket
import subprocess
import time
import urllib.parse
import urllib.request

import pytest
from harness import PATIENCE, ROOT, TEST_SECONDS
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as families

LISTEN = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}
RULES = ROOT / "deploy/prometheus/broker.yml"
DASHBOARD = ROOT / "deploy/grafana/broker.json"


def scrape(broker, accept="text/plain"):
    request = urllib.request.Request(f"http://{broker.address()}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
        return answer.headers["Content-Type"], answer.read().decode()


def samples(parsed):
    return {(s.name, *sorted(s.labels.items())): s.value for family in parsed for s in family.samples}


def test_openmetrics_says_the_same_to_those_who_ask_for_it(start):
    broker = start(reactors=2, listen=LISTEN)
    broker.publish("a", b"x")
    kind, text = scrape(broker, "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1")
    assert kind.startswith("application/openmetrics-text; version=1.0.0") and text.endswith("# EOF\n")
    other, plain = scrape(broker)
    assert other.startswith("text/plain") and "# EOF" not in plain
    assert samples(openmetrics(text)).keys() == samples(families(plain)).keys()


def test_totals_are_the_sums_of_the_reactors_without_their_label(start):
    parsed = {}
    for how in ("reactors", "totals"):
        broker = start(reactors=3, listen=LISTEN, metrics=how)
        for i in range(9):
            broker.publish(f"topic.{i}", b"x")
        parsed[how] = samples(families(scrape(broker)[1]))
    assert not any("reactor" in dict(key[1:]) for key in parsed["totals"])
    assert {(name, *(label for label in labels if label[0] != "reactor")) for name, *labels in parsed["reactors"]} == parsed["totals"].keys()
    assert parsed["totals"]["broker_messages_published_total",] == 9
    assert sum(v for k, v in parsed["reactors"].items() if k[0] == "broker_messages_published_total") == 9


class Prometheus:
    def __init__(self, tmp_path, targets):
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.address = "127.0.0.1:%d" % free.getsockname()[1]
        config = tmp_path / "prometheus.yml"
        config.write_text(
            json.dumps(
                {
                    "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                    "rule_files": [str(RULES)],
                    "scrape_configs": [{"job_name": "broker", "static_configs": [{"targets": targets}]}],
                }
            )
        )
        self.log = open(tmp_path / "prometheus.log", "wb")
        command = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={tmp_path}/data", f"--web.listen-address={self.address}"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)

    def get(self, path, **query):
        with urllib.request.urlopen(f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(query)}", timeout=PATIENCE) as answer:
            return json.loads(answer.read())["data"]

    def query(self, expression):
        return self.get("query", query=expression)["result"]

    def end(self):
        self.process.kill()
        self.process.wait()
        self.log.close()


@pytest.fixture
def prometheus(tmp_path):
    running = []

    def run(targets):
        running.append(Prometheus(tmp_path, targets))
        return running[-1]

    yield run
    for p in running:
        p.end()


def expressions():
    dashboard = json.loads(DASHBOARD.read_text())
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "10s").replace("$instance", ".*")


@pytest.mark.parametrize("how", ["reactors", "totals"])
def test_every_query_of_the_dashboard_finds_something(start, prometheus, how):
    broker = start(reactors=2, listen=LISTEN, metrics=how)
    subscriber, publisher = broker.subscribe("t"), broker.publisher("t")
    collector = prometheus([broker.address()])
    missing, deadline, n = dict.fromkeys(expressions()), time.monotonic() + PATIENCE, 0
    assert len(missing) > 20
    while missing:
        assert time.monotonic() < deadline, f"nothing is found by {missing}"
        publisher.send_lines(*[b"message %d" % i for i in range(n, n + 10)])
        assert subscriber.take(10)
        n += 10
        broker.loop.sleep(0.2)
        try:
            results = {key: collector.query(key[1]) for key in missing}
        except OSError:
            continue  # it is still starting
        missing = {key: None for key, found in results.items() if not found}


def test_the_rules_hold_and_none_of_them_fires_for_a_broker_that_is_well(start, prometheus):
    checked = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, timeout=TEST_SECONDS)
    assert checked.returncode == 0, checked.stderr
    broker = start(reactors=2, listen=LISTEN)
    collector = prometheus([broker.address()])

    def rules():
        try:
            groups = collector.get("rules")["groups"]
        except OSError:
            return []
        found = [rule for group in groups for rule in group["rules"]]
        return found if all(rule["health"] == "ok" for rule in found) else []

    broker.loop.wait(lambda: len(rules()) > 5 and collector.query("broker_reactors"), "rules that have been evaluated")
    assert [rule["name"] for rule in rules() if rule["state"] != "inactive"] == []


def test_what_dashboard_and_rules_speak_of_is_there(start):
    broker = start(reactors=1, listen=LISTEN)
    there = {s.name for family in families(scrape(broker)[1]) for s in family.samples} | {"up"}
    spoken = set(re.findall(r"\bbroker_\w+|\bup\b(?=\{)", DASHBOARD.read_text() + RULES.read_text()))
    assert len(spoken) > 15 and spoken - there == set()
