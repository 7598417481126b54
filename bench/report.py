"""Makes report.md and its plots from the runs."""

import shutil
import statistics
import subprocess

from scenarios import AT_ONCE, CONTENDERS, DOORS, SCENARIOS

METRICS = {
    "delivered_per_cpu_s": ("delivered per CPU-second", lambda r: r.get("delivered_per_cpu_s") or None),
    "delivered_per_s": ("delivered per second", lambda r: r.get("delivered_per_s") or None),
    "cpu_ns_per_delivered": (
        "CPU per delivered message, ns",
        lambda r: 1e9 / r["delivered_per_cpu_s"] if r.get("delivered_per_cpu_s") else None,
    ),
    "p50_ns": ("p50, ms", lambda r: latency(r, "latency_ns", "p50")),
    "p99_ns": ("p99, ms", lambda r: latency(r, "latency_ns", "p99")),
    "inside_p50_ns": ("p50 inside the broker, ms", lambda r: latency(r, "inside_ns", "p50")),
    "inside_p99_ns": ("p99 inside the broker, ms", lambda r: latency(r, "inside_ns", "p99")),
    "slowest_p50_ns": ("last subscriber of a message, median, ms", lambda r: latency(r, "slowest_ns", "p50")),
    "memory_above_idle_bytes": ("peak memory above idle, MiB", lambda r: r.get("memory_above_idle_bytes")),
    "idle_bytes_per_connection": ("bytes per idle connection", lambda r: r.get("idle_bytes_per_connection")),
    "cpu_us_per_comer": (
        "CPU of one that comes and leaves, us",
        lambda r: r["broker_cpu_s"] * 1e6 / r["churned"] if r.get("churned") else None,
    ),
    "broker_cpu_s": ("CPU, s", lambda r: r.get("broker_cpu_s")),
}

UNITS = {"p50_ns": 1e6, "p99_ns": 1e6, "inside_p50_ns": 1e6, "inside_p99_ns": 1e6, "slowest_p50_ns": 1e6, "memory_above_idle_bytes": 1 << 20}
MORE_IS_BETTER = {"delivered_per_cpu_s", "delivered_per_s"}


def latency(run, which, quantile):
    histogram = run.get(which) or {}
    return histogram[quantile] if histogram.get("count") else None


def human(n):
    if n is None:
        return "-"
    for unit in ("", " k", " M", " G"):
        if abs(n) < 999.5:
            return f"{n:.3g}{unit}"
        n /= 1000
    return f"{n:.3g} T"


def spread(values, form="{:.2f}"):
    """Median and range."""
    if not values:
        return "-"
    middle = form.format(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({form.format(min(values))} to {form.format(max(values))})"


class Runs:
    """The runs of one set, by scenario, contender and round."""

    def __init__(self, runs, kind):
        self.by = {}
        for run in runs:
            if run["set"] == kind:
                self.by.setdefault(run["scenario"], {}).setdefault(run["contender"], {})[run["round"]] = run

    def values(self, scenario, contender, metric):
        read = METRICS[metric][1]
        rounds = self.by.get(scenario, {}).get(contender, {})
        return {n: v for n, run in rounds.items() if (v := read(run)) is not None}

    def base_values(self, scenario, base, metric):
        """Of a contender, or of the best of those that send at once."""
        if base != "best at once":
            return self.values(scenario, base, metric), base
        candidates = {c: self.values(scenario, c, metric) for c in AT_ONCE}
        candidates = {c: v for c, v in candidates.items() if v and not self.failed(scenario, c)}
        if not candidates:
            return {}, base
        pick = max if metric in MORE_IS_BETTER else min
        best = pick(candidates, key=lambda c: statistics.median(candidates[c].values()))
        return candidates[best], best

    def ratios(self, scenario, contender, base, metric):
        """Within each round; with the name of the base."""
        own = self.values(scenario, contender, metric)
        theirs, name = self.base_values(scenario, base, metric)
        return [own[n] / theirs[n] for n in sorted(own) if theirs.get(n)], name

    def failed(self, scenario, contender):
        return [r["failed"] for r in self.by.get(scenario, {}).get(contender, {}).values() if r.get("failed")]


def judge(runs, scenario, target):
    """A line of the table of targets: what was to be reached, what was, and by how much it was met or missed."""
    metric = target["metric"]
    own = target.get("of", "broker")
    title = METRICS[metric][0]
    scale = UNITS.get(metric, 1)
    if "most" in target:
        less = runs.values(scenario, target["minus"], metric) if "minus" in target else {}
        found = runs.values(scenario, own, metric)
        values = [(v - less.get(n, 0)) / scale for n, v in found.items() if n in less or "minus" not in target]
        of = "" if own == "broker" else f"{own}: "
        wanted = f"{of}{title} <= {target['most'] / scale:.4g}" + (f" more than {target['minus']}" if "minus" in target else "")
        if not values:
            return wanted, "-", "not measured"
        value = statistics.median(values)
        most = target["most"] / scale
        word = f"met, {most - value:.3g} to spare" if value <= most else f"**missed** by {value - most:.3g}"
        return wanted, spread(values, "{:.4g}"), word
    ratios, name = runs.ratios(scenario, own, target["base"], metric)
    more = metric in MORE_IS_BETTER
    of = "" if own == "broker" else f"{own}: "
    wanted = f"{of}{title} {'>=' if more else '<='} {target['factor']:g} x {name}"
    if not ratios:
        return wanted, "-", "not measured"
    ratio = statistics.median(ratios)
    distance = ratio / target["factor"] - 1
    met = distance >= 0 if more else distance <= 0
    word = f"met by {abs(distance):.1%}" if met else f"**missed** by {abs(distance):.1%}"
    return wanted, spread(ratios), word


# --- tables ------------------------------------------------------------------------------------------


def scenario_table(runs, scenario):
    name = scenario["name"]
    rows = []
    for contender in CONTENDERS:
        rounds = runs.by.get(name, {}).get(contender)
        if not rounds:
            continue
        if runs.failed(name, contender) and len(runs.failed(name, contender)) == len(rounds):
            rows.append(f"| {contender} | failed: {runs.failed(name, contender)[0][:120]} | | | | | |")
            continue
        figures = runs.values(name, contender, "delivered_per_cpu_s")
        own = scenario.get("own") or next((c for c in ("broker", "broker-1r", "broker-nats") if c in runs.by[name]), "broker")
        ratios, _ = runs.ratios(name, own, contender, "delivered_per_cpu_s")
        good = [r for r in rounds.values() if "failed" not in r]
        per_s = [r["delivered_per_s"] for r in good if "delivered_per_s" in r]
        share = [r["messages_per_send"] for r in good if "messages_per_send" in r]
        enters = [r["enters_per_delivered"] for r in good if "enters_per_delivered" in r]
        rows.append(
            f"| {contender} | {human(statistics.median(figures.values())) if figures else '-'}"
            f" ({human(min(figures.values()))} to {human(max(figures.values()))})"
            f" | {spread(ratios) if contender != own else '1'}"
            f" | {human(statistics.median(per_s)) if per_s else '-'}"
            f" | {milliseconds(runs, name, contender, 'p50_ns')} / {milliseconds(runs, name, contender, 'p99_ns')}"
            f"{inside(runs, name, contender)}"
            f" | {f'{statistics.median(share):.1f}, {statistics.median(enters):.2g}' if share else '-'}"
            f" | {each(runs, name, contender) or '-'} |"
            if figures
            else f"| {contender} | - | - | - | - | - | {each(runs, name, contender) or '-'} |"
        )
    if not rows:
        return []
    return [
        f"### {name}: {scenario['what']}",
        "",
        "| | delivered per CPU-s (range) | broker is x of it | delivered per s | p50 / p99, ms (inside the broker) | messages per send,"
        f" system calls per delivery | {'CPU of each, us' if 'comers' in name else 'idle bytes'} |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
    ]


def each(runs, name, contender):
    """What one connection costs: idle, or coming and leaving."""
    metric = "cpu_us_per_comer" if "comers" in name else "idle_bytes_per_connection"
    values = runs.values(name, contender, metric).values()
    return f"{statistics.median(values):.0f}" if values else None


def door_table(runs):
    """Every door beside the line protocol, and beside the peer whose protocol it speaks."""
    names = [s["name"] for s in SCENARIOS if any(d in s["contenders"] for d in DOORS) and s["name"] in runs.by]
    if not any(runs.by[n].get(d) for n in names for d in DOORS if d != "broker-sse"):
        return []
    lines = [
        "## Doors",
        "",
        "Delivered per CPU-second through each door, as multiples of the line protocol's and of the peer's that speaks the same.",
        "",
        "| | peer | " + " | ".join(names) + " |",
        "|---|---|" + "---|" * len(names),
    ]
    for door, peer in DOORS.items():
        cells = []
        for name in names:
            line, _ = runs.ratios(name, door, "broker", "delivered_per_cpu_s")
            other, _ = runs.ratios(name, door, peer, "delivered_per_cpu_s")
            cells.append(f"{spread(line)}; {spread(other)}" if line or other else "-")
        lines.append(f"| {door} | {peer} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def milliseconds(runs, scenario, contender, metric):
    values = [v / 1e6 for v in runs.values(scenario, contender, metric).values()]
    return f"{statistics.median(values):.3g}" if values else "-"


def inside(runs, scenario, contender):
    """What of that is the broker's, from receive to the end of the send, of a sample; the rest is the scheduler's."""
    p50 = milliseconds(runs, scenario, contender, "inside_p50_ns")
    return f" ({p50} / {milliseconds(runs, scenario, contender, 'inside_p99_ns')})" if p50 != "-" else ""


def target_table(runs):
    lines = ["| scenario | to be reached | reached, median (range) | |", "|---|---|---|---|"]
    for scenario in SCENARIOS:
        if scenario["name"] in runs.by:
            for target in scenario["targets"]:
                lines.append("| " + " | ".join([scenario["name"], *judge(runs, scenario["name"], target)]) + " |")
    return lines


def environment_lines(env, data):
    peers = ", ".join(f"{k} {v}" for k, v in env["peers"].items() if v != "-")
    disturbed = sum(1 for r in data["runs"] if r.get("disturbed"))
    return [
        f"- {env['cpu']}, {env['cpus']} cores, {env['memory_gib']} GiB, {env['kind']}",
        f"- {env['kernel']}, congestion control {env['congestion_control']}",
        f"- broker {env['version']}, commit {env['commit']}, {env['compiler']}, {env['flags']}, liburing {env['liburing']}",
        f"- peers: {peers}; not there: {', '.join(data['missing'])}",
        f"- {env['rounds']} rounds of {env['duration_s']:g} s after {env['warmup_s']:g} s of warm-up, interleaved,"
        f" {env['minutes']:.0f} minutes in all",
        f"- {disturbed} of {len(data['runs'])} runs were disturbed (CPU stolen by the hypervisor, or used by"
        " others) even when they were repeated",
    ]


# --- plots -------------------------------------------------------------------------------------------

# As many as there are contenders: the last two are the broker with other settings, and the limit.
COLOURS = ["#1b6ca8", "#d1495b", "#66a182", "#edae49", "#8d96a3", "#5f4bb6", "#2e4057", "#a26769", "#6d597a", "#8ecae6", "#000000"]


def gnuplot(out, name, script, data):
    """Writes out/name.svg; data: blocks of rows, each of which the script knows as $name."""
    blocks = "".join(f"${key} << EOD\n" + "\n".join(map(str, rows)) + "\nEOD\n" for key, rows in data.items())
    head = (
        "set terminal svg size 900,480 dynamic font 'sans-serif,13' background '#ffffff'\n"
        f"set output '{name}.svg'\nset grid ytics lc rgb '#dddddd'\nset border 3\nset tics nomirror\n"
        "set key outside right top\n"
    )
    subprocess.run(["gnuplot"], input=head + blocks + script, text=True, check=True, cwd=out)


def plot_peers(out, runs):
    names = [s["name"] for s in SCENARIOS if s["name"] in runs.by and "broker" in runs.by[s["name"]]]
    # Where nothing is delivered, or the server does more than is counted, there is nothing to see.
    names = [n for n in names if n not in ("idle", "mixed") and not n.endswith("-tls") and runs.values(n, "broker", "delivered_per_cpu_s")]
    contenders = [c for c in CONTENDERS if any(runs.values(n, c, "delivered_per_cpu_s") for n in names)]
    rows = ['scenario "' + '" "'.join(contenders) + '"']
    for n in names:
        cells = [runs.values(n, c, "delivered_per_cpu_s") for c in contenders]
        rows.append(f'"{n}" ' + " ".join(str(statistics.median(v.values())) if v else "NaN" for v in cells))
    script = (
        "set style data histograms\nset style fill solid 0.9 border lc rgb '#ffffff'\nset logscale y\n"
        "set format y '%.0s %c'\nset ylabel 'delivered messages per CPU-second'\nset boxwidth 0.9\n"
        "set title 'Delivered messages per CPU-second of the server, more is better'\nplot "
        + ", ".join(
            f"$d using {i + 2}{':xtic(1)' if i == 0 else ''} title columnheader lc rgb '{COLOURS[i % len(COLOURS)]}'"
            for i in range(len(contenders))
        )
        + "\n"
    )
    if names:
        gnuplot(out, "peers", script, {"d": rows})
    return bool(names)


def curve(out, name, title, xlabel, ylabel, series, log="xy", more=""):
    """series: {title: [(x, y)]}; more: lines for gnuplot."""
    series = {k: v for k, v in series.items() if v}
    if not series:
        return False
    blocks = {f"d{i}": [f"{x} {y}" for x, y in points] for i, points in enumerate(series.values())}
    script = (
        (f"set logscale {log}\n" if log else "")
        + more
        + f"set title '{title}'\nset xlabel '{xlabel}'\nset ylabel '{ylabel}'\nset format '%.0s%c'\nplot "
        + ", ".join(
            f"$d{i} using 1:2 with linespoints pt 7 lw 2 lc rgb '{COLOURS[i]}' title '{key}'"
            for i, key in enumerate(series)
        )
        + "\n"
    )
    gnuplot(out, name, script, blocks)
    return True


def sweep_points(data, sweep, contender, read):
    points = [
        (r["x"], v)
        for r in data["runs"]
        if r["set"] == f"sweep {sweep}" and (contender is None or r["contender"] == contender)
        if "failed" not in r and (v := read(r)) is not None
    ]
    return sorted(points)


def plots(out, data, runs):
    """The names of those that were made, with their captions."""
    made = []
    if not shutil.which("gnuplot"):
        return made
    if plot_peers(out, runs):
        made.append(("peers", "Delivered messages per CPU-second of the server, one core, by scenario"))
    names = ("broker", "epoll", "redis")
    cpu = METRICS["cpu_ns_per_delivered"][1]
    if curve(
        out, "subscribers", "CPU per delivered message against subscribers (1 topic, 128 B, window 64)", "subscribers",
        "ns of the server per delivered message", {c: sweep_points(data, "subscribers", c, cpu) for c in names},
    ):
        made.append(("subscribers", "CPU per delivered message against subscribers"))
    series = {}
    for c in names:
        for quantile in ("p50", "p99"):
            points = sweep_points(data, "load", c, lambda r: latency(r, "latency_ns", quantile))
            series[f"{c} {quantile}"] = [(x * 500, y / 1e6) for x, y in points]
    if curve(
        out, "latency", "Latency against load (10 topics x 50 subscribers, 128 B)", "deliveries per second", "ms", series
    ):
        made.append(("latency", "Latency against load"))
    series = {
        "messages per send": [
            (x * 500, y) for x, y in sweep_points(data, "load", "broker", lambda r: r.get("messages_per_send"))
        ],
        "completions per turn, p50": [
            (x * 500, y) for x, y in sweep_points(data, "load", "broker", lambda r: r.get("completions_per_turn_p50"))
        ],
    }
    if curve(
        out, "coalescing", "What the broker does at a time, against load (10 topics x 50 subscribers, 128 B)",
        "deliveries per second", "", series,
    ):
        made.append(("coalescing", "Messages per send and completions per turn against load"))
    paced = ("broker", "broker-pace0", "redis")
    if curve(
        out, "pace", "CPU per delivered message of one topic x 100 subscribers against load (128 B)", "messages per second",
        "ns of the server per delivered message", {c: sweep_points(data, "pace", c, cpu) for c in paced}, log="",
    ):
        made.append(("pace", "CPU per delivered message with and without a pace, against load"))
    series = {}
    for c in paced:
        for quantile in ("p50", "p99"):
            points = sweep_points(data, "pace", c, lambda r: latency(r, "latency_ns", quantile))
            series[f"{c} {quantile}"] = [(x, y / 1e6) for x, y in points]
    if curve(
        out, "pace-latency", "Latency of one topic x 100 subscribers against load (128 B)", "messages per second", "ms", series
    ):
        made.append(("pace-latency", "Latency with and without a pace, against load"))
    per_s = sweep_points(data, "reactors", None, lambda r: r.get("delivered_per_s"))
    series = {
        "per CPU-second": sweep_points(data, "reactors", None, METRICS["delivered_per_cpu_s"][1]),
        "per second and core": [(n, v / min(n, data["environment"]["cpus"])) for n, v in per_s],
    }
    if curve(
        out, "reactors", "Delivered messages by reactors (50 x 20, 128 B, window 16)", "reactors",
        "delivered messages", series, log="x",
    ):
        made.append(("reactors", "Efficiency by reactors"))
    return made


# --- all of it ---------------------------------------------------------------------------------------


def write(out, data):
    env = data["environment"]
    runs = Runs(data["runs"], "loopback")
    made = plots(out, data, runs)
    lines = [
        f"# Bench report, {env['date']}, {env['label']}",
        "",
        *environment_lines(env, data),
        "- engine at its defaults, so linger_us = 0 throughout",
        "",
        "The server is pinned to the first core, the load generator (or the limit's reader) to another. CPU is the"
        " server's, user and system; on loopback the sender pays for the receiver's side of TCP too, as every peer"
        " does. A ratio is the median of the ratios within each round. Every delivery was checked for order, gaps,"
        " duplicates, routing, length and content: a run with a wrong one would be shown as failed.",
        "",
        "## Targets",
        "",
        *target_table(runs),
        "",
    ]
    lines += door_table(runs)
    for name, caption in made:
        lines += [f"![{caption}]({name}.svg)", ""]
    lines += ["## Figures", ""]
    for scenario in SCENARIOS:
        lines += scenario_table(runs, scenario)
    namespace = Runs(data["runs"], "namespace")
    if namespace.by:
        lines += [
            "## With receive work on the load generator's core",
            "",
            "In a network namespace whose loopback hands received packets to the other core (RPS): the server does not"
            " pay for its clients' side of TCP, as on a host with a network card.",
            "",
        ]
        for scenario in SCENARIOS:
            lines += scenario_table(namespace, scenario)
    (out / "report.md").write_text("\n".join(lines).rstrip() + "\n")
