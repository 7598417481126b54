"""What an operator asks all reactors about: pages of topics, who is connected, who is behind."""

import time

import pytest

from harness import PATIENCE
from test_http import open  # noqa: F401 (a fixture)

LISTENING = {"reactors": 2, "listen": {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}}


@pytest.fixture
def ask(open):
    broker = open(**LISTENING)
    client = broker.http()

    def ask(target, status=200):
        answer = client.ask("GET", target)
        assert answer.status == status, answer.body
        return answer.json

    ask.broker = broker
    return ask


def names(page):
    return [t["topic"] for t in page["topics"]]


def until(ask, target, done):
    deadline = time.monotonic() + PATIENCE
    while not done(answer := ask(target)):
        assert time.monotonic() < deadline, answer
        time.sleep(0.05)
    return answer


def test_pages_come_in_order_and_are_all_of_them_together(ask):
    wanted = sorted(f"p.{i}.{'x' * (i % 7)}y" for i in range(57))
    for name in wanted:
        ask.broker.publish(name, b"m")
    pages, after = [], ""
    while True:
        page = ask(f"/topics?limit=10&after={after}")
        pages += names(page)
        assert len(page["topics"]) <= 10
        if not page["more"]:
            break
        after = page["topics"][-1]["topic"]
    assert pages == wanted


def test_a_topic_is_shown_with_what_its_home_and_its_subscribers_shards_know(ask):
    broker = ask.broker
    subscribers = [broker.subscribe("shown") for _ in range(3)]
    broker.publish("shown", b"one", b"two")
    (topic,) = until(ask, "/topics?pattern=shown", lambda page: page["topics"][0]["publishers"] == 0)["topics"]
    about = ask("/topic/shown")
    assert (topic["seq"], topic["messages"], topic["subscribers"]) == (2, 2, 3)
    assert f"{topic['epoch']}:{topic['seq']}" == about["head"] and topic["bytes"] == about["bytes"]
    until(ask, "/topics?pattern=shown", lambda page: page["topics"][0]["behind_bytes"] == 0)
    for subscriber in subscribers:
        subscriber.stall()
    publisher = broker.publisher("shown")
    publisher.send(b"%s\n" % (b"x" * 100_000) * 60)
    behind = until(ask, "/topics?pattern=shown", lambda page: page["topics"][0]["behind_bytes"] > 500_000)
    assert behind["topics"][0]["behind_bytes"] < 7_000_000
    clients = ask("/clients")
    assert len(clients["slowest"]) == 3
    for slow in clients["slowest"]:
        assert slow["topic"] == "shown" and slow["protocol"] == "line" and slow["bytes"] > 0 and slow["messages"] > 0
        assert slow["address"].startswith("127.0.0.1")
    assert [s["bytes"] for s in clients["slowest"]] == sorted((s["bytes"] for s in clients["slowest"]), reverse=True)


def test_what_is_not_asked_for_is_not_shown(ask):
    for name in ("a.b", "a.c.d", "b.b"):
        ask.broker.publish(name, b"m")
    ask.broker.subscribe("$private.x")
    assert names(ask("/topics")) == ["a.b", "a.c.d", "b.b"]
    assert names(ask("/topics?pattern=a.*")) == ["a.b"]
    assert names(ask("/topics?pattern=a.%3E")) == ["a.b", "a.c.d"]
    assert names(ask("/topics?glob=*b")) == ["a.b", "b.b"]
    assert names(ask("/topics?after=a.b&limit=1")) == ["a.c.d"]
    assert ask("/topics?pattern=a..b", 400)["error"] == "bad topic"
    for limit in ("0", "501", "x", ""):
        assert ask(f"/topics?limit={limit}", 400)["error"] == "malformed limit"


def test_clients_are_counted_by_protocol_and_user(ask):
    lines = [ask.broker.subscribe(f"c.{i}") for i in range(5)]
    kinds = {k["protocol"]: k for k in ask("/clients")["kinds"]}
    assert (kinds["line"]["connections"], kinds["line"]["subscriptions"]) == (len(lines), len(lines))
    assert kinds["http"]["connections"] == 1 and kinds["line"]["user"] == "anonymous"


def test_a_survey_goes_on_over_turns_while_topics_come_and_go(ask):
    """No turn takes longer for it, and what is there all the time is never missing."""
    broker = ask.broker
    stay = [f"stay.{i:04}" for i in range(400)]
    kept = broker.subscribe_many(stay)
    go = [broker.subscribe_many([f"go.{n}.{i}" for i in range(50)]) for n in range(6)]
    for client_set in go:
        for client in client_set:
            client.close()
        found, after = [], "stay"
        page = ask(f"/topics?pattern=stay.%3E&limit=500&after={after}")
        found += names(page)
        assert found == stay and not page["more"]
    assert len(kept) == len(stay)
