"""Write docs/reference/rows.md: how rows become tokens and what is learnt, each rule with what the preview prints.

Tiny tokenizers and rows are written into a temporary folder, and the preview itself runs on them. With `--check`
nothing is written, and the exit code is 1 if the page is stale.
"""

import contextlib
import io
import json
import re
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
from rich.console import Console

import rows_rules
import rows_rules_chat
from pages import DOCS, command
from rows_examples import Example, Rule
from rows_templates import TEMPLATES, tokenizer
from trimtab.commands.preview import preview_recipe
from trimtab.core.batch import IGNORE
from trimtab.data.counts import NO_END, PLAIN, REMARKS, Prepared
from trimtab.data.tokens import encode_prompts
from trimtab.models.loading import load_tokenizer
from trimtab.runs.parse import parse
from trimtab.runs.recipe import Recipe

SAID = {**REMARKS, "no_end": NO_END, "plain": PLAIN}
PAGE = DOCS / "reference" / "rows.md"
WIDTH = 90
MOMENT = "2024-02-29T12:00:00"
"""that templates write as today"""
TABLE_ENDS = ("answer tokens ", "tokens of prompts ")
VISIBLE = {"\ufeff": "‹BOM›", "\r": "‹CR›", "\u2028": "‹U+2028›"}
"""characters that nobody would see on the page"""
HEADER = f"""\
# Rows and templates

<!-- written by scripts/rows_page.py; change scripts/rows_*.py and run `make pages` -->

How rows become tokens, and which tokens are trained on, rule by rule. Each rule comes with rows and with what
`trimtab preview` prints for them: the text that the model reads, with what it is trained on in ⟦ ⟧. In a terminal that
is green, the rest grey. To see your own rows and your own model's template:

```bash
trimtab preview tiny_kd --rows 2    # or the path of your recipe instead of tiny_kd
```

The preview ends with a table of counts, which is shown under [dropped and truncated rows](#dropped-and-truncated-rows)
and left out elsewhere, and with [remarks](#remarks): one line for each thing that was done to some rows and that you
should know about. A row that cannot be used is refused in one line, which begins with "error:" here.

The tokenizers of this page know bytes and a few special tokens. Their chat templates are short ones in the manner of
well-known families, listed [at the end of the page](#templates). Where none is named, it is `chatml`.
In files and previews {", ".join(VISIBLE.values())} stand for characters that cannot be seen.
"""
RULES = {**rows_rules.RULES, **rows_rules_chat.RULES}


@dataclass(frozen=True)
class Shown:
    """What came of an example."""

    text: str
    remarks: frozenset[str]


def try_out(example: Example) -> Shown:
    """What the preview prints, in a folder of its own."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        made = tokenizer(example.template, example.merges, example.begins, example.end)
        made.save_pretrained("model")
        Path("model/config.json").write_text('{"model_type": "llama"}', encoding="utf-8")
        Path("run").mkdir()
        Path("run/signature.txt").write_text(f"chat date: {MOMENT}\n", encoding="utf-8")
        _write(Path(example.file), example.rows)
        tree = {
            "method": example.method,
            "models": {"student": "model"},
            "data": {"train": example.file, **example.data},
            "output": "run",
            **example.recipe,
        }
        recipe, out = parse(tree, "recipe.yaml", "rows"), io.StringIO()
        assert isinstance(recipe, Recipe)
        prepared = None
        try:
            prepared = preview_recipe(recipe, 9, "train", Console(file=out, width=WIDTH, color_system=None))
        except ValueError as error:
            out.write(f"error: {error}\n")
        lines = [line.rstrip() for line in out.getvalue().split("\n")]
        lines = lines if example.counts else list(_without_counts(lines, recipe.data.train))
        if example.tokens:
            assert prepared is not None
            lines = ["\n".join(lines).rstrip("\n"), "", *_tokens(prepared, example.rows)]
    remarks = {what for what, words in SAID.items() if any(words in line for line in lines)}
    return Shown("\n".join(lines).strip("\n"), frozenset(remarks))


def _write(path: Path, rows: Any) -> None:
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif isinstance(rows, (str, bytes)):
        path.write_bytes(rows.encode() if isinstance(rows, str) else rows)
    else:
        several = rows if isinstance(rows, list) else [rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in several), encoding="utf-8")


def _without_counts(lines: list[str], source: str) -> Iterator[str]:
    inside = False
    for line, after in zip(lines, [*lines[1:], ""]):
        inside = inside or (line == source and after.startswith("what "))
        if not inside:
            yield line
        inside = inside and not line.startswith(TABLE_ENDS)


def _tokens(prepared: Prepared, row: Mapping[str, Any]) -> Iterator[str]:
    """The tokens of a row, and before them those with which the model is asked, which must be their beginning."""
    made = load_tokenizer("model")
    plain = "prompt" in row
    prompt = row["prompt"] if plain else row["messages"][:-1]
    asked = encode_prompts(made, [prompt], plain=plain)["input_ids"][0].tolist()
    ids, labels = prepared.rows[-1]["input_ids"], prepared.rows[-1]["labels"]
    assert ids[: len(asked)] == asked
    first = next(i for i, label in enumerate(labels) if label != IGNORE)
    words = made.convert_ids_to_tokens(ids)
    yield f"asked with:  {' '.join(made.convert_ids_to_tokens(asked))}"
    yield f"trained on:  {' '.join(words[:first])} ⟦{' '.join(words[first:])}⟧"


def page() -> str:
    """The whole page as text; the same for the same rules."""
    written, said = [], {}
    for section, rules in RULES.items():
        written.append(f"## {section}\n")
        for rule in rules:
            found = [try_out(example) for example in rule.examples]
            said |= {what: rule.title for one in found for what in sorted(one.remarks) if what not in said}
            written.append(_rule(rule, found))
    missing = SAID.keys() - said.keys()
    assert not missing, f"no rule shows the remarks {', '.join(sorted(missing))}"
    return "\n".join([HEADER, _contents(), *written, _remarks(said), _templates()])


def _contents() -> str:
    lines = [
        f"- [{section}](#{anchor(section)}): "
        + ", ".join(f"[{_low(rule.title)}](#{anchor(rule.title)})" for rule in rules)
        for section, rules in RULES.items()
    ]
    return "\n".join([*lines, "- [Remarks](#remarks)", "- [Templates](#templates)"]) + "\n"


def _low(title: str) -> str:
    """A title within a sentence."""
    return title if re.match("[A-Z]{2}", title) else title[0].lower() + title[1:]


def anchor(title: str) -> str:
    """Of a heading."""
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", title.lower()))


def _rule(rule: Rule, found: list[Shown]) -> str:
    parts = [f"### {rule.title}\n", _prose(rule.words)]
    for example, shown in zip(rule.examples, found):
        named = f"Template `{example.template}`:" if example.template not in ("chatml", None) else ""
        words = " ".join(filter(None, [example.words, named]))
        parts += [_prose(words)] if words else []
        parts += [_fenced(*_source(example))] if example.rows_are_shown else []
        parts.append(_fenced("text", shown.text))
    return "\n".join(parts)


def _prose(words: str) -> str:
    return "\n".join(textwrap.wrap(words, 118, break_long_words=False, break_on_hyphens=False)) + "\n"


def _source(example: Example) -> tuple[str, str]:
    rows = example.rows.decode() if isinstance(example.rows, bytes) else example.rows
    if isinstance(rows, str):
        return ("csv" if example.file.endswith(".csv") else "text"), rows.rstrip("\n")
    return "json", "\n".join(_as_json(row) for row in (rows if isinstance(rows, list) else [rows]))


def _as_json(value: Any, indent: int = 0) -> str:
    """JSON on one line, or with one member a line where that is too long."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= 110 or not isinstance(value, (dict, list)):
        return flat
    inner = " " * (indent + 2)
    if isinstance(value, dict):
        members = [f"{inner}{json.dumps(key)}: {_as_json(one, indent + 2)}" for key, one in value.items()]
    else:
        members = [inner + _as_json(one, indent + 2) for one in value]
    sides = "{}" if isinstance(value, dict) else "[]"
    return f"{sides[0]}\n" + ",\n".join(members) + f"\n{' ' * indent}{sides[1]}"


def _fenced(language: str, text: str) -> str:
    for sign, shown in VISIBLE.items():
        text = text.replace(sign, shown)
    return f"```{language}\n{text}\n```\n"


def _remarks(said: Mapping[str, str]) -> str:
    lines = [
        "## Remarks\n",
        "For rows that are kept, but not quite as one might expect, `preview` and `train` print one line for each kind",
        "below, with the number of such rows and the first of them.\n",
        "| remark | shown under |",
        "| --- | --- |",
        *(f"| rows {words} | [{said[what]}](#{anchor(said[what])}) |" for what, words in SAID.items()),
    ]
    return "\n".join(lines) + "\n"


def _templates() -> str:
    parts = ["## Templates\n", "Line ends between two tags are left out.\n"]
    for name, (words, source) in TEMPLATES.items():
        parts += [f"`{name}`: {words}.\n", _fenced("jinja", source)]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.exit(command(PAGE, page, __file__))
