"""Print users' paths, names and rows verbatim: rich would read [brackets] as markup, and :words: between colons as
emojis."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from trimtab.common.errors import OutputClosed


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a text without wrapping: a path broken over lines cannot be copied."""
    console.print(Text(text), style=style, soft_wrap=True, highlight=False)


def table_of(*columns: str, title: str | None = None, **how: Any) -> Table:
    """A table with these headings."""
    headings = [Column(header=Text(column)) for column in columns]
    return Table(*headings, title=None if title is None else Text(title, style="table.title"), **how)


def cells(values: Iterable[Any]) -> list[Text]:
    """The cells of a table row, verbatim."""
    return [value if isinstance(value, Text) else Text(str(value)) for value in values]


def _closed(self: Any) -> None:
    """Called by rich on a broken pipe, such as by `| head`; rich itself would exit silently."""
    self.quiet = True
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise OutputClosed


def quiet() -> None:
    """Silence other libraries' warnings and bars, and let a closed output pipe raise OutputClosed."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    import transformers

    Console.on_broken_pipe = _closed
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
