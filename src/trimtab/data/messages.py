"""Messages as rows hold them, and what else a row says to its chat template."""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimtab.data.sources import DataError

TEXT = "text"
"""the role of a message that is text to go on with, whatever the chat template; it stands alone"""
Message = dict[str, Any]
REASONING = ("reasoning_content", "thinking", "reasoning")
"""Keys of a message under which its thought lies; transformers gives templates the one that they read."""
TAKEN = frozenset(inspect.signature(PreTrainedTokenizerBase.apply_chat_template).parameters) | {"messages"}
"""Arguments of transformers that a row does not set."""


def messages_of(value: Any, column: str, where: str) -> list[Message]:
    """The messages of a column, in the form that transformers documents: null keys are left out, and the calls of tools
    are `{"type": "function", "function": {"name": ..., "arguments": {...}}}`, whether their arguments were a mapping or
    its JSON.

    Raises:
        DataError: if they are none, or hold an image or other parts that are no text.
    """
    if not isinstance(value, list) or not all(isinstance(m, Mapping) and isinstance(m.get("role"), str) for m in value):
        raise DataError(f"{where}: {column} must be a list of messages, each with a 'role' and a text as 'content'")
    if not value and column not in ("completion", "chosen", "rejected"):
        raise DataError(f"{where}: {column} is an empty list, expected messages")
    return [_message(message, f"{where}: message {i + 1} of {column}") for i, message in enumerate(value)]


def _message(message: Mapping[str, Any], where: str) -> Message:
    made = {key: value for key, value in message.items() if value is not None}
    content = made.get("content")
    if isinstance(content, list):
        made["content"] = "".join(_part(part, where) for part in content)
    elif content is not None and not isinstance(content, str):
        raise DataError(f"{where} has the content {_short(content)}; expected a text, or a list of parts")
    if not made.get("tool_calls"):
        made.pop("tool_calls", None)
    else:
        made["tool_calls"] = _calls(made["tool_calls"], where)
    if made["role"] == "assistant":
        made.setdefault("content", "")
    if "content" not in made:
        raise DataError(f"{where} has no content; expected a text under 'content'")
    return made


def _part(part: Any, where: str) -> str:
    text = part.get("text") if isinstance(part, Mapping) else part
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        raise DataError(f"{where} holds a part of type {kind!r}; texts alone are read, so take such rows out")
    return text


def _calls(value: Any, where: str) -> list[dict[str, Any]]:
    calls = _from_json(value)
    if isinstance(calls, Mapping):
        calls = [calls]
    made = []
    for call in calls if isinstance(calls, list) else [calls]:
        own = call if isinstance(call, Mapping) else {}
        function = own.get("function", own)
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise DataError(f"{where} has tool_calls {_short(value)}; expected a list of calls, each with a name")
        flat = function is own
        inner = {k: v for k, v in function.items() if v is not None and not (flat and k in ("id", "type"))}
        inner["arguments"] = _from_json(inner.get("arguments", {}))
        outer = {k: v for k, v in own.items() if v is not None and (k in ("id", "type") if flat else k != "function")}
        made.append({"type": "function", **outer, "function": inner})
    return made


def _from_json(value: Any) -> Any:
    """A mapping or list that was written as JSON; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        found = json.loads(value)
    except ValueError:
        return value
    return found if isinstance(found, (dict, list)) else value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def is_answer(message: Mapping[str, Any]) -> bool:
    """Whether it is a message of the assistant with a text, a thought or a call of a tool."""
    texts = [text_of(message.get("content")), *(message.get(key) for key in REASONING)]
    has_content = bool(message.get("tool_calls")) or any(isinstance(text, str) and text.strip() for text in texts)
    return message["role"] == "assistant" and has_content


def text_of(content: Any) -> str:
    """The text of a content, whatever its form."""
    if isinstance(content, list):
        return "".join(part["text"] if isinstance(part, Mapping) else part for part in content)
    return content if isinstance(content, str) else ""


def tools_of(row: Mapping[str, Any], where: str) -> list[Any] | None:
    """The tools of a row, a list or its JSON; none for an empty list.

    Raises:
        DataError: if they are anything else.
    """
    tools = _from_json(row.get("tools"))
    if tools is not None and not isinstance(tools, list):
        raise DataError(f"{where}: tools is {_short(tools)}; expected a list of tools, or that as JSON")
    return tools or None


def kwargs_of(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Further variables of the template that a row sets, an object or its JSON.

    Raises:
        DataError: if it is anything else, or names what is no variable.
    """
    found = _from_json(row.get("chat_template_kwargs")) or {}
    if not isinstance(found, Mapping):
        raise DataError(
            f"{where}: chat_template_kwargs is {_short(found)}; expected an object of the template's variables"
        )
    if taken := sorted(TAKEN & found.keys()):
        raise DataError(f"{where}: chat_template_kwargs sets {taken[0]!r}, which is no variable of a chat template")
    return dict(found)


def as_messages(value: Any, role: str) -> Any:
    """A text beside messages is one of them."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def for_the_template(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row holds for the chat template besides messages."""
    return {key: row[key] for key in ("tools", "chat_template_kwargs") if key in row}
