"""Tasks: rows with a prompt and what a reward needs, but without an answer to train on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimtab.data.counts import Counts, Prepared
from trimtab.data.messages import Message, messages_of, text_of
from trimtab.data.rows import Watch, joined
from trimtab.data.sources import DataError, Row
from trimtab.data.tokens import Coder, coder, prompt_ids, prompt_text

ANSWERS = ("messages", "prompt", "completion", "completions", "chosen", "rejected", "labels", "label")
"""Columns that are not handed on to rewards as they are."""


def question(row: Mapping[str, Any], where: str) -> list[Message]:
    """What a row asks, as messages: its `prompt`, or its `messages` up to the last one of a user.

    Raises:
        DataError: if it asks nothing.
    """
    prompt, column = row.get("prompt"), "prompt"
    if prompt is None:
        prompt, column = row.get("messages"), "messages"
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if not isinstance(prompt, list) or not all(isinstance(turn, Mapping) for turn in prompt):
        raise DataError(f"{where} has no prompt and no messages to ask")
    chat = messages_of(prompt, column, where) if prompt else []
    if chat and column == "prompt" and chat[-1]["role"] == "assistant":
        raise DataError(
            f"{where}: the prompt ends with a message of the assistant, which is no question; take it out, or ask with "
            "messages, whose answers are left out"
        )
    while chat and chat[-1]["role"] == "assistant":
        chat.pop()
    if not chat or not (chat[-1]["content"].strip() or chat[-1]["role"] == "tool"):
        raise DataError(f"{where} holds no question")
    return chat


def prepare_tasks(
    rows: Sequence[Row],
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    *,
    workers: int = 1,
    watch: Watch | None = None,
) -> Prepared:
    """Rows with `prompt` (a chat, or the text of one where the tokenizer has no template), `row_id`, and all columns
    that a reward may read; `tools` and `chat_template_kwargs` reach the template.

    Args:
        chat_template_kwargs: of all rows; a row's own come first.
        workers, watch: as of `trimtab.data.rows.prepare`.

    Raises:
        DataError: naming the row that asks nothing, or that the chat template does not take.
    """
    settings = _TaskSettings(coder(tokenizer), source, chat_template_kwargs)
    made = joined(Prepared([], Counts(), source, 0, len(rows)), rows, settings.prepare, workers, watch)
    made.max_length = made.counts.longest
    return made


@dataclass(frozen=True)
class _TaskSettings:
    coder: Coder
    source: str
    kwargs: Mapping[str, Any] | None

    def prepare(self, rows: Sequence[Mapping[str, Any]], start: int) -> Prepared:
        """Consecutive rows of the source, of which the first is number `start`, from 0."""
        tokenizer = self.coder.tokenizer
        made, texts = [], []
        for number, row in enumerate(rows, start=start):
            where = f"{self.source}: row {number + 1}"
            chat = question(row, where)
            prompt = chat if tokenizer.chat_template is not None else "\n\n".join(text_of(t["content"]) for t in chat)
            made.append({**{k: v for k, v in row.items() if k not in ANSWERS}, "prompt": prompt, "row_id": number})
            texts.append(prompt_text(tokenizer, made[-1], where, plain=isinstance(prompt, str), kwargs=self.kwargs))
        with self.coder.expecting(text for text, _ in texts):
            prompts = [self.coder.prompt(*text) for text in texts]
        longest = max(map(len, prompts), default=0)
        counts = Counts(rows=len(rows), kept=len(rows), tokens=sum(map(len, prompts)), longest=longest)
        return Prepared(made, counts, self.source, longest, prompts=prompts)


def task_ids(
    tokenizer: PreTrainedTokenizerBase,
    task: Mapping[str, Any],
    where: str,
    chat_template_kwargs: Mapping[str, Any] | None = None,
) -> list[int]:
    """The ids of a task as a prompt of the model."""
    return prompt_ids(tokenizer, task, where, plain=isinstance(task["prompt"], str), kwargs=chat_template_kwargs)
