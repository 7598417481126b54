"""Who may come and what he may: identities, permissions, and what happens when they change."""

import base64
import hashlib
import hmac
import json
import os
import re
import signal
import subprocess
import time
import warnings

import pytest

import mqtt_wire
from certificates import Authority, Issuer, letters
from harness import BROKER, TEST_SECONDS, at_most, dial, release_only, run
from test_http import HTTP, events, open, publish  # noqa: F401 (a fixture)
from test_tls import connect, context, say, secure

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import crypt

TOKEN = "not-a-secret-of-anybody"
WRONG_SECONDS = 0.5


def token_hash(token):
    return "sha256:" + hashlib.sha256(token.encode()).hexdigest()


def password_hash(password):
    """Quick to check: what takes long is not what most tests are about."""
    return crypt.crypt(password, "$6$rounds=1000$saltsalt$")


USERS = {
    "scores": {
        "password_hash": password_hash("open sesame"),
        "token_hash": [token_hash(TOKEN)],
        "publish": ["scores.>"],
        "subscribe": ["scores.>", "user.%u.>"],
        "deny_publish": ["scores.admin.>"],
        "deny_subscribe": ["scores.*.secret"],
    },
    "empty": {"token_hash": [token_hash("empty")], "publish": [], "subscribe": []},
    "silent": {"token_hash": [token_hash("silent")]},
    "watcher": {"token_hash": [token_hash("watcher")], "monitor": True},
    "anonymous": {"subscribe": ["public.>"]},
}


def reload(broker):
    since = broker.log_size()
    broker.send_signal(signal.SIGHUP)
    broker.says("is in force", since=since)


def bearer(token):
    return {"Authorization": f"Bearer {token}"}


def basic(user, password):
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def told(broker, text):
    """All that a line client hears who says that."""
    return broker.say(text).rest()


# --- credentials ------------------------------------------------------------------------------------


def test_a_line_client_is_who_its_token_or_password_says(start):
    broker = start(user=USERS)
    reader = broker.connect()
    reader.send(f"AUTH {TOKEN}\r\nSUBSCRIBE scores.one\r\n".encode())
    assert reader.take(2) == [b"OK", b"OK"]
    writer = broker.connect()
    writer.send(b"AUTH scores open sesame\r\nPUBLISH scores.one\r\nhello\r\nBYE\r\n")
    assert writer.rest() == [b"OK", b"OK"]
    assert reader.take(1) == [b"hello"]


@pytest.mark.parametrize("shown", ["nonsense", "scores wrong", "nobody open sesame", f"{TOKEN}x", "scores "])
def test_a_wrong_credential_is_refused_half_a_second_later(start, shown):
    broker = start(user=USERS)
    began = time.monotonic()
    expected = b"ERROR malformed command" if shown.endswith(" ") else b"ERROR not permitted"
    assert told(broker, f"AUTH {shown}\r\nSUBSCRIBE public.a\r\n") == [expected]
    if not shown.endswith(" "):
        assert time.monotonic() - began >= WRONG_SECONDS
        broker.says("auth failed reason=.* address=127.0.0.1 protocol=line")
    assert "open sesame" not in broker.log() and TOKEN not in broker.log()


def test_commands_behind_a_credential_wait_for_it(start):
    """A client that says all it has and half-closes is heard to its end."""
    broker = start(user={"slow": {"password_hash": crypt.crypt("x", "$6$rounds=200000$saltsalt$"), "publish": ["a"]},
                         "reader": {"token_hash": [token_hash("r")], "subscribe": ["a"]}})
    reader = broker.connect()
    reader.send(b"AUTH r\r\nSUBSCRIBE a\r\n")
    assert reader.take(2) == [b"OK", b"OK"]
    writer = broker.connect()
    writer.send(b"AUTH slow x\r\nPUBLISH a\r\n" + b"".join(b"%d\r\n" % i for i in range(5000)))
    writer.half_close()
    assert writer.rest() == [b"OK", b"OK"]
    assert reader.take(5000) == [b"%d" % i for i in range(5000)]


def test_http_takes_bearer_basic_and_cookie(open):
    broker = open(user=USERS, auth={"cookie": "session"}, http={"allowed_origins": ["https://ours.example"]})
    client = broker.http()
    assert publish(client, "scores.one", b"1", **bearer(TOKEN)).endswith(":1")
    assert publish(client, "scores.one", b"2", **basic("scores", "open sesame")).endswith(":2")
    cookie = {"Cookie": f"other=1; session={TOKEN}; session2=x"}
    # A cookie comes with the requests of any page: only those of our own pages count.
    assert client.ask("GET", "/topic/scores.one/1", **cookie).status == 401
    assert client.ask("GET", "/topic/scores.one/1", **cookie, Sec_Fetch_Site="cross-site", Host_="x").status in (401, 403)
    ours = {**cookie, "Origin": "https://ours.example"}
    assert client.ask("GET", "/topic/scores.one/1", **ours).body == b"1"
    # Each request stands for itself.
    assert client.ask("GET", "/topic/scores.one/1").status == 401


def test_http_says_who_could_ask_better(open):
    broker = open(user=USERS)
    client = broker.http()
    refused = client.ask("GET", "/topic/scores.one").error(401, "not permitted")
    assert refused.fields["www-authenticate"] == 'Basic realm="broker", charset="UTF-8", Bearer realm="broker"'
    assert "connection" not in refused.fields, "it may ask again"
    client.ask("GET", "/topic/other", **bearer(TOKEN)).error(403, "not permitted")
    for field in ("Digest x", "Bearer", "Bearer a b", "Basic ###", "Basic " + base64.b64encode(b"nocolon").decode()):
        client.ask("GET", "/topic/other", Authorization=field).error(401, "malformed credentials")
    began = time.monotonic()
    client.ask("GET", "/topic/scores.one", **bearer("x")).error(401, "not permitted")
    assert time.monotonic() - began >= WRONG_SECONDS and client.rest() == b""


@pytest.mark.parametrize("query", ["token=x", "access_token=x", "authorization=x", "jwt=x", "password=x"])
def test_a_credential_in_an_address_is_refused(open, query):
    broker = open(user=USERS)
    for target in ("/topic/public.a", "/subscribe/public.a"):
        broker.http().ask("GET", f"{target}?{query}").error(400, "credentials do not belong in an address")


def test_a_body_waits_for_the_password_that_comes_before_it(open):
    broker = open(user={"slow": {"password_hash": crypt.crypt("x", "$6$rounds=200000$saltsalt$"),
                                 "publish": ["a"], "subscribe": ["a"]}}, auth={"cache_seconds": 0})
    client = broker.http()
    body = os.urandom(300_000)
    assert publish(client, "a", body, **basic("slow", "x")).endswith(":1")
    client.request("POST", "/publish/a", b"second", **basic("slow", "x"))
    client.request("GET", "/topic/a/1", **basic("slow", "x"))
    assert client.answer().json["id"].endswith(":2")
    assert client.answer().body == body
    chunked = broker.http()
    head = {"Transfer-Encoding": "chunked", **basic("slow", "x")}
    chunked.request("POST", "/publish/a", **head)
    chunked.send(b"3\r\nabc\r\n0\r\n\r\n")
    assert chunked.answer().json["id"].endswith(":3")


def test_a_unix_peer_is_who_he_runs_as(start, tmp_path):
    path = f"unix:{tmp_path}/broker.sock"
    broker = start(listen={"main": {"address": path, "protocols": ["line"]}}, auth={"anonymous": "none"},
                   user={"me": {"uid": os.getuid(), "subscribe": ["mine"]}})
    assert told(broker, "SUBSCRIBE mine\r\nBYE\r\n") == [b"OK"]
    assert told(broker, "SUBSCRIBE other\r\n") == [b"ERROR not permitted"]
    broker.says(f"auth ok user=me how=uid address=unix:{os.getuid()} protocol=line")


def test_a_certificates_name_is_a_users(start, tmp_path):
    authority = Authority(tmp_path)
    listener = secure(authority.issue("main", "DNS:localhost"), client_auth="optional", client_ca=authority.chain)
    users = {"scores": {"certificate": "scores.example", "subscribe": ["scores.>"]},
             "other": {"token_hash": [token_hash("other")], "subscribe": ["other"]}}
    broker = start(listen={"main": listener}, auth={"anonymous": "none"}, user=users)
    shown = context(authority, client=authority.issue("client", "DNS:scores.example"))
    unknown = context(authority, client=authority.issue("unknown", "DNS:unknown.example"))
    client = say(connect(broker, shown), b"SUBSCRIBE scores.a\r\n")
    assert client.recv(100) == b"OK\r\n"
    for ctx in (unknown, context(authority)):
        assert say(connect(broker, ctx), b"SUBSCRIBE scores.a\r\n").recv(100) == b"ERROR not permitted\r\n"
    # A further credential takes its place, for as long as it is shown.
    http = connect(broker, shown)
    head = b"GET /topic/%s HTTP/1.1\r\nHost: localhost\r\n%s\r\n"
    for topic, field, status in ((b"scores.a", b"", b"200"), (b"scores.a", b"Authorization: Bearer other\r\n", b"403"),
                                 (b"scores.a", b"", b"200")):
        http.sendall(head % (topic, field))
        assert http.recv(4000).split(b" ", 2)[1] == status
    broker.says("auth ok user=scores how=certificate address=127.0.0.1 protocol=line")
    broker.configure(user={"other": users["other"]})
    reload(broker)
    assert client.recv(100) == b"ERROR not permitted\r\n" and client.recv(100) == b""


def test_anonymous_none_lets_nobody_in(open):
    broker = open(user=USERS, auth={"anonymous": "none"})
    assert told(broker, "SUBSCRIBE public.a\r\n") == [b"ERROR not permitted"]
    assert told(broker, "PUBLISH public.a\r\n") == [b"ERROR not permitted"]
    client = broker.http()
    for target in ("/topic/public.a", "/topic/public.a/1", "/topic/public.a/last", "/metrics", "/stats.json", "/"):
        assert client.ask("GET", target).status == 401, target
    for target in ("/health", "/ready"):
        assert client.ask("GET", target).status == 200


def test_who_has_no_credential_may_what_anonymous_may(open):
    broker = open(user=USERS)
    assert told(broker, "SUBSCRIBE public.a\r\nBYE\r\n") == [b"OK"]
    assert told(broker, "PUBLISH public.a\r\n") == [b"ERROR not permitted"]
    broker.http().ask("POST", "/publish/public.a", b"x").error(401, "not permitted")


# --- permissions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("command, permitted", [
    ("PUBLISH scores.one", True),
    ("PUBLISH scores", False),
    ("PUBLISH scores.admin.x", False),
    ("PUBLISH user.scores.x", False),
    ("SUBSCRIBE user.scores.x", True),
    ("SUBSCRIBE user.other.x", False),
    ("SUBSCRIBE scores.one.secret", False),
    ("SUBSCRIBE scores.one.open", True),
    ("SUBSCRIBE scores.one LAST 1", True),
    ("SUBSCRIBE other LAST 1", False),
    ("SUBSCRIBE other FROM 0000000000000001:1", False),
    ("SUBSCRIBE $sys.stats", True),  # of the local page, as ever
    ("PUBLISH $sys.stats", False),
])
def test_a_user_may_what_is_listed_and_not_denied(start, command, permitted):
    broker = start(user=USERS)
    client = broker.connect()
    client.send(f"AUTH {TOKEN}\r\n{command}\r\n".encode())
    assert client.take(2) == [b"OK", b"OK" if permitted else b"ERROR not permitted"]
    if not permitted:
        broker.says(r"denied user=scores action=\w+ topic=\S+")


@pytest.mark.parametrize("user", ["empty", "silent"])
def test_an_empty_list_and_none_are_nothing(open, user):
    """Mosquitto CVE-2018-12550: an empty list of permissions permitted everything."""
    broker = open(user=USERS)
    broker.http().ask("POST", "/publish/public.a", b"x", **bearer(user)).error(403, "not permitted")
    broker.http().ask("GET", "/topic/public.a", **bearer(user)).error(403, "not permitted")
    assert told(broker, f"AUTH {user}\r\nSUBSCRIBE public.a\r\n") == [b"OK", b"ERROR not permitted"]


def test_the_past_is_for_who_may_subscribe(open):
    broker = open(user={**USERS, "writer": {"token_hash": [token_hash("w")], "publish": ["scores.>"]}})
    client = broker.http()
    publish(client, "scores.one", b"x", **bearer("w"))
    for target in ("/topic/scores.one", "/topic/scores.one/1", "/topic/scores.one/last"):
        client.ask("GET", target, **bearer("w")).error(403, "not permitted")
        assert client.ask("GET", target, **bearer(TOKEN)).status == 200
    for accept in ("text/event-stream", "*/*"):
        client.ask("GET", "/subscribe/scores.one?last=1", Accept=accept, **bearer("w")).error(403, "not permitted")


def test_figures_are_for_who_may_monitor(open):
    """Through a proxy, which says whom it speaks for, nobody is local."""
    broker = open(user={**USERS, "anonymous": {"subscribe": ["public.>"]}})
    client = broker.http()
    for target in ("/metrics", "/stats.json", "/topics", "/clients", "/"):
        assert client.ask("GET", target).status == 200
        assert client.ask("GET", target, X_Forwarded_For="203.0.113.7").status == 401
        assert client.ask("GET", target, X_Forwarded_For="203.0.113.7", **bearer(TOKEN)).status == 403
        assert client.ask("GET", target, X_Forwarded_For="203.0.113.7", **bearer("watcher")).status == 200


def test_a_user_has_so_many_connections_at_a_time(start):
    broker = start(user={"few": {"token_hash": [token_hash("t")], "subscribe": ["a"], "connections": 2}})
    kept = [broker.connect() for _ in range(2)]
    for client in kept:
        client.send(b"AUTH t\r\nSUBSCRIBE a\r\n")
        assert client.take(2) == [b"OK", b"OK"]
    assert told(broker, "AUTH t\r\nSUBSCRIBE a\r\n") == [b"ERROR too many connections"]
    kept[0].leave()

    def one_more():
        return told(broker, "AUTH t\r\nSUBSCRIBE a\r\nBYE\r\n") == [b"OK", b"OK"]

    broker.loop.wait(one_more, "there is room for one more")


# --- tokens of others -------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["HS256", "RS256", "ES256", "EdDSA"])
def test_a_token_of_every_algorithm_is_taken(open, tmp_path, algorithm):
    issuer = Issuer(tmp_path, algorithm)
    broker = open(auth={"anonymous": "none", **issuer.config()})
    client = broker.http()
    token = issuer.token(sub="somebody", broker={"publish": ["a.>"], "subscribe": ["a.*"]})
    publish(client, "a.b", b"x", **bearer(token))
    assert client.ask("GET", "/topic/a.b/1", **bearer(token)).body == b"x"
    client.ask("GET", "/topic/a.b.c", **bearer(token)).error(403, "not permitted")
    broker.says("auth ok user=somebody how=jwt")
    assert told(broker, f"AUTH {token}\r\nSUBSCRIBE a.b LAST 1\r\nBYE\r\n") == [b"OK", b"OK", b"x"]
    # Somebody else's name, and what he may, under the same signature.
    head, claims, signature = token.split(".")
    for other in (f"{head}.{claims}.{letters(b'x' * 64)}", f"{head}.{letters(json.dumps({'broker': {}}).encode())}.{signature}"):
        client = broker.http()
        client.ask("GET", "/topic/a.b/1", **bearer(other)).error(401, "not permitted")


@pytest.fixture
def issuer(tmp_path):
    return Issuer(tmp_path, "HS256")


@pytest.mark.parametrize("wrong", [
    {"exp": -60}, {"nbf": 60}, {"exp": "soon"}, {"iss": "other"}, {"aud": "other"}, {"aud": ["x", 1]},
    {"broker": []}, {"broker": {"subscribe": "a"}}, {"broker": {"subscribe": [1]}}, {"broker": {"subscribe": ["a..b"]}},
    {"broker": {"subscribe": ["a"] * 257}}, {"pad": "x" * 9000},
], ids=str)
def test_a_token_is_refused_with_a_claim_that_is_wrong(open, issuer, wrong):
    broker = open(auth=issuer.config(issuer="us", audience="broker"))
    now = int(time.time())
    claims = {"iss": "us", "aud": ["x", "broker"], "broker": {"subscribe": ["a"]}}
    right = issuer.token(**claims)
    assert broker.http().ask("GET", "/topic/a", **bearer(right)).status == 404
    for name, value in wrong.items():
        claims[name] = now + value if name in ("exp", "nbf") and isinstance(value, int) else value
    broker.http().ask("GET", "/topic/a", **bearer(issuer.token(**claims))).error(401, "not permitted")


@pytest.mark.parametrize("head", [
    {"alg": "none"}, {"alg": "None"}, {"alg": "HS512"}, {"alg": None}, {"crit": ["exp"]}, {"crit": []}, {"kid": "other"}, {"kid": 1},
], ids=str)
def test_a_token_is_refused_with_a_head_that_is_wrong(open, issuer, head):
    broker = open(auth=issuer.config())
    token = issuer.token(head, broker={"subscribe": ["a"]})
    broker.http().ask("GET", "/topic/a", **bearer(token)).error(401, "not permitted")
    unsigned = ".".join(token.split(".")[:2]) + "."
    broker.http().ask("GET", "/topic/a", **bearer(unsigned)).error(401, "not permitted")


def test_a_public_key_does_not_sign_as_a_secret(open, tmp_path):
    """Whoever takes the token's word for its algorithm takes HS256 with what everybody knows."""
    issuer = Issuer(tmp_path, "RS256")
    broker = open(auth=issuer.config(algorithms=["RS256", "HS256"]))
    text = ".".join(letters(json.dumps(part).encode()) for part in ({"alg": "HS256"}, {"broker": {"subscribe": ["a"]}}))
    forged = hmac.new(issuer.public.read_bytes(), text.encode(), hashlib.sha256).digest()
    broker.http().ask("GET", "/topic/a", **bearer(f"{text}.{letters(forged)}")).error(401, "not permitted")


def test_a_token_without_the_claim_may_nothing_and_mercures_counts(open, issuer):
    broker = open(auth=issuer.config())
    client = broker.http()
    client.ask("GET", "/topic/a", **bearer(issuer.token(sub="x"))).error(403, "not permitted")
    everything = issuer.token(mercure={"subscribe": ["*"]})
    assert client.ask("GET", "/topic/a.b.c", **bearer(everything)).status == 404
    broker.http().ask("POST", "/publish/a", b"x", **bearer(everything)).error(403, "not permitted")
    one_level = issuer.token(broker={"subscribe": ["*"]}, mercure={"subscribe": ["*"]})
    client.ask("GET", "/topic/a.b", **bearer(one_level)).error(403, "not permitted")


def test_a_connection_ends_with_its_token(open, issuer):
    """Mercure looks at the time at the start only."""
    broker = open(auth=issuer.config(leeway_seconds=0))
    token = issuer.token(exp=int(time.time()) + 2, broker={"subscribe": ["a"], "publish": ["a"]})
    for_ever = issuer.token(broker={"subscribe": ["a"]})
    line, other = broker.connect(), broker.connect()
    line.send(f"AUTH {token}\r\nSUBSCRIBE a\r\n".encode())
    other.send(f"AUTH {for_ever}\r\nSUBSCRIBE a\r\n".encode())
    assert line.take(2) == other.take(2) == [b"OK", b"OK"]
    sse = events(broker.http(), "/subscribe/a", **bearer(token))
    began = time.monotonic()
    assert line.rest() == [b"ERROR token expired"]
    assert time.monotonic() - began < at_most(3.5)
    assert sse.rest().endswith(b"0\r\n\r\n")
    broker.http().ask("GET", "/topic/a", **bearer(token)).error(401, "not permitted")
    broker.says("revoked user=jwt reason=expired")
    publish(broker.http(), "a", b"still here", **bearer(issuer.token(broker={"publish": ["a"]})))
    assert other.take(1) == [b"still here"]


# --- tickets ----------------------------------------------------------------------------------------


def ticket(client, topics, **fields):
    answer = client.ask("POST", "/ticket", json.dumps({"subscribe": topics}).encode(), **fields)
    return answer.json["ticket"] if answer.status == 200 else answer


def test_a_ticket_is_for_one_stream_of_what_its_asker_may(open):
    broker = open(user=USERS, auth={"anonymous": "none"})
    client = broker.http()
    text = ticket(client, ["scores.one"], **bearer(TOKEN))
    stream = events(broker.http(), f"/subscribe/scores.one?ticket={text}")
    publish(client, "scores.one", b"x", **bearer(TOKEN))
    assert stream.event()[1] == "data: x"
    broker.http().ask("GET", f"/subscribe/scores.one?ticket={text}").error(401, "not permitted")
    other = ticket(client, ["scores.one"], **bearer(TOKEN))
    broker.http().ask("GET", f"/subscribe/scores.two?ticket={other}").error(403, "not permitted")
    ticket(client, ["scores.one", "other"], **bearer(TOKEN)).error(403, "not permitted")
    ticket(broker.http(), ["scores.one"]).error(401, "not permitted")
    assert text not in broker.log()


def test_a_ticket_is_good_on_every_host_that_has_the_same_keys(open, tmp_path):
    pair = Authority(tmp_path).issue("main", "DNS:localhost", "IP:127.0.0.1")
    keys = [os.urandom(80) for _ in range(3)]

    def host(name, *which):
        (tmp_path / name).write_bytes(b"".join(keys[n] for n in which))
        (tmp_path / name).chmod(0o600)
        secured = secure(pair, ticket_keys=tmp_path / name)
        return open(user=USERS, auth={"anonymous": "none"}, listen={**HTTP, "secured": secured})

    # One is a rotation behind: what it signs with is the other's second key.
    old, new, other = host("old", 0), host("new", 1, 0), host("other", 2)
    for one, another, status in ((old, new, 200), (new, new, 200), (new, other, 401), (other, old, 401)):
        text = ticket(one.http(), ["scores.one"], **bearer(TOKEN))
        answer = another.http().ask("GET", f"/topic/scores.one/last?ticket={text}")
        assert answer.status in ((200, 404) if status == 200 else (401,)), answer
    # A reload brings another key; what it has signed before is good while the key is there.
    text = ticket(other.http(), ["scores.one"], **bearer(TOKEN))
    (tmp_path / "other").write_bytes(keys[0] + keys[2])
    reload(other)
    assert other.http().ask("GET", f"/topic/scores.one/last?ticket={text}").status == 404
    text = ticket(other.http(), ["scores.one"], **bearer(TOKEN))
    assert old.http().ask("GET", f"/topic/scores.one/last?ticket={text}").status == 404


@pytest.mark.parametrize("body", ["", "[]", "{}", '{"subscribe":[]}', '{"subscribe":"a"}', '{"subscribe":["a"],"publish":["a"]}',
                                  '{"subscribe":["a..b"]}', json.dumps({"subscribe": ["public.a"] * 65})])
def test_a_ticket_is_asked_for_in_one_way(open, body):
    broker = open(user=USERS)
    answer = broker.http().ask("POST", "/ticket", body.encode(), **bearer(TOKEN))
    assert answer.status == 400 and answer.json["error"]


def test_a_ticket_is_over_in_time_and_cannot_be_made(open):
    broker = open(user=USERS, auth={"ticket_seconds": 1})
    text = ticket(broker.http(), ["scores.one"], **bearer(TOKEN))
    head, claims, signature = text.split(".")
    forged = json.loads(base64.urlsafe_b64decode(claims + "=="))
    forged["subscribe"] = ["scores.two"]
    broker.http().ask("GET", f"/topic/scores.two?ticket={head}.{letters(json.dumps(forged).encode())}.{signature}").error(401, "not permitted")
    time.sleep(2.1)
    broker.http().ask("GET", f"/topic/scores.one?ticket={text}").error(401, "not permitted")


# --- passwords --------------------------------------------------------------------------------------


def test_many_clients_of_one_user_cost_one_hash(open):
    """NATS #1513: after a restart everybody comes back at once, and each cost a hash."""
    broker = open(user={"many": {"password_hash": crypt.crypt("x", "$6$rounds=400000$saltsalt$"), "subscribe": ["a"]},
                        "watcher": {"token_hash": [token_hash("watcher")], "monitor": True}})
    clients = [broker.connect() for _ in range(200)]
    for client in clients:
        client.send(b"AUTH many x\r\nSUBSCRIBE a\r\n")
    broker.loop.wait_each(clients, lambda c: c.has(2), "everybody is in")
    assert all(client.take(2) == [b"OK", b"OK"] for client in clients)
    text = broker.http().ask("GET", "/metrics", **bearer("watcher")).body.decode()
    reactors = len(re.findall(r'^broker_hash_seconds_count\{', text, re.M))
    assert sum(map(int, re.findall(r'^broker_hash_seconds_count\{.*\} (\d+)', text, re.M))) <= reactors
    assert sum(map(int, re.findall(r'^broker_auth_total\{.*how="password",result="ok"\} (\d+)', text, re.M))) == 200


def test_beyond_what_may_wait_clients_are_told_to_come_again(open):
    slow = crypt.crypt("x", "$6$rounds=900000$saltsalt$")
    users = {f"u{i}": {"password_hash": slow, "subscribe": ["a"]} for i in range(12)}
    broker = open(user=users, auth={"hash_pending": 2})
    clients = [broker.connect() for _ in users]
    for client, name in zip(clients, users):
        client.send(f"AUTH {name} x\r\nSUBSCRIBE a\r\nBYE\r\n".encode())
    answers = [client.rest() for client in clients]
    assert [b"ERROR busy"] in answers and [b"OK", b"OK"] in answers
    assert all(a in ([b"ERROR busy"], [b"OK", b"OK"]) for a in answers)
    # Reactors have not waited: a healthy client beside it is served at once.
    assert broker.http().ask("GET", "/health").status == 200


def test_unknown_users_are_not_to_be_told_from_known_ones(start):
    """The same work, and the same answer: what differs is noise."""
    broker = start(user={"known": {"password_hash": crypt.crypt("x", "$6$rounds=400000$saltsalt$")}}, auth={"failures": 1000})

    def cpu(name):
        before = broker.cpu_ticks()
        for i in range(8):
            assert told(broker, f"AUTH {name} wrong{i}\r\n") == [b"ERROR not permitted"]
        return broker.cpu_ticks() - before

    known, unknown = cpu("known"), cpu("unknown")
    assert known > 0 and unknown > 0 and 1 / 3 < known / unknown < 3


def test_an_address_that_guesses_is_refused_for_a_while(start):
    broker = start(user=USERS, auth={"failures": 3})
    for i in range(3):
        assert told(broker, f"AUTH guess{i}\r\n") == [b"ERROR not permitted"]
    assert told(broker, f"AUTH {TOKEN}\r\nSUBSCRIBE scores.one\r\n") == [b"ERROR not permitted"]
    broker.says('reason="too many failures"')
    # Others are not concerned.
    other = broker.connect(source="127.0.0.2")
    other.send(f"AUTH {TOKEN}\r\nSUBSCRIBE scores.one\r\n".encode())
    assert other.take(2) == [b"OK", b"OK"]


# --- changes ----------------------------------------------------------------------------------------


def changed(**users):
    return {**USERS, **users}


@pytest.mark.parametrize("change", ["user gone", "token replaced", "topic gone", "topic denied"])
def test_what_a_reload_takes_away_ends_within_a_second(open, change):
    """Mosquitto 2018-12551 and #1402, NATS #2282: others were dropped, or nobody was."""
    other = {"token_hash": [token_hash("other")], "publish": ["scores.>"], "subscribe": ["scores.>"]}
    broker = open(user=changed(other=other))
    reader, writer, kept = broker.connect(), broker.connect(), broker.connect()
    reader.send(f"AUTH {TOKEN}\r\nSUBSCRIBE scores.one\r\n".encode())
    writer.send(f"AUTH {TOKEN}\r\nPUBLISH scores.one\r\n".encode())
    kept.send(b"AUTH other\r\nSUBSCRIBE scores.one\r\n")
    for client in (reader, writer, kept):
        assert client.take(2) == [b"OK", b"OK"]
    sse = events(broker.http(), "/subscribe/scores.one", **bearer(TOKEN))
    users = changed(other=other)
    if change == "user gone":
        del users["scores"]
    elif change == "token replaced":
        users["scores"] = {**USERS["scores"], "token_hash": [token_hash("another")]}
    elif change == "topic gone":
        users["scores"] = {**USERS["scores"], "publish": ["x"], "subscribe": ["x"]}
    else:
        users["scores"] = {**USERS["scores"], "deny_publish": ["scores.*"], "deny_subscribe": ["scores.one"]}
    broker.configure(user=users)
    reload(broker)
    began = time.monotonic()
    assert reader.rest() == writer.rest() == [b"ERROR not permitted"]
    assert sse.rest().endswith(b"0\r\n\r\n")
    assert time.monotonic() - began < at_most(1)
    broker.says("revoked user=scores reason=(credential|topic)")
    publish(broker.http(), "scores.one", b"still here", **bearer("other"))
    assert kept.take(1) == [b"still here"]


def mqtt_client(broker, level=4, **said):
    return mqtt_wire.Client(broker.address(0), level, user="", password=TOKEN, **said)


@pytest.mark.parametrize("left", ["parent", "children"])
def test_a_filter_of_mqtt_ends_when_a_reload_takes_the_level_before_it(start, left):
    """"a/#" is for "a", too."""
    device = {"token_hash": [token_hash(TOKEN)], "subscribe": ["a", "a.>"], "publish": ["a"]}
    broker = start(listen={"main": {"address": "127.0.0.1:0", "protocols": ["mqtt"]}}, user={"device": device})
    taken, kept = mqtt_client(broker).subscribe("a/#"), mqtt_client(broker).subscribe("a")
    if left == "parent":
        broker.configure(user={"device": {**device, "subscribe": ["a"]}})
    else:
        broker.configure(user={"device": {**device, "subscribe": ["a.>"], "deny_subscribe": ["b"]}})
    reload(broker)
    assert taken.rest() == []
    broker.says("revoked user=device reason=topic")
    if left == "parent":
        kept.send(mqtt_wire.publish(4, "a", b"still"))
        assert kept.message()[3] == b"still"


@pytest.mark.parametrize("gone", ["permission", "user"])
def test_a_will_that_may_not_be_published_any_more_is_not(start, gone):
    """Neither when its client goes afterwards nor when it is made to go."""
    device = {"token_hash": [token_hash(TOKEN)], "publish": ["will", "other"]}
    watcher = {"token_hash": [token_hash("watcher")], "subscribe": ["will"], "publish": ["will"]}
    listen = {"main": {"address": "127.0.0.1:0", "protocols": ["mqtt", "line"]}}
    broker = start(reactors=1, listen=listen, user={"device": device, "watcher": watcher})
    client = mqtt_client(broker, will=("will", "gone", 0, b""))
    reader, writer = broker.say("AUTH watcher\r\nSUBSCRIBE will\r\n"), broker.say("AUTH watcher\r\nPUBLISH will\r\n")
    assert reader.take(2) == writer.take(2) == [b"OK", b"OK"]
    rest = {"watcher": watcher}
    broker.configure(user=rest if gone == "user" else {**rest, "device": {**device, "publish": ["other"]}})
    reload(broker)
    if gone == "user":
        assert client.rest() == []
    else:
        client.send(b"\x00\x00")
        assert client.rest() == []
    writer.send(b"after\r\n")
    assert reader.take(1) == [b"after"]


def test_a_reload_that_takes_nothing_away_is_not_noticed(open):
    broker = open(user=USERS)
    reader, stranger = broker.connect(), broker.connect()
    reader.send(f"AUTH {TOKEN}\r\nSUBSCRIBE scores.one\r\n".encode())
    stranger.send(b"SUBSCRIBE public.a\r\n")
    assert reader.take(2) == [b"OK", b"OK"] and stranger.take(1) == [b"OK"]
    sse = events(broker.http(), "/subscribe/scores.one", **bearer(TOKEN))
    # A second token while the first is replaced.
    broker.configure(user=changed(scores={**USERS["scores"], "token_hash": [token_hash("new"), token_hash(TOKEN)]}))
    reload(broker)
    publish(broker.http(), "scores.one", b"x", **bearer("new"))
    assert reader.take(1) == [b"x"] and sse.event()[1] == "data: x"


def test_a_slow_reader_who_may_not_any_more_is_cut_off(start):
    broker = start(user=USERS, topics={"backlog_bytes": "64M", "backlog_seconds": 600})
    reader, writer = broker.connect(rcvbuf=4096), broker.connect()
    reader.send(f"AUTH {TOKEN}\r\nSUBSCRIBE scores.one\r\n".encode())
    assert reader.take(2) == [b"OK", b"OK"]
    reader.stall()
    writer.send(f"AUTH {TOKEN}\r\nPUBLISH scores.one\r\n".encode() + b"".join(b"x" * 9998 + b"\r\n" for _ in range(1000)))
    assert writer.take(2) == [b"OK", b"OK"]
    broker.loop.wait(lambda: broker.stats()["published"] == 1000, "all is published")
    users = dict(USERS)
    del users["scores"]
    broker.configure(user=users)
    reload(broker)
    broker.says("revoked user=scores reason=credential")

    def cut_off():
        stats = broker.stats()
        return stats["dropped_closed"] > 0 and stats["delivered"] + stats["dropped_closed"] == 1000

    broker.loop.wait(cut_off, "he is cut off")


def test_a_bad_file_of_users_changes_nothing(open, tmp_path):
    """Mosquitto CVE-2017-7652 and 2018-12551: a reload that failed left the broker open."""
    users = tmp_path / "users.conf"

    def write(text, mode=0o600):
        users.write_text(text)
        users.chmod(mode)

    good = f'user "me" {{ token_hash = {{ "{token_hash(TOKEN)}" }} publish = {{ "a" }} subscribe = {{ "a" }} }}\n'
    write(good)
    text = 'listen "main" { address = "127.0.0.1:0" }\nauth { anonymous = "none" }\ninclude("' + str(users) + '")\n'
    broker = open(text=text)
    reader = broker.connect()
    reader.send(f"AUTH {TOKEN}\r\nSUBSCRIBE a\r\n".encode())
    assert reader.take(2) == [b"OK", b"OK"]
    for bad, mode in ((good, 0o644), ("user me {", 0o600), ('user "me" { token_hash = { "x" } }', 0o600), (good + good, 0o600),
                      (good.replace('"me"', '"you"') + good, 0o600)):
        write(bad, mode)
        since = broker.log_size()
        broker.send_signal(signal.SIGHUP)
        broker.says("the old configuration stays in force", since=since)
        publish(broker.http(), "a", b"x", **bearer(TOKEN))
        assert reader.take(1) == [b"x"]
        assert told(broker, "SUBSCRIBE a\r\n") == [b"ERROR not permitted"]
    users.unlink()
    since = broker.log_size()
    broker.send_signal(signal.SIGHUP)
    broker.says("the old configuration stays in force", since=since)
    assert told(broker, "SUBSCRIBE a\r\n") == [b"ERROR not permitted"]


# --- the start --------------------------------------------------------------------------------------


def check(directory, text, mode=0o600):
    path = directory / "broker.conf"
    path.write_text(text)
    return run("-c", path, "--check")


def test_a_start_that_lets_everybody_do_everything_is_refused(tmp_path):
    everybody = 'listen "out" { address = "0.0.0.0:0" allow_plain = true }\nauth { anonymous = "all" }\n'
    refused = check(tmp_path, everybody)
    assert refused.returncode == 2 and 'anonymous = "none"' in refused.stderr and 'user "anonymous"' in refused.stderr
    told_so = check(tmp_path, everybody + 'user "anonymous" { publish = { ">" } subscribe = { "public.>" } }\n')
    assert told_so.returncode == 0
    assert "whoever has no credential may publish >, subscribe to public.>." in told_so.stdout
    assert check(tmp_path, everybody.replace("0.0.0.0", "127.0.0.1")).returncode == 0


def test_check_says_what_an_outsider_could_do(tmp_path):
    said = check(tmp_path, 'listen "main" { address = "127.0.0.1:0" }\n').stdout
    assert ('access by listen "main": this host only: whoever has no credential may do everything, and so may everybody '
            "for whom a proxy on this host speaks.") in said
    said = check(tmp_path, 'listen "main" { address = "127.0.0.1:0" }\nauth { anonymous = "none" }\n'
                           'user "a" { publish = { "x" } deny_subscribe = { "y" } monitor = true }\n').stdout
    assert "whoever has no credential may do nothing." in said
    assert 'access of user "a": may publish x, subscribe to nothing but not y, and read figures.' in said


def test_a_secret_that_others_can_read_is_refused(tmp_path):
    key = tmp_path / "jwt.key"
    key.write_bytes(os.urandom(32))
    text = f'auth {{ jwt {{ algorithms = {{ "HS256" }} keys = {{ "{key}" }} }} }}\nlisten "main" {{ address = "127.0.0.1:0" }}\n'
    key.chmod(0o644)
    refused = check(tmp_path, text)
    assert refused.returncode == 2 and "0600" in refused.stderr
    key.chmod(0o600)
    assert check(tmp_path, text).returncode == 0
    key.write_bytes(os.urandom(31))
    assert check(tmp_path, text).returncode == 2


def test_credentials_are_made_at_the_prompt(start, tmp_path):
    made = subprocess.run([BROKER, "--hash-password"], input="a pass word\n", capture_output=True, text=True, timeout=TEST_SECONDS, check=True)
    pair = subprocess.run([BROKER, "--make-token"], capture_output=True, text=True, timeout=TEST_SECONDS, check=True).stdout
    token, hashed = re.fullmatch(r"token: (\S{43})\ntoken_hash: (sha256:[0-9a-f]{64})\n", pair).groups()
    broker = start(user={"me": {"password_hash": made.stdout.strip(), "token_hash": [hashed], "subscribe": ["a"]}})
    assert told(broker, "AUTH me a pass word\r\nSUBSCRIBE a\r\nBYE\r\n") == [b"OK", b"OK"]
    assert told(broker, f"AUTH {token}\r\nSUBSCRIBE a\r\nBYE\r\n") == [b"OK", b"OK"]
    assert subprocess.run([BROKER, "--hash-password"], input="\n", capture_output=True, text=True, timeout=TEST_SECONDS).returncode == 2


# --- before anybody is there ------------------------------------------------------------------------


@release_only  # a sanitizer holds back what is freed
def test_who_is_not_there_yet_makes_the_broker_hold_little(start):
    """Redis CVE-2025-21605 and Mosquitto 2023-0809: clients without a credential made it grow."""
    broker = start(user=USERS, auth={"anonymous": "none"}, limits={"handshake_seconds": 60})
    before = broker.memory()
    clients = [broker.connect() for _ in range(50)]
    for client in clients:
        client.send(b"AUTH " + b"x" * 8000)
    time.sleep(0.5)
    assert broker.memory() - before < 50 * (20 << 10)
    for client in clients:
        client.send(b"x" * 8000)
    assert all(client.rest() == [b"ERROR line too long"] for client in clients)


def test_a_command_before_the_credential_is_the_last(start):
    broker = start(user=USERS, auth={"anonymous": "none"})
    assert told(broker, f"SUBSCRIBE public.a\r\nAUTH {TOKEN}\r\n") == [b"ERROR not permitted"]
    assert told(broker, f"AUTH {TOKEN}\r\nAUTH nonsense\r\nSUBSCRIBE scores.one\r\n") == [b"OK", b"ERROR not permitted"]


@pytest.mark.parametrize("name", ["a\x1b[31m", "a" * 4000, "a\rb", 'a"b'])
def test_what_clients_are_called_cannot_forge_a_line_of_the_log(start, name):
    broker = start(user=USERS)
    assert told(broker, f"AUTH {name} wrong\r\n") == [b"ERROR not permitted"]
    broker.says("auth failed")
    line = next(line for line in broker.log().splitlines() if "auth failed" in line)
    assert len(line) < 1000 and "\x1b" not in line and "\r" not in line and 'a"b' not in line


def test_an_mqtt_filter_is_permitted_with_the_level_that_it_stands_for_too(start):
    """`a/#` matches `a` as well: who may subscribe to what is below it alone is refused."""

    users = {"below": {"token_hash": [token_hash("below")], "subscribe": ["a.>"]},
             "all": {"token_hash": [token_hash("all")], "subscribe": ["a", "a.>"]}}
    broker = start(listen={"main": {"address": "127.0.0.1:0", "protocols": ["mqtt"]}}, user=users)
    for user, code in (("below", 0x80), ("all", 0)):
        with dial(broker.address()) as client:
            client.sendall(mqtt_wire.connect(identifier=user, user=user.encode(), password=user.encode()))
            client.settimeout(TEST_SECONDS)
            assert client.recv(4) == b"\x20\x02\0\0"
            client.sendall(bytes([0x82, 8, 0, 1, 0, 3]) + b"a/#" + b"\0")
            assert client.recv(5) == bytes([0x90, 3, 0, 1, code])
