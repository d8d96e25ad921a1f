"""Find rows: generated or bundled data, a local file, or a dataset on the hub."""

import csv
import difflib
import inspect
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from trimtab.data import reasoning, synthetic

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")


class DataError(ValueError):
    """Data that cannot be used as it is; the message names the place and the way out."""


def load_rows(source: str) -> list[Row]:
    """All rows of `source`.

    Args:
        source: `trimtab:NAME/SPLIT` (`?rows=N&seed=S` for generated data, and further options that its function
            takes: `trimtab:planted_errors/train?rows=5000&form=steps`, the form one of pairs, steps and answers),
            `reasoning_gym:NAME/SPLIT` (with the options of that generator), a .jsonl, .json, .csv or .parquet file, or
            a hub id `ORG/NAME`, `ORG/NAME@CONFIG`, `ORG/NAME:SPLIT` (split "train" if not given).

    Raises:
        DataError: where nothing is found, an option is unknown or has another value than its own, a line is malformed
            (with its number), or there is no row.
    """
    if source.startswith("trimtab:"):
        rows = _own(source)
    elif source.startswith("reasoning_gym:"):
        rows = _reasoning(source)
    elif source.lower().endswith(SUFFIXES):
        rows = _file(Path(source).expanduser())
    elif Path(source).expanduser().exists():
        raise DataError(f"{source} is not a .jsonl, .json, .csv or .parquet file")
    else:
        rows = _hub(source)
    if not rows:
        raise DataError(f"{source} holds no rows")
    return rows


def prompt_lines(path: Path) -> list[str]:
    """The lines of a file of prompts, or of standard input (`-`); empty ones do not count.

    Raises:
        DataError: if it is no text, or holds no prompt.
    """
    try:
        text = sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"--prompts: {path} cannot be read as text: {error}") from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise DataError(f"--prompts: {'standard input' if str(path) == '-' else path} holds no prompt")
    return lines


def _own(source: str) -> list[Row]:
    path, _, query = source.removeprefix("trimtab:").partition("?")
    name, _, split = path.partition("/")
    known = synthetic.DATASETS
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean 'trimtab:{close[0]}'?" if close else f"there are: {', '.join(known)}"
        raise DataError(f"{source}: no data of that name comes with trimtab; {hint}")
    taken, options = _options(known[name]), {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key not in taken or (value not in taken[key] if taken[key] else not value.isdecimal()):
            written = [f"{key}={'|'.join(words) or 'NUMBER'}" for key, words in taken.items()]
            raise DataError(f"{source}: {part!r} is no option; {name} takes {' and '.join(written) or 'none'}")
        options[key] = value if taken[key] else int(value)
    try:
        return list(known[name](split or "train", **options))
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error


def _reasoning(source: str) -> list[Row]:
    path, _, query = source.removeprefix("reasoning_gym:").partition("?")
    name, _, split = path.partition("/")
    options: dict[str, Any] = {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    for key in ("rows", "seed"):
        if not isinstance(options.get(key, 0), int):
            raise DataError(f"{source}: {key} must be a whole number, got {options[key]!r}")
    try:
        return reasoning.tasks(name, split or "train", **options)
    except ValueError as error:
        raise DataError(f"{source}: {error}") from error


def _options(function: Callable[..., Any]) -> dict[str, tuple[str, ...]]:
    """What a function takes besides the split: the words that a value may be, none for a number."""
    _, *rest = inspect.signature(function).parameters.values()
    return {p.name: get_args(p.annotation) if get_origin(p.annotation) is Literal else () for p in rest}


def _file(path: Path) -> list[Row]:
    if not path.is_file():
        raise DataError(f"there is no file {path}")
    try:
        rows = {".jsonl": _jsonl, ".json": _json, ".csv": _csv, ".parquet": _parquet}[path.suffix.lower()](path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    for number, row in enumerate(rows):
        if not isinstance(row, dict):
            raise DataError(
                f"{path}: row {number + 1} is a {type(row).__name__}, expected an object with named columns"
            )
    return rows


def _jsonl(path: Path) -> list[Row]:
    rows = []
    with path.open(encoding="utf-8-sig") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise DataError(f"{path}: line {number} is no JSON: {error.msg} at column {error.colno}") from error
    return rows


def _json(path: Path) -> list[Row]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        hint = "; a file with one object a line is called .jsonl" if error.msg == "Extra data" else ""
        raise DataError(f"{path}: line {error.lineno} is no JSON: {error.msg}{hint}") from error
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {type(rows).__name__}, expected a list of objects")
    return rows


def _csv(path: Path) -> list[Row]:
    csv.field_size_limit(2**31 - 1)  # texts are long
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        try:
            return list(reader)
        except csv.Error as error:
            raise DataError(f"{path}: line {reader.line_num} is no CSV: {error}") from error


def _parquet(path: Path) -> list[Row]:
    import pyarrow
    import pyarrow.parquet

    try:
        return pyarrow.parquet.read_table(path).to_pylist()
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path} is no parquet file: {error}") from error


def _hub(source: str) -> list[Row]:
    name, _, split = source.partition(":")
    name, _, config = name.partition("@")
    try:
        import datasets

        rows: Iterable[Row] = datasets.load_dataset(name, config or None, split=split or "train")  # type: ignore[assignment]
        return [dict(row) for row in rows]
    except Exception as error:  # the hub's clients raise errors of many unrelated types for "could not get it"
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise DataError(
            f"{source}: no local file ({', '.join(SUFFIXES)}) of that name, and the hub did not give it ({reason})"
        ) from error
