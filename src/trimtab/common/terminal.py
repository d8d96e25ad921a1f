"""What reaches a terminal: users' paths, names and rows as they are. rich would read [brackets] as markup, and :words:
between colons as emojis."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from trimtab.common.errors import OutputClosed


def say(console: Console, text: str, style: str | None = None) -> None:
    """One text, in one piece: a path that is broken over lines cannot be copied."""
    console.print(Text(text), style=style, soft_wrap=True, highlight=False)


def table_of(*columns: str, title: str | None = None, **how: Any) -> Table:
    """A table with such headings."""
    headings = [Column(header=Text(column)) for column in columns]
    return Table(*headings, title=None if title is None else Text(title, style="table.title"), **how)


def cells(values: Iterable[Any]) -> list[Text]:
    """Of a row of a table."""
    return [value if isinstance(value, Text) else Text(str(value)) for value in values]


def _closed(self: Any) -> None:
    """What rich calls then; where it is to end at once, such as at `| head`, rich says nothing."""
    self.quiet = True
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    raise OutputClosed


def quiet() -> None:
    """Of a long command: other libraries' warnings and bars say nothing about the user's work, and work whose output
    nobody reads any more says how it goes on."""
    import logging
    import warnings

    warnings.filterwarnings("ignore", category=FutureWarning)
    import transformers

    Console.on_broken_pipe = _closed
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
