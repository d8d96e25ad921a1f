"""Do probabilities come true? Reliability of whole answers, Brier score and calibration of prefix values.

A value is a probability that the answer will turn out right; as in IPVRM (arXiv:2604.13197), the value at a token has
seen that token. Means of tokens are taken within an answer first and then over answers, which the intervals resample.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from trimtab.metrics._checked import Answers, check_probabilities, judged, valued
from trimtab.metrics.intervals import Array, Interval, bootstrap, bootstrap_ratio, mean_of


class Bin(NamedTuple):
    answers: int
    predicted: float
    """mean value"""
    right: Interval
    """share of these answers that are right"""


def reliability(values: ArrayLike, outcomes: ArrayLike, seed: int = 0) -> list[Bin]:
    """Of the answers that are said to be right with about this probability, how many are.

    Args:
        values: [A] in [0, 1], of whole answers.
        outcomes: [A] 1 for right answers, 0 for wrong ones.

    Returns:
        Ten rows; row b is of the values from b / 10 and below (b + 1) / 10, and the last one also of 1.

    Raises:
        ValueError: if numbers differ, or a value or an outcome is out of range.
    """
    value, right = judged(values, outcomes)
    check_probabilities([np.array([one]) for one in value])
    place = np.minimum((10 * value).astype(int), 9)
    inside = [place == b for b in range(10)]
    return [
        Bin(int(own.sum()), float(value[own].mean()) if own.any() else np.nan, mean_of(right[own], seed))
        for own in inside
    ]


class Brier(NamedTuple):
    score: Interval
    """mean of (value - outcome)^2; 0 is perfect"""
    reference: Interval
    """p (1 - p), the score of always saying the share p of right answers"""
    gain: Interval
    """reference - score, both of the same resamples: what the values know beyond the share"""


def brier(values: Answers, outcomes: ArrayLike, seed: int = 0) -> Brier:
    """Brier score of prefix values against the outcome of their answer.

    Args:
        values: in [0, 1], of the tokens of each answer.
        outcomes: [A] 1 for right answers, 0 for wrong ones.

    Raises:
        ValueError: if numbers differ, an answer has no token, or a value or an outcome is out of range.
    """
    probabilities, right = valued(values, outcomes)
    own = np.array([np.mean((one - y) ** 2) for one, y in zip(probabilities, right)])

    def variance(p: Array) -> Array:
        return p * (1 - p)

    return Brier(
        mean_of(own, seed),
        bootstrap_ratio(right, np.ones(len(right)), seed, transform=variance),
        bootstrap(lambda own, right: variance(right.mean(-1)) - own.mean(-1), own, right, seed=seed),
    )


class Decile(NamedTuple):
    answers: int
    """that have a token there"""
    predicted: Interval
    """mean value"""
    right: Interval
    """share of these answers that are right"""
    brier: Interval


def calibration(values: Answers, outcomes: ArrayLike, seed: int = 0) -> list[Decile]:
    """What is predicted and what comes true, by how much of the answer has been read.

    Args:
        values, outcomes: see `brier`.

    Returns:
        Ten rows. After token t of L, counted from 1, the share t / L has been read; row d is of the shares above d / 10
        and up to (d + 1) / 10, so the last token of every answer is in the last row. Intervals are over answers.

    Raises:
        ValueError: see `brier`.
    """
    probabilities, right = valued(values, outcomes)
    table = []
    places = [(10 * np.arange(1, len(one) + 1) - 1) // len(one) for one in probabilities]
    for decile in range(10):
        inside = [one[place == decile] for one, place in zip(probabilities, places)]
        there = [(one, y) for one, y in zip(inside, right) if len(one)]
        table.append(
            Decile(
                len(there),
                mean_of([one.mean() for one, _ in there], seed),
                mean_of([y for _, y in there], seed),
                mean_of([np.mean((one - y) ** 2) for one, y in there], seed),
            )
        )
    return table
