"""Faults that others have had, by name, said to the broker in raw bytes: none of them may end it, make it grow, or be
believed. (Those about permissions, reloads and passwords are in test_access.py; a glob's stack also in test_glob.c.)"""

import os
import socket
import struct
import time

import pytest

import mqtt_wire
from harness import PATIENCE, at_most, dial, release_only
from test_access import password_hash
from web_socket import BINARY, CLOSE, WebSocket, frame

PROTOCOLS = ["line", "http", "nats", "resp", "mqtt"]
ALL = {"main": {"address": "127.0.0.1:0", "protocols": PROTOCOLS}}
USERS = {"somebody": {"password_hash": password_hash("x"), "publish": [">"], "subscribe": [">"]}}
GUARDED = {"listen": ALL, "user": USERS, "auth": {"anonymous": "none"}, "limits": {"handshake_seconds": 60}}


@pytest.fixture(name="broker")
def broker_of_all_doors(start):
    return start(reactors=2, listen=ALL)


def rest(client):
    """All up to the end."""
    client.settimeout(PATIENCE)
    heard = b""
    try:
        while data := client.recv(1 << 16):
            heard += data
    except ConnectionResetError:
        pass
    return heard


# --- NATS inside WebSocket, before anybody has shown who he is --------------------------------------------


@release_only  # a sanitizer holds back what is freed
def test_nothing_that_is_compressed_is_unpacked_for_strangers(start):
    """NATS CVE-2026-27571: a bomb in a compressed frame grew without end before CONNECT."""
    broker = start(**GUARDED)
    before = broker.memory()
    for _ in range(20):
        ws = WebSocket(broker, "/nats", headers={"Sec-WebSocket-Extensions": "permessage-deflate"}.items())
        assert "sec-websocket-extensions" not in ws.fields
        assert ws.message().startswith(b"INFO ")
        ws.send(b"\xec\xc1" + b"\x00" * 60000, BINARY, rsv=4)
        assert ws.frame()[0] == CLOSE
        ws.socket.close()
    assert broker.memory() - before < 4 << 20


@release_only
def test_what_strangers_say_in_frames_is_not_kept(start):
    """NATS CVE-2026-33219: as much as somebody sent before CONNECT was kept."""
    broker = start(**GUARDED)
    before = broker.memory()
    sockets = [WebSocket(broker, "/nats") for _ in range(20)]
    for ws in sockets:
        assert ws.message().startswith(b"INFO ")
        # One message of many frames, and no end of the command in any of them.
        try:
            ws.send(b"CONNECT {" + b" " * 1000, BINARY, fin=False)
            for _ in range(100):
                ws.send(b" " * 10000, 0, fin=False)
        except OSError:
            pass
    assert broker.memory() - before < 4 << 20
    for ws in sockets:
        assert b"maximum control line exceeded" in rest(ws.socket)


def test_a_frame_of_any_length_is_refused_before_it_comes(broker):
    """NATS CVE-2026-27889: a length with its highest bit set ended the server."""
    for path in ("/nats", "/mqtt", "/ws/a"):
        for length in (1 << 63, (1 << 64) - 1, (1 << 63) - 1, 1 << 62, 1 << 32):
            ws = WebSocket(broker, path, headers={"Sec-WebSocket-Protocol": "mqtt"}.items() if path == "/mqtt" else ())
            ws.send_bytes(bytes([0x82, 0xFF]) + struct.pack(">Q", length) + b"mask" + b"x" * 100)
            assert b"\x88" in rest(ws.socket), (path, length)
    assert broker.running()


# --- Redis ------------------------------------------------------------------------------------------------


def test_a_glob_of_many_stars_takes_neither_a_stack_nor_time(broker):
    """Redis CVE-2024-31228: matching recursed once for each star."""
    glob = b"*a" * 2000 + b"b"
    long = b"a" * 200
    with dial(broker.address()) as client:
        client.settimeout(PATIENCE)
        client.sendall(b"*2\r\n$10\r\nPSUBSCRIBE\r\n$%d\r\n%s\r\n" % (len(glob), glob))
        assert client.recv(1 << 16)[:1] in b"*-"
    glob = b"*a" * 100 + b"*b"
    with dial(broker.address()) as client:
        client.settimeout(PATIENCE)
        client.sendall(b"*2\r\n$10\r\nPSUBSCRIBE\r\n$%d\r\n%s\r\n" % (len(glob), glob))
        assert client.recv(1 << 16).startswith(b"*3\r\n")
        begin = time.monotonic()
        client.sendall(b"*3\r\n$7\r\nPUBLISH\r\n$200\r\n%s\r\n$1\r\nx\r\n" % long)
        with dial(broker.address()) as other:
            other.settimeout(PATIENCE)
            other.sendall(b"*3\r\n$7\r\nPUBLISH\r\n$200\r\n%s\r\n$1\r\nx\r\n*1\r\n$4\r\nPING\r\n" % long)
            heard = b""
            while b"+PONG" not in heard:
                heard += other.recv(1 << 16)
        assert time.monotonic() - begin < at_most(2)


# --- Mosquitto --------------------------------------------------------------------------------------------


def test_no_file_that_the_broker_makes_is_for_everybody(start, tmp_path):
    """Mosquitto CVE-2017-9868: what had been published lay in a file that everybody could read."""
    before = os.umask(0)
    try:
        path = tmp_path / "socket"
        broker = start(listen={**ALL, "unix": {"address": f"unix:{path}", "mode": "0600"}})
        broker.publish("a", b"secret")
        made = [os.path.join(at, name) for at, _, names in os.walk(broker.config_path.parent) for name in names]
        opened = [os.readlink(f"/proc/{broker.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{broker.pid}/fd")]
    finally:
        os.umask(before)
    assert os.stat(path).st_mode & 0o777 == 0o600
    # It writes to nothing but its log, which is the test's.
    assert all(b"secret" not in open(name, "rb").read() for name in made if os.path.isfile(name))
    assert not [name for name in opened if name.startswith("/") and os.path.isfile(name) and name not in made]


def test_topics_that_begin_with_a_dollar_end_nobody_but_their_publisher(broker):
    """Mosquitto CVE-2018-12543: one that was not below $SYS ended the broker."""
    others = [mqtt_wire.Client(broker.address(), level) for level in (4, 5)]
    for topic in ("$test/test", "$", "$/", "$share", "$share/", "$share//a", "$SYSTEM", "$SYS", "$SYS/x", "$sys/stats"):
        for level in (4, 5):
            client = mqtt_wire.Client(broker.address(), level)
            client.send(mqtt_wire.publish(level, topic, b"x", qos=1))
            client.send(mqtt_wire.subscribe(level, topic))
            client.send(bytes([0xC0, 0]))
            client.next()
            client.socket.close()
    for other in others:
        other.send(bytes([0xC0, 0]))
        assert other.next()[0] == 0xD0


def test_a_topic_that_is_no_text_ends_its_publisher_and_not_those_who_would_get_it(broker):
    """Mosquitto CVE-2017-7653: such a topic went out to everybody, whose clients then left."""
    victim = mqtt_wire.Client(broker.address())
    victim.send(mqtt_wire.subscribe(4, "#"))
    assert victim.next()[0] == 0x90
    for bad in (b"a\xff", b"\xc0\x80", b"a/\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\0b", b"\xe2\x82"):
        attacker = mqtt_wire.Client(broker.address())
        attacker.send(mqtt_wire.publish(4, bad, b"x", qos=1))
        assert not attacker.next()
        # The same in a will and a client's name.
        for said in (mqtt_wire.connect(will=(bad, b"x", 0, b"")), mqtt_wire.connect(identifier=bad)):
            with dial(broker.address()) as client:
                client.sendall(said)
                assert not rest(client).startswith(b"\x20\x02\x00\x00")
    victim.send(bytes([0xC0, 0]))
    assert victim.next()[0] == 0xD0


# --- a page in somebody's browser -------------------------------------------------------------------------

COMMANDS = {
    "line": b"PUBLISH a\r\nstolen\r\n",
    "nats": b"PUB a 6\r\nstolen\r\n",
    "resp": b"PUBLISH a stolen\r\n*3\r\n$7\r\nPUBLISH\r\n$1\r\na\r\n$6\r\nstolen\r\n",
    "mqtt": mqtt_wire.connect() + mqtt_wire.publish(4, "a", b"stolen"),
}


def test_a_browser_s_request_is_no_commands_of_another_protocol(start):
    """Whatever a page may POST to a port, its body is not read as commands (Redis had to learn it, 3.2.7)."""
    alone = {protocol: {"address": "127.0.0.1:0", "protocols": [protocol]} for protocol in COMMANDS}
    beside = {f"{protocol}-http": {"address": "127.0.0.1:0", "protocols": [protocol, "http"]} for protocol in COMMANDS}
    broker = start(listen={**alone, **beside})
    for index, protocol in enumerate([*COMMANDS, *COMMANDS]):
        body = b"\r\n" + COMMANDS[protocol] * 3
        for head in (
            b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\nContent-Length: %d\r\n\r\n" % len(body),
            b"PUT /a HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body),
            b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        ):
            with dial(broker.address(index)) as client:
                client.sendall(head + body)
                client.shutdown(socket.SHUT_WR)
                rest(client)
    broker.stop(published=0)
