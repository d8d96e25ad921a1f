import math

import pytest
from run_folders import METRICS, SAMPLES, SIGNATURE, event, heldout, rows, write_run

from trimtab.metrics.intervals import bootstrap_ratio
from trimtab.report import Interval, comparing, load
from trimtab.report.comparing import (
    change,
    difference,
    last,
    obstacles,
    teacher_obstacles,
    teacher_value,
    teachers,
    untrained,
)
from trimtab.report.measures import FORWARD_KL, MEASURES, PERPLEXITY, digits, number, span, verdict

BY_KEY = {measure.key: measure for measure in MEASURES}
EVALS = [event("eval", 0, nll=2.0), event("eval", 2, nll=1.0)]


def load_run(folder, *args, **parts):
    return load(write_run(folder, *args, **parts))


def test_perplexity_is_the_exponential_of_the_mean_over_tokens(tmp_path):
    samples = [heldout(2, 0, tokens=1, nll=3.0), heldout(2, 1, tokens=9, nll=7.0)]
    assert last(load_run(tmp_path / "a", EVALS, samples), PERPLEXITY).estimate == pytest.approx(math.e)


def test_shares_and_divergences_are_means_over_tokens(tmp_path):
    run = load_run(tmp_path / "a")
    assert last(run, BY_KEY["agreement"]) == pytest.approx((0.6, 0.6, 0.6))
    assert last(run, FORWARD_KL) == pytest.approx((0.5, 0.5, 0.5))


def test_without_rows_the_mean_of_the_event_stands_without_an_interval(tmp_path):
    run = load_run(tmp_path / "a", samples=[])
    assert last(run, FORWARD_KL).estimate == 0.5
    assert not last(run, FORWARD_KL).known
    assert change(run, FORWARD_KL).estimate == -1.0
    assert not change(run, FORWARD_KL).known
    assert last(run, BY_KEY["entropy"]) is None


def test_a_measure_that_some_rows_lack_is_taken_from_the_event(tmp_path):
    samples = [heldout(2, 0, tokens=1, nll=3.0, forward_kl=9.0), heldout(2, 1, tokens=9, nll=7.0)]
    assert last(load_run(tmp_path / "a", samples=samples), FORWARD_KL).estimate == 0.5


def test_a_null_in_a_row_makes_the_measure_no_number(tmp_path):
    samples = [heldout(2, 0, tokens=1, nll=3.0), heldout(2, 1, tokens=9, nll=None)]
    perplexity = last(load_run(tmp_path / "a", EVALS, samples), PERPLEXITY)
    assert math.isnan(perplexity.estimate)
    assert number(perplexity.estimate, PERPLEXITY) == "not a number"


def test_change_is_after_minus_before_on_the_same_rows(tmp_path):
    assert change(load_run(tmp_path / "a"), PERPLEXITY) == pytest.approx([math.e - math.e**2] * 3)


def test_change_is_unknown_where_the_rows_before_and_after_differ(tmp_path):
    run = load_run(tmp_path / "a", EVALS, [*rows(0, nll=2.0), *rows(2, nll=1.0, num_rows=3)])
    assert change(run, PERPLEXITY) is None


def test_identical_runs_differ_by_nothing(tmp_path):
    one, other = load_run(tmp_path / "a"), load_run(tmp_path / "b")
    assert obstacles(one, other) == teacher_obstacles(one, other) == []
    first_row = next(iter(one.heldout[one.measured[-1]].values()))
    in_rows = [measure for measure in MEASURES if measure.key in first_row]
    assert len(in_rows) == 6
    assert [difference(one, other, measure) for measure in in_rows] == [(0, 0, 0)] * len(in_rows)


def test_the_order_of_rows_in_the_file_does_not_matter(tmp_path):
    samples = [heldout(2, i, tokens=10, nll=float(i)) for i in range(12)]
    one, other = load_run(tmp_path / "a", EVALS, samples), load_run(tmp_path / "b", EVALS, samples[::-1])
    assert difference(one, other, PERPLEXITY) == (0, 0, 0)


def test_runs_measured_on_different_rows_are_not_compared(tmp_path):
    one, other = (
        load_run(tmp_path / "a", EVALS, rows(2, nll=1.0)),
        load_run(tmp_path / "b", EVALS, rows(2, nll=1.0, num_rows=3)),
    )
    assert obstacles(one, other) == ["they were measured on different held-out rows (a: 4, b: 3, in both: 3)"]
    assert difference(one, other, PERPLEXITY) is None


def test_rows_with_other_token_counts_are_not_compared(tmp_path):
    one, other = (
        load_run(tmp_path / "a", EVALS, rows(2, nll=1.0)),
        load_run(tmp_path / "b", EVALS, rows(2, nll=1.0, tokens=11)),
    )
    assert "different numbers of tokens" in obstacles(one, other)[0]
    assert difference(one, other, PERPLEXITY) is None


def test_other_held_out_data_is_not_compared(tmp_path):
    one = load_run(tmp_path / "a")
    other = load_run(tmp_path / "b", signature={**SIGNATURE, "held-out data": "tiny 0000000000000000"})
    [why] = obstacles(one, other)
    assert f"signature 'held-out data' is {SIGNATURE['held-out data']} in a and tiny 0000000000000000 in b" in why
    assert difference(one, other, PERPLEXITY) is None


def test_students_that_started_differently_are_compared_on_the_same_rows(tmp_path):
    one = load_run(tmp_path / "a")
    other = load_run(tmp_path / "b", signature={**SIGNATURE, "policy": "tiny 0000000000000000"})
    assert obstacles(one, other) == []


@pytest.mark.parametrize(
    "key, entry",
    [
        ("policy", "/elsewhere/tiny 9ba1684f9789bbcb"),  # the same content at another place
        ("training data", "other.jsonl 0000000000000000"),
        ("options", "{'student_sampling': False}"),
        ("seed", "1"),
    ],
)
def test_other_lines_of_the_signature_may_differ(tmp_path, key, entry):
    one, other = load_run(tmp_path / "a"), load_run(tmp_path / "b", signature={**SIGNATURE, key: entry})
    assert obstacles(one, other) == teacher_obstacles(one, other) == []


def test_a_line_on_all_data_counts_only_where_none_names_the_held_out_rows(tmp_path):
    one, other = (load_run(tmp_path / n, signature={**SIGNATURE, "data": n}) for n in "ab")
    assert obstacles(one, other) == []
    one, other = (load_run(tmp_path / n, signature={"data": n}) for n in "cd")
    assert obstacles(one, other) == ["signature 'data' is c in c and d in d"]


def test_runs_without_rows_are_not_compared(tmp_path):
    one, other = load_run(tmp_path / "a"), load_run(tmp_path / "b", samples=[])
    assert obstacles(one, other) == ["no row-by-row measurement at the last evaluation of b"]


def test_another_teacher_bars_only_the_measures_against_it(tmp_path):
    one = load_run(tmp_path / "a")
    other = load_run(tmp_path / "b", signature={**SIGNATURE, "teacher": "big 0000000000000000"})
    assert "'teacher'" in teacher_obstacles(one, other)[0]
    assert difference(one, other, FORWARD_KL) is None
    assert difference(one, other, PERPLEXITY) == (0, 0, 0)


def test_teachers_that_measure_differently_differ_whatever_the_signature_says(tmp_path):
    samples = [{**s, "teacher_nll": 6.0} if s["kind"] == "heldout" else s for s in SAMPLES]
    one, other = load_run(tmp_path / "a"), load_run(tmp_path / "b", samples=samples)
    assert "different likelihoods" in teacher_obstacles(one, other)[0]
    assert len(teachers([one, other])) == 2


def test_a_run_without_a_teacher_is_compared_by_the_other_measures(tmp_path):
    one = load_run(tmp_path / "a")
    other = load_run(tmp_path / "b", EVALS, rows(2, nll=2.0), signature={**SIGNATURE, "teacher": "none"})
    assert obstacles(one, other) == teacher_obstacles(one, other) == []
    assert difference(one, other, PERPLEXITY) == pytest.approx([math.e**2 - math.e] * 3)
    assert difference(one, other, FORWARD_KL) is None


def test_runs_from_one_untrained_student_share_it(tmp_path):
    runs = [load_run(tmp_path / name) for name in "ab"]
    runs.append(load_run(tmp_path / "c", EVALS, [*rows(0, nll=2.5), *rows(2, nll=1.0)]))
    assert [[run.name for run in group] for group in untrained(runs)] == [["a", "b"], ["c"]]


def test_a_first_measurement_after_step_0_is_no_untrained_student(tmp_path):
    assert untrained([load_run(tmp_path / "a", [event("eval", 1, nll=2.0)], [])]) == []


def test_the_teacher_has_the_perplexity_that_was_measured_and_no_distance_to_itself(tmp_path):
    run = load_run(tmp_path / "a")
    assert teacher_value(run, PERPLEXITY).estimate == pytest.approx(math.exp(0.5))
    assert teacher_value(run, FORWARD_KL).estimate == 0
    assert teacher_value(run, BY_KEY["agreement"]).estimate == 1
    assert teacher_value(run, BY_KEY["entropy"]) is None


def test_a_run_without_a_teacher_has_none(tmp_path):
    metrics = [event("eval", 0, nll=2.0), *METRICS[2:4]]
    assert teachers([load_run(tmp_path / "a", metrics, rows(0, nll=2.0))]) == []


def with_drift(folder, start=2.0, after=0.25, length=30):
    evals = [
        event("eval", 0, kl_to_initial=0.0, answer_length=40.0),
        event("eval", 2, kl_to_initial=after, answer_length=length),
    ]
    return load_run(folder, evals, [*rows(0, nll=start, kl_to_initial=0.0), *rows(2, nll=1.0, kl_to_initial=after)])


def test_the_kl_to_the_initial_policy_is_measured_on_rows_and_compared_between_runs_with_one_start(tmp_path):
    one, other = with_drift(tmp_path / "a"), with_drift(tmp_path / "b", after=0.5)
    assert change(one, BY_KEY["kl_to_initial"]) == (0.25, 0.25, 0.25)
    assert difference(one, other, BY_KEY["kl_to_initial"]) == (0.25, 0.25, 0.25)
    assert verdict(BY_KEY["kl_to_initial"], difference(one, other, BY_KEY["kl_to_initial"])) == "higher"
    elsewhere = with_drift(tmp_path / "c", start=2.5)
    assert difference(one, elsewhere, BY_KEY["kl_to_initial"]) is None
    assert difference(one, elsewhere, PERPLEXITY) == (0, 0, 0)


def test_the_length_of_answers_is_known_before_and_after_without_an_interval(tmp_path):
    run = with_drift(tmp_path / "a")
    length = BY_KEY["answer_length"]
    assert (last(run, length).estimate, change(run, length).estimate) == (30, -10)
    assert not last(run, length).known
    assert verdict(length, change(run, length)) == ""
    assert difference(run, with_drift(tmp_path / "b"), length) is None


@pytest.mark.parametrize(
    "key, moved, said",
    [
        ("nll", (-1, -2, -0.5), "better"),
        ("nll", (1, 0.5, 2), "worse"),
        ("agreement", (0.1, 0.05, 0.2), "better"),
        ("agreement", (-0.1, -0.2, -0.05), "worse"),
        ("entropy", (-1, -2, -0.5), "lower"),
        ("entropy", (1, 0.5, 2), "higher"),
        ("nll", (-1, -2, 0.5), "may be chance"),
        ("nll", (0, 0, 0), "no change"),
        ("nll", (-1, math.nan, math.nan), ""),
    ],
)
def test_a_verdict_needs_an_interval_that_excludes_zero_and_a_direction(key, moved, said):
    assert verdict(BY_KEY[key], Interval(*moved)) == said


@pytest.mark.parametrize(
    "x, text",
    [
        (0, "0"),
        (9.2345, "9.23"),
        (0.99999, "1.00"),
        (99.97, "100"),
        (12345.6, "12,346"),
        (-0.0123, "−0.0123"),
        (3e-7, "3.00e−07"),
        (1.5e9, "1.50e+09"),
    ],
)
def test_numbers_have_three_digits(x, text):
    assert digits(x) == text


def test_shares_are_percent_and_their_differences_points():
    share = BY_KEY["agreement"]
    assert number(0.4567, share) == "45.7%"
    assert number(0.1234, share, signed=True) == "+12.3 points"
    assert span(Interval(0.5, 0.4, 0.6), share) == "[40.0, 60.0]"
    assert span(Interval(1.5, math.nan, math.nan), PERPLEXITY) == ""


def test_a_measure_of_the_same_rows_is_resampled_once(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(comparing, "bootstrap_ratio", lambda *a, **k: asked.append(a) or bootstrap_ratio(*a, **k))
    samples = [heldout(2, row, tokens=row + 1, nll=row / 7) for row in range(9)]
    run = load_run(tmp_path / "a", EVALS, samples)
    assert last(run, PERPLEXITY) == last(run, PERPLEXITY)
    assert len(asked) == 1
    longer = load_run(tmp_path / "b", EVALS, [*samples, heldout(2, 9, tokens=1, nll=1.0)])
    assert last(longer, PERPLEXITY) != last(run, PERPLEXITY)
    assert len(asked) == 2
