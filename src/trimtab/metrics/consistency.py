"""Agreement of two lists of ratings: metrics of pairs, their chance levels, and the reliability of ratings.

Ratings are on a scale of 1 to 7 with 4 in the middle; means over several answers need not be whole. `s` is what was
stated (statements), `a` what was chosen (scenarios), matched by index. The metrics take [..., N] and work along the
last axis, so that resamples and permutations need no loop. Names follow arXiv:2402.14679; no code of its authors is
public, so the formulas are the plain interpretation of these names.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.metrics.intervals import Array, Interval, ends
from trimtab.metrics.ranks import ROUNDING, cosine, exact, pearson, spearman

Metric = Callable[[Array, Array], Array]

MIDDLE, ENDS = 4.0, (1, 7)


# ---------------------------------------------------------------- metrics

# a cosine of ratings around 0 flatters: all are positive, and two random raters reach 0.8; around 4 chance is 0


def difference(s: Array, a: Array) -> Array:
    """[...] means of a - s, in points: positive if more is chosen than stated."""
    return (a - s).mean(-1)


def vmd(s: Array, a: Array) -> Array:
    """[...] value mean differences, the means of |s - a|, in points from 0 to 6."""
    return abs(s - a).mean(-1)


def pcp(s: Array, a: Array, delta: float = 1.0) -> Array:
    """[...] proportions of consistent pairs: those that differ by at most `delta` points."""
    return near(s - a, delta).mean(-1)


def near(differences: Array, delta: float) -> NDArray[np.bool_]:
    """Whether differences are at most `delta` points; false for NaN."""
    return abs(differences) <= delta + ROUNDING


def same_side(s: Array, a: Array) -> Array:
    """[...] proportions of pairs on the same side of the middle, or both in it."""
    return (np.sign(exact(s - MIDDLE)) == np.sign(exact(a - MIDDLE))).mean(-1)


def metrics(delta: float = 1.0) -> dict[str, Metric]:
    """Name -> metric; PCP for 0, 1 and 2 points, and for `delta`."""
    proportions = {f"PCP {d:g}": lambda s, a, d=d: pcp(s, a, d) for d in sorted({0.0, 1.0, 2.0, float(delta)})}
    return {
        "cosine": cosine,
        "cosine centred": lambda s, a: cosine(s, a, MIDDLE),
        "spearman": spearman,
        "VMD": vmd,
        "signed difference": difference,
        **proportions,
        "same side": same_side,
    }


# ---------------------------------------------------------------- chance


def spread(values: Array) -> Interval:
    """Mean of the values that are not NaN, and their central 95% range; NaN if there are none."""
    return Interval(float(mean(values)), *ends(values, skip_nan=True))


def shuffled(a: Array, seed: int = 0, draws: int = 2000) -> Array:
    """[draws, N] permutations of `a` [N]; metric(s, shuffled(a)) is its value when pairs are broken up."""
    return np.random.default_rng(seed).permuted(np.tile(a, (draws, 1)), axis=1)


def p_value(observed: float, under_chance: Array) -> float:
    """(1 + number of draws at least as large as the observed) / (1 + draws); one-sided, NaN if the observed is NaN."""
    if np.isnan(observed):
        return np.nan
    return float((1 + (under_chance >= observed - ROUNDING).sum()) / (1 + len(under_chance)))


def uniform(number: int, answers: int = 1, seed: int = 0, draws: int = 2000) -> tuple[Array, Array]:
    """s and a [draws, N = number] of raters who draw from 1 to 7 at random; metric(*uniform(N)) is their level.

    Args:
        answers: how many draws are averaged into one rating. Means concentrate around 4, which raises PCP and lowers
            VMD without any agreement; so the reference must average as many as the model did.
    """
    generator = np.random.default_rng(seed)
    sums = np.zeros((2, draws, number))
    for _ in range(answers):
        sums += generator.integers(ENDS[0], ENDS[1] + 1, size=sums.shape)
    s, a = sums / answers
    return s, a


# ---------------------------------------------------------------- reliability


def mean(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Mean of the values that are not NaN; NaN if all are."""
    known = ~np.isnan(x)
    with np.errstate(invalid="ignore"):
        return np.where(known, x, 0.0).sum(axis) / known.sum(axis)


def scored(x: Array, keys: ArrayLike) -> Array:
    """[N, ...] ratings as amounts of their trait: 8 - x if the key [N] is -1."""
    sign = np.asarray(keys).reshape(-1, *[1] * (x.ndim - 1))
    return np.where(sign > 0, x, sum(ENDS) - x)


def reverse_differences(s: Array, partners: Sequence[tuple[int, int]]) -> Array:
    """[partners] |s_i - (8 - s_j)| of statements and their reverse-worded partners, in points: 0 for opposite ratings
    [N] of opposite wordings; NaN stays NaN.
    """
    return np.array([abs(s[i] - (sum(ENDS) - s[j])) for i, j in partners], float)


def spearman_brown(r: float) -> float:
    """2r / (1 + r): the reliability of a test from the correlation of its halves; -inf at r = -1."""
    return -np.inf if r <= -1 else float(2 * r / (1 + r))


def split_half(amounts: Array, traits: Sequence[str], keys: ArrayLike) -> float:
    """Spearman-Brown corrected correlation of half means over traits and repetitions; NaN if they do not vary.

    A trait's items alternate between the halves, first those of one key and then those of the other, so that each half
    has both: a rater who agrees with everything does not look unreliable, or reliable, because of it.

    Args:
        amounts: [N, R] ratings of R repetitions, see `scored`; NaN where missing.
        traits: [N] names.
        keys: [N] +1 or -1.
    """
    halves: list[tuple[Array, Array]] = []
    for trait in dict.fromkeys(traits):
        places = np.flatnonzero(np.asarray(traits) == trait)
        places = places[np.argsort(np.asarray(keys)[places], kind="stable")]
        halves.append((mean(amounts[places[::2]], 0), mean(amounts[places[1::2]], 0)))
    if not halves:
        return np.nan
    odd, even = np.concatenate(halves, axis=1)
    known = ~np.isnan(odd) & ~np.isnan(even)
    if known.sum() < 2:
        return np.nan
    return spearman_brown(float(pearson(odd[known], even[known])))


def cronbach(amounts: Array) -> float:
    """Cronbach's alpha of ratings [k items, R cases], k / (k - 1) (1 - sum of the items' variances / variance of their
    sum); a model's cases are its repetitions. Cases with a missing item are left out; NaN for fewer than two items or
    cases, and if the sums do not vary.
    """
    complete = amounts[:, ~np.isnan(amounts).any(0)]
    k, cases = complete.shape
    if k < 2 or cases < 2:
        return np.nan
    total = complete.sum(0).var(ddof=1)
    return float(k / (k - 1) * (1 - complete.var(axis=1, ddof=1).sum() / total)) if total > ROUNDING else np.nan


def order_shifts(x: Array) -> Array:
    """[N] mean of the first order minus that of the second, in points, of ratings [N, orders, repeats] after the order
    was undone: 0 if it does not matter, NaN if one is missing.
    """
    if x.shape[1] < 2:
        return np.full(len(x), np.nan)
    by_order = mean(x)  # [N, orders]
    return by_order[:, 0] - by_order[:, 1]


def repeat_spread(x: Array) -> Array:
    """[N] standard deviations (n - 1) over repeats within an order, mean over orders, in points, of ratings
    [N, orders, repeats] (NaN where missing); NaN for one repeat.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of fewer than two repeats
        return mean(np.nanstd(x, axis=-1, ddof=1))


# ---------------------------------------------------------------- profiles


def profile_distance(stated: Array, chosen: Array, traits: Array) -> Array:
    """[...] mean over traits of |mean amount stated - mean amount chosen|, in points; NaN for a trait is left out.

    Args:
        stated, chosen: [..., N] amounts, see `scored`.
        traits: [..., N] numbers of the traits.
    """
    apart = [abs(mean(np.where(traits == trait, stated - chosen, np.nan))) for trait in np.unique(traits)]
    return mean(np.stack(apart, axis=-1))
