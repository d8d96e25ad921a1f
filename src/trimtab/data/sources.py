"""Find rows: generated or bundled data, a local file, or a dataset on the hub."""

import glob
import inspect
import json
import pickle
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from trimtab.common import csv_text, files, hub
from trimtab.common.errors import closest, looked_in
from trimtab.common.files import DataError
from trimtab.data import arrow, synthetic
from trimtab.data.generators import reasoning

Row = dict[str, Any]
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
SUFFIXES = (*KINDS, ".jsonl.gz", ".json.gz", ".csv.gz", ".tsv.gz")
NAMED = f"{', '.join(KINDS[:-1])} or {KINDS[-1]}"
PART = re.compile(r"(.+)\[(\d+%?|):(\d+%?|)\]")
"""a source of which a part is meant: its rows from one number, or one percent of them, to another"""


def load_rows(source: str) -> list[Row]:
    """All rows of `source`.

    Args:
        source: `trimtab:NAME/SPLIT` (`?rows=N&seed=S` for generated data, and further options that its function
            takes: `trimtab:planted_errors/train?rows=5000&form=steps`, the form one of pairs, steps and answers),
            `reasoning_gym:NAME/SPLIT` (with the options of that generator), a .jsonl, .json, .csv, .tsv or .parquet
            file (all but the last also with .gz behind it), or a hub id `ORG/NAME`, `ORG/NAME@CONFIG`,
            `ORG/NAME:SPLIT` (split "train" if not given). With a part behind it, such as `rows.jsonl[10%:55%]` or
            `rows.jsonl[100:]`, the rows from there to there, in their order; parts that meet share no row and leave out
            none. A bound in percent is rounded to a row as in the datasets library, which reads those of a hub id.

    Raises:
        DataError: where nothing is found, an option is unknown or has another value than its own, a line is malformed
            (with its number), a text holds half of a character, or there is no row.
    """
    whole, part = _parted(source)
    if part is not None:
        return _part(load_rows(whole), part, source)
    source = whole
    if source.startswith("trimtab:"):
        return pickle.loads(_made(source))
    if source.startswith("reasoning_gym:"):
        rows = _reasoning(source)
    elif source.lower().endswith(SUFFIXES):
        rows = _file(Path(source).expanduser())
    else:
        _check_place(source)
        rows = _hub(source)
    return _checked(rows, source)


def whole_source(source: str) -> str:
    """The source without the part of it that is meant."""
    return _parted(source)[0]


def _parted(source: str) -> tuple[str, re.Match[str] | None]:
    """A source, and its part; the part of a hub id belongs to its split, which the hub's library reads."""
    found = PART.fullmatch(source)
    plain, _, rest = source.rpartition("[")
    if plain.lower().endswith(SUFFIXES) and found is None:
        raise DataError(f"{source}: [{rest} is no part; write it in rows or whole percent, such as [10%:55%] or [:100]")
    if found is None:
        return source, None
    made = plain.startswith(("trimtab:", "reasoning_gym:"))
    if made or plain.lower().endswith(SUFFIXES) or plain.count("/") != 1 or Path(plain).expanduser().exists():
        return plain, found
    return (source if ":" in plain else f"{plain}:train[{rest}"), None


def _bounds(part: re.Match[str], number: int, source: str) -> tuple[int, int]:
    """The rows between which a part lies, of so many."""
    given = [text for text in part.groups()[1:] if text]
    percent = [text.endswith("%") for text in given]
    if len(set(percent)) > 1:
        raise DataError(f"{source}: {' and '.join(given)} are of two units; write both in rows or both in percent")
    most, unit = (100, "%") if any(percent) else (number, "")
    for text in given:
        if int(text.rstrip("%")) > most:
            raise DataError(f"{source}: {text} is not within {number:,} rows; the end is {most}{unit}")
    start, stop = (int(text.rstrip("%")) if text else end for text, end in zip(part.groups()[1:], (0, most)))
    return (round(start * number / 100), round(stop * number / 100)) if unit else (start, stop)


def _part(rows: list[Row], part: re.Match[str], source: str) -> list[Row]:
    start, stop = _bounds(part, len(rows), source)
    if start >= stop:
        raise DataError(f"{source} holds no rows: of {len(rows):,} it is those from {start} to {stop}")
    return rows[start:stop]


@lru_cache(16)
def _made(source: str) -> bytes:
    """Pickled rows that come with trimtab: making them takes seconds, and stages, estimates and previews ask again."""
    return pickle.dumps(_checked(_own(source), source))


def _checked(rows: list[Row], source: str) -> list[Row]:
    if not rows:
        raise DataError(f"{source} holds no rows")
    for number, row in enumerate(rows, start=1):
        files.check_whole(row, f"{source}: row {number}")
    return rows


def check_there(source: str) -> None:
    """Look for a source of rows, and read nothing.

    Raises:
        DataError: if it is not there.
    """
    source = whole_source(source)
    if source.startswith("trimtab:"):
        _own_name(source)
    elif source.lower().endswith(SUFFIXES):
        _check_file(Path(source).expanduser())
    elif not source.startswith("reasoning_gym:"):
        _check_place(source)
        _check_hub(source, source.partition(":")[0].partition("@")[0])


def line_of(source: str, row: int) -> str:
    """Words for the line of a file that holds its row number `row`, from 1: ", line 7"; nothing where it has none."""
    plain, part = _parted(source)
    path = Path(plain).expanduser()
    if not plain.lower().endswith((".jsonl", ".jsonl.gz")) or not path.is_file():
        return ""
    lines = [number for number, _ in files.read_jsonl(path)]
    start = _bounds(part, len(lines), source)[0] if part else 0
    return "".join(f", line {number}" for number in lines[start:][row - 1 : row])


def _check_place(source: str) -> None:
    """Refuse what is neither one file nor a dataset."""
    path = Path(source).expanduser()
    join = "write its rows into one, for example: cat FOLDER/*.jsonl > ALL.jsonl"
    if path.is_dir():
        inside = sorted(one.name for one in path.iterdir() if one.name.lower().endswith(SUFFIXES))
        shown = f"{', '.join(inside[:3])}{', ...' if len(inside) > 3 else ''}" if inside else f"none is a {NAMED}"
        raise DataError(f"{source} is a folder ({shown}), expected one file; name it, or {join}")
    if not path.exists() and glob.has_magic(source.partition(":")[0]):
        raise DataError(f"{source}: patterns are not filled in, expected one file; name it, or {join}")
    if path.exists():
        raise DataError(f"{source} is not a {NAMED} file")
    if source.startswith((".", "/", "~")) or source.partition(":")[0].count("/") > 1:
        raise DataError(f"there is no file {source}{looked_in(source)}")


def prompt_lines(path: Path) -> list[str]:
    """The lines of a file of prompts, or of standard input (`-`); empty ones do not count.

    Raises:
        DataError: if it is no text, or holds no prompt.
    """
    try:
        text = files.read_text(path)
    except DataError as error:
        raise DataError(f"--prompts: {error}") from error
    lines = [line for line in files.split_lines(text) if line.strip()]
    if not lines:
        raise DataError(f"--prompts: {'standard input' if str(path) == '-' else path} holds no prompt")
    return lines


def _check_file(path: Path) -> None:
    if not path.is_file():
        _check_place(str(path))
        raise DataError(f"there is no file {path}{looked_in(path)}")


def _own_name(source: str) -> tuple[str, str, str]:
    """Name, split and options of data that comes with trimtab."""
    path, _, query = source.removeprefix("trimtab:").partition("?")
    name, _, split = path.partition("/")
    known = synthetic.DATASETS
    if name not in known:
        close = closest(name, known)
        hint = f"did you mean 'trimtab:{close}'?" if close else f"there are: {', '.join(known)}"
        raise DataError(f"{source}: no data of that name comes with trimtab; {hint}")
    return name, split, query


def _own(source: str) -> list[Row]:
    name, split, query = _own_name(source)
    known = synthetic.DATASETS
    taken, options = _options(known[name]), {}
    for part in filter(None, query.split("&")):
        key, _, value = part.partition("=")
        if key not in taken or (value not in taken[key] if taken[key] else not value.isdecimal()):
            written = [f"{key}={'|'.join(words) or 'NUMBER'}" for key, words in taken.items()]
            raise DataError(f"{source}: {part!r} is not an option; {name} takes {' and '.join(written) or 'none'}")
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
    _check_file(path)
    rows = _READERS[Path(path.name.lower().removesuffix(".gz")).suffix](path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise DataError(f"{path}: row {number} is a {type(row).__name__}, expected an object with named columns")
    return rows


def _json(path: Path) -> list[Row]:
    rows = files.read_json(path, "; a file with one object a line is called .jsonl")
    if not isinstance(rows, list):
        raise DataError(f"{path} holds a {type(rows).__name__}, expected a list of objects")
    return rows


_READERS: dict[str, Callable[[Path], list[Row]]] = {
    ".jsonl": lambda path: [row for _, row in files.read_jsonl(path)],
    ".json": _json,
    ".csv": csv_text.read_csv,
    ".tsv": csv_text.read_csv,
    ".parquet": arrow.parquet,
}


def _hub(source: str) -> list[Row]:
    name, _, split = source.partition(":")
    name, _, config = name.partition("@")
    _check_hub(source, name)
    try:
        import datasets
        import datasets.config as settings

        if hub.reach("datasets", name) == "unreachable":
            settings.HF_HUB_OFFLINE = True  # its cache is all there is; else it tries again and again

        rows = datasets.load_dataset(name, config or None, split=split or "train")
        return arrow.plain_rows(rows, source)  # type: ignore[arg-type]
    except DataError:
        raise
    except Exception as error:  # the hub's clients raise errors of many unrelated types for "could not get it"
        raise _not_given(source, str(error).strip().partition("\n")[0] or type(error).__name__) from error


def _check_hub(source: str, name: str) -> None:
    if reason := hub.why_not("datasets", name):
        raise _not_given(source, reason)


def _not_given(source: str, reason: str) -> DataError:
    kinds = f"no local file ({', '.join(KINDS)}) of that name{looked_in(source)}"
    return DataError(f"{source}: {kinds}, and it could not be fetched from the hub ({reason})")
