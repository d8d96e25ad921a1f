"""Tokenize rows once: with progress, in several processes, and cached for the next run."""

import inspect
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase

import trimtab
from trimtab.common import fingerprint
from trimtab.common.count import count
from trimtab.common.disk import reason
from trimtab.common.progress import watched
from trimtab.common.terminal import say
from trimtab.data import kept
from trimtab.data.chat_date import date_facts
from trimtab.data.counts import Counts, Prepared
from trimtab.data.rows import prepare
from trimtab.models.builtin import cache_folder

KEPT_FROM = 2000
"""rows; fewer are not cached"""
SHOWN_FROM = 2000
"""rows; progress is shown from this number on"""


def prepared(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    make: Callable[..., Prepared],
    *,
    console: Console | None,
    workers: int,
    **how: Any,
) -> Prepared:
    """What `make(rows, tokenizer, source=..., workers=..., watch=..., **how)` gives, or what it gave before.

    Args:
        rows: of a source.
        make: `data.rows.prepare` or `data.tasks.prepare_tasks`.
        console: for progress; None for none.
        workers: processes.
        how: further arguments of `make`, on which its result depends.
    """
    say_it = console or Console(quiet=True)
    path = _place(rows, tokenizer, how) if make is prepare and len(rows) >= KEPT_FROM else None
    if path is not None and (found := kept.load(path)) is not None:
        say(say_it, f"{source}: {count(len(rows), 'row')}, tokenized in an earlier run ({path})")
        return _restored(found, source)
    result = make(rows, tokenizer, source=source, workers=workers, watch=_watch(say_it, source), **how)
    if path is not None and result.rows:
        try:
            kept.save(path, _to_keep(result))
        except OSError as failed:
            say(say_it, f"the tokenized rows could not be cached: {path}: {reason(failed, path)}")
    return result


def _watch(console: Console, source: str) -> Any:
    def watch(parts: Iterator[tuple[int, Any]], number: int) -> Iterator[tuple[int, Any]]:
        if number < SHOWN_FROM:
            return parts
        return watched(parts, f"preparing {source}", number, "rows", lambda part: part[0], console)

    return watch


def _place(rows: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase, how: Mapping[str, Any]) -> Path:
    """The cache file of these rows, named after everything that the result depends on."""
    facts = {
        "rows": fingerprint.of_each(rows),
        "tokenizer": _of_tokenizer(tokenizer),
        "date": date_facts(tokenizer),
        "how": {key: sorted(value) if isinstance(value, (set, frozenset)) else value for key, value in how.items()},
        "versions": {name: version(name) for name in ("transformers", "tokenizers", "jinja2", "numpy")},
        "trimtab": trimtab.__version__,
        "code": _of_code(),
        "python": platform.python_version(),
    }
    return cache_folder() / "prepared" / f"{fingerprint.of_values(facts)}.safetensors"


def _of_tokenizer(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """Everything that decides how a tokenizer splits texts and formats chats."""
    kind = type(tokenizer)
    written = inspect.getsourcefile(kind)
    whole = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else ""  # type: ignore[attr-defined]
    return [
        f"{kind.__module__}.{kind.__qualname__}",
        fingerprint.of_tokenizer(tokenizer),
        fingerprint.of_text(whole),
        fingerprint.of_values(tokenizer.init_kwargs),
        fingerprint.of_values(tokenizer.chat_template),
        fingerprint.of_files([Path(written)]) if written and Path(written).is_file() else "",
    ]


def _of_code() -> str:
    """Fingerprint of the code that prepares rows."""
    here = Path(__file__).parents[1]
    return fingerprint.of_files([*sorted((here / "data").glob("*.py")), here / "core" / "batch.py"])


def _to_keep(made: Prepared) -> kept.KeptRows:
    facts = {"counts": asdict(made.counts), "max_length": made.max_length, "sources": made.sources}
    return kept.KeptRows(made.rows, facts)


def _restored(found: kept.KeptRows, source: str) -> Prepared:
    facts = found.facts
    return Prepared(found.rows, Counts(**facts["counts"]), source, facts["max_length"], facts["sources"])
