"""What is asked of a scene: the relations that hold in one realisation, and the quantities on which they hang."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from trimtab.data.generators.geometry.plane import Plane, Point, between, convex, cross, turn, vector

NONE, CANNOT = "none", "cannot"
Condition = list[tuple[int, int]]
"""quantities as (number, positive scale): the relation changes where all of them vanish"""


class NotAsked(ValueError):
    """A realisation for which the question has no clear answer, such as a point on the boundary of a shape."""


@dataclass(frozen=True)
class QuestionKind:
    """`relations(plane, *arguments)` -> the names that hold, the arguments being tuples of points."""

    relations: Callable[..., frozenset[str]]
    codes: dict[str, str]
    """answer -> code of the official rows"""
    texts: tuple[str, ...]
    """wordings; {0}, {1} stand for the arguments"""
    answers: dict[str, str]
    """answer -> its text as an option, in the official order; angle questions offer some of the names"""
    conditions: Callable[..., list[Condition]] = lambda *_: []
    """where the answer may change; empty if the answer hangs on order alone"""
    margin: Callable[..., float] | None = None
    """how far the answer is from changing, as a number without units whose size shrinks to 0 on the way there: a guide
    to the search for another answer"""
    reasons: Callable[..., frozenset] | None = None
    """why the answer is "no" in one realisation; one of them must be the reason in all"""
    identities: frozenset[str] = frozenset()
    """answers that are equations; if there are any, the quantities keep their signs as long as no condition is met"""


def _only(name: str) -> frozenset[str]:
    return frozenset((name,))


def flat(g: Plane, points: Sequence[Point]) -> list[tuple[float, float]]:
    """Coordinates as floats."""
    high = math.sqrt(g.k)
    return [(x / w, high * (y / w)) for x, y, w in points]


def _sine(a: tuple, b: tuple, c: tuple, d: tuple) -> float:
    """Of the angle from ab to cd; 0 if that is lost to rounding."""
    ux, uy, vx, vy = b[0] - a[0], b[1] - a[1], d[0] - c[0], d[1] - c[1]
    lengths = math.hypot(ux, uy) * math.hypot(vx, vy)
    return (ux * vy - uy * vx) / lengths if lengths else 0.0


# ---------------------------------------------------------------- lines and points


def line_line(g: Plane, one: Sequence[Point], other: Sequence[Point]) -> frozenset[str]:
    """Two infinite lines.

    Raises:
        NotAsked: if they are the same line.
    """
    u, v = vector(*one), vector(*other)
    if cross(u, v) == 0:
        if turn(one[0], one[1], other[0]) == 0:
            raise NotAsked("one line")
        return _only("parallel")
    return _only("perpendicular" if g.dot(u, v) == 0 else "intersecting")


def _line_line_conditions(g: Plane, one: Sequence[Point], other: Sequence[Point]) -> list[Condition]:
    u, v, scale = vector(*one), vector(*other), one[0][2] * one[1][2] * other[0][2] * other[1][2]
    if cross(u, v) == 0:
        return [[], [], [_turn(one[0], one[1], other[0])]]  # parallel lines may become one line
    return [[(cross(u, v), scale)], [(g.dot(u, v), scale)]]


def _line_line_margin(g: Plane, one: Sequence[Point], other: Sequence[Point]) -> float:
    sine = abs(_sine(*flat(g, one), *flat(g, other)))
    return min(sine, math.sqrt(max(0.0, 1 - sine * sine)))


def line_point(g: Plane, one: Sequence[Point], line: Sequence[Point]) -> frozenset[str]:
    """Is the point on the infinite line?"""
    return _only("yes" if turn(line[0], line[1], one[0]) == 0 else "no")


def _turn(a: Point, b: Point, c: Point) -> tuple[int, int]:
    return turn(a, b, c), a[2] * a[2] * b[2] * c[2]


def _line_point_conditions(g: Plane, one: Sequence[Point], line: Sequence[Point]) -> list[Condition]:
    return [[_turn(line[0], line[1], one[0])]]


def _line_point_margin(g: Plane, one: Sequence[Point], line: Sequence[Point]) -> float:
    p, q, r = flat(g, [*one, *line])
    return abs(_sine(q, r, q, p))


# ---------------------------------------------------------------- shapes


def place(g: Plane, p: Point, shape: Sequence[Point]) -> int:
    """1 inside, 0 on the boundary, -1 outside; a shape of two points is a circle: its centre, and a point on it."""
    if len(shape) == 2:
        apart, _ = g.longer(shape[0], shape[1], shape[0], p)
        return (apart > 0) - (apart < 0)
    inside = turned = 1
    if turn(*shape[:3]) < 0:
        turned = -1
    for i, corner in enumerate(shape):
        side = turned * turn(shape[i - 1], corner, p)
        if side < 0:
            return -1
        if side == 0:
            inside = 0
    return inside


def point_shape(g: Plane, one: Sequence[Point], shape: Sequence[Point]) -> frozenset[str]:
    """Strictly inside?

    Raises:
        NotAsked: on the boundary.
    """
    found = place(g, one[0], shape)
    if found == 0:
        raise NotAsked("on the boundary")
    return _only("yes" if found > 0 else "no")


def segment_shape(g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> frozenset[str]:
    """Are all points between the two ends strictly inside? The ends themselves may be on the boundary.

    Raises:
        NotAsked: if the segment lies along a side.
    """
    if any(place(g, end, shape) < 0 for end in ends):
        return _only("no")
    if place(g, g.move(ends[0], ends[0], ends[1], (1, 2)), shape) == 0:
        raise NotAsked("along the boundary")
    return _only("yes")


def _shape_conditions(g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> list[Condition]:
    if len(shape) == 2:
        return [[g.longer(shape[0], shape[1], shape[0], p)] for p in ends]
    return [[_turn(shape[i - 1], shape[i], p)] for p in ends for i in range(len(shape))]


def _shape_reasons(g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> frozenset[tuple[int, int]]:
    """(end, side) where the end is strictly beyond the side; a circle counts as one side.

    A point that is always outside, but for ever other reasons, may well get in between them.
    """
    if len(shape) == 2:
        return frozenset((e, 0) for e, p in enumerate(ends) if place(g, p, shape) < 0)
    turned = 1 if turn(*shape[:3]) > 0 else -1
    return frozenset(
        (e, i) for e, p in enumerate(ends) for i in range(len(shape)) if turned * turn(shape[i - 1], shape[i], p) < 0
    )


def _shape_margin(g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> float:
    """How deep the end is that is least deep; ends on the boundary do not count. Below a side by the sine of the angle
    at which a corner sees the point, so that no point gets close by creeping into a corner."""
    corners = flat(g, shape)
    size = math.dist(corners[0], corners[1])
    turned = 0 if len(shape) == 2 else 1 if turn(*shape[:3]) > 0 else -1
    depths = []
    for end, p in zip(ends, flat(g, ends)):
        if place(g, end, shape) == 0:
            continue
        if not turned:
            depths.append(1 - math.dist(corners[0], p) / size)
            continue
        sides = [(corners[i - 1], q) for i, q in enumerate(corners)]
        depths.append(min(turned * max(_sine(a, b, a, p), _sine(a, b, b, p), key=abs) for a, b in sides))
    return min(depths, default=1.0)


# ---------------------------------------------------------------- roles of a segment

CORNER_ROLES = ("median", "altitude", "bisector")


def role(name: str) -> Callable[..., frozenset[str]]:
    """Is the segment a median, an altitude, ... of the shape? Of a triangle's three it starts at a corner and ends on
    the line of the opposite side."""

    def relations(g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> frozenset[str]:
        return _only("yes" if _has_role(g, name, ends, shape) else "no")

    return relations


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
        found.append((a, foot, b, c, [_turn(b, c, foot), value]))
    return found


def _cosine2(g: Plane, a: Point, foot: Point, b: Point) -> Fraction:
    u, v = vector(a, foot), vector(a, b)
    return Fraction(g.dot(u, v) ** 2, g.dot(v, v) * g.dot(u, u))


def _role_conditions(name: str) -> Callable[..., list[Condition]]:
    def conditions(g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> list[Condition]:
        if name not in CORNER_ROLES or len(shape) != 3:
            return []
        return [condition for *_, condition in _corner_conditions(g, name, ends, shape)]

    return conditions


def _role_margin(name: str) -> Callable[..., float]:
    """How far the foot is from where it should be, in units of the side it should be on."""

    def margin(g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> float:
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

    return margin


# ---------------------------------------------------------------- angles

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
            return _only("vertical")
        if (same[0] and opposite[1]) or (same[1] and opposite[0]):
            return _only("supplementary")
    return frozenset()


def in_order(g: Plane, one: Sequence[Point], other: Sequence[Point], corners: Sequence[Point]) -> frozenset[str]:
    """Interior angles of a quadrilateral whose corners are known in no particular order.

    Raises:
        NotAsked: if the four points are no corners of a convex quadrilateral.
    """
    p, q = one[0], other[0]
    r, s = (corner for corner in corners if corner not in (p, q))
    if convex([p, r, q, s]):
        return _only("opposite")
    if not (convex([p, q, r, s]) or convex([p, q, s, r])):
        raise NotAsked("not convex")
    return _only("adjacent")


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
        return _only("corresponding") if side == other_side else frozenset()
    where = "interior" if inside else "exterior"
    return _only(f"{'consecutive' if side == other_side else 'alternate'} {where}")


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


def _right_together(g: Plane, one: Angle, other: Angle, corners: Sequence[Point]) -> list[Condition]:
    """Where two angles measure 90 degrees together: the cosine of their sum vanishes."""
    u, v, w, z = (vector(angle[1], arm) for angle in (one, other) for arm in (angle[0], angle[2]))
    scale = math.prod(p[2] for p in (*one, *other)) * one[1][2] * other[1][2]
    return [[(g.dot(u, v) * g.dot(w, z) - g.k * abs(cross(u, v) * cross(w, z)), scale)]]


def _right_margin(g: Plane, one: Angle, other: Angle, corners: Sequence[Point]) -> float:
    sines = [abs(_sine(v, p, v, q)) for p, v, q in (flat(g, one), flat(g, other))]
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


# ---------------------------------------------------------------- all of them

UNKNOWN = "Cannot be inferred"
YES_NO = {"yes": "Yes", "no": "No", CANNOT: UNKNOWN}
ANGLES = {
    "vertical": ("AA_VER", "Vertical angles"),
    "supplementary": ("AA_SUP", "Supplementary angles (a linear pair)"),
    "corresponding": ("AA_COR", "Corresponding angles"),
    "alternate interior": ("AA_ALIN", "Alternate interior angles"),
    "alternate exterior": ("AA_ALEX", "Alternate exterior angles"),
    "consecutive interior": ("AA_COIN", "Consecutive interior angles"),
    "consecutive exterior": ("AA_COEX", "Consecutive exterior angles"),
    "complementary": ("AA_COM", "Complementary angles (90 degrees together)"),
    "opposite": ("AA_DIA", "Opposite angles of the quadrilateral"),
    "adjacent": ("AA_ADJ", "Adjacent angles of the quadrilateral (at the ends of one side)"),
}
ANGLE_TEXTS = (
    "What is the relationship between angle {0} and angle {1}?",
    "How are the angles {0} and {1} related?",
    "Which of these describes the pair of angles {0} and {1}?",
)


def _angles(
    relations: Callable[..., frozenset[str]], *names: str, texts: tuple[str, ...] = ANGLE_TEXTS, **rest: Any
) -> QuestionKind:
    codes = {name: ANGLES[name][0] for name in names} | {NONE: "AA_VIDE", CANNOT: "AA_UN"}
    answers = {name: ANGLES[name][1] for name in names} | {NONE: "None of the above", CANNOT: UNKNOWN}
    return QuestionKind(relations, codes, texts, answers, **rest)


QUESTIONS: dict[str, QuestionKind] = {
    "line-line": QuestionKind(
        line_line,
        {"parallel": "LL_PA", "perpendicular": "LL_PE", "intersecting": "LL_INT", CANNOT: "LL_UN"},
        (
            "What is the relationship between line {0} and line {1}?",
            "How do the lines {0} and {1} lie to each other?",
            "Which statement about line {0} and line {1} is right?",
        ),
        {"parallel": "Parallel", "perpendicular": "Perpendicular", "intersecting": "Intersecting but not perpendicular",
         CANNOT: UNKNOWN},
        _line_line_conditions,
        _line_line_margin,
        identities=frozenset(("parallel", "perpendicular")),
    ),
    "line-point": QuestionKind(
        line_point,
        {"yes": "LP_CO", "no": "LP_IC", CANNOT: "LP_UN"},
        (
            "Does the infinite line {1} pass through {0}?",
            "Are the point {0} and the two points of line {1} collinear?",
            "Is {0} on line {1}?",
        ),
        YES_NO,
        _line_point_conditions,
        _line_point_margin,
        identities=frozenset(("yes",)),
    ),
    "point-shape": QuestionKind(
        point_shape,
        {"yes": "SP_IN", "no": "SP_OUT", CANNOT: "SP_UN"},
        (
            "Is the point {0} strictly inside {1}?",
            "Does {0} lie in the interior of {1}?",
            "Is it true that {0} is inside {1} and not on its boundary?",
        ),
        YES_NO,
        _shape_conditions,
        _shape_margin,
        _shape_reasons,
    ),
    "segment-shape": QuestionKind(
        segment_shape,
        {"yes": "SL_IN", "no": "SL_OUT", CANNOT: "SL_UN"},
        (
            "Is segment {0}, apart from its ends, strictly inside {1}?",
            "Do all points between the ends of segment {0} lie in the interior of {1}?",
            "Leaving out its ends, is segment {0} contained in the interior of {1}?",
        ),
        YES_NO,
        _shape_conditions,
        _shape_margin,
        _shape_reasons,
    ),
    "angles at a crossing": _angles(crossing, "vertical", "supplementary"),
    "angles in some order": _angles(
        in_order, "opposite", "adjacent",
        texts=(
            "In the quadrilateral, how is the angle at {0} related to the angle at {1}?",
            "What are the interior angles at {0} and at {1} to each other?",
            "Which of these describes the quadrilateral's angles at its corners {0} and {1}?",
        ),
    ),
    "angles at a transversal": _angles(
        transversal, "vertical", "supplementary", "corresponding", "alternate interior", "alternate exterior",
        "consecutive interior", "consecutive exterior",
    ),
    "angles at a diagonal": _angles(
        with_diagonal, "complementary", "alternate interior", "adjacent", "opposite",
        conditions=_right_together, margin=_right_margin, identities=frozenset(("complementary",)),
    ),
}  # fmt: skip
ROLES = {
    "median": "a median", "altitude": "an altitude", "bisector": "an angle bisector", "side": "a side",
    "diagonal": "a diagonal", "radius": "a radius", "diameter": "a diameter",
}  # fmt: skip
for _name, _article in ROLES.items():
    QUESTIONS[_name] = QuestionKind(
        role(_name),
        {"yes": "SL_YSP", "no": "SL_NSP", CANNOT: "SL_UN"},
        (f"Is segment {{0}} {_article} of {{1}}?", f"Can we say that {{0}} is {_article} of {{1}}?",
         f"Taking {{0}} as a segment: is it {_article} of {{1}}?"),
        YES_NO,
        _role_conditions(_name),
        _role_margin(_name),
        identities=frozenset(("yes",)),
    )  # fmt: skip
