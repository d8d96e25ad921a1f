"""Rows as a model takes them, and what became of those of the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trimtab.data.sources import DataError

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
    "blank": "with an empty rationale, which is left out",
    "copies": "with a rationale that occurs twice; it counts once",
    "unanswered": "with a rationale whose last statement does not hold the answer; it is learnt, but not compared",
    "cut_answer": "with a rationale whose answer lies behind the limit on tokens; it is not compared",
    "unlike": "with rationales whose answers are different tokens, such as 7 and 7.0; two such are not compared",
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
    """What became of the rows of one source. A row is in one of kept, prompt_too_long, empty, identical."""

    rows: int = 0
    kept: int = 0
    truncated: int = 0
    """kept, but the end of the answer is cut off"""
    prompt_too_long: int = 0
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
    """the first row (from 1) that was truncated or dropped, or that a remark is about"""
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

    def num_dropped(self) -> int:
        return self.truncated + self.prompt_too_long + self.empty + self.identical

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
    left_out: str = ""
    """a note on rows that were left out afterwards"""

    def number(self, row: Mapping[str, Any]) -> int:
        """Which row of the source, from 1, a prepared row comes from; a conversation may have become several."""
        return row["row_id"] % self.sources + 1

    def notes(self) -> list[str]:
        """What is to be said of the rows, one sentence each."""
        counts = self.counts
        found = [(what, n, REMARKS[what]) for what, n in counts.remarks.items()]
        if counts.no_end:
            found.append(("no_end", counts.no_end, NO_END))
        notes = [(n, words, counts.first[what]) for what, n, words in found]
        if counts.plain:
            notes.insert(0, (counts.plain, PLAIN, counts.first_plain))
        return [self.left_out] * bool(self.left_out) + [
            f"{self.source}: {n} {'row' if n == 1 else 'rows'} {words} (first: row {first})"
            for n, words, first in notes
        ]


def check_dropped(prepared: Prepared, max_dropped: float) -> None:
    """Refuse data of which more than a share would be dropped or truncated.

    Raises:
        DataError: if no row is left, or the share of truncated, dropped and empty rows exceeds `max_dropped`.
    """
    counts = prepared.counts
    what = {
        "truncated": f"{counts.truncated} truncated",
        "prompt_too_long": f"{counts.prompt_too_long} whose prompt alone fills the limit",
        "empty": f"{counts.empty} without an answer",
        "identical": f"{counts.identical} with two answers that are the same",
    }
    found = "; ".join(f"{n} (first: row {counts.first[name]})" for name, n in what.items() if name in counts.first)
    if not counts.kept:
        raise DataError(
            f"{prepared.source}: no row is left of {counts.rows}: {found} (limit: {prepared.max_length} tokens, by "
            f"{prepared.limited_by})"
        )
    if counts.num_dropped() > max_dropped * counts.rows:
        raise_it = "raise training.max_length " if prepared.limited_by == "training.max_length" else ""
        raise DataError(
            f"{prepared.source}: {counts.num_dropped()} of {counts.rows} rows would be dropped or truncated: {found} "
            f"(limit: {prepared.max_length} tokens, by {prepared.limited_by}); mend the rows, {raise_it}or allow "
            f"it with data.max_dropped={counts.num_dropped() / counts.rows + 0.005:.2f}"
        )
