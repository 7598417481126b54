"""System call filters around the whole broker, by libseccomp."""

import ctypes
import errno

REFUSE = 0x00050000 | errno.EPERM
ALLOW = 0x7FFF0000

lib = ctypes.CDLL("libseccomp.so.2")
lib.seccomp_init.restype = ctypes.c_void_p
lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]
lib.seccomp_load.argtypes = [ctypes.c_void_p]


def number(name):
    """-1: never heard of; below that: known, but not on this architecture."""
    return lib.seccomp_syscall_resolve_name(name.encode())


def under(names):
    """For preexec: a filter that allows these and refuses all others, as container runtimes and systemd make them."""
    context = lib.seccomp_init(REFUSE)
    for name in names:
        if number(name) >= 0:
            assert lib.seccomp_rule_add_array(context, ALLOW, number(name), 0, None) == 0, name

    def enter():
        if lib.seccomp_load(context):
            raise OSError("seccomp_load")

    return enter
