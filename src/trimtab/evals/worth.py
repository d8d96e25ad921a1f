"""What token scores are worth where rows say what is correct: pairs, answers with labels (several to a prompt for best
of n), or steps.
"""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trimtab.evals.scored import FINAL, Answer, Scored, step_tokens
from trimtab.evals.suite import Estimate, plain
from trimtab.metrics.best_of_n import BestOfN, best_of_n
from trimtab.metrics.calibration import Bin, Decile, brier, calibration, reliability
from trimtab.metrics.intervals import Array, Interval
from trimtab.metrics.step_f1 import StepF1, mean_f1, verification
from trimtab.metrics.step_scores import RULES, Rule, step_scores
from trimtab.metrics.token_scores import around_error, mark, outcome_auc, pair_accuracy, sign_accuracy, token_auc
from trimtab.objectives.reward_models import Source


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

    measures: list[Estimate] = field(default_factory=list)
    steps: list[StepLine] = field(default_factory=list)
    best_of_n: list[BestOfN] = field(default_factory=list)
    calibration: list[Decile] = field(default_factory=list)
    reliability: list[Bin] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Found = Sequence[tuple[Answer, Scored]]


def sigmoid(values: Any) -> Array:
    return np.exp(-np.logaddexp(0, -np.asarray(values, float)))


def worth(found: Found, source: Source, *, outcomes: bool, seed: int = 0) -> Worth:
    """Measure scores by what the rows say.

    Args:
        found: answers with their scores; of a pair both, or none.
        outcomes: whether sigma(value) is a probability that the answer is correct.
        seed: of intervals, subsets and the halves of held-out thresholds.
    """
    result = Worth()
    known = [pair for pair in found if pair[0].correct is not None]
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
            result.measures.append(Estimate("pair accuracy", group, pair_accuracy(one, other, seed), len(own)))
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
    for group, own in _by_kind(found, [answer.kind for answer, _ in found]) if found else ():
        errors = [mark(scored.offsets, [answer.error]) for answer, scored in own]  # type: ignore[list-item]
        follows = [mark(scored.offsets, [answer.error, *answer.consequences]) for answer, scored in own]  # type: ignore[list-item]
        scores = [scored.scores for _, scored in own]
        kinds = {"the error": errors}
        if any(answer.consequences for answer, _ in found):
            kinds["the error and what follows from it"] = follows
        for name, marks in kinds.items():
            area = token_auc(scores, marks, seed)
            result.measures.append(Estimate(f"token AUC of {name}", group, area.mean, area.answers))
        area = token_auc(*_numbers_alone(own, errors), seed)  # numbers score unlike words, wrong or not
        result.measures.append(Estimate("token AUC of the error among numbers", group, area.mean, area.answers))
        values = [sigmoid(scored.values) if outcomes else scored.values for _, scored in own]
        around = around_error(values, errors, seed)
        for name, interval in (("before", around.before), ("after", around.after)):
            result.measures.append(Estimate(f"mean {value} {name} the error", group, interval, around.answers))
        result.measures.append(Estimate(f"change of {value} at the error", group, around.change, around.answers))


def _numbers_alone(found: Found, marks: Sequence[Any]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Scores and marks of the tokens that hold a digit."""
    digits = [np.array([any(c.isdigit() for c in token) for token in scored.tokens], bool) for _, scored in found]
    scores = [np.asarray(scored.scores)[own] for (_, scored), own in zip(found, digits)]
    return scores, [np.asarray(mark)[own] for mark, own in zip(marks, digits)]


def _answers(result: Worth, found: Found, outcomes: bool, seed: int) -> None:
    correct = [float(answer.correct or 0) for answer, _ in found]
    finals, number = [scored.values[-1] for _, scored in found], len(found)

    def add(name: str, value: Interval) -> None:
        result.measures.append(Estimate(name, "all", value, number))

    if outcomes:
        prefixes = [sigmoid(scored.values) for _, scored in found]
        add("accuracy of the sign", sign_accuracy(finals, correct, seed))
        score = brier(prefixes, correct, seed)
        add("Brier score of prefixes", score.score)
        add("Brier score of always saying the share of right answers", score.reference)
        add("gain in Brier score", score.gain)
        result.calibration = calibration(prefixes, correct, seed)
        result.reliability = reliability(sigmoid(finals), correct, seed)
    add("AUC of the final value", outcome_auc(finals, correct, seed))
    _errors(result, found, outcomes, seed)
    _best(result, found, seed)


def _best(result: Worth, found: Found, seed: int) -> None:
    """Best of n where prompts have several answers: of the n that uses most answers, the first n of each prompt."""
    groups: dict[str, list[tuple[Answer, Scored]]] = {}
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
    correct = [[float(answer.correct or 0) for answer, _ in own] for own in chosen]
    texts = [[answer.final for answer, _ in own] for own in chosen]
    curve = best_of_n(finals, correct, texts, weights=sigmoid(finals), seed=seed)
    if not any(text is not None for own in texts for text in own):
        result.notes.append(
            f"Rows do not say their final answers ({' or '.join(FINAL)}), so there is no majority to compare with."
        )
        votes = ("majority", "weighted", "distinct")
        accuracies = [{k: v for k, v in one.accuracy.items() if k not in votes} for one in curve]
        curve = [one._replace(accuracy=accuracy, over_majority={}) for one, accuracy in zip(curve, accuracies)]
    result.best_of_n = curve


def _verify(result: Worth, found: Found, source: Source, seed: int) -> None:
    """ProcessBench's table."""
    ratios = source == "ratio"
    rules = RULES[:4] if ratios else RULES[4:]
    whole = [pair for pair in found if not pair[1].truncated]
    if len(whole) < len(found):
        result.notes.append(f"Steps: {len(found) - len(whole)} answers that are cut are left out.")
    splits: dict[str, list[tuple[Answer, Scored]]] = {}
    for pair in whole:
        splits.setdefault(pair[0].split or "all", []).append(pair)
    ends = {answer.id: step_tokens(answer, scored.offsets, f"row {answer.row + 1}") for answer, scored in whole}
    for rule in rules:
        measured: dict[str, dict[str, StepF1]] = {}
        for split, own in splits.items():
            labels = [answer.first_error for answer, _ in own]
            correct = sum(label < 0 for label in labels)
            if min(correct, len(own) - correct) < 2:
                result.notes.append(f"{split}: {correct} right and {len(own) - correct} erroneous traces are too few.")
                continue
            scores = [step_scores(scored.scores, ends[answer.id], rule) for answer, scored in own]
            problems: list[Hashable] = [answer.prompt for answer, _ in own]
            try:
                measured[split] = verification(scores, labels, problems, seed)
            except ValueError as error:  # a half without both kinds
                result.notes.append(f"{split}: {error}")
        for split, of in measured.items():
            for threshold, one in of.items():
                if ratios or threshold != "grid":  # the grid is that of log-ratios' scores
                    number = len(splits[split])
                    result.steps.append(StepLine(split, rule, threshold, one.f1, number, *one[1:]))
        if len(measured) > 1:
            labels = [[answer.first_error for answer, _ in splits[split]] for split in measured]
            for threshold in next(iter(measured.values())):
                if ratios or threshold != "grid":
                    mean = mean_f1([of[threshold] for of in measured.values()], labels, seed)
                    result.steps.append(StepLine("mean", rule, threshold, mean, sum(map(len, labels))))
    result.notes = list(dict.fromkeys(result.notes))


def dumped(result: Worth) -> dict[str, Any]:
    """All that was measured, as JSON."""
    found = {name: plain(getattr(result, name)) for name in ("measures", "best_of_n", "calibration", "reliability")}
    return {**found, "steps": [plain(vars(line)) for line in result.steps], "notes": result.notes}
