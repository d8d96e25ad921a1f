"""Scenes for the tests, typed with letters."""

import random
from collections.abc import Iterator
from typing import NamedTuple

from trimtab.data.generators.geometry.constructions import ALL, Construction
from trimtab.data.generators.geometry.draws import Draw, allowed
from trimtab.data.generators.geometry.oracle import Judgement, Query, judge
from trimtab.data.generators.geometry.plane import Degenerate, Plane, Point, holds, plane, point
from trimtab.data.generators.geometry.questions import CANNOT, NONE, QUESTIONS
from trimtab.data.generators.geometry.scenes import Scene


class Claim(NamedTuple):
    """A label of a scene typed by hand. Points are letters; steps are (construction, letters in the order of roles)."""

    steps: tuple[tuple[str, str], ...]
    kind: str
    """of `QUESTIONS`"""
    arguments: tuple[str, ...]
    relation: str
    """the code that is claimed"""
    offered: tuple[str, ...] = ()
    """names of angle relations; all of the kind if empty"""


def typed(claim: Claim) -> tuple[Scene, Query]:
    """The scene and the query of a claim, with points by number."""
    numbers: dict[str, int] = {}
    steps = []
    for name, letters in claim.steps:
        for place, letter in enumerate(letters):
            assert not steps or (letter in numbers) == (place < len(ALL[name].taken)), (name, letter)
            numbers.setdefault(letter, len(numbers))
        steps.append((name, tuple(numbers[letter] for letter in letters)))
    offered = claim.offered or tuple(n for n in QUESTIONS[claim.kind].answers if n not in (NONE, CANNOT))
    arguments = tuple(tuple(numbers[letter] for letter in argument) for argument in claim.arguments)
    return Scene(tuple(steps)), Query(claim.kind, arguments, offered)


def label_of(claim: Claim) -> str:
    """The oracle's code for the scene and the query of a claim."""
    return QUESTIONS[claim.kind].codes[judge(*typed(claim)).answer]


def scene(steps: str, kind: str, *arguments: str, offered: tuple[str, ...] = ()) -> tuple[Scene, Query]:
    """ "square ABCD; midpoint ACM" and a question about letters."""
    words = tuple(tuple(step.strip().rsplit(" ", 1)) for step in steps.split(";"))
    return typed(Claim(words, kind, arguments, "", offered))  # type: ignore[arg-type]


def answer(steps: str, kind: str, *arguments: str, offered: tuple[str, ...] = ()) -> Judgement:
    return judge(*scene(steps, kind, *arguments, offered=offered))


def realisations(
    c: Construction, k: int, seed: int, case: str | None = None, number: int = 40
) -> Iterator[tuple[Plane, dict[str, Point]]]:
    """A construction on random points of the kind it takes, with a coincidence forced or none."""
    drawn, g = random.Random(seed), plane(k)
    made = 0
    for _ in range(20 * number):
        pick = Draw(drawn, g, special=drawn.random() < 0.5)
        taken = [point(drawn.randint(-9, 9), drawn.randint(-9, 9), drawn.randint(1, 5)) for _ in c.taken]
        if c.takes in ("crossing", "quad"):
            below = ALL["crossing lines" if c.takes == "crossing" else "quadrilateral"]
            if taken[0] == taken[1]:
                continue
            taken[2:] = below.place(g, *taken[:2], *map(pick, below.free))
        values = [pick(kind) for kind in c.free]
        if case is not None:
            values = [old if new is None else new for new, old in zip(c.cases[case](pick), values)]
        if not all(map(allowed, c.free, values)) or len(set(taken)) < len(taken):
            continue
        try:
            named = dict(zip(c.letters, (*taken, *c.place(g, *taken, *values))))
        except Degenerate:
            continue
        if len(set(named.values())) == len(named) and all(holds(g, named, fact) for fact in c.requires):
            yield g, named
            made += 1
            if made == number:
                return
