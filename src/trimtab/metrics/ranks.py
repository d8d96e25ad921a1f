"""Ranks, rank correlations and the area under the ROC curve, along the last axis so that resamples need no loop."""

import numpy as np
from numpy.typing import ArrayLike

from trimtab.metrics.intervals import Array

ROUNDING = 1e-9
"""tolerance at which means of answers count as equal, such as 0.1 + 0.2 and 0.3"""


def ranks(x: ArrayLike) -> Array:
    """[..., N] ranks from 1 along the last axis; ties get the mean rank."""
    from scipy.stats import rankdata  # takes a second, which most commands do not need

    return rankdata(np.round(np.asarray(x, np.float64), 9), axis=-1)


def pearson(x: Array, y: Array) -> Array:
    """[...] correlations; NaN if one side is constant."""
    return cosine(x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True))


def spearman(x: Array, y: Array) -> Array:
    """[...] rank correlations with average ranks; NaN if one side is constant."""
    return pearson(ranks(x), ranks(y))


def cosine(x: Array, y: Array, middle: float = 0.0) -> Array:
    """[...] cosines of x - middle and y - middle; NaN if one of them is all zeros."""
    x, y = exact(x - middle), exact(y - middle)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (x * y).sum(-1) / np.sqrt((x * x).sum(-1) * (y * y).sum(-1))


def auc(scores: ArrayLike, positive: ArrayLike) -> Array:
    """[...] probability that a positive scores higher than a negative, ties count half; NaN without both kinds.

    Args:
        scores: [..., N].
        positive: [..., N] 1 or True for positives, 0 or False for negatives.
    """
    of_positives = np.asarray(positive, np.float64)
    ups, downs = of_positives.sum(-1), (1 - of_positives).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return ((ranks(scores) * of_positives).sum(-1) - ups * (ups + 1) / 2) / (ups * downs)


def percentile(value: float, among: ArrayLike) -> float:
    """Percentage of numbers below the value, equal ones count half; NaN if the value is, or all numbers are."""
    from scipy.stats import percentileofscore

    known = np.asarray(among, float)
    known = known[~np.isnan(known)]
    return float(percentileofscore(np.round(known, 9), round(value, 9), "mean")) if len(known) else np.nan


def exact(x: Array) -> Array:
    """Round values that are almost zero to zero."""
    return np.where(abs(x) < ROUNDING, 0.0, x)
