"""Ten thousand HTTP clients at once: waiting for one message, and subscribed to one topic."""

import resource
import time

from harness import SANITIZER, whole_seconds

# Both ends of every connection are descriptors of this machine's one limit per process.
MANY = min(10_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - 500)
if SANITIZER:
    MANY = min(MANY, 2000)

HTTP = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}


class Many:
    """Clients that have asked the same; the loop reads for all of them."""

    def __init__(self, broker, request):
        self.broker = broker
        self.clients = []
        self.before = broker.memory()
        for n in range(MANY):
            client = broker.connect()
            client.send(request)
            self.clients.append(client)
            if n % 100 == 99:
                broker.loop.turn()

    def cost_little(self):
        """Each of them is a small record in the broker's memory."""
        each = (self.broker.memory() - self.before) // MANY
        print(f"{each} bytes of memory for each of {MANY}")
        assert SANITIZER or each < 4096

    def all_have(self, text, seconds=None):
        self.broker.loop.wait_each(self.clients, lambda c: text in c.buffer, f"{text} for each", seconds)


def ask(broker, request):
    client = broker.connect()
    client.send(request)
    broker.loop.wait(lambda: b"\r\n\r\n" in client.buffer and client.buffer.endswith(b"\n"), "an answer")
    return bytes(client.buffer)


def publish(broker, topic, body):
    return ask(broker, b"POST /publish/%s HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n%s" % (topic, len(body), body))


def test_ten_thousand_requests_wait_for_one_message(start):
    broker = start(listen=HTTP, reactors=2, http={"wait_seconds": whole_seconds(40)}, limits={"handshake_seconds": 60})
    many = Many(broker, b"GET /topic/w/1 HTTP/1.1\r\nHost: b\r\n\r\n")
    broker.loop.wait(lambda: broker.stats()["connections"] >= MANY, "all are connected")
    many.cost_little()
    body = b"m" * 5000
    before = time.monotonic()
    assert b"200 OK" in publish(broker, b"w", body)
    many.all_have(body)
    print(f"{MANY} waiters answered in {time.monotonic() - before:.2f} s")
    for client in many.clients:
        assert client.buffer.startswith(b"HTTP/1.1 200 OK\r\n") and client.buffer.endswith(b"\r\n\r\n" + body)


def test_ten_thousand_event_streams_of_one_topic(start):
    broker = start(listen=HTTP, reactors=2, limits={"handshake_seconds": 60})
    many = Many(broker, b"GET /subscribe/s?last=5 HTTP/1.1\r\nHost: b\r\nAccept: text/event-stream\r\n\r\n")
    many.all_have(b"retry: ")
    many.cost_little()
    for n in range(10):
        publish(broker, b"s", b"message %d." % n)
    many.all_have(b"message 9.")
    for client in many.clients:
        at = -1
        for n in range(10):
            assert client.buffer.count(b"data: message %d." % n) == 1
            at, last = client.buffer.index(b"message %d." % n), at
            assert at > last
    broker.eventually(delivered=10 * MANY)
