"""What a model is shown of a run: its steps as messages, or a summary in place of the first half of them.

The paper keeps a tree: a summary is a node that takes the place of the first nodes of the path, behind which the rest
is hung again. Here the path alone is kept; all that it has ever held stands in the trajectory.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from trimtab.common.files import dumps
from trimtab.gym.actions import Action, parse_as
from trimtab.gym.observation import truncated

Node = dict[str, Any]
"""`kind` "step" (`said`, `call`, `seen`), "summary" (`text`, `steps`) or "note" (`text`)"""
Messages = list[dict[str, Any]]
NAME = re.compile(r"[\w-]{1,64}")
"""of a tool; servers refuse others, also in a history"""


class Summarize(Action):
    """Keep what has to be known of the steps so far; they are shown no more."""

    state_of_the_art: str
    """The best result so far, how it was got, and what is to be beaten."""
    hypotheses: list[str] = Field(default_factory=list)
    """Ideas, each with its status: open, confirmed or refuted."""
    knowledge: list[str] = Field(default_factory=list)
    """Facts about the task, the data and the code that will be needed."""
    reflections: list[str] = Field(default_factory=list)
    """What went wrong and why, and what to do otherwise."""
    files: list[str] = Field(default_factory=list)
    """Files that matter, and what each holds."""
    sessions: list[str] = Field(default_factory=list)
    """Sessions, and what runs in each."""
    experiments: list[str] = Field(default_factory=list)
    """What was tried, and what came of it."""
    recent_actions: list[str] = Field(default_factory=list)
    """The last actions."""


def messages(path: Sequence[Node], longest: int) -> Messages:
    """A path as messages; what users say one after the other becomes one message.

    Args:
        longest: characters of an observation.
    """
    found: Messages = []
    for number, node in enumerate(path):
        if node["kind"] != "step":
            mark = f"[summary of {node['steps']} steps]" if node["kind"] == "summary" else "[note]"
            _say(found, f"{mark}\n{node['text']}")
            continue
        seen, call = shown(node["seen"], longest), node["call"]
        arguments = None if call is None else readable(call["arguments"])
        if call is None or not isinstance(arguments, dict) or not _is_name(call["name"]):
            wrote = "" if call is None else f"{call['name']} {call['arguments']}"
            found.append({"role": "assistant", "content": "\n".join(filter(None, (node["said"], wrote))) or "..."})
            _say(found, seen)
            continue
        key = f"call_{number}"
        function = {"name": call["name"], "arguments": json.dumps(arguments)}
        calls = [{"id": key, "type": "function", "function": function}]
        found.append({"role": "assistant", "content": node["said"], "tool_calls": calls})
        found.append({"role": "tool", "tool_call_id": key, "content": seen})
    return found


def shown(seen: Mapping[str, Any] | None, longest: int) -> str:
    """An observation as a model reads it."""
    short = {key: truncated(value, longest) if isinstance(value, str) else value for key, value in (seen or {}).items()}
    return truncated(dumps(short), 2 * longest)


def readable(arguments: Any) -> Any:
    """The arguments of a call, from their JSON where they are written; None where that is none."""
    if not isinstance(arguments, str):
        return arguments
    try:
        return json.loads(arguments) if arguments.strip() else {}
    except (ValueError, RecursionError):
        return None


def as_text(path: Sequence[Node], longest: int) -> str:
    """A path to be summarised."""
    parts = []
    for node in path:
        if node["kind"] == "step":
            call = node["call"] or {"name": "no call", "arguments": ""}
            parts.append(f"{node['said']}\n{call['name']} {call['arguments']}\n{shown(node['seen'], longest)}")
        else:
            parts.append(node["text"])
    return "\n\n".join(parts)


def summary(call: Mapping[str, Any] | None) -> str | None:
    """The text of a summary; None if a call is none."""
    made = None if call is None or call["name"] != Summarize.name else parse_as(Summarize, call["arguments"])
    if not isinstance(made, Summarize):
        return None
    parts = []
    for key, value in made.model_dump().items():
        if value:
            lines = [value] if isinstance(value, str) else [f"- {one}" for one in value]
            parts.append("\n".join([f"{key.replace('_', ' ')}:", *lines]))
    return "\n".join(parts)


def digest(path: Sequence[Node]) -> str:
    """What was done, by rule: for a model that gives no summary."""
    lines = []
    for node in path:
        if node["kind"] == "step":
            seen, call = node["seen"] or {}, node["call"] or {"name": "no call", "arguments": ""}
            outcome = seen.get("message") or seen.get("error_message") or ""
            lines.append(f"- {call['name']} {_brief(call['arguments'])}: {_brief(outcome)}")
        else:
            lines.append(node["text"])
    return "\n".join(lines)


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and NAME.fullmatch(name) is not None


def _brief(value: Any) -> str:
    text = " ".join((value if isinstance(value, str) else dumps(value)).split())
    return text if len(text) <= 120 else f"{text[:120]}..."


def _say(found: Messages, text: str) -> None:
    if found and found[-1]["role"] == "user":
        found[-1]["content"] += f"\n\n{text}"
    else:
        found.append({"role": "user", "content": text})
