"""Bounds on connections, time and memory: who goes beyond them is told, and nobody else notices."""

import random
import re
import socket
import time
from pathlib import Path

import pytest

from harness import FACTOR, PATIENT, SANITIZER, at_most, limit_files, numbered, whole_seconds


class Bystanders:
    """A publisher and subscribers that must not notice what happens around them."""

    def __init__(self, broker):
        self.subscribers = broker.subscribe_many(["bystanders"] * 4)
        self.publisher = broker.publisher("bystanders")
        self.connections = 5
        self.undisturbed()

    def undisturbed(self):
        self.publisher.send_lines(b"a word", b"another")
        assert all(s.take(2) == [b"a word", b"another"] for s in self.subscribers)


@pytest.mark.parametrize("reactors", [1, 3])
def test_connections_beyond_the_limit_are_told_and_closed(start, reactors):
    broker = start(reactors=reactors, limits={"connections": 10})
    bystanders = Bystanders(broker)
    more = broker.subscribe_many([f"more.{i}" for i in range(10 - bystanders.connections)])
    for _ in range(20):
        assert broker.say(b"").rest() == [b"ERROR too many connections"]
    bystanders.undisturbed()
    assert more[0].leave() == []
    broker.eventually(connections=9)
    broker.subscribe("after.all")
    bystanders.undisturbed()


@pytest.mark.parametrize("reactors", [1, 3])
def test_connections_of_one_address_are_limited(start, reactors):
    broker = start(reactors=reactors, limits={"connections_per_ip": 3})
    mine = broker.subscribe_many([f"mine.{i}" for i in range(3)])
    for _ in range(10):
        assert broker.say(b"").rest() == [b"ERROR too many connections"]
    other = broker.subscribe("other", source="127.0.0.2")
    assert mine[0].leave() == []
    broker.eventually(connections=3)
    assert broker.subscribe("mine.again").leave() == []
    assert other.leave() == []


def test_a_command_that_does_not_come_in_time_is_given_up(start):
    broker = start(reactors=2, limits={"handshake_seconds": whole_seconds(1)})
    begin = time.monotonic()
    waiting = [broker.say(beginning) for beginning in ("", "P", "SUBSCRIBE t", "PUBLISH t\r") * 3]
    dribbling = broker.say("SUBSCRIBE ")
    done = broker.subscribe("done"), broker.publisher("done")
    broker.loop.sleep(0.3 * FACTOR)
    assert not any(c.ended for c in waiting) or time.monotonic() - begin > whole_seconds(1), "there is time yet"
    for _ in range(int(12 * FACTOR)):
        broker.loop.sleep(0.1)
        if not dribbling.ended:
            dribbling.send("x")
    assert all(c.rest(seconds=at_most(2)) == [b"ERROR timeout"] for c in waiting)
    broker.loop.wait(lambda: dribbling.ended, "a close for bytes that never make a command")
    assert dribbling.take_waiting() == [b"ERROR timeout"]
    done[1].send_lines(b"in time")
    assert done[0].take(1) == [b"in time"]


def test_no_descriptors_left_is_survived(start):
    broker = start(preexec=limit_files(64))
    bystanders = Bystanders(broker)
    crowd = [broker.say("SUBSCRIBE crowd\r\n") for _ in range(150)]
    broker.loop.sleep(0.3)
    bystanders.undisturbed()
    ticks = broker.cpu_ticks()
    broker.loop.sleep(1)
    if not SANITIZER:
        assert broker.cpu_ticks() - ticks < 30, "waiting for descriptors takes no CPU"
    served = [c for c in crowd if c.buffer.startswith(b"OK\r\n")]
    assert 10 < len(served) < 64
    bystanders.undisturbed()
    for client in crowd:
        client.close()
    for _ in range(20):
        assert broker.subscribe("crowd").leave() == []
    bystanders.undisturbed()


def test_the_table_of_files_does_not_grow_under_connections(start):
    """Growing, it would make whoever opens a file wait for the kernel's other cores (a grace period of RCU)."""
    places = lambda: int(re.search(r"^FDSize:\s+(\d+)", Path(f"/proc/{broker.pid}/status").read_text(), re.M).group(1))
    broker = start(limits={"connections": 3000})
    before = places()
    assert 3000 <= before < 8192
    broker.subscribe_many(["crowd"] * 600)
    assert places() == before


BAD_INPUT = {
    "http": b"GET / HTTP/1.1\r\n\r\n",
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500) + b"\n",
    "mqtt": b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x3c\x00\x00\n",
    "ssh": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nul bytes": bytes(3000) + b"\n",
    "a million bytes": b"A" * 1_000_000,
    "a million line ends": b"\n" * 1_000_000,
    "returns": b"\r\r\r\r\n",
    "high bytes": b"\xff" * 1000 + b"\r\n",
    "wildcard": b"PUBLISH >\r\n",
    "huge number": b"SUBSCRIBE t LAST " + b"9" * 1000 + b"x\r\n",
    "huge seq": b"SUBSCRIBE t FROM 0123456789abcdef:" + b"9" * 1000 + b"x\r\n",
    "long topic": b"PUBLISH " + b"t" * 4000 + b"\r\n",
    "too long message": b"PUBLISH t\r\n" + b"m" * 3000 + b"\r\n",
    "percent": b"PUBLISH %s%n%s%n\r\x00\n",
}


@pytest.mark.parametrize("reactors", [1, 3])
def test_bad_input_gets_an_error_and_a_close_and_nobody_else_notices(start, reactors):
    broker = start(reactors=reactors, limits={"message_bytes": "2K"})
    bystanders = Bystanders(broker)
    descriptors = broker.descriptors()
    for name, data in BAD_INPUT.items():
        for client in [broker.say(data) for _ in range(5)]:
            broker.loop.wait(lambda: client.ended, f"a close for {name}")
            lines = client.take_waiting()
            assert lines.pop().startswith(b"ERROR ") and lines in ([], [b"OK"]), name
        bystanders.undisturbed()
    broker.eventually(connections=bystanders.connections, subscriptions=4)
    assert broker.descriptors() == descriptors, "nothing is leaked"


def test_a_client_that_never_closes_its_side_holds_nothing(start):
    broker = start(reactors=2)
    descriptors = broker.descriptors()
    clients = [broker.connect() for _ in range(30)]
    for i, client in enumerate(clients):
        client.holds = True
        client.send([b"NONSENSE\r\n", b"PUBLISH held\r\nBYE\r\n", b"SUBSCRIBE held\r\nBYE\r\n"][i % 3])
    broker.loop.wait_each(clients, lambda c: c.ended, "the broker's close")
    broker.eventually(connections=0)
    assert broker.descriptors() == descriptors


def test_random_bytes_get_an_error_or_a_timeout(start):
    broker = start(reactors=2, limits={"handshake_seconds": whole_seconds(1)})
    bystanders = Bystanders(broker)
    chance = random.Random(2)
    clients = []
    for i in range(300):
        clients.append(broker.say(chance.choice([b"", b"PUB", b"SUBSCRIBE "]) + chance.randbytes(chance.randrange(1, 6000))))
        if i % 50 == 0:
            bystanders.undisturbed()
    broker.loop.wait_each(clients, lambda c: c.ended, "a close")
    for client in clients:
        assert len(lines := client.take_waiting()) == 1 and lines[0].startswith(b"ERROR ")
    bystanders.undisturbed()


def test_half_sent_and_reset_connections_leak_nothing(start):
    broker = start(reactors=2)
    bystanders = Bystanders(broker)
    descriptors = broker.descriptors()
    session = b"PUBLISH reset\r\n" + b"".join(m + b"\r\n" for m in numbered(b"m", 50, 3000))
    chance = random.Random(3)
    for i in range(300):
        client = broker.say(session[: chance.choice([chance.randrange(20), chance.randrange(len(session))])])
        if i % 3:
            broker.loop.turn()
        chance.choice([client.abort, client.close])()
        if i % 50 == 0:
            bystanders.undisturbed()
    broker.eventually(connections=bystanders.connections, subscriptions=4)
    assert broker.descriptors() == descriptors
    bystanders.undisturbed()


@pytest.mark.parametrize("limit", [1024, 4 << 20])
def test_the_limit_of_a_message_is_configured(start, limit):
    broker = start(reactors=2, limits={"message_bytes": f"{limit >> 10}K"}, topics=PATIENT)
    subscriber = broker.subscribe("limit")
    longest = b"m" * limit
    broker.publish("limit", longest, longest)
    publisher = broker.publisher("limit")
    publisher.send_lines(b"before", longest + b"m", b"after")
    broker.loop.wait(lambda: publisher.ended, "a close")
    assert publisher.take_waiting() == [b"ERROR line too long"]
    broker.publish("limit", b"next")
    assert subscriber.leave() == [longest, longest, b"before", b"next"]


@pytest.mark.parametrize("reactors", [1, 2])
def test_two_receive_buffers_are_enough_for_many_publishers(start, reactors):
    broker = start(reactors=reactors, topics=PATIENT, engine={"recv_buffers": 2, "recv_buffer_bytes": "1K"})
    subscribers = broker.subscribe_many([f"starved.{i}" for i in range(8)])
    sent = {p: numbered(b"p%d" % p, 200, size=300) for p in range(32)}
    publishers = [broker.say(f"PUBLISH starved.{p % 8}\r\n") for p in sent]
    for p, publisher in enumerate(publishers):
        publisher.send_lines(*sent[p], *[b"BYE"] * (p % 2))
        if p % 2 == 0:
            publisher.half_close()  # the end of the stream must not hide behind missing buffers
    assert all(p.rest() == [b"OK"] for p in publishers)
    for i, subscriber in enumerate(subscribers):
        lines = subscriber.take(4 * 200)
        for p in range(i, 32, 8):
            assert [x for x in lines if x.startswith(b"p%d " % p)] == sent[p]
    broker.stop(published=6400, matched=6400, delivered=6400, dropped=0)


def test_idle_subscribers_are_noticed_when_buffers_are_few(start):
    broker = start(engine={"recv_buffers": 2, "recv_buffer_bytes": "1K"})
    clients = broker.subscribe_many(["few"] * 100)
    broker.eventually(subscriptions=100)
    for i, client in enumerate(clients):
        client.close() if i % 2 else client.abort()
    broker.eventually(subscriptions=0, connections=0)


def test_topics_without_clients_are_forgotten(start):
    broker = start(reactors=2, topics={"linger_seconds": 1, "history_seconds": 1})
    subscriber = broker.subscribe("staying")
    for i in range(200):
        broker.publish(f"passing.{i}", b"one")
    broker.eventually(topics=1)
    broker.publish("staying", b"still here")
    assert subscriber.leave() == [b"still here"]


@pytest.mark.parametrize("reactors", [1, 3])
def test_a_publisher_whose_topic_finds_no_room_is_told(start, reactors):
    broker = start(reactors=reactors, limits={"topics": 1})
    # Every shard has room for one topic; so many names fill them all.
    asked = [broker.say(f"SUBSCRIBE one.of.many.{i}\r\n") for i in range(60)]
    broker.loop.wait_each(asked, lambda c: c.has(1), "an answer")
    kept = [c for c in asked if c.take(1) == [b"OK"]]
    assert 1 <= len(kept) <= reactors
    refused = broker.say("PUBLISH too.many\r\nfor nobody\r\nBYE\r\n").rest()
    assert refused[-1] == b"ERROR too many topics" and refused[:-1] in ([], [b"OK"])
    assert [client.leave() for client in kept] == [[] for _ in kept]
    broker.eventually(subscriptions=0, published=0)
    broker.works()


def test_a_connection_that_was_accepted_and_closed_at_once_is_no_trouble(start):
    broker = start(reactors=2)
    for i in range(200):
        client = broker.connect()
        client.abort() if i % 2 else client.socket.shutdown(socket.SHUT_RDWR)
    broker.close_clients()
    broker.eventually(connections=0)
    broker.works()


# --- behind a proxy ----------------------------------------------------------------------------------

V2 = b"\r\n\r\n\0\r\nQUIT\n"


def v2(address):
    return V2 + b"\x21\x11\0\x0c" + socket.inet_aton(address) + b"\x0a\0\0\x01\x30\x39\x1f\x90"


@pytest.mark.parametrize("protocols", [["line"], ["line", "http"]], ids=len)
def test_limits_see_whom_a_proxy_speaks_for(start, protocols):
    proxied = {"address": "127.0.0.1:0", "protocols": protocols, "proxy_protocol": True, "proxy_from": ["127.0.0.0/31"]}
    broker = start(reactors=2, listen={"main": proxied}, limits={"connections_per_ip": 1})
    first = broker.say(b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 8080\r\nSUBSCRIBE proxied\r\n").ok()
    others = [broker.say(v2(f"203.0.113.{n}") + b"SUBSCRIBE proxied\r\n").ok() for n in range(8, 12)]
    own = broker.say(V2 + b"\x20\0\0\0SUBSCRIBE proxied\r\n").ok()
    pieces = broker.connect()
    for byte in v2("203.0.113.20") + b"SUBSCRIBE proxied\r\n":
        pieces.send(bytes([byte]))
        broker.loop.turn()
    pieces.ok()
    assert broker.say(v2("203.0.113.7") + b"SUBSCRIBE proxied\r\n").rest() == [b"ERROR too many connections"]
    assert first.leave() == [] and own.leave() == [] and pieces.leave() == []
    again = broker.say(v2("203.0.113.7") + b"SUBSCRIBE proxied\r\n").ok()
    assert again.leave() == [] and all(o.leave() == [] for o in others)


def test_a_proxy_says_first_whose_connection_it_is_and_nobody_else_may(start):
    proxied = {"address": "127.0.0.1:0", "protocols": ["line"], "proxy_protocol": True, "proxy_from": ["127.0.0.1"]}
    broker = start(listen={"main": proxied})
    silent = broker.say(b"SUBSCRIBE without\r\n")
    broker.loop.wait(lambda: silent.ended, "the end of one without a header")
    assert not silent.buffer
    assert broker.say(b"SUBSCRIBE direct\r\n", source="127.0.0.2").ok().leave() == []
    lied = broker.say(b"PROXY TCP4 203.0.113.7 10.0.0.1 56324 8080\r\n", source="127.0.0.2").rest()
    assert len(lied) == 1 and lied[0].startswith(b"ERROR ")
