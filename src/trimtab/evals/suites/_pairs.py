"""Pairs of a statement and a scenario, and ratings of people, as files of `personality` hold them."""

import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimtab.common.errors import nearest, wrong_value
from trimtab.data.sources import DataError, load_rows

PARTS = ("statement", "scenario")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Statement(_Part):
    text: str = Field(min_length=1)
    reverse_of: str | None = None
    """pair_id of the statement that says the opposite"""


class Scenario(_Part):
    text: str = Field(min_length=1)
    low: str = Field(min_length=1)
    high: str = Field(min_length=1)
    """the behaviour that the statement describes"""


class Pair(_Part):
    """A line of a file of pairs."""

    pair_id: str = Field(min_length=1)
    framework: str = "big5"
    trait: str = Field(min_length=1)
    facet: str | None = None
    key: Literal[-1, 1]
    """1 if agreement means more of the trait"""
    lang: str = "en"
    statement: Statement
    scenario: Scenario
    licence: str | None = None
    source: str | None = None


def load_pairs(path: str = "") -> list[Pair]:
    """The pairs of a file, in its order; the bundled ones without a path.

    Raises:
        DataError: naming the row and the field; also for a pair_id that comes twice, and for a reverse-worded partner
            that is not there, does not point back, or is not of the other key of the same trait and language.
    """
    source = path or str(files("trimtab.data") / "bundled" / "personality.jsonl")
    pairs: dict[str, Pair] = {}
    for number, row in enumerate(load_rows(source), start=1):
        try:
            pair = Pair.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            what = "is missing" if first["type"] == "missing" else wrong_value(first)
            raise DataError(f"{source}: row {number}: {field} {what}") from None
        if pair.pair_id in pairs:
            raise DataError(f"{source}: row {number}: pair_id {pair.pair_id!r} was there before; make it unique")
        pairs[pair.pair_id] = pair
    for number, pair in enumerate(pairs.values(), start=1):
        name = pair.statement.reverse_of
        other = pairs.get(name) if name is not None else None
        fits = other and (other.statement.reverse_of, other.key, other.trait, other.lang) == (
            pair.pair_id, -pair.key, pair.trait, pair.lang
        )  # fmt: skip
        if name is not None and not fits:
            wrong = "points elsewhere or has another trait, language or the same key" if other else "is not in the file"
            raise DataError(f"{source}: row {number}: statement.reverse_of is {name!r}, which {wrong}")
    return list(pairs.values())


def load_people(path: str, pairs: Sequence[Pair]) -> dict[tuple[str, str], list[float | None]]:
    """(pair_id, part) -> one rating a person, in the order of the rows; None for an empty cell.

    Args:
        path: .csv, .jsonl, .json or .parquet with the columns PAIR.statement and PAIR.scenario for each pair, whole
            numbers from 1 to 7 with 7 for agreement and for the option `high`. Other columns are not read.

    Raises:
        DataError: naming the column that is missing, or row, column and content of a cell that is no rating.
    """
    rows = load_rows(path)
    table: dict[tuple[str, str], list[float | None]] = {}
    for pair in pairs:
        for part in PARTS:
            column = f"{pair.pair_id}.{part}"
            if not any(column in row for row in rows):
                hint = nearest(column, rows[0], "every pair has one for each part")
                raise DataError(f"{path} has no column {column!r}; {hint}")
            table[pair.pair_id, part] = [_rating(row.get(column), path, n, column) for n, row in enumerate(rows, 1)]
    return table


def _rating(cell: Any, path: str, number: int, column: str) -> float | None:
    text = "" if cell is None else str(cell).strip()
    if text in ("", "nan"):  # the latter is parquet's way to say that there is none
        return None
    if not re.fullmatch(r"[1-7](\.0*)?", text):
        raise DataError(f"{path}: row {number}: {column} is {cell!r}; expected a whole number from 1 to 7, or nothing")
    return float(text)
