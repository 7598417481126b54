"""WebSocket over real sockets: /ws/<topic>, the handshake, and how it ends."""

import asyncio
import json
import time
import urllib.request

import pytest
import websocket
import websockets

from harness import ROOT, TEST_SECONDS, node
from web_socket import BINARY, CLOSE, PING, PONG, TEXT, WebSocket, frame

HTTP = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}}
MALFORMED = (1002).to_bytes(2, "big") + b"malformed frame"


@pytest.fixture
def open(start):
    def open_(**config):
        return start(listen=HTTP, **config)

    return open_


def post(broker, topic, body):
    with urllib.request.urlopen(urllib.request.Request(f"http://{broker.address()}/publish/{topic}", body)) as answer:
        return json.load(answer)["id"]


# --- the socket is the topic ---------------------------------------------------------------------------


def test_each_message_is_a_frame_and_each_frame_a_message(open):
    broker = open(reactors=2)
    a, b = WebSocket(broker, "/ws/a.b"), WebSocket(broker, "/ws/a.b")
    line = broker.subscribe("a.b")
    a.send("one")
    assert (a.message(), b.message()) == ("one", "one")
    b.send(b"\xff\x00")
    assert (a.message(), b.message()) == (b"\xff\x00", b"\xff\x00")
    b.send("grüße, €")
    assert (a.message(), b.message()) == ("grüße, €", "grüße, €")
    broker.publish("a.b", b"by line")
    post(broker, "a.b", b"posted\r\n")
    assert a.messages(2) == b.messages(2) == ["by line", "posted\r\n"]
    assert line.take(4) == [b"one", b"\xff\x00", "grüße, €".encode(), b"by line"]


def test_binary_frames_are_asked_for_in_the_path(open):
    broker = open()
    texts, bytes_ = WebSocket(broker, "/ws/t"), WebSocket(broker, "/ws/t?binary=1")
    texts.send("text")
    assert (texts.message(), bytes_.message()) == ("text", b"text")


def test_empty_and_long_messages_are_whole(open):
    broker = open()
    a = WebSocket(broker, "/ws/t")
    for n in (0, 1, 125, 126, 4096, 65535, 65536, 1 << 20):
        a.send(b"\xff" * n)
        # Nothing is UTF-8 too.
        assert a.message() == (b"\xff" * n if n else "")
    a.send("x" * (1 << 20))
    assert a.message() == "x" * (1 << 20)


def test_fragments_are_one_message_with_pings_between_them(open):
    broker = open()
    a = WebSocket(broker, "/ws/t")
    a.send_bytes(frame(TEXT, "he", fin=False) + frame(PING, "are you there") + frame(0, "ll", fin=False) + frame(0, "o"))
    got = sorted([a.frame(), a.frame()])
    assert got == [(TEXT, b"hello"), (PONG, b"are you there")]


def test_what_comes_byte_by_byte_is_the_same(open):
    broker = open()
    a = WebSocket(broker, "/ws/t")
    for byte in frame(TEXT, "slow") + frame(BINARY, b"\xff" * 200):
        a.send_bytes(bytes([byte]))
    assert a.messages(2) == ["slow", b"\xff" * 200]


def test_what_comes_together_goes_out_in_order(open):
    broker = open(reactors=2)
    a, b = WebSocket(broker, "/ws/t"), WebSocket(broker, "/ws/t")
    wanted = [f"message {i} " + "x" * (i % 300) for i in range(3000)]
    a.send_bytes(b"".join(frame(TEXT, text) for text in wanted))
    assert a.messages(3000) == wanted
    assert b.messages(3000) == wanted
    broker.eventually(matched=6000, delivered=6000)


def test_the_newest_messages_come_first_if_asked_for(open):
    broker = open()
    broker.publish("t", b"1", b"2", b"3")
    a = WebSocket(broker, "/ws/t?last=2")
    a.send("4")
    assert a.messages(3) == ["2", "3", "4"]
    assert WebSocket(broker, "/ws/t?last=2&binary=1").messages(2) == [b"3", b"4"]


def test_names_are_decoded_as_everywhere(open):
    broker = open()
    a = WebSocket(broker, "/ws/gr%C3%BC%C3%9Fe.a%2Fb")
    broker.publish("grüße.a/b", b"hello")
    assert a.message() == "hello"


# --- the handshake -----------------------------------------------------------------------------------


def test_what_is_no_handshake_is_refused(open):
    broker = open()

    def refused(status, path="/ws/t", **fields):
        return WebSocket(broker, path, status=status, headers={k.replace("_", "-"): v for k, v in fields.items()})

    refused(400, Sec_WebSocket_Key=None)
    refused(400, Sec_WebSocket_Key="short")
    refused(400, Connection="close")
    refused(400, Content_Length="1", behind=b"x")
    assert refused(426, Sec_WebSocket_Version="8").fields["sec-websocket-version"] == "13"
    refused(426, Sec_WebSocket_Version=None)
    assert refused(426, Upgrade=None).fields["upgrade"] == "websocket"
    assert refused(426, Upgrade="h2c").fields["upgrade"] == "websocket"
    refused(400, Sec_WebSocket_Protocol="chat")
    refused(404, "/nothing")
    refused(404, "/ws/")
    refused(400, "/ws/a..b")
    refused(400, "/ws/a.*")
    refused(400, "/ws/t?last=x")
    WebSocket(broker, "/ws/t", headers={"Upgrade": "h2c, WebSocket", "Sec-WebSocket-Extensions": "permessage-deflate"})


def test_nothing_may_come_before_the_answer(open):
    broker = open()
    a = WebSocket(broker, "/ws/t", status=400, behind=frame(TEXT, "early"))
    assert a.fields["connection"] == "close"
    broker.eventually(published=0)


def test_pages_of_other_sites_are_refused(open):
    broker = open(http={"allowed_origins": ["https://ok.example"]})
    WebSocket(broker, "/ws/t", headers={"Origin": "https://ok.example"})
    WebSocket(broker, "/ws/t", headers={"Origin": f"http://{broker.address()}"})
    WebSocket(broker, "/ws/t", headers={"Origin": "https://evil.example"}, status=403)
    WebSocket(broker, "/ws/t", headers={"Origin": "null"}, status=403)
    WebSocket(broker, "/ws/t", headers={"Origin": "http://evil.example", "Host": "evil.example"}, status=403)


def test_figures_are_for_whom_the_operator_lets_look(open):
    broker = open()
    a = WebSocket(broker, "/ws/$sys.stats?last=1")
    assert "reactors" in json.loads(a.message())
    a.send("x")
    assert a.closed() == (1008, "not permitted")
    WebSocket(broker, "/ws/$sys.stats", headers={"X-Forwarded-For": "192.0.2.1"}, status=403)


# --- how it ends -------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [
    frame(TEXT, "x", mask=None), frame(TEXT, "x", rsv=4), frame(3, "x"), frame(11, "x"), frame(0, "x"),
    frame(PING, "x" * 126, length=2), frame(PING, "x", fin=False), frame(TEXT, "x", length=2), frame(TEXT, "x", length=8),
    frame(TEXT, "x", fin=False) + frame(TEXT, "y"), frame(CLOSE, b"\x03"), frame(CLOSE, (1005).to_bytes(2, "big")),
])
def test_a_malformed_frame_ends_it(open, bad):
    broker = open()
    line = broker.subscribe("t")
    a = WebSocket(broker, "/ws/t")
    a.send_bytes(frame(TEXT, "before") + bad + frame(TEXT, "behind"))
    while (got := a.frame())[0] != CLOSE:
        assert got == (TEXT, b"before")
    assert got[1] == MALFORMED
    assert line.take(1) == [b"before"]
    broker.eventually(published=1)


def test_each_fault_has_its_code(open):
    broker = open(limits={"message_bytes": 1000})

    def ends(*frames):
        a = WebSocket(broker, "/ws/t")
        a.send_bytes(b"".join(frames))
        return a.closed()

    assert ends(frame(TEXT, b"\xff")) == (1007, "not UTF-8")
    assert ends(frame(TEXT, b"\xf0\x9f", fin=False), frame(0, b"\x98")) == (1007, "not UTF-8")
    assert ends(frame(TEXT, "x" * 1001)) == (1009, "line too long")
    assert ends(frame(TEXT, "x" * 600, fin=False), frame(0, "x" * 401)) == (1009, "line too long")
    assert ends(frame(TEXT, fin=False), *[frame(0, fin=False)] * 16384) == (1008, "too many fragments")
    broker.eventually(published=0)


def test_a_close_is_answered_when_all_has_been_said(open):
    broker = open(reactors=2)
    line = broker.subscribe("t")
    a = WebSocket(broker, "/ws/t")
    a.send_bytes(frame(TEXT, "last") + frame(CLOSE, (4000).to_bytes(2, "big") + b"done"))
    assert a.closed() == (4000, "")
    assert line.take(1) == [b"last"]
    b = WebSocket(broker, "/ws/t")
    b.send(b"", CLOSE)
    assert b.closed() == (1000, "")


def test_what_is_half_there_when_it_ends_is_nothing(open):
    broker = open()
    a = WebSocket(broker, "/ws/t")
    a.send_bytes(frame(TEXT, "whole") + frame(TEXT, "half", fin=False))
    a.socket.shutdown(1)
    assert a.closed() == (1000, "")
    broker.eventually(published=1)


def test_a_drain_says_so(open):
    broker = open()
    a = WebSocket(broker, "/ws/t")
    a.send("x")
    assert a.message() == "x"
    broker.send_signal(15)
    assert a.closed() == (1001, "draining")
    broker.finish()


def test_whoever_is_silent_is_asked_and_then_closed(open):
    broker = open(ws={"ping_seconds": 1})
    alive, dead = WebSocket(broker, "/ws/t"), WebSocket(broker, "/ws/t")
    began = time.monotonic()
    assert dead.frame() == (PING, b"")
    # What it does not read does not make it alive.
    for _ in range(3):
        assert alive.frame() == (PING, b"")
        alive.send(b"", PONG)
    assert dead.closed() == (1013, "timeout")
    assert time.monotonic() - began >= 1.5
    alive.send("still here")
    assert alive.message() == "still here"


def test_the_slow_are_closed_with_the_rest_of_their_message(open):
    broker = open(topics={"backlog_bytes": 65536}, limits={"send_buffer_bytes": 16384})
    slow = WebSocket(broker, "/ws/t", rcvbuf=4096)
    publisher = broker.publisher("t")
    for i in range(300):
        publisher.send_lines(b"%04d " % i + b"x" * 10000)
    broker.loop.wait(lambda: broker.stats()["dropped_slow"] > 0, "the slow one is let go")
    got, opcode = [], TEXT
    while opcode != CLOSE:
        opcode, payload = slow.frame()
        got.append(payload)
    assert got.pop() == (1013).to_bytes(2, "big") + b"slow consumer"
    assert got == [b"%04d " % i + b"x" * 10000 for i in range(len(got))] and got


def test_beyond_a_limit_it_is_told_so_where_browsers_can_see_it(open):
    broker = open(limits={"connections": 1})
    a = WebSocket(broker, "/ws/t")
    assert WebSocket(broker, "/ws/t").closed() == (1013, "too many connections")
    a.send("x")
    assert a.message() == "x"


def test_what_cannot_be_subscribed_to_is_answered_over_http(open):
    broker = open(limits={"subscriptions": 1})
    a = WebSocket(broker, "/ws/t")
    WebSocket(broker, "/ws/t", status=503)
    a.abort()


def test_a_reload_changes_how_long_silence_may_last(open):
    broker = open()
    a = WebSocket(broker, "/ws/t")
    broker.configure(ws={"ping_seconds": 1})
    broker.send_signal(1)
    assert a.frame() == (PING, b"")


# --- many topics -------------------------------------------------------------------------------------


class Json(WebSocket):
    def say(self, **command):
        return self.send(json.dumps(command))

    def hear(self):
        return json.loads(self.message())

    def ask(self, **command):
        return self.say(**command).hear()

    def subscribe(self, topic, **more):
        got = self.ask(subscribe=topic, **more)
        assert got["subscribed"] == topic, got
        return got.get("id")


def test_a_socket_has_many_topics(open):
    broker = open(reactors=2)
    a, b = Json(broker, "/ws"), Json(broker, "/ws")
    for topic in ("a.b", "c", "grüße"):
        epoch, seq = a.subscribe(topic).split(":")
        assert len(epoch) == 16 and seq == "0"
    published = b.ask(publish="a.b", data="hello", ref=[1, "x"])
    assert published == {"published": "a.b", "id": published["id"], "ref": [1, "x"]}
    assert a.hear() == {"topic": "a.b", "id": published["id"], "data": "hello"}
    b.say(publish="c", base64="AP8=").say(publish="grüße", data='"\n€')
    got = sorted([a.hear(), a.hear()], key=lambda m: m["topic"])
    assert [(m["topic"], m.get("data"), m.get("base64")) for m in got] == [("c", None, "AP8="), ("grüße", '"\n€', None)]
    assert a.ask(unsubscribe="c") == {"unsubscribed": "c"}
    assert b.ask(publish="c", data="nobody", ref=2)["ref"] == 2
    b.say(publish="a.b", data="last")
    assert a.hear()["data"] == "last"
    broker.eventually(matched=4, delivered=4)


def test_a_thousand_topics_of_one_socket_come_each_in_order(open):
    broker = open(reactors=2)
    a = Json(broker, "/ws")
    for i in range(1000):
        a.say(subscribe=f"t.{i}")
    assert {a.hear()["subscribed"] for _ in range(1000)} == {f"t.{i}" for i in range(1000)}
    b = Json(broker, "/ws")
    for n in range(3):
        b.send_bytes(b"".join(frame(TEXT, json.dumps({"publish": f"t.{i}", "data": str(n)})) for i in range(1000)))
    seen = {}
    for _ in range(3000):
        got = a.hear()
        assert int(got["data"]) == seen.get(got["topic"], -1) + 1
        seen[got["topic"]] = int(got["data"])
    broker.eventually(matched=3000, delivered=3000)


def test_the_past_comes_first_without_a_gap(open):
    broker = open(topics={"history_messages": 4})
    ids = [post(broker, "t", str(i).encode()) for i in range(10)]
    a = Json(broker, "/ws")
    assert a.subscribe("t", last=2) == ids[9]
    assert [a.hear()["data"] for _ in range(2)] == ["8", "9"]
    a.ask(unsubscribe="t")
    assert a.subscribe("t", **{"from": ids[7]}) == ids[9]
    assert [a.hear()["id"] for _ in range(2)] == ids[8:]
    a.ask(unsubscribe="t")
    a.subscribe("t", **{"from": ids[2]})
    assert a.hear() == {"topic": "t", "gap": ids[6]}
    assert [a.hear()["id"] for _ in range(4)] == ids[6:]
    post(broker, "t", b"live")
    assert a.hear()["data"] == "live"


def test_a_socket_gets_a_message_once(open):
    broker = open()
    a = Json(broker, "/ws?topic=t&topic=t")
    assert a.hear()["subscribed"] == "t"
    assert a.ask(subscribe="t")["subscribed"] == "t"
    post(broker, "t", b"once")
    post(broker, "t", b"again")
    assert [a.hear()["data"] for _ in range(2)] == ["once", "again"]
    broker.eventually(matched=2, delivered=2)


def test_patterns_bring_what_they_match_with_its_topic(open):
    broker = open(reactors=2)
    a = Json(broker, "/ws")
    assert a.ask(subscribe="a.*") == {"subscribed": "a.*"}
    ids = [post(broker, t, t.encode()) for t in ("a.b", "a.c", "b.a", "a.b.c")]
    assert [a.hear() for _ in range(2)] == [{"topic": t, "id": i, "data": t} for t, i in zip(("a.b", "a.c"), ids)]
    assert a.ask(subscribe="a.>") == {"subscribed": "a.>"}
    post(broker, "a.b.c", b"deep")
    assert a.hear()["data"] == "deep"
    assert a.ask(unsubscribe="b.*") == {"unsubscribed": "b.*"}
    assert a.ask(subscribe="a.*") == {"subscribed": "a.*"}
    # Of the past they have nothing, and what is no pattern is none.
    assert a.ask(subscribe="c.*", last=1) == {"error": "malformed command", "topic": "c.*"}
    assert a.ask(subscribe="c.>.d") == {"error": "bad topic", "topic": "c.>.d"}
    assert a.ask(publish="a.*", data="x", ref=1) == {"error": "bad topic", "topic": "a.*", "ref": 1}
    b = Json(broker, "/ws?topic=a.b&topic=a.*&last=1&topic=%3E")
    got = [b.hear() for _ in range(4)]
    assert [m for m in got if "subscribed" in m] == [{"subscribed": "a.b", "id": ids[0]}, {"subscribed": "a.*"}, {"subscribed": ">"}]
    assert [m for m in got if "topic" in m] == [{"topic": "a.b", "id": ids[0], "data": "a.b"}]
    Json(broker, "/ws?topic=a.*b", status=400)


def test_a_socket_gets_a_message_once_whatever_overlaps_and_whatever_goes(open):
    broker = open(reactors=2)
    a, wanted, n = Json(broker, "/ws"), set(), 0
    matches = {"a.b": ("a.b",), "a.c": ("a.c",), "a.*": ("a.b", "a.c"), "*.b": ("a.b", "c.b"), ">": ("a.b", "a.c", "c.b")}
    for step in ("a.b", "a.*", ">", "-a.b", "a.c", "-a.*", "*.b", "a.b", "->", "-*.b", "a.*", "*.b", "-a.*", "-a.b", "-a.c", ">", "-*.b", "->"):
        if step[0] == "-":
            wanted.remove(step[1:])
            assert a.ask(unsubscribe=step[1:], ref=1) == {"unsubscribed": step[1:], "ref": 1}
        else:
            wanted.add(step)
            assert a.ask(subscribe=step)["subscribed"] == step
        expected = []
        for topic in ("a.b", "a.c", "c.b"):
            n += 1
            post(broker, topic, str(n).encode())
            if any(topic in matches[w] for w in wanted):
                expected.append((topic, str(n)))
        got = [a.hear() for _ in expected]
        assert sorted((m["topic"], m["data"]) for m in got) == expected, step
        assert a.ask(ping=1) == {"pong": 1}
    broker.eventually(published=54, matched=45, delivered=45)


def test_what_takes_over_loses_and_doubles_nothing(open):
    broker = open(reactors=2)
    a = Json(broker, "/ws?topic=t.*&topic=t.a&topic=*.a")
    assert [a.hear()["subscribed"] for _ in range(3)] == ["t.*", "t.a", "*.a"]
    publisher = broker.publisher("t.a")
    for i in range(200):
        publisher.send(b"%d\r\n" % i)
        if i == 60:
            a.send(json.dumps({"unsubscribe": "t.*"}))
        if i == 120:
            a.send(json.dumps({"unsubscribe": "t.a"}))
    got = [a.hear() for _ in range(202)]
    assert [m["data"] for m in got if "data" in m] == [str(i) for i in range(200)]
    assert [m["unsubscribed"] for m in got if "unsubscribed" in m] == ["t.*", "t.a"]


def test_what_overlaps_has_a_limit(open):
    broker = open(reactors=1)
    a = Json(broker, "/ws")
    for i in range(1025):
        a.send(json.dumps({"subscribe": f"x.{i}"}))
    assert all("subscribed" in a.hear() for _ in range(1025))
    assert a.ask(subscribe="x.*") == {"error": "too many patterns", "topic": "x.*"}
    assert a.ask(subscribe="y.*") == {"subscribed": "y.*"}
    a.ask(unsubscribe="x.7")
    assert a.ask(subscribe="x.*") == {"subscribed": "x.*"}
    post(broker, "x.8", b"once")
    assert a.hear()["data"] == "once"
    post(broker, "x.7", b"by the pattern")
    assert a.hear()["data"] == "by the pattern"
    assert a.ask(unsubscribe="x.*") == {"unsubscribed": "x.*"}


def test_one_that_skips_is_told_of_the_gap(open):
    broker = open(topics={"slow": "skip", "backlog_bytes": "256K"}, limits={"send_buffer_bytes": "32K"}, reactors=1)
    a = Json(broker, "/ws?topic=s&topic=p.*")
    assert [a.hear()["subscribed"] for _ in range(2)] == ["s", "p.*"]
    publishers = [broker.publisher(topic) for topic in ("s", "p.x")]
    for n in range(400):
        for p in publishers:
            p.send(b"%d " % n + b"." * 20000 + b"\r\n")
    for p in publishers:
        p.leave()
    seen = {"s": [], "p.x": []}
    gaps = {"s": None, "p.x": None}
    missing = {"s", "p.x"}
    a.socket.settimeout(1)
    while missing:
        try:
            m = a.hear()
        except TimeoutError:
            # All that was not skipped has come: this will not be.
            for topic in missing:
                post(broker, topic, b"end")
            continue
        if "gap" in m:
            topic = "p.x" if m["topic"] == "p.*" else m["topic"]
            gaps[topic] = m["gap"] or True
            continue
        topic, seq = m["topic"], int(m["id"].split(":")[1])
        if seen[topic]:
            # Whoever misses something is told so before what comes next, and only then.
            assert (seq > seen[topic][-1] + 1) == (gaps[topic] is not None)
            assert gaps[topic] in (None, True, m["id"])
        seen[topic].append(seq)
        gaps[topic] = None
        if m["data"] == "end":
            missing.discard(topic)
    assert seen["s"][-1] >= 401
    assert 2 < len(seen["s"]) < 401 and 2 < len(seen["p.x"]) < 401


def test_topics_may_be_asked_for_in_the_path(open):
    broker = open()
    for i in range(3):
        post(broker, "a.b", str(i).encode())
    a = Json(broker, "/ws?topic=a.b&topic=gr%C3%BC%C3%9Fe&last=2&other=1")
    got = [a.hear() for _ in range(4)]
    assert sorted(m["subscribed"] for m in got if "subscribed" in m) == ["a.b", "grüße"]
    assert [m["data"] for m in got if "data" in m] == ["1", "2"]
    Json(broker, "/ws?topic=a..b", status=400)
    Json(broker, "/ws?topic=a&last=x", status=400)


def test_commands_take_effect_in_their_order(open):
    broker = open(reactors=2)
    for i in range(50):
        a = Json(broker, "/ws")
        a.send_bytes(b"".join(frame(TEXT, json.dumps(c)) for c in [
            {"subscribe": f"order.{i}"}, {"publish": f"order.{i}", "data": "mine"}, {"ping": i}, {"unsubscribe": f"order.{i}"}]))
        got = []
        while not got or "unsubscribed" not in got[-1]:
            got.append(a.hear())
        assert "subscribed" in got[0] and {"pong": i} in got


def test_errors_are_said_and_the_socket_stays(open):
    broker = open(limits={"topics": 1, "message_bytes": 100000})
    a = Json(broker, "/ws")
    assert a.ask(subscribe="a..b") == {"error": "bad topic", "topic": "a..b"}
    assert a.ask(publish="a.*", data="x", ref=1) == {"error": "bad topic", "topic": "a.*", "ref": 1}
    assert a.ask(publish="$sys.x", data="x", ref=1) == {"error": "not permitted", "topic": "$sys.x", "ref": 1}
    assert a.ask(nonsense=1) == {"error": "malformed command"}
    assert a.ask(publish="t", data="x", more=1, ref=3) == {"error": "malformed command", "topic": "t", "ref": 3}
    assert a.send('{"publish":"t","data":"\\x"}').hear() == {"error": "malformed command", "topic": "t"}
    assert a.send("[" * 90000).hear() == {"error": "line too long"}
    assert a.ask(ping={"any": ["thing"]}) == {"pong": {"any": ["thing"]}}
    a.subscribe("first")
    assert a.ask(subscribe="second") == {"error": "too many topics", "topic": "second"}
    assert a.ask(publish="third", data="x", ref=4) == {"error": "too many topics", "topic": "third", "ref": 4}


def test_what_is_no_text_ends_it(open):
    broker = open()
    a = Json(broker, "/ws")
    a.send(b"{}")
    assert a.closed() == (1003, "text only")
    b = Json(broker, "/ws")
    b.send("")
    assert b.hear() == {"error": "malformed command"}
    Json(broker, "/ws", status=400, headers={"Sec-WebSocket-Protocol": "json"})


def test_a_long_message_passes_through_json(open):
    broker = open()
    a, topic = Json(broker, "/ws?topic=t"), WebSocket(broker, "/ws/t")
    assert a.hear()["subscribed"] == "t"
    text = "x" * 500000 + '"' + "€" * 1000
    a.send_bytes(frame(TEXT, json.dumps({"publish": "t", "data": text}, ensure_ascii=False)))
    assert a.hear()["data"] == text
    assert topic.message() == text
    topic.send(b"\xff" * 300000)
    assert len(a.hear()["base64"]) == 400000
    topic.message()
    topic.send("y" * 100000)
    assert a.hear()["data"] == "y" * 100000


def test_figures_are_for_whom_the_operator_lets_look_by_json_too(open):
    broker = open()
    a = Json(broker, "/ws")
    a.subscribe("$sys.stats", last=1)
    assert "reactors" in json.loads(a.hear()["data"])
    b = Json(broker, "/ws", headers={"X-Forwarded-For": "192.0.2.1"})
    assert b.ask(subscribe="$sys.stats") == {"error": "not permitted", "topic": "$sys.stats"}


def test_a_drain_says_so_to_sockets_of_many_and_of_no_topics(open):
    broker = open()
    a, b = Json(broker, "/ws?topic=a&topic=b"), Json(broker, "/ws")
    a.hear(), a.hear()
    assert b.ask(ping=1) == {"pong": 1}
    broker.send_signal(15)
    assert a.closed() == b.closed() == (1001, "draining")
    broker.finish()


# --- NATS inside -------------------------------------------------------------------------------------


def test_nats_is_spoken_in_frames_that_end_anywhere(open):
    broker = open(reactors=2)
    for path in ("/", "/nats"):
        a = WebSocket(broker, path, headers={"Sec-WebSocket-Protocol": "chat, nats"})
        assert a.fields["sec-websocket-protocol"] == "nats"
        assert a.frame()[1].startswith(b"INFO {")
        text = b'CONNECT {"verbose":false}\r\nSUB t 1\r\nPING\r\n'
        for byte in text:
            a.send(bytes([byte]))
        assert a.frame() == (BINARY, b"PONG\r\n")
        a.send_bytes(frame(TEXT, "PUB t 5\r\nhel", fin=False) + frame(PING, "x") + frame(0, "lo\r\nPUB t 1\r\n!\r\n"))
        got = [a.frame() for _ in range(3)]
        assert (PONG, b"x") in got
        assert [f for f in got if f[0] != PONG] == [(BINARY, b"MSG t 1 5\r\nhello\r\n"), (BINARY, b"MSG t 1 1\r\n!\r\n")]
        a.send(b"NONSENSE\r\n")
        assert a.frame() == (BINARY, b"-ERR 'Unknown Protocol Operation'\r\n")
        assert a.closed() == (1002, "")
    a = WebSocket(broker, "/nats")
    a.frame()
    a.send(b"", CLOSE)
    assert a.closed() == (1000, "")
    a = WebSocket(broker, "/nats")
    a.frame()
    a.send_bytes(frame(TEXT, "x", mask=None))
    assert a.closed() == (1002, "malformed frame")
    WebSocket(broker, "/nats", status=400, headers={"Sec-WebSocket-Protocol": "chat"})


# --- MQTT inside -------------------------------------------------------------------------------------


CONNECT = {4: bytes.fromhex("100d 0004 4d515454 04 02 003c 0001 61"), 5: bytes.fromhex("100e 0004 4d515454 05 02 003c 00 0001 61")}


@pytest.mark.parametrize("level", [4, 5])
def test_mqtt_is_spoken_in_frames_that_end_anywhere(open, level):
    broker = open(reactors=2)
    a = WebSocket(broker, "/whatever", headers={"Sec-WebSocket-Protocol": "mqttv3.1, mqtt"})
    assert a.fields["sec-websocket-protocol"] == "mqtt"
    for byte in CONNECT[level]:
        a.send(bytes([byte]))
    assert a.frame()[1][:1] == b"\x20"
    none = b"\0" if level == 5 else b""
    # Two packets in a frame, and one in two.
    subscribe = b"\x82" + bytes([8 + len(none)]) + b"\0\1" + none + b"\0\3a/b\0"
    a.send(subscribe + b"\xc0\0")
    assert [a.frame()[1][:1] for _ in range(2)] == [b"\x90", b"\xd0"]
    publish = b"\x30" + bytes([7 + len(none)]) + b"\0\3a/b" + none + b"hi"
    a.send_bytes(frame(BINARY, publish[:4], fin=False) + frame(PING, "x") + frame(0, publish[4:]))
    got = [a.frame(), a.frame()]
    assert sorted(got) == [(BINARY, publish), (PONG, b"x")]
    post(broker, "a.b", b"y" * 100000)
    opcode, packet = a.frame()
    assert opcode == BINARY and packet.endswith(b"y" * 100000) and len(packet) < 100060
    a.send(b"\xe0\0")
    assert a.closed() == (1000, "")
    broker.eventually(matched=2, delivered=2)


def test_mqtt_ends_with_a_packet_and_a_code(open):
    broker = open()

    def client(level):
        a = WebSocket(broker, "/mqtt", headers={"Sec-WebSocket-Protocol": "mqtt"})
        a.send(CONNECT[level])
        a.frame()
        return a

    a = client(4)
    a.send("text")
    assert a.closed() == (1003, "binary only")
    a = client(4)
    a.send(b"\xf0\0")
    assert a.closed() == (1002, "")
    a = client(5)
    a.send(b"\x00\0")
    assert a.frame()[1][:1] == b"\xe0"
    assert a.closed() == (1002, "")
    a = client(5)
    broker.send_signal(15)
    opcode, packet = a.frame()
    assert (opcode, packet[:1], packet[2:3]) == (BINARY, b"\xe0", b"\x8b") and packet.endswith(b"draining")
    assert a.closed() == (1001, "")
    broker.finish()


# --- clients that others wrote -------------------------------------------------------------------------


def test_pythons_clients_find_the_contract_kept(open):
    """websockets and websocket-client, as Debian has them."""
    broker = open()

    async def talk():
        async with websockets.connect(f"ws://{broker.address()}/ws/t") as ws:
            for message in ("text", b"\xff", "x" * 300000, ""):
                await ws.send(message)
                assert await ws.recv() == message
            await ws.send(["in ", "parts"])
            assert await ws.recv() == "in parts"
            await (await ws.ping())
        assert ws.close_code == 1000

    asyncio.run(talk())
    client = websocket.create_connection(f"ws://{broker.address()}/ws?topic=t&last=1", timeout=TEST_SECONDS / 2)
    assert json.loads(client.recv())["subscribed"] == "t"
    assert json.loads(client.recv())["data"] == "in parts"
    client.close()


def test_clients_from_the_web_find_the_contract_kept(start, tmp_path):
    script = ROOT / "tests/integration/web_sockets.mjs"
    broker = start(reactors=2, listen=HTTP)
    done = node(script, tmp_path, BROKER=broker.address())
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    # None was left out, and none has ended early.
    assert f"# pass {script.read_text().count(chr(10) + 'test(')}\n" in done.stdout
