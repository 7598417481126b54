"""The HTTP front door over real sockets: every row of the contract, and what must be refused."""

import base64
import gzip
import json
import os
import re
import socket
import subprocess
import time

import pytest

from harness import FACTOR, PATIENCE, TEST_SECONDS, dial


HTTP = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}


class Client:
    """One HTTP/1.1 connection, blocking, with every wait bounded."""

    def __init__(self, broker, index=0):
        self.socket = dial(broker.address(index))
        self.socket.settimeout(PATIENCE)
        self.buffer = b""
        self.ended = False

    def send(self, data):
        self.socket.sendall(data.encode() if isinstance(data, str) else data)
        return self

    def fill(self):
        """False: the broker has closed."""
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            data = b""
        self.buffer += data
        self.ended = not data
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

    def head(self):
        lines = self.until(b"\r\n\r\n").decode().split("\r\n")[:-2]
        version, status, _ = lines[0].split(" ", 2)
        assert version == "HTTP/1.1"
        fields = {}
        for line in lines[1:]:
            name, value = line.split(": ", 1)
            assert name.lower() not in fields, lines
            fields[name.lower()] = value
        assert re.fullmatch(r"\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT", fields["date"])
        return int(status), fields

    def answer(self, head_only=False):
        status, fields = self.head()
        length = int(fields.get("content-length", 0))
        body = b"" if head_only or status in (204, 304) else self.take(length)
        return Answer(status, fields, body)

    def request(self, method, target, body=None, **fields):
        lines = [f"{method} {target} HTTP/1.1", "Host: broker"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        if body is not None:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join([*lines, "", ""]).encode() + (body or b""))
        return self

    def ask(self, method, target, body=None, **fields):
        return self.request(method, target, body, **fields).answer(method == "HEAD")

    def chunk(self):
        size = int(self.until(b"\r\n"), 16)
        data = self.take(size)
        assert self.take(2) == b"\r\n"
        return data

    def event(self):
        """The next event as a list of its lines."""
        return self.chunk().decode().removesuffix("\n\n").split("\n")

    def rest(self):
        while self.fill():
            pass
        out, self.buffer = self.buffer, b""
        return out

    def close(self):
        self.socket.close()


class Answer:
    def __init__(self, status, fields, body):
        self.status, self.fields, self.body = status, fields, body

    @property
    def json(self):
        assert self.fields["content-type"] == "application/json"
        return json.loads(self.body)

    def error(self, status, text):
        assert (self.status, self.json) == (status, {"error": text}), (self.status, self.body)
        return self


@pytest.fixture
def open(start, request):
    """A broker that speaks both protocols, and connections to it."""

    def start_with(**config):
        broker = start(**{"listen": HTTP, "reactors": 2, **config})

        def connect(index=0):
            client = Client(broker, index)
            request.addfinalizer(client.close)
            return client

        broker.http = connect
        return broker

    return start_with


def events(client, target, **fields):
    status, head = client.request("GET", target, Accept="text/event-stream", **fields).head()
    assert (status, head["content-type"]) == (200, "text/event-stream")
    assert head["transfer-encoding"] == "chunked" and head["cache-control"] == "no-store"
    assert head["x-accel-buffering"] == "no"
    assert client.event()[0].startswith("retry: ")
    return client


def publish(client, topic, body, **fields):
    answer = client.ask("POST", f"/publish/{topic}", body, **fields)
    assert answer.status == 200, answer.body
    return answer.json["id"]


# --- publish and subscribe --------------------------------------------------------------------------


def test_a_published_message_gets_its_id_and_reaches_subscribers_of_every_format(open):
    broker = open()
    line = broker.subscribe("news")
    sse = events(broker.http(), "/subscribe/news")
    raw = broker.http()
    assert raw.request("GET", "/subscribe/news").head()[1]["content-type"] == "application/octet-stream"
    answer = broker.http().ask("POST", "/publish/news", b"hello")
    assert answer.status == 200 and answer.json["topic"] == "news"
    epoch, seq = answer.json["id"].split(":")
    assert re.fullmatch("[0-9a-f]{16}", epoch) and seq == "1"
    assert line.take(1) == [b"hello"]
    assert sse.event() == [f"id: {epoch}:1", "data: hello"]
    assert raw.chunk() == b"hello"
    broker.publish("news", b"over", b"", b"lines")
    assert line.take(3) == [b"over", b"", b"lines"]
    assert [sse.event()[-1] for _ in range(3)] == ["data: over", "data: ", "data: lines"]
    assert [raw.chunk(), raw.chunk()] == [b"over", b"lines"]
    # An empty chunk would end the body: an empty message has none, and that is counted.
    broker.stop(published=4, matched=12, delivered=11, dropped_unencodable=1)


def test_names_are_percent_encoded(open):
    broker = open()
    line = broker.subscribe("a/b.c\N{EURO SIGN}")
    answer = broker.http().ask("POST", "/publish/a%2Fb.c%E2%82%AC", b"x")
    assert answer.json["topic"] == "a/b.c\N{EURO SIGN}"
    assert line.take(1) == [b"x"]
    for bad in ("a%2", "a%00b", "a*", "", "a..b", "x" * 256, "a/b"):
        broker.http().ask("POST", f"/publish/{bad}", b"x").error(*((404, "no such page") if not bad else (400, "bad topic")))


def test_bytes_that_are_no_text_are_base64(open):
    broker = open()
    sse = events(broker.http(), "/subscribe/bin")
    client = broker.http()
    for body in (b"\xff\x00", b"cr\rhere", b"two\nlines", "gr\u00fc\u00df".encode(), b""):
        publish(client, "bin", body)
    assert sse.event()[0] == "event: base64"
    got = sse.event()
    assert base64.b64decode(got[2].removeprefix("data: ")) == b"cr\rhere"
    assert sse.event()[1:] == ["data: two", "data: lines"]
    assert sse.event()[1:] == ["data: gr\u00fc\u00df"]
    assert sse.event()[1:] == ["data: "]


def test_large_messages_pass_both_ways(open):
    broker = open(limits={"message_bytes": "4M"})
    sse, raw = events(broker.http(), "/subscribe/big"), broker.http()
    raw.request("GET", "/subscribe/big").head()
    client = broker.http()
    for size in (16 << 10, (16 << 10) - 1, 1 << 20, 4 << 20):
        body = b"x" * size
        publish(client, "big", body)
        assert raw.chunk() == body
        assert sse.event()[1] == "data: " + body.decode()
    assert client.ask("GET", "/topic/big/4").body == body
    client.ask("POST", "/publish/big", b"x" * ((4 << 20) + 1)).error(413, "message too large")


def test_bodies_of_known_length_arrive_however_they_are_cut(open):
    broker = open(limits={"message_bytes": "4M"}, reactors=2)
    client, n = broker.http(), 0
    for size in (16383, 16384, 16385, 2 * 16384 + 1, 65536 + 16384, 300_000, 3 << 20):
        # The head alone, a piece of the body with it, all of it, and the next request behind it at once.
        for cuts in ((0,), (1, 16384), (size // 2, size - 1), (size,), ()):
            body = bytes((n + i * 7) % 251 for i in range(1000)) * (size // 1000) + b"e" * (size % 1000)
            head = b"POST /publish/cut HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n" % size
            both = head + body + b"GET /topic/cut/last HTTP/1.1\r\nHost: b\r\n\r\n"
            at = 0
            for cut in cuts:
                client.send(both[at:len(head) + cut])
                at = len(head) + cut
                time.sleep(0.002)
            client.send(both[at:])
            n += 1
            assert client.answer().json["id"].endswith(f":{n}")
            assert client.answer().body == body
    # One that goes away in the middle of it, and what it announced, cost nothing.
    before = broker.memory()
    gone = [broker.http() for _ in range(50)]
    for i, other in enumerate(gone):
        other.send(b"POST /publish/cut HTTP/1.1\r\nHost: b\r\nContent-Length: 4194304\r\n\r\n" + b"x" * (i % 2) * 20000)
    broker.eventually(connections=51)
    assert broker.memory() - before < (16 << 20) * FACTOR
    for other in gone:
        other.socket.close()
    broker.eventually(connections=1)
    assert client.ask("GET", "/topic/cut/last").body == body


def test_chunked_and_expected_bodies(open):
    broker = open()
    client = broker.http()
    client.send("POST /publish/c HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n"
                "3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: x\r\n\r\n")
    assert client.answer().status == 200
    client.send("POST /publish/c HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert client.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    client.send("xyz")
    assert client.answer().status == 200
    assert client.ask("GET", "/topic/c/1").body == b"abcde"
    assert client.ask("GET", "/topic/c/2").body == b"xyz"


def test_requests_may_be_pipelined_and_split_anywhere(open):
    broker = open(reactors=3)
    client = broker.http()
    n = 200
    client.send(b"".join(b"POST /publish/p%d HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\n%02d" % (i % 7, i % 100)
                         for i in range(n)) + b"GET /topic/p0/last HTTP/1.1\r\nHost: b\r\n\r\n")
    for i in range(n):
        answer = client.answer()
        assert answer.json["topic"] == f"p{i % 7}" and answer.json["id"].endswith(f":{i // 7 + 1}")
    assert client.answer().body == b"96"
    slow = broker.http()
    for byte in b"POST /publish/slow HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\nok":
        slow.send(bytes([byte]))
    assert slow.answer().status == 200
    # Half-closed behind its last request, every answer still comes.
    last = broker.http().send("GET /health HTTP/1.1\r\nHost: b\r\n\r\nGET /topic/slow/last HTTP/1.1\r\nHost: b\r\n\r\n")
    last.socket.shutdown(socket.SHUT_WR)
    assert last.answer().body == b"ok\n" and last.answer().body == b"ok" and last.rest() == b""


def test_publishing_faster_than_subscribers_are_served_slows_the_publisher(open):
    patient = {"backlog_bytes": "256K", "backlog_seconds": 60}
    broker = open(reactors=3, topics=patient, engine={"lane_entries": 2, "turn_sends": 2})
    subscribers = [broker.subscribe("flood") for _ in range(20)]
    publisher = broker.http()
    n = 3000
    one = b"POST /publish/flood HTTP/1.1\r\nHost: b\r\nContent-Length: 1000\r\n\r\n"
    publisher.socket.setblocking(False)
    out, answers = b"".join(one + b"%06d" % i + b"." * 994 for i in range(n)), b""
    deadline = time.monotonic() + PATIENCE * 3
    while answers.count(b"HTTP/1.1 200 OK") < n:
        assert time.monotonic() < deadline, (len(out), answers[-300:])
        try:
            out = out[publisher.socket.send(out[:65536]) :] if out else out
        except BlockingIOError:
            pass
        try:
            answers += publisher.socket.recv(1 << 18)
        except BlockingIOError:
            pass
        broker.loop.turn()
    for subscriber in subscribers:
        assert [int(line[:6]) for line in subscriber.take(n)] == list(range(n))


def test_http_1_0_gets_what_it_can_read(open):
    broker = open()
    client = broker.http().send("GET /health HTTP/1.0\r\n\r\n")
    answer = client.answer()
    assert answer.fields["connection"] == "close" and client.rest() == b""
    sse = broker.http().send("GET /subscribe/old HTTP/1.0\r\nAccept: text/event-stream\r\n\r\n")
    head = sse.head()[1]
    assert "transfer-encoding" not in head and head["connection"] == "close"
    sse.until(b"\n\n")
    publish(broker.http(), "old", b"x")
    assert sse.until(b"\n\n").endswith(b":1\ndata: x\n\n")
    # No chunks: what is published, until the connection ends (RFC 9112, 6.3).
    stream = broker.http().send("GET /subscribe/old?last=1 HTTP/1.0\r\n\r\n")
    head = stream.head()[1]
    assert "transfer-encoding" not in head and head["content-type"] == "application/octet-stream"
    publish(broker.http(), "old", b"yz\n")
    assert stream.until(b"\n") == b"xyz\n"


def test_head_and_options(open):
    broker = open()
    client = broker.http()
    publish(client, "h", b"12345")
    answer = client.ask("HEAD", "/topic/h/1")
    assert answer.fields["content-length"] == "5" and answer.fields["etag"]
    answer = client.ask("HEAD", "/subscribe/h")
    assert answer.status == 200 and "content-length" not in answer.fields
    assert client.ask("OPTIONS", "/publish/h").fields["allow"] == "POST, PUT, OPTIONS"
    assert client.ask("OPTIONS", "*").status == 204
    assert client.ask("GET", "/publish/h").status == 405
    assert client.ask("DELETE", "/topic/h").fields["allow"] == "GET, HEAD, OPTIONS"
    client.ask("GET", "/nowhere").error(404, "no such page")


# --- replay -----------------------------------------------------------------------------------------


def test_replay_goes_on_without_gap_or_duplicate(open):
    broker = open(reactors=3)
    client = broker.http()
    ids = [publish(client, "r", b"%d" % i) for i in range(10)]
    by_header = events(broker.http(), "/subscribe/r", Last_Event_ID=ids[6])
    by_query = events(broker.http(), f"/subscribe/r?last_event_id={ids[6].replace(':', '%3A')}")
    by_count = events(broker.http(), "/subscribe/r?last=3")
    ids.append(publish(client, "r", b"10"))
    for sse in (by_header, by_query, by_count):
        for i in range(7, 11):
            assert sse.event() == [f"id: {ids[i]}", f"data: {i}"]
    raw = broker.http().request("GET", "/subscribe/r?last=2")
    raw.head()
    assert [raw.chunk(), raw.chunk()] == [b"9", b"10"]


def test_what_is_too_old_or_foreign_begins_with_a_gap(open):
    broker = open(topics={"history_messages": 5})
    client = broker.http()
    ids = [publish(client, "g", b"%d" % i) for i in range(10)]
    for wanted in (ids[2], "0123456789abcdef:9", "nonsense"):
        sse = events(broker.http(), "/subscribe/g", Last_Event_ID=wanted)
        assert sse.event() == ["event: gap", f"data: {ids[5]}"]
        assert sse.event() == [f"id: {ids[5]}", "data: 5"]
    sse = events(broker.http(), "/subscribe/g", Last_Event_ID=ids[4])
    assert sse.event() == [f"id: {ids[5]}", "data: 5"]


def test_a_quiet_event_stream_has_a_heartbeat_with_the_current_id(open):
    broker = open(http={"heartbeat_seconds": 1})
    sse = events(broker.http(), "/subscribe/quiet")
    ident = publish(broker.http(), "quiet", b"x")
    sse.event()
    assert sse.event() == [f"id: {ident}"]
    later = events(broker.http(), "/subscribe/quiet")
    assert later.event() == [f"id: {ident}"]
    publish(broker.http(), "quiet", b"y")
    while len(event := sse.event()) < 2:
        pass
    assert event[1] == "data: y"


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_whoever_is_cut_off_before_an_event_comes_back_where_the_stream_stood(open, version):
    """WHATWG HTML, 9.2.6: an id without data sets what an EventSource comes back with."""
    broker = open()

    def come(target, **fields):
        lines = [f"GET {target} HTTP/{version}", "Host: b", "Accept: text/event-stream"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items()]
        client = broker.http().send("\r\n".join([*lines, "", ""]))
        assert client.head()[0] == 200
        return client, re.search(rb"retry: 1000\nid: (\S+)\n\n", client.until(b"\n\n"))[1].decode()

    first, ident = come("/subscribe/e")
    assert ident.endswith(":0")
    first.close()
    one = publish(broker.http(), "e", b"one")
    assert one == ident.removesuffix("0") + "1"
    back, again = come("/subscribe/e", Last_Event_ID=ident)
    assert again == ident
    assert back.until(b"\n\n").endswith(f"id: {one}\ndata: one\n\n".encode())
    two = publish(broker.http(), "e", b"two")
    assert come("/subscribe/e")[1] == two
    assert come("/subscribe/e?last=1")[1] == one
    assert come(f"/subscribe/e?last_event_id={one}")[1] == one
    assert come("/subscribe/e", Last_Event_ID=two)[1] == two
    foreign, stands = come("/subscribe/e", Last_Event_ID="0000000000000001:7")
    assert stands == ident, "all that there is comes"
    assert b"event: gap\n" in foreign.until(b"\n\n")


# --- messages as resources --------------------------------------------------------------------------


def test_messages_are_cacheable_resources(open):
    broker = open(reactors=3, topics={"history_messages": 3})
    client = broker.http()
    client.ask("GET", "/topic/m").error(404, "no such topic")
    client.ask("GET", "/topic/m/last").error(404, "no such message")
    ids = [publish(client, "m", b"body %d" % i, Content_Type="text/x-test") for i in range(5)]
    answer = client.ask("GET", "/topic/m/4")
    assert (answer.status, answer.body) == (200, b"body 3")
    assert answer.fields["content-type"] == "text/x-test"
    assert answer.fields["etag"] == f'"{ids[3]}"'
    assert re.fullmatch(r"public, max-age=\d+, immutable", answer.fields["cache-control"])
    answer = client.ask("GET", "/topic/m/last")
    assert answer.body == b"body 4" and answer.fields["cache-control"] == "no-store"
    client.ask("GET", "/topic/m/2").error(404, "no such message")
    client.ask("GET", "/topic/m/0").error(404, "no such message")
    client.ask("GET", "/topic/m/9").error(404, "no such message")
    for name in "x", "04", "00", "+4", "4.0", "%34":
        client.ask("GET", f"/topic/m/{name}").error(404, "no such message")
    about = client.ask("GET", "/topic/m").json
    assert about["head"] == ids[4] and about["oldest"] == ids[2]
    assert (about["messages"], about["bytes"], about["subscribers"], about["publishers"]) == (3, 18, 0, 0)
    clients = [broker.subscribe("m") for _ in range(5)] + [broker.publisher("m")]
    # A subscriber has its OK when the topic's home knows it, a publisher when its own reactor does.
    broker.loop.wait(lambda: client.ask("GET", "/topic/m").json["publishers"] == 1, "the home knows the publisher")
    assert client.ask("GET", "/topic/m").json["subscribers"] == 5 and clients


def test_conditions_and_ranges(open):
    broker = open()
    client = broker.http()
    tag = f'"{publish(client, "c", b"0123456789")}"'
    answer = client.ask("GET", "/topic/c/1", If_None_Match=f'"other", W/{tag}')
    assert answer.status == 304 and answer.fields["etag"] == tag
    assert client.ask("GET", "/topic/c/1", If_None_Match='"other"').status == 200
    for field, content, part in (("bytes=2-4", b"234", "2-4"), ("bytes=8-", b"89", "8-9"), ("bytes=-3", b"789", "7-9"),
                                 ("bytes=5-99", b"56789", "5-9")):
        answer = client.ask("GET", "/topic/c/1", Range=field)
        assert (answer.status, answer.body, answer.fields["content-range"]) == (206, content, f"bytes {part}/10")
    answer = client.ask("GET", "/topic/c/1", Range="bytes=10-")
    assert answer.status == 416 and answer.fields["content-range"] == "bytes */10"
    assert client.ask("GET", "/topic/c/1", Range="bytes=0-1", If_Range=tag).status == 206
    assert client.ask("GET", "/topic/c/1", Range="bytes=0-1", If_Range='"x"').status == 200
    assert client.ask("HEAD", "/topic/c/1", Range="bytes=0-1").status == 200
    for wanted, status in ((tag, 200), (f'"x", {tag}', 200), ("*", 200), ('"x"', 412), (f"W/{tag}", 412)):
        answer = client.ask("GET", "/topic/c/1", If_Match=wanted, If_None_Match='"x"')
        assert (answer.status, answer.body) == (status, b"0123456789" if status == 200 else b""), wanted
    waiting = broker.http().request("GET", "/topic/c/2", If_Match=tag)
    broker.publish("c", b"line one", b"line two")
    assert waiting.answer().status == 412
    assert client.ask("GET", "/topic/c/3").body == b"line two"


def test_a_request_waits_for_a_message_that_is_soon_to_come(open):
    broker = open(reactors=3, http={"wait_seconds": round(max(2, FACTOR))})
    clients = [broker.http().request("GET", f"/topic/w/{n}") for n in (1, 2, 3, 4)]
    clients[3].answer().error(404, "no such message")
    publisher = broker.http()
    for n in (1, 2):
        publish(publisher, "w", b"%d" % n)
        assert clients[n - 1].answer().body == b"%d" % n
    clients[2].answer().error(503, "the message has not come in time")
    # The connection is still good.
    publish(publisher, "w", b"3")
    assert clients[2].ask("GET", "/topic/w/3").body == b"3"


def test_a_playlist_is_waited_for_by_version(open):
    broker = open(reactors=3)
    publisher, player = broker.http(), broker.http()
    publish(publisher, "live.m3u8", b"1.0", X_Version="1.0")
    assert player.ask("GET", "/topic/live.m3u8/last?_HLS_msn=1&_HLS_part=0").fields["x-version"] == "1.0"
    player.request("GET", "/topic/live.m3u8/last?_HLS_msn=2&_HLS_part=1")
    whole = broker.http().request("GET", "/topic/live.m3u8/last?_HLS_msn=2")
    publish(publisher, "live.m3u8", b"2.0", X_Version="2.0")
    publish(publisher, "live.m3u8", b"2.2", X_Version="2.2")
    assert player.answer().body == b"2.2"
    publish(publisher, "live.m3u8", b"3.0", X_Version="3.0")
    assert whole.answer().body == b"3.0"
    publisher.ask("POST", "/publish/live.m3u8", b"x", X_Version="a.b").error(400, "malformed X-Version")


def test_a_large_body_is_sent_whole_to_slow_readers(open):
    broker = open(limits={"message_bytes": "8M"}, topics={"history_bytes": "64M"})
    publish(broker.http(), "l", b"z" * (8 << 20))
    clients = [broker.http().request("GET", "/topic/l/1", Connection="close") for _ in range(4)]
    time.sleep(0.3)
    for client in clients:
        assert client.answer().body == b"z" * (8 << 20)
        assert client.rest() == b""


# --- objects, health --------------------------------------------------------------------------------


def test_objects_come_from_their_directory_only(open, tmp_path):
    root = tmp_path / "objects"
    (root / "deep").mkdir(parents=True)
    (root / "a.html").write_bytes(b"<p>")
    (root / "deep" / "b.m4s").write_bytes(b"x" * 100000)
    (tmp_path / "secret").write_text("secret")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "absolute").symlink_to(root / "a.html")
    (root / "away").symlink_to("..")
    (root / "deep" / "up").symlink_to("..")
    # As Kubernetes mounts a ConfigMap.
    (root / "..2026").mkdir()
    (root / "..2026" / "mounted.html").write_bytes(b"<p>mounted")
    (root / "..data").symlink_to("..2026")
    (root / "mounted.html").symlink_to("..data/mounted.html")
    os.mkfifo(root / "pipe")
    # The directory may be a link itself, as "current" of many releases is; what is in it may not lead out.
    (tmp_path / "current").symlink_to(root)
    broker = open(http={"objects_dir": str(tmp_path / "current")})
    client = broker.http()
    answer = client.ask("GET", "/object/a.html")
    assert answer.body == b"<p>" and answer.fields["content-type"].startswith("text/html")
    assert client.ask("GET", "/object/a.html", If_None_Match=answer.fields["etag"]).status == 304
    answer = client.ask("GET", "/object/deep/b.m4s", Range="bytes=1-50000")
    assert (answer.status, len(answer.body)) == (206, 50000)
    assert client.ask("HEAD", "/object/deep%2Fb.m4s").fields["content-length"] == "100000"
    assert client.ask("GET", "/object/mounted.html").body == b"<p>mounted"
    for path, why in (("link", "leads out"), ("absolute", "leads out"), ("away", "leads out"), ("deep/up", "leads back")):
        assert re.search(rf"WARN.*object {path} is left out: it {why}", broker.log())
    for bad in ("link", "absolute", "away/secret", "deep/up/a.html", "pipe", "../secret", "%2e%2e/secret", "..%2Fsecret", "deep", "deep/", "nothing", "/etc/passwd"):
        client.ask("GET", f"/object/{bad}").error(404, "no such object")
    # A mount is changed by another link in the place of the first.
    (root / "..2027").mkdir()
    (root / "..2027" / "mounted.html").write_bytes(b"<p>later")
    (root / "..new").symlink_to("..2027")
    (root / "..new").rename(root / "..data")
    (root / "a.html").write_bytes(b"<p>new")
    broker.send_signal(1)
    broker.says("reload: .* is in force")
    while client.ask("GET", "/object/a.html").body != b"<p>new":
        time.sleep(0.05)
    assert client.ask("GET", "/object/mounted.html").body == b"<p>later"


def test_health_and_figures(open):
    broker = open()
    client = broker.http()
    assert client.ask("GET", "/health").body == b"ok\n"
    assert client.ask("GET", "/ready").body == b"ok\n"
    publish(client, "f", b"x")
    text = client.ask("GET", "/metrics").body.decode()
    seen = set()
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            name, kind = line.split()[2:]
            assert name not in seen and (kind != "counter" or name.endswith("_total"))
            seen.add(name)
        elif not line.startswith("#"):
            name, value = re.fullmatch(r'(broker_\w+)(?:\{(?:\w+="[^"]*",?)+\})? (\S+)', line).groups()
            float(value)
            assert re.sub("_(bucket|sum|count)$", "", name) in seen or name in seen, line
    for n in range(2, 5):
        publish(client, f"f{n}", b"x")
        stats = client.ask("GET", "/stats.json").json
        assert sum(r["published"] for r in stats["reactors"]) == n, "of the moment of asking"
    assert len(stats["reactors"]) == 2 and stats["topics"] == []
    assert client.ask("HEAD", "/metrics").status == 200
    assert b"<!doctype html>" in client.ask("GET", "/").body


def test_promtool_has_no_complaint_about_the_metrics(open):
    broker = open()
    publish(broker.http(), "f", b"x")
    text = broker.http().ask("GET", "/metrics").body
    assert text.count(b"\n") > 100
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=TEST_SECONDS)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_sys_topics_are_the_brokers_own(open):
    broker = open()
    client = broker.http()
    sse = events(broker.http(), "/subscribe/$sys.stats")
    first = json.loads(sse.event()[1].removeprefix("data: "))
    for i in range(3):
        publish(client, "ranked", b"x")
    second = json.loads(sse.event()[1].removeprefix("data: "))
    assert len(first["reactors"]) == 2 and second["time_ms"] > first["time_ms"]
    assert [t["topic"] for t in second["topics"]] == ["ranked"]
    published = [sum(r["published"] for r in stats["reactors"]) for stats in (first, second)]
    assert published[1] - published[0] == 4, "three here and the first event itself"
    client.ask("POST", "/publish/$sys.stats", b"x").error(403, "not permitted")
    assert broker.say("PUBLISH $sys.stats\r\n").rest() == [b"ERROR not permitted"]


def test_the_page_can_be_switched_off(open):
    broker = open(http={"page": False})
    broker.http().ask("GET", "/").error(404, "no such page")


# --- safety -----------------------------------------------------------------------------------------


def test_pages_of_other_sites_are_refused_unless_allowed(open):
    broker = open(http={"allowed_origins": ["https://ok.example"]})
    for origin in ("https://no.example", "null", "https://ok.example.evil", "http://ok.example"):
        broker.http().ask("POST", "/publish/o", b"x", Origin=origin).error(403, "origin not allowed")
        client = broker.http().request("GET", "/subscribe/o", Accept="text/event-stream", Origin=origin)
        client.answer().error(403, "origin not allowed")
        assert "access-control-allow-origin" not in broker.http().ask("GET", "/health", Origin=origin).fields
    answer = broker.http().ask("POST", "/publish/o", b"x", Origin="https://ok.example")
    assert answer.status == 200 and answer.fields["access-control-allow-origin"] == "https://ok.example"
    assert answer.fields["vary"] == "Origin"
    answer = broker.http().ask("OPTIONS", "/publish/o", Origin="https://ok.example", Access_Control_Request_Method="POST")
    assert "POST" in answer.fields["access-control-allow-methods"]
    # What a cache keeps for other clients is no answer for an allowed page: it must know.
    for fields in ({}, {"Origin": "https://no.example"}):
        assert broker.http().ask("GET", "/topic/o/1", **fields).fields["vary"] == "Origin"
    sse = broker.http().request("GET", "/subscribe/o", Accept="text/event-stream", Origin="https://ok.example")
    assert sse.head()[1]["access-control-allow-origin"] == "https://ok.example"


def test_only_allowed_hosts_are_answered(open):
    broker = open(http={"allowed_hosts": ["broker"]})
    publish(broker.http(), "h", b"x")
    assert broker.http().ask("GET", "/topic/h").status == 200
    assert broker.http().send("GET /topic/h HTTP/1.1\r\nHost: BROKER:8080\r\n\r\n").answer().status == 200
    for evil in ("1.1\r\nHost: evil", "1.1\r\nHost:", "1.0", "1.1\r\nHost: 127.0.0.1"):
        broker.http().send(f"GET /topic/h HTTP/{evil}\r\n\r\n").answer().error(403, "host not allowed")
    # In a target that names a host, that host counts (RFC 9112, 3.2.2).
    other = "GET http://evil/topic/h HTTP/1.1\r\nHost: broker\r\n\r\n"
    broker.http().send(other).answer().error(403, "host not allowed")
    assert broker.http().send("GET http://broker/topic/h HTTP/1.1\r\nHost: evil\r\n\r\n").answer().status == 200


HOSTLESS = ["HTTP/1.1\r\nHost: 10.0.5.23:8080", "HTTP/1.1\r\nHost: [fd00::1]:8080", "HTTP/1.1\r\nHost:", "HTTP/1.0", "HTTP/1.1\r\nHost: evil"]


@pytest.mark.parametrize("host", HOSTLESS)
def test_probes_are_answered_whatever_host_they_ask(open, host):
    broker = open(http={"allowed_hosts": ["broker"]})
    probes = [("GET", "/health", 200), ("HEAD", "/ready", 200), ("GET", "/metrics", 200), ("OPTIONS", "/", 204)]
    for method, target, status in probes:
        answer = broker.http().send(f"{method} {target} {host}\r\n\r\n").answer(method == "HEAD")
        assert answer.status == status, (method, target, answer.body)


@pytest.mark.parametrize("mark", ["Origin: http://evil.example:8080", "Sec-Fetch-Site: same-origin", "Sec-Fetch-Mode: cors"])
def test_a_browser_is_answered_only_where_no_name_server_can_have_lied(open, mark):
    """DNS rebinding: the page of evil.example, which says that it has this broker's address, asks its own origin."""
    broker = open()
    publish(broker.http(), "h", b"x")

    def ask(target, host, *lines, method="GET", body=""):
        return broker.http().send("\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *lines, "", body])).answer()

    for target in ("/topic/h/1", "/topic/h/last", "/subscribe/h", "/metrics", "/stats.json", "/"):
        assert ask(target, "evil.example:8080", mark, "Accept: text/event-stream").status == 403, target
    assert ask("/publish/h", "evil.example:8080", mark, "Content-Length: 1", method="POST", body="x").status == 403
    for host in ("127.0.0.1:8080", "localhost:8080", "[::1]:8080", "10.1.2.3"):
        assert ask("/topic/h/1", host, mark).status == 200
    assert ask("/health", "evil.example", mark).status == 200
    assert ask("/topic/h/1", "evil.example").status == 200, "curl is no browser"


def test_a_page_of_the_brokers_own_may_publish(open):
    def post(broker, host, origin, *more, method="POST"):
        lines = [f"{method} /publish/own HTTP/1.1", f"Host: {host}", f"Origin: {origin}", "Content-Length: 1", *more]
        return broker.http().send("\r\n".join([*lines, "", "x"])).answer()

    broker = open()
    for host in ("127.0.0.1:8080", "[::1]:8080", "localhost", "LOCALHOST:8080"):
        for scheme in ("http", "https"):
            assert post(broker, host, f"{scheme}://{host}").status == 200
            assert post(broker, host, f"{scheme}://{host}", method="PUT").status == 200
    post(broker, "127.0.0.1:8080", "http://127.0.0.1:8081").error(403, "origin not allowed")
    post(broker, "127.0.0.1:8080", "http://127.0.0.1").error(403, "origin not allowed")
    post(broker, "127.0.0.1:8080", "http://evil.example", "X-Forwarded-Host: evil.example").error(403, "origin not allowed")
    post(broker, "evil.example", "http://evil.example").error(403, "origin not allowed")
    post(broker, "127.0.0.1", "null").error(403, "origin not allowed")
    head = "GET /subscribe/own HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\nAccept: text/event-stream\r\n\r\n"
    assert broker.http().send(head).head()[0] == 200
    named = open(http={"allowed_hosts": ["live.example"]})
    assert post(named, "live.example", "https://live.example").status == 200
    post(named, "live.example", "https://other.example").error(403, "origin not allowed")


PROXIED = [("Forwarded", "for=203.0.113.7"), ("X-Forwarded-For", "203.0.113.7"), ("X-Real-IP", "203.0.113.7"), ("Via", "1.1 edge")]


@pytest.mark.parametrize("name, value", [*PROXIED, ("X-Forwarded-Host", "live.example")])
def test_a_request_that_a_proxy_hands_on_is_not_local(open, name, value):
    broker = open()
    proxied = {name.replace("-", "_"): value}
    for target in ("/", "/stats.json", "/topic/$sys.stats", "/topic/$sys.stats/last", "/subscribe/$sys.stats"):
        assert broker.http().ask("GET", target, **proxied).status == 403
    assert broker.http().ask("GET", "/stats.json").status == 200
    assert broker.http().ask("GET", "/health", **proxied).status == 200
    everybodys = open(http={"page_local_only": False})
    assert everybodys.http().ask("GET", "/stats.json", **proxied).status == 200


def names(field):
    return {name.lower() for name in field.split(", ")}


def test_pages_of_allowed_origins_may_say_and_read_what_they_need(open):
    broker = open(http={"allowed_origins": ["https://ok.example"]})
    page = {"Origin": "https://ok.example"}
    allowed = names(broker.http().ask("OPTIONS", "/topic/o/1", **page).fields["access-control-allow-headers"])
    assert {"authorization", "content-encoding", "content-type", "last-event-id", "range", "x-version"} < allowed
    assert {"if-match", "if-none-match", "if-range"} < allowed
    assert broker.http().ask("OPTIONS", "/publish/o", **page).fields["access-control-allow-methods"] == "POST, PUT, OPTIONS"
    publish(broker.http(), "o", b"x")
    fields = broker.http().ask("GET", "/topic/o/1", **page).fields
    assert {"etag", "content-range", "x-version", "x-gap"} < names(fields["access-control-expose-headers"])
    assert fields["access-control-allow-credentials"] == "true"
    assert fields["access-control-allow-origin"] == "https://ok.example"
    for other in ({}, {"Origin": "https://no.example"}):
        fields = broker.http().ask("OPTIONS", "/topic/o/1", **other).fields
        assert not any(name.startswith("access-control") for name in fields)


def test_nothing_is_sniffed(open, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    broker = open(http={"objects_dir": str(tmp_path)})
    publish(broker.http(), "n", b"var secret = 1")
    for target in ("topic/n/1", "topic/n/last", "topic/n", "topic/n/99", "stats.json", "metrics", "health", "nothing", "", "object/a.txt"):
        for method in ("GET", "HEAD", "OPTIONS", "DELETE"):
            assert broker.http().ask(method, f"/{target}").fields["x-content-type-options"] == "nosniff", target
    for accept in ("*/*", "text/event-stream"):
        head = broker.http().request("GET", "/subscribe/n", Accept=accept).head()
        assert head[1]["x-content-type-options"] == "nosniff"
    assert broker.http().send("GET /a b HTTP/1.1\r\n\r\n").answer().fields["x-content-type-options"] == "nosniff"


def test_put_publishes_as_post_does(open):
    broker = open()
    client = broker.http()
    assert client.ask("PUT", "/publish/p", b"one").json["id"].endswith(":1")
    client.send("PUT /publish/p HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\ntwo\r\n0\r\n\r\n")
    assert client.answer().json["id"].endswith(":2")
    assert client.ask("GET", "/topic/p/2").body == b"two"
    broker.http().ask("PUT", "/publish/p", b"x", Origin="https://no.example").error(403, "origin not allowed")
    assert broker.http().ask("PUT", "/topic/p/1", b"x").status == 405


@pytest.mark.parametrize("protocols", [["line", "http"], ["http"]])
def test_empty_lines_before_a_request_are_skipped(open, protocols):
    broker = open(listen={"main": {"address": "127.0.0.1:0", "protocols": protocols}})
    request = "\r\n\r\nGET /health HTTP/1.1\r\nHost: b\r\n\r\n"
    assert broker.http().send(request).answer().status == 200
    for piece in ("\r", "\r\n", "\r\n\r\nG"):
        client = broker.http().send(piece)
        time.sleep(0.05)
        assert client.send(request.removeprefix(piece.removesuffix("G"))[piece.endswith("G") :]).answer().status == 200
    client = broker.http().send("POST /publish/x HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\n\r\nx" + request)
    assert client.answer().status == client.answer().status == 200


@pytest.mark.parametrize("protocols", [["line", "http"], ["http"]])
def test_a_connection_that_was_opened_ahead_hears_no_words_of_lines(open, protocols):
    seconds = round(max(1, FACTOR))
    listen = {"main": {"address": "127.0.0.1:0", "protocols": protocols}}
    broker = open(listen=listen, limits={"handshake_seconds": seconds})
    silent = broker.http().rest()
    assert silent == b"" if "line" in protocols else silent.startswith(b"HTTP/1.1 408 ")
    silent = [broker.http() for _ in range(4)]
    broker.http().ask("GET", "/health")
    broker.send_signal(15)
    assert [client.rest() for client in silent] == [b""] * 4
    broker.finish()


def test_lists_in_several_lines_are_one_and_no_weight_is_no(open):
    broker = open()
    publish(broker.http(), "l", b"x")
    tag = broker.http().ask("GET", "/topic/l/1").fields["etag"]
    for lines, status in (
        (f'If-None-Match: "a"\r\nIf-None-Match: W/{tag}, "b"', 304),
        (f'If-None-Match: {tag}\r\nIf-None-Match: "b"', 304),
        (f'If-None-Match: "a, {tag[1:]}', 200),
        (f'If-Match: "a"\r\nX: y\r\nIf-Match: {tag}', 200),
        (f'If-Match: "a"\r\nIf-Match: W/{tag}', 412),
        ("If-Match:", 412),
    ):
        for target in ("/topic/l/1", "/topic/l/last"):
            request = f"GET {target} HTTP/1.1\r\nHost: b\r\n{lines}\r\n\r\n"
            assert broker.http().send(request).answer().status == status, lines
    for lines, kind in (
        ("Accept: text/html\r\nAccept: text/event-stream", "text/event-stream"),
        ("Accept: text/event-stream\r\nAccept: text/html", "text/event-stream"),
        ("Accept: text/event-stream;q=0, */*", "application/octet-stream"),
        ("Accept: text/event-stream; q=0.0\r\nAccept: */*", "application/octet-stream"),
    ):
        client = broker.http().send(f"GET /subscribe/l HTTP/1.1\r\nHost: b\r\n{lines}\r\n\r\n")
        assert client.head()[1]["content-type"] == kind, lines


def test_the_coding_of_a_message_is_kept_with_it(open):
    broker = open(http={"allowed_origins": ["https://ok.example"]})
    body = gzip.compress(b"#EXTM3U\n")
    publish(broker.http(), "z", body, Content_Encoding="gzip", Content_Type="application/vnd.apple.mpegurl", X_Version="1")
    for target in ("/topic/z/1", "/topic/z/last", "/topic/z/last?_HLS_msn=1"):
        answer = broker.http().ask("GET", target, Accept_Encoding="br, gzip")
        assert (answer.body, answer.fields["content-encoding"]) == (body, "gzip")
        assert answer.fields["vary"] == "Origin, Accept-Encoding"
        assert broker.http().ask("HEAD", target).fields["content-encoding"] == "gzip"
        for refusal in ("gzip;q=0", "identity, *;q=0", "GZIP; q=0.000"):
            answer = broker.http().ask("GET", target, Accept_Encoding=refusal)
            answer.error(406, "its Content-Encoding is not accepted")
        for taken in ("", "identity", "br", "gzip;q=0.1, *;q=0", "identity;q=0"):
            assert broker.http().ask("GET", target, Accept_Encoding=taken).status == 200
        part = broker.http().ask("GET", target, Range="bytes=1-2")
        assert (part.status, part.body, part.fields["content-encoding"]) == (206, body[1:3], "gzip")
        assert "content-encoding" not in broker.http().ask("GET", target, If_None_Match=part.fields["etag"]).fields
    publish(broker.http(), "z", b"plain", Content_Encoding="identity")
    assert "content-encoding" not in broker.http().ask("GET", "/topic/z/2").fields
    assert broker.http().ask("GET", "/topic/z/2", Accept_Encoding="identity;q=0").status == 406
    lines = "Host: b\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\nContent-Encoding: br"
    client = broker.http().send(f"POST /publish/z HTTP/1.1\r\n{lines}\r\n\r\nx")
    assert client.answer().status == 200 and client.ask("GET", "/topic/z/3").fields["content-encoding"] == "gzip, br"
    for malformed in ("a b", "g(zip)", "x" * 256):
        answer = broker.http().ask("POST", "/publish/z", b"x", Content_Encoding=malformed)
        answer.error(400, "malformed Content-Encoding")


MALFORMED = [
    "POST /publish/x HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
    "POST /publish/x HTTP/1.1\r\nHost: b\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
    "POST /publish/x HTTP/1.1\r\nHost: b\r\nContent-Length: +3\r\n\r\nabc",
    "POST /publish/x HTTP/1.1\r\nHost: b\r\nContent-Length: -3\r\n\r\nabc",
    "GET /health HTTP/1.1\nHost: b\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: b\n\r\n",
    "GET /health HTTP/1.1\r\nHost: b\r\nX: a\r\n b\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost : b\r\n\r\n",
    "GET /health HTTP/1.1\r\n\r\n",
    "GET /health HTTP/1.1\r\nHost: b c\r\n\r\n",
    "POST /publish/x HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n",
]


def test_malformed_requests_are_refused_and_what_is_behind_them_is_thrown_away(open):
    broker = open()
    behind = "POST /publish/smuggled HTTP/1.1\r\nHost: b\r\nContent-Length: 1\r\n\r\nx"
    for bytes_ in MALFORMED:
        client = broker.http().send(bytes_ + behind)
        answer = client.answer()
        assert answer.status == 400 and answer.fields["connection"] == "close" and answer.json["error"], bytes_
        assert client.rest() == b""
        # In two parts, too.
        client = broker.http().send(bytes_[:30])
        time.sleep(0.01)
        client.send(bytes_[30:] + behind)
        assert client.answer().status == 400 and client.rest() == b""
    broker.http().ask("GET", "/topic/smuggled").error(404, "no such topic")


def test_limits_have_their_status(open):
    broker = open(limits={"header_bytes": "1K", "message_bytes": 100, "handshake_seconds": round(max(1, FACTOR))})
    broker.http().ask("GET", "/health", X="x" * 1100).error(431, "request head too large")
    broker.http().ask("POST", "/publish/x", b"x" * 101).error(413, "message too large")
    slow = broker.http().send("GET /health HT")
    slow.answer().error(408, "timeout")
    assert slow.rest() == b""


def test_refused_connections_are_told_in_http_where_only_http_is_spoken(open):
    broker = open(listen={"main": {"address": "127.0.0.1:0", "protocols": ["http"]}}, limits={"connections": 1}, reactors=1)
    first = broker.http()
    assert first.ask("GET", "/health").status == 200
    second = broker.http()
    answer = second.ask("GET", "/health").error(503, "too many connections")
    assert answer.fields["connection"] == "close" and second.rest() == b""
    broker.http().answer().error(503, "too many connections")  # one that says nothing, after a while
    away = broker.http().request("GET", "/subscribe/a", Accept="text/event-stream").answer()
    assert (away.status, away.fields["content-type"], away.body) == (200, "text/event-stream", b"retry: 5000\n\n")


def test_refused_connections_are_told_in_the_protocol_that_they_speak(open):
    broker = open(limits={"connections": 1}, reactors=1)
    first = broker.http()
    assert first.ask("GET", "/health").status == 200
    assert broker.say("SUBSCRIBE a\r\n").rest() == [b"ERROR too many connections"]
    broker.http().request("GET", "/health").answer().error(503, "too many connections")


def test_a_slow_event_stream_skips_whole_events_only(open):
    broker = open(topics={"slow": "skip", "backlog_bytes": "256K"}, limits={"send_buffer_bytes": "32K"}, reactors=1)
    slow = events(broker.http(), "/subscribe/s")
    client = broker.http()
    for n in range(400):
        publish(client, "s", b"%d " % n + b"." * 20000 + (b"\nmore" if n % 3 else b""))
    last = publish(client, "s", b"end")
    seen = [0]
    while True:
        event = slow.event()
        seen.append(int(event[0].rsplit(":", 1)[1]))
        assert seen[-1] > seen[-2]
        if event[0] == f"id: {last}":
            break
        assert event[1] == f"data: {seen[-1] - 1} " + "." * 20000
    assert 2 < len(seen) < 402
    # What the kernel holds of a client that reads again later is all it missed nothing of.
    assert seen[1] == 1


def test_an_unknown_first_word_is_answered_in_the_likelier_way(open):
    broker = open()
    assert broker.say("HELLO there\r\n").rest() == [b"ERROR malformed command"]
    broker.http().send("HELLO /there HTTP/1.1\r\nHost: b\r\n\r\n").answer().error(501, "unknown method")
    assert broker.http().send("hello /there HTTP/1.1\r\nHost: b\r\n\r\n").answer().status == 400
    # A browser that was told https: TLS, whose greeting need not hold the end of a line.
    tls = broker.http().send(b"\x16\x03\x01\x00\x10\x01" + b"\x03" * 15)
    tls.answer().error(400, "malformed head")
    assert tls.rest() == b""


def test_draining_ends_streams_and_idle_connections(open):
    broker = open()
    sse = events(broker.http(), "/subscribe/d")
    idle = broker.http()
    assert idle.ask("GET", "/health").status == 200
    waiting = broker.http().request("GET", "/topic/d/1")
    figures = broker.http()
    while sum(r["waiting"] for r in figures.ask("GET", "/stats.json").json["reactors"]) < 1:
        time.sleep(0.05)
    broker.send_signal(15)
    assert sse.rest() == b"0\r\n\r\n"
    assert idle.rest() == b""
    waiting.answer().error(503, "draining")
    broker.finish()


@pytest.mark.parametrize("protocols", [["line", "http"], ["http"]])
def test_while_draining_health_is_200_ready_503_and_so_is_all_else(open, protocols):
    listen = {"main": {"address": "127.0.0.1:0", "protocols": protocols}}
    broker = open(reactors=1, drain_seconds=30, listen=listen, limits={"send_buffer_bytes": "32K"})
    slow, bystander = events(broker.http(), "/subscribe/slow"), events(broker.http(), "/subscribe/d")
    for _ in range(6):
        publish(broker.http(), "slow", b"x" * (1 << 20))
    broker.send_signal(15)
    assert bystander.rest() == b"0\r\n\r\n"
    assert broker.http().ask("GET", "/health").body == b"ok\n"
    answer = broker.http().ask("GET", "/ready").error(503, "draining")
    assert answer.fields["connection"] == "close"
    assert broker.http().request("GET", "/subscribe/d", Accept="text/event-stream").rest() == b""
    for target in ("/topic/d", "/metrics", "/subscribe/d"):
        broker.http().ask("GET", target).error(503, "draining")
    broker.http().ask("POST", "/publish/d", b"x").error(503, "draining")
    assert slow.rest().endswith(b"\r\n0\r\n\r\n")
    broker.finish()


def test_a_body_that_came_in_parts_leaves_no_time_running(open):
    seconds = round(max(1, FACTOR))
    broker = open(limits={"handshake_seconds": seconds})
    client = broker.http()
    for _ in range(2):
        client.send("POST /publish/t HTTP/1.1\r\nHost: b\r\nContent-Length: 6\r\n\r\nabc")
        broker.loop.sleep(0.1)
        client.send("def")
        assert client.answer().status == 200
        # Between two requests a connection may be silent for as long as it likes.
        broker.loop.sleep(seconds + 0.6)
