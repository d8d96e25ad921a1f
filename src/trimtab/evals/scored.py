"""Answers that a reward model has scored token by token, and what the scores are worth where rows say what is right.

What the rows hold decides what is measured: pairs, answers with labels (several to a prompt for best of n), steps.
"""

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from trimtab.data.chat import text_of
from trimtab.data.rows import one_side, outcome, step_labels, stepwise
from trimtab.data.sources import DataError, Row
from trimtab.evals.suite import Measure
from trimtab.metrics import token_scores as credit
from trimtab.metrics.intervals import Array, Interval
from trimtab.metrics.token_scores import BestOfN, Bin, Decile, Rule, StepF1
from trimtab.objectives.credit import Source

Form = Literal["pairs", "answers", "steps"]
Side = Literal["answer", "chosen", "rejected"]
Span = tuple[int, int]
FINAL = ("answer_text", "final_answer")
"""columns that may hold the final answer of a text, for majority votes"""


# ---------------------------------------------------------------- rows


@dataclass(frozen=True)
class Asked:
    """An answer that is to be scored, and what its row says of it."""

    row: int
    """index in the source"""
    side: Side
    given: Mapping[str, Any]
    """prompt and completion, as `data.rows.prepare` takes them"""
    text: str
    right: bool | None = None
    """chosen answers are taken for right, rejected ones for wrong; None: unknown"""
    error: Span | None = None
    """characters of the answer"""
    kind: str | None = None
    """of the error"""
    wrong: tuple[Span, ...] = ()
    """what follows from the error"""
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


def read(rows: Sequence[Row], source: str = "rows", *, numbered: bool = False) -> list[Asked]:
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
            found += [_asked(index, row, side, side == "chosen", where) for side in ("chosen", "rejected")]
        elif form == "steps":
            found.append(_steps(index, row, numbered, where))
        else:
            right = bool(outcome(row, where)) if labelled else None
            found.append(_asked(index, row, "answer", right, where))
    return found


def _asked(index: int, row: Row, side: Side, right: bool | None, where: str) -> Asked:
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
        asked = given["prompt"]
        before = asked if isinstance(asked, list) else [{"role": "user", "content": asked}]
        given |= {"prompt": [*before, *answer[:-1]], "completion": answer[-1:]}
        answer = answer[-1:]
    last = answer[-1] if isinstance(answer, list) and answer else None
    text = answer if isinstance(answer, str) else text_of(last.get("content")) if isinstance(last, Mapping) else None
    if not isinstance(text, str) or (last is not None and last.get("role") != "assistant"):
        raise DataError(f"{where} has no answer: expected a text, or messages that end with one of the assistant")
    if side == "answer" and not text.strip():
        raise DataError(f"{where} has an empty answer; take such rows out")
    error, kind, wrong = (None, None, ()) if right else _spans(row, text, where)
    final = next((str(row[name]) for name in FINAL if row.get(name) is not None), None)
    return Asked(index, side, given, text, right, error, kind, wrong, final=final)


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


def _steps(index: int, row: Row, numbered: bool, where: str) -> Asked:
    given, steps, labels = stepwise(row, where), row["completions"], step_labels(row, where)
    if not steps:
        raise DataError(f"{where} has no steps; take such rows out")
    written = credit.rendered(steps, numbered=numbered)
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
    return Asked(
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
        kept = {"id": self.id, "row": self.row, "side": self.side, "answer": self.answer, "truncated": self.truncated}
        return {**kept, "tokens": self.tokens, "offsets": self.offsets, **numbers}

    @classmethod
    def from_record(cls, line: Mapping[str, Any]) -> "Scored":
        offsets = [(start, end) for start, end in line["offsets"]]
        kept = {name: line[name] for name in ("row", "side", "answer", "tokens", "scores", "values", "truncated")}
        return cls(**kept, offsets=offsets)


def digits(numbers: Iterable[float]) -> list[float]:
    """As they are written: nine digits hold a float32 exactly."""
    return [float(f"{x:.9g}") for x in numbers]


def step_tokens(asked: Asked, offsets: Sequence[Span], where: str) -> NDArray[np.int64]:
    """[K] index of the last token of each step.

    Raises:
        DataError: if a step has no token of its own.
    """
    try:
        return credit.step_tokens(offsets, asked.ends)
    except ValueError as error:
        raise DataError(f"{where}: {error}") from None


# ---------------------------------------------------------------- what they are worth


@dataclass(frozen=True)
class StepLine:
    """F1 of one way to find the first wrong step."""

    group: str
    """the split, or "all"; "mean" over splits"""
    rule: Rule
    threshold: str
    """how it was chosen: oracle, grid or held out"""
    f1: Interval
    traces: int
    right: Interval | None = None
    erroneous: Interval | None = None
    thresholds: tuple[float, ...] = ()


@dataclass
class Worth:
    """All that was measured."""

    measures: list[Measure] = field(default_factory=list)
    steps: list[StepLine] = field(default_factory=list)
    best_of_n: list[BestOfN] = field(default_factory=list)
    calibration: list[Decile] = field(default_factory=list)
    reliability: list[Bin] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Found = Sequence[tuple[Asked, Scored]]


def sigmoid(values: Any) -> Array:
    return np.exp(-np.logaddexp(0, -np.asarray(values, float)))


def worth(found: Found, source: Source, *, outcomes: bool, seed: int = 0) -> Worth:
    """Measure scores by what the rows say.

    Args:
        found: answers with their scores; of a pair both, or none.
        source: of the token scores.
        outcomes: whether sigma(value) is a probability that the answer is right.
        seed: of intervals, subsets and the halves of held-out thresholds.
    """
    result = Worth()
    known = [pair for pair in found if pair[0].right is not None]
    if not known:
        return result
    if known[0][0].ends:
        _verify(result, known, source, seed)
    elif known[0][0].side == "answer":
        _answers(result, known, outcomes, seed)
    else:
        chosen, rejected = ([pair for pair in known if pair[0].side == side] for side in ("chosen", "rejected"))
        pairs = list(zip(chosen, rejected, strict=True))
        for group, own in _by_kind(pairs, [pair[1][0].kind for pair in pairs]):
            one, other = ([scored.values[-1] for _, scored in side] for side in zip(*own))
            result.measures.append(Measure("pair accuracy", group, credit.pair_accuracy(one, other, seed), len(own)))
        _errors(result, rejected, outcomes, seed)
    return result


def _by_kind(items: Sequence[Any], kinds: Sequence[str | None]) -> Iterator[tuple[str, list[Any]]]:
    yield "all", list(items)
    for kind in sorted({kind for kind in kinds if kind is not None}):
        yield f"kind={kind}", [item for item, own in zip(items, kinds) if own == kind]


def _errors(result: Worth, found: Found, outcomes: bool, seed: int) -> None:
    """Do tokens that are marked as wrong score lower, and do values fall behind the error?"""
    found = [pair for pair in found if pair[0].error is not None]
    value = "probability" if outcomes else "value"
    for group, own in _by_kind(found, [asked.kind for asked, _ in found]) if found else ():
        errors = [credit.mark(scored.offsets, [asked.error]) for asked, scored in own]  # type: ignore[list-item]
        follows = [credit.mark(scored.offsets, [asked.error, *asked.wrong]) for asked, scored in own]  # type: ignore[list-item]
        scores = [scored.scores for _, scored in own]
        kinds = {"the error": errors}
        if any(asked.wrong for asked, _ in found):
            kinds["the error and what follows from it"] = follows
        for name, marks in kinds.items():
            area = credit.token_auc(scores, marks, seed)
            result.measures.append(Measure(f"token AUC of {name}", group, area.mean, area.answers))
        area = credit.token_auc(*_numbers_alone(own, errors), seed)  # numbers score unlike words, wrong or not
        result.measures.append(Measure("token AUC of the error among numbers", group, area.mean, area.answers))
        values = [sigmoid(scored.values) if outcomes else scored.values for _, scored in own]
        around = credit.around_error(values, errors, seed)
        for name, interval in (("before", around.before), ("after", around.after)):
            result.measures.append(Measure(f"mean {value} {name} the error", group, interval, around.answers))
        result.measures.append(Measure(f"change of {value} at the error", group, around.change, around.answers))


def _numbers_alone(found: Found, marks: Sequence[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores and marks of the tokens that hold a digit."""
    kept = [np.array([any(c.isdigit() for c in token) for token in scored.tokens], bool) for _, scored in found]
    scores = [np.asarray(scored.scores)[digits] for (_, scored), digits in zip(found, kept)]
    return scores, [np.asarray(mark)[digits] for mark, digits in zip(marks, kept)]


def _answers(result: Worth, found: Found, outcomes: bool, seed: int) -> None:
    right = [float(asked.right or 0) for asked, _ in found]
    finals, number = [scored.values[-1] for _, scored in found], len(found)

    def add(name: str, value: Interval) -> None:
        result.measures.append(Measure(name, "all", value, number))

    if outcomes:
        prefixes = [sigmoid(scored.values) for _, scored in found]
        add("accuracy of the sign", credit.sign_accuracy(finals, right, seed))
        score = credit.brier(prefixes, right, seed)
        add("Brier score of prefixes", score.score)
        add("Brier score of always saying the share of right answers", score.reference)
        add("gain in Brier score", score.gain)
        result.calibration = credit.calibration(prefixes, right, seed)
        result.reliability = credit.reliability(sigmoid(finals), right, seed)
    add("AUC of the final value", credit.outcome_auc(finals, right, seed))
    _errors(result, found, outcomes, seed)
    _best(result, found, seed)


def _best(result: Worth, found: Found, seed: int) -> None:
    """Best of n where prompts have several answers: of the n that uses most answers, the first n of each prompt."""
    groups: dict[str, list[tuple[Asked, Scored]]] = {}
    for pair in found:
        groups.setdefault(pair[0].prompt, []).append(pair)
    sizes = [len(own) for own in groups.values() if len(own) > 1]
    if not sizes:
        return
    n = max(sizes, key=lambda n: (n * sum(size >= n for size in sizes), n))
    chosen = [own[:n] for own in groups.values() if len(own) >= n]
    if len(chosen) < len(groups):
        result.notes.append(f"Best of n: {len(groups) - len(chosen)} prompts with fewer than {n} answers are left out.")
    finals = [[scored.values[-1] for _, scored in own] for own in chosen]
    right = [[float(asked.right or 0) for asked, _ in own] for own in chosen]
    texts = [[asked.final for asked, _ in own] for own in chosen]
    curve = credit.best_of_n(finals, right, texts, weights=sigmoid(finals), seed=seed)
    if not any(text is not None for own in texts for text in own):
        result.notes.append(
            f"Rows do not say their final answers ({' or '.join(FINAL)}), so there is no majority to compare with."
        )
        votes = ("majority", "weighted", "distinct")
        kept = [{k: v for k, v in one.accuracy.items() if k not in votes} for one in curve]
        curve = [one._replace(accuracy=accuracy, over_majority={}) for one, accuracy in zip(curve, kept)]
    result.best_of_n = curve


def _verify(result: Worth, found: Found, source: Source, seed: int) -> None:
    """ProcessBench's table."""
    ratios = source == "ratio"
    rules = credit.RULES[:4] if ratios else credit.RULES[4:]
    whole = [pair for pair in found if not pair[1].truncated]
    if len(whole) < len(found):
        result.notes.append(f"Steps: {len(found) - len(whole)} answers that are cut are left out.")
    splits: dict[str, list[tuple[Asked, Scored]]] = {}
    for pair in whole:
        splits.setdefault(pair[0].split or "all", []).append(pair)
    ends = {asked.id: step_tokens(asked, scored.offsets, f"row {asked.row + 1}") for asked, scored in whole}
    for rule in rules:
        measured: dict[str, dict[str, StepF1]] = {}
        for split, own in splits.items():
            labels = [asked.first_error for asked, _ in own]
            right = sum(label < 0 for label in labels)
            if min(right, len(own) - right) < 2:
                result.notes.append(f"{split}: {right} right and {len(own) - right} erroneous traces are too few.")
                continue
            scores = [credit.step_scores(scored.scores, ends[asked.id], rule) for asked, scored in own]
            problems: list[Hashable] = [asked.prompt for asked, _ in own]
            try:
                measured[split] = credit.verification(scores, labels, problems, seed)
            except ValueError as error:  # a half without both kinds
                result.notes.append(f"{split}: {error}")
        for split, of in measured.items():
            for threshold, one in of.items():
                if ratios or threshold != "grid":  # the grid is that of log-ratios' scores
                    number = len(splits[split])
                    result.steps.append(StepLine(split, rule, threshold, one.f1, number, *one[1:]))
        if len(measured) > 1:
            labels = [[asked.first_error for asked, _ in splits[split]] for split in measured]
            for threshold in next(iter(measured.values())):
                if ratios or threshold != "grid":
                    mean = credit.mean_f1([of[threshold] for of in measured.values()], labels, seed)
                    result.steps.append(StepLine("mean", rule, threshold, mean, sum(map(len, labels))))
    result.notes = list(dict.fromkeys(result.notes))


def plain(thing: Any) -> Any:
    """Measures as JSON: tuples with names as objects, NaN and infinity as null."""
    if isinstance(thing, Interval):
        return [plain(x) for x in thing]
    if hasattr(thing, "_asdict"):
        return plain(thing._asdict())
    if isinstance(thing, Mapping):
        return {key: plain(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [plain(value) for value in thing]
    return None if isinstance(thing, float) and not np.isfinite(thing) else thing


def dumped(result: Worth) -> dict[str, Any]:
    """All that was measured, as JSON."""
    found = {name: plain(getattr(result, name)) for name in ("measures", "best_of_n", "calibration", "reliability")}
    return {**found, "steps": [plain(vars(line)) for line in result.steps], "notes": result.notes}
