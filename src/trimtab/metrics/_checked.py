"""Checks of the inputs of metrics: comparable numbers, outcomes, probabilities."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.metrics.intervals import Array

Mask = NDArray[np.bool_]
Answers = Sequence[ArrayLike]
"""one list of numbers for each answer, a number for each of its tokens"""


def finite(given: ArrayLike, what: str) -> Array:
    found = np.asarray(given, np.float64)
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        raise ValueError(f"{what}: number {bad[0] + 1} is {found.flat[bad[0]]:g}, which cannot be compared")
    return found


def outcomes_of(outcomes: ArrayLike) -> Array:
    found = finite(outcomes, "outcomes")
    bad = np.flatnonzero((found != 0) & (found != 1))
    if len(bad):
        raise ValueError(
            f"outcome {bad[0] + 1} is {found.flat[bad[0]]:g}; use 1 for correct answers and 0 for incorrect ones"
        )
    return found


def scored(values: ArrayLike, outcomes: ArrayLike) -> tuple[Array, Array]:
    value, correct = finite(values, "values"), outcomes_of(outcomes)
    if value.shape != correct.shape:
        raise ValueError(f"{value.size} answers and {correct.size} outcomes")
    return value, correct


def valued(values: Answers, outcomes: ArrayLike) -> tuple[list[Array], Array]:
    correct = outcomes_of(outcomes)
    if len(values) != len(correct):
        raise ValueError(f"{len(values)} answers and {len(correct)} outcomes")
    found = [finite(one, f"answer {number}") for number, one in enumerate(values, 1)]
    for number, one in enumerate(found, 1):
        if not len(one):
            raise ValueError(f"answer {number} has no tokens; leave it out")
    check_probabilities(found)
    return found, correct


def check_probabilities(values: Sequence[Array]) -> None:
    for number, one in enumerate(values, 1):
        outside = one[(one < 0) | (one > 1)]
        if len(outside):
            raise ValueError(
                f"answer {number} has {outside[0]:g}; values must be probabilities, such as sigmoid(score)"
            )


def marked(scores: Answers, erroneous: Answers) -> tuple[list[Array], list[Mask]]:
    if len(scores) != len(erroneous):
        raise ValueError(f"{len(scores)} answers with scores and {len(erroneous)} with marks")
    values = [finite(one, f"answer {number}") for number, one in enumerate(scores, 1)]
    marks = [np.asarray(one, bool) for one in erroneous]
    for number, (value, of_answer) in enumerate(zip(values, marks), 1):
        if value.shape != of_answer.shape:
            raise ValueError(
                f"answer {number} has {value.size} scores and {of_answer.size} marks; each token needs both"
            )
    return values, marks
