"""Rows are found where the source says, and a mistake is named with its place."""

import hashlib
import json
from functools import wraps
from itertools import pairwise

import pyarrow
import pyarrow.parquet
import pytest

from trimtab.data import synthetic
from trimtab.data.sources import DataError, check_there, line_of, load_rows

ROWS = [{"prompt": "a", "completion": "é"}, {"prompt": "c", "completion": "d"}]


def test_jsonl_json_csv_and_parquet_hold_the_same_rows(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n\n")
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.csv").write_text("prompt,completion\na,é\nc,d\n", encoding="utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    for suffix in ("jsonl", "json", "csv", "parquet"):
        assert load_rows(str(tmp_path / f"a.{suffix}")) == ROWS, suffix


def test_a_malformed_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(DataError, match=r"a\.jsonl: line 2 is not valid JSON"):
        load_rows(str(path))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'["a"]\n', "row 1 is a list, expected an object"),
        ("a.jsonl", b"{}\n\xff", "line 2 is not UTF-8 text"),
        ("a.jsonl", b"", "holds no rows"),
        ("a.json", b'{"text": "a"}', "holds a dict, expected a list"),
        ("a.json", b'{"a": 1}\n{"a": 2}', "is called .jsonl"),
        ("a.parquet", b"hello", "is no parquet file"),
        ("a.txt", b"hello", "is not a .jsonl, .json, .csv, .tsv or .parquet file"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        load_rows(str(tmp_path / name))
    assert "\n" not in str(raised.value)


def test_a_missing_file_is_named():
    with pytest.raises(DataError, match=r"there is no file nowhere\.jsonl"):
        load_rows("nowhere.jsonl")


def test_a_hub_id_without_network_is_refused_in_one_line():
    with pytest.raises(
        DataError, match="someone/something: no local file .* and it could not be fetched from the hub"
    ) as raised:
        load_rows("someone/something")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("trimtab:evryday", "did you mean 'trimtab:everyday'"),
        ("trimtab:everyday/test", "splits are train and heldout"),
        ("trimtab:arithmetic/train?rows=x", "'rows=x' is not an option; arithmetic takes rows=NUMBER and seed=NUMBER"),
        ("trimtab:arithmetic/train?rows=²", "'rows=²' is not an option"),
        ("trimtab:arithmetic/train?form=pairs", "'form=pairs' is not an option; arithmetic takes rows=NUMBER and"),
        ("trimtab:everyday/train?rows=3", "'rows=3' is not an option; everyday takes none"),
        ("trimtab:geomrel/train?split=test", "'split=test' is not an option"),
    ],
)
def test_a_mistake_in_the_name_of_own_data_is_explained(source, message):
    with pytest.raises(DataError, match=message):
        load_rows(source)


def test_rows_that_come_with_trimtab_are_made_once_and_whoever_asks_has_rows_of_his_own(monkeypatch):
    made, plain = [], synthetic.DATASETS["arithmetic"]
    monkeypatch.setitem(
        synthetic.DATASETS, "arithmetic", wraps(plain)(lambda *a, **k: made.append(a) or plain(*a, **k))
    )
    source = "trimtab:arithmetic/train?rows=7&seed=20"
    first = load_rows(source)
    first[0].clear()
    assert load_rows(source) == list(plain("train", rows=7, seed=20))
    assert len(made) == 1
    assert load_rows(f"{source}1") != load_rows(source)


@pytest.mark.parametrize("number", [5, 7, 10, 33, 999])
@pytest.mark.parametrize("cuts", [("10%", "55%"), ("20%", "50%", "77%"), ("1", "3")])
def test_parts_that_meet_hold_each_row_once(tmp_path, number, cuts):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"n": {i}}}\n' for i in range(number)))
    ends = ["", *cuts, ""]
    parts = [f"{path}[{one}:{other}]" for one, other in pairwise(ends)]
    if (number, cuts[0]) == (5, "10%"):
        with pytest.raises(DataError, match=r"\[:10%\] holds no rows: of 5 it is those from 0 to 0"):
            load_rows(parts.pop(0))
    assert [row for part in parts for row in load_rows(part)] == load_rows(str(path))


def test_a_part_is_what_the_datasets_library_reads_of_a_split(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(f'{{"n": {i}}}\n' for i in range(25)))
    import datasets

    whole = datasets.Dataset.from_list(load_rows(str(path)))
    for part in ("[10%:55%]", "[:10%]", "[55%:]", "[3:9]", "[20:]", "[:]"):
        span = datasets.ReadInstruction.from_spec(f"train{part}").to_absolute({"train": 25})[0]
        assert load_rows(f"{path}{part}") == whole.to_list()[span.from_ : span.to], part
    made = "trimtab:arithmetic/train?rows=25"
    assert load_rows(f"{made}[10%:55%]") == load_rows(made)[2:14]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ("[10%:101%]", r"\[10%:101%\]: 101% is not within 5 rows; the end is 100%"),
        ("[2:6]", "6 is not within 5 rows; the end is 5"),
        ("[3:3]", "holds no rows: of 5 it is those from 3 to 3"),
        ("[4:1]", "holds no rows: of 5 it is those from 4 to 1"),
        ("[1:50%]", "1 and 50% are of two units; write both in rows or both in percent"),
        ("[%:5]", "is no part"),
        ("[-3:]", r"\[-3:\] is no part; write it in rows or whole percent, such as \[10%:55%\] or \[:100\]"),
        ("[2.5%:5]", "is no part"),
        ("[0:2", "is no part"),
    ],
)
def test_what_is_no_part_of_a_file_is_refused(tmp_path, part, message):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n' * 5)
    with pytest.raises(DataError, match=message) as raised:
        load_rows(f"{path}{part}")
    assert "\n" not in str(raised.value)


def test_a_part_of_what_is_not_there_is_refused_by_its_own_name(tmp_path):
    with pytest.raises(DataError, match=r"there is no file .*none\.jsonl"):
        check_there(f"{tmp_path / 'none.jsonl'}[:10%]")
    with pytest.raises(DataError, match="is a folder"):
        load_rows(f"{tmp_path}[:10%]")
    for source in ("someone/something:train[:10%]", "someone/something[:10%]"):
        with pytest.raises(DataError, match=r"someone/something:train\[:10%\]: no local file .* fetched from the hub"):
            load_rows(source)


def test_a_line_is_that_of_the_file_and_not_of_the_part(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"n": 1}\n\n' * 10)
    assert line_of(f"{path}[50%:]", 2) == ", line 13"
    assert line_of(str(path), 7) == ", line 13"
    assert line_of(str(path), 11) == ""


def test_bundled_heldout_prompts_are_no_training_prompts():
    prompts = {
        s: {row["messages"][0]["content"] for row in load_rows(f"trimtab:everyday/{s}")} for s in ("train", "heldout")
    }
    assert len(prompts["train"]) > 150
    assert len(prompts["heldout"]) > 40
    assert not prompts["train"] & prompts["heldout"]


def test_arithmetic_is_right_and_its_heldout_questions_are_never_training_questions():
    train, held = list(synthetic.arithmetic("train", 3000)), list(synthetic.arithmetic("heldout", 300))
    for row in train[:200]:
        question = row["messages"][0]["content"].removeprefix("What is ").removesuffix("?")
        a, sign, b = question.split()
        assert row["answer"] == str({"+": int(a) + int(b), "-": int(a) - int(b), "*": int(a) * int(b)}[sign])
        assert row["messages"][1]["content"].endswith(f"= {row['answer']}")
    asked = {row["messages"][0]["content"] for row in train}
    assert not asked & {row["messages"][0]["content"] for row in held}


def test_arithmetic_depends_on_its_seed_alone():
    assert list(synthetic.arithmetic("train", 20, 1)) == list(synthetic.arithmetic("train", 20, 1))
    assert list(synthetic.arithmetic("train", 20, 1)) != list(synthetic.arithmetic("train", 20, 2))


@pytest.mark.parametrize(("digits", "terms"), [(1, 2), (1, 3), (2, 4)])
def test_longer_arithmetic_is_right_line_by_line_and_keeps_its_splits_apart(digits, terms):
    options = f"rows=300&digits={digits}&terms={terms}"
    made = {split: load_rows(f"trimtab:arithmetic/{split}?{options}") for split in ("train", "heldout")}
    for row in made["train"]:
        task = row["messages"][0]["content"].removeprefix("What is ").removesuffix("?")
        numbers, signs, total = [int(n) for n in task.split()[::2]], task.split()[1::2], None
        assert len(numbers) == terms
        assert all(2 <= n < 10**digits for n in numbers)
        assert "*" not in signs[1:]
        for sign, number, line in zip(signs, numbers[1:], row["messages"][1]["content"].split("\n"), strict=True):
            before = numbers[0] if total is None else total
            total = {"+": before + number, "-": before - number, "*": before * number}[sign]
            assert line == f"{before} {sign} {number} = {total}"
        assert row["answer"] == str(total) == str(eval(task))
    assert {sign for row in made["train"] for sign in row["messages"][0]["content"] if sign in "+-*"} == set("+-*")
    asked, held = ({row["messages"][0]["content"] for row in made[split]} for split in made)
    assert not asked & held
    assert any(str(10**digits - 1) in question for question in asked)


def test_arithmetic_as_it_was_before_it_had_options_stays_the_same():
    rows = {split: list(synthetic.arithmetic(split, 300, seed)) for split, seed in (("train", 0), ("heldout", 2))}
    found = [hashlib.sha256(json.dumps(of).encode()).hexdigest()[:16] for of in rows.values()]
    assert found == ["13b3de1a970237dd", "ae425cb3dec5c361"]


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("digits=3", "digits is 3; expected 1 to 2"),
        ("digits=0", "digits is 0; expected 1 to 2"),
        ("terms=1", "terms is 1; expected 2 to 4"),
        ("terms=5", "terms is 5; expected 2 to 4"),
    ],
)
def test_arithmetic_that_is_not_built_is_refused(option, message):
    with pytest.raises(DataError, match=message):
        load_rows(f"trimtab:arithmetic/train?{option}")


def test_long_fields_and_the_mark_that_spreadsheets_write_are_read(tmp_path):
    long = "a" * 200_000
    (tmp_path / "rows.csv").write_text(f"\ufeffprompt,completion\np,{long}\n", encoding="utf-8")
    assert load_rows(str(tmp_path / "rows.csv")) == [{"prompt": "p", "completion": long}]
    (tmp_path / "rows.jsonl").write_text('\ufeff{"text": "a"}\n', encoding="utf-8")
    assert load_rows(str(tmp_path / "rows.jsonl")) == [{"text": "a"}]


def test_pairs_for_brevity_choose_the_first_sentence_of_an_answer_that_has_more():
    pairs = list(synthetic.brevity("train"))
    assert len(pairs) > 50
    for pair in pairs:
        chosen, rejected = pair["chosen"][0]["content"], pair["rejected"][0]["content"]
        assert rejected.strip().startswith(chosen)
        assert len(chosen) < len(rejected)
