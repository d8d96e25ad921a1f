"""Best-of-n: how well a score picks one of n answers, compared with a majority vote."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from trimtab.metrics._checked import Mask, finite, outcomes_of
from trimtab.metrics.intervals import Array, Interval, mean_of

PICKS = ("highest", "majority", "weighted", "random", "distinct", "oracle")
"""Out of n answers: the one with the highest score; the most frequent final answer; the one with the largest sum of
weights; a random one; a random one of the distinct final answers; a correct one if there is any. Uninformative scores
do about as well as `distinct`, not `random`, which favours frequent answers: equal answers have equal scores."""


class BestOfN(NamedTuple):
    n: int
    accuracy: Mapping[str, Interval]
    """for each of PICKS, over problems"""
    over_majority: Mapping[str, Interval]
    """each other pick minus the majority vote, paired by problem"""


def best_of_n(
    scores: ArrayLike,
    correct: ArrayLike,
    answers: Sequence[Sequence[str | None]],
    *,
    weights: ArrayLike | None = None,
    subsets: int = 1000,
    seed: int = 0,
) -> list[BestOfN]:
    """Share of problems solved by picking one of n answers, for n = 1, 2, 4, ... and all of them.

    Ties count by their mean, as do the equal final answers that a vote picks. For smaller n the mean is over all
    subsets of n answers if there are at most `subsets`, and over that many random ones otherwise.

    Args:
        scores: [P, N] of each answer, such as its final value.
        correct: [P, N] 1 for correct answers, 0 for incorrect ones.
        answers: [P][N] final answers in one form ("8" is not "8.0"); None if there is none, which loses to any.
        weights: [P, N] of the weighted vote, not negative, such as probabilities; default: the scores.

    Raises:
        ValueError: if shapes differ, an outcome is out of range, or a weight is negative.
    """
    score, outcome = finite(scores, "scores"), outcomes_of(correct)
    weight = score if weights is None else finite(weights, "weights")
    if not score.shape == outcome.shape == weight.shape or score.ndim != 2 or not score.size:
        raise ValueError(
            f"scores of shape {score.shape}, outcomes of {outcome.shape}, weights of {weight.shape}; expected [P, N]"
        )
    problems, most = score.shape
    if len(answers) != problems:
        raise ValueError(f"scores of {problems} problems and answers of {len(answers)} problems")
    for number, given in enumerate(answers, 1):
        if len(given) != most:
            raise ValueError(f"answers of problem {number}: {len(given)}, but scores of {most}")
    if weight.min() < 0:
        raise ValueError(
            f"a vote has the weight {weight.min():g}; pass weights= that are not negative, such as sigmoid(score)"
        )
    generator = np.random.default_rng(seed)
    rows = list(zip(score, outcome, weight, answers))
    curve = []
    for n in sorted({2**i for i in range(most.bit_length())} | {most}):
        inside = _subsets(most, n, subsets, generator)
        solved = dict(zip(PICKS, np.array([_picks(inside, *row) for row in rows]).T))  # each [P]
        others = {name: mean_of(own - solved["majority"], seed) for name, own in solved.items() if name != "majority"}
        curve.append(BestOfN(n, {name: mean_of(own, seed) for name, own in solved.items()}, others))
    return curve


def _subsets(most: int, n: int, subsets: int, generator: np.random.Generator) -> Mask:
    """[S, most]: which answers are in each subset of n: all subsets, or `subsets` random ones."""
    if comb(most, n) <= subsets:
        places = np.array(list(combinations(range(most), n)))
    else:
        places = generator.random((subsets, most)).argsort(axis=1)[:, :n]
    inside = np.zeros((len(places), most), bool)
    np.put_along_axis(inside, places, True, axis=1)
    return inside


def _picks(inside: Mask, score: Array, correct: Array, weight: Array, answers: Sequence[str | None]) -> list[float]:
    """Of one problem, the share of subsets in which each of PICKS is correct."""
    best = np.where(inside, score, -np.inf)
    top = best == best.max(axis=1, keepdims=True)
    names = list(dict.fromkeys(answers))
    same = np.array([[answer == name for name in names] for answer in answers], float)  # [N, names]
    drawn = inside.astype(float)
    votes = drawn @ same  # [S, names]
    of_name = (drawn @ (same * correct[:, None])) / np.maximum(votes, 1)
    nobody = np.array([name is None for name in names])

    def elected(totals: Array) -> Array:
        totals = np.where(nobody, -1, totals)
        totals = np.where(votes > 0, totals, -2)
        largest = totals.max(axis=1, keepdims=True)
        won = totals >= largest - 1e-9 * abs(largest)  # sums of weights that are equal but for rounding
        return (won * of_name).sum(axis=1) / won.sum(axis=1)

    found = drawn @ correct  # [S] correct answers
    picks = (
        (top @ correct) / top.sum(axis=1),
        elected(votes),
        elected(drawn @ (same * weight[:, None])),
        found / drawn.sum(axis=1),
        of_name.sum(axis=1) / (votes > 0).sum(axis=1),
        found > 0,
    )
    return [float(np.mean(pick)) for pick in picks]
