"""The run folder: fresh, resumed or finished; and what is kept when a run fails."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import yaml

from trimtab import __version__, methods
from trimtab.common import failures, processes, user_code, workdir
from trimtab.common.disk import FULL, reason
from trimtab.common.errors import Interrupted, UserError
from trimtab.common.locks import holder
from trimtab.runs import longer
from trimtab.runs.recipe import Recipe, dump
from trimtab.runs.run_folder import RunError, is_new
from trimtab.train import checkpoints
from trimtab.train.events import EventLog


def alone(folder: Path) -> AbstractContextManager:
    return workdir.Workdir(folder, "train", option="another output=FOLDER").lock(RunError)


def check_folder(folder: Path, recipe: Recipe, resume: bool) -> dict[str, Any] | str | None:
    """None for a fresh start, the stored recipe for a resume, "finished" where nothing is left to do.

    Raises:
        RunError: where the folder holds something else, or a run that the user may not want to lose.
    """
    if processes.rank() != 0 and not resume:  # the main process looks, and may have begun to write already
        return None
    if is_new(folder, resume):
        return None
    stored = stored_recipe(folder / "recipe.yaml")
    asked = yaml.safe_load(dump(recipe))
    different = differences(stored, asked)
    is_longer = recipe.minutes is None and longer.only_longer({key for key, _, _ in different})
    if is_longer and resume:
        stored["training"] = longer.with_lengths(stored["training"], asked["training"])
        stored["is_longer"] = True
    elif different:
        key, was, now = different[0]
        raise RunError(
            f"{folder} holds a run of another recipe ({key} is {was} there and {now} here"
            f"{f', and {len(different) - 1} more differ' if len(different) > 1 else ''}); choose another output=FOLDER"
            f"{', or add --resume to train it further' if is_longer else ''}"
        )
    if not is_longer and is_finished(folder):
        if resume:
            return "finished"
        raise RunError(f"{folder} holds this run, finished; see {folder}/report.html or choose another output=FOLDER")
    if not resume:
        if (now := holder(folder)) is not None:
            raise RunError(f"{folder} {now}; wait for it, or choose another output=FOLDER")
        raise RunError(f"{folder} holds this run, unfinished; add --resume to continue or choose another output=FOLDER")
    checkpoints.check(folder / "checkpoints")
    if not (folder / "signature.txt").is_file():
        raise RunError(
            f"{folder}/signature.txt is missing, by which models and rows are held against those that the run began "
            "with; put it back, or start anew with output=FOLDER"
        )
    return stored


def is_finished(folder: Path) -> bool:
    """Whether the run has ended, and nothing has gone on with it since."""
    ends = [event["event"] for event in EventLog(folder).events() if event["event"] in ("finished", "resume")]
    return ends[-1:] == ["finished"] and (folder / "report.html").exists()


def stored_recipe(path: Path) -> dict[str, Any]:
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is no recipe of a run; choose another output=FOLDER") from error
    if not isinstance(stored, dict) or not {"method", "models", "data", "training"} <= stored.keys():
        raise RunError(f"{path} is no recipe of a run; choose another output=FOLDER")
    stored["options"] = _with_later_options(stored)
    return stored


def _with_later_options(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a recipe that an earlier version stored, with those that the method has got since then at their
    defaults."""
    options = stored.get("options") or {}
    try:
        return {**methods.load(stored["method"]).config().model_dump(), **options}
    except methods.UnknownMethod:  # the recipe that is held against it is of another
        return options


CODE = ("reward", "code")
"""Lines that tell the files of a user's code; what is rewarded was compared with the recipe."""


def check_signature(folder: Path, signature: Mapping[str, str], edited: bool) -> str:
    """A resume goes on with the same models, tokenizer and rows, or not at all; where code was `edited`, if asked.

    Returns:
        What was edited, in words.

    Raises:
        RunError: naming the first line that differs.
    """
    stored = workdir.read_signature(folder) or {}
    for key, now in signature.items():
        if key in workdir.LOOSE | {"options"} or stored.get(key) == now:  # options were compared with the recipe
            continue
        if key in CODE and signature.get("code", "") != stored.get("code", ""):
            continue
        was = f"{key} was {stored.get(key)} and is {now}"
        raise RunError(f"{folder} cannot be resumed: {was}; put back what has changed or start anew with output=FOLDER")
    before, now = stored.get("code", ""), signature.get("code", "")
    if before == now:
        return ""
    said = f"of its code {user_code.changes(before, now)}"
    if stored.get("trimtab") != __version__:
        said += f" (trimtab was {stored.get('trimtab')} and is {__version__})"
    if not edited:
        raise RunError(
            f"{folder} cannot be resumed: {said}; put it back, add --edited to go on with the code as it is now, or "
            "start anew with output=FOLDER"
        )
    return f"gone on with by other code than it was begun with: {said}"


def different_lines(
    folder: Path, signature: Mapping[str, str], read: Callable[[str, str], str]
) -> list[tuple[str, str, str]]:
    """Lines of a stored signature that are others in this one, beside those of the environment.

    Args:
        read: (key, value) of a stored line -> what is compared of it.
    """
    found = {key: read(key, value) for key, value in (workdir.read_signature(folder) or {}).items()}
    keys = {**found, **signature}.keys() - workdir.LOOSE - {"options", "command"}  # which were compared with the recipe
    lines = [(key, found.get(key, "none"), signature.get(key, "none")) for key in sorted(keys)]
    return [line for line in lines if line[1] != line[2]]


def differences(stored: dict[str, Any], asked: dict[str, Any]) -> list[tuple[str, str, str]]:
    """In what two recipes differ that makes another run: key, value there, value here."""
    return sorted(_differences(_comparable(stored), _comparable(asked)))


def _comparable(recipe: dict[str, Any]) -> dict[str, Any]:
    """Without what changes nothing, and the number of steps where the machine's speed chose it."""
    training = dict(recipe["training"])
    if recipe.get("minutes") is not None:
        training.pop("max_steps", None)
    data = {key: value for key, value in recipe["data"].items() if key != "workers"}
    return {**recipe, "training": training, "data": data, "output": None}


def _differences(one: Any, other: Any, at: str = "") -> list[tuple[str, str, str]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        found = []
        for key in {**one, **other}:
            found += _differences(one.get(key), other.get(key), f"{at}.{key}" if at else str(key))
        return found
    return [] if one == other else [(at, str(one), str(other))]


@contextmanager
def telling_what_is_kept(folder: Path) -> Iterator[None]:
    """What fails in the machine, in a library or a tracker is told with what is kept; a mistake of the code stays what
    it is, with a note of that.

    Raises:
        RunError: in place of the first.
    """
    try:
        yield
    except (UserError, Interrupted):  # says itself what is wrong
        raise
    except OSError as failed:
        if isinstance(failed, ConnectionError) and failed.filename is None:  # no disk
            raise RunError(f"{folder}: {reason(failed, folder)}; {_how_on(folder)}") from failed
        room = "make room" if failed.errno in FULL else "mend that"
        raise RunError(f"{folder}: {reason(failed, folder)}; {_how_on(folder, room)}") from failed
    except Exception as failed:
        said = failures.said(failed)
        if said is None:
            failed.add_note(f"{folder}: {_how_on(folder, 'have that mended')}")
            raise
        what, room, _ = said.partition("; make room")
        raise RunError(f"{folder}: {what}; {_how_on(folder, 'make room' if room else 'mend that')}") from failed


def _how_on(folder: Path, then: str = "mend that") -> str:
    """What of a run is kept, and how it goes on."""
    if not (folder / "recipe.yaml").is_file():
        return "there is nothing of this run to resume: start anew"
    last = checkpoints.last_complete(folder / "checkpoints")
    kept = "no checkpoint is written yet" if last is None else f"the checkpoint of step {checkpoints.step_of(last)}"
    return f"kept: {kept}; {then}, and continue with --resume"


def take_away(folder: Path) -> None:
    """A folder in which nothing was begun is no run folder."""
    for empty in (folder / "checkpoints", folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def write_signature(folder: Path, signature: Mapping[str, str]) -> None:
    workdir.write_signature(folder, "train", signature)
