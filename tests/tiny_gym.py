"""A research task as small as can be: say the words of a hidden list, and an episode at it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from trimtab.gym.episode import Episode
from trimtab.gym.evaluation import GymScores, evaluate
from trimtab.gym.judging import Rejected, Submitted
from trimtab.gym.sandbox import SandboxError, find_engine
from trimtab.gym.submissions import pack
from trimtab.gym.task import GymTask, load_task
from trimtab.gym.workspace import Workspace

SETTINGS = """
title: Guess the labels
licence: CC0-1.0
metrics:
  - {name: accuracy, baseline: 0.0, reference: 0.8}
outputs: [outputs]
budget: {seconds: 60, steps: 200, submissions: 3, cpu_seconds: 60}
quota: {bytes: 20000000, files: 500}
limits: {memory: 2000000000, processes: 40, file_bytes: 10000000, scratch: 8000000}
evaluation_seconds: 20
"""
EVALUATOR = """
import json


def validate(submitted):
    from trimtab.gym.judging import Rejected

    labels = json.loads((submitted.hidden / "labels.json").read_text())
    given = submitted.text("outputs/answers.txt").split()
    if len(given) != len(labels["public"]):
        raise Rejected(f"answers.txt has {len(given)} words; {len(labels['public'])} are wanted")
    return {
        split: [{"name": "accuracy", "value": sum(map(str.__eq__, given, wanted)) / len(wanted)}]
        for split, wanted in labels.items()
    }
"""
SECRET = "tangerine0451"
"""a label, which no session may come to see"""
LABELS = f'{{"public": ["{SECRET}", "b", "c", "d"], "private": ["{SECRET}", "b", "x", "y"]}}'


Content = str | bytes | Path
"""of a file: text, bytes, or those of another file"""


def make_task(folder: Path, evaluator: str = EVALUATOR, settings: str = SETTINGS, **files: str) -> GymTask:
    """A task folder."""
    for name, text in {
        "task.yaml": settings,
        "description.md": "Write four words to outputs/answers.txt.\n",
        "workspace/data/words.txt": "a\nb\nc\nd\n",
        "evaluator.py": evaluator,
        "hidden/labels.json": LABELS,
        "hint.md": "The second word is b.\n",
        "documents/manual.md": "# Manual\n\nCitrus fruits are listed first.\n",
        **files,
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return load_task(folder)


def engine() -> str:
    """What isolates here; without it the test is skipped, with the reason."""
    try:
        return find_engine()
    except SandboxError as error:
        pytest.skip(str(error))


def both_engines() -> list[Any]:
    """bubblewrap and its fall-back, skipped where not installed; the fall-back is slow where it is not needed."""
    found = []
    for name in ("bwrap", "unshare"):
        marks = [pytest.mark.skipif(shutil.which(name) is None, reason=f"{name} is not installed")]
        if name == "unshare" and shutil.which("bwrap") is not None:
            marks.append(pytest.mark.slow)
        found.append(pytest.param(name, marks=marks))
    return found


def said(episode: Episode, command: str) -> dict[str, Any]:
    """The observation of a command that is waited for."""
    return episode.call("run_command", {"command": command, "wait_for_completion": True}).to_dict()


def as_bytes(content: Content) -> bytes:
    """What a file is to hold."""
    if isinstance(content, Path):
        return content.read_bytes()
    return content.encode() if isinstance(content, str) else content


def scored_outputs(folder: Path, task: GymTask, files: Mapping[str, Content]) -> GymScores:
    """What these outputs alone score."""
    workspace = Workspace.create(folder / "handed-in")
    try:
        for path, content in files.items():
            workspace.write(path, as_bytes(content))
        return evaluate(task, pack(workspace, task.settings.outputs)[0], engine())  # type: ignore[arg-type]
    finally:
        workspace.remove()


def rejection(folder: Path, task: GymTask, files: Mapping[str, Content]) -> str:
    """Why these outputs are rejected: by the evaluator in this process, which is quicker."""
    for path, content in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(as_bytes(content))
    settings = task.settings
    submitted = Submitted(
        folder, task.hidden, task.folder, engine(), settings.limits, environment=settings.environment
    )  # fmt: skip
    with pytest.raises(Rejected) as caught:
        submitted.module("evaluator.py").validate(submitted)
    return str(caught.value)
