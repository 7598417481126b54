"""What attacks and soaks are made of: crowds of sockets in one epoll, and a pair of clients that must not notice.

A Crowd keeps of each member its socket, what it still has to say and what it has heard; tens of thousands fit in a process.
The Pair is broker-load: it publishes at a rate, checks every byte that comes back, and says for every second how late it was.
"""

import errno
import json
import os
import resource
import select
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "integration"))

from harness import BROKER, PATIENCE, at_most  # noqa: E402

LOAD = BROKER.with_name("broker-load")
RESET = struct.pack("ii", 1, 0)  # SO_LINGER that makes close(2) a reset


def raise_file_limit():
    """Both ends of every connection of a crowd are descriptors."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Member:
    """One connection of a crowd."""

    __slots__ = ("crowd", "socket", "out", "got", "ended", "keep")

    def __init__(self, crowd, sock, say, keep):
        self.crowd, self.socket, self.out, self.got = crowd, sock, bytearray(say), bytearray()
        self.ended = False
        self.keep = keep  # False: what comes is only counted by its sink

    def say(self, data):
        self.out += data
        self.write()

    def write(self):
        try:
            while self.out and not self.ended:
                del self.out[: self.socket.send(memoryview(self.out)[: 1 << 18])]
        except (BlockingIOError, InterruptedError):
            pass
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                self.out.clear()  # the end is seen when reading

    def read(self):
        try:
            while data := self.socket.recv(1 << 18):
                if self.keep is True:
                    self.got += data
                else:
                    self.keep(data)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self.ended = True

    def close(self, reset=False):
        if self.socket.fileno() < 0:
            return
        self.crowd.members.pop(self.socket.fileno(), None)
        if reset:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.socket.close()
        self.ended = True


class Crowd:
    """Many connections; nobody waits for anybody while it turns."""

    def __init__(self):
        self.epoll = select.epoll()
        self.members = {}
        self.added = 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def add(self, address, say=b"", rcvbuf=None, reads=True, keep=True):
        """A connection that is being made and says this first; reads=False: it never looks at what comes."""
        host, port = address.rsplit(":", 1)
        sock = socket.socket()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        # Sixteen addresses of loopback, so that ports in TIME_WAIT do not run out.
        sock.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
        sock.bind((f"127.0.0.{1 + self.added % 16}", 0))
        self.added += 1
        sock.connect_ex((host, int(port)))
        member = Member(self, sock, say, keep)
        self.members[sock.fileno()] = member
        events = select.EPOLLET | select.EPOLLOUT | (select.EPOLLIN | select.EPOLLRDHUP if reads else 0)
        self.epoll.register(sock, events)
        return member

    def turn(self, timeout=0.0):
        for fd, events in self.epoll.poll(timeout, 4096):
            member = self.members.get(fd)
            if member is None:
                continue
            if events & select.EPOLLOUT and member.out:
                member.write()
            if events & (select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR | select.EPOLLRDHUP):
                member.read()

    def wait(self, done, what, seconds=None):
        """Turns until done(); AssertionError when that takes too long."""
        deadline = time.monotonic() + (PATIENCE if seconds is None else seconds)
        while not done():
            assert time.monotonic() < deadline, f"not in time: {what() if callable(what) else what}"
            self.turn(0.01)

    def wait_each(self, members, done, what, seconds=None):
        """Until done(member) was true of each; it must stay true."""
        left = list(members)

        def all_done():
            while left and done(left[-1]):
                left.pop()
            return not left

        self.wait(all_done, lambda: f"{what}; {len(left)} are missing, one has {bytes(left[-1].got[-200:])}", seconds)

    def sleep(self, seconds):
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.turn(min(left, 0.05))

    def close(self, reset=False):
        for member in list(self.members.values()):
            member.close(reset)
        self.epoll.close()


def talk(address, data, until, seconds=None):
    """One connection that says this and listens until until(what it got) or the close."""
    with Crowd() as crowd:
        member = crowd.add(address, data)
        crowd.wait(lambda: member.ended or until(member.got), lambda: f"an answer; it has {bytes(member.got[-200:])}", seconds)
        return bytes(member.got)


def request(address, method, path, body=b"", headers=()):
    """One HTTP request on a connection of its own: status, headers, body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: b", "Connection: close", f"Content-Length: {len(body)}", *headers]
    got = talk(address, "\r\n".join([*lines, "", ""]).encode() + body, lambda _: False)
    head, _, rest = got.partition(b"\r\n\r\n")
    return int(head.split(b" ", 2)[1]), head.decode().lower(), rest


class Pair:
    """A publisher and a subscriber beside a storm; how late each second of theirs was, and whether all of it arrived."""

    def __init__(self, address, rate=500, size=128, subscribers=1, more=()):
        self.seconds = []  # (monotonic time of its end, p99 and p50 in ms)
        args = ["--rate", rate, "--subscribers", subscribers, "--bytes", size, "--warmup", 0, "--duration", 80_000]
        self.process = subprocess.Popen(
            [str(x) for x in (LOAD, *args, "--drain", PATIENCE, "--quiet", "--json", "--jsonl", "-", *more, address)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.result = None
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            said = json.loads(line)
            if "bench" in said:
                self.result = said
            elif said["p99_ns"] > 0:
                self.seconds.append((time.monotonic(), said["p99_ns"] / 1e6, said["p50_ns"] / 1e6))

    def late_ms(self, spans):
        """p99 of each second of which at least half lies within one of these (begin, end)."""
        return [p99 for at, p99, _ in self.seconds if any(min(at, end) - max(at - 1, begin) >= 0.5 for begin, end in spans)]

    def finish(self):
        """Nothing of theirs was lost, doubled, damaged or out of order."""
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(at_most(30))
        finally:
            self.kill()
        self.reader.join(PATIENCE)
        said = self.process.stderr.read()
        assert code == 0, f"the pair beside the storm: {said}"
        assert self.result["errors"] == 0 and self.result["delivered"] > 0, self.result
        return self.result

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def median(values):
    return statistics.median(values) if values else float("nan")


def free_port():
    """A port that nobody uses, below those that the kernel gives to clients."""
    for port in range(20_000 + os.getpid() % 10_000, 32_000):
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    raise AssertionError("no port is free")
