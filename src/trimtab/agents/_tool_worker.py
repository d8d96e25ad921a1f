"""The process in which the functions of a user's file are called."""

import asyncio
import inspect
import json
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from trimtab.agents.tools import ToolsError, shortened
from trimtab.common import user_code

GRACE = 5.0
"""seconds after its limit at which a process that was not killed ends itself"""


def work(place: str, seconds: float, longest: int, memory: int | None, described: bool) -> None:
    """Describe the functions of a file, then answer calls until standard input is closed.

    Describing takes seconds, and is left out where they are `described`. Requests and replies are lines of JSON on
    copies of the standard streams; what was standard input is empty for the functions, and what they print is dropped.
    """
    owner = os.getpid()
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nothing, stream)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process, even within a computation that never looks up
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        module = user_code.load(place, "tools", place, "TOOLS.py", ToolsError)
        functions = _functions(module, place)
        schemas = [] if described else [_schema(name, function, place) for name, function in functions.items()]
    except ToolsError as error:
        _write(replies, {"failed": str(error)})
        return
    except BaseException as error:  # such as SystemExit
        _write(replies, {"failed": f"tools {place}: importing {place} raised {_said(error)}"})
        return
    if memory is not None and sys.platform == "linux":
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    _write(replies, {"schemas": schemas, "files": [str(one) for one in user_code.files([module])]})
    for line in requests:
        asked = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, seconds + GRACE)
        text, error = _called(functions[asked["name"]], asked["name"], asked["arguments"], longest)
        if os.getpid() != owner:  # the function has forked, and this is its child
            os._exit(0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(replies, {"id": asked["id"], "text": text, "error": error})


def _functions(module: ModuleType, place: str) -> dict[str, Callable[..., Any]]:
    listed = getattr(module, "TOOLS", None)
    if listed is None:
        own = (one for one in vars(module).values() if inspect.isfunction(one) and one.__module__ == module.__name__)
        found = {one.__name__: one for one in own if not one.__name__.startswith("_")}
        if not found:
            raise ToolsError(
                f"{place} defines no public function; a tool is a function with type hints and a docstring"
            )
        return found
    if not isinstance(listed, list | tuple):
        raise ToolsError(f"{place}: TOOLS is a {type(listed).__name__}; expected a list of functions")
    for one in listed:
        if not callable(one) or not hasattr(one, "__name__"):
            raise ToolsError(f"{place}: TOOLS holds a {type(one).__name__}; expected functions")
    return {one.__name__: one for one in listed}


def _schema(name: str, function: Callable[..., Any], place: str) -> dict[str, Any]:
    from transformers.utils.chat_template_utils import get_json_schema

    try:
        made = get_json_schema(function)
    except Exception as error:  # of transformers, whose classes of them are not public, or of a type hint
        said = " ".join(str(error).split())[:300]
        raise ToolsError(
            f"{place}: {name} cannot be described as a tool: {said}; give it a docstring in which each argument has a "
            "line under Args:, and type hints"
        ) from error
    made["function"].pop("return", None)
    return made


def _called(function: Callable[..., Any], name: str, arguments: dict[str, Any], longest: int) -> tuple[str, bool]:
    """What it returns as a text, or what went wrong, and whether something has."""
    try:
        found = function(**arguments)
        if inspect.iscoroutine(found):
            found = asyncio.run(found)
    except BaseException as error:  # also SystemExit, which would end the process
        return shortened(_said(error), longest), True
    try:
        text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        kind = type(found).__name__
        return f"{name} returned a {kind}, which is no JSON: return a text, a number, a list or a dict", True
    return shortened(text, longest), False


def _said(error: BaseException) -> str:
    """An exception in one line, with the last line of the user's code that it came through."""
    text = str(error).strip().partition("\n")[0]
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not user_code.installed(frame.filename) and not frame.filename.startswith("<")]
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return f"{type(error).__name__}{f': {text}' if text else ''}{place}"


def _write(replies: Any, reply: dict[str, Any]) -> None:
    whole = {key: _whole(value) if isinstance(value, str) else value for key, value in reply.items()}
    line = json.dumps(whole).encode() + b"\n"
    while line:
        line = line[replies.write(line) :]


def _whole(text: str) -> str:
    """A text without halves of characters."""
    return text.encode("utf-8", "replace").decode()
