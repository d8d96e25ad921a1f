"""Which checkpoints are whole. A marker that lists the files is written last; a folder without it is ignored."""

import json
import shutil
from pathlib import Path

from trimtab.common.errors import UserError

MARKER = "complete"


class CheckpointError(UserError):
    """A checkpoint that cannot be gone on from."""


def mark_complete(folder: Path) -> None:
    """Say that everything in the checkpoint was written: these files, of so many bytes each."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER]
    part = folder / f"{MARKER}.part"
    part.write_text(json.dumps({path.relative_to(folder).as_posix(): path.stat().st_size for path in files}, indent=0))
    part.replace(folder / MARKER)


def step_of(folder: Path) -> int:
    """The update after which the checkpoint was written."""
    return int(folder.name.removeprefix("checkpoint-"))


def fault(folder: Path) -> str | None:
    """The first file of a marked checkpoint that is not as it was written, in words; None if there is none.

    An empty marker is one of an earlier version, and lists nothing.
    """
    marker = folder / MARKER
    text = marker.read_text(encoding="utf-8", errors="replace")
    try:
        files = json.loads(text) if text else {}
    except json.JSONDecodeError:
        return f"{marker} is torn"
    for name, size in files.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != size:
            return f"{path} has {path.stat().st_size:,} bytes, and had {size:,} when it was written"
    return None


def faults(folder: Path) -> dict[Path, str]:
    """The marked checkpoints under `folder` that are not whole any more, newest first, and what is wrong with each."""
    found = {path: fault(path) for path in sorted(_marked(folder), key=step_of, reverse=True)}
    return {path: said for path, said in found.items() if said is not None}


def last_complete(folder: Path) -> Path | None:
    """The newest whole checkpoint under `folder`, or None."""
    return max(_marked(folder) - faults(folder).keys(), key=step_of, default=None)


def check(folder: Path) -> None:
    """Where checkpoints were written, one must be whole.

    Raises:
        CheckpointError: naming the file of the newest one.
    """
    wrong = faults(folder)
    if wrong and last_complete(folder) is None:
        path, said = next(iter(wrong.items()))
        raise CheckpointError(
            f"{path} cannot be gone on from: {said}, and no other checkpoint is whole; put the file back, or delete "
            f"{folder} to begin again at step 0 with --resume"
        )


def passed_over(folder: Path, chosen: Path) -> str | None:
    """Why a run goes on from `chosen` and from no newer checkpoint, in words; None where there is no newer one."""
    wrong = {path: said for path, said in faults(folder).items() if step_of(path) > step_of(chosen)}
    newer = [f"{path.name} is not whole ({said})" for path, said in wrong.items()]
    return f"{', '.join(newer)}, so the run goes on from {chosen.name}" if newer else None


def remove_incomplete(folder: Path) -> list[Path]:
    """Delete what a killed save left behind, and what is not whole any more; returns what was deleted."""
    torn = [path for path in folder.glob("checkpoint-*") if not (path / MARKER).exists()]
    torn += faults(folder)
    for path in torn:
        shutil.rmtree(path)
    return torn


def _marked(folder: Path) -> set[Path]:
    return {path.parent for path in folder.glob(f"checkpoint-*/{MARKER}")}
