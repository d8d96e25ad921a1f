"""Numbers of the suite `tools`: ratios over turns, with intervals over trajectories."""

from collections.abc import Callable, Mapping, Sequence

from trimtab.evals.suite import Answered, Estimate, Item, grouped
from trimtab.metrics.intervals import bootstrap_ratio
from trimtab.metrics.tool_calls import Judged, judge, read

Value = Callable[[Judged], float | None]
"""of a turn; None where it does not count"""
VALUES: Mapping[str, Value] = {
    "plan accuracy": lambda one: float(one.plan),
    "action EM": lambda one: None if one.action is None else float(one.action),
    "hallucination, per turn": lambda one: float(one.hallucinated),
    "hallucination, per call": lambda one: float(one.hallucinated) if one.calls else None,
    "undecided, read as calls": lambda one: float(one.undecided),
    "argument F1": lambda one: one.arguments,
    "argument F1, hard": lambda one: one.hard,
    "argument F1, easy": lambda one: one.easy,
    "ROUGE-L": lambda one: one.rouge,
    "ROUGE-L, words": lambda one: one.rouge_words,
}

BY_PLAN = ("plan accuracy", "undecided, read as calls")
"""those that say something of turns with one and the same plan"""


def judged(item: Item, text: str) -> Judged:
    """A turn, against the item's reference."""
    return judge(read(item.target[0]), read(text), item.data["names"])


def measures(answered: Sequence[Answered], joined: Callable[[Item, Sequence[str]], str]) -> list[Estimate]:
    """Each metric over all turns and by each group.

    Turns of one trajectory are not independent, so that intervals are of trajectories drawn with replacement; those
    without a turn that counts are not drawn.
    """
    verdicts = {one.item.id: judged(one.item, joined(one.item, one.answers)) for one in answered}
    found = []
    for group, members in grouped(answered).items():
        some = BY_PLAN if group.startswith("plan=") else VALUES
        for name, value in [(name, VALUES[name]) for name in some]:
            by_trajectory: dict[str, list[float]] = {}
            for one in members:
                worth = value(verdicts[one.item.id])
                if worth is not None:
                    by_trajectory.setdefault(one.item.data["trajectory"], []).append(worth)
            if by_trajectory:
                counts = [len(values) for values in by_trajectory.values()]
                interval = bootstrap_ratio([sum(values) for values in by_trajectory.values()], counts)
                found.append(Estimate(name, group, interval, sum(counts)))
    return found
