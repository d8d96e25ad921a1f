"""What a user's file holds is what is read, to the character, or the line that cannot be read is named."""

import gzip
import io
import json
from types import SimpleNamespace

import pytest

from tiny_table import table
from trimtab.common import csv_text, files
from trimtab.common.files import DataError
from trimtab.data.row_formats import outcome, step_labels
from trimtab.data.sources import load_rows, prompt_lines

ODD = "one\u2028two\u2029three\u0085four\x0bfive\x0csix\x1cseven\x1deight\x1enine"
"""where str.splitlines cuts and no line ends"""


def written(tmp_path, name, content):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def refused(call, *arguments):
    with pytest.raises(DataError) as raised:
        call(*arguments)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# ---------------------------------------------------------------- lines


def test_what_no_line_ends_at_stays_in_its_row_and_its_prompt(tmp_path):
    row = {"prompt": ODD, "completion": ODD}
    for escaped in (True, False):
        path = written(tmp_path, "a.jsonl", json.dumps(row, ensure_ascii=escaped) + "\n")
        assert load_rows(str(path)) == [row]
    assert load_rows(str(written(tmp_path, "a.csv", f'prompt,completion\n"{ODD}","{ODD}"\n'))) == [row]
    assert prompt_lines(written(tmp_path, "p.txt", f"{ODD}\nsecond\n")) == [ODD, "second"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.tsv", "p.txt"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("packed", [False, True])
def test_marks_line_ends_and_packing_change_nothing(tmp_path, name, mark, end, packed):
    lines = {
        "a.jsonl": [b'{"prompt": "a", "completion": "b"}', b"", b'{"prompt": "c", "completion": "d"}'],
        "a.json": [b'[{"prompt": "a", "completion": "b"},', b'{"prompt": "c", "completion": "d"}]'],
        "a.csv": [b"prompt,completion", b"a,b", b"", b"c,d"],
        "a.tsv": [b"prompt\tcompletion", b"a\tb", b"c\td"],
        "p.txt": [b"hello", b"", b"world"],
    }[name]
    for last in (b"", end):  # also without the last newline
        data = mark + end.join(lines) + last
        if name == "p.txt":
            assert prompt_lines(written(tmp_path, name, data)) == ["hello", "world"]
            continue
        path = written(tmp_path, f"{name}{'.gz' * packed}", gzip.compress(data) if packed else data)
        assert load_rows(str(path)) == [{"prompt": "a", "completion": "b"}, {"prompt": "c", "completion": "d"}]


def test_standard_input_is_read_as_a_file_is(monkeypatch):
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(b"\xef\xbb\xbfa\xe2\x80\xa8b\r\nc\r\n")))
    assert prompt_lines(files.Path("-")) == ["a\u2028b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n".encode("utf-16"), 'is UTF-16 text (which Windows calls "Unicode"); save it as UTF-8'),
        ("a,b\n".encode("utf-16-le"), "is UTF-16 text"),
        ("a,b\n".encode("utf-16-be"), "is UTF-16 text"),
        ("a,b\n".encode("utf-32"), "is UTF-32 text"),
        ("a,b\né,x\n".encode("latin-1"), "line 2 is not UTF-8 text"),
        (b"a,b\nx,\0y\n", "line 2 holds a NUL byte"),
    ],
)
def test_another_encoding_is_named(tmp_path, content, message):
    assert message in refused(load_rows, str(written(tmp_path, "a.csv", content)))
    assert message in refused(prompt_lines, written(tmp_path, "a.txt", content))


def test_a_damaged_archive_is_named(tmp_path):
    whole = gzip.compress(b'{"text": "a"}\n' * 100)
    for damaged in (whole[:-9], b"hello", whole[:12] + b"xxxx" + whole[16:]):
        assert "cannot be read" in refused(load_rows, str(written(tmp_path, "a.jsonl.gz", damaged)))


# ---------------------------------------------------------------- JSON


def test_the_line_of_a_mistake_is_the_one_an_editor_shows(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "a\u2028b"}\r\n\r\n{"text": }\n')
    assert "line 3 is not valid JSON" in refused(load_rows, str(path))


def test_a_key_that_comes_twice_is_refused_and_named(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "a"}\n{"text": "a", "text": "b"}\n')
    assert "line 2 has an object with the key 'text' twice" in refused(load_rows, str(path))
    path = written(tmp_path, "a.json", '[{"messages": [{"role": "user", "role": "system"}]}]')
    assert "the key 'role' twice" in refused(load_rows, str(path))


def test_numbers_that_python_writes_and_json_lacks_are_read(tmp_path):
    (row,) = load_rows(str(written(tmp_path, "a.jsonl", '{"text": "a", "score": NaN, "best": Infinity}\n')))
    assert row["score"] != row["score"]
    assert row["best"] == float("inf")


def test_half_a_character_is_refused_with_its_row_and_place(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "\\ud83d\\ude00"}\n{"text": "a \\ud83d b"}\n')
    assert "row 2 holds half of a character under text: \\ud83d" in refused(load_rows, str(path))
    nested = {"messages": [{"role": "assistant", "tool_calls": [{"function": {"arguments": {"city": "\udc00"}}}]}]}
    path = written(tmp_path, "b.json", json.dumps([nested]))
    place = "messages[0].tool_calls[0].function.arguments.city"
    assert f"row 1 holds half of a character under {place}: \\udc00" in refused(load_rows, str(path))
    assert "half of a character" in refused(load_rows, str(written(tmp_path, "c.jsonl", '{"a\\ud83d": 1}\n')))


def test_any_reader_gets_back_what_was_written(tmp_path):
    rows = [{"id": 1, "text": ODD}, {"id": 2, "text": "half \ud83d, whole \U0001f600, é"}]
    path = tmp_path / "a.jsonl"
    for row in rows:
        files.append_lines(path, [row])
    text = path.read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == rows  # cuts wherever it can
    with path.open(encoding="utf-8") as lines:
        assert [json.loads(line) for line in lines] == rows
    assert list(files.records(path.read_bytes())) == rows
    assert "\U0001f600, é" in text  # people read it, too


# ---------------------------------------------------------------- CSV


def test_rows_that_do_not_fit_their_header_are_refused_with_their_line(tmp_path):
    found = refused(load_rows, str(written(tmp_path, "a.csv", 'prompt,completion\n"a\nb",c\nhi,one, two, three\n')))
    assert "the row in line 4 has 4 cells but the header has 2 columns" in found
    found = refused(load_rows, str(written(tmp_path, "a.csv", "prompt,completion\nhi,one\nho\n")))
    assert "the row in line 3 has 1 cells" in found


def test_a_column_that_comes_twice_is_refused(tmp_path):
    path = written(tmp_path, "a.csv", "prompt,completion, completion\nhi,good,bad\n")
    assert "several columns named 'completion'" in refused(load_rows, str(path))


def test_a_quote_that_is_not_closed_is_found_at_its_line(tmp_path):
    found = refused(load_rows, str(written(tmp_path, "a.csv", 'prompt,completion\nhe,a\nhi,"x\nho,y\n')))
    assert "the row that starts on line 3 has a quote that is never closed" in found
    found = refused(load_rows, str(written(tmp_path, "a.csv", 'prompt,completion\nhe,a\nhi,"say "no" now"\n')))
    assert "the row that starts on line 3 is not valid CSV" in found


def test_quoted_cells_keep_commas_quotes_spaces_and_line_ends(tmp_path):
    path = written(tmp_path, "a.csv", 'prompt,completion\r\n"a, ""b""\r\nc", d \r\n,\r\n')
    assert load_rows(str(path)) == [{"prompt": 'a, "b"\r\nc', "completion": " d "}, {"prompt": "", "completion": ""}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "prompt;completion\na, b;c\n"),
        ("a.csv", "prompt\tcompletion\na, b\tc\n"),
        ("a.csv", 'sep=;\r\nprompt;completion\r\n"a, b";c\r\n'),
        ("a.tsv", "prompt\tcompletion\na, b\tc\n"),
        ("a.csv", 'prompt,completion,,\n"a, b",c,,\n'),
    ],
)
def test_other_signs_between_cells_and_empty_ends_are_understood(tmp_path, name, content):
    assert load_rows(str(written(tmp_path, name, content))) == [{"prompt": "a, b", "completion": "c"}]


def test_the_index_that_pandas_writes_is_kept_as_a_column(tmp_path):
    path = written(tmp_path, "a.csv", ",prompt,completion\n0,a,b\n1,c,d\n")
    assert [row["Unnamed: 0"] for row in load_rows(str(path))] == ["0", "1"]
    assert [row["prompt"] for row in load_rows(str(path))] == ["a", "c"]


def test_a_csv_file_without_rows_is_refused_as_empty(tmp_path):
    assert "is empty" in refused(load_rows, str(written(tmp_path, "a.csv", "")))
    assert "holds no rows" in refused(load_rows, str(written(tmp_path, "a.csv", "prompt,completion\n")))


def test_lists_in_cells_are_read_where_a_column_is_never_a_text(tmp_path):
    cells = '"[""x"", ""y""]","[true, false]"'
    (row,) = load_rows(str(written(tmp_path, "a.csv", f"prompt,completions,labels\n[1],{cells}\n")))
    assert row == {"prompt": "[1]", "completions": ["x", "y"], "labels": [True, False]}
    cells = "\"['x', 'y']\",\"[True, False]\""
    (row,) = load_rows(str(written(tmp_path, "a.csv", f"prompt,completions,labels\n[1],{cells}\n")))
    assert row == {"prompt": "[1]", "completions": ["x", "y"], "labels": [True, False]}


@table(
    ("cell", "value"),
    [
        ("1", 1), (" 0 ", 0), ("-1", -1), ("1.0", 1.0), ("TRUE", True), ("False", False), ("0.5", 0.5), ("1e-3", 1e-3),
        ("", ""), ("yes", "yes"), ("nan", "nan"), ("1_0", "1_0"), ("١", "١"), (None, None), (2, 2), ([1], [1]),
    ],
)  # fmt: skip
def test_cells_that_are_numbers_or_booleans_are_taken_as_such(cell, value):
    assert csv_text.as_number(cell) == value
    assert type(csv_text.as_number(cell)) is type(value)


# ---------------------------------------------------------------- places


def test_several_files_are_refused_with_the_way_out(tmp_path):
    path = written(tmp_path, "a.jsonl", '{"text": "a"}\n')
    assert "is a folder (a.jsonl), expected one file" in refused(load_rows, str(tmp_path))
    assert "patterns are not filled in" in refused(load_rows, str(tmp_path / "*.jsonl"))
    folder = tmp_path / "b.jsonl"
    folder.mkdir()
    assert "is a folder" in refused(load_rows, str(folder))
    odd = path.rename(tmp_path / "a[1].jsonl")
    assert load_rows(str(odd)) == [{"text": "a"}]


# ---------------------------------------------------------------- labels


@pytest.mark.parametrize("words", [("1", "0"), ("True", "False"), ("TRUE", "false"), ("1.0", "0.0"), (" 1", "0 ")])
def test_labels_from_csv_are_those_of_jsonl(tmp_path, words):
    rows = load_rows(str(written(tmp_path, "a.csv", f"prompt,completion,label\na,b,{words[0]}\nc,d,{words[1]}\n")))
    assert [outcome(row, "row") for row in rows] == [1.0, 0.0]


def test_an_empty_cell_is_no_label(tmp_path):
    (row,) = load_rows(str(written(tmp_path, "a.csv", "prompt,completion,label\na,b,\n")))
    assert "row has no label" in refused(outcome, row, "row")


@pytest.mark.parametrize(
    ("cell", "wanted"),
    [
        ('"[true, false]"', [1, -1]),
        ('"[""1"", ""-1""]"', [1, -1]),
        ('"[1, 0]"', [1, 0]),
        ('"[True, False]"', [1, -1]),
        ("\"['TRUE', '0.0']\"", [1, 0]),
    ],
)
def test_step_labels_from_csv_are_lists(tmp_path, cell, wanted):
    (row,) = load_rows(str(written(tmp_path, "a.csv", f'prompt,completions,labels\na,"[""b"", ""c""]",{cell}\n')))
    assert step_labels(row, "row") == wanted
    assert row["completions"] == ["b", "c"]
