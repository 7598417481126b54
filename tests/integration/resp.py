"""A client of RESP that knows nothing but its framing, and the real server beside the broker."""

import socket
import subprocess
import time

from harness import PATIENCE


def command(*words):
    """An array of bulk strings."""
    words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Closed(Exception):
    pass


class Resp:
    """A blocking connection; every wait is bounded."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)
        return self

    def say(self, *words):
        return self.send(command(*words))

    def more(self):
        data = self.socket.recv(1 << 16)
        if not data:
            raise Closed(self.buffer)
        self.buffer += data

    def line(self):
        while b"\r\n" not in self.buffer:
            self.more()
        line, self.buffer = self.buffer.split(b"\r\n", 1)
        return line

    def reply(self):
        """(type, value) for what is simple, bytes for a bulk string, None, a list for the others."""
        line = self.line()
        kind, rest = line[:1], line[1:]
        if kind in b"+-":
            return line
        if kind == b":":
            return int(rest)
        if kind in b"$=":
            if rest == b"-1":
                return None
            while len(self.buffer) < int(rest) + 2:
                self.more()
            text, end, self.buffer = self.buffer[: int(rest)], self.buffer[int(rest) :][:2], self.buffer[int(rest) + 2 :]
            assert end == b"\r\n"
            return text
        if kind in b"*>":
            return [self.reply() for _ in range(int(rest))]
        if kind == b"%":
            return {self.reply(): self.reply() for _ in range(int(rest))}
        if kind == b"_":
            return None
        raise AssertionError(f"no reply: {line!r}")

    def ask(self, *words):
        return self.say(*words).reply()

    def rest(self):
        """All that comes until the end."""
        try:
            while True:
                self.more()
        except (Closed, ConnectionResetError):
            data, self.buffer = self.buffer, b""
            return data

    def silent(self, seconds=0.1):
        """Whether nothing comes for so long."""
        if self.buffer:
            return False
        self.socket.settimeout(seconds)
        try:
            self.more()
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(PATIENCE)
        return False


class RedisServer:
    """Debian's redis-server, in a directory of its own, on a port that was free."""

    def __init__(self, directory):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"127.0.0.1:{port}"
        self.process = subprocess.Popen(
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                Resp(self.address).socket.close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, "redis-server does not start"
                time.sleep(0.02)

    def close(self):
        self.process.kill()
        self.process.wait()
