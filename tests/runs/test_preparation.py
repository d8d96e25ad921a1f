"""Rows are prepared alike in one call or several, in one process or several, now or from the cache."""

import json
import time

import pytest
from rich.console import Console

import tiny_folder
from trimtab.data import kept
from trimtab.data.kept import KeptRows
from trimtab.data.rows import prepare
from trimtab.data.sources import DataError
from trimtab.data.tasks import prepare_tasks
from trimtab.data.tokens import Coder
from trimtab.runs import preparation

QUIET = Console(quiet=True)
TEXTS = [{"prompt": f"count {i}: ", "completion": "1 2 3"[: i % 5 + 1]} for i in range(40)]
STEPS = [
    {"prompt": f"p {i}", "completions": ["one", "two"][: i % 2 + 1], "labels": [True, False][: i % 2 + 1]}
    for i in range(30)
]
TURNS = [
    {"messages": [{"role": role, "content": f"{role} {i}"} for role in ("user", "assistant") * (i % 3 + 1)]}
    for i in range(30)
]
KINDS = {
    "messages": (tiny_folder.chat_rows(70), {}),
    "turns": (TURNS, {}),
    "texts": (TEXTS, {}),
    "chat": (TEXTS, {"chat": True}),
    "short": (TEXTS, {"max_length": 11}),
    "pairs": (tiny_folder.pair_rows(40), {"pairs": True}),
    "steps": (STEPS, {"steps": True}),
    "outcomes": ([{**row, "label": i % 2} for i, row in enumerate(TEXTS)], {"outcomes": True}),
    "columns": ([{**row, "a": [0.5] * (len(row["completion"]) + 1)} for row in TEXTS], {"columns": ("a",)}),
}


@pytest.fixture(autouse=True)
def _small_stretches(monkeypatch, tmp_path):
    monkeypatch.setattr("trimtab.data.rows.STRETCH", 7)
    monkeypatch.setattr(preparation, "KEPT_FROM", 20)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "cache"))


def one_by_one(monkeypatch, rows, **how):
    with monkeypatch.context() as alone:
        alone.setattr("trimtab.data.rows.STRETCH", 1)
        alone.setattr(Coder, "_together", lambda self, texts: {})
        return prepare(rows, tiny_folder.byte_tokenizer(), **{"max_length": 200, **how})


@pytest.mark.fast("2-*")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2])
def test_many_rows_at_a_time_are_what_each_is_alone(monkeypatch, kind, workers):
    rows, how = KINDS[kind]
    wanted = one_by_one(monkeypatch, rows, **how)
    made = prepare(rows, tiny_folder.byte_tokenizer(), **{"max_length": 200, **how}, workers=workers)
    assert json.dumps(made.rows) == json.dumps(wanted.rows)  # NaN is NaN there
    assert made.counts == wanted.counts
    assert made.notes() == wanted.notes()


def test_tasks_too():
    tokenizer = tiny_folder.byte_tokenizer()
    rows = [{"prompt": f"how much is {i}?", "answer": str(i)} for i in range(30)]
    one, two = (prepare_tasks(rows, tokenizer, "rows", workers=n) for n in (1, 2))
    assert one == two
    assert one.counts.longest == max(map(len, one.prompts))
    assert tokenizer.decode(one.prompts[3]) == "<|user|>how much is 3?<|end|>\n<|assistant|>"


@pytest.mark.parametrize("workers", [1, 2])
def test_the_first_row_that_cannot_be_read_is_named(workers):
    rows = [*TEXTS[:20], {"prompt": "a", "completion": 3}, *TEXTS[:3], {"text": 4}]
    with pytest.raises(DataError, match="rows: row 21: prompt and completion"):
        prepare(rows, tiny_folder.byte_tokenizer(), max_length=99, workers=workers)


def test_one_call_is_taken_only_where_it_gives_what_single_ones_give(monkeypatch):
    tokenizer = tiny_folder.byte_tokenizer()
    made = Coder(tokenizer)
    with made.expecting(["ab", "cd", "ab"]):
        assert made._expected["cd"].input_ids == tokenizer("cd", add_special_tokens=False).input_ids
        assert made.ids("ab") == tokenizer("ab", add_special_tokens=False).input_ids
    assert not made._expected
    plain = type(tokenizer).__call__

    def otherwise(self, text, **how):
        return plain(self, [one + "!" for one in text] if isinstance(text, list) else text, **how)

    monkeypatch.setattr(type(tokenizer), "__call__", otherwise)
    with made.expecting(["ab", "cd"]):
        assert not made._expected


# ---------------------------------------------------------------- kept for the next start


def again(rows, tokenizer=None, console=QUIET, **how):
    how = {"max_length": 200, **how}
    tokenizer = tokenizer or tiny_folder.byte_tokenizer()
    return preparation.prepared(rows, tokenizer, "rows", prepare, console=console, workers=1, **how)


def files():
    folder = preparation.cache_folder() / "prepared"
    return sorted(folder.glob("*")) if folder.is_dir() else []


@pytest.mark.parametrize("kind", KINDS)
def test_prepared_rows_come_back_as_they_were(kind):
    rows, how = KINDS[kind]
    first = again(rows, **how)
    assert len(files()) == 1
    console = Console(record=True, width=300)
    second = again(rows, console=console, **how)
    assert "tokenized in an earlier run" in console.export_text()
    assert json.dumps(second.rows) == json.dumps(first.rows)
    assert (second.counts, second.max_length, second.sources) == (first.counts, first.max_length, first.sources)
    assert [type(value) for value in second.rows[0].values()] == [type(value) for value in first.rows[0].values()]


def test_anything_that_they_depend_on_makes_them_anew(monkeypatch):
    rows = tiny_folder.chat_rows(30)
    again(rows)
    changes = [
        lambda: again([*rows[:-1], *tiny_folder.chat_rows(1, start=99)]),
        lambda: again(rows, max_length=100),
        lambda: again(rows, turns="each"),
        lambda: again(rows, end_ids=[5]),
        lambda: again(rows, tiny_folder.byte_tokenizer(tiny_folder.TEMPLATE + " ")),
    ]
    for number, change in enumerate(changes, start=2):
        change()
        assert len(files()) == number
    tokenizer = tiny_folder.byte_tokenizer()
    tokenizer.add_tokens(["count"])
    again(rows, tokenizer)
    monkeypatch.setattr(preparation, "version", lambda name: "0")
    again(rows)
    monkeypatch.setattr(preparation, "_of_code", lambda: "other code")
    again(rows)
    assert len(files()) == len(changes) + 4


def test_a_file_that_is_not_as_it_was_written_is_made_anew():
    rows = tiny_folder.chat_rows(30)
    first = again(rows)
    (path,) = files()
    whole = path.read_bytes()
    for broken in (whole[:-4] + b"\x01\x02\x03\x04", whole[: len(whole) // 2], b"", b"{}"):
        path.write_bytes(broken)
        assert kept.load(path) is None
        assert again(rows).rows == first.rows
        assert kept.load(path) is not None


def test_a_cache_that_cannot_be_written_is_said_and_nothing_else(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path / "file" / "cache"))
    console = Console(record=True, width=300)
    assert len(again(tiny_folder.chat_rows(30), console=console).rows) == 30
    assert "the tokenized rows could not be cached" in console.export_text()


def test_few_rows_are_not_kept():
    again(tiny_folder.chat_rows(10))
    assert not files()


def test_the_folder_does_not_grow_without_end(monkeypatch, tmp_path):
    monkeypatch.setattr(kept, "MOST", 1000)
    for number in range(4):
        kept.save(
            tmp_path / f"{number}.safetensors", KeptRows([{"a": [number] * 20, "b": 2**40, "c": 0.5}], {"n": number})
        )
        time.sleep(0.02)
    left = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert left[-1] == "3.safetensors"
    assert len(left) < 4
    assert kept.load(tmp_path / "3.safetensors") == KeptRows([{"a": [3] * 20, "b": 2**40, "c": 0.5}], {"n": 3})


def test_progress_is_shown_of_many_rows(monkeypatch):
    monkeypatch.setattr(preparation, "SHOWN_FROM", 20)
    console = Console(record=True, width=300)
    again(tiny_folder.chat_rows(40), console=console)
    text = console.export_text()
    assert "preparing rows  40/40 rows" in text
    assert "left 0:00" in text
