"""MQTT by hand: packets as bytes, and a client that does just what it is told."""

import socket
import struct

LEVELS = {4: "3.1.1", 5: "5.0"}
SECONDS = 10


def unhex(text):
    """Hexadecimal digits, and 'text' between apostrophes."""
    out, quoted = b"", False
    for part in text.split("'"):
        out += part.encode() if quoted else bytes.fromhex(part)
        quoted = not quoted
    return out


def number(n):
    out = b""
    while True:
        n, low = divmod(n, 128)
        out += bytes([low | (0x80 if n else 0)])
        if not n:
            return out


def string(text):
    data = text.encode() if isinstance(text, str) else text
    return struct.pack(">H", len(data)) + data


def packet(first, *parts):
    body = b"".join(parts)
    return bytes([first]) + number(len(body)) + body


def properties(level, data=b""):
    return number(len(data)) + data if level == 5 else b""


def connect(level=4, identifier="", clean=True, keep_alive=0, will=None, user=None, password=None, said=b"", flags=0):
    """will: (topic, payload, flags of it, its properties)."""
    flags |= 2 if clean else 0
    payload = string(identifier)
    if will:
        topic, message, will_flags, will_properties = will
        flags |= 4 | will_flags
        payload += properties(level, will_properties) + string(topic) + string(message)
    if user is not None:
        flags |= 0x80
        payload += string(user)
    if password is not None:
        flags |= 0x40
        payload += string(password)
    head = string("MQTT") + bytes([level, flags]) + struct.pack(">H", keep_alive)
    return packet(0x10, head, properties(level, said), payload)


def publish(level, topic, payload=b"", qos=0, retain=False, dup=False, identifier=1, said=b""):
    first = 0x30 | (8 if dup else 0) | qos << 1 | (1 if retain else 0)
    head = string(topic) + (struct.pack(">H", identifier) if qos else b"")
    return packet(first, head, properties(level, said), payload)


def subscribe(level, *filters, identifier=1, options=0, said=b""):
    body = b"".join(string(f) + bytes([options]) for f in filters)
    return packet(0x82, struct.pack(">H", identifier), properties(level, said), body)


def unsubscribe(level, *filters, identifier=1):
    return packet(0xA2, struct.pack(">H", identifier), properties(level), b"".join(map(string, filters)))


PING = b"\xc0\x00"
PONG = b"\xd0\x00"


class Client:
    """A connection to a broker, "host:port"."""

    def __init__(self, address, level=4, data=None, **said):
        host, port = address.rsplit(":", 1)
        self.level = level
        self.buffer = b""
        self.closed = False
        self.socket = socket.create_connection((host, int(port)), SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if data is None:
            self.send(connect(level, **said))
            self.connack = self.next()
            assert self.connack and self.connack[0] == 0x20 and self.connack[3] == 0, self.connack
        else:
            self.send(data)

    def send(self, data):
        try:
            self.socket.sendall(data)
        except (ConnectionResetError, BrokenPipeError):
            pass

    def fill(self):
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
        self.closed |= not data
        self.buffer += data

    def next(self):
        """The next packet; None: the broker has closed."""
        while True:
            size, shift, at = 0, 0, 1
            while at < len(self.buffer):
                size |= (self.buffer[at] & 0x7F) << shift
                shift += 7
                at += 1
                if not self.buffer[at - 1] & 0x80:
                    if len(self.buffer) >= at + size:
                        whole, self.buffer = self.buffer[: at + size], self.buffer[at + size :]
                        return whole
                    break
            if self.closed:
                assert not self.buffer, f"it closed within a packet: {self.buffer}"
                return None
            self.fill()

    def reaction(self, data=b""):
        """Everything that comes of it, up to what a ping is answered, or to the close (None)."""
        self.send(data + PING)
        packets = []
        while (p := self.next()) not in (None, PONG):
            packets.append(p)
        return packets + ([None] if p is None else [])

    def message(self):
        """The next packet, which is a PUBLISH: (flags, topic, properties, payload)."""
        p = self.next()
        assert p and p[0] >> 4 == 3, p
        at = 1
        while p[at] & 0x80:
            at += 1
        body = p[at + 1 :]
        size = struct.unpack(">H", body[:2])[0]
        topic, rest = body[2 : 2 + size].decode(), body[2 + size :]
        said = b""
        if self.level == 5:
            length, shift, at = 0, 0, 0
            while True:
                length |= (rest[at] & 0x7F) << shift
                at, shift = at + 1, shift + 7
                if not rest[at - 1] & 0x80:
                    break
            said, rest = rest[at : at + length], rest[at + length :]
        return p[0] & 15, topic, said, rest

    def subscribe(self, *filters, options=0):
        """All are granted; returns itself."""
        self.send(subscribe(self.level, *filters, options=options))
        suback = self.next()
        assert suback and suback[0] == 0x90 and suback.endswith(bytes(len(filters))), suback
        return self

    def rest(self):
        """What comes up to the broker's close."""
        return list(iter(self.next, None))

    def close(self):
        self.socket.close()
