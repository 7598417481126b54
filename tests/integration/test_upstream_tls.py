"""The servers of a cluster by name and over TLS: nats-server's own."""

import re
import signal
import subprocess

import pytest

from certificates import Authority
from cluster import Server
from harness import BROKER, PATIENCE
from test_upstream import post, world  # noqa: F401 (a fixture)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("authority"))


def secured(world, authority, *sans, ask=False):  # noqa: F811
    """A server whose certificate is for these names; ask: its clients have to show one."""
    chain, key = authority.issue("server" + str(len(sans)), *sans)
    options = ["--tls", "--tlscert", chain, "--tlskey", key]
    if ask:
        options += ["--tlsverify", "--tlscacert", authority.chain]
    return world.servers(1, [str(o) for o in options]).servers[0]


def test_a_server_is_reached_by_its_name_and_shown_a_certificate(world, authority):  # noqa: F811
    """Or by its address; and what is named without TLS speaks it when the server wants that."""
    server = secured(world, authority, "DNS:localhost", "IP:127.0.0.1", ask=True)
    chain, key = authority.issue("broker", "DNS:broker")
    tls = {"ca": str(authority.chain), "certificate": str(chain), "key": str(key)}
    a = world.host(upstream={"servers": [f"tls://localhost:{server.port}"], "tls": tls})
    b = world.host(upstream={"servers": [f"nats://127.0.0.1:{server.port}"], "tls": tls})
    assert re.search(r"connected to localhost \(n1, nats-server [\d.]+, TLS\)", a.log())
    subscriber = b.subscribe("live.a")
    bodies = [b"1", b"x" * 300_000, b"3"]
    for body in bodies:
        assert post(a, "live.a", body)[0] == 200
    assert subscriber.take(3) == bodies
    since = a.log_size()
    server.kill()
    a.says("localhost: it has closed the connection|localhost: TLS:", since)
    server.start()
    a.says("connected to localhost", since)
    a.loop.wait(lambda: post(a, "live.a", b"again")[0] == 200, "it takes messages again")


def test_other_certificates_are_taken_at_a_reload(world, authority, start, tmp_path):  # noqa: F811
    server = secured(world, authority, "DNS:localhost", ask=True)
    ours, theirs = authority.issue("broker", "DNS:broker"), Authority(tmp_path, "other").issue("broker", "DNS:broker")
    shown = tmp_path / "chain.pem", tmp_path / "key.pem"

    def show(pair):
        for path, source in zip(shown, pair):
            path.write_bytes(source.read_bytes())
            path.chmod(0o600)

    show(theirs)
    tls = {"ca": str(authority.chain), "certificate": str(shown[0]), "key": str(shown[1])}
    host = start(upstream={"nats": {"servers": [f"tls://localhost:{server.port}"], "topics": ["live.>"], "log": "none",
                                    "reconnect_ms_max": 100, "tls": tls}})  # fmt: skip
    host.says("localhost: TLS: .*certificate|localhost: it has closed the connection")
    show(ours)
    since = host.log_size()
    host.process.send_signal(signal.SIGHUP)
    host.says("connected to localhost", since)
    shown[0].write_bytes(b"none")
    host.process.send_signal(signal.SIGHUP)
    host.says("the old configuration stays in force", since)
    since = host.log_size()
    server.kill()
    server.start()
    host.says("connected to localhost", since)


def check(directory, *servers, **tls):
    """What broker --check says: its code, and all that it prints."""
    names = ", ".join(f'"{s}"' for s in servers)
    keys = "".join(f' {k} = "{v}"' for k, v in tls.items())
    path = directory / "check.conf"
    path.write_text('listen "main" { address = "127.0.0.1:0" }\n'
                    f'upstream "nats" {{ servers = {{ {names} }} topics = {{ "live.>" }} tls {{{keys} }} }}\n')  # fmt: skip
    done = subprocess.run([BROKER, "-c", path, "--check"], capture_output=True, text=True, timeout=PATIENCE)
    return done.returncode, done.stdout + done.stderr


def test_what_is_wrong_with_tls_is_said(world, authority, tmp_path):  # noqa: F811
    server = secured(world, authority, "DNS:localhost", ask=True)
    name, address = f"tls://localhost:{server.port}", f"tls://127.0.0.1:{server.port}"
    chain, key = authority.issue("broker", "DNS:broker")
    trusted, shown = {"ca": authority.chain}, {"certificate": chain, "key": key}
    for servers, tls, code, said in (
        ([name], {**trusted, **shown}, 0, r'upstream "nats": localhost \(n1, nats-server'),
        ([name], shown, 2, "localhost: TLS: unable to get local issuer certificate"),
        ([address], {**trusted, **shown}, 2, "127.0.0.1: TLS: IP address mismatch"),
        ([name], trusted, 2, "localhost: TLS: .*certificate"),
        ([name], {"ca": tmp_path / "none"}, 2, "check.conf:2: ca: .* cannot be read"),
        ([name], {"ca": key}, 2, "check.conf:2: ca: .* has no certificate in it"),
        ([name], {**trusted, "certificate": chain}, 2, "check.conf:2: key: none at all"),
        (["nats://%s.example" % ("x" * 70), name], {**trusted, **shown}, 0, "upstream: nats://x*.example: .*\n.*localhost"),
    ):  # fmt: skip
        got = check(tmp_path, *servers, **tls)
        assert got[0] == code and re.search(said, got[1]), (servers, tls, got)
    plain = Server(tmp_path, "plain").start()
    world.cluster.servers.append(plain)
    assert check(tmp_path, f"tls://{plain.address}")[1].endswith("127.0.0.1: TLS: it speaks none, which tls:// asks for\n")


def test_a_broker_says_why_it_does_not_trust_a_server_and_goes_on_to_the_next(world, authority, start):  # noqa: F811
    server = secured(world, authority, "DNS:localhost")
    upstream = {"servers": [f"tls://127.0.0.1:{server.port}"], "topics": ["live.>"], "log": "none", "reconnect_ms_max": 100,
                "tls": {"ca": str(authority.chain)}}  # fmt: skip
    host = start(upstream={"nats": upstream})
    host.says(r"upstream: reactor 0: 127.0.0.1: TLS: IP address mismatch \(as 127.0.0.1\)")
    name = "x" * 70 + ".example"
    upstream["servers"] += [f"nats://{name}", f"tls://localhost:{server.port}"]
    host = start(upstream={"nats": upstream})
    host.says("connected to localhost")
