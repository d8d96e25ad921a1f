"""CSV as users have it: with commas, tabs or semicolons, from Excel or pandas."""

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

NEVER_TEXTS = ("messages", "completions", "labels", "tools", "chat_template_kwargs", "options")
"""Columns that hold lists or objects; in CSV these are written as JSON, or by pandas as Python writes them."""


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Rows of a CSV file under the names of its first line; cells are texts, but see `NEVER_TEXTS`.

    Commas part the cells, in .tsv tabs; where a first line holds no comma and tabs or semicolons instead, these; and
    what Excel's `sep=` says. A row may end in empty cells without a name, and a column without one is called
    "Unnamed: N"; empty lines do not count.

    Raises:
        DataError: naming the line, where a quote is not closed or stands amid a cell, and where a row has more or fewer
            cells than there are names; naming the column that comes twice.
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
                f"{path}: the row in line {number} has {len(cells)} cells and the first line names {len(header)} "
                "columns; put cells that hold a comma, a quote or a line break in quotes"
            )
        found.append(cells)
    kept = [place for place, name in enumerate(header) if name.strip() or any(cells[place] for cells in found)]
    names = {place: header[place].strip() or f"Unnamed: {place}" for place in kept}  # as pandas names its index
    twice = [name for name, times in Counter(names.values()).items() if times > 1]
    if twice:
        raise DataError(f"{path} has several columns of the name {twice[0]!r}; rename or remove all but one")
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
    """The line that a row begins in, and its cells."""
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
            f"{path}: the row that begins in line {number} has a quote that is never closed, so all that follows would "
            "be one cell; close it, or write a quote within a cell twice"
        )
    raise DataError(
        f"{path}: the row that begins in line {number} is no CSV: {reason}; a quote within a quoted cell is written "
        "twice"
    )


def _cell(name: str, cell: str) -> Any:
    if name not in NEVER_TEXTS or cell.strip()[:1] not in ("[", "{"):
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
    """What a cell of CSV stands for: "1", "-1", "0.5", "1e-3" as a number, "true" and "FALSE" as a boolean, also with
    spaces around it; anything else as it is."""
    if not isinstance(value, str):
        return value
    word = value.strip()
    if word.casefold() in _FLAGS:
        return _FLAGS[word.casefold()]
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", word, re.ASCII):
        return value
    return int(word) if re.fullmatch(r"[+-]?\d+", word) else float(word)
