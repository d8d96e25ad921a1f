"""What questions about figures share: conditions, turns, and how nearly something holds."""

import math
from collections.abc import Sequence

from trimtab.data.generators.geometry.plane import Plane, Point, turn

Condition = list[tuple[int, int]]
"""quantities as (number, positive scale): the relation changes where all of them vanish"""


class NotAsked(ValueError):
    """A realisation for which the question has no clear answer, such as a point on the boundary of a shape."""


def only(name: str) -> frozenset[str]:
    return frozenset((name,))


def flat(g: Plane, points: Sequence[Point]) -> list[tuple[float, float]]:
    """Coordinates as floats."""
    high = math.sqrt(g.k)
    return [(x / w, high * (y / w)) for x, y, w in points]


def sine_between(a: tuple, b: tuple, c: tuple, d: tuple) -> float:
    """Of the angle from ab to cd; 0 if that is lost to rounding."""
    ux, uy, vx, vy = b[0] - a[0], b[1] - a[1], d[0] - c[0], d[1] - c[1]
    lengths = math.hypot(ux, uy) * math.hypot(vx, vy)
    return (ux * vy - uy * vx) / lengths if lengths else 0.0


def turn_of(a: Point, b: Point, c: Point) -> tuple[int, int]:
    return turn(a, b, c), a[2] * a[2] * b[2] * c[2]
