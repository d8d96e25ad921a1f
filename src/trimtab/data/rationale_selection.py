"""Which of a teacher's rationales of a question to keep: no near-duplicates, and the most different ones (MCC-KD)."""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Literal

from trimtab.data.rationales import ANSWERS, INDICES, QUESTIONS, has_rationales, question_of, text_of_rationale
from trimtab.data.sources import DataError

Pick = Literal["diverse", "random", "first"]
Correct = Callable[[Sequence[str], Mapping[str, Any]], Sequence[bool]]
"""correct(texts, {"prompt", "answer", "options"}) -> which state the answer"""


def jaccard(one: set[Hashable], other: set[Hashable]) -> float:
    """Shared members over all members; 1 for two empty sets."""
    return len(one & other) / len(one | other) if one or other else 1.0


def ngrams(text: str, n: int) -> set[Hashable]:
    """The n-grams of the words of a text; of a shorter one all its words as one."""
    words = text.split()
    return {tuple(words[i : i + n]) for i in range(max(len(words) - n, 0) + 1)}


def without_near_duplicates(texts: Sequence[str], threshold: float) -> list[int]:
    """The texts that no later one resembles: Jaccard similarity of the sets of words below `threshold`.

    As in the authors' code the last of a group stays, and words are what single spaces part.
    """
    words: list[set[Hashable]] = [set(text.split(" ")) for text in texts]
    return [i for i, own in enumerate(words) if all(jaccard(own, other) < threshold for other in words[i + 1 :])]


def farthest_first(texts: Sequence[str], number: int, n: int) -> list[int]:
    """The `number` texts that resemble each other least, greedily, in their order.

    The two with the smallest Jaccard similarity of their n-grams, then each time the one whose largest similarity to
    those chosen is the smallest; the earliest of equals. The paper names the criterion, not the order of search.
    """
    if number >= len(texts):
        return list(range(len(texts)))
    grams = [ngrams(text, n) for text in texts]
    alike = [[jaccard(one, other) for other in grams] for one in grams]
    if number == 1:
        return [min(range(len(texts)), key=lambda i: (sum(alike[i]), i))]
    pairs = ((alike[i][j], i, j) for i in range(len(texts)) for j in range(i + 1, len(texts)))
    chosen = list(min(pairs)[1:])
    while len(chosen) < number:
        left = (i for i in range(len(texts)) if i not in chosen)
        chosen.append(min(left, key=lambda i: (max(alike[i][j] for j in chosen), i)))
    return sorted(chosen)


@dataclass
class SelectionCounts:
    """What became of rows and their rationales."""

    rows: int = 0
    rationales: int = 0
    empty: int = 0
    incorrect: int = 0
    near_duplicates: int = 0
    """exact copies among them"""
    not_picked: int = 0
    """more than were asked for"""
    kept: int = 0
    rows_without_any: int = 0
    """dropped: none of their rationales is left"""
    rows_too_few: int = 0
    """dropped: fewer rationales are left than asked for"""
    rows_with_one: int = 0
    """kept; training refuses them"""
    rows_kept: int = 0
    first: dict[str, int] = field(default_factory=dict)
    """the first row of each kind, from 1"""

    def meet(self, what: str, row: int) -> None:
        setattr(self, what, getattr(self, what) + 1)
        self.first.setdefault(what, row)


def questions(rows: Sequence[Mapping[str, Any]], source: str) -> list[dict[str, Any]]:
    """Rows with rationales as they are; rows with one `completion` each, of the same prompt and answer, as one.

    Raises:
        DataError: for a row that is neither.
    """
    made: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{source}: row {number}"
        if has_rationales(row) or not row.get("completion"):
            question_of(row, where)
            made[f"row {number}"] = dict(row)
            continue
        named = {name: row[name] for name in (*QUESTIONS, *ANSWERS) if name in row}
        if not {*named} & {*ANSWERS} or not {*named} & {*QUESTIONS}:
            raise DataError(f"{where} has a completion and no {'answer' if {*named} & {*QUESTIONS} else 'prompt'}")
        key = json.dumps([named, row.get("options")], sort_keys=True, default=str)
        others = {name: value for name, value in row.items() if name != "completion"}
        made.setdefault(key, {**others, "rationales": []})["rationales"].append(row["completion"])
    return list(made.values())


def select(
    rows: Sequence[Mapping[str, Any]],
    source: str,
    correct: Correct | None,
    *,
    keep: int,
    threshold: float,
    ngram: int,
    least: int,
    pick: Pick = "diverse",
    seed: int = 0,
) -> tuple[list[dict[str, Any]], SelectionCounts]:
    """The rows with the rationales that are kept, and what became of all.

    Args:
        rows: as of `questions`.
        correct: says which rationales state the answer; none is asked if not given.
        keep: most rationales of a row.
        threshold: of `without_near_duplicates`; above 1 for none.
        ngram: n of `farthest_first`.
        least: rows with fewer are dropped.
        pick: which ones, if there are more than `keep`.
        seed: of "random".

    Raises:
        DataError: if a row is of no known form.
    """
    counts, made = SelectionCounts(), []
    for number, row in enumerate(questions(rows, source), start=1):
        question = question_of(row, f"{source}: row {number}")
        texts = [text_of_rationale(one) for one in question.rationales]
        counts.rows += 1
        counts.rationales += len(texts)
        left = [i for i, text in enumerate(texts) if text.strip()]
        counts.empty += len(texts) - len(left)
        if correct is not None and left:
            task = {"prompt": question.prompt, "answer": question.answer, "options": question.options}
            good = correct([texts[i] for i in left], task)
            counts.incorrect += len(left) - sum(good)
            left = [i for i, is_good in zip(left, good, strict=True) if is_good]
        distinct = [left[i] for i in without_near_duplicates([texts[i] for i in left], threshold)]
        counts.near_duplicates += len(left) - len(distinct)
        if len(distinct) < least:
            counts.meet("rows_too_few" if distinct else "rows_without_any", number)
            continue
        picked = [distinct[i] for i in _picked([texts[i] for i in distinct], keep, ngram, pick, f"{seed}-{number}")]
        counts.not_picked += len(distinct) - len(picked)
        counts.kept += len(picked)
        counts.rows_kept += 1
        if len(picked) == 1:
            counts.meet("rows_with_one", number)
        made.append(_with(row, question.columns[1], question.rationales, picked))
    return made, counts


def _picked(texts: Sequence[str], keep: int, ngram: int, pick: Pick, seed: str) -> list[int]:
    if pick == "diverse":
        return farthest_first(texts, keep, ngram)
    places = range(len(texts))
    return sorted(Random(seed).sample(places, min(keep, len(texts)))) if pick == "random" else list(places[:keep])


def _with(row: Mapping[str, Any], column: str, rationales: Sequence[Any], picked: Sequence[int]) -> dict[str, Any]:
    made = {**row, column: [rationales[i] for i in picked]}
    if row.get(INDICES) is not None:
        made[INDICES] = [row[INDICES][i] for i in picked]
    return made
