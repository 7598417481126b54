"""The HTTP contract held against clients that others wrote, in Node: see web_clients.mjs."""

import os
import subprocess

from harness import FACTOR, ROOT

HERE = ROOT / "tests/integration"
FETCHED = ROOT / "build/web-clients"


def fetch():
    """The clients from npm, as package-lock.json names them, unless they are there."""
    lock = (HERE / "package-lock.json").read_bytes()
    if (FETCHED / "node_modules").exists() and (FETCHED / "package-lock.json").read_bytes() == lock:
        return
    FETCHED.mkdir(parents=True, exist_ok=True)
    (FETCHED / "package.json").write_bytes((HERE / "package.json").read_bytes())
    (FETCHED / "package-lock.json").write_bytes(lock)
    subprocess.run(["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
                   cwd=FETCHED, check=True, timeout=50 * FACTOR)


def test_clients_from_the_web_find_the_contract_kept(start):
    fetch()
    # Modules are looked for beside the file that wants them.
    (FETCHED / "web_clients.mjs").write_bytes((HERE / "web_clients.mjs").read_bytes())
    broker = start(reactors=2, listen={"main": {"address": "127.0.0.1:0", "protocols": ["line", "http"]}})
    done = subprocess.run(["node", "web_clients.mjs"], cwd=FETCHED, env={**os.environ, "BROKER": broker.address()},
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50 * FACTOR)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    # None was left out, and none has ended early.
    assert f"# pass {(HERE / 'web_clients.mjs').read_text().count(chr(10) + 'test(')}\n" in done.stdout
