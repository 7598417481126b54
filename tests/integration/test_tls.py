"""TLS, with real clients: openssl(1), curl, Python's ssl, Node."""

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import time
from xml.etree import ElementTree

import pytest

from certificates import Authority, openssl
from harness import PATIENCE, SANITIZER, Expect, config_text, line_listener, run, whole_seconds

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def main(authority):
    return authority.issue("main", "DNS:localhost", "IP:127.0.0.1")


def certificate(pair):
    return {"chain": pair[0], "key": pair[1]}


def secure(pair, protocols=("line", "http"), **tls):
    """A listener with this certificate."""
    return {"address": "127.0.0.1:0", "protocols": list(protocols), "tls": {"certificate": {"main": certificate(pair)}, **tls}}


def context(authority, version=None, client=None, alpn=None):
    """What a client trusts and shows."""
    c = ssl.create_default_context(cafile=authority.chain)
    c.options &= ~0x80  # SSL_OP_IGNORE_UNEXPECTED_EOF
    if version:
        c.minimum_version = c.maximum_version = VERSIONS[version]
    if client:
        c.load_cert_chain(*client)
    if alpn:
        c.set_alpn_protocols(alpn)
    return c


def connect(broker, ctx, name="localhost", session=None, index=0):
    """A blocking socket that has shaken hands."""
    host, port = broker.address(index).rsplit(":", 1)
    plain = socket.create_connection((host, int(port)), PATIENCE)
    try:
        return ctx.wrap_socket(plain, server_hostname=name, session=session)
    except BaseException:
        plain.close()
        raise


def say(tls, data):
    tls.sendall(data)
    return tls


def ask(tls, request):
    """A request's answer, to the end."""
    tls.sendall(request)
    answer = b""
    while data := tls.recv(1 << 16):
        answer += data
    return answer


def common_name(tls):
    return dict(x[0] for x in tls.getpeercert()["subject"])["commonName"]


def metrics(broker, index):
    """Numbers by name and labels, summed over the reactors."""
    host, port = broker.address(index).rsplit(":", 1)
    with socket.create_connection((host, int(port)), PATIENCE) as s:
        text = ask(s, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").decode()
    total = {}
    for name, value in re.findall(r"^(broker_\S+(?:\{.*?\})?) ([\d.e+-]+)$", text, re.M):
        name = re.sub(r'reactor="\d+",?', "", name).replace("{}", "")
        total[name] = total.get(name, 0) + float(value)
    return total


# --- what goes through --------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_every_protocol_of_the_listener_is_spoken_within_it(start, authority, main, version):
    broker = start(listen={"main": secure(main)}, reactors=2)
    ctx = context(authority, version)
    subscriber = broker.subscribe("a", context=ctx)
    publisher = broker.say("PUBLISH a\r\nfirst\r\n", context=ctx).ok()
    assert subscriber.take(1) == [b"first"]
    answer = ask(connect(broker, ctx), b"POST /publish/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecond")
    assert answer.startswith(b"HTTP/1.1 200")
    assert subscriber.take(1) == [b"second"]
    assert publisher.leave() == []
    assert subscriber.leave() == []
    # What the log proposes to try speaks TLS, too.
    assert f"; try: openssl s_client -quiet -connect {broker.address()}  then" in broker.log()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("bytes,count", [(10, 20000), (8 << 10, 500), (1 << 20, 24)], ids=["small", "8K", "1M"])
def test_everything_comes_once_in_order_and_undamaged(start, authority, main, version, bytes, count):
    broker = start(listen={"main": secure(main)}, reactors=2, limits={"message_bytes": "2M", "handshake_seconds": 60}, topics={"backlog_bytes": "512M", "backlog_seconds": 600})
    ctx = context(authority, version)
    subscribers = [broker.subscribe("a", context=ctx) for _ in range(3)] + [broker.subscribe("a", context=ctx)]
    filler = random.Random(7).randbytes(bytes).hex().encode()[:bytes]
    content = b"".join(b"%d:" % i + filler + b"\r\n" for i in range(count))
    for s in subscribers:
        s.sink = Expect(content)
    subscribers[3].stall()
    publisher = broker.say(b"PUBLISH a\r\n" + content + b"BYE\r\n", context=ctx).ok()
    assert publisher.rest(60) == []
    for s in subscribers[:3]:
        broker.loop.wait(s.sink.complete, "all of it has come", 60)
    subscribers[3].resume()
    for s in subscribers:
        broker.loop.wait(s.sink.complete, "all of it has come", 60)
        assert s.sink.wrong_at is None and s.sink.at == len(content)


def test_what_goes_out_together_is_sealed_together(start, authority, main):
    broker = start(listen={"main": secure(main), "plain": {"address": "127.0.0.1:0"}})
    ctx = context(authority)
    subscribers = [broker.subscribe("a", context=ctx) for _ in range(4)]
    before = metrics(broker, 1)["broker_tls_records_total"]
    lines = [b"%064d" % i for i in range(1000)]
    broker.say(b"PUBLISH a\r\n" + b"".join(x + b"\r\n" for x in lines), context=ctx).ok()
    for s in subscribers:
        assert s.take(len(lines)) == lines
    sealed = metrics(broker, 1)["broker_tls_records_total"] - before
    assert sealed < 4 * 100, "1000 messages are a few records"


def test_a_browsers_kind_of_clients_get_what_they_ask_for(start, authority, main, tmp_path):
    broker = start(listen={"main": secure(main)})
    port = broker.address().rsplit(":", 1)[1]
    for flags in ([], ["--tlsv1.3"], ["--tls-max", "1.2"], ["--http1.0"]):
        got = subprocess.run(["curl", "-sS", "--cacert", authority.chain, *flags, f"https://localhost:{port}/health"], capture_output=True, text=True, timeout=30)
        assert (got.stdout.strip(), got.stderr, got.returncode) == ("ok", "", 0)
    script = tmp_path / "client.mjs"
    script.write_text("""
        import https from "node:https"; import fs from "node:fs";
        const agent = new https.Agent({ ca: fs.readFileSync(process.env.CA), keepAlive: true });
        const ask = (path, options = {}, body) => new Promise((done, fail) => {
            const r = https.request({ host: "localhost", port: process.env.PORT, path, agent, ...options }, (res) => {
                let text = ""; res.on("data", (d) => { text += d; if (options.first) { done(text); r.destroy(); } });
                res.on("end", () => done(text));
            });
            r.on("error", fail); r.end(body);
        });
        const stream = ask("/subscribe/n?last=1", { headers: { Accept: "text/event-stream" }, first: true });
        for (let i = 0; i < 20; i++) await ask("/publish/n", { method: "POST" }, "m" + i);
        if (!(await stream)) throw new Error("no stream");
        console.log(await ask("/topic/n/last"));
        agent.destroy();
    """)
    got = subprocess.run(["node", script], env={**os.environ, "CA": str(authority.chain), "PORT": port}, capture_output=True, text=True, timeout=60)
    assert (got.stdout.strip(), got.stderr) == ("m19", "")


# --- the handshake ------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("keys", ["random", "file"])
def test_a_ticket_is_good_on_every_reactor(start, authority, main, version, keys, tmp_path):
    tls = {}
    if keys == "file":
        (tmp_path / "keys").write_bytes(os.urandom(160))
        (tmp_path / "keys").chmod(0o600)
        tls["ticket_keys"] = tmp_path / "keys"
    broker = start(listen={"main": secure(main, **tls)}, reactors=4)
    ctx = context(authority, version)
    with connect(broker, ctx) as first:
        say(first, b"SUBSCRIBE a\r\n").recv(100)
        session = first.session
        assert not first.session_reused
    for _ in range(24):
        with connect(broker, ctx, session=session) as again:
            assert again.session_reused
            assert say(again, b"SUBSCRIBE a\r\n").recv(100) == b"OK\r\n"


def test_without_tickets_nothing_is_resumed(start, authority, main):
    broker = start(listen={"main": secure(main, ticket_seconds=0)})
    ctx = context(authority)
    with connect(broker, ctx) as first:
        say(first, b"SUBSCRIBE a\r\n").recv(100)
        assert not first.session or not first.session.has_ticket


def test_the_name_that_is_asked_for_chooses_the_certificate(start, authority, main):
    other = authority.issue("other", "DNS:other.example", "DNS:*.wild.example")
    listener = secure(main)
    listener["tls"]["certificate"]["other"] = certificate(other)
    broker = start(listen={"main": listener})
    ctx = context(authority)
    for name, wanted in [("localhost", "main"), ("other.example", "other"), ("OTHER.example", "other"), ("a.wild.example", "other")]:
        with connect(broker, ctx, name) as tls:
            assert common_name(tls) == wanted
    ctx.check_hostname = False
    for name in ["nobody.example", "a.b.wild.example", "wild.example", None]:
        with connect(broker, ctx, name) as tls:
            assert common_name(tls) == "main"


def test_alpn_is_strict(start, authority, main):
    broker = start(listen={"main": secure(main)})
    with pytest.raises(ssl.SSLError, match="no application protocol"):
        connect(broker, context(authority, alpn=["h2", "mqtt"]))
    with connect(broker, context(authority, alpn=["h2", "http/1.1"])) as tls:
        assert tls.selected_alpn_protocol() == "http/1.1"
        assert say(tls, b"SUBSCRIBE a\r\n\r\n").recv(100).startswith(b"HTTP/1.1 400"), "what was chosen holds"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_shows_a_certificate_where_that_is_required(start, authority, main, version, tmp_path):
    stranger = Authority(tmp_path, "stranger")
    broker = start(listen={"main": secure(main, client_auth="required", client_ca=authority.chain)})
    good, bad = authority.issue("client", "DNS:scores.example"), stranger.issue("client", "DNS:scores.example")
    assert say(connect(broker, context(authority, version, good)), b"SUBSCRIBE a\r\n").recv(100) == b"OK\r\n"
    for shown in [None, bad]:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            assert say(connect(broker, context(authority, version, shown)), b"SUBSCRIBE a\r\n").recv(100) == b"OK\r\n"


def test_a_client_need_not_show_a_certificate_where_that_is_optional_but_a_bad_one_is_refused(start, authority, main, tmp_path):
    stranger = Authority(tmp_path, "stranger").issue("client", "DNS:x")
    broker = start(listen={"main": secure(main, client_auth="optional", client_ca=authority.chain)})
    assert say(connect(broker, context(authority)), b"SUBSCRIBE a\r\n").recv(100) == b"OK\r\n"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        say(connect(broker, context(authority, client=stranger)), b"SUBSCRIBE a\r\n").recv(100)


def test_a_revoked_certificate_is_refused(start, main, authority, tmp_path):
    own = Authority(tmp_path, "own")
    good, revoked = own.issue("good", "DNS:good"), own.issue("revoked", "DNS:revoked")
    crl = own.revocations(revoked[0])
    broker = start(listen={"main": secure(main, client_auth="required", client_ca=own.chain, client_crl=crl)})
    assert say(connect(broker, context(authority, client=good)), b"SUBSCRIBE a\r\n").recv(100) == b"OK\r\n"
    with pytest.raises((ssl.SSLError, ConnectionError)):
        assert say(connect(broker, context(authority, client=revoked)), b"SUBSCRIBE a\r\n").recv(100) == b"OK\r\n"


def test_who_does_not_finish_the_handshake_in_time_is_closed(start, main):
    broker = start(listen={"main": secure(main)}, limits={"handshake_seconds": whole_seconds(1)})
    host, port = broker.address().rsplit(":", 1)
    silent, begun, slow = (socket.create_connection((host, int(port)), PATIENCE) for _ in range(3))
    begun.sendall(b"\x16\x03\x01\x02\x00\x01")
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(100)
    began = time.monotonic()
    for byte in hello:
        try:
            slow.sendall(bytes([byte]))
        except OSError:
            break
        time.sleep(0.05)
        if time.monotonic() - began > PATIENCE:
            pytest.fail("a byte now and then holds it open")
    for client in (silent, begun, slow):
        try:
            assert client.recv(100) == b""
        except ConnectionResetError:
            pass
        client.close()


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"SUBSCRIBE a\r\n", b"\r\n\r\n\r\n\r\n\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(66000), bytes(100)],
                         ids=["http", "line", "empty", "long", "zeros"])
def test_plain_bytes_on_a_secure_port_are_not_acted_on(start, main, said):
    broker = start(listen={"main": secure(main)})
    host, port = broker.address().rsplit(":", 1)
    with socket.create_connection((host, int(port)), PATIENCE) as plain:
        got = b""
        try:
            plain.sendall(said)
            while data := plain.recv(1000):
                got += data
        except ConnectionError:
            pass
    assert got == b"" or (len(got) == 7 and got[0] == 0x15), "nothing, or an alert"


def test_a_client_hello_on_a_plain_port_is_a_malformed_command(start, authority):
    broker = start(listen={"main": line_listener()})
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(broker, context(authority))
    with socket.create_connection(("127.0.0.1", int(broker.address().rsplit(":", 1)[1])), PATIENCE) as s:
        s.sendall(b"\x16\x03\x01\x00\x05hello\n")
        assert s.recv(100).startswith(b"ERROR malformed command")


# --- the end ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
def test_close_notify_is_a_clients_end_of_file_and_answered(start, authority, main, version):
    broker = start(listen={"main": secure(main)})
    ctx = context(authority, version)
    publisher = broker.say("PUBLISH a\r\none\r\n", context=ctx).ok()
    publisher.half_close()
    assert publisher.rest() == []
    subscriber = broker.subscribe("a", context=ctx)
    subscriber.half_close()
    subscriber.rest()


@pytest.mark.parametrize("version", VERSIONS)
def test_an_end_of_file_alone_publishes_nothing_that_is_not_whole(start, authority, main, version):
    broker = start(listen={"main": secure(main), "plain": line_listener()})
    watcher = broker.subscribe("a", index=1)
    publisher = broker.say("PUBLISH a\r\nwhole\r\nnot whol", context=context(authority, version)).ok()
    broker.loop.wait(lambda: not publisher.out and not publisher.sealed, "it is sent")
    assert watcher.take(1) == [b"whole"]
    publisher.socket.shutdown(socket.SHUT_WR)
    broker.loop.wait(lambda: publisher.ended, "the broker closes")
    assert not publisher.notified, "which is no receipt"
    broker.say("PUBLISH a\r\nnext\r\n", index=1).ok()
    assert watcher.take(1) == [b"next"]


def test_the_end_of_the_broker_is_said_to_everybody(start, authority, main):
    broker = start(listen={"main": secure(main)}, reactors=2)
    subscribers = [broker.subscribe(f"t{i}", context=context(authority)) for i in range(10)]
    broker.send_signal(signal.SIGTERM)
    for s in subscribers:
        assert s.rest() == [b"ERROR draining"]
    broker.finish()


def interactive(broker, version, letters):
    """What s_client's letters do to a connection: its exit code."""
    host, port = broker.address().rsplit(":", 1)
    p = subprocess.Popen(["openssl", "s_client", "-connect", f"{host}:{port}", f"-tls{version.replace('.', '_')}"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        time.sleep(0.3)
        p.stdin.write(b"SUBSCRIBE a\n")
        p.stdin.flush()
        for letter in letters:
            time.sleep(0.02)
            p.stdin.write(letter + b"\n")
            p.stdin.flush()
        try:
            return p.wait(2 if SANITIZER is None else 6)
        except subprocess.TimeoutExpired:
            return None
    except BrokenPipeError:
        return p.wait(PATIENCE)
    finally:
        p.kill()
        p.stdin = None
        p.communicate()


def test_who_wants_to_renegotiate_is_closed(start, main):
    broker = start(listen={"main": secure(main)})
    assert interactive(broker, "1.2", [b"R"]) is not None
    broker.eventually(subscriptions=0)


def test_who_changes_keys_all_the_time_is_closed(start, main):
    broker = start(listen={"main": secure(main)})
    assert interactive(broker, "1.3", [b"k"] * 40) is not None
    broker.eventually(subscriptions=0)


# --- those who do not take what they are sent ---------------------------------------------------------


def test_those_who_stand_still_do_not_hold_the_others_up(start, authority, main):
    """Sealed bytes of those who take nothing would fill every buffer there is."""
    broker = start(listen={"main": secure(main)}, limits={"send_buffer_bytes": "4K", "message_bytes": "1M"}, topics={"backlog_bytes": "64M", "backlog_seconds": 600})
    ctx = context(authority)
    stuck = [broker.subscribe("big", context=ctx, rcvbuf=4096) for _ in range(200)]
    for s in stuck:
        s.stall()
    content = b"x" * 500_000 + b"\r\n"
    broker.say(b"PUBLISH big\r\n" + content * 4, context=ctx).ok()
    other = broker.subscribe("small", context=ctx)
    publisher = broker.say("PUBLISH small\r\n", context=ctx).ok()
    for i in range(50):
        publisher.send_lines(b"%d" % i)
        assert other.take(1) == [b"%d" % i]
    for s in stuck[:20]:
        s.resume()
        assert s.take(4, 60) == [content[:-2]] * 4


def test_a_slow_subscriber_skips_or_is_told_so(start, authority, main):
    broker = start(listen={"main": secure(main), "plain": line_listener()}, limits={"send_buffer_bytes": "4K"},
                   topic={"skip.>": {"slow": "skip", "backlog_bytes": "64K"}, "slow.>": {"backlog_bytes": "64K"}})
    ctx = context(authority)
    clients = {name: broker.subscribe(f"{name}.a", context=ctx, rcvbuf=4096) for name in ("skip", "slow")}
    for name, client in clients.items():
        client.stall()
        publisher = broker.connect(index=1)
        publisher.send(f"PUBLISH {name}.a\r\n")
        publisher.ok()
        for i in range(4000):
            publisher.send_lines(b"%d:" % i + b"y" * 1000)
        publisher.leave()
    stats = broker.stats()
    assert stats["dropped_skipped"] > 0 and stats["dropped_slow"] > 0
    got = clients["slow"].rest(60)
    assert got[-1] == b"ERROR slow consumer"
    clients["skip"].resume()
    publisher = broker.say("PUBLISH skip.a\r\nlast\r\n", index=1).ok()
    seen = []
    while not seen or seen[-1] != b"last":
        seen += clients["skip"].take(1, 60)
    numbers = [int(x.split(b":")[0]) for x in seen[:-1]]
    assert numbers == sorted(set(numbers)), "whole messages, in order"


def test_memory_comes_back_when_everybody_has_gone(start, authority, main):
    broker = start(listen={"main": secure(main), "plain": {"address": "127.0.0.1:0"}})
    ctx = context(authority)

    def used():
        return metrics(broker, 1)["broker_memory_bytes"]

    def round():
        clients = [broker.subscribe("a", context=ctx) for _ in range(50)]
        broker.say(b"PUBLISH a\r\n" + b"z" * 100_000 + b"\r\nBYE\r\n", context=ctx).ok().rest()
        for c in clients:
            c.take(1)
        held = used()
        for c in clients:
            c.close()
        broker.clients.clear()
        broker.eventually(connections=0)
        return held

    round()
    before = used()
    held = round()
    assert held > before + 50 * 10_000, "the library's memory is counted"
    assert used() < before + 300_000


# --- reload -------------------------------------------------------------------------------------------


def reload(broker, **changes):
    since = broker.log_size()
    broker.configure(**changes)
    broker.send_signal(signal.SIGHUP)
    return broker.says(r"reload: \S+ is", since)


def test_a_new_certificate_is_shown_and_nobody_loses_anything(start, authority, main, tmp_path):
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"

    def install(pair):
        for path, source in zip((chain, key), pair):
            path.write_bytes(source.read_bytes())
            path.chmod(0o600)

    install(main)
    broker = start(listen={"main": secure((chain, key))}, reactors=3)
    ctx = context(authority)
    old = broker.subscribe("a", context=ctx)
    with connect(broker, ctx) as tls:
        say(tls, b"SUBSCRIBE b\r\n").recv(100)
        session = tls.session
    install(authority.issue("renewed", "DNS:localhost"))
    assert "in force" in reload(broker)
    with connect(broker, ctx, session=session) as tls:
        assert tls.session_reused, "tickets go on"
    for _ in range(12):
        with connect(broker, ctx) as tls:
            assert common_name(tls) == "renewed"
    broker.say("PUBLISH a\r\nstill here\r\n", context=ctx).ok()
    assert old.take(1) == [b"still here"]
    key.write_bytes(main[1].read_bytes())
    assert "stays in force" in reload(broker, stats_seconds=2)
    assert re.search(r"ERROR .*broker.conf:\d+: key: .* is not the key of", broker.log())
    with connect(broker, ctx) as tls:
        assert common_name(tls) == "renewed"


def test_who_is_not_trusted_any_more_is_closed_and_nobody_else(start, authority, main, tmp_path):
    own = Authority(tmp_path, "own")
    good, bad = own.issue("good", "DNS:good"), own.issue("bad", "DNS:bad")
    listener = secure(main, client_auth="optional", client_ca=own.chain)
    broker = start(listen={"main": listener}, reactors=2)
    contexts = {"good": context(authority, client=good), "bad": context(authority, client=bad), "none": context(authority)}
    clients = {name: broker.subscribe("a", context=ctx) for name, ctx in contexts.items()}
    with connect(broker, contexts["bad"]) as tls:
        say(tls, b"SUBSCRIBE b\r\n").recv(100)
        session = tls.session
    listener["tls"]["client_crl"] = own.revocations(bad[0])
    assert "in force" in reload(broker)
    broker.loop.wait(lambda: clients["bad"].ended, "it is closed")
    with pytest.raises((ssl.SSLError, ConnectionError)):
        with connect(broker, contexts["bad"], session=session) as tls:
            assert say(tls, b"SUBSCRIBE b\r\n").recv(100) == b"OK\r\n"
    broker.say("PUBLISH a\r\nx\r\n", context=contexts["none"]).ok()
    for name in ("good", "none"):
        assert clients[name].take(1) == [b"x"]


# --- what is wrong with a configuration ---------------------------------------------------------------


def refused(tmp_path, listener, *words):
    path = tmp_path / "bad.conf"
    path.write_text(config_text(listen={"main": listener}))
    for flags in ([], ["--check"]):
        ended = run("-c", path, *flags)
        assert ended.returncode == 2, ended.stderr
        line = next((x for x in ended.stderr.splitlines() if x.startswith(str(path))), ended.stderr)
        assert re.match(re.escape(str(path)) + r":\d+: \w+: ", line), line
        for word in words:
            assert word in line, line
    number = int(line.removeprefix(str(path)).split(":")[1])
    return path.read_text().splitlines()[number - 1].split()[0]


def test_a_bad_certificate_or_key_is_named_with_its_line(authority, main, tmp_path):
    other = authority.issue("another", "DNS:another.example")
    own = Authority(tmp_path, "own", signer=authority)
    chain, key = own.issue("server", "DNS:localhost")
    parts = re.findall(r"-----BEGIN.*?-----END CERTIFICATE-----\n", chain.read_text(), re.S)
    assert len(parts) == 2

    def file(name, text, mode=0o600):
        path = tmp_path / name
        path.write_text(text)
        path.chmod(mode)
        return path

    assert refused(tmp_path, secure((tmp_path / "none", main[1])), "cannot be read") == "chain"
    assert refused(tmp_path, secure((main[0], tmp_path / "none")), "cannot be read") == "key"
    assert refused(tmp_path, secure((file("empty", ""), main[1])), "no certificate") == "chain"
    assert refused(tmp_path, secure((main[1], main[1])), "no certificate") == "chain"
    assert refused(tmp_path, secure((main[0], file("nokey", main[0].read_text()))), "no key") == "key"
    assert refused(tmp_path, secure((main[0], other[1])), "is not the key of") == "key"
    assert refused(tmp_path, secure((file("turned", parts[1] + parts[0]), key))) in ("chain", "key")
    assert refused(tmp_path, secure((file("gap", parts[0] + other[0].read_text()), key)), "did not sign it") == "chain"
    assert refused(tmp_path, secure((main[0], file("open", main[1].read_text(), 0o644))), "chmod 0640") == "key"
    expired = authority.issue("old", "DNS:old", days=0)
    assert refused(tmp_path, secure(expired), "has expired") == "chain"
    locked = tmp_path / "locked"
    openssl("pkey", "-in", main[1], "-aes128", "-passout", "pass:x", "-out", locked)
    locked.chmod(0o600)
    assert refused(tmp_path, secure((main[0], locked)), "passphrase") == "key"
    weak = authority.issue("weak", "DNS:weak", key="weak")
    assert refused(tmp_path, secure(weak), "2048") == "chain"


def test_what_cannot_be_meant_is_named_with_its_line(authority, main, tmp_path):
    short = tmp_path / "short"
    short.write_bytes(bytes(79))
    short.chmod(0o600)
    for keys, word in [({"ciphers": "RSA+AES"}, "ECDHE"), ({"ciphers": "nonsense"}, "none that is known"), ({"ciphersuites": "x"}, "not known"),
                       ({"ciphers": "ECDHE+AES"}, "AEAD"), ({"groups": "x"}, "not known"), ({"ticket_keys": short}, "80"),
                       ({"client_ca": short}, "client_auth"), ({"client_auth": "required", "client_ca": short}, "no certificate"),
                       ({"client_auth": "required", "client_ca": authority.chain, "client_crl": main[0]}, "list")]:
        if "client_ca" in keys and "client_auth" not in keys:
            keys = {"client_auth": "required"}
            assert refused(tmp_path, secure(main, **keys), "none at all") == "tls"
            continue
        assert refused(tmp_path, secure(main, **keys), word) == list(keys)[-1]
    listener = secure(main)
    listener["tls"]["certificate"]["twin"] = certificate(authority.issue("twin", "DNS:localhost"))
    assert refused(tmp_path, listener, "take the name out") == "chain"
    listener["tls"]["certificate"] = {}
    assert refused(tmp_path, listener, "none at all") == "tls"


def test_a_certificate_that_ends_soon_is_warned_about(start, authority):
    soon = authority.issue("soon", "DNS:localhost", days=5)
    assert re.search(r'WARN .*certificate "main" expires in [45] days', start(listen={"main": secure(soon)}).log())


def test_an_old_version_is_refused_where_that_is_said(start, authority, main):
    broker = start(listen={"main": secure(main, min_version="1.3")})
    with pytest.raises(ssl.SSLError):
        connect(broker, context(authority, "1.2"))
    connect(broker, context(authority, "1.3")).close()


def test_ktls_says_what_came_of_it(start, main):
    log = start(listen={"main": secure(main, ktls="auto"), "off": secure(main)}).log()
    assert re.findall(r'INFO  listen "(\w+)": ktls: the kernel has (?:it, but|none \(.+\)).*: records are sealed by the broker', log) == ["main"]


# --- behind a proxy -----------------------------------------------------------------------------------


def test_a_proxys_header_comes_first_and_in_clear(start, authority, main):
    listener = {**secure(main), "proxy_protocol": True, "proxy_from": ["127.0.0.1"]}
    broker = start(listen={"main": listener})
    host, port = broker.address().rsplit(":", 1)
    plain = socket.create_connection((host, int(port)), PATIENCE)
    plain.sendall(b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 443\r\n")
    with context(authority).wrap_socket(plain, server_hostname="localhost") as tls:
        assert say(tls, b"SUBSCRIBE a\r\n").recv(100) == b"OK\r\n"


# --- NATS ---------------------------------------------------------------------------------------------


def talk_nats(tls):
    """CONNECT and a message to itself."""
    tls.sendall(b'CONNECT {"verbose":false}\r\nSUB a 1\r\nPUB a 2\r\nhi\r\nPING\r\n')
    got = b""
    while b"PONG" not in got:
        data = tls.recv(1000)
        assert data, got
        got += data
    return got


def test_a_nats_client_is_told_in_clear_and_then_shakes_hands(start, authority, main):
    broker = start(listen={"main": secure(main, ["nats"])})
    host, port = broker.address().rsplit(":", 1)
    plain = socket.create_connection((host, int(port)), PATIENCE)
    info = plain.recv(2000)
    assert info.startswith(b"INFO {") and b'"tls_required":true' in info and info.endswith(b"\r\n")
    with context(authority).wrap_socket(plain, server_hostname="localhost") as tls:
        assert talk_nats(tls) == b"MSG a 1 2\r\nhi\r\nPONG\r\n", "no second INFO"


def test_a_nats_client_is_told_in_clear_where_others_begin_with_tls(start, authority, main):
    broker = start(listen={"main": secure(main, ["line", "http", "nats"])}, nats={"hello_ms": 300})
    host, port = broker.address().rsplit(":", 1)
    with socket.create_connection((host, int(port)), PATIENCE) as plain:
        heard = b""
        while b"\r\n" not in heard:
            heard += plain.recv(4096)
        assert b'"tls_required":true' in heard
        with context(authority).wrap_socket(plain, server_hostname="localhost") as tls:
            assert talk_nats(tls) == b"MSG a 1 2\r\nhi\r\nPONG\r\n", "no second INFO"
    broker.say("PUBLISH a\r\nx\r\n", context=context(authority)).ok()
    assert ask(connect(broker, context(authority)), b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200")
    for said in (b"PING\r\n", b"GET / HTTP/1.1\r\n\r\n", b"PUBLISH a\r\nx\r\n"):
        with socket.create_connection((host, int(port)), PATIENCE) as plain:
            plain.sendall(said)
            with contextlib.suppress(ConnectionResetError):
                assert plain.recv(4096) == b"", "nothing is said to whoever speaks in clear"


def test_a_nats_client_may_shake_hands_first(start, authority, main):
    broker = start(listen={"main": secure(main, ["nats"])}, nats={"hello_ms": 10_000})
    with connect(broker, context(authority)) as tls:
        assert tls.recv(2000).startswith(b"INFO {")
        assert talk_nats(tls) == b"MSG a 1 2\r\nhi\r\nPONG\r\n"


@pytest.mark.parametrize("protocols", [["nats"], ["line", "nats"]], ids=" ".join)
@pytest.mark.parametrize("when", ["with the header", "at once", "behind INFO"])
def test_a_nats_client_behind_a_proxy_shakes_hands_as_it_does_without_one(start, authority, main, when, protocols):
    first = when != "behind INFO"
    listener = {**secure(main, protocols), "proxy_protocol": True, "proxy_from": ["127.0.0.1"]}
    broker = start(listen={"main": listener}, nats={"hello_ms": 10_000 if first else 10})
    host, port = broker.address().rsplit(":", 1)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context(authority).wrap_bio(incoming, outgoing, server_hostname="localhost")
    with socket.create_connection((host, int(port)), PATIENCE) as plain:
        header = b"PROXY TCP4 192.0.2.7 127.0.0.1 4000 443\r\n"
        heard = b""
        if when != "with the header":
            plain.sendall(header)
            header = b""
        if when == "at once":
            plain.settimeout(0.2)
            with pytest.raises(TimeoutError):
                plain.recv(1)
            plain.settimeout(PATIENCE)
        while not first and b"\r\n" not in heard:
            heard += plain.recv(4096)
        assert first or b'"tls_required":true' in heard

        def until(act):
            nonlocal header
            while True:
                try:
                    return act()
                except ssl.SSLWantReadError:
                    plain.sendall(header + outgoing.read())
                    header = b""
                    incoming.write(plain.recv(1 << 14))

        until(tls.do_handshake)
        tls.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        plain.sendall(outgoing.read())
        while b"PONG\r\n" not in heard:
            heard += until(lambda: tls.read(4096))
        assert heard.startswith(b"INFO {") and heard.count(b"INFO") == 1


@pytest.mark.parametrize("wait", [True, False], ids=["behind INFO", "before it"])
def test_a_nats_client_that_goes_on_in_clear_is_told_and_closed(start, main, wait):
    broker = start(listen={"main": secure(main, ["nats"])})
    host, port = broker.address().rsplit(":", 1)
    with socket.create_connection((host, int(port)), PATIENCE) as plain:
        got = plain.recv(2000) if wait else b""
        plain.sendall(b'CONNECT {"verbose":false}\r\nPUB a 2\r\nhi\r\n')
        while data := plain.recv(2000):
            got += data
    assert got.startswith(b"INFO {") and got.endswith(b"-ERR 'Secure Connection - TLS Required'\r\n")


# --- how many -----------------------------------------------------------------------------------------


def test_handshakes_that_stop_in_the_middle_do_not_keep_others_out_for_longer_than_the_time_for_one(start, authority, main):
    broker = start(listen={"main": secure(main)}, limits={"tls_handshakes": 20, "handshake_seconds": whole_seconds(2)})
    host, port = broker.address().rsplit(":", 1)
    stuck = [socket.create_connection((host, int(port)), PATIENCE) for _ in range(100)]
    with connect(broker, context(authority)) as tls:
        assert say(tls, b"SUBSCRIBE a\r\n").recv(100) == b"OK\r\n"
    for s in stuck:
        s.close()


# --- what others look for -----------------------------------------------------------------------------


def test_a_scanner_finds_nothing_below_grade(start, main):
    """sslscan(1): versions, ciphers, groups, renegotiation, Heartbleed, as auditors ask."""
    scanner = shutil.which("sslscan") or pytest.fail("sslscan is not installed; try: deploy/deps test")
    broker = start(listen={"main": secure(main)})
    done = subprocess.run([scanner, "--xml=-", "--no-colour", broker.address()], capture_output=True, text=True, timeout=PATIENCE, check=True)
    found = ElementTree.fromstring(done.stdout).find("ssltest")
    versions = {(p.get("type") + p.get("version")): p.get("enabled") for p in found.findall("protocol")}
    assert {v for v, enabled in versions.items() if enabled == "1"} == {"tls1.2", "tls1.3"}, versions
    ciphers = {c.get("cipher"): (c.get("sslversion"), c.get("strength")) for c in found.findall("cipher")}
    assert ciphers and all(strength in ("strong", "acceptable") for _, strength in ciphers.values()), ciphers
    assert all("CBC" not in c and (c.startswith("TLS_") or c.startswith("ECDHE-")) for c in ciphers), ciphers
    assert {g.get("name") for g in found.findall("group")} == {"x25519", "secp256r1 (NIST P-256)"}
    assert [r.get("supported") for r in found.findall("renegotiation") + found.findall("compression")] == ["0"]
    assert found.findall("heartbleed") and all(h.get("vulnerable") == "0" for h in found.findall("heartbleed"))
