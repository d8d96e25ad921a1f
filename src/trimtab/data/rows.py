"""Rows of text become token ids and labels, with a count of everything that is lost on the way.

Formats are TRL's: `text`; `messages`; `prompt` + `completion`, both strings or both lists of messages;
preferences, `chosen` + `rejected` with or without a `prompt` of their own; answers with a `label` that says whether
they are right; and stepwise rows, `prompt` + `completions` + `labels`, the steps of one answer, which newlines join.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any, Literal

from trimtab.common.csv_text import as_number
from trimtab.core.batch import IGNORE
from trimtab.data.chat import (
    CLOSED,
    THOUGHT,
    Chat,
    Message,
    Turn,
    behind,
    is_answer,
    is_said,
    kwargs_of,
    messages_of,
    text_of,
    tools_of,
)
from trimtab.data.sources import DataError
from trimtab.data.tokens import Coded, Coder, coder
from trimtab.data.workers import in_order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REJECTED = "rejected_"
"""Before the keys of a pair's second sequence."""
RATING = "rating"
"""The column of a prepared stepwise row."""
STEP_SEPARATOR = "\n"
"""Between two steps of an answer, as in TRL."""
Piece = tuple[str, bool]
"""A stretch of text, and whether it is part of an answer."""
Turns = Literal["auto", "all", "last", "each"]
"""Which turns of the assistant are learnt, and whether in one row: see `prepare`."""
STRETCH = 256
"""rows that are tokenised together"""
Watch = Callable[[Iterator[tuple[int, "Prepared"]], int], Iterator[tuple[int, "Prepared"]]]
"""watch(parts with the number of rows of each, all rows) -> parts"""
REMARKS = {
    "split": "with a conversation that became a row for each turn of the assistant, because the chat template or the "
    "tokenizer writes earlier turns otherwise than the model wrote them (data.turns)",
    "rewritten": "with earlier turns as the chat template writes them in the end, not as the model wrote them",
    "calls": "with a call of a tool of which the chat template writes nothing; that turn is not learnt",
    "texts": "with a text that the chat template does not write as it is",
    "thoughts": "with a thought of which the chat template writes nothing; it is not learnt",
    "emptied": "with an answer without a thought where the template's prompt opens one; an empty thought is learnt",
    "switched": "with a thought where the template's prompt leaves no place for one, or the reverse; learnt behind the "
    "prompt that the template writes with thinking switched",
    "seam": "with a prompt whose end the tokenizer would join with the beginning of the answer; both keep the tokens "
    "that they have when the model is asked",
    "marks": "with a begin or end token already in the text; it stands there once",
    "headless": "with answers that begin with their own header, because the chat template has no generation prompt",
}
"""What a user should hear of rows that are kept: key -> words behind "3 rows"."""
PLAIN = (
    "with a prompt and a completion that are plain texts: they stand behind each other without the model's chat "
    "template; data.chat=true makes them what a user says and what the assistant answers"
)
NO_END = "with an answer that ends without an end token; the model does not learn to stop there"


@dataclass
class Counts:
    """What became of the rows of one source. Every row is in exactly one of kept, dropped, empty and identical."""

    rows: int = 0
    kept: int = 0
    truncated: int = 0
    """kept, but the end of the answer is cut off"""
    dropped: int = 0
    """the prompt alone fills the limit, so no answer token would be left"""
    empty: int = 0
    """there is no answer to learn from"""
    identical: int = 0
    """pairs whose two answers are the same, after truncation"""
    tokens: int = 0
    answer_tokens: int = 0
    no_end: int = 0
    """answers whose last token is not an end token, though not truncated"""
    longest: int = 0
    plain: int = 0
    """rows of the source whose prompt and completion stay texts though the model has a chat template"""
    first_plain: int = 0
    """the first of them, from 1"""
    first: dict[str, int] = field(default_factory=dict)
    """the first row (from 1) that was truncated, dropped or empty, or that a remark is about"""
    remarks: dict[str, int] = field(default_factory=dict)
    """rows of the source of which something in REMARKS is to be said"""

    def add(self, other: Counts) -> None:
        """Count the rows that come next."""
        for name, value in vars(other).items():
            if name == "longest":
                self.longest = max(self.longest, value)
            elif name == "first_plain":
                self.first_plain = self.first_plain or value
            elif isinstance(value, int):
                setattr(self, name, getattr(self, name) + value)
        for what, number in other.remarks.items():
            self.remarks[what] = self.remarks.get(what, 0) + number
        for what, row in other.first.items():
            self.first.setdefault(what, row)

    def lost(self) -> int:
        return self.truncated + self.dropped + self.empty + self.identical

    def _meet(self, what: str, index: int) -> None:
        setattr(self, what, getattr(self, what) + 1)
        self.first.setdefault(what, index + 1)


@dataclass
class Prepared:
    """Rows as a model takes them."""

    rows: list[dict[str, Any]]
    """each with `input_ids`, `labels` (-100 outside answers) and `row_id`, the row's index in its source; pairs also
    with `rejected_input_ids` and `rejected_labels`; then the columns asked for (of pairs also `rejected_COLUMN`), one
    number for each answer token"""
    counts: Counts
    source: str
    max_length: int
    sources: int = 0
    """rows of the source; the n-th turn of row i has the `row_id` i + n * sources"""
    limited_by: str = "training.max_length"
    """what `max_length` comes from"""
    prompts: list[list[int]] = field(default_factory=list)
    """of tasks: the ids with which the model is asked each"""

    def number(self, row: Mapping[str, Any]) -> int:
        """Which row of the source, from 1, a prepared row comes from; a conversation may have become several."""
        return row["row_id"] % self.sources + 1

    def notes(self) -> list[str]:
        """What is to be said of the rows, one sentence each."""
        counts = self.counts
        found = [(what, n, REMARKS[what]) for what, n in counts.remarks.items()]
        if counts.no_end:
            found.append(("no_end", counts.no_end, NO_END))
        said = [(n, words, counts.first[what]) for what, n, words in found]
        if counts.plain:
            said.insert(0, (counts.plain, PLAIN, counts.first_plain))
        return [
            f"{self.source}: {n} {'row' if n == 1 else 'rows'} {words} (first: row {first})" for n, words, first in said
        ]


def prepare(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    source: str = "rows",
    end_ids: Iterable[int] = (),
    pairs: bool = False,
    columns: Sequence[str] = (),
    outcomes: bool = False,
    steps: bool = False,
    turns: Turns = "auto",
    chat: bool = False,
    workers: int = 1,
    watch: Watch | None = None,
) -> Prepared:
    """Tokenise rows and mark the answer tokens.

    A prompt has the ids with which the model is asked; an answer keeps its end token as a label, and what a chat
    template writes after that end token is no answer. A row that is too long loses the end of its answer; one whose
    prompt alone is too long is dropped.

    Args:
        rows: in one of TRL's formats; messages may have several turns of the assistant.
        tokenizer: with a chat template where rows hold messages.
        max_length: tokens a row may have.
        source: for messages.
        end_ids: further ids that end an answer, besides the tokenizer's end token.
        pairs: keep both answers of preferences; otherwise the chosen one is the answer.
        columns: of the rows, each a list with one number for each answer token, before anything is cut off; null
            where the token is cut off anyway.
        outcomes: keep each row's `label` as `outcome`, 1.0 or 0.0.
        steps: rows are stepwise; keep as `rating` one number for each answer token: at the last token of a step 1.0
            or -1.0 by its label (or the label itself, if it is -1, 0 or 1), elsewhere NaN.
        turns: of conversations. `auto` learns all turns of the assistant, in one row where the conversation holds each
            as the model meets it when it is asked, else in one row for each; `each` makes one row for each anyway;
            `last` learns the last one alone; `all` keeps one row, with earlier turns as the template writes them in
            the end. The two answers of a pair are one row each always.
        chat: prompts and completions that are texts are what a user says and what the assistant answers; where the
            tokenizer has no chat template they stay texts.
        workers: processes among which the rows are divided; what comes out is the same.
        watch: is given the parts as they are made and the number of rows, and gives the parts on; for progress.

    Raises:
        DataError: if a row has no known format, the chat template does not take it, a column does not fit its
            answer, or a label is missing or none of those.
    """
    how = _How(
        coder(tokenizer), _ends_of_text(tokenizer, end_ids), source, max_length, len(rows), pairs, tuple(columns),
        outcomes, steps, turns, chat,
    )  # fmt: skip
    prepared = Prepared([], Counts(), source, max_length, len(rows))
    for _, part in (watch or (lambda parts, number: parts))(_parts(rows, how, workers), len(rows)):
        prepared.rows += part.rows
        prepared.counts.add(part.counts)
    return prepared


def _parts(rows: Sequence[Mapping[str, Any]], how: _How, workers: int) -> Iterator[tuple[int, Prepared]]:
    """Stretches of the rows, prepared, in their order; with the number of rows of each."""
    starts = range(0, len(rows), STRETCH)
    jobs = ((rows[start : start + STRETCH], start) for start in starts)
    sizes = (min(STRETCH, len(rows) - start) for start in starts)
    return zip(sizes, in_order(how.prepare, jobs, min(workers, len(starts))))


def _ends_of_text(tokenizer: PreTrainedTokenizerBase, end_ids: Iterable[int]) -> set[int]:
    own: Any = tokenizer.eos_token_id
    return {*end_ids, *([] if own is None else [int(own)])}


@dataclass(frozen=True)
class _How:
    """How rows are read: the arguments of `prepare`."""

    coder: Coder
    ends: set[int]
    source: str
    max_length: int
    total: int
    """rows of the source"""
    pairs: bool
    columns: tuple[str, ...]
    outcomes: bool
    steps: bool
    turns: Turns
    chat: bool

    def prepare(self, rows: Sequence[Mapping[str, Any]], start: int) -> Prepared:
        """Consecutive rows of the source, of which the first is number `start`, from 0.

        Raises:
            DataError: see `trimtab.data.rows.prepare`.
        """
        prepared = Prepared([], Counts(), self.source, self.max_length, self.total)
        found, failed = [], None
        for number, row in enumerate(rows, start=start + 1):
            try:
                found.append(self._read(row, f"{self.source}: row {number}"))
            except DataError as error:  # what is wrong with an earlier row is said first
                failed = error
                break
        with self.coder.expecting(text for _, _, read in found for text in read.texts):
            for index, (row, (whole, reader, read)) in enumerate(zip(rows, found), start=start):
                self._keep(prepared, index, row, whole, reader, read.code())
        if failed is not None:
            raise failed
        return prepared

    def _read(self, row: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], _Reader, _Read]:
        """The row with its steps joined, and what is to be tokenised of it."""
        if self.pairs and not {"chosen", "rejected"} <= row.keys():
            raise DataError(f"{where} has the columns {', '.join(map(str, row))}; expected chosen and rejected answers")
        if self.outcomes:
            outcome(row, where)
        whole = stepwise(row, where) if self.steps else row
        reader = _Reader(self.coder, self.ends, where, chat=self.chat)
        if self.pairs:
            return whole, reader, reader.pair([one_side(whole, side, where) for side in ("chosen", "rejected")])
        return whole, reader, reader.read(one_side(whole, "chosen", where), self.turns)

    def _keep(
        self,
        prepared: Prepared,
        index: int,
        row: Mapping[str, Any],
        whole: Mapping[str, Any],
        reader: _Reader,
        sequences: list[_Sequence],
    ) -> None:
        """Add one row to the prepared ones, or several."""
        found = [sequences] if self.pairs else [[one] for one in sequences]
        prepared.counts.rows += len(found)
        if reader.stays_plain:
            prepared.counts.plain += 1
            prepared.counts.first_plain = prepared.counts.first_plain or index + 1
        for what in reader.remarks:
            prepared.counts.remarks[what] = prepared.counts.remarks.get(what, 0) + 1
            prepared.counts.first.setdefault(what, index + 1)
        for number, tokens in enumerate(found):
            row_id = index + number * self.total
            _keep(prepared, row_id, index, [(one.ids, one.labels) for one in tokens], self.ends)
            if prepared.rows and prepared.rows[-1]["row_id"] == row_id:
                self._add_columns(prepared.rows[-1], row, whole, found, number, reader.where)

    def _add_columns(
        self,
        last: dict[str, Any],
        row: Mapping[str, Any],
        whole: Mapping[str, Any],
        found: Sequence[Sequence[_Sequence]],
        number: int,
        where: str,
    ) -> None:
        """What a row says of its answer besides the tokens, cut like them."""
        if self.outcomes:
            last["outcome"] = outcome(row, where)
        if self.steps:
            offsets = _offsets(whole, [unit[0] for unit in found], where)
            last[RATING] = _ratings(row, offsets, where)[: sum(label != IGNORE for label in last["labels"])]
        for prefix, side in zip(prefixes(last), range(2)):
            for name in self.columns:
                values = _column(row, prefix + name, [unit[side] for unit in found], where)[number]
                last[prefix + name] = _kept(values, last[f"{prefix}labels"], prefix + name, where)


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
    return {**_for_the_template(row), "prompt": row["prompt"], "completion": completion}


def step_ends(steps: Sequence[str]) -> list[int]:
    """Where each step ends in the text of the answer, as an offset in characters."""
    ends, at = [], 0
    for step in steps:
        ends.append(at + len(step))
        at += len(step) + len(STEP_SEPARATOR)
    return ends


def answer_offsets(
    row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, where: str, end_ids: Iterable[int] = ()
) -> list[tuple[int, int]]:
    """Which characters of the answer each answer token stands for, as offsets [start, end).

    Tokens outside the answer's own text, such as its end token, get an empty range at its end; what a chat template
    writes before it, one at 0.

    Args:
        row: with one answer.
        end_ids: as of `prepare`.

    Raises:
        DataError: if the row has several answers, the chat template changes the answer's text, or the tokenizer
            cannot tell offsets.
    """
    own: Any = tokenizer.eos_token_id
    ends = {*end_ids, *([] if own is None else [int(own)])}
    return _offsets(row, _Reader(coder(tokenizer), ends, where).sequences(row, "each"), where)


def _offsets(row: Mapping[str, Any], found: Sequence[_Sequence], where: str) -> list[tuple[int, int]]:
    """See `answer_offsets`; of the sequences that a row was read as."""
    if len(found) != 1 or not found[0].answers:
        number = len(found) if found[0].answers else 0
        raise DataError(f"{where} has {number} answers, expected one")
    one = found[0]
    if one.spans is None:
        raise DataError(f"{where}: steps are found by character offsets, which only fast tokenizers tell")
    last = row["messages"] if "messages" in row else row["completion"]
    answer = last if isinstance(last, str) else text_of(last[-1]["content"])
    # where the prompt has opened a thought, the answer goes on behind that; a template may leave the thought out
    opened = re.sub(r"^\s*<think>", "", answer)
    texts = [text for text in (answer, opened, answer.rpartition("</think>")[2]) if text.strip()]
    start = next(
        (at - answer.rfind(text.strip()) for text in texts if (at := one.text.find(text.strip(), one.start)) >= 0), None
    )
    if start is None:
        raise DataError(f"{where}: the chat template changes the text of the answer, so its steps cannot be found")
    spans = [span for span, label in zip(one.spans, one.labels) if label != IGNORE]
    return [(min(max(begin - start, 0), len(answer)), min(max(end - start, 0), len(answer))) for begin, end in spans]


def last_tokens(offsets: Sequence[tuple[int, int]], ends: Sequence[int]) -> list[int]:
    """The index of the last answer token that begins before each of the offsets `ends` and is not empty."""
    begins = [(i, begin) for i, (begin, end) in enumerate(offsets) if end > begin]
    return [max((i for i, begin in begins if begin < at), default=-1) for at in ends]


def prefixes(row: Mapping[str, Any]) -> tuple[str, ...]:
    """What stands before the keys of a prepared row's sequences: one, or of a pair the chosen and the rejected one."""
    return ("", REJECTED) if f"{REJECTED}input_ids" in row else ("",)


def sequences(row: Mapping[str, Any]) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of the sequences of a prepared row."""
    return [(row[f"{prefix}input_ids"], row[f"{prefix}labels"]) for prefix in prefixes(row)]


def check_losses(prepared: Prepared, max_dropped: float) -> None:
    """Refuse data of which more than a share is lost.

    Raises:
        DataError: if no row is left, or the share of truncated, dropped and empty rows exceeds `max_dropped`.
    """
    counts = prepared.counts
    what = {
        "truncated": f"{counts.truncated} truncated",
        "dropped": f"{counts.dropped} dropped because the prompt alone fills the limit",
        "empty": f"{counts.empty} without an answer",
        "identical": f"{counts.identical} with two answers that are the same",
    }
    found = "; ".join(
        f"{said} (first: row {counts.first[name]})" for name, said in what.items() if name in counts.first
    )
    if not counts.kept:
        raise DataError(
            f"{prepared.source}: no row is left of {counts.rows}: {found} (limit: {prepared.max_length} tokens, by "
            f"{prepared.limited_by})"
        )
    if counts.lost() > max_dropped * counts.rows:
        raise_it = "raise training.max_length " if prepared.limited_by == "training.max_length" else ""
        raise DataError(
            f"{prepared.source}: {counts.lost()} of {counts.rows} rows would be lost: {found} (limit: "
            f"{prepared.max_length} tokens, by {prepared.limited_by}); mend the rows, {raise_it}or allow it with "
            f"data.max_dropped={counts.lost() / counts.rows + 0.005:.2f}"
        )


def _keep(
    prepared: Prepared,
    row_id: int,
    index: int,
    sides: Sequence[tuple[list[int], list[int]]],
    ends: set[int],
) -> None:
    """Cut one row's sequences (one, or chosen and rejected) to the limit and count what became of it."""
    counts, limit = prepared.counts, prepared.max_length
    answers = [[i for i, label in enumerate(labels) if label != IGNORE and i > 0] for _, labels in sides]
    if not all(answers):  # nothing predicts the first token
        return counts._meet("empty", index)
    if any(answer[0] >= limit for answer in answers):
        return counts._meet("dropped", index)
    cut = []
    for answer, (ids, labels) in zip(answers, sides):
        stop = min(answer[-1] + 1, limit)  # what follows the last answer token teaches nothing
        cut.append((ids[:stop], [IGNORE, *labels[1:stop]]))
    if len(cut) == 2 and cut[0] == cut[1]:
        return counts._meet("identical", index)
    if any(answer[-1] >= limit for answer in answers):
        counts._meet("truncated", index)
    elif any(ids[answer[-1]] not in ends for answer, (ids, _) in zip(answers, sides)):
        counts._meet("no_end", index)
    row: dict[str, Any] = {"row_id": row_id}
    for prefix, (ids, labels) in zip(("", REJECTED), cut):
        row |= {f"{prefix}input_ids": ids, f"{prefix}labels": labels}
        counts.tokens += len(ids)
        counts.answer_tokens += sum(label != IGNORE for label in labels)
        counts.longest = max(counts.longest, len(ids))
    prepared.rows.append(row)
    counts.kept += 1
    return None


def one_side(row: Mapping[str, Any], side: str, where: str) -> Mapping[str, Any]:
    """A row of preferences as prompt and completion, with the answer of one side; other rows as they are.

    Args:
        side: chosen or rejected.

    Raises:
        DataError: if there is no prompt, or it is not clear which.
    """
    if side not in row:
        return row
    kept, other = _for_the_template(row), "rejected" if side == "chosen" else "chosen"
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
        name: messages_of(_as_messages(row[name], "assistant"), name, where)
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


def _for_the_template(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a row holds for the chat template besides messages."""
    return {key: row[key] for key in ("tools", "chat_template_kwargs") if key in row}


def outcome(row: Mapping[str, Any], where: str) -> float:
    """A row's `label`: 1.0 for a right answer, 0.0 for a wrong one; CSV has them as words.

    Raises:
        DataError: if there is none, or another one.
    """
    label = row.get("label")
    value = as_number(label)
    if isinstance(value, str) or value not in (0, 1):  # True and False are
        found = "no label" if label in (None, "") else f"the label {label!r}"
        raise DataError(f"{where} has {found}; expected 1 or true for a right answer, 0 or false for a wrong one")
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


def _ratings(row: Mapping[str, Any], offsets: Sequence[tuple[int, int]], where: str) -> list[float]:
    ratings = [math.nan] * len(offsets)
    for at, label in zip(last_tokens(offsets, step_ends(row["completions"])), step_labels(row, where)):
        if at >= 0:
            ratings[at] = label
    return ratings


def _column(row: Mapping[str, Any], column: str, units: Sequence[_Sequence], where: str) -> list[list[float | None]]:
    """One number for each answer token of the row, cut to the sequences that it has become."""
    numbers = [sum(label != IGNORE for label in unit.labels[1:]) for unit in units]
    values, number = row.get(column), sum(numbers)
    if values is None:
        raise DataError(f"{where} has no column {column}")
    if not isinstance(values, list) or len(values) != number:
        found = f"{len(values)} values" if isinstance(values, list) else repr(values)
        raise DataError(
            f"{where}: {column} has {found} for {number} answer tokens; it was made with another tokenizer, template "
            "or row"
        )
    ends = [sum(numbers[: i + 1]) for i in range(len(numbers))]
    return [values[end - n : end] for n, end in zip(numbers, ends)]


def _kept(values: list[float | None], labels: list[int], column: str, where: str) -> list[float]:
    """Those of the answer tokens that are left."""
    kept = values[: sum(label != IGNORE for label in labels)]
    if None in kept:
        raise DataError(
            f"{where}: {column} has no number for answer token {kept.index(None) + 1}; "
            "it was computed with a smaller training.max_length, so lower that or compute it anew"
        )
    return [float(value) for value in kept if value is not None]


# ---------------------------------------------------------------- one row


@dataclass
class _Sequence:
    """A row, or a turn of one, as ids and labels."""

    ids: list[int]
    labels: list[int]
    text: str = ""
    start: int = 0
    """where the first answer begins in the text"""
    spans: list[tuple[int, int]] | None = None

    @property
    def answers(self) -> bool:
        return any(label != IGNORE for label in self.labels)


@dataclass(frozen=True)
class _Read:
    """A row as text."""

    texts: list[str]
    """that are tokenised, as far as it is known before"""
    code: Callable[[], list[_Sequence]]
    """tokenises them; at least one sequence, without an answer where there is none"""


_NOTHING = _Read([], lambda: [_Sequence([], [])])


@dataclass
class _Reader:
    """Reads one row; `remarks` says what there was to remark."""

    coder: Coder
    ends: set[int]
    where: str
    remarks: Counter[str] = field(default_factory=Counter)
    switch: Mapping[str, bool] = field(default_factory=dict)
    """of thinking, for a pair whose other answer needs it"""
    switched: dict[str, bool] = field(default_factory=dict)
    """what was switched for a thought"""
    chat: bool = False
    """texts as prompt and completion are a question and its answer"""
    stays_plain: bool = False
    """the row's texts stay texts though the tokenizer has a chat template"""

    def sequences(self, row: Mapping[str, Any], turns: Turns | Literal["together"]) -> list[_Sequence]:
        """At least one; one without an answer where there is none."""
        return self.read(row, turns).code()

    def read(self, row: Mapping[str, Any], turns: Turns | Literal["together"]) -> _Read:
        """The row as text, to be tokenised. `together` is `auto` that never parts a row."""
        if row.get("messages") is not None:
            messages = messages_of(row["messages"], "messages", self.where)
            return self._chat(row, messages, [m["role"] == "assistant" for m in messages], turns)
        if "prompt" in row and "completion" in row:
            prompt, completion = row["prompt"], row["completion"]
            texts = isinstance(prompt, str) and isinstance(completion, str)
            has_template = self.coder.tokenizer.chat_template is not None
            if texts and completion and has_template and not self.chat:
                self.stays_plain = True
            if isinstance(prompt, list) or isinstance(completion, list) or (texts and has_template and self.chat):
                before = messages_of(_as_messages(prompt, "user"), "prompt", self.where)
                after = messages_of(_as_messages(completion, "assistant"), "completion", self.where)
                answers = [False] * len(before) + [m["role"] == "assistant" for m in after]
                return self._chat(row, [*before, *after], answers, turns)
            if not isinstance(prompt, str) or not isinstance(completion or "", str):
                raise DataError(f"{self.where}: prompt and completion must be two texts or two lists of messages")
            return self._text([(prompt, False), (completion, True)]) if completion else _NOTHING
        if isinstance(row.get("text", 0), str | None):
            return self._text([(row["text"], True)]) if row["text"] else _NOTHING
        raise DataError(
            f"{self.where} has the columns {', '.join(map(str, row)) or 'none'}; "
            "expected text, messages, prompt and completion, or chosen and rejected"
        )

    def pair(self, sides: Sequence[Mapping[str, Any]]) -> _Read:
        """Both answers behind one prompt."""
        reads = [self.read(side, "together") for side in sides]
        return _Read([text for read in reads for text in read.texts], lambda: self._pair(sides, reads))

    def _pair(self, sides: Sequence[Mapping[str, Any]], reads: Sequence[_Read]) -> list[_Sequence]:
        """See `pair`.

        Raises:
            DataError: if the chat template asks for the two in different words.
        """
        found = [read.code()[0] for read in reads]
        if self.switched and _prompt(found[0]) != _prompt(found[1]):  # a thought in one of them
            self.switch = dict(self.switched)
            found = [self.sequences(side, "together")[0] for side in sides]
        if "rewritten" in self.remarks:  # an earlier turn of one of them is not as it was asked
            return found
        if all(one.answers for one in found) and _prompt(found[0]) != _prompt(found[1]):
            raise DataError(
                f"{self.where}: the chat template asks for the chosen and the rejected answer in different words; give "
                "the row as texts"
            )
        return found

    @cached_property
    def marks(self) -> list[str]:
        """The end tokens as texts."""
        return [self.coder.tokenizer.decode([end]) for end in sorted(self.ends & self.coder.added)]

    # ------------------------------------------------------------ plain text

    def _text(self, pieces: list[Piece]) -> _Read:
        before = [pieces[0][0]] if len(pieces) > 1 else []  # the seam is looked at too
        return _Read(["".join(piece for piece, _ in pieces), *before], lambda: [self._plain(pieces)])

    def _plain(self, pieces: list[Piece]) -> _Sequence:
        """Text begins and ends as the tokenizer's texts do, once each."""
        coded = self.coder.pieces(pieces, plain=True)
        if not coded.exact:
            self.remarks["seam"] += 1
        made = self._sequence(coded, pieces)
        end = self.coder.tokenizer.eos_token_id
        found = [i for i, (token, own) in enumerate(zip(made.ids, coded.answer)) if own and token in self.ends]
        last = found[-1] if found else -1
        if self.coder.first and made.spans and made.spans[0] != (0, 0):  # the text itself holds what begins texts
            self.remarks["marks"] += 1
        if last >= 0 and not self.coder.tokenizer.decode(made.ids[last + 1 :]).strip():
            self.remarks["marks"] += 1
            made.labels[last + 1 :] = [IGNORE] * (len(made.ids) - last - 1)
        elif end is not None:
            made.ids.append(int(end))  # type: ignore[arg-type]
            made.labels.append(int(end))  # type: ignore[arg-type]
            if made.spans is not None:
                made.spans.append((len(made.text), len(made.text)))
        return made

    def _sequence(self, coded: Coded, pieces: Sequence[Piece]) -> _Sequence:
        labels = [token if own else IGNORE for token, own in zip(coded.ids, coded.answer)]
        text = "".join(piece for piece, _ in pieces)
        start = len(pieces[0][0]) if not pieces[0][1] else 0
        return _Sequence(list(coded.ids), labels, text, start, coded.spans)

    # ------------------------------------------------------------ conversations

    def _chat(
        self,
        row: Mapping[str, Any],
        messages: list[Message],
        answers: Sequence[bool],
        turns: Turns | Literal["together"],
    ) -> _Read:
        tokenizer = self.coder.tokenizer
        if tokenizer.chat_template is None:
            raise DataError(
                f"{self.where} holds messages, but the tokenizer has no chat template; use prompt and completion texts"
            )
        picked = [i for i, (message, learnt) in enumerate(zip(messages, answers)) if learnt and is_answer(message)]
        if turns == "last":
            picked = picked[-1:]
        if not picked:
            return _NOTHING
        kwargs = {**kwargs_of(row, self.where), **self.switch}
        chat = Chat(tokenizer, self._unmarked(messages), self.where, tools_of(row, self.where), kwargs).fitted()
        if not all(is_said(m, chat.render()) for m in chat.messages if m["role"] != "assistant"):
            self.remarks["texts"] += 1
        found = {}
        for i in picked:
            chat.remarks = Counter()
            turn = chat.turn(i)
            missing = chat.unwritten(i, turn.answer)
            self.remarks.update(missing)
            before, content, _ = turn.answer.partition(text_of(chat.messages[i]["content"]).strip() or "\0")
            if content and before.strip() and "add_generation_prompt" not in str(tokenizer.chat_template):
                self.remarks["headless"] += 1
            if "calls" not in missing:
                found[i] = self._ended(chat, i, turn)
                self.remarks.update(chat.remarks)
                self.switched |= turn.switch
        if not found:
            return _NOTHING
        if turns == "each" or len(found) == 1:
            return self._apart(found)
        pieces = self._in_turn(list(found.values()))
        whole = ["".join(piece for piece, _ in pieces)] if pieces else []
        return _Read(whole, lambda: self._in_one(chat, found, turns))

    def _apart(self, found: Mapping[int, Turn]) -> _Read:
        """A sequence for each turn."""
        texts = [turn.prompt + turn.answer for turn in found.values()]
        return _Read(texts, lambda: [self._turn(turn) for turn in found.values()])

    def _in_one(self, chat: Chat, found: Mapping[int, Turn], turns: Turns | Literal["together"]) -> list[_Sequence]:
        """All turns in one sequence, where it can hold them."""
        if together := self._together(chat, found, turns):
            return [together]
        self.remarks["split"] += 1
        return self._apart(found).code()

    def _ended(self, chat: Chat, i: int, turn: Turn) -> Turn:
        """The turn up to its end token; some templates end an answer with what begins the next message."""
        end = min(_ends_of(turn.answer, self.marks, chat.end_of(i, turn.answer)), default=None)
        if end is None and (next_one := chat.following(i)):
            begun = next((mark for mark in self.marks if next_one.startswith(mark)), "")
            return Turn(turn.prompt, turn.answer + begun)
        return Turn(turn.prompt, turn.answer[:end])

    def _unmarked(self, messages: list[Message]) -> list[Message]:
        """Without the end token that an answer of the row may hold already: the template writes it."""
        marks = tuple(self.marks)
        made = []
        for message in messages:
            content = message.get("content")
            if message["role"] == "assistant" and isinstance(content, str) and content.rstrip().endswith(marks):
                self.remarks["marks"] += 1
                mark = next(mark for mark in marks if content.rstrip().endswith(mark))
                message = {**message, "content": content.rstrip().removesuffix(mark)}
            made.append(message)
        return made

    def _turn(self, turn: Turn) -> _Sequence:
        pieces = [(turn.prompt, False), (turn.answer, True)]
        coded = self.coder.pieces(pieces, plain=False)
        if not coded.exact:
            self.remarks["seam"] += 1
        return self._until_end(self._sequence(coded, pieces))

    def _together(self, chat: Chat, found: Mapping[int, Turn], turns: Turns | Literal["together"]) -> _Sequence | None:
        """All turns in one sequence, if it can hold them as the model meets them, or has to."""
        pieces = self._in_turn(list(found.values()))
        coded = self.coder.pieces(pieces, plain=False) if pieces else None
        if turns == "auto" and (coded is None or not coded.exact):
            return None
        if pieces is None or coded is None:
            self.remarks["rewritten"] += 1
            pieces = self._in_the_end(chat, found)
            coded = self.coder.pieces(pieces, plain=False)
        if not coded.exact:
            self.remarks["seam"] += 1
        return self._until_end(self._sequence(coded, pieces))

    def _in_turn(self, found: Sequence[Turn]) -> list[Piece] | None:
        """Prompts and answers in turn, where each prompt begins with all that was before it."""
        pieces: list[Piece] = []
        done = ""
        for turn in found:
            if not turn.prompt.startswith(done):
                return None
            pieces += [(turn.prompt[len(done) :], False), (turn.answer, True)]
            done = turn.prompt + turn.answer
        return pieces

    def _in_the_end(self, chat: Chat, found: Mapping[int, Turn]) -> list[Piece]:
        """The last turn as the model meets it, and those before as they stand in its prompt."""
        *earlier, last = found
        text = found[last].prompt
        pieces: list[Piece] = []
        done = 0
        for i in earlier:
            said = text_of(chat.messages[i].get("content")).rpartition("</think>")[2].strip()
            prompt = found[i].prompt
            opened = THOUGHT.search(prompt) or CLOSED.search(prompt)
            prompt = prompt[: opened.start()] if opened else prompt
            start = len(prompt) if text.startswith(prompt) else behind(prompt, text, begin=done)
            at = text.find(said, start) if start is not None and said else -1
            ends = _ends_of(text, self.marks, max(at, start or 0) + len(said) * (at >= 0))
            if start is None or start < done or (at < 0 and not ends):
                raise DataError(
                    f"{self.where}: the chat template leaves nothing of message {i + 1} in the whole conversation, so "
                    "its turns cannot be learnt in one row; use data.turns: auto"
                )
            end = min(ends, default=at + len(said))
            pieces += [(text[done:start], False), (text[start:end], True)]
            done = end
        return [*pieces, (text[done:], False), (found[last].answer, True)]

    def _until_end(self, made: _Sequence) -> _Sequence:
        """What a template writes behind the end token of an answer is none."""
        at = 0
        for learnt, run in groupby(made.labels, key=lambda label: label != IGNORE):
            size = len(list(run))
            last = max((i for i in range(at, at + size) if made.ids[i] in self.ends), default=-1)
            if learnt and last >= 0:
                made.labels[last + 1 : at + size] = [IGNORE] * (at + size - last - 1)
            at += size
        return made


def _prompt(one: _Sequence) -> str:
    return one.text[: one.start]


def _as_messages(value: Any, role: str) -> Any:
    """A text beside messages is one of them."""
    return [{"role": role, "content": value}] if isinstance(value, str) else value


def _ends_of(text: str, marks: Sequence[str], start: int = 0) -> list[int]:
    """Behind each of the marks that stands in the text from `start` on."""
    return [place + len(mark) for mark in marks if (place := text.find(mark, start)) >= 0]
