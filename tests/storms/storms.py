"""The storms: each one attacks a running broker and asserts that it did the right thing.

A storm is a function of a broker and a size. It returns what it measured, by name, with the span of time in which it blew;
it raises AssertionError when something was lost or wrong, somebody was not served, or memory or descriptors did not come back. Sizes are small in `make check` and
full in `make storms`; how much a healthy pair suffers meanwhile is for run.py to measure.
"""

import ctypes
import email.utils
import os
import random
import re
import signal
import socket
import ssl
import struct
import subprocess
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from clients import Crowd, free_port, request, talk  # first: it knows where the others are
import mqtt_wire
from certificates import Authority
from harness import FACTOR, PATIENCE, ROOT, SANITIZER, Broker, at_most, config_text, whole_seconds
from resp import command
from web_socket import PING, TEXT, frame

CORPUS = ROOT / "tests/fuzz/corpus"
LISTEN = {
    "both": {"address": "127.0.0.1:0", "protocols": ["line", "http"]},
    "line": {"address": "127.0.0.1:0", "protocols": ["line"]},
    "http": {"address": "127.0.0.1:0", "protocols": ["http"]},
}
BOTH, LINE, HTTP = range(3)  # indexes of the listeners
TLS = DOORS = 3  # where a storm is `secure`, or for clients of other `doors`
REACTORS = 2
# Receive buffers are used, and so resident, when many send at once: 1024 of 16 KiB for each reactor, and then they stay.
RECEIVE_BYTES = REACTORS * 1024 * (16 << 10)
OK = b"OK\r\n"


@dataclass
class Storm:
    name: str
    what: str
    run: Callable
    small: int
    full: int
    config: dict = field(default_factory=dict)
    beside: bool = True  # a healthy pair can be measured beside it
    rounds: int = 3  # at most, of a measurement
    full_config: dict = field(default_factory=dict)  # instead, at full size
    by_hand: bool = False  # no part of make check
    # The pair's p99 meanwhile may be so many times what it is when all is quiet, and so many ms more.
    within: tuple = None


STORMS = []


def storm(what, small, full, beside=True, rounds=3, full_config=None, by_hand=False, within=None, **config):
    def add(run):
        name = run.__name__.replace("_", "-")
        STORMS.append(Storm(name, what, run, small, full, config, beside, rounds, full_config or config, by_hand, within))
        return run

    return add


def config_of(config, directory):
    """With its listeners; secure=True: one of TLS, too; doors=True: one for NATS, Redis, MQTT and WebSocket."""
    config = dict(config)
    listen = dict(LISTEN)
    if config.pop("doors", False):
        listen["doors"] = {"address": "127.0.0.1:0", "protocols": ["http", "nats", "resp", "mqtt"]}
    if config.pop("secure", False):
        Path(directory).mkdir(exist_ok=True, parents=True)
        chain, key = Authority(directory).issue("main", "DNS:localhost", "IP:127.0.0.1")
        listen["tls"] = {"address": "127.0.0.1:0", "protocols": ["line"], "tls": {"certificate": {"main": {"chain": chain, "key": key}}}}
    return {"reactors": REACTORS, "listen": listen, **config}


def start(directory, config, preexec=None):
    """A broker as storms want it."""
    keys = config_of(config, Path(directory).with_name(f"{Path(directory).name}-certificates"))
    # What a storm leaves in a queue of the kernel's is no reason to be impatient with it.
    keys["limits"] = {"connections": 20_000, **keys.get("limits", {})}
    return Broker(directory, preexec=preexec, **keys)


# --- what is true before and after ---------------------------------------------------------------------


class Baseline:
    """What a broker has before a storm, and must have again after it."""

    def __init__(self, broker):
        self.broker = broker
        stats = broker.stats()
        self.open = {k: stats[k] for k in ("connections", "subscriptions")}
        self.descriptors = broker.descriptors()
        self.memory = broker.memory()
        self.begin = time.monotonic()

    def restored(self, grown=None):
        """Everybody has left and nothing is leaked; grown is the most that memory may have, receive buffers not counted."""
        span = (self.begin, time.monotonic())
        self.broker.loop.wait(
            lambda: not (stats := self.broker.stats()) or all(stats[k] == v for k, v in self.open.items()),
            lambda: f"everybody has left: {self.open}, not {dict(self.broker.stats())}",
            3 * PATIENCE,
        )
        self.broker.loop.wait(lambda: self.broker.descriptors() <= self.descriptors, "descriptors come back", 2 * PATIENCE)
        memory = self.broker.memory() - self.memory
        if grown is not None and not SANITIZER:
            grown += RECEIVE_BYTES
            assert memory <= grown, f"memory grew by {memory >> 10} KiB, more than {grown >> 10} KiB"
        return {"memory": f"{memory / 2**20:+.1f} MiB", "span": span}


def settled(broker, what, **expected):
    """Waits for counters."""
    broker.loop.wait(lambda: (s := broker.stats()) and all(s[k] >= v for k, v in expected.items()), what, 3 * PATIENCE)


def publish(broker, topic, count=1):
    broker.publish(topic, *(b"message %d" % n for n in range(count)))


# --- connections ----------------------------------------------------------------------------------------

WORDS = [b"", b"P", b"PUBLISH come\r\nand go\r\n", b"SUBSCRIBE come\r\n", b"GET / HTTP/1.1\r\n", b"GET /health HTTP/1.1\r\nHost: b\r\n\r\n"]


@storm("connects and closes, half of them resets", 2000, 50_000)
def connects(broker, n):
    before, chance, begin = Baseline(broker), random.Random(1), time.monotonic()
    for done in range(0, n, 250):
        with Crowd() as crowd:
            crowd.added = done
            members = [crowd.add(broker.address(BOTH), chance.choice(WORDS)) for _ in range(min(250, n - done))]
            crowd.turn()
            for i, member in enumerate(members):
                member.close(reset=i % 2 == 0)
    seconds = time.monotonic() - begin
    return {"rate": f"{n / seconds:.0f}/s", **before.restored(grown=16 << 20)}


def subscribed(crowd, address, topic, n, **options):
    """n subscribers that have their OK."""
    members = [crowd.add(address, f"SUBSCRIBE {topic}\r\n".encode(), **options) for _ in range(n)]
    crowd.wait_each(members, lambda m: m.got.startswith(OK) or m.ended, "OK", 2 * PATIENCE)
    assert not any(m.ended for m in members), "a subscriber was turned away"
    return members


@storm("subscribers that come back at once after kill -9 and a restart", 1000, 10_000, beside=False)
def restart(broker, n):
    """Runs on brokers of its own, on a port that stays the same."""
    listen = {"both": {**LISTEN["both"], "address": f"127.0.0.1:{free_port()}"}}
    directory = broker.config_path.parent
    lives = []
    for life in range(2):
        (directory / f"life-{life}").mkdir(exist_ok=True)
    try:
        lives.append(start(directory / "life-0", {"listen": listen}))
        address = lives[0].address()
        with Crowd() as crowd:
            members = subscribed(crowd, address, "lives", n)
            lives[0].process.send_signal(signal.SIGKILL)
            lives[0].checked = True
            killed = time.monotonic()
            crowd.wait_each(members, lambda m: m.ended, "the end of their connection")
        lives.append(start(directory / "life-1", {"listen": listen}))
        ready = time.monotonic()
        with Crowd() as crowd:
            members = subscribed(crowd, address, "lives", n)
            served = time.monotonic()
            publish(lives[1], "lives", 3)
            crowd.wait_each(members, lambda m: m.got.count(b"\n") == 4, "three messages for each")
            assert {bytes(m.got) for m in members} == {b"OK\r\nmessage 0\r\nmessage 1\r\nmessage 2\r\n"}
        assert served - ready < at_most(5), f"{n} were served after {served - ready:.1f} s"
        lives[1].stop(published=3, matched=3 * n, delivered=3 * n, dropped=0)
        return {"all served": f"{served - ready:.2f} s after ready", "down": f"{ready - killed:.2f} s"}
    finally:
        for life in lives:
            life.kill()


TCP_REPAIR = 19


def shorten_keepalive(broker, idle_s=5, interval_s=1, probes=2):
    """Sets the keep-alive times of the broker's listeners, which accepted sockets inherit, from outside (pidfd_getfd(2))."""
    shortened = 0
    with broker.sockets() as sockets:
        for sock in sockets:
            if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_s)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, interval_s)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, probes)
                # Counts for more than the number of probes.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1000 * (idle_s + probes * interval_s))
                shortened += 1
    assert shortened >= 2, "no listeners were found"


@storm("half-open peers (closed in TCP_REPAIR mode), found by keep-alive", 200, 2000, rounds=1)
def half_open(broker, n):
    """In small the keep-alive is shortened; the full storm waits for the broker's own."""
    before = Baseline(broker)
    short = n <= 200
    if short:
        shorten_keepalive(broker)
    with Crowd() as crowd:
        members = subscribed(crowd, broker.address(BOTH), "gone", n)
        gone = time.monotonic()
        for member in members:
            member.socket.setsockopt(socket.IPPROTO_TCP, TCP_REPAIR, 1)
            member.close()  # no FIN, no RST: the broker cannot know
        broker.loop.sleep(0.3)
        settled(broker, "they are there", subscriptions=n)
        limit = 20 if short else 150
        wanted = before.open["subscriptions"]
        broker.loop.wait(lambda: broker.stats()["subscriptions"] == wanted, "half-open peers are found", at_most(limit))
        found = time.monotonic() - gone
    return {"all found": f"{found:.0f} s", **before.restored(grown=8 << 20)}


# --- slow ones ------------------------------------------------------------------------------------------


@storm(
    "subscribers that stop reading under full load", 50, 1000,
    topics={"backlog_bytes": "1M", "backlog_seconds": 600, "history_messages": 0},
)
def stalled(broker, n):
    before = Baseline(broker)
    total = (24 << 20) if n <= 50 else (256 << 20)
    line = b"x" * 998 + b"\r\n"
    batch = line * 250
    with Crowd() as crowd:
        heard = {"bytes": 0, "crc": 0}

        def listen(data):
            heard["bytes"] += len(data)
            heard["crc"] = zlib.crc32(data, heard["crc"])

        stuck = subscribed(crowd, broker.address(BOTH), "flood", n, rcvbuf=64 << 10)
        for member in stuck:
            crowd.epoll.unregister(member.socket)
        reader = crowd.add(broker.address(BOTH), b"SUBSCRIBE flood\r\n", keep=listen)
        crowd.wait(lambda: heard["bytes"] == len(OK), "the reader's OK")
        publisher = crowd.add(broker.address(BOTH), b"PUBLISH flood\r\n")
        begin, said, expected, peak = time.monotonic(), 0, zlib.crc32(OK), 0
        while said < total:
            # What the reader has heard sets the pace: it is never the slow one.
            if said - heard["bytes"] < 512 << 10 and not publisher.out:
                publisher.say(batch)
                expected = zlib.crc32(batch, expected)
                said += len(batch)
                if said % (8 << 20) < len(batch):
                    peak = max(peak, broker.memory())
            crowd.turn(0.005)
            assert time.monotonic() - begin < 120 * FACTOR and not reader.ended, "the reader is served all the time"
        crowd.wait(lambda: heard["bytes"] >= said + len(OK), "all of it for the reader", 3 * PATIENCE)
        seconds = time.monotonic() - begin
        assert (heard["bytes"], heard["crc"]) == (said + len(OK), expected), "the reader got exactly what was published"
        # Each of the stuck is in the end told so, and everything is counted.
        settled(broker, "those that do not read are dropped", dropped_slow=1)
    grown = max(peak, broker.memory()) - before.memory
    if not SANITIZER:
        # A backlog for each reactor, twice (the chain and its blocks), beside what connections themselves take.
        # Not a backlog of 1 MiB for each of them, but one for each reactor, and what waits between the two.
        assert grown < RECEIVE_BYTES + (32 << 20) + 2048 * n, f"{grown >> 20} MiB for {n} stalled subscribers"
    return {"to the reader": f"{said / seconds / 1e6:.0f} MB/s", "peak": f"{grown / 2**20:+.1f} MiB", **before.restored()}


@storm("slowloris: a byte now and then, commands, heads and bodies that never end", 300, 4000, limits={"handshake_seconds": whole_seconds(2)})
def slowloris(broker, n):
    before = Baseline(broker)
    starts = [b"SUBSCRIBE ", b"PUBLISH ", b"GET /topic/x HTTP/1.1\r\nX: ", b"\r\n" * 0]
    with Crowd() as crowd:
        members = [crowd.add(broker.address(BOTH), starts[i % 4]) for i in range(n)]
        connected = time.monotonic()
        slow = [m for i, m in enumerate(members) if i % 4 < 3]
        limit = before.broker.config["limits"]["handshake_seconds"]
        while time.monotonic() - connected < limit + 3 * FACTOR:
            crowd.sleep(0.25)
            for member in slow:
                if not member.ended:
                    member.say(b"a")
            if all(m.ended for m in members):
                break
        crowd.wait_each(members, lambda m: m.ended, "a close", PATIENCE)
        closed = time.monotonic() - connected
        answers = {bytes(m.got).partition(b"\r\n")[0] for m in members}
        # Who has not begun to say something would take it for the answer to what he is about to ask.
        assert answers <= {b"ERROR timeout", b"HTTP/1.1 408 Request Timeout", b""}, answers
        assert all(bool(m.got) == (i % 4 < 3) for i, m in enumerate(members)), "whoever has begun is told"
    return {"all closed": f"{closed:.1f} s", **before.restored(grown=16 << 20)}


class Handshake:
    """A member's side of TLS. It may stop: in the middle of its first words, or behind them."""

    def __init__(self, crowd, address, context, stops):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing)
        self.stops, self.served, self.heard = stops, False, b""
        self.secure = self.step()
        hello = self.outgoing.read()
        self.member = crowd.add(address, hello[:100] if stops == "within" else hello)

    def step(self):
        try:
            self.tls.do_handshake()
            return True
        except ssl.SSLWantReadError:
            return False

    def go_on(self):
        if self.stops or self.served or not self.member.got:
            return
        self.incoming.write(bytes(self.member.got))
        self.member.got.clear()
        if not self.secure:
            self.secure = self.step()
            if self.secure:
                self.tls.write(b"SUBSCRIBE secured\r\n")
            self.member.say(self.outgoing.read())
        if self.secure:
            try:
                self.heard += self.tls.read(1 << 16)
            except ssl.SSLWantReadError:
                pass
            self.served = self.heard == OK


@storm(
    "TLS clients that come all at once, and half of them stop in the middle of the handshake",
    200,
    10_000,
    # So many take the clients, which are all in this process, a while, and those that have stopped hold no place up.
    full_config={"secure": True, "limits": {"handshake_seconds": 60, "accepts_per_ip": 0, "tls_handshakes": 10_000}},
    rounds=1,
    within=(2, 2),
    secure=True,
    limits={"handshake_seconds": whole_seconds(1), "accepts_per_ip": 0},
)
def handshakes(broker, n):
    before = Baseline(broker)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with Crowd() as crowd:
        all_of_them = [Handshake(crowd, broker.address(TLS), context, (None, "within", None, "behind")[i % 4]) for i in range(n)]
        connected = time.monotonic()
        patience = connected + 6 * PATIENCE
        while any(not h.served for h in all_of_them if not h.stops) or any(not h.member.ended for h in all_of_them if h.stops):
            assert time.monotonic() < patience, f"{sum(h.served for h in all_of_them)} of {n} served"
            crowd.sleep(0.02)
            for h in all_of_them:
                h.go_on()
                assert h.stops or not h.member.ended, "a client that did not stop was closed"
            if all(h.served for h in all_of_them if not h.stops) and connected:
                served, connected = time.monotonic() - connected, 0
    # What the library took for all that were under way at a time stays with the allocator, as far as it was touched. With 1,000
    # of each: in the middle of their first words 73 KB are counted of one, and 42 KB stay; behind them 52 KB, and 13 KB more stay.
    # How many are under way at a time is the machine's doing: with 10,000 on two busy cores 42 KB stayed of each.
    return {"all served": f"{served:.1f} s", **before.restored(grown=(16 << 20) + (48 << 10) * n)}


# --- many at once ---------------------------------------------------------------------------------------


@storm("requests in one write, read at once and read never", 2000, 10_000)
def pipelines(broker, n):
    before = Baseline(broker)
    address = broker.address(BOTH)
    post = b"POST /publish/pipe HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\n\r\nbody"
    get = b"GET /health HTTP/1.1\r\nHost: b\r\n\r\n"
    begin = time.monotonic()
    got = talk(address, (post + get) * (n // 2), lambda got: got.count(b"HTTP/1.1 ") == n and got.endswith(b"ok\n"), 3 * PATIENCE)
    answered = time.monotonic() - begin
    assert got.count(b"HTTP/1.1 200 OK\r\n") == n
    ids = [int(x) for x in re.findall(rb'"id":"[0-9a-f]{16}:(\d+)"', got)]
    assert ids == list(range(ids[0], ids[0] + n // 2)), "answered in order, each once"

    lines = b"".join(b"line %d\r\n" % i for i in range(n))
    with Crowd() as crowd:
        subscriber = subscribed(crowd, address, "lines", 1)[0]
        assert talk(address, b"PUBLISH lines\r\n" + lines + b"BYE\r\n", lambda _: False) == OK
        crowd.wait(lambda: len(subscriber.got) >= len(OK + lines), "all lines")
        assert bytes(subscriber.got) == OK + lines

    # Large answers to somebody who never reads them must wait for room, not pile up.
    body = b"b" * 100_000
    assert request(address, "POST", "/publish/large", body)[0] == 200
    memory = broker.memory()
    with Crowd() as crowd:
        ask = b"GET /topic/large/last HTTP/1.1\r\nHost: b\r\n\r\n"
        members = [crowd.add(address, ask * n, rcvbuf=4096, reads=False) for _ in range(8)]
        crowd.sleep(1)
        grown = broker.memory() - memory
        if not SANITIZER:
            assert grown < RECEIVE_BYTES + (16 << 20), f"{grown >> 20} MiB for 8 clients that do not read {n} answers"
        for member in members:
            member.close(reset=True)
    return {"answers": f"{n / answered:.0f}/s", "unread": f"{grown / 2**20:+.1f} MiB", **before.restored(grown=24 << 20)}


@storm("subscriptions of one topic, coming and going while messages pass", 3000, 100_000)
def churn(broker, n):
    before, address, begin = Baseline(broker), broker.address(BOTH), time.monotonic()
    chance, wave, published = random.Random(3), 1000, 0
    with Crowd() as crowd:
        faithful, publisher = subscribed(crowd, address, "churned", 1)[0], crowd.add(address, b"PUBLISH churned\r\n")
        for done in range(0, n, wave):
            comers = [crowd.add(address, b"SUBSCRIBE churned\r\n") for _ in range(min(wave, n - done))]
            publisher.say(b"message %d\r\n" % published)
            published += 1
            crowd.wait_each(comers, lambda m: m.got.startswith(OK), "OK for everybody")
            publisher.say(b"message %d\r\n" % published)
            last = b"message %d\r\n" % published
            published += 1
            # Who has its OK gets what is published after it.
            crowd.wait_each(comers, lambda m: m.got.endswith(last), "the message after OK")
            for member in comers:
                way = chance.randrange(3)
                if way == 0:
                    member.say(b"BYE\r\n")
                member.close(reset=way == 1)
        everything = OK + b"".join(b"message %d\r\n" % i for i in range(published))
        crowd.wait(lambda: len(faithful.got) >= len(everything), "all messages for who stayed")
        assert bytes(faithful.got) == everything
    seconds = time.monotonic() - begin
    return {"rate": f"{n / seconds:.0f}/s", **before.restored(grown=16 << 20)}


@storm(
    "topics, each with a message, there at once and then forgotten (in small twice)", 30_000, 1_000_000, rounds=1,
    topics={"linger_seconds": whole_seconds(1), "history_seconds": whole_seconds(1)},
    full_config={"topics": {"linger_seconds": 30, "history_seconds": 30}, "limits": {"topics": 1_100_000}},
)
def topics(broker, n):
    before = Baseline(broker)
    seen = {"topics": 0, "memory": 0}

    def look():
        seen["memory"] = max(seen["memory"], broker.memory() - before.memory)

    begin = time.monotonic()
    peaks, waves, rates = [], 2 if n < 100_000 else 1, []
    for wave in range(waves):
        wave_begin = time.monotonic()
        seen["memory"] = 0
        with Crowd() as crowd:
            answers = [0] * 4
            tail = [b""] * 4

            def count(i):
                def heard(data):
                    joined = tail[i] + data
                    answers[i] += joined.count(b"HTTP/1.1 200 OK\r\n")
                    tail[i] = joined[-16:]  # a byte less than what is counted

                return heard

            posts = [crowd.add(broker.address(BOTH), keep=count(i)) for i in range(4)]
            said = [0] * 4
            while sum(answers) < n:
                for i, member in enumerate(posts):
                    if said[i] < n // 4 and said[i] - answers[i] < 2000 and not member.out:
                        names = range(said[i], min(said[i] + 1000, n // 4))
                        member.say(
                            b"".join(b"POST /publish/w%d.%d.%d HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\n\r\nm" % (wave, i, k) for k in names)
                        )
                        said[i] += len(names)
                crowd.turn(0.01)
                if sum(answers) % 50 == 0:
                    look()
                assert not any(m.ended for m in posts) and time.monotonic() - begin < 240 * FACTOR, (answers, said)
            assert sum(answers) == n
        look()
        rates.append(n / (time.monotonic() - wave_begin))
        if waves == 1:
            settled(broker, "all topics are there at once", topics=n)
        peaks.append(seen["memory"])
        broker.loop.wait(lambda: broker.stats()["topics"] < 100, "topics without clients are forgotten", 6 * PATIENCE)
    if not SANITIZER:
        assert peaks[-1] < 1.25 * peaks[0] + RECEIVE_BYTES, f"a second wave takes {peaks} bytes: something stays"
        assert peaks[0] < 1000 * n + RECEIVE_BYTES, f"{peaks[0] / n:.0f} bytes a topic"
    return {"rate": f"{max(rates):.0f}/s", "peak": ", ".join(f"{p / 2**20:.0f} MiB" for p in peaks), **before.restored()}


# --- much to do in a turn -------------------------------------------------------------------------------


def counted(wanted):
    """For keep: counts how often this comes, wherever it is cut; the list holds the number."""
    count, tail = [0], [b""]

    def heard(data):
        joined = tail[0] + data
        count[0] += joined.count(wanted)
        tail[0] = joined[-len(wanted) + 1 :]

    return count, heard


def both(one, other):
    """For keep: what comes is for each of the two."""
    return lambda data: (one(data), other(data))


def published_all(broker, before, what, members, messages):
    """Publishers that have said all and BYE: each has its receipt, and every message its number."""
    crowd = members[0].crowd
    crowd.wait_each(members, lambda m: m.ended, f"receipts: {what}", 12 * PATIENCE)
    assert all(bytes(m.got) == OK for m in members), "each publisher has its OK and its end"
    settled(broker, f"all of them published: {what}", published=before + messages)


@storm("pipelined requests for the last message of a block of 130,000 empty ones", 100, 8000)
def long_blocks(broker, n):
    before, address = Baseline(broker), broker.address(BOTH)
    assert talk(address, b"PUBLISH long\r\n" + b"\r\n" * 132_000 + b"BYE\r\n", lambda _: False, 3 * PATIENCE) == OK
    ask = b"GET /topic/long/last HTTP/1.1\r\nHost: b\r\n\r\n"
    begin = time.monotonic()
    with Crowd() as crowd:
        counts = []
        for _ in range(10):
            count, heard = counted(b"HTTP/1.1 200 OK")
            crowd.add(address, ask * (n // 10), keep=heard)
            counts.append(count)
        crowd.wait(lambda: all(c[0] == n // 10 for c in counts), lambda: f"answers: {counts}", 6 * PATIENCE)
        seconds = time.monotonic() - begin
    return {"answers": f"{n / seconds:.0f}/s", **before.restored(grown=24 << 20)}


@storm("publishers at full speed to topics that nobody reads", 50, 1000, topics={"history_messages": 0, "linger_seconds": 0})
def unread(broker, n):
    before, said = Baseline(broker), broker.stats()["published"]
    lines = 2000
    with Crowd() as crowd:
        begin = time.monotonic()
        text = (b"x" * 98 + b"\r\n") * lines + b"BYE\r\n"
        published_all(broker, said, "unread", [crowd.add(broker.address(BOTH), b"PUBLISH unread.%d\r\n" % i + text) for i in range(n)], n * lines)
        seconds = time.monotonic() - begin
    return {"messages": f"{n * lines / seconds:.0f}/s", **before.restored(grown=48 << 20)}


@storm("publishers of messages of 64 KiB to topics that nobody reads", 10, 100, by_hand=True, topics={"history_messages": 0, "linger_seconds": 0})
def bulk(broker, n):
    before, said = Baseline(broker), broker.stats()["published"]
    lines = 100
    text = (b"x" * (65536 - 2) + b"\r\n") * lines + b"BYE\r\n"
    with Crowd() as crowd:
        begin = time.monotonic()
        published_all(broker, said, "bulk", [crowd.add(broker.address(BOTH), b"PUBLISH bulk.%d\r\n" % i + text) for i in range(n)], n * lines)
        seconds = time.monotonic() - begin
    return {"bytes": f"{n * lines * 65536 / seconds / 1e6:.0f} MB/s", **before.restored(grown=48 << 20)}


@storm("connections with 60 KiB of pipelined requests each", 20, 1000, by_hand=True)
def asks(broker, n):
    before, address = Baseline(broker), broker.address(BOTH)
    get = b"GET /health HTTP/1.1\r\nHost: b\r\n\r\n"
    post = b"POST /publish/asks HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\n\r\n"
    wanted, counts = 0, []
    begin = time.monotonic()
    with Crowd() as crowd:
        for i in range(n):
            ask = post if i % 2 else get
            times = (60 << 10) // len(ask)
            count, heard = counted(b"HTTP/1.1 200 OK")
            crowd.add(address, ask * times, keep=heard)
            counts.append(count)
            wanted += times
        crowd.wait(lambda: sum(c[0] for c in counts) == wanted, lambda: f"{sum(c[0] for c in counts)} of {wanted} answers", 12 * PATIENCE)
        seconds = time.monotonic() - begin
    return {"answers": f"{wanted / seconds:.0f}/s", **before.restored(grown=48 << 20)}


@storm("requests that wait for a message, and a publisher to their topic", 300, 10_000, http={"wait_seconds": 60, "ahead": 1000})
def waiters(broker, n):
    before, address = Baseline(broker), broker.address(BOTH)
    ask = b"GET /topic/awaited/%d HTTP/1.1\r\nHost: b\r\n\r\n"
    with Crowd() as crowd:
        publisher = crowd.add(address, b"PUBLISH awaited\r\n")
        crowd.wait(lambda: publisher.got == OK, "the publisher's OK")
        early = [crowd.add(address, ask % 1) for _ in range(n)]
        late = crowd.add(address, ask % 300)
        crowd.wait(lambda: not any(m.out for m in early), "all have asked")
        crowd.sleep(0.5)
        for i in range(1, 300):
            publisher.say(b"message %d\r\n" % i)
            crowd.turn(0.001)
        crowd.wait_each(early, lambda m: m.got.endswith(b"\r\n\r\nmessage 1"), "the first message", 3 * PATIENCE)
        assert not late.got, "who waits for another one is not told"
        publisher.say(b"message 300\r\n")
        crowd.wait(lambda: late.got.endswith(b"\r\n\r\nmessage 300"), "the last message")
    return before.restored(grown=(16 << 20) + 4096 * n)


@storm("subscribers that ask for the past at once, of a history of blocks of one message", 200, 5000, topics={"history_messages": 10_000})
def replays(broker, n):
    before, address, kept = Baseline(broker), broker.address(BOTH), 2000
    count, heard = counted(b"HTTP/1.1 200 OK")
    with Crowd() as crowd:
        crowd.add(address, b"".join(b"POST /publish/past HTTP/1.1\r\nHost: b\r\nContent-Length: 4\r\n\r\n%04d" % i for i in range(kept)), keep=heard)
        crowd.wait(lambda: count[0] == kept, lambda: f"a history: {count[0]} of {kept}", 3 * PATIENCE)
    wanted = OK + b"".join(b"%04d\r\n" % i for i in range(kept - 50, kept))
    begin = time.monotonic()
    with Crowd() as crowd:
        members = [crowd.add(address, b"SUBSCRIBE past LAST 50\r\n") for _ in range(n)]
        crowd.wait_each(members, lambda m: len(m.got) >= len(wanted) or m.ended, "the past", 3 * PATIENCE)
        assert all(m.got == wanted for m in members), "each has the same past, whole"
        seconds = time.monotonic() - begin
    return {"replays": f"{n / seconds:.0f}/s", **before.restored(grown=(24 << 20) + 4096 * n)}


@storm("lines with a CR inside", 4, 50, topics={"history_messages": 0})
def returns(broker, n):
    before, said = Baseline(broker), broker.stats()["published"]
    pairs = (256 << 10) // 5
    text = b"a\n\rb\n" * pairs + b"BYE\r\n"
    with Crowd() as crowd:
        begin = time.monotonic()
        published_all(broker, said, "lines with a CR", [crowd.add(broker.address(BOTH), b"PUBLISH returns.%d\r\n" % (i % 5) + text) for i in range(n)], 2 * pairs * n)
        seconds = time.monotonic() - begin
    return {"messages": f"{2 * pairs * n / seconds:.0f}/s", **before.restored(grown=48 << 20)}


@storm("empty lines to an event stream", 20_000, 1_000_000, limits={"memory_bytes": "48M"}, topics={"history_messages": 0})
def empties(broker, n):
    """Two bytes become a hundred on their way; who reads gets all of them."""
    before, address = Baseline(broker), broker.address(BOTH)
    count, heard = counted(b"\ndata:")
    peak, said = 0, 0
    with Crowd() as crowd:
        reader = crowd.add(address, b"GET /subscribe/empty HTTP/1.1\r\nHost: b\r\nAccept: text/event-stream\r\n\r\n", keep=heard)
        crowd.wait(lambda: not reader.out, "it has asked")
        settled(broker, "the stream is there", subscriptions=before.open["subscriptions"] + 1)
        publisher = crowd.add(address, b"PUBLISH empty\r\n")
        while said < n:
            if not publisher.out:
                publisher.say(b"\r\n" * 20_000)
                said += 20_000
            crowd.turn(0.01)
            peak = max(peak, broker.memory())
        crowd.wait(lambda: count[0] >= n, lambda: f"{count[0]} of {n} events", 12 * PATIENCE)
        assert count[0] == n
    if not SANITIZER:
        assert peak - before.memory < (80 << 20) + RECEIVE_BYTES, f"{peak >> 20} MiB where 48 are allowed"
    return {"peak": f"{(peak - before.memory) / 2**20:+.1f} MiB", **before.restored()}


@storm("clients that ask for /metrics at once, half of whom read nothing", 200, 9000, limits={"memory_bytes": "64M"})
def metrics(broker, n):
    before, address, peak = Baseline(broker), broker.address(BOTH), 0
    ask = b"GET /metrics HTTP/1.1\r\nHost: b\r\n\r\n"
    with Crowd() as crowd:
        begin, members = time.monotonic(), []
        for i in range(n):
            count, heard = counted(b"\nbroker_turns_total{")
            reads = i % 2 == 0
            crowd.add(address, ask, reads=reads, keep=heard, rcvbuf=None if reads else 4096)
            if reads:
                members.append(count)
            if i % 100 == 99:
                crowd.turn()
                peak = max(peak, broker.memory())
        crowd.wait(lambda: all(c[0] == REACTORS for c in members), lambda: f"{sum(c[0] == REACTORS for c in members)} of {len(members)} have figures", 6 * PATIENCE)
        peak = max(peak, broker.memory())
        seconds = time.monotonic() - begin
    if not SANITIZER:
        # A session each, and not a text.
        assert peak - before.memory < RECEIVE_BYTES + (16 << 20) + 6144 * n, f"{(peak - before.memory) >> 20} MiB for {n} clients"
    return {"served in": f"{seconds:.1f} s", "peak": f"{(peak - before.memory) / 2**20:+.1f} MiB", **before.restored()}


@storm("topics with a reader each that has stopped", 50, 1000, topics={"backlog_bytes": "64K", "backlog_seconds": 600, "history_messages": 0})
def stuck_topics(broker, n):
    before, address, size = Baseline(broker), broker.address(BOTH), 16 << 10
    line = b"x" * (size - 2) + b"\r\n"
    with Crowd() as crowd:
        stuck = [crowd.add(address, b"SUBSCRIBE stuck.%d\r\n" % i, rcvbuf=4096) for i in range(n)]
        crowd.wait_each(stuck, lambda m: m.got.startswith(OK), "OK", 2 * PATIENCE)
        for member in stuck:
            crowd.epoll.unregister(member.socket)
        said = broker.stats()["published"]
        members = [crowd.add(address, b"PUBLISH stuck.%d\r\n" % i + line * 16 + b"BYE\r\n") for i in range(n)]
        published_all(broker, said, "to those who have stopped", members, 16 * n)
        for member in stuck:
            member.close(reset=True)
    return before.restored(grown=(48 << 20) + 4096 * n)


@storm("SIGHUP with many topics", 4000, 200_000, rounds=1, topics={"linger_seconds": 600}, limits={"topics": 1_100_000})
def reload_topics(broker, n):
    before, address = Baseline(broker), broker.address(BOTH)
    counts = []
    with Crowd() as crowd:
        for i in range(4):
            count, heard = counted(b"HTTP/1.1 200 OK")
            crowd.add(address, b"".join(b"POST /publish/r%d.%d HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\n\r\nm" % (i, k) for k in range(n // 4)), keep=heard)
            counts.append(count)
        crowd.wait(lambda: all(c[0] == n // 4 for c in counts), lambda: f"topics: {counts}", 12 * PATIENCE)
    for _ in range(5):
        since = broker.log_size()
        broker.configure()
        os.kill(broker.pid, signal.SIGHUP)
        broker.loop.wait(lambda: "is in force" in broker.log(since), "the reload", 3 * PATIENCE)
    assert broker.stats()["topics"] >= n, "no topic is lost"
    return before.restored()


@storm("a broker that is stopped for some seconds under load, and goes on", 3, 12, rounds=1, topics={"backlog_seconds": 1})
def stopped(broker, n):
    before, address = Baseline(broker), broker.address(BOTH)
    with Crowd() as crowd:
        readers = subscribed(crowd, address, "stopped", 50)
        publisher = crowd.add(address, b"PUBLISH stopped\r\n")
        crowd.wait(lambda: publisher.got == OK, "the publisher's OK")
        said, text = 0, bytearray(OK)

        def publish_for(seconds):
            nonlocal said
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                publisher.say(line := b"message %d\r\n" % said)
                text.extend(line)
                said += 1
                crowd.turn(0.002)

        publish_for(1)
        os.kill(broker.pid, signal.SIGSTOP)
        publish_for(n)
        os.kill(broker.pid, signal.SIGCONT)
        publish_for(1)
        crowd.wait_each(readers, lambda m: len(m.got) >= len(text) or m.ended, "everything", 3 * PATIENCE)
        assert all(m.got == text and not m.ended for m in readers), "nobody is dropped for the time in which nobody could be served"
    return {"messages": f"{said}", **before.restored(grown=16 << 20)}


# --- other doors ----------------------------------------------------------------------------------------

HELLO = b'CONNECT {"verbose":false}\r\n'


@storm("patterns, queue groups and sids of one topic that each get each message, on three connections", 500, 50_000, by_hand=True, doors=True)
def very_many(broker, n):
    before, address, times = Baseline(broker), broker.address(DOORS), 5
    levels = [b"t%d" % i for i in range(16)]
    told = {
        b".".join(levels): [b"SUB " + b".".join(b"*" if i >> k & 1 else level for k, level in enumerate(levels)) + b" %d\r\n" % i for i in range(n)],
        b"groups": [b"SUB groups g%d %d\r\n" % (i, i) for i in range(n)],
        b"sids": [b"SUB sids %d\r\n" % i for i in range(n // 5)],
    }
    with Crowd() as crowd:
        publisher, counts = crowd.add(address, HELLO), {}
        for subject, lines in told.items():
            counts[subject], messages = counted(b"MSG ")
            ready, pongs = counted(b"PONG\r\n")
            crowd.add(address, HELLO + b"".join(lines) + b"PING\r\n", keep=both(messages, pongs))
            crowd.wait(lambda: ready[0] == 1, lambda: f"{subject}: its PONG", 6 * PATIENCE)
        begin = time.monotonic()
        for _ in range(times):
            for subject in told:
                publisher.say(b"PUB %s 1\r\nx\r\n" % subject)
            crowd.sleep(0.2)
        crowd.wait(lambda: all(counts[s][0] == times * len(lines) for s, lines in told.items()), lambda: f"messages: {counts}", 6 * PATIENCE)
        seconds = time.monotonic() - begin
    return {"delivered": f"{times * sum(map(len, told.values())) / seconds:.0f}/s", **before.restored(grown=(32 << 20) + 3 * 1024 * n)}


@storm("MQTT clients with wills that come at once, are taken over, half of them, and go without a word", 200, 10_000, by_hand=True, doors=True)
def wills(broker, n):
    before, address = Baseline(broker), broker.address(DOORS)
    accepted, subscribed_to = b"\x20\x02\x00\x00", b"\x90\x03\x00\x01\x00"

    def client(crowd, i):
        hello = mqtt_wire.connect(4, f"sensor-{i}", keep_alive=60, will=("gone", f"will of {i}", 0, b""))
        return crowd.add(address, hello + mqtt_wire.subscribe(4, "herd"))

    with Crowd() as crowd:
        count, heard = counted(b"\x00\x04gonewill of ")
        stands, acknowledged = counted(subscribed_to)
        watcher = crowd.add(address, mqtt_wire.connect(4, "watcher") + mqtt_wire.subscribe(4, "gone"), keep=both(acknowledged, heard))
        crowd.wait(lambda: stands[0] == 1, "somebody hears of wills")
        begin = time.monotonic()
        herd = [client(crowd, i) for i in range(n)]
        crowd.wait_each(herd, lambda m: m.got == accepted + subscribed_to, "all are subscribed", 6 * PATIENCE)
        came = time.monotonic() - begin
        again = [client(crowd, i) for i in range(n // 2)]
        crowd.wait_each(again, lambda m: m.got == accepted + subscribed_to, "half of them again", 6 * PATIENCE)
        crowd.wait_each(herd[: n // 2], lambda m: m.ended, "those before are taken over", 6 * PATIENCE)
        crowd.wait(lambda: count[0] == n // 2, lambda: f"wills of those taken over: {count[0]} of {n // 2}", 6 * PATIENCE)
        for m in again + herd[n // 2 :]:
            m.close(reset=True)
        crowd.wait(lambda: count[0] == n // 2 + n, lambda: f"wills: {count[0]} of {n // 2 + n}", 6 * PATIENCE)
        assert not watcher.ended
    return {"came": f"{n / came:.0f}/s", **before.restored(grown=(16 << 20) + 4096 * n)}


@storm("subscriptions that Redis clients make and end all the time while messages pass", 50, 1000, by_hand=True, doors=True)
def restless(broker, n):
    before, address, rounds, published = Baseline(broker), broker.address(DOORS), 50, 200
    rest = b"".join(
        command("SUBSCRIBE", "churned", f"own.{r}") + command("PSUBSCRIBE", "chur*") + command("UNSUBSCRIBE") + command("PUNSUBSCRIBE") for r in range(rounds)
    )
    with Crowd() as crowd:
        faithful = crowd.add(broker.address(BOTH), b"SUBSCRIBE churned\r\n")
        crowd.wait(lambda: faithful.got == OK, "who stays is subscribed")
        publisher = crowd.add(address, command("PING"))  # who says nothing is taken for a NATS client
        begin, pongs = time.monotonic(), []
        for _ in range(n):
            pong, heard = counted(b"+PONG\r\n")
            crowd.add(address, rest + command("PING"), keep=heard)
            pongs.append(pong)
        for i in range(published):
            publisher.say(command("PUBLISH", "churned", f"message {i}"))
            crowd.turn(0.002)
        crowd.wait(lambda: all(pong[0] == 1 for pong in pongs), lambda: f"PONGs: {sum(pong[0] for pong in pongs)} of {n}", 12 * PATIENCE)
        seconds = time.monotonic() - begin
        everything = OK + b"".join(b"message %d\r\n" % i for i in range(published))
        crowd.wait(lambda: len(faithful.got) >= len(everything), "all messages for who stayed")
        assert bytes(faithful.got) == everything
    return {"subscriptions": f"{3 * rounds * n / seconds:.0f}/s", **before.restored(grown=(48 << 20) + (16 << 10) * n)}


@storm("WebSocket messages in fragments of a byte, with pings between them", 50, 1000, by_hand=True, doors=True)
def fragments(broker, n):
    before, address, size, messages = Baseline(broker), broker.address(DOORS), 64, 20
    upgrade = b"GET /ws/fragments HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    one = frame(TEXT, "x", fin=False) + b"".join(frame(PING) + frame(0, "x", fin=i == size - 1) for i in range(1, size))
    with Crowd() as crowd:
        count, heard = counted(b"x" * size + b"\r\n")
        stands, said_ok = counted(OK)
        crowd.add(broker.address(BOTH), b"SUBSCRIBE fragments\r\n", keep=both(said_ok, heard))
        crowd.wait(lambda: stands[0] == 1, "somebody hears of them")
        members, heads, pongs = [], [], []
        for _ in range(n):
            head, head_heard = counted(b"\r\n\r\n")
            pong, pong_heard = counted(b"\x8a\x00")
            members.append(crowd.add(address, upgrade, keep=both(head_heard, pong_heard)))
            heads.append(head)
            pongs.append(pong)
        crowd.wait(lambda: all(head[0] == 1 for head in heads), "all are answered", 3 * PATIENCE)
        begin = time.monotonic()
        for member in members:
            member.say(one * messages)
        crowd.wait(lambda: count[0] == n * messages, lambda: f"messages: {count[0]} of {n * messages}", 12 * PATIENCE)
        wanted = messages * (size - 1)
        crowd.wait(lambda: all(pong[0] == wanted for pong in pongs), lambda: f"pongs: {min(p[0] for p in pongs)} of {wanted}", 12 * PATIENCE)
        seconds = time.monotonic() - begin
    return {"frames": f"{n * messages * (2 * size - 1) / seconds:.0f}/s", **before.restored(grown=(48 << 20) + (16 << 10) * n)}


# --- bytes that nobody should send ----------------------------------------------------------------------


def corpus_messages():
    """What the fuzzers start from; the first byte of the line files is theirs, not the client's."""
    for path in sorted((CORPUS / "line").iterdir()) + sorted((CORPUS / "http").iterdir()):
        data = path.read_bytes()
        at = re.search(rb"PUBLISH|SUBSCRIBE|GET|POST|HEAD|OPTIONS", data)
        yield path, data[at.start() if at else 0 :]


def outline(got):
    """What an answer is about, without what differs between two that are alike."""
    words = re.findall(rb"^(?:HTTP/1\.1 \d+|OK$|ERROR .*$|GAP)", bytes(got).replace(b"\r\n", b"\n"), re.M)
    # An error that comes before the topic's home has answered a subscription takes the OK's place.
    return tuple(w for i, w in enumerate(words) if not (w == b"OK" and words[i + 1 : i + 2] and words[i + 1].startswith(b"ERROR")))


@storm("messages of the fuzzers' corpus, cut and split at every byte (size: bytes at most)", 400, 100_000, topics={"history_messages": 0})
def corpus(broker, n):
    before, address, cuts = Baseline(broker), broker.address(BOTH), 0
    files = list(corpus_messages())
    assert len(files) >= 8, "the corpus is where it was"
    for path, data in files:
        data = data[:n]
        with Crowd() as crowd:
            # What it says to the whole, and the end of the connection behind it.
            whole = crowd.add(address, data)
            crowd.sleep(0.1)
            shut(whole)
            crowd.wait(lambda: whole.ended, f"the end after {path.name}")
            wanted = outline(whole.got)
        for at in range(0, len(data), 500):
            places = range(max(1, at), min(at + 500, len(data)))
            with Crowd() as crowd:
                split = [crowd.add(address, data[:k]) for k in places]
                cut = [crowd.add(address, data[:k]) for k in places]
                crowd.sleep(0.1)
                for k, member in zip(places, split):
                    member.say(data[k:])
                for i, member in enumerate(cut):
                    member.close(reset=i % 2 == 0)
                crowd.sleep(0.1)
                for member in split:
                    shut(member)
                crowd.wait_each(split, lambda m: m.ended, f"the end after {path.name} in two pieces", 2 * PATIENCE)
                for k, member in zip(places, split):
                    assert outline(member.got) == wanted, (path.name, k, bytes(member.got), wanted)
                cuts += 2 * len(places)
    broker.works("corpus")
    return {"connections": f"{cuts}", **before.restored(grown=16 << 20)}


def shut(member):
    """It says no more, and goes on reading."""
    try:
        member.socket.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@storm("connections with the other protocol's bytes, or with garbage", 600, 20_000, limits={"handshake_seconds": whole_seconds(2)})
def garbage(broker, n):
    before, chance = Baseline(broker), random.Random(4)
    lines = [b"PUBLISH t\r\nm\r\n", b"SUBSCRIBE t\r\n", b"SUBSCRIBE t LAST 3\r\n", b"BYE\r\n"]
    heads = [b"GET / HTTP/1.1\r\nHost: b\r\n\r\n", b"POST /publish/t HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\n\r\nabc"]
    kinds = [
        lambda: (HTTP, chance.choice(lines)),
        lambda: (LINE, chance.choice(heads)),
        lambda: (chance.randrange(3), b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + chance.randbytes(500)),
        lambda: (chance.randrange(3), chance.randbytes(chance.randrange(1, 6000))),
        lambda: (chance.randrange(3), chance.choice(lines + heads) + chance.randbytes(chance.randrange(1, 2000)) + b"\r\n\r\n"),
        lambda: (chance.randrange(3), chance.choice([b"\0", b"\r", b"\n", b"A", b"\xff"]) * chance.randrange(1, 70_000)),
    ]
    answers = {}
    for done in range(0, n, 500):
        with Crowd() as crowd:
            members = []
            for i in range(min(500, n - done)):
                index, data = kinds[i % len(kinds)]()
                members.append((i % len(kinds), crowd.add(broker.address(index), data)))
            crowd.sleep(0.2)
            for _, member in members:
                shut(member)
            crowd.wait_each([m for _, m in members], lambda m: m.ended, "an answer and a close", 2 * PATIENCE)
            for kind, member in members:
                if kind < 2 and member.got:  # the protocol's own way to say no
                    said = bytes(member.got[:9])
                    assert said == (b"HTTP/1.1 " if kind == 0 else b"ERROR mal"), bytes(member.got[:200])
                answers[kind] = answers.get(kind, 0) + bool(member.got)
    assert answers[0] > 0 and answers[1] > 0, "the wrong protocol is answered"
    broker.works("garbage")
    return {"answered": f"{sum(answers.values())} of {n}", **before.restored(grown=16 << 20)}


# --- configuration and time -----------------------------------------------------------------------------


@storm("reloads of good, bad, truncated and unreadable files", 60, 1000)
def reloads(broker, n):
    before = Baseline(broker)
    good = config_text(**broker.config)
    path = broker.config_path
    chance = random.Random(5)
    subscriber, publisher = broker.subscribe("reloads"), broker.publisher("reloads")
    begin, memory = time.monotonic(), 0
    taken = kept = 0

    def file(kind):
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
        if kind == "good":
            path.write_text(good + f"http {{ heartbeat_seconds = {chance.randrange(5, 60)} }}\n")
        elif kind == "bad":
            path.write_text(good + chance.choice(["reactorz = 1\n", "log_level = 7\n", "topics { slow = maybe }\n"]))
        elif kind == "truncated":
            path.write_text(good[: good.rindex("}") - chance.randrange(1, 10)])
        elif kind == "directory":
            path.mkdir()
        elif kind == "unreadable":
            # Nobody, not even root, can follow a link to itself.
            path.symlink_to(path.name)
        # "missing": it is not there

    kinds = ["good", "bad", "good", "truncated", "good", "directory", "good", "unreadable", "good", "missing"]
    for i in range(n):
        kind = kinds[i % len(kinds)]
        file(kind)
        since = broker.log_size()
        os.kill(broker.pid, signal.SIGHUP)
        word = "is in force" if kind == "good" else "stays in force"
        deadline = time.monotonic() + PATIENCE
        while f"reload: {path} {word}" not in (said := broker.log(since)) and f"{path} is bad" not in said:
            assert time.monotonic() < deadline, f"no word about a {kind} file: {said}"
            broker.loop.turn(0.002)
        assert word in said, f"a {kind} file: {said}"
        taken, kept = taken + (kind == "good"), kept + (kind != "good")
        publisher.send_lines(b"reload %d" % i)
        assert subscriber.take(1) == [b"reload %d" % i]
        if i == n // 4:
            memory = broker.memory()
    grown = broker.memory() - memory
    file("good")
    # And a burst without waiting: signals merge, the last one counts.
    for _ in range(n):
        os.kill(broker.pid, signal.SIGHUP)
    if not SANITIZER:
        assert grown < 4 << 20, f"{grown >> 10} KiB for three quarters of {n} reloads"
    assert subscriber.leave() == [] and publisher.leave() == []
    seconds = time.monotonic() - begin
    return {"taken": f"{taken}", "refused": f"{kept}", "rate": f"{n / seconds:.0f}/s", **before.restored(grown=16 << 20)}


YEAR_S = 365 * 86400
CLONE_NEWUSER, CLONE_NEWTIME = 0x10000000, 0x80


def in_a_time_namespace(seconds):
    """For preexec: CLOCK_MONOTONIC and CLOCK_BOOTTIME of the program are this far ahead (time_namespaces(7))."""

    def enter():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWTIME) != 0 and libc.unshare(CLONE_NEWUSER | CLONE_NEWTIME) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        with open("/proc/self/timens_offsets", "w") as offsets:
            offsets.write(f"monotonic {seconds} 0\nboottime {seconds} 0\n")

    return enter


# Stands before the C library's clock_gettime(2): CLOCK_REALTIME is as many seconds off as a file says, at any moment.
STEP_C = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static const volatile int64_t *offset_s;

__attribute__((constructor)) static void begin(void)
{
	int fd = open(getenv("STEP_FILE"), O_RDONLY | O_CLOEXEC);

	offset_s = mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);
}

int clock_gettime(clockid_t id, struct timespec *ts)
{
	static int (*next)(clockid_t, struct timespec *);
	int err;

	if (next == NULL)
		next = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
	err = next(id, ts);
	if (err == 0 && id == CLOCK_REALTIME && offset_s != NULL)
		ts->tv_sec += *offset_s;
	return err;
}
"""


def stepping_clock(directory):
    """For preexec, and a function that steps the broker's wall clock to so many seconds off."""
    source, library, file = (directory / name for name in ("step.c", "step.so", "step"))
    source.write_text(STEP_C)
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    file.write_bytes(bytes(8))

    def preload():
        os.environ["LD_PRELOAD"] = str(library)
        os.environ["STEP_FILE"] = str(file)
        # The sanitizer wants to be first, and need not be.
        os.environ["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"

    def step(seconds):
        with open(file, "r+b") as out:
            out.write(struct.pack("<q", seconds))

    return preload, step


@storm("steps of the wall clock, a year at a time, forth and back", 6, 40, beside=False)
def clock(broker, n):
    """On brokers of its own: one with a wall clock that steps, whose monotonic clock is years ahead."""
    directory = broker.config_path.parent / "clock"
    directory.mkdir()
    preload, step = stepping_clock(directory)
    in_ten_years = in_a_time_namespace(10 * YEAR_S)

    def preexec():
        in_ten_years()
        preload()

    limits = {"handshake_seconds": whole_seconds(2)}
    stepped = start(directory, {"limits": limits, "http": {"wait_seconds": whole_seconds(1)}}, preexec)
    try:
        assert os.readlink(f"/proc/{stepped.pid}/ns/time") != os.readlink("/proc/self/ns/time")
        address, chance = stepped.address(BOTH), random.Random(6)
        subscriber, publisher = stepped.subscribe("clock"), stepped.publisher("clock")
        epoch = time.time()
        for i in range(n):
            offset = [YEAR_S, -YEAR_S, 30 * YEAR_S, -int(epoch) + 1, 0, YEAR_S * chance.randrange(-40, 60)][i % 6]
            # Deadlines that run while the clock steps; two steps show it.
            early = stepped.connect() if i < 2 else None
            step(offset)
            # The text of a date is made once in a second of the monotonic clock.
            stepped.loop.sleep(1.1)
            status, head, _ = request(address, "GET", "/health")
            said = email.utils.parsedate_to_datetime(re.search(r"date: (.*?)\r", head).group(1)).timestamp()
            assert status == 200 and abs(said - (time.time() + offset)) < 5 * FACTOR, (head, offset)
            publisher.send_lines(b"after step %d" % i)
            assert subscriber.take(1) == [b"after step %d" % i]
            # History is as old as it is, not as the wall clock has it.
            replayed = stepped.subscribe("clock", f"LAST {i + 1}")
            assert replayed.take(i + 1) == [b"after step %d" % k for k in range(i + 1)]
            assert replayed.leave() == []
            if early:
                assert not early.ended, "no time has passed for deadlines"
                begin = time.monotonic()
                step(-offset)
                assert request(address, "GET", f"/topic/clock/{i + 3}")[0] == 503, "a request waits for as long as it should"
                waited = time.monotonic() - begin
                assert 0.7 * FACTOR < waited < 5 * FACTOR, f"{waited:.1f} s of {whole_seconds(1)}"
                # It has said nothing, and so it is told nothing.
                assert early.rest(seconds=at_most(5)) == []
        stamps = set(re.findall(r"^(\d{4})-", stepped.log(), re.M))
        assert len(stamps) >= 4, f"the log has the wall clock's years: {stamps}"
        assert publisher.leave() == [] and subscriber.leave() == []
        stepped.stop(published=n, dropped=0)
        return {"years in the log": f"{min(stamps)} to {max(stamps)}"}
    finally:
        stepped.kill()
