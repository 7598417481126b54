"""broker-load against the broker, against the peers that are installed, and against proxies that spoil the traffic."""

import contextlib
import json
import os
import socket
import subprocess
import threading

import pytest

from certificates import Authority
from harness import BROKER, PATIENCE, PATIENT, ROOT, SANITIZER_OUTPUT, at_most

LOAD = BROKER.with_name("broker-load")


SHORT = ["--duration", "0.5", "--warmup", "0.1", "--drain", str(at_most(1))]
HEADER_BYTES = 48  # of a message; publisher and sequence stand in it


def load(*args, seconds=30):
    """Runs broker-load; its exit code, its JSON and what it said."""
    done = subprocess.run(
        [LOAD, "--json", *SHORT, *map(str, args)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=at_most(seconds),
    )
    assert not SANITIZER_OUTPUT.search(done.stderr), done.stderr
    result = json.loads(done.stdout) if done.stdout else None
    return done.returncode, result, done.stderr


def succeeds(*args):
    code, result, said = load(*args)
    assert code == 0, said
    assert result["errors"] == 0 and result["delivered"] > 0, result
    return result


# --- what works --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args",
    [
        "--rate 50",
        "--rate 0.5",
        "--window 64 --subscribers 20 --bytes 128",
        "--window 1 --bytes 48",
        "--window 64 --batch 1 --subscribers 20 --bytes 128",
        "--window 3 --topics 7 --publishers 3 --subscribers 4 --bytes 5000",
        "--window 2 --bytes 1M",
        "--window 16 --topics 3 --publishers 2 --subscribers 5 --bytes 300 --threads 3",
        "--rate 200 --topics 3 --publishers 2 --subscribers 5 --bytes 300 --threads 3 --spin",
        "--rate 1000 --subscribers 1 --bytes 20000 --threads 2",
        "--rate 50 --idle 20 --churn 50 --stall 40%",
    ],
)
def test_right_traffic_succeeds(start, args):
    broker = start(topics=PATIENT)
    args = args.split()
    # On a busy machine half a second may be over before the first message of 1 MiB has come.
    for seconds in (0.5, 2, 8):
        code, result, said = load("--pid", broker.pid, broker.address(), *args, "--duration", seconds)
        assert code == 0, said
        assert result["errors"] == 0
        if "0.5" in args or result["latency_ns"]["count"] > 0:
            break
    assert result["broker_cpu_s"] >= 0 and result["broker_rss_bytes"] > 0
    if "0.5" not in args:
        assert result["latency_ns"]["count"] > 0
        assert result["slowest_ns"]["p50"] >= result["latency_ns"]["p50"] > 0
        assert result["slowest_ns"]["max"] == result["latency_ns"]["max"]
    broker.close_clients()


def test_every_delivery_of_the_measured_time_is_counted(start):
    broker = start()
    result = succeeds("--rate", 100, "--topics", 2, "--publishers", 2, "--subscribers", 3, broker.address())
    # 0.5 s at 100/s; each message has three deliveries, and each lateness of the slowest one counts once.
    assert result["latency_ns"]["count"] == 2 * 2 * 3 * 50
    assert result["slowest_ns"]["count"] == 2 * 2 * 50


def test_two_reactors(start):
    broker = start(reactors=2, placement="none", topics=PATIENT)
    succeeds("--window", 16, "--topics", 8, "--publishers", 2, "--subscribers", 6, "--threads", 2, broker.address())


def test_unix_socket(start, tmp_path):
    path = tmp_path / "sock"
    start(listen={"main": {"address": f"unix:{path}", "protocols": ["line"]}})
    succeeds("--window", 8, f"unix:{path}")


def test_server_sent_events(start):
    broker = start(listen={"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}, topics=PATIENT)
    common = ["--protocol", "sse", broker.address()]
    succeeds("--window", 16, "--topics", 3, "--subscribers", 4, "--publishers", 2, "--bytes", 200, *common)
    succeeds("--rate", 100, "--idle", 5, *common)
    result = succeeds("--window", 2, "--bytes", "200K", "--stats", broker.address(), *common)
    assert result["messages_per_send"] > 0 and result["completions_per_turn"] > 0
    assert 0 < result["enters_per_delivered"] < 10


@pytest.mark.parametrize("protocol", ["ws", "nats", "resp", "mqtt", "line"])
def test_every_door(start, protocol):
    """One connection per topic, many topics on one, all by a pattern: each as far as the protocol has it."""
    protocols = ["http"] if protocol == "ws" else [protocol]
    broker = start(listen={"main": {"address": "127.0.0.1:0", "protocols": protocols}}, topics=PATIENT)
    common = ["--protocol", protocol, "--bytes", 200, broker.address()]
    succeeds("--window", 16, "--topics", 3, "--subscribers", 4, "--publishers", 2, "--idle", 3, "--threads", 2, *common)
    if protocol not in ("ws", "line"):
        succeeds("--window", 4, "--topics", 60, "--subscribers", 3, "--topics-per-connection", 20, "--publishers", 2, "--threads", 2, *common)
    if protocol != "ws":
        succeeds("--rate", 50, "--topics", 30, "--subscribers", 3, "--pattern", *common)


# --- over TLS ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def pair(authority):
    return authority.issue("main", "DNS:broker.test", "IP:127.0.0.1")


def secure(pair, protocols):
    return {"address": "127.0.0.1:0", "protocols": protocols, "tls": {"certificate": {"main": {"chain": pair[0], "key": pair[1]}}}}


def test_traffic_is_right_over_tls_too(start, authority, pair):
    """A protocol where the client begins, and the one where the server does, in clear."""
    broker = start(listen={"main": secure(pair, ["line"]), "nats": secure(pair, ["nats"])}, topics=PATIENT)
    common = ["--tls", "--ca", authority.chain, "--window", 16, "--topics", 2, "--subscribers", 4, "--bytes", 20000, "--duration", 0.2]
    result = succeeds(*common, "--idle", 3, "--threads", 2, broker.address())
    # Eight subscribers, three that are idle, two publishers.
    assert (result["tls"], result["tls_full"], result["tls_resumed"]) == (True, 13, 0)
    assert result["tls_version"] == "TLSv1.3" and result["tls_handshake_ns"]["count"] == 13
    result = succeeds(*common, "--protocol", "nats", broker.address(1))
    assert result["tls_full"] == 10


def test_sessions_are_resumed_by_those_who_come_back(start, authority, pair):
    broker = start(listen={"main": secure(pair, ["line"])}, topics=PATIENT)
    args = ["--tls", "--ca", authority.chain, "--rate", 20, "--subscribers", 1, "--churn", 40, broker.address()]
    for seconds in (0.5, 2, 8):
        result = succeeds(*args, "--resume", "--duration", seconds)
        if result["tls_resumed"] > 0:
            break
    # Nobody has a ticket while the subscriber and the publisher come.
    assert result["tls_resumed"] > 0 and result["tls_full"] >= 1
    assert result["tls_full"] + result["tls_resumed"] >= result["churned"] + 2


def test_a_certificate_that_is_not_good_is_said(start, authority, pair):
    broker = start(listen={"main": secure(pair, ["line"])})
    code, _, said = load("--tls", "--ca", authority.chain, "--server-name", "another.test", broker.address())
    assert code == 1 and "hostname mismatch" in said
    code, _, said = load("--tls", broker.address())
    assert code == 1 and "issuer certificate" in said
    succeeds("--tls", "--insecure", "--window", 2, "--duration", 0.2, broker.address())


def test_seconds_are_written_to_a_file(start, tmp_path):
    broker = start()
    lines = tmp_path / "seconds.jsonl"
    succeeds("--rate", 50, "--duration", 2.5, "--jsonl", lines, broker.address())
    seconds = [json.loads(line) for line in lines.read_text().splitlines()]
    assert len(seconds) >= 2
    assert seconds[-1]["delivered_per_s"] == pytest.approx(250, rel=0.3)


def test_table_is_for_people(start):
    broker = start()
    done = subprocess.run([LOAD, *SHORT, "--pid", str(broker.pid), broker.address()], capture_output=True, text=True)
    assert done.returncode == 0
    for word in ("delivered", "latency, ms", "p99.9", "broker CPU", "all in order, once and unharmed"):
        assert word in done.stdout
    assert done.stderr == ""


# --- what does not -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "args, word",
    [
        ("--bytes 12", "48"),
        ("--bytes 1x", "bytes"),
        ("--window 2 --rate 3", "exclude"),
        ("--topics -1", "topics"),
        ("--pattern --protocol ws", "pattern"),
        ("--topics 4 --topics-per-connection 2", "resp, nats or mqtt"),
        ("--topics 5 --topics-per-connection 2 --protocol nats", "divisor"),
        ("--protocol smtp", "line, sse, ws, resp, nats or mqtt"),
        ("127.0.0.1", "HOST:PORT"),
        ("127.0.0.1:1 again", "again"),
        ("--frobnicate", "frobnicate"),
        ("--insecure", "want --tls"),
        ("--tls --insecure --ca x", "exclude"),
    ],
)
def test_bad_arguments_are_explained(args, word):
    done = subprocess.run([LOAD, *args.split()], capture_output=True, text=True)
    assert done.returncode == 2
    assert word in done.stderr and "--help" in done.stderr
    assert done.stdout == ""


def test_help_and_version():
    done = subprocess.run([LOAD, "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--window" in done.stdout
    done = subprocess.run([LOAD, "--version"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[1] == (ROOT / "VERSION").read_text().strip()


def test_nobody_listens():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        code, result, said = load(f"127.0.0.1:{taken.getsockname()[1]}")
    assert code == 1 and "is the broker running there?" in said
    assert result["errors"] == 1


def test_broker_that_refuses(start):
    broker = start(limits={"connections": 3})
    code, _, said = load(broker.address())
    assert code == 1 and "too many connections" in said


def test_broker_that_ends(start):
    broker = start()
    timer = threading.Timer(1.5, broker.process.kill)
    timer.start()
    code, _, said = load("--duration", 20, "--pid", broker.pid, broker.address())
    timer.join()
    assert code == 1 and "connection" in said
    broker.checked = True


# --- spoiled traffic ---------------------------------------------------------------------------------


class Proxy(threading.Thread):
    """Carries connections to the broker; what subscribers get goes through `spoil`, line by line."""

    def __init__(self, target, spoil):
        super().__init__(daemon=True)
        self.target, self.spoil = target, spoil
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = "127.0.0.1:%d" % self.listener.getsockname()[1]
        self.start()

    def run(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            host, port = self.target.rsplit(":", 1)
            server = socket.create_connection((host, int(port)))
            threading.Thread(target=self.forward, args=(client, server), daemon=True).start()
            threading.Thread(target=self.spoil_lines, args=(server, client), daemon=True).start()

    def forward(self, source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def spoil_lines(self, source, sink):
        rest, n = b"", 0
        try:
            while data := source.recv(65536):
                lines = (rest + data).split(b"\r\n")
                rest = lines.pop()
                out = b""
                for line in lines:
                    out += line + b"\r\n" if line == b"OK" else self.spoil(n, line)
                    n += line != b"OK"
                sink.sendall(out)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def close(self):
        self.listener.close()


@pytest.fixture
def proxy():
    proxies = []

    def make(target, spoil):
        proxies.append(Proxy(target, spoil))
        return proxies[-1].address

    yield make
    for p in proxies:
        p.close()


AT = 20  # the message that is spoiled


def flip(where):
    def spoil(n, line):
        if n == AT:
            spoiled = bytearray(line)
            spoiled[where] ^= 1
            line = bytes(spoiled)
        return line + b"\r\n"

    return spoil


def drop(n, line):
    return b"" if n == AT else line + b"\r\n"


def drop_all_from(n, line):
    return b"" if n >= AT else line + b"\r\n"


def double(n, line):
    return line + b"\r\n" + (line + b"\r\n" if n == AT else b"")


def cut(n, line):
    return (line[:-1] if n == AT else line) + b"\r\n"


def add(n, line):
    return line + (b"x" if n == AT else b"") + b"\r\n"


def join(n, line):
    return line + (b"" if n == AT else b"\r\n")


def say_bye(n, line):
    return (b"BYE\r\n" if n == AT else b"") + line + b"\r\n"


class Swap:
    """Exchanges two neighbours."""

    def __init__(self):
        self.held = {}

    def __call__(self, n, line):
        me = threading.get_ident()
        if n == AT:
            self.held[me] = line + b"\r\n"
            return b""
        return line + b"\r\n" + self.held.pop(me, b"")


SPOILERS = {
    "first byte": (flip(0), "another run|header"),
    # The filler depends on these: a changed one does not fit any more.
    "topic": (flip(13), "damaged content"),
    "publisher": (flip(18), "damaged content|unknown publisher"),
    "sequence": (flip(29), "damaged content"),
    "time": (flip(46), "wrong intended time|damaged header"),  # the digit a becomes none at all
    "filler": (flip(HEADER_BYTES + 30), "damaged content"),
    "last byte": (flip(-1), "damaged content"),
    "lost": (drop, "gap"),
    "the rest lost": (drop_all_from, "missing"),
    "doubled": (double, "duplicate"),
    "too short": (cut, "wrong length"),
    "too long": (add, "wrong length"),
    "end lost": (join, "wrong length|no message"),
    "goodbye": (say_bye, "BYE"),
    "out of order": (Swap(), "gap"),
}


MODES = ["--window 16", "--rate 300", "--window 4 --publishers 3"]
EVERY_WAY = ["filler", "publisher", "lost", "doubled", "end lost", "out of order"]


@pytest.mark.parametrize(
    "name, mode", [(n, m) for n in SPOILERS for m in (MODES if n in EVERY_WAY else MODES[:1])]
)
def test_spoiled_delivery_fails(start, proxy, name, mode):
    spoil, words = SPOILERS[name]
    broker = start(topics=PATIENT)
    code, result, said = load("--subscribers", 2, "--bytes", 300, *mode.split(), proxy(broker.address(), spoil))
    assert code == 1, said
    assert any(word in said for word in words.split("|")), said
    assert result["errors"] == 1 and result["error"] in said


def test_proxy_that_spoils_nothing(start, proxy):
    broker = start(topics=PATIENT)
    succeeds("--window", 16, "--bytes", 300, proxy(broker.address(), lambda n, line: line + b"\r\n"))


# --- peers -------------------------------------------------------------------------------------------

PEERS = {"redis": "resp", "nats": "nats", "mosquitto": "mqtt", "nchan": "sse"}
TLS_PEERS = {**{f"{name}-tls": protocol for name, protocol in PEERS.items()}, "haproxy": "line"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@contextlib.contextmanager
def peer_of(name, tmp_path, **env):
    """A peer's process and where it listens."""
    port = free_port()
    with open(tmp_path / "peer.log", "wb") as log:
        peer = subprocess.Popen(
            [ROOT / "bench/peers/run", name, str(port)],
            env={**os.environ, "TMPDIR": str(tmp_path), **env},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        for attempt in range(100):
            try:
                socket.create_connection(("127.0.0.1", port)).close()
                break
            except OSError:
                assert peer.poll() is None, (tmp_path / "peer.log").read_text()
                threading.Event().wait(0.1)
        yield peer, f"127.0.0.1:{port}"
    finally:
        peer.kill()  # nchan dumps core when it is asked to end
        peer.wait(PATIENCE)


@pytest.mark.parametrize("name", PEERS)
def test_peers_are_understood(name, tmp_path):
    with peer_of(name, tmp_path) as (peer, endpoint):
        common = ["--protocol", PEERS[name], "--pid", peer.pid, endpoint]
        succeeds("--window", 16, "--topics", 3, "--subscribers", 4, "--bytes", 128, *common)
        succeeds("--rate", 100, "--topics", 2, "--publishers", 3, "--subscribers", 4, "--idle", 5, *common)
        succeeds("--window", 2, "--bytes", "100K", *common)


@pytest.mark.parametrize("name", TLS_PEERS)
def test_peers_are_understood_over_tls(start, name, tmp_path):
    """All with the same cipher, or they could not be compared."""
    behind = [start(topics=PATIENT)] if name == "haproxy" else []
    with peer_of(name, tmp_path, **{"BACK": b.address().rsplit(":", 1)[1] for b in behind}) as (peer, endpoint):
        pids = [p.pid for p in (peer, *behind)]
        certificate = next(tmp_path.rglob("tls.pem"))
        common = ["--protocol", TLS_PEERS[name], "--tls", "--ca", certificate, "--pid", ",".join(map(str, pids)), endpoint]
        result = succeeds("--window", 16, "--subscribers", 4, "--bytes", 3000, "--duration", 0.2, *common)
        assert result["tls_suite"] == "TLS_AES_128_GCM_SHA256"
        # Both are in it, the broker with a reactor and what helps it.
        assert result["broker_threads"] > 2 or not behind
