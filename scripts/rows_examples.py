"""What a rule of the page of rows is made of, and the messages that its examples share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Example:
    """Rows, and how they are previewed."""

    rows: Any
    """one row, several, or the content of a file as text or bytes"""
    template: str | None = "chatml"
    words: str = ""
    """before the example"""
    file: str = "rows.jsonl"
    method: str = "sft"
    data: Mapping[str, Any] = field(default_factory=dict)
    """keys of the recipe's `data`"""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """other keys"""
    merges: tuple[str, ...] = ()
    begins: bool = False
    end: str = "<|im_end|>"
    counts: bool = False
    """keep the table of counts"""
    tokens: bool = False
    """also show the tokens, beside those with which the model is asked"""
    rows_are_shown: bool = True


@dataclass(frozen=True)
class Rule:
    title: str
    words: str
    examples: tuple[Example, ...] = ()


def user(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def said(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **more}


def called(content: Any, arguments: Any) -> dict[str, Any]:
    return said(content, tool_calls=[{"type": "function", "function": {"name": "rain", "arguments": arguments}}])


def chat(*messages: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"messages": list(messages), **more}


RAIN = {"type": "function", "function": {"name": "rain", "parameters": {"type": "object", "properties": {}}}}
CALL = called("", {"city": "Rome"})
REPLY = {"role": "tool", "content": "12 mm"}
TWO = chat(user("2 + 2?"), said("4"), user("3 + 3?"), said("6"))
THOUGHTS = chat(
    user("2 + 2?"), said("<think>\neasy\n</think>\n\n4"), user("3 + 3?"), said("<think>\nalso easy\n</think>\n\n6")
)
DPO = {"method": "dpo", "recipe": {}}
MCC = {"method": "mcc_kd"}
NUMBERS = [
    {"prompt": "Q: one?\nA:", "completion": " 1"},
    {"prompt": "Q: many?\nA:", "completion": " 1 2 3 4 5 6"},
    {"prompt": "Q: how many are too many?\nA:", "completion": " 9"},
    {"prompt": "Q: none?\nA:", "completion": ""},
]
