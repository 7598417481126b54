#!/usr/bin/python3
"""Measures what each knob of engine { }, and topics { pace }, does to throughput, CPU and latency, one at a time, the others at their defaults.

    bench/knobs.py                        all knobs, about 10 minutes; writes bench/reports/DATE-LABEL-knobs
    bench/knobs.py --only spin_us,batch   these

All values of a knob run once in each round, and a value is compared with the default of the same round.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import report
from run import BUILD, CPUS, ROOT, Bench, environment, run_json, say
from scenarios import scenario

LOADS = {
    "each100": scenario("each100", 1, 100, 128, window=64, batch=1),
    "each1000": scenario("each1000", 1, 1000, 128, window=64, batch=1),
    "busy100": scenario("busy100", 1, 100, 128, rate=3000),
    "fan1000": scenario("fan1000", 1, 1000, 128, window=64),
    "many": scenario("many", 50, 20, 128, window=16),
    "one2one": scenario("one2one", 50, 1, 128, window=64),
    "seg8k": scenario("seg8k", 10, 50, 8192, window=8),
    "paced": scenario("paced", 10, 10, 128, rate=20),
    "pacedhi": scenario("pacedhi", 10, 50, 128, rate=500),
}

# The first value is the default.
KNOBS = [
    ("batch", (64, 1, 4, 16, 256, 1024), ("fan1000", "pacedhi")),
    ("turn_sends", (512, 64, 4096), ("fan1000", "pacedhi")),
    ("spin_us", (0, 5, 20, 50, 200), ("paced", "pacedhi")),
    ("linger_us", (0, 50, 200, 500), ("paced", "pacedhi", "many")),
    ("recv_buffer_bytes", ("16K", "2K", "4K", "64K"), ("one2one", "many", "seg8k")),
    ("recv_buffers", (1024, 16, 64), ("one2one", "many")),
    ("sqpoll_idle_ms", (0, 10), ("pacedhi", "many")),
    ("pace", (1, 0, 0.5, 2, 4), ("each100", "each1000", "busy100", "fan1000", "pacedhi")),
]
SECTIONS = {"pace": "topics"}  # of those that are not in engine { }

ZERO_COPY_BYTES = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20]


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--duration", type=float, default=1.5, help="seconds of each run")
    parser.add_argument("--warmup", type=float, default=0.3, help="seconds before that")
    parser.add_argument("--only", help="knobs, comma-separated")
    parser.add_argument("--label", default=f"{len(CPUS)}-cores", help="what the machine is called in the report")
    parser.add_argument("--out", type=Path, help="directory (bench/reports/DATE-LABEL-knobs)")
    options = parser.parse_args()
    options.repeat_minutes, options.quick = 3, False
    day = time.strftime("%Y-%m-%d", time.gmtime())
    options.out = options.out or ROOT / "bench/reports" / f"{day}-{options.label}-knobs"
    return options


def middle(runs, read):
    values = [v for r in runs if "failed" not in r and (v := read(r)) is not None]
    return statistics.median(values) if values else None


def ratio(runs, default, read):
    own = {r["round"]: read(r) for r in runs if "failed" not in r}
    base = {r["round"]: read(r) for r in default if "failed" not in r}
    return [own[n] / base[n] for n in own if own[n] and base.get(n)]


def table(knob, values, name, by):
    lines = [
        f"| `{knob}` | delivered per CPU-second | x default (range) | delivered per s | p50, ms | p99, ms | per send |",
        "|---|---|---|---|---|---|---|",
    ]
    per_cpu = report.METRICS["delivered_per_cpu_s"][1]
    for value in values:
        runs = by[knob, name, value]
        factor = report.spread(ratio(runs, by[knob, name, values[0]], per_cpu)) if value != values[0] else "1"
        p50 = middle(runs, lambda r: report.latency(r, "latency_ns", "p50"))
        p99 = middle(runs, lambda r: report.latency(r, "latency_ns", "p99"))
        if p50 is None:
            lines.append(f"| {value} | failed: {runs[0].get('failed', '')[:80]} | | | | | |")
            continue
        lines.append(
            f"| {value} | {report.human(middle(runs, per_cpu))} | {factor}"
            f" | {report.human(middle(runs, lambda r: r.get('delivered_per_s')))}"
            f" | {p50 / 1e6:.3g} | {p99 / 1e6:.3g} | {middle(runs, lambda r: r.get('messages_per_send')) or 0:.1f} |"
        )
    return lines


def plot(out, knob, values, names, by):
    """CPU and p99 as multiples of the default's, over the knob's values in order."""
    if len(values) < 3:
        return False
    order = sorted(values, key=lambda v: float(str(v).replace("K", "000")))
    cost = report.METRICS["cpu_ns_per_delivered"][1]
    series = {}
    for name in names:
        for title, read in (("CPU", cost), ("p99", lambda r: report.latency(r, "latency_ns", "p99"))):
            points = []
            for i, value in enumerate(order):
                factors = ratio(by[knob, name, value], by[knob, name, values[0]], read)
                if factors:
                    points.append((i, statistics.median(factors)))
            series[f"{name}: {title}"] = points
    ticks = ", ".join(f'"{v}" {i}' for i, v in enumerate(order))
    report.curve(
        out, knob, f"{knob}: multiples of the default ({values[0]})", knob, "x", series, log="",
        more=f"set xtics ({ticks})\nset yrange [0:*]\n",
    )
    return True


def zero_copy(options):
    """What SEND_ZC would save or cost, measured with the bare blaster: CPU per send, by size."""
    lines = [
        "## SEND_ZC",
        "",
        "Bare sends of one message to 50 subscribers (`build/release/limit --mode uring|zero-copy --coalesce 1"
        " --subscribers 50 --bytes N`), us of CPU each. The broker has no zero-copy sends.",
        "",
        "| bytes | send | SEND_ZC | x send (range) |",
        "|---|---|---|---|",
    ]
    for size in ZERO_COPY_BYTES:
        us = {"uring": [], "zero-copy": []}
        for _ in range(options.rounds):
            for mode in us:
                command = [BUILD / "limit", "--mode", mode, "--coalesce", 1, "--subscribers", 50, "--bytes", size - 2]
                result, _ = run_json([*command, "--seconds", 1, "--warmup", options.warmup], set(CPUS), 60)
                us[mode].append(result["cpu_ns_per_delivered"] / 1000)
        factors = [z / s for s, z in zip(us["uring"], us["zero-copy"])]
        plain, zero = (statistics.median(us[m]) for m in us)
        lines.append(f"| {size} | {plain:.2f} | {zero:.2f} | {report.spread(factors)} |")
        say(f"  SEND_ZC {size:8} {plain:8.2f} us plain {zero:8.2f} us zero-copy")
    return [*lines, ""]


def main():
    options = parse()
    wanted = options.only.split(",") if options.only else [k for k, _, _ in KNOBS]
    if unknown := set(wanted) - {k for k, _, _ in KNOBS}:
        sys.exit(f"knobs.py: no such knob: {', '.join(sorted(unknown))}")
    knobs = [k for k in KNOBS if k[0] in wanted]
    by = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        bench = Bench(options, Path(directory))
        for number in range(options.rounds):
            for knob, values, names in knobs:
                say(f"round {number + 1} of {options.rounds}: {knob}")
                for name in names:
                    for value in values:
                        quoted = f'"{value}"' if isinstance(value, str) else value
                        load = {**LOADS[name], SECTIONS.get(knob, "engine"): f"{knob} = {quoted}"}
                        result = bench.run(load, "broker", 1, number, f"{knob} = {value}")
                        by.setdefault((knob, name, value), []).append(result)
    data = {
        "environment": {**environment(options), "label": options.label, "minutes": (time.monotonic() - began) / 60},
        "missing": [],
        "runs": bench.runs,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "report.json").write_text(json.dumps(data, indent=1) + "\n")
    lines = [f"# Knobs, {data['environment']['date']}, {options.label}", "", *report.environment_lines(data["environment"], data), ""]
    for knob, values, names in knobs:
        lines += [f"## {knob}", ""]
        if plot(options.out, knob, values, names, by):
            lines += [f"![{knob}: CPU and p99 as multiples of the default's]({knob}.svg)", ""]
        for name in names:
            lines += [f"{name}: {LOADS[name]['what']}", "", *table(knob, values, name, by), ""]
    if not options.only:
        lines += zero_copy(options)
    (options.out / "report.md").write_text("\n".join(lines).rstrip() + "\n")
    say(f"{options.out / 'report.md'}: {data['environment']['minutes']:.1f} minutes")


if __name__ == "__main__":
    main()
