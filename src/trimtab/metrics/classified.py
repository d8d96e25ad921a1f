"""How well labels are told, with intervals over rows: accuracy, F1, Matthews, and correlations of numbers."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from trimtab.metrics.intervals import Array, Interval, bootstrap, bootstrap_sums
from trimtab.metrics.ranks import pearson, spearman


def of_classes(labels: ArrayLike, answers: ArrayLike, number: int) -> dict[str, Interval]:
    """Accuracy; F1, of two classes that of class 1, of more the mean over classes ("macro F1"); and Matthews, the
    correlation of labels and answers (of more classes R_K). A ratio of 0 to 0 is 0, as in scikit-learn.

    Args:
        labels, answers: [R] numbers of classes, from 0 to below `number`.
    """
    table = _indicators(labels, answers, number)
    name = "F1" if number == 2 else "macro F1"
    return {
        "accuracy": bootstrap_sums(table, lambda total: total[..., :number].sum(-1) / _rows(total, number)),
        name: bootstrap_sums(table, lambda total: _f1(total, number)),
        "Matthews": bootstrap_sums(table, lambda total: _matthews(total, number)),
    }


def of_numbers(labels: Sequence[float], answers: Sequence[float]) -> dict[str, Interval]:
    """The correlations "Pearson" and "Spearman", and the "mean squared error"."""
    squared = bootstrap(lambda x, y: ((x - y) ** 2).mean(-1), labels, answers)
    correlations = {"Pearson": bootstrap(pearson, labels, answers), "Spearman": bootstrap(spearman, labels, answers)}
    return {**correlations, "mean squared error": squared}


def _indicators(labels: ArrayLike, answers: ArrayLike, number: int) -> Array:
    """[R, 3C] for each class: answered and right, answered, and true."""
    classes = np.arange(number)
    true = np.asarray(labels)[:, None] == classes
    answered = np.asarray(answers)[:, None] == classes
    return np.concatenate([true & answered, answered, true], axis=1).astype(np.float64)


def _parts(total: Array, number: int) -> tuple[Array, Array, Array]:
    return total[..., :number], total[..., number : 2 * number], total[..., 2 * number :]


def _rows(total: Array, number: int) -> Array:
    return total[..., 2 * number :].sum(-1)


def _ratio(above: Array, below: Array) -> Array:
    """0 where both are 0."""
    return np.where(below == 0, 0.0, above / np.where(below == 0, 1.0, below))


def _f1(total: Array, number: int) -> Array:
    right, answered, true = _parts(total, number)
    each = _ratio(2 * right, answered + true)
    return each[..., 1] if number == 2 else each.mean(-1)


def _matthews(total: Array, number: int) -> Array:
    right, answered, true = _parts(total, number)
    rows = _rows(total, number)
    above = right.sum(-1) * rows - (answered * true).sum(-1)
    below = (rows**2 - (answered**2).sum(-1)) * (rows**2 - (true**2).sum(-1))
    return _ratio(above, np.sqrt(below))
