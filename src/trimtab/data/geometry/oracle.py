"""Labels by computation: a scene is realised in many ways, and an answer holds only if it holds in all of them.

Two realisations with different answers prove "cannot be inferred". An equation that holds at random rational points is
an identity (Schwartz-Zippel: a polynomial that is not zero vanishes there with negligible chance). "Never" is claimed
after the listed coincidences of each construction were forced, alone and together, after each free number was moved to
where the quantity in question would vanish if it were linear in it, and if that quantity keeps one sign on each
connected piece of the scene: were it to change sign, some realisation between would make it vanish, so that the item is
given up as undecided.
"""

import random
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

from trimtab.data.geometry.constructions import ALL, Construction
from trimtab.data.geometry.draws import Draw, allowed, piece
from trimtab.data.geometry.plane import Degenerate, Plane, Point, holds, plane
from trimtab.data.geometry.questions import CANNOT, NONE, QUESTIONS, NotAsked

GENERIC, SPECIAL = 64, 64
TRIES = 12
"""draws for one realisation before it is given up"""
EARLY = 12
"""realisations after which a scene that gave none is taken to be impossible"""

Step = tuple[str, tuple[int, ...]]
"""name of a construction, and the numbers of the points in its roles, those taken first"""
Frozen = tuple[int, ...]


class Undecided(ValueError):
    """No label can be vouched for: the scene contradicts itself, is ambiguous, or changes its answer unseen."""


class Query(NamedTuple):
    kind: str
    """of `questions.QUESTIONS`"""
    arguments: tuple[Frozen, ...]
    """numbers of points"""
    offered: tuple[str, ...]
    """answers beside "none" and "cannot", in the order of the options"""


@dataclass(frozen=True)
class Scene:
    """Constructions, one after the other. Points are numbered in the order in which they appear."""

    steps: tuple[Step, ...]

    @cached_property
    def constructions(self) -> list[Construction]:
        return [ALL[name] for name, _ in self.steps]

    @cached_property
    def plane(self) -> Plane:
        """That of all its constructions.

        Raises:
            Undecided: if one needs squares and another 60 degrees.
        """
        units = {c.unit for c in self.constructions if c.unit}
        if len(units) > 1:
            raise Undecided("squares and angles of 60 degrees are not rational in one plane")
        return plane(units.pop() if units else 1)

    @cached_property
    def free(self) -> list[int]:
        """Kinds of all free numbers."""
        return [kind for c in self.constructions for kind in c.free]

    @property
    def size(self) -> int:
        return 1 + max(n for _, points in self.steps for n in points)

    def origins(self) -> list[int]:
        """Of each point, the step that brought it in."""
        first: dict[int, int] = {}
        for number, (_, points) in enumerate(self.steps):
            for n in points:
                first.setdefault(n, number)
        return [first[n] for n in range(self.size)]

    def ancestors(self, points: Sequence[int]) -> set[int]:
        """The steps that some points rest on."""
        origins, found, todo = self.origins(), set(), list(points)
        while todo:
            step = origins[todo.pop()]
            if step not in found:
                found.add(step)
                c, used = self.constructions[step], self.steps[step][1]
                todo += [n for n in used[: len(c.taken)] if origins[n] != step]
        return found


class Realisation(NamedTuple):
    numbers: tuple[Fraction, ...]
    points: tuple[Point, ...]


def realise(scene: Scene, numbers: Sequence[Any], *, check: bool = True) -> tuple[Point, ...]:
    """The points for given free numbers.

    Args:
        scene: whose first step takes two points; they are (0, 0) and (1, 0).
        numbers: one for each of `scene.free`; symbols of a computer algebra pass with `check=False`.
        check: different letters are different points, and each construction's requirements hold.

    Raises:
        Degenerate: if they are not, or a point does not exist.
    """
    g, points, at = scene.plane, {0: (0, 0, 1), 1: (1, 0, 1)}, 0
    for c, (_, used) in zip(scene.constructions, scene.steps):
        taken = len(c.taken)
        values = numbers[at : at + len(c.free)]
        at += len(c.free)
        made = c.place(g, *(points[n] for n in used[:taken]), *values)
        points.update(zip(used[taken:], made))
        if check and c.requires:
            named = {letter: points[n] for letter, n in zip(c.letters, used)}
            if not all(holds(g, named, fact) for fact in c.requires):
                raise Degenerate(f"{c.name}: a requirement does not hold")
    found = tuple(points[n] for n in range(len(points)))
    if check and len(set(found)) < len(found):
        raise Degenerate("two letters for one point")
    return found


def draw(scene: Scene, drawn: random.Random, special: bool) -> Realisation:
    """One realisation; a special one takes free numbers from short lists and forces coincidences.

    Raises:
        Undecided: if `TRIES` draws contradict the text.
    """
    pick = Draw(drawn, scene.plane, special)
    for _ in range(TRIES):
        numbers: list[Fraction] = []
        for c in scene.constructions:
            values = [pick(kind) for kind in c.free]
            if special and c.cases and drawn.random() < 0.6:
                cases = list(c.cases.values())
                forced = cases[int(drawn.random() * len(cases))](pick)
                values = [ours if own is None else own for own, ours in zip(forced, values)]
                if not all(map(allowed, c.free, values)):
                    break
            numbers += values
        else:
            try:
                return Realisation(tuple(numbers), realise(scene, numbers))
            except Degenerate:
                continue
    raise Undecided("the text contradicts itself, or nearly")


# ---------------------------------------------------------------- labels


class Evidence(NamedTuple):
    kind: str
    """identity, exhaustion or counterexample"""
    number: int
    """realisations that were looked at"""
    witnesses: tuple[tuple[str, Realisation], ...]
    """(answer, realisation): one, or for a counterexample two with different answers"""


class Judgement(NamedTuple):
    answer: str
    evidence: Evidence


def answer_of(scene: Scene, query: Query, points: Sequence[Point]) -> str:
    """The offered answer that holds in one realisation, or "none".

    Raises:
        NotAsked: if the question has no clear answer there.
        Undecided: if two offered answers hold.
    """
    arguments = [[points[n] for n in numbers] for numbers in query.arguments]
    names = QUESTIONS[query.kind].relations(scene.plane, *arguments) & frozenset(query.offered)
    if len(names) > 1:
        raise Undecided(f"both {' and '.join(sorted(names))} hold")
    return next(iter(names), NONE)


def judge(scene: Scene, query: Query) -> Judgement:
    """The answer to a query, with its evidence; the same for the same scene and query, always.

    Raises:
        Undecided: if no answer can be vouched for.
    """
    drawn = random.Random(zlib.crc32(repr((scene.steps, query)).encode()))
    seen: dict[str, Realisation] = {}
    signs: dict[tuple, set[int]] = {}
    unclear = looked = 0
    for found in _realisations(scene, query, drawn, seen):
        looked += 1
        try:
            answer = answer_of(scene, query, found.points)
        except NotAsked:
            unclear += 1
            continue
        except Degenerate:
            continue
        seen.setdefault(answer, found)
        if len(seen) > 1:
            return Judgement(CANNOT, Evidence("counterexample", looked, tuple(seen.items())[:2]))
        _note(scene, query, found, signs)
    if unclear:
        raise Undecided("the question has no clear answer in some realisation")
    if not seen:
        raise Undecided("no realisation")
    (answer,) = seen
    question = QUESTIONS[query.kind]
    if answer in question.identities:
        return Judgement(answer, Evidence("identity", looked, tuple(seen.items())))
    if any(len(found) > 1 for found in signs.values()):
        raise Undecided("a quantity changes sign, but no realisation was found in which it vanishes")
    return Judgement(answer, Evidence("exhaustion", looked, tuple(seen.items())))


def _realisations(scene: Scene, query: Query, drawn: random.Random, seen: dict) -> Iterator[Realisation]:
    """Generic and special ones by turns, then those at which a quantity may vanish."""
    lost = 0
    for number in range(GENERIC + SPECIAL):
        try:
            yield draw(scene, drawn, special=number % 2 == 1)
        except Undecided:
            lost += 1
            if lost == number + 1 >= EARLY:
                raise
    if seen and not QUESTIONS[query.kind].identities & seen.keys():
        for _ in range(2):
            yield from _vanishing(scene, query, draw(scene, drawn, special=False), drawn)


def _vanishing(scene: Scene, query: Query, start: Realisation, drawn: random.Random) -> Iterator[Realisation]:
    """Move one free number to where a quantity would vanish if it were linear in it, and see."""
    pick = Draw(drawn, scene.plane, special=False)
    before = _quantities(scene, query, start.points)
    for i, kind in enumerate(scene.free):
        numbers = list(start.numbers)
        numbers[i] = pick(kind)
        step = numbers[i] - start.numbers[i]
        try:
            after = _quantities(scene, query, realise(scene, numbers))
        except Degenerate:
            continue
        for key in before.keys() & after.keys():
            if before[key] == after[key]:
                continue
            numbers[i] = start.numbers[i] - before[key] * step / (after[key] - before[key])
            if not allowed(kind, numbers[i]):
                continue
            try:
                yield Realisation(tuple(numbers), realise(scene, numbers))
            except Degenerate:
                continue


def _quantities(scene: Scene, query: Query, points: Sequence[Point]) -> dict[int, Fraction]:
    """condition -> the one quantity of it that does not vanish; conditions with several are left out."""
    arguments = [[points[n] for n in numbers] for numbers in query.arguments]
    found = {}
    for number, condition in enumerate(QUESTIONS[query.kind].conditions(scene.plane, *arguments)):
        left = [(value, scale) for value, scale in condition if value != 0]
        if len(left) == 1:
            found[number] = Fraction(*left[0])
    return found


def _note(scene: Scene, query: Query, found: Realisation, signs: dict[tuple, set[int]]) -> None:
    """Signs of the quantities, by connected piece of the scene."""
    pieces = tuple(map(piece, scene.free, found.numbers))
    arguments = [[found.points[n] for n in numbers] for numbers in query.arguments]
    for number, condition in enumerate(QUESTIONS[query.kind].conditions(scene.plane, *arguments)):
        left = [value for value, _ in condition if value != 0]
        if len(left) == 1:
            signs.setdefault((pieces, number), set()).add(1 if left[0] > 0 else -1)
