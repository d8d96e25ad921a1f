"""From token scores to step scores: rendering steps as text, their last tokens, and aggregation rules."""

from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trimtab.common.errors import nearest
from trimtab.metrics._checked import finite
from trimtab.metrics.intervals import Array


class Rendered(NamedTuple):
    text: str
    ends: list[int]
    """for each step, the index after its last character that is not whitespace"""


def rendered(steps: Sequence[str], *, numbered: bool = True) -> Rendered:
    """Steps as one text.

    Args:
        steps: without numbers.
        numbered: "Step 1: " and so on before each, with blank lines between them, as in the evaluation of IPVRM;
            otherwise the bare steps, each on a new line.
    """
    parts = [f"Step {number}: {step}" for number, step in enumerate(steps, 1)] if numbered else list(steps)
    between, start, ends = "\n\n" if numbered else "\n", 0, []
    for part in parts:
        ends.append(start + len(part.rstrip()))
        start += len(part) + len(between)
    return Rendered(between.join(parts), ends)


def step_tokens(offsets: Sequence[tuple[int, int]], ends: Sequence[int]) -> NDArray[np.int64]:
    """[K] index of the last token of each step: the last one that starts before the step's end.

    Args:
        offsets: [L] (start, end) of the tokens in the whole text; empty ones, such as special tokens, are skipped. If
            a chat template surrounds the answer, shift `ends` by the length of what it writes before it.
        ends: [K] of the steps, see `rendered`.

    Raises:
        ValueError: if the tokens end before a step does, or a step has no token of its own.
    """
    starts, stops = np.asarray(offsets, int).reshape(-1, 2).T
    real = np.flatnonzero(starts < stops)
    reached, last = (int(stops[real[-1]]) if len(real) else 0), -1
    found = []
    for number, end in enumerate(ends, 1):
        if end > reached:
            raise ValueError(
                f"step {number} ends at character {end}, but the tokens end at character {reached}; do not truncate"
            )
        own = real[starts[real] < end]
        if not len(own) or own[-1] == last:
            raise ValueError(f"step {number} has no token of its own; leave out empty steps")
        last = own[-1]
        found.append(last)
    return np.array(found, np.int64)


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
        rule: one of RULES; the paper's main tables use `sum-diff`.
        scale: c.

    Raises:
        ValueError: if the ends are not ascending or out of range, or for an unknown rule.

    Source: evaluation of IPVRM (arXiv:2604.13197). That the means are of c r and not of r is our interpretation; the
    other one rescales all scores alike, which changes neither their order nor the result of the best threshold.
    """
    if rule not in RULES:
        raise ValueError(f"there is no rule {rule!r}; {nearest(rule, RULES, 'rules: ' + ', '.join(RULES))}")
    values, last = finite(tokens, "tokens"), np.asarray(ends, int)
    if not len(last) or last[0] < 0 or last[-1] >= len(values) or (np.diff(last) <= 0).any():
        raise ValueError(f"ends of steps {last.tolist()} are not ascending within 0 to {len(values) - 1}")
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
