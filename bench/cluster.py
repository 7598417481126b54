#!/usr/bin/python3
"""Measures what a cluster as upstream costs: two brokers that share topics through nats-server, on one machine.

    bench/cluster.py                 all of it, about 4 minutes; a table on standard output
    bench/cluster.py --only fan      a part: latency, fan, local, intake
    bench/cluster.py --servers 3     with three servers, each host at another one (one stream, one replica)

Parts, each with what it is held against in the same round:

    latency   publish on one host, delivery on another; against NATS's own way: published to the stream at one server,
              its republished copy subscribed to at another
    fan       CPU of a host per delivered message with 1,000 subscribers, published on the other host; against a topic
              of the host's own, published there
    local     the same of topics that the cluster does not share, with an upstream section; against a broker without
    intake    messages per CPU-second that a host takes from upstream and delivers to one subscriber; against a bare
              subscriber of libnats
"""

import argparse
import contextlib
import json
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from run import BUILD, CPUS, ROOT, Failed, run_json, say

PEERS = ROOT / "build/peers"
START_SECONDS = 20
FIRST_PORT = 21300


def wait(ready, what):
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if time.monotonic() > deadline:
            raise Failed(f"{what}: not within {START_SECONDS} s")
        time.sleep(0.05)


def get(port, path):
    with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read()
    return b""


class World:
    """The servers and brokers of one round; everything ends with it."""

    def __init__(self, directory, servers):
        self.directory, self.processes = directory, []
        self.servers = [FIRST_PORT + 2 * i for i in range(servers)]
        routes = ",".join(f"nats://127.0.0.1:{port + 1}" for port in self.servers)
        for i, port in enumerate(self.servers):
            command = ["nats-server", "-a", "127.0.0.1", "-p", port, "-n", f"n{i}", "-js", "-sd", directory / f"js{i}"]
            if servers > 1:
                command += ["--cluster", f"nats://127.0.0.1:{port + 1}", "--cluster_name", "bench", "--routes", routes]
            self.start(command)
        self.ports = iter(range(FIRST_PORT + 100, FIRST_PORT + 200))

    def start(self, command, **more):
        log = open(self.directory / f"{len(self.processes)}.log", "wb")
        process = subprocess.Popen([str(x) for x in command], stdin=subprocess.DEVNULL, stderr=log, **{"stdout": log, **more})
        self.processes.append(process)
        return process

    def broker(self, topics, server=0):
        """With these topics shared, None: without upstream; its port and pid."""
        port = next(self.ports)
        config = self.directory / f"{port}.conf"
        text = f'reactors = 1\nplacement = "none"\ndrain_seconds = 1\nlisten "main" {{ address = "127.0.0.1:{port}" protocols = {{ "nats", "http" }} }}\n'
        if topics is not None:
            text += f"""upstream "nats" {{ servers = {{ "nats://127.0.0.1:{self.servers[server]}" }} topics = {{ "{topics}" }}
                log = "jetstream" stream = "{topics[:-2].upper()}" create = true }}\n"""
        config.write_text(text)
        process = self.start([BUILD / "broker", "-c", config])
        wait(lambda: get(port, "/ready"), f"the broker on port {port}: see {self.directory}")
        return port, process.pid

    def close(self):
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(self.processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def load(options, to, publish_to, *args):
    command = [BUILD / "broker-load", "--json", "--protocol", "nats", "--duration", options.duration, "--warmup", 0.5]
    command += ["--publish-to", f"127.0.0.1:{publish_to}", *args, f"127.0.0.1:{to}"]
    return run_json(command, set(CPUS), 60)[0]


def latency(options, world):
    args = ["--subscribers", 1, "--bytes", 128, "--rate", 100]
    a, b = world.broker("load.>")[0], world.broker("load.>", len(world.servers) - 1)[0]
    hosts = load(options, b, a, *args)["latency_ns"]
    own = load(options, world.servers[-1], world.servers[0], *args, "--deliver-prefix", "fan.")["latency_ns"]
    return {
        "hosts, p50 ms": hosts["p50"] / 1e6,
        "NATS's own way, p50 ms": own["p50"] / 1e6,
        "added at p50, ms": (hosts["p50"] - own["p50"]) / 1e6,
        "hosts, p99 ms": hosts["p99"] / 1e6,
        "NATS's own way, p99 ms": own["p99"] / 1e6,
    }


def fan(options, world):
    args = ["--subscribers", 1000, "--bytes", 128, "--rate", 200]
    a, (b, pid) = world.broker("load.>")[0], world.broker("load.>", len(world.servers) - 1)
    other, other_pid = world.broker("other.>")
    shared = load(options, b, a, *args, "--pid", pid)["cpu_ns_per_delivered"]
    own = load(options, other, other, *args, "--pid", other_pid)["cpu_ns_per_delivered"]
    return {"shared, CPU ns per delivered": shared, "its own, CPU ns per delivered": own, "ratio": shared / own}


def local(options, world):
    args = ["--subscribers", 100, "--bytes", 128, "--window", 64]
    (with_it, pid), (without, without_pid) = world.broker("other.>"), world.broker(None)
    found = {}
    for name, port, of in (("with upstream", with_it, pid), ("without", without, without_pid)):
        found[f"{name}, CPU ns per delivered"] = load(options, port, port, *args, "--pid", of)["cpu_ns_per_delivered"]
    return {**found, "ratio": found["with upstream, CPU ns per delivered"] / found["without, CPU ns per delivered"]}


def intake(options, world):
    """Published at a server, and taken as the stream republishes it."""
    if not (PEERS / "libnats-subscriber").exists():
        raise Failed("libnats-subscriber is not there; try: bench/peers/build")
    server, args = world.servers[0], ["--bytes", 128, "--rate", options.intake]
    port, pid = world.broker("load.>")
    host = load(options, port, server, *args, "--subscribers", 1, "--pid", pid)
    bare = world.start([PEERS / "libnats-subscriber", f"nats://127.0.0.1:{server}", "fan.load.>"], stdout=subprocess.PIPE)
    time.sleep(0.5)
    published = load(options, server, server, *args, "--subscribers", 0)
    bare.send_signal(signal.SIGTERM)
    count, cpu_s = bare.communicate(timeout=10)[0].split()
    if int(count) < published["published"]:
        raise Failed(f"the bare subscriber has {int(count)} messages of {published['published']}")
    taken = 1e9 / host["cpu_ns_per_delivered"]
    return {"host, messages per CPU-second": taken, "libnats, messages per CPU-second": int(count) / float(cpu_s), "ratio": taken * float(cpu_s) / int(count)}


PARTS = {"latency": latency, "fan": fan, "local": local, "intake": intake}


def number(value):
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--duration", type=float, default=3, help="seconds of each run")
    parser.add_argument("--servers", type=int, default=1, help="nats-servers (1)")
    parser.add_argument("--intake", type=int, default=10000, help="messages per second of intake (10,000)")
    parser.add_argument("--only", help="parts, comma-separated")
    parser.add_argument("--json", type=Path, help="every round's figures go there")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else list(PARTS)
    if unknown := set(wanted) - set(PARTS):
        sys.exit(f"cluster.py: no such part: {', '.join(sorted(unknown))}")
    found = {part: [] for part in wanted}
    for n in range(options.rounds):
        for part in wanted:
            print(f"\rround {n + 1} of {options.rounds}: {part}   ", end="", file=sys.stderr, flush=True)
            with tempfile.TemporaryDirectory(prefix="bench-") as directory, contextlib.ExitStack() as stack:
                world = World(Path(directory), options.servers)
                stack.callback(world.close)
                found[part].append(PARTS[part](options, world))
    print(file=sys.stderr)
    say(f"{options.rounds} rounds, {options.servers} nats-servers; median (least to most)\n")
    for part, rounds in found.items():
        for name in rounds[0]:
            values = [r[name] for r in rounds]
            say(f"{part:8}  {name:36}  {number(statistics.median(values)):>10}  ({number(min(values))} to {number(max(values))})")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except (Failed, OSError, subprocess.SubprocessError) as error:
        sys.exit(f"\ncluster.py: {error}")
