"""What is asked of a scene: the relations that hold in one realisation, and the quantities on which they hang."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from trimtab.data.generators.geometry.angles import (
    crossing,
    in_order,
    right_margin,
    right_together,
    transversal,
    with_diagonal,
)
from trimtab.data.generators.geometry.conditions import Condition, NotAsked, flat, only, sine_between, turn_of
from trimtab.data.generators.geometry.plane import Plane, Point, cross, turn, vector
from trimtab.data.generators.geometry.segments import role, role_conditions, role_margin

NONE, CANNOT = "none", "cannot"


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
        return only("parallel")
    return only("perpendicular" if g.dot(u, v) == 0 else "intersecting")


def _line_line_conditions(g: Plane, one: Sequence[Point], other: Sequence[Point]) -> list[Condition]:
    u, v, scale = vector(*one), vector(*other), one[0][2] * one[1][2] * other[0][2] * other[1][2]
    if cross(u, v) == 0:
        return [[], [], [turn_of(one[0], one[1], other[0])]]  # parallel lines may become one line
    return [[(cross(u, v), scale)], [(g.dot(u, v), scale)]]


def _line_line_margin(g: Plane, one: Sequence[Point], other: Sequence[Point]) -> float:
    sine = abs(sine_between(*flat(g, one), *flat(g, other)))
    return min(sine, math.sqrt(max(0.0, 1 - sine * sine)))


def line_point(g: Plane, one: Sequence[Point], line: Sequence[Point]) -> frozenset[str]:
    """Is the point on the infinite line?"""
    return only("yes" if turn(line[0], line[1], one[0]) == 0 else "no")


def _line_point_conditions(g: Plane, one: Sequence[Point], line: Sequence[Point]) -> list[Condition]:
    return [[turn_of(line[0], line[1], one[0])]]


def _line_point_margin(g: Plane, one: Sequence[Point], line: Sequence[Point]) -> float:
    p, q, r = flat(g, [*one, *line])
    return abs(sine_between(q, r, q, p))


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
    return only("yes" if found > 0 else "no")


def segment_shape(g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> frozenset[str]:
    """Are all points between the two ends strictly inside? The ends themselves may be on the boundary.

    Raises:
        NotAsked: if the segment lies along a side.
    """
    if any(place(g, end, shape) < 0 for end in ends):
        return only("no")
    if place(g, g.move(ends[0], ends[0], ends[1], (1, 2)), shape) == 0:
        raise NotAsked("along the boundary")
    return only("yes")


def _shape_conditions(g: Plane, ends: Sequence[Point], shape: Sequence[Point]) -> list[Condition]:
    if len(shape) == 2:
        return [[g.longer(shape[0], shape[1], shape[0], p)] for p in ends]
    return [[turn_of(shape[i - 1], shape[i], p)] for p in ends for i in range(len(shape))]


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
        depths.append(min(turned * max(sine_between(a, b, a, p), sine_between(a, b, b, p), key=abs) for a, b in sides))
    return min(depths, default=1.0)


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
        conditions=right_together, margin=right_margin, identities=frozenset(("complementary",)),
    ),
}  # fmt: skip
ROLES = {
    "median": "a median", "altitude": "an altitude", "bisector": "an angle bisector", "side": "a side",
    "diagonal": "a diagonal", "radius": "a radius", "diameter": "a diameter",
}  # fmt: skip
for _name, _article in ROLES.items():
    QUESTIONS[_name] = QuestionKind(
        partial(role, _name),
        {"yes": "SL_YSP", "no": "SL_NSP", CANNOT: "SL_UN"},
        (f"Is segment {{0}} {_article} of {{1}}?", f"Can we say that {{0}} is {_article} of {{1}}?",
         f"Taking {{0}} as a segment: is it {_article} of {{1}}?"),
        YES_NO,
        partial(role_conditions, _name),
        partial(role_margin, _name),
        identities=frozenset(("yes",)),
    )  # fmt: skip
