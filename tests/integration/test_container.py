"""The container's seccomp profile: the broker works under it, and names the cause without io_uring in it."""

import ctypes
import json
import re
import signal

import pytest

from harness import DEFAULTS, ROOT, config_text, numbered, release_only, run

PROFILE = json.loads((ROOT / "deploy/container/seccomp.json").read_text())
ALLOWED = [name for rule in PROFILE["syscalls"] for name in rule["names"]]
ERRNO, ALLOW = 0x00050000, 0x7FFF0000


def under(names):
    """For preexec: a filter that allows these, as a runtime makes it from the profile."""
    lib = ctypes.CDLL("libseccomp.so.2")
    lib.seccomp_init.restype = ctypes.c_void_p
    lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
    lib.seccomp_load.argtypes = [ctypes.c_void_p]
    context = lib.seccomp_init(ERRNO | PROFILE["defaultErrnoRet"])
    for name in names:
        number = lib.seccomp_syscall_resolve_name(name.encode())
        assert number != -1, f"{name}: no such system call"
        # Negative: known, but not on this architecture.
        if number >= 0:
            assert lib.seccomp_rule_add_array(context, ALLOW, number, 0, None) == 0, name

    def enter():
        if lib.seccomp_load(context):
            raise OSError("seccomp_load")

    return enter


def test_the_profile_names_each_call_once_and_allows_by_name_only():
    assert PROFILE["defaultAction"] == "SCMP_ACT_ERRNO"
    assert len(ALLOWED) == len(set(ALLOWED))
    assert all(set(rule) == {"comment", "names", "action"} for rule in PROFILE["syscalls"])


@release_only
@pytest.mark.parametrize("sandbox", [True, False])
def test_traffic_reload_and_drain_work_under_the_profile(start, sandbox):
    broker = start(reactors=2, sandbox=sandbox, preexec=under(ALLOWED))
    subscribers = broker.subscribe_many(["t"] * 10)
    messages = numbered(b"m", 2000) + [b"x" * 500_000]
    broker.publish("t", *messages)
    assert all(s.take(len(messages)) == messages for s in subscribers)
    since = broker.log_size()
    broker.send_signal(signal.SIGHUP)
    broker.says("INFO.*reload.*in force", since)
    assert not sandbox or "sandbox: rings restricted, system calls filtered" in broker.log()
    broker.stop(dropped=0)


@release_only
def test_without_io_uring_in_it_the_cause_is_named(tmp_path):
    path = tmp_path / "broker.conf"
    path.write_text(config_text(**DEFAULTS))
    ended = run("-c", path, preexec=under([n for n in ALLOWED if "io_uring" not in n]))
    assert ended.returncode == 3
    assert "seccomp profile" in ended.stderr and "io_uring_register" in ended.stderr
    shown = (ROOT / "deploy/container/README.md").read_text()
    assert re.search("ERROR .*", ended.stderr).group() in shown, "the message that people see is in the documentation"
