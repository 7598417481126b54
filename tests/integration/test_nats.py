"""The NATS contract: unmodified clients, and the same bytes said to the broker and to nats-server."""

import contextlib
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.request

import pytest

import nats_differences
from harness import PATIENCE, ROOT, at_most, node, release_only
from test_access import password_hash, token_hash

CLIENTS = ROOT / "tests/integration/nats_clients.mjs"
NATS = {"nats": {"address": "127.0.0.1:0", "protocols": ["nats"]}}
ALL = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http", "nats"]}}
HELLO = b'CONNECT {"verbose":false}\r\n'
# What is said with answers to everything.
VERBOSE = b'CONNECT {"verbose":true,"headers":true,"no_responders":true}\r\n'


@contextlib.contextmanager
def nats_server(directory, *options):
    """The address of a nats-server."""
    server = shutil.which("nats-server") or pytest.fail("nats-server is not installed; try: deploy/deps test")
    process = subprocess.Popen(
        [server, "-a", "127.0.0.1", "-p", "-1", "--ports_file_dir", directory, "-l", directory / "log", *options],
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


@pytest.fixture(name="oracle")
def nats_server_of_the_test(tmp_path_factory):
    with nats_server(tmp_path_factory.mktemp("nats-server")) as address:
        yield address


@pytest.fixture(name="libnats", scope="module")
def program_of_libnats(tmp_path_factory):
    """A program of libnats (nats_client.c)."""
    program = tmp_path_factory.mktemp("libnats") / "nats_client"
    source = ROOT / "tests/integration/nats_client.c"
    made = subprocess.run(["gcc", "-O1", "-Wall", "-Werror", "-o", program, source, "-lnats"], capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"{made.stderr}\nlibnats-dev is missing? try: deploy/deps test"
    return program


@pytest.fixture(name="go_client")
def program_of_the_go_client(tmp_path):
    """A program of Debian's Go client (nats_client.go); what is compiled once is kept in build/."""
    program, source = tmp_path / "nats_client", ROOT / "tests/integration/nats_client.go"
    places = {"GO111MODULE": "off", "GOPATH": "/usr/share/gocode", "GOCACHE": str(ROOT / "build/go"), "GOFLAGS": ""}
    go = shutil.which("go") or pytest.fail("go is not installed; try: deploy/deps test")
    made = subprocess.run([go, "build", "-o", program, source], env={**os.environ, **places}, capture_output=True, text=True, check=False)
    assert made.returncode == 0, f"{made.stderr}\ngolang-github-nats-io-go-nats-dev is missing? try: deploy/deps test"
    return program


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


# The broker has no part in it.
@release_only
def test_nats_server_finds_the_same_claims_true(oracle, tmp_path):
    done = node(CLIENTS, tmp_path, NATS_SERVER=oracle)
    print(done.stdout, done.stderr)
    assert done.returncode == 0


def test_a_program_of_libnats_finds_what_it_knows_here_and_there(start, oracle, libnats):
    for address in (start(reactors=2, listen=NATS).address(), oracle):
        done = subprocess.run([libnats, f"nats://{address}"], capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count("held ") == len(re.findall(r"^\tCLAIM\(", (ROOT / "tests/integration/nats_client.c").read_text(), re.M))


def test_a_program_of_the_go_client_finds_what_it_knows_here_and_there(start, oracle, go_client):
    for address in (start(reactors=2, listen=NATS).address(), oracle):
        done = subprocess.run([go_client, f"nats://{address}"], capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.endswith("held all of them\n")


@contextlib.contextmanager
def watching(libnats, address, subject):
    """A libnats client that says what comes, line by line, and a function for the next of its lines."""
    process = subprocess.Popen([libnats, f"nats://{address}", "watch", subject], stdout=subprocess.PIPE, text=True)
    try:
        yield process, lambda: process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def test_a_client_that_the_broker_has_ended_comes_back_by_itself(start, raw, libnats):
    broker = start(reactors=2, listen=NATS)
    with watching(libnats, broker.address(), "news") as (_, says):
        assert says() == "ready"
        address = broker.address()
        broker.stop()
        assert says() == "lost"
        again = start(reactors=2, listen={"nats": {"address": address, "protocols": ["nats"]}})
        assert says() == "found"
        client = raw(again)
        client.say(b"PUB news 5\r\nagain\r\n")
        assert says() == "message again"


def test_a_client_too_slow_for_its_backlog_is_ended_and_comes_back(start, raw, libnats):
    broker = start(reactors=1, listen=NATS, topics={"backlog_bytes": 1 << 20})
    with watching(libnats, broker.address(), "news") as (process, says):
        assert says() == "ready"
        process.send_signal(signal.SIGSTOP)
        client = raw(broker)
        for _ in range(200):
            client.say(b"PUB news 100000\r\n" + b"x" * 100000 + b"\r\n")
            assert client.barrier() == b""  # nobody waits for the slow one
        process.send_signal(signal.SIGCONT)
        line = says()
        while line.startswith("message xx"):
            line = says()
        assert (line, says()) == ("lost", "found")
        client.say(b"PUB news 5\r\nagain\r\n")
        assert says() == "message again"


USER = "user:s3cret"
TOKEN = "t0ken"


@pytest.fixture(name="guarded", params=["broker", "nats-server"])
def guarded_servers(request, start, tmp_path_factory):
    """A server that lets in by password, and one that does by a token."""
    if request.param == "broker":
        users = {
            "user": {"password_hash": password_hash("s3cret"), "subscribe": [">"], "publish": [">"]},
            "other": {"token_hash": [token_hash(TOKEN)], "subscribe": [">"], "publish": [">"]},
        }
        broker = start(reactors=2, listen=NATS, auth={"anonymous": "none"}, user=users)
        yield broker.address(), broker.address()
        return
    name, password = USER.split(":")
    with nats_server(tmp_path_factory.mktemp("password"), "--user", name, "--pass", password) as one:
        with nats_server(tmp_path_factory.mktemp("token"), "--auth", TOKEN) as other:
            yield one, other


def test_a_program_of_libnats_comes_in_with_a_password_or_a_token(guarded, libnats):
    by_password, by_token = guarded

    def login(secret, address):
        done = subprocess.run([libnats, f"nats://{secret}{address}", "login"], capture_output=True, text=True, timeout=PATIENCE, check=True)
        return done.stdout.strip()

    assert login(f"{USER}@", by_password) == login(f"{TOKEN}@", by_token) == "OK"
    refused = {login(secret, address) for secret, address in (("user:wrong@", by_password), ("wrong@", by_token), ("", by_password))}
    assert "OK" not in refused


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


def test_random_commands_are_answered_as_nats_server_does(start, oracle):
    broker = start(reactors=2, listen=NATS)
    seconds, seed = float(os.environ.get("SECONDS", 0)), int(os.environ.get("SEED", 1))
    n, excuses, found = nats_differences.run((broker.address(), oracle), seed, seconds, cases=0 if seconds else 600)
    print(f"{n} cases of seed {seed}; meant to differ: {excuses}")
    assert not found, "\n".join(found)
    # Most of them have something to say and agree.
    assert 2 * sum(excuses.values()) < n


# --- what the broker alone does, or does otherwise ------------------------------------------------------


def test_a_silent_client_of_a_shared_port_is_a_nats_client(start, raw):
    broker = start(listen=ALL)
    client = raw(broker, b"")
    assert client.info["max_payload"] == 1 << 20
    client.say(HELLO + b"SUB a 1\r\n")
    assert client.barrier() == b""
    broker.publish("a", b"hello")
    assert client.until(b"hello\r\n") == b"MSG a 1 5\r\nhello\r\n"


@pytest.mark.parametrize("first", [b"PING\r\n", b"SUB a 1\r\nPING\r\n", HELLO + b"PING\r\n"], ids=len)
def test_a_client_that_speaks_first_is_known_by_its_words(start, first):
    broker = start(listen=ALL)
    host, port = broker.address().rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as client:
        client.sendall(first)
        heard = b""
        while b"PONG\r\n" not in heard:
            heard += client.recv(1 << 16)
    assert heard.startswith(b"INFO {")


def test_what_nats_publishes_others_get_and_the_other_way_round(start, raw):
    broker = start(reactors=2, listen={**ALL, **NATS})
    line = broker.subscribe("a.b")
    client = raw(broker, HELLO + b"SUB a.b 1\r\n")
    assert client.barrier() == b""
    client.say(b"PUB a.b inbox 5\r\nhello\r\n")
    assert client.until(b"hello\r\n") == b"MSG a.b 1 inbox 5\r\nhello\r\n"
    assert line.take(1) == [b"hello"]
    broker.publish("a.b", b"again")
    assert client.until(b"again\r\n") == b"MSG a.b 1 5\r\nagain\r\n"


def test_a_post_s_content_type_is_a_header(start, raw):
    broker = start(listen=ALL)
    client = raw(broker, b'CONNECT {"verbose":false,"headers":true}\r\nSUB a 1\r\n')
    assert client.barrier() == b""
    for content, heard in (
        ("text/plain", b"HMSG a 1 38 40\r\nNATS/1.0\r\nContent-Type: text/plain\r\n\r\nhi\r\n"),
        ("application/x-www-form-urlencoded", b"MSG a 1 2\r\nhi\r\n"),
    ):
        request = urllib.request.Request(
            f"http://{broker.address()}/publish/a", data=b"hi", headers={"Content-Type": content}
        )
        urllib.request.urlopen(request, timeout=PATIENCE).read()
        assert client.until(b"hi\r\n") == heard


def test_a_header_says_the_type_that_http_answers_with(start, raw):
    broker = start(listen=ALL)
    client = raw(broker, b'CONNECT {"verbose":false,"headers":true}\r\n')
    headers = b"NATS/1.0\r\nX-Other: 1\r\ncontent-type: text/x-mine\r\n\r\n"
    client.say(b"PUB a 2\r\nhi\r\nHPUB a %d %d\r\n%sho\r\n" % (len(headers), len(headers) + 2, headers))
    assert client.barrier() == b""
    for seq, content, body in ((1, "application/octet-stream", b"hi"), (2, "text/x-mine", b"ho")):
        with urllib.request.urlopen(f"http://{broker.address()}/topic/a/{seq}", timeout=PATIENCE) as answer:
            assert answer.headers["Content-Type"] == content and answer.read() == body


def test_a_message_with_a_version_is_found_by_it(start, raw):
    broker = start(listen=ALL)
    client = raw(broker, b'CONNECT {"verbose":false,"headers":true}\r\n')
    headers = b"NATS/1.0\r\nX-Version: 3.1\r\n\r\n"
    client.say(b"HPUB a %d %d\r\n%shi\r\n" % (len(headers), len(headers) + 2, headers))
    assert client.barrier() == b""
    address = f"http://{broker.address()}/topic/a/last?_HLS_msn=3&_HLS_part=1"
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        assert answer.read() == b"hi"


def test_the_past_comes_with_ids(start, raw):
    broker = start(listen=ALL)
    broker.publish("a.b", b"one", b"two", b"three")
    client = raw(broker, b'CONNECT {"verbose":false,"headers":true}\r\nSUB $replay.2.a.b 1\r\n')
    heard = client.until(b"three\r\n")
    ids = re.findall(rb"Broker-Id: ([0-9a-f]{16}:\d+)", heard)
    assert [i.split(b":")[1] for i in ids] == [b"2", b"3"]
    assert heard.count(b"HMSG a.b 1 ") == 2
    client.say(b"PUB a.b 4\r\nfour\r\n")
    assert b":4\r\n\r\nfour" in client.until(b"four\r\n")
    again = raw(broker, b'CONNECT {"verbose":false,"headers":true}\r\nSUB $replay.' + ids[0] + b".a.b 1\r\n")
    assert [i.split(b":")[1] for i in re.findall(rb"Broker-Id: ([0-9a-f]{16}:\d+)", again.until(b"four\r\n"))] == [b"3", b"4"]
    gone = raw(broker, b'CONNECT {"verbose":false,"headers":true}\r\nSUB $replay.0123456789abcdef:1.a.b 1\r\n')
    assert b"Broker-Gap: " in gone.until(b"four\r\n")


def test_names_that_topics_cannot_have_are_refused_and_the_client_stays(start, raw):
    broker = start(listen=NATS)
    client = raw(broker)
    for said, told in (
        (b"SUB a* 1\r\n", b"Permissions Violation for Subscription to \"a*\""),
        (b"SUB a>.b q 1\r\n", b"Permissions Violation for Subscription to \"a>.b\" using queue \"q\""),
        (b"SUB $replay.x.a 1\r\n", b"Invalid Subject"),
        (b"SUB $replay.1.a.* 1\r\n", b"Permissions Violation for Subscription to \"$replay.1.a.*\""),
        (b"PUB a.* 1\r\nx\r\n", b"Permissions Violation for Publish to \"a.*\""),
        (b"PUB a..b 1\r\nx\r\n", b"Invalid Publish Subject"),
        (b"PUB $sys.stats 1\r\nx\r\n", b"Permissions Violation for Publish to \"$sys.stats\""),
    ):
        client.say(said)
        assert client.barrier() == b"-ERR '" + told + b"'\r\n"


def test_too_many_subscriptions_are_refused_and_the_client_stays(start, raw):
    broker = start(listen=NATS, limits={"subscriptions_per_connection": 2})
    client = raw(broker, HELLO + b"SUB a 1\r\nSUB b 2\r\nSUB c 3\r\n")
    assert client.barrier() == b"-ERR 'maximum subscriptions exceeded'\r\n"
    client.say(b"UNSUB 1\r\nSUB c 3\r\n")
    assert client.barrier() == b""


def test_too_many_connections_are_told_so_behind_info(start, raw):
    broker = start(listen=NATS, limits={"connections": 1})
    first = raw(broker)
    assert first.barrier() == b""
    host, port = broker.address().rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as second:
        heard = b""
        while data := second.recv(1 << 16):
            heard += data
    assert heard.startswith(b"INFO {") and heard.endswith(b"-ERR 'maximum connections exceeded'\r\n")


def test_who_says_nothing_is_told_so_and_closed(start, raw):
    broker = start(listen=NATS, limits={"handshake_seconds": 1})
    assert raw(broker, b"").rest() == b"-ERR 'Authentication Timeout'\r\n"


def test_who_does_not_answer_pings_is_stale(start, raw):
    broker = start(listen=NATS, nats={"ping_seconds": 1, "pings_out": 1})
    assert raw(broker).rest() == b"PING\r\n-ERR 'Stale Connection'\r\n"


def test_who_answers_pings_stays(start, raw):
    broker = start(listen=NATS, nats={"ping_seconds": 1, "pings_out": 1})
    client = raw(broker)
    for _ in range(3):
        client.until(b"PING\r\n")
        client.say(b"PONG\r\n")
    assert client.barrier() == b""


def test_a_drain_says_so_and_closes_without_an_error(start, raw):
    broker = start(listen=NATS)
    client = raw(broker, b'CONNECT {"verbose":false,"protocol":1}\r\nSUB a 1\r\n')
    assert client.barrier() == b""
    broker.send_signal(signal.SIGTERM)
    rest = client.rest()
    assert b'"ldm":true' in rest and b"-ERR" not in rest


def test_a_lame_duck_says_so_at_once_and_serves_on(start, raw):
    broker = start(reactors=2, lame_duck_seconds=60, listen=NATS)
    client = raw(broker, b'CONNECT {"verbose":false,"protocol":1}\r\n')
    assert client.barrier() == b""
    broker.send_signal(signal.SIGTERM)
    assert b'"ldm":true' in client.until(b"}\r\n")
    client.say(b"SUB a 1\r\nPUB a 1\r\nx\r\n")
    assert client.barrier() == b"MSG a 1 1\r\nx\r\n"
    time.sleep(0.3)  # a second signal that comes at once would be taken for the first
    broker.send_signal(signal.SIGTERM)
    broker.finish(codes=(1,), counters=False)


def test_another_max_payload_is_told_when_the_configuration_changes(start, raw):
    broker = start(reactors=2, listen=NATS)
    newer, older = (raw(broker, b'CONNECT {"verbose":false,"protocol":%d}\r\n' % n) for n in (1, 0))
    assert newer.barrier() == older.barrier() == b""
    broker.configure(limits={"message_bytes": 1000})
    broker.send_signal(signal.SIGHUP)
    assert b'"max_payload":1000,' in newer.until(b"}\r\n")
    assert older.barrier() == b""


@pytest.mark.parametrize("reactors", [1, 2])
def test_a_pong_comes_behind_more_than_goes_in_a_send(start, raw, reactors):
    client = raw(start(reactors=reactors, listen=NATS))
    client.say(b"SUB a 1\r\nSUB b 2\r\n")
    client.barrier()
    said = b"".join(b"PUB %s 1000\r\n%s\r\n" % (b"ab"[n % 2 : n % 2 + 1], b"x" * 1000) for n in range(5000)) + b"PING\r\n"
    writer = threading.Thread(target=client.say, args=(said,))
    writer.start()
    while not client.heard.endswith(b"PONG\r\n"):
        assert client.more()
    writer.join()
    assert client.heard.count(b"MSG ") == 5000


def test_inboxes_leave_nothing_behind(start, raw):
    broker = start(reactors=2, listen={**ALL, **NATS})
    client = raw(broker, b'CONNECT {"verbose":false}\r\n')
    for n in range(200):
        client.say(b"SUB _INBOX.%d.* 1\r\nPUB _INBOX.%d.x 1\r\ny\r\nPING\r\nUNSUB 1\r\n" % (n, n))
        assert client.until(b"PONG\r\n") == b"MSG _INBOX.%d.x 1 1\r\ny\r\nPONG\r\n" % n
    assert client.barrier() == b""
    broker.eventually(topics=0)
