"""Rows of text become token ids and labels, with a count of everything that is lost on the way.

Formats are TRL's: `text`; `messages`; `prompt` + `completion`, both strings or both lists of messages; and
preferences, `chosen` + `rejected` with or without a `prompt` of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError

from trimtab.core.batch import IGNORE
from trimtab.data.sources import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REJECTED = "rejected_"
"""Before the keys of a pair's second sequence."""
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

    Raises:
        DataError: if a row has no known format, a chat template rewrites earlier turns, or a column does not
            fit its answer.
    """
    ends = {*end_ids, int(tokenizer.eos_token_id)} if tokenizer.eos_token_id is not None else set(end_ids)  # type: ignore[arg-type]
    prepared = Prepared([], Counts(rows=len(rows)), source, max_length)
    for index, row in enumerate(rows):
        where = f"{source}: row {index + 1}"
        if pairs and not {"chosen", "rejected"} <= row.keys():
            raise DataError(f"{where} has the columns {', '.join(map(str, row))}; expected chosen and rejected answers")
        sides = [_side(row, side, where) for side in (("chosen", "rejected") if pairs else ("chosen",))]
        tokens = [_tokens(_pieces(side, tokenizer, where), tokenizer, ends, chat=_is_chat(side)) for side in sides]
        _keep(prepared, index, tokens, ends)
        if columns and prepared.rows and prepared.rows[-1]["row_id"] == index:
            for prefix, (_, labels) in zip(prefixes(prepared.rows[-1]), tokens):
                for name in columns:
                    prepared.rows[-1][prefix + name] = _column(row, prefix, name, labels, prepared)
    return prepared


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


def _side(row: Mapping[str, Any], side: str, where: str) -> Mapping[str, Any]:
    """A row of preferences as prompt and completion, with the answer of one side; other rows as they are."""
    if side not in row:
        return row
    answer, kept = row[side], {key: row[key] for key in ("tools", "chat_template_kwargs") if key in row}
    if isinstance(answer, list) and not isinstance(row.get("prompt"), list):  # the messages hold the prompt
        return {**kept, "prompt": answer[:-1], "completion": answer[-1:]}
    if "prompt" not in row:
        raise DataError(f"{where} has {side} and no prompt; texts need one, only messages may hold it themselves")
    return {**kept, "prompt": row["prompt"], "completion": answer}


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
