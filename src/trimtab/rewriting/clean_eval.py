"""Clean-Eval: a test set in other words, for models that may have been trained on it (arXiv:2311.09154).

`clean` makes candidates for each text, throws out those that lose a protected span or the meaning, and takes one by its
similarity to the original: in the middle, because near copies are still remembered and far ones have lost the meaning.
Options and answers stay as they are. Every row keeps all its candidates, with what became of them.

The authors released no code. What the paper does not say (numbers of candidates, pivots, the band, the detector) is
this file's choice and is named where it is made.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from trimtab.common import fingerprint
from trimtab.common.errors import check_answered
from trimtab.data.sources import Row
from trimtab.evals.models import Model, Reply
from trimtab.evals.prompts import zero_shot
from trimtab.evals.suite import Item, user
from trimtab.rewards import parsing
from trimtab.rewards.options import lettered
from trimtab.rewriting.options import CleanEvalSettings
from trimtab.rewriting.protected import broken, named
from trimtab.rewriting.questions import (
    COLUMNS,
    Candidate,
    Cleaned,
    CleanEvalError,
    CleanQuestion,
    Pair,
    PairScorer,
    read,
)
from trimtab.rewriting.rewriters import Request, Rewriter, Rewritten, Way

READER_TOKENS = 512
"""of a reader's answer; one that reasons needs them"""


# ---------------------------------------------------------------- the pipeline


def clean(
    rows: Sequence[Row],
    rewriter: Rewriter,
    detector: PairScorer | None,
    scorer: PairScorer,
    settings: CleanEvalSettings | None = None,
    *,
    reader: Model | None = None,
    fields: Sequence[str] = ("question",),
    stored: dict[str, Any] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cleaned:
    """The rows in other words, in their order; the same arguments give the same rows.

    Each row keeps its columns and gains: `clean` {field: text}; `origin` and `score` {field: of the chosen candidate,
    or None where the text stays}; `kept` and `generated`, numbers of candidates; `dropped` {reason: number};
    `rewritten`, whether every text was; `candidates` {field: all of them, with origin, seed, prompts, detector's value,
    score and why it was dropped}. Rows that were cleaned before are cleaned from their original texts.

    Args:
        rows, fields: see `read`.
        detector: without one every candidate counts as meaning the same.
        reader: answers each original and each candidate that is left, with all options; a candidate that it answers
            otherwise than the original, or not at all, is dropped. An original without an answer drops none.
        stored: key -> [text, via], candidates of an earlier, unfinished call, which are not made again; new ones are
            added to it, a batch at a time, without those that ended in an error.
        progress: called with (requests answered, all requests) before each round's first batch and after each batch.

    Raises:
        CleanEvalError: for rows that make no sense, or that have no options where a reader is to answer.

    Source: Clean-Eval (arXiv:2311.09154); reasons for a drop, in order: error, empty, identical, duplicate, a kind of
    `protected.KINDS`, meaning, answer.
    """
    settings = settings or CleanEvalSettings()
    questions = read(rows, fields)
    bare = next((number for number, question in enumerate(questions, 1) if not question.offered), None)
    if reader is not None and bare is not None:
        raise CleanEvalError(
            f"row {bare} has no options, by which a reader's answers are compared; leave the reader out"
        )
    replies: dict[str, Reply] = {}
    stored = {} if stored is None else stored
    found: dict[tuple[int, str], list[Candidate]] = {}
    for attempt in range(settings.retries + 1 if settings.unrewritten == "retry" else 1):
        pending = [
            (i, name)
            for i, question in enumerate(questions)
            for name in question.texts
            if all(candidate.why for candidate in found.get((i, name), ()))
        ]
        made = _candidates(questions, pending, rewriter, settings, settings.seed + 1000 * attempt, stored, progress)
        for place, candidates in made.items():
            found.setdefault(place, []).extend(candidates)
        _drop(questions, {place: found[place] for place in pending}, detector)
        if reader is not None:
            _compare_answers(questions, {place: found[place] for place in pending}, reader, replies)
    survivors = {place: [one for one in all_ if one.why is None] for place, all_ in found.items()}
    every = [one for left in survivors.values() for one in left]
    texts = [(questions[i].texts[name], one.text) for (i, name), left in survivors.items() for one in left]
    for one, score in zip(every, scorer(texts) if texts else (), strict=True):
        one.score = float(score)
    names = dict.fromkeys(name for _, name in found)
    scores = {name: [one.score for (_, of), left in survivors.items() if of == name for one in left] for name in names}
    bands = {name: settings.band or middle_third(scores[name]) for name in names if scores[name]}
    result: list[Row] = []
    left_out: list[Row] = []
    for i, question in enumerate(questions):
        chosen = {
            name: left[select([one.score for one in left], settings, bands[name], (question.id, name))]
            if left
            else None
            for name, left in ((name, survivors[i, name]) for name in question.texts)
        }
        row = _row(question, chosen, {name: found[i, name] for name in question.texts})
        (result if row["rewritten"] or settings.unrewritten != "drop" else left_out).append(row)
    return Cleaned(result, left_out, bands)


def _candidates(
    questions: Sequence[CleanQuestion],
    places: Sequence[tuple[int, str]],
    rewriter: Rewriter,
    settings: CleanEvalSettings,
    seed: int,
    stored: dict[str, Any],
    progress: Callable[[int, int], None],
) -> dict[tuple[int, str], list[Candidate]]:
    """One candidate for each place and way; whatever is not stored yet is made.

    Batches are cut from the list of all requests, stored or not, so that a resume asks in the same company.
    """
    requests: dict[str, Request] = {}
    keys: dict[tuple[int, str, Way], list[tuple[str, str, str]]] = {}
    for i, name in places:
        question = questions[i]
        text = question.texts[name]
        keep = tuple(o for o in (*question.answer, *question.options) if len(o) > 1 and named(o).search(text))
        for way in rewriter.ways:
            for piece, gap in pieces(text, settings.longest):
                request = Request(piece, way, seed + way.draw, keep)
                key = fingerprint.of_values([rewriter.name, request])
                requests[key] = request
                keys.setdefault((i, name, way), []).append((key, piece, gap))
    every = list(requests.items())
    failed: dict[str, Rewritten] = {}
    progress(0, len(every))
    for start in range(0, len(every), settings.batch):
        batch = dict(every[start : start + settings.batch])
        if any(key not in stored for key in batch):
            made = rewriter(list(batch.values()))
            for key, one in zip(batch, made, strict=True):
                if one.error is not None:
                    failed[key] = one
                elif key not in stored:
                    stored[key] = [one.text, list(one.via)]
            sent = every[: start + settings.batch]
            check_answered((failed[key].error if key in failed else None for key, _ in sent), rewriter.name)
        progress(min(start + settings.batch, len(every)), len(every))
    found: dict[tuple[int, str], list[Candidate]] = {}
    for (i, name, way), parts in keys.items():
        rewritten = [stored[key] if key in stored else failed[key][:2] for key, _, _ in parts]
        # a piece that could not be rewritten stays, if another could
        texts = [new or old for (new, _), (_, old, _) in zip(rewritten, parts)]
        text = "".join(new + gap for new, (_, _, gap) in zip(texts, parts)) if any(new for new, _ in rewritten) else ""
        via = [step for _, steps in rewritten for step in steps]
        error = next((failed[key].error for key, _, _ in parts if key not in stored), None)
        one = Candidate("" if error else text, way.origin, seed + way.draw, way.prompts, via, error=error)
        found.setdefault((i, name), []).append(one)
    return found


def pieces(text: str, longest: int) -> Iterator[tuple[str, str]]:
    """(piece, what stands between it and the next); a piece ends with a sentence or a line, and is at most `longest`
    characters long if its sentences are. What joins them is the text, byte for byte."""
    start = end = 0
    for match in re.finditer(r"(?<=[.!?])\s+|\n\s*|$", text):
        if match.start() - start > longest and end > start:
            gap = len(text[start:end]) - len(text[start:end].rstrip())
            yield text[start : end - gap], text[end - gap : end]
            start = end
        end = match.end()
    yield text[start:], ""


def _drop(
    questions: Sequence[CleanQuestion], found: dict[tuple[int, str], list[Candidate]], detector: PairScorer | None
) -> None:
    """Write into each candidate why it is dropped, where it is."""
    doubtful: list[tuple[Pair, Candidate]] = []
    for (i, name), candidates in found.items():
        question, original = questions[i], questions[i].texts[name]
        seen = {_plain(one.text) for one in candidates if one.why is not None}
        for one in candidates:
            if one.why is not None:
                continue
            plain = _plain(one.text)
            if one.error is not None:
                one.why = "error"
            elif not plain:
                one.why = "empty"
            elif plain == _plain(original):
                one.why = "identical"
            elif plain in seen:
                one.why = "duplicate"
            else:
                one.why = broken(original, one.text, question.options, question.answer)
                if one.why is None:
                    doubtful.append(((original, one.text), one))
            seen.add(plain)
    if detector is None:
        return
    for (_, one), value in zip(doubtful, detector([pair for pair, _ in doubtful]) if doubtful else (), strict=True):
        if math.isnan(value):
            one.why, one.error = "error", f"{detector.name} gave no answer"
            continue
        one.same = float(value)
        one.why = None if one.same >= detector.threshold else "meaning"


def _compare_answers(
    questions: Sequence[CleanQuestion],
    found: dict[tuple[int, str], list[Candidate]],
    reader: Model,
    replies: dict[str, Reply],
) -> None:
    """Drop candidates that change the reader's answer; `replies` to prompts are used again and added to."""
    left = [(questions[i], name, one) for (i, name), of in found.items() for one in of if one.why is None]
    prompts = [(_prompt(q, name, q.texts[name]), _prompt(q, name, one.text)) for q, name, one in left]
    new = [prompt for prompt in dict.fromkeys(prompt for pair in prompts for prompt in pair) if prompt not in replies]
    for start in range(0, len(new), reader.batch):
        batch = new[start : start + reader.batch]
        replies.update(zip(batch, reader.answer([user(prompt) for prompt in batch], READER_TOKENS), strict=True))
    for (question, _, one), pair in zip(left, prompts):
        one.error = next((replies[prompt].error for prompt in pair if replies[prompt].error), None)
        before, after = (parsing.letters(replies[prompt].text, lettered(question.offered)) for prompt in pair)
        one.why = "error" if one.error else "answer" if before and before != after else None


def _prompt(question: CleanQuestion, name: str, text: str) -> str:
    """The reader's prompt: the row's texts in their order, one of them replaced by `text`, and the options."""
    fields = question.row.get("fields", question.texts)
    texts = [text if field == name else other for field, other in fields.items() if isinstance(other, str)]
    (message,) = zero_shot(Item(question.id, "\n\n".join(texts), lettered(question.offered)))
    return message["content"]


def _plain(text: str) -> str:
    """What is left of a text when case, spaces and the last full stop do not count."""
    return " ".join(text.casefold().split()).rstrip(".?! ")


def middle_third(scores: Sequence[float | None]) -> tuple[float, float]:
    """The tertile boundaries of the scores."""
    low, high = np.quantile(np.array(scores, float), [1 / 3, 2 / 3])
    return float(low), float(high)


def select(scores: Sequence[Any], settings: CleanEvalSettings, band: tuple[float, float], place: Any = None) -> int:
    """The index of the survivor that becomes a text's rewrite; of equal scores the first counts.

    Args:
        band: scores that count as moderate. The one nearest to its middle is taken; if none lies inside, the text's
            median (of an even number the lower).
        place: what a random choice depends on besides the seed.
    """
    order = sorted(range(len(scores)), key=lambda i: scores[i])
    if settings.select == "lowest":
        return order[0]
    if settings.select == "highest":
        return max(range(len(scores)), key=lambda i: scores[i])
    if settings.select == "random":
        return int(fingerprint.of_values([settings.seed, place]), 16) % len(scores)
    inside = [i for i, score in enumerate(scores) if band[0] <= score <= band[1]]
    if not inside:
        return order[(len(order) - 1) // 2]
    return min(inside, key=lambda i: abs(scores[i] - sum(band) / 2))


def _row(question: CleanQuestion, chosen: dict[str, Candidate | None], candidates: dict[str, list[Candidate]]) -> Row:
    every = [one for all_ in candidates.values() for one in all_]
    return {
        **{key: value for key, value in question.row.items() if key not in COLUMNS},
        "clean": {name: one.text if one else question.texts[name] for name, one in chosen.items()},
        "origin": {name: one.origin if one else None for name, one in chosen.items()},
        "score": {name: one.score if one else None for name, one in chosen.items()},
        "kept": sum(one.why is None for one in every),
        "generated": len(every),
        "dropped": dict(Counter(one.why for one in every if one.why is not None)),
        "rewritten": None not in chosen.values(),
        "candidates": {name: [asdict(one) for one in all_] for name, all_ in candidates.items()},
    }
