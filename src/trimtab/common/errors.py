"""The mistakes of users and what is said of them: above all of names that are not there, what may have been meant."""

import difflib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any


class UserError(ValueError):
    """A mistake of whoever gave a command, a recipe or a file: one line that names the place, what was found and the
    way out. The command line prints it and ends with exit code 2; every other exception is a fault of trimtab."""


class FailedOutside(UserError):
    """The machine, a disk, a library or a tracker has failed and nobody made a mistake; the message says what of the
    work is kept, and the command line how to see where it failed."""


class Interrupted(Exception):
    """A Ctrl-C ended the work; the message says what is kept and how it goes on."""


class OutputClosed(Exception):
    """A pipe that the output went into has been closed; no BrokenPipeError, which typer makes a silent exit."""


def looked_in(path: str | Path) -> str:
    """Where a path that is not absolute was looked for, as the end of words on a file that is not there."""
    path = Path(path)
    return "" if path.expanduser().is_absolute() else f" (looked for in {Path.cwd()}, where the command was started)"


def nearest(name: str, known: Iterable[str], otherwise: str) -> str:
    """The end of a message about a name that is not there: the nearest one that is, or `otherwise`."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else otherwise


def check_known(name: str, known: Collection[str], what: str, listed: str, mistake: type[UserError]) -> None:
    """Whether there is `what` of that name.

    Args:
        listed: words before the names that there are.

    Raises:
        mistake: with the nearest name.
    """
    if name not in known:
        hint = nearest(name, known, f"{listed}: {', '.join(known)}")
        raise mistake(f"there is no {what} {name!r}; {hint}")


def check_settings(options: Any, settings: Mapping[str, Any], owner: str, prefix: str, mistake: type[UserError]) -> Any:
    """Settings as an instance of the pydantic model `options`, with its defaults.

    Args:
        options: the class.
        settings: key -> value.
        owner: whose settings they are, for messages.
        prefix: of a key, as the user writes it.
        mistake: the error to raise.

    Raises:
        mistake: naming the setting, what it is, and what may be meant; a key that is not there comes first.
    """
    from pydantic import ValidationError

    try:
        return options.model_validate(dict(settings))
    except ValidationError as error:
        first = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
        key = str(first["loc"][0]) if first["loc"] else "settings"
        if first["type"] == "extra_forbidden":
            known = list(options.model_fields)
            said = nearest(key, known, f"its settings: {', '.join(known) or 'none'}")
            raise mistake(f"{owner} has no setting {key!r}; {said}") from None
        message = f"{first['msg'][0].lower()}{first['msg'][1:]}"
        given = "null" if first["input"] is None else repr(first["input"])
        raise mistake(f"{prefix}{key} is {given}; {message}") from None


class Unanswered(Exception):
    """Whoever was asked gives no answers: no mistake in what the user wrote, so the command ends with exit code 1."""


GIVE_UP = 8
"""questions in a row that may end in an error before the first one is answered"""


def check_answered(errors: Iterable[str | None], who: str, *, whole: bool = False) -> None:
    """Go on only where somebody answers.

    Args:
        errors: of all that was asked so far, None for an answer.
        who: was asked.
        whole: nothing is left to ask, so that fewer than `GIVE_UP` errors are enough.

    Raises:
        Unanswered: with the first error, where there are errors alone.
    """
    known: list[str] = []
    for error in errors:
        if error is None:
            return
        known.append(error)
    if known and (whole or len(known) >= GIVE_UP):
        number = f"all {len(known)} questions" if whole else f"the first {len(known)} questions"
        raise Unanswered(f"{who}: {number} ended in an error, the first in: {known[0]}; mend that and run it again")
