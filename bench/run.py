#!/usr/bin/python3
"""Measures the broker, the peers and the limit, interleaved, and writes a report.

    bench/run.py                     everything, under an hour
    bench/run.py --quick             the main figures, about 5 minutes
    bench/run.py --only many,seg8k   these scenarios
    bench/run.py --sweeps pace,load  and only these curves; --only none: no scenario
    bench/run.py --resume            goes on where one with the same --out was broken off

The main figure is what is delivered per CPU-second of the server. Absolute times drift from hour to hour, so every
contender runs once in each round (A B C A B C ...) and figures are compared within a round. All servers are treated
alike: pinned to the first core, the load generator to another. A run during which the machine was busy with something
else, or the hypervisor took CPU away, is repeated.
"""

import argparse
import collections
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "bench"))

import report  # noqa: E402
from scenarios import CONTENDERS, QUICK_CONTENDERS, SCENARIOS, SWEEPS  # noqa: E402

BUILD = ROOT / "build/release"
STEAL_PERCENT_MAX = 2  # of all cores; more than that and the run is repeated
FOREIGN_PERCENT_MAX = 8  # CPU that neither the server nor the load generator used
REPEATS_MAX = 2  # of one run
START_SECONDS = 10
FIRST_PORT = 20100
BEHIND = 1000  # of what stands behind a proxy, by port

CPUS = sorted(os.sched_getaffinity(0))


class Failed(Exception):
    pass


def say(text):
    print(text, flush=True)


# --- processes ---------------------------------------------------------------------------------------


def pinned(cpus):
    def pin():
        os.sched_setaffinity(0, cpus)
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    return pin


def machine_ticks():
    """Busy, stolen and all ticks of all cores so far."""
    with open("/proc/stat") as f:
        n = [int(x) for x in f.readline().split()[1:9]]
    idle = n[3] + n[4]
    return sum(n) - idle - n[7], n[7], sum(n)


def process_cpu_seconds(pids):
    return sum(process_ticks(pid) for pid in pids) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pids):
    status = [Path(f"/proc/{pid}/status").read_text() for pid in pids]
    return sum(int(re.search(r"^VmRSS:\s+(\d+) kB", text, re.M).group(1)) << 10 for text in status)


def process_ticks(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def reactors_of(contender):
    return CONTENDERS.get(contender, {}).get("reactors", 1)


class Server:
    """A contender's process, fresh for each run."""

    def __init__(self, name, port, directory, prefix, cpus, settings):
        """cpus: of all that it consists of."""
        contender = CONTENDERS.get(name, {})
        self.name, self.port = name, port
        self.secure = contender.get("tls", False)
        self.before = None
        if contender.get("before"):
            # It stands before a plain one, on another port.
            self.before = Server("broker", port + BEHIND, directory, prefix, cpus, settings)
            self.before.log_path = self.before.log_path.rename(directory / f"{name}-{port}-broker.log")
            name = contender["before"]
        self.log_path = directory / f"{name}-{port}.log"
        if name.startswith("broker"):
            reactors = reactors_of(name)
            protocol = CONTENDERS[name]["protocol"]
            protocols = ["http"] if protocol in ("sse", "ws") else [protocol, "http"]
            config = directory / f"{name}.conf"
            config.write_text(
                f"reactors = {reactors}\ndrain_seconds = 2\n"
                f'listen "main" {{\n\taddress = "127.0.0.1:{port}"\n\tprotocols = {{ {json.dumps(protocols)[1:-1]} }}\n'
                + (f'\ttls {{ certificate "main" {{ chain = "{directory}/tls.pem"  key = "{directory}/tls.key" }} }}\n' if self.secure else "")
                + "}\n"
                + "".join(f"{section} {{ {text} }}\n" for section, text in settings.items())
            )
            command = [BUILD / "broker", "-c", config]
        else:
            command = [ROOT / "bench/peers/run", name, str(port)]
        if self.secure:
            subprocess.run([ROOT / "bench/peers/certificate", directory], check=True)
        with open(self.log_path, "wb") as log:
            self.process = subprocess.Popen(
                [*prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(directory), "PEERS_TLS": str(directory), "BACK": str(port + BEHIND)},
                preexec_fn=pinned(cpus),
            )
        self.prefix = prefix
        self.await_ready()

    def answers(self):
        probe = [*self.prefix, "bash", "-c", f"exec 3<>/dev/tcp/127.0.0.1/{self.port}"]
        if self.prefix:
            return subprocess.run(probe, stderr=subprocess.DEVNULL).returncode == 0
        try:
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        except OSError:
            return False

    def await_ready(self):
        deadline = time.monotonic() + START_SECONDS
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise Failed(f"{self.name} does not start: {self.log_path.read_text(errors='replace')[-500:]}")
            time.sleep(0.05)
        time.sleep(0.1)

    @property
    def pids(self):
        return [self.process.pid, *(self.before.pids if self.before else [])]

    def stop(self):
        if self.before:
            self.before.stop()
        if self.process.poll() is None:
            # Only the broker has something to say at its end; nchan dumps core when it is asked.
            self.process.send_signal(signal.SIGTERM if self.name.startswith("broker") and not self.before else signal.SIGKILL)
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def inside(self):
        """The broker's own latency, from receive to the end of the send, by its busiest reactor; None: not known."""
        url = f"{'https' if self.secure else 'http'}://127.0.0.1:{self.port}/stats.json"
        try:
            found = subprocess.run(
                [*self.prefix, "curl", "-sk", "-m", "5", url], capture_output=True, check=True, timeout=10
            ).stdout
            doors = [d for r in json.loads(found)["reactors"] for d in r["delivery"].values()]
        except (OSError, subprocess.SubprocessError, ValueError, KeyError):
            return None
        return max(doors, key=lambda d: d["count"], default=None)

    def counters(self):
        """The broker's own last counters, summed over its reactors."""
        total, quantiles = collections.Counter(), {}
        last = {}
        for line in self.log_path.read_text(errors="replace").splitlines():
            if (at := line.find(" stats reactor=")) >= 0:
                fields = dict(re.findall(r"(\w+)=([\d.]+)", line[at:]))
                last[fields["reactor"]] = fields
                if int(fields["completions_p50"]) > 0:
                    quantiles = fields  # since the statistics line before
        for fields in last.values():
            total.update({k: int(fields[k]) for k in ("delivered", "sends", "enters", "turns")})
        return total, quantiles


def children_cpu_seconds():
    """Of those that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_json(command, cpus, seconds):
    """A program that prints one JSON object; the object and the CPU seconds that it took."""
    before = children_cpu_seconds()
    done = subprocess.run(
        [str(x) for x in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        preexec_fn=pinned(cpus),
    )
    if done.returncode != 0:
        raise Failed(done.stderr.strip() or f"status {done.returncode}")
    return json.loads(done.stdout), children_cpu_seconds() - before


def key_of(run):
    return run["set"], run["scenario"], run["contender"], run["round"]


# --- one run -----------------------------------------------------------------------------------------


class Bench:
    def __init__(self, options, directory):
        self.options, self.directory = options, directory
        self.port = FIRST_PORT
        self.prefix = []
        self.runs = []
        self.before = {}  # of a run that was broken off, by what was measured
        self.repeat_s = 60 * options.repeat_minutes

    def next_port(self):
        self.port = self.port + 1 if self.port < FIRST_PORT + 800 else FIRST_PORT
        return self.port

    def cpus(self, reactors):
        """Cores of the server and of the load generator."""
        server = CPUS[:reactors] if reactors <= len(CPUS) else CPUS
        return server, CPUS[reactors:] or CPUS[-1:]

    def times(self, scenario):
        duration = scenario.get("duration_s", self.options.duration)
        return ["--duration", duration, "--warmup", min(1.0, self.options.warmup)]

    def limit(self, scenario, coalesce):
        """The bare blaster with this scenario's sockets and sizes, and as many messages per send as the broker had."""
        args = scenario["limit"]
        window = max(1, round(args.get("window", 1) / coalesce))
        command = [BUILD / "limit", "--bytes", scenario["bytes"], "--subscribers", args["subscribers"]]
        command += ["--coalesce", coalesce, "--window", window]
        command += ["--seconds", self.options.duration, "--warmup", self.options.warmup]
        if "rate" in args:
            command += ["--rate", args["rate"] / coalesce]
        result, cpu_s = run_json([*self.prefix, *command], set(CPUS), 60)
        return {"delivered_per_cpu_s": result["delivered_per_cpu_s"], "coalesce": coalesce, "limit": result}, cpu_s

    def load(self, scenario, contender, server, load_cpus):
        protocol = CONTENDERS[contender]["protocol"]
        command = [*self.prefix, BUILD / "broker-load", "--json", "--quiet", "--protocol", protocol]
        command += ["--pid", ",".join(map(str, server.pids)), *self.times(scenario), "--bytes", scenario["bytes"]]
        command += ["--threads", min(len(load_cpus), 2 * reactors_of(contender))]
        command += [f"127.0.0.1:{server.port}", *CONTENDERS[contender].get("args", [])]
        command += ["--tls", "--insecure"] if server.secure else []
        if "beside" not in scenario:
            args = scenario.get("args_of", {}).get(contender, scenario["args"])
            return run_json([*command, *args], load_cpus, 120)
        # The small one must not wait for the large one's core: that is the generator's business, not the broker's.
        first = shutil.which("chrt") and os.geteuid() == 0
        urgent = ["chrt", "--fifo", "1"] if first else []
        before = children_cpu_seconds()
        large = subprocess.Popen(
            [str(x) for x in [*command, *scenario["beside"], "--duration", self.options.duration + 4]],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=pinned(load_cpus),
        )
        try:
            time.sleep(2.5)
            if large.poll() is not None:
                raise Failed(large.stderr.read())
            result, _ = run_json([*urgent, *command, *scenario["args"]], load_cpus, 120)
            if large.wait(60) != 0:
                raise Failed(large.stderr.read())
            return result, children_cpu_seconds() - before
        finally:
            if large.poll() is None:
                large.kill()
                large.wait()

    def attempt(self, scenario, contender, coalesce):
        before = machine_ticks()
        if contender == "limit":
            result, cpu_s = self.limit(scenario, coalesce)
        else:
            server_cpus, load_cpus = self.cpus(reactors_of(contender))
            settings = {
                section: scenario.get(section) or CONTENDERS[contender].get(section, "")
                for section in ("engine", "topics")
            }
            server = Server(contender, self.next_port(), self.directory, self.prefix, server_cpus, settings)
            try:
                at_rest = resident_bytes(server.pids)
                result, cpu_s = self.load(scenario, contender, server, load_cpus)
                result["memory_above_idle_bytes"] = result["broker_peak_bytes"] - at_rest
                if contender.startswith("broker") and not server.before:
                    result["inside_ns"] = server.inside()
                cpu_s += process_cpu_seconds(server.pids)
            finally:
                server.stop()
            if contender.startswith("broker") and not server.before:
                counters, quantiles = server.counters()
                if counters["sends"]:
                    result["messages_per_send"] = counters["delivered"] / counters["sends"]
                    result["enters_per_delivered"] = counters["enters"] / max(1, counters["delivered"])
                    result["completions_per_turn_p50"] = int(quantiles.get("completions_p50", 0))
        after = machine_ticks()
        ticks_per_s = os.sysconf("SC_CLK_TCK")
        all_s = (after[2] - before[2]) / ticks_per_s
        foreign_s = (after[0] - before[0]) / ticks_per_s - cpu_s
        result["steal_percent"] = 100 * (after[1] - before[1]) / ticks_per_s / max(all_s, 0.01)
        result["foreign_percent"] = max(0.0, 100 * foreign_s / max(all_s, 0.01))
        return result

    def kept(self):
        return self.options.out / "runs.json"

    def go_on(self):
        """With what was measured before it was broken off."""
        if self.kept().exists():
            self.before = {key_of(run): run for run in json.loads(self.kept().read_text())}
            say(f"{len(self.before)} runs are there already")

    def keep(self):
        """Whole or not at all."""
        self.kept().parent.mkdir(parents=True, exist_ok=True)
        part = self.kept().with_suffix(".part")
        part.write_text(json.dumps(self.runs))
        part.replace(self.kept())

    def run(self, scenario, contender, coalesce, number, kind):
        """Repeats a run that was disturbed, and keeps the one that was disturbed least."""
        best, failure = None, None
        again = self.before.get((kind, scenario["name"], contender, number))
        if again is not None and "failed" not in again:
            self.runs.append(again)
            return again
        for repeats in range(1 + REPEATS_MAX):
            began = time.monotonic()
            try:
                result = self.attempt(scenario, contender, coalesce)
            except (Failed, subprocess.TimeoutExpired) as error:
                # What was wrong once is wrong: only a machine that was busy is an excuse.
                failure = str(error)
                break
            self.repeat_s -= time.monotonic() - began if repeats > 0 else 0
            result["disturbed"] = (
                result["steal_percent"] > STEAL_PERCENT_MAX or result["foreign_percent"] > FOREIGN_PERCENT_MAX
            )
            unrest = result["steal_percent"] + result["foreign_percent"]
            if best is None or unrest < best["steal_percent"] + best["foreign_percent"]:
                best = result
            if not result["disturbed"] or self.repeat_s <= 0:
                break
        if best is None:
            best = {"failed": failure}
        best.update(scenario=scenario["name"], contender=contender, round=number, set=kind)
        if "x" in scenario:
            best["x"] = scenario["x"]
        self.runs.append(best)
        self.keep()
        figure = best.get("delivered_per_cpu_s")
        say(
            f"  {scenario['name']:12} {contender:14} "
            + (f"{report.human(figure):>8}/CPU-s" if figure else f"{'failed: ' + best['failed'] if 'failed' in best else '-'}")
            + (f"  p99 {best['latency_ns']['p99'] / 1e6:8.3f} ms" if best.get("latency_ns", {}).get("count") else "")
            + (f"  {report.METRICS['cpu_us_per_comer'][1](best):.0f} us each" if best.get("churned") else "")
            + (f"  idle {best['idle_bytes_per_connection']:.0f} B" if "idle_bytes_per_connection" in best else "")
            + (
                f"  (disturbed: {best['steal_percent']:.0f} % stolen, {best['foreign_percent']:.0f} % used by others)"
                if best.get("disturbed")
                else ""
            )
        )
        return best

    def round(self, scenarios, number, kind, only=None):
        for scenario in scenarios:
            coalesce = scenario.get("limit", {}).get("window", 1)
            for contender in scenario["contenders"]:
                if only and contender not in only:
                    continue
                if contender == "limit" and "limit" not in scenario:
                    continue
                result = self.run(scenario, contender, coalesce, number, kind)
                if contender == "broker" and "messages_per_send" in result:
                    coalesce = max(1, round(result["messages_per_send"]))


# --- the second set: a loopback whose receive work is done on another core ---------------------------


class Namespace:
    """A network namespace of the bench's own, whose loopback hands received packets to the load generator's core."""

    def __init__(self):
        self.name = f"bench-{os.getpid()}"

    def __enter__(self):
        if os.geteuid() != 0 or not shutil.which("ip") or len(CPUS) < 2:
            return None
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        mask = f"{1 << CPUS[-1]:x}"
        prefix = ["ip", "netns", "exec", self.name]
        subprocess.run(["ip", "-n", self.name, "link", "set", "lo", "up"], check=True)
        subprocess.run([*prefix, "sh", "-c", f"echo {mask} >/sys/class/net/lo/queues/rx-0/rps_cpus"], check=True)
        return prefix

    def __exit__(self, *_):
        subprocess.run(["ip", "netns", "delete", self.name], stderr=subprocess.DEVNULL, check=False)


# --- environment -------------------------------------------------------------------------------------


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def first_match(path, pattern):
    try:
        match = re.search(pattern, Path(path).read_text(), re.M)
    except OSError:
        return "unknown"
    return match.group(1).strip() if match else "unknown"


def environment(options):
    flags = first_match("/proc/cpuinfo", r"^flags\s*:\s*(.*)$").split()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "kernel": f"Linux {re.match(r'[0-9.]+', os.uname().release).group()}",
        "machine": os.uname().machine,
        "cpu": first_match("/proc/cpuinfo", r"^model name\s*:\s*(.*)$"),
        "cpus": len(CPUS),
        "kind": "virtual machine" if "hypervisor" in flags else "bare metal",
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "congestion_control": first_match("/proc/sys/net/ipv4/tcp_congestion_control", r"(\w+)"),
        "commit": output("git", "describe", "--always", "--dirty", "--abbrev=12"),
        "version": (ROOT / "VERSION").read_text().strip(),
        "compiler": output("gcc", "--version").splitlines()[0],
        "flags": "-O2, no -march",
        "liburing": output("pkg-config", "--modversion", "liburing"),
        "peers": dict(
            line.split(" ", 1) for line in output("bench/peers/build", "--versions").splitlines() if " " in line
        ),
        "duration_s": options.duration,
        "warmup_s": options.warmup,
        "rounds": options.rounds,
        "quick": options.quick,
    }


# --- main --------------------------------------------------------------------------------------------


def available(contender, missing):
    if CONTENDERS[contender].get("before"):
        return CONTENDERS[contender]["before"] not in missing
    if contender.startswith("broker") or contender == "limit":
        return True
    return contender not in missing


def missing_peers():
    versions = dict(
        line.split(" ", 1) for line in output("bench/peers/build", "--versions").splitlines() if " " in line
    )
    gone = {name for name in [*CONTENDERS, "haproxy"] if versions.get(name.partition("-")[0], "-") == "-"}
    return {name for name in gone if not name.startswith(("broker", "limit"))}


def choose(options, missing):
    wanted = set(options.only.split(",")) if options.only else None
    chosen = []
    for scenario in SCENARIOS:
        if wanted and scenario["name"] not in wanted:
            continue
        if options.quick and not wanted and not scenario.get("quick", True):
            continue
        contenders = [c for c in scenario["contenders"] if available(c, missing)]
        if options.quick and not options.contenders:
            contenders = [c for c in contenders if c in QUICK_CONTENDERS or reactors_of(c) > 1 or c in ("broker-1r", "broker-512")]
        if options.contenders:
            contenders = [c for c in contenders if c in options.contenders.split(",")]
        chosen.append({**scenario, "contenders": contenders})
    return chosen


def sweep(bench, missing):
    wanted = bench.options.sweeps.split(",") if bench.options.sweeps else SWEEPS
    for name, points in SWEEPS.items():
        if name not in wanted:
            continue
        say(f"sweep {name}")
        for point in points:
            for contender in point["contenders"]:
                if available(contender, missing):
                    bench.run(point, contender, 1, 0, f"sweep {name}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the main figures only, about 5 minutes")
    parser.add_argument("--rounds", type=int, help="rounds (5; quick 2)")
    parser.add_argument("--duration", type=float, help="seconds of each run (2; quick 1)")
    parser.add_argument("--warmup", type=float, help="seconds before that (0.5; quick 0.3)")
    parser.add_argument("--only", help="scenarios, comma-separated")
    parser.add_argument("--contenders", help="contenders, comma-separated")
    parser.add_argument("--repeat-minutes", type=float, help="for runs that were disturbed, in all (5; quick 0)")
    parser.add_argument("--sweeps", help=f"curves, comma-separated, of {', '.join(SWEEPS)}")
    parser.add_argument("--resume", action="store_true", help="goes on where one with the same --out was broken off")
    parser.add_argument("--no-sweeps", action="store_true", help="no curves")
    parser.add_argument("--no-namespace", action="store_true", help="no second set")
    parser.add_argument("--label", help="what the machine is called in the report")
    parser.add_argument("--out", type=Path, help="directory (bench/reports/DATE-LABEL)")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.duration = options.duration or (1 if options.quick else 2)
    options.warmup = options.warmup or (0.3 if options.quick else 0.5)
    if options.repeat_minutes is None:
        options.repeat_minutes = 0 if options.quick else 5
    options.label = options.label or f"{os.uname().machine}-{len(CPUS)}cpu"
    day = time.strftime("%Y-%m-%d", time.gmtime())
    options.out = options.out or ROOT / "bench/reports" / f"{day}-{options.label}{'-quick' if options.quick else ''}"
    return options


def main():
    options = parse()
    for program in ("broker", "broker-load", "limit"):
        if not (BUILD / program).exists():
            sys.exit(f"run.py: {BUILD / program} is not there; try: make bench")
    missing = missing_peers()
    if missing:
        say(f"not there, and left out: {', '.join(sorted(missing))}; bench/peers/build gets them")
    scenarios = choose(options, missing)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        bench = Bench(options, Path(directory))
        if options.resume:
            bench.go_on()
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            bench.round(scenarios, number, "loopback")
        if not options.quick and not options.no_sweeps:
            sweep(bench, missing)
        if not options.quick and not options.no_namespace:
            with Namespace() as prefix:
                if prefix:
                    bench.prefix = prefix
                    main_ones = [s for s in scenarios if s.get("namespace")]
                    for number in range(min(3, options.rounds)):
                        say(f"namespace, round {number + 1}")
                        bench.round(main_ones, number, "namespace", only=QUICK_CONTENDERS)
                    bench.prefix = []
    data = {
        "environment": {**environment(options), "label": options.label, "minutes": (time.monotonic() - began) / 60},
        "missing": sorted(missing) + ["glommio"],
        "runs": bench.runs,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(data, indent=1) + "\n")
    report.write(options.out, data)
    bench.kept().unlink(missing_ok=True)
    say(f"{options.out / 'report.md'}: {(time.monotonic() - began) / 60:.1f} minutes")


if __name__ == "__main__":
    main()
