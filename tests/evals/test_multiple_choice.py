"""Multiple choice from own rows: how answers are read, in which words questions are asked, and what is refused."""

import json

import pytest

import tiny_folder
from trimtab.data.sources import DataError
from trimtab.evals import suites
from trimtab.evals.suite import SuiteError
from trimtab.evals.suites.multiple_choice import SUITE, official
from trimtab.rewards.parsing import letter_of
from trimtab.rewriting import clean_eval
from trimtab.rewriting.questions import PairScorer
from trimtab.rewriting.rules import Rules

OPTIONS = {"A": "oxygen", "B": "carbon dioxide", "C": "helium"}
ROWS = [
    {
        "id": "one",
        "question": "Which gas is it?",
        "options": list(OPTIONS.values()),
        "answer": 1,
        "topic": "gas",
    },
    {"question": "Who painted it?", "options": {"X": "Ann", "Y": "Bob"}, "answer": "Y", "topic": 7},
    {"question": "Which?", "options": ["3", "4"], "answer": "4", "topic": "gas"},
]


def items(path, written, /, **given):
    file = tiny_folder.write_jsonl(path / "rows.jsonl", written)
    return SUITE.items(suites.check("multiple_choice", {"file": file, **given}))


def test_rows_become_items_with_letters_targets_and_groups(tmp_path):
    one, two, three = items(tmp_path, ROWS, groups=["topic"])
    assert (one.id, two.id, three.id) == ("one", "1", "2")
    assert one.options == OPTIONS
    assert [item.target for item in (one, two, three)] == [("B",), ("Y",), ("B",)]
    assert [item.groups for item in (one, two)] == [{"topic": "gas"}, {"topic": "7"}]
    for prompt in SUITE.prompts.values():
        (message,) = prompt[0](one, ())
        assert message["content"].startswith("Which gas is it?\n\nA. oxygen\nB. carbon dioxide\nC. helium\n\n")
    assert len(items(tmp_path, ROWS, rows=2)) == 2


def test_clean_rows_ask_in_other_words_and_all_else_is_the_same(tmp_path):
    rows = [
        *ROWS[:2],
        {
            "fields": {"passage": "Long ago.", "question": "When was it?", "title": None},
            "options": ["a b", "c d"],
            "answer": "a b",
        },
    ]
    found = clean_eval.clean(rows, Rules(4), None, PairScorer("n", lambda pairs: [1.0] * len(pairs)))
    before, after = (items(tmp_path, found.rows, which=which) for which in ("original", "clean"))
    assert [one.text for one in before] == [
        "Which gas is it?",
        "Who painted it?",
        "Long ago.\n\nWhen was it?",
    ]
    assert after[2].text == "Long ago.\n\nAt what time was it?"
    for row, one, other in zip(found.rows, before, after):
        assert other.text.endswith(row["clean"]["question"])
        assert other.text != one.text
        assert (other.id, other.options, other.target) == (one.id, one.options, one.target)


def test_a_csv_file_holds_options_as_json(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text('question,options,answer\nWhich?,"[""x1"", ""y2""]",1\n')
    (item,) = SUITE.items(suites.check("multiple_choice", {"file": str(path)}))
    assert (item.options, item.target) == ({"A": "x1", "B": "y2"}, ("B",))
    lines = [
        "question,options,answer",
        'Which?,"[""x1"", ""y2"", ""[1, 2]""]","[""A"", ""y2""]"',
        'And?,"[""a"", ""[0]""]",[0]',
    ]
    path.write_text("\n".join(lines))
    both, text = SUITE.items(suites.check("multiple_choice", {"file": str(path)}))
    assert (both.target, text.target) == (("A", "B"), ("B",))


@pytest.mark.parametrize(
    "answer, wanted, strict",
    [
        ("B", "B", "B"),
        ("(B) carbon dioxide", "B", "B"),
        ("**B**. It is taken in", "B", "B"),
        ("The answer is C, not A.", "C", "A"),
        ("Answer: A\nNo wait. Answer: B", "B", "B"),
        ("\\boxed{C}", "C", "C"),
        ("Carbon dioxide.", "B", None),
        ("A plant takes in carbon dioxide", "B", "A"),
        ("It is helium, I think", "C", None),
        ("oxygen or helium", None, None),
        ("<think>A? A.</think>C", "C", "C"),
        ("b", "B", None),
        ("", None, None),
        ("A's gas is helium", "C", "A"),
        ("D", None, None),
    ],
)
def test_how_answers_are_read(answer, wanted, strict, tmp_path):
    assert (letter_of(answer, OPTIONS), official(answer, OPTIONS)) == (wanted, strict)
    item = items(tmp_path, ROWS)[0]
    verdicts = SUITE.score(item, answer)
    assert list(verdicts) == ["robust", "official"]
    assert verdicts["robust"] == (wanted, None if wanted is None else float(wanted == "B"))


@pytest.mark.parametrize(
    "change, given, message",
    [
        ({"answer": "D"}, {}, "row 1: answer 'D' is not one of the options"),
        ({"options": None}, {}, "row 1 has no column 'options'; its columns: id, question"),
        ({"question": " "}, {}, "row 1 has no text 'question'; name the column with question=..."),
        ({}, {"groups": ["level"]}, "has no column 'level'"),
        ({}, {"which": "clean"}, "has no clean text; make it with trimtab clean"),
        ({}, {"which": "old"}, "multiple_choice.which is 'old'; it must be"),
        ({}, {"wich": "clean"}, "did you mean 'which'"),
    ],
)
def test_what_is_no_question_is_named(tmp_path, change, given, message):
    with pytest.raises(SuiteError, match=message.replace("(", r"\(")):
        items(tmp_path, [{**ROWS[0], **change}], **given)


def test_a_missing_file_is_named():
    with pytest.raises(DataError, match="there is no file"):
        SUITE.items(suites.check("multiple_choice", {"file": "/nowhere.jsonl"}))


def test_items_are_json(tmp_path):
    json.dumps([item.options for item in items(tmp_path, ROWS)])
