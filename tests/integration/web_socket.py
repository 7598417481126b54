"""A WebSocket client that says any byte it is told to, right or wrong."""

import base64
import contextlib
import hashlib
import os
import struct

from harness import PATIENCE, dial

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def frame(opcode, payload=b"", fin=True, rsv=0, mask=b"\x11\xfe\x80\x3c", length=None):
    """As a client writes it; mask None: as it must not."""
    payload = payload.encode() if isinstance(payload, str) else payload
    n = len(payload)
    out = bytes([(0x80 if fin else 0) | rsv << 4 | opcode])
    masked = 0x80 if mask is not None else 0
    if length is None:
        length = 0 if n < 126 else 2 if n < 65536 else 8
    if length == 0:
        out += bytes([masked | n])
    elif length == 2:
        out += bytes([masked | 126]) + struct.pack(">H", n)
    else:
        out += bytes([masked | 127]) + struct.pack(">Q", n)
    if mask is None:
        return out + payload
    repeated = int.from_bytes((mask * (n // 4 + 1))[:n], "big")
    return out + mask + (int.from_bytes(payload, "big") ^ repeated).to_bytes(n, "big")


class WebSocket:
    """Blocking, every wait bounded. Checks of every frame that it is the server's: whole, not masked, as short as it
    can be."""

    def __init__(self, broker, path, index=0, headers=(), status=101, behind=b"", **dialling):
        self.socket = dial(broker.address(index), **dialling)
        self.socket.settimeout(PATIENCE)
        self.buffer = b""
        key = base64.b64encode(os.urandom(16))
        fields = {
            "Host": broker.address(index), "Connection": "keep-alive, Upgrade", "Upgrade": "websocket",
            "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key.decode(), **dict(headers),
        }
        lines = [f"GET {path} HTTP/1.1", *(f"{k}: {v}" for k, v in fields.items() if v is not None), "", ""]
        self.socket.sendall("\r\n".join(lines).encode() + behind)
        head = self.until(b"\r\n\r\n").decode().split("\r\n")
        self.status = int(head[0].split(" ")[1])
        self.fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in head[1:-2])}
        assert self.status == status, head
        if status == 101:
            accept = base64.b64encode(hashlib.sha1(key + GUID).digest()).decode()
            assert self.fields["sec-websocket-accept"] == accept
            assert self.fields["upgrade"].lower() == "websocket" and self.fields["connection"].lower() == "upgrade"

    def fill(self):
        """False: the broker has closed."""
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        return bool(data)

    def take(self, n):
        while len(self.buffer) < n:
            assert self.fill(), f"ended with {self.buffer[:200]}"
        out, self.buffer = self.buffer[:n], self.buffer[n:]
        return out

    def until(self, mark):
        while mark not in self.buffer:
            assert self.fill(), f"ended with {self.buffer[-300:]}"
        return self.take(self.buffer.index(mark) + len(mark))

    def send_bytes(self, data):
        self.socket.sendall(data)
        return self

    def send(self, payload, opcode=None, **options):
        if opcode is None:
            opcode = TEXT if isinstance(payload, str) else BINARY
        return self.send_bytes(frame(opcode, payload, **options))

    def frame(self):
        """The next one: opcode and payload."""
        first, n = self.take(2)
        assert first & 0xF0 == 0x80 and n < 128
        if n == 126:
            n = struct.unpack(">H", self.take(2))[0]
            assert n > 125
        elif n == 127:
            n = struct.unpack(">Q", self.take(8))[0]
            assert n > 65535
        assert first & 0xF < 8 or n <= 125
        return first & 0xF, self.take(n)

    def message(self):
        """The next message, as str or bytes; pings on the way are answered."""
        while True:
            opcode, payload = self.frame()
            if opcode == PING:
                self.send(payload, PONG)
                continue
            assert opcode in (TEXT, BINARY), (opcode, payload)
            return payload.decode() if opcode == TEXT else payload

    def messages(self, n):
        return [self.message() for _ in range(n)]

    def closed(self):
        """The code and reason that the broker closes with, which it then does."""
        while True:
            opcode, payload = self.frame()
            if opcode == CLOSE:
                break
        # It may have gone by now.
        with contextlib.suppress(OSError):
            self.socket.shutdown(1)
        while self.fill():
            pass
        assert self.buffer == b"", self.buffer
        return (int.from_bytes(payload[:2], "big"), payload[2:].decode()) if payload else None

    def abort(self):
        self.socket.close()
