"""The official files of ProcessBench, in a folder made here."""

import json

import pytest

from trimtab.data.processbench import SPLITS, processbench
from trimtab.data.sources import DataError


def official(number: int = 0, **changes) -> dict:
    return {
        "id": f"gsm8k-{number}",
        "generator": "a model",
        "problem": "2 + 3 * 4?",
        "steps": ["3 * 4 = 12.", "2 + 12 = 15.", "The answer is 15."],
        "final_answer": "14",
        "final_answer_correct": False,
        "label": 1,
    } | changes


@pytest.fixture
def folder(tmp_path):
    for split in SPLITS:
        rows = [official(0), official(1, label=-1, steps=["12.", "14."])]
        (tmp_path / f"{split}.json").write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def test_all_four_files_are_read_in_the_official_order(folder):
    rows = processbench(folder)
    assert SPLITS == ("gsm8k", "math", "olympiadbench", "omnimath")
    assert [row["split"] for row in rows] == [split for split in SPLITS for _ in range(2)]
    assert rows[0] == {
        "prompt": [{"role": "user", "content": "2 + 3 * 4?"}],
        "completions": ["3 * 4 = 12.", "2 + 12 = 15.", "The answer is 15."],
        "labels": [True, False, False],
        "first_error": 1,
        "split": "gsm8k",
    }
    assert rows[1]["labels"] == [True, True]
    assert rows[1]["first_error"] == -1
    assert processbench(str(folder)) == rows


def test_an_error_in_the_first_step_leaves_none_right(folder):
    (folder / "math.json").write_text(json.dumps([official(label=0)]))
    assert processbench(folder)[2]["labels"] == [False, False, False]


def test_a_missing_file_is_named_with_where_to_get_it(folder):
    (folder / "olympiadbench.json").unlink()
    with pytest.raises(DataError, match=r"has no olympiadbench\.json.*Qwen/ProcessBench") as error:
        processbench(folder)
    assert "\n" not in str(error.value)
    with pytest.raises(DataError, match=r"has no gsm8k\.json"):
        processbench(folder / "nowhere")


@pytest.mark.parametrize("key", ["problem", "steps", "label"])
def test_a_missing_key_is_named_with_its_row_and_where_to_get_the_file(folder, key):
    row = official(1)
    del row[key]
    (folder / "math.json").write_text(json.dumps([official(), row]))
    with pytest.raises(DataError, match=rf"math\.json: row 2 has no key '{key}'.*Qwen/ProcessBench"):
        processbench(folder)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"label": 3}, r"gsm8k\.json: row 2 \(gsm8k-1\) has the label 3 and 3 steps; expected -1 to 2"),
        ({"label": -2}, "has the label -2"),
        ({"label": "1"}, "has the label '1'"),
        ({"label": True}, "has the label True"),
        ({"label": None}, "has the label None"),
        ({"steps": []}, "expected a list of texts under 'steps'"),
        ({"steps": "all in one"}, "expected a list of texts under 'steps'"),
        ({"steps": ["a", None]}, "expected a list of texts under 'steps'"),
        ({"problem": 7}, "expected a text under 'problem'"),
    ],
)
def test_a_row_that_makes_no_sense_is_named(folder, changes, message):
    (folder / "gsm8k.json").write_text(json.dumps([official(), official(1, **changes)]))
    with pytest.raises(DataError, match=message) as error:
        processbench(folder)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_list_of_rows_is_refused(folder):
    (folder / "omnimath.json").write_text("[]")
    with pytest.raises(DataError, match="omnimath.json holds no rows"):
        processbench(folder)
    (folder / "omnimath.json").write_text("{}")
    with pytest.raises(DataError, match="expected a list of objects"):
        processbench(folder)
