"""Numbers of the suite `edit`: means over edits of the mean over each edit's probes."""

import math
from collections.abc import Callable, Iterable, Sequence

from trimtab.evals.judges import contains
from trimtab.evals.suite import Answered, Estimate
from trimtab.metrics.intervals import Interval, mean_of

PROBES = ("reliability", "generalisation", "locality", "portability", "negation", "reversal", "longform", "general")
SHORT = ("reliability", "generalisation")
NO_MATCH = ("longform",)
"""probes whose right answer is never the answer alone"""
Value = Callable[[Answered], float | None]
"""of one probe; None where it does not count"""


def measures(answered: Sequence[Answered]) -> list[Estimate]:
    """What the verdicts by rule give: see `judged_measures`, and what needs no judge.

    Edits that the model knew before are in "known before" and nowhere else, but for their neighbours and the general
    facts, which stay.
    """
    found: list[Estimate] = []
    for group, members in by_mode(answered).items():
        counted = [one for one in members if not known(one)]
        for judge in ("contains", "match"):
            found += judged_measures(judge, group, members, lambda one, judge=judge: by_rule(one, judge))
        found += _of_replies(group, members, counted)
        found.append(agreement("contains", "match", group, members, lambda one: one.verdicts["contains"].value))
    return found


def by_mode(answered: Iterable[Answered]) -> dict[str, list[Answered]]:
    """ "all", and each mode where there are several."""
    everything = list(answered)
    modes = list(dict.fromkeys(one.item.groups["mode"] for one in everything))
    several = {f"mode={mode}": [one for one in everything if one.item.groups["mode"] == mode] for mode in modes}
    return {"all": everything, **(several if len(modes) > 1 else {})}


def judged_measures(judge: str, group: str, members: Sequence[Answered], value: Value) -> list[Estimate]:
    """One number for each kind of probe, by one judge."""
    found = []
    for kind in PROBES:
        if judge == "match" and kind in NO_MATCH:
            continue
        some = [one for one in members if one.item.groups["probe"] == kind and one.item.target]
        if kind not in ("locality", "general"):
            some = [one for one in some if not known(one)]
        if some:
            found.append(over_edits(f"{kind} ({judge})", group, some, value))
    return found


def by_rule(one: Answered, judge: str) -> float:
    """The verdict's value; a reply without one is incorrect."""
    return one.verdicts[judge].value or 0.0


def known(one: Answered) -> bool:
    """Whether the model said the new fact before it was edited."""
    return bool(one.item.data.get("known"))


def over_edits(name: str, group: str, members: Sequence[Answered], value: Value) -> Estimate:
    """The mean over edits, in one mode after the other, of the mean over their probes; its interval is over edits."""
    return Estimate(name, group, *mean_over(members, value))


def mean_over(members: Sequence[Answered], value: Value) -> tuple[Interval, int]:
    """The mean over edits and its interval, and how many edits there are."""
    values: dict[str, list[float]] = {}
    for one in members:
        worth = value(one)
        if worth is not None:
            values.setdefault(one.item.data.get("edit", one.item.text), []).append(worth)
    means = [sum(own) / len(own) for own in values.values()]
    return (mean_of(means) if means else Interval(math.nan, math.nan, math.nan)), len(means)


def agreement(one: str, other: str, group: str, members: Sequence[Answered], value: Value) -> Estimate:
    """The share of replies of which a judge says what the rule `other` says, long texts left out."""

    def same(reply: Answered) -> float | None:
        said = value(reply)
        return None if said is None else float((said >= 0.5) == (by_rule(reply, other) >= 0.5))

    some = [one for one in members if one.item.target and one.item.groups["probe"] not in NO_MATCH]
    return over_edits(f"agreement of {one} and {other}", group, some, same)


# ---------------------------------------------------------------- without a judge


def _of_replies(group: str, members: Sequence[Answered], counted: Sequence[Answered]) -> list[Estimate]:
    found = []
    for name, kinds in (("says the old fact", SHORT), ("longform says the old fact", ("longform",))):
        said = [one for one in counted if one.item.groups["probe"] in kinds and one.item.data.get("old")]
        if said:
            found.append(over_edits(name, group, said, _says_old))
    near = [one for one in members if one.item.groups["probe"] == "locality"]
    general = [one for one in members if one.item.groups["probe"] == "general"]
    for name, some in (("locality (identical)", near), ("general (identical)", general)):
        if any(one.item.data.get("before") is not None for one in some):
            found.append(over_edits(name, group, some, _identical))
    first = [one for one in members if one.item.groups["probe"] == "reliability"]
    if any("known" in one.item.data for one in first):
        found.append(over_edits("known before", group, first, lambda one: float(known(one))))
    return found


def _says_old(one: Answered) -> float:
    old, new = [one.item.data["old"]], one.item.data["new"]
    reply = one.answers[-1]
    return float(contains(reply, old) and not any(contains(name, old) for name in new))


def _identical(one: Answered) -> float | None:
    """Whether a reply is the one before the edit; None where that one is not known."""
    before: str | None = one.item.data.get("before")
    return None if before is None else float(one.answers[-1] == before)
