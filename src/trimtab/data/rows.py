"""Rows of text become token ids and labels, with a count of everything that is lost on the way.

Formats are TRL's: `text`; `messages`; `prompt` + `completion`, both strings or both lists of messages;
preferences, `chosen` + `rejected` with or without a `prompt` of their own; answers with a `label` that says whether
they are right; and stepwise rows, `prompt` + `completions` + `labels`, the steps of one answer, which newlines join.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from trimtab.core.batch import IGNORE
from trimtab.data.files import as_number
from trimtab.data.sources import DataError

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
    first: dict[str, int] = field(default_factory=dict)
    """the first row (from 1) that was truncated, dropped or empty"""

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
) -> Prepared:
    """Tokenise rows and mark the answer tokens.

    The prompt is tokenised on its own, exactly as it will be when the model is asked; an answer keeps
    its end token as a label, and what a chat template writes after that end token is no answer. A row
    that is too long loses the end of its answer; one whose prompt alone is too long is dropped.

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

    Raises:
        DataError: if a row has no known format, a chat template rewrites earlier turns, a column does not fit its
            answer, or a label is missing or none of those.
    """
    ends = {*end_ids, int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set(end_ids)  # type: ignore[arg-type]
    prepared = Prepared([], Counts(rows=len(rows)), source, max_length)
    for index, row in enumerate(rows):
        where = f"{source}: row {index + 1}"
        if pairs and not {"chosen", "rejected"} <= row.keys():
            raise DataError(f"{where} has the columns {', '.join(map(str, row))}; expected chosen and rejected answers")
        right = outcome(row, where) if outcomes else None
        whole = stepwise(row, where) if steps else row
        sides = [one_side(whole, side, where) for side in (("chosen", "rejected") if pairs else ("chosen",))]
        tokens = [_tokens(_pieces(side, tokenizer, where), tokenizer, ends, chat=_is_chat(side)) for side in sides]
        _keep(prepared, index, tokens, ends)
        if not prepared.rows or prepared.rows[-1]["row_id"] != index:
            continue
        if right is not None:
            prepared.rows[-1]["outcome"] = right
        if steps:
            offsets = answer_offsets(whole, tokenizer, where, end_ids)
            kept = sum(label != IGNORE for label in prepared.rows[-1]["labels"])
            prepared.rows[-1][RATING] = _ratings(row, offsets, where)[:kept]
        if columns:
            for prefix, (_, labels) in zip(prefixes(prepared.rows[-1]), tokens):
                for name in columns:
                    prepared.rows[-1][prefix + name] = _column(row, prefix, name, labels, prepared)
    return prepared


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
    pieces, chat = _pieces(row, tokenizer, where), _is_chat(row)
    answers = [text for text, is_answer in pieces if is_answer]
    if len(answers) != 1:
        raise DataError(f"{where} has {len(answers)} answers, expected one")
    if not tokenizer.is_fast:
        raise DataError(f"{where}: steps are found by character offsets, which only fast tokenizers tell")
    last = row["messages"][-1]["content"] if "messages" in row else row["completion"]
    answer = last if isinstance(last, str) else last[-1]["content"]
    start = answers[0].find(answer.strip())
    if start < 0:
        raise DataError(f"{where}: the chat template changes the text of the answer, so its steps cannot be found")
    start -= len(answer) - len(answer.lstrip())
    coded = tokenizer(answers[0], add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(coded["input_ids"]), list(coded["offset_mapping"])
    ends = [*end_ids, tokenizer.eos_token_id]
    if chat and (found := [i for i, token in enumerate(ids) if token in ends]):
        offsets = offsets[: found[-1] + 1]
    return [(min(max(begin - start, 0), len(answer)), min(max(end - start, 0), len(answer))) for begin, end in offsets]


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


def check_losses(prepared: Prepared, max_lost: float) -> None:
    """Refuse data of which more than a share is lost.

    Raises:
        DataError: if no row is left, or the share of truncated, dropped and empty rows exceeds `max_lost`.
    """
    counts = prepared.counts
    what = {
        "truncated": f"{counts.truncated} truncated",
        "dropped": f"{counts.dropped} dropped because the prompt alone fills the limit",
        "empty": f"{counts.empty} without an answer",
        "identical": f"{counts.identical} with two answers that are the same",
    }
    found = "; ".join(f"{what[name]} (first: row {row})" for name, row in counts.first.items())
    if not counts.kept:
        raise DataError(
            f"{prepared.source}: no row is left of {counts.rows}: {found} (limit: {prepared.max_length} tokens)"
        )
    if counts.lost() > max_lost * counts.rows:
        raise DataError(
            f"{prepared.source}: {counts.lost()} of {counts.rows} rows would be lost: {found} (limit: "
            f"{prepared.max_length} tokens); mend the rows, raise training.max_length or allow it with data.max_lost="
            f"{counts.lost() / counts.rows + 0.005:.2f}"
        )


def _keep(
    prepared: Prepared,
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
        counts.no_end += 1
    row: dict[str, Any] = {"row_id": index}
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
        DataError: if there is no prompt.
    """
    if side not in row:
        return row
    answer, kept = row[side], _for_the_template(row)
    if isinstance(answer, list) and not isinstance(row.get("prompt"), list):  # the messages hold the prompt
        return {**kept, "prompt": answer[:-1], "completion": answer[-1:]}
    if "prompt" not in row:
        raise DataError(f"{where} has {side} and no prompt; texts need one, only messages may hold it themselves")
    return {**kept, "prompt": row["prompt"], "completion": answer}


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


def _column(row: Mapping[str, Any], prefix: str, name: str, labels: list[int], prepared: Prepared) -> list[float]:
    """One number for each answer token that the last prepared row has kept of `labels`."""
    last = prepared.rows[-1]
    where, column = f"{prepared.source}: row {last['row_id'] + 1}", prefix + name
    values, number = row.get(column), sum(label != IGNORE for label in labels[1:])
    if values is None:
        raise DataError(f"{where} has no column {column}")
    if not isinstance(values, list) or len(values) != number:
        found = f"{len(values)} values" if isinstance(values, list) else repr(values)
        raise DataError(
            f"{where}: {column} has {found} for {number} answer tokens; it was made with another tokenizer, template "
            "or row"
        )
    kept = values[: sum(label != IGNORE for label in last[f"{prefix}labels"])]
    if None in kept:
        raise DataError(
            f"{where}: {column} has no number for answer token {kept.index(None) + 1}; "
            "it was computed with a smaller training.max_length, so lower that or compute it anew"
        )
    return [float(value) for value in kept]


def _is_chat(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("messages"), list) or isinstance(row.get("prompt"), list)


def _pieces(row: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase, where: str) -> list[Piece]:
    """The text of a row, cut where answers begin and end."""
    if row.get("messages") is not None:
        messages = _messages(row["messages"], "messages", where)
        return _chat(messages, [m["role"] == "assistant" for m in messages], tokenizer, row, where)
    if "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
        if isinstance(prompt, list) or isinstance(completion, list):
            before, after = _messages(prompt, "prompt", where), _messages(completion, "completion", where)
            answers = [False] * len(before) + [m["role"] == "assistant" for m in after]
            return _chat([*before, *after], answers, tokenizer, row, where)
        if not isinstance(prompt, str) or not isinstance(completion or "", str):
            raise DataError(f"{where}: prompt and completion must be two texts or two lists of messages")
        return [(prompt, False), (completion + (tokenizer.eos_token or ""), True)] if completion else [(prompt, False)]
    if isinstance(row.get("text"), str):
        return [(row["text"] + (tokenizer.eos_token or ""), True)] if row["text"] else []
    raise DataError(
        f"{where} has the columns {', '.join(map(str, row)) or 'none'}; "
        "expected text, messages, prompt and completion, or chosen and rejected"
    )


def _messages(value: Any, column: str, where: str) -> list[dict[str, Any]]:
    good = isinstance(value, list) and all(
        isinstance(m, Mapping) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in value
    )
    if good and not value and column != "completion":
        raise DataError(f"{where}: {column} is an empty list, expected messages")
    if not good:
        raise DataError(f"{where}: {column} must be a list of messages, each with a text under 'role' and 'content'")
    return [dict(m) for m in value]


def _chat(
    messages: list[dict[str, Any]],
    answers: list[bool],
    tokenizer: PreTrainedTokenizerBase,
    row: Mapping[str, Any],
    where: str,
) -> list[Piece]:
    if tokenizer.chat_template is None:
        raise DataError(
            f"{where} holds messages, but the tokenizer has no chat template; use prompt and completion texts"
        )
    kwargs = dict(row.get("chat_template_kwargs") or {})

    def render(upto: int, prompt: bool) -> str:
        try:
            text = tokenizer.apply_chat_template(
                messages[:upto], tokenize=False, add_generation_prompt=prompt, tools=row.get("tools"), **kwargs
            )
        except (TemplateError, TypeError, ValueError) as error:
            raise DataError(f"{where}: the chat template does not take these messages: {error}") from error
        assert isinstance(text, str)
        return text

    pieces: list[Piece] = []
    done = ""
    for i, is_answer in enumerate(answers):
        if not is_answer or not messages[i]["content"].strip():
            continue
        before, after = render(i, prompt=True), render(i + 1, prompt=False)
        if not before.startswith(done) or not after.startswith(before):
            raise DataError(
                f"{where}: the chat template rewrites earlier turns, so the answers of a conversation cannot be told "
                "apart; give one row for each answer, as prompt and completion"
            )
        pieces += [(before[len(done) :], False), (after[len(before) :], True)]
        done = after
    return pieces or [(render(len(messages), prompt=False), False)]


def _tokens(
    pieces: list[Piece], tokenizer: PreTrainedTokenizerBase, ends: set[int], chat: bool
) -> tuple[list[int], list[int]]:
    """Ids and labels. A chat template writes its own special tokens; other text gets the tokenizer's."""
    ids: list[int] = []
    labels: list[int] = []
    for number, (text, is_answer) in enumerate(pieces):
        new: list[int] = tokenizer(text, add_special_tokens=False).input_ids
        if number == 0 and not chat and tokenizer.bos_token_id is not None and _adds_bos(tokenizer):
            new = [int(tokenizer.bos_token_id), *new]  # type: ignore[arg-type]
        learn = len(new)
        if is_answer and chat:
            last = max((i for i, token in enumerate(new) if token in ends), default=None)
            learn = len(new) if last is None else last + 1
        ids += new
        labels += (new[:learn] if is_answer else []) + [IGNORE] * (len(new) - learn if is_answer else len(new))
    return ids, labels


def _adds_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    return tokenizer("a").input_ids[:1] == [tokenizer.bos_token_id]
