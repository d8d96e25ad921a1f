"""Which checkpoints are complete. A marker that lists the files is written last; folders without it are ignored."""

import json
import shutil
from pathlib import Path

from trimtab.common.errors import UserError

MARKER = "complete"


class CheckpointError(UserError):
    """A checkpoint that cannot be resumed from."""


def mark_complete(folder: Path) -> None:
    """Mark the checkpoint as complete: these files, with their sizes in bytes."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != MARKER]
    part = folder / f"{MARKER}.part"
    part.write_text(json.dumps({path.relative_to(folder).as_posix(): path.stat().st_size for path in files}, indent=0))
    part.replace(folder / MARKER)


def step_of(folder: Path) -> int:
    """The update after which the checkpoint was written."""
    return int(folder.name.removeprefix("checkpoint-"))


def fault(folder: Path) -> str | None:
    """The first file of a marked checkpoint that is missing or torn, in words; None if there is none, or the marker is
    an earlier version's, which is empty."""
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
    """The faults of marked checkpoints under `folder`, newest first."""
    found = {path: fault(path) for path in sorted(_marked(folder), key=step_of, reverse=True)}
    return {path: reason for path, reason in found.items() if reason is not None}


def last_complete(folder: Path) -> Path | None:
    """The newest complete checkpoint under `folder`, or None."""
    return max(_marked(folder) - faults(folder).keys(), key=step_of, default=None)


def check(folder: Path) -> None:
    """Raise a CheckpointError, with the fault of the newest one, if there are checkpoints and none is complete."""
    found = faults(folder)
    if found and last_complete(folder) is None:
        path, reason = next(iter(found.items()))
        raise CheckpointError(
            f"{path} cannot be resumed from: {reason}, and no other checkpoint is complete; restore the file, or "
            f"delete {folder} to start again at step 0 with --resume"
        )


def passed_over(folder: Path, chosen: Path) -> str | None:
    """Why a run resumes from `chosen` and not from a newer checkpoint; None if there is no newer one."""
    found = [(path, reason) for path, reason in faults(folder).items() if step_of(path) > step_of(chosen)]
    newer = [f"{path.name} is not complete ({reason})" for path, reason in found]
    return f"{', '.join(newer)}, so the run resumes from {chosen.name}" if newer else None


def remove_incomplete(folder: Path) -> list[Path]:
    """Delete leftovers of killed saves and incomplete checkpoints; returns what was deleted."""
    torn = [path for path in folder.glob("checkpoint-*") if not (path / MARKER).exists()]
    torn += faults(folder)
    for path in torn:
        shutil.rmtree(path)
    return torn


def any_marked(folder: Path) -> bool:
    """Whether a checkpoint under `folder` was completed once."""
    return bool(_marked(folder))


def _marked(folder: Path) -> set[Path]:
    return {path.parent for path in folder.glob(f"checkpoint-*/{MARKER}")}
