"""Rows with a column that was computed beforehand, and a file beside them that says what it was computed from."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trimtab.data.rows import REJECTED
from trimtab.data.sources import DataError, whole_source

WEAK_DELTA = "weak_delta"
"""log pi_weak_aligned(y_t) - log pi_weak_reference(y_t)"""
REFERENCE = "reference_logprobs"
"""log pi_ref(y_t)"""
MAKE = "make it with trimtab precompute RECIPE --out FILE.jsonl and train with data.train=FILE.jsonl"


def meta_path(file: Path) -> Path:
    """FILE.jsonl -> FILE.meta.json"""
    return file.with_suffix(".meta.json")


def is_computed(key: str) -> bool:
    """Whether a key of a row is a column that was computed; rejected answers have columns of their own."""
    return key.removeprefix(REJECTED) in (WEAK_DELTA, REFERENCE)


def check(source: str, column: str, facts: Mapping[str, str]) -> None:
    """Refuse a column of a source that was computed from other facts than these.

    Raises:
        DataError: if there is no meta beside the file, or it is of another column, or says something else, or only a
            part of the file is meant.
    """
    if whole_source(source) != source:
        raise DataError(f"{source}: {column} was computed of all rows of a file, and this is a part of it; {MAKE}")
    path = meta_path(Path(source).expanduser())
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        found = "there is no" if isinstance(error, FileNotFoundError) else "nothing can be read from"
        raise DataError(f"{source}: {found} {path}, which says what {column} was computed from; {MAKE}") from error
    known = meta if isinstance(meta, dict) else {}
    if column not in (known.get("columns") or ()):
        raise DataError(f"{source}: {path.name} does not say what its {column} was computed from; {MAKE}")
    for name, now in facts.items():
        if known.get(name) != now:
            raise DataError(
                f"{source}: its {column} does not fit: {name} was {known.get(name)} in {path.name} and is {now}; "
                f"put back what has changed, or {MAKE}"
            )


def vocabulary(source: str) -> int | None:
    """Over how many ids the distributions of a checked file's columns are; None where an earlier version wrote it."""
    return _meta(source).get("vocabulary")


def models(source: str) -> dict[str, str]:
    """role -> model and fingerprint that a checked file's columns were computed with."""
    return _meta(source)["models"]


def _meta(source: str) -> dict[str, Any]:
    return json.loads(meta_path(Path(source).expanduser()).read_text(encoding="utf-8"))
