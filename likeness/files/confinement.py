"""What a process gives up before it looks at bytes that a hostile guest may have written."""

import ctypes
import os
import resource
import struct

_MAX_MEMORY = 2 << 30
_MAX_CPU_SECONDS = 6 * 3600
_NOBODY = 65534
_NEW_NETWORK = 0x40000000
_NO_NEW_PRIVILEGES = 38
_LANDLOCK_CREATE, _LANDLOCK_RESTRICT = 444, 446
_EVERY_FILE_RIGHT = (1 << 13) - 1  # of the first version of Landlock, which every later one knows


def confine() -> None:
    """Give up other files, the network, other accounts, and more memory than this takes.

    Call it when everything is imported: no file can be opened afterwards. The limits hold
    everywhere. The rest holds as far as the kernel and the account allow it.
    """
    for what, most in (
        (resource.RLIMIT_AS, _MAX_MEMORY),
        (resource.RLIMIT_CPU, _MAX_CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 16),
    ):
        hard = resource.getrlimit(what)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (most, most))
    libc = ctypes.CDLL(None, use_errno=True)
    if os.geteuid() == 0:
        libc.unshare(_NEW_NETWORK)
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
        resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0)
    _close_the_files(libc)


def _close_the_files(libc: ctypes.CDLL) -> None:
    """With Landlock and no exception: nothing can be opened, and no other process be traced."""
    rights = struct.pack("=Q", _EVERY_FILE_RIGHT)
    rules = libc.syscall(_LANDLOCK_CREATE, rights, ctypes.c_size_t(len(rights)), 0)
    if rules >= 0:
        libc.syscall(_LANDLOCK_RESTRICT, rules, 0)
        os.close(rules)
