"""Requests and queue groups over several brokers and nats-server's own clients."""

import itertools
import json
import subprocess

import pytest

from cluster import Client
from harness import BROKER, at_most
from test_upstream import is_ready, post, world  # noqa: F401 (a fixture)

LISTEN = {"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}, "nats": {"address": "127.0.0.1:0", "protocols": ["nats"]}}
NOBODY = b"NATS/1.0 503\r\n"
# What is kept nowhere: with a log services need topics of their own.
SERVICES = {"log": "jetstream", "stream": "LIVE", "create": True, "topics": ["live.>", "svc.>"]}
KINDS = [("live.svc", {"log": "none"}), ("svc.add", SERVICES)]


class Nats(Client):
    """A client of a broker's or a server's that makes requests, answers them, or works in a group."""

    def __init__(self, server):
        super().__init__(server)
        self.sids, self.requests = itertools.count(1), itertools.count(1)
        self.say('CONNECT {"verbose":false,"headers":true,"no_responders":true}')
        self.inbox = f"_INBOX.{id(self):x}"
        self.listen(f"{self.inbox}.*")

    def listen(self, subject, queue=""):
        self.say(f"SUB {subject} {queue} {next(self.sids)}")
        self.flush()
        return self

    def ask(self, subject, payload=b"?"):
        """In one segment with the subscription of an inbox of its own, as old clients do."""
        inbox = f"{self.inbox}x.{next(self.requests)}"
        self.say(f"SUB {inbox} {next(self.sids)}", f"PUB {subject} {inbox} {len(payload)}", payload)
        got, headers, answer = self.message()
        assert got == inbox
        return headers, answer

    def answer(self):
        """Takes one request and answers it with what it says, twice."""
        while True:
            words = self.line().split()
            if words[0] in (b"MSG", b"HMSG"):
                break
        body = self.body(words)
        assert len(words) == (5 if words[0] == b"MSG" else 6), f"no answer is wanted: {words}"
        self.say(b"PUB %s %d" % (words[3], 2 * len(body)), 2 * body)

    def body(self, words):
        total, head = int(words[-1]), int(words[-2]) if words[0] == b"HMSG" else 0
        while len(self.buffer) < total + 2:
            self.buffer += self.socket.recv(65536)
        body, self.buffer = self.buffer[head:total], self.buffer[total + 2 :]
        return body


@pytest.fixture
def net(world):  # noqa: F811
    """servers(), host(), and clients of either."""
    made = []

    class Port:
        def __init__(self, broker):
            self.port = int(broker.address(1).rsplit(":", 1)[1])

    def client(of):
        made.append(Nats(of if hasattr(of, "port") else Port(of)))
        return made[-1]

    def host(upstream):
        passing = {"topic": {"svc.>": {"passing": True}}} if "svc.>" in upstream.get("topics", ()) else {}
        return make_host(upstream=upstream, listen=LISTEN, **passing)

    make_host, world.client, world.shared = world.host, client, host
    yield world
    for one in made:
        one.close()


def servers_for(net, upstream):
    return net.servers(1, ["-js"] if upstream["log"] == "jetstream" else []).servers[0]


@pytest.mark.parametrize(("subject", "upstream"), KINDS)
def test_a_request_is_answered_on_whichever_host_or_server_somebody_answers(net, subject, upstream):
    server = servers_for(net, upstream)
    a, b = net.shared(upstream), net.shared(upstream)
    asker = net.client(a)
    assert asker.ask(subject)[0].startswith(NOBODY)
    not_told = net.client(a)
    not_told.say('CONNECT {"verbose":false,"headers":true,"no_responders":false}')
    not_told.say(f"PUB {subject} {not_told.inbox}.1 1", "?")
    for place in (b, server, a):
        responder = net.client(place).listen(subject)
        for who in (asker, net.client(server), net.client(b)):
            payload = b"%d" % id(who)
            inbox = f"{who.inbox}.1"
            who.say(f"PUB {subject} {inbox} {len(payload)}", payload)
            responder.answer()
            assert who.message() == (inbox, b"", 2 * payload)
        responder.close()
    not_told.say(f"PUB {not_told.inbox}.2 3", "end")
    assert not_told.message() == (f"{not_told.inbox}.2", b"", b"end")


@pytest.mark.parametrize(("subject", "upstream"), [*KINDS, ("live.jobs", SERVICES)])
def test_who_wants_no_echo_gets_what_others_publish_only(net, subject, upstream):
    servers_for(net, upstream)
    a, b = net.shared(upstream), net.shared(upstream)
    deaf, beside, far = net.client(a), net.client(a), net.client(b)
    deaf.say('CONNECT {"verbose":false,"headers":true,"echo":false}')
    everybody = (deaf, beside, far)
    for client in everybody:
        client.listen(subject).listen(subject.rsplit(".", 1)[0] + ".*")
    # One that its publisher has named, one with a header, and plain ones; each behind another's.
    head = b"NATS/1.0\r\nNats-Msg-Id: mine\r\n\r\n", b"NATS/1.0\r\nColour: red\r\n\r\n"
    for h in head:
        deaf.say(b"HPUB %s %d %d" % (subject.encode(), len(h), len(h) + 4), h + b"deaf")
    deaf.say(*[f"PUB {subject} 4", "deaf"] * 3)
    assert [beside.message()[2] for _ in range(10)] == [b"deaf"] * 10
    for client in (beside, far):
        client.say(f"PUB {subject} 6", "others")
    got = {client: sorted(client.message()[2] for _ in range(n)) for client, n in ((deaf, 4), (beside, 4), (far, 14))}
    assert got == {deaf: [b"others"] * 4, beside: [b"others"] * 4, far: [b"deaf"] * 10 + [b"others"] * 4}


@pytest.mark.parametrize(("subject", "upstream"), [*KINDS, ("live.jobs", SERVICES)])
def test_each_message_goes_to_one_member_of_a_group_over_all_hosts(net, subject, upstream):
    server = servers_for(net, upstream)
    a, b = net.shared(upstream), net.shared(upstream)
    pattern = subject.rsplit(".", 1)[0] + ".*"
    members = [net.client(a).listen(subject, "g"), net.client(b).listen(subject, "g"), net.client(b).listen(pattern, "g")]
    plain = net.client(b).listen(subject)
    if upstream["log"] == "none" or subject.startswith("svc"):
        members.append(net.client(server).listen(subject, "g"))
    publisher = net.client(a)
    n = 300
    for i in range(n):
        publisher.say(f"PUB {subject} 4", b"%04d" % i)
    publisher.flush()
    expected = [b"%04d" % i for i in range(n)]
    assert sorted(plain.message()[2] for _ in range(n)) == expected
    # A barrier of each says that no more is on its way; what was posted to a member has come before it.
    got = [[] for _ in members]
    net.hosts[0].loop.wait(lambda: sum(take(m, g) for m, g in zip(members, got)) == n, lambda: f"{[len(g) for g in got]}")
    assert sorted(itertools.chain(*got)) == expected
    assert all(got), [len(g) for g in got]


def take(member, got):
    """What has come to it by now is added; how many that makes."""
    member.say("PING")
    while (words := member.line().split())[0] != b"PONG":
        if words[0] in (b"MSG", b"HMSG"):
            got.append(member.body(words))
    return len(got)


def test_broker_load_publishes_on_one_host_and_subscribes_on_another_and_at_a_server(net):
    upstream = {"log": "jetstream", "stream": "LOAD", "create": True, "topics": ["load.>"]}
    server = servers_for(net, upstream)
    a, b = (host.address(1) for host in (net.shared(upstream), net.shared(upstream)))
    for to, args in ((b, []), (server.address, ["--deliver-prefix", "fan."])):
        command = [BROKER.with_name("broker-load"), "--json", "--protocol", "nats", "--publish-to", a, *args, to]
        command += ["--duration", "0.3", "--warmup", "0.1", "--rate", "100", "--topics", "2", "--bytes", "128"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=at_most(20))
        assert done.returncode == 0, done.stderr
        result = json.loads(done.stdout)
        assert (result["errors"], result["publish_to"]) == (0, a) and result["delivered"] > 0


def test_a_group_has_one_subscription_for_each_of_its_members_up_to_eight(net):
    server = servers_for(net, KINDS[0][1])
    host = net.shared(KINDS[0][1])
    members = [net.client(host).listen("live.*", "g") for _ in range(3)]
    assert server.subjects() == ["live.*"] * 3
    more = [net.client(host).listen("live.*", "g") for _ in range(8)]
    assert server.subjects() == ["live.*"] * 8
    for member in [*more, *members[1:]]:
        member.close()
    host.loop.wait(lambda: server.subjects() == ["live.*"], lambda: f"one is left: {server.subjects()}")


def test_a_publication_with_a_reply_is_acknowledged_as_the_stream_does(net):
    servers_for(net, SERVICES)
    a, b = net.shared(SERVICES), net.shared(SERVICES)
    for n, host in enumerate((a, b, a), 1):
        headers, answer = net.client(host).ask("live.a")
        assert (headers, json.loads(answer)) == (b"", {"stream": "LIVE", "seq": n})
    assert post(a, "live.a", b"x")[1]["id"].endswith(":4")


def test_without_the_cluster_nobody_answers_and_this_hosts_own_requests_go_on(net):
    server = servers_for(net, SERVICES)
    a = net.shared({**SERVICES, "not_ready_seconds": 1})
    net.client(a).listen("svc.add")
    responder = net.client(a).listen("own")
    asker = net.client(a)
    server.kill()
    a.loop.wait(lambda: not is_ready(a), "cut off")
    assert asker.ask("svc.add")[0].startswith(NOBODY)
    asker.say(f"PUB own {asker.inbox}.1 1", "x")
    responder.answer()
    assert asker.message() == (f"{asker.inbox}.1", b"", b"xx")
    server.start()
    a.loop.wait(lambda: is_ready(a), "back", at_most(20))
    again = net.client(a).listen("svc.sub")
    asker.say(f"PUB svc.sub {asker.inbox}.2 1", "y")
    again.answer()
    assert asker.message() == (f"{asker.inbox}.2", b"", b"yy")
