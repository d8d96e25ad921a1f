"""Whether a folder can take a run, told before anything heavy is imported."""

from pathlib import Path

from trimtab.common.disk import TRIED, check_writable, reason
from trimtab.common.errors import UserError
from trimtab.common.locks import lock_path
from trimtab.common.workdir import command_of

ANOTHER = "choose another output=FOLDER"


class RunError(UserError):
    """A run folder that cannot be used for this run."""


def is_new(folder: Path, resume: bool) -> bool:
    """Whether a run begins there; False where it holds one.

    Raises:
        RunError: for a folder that holds something else, cannot be written, or holds nothing to resume.
    """
    if not holds_something(folder):
        if resume:
            raise RunError(f"there is no run in {folder} to resume; leave out --resume")
        check_writable(folder, RunError, ANOTHER)
        return True
    if (folder / "recipe.yaml").is_file():
        return False
    if folder.is_dir() and was_barely_begun(folder):
        return True
    if (other := command_of(folder)) not in (None, "train"):
        raise RunError(f"{folder} holds what `trimtab {other}` wrote; choose another with output=FOLDER")
    raise RunError(f"{folder} exists and is no run folder; choose another with output=FOLDER")


def holds_something(folder: Path) -> bool:
    """Whether it is there and not empty; asked once, for another process may make it meanwhile, or take it away.

    Raises:
        RunError: for a name that no folder can have.
    """
    try:
        return bool(_names(folder))
    except (FileNotFoundError, NotADirectoryError) as failed:
        return not isinstance(failed, FileNotFoundError) and folder.exists()
    except OSError as failed:
        raise RunError(f"{folder} cannot be a run folder: {reason(failed, folder)}; {ANOTHER}") from None


def _names(folder: Path) -> set[str]:
    """What is in it, besides the lock and what `check_writable` tries."""
    names = {path.name for path in folder.iterdir()} - {lock_path(folder).name}
    return {name for name in names if not name.startswith(TRIED)}


def was_barely_begun(folder: Path) -> bool:
    """A run that was killed before its recipe was written; there is nothing in it to lose."""
    ours = {"signature.txt", "signature.txt.part", "recipe.yaml.part", "metrics.jsonl", "checkpoints"}
    names = _names(folder)
    return "checkpoints" in names and names <= ours and not list((folder / "checkpoints").iterdir())
