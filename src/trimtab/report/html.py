"""What all pages share: their templates, and how they reach the disk."""

import os
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from trimtab.common.disk import writing_to


@cache
def template(name: str) -> Template:
    """A page's template; what it is given is escaped unless it is Markup, and a name that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("trimtab.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


def put(text: str, output: Path) -> Path:
    """Write a page; what was there is replaced at once or, on an error, not at all."""
    output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}.part")
    try:
        with writing_to(output):
            unfinished.write_bytes(text.encode(errors="backslashreplace"))  # half a character of an answer, shown so
            unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    return output
