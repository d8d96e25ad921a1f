"""Which checkpoints are whole. A marker is written last; a folder without it is ignored."""

import shutil
from pathlib import Path

MARKER = "complete"


def mark_complete(folder: Path) -> None:
    """Say that everything in the checkpoint was written."""
    (folder / MARKER).touch()


def step_of(folder: Path) -> int:
    """The update after which the checkpoint was written."""
    return int(folder.name.removeprefix("checkpoint-"))


def last_complete(folder: Path) -> Path | None:
    """The newest whole checkpoint under `folder`, or None."""
    whole = [path.parent for path in folder.glob(f"checkpoint-*/{MARKER}")]
    return max(whole, key=step_of, default=None)


def remove_incomplete(folder: Path) -> list[Path]:
    """Delete what a killed save left behind; returns what was deleted."""
    torn = [path for path in folder.glob("checkpoint-*") if not (path / MARKER).exists()]
    for path in torn:
        shutil.rmtree(path)
    return torn
