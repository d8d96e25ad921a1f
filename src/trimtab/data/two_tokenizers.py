"""Rows for a teacher with another tokenizer: its own ids of each row, and which tokens stand for the same bytes.

Both models read a row with their own chat template and their own tokenizer. What they have in common is the text of the
answer; white space that a template writes around it belongs to the template.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from trimtab.common.count import count
from trimtab.core.batch import IGNORE
from trimtab.data.alignment import OUTSIDE, Pieces, align, common_tokens, pieces, token_bytes
from trimtab.data.counts import Prepared
from trimtab.data.row_formats import one_side
from trimtab.data.row_reader import RowReader, RowTokens, Turns
from trimtab.data.sources import DataError
from trimtab.data.tokens import coder

SEGMENT, STARTS = "segment", "starts"
"""Keys of a prepared row, laid out like the labels: the number of a token's segment, and whether it is the first of one
that begins at the same byte on both sides."""
TEACHER = "teacher_"
"""Before the keys of a prepared row's teacher: input_ids, labels, segment."""
ONE_TURN: tuple[Turns, ...] = ("each", "last")
"""values of data.turns with which every row has one answer"""


@dataclass(frozen=True)
class TextSide:
    """A tokenizer and what is known of it."""

    tokenizer: PreTrainedTokenizerBase
    role: str
    ends: set[int]
    """ids that end an answer"""
    turn_end: int | None
    """the one with which the chat template ends a turn"""
    tokens: list[bytes | None] = field(init=False)

    def __post_init__(self) -> None:
        if not self.tokenizer.is_fast:
            raise DataError(
                f"the {self.role}'s tokenizer ({type(self.tokenizer).__name__}) tells no offsets, which "
                "options.tokenizers: different needs; use one that has a tokenizer.json"
            )
        object.__setattr__(self, "tokens", token_bytes(self.tokenizer))

    def read(self, row: Mapping[str, Any], where: str, turns: Turns, chat: bool) -> list[RowTokens]:
        return RowReader(coder(self.tokenizer), self.ends, where, chat=chat).sequences(row, turns)


@dataclass(frozen=True)
class CommonTokens:
    """The C tokens that both vocabularies have, and what all others begin with."""

    student: list[int]
    """[C] ids, by place the same tokens as the teacher's"""
    teacher: list[int]
    student_classes: list[int]
    """[V] of each id the place of the common token that is it or that it begins with; C for one without any"""
    teacher_classes: list[int]
    """[V']"""


def tokens_of_both(student: TextSide, teacher: TextSide, student_vocab: int, teacher_vocab: int) -> CommonTokens:
    """Tokens of the same bytes, and the tokens that end an answer; others by what the other side begins them with.

    A vocabulary that has " garden" says with it what another says with " gar" first and "den" then: both are counted as
    " gar", if both have that.
    """
    common = _common(student, teacher, student_vocab, teacher_vocab)
    places = [dict(zip(ids, range(len(ids)))) for ids in common]
    sides = (student, teacher)
    sizes = (student_vocab, teacher_vocab)
    known = [{side.tokens[i]: place for i, place in of.items() if side.tokens[i]} for side, of in zip(sides, places)]
    first = [_first_tokens(sides[k], sides[1 - k], sizes[k], places[k]) for k in (0, 1)]

    def place_of(k: int, token: int) -> int:
        """Each step goes over to the other side's first token, which is shorter."""
        while token not in places[k]:
            text, following = (sides[k].tokens[token] if token < len(sides[k].tokens) else None), first[k].get(token)
            own = sides[1 - k].tokens[following] if following is not None else None
            if not text:
                return len(common[0])
            if text in known[k]:  # another id of the same bytes
                return known[k][text]
            if following is None or not own or (following not in places[1 - k] and len(own) >= len(text)):
                prefixes = (text[:n] for n in reversed(range(1, len(text))))
                return next((known[k][one] for one in prefixes if one in known[k]), len(common[0]))
            k, token = 1 - k, following
        return places[k][token]

    classes = [[place_of(k, i) for i in range(sizes[k])] for k in (0, 1)]
    return CommonTokens(*common, *classes)


def _first_tokens(side: TextSide, other: TextSide, vocab: int, common: Mapping[int, int]) -> dict[int, int]:
    """Of each token of a side that is not common, the first one of those that the other side writes it with."""
    asked = {}
    for i, token in enumerate(side.tokens[:vocab]):
        if token and i not in common:
            try:
                asked[i] = token.decode()
            except UnicodeDecodeError:  # a part of a character
                continue
    found: dict[int, int] = {}
    for before in ("", ".", "\n"):  # behind another text no space is put before a token
        begin = list(other.tokenizer(before, add_special_tokens=False).input_ids) if before else []
        left = [i for i in asked if i not in found]
        texts = [before + asked[i] for i in left]
        coded = other.tokenizer(texts, add_special_tokens=False, verbose=False).input_ids if texts else []
        for i, ids in zip(left, coded):
            own = ids[len(begin) :]
            parts = [other.tokens[one] or b"" for one in own]
            if ids[: len(begin)] == begin and own and b"".join(parts) == side.tokens[i]:
                found[i] = own[0]
    return found


def _common(
    student: TextSide, teacher: TextSide, student_vocab: int, teacher_vocab: int
) -> tuple[list[int], list[int]]:
    ends = {a: b for a, b in _ends(student, teacher).items() if a < student_vocab and b < teacher_vocab}
    texts = common_tokens(student.tokens, teacher.tokens, student_vocab, teacher_vocab)
    known = [(a, b) for a, b in zip(*texts) if a not in ends and b not in ends.values()] + list(ends.items())
    return [a for a, _ in known], [b for _, b in known]


def _ends(student: TextSide, teacher: TextSide) -> dict[int, int]:
    """The student's tokens that end an answer, and the teacher's of the same part: of a turn, and of a text."""
    a, b = student.tokenizer, teacher.tokenizer
    found: dict[int, int] = {}
    for ours, theirs in ((student.turn_end, teacher.turn_end), (a.eos_token_id, b.eos_token_id)):
        if ours is not None and theirs is not None and ours not in found and theirs not in found.values():
            found[int(ours)] = int(theirs)  # type: ignore[arg-type]
    return found


@dataclass(frozen=True)
class _Answer:
    """The one answer of a sequence."""

    tokens: RowTokens
    places: list[int]
    """of its tokens in the sequence"""
    text: str
    """without what ends it"""
    begin: int
    """in the text of the sequence"""
    ended: bool


def _answer(one: RowTokens, side: TextSide) -> _Answer | None:
    places = [i for i, label in enumerate(one.labels) if label != IGNORE]
    if not places or one.spans is None:
        return None
    ended = one.ids[places[-1]] in side.ends
    inside = [one.spans[i] for i in (places[:-1] if ended else places)]
    stop = one.spans[places[-1]][0] if ended else max(end for _, end in inside)
    return _Answer(one, places, one.text[one.start : stop], one.start, ended)


def _shared(ours: str, theirs: str) -> tuple[str, int, int] | None:
    """The text that two answers have in common, and where in each it begins: all but the white space around it, or, as
    a template may leave out a thought, the end of the longer one."""
    a, b = ours.strip(), theirs.strip()
    text = min(a, b, key=len)
    if not text or not (a.endswith(text) and b.endswith(text)):
        return None
    return text, ours.rindex(text), theirs.rindex(text)


def _pieces(answer: _Answer, side: TextSide, text: str, at: int, ends: set[int]) -> tuple[Pieces, list[int]]:
    """The tokens of an answer that stand for `text`, which begins at character `at` of it, and their places."""
    spans = answer.tokens.spans
    assert spans is not None
    offsets = list(itertools.accumulate((len(c.encode()) for c in text), initial=0))
    length = len(text)

    def byte(character: int) -> int:
        inside = character - answer.begin - at
        if inside < 0:
            return inside
        return offsets[inside] if inside <= length else offsets[-1] + inside - length

    ids = [answer.tokens.ids[i] for i in answer.places]
    is_end = [False] * (len(ids) - answer.ended) + [True] * answer.ended
    found, kept = pieces(
        text.encode(),
        [(byte(spans[i][0]), byte(spans[i][1])) for i in answer.places],
        [side.tokens[i] if i < len(side.tokens) else None for i in ids],
        is_end,
    )
    if answer.ended and ids[-1] not in ends:  # of another kind than the other side's
        found.begins[-1] = None
    return found, answer.places[kept]


def aligned_row(
    student: TextSide, teacher: TextSide, ours: RowTokens, theirs: RowTokens, length: int, limit: int
) -> dict[str, list[int]] | None:
    """What a prepared row gets besides; None if the two answers are not the same text.

    Args:
        length: of the prepared row, whose answer may have been cut.
        limit: tokens that the teacher can read.
    """
    answers = _answer(ours, student), _answer(theirs, teacher)
    if answers[0] is None or answers[1] is None:
        return None
    shared = _shared(answers[0].text, answers[1].text)
    if shared is None:
        return None
    pairs = _ends(student, teacher)
    same_end = pairs.get(ours.ids[answers[0].places[-1]]) == theirs.ids[answers[1].places[-1]]
    ends = (set(pairs), set(pairs.values())) if same_end else (set(), set())
    text, at, their_at = shared
    a, our_places = _pieces(answers[0], student, text, at, ends[0])
    b, their_places = _pieces(answers[1], teacher, text, their_at, ends[1])
    made = align(a, b)
    cut = {s for s, place in zip(made.student, our_places) if place >= length or place == 0}
    cut |= {s for s, place in zip(made.teacher, their_places) if place >= limit or place == 0} | {OUTSIDE}
    segment, starts = [OUTSIDE] * length, [0] * length
    for s, place in zip(made.student, our_places):
        if s not in cut:
            starts[place] = int(made.compared[s] and segment[place - 1] != s)
            segment[place] = s
    stop = min(limit, len(theirs.ids))
    labels, their_segment = [IGNORE] * stop, [OUTSIDE] * stop
    for s, place in zip(made.teacher, their_places):
        if s not in cut:
            labels[place], their_segment[place] = theirs.ids[place], s
    last = max((i for i, s in enumerate(their_segment) if s != OUTSIDE), default=0) + 1
    return {
        SEGMENT: segment,
        STARTS: starts,
        f"{TEACHER}input_ids": theirs.ids[:last],
        f"{TEACHER}labels": labels[:last],
        f"{TEACHER}segment": their_segment[:last],
    }


def with_teacher(
    prepared: Prepared,
    rows: Sequence[Mapping[str, Any]],
    student: TextSide,
    teacher: TextSide,
    *,
    limit: int,
    turns: Turns,
    chat: bool,
    max_dropped: float,
) -> tuple[Prepared, str]:
    """The prepared rows with the teacher's ids and segments, and a note on rows that are left out, if any.

    Args:
        prepared: of the student, with `turns` and `chat`.
        rows: of the source.
        turns: one of `ONE_TURN`.
        limit: tokens that the teacher can read.
        max_dropped: share of the rows that may be left out.

    Raises:
        DataError: if the two templates write more of the answers differently, or the teacher's takes no such row.
    """
    kept, first = [], 0
    for index, own in itertools.groupby(prepared.rows, key=lambda row: row["row_id"] % prepared.sources):
        where = f"{prepared.source}: row {index + 1}"
        row = one_side(rows[index], "chosen", where)
        ours = student.read(row, where, turns, chat)
        theirs = teacher.read(row, f"{where}, read by the teacher", turns, chat)
        for one in own:
            number = one["row_id"] // prepared.sources
            found = None
            if len(ours) == len(theirs):
                found = aligned_row(student, teacher, ours[number], theirs[number], len(one["input_ids"]), limit)
            if found is not None and any(s != OUTSIDE for s in found[SEGMENT]):
                kept.append({**one, **found})
            else:
                first = first or index + 1
    lost = len(prepared.rows) - len(kept)
    if not lost:
        return replace(prepared, rows=kept), ""
    note = (
        f"{prepared.source}: {count(lost, 'row')} of {len(prepared.rows)} left out (first: row {first}): the chat "
        "templates of policy and teacher write the answer differently, or the teacher cannot read as much"
    )
    if not kept or lost > max_dropped * len(prepared.rows):
        raise DataError(f"{note}; mend the rows, or allow it with data.max_dropped")
    return replace(prepared, rows=kept), note
