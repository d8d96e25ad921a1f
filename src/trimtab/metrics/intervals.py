"""95% intervals for ratios of sums over rows, by resampling rows: tokens of one row are not independent."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Transform = Callable[[Array], Array]


class Interval(NamedTuple):
    """An estimate and the ends of its 95% interval; the ends are NaN where there is none."""

    estimate: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    def shown(self, digits: int = 3) -> str:
        """In words: the estimate with its interval in brackets, where there are any."""
        if np.isnan(self.estimate):
            return "–"
        ends = f" [{self.low:.{digits}f}, {self.high:.{digits}f}]" if self.known else ""
        return f"{self.estimate:.{digits}f}{ends}"

    @property
    def excludes_zero(self) -> bool:
        return self.known and (self.low > 0 or self.high < 0)


def bootstrap_ratio(
    sums: ArrayLike, counts: ArrayLike, seed: int = 0, draws: int = 2000, transform: Transform | None = None
) -> Interval:
    """Estimate sum(sums) / sum(counts) and its 95% interval over rows (percentile bootstrap).

    Args:
        sums: [R] one sum a row.
        counts: [R] tokens of the row, the weights of the ratio.
        seed: of the resampling; the same seed gives the same interval.
        draws: how many resamples.
        transform: monotone function of the ratio, such as `np.exp` for a perplexity.

    Returns:
        (estimate, low, high). The ends are NaN for fewer than two rows: one row says nothing about others. All
        three are NaN where a sum is NaN or no tokens were counted.

    Raises:
        ValueError: if the lengths differ.
    """
    table = _table(sums, counts)
    estimate = _ratio(table.sum(axis=0), transform)
    resampled = [_ratio(total, transform) for total in _resample(table, seed, draws)]
    return _interval(estimate, resampled)


def paired_difference(
    sums: ArrayLike,
    counts: ArrayLike,
    other_sums: ArrayLike,
    other_counts: ArrayLike,
    seed: int = 0,
    draws: int = 2000,
    transform: Transform | None = None,
) -> Interval:
    """Estimate how much the ratio of `other` exceeds the first, and its 95% interval over the rows they share.

    Row i of both sides is the same held-out row and is drawn jointly, so that what makes a row hard for both
    cancels.

    Args:
        sums, counts: [R] before, or the first run.
        other_sums, other_counts: [R] after, or the other run, in the same order.
        seed, draws, transform: see `bootstrap_ratio`; the difference is taken after the transform.

    Returns:
        (other - first, low, high), with NaN as in `bootstrap_ratio`.

    Raises:
        ValueError: if the lengths differ.
    """
    table = _table(sums, counts, other_sums, other_counts)

    def difference(total: Array) -> Array:
        return _ratio(total[..., 2:], transform) - _ratio(total[..., :2], transform)

    return _interval(difference(table.sum(axis=0)), [difference(total) for total in _resample(table, seed, draws)])


def stratified_mean(
    strata: Sequence[tuple[ArrayLike, ArrayLike]],
    weights: Sequence[float] | None = None,
    seed: int = 0,
    draws: int = 2000,
) -> Interval:
    """Estimate the weighted sum of the strata's ratios, and its 95% interval over the rows within each stratum.

    Args:
        strata: (sums, counts) of each, as in `bootstrap_ratio`; rows never change stratum.
        weights: one a stratum; if not given all are equal and add up to 1.
        seed, draws: see `bootstrap_ratio`.

    Returns:
        (estimate, low, high), with NaN as in `bootstrap_ratio`; the ends also where a stratum has but one row, or
        where a resample of it has nothing to divide by.

    Raises:
        ValueError: if lengths differ, or there is no stratum.
    """
    if not strata or (weights is not None and len(weights) != len(strata)):
        raise ValueError(f"{len(strata)} strata with {'no' if weights is None else len(weights)} weights")
    tables = [_table(sums, counts) for sums, counts in strata]
    of_strata = np.full(len(tables), 1 / len(tables)) if weights is None else np.asarray(weights, np.float64)
    estimate = of_strata @ np.array([_ratio(table.sum(axis=0), None) for table in tables])
    if min(len(table) for table in tables) < 2:
        return _interval(estimate, [])
    resampled = [
        np.concatenate([_ratio(total, None) for total in _resample(table, (seed, number), draws)])
        for number, table in enumerate(tables)
    ]
    return _interval(estimate, [of_strata @ np.stack(resampled)])


def _table(*columns: ArrayLike) -> Array:
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
        raise ValueError(f"sums and counts must be lists of one length, got {[array.shape for array in arrays]}")
    return np.stack(arrays, axis=1)  # [R, columns]


def _ratio(total: Array, transform: Transform | None) -> Array:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = total[..., 0] / total[..., 1]
        return ratio if transform is None else transform(ratio)


def _resample(table: Array, seed: int | Sequence[int], draws: int, block: int = 2_000_000) -> Iterator[Array]:
    """Sums of the columns over rows drawn with replacement, [some draws, columns] at a time to bound memory."""
    rows = len(table)
    generator = np.random.default_rng(seed)
    at_once = max(1, block // max(rows, 1))
    for start in range(0, draws if rows > 1 else 0, at_once):
        drawn = generator.integers(rows, size=(min(at_once, draws - start), rows))
        yield np.stack([column[drawn].sum(axis=1) for column in table.T], axis=1)


def _interval(estimate: Array, resampled: list[Array]) -> Interval:
    if not resampled:
        return Interval(float(estimate), np.nan, np.nan)
    with np.errstate(invalid="ignore"):  # infinite perplexities
        low, high = np.percentile(np.concatenate(resampled), [2.5, 97.5])
    return Interval(float(estimate), float(low), float(high))
