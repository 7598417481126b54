"""The line protocol, sentence by sentence."""

import itertools
import random
import re
import socket

import pytest

from harness import Broker, numbered

MESSAGE_LIMIT = 1 << 20
COMMAND_LIMIT = 4 << 10

TOPICS = {
    "few.>": {"history_messages": 4},
    "none.>": {"history_messages": 0},
    "small.>": {"history_bytes": "4K"},
    "bye.>": {"on_last_publisher": "bye"},
}


@pytest.fixture(scope="module", params=[1, 3], ids=["1-reactor", "3-reactors"])
def shared(request, tmp_path_factory):
    """A broker for the whole file, started again should a test have ended it."""
    held = []

    def get():
        if not held or not held[-1].running():
            held.append(Broker(tmp_path_factory.mktemp("broker"), reactors=request.param, topic=TOPICS))
        return held[-1]

    yield get
    for broker in held[:-1]:
        broker.kill()
    for broker in held[-1:]:
        broker.close()


@pytest.fixture
def broker(shared):
    broker = shared()
    yield broker
    broker.close_clients()
    assert broker.running(), f"the broker ended with {broker.process.returncode}\n{broker.log_tail()}"


serial = itertools.count(1)


@pytest.fixture
def topic():
    """A name that no other test uses."""
    return f"line.{next(serial)}"


def raw(client, size):
    """The next bytes as they came."""
    client.loop.wait(lambda: len(client.buffer) >= size, lambda: f"{size} bytes at {client}")
    return bytes(client.buffer)


def refused(broker, data, *reasons):
    """Sent at the beginning of a connection, it gets an error in one line, and a close."""
    lines = broker.say(data).rest()
    assert lines in [[b"ERROR " + reason] for reason in reasons]


def id_of_oldest(broker, topic):
    """(epoch, seq) of the oldest message in the history; no broker ever has the epoch 0."""
    client = broker.subscribe(topic, "FROM 0000000000000000:1")
    gap = client.take(1)[0]
    assert re.fullmatch(rb"GAP [0-9a-f]{16}:[1-9][0-9]*", gap)
    client.close()
    epoch, seq = gap.split()[1].decode().split(":")
    return epoch, int(seq)


def replay(broker, topic, more):
    """What a subscription replays, to its end."""
    client = broker.subscribe(topic, more)
    return client.leave()


# --- lines -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
def test_crlf_is_always_sent_and_a_bare_lf_accepted(broker, topic, end):
    subscriber = broker.say(b"SUBSCRIBE " + topic.encode() + end)
    assert raw(subscriber, 4) == b"OK\r\n"
    publisher = broker.say(b"PUBLISH " + topic.encode() + end)
    assert raw(publisher, 4) == b"OK\r\n"
    publisher.send(b"one" + end + end + b"two" + end + b"BYE" + end)
    assert raw(subscriber, 16) == b"OK\r\none\r\n\r\ntwo\r\n"
    assert publisher.rest() == [b"OK"]
    subscriber.send(b"BYE" + end)
    assert subscriber.rest() == [b"OK", b"one", b"", b"two"]


def test_an_empty_line_is_an_empty_message(broker, topic):
    subscriber = broker.subscribe(topic)
    broker.publish(topic, b"", b"", b"between", b"")
    assert subscriber.take(4) == [b"", b"", b"between", b""]


def test_messages_in_the_same_segment_as_publish_count(broker, topic):
    subscriber = broker.subscribe(topic)
    publisher = broker.say(f"PUBLISH {topic}\r\none\r\ntwo\nBYE\r\n")
    assert publisher.rest() == [b"OK"]
    assert subscriber.take(2) == [b"one", b"two"]


def test_a_line_is_a_message_whatever_it_holds(broker, topic):
    messages = [
        b"PUBLISH " + topic.encode(), b"SUBSCRIBE x", b"ERROR none", b"OK", b"GAP 1:1", b"BYE now", b" BYE", b"BYE ",
        b"bye", b"BYEBYE", b"GET / HTTP/1.1", b"\0", b"a\0b", b"\xff\xfe\x80", b"\t", b" ", bytes(range(14, 256)),
    ]  # fmt: skip
    subscriber = broker.subscribe(topic)
    broker.publish(topic, *messages)
    assert subscriber.take(len(messages)) == messages


@pytest.mark.parametrize("bye", [b"BYE\r\n", b"BYE\n"], ids=["crlf", "lf"])
def test_nothing_after_bye_is_a_message(broker, topic, bye):
    subscriber = broker.subscribe(topic)
    publisher = broker.publisher(topic)
    publisher.send(b"before\r\n" + bye + b"after\r\n")
    broker.loop.wait(lambda: publisher.ended, "the broker closes after BYE")
    broker.publish(topic, b"last")
    assert subscriber.take(2) == [b"before", b"last"]


@pytest.mark.parametrize("session", [
    b"PUBLISH %s\r\nfirst\r\n\r\nBYE\r\n", b"PUBLISH %s\nfirst\n\nBYE\n",
], ids=["crlf", "lf"])  # fmt: skip
def test_a_publishers_session_may_be_split_at_every_byte(broker, topic, session):
    session = session % topic.encode()
    subscriber = broker.subscribe(topic)
    publishers = [broker.say(session[:i]) for i in range(1, len(session))]
    broker.loop.sleep(0.05)
    for i, publisher in enumerate(publishers, 1):
        publisher.send(session[i:])
    assert all(p.rest() == [b"OK"] for p in publishers)
    assert sorted(subscriber.take(2 * len(publishers))) == sorted([b"first", b""] * len(publishers))


@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
@pytest.mark.parametrize("more", [b"", b" LAST 2", b" FROM 0123456789abcdef:7"], ids=["live", "last", "from"])
def test_a_subscribers_session_may_be_split_at_every_byte(broker, topic, more, end):
    broker.publish(topic, b"one", b"two")
    session = b"SUBSCRIBE " + topic.encode() + more + end + b"BYE" + end
    subscribers = [broker.say(session[:i]) for i in range(1, len(session))]
    broker.loop.sleep(0.05)
    for i, subscriber in enumerate(subscribers, 1):
        subscriber.send(session[i:])
    expected = {b"": [b"OK"], b" LAST 2": [b"OK", b"one", b"two"]}.get(more)
    for subscriber in subscribers:
        lines = subscriber.rest()
        if expected is None:
            assert lines[1].startswith(b"GAP ") and lines[:1] + lines[2:] == [b"OK", b"one", b"two"]
        else:
            assert lines == expected


def test_sessions_may_come_byte_by_byte(broker, topic):
    subscriber = broker.connect()
    for byte in f"SUBSCRIBE {topic}\r\n".encode():
        subscriber.send(bytes([byte]))
        broker.loop.sleep(0.001)
    subscriber.ok()
    publisher = broker.connect()
    for byte in f"PUBLISH {topic}\r\nslow\r\n\r\nBYE\r\n".encode():
        publisher.send(bytes([byte]))
        broker.loop.sleep(0.001)
    assert publisher.rest() == [b"OK"]
    assert subscriber.take(2) == [b"slow", b""]


@pytest.mark.parametrize("how", ["half_close", "close", "abort"])
def test_a_command_cut_at_any_byte_does_nothing(broker, topic, how):
    subscriber = broker.subscribe(topic)
    cut = []
    for command in (f"PUBLISH {topic}\r\n", f"SUBSCRIBE {topic} LAST 3\r\n"):
        for i in range(len(command)):
            cut.append(broker.say(command[:i]))
            getattr(cut[-1], how)()
    if how == "half_close":
        broker.loop.wait_each(cut, lambda c: c.ended, "the broker closes what was cut")
        assert not any(b"OK" in c.buffer for c in cut)
    broker.publish(topic, b"alive")
    assert subscriber.take(1) == [b"alive"]


# --- publishing --------------------------------------------------------------------------------------


def test_the_close_after_bye_is_the_publishers_receipt(broker, topic):
    for i in range(20):
        messages = numbered(b"m", 1 + i * 6)
        broker.publish(f"{topic}.{i}", *messages)
        assert replay(broker, f"{topic}.{i}", "LAST 128") == messages


def test_the_end_of_a_publishers_stream_counts_as_bye(broker, topic):
    subscriber = broker.subscribe(topic)
    publisher = broker.publisher(topic)
    publisher.send_lines(b"one", b"two")
    publisher.half_close()
    assert publisher.rest() == []
    assert subscriber.take(2) == [b"one", b"two"]
    assert replay(broker, topic, "LAST 5") == [b"one", b"two"]


def test_what_a_publisher_sent_before_it_closed_at_once_is_delivered(broker, topic):
    subscriber = broker.subscribe(topic)
    for i in range(20):
        client = broker.publisher(topic)
        client.send_lines(b"%d" % i)
        client.close()
        assert subscriber.take(1) == [b"%d" % i]


def test_a_publisher_needs_no_subscribers(broker, topic):
    publisher = broker.publisher(topic)
    publisher.send_lines(*numbered(b"unheard", 1000))
    assert publisher.leave() == []


def test_a_subscriber_needs_no_publishers(broker, topic):
    subscriber = broker.subscribe(topic)
    broker.loop.sleep(0.05)
    assert subscriber.leave() == []


def test_messages_of_a_publisher_stay_in_order(broker, topic):
    subscriber = broker.subscribe(topic)
    publisher = broker.publisher(topic)
    messages = numbered(b"m", 5000)
    for i in range(0, len(messages), 7):
        publisher.send_lines(*messages[i : i + 7])
    assert subscriber.take(len(messages)) == messages


def test_a_message_with_a_cr_in_it_has_no_line_form_and_is_counted(start):
    broker = start(reactors=2)
    subscribers = broker.subscribe_many(["cr"] * 3)
    publisher = broker.publisher("cr")
    publisher.send(b"before\r\na\rb\n\rc\r\nd\r\r\nafter\r\n")
    assert all(s.take(2) == [b"before", b"after"] for s in subscribers)
    assert publisher.leave() == []
    broker.stop(published=5, matched=15, delivered=6, dropped=9, dropped_unencodable=9)


# --- subscribing -------------------------------------------------------------------------------------


def test_what_is_published_after_ok_is_delivered(broker, topic):
    publisher = broker.publisher(topic)
    subscribers = []
    for i in range(40):
        subscribers.append(broker.subscribe(topic))
        publisher.send_lines(b"%d" % i)
    assert publisher.leave() == []
    for i, subscriber in enumerate(subscribers):
        lines = subscriber.leave()
        # What was still on its way when the OK came may be delivered too, but nothing may be missing.
        first = int(lines[0])
        assert first <= i and lines == [b"%d" % n for n in range(first, 40)]


def test_what_was_published_before_is_not_delivered_unless_asked_for(broker, topic):
    broker.publish(topic, b"old")
    subscriber = broker.subscribe(topic)
    broker.publish(topic, b"new")
    assert subscriber.leave() == [b"new"]


def test_a_subscriber_gets_its_topic_and_no_other(broker, topic):
    names = [topic, topic + ".a", topic + ".ab", topic + ".a.b", topic.upper(), topic + "x"]
    subscribers = broker.subscribe_many(names)
    for name in names:
        broker.publish(name, name.encode())
    for name, subscriber in zip(names, subscribers):
        assert subscriber.leave() == [name.encode()]


@pytest.mark.parametrize("bye", ["BYE", "half-close"])
def test_a_leaving_subscriber_gets_what_was_sequenced_before_the_close(broker, topic, bye):
    messages = numbered(b"m", 100, size=1000)
    broker.publish(topic, *messages)
    subscriber = broker.subscribe(topic, "LAST 100")
    broker.publish(topic, b"live")
    if bye == "BYE":
        subscriber.send(b"BYE\r\n")
    else:
        subscriber.half_close()
    assert subscriber.rest() == messages + [b"live"]


def test_subscribe_and_bye_in_one_segment_replay_and_close(broker, topic):
    messages = numbered(b"m", 50)
    broker.publish(topic, *messages)
    assert broker.say(f"SUBSCRIBE {topic} LAST 20\r\nBYE\r\n").rest() == [b"OK"] + messages[-20:]


def test_a_subscriber_that_left_gets_nothing_more(broker, topic):
    stays, leaves = broker.subscribe(topic), broker.subscribe(topic)
    assert leaves.leave() == []
    broker.publish(topic, b"later")
    assert stays.take(1) == [b"later"]


# --- on_last_publisher -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["leave", "half_close", "close", "abort"])
def test_subscribers_get_bye_when_the_last_publisher_leaves(broker, topic, how):
    topic = f"bye.{topic}"
    subscribers = broker.subscribe_many([topic] * 6)
    publishers = [broker.publisher(topic) for _ in range(4)]
    for i, publisher in enumerate(publishers):
        publisher.send_lines(b"from %d" % i)
        assert all(s.take(1) == [b"from %d" % i] for s in subscribers)
    *others, last = publishers
    for publisher in others:
        getattr(publisher, how)()
    last.send_lines(b"the last word")
    assert all(s.take(1) == [b"the last word"] for s in subscribers)
    getattr(last, how)()
    assert all(s.rest() == [b"BYE"] for s in subscribers)


def test_bye_comes_after_everything_that_was_published(broker, topic):
    topic = f"bye.{topic}"
    subscribers = broker.subscribe_many([topic] * 4)
    messages = numbered(b"m", 2000, size=200)
    broker.publish(topic, *messages)
    assert all(s.rest() == messages + [b"BYE"] for s in subscribers)


def test_a_subscriber_waits_for_the_first_publisher(broker, topic):
    topic = f"bye.{topic}"
    subscriber = broker.subscribe(topic)
    broker.loop.sleep(0.05)
    assert not subscriber.ended
    broker.publish(topic, b"only")
    assert subscriber.rest() == [b"only", b"BYE"]


def test_subscribers_stay_without_publishers_unless_told_otherwise(broker, topic):
    subscriber = broker.subscribe(topic)
    broker.publish(topic, b"one")
    broker.publish(topic, b"two")
    assert subscriber.leave() == [b"one", b"two"]


# --- replay ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n, held", [(0, 0), (1, 1), (7, 7), (10, 10), (11, 10), (1000000, 10)])
def test_last_replays_the_newest_n_then_goes_on_live(broker, topic, n, held):
    messages = numbered(b"m", 10)
    broker.publish(topic, *messages)
    subscriber = broker.subscribe(topic, f"LAST {n}")
    broker.publish(topic, b"live")
    assert subscriber.leave() == messages[10 - held :] + [b"live"]


def test_last_on_a_topic_without_a_past_goes_on_live(broker, topic):
    subscriber = broker.subscribe(topic, "LAST 5")
    broker.publish(topic, b"live")
    assert subscriber.leave() == [b"live"]


@pytest.mark.parametrize("after", [1, 4, 9, 10])
def test_from_replays_what_came_after_that_message_then_goes_on_live(broker, topic, after):
    messages = numbered(b"m", 10)
    broker.publish(topic, *messages)
    epoch, oldest = id_of_oldest(broker, topic)
    assert oldest == 1
    subscriber = broker.subscribe(topic, f"FROM {epoch}:{after}")
    broker.publish(topic, b"live")
    assert subscriber.leave() == messages[after:] + [b"live"]


def test_from_another_epoch_says_gap_then_replays_what_there_is(broker, topic):
    messages = numbered(b"m", 10)
    broker.publish(topic, *messages)
    gap, *lines = replay(broker, topic, "FROM 0000000000000000:5")
    assert re.fullmatch(rb"GAP [0-9a-f]{16}:1", gap) and lines == messages


@pytest.mark.parametrize("burst", [False, True], ids=["one-by-one", "burst"])
def test_a_history_holds_its_newest_messages_and_no_more(broker, topic, burst):
    topic = f"few.{topic}"
    messages = numbered(b"m", 10)
    for part in [messages] if burst else [[m] for m in messages]:
        broker.publish(topic, *part)
    assert replay(broker, topic, "LAST 100") == messages[-4:]
    assert replay(broker, topic, "LAST 3") == messages[-3:]


@pytest.mark.parametrize("burst", [False, True], ids=["one-by-one", "burst"])
def test_a_gap_is_said_when_the_history_does_not_reach_back_and_only_then(broker, topic, burst):
    topic = f"few.{topic}"
    messages = numbered(b"m", 10)
    for part in [messages] if burst else [[m] for m in messages]:
        broker.publish(topic, *part)
    epoch, oldest = id_of_oldest(broker, topic)
    assert oldest == 7
    gap = f"GAP {epoch}:7".encode()
    for after in (1, 3, 5):
        assert replay(broker, topic, f"FROM {epoch}:{after}") == [gap] + messages[6:], after
    for after in (6, 7, 9, 10):  # after 6 comes 7, which is held: nothing is missing
        assert replay(broker, topic, f"FROM {epoch}:{after}") == messages[after:], after


def test_a_topic_without_history_says_gap_and_goes_on_live(broker, topic):
    topic = f"none.{topic}"
    broker.publish(topic, b"forgotten")
    assert replay(broker, topic, "LAST 5") == []
    subscriber = broker.subscribe(topic, "FROM 0000000000000000:1")
    broker.publish(topic, b"live")
    gap, *lines = subscriber.leave()
    assert re.fullmatch(rb"GAP [0-9a-f]{16}:[0-9]+", gap) and lines == [b"live"]


def test_a_history_is_bounded_in_bytes(broker, topic):
    topic = f"small.{topic}"
    messages = numbered(b"m", 100, size=500)
    for i in range(0, 100, 5):
        broker.publish(topic, *messages[i : i + 5])
    held = replay(broker, topic, "LAST 100")
    assert held and held == messages[-len(held) :] and sum(map(len, held)) <= 4 << 10


def test_the_history_of_all_topics_is_bounded_and_the_oldest_goes_first(start):
    broker = start(limits={"history_total_bytes": "1M"})
    messages = numbered(b"m", 40, size=100_000)
    for i, message in enumerate(messages):
        broker.publish(f"total.{i % 8}", message)
    held = sum((replay(broker, f"total.{i}", "LAST 100") for i in range(8)), [])
    assert held and sum(map(len, held)) <= 1 << 20
    assert sorted(held) == sorted(messages[-len(held) :])


def test_history_ages_and_a_forgotten_topic_has_a_new_epoch(start):
    broker = start(reactors=2, topic={"aging.>": {"history_seconds": 1}, "lingering.>": {"linger_seconds": 1, "history_seconds": 1}})
    for topic in ("aging.topic", "lingering.topic", "other.topic"):
        broker.publish(topic, b"old")
    epochs = {t: id_of_oldest(broker, t)[0] for t in ("lingering.topic", "other.topic")}
    broker.loop.sleep(3.5)
    assert replay(broker, "aging.topic", "LAST 5") == []
    assert replay(broker, "other.topic", f"FROM {epochs['other.topic']}:1") == []
    subscriber = broker.subscribe("lingering.topic", f"FROM {epochs['lingering.topic']}:1")
    broker.publish("lingering.topic", b"new")
    gap, message = subscriber.leave()
    assert gap.startswith(b"GAP ") and epochs["lingering.topic"].encode() not in gap
    assert message == b"new"


# --- names -------------------------------------------------------------------------------------------

GOOD_TOPICS = ["x", "größe.温度.🎉", "a-b_c/d:e@f,g;h?i=j&k%20", "x" * 255, "é" * 127, ".".join("abcdefghijklmnopqrstuvwxyz012345")]

BAD_TOPICS = {
    "star within": b"a*b", "rest within": b"a>b", "rest first": b">.a",
    "256 bytes": b"x" * 256, "33 levels": b".".join([b"l"] * 33), "empty level": b"a..b", "leading dot": b".a",
    "trailing dot": b"a.", "dot": b".", "control": b"a\x01b", "tab": b"a\tb", "nul": b"a\0b", "delete": b"a\x7fb",
    "latin 1": b"gr\xf6\xdfe", "cut utf-8": b"a\xc3", "overlong": b"\xc0\xaf", "surrogate": b"\xed\xa0\x80",
    "beyond unicode": b"\xf4\x90\x80\x80", "cr": b"a\rb",
}  # fmt: skip


@pytest.mark.parametrize("name", GOOD_TOPICS, ids=range(len(GOOD_TOPICS)))
def test_a_topic_may_be_any_printable_utf8(broker, name):
    subscriber = broker.subscribe(name)
    broker.publish(name, b"there")
    assert subscriber.take(1) == [b"there"]


@pytest.mark.parametrize("verb", [b"PUBLISH ", b"SUBSCRIBE "], ids=["publish", "subscribe"])
@pytest.mark.parametrize("name", BAD_TOPICS)
def test_a_bad_topic_is_refused(broker, verb, name):
    refused(broker, verb + BAD_TOPICS[name] + b"\r\n", b"bad topic")


@pytest.mark.parametrize("name", ["a.*", "*", "a.>", ">"])
def test_nobody_publishes_to_a_pattern(broker, name):
    refused(broker, f"PUBLISH {name}\r\n".encode(), b"bad topic")


# --- errors ------------------------------------------------------------------------------------------

MALFORMED = {
    "unknown word": b"HELLO world", "empty line": b"", "lower case": b"publish t", "publish alone": b"PUBLISH",
    "subscribe alone": b"SUBSCRIBE", "joined": b"PUBLISHt", "unknown option": b"SUBSCRIBE t SINCE 3",
    "last of nothing": b"SUBSCRIBE t LAST", "last of a word": b"SUBSCRIBE t LAST x", "negative": b"SUBSCRIBE t LAST -1",
    "signed": b"SUBSCRIBE t LAST +1", "more after last": b"SUBSCRIBE t LAST 1 2", "from nothing": b"SUBSCRIBE t FROM",
    "from a number": b"SUBSCRIBE t FROM 12", "no epoch": b"SUBSCRIBE t FROM :1", "no seq": b"SUBSCRIBE t FROM 0123456789abcdef:",
    "short epoch": b"SUBSCRIBE t FROM 0123456789abcde:1", "long epoch": b"SUBSCRIBE t FROM 0123456789abcdef0:1",
    "not hexadecimal": b"SUBSCRIBE t FROM 0123456789abcdeg:1", "negative seq": b"SUBSCRIBE t FROM 0123456789abcdef:-1",
    "word for seq": b"SUBSCRIBE t FROM 0123456789abcdef:one", "both": b"SUBSCRIBE t LAST 1 FROM 0123456789abcdef:1",
    "publish with replay": b"PUBLISH t LAST 1",
}  # fmt: skip


@pytest.mark.parametrize("command", MALFORMED)
def test_a_malformed_command_is_refused(broker, command):
    refused(broker, MALFORMED[command] + b"\r\n", b"malformed command")


@pytest.mark.parametrize("command", [b"PUBLISH ", b"SUBSCRIBE ", b"PUBLISH  t", b"SUBSCRIBE t ", b" SUBSCRIBE t", b"PUBLISH a b"])
def test_a_command_with_spaces_astray_is_refused(broker, command):
    refused(broker, command + b"\r\n", b"malformed command", b"bad topic")


@pytest.mark.parametrize("line", [b"hello", b"SUBSCRIBE other", b""])
def test_a_subscriber_has_nothing_to_say_but_bye(broker, topic, line):
    subscriber = broker.subscribe(topic)
    subscriber.send_lines(line)
    assert subscriber.rest() == [b"ERROR malformed command"]


def test_a_command_may_take_4_kib_and_no_more(broker):
    refused(broker, b"PUBLISH ".ljust(COMMAND_LIMIT, b"x") + b"\r\n", b"bad topic")
    refused(broker, b"PUBLISH ".ljust(COMMAND_LIMIT + 1, b"x") + b"\r\n", b"line too long")
    refused(broker, b"PUBLISH ".ljust(100_000, b"x") + b"\r\n", b"line too long")


@pytest.mark.parametrize("start_of_line", [b"PUBLISH ", b"SUBSCRIBE ", b"SUBSCRIBE t FROM ", b"x"])
def test_a_command_without_end_is_refused_once_it_is_too_long(broker, start_of_line):
    refused(broker, start_of_line.ljust(COMMAND_LIMIT + 2, b"x"), b"line too long")


@pytest.mark.parametrize("end", [b"\r\n", b"\n"], ids=["crlf", "lf"])
@pytest.mark.parametrize("size", [MESSAGE_LIMIT - 1, MESSAGE_LIMIT])
def test_a_message_may_take_1_mib(broker, topic, size, end):
    message = random.Random(size).randbytes(size).translate(bytes(range(256)).replace(b"\r", b"x").replace(b"\n", b"y"))
    subscriber = broker.subscribe(topic)
    publisher = broker.publisher(topic)
    publisher.send(b"before" + end + message + end + b"after" + end)
    assert publisher.leave() == []
    assert subscriber.take(3) == [b"before", message, b"after"]


def test_the_end_of_the_longest_message_may_be_split(broker, topic):
    message = b"m" * MESSAGE_LIMIT
    subscriber = broker.subscribe(topic)
    publisher = broker.publisher(topic)
    publisher.send(message + b"\r")
    broker.loop.wait(lambda: not publisher.out, "the message is sent")
    broker.loop.sleep(0.1)
    publisher.send(b"\nnext\r\n")
    assert subscriber.take(2) == [message, b"next"]


@pytest.mark.parametrize("more", [b"\r\nafter\r\n", b"\nafter\n", b"m" * 100_000], ids=["crlf", "lf", "no end"])
def test_a_longer_message_is_refused_and_what_came_before_counts(broker, topic, more):
    subscriber = broker.subscribe(topic)
    publisher = broker.publisher(topic)
    publisher.send(b"before\r\n" + b"m" * (MESSAGE_LIMIT + 1) + more)
    assert publisher.take(1) == [b"ERROR line too long"]
    broker.loop.wait(lambda: publisher.ended, "a close after the error")
    broker.publish(topic, b"next")
    assert subscriber.leave() == [b"before", b"next"]


def test_an_http_request_to_a_line_listener_is_refused_in_lines(broker):
    client = broker.say(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    broker.loop.wait(lambda: client.ended, "a close")
    assert client.take_waiting() == [b"ERROR malformed command"]


def test_the_line_after_an_error_is_not_looked_at(broker, topic):
    subscriber = broker.subscribe(topic)
    client = broker.say(f"NONSENSE\r\nPUBLISH {topic}\r\nsecret\r\nBYE\r\n")
    broker.loop.wait(lambda: client.ended, "a close")
    broker.publish(topic, b"next")
    assert subscriber.leave() == [b"next"]


def test_an_error_says_so_and_other_connections_notice_nothing(broker, topic):
    subscriber, publisher = broker.subscribe(topic), broker.publisher(topic)
    for command in (b"NONSENSE\r\n", b"PUBLISH a.*\r\n", b"x" * 5000):
        client = broker.say(command)
        client.socket.shutdown(socket.SHUT_WR)
        assert client.rest()[0].startswith(b"ERROR ")
        publisher.send_lines(b"undisturbed")
        assert subscriber.take(1) == [b"undisturbed"]
