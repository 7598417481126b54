"""Whatever call fails, the broker neither crashes nor hangs nor spins nor leaks: it refuses to start and says why,
or it goes on serving.

Every sweep here lets the first call of a kind fail, then the second, and so on until there is none left to fail,
each with a fresh broker. `make check` takes some of them, `make faults` all.
"""

import errno
import itertools
import re
import resource
import signal

import pytest

from faults import (
    ENTER,
    EVER,
    INTERNAL_ERROR,
    LIBRARY,
    MEMORY,
    MESSAGES,
    NO_MEMORY,
    OPCODES,
    REGISTER,
    REQUEST,
    SCENARIOS,
    SETUP,
    STEP,
    Faulty,
    configuration,
)
from harness import SANITIZER, TEST_SECONDS, limit_files, release_only

pytestmark = pytest.mark.skipif(SANITIZER == "tsan", reason="its allocator cannot be put behind another")

SWEEP_MAX = 30000  # more calls than any scenario makes


@pytest.fixture
def sweep(tmp_path, record_property):
    """Plays cases with a broker each, in a directory of its own. Each says which call failed, until there is none."""

    def sweep(play, step=STEP):
        hits = []
        nth = 1
        # Who meets whom on which shard is chance, and so is whether there is a call of some kinds at all.
        while (hits and hits[-1]) or (not any(hits) and len(hits) < 10):
            assert nth < SWEEP_MAX, f"still something to fail after {SWEEP_MAX} calls"
            directory = tmp_path / f"{nth}-{len(hits)}"
            directory.mkdir()
            signal.setitimer(signal.ITIMER_REAL, TEST_SECONDS)  # no case hangs
            hits.append(play(directory, nth))
            nth = hits[-1] + step if hits[-1] else nth
        record_property("cases", len(hits))
        assert any(hits), "nothing has failed, so nothing was tried"

    return sweep


def started(directory, arm=None, scenario="", reactors=2):
    return Faulty(directory, arm, **configuration(directory.parent, scenario, reactors))


CAUSE = re.compile(r"memory|cannot|internal error|io_uring|ERROR|started", re.I)


def start(directory, kind, nth, many, error, codes, scenario=""):
    """A start with faults: it is refused with one of those codes and a reason, or all is well."""
    broker = started(directory, lambda faults: faults.fail(kind, nth, many, error), scenario)
    broker.faults.off(kind)
    hit = broker.faults.first(kind)
    try:
        if broker.running():
            broker.recovers(broker.descriptors())
            broker.stop()
        else:
            broker.checked = True
            assert hit, broker.log_tail()
            assert broker.process.returncode in codes, f"exit code {broker.process.returncode}\n{broker.log_tail()}"
            assert CAUSE.search(broker.log()), f"it does not say why\n{broker.log_tail()}"
            assert "Sanitizer" not in broker.log(), broker.log_tail()
    finally:
        broker.kill()
    return hit


def disturbed(directory, scenario, reactors, kind, nth, many=1, error=errno.ENOMEM, early=False, beside=False):
    """A scenario with faults, early: they are there when the broker starts; afterwards everything is as it should be,
    and meanwhile, too, for a pair beside it. Returns which call failed first."""
    arm = (lambda faults: faults.fail(kind, nth, many, error)) if early else None
    broker = started(directory, arm, scenario, reactors)
    faults = broker.faults
    try:
        acts = SCENARIOS[scenario](broker)
        next(acts)
        broker.recovers(1000)
        descriptors = broker.descriptors()
        pair = (broker.subscribe("beside"), broker.publisher("beside")) if beside else ()
        if not early:
            faults.fail(kind, nth, many, error)
        for _ in acts:
            pass
        if pair:
            pair[1].send_lines(*MESSAGES)
            assert pair[0].take(len(MESSAGES)) == MESSAGES
        if many == EVER:
            broker.is_quiet()
        faults.off(kind)
        broker.recovers(descriptors)
        broker.stop()
        return faults.first(kind)
    except BaseException:
        print(f"nth={nth}", broker.log_tail())
        raise
    finally:
        broker.kill()


@pytest.mark.parametrize("many", [1, EVER], ids=["once", "ever"])
def test_a_start_without_memory_is_refused_with_a_reason(sweep, many):
    # A fifth of them are the first that libcrypto makes.
    sweep(lambda directory, nth: start(directory, MEMORY, nth, many, errno.ENOMEM, (1, 2, 3)), step=3 * STEP if STEP > 1 else 1)


# The library makes thousands of allocations to begin with.
@pytest.mark.parametrize("many", [1, EVER], ids=["once", "ever"])
def test_a_secure_start_without_memory_is_refused_with_a_reason(sweep, many):
    sweep(lambda directory, nth: start(directory, MEMORY, nth, many, errno.ENOMEM, (1, 2, 3), "secure"), step=60 * STEP)


# Both at once are enough where time is short.
LIBRARY_FAILURES = [(INTERNAL_ERROR, 1), (NO_MEMORY, EVER)] + ([(INTERNAL_ERROR, EVER), (NO_MEMORY, 1)] if STEP == 1 else [])


@pytest.mark.parametrize("error, many", LIBRARY_FAILURES)
@pytest.mark.parametrize("scenario", ["secure", "users"])
def test_a_start_without_the_library_is_refused_with_a_reason(sweep, scenario, error, many):
    sweep(lambda directory, nth: start(directory, LIBRARY, nth, many, error, (1, 2, 3), scenario), step=3 * STEP if STEP > 1 else 1)


@pytest.mark.parametrize("many", [1, EVER], ids=["once", "ever"])
@pytest.mark.parametrize("scenario", ["secure", "users"])
def test_any_call_of_the_library_may_fail(sweep, scenario, many):
    """Of OpenSSL: in a handshake, in traffic, in a reload. Whoever has no need of it notices nothing."""
    step = 4 * STEP if STEP > 1 else 1
    sweep(lambda directory, nth: disturbed(directory, scenario, 1, LIBRARY, nth, many, INTERNAL_ERROR, beside=True), step)


@pytest.mark.parametrize("many", [1, EVER], ids=["once", "ever"])
@pytest.mark.parametrize("reactors", [1, 2])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_any_allocation_may_fail(sweep, scenario, reactors, many):
    # The library of TLS makes thousands.
    step = {"secure": (40 if STEP == 1 else 100) * STEP, "users": (10 if STEP == 1 else 200) * STEP}.get(scenario, STEP)
    sweep(lambda directory, nth: disturbed(directory, scenario, reactors, MEMORY, nth, many), step)


# What io_uring_setup(2) and io_uring_register(2) may say, and what a broker that starts all the same does then.
SETUP_ERRORS = ["EPERM", "EACCES", "ENOSYS", "ENOMEM", "EINVAL", "EMFILE", "ENFILE", "EAGAIN", "EFAULT"]
REGISTER_ERRORS = ["ENOMEM", "EINVAL", "EEXIST", "EPERM", "EFAULT"]


@pytest.mark.parametrize("many", [1, EVER], ids=["once", "ever"])
@pytest.mark.parametrize("kind, name", [(SETUP, e) for e in SETUP_ERRORS] + [(REGISTER, e) for e in REGISTER_ERRORS])
def test_a_refused_ring_is_explained(sweep, kind, name, many):
    sweep(lambda directory, nth: start(directory, kind, nth, many, getattr(errno, name), (3,)), step=1)


# What io_uring_enter(2) may say of itself.
@pytest.mark.parametrize("many", [1, 300], ids=["once", "often"])
@pytest.mark.parametrize("name", ["EINTR", "EAGAIN", "EBUSY", "ENOMEM"])
@pytest.mark.parametrize("scenario", ["line", "http"])
def test_a_refused_enter_is_tried_again(sweep, scenario, name, many):
    """Nobody is disturbed; often: for longer than the scenario would take."""
    step = STEP if many == 1 else 10 * STEP
    sweep(lambda directory, nth: disturbed(directory, scenario, 2, ENTER, nth, many, getattr(errno, name)), step=step)


# What may come back from each kind of request, and the scenario that makes many of them.
REQUEST_ERRORS = {
    "ACCEPT": ("http", "EMFILE ENFILE ENOBUFS ENOMEM ECONNABORTED EAGAIN EINTR EPERM EPROTO ENETDOWN EINVAL ECANCELED EBADF"),
    "RECV": ("line", "EAGAIN EINTR ECONNRESET ETIMEDOUT ENOBUFS ENOMEM EHOSTUNREACH ENOTCONN EINVAL EFAULT EIO ECANCELED"),
    "SEND": ("line", "EPIPE ECONNRESET ETIMEDOUT ENOMEM ENOBUFS EAGAIN EINTR EHOSTUNREACH EINVAL EFAULT ECANCELED"),
    "SENDMSG": ("large", "EPIPE ECONNRESET ETIMEDOUT ENOMEM ENOBUFS EAGAIN EINTR EMSGSIZE EINVAL EFAULT ECANCELED"),
    "TIMEOUT": ("waiting", "EINVAL ENOMEM ECANCELED EFAULT EAGAIN"),
    "MSG_RING": ("line", "EOVERFLOW EBADFD EBADF ENOMEM EAGAIN EINVAL"),
}
ARMED_AT_START = ("ACCEPT", "TIMEOUT")  # and then they answer many times


@pytest.mark.parametrize(
    "opcode, scenario, name", [(o, s, e) for o, (s, errors) in REQUEST_ERRORS.items() for e in errors.split()]
)
def test_any_request_may_fail(sweep, opcode, scenario, name):
    kind = REQUEST + OPCODES[opcode]
    early = opcode in ARMED_AT_START
    step = 1 if early else STEP
    sweep(lambda directory, nth: disturbed(directory, scenario, 2, kind, nth, 1, getattr(errno, name), early), step=step)


@pytest.mark.parametrize("name", ["ENOMEM", "EOVERFLOW", "EAGAIN"])
def test_a_wake_up_that_fails_is_tried_again(tmp_path, name):
    """With no statistics nothing else wakes a reactor that sleeps."""
    directory = tmp_path / "0"
    directory.mkdir()
    broker = Faulty(directory, None, **{**configuration(tmp_path, "", 2), "stats_seconds": 0})
    try:
        clients = [broker.subscribe("wake") for _ in range(8)]
        publishers = [broker.publisher("wake") for _ in range(8)]
        failed = 0
        for i, publisher in enumerate(publishers):
            broker.loop.sleep(0.4)
            broker.faults.fail(REQUEST + OPCODES["MSG_RING"], 1, 3, getattr(errno, name))
            publisher.send_lines(b"%d" % i)
            for client in clients:
                assert client.take(1) == [b"%d" % i]
            failed += broker.faults.first(REQUEST + OPCODES["MSG_RING"]) > 0
        # Whoever is on the topic's own reactor wakes the others only.
        assert failed > 0, "some wake-up has failed"
        broker.faults.off(REQUEST + OPCODES["MSG_RING"])
        broker.stop()
    finally:
        broker.kill()


def stop(directory, kind, nth, many, error):
    """A drain with faults while there are clients who do not let go."""
    broker = started(directory)
    try:
        broker.recovers(1000)
        clients = [broker.subscribe("stop"), broker.publisher("stop"), broker.say("SUBSC"), broker.stream("/subscribe/stop")]
        broker.settle(clients[-1], 2)
        for client in clients:
            client.holds = True
        clients[1].send(b"message\r\nhalf a mess")
        broker.faults.fail(kind, nth, many, error)
        broker.stop()
        return broker.faults.first(kind)
    finally:
        broker.kill()


@pytest.mark.parametrize("many", [1, EVER], ids=["once", "ever"])
@pytest.mark.parametrize(
    "opcode, name",
    [("ASYNC_CANCEL", e) for e in ("ENOENT", "EALREADY", "EINVAL", "ENOMEM")]
    + [("SEND", "ECONNRESET"), ("MSG_RING", "EBADFD"), (None, "ENOMEM")],
)
def test_a_drain_needs_no_request_and_no_memory(sweep, opcode, name, many):
    kind = REQUEST + OPCODES[opcode] if opcode else MEMORY
    sweep(lambda directory, nth: stop(directory, kind, nth, many, getattr(errno, name)))


ALWAYS = [
    ("ACCEPT", "EPERM"),
    ("ACCEPT", "ENFILE"),
    ("ACCEPT", "EINVAL"),
    ("RECV", "ECONNRESET"),
    ("RECV", "ENOMEM"),
    ("SEND", "EPIPE"),
    ("SEND", "ENOBUFS"),
    ("TIMEOUT", "ENOMEM"),
    ("MSG_RING", "ENOMEM"),
]


@pytest.mark.parametrize("opcode, name", ALWAYS)
def test_requests_that_always_fail_take_no_cpu(tmp_path, opcode, name):
    """Clients are closed or wait until it is over; nothing is tried without a pause."""
    directory = tmp_path / "0"
    directory.mkdir()
    broker = started(directory)
    try:
        broker.recovers(1000)
        descriptors = broker.descriptors()
        broker.faults.fail(REQUEST + OPCODES[opcode], many=EVER, error=getattr(errno, name))
        for i in range(20):
            broker.say(f"SUBSCRIBE topic.{i}\r\n")
            broker.say(f"PUBLISH topic.{i}\r\nmessage\r\nBYE\r\n")
        broker.loop.sleep(0.3)
        broker.is_quiet()
        broker.faults.off(REQUEST + OPCODES[opcode])
        broker.recovers(descriptors)
        broker.stop()
    finally:
        broker.kill()


EDGES = [
    *({"sq_entries": n} for n in (1, 17, 32768)),
    *({"batch": n} for n in (1, 3, 32768)),
    *({"lane_entries": n} for n in (2, 4, 1 << 20)),
    *({"lane_batch": n} for n in (1, 7, 1 << 20)),
    *({"turn_sends": n} for n in (1, 3, 1 << 20)),
    *({"spin_us": n} for n in (1, 1_000_000)),
    *({"linger_us": n} for n in (1, 20_000)),
    *({"recv_buffers": n} for n in (1, 2, 32768)),
    *({"recv_buffer_bytes": n} for n in (1024, 5001, 1 << 20)),
    *({"sqpoll_idle_ms": n} for n in (1, 3_600_000)),
    {"sqpoll_idle_ms": 1, "sq_entries": 1},
    {"sqpoll_idle_ms": 1, "linger_us": 1000, "spin_us": 100, "batch": 32768, "sq_entries": 16},
    {"steer": "cpu"},
    {"sq_entries": 1, "batch": 1, "lane_entries": 2, "recv_buffer_bytes": 1024},
    {"sq_entries": 16, "batch": 32768, "lane_entries": 2, "recv_buffer_bytes": 1024},
    {"recv_buffers": 1, "recv_buffer_bytes": 1024, "lane_entries": 2},
]


@pytest.mark.parametrize("engine", EDGES, ids=lambda engine: ",".join(f"{k}={v}" for k, v in engine.items()))
def test_every_knob_may_stand_at_its_edges(tmp_path, engine):
    """Whatever clients do, without any fault; more come at once than a small ring has entries. make faults plays every scenario."""
    scenarios = list(SCENARIOS)
    for scenario in scenarios if STEP == 1 else scenarios[EDGES.index(engine) % 3 :: 3]:
        directory = tmp_path / scenario
        directory.mkdir()
        broker = Faulty(directory, **configuration(tmp_path, scenario, 2), engine=engine)
        try:
            for _ in SCENARIOS[scenario](broker):
                pass
            for client in [broker.connect() for _ in range(40)]:
                client.send(b"SUBSCRIBE crowd\r\n")
                assert client.ok()
            broker.publish("crowd", b"m")
            broker.works()
            broker.stop()
        finally:
            broker.kill()


def test_a_start_without_descriptors_is_refused_with_a_reason(tmp_path):
    """With fewer and fewer files, until it does not start: it says why in every case."""
    for files in range(40, 3, -1):
        directory = tmp_path / str(files)
        directory.mkdir()
        config = configuration(tmp_path, "", 2) | {"sandbox": True}
        broker = Faulty(directory, preexec=limit_files(files), **config)
        if broker.running():
            broker.stop()
            continue
        broker.checked = True
        assert broker.process.returncode in (1, 2, 3), broker.log_tail()
        assert re.search(r"descriptor|open files|cannot read", broker.log()), broker.log_tail()


# Memory that is really short, which libraries must not notice either.


def limit_memory(size):
    return lambda: resource.setrlimit(resource.RLIMIT_AS, (size, size))


@release_only  # a sanitizer maps more memory than there is
def test_a_start_without_memory_to_be_had_is_refused_with_a_reason(tmp_path):
    """With more and more memory, until it starts."""
    engine = {"sq_entries": 32, "recv_buffers": 16, "lane_entries": 16}  # or most of it would go there
    for kib in itertools.count(10 << 10, 100 * STEP):
        directory = tmp_path / str(kib)
        directory.mkdir()
        broker = Faulty(directory, preexec=limit_memory(kib << 10), **configuration(tmp_path, "", 2), engine=engine)
        if broker.running():
            broker.stop()
            return
        broker.checked = True
        assert broker.process.returncode in (1, 2, 3, 127), broker.log_tail()
        assert CAUSE.search(broker.log()), broker.log_tail()


@release_only  # a sanitizer maps more memory than there is
def test_a_reload_without_memory_to_be_had_is_refused_as_a_whole(tmp_path):
    """With less and less memory left, a byte of which a library might miss."""
    directory = tmp_path / "0"
    directory.mkdir()
    broker = started(directory, scenario="reload")
    try:
        broker.works()
        refused = 0
        for kib in itertools.chain(range(4096, 0, -256), range(256, -1, -4)):
            resource.prlimit(broker.pid, resource.RLIMIT_AS, (broker.memory("VmSize") + (kib << 10), resource.RLIM_INFINITY))
            since = broker.log_size()
            broker.send_signal(signal.SIGHUP)
            refused += "old configuration" in broker.says(r"reload: .*(is in force|stays in force)", since)
        assert refused > 0
        broker.works()
        resource.prlimit(broker.pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY,) * 2)
        broker.works()
        broker.stop()
    finally:
        broker.kill()
