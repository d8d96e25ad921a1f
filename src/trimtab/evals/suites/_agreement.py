"""Do statements about oneself agree with choices? The numbers of `personality`."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimtab.evals.suite import Answered, Estimate, grouped
from trimtab.evals.suites._pairs import PARTS
from trimtab.metrics import consistency
from trimtab.metrics.intervals import Array, Interval, bootstrap, bootstrap_ratio, mean_of
from trimtab.metrics.ranks import percentile

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class RatingTable:
    """Answers joined by pair; ratings are NaN where there is none."""

    ratings: dict[str, Array]
    """part -> [N, orders, repeats]"""
    traits: list[str]
    keys: Array
    """[N] +1 or -1"""
    partners: list[tuple[int, int]]
    """places of reverse-worded statements, each couple once"""
    asked: Array
    """[N] questions that were put, of both parts"""
    people: dict[str, Array]
    """part -> [respondents, N]"""
    delta: float

    def means(self, part: str) -> Array:
        """[N] over orders and repeats."""
        return consistency.mean(self.ratings[part], (1, 2))

    def valid(self) -> tuple[Array, Array, Mask]:
        """Statements and scenarios of the pairs that have both, and which those are."""
        s, a = self.means("statement"), self.means("scenario")
        both = ~np.isnan(s) & ~np.isnan(a)
        return s[both], a[both], both


def tabulate(answered: Sequence[Answered]) -> RatingTable:
    """Join both parts by pair_id; the headline verdict counts, and errors are neither asked nor answered."""
    first = {one.item.data["pair_id"]: one.item for one in answered}
    place = {pair_id: n for n, pair_id in enumerate(first)}
    orders = sorted({one.item.data["order"] for one in answered})
    repeats = 1 + max(one.item.data["repeat"] for one in answered)
    ratings = {part: np.full((len(place), len(orders), repeats), np.nan) for part in PARTS}
    asked = np.zeros(len(place))
    num_people = max(len(one.item.data["humans"]) for one in answered)
    people = {part: np.full((num_people, len(place)), np.nan) for part in PARTS}
    for one in answered:
        data = one.item.data
        n = place[data["pair_id"]]
        people[data["part"]][: len(data["humans"]), n] = np.array(data["humans"], float)
        if one.error is not None:
            continue
        value = next(iter(one.verdicts.values())).value
        asked[n] += 1
        ratings[data["part"]][n, orders.index(data["order"]), data["repeat"]] = np.nan if value is None else value
    couples = ((n, place.get(item.data["reverse_of"], -1)) for n, item in enumerate(first.values()))
    return RatingTable(
        ratings=ratings,
        traits=[item.groups["trait"] for item in first.values()],
        keys=np.array([item.data["key"] for item in first.values()], float),
        partners=[(n, other) for n, other in couples if n < other],
        asked=asked,
        people=people,
        delta=answered[0].item.data["delta"],
    )


def measures(answered: Sequence[Answered]) -> list[Estimate]:
    """Agreement with its chance levels, reliability, profiles and people: for all pairs, each trait and each language.

    Intervals are of 95 % over pairs, except for chance levels, where they hold 95 % of what chance gives.
    """
    found: list[Estimate] = []
    for group, members in grouped(answered).items():
        if not members:
            continue
        table = tabulate(members)
        reliability = list(_reliability(table, members, group))
        if group == "all":
            found += gate(reliability)
        found += [*_agreement(table, group), *reliability, *_profile(table, group)]
    return found


def _agreement(table: RatingTable, group: str) -> Iterator[Estimate]:
    s, a, both = table.valid()
    number, repetitions = len(s), table.ratings["statement"].shape[1] * table.ratings["statement"].shape[2]
    torn, blind = consistency.shuffled(a), consistency.uniform(number, repetitions)
    for name, metric in consistency.metrics(table.delta).items():
        value = bootstrap(metric, s, a)
        yield Estimate(name, group, value, number)
        if not number:
            continue
        by_chance = metric(s, torn)
        yield Estimate(f"{name} of shuffled pairs", group, consistency.spread(by_chance), number)
        yield Estimate(f"{name} of uniform answers", group, consistency.spread(metric(*blind)), number)
        if group == "all":
            for constant in (4, 7):
                always = np.full(number, float(constant))
                yield Estimate(f"{name} of always {constant}", group, _plain(float(metric(always, always))), number)
        if name == "spearman" or name.startswith("PCP"):
            p = consistency.p_value(value.estimate, by_chance)
            yield Estimate(f"{name} p-value", group, _plain(p), number)
        yield from _people(table, name, metric, value.estimate, both, group)


def _people(
    table: RatingTable, name: str, metric: consistency.Metric, value: float, both: Mask, group: str
) -> Iterator[Estimate]:
    """Mean and sd over respondents, and the model's percentile: of the number itself, so for VMD low is good."""
    values = []
    for s, a in zip(table.people["statement"][:, both], table.people["scenario"][:, both]):
        known = ~np.isnan(s) & ~np.isnan(a)
        values.append(float(metric(s[known], a[known])) if known.any() else np.nan)
    people = np.array([v for v in values if not np.isnan(v)])
    if not len(values):
        return
    for what, number in (
        ("human mean", float(people.mean()) if len(people) else np.nan),
        ("human sd", float(people.std(ddof=1)) if len(people) > 1 else np.nan),
        ("human percentile", percentile(value, people)),
    ):
        yield Estimate(f"{name} {what}", group, _plain(number), len(people))


def _reliability(table: RatingTable, members: Sequence[Answered], group: str) -> Iterator[Estimate]:
    given = sum((~np.isnan(x)).sum((1, 2)) for x in table.ratings.values())
    yield Estimate("answer rate", group, bootstrap_ratio(given, table.asked), int(table.asked.sum()))
    masses = [one.mass for one in members if one.mass is not None]
    if masses:
        yield Estimate("mass on labels", group, mean_of(masses), len(masses))
    apart = consistency.reverse_differences(table.means("statement"), table.partners)
    yield _mean("reverse difference", group, apart)
    near = np.where(np.isnan(apart), np.nan, consistency.near(apart, 1.0))
    yield _mean("reverse within 1", group, near)
    for part in PARTS:
        x = table.ratings[part]
        amounts = consistency.scored(x, table.keys).reshape(len(x), -1)
        half = consistency.split_half(amounts, table.traits, table.keys)
        yield Estimate(f"split-half {part}", group, _plain(half), len(x))
        if len(set(table.traits)) == 1:
            yield Estimate(f"alpha {part}", group, _plain(consistency.cronbach(amounts)), len(x))
        shifts = consistency.order_shifts(x)
        yield _mean(f"order sensitivity {part}", group, abs(shifts))
        yield _mean(f"order shift {part}", group, shifts)
        yield _mean(f"repeat sd {part}", group, consistency.repeat_spread(x))


GATE = (
    ("answer rate", ">=", 0.95),
    ("reverse difference", "<=", 1.5),
    ("split-half statement", ">=", 0.7),
    ("order sensitivity statement", "<=", 1.0),
    ("order sensitivity scenario", "<=", 1.0),
    ("repeat sd statement", "<=", 1.0),
    ("repeat sd scenario", "<=", 1.0),
)
"""What must hold before agreement is interpreted. The paper has a gate of unknown contents; these limits are ours."""


def gate(reliability: Sequence[Estimate]) -> list[Estimate]:
    """1 where a demand is met, 0 where not, NaN where it was not measured (one order, one repeat, constant answers).

    The whole is 0 if a demand is not met, NaN if one was not measured, and 1 otherwise.
    """
    by_name = {measure.name: measure for measure in reliability}
    found = []
    for name, sign, limit in GATE:
        value = by_name[name].value.estimate
        met = value >= limit if sign == ">=" else value <= limit
        passed = np.nan if np.isnan(value) else float(met)
        found.append(Estimate(f"gate: {name} {sign} {limit:g}", "all", _plain(passed), by_name[name].number))
    demands = np.array([measure.value.estimate for measure in found])
    whole = 0.0 if (demands == 0).any() else float(demands.min())  # min is NaN if one is
    return [Estimate("gate", "all", _plain(whole), len(GATE)), *found]


def _profile(table: RatingTable, group: str) -> Iterator[Estimate]:
    s, a, both = table.valid()
    stated, chosen = consistency.scored(s, table.keys[both]), consistency.scored(a, table.keys[both])
    traits = np.unique(np.array(table.traits)[both], return_inverse=True)[1]
    if len(set(table.traits)) == 1:
        yield _mean("profile statement", group, stated)
        yield _mean("profile scenario", group, chosen)
    yield Estimate("profile distance", group, bootstrap(consistency.profile_distance, stated, chosen, traits), len(s))


def _mean(name: str, group: str, values: Array) -> Estimate:
    known = values[~np.isnan(values)]
    return Estimate(name, group, mean_of(known), len(known))


def _plain(value: float) -> Interval:
    return Interval(value, np.nan, np.nan)
