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
from fractions import Fraction
from typing import NamedTuple

from trimtab.data.generators.geometry.conditions import NotAsked
from trimtab.data.generators.geometry.draws import ORDER, SIGN, allowed, piece
from trimtab.data.generators.geometry.plane import Degenerate, Point
from trimtab.data.generators.geometry.questions import CANNOT, NONE, QUESTIONS
from trimtab.data.generators.geometry.scenes import Realisation, Scene, Undecided, moved

PER_NUMBER, MOST, IDENTITY = 12, 128, 32
"""realisations for each free number of a scene, and at most; as many suffice for an equation that held in all"""
EARLY = 8
"""realisations of a scene that all fail before it is given up"""
STARTS, STEPS = 2, 25
"""searches for another answer, and the steps of each"""
UNCLEAR = 3
"""realisations in which the question has no clear answer, before it is given up"""


class Query(NamedTuple):
    kind: str
    """of `questions.QUESTIONS`"""
    arguments: tuple[tuple[int, ...], ...]
    """numbers of points"""
    offered: tuple[str, ...]
    """answers beside "none" and "cannot", in the order of the options"""


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
