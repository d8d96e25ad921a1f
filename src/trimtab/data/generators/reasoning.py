"""Tasks of reasoning-gym: about a hundred generators of puzzles, each with its own judge; an extra to install.

    reasoning_gym:chain_sum/train?rows=2000&seed=1&max_terms=3

A question is held out or not by its own text, so that the splits never share one.
"""

import functools
import json
import random
from typing import Any

from trimtab.common.errors import UserError, nearest

Row = dict[str, Any]
SPLITS = ("train", "heldout")
HELDOUT = 0.1
"""Share of the questions that are held out."""
SIZE = 100_000
"""Tasks that a seed gives; fewer distinct ones, where there are fewer."""


class ReasoningError(UserError):
    """Tasks that cannot be made, or a row that is none of them."""


def tasks(name: str, split: str = "train", rows: int = 1000, seed: int = 0, **options: Any) -> list[Row]:
    """Rows with `prompt`, `answer` (absent where many are right) and `task`, by which the judge finds the task again.

    Args:
        name: of a generator of reasoning-gym.
        split: train or heldout.
        options: of its configuration.

    Raises:
        ReasoningError: where the package is missing, the name, the split or an option is unknown, or there are fewer
            distinct questions.
    """
    if split not in SPLITS:
        raise ReasoningError(f"there is no split {split!r}; there are {' and '.join(SPLITS)}")
    written = json.dumps(options, sort_keys=True)
    made, seen = [], set()
    source = _dataset(name, seed, written)
    for index in range(SIZE):
        if len(made) == rows or index > 100 * (len(made) + 20):
            break
        entry = source[index]
        question = str(entry["question"])
        if question in seen or split_of(question) != split:
            continue
        seen.add(question)
        row = {"prompt": question, "task": json.dumps({"name": name, "seed": seed, "index": index, "options": options})}
        made.append(row if entry["answer"] is None else {**row, "answer": str(entry["answer"])})
    if len(made) == rows:
        return made
    raise ReasoningError(f"{name} gave {len(made)} distinct questions for {split}, not {rows}; ask for fewer rows")


def split_of(question: str) -> str:
    return SPLITS[random.Random(question).random() < HELDOUT]


def score(task: str, answer: str) -> float:
    """What the generator's own judge gives an answer to one of its tasks, 0 to 1.

    Args:
        task: the column of that name.

    Raises:
        ReasoningError: if it names no task.
    """
    *which, index = place_of(task)
    source = _dataset(*which)
    return float(source.score_answer(answer=answer, entry=source[index]))


def place_of(task: str) -> tuple[str, int, str, int]:
    """Name, seed, options as JSON and index of a task.

    Raises:
        ReasoningError: if it names none.
    """
    try:
        found = json.loads(task)
        return found["name"], found["seed"], json.dumps(found["options"], sort_keys=True), int(found["index"])
    except (TypeError, ValueError, KeyError):
        raise ReasoningError(f"task {task!r:.60} is none of reasoning-gym's; load rows of reasoning_gym:NAME") from None


@functools.lru_cache(maxsize=32)
def _dataset(name: str, seed: int, options: str) -> Any:
    try:
        import reasoning_gym  # type: ignore[import-not-found]
        from reasoning_gym.factory import DATASETS  # type: ignore[import-not-found]
    except ImportError as error:
        raise ReasoningError("reasoning-gym is not installed; run pip install reasoning-gym") from error
    if name not in DATASETS:
        raise ReasoningError(f"reasoning-gym has no {name!r}; {nearest(name, DATASETS, 'see its gallery')}")
    try:
        return reasoning_gym.create_dataset(name, size=SIZE, seed=seed, **json.loads(options))
    except (TypeError, ValueError, AssertionError) as error:
        raise ReasoningError(f"{name} with {options}: {error}") from error
