"""Clients of MQTT that know nothing of this broker: mosquitto's tools, Paho, mqtt.js."""

import json
import queue
import subprocess
from pathlib import Path

import paho.mqtt.client as paho
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from harness import node

LISTENERS = {
    "mqtt": {"address": "127.0.0.1:0", "protocols": ["mqtt"]},
    "others": {"address": "127.0.0.1:0", "protocols": ["line", "http"]},
}
SECONDS = 10


@pytest.fixture
def broker(start):
    return start(reactors=2, listen=LISTENERS)


def port(broker):
    return broker.address(0).rsplit(":", 1)[1]


# --- mosquitto_pub, mosquitto_sub ----------------------------------------------------------------------


def subscriber(broker, version, *arguments):
    """Says what it does, so that nobody publishes before it is subscribed."""
    command = ["mosquitto_sub", "-h", "127.0.0.1", "-p", port(broker), "-V", version, "-d", "-W", str(SECONDS)]
    process = subprocess.Popen(
        ["stdbuf", "-oL", *command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    for line in process.stdout:
        if line.startswith("Subscribed"):
            return process
    raise AssertionError("it is not subscribed")


def publish(broker, version, *arguments, **more):
    command = ["mosquitto_pub", "-h", "127.0.0.1", "-p", port(broker), "-V", version, *arguments]
    subprocess.run(command, check=True, timeout=SECONDS, **more)


def payloads(process):
    # It ends by itself, of old age at the latest; what has been read ahead is not lost like that.
    lines = [line.rstrip() for line in process.stdout if line.startswith("=")]
    process.wait()
    return lines


@pytest.mark.parametrize("version", ["311", "5"])
@pytest.mark.parametrize("qos", ["0", "1", "2"])
def test_mosquitto_pub_reaches_mosquitto_sub(broker, version, qos):
    sub = subscriber(broker, version, "-t", "m/x", "-q", qos, "-F", "=%t %p", "-C", "100")
    publish(broker, version, "-t", "m/x", "-q", qos, "-l", input="\n".join(map(str, range(100))), text=True)
    assert payloads(sub) == [f"=m/x {n}" for n in range(100)]


@pytest.mark.parametrize("version", ["311", "5"])
def test_mosquitto_sub_gets_retained_messages_and_a_will(broker, version):
    publish(broker, version, "-t", "m/kept", "-r", "-m", "kept", "-q", "1")
    sub = subscriber(broker, version, "-t", "m/kept", "-t", "m/will", "-F", "=%r %t %p", "-C", "2")
    doomed = subscriber(broker, version, "-t", "m/else", "--will-topic", "m/will", "--will-payload", "gone")
    doomed.kill()
    doomed.wait()
    assert payloads(sub) == ["=1 m/kept kept", "=0 m/will gone"]


def test_mosquitto_shows_properties(broker):
    sub = subscriber(broker, "5", "-t", "m/said", "-F", "=%j", "-C", "1")
    publish(broker, "5", "-t", "m/said", "-m", "x",
            "-D", "publish", "content-type", "text/plain", "-D", "publish", "response-topic", "m/answer",
            "-D", "publish", "user-property", "k", "v")
    said = json.loads(payloads(sub)[0][1:])["properties"]
    assert said == {"content-type": "text/plain", "response-topic": "m/answer", "user-properties": {"k": "v"}}


def test_mosquitto_rr_gets_an_answer(broker):
    """A request and its answer, over Response Topic and Correlation Data."""
    answers = Paho(broker, 5)
    answers.subscribe("m/ask")
    asks = subprocess.Popen(
        ["mosquitto_rr", "-h", "127.0.0.1", "-p", port(broker), "-t", "m/ask", "-e", "m/answers", "-m", "what",
         "-W", str(SECONDS)],
        stdout=subprocess.PIPE, text=True,
    )
    question = answers.next()
    answers.client.publish(question.properties.ResponseTopic, b"this", qos=1)
    assert asks.communicate(timeout=SECONDS)[0] == "this\n"
    answers.end()


# --- Paho for Python -----------------------------------------------------------------------------------


class Paho:
    """A connected client with its messages in a queue."""

    def __init__(self, broker, level, identifier="", clean=True, will=None):
        self.messages, self.events = queue.Queue(), queue.Queue()
        if level == 5:
            self.client = paho.Client(identifier, protocol=paho.MQTTv5)
        else:
            self.client = paho.Client(identifier, clean_session=clean, protocol=paho.MQTTv311)
        self.client.on_connect = lambda c, d, flags, code, *_: self.events.put(("connect", int(getattr(code, "value", code))))
        self.client.on_subscribe = lambda c, d, mid, codes, *_: self.events.put(("subscribe", [int(getattr(x, "value", x)) for x in codes]))
        self.client.on_publish = lambda c, d, mid: self.events.put(("publish", mid))
        self.client.on_disconnect = lambda c, d, code, *_: self.events.put(("disconnect", int(getattr(code, "value", code))))
        self.client.on_message = lambda c, d, message: self.messages.put(message)
        if will:
            self.client.will_set(*will)
        self.client.connect("127.0.0.1", int(port(broker)))
        self.client.loop_start()
        self.expect(("connect", 0))

    def expect(self, event):
        assert self.events.get(timeout=SECONDS) == event

    def subscribe(self, *topics):
        self.client.subscribe([(t, 2) for t in topics] if self.client._protocol != paho.MQTTv5 else
                              [(t, paho.SubscribeOptions(qos=2)) for t in topics])
        self.expect(("subscribe", [0] * len(topics)))

    def next(self):
        return self.messages.get(timeout=SECONDS)

    def end(self):
        self.client.disconnect()
        self.client.loop_stop()


@pytest.mark.parametrize("level", [4, 5])
def test_paho_publishes_and_subscribes(broker, level):
    subscriber, publisher = Paho(broker, level), Paho(broker, level)
    subscriber.subscribe("p/a", "p/b")
    for qos in (0, 1, 2):
        publisher.client.publish("p/a", b"%d" % qos, qos=qos).wait_for_publish(SECONDS)
        assert (subscriber.next().payload) == b"%d" % qos
    publisher.client.publish("p/b", bytes(300000)).wait_for_publish(SECONDS)
    assert subscriber.next().payload == bytes(300000)
    subscriber.end()
    publisher.end()


@pytest.mark.parametrize("level", [4, 5])
def test_paho_is_told_that_another_has_its_name(broker, level):
    watcher = Paho(broker, level)
    watcher.subscribe("p/will")
    first = Paho(broker, level, "one", will=("p/will", b"gone", 1, False))
    first.client.reconnect_delay_set(60)
    second = Paho(broker, level, "one")
    # Python's Paho says 7 or 1 for a connection that is lost, whatever the broker had said.
    assert first.events.get(timeout=SECONDS)[0] == "disconnect"
    assert watcher.next().payload == b"gone"
    for client in (first, second, watcher):
        client.end()


def test_paho_gets_properties(broker):
    client = Paho(broker, 5)
    client.subscribe("p/said")
    said = Properties(PacketTypes.PUBLISH)
    said.CorrelationData, said.UserProperty, said.MessageExpiryInterval = b"\x00\xff", [("a", "1"), ("a", "2")], 60
    client.client.publish("p/said", b"x", qos=1, properties=said)
    got = client.next().properties
    assert (got.CorrelationData, got.UserProperty, got.MessageExpiryInterval) == (b"\x00\xff", [("a", "1"), ("a", "2")], 60)
    client.end()


# --- mqtt.js -------------------------------------------------------------------------------------------


def test_mqtt_js(broker, tmp_path):
    done = node(Path(__file__).with_name("mqtt_clients.mjs"), tmp_path, BROKER=broker.address(0))
    assert done.returncode == 0, done.stdout + done.stderr
