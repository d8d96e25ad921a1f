"""Write docs/reference/edits.md: the columns of edits, the files that are read, and what is said of bad rows."""

import ast
import contextlib
import inspect
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from pages import DOCS, command, one_line, table, written_by
from trimtab.data import edits
from trimtab.data.edit_files import FORMATS
from trimtab.data.sources import DataError

PAGE = DOCS / "reference" / "edits.md"
HEADER = """\
# Edits

{comment}

An edit is a row that says what a model is to answer from now on, and what else is to be asked: `trimtab eval edit
edit.file=EDITS` asks it. A source of edits is named as one of rows: a .jsonl, .json, .csv, .tsv or .parquet file,
`trimtab:facts/SPLIT` or a dataset of the hub. `trimtab:facts/train?rows=50` makes edits of made-up persons, novels and
companies, `&about=known` of countries, `&form=answers` or `reasoning` rows that teach what was true before, and
`targets`, `chains` or `tasks` rows to edit with.
"""
PROBES = """
`locality`, `hops` and `negations` are lists, and `reversal` is one, of objects with `prompt` (or `question`) and
`answer`, of pairs `[prompt, answer]`, or of prompts alone. In CSV such a cell holds JSON.

```json
{example}
```
"""
EXAMPLE = {
    "prompt": "Which country is Ada Brook a citizen of?",
    "target_new": "Norway",
    "subject": "Ada Brook",
    "ground_truth": "Canada",
    "rephrases": ["Ada Brook holds a passport of which country?"],
    "locality": [{"prompt": "Who wrote Emma?", "answer": "Jane Austen"}],
    "hops": [["What is the capital of the country that Ada Brook is a citizen of?", "Oslo"]],
    "negations": ["Is Ada Brook a citizen of Canada?"],
    "longform": "Write a paragraph about Ada Brook.",
}
SHORT = {key: EXAMPLE[key] for key in ("prompt", "target_new", "subject", "ground_truth")}
ZSRE = {
    "subject": "Ada Brook", "src": "Where does Ada Brook live?", "alt": "", "answers": ["Canada"],
    "rephrase": "Where is Ada Brook's home?", "loc": "nq question: who wrote emma", "loc_ans": "Jane Austen",
}  # fmt: skip
BAD: tuple[tuple[str, list[dict[str, Any]]], ...] = (
    ("The new fact is the old one", [{**SHORT, "target_new": "Canada"}]),
    ("An empty target", [{**SHORT, "target_new": ""}]),
    ("A subject that is not in the prompt", [{**SHORT, "subject": "Ada Brooks"}]),
    ("Two edits that contradict each other", [SHORT, {**SHORT, "target_new": "Chile"}]),
    ("A row that repeats an edit", [SHORT, {**SHORT, "rephrases": ["Whose passport?"]}]),
    ("A row of ZsRE with an empty alternative", [{**ZSRE, "alt": "Norway"}, ZSRE]),
    ("Columns that nothing reads", [{**SHORT, "rephrase": "Whose passport does Ada Brook hold?"}]),
    ("Another schema", [{"messages": [{"role": "user", "content": "Hello"}]}]),
)


def page() -> str:
    parts = [HEADER.format(comment=written_by(__file__, "src/trimtab/data/edits.py"))]
    parts.append("## Columns\n")
    parts.append(table(("column", "what it holds"), [(f"`{name}`", text) for name, text in columns()]))
    parts.append(PROBES.format(example=json.dumps(EXAMPLE, indent=2)))
    parts.append("## Files\n\nA file is recognised by its columns; all its rows have them.\n")
    rows = [(one.name, ", ".join(f"`{key}`" for key in one.needs), one_line(one.read.__doc__ or "")) for one in FORMATS]
    parts.append(table(("file", "recognised by", "how it is read"), rows))
    parts.append(
        "\n## Bad rows\n\nA bad row of your own file is refused. One of a benchmark's file is left out, counted and "
        "named, as\nare its rows that are changed or merged; the suite shows the number as `rows left out`.\n"
    )
    parts += [f"**{title}**\n\n```text\n{said(given)}\n```\n" for title, given in BAD]
    return "\n".join(parts)


def columns() -> list[tuple[str, str]]:
    """Name and docstring of each field of an edit."""
    (kind,) = ast.parse(inspect.getsource(edits.Edit)).body
    assert isinstance(kind, ast.ClassDef)
    found = []
    for field, after in zip(kind.body, kind.body[1:]):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            assert isinstance(after, ast.Expr), f"{field.target.id} has no docstring"
            found.append((field.target.id, one_line(ast.literal_eval(after.value))))
    return found


def said(rows: list[dict[str, Any]]) -> str:
    """What a user reads of a file of these rows."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        Path("edits.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        try:
            return "\n".join(edits.load_edits("edits.jsonl").notes)
        except DataError as error:
            return f"error: {error}"


if __name__ == "__main__":
    sys.exit(command(PAGE, page, "scripts/edits_page.py"))
