"""Labels by computation: a scene is realised in many ways, and an answer holds only if it holds in all of them.

Two realisations with different answers prove "cannot be inferred". An equation that holds at random rational points
is an identity (Schwartz-Zippel: a polynomial that is not zero vanishes there with negligible chance). "Never" and
"outside" are claims about what was looked at, so they are made only after a search for the contrary: listed
coincidences are forced, alone and together; each free number is moved to where the quantity in question would vanish
if it were linear in it; random walks lead towards another answer. And they are given up as undecided

- if a quantity changes its sign on a connected piece of the scene, since somewhere between it vanishes;
- if the answer changes only where two quantities vanish at once, which no sign gives away;
- if a point is outside now beyond this side and now beyond that one, since it may get in between.
"""

import random
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

from trimtab.data.generators.geometry.constructions import ALL, Construction
from trimtab.data.generators.geometry.draws import ORDER, SIGN, Draw, allowed, piece
from trimtab.data.generators.geometry.plane import Degenerate, Plane, Point, holds, plane
from trimtab.data.generators.geometry.questions import CANNOT, NONE, QUESTIONS, NotAsked

PER_NUMBER, MOST, IDENTITY = 12, 128, 32
"""realisations for each free number of a scene, and at most; as many suffice for an equation that held in all"""
FORCED = 0.6
"""share of the steps of a special realisation in which a listed coincidence is forced"""
TRIES, EARLY = 6, 8
"""draws for one realisation, and realisations of a scene, that all fail before it is given up"""
STARTS, STEPS = 2, 25
"""searches for another answer, and the steps of each"""
UNCLEAR = 3
"""realisations in which the question has no clear answer, before it is given up"""
STOCK = 256
"""realisations of a scene without its last step, one of which is drawn and continued"""

Step = tuple[str, tuple[int, ...]]
"""name of a construction, and the numbers of the points in its roles, those taken first"""


class Undecided(ValueError):
    """No label can be vouched for: the scene contradicts itself, is ambiguous, or changes its answer unseen."""


class Query(NamedTuple):
    kind: str
    """of `questions.QUESTIONS`"""
    arguments: tuple[tuple[int, ...], ...]
    """numbers of points"""
    offered: tuple[str, ...]
    """answers beside "none" and "cannot", in the order of the options"""


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
    return _answer(scene, query, _arguments(query, points))


Arguments = list[list[Point]]


def _arguments(query: Query, points: Sequence[Point]) -> Arguments:
    return [[points[n] for n in numbers] for numbers in query.arguments]


def _answer(scene: Scene, query: Query, arguments: Arguments) -> str:
    names = QUESTIONS[query.kind].relations(scene.plane, *arguments)
    if not names.issubset(query.offered):
        names = names & frozenset(query.offered)
    if len(names) > 1:
        raise Undecided(f"both {' and '.join(sorted(names))} hold")
    return next(iter(names), NONE)


def judge(scene: Scene, query: Query) -> Judgement:
    """The answer to a query, with its evidence; the same for the same scene and query, always.

    Raises:
        Undecided: if no answer can be vouched for.
    """
    seen: dict[str, Realisation] = {}
    signs: dict[tuple, set[int]] = {}
    unclear = looked = 0
    question = QUESTIONS[query.kind]
    reasons: frozenset | None = None
    hangs = question.identities & frozenset(query.offered)
    for found in _realisations(scene, query, seen):
        looked += 1
        arguments = _arguments(query, found.points)
        try:
            answer = _answer(scene, query, arguments)
        except NotAsked:
            unclear += 1
            if unclear > UNCLEAR:
                break
            continue
        except Degenerate:
            continue
        seen.setdefault(answer, found)
        if len(seen) > 1:
            return Judgement(CANNOT, Evidence("counterexample", looked, tuple(seen.items())[:2]))
        if question.reasons and answer == "no" and reasons != frozenset():
            now = question.reasons(scene.plane, *arguments)
            reasons = now if reasons is None else reasons & now
        if reasons == frozenset() and looked > IDENTITY:
            break
        if hangs:
            _note(scene, query, found, arguments, signs)
    if unclear:
        raise Undecided("the question has no clear answer in some realisation")
    if not seen:
        raise Undecided("no realisation")
    (answer,) = seen
    if any(len(found) > 1 for found in signs.values()):
        raise Undecided("a quantity changes sign, but no realisation was found in which it vanishes")
    if reasons is not None and not reasons:
        raise Undecided("the answer is no for one reason here and for another there")
    kind = "identity" if answer in question.identities else "exhaustion"
    return Judgement(answer, Evidence(kind, looked, tuple(seen.items())))


def _realisations(scene: Scene, query: Query, seen: dict[str, Realisation]) -> Iterator[Realisation]:
    """Generic and special ones by turns, early on those at which a quantity may vanish, at last those of a search for
    another answer; `seen` grows meanwhile."""
    question = QUESTIONS[query.kind]
    most = min(MOST, max(IDENTITY, PER_NUMBER * (1 + len(scene.free))))
    close: list[Realisation] = []
    for number in range(most):
        certain = not question.identities.isdisjoint(seen)
        if (number == EARLY and not seen) or (number >= IDENTITY and certain):
            return
        if number == EARLY:
            for early in range(0, EARLY, 3):
                yield from _vanishing(scene, query, early)
        found = scene.realisation(number)
        if found is not None:
            yield found
            if question.margin and question.identities.isdisjoint(seen):
                close.append(found)
    for start in sorted(close, key=lambda found: _margin(scene, query, found.points))[:STARTS]:
        yield from _approaching(scene, query, start)


def _margin(scene: Scene, query: Query, points: Sequence[Point]) -> float:
    margin = QUESTIONS[query.kind].margin
    return abs(margin(scene.plane, *_arguments(query, points))) if margin else 1.0


def _approaching(scene: Scene, query: Query, start: Realisation) -> Iterator[Realisation]:
    """A random walk downhill, towards another answer."""
    drawn = random.Random(zlib.crc32(repr((scene.steps, query)).encode()))
    movable = [i for i, kind in enumerate(scene.free) if kind not in (SIGN, ORDER)]
    least, width = _margin(scene, query, start.points), 0.5
    for _ in range(STEPS if movable else 0):
        i = drawn.choice(movable)
        n, d = start.numbers[i].as_integer_ratio()
        value = Fraction(997 * n + d * round(drawn.gauss(0, width) * 997 * (0.1 + abs(n / d))), 997 * d)
        if not allowed(scene.free[i], value):
            continue
        try:
            found = moved(scene, start, i, value)
        except Degenerate:
            continue
        yield found
        margin = _margin(scene, query, found.points)
        if margin < least:
            start, least = found, margin
        else:
            width *= 0.9


def _vanishing(scene: Scene, query: Query, number: int) -> Iterator[Realisation]:
    """Move one free number to where a quantity would vanish if it were linear in it, and see."""
    start = scene.realisation(number)
    here = _quantities(scene, query, start.points) if start else {}
    for i, kind in enumerate(scene.free if here else ()):
        nudged = scene.nudged(number, i)
        if start is None or nudged is None:
            continue
        there = _quantities(scene, query, nudged.points)
        for key in here.keys() & there.keys():
            (a, b), (c, d) = here[key], there[key]  # a / b and c / d
            apart = c * b - a * d
            if apart == 0:
                continue
            (n, m), (p, q) = start.numbers[i].as_integer_ratio(), nudged.numbers[i].as_integer_ratio()
            value = Fraction(n * q * apart - a * d * (p * m - n * q), m * q * apart)
            if allowed(kind, value):
                try:
                    yield moved(scene, start, i, value)
                except Degenerate:
                    continue


def _conditions(scene: Scene, query: Query, arguments: Arguments) -> list[list[tuple[int, int]]]:
    """Of each condition, the quantities that do not vanish."""
    conditions = QUESTIONS[query.kind].conditions(scene.plane, *arguments)
    return [[(value, scale) for value, scale in condition if value != 0] for condition in conditions]


def _quantities(scene: Scene, query: Query, points: Sequence[Point]) -> dict[int, tuple[int, int]]:
    """condition -> its quantity that does not vanish, where there is just one."""
    left = enumerate(_conditions(scene, query, _arguments(query, points)))
    return {number: condition[0] for number, condition in left if len(condition) == 1}


def _note(scene: Scene, query: Query, found: Realisation, arguments: Arguments, signs: dict[tuple, set[int]]) -> None:
    """Signs of the quantities, by connected piece of the scene.

    Raises:
        Undecided: if a condition hangs on two quantities at once, for which signs prove nothing.
    """
    pieces = tuple(map(piece, scene.free, found.numbers))
    for number, left in enumerate(_conditions(scene, query, arguments)):
        if len(left) > 1:
            raise Undecided("the answer would change where two quantities vanish together")
        if left:
            signs.setdefault((pieces, number), set()).add(1 if left[0][0] > 0 else -1)
