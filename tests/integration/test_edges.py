"""Every limit of the configuration at its edge, one under and one over, in both protocols."""

import http.client
import json
import signal
import socket
import time

import pytest

from harness import FACTOR, PATIENCE, PATIENT, whole_seconds

BOTH = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}


def open_broker(start, **config):
    return start(**{"listen": BOTH, **config})


def ask(broker, method, path, body=None, **headers):
    connection = http.client.HTTPConnection(broker.address(), timeout=PATIENCE)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_connections(start):
    broker = open_broker(start, limits={"connections": 3})
    clients = broker.subscribe_many(["a", "b"])
    assert ask(broker, "GET", "/health")[0] == 200, "one under: the third is let in"
    broker.eventually(connections=2)
    clients.append(broker.subscribe("c"))
    assert ask(broker, "GET", "/health") == (503, b'{"error":"too many connections"}\n')
    assert broker.say("SUBSCRIBE d\r\n").rest() == [b"ERROR too many connections"]
    assert clients.pop().leave() == []
    broker.eventually(connections=2)
    assert ask(broker, "GET", "/health")[0] == 200


def test_connections_of_one_address(start):
    broker = open_broker(start, limits={"connections_per_ip": 2})
    clients = [broker.subscribe("a")]
    assert ask(broker, "GET", "/health")[0] == 200
    broker.eventually(connections=1)
    clients.append(broker.subscribe("b"))
    assert ask(broker, "GET", "/health") == (503, b'{"error":"too many connections"}\n')
    assert broker.say("SUBSCRIBE c\r\n").rest() == [b"ERROR too many connections"]
    assert broker.subscribe("d", source="127.0.0.2").leave() == []


def options(broker, client):
    """Of the broker's end of a client's connection: send buffer, and the longest silence in ms."""
    with broker.sockets() as sockets:
        for sock in sockets:
            try:
                if sock.getpeername() == client.socket.getsockname():
                    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) // 2, sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
            except OSError:
                continue  # a listener
    raise AssertionError("the broker does not have this client")


def test_a_reload_is_for_the_connections_that_come_after_it(start):
    broker = open_broker(start, limits={"connections": 3, "send_buffer_bytes": "8K"})
    clients = [broker.subscribe("a")]
    assert options(broker, clients[0]) == (8 << 10, 120_000)
    since = broker.log_size()
    broker.configure(limits={"connections": 2, "send_buffer_bytes": "16K"}, topics={"backlog_seconds": 200})
    broker.send_signal(signal.SIGHUP)
    broker.says("reload: .* is in force", since)
    # Each reactor takes it over when it comes to it, a moment after it has been said.
    deadline = time.monotonic() + PATIENCE
    while len(clients) < 2 or options(broker, clients[1]) != (16 << 10, 210_000):
        assert time.monotonic() < deadline, "nobody is cut before he is told"
        if len(clients) == 2:
            assert options(broker, clients[1]) == (8 << 10, 120_000), "the one or the other"
            clients.pop().leave()
        clients.append(broker.subscribe("b"))
    assert options(broker, clients[0]) == (8 << 10, 120_000)
    assert broker.say("SUBSCRIBE c\r\n").rest() == [b"ERROR too many connections"]
    assert "takes a restart" not in broker.log(since)


@pytest.mark.parametrize("first, drop, answer", [(b"SUBSCRIBE ", b"x", b"ERROR timeout\r\n"), (b"GET / HTTP/1.1\r\nHost: b\r\n", b"x: y\r\n", b"HTTP/1.1 408 ")])
def test_a_command_or_a_head_must_be_there_by_its_deadline_however_it_comes(start, first, drop, answer):
    """To the turn: tests/unit/test_world.c."""
    broker = open_broker(start, limits={"handshake_seconds": whole_seconds(1)})
    slow = broker.say(first)
    for _ in range(int(30 * FACTOR)):
        broker.loop.sleep(0.1)
        if slow.ended:
            break
        slow.send(drop)
    assert slow.ended and slow.buffer.startswith(answer)


def test_idle_seconds(start):
    broker = open_broker(start, limits={"idle_seconds": whole_seconds(2)})
    begin = time.monotonic()
    silent, speaking = broker.subscribe("b"), broker.publisher("a")
    kept = broker.say("GET /health HTTP/1.1\r\nHost: b\r\n\r\n")
    for _ in range(int(15 * FACTOR)):
        broker.loop.sleep(0.1)
        speaking.send_lines(b"still here")
    assert not (silent.ended or kept.ended) or time.monotonic() - begin > whole_seconds(2), "there is time yet"
    broker.loop.wait(lambda: silent.ended and kept.ended, "both are closed")
    assert silent.take_waiting()[-1] == b"ERROR timeout"
    speaking.send_lines(b"and here")
    assert speaking.leave() == []


def test_a_subscriber_is_answered_between_messages(start):
    """Some of more than one send takes, and nobody reads until it has asked."""
    broker = open_broker(start, limits={"message_bytes": "8M"}, topics=PATIENT)
    subscriber, publisher = broker.subscribe("t"), broker.publisher("t")
    subscriber.send(b"PING\r\nPING\r\n")
    assert subscriber.take(2) == [b"PONG"] * 2
    for size in (1, 1 << 20, 5 << 20):
        subscriber.stall()
        publisher.send_lines(b"a" * size, b"b" * size, b"c" * size)
        broker.loop.wait(lambda: not publisher.out, "all is said")
        for _ in range(100):
            subscriber.send(b"PING\r\n")
        broker.loop.sleep(0.1)
        subscriber.resume()
        lines = subscriber.take(103)
        assert [line for line in lines if line != b"PONG"] == [letter * size for letter in (b"a", b"b", b"c")]
    assert publisher.leave() == []
    subscriber.send(b"PING\r\nBYE\r\n")
    assert subscriber.rest() == [b"PONG"]


def test_another_timeout_by_reload_holds_for_those_who_wait(start):
    limits = {"idle_seconds": 600, "handshake_seconds": 600}
    broker = open_broker(start, reactors=2, limits=limits)
    silent, mute = broker.subscribe_many(["a"] * 3), [broker.say("SUB") for _ in range(3)]
    broker.loop.sleep(0.2)
    broker.configure(limits={"idle_seconds": 1, "handshake_seconds": 1})
    broker.send_signal(signal.SIGHUP)
    for client in silent + mute:
        assert client.rest()[-1] == b"ERROR timeout"


def test_no_more_silence_by_reload_and_silence_for_ever_again(start):
    broker = open_broker(start, reactors=2)
    one, two = broker.subscribe("a"), broker.subscribe("a")
    broker.configure(limits={"idle_seconds": 1})
    broker.send_signal(signal.SIGHUP)
    assert one.rest() == two.rest() == [b"ERROR timeout"]
    three = broker.subscribe("a")
    broker.configure(limits={"idle_seconds": 0})
    broker.send_signal(signal.SIGHUP)
    broker.loop.sleep(2)
    broker.publish("a", b"x")
    assert three.take(1) == [b"x"]


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_command_bytes(start, over):
    broker = open_broker(start, limits={"command_bytes": 512})
    line = b"SUBSCRIBE t FROM 0123456789abcdef:"
    line += b"1".rjust(512 + over - len(line), b"0")
    client = broker.say(line + b"\r\n")
    # No command is as long as that: one that may be has so many digits.
    assert client.rest() == [b"ERROR line too long" if over > 0 else b"ERROR malformed command"]


@pytest.mark.parametrize("most", [1 << 10, 64 << 10, 1 << 20])
@pytest.mark.parametrize("over", [-1, 0, 1])
def test_header_bytes(start, over, most):
    broker = open_broker(start, limits={"header_bytes": most})
    head = b"GET /health HTTP/1.1\r\nHost: b\r\nX: "
    head += b"x" * (most + over - len(head) - 4) + b"\r\n\r\n"
    assert len(head) == most + over
    client = broker.say(head)
    broker.loop.wait(lambda: b"\r\n\r\n" in client.buffer, "an answer")
    assert client.buffer.split()[1] == (b"431" if over > 0 else b"200")


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_message_bytes(start, over):
    broker = open_broker(start, limits={"message_bytes": "2K"}, topics=PATIENT)
    message = b"m" * (2048 + over)
    publisher = broker.publisher("t")
    publisher.send_lines(message)
    if over > 0:
        assert publisher.rest() == [b"ERROR line too long"]
    else:
        assert publisher.leave() == []
    assert ask(broker, "POST", "/publish/t", message)[0] == (413 if over > 0 else 200)
    assert ask(broker, "GET", "/topic/t/last") == ((404, b'{"error":"no such message"}\n') if over > 0 else (200, message))


@pytest.mark.parametrize("reactors", [1, 2])
def test_subscriptions(start, reactors):
    broker = open_broker(start, reactors=reactors, limits={"subscriptions": 3})
    clients = [broker.subscribe(t) for t in "abc"]
    assert broker.say("SUBSCRIBE d\r\n").rest() == [b"ERROR too many subscriptions"]
    assert ask(broker, "GET", "/subscribe/d") == (503, b'{"error":"too many subscriptions"}\n')
    assert clients.pop().leave() == []
    broker.eventually(subscriptions=2)
    assert broker.subscribe("d").leave() == []


def test_topics(start):
    broker = open_broker(start, limits={"topics": 3})
    clients = [broker.subscribe(t) for t in "abc"]
    assert broker.say("SUBSCRIBE d\r\n").rest() == [b"ERROR too many topics"]
    assert ask(broker, "POST", "/publish/d", b"x") == (503, b'{"error":"too many topics"}\n')
    assert ask(broker, "POST", "/publish/a", b"x")[0] == 200
    assert clients.pop().leave() == []
    broker.eventually(subscriptions=2)
    broker.loop.wait(lambda: ask(broker, "POST", "/publish/d", b"x")[0] == 200, "the oldest that nobody uses makes room")


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_history_messages(start, over):
    broker = open_broker(start, topics={"history_messages": 5})
    for i in range(5 + over):
        assert ask(broker, "POST", "/publish/t", b"m%d" % i)[0] == 200
    held = broker.subscribe("t", "LAST 100").leave()
    assert held == [b"m%d" % i for i in range(max(over, 0), 5 + over)]
    about = json.loads(ask(broker, "GET", "/topic/t")[1])
    assert about["messages"] == len(held)
    assert ask(broker, "GET", "/topic/t/1")[0] == (404 if over > 0 else 200)


@pytest.mark.parametrize("over", [-1, 0, 1])
def test_history_bytes(start, over):
    broker = open_broker(start, topics={"history_bytes": "1K"})
    assert ask(broker, "POST", "/publish/t", b"a" * 512)[0] == 200
    assert ask(broker, "POST", "/publish/t", b"b" * (512 + over))[0] == 200
    assert ask(broker, "GET", "/topic/t/1")[0] == (404 if over > 0 else 200)
    assert ask(broker, "GET", "/topic/t/2")[0] == 200


@pytest.mark.parametrize("spare", [-1, 0, 1])
def test_history_total_bytes(start, spare):
    """What two messages take, with what belongs to them, and a byte less or more: at once, and after a reload."""
    broker = open_broker(start)

    def publish_two():
        for topic in "ab":
            assert ask(broker, "POST", f"/publish/{topic}", topic.encode() * 1000)[0] == 200
        return [ask(broker, "GET", f"/topic/{topic}/last")[0] for topic in "ab"]

    assert publish_two() == [200, 200]
    taken = json.loads(ask(broker, "GET", "/stats.json")[1])["reactors"][0]["history_bytes"]
    assert 2000 < taken < 2800
    broker.configure(limits={"history_total_bytes": taken + spare})
    broker.send_signal(signal.SIGHUP)
    gone = 404 if spare < 0 else 200
    broker.loop.wait(lambda: ask(broker, "GET", "/topic/a/last")[0] == gone, "the reload is in force")
    assert ask(broker, "GET", "/topic/b/last")[0] == 200
    broker = open_broker(start, limits={"history_total_bytes": taken + spare})
    assert publish_two() == [gone, 200]


@pytest.mark.parametrize("reactors", [1, 3])
def test_the_history_of_all_topics_on_all_reactors(start, reactors):
    """A block takes up to 400 bytes more than its message; with several reactors a sixteenth may be left unused."""
    broker = open_broker(start, reactors=reactors, limits={"history_total_bytes": "1M"}, topics={"history_messages": 1000})
    for i in range(40):
        assert ask(broker, "POST", f"/publish/t.{i % 10}", b"%02d" % i + b"." * 49_998)[0] == 200
    broker.loop.sleep(0.6)  # every reactor looks four times a second

    def held():
        return sorted(m for t in range(10) for m in broker.subscribe(f"t.{t}", "LAST 100").leave())

    left = held()
    assert 17 <= len(left) <= 20, "as much as there may be"
    assert [int(m[:2]) for m in left] == list(range(40 - len(left), 40)), "and the newest of all"
