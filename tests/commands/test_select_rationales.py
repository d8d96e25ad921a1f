"""`trimtab select-rationales`: the file, its meta, the table, and what is refused."""

import json

import pytest

import tiny_folder
from trimtab.data.rationales import prepare_rationales
from trimtab.data.sources import load_rows
from trimtab.rewards.places import place_of_answer

ROWS = [
    {
        "instruction": "Tom has 3 pens and buys 4. How many pens?",
        "output": [
            "He starts with 3, adds 4. The answer is 7",
            "3 + 4 = 7. #### 7.0",
            "3 + 4 = 8. Therefore, the answer is 8",
            "He starts with 3, then adds 4. The answer is 7",
        ],
        "label": "7",
    },
    {"prompt": "Which?", "rationales": ["It is (B).", "So the answer is A."], "answer": 1, "options": ["x1", "x2"]},
    {"prompt": "Which?", "rationales": ["So the answer is B.", "I choose (B)", "A"], "answer": "B"},
]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def rows(tmp_path):
    return tiny_folder.write_jsonl(tmp_path / "rows.jsonl", ROWS)


def test_correct_and_different_rationales_are_written_with_a_meta_and_a_table(trimtab, rows, tmp_path):
    out = tmp_path / "new" / "kept.jsonl"
    code, said, err = trimtab("select-rationales", rows, "--out", out)
    assert (code, err) == (0, "")
    made = read(out)
    assert made[0] == {**ROWS[0], "output": [ROWS[0]["output"][1], ROWS[0]["output"][3]]}
    assert made[1]["rationales"] == ["It is (B)."]
    assert made[2]["rationales"] == ["So the answer is B.", "I choose (B)"]
    meta = json.loads(out.with_suffix(".meta.json").read_text())
    assert meta["command"] == "select-rationales"
    assert meta["settings"]["threshold"] == 0.8
    counts = meta["counts"]
    assert (counts["incorrect"], counts["near_duplicates"], counts["kept"], counts["rows_with_one"]) == (3, 1, 5, 1)
    lines = [line.split() for line in said.splitlines()]
    assert ["incorrect", "3", "by", "verify=auto"] in lines
    assert any(line[:6] == ["of", "them", "with", "one", "rationale", "1"] for line in lines)


def test_what_is_written_with_least_two_can_be_trained_on(trimtab, rows, tmp_path):
    out = tmp_path / "kept.jsonl"
    assert trimtab("select-rationales", rows, "--out", out, "least=2", "keep=2")[0] == 0
    made = prepare_rationales(load_rows(str(out)), tiny_folder.byte_tokenizer(), max_length=200, find=place_of_answer)
    assert made.counts.kept == 2


def test_labels_with_signs_and_rows_from_csv(trimtab, tmp_path):
    source = tmp_path / "rows.csv"
    source.write_text('prompt,output,label\nPrice?,"[""So $1,200"", ""It costs 1200."", ""The answer is 12""]",$1200\n')
    out = tmp_path / "kept.jsonl"
    code, _, err = trimtab("select-rationales", source, "--out", out)
    assert code == 0, err
    assert read(out) == [{"prompt": "Price?", "output": ["So $1,200", "It costs 1200."], "label": "$1200"}]


def test_without_a_filter_and_with_others(trimtab, rows, tmp_path):
    for verify, kept in (("none", 8), ("exact", 3)):
        out = tmp_path / f"{verify}.jsonl"
        code, _, err = trimtab("select-rationales", rows, "--out", out, f"verify={verify}")
        assert code == 0, err
        assert sum(len(row.get("output", row.get("rationales"))) for row in read(out)) == kept


@pytest.mark.parametrize(
    "words, said",
    [
        (["least=6"], "more than the 5 rationales"),
        (["verify=exakt"], "did you mean 'exact'"),
        (["keep=0"], "keep is 0; it must be at least 1"),
        (["--out", "rows.csv"], "rows are written as .jsonl"),
    ],
)
def test_settings_that_cannot_be_are_refused_and_nothing_is_written(trimtab, rows, tmp_path, words, said):
    out = [] if "--out" in words else ["--out", tmp_path / "kept.jsonl"]
    code, _, err = trimtab("select-rationales", rows, *out, *words)
    assert code == 2
    assert said in err
    assert not (tmp_path / "kept.jsonl").exists()


def test_rows_of_which_none_is_left_leave_nothing_behind(trimtab, tmp_path):
    rows = tiny_folder.write_jsonl(tmp_path / "rows.jsonl", [{**ROWS[0], "label": "9"}])
    code, _, err = trimtab("select-rationales", rows, "--out", tmp_path / "kept.jsonl")
    assert code == 2
    assert "no row is left of 1: 4 of 4 rationales are incorrect" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.jsonl"]


def test_a_file_that_is_there_is_replaced_only_if_asked(trimtab, rows, tmp_path):
    words = ["select-rationales", rows, "--out", tmp_path / "kept.jsonl"]
    assert trimtab(*words)[0] == 0
    code, _, err = trimtab(*words)
    assert code == 2
    assert "--force" in err
    assert trimtab(*words, "--force")[0] == 0
    code, _, err = trimtab("select-rationales", rows, "--out", rows)
    assert code == 2
    assert "is the input file" in err
