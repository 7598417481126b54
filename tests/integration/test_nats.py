"""The NATS contract: unmodified clients, and the same bytes said to the broker and to nats-server."""

import json
import re
import select
import shutil
import socket
import subprocess
import time

import pytest

from harness import PATIENCE, ROOT, at_most, node

CLIENTS = ROOT / "tests/integration/nats_clients.mjs"
NATS = {"nats": {"address": "127.0.0.1:0", "protocols": ["nats"]}}
ALL = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http", "nats"]}}
HELLO = b'CONNECT {"verbose":false}\r\n'
# What is said with answers to everything.
VERBOSE = b'CONNECT {"verbose":true,"headers":true,"no_responders":true}\r\n'


@pytest.fixture(name="oracle")
def nats_server(tmp_path_factory):
    """The address of a nats-server of the test's own."""
    directory = tmp_path_factory.mktemp("nats-server")
    server = shutil.which("nats-server") or pytest.fail("nats-server is not installed; try: deploy/deps test")
    process = subprocess.Popen(
        [server, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", directory, "-l", directory / "log"],
        stdin=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + PATIENCE
        while not (files := list(directory.glob("*.ports"))) or not files[0].read_text():
            assert time.monotonic() < deadline and process.poll() is None, "nats-server does not start"
            time.sleep(0.02)
        yield json.loads(files[0].read_text())["nats"][0].removeprefix("nats://")
    finally:
        process.kill()
        process.wait()


class Raw:
    """A client by hand: what it hears, line by line."""

    def __init__(self, address, hello=HELLO):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.heard = b""
        self.info = json.loads(self.until(b"\r\n").removeprefix(b"INFO "))
        self.say(hello)

    def say(self, data):
        self.socket.sendall(data)

    def more(self):
        data = self.socket.recv(1 << 16)
        self.heard += data
        return data != b""

    def until(self, end):
        """All up to and with these bytes."""
        while end not in self.heard:
            assert self.more(), f"the end, behind {self.heard!r}"
        at = self.heard.index(end) + len(end)
        taken, self.heard = self.heard[:at], self.heard[at:]
        return taken

    def barrier(self):
        """All up to the answer to a PING."""
        self.say(b"PING\r\n")
        return self.until(b"PONG\r\n").removesuffix(b"PONG\r\n")

    def rest(self):
        """All up to its end."""
        try:
            while self.more():
                pass
        except ConnectionResetError:
            pass
        return self.heard

    def close(self):
        self.socket.close()


@pytest.fixture(name="raw")
def raw_clients():
    made = []

    def make(broker, hello=HELLO):
        made.append(Raw(broker if isinstance(broker, str) else broker.address(), hello))
        return made[-1]

    yield make
    for client in made:
        client.close()


def test_clients_of_nats_find_what_they_know(start, tmp_path):
    broker = start(reactors=2, listen=NATS)
    done = node(CLIENTS, tmp_path, NATS_SERVER=broker.address())
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    # None was left out, and none has ended early: each claim is held by both libraries.
    assert f"# pass {2 * CLIENTS.read_text().count(chr(10) + 'each(')}\n" in done.stdout


def test_nats_server_finds_the_same_claims_true(oracle, tmp_path):
    done = node(CLIENTS, tmp_path, NATS_SERVER=oracle)
    print(done.stdout, done.stderr)
    assert done.returncode == 0


# --- the same bytes, the same answers ------------------------------------------------------------------

SAME = {
    "words in any case and with any spaces": HELLO + b"sub a\t 1 \r\nPub  a  2\r\nhi\r\nPing\r\n",
    "lines that end in LF alone": HELLO + b"SUB a 1\nPUB a 2\nhi\r\nPING\n",
    "what follows PING is ignored": HELLO + b"PING hello\r\nPINGhello\r\n",
    "an empty message": HELLO + b"SUB a 1\r\nPUB a 0\r\n\r\nPING\r\n",
    "a reply": HELLO + b"SUB a 1\r\nPUB a r.s 2\r\nhi\r\nPING\r\n",
    "a sid that is in use is not taken again": HELLO + b"SUB a 1\r\nSUB b 1\r\nPUB b 1\r\nx\r\nPUB a 1\r\ny\r\nPING\r\n",
    "a sid is any word": HELLO + b"SUB a some-Word!\r\nPUB a 1\r\nx\r\nPING\r\n",
    "an unknown sid": HELLO + b"UNSUB 5\r\nUNSUB 5 1\r\nPING\r\n",
    "behind UNSUB nothing comes": HELLO + b"SUB a 1\r\nUNSUB 1\r\nPUB a 1\r\nx\r\nPING\r\n",
    "confirmations": VERBOSE + b"SUB a 1\r\nPUB a 1\r\nx\r\nUNSUB 1\r\nPING\r\nPONG\r\nPING\r\n",
    "verbose is what one is who does not say": b"CONNECT {}\r\nSUB a 1\r\nPING\r\n",
    "without CONNECT, too": b"SUB a 1\r\nPUB a 1\r\nx\r\nPING\r\n",
    "headers": VERBOSE + b"SUB a 1\r\nHPUB a 18 20\r\nNATS/1.0\r\nA: 1\r\n\r\nhi\r\nPING\r\n",
    "headers and a reply": VERBOSE + b"SUB a 1\r\nHPUB a r 12 12\r\nNATS/1.0\r\n\r\n\r\nPING\r\n",
    "CONNECT may come again": HELLO + b'PING\r\nCONNECT {"verbose":true}\r\nPING\r\n',
    "unknown options are ignored": b'CONNECT {"verbose":false,"nothing":{"of":["this"]}}\r\nPING\r\n',
    "PING before CONNECT": b"PING\r\n" + HELLO + b"PING\r\n",
    "an unknown word ends it": HELLO + b"PING\r\nNONSENSE\r\nPING\r\n",
    "another protocol": b"GET / HTTP/1.1\r\n\r\n",
    "an empty line": HELLO + b"\r\n",
    "a payload without an end": HELLO + b"PUB a 2\r\nhiho\r\nPING\r\n",
    "a payload that is too large": HELLO + b"PUB a 1048577\r\n",
    "a line that is too long": HELLO + b"SUB " + b"a" * 5000 + b" 1\r\n",
    "subjects with empty levels": HELLO + b"SUB a..b 1\r\nSUB .a 1\r\nSUB a. 1\r\nSUB a.>.b 1\r\nPING\r\n",
    "a protocol of the future": b'CONNECT {"verbose":false,"protocol":2}\r\nPING\r\n',
    "no responders without headers": b'CONNECT {"verbose":false,"no_responders":true}\r\nPING\r\n',
}



def settled(clients):
    """What comes for each until all are quiet, or at their end."""
    open_, quiet = dict(clients), time.monotonic() + at_most(0.3)
    while open_ and time.monotonic() < quiet:
        ready, _, _ = select.select([c.socket for c in open_.values()], [], [], 0.05)
        for name, client in list(open_.items()):
            if client.socket not in ready:
                continue
            quiet = time.monotonic() + at_most(0.3)
            try:
                ended = not client.more()
            except ConnectionResetError:
                ended = True
            if ended:
                client.heard += b"(the end)"
                del open_[name]
    # Whether they are there, nats-server asks its clients when it likes.
    return {name: client.heard.replace(b"PING\r\n", b"") for name, client in clients.items()}


def test_bytes_are_answered_as_nats_server_does(start, oracle, raw):
    broker = start(reactors=2, listen=NATS)
    clients_of = {case: n for n, case in enumerate(SAME)}
    told = []
    for server in (broker.address(), oracle):
        clients = {case: raw(server, b"") for case in SAME}
        for case, client in clients.items():
            # Each has a subject of its own, for they all talk at once.
            client.say(re.sub(rb"(?<=[ \t])([ab])(?=[ \t.])", rb"\1-%d" % clients_of[case], SAME[case]))
        told.append(settled(clients))
    assert told[0] == told[1]
