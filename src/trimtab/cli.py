"""The command line: parse and hand over. Nothing heavy is imported before it is needed."""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trimtab import __version__
from trimtab.common import by_file
from trimtab.common.errors import Interrupted, OutputClosed, Unanswered, UserError, nearest

STOPPED = 130
"""exit code after a Ctrl-C"""

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

# typer brings its own copy of click or uses the installed one, by version; this is the base of its usage errors
UsageMistake: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

COMMANDS = {
    "list": "list",
    "show": "show",
    "preview": "preview",
    "train": "train",
    "launch": "launch",
    "schema": "schema",
    "precompute": "precompute",
    "serve-teacher": "serve_teacher",
    "serve": "serve",
    "edit": "edit",
    "generate": "generate",
    "export": "export",
    "sweep": "sweep",
    "clean": "clean",
    "compare-decoding": "compare_decoding",
    "eval": "evaluate",
    "agent run": "agent_run",
    "agent roles": "agent_roles",
    "agent show": "agent_show",
    "gym list": "gym_list",
    "gym run": "gym_run",
    "gym report": "gym_report",
    "gym rescore": "gym_rescore",
    "gym diff": "gym_diff",
    "contamination": "contamination",
    "collect": "collect",
    "select-rationales": "select_rationales",
    "score": "score",
    "report": "report",
    "doctor": "doctor",
}
"""command, of one word or two -> its module in `trimtab.commands`, in the order of the help"""


def named(words: Sequence[str]) -> tuple[str, list[str]]:
    """The command that a command line begins with, and its other words.

    Raises:
        UserError: if there is none.
    """
    for number in (1, 2):
        if (name := " ".join(words[:number])) in COMMANDS:
            return name, list(words[number:])
    first = words[0] if words else ""
    if own := [name for name in COMMANDS if name.startswith(f"{first} ")]:
        second = next((word for word in words[1:2] if not word.startswith("-")), "")
        known = f"there are {', '.join(own)}"
        hint = nearest(f"{first} {second}", own, known) if second else known
        raise UserError(f"{f'trimtab {first} {second}'.rstrip()} is no command; {hint}")
    hint = nearest(first, list(dict.fromkeys(name.partition(" ")[0] for name in COMMANDS)), "see trimtab --help")
    raise UserError(f"there is no command {first!r}; {hint}")


class Commands(TyperGroup):
    """The commands. A command's module is imported when it is used; `--help` shows the first lines of all."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        return _command(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args:
            return super().resolve_command(ctx, args)
        name, rest = named(args)
        return name, self.get_command(ctx, name), rest

    @property
    def commands(self) -> Mapping[str, Any]:  # type: ignore[override]
        return {name: _command(name) for name in COMMANDS}

    @commands.setter
    def commands(self, value: Any) -> None:
        assert not value

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(name)) for name in COMMANDS])


def _summary(name: str) -> str:
    return by_file.summary(Path(__file__).parent / "commands", COMMANDS[name])


def _command(name: str) -> Any:
    from trimtab.common.settings import command, with_values

    module = importlib.import_module(f"trimtab.commands.{COMMANDS[name]}")
    one = typer.Typer(add_completion=False, rich_markup_mode=None)
    one.command(name, help=_summary(name))(command(name, module.SETTINGS, module.main))
    made: Any = typer.main.get_command(one)
    parse_args = made.parse_args
    made.parse_args = lambda ctx, args: parse_args(ctx, with_values(module.SETTINGS, args))
    for argument in (each for each in made.params if each.param_type_name == "argument"):
        argument.get_usage_pieces = lambda ctx, words=argument.metavar: [words]  # as written, without a list's marks
        argument.get_help_record = lambda ctx, shown=(argument.metavar, argument.help or ""): shown
    return made


app = typer.Typer(
    cls=Commands,
    name="trimtab",
    help="Controlled change of language models after pre-training.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"trimtab {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


def main() -> None:
    """Run the command line. Exit codes: 2 and one line for a user's mistake, 1 for a server that does not answer, 130
    for Ctrl-C."""
    try:
        code = app(standalone_mode=False)
        if code == STOPPED:  # typer turns a Ctrl-C into it
            raise KeyboardInterrupt
        sys.exit(code)
    except UsageMistake as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            print(error.format_message())
            sys.exit(2)
        _fail(_usage(error))
    except (KeyboardInterrupt, typer.Abort):
        print("\nstopped; run the same command again", file=sys.stderr)
        sys.exit(STOPPED)
    except Interrupted as error:
        print(f"\n{error}", file=sys.stderr)
        sys.exit(STOPPED)
    except OutputClosed as error:
        _fail(str(error) or "the output was closed by its reader")
    except UserError as error:
        if os.environ.get("TRIMTAB_TRACEBACK"):
            raise
        from trimtab.common import failures

        _fail(f"{error} ({failures.HINT})" if failures.comes_from_outside(error) else str(error))
    except Unanswered as error:
        _fail(str(error), 1)
    except Exception as error:
        if os.environ.get("TRIMTAB_TRACEBACK"):
            raise
        _failed(error)


def _usage(error: Any) -> str:
    """The line for a command line that does not parse."""
    asked = next((words for words in (sys.argv[1:2], sys.argv[1:3]) if " ".join(words) in COMMANDS), [])
    see = " ".join(["see trimtab", *asked, "--help"])
    if (option := getattr(error, "option_name", None)) and hasattr(error, "possibilities"):
        close = next(iter(error.possibilities or ()), None)
        return f"there is no option {option}; {f'did you mean {close}?' if close else see}"
    return f"{error.format_message().rstrip('.')}; {see}"


def _failed(error: Exception) -> None:
    """Print a failure outside trimtab as one line, and a bug with its traceback."""
    import traceback

    from trimtab.common import failures, user_code

    if (own := user_code.failed_in(error)) is not None:
        _fail(f"{own}; fix it there ({failures.HINT})")
    said = failures.said(error)
    if said is not None:
        way = "" if "make room" in said or ": lower " in said else "; fix that, or choose another place"
        _fail(f"{said}{way}, and run the same command again ({failures.HINT})")
    traceback.print_exception(error)
    name = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    print(
        f"error: a bug in trimtab or in a library that it uses ({name}); please report it with the lines "
        "above and the output of `trimtab doctor`",
        file=sys.stderr,
    )
    sys.exit(1)


def _fail(message: str, code: int = 2) -> None:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)
