"""A short run over two reactors with everything that two threads do to each other: made for ThreadSanitizer."""

import random

from harness import PATIENT, numbered


def test_two_reactors_exchange_messages_while_clients_come_and_go(start):
    both = {"address": "127.0.0.1:0", "protocols": ["line", "http"]}
    broker = start(reactors=2, topics=PATIENT, listen={"main": both})
    chance = random.Random(4)
    names = [f"threads.{i}" for i in range(8)]
    stay = dict(zip(names, broker.subscribe_many(names)))
    pass_by = []
    publishers = {name: [broker.publisher(name) for _ in range(2)] for name in names}
    for step in range(100):
        for name in names:
            for p, publisher in enumerate(publishers[name]):
                publisher.send_lines(*(b"p%d %d" % (p, n) for n in range(step * 12, step * 12 + 12)))
        pass_by.append(broker.say(f"SUBSCRIBE {chance.choice(names)} LAST 5\r\n"))
        figures = broker.say(b"GET /metrics HTTP/1.0\r\n\r\n")
        broker.loop.turn()
        if len(pass_by) > 5:
            leaving = pass_by.pop(0)
            chance.choice([leaving.leave, leaving.close, leaving.abort])()
    for name in names:
        lines = stay[name].take(2400)
        for p in range(2):
            assert [x for x in lines if x.startswith(b"p%d " % p)] == [b"p%d %d" % (p, n) for n in range(1200)]
    broker.loop.wait(lambda: figures.ended and b"broker_turns_total" in figures.buffer, "figures")
    broker.stop(published=8 * 2400)
    assert all(stay[name].rest() == [b"ERROR draining"] for name in names)


def test_a_stop_in_the_middle_of_the_traffic_is_clean(start):
    broker = start(reactors=2, topics=PATIENT)
    names = [f"threads.{i}" for i in range(8)]
    subscribers = broker.subscribe_many(names)
    for name in names:
        broker.publisher(name).send_lines(*numbered(b"m", 3000, size=100))
    broker.loop.wait(lambda: all(s.newlines for s in subscribers), "messages at every subscriber")
    broker.stop()
    for subscriber in subscribers:
        *lines, last = subscriber.rest()
        assert last == b"ERROR draining"
        assert lines == numbered(b"m", len(lines), size=100)
