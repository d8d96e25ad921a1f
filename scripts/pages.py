"""What the scripts that write pages of the docs share: the command line, tables, and text from docstrings."""

import argparse
import inspect
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
PLAIN = {int: "integer", float: "number", str: "text", bool: "true or false", NoneType: "null", Any: "anything"}
DOCS = Path(__file__).resolve().parents[1] / "docs"
SECTIONS = ("Args", "Returns", "Raises", "Yields", "Source", "Attributes")


def command(page: Path, text: Callable[[], str], script: str) -> int:
    """The main of a script: writes the page, or with `--check` only compares. Gives the exit code, 1 if it is stale."""
    parser = argparse.ArgumentParser(description=f"Write {page.name}.")
    parser.add_argument("--check", action="store_true", help="only compare; exit code 1 if the page is stale")
    new = text()
    if not parser.parse_args().check:
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(new, encoding="utf-8")
        return 0
    if page.exists() and page.read_text(encoding="utf-8") == new:
        return 0
    print(f"{page.name} is stale; write it anew with: python scripts/{Path(script).name}", file=sys.stderr)
    return 1


def written_by(script: str, source: str) -> str:
    """The comment under a page's title."""
    return f"<!-- written by scripts/{Path(script).name}; change {source} and run `make pages` -->"


def table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(_cell(cell) for cell in cells) + " |"

    return "\n".join([line(head), "|" + " --- |" * len(head), *map(line, rows)]) + "\n"


def _cell(text: str) -> str:
    """One line; a bar would end the cell, also within code, where no escape is understood by every Markdown."""
    text = re.sub(r"`([^`]*\|[^`]*)`", lambda found: f"<code>{found[1].replace('|', '&#124;')}</code>", text)
    return " ".join(text.replace("|", "&#124;").split())


def prose(docstring: str | None) -> str:
    """A docstring in the manner of Google, as Markdown: its sections become lists."""
    lines, inside = [], ""
    for line in inspect.cleandoc(docstring or "").splitlines():
        head = re.fullmatch(rf"({'|'.join(SECTIONS)}):\s*(.*)", line)
        if head:
            inside = head[1]
            lines += ["", f"**{inside}:** {head[2]}".rstrip(), ""]
        elif inside and (entry := re.fullmatch(r" {4}(\*{0,2}[\w.]+(?: \([^)]*\))?):\s+(.*)", line)):
            lines.append(f"- `{entry[1]}`: {entry[2]}")
        elif inside:
            lines.append(("  " + line.strip()).rstrip())
        else:
            lines.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def takes(field: FieldInfo) -> str:
    """The values that a setting takes, in words and with its bounds."""
    limits = [
        f"{sign} {getattr(bound, name):g}"
        for bound in field.metadata
        for name, sign in BOUNDS.items()
        if getattr(bound, name, None) is not None
    ]
    words = kind(field.annotation)
    return f"{words}, {' and '.join(limits)}" if limits else words


def kind(annotation: Any) -> str:
    """A declared type in words."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if origin is Annotated:
        return kind(inner[0])
    if origin is Literal:
        return ", ".join(f"`{choice}`" for choice in inner)
    if origin in (Union, UnionType):
        return " or ".join(kind(one) for one in inner)
    if origin is list:
        return f"list of {kind(inner[0])}"
    if annotation is dict or origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return f"`{getattr(annotation, '__name__', annotation)}`"


def default(field: FieldInfo) -> str:
    """A setting's default as YAML has it, or that it has none."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel) or value in ({}, []):
        return "empty"
    words = {None: "null", True: "true", False: "false"}
    return f"`{words[value] if value is None or value is True or value is False else value}`"
