"""What is measured, with whom, and what is to be reached.

A contender broker-Nr is the broker with N reactors; broker-512 is the broker with engine { batch = 512 }, broker-pace0 with
topics { pace = 0 }, everything else is at its default. The broker's other doors are contenders, too (DOORS): broker-sse is the broker as clients of
server-sent events see it, and so on, each beside the peer whose protocol it speaks and beside the broker's own line protocol.
"""

import os

CORES = len(os.sched_getaffinity(0))

# Each door with the peer that speaks the same; the WebSocket's publishers get back what they send, as everybody does there.
DOORS = {
    "broker-sse": "nchan",
    "broker-ws": "nchan",
    "broker-nats": "nats",
    "broker-resp": "redis",
    "broker-mqtt": "mosquitto",
}

PEERS = ["broker-sse", "epoll", "redis", "nats", "tokio", "tokio-nodelay", "mosquitto", "nchan"]

# 1, 2, 4 ... all cores of a host, and more than there are on a small one.
REACTORS = sorted({1, 2, 4, 8, 32, *(1 << i for i in range(CORES.bit_length())), CORES})

CONTENDERS = {
    "broker": {"protocol": "line"},
    "broker-sse": {"protocol": "sse"},
    "broker-ws": {"protocol": "ws"},
    "broker-nats": {"protocol": "nats"},
    "broker-resp": {"protocol": "resp"},
    "broker-mqtt": {"protocol": "mqtt"},
    "broker-exact": {"protocol": "nats"},
    "epoll": {"protocol": "line"},
    "redis": {"protocol": "resp"},
    "nats": {"protocol": "nats"},
    "tokio": {"protocol": "line"},
    "tokio-nodelay": {"protocol": "line"},
    "mosquitto": {"protocol": "mqtt"},
    "nchan": {"protocol": "sse"},
    "broker-512": {"protocol": "line", "engine": "batch = 512"},
    "broker-pace0": {"protocol": "line", "topics": "pace = 0"},
    **{f"broker-{n}r": {"protocol": "line", "reactors": n} for n in REACTORS},
    # Over TLS; broker-haproxy is a plain broker behind haproxy, which are one contender: their CPU and memory are added.
    "broker-tls": {"protocol": "line", "tls": True},
    "broker-resume": {"protocol": "line", "tls": True, "args": ["--resume"]},
    "broker-haproxy": {"protocol": "line", "tls": True, "before": "haproxy"},
    "redis-tls": {"protocol": "resp", "tls": True},
    "nats-tls": {"protocol": "nats", "tls": True},
    "mosquitto-tls": {"protocol": "mqtt", "tls": True},
    "nchan-tls": {"protocol": "sse", "tls": True},
    "limit": {"protocol": None},
}

QUICK_CONTENDERS = ["broker", "limit", "epoll", "redis", "broker-tls", "redis-tls", "nats-tls"]

# Those that send at once: with Nagle's algorithm on, the kernel coalesces, at the price of 40 ms tails.
AT_ONCE = ["epoll", "redis", "nats", "tokio-nodelay", "mosquitto", "nchan"]


def load(topics, subscribers, window=None, rate=None, batch=None):
    args = ["--topics", topics, "--subscribers", subscribers]
    args += ["--batch", batch] if batch else []
    return args + (["--window", window] if window else ["--rate", rate])


def at_least(factor, base, of="broker"):
    return {"metric": "delivered_per_cpu_s", "of": of, "base": base, "factor": factor}


def doors(nats, redis, events=None, mosquitto=None):
    """What each door is to reach beside the line protocol and beside its peer."""
    found = [at_least(0.8 if door == "broker-ws" else 0.85, "broker", door) for door in DOORS if door != "broker-sse"]
    found += [at_least(nats, "nats", "broker-nats"), at_least(redis, "redis", "broker-resp")]
    found += [at_least(events, "nchan", door) for door in ("broker-sse", "broker-ws") if events]
    return found + ([at_least(mosquitto, "mosquitto", "broker-mqtt")] if mosquitto else [])


def multiplexed(name, what, topics, window=None, rate=None, targets=(), args=(), **more):
    """100 connections that have all of so many topics each."""
    return {
        "name": name,
        "what": f"100 connections x {topics} topics each, {what}, 128 B, " + (f"window {window}" if window else f"{rate}/s each"),
        "bytes": 128,
        "args": [*load(topics, 100, window, rate), *args],
        "contenders": ["broker-nats", "broker-resp", "broker-mqtt", "redis", "nats", "mosquitto"],
        "targets": list(targets),
        **more,
    }


def at_most(metric, factor, base):
    return {"metric": metric, "base": base, "factor": factor}


def scenario(name, topics, subscribers, size, window=None, rate=None, batch=None, targets=(), **more):
    limit = {"subscribers": topics * subscribers}
    if window:
        limit["window"] = window
    else:
        # Each message goes to one topic's subscribers.
        limit = {"subscribers": subscribers, "rate": topics * rate}
    what = f"{topics}x{subscribers}x1, {size} B, " + (f"window {window}" if window else f"{rate}/s each")
    what += f", sent {batch} at a time" if batch else ""
    return {
        "name": name,
        "what": what,
        "bytes": size,
        "args": load(topics, subscribers, window, rate, batch),
        "limit": limit,
        "contenders": ["broker", *more.pop("variants", []), "limit", *PEERS],
        "targets": list(targets),
        **more,
    }


def costs(factor, base):
    """What the broker's CPU per delivery over TLS may be of somebody else's."""
    return {"metric": "cpu_ns_per_delivered", "of": "broker-tls", "base": base, "factor": factor}


def over_tls(name, topics, subscribers, size, window, targets, peers, what=None, **more):
    """A scenario over TLS, with the plain broker beside it: what TLS costs for each delivery, and so for each byte."""
    plain = scenario(name, topics, subscribers, size, window=window)
    return {
        **plain,
        "name": f"{name}-tls",
        "what": f"{what or plain['what']}, over TLS 1.3",
        "contenders": ["broker", "broker-tls", *peers],
        "own": "broker-tls",
        "targets": targets,
        "quick": False,
        **more,
    }


# Everybody over TLS.
TLS_PEERS = ["broker-haproxy", "redis-tls", "nats-tls", "mosquitto-tls", "nchan-tls"]


def one_by_one(name, subscribers, redis):
    """Publishers that send message by message, as most do: how much a server merges is its own doing."""
    both = ("delivered_per_cpu_s", "delivered_per_s")
    return scenario(
        name, 1, subscribers, 128, window=64, batch=1, variants=["broker-pace0"],
        targets=[
            *({"metric": m, "base": "redis", "factor": redis} for m in both),
            *({"metric": m, "base": "epoll", "factor": 1.3} for m in both),
            at_most("p50_ns", 1.0, "redis"),
        ],
    )


SCENARIOS = [
    one_by_one("each100", 100, redis=2),
    one_by_one("each1000", 1000, redis=3),
    scenario(
        "fan100", 1, 100, 128, window=64, variants=["broker-512", *list(DOORS)[1:]], namespace=True,
        targets=[at_least(3.3, "redis"), at_least(1.0, "epoll"), at_least(0.85, "limit"), *doors(nats=4.5, redis=2.7, events=40, mosquitto=60)],
    ),
    scenario(
        "fan1000", 1, 1000, 128, window=64, variants=["broker-512", *list(DOORS)[1:]], namespace=True,
        targets=[at_least(5, "redis"), at_least(1.1, "epoll"), *doors(nats=8, redis=2.7)],
    ),
    scenario(
        "many", 50, 20, 128, window=16, variants=["broker-512", *list(DOORS)[1:]], namespace=True,
        targets=[at_least(2.3, "redis"), at_least(1.2, "epoll"), *doors(nats=3.3, redis=1.8, mosquitto=20)],
    ),
    scenario(
        "one2one", 50, 1, 128, window=64, variants=list(DOORS)[1:], namespace=True, targets=[at_least(5, "redis"), at_least(0.9, "epoll"), *doors(nats=5, redis=5)]
    ),
    scenario(
        "seg8k", 10, 50, 8192, window=8, namespace=True,
        targets=[at_least(3.3, "redis"), at_least(2, "tokio"), at_least(1.0, "epoll")],
    ),
    scenario(
        "seg1m", 1, 50, 1048576, window=2, namespace=True,
        targets=[
            at_least(3, "redis"), at_least(1.4, "tokio"), at_least(1.4, "epoll"),
            {"metric": "memory_above_idle_bytes", "most": 8 << 20},
        ],
    ),
    scenario(
        "paced", 10, 10, 128, rate=20,
        targets=[at_least(2, "redis"), at_least(1.3, "epoll"), {"metric": "p99_ns", "base": "best at once", "factor": 1.0}],
    ),
    scenario(
        "pacedhi", 10, 50, 128, rate=500, namespace=True,
        targets=[at_least(1.0, "best at once"), {"metric": "p99_ns", "base": "best at once", "factor": 1.0}],
    ),
    scenario(
        "fan10k", 1, 10000, 128, rate=20,
        contenders=["broker", "limit", "epoll", "redis"], duration_s=3,
        targets=[
            {"metric": "cpu_ns_per_delivered", "base": "limit", "factor": 1.15},
            {"metric": "slowest_p50_ns", "most": 60e6},
        ],
    ),
    scenario(
        "mixed", 10, 10, 128, rate=20,
        what="10x10x1, 128 B, 20/s each, beside fan10k (only these are counted, the CPU is for both)",
        contenders=["broker", "epoll", "redis"],
        beside=load(1, 10000, rate=20),
        targets=[{"metric": "p50_ns", "most": 1e6}, {"metric": "p99_ns", "most": 10e6}],
    ),
    scenario(
        "many-reactors", 50, 20, 128, window=16,
        what="many with 1, 2 and 32 reactors", contenders=["broker-1r", "broker-2r", "broker-32r"],
        targets=[
            {"metric": "cpu_ns_per_delivered", "of": "broker-2r", "base": "broker-1r", "factor": 1.1},
            {"metric": "cpu_ns_per_delivered", "of": "broker-32r", "base": "broker-2r", "factor": 1.5},
        ],
    ),
    scenario(
        "fan1000-reactors", 1, 1000, 128, window=64,
        what="fan1000 with 1, 2 and 32 reactors", contenders=["broker-1r", "broker-2r", "broker-32r"],
        targets=[
            {"metric": "cpu_ns_per_delivered", "of": "broker-2r", "base": "broker-1r", "factor": 1.1},
            {"metric": "cpu_ns_per_delivered", "of": "broker-32r", "base": "broker-2r", "factor": 1.15},
        ],
    ),
    multiplexed(
        "multi", "a subscription for each", 100, window=16, args=["--topics-per-connection", 100],
        targets=[at_least(2, "redis", "broker-resp"), at_least(3, "nats", "broker-nats")],
    ),
    multiplexed(
        "multi-paced", "a subscription for each", 100, rate=20, args=["--topics-per-connection", 100],
        targets=[at_least(2, "redis", "broker-resp"), at_least(3, "nats", "broker-nats")],
    ),
    multiplexed(
        "wild", "by one pattern (broker-exact: a subscription for each)", 1000, window=4, args=["--pattern"],
        contenders=["broker-nats", "broker-exact", "broker-resp", "broker-mqtt", "redis", "nats", "mosquitto"],
        args_of={"broker-exact": [*load(1000, 100, window=4), "--topics-per-connection", 1000]},
        targets=[at_least(0.9, "broker-exact", "broker-nats")],
    ),
    over_tls(
        "fan100", 1, 100, 128, 64, [costs(2.2, "broker"), costs(0.6, "redis-tls"), costs(0.55, "broker-haproxy")], TLS_PEERS, quick=True,
    ),
    over_tls("fan100x1", 1, 100, 128, 1, [costs(1.5, "broker")], []),
    over_tls("fan1000", 1, 1000, 128, 64, [costs(2.2, "broker"), costs(0.6, "redis-tls")], ["redis-tls", "nats-tls"]),
    over_tls("many", 50, 20, 128, 16, [costs(2.2, "broker"), costs(0.6, "redis-tls")], TLS_PEERS, quick=True),
    over_tls("one2one", 50, 1, 128, 64, [costs(2.2, "broker"), costs(0.6, "redis-tls")], ["broker-haproxy", "redis-tls", "nats-tls"]),
    over_tls("seg8k", 10, 50, 8192, 8, [costs(3.3, "broker"), costs(0.4, "redis-tls"), costs(0.55, "broker-haproxy")], ["broker-haproxy", "redis-tls"]),
    over_tls("seg1m", 1, 50, 1048576, 2, [costs(4.5, "broker"), costs(0.45, "nats-tls"), costs(0.55, "broker-haproxy")], ["broker-haproxy", "nats-tls"]),
    {
        "name": "comers-tls",
        "what": "300 connections a second that subscribe over TLS and leave: CPU of each, full handshakes (broker-resume: resumed ones)",
        "bytes": 128,
        "args": [*load(1, 1, rate=20), "--churn", 300],
        "contenders": ["broker", "broker-tls", "broker-resume", *TLS_PEERS],
        "own": "broker-tls",
        "quick": False,
        "targets": [
            {"metric": "cpu_us_per_comer", "of": "broker-tls", "minus": "broker", "most": 350},
            {"metric": "cpu_us_per_comer", "of": "broker-resume", "minus": "broker", "most": 270},
        ],
    },
    {
        "name": "idle-tls",
        "what": "2,000 subscribers over TLS that nothing is published to",
        "bytes": 128,
        "args": ["--topics", 0, "--idle", 2000],
        "contenders": ["broker-tls", *TLS_PEERS],
        "own": "broker-tls",
        "quick": False,
        "targets": [{"metric": "idle_bytes_per_connection", "of": "broker-tls", "most": 17 << 10}],
    },
    {
        "name": "idle",
        "what": "10,000 subscribers that nothing is published to",
        "bytes": 128,
        "args": ["--topics", 0, "--idle", 10000],
        "contenders": ["broker", "epoll", "redis", "nats", "tokio", "mosquitto", "nchan"],
        "targets": [
            {"metric": "idle_bytes_per_connection", "most": 512},
            {"metric": "broker_cpu_s", "most": 0.001},
        ],
    },
]

CURVE_CONTENDERS = ["broker", "epoll", "redis"]


def point(name, x, topics, subscribers, contenders=None, **how):
    return {**scenario(name, topics, subscribers, 128, **how), "x": x, "contenders": contenders or CURVE_CONTENDERS}


# Curves: CPU per delivered message by subscribers; latency and coalescing by load; what a pace costs and saves by load;
# throughput by reactors.
SWEEPS = {
    "subscribers": [point(f"fan{n}", n, 1, n, window=64) for n in (10, 30, 100, 300, 1000, 3000, 10000)],
    "load": [point(f"rate{n}", n, 10, 50, rate=n) for n in (10, 30, 100, 300, 600, 1000, 2000)],
    "pace": [
        point(f"each{n}", n, 1, 100, contenders=["broker", "broker-pace0", "redis"], rate=n)
        for n in (300, 1000, 2000, 3000, 4000, 6000)
    ],
    "reactors": [
        point(f"reactors{n}", n, 50, 20, contenders=[f"broker-{n}r"], window=16) for n in REACTORS
    ],
}
