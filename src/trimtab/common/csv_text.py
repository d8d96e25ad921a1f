"""Read CSV in the variants that users have: commas, tabs or semicolons, from Excel or pandas."""

import ast
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from trimtab.common.files import DataError, read_text

NEVER_TEXTS = (
    *("messages", "completions", "labels", "tools", "chat_template_kwargs", "options"),
    *("rationales", "outputs", "indices"),
)
"""Columns of lists or objects, which are written in CSV as JSON or, by pandas, as Python literals."""


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file, keyed by its header; cells are texts, but see `NEVER_TEXTS`.

    The delimiter is a comma, a tab in .tsv, a tab or semicolon if the header has no comma but one of these, or what
    Excel's `sep=` line says. Trailing empty cells without a column are ignored, a column without a name is called
    "Unnamed: N", and empty lines are skipped.

    Raises:
        DataError: for an unclosed or unescaped quote, a row of another length than the header, or a duplicate column.
    """
    csv.field_size_limit(2**31 - 1)  # texts are long
    text = read_text(path)
    skipped = re.match(r'"?sep=(.)"?\r?\n', text, re.IGNORECASE)
    text = text[skipped.end() :] if skipped else text
    lines = _cells(text, skipped[1] if skipped else _delimiter(text, path), path, 1 + bool(skipped))
    _, header = next(lines, (1, []))
    if not header:
        raise DataError(f"{path} is empty; its first line names the columns")
    found = []
    for number, cells in lines:
        while len(cells) > len(header) and not cells[-1]:
            cells.pop()
        if len(cells) != len(header):
            raise DataError(
                f"{path}: the row in line {number} has {len(cells)} cells but the header has {len(header)} "
                "columns; put cells that hold a comma, a quote or a line break in quotes"
            )
        found.append(cells)
    kept = [place for place, name in enumerate(header) if name.strip() or any(cells[place] for cells in found)]
    names = {place: header[place].strip() or f"Unnamed: {place}" for place in kept}  # as pandas names its index
    twice = [name for name, times in Counter(names.values()).items() if times > 1]
    if twice:
        raise DataError(f"{path} has several columns named {twice[0]!r}; rename or remove all but one")
    return [{name: _cell(name, cells[place]) for place, name in names.items()} for cells in found]


def _delimiter(text: str, path: Path) -> str:
    if path.name.lower().removesuffix(".gz").endswith(".tsv"):
        return "\t"
    first = text.partition("\n")[0]
    if len(next(csv.reader([first]), [])) < 2:
        for sign in ("\t", ";"):
            if len(next(csv.reader([first], delimiter=sign), [])) > 1:
                return sign
    return ","


def _cells(text: str, delimiter: str, path: Path, first: int) -> Iterator[tuple[int, list[str]]]:
    """The line on which a row starts, and its cells."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        number = first + reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            _quoted_wrongly(path, number, str(error))
        if cells:
            yield number, cells


def _quoted_wrongly(path: Path, number: int, reason: str) -> NoReturn:
    if "end of data" in reason:
        raise DataError(
            f"{path}: the row that starts on line {number} has a quote that is never closed, so everything after it "
            "would be one cell; close it, or double a quote inside a cell"
        )
    raise DataError(
        f"{path}: the row that starts on line {number} is not valid CSV: {reason}; double a quote inside a quoted cell"
    )


def _cell(name: str, cell: str) -> Any:
    return unpacked(cell) if name in NEVER_TEXTS else cell


def unpacked(cell: str) -> Any:
    """The list or object that a cell holds as JSON or as a Python literal; any other text as it is."""
    if cell.strip()[:1] not in ("[", "{"):
        return cell
    for read in (json.loads, ast.literal_eval):
        try:
            return read(cell)
        except (ValueError, SyntaxError, RecursionError):
            continue
    return cell


# ---------------------------------------------------------------- words for numbers

_FLAGS = {"true": True, "false": False}


def as_number(value: Any) -> Any:
    """The value of a CSV cell: "1", "-1", "0.5", "1e-3" as a number, "true" and "FALSE" as a boolean, also with
    spaces around it; anything else as it is."""
    if not isinstance(value, str):
        return value
    word = value.strip()
    if word.casefold() in _FLAGS:
        return _FLAGS[word.casefold()]
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", word, re.ASCII):
        return value
    return int(word) if re.fullmatch(r"[+-]?\d+", word) else float(word)
