"""Messages between shards: none lost, doubled or out of order, whatever the number of reactors."""

import random
import re

import pytest

from harness import PATIENT, SANITIZER, numbered, release_only

SCALE = 0.5 if SANITIZER else 1  # of the amount of traffic, under sanitizers


def stream(tag, count):
    """A publisher's messages: mostly short, some that are referenced and not copied."""
    sizes = {0: 20_000, 1: 700}
    return [b"%s %d " % (tag, n) + b"." * sizes.get(n % 60, n % 50) for n in range(count)]


def traffic(broker, topics, subscribers, publishers, messages):
    """Everybody at once; returns when everything was checked and the broker has stopped."""
    names = [f"shards.{i}" for i in range(topics)]
    everyone = broker.subscribe_many(name for name in names for _ in range(subscribers))
    sent = {name: [stream(b"p%d" % p, messages) for p in range(publishers)] for name in names}
    senders = []
    for name in names:
        for mine in sent[name]:
            senders.append(broker.say(f"PUBLISH {name}\r\n"))
            senders[-1].send_lines(*mine, b"BYE")
    broker.loop.wait_each(senders, lambda c: c.ended, "each publisher's receipt")
    assert all(c.rest() == [b"OK"] for c in senders)
    total = publishers * messages
    broker.loop.wait_each(everyone, lambda c: c.has(total), f"{total} messages")

    for i, name in enumerate(names):
        first, *others = everyone[i * subscribers : (i + 1) * subscribers]
        assert all(other.buffer == first.buffer for other in others), f"{name} has one order for all"
        lines = first.take_waiting()
        assert len(lines) == total
        for p, mine in enumerate(sent[name]):
            assert [x for x in lines if x.startswith(b"p%d " % p)] == mine
        for other in others:
            other.take_waiting()

    published = topics * total
    delivered = published * subscribers
    broker.stop(published=published, matched=delivered, delivered=delivered, dropped=0)
    assert all(c.rest() == [b"ERROR draining"] for c in everyone), "nothing comes twice or late"


@pytest.mark.parametrize("reactors", [1, 2, 3, 8, 64])
def test_every_subscriber_gets_every_message_once_and_in_order(start, reactors):
    broker = start(reactors=reactors, topics=PATIENT)
    traffic(broker, topics=16, subscribers=4, publishers=3, messages=int(240 * SCALE))


@pytest.mark.parametrize("batch", [1, 256])
@pytest.mark.parametrize("reactors", [2, 3, 8])
def test_lanes_of_two_letters_lose_nothing_and_deadlock_never(start, reactors, batch):
    broker = start(reactors=reactors, topics=PATIENT, engine={"lane_entries": 2, "lane_batch": batch})
    traffic(broker, topics=12, subscribers=3, publishers=4, messages=int(300 * SCALE))


def test_a_turn_of_one_send_and_batches_of_one_lose_nothing(start):
    broker = start(reactors=3, topics=PATIENT, engine={"turn_sends": 1, "batch": 1})
    traffic(broker, topics=8, subscribers=4, publishers=3, messages=int(200 * SCALE))


@release_only
def test_publishing_into_a_full_broker_slows_the_publisher_and_loses_nothing(start):
    engine = {"lane_entries": 2, "recv_buffers": 64}  # so that receive buffers do not hide what piles up
    broker = start(reactors=3, topics={**PATIENT, "history_messages": 0}, engine=engine)
    before = broker.memory()
    chunk = b"".join(m + b"\n" for m in numbered(b"flood", 1000, size=1000))
    publishers = [broker.publisher(f"flood.{i % 3}") for i in range(12)]
    for publisher in publishers:
        publisher.send(chunk * 16 + b"BYE\n")
    broker.loop.wait_each(publishers, lambda c: c.ended, "each publisher's receipt")
    assert broker.memory("VmHWM") - before < 40 << 20, "192 MB went through, they were not piled up"
    broker.stop(published=192_000, matched=0, delivered=0, dropped=0)


@pytest.mark.parametrize("reactors", [2, 8])
def test_no_wake_up_is_lost_when_reactors_park_after_each_message(start, reactors):
    broker = start(reactors=reactors, stats_seconds=0)  # so that no timer wakes what was forgotten
    names = [f"ping.{i}" for i in range(8)]
    subscribers = broker.subscribe_many(names)
    publishers = [broker.publisher(name) for name in names]
    for n in range(int(300 * SCALE)):
        for publisher, subscriber in zip(publishers, subscribers):
            publisher.send_lines(b"%d" % n)
            assert subscriber.take(1) == [b"%d" % n]


@pytest.mark.parametrize("replay", ["", "LAST 10"], ids=["live", "last"])
@pytest.mark.parametrize("reactors", [2, 8])
def test_who_joins_while_publishing_goes_on_sees_a_gapless_run(start, reactors, replay):
    broker = start(reactors=reactors, topics=PATIENT)
    steps, chunk = int(120 * SCALE), 40
    names = [f"joining.{i}" for i in range(6)]
    publishers = {name: broker.publisher(name) for name in names}
    waiting, joined = [], []
    for step in range(steps):
        for name in names:
            publishers[name].send_lines(*(b"%d" % n for n in range(step * chunk, (step + 1) * chunk)))
        if step % 6 == 0:
            waiting += [(name, broker.say(f"SUBSCRIBE {name} {replay}".strip() + "\r\n")) for name in names]
        broker.loop.turn()
        for name, client in [w for w in waiting if w[1].newlines]:
            joined.append((name, client, (step + 1) * chunk))  # from here on it was published after OK
        waiting = [w for w in waiting if not w[1].newlines]
    last = steps * chunk - 1
    broker.loop.wait_each([c for _, c in waiting], lambda c: c.has(1), "OK")
    joined += [(name, client, last + 1) for name, client in waiting]
    for name in names:
        assert publishers[name].leave() == []
    for name, client, published_after_ok in joined:
        ok, *lines = client.leave()
        assert ok == b"OK"
        first = int(lines[0]) if lines else last + 1
        assert lines == [b"%d" % n for n in range(first, last + 1)], f"{name} from {first}"
        assert first <= published_after_ok
        if replay and first > 0:
            assert last + 1 - first >= 10


@pytest.mark.parametrize("reactors", [1, 8])
def test_who_comes_back_with_from_misses_nothing_and_gets_nothing_twice(start, reactors):
    broker = start(reactors=reactors, topics={**PATIENT, "history_messages": 1_000_000, "history_bytes": "64M"})
    chance = random.Random(reactors)
    names = [f"returning.{i}" for i in range(4)]
    publishers = {name: broker.publisher(name) for name in names}
    epochs, seen, clients = {}, {name: [] for name in names}, {}

    def come_back(name):
        where = f"FROM {epochs[name]}:{len(seen[name])}"
        clients[name] = broker.say(f"SUBSCRIBE {name} {where}\r\n")

    for name in names:
        publishers[name].send_lines(b"0")
        subscriber = broker.subscribe(name, "FROM 0000000000000000:1")
        gap, zero = subscriber.take(2)
        epochs[name] = re.fullmatch(rb"GAP ([0-9a-f]{16}):1", gap).group(1).decode()
        seen[name].append(zero)
        subscriber.close()
        come_back(name)

    steps, chunk = int(150 * SCALE), 30
    for step in range(steps):
        for name in names:
            publishers[name].send_lines(*(b"%d" % n for n in range(step * chunk + 1, (step + 1) * chunk + 1)))
        broker.loop.turn(0.001)
        name = chance.choice(names)
        if clients[name].newlines > chance.randrange(200):
            ok, *lines = clients[name].take_waiting()
            assert ok == b"OK"
            seen[name] += lines
            clients[name].abort()
            come_back(name)
    for name in names:
        assert publishers[name].leave() == []
        ok, *lines = clients[name].leave()
        seen[name] += lines
        assert ok == b"OK" and seen[name] == [b"%d" % n for n in range(steps * chunk + 1)]


def test_coming_and_going_leaves_nothing_behind(start):
    broker = start(reactors=3)
    descriptors = broker.descriptors()
    chance = random.Random(1)
    for n in range(600):
        name = f"passing.{chance.randrange(20)}"
        client = broker.say(f"{chance.choice(['SUBSCRIBE', 'PUBLISH'])} {name}\r\n" + "x\r\n" * (n % 3))
        if chance.random() < 0.5:
            client.loop.turn(0.001)
        if chance.random() < 0.8:
            chance.choice([client.abort, client.close, client.half_close])()
    broker.close_clients()
    broker.works()
    broker.eventually(connections=0, subscriptions=0)
    assert broker.descriptors() == descriptors
