"""Read a run folder. The files are append-only and may end in a torn line or hold steps that a resume replaced."""

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from trimtab.common.errors import UserError
from trimtab.common.processes import number_in

REQUIRED = ("recipe.yaml", "signature.txt", "metrics.jsonl")


class ReportError(UserError):
    """A folder that cannot be reported on: one line that names the place, the finding and how to fix it."""


@dataclass
class Run:
    """The contents of a run folder, without steps that a later resume replaced."""

    folder: Path
    name: str
    recipe: dict[str, Any]
    signature: dict[str, str]
    method: dict[str, Any] = field(default_factory=dict)
    """name, paper, claim, equation, summary"""
    data: dict[str, Any] = field(default_factory=dict)
    """counts of rows and tokens, as the run logged them"""
    train: list[dict[str, Any]] = field(default_factory=list)
    evals: list[dict[str, Any]] = field(default_factory=list)
    """means per token, by step; a step that was measured twice appears once, with its last values"""
    heldout: dict[int, dict[Any, dict[str, Any]]] = field(default_factory=dict)
    """step -> row id -> sums over the tokens of that row"""
    generations: dict[int, list[tuple[str, str]]] = field(default_factory=dict)
    """step -> [(prompt, text)]"""
    rollouts: list[dict[str, Any]] = field(default_factory=list)
    """completions of the policy in training, with reward, tokens and their advantages, in order"""
    maps: dict[int, dict[Any, dict[str, Any]]] = field(default_factory=dict)
    """step -> row id -> attribution maps of student and teacher, a number for each token"""
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """title -> rows, what the run tabulated last under that title"""
    notes: list[str] = field(default_factory=list)
    finished: dict[str, Any] | None = None
    interrupted: int | None = None
    """step at which the run was stopped, None where it was resumed or finished since"""
    resumes: list[int] = field(default_factory=list)
    command: str = ""
    """the whole command that resumes it"""

    @property
    def processes(self) -> int:
        """In how many it was trained; 1 where the signature does not say."""
        return number_in(self.signature.get("processes", ""))

    @property
    def measured(self) -> list[int]:
        """The steps with held-out measurements, ascending."""
        return [event["step"] for event in self.evals]

    @property
    def steps(self) -> int:
        """The last step that was trained."""
        if self.finished is not None:
            return self.finished["step"]
        return max([self.interrupted or 0, *(event["step"] for event in self.train)])


def load(folder: Path) -> Run:
    """Read a run folder.

    Args:
        folder: what `trimtab train` wrote: recipe.yaml, signature.txt, metrics.jsonl and, where something was
            measured row by row or generated, samples.jsonl.

    Returns:
        The run. Training, evaluation and sample entries before a resume at step k with a step > k are left out, as
        is a torn last line. Held-out rows of a step count once the evaluation event of that step, which is written
        after them, says that all are there.

    Raises:
        ReportError: if the folder is missing or is no run folder, or a file in it cannot be read.
    """
    folder = Path(folder)
    if not folder.is_dir():
        found = "is a file" if folder.exists() else "does not exist"
        raise ReportError(f"{folder}: {found}; give the folder that `trimtab train` wrote")
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        raise ReportError(
            f"{folder}: not a run folder, it has no {' and no '.join(missing)}; give one that `trimtab train` wrote"
        )
    run = Run(folder, folder.resolve().name, _recipe(folder / "recipe.yaml"), _signature(folder / "signature.txt"))
    _read_metrics(run)
    if (folder / "samples.jsonl").is_file():
        _read_samples(run)
    evaluated = {event["step"] for event in run.evals}
    run.heldout = {step: rows for step, rows in run.heldout.items() if step in evaluated}
    return run


def is_run(folder: Path) -> bool:
    """Whether the folder holds a run of `trimtab train`."""
    return any((folder / name).is_file() for name in REQUIRED)


def distinct_names(runs: Sequence[Run]) -> list[Run]:
    """The runs under names that tell them apart."""
    names = names_apart([run.name for run in runs], [run.folder for run in runs])
    return [replace(run, name=name) for run, name in zip(runs, names, strict=True)]


def names_apart(names: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Names made distinct: with the folders above, and numbers where that does not help."""
    names = list(names)
    for depth in range(2, 6):
        longer = ["/".join(folder.resolve().parts[-depth:]) for folder in folders]
        names = [long if names.count(name) > 1 else name for name, long in zip(names, longer, strict=True)]
    for index, name in enumerate(names):
        if name in names[:index]:
            names[index] = f"{name} ({names[: index + 1].count(name)})"
    return names


def page_of(folders: Sequence[Path], alone: bool) -> Path:
    """Where a page lies by default: in the folder of a run shown `alone`, or in the common parent of several."""
    if alone:
        return folders[0] / "report.html"
    return Path(os.path.commonpath([folder.resolve().parent for folder in folders])) / "comparison.html"


def _read_metrics(run: Run) -> None:
    evals: dict[int, dict[str, Any]] = {}
    tables: dict[str, dict[str, Any]] = {}
    for place, event in _entries(run.folder / "metrics.jsonl", "event"):
        match event["event"]:
            case "start":
                _require(place, {"method": {}, "data": {}} | event, method=dict, data=dict)
                run.method, run.data = event.get("method", {}), event.get("data", {})
                run.command = str(event.get("command", ""))
            case "train":
                _require(place, event, step=int)
                run.train.append(event)
            case "eval":
                _require(place, event, step=int)
                evals[event["step"]] = event
            case "table":
                _require(place, event, step=int, title=str, rows=list)
                for row in event["rows"]:
                    _require(place, {"row": row}, row=dict)
                tables[event["title"]] = event
            case "resume":
                _require(place, event, step=int)
                tables = {title: kept for title, kept in tables.items() if kept["step"] <= event["step"]}
                run.train = [kept for kept in run.train if kept["step"] <= event["step"]]
                evals = {step: kept for step, kept in evals.items() if step <= event["step"]}
                run.resumes.append(event["step"])
                run.finished = run.interrupted = None
                run.command = str(event.get("command") or run.command)
            case "interrupted":
                _require(place, event, step=int)
                run.interrupted = event["step"]
            case "finished":
                _require(place, event, step=int)
                run.finished, run.interrupted = event, None
            case "note" | "out of time":
                _require(place, event, text=str)
                if event["text"] not in run.notes:
                    run.notes.append(event["text"])
    run.evals = [evals[step] for step in sorted(evals)]
    run.tables = {title: event["rows"] for title, event in tables.items()}


def _read_samples(run: Run) -> None:
    generations: dict[int, dict[str, str]] = {}
    for place, sample in _entries(run.folder / "samples.jsonl", "kind"):
        match sample["kind"]:
            case "heldout":
                _require(place, sample, step=int, row_id=(int, str), tokens=int)
                run.heldout.setdefault(sample["step"], {})[sample["row_id"]] = sample
            case "generation":
                _require(place, sample, step=int, prompt=str, text=str)
                generations.setdefault(sample["step"], {})[sample["prompt"]] = sample["text"]
            case "rollout":
                _require(place, sample, step=int, prompt=(str, list), reward=(int, float))
                run.rollouts.append(sample)
            case "attribution":
                _require(place, sample, step=int, row_id=(int, str), tokens=list, student=list, teacher=list)
                run.maps.setdefault(sample["step"], {})[sample["row_id"]] = sample
            case "resume":
                _require(place, sample, step=int)
                run.maps = {step: rows for step, rows in run.maps.items() if step <= sample["step"]}
                run.rollouts = [row for row in run.rollouts if row["step"] < sample["step"]]
                run.heldout = {step: rows for step, rows in run.heldout.items() if step <= sample["step"]}
                generations = {step: texts for step, texts in generations.items() if step <= sample["step"]}
    run.generations = {step: list(generations[step].items()) for step in sorted(generations)}


def _entries(path: Path, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The entries of a JSON-lines file with the place each stands at; a torn last line is skipped."""
    lines = [(number, line) for number, line in enumerate(path.read_bytes().split(b"\n"), 1) if line.strip()]
    for number, line in lines:
        place = f"{path}, line {number}"
        try:
            entry = json.loads(line.decode())
        except ValueError as error:  # also a character cut in two
            if number == lines[-1][0]:
                return
            raise ReportError(f"{place}: not valid JSON ({error}); repair or delete the line") from None
        if not isinstance(entry, dict) or not isinstance(entry.get(key), str):
            raise ReportError(f"{place}: no entry with a {key!r}; repair or delete the line")
        yield place, entry


def _require(place: str, entry: dict[str, Any], **types: Any) -> None:
    for key, wanted in types.items():
        if not isinstance(entry.get(key), wanted) or isinstance(entry[key], bool):
            found = repr(entry[key]) if key in entry else "nothing"
            raise ReportError(f"{place}: {key!r} is {found}, not a {_name(wanted)}; repair or delete the line")


def _name(wanted: Any) -> str:
    names = {int: "whole number", str: "text", dict: "mapping", list: "list"}
    return " or ".join(names[kind] for kind in (wanted if isinstance(wanted, tuple) else (wanted,)))


def _recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = yaml.safe_load(path.read_bytes())
    except yaml.YAMLError as error:
        line = " ".join(str(error).split())
        raise ReportError(f"{path}: not valid YAML ({line}); restore the file that the run wrote") from None
    if not isinstance(recipe, dict):
        raise ReportError(f"{path}: not a recipe but {type(recipe).__name__}; restore the file that the run wrote")
    return recipe


def _signature(path: Path) -> dict[str, str]:
    signature = {}
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        key, colon, value = line.partition(":")
        if line.strip() and not colon:
            raise ReportError(f"{path}, line {number}: no 'key: value' but {line!r}; restore the file the run wrote")
        if line.strip():
            signature[key.strip()] = value.strip()
    return signature
