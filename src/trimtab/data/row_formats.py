"""Rows of preferences, with outcomes and in steps, as a prompt and one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.common.csv_text import as_number
from trimtab.data.messages import Message, as_messages, for_the_template, messages_of
from trimtab.data.sources import DataError

STEP_SEPARATOR = "\n"
"""Between two steps of an answer, as in TRL."""


def stepwise(row: Mapping[str, Any], where: str) -> dict[str, Any]:
    """A stepwise row as prompt and completion, the steps joined.

    Raises:
        DataError: if it is none.
    """
    steps = row.get("completions")
    if "prompt" not in row or not isinstance(steps, list) or not all(isinstance(step, str) for step in steps):
        raise DataError(
            f"{where} has the columns {', '.join(map(str, row))}; expected prompt, completions (a list of steps) and "
            "labels (one for each step)"
        )
    answer = STEP_SEPARATOR.join(steps)
    is_chat = isinstance(row["prompt"], list)
    completion = [{"role": "assistant", "content": answer}] if is_chat else answer
    return {**for_the_template(row), "prompt": row["prompt"], "completion": completion}


def step_ends(steps: Sequence[str]) -> list[int]:
    """Where each step ends in the text of the answer, as an offset in characters."""
    ends, at = [], 0
    for step in steps:
        ends.append(at + len(step))
        at += len(step) + len(STEP_SEPARATOR)
    return ends


def one_side(row: Mapping[str, Any], side: str, where: str) -> Mapping[str, Any]:
    """A row of preferences as prompt and completion, with the answer of one side; other rows as they are.

    Args:
        side: chosen or rejected.

    Raises:
        DataError: if there is no prompt, or it is not clear which.
    """
    if side not in row:
        return row
    kept, other = for_the_template(row), "rejected" if side == "chosen" else "chosen"
    if not any(isinstance(row.get(name), list) for name in (side, other)):
        if row.get("prompt") is None:
            raise DataError(f"{where} has {side} and no prompt; texts need one, only messages may hold it themselves")
        return {**kept, "prompt": row["prompt"], "completion": row[side]}
    before, after = _conversation(row, side, other, where)
    return {**kept, "prompt": before, "completion": after}


def _conversation(row: Mapping[str, Any], side: str, other: str, where: str) -> tuple[list[Message], list[Message]]:
    """Prompt and completion of messages that may hold the prompt themselves.

    Raises:
        DataError: if the two answers are to different questions, or a prompt beside whole conversations is no part
            of them.
    """
    prompt = row.get("prompt")
    both = {
        name: messages_of(as_messages(row[name], "assistant"), name, where)
        for name in (side, other)
        if row.get(name) is not None
    }
    answer = both.get(side, [])
    if isinstance(prompt, list):
        before = messages_of(prompt, "prompt", where)
        # as much of the prompt's end as the answer begins with stands there twice
        shared = next(
            k for k in range(min(len(before), len(answer)), -1, -1) if before[len(before) - k :] == answer[:k]
        )
        return before, answer[shared:]
    if prompt is not None and not isinstance(prompt, str):
        raise DataError(f"{where}: prompt is {type(prompt).__name__}; expected a text or a list of messages")
    if not any(message["role"] == "user" for one in both.values() for message in one):
        if prompt is None:
            raise DataError(f"{where}: prompt is an empty list, expected messages")
        return [{"role": "user", "content": prompt}], answer
    if isinstance(row.get(side), str):  # the other one holds the conversation
        return both[other][:-1], answer
    if prompt is not None and not any(prompt.strip() in message["content"] for message in answer):
        raise DataError(
            f"{where}: the prompt {prompt[:40]!r} is no part of the messages under {side}, so it is not clear where it "
            "belongs; write it into them, as a message of the user or the system, or leave it out"
        )
    if isinstance(row.get(other), str):
        return answer[:-1], answer[-1:]
    lists = list(both.values())
    least = min(map(len, lists))
    n = min(next((i for i in range(least) if lists[0][i] != lists[-1][i]), least), len(answer) - 1)
    if any(one[n]["role"] != "assistant" for one in lists if len(one) > n):
        raise DataError(
            f"{where}: chosen and rejected part at message {n + 1}, which is no answer of the assistant; two answers "
            "that are compared belong to one question"
        )
    return answer[:n], answer[n:]


def outcome(row: Mapping[str, Any], where: str) -> float:
    """A row's `label`: 1.0 for a correct answer, 0.0 for an incorrect one; CSV has them as words.

    Raises:
        DataError: if there is none, or another one.
    """
    label = row.get("label")
    value = as_number(label)
    if isinstance(value, str) or value not in (0, 1):  # True and False are
        found = "no label" if label in (None, "") else f"the label {label!r}"
        raise DataError(
            f"{where} has {found}; expected 1 or true for a correct answer, 0 or false for an incorrect one"
        )
    return float(value)


def step_labels(row: Mapping[str, Any], where: str) -> list[float]:
    """1.0, 0.0 or -1.0 for each step of a stepwise row; true stands for 1 and false for -1.

    Raises:
        DataError: if there is not one for each step, or another one.
    """
    steps, labels = row["completions"], row.get("labels")
    labels = [as_number(label) for label in labels] if isinstance(labels, list) else labels
    if not isinstance(labels, list) or len(labels) != len(steps):
        found = f"{len(labels)} labels" if isinstance(labels, list) else "no labels"
        raise DataError(f"{where} has {found} for {len(steps)} steps")
    if wrong := [label for label in labels if label not in (-1, 0, 1)]:
        raise DataError(f"{where} has the step label {wrong[0]!r}; expected true or false, or -1, 0 or 1")
    return [(1.0 if label else -1.0) if isinstance(label, bool) else float(label) for label in labels]
