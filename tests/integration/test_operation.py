"""What an operator sees: exit codes, checks, readiness, drain, reload, and what an idle broker costs."""

import ctypes
import errno
import fcntl
import grp
import os
import re
import signal
import socket
import struct
import subprocess
import time

import pytest

from harness import (
    BROKER, DEFAULTS, PATIENCE, ROOT, Line, Loop, at_most, config_text, line_listener, numbered, release_only, run, whole_seconds,
)  # fmt: skip

SHIPPED = ROOT / "config/broker.conf"


@pytest.fixture
def conf(tmp_path):
    """Writes a configuration file and returns its path."""

    def write(text, name="test.conf"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return write


# --- the command line --------------------------------------------------------------------------------


def test_version_and_help_say_what_they_should():
    version, usage = run("--version"), run("--help")
    assert version.returncode == usage.returncode == 0
    assert re.search(r"broker.*\d+\.\d+", version.stdout)
    assert all(option in usage.stdout for option in ("-c", "--check", "--topology", "--version", "--help"))


def test_topology_shows_cores_and_reactors():
    shown = run("--topology")
    assert shown.returncode == 0
    assert re.search(r"core", shown.stdout, re.I) and re.search(r"reactor", shown.stdout, re.I)


@pytest.mark.parametrize("arguments", [
    [], ["--nonsense"], ["-x"], ["-c"], ["--check"], ["-c", "/nonexistent/broker.conf"],
    ["-c", "/nonexistent/broker.conf", "--check"], ["-c", "/"],
], ids=" ".join)  # fmt: skip
def test_bad_arguments_exit_2_and_say_why(arguments):
    ended = run(*arguments)
    assert ended.returncode == 2
    assert ended.stderr.strip()


def test_check_of_a_good_configuration_shows_what_would_run(conf):
    path = conf(config_text(**{**DEFAULTS, "reactors": 3, "listen": {"main": line_listener("127.0.0.1:8123")}}))
    checked = run("-c", path, "--check")
    assert checked.returncode == 0 and not checked.stderr
    for word in ("3", "reactor", "127.0.0.1:8123", "line", "65536"):
        assert word in checked.stdout


def test_check_opens_nothing(conf):
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = "127.0.0.1:%d" % held.getsockname()[1]
        path = conf(config_text(**{**DEFAULTS, "listen": {"main": line_listener(address)}}))
        assert run("-c", path, "--check").returncode == 0


def test_the_shipped_configuration_is_good():
    checked = run("-c", SHIPPED, "--check")
    assert checked.returncode == 0, checked.stderr


def test_an_empty_configuration_is_the_shipped_one(conf):
    shown = [run("-c", path, "--check").stdout.replace(str(path), "") for path in (conf(""), SHIPPED)]
    assert shown[0] == shown[1]


GOOD_LISTENER = 'listen "main" { address = "127.0.0.1:0" protocols = { "line" } }\n'

# text after a good listener, the line in it (the first is 1) and the key that the message has to name
BAD_CONFIGURATIONS = {
    "unknown key": ("reactors = 2\nreactorz = 2\n", 2, "reactorz"),
    "unknown key in a section": ("engine {\n\tbatch = 64\n\tbach = 64\n}\n", 3, "bach"),
    "unknown section": ("\nmotor {\n}\n", 2, "motor"),
    "no reactors": ("reactors = 0\n", 1, "reactors"),
    "too many reactors": ("reactors = 5000\n", 1, "reactors"),
    "reactors in words": ('reactors = "many"\n', 1, "reactors"),
    "negative": ("\n\nstats_seconds = -1\n", 3, "stats_seconds"),
    "word for a number": ('limits {\n\tconnections = "lots"\n}\n', 2, "connections"),
    "unknown choice": ('placement = "nodes"\n', 1, "placement"),
    "unknown policy": ('topics {\n\n\tslow = "ignore"\n}\n', 3, "slow"),
    "unknown size": ('topics {\n\tbacklog_bytes = "8Q"\n}\n', 2, "backlog_bytes"),
    "message too large": ('limits {\n\tmessage_bytes = "65M"\n}\n', 2, "message_bytes"),
    "lane of three": ("engine {\n\tlane_entries = 3\n}\n", 2, "lane_entries"),
    "buffers not a power": ("engine {\n\trecv_buffers = 1000\n}\n", 2, "recv_buffers"),
    "bad switch": ('sandbox = "perhaps"\n', 1, "sandbox"),
    "unknown protocol": ('listen "x" {\n\taddress = "127.0.0.1:0"\n\tprotocols = { "gopher" }\n}\n', 3, "protocols"),
    "bad address": ('listen "x" {\n\taddress = "localhost"\n\tprotocols = { "line" }\n}\n', 2, "address"),
    "bad port": ('listen "x" {\n\taddress = "127.0.0.1:99999"\n\tprotocols = { "line" }\n}\n', 2, "address"),
    "rest before the end": ('topic "a.>.b" {\n}\n', None, "topic"),
    "star within a level": ('topic "a*.b" {\n}\n', None, "topic"),
    "same address twice": (
        'listen "x" { address = "127.0.0.1:8123" protocols = { "line" } }\n'
        'listen "y" { address = "127.0.0.1:8123" protocols = { "line" } }\n', None, "(address|listen)",
    ),
    "open section": ("engine {\n\tbatch = 64\n", None, ".*"),
    "no value": ("reactors =\n", None, ".*"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD_CONFIGURATIONS)
def test_a_bad_configuration_exits_2_and_says_where_what_and_why(conf, name):
    text, line, key = BAD_CONFIGURATIONS[name]
    path = conf(GOOD_LISTENER + text)
    where = r"\d+" if line is None else str(line + 1)
    for arguments in (["--check"], []):
        ended = run("-c", path, *arguments)
        assert ended.returncode == 2
        assert re.search(rf"{re.escape(str(path))}:{where}: {key}: \S", ended.stderr), ended.stderr


def test_a_mistake_in_an_included_file_is_found_there(conf):
    included = conf("\nreactors = 0\n", "included.conf")
    ended = run("-c", conf(f'{GOOD_LISTENER}include("{included}")\n'), "--check")
    assert ended.returncode == 2
    assert re.search(r"included\.conf:2: reactors: \S", ended.stderr), ended.stderr


def test_a_directory_of_objects_that_is_none_exits_2_in_a_check_too(conf, tmp_path):
    (tmp_path / "file").write_text("no directory")
    for wrong in ("nothing", "file"):
        path = conf(f'{GOOD_LISTENER}http {{ objects_dir = "{tmp_path / wrong}" }}\n')
        for arguments in (["--check"], []):
            ended = run("-c", path, *arguments)
            assert ended.returncode == 2 and f"http.objects_dir: {tmp_path / wrong} is no directory" in ended.stderr


# --- the start ---------------------------------------------------------------------------------------


def test_the_readiness_line_says_where_and_how_to_try(start):
    broker = start(reactors=2, listen={"one": line_listener(), "two": line_listener("127.0.0.2:0")})
    line = broker.says("ready: ")
    assert "2 reactors" in line and "cpus" in line and "nc" in line
    assert [a.rsplit(":", 1)[0] for a, _ in broker.addresses] == ["127.0.0.1", "127.0.0.2"]
    assert all(protocols == "line" for _, protocols in broker.addresses)
    port = broker.address().rsplit(":", 1)[1]
    assert port != "0" and port in line.split("try:")[1], "the commands to try have the real port"
    subscriber = broker.subscribe("t", index=0)
    publisher = broker.publisher("t", index=1)
    publisher.send_lines(b"across listeners")
    assert subscriber.take(1) == [b"across listeners"]


@pytest.mark.parametrize("reactors", [1, 3])
def test_a_unix_socket_is_a_listener_like_any_other(start, tmp_path, reactors):
    path = tmp_path / "socket"
    broker = start(reactors=reactors, listen={"u": line_listener(f"unix:{path}"), "t": line_listener()})
    assert broker.address() == f"unix:{path}"
    subscribers = [broker.subscribe("t", index=i % 2) for i in range(8)]
    for i in range(8):
        publisher = broker.publisher("t", index=i % 2)
        publisher.send_lines(b"%d" % i)
        assert publisher.leave() == []
    assert all(sorted(s.take(8)) == [b"%d" % i for i in range(8)] for s in subscribers)
    broker.stop()
    assert not path.exists(), "it cleans up"


def test_a_stale_unix_socket_is_replaced(start, tmp_path):
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    start(listen={"u": line_listener(f"unix:{path}")}).works()


def test_a_unix_sockets_file_has_the_mode_and_owners_that_were_asked_for(start, conf, tmp_path):
    path, group = tmp_path / "socket", grp.getgrgid(os.getgid()).gr_name
    unix = {"address": f"unix:{path}", "protocols": ["line"], "mode": "0620", "owner": str(os.getuid()), "group": group}
    start(listen={"u": unix}).works()
    assert path.stat().st_mode & 0o777 == 0o620 and path.group() == group
    nobody = {**unix, "address": f"unix:{tmp_path / 'other'}", "owner": "nobody-of-this-name"}
    ended = run("-c", conf(config_text(**{**DEFAULTS, "listen": {"u": nobody}})))
    assert ended.returncode == 2 and "owner: there is no such user" in ended.stderr


def test_an_ending_broker_leaves_its_successors_socket_alone(start, tmp_path):
    path = tmp_path / "socket"
    first = start(listen={"u": line_listener(f"unix:{path}"), "t": line_listener()})
    path.unlink()
    second = start(listen={"u": line_listener(f"unix:{path}")})
    first.stop()
    second.works()


@pytest.mark.parametrize("only", [False, True])
def test_every_ipv6_address_is_every_ipv4_address_unless_it_is_to_be_only_ipv6(start, only):
    broker = start(listen={"six": {**line_listener("[::]:0"), "v6only": only, "allow_plain": True}})
    port = int(broker.address().rsplit(":", 1)[1])
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", port)) == (errno.ECONNREFUSED if only else 0)


@pytest.mark.parametrize("host", ["[::1]", "[::]", "[::ffff:127.0.0.1]"])
def test_ipv6_is_listened_on(start, host):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    broker = start(listen={"six": {**line_listener(f"{host}:0"), "allow_plain": True}})
    assert re.fullmatch(re.escape(host) + r":[1-9]\d*", broker.address())
    broker.works()


def test_a_listener_beyond_loopback_is_warned_about(start):
    assert not re.search("WARN.*in clear", start().log())
    assert re.search("WARN.*in clear", start(listen={"open": {**line_listener("0.0.0.0:0"), "allow_plain": True}}).log())


@pytest.mark.parametrize("holder", ["another program", "another broker"])
def test_an_address_in_use_exits_1_and_says_which(start, conf, holder):
    if holder == "another broker":
        address = start().address()
    else:
        held = socket.create_server(("127.0.0.1", 0))
        address = "127.0.0.1:%d" % held.getsockname()[1]
    path = conf(config_text(**{**DEFAULTS, "reactors": 2, "listen": {"main": line_listener(address)}}))
    ended = run("-c", path)
    assert ended.returncode == 1
    assert re.search(rf"{re.escape(address)}.*in use", ended.stderr), ended.stderr


def test_an_address_that_is_not_ours_exits_1(conf):
    ended = run("-c", conf(config_text(**{**DEFAULTS, "listen": {"main": {**line_listener("192.0.2.1:8123"), "allow_plain": True}}})))
    assert ended.returncode == 1
    assert "192.0.2.1:8123" in ended.stderr


def refuse_io_uring(error):
    """For preexec: a seccomp filter under which io_uring_setup fails with this error."""
    load, jump_if_equal, answer = 0x20, 0x15, 0x06  # BPF_LD|W|ABS, BPF_JMP|JEQ|K, BPF_RET|K
    code = [(load, 0, 0, 0), (jump_if_equal, 0, 1, 425), (answer, 0, 0, 0x00050000 | error), (answer, 0, 0, 0x7FFF0000)]
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *i) for i in code))
    program = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(code), ctypes.addressof(instructions)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def refuse():
        zero = ctypes.c_ulong(0)
        if prctl(38, ctypes.c_ulong(1), zero, zero, zero):  # PR_SET_NO_NEW_PRIVS
            raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
        if prctl(22, ctypes.c_ulong(2), ctypes.byref(program), zero, zero):  # PR_SET_SECCOMP, filter
            raise OSError(ctypes.get_errno(), "PR_SET_SECCOMP")

    refuse.keeps = instructions  # the program points to them
    return refuse


@pytest.mark.parametrize("error, cause", [
    (errno.EPERM, "seccomp"), (errno.ENOSYS, "kernel"), (errno.ENOMEM, "RLIMIT_MEMLOCK"),
], ids=["EPERM", "ENOSYS", "ENOMEM"])  # fmt: skip
def test_a_kernel_that_refuses_io_uring_exits_3_and_names_the_cause(conf, error, cause):
    ended = run("-c", conf(config_text(**DEFAULTS)), preexec=refuse_io_uring(error))
    assert ended.returncode == 3, ended.stderr
    assert "io_uring" in ended.stderr and re.search(cause, ended.stderr), ended.stderr


# --- the log -----------------------------------------------------------------------------------------


def test_a_log_that_nobody_reads_holds_nobody_up_and_what_is_lost_is_said(tmp_path):
    path = tmp_path / "unread.conf"
    path.write_text(config_text(**{**DEFAULTS, "reactors": 2}))
    ours, theirs = os.pipe()
    fcntl.fcntl(theirs, fcntl.F_SETPIPE_SZ, 4096)
    with subprocess.Popen([BROKER, "-c", path], stderr=theirs) as broker, open(ours, "rb") as log:
        try:
            os.close(theirs)
            said = b""
            while (ready := re.search(rb"listening on \S*?:(\d+) ", said)) is None:
                said += os.read(ours, 65536)
            address = f"127.0.0.1:{int(ready.group(1))}"
            # a reload of it says more than the pipe and the queues together hold
            path.write_text("reactors = 0\n" * 2000)
            broker.send_signal(signal.SIGHUP)
            loop = Loop()
            for _ in range(8):
                client = Line(loop, address)
                client.send("SUBSCRIBE unread\r\n")
                client.ok()
            # it flows again
            said = b""
            while b"lines are lost" not in said:
                said += os.read(ours, 65536)
            broker.send_signal(signal.SIGTERM)
            log.read()
            assert broker.wait(PATIENCE) == 0
        finally:
            broker.kill()


# --- the end -----------------------------------------------------------------------------------------


def backlog(broker, count=4000):
    """A subscriber that does not read, and what the broker holds for it."""
    subscriber = broker.subscribe("draining", rcvbuf=64 << 10)
    subscriber.stall()
    messages = numbered(b"m", count, size=1000)
    broker.publish("draining", *messages)
    return subscriber, messages


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("reactors", [1, 3])
def test_a_stop_delivers_what_was_sequenced_and_says_draining(start, reactors, number):
    broker = start(reactors=reactors)
    slow, messages = backlog(broker)
    idle, publisher = broker.subscribe("idle"), broker.publisher("idle")
    broker.send_signal(number)
    assert slow.rest() == messages + [b"ERROR draining"]
    assert idle.rest() == [b"ERROR draining"]
    assert publisher.rest() == [b"ERROR draining"]
    broker.finish(published=4000, matched=4000, delivered=4000, dropped=0)


def test_what_publishers_sent_before_the_stop_reaches_everyone_in_whole_messages(start):
    broker = start(reactors=2, topics={"backlog_bytes": "64M"})
    subscribers = broker.subscribe_many(["stopping"] * 3)
    publisher = broker.publisher("stopping")
    messages = numbered(b"m", 20_000)
    publisher.send_lines(*messages)
    broker.loop.wait(lambda: subscribers[0].newlines, "the first messages")
    broker.stop()
    got = [s.rest() for s in subscribers]
    assert got[0] == got[1] == got[2], "what one got all got"
    assert got[0].pop() == b"ERROR draining" and got[0] == messages[: len(got[0])]


def test_a_drain_ends_in_drain_seconds_and_counts_what_could_not_be_delivered(start):
    broker = start(reactors=2, drain_seconds=1)
    backlog(broker)
    begin = time.monotonic()
    final = broker.stop(published=4000, matched=4000)
    assert 0.5 < time.monotonic() - begin < 1 + at_most(2)
    assert final["dropped"] > 0


@pytest.mark.parametrize("protocols", [["line", "http"], ["line"]])
def test_a_draining_broker_takes_nobody_new(start, protocols):
    broker = start(drain_seconds=whole_seconds(100), reactors=1, listen={"main": {"address": "127.0.0.1:0", "protocols": protocols}})
    slow, messages = backlog(broker)
    bystander = broker.subscribe("idle")
    broker.send_signal(signal.SIGTERM)
    assert bystander.rest() == [b"ERROR draining"]
    silent = [broker.say("") for _ in range(100)]  # more than are told at a time
    for word in ("SUBSCRIBE late", "PUBLISH late"):
        assert broker.say(f"{word}\r\n").rest() == [b"ERROR draining"]
    begin = time.monotonic()
    assert slow.rest() == messages + [b"ERROR draining"]
    broker.finish(PATIENCE)
    assert time.monotonic() - begin < at_most(10) and silent, "it waits for nobody who came late"


def test_a_second_signal_ends_at_once(start):
    broker = start(reactors=2, drain_seconds=60)
    backlog(broker)
    broker.send_signal(signal.SIGTERM)
    broker.loop.sleep(0.5)
    assert broker.running(), "it waits for who is behind"
    broker.send_signal(signal.SIGTERM)
    broker.finish(at_most(2), codes=(1,), counters=False)
    broker.says(r"second signal: \d+ clients are cut off")


def test_two_signals_at_the_same_time_are_one(start):
    broker = start(reactors=2, drain_seconds=60)
    slow, messages = backlog(broker)
    for number in (signal.SIGINT, signal.SIGTERM):
        broker.send_signal(number)
    assert slow.rest() == messages + [b"ERROR draining"]
    broker.finish(published=4000, matched=4000, delivered=4000, dropped=0)


def test_signals_that_mean_nothing_to_it_do_not_end_it(start):
    broker = start(reactors=2)
    for number in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM, signal.SIGVTALRM, signal.SIGPROF, signal.SIGIO):
        broker.send_signal(number)
    broker.works()
    broker.send_signal(signal.SIGQUIT)
    broker.finish()


@pytest.mark.parametrize("number, code", [
    (signal.SIGHUP, None), (signal.SIGUSR1, None), (signal.SIGUSR2, None), (signal.SIGTERM, 0), (signal.SIGQUIT, 0),
], ids=lambda v: getattr(v, "name", ""))  # fmt: skip
def test_no_signal_surprises_a_broker_that_has_not_read_its_configuration(tmp_path, number, code):
    path = tmp_path / "slow.conf"
    os.mkfifo(path)
    with subprocess.Popen([BROKER, "-c", path], stderr=subprocess.PIPE, text=True) as broker:
        try:
            with open(path, "w") as config:  # it has opened its end, and waits for what to read
                broker.send_signal(number)
                if code is None:
                    config.write("reactorz = 1\n")
                else:
                    assert broker.wait(PATIENCE) == code
            assert broker.wait(PATIENCE) == (2 if code is None else code)
            assert ("reactorz" in broker.stderr.read()) == (code is None)
        finally:
            broker.kill()


def test_a_lame_duck_is_not_ready_and_serves_all_the_same(start):
    both = {"address": "127.0.0.1:0", "protocols": ["line", "http"]}
    broker = start(reactors=2, lame_duck_seconds=whole_seconds(2), listen={"main": both})
    subscriber = broker.subscribe("lame")
    broker.send_signal(signal.SIGTERM)
    broker.says("lame duck")
    answer = broker.say("GET /ready HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
    broker.loop.wait(lambda: answer.ended, "an answer")
    assert answer.buffer.startswith(b"HTTP/1.1 503 ")
    broker.works()
    broker.publish("lame", b"still there")
    assert subscriber.take(1) == [b"still there"] and "draining" not in broker.log()
    assert subscriber.rest() == [b"ERROR draining"]
    broker.finish()


def test_a_lame_ducks_goodbyes_are_spread_over_half_of_drain_seconds(start):
    broker = start(reactors=1, lame_duck_seconds=1, drain_seconds=whole_seconds(8))
    subscribers = broker.subscribe_many(["spread"] * 64)
    broker.send_signal(signal.SIGTERM)
    broker.loop.wait(lambda: any(s.ended for s in subscribers), "the first goodbye")
    assert sum(s.ended for s in subscribers) < 32
    assert all(s.rest() == [b"ERROR draining"] for s in subscribers)
    broker.finish()
    assert "cut off" not in broker.log()


def test_a_second_signal_ends_a_lame_duck_at_once(start):
    broker = start(reactors=2, lame_duck_seconds=60)
    subscriber = broker.subscribe("lame")
    broker.send_signal(signal.SIGTERM)
    broker.says("lame duck")
    broker.loop.sleep(0.3)
    assert not subscriber.ended
    broker.send_signal(signal.SIGTERM)
    broker.finish(at_most(2), codes=(1,), counters=False)


def test_a_stop_of_an_idle_broker_takes_no_time(start):
    broker = start(reactors=8, drain_seconds=30)
    broker.works()
    begin = time.monotonic()
    broker.stop()
    assert time.monotonic() - begin < at_most(2)


# --- reload ------------------------------------------------------------------------------------------


def test_a_reload_takes_a_good_configuration_and_says_so(start):
    broker = start(reactors=2)
    subscriber, publisher = broker.subscribe("reload"), broker.publisher("reload")
    since = broker.log_size()
    broker.configure(log_level="debug")
    broker.send_signal(signal.SIGHUP)
    broker.says("INFO.*reload", since)
    publisher.send_lines(b"all along")
    assert subscriber.take(1) == [b"all along"]


def test_a_reload_of_a_bad_configuration_keeps_the_old_one_whole_and_says_which(start):
    broker = start(reactors=2, limits={"connections": 7})
    bystanders = [broker.subscribe("reload") for _ in range(3)]
    since = broker.log_size()
    broker.configure(text="log_level = \"error\"\nlimits {\n\tconnections = 3\n}\nreactorz = 2\n")
    broker.send_signal(signal.SIGHUP)
    broker.says(rf"{re.escape(str(broker.config_path))}:5: reactorz: ", since)
    broker.says("(keep|kept|old|unchanged)", since)
    for i in range(3):
        broker.works(f"after.{i}")  # five connections are allowed still
    broker.publish("reload", b"undisturbed")
    assert all(b.take(1) == [b"undisturbed"] for b in bystanders)
    broker.eventually(subscriptions=3)  # statistics at level info go on too
    broker.configure()
    broker.send_signal(signal.SIGHUP)
    broker.says("INFO.*reload", since)


def test_a_reload_names_what_needs_a_restart(start):
    broker = start(reactors=2)
    since = broker.log_size()
    text = config_text(**{**broker.config, "reactors": 3})
    broker.configure(text=text)
    broker.send_signal(signal.SIGHUP)
    broker.says("reactors.*restart|restart.*reactors", since)
    broker.works()


# --- what it costs -----------------------------------------------------------------------------------


@release_only
def test_an_idle_broker_takes_no_cpu(start):
    brokers = [start(reactors=n, stats_seconds=0) for n in (1, 2, 8, 64)]
    for broker in brokers:
        broker.works()
    time.sleep(0.2)
    before = [b.cpu_ticks() for b in brokers]
    time.sleep(3)
    used = [b.cpu_ticks() - ticks for b, ticks in zip(brokers, before)]
    assert all(ticks < 3 * b.config["reactors"] for b, ticks in zip(brokers, used)), used


def test_an_idle_broker_makes_no_system_call(start):
    """A thread that does nothing but wait in the kernel switches no context."""
    both = {"address": "127.0.0.1:0", "protocols": ["line", "http"]}
    broker = start(reactors=3, stats_seconds=0, listen={"main": both}, limits={"handshake_seconds": 1},
                   topics={"linger_seconds": 0})
    clients = [broker.subscribe(f"idle.{i}") for i in range(8)] + [broker.publisher(f"idle.{i}") for i in range(8)]
    clients[8].send_lines(b"once")
    assert clients[0].take(1) == [b"once"]
    watching = broker.connect()
    watching.send(b"GET /subscribe/$sys.stats HTTP/1.1\r\nHost: a\r\nAccept: text/event-stream\r\n\r\n")
    broker.loop.wait(lambda: watching.buffer.count(b"uptime_s") >= 2, "two events")
    watching.close()
    scrape = broker.say(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    broker.loop.wait(lambda: scrape.ended and b"broker_turns_total" in scrape.buffer, "figures")

    def quiet():
        before = broker.context_switches()
        time.sleep(2)
        return broker.context_switches() == before

    broker.loop.wait(quiet, "two seconds without a context switch", PATIENCE)


@release_only
def test_10000_idle_subscribers_cost_512_bytes_each_and_no_cpu(start):
    """448 for the structures, and their places in tables."""
    broker = start(reactors=2, stats_seconds=0, engine={"recv_buffers": 64})
    warm_up, count = 1000, 10_000
    subscribers = broker.subscribe_many(["idle"] * warm_up)
    time.sleep(1)  # receive buffers of a burst are given back
    before = broker.memory()
    for _ in range(0, count, warm_up // 2):  # what a burst needs is not what a subscriber costs, and is there by now
        subscribers += broker.subscribe_many(["idle"] * (warm_up // 2))
    time.sleep(0.2)
    ticks = broker.cpu_ticks()
    time.sleep(3)
    ticks = broker.cpu_ticks() - ticks
    grown = broker.memory() - before
    assert grown / count <= 512 and ticks < 3 * 2, (grown / count, ticks)
    broker.publish("idle", b"wake up")
    broker.loop.wait_each(subscribers, lambda c: c.has(1), "the message", 2 * PATIENCE)
    assert all(c.take_waiting() == [b"wake up"] for c in subscribers)
