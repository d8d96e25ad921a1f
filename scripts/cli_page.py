"""Write docs/reference/cli.md: every command with its arguments and options, from the typer app itself."""

import re
import sys
from typing import Any

import typer

from pages import DOCS, command, one_line, table, written_by
from trimtab.cli import app

PAGE = DOCS / "reference" / "cli.md"
HEADER = """\
# Command line

{comment}

`trimtab COMMAND --help` prints the same. Exit codes: 0 for success, 1 for a failure from outside (a server that cannot
be reached, a full disk), 2 for a mistake in what was asked, which costs one line, and 130 after Ctrl-C. With
`TRIMTAB_TRACEBACK=1` in the environment the traceback of any error is shown.
"""


def page() -> str:
    commands = typer.main.get_command(app).commands  # pyright: ignore[reportAttributeAccessIssue]
    rows = [
        (f"[`{name}`](#{name.replace(' ', '-')})", one_line(one.help).partition(". ")[0])
        for name, one in commands.items()
    ]
    parts = [
        HEADER.format(comment=written_by(__file__, "src/trimtab/cli.py")),
        table(("command", "what it does"), rows),
    ]
    return "\n".join([*parts, *(_section(name, one) for name, one in commands.items())])


def _section(name: str, one: Any) -> str:
    arguments = [p for p in one.params if p.param_type_name == "argument"]
    options = [p for p in one.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join(["trimtab", name, *(p.metavar for p in arguments), *(["[OPTIONS]"] if options else [])])
    parts = [f"## {name}\n", f"```text\n{usage}\n```\n", (one.help or "").strip() + "\n"]
    if arguments:
        parts.append(table(("argument", "meaning"), [(f"`{p.metavar}`", one_line(p.help)) for p in arguments]))
    if options:
        rows = [(f"`{_names(p)}`", *_told(p)) for p in options]
        parts.append(table(("option", "default", "meaning"), rows))
    return "\n".join(parts)


def _names(option: Any) -> str:
    names = "/".join([*option.opts, *option.secondary_opts])
    return names if option.is_flag else f"{names} {option.metavar}"


def _told(option: Any) -> tuple[str, str]:
    """The default, and the meaning, which ends in it on the command line."""
    text = one_line(option.help)
    found = re.search(r" ?\[(?:default: (.*)|required)\]$", text)
    if found is None:
        return "", text
    return f"`{found[1]}`" if found[1] else "required", text[: found.start()]


if __name__ == "__main__":
    sys.exit(command(PAGE, page, __file__))
