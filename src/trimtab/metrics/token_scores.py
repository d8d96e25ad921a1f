"""Metrics of reward models and prefix values: how well scores of answers and tokens find errors.

Higher scores are better throughout. Means of tokens are taken within an answer first and then over answers, which the
95% intervals resample.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from trimtab.metrics._checked import Answers, Mask, finite, marked, scored
from trimtab.metrics.intervals import Interval, bootstrap, mean_of
from trimtab.metrics.ranks import auc


def pair_accuracy(chosen: ArrayLike, rejected: ArrayLike, seed: int = 0) -> Interval:
    """Share of pairs [P] whose chosen answer has the higher score (ties count half), with its interval over pairs.

    Raises:
        ValueError: if the numbers differ, or a score is not finite.
    """
    one, other = finite(chosen, "chosen"), finite(rejected, "rejected")
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"scores of {one.size} chosen and {other.size} rejected answers; each pair needs one of each")
    return mean_of((np.sign(one - other) + 1) / 2, seed)


def sign_accuracy(values: ArrayLike, outcomes: ArrayLike, seed: int = 0) -> Interval:
    """Share of answers [A] whose value is above 0 if they are correct (outcome 1), and not above 0 if not (0).

    Raises:
        ValueError: if numbers differ, a value is not finite, or an outcome is out of range.
    """
    value, correct = scored(values, outcomes)
    return mean_of((value > 0) == (correct > 0), seed)


def outcome_auc(values: ArrayLike, outcomes: ArrayLike, seed: int = 0) -> Interval:
    """Probability that a correct answer has a higher value than an incorrect one (ties count half), with its interval
    over answers; NaN without both kinds. Errors as in `sign_accuracy`.
    """
    return bootstrap(auc, *scored(values, outcomes), seed=seed)


def mark(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> Mask:
    """[L]: which tokens overlap one of the spans; empty tokens, such as special ones, never do.

    Args:
        offsets: [L] (start, end) of each token in the text, as fast tokenizers give them.
        spans: (start, end) in the same text; the end is exclusive.

    Raises:
        ValueError: for an empty span.
    """
    starts, ends = np.asarray(offsets, int).reshape(-1, 2).T
    found = np.zeros(len(starts), bool)
    for number, (start, end) in enumerate(spans, 1):
        if start >= end:
            raise ValueError(f"span {number} is {(start, end)}; a span must end after it starts")
        found |= (starts < end) & (ends > start) & (starts < ends)
    return found


class TokenAUC(NamedTuple):
    mean: Interval
    answers: int
    """number of answers in the mean"""
    left_out: int
    """answers without an erroneous token, or without any other"""


def token_auc(scores: Answers, erroneous: Answers, seed: int = 0) -> TokenAUC:
    """Mean over answers of the probability that an erroneous token scores lower than another one; ties count half.

    Args:
        scores: of the tokens of each incorrect answer.
        erroneous: which of them are, such as from `mark`.

    Raises:
        ValueError: if lengths differ, or a score is not finite.
    """
    values, marks = marked(scores, erroneous)
    found = np.array([1 - auc(*pair) for pair in zip(values, marks)])
    known = found[~np.isnan(found)]
    return TokenAUC(mean_of(known, seed), len(known), len(found) - len(known))


class AroundError(NamedTuple):
    before: Interval
    """mean value at the tokens before the first error"""
    after: Interval
    """mean value at the tokens after its end"""
    change: Interval
    """after - before, on the same answers"""
    answers: int
    left_out: int
    """answers without an error, or without a token on either side of it"""


def around_error(values: Answers, erroneous: Answers, seed: int = 0) -> AroundError:
    """Mean values before and after the first error, with intervals over answers.

    Args:
        values: of the tokens of each incorrect answer; any scores will do.
        erroneous: which tokens are. The first error is the first run of them; its own tokens count on neither
            side, and tokens after it count whether marked or not.

    Raises:
        ValueError: see `token_auc`.
    """
    sides = []
    for one, bad in zip(*marked(values, erroneous)):
        start = int(np.argmax(bad)) if bad.any() else 0
        end = start + int(np.argmin(np.append(bad[start:], False)))
        if start > 0 and end < len(one):
            sides.append((one[:start].mean(), one[end:].mean()))
    before, after = np.array(sides, np.float64).reshape(-1, 2).T
    of_before, of_after, change = (mean_of(one, seed) for one in (before, after, after - before))
    return AroundError(of_before, of_after, change, len(sides), len(values) - len(sides))
