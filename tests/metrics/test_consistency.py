"""Agreement of two lists of ratings against identities, values worked out by hand, and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from tiny_table import table
from trimtab.metrics import consistency
from trimtab.metrics.consistency import (
    cosine,
    cronbach,
    difference,
    metrics,
    order_shifts,
    p_value,
    pcp,
    profile_distance,
    repeat_spread,
    reverse_differences,
    same_side,
    scored,
    shuffled,
    spearman_brown,
    split_half,
    uniform,
    vmd,
)
from trimtab.metrics.intervals import bootstrap
from trimtab.metrics.ranks import percentile, ranks, spearman


def ratings(seed: int, number: int = 40) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    return generator.integers(1, 8, (2, number)).astype(float)


S, A = np.array([1.0, 4, 7, 6]), np.array([2.0, 4, 5, 1])
"""differences 1, 0, -2, -5"""


def test_metrics_of_four_pairs_by_hand():
    assert cosine(S, A) == pytest.approx((2 + 16 + 35 + 6) / math.sqrt(102 * 46))
    # centred: -3 0 3 2 and -2 0 1 -3
    assert cosine(S, A, 4.0) == pytest.approx((6 + 3 - 6) / math.sqrt(22 * 14))
    assert spearman(S, A) == pytest.approx(1 - 6 * (1 + 1 + 0 + 4) / (4 * 15))  # ranks 1 2 4 3 and 2 3 4 1
    assert vmd(S, A) == 2
    assert difference(S, A) == -1.5
    assert [pcp(S, A, d) for d in (0, 1, 2, 5)] == [0.25, 0.5, 0.75, 1]
    assert same_side(S, A) == 0.75  # low low, middle middle, high high, high low


def test_equal_answers_agree_in_every_way():
    s, _ = ratings(0)
    found = {name: metric(s, s) for name, metric in metrics().items()}
    assert found == pytest.approx(
        {
            "cosine": 1, "cosine centred": 1, "spearman": 1, "VMD": 0, "signed difference": 0,
            "PCP 0": 1, "PCP 1": 1, "PCP 2": 1, "same side": 1,
        }
    )  # fmt: skip


def test_mirrored_answers_disagree():
    s, _ = ratings(1)
    assert cosine(s, 8 - s, 4.0) == pytest.approx(-1)
    assert spearman(s, 8 - s) == pytest.approx(-1)
    assert same_side(s, 8 - s) == (s == 4).mean()


def test_pairs_may_come_in_any_order():
    s, a = ratings(2)
    order = np.random.default_rng(0).permutation(len(s))
    for metric in metrics().values():
        assert metric(s[order], a[order]) == pytest.approx(metric(s, a))


def test_a_constant_added_changes_the_difference_and_not_the_ranks():
    s, a = ratings(3)
    assert spearman(s, a + 0.5) == pytest.approx(spearman(s, a))
    assert difference(s, a + 0.5) == pytest.approx(difference(s, a) + 0.5)
    assert vmd(s, s + 0.5) == pytest.approx(0.5)


def test_more_pairs_are_consistent_for_a_wider_delta():
    s, a = ratings(4)
    curve = [pcp(s, a, d) for d in np.linspace(0, 6, 13)]
    assert curve == sorted(curve)
    assert curve[-1] == 1
    assert "PCP 1.5" in metrics(1.5)
    assert metrics(1.5)["PCP 1.5"](s, a) == pcp(s, a, 1.5)


def test_a_constant_list_has_no_rank_correlation():
    s, _ = ratings(5)
    four = np.full(len(s), 4.0)
    assert math.isnan(spearman(four, s))
    assert math.isnan(spearman(s, four + 1e-12))
    assert math.isnan(cosine(four, s, 4.0))
    assert math.isnan(cosine(four + 1e-12, s, 4.0))
    assert cosine(four, four) == pytest.approx(1)  # the raw cosine flatters


def test_rounding_moves_no_pair():
    s, a = np.array([2.2]), np.array([1.2])
    assert s - a > 1
    assert pcp(s, a, 1) == 1
    assert same_side(np.array([4 + 1e-12]), np.array([4 - 1e-12])) == 1
    assert ranks(np.array([0.1 + 0.2, 0.3, 1.0])).tolist() == [1.5, 1.5, 3]


@table("seed", range(20))
def test_ranks_and_correlations_are_those_of_scipy(seed):
    s, a = ratings(seed, number=2 + seed)
    np.testing.assert_allclose(ranks(s), stats.rankdata(s))
    if len(set(s)) > 1 and len(set(a)) > 1:
        assert spearman(s, a) == pytest.approx(stats.spearmanr(s, a).statistic)


def test_metrics_work_along_the_last_axis():
    s, a = np.random.default_rng(0).integers(1, 8, (2, 3, 5, 11)).astype(float)
    for metric in metrics().values():
        found = metric(s, a)
        assert found.shape == (3, 5)
        assert found[2, 1] == pytest.approx(float(metric(s[2, 1], a[2, 1])), nan_ok=True)


@pytest.mark.parametrize("seed", range(3))
def test_simulated_answerers_are_ordered_by_how_far_they_do_what_they_say(seed):
    def answerer(rho: float) -> tuple[np.ndarray, np.ndarray]:
        """A person per pair, so that pairs are independent: latent traits said and done correlate by rho."""
        generator = np.random.default_rng(seed)
        said, other, e1, e2 = generator.standard_normal((4, 600))
        key = np.where(np.arange(600) % 2, 1, -1)
        done = rho * said + math.sqrt(1 - rho**2) * other
        return tuple(np.clip(np.round(4 + 1.3 * key * x + 0.5 * e), 1, 7) for x, e in ((said, e1), (done, e2)))

    rising = ("cosine", "cosine centred", "spearman", "PCP 0", "PCP 1", "PCP 2", "same side")
    found = [{n: m(*answerer(rho)) for n, m in metrics().items()} for rho in (-0.5, 0.0, 0.5, 0.9)]
    for name in rising:
        assert [one[name] for one in found] == sorted(one[name] for one in found), name
    assert [-one["VMD"] for one in found] == sorted(-one["VMD"] for one in found)
    assert abs(found[1]["spearman"]) < 0.12
    assert found[1]["cosine"] > 0.8  # though nothing is in common


# ---------------------------------------------------------------- intervals and chance


def test_the_bootstrap_of_a_mean_has_the_width_of_its_standard_error():
    x = np.random.default_rng(0).normal(size=400)
    found = bootstrap(lambda x: x.mean(-1), x)
    assert found.estimate == x.mean()
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * x.std() / 20, rel=0.06)
    assert found == bootstrap(lambda x: x.mean(-1), x)


def test_pairs_are_drawn_jointly():
    s, _ = ratings(0)
    assert bootstrap(spearman, s, s)[:] == pytest.approx((1, 1, 1))


def test_there_is_no_interval_where_there_is_no_estimate():
    four = np.full(10, 4.0)
    assert all(map(math.isnan, bootstrap(spearman, four, np.arange(10.0))))
    assert all(map(math.isnan, bootstrap(vmd, [], [])))
    one = bootstrap(vmd, [1], [3])
    assert one.estimate == 2
    assert math.isnan(one.low)
    two = bootstrap(spearman, [1, 2], [1, 2])  # half of the resamples are constant and left out
    assert two[:] == pytest.approx((1, 1, 1))


def test_the_chance_levels_of_uniform_answers_are_those_of_two_dice():
    def level(metric, answers=1):
        return metric(*uniform(60, answers)).mean()

    assert level(pcp) == pytest.approx(19 / 49, abs=0.01)
    assert level(lambda s, a: pcp(s, a, 0)) == pytest.approx(1 / 7, abs=0.01)
    assert level(vmd) == pytest.approx(112 / 49, abs=0.02)
    assert level(spearman) == pytest.approx(0, abs=0.01)
    assert level(cosine) == pytest.approx(16 / 20, abs=0.01)  # E[x]^2 / E[x^2]
    assert level(pcp, answers=10) > 0.7  # means crowd around the middle
    for answers in (1, 10):
        s, a = uniform(60, answers)
        assert s.mean() == pytest.approx(4, abs=0.02)
        assert a.std() == pytest.approx(2 / math.sqrt(answers), rel=0.02)


def test_shuffled_pairs_keep_both_lists_and_break_the_pairs():
    s, _ = ratings(6)
    torn = shuffled(s, draws=500)
    assert (np.sort(torn) == np.sort(s)).all()
    assert spearman(s, torn).mean() == pytest.approx(0, abs=0.03)
    assert difference(s, shuffled(s + 1, draws=9)) == pytest.approx(np.ones(9))


def test_p_values_by_hand():
    under_chance = np.array([0.1, 0.2, 0.3, 0.4])
    assert p_value(0.35, under_chance) == 2 / 5
    assert p_value(0.3, under_chance) == 3 / 5  # an equal one counts
    assert p_value(9, under_chance) == 1 / 5  # never 0
    assert math.isnan(p_value(math.nan, under_chance))


def test_p_values_of_unrelated_lists_are_uniform():
    pairs = [ratings(seed) for seed in range(100)]
    found = [p_value(float(spearman(s, a)), spearman(s, shuffled(a, draws=200))) for s, a in pairs]
    assert stats.kstest(found, "uniform").pvalue > 0.01


# ---------------------------------------------------------------- reliability


def test_opposite_answers_to_opposite_wordings_differ_by_nothing():
    s = np.array([6.0, 2.0, 7.0, 6.0, np.nan, 3.0])
    assert reverse_differences(s, [(0, 1), (2, 3)]).tolist() == [0, 5]
    assert math.isnan(reverse_differences(s, [(4, 5)])[0])
    assert reverse_differences(s, []).shape == (0,)


def test_ratings_of_negative_keys_are_turned():
    x = np.array([[[1.0, 2.0]], [[1.0, 2.0]]])
    assert scored(x, [1, -1]).tolist() == [[[1, 2]], [[7, 6]]]


def test_spearman_brown_by_hand():
    assert spearman_brown(0.5) == pytest.approx(2 / 3)
    assert spearman_brown(1) == 1
    assert spearman_brown(0) == 0
    assert spearman_brown(-1) == -math.inf


def test_halves_hold_items_of_both_keys():
    # the file's order is + - + -, so plain odd and even halves would be all + and all -
    keys, traits = [1, -1, 1, -1] * 2, ["E"] * 4 + ["C"] * 4
    amounts = np.array([[1.0], [7], [1], [7], [3], [7], [3], [7]])  # halves: E 4 4, C 5 5; plain ones: 1 7, 3 7
    assert split_half(amounts, traits, keys) == pytest.approx(1)


def test_split_half_by_hand():
    # three traits of two items, one repetition: halves 1 2 3 and 1 3 2, r = 0.5
    amounts = np.array([[1.0], [1], [2], [3], [3], [2]])
    assert split_half(amounts, list("aabbcc"), [1] * 6) == pytest.approx(2 / 3)
    assert math.isnan(split_half(np.full((6, 1), 4.0), list("aabbcc"), [1] * 6))
    assert math.isnan(split_half(amounts[:2], ["a", "a"], [1, 1]))


def test_cronbachs_alpha_by_hand():
    # variances of the items 1 and 4; sums of the cases 2 5 8, of variance 9
    assert cronbach(np.array([[1.0, 2, 3], [1, 3, 5]])) == pytest.approx(2 * (1 - 5 / 9))
    assert cronbach(np.array([[1.0, 2, 3], [1, 2, 3]])) == pytest.approx(1)
    with_gap = np.array([[1.0, 2, 3, np.nan], [1, 3, 5, 7]])
    assert cronbach(with_gap) == pytest.approx(2 * (1 - 5 / 9))
    assert math.isnan(cronbach(np.array([[1.0, 2, 3]])))
    assert math.isnan(cronbach(np.ones((2, 3))))


def test_order_shift_is_the_first_order_less_the_second():
    x = np.array([[[6.0, 4], [2, np.nan]], [[3, 3], [np.nan, np.nan]]])  # [2, orders, repeats]
    shifts = order_shifts(x)
    assert shifts[0] == 3
    assert math.isnan(shifts[1])
    assert np.isnan(order_shifts(x[:, :1])).all()


def test_repeat_spread_is_within_an_order():
    x = np.array([[[1.0, 3], [5, 5]], [[2, np.nan], [1, 5]]])
    assert repeat_spread(x).tolist() == pytest.approx([math.sqrt(2) / 2, math.sqrt(8)])
    assert np.isnan(repeat_spread(x[..., :1])).all()


def test_profile_distance_is_over_traits():
    said, done = np.array([1.0, 3, 5]), np.array([3.0, 1, 2])
    assert profile_distance(said, done, np.array([0.0, 0, 1])) == pytest.approx((0 + 3) / 2)


def test_percentile_counts_equals_by_half():
    assert percentile(0.5, [0.1, 0.5, 0.9, np.nan]) == pytest.approx(50)
    assert percentile(1.0, [0.1, 0.5]) == 100
    assert percentile(0.0, [0.1, 0.5]) == 0
    assert math.isnan(percentile(math.nan, [0.1]))
    assert math.isnan(percentile(0.5, []))


def test_means_leave_out_what_is_missing():
    assert consistency.mean(np.array([1.0, np.nan, 3])) == 2
    assert math.isnan(consistency.mean(np.array([np.nan])))
