"""What a segment is in a triangle: median, altitude or bisector."""

import math
from collections.abc import Sequence
from fractions import Fraction

from trimtab.data.generators.geometry.conditions import Condition, flat, only, turn_of
from trimtab.data.generators.geometry.plane import Plane, Point, between, vector

CORNER_ROLES = ("median", "altitude", "bisector")


def role(name: str, g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> frozenset[str]:
    """Is the segment a median, an altitude, ... of the shape? Of a triangle's three it starts at a corner and ends on
    the line of the opposite side."""
    return only("yes" if _has_role(g, name, ends, shape) else "no")


def _has_role(g: Plane, name: str, ends: Sequence[Point], shape: Sequence[Point]) -> bool:
    x, y = ends
    if name in ("radius", "diameter"):
        centre, rim = shape
        if name == "radius":
            return centre in ends and g.longer(x, y, centre, rim)[0] == 0
        return between(x, centre, y) and all(g.longer(centre, end, centre, rim)[0] == 0 for end in ends)
    if name in ("side", "diagonal"):
        if x not in shape or y not in shape:
            return False
        apart = abs(shape.index(x) - shape.index(y))
        return (apart in (1, len(shape) - 1)) == (name == "side")
    return any(
        all(value == 0 for value, _ in condition) and (name != "bisector" or between(b, foot, c))
        for _, foot, b, c, condition in _corner_conditions(g, name, ends, shape)
    )


def _corner_conditions(g: Plane, name: str, ends: Sequence[Point], shape: Sequence[Point]) -> list[tuple]:
    found = []
    for a, foot in (ends, ends[::-1]):
        if a not in shape:
            continue
        i = shape.index(a)
        b, c = shape[i - 1], shape[(i + 1) % 3]
        side, down = vector(b, c), vector(a, foot)
        if name == "altitude":
            value = g.dot(side, down), b[2] * c[2] * a[2] * foot[2]
        elif name == "median":
            middle = g.move(b, b, c, (1, 2))
            value = g.dot(side, vector(middle, foot)), b[2] * c[2] * middle[2] * foot[2]
        else:
            apart = _cosine2(g, a, foot, b) - _cosine2(g, a, foot, c)
            value = apart.numerator, apart.denominator
        found.append((a, foot, b, c, [turn_of(b, c, foot), value]))
    return found


def _cosine2(g: Plane, a: Point, foot: Point, b: Point) -> Fraction:
    u, v = vector(a, foot), vector(a, b)
    return Fraction(g.dot(u, v) ** 2, g.dot(v, v) * g.dot(u, u))


def role_conditions(name: str, g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> list[Condition]:
    if name not in CORNER_ROLES or len(shape) != 3:
        return []
    return [condition for *_, condition in _corner_conditions(g, name, ends, shape)]


def role_margin(name: str, g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> float:
    """How far the foot is from where it should be, in units of the side it should be on."""
    if name not in CORNER_ROLES or len(shape) != 3:
        return 1.0
    found = [1.0]
    for a, foot in (ends, ends[::-1]):
        if a not in shape:
            continue
        i = shape.index(a)
        b, c = shape[i - 1], shape[(i + 1) % 3]
        p, at, left, right = flat(g, [a, foot, b, c])
        if name == "bisector":
            t = math.dist(p, left) / (math.dist(p, left) + math.dist(p, right))
            goal = left[0] + t * (right[0] - left[0]), left[1] + t * (right[1] - left[1])
        else:
            (goal,) = flat(g, [g.foot(a, b, c) if name == "altitude" else g.move(b, b, c, (1, 2))])
        found.append(math.dist(at, goal) / math.dist(left, right))
    return min(found)
