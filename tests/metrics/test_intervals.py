import math

import numpy as np
import pytest

from trimtab.metrics.intervals import stratified_mean
from trimtab.report import bootstrap_ratio, paired_difference


def test_equal_rows_have_an_interval_of_no_width():
    assert bootstrap_ratio([3.0] * 8, [2] * 8) == (1.5, 1.5, 1.5)


def test_the_ratio_is_sum_over_sum_and_not_the_mean_of_ratios():
    # rows of 1 and 9 tokens: (1 + 27) / 10; the mean of the two ratios would be 2
    assert bootstrap_ratio([1.0, 27.0], [1, 9]).estimate == 2.8


def test_the_interval_of_two_rows_is_that_of_the_three_possible_draws():
    # two rows drawn twice: (0, 0), (0, 1) or (1, 1), with chances 1/4, 1/2, 1/4
    assert bootstrap_ratio([0.0, 1.0], [1, 1]) == (0.5, 0.0, 1.0)


def test_the_interval_agrees_with_the_normal_approximation_on_many_rows():
    values = np.random.default_rng(1).normal(size=400)
    estimate, low, high = bootstrap_ratio(values, np.ones(400))
    half = 1.96 * values.std() / math.sqrt(400)
    assert estimate == pytest.approx(values.mean())
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.1 * half)


def test_a_transform_is_applied_to_the_estimate_and_to_the_ends():
    plain, transformed = bootstrap_ratio([0.0, 1.0], [1, 1]), bootstrap_ratio([0.0, 1.0], [1, 1], transform=np.exp)
    assert transformed == pytest.approx([math.exp(end) for end in plain])


def test_a_seed_gives_the_same_interval_again_and_another_seed_another():
    values = np.random.default_rng(1).normal(size=30)
    assert bootstrap_ratio(values, np.ones(30), seed=3) == bootstrap_ratio(values, np.ones(30), seed=3)
    assert bootstrap_ratio(values, np.ones(30), seed=3) != bootstrap_ratio(values, np.ones(30), seed=4)


def test_one_row_has_an_estimate_and_no_interval():
    interval = bootstrap_ratio([3.0], [2])
    assert interval.estimate == 1.5
    assert not interval.known
    assert not interval.excludes_zero


@pytest.mark.parametrize("sums, counts", [([1.0, math.nan], [1, 1]), ([], []), ([0.0, 0.0], [0, 0])])
def test_a_ratio_that_is_no_number_has_no_interval(sums, counts):
    assert all(math.isnan(part) for part in bootstrap_ratio(sums, counts))


def test_many_rows_are_resampled_in_blocks_that_change_nothing_but_memory():
    sums, counts = np.tile([0.0, 1.0], 3000), np.ones(6000)  # 333 draws at a time
    estimate, low, high = bootstrap_ratio(sums, counts)
    assert estimate == 0.5
    assert (low, high) == pytest.approx((0.5 - 1.96 * 0.5 / 77.46, 0.5 + 1.96 * 0.5 / 77.46), abs=2e-3)


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="the same length"):
        bootstrap_ratio([1.0, 2.0], [1])


def test_identical_runs_differ_by_nothing():
    sums, counts = np.random.default_rng(1).normal(size=30), np.arange(1, 31)
    assert paired_difference(sums, counts, sums, counts) == (0.0, 0.0, 0.0)


def test_the_difference_is_the_second_minus_the_first():
    assert paired_difference([1.0, 1.0], [1, 1], [4.0, 4.0], [1, 1]) == (3.0, 3.0, 3.0)


def test_rows_are_drawn_jointly():
    hard = np.random.default_rng(1).normal(scale=100, size=30)
    difference = paired_difference(hard, np.ones(30), hard + 1, np.ones(30))
    assert difference == pytest.approx((1, 1, 1))  # drawn apart, the interval would be some 100 wide
    assert difference.excludes_zero


def test_the_transform_comes_before_the_difference():
    difference = paired_difference([0.0, 0.0], [1, 1], [1.0, 1.0], [1, 1], transform=np.exp)
    assert difference == pytest.approx([math.e - 1] * 3)


def test_an_interval_around_zero_does_not_exclude_it():
    assert not paired_difference([0.0, 0.0], [1, 1], [1.0, -1.0], [1, 1]).excludes_zero


def test_a_stratified_mean_weighs_strata_and_not_rows():
    assert stratified_mean([([1.0] * 9, [1] * 9), ([0.0] * 2, [1] * 2)]) == (0.5, 0.5, 0.5)
    assert stratified_mean([([3.0, 1.0], [1, 1]), ([2.0, 2.0], [4, 4])], [1, -1]).estimate == 1.5


def test_strata_are_resampled_apart_and_not_in_step():
    # each draws 0, 1/2 or 1 with chances 1/4, 1/2, 1/4; drawn apart, all three are 0 in 1 of 64 draws, fewer than the
    # 2.5 % below the low end, and the next mean is 1/6; in step they would all be 0 in 1 of 4
    both = ([0.0, 1.0], [1, 1])
    assert stratified_mean([both]) == (0.5, 0.0, 1.0)
    estimate, low, high = stratified_mean([both] * 3)
    assert (estimate, low, high) == pytest.approx((0.5, 1 / 6, 5 / 6))


def test_a_stratum_of_one_row_leaves_the_estimate_and_no_interval():
    interval = stratified_mean([([1.0, 0.0], [1, 1]), ([1.0], [1])])
    assert interval.estimate == 0.75
    assert not interval.known


def test_strata_without_weights_to_match_are_refused():
    with pytest.raises(ValueError, match="1 strata with 2 weights"):
        stratified_mean([([1.0], [1])], [1, 1])
    with pytest.raises(ValueError, match="0 strata"):
        stratified_mean([])
