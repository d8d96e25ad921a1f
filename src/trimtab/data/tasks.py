"""Rows that ask something and know what is right, but hold no answer to learn from."""

from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimtab.data.rows import Counts, Prepared
from trimtab.data.sources import DataError, Row

ANSWERS = ("messages", "prompt", "completion", "completions", "chosen", "rejected", "labels", "label")
"""Columns that are not handed on to rewards as they are."""


def question(row: Mapping[str, Any], where: str) -> list[dict[str, str]]:
    """What a row asks, as messages: its `prompt`, or its `messages` up to the last one of a user.

    Raises:
        DataError: if it asks nothing.
    """
    prompt = row.get("prompt", row.get("messages"))
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not all(isinstance(turn, Mapping) for turn in prompt):
        raise DataError(f"{where} has no prompt and no messages to ask")
    while prompt and prompt[-1].get("role") == "assistant":
        prompt = prompt[:-1]
    if not prompt or not str(prompt[-1].get("content", "")).strip():
        raise DataError(f"{where} holds no question")
    return [dict(turn) for turn in prompt]


def prepare_tasks(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, source: str) -> Prepared:
    """Rows with `prompt` (a chat, or the text of one where the tokenizer has no template), `row_id`, and all columns
    that a reward may read.

    Raises:
        DataError: naming the row that asks nothing.
    """
    counts, made = Counts(rows=len(rows), kept=len(rows)), []
    for number, row in enumerate(rows):
        chat = question(row, f"{source}: row {number + 1}")
        prompt = chat if tokenizer.chat_template is not None else "\n\n".join(turn["content"] for turn in chat)
        made.append({**{k: v for k, v in row.items() if k not in ANSWERS}, "prompt": prompt, "row_id": number})
        if isinstance(prompt, str):
            ids: Any = tokenizer(prompt).input_ids
        else:
            ids = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=True)["input_ids"]  # type: ignore[index]
        counts.tokens += len(ids)
        counts.longest = max(counts.longest, len(ids))
    return Prepared(made, counts, source, counts.longest)
