"""The door of Redis clients: byte for byte beside the real server, and what the contract has beyond it."""

import re
import socket
import subprocess

import pytest
import redis as pyredis

from harness import PATIENCE, ROOT, at_most, node, release_only
from resp import RedisServer, Resp, command

CLIENTS = ROOT / "tests/integration/resp_clients.mjs"
RESP = {"main": {"address": "127.0.0.1:0", "protocols": ["resp"]}}
ALL = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http", "resp"]}}


@pytest.fixture
def broker(start):
    """Two reactors, so that clients and homes are on both."""
    return start(reactors=2, listen=ALL)


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.close()


@pytest.fixture
def client(broker):
    with Resp(broker.address()) as c:
        yield c


def both_reactors(broker, n=16):
    """So many connections that some are on each reactor."""
    return [Resp(broker.address()) for _ in range(n)]


# --- beside the real server ------------------------------------------------------------------------------

SAME = {
    "ping": [("PING",), ("ping", "x"), ("PING", ""), ("PING", "a", "b")],
    "echo": [("ECHO", "a\r\nb"), ("ECHO",), ("ECHO", "a", "b")],
    "select": [("SELECT", "0"), ("SELECT", "16"), ("SELECT", "-1"), ("SELECT", "-0"), ("SELECT", "-"), ("SELECT", "x"), ("SELECT",)],
    "subscribe": [("SUBSCRIBE", "a"), ("SUBSCRIBE", "b", "a", "c"), ("UNSUBSCRIBE", "a", "x", "a"), ("PING",)],
    "subscribe twice in one": [("SUBSCRIBE", "a", "a", "b", "a")],
    "unsubscribe nothing": [("UNSUBSCRIBE",), ("SUNSUBSCRIBE",), ("UNSUBSCRIBE", "a")],
    "unsubscribe all": [("SUBSCRIBE", "a"), ("UNSUBSCRIBE",), ("PING",), ("SUBSCRIBE", "b"), ("RESET",), ("PING",)],
    "sharded count apart": [
        ("SSUBSCRIBE", "a", "b"),
        ("SUBSCRIBE", "a"),
        ("SUNSUBSCRIBE", "a"),
        ("UNSUBSCRIBE", "a"),
        ("SUNSUBSCRIBE",),
    ],
    "patterns": [
        ("PSUBSCRIBE", "a*"),
        ("PSUBSCRIBE", "b.*", "a*", "c"),
        ("SUBSCRIBE", "a"),
        ("PUNSUBSCRIBE", "a*", "x", "a*"),
        ("UNSUBSCRIBE",),
        ("PUNSUBSCRIBE", "b.*"),
        ("PUNSUBSCRIBE",),
        ("PUNSUBSCRIBE",),
        ("PSUBSCRIBE",),
    ],
    "patterns are counted": [
        ("SSUBSCRIBE", "x"),
        ("PSUBSCRIBE", "a*", "b?c", "exact"),
        ("PUNSUBSCRIBE", "b?c", "a*", "exact"),
        ("SUNSUBSCRIBE", "x"),
        ("PUBSUB", "NUMPAT"),
    ],
    "while subscribed": [
        ("SUBSCRIBE", "a"),
        ("PING",),
        ("PING", "x"),
        ("PUBLISH", "x", "b"),
        ("ECHO", "a"),
        ("SPUBLISH", "x", "b"),
        ("PUBSUB", "NUMSUB", "a"),
        ("SELECT", "0"),
        ("UNSUBSCRIBE",),
        ("ECHO", "a"),
    ],
    "resp3": [
        ("CLIENT", "GETNAME"),
        ("CLIENT", "SETNAME", "n"),
        ("CLIENT", "GETNAME"),
        ("SUBSCRIBE", "a", "a"),
        ("PING",),
        ("ECHO", "x"),
        ("PUBLISH", "x", "y"),
        ("UNSUBSCRIBE",),
        ("UNSUBSCRIBE",),
    ],
    "publish": [("PUBLISH", "nobody", "x"), ("publish", "a", ""), ("PUBLISH", "a"), ("PUBLISH", "a", "b", "c")],
    "pubsub": [
        ("PUBSUB", "CHANNELS"),
        ("PUBSUB", "channels", "a*"),
        ("PUBSUB", "CHANNELS", "a", "b"),
        ("PUBSUB", "NUMSUB"),
        ("PUBSUB", "NUMSUB", "a", "b c", "*", "a"),
        ("PUBSUB", "NUMPAT"),
        ("PUBSUB", "NUMPAT", "a"),
        ("PUBSUB", "SHARDCHANNELS"),
        ("PUBSUB", "SHARDNUMSUB", "a"),
        ("PUBSUB",),
        ("PUBSUB", "nonsense"),
    ],
    "unknown": [
        ("NONSENSE",),
        ("nonsense", "a", "b\r\nc", "x" * 200, "y"),
        ("N" * 200, "a"),
        ("nonsense", b"a\0b", b"\0", "c"),
        ("CLIENT", "NONSENSE"),
        ("CLIENT",),
        ("CLIENT", "GETNAME", "x"),
        ("CLIENT", "SETNAME", "a b"),
        ("CLIENT", "SETNAME"),
    ],
    "hello's errors": [
        ("HELLO", "4"),
        ("HELLO", "x"),
        ("HELLO", "1"),
        ("HELLO", "-3"),
        ("HELLO", "03"),
        ("HELLO", ""),
        ("HELLO", "3", "NONSENSE"),
        ("HELLO", "3", "AUTH", "x"),
        ("HELLO", "3", "SETNAME", "a b"),
        ("HELLO", "3", "AUTH", "nobody", "x"),
        ("CLIENT", "GETNAME"),
    ],
    "auth without users": [
        ("AUTH", "x"),
        ("AUTH", "default", "x"),
        ("AUTH", "nobody", "x"),
        ("AUTH",),
        ("AUTH", "a", "b", "c"),
    ],
    "reset": [("SUBSCRIBE", "a", "b"), ("SSUBSCRIBE", "a"), ("RESET",), ("PUBLISH", "a", "x"), ("RESET", "x")],
    "empty words": [("",), ("PING", ""), ("", "a")],
}


def test_what_was_counted_comes_before_the_end_of_either_subscription(broker):
    """A connection in RESP3 may publish to itself, and end one of two subscriptions in the same breath."""
    for i in range(8):
        with Resp(broker.address()) as c:
            c.say("HELLO", "3").reply()
            c.send(b"".join(command(*words) for words in (("SUBSCRIBE", f"both.{i}"), ("PSUBSCRIBE", f"both.{i}*"))))
            c.send(command("PUBLISH", f"both.{i}", "x") + command("PUNSUBSCRIBE") + command("UNSUBSCRIBE"))
            said = [c.reply() for _ in range(7)]
            assert [b"x" in words for words in said[3:5]] == [True, True], said


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("name", SAME)
def test_replies_are_those_of_the_real_server(broker, redis, name, version):
    def replies(address):
        with Resp(address) as c:
            if version == 3:
                c.ask("HELLO", "3")
            c.send(b"".join(command(*words) for words in SAME[name]) + command("QUIT"))
            return c.rest()

    assert replies(broker.address()) == replies(redis.address)


def test_a_subscriber_of_resp2_may_not_ask_for_what_only_the_real_server_has(broker, redis):
    def replies(address):
        with Resp(address) as c:
            asked = [("SUBSCRIBE", "a"), ("GET", "x"), ("set", "x", "y"), ("UNSUBSCRIBE",), ("QUIT",)]
            c.send(b"".join(command(*words) for words in asked))
            return c.rest()

    assert b"-ERR Can't execute 'get': only (P|S)SUBSCRIBE" in replies(broker.address())
    assert replies(broker.address()) == replies(redis.address)


ENDS = {
    "array's length": b"*x\r\n",
    "too many words": b"*65537\r\n" + b"$1\r\na\r\n",
    "no bulk string": b"*1\r\n:1\r\n",
    "nothing where a bulk string is": b"*1\r\n\r\n",
    "bulk string's length": b"*1\r\n$x\r\n",
    "negative length": b"*1\r\n$-1\r\n",
    "leading zero": b"*01\r\n",
    "quotes": b'PING "a\r\n',
    "stuck quotes": b'PING "a"b\r\n',
    "long line": b"x" * 70000,
    "long number": b"*" + b"1" * 70000,
    "long bulk number": b"*1\r\n$" + b"1" * 70000,
}


@pytest.mark.parametrize("name", [name for name in ENDS if name != "too many words"])
@pytest.mark.parametrize("before", [b"", command("PING")], ids=["first", "behind a command"])
def test_what_is_no_command_ends_in_the_words_of_the_real_server(start, redis, name, before):
    broker = start(listen=RESP)

    def end(address):
        with Resp(address) as c:
            c.send(before + ENDS[name])
            return c.rest()

    ours = end(broker.address())
    assert b"-ERR Protocol error: " in ours
    assert ours == end(redis.address)


INLINE = [
    b"PING\r\n",
    b"  ping \t x\r\n",
    b"ECHO 'a b'\r\n",
    b'ECHO "a\\x41\\n\\"\\q"\r\n',
    b"ECHO 'a\\'b\\n'\r\n",
    b"\r\n",
    b"   \r\n",
    b"*0\r\n",
    b"*-1\r\n",
    b"ECHO \"\"\n",
    b"PUBLISH a 'b c'\r\n",
    b"SUBSCRIBE a \"b\"\r\n",
    b"QUIT\r\n",
]


def test_lines_are_commands(start, redis):
    broker = start(listen=RESP)

    def replies(address):
        with Resp(address) as c:
            c.send(b"".join(INLINE))
            return c.rest()

    assert replies(broker.address()) == replies(redis.address)


def test_commands_in_pieces_are_answered_alike(broker):
    text = command("PUBLISH", "a", "x" * 50) + command("SUBSCRIBE", "a", "b") + command("PING") + command("QUIT")
    whole = Resp(broker.address()).send(text).rest()
    for size in (1, 3, 7, 11):
        c = Resp(broker.address())
        for at in range(0, len(text), size):
            c.send(text[at : at + size])
        assert c.rest() == whole


# --- HELLO, CLIENT, INFO ---------------------------------------------------------------------------------


def test_hello_says_what_it_is_like_the_real_server(client, redis):
    def hello(c):
        reply = c.ask("HELLO")
        assert reply[0::2][:2] == [b"server", b"version"]
        three = c.ask("HELLO", "3", "SETNAME", "me")
        return reply[0::2], sorted(three), three[b"proto"], three[b"version"], three[b"mode"], three[b"role"], c.ask("CLIENT", "GETNAME")

    ours = hello(client)
    assert ours == hello(Resp(redis.address))
    assert ours[2:] == (3, b"7.0.15", b"standalone", b"master", b"me")


def test_ids_are_unique_over_all_reactors(broker):
    clients = both_reactors(broker)
    ids = [c.ask("CLIENT", "ID") for c in clients]
    assert len(set(ids)) == len(ids)
    assert clients[0].ask("CLIENT", "ID") == ids[0]


def test_info_has_what_clients_look_for(client):
    text = client.ask("INFO").decode()
    assert text.startswith("# Server\r\n") and text.endswith("\r\n")
    lines = dict(line.split(":", 1) for line in text.split("\r\n") if ":" in line)
    assert lines["redis_version"] == "7.0.15" and lines["server_name"] == "broker"
    assert lines["loading"] == "0" and lines["role"] == "master" and lines["redis_mode"] == "standalone"
    assert int(lines["connected_clients"]) >= 1 and int(lines["uptime_in_seconds"]) >= 0
    assert client.ask("INFO", "replication").decode().startswith("# Replication\r\nrole:master")
    assert client.ask("INFO", "nonsense") == b""
    client.ask("HELLO", "3")
    client.say("INFO", "stats")
    assert client.reply().startswith(b"txt:# Stats\r\npubsub_channels:0\r\n")


def test_client_info_says_who_it_is(client):
    client.ask("CLIENT", "SETNAME", "me")
    assert client.ask("CLIENT", "SETINFO", "lib-name", "x") == b"+OK"
    text = client.ask("CLIENT", "INFO").decode()
    assert re.fullmatch(r"id=\d+ addr=127\.0\.0\.1:\d+ name=me .*resp=2\n", text)


def test_command_is_answered_so_that_redis_cli_goes_on(client):
    assert client.ask("COMMAND") == []
    assert client.ask("COMMAND", "DOCS") == []
    assert client.ask("COMMAND", "COUNT") > 10
    client.ask("HELLO", "3")
    assert client.ask("COMMAND", "DOCS", "get") == {}


# --- names -----------------------------------------------------------------------------------------------

BAD = ["", "a b\r", "a*", ">", ".a", "a.", "a..b", b"\xff", "x" * 256, ".".join("x" * 33)]


@pytest.mark.parametrize("name", BAD)
def test_a_name_that_is_no_topic_is_refused_before_anything_is_done(client, name):
    assert client.ask("SUBSCRIBE", "a", name, "b") == b"-ERR bad topic"
    assert client.ask("SSUBSCRIBE", name) == b"-ERR bad topic"
    assert client.ask("PUBLISH", name, "x") == b"-ERR bad topic"
    assert client.ask("SPUBLISH", name, "x") == b"-ERR bad topic"
    assert client.ask("PUBSUB", "NUMSUB", "a", name) == [b"a", 0, name if isinstance(name, bytes) else name.encode(), 0]
    assert client.ask("PUBSUB", "CHANNELS") == []


def test_the_broker_s_own_topics_are_published_to_by_nobody_else(client):
    assert client.ask("PUBLISH", "$sys.stats", "x").startswith(b"-NOPERM ")
    # The operator's page is for this machine.
    assert client.ask("SUBSCRIBE", "$sys.stats") == [b"subscribe", b"$sys.stats", 1]


# --- messages --------------------------------------------------------------------------------------------


def test_messages_come_behind_their_confirmation_and_not_behind_the_one_of_its_end(broker):
    publisher = Resp(broker.address())
    for _ in range(50):
        c = Resp(broker.address())
        c.say("SUBSCRIBE", "a")
        publisher.send(command("PUBLISH", "a", "x") * 20)
        assert c.reply() == [b"subscribe", b"a", 1]
        c.say("UNSUBSCRIBE", "a")
        while (reply := c.reply()) != [b"unsubscribe", b"a", 0]:
            assert reply == [b"message", b"a", b"x"]
        for _ in range(20):
            publisher.reply()
        publisher.ask("PUBLISH", "a", "late")
        assert c.ask("PING") == b"+PONG"
        c.socket.close()


@pytest.mark.parametrize("version", [2, 3])
def test_each_subscription_of_a_connection_gets_its_own_copy(broker, version):
    c = Resp(broker.address())
    if version == 3:
        c.ask("HELLO", "3")
    c.say("SUBSCRIBE", "a")
    c.say("SSUBSCRIBE", "a")
    assert [c.reply(), c.reply()] == [[b"subscribe", b"a", 1], [b"ssubscribe", b"a", 1]]
    assert Resp(broker.address()).ask("PUBLISH", "a", "x") == 2
    assert sorted([c.reply(), c.reply()]) == [[b"message", b"a", b"x"], [b"smessage", b"a", b"x"]]
    assert c.silent()


def test_any_bytes_are_a_message(broker, client):
    client.ask("SUBSCRIBE", "a")
    publisher = Resp(broker.address())
    for payload in (b"", b"\r\n", bytes(range(256)), b"x" * 100000, b"y" * (1 << 20)):
        assert publisher.ask("PUBLISH", "a", payload) == 1
        assert client.reply() == [b"message", b"a", payload]


def test_a_message_may_be_as_long_as_the_limit_and_no_longer(start):
    broker = start(listen=RESP, limits={"message_bytes": 100000})
    c = Resp(broker.address())
    assert c.ask("PUBLISH", "a", b"x" * 100000) == 0
    c.say("PUBLISH", "a", b"x" * 100001)
    assert c.rest() == b"-ERR Protocol error: invalid bulk length\r\n"


def test_what_stands_behind_a_long_payload_must_be_an_end(start):
    broker = start(listen=RESP)
    c = Resp(broker.address())
    c.send(command("PUBLISH", "a", "x") + command("PUBLISH", "a", b"x" * 50000)[:-2] + b"xx" + command("PING"))
    assert c.rest() == b":0\r\n-ERR Protocol error: invalid bulk length\r\n"


def test_messages_of_one_publisher_come_in_their_order(broker, client):
    client.ask("SUBSCRIBE", "a")
    publisher = Resp(broker.address())
    publisher.send(b"".join(command("PUBLISH", "a", n) for n in range(5000)))
    assert [client.reply()[2] for _ in range(5000)] == [b"%d" % n for n in range(5000)]
    assert [publisher.reply() for _ in range(5000)] == [1] * 5000


@pytest.mark.parametrize("piece", [1 << 16, 977, 61])
def test_publishes_that_begin_alike_are_each_what_they_say(broker, client, piece):
    """Of what is said in the same words only the payload is looked at: lengths, ends and topics that differ show all the same."""
    random = __import__("random").Random(piece)
    assert client.ask("SUBSCRIBE", "same", "sane") == [b"subscribe", b"same", 1] and client.reply()[2] == 2
    sent, answers, data = [], [], b""
    for n in range(1500):
        topic = "same" if random.random() < 0.9 else "sane"
        payload = b"%d" % n + random.choice([b"", b"x" * random.randrange(300), b"\r\n$5\r\nPUBLISH", b"y" * 100]) if n % 50 else b""
        verb = random.choice(["PUBLISH"] * 20 + ["publish", "SPUBLISH"])
        data += command(verb, topic, payload)
        sent.append((topic.encode(), payload))
        answers.append(1)
        if n % 97 == 0:
            data += command("PUBLISH", "a..b", "no topic")
            answers.append(b"-ERR bad topic")
    with Resp(broker.address()) as publisher:
        for at in range(0, len(data), piece):
            publisher.send(data[at : at + piece])
        assert [publisher.reply() for _ in answers] == answers
    got = [tuple(client.reply()[1:]) for _ in sent]
    for topic in (b"same", b"sane"):
        assert [p for t, p in got if t == topic] == [p for t, p in sent if t == topic]


@pytest.mark.parametrize(
    "last, error",
    [
        (b"$05\r\nhello\r\n", b"invalid bulk length"),
        (b"$5x\r\nhello\r\n", b"invalid bulk length"),
        (b"$-1\r\nhello\r\n", b"invalid bulk length"),
        (b"$99999999\r\nhello\r\n", b"invalid bulk length"),
        (b"#5\r\nhello\r\n", b"expected '$', got '#'"),
    ],
)
def test_what_begins_as_a_publish_and_goes_on_wrongly_ends_it(broker, client, last, error):
    assert client.ask("SUBSCRIBE", "t") == [b"subscribe", b"t", 1]
    good = command("PUBLISH", "t", "hello")
    with Resp(broker.address()) as publisher:
        publisher.send(good * 3 + good[: good.rindex(b"$5")] + last + good)
        assert [publisher.reply() for _ in range(3)] == [1, 1, 1]
        assert publisher.rest() == b"-ERR Protocol error: " + error + b"\r\n"
    assert [client.reply()[2] for _ in range(3)] == [b"hello"] * 3
    assert client.silent()


def test_a_thousand_channels_are_subscribed_to_with_one_command(broker, client):
    names = [f"c.{n}" for n in range(1000)]
    client.say("SUBSCRIBE", *names)
    assert [client.reply() for _ in names] == [[b"subscribe", n.encode(), i + 1] for i, n in enumerate(names)]
    publisher = Resp(broker.address())
    publisher.send(b"".join(command("PUBLISH", n, n) for n in names))
    assert [publisher.reply() for _ in names] == [1] * 1000
    got = [client.reply() for _ in names]
    assert sorted(got) == sorted([b"message", n.encode(), n.encode()] for n in names)
    client.say("UNSUBSCRIBE")
    ends = [client.reply() for _ in names]
    assert sorted(e[1] for e in ends) == sorted(n.encode() for n in names)
    assert [e[2] for e in ends] == list(range(999, -1, -1))
    assert client.ask("PUBSUB", "CHANNELS") == []


def test_a_command_has_65536_words_at_most(start):
    broker = start(listen=RESP)
    c = Resp(broker.address())
    c.say("UNSUBSCRIBE", *["a"] * 65535)
    for _ in range(65535):
        assert c.reply() == [b"unsubscribe", b"a", 0]
    c.say("UNSUBSCRIBE", *["a"] * 65536)
    assert c.rest() == b"-ERR Protocol error: invalid multibulk length\r\n"


# --- patterns --------------------------------------------------------------------------------------------

GLOBS = [
    "*",
    "**",
    "a",
    "a*",
    "a.*",
    "*.b",
    "a?b",
    "a[.x]b",
    "a[^.]b",
    "a[a-z]b",
    "a[z-a]b",
    "a\\.b",
    "\\a*",
    "a[b",
    "a[]b",
    "a[^]*",
    "*a*b*",
    "a.b*c",
    "?*",
    "[ab]*",
    "a\\",
    "[a-",
    "a[\\]]b",
    "",
]
CHANNELS = ["a", "b", "a.b", "axb", "a.b.c", "a.bc", "ab", "aab", "a]b", "a-b", "b.a", "\u00e4b", "a\u00e4b"]


@pytest.mark.parametrize("version", [2, 3])
def test_globs_match_what_they_match_on_the_real_server(broker, redis, version):
    def heard(address):
        with Resp(address) as sub, Resp(address) as pub:
            if version == 3:
                sub.ask("HELLO", "3")
            for glob in GLOBS:
                sub.ask("PSUBSCRIBE", glob)
            counts = [pub.ask("PUBLISH", channel, "x") for channel in CHANNELS]
            return counts, sorted(sub.reply() for _ in range(sum(counts)))

    assert heard(broker.address()) == heard(redis.address)


def test_a_pattern_gets_topics_that_appear_later_of_all_reactors(broker):
    subscribers = both_reactors(broker, 6)
    for c, glob in zip(subscribers, ["t*", "t.*", "t.?", "*", "t.[0-4]", "t.1"]):
        assert c.ask("PSUBSCRIBE", glob) == [b"psubscribe", glob.encode(), 1]
    line = broker.subscribe("t.1")
    publisher = Resp(broker.address())
    broker.loop.wait(lambda: publisher.ask("PUBSUB", "NUMSUB", "t.1") == [b"t.1", 1], "a line's subscriber")
    assert [publisher.ask("PUBLISH", f"t.{n}", n) for n in range(10)] == [5, 7, 5, 5, 5, 4, 4, 4, 4, 4]
    assert publisher.ask("PUBSUB", "NUMPAT") == 6
    # Patterns are no subscribers of a channel.
    assert publisher.ask("PUBSUB", "CHANNELS") == [b"t.1"]
    for n in range(5):
        assert subscribers[4].reply() == [b"pmessage", b"t.[0-4]", b"t.%d" % n, b"%d" % n]
    assert subscribers[4].silent()
    line.close()
    for c in subscribers:
        c.socket.close()
    broker.loop.wait(lambda: publisher.ask("PUBSUB", "NUMPAT") == 0, "patterns without subscribers")


def test_channel_and_patterns_of_a_connection_get_a_copy_each(broker):
    c = Resp(broker.address())
    for words in (["SUBSCRIBE", "a.b"], ["PSUBSCRIBE", "a.*"], ["PSUBSCRIBE", "*b"], ["PSUBSCRIBE", "a.b"]):
        c.ask(*words)
    assert Resp(broker.address()).ask("PUBLISH", "a.b", "x") == 4
    got = sorted(c.reply() for _ in range(4))
    assert got == sorted(
        [[b"message", b"a.b", b"x"]] + [[b"pmessage", p, b"a.b", b"x"] for p in (b"a.*", b"*b", b"a.b")]
    )
    assert c.silent()


def test_too_many_globs_are_refused_and_the_connection_stays(start):
    broker = start(reactors=2, listen=RESP, limits={"globs": 3})
    c = Resp(broker.address())
    c.say("PSUBSCRIBE", "a?", "b?", "exact", "a*", "a.*", "c?", "d?", "d?", "a?")
    assert [c.reply() for _ in range(9)] == [
        [b"psubscribe", b"a?", 1],
        [b"psubscribe", b"b?", 2],
        [b"psubscribe", b"exact", 3],
        [b"psubscribe", b"a*", 4],
        [b"psubscribe", b"a.*", 5],
        [b"psubscribe", b"c?", 6],
        b"-ERR too many patterns",
        b"-ERR too many patterns",
        [b"psubscribe", b"a?", 6],
    ]
    assert c.ask("PUNSUBSCRIBE", "a?") == [b"punsubscribe", b"a?", 5]
    assert c.ask("PSUBSCRIBE", "d?") == [b"psubscribe", b"d?", 6]


@pytest.mark.parametrize("glob", ["x" * 256, b"\xff*"])
def test_what_is_no_glob_is_refused_before_anything_is_done(client, glob):
    assert client.ask("PSUBSCRIBE", "a*", glob) == b"-ERR bad pattern"
    assert client.ask("PUBSUB", "NUMPAT") == 0


def test_topics_that_leave_nothing_behind_are_channels_too(broker):
    subscribers = both_reactors(broker, 6)
    publisher = Resp(broker.address())
    for i, c in enumerate(subscribers):
        assert c.ask("SUBSCRIBE", "_INBOX.me.1", "$me") == [b"subscribe", b"_INBOX.me.1", 1]
        assert c.reply() == [b"subscribe", b"$me", 2]
        assert publisher.ask("PUBLISH", "_INBOX.me.1", "x") == i + 1
        assert publisher.ask("PUBSUB", "NUMSUB", "_INBOX.me.1", "$me") == [b"_INBOX.me.1", i + 1, b"$me", i + 1]
        assert c.reply() == [b"message", b"_INBOX.me.1", b"x"]
    # They are kept as patterns, but are none.
    assert publisher.ask("PUBSUB", "NUMPAT") == 0


def test_keyspace_events_are_confirmed_and_silent(client):
    assert client.ask("PSUBSCRIBE", "__key*__:*") == [b"psubscribe", b"__key*__:*", 1]
    assert client.silent()


def test_wildcards_in_first_place_do_not_match_the_broker_s_own_topics(broker, client):
    client.ask("PSUBSCRIBE", "*")
    client.ask("PSUBSCRIBE", "?sys.*")
    assert client.silent(2)
    assert client.ask("PSUBSCRIBE", "$sys.st*") == [b"psubscribe", b"$sys.st*", 3]


# --- counts ----------------------------------------------------------------------------------------------


def test_publish_counts_the_subscriptions_of_all_reactors_and_protocols(broker):
    subscribers = both_reactors(broker)
    publishers = both_reactors(broker, 4)
    for i, c in enumerate(subscribers):
        assert c.ask("SUBSCRIBE", "a") == [b"subscribe", b"a", 1]
        # From the confirmation on it is counted, by whoever publishes.
        assert [p.ask("PUBLISH", "a", "x") for p in publishers] == [i + 1] * len(publishers)
    line = broker.subscribe("a")
    broker.loop.wait(lambda: publishers[0].ask("PUBLISH", "a", "x") == len(subscribers) + 1, "a line's subscriber")
    assert publishers[0].ask("PUBSUB", "NUMSUB", "a", "b") == [b"a", len(subscribers) + 1, b"b", 0]
    assert publishers[1].ask("PUBSUB", "SHARDNUMSUB", "a") == [b"a", len(subscribers) + 1]
    line.close()
    for c in subscribers[1:]:
        c.socket.close()
    broker.loop.wait(lambda: publishers[0].ask("PUBLISH", "a", "x") == 1, "all others to be gone")


def test_counts_are_in_the_order_of_the_commands_whatever_their_homes(broker):
    """Topics with other homes answer in another order."""
    for i, c in enumerate(subscribers := both_reactors(broker, 8)):
        for n in range(i + 1):
            c.say("SUBSCRIBE", f"t.{n}")
            c.reply()
    publisher = Resp(broker.address())
    for _ in range(20):
        text, wanted = b"", []
        for n in list(range(8)) * 5:
            text += command("PUBLISH", f"t.{n}", "x")
            wanted.append(8 - n)
        text += command("PING") + command("PUBLISH", "t.0", "x") + command("PUBLISH", "bad*", "x")
        publisher.send(text)
        replies = [publisher.reply() for _ in range(len(wanted) + 3)]
        assert replies == wanted + [b"+PONG", 8, b"-ERR bad topic"]
    for c in subscribers:
        c.socket.close()


def test_channels_are_those_of_all_reactors(broker):
    clients = both_reactors(broker)
    names = sorted(f"c.{n}".encode() for n in range(len(clients) * 50))
    for i, c in enumerate(clients):
        c.say("SUBSCRIBE", *[f"c.{n}" for n in range(i * 50, (i + 1) * 50)])
        for _ in range(50):
            c.reply()
    asker = Resp(broker.address())
    assert sorted(asker.ask("PUBSUB", "CHANNELS")) == names
    assert sorted(asker.ask("PUBSUB", "CHANNELS", "c.1?")) == [b"c.%d" % n for n in range(10, 20)]
    assert asker.ask("PUBSUB", "CHANNELS", "") == []
    many = [f"c.{n}" for n in range(200)] + ["x"]
    assert asker.ask("PUBSUB", "NUMSUB", *many) == [
        v for n in many for v in (n.encode(), 0 if n == "x" else 1)
    ]
    assert int(re.search(r"pubsub_channels:(\d+)", asker.ask("INFO", "stats").decode())[1]) == len(names)
    for c in clients:
        c.socket.close()
    broker.loop.wait(lambda: asker.ask("PUBSUB", "CHANNELS") == [], "channels without subscribers")


# --- limits and ends -------------------------------------------------------------------------------------


def test_a_client_too_many_is_told_so_at_its_first_command(start):
    broker = start(listen=RESP, limits={"connections": 1})
    first = Resp(broker.address())
    assert first.ask("PING") == b"+PONG"
    second = Resp(broker.address())
    assert second.silent()
    second.say("HELLO", "3")
    assert second.rest() == b"-ERR max number of clients reached\r\n"
    assert first.ask("PING") == b"+PONG"


def test_a_client_beyond_its_subscriptions_is_closed_and_hears_nothing(start):
    broker = start(listen=RESP, limits={"subscriptions_per_connection": 2})
    c = Resp(broker.address())
    c.say("SUBSCRIBE", "a", "b", "c")
    assert c.rest() == b""


def test_what_was_published_before_the_end_is_answered(broker):
    c = Resp(broker.address())
    c.send(command("PUBLISH", "a", "x") * 100)
    c.socket.shutdown(socket.SHUT_WR)
    assert c.rest() == b":0\r\n" * 100


def test_quit_ends_it_and_what_stands_behind_is_not_done(broker, client):
    client.ask("SUBSCRIBE", "a")
    c = Resp(broker.address())
    c.send(command("QUIT") + command("PUBLISH", "a", "x"))
    assert c.rest() == b"+OK\r\n"
    assert client.silent()


def test_subscribers_are_closed_without_a_word_when_the_broker_drains(start):
    broker = start(listen=RESP)
    c = Resp(broker.address())
    c.ask("SUBSCRIBE", "a")
    broker.stop()
    assert c.rest() == b""


def test_nobody_is_limited_by_command_bytes(start):
    broker = start(listen=RESP, limits={"command_bytes": 512})
    names = [f"a.{n}" for n in range(500)]
    c = Resp(broker.address())
    c.say("SUBSCRIBE", *names)
    assert [c.reply()[2] for _ in names] == list(range(1, 501))


def test_silence_is_for_subscribers_only(start):
    broker = start(listen=RESP, limits={"handshake_seconds": 1})
    spoken, silent = Resp(broker.address()), Resp(broker.address())
    spoken.ask("PING")
    assert silent.rest() == b""
    assert spoken.ask("PING") == b"+PONG"


# --- clients of Debian's ---------------------------------------------------------------------------------


def redis_cli(broker, *words, text=""):
    host, port = broker.address().rsplit(":", 1)
    done = subprocess.run(
        ["redis-cli", "-h", host, "-p", port, *words], input=text, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_redis_cli_publishes_and_is_told_how_many(broker, client):
    client.ask("SUBSCRIBE", "a")
    assert redis_cli(broker, "PUBLISH", "a", "hello") == "1\n"
    assert client.reply() == [b"message", b"a", b"hello"]
    assert redis_cli(broker, "-3", "PUBSUB", "NUMSUB", "a") == "a\n1\n"
    assert redis_cli(broker, text="PING\nPUBLISH a x\n") == "PONG\n1\n"


@pytest.mark.parametrize("version", ["-2", "-3"])
def test_redis_cli_subscribes(broker, version):
    host, port = broker.address().rsplit(":", 1)
    with subprocess.Popen(
        ["redis-cli", version, "-h", host, "-p", port, "SUBSCRIBE", "a"], stdout=subprocess.PIPE, text=True
    ) as cli:
        try:
            assert [cli.stdout.readline() for _ in range(3)] == ["subscribe\n", "a\n", "1\n"]
            assert Resp(broker.address()).ask("PUBLISH", "a", "hello") == 1
            assert [cli.stdout.readline() for _ in range(3)] == ["message\n", "a\n", "hello\n"]
        finally:
            cli.kill()


def test_redis_benchmark_runs_its_tests_of_what_there_is(start):
    broker = start(listen=RESP)
    host, port = broker.address().rsplit(":", 1)
    for words in (["-t", "ping"], ["publish", "a", "hello"], ["-P", "16", "publish", "a", "hello"]):
        done = subprocess.run(
            ["redis-benchmark", "-h", host, "-p", port, "-q", "-n", "2000", "-c", "20", *words],
            capture_output=True,
            text=True,
            timeout=at_most(20),
        )
        assert done.returncode == 0 and "requests per second" in done.stdout, done.stdout + done.stderr
        assert "Error" not in done.stdout.replace("Could not fetch server CONFIG", ""), done.stdout


# --- clients of other languages --------------------------------------------------------------------------


# In what is found true of the real server the broker has no part.
@pytest.fixture(params=["broker", pytest.param("redis", marks=release_only)])
def server(request):
    """What a client of others cannot tell apart."""
    return request.getfixturevalue(request.param)


def address_of(server):
    return server.address() if callable(server.address) else server.address


def test_clients_of_node_find_redis_pubsub(server, tmp_path):
    """ioredis, node-redis, iovalkey and socket.io's adapter: see resp_clients.mjs."""
    done = node(CLIENTS, tmp_path, SERVER=address_of(server))
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert re.search(r"^# fail 0$", done.stdout, re.M) and re.search(r"^# pass 2[0-9]$", done.stdout, re.M)


def python_client(server, **options):
    host, port = address_of(server).rsplit(":", 1)
    return pyredis.Redis(host=host, port=int(port), socket_timeout=PATIENCE, **options)


def test_redis_py_publishes_and_subscribes(server):
    client = python_client(server, decode_responses=True)
    assert client.ping() and client.publish("py.nobody", "x") == 0
    with client.pubsub() as sub:
        sub.subscribe("py.a", "py.b")
        sub.psubscribe("py.c*")
        seen = [sub.get_message(timeout=PATIENCE) for _ in range(3)]
        assert [(m["type"], m["channel"], m["data"]) for m in seen] == [
            ("subscribe", "py.a", 1),
            ("subscribe", "py.b", 2),
            ("psubscribe", "py.c*", 3),
        ]
        assert client.publish("py.a", "hello") == 1
        assert client.publish("py.cc", "there") == 1
        seen = [sub.get_message(timeout=PATIENCE) for _ in range(2)]
        assert sorted((m["type"], m["pattern"], m["channel"], m["data"]) for m in seen) == sorted(
            [("message", None, "py.a", "hello"), ("pmessage", "py.c*", "py.cc", "there")], key=str
        )
        assert client.pubsub_numsub("py.a", "py.x") == [("py.a", 1), ("py.x", 0)]
        assert sorted(client.pubsub_channels("py.*")) == ["py.a", "py.b"]
        assert client.pubsub_numpat() == 1
        # An empty PING among messages.
        sub.ping()
        assert sub.get_message(timeout=PATIENCE)["type"] == "pong"
        sub.unsubscribe()
        sub.punsubscribe()
        ends = [sub.get_message(timeout=PATIENCE) for _ in range(3)]
        assert sorted(m["channel"] for m in ends) == ["py.a", "py.b", "py.c*"] and ends[-1]["data"] == 0
    with client.pipeline(transaction=False) as pipe:
        for n in range(100):
            pipe.publish("py.a", n)
        assert pipe.execute() == [0] * 100


def test_redis_py_reconnects_and_subscribes_again(broker):
    client = python_client(broker)
    sub = client.pubsub()
    names = [f"py.{n}" for n in range(500)]
    sub.subscribe(*names)
    for _ in names:
        sub.get_message(timeout=PATIENCE)
    sub.connection._sock.shutdown(socket.SHUT_RDWR)
    with pytest.raises(pyredis.ConnectionError):
        sub.get_message(timeout=PATIENCE)
    for _ in names:
        assert sub.get_message(timeout=PATIENCE)["type"] == "subscribe"
    assert client.publish("py.499", "back") == 1
    assert sub.get_message(timeout=PATIENCE)["data"] == b"back"


HIREDIS = r"""
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <hiredis/hiredis.h>

int main(int argc, char **argv)
{
	redisContext *sub = redisConnect(argv[1], atoi(argv[2])), *pub = redisConnect(argv[1], atoi(argv[2]));
	redisReply *r;

	assert(argc == 3 && sub && !sub->err && pub && !pub->err);
	r = redisCommand(pub, "PUBLISH %s %b", "hi.a", "x\0y", (size_t)3);
	assert(r->type == REDIS_REPLY_INTEGER && r->integer == 0);
	freeReplyObject(r);
	r = redisCommand(sub, "SUBSCRIBE hi.a");
	assert(r->type == REDIS_REPLY_ARRAY && r->elements == 3 && r->element[2]->integer == 1);
	freeReplyObject(r);
	for (int i = 0; i < 1000; i++)
		redisAppendCommand(pub, "PUBLISH %s %b", "hi.a", "x\0y", (size_t)3);
	for (int i = 0; i < 1000; i++) {
		assert(redisGetReply(pub, (void **)&r) == REDIS_OK && r->type == REDIS_REPLY_INTEGER && r->integer == 1);
		freeReplyObject(r);
		assert(redisGetReply(sub, (void **)&r) == REDIS_OK && r->elements == 3);
		assert(strcmp(r->element[0]->str, "message") == 0 && r->element[2]->len == 3);
		assert(memcmp(r->element[2]->str, "x\0y", 3) == 0);
		freeReplyObject(r);
	}
	r = redisCommand(pub, "GET a");
	assert(r->type == REDIS_REPLY_ERROR || r->type == REDIS_REPLY_NIL);
	freeReplyObject(r);
	redisFree(sub);
	redisFree(pub);
	return 0;
}
"""


def test_hiredis_publishes_and_subscribes(server, tmp_path):
    (tmp_path / "client.c").write_text(HIREDIS)
    subprocess.run(["gcc", "-o", tmp_path / "client", tmp_path / "client.c", "-lhiredis"], check=True)
    subprocess.run([tmp_path / "client", *address_of(server).rsplit(":", 1)], check=True, timeout=PATIENCE)
