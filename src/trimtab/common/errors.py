"""User errors and their messages, with suggestions for unknown names."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """A mistake in a command, a recipe or a file: one line that names the place, what was found and how to fix it. The
    command line prints it and exits with 2; every other exception is a bug in trimtab."""


class FailedOutside(UserError):
    """The machine, a disk, a library or a tracker has failed and nobody made a mistake; the message says what of the
    work is kept, and the command line how to see where it failed."""


class Interrupted(Exception):
    """Work was stopped by Ctrl-C; the message says what is kept and how to resume."""


class OutputClosed(Exception):
    """The output pipe was closed; not a BrokenPipeError, which typer turns into a silent exit."""


def looked_in(path: str | Path) -> str:
    """Where a relative path was looked for, as the end of a message about a missing file."""
    path = Path(path)
    return "" if path.expanduser().is_absolute() else f" (looked for in {Path.cwd()}, where the command was started)"


def closest(name: str, known: Iterable[str]) -> str | None:
    """The known name that an unknown one probably means."""
    return next(iter(difflib.get_close_matches(name, list(known), n=1)), None)


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """The end of a message about an unknown name: the nearest known one, or `otherwise`."""
    close = closest(name, known)
    return otherwise if close is None else f"did you mean {close!r}?"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or the name of its class."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def check_known(name: str, known: Collection[str], what: str, listed: str, mistake: type[UserError]) -> None:
    """Raise `mistake`, with the nearest name, for an unknown name of a `what`; `listed` introduces the known ones."""
    if name not in known:
        hint = nearest(name, known, f"{listed}: {', '.join(known)}")
        raise mistake(f"there is no {what} {name!r}; {hint}")


def check_settings(options: Any, settings: Mapping[str, Any], owner: str, prefix: str, mistake: type[UserError]) -> Any:
    """Settings as an instance of the pydantic class `options`.

    Args:
        owner: of the settings, for messages.
        prefix: of a key, as the user writes it.

    Raises:
        mistake: naming the setting, its value, and a suggestion; unknown keys are reported first.
    """
    from pydantic import ValidationError

    try:
        return options.model_validate(dict(settings))
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        key = str(first["loc"][0]) if first["loc"] else "settings"
        if first["type"] == "extra_forbidden":
            known = list(options.model_fields)
            hint = nearest(key, known, f"its settings: {', '.join(known) or 'none'}")
            raise mistake(f"{owner} has no setting {key!r}; {hint}") from None
        raise mistake(f"{prefix}{key} {wrong_value(first)}") from None


WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping of keys to values",
    "model": "a mapping of keys to values",
    "finite": "a finite number",
    "greater_than_equal": "at least {ge}",
    "greater_than": "above {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "below {lt}",
    "literal": "{expected}",
    "enum": "{expected}",
}
"""the beginning of the type of a pydantic error -> what the value must be"""


def wrong_value(error: Mapping[str, Any]) -> str:
    """The end of a message about a value that pydantic refused: "is 'abc'; it must be a whole number".

    Args:
        error: an entry of `ValidationError.errors()`.
    """
    given, said = error["input"], error["msg"].removeprefix("Value error, ")
    wanted = next(
        (text for kind, text in WANTED.items() if error["type"].startswith(f"{kind}_") or error["type"] == kind), None
    )
    if error["type"] == "value_error" or wanted is None:
        end = f"{said[0].lower()}{said[1:]}"
    else:
        end = f"it must be {wanted.format(**error.get('ctx', {}))}"
    close = closest(str(given), re.findall(r"'([^']*)'", end)) if error["type"] in ("literal_error", "enum") else None
    return f"is {'null' if given is None else repr(given)}; {end}{f'; did you mean {close!r}?' if close else ''}"


class Unanswered(Exception):
    """A model or server does not answer: not a mistake of the user, so the command exits with 1."""


GIVE_UP = 8
"""failed requests after which the work stops if none was answered"""


def check_answered(errors: Iterable[str | None], who: str, *, whole: bool = False) -> None:
    """Raise Unanswered, with the first error, if all requests failed.

    Args:
        errors: of all requests so far, None for an answered one.
        who: the model or server.
        whole: no request is left, so that fewer than `GIVE_UP` errors are enough.
    """
    known: list[str] = []
    for error in errors:
        if error is None:
            return
        known.append(error)
    if known and (whole or len(known) >= GIVE_UP):
        number = f"all {len(known)} requests" if whole else f"the first {len(known)} requests"
        raise Unanswered(f"{who}: {number} failed, the first with: {known[0]}; fix that and run it again")
