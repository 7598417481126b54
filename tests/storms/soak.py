#!/usr/bin/python3
"""make soak T=30m: everything at once against one broker, at a gentle rate, and whether it stays as it was.

Beside three broker-loads (lines; server-sent events, published by HTTP; large messages), which check every byte, one process
plays publishers by HTTP, requests that wait, replays by line and by event stream, a topic of large messages with readers that
are good, slow and stuck, clients that come and go on topics that come and go, and reloads. Once a second it samples the broker's
memory, descriptors and counters. At the end everybody leaves, and there is a plot, a report and a verdict:

  memory       no growth after the warm-up: a line through the lowest sample of each twentieth of the time rises by less than
               1 MiB + 2 % of the mean. The lowest, because backlogs of stuck readers come and go; that much, because the
               allocator keeps single pages for what it may need again. At the rates here a leak of 100 bytes for each
               connection or message shows within minutes
  descriptors  as many as before the first client
  counters     matched = delivered + dropped(reasons), and all that was published is counted
  clients      nothing lost, doubled, damaged, out of order or unanswered
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from clients import Crowd, Pair, median, raise_file_limit, request

import storms
from harness import config_text

TOPIC = "soak.http"
BULK_BYTES = 100_000
NERVES_S = 20  # of a slow reader; it is more than a backlog behind by then
PARTS = 20  # of the time after the warm-up, each with its lowest memory
CONFIG = {
    "topics": {"history_messages": 16, "linger_seconds": 5, "history_seconds": 5, "backlog_bytes": "1M", "backlog_seconds": 10},
    "limits": {"message_bytes": "1M"},
    "http": {"wait_seconds": 10},
}
DROPS = ("slow", "skipped", "closed", "unencodable", "memory")


def seconds_of(text):
    number, unit = re.fullmatch(r"(\d+)([smh]?)", text).groups()
    return int(number) * {"": 1, "s": 1, "m": 60, "h": 3600}[unit]


# --- who takes part: each has a period, and a step that asserts -------------------------------------------


class Actor:
    period = 0.05

    def __init__(self, soak):
        self.soak, self.crowd, self.address = soak, soak.crowd, soak.broker.address(storms.BOTH)
        self.due = 0

    def leave(self):
        pass


class Publisher(Actor):
    """Publishes numbered messages by HTTP on one connection, each when the one before has its number."""

    def __init__(self, soak):
        super().__init__(soak)
        self.member = self.crowd.add(self.address)
        self.seq, self.asked = 0, False
        self.epoch = None

    def step(self):
        got = bytes(self.member.got)
        assert not self.member.ended, f"the publisher's connection ended: {got}"
        if self.asked:
            if not got.endswith(b"}\n"):
                return
            epoch, seq = re.search(rb'"id":"([0-9a-f]{16}):(\d+)"', got).groups()
            assert got.startswith(b"HTTP/1.1 200 ") and int(seq) == self.seq + 1, got
            self.seq, self.epoch = int(seq), epoch.decode()
            self.member.got.clear()
            self.soak.count("published by HTTP")
        body = b"message %d" % (self.seq + 1)
        self.member.say(b"POST /publish/%s HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\n\r\n%s" % (TOPIC.encode(), len(body), body))
        self.asked = True

    def leave(self):
        self.member.close()


class Waiter(Actor):
    """Asks for the message after the newest, again and again: the request waits until it is there."""

    def __init__(self, soak):
        super().__init__(soak)
        self.member, self.seq = self.crowd.add(self.address), 0

    def step(self):
        got = bytes(self.member.got)
        assert not self.member.ended, f"a waiting request's connection ended: {got}"
        if self.seq:
            body = b"\r\n\r\nmessage %d" % self.seq
            if not got.endswith(body):
                # A head that is no 200, or another message.
                assert not got or got.startswith(b"HTTP/1.1 200 "), got
                return
            self.member.got.clear()
            self.soak.count("waited for")
        self.seq = self.soak.publisher.seq + 1
        self.member.say(b"GET /topic/%s/%d HTTP/1.1\r\nHost: b\r\n\r\n" % (TOPIC.encode(), self.seq))

    def leave(self):
        self.member.close()


class Replayer(Actor):
    """Comes back for the newest messages, by turns as a line subscriber and as an event stream, and goes again."""

    period = 0.5

    def __init__(self, soak):
        super().__init__(soak)
        self.member, self.turn, self.first, self.asked = None, 0, 0, 0
        self.missed = 0

    def step(self):
        publisher = self.soak.publisher
        if self.member:
            got = bytes(self.member.got)
            numbers = [int(n) for n in re.findall(rb"^(?:data: )?message (\d+)\r?\n", got, re.M)]
            if not numbers:
                # A busy machine: ours is one process of many.
                self.missed += 1
                assert self.missed < 40, f"no replay within 20 s: {got}"
                return
            self.missed = 0
            assert numbers == list(range(numbers[0], numbers[0] + len(numbers))), got
            # What is published before the newest are looked up moves them.
            late = publisher.seq - self.asked if self.turn % 2 else 0
            assert self.first <= numbers[0] <= self.first + late, f"a replay from {numbers[0]}, not {self.first}"
            self.member.close(reset=self.turn % 3 == 0)
            self.soak.count("replays")
        if publisher.seq < 20:
            return
        self.turn += 1
        self.asked = publisher.seq
        if self.turn % 2:
            say = f"SUBSCRIBE {TOPIC} LAST 10\r\n"
            self.first = publisher.seq - 9
        else:
            say = f"GET /subscribe/{TOPIC} HTTP/1.1\r\nHost: b\r\nAccept: text/event-stream\r\nLast-Event-ID: {publisher.epoch}:{publisher.seq - 5}\r\n\r\n"
            self.first = publisher.seq - 4
        self.member = self.crowd.add(self.address, say.encode())

    def leave(self):
        if self.member:
            self.member.close()


class Churner(Actor):
    """Clients that come, say something and go, on topics that are forgotten after them."""

    period = 0.1

    def __init__(self, soak):
        super().__init__(soak)
        self.there, self.chance, self.n = [], random.Random(7), 0

    def step(self):
        self.n += 1
        topic = f"churn.{self.n // 3}"
        word = self.chance.choice(["SUBSCRIBE {}\r\n", "SUBSCRIBE {} LAST 5\r\n", "PUBLISH {}\r\nhello\r\n", "PUBLISH {}\r\nhalf a li", "GET /topic/{} HTTP/1.1\r\nHost: b\r\n\r\n", "garbage {}\r\n"])
        self.there.append(self.crowd.add(self.address, word.format(topic).encode()))
        if len(self.there) > 20:
            self.there.pop(0).close(reset=self.n % 2 == 0)
        self.soak.count("came and went")

    def leave(self):
        for member in self.there:
            member.close()


class Bulk(Actor):
    """Large lines to readers that are good, slow and stuck; the good one gets each of them, whole."""

    period = 0.5

    def __init__(self, soak):
        super().__init__(soak)
        self.n, self.heard = 0, 0
        self.reader = self.crowd.add(self.address, b"SUBSCRIBE bulk\r\n")
        self.publisher = None
        self.slow, self.stuck, self.born = [], [], {}

    def line(self, n):
        return b"%d " % n + b"%d" % (n % 10) * BULK_BYTES + b"\r\n"

    def newcomer(self):
        member = self.crowd.add(self.address, b"SUBSCRIBE bulk\r\n", rcvbuf=16 << 10, reads=False)
        self.crowd.wait(lambda: not member.out, "a slow reader says what it wants")
        self.crowd.epoll.unregister(member.socket)
        return member

    def step(self):
        assert not self.reader.ended, "the good reader is served all the time"
        if self.publisher is None:
            if not self.reader.got.startswith(b"OK\r\n"):
                return
            del self.reader.got[:4]
            self.publisher = self.crowd.add(self.address, b"PUBLISH bulk\r\n")
        while len(self.reader.got) >= len(expected := self.line(self.heard)):
            assert self.reader.got.startswith(expected), "a large message is whole, and the next one"
            del self.reader.got[: len(expected)]
            self.heard += 1
            self.soak.count("large messages")
        assert self.n - self.heard < 40, "the good reader keeps up"
        self.publisher.say(self.line(self.n))
        self.n += 1
        for crowd, reads in ((self.slow, True), (self.stuck, False)):
            for member in list(crowd):
                if reads:
                    try:
                        member.socket.recv(2000)
                    except BlockingIOError:
                        pass
                    except OSError:
                        pass
                # The broker has lost patience by then; it cannot be seen here, its goodbye is behind what was not read.
                if time.monotonic() - self.born[member] > NERVES_S:
                    member.close(reset=not reads)
                    crowd.remove(member)
                    del self.born[member]
                    self.soak.count("slow ones replaced")
            if len(crowd) < 3:
                crowd.append(self.newcomer())
                self.born[crowd[-1]] = time.monotonic()

    def leave(self):
        for member in [self.reader, self.publisher, *self.slow, *self.stuck]:
            if member:
                member.close()


class Reloader(Actor):
    """The same configuration with other settings, and every third time a bad one."""

    period = 10

    def __init__(self, soak):
        super().__init__(soak)
        self.n = 0

    def step(self):
        broker = self.soak.broker
        self.n += 1
        text = config_text(**{**broker.config, "http": {**CONFIG["http"], "heartbeat_seconds": 5 + self.n % 10}})
        broker.config_path.write_text(text + ("reactorz = 1\n" if self.n % 3 == 0 else ""))
        broker.send_signal(signal.SIGHUP)
        self.soak.count("reloads")


# --- the soak -------------------------------------------------------------------------------------------


class Soak:
    def __init__(self, directory, seconds):
        self.seconds = seconds
        self.broker = storms.start(directory, {**CONFIG, "stats_seconds": 5})
        self.broker.loop.sleep(1.5)
        self.descriptors = self.broker.descriptors()
        self.crowd = Crowd()
        self.counts, self.samples = {}, []
        address = self.broker.address(storms.BOTH)
        self.pairs = {
            "lines": Pair(address, rate=50, size=200, subscribers=10, more=("--topics", 4)),
            "events": Pair(address, rate=20, size=500, subscribers=5, more=("--topics", 2, "--protocol", "sse")),
            "large": Pair(address, rate=2, size=200_000, subscribers=3),
        }
        self.publisher = Publisher(self)
        self.actors = [self.publisher, Waiter(self), Waiter(self), Replayer(self), Churner(self), Bulk(self), Reloader(self)]

    def count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def stats(self):
        status, _, body = request(self.broker.address(storms.BOTH), "GET", "/stats.json")
        assert status == 200, status
        reactors = json.loads(body)["reactors"]
        total = {k: sum(r[k] for r in reactors) for k in reactors[0] if isinstance(reactors[0][k], int)}
        total.update({f"dropped_{k}": sum(r["dropped"][k] for r in reactors) for k in DROPS})
        return total

    def sample(self, at):
        s = self.stats()
        keys = ["published", "matched", "delivered", "connections", "subscriptions", "waiting", "topics", "history_bytes", *(f"dropped_{k}" for k in DROPS)]
        late = {}
        for name, pair in self.pairs.items():
            assert pair.process.poll() is None, f"the {name} end early: {pair.process.stderr.read()}"
            _, p99, p50 = pair.seconds[-1] if pair.seconds else (0, 0, 0)
            late.update({f"{name}_p50_ms": p50, f"{name}_p99_ms": p99})
        cpu = self.broker.cpu_ticks() / os.sysconf("SC_CLK_TCK")
        self.samples.append({"at_s": round(at, 1), "rss_bytes": self.broker.memory(), "descriptors": self.broker.descriptors(), "cpu_s": cpu, **late, **{k: s[k] for k in keys}})

    def run(self):
        begin = time.monotonic()
        due = 1.0
        while (at := time.monotonic() - begin) < self.seconds:
            self.crowd.turn(0.02)
            for actor in self.actors:
                if at >= actor.due:
                    actor.due = at + actor.period
                    actor.step()
            if at >= due:
                due = at + max(1.0, self.seconds / 1800)
                self.sample(at)
                if sys.stderr.isatty():
                    s = self.samples[-1]
                    print(f"\r\033[Ksoak: {at:.0f} of {self.seconds} s, {s['rss_bytes'] / 2**20:.1f} MiB, p99 {s['lines_p99_ms']:.2f} ms", end="", file=sys.stderr)
        if sys.stderr.isatty():
            print("\r\033[K", end="", file=sys.stderr)

    def end(self):
        """Everybody leaves; what the broker then says and has."""
        for pair in self.pairs.values():
            pair.finish()
        # What was asked for last may still be under way.
        for actor in self.actors:
            actor.leave()
        self.crowd.close()
        deadline = time.monotonic() + 60
        while (self.broker.descriptors() > self.descriptors or self.broker.stats()["subscriptions"]) and time.monotonic() < deadline:
            self.broker.loop.sleep(0.5)
        descriptors = self.broker.descriptors()
        time.sleep(1.2)
        stats = self.stats()
        memory = self.broker.memory()
        self.broker.close_clients()
        self.broker.stop()  # asserts that the final counters balance
        return {"descriptors": descriptors, "memory": memory, **stats}

    def kill(self):
        for pair in self.pairs.values():
            pair.kill()
        self.crowd.close()
        self.broker.kill()


def fit(points):
    """Least squares: slope and value at the first point."""
    n = len(points)
    mx, my = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    sxx = sum((x - mx) ** 2 for x, _ in points)
    slope = sum((x - mx) * (y - my) for x, y in points) / sxx if sxx else 0
    return slope, my + slope * (points[0][0] - mx)


def floor_of(samples):
    """The lowest memory of each part of the time."""
    size = max(1, len(samples) // PARTS)
    parts = [samples[i : i + size] for i in range(0, len(samples) - size + 1, size)]
    return [min(((s["at_s"], s["rss_bytes"]) for s in part), key=lambda p: p[1]) for part in parts]


def judge(soak, final):
    # Pools and histories have filled within a minute.
    warm = max(soak.seconds / 4, min(60, soak.seconds / 2))
    samples = [s for s in soak.samples if s["at_s"] >= warm]
    points = floor_of(samples)
    slope, first = fit(points)
    growth = slope * (points[-1][0] - points[0][0])
    mean = sum(s["rss_bytes"] for s in samples) / len(samples)
    allowed = (1 << 20) + 0.02 * mean
    dropped = sum(final[f"dropped_{k}"] for k in DROPS)
    verdicts = [
        (growth < allowed, f"memory {growth / 1024:+.0f} KiB in {points[-1][0] - points[0][0]:.0f} s after the warm-up, less than {allowed / 1024:.0f} KiB ({slope * 3600 / 1024:+.0f} KiB/h)"),
        (final["descriptors"] <= soak.descriptors, f"descriptors {soak.descriptors} before, {max(s['descriptors'] for s in soak.samples)} at most, {final['descriptors']} after"),
        (final["matched"] == final["delivered"] + dropped, f"matched {final['matched']} = delivered {final['delivered']} + dropped {dropped}"),
        (True, "clients: nothing lost, doubled, damaged, out of order or unanswered"),
    ]
    return verdicts, slope, first, points


POINTS = 100  # in the plot, at most: all samples of half an hour are a megabyte

PLOT = """
set datafile columnheaders
set terminal svg size 900,1100 dynamic background '#ffffff' font 'sans,12'
set output 'soak.svg'
set multiplot layout 4,1 title 'soak: the highest within {step} s'
set key outside right top vertical
set xlabel 'seconds'
set grid ytics
set tics nomirror
set ylabel 'MiB'
set yrange [0:*]
plot $d using 1:(column('rss_lowest')/1048576):(column('rss_bytes')/1048576) with filledcurves fs solid 0.4 border title 'resident memory, low to high', '' using 1:(column('history_bytes')/1048576) with lines title 'history', \
  {slope}*x/1048576 + {base}/1048576 with lines dashtype 2 title 'fit through the lowest'
set ylabel 'open'
plot $d using 1:(column('descriptors')) with lines title 'descriptors', '' using 1:(column('subscriptions')) with lines title 'subscriptions', '' using 1:(column('topics')) with lines title 'topics'
set ylabel 'dropped, by reason'
plot for [k in "slow skipped closed unencodable memory"] $d using 1:(column('dropped_'.k)) with lines title k
set ylabel 'latency, ms'
set logscale y
unset mytics
set yrange [*:*]
plot for [k in "lines events large"] $d using 1:(column(k.'_p50_ms')) with lines title k.' p50', for [k in "lines events large"] '' using 1:(column(k.'_p99_ms')) with lines dashtype 3 title k.' p99'
"""


def thinned(samples):
    """The highest of so many samples at a time that few enough are left; memory's lowest, too."""
    step = -(-len(samples) // POINTS)
    parts = [samples[i : i + step] for i in range(0, len(samples), step)]
    return [{**{k: max(s[k] for s in part) for k in part[0]}, "rss_lowest": min(s["rss_bytes"] for s in part)} for part in parts]


def table(samples):
    keys = list(samples[0])
    return "".join("\t".join(map(str, row)) + "\n" for row in [keys, *([s[k] for k in keys] for s in samples)])


def write(out, soak, final, verdicts, slope, first, points, command):
    out.mkdir(parents=True, exist_ok=True)
    (out / "samples.tsv").write_text(table(soak.samples))
    plotted = thinned(soak.samples)
    script = PLOT.replace("{slope}", repr(slope)).replace("{base}", repr(first - slope * points[0][0]))
    script = script.replace("{step}", f"{soak.seconds / len(plotted):.0f}")
    if shutil.which("gnuplot"):
        subprocess.run(["gnuplot"], input=f"$d << EOD\n{table(plotted)}EOD\n{script}", text=True, check=True, cwd=out)
    else:
        print("soak: without gnuplot there is no plot, samples.tsv has the figures", file=sys.stderr)
    last = soak.samples[-1]
    lines = [
        "# Soak",
        "",
        f"`{command}`, {os.cpu_count()} cores, Linux {os.uname().release}, {time.strftime('%Y-%m-%d')}",
        "",
        "![memory, descriptors, drops and latency over time](soak.svg)",
        "",
        "## Verdict",
        "",
        *[f"- {'ok' if ok else 'FAILED'}: {text}" for ok, text in verdicts],
        "",
        "## What happened",
        "",
        "| | |",
        "|---|---|",
        *[f"| {k} | {v} |" for k, v in sorted(soak.counts.items())],
        *[f"| dropped, {k} | {final['dropped_' + k]} |" for k in DROPS],
        f"| published | {final['published']} |",
        f"| broker CPU | {100 * last['cpu_s'] / last['at_s']:.0f} % of a core |",
        f"| memory when everybody had left | {final['memory'] / 2**20:.1f} MiB |",
        *[
            f"| latency of {name}, median second | p50 {median([s[name + '_p50_ms'] for s in soak.samples]):.2f} ms, p99 {median([s[name + '_p99_ms'] for s in soak.samples]):.2f} ms |"
            for name in soak.pairs
        ],
        "",
    ]
    (out / "report.md").write_text("\n".join(lines))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--time", type=seconds_of, default="2m", help="2m (the least), 30m, 8h")
    p.add_argument("--out", type=Path, default=Path("build/soak"), help="where plot, report and samples go")
    options = p.parse_args()
    if options.time < 120:
        p.error("--time: want at least 2m, the first minute is warm-up")
    raise_file_limit()
    with tempfile.TemporaryDirectory(prefix="soak-") as directory:
        soak = Soak(Path(directory), options.time)
        try:
            soak.run()
            final = soak.end()
        except BaseException:
            print(soak.broker.log_tail(), file=sys.stderr)
            raise
        finally:
            soak.kill()
    verdicts, slope, first, points = judge(soak, final)
    write(options.out, soak, final, verdicts, slope, first, points, f"make soak T={options.time}s")
    good = all(ok for ok, _ in verdicts)
    for ok, text in verdicts:
        print(f"  {'ok    ' if ok else 'FAILED'} {text}")
    print(f"soak: {'passed' if good else 'FAILED'} after {options.time} s; {options.out}/report.md")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
