"""Redis clients where the broker has users: who may come, and what he may."""

import time

import pytest

from resp import Resp, command
from test_access import TOKEN, USERS, reload, token_hash

RESP = {"main": {"address": "127.0.0.1:0", "protocols": ["resp"]}}
NOAUTH = b"-NOAUTH Authentication required."
WRONGPASS = b"-WRONGPASS invalid username-password pair or user is disabled."
KNOWN = {name: user for name, user in USERS.items() if name != "anonymous"}
NOBODY = {"anonymous": "none"}


@pytest.fixture
def broker(start):
    return start(reactors=2, listen=RESP, user=KNOWN, auth=NOBODY)


@pytest.fixture
def client(broker):
    with Resp(broker.address()) as c:
        yield c


def test_before_auth_there_is_little_to_be_said(client):
    for words in (["PING"], ["PUBLISH", "scores.a", "x"], ["SUBSCRIBE", "scores.a"], ["INFO"], ["CLIENT", "ID"]):
        assert client.ask(*words) == NOAUTH
    assert client.ask("HELLO", "3").startswith(b"-NOAUTH HELLO must be called with the client already authenticated")
    assert client.ask("RESET") == b"+RESET"
    assert client.ask("NONSENSE").startswith(b"-ERR unknown command 'NONSENSE'")
    assert client.ask("QUIT") == b"+OK"


@pytest.mark.parametrize(
    "words",
    [
        ["AUTH", TOKEN],
        ["AUTH", "default", TOKEN],
        ["AUTH", "scores", "open sesame"],
        ["AUTH", "scores", TOKEN],
        ["HELLO", "2", "AUTH", "scores", "open sesame", "SETNAME", "me"],
        ["HELLO", "3", "AUTH", "default", TOKEN],
    ],
    ids=lambda words: " ".join(words[:3]),
)
def test_a_token_or_a_password_says_who_it_is(client, words):
    reply = client.ask(*words)
    assert reply == b"+OK" or b"broker" in (reply if isinstance(reply, list) else reply.values())
    assert client.ask("PUBLISH", "scores.a", "x") == 0
    assert client.ask("SUBSCRIBE", "scores.a", "user.scores.x") == [b"subscribe", b"scores.a", 1]


def test_pubsub_tells_of_channels_that_one_may_read_or_publish_to(start):
    """Of others it is not even to be known that somebody is there."""
    broker = start(
        reactors=2, listen=RESP,
        auth={"anonymous": "none"},
        user={
            "all": {"token_hash": [token_hash("t" * 32)], "publish": [">"], "subscribe": [">"]},
            "some": {"token_hash": [token_hash("s" * 32)], "subscribe": ["open.>"], "publish": ["in.*"]},
        },
    )
    with Resp(broker.address()) as everybody, Resp(broker.address()) as some:
        assert everybody.ask("AUTH", "t" * 32) == some.ask("AUTH", "s" * 32) == b"+OK"
        names = [f"{first}.{n}" for first in ("open", "in", "secret") for n in range(300)]
        everybody.say("SUBSCRIBE", *names)
        assert [everybody.reply()[1].decode() for _ in names] == names
        with Resp(broker.address()) as other:
            assert other.ask("AUTH", "t" * 32) == b"+OK"
            assert sorted(other.ask("PUBSUB", "CHANNELS")) == sorted(n.encode() for n in names)
        assert sorted(some.ask("PUBSUB", "CHANNELS")) == sorted(n.encode() for n in names if not n.startswith("secret"))
        assert some.ask("PUBSUB", "CHANNELS", "secret.*") == []
        assert some.ask("PUBSUB", "NUMSUB", "open.1", "secret.1", "in.1") == [b"open.1", 1, b"secret.1", 0, b"in.1", 1]


@pytest.mark.parametrize(
    "words", [["AUTH", "wrong"], ["AUTH", "scores", "wrong"], ["AUTH", "nobody", "open sesame"], ["HELLO", "3", "AUTH", "scores", "wrong"]]
)
def test_whoever_is_wrong_is_told_so_half_a_second_later_and_closed(client, words):
    began = time.monotonic()
    client.send(command(*words) + command("PING"))
    assert client.rest() == WRONGPASS + b"\r\n"
    assert time.monotonic() - began >= 0.5


def test_commands_behind_auth_wait_for_it(client):
    client.send(command("AUTH", "scores", "open sesame") + command("PUBLISH", "scores.a", "x") + command("PING"))
    assert [client.reply() for _ in range(3)] == [b"+OK", 0, b"+PONG"]


def test_only_what_is_listed_may_be_done_and_the_connection_stays(client):
    client.ask("AUTH", TOKEN)
    for words in (
        ["PUBLISH", "other", "x"],
        ["PUBLISH", "scores.admin.a", "x"],
        ["SUBSCRIBE", "scores.a", "other"],
        ["SSUBSCRIBE", "scores.a.secret"],
        ["SPUBLISH", "other", "x"],
        ["PUBLISH", "$sys.stats", "x"],
    ):
        assert client.ask(*words).startswith(b"-NOPERM ")
    assert client.ask("PUBSUB", "CHANNELS") == []
    assert client.ask("PUBLISH", "scores.a", "x") == 0


def test_reset_makes_it_nobody_again(client):
    client.ask("AUTH", TOKEN)
    client.ask("SUBSCRIBE", "scores.a")
    assert client.ask("RESET") == b"+RESET"
    assert client.ask("PING") == NOAUTH


def test_strangers_say_little_at_a_time(broker):
    for text, why in (
        (b"*11\r\n", b"unauthenticated multibulk length"),
        (b"*1\r\n$16385\r\n", b"unauthenticated bulk length"),
    ):
        assert Resp(broker.address()).send(text).rest() == b"-ERR Protocol error: " + why + b"\r\n"
    c = Resp(broker.address())
    c.ask("AUTH", TOKEN)
    assert c.ask("PUBLISH", "scores.a", b"x" * 20000) == 0


def test_strangers_may_what_is_listed_for_them(start):
    broker = start(listen=RESP, user=USERS, auth={"anonymous": "all"})
    c = Resp(broker.address())
    assert c.ask("SUBSCRIBE", "public.a") == [b"subscribe", b"public.a", 1]
    c.ask("RESET")
    assert c.ask("PUBLISH", "public.a", "x").startswith(b"-NOPERM ")


def test_whose_topics_are_no_longer_allowed_is_closed(broker, client):
    client.ask("AUTH", TOKEN)
    client.ask("SUBSCRIBE", "scores.a")
    other = Resp(broker.address())
    other.ask("AUTH", "empty")
    broker.configure(user={**KNOWN, "scores": {"token_hash": [token_hash(TOKEN)], "subscribe": ["other"]}})
    reload(broker)
    assert client.rest() == b""
    assert other.ask("PING") == b"+PONG"


def test_a_glob_is_allowed_whole_or_not_at_all(client):
    client.ask("AUTH", TOKEN)
    for glob in ("*", "s*", "scores*", "[s]cores.*", "other.*"):
        assert client.ask("PSUBSCRIBE", glob).startswith(b"-NOPERM ")
    # A pattern that is denied somewhere is refused, one that is not is granted.
    assert client.ask("PSUBSCRIBE", "scores.*").startswith(b"-NOPERM ")
    assert client.ask("PSUBSCRIBE", "user.scores.a*", "scores.one") == [b"psubscribe", b"user.scores.a*", 1]
    assert client.reply() == [b"psubscribe", b"scores.one", 2]


def test_whose_globs_are_still_allowed_stays_and_whose_are_not_is_closed(broker, client):
    client.ask("AUTH", TOKEN)
    assert client.ask("PSUBSCRIBE", "user.scores.a*") == [b"psubscribe", b"user.scores.a*", 1]
    for subscribe, stays in ((["user.scores.>", "x"], True), (["user.scores.b"], False)):
        broker.configure(user={**KNOWN, "scores": {"token_hash": [token_hash(TOKEN)], "subscribe": subscribe}})
        reload(broker)
        if stays:
            assert client.silent(1.5)
        else:
            assert client.rest() == b""
