#!/usr/bin/python3
"""make storms: every storm at full size against a broker of its own, with a healthy pair of clients measured beside it.

The pair publishes 500 messages a second to itself for as long as a storm is looked at: in turns undisturbed, and while the
storm blows. Its p99 of every second is kept; the table shows the medians and their ratio, which may be 2. A storm's clients
run on the same cores as the broker, but only when nobody else wants to (SCHED_IDLE), as if they were somewhere else; a third
column has the same storm on *another* broker of this machine, and says how much of it is the machine being busy.

The longest turn of the broker's loop, in CPU time of its thread, may be 5 ms; that is asserted where the machine is calm: on a busy
one the thread is charged with what the kernel does for others.
"""

import argparse
import fcntl
import json
import os
import re
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

from clients import Pair, median, raise_file_limit
from harness import Loop

import storms

QUIET_SECONDS = 5
TURN_MS_MAX = 5
CALM_MS = 1  # the pair's p99 while nothing else happens here


def loopback_up():
    """In a network namespace of its own the loopback device is down at first."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        request = bytearray(struct.pack("16sh22x", b"lo", 0))
        fcntl.ioctl(sock, 0x8913, request)  # SIOCGIFFLAGS
        flags = struct.unpack_from("h", request, 16)[0]
        if not flags & 1:
            fcntl.ioctl(sock, 0x8914, struct.pack("16sh22x", b"lo", flags | 1))  # SIOCSIFFLAGS, IFF_UP


class Table:
    COLUMNS = ["storm", "size", "seconds", "quiet ms", "elsewhere ms", "storm ms", "ratio", "turn ms", "result"]

    def __init__(self):
        self.rows = []

    def add(self, *cells):
        self.rows.append([str(c) for c in cells])

    def text(self):
        lines = [self.COLUMNS, ["---"] * len(self.COLUMNS), *self.rows]
        widths = [max(len(row[i]) for row in lines) for i in range(len(self.COLUMNS))]
        return "\n".join("| " + " | ".join(c.ljust(w) for c, w in zip(row, widths)) + " |" for row in lines)


def say(text, end="\n"):
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end=end, file=sys.stderr, flush=True)


def blow(storm, size, broker, seconds=0):
    """One storm, again until it has blown for that long, in a process of its own that waits for everybody else.

    Whether it was survived, the spans of time in which it blew, and its words.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.close(read)
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
            # What a process waits for must be its own.
            broker.loop = Loop(broker.log_tail)
            spans, until = [], time.monotonic() + 3 * seconds
            while not spans or (sum(end - begin for begin, end in spans) < seconds and time.monotonic() < until):
                figures = storm.run(broker, size)
                spans.append(figures.pop("span", (0, seconds)))
            os.write(write, json.dumps([spans, "; ".join(f"{k} {v}" for k, v in figures.items())]).encode())
            code = 0
        except BaseException as error:  # the parent says it
            os.write(write, json.dumps([[], f"{type(error).__name__}: {error}"[:8000]]).encode())
        finally:
            os._exit(code)
    os.close(write)
    with os.fdopen(read) as pipe:
        spans, text = json.loads(pipe.read())
    _, status = os.waitpid(child, 0)
    return status == 0, spans, text


def longest_turn_ms(broker):
    """CPU time of the longest turn that was longer than it may, 0 where there was none; stopped or not."""
    return max(map(int, re.findall(r" long_turn_cpu_max_us=(\d+)", broker.log())), default=0) / 1000


def measure(storm, size, rounds, directory, table):
    """One row of the table; whether the storm was survived."""
    directory.mkdir()
    for name in ("here", "elsewhere"):
        (directory / name).mkdir()
    config = {**(storm.config if size == storm.small else storm.full_config), "stats_seconds": 1}
    broker = storms.start(directory / "here", config)
    other = storms.start(directory / "elsewhere", config) if storm.beside and rounds > 0 else None
    pair = Pair(broker.address(storms.BOTH)) if storm.beside else None
    quiet, elsewhere, during, seconds, p99 = [], [], [], [], []
    try:
        if pair and rounds:
            time.sleep(2)
        for i in range(max(1, rounds)):
            if pair and rounds:
                say(f"{storm.name}: quiet, round {i + 1} of {rounds}", end="")
                begin = time.monotonic()
                time.sleep(QUIET_SECONDS)
                quiet.append((begin, time.monotonic()))
            if other:
                say(f"{storm.name}: elsewhere, round {i + 1} of {rounds}", end="")
                survived, spans, text = blow(storm, size, other, QUIET_SECONDS)
                elsewhere += spans
                if not survived:
                    break
            say(f"{storm.name}: storm, round {i + 1} of {rounds}", end="")
            survived, spans, text = blow(storm, size, broker, QUIET_SECONDS if rounds else 0)
            during += spans
            seconds += [end - begin for begin, end in spans]
            if not survived:
                break
        if pair:
            # The last second is said when it is over.
            time.sleep(1.2)
            pair.finish()  # nothing was lost
            p99 = [median(pair.late_ms(spans)) for spans in (quiet, elsewhere, during)]
            ratio = f"{p99[2] / p99[0]:.1f}"
            cells = [f"{p:.2f}" for p in p99] + [ratio]
        else:
            cells = ["-"] * 4
        if survived:
            broker.works()
            broker.close_clients()
            broker.stop()
            turn = longest_turn_ms(broker)
            if p99 and p99[0] <= CALM_MS and turn > TURN_MS_MAX:
                survived, text = False, f"a turn took {turn:.1f} ms of CPU time"
            cells.append(f"{turn:.1f}")
            if p99 and rounds and storm.within and size == storm.full:
                most = storm.within[0] * p99[0] + storm.within[1]
                # What the same storm does elsewhere on the machine is not the broker's doing.
                if p99[1] <= most < p99[2]:
                    survived, text = False, f"the pair's p99 was {p99[2]:.2f} ms, more than {most:.2f}"
        else:
            cells.append("?")
    except BaseException as error:
        survived, text, cells = False, f"{type(error).__name__}: {error}", ["?"] * 5
        if isinstance(error, KeyboardInterrupt):
            raise
    finally:
        if pair:
            pair.kill()
        for b in (broker, other):
            if b:
                b.kill()
    if not survived:
        print(f"{storm.name}: FAILED: {text}\n{broker.log_tail()}", file=sys.stderr)
        text = "FAILED: " + text.splitlines()[0]
    table.add(storm.name, size, f"{median(seconds):.1f}" if storm.beside else "-", *cells, text)
    say("", end="")
    return survived


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", help="names, with commas")
    p.add_argument("--small", action="store_true", help="the sizes of make check")
    p.add_argument("--rounds", type=int, default=3, help="of quiet, elsewhere and storm; the medians are shown (3); 0: the storm only")
    p.add_argument("--out", type=Path, help="writes the table here, too")
    options = p.parse_args()
    wanted = options.only.split(",") if options.only else [s.name for s in storms.STORMS]
    if unknown := set(wanted) - {s.name for s in storms.STORMS}:
        p.error(f"no storm {', '.join(sorted(unknown))}; there are {', '.join(s.name for s in storms.STORMS)}")
    loopback_up()
    raise_file_limit()
    table, failed = Table(), []
    with tempfile.TemporaryDirectory(prefix="storms-") as directory:
        for storm in storms.STORMS:
            if storm.name in wanted:
                size = storm.small if options.small else storm.full
                # One that takes a minute of waiting is not repeated.
                rounds = min(options.rounds, storm.rounds) if storm.beside else 0
                if not measure(storm, size, rounds, Path(directory) / storm.name, table):
                    failed.append(storm.name)
    print(table.text())
    if options.out:
        options.out.write_text(table.text() + "\n")
    if failed:
        print(f"storms: FAILED: {', '.join(failed)}")
        sys.exit(1)
    print(f"storms: {len(table.rows)} storms, nothing lost, nothing wrong, everybody served")


if __name__ == "__main__":
    main()
