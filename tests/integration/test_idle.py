"""What a subscriber costs that does nothing, through every door."""

import http.client
import json
import socket

import mqtt_wire
from harness import PATIENCE
from resp import command
from web_socket import TEXT, frame

COUNT, FIRST = 200, 60
# In pools, the place among the sockets, and what the allocator puts before each of three pieces of memory.
SHARED = 448 + 16 + 3 * 8
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"


def request(path, **fields):
    fields = {"Host": "localhost:8080", "User-Agent": AGENT, "Accept-Language": "en-GB,en;q=0.9", **fields}
    return "\r\n".join([f"GET {path} HTTP/1.1", *(f"{k.replace('_', '-')}: {v}" for k, v in fields.items()), "", ""]).encode()


def upgrade(path):
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    return request(path, Connection="Upgrade", Upgrade="websocket", Sec_WebSocket_Version=13, Sec_WebSocket_Key=key)


HELLO = b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"lang":"go","version":"1.31.0","protocol":1}\r\nPING\r\n'

# What each says, the i-th of them, and what the answer to that ends with or has in it.
DOORS = {
    "line": [(lambda i: b"SUBSCRIBE idle.prices\r\n", b"OK\r\n")],
    "events": [(lambda i: request("/subscribe/idle.prices", Accept="text/event-stream"), b"\r\n\r\n")],
    "websocket": [(lambda i: upgrade("/ws/idle.prices"), b"\r\n\r\n")],
    "json": [
        (lambda i: upgrade("/ws"), b"\r\n\r\n"),
        (lambda i: frame(TEXT, '{"subscribe":"idle.prices"}'), b'"subscribed"'),
    ],
    "nats": [(lambda i: HELLO, b"PONG\r\n"), (lambda i: b"SUB idle.prices 1\r\nPING\r\n", b"PONG\r\n")],
    "resp": [
        (lambda i: command("HELLO", 3) + command("CLIENT", "SETINFO", "LIB-NAME", "redis-py"), b"+OK\r\n"),
        (lambda i: command("SUBSCRIBE", "idle.prices"), b":1\r\n"),
    ],
    "mqtt": [
        (lambda i: mqtt_wire.connect(4, f"sensor-{i:06}", keep_alive=60), b"\x20\x02\x00\x00"),
        (lambda i: mqtt_wire.subscribe(4, "idle/prices"), b"\x90\x03\x00\x01\x00"),
    ],
}


def join(address, talk, first, count):
    """One after another, so that nothing is needed for many at once."""
    host, port = address.rsplit(":", 1)
    clients = []
    for i in range(first, first + count):
        client = socket.create_connection((host, int(port)), PATIENCE)
        for text, answer in talk:
            client.sendall(text(i))
            got = b""
            while answer not in got:
                more = client.recv(4096)
                assert more, got
                got += more
        clients.append(client)
    return clients


def close(clients):
    for client in clients:
        client.close()


def counted(address):
    """What the broker holds for its clients (base/memory.h)."""
    client = http.client.HTTPConnection(address, timeout=PATIENCE)
    client.request("GET", "/stats.json", headers={"Connection": "close"})
    memory = json.loads(client.getresponse().read())["memory"]["bytes"]
    client.close()
    return memory


def test_an_idle_subscriber_costs_640_bytes_at_most_through_every_door(start):
    """Connections and subscriptions are in pools, which others have filled before. What a door needs to know of each, and
    shares with nobody, is what the broker counts more."""
    listen = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http", "nats", "resp", "mqtt"]}}
    # Receive buffers are counted, too.
    engine = {"recv_buffers": 8, "recv_buffer_bytes": 1024}
    broker = start(reactors=1, listen=listen, engine=engine, nats={"hello_ms": 60000})
    address, clients, costs = broker.address(), [], {}
    idle = broker.descriptors()
    close(join(address, DOORS["line"], 0, (COUNT + FIRST) * len(DOORS)))
    broker.loop.wait(lambda: broker.descriptors() == idle, "the end of those who filled the pools")
    for door, talk in DOORS.items():
        clients += join(address, talk, 0, FIRST)
        before = counted(address)
        clients += join(address, talk, FIRST, COUNT)
        costs[door] = round(SHARED + (counted(address) - before) / COUNT)
    close(clients)
    assert all(cost <= 640 for cost in costs.values()), costs


def test_each_of_many_subscriptions_costs_200_bytes_at_most(start):
    """A hundred of each connection: their share of it, their sids and places in tables are in that."""
    many, each, first = 400, 100, 40
    listen = {"main": {"address": "127.0.0.1:0", "protocols": ["http", "nats"]}}
    broker = start(reactors=1, listen=listen, nats={"hello_ms": 60000}, limits={"connections": 1000, "subscriptions": 50000})
    subscribe = b"".join(b"SUB idle.%d %d\r\n" % (i, i + 1) for i in range(each)) + b"PING\r\n"
    talk = [(lambda i: HELLO, b"PONG\r\n"), (lambda i: subscribe, b"PONG\r\n")]
    clients = join(broker.address(), talk, 0, first)
    before = counted(broker.address())
    clients += join(broker.address(), talk, first, many)
    cost = (counted(broker.address()) - before) / (many * each)
    close(clients)
    assert cost <= 200
