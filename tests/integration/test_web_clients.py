"""The HTTP contract held against clients that others wrote, in Node: see web_clients.mjs."""

from harness import ROOT, node

CLIENTS = ROOT / "tests/integration/web_clients.mjs"


def test_clients_from_the_web_find_the_contract_kept(start, tmp_path):
    broker = start(reactors=2, listen={"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}})
    done = node(CLIENTS, tmp_path, BROKER=broker.address())
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    # None was left out, and none has ended early.
    assert f"# pass {CLIENTS.read_text().count(chr(10) + 'test(')}\n" in done.stdout
