"""Patterns through the line protocol and HTTP, and topics that pass."""

import http.client

import pytest

from harness import Broker


@pytest.fixture(params=[1, 3], ids=["1-reactor", "3-reactors"])
def broker(request, tmp_path):
    broker = Broker(
        tmp_path,
        reactors=request.param,
        listen={"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}},
        topic={"pass.>": {"passing": True}, "o.>": {"order": "section"}},
    )
    yield broker
    broker.close()


def get(broker, path, accept="text/event-stream"):
    host, port = broker.address().rsplit(":", 1)
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    connection.request("GET", path, headers={"Accept": accept})
    return connection.getresponse()


def test_each_message_comes_behind_its_topic(broker):
    rest, level, all_of_them = (broker.subscribe(p) for p in ("a.>", "a.*", ">"))
    broker.publish("a.1", b"one", b"two")
    broker.publish("a.1.x", b"three")
    broker.publish("b", b"four")
    assert rest.take(3) == [b"a.1 one", b"a.1 two", b"a.1.x three"]
    assert level.take(2) == [b"a.1 one", b"a.1 two"]
    assert all_of_them.take(4) == [b"a.1 one", b"a.1 two", b"a.1.x three", b"b four"]


def test_a_topic_that_is_there_is_found_by_a_new_pattern_and_lost_by_one_that_ends(broker):
    publisher = broker.say(b"PUBLISH a.b\r\n").ok()
    publisher.send_lines(b"nobody")
    broker.eventually(published=1)
    first = broker.subscribe("*.b")
    publisher.send_lines(b"one")
    assert first.take(1) == [b"a.b one"]
    second = broker.subscribe("a.*")
    first.close()
    broker.eventually(subscriptions=1)
    publisher.send_lines(b"two")
    assert second.take(1) == [b"a.b two"]


def test_a_dashboard_begins_with_the_newest_of_each_topic(broker):
    for i in range(50):
        broker.publish(f"d.{i}", b"old", b"new%d" % i)
    broker.publish("e", b"no")
    client = broker.subscribe("d.*", "LAST 1")
    assert sorted(client.take(50)) == sorted(b"d.%d new%d" % (i, i) for i in range(50))
    broker.publish("d.7", b"live")
    assert client.take(1) == [b"d.7 live"]


@pytest.mark.parametrize("replay", ["LAST 2", "LAST 0", "FROM 0123456789abcdef:1"])
def test_of_patterns_there_is_no_more_of_the_past(broker, replay):
    assert broker.say(f"SUBSCRIBE a.> {replay}\r\n".encode()).rest() == [b"ERROR malformed command"]


def test_events_are_named_after_their_topics(broker):
    broker.publish("a.old", b"before")
    events = get(broker, "/subscribe/a.%3E?last=1")
    assert events.status == 200 and events.getheader("Content-Type") == "text/event-stream"
    broker.publish("a.new", b"after")
    text = b""
    while b"after\n\n" not in text:
        text += events.read1()
    assert b"event: a.old\ndata: before\n\n" in text and b"event: a.new\ndata: after\n\n" in text
    assert b"id:" not in text


@pytest.mark.parametrize(
    "path, accept, status",
    [("/subscribe/a.*", "*/*", 406), ("/subscribe/a.*?last=2", "text/event-stream", 400), ("/subscribe/a.%3E.b", "text/event-stream", 400)],
)
def test_what_a_pattern_is_not_over_http(broker, path, accept, status):
    assert get(broker, path, accept).status == status


def test_what_passes_leaves_nothing_behind(broker):
    exact, pattern = broker.subscribe("_INBOX.me.1"), broker.subscribe("pass.*")
    broker.publish("_INBOX.me.1", b"answer")
    broker.publish("pass.x", b"gone")
    assert exact.take(1) == [b"answer"] and pattern.take(1) == [b"pass.x gone"]
    for topic in ("_INBOX.me.1", "pass.x"):
        assert get(broker, f"/topic/{topic}", "*/*").status == 404
    assert broker.stats()["topics"] == 0


def test_all_topics_of_a_section_have_one_order(broker):
    client = broker.subscribe("o.>")
    for i in range(40):
        broker.publish(f"o.{i % 7}", b"%d" % i)
    assert client.take(40) == [b"o.%d %d" % (i % 7, i) for i in range(40)]
