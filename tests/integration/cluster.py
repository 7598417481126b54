"""nats-servers of a test's own: one, or a cluster of them that know each other."""

import json
import signal
import socket
import subprocess
import time
import urllib.request

from harness import PATIENCE, at_most


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """One nats-server; it keeps its ports when it is started again."""

    def __init__(self, directory, name, options=(), routes=()):
        self.name, self.directory, self.options, self.routes = name, directory / name, options, routes
        self.directory.mkdir()
        self.port, self.monitor, self.route = free_port(), free_port(), free_port()
        self.process = None

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def start(self):
        cluster = ["--cluster", f"nats://127.0.0.1:{self.route}", "--cluster_name", "test"]
        if self.routes:
            cluster += ["--routes", ",".join(f"nats://127.0.0.1:{s.route}" for s in self.routes)]
        with open(self.directory / "log", "ab") as log:
            self.process = subprocess.Popen(
                ["nats-server", "-a", "127.0.0.1", "-p", str(self.port), "-m", str(self.monitor), "-n", self.name,
                 *(["-sd", str(self.directory / "js")] if "-js" in self.options else []),
                 *(cluster if self.routes else []), *self.options],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return self
            except OSError:
                assert time.monotonic() < deadline, f"{self.name} has not started"
                time.sleep(0.05)

    def send(self, number):
        self.process.send_signal(number)

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait(PATIENCE)
            self.process = None

    def varz(self, path="varz"):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor}/{path}", timeout=PATIENCE) as r:
            return json.load(r)

    def subjects(self):
        """What its clients have subscribed to, each as often as it is."""
        connections = self.varz("connz?subs=1")["connections"]
        return sorted(subject for c in connections for subject in c.get("subscriptions_list", []))


class Client:
    """A plain NATS client, just enough of one."""

    def __init__(self, server):
        self.socket = socket.create_connection(("127.0.0.1", server.port), at_most(5))
        self.buffer = b""
        self.line()
        self.say('CONNECT {"verbose":false,"headers":true}')
        self.flush()

    def say(self, *lines):
        self.socket.sendall(b"".join((x.encode() if isinstance(x, str) else x) + b"\r\n" for x in lines))

    def line(self):
        while b"\r\n" not in self.buffer:
            data = self.socket.recv(65536)
            assert data, "the server has closed"
            self.buffer += data
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def flush(self):
        self.say("PING")
        while self.line() != b"PONG":
            pass

    def subscribe(self, subject):
        self.say(f"SUB {subject} 1")
        self.flush()

    def publish(self, subject, payload):
        self.say(f"PUB {subject} {len(payload)}", payload)

    def message(self):
        """The next one: subject, headers, payload."""
        while (words := self.line().split())[0] not in (b"MSG", b"HMSG"):
            if words[0] == b"PING":
                self.say("PONG")
        total, head = int(words[-1]), int(words[-2]) if words[0] == b"HMSG" else 0
        while len(self.buffer) < total + 2:
            self.buffer += self.socket.recv(65536)
        body, self.buffer = self.buffer[:total], self.buffer[total + 2 :]
        return words[1].decode(), body[:head], body[head:]

    def close(self):
        self.socket.close()


class Cluster:
    """Servers, and what goes wrong with them."""

    def __init__(self, directory, n=1, options=()):
        self.servers = [Server(directory, f"n{i + 1}", options) for i in range(n)]
        for server in self.servers:
            server.routes = [s for s in self.servers if s is not server]
        for server in self.servers:
            server.start()

    def addresses(self):
        return [f"nats://{s.address}" for s in self.servers]

    def close(self):
        for server in self.servers:
            if server.process is not None:
                server.send(signal.SIGCONT)
            server.kill()
