"""Scores as numbers: both treatments of answers that were not understood, groups, baselines; settings by name."""

import math

import pytest

from trimtab.evals import suites
from trimtab.evals.suite import (
    Answered,
    Item,
    Options,
    Suite,
    SuiteError,
    Verdict,
    accuracy,
    argmax,
    baselines,
    grouped,
)


def one(name: str, value: float | None, group: str = "a", error: str | None = None) -> Answered:
    item = Item(name, "?", {"A": "x", "B": "y"}, ("A",), {"kind": group})
    return Answered(item, ("",), {} if error else {"robust": Verdict(value, value)}, error)


def test_an_answer_that_was_not_understood_is_incorrect_in_one_number_and_absent_from_the_other():
    found = {(m.name, m.group): m for m in accuracy([one("1", 1.0), one("2", None), one("3", 0.0), one("4", None)])}
    assert found["robust strict", "all"].value.estimate == 0.25
    assert found["robust answered", "all"].value.estimate == 0.5
    assert found["robust unparsed", "all"].value.estimate == 0.5
    assert found["robust strict", "all"].number == 4
    assert found["robust answered", "all"].number == 2


def test_an_error_is_not_an_incorrect_answer():
    found = {m.name: m for m in accuracy([one("1", 1.0), one("2", None, error="timeout")]) if m.group == "all"}
    assert found["robust strict"].value.estimate == 1.0
    assert found["robust strict"].number == 1


def test_groups_partition_the_items():
    everything = [one("1", 1.0, "a"), one("2", 0.0, "b"), one("3", 0.0, "a")]
    found = grouped(everything)
    assert {name: [a.item.id for a in of] for name, of in found.items()} == {
        "all": ["1", "2", "3"], "kind=a": ["1", "3"], "kind=b": ["2"],
    }  # fmt: skip
    numbers = {(m.name, m.group): m.value.estimate for m in accuracy(everything)}
    assert numbers["robust strict", "kind=a"] == 0.5
    assert numbers["robust strict", "kind=b"] == 0.0


def test_where_everything_ended_in_errors_there_are_no_numbers():
    assert accuracy([one("1", None, error="x")]) == []


def letter_of(item, text):
    letter = text[-1:]
    value = 1 / len(item.target) if letter in item.target else 0.0
    return {"last": Verdict(letter, value) if letter in item.options else Verdict(None, None)}


LETTERS = Suite("", "1", Options, lambda options: [], {}, letter_of)


def test_baselines_by_hand():
    three = {"A": "yes", "B": "no", "C": "unknown"}
    items = [Item(str(i), "?", three, (letter,)) for i, letter in enumerate("AABC")]
    items += [Item(str(i), "?", {"A": "left", "B": "right"}, ("B",)) for i in range(4, 8)]
    found = baselines(LETTERS, items)
    assert found["random"] == pytest.approx((4 / 3 + 4 / 2) / 8)
    assert found["best letter"] == pytest.approx((1 + 4) / 8)
    assert found["majority answer"] == pytest.approx((2 + 4) / 8)  # "yes" where it is offered, "right" there
    assert baselines(LETTERS, [Item("5", "open?")]) == {}


def test_majority_goes_by_the_answer_and_not_by_its_letter():
    one = [Item(f"{i}", "?", {"A": "yes", "B": "no"}, ("A",)) for i in range(2)]
    other = [Item(f"{i}", "?", {"A": "no", "B": "yes"}, ("B",)) for i in range(2, 4)]
    found = baselines(LETTERS, one + other)
    assert found["majority answer"] == 1.0
    assert found["best letter"] == 0.5


def test_where_options_are_of_the_item_there_is_no_majority_answer():
    items = [Item(f"{i}", "?", {"A": f"a{i}", "B": f"b{i}"}, ("A",)) for i in range(8)]
    assert baselines(LETTERS, items).keys() == {"random", "best letter"}


def test_a_uniform_draw_gets_what_the_suite_gives_for_half_an_answer():
    item = Item("1", "?", {"A": "x", "B": "y", "C": "z"}, ("A", "B"))
    assert baselines(LETTERS, [item])["random"] == pytest.approx((0.5 + 0.5 + 0) / 3)


def test_the_likeliest_label_is_the_answer():
    item = Item("1", "?", {"A": "x", "B": "y"}, ("B",))
    assert argmax(item, {"A": 0.4, "B": 0.6}) == Verdict("B", 1.0)
    assert argmax(item, {"A": 0.5, "B": 0.5}) == Verdict("A", 0.0)


def test_an_unknown_suite_is_named_with_the_nearest():
    with pytest.raises(SuiteError, match="there is no suite 'nothing_like_it'"):
        suites.load("nothing_like_it")


def test_intervals_of_few_items_are_wide_and_of_one_unknown():
    alone = accuracy([one("1", 1.0)])[0].value
    assert math.isnan(alone.low)
    few = accuracy([one(str(i), float(i % 2)) for i in range(6)])[0].value
    assert few.low < 0.3 < 0.7 < few.high
