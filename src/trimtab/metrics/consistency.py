"""Does one list of ratings agree with another? Metrics of pairs, their chance levels, and how reliable ratings are.

Ratings are on a scale of 1 to 7 with 4 in the middle; means over several answers need not be whole. `s` is what was
said (statements), `a` what was chosen (scenarios), matched place by place. The metrics take [..., N] and work along the
last axis, so that resamples and permutations need no loop. Names follow arXiv:2402.14679; no code of its authors is
public, so the formulas are the plain readings of these names.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.metrics.intervals import Interval

Array = NDArray[np.float64]
Metric = Callable[[Array, Array], Array]

MIDDLE, ENDS = 4.0, (1, 7)
_ROUNDING = 1e-9
"""Means of answers are rounded: 3.1 - 2.1 must count as 1, and 4.000000001 as undecided."""


# ---------------------------------------------------------------- metrics


def cosine(s: Array, a: Array, middle: float = 0.0) -> Array:
    """[...] cosines of s - middle and a - middle; NaN where one of them is all zeros.

    With middle 0 it flatters: all ratings are positive, and two random raters reach 0.8. With 4 chance is 0.
    """
    s, a = _exact(s - middle), _exact(a - middle)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (s * a).sum(-1) / np.sqrt((s * s).sum(-1) * (a * a).sum(-1))


def ranks(x: Array) -> Array:
    """Ranks from 1 along the last axis; equal values share the mean of theirs."""
    order = np.argsort(x, axis=-1)
    ordered = np.take_along_axis(x, order, axis=-1)
    place = np.broadcast_to(np.arange(x.shape[-1], dtype=float), x.shape)
    ends = ordered[..., 1:] - ordered[..., :-1] > _ROUNDING  # [..., N - 1], a run of equal values ends here
    edge = np.ones((*x.shape[:-1], 1), bool)
    first = np.maximum.accumulate(np.where(np.concatenate([edge, ends], -1), place, 0), axis=-1)
    last = np.where(np.concatenate([ends, edge], -1), place, x.shape[-1] - 1)
    last = np.minimum.accumulate(last[..., ::-1], axis=-1)[..., ::-1]
    found = np.empty(x.shape)
    np.put_along_axis(found, order, (first + last) / 2 + 1, axis=-1)
    return found


def pearson(x: Array, y: Array) -> Array:
    """[...] correlations; NaN where one side is constant, which says nothing about the other."""
    return cosine(x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True))


def spearman(s: Array, a: Array) -> Array:
    """[...] rank correlations with average ranks; NaN where one side is constant."""
    return pearson(ranks(s), ranks(a))


def difference(s: Array, a: Array) -> Array:
    """[...] means of a - s, in points: positive where more is done than said."""
    return (a - s).mean(-1)


def vmd(s: Array, a: Array) -> Array:
    """[...] value mean differences, the means of |s - a|, in points from 0 to 6."""
    return abs(s - a).mean(-1)


def pcp(s: Array, a: Array, delta: float = 1.0) -> Array:
    """[...] proportions of consistent pairs: those at most `delta` points apart."""
    return near(s - a, delta).mean(-1)


def near(differences: Array, delta: float) -> NDArray[np.bool_]:
    """Which differences are of at most `delta` points; NaN is not."""
    return abs(differences) <= delta + _ROUNDING


def same_side(s: Array, a: Array) -> Array:
    """[...] proportions of pairs on one side of the middle, or both in it."""
    return (np.sign(_exact(s - MIDDLE)) == np.sign(_exact(a - MIDDLE))).mean(-1)


def _exact(x: Array) -> Array:
    """Zeros that are not quite zero become zero."""
    return np.where(abs(x) < _ROUNDING, 0.0, x)


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


# ---------------------------------------------------------------- intervals and chance


def bootstrap(statistic: Callable[..., Array], *columns: ArrayLike, seed: int = 0, draws: int = 2000) -> Interval:
    """A statistic of N rows and its 95% percentile interval over rows drawn with replacement.

    Args:
        statistic: of columns [..., N], such as a metric of s and a; gives [...].
        columns: [N] each, drawn jointly.
        seed: the same seed gives the same draws for every statistic.
        draws: how many; those where the statistic is NaN, such as a constant resample, are left out.

    Returns:
        Ends are NaN where the estimate is, and for fewer than two rows. All is NaN where there are no rows.
    """
    arrays = [np.asarray(column, float) for column in columns]
    number = len(arrays[0])
    if not number:
        return Interval(np.nan, np.nan, np.nan)
    estimate = float(statistic(*arrays))
    if number < 2 or np.isnan(estimate):
        return Interval(estimate, np.nan, np.nan)
    generator, found = np.random.default_rng(seed), []
    at_once = max(1, 1_000_000 // number)
    for start in range(0, draws, at_once):
        drawn = generator.integers(number, size=(min(at_once, draws - start), number))
        found.append(statistic(*(array[drawn] for array in arrays)))
    return Interval(estimate, *spread(np.concatenate(found))[1:])


def spread(values: Array) -> Interval:
    """Mean of the values that are not NaN, and what holds 95 % of them; NaN where there are none."""
    values = values[~np.isnan(values)]
    if not len(values):
        return Interval(np.nan, np.nan, np.nan)
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(values.mean()), float(low), float(high))


def shuffled(a: Array, seed: int = 0, draws: int = 2000) -> Array:
    """[draws, N] permutations of `a` [N]; metric(s, shuffled(a)) is what is left when the pairs are torn apart."""
    return np.random.default_rng(seed).permuted(np.tile(a, (draws, 1)), axis=1)


def p_value(observed: float, under_chance: Array) -> float:
    """(1 + how many are at least the observed) / (1 + all); one-sided, and NaN where the observed is."""
    if np.isnan(observed):
        return np.nan
    return float((1 + (under_chance >= observed - _ROUNDING).sum()) / (1 + len(under_chance)))


def uniform(number: int, answers: int = 1, seed: int = 0, draws: int = 2000) -> tuple[Array, Array]:
    """s and a [draws, N = number] of raters who draw from 1 to 7 blindly; metric(*uniform(N)) is what they reach.

    Args:
        answers: how many draws are averaged into one rating. Means crowd around 4, which raises PCP and lowers VMD
            without any agreement; so the reference must average as often as the model did.
    """
    generator = np.random.default_rng(seed)
    sums = np.zeros((2, draws, number))
    for _ in range(answers):
        sums += generator.integers(ENDS[0], ENDS[1] + 1, size=sums.shape)
    s, a = sums / answers
    return s, a


# ---------------------------------------------------------------- reliability


def mean(x: Array, axis: int | tuple[int, ...] = -1) -> Array:
    """Mean of what is not NaN; NaN where nothing is."""
    known = ~np.isnan(x)
    with np.errstate(invalid="ignore"):
        return np.where(known, x, 0.0).sum(axis) / known.sum(axis)


def scored(x: Array, keys: ArrayLike) -> Array:
    """[N, ...] ratings as amounts of their trait: 8 - x where the key [N] is -1."""
    sign = np.asarray(keys).reshape(-1, *[1] * (x.ndim - 1))
    return np.where(sign > 0, x, sum(ENDS) - x)


def reverse_differences(s: Array, partners: Sequence[tuple[int, int]]) -> Array:
    """[pairs of partners] |s_i - (8 - s_j)|, in points: 0 for opposite answers to opposite wordings.

    Args:
        s: [N] ratings as given; NaN stays NaN.
        partners: places of a statement and its reverse-worded partner, each couple once.
    """
    return np.array([abs(s[i] - (sum(ENDS) - s[j])) for i, j in partners], float)


def spearman_brown(r: float) -> float:
    """2r / (1 + r): the reliability of a test from the correlation of its halves; -inf at r = -1."""
    return -np.inf if r <= -1 else float(2 * r / (1 + r))


def split_half(amounts: Array, traits: Sequence[str], keys: ArrayLike) -> float:
    """Spearman-Brown corrected correlation of half means over traits and repetitions; NaN where they do not vary.

    A trait's items are taken in turns, first those of one key and then those of the other, so that each half holds
    both: a rater who agrees with everything is not held for unreliable, or reliable, on that account.

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
    """Cronbach's alpha, k / (k - 1) (1 - sum of the items' variances / variance of their sum).

    Args:
        amounts: [k, R] ratings of k items by R cases; a model's cases are its repetitions. Those that miss an item are
            left out.

    Returns:
        At most 1; NaN for fewer than two items or cases, and where the sums do not vary.
    """
    complete = amounts[:, ~np.isnan(amounts).any(0)]
    k, cases = complete.shape
    if k < 2 or cases < 2:
        return np.nan
    total = complete.sum(0).var(ddof=1)
    return float(k / (k - 1) * (1 - complete.var(axis=1, ddof=1).sum() / total)) if total > _ROUNDING else np.nan


def order_shifts(x: Array) -> Array:
    """[N] mean of the first order less that of the second, in points; NaN where one is missing.

    Args:
        x: [N, orders, repeats] ratings after the order was undone: 0 if the order does not matter.
    """
    if x.shape[1] < 2:
        return np.full(len(x), np.nan)
    by_order = mean(x)  # [N, orders]
    return by_order[:, 0] - by_order[:, 1]


def repeat_spread(x: Array) -> Array:
    """[N] standard deviations (n - 1) over repeats within an order, mean over orders, in points; NaN for one repeat.

    Args:
        x: [N, orders, repeats], NaN where missing.
    """
    known = (~np.isnan(x)).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = np.nansum((x - mean(x)[..., None]) ** 2, axis=-1)
        return mean(np.where(known > 1, np.sqrt(squares / (known - 1)), np.nan))


# ---------------------------------------------------------------- profiles and people


def profile_distance(said: Array, done: Array, traits: Array) -> Array:
    """[...] mean over traits of |mean amount said - mean amount done|, in points; NaN for a trait is left out.

    Args:
        said, done: [..., N] amounts, see `scored`.
        traits: [..., N] numbers of the traits.
    """
    distances = []
    for trait in np.unique(traits):
        of_trait = traits == trait
        distances.append(abs(mean(np.where(of_trait, said - done, np.nan))))
    return mean(np.stack(distances, axis=-1))


def percentile(value: float, people: ArrayLike) -> float:
    """Per cent of people below the value, those equal to it by half; NaN where the value is, or nobody is known."""
    known = np.asarray(people, float)
    known = known[~np.isnan(known)]
    if np.isnan(value) or not len(known):
        return np.nan
    equal = abs(known - value) < _ROUNDING
    return float(100 * (((known < value) & ~equal) + equal / 2).mean())
