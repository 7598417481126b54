"""Large messages: whole at every subscriber, and held once."""

import random

import pytest

from harness import PATIENCE, PATIENT, Expect, release_only

MIB = 1 << 20
LINE_FREE = bytes(range(256)).replace(b"\r", b"r").replace(b"\n", b"n")


def large(seed, size=MIB):
    return random.Random(seed).randbytes(size).translate(LINE_FREE)


def expect(clients, messages):
    content = b"".join(m + b"\r\n" for m in messages)
    for client in clients:
        client.sink = Expect(content)


def all_whole(broker, clients, seconds):
    broker.loop.wait_each(clients, lambda c: c.sink.complete() or c.ended, "the whole message", seconds)
    assert {c.sink.wrong_at for c in clients} == {None} and not any(c.ended for c in clients)


@pytest.mark.parametrize("reactors", [1, 3])
def test_messages_of_1_mib_reach_50_subscribers_intact(start, reactors):
    broker = start(reactors=reactors, topics=PATIENT)
    subscribers = broker.subscribe_many(["large"] * 50)
    messages = [b"small", large(1), b"", large(2), b"between", large(3), b"end"]
    expect(subscribers, messages)
    broker.publish("large", *messages)
    all_whole(broker, subscribers, 3 * PATIENCE)
    broker.stop(published=7, matched=350, delivered=350, dropped=0)


@release_only
@pytest.mark.parametrize("reactors", [1, 2])
def test_1_mib_to_1000_subscribers_takes_a_few_mib(start, reactors):
    broker = start(reactors=reactors, topics=PATIENT)
    subscribers = broker.subscribe_many(["large"] * 1000)
    warm_up, message = large(4, 10_000), large(5)
    expect(subscribers, [warm_up])
    broker.publish("large", warm_up)
    all_whole(broker, subscribers, PATIENCE)

    broker.forget_peak()
    before = broker.memory()
    expect(subscribers, [message])
    broker.publish("large", message)
    all_whole(broker, subscribers, 3 * PATIENCE)
    assert broker.memory("VmHWM") - before < 6 * MIB
    broker.stop(published=2, matched=2000, delivered=2000, dropped=0)


@pytest.mark.parametrize("size", [16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 262_144])
def test_messages_around_the_sizes_of_buffers_stay_whole(start, size):
    broker = start(reactors=2, topics=PATIENT)
    messages = [large(i, size + i - 5) for i in range(10)]
    subscribers = broker.subscribe_many(["sizes"] * 3)
    broker.publish("sizes", *messages)
    assert all(s.take(10) == messages for s in subscribers)
    assert broker.subscribe("sizes", "LAST 10").leave() == messages


def test_small_messages_overtake_a_large_one_that_is_still_on_its_way(start):
    broker = start(reactors=2)
    subscriber = broker.subscribe("shared")
    slow, quick = broker.publisher("shared"), broker.publisher("shared")
    message = large(6)
    for i in range(0, MIB, MIB // 8):
        slow.send(message[i : i + MIB // 8])
        quick.send_lines(b"quick")
        assert subscriber.take(1) == [b"quick"]
    slow.send(b"\r\n")
    assert subscriber.take(1, PATIENCE) == [message]
