"""95% intervals: bootstrap over rows, since tokens of a row are not independent, and Student's t for a few runs.

One percentile bootstrap serves all: `scipy.stats.bootstrap` draws no rows jointly for ratios of sums in bounded memory,
and its draws would change with its version.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
Transform = Callable[[Array], Array]


class Interval(NamedTuple):
    """An estimate with the ends of its 95% interval, which are NaN if there is none."""

    estimate: float
    low: float
    high: float

    @property
    def known(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))

    def shown(self, digits: int = 3) -> str:
        """The estimate with its interval in brackets, as text."""
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
        sums: [R] one sum per row.
        counts: [R] tokens of the row, the weights of the ratio.
        seed: the same seed gives the same interval.
        transform: monotone function of the ratio, such as `np.exp` for a perplexity.

    Returns:
        (estimate, low, high). The ends are NaN for fewer than two rows. All three are NaN if a sum is NaN or no
        tokens were counted.

    Raises:
        ValueError: if the lengths differ.
    """
    return bootstrap_sums(_table(sums, counts), lambda total: _ratio(total, transform), seed, draws)


def mean_of(values: ArrayLike, seed: int = 0, draws: int = 2000) -> Interval:
    """The mean of one value per row; see `bootstrap_ratio`, and `paired_difference` for paired differences."""
    column = np.asarray(values, np.float64)
    return bootstrap_ratio(column, np.ones(len(column)), seed, draws)


def student_mean(values: Sequence[float]) -> Interval:
    """The mean with its Student's t interval, for a few nearly normal values, such as runs with different seeds; the
    ends are NaN for fewer than two values, or if one is not finite."""
    from scipy.special import stdtrit  # takes a third of a second, which most pages do not need

    number = len(values)
    middle = float(np.mean(values)) if number else np.nan
    if number < 2 or not np.isfinite(values).all():
        return Interval(middle, np.nan, np.nan)
    reach = float(stdtrit(number - 1, 0.975) * np.std(values, ddof=1)) / number**0.5
    return Interval(middle, middle - reach, middle + reach)


def paired_difference(
    sums: ArrayLike,
    counts: ArrayLike,
    other_sums: ArrayLike,
    other_counts: ArrayLike,
    seed: int = 0,
    draws: int = 2000,
    transform: Transform | None = None,
) -> Interval:
    """Estimate how much the ratio of `other` exceeds the first, with its 95% interval over the shared rows.

    Row i of both sides is the same held-out row and is resampled jointly, so that the difficulty of a row
    cancels.

    Args:
        sums, counts: [R] before, or the first run.
        other_sums, other_counts: [R] after, or the other run, in the same order.
        transform: see `bootstrap_ratio`; the difference is taken after it.

    Raises:
        ValueError: if the lengths differ.
    """
    table = _table(sums, counts, other_sums, other_counts)

    def difference(total: Array) -> Array:
        return _ratio(total[..., 2:], transform) - _ratio(total[..., :2], transform)

    return bootstrap_sums(table, difference, seed, draws)


def stratified_mean(
    strata: Sequence[tuple[ArrayLike, ArrayLike]],
    weights: Sequence[float] | None = None,
    seed: int = 0,
    draws: int = 2000,
) -> Interval:
    """Estimate the weighted sum of the strata's ratios, with its 95% interval over the rows within each stratum.

    Args:
        strata: (sums, counts) of each, as in `bootstrap_ratio`; rows never change stratum.
        weights: one per stratum; by default equal, adding up to 1.

    Returns:
        NaN as in `bootstrap_ratio`; the ends also if a stratum has only one row, or a resample of it has a count of 0.

    Raises:
        ValueError: if lengths differ, or there is no stratum.
    """
    if not strata or (weights is not None and len(weights) != len(strata)):
        raise ValueError(f"{len(strata)} strata with {'no' if weights is None else len(weights)} weights")
    tables = [_table(sums, counts) for sums, counts in strata]
    of_strata = np.full(len(tables), 1 / len(tables)) if weights is None else np.asarray(weights, np.float64)
    estimate = float(of_strata @ np.array([_ratio(table.sum(axis=0), None) for table in tables]))
    if min(len(table) for table in tables) < 2:
        return Interval(estimate, np.nan, np.nan)
    resampled = [
        np.concatenate([_ratio(total, None) for total in _resample(table, (seed, number), draws)])
        for number, table in enumerate(tables)
    ]
    return Interval(estimate, *ends(of_strata @ np.stack(resampled)))


def bootstrap_sums(
    table: Array, statistic: Transform, seed: int = 0, draws: int = 2000, *, skip_nan: bool = False
) -> Interval:
    """A function of column sums over rows, with its 95% interval over rows resampled with replacement.

    Args:
        table: [R, C].
        statistic: [..., C] sums -> [...].
        skip_nan: leave out resamples with a NaN statistic; otherwise one of them makes the ends NaN.

    Returns:
        (estimate, low, high); the ends are NaN for fewer than two rows.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        estimate = float(statistic(table.sum(axis=0)))
        if len(table) < 2 or np.isnan(estimate):
            return Interval(estimate, np.nan, np.nan)
        resampled = np.concatenate([statistic(total) for total in _resample(table, seed, draws)])
    return Interval(estimate, *ends(resampled, skip_nan=skip_nan))


def bootstrap(statistic: Callable[..., Array], *columns: ArrayLike, seed: int = 0, draws: int = 2000) -> Interval:
    """A statistic of N rows that is not a function of sums, with its 95% interval over resampled rows.

    Args:
        statistic: of columns [..., N], such as a rank correlation; gives [...].
        columns: [N] each, drawn jointly; the same seed gives the same draws for every statistic.

    Returns:
        Resamples with a NaN statistic, such as constant ones, are left out. The ends are NaN if the estimate is, and
        for fewer than two rows; all are NaN if there are no rows.
    """
    arrays = [np.asarray(column, float) for column in columns]
    estimate = float(statistic(*arrays)) if len(arrays[0]) else np.nan
    if len(arrays[0]) < 2 or np.isnan(estimate):
        return Interval(estimate, np.nan, np.nan)
    found = [statistic(*(array[drawn] for array in arrays)) for drawn in _drawn(len(arrays[0]), seed, draws)]
    return Interval(estimate, *ends(np.concatenate(found), skip_nan=True))


def bootstrap_corpus(
    texts: Sequence[str], measure: Callable[[list[str]], float], seed: int = 0, draws: int = 200
) -> Interval:
    """A measure of a whole corpus, with its 95% interval over texts resampled with replacement.

    A measure that falls with repetition is lower in a resample, which repeats texts: the interval is shifted to be
    centred on the estimate.
    """
    estimate = measure(list(texts))
    if len(texts) < 2 or np.isnan(estimate):
        return Interval(estimate, np.nan, np.nan)
    found = [
        measure([str(texts[i]) for i in row]) for drawn in _drawn(len(texts), seed, draws) for row in drawn.tolist()
    ]
    low, middle, high = np.nanpercentile(found, [2.5, 50, 97.5])
    return Interval(estimate, float(estimate + low - middle), float(estimate + high - middle))


def ends(values: Array, *, skip_nan: bool = False) -> tuple[float, float]:
    """The ends of the central 95% of values; NaN if one of them is (unless skipped), or if there are none."""
    values = values[~np.isnan(values)] if skip_nan else values
    if not len(values):
        return np.nan, np.nan
    with np.errstate(invalid="ignore"):  # infinite perplexities
        low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _table(*columns: ArrayLike) -> Array:
    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if len({array.shape for array in arrays}) != 1 or arrays[0].ndim != 1:
        raise ValueError(f"sums and counts must be lists of the same length, got {[array.shape for array in arrays]}")
    return np.stack(arrays, axis=1)  # [R, columns]


def _ratio(total: Array, transform: Transform | None) -> Array:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = total[..., 0] / total[..., 1]
        return ratio if transform is None else transform(ratio)


def _resample(table: Array, seed: int | Sequence[int], draws: int) -> Iterator[Array]:
    """Column sums of rows resampled with replacement, [some draws, columns] at a time."""
    for drawn in _drawn(len(table), seed, draws):
        yield np.stack([column[drawn].sum(axis=1) for column in table.T], axis=1)


def _drawn(rows: int, seed: int | Sequence[int], draws: int, block: int = 2_000_000) -> Iterator[NDArray[np.int64]]:
    """Rows resampled with replacement, [some draws, rows] at a time to bound memory."""
    generator = np.random.default_rng(seed)
    at_once = max(1, block // max(rows, 1))
    for start in range(0, draws if rows > 1 else 0, at_once):
        yield generator.integers(rows, size=(min(at_once, draws - start), rows))
