"""The run folder: new, resumed or finished, decided before torch is imported; and what a failed run keeps."""

import shlex
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import yaml

from trimtab import __version__, methods
from trimtab.common import processes, user_code
from trimtab.common.count import count
from trimtab.common.disk import TRIED, reason
from trimtab.common.errors import UserError
from trimtab.common.locks import holder, lock_path
from trimtab.common.workdir import RECIPE, SIGNATURE, Workdir, differences, different, read_signature
from trimtab.runs.recipe import Recipe, dump
from trimtab.train import checkpoints

ANOTHER = "choose another output=FOLDER"
LENGTHS = frozenset({"training.max_steps", "training.num_train_epochs"})
"""recipe keys for the length of training"""


class RunError(UserError):
    """A run folder that cannot be used for this run, or a run that fails."""


def workdir(folder: Path) -> Workdir:
    names = ("metrics.jsonl", "samples.jsonl", "checkpoints")
    return Workdir(folder, "train", names, option="another output=FOLDER", error=RunError)


def is_new(folder: Path, resume: bool) -> bool:
    """Whether the folder is free for a new run; False if it holds one. A run without a checkpoint has nothing to
    resume: it makes room for a new one.

    Raises:
        RunError: for a folder that holds something else, cannot be written, or holds nothing to resume.
    """
    if not _holds_something(folder):
        if resume:
            raise RunError(f"there is no run in {folder} to resume; leave out --resume")
        workdir(folder).check()
        return True
    if (folder / RECIPE).is_file():
        return stopped_early(folder)
    if folder.is_dir():
        if _was_barely_begun(folder):
            return True
        workdir(folder).check()  # says whose it is
    raise RunError(f"{folder} exists and is not a run folder; {ANOTHER}")


def _holds_something(folder: Path) -> bool:
    """Whether it exists and is not empty; checked once, as another process may create or remove it meanwhile.

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
    """Its contents, besides the lock and the probes of `check_writable`."""
    names = {path.name for path in folder.iterdir()} - {lock_path(folder).name}
    return {name for name in names if not name.startswith(TRIED)}


def _was_barely_begun(folder: Path) -> bool:
    """A run that was killed before its recipe was written; it holds nothing worth keeping."""
    ours = {"signature.txt", "signature.txt.part", "recipe.yaml.part", "metrics.jsonl", "checkpoints"}
    names = _names(folder)
    return "checkpoints" in names and names <= ours and not list((folder / "checkpoints").iterdir())


def stopped_early(folder: Path) -> bool:
    """Whether it holds a run that stopped before its first checkpoint."""
    ours = (folder / RECIPE).is_file() and (read_signature(folder) or {}).get("command") == "train"
    made = any((folder / name).exists() for name in ("model", "adapter"))
    return ours and not made and not checkpoints.any_marked(folder / "checkpoints")


def check_folder(folder: Path, recipe: Recipe, resume: bool) -> dict[str, Any] | str | None:
    """None for a new run, the stored recipe for a resume, "finished" if nothing is left to do.

    Raises:
        RunError: where the folder holds something else, or a run that the user may not want to lose.
    """
    if processes.rank() != 0 and not resume:  # the main process looks, and may have begun to write already
        return None
    if is_new(folder, resume):
        return None
    stored = stored_recipe(folder / RECIPE)
    asked = yaml.safe_load(dump(recipe))
    if resume:
        stored["training"] = moved(folder, stored["training"], asked["training"])
    different = other_keys(stored, asked)
    is_longer = recipe.minutes is None and bool(different) and LENGTHS.issuperset(key for key, _, _ in different)
    if is_longer and resume:
        lengths = {key.partition(".")[2] for key in LENGTHS}
        kept = {key: value for key, value in stored["training"].items() if key not in lengths}
        now = {key: value for key, value in asked["training"].items() if key in lengths}
        stored |= {"training": {**kept, **now}, "as_it_was": repeated(folder, different)}
    elif different:
        key, was, now = different[0]
        more = f", and {len(different) - 1} more {'differs' if len(different) == 2 else 'differ'}"
        finished = is_finished(folder)
        ways = [] if finished else [repeated(folder, different)]
        ways += [ANOTHER, *(["add --resume to train it further"] if is_longer and finished else [])]
        raise RunError(
            f"{folder} holds a run of another recipe ({key} is {was} there and {now} here"
            f"{more if len(different) > 1 else ''}); {', or '.join(ways)}"
        )
    if not is_longer and is_finished(folder):
        if resume:
            return "finished"
        raise RunError(f"{folder} holds this run, finished; see {folder}/report.html or {ANOTHER}")
    if not resume:
        if (now := holder(folder)) is not None:
            raise RunError(f"{folder} {now}; wait for it, or {ANOTHER}")
        raise RunError(f"{folder} holds this run, unfinished; add --resume to continue or {ANOTHER}")
    checkpoints.check(folder / "checkpoints")
    if not (folder / SIGNATURE).is_file():
        raise RunError(
            f"{folder}/{SIGNATURE} is missing, which is needed to check that models and rows are those of the run; "
            "restore it, or start over with output=FOLDER"
        )
    return stored


BATCH = ("per_device_train_batch_size", "gradient_accumulation_steps")
"""arguments that may change with the number of processes"""


def moved(folder: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments with which a run goes on in another number of processes, with the same rows in each update.

    Args:
        stored, asked: `training` of its recipe as it was and as it is now.

    Returns:
        `training` as it was, in another number of processes with its `BATCH` as asked now.

    Raises:
        RunError: where an update, or a batch of rollouts, would have another number of rows.
    """
    was, now = started_in(folder), processes.launched()
    if was == now:
        return dict(stored)
    before, after = (rows_of_update(training, number) for training, number in ((stored, was), (asked, now)))
    if before != after:
        raise RunError(
            f"{folder} was started in {count(was, 'process', 'processes')} with {before} rows an update, and "
            f"{now} would take {after}; give training.per_device_train_batch_size and gradient_accumulation_steps "
            f"whose product with the number of processes is {before}"
        )
    rows = [training.get(BATCH[0], 8) * number for training, number in ((stored, was), (asked, now))]
    if "steps_per_generation" in asked and rows[0] != rows[1]:  # else it is as many micro-batches as an update has
        raise RunError(
            f"{folder} was started in {count(was, 'process', 'processes')}, and with training.steps_per_generation a "
            f"batch of rollouts would have another size in {now}; give a training.per_device_train_batch_size whose "
            f"product with the number of processes is {rows[0]}"
        )
    kept = {key: value for key, value in stored.items() if key not in BATCH}
    return kept | {key: asked[key] for key in BATCH if key in asked}


def note_of_move(folder: Path) -> str:
    """What to say of a run that goes on in another number of processes; empty in the same."""
    was, now = started_in(folder), processes.launched()
    return "" if was == now else f"resumed in {count(now, 'process', 'processes')}; before it was trained in {was}"


def started_in(folder: Path) -> int:
    """The number of processes that a run was last trained in."""
    return processes.number_in((read_signature(folder) or {}).get("processes", ""))


def rows_of_update(training: Mapping[str, Any], number: int) -> int:
    """How many rows an update takes, in so many processes."""
    return training.get(BATCH[0], 8) * training.get(BATCH[1], 1) * number


def is_finished(folder: Path) -> bool:
    """Whether the run has finished and was not resumed since."""
    from trimtab.train.events import EventLog  # imports torch

    ends = [event["event"] for event in EventLog(folder).events() if event["event"] in ("finished", "resume")]
    return ends[-1:] == ["finished"] and (folder / "report.html").exists()


def stored_recipe(path: Path) -> dict[str, Any]:
    """The recipe of a run, with defaults for options added since an earlier version stored it.

    Raises:
        RunError: for a file that is none.
    """
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError):
        stored = None
    if not isinstance(stored, dict) or not {"method", "models", "data", "training"} <= stored.keys():
        raise RunError(f"{path} is not the recipe of a run; {ANOTHER}")
    options = stored.get("options") or {}
    try:
        stored["options"] = {**methods.load(stored["method"]).config().model_dump(), **options}
    except methods.UnknownMethod:  # the recipe that it is compared with has another method
        stored["options"] = options
    return stored


def other_lines(
    folder: Path,
    signature: Mapping[str, str],
    loose: Collection[str] = (),
    read: Callable[[str, str], str] = lambda key, value: value,
) -> list[tuple[str, str | None, str | None]]:
    """Lines of a run's signature that differ now; options are compared with the recipe.

    Args:
        loose: lines that may differ.
        read: (key, value) of a line -> what is compared of it.
    """
    before, now = (
        {key: read(key, value) for key, value in lines.items()} for lines in (read_signature(folder) or {}, signature)
    )
    return differences(before, now, {"options", *loose})


def check_signature(folder: Path, signature: Mapping[str, str], edited: bool) -> str:
    """Check that a resume has the same models, tokenizer and rows, and the same code unless `edited` is accepted.

    Returns:
        What was edited, in words.

    Raises:
        RunError: naming the first line that differs.
    """
    stored = read_signature(folder) or {}
    before, now = stored.get("code", ""), signature.get("code", "")
    code = ("code", "reward") if before != now else ()  # lines that tell the files of a user's code
    for key, was, is_now in other_lines(folder, signature, {*code, "processes"}):  # see `moved`
        said = f"it was started with {different(key, was, is_now)}"
        raise RunError(f"{folder} cannot be resumed: {said}; restore what has changed or start over with output=FOLDER")
    if not code:
        return ""
    said = f"its code has changed: {user_code.changes(before, now)}"
    if stored.get("trimtab") != __version__:
        said += f" (trimtab was {stored.get('trimtab')} and is {__version__})"
    if not edited:
        raise RunError(
            f"{folder} cannot be resumed: {said}; restore it, add --edited to resume with the code as it is now, or "
            "start over with output=FOLDER"
        )
    return f"resumed with code that was edited since it started; {said}"


def other_keys(stored: dict[str, Any], asked: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The differences between two recipes that make them different runs: key, value there, value here."""
    return sorted(_other_keys(_comparable(stored), _comparable(asked)))


def repeated(folder: Path, different: Collection[tuple[str, str, str]]) -> str:
    """How to resume an unfinished run that differs from what was asked now."""
    if len(different) <= LISTED and all(was != UNSET for _, was, _ in different):
        return f"to resume it, repeat {shlex.join(f'{key}={was}' for key, was, _ in different)} with --resume"
    return f"to resume it: trimtab train {shlex.quote(f'{folder}/{RECIPE}')} --resume"


LISTED = 3
"""most keys of a recipe that a message names"""
UNSET = "not set"


def _comparable(recipe: dict[str, Any]) -> dict[str, Any]:
    """Without keys that change nothing, and without the number of steps if the machine's speed chose it."""
    training = dict(recipe["training"])
    if recipe.get("minutes") is not None:
        training.pop("max_steps", None)
    data = {key: value for key, value in recipe["data"].items() if key != "workers"}
    return {**recipe, "training": training, "data": data, "output": None}


def _other_keys(one: Any, other: Any, at: str = "") -> list[tuple[str, str, str]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        keys = {**one, **other}
        return [d for key in keys for d in _other_keys(one.get(key), other.get(key), f"{at}.{key}" if at else str(key))]
    was, now = (UNSET if value is None else str(value) for value in (one, other))
    return [] if one == other else [(at, was, now)]


def kept(recipe: Recipe, first: str) -> str:
    """What is kept of a run, what to do first, and the command that goes on."""
    folder = Path(recipe.output)
    first = f"{first}, and " if first else ""
    found = [checkpoints.last_complete(folder / "checkpoints"), folder / "model"] if (folder / RECIPE).is_file() else []
    last = next((path for path in found if path is not None and path.exists()), None)
    if last is None:
        command = recipe.command(resume=False)
        return f"there is nothing to resume in {folder}: {first}start over{command and f' with: {command}'}"
    return f"kept: {last}; {first}continue with: {recipe.command()}"
