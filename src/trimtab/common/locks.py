"""Locks: one writer at a time for a folder or a file."""

import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from trimtab.common import processes
from trimtab.common.disk import made, reason
from trimtab.common.errors import UserError

PATIENCE = 10.0
"""seconds for the children of a killed process to exit"""
WITHOUT = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
"""errno values of file systems without locks"""


class Busy(UserError):
    """Another process is writing there."""


def lock_path(place: Path) -> Path:
    """FOLDER/.lock, or .FILE.lock next to a file."""
    return place / ".lock" if place.is_dir() else place.with_name(f".{place.name}.lock")


@contextmanager
def writing(place: Path, who: str, way_out: str, error: type[UserError] = Busy) -> Iterator[None]:
    """Hold the lock, so that no other process writes there; of the processes of one launch only the main one takes it.

    Args:
        place: an existing folder, or a file that need not exist.
        who, way_out: for the message if another process holds it: "another run".
    """
    if processes.rank() != 0:
        yield
        return
    path = lock_path(place)
    lock = FileLock(path)
    with ExitStack() as held:
        try:
            held.enter_context(made(place.parent))
            locked = _locked(lock, path, place)
        except Timeout:
            raise error(f"{place} is being written by {who}{_holder(path)}; {way_out}") from None
        except OSError as failed:
            raise error(f"{place} cannot be written: {reason(failed, path)}; {way_out}") from None
        if locked:
            held.callback(lock.release)
            held.callback(path.unlink, missing_ok=True)  # before it is released: later it may be another's
        yield


def _locked(lock: FileLock, path: Path, place: Path) -> bool:
    try:
        _take(lock, path)
    except OSError as failed:
        if isinstance(failed, Timeout) or failed.errno not in WITHOUT:
            raise
        print(f"{place}: the file system does not support locks; do not start a second command on it", file=sys.stderr)
        return False
    if not isinstance(lock, SoftFileLock):
        path.write_text(f"{os.getpid()}\n{platform.node()}\n", encoding="utf-8")
    return True


def holder(place: Path) -> str | None:
    """The other process that writes there, in words; None if there is none."""
    path = lock_path(place)
    if not path.exists() or _owner(path) == (os.getpid(), platform.node()):
        return None
    lock = FileLock(path)
    try:
        _take(lock, path)
    except Timeout:
        return f"is being written by another process{_holder(path)}"
    except OSError:
        return None
    path.unlink(missing_ok=True)
    lock.release()
    return None


def _take(lock: FileLock, path: Path) -> None:
    """Take the lock, at once unless its holder has died and only its children still hold it."""
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not _is_gone(path):
            raise
        lock.acquire(timeout=PATIENCE, poll_interval=0.2)


def _owner(path: Path) -> tuple[int, str] | None:
    """Process id and host, if recorded in the lock."""
    try:
        process, host, *_ = path.read_text(encoding="utf-8").split("\n")
        return int(process), host
    except (OSError, ValueError):
        return None


def _is_gone(path: Path) -> bool:
    owner = _owner(path)
    if owner is None or owner[1] != platform.node() or os.name == "nt":  # there, 0 is a signal
        return False
    try:
        os.kill(owner[0], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def _holder(path: Path) -> str:
    owner = _owner(path)
    return "" if owner is None else f" (process {owner[0]} on {owner[1]})"
