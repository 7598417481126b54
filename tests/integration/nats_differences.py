"""
Says the same random commands to the broker and to nats-server, and compares what they answer.

Each case is a connection of its own: commands by a grammar, whole or with some of their bytes changed, sent in
pieces. Its subjects begin with a word of its own, so that many cases talk at once. What is answered is put into a
form in which both must agree: INFO and the servers' own PINGs are left out, and between two PONGs the messages of one
subscription and subject keep their order, while those of several have none. Where the two differ for a reason, that
is in DIFFERENCES.

    tests/integration/nats_differences.py BROKER SERVER [--seed N] [--seconds N] [--case N]     addresses: HOST:PORT
    make differences [SECONDS=60] [SEED=N]      starts both of them
"""

import argparse
import random
import re
import selectors
import socket
import sys
import time

BATCH = 200  # cases at a time
QUIET = 0.25  # seconds without a byte from anybody: all has been said

# ---- cases ----

SPACES = [b" "] * 8 + [b"  ", b"\t", b" \t "]
ENDS = [b"\r\n"] * 10 + [b"\n", b" \r\n", b"\t\r\n"]
LEVELS = [b"a", b"b", b"c"]


class Case:
    """What one client says: .pieces, and .said, all of them together."""

    def __init__(self, seed, number):
        self.seed, self.number = seed, number
        self.r = random.Random(f"{seed}/{number}")
        self.word = bytes(self.r.choices(b"defghijklmnopqrstuvwxyz", k=10))
        commands = [self.connect()] if self.r.random() < 0.9 else []
        commands += [self.command() for _ in range(self.r.randint(1, 12))]
        said = b"".join(commands)
        if self.r.random() < 0.4:
            for _ in range(self.r.randint(1, 3)):
                said = self.mutate(said)
        self.said = said + b"\r\nPING\r\n" if self.r.random() < 0.2 else said + b"PING\r\n"
        cuts = sorted(self.r.randrange(len(self.said) + 1) for _ in range(self.r.choice([0, 0, 1, 3])))
        self.pieces = [self.said[a:b] for a, b in zip([0, *cuts], [*cuts, len(self.said)]) if a < b]

    def line(self, *words):
        r = self.r
        text = words[0] if r.random() < 0.8 else bytes(r.choice([c, c | 32]) for c in words[0])
        for word in words[1:]:
            text += r.choice(SPACES) + word
        return text + r.choice(ENDS)

    def connect(self):
        r = self.r
        options = []
        for name, truth in ((b"verbose", 0.5), (b"pedantic", 0.5), (b"echo", 0.8), (b"headers", 0.9), (b"no_responders", 0.5)):
            if r.random() < 0.7 or name == b"headers":
                options.append(b'"%s":%s' % (name, b"true" if r.random() < truth else b"false"))
        if r.random() < 0.6:
            options.append(b'"protocol":%d' % r.choice([0, 1, 1, 1, 2]))
        if r.random() < 0.2:
            options.append(b'"else":{"is":["nothing",1,null]}')
        r.shuffle(options)
        return b"CONNECT {" + b",".join(options) + b"}\r\n"

    def subject(self, wild):
        r = self.r
        levels = [self.word] + r.choices(LEVELS, k=r.randint(1, 3))
        if wild and r.random() < 0.5:
            levels[r.randrange(1, len(levels))] = b"*"
        if wild and r.random() < 0.3:
            levels[-1] = b">"
        if r.random() < 0.05:
            levels.insert(r.randint(1, len(levels)), r.choice([b"", b">", b"*"]))
        return b".".join(levels)

    def payload(self):
        r = self.r
        n = r.choice([0, 1, 2, 5, 10, 20, 30]) if r.random() < 0.97 else r.choice([300, 5000])
        return bytes(r.choices(b"xyz .\r\nPUB1", k=n))

    def command(self):
        r = self.r
        kind = r.random()
        sid = r.choice([b"1", b"2", b"3", b"s-4", b"007"])
        if kind < 0.28:
            group = [b"g" + sid] if r.random() < 0.2 else []
            return self.line(b"SUB", self.subject(True), *group, sid)
        if kind < 0.38:
            return self.line(b"UNSUB", sid, *([b"%d" % r.randint(0, 5)] if r.random() < 0.6 else []))
        if kind < 0.66:
            body = self.payload()
            reply = [self.subject(False)] if r.random() < 0.4 else []
            return self.line(b"PUB", self.subject(False), *reply, b"%d" % len(body)) + body + b"\r\n"
        if kind < 0.78:
            head = b"NATS/1.0\r\n" + b"".join(b"K%d: %d\r\n" % (i, i) for i in range(r.randint(0, 3))) + b"\r\n"
            body = self.payload()
            reply = [self.subject(False)] if r.random() < 0.4 else []
            numbers = b"%d" % len(head), b"%d" % (len(head) + len(body))
            return self.line(b"HPUB", self.subject(False), *reply, *numbers) + head + body + b"\r\n"
        if kind < 0.94:
            return self.line(b"PING")
        if kind < 0.97:
            return self.line(b"PONG")
        if kind < 0.985:
            return self.connect()
        return self.line(r.choice([b"NONSENSE", b"GET", b"+OK", b"-ERR", b"INFO", b"MSG", b"A+", b""]))

    def mutate(self, said):
        r = self.r
        at = r.randrange(len(said) + 1)
        kind = r.random()
        if kind < 0.3:
            return said[:at] + bytes([r.choice(b"\0\t\r\n .*>019AZaz-+\"{}\x7f\x80\xff")]) + said[at + 1 :]
        if kind < 0.5:
            return said[:at] + bytes([r.randrange(256)]) + said[at:]
        if kind < 0.7:
            return said[:at] + said[at + r.randint(1, 4) :]
        if kind < 0.85:
            end = min(len(said), at + r.randint(1, 30))
            return said[:end] + said[at:end] + said[end:]
        return re.sub(rb"\d+", lambda m: r.choice([b"0", b"99999", b"1048577", b"4294967297", b"00", m[0]]), said, count=r.randint(1, 3))


# ---- talking ----


class Talk:
    """One case with one server: what has been heard of it, and how it ended."""

    def __init__(self, address, case):
        host, port = address.rsplit(":", 1)
        self.case = case
        self.socket = socket.create_connection((host, int(port)), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.heard = b""
        self.end = ""
        while b"\r\n" not in self.heard:
            self.hear()

    def hear(self):
        try:
            data = self.socket.recv(1 << 16)
        except ConnectionResetError:
            data = b""
            self.end = "reset"
        self.heard += data
        if not data:
            self.end = self.end or "end"
        return bool(data)

    def say(self, n):
        if n < len(self.case.pieces) and not self.end:
            try:
                self.socket.sendall(self.case.pieces[n])
            except OSError:
                self.end = "reset"


def talk(addresses, cases, quiet=QUIET):
    """What each server has to say to each case: [(the first's Answers, the second's)]."""
    talks = [[Talk(address, case) for address in addresses] for case in cases]
    everybody = [t for pair in talks for t in pair]
    with selectors.DefaultSelector() as selector:
        for t in everybody:
            selector.register(t.socket, selectors.EVENT_READ, t)
        for n in range(max(len(case.pieces) for case in cases)):
            for t in everybody:
                t.say(n)
        until = time.monotonic() + quiet
        while selector.get_map() and time.monotonic() < until:
            for key, _ in selector.select(0.05):
                until = time.monotonic() + quiet
                if not key.data.hear():
                    selector.unregister(key.data.socket)
    for t in everybody:
        t.socket.close()
    return [tuple(Answers(t.heard, t.end) for t in pair) for pair in talks]


# ---- comparing ----

MESSAGE = re.compile(rb"(H?MSG) (\S+) (\S+) (?:(\S+) )?(?:(\d+) )?(\d+)$")


class Answers:
    """What was heard, in a form in which both servers agree: .said, what is no message, in order; .messages, by
    subscription and subject; and .before, how many there were of each when a PONG came."""

    def __init__(self, heard, end):
        self.said, self.messages, self.before = [], {}, []
        while heard:
            line, whole, heard = heard.partition(b"\r\n")
            found = MESSAGE.match(line)
            if not whole:
                self.said.append(b"(cut off) " + line)
            elif found:
                n = int(found[6]) + 2
                self.hear(found, heard[:n])
                heard = heard[n:]
            elif line != b"PING" and not line.startswith(b"INFO {"):
                self.said.append(line)
            if line == b"PONG":
                self.before.append({key: len(of) for key, of in self.messages.items()})
        if end:
            self.said.append(b"(end)")

    def hear(self, found, body):
        key = found[3], found[2]
        if body.startswith(b"NATS/1.0 503\r\n"):
            # It has no order with messages, and any of the subscriptions hears it. Later servers say which subject nobody is there for, as the broker does;
            # 2.9 does not yet.
            self.messages.setdefault((found[2], "of any", "nobody"), []).append(b"")
        else:
            self.messages.setdefault(key, []).append((found[1], found[4], found[5], body))

    def agrees(self, other):
        """Whether this is what the other server, the oracle, says: it may be so that messages come before a PONG that
        they are not owed before, but never behind one that they are."""
        return (
            self.said == other.said
            and self.messages == other.messages
            and all(mine.get(key, 0) >= n for mine, its in zip(self.before, other.before) for key, n in its.items())
        )

    def errors(self):
        return [line for line in self.said if line.startswith(b"-ERR ")]

    def ended(self):
        return self.said[-1:] == [b"(end)"]

    def __repr__(self):
        return f"{self.said} {self.messages}"


# ---- where they differ, and why ----

DIFFERENCES = {}
UNKNOWN = b"-ERR 'Unknown Protocol Operation'"


def difference(reason):
    """A difference that is meant: holds where the function says so, given a case and the first stretches that differ."""

    def note(function):
        DIFFERENCES[function.__name__] = (reason, function)
        return function

    return note


@difference("a client's program is told what it did wrong before it is closed, where nats-server closes without a word")
def said_why(_, ours, theirs):
    return (
        theirs.ended()
        and ours.messages == theirs.messages
        and ours.errors() != theirs.errors()
        and [line for line in ours.said if line not in ours.errors()[-1:]] == theirs.said
    )


@difference("an invalid subject is refused for clients that are not pedantic too, and nothing is published to it")
def invalid_subject(_, ours, theirs):
    return b"-ERR 'Invalid Publish Subject'" in ours.said and ours.said.count(b"+OK") <= theirs.said.count(b"+OK")


@difference("topics have names that are shorter, of UTF-8, and without wildcards in what is published to")
def no_topic(_, ours, theirs):
    return any(line.startswith(b"-ERR 'Permissions Violation for ") for line in ours.said)


@difference("JSON is UTF-8; Go's takes anything for a character")
def not_utf8(said, ours, _):
    return ours.said[-2:] == [UNKNOWN, b"(end)"] and re.search(rb"(?i)(^|\n)CONNECT[^\n]*[\x80-\xff]", said)


@difference("a request that only its own client would get is not told apart: homes count subscriptions, not whose they are")
def only_himself(said, ours, theirs):
    def others(answers):
        return {key: of for key, of in answers.messages.items() if len(key) == 2}

    return b'"echo":false' in said and (ours.said == theirs.said or ours.ended()) and ours.messages != theirs.messages and others(ours) == others(theirs)


@difference("what CONNECT says of echo and headers is for the subscriptions behind it; nats-server looks when something is published")
def options_later(said, ours, theirs):
    return (ours.said == theirs.said or ours.ended()) and re.search(rb"(?is)(^|\n)SUB[ \t].*\nCONNECT [^\n]*\"(echo|headers)\"", said)


@difference("options have the names that they have; Go's JSON takes them in any case")
def other_case(said, *_):
    return re.search(rb'(?i:"(verbose|echo|headers|no_responders|protocol|pedantic)":)', re.sub(rb'"[a-z_]+":', b"", said))


@difference("of an option that is there twice the last one counts, whatever the first one is")
def twice(said, ours, theirs):
    return ours.said != theirs.said and re.search(rb'(?i)CONNECT [^\n]*"(\w+)":[^\n]*"\1":', said)


@difference("a CR within a line is a space; nats-server takes it for the end of what it reads of the line, or cuts the last byte off")
def stray_cr(said, *_):
    return re.search(rb"(?i)(^|\n)(CONNECT|H?PUB|(UN)?SUB)[^\n]*\r[^\n]", said)


@difference("what a verb is about stands behind it, in its line")
def verb_alone(said, ours, _):
    return ours.said[-2:] == [UNKNOWN, b"(end)"] and re.search(rb"(?i)(^|\n)(CONNECT|H?PUB|(UN)?SUB)\s*\n", said)


@difference("headers are no longer than limits.header_bytes")
def large_headers(said, ours, _):
    return ours.said[-2:] == [b"-ERR 'Maximum Payload Violation'", b"(end)"] and re.search(rb"(?i)(^|\n)HPUB[^\n]*[ \t]\d{5,}[ \t]", said)


@difference("a maximum that is no number, or has more than nine digits, is no argument; nats-server takes it for none")
def maximum(said, ours, _):
    return ours.said[-2:] == [UNKNOWN, b"(end)"] and re.search(rb"(?i)(^|\n)UNSUB\s+\S+[ \t]+(\d*[^\d\s]\S*|\d{10,})\s", said)


@difference("what only servers say is none of a client's words")
def words_of_servers(said, ours, _):
    return ours.said[-2:] == [UNKNOWN, b"(end)"] and re.search(rb"(?i)(^|\n)(\+OK|-ERR|INFO)", said)


@difference("each subject has an order of its own: which of those that a pattern matches come before its maximum is nowhere said")
def maximum_of_several(said, ours, theirs):
    patterns = set(re.findall(rb"(?im)^SUB[ \t]+\S*[*>]\S*[ \t]+(?:\S+[ \t]+)?(\S+)[ \t]*\r?$", said))
    limited = set(re.findall(rb"(?im)^UNSUB[ \t]+(\S+)[ \t]+\d", said))

    def others(answers):
        return {key: of for key, of in answers.messages.items() if key[0] not in patterns & limited}

    def heard(answers):
        return sum(len(of) for of in answers.messages.values())

    return ours.said == theirs.said and others(ours) == others(theirs) and heard(ours) == heard(theirs)


def excused(case, ours, theirs):
    for name, (_, holds) in DIFFERENCES.items():
        if holds(case.said, ours, theirs):
            return name
    return None


# ---- a run ----


def judged(case, talks):
    """None: they agree; the name of what excuses it, or "": nothing does."""
    ours, theirs = talks
    if ours.agrees(theirs):
        return None
    return excused(case, ours, theirs) or ""


def compare(addresses, cases):
    """(how many differ for which reason, what differs for none as text)."""
    excuses, found = {}, []
    for case, talks in zip(cases, talk(addresses, cases)):
        name = judged(case, talks)
        for more in ([], [], [b"\r\n"]):
            if name != "":
                break
            # Alone, and with more patience: it may have been the others, or the time; and a server that closes with
            # bytes unread resets, so that some of its last words may be lost. Then with the end of a payload of which
            # one byte is missing: nats-server looks at each alone.
            case.pieces += more
            talks = talk(addresses, [case], 4 * QUIET)[0]
            name = judged(case, talks)
        if name == "":
            found.append(f"seed {case.seed} case {case.number}: {case.pieces}\n  broker:      {talks[0]}\n  nats-server: {talks[1]}")
        elif name:
            excuses[name] = excuses.get(name, 0) + 1
    return excuses, found


def run(addresses, seed, seconds=None, cases=None):
    """Cases for so many seconds, or so many of them; (how many, excuses, what differs as text)."""
    until, n, excuses, found = time.monotonic() + (seconds or 0), 0, {}, []
    while n < (cases or 0) or (seconds and time.monotonic() < until):
        some, wrong = compare(addresses, [Case(seed, n + i) for i in range(BATCH)])
        n += BATCH
        for name, times in some.items():
            excuses[name] = excuses.get(name, 0) + times
        found += wrong
        if len(found) > 20:
            break
    return n, excuses, found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("broker", help="its address, HOST:PORT")
    parser.add_argument("server", help="nats-server's")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--case", type=int)
    options = parser.parse_args()
    addresses = (options.broker, options.server)
    if options.case is not None:
        case = Case(options.seed, options.case)
        print(case.pieces, *talk(addresses, [case], 4 * QUIET)[0], sep="\n")
        return 0
    n, excuses, found = run(addresses, options.seed, options.seconds)
    print(*found, f"{n} cases of seed {options.seed}, {len(found)} differ; meant: {excuses}", sep="\n")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
