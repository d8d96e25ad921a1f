"""Accuracy, F1, Matthews and correlations: worked by hand, and against scikit-learn and scipy."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from trimtab.metrics.classified import of_classes, of_numbers


def test_two_classes_worked_by_hand():
    labels, answers = [1, 1, 1, 0, 0, 0, 0, 0], [1, 1, 0, 1, 0, 0, 0, 0]
    found = of_classes(labels, answers, 2)
    assert found["accuracy"].estimate == 6 / 8
    assert found["F1"].estimate == pytest.approx(2 * 2 / (2 * 2 + 1 + 1))
    assert found["Matthews"].estimate == pytest.approx((2 * 4 - 1 * 1) / np.sqrt(3 * 3 * 5 * 5))
    assert found["accuracy"].low < 6 / 8 < found["accuracy"].high


@pytest.mark.parametrize("number", [2, 3, 5])
def test_they_are_those_of_scikit_learn(number):
    generator = np.random.default_rng(number)
    labels = generator.integers(number, size=60)
    answers = np.where(generator.random(60) < 0.6, labels, generator.integers(number, size=60))
    found = of_classes(labels, answers, number)
    average = {"average": "binary" if number == 2 else "macro"}
    assert found["F1" if number == 2 else "macro F1"].estimate == pytest.approx(
        metrics.f1_score(labels, answers, **average)
    )
    assert found["Matthews"].estimate == pytest.approx(metrics.matthews_corrcoef(labels, answers))
    assert found["accuracy"].estimate == pytest.approx(metrics.accuracy_score(labels, answers))


def test_a_model_that_always_gives_one_class_has_a_matthews_of_zero():
    found = of_classes([0, 1, 1], [1, 1, 1], 2)
    assert found["Matthews"].estimate == metrics.matthews_corrcoef([0, 1, 1], [1, 1, 1]) == 0
    assert of_classes([1, 1, 0], [0, 0, 0], 2)["F1"].estimate == 0


def test_correlations_are_those_of_scipy():
    generator = np.random.default_rng(0)
    labels = generator.normal(size=40)
    answers = labels + generator.normal(size=40)
    found = of_numbers(labels, answers)
    assert found["Pearson"].estimate == pytest.approx(stats.pearsonr(labels, answers).statistic)
    assert found["Spearman"].estimate == pytest.approx(stats.spearmanr(labels, answers).statistic)
    assert found["mean squared error"].estimate == pytest.approx(np.mean((labels - answers) ** 2))
    assert found["Pearson"].low < found["Pearson"].estimate < found["Pearson"].high
