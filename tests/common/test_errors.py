"""Mistakes of users have one base, so that the command line can tell them from faults of trimtab."""

import ast
import sys
from pathlib import Path

import trimtab
from trimtab import cli
from trimtab.common.errors import UserError

INSIDE = {"_Twice", "RecordError", "Degenerate", "NotAsked", "Undecided", "UserError", "DialRequestError"}
"""subclasses of ValueError that never leave the function that catches them, and that of a file that runs without
trimtab"""
PLAIN = {
    "metrics", "objectives", "core", "methods", "data", "runs", "models/identity_layer.py", "evals/suites/geomrel.py",
    "train/settings.py", "gym/task.py",
}  # fmt: skip
"""where a plain ValueError is for a caller in Python, or caught: by pydantic (settings), by `data.sources` (rows)"""


def test_every_error_of_a_user_is_a_user_error():
    root = Path(trimtab.__file__).parent
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.startswith("gym/tasks/"):  # scripts of an agent's workspace, which run without trimtab
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name not in INSIDE:
                assert not any(isinstance(base, ast.Name) and base.id == "ValueError" for base in node.bases), node.name
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                plain = node.exc.func.id == "ValueError"
                assert not plain or {name, name.partition("/")[0]} & PLAIN, f"{name}:{node.lineno}"


def fails(error, monkeypatch, capsys) -> tuple[object, str]:
    """Exit code and what stands on stderr, of a command that ends in an error."""
    monkeypatch.delenv("TRIMTAB_TRACEBACK", raising=False)
    monkeypatch.setattr(sys, "argv", ["trimtab", "list"])

    def raised(**_):
        raise error

    monkeypatch.setattr(cli, "app", raised)
    try:
        cli.main()
    except SystemExit as ended:
        return ended.code, capsys.readouterr().err
    raise AssertionError("the command line did not exit")


def test_a_users_mistake_costs_a_line_and_a_plain_value_error_asks_for_a_report(monkeypatch, capsys):
    assert fails(UserError("rows.jsonl: row 3 has no answer"), monkeypatch, capsys) == (
        2,
        "error: rows.jsonl: row 3 has no answer\n",
    )
    code, err = fails(ValueError("3 scores and 4 marks"), monkeypatch, capsys)
    assert code == 1
    assert err.startswith("Traceback")
    assert "please report it" in err.splitlines()[-1]
