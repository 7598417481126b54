"""Subscribers that stop reading: they delay nobody, cost a bounded backlog, and are dealt with by policy."""

import re
import time

import pytest

from harness import PATIENCE, SANITIZER, Expect, at_most, dial, line_listener, numbered
from mqtt_wire import connect, subscribe, unsubscribe
from resp import command

RCVBUF = 64 << 10  # of stalled subscribers: little enough that the broker notices soon
SIZE = 1000
REACTORS = pytest.mark.parametrize("reactors", [1, 3])


def stalled(broker, topic, count):
    """Subscribers that have their OK and read no more."""
    clients = broker.subscribe_many([topic] * count, rcvbuf=RCVBUF)
    for client in clients:
        client.stall()
    return clients


def publish_in_steps(publisher, good, messages, step=200):
    """Whatever the stalled ones do, each step reaches the good ones before the next begins."""
    for i in range(0, len(messages), step):
        publisher.send_lines(*messages[i : i + step])
        for subscriber in good:
            assert subscriber.take(step) == messages[i : i + step]


def whole_messages(client, messages):
    """How many messages a slow subscriber got before its error, checking that they are the first ones, and whole."""
    client.resume()
    client.loop.wait(lambda: client.ended, "the slow subscriber is disconnected")
    data = bytes(client.buffer).removesuffix(b"ERROR slow consumer\r\n")
    everything = b"".join(m + b"\r\n" for m in messages)
    assert everything.startswith(data), f"not a beginning of what was published: ...{data[-100:]}"
    return data.count(b"\r\n")


@REACTORS
def test_a_subscriber_that_stops_reading_delays_nobody_and_gets_its_backlog(start, reactors):
    broker = start(reactors=reactors, topics={"backlog_bytes": "16M", "backlog_seconds": 600})
    slow, good = stalled(broker, "slow", 2), broker.subscribe_many(["slow"] * 3)
    publisher = broker.publisher("slow")
    messages = numbered(b"m", 4000, SIZE)
    publish_in_steps(publisher, good, messages)

    begin = time.monotonic()
    publish_in_steps(publisher, good, pings := numbered(b"ping", 300), step=1)
    assert time.monotonic() - begin < at_most(3), "300 messages to the good ones, one at a time"

    for client in slow:
        client.resume()
        assert client.take(4300) == messages + pings
    broker.stop(published=4300, matched=5 * 4300, delivered=5 * 4300, dropped=0)


def fall_behind(broker, count):
    """Two subscribers stall while messages pass by; whoever looks after them later has all of it."""
    slow, good = stalled(broker, "slow", 2), broker.subscribe_many(["slow"] * 2)
    publisher = broker.publisher("slow")
    messages = numbered(b"m", count, SIZE)
    publish_in_steps(publisher, good, messages)
    return slow, good, publisher, messages


@REACTORS
def test_who_falls_behind_by_bytes_is_disconnected_and_counted(start, reactors):
    broker = start(reactors=reactors, topics={"backlog_bytes": "256K", "backlog_seconds": 600})
    slow, good, publisher, messages = fall_behind(broker, 8000)
    got = [whole_messages(client, messages) for client in slow]
    assert all(0 < n < 8000 for n in got)
    publish_in_steps(publisher, good, messages[:200])
    stats = broker.eventually(subscriptions=2, published=8200)
    assert stats["delivered"] == 2 * 8200 + sum(got)
    assert stats["dropped"] == stats["dropped_slow"] > 0


def test_a_slow_subscriber_is_told_why(start):
    broker = start(topics={"backlog_bytes": "256K", "backlog_seconds": 600})
    slow, *_ = fall_behind(broker, 8000)
    for client in slow:
        assert client.rest()[-1] == b"ERROR slow consumer"


@REACTORS
def test_who_falls_behind_by_seconds_is_disconnected(start, reactors):
    broker = start(reactors=reactors, topics={"backlog_bytes": "64M", "backlog_seconds": 1})
    slow, good, publisher, messages = fall_behind(broker, 4000)
    stats = broker.eventually(subscriptions=2, published=4000)
    assert stats["dropped"] == stats["dropped_slow"] > 0
    # Whoever could not be told is reset, which takes along what the kernel still had for him, and does not look like the end of all.
    assert 0 < sum(whole_messages(client, messages) for client in slow) + 8000 <= stats["delivered"]
    assert all(client.reset or client.buffer.endswith(b"ERROR slow consumer\r\n") for client in slow)
    publish_in_steps(publisher, good, messages[:200])


def test_a_silent_topic_makes_no_subscriber_slow(start):
    broker = start(topics={"backlog_seconds": 1})
    client = broker.subscribe("silent")
    client.stall()
    broker.publish("silent", b"one")
    broker.loop.sleep(2.5)
    broker.publish("silent", b"two")
    client.resume()
    assert client.take(2) == [b"one", b"two"]


@REACTORS
def test_skip_goes_on_with_whole_messages_and_counts_the_rest(start, reactors):
    broker = start(reactors=reactors, topics={"backlog_bytes": "256K", "backlog_seconds": 600, "slow": "skip"})
    slow, good, publisher, messages = fall_behind(broker, 8000)
    for client in slow:
        client.resume()
    publisher.send_lines(b"last")
    assert publisher.leave() == []

    known = {m: n for n, m in enumerate([*messages, b"last"])}
    got = 0
    for client in slow:
        client.loop.wait(lambda: client.buffer.endswith(b"\r\nlast\r\n"), lambda: f"the last message at {client}")
        numbers = [known[line] for line in client.take_waiting()]  # KeyError: not a whole message
        assert numbers == sorted(set(numbers)) and len(numbers) < 8001, "some are skipped, none is doubled"
        got += len(numbers)
    skipped = 2 * 8001 - got
    broker.stop(published=8001, matched=4 * 8001, delivered=2 * 8001 + got, dropped=skipped, dropped_skipped=skipped)


@REACTORS
def test_who_leaves_with_a_backlog_is_counted(start, reactors):
    broker = start(reactors=reactors, topics={"backlog_bytes": "64M", "backlog_seconds": 600})
    slow, *_ = fall_behind(broker, 4000)
    slow[0].abort()
    slow[1].close()
    stats = broker.eventually(subscriptions=2, published=4000, matched=16000)
    assert stats["dropped"] == stats["dropped_closed"] > 0


@REACTORS
def test_a_slow_subscribers_bye_still_gets_it_everything_up_to_then(start, reactors):
    broker = start(reactors=reactors, topics={"backlog_bytes": "64M", "backlog_seconds": 600})
    slow, good, publisher, messages = fall_behind(broker, 4000)
    slow[0].send(b"BYE\r\n")
    slow[1].half_close()
    assert [client.rest() for client in slow] == [messages, messages]
    broker.eventually(subscriptions=2, delivered=16000, dropped=0)


def test_200_stalled_subscribers_cost_one_backlog(start):
    broker = start(reactors=2, topics={"backlog_bytes": "8M", "backlog_seconds": 600, "history_messages": 0})
    count = 50 if SANITIZER else 200
    slow, good = stalled(broker, "slow", count), broker.subscribe_many(["slow"])
    publisher = broker.publisher("slow")
    messages = numbered(b"m", 3000, SIZE)
    before = broker.memory()
    publish_in_steps(publisher, good, messages)
    grown = broker.memory() - before
    if not SANITIZER:
        assert grown < 16 << 20, f"3 MB for {count} subscribers took {grown} bytes on two reactors"

    content = b"".join(m + b"\r\n" for m in messages)
    for client in slow:
        client.sink = Expect(content)
        client.resume()
    broker.loop.wait_each(slow, lambda c: c.sink.complete() or c.ended, "its whole backlog", 2 * PATIENCE)
    assert {c.sink.wrong_at for c in slow} == {None} and not any(c.ended for c in slow)
    matched = 3000 * (count + 1)
    broker.stop(published=3000, matched=matched, delivered=matched, dropped=0)


# A subscriber of each door that reads nothing until its end has been said: what it subscribes with, what that
# is answered, how the end is said, and what the answer ends with.
GOODBYES = {
    "nats": (b"CONNECT {}\r\nSUB going 1\r\nPING\r\n", b"PONG\r\n", b"UNSUB 1\r\nPING\r\n", b"PONG\r\n"),
    "resp": (command("SUBSCRIBE", "going"), b":1\r\n", command("UNSUBSCRIBE", "going"), b":0\r\n"),
    "mqtt": (connect() + subscribe(4, "going"), b"\x90\x03\x00\x01\x00", unsubscribe(4, "going"), b"\xb0\x02\x00\x01"),
}


@pytest.mark.parametrize("door", GOODBYES)
def test_what_was_published_before_the_end_of_a_subscription_is_delivered(start, door):
    listen = {"main": line_listener(), "door": {"address": "127.0.0.1:0", "protocols": [door]}}
    broker = start(reactors=1, listen=listen, limits={"send_buffer_bytes": "16K"})
    begin, begun, goodbye, ended = GOODBYES[door]
    messages = numbered(b"m", 1000, SIZE)
    with dial(broker.address(1), rcvbuf=RCVBUF) as client:
        client.settimeout(PATIENCE)
        client.sendall(begin)
        heard = b""
        while not heard.endswith(begun):
            heard += client.recv(1 << 16)
        broker.publish("going", *messages)
        client.sendall(goodbye)
        heard = b""
        while not heard.endswith(ended):
            heard += client.recv(1 << 16)
    assert re.findall(rb"m \d+ \.+", heard) == messages
    broker.publish("going", b"too late")
    broker.stop(matched=1000, delivered=1000, dropped=0)
