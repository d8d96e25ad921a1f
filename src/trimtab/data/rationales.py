"""Rows of a question with several rationales, of which two are drawn each time and compared at their answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

from trimtab.common.csv_text import unpacked
from trimtab.core.batch import COMPARED, IGNORE
from trimtab.data.counts import Counts, Prepared
from trimtab.data.messages import for_the_template, text_of
from trimtab.data.row_reader import RowReader, RowText, RowTokens
from trimtab.data.rows import LENGTHS, REJECTED, Watch, ends_of_text, joined, offsets_of, sequences
from trimtab.data.sources import DataError
from trimtab.data.tokens import Coder, coder

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

QUESTIONS = ("prompt", "instruction", "question")
RATIONALES = ("rationales", "completions", "output", "outputs")
ANSWERS = ("answer", "label")
INDICES = "indices"
Place = tuple[int, int]
Find = Callable[[str, Any, Any], Place | None]
"""find(text of a rationale, answer, options) -> the characters of its answer; see `trimtab.rewards.places`"""


@dataclass(frozen=True)
class Question:
    """A row in any of the forms."""

    prompt: Any
    """a text or messages"""
    rationales: list[Any]
    """texts, or lists of messages"""
    answer: Any
    options: Any
    indices: list[list[Place]] | None
    """of each rationale, the tokens [start, end) of its answer in the prompt and it"""
    columns: tuple[str, str, str]
    """where the row has prompt, rationales and answer"""


def has_rationales(row: Mapping[str, Any]) -> bool:
    """Whether it looks like a question with rationales."""
    return any(isinstance(_list(row, name), list) for name in RATIONALES) and any(name in row for name in ANSWERS)


def _list(row: Mapping[str, Any], column: str) -> Any:
    """Of a column that is a text in other rows: in CSV a list is written as one."""
    value = row.get(column)
    return unpacked(value) if isinstance(value, str) else value


def question_of(row: Mapping[str, Any], where: str) -> Question:
    """The row as a question with rationales: `prompt`, `rationales` and `answer`, or the columns of the authors' files,
    `instruction`, `output` and `label`, or any mixture of these names.

    Raises:
        DataError: if a part is missing, or not what it should be.
    """
    columns = [
        next((n for n in names if row.get(n) not in (None, "")), "") for names in (QUESTIONS, RATIONALES, ANSWERS)
    ]
    if not all(columns):
        raise DataError(
            f"{where} has the columns {', '.join(map(str, row)) or 'none'}; expected a prompt (or instruction), "
            "rationales (or output, a list of texts) and an answer (or label)"
        )
    prompt, given, answer = row[columns[0]], _list(row, columns[1]), row[columns[2]]
    if not isinstance(given, list) or not all(isinstance(one, (str, list)) for one in given):
        raise DataError(f"{where}: {columns[1]} is {_short(given)}; expected a list of rationales, each a text")
    if isinstance(answer, (list, dict)):
        raise DataError(f"{where}: {columns[2]} is {_short(answer)}; expected a text or a number")
    if columns[0] == "instruction" and row.get("input"):
        raise DataError(f"{where}: the column input has no place beside instruction; write it into the instruction")
    indices = _indices(row[INDICES], len(given), where) if row.get(INDICES) is not None else None
    return Question(prompt, list(given), answer, row.get("options"), indices, tuple(columns))  # type: ignore[arg-type]


def _indices(value: Any, number: int, where: str) -> list[list[Place]]:
    """Spans of each rationale; the authors' readme leaves out one level of lists where each has one span."""
    found: list[list[Place]] = []
    given: list[Any] = value if isinstance(value, list) else [None]
    for spans in given:
        flat = isinstance(spans, list) and len(spans) == 2 and all(isinstance(one, int) for one in spans)
        spans = [spans] if flat else spans
        if not isinstance(spans, list) or not all(map(_is_span, spans)):
            raise DataError(f"{where}: {INDICES} holds {_short(spans)}; expected the tokens [start, end) of an answer")
        found.append([(start, end) for start, end in spans])
    if len(found) != number:
        raise DataError(f"{where}: {INDICES} has {len(found)} entries for {number} rationales")
    return found


def _is_span(value: Any) -> bool:
    whole = isinstance(value, (list, tuple)) and len(value) == 2 and all(type(at) is int for at in value)
    return whole and 0 < value[0] < value[1]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def text_of_rationale(rationale: Any) -> str:
    """Its text; of messages that of the last one."""
    return rationale if isinstance(rationale, str) else text_of(rationale[-1]["content"]) if rationale else ""


def prepare_rationales(
    rows: Sequence[Mapping[str, Any]],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    find: Find,
    source: str = "rows",
    end_ids: Iterable[int] = (),
    chat: bool = False,
    apart: bool = False,
    workers: int = 1,
    watch: Watch | None = None,
) -> Prepared:
    """Tokenise questions and mark the answers in their rationales.

    A prepared row holds its rationales one behind the other, in `input_ids`, `labels` and `COMPARED` (the place of the
    rationale at the tokens of its answer, else -1), and the number of tokens of each in `LENGTHS`. `draw` takes two.

    Args:
        max_length: tokens that a prompt with a rationale may have.
        find: says where the answer of a rationale stands; not asked where the row has `indices`.
        apart: make a row of each rationale, without marks, for measures of single answers.
        source, end_ids, chat, workers, watch: as of `trimtab.data.rows.prepare`.

    Raises:
        DataError: for a row with fewer than two different rationales or in no known form; where no answer is found in
            any rationale.
    """
    how = _RationaleSettings(
        coder(tokenizer), ends_of_text(tokenizer, end_ids), source, max_length, len(rows), find, chat, apart
    )
    prepared = joined(Prepared([], Counts(), source, max_length, len(rows)), rows, how.prepare, workers, watch)
    if not apart and prepared.rows and not any(mark >= 0 for row in prepared.rows for mark in row[COMPARED]):
        raise DataError(
            f"{source}: the answer was found in none of the rationales of its rows, so nothing can be compared; a "
            'rationale states it last, as in "the answer is 7", and within training.max_length'
        )
    return prepared


@dataclass(frozen=True)
class _RationaleSettings:
    coder: Coder
    ends: set[int]
    source: str
    max_length: int
    total: int
    find: Find
    chat: bool
    apart: bool

    def prepare(self, rows: Sequence[Mapping[str, Any]], start: int) -> Prepared:
        """Consecutive rows of the source, of which the first is number `start`, from 0."""
        prepared = Prepared([], Counts(), self.source, self.max_length, self.total)
        read = [self._read(row, f"{self.source}: row {start + i + 1}") for i, row in enumerate(rows)]
        with self.coder.expecting(text for one in read for each in one.texts for text in each.texts):
            for index, one in enumerate(read, start=start):
                self._keep(prepared, index, one)
        return prepared

    def _read(self, row: Mapping[str, Any], where: str) -> _Read:
        question = question_of(row, where)
        seen: set[str] = set()
        places = []
        reader = RowReader(self.coder, self.ends, where, chat=self.chat)
        for place, rationale in enumerate(question.rationales):
            text = text_of_rationale(rationale)
            if not text.strip() or text in seen:
                reader.remarks["copies" if text.strip() else "blank"] += 1
                continue
            seen.add(text)
            places.append(place)
        if len(places) < (1 if self.apart else 2):
            number = len(question.rationales)
            found = f"{len(places)} rationale{'s' * (len(places) != 1)}"
            more = f" (of {number}, without empty ones and copies)" if number != len(places) else ""
            raise DataError(
                f"{where} has {found}{more}, and two different ones are compared; take such rows out: trimtab "
                "select-rationales ROWS --out FILE.jsonl least=2"
            )
        given: list[Mapping[str, Any]] = [
            {**for_the_template(row), "prompt": question.prompt, "completion": question.rationales[place]}
            for place in places
        ]
        return _Read(question, places, given, reader, [reader.read(one, "each") for one in given])

    def _keep(self, prepared: Prepared, index: int, read: _Read) -> None:
        """Add one row, or with `apart` one for each rationale, and count what became of it."""
        counts = prepared.counts
        coded = [self._one(each, read.reader.where) for each in read.texts]
        marks = [self._marks(read, i, one) for i, one in enumerate(coded)] if not self.apart else [[]] * len(coded)
        if read.reader.stays_plain:
            counts.plain += 1
            counts.first_plain = counts.first_plain or index + 1
        units = [[i] for i in range(len(coded))] if self.apart else [list(range(len(coded)))]
        counts.rows += len(units)
        for number, unit in enumerate(units):
            self._unit(prepared, index, number, [coded[i] for i in unit], [marks[i] for i in unit], read.reader)
        for what in read.reader.remarks:
            counts.remarks[what] = counts.remarks.get(what, 0) + 1
            counts.first.setdefault(what, index + 1)

    def _one(self, text: RowText, where: str) -> RowTokens:
        found = text.code()
        if len(found) != 1 or not found[0].answers:
            raise DataError(f"{where}: a rationale is one message of the assistant, with a text")
        return found[0]

    def _marks(self, read: _Read, which: int, one: RowTokens) -> list[bool]:
        """Of each token, whether it is part of the answer; none if the answer is not found."""
        question, where, place = read.question, read.reader.where, read.places[which]
        none = [False] * len(one.ids)
        if question.indices is not None:
            return _given(question.indices[place], one, question.answer, self.coder.tokenizer, where)
        text = text_of_rationale(question.rationales[place])
        found = self.find(text, question.answer, question.options)
        if found is None:
            read.reader.remarks["unanswered"] += 1
            return none
        if one.spans is None:
            raise DataError(
                f"{where}: answers are found by character offsets, which only fast tokenizers tell; give the tokens of "
                f"each answer in a column {INDICES}"
            )
        offsets = iter(offsets_of(read.given[which], [one], where))
        start, end = found
        inside = []
        for label in one.labels:
            begin, stop = next(offsets) if label != IGNORE else (0, 0)
            inside.append(begin < end and stop > start and stop > begin)
        return inside

    def _unit(
        self, prepared: Prepared, index: int, number: int, coded: list[RowTokens], marks: list[list[bool]],
        reader: RowReader,
    ) -> None:  # fmt: skip
        """Cut the sequences of one prepared row to the limit, and keep it."""
        counts, limit = prepared.counts, self.max_length
        answers = [[i for i, label in enumerate(one.labels) if label != IGNORE and i > 0] for one in coded]
        if not all(answers):
            return counts._meet("empty", index)
        if any(answer[0] >= limit for answer in answers):
            return counts._meet("prompt_too_long", index)
        row: dict[str, Any] = {"row_id": index + number * self.total, "input_ids": [], "labels": []}
        if not self.apart:
            row |= {COMPARED: [], LENGTHS: []}
        said = set()
        for place, (answer, one, inside) in enumerate(zip(answers, coded, marks)):
            stop = min(answer[-1] + 1, limit)
            row["input_ids"] += one.ids[:stop]
            row["labels"] += [IGNORE, *one.labels[1:stop]]
            counts.longest = max(counts.longest, stop)
            if self.apart:
                continue
            row[LENGTHS].append(stop)
            if any(inside[stop:]):  # a part of an answer is none
                reader.remarks["cut_answer"] += 1
                inside = [False] * len(inside)
            row[COMPARED] += [place if mark else -1 for mark in inside[:stop]]
            said.add(tuple(token for token, mark in zip(one.ids, inside) if mark))
        if len(said - {()}) > 1:
            reader.remarks["unlike"] += 1
        if any(answer[-1] >= limit for answer in answers):
            counts._meet("truncated", index)
        elif any(one.ids[answer[-1]] not in self.ends for answer, one in zip(answers, coded)):
            counts._meet("no_end", index)
        counts.tokens += len(row["input_ids"])
        counts.answer_tokens += sum(label != IGNORE for label in row["labels"])
        counts.kept += 1
        prepared.rows.append(row)
        return None


@dataclass(frozen=True)
class _Read:
    """A row whose rationales are about to be tokenised."""

    question: Question
    places: list[int]
    """which of its rationales are kept"""
    given: list[Mapping[str, Any]]
    """each as prompt and completion"""
    reader: RowReader
    texts: list[RowText]


def _given(spans: Sequence[Place], one: RowTokens, answer: Any, tokenizer: Any, where: str) -> list[bool]:
    """Marks from the row's own indices.

    Raises:
        DataError: if they lie outside the rationale, or stand for another text than the answer.
    """
    wanted = _bare(str(answer).rpartition("####")[2])
    for start, end in spans:
        inside = end <= len(one.ids) and all(label != IGNORE for label in one.labels[start:end])
        text = tokenizer.decode(one.ids[start:end]) if inside else ""
        if not inside or not (_bare(text) and (wanted in _bare(text) or _bare(text) in wanted)):
            found = f"{text!r}, and the answer is {answer!r}" if inside else "tokens outside its rationale"
            raise DataError(
                f"{where}: {INDICES} [{start}, {end}) stands for {found}; they are counted in tokens of the prompt and "
                "the rationale, with what the tokenizer puts before it; leave the column out, and answers are searched"
            )
    return [any(start <= i < end for start, end in spans) for i in range(len(one.ids))]


def _bare(text: str) -> str:
    return "".join(text.replace(",", "").split()).strip(".,;:()[]{}$€£%").casefold()


def different(row: Mapping[str, Any], where: str) -> int:
    """Number of a row's rationales, without empty ones and copies."""
    texts = map(text_of_rationale, question_of(row, where).rationales)
    return len({text for text in texts if text.strip()})


def first_pair(row: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first two rationales of a prepared row that are compared, as of `draw`; None if none are."""
    for first, second in combinations(range(len(row[LENGTHS])), 2):
        pair = draw(row, first, second)
        if any(mark >= 0 for mark in pair[COMPARED]):
            return pair
    return None


def draw(row: Mapping[str, Any], first: int, second: int) -> dict[str, Any]:
    """Two rationales of a prepared row as a pair: the keys of the second one begin with `REJECTED`, as of any pair. The
    answers are compared only if they are the same tokens."""
    ids = sequences(row)
    ends = [sum(row[LENGTHS][: i + 1]) for i in range(len(ids))]
    marks = [row[COMPARED][end - len(one[0]) : end] for one, end in zip(ids, ends)]
    said = [[token for token, mark in zip(ids[i][0], marks[i]) if mark >= 0] for i in (first, second)]
    pair: dict[str, Any] = {"row_id": row["row_id"]}
    for prefix, place in (("", first), (REJECTED, second)):
        tokens, labels = ids[place]
        learnt = [float(mark) for mark, label in zip(marks[place], labels) if label != IGNORE]
        pair |= {f"{prefix}input_ids": tokens, f"{prefix}labels": labels}
        pair[prefix + COMPARED] = learnt if said[0] == said[1] else [-1.0] * len(learnt)
    return pair
