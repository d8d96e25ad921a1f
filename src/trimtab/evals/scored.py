"""Answers of rows that a reward model is to score token by token, and their scores."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.data.messages import text_of
from trimtab.data.row_formats import one_side, outcome, step_labels, stepwise
from trimtab.data.sources import DataError, Row
from trimtab.metrics import step_scores

Form = Literal["pairs", "answers", "steps"]
Side = Literal["answer", "chosen", "rejected"]
Span = tuple[int, int]
FINAL = ("answer_text", "final_answer")
"""columns that may hold the final answer of a text, for majority votes"""


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class Answer:
    """An answer to score, and what its row says of it."""

    row: int
    """index in the source"""
    side: Side
    given: Mapping[str, Any]
    """prompt and completion, as `data.rows.prepare` takes them"""
    text: str
    correct: bool | None = None
    """chosen answers count as correct, rejected ones as incorrect; None: unknown"""
    error: Span | None = None
    """characters of the answer"""
    kind: str | None = None
    """of the error"""
    consequences: tuple[Span, ...] = ()
    """of the error"""
    ends: tuple[int, ...] = ()
    """of steps, in characters"""
    first_error: int = -1
    split: str = ""
    final: str | None = None

    @property
    def id(self) -> str:
        return f"{self.row + 1}/{self.side}"

    @property
    def prompt(self) -> str:
        """The prompt as a key, and to be read."""
        prompt = self.given["prompt"]
        return prompt if isinstance(prompt, str) else "\n\n".join(f"{m['role']}: {m['content']}" for m in prompt)


def form_of(row: Row) -> Form:
    """What kind of row it is."""
    return "pairs" if {"chosen", "rejected"} <= row.keys() else "steps" if "completions" in row else "answers"


def read(rows: Sequence[Row], source: str = "rows", *, numbered: bool = False) -> list[Answer]:
    """The answers of rows, in their order; a pair's chosen one comes first.

    Args:
        rows: pairs (`chosen`, `rejected`), answers (`prompt` and `completion`, or `messages` that end with one; with or
            without `label`) or steps (`completions` and `labels`). `error` and `wrong` are read as
            `trimtab:planted_errors` writes them.
        source: for messages.
        numbered: write "Step i: " before each step and blank lines between them.

    Raises:
        DataError: naming the row that is of another form than the first, or that makes no sense.
    """
    form = form_of(rows[0])
    labelled = any(row.get("label") is not None for row in rows)
    found = []
    for index, row in enumerate(rows):
        where = f"{source}: row {index + 1}"
        if form_of(row) != form:
            raise DataError(f"{where} holds {form_of(row)} and row 1 {form}; score them one after the other")
        if form == "pairs":
            found += [_answer(index, row, side, side == "chosen", where) for side in ("chosen", "rejected")]
        elif form == "steps":
            found.append(_steps(index, row, numbered, where))
        else:
            right = bool(outcome(row, where)) if labelled else None
            found.append(_answer(index, row, "answer", right, where))
    return found


def _answer(index: int, row: Row, side: Side, correct: bool | None, where: str) -> Answer:
    given = dict(row if side == "answer" else one_side(row, side, where))
    if isinstance(given.get("messages"), list):
        given |= {"prompt": given["messages"][:-1], "completion": given["messages"][-1:]}
    if "prompt" not in given or "completion" not in given:
        raise DataError(
            f"{where} has the columns {', '.join(map(str, row))}; expected an answer to score: prompt and completion, "
            "messages, chosen and rejected, or completions"
        )
    given = {key: given[key] for key in ("prompt", "completion", "tools", "chat_template_kwargs") if key in given}
    answer = given["completion"]
    if isinstance(answer, list) and len(answer) > 1:  # what is scored is the last answer, behind those before
        prompt = given["prompt"]
        before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        given |= {"prompt": [*before, *answer[:-1]], "completion": answer[-1:]}
        answer = answer[-1:]
    last = answer[-1] if isinstance(answer, list) and answer else None
    text = answer if isinstance(answer, str) else text_of(last.get("content")) if isinstance(last, Mapping) else None
    if not isinstance(text, str) or (last is not None and last.get("role") != "assistant"):
        raise DataError(f"{where} has no answer: expected a text, or messages that end with one of the assistant")
    if side == "answer" and not text.strip():
        raise DataError(f"{where} has an empty answer; take such rows out")
    error, kind, consequences = (None, None, ()) if correct else _spans(row, text, where)
    final = next((str(row[name]) for name in FINAL if row.get(name) is not None), None)
    return Answer(index, side, given, text, correct, error, kind, consequences, final=final)


def _spans(row: Row, text: str, where: str) -> tuple[Span | None, str | None, tuple[Span, ...]]:
    error = row.get("error")
    if not isinstance(error, Mapping):
        return None, None, ()
    try:
        spans = [(int(error["start"]), int(error["end"])), *((int(a), int(b)) for a, b in row.get("wrong") or ())]
    except (KeyError, TypeError, ValueError):
        raise DataError(
            f"{where}: error needs start and end, and wrong a list of [start, end], in characters"
        ) from None
    for start, end in spans:
        if not 0 <= start < end <= len(text):
            raise DataError(f"{where}: the wrong characters {start} to {end} are none of an answer of {len(text)}")
    return spans[0], str(error["kind"]) if error.get("kind") is not None else None, tuple(spans[1:])


def _steps(index: int, row: Row, numbered: bool, where: str) -> Answer:
    given, steps, labels = stepwise(row, where), row["completions"], step_labels(row, where)
    if not steps:
        raise DataError(f"{where} has no steps; take such rows out")
    written = step_scores.rendered(steps, numbered=numbered)
    is_chat = isinstance(given["prompt"], list)
    given["completion"] = [{"role": "assistant", "content": written.text}] if is_chat else written.text
    first = next((place for place, label in enumerate(labels) if label < 0), -1)
    span = None
    if first >= 0:
        start = written.ends[first - 1] if first else 0
        start += len(written.text[start : written.ends[first]]) - len(
            written.text[start : written.ends[first]].lstrip()
        )
        span = (start, written.ends[first])
    return Answer(
        *(index, "answer", given, written.text, first < 0, span),
        ends=tuple(written.ends),
        first_error=first,
        split=str(row.get("split", "")),
    )


# ---------------------------------------------------------------- scores


@dataclass(frozen=True)
class Scored:
    """An answer with a score for each of its tokens. All lists are as long."""

    row: int
    side: Side
    answer: str
    tokens: list[str]
    """as texts, each with the white space before it; together they are the answer as far as it was read, but for tokens
    without characters of their own, such as the end token"""
    offsets: list[Span]
    """characters of the answer that each token stands for"""
    scores: list[float]
    """of the reward model; nats where they are log-ratios or log-probabilities"""
    values: list[float]
    """of each prefix, see `TokenRewardModel.values`"""
    truncated: bool = False
    """its end was cut off"""

    @property
    def id(self) -> str:
        return f"{self.row + 1}/{self.side}"

    @property
    def td(self) -> list[float]:
        """Each value less the one before, the first one as it is: they add up to the last value."""
        return [after - before for before, after in zip([0.0, *self.values], self.values)]

    def record(self) -> dict[str, Any]:
        """A line of scores.jsonl."""
        numbers = {name: digits(getattr(self, name)) for name in ("scores", "values", "td")}
        known = {"id": self.id, "row": self.row, "side": self.side, "answer": self.answer, "truncated": self.truncated}
        return {**known, "tokens": self.tokens, "offsets": self.offsets, **numbers}

    @classmethod
    def from_record(cls, line: Mapping[str, Any]) -> "Scored":
        offsets = [(start, end) for start, end in line["offsets"]]
        known = {name: line[name] for name in ("row", "side", "answer", "tokens", "scores", "values", "truncated")}
        return cls(**known, offsets=offsets)


def digits(numbers: Iterable[float]) -> list[float]:
    """As they are written: nine digits hold a float32 exactly."""
    return [float(f"{x:.9g}") for x in numbers]


def step_tokens(answer: Answer, offsets: Sequence[Span], where: str) -> NDArray[np.int64]:
    """[K] index of the last token of each step.

    Raises:
        DataError: if a step has no token of its own.
    """
    try:
        return step_scores.step_tokens(offsets, answer.ends)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None
