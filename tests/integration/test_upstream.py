"""Several brokers that share topics through nats-servers: Debian's, in processes of their own."""

import json
import re
import shutil
import signal
import threading
import time
import urllib.error
import urllib.request

import pytest

from cluster import Client, Cluster
from harness import Broker, PATIENCE, at_most, numbered, whole_seconds

HTTP_AND_LINE = {"address": "127.0.0.1:0", "protocols": ["line", "http"]}


@pytest.fixture
def world(tmp_path):
    """cluster(n) and host(): brokers beside each other; all of it ends with the test."""

    class World:
        cluster, hosts = None, []

        def servers(self, n=1, options=()):
            self.cluster = Cluster(tmp_path, n, options)
            return self.cluster

        def host(self, **config):
            """A broker with its upstream; it has connected when this returns."""
            upstream = {"servers": self.cluster.addresses(), "topics": ["live.>"], "log": "none",
                        "ping_seconds": 1, "reconnect_ms_max": 200, **config.pop("upstream", {})}  # fmt: skip
            directory = tmp_path / f"host{len(self.hosts)}"
            directory.mkdir()
            broker = Broker(directory, **{"reactors": 2, "placement": "none", "listen": {"main": HTTP_AND_LINE},
                                          "upstream": {"nats": upstream}, **config})  # fmt: skip
            self.hosts.append(broker)
            wait_ready(broker)
            return broker

        def close(self):
            try:
                for host in self.hosts:
                    host.close()
            finally:
                if self.cluster is not None:
                    self.cluster.close()

    w = World()
    w.hosts = []
    try:
        yield w
    finally:
        w.close()


def url(broker, path):
    return f"http://{broker.address()}{path}"


def get(broker, path, **headers):
    """Status and body."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url(broker, path), headers=headers), timeout=PATIENCE) as r:
            return r.status, r.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def post(broker, topic, body, **headers):
    request = urllib.request.Request(url(broker, f"/publish/{topic}"), data=body, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as r:
            return r.status, json.load(r)
    except urllib.error.HTTPError as e:
        return e.code, json.loads(e.read())


def is_ready(broker):
    return get(broker, "/ready")[0] == 200


def wait_ready(broker, ready=True):
    broker.loop.wait(lambda: is_ready(broker) == ready, f"/ready is {ready}")


def interests(world, n):
    """Waits until so many topics are subscribed to."""
    server = world.cluster.servers[0]
    world.hosts[0].loop.wait(lambda: len(server.subjects()) == n, lambda: f"{n} interests, there are {server.subjects()}")


# --- the way up and back ------------------------------------------------------------------------------


def test_what_is_published_on_one_host_comes_to_all_of_them_in_its_order(world):
    """The server lets publishers' messages past each other differently for each subscriber: a log has one order."""
    world.servers()
    hosts = [world.host() for _ in range(3)]
    subscribers = [h.subscribe("live.a") for h in hosts]
    publishers = [h.publisher("live.a") for h in hosts]
    for i, publisher in enumerate(publishers):
        publisher.send_lines(*numbered(b"%d" % i, 300))
    for publisher in publishers:
        publisher.leave()
    for got in [s.take(900) for s in subscribers]:
        for i in range(3):
            assert [m for m in got if m.startswith(b"%d " % i)] == numbered(b"%d" % i, 300)


def test_a_nats_program_publishes_and_subscribes_as_ever(world):
    server = world.servers().servers[0]
    host = world.host()
    subscriber = host.subscribe("live.a")
    program = Client(server)
    program.publish("live.a", b"from nats")
    assert subscriber.take(1) == [b"from nats"]
    program.subscribe("live.>")
    host.publish("live.b", b"from a broker")
    assert program.message() == ("live.b", b"", b"from a broker")
    program.close()


def test_a_prefix_stands_before_the_subject(world):
    server = world.servers().servers[0]
    host = world.host(upstream={"publish_prefix": "site."})
    subscriber = host.subscribe("live.a")
    program = Client(server)
    program.publish("live.a", b"no")
    program.publish("site.live.a", b"yes")
    assert subscriber.take(1) == [b"yes"]
    program.close()


def test_other_topics_stay_this_hosts(world):
    server = world.servers().servers[0]
    a, b = world.host(), world.host()
    here, there = a.subscribe("other.a"), b.subscribe("other.a")
    a.publish("other.a", b"mine")
    assert here.take(1) == [b"mine"]
    b.publish("other.a", b"yours")
    assert there.take(1) == [b"yours"]
    assert server.subjects() == []
    assert server.varz()["in_msgs"] == 0


def test_a_post_is_answered_when_it_stands_here(world):
    world.servers()
    a, b = world.host(), world.host()
    subscriber = b.subscribe("live.a")
    for n in range(1, 4):
        status, answer = post(a, "live.a", b"%d" % n, **{"Content-Type": "text/x-test", "X-Version": str(n)})
        assert status == 200
        assert get(a, f"/topic/live.a/{n}") == (200, b"%d" % n)
        assert re.fullmatch(rf"[0-9a-f]{{16}}:{n}", answer["id"])
    assert subscriber.take(3) == [b"1", b"2", b"3"]
    with urllib.request.urlopen(url(b, "/topic/live.a/last")) as r:
        assert (r.read(), r.headers["Content-Type"], r.headers["X-Version"]) == (b"3", "text/x-test", "3")


def test_what_a_message_says_beside_itself_is_kept(world):
    server = world.servers().servers[0]
    host = world.host()
    program = Client(server)
    program.subscribe("live.a")
    post(host, "live.a", b"x", **{"Content-Type": "text/x-test"})
    subject, headers, payload = program.message()
    assert (subject, payload) == ("live.a", b"x")
    assert b"Content-Type: text/x-test\r\n" in headers
    head = b"NATS/1.0\r\nContent-Type: a/b\r\nOther: yes\r\n\r\n"
    program.say(b"HPUB live.a %d %d" % (len(head), len(head) + 2), head + b"hi")
    host.loop.wait(lambda: get(host, "/topic/live.a/last")[1] == b"hi", "it has come")
    program.close()


def test_bytes_of_any_kind_and_any_length_come_back(world):
    world.servers()
    a, b = world.host(), world.host()
    bodies = [b"", b"\0\r\n" * 100, bytes(range(256)) * 100, b"x" * 900_000]
    b.subscribe("live.a")
    for n, body in enumerate(bodies, 1):
        assert post(a, "live.a", body)[0] == 200
        b.loop.wait(lambda n=n: get(b, f"/topic/live.a/{n}")[0] == 200, "it has come")
        assert get(b, f"/topic/live.a/{n}") == (200, body)


def test_a_message_that_no_server_takes_is_refused(world):
    world.servers()
    host = world.host(limits={"message_bytes": "4M"})
    assert post(host, "live.a", b"x" * (1 << 20)) == (413, {"error": "message too long"})
    publisher = host.publisher("live.a")
    publisher.send_lines(b"x" * (1 << 20))
    assert publisher.rest() == [b"ERROR message too long"]
    assert post(host, "live.a", b"x")[0] == 200


def test_much_more_than_may_be_in_flight_comes_whole(world):
    world.servers()
    a, b = world.host(upstream={"in_flight": 16}), world.host()
    subscriber = b.subscribe("live.a")
    messages = numbered(b"m", 20_000, 50)
    publisher = a.publisher("live.a")
    publisher.send_lines(*messages)
    assert subscriber.take(len(messages), at_most(30)) == messages
    assert publisher.leave() == []


def test_what_was_published_before_a_stop_is_delivered_everywhere(world):
    world.servers()
    a, b = world.host(), world.host()
    subscriber = b.subscribe("live.a")
    publisher = a.publisher("live.a")
    messages = numbered(b"m", 2000)
    publisher.send_lines(*messages)
    a.loop.wait(lambda: not publisher.out, "all of it is sent")
    a.loop.sleep(0.1)
    a.stop()
    assert subscriber.take(len(messages)) == messages


# --- interest ------------------------------------------------------------------------------------------


def test_one_subscription_stands_for_all_of_a_host(world):
    server = world.servers().servers[0]
    host = world.host(upstream={"linger_seconds": 1})
    clients = host.subscribe_many(["live.a"] * 5 + ["live.b"] * 5)
    assert server.subjects() == ["live.a", "live.b"]
    for client in clients:
        client.leave()
    interests(world, 0)


def events_of(broker, pattern):
    """An open stream of the events of a pattern; take(n): topic and data of each."""
    request = urllib.request.Request(url(broker, f"/subscribe/{pattern}"), headers={"Accept": "text/event-stream"})
    stream = urllib.request.urlopen(request, timeout=PATIENCE)
    stream.take = lambda n: [next_event(stream) for _ in range(n)]
    return stream


def next_event(stream):
    fields = {}
    while (line := stream.readline()) != b"\n" or "data" not in fields:
        assert line, "the stream has ended"
        name, _, value = line.rstrip(b"\n").partition(b": ")
        fields[name.decode()] = value
    return fields["data"]


@pytest.mark.parametrize("log", ["none", "jetstream"])
def test_a_pattern_gets_each_message_of_every_host_once(world, log):
    """Of topics that nobody has asked for by name, that somebody has, and that several patterns match."""
    server = world.servers(1, ["-js"] if log == "jetstream" else []).servers[0]
    upstream = {"linger_seconds": 1, "reconnect_ms_min": 400, "reconnect_ms_max": 400, "log": log, **({"stream": "LIVE", "create": True} if log == "jetstream" else {})}
    a, b = world.host(upstream=upstream), world.host(upstream=upstream)
    patterns = [events_of(b, "live.>"), events_of(b, "live.*"), events_of(b, ">")]
    for n in range(6):
        assert post(a, f"live.{n % 2}", b"%d" % n)[0] == 200
    named = b.subscribe("live.0")
    assert post(a, "live.0", b"6")[0] == 200
    assert named.take(1) == [b"6"]
    named.leave()
    b.loop.wait(lambda: f"{'fan.' * (log != 'none')}live.0" not in server.subjects(), "nobody asks for it by its name")
    for n in range(7, 10):
        assert post(b, "live.0", b"%d" % n)[0] == 200
    for pattern in patterns:
        assert sorted(pattern.take(10)) == [b"%d" % n for n in range(10)]
    server.kill()
    server.start()
    if log != "none":
        # Before the hosts are back, most likely: it is fetched, though nobody knows of its topic.
        program = Client(server)
        program.publish("live.unseen", b"meanwhile")
        program.flush()
        program.close()
        assert [p.take(1) for p in patterns] == [[b"meanwhile"]] * 3
    interests = [("fan." if log != "none" else "") + "live.>"] * 2 + [("fan." if log != "none" else "") + "live.*"] * 2
    b.loop.wait(lambda: [s for s in server.subjects() if s in interests] == sorted(interests), "the patterns stand again")
    for topic in ("live.0", "live.new"):
        assert post(a, topic, b"again")[0] == 200
    for pattern in patterns:
        assert pattern.take(2) == [b"again"] * 2
        pattern.close()
    b.loop.wait(lambda: not [s for s in server.subjects() if s in interests], "nobody asks for patterns any more")


def test_a_publisher_is_interest_too(world):
    server = world.servers().servers[0]
    host = world.host()
    publisher = host.publisher("live.a")
    interests(world, 1)
    assert server.subjects() == ["live.a"]
    publisher.leave()


def test_ok_means_that_what_is_published_anywhere_after_it_is_delivered(world):
    server = world.servers().servers[0]
    host = world.host()
    program = Client(server)
    for n in range(100):
        subscriber = host.subscribe(f"live.{n}")
        program.publish(f"live.{n}", b"yes")
        assert subscriber.take(1) == [b"yes"]
    program.close()


def test_many_topics_come_back_after_a_loss(world):
    server = world.servers().servers[0]
    host = world.host()
    topics = [f"live.{n}" for n in range(3000)]
    subscriber = [host.subscribe(t) for t in topics[:1]]
    for t in topics:
        assert post(host, t, b"x")[0] == 200
    interests(world, len(topics))
    assert subscriber
    server.kill()
    wait_ready(host, False)
    server.start()
    wait_ready(host)
    # Without clients they need not be asked for again, but for the one that has some.
    interests(world, 1)


# --- what goes wrong -----------------------------------------------------------------------------------


def test_a_lost_connection_is_a_gap_for_every_subscriber(world):
    server = world.servers().servers[0]
    host = world.host()
    line = host.subscribe("live.a")
    events = urllib.request.urlopen(
        urllib.request.Request(url(host, "/subscribe/live.a"), headers={"Accept": "text/event-stream"}), timeout=PATIENCE
    )
    host.publish("live.a", b"before")
    assert line.take(1) == [b"before"]
    server.kill()
    wait_ready(host, False)
    server.start()
    wait_ready(host)
    assert line.rest() == [b"ERROR gap"]
    host.publish("live.a", b"after")
    said = []
    while not said or said[-1] != b"data: after\n":
        said.append(events.readline())
    text = b"".join(said)
    first = re.search(rb"id: ([0-9a-f]{16}):1\ndata: before\n", text).group(1)
    gap = re.search(rb"event: gap\ndata: ([0-9a-f]{16}):2\n", text).group(1)
    assert gap != first
    assert re.search(rb"id: %s:2\ndata: after\n" % gap, text)
    # Who comes back with what he had before is told so too, and gets what came after it once.
    again = host.subscribe("live.a", f"FROM {first.decode()}:1")
    assert again.take(2) == [b"GAP %s:2" % gap, b"after"]
    events.close()
    figures = get(host, "/metrics")[1].decode()

    def figure(name):
        return sum(int(n) for n in re.findall(rf"^broker_upstream_{name}{{.*}} (\d+)$", figures, re.M))

    assert {n: figure(n) for n in ("up", "reconnects_total", "interests", "unacknowledged", "publish_seconds_count", "gaps_total")} == {
        "up": 2, "reconnects_total": 2, "interests": 1, "unacknowledged": 0, "publish_seconds_count": 2, "gaps_total": 1
    }  # fmt: skip


def test_a_host_that_is_cut_off_is_not_ready_and_refuses_what_it_cannot_do(world):
    server = world.servers().servers[0]
    host = world.host(upstream={"publish_seconds": 1, "not_ready_seconds": 1})
    subscriber = host.subscribe("live.a")
    publisher = host.publisher("live.a")
    server.kill()
    wait_ready(host, False)
    assert get(host, "/ready") == (503, b'{"error":"upstream"}\n')
    assert post(host, "live.a", b"x") == (503, {"error": "upstream"})
    publisher.send_lines(b"x")
    assert publisher.rest() == [b"ERROR upstream"]
    late = host.say("SUBSCRIBE live.b\r\n")
    assert late.rest() == [b"ERROR upstream"]
    host.works()
    server.start()
    wait_ready(host)
    assert subscriber.rest() == [b"ERROR gap"]
    assert post(host, "live.a", b"x")[0] == 200


def test_publishers_and_subscribers_wait_for_a_cluster_that_comes_back_in_time(world):
    server = world.servers().servers[0]
    host = world.host()
    server.kill()
    host.says("upstream: reactor 0: .* has closed the connection")
    host.says("upstream: reactor 1: .* has closed the connection")
    subscriber = host.say("SUBSCRIBE live.a\r\n")
    publisher = host.say("PUBLISH live.a\r\n")
    publisher.send_lines(b"waits")
    host.loop.sleep(0.3)
    assert subscriber.newlines == 0
    server.start()
    subscriber.ok()
    publisher.send(b"BYE\r\n")
    assert publisher.rest() == [b"OK"]
    assert get(host, "/topic/live.a/last") == (200, b"waits")
    host.publish("live.a", b"and goes on")
    assert subscriber.take_waiting()[-1:] == [b"and goes on"] or subscriber.take(1) == [b"and goes on"]


def test_a_server_that_is_not_heard_of_is_left_for_another(world):
    cluster = world.servers(2)
    host = world.host(upstream={"servers": [f"nats://{cluster.servers[0].address}"]})
    # The other one is known from the first.
    for reactor in range(2):
        host.says(rf"upstream: reactor {reactor} is connected to .*\(n1,")
    cluster.servers[0].send(signal.SIGSTOP)
    for reactor in range(2):
        host.says(rf"upstream: reactor {reactor} is connected to .*\(n2,", seconds=at_most(15))
    assert post(host, "live.a", b"x")[0] == 200
    cluster.servers[0].send(signal.SIGCONT)


def test_a_wrong_password_is_said_and_a_right_one_taken_from_a_file(world, tmp_path):
    world.servers(options=["--user", "broker", "--pass", "secret"])
    (tmp_path / "wrong").write_text("wrong\n")
    (tmp_path / "right").write_text("secret\nand no more\n")
    host = world.host(upstream={"user": "broker", "password_file": str(tmp_path / "right")})
    assert post(host, "live.a", b"x")[0] == 200
    other = Broker(tmp_path_of(tmp_path, "other"), reactors=1, listen={"main": HTTP_AND_LINE},
                   upstream={"nats": {"servers": world.cluster.addresses(), "topics": ["live.>"], "user": "broker",
                                      "password_file": str(tmp_path / "wrong")}})  # fmt: skip
    other.says("upstream: .*Authorization Violation")
    assert not is_ready(other)
    other.close()


def tmp_path_of(tmp_path, name):
    (tmp_path / name).mkdir()
    return tmp_path / name


class Watcher:
    """A subscriber that comes back whenever it is closed, and what it saw."""

    def __init__(self, broker, topic):
        self.broker, self.topic, self.seen, self.gaps = broker, topic, [], 0
        self.line = None
        self.come()

    def come(self):
        self.line = self.broker.say(f"SUBSCRIBE {self.topic}\r\n")
        self.fresh = True

    def look(self):
        if self.line.newlines > 0:
            for message in self.line.take_waiting():
                if self.fresh and message == b"OK":
                    self.fresh = False
                elif message.startswith(b"ERROR"):
                    self.gap()
                else:
                    self.seen.append(message)
        if self.line.ended:
            self.gap()
            self.come()

    def gap(self):
        if self.seen and self.seen[-1] is not None:
            self.seen.append(None)
            self.gaps += 1


def runs(seen):
    """What was seen between two gaps, as lists."""
    out = [[]]
    for message in seen:
        if message is None:
            out.append([])
        else:
            out[-1].append(message)
    return [r for r in out if r]


@pytest.mark.parametrize("fault", ["kill", "pause", "restart"])
def test_every_subscriber_sees_each_message_once_in_one_order_or_is_told(world, fault):
    """An oracle over three hosts: between two gaps everybody has a piece of one and the same order."""
    # What a broken route between servers loses, none of their clients is told.
    cluster = world.servers(2 if fault == "pause" else 1)
    hosts = [world.host(upstream={"servers": [cluster.addresses()[0]]}) for _ in range(3)]
    watchers = [Watcher(h, "live.a") for h in hosts for _ in range(2)]
    for w in watchers:
        w.broker.loop.wait(lambda w=w: w.line.newlines > 0, "OK")
    sent, stop = [], threading.Event()

    def publish():
        n = 0
        while not stop.is_set():
            n += 1
            host = hosts[n % 3]
            try:
                if post(host, "live.a", b"m %d" % n)[0] == 200:
                    sent.append(b"m %d" % n)
            except OSError:
                pass
            time.sleep(0.002)

    thread = threading.Thread(target=publish)
    thread.start()
    server = cluster.servers[0]

    def go_on(seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for h in hosts:
                h.loop.turn(0.005)
            for w in watchers:
                w.look()

    go_on(0.5)
    for _ in range(2):
        if fault == "pause":
            server.send(signal.SIGSTOP)
            go_on(whole_seconds(3))
            server.send(signal.SIGCONT)
        else:
            server.send(signal.SIGKILL if fault == "kill" else signal.SIGTERM)
            server.process.wait(PATIENCE)
            go_on(0.5)
            server.start()
        go_on(1.5)
    stop.set()
    thread.join()
    go_on(1)
    assert len(sent) > 50
    assert sum(w.gaps for w in watchers) > 0
    # One order, from what all have seen: the place of each message behind the one before it.
    after = {}
    for w in watchers:
        flat = [m for m in w.seen if m is not None]
        assert len(flat) == len(set(flat)), "a message came twice"
        for run in runs(w.seen):
            for a, b in zip(run, run[1:]):
                assert after.setdefault(a, b) == b, f"{w.topic}: {b} and {after[a]} behind {a}"
    # The end is whole for everybody.
    last = b"the end"
    assert post(hosts[0], "live.a", last)[0] == 200
    for w in watchers:
        w.broker.loop.wait(lambda w=w: (w.look(), last in w.seen)[1], "the last one")


def test_nats_server_is_there():
    assert shutil.which("nats-server"), "try: deploy/deps test"
