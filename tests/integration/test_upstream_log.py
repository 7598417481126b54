"""Several brokers that share topics through a JetStream stream of nats-server's."""

import itertools
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

from cluster import Client
from harness import BROKER, PATIENCE, at_most, numbered
from test_upstream import get, is_ready, post, url, wait_ready, world  # noqa: F401 (a fixture)

SUBJECTS = ["live.>"]


def stream(**config):
    return {"name": "LIVE", "subjects": SUBJECTS, "retention": "limits", "storage": "file", "num_replicas": 1,
            "allow_direct": True, "duplicate_window": 120 * 10**9, "republish": {"src": ">", "dest": "fan.>"}, **config}  # fmt: skip


class Api(Client):
    """A NATS client that asks JetStream."""

    def __init__(self, server):
        super().__init__(server)
        self.asked = 0
        self.subscribe("_INBOX.api.*")

    def ask(self, what, body=None):
        """While there is no leader nothing is answered, or 503: it is asked again, and late answers to that do not count."""
        text, answer = json.dumps(body).encode() if body is not None else b"", None
        deadline = time.monotonic() + 2 * PATIENCE
        self.socket.settimeout(1)
        while time.monotonic() < deadline:
            self.asked += 1
            inbox = f"_INBOX.api.{self.asked}"
            self.say(f"PUB $JS.API.{what} {inbox} {len(text)}", text)
            try:
                while (got := self.message())[0] != inbox:
                    pass
            except TimeoutError:
                continue
            answer = json.loads(got[2])
            if answer.get("error", {}).get("code") != 503:
                return answer
            time.sleep(0.1)
        raise AssertionError(f"JetStream is not there: {answer}")

    def make(self, **config):
        # Servers of a cluster take a while to know each other.
        for _ in range(50):
            answer = self.ask("STREAM.CREATE.LIVE", stream(**config))
            if "error" not in answer:
                return
            time.sleep(0.1)
        raise AssertionError(answer)


@pytest.fixture
def log(world, tmp_path):  # noqa: F811
    """The same world, with a stream: cluster() and host()."""
    make_host = world.host

    def servers(n=1, **config):
        server = world.cluster_with_logs(n)
        api = Api(server)
        if config.pop("made", True):
            api.make(**config)
        api.close()
        return server

    def cluster_with_logs(n):
        world.servers(n, ["-js"])
        return world.cluster.servers[0]

    def host(**config):
        upstream = {"log": "jetstream", "stream": "LIVE", **config.pop("upstream", {})}
        return make_host(upstream=upstream, **config)

    world.directory = tmp_path
    world.cluster_with_logs, world.log_servers, world.log_host = cluster_with_logs, servers, host
    return world


def test_a_post_gets_the_number_that_the_stream_gave(log):
    server = log.log_servers()
    a, b = log.log_host(), log.log_host()
    subscriber = b.subscribe("live.a")
    ids = [post(a, topic, b"%d" % n) for n, topic in enumerate(["live.a", "live.b", "live.a"])]
    assert [status for status, _ in ids] == [200] * 3
    assert [answer["id"].split(":")[1] for _, answer in ids] == ["1", "2", "3"]
    assert subscriber.take(2) == [b"0", b"2"]
    assert get(a, "/topic/live.a/3") == (200, b"2")
    assert get(a, "/topic/live.a/2")[0] == 404
    assert get(b, "/topic/live.a/last") == (200, b"2")
    assert server


def test_each_host_has_the_same_ids_and_a_client_goes_on_on_any(log):
    log.log_servers()
    a, b = log.log_host(), log.log_host()
    there = b.subscribe("live.a")
    first = post(a, "live.a", b"0")[1]["id"]
    assert there.take(1) == [b"0"]
    for n in range(1, 5):
        assert post(a, "live.a", b"%d" % n)[0] == 200
        assert post(b, "live.b", b"between")[0] == 200
    there.take(4)
    assert b.subscribe("live.a", f"FROM {first}").take(4) == [b"1", b"2", b"3", b"4"]
    assert b.subscribe("live.a", "LAST 2").take(2) == [b"3", b"4"]
    assert get(b, "/topic/live.a/" + first.split(":")[1]) == (200, b"0")


def test_a_post_with_a_key_is_one_message_and_one_answer_on_any_host(log):
    log.log_servers()
    a, b = log.log_host(), log.log_host()
    subscriber = b.subscribe("live.a")
    key, other = {"Idempotency-Key": "order 7"}, {"Idempotency-Key": "o" * 255}
    answers = [post(host, "live.a", b"1", **key) for host in (a, a, b)]
    assert answers[0][0] == 200 and answers == [answers[0]] * 3
    assert post(b, "live.a", b"2", **other) == post(a, "live.a", b"2", **other) != answers[0]
    # The stream knows a key whatever topic it comes with.
    assert post(a, "live.b", b"1", **key)[1]["id"] == answers[0][1]["id"]
    assert get(a, "/topic/live.b/last")[0] == 404
    assert post(a, "live.a", b"3")[0] == 200
    assert subscriber.take(3) == [b"1", b"2", b"3"]
    assert [figure(host, "gaps_total") for host in (a, b)] == [0, 0]
    for bad in ("", "x" * 256):
        assert post(a, "live.a", b"x", **{"Idempotency-Key": bad}) == (400, {"error": "malformed Idempotency-Key"})


def test_a_client_that_comes_from_another_host_gets_what_it_has_missed(log):
    """Whether or not the topic was ever asked for here, or stands by now without its past."""
    log.log_servers()
    a, b = log.log_host(), log.log_host()
    ids = []
    for n in range(30):
        ids.append(post(a, "live.a", b"%d" % n)[1]["id"])
        post(a, "live.b", b"between")
    assert b.subscribe("live.a", f"FROM {ids[19]}").take(10) == [b"%d" % n for n in range(20, 30)]
    live = b.subscribe("live.a")
    assert b.subscribe("live.a", f"FROM {ids[4]}").take(25) == [b"%d" % n for n in range(5, 30)]
    assert b.subscribe("live.a", f"FROM {ids[14]}").take(15) == [b"%d" % n for n in range(15, 30)]
    assert b.subscribe("live.b", "LAST 3").take(3) == [b"between"] * 3
    post(a, "live.a", b"and on")
    assert live.take(1) == [b"and on"]
    assert figure(b, "gaps_total") == 0


def test_a_client_that_was_away_for_too_long_is_told_of_a_gap(log):
    log.log_servers(max_msgs_per_subject=5)
    a, b = log.log_host(), log.log_host()
    ids = [post(a, "live.a", b"%d" % n)[1]["id"] for n in range(20)]
    epoch = ids[0].split(":")[0].encode()
    assert b.subscribe("live.a", f"FROM {ids[2]}").take(6) == [b"GAP %s:16" % epoch, *(b"%d" % n for n in range(15, 20))]
    assert b.subscribe("live.a", f"FROM {ids[14]}").take(5)[-1] == b"19"


def test_events_have_the_ids_of_the_log(log):
    log.log_servers()
    host = log.log_host()
    events = urllib.request.urlopen(
        urllib.request.Request(url(host, "/subscribe/live.a"), headers={"Accept": "text/event-stream"}), timeout=PATIENCE
    )
    post(host, "live.b", b"x")
    ids = [post(host, "live.a", b"%d" % n)[1]["id"].encode() for n in range(2)]
    said = b""
    while b"data: 1\n" not in said:
        said += events.readline()
    assert re.findall(rb"id: (\S+)\ndata: (\d)", said) == [(ids[0], b"0"), (ids[1], b"1")]
    events.close()


def test_nothing_is_lost_over_a_restart_of_the_server(log):
    server = log.log_servers()
    a, b = log.log_host(), log.log_host()
    subscriber = b.subscribe("live.a")
    publisher = a.publisher("live.a")
    messages = numbered(b"m", 3000)
    publisher.send_lines(*messages[:1000])
    assert subscriber.take(1000) == messages[:1000]
    server.send(signal.SIGKILL)
    server.process.wait(PATIENCE)
    publisher.send_lines(*messages[1000:2000])
    server.start()
    publisher.send_lines(*messages[2000:])
    assert subscriber.take(2000, at_most(20)) == messages[1000:]
    assert publisher.leave() == []


def test_a_stream_that_was_made_anew_is_another_epoch_and_a_gap(log):
    server = log.log_servers()
    a, b = (log.log_host(upstream={"tail_seconds": 1}) for _ in range(2))
    line = b.subscribe("live.a")
    before = post(a, "live.a", b"before")[1]["id"]
    assert line.take(1) == [b"before"]
    api = Api(server)
    api.ask("STREAM.DELETE.LIVE")
    api.make()
    api.close()
    assert line.rest(seconds=at_most(20)) == [b"ERROR gap"]
    wait_ready(a)
    status, answer = post(a, "live.a", b"after")
    assert status == 200
    assert answer["id"].split(":")[0] != before.split(":")[0]
    assert answer["id"].split(":")[1] == "1"


class Lossy:
    """Stands between a host and a server, and loses some of what the server says."""

    def __init__(self, server, loses):
        self.server, self.loses, self.lost = server, loses, 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()

    @property
    def address(self):
        return f"nats://127.0.0.1:{self.listener.getsockname()[1]}"

    def serve(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.server.port))
            except OSError:
                near.close()
                continue
            threading.Thread(target=self.up, args=(near, far), daemon=True).start()
            threading.Thread(target=self.down, args=(far, near), daemon=True).start()

    @staticmethod
    def end(*sockets):
        for s in sockets:
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def up(self, near, far):
        try:
            while data := near.recv(65536):
                far.sendall(data)
        except OSError:
            pass
        self.end(near, far)

    def down(self, far, near):
        stream = far.makefile("rb")
        try:
            while line := stream.readline():
                words = line.split()
                if words[0] in (b"MSG", b"HMSG"):
                    line += stream.read(int(words[-1]) + 2)
                    if words[1].startswith(b"fan.") and self.loses():
                        self.lost += 1
                        continue
                near.sendall(line)
        except OSError:
            pass
        self.end(near, far)

    def close(self):
        self.listener.close()


class Forging(Lossy):
    """Takes the first publications to a topic for itself, and acknowledges them as the message of some number."""

    def __init__(self, server, topic, number, times):
        self.topic, self.answer, self.times = topic.encode(), b'{"stream":"LIVE","seq":%d}' % number, times
        super().__init__(server, lambda: False)

    def up(self, near, far):
        stream = near.makefile("rb")
        try:
            while line := stream.readline():
                words = line.split()
                if words[0] in (b"PUB", b"HPUB"):
                    line += stream.read(int(words[-1]) + 2)
                    if words[1] == self.topic and self.lost < self.times:
                        self.lost += 1
                        near.sendall(b"MSG %s 1 %d\r\n%s\r\n" % (words[2], len(self.answer), self.answer))
                        continue
                far.sendall(line)
        except OSError:
            pass
        self.end(near, far)


class Held(Lossy):
    """Says nothing of what the server says while it is held."""

    def __init__(self, server):
        self.open = threading.Event()
        self.open.set()
        super().__init__(server, self.wait)

    def wait(self):
        self.open.wait()
        return False


def every(n):
    count = itertools.count(1)
    return lambda: next(count) % n == 0


def metrics(host):
    return get(host, "/metrics")[1].decode()


def waiting_requests(host):
    return sum(int(n) for n in re.findall(r"^broker_waiting_requests{.*} (\d+)$", metrics(host), re.M))


def figure(host, name):
    text = metrics(host)
    return sum(float(n) for n in re.findall(rf"^broker_upstream_{name}(?:{{.*}})? ([\d.]+)$", text, re.M))


def test_what_the_way_has_lost_is_fetched_from_the_stream(log):
    server = log.log_servers()
    way = Lossy(server, every(5))
    a = log.log_host()
    b = log.log_host(upstream={"servers": [way.address], "tail_seconds": 1})
    subscriber = b.subscribe("live.a")
    messages = numbered(b"m", 500)
    a.publish("live.a", *messages)
    # The very last one is among them: nothing follows it, and it is asked for.
    assert subscriber.take(500, at_most(20)) == messages
    assert way.lost >= 100
    assert figure(b, "repaired_total") > 0
    assert figure(b, "gaps_total") == 0
    way.close()


def test_what_comes_twice_is_delivered_once(log):
    server = log.log_servers()
    host = log.log_host()
    subscriber = host.subscribe("live.a")
    program = Client(server)
    program.subscribe("fan.live.a")
    for n in range(20):
        post(host, "live.a", b"%d" % n)
        _, headers, payload = program.message()
        program.say(b"HPUB fan.live.a %d %d" % (len(headers), len(headers) + len(payload)), headers + payload)
        program.message()
    assert subscriber.take(20) == [b"%d" % n for n in range(20)]
    host.loop.wait(lambda: figure(host, "duplicates_total") == 20, "they have come")
    post(host, "live.a", b"end")
    assert subscriber.take(1) == [b"end"]
    program.close()


def test_what_the_stream_has_no_more_is_told_as_a_gap(log):
    server = log.log_servers(max_msgs_per_subject=10)
    way = Lossy(server, lambda: lossy[0])
    lossy = [False]
    a, b = log.log_host(), log.log_host(upstream={"servers": [way.address]})
    subscriber = b.subscribe("live.a")
    a.publish("live.a", b"before")
    assert subscriber.take(1) == [b"before"]
    lossy[0] = True
    a.publish("live.a", *numbered(b"lost", 100))
    lossy[0] = False
    a.publish("live.a", b"after")
    assert subscriber.rest(at_most(20)) == [b"ERROR gap"]
    again = b.subscribe("live.a", "LAST 10")
    assert again.take(10)[-1] == b"after"
    way.close()


def test_what_is_acknowledged_at_another_messages_place_goes_up_again_under_another_id(log):
    server = log.log_servers()
    a = log.log_host()
    for n in range(3):
        post(a, "live.a", b"%d" % n)
    way = Forging(server, "live.a", 2, 2)
    program = Client(server)
    program.subscribe("live.a")
    b = log.log_host(upstream={"servers": [way.address]})
    subscriber = a.subscribe("live.a")
    post(b, "live.b", b"other")
    status, answer = post(b, "live.a", b"x")
    assert (status, answer["id"].split(":")[1]) == (200, "5")
    _, headers, payload = program.message()
    assert payload == b"x"
    assert re.search(rb"^Nats-Msg-Id: [0-9a-f]{12}-\d+~2\r$", headers, re.M)
    assert subscriber.take(1) == [b"x"]
    assert figure(b, "false_acks_total") == 2
    # A third time is refused.
    way.times += 3
    assert post(b, "live.a", b"y")[0] == 503
    program.close()
    way.close()


def test_of_a_message_and_its_repetition_under_another_id_the_first_is_delivered(log):
    server = log.log_servers()
    hosts = [log.log_host(), log.log_host()]
    subscribers = [h.subscribe("live.a") for h in hosts]
    program = Client(server)
    ids = ["x", "x~1", "x~2", "y~2", "y", "z", "z~3", *(f"n{n}" for n in range(100)), "n0~1", "n99~1", "end"]
    for one in ids:
        head = b"NATS/1.0\r\nNats-Msg-Id: %s\r\n\r\n" % one.encode()
        program.say(b"HPUB live.a %d %d" % (len(head), len(head) + len(one)), head + one.encode())
    kept = [one.encode() for one in ids if one not in ("x~1", "x~2", "y", "n0~1", "n99~1")]
    for host, subscriber in zip(hosts, subscribers):
        assert subscriber.take(len(kept)) == kept
        assert figure(host, "gaps_total") == 0
    assert post(hosts[0], "live.a", b"after")[1]["id"].endswith(f":{len(ids) + 1}")
    program.close()


def test_with_a_strict_order_one_message_of_a_topic_goes_up_at_a_time(log):
    server = log.log_servers()
    way = Held(server)
    host = log.log_host(reactors=1, upstream={"servers": [way.address]}, topic={"live.strict": {"strict_order": True}})
    strict, other = host.publisher("live.strict"), host.publisher("live.other")
    subscriber = host.subscribe("live.strict")
    host.subscribe("live.other")
    program = Client(server)
    program.subscribe("live.*")
    way.open.clear()
    strict.send_lines(b"1", b"2", b"3")
    assert program.message()[2] == b"1"
    other.send_lines(b"later")
    # It goes up behind all of them that may.
    while (message := program.message()[2]) == b"1":
        pass
    assert message == b"later"
    way.open.set()
    assert subscriber.take(3) == [b"1", b"2", b"3"]
    assert strict.leave() == []
    assert host.publisher("live.strict").leave() == []
    program.close()
    way.close()


def test_who_waits_for_what_comes_next_gets_it_whatever_its_number_is(log):
    log.log_servers()
    host = log.log_host()
    for topic in ("live.a", "live.b", "live.b", "live.a"):
        post(host, topic, topic.encode())
    assert get(host, "/topic/live.a/next?after=1") == get(host, "/topic/live.a/next?after=3") == (200, b"live.a")
    waiting = [threading.Thread(target=lambda: answers.append(get(host, "/topic/live.a/next?after=4"))) for _ in range(3)]
    answers = []
    for thread in waiting:
        thread.start()
    host.loop.wait(lambda: waiting_requests(host) == 3, "they wait")
    post(host, "live.b", b"no")
    post(host, "live.a", b"next")
    for thread in waiting:
        thread.join()
    assert answers == [(200, b"next")] * 3
    # Topics of this host's own have no holes, and are not waited for so far ahead.
    for n in range(3):
        post(host, "own", b"%d" % n)
    assert [get(host, f"/topic/own/next?after={n}") for n in range(3)] == [(200, b"%d" % n) for n in range(3)]
    assert get(host, "/topic/own/next?after=9")[0] == 404
    for bad in ("next", "next?after=", "next?after=x", "next?after=18446744073709551615"):
        assert get(host, f"/topic/live.a/{bad}")[0] == 400


def contradict(program, topic, number, before):
    """A message as the stream would republish it, which does not go with what has come."""
    head = b"NATS/1.0\r\nNats-Stream: LIVE\r\nNats-Subject: %s\r\nNats-Sequence: %d\r\nNats-Last-Sequence: %d\r\n\r\n" % (topic, number, before)
    program.say(b"HPUB fan.%s %d %d" % (topic, len(head), len(head) + 1), head + b"?")


def test_a_stream_that_contradicts_itself_becomes_another_one_on_every_host(log):
    server = log.log_servers()
    hosts = [log.log_host(upstream={"tail_seconds": 1}) for _ in range(2)]
    subscribers = [h.subscribe("live.a") for h in hosts]
    before = [post(hosts[0], "live.a", b"%d" % n)[1]["id"] for n in range(3)]
    for s in subscribers:
        s.take(3)
    program, api = Client(server), Api(server)
    contradict(program, b"live.a", 9, 1)
    for host, s in zip(hosts, subscribers):
        assert s.rest() == [b"ERROR gap"]
        host.loop.wait(lambda host=host: is_ready(host), "it is there again")
    assert api.ask("STREAM.INFO.LIVE")["config"]["description"] == " [log 1]"

    def epochs():
        return {post(h, topic, b"x")[1]["id"].split(":")[0] for h in hosts for topic in ("live.a", "live.b", "live.c")}

    # Each reactor looks by itself.
    hosts[0].loop.wait(lambda: [figure(h, "log_changed_total") for h in hosts] == [2, 2], "all have seen it")
    for host in hosts:
        wait_ready(host)
    assert len(epochs()) == 1
    assert epochs() != {before[0].split(":")[0]}
    program.close()
    api.close()


def test_where_a_stream_may_not_become_another_one_a_host_goes_on_alone(log):
    server = log.log_servers()
    way = Forging(server, "$JS.API.STREAM.UPDATE.LIVE", 0, 1)
    way.answer = b'{"error":{"code":403,"description":"it is not permitted"}}'
    host = log.log_host(reactors=1, upstream={"servers": [way.address]})
    subscriber = host.subscribe("live.a")
    for n in range(3):
        before = post(host, "live.a", b"%d" % n)[1]["id"]
    program = Client(server)
    contradict(program, b"live.a", 9, 1)
    assert subscriber.take(3) and subscriber.rest() == [b"ERROR gap"]
    host.says("contradicts itself, and it is not permitted: ids are this host's own")
    after = post(host, "live.a", b"x")[1]["id"]
    there = post(log.log_host(), "live.a", b"x")[1]["id"]
    assert there.split(":")[0] == before.split(":")[0] != after.split(":")[0]
    program.close()
    way.close()


class Oracle:
    """Publishers on every host, and subscribers who must all get what was published, in the order of its numbers."""

    def __init__(self, hosts):
        self.hosts, self.sent, self.stop = hosts, [], threading.Event()
        self.subscribers = [h.subscribe("live.a") for h in hosts for _ in range(2)]
        self.threads = [threading.Thread(target=self.publish, args=(n,)) for n in range(len(hosts))]
        for thread in self.threads:
            thread.start()

    def publish(self, n):
        for i in itertools.count():
            if self.stop.is_set():
                return
            message = b"%d %d" % (n, i)
            try:
                status, answer = post(self.hosts[n], "live.a", message)
                self.sent.append((status, int(answer.get("id", ":0").split(":")[1]), message))
            except OSError:
                pass
            time.sleep(0.001)

    def go_on(self, seconds):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.hosts[0].loop.turn(0.005)
            for h in self.hosts[1:]:
                h.loop.turn(0)

    def judge(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        assert {status for status, _, _ in self.sent} == {200}
        order = [message for _, _, message in sorted(self.sent, key=lambda s: s[1])]
        assert len(order) > 50
        for s in self.subscribers:
            assert s.take(len(order), at_most(30)) == order


def test_each_subscriber_sees_each_message_once_in_one_order(log):
    """Over three hosts, one of which loses messages, while the server is killed and comes back."""
    server = log.log_servers()
    way = Lossy(server, every(20))
    hosts = [log.log_host(upstream={"servers": [address]}) for address in
             (f"nats://{server.address}", f"nats://{server.address}", way.address)]  # fmt: skip
    oracle = Oracle(hosts)
    for _ in range(2):
        oracle.go_on(0.4)
        server.send(signal.SIGKILL)
        server.process.wait(PATIENCE)
        oracle.go_on(0.2)
        server.start()
        for h in hosts:
            h.loop.wait(lambda h=h: is_ready(h), "it is ready")
    oracle.go_on(0.4)
    oracle.judge()
    way.close()


RUNS = int(os.environ.get("CLUSTER", "0"))

if RUNS > 0:

    @pytest.mark.parametrize("run", range(RUNS))
    def test_three_servers_lose_one_after_the_other_and_nothing_else(log, run):
        """The long form (make cluster-faults): three replicas, a server killed, leader or not, and started again."""
        log.log_servers(3, num_replicas=3)
        hosts = [log.log_host(upstream={"servers": [a], "publish_seconds": 30}) for a in log.cluster.addresses()]
        if tuple(map(int, log.cluster.servers[0].varz()["version"].split(".")[:2])) < (2, 11):
            hosts[0].says("WARN.*stream LIVE has 3 replicas")
        oracle = Oracle(hosts)
        for server in log.cluster.servers:
            oracle.go_on(1)
            server.send(signal.SIGKILL)
            server.process.wait(PATIENCE)
            oracle.go_on(3)
            server.start()
            oracle.go_on(8)
        oracle.judge()

    @pytest.mark.parametrize("seconds", [1, 6])
    @pytest.mark.parametrize("run", range(RUNS))
    def test_a_server_that_pauses_costs_time_and_nothing_else(log, run, seconds):
        server = log.log_servers()
        oracle = Oracle([log.log_host(upstream={"publish_seconds": 30}) for _ in range(3)])
        for _ in range(2):
            oracle.go_on(1)
            server.send(signal.SIGSTOP)
            oracle.go_on(seconds)
            server.send(signal.SIGCONT)
            oracle.go_on(4)
        oracle.judge()


    @pytest.mark.parametrize("seconds", [1, 6])
    @pytest.mark.parametrize("run", range(RUNS))
    def test_a_host_that_is_cut_off_is_whole_when_it_is_back(log, run, seconds):
        server = log.log_servers()
        way = Held(server)
        addresses = [f"nats://{server.address}", f"nats://{server.address}", way.address]
        oracle = Oracle([log.log_host(upstream={"servers": [a], "publish_seconds": 30}) for a in addresses])
        for _ in range(2):
            oracle.go_on(1)
            way.open.clear()
            oracle.go_on(seconds)
            way.open.set()
            oracle.go_on(2)
        oracle.judge()
        way.close()

    @pytest.mark.parametrize("run", range(RUNS))
    def test_a_slow_link_costs_time_and_nothing_else(log, run):
        server = log.log_servers()
        way = Lossy(server, lambda: time.sleep(0.004))
        addresses = [f"nats://{server.address}", f"nats://{server.address}", way.address]
        oracle = Oracle([log.log_host(upstream={"servers": [a], "publish_seconds": 30}) for a in addresses])
        oracle.go_on(10)
        oracle.judge()
        way.close()


def check(log, **upstream):
    """What broker --check says of the cluster: its code, what it prints, what it complains of."""
    path = log.directory / "check.conf"
    keys = {"topics": '{ "live.>" }', "log": '"jetstream"', "stream": '"LIVE"', **upstream}
    keys["servers"] = f'{{ "nats://{log.cluster.servers[0].address}" }}'
    lines = "".join(f"\t{key} = {value}\n" for key, value in keys.items())
    path.write_text('listen "main" { address = "127.0.0.1:0" }\nupstream "nats" {\n' + lines + "}\n")
    done = subprocess.run([BROKER, "-c", path, "--check"], capture_output=True, text=True, timeout=PATIENCE)
    started = subprocess.run([BROKER, "-c", path], capture_output=True, text=True, timeout=PATIENCE) if done.returncode else None
    return done, started


def test_a_stream_that_is_not_as_it_must_be_is_said_and_keeps_a_broker_from_starting(log):
    server = log.log_servers(made=False)
    api = Api(server)
    for config, upstream, wrong in (
        (None, {}, "stream LIVE: stream not found"),
        ({"republish": None}, {}, "does not republish live.>"),
        ({"duplicate_window": 60 * 10**9}, {}, "knows duplicates for 60 s only"),
        ({}, {"topics": '{ "live.>", "chat.>" }'}, "does not have chat.>"),
    ):
        if config is not None:
            api.make(**config)
        done, started = check(log, **upstream)
        assert (done.returncode, started.returncode) == (2, 2)
        assert wrong in done.stderr
        assert wrong in started.stderr
        api.ask("STREAM.DELETE.LIVE")
    api.make()
    done, _ = check(log)
    assert done.returncode == 0, done.stderr
    assert "(n1, nats-server" in done.stdout
    api.close()


def test_a_stream_is_made_where_it_may_be(log):
    server = log.log_servers(made=False)
    host = log.log_host(upstream={"create": "true"})
    assert post(host, "live.a", b"x")[0] == 200
    api = Api(server)
    config = api.ask("STREAM.INFO.LIVE")["config"]
    assert (config["num_replicas"], config["max_msgs_per_subject"]) == (1, 128)
    api.close()
