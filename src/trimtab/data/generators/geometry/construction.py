"""What a sentence of an item says: how its new points are placed in all the ways it allows, and its wordings.

Roles are letters. `roles="AB>CD"` takes the points A and B and gives C and D. Each construction lists the facts that
hold always, and as `cases` the coincidences that its sentence allows without saying so, with free numbers that bring
them about. "Never" is a claim about exactly these; see `oracle.py`.

Words that every item means in the same way: a line is infinite, a segment is not; polygons are convex and named in
order; different letters are different points.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import pairwise

from trimtab.data.generators.geometry.draws import Case
from trimtab.data.generators.geometry.plane import Point

ZERO, HALF, ONE, TWO = Fraction(0), Fraction(1, 2), Fraction(1), Fraction(2)
Place = Callable[..., tuple[Point, ...]]
"""place(plane, *taken points, *free numbers) -> the new points"""


@dataclass(frozen=True)
class Construction:
    name: str
    roles: str
    """taken>given"""
    free: tuple[int, ...]
    """kinds of its free numbers, see `draws.py`"""
    place: Place
    texts: tuple[str, ...]
    """[AB] stands for the letters that play A and B"""
    facts: tuple[str, ...] = ()
    """hold in every realisation; see `plane.holds`"""
    cases: dict[str, Case] = field(default_factory=dict)
    """a fact that may hold -> free numbers for which it does"""
    requires: tuple[str, ...] = ()
    """facts that a draw may miss; then it is drawn again"""
    polygons: tuple[str, ...] = ()
    circles: tuple[str, ...] = ()
    """centre and a point on it"""
    lines: tuple[str, ...] = ()
    """runs of points that its sentence puts on one line, for the drawing and for questions"""
    unit: int | None = None
    """the only k of a plane that holds it"""
    begins: bool = False
    """may be the first of a scene; its two taken points are then anywhere"""
    takes: str = "points"
    """"points" (any), or what its taken points must have been made as: "triangle", "quad", "circle", "crossing" """
    family: str = "any"
    """"any", or the kind of angle question that it belongs to: "crossing", "order", "transversal", "diagonal" """

    @cached_property
    def taken(self) -> str:
        return self.roles.partition(">")[0]

    @cached_property
    def given(self) -> str:
        return self.roles.partition(">")[2]

    @cached_property
    def letters(self) -> str:
        return self.roles.replace(">", "")


ALL: dict[str, Construction] = {}


def add(name: str, roles: str, free: tuple[int, ...], place: Place, *texts: str, **rest) -> None:
    ALL[name] = Construction(name, roles, free, place, texts, **rest)


def figure(name: str, roles: str, free: tuple[int, ...], place: Place, *texts: str, **rest) -> None:
    add(name, roles, free, place, *texts, begins=True, **rest)


def filled(text: str, letters: dict[str, str]) -> str:
    """A text with [AB] replaced by the letters that play A and B."""
    return re.sub(r"\[([A-Z]+)\]", lambda found: "".join(letters[role] for role in found[1]), text)


def sides(polygon: str) -> list[str]:
    """ "ABC" -> AB, BC, CA."""
    return ["".join(pair) for pair in pairwise(polygon + polygon[0])]
