"""Solutions with one planted error: an own reading of the lines finds that error and no other."""

import hashlib
import json
import operator
import re
from collections import Counter
from fractions import Fraction
from itertools import islice, pairwise
from random import Random
from typing import get_args

import pytest
import sympy
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny_folder
from tiny_table import table
from trimtab.core import IGNORE
from trimtab.data.generators import solutions, solving
from trimtab.data.generators.problem_templates import NAMES, SMALL, TEMPLATES, THINGS
from trimtab.data.generators.slips import KINDS
from trimtab.data.generators.solutions import planted_errors
from trimtab.data.rows import prepare
from trimtab.data.sources import DataError, load_rows
from trimtab.models.loading import load_tokenizer

RULES = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": Fraction}
FIGURE = r"\d+(?:/\d+)?"


def answer_of(row, side):
    return row[side][0]["content"]


# ---------------------------------------------------------------- an own reading of a solution


def read(line):
    """ "Pens: 3x = 20 - 5 = 15. There is nothing to round." -> [20, 5], ["-"], 15."""
    equation = line.split(": ", 1)[-1].split(".")[0].split("=")
    terms = re.findall(r"\d+|[-+*/]", equation[-2])
    return [Fraction(term) for term in terms[::2]], terms[1::2], Fraction(equation[-1].strip())


def total(numbers, signs):
    value = numbers[0]
    for sign, number in zip(signs, numbers[1:]):
        value = RULES[sign](value, number)
    return value


def unordered(numbers, signs):
    """Terms with their signs: the same for operands in another order."""
    return Counter(zip(["*" if set(signs) & {"*", "/"} else "+", *signs], numbers))


def last_number(line):
    found = re.fullmatch(rf"The answer is ({FIGURE})\.", line)
    assert found, line
    return Fraction(found[1])


def first_error(right, lines):
    """The first line that is false by itself or does not do what the right solution does there; -1 if there is none.

    A number of the right solution is an earlier result if it equals one, otherwise it comes from the task.
    """
    results: dict[Fraction, Fraction] = {}  # of the right solution -> of this one
    value = None
    for index, (true_line, line) in enumerate(zip(right[:-1], lines[:-1], strict=True)):
        (true_numbers, true_signs, true_value), (numbers, signs, value) = read(true_line), read(line)
        expected = [results.get(number, number) for number in true_numbers]
        if unordered(numbers, signs) != unordered(expected, true_signs) or total(numbers, signs) != value:
            return index
        results[true_value] = value
    return -1 if last_number(lines[-1]) == value else len(lines) - 1


def test_the_reading_of_lines_by_hand():
    assert read("Step 2: 3x = 20 - 5 = 15.") == ([20, 5], ["-"], 15)
    assert read("Pens: 20-5-3=12. There is nothing to round.") == ([20, 5, 3], ["-", "-"], 12)
    assert read("Step 1: x = 10 / 4 = 5/2.") == ([10, 4], ["/"], Fraction(5, 2))
    right = ["Step 1: 3 * 4 = 12.", "Step 2: 12 - 5 = 7.", "The answer is 7."]
    assert first_error(right, right) == -1
    for wrong, lines in (
        (-1, ["A: 4*3=12.", "Step 2: 12 - 5 = 7.", "The answer is 7."]),
        (0, ["Step 1: 3 * 4 = 13.", "Step 2: 13 - 5 = 8.", "The answer is 8."]),
        (0, ["Step 1: 3 + 4 = 7.", "Step 2: 7 - 5 = 2.", "The answer is 2."]),
        (1, ["Step 1: 3 * 4 = 12.", "Step 2: 13 - 5 = 8.", "The answer is 8."]),
        (1, ["Step 1: 3 * 4 = 12.", "Step 2: 12 - 5 - 5 = 2.", "The answer is 2."]),
        (1, ["Step 1: 3 * 4 = 12.", "Step 2: 5 - 12 = -7.", "The answer is 7."]),
        (2, ["Step 1: 3 * 4 = 12.", "Step 2: 12 - 5 = 7.", "The answer is 8."]),
    ):
        assert first_error(right, lines) == wrong, lines


@pytest.fixture(scope="module")
def pairs():
    return list(planted_errors("train", 3000, seed=1))


@pytest.mark.slow
def test_an_own_reading_finds_the_planted_step_of_3000_rows_and_no_error_in_the_right_answers(pairs):
    for row in pairs:
        chosen, rejected = (answer_of(row, side).split("\n") for side in ("chosen", "rejected"))
        assert first_error(chosen, chosen) == -1
        assert first_error(chosen, rejected) == row["error"]["step"], row
        assert last_number(chosen[-1]) == Fraction(row["answer"]) != last_number(rejected[-1])


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**12), split=st.sampled_from(["train", "heldout"]))
def test_whatever_the_seed_the_rows_of_either_split_are_labelled_exactly(seed, split):
    for row in planted_errors(split, 3, seed):
        chosen, rejected = (answer_of(row, side).split("\n") for side in ("chosen", "rejected"))
        assert first_error(chosen, rejected) == row["error"]["step"]
        template, numbers = task_of(row)
        assert solved(template, numbers) == last_number(chosen[-1]) == Fraction(row["answer"])


@pytest.mark.slow
def test_numbers_and_results_of_a_right_solution_are_all_different(pairs):
    """So that each number of a line has one origin, and the reading above is exact."""
    for row in pairs:
        lines = [read(line) for line in answer_of(row, "chosen").split("\n")[:-1]]
        results = [value for _, _, value in lines]
        assert len(set(results)) == len(results)
        for index, (numbers, _, _) in enumerate(lines):
            assert len(set(numbers)) == len(numbers)
            assert not set(numbers) & set(results[index:])


# ---------------------------------------------------------------- what the error's kind says


def places(row):
    """Lines of the rejected answer with the offset of each."""
    offset = 0
    for line in answer_of(row, "rejected").split("\n"):
        yield offset, line
        offset += len(line) + 1


def test_the_span_covers_exactly_the_incorrect_tokens_of_its_kind(pairs):
    seen = Counter()
    for row in pairs:
        error, text = row["error"], answer_of(row, "rejected")
        kind, marked = error["kind"], text[error["start"] : error["end"]]
        offset, line = list(places(row))[error["step"]]
        assert offset <= error["start"] < error["end"] <= offset + len(line)
        right_line = answer_of(row, "chosen").split("\n")[error["step"]]
        seen[kind] += 1
        if line.startswith("The answer is"):
            assert kind == "copy"
            assert marked == str(last_number(line))
            continue
        (numbers, signs, value), (true_numbers, true_signs, true_value) = read(line), read(right_line)
        same_terms = unordered(numbers, signs) == unordered(true_numbers, true_signs)
        if kind in ("slip", "carry"):
            assert same_terms
            assert value != total(numbers, signs) == true_value
            assert (abs(value - true_value) == 10) == (kind == "carry")
            assert marked == str(value)
            assert error["end"] == offset + line.index(".")
            continue
        assert value == total(numbers, signs), "but for the error the line is right"
        if kind in ("operation", "inverse"):
            assert marked in "+-*/"
            assert sorted(numbers) == sorted(true_numbers)
            assert sum((Counter(signs) - Counter(true_signs)).values()) == 1
            assert marked in Counter(signs) - Counter(true_signs)
        elif kind in ("misread", "copy", "conversion"):
            (new,) = Counter(numbers) - Counter(true_numbers)
            assert marked == str(new)
            assert new >= 2, "as in the right solutions"
            assert signs == true_signs
            assert re.fullmatch(r"\W?\d+\W?", text[error["start"] - 1 : error["end"] + 1].replace(" ", "."))
        elif kind == "dropped":
            assert len(numbers) == len(true_numbers) - 1
            assert unordered(numbers, signs) <= unordered(true_numbers, true_signs)
            assert marked == str(value)
            assert error["end"] == offset + line.index(".")
        else:
            assert kind == "repeated"
            more = unordered(numbers, signs) - unordered(true_numbers, true_signs)
            assert more == Counter([(signs[-1], numbers[-1])])
            assert marked.replace(" ", "") == f"{signs[-1]}{numbers[-1]}"
    assert set(seen) == set(KINDS)
    assert max(seen.values()) < 1.25 * min(seen.values()), seen


def test_a_copied_number_is_an_earlier_result_and_a_misread_one_stands_in_the_task(pairs):
    for row in pairs:
        error = row["error"]
        if error["kind"] not in ("misread", "copy", "conversion") or error["step"] == len(list(places(row))) - 1:
            continue
        right, wrong = (read(answer_of(row, s).split("\n")[error["step"]])[0] for s in ("chosen", "rejected"))
        (old,) = Counter(right) - Counter(wrong)
        earlier = [read(line)[2] for line in answer_of(row, "chosen").split("\n")[: error["step"]]]
        task = re.findall(r"\d+", row["prompt"][0]["content"])
        assert (old in earlier) == (error["kind"] == "copy")
        assert (str(old) in task) == (error["kind"] == "misread")


def test_incorrect_spans_are_the_later_numbers_that_differ_from_the_correct_ones(pairs):
    """Lines are compared number by number where no operands were exchanged in either answer."""
    compared = 0
    for row in pairs:
        error = row["error"]
        if any(edit["kind"] == "swapped" for edit in row["edits"]) or error["kind"] in ("dropped", "repeated"):
            continue
        expected = []
        for (offset, line), right in zip(places(row), answer_of(row, "chosen").split("\n")):
            numbers = [
                (m.start() + offset, m.end() + offset, m[0]) for m in re.finditer(r"\d+(?:/\d+)?", last_sides(line))
            ]
            truths = re.findall(r"\d+(?:/\d+)?", last_sides(right))
            assert len(numbers) == len(truths)
            expected += [[start, end] for (start, end, n), truth in zip(numbers, truths) if n != truth]
        own = [error["start"], error["end"]]
        assert [span for span in expected if span != own] == row["wrong"]
        compared += 1
    assert compared > 500


def last_sides(line):
    """The line with all blanked that stands before its operation."""
    start = line.index(": ") + 2 if ": " in line else 0
    before = line.rfind("=", 0, line.rindex("=")) + 1 if line.count("=") > 1 else start
    return " " * before + re.sub(r"(?<=\d)/(?=\d+=)", "|", line[before:])  # 10/4=5/2: the first is no fraction


def test_spans_of_consequences_hold_numbers_after_the_error_and_end_with_the_answer(pairs):
    for row in pairs:
        text, error = answer_of(row, "rejected"), row["error"]
        spans = [[error["start"], error["end"]], *row["wrong"]]
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
        assert all(re.fullmatch(FIGURE, text[start:end]) for start, end in row["wrong"])
        assert text[: spans[-1][1]] + "." == text, "the last number is wrong"


# ---------------------------------------------------------------- the tasks

FORMULAS = {
    "change": lambda a, b, c, d, e: e - (a * b + c * d),
    "bill": lambda a, b, c, d, e: a * b + c * d + e,
    "party": lambda a, b, c, d, e, f, g: (a * b + c * d - (e + f)) / g,
    "trip": lambda a, b, c, d, e: e - (a * b + c * d),
    "walk": lambda a, b, c, d: c * (a + b) + d,
    "film": lambda a, b, c: 60 * a + b - c,
    "ship": lambda a, b, c: 24 * a + b - c,
    "savings": lambda a, b, c, d: 7 * a * b + c - d,
    "sharing": lambda a, b, c, d, e: (a * b + c) / d - e,
    "factory": lambda a, b, c, d, e: (a * b * c - d) / e,
    "ages": lambda a, b, c: a + (a + b) + c * (a + b),
    "old times": lambda a, b, c, d: (a + b) / c - d,
    "fence": lambda a, b, c, d: 2 * (a + b) * c + d,
    "reading": lambda a, b, c, d: (a - b * c) / d,
    "eggs": lambda a, b, c, d: (12 * a - (b + c)) / d,
    "wages": lambda a, b, c, d, e, f: a * b + c * d - (e + f),
    "tank": lambda a, b, c, d: a + d * (b - c),
    "one in some": lambda a, b, c: a - a / b + c,
    "stall": lambda a, b, c, d, e, f, g, h: (a * b + c * d + e * f - g) / h,
    "packs": lambda a, b, c: a + b * c,
    "queue": lambda a, b, c, d, e: a - (b + c) + d * e,
}
X = sympy.Symbol("x")
PATTERNS = [
    (template, re.compile(r"(?:\w+)".join(re.split(r"\\{(?:who|friend|thing|other)\\}", pattern)), re.IGNORECASE))
    for template in TEMPLATES
    for wording in template.wordings
    for pattern in [re.sub(r"\\{([a-h])\\}", r"(?P<\1>\\d+)", re.escape(wording))]
]


def task_of(row):
    """Template and numbers of a task, read from its text alone."""
    text = row["prompt"][0]["content"]
    (found,) = [(template, m) for template, pattern in PATTERNS if (m := pattern.fullmatch(text))]
    return found[0], tuple(int(found[1][letter]) for letter in "abcdefgh"[: found[0].num_given])


def solved(template, numbers):
    """The answer, from the formula above or from the task's own text."""
    named = dict(zip("abcdefgh", map(Fraction, numbers)))
    if template.name in FORMULAS:
        return FORMULAS[template.name](**named)
    text = template.name.format(**dict(zip("abcdefgh", numbers)))
    if not template.algebra:
        return sympy.Rational(str(sympy.sympify(text)))
    text = re.sub(r"(\d)(x|\()", r"\1*\2", text)
    left, right = text.split("=")
    (root,) = sympy.solve(sympy.Eq(sympy.sympify(left), sympy.sympify(right)), X)
    return root


@table("template", TEMPLATES, ids=lambda t: t.name)
def test_steps_lead_to_the_answer_of_the_task(template):
    drawn, found = Random(template.name), 0
    for numbers in islice(iter(lambda: template.draw(drawn), None), 3000):
        lines = solving.solve(template, numbers)
        if lines is not None:
            assert lines[-1].result == solved(template, numbers), numbers
            found += 1
            if found == 12:
                return
    pytest.fail(f"{found} good tasks in 3000 draws")


@table("template", TEMPLATES, ids=lambda t: t.name)
def test_each_wording_names_each_number_of_the_task_once(template):
    assert len(set(template.wordings)) >= 3
    letters = "abcdefgh"[: template.num_given]
    for text in template.wordings:
        assert sorted(re.findall(r"\{([a-h])\}", text)) == list(letters), text
        assert not re.search(r"\d", text), text
    assert 2 <= len(template.written) <= 6


def test_names_and_things_are_words_of_one_line():
    assert all(re.fullmatch(r"[A-Za-z]+", word) for word in (*NAMES, *THINGS))


def test_the_answer_of_a_row_is_that_of_the_text_of_its_task(pairs):
    for row in pairs[:1500]:
        template, numbers = task_of(row)
        if template.name in FORMULAS:
            assert solved(template, numbers) == Fraction(row["answer"])


def test_there_are_tasks_in_words_expressions_and_equations_and_fractions_among_the_answers(pairs):
    assert len(FORMULAS) >= 8
    assert {t.name for t in TEMPLATES} >= set(FORMULAS)
    assert sum(t.algebra for t in TEMPLATES) >= 5
    fractions = [row for row in pairs if "/" in row["answer"]]
    assert len(fractions) > 20
    for row in pairs:
        rejected = last_number(answer_of(row, "rejected").split("\n")[-1])
        assert rejected.denominator == Fraction(row["answer"]).denominator
        assert 1 <= rejected <= 999
        assert Fraction(1, 3) <= rejected / Fraction(row["answer"]) <= 3


# ---------------------------------------------------------------- nothing but the error tells them apart


def accuracy(scores):
    """Of the rule "the higher score is the wrong answer"; equal scores are a coin."""
    return sum((wrong > right) + (wrong == right) / 2 for right, wrong in scores) / len(scores)


SIMPLE_RULES = {
    "longer answer": len,
    "more lines": lambda text: text.count("\n"),
    "larger final number": lambda text: last_number(text.split("\n")[-1]),
    "more digits": lambda text: len(re.findall(r"\d", text)),
    "more +": lambda text: text.count("+"),
    "more -": lambda text: text.count("-"),
    "more *": lambda text: text.count("*"),
    "more /": lambda text: text.count("/"),
    "odd final number": lambda text: last_number(text.split("\n")[-1]).numerator % 2,
    "round final number": lambda text: last_number(text.split("\n")[-1]).numerator % 5 == 0,
}


@pytest.mark.parametrize("name", SIMPLE_RULES)
def test_a_simple_rule_does_not_separate_incorrect_from_correct(pairs, name):
    score = SIMPLE_RULES[name]
    found = accuracy([(score(answer_of(row, "chosen")), score(answer_of(row, "rejected"))) for row in pairs[:2000]])
    assert 0.45 < found < 0.55, found


@pytest.mark.parametrize("kind", KINDS)
def test_the_final_answer_grows_in_about_half_of_the_errors_of_each_kind(pairs, kind):
    grown = [
        last_number(answer_of(row, "rejected").split("\n")[-1]) > Fraction(row["answer"])
        for row in pairs
        if row["error"]["kind"] == kind
    ]
    assert 0.35 < sum(grown) / len(grown) < 0.65


@pytest.mark.parametrize("kind", ["reworded", "tight", "swapped", "remark"])
def test_edits_are_as_frequent_in_incorrect_answers_as_in_correct_ones(pairs, kind):
    count = Counter(edit["answer"] for row in pairs for edit in row["edits"] if edit["kind"] == kind)
    right, wrong = count["chosen"], count["rejected"]
    assert right > 300
    assert abs(right - wrong) < 4 * (right + wrong) ** 0.5, (right, wrong)  # four deviations of a difference of counts


def test_edits_are_as_frequent_on_the_incorrect_line_as_on_the_same_line_of_the_correct_answer(pairs):
    count = Counter(
        (edit["kind"], edit["answer"]) for row in pairs for edit in row["edits"] if edit["step"] == row["error"]["step"]
    )
    for kind in ("reworded", "tight", "swapped", "remark"):
        right, wrong = count[kind, "chosen"], count[kind, "rejected"]
        assert right > 100
        assert abs(right - wrong) < 4 * (right + wrong) ** 0.5, (kind, right, wrong)


def test_recorded_edits_are_those_that_can_be_seen(pairs):
    for row in pairs[:1500]:
        for side in ("chosen", "rejected"):
            seen = set()
            for index, line in enumerate(answer_of(row, side).split("\n")[:-1]):
                if not line.startswith(f"Step {index + 1}: "):
                    seen.add(("reworded", index))
                if " = " not in line:
                    seen.add(("tight", index))
                if line.count(".") > 1:
                    seen.add(("remark", index))
            recorded = {(e["kind"], e["step"]) for e in row["edits"] if e["answer"] == side and e["kind"] != "swapped"}
            assert recorded == seen


def test_a_swapped_line_has_its_first_two_operands_exchanged_and_the_same_result(pairs):
    swapped = [
        (row, edit["step"])
        for row in pairs
        for edit in row["edits"]
        if edit["kind"] == "swapped" and edit["answer"] == "chosen"
    ]
    compared = 0
    for row, step in swapped:
        if step >= row["error"]["step"] or {"answer": "rejected", "kind": "swapped", "step": step} in row["edits"]:
            continue
        right, wrong = (read(answer_of(row, side).split("\n")[step]) for side in ("chosen", "rejected"))
        assert right[0][:2] == wrong[0][1::-1]
        assert right[0][2:] == wrong[0][2:]
        assert right[1:] == wrong[1:]
        compared += 1
    assert compared > 50


def test_errors_strike_every_line_and_every_template(pairs):
    steps = Counter(row["error"]["step"] for row in pairs)
    assert set(steps) >= {0, 1, 2, 3, 4, 5}
    assert {task_of(row)[0] for row in pairs[:2000]} == set(TEMPLATES)
    last = sum(row["error"]["step"] == answer_of(row, "rejected").count("\n") for row in pairs)
    assert 0 < last < 0.1 * len(pairs)


# ---------------------------------------------------------------- forms, splits, seeds


def test_the_three_forms_tell_of_the_same_problems():
    made = {form: list(planted_errors("heldout", 60, 5, form=form)) for form in ("pairs", "steps", "answers")}
    for pair, steps, answer in zip(made["pairs"], made["steps"], made["answers"], strict=True):
        assert pair["prompt"] == steps["prompt"] == answer["prompt"]
        assert pair["answer"] == steps["answer"] == answer["answer"]
        side = pair["chosen"] if answer["label"] else pair["rejected"]
        assert answer["completion"] == side
        assert "\n".join(steps["completions"]) == side[0]["content"]
        assert 3 <= len(steps["completions"]) <= 7
        first = -1 if answer["label"] else pair["error"]["step"]
        assert steps["first_error"] == first
        assert steps["labels"] == [first < 0 or i < first for i in range(len(steps["completions"]))]
        assert steps["kind"] == (None if answer["label"] else pair["error"]["kind"])
        assert answer["error"] == (None if answer["label"] else pair["error"])
    assert [list(made[form][0]) for form in made] == [
        ["prompt", "chosen", "rejected", "error", "wrong", "answer", "edits"],
        ["prompt", "completions", "labels", "first_error", "answer", "kind"],
        ["prompt", "completion", "label", "error", "answer"],
    ]


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**9),
    rows=st.integers(0, 9),
    more=st.integers(0, 5),
    split=st.sampled_from(["train", "heldout"]),
)
def test_rows_depend_on_split_seed_and_form_alone_and_half_are_right(seed, rows, more, split):
    rest = list(planted_errors(split, rows + more, seed, form="answers"))
    assert list(planted_errors(split, rows, seed, form="answers")) == rest[:rows]
    right = [row["label"] for row in rest]
    assert sum(right[: 2 * (len(right) // 2)]) == len(right) // 2


def test_correct_and_incorrect_come_in_random_order():
    labels = [row["label"] for row in planted_errors("train", 400, form="answers")]
    assert 60 < sum(labels[::2]) < 140


def test_another_seed_gives_other_rows():
    one, other = (planted_errors("train", 50, seed) for seed in (0, 1))
    assert not {str(row["prompt"]) for row in one} & {str(row["prompt"]) for row in other}


def test_no_problem_of_the_heldout_rows_is_a_training_problem_in_any_wording(pairs):
    held = {task_of(row) for seed in range(2) for row in planted_errors("heldout", 200, seed)}
    assert not held & {task_of(row) for row in pairs}


def test_of_a_template_with_few_tasks_each_task_is_in_one_split_and_one_in_ten_is_held_out():
    (ages,) = [template for template in TEMPLATES if template.name == "ages"]
    drawn = Random(0)
    train, held = ({solutions._task(drawn, ages, heldout)[0] for _ in range(2000)} for heldout in (False, True))
    assert not train & held
    assert 0.06 < len(held) / len(train | held) < 0.16  # not all training tasks have been met


def test_pairs_and_answers_are_rows_that_training_takes():
    tokenizer = tiny_folder.byte_tokenizer()
    pairs = load_rows("trimtab:planted_errors/train?rows=8&seed=3")
    kept = prepare(pairs, tokenizer, max_length=2000, pairs=True).rows
    for row, source in zip(kept, pairs, strict=True):
        learnt = [token for token, label in zip(row["rejected_input_ids"], row["rejected_labels"]) if label != IGNORE]
        assert tokenizer.decode(learnt[:-1]) == answer_of(source, "rejected")
    answers = load_rows("trimtab:planted_errors/heldout?rows=8&form=answers")
    assert prepare(answers, tokenizer, max_length=2000).counts.kept == 8


@pytest.mark.slow
def test_99_of_100_answers_have_at_most_110_tokens_of_smollm2(pairs):
    tokenizer = load_tokenizer("smollm2-135m")
    long = [len(tokenizer(answer_of(row, side)).input_ids) for row in pairs for side in ("chosen", "rejected")]
    assert sum(n > 110 for n in long) < 0.01 * len(long)
    assert max(long) < 140


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("/test", "splits are train and heldout, not 'test'"),
        (
            "/train?form=pair",
            r"'form=pair' is not an option; planted_errors takes .* and form=pairs\|steps\|answers and ",
        ),
        ("/train?level=easy", r"'level=easy' is not an option; planted_errors takes .* and level=usual\|small$"),
        ("/train?shape=pairs", r"'shape=pairs' is not an option; .* rows=NUMBER and seed=NUMBER and form=pairs\|steps"),
        ("/train?rows=pairs", "'rows=pairs' is not an option"),
    ],
)
def test_a_mistake_in_the_source_is_explained_in_one_line(options, message):
    with pytest.raises(DataError, match=message) as raised:
        load_rows(f"trimtab:planted_errors{options}")
    assert "\n" not in str(raised.value)


# ---------------------------------------------------------------- small tasks


def small_rows(split="train", rows=3000, seed=0, **options):
    return list(planted_errors(split, rows, seed, level="small", **options))


@pytest.fixture(scope="module")
def small():
    return small_rows()


def read_small(line):
    """ "12-3=9." -> [12, 3], ["-"], 9; "9." -> [9], [], 9."""
    left, _, right = line.removesuffix(".").partition("=")
    terms = re.findall(r"\d+|[-+*]", left)
    return [int(term) for term in terms[::2]], terms[1::2], int(right or left)


@pytest.mark.slow
def test_small_solutions_are_right_line_by_line_and_lead_to_the_value_of_the_expression(small):
    for row in small:
        task = row["prompt"][0]["content"].rstrip("=?")
        *lines, last = answer_of(row, "chosen").split("\n")
        results, given = [], [int(n) for n in re.findall(r"\d+", task)]
        assert all(2 <= n <= 12 for n in given)
        for line in lines:
            numbers, signs, value = read_small(line)
            assert total(numbers, signs) == value, line
            assert 1 <= value <= 99
            assert set(numbers) <= {*given, *results}
            results.append(value)
        assert last == f"{results[-1]}."
        assert row["answer"] == str(results[-1]) == str(eval(task))


def test_the_planted_step_of_a_small_task_is_the_first_that_differs_but_for_the_order(small):
    for row in small:
        pair = [[read_small(line) for line in answer_of(row, side).split("\n")] for side in ("chosen", "rejected")]
        differs = [unordered(*a[:2]) != unordered(*b[:2]) or a[2] != b[2] for a, b in zip(*pair, strict=True)]
        assert differs.index(True) == row["error"]["step"]
        text, start, end = answer_of(row, "rejected"), row["error"]["start"], row["error"]["end"]
        before = text[:start].count("\n")
        assert before == row["error"]["step"]
        assert re.fullmatch(r"\d+|[-+*]|[-+]\d+", text[start:end])
        for first, last in row["wrong"]:
            assert text[first:last].isdigit()
        assert text.split("\n")[-1] != f"{row['answer']}."
        assert all(read_small(line)[2] <= 99 for line in text.split("\n"))


def test_small_tasks_have_every_kind_but_those_of_factors_and_equations(small):
    counts = Counter(row["error"]["kind"] for row in small)
    assert set(counts) == set(KINDS) - {"conversion", "inverse"}
    assert min(counts.values()) > 0.11 * len(small)
    assert {edit["kind"] for row in small for edit in row["edits"]} == {"swapped"}
    seen = {re.sub(r"\d+", "n", row["prompt"][0]["content"].rstrip("=?")) for row in small}
    assert seen == {re.sub(r"{\w}", "n", template.name) for template in SMALL}


@pytest.mark.slow
def test_answers_to_small_tasks_are_short_and_no_heldout_task_is_a_training_task(small):
    assert max(len(answer_of(row, side)) for row in small for side in ("chosen", "rejected")) <= 36
    asked = [{row["prompt"][0]["content"].rstrip("=?") for row in rows} for rows in (small, small_rows("heldout"))]
    train, held = asked
    assert not train & held
    assert len(held) > 300


def test_the_forms_of_small_tasks_tell_of_the_same_problems():
    pairs, steps, answers = (small_rows("heldout", 40, 2, form=form) for form in ("pairs", "steps", "answers"))
    for pair, of_steps, answer in zip(pairs, steps, answers, strict=True):
        assert pair["prompt"] == of_steps["prompt"] == answer["prompt"]
        side = pair["chosen" if answer["label"] else "rejected"]
        assert answer["completion"] == side
        assert "\n".join(of_steps["completions"]) == side[0]["content"]
        assert of_steps["first_error"] == (-1 if answer["label"] else pair["error"]["step"])


def test_rows_of_the_usual_level_are_those_from_before_there_were_levels():
    known = {"pairs": "fcefed04bf0ed608", "steps": "3f346c0b57e7a83c", "answers": "e47b631e4d2e6529"}
    for form in get_args(solutions.Form):
        rows = list(planted_errors("train", 300, form=form))
        assert hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16] == known[form]


def test_a_split_or_form_that_is_not_there_is_refused_before_a_row_is_made():
    with pytest.raises(ValueError, match="splits are train and heldout, not 'test'"):
        planted_errors("test")
    with pytest.raises(ValueError, match="forms are pairs, steps, answers, not 'pair'"):
        planted_errors("train", form="pair")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="levels are usual, small, not 'tiny'"):
        planted_errors("train", level="tiny")  # type: ignore[arg-type]
