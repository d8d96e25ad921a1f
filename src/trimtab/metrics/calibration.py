"""Calibration: reliability of whole answers, Brier score and calibration of prefix values.

A value is a probability that the answer will turn out correct; as in IPVRM (arXiv:2604.13197), the value at a token has
seen that token. Means of tokens are taken within an answer first and then over answers, which the intervals resample.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from trimtab.metrics._checked import Answers, check_probabilities, scored, valued
from trimtab.metrics.intervals import Array, Interval, bootstrap, bootstrap_ratio, mean_of


class Bin(NamedTuple):
    answers: int
    predicted: float
    """mean value"""
    right: Interval
    """share of these answers that are correct"""


def reliability(values: ArrayLike, outcomes: ArrayLike, seed: int = 0) -> list[Bin]:
    """Share of correct answers in ten bins of values [A]; bin b covers [b / 10, (b + 1) / 10), the last one also 1.

    Raises:
        ValueError: if numbers differ, or a value or an outcome is out of range.
    """
    value, correct = scored(values, outcomes)
    check_probabilities([np.array([one]) for one in value])
    place = np.minimum((10 * value).astype(int), 9)
    inside = [place == b for b in range(10)]
    return [
        Bin(int(own.sum()), float(value[own].mean()) if own.any() else np.nan, mean_of(correct[own], seed))
        for own in inside
    ]


class Brier(NamedTuple):
    score: Interval
    """mean of (value - outcome)^2; 0 is perfect"""
    reference: Interval
    """p (1 - p), the score of always predicting the share p of correct answers"""
    gain: Interval
    """reference - score on the same resamples: what the values add to the share"""


def brier(values: Answers, outcomes: ArrayLike, seed: int = 0) -> Brier:
    """Brier score of prefix values in [0, 1], of the tokens of each answer, against the outcome (1 or 0) of the answer.

    Raises:
        ValueError: if numbers differ, an answer has no token, or a value or an outcome is out of range.
    """
    probabilities, correct = valued(values, outcomes)
    scores = np.array([np.mean((one - y) ** 2) for one, y in zip(probabilities, correct)])

    def variance(p: Array) -> Array:
        return p * (1 - p)

    return Brier(
        mean_of(scores, seed),
        bootstrap_ratio(correct, np.ones(len(correct)), seed, transform=variance),
        bootstrap(lambda scores, correct: variance(correct.mean(-1)) - scores.mean(-1), scores, correct, seed=seed),
    )


class Decile(NamedTuple):
    answers: int
    """answers that have a token there"""
    predicted: Interval
    """mean value"""
    right: Interval
    """share of these answers that are correct"""
    brier: Interval


def calibration(values: Answers, outcomes: ArrayLike, seed: int = 0) -> list[Decile]:
    """Predicted values and outcomes by how much of the answer has been read, in ten deciles; see `brier`.

    After token t of L, counted from 1, the share t / L has been read; decile d covers shares in (d / 10, (d + 1) / 10],
    so the last token of every answer is in the last one. Intervals are over answers.
    """
    probabilities, correct = valued(values, outcomes)
    table = []
    places = [(10 * np.arange(1, len(one) + 1) - 1) // len(one) for one in probabilities]
    for decile in range(10):
        inside = [one[place == decile] for one, place in zip(probabilities, places)]
        there = [(one, y) for one, y in zip(inside, correct) if len(one)]
        table.append(
            Decile(
                len(there),
                mean_of([one.mean() for one, _ in there], seed),
                mean_of([y for _, y in there], seed),
                mean_of([np.mean((one - y) ** 2) for one, y in there], seed),
            )
        )
    return table
