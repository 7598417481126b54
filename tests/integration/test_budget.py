"""The memory budget of the whole broker: what goes first, who is refused, who is evicted, and the way back."""

import http.client
import json
import re
import signal
import time

import pytest

from harness import PATIENCE, PATIENT, config_text, numbered, release_only, run

BOTH = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}
KEPT = {"history_messages": 1_000_000, "history_bytes": "1G"}
REACTORS = pytest.mark.parametrize("reactors", [1, 2])
MIB = 1 << 20
RCVBUF = 64 << 10


class Budget:
    """A broker, and a connection that was there before memory got scarce."""

    def __init__(self, start, **config):
        # Few receive buffers: those of a rush are given back when memory gets scarce, and change what a test measured.
        defaults = {"listen": BOTH, "limits": {"memory_bytes": "1G"}, "engine": {"recv_buffers": 32}}
        self.broker = start(**{**defaults, **config})
        self.http = http.client.HTTPConnection(self.broker.address(), timeout=PATIENCE)
        self.asked, self.was_full = time.monotonic(), False
        self.memory()

    def ask(self, path):
        self.http.request("GET", path)
        answer = self.http.getresponse()
        return answer.status, answer.read().decode()

    def reconnect(self):
        self.http.close()

    def stats(self):
        return json.loads(self.ask("/stats.json")[1])

    def memory(self):
        return self.stats()["memory"]

    def full(self, published):
        """Whether so much has come that history has had to go; asked once in a second."""
        if not self.was_full and time.monotonic() > self.asked + 1:
            self.asked = time.monotonic()
            self.was_full = self.memory()["crossings_history"] >= 1 and self.sum("published") > published
        return self.was_full

    def sum(self, figure):
        return sum(r[figure] for r in self.stats()["reactors"])

    def counts(self, figure, least=1):
        """A reactor's own figures are a second old at most."""
        self.broker.loop.wait(lambda: self.sum(figure) >= least, lambda: f"{figure}: {self.sum(figure)}")

    def crossed(self):
        """Times that each level was entered, once every reactor has told."""
        self.broker.loop.sleep(1.1)
        return [self.memory()[f"crossings_{level}"] for level in ("history", "subscribers", "eviction")]

    def becomes(self, level):
        self.broker.loop.wait(lambda: self.memory()["level"] == level, lambda: f"{level}: {self.memory()}")

    def settles(self):
        """The bytes in use, once they do not change any more."""
        seen = [self.memory()["bytes"]]

        def quiet():
            self.broker.loop.sleep(0.3)
            seen.append(self.memory()["bytes"])
            return abs(seen[-1] - seen[-2]) < 10_000

        self.broker.loop.wait(quiet, lambda: f"quiet: {seen}")
        return seen[-1]

    def limit(self, limit, **limits):
        self.broker.configure(limits={"memory_bytes": int(limit), **limits})
        self.broker.send_signal(signal.SIGHUP)
        self.broker.loop.wait(lambda: self.memory()["limit"] == int(limit), "the new limit")

    def says(self, what):
        return len(re.findall(f"memory: .* are used: .*{what}", self.broker.log()))


def stalled(broker, topic, count=1):
    clients = broker.subscribe_many([topic] * count, rcvbuf=RCVBUF)
    for client in clients:
        client.stall()
    return clients


def test_the_check_shows_what_auto_comes_to(start, tmp_path):
    def check(**limits):
        (tmp_path / "check.conf").write_text(config_text(listen=BOTH, limits=limits))
        return run("-c", tmp_path / "check.conf", "--check").stdout

    share, what, whole = re.search(r"memory: (\d+) bytes \(auto: 60 % of the (.*)'s (\d+)\)", check()).groups()
    assert int(share) == int(whole) * 60 // 100 and what in ("machine", "control group")
    assert "memory: 33554432 bytes\n" in check(memory_bytes="32M")
    assert "warning: limits.memory_bytes is more than" in check(memory_bytes="1000000G")


def test_the_check_warns_when_the_reactors_themselves_take_most_of_it(tmp_path):
    def check(reactors, **engine):
        keys = {"reactors": reactors, "placement": "none", "listen": BOTH, "engine": engine, "limits": {"memory_bytes": "1G"}}
        (tmp_path / "check.conf").write_text(config_text(**keys))
        return re.search(r"receive buffers of .*", run("-c", tmp_path / "check.conf", "--check").stdout)

    assert check(8) is None
    assert check(32), "512 MiB of buffers"
    assert check(32, recv_buffers=128) is None
    assert f"lanes between them {2 * 256 * 257 * 4096 * 8}," in check(256, recv_buffers=16).group()
    assert check(256, recv_buffers=16, lane_entries=256) is None


@REACTORS
def test_history_goes_first_and_the_oldest_of_it(start, reactors):
    budget = Budget(start, reactors=reactors, topics=KEPT, limits={"memory_bytes": "16M"})
    broker = budget.broker
    messages = numbered(b"m", 80, 400_000)
    most = 0
    for i, message in enumerate(messages):
        broker.publish(f"t.{i % 8}", message)
        most = max(most, budget.memory()["bytes"])
    assert most < 16 * MIB
    assert budget.crossed() == [1, 0, 0]
    budget.counts("memory_history")
    assert 9 * MIB < budget.sum("history_bytes") < 14 * MIB, "no more goes than must"
    held = sum((broker.subscribe(f"t.{i}", "LAST 100").leave() for i in range(8)), [])
    assert sorted(held) == sorted(messages[-len(held) :]), "the oldest goes, whichever shard has it"
    assert budget.says("the oldest history goes") == 1


def test_a_larger_budget_by_reload_lets_history_grow_again(start):
    budget = Budget(start, topics=KEPT, limits={"memory_bytes": "16M"})
    for message in numbered(b"m", 40, 400_000):
        budget.broker.publish("t", message)
    assert budget.sum("history_bytes") < 14 * MIB
    budget.limit(64 * MIB)
    budget.becomes("easy")
    for message in numbered(b"n", 60, 400_000):
        budget.broker.publish("t", message)
    assert budget.sum("history_bytes") > 30 * MIB and budget.memory()["level"] == "easy"


def test_a_smaller_budget_by_reload_takes_history_at_once(start):
    budget = Budget(start, reactors=2, topics=KEPT)
    for i, message in enumerate(numbered(b"m", 60, 400_000)):
        budget.broker.publish(f"t.{i % 5}", message)
    assert budget.settles() > 22 * MIB
    budget.limit(16 * MIB)
    budget.broker.loop.wait(lambda: budget.memory()["bytes"] < 0.85 * 16 * MIB, lambda: f"{budget.memory()}")
    assert budget.memory()["level"] == "history"


def backlog(budget, topic, megabytes, size=400_000):
    """A subscriber that has so much before it."""
    (client,) = stalled(budget.broker, topic)
    messages = numbered(b"m", megabytes * MIB // size, size)
    budget.broker.publish(topic, *messages)
    return client, messages


def test_at_92_per_cent_nobody_may_subscribe_until_there_is_room(start):
    budget = Budget(start, reactors=2, topics={**PATIENT, "history_messages": 0})
    broker = budget.broker
    slow, messages = backlog(budget, "slow", 20)
    before, publisher = broker.subscribe("before"), broker.publisher("before")
    budget.limit(budget.settles() / 0.935)
    budget.becomes("subscribers")
    for _ in range(3):
        assert broker.say("SUBSCRIBE more\r\n").rest() == [b"ERROR too many connections"]
    assert budget.ask("/subscribe/more") == (503, '{"error":"too many connections"}\n')
    publisher.send_lines(b"goes on")
    assert before.take(1) == [b"goes on"]
    budget.reconnect()
    budget.counts("memory_refused", 4)
    assert budget.memory()["level"] == "subscribers" and budget.crossed() == [1, 1, 0]
    assert budget.says("no new subscribers") == 1
    slow.resume()
    assert slow.take(len(messages)) == messages
    budget.becomes("easy")
    assert budget.says("nothing is held back") == 1
    broker.works()


@REACTORS
def test_at_95_per_cent_the_largest_backlog_goes_and_the_others_stay(start, reactors):
    budget = Budget(start, reactors=reactors, topics={**PATIENT, "history_messages": 0})
    broker = budget.broker
    small, messages = backlog(budget, "small", 5)
    large, _ = backlog(budget, "large", 20)
    budget.limit(budget.settles() / 0.96)
    budget.becomes("easy")
    assert large.rest()[-1] == b"ERROR slow consumer"
    budget.counts("memory_evicted")
    assert budget.crossed() == [1, 1, 1]
    assert budget.says("the largest backlogs are evicted") == 1
    small.resume()
    assert small.take(len(messages)) == messages
    broker.works()


def test_a_topic_that_skips_lets_its_largest_backlog_skip(start):
    budget = Budget(start, topics={**PATIENT, "history_messages": 0, "slow": "skip"})
    slow, messages = backlog(budget, "slow", 20)
    budget.limit(budget.settles() / 0.96)
    budget.becomes("easy")
    slow.resume()
    budget.broker.publish("slow", b"last")
    budget.broker.loop.wait(lambda: slow.buffer.endswith(b"\r\nlast\r\n"), "the last message")
    assert len(slow.take_waiting()) < len(messages)


def test_a_large_message_that_never_ends_is_a_backlog_too(start):
    budget = Budget(start, limits={"memory_bytes": "1G", "message_bytes": "32M"})
    broker = budget.broker
    endless = broker.publisher("t")
    endless.send(b"m" * (20 * MIB))
    post = b"POST /publish/t HTTP/1.1\r\nHost: b\r\nContent-Length: 30000000\r\n\r\n"
    body = broker.say(post + b"m" * (22 * MIB))
    broker.loop.wait(lambda: not endless.out and not body.out, "all is sent")
    budget.limit(budget.settles() / 0.96, message_bytes="32M")
    broker.loop.wait(lambda: body.ended or endless.ended, "the largest goes")
    assert body.ended != endless.ended, "and it was enough"
    budget.becomes("easy")
    broker.works()


def test_at_95_per_cent_nobody_is_accepted_until_there_is_room(start):
    # Topics that are remembered are so much that nobody could make room.
    budget = Budget(start, topics={"history_messages": 0, "linger_seconds": 600})
    broker = budget.broker
    idle, topics = broker.subscribe("t"), 40_000
    maker = broker.say("".join(f"POST /publish/{i:0200} HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\n\r\nx" for i in range(topics)))
    broker.loop.wait(lambda: maker.buffer.count(b'"id":') == topics, "all are made")
    maker.close()
    used = budget.settles()
    assert used > 16 * MIB
    budget.limit(used / 0.96)
    budget.becomes("eviction")
    broker.loop.sleep(0.6)  # the accept that was armed ends within a quarter of a second
    waiting = [broker.say("SUBSCRIBE t\r\n") for _ in range(5)]
    broker.loop.sleep(1)
    assert not any(c.buffer or c.ended for c in waiting), "they wait in the kernel's queue"
    assert budget.sum("memory_evicted") == 0 and not idle.ended
    budget.limit(used / 0.5)
    assert [c.ok() for c in waiting]
    budget.becomes("easy")
    assert budget.crossed() == [1, 1, 1]
    broker.works()


@REACTORS
def test_many_unfinished_messages_that_are_small_go_when_nothing_else_can(start, reactors):
    limits = {"memory_bytes": "1G", "handshake_seconds": 600}
    budget = Budget(start, reactors=reactors, limits=limits, engine={"recv_buffers": 1024})
    broker = budget.broker
    # Beginnings of messages, of bodies and of commands, none of them worth a client by itself.
    beginnings = ["PUBLISH t\r\n", "POST /publish/t HTTP/1.1\r\nHost: b\r\nContent-Length: 11999\r\n\r\n", "GET /"]
    parts = [broker.say(beginnings[i % 3]) for i in range(1800)]
    broker.loop.wait_each(parts[::3], lambda c: c.has(1), "OK")
    for client in parts:
        client.send(b"p" * (4000 if client in parts[2::3] else 11_000))
    broker.loop.wait_each(parts, lambda c: not c.out, "all is sent")
    assert budget.settles() > 17 * MIB
    budget.limit(16 * MIB, handshake_seconds=600)
    broker.loop.wait(lambda: any(c.ended for c in parts), "some of them go")
    broker.loop.wait(lambda: budget.memory()["level"] != "eviction", lambda: f"there is room: {budget.memory()}")
    broker.loop.sleep(1.1)  # a reactor's own figures are a second old at most
    gone = sum(c.ended for c in parts)
    assert gone == budget.sum("memory_evicted") < 1000, "no more than must"
    assert not any(c.ended and not c.reset for c in parts), "an orderly end would be a receipt"
    broker.publish("t", b"message")
    budget.counts("published")


def test_what_the_kernel_holds_for_clients_counts(start):
    budget = Budget(start, reactors=2, topics={"history_messages": 0})
    before = budget.settles()
    clients = stalled(budget.broker, "held", 40)
    budget.broker.publish("held", b"m" * 300_000)
    budget.broker.eventually(delivered=40)  # the broker itself has nothing left to send
    assert budget.settles() - before > 40 * 100_000
    for client in clients:
        client.abort()
    budget.broker.loop.wait(lambda: budget.memory()["bytes"] < before + MIB, lambda: f"{budget.memory()}, before {before}")


def test_metrics_tell_of_the_budget(start):
    budget = Budget(start, topics=KEPT, limits={"memory_bytes": "16M"})
    for message in numbered(b"m", 45, 400_000):
        budget.broker.publish("t", message)
    budget.broker.loop.sleep(0.1)
    text = budget.ask("/metrics")[1]
    figures = dict(re.findall(r"^(broker_memory\w+(?:\{.*\})?) (\S+)$", text, re.M))
    assert 8 * MIB < int(figures["broker_memory_bytes"]) < 16 * MIB == int(figures["broker_memory_limit_bytes"])
    assert figures["broker_memory_level"] in "01"
    assert int(figures['broker_memory_crossings_total{reactor="0",level="history"}']) >= 1
    assert int(figures['broker_memory_history_dropped_total{reactor="0"}']) > 0


@release_only
@REACTORS
def test_the_process_stays_within_its_budget(start, reactors):
    """Whatever the clients do; beside the budget there are the program, fragments, and what is under way in lanes."""
    slack = 32 * MIB
    budget = Budget(start, reactors=reactors, topics={**KEPT, **PATIENT}, limits={"memory_bytes": "48M"})
    broker = budget.broker
    crowd = [c for i in range(8) for c in stalled(broker, f"t.{i % 4}", 2)]
    publishers = [broker.publisher(f"t.{i % 4}") for i in range(8)]
    chance = 0
    begin = time.monotonic()
    # For a while, and until there has been as much as the test is about.
    while time.monotonic() < begin + 4 or (not budget.full(1000) and time.monotonic() < begin + PATIENCE):
        chance = chance * 1103515245 + 12345 & 0x7FFFFFFF
        publisher = publishers[chance % 8]
        if len(publisher.out) < 4 * MIB:
            publisher.send_lines(*numbered(b"m", 20, [100, 3000, 20_000, 200_000][chance >> 8 & 3]))
        broker.loop.turn(0)
    assert broker.memory("VmHWM") < 48 * MIB + slack, budget.memory()
    memory = budget.memory()
    assert memory["bytes"] < 48 * MIB + slack and memory["crossings_history"] >= 1, memory
    assert budget.sum("published") > 1000 and len(crowd) == 16


@release_only
@REACTORS
def test_short_messages_to_event_streams_stay_within_the_budget(start, reactors):
    """An empty line is 2 bytes, and its event 42: they wait as they came."""
    slack = 32 * MIB
    budget = Budget(start, reactors=reactors, topics={**KEPT, **PATIENT}, limits={"memory_bytes": "48M"})
    broker = budget.broker
    ask = "GET /subscribe/t.{} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n"
    crowd = [broker.say(ask.format(i), rcvbuf=RCVBUF) for i in range(16)]
    broker.loop.wait_each(crowd, lambda c: c.has(1), "an answer")
    for client in crowd:
        client.stall()
    publishers = [broker.publisher(f"t.{i}") for i in range(16)]
    deadline = time.monotonic() + 4
    while time.monotonic() < deadline:
        for publisher in publishers:
            if len(publisher.out) < 1 * MIB:
                publisher.send(b"\r\n" * 132_000)
        broker.loop.turn(0)
    assert broker.memory("VmHWM") < 48 * MIB + slack, budget.memory()
    assert budget.memory()["bytes"] < 48 * MIB + slack
    assert budget.sum("published") > 1_000_000 and len(crowd) == 16


def test_a_start_that_leaves_clients_less_than_half_is_refused(tmp_path):
    """With both numbers and the keys, by --check too."""
    for memory, fits in (("16M", False), ("32M", True)):
        path = tmp_path / f"{memory}.conf"
        path.write_text(config_text(listen=BOTH, reactors=12, limits={"memory_bytes": memory}))
        checked = run("-c", path, "--check")
        assert checked.returncode == (0 if fits else 2), checked.stderr
        if not fits:
            assert re.search(r"limits.memory_bytes is 16777216 and the rings and receive buffers of 12 reactors take 12582912.*engine.recv_buffers", checked.stderr)
            started = run("-c", path)
            assert started.returncode == 2 and "12582912" in started.stderr


def test_what_reactors_count_before_anybody_comes_is_what_the_start_goes_by(start):
    """However many lanes there are between them."""
    reactors = 16
    broker = Budget(start, reactors=reactors, limits={"memory_bytes": "64M"}, engine={})
    base = reactors * ((4096 * 64) + (4 * 4096 * 16) + (32 * (16 << 10)))
    assert base <= broker.memory()["bytes"] < base + 2 * MIB
    assert broker.memory()["level"] == "easy"


def test_objects_that_do_not_change_cost_a_reload_nothing(start, tmp_path):
    """And those that were before are gone with the last who reads them."""
    for i in range(40):
        (tmp_path / f"o{i}").write_bytes(bytes([i]) * MIB)
    budget = Budget(start, reactors=2, limits={"memory_bytes": "64M"}, http={"objects_dir": str(tmp_path)}, stats_seconds=1)
    for i in range(20):
        budget.broker.publish(f"h{i}", b"x" * 100_000)
    subscriber = budget.broker.subscribe("k")
    before = budget.settles()

    def reload():
        since = budget.broker.log_size()
        budget.broker.send_signal(signal.SIGHUP)
        budget.broker.says("reload: .* is in force", since)

    for _ in range(3):
        reload()
    assert budget.settles() < before + MIB
    (tmp_path / "o7").write_bytes(b"seven" * MIB)
    (tmp_path / "o8").unlink()
    reload()
    assert budget.settles() < before + 5 * MIB
    assert budget.ask("/object/o7")[1] == "seven" * MIB and budget.ask("/object/o8")[0] == 404
    assert budget.ask("/object/o9")[1] == chr(9) * MIB
    assert budget.crossed() == [0, 0, 0]
    for i in range(20):
        assert budget.ask(f"/topic/h{i}/last")[0] == 200
    assert not subscriber.ended


def test_a_reload_whose_objects_leave_clients_too_little_is_refused(start, tmp_path):
    budget = Budget(start, reactors=1, limits={"memory_bytes": "64M"}, http={"objects_dir": str(tmp_path)})
    (tmp_path / "large").write_bytes(bytes(50 * MIB))
    since = budget.broker.log_size()
    budget.broker.send_signal(signal.SIGHUP)
    budget.broker.says("reload: limits.memory_bytes is 67108864 and what is in http.objects_dir takes 524.*three quarters", since)
    budget.broker.says("reload: .* is not taken and the old configuration stays in force", since)
    assert budget.ask("/object/large")[0] == 404
    assert budget.settles() < 8 * MIB
