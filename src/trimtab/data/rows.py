"""Rows of text become token ids and labels, with a count of everything that is dropped on the way.

Formats are TRL's: `text`; `messages`; `prompt` + `completion`, both strings or both lists of messages;
preferences, `chosen` + `rejected` with or without a `prompt` of their own; answers with a `label` that says whether
they are right; and stepwise rows, `prompt` + `completions` + `labels`, the steps of one answer, which newlines join."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trimtab.core.batch import ATTRIBUTED, IGNORE
from trimtab.data.counts import Counts, Prepared
from trimtab.data.messages import text_of
from trimtab.data.row_formats import one_side, outcome, step_ends, step_labels, stepwise
from trimtab.data.row_reader import RowReader, RowText, RowTokens, Turns
from trimtab.data.sources import DataError
from trimtab.data.tokens import Coder, coder
from trimtab.data.workers import in_order

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REJECTED = "rejected_"
"""Before the keys of a pair's second sequence."""
RATING = "rating"
"""The column of a prepared stepwise row."""
LENGTHS = "lengths"
"""The column of a prepared row of rationales that says how many tokens each of its sequences has."""
STRETCH = 256
"""rows that are tokenised together"""
Watch = Callable[[Iterator[tuple[int, "Prepared"]], int], Iterator[tuple[int, "Prepared"]]]
"""watch(parts with the number of rows of each, all rows) -> parts"""


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
    attributed: bool = False,
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
        attributed: mark in the column `ATTRIBUTED` the tokens of attribution maps, those of the prompt: of texts
            without the tokens that begin and end them, of conversations what messages say and not the template.
        workers: processes among which the rows are divided; what comes out is the same.
        watch: is given the parts as they are made and the number of rows, and gives the parts on; for progress.

    Raises:
        DataError: if a row has no known format, the chat template does not take it, a column does not fit its
            answer, or a label is missing or none of those.
    """
    how = RowSettings(
        coder(tokenizer), ends_of_text(tokenizer, end_ids), source, max_length, len(rows), pairs, tuple(columns),
        outcomes, steps, turns, chat, _unspoken(tokenizer) if attributed else None,
    )  # fmt: skip
    return joined(Prepared([], Counts(), source, max_length, len(rows)), rows, how.prepare, workers, watch)


def joined(
    prepared: Prepared,
    rows: Sequence[Mapping[str, Any]],
    prepare: Callable[[Sequence[Mapping[str, Any]], int], Prepared],
    workers: int,
    watch: Watch | None,
) -> Prepared:
    """`prepared` with the stretches of the rows that `prepare(rows, number of the first)` makes, in their order."""
    starts = range(0, len(rows), STRETCH)
    jobs = ((rows[start : start + STRETCH], start) for start in starts)
    sizes = (min(STRETCH, len(rows) - start) for start in starts)
    parts = zip(sizes, in_order(prepare, jobs, min(workers, len(starts))))
    for _, part in (watch or (lambda parts, number: parts))(parts, len(rows)):
        prepared.rows += part.rows
        prepared.prompts += part.prompts
        prepared.counts.add(part.counts)
    return prepared


def ends_of_text(tokenizer: PreTrainedTokenizerBase, end_ids: Iterable[int]) -> set[int]:
    own: Any = tokenizer.eos_token_id
    return {*end_ids, *([] if own is None else [int(own)])}


@dataclass(frozen=True)
class RowSettings:
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
    unspoken: frozenset[int] | None = None
    """ids that are in no attribution map; None to mark no tokens"""

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
            except DataError as error:  # faults of earlier rows are reported first
                failed = error
                break
        with self.coder.expecting(text for _, _, read in found for text in read.texts):
            for index, (row, (whole, reader, read)) in enumerate(zip(rows, found), start=start):
                self._keep(prepared, index, row, whole, reader, read.code())
        if failed is not None:
            raise failed
        return prepared

    def _read(self, row: Mapping[str, Any], where: str) -> tuple[Mapping[str, Any], RowReader, RowText]:
        """The row with its steps joined, and what is to be tokenised of it."""
        if self.pairs and not {"chosen", "rejected"} <= row.keys():
            raise DataError(f"{where} has the columns {', '.join(map(str, row))}; expected chosen and rejected answers")
        if self.outcomes:
            outcome(row, where)
        whole = stepwise(row, where) if self.steps else row
        reader = RowReader(self.coder, self.ends, where, chat=self.chat, tells_said=self.unspoken is not None)
        if self.pairs:
            return whole, reader, reader.pair([one_side(whole, side, where) for side in ("chosen", "rejected")])
        return whole, reader, reader.read(one_side(whole, "chosen", where), self.turns)

    def _keep(
        self,
        prepared: Prepared,
        index: int,
        row: Mapping[str, Any],
        whole: Mapping[str, Any],
        reader: RowReader,
        sequences: list[RowTokens],
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
                if self.unspoken is not None:
                    prepared.rows[-1][ATTRIBUTED] = _attributed(tokens[0], prepared.rows[-1], self.unspoken)

    def _add_columns(
        self,
        last: dict[str, Any],
        row: Mapping[str, Any],
        whole: Mapping[str, Any],
        found: Sequence[Sequence[RowTokens]],
        number: int,
        where: str,
    ) -> None:
        """What a row says of its answer besides the tokens, cut like them."""
        if self.outcomes:
            last["outcome"] = outcome(row, where)
        if self.steps:
            offsets = offsets_of(whole, [unit[0] for unit in found], where)
            last[RATING] = _ratings(row, offsets, where)[: sum(label != IGNORE for label in last["labels"])]
        for prefix, side in zip(prefixes(last), range(2)):
            for name in self.columns:
                values = _column(row, prefix + name, [unit[side] for unit in found], where)[number]
                last[prefix + name] = _values_of_answer(values, last[f"{prefix}labels"], prefix + name, where)


def _unspoken(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """Special ids, such as those that begin texts and mark turns; an unknown word is none of them."""
    special: Any = tokenizer.all_special_ids
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    unknown: Any = tokenizer.unk_token_id
    return (frozenset(special) | added) - {unknown}


def _attributed(tokens: RowTokens, row: Mapping[str, Any], unspoken: frozenset[int]) -> list[int]:
    """1 for each token of a prepared row that attribution maps are made of, else 0."""
    said = tokens.said or [True] * len(tokens.ids)
    pairs = zip(row["input_ids"], tokens.labels, said)  # not the row's labels, in which a text's first token is none
    return [int(own and label == IGNORE and token not in unspoken) for token, label, own in pairs]


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
    reader = RowReader(coder(tokenizer), ends_of_text(tokenizer, end_ids), where)
    return offsets_of(row, reader.sequences(row, "each"), where)


def offsets_of(row: Mapping[str, Any], found: Sequence[RowTokens], where: str) -> list[tuple[int, int]]:
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
        raise DataError(f"{where}: the chat template changes the text of the answer, so places in it cannot be found")
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
    if LENGTHS in row:  # several rationales, one behind the other
        ends = [sum(row[LENGTHS][: i + 1]) for i in range(len(row[LENGTHS]))]
        cuts = [slice(end - size, end) for size, end in zip(row[LENGTHS], ends)]
        return [(row["input_ids"][cut], row["labels"][cut]) for cut in cuts]
    return [(row[f"{prefix}input_ids"], row[f"{prefix}labels"]) for prefix in prefixes(row)]


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
        return counts._meet("prompt_too_long", index)
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


def _ratings(row: Mapping[str, Any], offsets: Sequence[tuple[int, int]], where: str) -> list[float]:
    ratings = [math.nan] * len(offsets)
    for at, label in zip(last_tokens(offsets, step_ends(row["completions"])), step_labels(row, where)):
        if at >= 0:
            ratings[at] = label
    return ratings


def _column(row: Mapping[str, Any], column: str, units: Sequence[RowTokens], where: str) -> list[list[float | None]]:
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


def _values_of_answer(values: list[float | None], labels: list[int], column: str, where: str) -> list[float]:
    """The values of the answer tokens that are not cut off."""
    left = values[: sum(label != IGNORE for label in labels)]
    if None in left:
        raise DataError(
            f"{where}: {column} has no number for answer token {left.index(None) + 1}; "
            "it was computed with a smaller training.max_length, so lower that or compute it anew"
        )
    return [float(value) for value in left if value is not None]
