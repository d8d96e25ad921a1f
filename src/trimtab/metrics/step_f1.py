"""ProcessBench's F1: locating the first erroneous step of a trace, with several ways to choose the threshold."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.metrics._checked import finite
from trimtab.metrics.intervals import Array, Interval, ends, mean_of


def first_error(scores: ArrayLike, threshold: float) -> int:
    """Index of the first step with a score below the threshold; -1 if there is none."""
    below = np.flatnonzero(np.asarray(scores) < threshold)
    return int(below[0]) if len(below) else -1


class StepF1(NamedTuple):
    f1: Interval
    """harmonic mean of the two accuracies; 0 if both are 0"""
    right: Interval
    """share of correct traces in which no error was found"""
    erroneous: Interval
    """share of erroneous traces whose first error was located at the correct step"""
    thresholds: tuple[float, ...] = ()


def step_f1(predicted: Sequence[int], labels: Sequence[int], seed: int = 0, draws: int = 2000) -> StepF1:
    """ProcessBench's F1 with its interval over traces, resampled within the correct and the erroneous ones.

    The interval takes the predictions as given: it does not account for the choice of a threshold.

    Args:
        predicted, labels: [T] index of the first erroneous step from 0, or -1 for none.

    Returns:
        F1 is NaN without both kinds of traces; ends are NaN for fewer than two of a kind.

    Raises:
        ValueError: if the numbers differ.
    """
    guess, truth = np.asarray(predicted, int), np.asarray(labels, int)
    if guess.shape != truth.shape:
        raise ValueError(f"{guess.size} predictions and {truth.size} labels")
    hits = [(guess == truth)[kind].astype(float) for kind in (truth == -1, truth != -1)]
    accuracies = [mean_of(hit, seed, draws) for hit in hits]
    estimate = float(_harmonic(*(accuracy.estimate for accuracy in accuracies)))
    found = StepF1(Interval(estimate, np.nan, np.nan), *accuracies)
    return found._replace(f1=mean_f1([found], [labels], seed, draws))


def mean_f1(sets: Sequence[StepF1], labels: Sequence[Sequence[int]], seed: int = 0, draws: int = 2000) -> Interval:
    """Mean F1 over sets of traces (see `step_f1`) with equal weights, with its interval over the traces of each; NaN
    where the F1 of a set is, and its ends for fewer than two traces of a kind in a set.
    """
    estimate, generator, drawn = float(np.mean([one.f1.estimate for one in sets])), np.random.default_rng(seed), []
    for one, truth in zip(sets, labels, strict=True):
        correct = sum(label == -1 for label in truth)
        numbers = (correct, len(truth) - correct)
        if min(numbers) < 2:
            return Interval(estimate, np.nan, np.nan)
        accuracies = zip(numbers, (one.right.estimate, one.erroneous.estimate))
        # the hits among n rows drawn with replacement are binomial
        drawn.append(_harmonic(*(generator.binomial(n, accuracy, draws) / n for n, accuracy in accuracies)))
    return Interval(estimate, *ends(np.mean(drawn, axis=0)))


def _harmonic(one: ArrayLike, other: ArrayLike) -> Array:
    one, other = np.asarray(one), np.asarray(other)
    total = one + other
    return 2 * one * other / np.where(total == 0, 1, total)


GRID = np.linspace(-1, 1, 10_000)
"""Thresholds of the released protocol."""


def best_threshold(scores: Sequence[ArrayLike], labels: Sequence[int], grid: ArrayLike | None = None) -> float:
    """The threshold with the highest F1 on these traces; the lowest one if several tie.

    Args:
        scores: of the steps of each trace.
        labels: [T] index of the first erroneous step from 0, or -1 for none.
        grid: thresholds to choose from, such as GRID. If not given, those halfway between neighbouring scores: F1
            only changes at scores, so no other threshold is better.

    Raises:
        ValueError: if a label is not a step of its trace, a score is not finite, or traces of a kind are missing.
    """
    traces = _traces(scores, labels)
    return _best(*traces, _halfway(traces[0]) if grid is None else np.sort(np.asarray(grid, np.float64)))


def verification(
    scores: Sequence[ArrayLike], labels: Sequence[int], problems: Sequence[Hashable] | None = None, seed: int = 0
) -> dict[str, StepF1]:
    """F1 with the threshold chosen in three ways, each `StepF1` with its thresholds.

    `oracle`: the best one, chosen on the same traces that it is measured on; `grid`: the best of the released
    protocol's 10,000. Both are optimistic. `held out`: chosen on one half of the problems and measured on the other, in
    both directions, with all predictions pooled.

    Args:
        scores, labels: see `best_threshold`.
        problems: [T] which problem each trace solves; traces of a problem stay in one half. By default each trace
            has its own.
        seed: of the split and the intervals.

    Raises:
        ValueError: see `best_threshold`; also if a half has no correct or no erroneous traces.
    """
    traces, truth = _traces(scores, labels)
    keys = list(range(len(traces)) if problems is None else problems)
    if len(keys) != len(traces):
        raise ValueError(f"{len(keys)} problems for {len(traces)} traces")
    distinct = list(dict.fromkeys(keys))
    order = np.random.default_rng(seed).permutation(len(distinct))
    first = {distinct[place] for place in order[: len(order) // 2]}
    halves = [[i for i, key in enumerate(keys) if (key in first) == side] for side in (True, False)]

    for half in halves:
        if len(set(truth[half] == -1)) < 2:
            raise ValueError(
                "one half of the problems has no correct or no erroneous traces; give more, or another seed"
            )
    oracle, on_grid = best_threshold(traces, labels), best_threshold(traces, labels, GRID)
    of_halves = [best_threshold([traces[i] for i in half], truth[half].tolist()) for half in halves]
    thresholds = np.full((3, len(traces)), [[oracle], [on_grid], [of_halves[0]]])
    thresholds[2, halves[0]] = of_halves[1]
    used = ((oracle,), (on_grid,), tuple(of_halves))
    found = {}
    for name, own, chosen in zip(("oracle", "grid", "held out"), thresholds, used):
        predicted = [first_error(one, threshold) for one, threshold in zip(traces, own)]
        found[name] = step_f1(predicted, truth.tolist(), seed)._replace(thresholds=chosen)
    return found


def _traces(scores: Sequence[ArrayLike], labels: Sequence[int]) -> tuple[list[Array], NDArray[np.int64]]:
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} traces and {len(labels)} labels")
    traces = [finite(one, f"trace {number}") for number, one in enumerate(scores, 1)]
    for number, (one, label) in enumerate(zip(traces, labels), 1):
        if not len(one):
            raise ValueError(f"trace {number} has no steps")
        if not -1 <= label < len(one):
            raise ValueError(
                f"trace {number} has {len(one)} steps and the label {label}; expected -1 to {len(one) - 1}"
            )
    truth = np.asarray(labels, np.int64)
    correct = int((truth == -1).sum())
    if correct in (0, len(truth)):
        raise ValueError(f"{correct} correct and {len(truth) - correct} erroneous traces; F1 needs both")
    return traces, truth


def _halfway(traces: Sequence[Array]) -> Array:
    """The lowest score (nothing is below it) and the midpoints between neighbours, ascending."""
    found = np.unique(np.concatenate(traces))
    between = found[:-1] / 2 + found[1:] / 2
    between = np.where(between > found[:-1], between, found[1:])  # neighbouring floats have no middle
    return np.append(found[:1], between)


def _best(traces: Sequence[Array], truth: NDArray[np.int64], thresholds: Array) -> float:
    """The threshold with the highest F1. A trace is classified correctly by thresholds in (`low`, `high`]."""
    accuracies = []
    for kind in (truth == -1, truth != -1):
        of_kind = [(one, label) for one, label, of_it in zip(traces, truth.tolist(), kind) if of_it]
        high = np.array([one[: label if label >= 0 else None].min(initial=np.inf) for one, label in of_kind])
        low = np.array([one[label] if label >= 0 else -np.inf for one, label in of_kind])
        low = np.minimum(low, high)  # an error that an earlier step hides is never found
        above, past = (np.searchsorted(np.sort(end), thresholds) for end in (low, high))
        accuracies.append((above - past) / len(of_kind))
    return float(thresholds[np.argmax(_harmonic(*accuracies))])
