"""The intervals that the claims rest on."""

import math

import intervals
import numpy as np
import pytest


def test_interval_over_three_seeds_by_hand():
    found = intervals.over_seeds([1.0, 2.0, 3.0])
    assert found.estimate == 2.0
    assert found.high - 2.0 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t of 2 degrees of freedom
    assert found.low == pytest.approx(4.0 - found.high)


def test_one_seed_has_no_interval():
    assert math.isnan(intervals.over_seeds([1.0]).low)


def test_mean_is_over_tokens_of_all_seeds_and_rows():
    found = intervals.over_seeds_and_rows([[2.0, 30.0], [4.0, 30.0]], [2, 10])
    assert found.estimate == pytest.approx(66 / 24)


def test_a_method_differs_from_itself_by_nothing():
    sums = np.random.default_rng(0).random((3, 7))
    assert intervals.over_seeds_and_rows(sums, np.ones(7), sums) == (0.0, 0.0, 0.0)


def test_what_makes_a_row_or_a_seed_hard_for_both_cancels():
    generator = np.random.default_rng(0)
    counts = generator.integers(5, 50, size=9)
    base = generator.random((3, 1)) * 10 * counts + generator.random((1, 9)) * 10 * counts
    found = intervals.over_seeds_and_rows(base + 0.5 * counts, counts, base)
    assert found == pytest.approx((0.5, 0.5, 0.5))
    alone = intervals.over_seeds_and_rows(base, counts)
    assert alone.high - alone.low > 1


def test_both_seeds_and_rows_widen_the_interval():
    counts = np.ones(8)
    rows = np.tile(np.arange(8.0), (3, 1))
    seeds = np.tile(np.arange(3.0)[:, None], (1, 8))
    for sums in (rows, seeds):
        found = intervals.over_seeds_and_rows(sums, counts)
        assert found.low < found.estimate - 0.3
        assert found.high > found.estimate + 0.3


def test_transform_is_taken_before_the_difference():
    found = intervals.over_seeds_and_rows([[math.log(5.0)]], [1], [[math.log(3.0)]], transform=np.exp)
    assert found.estimate == pytest.approx(2.0)


def test_measures_under_the_last_value_are_held_against_the_first_seed_by_seed(capsys):
    found = {0.0: [{"loss": 3.0}, {"loss": 5.0}], 0.5: [{"loss": 0.0}] * 2, 1.0: [{"loss": 1.0}, {"loss": 4.0}]}
    assert intervals.between_ends(found, "beta")["loss"][0] == -1.5
    assert "loss: beta 1 minus beta 0: [-1.5" in capsys.readouterr().out
    assert intervals.between_ends({0.1: found[0.0]}, "beta")["loss"][0] == 0.0
