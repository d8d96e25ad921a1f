"""What two angles are to each other."""

import math
from collections.abc import Sequence

from trimtab.data.generators.geometry.conditions import Condition, NotAsked, flat, only, sine_between
from trimtab.data.generators.geometry.plane import Plane, Point, between, convex, cross, turn, vector

Angle = Sequence[Point]
"""a point on one arm, the vertex, a point on the other arm"""


def _same_ray(g: Plane, v: Point, p: Point, q: Point) -> bool:
    a, b = vector(v, p), vector(v, q)
    return cross(a, b) == 0 and g.dot(a, b) > 0


def crossing(g: Plane, one: Angle, other: Angle) -> frozenset[str]:
    """At one vertex: vertical (both pairs of arms opposite), a linear pair (one arm shared, the others opposite).

    Raises:
        NotAsked: for flat angles and for twice the same angle.
    """
    (p, v, q), (r, w, s) = one, other
    if v != w:
        return frozenset()
    if turn(p, v, q) == 0 or turn(r, w, s) == 0:
        raise NotAsked("a flat angle")
    for a, b in ((r, s), (s, r)):
        same = _same_ray(g, v, p, a), _same_ray(g, v, q, b)
        opposite = between(p, v, a), between(q, v, b)
        if all(same):
            raise NotAsked("the same angle")
        if all(opposite):
            return only("vertical")
        if (same[0] and opposite[1]) or (same[1] and opposite[0]):
            return only("supplementary")
    return frozenset()


def in_order(g: Plane, one: Sequence[Point], other: Sequence[Point], corners: Sequence[Point]) -> frozenset[str]:
    """Interior angles of a quadrilateral whose corners are known in no particular order.

    Raises:
        NotAsked: if the four points are no corners of a convex quadrilateral.
    """
    p, q = one[0], other[0]
    r, s = (corner for corner in corners if corner not in (p, q))
    if convex([p, r, q, s]):
        return only("opposite")
    if not (convex([p, q, r, s]) or convex([p, q, s, r])):
        raise NotAsked("not convex")
    return only("adjacent")


def transversal(g: Plane, one: Angle, other: Angle, figure: Sequence[Point]) -> frozenset[str]:
    """Roles of two angles where a line crosses two others; they hold whether or not these two are parallel.

    Args:
        one, other: as points.
        figure: A, B, E, F, G, C, D, H: line EF crosses AB at G and CD at H, and H is between G and F.

    Raises:
        NotAsked: for flat angles and for twice the same angle.
    """
    _, _, _, _, p, _, _, h = figure
    if turn(*one) == 0 or turn(*other) == 0:
        raise NotAsked("a flat angle")
    if one[1] == other[1]:
        return crossing(g, one, other)
    found = [_seen(g, angle, figure) for angle in (one, other)]
    if {one[1], other[1]} != {p, h} or None in found:
        return frozenset()
    (inside, side), (also_inside, other_side) = found  # type: ignore[misc]
    if inside != also_inside:
        return only("corresponding") if side == other_side else frozenset()
    where = "interior" if inside else "exterior"
    return only(f"{'consecutive' if side == other_side else 'alternate'} {where}")


def _seen(g: Plane, angle: Angle, figure: Sequence[Point]) -> tuple[bool, bool] | None:
    """Is it between the two lines, and is it to the left of the transversal? None if its arms are not on the lines."""
    a, b, e, f, p, c, d, h = figure
    x, v, y = angle
    if turn(e, f, x) != 0:
        x, y = y, x
    line = (a, b) if v == p else (c, d)
    if turn(e, f, x) != 0 or turn(*line, y) != 0:
        return None
    return _same_ray(g, v, x, h if v == p else p), turn(e, f, y) > 0


def with_diagonal(g: Plane, one: Angle, other: Angle, corners: Sequence[Point]) -> frozenset[str]:
    """Angles in a quadrilateral ABCD with diagonal AC.

    Opposite and adjacent are whole angles of the quadrilateral; alternate interior ones lie at A and C between the
    diagonal and two sides, on different sides of the diagonal; complementary ones measure 90 degrees together.

    Raises:
        NotAsked: for flat angles and for twice the same angle.
    """
    if turn(*one) == 0 or turn(*other) == 0:
        raise NotAsked("a flat angle")
    names = set()
    if one[1] == other[1]:
        for r, s in ((other[0], other[2]), (other[2], other[0])):
            if _same_ray(g, one[1], one[0], r) and _same_ray(g, one[1], one[2], s):
                raise NotAsked("the same angle")
    whole = [_whole(g, angle, corners) for angle in (one, other)]
    if None not in whole and whole[0] != whole[1]:
        names.add("opposite" if abs(whole[0] - whole[1]) == 2 else "adjacent")  # type: ignore[operator]
    sides = [_at_diagonal(g, angle, corners) for angle in (one, other)]
    if None not in sides and one[1] != other[1] and sides[0] != sides[1]:
        names.add("alternate interior")
    u, v, w, z = (vector(angle[1], arm) for angle in (one, other) for arm in (angle[0], angle[2]))
    acute = g.dot(u, v) > 0 and g.dot(w, z) > 0
    if acute and g.dot(u, v) * g.dot(w, z) == g.k * abs(cross(u, v) * cross(w, z)):
        names.add("complementary")
    return frozenset(names)


def right_together(g: Plane, one: Angle, other: Angle, corners: Sequence[Point]) -> list[Condition]:
    """Where two angles measure 90 degrees together: the cosine of their sum vanishes."""
    u, v, w, z = (vector(angle[1], arm) for angle in (one, other) for arm in (angle[0], angle[2]))
    scale = math.prod(p[2] for p in (*one, *other)) * one[1][2] * other[1][2]
    return [[(g.dot(u, v) * g.dot(w, z) - g.k * abs(cross(u, v) * cross(w, z)), scale)]]


def right_margin(g: Plane, one: Angle, other: Angle, corners: Sequence[Point]) -> float:
    sines = [abs(sine_between(v, p, v, q)) for p, v, q in (flat(g, one), flat(g, other))]
    dots = [g.dot(vector(a[1], a[0]), vector(a[1], a[2])) for a in (one, other)]
    if min(dots) <= 0:
        return 1.0
    cosines = [math.sqrt(max(0.0, 1 - sine * sine)) for sine in sines]
    return abs(cosines[0] * cosines[1] - sines[0] * sines[1])


def _whole(g: Plane, angle: Angle, corners: Sequence[Point]) -> int | None:
    """The number of the corner whose angle it is."""
    x, v, y = angle
    if v not in corners:
        return None
    i = corners.index(v)
    b, c = corners[i - 1], corners[(i + 1) % 4]
    for p, q in ((b, c), (c, b)):
        if _same_ray(g, v, x, p) and _same_ray(g, v, y, q):
            return i
    return None


def _at_diagonal(g: Plane, angle: Angle, corners: Sequence[Point]) -> bool | None:
    """On which side of the diagonal is it? None if it is not between diagonal and a side."""
    a, b, c, d = corners
    x, v, y = angle
    if v not in (a, c):
        return None
    far = c if v == a else a
    for p, q in ((x, y), (y, x)):
        if _same_ray(g, v, p, far):
            if _same_ray(g, v, q, b):
                return True
            if _same_ray(g, v, q, d):
                return False
    return None
