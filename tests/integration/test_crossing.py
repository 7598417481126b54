"""One topic space: what is published through each door comes out of each door, byte for byte."""

import base64
import http.client
import json
import re
import socket
import urllib.parse

import mqtt_wire
import pytest
from harness import PATIENCE
from resp import Resp
from web_socket import BINARY, TEXT, WebSocket

ALL = ["line", "http", "nats", "resp", "mqtt"]
TYPE = "application/x-crossing"

# What is published, and which doors cannot say it: a line holds no end of line, and BYE is a goodbye.
PAYLOADS = {
    "text": b"plain text",
    "empty": b"",
    "unicode": "grüße, €".encode(),
    "two lines": b"one\r\ntwo\n\nthree",
    "carriage return": b"one\rtwo",
    "bytes": bytes(range(256)),
    "quotes": b'{"a":"\\b\\"","c":1}',
    "bye": b"BYE",
    "long": b"0123456789abcdef" * 6000,
}


@pytest.fixture
def broker(start):
    return start(
        reactors=2, listen={"main": {"address": "127.0.0.1:0", "protocols": ALL}}, nats={"hello_ms": 1}, limits={"message_bytes": "1M"}
    )


# --- those who publish -------------------------------------------------------------------------------


def post(broker, topic, payload, content_type=None):
    """The id."""
    client = http.client.HTTPConnection(broker.address(), timeout=PATIENCE)
    client.request("POST", f"/publish/{urllib.parse.quote(topic)}", payload, {"Content-Type": content_type} if content_type else {})
    answer = client.getresponse()
    assert answer.status == 200, answer.read()
    found = json.loads(answer.read())["id"]
    client.close()
    return found


class Nats:
    """Says CONNECT first, as whoever shares a port with others does; every word is answered before it goes on."""

    def __init__(self, broker, *subjects):
        host, port = broker.address().rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), PATIENCE)
        self.file = self.socket.makefile("rb")
        text = 'CONNECT {"verbose":false,"headers":true,"protocol":1}\r\n' + "".join(f"SUB {s} 1\r\n" for s in subjects)
        self.flush(text.encode())

    def flush(self, data):
        self.socket.sendall(data + b"PING\r\n")
        while (line := self.file.readline()) != b"PONG\r\n":
            assert line.startswith(b"INFO "), line

    def take(self):
        """Payload, headers."""
        words = self.file.readline().split()
        assert words and words[0] in (b"MSG", b"HMSG"), words
        head = int(words[-2]) if words[0] == b"HMSG" else 0
        body = self.file.read(int(words[-1]) + 2)[:-2]
        return body[head:], dict(re.findall(r"^([^:\r\n]+): ?(.*?)\r$", body[:head].decode(), re.M))


class Lines:
    def __init__(self, broker, topic):
        self.publisher = broker.publisher(topic)

    def publish(self, topic, payload):
        self.publisher.send(payload + b"\r\n")


class Posts:
    def __init__(self, broker, topic):
        self.broker = broker

    def publish(self, topic, payload):
        post(self.broker, topic, payload)


class Frames:
    def __init__(self, broker, topic):
        self.socket = WebSocket(broker, f"/ws/{topic}")

    def publish(self, topic, payload):
        text = payload.isascii()
        self.socket.send(payload.decode() if text else payload, TEXT if text else BINARY)
        self.socket.frame()  # comes back


class Objects:
    def __init__(self, broker, topic):
        self.socket = WebSocket(broker, "/ws")

    def publish(self, topic, payload):
        try:
            data = {"data": payload.decode()}
        except UnicodeDecodeError:
            data = {"base64": base64.b64encode(payload).decode()}
        self.socket.send(json.dumps({"publish": topic, "ref": 1, **data}))
        assert json.loads(self.socket.message())["published"] == topic


class NatsPublisher(Nats):
    def __init__(self, broker, topic):
        super().__init__(broker)

    def publish(self, topic, payload):
        self.flush(b"PUB %s %d\r\n%s\r\n" % (topic.encode(), len(payload), payload))


class RespPublisher(Resp):
    def __init__(self, broker, topic):
        super().__init__(broker.address())

    def publish(self, topic, payload):
        assert self.ask("PUBLISH", topic, payload) > 0


class MqttPublisher(mqtt_wire.Client):
    def __init__(self, broker, topic):
        super().__init__(broker.address(), 5)

    def publish(self, topic, payload):
        (ack,) = self.reaction(mqtt_wire.publish(5, topic.replace(".", "/"), payload, qos=1))
        assert ack[0] == 0x40 and (len(ack) == 4 or ack[4] == 0), ack


PUBLISHERS = {
    "line": Lines, "http": Posts, "websocket": Frames, "json": Objects, "nats": NatsPublisher, "resp": RespPublisher, "mqtt": MqttPublisher,
}
CANNOT_SAY = {"line": {"two lines", "bytes", "bye"}}


# --- those who subscribe -----------------------------------------------------------------------------


class LineSubscriber:
    def __init__(self, broker, topic):
        self.client = broker.subscribe(topic)

    def take(self):
        return self.client.take(1)[0]


class Events:
    """Server-sent events, as WHATWG has them."""

    def __init__(self, broker, topic):
        self.client = http.client.HTTPConnection(broker.address(), timeout=PATIENCE)
        self.client.request("GET", f"/subscribe/{topic}", headers={"Accept": "text/event-stream"})
        self.answer = self.client.getresponse()
        assert self.answer.status == 200

    def event(self):
        fields = []
        while True:
            line = self.answer.readline()
            assert line, "the stream has ended"
            if line == b"\n" and any(k == b"data" for k, _ in fields):
                return fields
            if line != b"\n":
                name, _, value = line[:-1].partition(b":")
                fields.append((name, value.removeprefix(b" ")))

    def take(self):
        fields = self.event()
        self.id = dict(fields).get(b"id", b"").decode()
        data = b"\n".join(value for name, value in fields if name == b"data")
        return base64.b64decode(data) if (b"event", b"base64") in fields else data


class FrameSubscriber:
    def __init__(self, broker, topic):
        self.socket = WebSocket(broker, f"/ws/{topic}")

    def take(self):
        opcode, payload = self.socket.frame()
        # Text where it is UTF-8, else binary.
        try:
            payload.decode()
            assert opcode == TEXT
        except UnicodeDecodeError:
            assert opcode == BINARY
        return payload


class ObjectSubscriber:
    def __init__(self, broker, topic):
        self.socket = WebSocket(broker, f"/ws?topic={topic}")
        assert json.loads(self.socket.message())["subscribed"] == topic

    def take(self):
        message = json.loads(self.socket.message())
        self.id = message["id"]
        return message["data"].encode() if "data" in message else base64.b64decode(message["base64"])


class NatsSubscriber(Nats):
    def take(self):
        payload, self.headers = super().take()
        return payload


class RespSubscriber(Resp):
    def __init__(self, broker, topic):
        super().__init__(broker.address())
        assert self.ask("SUBSCRIBE", topic) == [b"subscribe", topic.encode(), 1]

    def take(self):
        kind, _, payload = self.reply()
        assert kind == b"message"
        return payload


class MqttSubscriber(mqtt_wire.Client):
    def __init__(self, broker, topic, level=5):
        super().__init__(broker.address(), level)
        (ack,) = self.reaction(mqtt_wire.subscribe(level, topic.replace(".", "/")))
        assert ack[0] == 0x90

    def take(self):
        packet = self.next()
        at = 1
        while packet[at] & 0x80:
            at += 1
        at += 1
        length = int.from_bytes(packet[at : at + 2], "big")
        at += 2 + length
        if self.level == 5:
            self.properties = packet[at + 1 : at + 1 + packet[at]]
            at += 1 + packet[at]
        return packet[at:]


class OldMqttSubscriber(MqttSubscriber):
    def __init__(self, broker, topic):
        super().__init__(broker, topic, 4)


SUBSCRIBERS = {
    "line": LineSubscriber, "sse": Events, "websocket": FrameSubscriber, "json": ObjectSubscriber, "nats": NatsSubscriber,
    "resp": RespSubscriber, "mqtt 5.0": MqttSubscriber, "mqtt 3.1.1": OldMqttSubscriber,
}
CANNOT_CARRY = {"line": {"two lines", "carriage return", "bytes"}}


# --- the matrix --------------------------------------------------------------------------------------


def test_what_each_door_publishes_each_door_brings_byte_for_byte(broker):
    matched = unencodable = published = 0
    for door, publisher in PUBLISHERS.items():
        topic = f"crossing.{door}"
        subscribers = {name: subscriber(broker, topic) for name, subscriber in SUBSCRIBERS.items()}
        client = publisher(broker, topic)
        # Whoever publishes frames to a topic has it, too.
        extra = door == "websocket"
        for what, payload in PAYLOADS.items():
            if what in CANNOT_SAY.get(door, ()):
                continue
            client.publish(topic, payload)
            published += 1
            matched += len(subscribers) + extra
            for name, subscriber in subscribers.items():
                if what in CANNOT_CARRY.get(name, ()):
                    unencodable += 1
                else:
                    assert subscriber.take() == payload, f"{what}, published by {door}, at {name}"
    broker.eventually(published=published, matched=matched, delivered=matched - unencodable, dropped_unencodable=unencodable)


def test_a_message_has_one_id_at_every_door(broker):
    sse, ws = Events(broker, "ids"), ObjectSubscriber(broker, "ids")
    found = post(broker, "ids", b"by post")
    assert (sse.take(), ws.take()) == (b"by post", b"by post")
    assert sse.id == ws.id == found
    ws.socket.send(json.dumps({"publish": "ids", "data": "by json", "ref": 2}))
    said = [json.loads(ws.socket.message()) for _ in range(2)]
    published = next(m["id"] for m in said if "published" in m)
    assert sse.take() == b"by json"
    assert sse.id == published == next(m["id"] for m in said if "data" in m)
    client = http.client.HTTPConnection(broker.address(), timeout=PATIENCE)
    client.request("GET", "/topic/ids/last")
    answer = client.getresponse()
    assert answer.headers["ETag"].strip('"') == published and answer.read() == b"by json"


def last(broker, topic):
    """Body and content type of the newest message."""
    client = http.client.HTTPConnection(broker.address(), timeout=PATIENCE)
    client.request("GET", f"/topic/{urllib.parse.quote(topic)}/last")
    answer = client.getresponse()
    return answer.read(), answer.headers["Content-Type"]


def test_a_content_type_crosses_where_there_are_words_for_it(broker):
    nats, mqtt = NatsSubscriber(broker, "types"), MqttSubscriber(broker, "types")
    rest = [SUBSCRIBERS[name](broker, "types") for name in ("line", "sse", "websocket", "json", "resp", "mqtt 3.1.1")]
    of_mqtt = b"\x03" + mqtt_wire.string(TYPE)
    nats_head = f"NATS/1.0\r\nContent-Type: {TYPE}\r\n\r\n".encode()
    ways = {
        "http": lambda payload: post(broker, "types", payload, TYPE),
        "nats": lambda payload: NatsPublisher(broker, "types").flush(
            b"HPUB types %d %d\r\n" % (len(nats_head), len(nats_head) + len(payload)) + nats_head + payload + b"\r\n"
        ),
        "mqtt": lambda payload: MqttPublisher(broker, "types").reaction(mqtt_wire.publish(5, "types", payload, qos=1, said=of_mqtt)),
    }
    for door, publish in ways.items():
        payload = door.encode()
        publish(payload)
        assert nats.take() == payload and nats.headers["Content-Type"] == TYPE, door
        assert mqtt.take() == payload and of_mqtt in mqtt.properties, door
        assert last(broker, "types") == (payload, TYPE), door
        # Others get the message all the same.
        assert [r.take() for r in rest] == [payload] * len(rest), door


def test_a_name_that_a_door_cannot_say_is_counted_there(broker):
    """'+' and '#' have no form in MQTT: whoever has all topics misses these, and it shows."""
    line, nats, resp = broker.subscribe(">"), Nats(broker, ">"), Resp(broker.address())
    assert resp.ask("PSUBSCRIBE", "*") == [b"psubscribe", b"*", 1]
    ws = WebSocket(broker, "/ws?topic=%3E")
    assert json.loads(ws.message()) == {"subscribed": ">"}
    mqtt = MqttSubscriber(broker, "#")
    for topic in ("c#", "d.e+f", "plain"):
        post(broker, topic, topic.encode())
    assert line.take(3) == [b"c# c#", b"d.e+f d.e+f", b"plain plain"]
    assert [nats.take()[0] for _ in range(3)] == [b"c#", b"d.e+f", b"plain"]
    assert [resp.reply()[2] for _ in range(3)] == [b"c#", b"d.e+f", b"plain"]
    assert [json.loads(ws.message())["topic"] for _ in range(3)] == ["c#", "d.e+f", "plain"]
    assert mqtt.take() == b"plain"
    broker.eventually(published=3, matched=15, delivered=13, dropped_unencodable=2)


def test_names_with_spaces_are_for_those_who_can_say_them(broker):
    """Rooms and lamps have such names; patterns of lines and of NATS leave them out, and it shows."""
    topic = "home.living room.lamp"
    line, nats, resp = broker.subscribe("home.>"), Nats(broker, "home.>"), Resp(broker.address())
    assert resp.ask("SUBSCRIBE", topic)[2] == 1
    mqtt = MqttSubscriber(broker, "home.living room.+")
    plain, ws = WebSocket(broker, f"/ws/{urllib.parse.quote(topic)}"), WebSocket(broker, "/ws?topic=home.%3E")
    assert json.loads(ws.message())["subscribed"] == "home.>"
    found = post(broker, topic, b"on")
    post(broker, "home.hall", b"off")
    assert resp.reply() == [b"message", topic.encode(), b"on"]
    assert mqtt.take() == b"on" and plain.message() in (b"on", "on")
    assert json.loads(ws.message()) == {"topic": topic, "id": found, "data": "on"}
    assert line.take(1) == [b"home.hall off"] and nats.take()[0] == b"off"
    assert last(broker, topic)[0] == b"on"
    assert Resp(broker.address()).ask("PUBLISH", topic, "x") == 6
    broker.eventually(dropped_unencodable=4)
