"""Figures that are drawn step by step, with numbers still to be chosen, and their realisations."""

import random
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from trimtab.data.generators.geometry.constructions import ALL, Construction
from trimtab.data.generators.geometry.draws import Draw, allowed
from trimtab.data.generators.geometry.plane import Degenerate, Plane, Point, holds, plane

FORCED = 0.6
"""share of the steps of a special realisation in which a listed coincidence is forced"""
TRIES = 6
"""draws for one realisation that all fail before it is given up"""
STOCK = 256
"""realisations of a scene without its last step, one of which is drawn and continued"""


class Undecided(ValueError):
    """No label can be vouched for: the scene contradicts itself, is ambiguous, or changes its answer unseen."""


Step = tuple[str, tuple[int, ...]]
"""name of a construction, and the numbers of the points in its roles, those taken first"""


class Realisation(NamedTuple):
    numbers: tuple[Any, ...]
    """values of the free numbers"""
    points: tuple[Point, ...]


START = Realisation((), ((0, 0, 1), (1, 0, 1)))
"""The first step takes two points; any two can be brought here without a change of any relation."""


@dataclass(frozen=True)
class Scene:
    """Constructions, one after the other. Points are numbered in the order in which they appear."""

    steps: tuple[Step, ...]
    k: int = 0
    """that of the plane; 0 for what the constructions need"""

    @cached_property
    def constructions(self) -> list[Construction]:
        return [ALL[name] for name, _ in self.steps]

    @cached_property
    def plane(self) -> Plane:
        """That of all its constructions.

        Raises:
            Undecided: if one needs squares and another 60 degrees.
        """
        units = {c.unit for c in self.constructions if c.unit} | ({self.k} if self.k else set())
        if len(units) > 1:
            raise Undecided("squares and angles of 60 degrees are not rational in one plane")
        return plane(units.pop() if units else 1)

    @cached_property
    def free(self) -> list[int]:
        """Kinds of all free numbers."""
        return [kind for c in self.constructions for kind in c.free]

    @cached_property
    def size(self) -> int:
        """Number of points."""
        return 1 + max(n for _, points in self.steps for n in points)

    @cached_property
    def parts(self) -> list[tuple[int, int, int]]:
        """Of each step, its number, and how many free numbers and points there are before it."""
        found, numbers, points = [], 0, len(START.points)
        for step, c in enumerate(self.constructions):
            found.append((step, numbers, points))
            numbers, points = numbers + len(c.free), points + len(c.given)
        return found

    @cached_property
    def owners(self) -> list[tuple[int, int, int]]:
        """Of each free number, the `parts` of its step."""
        return [part for part, c in zip(self.parts, self.constructions) for _ in c.free]

    @cached_property
    def checksum(self) -> int:
        """Of steps and plane, for seeds: that of the whole is `crc32` of the rest, begun with this one."""
        return zlib.crc32(f"({self.steps!r}, {self.plane.k!r}, ".encode())

    @cached_property
    def origins(self) -> list[int]:
        """Of each point, the step that brought it in."""
        first: dict[int, int] = {}
        for number, (_, points) in enumerate(self.steps):
            for n in points:
                first.setdefault(n, number)
        return [first[n] for n in range(self.size)]

    def ancestors(self, points: Sequence[int]) -> set[int]:
        """The steps that some points rest on."""
        return set().union(*(self._rests_on[self.origins[n]] for n in points))

    @cached_property
    def _rests_on(self) -> list[set[int]]:
        """Of each step, itself and those that it rests on."""
        found: list[set[int]] = []
        for step, ((_, points), c) in enumerate(zip(self.steps, self.constructions)):
            before = {self.origins[n] for n in points[: len(c.taken)]} - {step}
            found.append({step}.union(*(found[one] for one in before)))
        return found

    @cached_property
    def before(self) -> "Scene | None":
        """The scene without its last step, in the same plane."""
        return scene_of(self.steps[:-1], self.plane.k) if len(self.steps) > 1 else None

    @cached_property
    def roles(self) -> list[tuple[Construction, list[int], dict[str, int]]]:
        """Of each step, its construction, the points that it takes, and the point that plays each role."""
        return [
            (c, list(points[: len(c.taken)]), dict(zip(c.letters, points)))
            for c, (_, points) in zip(self.constructions, self.steps)
        ]

    @cached_property
    def _made(self) -> dict[int, Realisation | None]:
        return {}

    @cached_property
    def generator(self) -> random.Random:
        """For its realisations, to be seeded anew for each: to make a generator takes as long as to seed it."""
        return random.Random(0)

    @cached_property
    def _elsewhere(self) -> list[Fraction]:
        """Of each free number, a value at random, always the same."""
        pick = Draw(random.Random(0), self.plane, special=False)
        return [pick(kind) for kind in self.free]

    @cached_property
    def _nudged(self) -> dict[tuple[int, int], Realisation | None]:
        return {}

    def nudged(self, number: int, i: int) -> Realisation | None:
        """The realisation of this number with its i-th free number elsewhere, always the same; None if it is there
        already, or contradicts the text."""
        if (number, i) not in self._nudged:
            start, value = self.realisation(number), self._elsewhere[i]
            self._nudged[number, i] = None
            if start is not None and value != start.numbers[i]:
                with suppress(Degenerate):
                    self._nudged[number, i] = moved(self, start, i, value)
        return self._nudged[number, i]

    @cached_property
    def possible(self) -> bool:
        """Could one of the first four realisations be drawn?"""
        if self.before is not None and not self.before.possible:
            return False
        return any(self.realisation(number) is not None for number in range(4))

    def realisation(self, number: int) -> Realisation | None:
        """The one of this number, always the same. Odd ones are special: their free numbers come from short lists, and
        coincidences are forced. None if `TRIES` draws contradict the text."""
        if number not in self._made:
            self._made[number] = _draw(self, number)
        return self._made[number]


@lru_cache(maxsize=4096)
def scene_of(steps: tuple[Step, ...], k: int = 0) -> Scene:
    """Scenes are remembered, and with them their realisations."""
    return Scene(steps, k)


def _draw(scene: Scene, number: int) -> Realisation | None:
    drawn, special = scene.generator, number % 2
    drawn.seed(zlib.crc32(f"{number})".encode(), scene.checksum))
    pick, c = Draw(drawn, scene.plane, bool(special)), scene.constructions[-1]
    cases = list(c.cases.values()) if special else []
    for _ in range(TRIES):
        start: Realisation | None = START
        if scene.before is not None:
            start = scene.before.realisation(2 * drawn.randrange(STOCK // 2) + special)
        if start is None:
            continue
        values = [pick(kind) for kind in c.free]
        if cases and drawn.random() < FORCED:
            forced = drawn.choice(cases)(pick)
            values = [any_value if value is None else value for value, any_value in zip(forced, values)]
            if not all(map(allowed, c.free, values)):
                continue
        try:
            points = _continued(scene, start.points, -1, values)
        except Degenerate:
            continue
        return Realisation((*start.numbers, *values), points)
    return None


def _continued(scene: Scene, points: tuple[Point, ...], number: int, values: Sequence[Any]) -> tuple[Point, ...]:
    """The points, and those that the step of this number makes of them.

    Raises:
        Degenerate: if two letters name one point, a requirement fails, or a point does not exist.
    """
    c, taken, players = scene.roles[number]
    g = scene.plane
    for one in c.place(g, *[points[n] for n in taken], *values):
        if one in points:
            raise Degenerate("two letters for one point")
        points += (one,)
    if c.requires:
        named = {letter: points[n] for letter, n in players.items()}
        for fact in c.requires:
            if not holds(g, named, fact):
                raise Degenerate(f"{c.name}: a requirement does not hold")
    return points


def realise(scene: Scene, numbers: Sequence[Any]) -> tuple[Point, ...]:
    """The points for given free numbers, one for each of `scene.free`; symbols of a computer algebra pass too.

    Raises:
        Degenerate: if two letters name one point, a requirement fails, or a point does not exist.
    """
    return _from(scene, START.points, numbers, 0, 0)


def moved(scene: Scene, start: Realisation, i: int, value: Any) -> Realisation:
    """A realisation with another value of one free number.

    Raises:
        Degenerate: see `realise`.
    """
    numbers = (*start.numbers[:i], value, *start.numbers[i + 1 :])
    step, at, before = scene.owners[i]
    return Realisation(numbers, _from(scene, start.points[:before], numbers, step, at))


def _from(scene: Scene, points: tuple[Point, ...], numbers: Sequence[Any], first: int, at: int) -> tuple[Point, ...]:
    """The points, and those of the steps from the first on, whose free numbers begin at `at`."""
    for number in range(first, len(scene.steps)):
        end = at + len(scene.constructions[number].free)
        points = _continued(scene, points, number, numbers[at:end])
        at = end
    return points
