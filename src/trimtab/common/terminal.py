"""What reaches a terminal: users' paths, names and rows as they are. rich would read [brackets] as markup, and :words:
between colons as emojis."""

from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text


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
