"""Do scores of tokens find what is wrong? Measures for reward models and prefix values, without a model.

Higher scores are better throughout. A value is a probability that the answer will turn out right; as in IPVRM
(arXiv:2604.13197), the value at a token has seen that token. Means of tokens are taken within an answer first and then
over answers, which are what the 95 % intervals resample.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import combinations
from math import comb
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.common.errors import nearest
from trimtab.metrics.consistency import bootstrap, ranks
from trimtab.metrics.intervals import Array, Interval, bootstrap_ratio, paired_difference

Mask = NDArray[np.bool_]
Answers = Sequence[ArrayLike]
"""one list of numbers for each answer, a number for each of its tokens"""


def _numbers(given: ArrayLike, what: str) -> Array:
    found = np.asarray(given, np.float64)
    bad = np.flatnonzero(~np.isfinite(found))
    if len(bad):
        raise ValueError(f"{what}: number {bad[0] + 1} is {found.flat[bad[0]]:g}, which cannot be compared")
    return found


def _mean(values: ArrayLike, seed: int) -> Interval:
    """Of one value a row."""
    values = np.asarray(values, np.float64)
    return bootstrap_ratio(values, np.ones(len(values)), seed)


# ---------------------------------------------------------------- pairs and planted errors


def pair_accuracy(chosen: ArrayLike, rejected: ArrayLike, seed: int = 0) -> Interval:
    """Share of pairs whose chosen answer has the higher score, ties by half, with its interval over pairs.

    Args:
        chosen, rejected: [P] scores.
        seed: of the interval, here and below.

    Raises:
        ValueError: if the numbers differ, or a score is not finite.
    """
    one, other = _numbers(chosen, "chosen"), _numbers(rejected, "rejected")
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"scores of {one.size} chosen and {other.size} rejected answers; each pair has one of each")
    return _mean((np.sign(one - other) + 1) / 2, seed)


def mark(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> Mask:
    """[L] which tokens overlap one of the spans; tokens without a character, such as special ones, never do.

    Args:
        offsets: [L] (start, end) of each token in the text, as fast tokenizers give them.
        spans: (start, end) in the same text; as everywhere the end is the first character that is outside.

    Raises:
        ValueError: for a span that is empty.
    """
    starts, ends = np.asarray(offsets, int).reshape(-1, 2).T
    found = np.zeros(len(starts), bool)
    for number, (start, end) in enumerate(spans, 1):
        if start >= end:
            raise ValueError(f"span {number} is {(start, end)}; a span ends after it starts")
        found |= (starts < end) & (ends > start) & (starts < ends)
    return found


def auc(scores: ArrayLike, wrong: ArrayLike) -> float:
    """Probability that a wrong token has a lower score than another one, ties by half; NaN without both kinds.

    Args:
        scores: [L] of the tokens of one answer.
        wrong: [L] which of them are wrong.
    """
    values, bad = _numbers(scores, "scores"), np.asarray(wrong, bool)
    others = np.sort(values[~bad])
    if not len(others) or not bad.any():
        return np.nan
    places = [np.searchsorted(others, values[bad], side) for side in ("left", "right")]
    return float(1 - np.mean(places) / len(others))


class TokenAUC(NamedTuple):
    mean: Interval
    answers: int
    """over which the mean is"""
    left_out: int
    """answers without a wrong token, or without any other"""


def token_auc(scores: Answers, wrong: Answers, seed: int = 0) -> TokenAUC:
    """Mean of `auc` over answers, with its interval over them.

    Args:
        scores: of the tokens of each wrong answer.
        wrong: which of them are wrong, such as by `mark`.

    Raises:
        ValueError: if lengths differ, or a score is not finite.
    """
    values, marks = _marked(scores, wrong)
    found = np.array([auc(*pair) for pair in zip(values, marks)])
    known = found[~np.isnan(found)]
    return TokenAUC(_mean(known, seed), len(known), len(found) - len(known))


def _marked(scores: Answers, wrong: Answers) -> tuple[list[Array], list[Mask]]:
    if len(scores) != len(wrong):
        raise ValueError(f"{len(scores)} answers with scores and {len(wrong)} with marks")
    values = [_numbers(one, f"answer {number}") for number, one in enumerate(scores, 1)]
    marks = [np.asarray(one, bool) for one in wrong]
    for number, (value, of_answer) in enumerate(zip(values, marks), 1):
        if value.shape != of_answer.shape:
            raise ValueError(f"answer {number} has {value.size} scores and {of_answer.size} marks; each token has both")
    return values, marks


# ---------------------------------------------------------------- whole answers


def sign_accuracy(values: ArrayLike, outcomes: ArrayLike, seed: int = 0) -> Interval:
    """Share of answers whose value is above 0 if they are right, and not if they are wrong.

    Args:
        values: [A] of whole answers.
        outcomes: [A] 1 for right answers, 0 for wrong ones.

    Raises:
        ValueError: if numbers differ, a value is not finite, or an outcome is out of range.
    """
    value, right = _judged(values, outcomes)
    return _mean((value > 0) == (right > 0), seed)


def outcome_auc(values: ArrayLike, outcomes: ArrayLike, seed: int = 0) -> Interval:
    """Probability that a right answer has a higher value than a wrong one, ties by half, with its interval over
    answers; NaN without both kinds.

    Args and errors as of `sign_accuracy`.
    """

    def area(value: Array, right: Array) -> Array:
        rights, wrongs = right.sum(-1), (1 - right).sum(-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return ((ranks(value) * right).sum(-1) - rights * (rights + 1) / 2) / (rights * wrongs)

    return bootstrap(area, *_judged(values, outcomes), seed=seed)


class Bin(NamedTuple):
    answers: int
    predicted: float
    """mean value"""
    right: Interval
    """share of these answers that are right"""


def reliability(values: ArrayLike, outcomes: ArrayLike, seed: int = 0) -> list[Bin]:
    """Of the answers that are said to be right with about this probability, how many are.

    Args:
        values: [A] in [0, 1], of whole answers.
        outcomes: [A] 1 for right answers, 0 for wrong ones.

    Returns:
        Ten rows; row b is of the values from b / 10 and below (b + 1) / 10, and the last one also of 1.

    Raises:
        ValueError: if numbers differ, or a value or an outcome is out of range.
    """
    value, right = _judged(values, outcomes)
    _check_probabilities([np.array([one]) for one in value])
    place = np.minimum((10 * value).astype(int), 9)
    inside = [place == b for b in range(10)]
    return [
        Bin(int(own.sum()), float(value[own].mean()) if own.any() else np.nan, _mean(right[own], seed))
        for own in inside
    ]


def _judged(values: ArrayLike, outcomes: ArrayLike) -> tuple[Array, Array]:
    value, right = _numbers(values, "values"), _outcomes(outcomes)
    if value.shape != right.shape:
        raise ValueError(f"{value.size} answers and {right.size} outcomes")
    return value, right


# ---------------------------------------------------------------- prefix values


class Brier(NamedTuple):
    score: Interval
    """mean of (value - outcome)^2; 0 is perfect"""
    reference: Interval
    """p (1 - p), the score of always saying the share p of right answers"""
    gain: Interval
    """reference - score, both of the same resamples: what the values know beyond the share"""


def brier(values: Answers, outcomes: ArrayLike, seed: int = 0) -> Brier:
    """Brier score of prefix values against the outcome of their answer.

    Args:
        values: in [0, 1], of the tokens of each answer.
        outcomes: [A] 1 for right answers, 0 for wrong ones.

    Raises:
        ValueError: if numbers differ, an answer has no token, or a value or an outcome is out of range.
    """
    probabilities, right = _valued(values, outcomes)
    own = np.array([np.mean((one - y) ** 2) for one, y in zip(probabilities, right)])

    def variance(p: Array) -> Array:
        return p * (1 - p)

    return Brier(
        _mean(own, seed),
        bootstrap_ratio(right, np.ones(len(right)), seed, transform=variance),
        bootstrap(lambda own, right: variance(right.mean(-1)) - own.mean(-1), own, right, seed=seed),
    )


class Decile(NamedTuple):
    answers: int
    """that have a token there"""
    predicted: Interval
    """mean value"""
    right: Interval
    """share of these answers that are right"""
    brier: Interval


def calibration(values: Answers, outcomes: ArrayLike, seed: int = 0) -> list[Decile]:
    """What is predicted and what comes true, by how much of the answer has been read.

    Args:
        values, outcomes: see `brier`.

    Returns:
        Ten rows. After token t of L, counted from 1, the share t / L has been read; row d is of the shares above d / 10
        and up to (d + 1) / 10, so the last token of every answer is in the last row. Intervals are over answers.

    Raises:
        ValueError: see `brier`.
    """
    probabilities, right = _valued(values, outcomes)
    table = []
    places = [(10 * np.arange(1, len(one) + 1) - 1) // len(one) for one in probabilities]
    for decile in range(10):
        inside = [one[place == decile] for one, place in zip(probabilities, places)]
        there = [(one, y) for one, y in zip(inside, right) if len(one)]
        table.append(
            Decile(
                len(there),
                _mean([one.mean() for one, _ in there], seed),
                _mean([y for _, y in there], seed),
                _mean([np.mean((one - y) ** 2) for one, y in there], seed),
            )
        )
    return table


class AroundError(NamedTuple):
    before: Interval
    """mean value at the tokens before the first error"""
    after: Interval
    """mean value at the tokens after its end"""
    change: Interval
    """after - before, of the same answers"""
    answers: int
    left_out: int
    """answers without an error, or without a token on either side of it"""


def around_error(values: Answers, wrong: Answers, seed: int = 0) -> AroundError:
    """Do values fall at the first error? Mean values before and after it, with intervals over answers.

    Args:
        values: of the tokens of each wrong answer; any scores will do.
        wrong: which tokens are wrong. The first error is the first run of them; its own tokens count on neither side,
            and what comes after it counts whether it is marked or not.

    Raises:
        ValueError: see `token_auc`.
    """
    sides = []
    for one, bad in zip(*_marked(values, wrong)):
        start = int(np.argmax(bad)) if bad.any() else 0
        end = start + int(np.argmin(np.append(bad[start:], False)))
        if start > 0 and end < len(one):
            sides.append((one[:start].mean(), one[end:].mean()))
    before, after = np.array(sides, np.float64).reshape(-1, 2).T
    ones = np.ones(len(sides))
    change = paired_difference(before, ones, after, ones, seed)
    return AroundError(_mean(before, seed), _mean(after, seed), change, len(sides), len(values) - len(sides))


def _valued(values: Answers, outcomes: ArrayLike) -> tuple[list[Array], Array]:
    right = _outcomes(outcomes)
    if len(values) != len(right):
        raise ValueError(f"{len(values)} answers and {len(right)} outcomes")
    found = [_numbers(one, f"answer {number}") for number, one in enumerate(values, 1)]
    for number, one in enumerate(found, 1):
        if not len(one):
            raise ValueError(f"answer {number} has no tokens; leave it out")
    _check_probabilities(found)
    return found, right


def _check_probabilities(values: Sequence[Array]) -> None:
    for number, one in enumerate(values, 1):
        outside = one[(one < 0) | (one > 1)]
        if len(outside):
            raise ValueError(f"answer {number} holds {outside[0]:g}; values are probabilities, such as sigmoid(score)")


def _outcomes(outcomes: ArrayLike) -> Array:
    right = _numbers(outcomes, "outcomes")
    bad = np.flatnonzero((right != 0) & (right != 1))
    if len(bad):
        raise ValueError(f"outcome {bad[0] + 1} is {right.flat[bad[0]]:g}; right answers have 1 and wrong ones 0")
    return right


# ---------------------------------------------------------------- best of n

PICKS = ("highest", "majority", "weighted", "random", "distinct", "oracle")
"""Of n answers: the one with the highest score; the final answer that most have; the one with the largest sum of
weights; any; any of the different final answers; a right one if there is one. Scores that know nothing do about as well
as `distinct` and not as `random`, which draws what was given often more often: equal answers have equal scores."""


class BestOfN(NamedTuple):
    n: int
    accuracy: Mapping[str, Interval]
    """for each of PICKS, over problems"""
    over_majority: Mapping[str, Interval]
    """each other pick less the majority vote, paired by problem"""


def best_of_n(
    scores: ArrayLike,
    right: ArrayLike,
    answers: Sequence[Sequence[str | None]],
    *,
    weights: ArrayLike | None = None,
    subsets: int = 1000,
    seed: int = 0,
) -> list[BestOfN]:
    """Share of problems solved by picking one of n answers, for n = 1, 2, 4, ... and all there are.

    Where picks tie, the mean over them counts; so it does over the equal final answers that a vote picks. For smaller n
    the mean is over all subsets of n answers if there are at most `subsets`, and over as many random ones otherwise.

    Args:
        scores: [P, N] of each answer, such as its final value.
        right: [P, N] 1 for right answers, 0 for wrong ones.
        answers: [P][N] final answers in one form ("8" is not "8.0"); None where there is none, which wins a vote only
            against others like it.
        weights: [P, N] of the weighted vote, not negative, such as probabilities; the scores if not given.
        subsets: how many at most.
        seed: of the random subsets and the intervals.

    Raises:
        ValueError: if shapes differ, an outcome is out of range, or a weight is negative.
    """
    score, outcome = _numbers(scores, "scores"), _outcomes(right)
    weight = score if weights is None else _numbers(weights, "weights")
    if not score.shape == outcome.shape == weight.shape or score.ndim != 2 or not score.size:
        raise ValueError(
            f"scores of shape {score.shape}, outcomes of {outcome.shape}, weights of {weight.shape}; expected [P, N]"
        )
    problems, most = score.shape
    if len(answers) != problems:
        raise ValueError(f"scores of {problems} problems and answers of {len(answers)} problems")
    for number, given in enumerate(answers, 1):
        if len(given) != most:
            raise ValueError(f"answers of problem {number}: {len(given)}, but scores of {most}")
    if weight.min() < 0:
        raise ValueError(
            f"a vote with the weight {weight.min():g}; give weights= that are not negative, sigmoid(score)"
        )
    generator = np.random.default_rng(seed)
    rows = list(zip(score, outcome, weight, answers))
    curve = []
    for n in sorted({2**i for i in range(most.bit_length())} | {most}):
        inside = _subsets(most, n, subsets, generator)
        solved = dict(zip(PICKS, np.array([_picks(inside, *row) for row in rows]).T))  # each [P]
        ones, votes = np.ones(problems), solved["majority"]
        others = {name: paired_difference(votes, ones, own, ones, seed) for name, own in solved.items()}
        del others["majority"]
        curve.append(BestOfN(n, {name: _mean(own, seed) for name, own in solved.items()}, others))
    return curve


def _subsets(most: int, n: int, subsets: int, generator: np.random.Generator) -> Mask:
    """[S, most] which answers are in each subset of n: all subsets, or `subsets` random ones."""
    if comb(most, n) <= subsets:
        places = np.array(list(combinations(range(most), n)))
    else:
        places = generator.random((subsets, most)).argsort(axis=1)[:, :n]
    inside = np.zeros((len(places), most), bool)
    np.put_along_axis(inside, places, True, axis=1)
    return inside


def _picks(inside: Mask, score: Array, right: Array, weight: Array, answers: Sequence[str | None]) -> list[float]:
    """Of one problem: the mean over subsets of how often each of PICKS is right."""
    best = np.where(inside, score, -np.inf)
    top = best == best.max(axis=1, keepdims=True)
    names = list(dict.fromkeys(answers))
    same = np.array([[answer == name for name in names] for answer in answers], float)  # [N, names]
    drawn = inside.astype(float)
    votes = drawn @ same  # [S, names]
    of_name = (drawn @ (same * right[:, None])) / np.maximum(votes, 1)
    nobody = np.array([name is None for name in names])

    def elected(totals: Array) -> Array:
        totals = np.where(nobody, -1, totals)
        totals = np.where(votes > 0, totals, -2)
        largest = totals.max(axis=1, keepdims=True)
        won = totals >= largest - 1e-9 * abs(largest)  # sums of weights that are equal but for rounding
        return (won * of_name).sum(axis=1) / won.sum(axis=1)

    found = drawn @ right  # [S] right answers
    picks = (
        (top @ right) / top.sum(axis=1),
        elected(votes),
        elected(drawn @ (same * weight[:, None])),
        found / drawn.sum(axis=1),
        of_name.sum(axis=1) / (votes > 0).sum(axis=1),
        found > 0,
    )
    return [float(np.mean(pick)) for pick in picks]


# ---------------------------------------------------------------- steps as text


class Rendered(NamedTuple):
    text: str
    ends: list[int]
    """of each step: the character after its last one that is no white space"""


def rendered(steps: Sequence[str], *, numbered: bool = True) -> Rendered:
    """Steps as one text.

    Args:
        steps: without numbers.
        numbered: "Step 1: " and so on before each, with blank lines between them, as in the evaluation of IPVRM; or
            else the bare steps, each on a new line.
    """
    parts = [f"Step {number}: {step}" for number, step in enumerate(steps, 1)] if numbered else list(steps)
    between, start, ends = "\n\n" if numbered else "\n", 0, []
    for part in parts:
        ends.append(start + len(part.rstrip()))
        start += len(part) + len(between)
    return Rendered(between.join(parts), ends)


def step_tokens(offsets: Sequence[tuple[int, int]], ends: Sequence[int]) -> NDArray[np.int64]:
    """[K] index of the last token of each step: the last that begins before the step's end.

    Args:
        offsets: [L] (start, end) of the tokens in the whole text; those without a character, such as special tokens,
            are passed over. Where a chat template stands around the answer, move `ends` by what it writes before it.
        ends: [K] of the steps, see `rendered`.

    Raises:
        ValueError: if the tokens stop before a step does, or a step has no token of its own.
    """
    starts, stops = np.asarray(offsets, int).reshape(-1, 2).T
    real = np.flatnonzero(starts < stops)
    reached, last = (int(stops[real[-1]]) if len(real) else 0), -1
    found = []
    for number, end in enumerate(ends, 1):
        if end > reached:
            raise ValueError(
                f"step {number} ends at character {end}, but the tokens only reach character {reached}; cut nothing off"
            )
        own = real[starts[real] < end]
        if not len(own) or own[-1] == last:
            raise ValueError(f"step {number} has no token of its own; leave out empty steps")
        last = own[-1]
        found.append(last)
    return np.array(found, np.int64)


# ---------------------------------------------------------------- step verification

Rule = Literal["sum", "sum-diff", "mean", "mean-diff", "last", "step-mean"]
RULES: tuple[Rule, ...] = get_args(Rule)


def step_scores(tokens: ArrayLike, ends: Sequence[int] | NDArray[np.int64], rule: Rule, scale: float = 0.001) -> Array:
    """[K] scores of the steps of one answer from those of its tokens.

    For log-ratio rewards r, with c = `scale` and sigmoid s, over the tokens up to the step's end or of the step alone:

        sum        s(c sum r), up to the end          mean       s(mean(c r) / sqrt(c)), up to the end
        sum-diff   s(c sum r), of the step            mean-diff  s(mean(c r) / sqrt(c)), of the step

    For scalar scores or prefix values: `last` is the one at the step's last token, `step-mean` the mean over the step.

    Args:
        tokens: [L] in nats for the first four rules; the first step begins with the first token.
        ends: [K] index of the last token of each step, see `step_tokens`.
        rule: one of RULES; `sum-diff` is that of the paper's main tables.
        scale: c.

    Raises:
        ValueError: if the ends do not rise or leave the tokens, or there is no such rule.

    Source: evaluation of IPVRM (arXiv:2604.13197). That the means are of c r and not of r is a reading; the other one
    stretches all scores alike, which changes neither their order nor what the best threshold finds.
    """
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}; {nearest(rule, RULES, 'rules: ' + ', '.join(RULES))}")
    values, last = _numbers(tokens, "tokens"), np.asarray(ends, int)
    if not len(last) or last[0] < 0 or last[-1] >= len(values) or (np.diff(last) <= 0).any():
        raise ValueError(f"ends of steps {last.tolist()} do not rise within 0 to {len(values) - 1}")
    if rule == "last":
        return values[last]
    sums = np.cumsum(values)[last]
    lengths = last + 1
    if rule in ("sum-diff", "mean-diff", "step-mean"):
        sums, lengths = np.diff(sums, prepend=0), np.diff(lengths, prepend=0)
    if rule == "step-mean":
        return sums / lengths
    score = scale * sums if rule.startswith("sum") else scale * sums / lengths / np.sqrt(scale)
    return np.exp(-np.logaddexp(0, -score))


def first_error(scores: ArrayLike, threshold: float) -> int:
    """The first step whose score is below the threshold, counted from 0; -1 if there is none."""
    below = np.flatnonzero(np.asarray(scores) < threshold)
    return int(below[0]) if len(below) else -1


class StepF1(NamedTuple):
    f1: Interval
    """harmonic mean of the two accuracies; 0 where both are 0"""
    right: Interval
    """share of right traces in which no error was found"""
    erroneous: Interval
    """share of erroneous traces whose first error was found, at the right step"""
    thresholds: tuple[float, ...] = ()


def step_f1(predicted: Sequence[int], labels: Sequence[int], seed: int = 0, draws: int = 2000) -> StepF1:
    """ProcessBench's F1 with its interval over traces, drawn within the right and the erroneous ones.

    The interval takes the predictions as given: it does not know that a threshold was chosen.

    Args:
        predicted, labels: [T] index of the first wrong step from 0, or -1 for none.
        seed, draws: of the intervals.

    Returns:
        F1 is NaN without both kinds of traces; ends are NaN for fewer than two of a kind.

    Raises:
        ValueError: if the numbers differ.
    """
    guess, truth = np.asarray(predicted, int), np.asarray(labels, int)
    if guess.shape != truth.shape:
        raise ValueError(f"{guess.size} predictions and {truth.size} labels")
    hits = [(guess == truth)[kind].astype(float) for kind in (truth == -1, truth != -1)]
    accuracies = [bootstrap_ratio(hit, np.ones(len(hit)), seed, draws) for hit in hits]
    estimate = float(_harmonic(*(accuracy.estimate for accuracy in accuracies)))
    found = StepF1(Interval(estimate, np.nan, np.nan), *accuracies)
    return found._replace(f1=mean_f1([found], [labels], seed, draws))


def mean_f1(sets: Sequence[StepF1], labels: Sequence[Sequence[int]], seed: int = 0, draws: int = 2000) -> Interval:
    """Mean F1 over sets of traces, each of one weight, with its interval over the traces of each.

    Args:
        sets: see `step_f1`.
        labels: of each set.
        seed, draws: of the interval.

    Returns:
        NaN where the F1 of a set is; ends are NaN for fewer than two traces of a kind in a set.
    """
    estimate, generator, drawn = float(np.mean([one.f1.estimate for one in sets])), np.random.default_rng(seed), []
    for one, truth in zip(sets, labels, strict=True):
        right = sum(label == -1 for label in truth)
        numbers = (right, len(truth) - right)
        if min(numbers) < 2:
            return Interval(estimate, np.nan, np.nan)
        accuracies = zip(numbers, (one.right.estimate, one.erroneous.estimate))
        # the hits among n rows drawn with replacement are binomial
        drawn.append(_harmonic(*(generator.binomial(n, accuracy, draws) / n for n, accuracy in accuracies)))
    low, high = np.percentile(np.mean(drawn, axis=0), [2.5, 97.5])
    return Interval(estimate, float(low), float(high))


def _harmonic(one: ArrayLike, other: ArrayLike) -> Array:
    one, other = np.asarray(one), np.asarray(other)
    total = one + other
    return 2 * one * other / np.where(total == 0, 1, total)


GRID = np.linspace(-1, 1, 10_000)
"""Thresholds that the released protocol tries."""


def best_threshold(scores: Sequence[ArrayLike], labels: Sequence[int], grid: ArrayLike | None = None) -> float:
    """The threshold with the highest F1 on these traces; the lowest of several.

    Args:
        scores: of the steps of each trace.
        labels: [T] index of the first wrong step from 0, or -1 for none.
        grid: thresholds to choose from, such as GRID. If not given, those halfway between neighbouring scores: F1
            changes at scores alone, so no other threshold is better.

    Raises:
        ValueError: if a label is no step of its trace, a score is not finite, or traces of a kind are missing.
    """
    traces = _traces(scores, labels)
    return _best(*traces, _halfway(traces[0]) if grid is None else np.sort(np.asarray(grid, np.float64)))


def verification(
    scores: Sequence[ArrayLike], labels: Sequence[int], problems: Sequence[Hashable] | None = None, seed: int = 0
) -> dict[str, StepF1]:
    """F1 with the threshold chosen in three ways, each `StepF1` with its thresholds.

    `oracle`: the best there is, chosen on the very traces that it is measured on; `grid`: the same of the released
    protocol's 10,000. Both flatter. `held out`: chosen on one half of the problems and measured on the other, both
    ways, all predictions taken together.

    Args:
        scores, labels: see `best_threshold`.
        problems: [T] which problem each trace solves; traces of one problem stay in one half. If not given each trace
            is of its own.
        seed: of the split and the intervals.

    Raises:
        ValueError: see `best_threshold`; also if a half has no right or no erroneous traces.
    """
    traces, truth = _traces(scores, labels)
    keys = list(range(len(traces)) if problems is None else problems)
    if len(keys) != len(traces):
        raise ValueError(f"{len(keys)} problems for {len(traces)} traces")
    distinct = list(dict.fromkeys(keys))
    order = np.random.default_rng(seed).permutation(len(distinct))
    first = {distinct[place] for place in order[: len(order) // 2]}
    halves = [[i for i, key in enumerate(keys) if (key in first) == side] for side in (True, False)]

    def chosen(of: Sequence[int], candidates: Callable[[Sequence[Array]], Array]) -> float:
        part = [traces[i] for i in of]
        return _best(part, truth[of], candidates(part))

    everything = range(len(traces))
    for half in halves:
        if len(set(truth[half] == -1)) < 2:
            raise ValueError("a half of the problems has no right or no erroneous traces; give more, or another seed")
    oracle, on_grid = chosen(everything, _halfway), chosen(everything, lambda _: GRID)
    of_halves = [chosen(half, _halfway) for half in halves]
    thresholds = np.full((3, len(traces)), [[oracle], [on_grid], [of_halves[0]]])
    thresholds[2, halves[0]] = of_halves[1]
    used = ((oracle,), (on_grid,), tuple(of_halves))
    found = {}
    for name, own, kept in zip(("oracle", "grid", "held out"), thresholds, used):
        predicted = [first_error(one, threshold) for one, threshold in zip(traces, own)]
        found[name] = step_f1(predicted, truth.tolist(), seed)._replace(thresholds=kept)
    return found


def _traces(scores: Sequence[ArrayLike], labels: Sequence[int]) -> tuple[list[Array], NDArray[np.int64]]:
    if len(scores) != len(labels):
        raise ValueError(f"{len(scores)} traces and {len(labels)} labels")
    traces = [_numbers(one, f"trace {number}") for number, one in enumerate(scores, 1)]
    for number, (one, label) in enumerate(zip(traces, labels), 1):
        if not len(one):
            raise ValueError(f"trace {number} has no steps")
        if not -1 <= label < len(one):
            raise ValueError(
                f"trace {number} has {len(one)} steps and the label {label}; expected -1 to {len(one) - 1}"
            )
    truth = np.asarray(labels, np.int64)
    right = int((truth == -1).sum())
    if right in (0, len(truth)):
        raise ValueError(f"{right} right and {len(truth) - right} erroneous traces; F1 needs both")
    return traces, truth


def _halfway(traces: Sequence[Array]) -> Array:
    """The lowest score (nothing is below it) and what lies between neighbours, rising."""
    found = np.unique(np.concatenate(traces))
    between = found[:-1] / 2 + found[1:] / 2
    between = np.where(between > found[:-1], between, found[1:])  # neighbouring floats have no middle
    return np.append(found[:1], between)


def _best(traces: Sequence[Array], truth: NDArray[np.int64], thresholds: Array) -> float:
    """The threshold of highest F1. A trace is judged rightly by those above `low` and up to `high`."""
    accuracies = []
    for kind in (truth == -1, truth != -1):
        of_kind = [(one, label) for one, label, of_it in zip(traces, truth.tolist(), kind) if of_it]
        high = np.array([one[: label if label >= 0 else None].min(initial=np.inf) for one, label in of_kind])
        low = np.array([one[label] if label >= 0 else -np.inf for one, label in of_kind])
        low = np.minimum(low, high)  # an error that an earlier step hides is never found
        above, past = (np.searchsorted(np.sort(end), thresholds) for end in (low, high))
        accuracies.append((above - past) / len(of_kind))
    return float(thresholds[np.argmax(_harmonic(*accuracies))])
