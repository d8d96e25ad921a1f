"""What an agent may do, as typed actions with JSON schemas. Their names and parameters are ResearchGym's
(arXiv:2510.27598), on one machine and with documents in place of the web.

The text of a class and those under its fields are what the agent reads.
"""

import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field, ValidationError

from trimtab.common.errors import nearest, wrong_value
from trimtab.common.options import Strict

SLEEP = 1800.0
"""the longest sleep, in seconds"""
THOUGHT = 200
"""characters of a thought"""
CALLED = {"Submit": "eval"}
"""names of tools that are not those of their classes"""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,40}$")]
"""of a session"""


class Action(Strict):
    """Something that an agent does."""

    name: ClassVar[str]

    def __init_subclass__(cls, **_: Any) -> None:
        super().__init_subclass__()
        cls.name = CALLED.get(cls.__name__) or re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


class RunCommand(Action):
    """Run a shell command line in a session, which is created where there is none. With wait_for_completion it is
    waited for, 10 seconds at most, and then killed; without, look at its output later. A busy session refuses
    commands."""

    command: str
    """The command line, in bash."""
    session_id: Name = "main"
    """Name of the session. Its working folder and variables stay from one command to the next."""
    wait_for_completion: bool = False
    """Wait for its end, and return its output."""


class CreateSession(Action):
    """Create a terminal session."""

    session_id: Name
    """Its name."""


class ListSessions(Action):
    """List the sessions, and what runs in each."""


class CloseSession(Action):
    """Close a session; what runs in it is killed."""

    session_id: Name
    """Its name."""


class CloseAllSessions(Action):
    """Close all sessions; what runs in them is killed."""


class GetSessionOutput(Action):
    """Read lines of a session's output, of which the last 10,000 are kept."""

    session_id: Name = "main"
    """Its name."""
    start_lines: int = Field(50, ge=1)
    """From this line on, counted from the end."""
    end_lines: int = Field(0, ge=0)
    """Without so many lines at the end."""
    since_timestamp: float | None = None
    """Lines of this time and later instead, in seconds since 1970."""


class GetSessionRecentOutput(Action):
    """Read what a session has written lately."""

    session_id: Name = "main"
    """Its name."""
    seconds: float = Field(10.0, gt=0)
    """How far back."""


class GetSessionStatus(Action):
    """Say whether a session is alive and idle, and list the processes that run in it."""

    session_id: Name = "main"
    """Its name."""


class CheckSessionIdle(Action):
    """Say whether a session is idle."""

    session_id: Name = "main"
    """Its name."""


class InputInSession(Action):
    """Type a text for the program that reads standard input in a session. Refused if none runs."""

    session_id: Name = "main"
    """Its name."""
    input_text: str
    """The text; end it with a line break where the program expects one."""


class ClearSessionBuffer(Action):
    """Forget a session's output so far."""

    session_id: Name = "main"
    """Its name."""


class KillSessionProcesses(Action):
    """End what runs in a session; the session stays."""

    session_id: Name = "main"
    """Its name."""
    force: bool = False
    """Kill (SIGKILL) instead of asking to end (SIGTERM)."""


class OpenFile(Action):
    """Show a file's lines, numbered, around a line. It becomes the current file."""

    path: str
    """The file."""
    line_number: int = Field(1, ge=1)
    """The line."""
    context_lines: int = Field(100, ge=1, le=1000)
    """How many lines are shown."""


class FileGotoLine(Action):
    """Show the 100 lines of the current file that begin at a line."""

    line: int = Field(ge=1)
    """The line."""


class FileScrollDown(Action):
    """Show the next 100 lines of the current file."""


class FileScrollUp(Action):
    """Show the 100 lines before, of the current file."""


class CreateFile(Action):
    """Create a file, or replace one; folders that are missing are created."""

    filename: str
    """The file."""
    content: str
    """All that it is to hold."""


class EditFile(Action):
    """Replace lines of a file."""

    path: str
    """The file."""
    start: int = Field(ge=1)
    """The first line to replace, from 1; one more than the file has lines to append."""
    end: int = Field(ge=0)
    """The last line to replace; start - 1 to insert before start."""
    content: str
    """What takes their place; empty to delete them."""


class SearchDir(Action):
    """Find the lines that hold a text in the files below a folder."""

    term: str = Field(min_length=1)
    """The text; capitals count."""
    path: str = "/workspace"
    """The folder."""


class SearchFile(Action):
    """Find the lines of a file that hold a text."""

    term: str = Field(min_length=1)
    """The text; capitals count."""
    path: str | None = None
    """The file; the current one by default."""


class FindFile(Action):
    """Find files by name below a folder."""

    pattern: str = Field(min_length=1)
    """The name, in which * and ? stand for any characters."""
    path: str = "/workspace"
    """The folder."""


class ListFiles(Action):
    """List a folder."""

    path: str = "/workspace"
    """The folder."""


class GetFileInfo(Action):
    """Say how large and how old a file is."""

    path: str
    """The file or folder."""


class SearchDocuments(Action):
    """Search the task's documents, such as papers and manuals; there is no network."""

    query: str = Field(min_length=1)
    """Words to look for."""
    top_k: int = Field(10, ge=1, le=100)
    """How many passages to return."""


class OpenDocument(Action):
    """Show 100 lines of one of the task's documents."""

    document: str
    """Its name, as the search gives it."""
    line: int = Field(1, ge=1)
    """The first line."""


class Think(Action):
    """Note a thought. Not twice in a row."""

    thought: str = Field(min_length=1, max_length=THOUGHT - 1)
    """Less than 200 characters."""


class Sleep(Action):
    """Wait. Returns early when the watched session has become idle."""

    seconds: float = Field(gt=0)
    """How long, 1800 at most."""
    session_id: Name | None = None
    """The session to watch."""


class Submit(Action):
    """Submit the outputs as they are now, and get their score. The number of submissions is limited."""


class ViewHint(Action):
    """Show the hint. It costs score."""


class Finish(Action):
    """End the task."""


class Null(Action):
    """What a malformed call becomes."""

    reason: str
    """What was wrong with it."""


ACTIONS: dict[str, type[Action]] = {one.name: one for one in Action.__subclasses__()}
OFFERED = tuple(name for name in ACTIONS if name != "null")


def parse(name: object, arguments: object) -> Action:
    """An action from a call as a model wrote it; Null, with the reason, where it is malformed.

    Args:
        arguments: a mapping, the JSON of one, or nothing.
    """
    if not isinstance(name, str) or name not in OFFERED:
        if name in (None, ""):
            return Null(reason="there was no call of a tool; call exactly one")
        return Null(reason=f"there is no tool {name!r}; {nearest(str(name), OFFERED, 'tools: ' + ', '.join(OFFERED))}")
    return parse_as(ACTIONS[name], arguments)


def parse_as(kind: type[Action], arguments: object) -> Action:
    """An action of this kind; Null, with the reason, where its arguments are malformed."""
    name = kind.name
    if isinstance(arguments, (str, bytes)):
        try:
            arguments = json.loads(arguments) if arguments.strip() else {}
        except (ValueError, RecursionError) as error:
            return Null(reason=f"the arguments of {name} are no JSON: {error}")
    if arguments is None:
        arguments = {}
    if not isinstance(arguments, Mapping):
        return Null(reason=f"the arguments of {name} are a {type(arguments).__name__}; expected an object")
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as failed:
        return Null(reason=f"{name}: {_fault(failed, kind)}")


def schema(kind: type[Action]) -> dict[str, Any]:
    """An action as a tool: name, description and JSON schema of its parameters."""
    made = kind.model_json_schema()
    properties = {
        key: {word: said for word, said in value.items() if word != "title"}
        for key, value in made.get("properties", {}).items()
    }
    parameters = {
        "type": "object",
        "properties": properties,
        "required": made.get("required", []),
        "additionalProperties": False,
    }
    return {"name": kind.name, "description": " ".join(str(kind.__doc__).split()), "parameters": parameters}


def schemas(*without: str) -> list[dict[str, Any]]:
    """All actions that are offered to an agent, as tools."""
    return [schema(ACTIONS[name]) for name in OFFERED if name not in without]


def _fault(failed: ValidationError, kind: type[Action]) -> str:
    first = failed.errors()[0]
    key = ".".join(map(str, first["loc"])) or "arguments"
    if first["type"] == "missing":
        return f"{key} is missing"
    if first["type"] == "extra_forbidden":
        known = list(kind.model_fields)
        return f"it has no parameter {key!r}; {nearest(key, known, 'its parameters: ' + (', '.join(known) or 'none'))}"
    if first["type"] in ("string_too_long", "string_too_short", "string_pattern_mismatch"):
        return f"{key} is {_short(first['input'])!r}; {first['msg'][:1].lower()}{first['msg'][1:]}"
    return f"{key} {wrong_value({**first, 'input': _short(first['input'])})}"


def _short(value: object) -> object:
    return f"{value[:60]}..." if isinstance(value, str) and len(value) > 60 else value
