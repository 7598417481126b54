"""Very many subscribers that come back at once and want what they missed: it is kept and encoded once for all of them."""

import random
import re
import resource
import time

import pytest

from harness import FACTOR, SANITIZER, at_most

# Both ends of every connection are descriptors of this machine's one limit per process.
MANY = min(1000, (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 200) // 2)
MIB = 1 << 20
# Of a message: what says only where the stream stands has no data behind it.
ID = re.compile(rb"^id: ([0-9a-f]{16}):(\d+)\n(?=data:|event: (?!gap))", re.M)


def listening(start, history_bytes, **config):
    topics = {"history_messages": 1_000_000, "history_bytes": history_bytes, "backlog_seconds": 300}
    return start(
        listen={"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}},
        topics=topics,
        limits={"handshake_seconds": 120},
        **config,
    )


def publish(broker, topic, messages):
    publisher = broker.publisher(topic)
    publisher.send_lines(*messages)
    broker.eventually(published=len(messages))
    return publisher


def come_back(broker, topic, after, **options):
    client = broker.connect(**options)
    client.send(
        b"GET /subscribe/%s HTTP/1.1\r\nHost: b\r\nAccept: text/event-stream\r\nLast-Event-ID: %s\r\n\r\n"
        % (topic.encode(), after)
    )
    return client


def epoch_of(broker, topic):
    client = broker.connect()
    client.send(b"GET /subscribe/%s?last=1 HTTP/1.1\r\nHost: b\r\nAccept: text/event-stream\r\n\r\n" % topic.encode())
    broker.loop.wait(lambda: ID.search(client.buffer), "an event")
    epoch = ID.search(client.buffer)[1]
    client.abort()
    return epoch


@pytest.mark.parametrize("reactors", [1, 2])
def test_thousand_that_come_back_get_each_what_it_missed(start, reactors):
    broker = listening(start, 4 * MIB, reactors=reactors)
    n = 500
    publisher = publish(broker, "t", [b"message %d %s" % (i, b"x" * (i % 400)) for i in range(1, n + 1)])
    epoch = epoch_of(broker, "t")
    places = random.Random(1)
    clients = []
    for i in range(MANY):
        had = places.choice([0, n // 2, n - 1, n, places.randrange(n)])
        clients.append((had, come_back(broker, "t", b"%s:%d" % (epoch, had))))
        if i % 50 == 0:
            # What is published meanwhile comes after it, once.
            publisher.send_lines(b"message %d live" % (n + 1 + i // 50))
            broker.loop.turn()
    last = n + (MANY + 49) // 50
    broker.loop.wait_each([c for _, c in clients], lambda c: b"message %d live" % last in c.buffer, "the last one")
    for had, client in clients:
        assert [int(number) for _, number in ID.findall(client.buffer)] == list(range(had + 1, last + 1))
        for number in (had + 1, last):
            assert b"data: message %d " % number in client.buffer


@pytest.mark.parametrize("history_mib", [4, 64])
def test_live_messages_do_not_wait_for_a_thousand_replays(start, history_mib):
    history = history_mib * MIB // (4 if SANITIZER else 1)
    broker = listening(start, history)
    size = 2000
    # What is in flight to the stalled ones counts as theirs; nobody is to be cut off here.
    publisher = publish(broker, "t", [b"%07d" % i + b"h" * (size - 7) for i in range(1, history // size - 100)])
    epoch = epoch_of(broker, "t")
    other_publisher, other = broker.publisher("other"), broker.subscribe("other")
    before = broker.memory()
    clients = [come_back(broker, "t", epoch + b":0", rcvbuf=16 << 10) for _ in range(MANY)]
    readers, stalled = clients[:2], clients[2:]
    for client in stalled:
        client.stall()
    slowest = 0
    live = 0
    while live < 50 or not all(b"live %d." % live in r.buffer for r in readers):
        live += 1
        began = time.monotonic()
        publisher.send_lines(b"live %d." % live)
        other_publisher.send_lines(b"pair %d." % live)
        assert other.take(1) == [b"pair %d." % live]
        slowest = max(slowest, time.monotonic() - began)
        assert live < 100_000
        broker.loop.turn()
    grown = broker.memory() - before
    print(f"{MANY} replays of {history >> 20} MiB: +{grown >> 20} MiB, slowest of {live} live messages {slowest * 1000:.1f} ms")
    assert slowest < at_most(2)
    # The history once more, encoded, from the slowest to the furthest of them.
    assert grown < (2 * history + 32 * MIB) * FACTOR
    for reader in readers:
        numbers = [int(number) for _, number in ID.findall(reader.buffer)]
        assert numbers == list(range(1, numbers[-1] + 1))
    for client in clients:
        client.abort()
