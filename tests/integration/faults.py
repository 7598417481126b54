"""Makes calls of a real broker fail (tests/faults/faults.c), and what clients do meanwhile.

Clients here take what comes: an answer, an error, a close. What they insist on is that something comes.
"""

import base64
import contextlib
import errno
import hashlib
import mmap
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import time
import warnings

from certificates import Authority, Issuer
from harness import BROKER, LISTENING, ROOT, SANITIZER, Broker, numbered

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import crypt

SUPPRESSIONS = ROOT / "tests" / "lsan.supp"

# As in tests/faults/faults.h.
CONTROL_BYTES = 4096
SITES = 12
MEMORY, ENTER, SETUP, REGISTER, LIBRARY, REQUEST = range(6)
OPCODES = {
    "SENDMSG": 9,
    "TIMEOUT": 11,
    "ACCEPT": 13,
    "ASYNC_CANCEL": 14,
    "SEND": 26,
    "RECV": 27,
    "MSG_RING": 40,
}
INTERNAL_ERROR, NO_MEMORY = 1, 2  # of a call of the library's
EVER = 1 << 62

# A sweep takes every so many'th call; with FAULTS=all, every one.
STEP = 1 if os.environ.get("FAULTS") == "all" else 74 if SANITIZER else 29


class Faults:
    """The control file that a broker shares with us."""

    def __init__(self, path):
        path.write_bytes(bytes(CONTROL_BYTES))
        self.path = path
        with open(path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), CONTROL_BYTES)

    def environment(self):
        env = {"FAULTS": str(self.path), "LD_PRELOAD": str(BROKER.parent / "faults.so")}
        if SANITIZER == "asan":
            # It stands between the broker and the sanitizer's allocator.
            env["ASAN_OPTIONS"] = os.environ.get("ASAN_OPTIONS", "") + ":verify_asan_link_order=0"
        return env

    def libcrypto(self):
        """What a sanitizer does not count when allocations of that library fail: see tests/lsan.supp."""
        if SANITIZER != "asan":
            return {}
        # Whole stacks: libcrypto has no frame pointers.
        return {
            "ASAN_OPTIONS": self.environment()["ASAN_OPTIONS"] + ":fast_unwind_on_malloc=0",
            "LSAN_OPTIONS": os.environ.get("LSAN_OPTIONS", "") + f":print_suppressions=0:suppressions={SUPPRESSIONS}",
        }

    def fields(self, kind, first, *values):
        at = SITES * 8 + kind * 48 + first * 8
        for i, value in enumerate(values):
            struct.pack_into("=Q", self.memory, at + 8 * i, value)
        return struct.unpack_from("=Q", self.memory, at)[0]

    def fail(self, kind, nth=1, many=1, error=errno.ENOMEM):
        """From now on the nth call of a kind fails, and so do those after it, many in all."""
        self.off(kind)
        self.fields(kind, 1, many, error, 0, 0, 0)
        self.fields(kind, 0, nth)

    def off(self, kind):
        self.fields(kind, 0, 0)

    def seen(self, kind):
        return self.fields(kind, 3)

    def first(self, kind):
        """Which call was the first that failed; 0: none has."""
        return self.fields(kind, 5)

    def site(self):
        """Where the first call that failed came from."""
        sites = [hex(at) for at in struct.unpack_from(f"={SITES}Q", self.memory) if at]
        if not sites:
            return "nowhere in the broker itself"
        lines = subprocess.run(["addr2line", "-fse", BROKER, *sites], capture_output=True, text=True).stdout.split("\n")
        return " < ".join(f"{f} ({where})" for f, where in zip(lines[::2], lines[1::2]))


class Faulty(Broker):
    """A broker whose calls can be made to fail; it may end before it is ready."""

    def __init__(self, directory, arm=None, preexec=None, **config):
        self.faults = Faults(directory / "faults")
        if arm:
            arm(self.faults)
        uses_libcrypto = arm or "secure" in config.get("listen", {}) or "user" in config
        environment = self.faults.environment() | (self.faults.libcrypto() if uses_libcrypto else {})
        super().__init__(directory, preexec, environment, **config)

    def is_ready(self):
        return LISTENING.search(self.log()) is not None or not self.running()

    def log_tail(self):
        return f"{super().log_tail()}\nthe first that failed: {self.faults.site()}"

    # What clients do.

    def settle(self, client, lines=1):
        """Until it has so many lines, or was closed."""
        self.loop.wait(lambda: client.ended or client.newlines >= lines, lambda: f"an answer or a close: {client}")

    def ended(self, *clients):
        self.loop.wait_each(clients, lambda c: c.ended, "a close")

    def ask(self, method, path, body=b"", headers=""):
        """One HTTP request on a connection of its own, which the broker closes behind the answer."""
        head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        return self.say(head.encode() + body)

    def stream(self, path):
        return self.say(f"GET {path} HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")

    # After a fault.

    def recovers(self, descriptors):
        """It serves as if nothing had been, and has forgotten the clients from before."""
        self.close_clients()
        self.works()
        reply = self.ask("POST", "/publish/still.works", b"yes")
        self.ended(reply)
        assert reply.buffer.startswith(b"HTTP/1.1 200 "), reply
        if len(self.addresses) > 1:
            client = self.connect(1, context=trusting(self.config_path.parent.parent))
            client.send("SUBSCRIBE secure.again\r\n")
            assert client.take(1) == [b"OK"]
        self.close_clients()
        self.loop.wait(lambda: self.descriptors() <= descriptors, "every descriptor is closed")

    def is_quiet(self):
        """It does not spin. Ticks are 10 ms."""
        before = self.cpu_ticks()
        self.loop.sleep(0.2)
        if not SANITIZER:
            assert self.cpu_ticks() - before <= 10, f"it spins\n{self.log_tail()}"


MESSAGES = numbered(b"m", 6, size=40)

# Each prepares, yields, and does what is to be tried with faults.


def line(broker):
    """Messages as lines, one of them with a return in it, to two topics with two subscribers each."""
    yield
    subscribers = [broker.say(f"SUBSCRIBE line.{i % 2}\r\n") for i in range(4)]
    for client in subscribers:
        broker.settle(client)
    publishers = [broker.say(f"PUBLISH line.{i}\r\n") for i in range(2)]
    for client in publishers:
        broker.settle(client)
        client.send_lines(*MESSAGES, b"un\reven", *MESSAGES)
        client.send(b"half a ")
    for client in publishers:
        client.send(b"message\r\nBYE\r\n")
    broker.ended(*publishers)
    for client in subscribers:
        client.send(b"BYE\r\n")
    broker.ended(*subscribers)


def http(broker):
    """Publishes over HTTP to subscribers with server-sent events, chunks and lines."""
    yield
    streams = [broker.stream("/subscribe/http.0"), broker.say("GET /subscribe/http.1 HTTP/1.1\r\nHost: x\r\n\r\n")]
    streams += [broker.say(f"SUBSCRIBE http.{i}\r\n") for i in range(2)]
    for client in streams:
        broker.settle(client)
    for i in range(4):
        chunked = "POST /publish/http.%d HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
        client = broker.ask("POST", f"/publish/http.{i % 2}", b"body", "X-Version: 1.%d\r\n" % i) if i else broker.say(chunked % i)
        if not i:
            client.send(b"4\r\nbo")
            broker.loop.turn()
            client.send(b"dy\r\n0\r\n\r\n")
        broker.ended(client)
    for client in streams:
        client.half_close()
    broker.ended(*streams)


def replay(broker):
    """Subscribers that begin in the past."""
    for i in range(2):
        broker.publish(f"replay.{i}", *MESSAGES)
    yield
    clients = [broker.say(f"SUBSCRIBE replay.{i % 2} LAST 3\r\n") for i in range(3)]
    clients.append(broker.say("SUBSCRIBE replay.0 FROM 0000000000000000:1\r\n"))
    clients.append(broker.stream("/subscribe/replay.1?last=5"))
    for client in clients:
        broker.settle(client, 2)
        client.half_close()
    broker.ended(*clients)


def large(broker):
    """Messages of a quarter of a MiB, as a line, over HTTP and as a resource."""
    yield
    message = b"x" * (256 << 10)
    subscribers = [broker.say(f"SUBSCRIBE large.{i}\r\n") for i in range(2)] + [broker.stream("/subscribe/large.0")]
    for client in subscribers:
        broker.settle(client)
    publisher = broker.say("PUBLISH large.0\r\n")
    publisher.send_lines(message, message, b"BYE")
    poster = broker.ask("POST", "/publish/large.1", message)
    broker.ended(publisher, poster)
    reader = broker.ask("GET", "/topic/large.1/last")
    broker.ended(reader)
    for client in subscribers:
        client.half_close()
    broker.ended(*subscribers)


def waiting(broker):
    """Requests that wait for a message."""
    yield
    readers = [broker.ask("GET", f"/topic/wait.{i % 2}/1", headers="If-None-Match: x\r\n") for i in range(4)]
    about = broker.ask("GET", "/topic/wait.0")
    broker.ended(about)
    broker.ended(*[broker.ask("POST", f"/publish/wait.{i}", b"here") for i in range(2)])
    broker.ended(*readers)


def pages(broker):
    """What an operator and a browser look at."""
    yield
    paths = ("/metrics", "/stats.json", "/topics", "/clients", "/", "/object/page.txt", "/object/large.bin", "/health", "/ready", "/nothing")
    broker.ended(*[broker.ask("GET", path, headers="Origin: http://x\r\n") for path in paths])


def reload(broker):
    """A longer message is allowed, or everything stays as it was."""
    yield
    since = broker.log_size()
    broker.configure(limits={"message_bytes": "2K"}, topic={"reload.>": {"history_bytes": 0}})
    broker.send_signal(signal.SIGHUP)
    said = broker.says(r"reload: .* (is in force|the old configuration stays in force)", since)
    publisher = broker.say("PUBLISH reload.topic\r\n")
    broker.settle(publisher)
    publisher.send_lines(b"m" * 1500, b"BYE")
    broker.ended(publisher)
    answers = publisher.take_waiting()
    # Memory may be short for the message itself.
    if answers == [b"OK"]:
        assert "is in force" in said and "old" not in said
    elif answers == [b"OK", b"ERROR line too long"]:
        assert "stays" in said


def trusting(directory):
    context = ssl.create_default_context(cafile=directory / "authority-authority.pem")
    context.load_cert_chain(directory / "authority-client.pem", directory / "authority-client.key")
    return context


def secure(broker):
    """TLS: handshakes, one of them with a ticket, messages small and large, keys read again, ends of all kinds."""
    yield
    context = trusting(broker.config_path.parent.parent)
    subscribers = [broker.connect(1, context=context) for _ in range(2)]
    for i, client in enumerate(subscribers):
        client.send(f"SUBSCRIBE secure.{i}\r\n")
        broker.settle(client)
    broker.send_signal(signal.SIGHUP)
    well = not subscribers[0].failure and subscribers[0].shaken
    session = subscribers[0].tls.session if well else None
    publishers = [broker.connect(1, context=context, session=session) for _ in range(2)]
    for i, client in enumerate(publishers):
        client.send(f"PUBLISH secure.{i}\r\n")
        broker.settle(client)
        client.send_lines(*MESSAGES, b"x" * 100_000)
    publishers[0].send(b"BYE\r\n")
    if not publishers[1].ended and publishers[1].shaken and not publishers[1].failure:
        publishers[1].half_close()
    # The broker may have ended it, and we have not looked yet.
    with contextlib.suppress(OSError):
        publishers[1].socket.shutdown(socket.SHUT_WR)
    broker.ended(*publishers)
    stranger = broker.connect(1)
    stranger.send(b"SUBSCRIBE plainly\r\n")
    broker.ended(stranger)
    subscribers[0].send(b"BYE\r\n")
    subscribers[1].abort()
    broker.ended(*subscribers)


def users(broker):
    """Credentials of every kind, a socket for browsers, a ticket, and a reload that changes who there is."""
    yield
    directory = broker.config_path.parent.parent
    tokens = [(directory / f"{kind}.token").read_text() for kind in ("HS256", "ES256", "EdDSA")]
    clients = [broker.say(f"AUTH {shown}\r\nSUBSCRIBE users.a\r\n") for shown in ("token", "user password", *tokens)]
    for client in clients:
        broker.settle(client, 2)
    basic = base64.b64encode(b"user:password").decode()
    broker.ended(broker.ask("POST", "/publish/users.a", b"one", f"Authorization: Basic {basic}\r\n"))
    ticket = broker.ask("POST", "/ticket", b'{"subscribe":["users.a"]}', f"Authorization: Bearer {tokens[0]}\r\n")
    broker.ended(ticket)
    found = re.search(rb'"ticket":"([^"]*)"', ticket.buffer)
    stream = broker.stream("/subscribe/users.a" + ("?ticket=" + found.group(1).decode() if found else ""))
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    socket = broker.say(f"GET /ws HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer token\r\n{upgrade}\r\n")
    for client in (stream, socket):
        broker.settle(client)
    since = broker.log_size()
    broker.configure(user={"user": {**USER, "token_hash": [token_hash("other")]}})
    broker.send_signal(signal.SIGHUP)
    broker.says(r"reload: .* (is in force|the old configuration stays in force)", since)
    for client in clients:
        client.send(b"BYE\r\n")
    for client in (stream, socket):
        client.half_close()
    broker.ended(*clients, stream, socket)


SCENARIOS = {f.__name__: f for f in (line, http, replay, large, waiting, pages, reload, secure, users)}

LISTEN = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}


def token_hash(token):
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


USER = {
    "password_hash": crypt.crypt("password", "$6$rounds=1000$saltsalt$"),
    "token_hash": [token_hash("token")],
    "certificate": "client.example",
    "uid": "99999",
    "publish": ["users.>"],
    "subscribe": ["users.>"],
}


def trusted(directory):
    """A user with all that a user can have, and tokens of three kinds by somebody else."""
    kinds = ("HS256", "ES256", "EdDSA")
    issuers = [Issuer(directory, kind, kind) for kind in kinds] if not (directory / "EdDSA.token").exists() else []
    for issuer in issuers:
        text = issuer.token(sub=issuer.name, exp=int(time.time()) + 3600, broker={"subscribe": ["users.>"]})
        (directory / f"{issuer.name}.token").write_text(text)
    keys = [str(directory / f"{kind}.pem") for kind in kinds]
    return {"user": {"user": USER}, "auth": {"failures": 1000, "jwt": {"algorithms": list(kinds), "keys": keys}}}


def configuration(directory, scenario, reactors):
    """So that every scenario is over soon, whatever is lost."""
    objects = directory / "objects"
    if not objects.exists():
        objects.mkdir()
        (objects / "page.txt").write_text("a page\n")
        (objects / "large.bin").write_bytes(bytes(100_000))
    listen = dict(LISTEN)
    if scenario == "secure":
        if not (directory / "authority.crl").exists():
            authority = Authority(directory)
            authority.issue("server", "DNS:localhost")
            authority.issue("client", "DNS:client.example")
            authority.revocations()
        pair = {"chain": directory / "authority-server.pem", "key": directory / "authority-server.key"}
        trust = {"client_auth": "optional", "client_ca": directory / "authority-authority.pem", "client_crl": directory / "authority.crl"}
        listen["secure"] = {**LISTEN["main"], "tls": {"certificate": {"main": pair}, **trust}}
    return (trusted(directory) if scenario == "users" else {}) | {
        "reactors": reactors,
        "sandbox": False,  # it allows no NOP
        "listen": listen,
        "drain_seconds": 3,
        "limits": {"message_bytes": "1K" if scenario == "reload" else "1M"},
        "http": {"wait_seconds": 1, "objects_dir": str(objects), "allowed_origins": ["http://x"]},
    }
