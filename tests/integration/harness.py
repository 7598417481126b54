"""Starts the real broker and speaks its line protocol over real sockets; every wait is bounded.

One Loop serves all sockets of a test: whatever is waited for, every client goes on reading and writing,
except those told to stall. Nothing here ends a process that it did not start.
"""

import ctypes
import os
import re
import resource
import selectors
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BROKER = Path(os.environ.get("BROKER", ROOT / "build/release/broker")).resolve()
SANITIZER = next((name for name in ("asan", "tsan", "cov") if name in BROKER.parent.name), None)

# Instruments slow the broker down: every time stretches with them, also those that it is configured with.
FACTOR = float(os.environ.get("TEST_TIME_FACTOR", {"asan": 4, "tsan": 10, "cov": 2}.get(SANITIZER, 1)))
# The machine may have other things to do: a bound that is only there to give up at allows for that. What goes well
# takes no longer for it.
BUSY = 3


def at_most(seconds):
    """The bound for what takes so long at most on a machine that has nothing else to do."""
    return seconds * FACTOR * BUSY


PATIENCE = at_most(10)  # the longest that a single wait may take, unless a test says otherwise
TEST_SECONDS = at_most(60)  # the most that one test may take

# Memory and CPU are bounds of the release build: conftest leaves these tests out of the others.
release_only = pytest.mark.release_only

SYS_PIDFD_OPEN, SYS_PIDFD_GETFD = 434, 438
SANITIZER_OUTPUT = re.compile(r"Sanitizer|runtime error:|Assertion .* failed")
LISTENING = re.compile(r"ready: .*?listening on ([^;]+);")
STATS = re.compile(r"\bstats (reactor=\d+ .*)")

# Backlogs that no test client outruns by accident.
PATIENT = {"backlog_bytes": "512M", "backlog_seconds": 600}


def whole_seconds(seconds):
    """A configuration's seconds, stretched by FACTOR."""
    return max(1, round(seconds * FACTOR))


# --- configuration -----------------------------------------------------------------------------------

TITLED = ("listen", "topic", "user", "certificate", "upstream")


def config_text(**keys):
    """libconfuse text: plain keys, a dict for a section, a dict of dicts for sections with titles; sections within
    sections likewise."""

    def value(v):
        if isinstance(v, bool):
            return str(v).lower()
        if isinstance(v, (list, tuple)):
            return "{ " + ", ".join(map(value, v)) + " }"
        return str(v) if isinstance(v, int) else f'"{v}"'

    def body(keys, indent):
        text = ""
        for key, v in keys.items():
            if key in TITLED and isinstance(v, dict):
                text += "".join(section(f'{key} "{title}"', inner, indent) for title, inner in v.items())
            elif isinstance(v, dict):
                text += section(key, v, indent)
            else:
                text += f"{indent}{key} = {value(v)}\n"
        return text

    def section(head, keys, indent):
        return f"{indent}{head} {{\n{body(keys, indent + chr(9))}{indent}}}\n"

    return body(keys, "")


def line_listener(address="127.0.0.1:0"):
    return {"address": address, "protocols": ["line"]}


DEFAULTS = {
    "reactors": 1,
    "stats_seconds": 1,
    "drain_seconds": whole_seconds(3),
    "listen": {"main": line_listener()},
}


# --- clients -----------------------------------------------------------------------------------------


class Loop:
    """Serves every registered client whenever something is waited for."""

    def __init__(self, context=lambda: ""):
        self.selector = selectors.DefaultSelector()
        self.context = context  # what to say beside a wait that failed

    def turn(self, timeout=0.0):
        for key, mask in self.selector.select(timeout):
            key.data.ready(mask)

    def wait(self, done, what, seconds=None):
        seconds = PATIENCE if seconds is None else seconds
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                self.fail(f"not within {seconds:g} s: {what() if callable(what) else what}")
            self.turn(0.02)

    def wait_each(self, clients, done, what, seconds=None):
        """Until done(client) was true for each; it must stay true once it is."""
        pending = list(clients)

        def all_done():
            while pending and done(pending[-1]):
                pending.pop()
            return not pending

        self.wait(all_done, lambda: f"{what}; missing {len(pending)} clients, one is {pending[-1]}", seconds)

    def sleep(self, seconds):
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.turn(left)

    def fail(self, message):
        pytest.fail(f"{message}\n{self.context()}", pytrace=True)


class Expect:
    """Compares what comes in with what must come in, and keeps nothing of it."""

    def __init__(self, content):
        self.content = memoryview(content)
        self.at = 0
        self.wrong_at = None

    def feed(self, data):
        if self.wrong_at is None and self.content[self.at : self.at + len(data)] != data:
            self.wrong_at = self.at
        self.at += len(data)

    def complete(self):
        return self.at >= len(self.content)


def dial(address, rcvbuf=None, source=None):
    """A connected socket; addresses as the broker writes them."""
    if address.startswith("unix:"):
        family, target = socket.AF_UNIX, address.removeprefix("unix:")
    else:
        host, port = address.rsplit(":", 1)
        family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
        target = (host.strip("[]"), int(port))
    sock = socket.socket(family)
    try:
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if source:
            sock.bind((source, 0))
        sock.settimeout(PATIENCE)
        try:
            sock.connect(target)
        except ConnectionResetError:
            # It was taken, and reset before connect(2) had come back: whoever reads is at the end.
            sock.close()
            sock, other = socket.socketpair()
            other.close()
            family = socket.AF_UNIX
        if family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


class Line:
    """One connection that speaks lines."""

    def __init__(self, loop, address, **options):
        self.loop = loop
        self.socket = dial(address, **options)
        self.out = bytearray()
        self.sent = 0  # bytes given to the kernel
        self.buffer = bytearray()
        self.newlines = 0  # in the buffer
        self.sink = None  # an Expect in place of the buffer
        self.reading = True
        self.holds = False  # keeps its side open when the broker has closed
        self.ended = False
        self.reset = False
        self.watched = 0
        self.watch()

    def __repr__(self):
        state = ("reset" if self.reset else "ended") if self.ended else "open"
        return f"<{state}, {self.newlines} lines waiting, {len(self.out)} bytes unsent, tail {bytes(self.buffer[-80:])}>"

    # What the loop calls.

    def watch(self):
        wanted = 0
        if not self.ended:
            wanted |= selectors.EVENT_READ if self.reading else 0
            wanted |= selectors.EVENT_WRITE if self.out else 0
        if wanted == self.watched:
            return
        if not self.watched:
            self.loop.selector.register(self.socket, wanted, self)
        elif not wanted:
            self.loop.selector.unregister(self.socket)
        else:
            self.loop.selector.modify(self.socket, wanted, self)
        self.watched = wanted

    def ready(self, mask):
        if mask & selectors.EVENT_WRITE:
            self.flush()
        if mask & selectors.EVENT_READ:
            self.receive()
        self.watch()
        if self.ended and not self.holds:
            self.socket.close()

    def flush(self):
        try:
            while self.out:
                n = self.socket.send(memoryview(self.out)[: 1 << 18])
                del self.out[:n]
                self.sent += n
        except BlockingIOError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            self.out.clear()

    def receive(self):
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.reset, data = True, b""
        if not data:
            self.ended = True
        elif self.sink:
            self.sink.feed(data)
        else:
            self.buffer += data
            self.newlines += data.count(b"\n")

    # What tests call.

    def send(self, data):
        """Queues bytes; they leave now or while something is waited for."""
        self.out += data.encode() if isinstance(data, str) else data
        if not self.ended:
            self.flush()
            self.watch()

    def send_lines(self, *messages):
        self.send(b"".join(m + b"\r\n" for m in messages))

    def stall(self):
        self.reading = False
        self.watch()

    def resume(self):
        self.reading = True
        self.watch()

    def half_close(self):
        self.loop.wait(lambda: not self.out, "everything is sent before the half-close")
        if not self.ended:
            self.socket.shutdown(socket.SHUT_WR)

    def has(self, n):
        """n lines are here; fails at once when they cannot come any more."""
        if self.newlines < n and self.ended:
            self.loop.fail(f"the connection ended before line {n}: {self}")
        return self.newlines >= n

    def take(self, n, seconds=None):
        """The next n lines without their ends."""
        self.loop.wait(lambda: self.has(n), lambda: f"{n} lines at {self}", seconds)
        cut = 0
        if n == self.newlines:
            cut = self.buffer.rfind(b"\n") + 1
        else:
            for _ in range(n):
                cut = self.buffer.index(b"\n", cut) + 1
        block = bytes(self.buffer[:cut])
        del self.buffer[:cut]
        self.newlines -= n
        lines = block.split(b"\r\n")
        assert lines.pop() == b"" and len(lines) == n, f"a line did not end in CR LF: {block[:200]}"
        return lines

    def take_waiting(self):
        return self.take(self.newlines)

    def ok(self):
        assert self.take(1) == [b"OK"]
        return self

    def rest(self, seconds=None):
        """All lines up to the broker's close, which has to come."""
        self.resume()
        self.loop.wait(lambda: self.ended, lambda: f"the broker closes {self}", seconds)
        lines = self.take_waiting()
        assert not self.buffer, f"ended within a line: {self}"
        return lines

    def leave(self):
        """BYE, and what comes up to the close."""
        self.send(b"BYE\r\n")
        return self.rest()

    def close(self):
        self.ended = True
        self.watch()
        self.socket.close()

    def abort(self):
        """Ends with a reset."""
        if not self.ended:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()


class SecureLine(Line):
    """The same within TLS. context: an ssl.SSLContext; name: the server's."""

    def __init__(self, loop, address, context, name="localhost", session=None, **options):
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_hostname=name, session=session)
        self.sealed = bytearray()
        self.shaken = self.notified = False
        self.failure = None
        super().__init__(loop, address, **options)
        self.flush()
        self.watch()

    def turn(self):
        """Goes on as far as what has come allows."""
        try:
            if not self.shaken:
                self.tls.do_handshake()
                self.shaken = True
            while self.out:
                n = self.tls.write(bytes(self.out[: 1 << 18]))
                del self.out[:n]
                self.sent += n
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.failure = error
            self.out.clear()
        self.sealed += self.outgoing.read()

    def flush(self):
        self.turn()
        try:
            while self.sealed:
                del self.sealed[: self.socket.send(bytes(self.sealed[: 1 << 18]))]
        except BlockingIOError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            self.sealed.clear()

    def watch(self):
        out, self.out = self.out, self.sealed  # what there is to write now
        super().watch()
        self.out = out

    def receive(self):
        try:
            data = self.socket.recv(1 << 18)
        except BlockingIOError:
            return
        except ConnectionResetError:
            self.reset, data = True, b""
        if data:
            self.incoming.write(data)
        else:
            self.incoming.write_eof()
            self.ended = True
        self.flush()
        while self.shaken and not self.notified and not self.failure:
            try:
                plain = self.tls.read(1 << 18)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLZeroReturnError:
                plain = b""
            except ssl.SSLError as error:
                self.failure = error
                break
            if not plain:
                self.notified = True
            elif self.sink:
                self.sink.feed(plain)
            else:
                self.buffer += plain
                self.newlines += plain.count(b"\n")
        self.flush()

    def half_close(self):
        """Says close_notify, and no end of file."""
        self.loop.wait(lambda: not self.out and not self.sealed, "everything is sent before the end")
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            pass
        self.flush()

    def rest(self, seconds=None):
        lines = super().rest(seconds)
        assert self.notified and not self.failure, f"an end without close_notify: {self.failure}"
        return lines


# What deploy/deps has fetched from npm for tests.
NPM = ROOT / "build/npm/test"
NPM_LOCK = "package-lock.json"


def node(script, directory, **env):
    """Runs a script that may import any package of deploy/npm/test, in a directory of its own."""
    wanted = (ROOT / "deploy/npm/test" / NPM_LOCK).read_bytes()
    if not (NPM / NPM_LOCK).exists() or (NPM / NPM_LOCK).read_bytes() != wanted:
        pytest.fail(f"{NPM} is not there or not of today; try: deploy/deps test")
    # Modules are looked for beside the file that wants them.
    (directory / "node_modules").symlink_to(NPM / "node_modules")
    return subprocess.run(
        ["node", shutil.copy(script, directory)],
        cwd=directory,
        env={**os.environ, **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TEST_SECONDS,
    )


# --- the broker --------------------------------------------------------------------------------------


def run(*args, preexec=None, seconds=6):
    """Runs the broker with arguments under which it ends by itself."""
    try:
        return subprocess.run(
            [BROKER, *map(str, args)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            preexec_fn=preexec,
            timeout=at_most(seconds),
        )
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"broker {args} did not end by itself; it said {late.stderr}")


def limit_files(hard):
    """For preexec: the most descriptors that the child may have."""
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def balance(stats):
    """published x matched = delivered + dropped(reason)."""
    reasons = sum(v for k, v in stats.items() if k.startswith("dropped_"))
    assert stats["matched"] == stats["delivered"] + stats["dropped"], dict(stats)
    assert stats["dropped"] == reasons, dict(stats)


def differences(stats, expected):
    return {k: f"{stats.get(k)}, not {v}" for k, v in expected.items() if stats.get(k) != v}


class Broker:
    """A broker on a configuration in a directory of its own, with all the clients it was given."""

    def __init__(self, directory, preexec=None, env=None, text=None, **config):
        """text: a configuration of its own, to which the keys that are plain are added."""
        self.config = {**DEFAULTS, **config}
        self.config_path = directory / "broker.conf"
        self.log_path = directory / "broker.log"
        if text is not None:
            text += config_text(**{k: v for k, v in self.config.items() if not isinstance(v, dict)})
        self.configure(text)
        self.loop = Loop(lambda: self.log_tail())
        self.clients = []
        self.checked = False
        assert BROKER.exists(), f"{BROKER} is not there: build it, or name another in BROKER"
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [BROKER, "-c", self.config_path],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=preexec,
                env=env and {**os.environ, **env},
            )
        try:
            self.loop.wait(self.is_ready, "the broker is ready")
        except BaseException:
            self.kill()
            raise
        listening = LISTENING.search(self.log())
        self.addresses = re.findall(r"(\S+) \(([^)]*)\)", listening.group(1)) if listening else []

    # Life.

    @property
    def pid(self):
        return self.process.pid

    def running(self):
        return self.process.poll() is None

    def is_ready(self):
        if LISTENING.search(self.log()):
            return True
        if not self.running():
            self.loop.fail(f"the broker ended with {self.process.returncode} before it was ready")
        return False

    def configure(self, text=None, **changes):
        """Writes the configuration, for the start or for a reload."""
        self.config.update(changes)
        self.config_path.write_text(config_text(**self.config) if text is None else text)

    def send_signal(self, number):
        self.process.send_signal(number)

    def ends(self, seconds):
        """Its exit code, once it has ended by itself."""
        self.loop.wait(lambda: not self.running(), "the broker ends", seconds)
        return self.process.returncode

    def stop(self, number=signal.SIGTERM, **expected):
        """Drains while the clients go on; the counters must balance, and equal what is expected of them."""
        assert self.running(), f"the broker ended early, with {self.process.returncode}\n{self.log_tail()}"
        self.send_signal(number)
        return self.finish(**expected)

    def finish(self, seconds=None, codes=(0,), counters=True, **expected):
        """What a broker that was told to stop has to have done; returns its final counters."""
        self.checked = True
        code = self.ends(self.config["drain_seconds"] + PATIENCE if seconds is None else seconds)
        assert code in codes, f"exit code {code}\n{self.log_tail()}"
        assert not SANITIZER_OUTPUT.search(self.log()), self.log_tail()
        if not (counters and self.config["stats_seconds"]):
            return None
        final = self.totals(self.log())
        assert final is not None, f"no final statistics of every reactor\n{self.log_tail()}"
        balance(final)
        assert not differences(final, expected), (differences(final, expected), dict(final))
        return final

    def kill(self):
        if self.running():
            self.process.kill()
        self.process.wait(PATIENCE)
        self.close_clients()

    def close(self):
        """The end of a test: whatever it was about, the broker stops cleanly and its counters balance."""
        try:
            self.close_clients()
            if not self.checked:
                self.stop()
        finally:
            self.kill()
            print(self.log_tail())

    def close_clients(self):
        for client in self.clients:
            client.close()
        self.clients.clear()

    # What it says.

    def log(self, since=0):
        """Whole lines only: one may be just being written."""
        with open(self.log_path, "rb") as log:
            log.seek(since)
            text = log.read()
        return text[: text.rfind(b"\n") + 1].decode(errors="replace")

    def log_size(self):
        return self.log_path.stat().st_size

    def log_tail(self):
        lines = self.log().splitlines()
        spoken = [x for x in lines if not STATS.search(x)][-40:]
        return "\n".join(["broker's log:", *spoken, *[x for x in lines if STATS.search(x)][-4:]])

    def says(self, pattern, since=0, seconds=None):
        """Waits for a line in the log."""
        self.loop.wait(lambda: re.search(pattern, self.log(since)), f"the log says {pattern!r}", seconds)
        return re.search(f".*{pattern}.*", self.log(since)).group()

    def totals(self, text):
        """The newest counters of each reactor, summed; None while a reactor's are missing."""
        newest = {}
        for match in STATS.finditer(text):
            fields = dict(re.findall(r"(\w+)=(\d+)(?=\s|$)", match.group(1)))
            newest[fields.pop("reactor")] = fields
        if len(newest) < self.config["reactors"]:
            return None
        total = Counter()
        for fields in newest.values():
            total.update({k: int(v) for k, v in fields.items()})
        return total

    def stats(self):
        """Counters summed over the reactors, all of them written after this call."""
        since = self.log_size()
        self.loop.wait(lambda: self.totals(self.log(since)) is not None, "statistics of every reactor")
        return self.totals(self.log(since))

    def eventually(self, **expected):
        """Waits until the counters are exactly as expected, and balance then."""
        last = {}

        def reached():
            last["stats"] = self.stats()
            return not differences(last["stats"], expected)

        self.loop.wait(reached, lambda: f"counters {differences(last['stats'], expected)}")
        balance(last["stats"])
        return last["stats"]

    # What it costs.

    def memory(self, field="VmRSS"):
        """VmRSS or VmHWM, in bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(rf"^{field}:\s+(\d+) kB", status, re.M).group(1)) << 10

    def forget_peak(self):
        """Lets VmHWM start again from VmRSS."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def cpu_ticks(self):
        fields = Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def context_switches(self):
        """Of all threads: none means that none of them has run."""
        tasks = [t.read_text() for t in Path(f"/proc/{self.pid}/task").glob("*/status")]
        return sum(int(n) for text in tasks for n in re.findall(r"ctxt_switches:\s+(\d+)", text))

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    # Clients.

    @contextmanager
    def sockets(self):
        """Copies of the broker's own sockets, to look at or to set options of (pidfd_getfd(2))."""
        libc = ctypes.CDLL(None, use_errno=True)
        pidfd = libc.syscall(SYS_PIDFD_OPEN, self.pid, 0)
        assert pidfd >= 0, os.strerror(ctypes.get_errno())
        copies = []
        try:
            for fd in os.listdir(f"/proc/{self.pid}/fd"):
                if not os.readlink(f"/proc/{self.pid}/fd/{fd}").startswith("socket:"):
                    continue
                copy = libc.syscall(SYS_PIDFD_GETFD, pidfd, int(fd), 0)
                assert copy >= 0, os.strerror(ctypes.get_errno())
                copies.append(socket.socket(fileno=copy))
            yield copies
        finally:
            os.close(pidfd)
            for copy in copies:
                copy.close()

    def address(self, index=0):
        return self.addresses[index][0]

    def connect(self, index=0, context=None, **options):
        if context:
            options["context"] = context
        client = (SecureLine if context else Line)(self.loop, self.address(index), **options)
        self.clients.append(client)
        return client

    def say(self, data, **options):
        """A new connection that has said this."""
        client = self.connect(**options)
        client.send(data)
        return client

    def subscribe(self, topic, replay="", **options):
        return self.say(f"SUBSCRIBE {topic} {replay}".strip() + "\r\n", **options).ok()

    def subscribe_many(self, topics, **options):
        """One subscriber for each; all have their OK."""
        clients = [self.say(f"SUBSCRIBE {topic}\r\n", **options) for topic in topics]
        self.loop.wait_each(clients, lambda c: c.has(1), "OK")
        return [c.ok() for c in clients]

    def publisher(self, topic, **options):
        return self.say(f"PUBLISH {topic}\r\n", **options).ok()

    def publish(self, topic, *messages):
        """Publishes, and returns when the close says that all is sequenced."""
        client = self.say(f"PUBLISH {topic}\r\n")
        client.send_lines(*messages, b"BYE")
        assert client.rest() == [b"OK"]

    def works(self, topic="still.works"):
        """What every healthy broker does."""
        subscriber = self.subscribe(topic)
        self.publish(topic, b"yes")
        assert subscriber.take(1) == [b"yes"]
        assert subscriber.leave() == []


def numbered(tag, count, size=0):
    """count messages that differ and say who sent them."""
    return [b"%s %d " % (tag, n) + b"." * size for n in range(count)]
