"""MQTT, statement by statement: raw bytes and what has to come of them, here and at mosquitto."""

import socket
import struct
import subprocess
import time

import pytest

from harness import PATIENCE, Broker
from mqtt_wire import PING, PONG, Client, connect, packet, properties, publish, string, subscribe, unhex, unsubscribe

LISTENERS = {
    "mqtt": {"address": "127.0.0.1:0", "protocols": ["mqtt"]},
    "others": {"address": "127.0.0.1:0", "protocols": ["line", "http"]},
}
MESSAGE_BYTES = 64 << 10


@pytest.fixture(scope="module", params=[1, 3], ids=["1-reactor", "3-reactors"])
def shared(request, tmp_path_factory):
    broker = Broker(
        tmp_path_factory.mktemp("broker"),
        reactors=request.param,
        listen=LISTENERS,
        limits={"message_bytes": MESSAGE_BYTES},
    )
    yield broker
    broker.close()


class Place:
    """Where clients of a test go; all end with it."""

    def __init__(self, broker):
        self.broker = broker
        self.clients = []

    def client(self, level=4, **said):
        self.clients.append(Client(self.broker.address(0), level, **said))
        return self.clients[-1]


@pytest.fixture
def place(shared):
    place = Place(shared)
    yield place
    for client in place.clients:
        client.close()
    assert shared.running(), shared.log_tail()


@pytest.fixture(scope="module")
def mosquitto(tmp_path_factory):
    """The address of Debian's mosquitto, which reacts likewise."""
    directory = tmp_path_factory.mktemp("mosquitto")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (directory / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    process = subprocess.Popen(
        ["mosquitto", "-c", directory / "mosquitto.conf"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    end = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except ConnectionRefusedError:
            assert process.poll() is None and time.monotonic() < end, "mosquitto does not listen"
            time.sleep(0.02)
    yield f"127.0.0.1:{port}"
    process.kill()
    process.wait()


@pytest.fixture(params=[4, 5], ids=["3.1.1", "5.0"])
def level(request):
    return request.param


# --- statements ----------------------------------------------------------------------------------------

CLOSE = "close"

# The number of a statement (5.0's where not said otherwise), the level, bytes at the beginning of a
# connection, and the packets that come of them; behind them the connection is open, unless CLOSE is
# last. True: mosquitto does likewise, as far as open or closed, and kinds of packets go.
CONNECTS = [
    ("3.1.0-1", 4, "c000", [CLOSE], True),
    ("3.1.0-1", 4, "30 04 0001'a' 'x'", [CLOSE], True),
    ("3.1.0-2", 4, "10 0c 0004'MQTT' 04 02 0000 0000  10 0c 0004'MQTT' 04 02 0000 0000", ["20020000", CLOSE], True),
    ("3.1.0-2", 5, "10 0d 0004'MQTT' 05 02 0000 00 0000  10 0d 0004'MQTT' 05 02 0000 00 0000", ["20", "e0 82", CLOSE], False),
    ("3.1.2-1", 4, "10 0c 0004'MQTX' 04 02 0000 0000", [CLOSE], True),
    ("3.1.2-2", 4, "10 0c 0004'MQTT' 03 02 0000 0000", ["20020001", CLOSE], False),
    ("3.1.2-2", 4, "10 0f 0006'MQIsdp' 03 02 0000 0001'a'", ["20020001", CLOSE], False),
    ("3.1.2-2", 5, "10 0d 0004'MQTT' 06 02 0000 00 0000", ["2003008400", CLOSE], False),
    ("3.1.2-3", 4, "10 0c 0004'MQTT' 04 03 0000 0000", [CLOSE], True),
    ("3.1.2-3", 5, "10 0d 0004'MQTT' 05 03 0000 00 0000", ["2003008100", CLOSE], False),
    ("3.1.2-11", 4, "10 0c 0004'MQTT' 04 0a 0000 0000", [CLOSE], True),
    ("3.1.2-12", 4, "10 11 0004'MQTT' 04 1e 0000 0000 0001'w' 0000", [CLOSE], True),
    ("3.1.2-13", 4, "10 0c 0004'MQTT' 04 22 0000 0000", [CLOSE], True),
    ("3.1.2-22 of 3.1.1", 4, "10 0f 0004'MQTT' 04 42 0000 0000 0001'p'", [CLOSE], False),
    ("3.1.3-3", 4, "10 0a 0004'MQTT' 04 02 0000", [CLOSE], True),
    ("3.1.3-6 of 3.1.1", 4, "10 0c 0004'MQTT' 04 02 0000 0000", ["20020000"], True),
    ("3.1.3-8 of 3.1.1", 4, "10 0c 0004'MQTT' 04 00 0000 0000", ["20020002", CLOSE], True),
    ("3.1.4-5", 4, "10 0c 0004'MQTT' 04 02 0000 0000  c000", ["20020000"], True),
    ("3.1.4-6", 4, "10 0c 0004'MQTT' 04 02 0000 0000  82 06 0001 0001'a'00", ["20020000", "9003000100"], True),
    ("3.2.2-1", 4, "10 0d 0004'MQTT' 04 00 0000 0001'k'", ["20020000"], True),
    ("4.12.0-1", 5, "10 13 0004'MQTT' 05 02 0000 06 15 0003'abc' 0000", ["2003008c00", CLOSE], True),
    ("3.1.2.11.3", 5, "10 10 0004'MQTT' 05 02 0000 03 210000 0000", ["2003008200", CLOSE], False),
    ("1.5.4-1", 4, "10 0f 0004'MQTT' 04 02 0000 0003eda080", [CLOSE], True),
    ("3.1.2-24", 5, "10 12 0004'MQTT' 05 02 0000 05 27 00000100 0000", ["20"], True),
]

# The same behind a CONNECT and its CONNACK.
PACKETS = [
    ("2.1.3-1", 4, "41 02 0001", [CLOSE], False),
    ("2.1.3-1", 5, "41 02 0001", ["e0 81", CLOSE], False),
    ("2.2.1-3", 4, "32 05 0001'a' 0000", [CLOSE], True),
    ("2.2.1-3", 5, "32 06 0001'a' 0000 00", ["e0 82", CLOSE], False),
    ("3.3.1-2", 4, "38 03 0001'a'", [CLOSE], False),
    ("3.3.1-4", 4, "36 05 0001'a' 0001", [CLOSE], True),
    ("3.3.1-4", 5, "36 06 0001'a' 0001 00", ["e0 81", CLOSE], True),
    ("3.3.2-1", 4, "30 03 0001ff", [CLOSE], True),
    ("3.3.2-2", 4, "30 03 0001'#'", [CLOSE], True),
    ("3.3.2-2", 5, "30 04 0001'+' 00", ["e0 90", CLOSE], False),
    ("4.7.3-1", 4, "30 02 0000", [CLOSE], True),
    ("3.3.2-8", 5, "30 07 0001'a' 03 230001", ["e0 94", CLOSE], False),
    ("3.3.4-6", 5, "30 06 0001'a' 02 0b01", ["e0", CLOSE], False),
    ("3.3.4-1, QoS 1", 4, "32 05 0001'a' 0007", ["40020007"], True),
    ("3.3.4-1, QoS 2", 4, "34 05 0001'a' 0007  62020007", ["50020007", "70020007"], True),
    ("3.3.4-1, QoS 2", 5, "34 06 0001'a' 0007 00  62020007", ["50", "70020007"], True),
    ("4.3.3-10", 4, "34 05 0001'a' 0007  3c 05 0001'a' 0007  62020007", ["50020007", "50020007", "70020007"], True),
    ("4.6.0-2", 4, "32 05 0001'a' 0001 34 05 0001'b' 0002 32 05 0001'c' 0003", ["40020001", "50020002", "40020003"], True),
    ("3.6.2-1", 5, "62020009", ["7003000992"], False),
    ("3.6.2-1", 4, "62020009", ["70020009"], True),
    ("3.8.1-1", 4, "80 06 0001 0001'a'00", [CLOSE], True),
    ("3.8.3-2", 4, "82 02 0001", [CLOSE], True),
    ("3-8.3-4 of 3.1.1", 4, "82 06 0001 0001'a'03", [CLOSE], True),
    ("3.8.3-5", 5, "82 07 0001 00 0001'a'40", ["e0", CLOSE], True),
    ("3.8.3-4", 5, "82 10 0001 00 000a'$share/g/t'04", ["e0 82", CLOSE], False),
    ("3.8.4-1", 4, "82 06 000a 0001'a'00", ["9003000a00"], True),
    ("3.8.4-6", 4, "82 0b 000a 0001'a'00 0002'bb'00", ["9004000a0000"], True),
    ("3.8.2.1.2", 5, "82 09 0001 02 0b05 0001'a'00", ["e0 a1", CLOSE], False),
    ("4.7.1-1", 5, "82 0b 0001 00 0005'a/#/b'00", ["90040001008f"], False),
    ("4.7.1-1", 4, "82 0a 0001 0005'a/#/b'00", ["9003000180"], False),
    ("4.8.2-1", 5, "82 0f 0001 00 0009'$share//t'00", ["90040001008f"], False),
    ("3.10.1-1", 4, "a0 05 0001 0001'a'", [CLOSE], True),
    ("3.10.3-2", 4, "a2 02 0001", [CLOSE], True),
    ("3.10.4-4", 4, "a2 05 0005 0001'z'", ["b0020005"], True),
    ("3.11.3-1", 5, "82 07 0001 00 0001'y'00 a2 09 0005 00 0001'y'0001'z'", ["9004000100 00", "b0050005000011"], True),
    ("3.12.4-1", 4, "c000", [], True),
    ("3.12.4-1", 4, "c001 00", [CLOSE], False),
    ("3.14.1-1", 4, "e1 00", [CLOSE], True),
    ("3.14.4-3", 4, "e0 00", [CLOSE], True),
    ("3.14.4-3", 5, "e0 00", [CLOSE], True),
    ("3.14.2.2.2", 5, "e0 07 00 05 11 00000001", ["e0 82", CLOSE], False),
    ("2.1.2", 4, "00 00", [CLOSE], True),
    ("2.2.2-2 of 3.1.1", 4, "f0 00", [CLOSE], True),
    ("4.12.0-7", 5, "f0 00", ["e0 82", CLOSE], True),
    ("2.1.2, a server's", 5, "90 04 0001 00 00", ["e0 82", CLOSE], False),
    ("1.5.5-1", 5, "c0 8000", ["e0 81", CLOSE], False),
    ("1.5.5", 4, "c0 ffffffff7f", [CLOSE], True),
    ("3.7.2-1", 4, "70020001", [], True),
    ("4.13.1-1, nothing behind it", 4, "32 05 0001'#' 0001  82 06 0001 0001'a'00", [CLOSE], True),
]


def check(reaction, wanted, where):
    """Packets are as wanted, or begin like that: "e0 82" is a DISCONNECT with that reason."""
    shape = [CLOSE if p is None else p for p in reaction]
    assert len(shape) == len(wanted), f"{where}: {shape}"
    for got, want in zip(shape, wanted):
        if CLOSE in (got, want):
            assert got == want, f"{where}: {shape}"
        elif " " in want and want.startswith("e0"):
            assert got[0] == 0xE0 and got[2] == int(want.split()[1], 16), f"{where}: {shape}"
        elif len(unhex(want)) == 1:
            assert got[0] == unhex(want)[0], f"{where}: {shape}"
        else:
            assert got == unhex(want), f"{where}: {shape}"


def kinds(reaction):
    """DISCONNECT is as good as none, and the answer to CONNECT is no matter of kind."""
    return [None if p is None else p[0] >> 4 for p in reaction if p is None or p[0] >> 4 != 14]


@pytest.mark.parametrize("number, at, data, wanted, same", CONNECTS, ids=[f"{n}-{c[0]}" for n, c in enumerate(CONNECTS)])
def test_a_beginning_is_answered_as_the_specification_says(place, mosquitto, number, at, data, wanted, same):
    here = place.client(at, data=unhex(data)).reaction()
    check(here, wanted, number)
    if same:
        there = Client(mosquitto, at, data=unhex(data)).reaction()
        assert kinds(here)[-1:] == kinds(there)[-1:], f"{number}: mosquitto {there}"


@pytest.mark.parametrize("number, at, data, wanted, same", PACKETS, ids=[f"{n}-{p[0]}" for n, p in enumerate(PACKETS)])
def test_a_packet_is_answered_as_the_specification_says(place, mosquitto, number, at, data, wanted, same):
    here = place.client(at).reaction(unhex(data))
    check(here, wanted, number)
    if same:
        there = Client(mosquitto, at).reaction(unhex(data))
        assert kinds(here) == kinds(there), f"{number}: mosquitto {there}"


@pytest.mark.parametrize("step", [1, 2, 7])
def test_bytes_may_come_in_any_pieces(place, level, step):
    """mqtt.js sends a CONNECT in ten writes."""
    data = connect(level, "pieces") + subscribe(level, "p/x") + publish(level, "p/x", b"m" * 300, qos=1)
    client = place.client(level, data=b"")
    for at in range(0, len(data), step):
        client.send(data[at : at + step])
    assert sorted(client.next()[0] >> 4 for _ in range(4)) == [2, 3, 4, 9]


# --- messages -----------------------------------------------------------------------------------------


def test_what_is_published_comes_to_subscribers_of_every_protocol(place, level):
    line = place.broker.connect(1)
    line.send("SUBSCRIBE cross.x\r\n")
    line.ok()
    client = place.client(level).subscribe("cross/x")
    client.send(publish(level, "cross/x", b"hello"))
    assert client.message() == (0, "cross/x", b"", b"hello")
    assert line.take(1) == [b"hello"]
    other = place.broker.connect(1)
    other.send("PUBLISH cross.x\r\nfrom a line\r\nBYE\r\n")
    assert client.message() == (0, "cross/x", b"", b"from a line")


@pytest.mark.parametrize("size", [0, 1, 127, 128, 5000, 16 << 10, (16 << 10) + 1, MESSAGE_BYTES])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_messages_of_any_length_come_as_they_are(place, level, size, qos):
    body = bytes(i * 7 % 251 for i in range(size))
    topic = f"length/{level}/{size}/{qos}"
    subscriber = place.client(level).subscribe(topic)
    publisher = place.client(level)
    publisher.send(publish(level, topic, body, qos=qos) + publish(level, topic, b"end"))
    assert subscriber.message() == (0, topic, b"", body)
    assert subscriber.message() == (0, topic, b"", b"end")
    if qos > 0:
        assert publisher.next() == bytes([0x40 if qos == 1 else 0x50, 2, 0, 1])


def test_properties_of_a_message_come_to_subscribers_of_5_0(place):
    said = (
        b"\x26" + string("k") + string("1")
        + b"\x01\x01"
        + b"\x03" + string("text/plain")
        + b"\x08" + string("answers/here")
        + b"\x26" + string("k") + string("2")
        + b"\x09" + string(b"\x00\xff")
    )
    new, old = place.client(5).subscribe("props"), place.client(4).subscribe("props")
    place.client(5).send(publish(5, "props", b"x", said=said))
    flags, topic, got, payload = new.message()
    assert (flags, topic, payload) == (0, "props", b"x")
    assert got == (
        b"\x03" + string("text/plain")
        + b"\x08" + string("answers/here")
        + b"\x26" + string("k") + string("1")
        + b"\x01\x01"
        + b"\x26" + string("k") + string("2")
        + b"\x09" + string(b"\x00\xff")
    )
    assert old.message() == (0, "props", b"", b"x")


def test_each_filter_of_a_connection_gets_what_it_matches(place, level):
    client = place.client(level).subscribe("two/a", "two/b")
    other = place.client(level)
    other.send(publish(level, "two/a", b"1") + publish(level, "two/c", b"2") + publish(level, "two/b", b"3"))
    assert sorted(client.message()[3] for _ in range(2)) == [b"1", b"3"]


def test_nothing_comes_behind_unsuback(place, level):
    client = place.client(level).subscribe("gone/x")
    client.send(publish(level, "gone/x", b"1"))
    assert client.message()[3] == b"1"
    assert [p[0] for p in client.reaction(unsubscribe(level, "gone/x"))] == [0xB0]
    assert client.reaction(publish(level, "gone/x", b"2")) == []


def test_what_a_client_publishes_is_before_what_it_subscribes_to_next(place, level):
    for i in range(8):
        topic = f"next/{level}/{i}"
        client = place.client(level)
        client.send(publish(level, topic, b"old", retain=True) + PING)
        assert client.next() == PONG
        client.send(publish(level, topic, b"kept", retain=True) + subscribe(level, topic))
        assert client.next()[0] == 0x90
        flags, _, _, payload = client.message()
        assert (flags, payload) == (1, b"kept")
        # It has that once, and what it publishes now before its subscription ends.
        client.send(publish(level, topic, b"last") + unsubscribe(level, topic) + publish(level, topic, b"late"))
        assert client.message()[3] == b"last"
        assert client.next()[0] == 0xB0
        assert client.reaction() == []


def test_the_same_filter_again_takes_the_place_of_the_first(place, level):
    client = place.client(level).subscribe("again/x").subscribe("again/x")
    client.send(publish(level, "again/x", b"1") + publish(level, "again/x", b"2"))
    assert [client.message()[3] for _ in range(2)] == [b"1", b"2"]
    assert client.reaction() == []


def test_no_local_leaves_out_what_the_client_publishes(place):
    client = place.client(5).subscribe("local/x", options=4)
    client.send(publish(5, "local/x", b"mine"))
    place.client(5).send(publish(5, "local/x", b"other"))
    assert client.message()[3] == b"other"


def test_many_publishes_are_acknowledged_in_their_order(place, level):
    data = b"".join(
        publish(level, f"order/{n % 7}", b"%d" % n, qos=1 + n % 2, identifier=n) for n in range(1, 6000)
    )
    client = place.client(level)
    got = []
    client.socket.settimeout(30)
    import threading

    writer = threading.Thread(target=client.send, args=(data,))
    writer.start()
    for n in range(1, 6000):
        p = client.next()
        got.append((p[0], struct.unpack(">H", p[2:4])[0]))
    writer.join()
    assert got == [(0x50 if n % 2 else 0x40, n) for n in range(1, 6000)]


@pytest.mark.parametrize("piece", [1 << 16, 977, 61])
def test_publishes_that_begin_alike_are_each_what_they_say(place, level, piece):
    """Of what is said with the same topic only the payload is looked at: whatever differs shows all the same."""
    random = __import__("random").Random(piece)
    subscriber = place.client(level).subscribe("alike/a").subscribe("alike/b")
    publisher = place.client(level)
    data, sent = b"", []
    for n in range(1500):
        topic = "alike/a" if random.random() < 0.9 else "alike/b"
        payload = b"%d" % n + random.choice([b"", b"x" * random.randrange(300), b"y" * 100]) if n % 50 else b""
        said = b"\x03" + string("text/plain") if level == 5 and random.random() < 0.1 else b""
        qos = 1 if random.random() < 0.05 else 0
        data += publish(level, topic, payload, qos=qos, said=said)
        sent.append((topic, payload))
    for at in range(0, len(data), piece):
        publisher.send(data[at : at + piece])
    got = [subscriber.message() for _ in sent]
    for topic in ("alike/a", "alike/b"):
        assert [m[3] for m in got if topic in m] == [p for t, p in sent if t == topic]


def test_what_begins_as_a_publish_and_is_too_long_or_wrong_ends_it_or_not(place, level):
    subscriber = place.client(level).subscribe("alike/c")
    publisher = place.client(level)
    long = publish(level, "alike/c", b"z" * (MESSAGE_BYTES + 1))
    publisher.send(publish(level, "alike/c", b"1") * 2 + long + publish(level, "alike/c", b"2"))
    assert [subscriber.message()[3] for _ in range(3)] == [b"1", b"1", b"2"]
    # A remaining length that says less than the topic takes.
    publisher.send(publish(level, "alike/c", b"3") * 2 + b"\x30\x03\x00\x07a")
    assert [subscriber.message()[3] for _ in range(2)] == [b"3", b"3"]
    assert publisher.reaction()[-1] is None


def test_a_repeat_on_the_connection_is_no_second_message(place, level):
    subscriber = place.client(level).subscribe("once/x")
    client = place.client(level)
    first = publish(level, "once/x", b"1", qos=2, identifier=5)
    again = publish(level, "once/x", b"1", qos=2, identifier=5, dup=True)
    assert [p[0] for p in client.reaction(first + again)] in ([0x50, 0x50],)
    assert client.reaction(b"\x62\x02\x00\x05")[0][:4] == b"\x70\x02\x00\x05"
    client.send(publish(level, "once/x", b"2", qos=2, identifier=5))
    assert [subscriber.message()[3] for _ in range(2)] == [b"1", b"2"]


@pytest.mark.parametrize("topic, code", [("a/*", 0x90), ("$x/y", 0x87), ("x\ny", 0x90), ("l/" * 40 + "l", 0x90)])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_what_is_refused_ends_no_connection(place, level, topic, code, qos):
    client = place.client(level)
    got = client.reaction(publish(level, topic, b"x", qos=qos, identifier=9))
    kind = {1: 0x40, 2: 0x50}.get(qos)
    if qos == 0:
        assert got == []
    elif level == 5:
        assert got == [bytes([kind, 3, 0, 9, code])]
    else:
        assert got == [bytes([kind, 2, 0, 9])]


def test_a_message_too_long_is_passed_over(place, level):
    subscriber = place.client(level).subscribe("long/x")
    client = place.client(level)
    got = client.reaction(publish(level, "long/x", bytes(MESSAGE_BYTES + 1), qos=1) + publish(level, "long/x", b"short"))
    assert got == [b"\x40\x03\x00\x01\x97" if level == 5 else b"\x40\x02\x00\x01"]
    assert subscriber.message()[3] == b"short"


def test_a_packet_too_long_ends_the_connection(place, level):
    client = place.client(level)
    got = client.reaction(b"\x30" + b"\xff\xff\xff\x7f")
    assert [p and (p[0], p[2]) for p in got] == ([(0xE0, 0x95), None] if level == 5 else [None])


# --- retained -----------------------------------------------------------------------------------------


def test_the_newest_retained_message_comes_behind_suback(place, level):
    client = place.client(level)
    client.reaction(publish(level, f"kept/{level}", b"old", retain=True, qos=1))
    client.reaction(publish(level, f"kept/{level}", b"new", retain=True, qos=1))
    client.reaction(publish(level, f"kept/{level}", b"not retained", qos=1))
    late = place.client(level).subscribe(f"kept/{level}")
    assert late.message() == (1, f"kept/{level}", b"", b"new")
    client.send(publish(level, f"kept/{level}", b"live", retain=True))
    assert late.message() == (0, f"kept/{level}", b"", b"live")
    client.reaction(publish(level, f"kept/{level}", b"", retain=True, qos=1))
    assert late.message() == (0, f"kept/{level}", b"", b"")
    assert place.client(level).subscribe(f"kept/{level}").reaction() == []


@pytest.mark.parametrize("handling, first, again", [(0, 1, 1), (1, 1, 0), (2, 0, 0)])
def test_retain_handling(place, handling, first, again):
    place.client(5).reaction(publish(5, "handling", b"r", retain=True, qos=1))
    client = place.client(5)
    for wanted in (first, again):
        got = client.reaction(subscribe(5, "handling", options=handling << 4))
        assert [p[0] for p in got] == [0x90] + [0x31] * wanted


def test_retain_as_published(place):
    client = place.client(5).subscribe("shown", options=8)
    client.send(publish(5, "shown", b"x", retain=True) + publish(5, "shown", b"y"))
    assert [client.message()[0] for _ in range(2)] == [1, 0]
    client.reaction(publish(5, "shown", b"", retain=True, qos=1))


def test_a_retained_message_is_over_when_it_says_so(place):
    client = place.client(5)
    client.reaction(publish(5, "over", b"x", retain=True, qos=1, said=b"\x02\x00\x00\x00\x01"))
    flags, _, said, _ = place.client(5).subscribe("over").message()
    assert (flags, said) == (1, b"\x02\x00\x00\x00\x01")
    time.sleep(1.1)
    assert place.client(5).subscribe("over").reaction() == []


def test_retained_messages_outlive_the_topics_clients(start):
    broker = start(listen=LISTENERS, topic={">": {"linger_seconds": 0, "history_messages": 0}})
    client = Client(broker.address(0))
    client.reaction(publish(4, "stays", b"x", retain=True, qos=1))
    client.close()
    time.sleep(0.5)
    late = Client(broker.address(0)).subscribe("stays")
    assert late.message() == (1, "stays", b"", b"x")
    late.close()


# --- wills --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["reset", "eof", "error", "disconnect 4", "disconnect"])
def test_the_will_is_published_on_every_end_but_a_disconnect(place, level, end):
    if end == "disconnect 4" and level == 4:
        end = "error"
    topic = f"will/{level}/{end.replace(' ', '')}"
    watcher = place.client(level).subscribe(topic)
    client = place.client(level, will=(topic, "gone", 0, b""))
    if end == "reset":
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()
    elif end == "eof":
        client.close()
    elif end == "error":
        client.send(b"\x00\x00")
    elif end == "disconnect 4":
        client.send(b"\xe0\x01\x04")
    else:
        client.send(b"\xe0\x00")
        assert client.rest() == []
        place.client(level).send(publish(level, topic, b"no will"))
        assert watcher.message()[3] == b"no will"
        return
    assert watcher.message() == (0, topic, b"", b"gone")


def test_a_will_may_be_retained_and_has_properties(place):
    said = b"\x03" + string("text/will") + b"\x26" + string("a") + string("b")
    client = place.client(5, will=("will/kept", "gone", 0x20, b"\x18\x00\x00\x00\x05" + said))
    watcher = place.client(5).subscribe("will/kept")
    client.close()
    assert watcher.message() == (0, "will/kept", said, b"gone")
    assert place.client(5).subscribe("will/kept").message() == (1, "will/kept", said, b"gone")
    place.client(5).reaction(publish(5, "will/kept", b"", retain=True, qos=1))


# --- connections --------------------------------------------------------------------------------------


def test_an_identifier_belongs_to_the_newest_connection(place, level):
    topic = f"over/{level}"
    watcher = place.client(level).subscribe(topic)
    clients = [place.client(level, identifier="same", will=(topic, "gone", 0, b""))]
    for _ in range(5):
        clients.append(place.client(level, identifier="same", will=(topic, "gone", 0, b"")))
        assert [(p[0], p[2]) for p in clients[-2].rest()] == ([(0xE0, 0x8E)] if level == 5 else [])
        assert watcher.message()[3] == b"gone"
    assert clients[-1].reaction() == []


def test_a_client_without_a_name_is_given_one(place):
    a, b = place.client(5), place.client(5)
    names = {c.connack[c.connack.index(b"\x12") :][3:23] for c in (a, b)}
    assert len(names) == 2 and all(n.startswith(b"mqtt") for n in names)


def test_connack_of_5_0_says_what_there_is(place):
    said = place.client(5, identifier="says", said=b"\x11\x00\x00\x00\x3c").connack[5:]
    assert b"\x11\x00\x00\x00\x00" in said  # the session ends with the connection
    assert b"\x27" + struct.pack(">I", MESSAGE_BYTES + (64 << 10)) in said
    assert b"\x29\x00" in said


def test_whoever_is_silent_for_too_long_is_closed(place, level):
    client = place.client(level, keep_alive=1)
    begun = time.monotonic()
    got = client.rest()
    took = time.monotonic() - begun
    assert [p[2] for p in got] == ([0x8D] if level == 5 else [])
    assert 1.4 < took < 5
    quiet = place.client(level)
    assert quiet.reaction() == []


def test_whoever_pings_stays(place, level):
    client = place.client(level, keep_alive=1)
    for _ in range(6):
        time.sleep(0.5)
        assert client.reaction() == []


def test_draining_is_told(start):
    broker = start(listen=LISTENERS)
    client, old = Client(broker.address(0), 5), Client(broker.address(0), 4)
    watched = Client(broker.address(0), 5, will=("end", "x", 0, b"")).subscribe("end")
    broker.stop()
    assert [p[2] for p in client.rest()] == [0x8B]
    assert old.rest() == []
    assert [p[2] for p in watched.rest()] == [0x8B]


def test_a_full_broker_says_so(start):
    broker = start(listen=LISTENERS, limits={"connections": 1})
    first = Client(broker.address(0))
    assert Client(broker.address(0), 4, data=connect(4)).rest() == [b"\x20\x02\x00\x03"]
    assert Client(broker.address(0), 5, data=connect(5)).rest() == [b"\x20\x03\x00\x97\x00"]
    first.close()


# --- wildcards and groups -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "filter, gets, not_gets",
    [
        ("w/+", ["w/a", "w/b", "w/"], ["w", "w/a/b", "x/a"]),
        ("w/#", ["w", "w/a", "w/a/b", "w/"], ["x", "ww/a"]),
        ("w/+/c", ["w/a/c", "w//c"], ["w/c", "w/a/b/c"]),
        ("+/+/d", ["w/a/d", "/x/d"], ["w/d", "$w/a/d"]),
        ("w/v1.0/#", ["w/v1.0", "w/v1.0/x"], ["w/v1/0"]),
    ],
)
def test_wildcards_match_what_the_specification_says(place, level, filter, gets, not_gets):
    client = place.client(level).subscribe(filter)
    other = place.client(level)
    other.reaction(b"".join(publish(level, t, t.encode(), qos=1) for t in not_gets + gets))
    assert sorted(client.message()[1] for _ in gets) == sorted(gets)
    assert client.reaction() == []


def test_overlapping_filters_get_a_copy_each(place, level):
    client = place.client(level).subscribe("lap/+", "lap/#", "lap/x")
    place.client(level).send(publish(level, "lap/x", b"1"))
    assert [client.message()[3] for _ in range(3)] == [b"1"] * 3
    assert client.reaction() == []


def test_a_wildcard_gets_the_retained_messages_of_all_that_it_matches(place, level):
    root = f"all/{level}"
    client = place.client(level)
    names = [f"{root}/{n}" for n in range(200)]
    client.reaction(b"".join(publish(level, t, t.encode(), retain=True, qos=1, identifier=n + 1) for n, t in enumerate(names)))
    late = place.client(level).subscribe(f"{root}/+")
    got = [late.message() for _ in names]
    assert sorted(m[1] for m in got) == sorted(names)
    assert {m[0] for m in got} == {1}
    client.send(publish(level, names[0], b"live"))
    assert late.message() == (0, names[0], b"", b"live")
    client.reaction(b"".join(publish(level, t, b"", retain=True, qos=1, identifier=n + 1) for n, t in enumerate(names)))
    assert place.client(level).subscribe(f"{root}/#").reaction() == []


def test_each_message_goes_to_one_of_a_group(place, level):
    members = [place.client(level).subscribe("$share/g/shared/+") for _ in range(4)]
    everybody = place.client(level).subscribe("shared/x")
    publisher = place.client(level)
    publisher.reaction(b"".join(publish(level, "shared/x", b"%d" % n, qos=1, identifier=n + 1) for n in range(100)))
    assert [everybody.message()[3] for _ in range(100)] == [b"%d" % n for n in range(100)]
    # A member on another reactor may hear of them later than everybody.
    got, deadline = [], time.monotonic() + PATIENCE
    while len(got) < 100 and time.monotonic() < deadline:
        got += [p for member in members for p in member.reaction()]
    assert len(got) == 100


def test_a_group_gets_no_retained_messages(place, level):
    place.client(level).reaction(publish(level, "shared/kept", b"x", retain=True, qos=1))
    assert [p[0] for p in place.client(level).reaction(subscribe(level, "$share/g/shared/kept"))] == [0x90]
    place.client(level).reaction(publish(level, "shared/kept", b"", retain=True, qos=1))
