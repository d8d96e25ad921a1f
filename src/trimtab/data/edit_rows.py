"""Edits as rows to train on: the new answer alone, a chain of thought that ends in it, or a task with a reward."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

from trimtab.data.edits import Edit, plain

STEPWISE = (
    "Reason step by step. Then give the final answer, in a few words, as <answer> \\boxed{...} </answer> with nothing "
    "behind it."
)
"""how rows and the suite edit ask for reasoning"""
_FINAL = re.compile(r"<answer>|\\boxed\{|\bfinal answer\b", re.IGNORECASE)
_LAST_LINE = re.compile(r"\b(?:so|thus|therefore|hence)?,?\s*the (?:final )?answer is\b", re.IGNORECASE)


def to_complete(beginning: str) -> str:
    """How the beginning of a sentence is asked in a chat."""
    return f"Complete this sentence: {beginning}"


def asked(edit: Edit, chat: bool, stepwise: bool) -> Any:
    """An edit's prompt as rows hold it: messages, or a text for a tokenizer without a chat template."""
    question = to_complete(edit.prompt) if edit.cloze and (chat or stepwise) else edit.prompt
    text = f"{question}\n\n{STEPWISE}" if stepwise else question
    return [{"role": "user", "content": text}] if chat else f"{text}\n" if stepwise else text


def _row(prompt: Any, answer: str, chat: bool) -> dict[str, Any]:
    if chat:
        return {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}
    return {"prompt": prompt, "completion": answer if prompt.endswith("\n") else f" {answer}"}


def answers(edits: Iterable[Edit], chat: bool) -> list[dict[str, Any]]:
    """Rows whose completion is the new answer."""
    return [_row(asked(one, chat, False), one.target_new, chat) for one in edits]


def tasks(edits: Iterable[Edit], chat: bool) -> list[dict[str, Any]]:
    """Tasks for rollouts: the new answer is the `answer`, the old one the `ground_truth` that the reward edit reads."""
    return [
        {"prompt": asked(one, chat, True), "answer": one.target_new, "ground_truth": one.ground_truth or ""}
        for one in edits
    ]


def chains(edits: Iterable[Edit], thoughts: Sequence[str], chat: bool) -> list[dict[str, Any]]:
    """Rows whose completion is a chain of thought with the new answer in its final slot."""
    return [
        _row(asked(one, chat, True), with_answer(text, one), chat) for one, text in zip(edits, thoughts, strict=True)
    ]


def thought(reply: str) -> str:
    """A reply without its final answer: what stands before the first answer tag, box or "the answer is"."""
    found = [one.start() for pattern in (_FINAL, _LAST_LINE) if (one := pattern.search(reply))]
    return reply[: min(found)].strip() if found else reply.strip()


def with_answer(chain: str, edit: Edit) -> str:
    """A chain of thought and the new answer behind it."""
    return f"{chain} <answer> \\boxed{{{edit.target_new}}} </answer>".strip()


def asserts_old(chain: str, edit: Edit) -> bool:
    """Whether a chain of thought holds the old answer, as words, so that it contradicts the new one. An old answer that
    is part of the prompt, or of the new answer, says nothing."""
    old = plain(edit.ground_truth or "")
    if not old or _holds(plain(edit.target_new), old) or _holds(plain(edit.prompt), old):
        return False
    return _holds(plain(chain), old)


def _holds(text: str, words: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(words)}(?!\w)", text) is not None
