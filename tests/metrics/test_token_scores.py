"""Measures of token scores against values worked out by hand, brute force and identities."""

import math
import time
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_folder
from trimtab.metrics.best_of_n import best_of_n
from trimtab.metrics.calibration import brier, calibration, reliability
from trimtab.metrics.ranks import auc
from trimtab.metrics.step_f1 import GRID, best_threshold, first_error, mean_f1, step_f1, verification
from trimtab.metrics.step_scores import RULES, Rule, rendered, step_scores, step_tokens
from trimtab.metrics.token_scores import (
    around_error,
    mark,
    outcome_auc,
    pair_accuracy,
    sign_accuracy,
    token_auc,
)

SMALL = st.integers(-4, 4)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


# ---------------------------------------------------------------- pairs


def test_pair_accuracy_counts_ties_half():
    assert pair_accuracy([3, 1, 2, 5], [1, 3, 2, 4]).estimate == (1 + 0 + 0.5 + 1) / 4


def test_the_interval_of_two_pairs_is_that_of_their_possible_draws():
    assert pair_accuracy([1, 0], [0, 1]) == (0.5, 0.0, 1.0)
    assert pair_accuracy([1, 2, 3], [0, 0, 0]) == (1.0, 1.0, 1.0)


@given(st.lists(st.tuples(SMALL, SMALL), min_size=1))
@settings(deadline=None)
def test_exchanged_pairs_have_the_complement_and_increasing_maps_change_nothing(pairs):
    chosen, rejected = np.array(pairs, float).T
    found = pair_accuracy(chosen, rejected).estimate
    assert pair_accuracy(rejected, chosen).estimate == pytest.approx(1 - found)
    assert pair_accuracy(chosen**3 + chosen, rejected**3 + rejected).estimate == found


@pytest.mark.parametrize("chosen, message", [([1.0, math.nan], "chosen: number 2 is nan"), ([1.0], "1 chosen and 2")])
def test_scores_that_cannot_be_compared_are_refused(chosen, message):
    with pytest.raises(ValueError, match=message):
        pair_accuracy(chosen, [0.0, 0.0])


# ---------------------------------------------------------------- planted errors


def lower_auc(scores, wrong) -> float:
    return 1 - auc(scores, wrong)


def brute_auc(scores, wrong) -> float:
    below = [w for w, bad in zip(scores, wrong) if bad]
    others = [s for s, bad in zip(scores, wrong) if not bad]
    return float(np.mean([(w < s) + 0.5 * (w == s) for w, s in product(below, others)]))


def test_auc_of_four_tokens_by_hand():
    # wrong tokens 1 and 3; others 2 and 3: 1 < 2, 1 < 3, 3 > 2, 3 = 3
    assert lower_auc([1, 2, 3, 3], [True, False, True, False]) == (1 + 1 + 0 + 0.5) / 4
    assert lower_auc([0, 5, 6], [1, 0, 0]) == 1.0
    assert lower_auc([9, 5, 6], [1, 0, 0]) == 0.0


@given(st.lists(st.tuples(SMALL, st.booleans()), min_size=2, max_size=12).filter(lambda t: len({b for _, b in t}) == 2))
@settings(deadline=None)
def test_auc_is_that_of_all_pairs_and_keeps_under_increasing_maps(tokens):
    scores, wrong = np.array([s for s, _ in tokens], float), [b for _, b in tokens]
    found = lower_auc(scores, wrong)
    assert found == pytest.approx(brute_auc(scores, wrong))
    assert lower_auc(np.exp(scores), wrong) == pytest.approx(found)
    assert lower_auc(-scores, wrong) == pytest.approx(1 - found)
    assert lower_auc(scores[::-1], wrong[::-1]) == pytest.approx(found)


def test_token_auc_is_the_mean_over_answers_and_counts_those_without_both_kinds():
    found = token_auc([[1, 2, 3, 3], [0, 5], [1, 2], [1]], [[1, 0, 1, 0], [1, 0], [0, 0], [1]])
    assert found.mean.estimate == (0.625 + 1) / 2
    assert (found.answers, found.left_out) == (2, 2)
    assert (found.mean.low, found.mean.high) == (0.625, 1.0)


def test_token_auc_of_nothing_is_no_number():
    found = token_auc([[1, 2]], [[0, 0]])
    assert math.isnan(found.mean.estimate)
    assert (found.answers, found.left_out) == (0, 1)


def test_scores_and_marks_of_different_lengths_are_refused_with_their_answer():
    with pytest.raises(ValueError, match="answer 2 has 3 scores and 2 marks"):
        token_auc([[1, 2], [1, 2, 3]], [[0, 1], [0, 1]])
    with pytest.raises(ValueError, match="1 answers with scores and 2 with marks"):
        token_auc([[1, 2]], [[0, 1], [0, 1]])


def test_tokens_that_overlap_a_span_are_marked_and_neighbours_are_not():
    offsets = [(0, 0), (0, 3), (3, 5), (5, 6), (6, 9), (9, 9)]
    assert mark(offsets, [(3, 5)]).tolist() == [False, False, True, False, False, False]
    assert mark(offsets, [(4, 7)]).tolist() == [False, False, True, True, True, False]
    assert mark(offsets, [(0, 1), (8, 9)]).tolist() == [False, True, False, False, True, False]
    assert not mark(offsets, []).any()
    assert not mark([(2, 2)], [(0, 9)]).any()  # a special token inside


def test_an_empty_span_is_refused():
    with pytest.raises(ValueError, match=r"span 2 is \(4, 4\)"):
        mark([(0, 5)], [(0, 1), (4, 4)])


# ---------------------------------------------------------------- whole answers


def test_the_sign_of_a_value_is_right_on_its_own_side_and_never_at_0():
    # 2 > 0 and right; -1 and wrong; 0 counts as said to be wrong; 3 > 0 and wrong
    assert sign_accuracy([2, -1, 0, 3], [1, 0, 1, 0]).estimate == 2 / 4
    assert sign_accuracy([0.0], [0]).estimate == 1


def test_auc_of_answers_by_hand():
    # right 3, 1; wrong 2, 1: 3 > 2, 3 > 1, 1 < 2, 1 = 1
    found = outcome_auc([3, 2, 1, 1], [1, 0, 1, 0])
    assert found.estimate == (1 + 1 + 0 + 0.5) / 4
    assert found.low < found.estimate < found.high
    assert outcome_auc([-3, -2, -1, -1], [1, 0, 1, 0]).estimate == 1 - found.estimate
    assert math.isnan(outcome_auc([1, 2], [1, 1]).estimate)


def test_answers_and_outcomes_that_do_not_fit_are_refused():
    for measure in (sign_accuracy, outcome_auc, reliability):
        with pytest.raises(ValueError, match="2 answers and 1 outcomes"):
            measure([0.5, 0.5], [1])
        with pytest.raises(ValueError, match="outcome 1 is 2"):
            measure([0.5], [2])


def test_reliability_holds_what_is_predicted_against_what_comes_true():
    table = reliability([0.0, 0.1, 0.14, 0.95, 1.0], [0, 0, 1, 1, 1])
    assert [row.answers for row in table] == [1, 2, 0, 0, 0, 0, 0, 0, 0, 2]
    assert table[1].predicted == pytest.approx(0.12)
    assert table[1].right.estimate == 0.5
    assert table[9].right.estimate == 1
    assert math.isnan(table[5].predicted)
    with pytest.raises(ValueError, match="answer 2 has 1.5; values must be probabilities"):
        reliability([0.5, 1.5], [1, 0])


# ---------------------------------------------------------------- prefix values


def test_brier_averages_within_answers_first():
    # answer 1 (right): ((1 - .5)^2 + 0)/2 = .125; answer 2 (wrong): .04
    found = brier([[0.5, 1.0], [0.2]], [1, 0])
    assert found.score.estimate == pytest.approx((0.125 + 0.04) / 2)
    assert found.reference.estimate == pytest.approx(0.25)
    assert found.gain.estimate == pytest.approx(0.25 - 0.0825)


def test_brier_of_the_base_rate_is_its_variance_and_gains_nothing():
    outcomes = [1, 0, 0, 1, 0]
    found = brier([[0.4] * length for length in (1, 2, 3, 4, 5)], outcomes)
    assert found.score.estimate == pytest.approx(0.4 * 0.6)
    assert found.reference.estimate == pytest.approx(0.4 * 0.6)
    assert found.gain.estimate == pytest.approx(0)
    assert found.gain.high < 1e-12  # a resample has a base rate of its own, which no constant beats


def test_perfect_values_have_brier_0_and_inverted_ones_1():
    outcomes = [1, 0, 1, 0]
    assert brier([[y] * 3 for y in outcomes], outcomes).score == (0, 0, 0)
    assert brier([[1 - y] * 3 for y in outcomes], outcomes).score == (1, 1, 1)


@given(st.lists(st.tuples(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.booleans()), min_size=2, max_size=6))
@settings(max_examples=30, deadline=None)
def test_brier_does_not_change_when_values_and_outcomes_are_exchanged(answers):
    values, outcomes = [v for v, _ in answers], [y for _, y in answers]
    mirrored = brier([[1 - v for v in vs] for vs in values], [not y for y in outcomes])
    assert mirrored.score.estimate == pytest.approx(brier(values, outcomes).score.estimate, abs=1e-12)


@pytest.mark.parametrize(
    "values, outcomes, message",
    [
        ([[0.1], [1.2]], [0, 1], "answer 2 has 1.2"),
        ([[0.1], []], [0, 1], "answer 2 has no tokens"),
        ([[0.1], [0.2]], [0, -1], "outcome 2 is -1"),
        ([[0.1], [0.2]], [0], "2 answers and 1 outcomes"),
    ],
)
def test_values_that_are_no_probabilities_and_outcomes_that_are_none_are_refused(values, outcomes, message):
    for measure in (brier, calibration):
        with pytest.raises(ValueError, match=message):
            measure(values, outcomes)


def test_deciles_of_ten_tokens_hold_one_each():
    values = [np.arange(10) / 10, np.arange(10)[::-1] / 10]
    table = calibration(values, [1, 0])
    assert [row.answers for row in table] == [2] * 10
    for i, row in enumerate(table):
        assert row.predicted.estimate == pytest.approx(0.45)
        assert row.right.estimate == 0.5
        assert row.brier.estimate == pytest.approx(((1 - i / 10) ** 2 + (0.9 - i / 10) ** 2) / 2)


def test_a_decile_is_the_share_that_has_been_read():
    table = calibration([[0.1, 0.2, 0.3], [0.8]], [0, 1])  # read: 1/3, 2/3 and all; all
    assert [row.answers for row in table] == [0, 0, 0, 1, 0, 0, 1, 0, 0, 2]
    assert table[3].predicted.estimate == 0.1
    assert table[6].predicted.estimate == 0.2
    assert table[9].predicted.estimate == pytest.approx((0.3 + 0.8) / 2)
    assert (table[3].right.estimate, table[9].right.estimate) == (0, 0.5)
    assert math.isnan(table[0].predicted.estimate)


def test_a_decile_averages_within_answers_first():
    values = [[0.0] * 19 + [1.0], [0.2] * 10]  # the last decile: 0 and 1 of the first, 0.2 of the second
    last = calibration(values, [1, 1])[9]
    assert last.predicted.estimate == pytest.approx((0.5 + 0.2) / 2)
    assert last.brier.estimate == pytest.approx((0.5 + 0.64) / 2)


def test_values_before_and_after_the_first_error_by_hand():
    values = [[0.9, 0.7, 0.5, 0.5, 0.1, 0.3], [0.8, 0.6, 0.2]]
    wrong = [[0, 0, 1, 1, 0, 1], [0, 1, 0]]  # the later mark is a consequence, not the first error
    found = around_error(values, wrong)
    assert found.before.estimate == pytest.approx((0.8 + 0.8) / 2)
    assert found.after.estimate == pytest.approx((0.2 + 0.2) / 2)
    assert found.change.estimate == pytest.approx(-0.6)
    assert (found.answers, found.left_out) == (2, 0)


def test_an_error_at_either_end_or_none_leaves_the_answer_out():
    found = around_error(
        [[1, 0, 0], [1, 1, 0], [1, 1, 1], [0.5, 0, 0.25]], [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]
    )
    assert (found.answers, found.left_out) == (1, 3)
    assert found.change.estimate == -0.25


# ---------------------------------------------------------------- best of n


def enumerated(scores, right, answers, weights) -> dict[str, float]:
    """The six picks of one problem, in plain Python."""
    best = [r for s, r in zip(scores, right) if s == max(scores)]
    groups = {a: [i for i, b in enumerate(answers) if b == a] for a in answers if a is not None}
    groups = groups or {None: list(range(len(answers)))}

    def vote(total) -> float:
        totals = {a: total(members) for a, members in groups.items()}
        won = [a for a, t in totals.items() if math.isclose(t, max(totals.values()), rel_tol=1e-9)]
        return float(np.mean([np.mean([right[i] for i in groups[a]]) for a in won]))

    return {
        "highest": float(np.mean(best)),
        "majority": vote(len),
        "weighted": vote(lambda members: sum(weights[i] for i in members)),
        "random": float(np.mean(right)),
        "distinct": float(np.mean([np.mean([r for r, b in zip(right, answers) if b == a]) for a in set(answers)])),
        "oracle": float(max(right)),
    }


def test_one_problem_by_hand():
    scores, right, answers = [[3, 2, 1, 1]], [[0, 1, 1, 0]], [["7", "8", "8", None]]
    last = best_of_n(scores, right, answers)[-1]
    assert last.n == 4
    estimates = {name: interval.estimate for name, interval in last.accuracy.items()}
    # votes: 8 twice, 7 once; weights: 7 has 3, 8 has 2 + 1, a tie
    third = pytest.approx(1 / 3)
    assert estimates == {"highest": 0, "majority": 1, "weighted": 0.5, "random": 0.5, "distinct": third, "oracle": 1}
    difference = {name: interval.estimate for name, interval in last.over_majority.items()}
    assert difference.pop("distinct") == pytest.approx(-2 / 3)
    assert difference == {"highest": -1, "weighted": -0.5, "random": -0.5, "oracle": 0}


@pytest.mark.slow
def test_scores_that_know_nothing_do_as_well_as_any_of_the_different_answers():
    """And worse than a random answer, which is often one that was given often, and right."""
    drawn = np.random.default_rng(0)
    answers = [["a"] * 6 + ["b", "c"]] * 2000
    scores = drawn.random((2000, 3))[:, [0] * 6 + [1, 2]]  # equal answers have equal scores
    last = best_of_n(scores, [[1] * 6 + [0, 0]] * 2000, answers)[-1]
    assert last.accuracy["distinct"].estimate == pytest.approx(1 / 3)
    assert last.accuracy["random"].estimate == 0.75
    assert last.accuracy["highest"].estimate == pytest.approx(1 / 3, abs=0.04)


def test_ties_are_averaged():
    last = best_of_n([[1, 1, 0]], [[1, 0, 0]], [["a", "b", "c"]])[-1]
    assert last.accuracy["highest"].estimate == 0.5
    assert last.accuracy["majority"].estimate == pytest.approx(1 / 3)
    assert last.accuracy["weighted"].estimate == 0.5


def test_no_answer_wins_only_where_there_is_none_at_all():
    def majority(answers, right):
        last = best_of_n([[0.0] * 3], [right], [answers])[-1]
        assert last.accuracy["majority"] == last.accuracy["weighted"]
        return last.accuracy["majority"].estimate

    assert majority([None, None, "a"], [0, 0, 1]) == 1
    assert majority([None, None, None], [0, 0, 1]) == pytest.approx(1 / 3)


def test_weights_that_do_not_add_up_exactly_still_tie():
    last = best_of_n([[0.1, 0.2, 0.3]], [[1, 1, 0]], [["a", "a", "b"]])[-1]  # 0.1 + 0.2 > 0.3 in floating point
    assert last.accuracy["weighted"].estimate == 0.5


def test_an_answer_that_was_not_drawn_does_not_win_with_weight_0():
    first = best_of_n([[0, 0]], [[1, 0]], [["a", "b"]])[0]
    assert first.n == 1
    assert first.accuracy["weighted"].estimate == first.accuracy["majority"].estimate == 0.5
    table = best_of_n([[0, 0, 0]], [[1, 1, 0]], [["a", "a", None]])  # pairs: aa, a-, a-: a always wins
    assert table[1].accuracy["weighted"].estimate == 1


problems = st.integers(1, 5).flatmap(
    lambda n: st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), min_size=n, max_size=n),
            st.lists(st.booleans(), min_size=n, max_size=n),
            st.lists(st.sampled_from(["a", "b", "c", None]), min_size=n, max_size=n),
        ),
        min_size=1,
        max_size=3,
    )
)


@given(problems)
@settings(max_examples=60, deadline=None)
def test_every_point_of_the_curve_is_the_mean_over_all_subsets(drawn):
    scores, right, answers = ([row[i] for row in drawn] for i in range(3))
    n = len(scores[0])
    for point in best_of_n(scores, right, answers):
        of_subsets = [
            enumerated([s[i] for i in chosen], [r[i] for i in chosen], [a[i] for i in chosen], [s[i] for i in chosen])
            for s, r, a in drawn
            for chosen in combinations(range(n), point.n)
        ]
        for name, interval in point.accuracy.items():
            assert interval.estimate == pytest.approx(np.mean([one[name] for one in of_subsets])), name


@given(problems, st.randoms(use_true_random=False))
@settings(max_examples=30, deadline=None)
def test_the_order_of_answers_does_not_matter(drawn, random):
    n = len(drawn[0][0])
    orders = [random.sample(range(n), n) for _ in drawn]
    mixed = [tuple([column[i] for i in order] for column in row) for row, order in zip(drawn, orders)]
    for one, other in zip(best_of_n(*map(list, zip(*drawn))), best_of_n(*map(list, zip(*mixed)))):
        for name, interval in one.accuracy.items():
            assert interval == pytest.approx(other.accuracy[name], nan_ok=True)


def test_the_curve_has_powers_of_two_and_the_last():
    def sizes(n):
        table = best_of_n(np.zeros((2, n)), np.zeros((2, n)), [["a"] * n] * 2)
        return [point.n for point in table]

    assert sizes(1) == [1]
    assert sizes(6) == [1, 2, 4, 6]
    assert sizes(8) == [1, 2, 4, 8]


def test_random_subsets_agree_with_the_closed_form():
    generator = np.random.default_rng(1)
    right = generator.random((40, 16)) < 0.3
    answers = [[str(i) for i in range(16)]] * 40
    scores = generator.normal(size=(40, 16))
    table = best_of_n(scores, right, answers, weights=np.ones((40, 16)), subsets=400)
    for point in table:
        k = point.n
        misses = [math.comb(16 - sum(row), k) / math.comb(16, k) for row in right.tolist()]
        assert point.accuracy["oracle"].estimate == pytest.approx(1 - np.mean(misses), abs=0.01)
        rank = np.argsort(np.argsort(scores, axis=1), axis=1)
        first = np.array([[math.comb(r, k - 1) / math.comb(16, k) for r in row] for row in rank.tolist()])
        assert point.accuracy["highest"].estimate == pytest.approx((first * right).sum(1).mean(), abs=0.015)
    again = best_of_n(scores, right, answers, weights=np.ones((40, 16)), subsets=400)
    assert again == table
    assert best_of_n(scores, right, answers, weights=np.ones((40, 16)), subsets=400, seed=1) != table


def test_differences_to_the_majority_are_paired():
    generator = np.random.default_rng(0)
    hard = generator.random(200) < 0.5
    right = np.stack([hard, hard, hard], axis=1)
    right[:20] = [True, False, False]  # there only the highest score is right
    scores = np.tile([2.0, 1.0, 1.0], (200, 1))
    last = best_of_n(scores, right, [["a", "b", "b"]] * 200)[-1]
    interval = last.over_majority["highest"]
    assert interval.estimate == pytest.approx(0.1)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * math.sqrt(0.1 * 0.9 / 200), rel=0.1)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"correct": [[1, 0]]}, "scores of shape"),
        ({"answers": [["a"], ["b", "c"]]}, "answers of problem 1"),
        ({"answers": [["a", "b"]]}, "answers of 1 problems"),
        ({"scores": [[1, 2], [3, -1]]}, "weights="),
        ({"correct": [[1, 0], [2, 0]]}, "outcome 3 is 2"),
    ],
)
def test_answers_that_do_not_fit_are_refused(changes, message):
    given = {"scores": [[1, 2], [3, 4]], "correct": [[1, 0], [0, 1]], "answers": [["a", "b"], ["a", None]]} | changes
    with pytest.raises(ValueError, match=message):
        best_of_n(**given)


# ---------------------------------------------------------------- steps as text


def test_official_rendering_numbers_the_steps_from_one():
    text, ends = rendered(["Add.", "So 3."])
    assert text == "Step 1: Add.\n\nStep 2: So 3."
    assert [text[:end] for end in ends] == ["Step 1: Add.", text]


def test_plain_rendering_joins_the_lines():
    text, ends = rendered(["a b", "cd"], numbered=False)
    assert text == "a b\ncd"
    assert ends == [3, 6]


@given(st.lists(st.text(min_size=1, max_size=8).filter(str.strip), min_size=1, max_size=6), st.booleans())
@settings(deadline=None)
def test_a_step_ends_after_its_last_character_that_is_no_space(steps, numbered):
    text, ends = rendered(steps, numbered=numbered)
    start = 0
    for number, (step, end) in enumerate(zip(steps, ends), 1):
        written = (f"Step {number}: " if numbered else "") + step
        assert text[start:end] == written.rstrip()
        start += len(written) + (2 if numbered else 1)
    assert start - (2 if numbered else 1) == len(text)


def test_the_last_token_of_a_step_by_hand():
    # "ab\n\ncd": the token of the blank line begins inside the first step; the end token is empty
    assert step_tokens([(0, 1), (1, 3), (3, 4), (4, 5), (5, 6), (0, 0)], [2, 6]).tolist() == [1, 4]
    assert step_tokens([(0, 2), (2, 4), (4, 6), (6, 6)], [2, 6]).tolist() == [0, 2]


def test_a_character_of_several_tokens_ends_with_the_last_of_them():
    assert step_tokens([(0, 1), (1, 2), (1, 2), (1, 2), (2, 3)], [2, 3]).tolist() == [3, 4]


def test_steps_without_a_token_of_their_own_are_refused():
    with pytest.raises(ValueError, match="step 2 ends at character 9.*end at character 6"):
        step_tokens([(0, 3), (3, 6)], [3, 9])
    with pytest.raises(ValueError, match="step 2 has no token of its own"):
        step_tokens([(0, 3), (3, 6)], [4, 6])
    with pytest.raises(ValueError, match="step 1 ends at character 3"):
        step_tokens([(0, 0)], [3])


def test_tokens_of_a_real_tokenizer_end_where_the_steps_do():
    text, ends = rendered(["Add 2 and 3: 5.", "Dann ×2 🙂", "The answer is 10."])
    read = tiny_folder.byte_tokenizer()(text, return_offsets_mapping=True, add_special_tokens=False)
    last = step_tokens(read["offset_mapping"], ends)
    assert len(last) == 3
    for token, end in zip(last, ends):
        start, stop = read["offset_mapping"][token]
        assert start < end <= stop
        following = [s for s, _ in read["offset_mapping"][token + 1 :]]
        assert all(s >= end for s in following)


# ---------------------------------------------------------------- step scores


def test_step_scores_by_hand():
    r, ends, c = [10.0, 20.0, -30.0, 40.0, 60.0], [1, 2, 4], 0.01
    expected: dict[Rule, list[float]] = {
        "sum": [sigmoid(0.3), sigmoid(0.0), sigmoid(1.0)],
        "sum-diff": [sigmoid(0.3), sigmoid(-0.3), sigmoid(1.0)],
        # means of c r, over sqrt(c) = 0.1: 0.15, 0, 0.2 and 0.15, -0.3, 0.5
        "mean": [sigmoid(1.5), sigmoid(0.0), sigmoid(2.0)],
        "mean-diff": [sigmoid(1.5), sigmoid(-3.0), sigmoid(5.0)],
        "last": [20, -30, 60],
        "step-mean": [15, -30, 50],
    }
    assert set(expected) == set(RULES)
    for rule, scores in expected.items():
        assert step_scores(r, ends, rule, scale=c) == pytest.approx(scores), rule


def test_the_scale_of_the_protocol_is_a_thousandth():
    assert step_scores([500.0, 500.0], [1], "sum") == pytest.approx([sigmoid(1.0)])


def test_one_step_has_the_same_sum_and_difference():
    r = np.random.default_rng(0).normal(size=7)
    assert step_scores(r, [6], "sum") == pytest.approx(step_scores(r, [6], "sum-diff"))
    assert step_scores(r, [6], "mean") == pytest.approx(step_scores(r, [6], "mean-diff"))


def test_tokens_after_the_last_step_do_not_count():
    for rule in RULES:
        assert step_scores([1, 2, 3, 99], [0, 2], rule) == pytest.approx(step_scores([1, 2, 3], [0, 2], rule))


def test_large_rewards_keep_their_order():
    found = step_scores([-1000.0, 900.0], [0, 1], "sum", scale=1.0)
    assert 0 == found[0] < found[1] == pytest.approx(math.exp(-100))


@pytest.mark.parametrize("ends", [[], [1, 1], [2, 1], [0, 3], [-1, 1]])
def test_ends_that_are_none_are_refused(ends):
    with pytest.raises(ValueError, match="ends of steps"):
        step_scores([1.0, 2.0, 3.0], ends, "sum")


def test_an_unknown_rule_is_refused_with_those_there_are():
    with pytest.raises(ValueError, match="'sum-dif'.*sum-diff"):
        step_scores([1.0], [0], "sum-dif")  # type: ignore[arg-type]


# ---------------------------------------------------------------- step verification


def test_the_first_step_below_the_threshold_is_the_error():
    assert first_error([0.9, 0.4, 0.1], 0.5) == 1
    assert first_error([0.9, 0.4, 0.1], 0.4) == 2  # not below
    assert first_error([0.9, 0.4, 0.1], 0.1) == -1


def test_f1_is_the_harmonic_mean_of_both_accuracies():
    found = step_f1([-1, -1, 0, 2, 1, 1], [-1, -1, -1, 2, 0, -1])
    # right traces: 2 of 4; erroneous: 1 of 2
    assert found.right.estimate == 0.5
    assert found.erroneous.estimate == 0.5
    assert found.f1.estimate == 0.5
    assert step_f1([-1, 2, 1, 1], [-1, 2, 0, 0]).f1.estimate == pytest.approx(2 * 1 * (1 / 3) / (1 + 1 / 3))


def test_a_perfect_prediction_has_f1_1_and_no_error_ever_has_0():
    labels = [-1, 0, 2, -1]
    assert step_f1(labels, labels).f1 == (1, 1, 1)
    assert step_f1([-1] * 4, labels).f1 == (0, 0, 0)
    assert step_f1([0, 1, 1, 0], labels).f1 == (0, 0, 0)  # both accuracies are 0


def test_the_interval_of_f1_is_drawn_within_the_strata():
    # two of each, one hit each: accuracies 0, 1/2, 1 with chances 1/4, 1/2, 1/4; F1 0 has 7/16
    found = step_f1([-1, 0, 1, 0], [-1, -1, 1, 1])
    assert found.f1 == (0.5, 0.0, 1.0)
    number = 400
    labels = [-1] * number + [0] * number
    predicted = [-1] * 300 + [0] * 100 + [0] * 100 + [-1] * 300
    found = step_f1(predicted, labels)
    a, b = 0.75, 0.25
    slopes = 2 * b * b / (a + b) ** 2, 2 * a * a / (a + b) ** 2
    half = 1.96 * math.hypot(*(slope * math.sqrt(a * b / number) for slope in slopes))
    assert found.f1 == pytest.approx((0.375, 0.375 - half, 0.375 + half), abs=0.1 * half)


def test_the_mean_over_sets_is_that_of_their_f1_and_narrower():
    labels = [[-1] * 40 + [0] * 40, [-1] * 40 + [0] * 40]
    predicted = [[-1] * 20 + [0] * 40 + [-1] * 20, [-1] * 60 + [0] * 20]
    sets = [step_f1(*of) for of in zip(predicted, labels)]
    found = mean_f1(sets, labels)
    assert found.estimate == pytest.approx((0.5 + 2 / 3) / 2)
    assert found.low < found.estimate < found.high
    own = [one.f1.high - one.f1.low for one in sets]
    assert found.high - found.low == pytest.approx(math.hypot(*own) / 2, rel=0.1)
    assert mean_f1(sets[:1], labels[:1]) == sets[0].f1
    assert not mean_f1([step_f1([-1, 0], [-1, 0])], [[-1, 0]]).known


def test_a_stratum_of_one_or_none_has_no_interval():
    one = step_f1([-1, 0, 0], [-1, 0, 0])
    assert one.f1.estimate == 1
    assert not one.f1.known
    assert math.isnan(step_f1([-1, -1], [-1, -1]).f1.estimate)


def brute_f1(scores, labels, threshold) -> float:
    predicted = [next((i for i, s in enumerate(one) if s < threshold), -1) for one in scores]
    right = np.mean([p == -1 for p, label in zip(predicted, labels) if label == -1])
    erroneous = np.mean([p == label for p, label in zip(predicted, labels) if label != -1])
    return float(2 * right * erroneous / (right + erroneous)) if right + erroneous else 0.0


steps_in = st.one_of(st.sampled_from([-0.5, 0.0, 0.25, 0.5]), st.floats(-1, 1, allow_subnormal=False))
traces = st.lists(
    st.lists(steps_in, min_size=1, max_size=5).flatmap(
        lambda scores: st.tuples(st.just(scores), st.integers(-1, len(scores) - 1))
    ),
    min_size=2,
    max_size=8,
).filter(lambda drawn: {label == -1 for _, label in drawn} == {True, False})


@given(traces)
@settings(max_examples=40, deadline=None)
def test_no_threshold_of_the_grid_or_at_any_score_beats_the_oracle(drawn):
    scores, labels = [s for s, _ in drawn], [label for _, label in drawn]
    best = brute_f1(scores, labels, best_threshold(scores, labels))
    values = sorted({s for one in scores for s in one})
    near = [t for s in values for t in (s, np.nextafter(s, np.inf))]
    assert best == pytest.approx(max(brute_f1(scores, labels, t) for t in [-2, 2, *near]), abs=1e-12)
    on_grid = brute_f1(scores, labels, best_threshold(scores, labels, GRID))
    assert best >= on_grid - 1e-12
    assert on_grid >= max(brute_f1(scores, labels, t) for t in GRID[::97]) - 1e-12


def test_the_grid_of_the_protocol_has_ten_thousand_values():
    assert len(GRID) == 10_000
    assert (GRID[0], GRID[-1]) == (-1, 1)


def test_the_oracle_lies_between_two_scores_and_finds_what_the_grid_misses():
    scores, labels = [[0.50001, 0.50003], [0.50003, 0.50001]], [-1, 1]
    assert best_threshold([[0.9, 0.2], [0.9, 0.8]], [1, -1]) == pytest.approx(0.5)
    close = [[0.50003, 0.50003], [0.50003, 0.50001]]
    assert brute_f1(close, labels, best_threshold(close, labels)) == 1
    assert best_threshold(close, labels) == pytest.approx(0.50002, abs=1e-9)
    assert brute_f1(close, labels, best_threshold(close, labels, GRID)) == 0
    assert brute_f1(scores, labels, best_threshold(scores, labels)) == 0  # the right one has the same lowest score


def test_neighbouring_floats_can_still_be_separated():
    low = 0.1
    high = float(np.nextafter(low, 1))
    assert first_error([high, low], best_threshold([[high, low], [high]], [1, -1])) == 1


def test_where_no_threshold_helps_no_error_is_found():
    scores, labels = [[0.3], [0.3, 0.1]], [-1, 0]
    assert all(first_error(one, best_threshold(scores, labels)) == -1 for one in scores)
    assert best_threshold([[0.3], [0.3]], [-1, 0]) == 0.3


def test_the_best_threshold_of_three_thousand_traces_takes_less_than_two_seconds():
    generator = np.random.default_rng(0)
    scores = [generator.random(length) for length in generator.integers(3, 15, 3400)]
    labels = [int(generator.integers(-1, len(one))) for one in scores]
    start = time.process_time()
    best = best_threshold(scores, labels)
    assert time.process_time() - start < 2
    assert brute_f1(scores, labels, best) >= brute_f1(scores, labels, best_threshold(scores, labels, GRID))


@given(traces)
@settings(max_examples=20, deadline=None)
def test_f1_of_the_oracle_keeps_under_increasing_maps(drawn):
    scores, labels = [np.array(s) for s, _ in drawn], [label for _, label in drawn]
    mapped = [np.round(s * 2**20) * 4 for s in scores]  # exact, but merges scores nearer than 2^-20
    rounded = [np.round(s * 2**20) for s in scores]
    one, other = (brute_f1(s, labels, best_threshold(s, labels)) for s in (mapped, rounded))
    assert one == other


def made(number: int, noise: float, seed: int = 0):
    """Traces whose erroneous step has a low score, more or less."""
    generator = np.random.default_rng(seed)
    labels = [int(generator.integers(0, 4)) if i % 2 else -1 for i in range(number)]
    scores = [np.where(np.arange(4) == label, 0.2, 0.8) + noise * generator.normal(size=4) for label in labels]
    return scores, labels


def test_clean_scores_are_verified_perfectly_by_every_threshold():
    found = verification(*made(20, 0))
    assert list(found) == ["oracle", "grid", "held out"]
    for one in found.values():
        assert one.f1 == (1, 1, 1)
    assert [len(one.thresholds) for one in found.values()] == [1, 1, 2]
    assert found["oracle"].thresholds == pytest.approx([0.5])
    assert found["grid"].thresholds == (GRID[GRID > 0.2][0],)  # the lowest of those that are as good


def test_the_oracle_flatters_and_the_held_out_half_does_not():
    generator = np.random.default_rng(0)
    gaps = []
    for seed in range(20):
        scores = [generator.random(5) for _ in range(40)]
        labels = [int(generator.integers(0, 5)) if i % 2 else -1 for i in range(40)]
        found = verification(scores, labels, seed=seed)
        assert found["oracle"].f1.estimate >= found["grid"].f1.estimate - 1e-12
        gaps.append(found["oracle"].f1.estimate - found["held out"].f1.estimate)
    assert np.mean(gaps) > 0.03


def test_each_half_is_measured_with_the_threshold_of_the_other():
    # two problems: the scores of one lie 10 above those of the other, so the other's threshold is useless
    low, labels = made(12, 0)
    high = [one + 10 for one in low]
    found = verification([*low, *high], labels * 2, problems=["low"] * 12 + ["high"] * 12)
    assert sorted(found["held out"].thresholds) == pytest.approx([0.5, 10.5])
    # low with 10.5: always step 0; high with 0.5: never an error
    right, wrong = 6 / 12, sum(label == 0 for label in labels) / 12
    assert found["held out"].right.estimate == right
    assert found["held out"].erroneous.estimate == pytest.approx(wrong)
    same = verification([*low, *high], labels * 2, problems=["low"] * 12 + ["high"] * 12)
    assert same == found


def test_the_split_depends_on_the_seed():
    scores, labels = made(60, 0.4)
    assert verification(scores, labels, seed=0)["held out"] == verification(scores, labels, seed=0)["held out"]
    of_seeds = {verification(scores, labels, seed=seed)["held out"].thresholds for seed in range(5)}
    assert len(of_seeds) > 1


@pytest.mark.parametrize(
    "scores, labels, message",
    [
        ([[0.1], [0.2]], [-1, 1], "trace 2 has 1 steps and the label 1"),
        ([[0.1], [0.2]], [-1, -2], "trace 2 has 1 steps and the label -2"),
        ([[0.1], []], [-1, 0], "trace 2 has no steps"),
        ([[0.1]], [-1, 0], "1 traces and 2 labels"),
        ([[0.1], [0.2]], [-1, -1], "2 correct and 0 erroneous"),
        ([[0.1], [0.2]], [0, 0], "0 correct and 2 erroneous"),
        ([[0.1], [math.nan]], [-1, 0], "trace 2: number 1 is nan"),
    ],
)
def test_traces_that_cannot_be_verified_are_refused(scores, labels, message):
    with pytest.raises(ValueError, match=message):
        best_threshold(scores, labels)


def test_a_half_without_both_kinds_says_what_to_do():
    with pytest.raises(ValueError, match="half.*another seed"):
        verification([[0.1], [0.2]], [-1, 0])
    with pytest.raises(ValueError, match="3 problems for 2 traces"):
        verification([[0.1], [0.2]], [-1, 0], problems=["a", "b", "c"])
