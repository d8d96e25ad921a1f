"""A seccomp filter: system calls that no research needs, and that would weaken a sandbox."""

import ctypes
import errno
import os
import struct

NEW_NAMESPACES = 0x7E020000
"""all flags CLONE_NEW*: of user, mount, pid, network, ipc, uts and cgroup namespaces"""
FAMILIES = (1, 2, 10, 16)
"""sockets: unix, inet, inet6, netlink; a network namespace does not hold back others, such as vsock"""
MACHINES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""audit number of the architecture, and the column of the table"""

REFUSED = {
    # name: (x86_64, aarch64, errno)
    "ptrace": (101, 117, errno.EPERM),
    "process_vm_readv": (310, 270, errno.EPERM),
    "process_vm_writev": (311, 271, errno.EPERM),
    "mount": (165, 40, errno.EPERM),
    "umount2": (166, 39, errno.EPERM),
    "pivot_root": (155, 41, errno.EPERM),
    "chroot": (161, 51, errno.EPERM),
    "unshare": (272, 97, errno.EPERM),
    "setns": (308, 268, errno.EPERM),
    "open_tree": (428, 428, errno.EPERM),
    "move_mount": (429, 429, errno.EPERM),
    "fsopen": (430, 430, errno.EPERM),
    "mount_setattr": (442, 442, errno.EPERM),
    "open_by_handle_at": (304, 265, errno.EPERM),
    "add_key": (248, 217, errno.EPERM),  # key rings belong to no namespace
    "request_key": (249, 218, errno.EPERM),
    "keyctl": (250, 219, errno.EPERM),
    "bpf": (321, 280, errno.EPERM),
    "perf_event_open": (298, 241, errno.EPERM),
    "userfaultfd": (323, 282, errno.EPERM),
    "io_uring_setup": (425, 425, errno.ENOSYS),  # its requests are seen by no filter
    "io_uring_enter": (426, 426, errno.ENOSYS),
    "io_uring_register": (427, 427, errno.ENOSYS),
    "kexec_load": (246, 104, errno.EPERM),
    "init_module": (175, 105, errno.EPERM),
    "finit_module": (313, 273, errno.EPERM),
    "reboot": (169, 142, errno.EPERM),
    "swapon": (167, 224, errno.EPERM),
    "syslog": (103, 116, errno.EPERM),
    "settimeofday": (164, 170, errno.EPERM),
    "clock_settime": (227, 112, errno.EPERM),
    "adjtimex": (159, 171, errno.EPERM),
    "clock_adjtime": (305, 266, errno.EPERM),
    "memfd_create": (319, 279, errno.ENOSYS),  # memory that no process is seen to hold
    "memfd_secret": (447, 447, errno.ENOSYS),
    "shmget": (29, 194, errno.ENOSYS),
    "fallocate": (285, 47, errno.EOPNOTSUPP),  # a disk filled faster than anybody looks; libc writes zeros instead
    "clone3": (435, 435, errno.ENOSYS),  # its flags cannot be seen; libc uses clone instead
}
CLONE, SOCKET = (56, 220), (41, 198)

_LOAD, _JUMP_EQUAL, _JUMP_SET, _JUMP_OVER, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
"""offsets in the data that a filter sees"""
_X32 = 0x40000000


def program(machine: str) -> bytes:
    """The filter as classic BPF.

    Raises:
        KeyError: for a machine whose system calls are not known.
    """
    audit, column = MACHINES[machine]
    code = [
        _step(_LOAD, _ARCHITECTURE),
        _step(_JUMP_EQUAL, audit, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
        _step(_JUMP_OVER, _X32, 0, 1),
        _step(_RETURN, _ERRNO | errno.ENOSYS),
    ]
    for numbers in REFUSED.values():
        code += [_step(_JUMP_EQUAL, numbers[column], 0, 1), _step(_RETURN, _ERRNO | numbers[2])]
    code += [
        _step(_JUMP_EQUAL, CLONE[column], 0, 4),
        _step(_LOAD, _FIRST_ARGUMENT),
        _step(_JUMP_SET, NEW_NAMESPACES, 0, 1),
        _step(_RETURN, _ERRNO | errno.EPERM),
        _step(_RETURN, _ALLOW),
    ]
    families = [_step(_JUMP_EQUAL, family, len(FAMILIES) - place, 0) for place, family in enumerate(FAMILIES)]
    code += [
        _step(_JUMP_EQUAL, SOCKET[column], 0, len(FAMILIES) + 2),
        _step(_LOAD, _FIRST_ARGUMENT),
        *families,
        _step(_RETURN, _ERRNO | errno.EAFNOSUPPORT),
        _step(_RETURN, _ALLOW),
    ]
    return b"".join(code)


def install() -> None:
    """Put this process, and all that come from it, under the filter, without the means to gain rights.

    Raises:
        OSError: if the kernel refuses.
    """
    code = program(os.uname().machine)
    libc = ctypes.CDLL(None, use_errno=True)
    held = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HL", len(code) // 8, ctypes.addressof(held))
    set_no_new_privileges, set_seccomp, by_filter = 38, 22, 2
    for words in ((set_no_new_privileges, 1, 0, 0, 0), (set_seccomp, by_filter, described, 0, 0)):
        if libc.prctl(*words) != 0:
            raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


def _step(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, when_true, when_false, value)
