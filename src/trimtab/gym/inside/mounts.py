"""A root of its own for a process in a mount namespace: what bubblewrap does, where there is none."""

import ctypes
import fcntl
import os
import socket
import struct

READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
DETACH = 2
MOUNT_SETATTR, AT_RECURSIVE, PIVOT_ROOT = 442, 0x8000, {"x86_64": 155, "aarch64": 41}
DEVICES = ("null", "zero", "full", "random", "urandom")
LINKS = {"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}

_libc = ctypes.CDLL(None, use_errno=True)


def enter(plan: list[list[str]], root: str) -> None:
    """Make the places of the plan the whole file system of this process.

    Args:
        plan: steps, as `sandbox.Sandbox.plan` makes them.
        root: an empty folder to build it in.
    """
    os.umask(0o022)
    _mount(None, "/", None, RECURSIVE | PRIVATE)
    _mount("tmpfs", root, "tmpfs", NO_SUID | NO_DEVICES, "size=4m,mode=755")
    for kind, *words in plan:
        _STEPS[kind](root, *words)
    for place in ("/dev", "/"):
        _attributes(root + place, READ_ONLY, how=0)
    os.chdir(root)
    _checked(_libc.syscall(PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
    _checked(_libc.umount2(b".", DETACH), "umount2")
    os.chdir("/")


def raise_loopback() -> None:
    set_flags, up = 0x8914, 0x1
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sH14x", b"lo", up))


def _bind(root: str, source: str, target: str, writable: bool = False) -> None:
    place = root + target
    if os.path.isdir(source):  # noqa: PTH112
        os.makedirs(place, exist_ok=True)  # noqa: PTH103
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY))
    _mount(source, place, None, BIND | RECURSIVE)
    _attributes(place, NO_SUID | (0 if writable else READ_ONLY))


def _writable(root: str, source: str, target: str) -> None:
    _bind(root, source, target, writable=True)


def _tmpfs(root: str, target: str, size: str) -> None:
    os.makedirs(root + target, exist_ok=True)  # noqa: PTH103
    _mount("tmpfs", root + target, "tmpfs", NO_SUID | NO_DEVICES, f"size={size},mode=1777")


def _mask(root: str, target: str) -> None:
    _mount("tmpfs", root + target, "tmpfs", NO_SUID | NO_DEVICES | READ_ONLY, "size=4k,mode=755")


def _link(root: str, text: str, target: str) -> None:
    os.symlink(text, root + target)  # noqa: PTH211


def _proc(root: str) -> None:
    os.makedirs(root + "/proc", exist_ok=True)  # noqa: PTH103
    _mount("proc", root + "/proc", "proc", NO_SUID | NO_DEVICES)


def _dev(root: str) -> None:
    os.makedirs(root + "/dev", exist_ok=True)  # noqa: PTH103
    _mount("tmpfs", root + "/dev", "tmpfs", NO_SUID, "size=64k,mode=755")
    for name in DEVICES:
        os.close(os.open(f"{root}/dev/{name}", os.O_CREAT | os.O_WRONLY))
        _mount(f"/dev/{name}", f"{root}/dev/{name}", None, BIND)
    for name, text in LINKS.items():
        os.symlink(text, f"{root}/dev/{name}")  # noqa: PTH211


def _folder(root: str, target: str) -> None:
    os.makedirs(root + target, exist_ok=True)  # noqa: PTH103


_STEPS = {
    "folder": _folder,
    "read": _bind,
    "write": _writable,
    "tmpfs": _tmpfs,
    "mask": _mask,
    "link": _link,
    "proc": _proc,
    "dev": _dev,
}


def _attributes(place: str, set_: int, how: int = AT_RECURSIVE) -> None:
    """Set attributes of a mount and, with AT_RECURSIVE, of all beneath it (Linux 5.12)."""
    wanted = (ctypes.c_uint64 * 4)(set_, 0, 0, 0)
    found = _libc.syscall(MOUNT_SETATTR, -100, place.encode(), how, wanted, ctypes.sizeof(wanted))
    _checked(found, f"mount_setattr {place}")


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = (None if word is None else word.encode() for word in (source, target, kind))
    found = _libc.mount(*encoded, ctypes.c_ulong(flags), None if data is None else data.encode())
    _checked(found, f"mount {target}")


def _checked(found: int, what: str) -> None:
    if found != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
