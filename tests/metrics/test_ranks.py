"""Ranks, AUC and percentiles by hand, and along the last axis."""

import math

import numpy as np
import pytest

from trimtab.metrics.ranks import auc, percentile, ranks, spearman


def test_the_auc_of_four_answers_by_hand():
    assert auc([3.0, 1.0, 2.0, 0.0], [1, 0, 1, 0]) == 1
    assert auc([0.0, 1.0, 2.0, 2.0], [1, 0, 1, 0]) == 0.375
    assert math.isnan(auc([1.0, 2.0], [1, 1]))


def test_every_row_of_a_table_has_an_auc_of_its_own():
    scores, good = np.array([[3.0, 1, 2], [1, 2, 2]]), np.array([[1, 0, 0], [1, 1, 0]])
    assert auc(scores, good).tolist() == [auc(s, g) for s, g in zip(scores, good)]


def test_values_that_are_equal_but_for_rounding_tie():
    assert ranks([0.1 + 0.2, 0.3, 1.0]).tolist() == [1.5, 1.5, 3]
    assert percentile(0.3, [0.1 + 0.2, 0.1, 0.9]) == pytest.approx(50)
    assert spearman(np.array([0.3, 0.1 + 0.2, 1.0]), np.array([2.0, 2.0, 5.0])) == pytest.approx(1)
