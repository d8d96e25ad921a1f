"""Rows from Arrow are what was put into it, as plain values."""

import datetime
import decimal
import json

import pyarrow
import pyarrow.parquet
import pytest

from trimtab.data import arrow
from trimtab.data.sources import DataError, load_rows


def read_back(tmp_path, table):
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    return load_rows(str(tmp_path / "a.parquet"))


def test_objects_lose_the_keys_that_their_neighbours_gave_them(tmp_path):
    rows = [
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {"city": "Rome"}}}]}], "n": None},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {"zone": "CET"}}}]}], "n": 1},
        {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": ""}], "n": 2},
        {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {}}}]}], "n": 3},
    ]
    assert read_back(tmp_path, pyarrow.Table.from_pylist(rows)) == rows


def test_a_null_of_a_column_or_a_list_is_the_users(tmp_path):
    rows = [{"answer": None, "numbers": [1, None, 2]}, {"answer": "b", "numbers": []}]
    assert read_back(tmp_path, pyarrow.Table.from_pylist(rows)) == rows


def test_what_json_cannot_hold_becomes_what_it_can(tmp_path):
    table = pyarrow.table(
        {
            "day": pyarrow.array([datetime.date(2024, 2, 29)]),
            "at": pyarrow.array([datetime.datetime(2024, 2, 29, 12, 30)]),
            "took": pyarrow.array([datetime.timedelta(seconds=90)]),
            "whole": pyarrow.array([decimal.Decimal("12.00")]),
            "price": pyarrow.array([decimal.Decimal("0.10")]),
            "exact": pyarrow.array([decimal.Decimal("0.1234567890123456789012345")]),
            "text": pyarrow.array(["é".encode()], type=pyarrow.binary()),
            "map": pyarrow.array([[("a", 1), ("b", 2)]], type=pyarrow.map_(pyarrow.string(), pyarrow.int64())),
            "word": pyarrow.array(["x"]).dictionary_encode(),
            "deep": pyarrow.array([[[{"a": [1.5]}]]]),
        }
    )
    (row,) = read_back(tmp_path, table)
    assert row == {
        "day": "2024-02-29", "at": "2024-02-29T12:30:00", "took": 90.0, "whole": 12, "price": 0.1,
        "exact": "0.1234567890123456789012345", "text": "é", "map": {"a": 1, "b": 2}, "word": "x",
        "deep": [[{"a": [1.5]}]],
    }  # fmt: skip
    assert json.loads(json.dumps(row)) == row


def test_a_column_of_other_things_is_named(tmp_path):
    table = pyarrow.table({"text": ["a", "b"], "image": pyarrow.array([b"ok", b"\xff\xd8"])})
    with pytest.raises(DataError, match="row 2: image holds bytes that are no text; take the column out"):
        read_back(tmp_path, table)
    with pytest.raises(DataError, match="rows: row 1: image holds object"):
        arrow.plain_rows([{"image": object()}], "rows")


def test_a_doubled_column_is_refused(tmp_path):
    table = pyarrow.Table.from_arrays([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    with pytest.raises(DataError, match="several columns of the name 'text'"):
        read_back(tmp_path, table)
