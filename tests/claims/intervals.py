"""95% intervals for differences between methods, where both ran with the same seeds and the same rows."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]


class Interval(NamedTuple):
    """An estimate and the ends of its 95% interval."""

    estimate: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.estimate:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def over_seeds(differences: Sequence[float]) -> Interval:
    """Mean of paired differences, one a seed, with the interval of Student's t. One seed has none: NaN."""
    values = np.asarray(differences, dtype=np.float64)
    mean = float(values.mean())
    if len(values) < 2:
        return Interval(mean, np.nan, np.nan)
    half = float(stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return Interval(mean, mean - half, mean + half)


def over_seeds_and_rows(
    sums: ArrayLike,
    counts: ArrayLike,
    other: ArrayLike | None = None,
    *,
    transform: Callable[[Array], Array] | None = None,
    draws: int = 4000,
    seed: int = 0,
) -> Interval:
    """Mean per token, or how much it exceeds that of `other`, with a crossed bootstrap over seeds and rows.

    Every resample draws seeds with replacement and, independently, rows with replacement; both methods get the
    same draw, so what makes a row or a seed hard for both cancels. With three seeds, resampling them understates
    how much further seeds would differ.

    Args:
        sums: [S, R] over the answer tokens of row r after training with seed s.
        counts: [R] answer tokens of each row.
        other: [S, R] of the method that is subtracted; nothing is subtracted if None.
        transform: of the mean, before the difference, such as `np.exp` for a perplexity.
    """
    counts = np.asarray(counts, dtype=np.float64)
    tables = [np.asarray(table, dtype=np.float64) for table in (sums, *(() if other is None else (other,)))]
    num_seeds, num_rows = tables[0].shape
    generator = np.random.default_rng(seed)
    seed_weights = generator.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=draws)  # [D, S]
    row_weights = generator.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=draws)  # [D, R]

    def value(seeds: Array, rows: Array) -> Array:
        means = [((seeds @ table) * rows).sum(axis=1) / (num_seeds * (rows @ counts)) for table in tables]
        means = [mean if transform is None else transform(mean) for mean in means]
        return means[0] - means[1] if len(means) == 2 else means[0]

    estimate = value(np.ones((1, num_seeds)), np.ones((1, num_rows)))[0]
    low, high = np.percentile(value(seed_weights.astype(float), row_weights.astype(float)), [2.5, 97.5])
    return Interval(float(estimate), float(low), float(high))


def between_ends(found: Mapping[float, Sequence[Mapping[str, float]]], what: str) -> dict[str, list[float]]:
    """Measures under the last value of a setting minus those under the first, with intervals over seeds; printed too.

    Args:
        found: value -> the measures of each seed.
        what: the setting.
    """
    values = list(found)
    first, last = values[0], values[-1]
    differences = {}
    for name in found[first][0]:
        differences[name] = list(over_seeds([b[name] - a[name] for a, b in zip(found[first], found[last])]))
        print(f"{name}: {what} {last:g} minus {what} {first:g}: {differences[name]}")
    return differences
