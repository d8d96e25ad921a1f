"""Users' paths, names and rows are printed as they are, whatever rich makes of [brackets] and :words:."""

import ast
import io
from pathlib import Path

import pytest
from rich.console import Console
from rich.text import Text

import tiny_folder
from trimtab.commands import preview
from trimtab.common.progress import advance, bar
from trimtab.common.terminal import cells, say, table_of
from trimtab.runs import run
from trimtab.runs.parse import parse

ODD = "a [draft] of [/b] :smile: [link=x]"
SOURCES = sorted((Path(__file__).parents[2] / "src" / "trimtab").rglob("*.py"))


def test_texts_and_tables_are_printed_as_they_are():
    console = Console(record=True, width=30, force_terminal=True)
    say(console, ODD + " and goes on beyond the width")
    table = table_of(ODD, title=ODD, box=None)
    table.add_row(*cells((ODD,)))
    said = console.export_text()
    assert ODD + " and goes on beyond the width" in said
    console = Console(record=True, width=80)
    console.print(table)
    said = console.export_text()
    assert said.count(ODD) == 3
    assert table.columns[0].header == Text(ODD)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_names_of_work_in_progress_are_printed_as_they_are(terminal):
    console = Console(record=True, width=200, force_terminal=terminal, file=io.StringIO())
    with bar(console) as progress:
        task = progress.add_task(ODD, total=2, note=f"note {ODD}")
        advance(progress, task, 1)
    said = console.export_text()
    assert said.count(ODD) >= 2


@pytest.mark.parametrize("name", ["[draft] one", "a[/b]", "run :smile: [red]"])
def test_a_run_and_a_preview_name_places_and_rows_as_they_are(tmp_path, name):
    files = tiny_folder.lay_out(tmp_path / name)
    tree = tiny_folder.recipe(files, "sft", output=str(files / "run"), training={"max_steps": 1})
    tree["eval"] = {"prompts": [], "suites": {}}
    console = Console(record=True, width=60, file=io.StringIO())
    made = parse(tree, "test", "run")
    run.run(made, console=console)
    run.run(made, resume=True, console=console)
    said = console.export_text()
    assert f"sft -> {files / 'run'}  step 1/1" in said
    assert f"{files / 'run'} is already finished" in said
    tiny_folder.write_jsonl(files / "train.jsonl", [{"prompt": "[b]", "completion": ODD}])
    console = Console(record=True, width=300, file=io.StringIO())
    preview.preview_recipe(made, 1, "train", console)
    said = "".join(console.export_text().split())  # the title of a narrow table is broken over lines
    assert "".join(ODD.split()) in said
    assert said.count("".join(str(files / "train.jsonl").split())) == 3  # row, counts, and remark


def test_a_preview_breaks_no_line_that_the_row_does_not_break(tmp_path):
    files = tiny_folder.lay_out(tmp_path)
    long, task = "word " * 30 + "end", "much " * 30 + "more"
    tiny_folder.write_jsonl(files / "train.jsonl", [{"prompt": long, "completion": f"{long}\nnext"}])
    made = parse(tiny_folder.recipe(files, "sft", training={"max_length": 400}), "test", "run")
    console = Console(file=io.StringIO(), width=40)
    preview.preview_recipe(made, 1, "train", console)
    assert f"{long}⟦{long}\nnext<|end|>⟧\n" in console.file.getvalue()
    tiny_folder.write_jsonl(files / "train.jsonl", [{"prompt": task, "answer": "x"}])
    tree = {"method": "grpo", "reward": "exact", "models": {"student": str(files / "teacher")}}
    made = parse({**tree, "data": {"train": str(files / "train.jsonl")}}, "test", "run")
    console = Console(file=io.StringIO(), width=40)
    preview.preview_recipe(made, 1, "train", console)
    assert f"user: {task}\nanswer: x\n" in console.file.getvalue()


NAMES = ("text", "line", "note", "message", "notes[-1]")


def printed_as_markup(source: str) -> list[int]:
    """Lines that print a text, or put one into a table, in which rich looks for markup."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or any(key.arg == "markup" for key in node.keywords):
            continue
        name = ast.unparse(node.func)
        texts = [one for one in node.args if isinstance(one, ast.JoinedStr) or ast.unparse(one) in NAMES]
        if name.endswith("console.print") or name in ("console.rule", "Panel", "TextColumn"):
            found += [node.lineno] * bool(texts)
        if name.endswith(".add_row"):
            found += [node.lineno] * any(isinstance(one, ast.JoinedStr) and len(one.values) > 3 for one in node.args)
    return found


def test_nothing_prints_a_text_with_something_in_it_as_markup():
    assert printed_as_markup('console.print(f"{path} is there")') == [1]
    assert {path.name: lines for path in SOURCES if (lines := printed_as_markup(path.read_text()))} == {}
