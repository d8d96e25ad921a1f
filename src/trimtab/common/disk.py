"""Check that places are writable, and turn disk errors into messages that name them."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trimtab.common import processes
from trimtab.common.errors import UserError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
"""errno values of a full disk"""
TRIED = ".trimtab-tries-"
"""Prefix of the files that probe whether a place is writable."""


def reason(failed: OSError, place: Path | None = None) -> str:
    """What went wrong, in words, with the path unless it is `place`."""
    said = (failed.strerror or str(failed)).strip().partition("\n")[0]
    said = said[:1].lower() + said[1:]
    named = failed.filename if isinstance(failed.filename, (str, Path)) else None
    return said if named is None or Path(named) == place else f"{said} ({named})"


@contextmanager
def made(folder: Path) -> Iterator[None]:
    """Within, the folder exists; new folders that are left empty are removed."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for one in missing:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


def check_writable(folder: Path, error: type[UserError], way_out: str, shown: Path | None = None) -> None:
    """Check that the folder, which need not exist, is writable; `shown` is what the error names instead of it."""
    if processes.rank() != 0:
        return
    try:
        with made(folder), tempfile.TemporaryFile(dir=folder, prefix=TRIED) as file:
            file.write(b"trimtab")
    except OSError as failed:
        raise error(f"{shown or folder} cannot be written: {reason(failed, folder)}; {way_out}") from None


@contextmanager
def writing_to(path: Path) -> Iterator[None]:
    """Turn disk errors in this context into OSErrors that name a path.

    torch and safetensors raise their own errors for them, and a failed write names no file.
    """
    from safetensors import SafetensorError

    try:
        yield
    except OSError as failed:
        if failed.filename is None and failed.errno is not None:
            failed.filename = str(path)
        raise
    except (RuntimeError, SafetensorError) as failed:
        said = str(failed).strip().partition("\n")[0]
        if not any(word in said for word in WRITING):
            raise
        full = not any(word in said for word in ("directory", "os error")) or any(word in said for word in NO_ROOM)
        number = next((number for number in FULL if f"os error {number}" in said), None)
        if number is None and full and _no_room(path):
            number = errno.ENOSPC
        said = said if number is None else os.strerror(number)
        raise OSError(number or (errno.ENOSPC if full else errno.EIO), said, str(path)) from failed


def _no_room(path: Path) -> bool:
    there = next(one for one in (path, *path.absolute().parents) if one.exists())
    return shutil.disk_usage(there).free < LITTLE


LITTLE = 1 << 24
"""bytes that may be left after a write failed on a full disk"""
WRITING = ("os error", "I/O error", "PytorchStreamWriter", "inline_container", "unexpected pos", "Parent directory")
"""Phrases in torch's and safetensors' errors of failed writes."""
NO_ROOM = tuple(f"os error {number}" for number in FULL)
