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

from trimtab.data.generators.geometry.draws import BETWEEN, BEYOND, LINE, NONZERO, ORDER, POSITIVE, REAL, SIGN, Case
from trimtab.data.generators.geometry.plane import Plane, Point, meet

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


def _add(name: str, roles: str, free: tuple[int, ...], place: Place, *texts: str, **rest) -> None:
    ALL[name] = Construction(name, roles, free, place, texts, **rest)


def _figure(name: str, roles: str, free: tuple[int, ...], place: Place, *texts: str, **rest) -> None:
    _add(name, roles, free, place, *texts, begins=True, **rest)


def filled(text: str, letters: dict[str, str]) -> str:
    """A text with [AB] replaced by the letters that play A and B."""
    return re.sub(r"\[([A-Z]+)\]", lambda found: "".join(letters[role] for role in found[1]), text)


# ---------------------------------------------------------------- triangles on AB


def _apex(g: Plane, a: Point, b: Point, x, y) -> tuple[Point, ...]:
    return (g.move(a, a, b, x, y),)


TRIANGLE: dict[str, Case] = {
    "AB perp AC": lambda d: (ZERO, None),
    "AB perp BC": lambda d: (ONE, None),
    "AC perp BC": lambda d: d.right(),
    "AC eq BC": lambda d: (HALF, None),
    "AB eq AC": lambda d: d.circle(),
    "obtuse CAB": lambda d: (-d(POSITIVE), None),
    "obtuse ABC": lambda d: (d(BEYOND), None),
}
OF_TRIANGLE = {"polygons": ("ABC",), "cases": TRIANGLE}

_figure(
    "triangle", "AB>C", (REAL, NONZERO), _apex,
    "[ABC] is a triangle.", "The points [A], [B] and [C] are the vertices of a triangle.",
    "Three points [A], [B] and [C] do not lie on one line; they form triangle [ABC].",
    **OF_TRIANGLE,
)  # fmt: skip
_figure(
    "scalene triangle", "AB>C", (REAL, NONZERO), _apex,
    "[ABC] is a scalene triangle.", "In triangle [ABC] no two sides have the same length.",
    "The three sides of triangle [ABC] have three different lengths.",
    polygons=("ABC",), requires=("AB ne BC", "BC ne AC", "AC ne AB"),
    cases={f: c for f, c in TRIANGLE.items() if "eq" not in f},
)  # fmt: skip
_figure(
    "acute triangle", "AB>C", (BETWEEN, NONZERO), _apex,
    "[ABC] is an acute triangle.", "All three angles of triangle [ABC] are smaller than a right angle.",
    "Triangle [ABC] has acute angles only.",
    polygons=("ABC",), requires=("acute ACB",), facts=("acute CAB", "acute ABC"),
    cases={"AC eq BC": lambda d: (HALF, d(BEYOND))},
)  # fmt: skip
_figure(
    "obtuse triangle", "AB>C", (BEYOND, NONZERO), _apex,
    "In triangle [ABC] the angle at [B] is obtuse.", "[ABC] is a triangle; angle [ABC] is larger than a right angle.",
    "Triangle [ABC] has an obtuse angle at its vertex [B].",
    polygons=("ABC",), facts=("obtuse ABC",),
    cases={"AB eq BC": lambda d: (lambda x, y: (1 + abs(x), y))(*d.circle())},
)  # fmt: skip
_figure(
    "right triangle", "AB>C", (NONZERO,), lambda g, a, b, y: (g.move(b, a, b, 0, y),),
    "Triangle [ABC] has a right angle at [B].", "In triangle [ABC], angle [ABC] measures 90 degrees.",
    "[ABC] is a right triangle whose hypotenuse is [AC].",
    polygons=("ABC",), facts=("AB perp BC",), cases={"AB eq BC": lambda d: (d.unit(),)},
)  # fmt: skip
_figure(
    "isosceles triangle, base AB", "AB>C", (NONZERO,), lambda g, a, b, y: _apex(g, a, b, HALF, y),
    "Triangle [ABC] is isosceles with [CA] = [CB].", "In triangle [ABC] the sides [AC] and [BC] are equally long.",
    "[ABC] is an isosceles triangle; its apex is [C] and its base is [AB].",
    polygons=("ABC",), facts=("AC eq BC",),
    cases={"AC perp BC": lambda d: (d.unit() / 2 if d.k == 1 else None,)},
)  # fmt: skip
_figure(
    "isosceles triangle, leg AB", "AB>C", (NONZERO,), lambda g, a, b, t: _apex(g, a, b, *g.circle(t)),
    "Triangle [ABC] is isosceles with [AB] = [AC].", "In triangle [ABC] the sides [AB] and [AC] have equal length.",
    "[ABC] is an isosceles triangle; its apex is [A] and its base is [BC].",
    polygons=("ABC",), facts=("AB eq AC",),
    cases={"AB perp AC": lambda d: (d.unit(),), "obtuse CAB": lambda d: (d(BEYOND),)},
)  # fmt: skip
_figure(
    "equilateral triangle", "AB>C", (SIGN,), lambda g, a, b, s: _apex(g, a, b, HALF, s / 2),
    "Triangle [ABC] is equilateral.", "All sides of triangle [ABC] are equally long.",
    "[ABC] is a triangle with three angles of 60 degrees.",
    polygons=("ABC",), facts=("AB eq BC", "BC eq AC"), unit=3,
)  # fmt: skip
_figure(
    "triangle with median", "AB>CM", (REAL, NONZERO),
    lambda g, a, b, x, y: (g.move(a, a, b, x, y), g.move(a, a, b, HALF)),
    "In triangle [ABC] the median from [C] meets side [AB] at [M].",
    "[CM] is a median of triangle [ABC], with [M] on side [AB].",
    "[ABC] is a triangle, and [M] is the midpoint of its side [AB].",
    facts=("M in AB", "AM eq MB"), lines=("AMB",), **OF_TRIANGLE,
)  # fmt: skip
_figure(
    "triangle with altitude", "AB>CH", (LINE, NONZERO),
    lambda g, a, b, x, y: (g.move(a, a, b, x, y), g.move(a, a, b, x)),
    "In triangle [ABC] the perpendicular from [C] to line [AB] has its foot at [H].",
    "[ABC] is a triangle, and [H] is the foot of the altitude from [C], taken on line [AB].",
    "From vertex [C] of triangle [ABC] the altitude is drawn; it meets line [AB] at [H].",
    facts=("CH perp AB", "H on AB"), lines=("AHB",), polygons=("ABC",),
    cases={
        "AC eq BC": lambda d: (HALF, None), "AC perp BC": lambda d: d.right(), "AB eq AC": lambda d: d.circle(),
        "obtuse ABC": lambda d: (d(BEYOND), None), "obtuse CAB": lambda d: (-d(POSITIVE), None),
    },
)  # fmt: skip
_figure(
    "triangle with bisector", "AB>CD", (NONZERO, POSITIVE),
    lambda g, a, b, t, s: _bisected(g, a, b, t, s),
    "In triangle [ABC] the bisector of the angle at [A] meets side [BC] at [D].",
    "[AD] bisects angle [BAC] of triangle [ABC], where [D] is on side [BC].",
    "[ABC] is a triangle; the point [D] of side [BC] is chosen so that angles [BAD] and [DAC] are equal.",
    facts=("D in BC",), lines=("BDC",), polygons=("ABC",),
    cases={"AB eq AC": lambda d: (None, ONE), "AB perp AC": lambda d: (d.unit(), None)},
)  # fmt: skip
_figure(
    "triangle with midline", "AB>CMN", (REAL, NONZERO),
    lambda g, a, b, x, y: (lambda c: (c, g.move(a, a, c, HALF), g.move(b, b, c, HALF)))(g.move(a, a, b, x, y)),
    "In triangle [ABC], [M] is the midpoint of [AC] and [N] is the midpoint of [BC].",
    "[M] and [N] halve the sides [AC] and [BC] of triangle [ABC].",
    "[ABC] is a triangle; the midline [MN] joins the midpoints of [AC] (which is [M]) and of [BC] (which is [N]).",
    facts=("MN par AB", "M in AC", "N in BC"), lines=("AMC", "BNC"), **OF_TRIANGLE,
)  # fmt: skip


def _bisected(g: Plane, a: Point, b: Point, t, s) -> tuple[Point, ...]:
    """The bisector first, then side AC as the mirror image of side AB in it: so nothing needs a root."""
    on_bisector = g.move(a, a, b, 1, t)
    c = g.move(a, a, g.mirror(b, a, on_bisector), s)
    return c, meet(a, on_bisector, b, c)


# ---------------------------------------------------------------- quadrilaterals on AB


def _parallelogram(g: Plane, a: Point, b: Point, x, y) -> tuple[Point, ...]:
    return g.move(b, a, b, x, y), g.move(a, a, b, x, y)


def _trapezoid(g: Plane, a: Point, b: Point, x, y, r) -> tuple[Point, ...]:
    d = g.move(a, a, b, x, y)
    return g.move(d, a, b, r), d


def _kite(g: Plane, a: Point, b: Point, t, r) -> tuple[Point, ...]:
    e = g.move(a, a, b, *g.right(t))
    return g.move(a, a, e, r), g.move(b, b, e, 2)


def _quadrilateral(g: Plane, a: Point, b: Point, x, y, s, r) -> tuple[Point, ...]:
    d = g.move(a, a, b, x, y)
    return g.move(a, a, g.move(b, b, d, s), r), d


QUAD = {"polygons": ("ABCD",)}

_figure(
    "square", "AB>CD", (SIGN,), lambda g, a, b, y: _parallelogram(g, a, b, 0, y),
    "[ABCD] is a square.", "The quadrilateral [ABCD] has four equal sides and four right angles.",
    "[A], [B], [C] and [D], in this order, are the corners of a square.",
    facts=("AB eq BC", "AB perp BC", "CD par AB", "CD eq AB", "AC perp BD"), unit=1, **QUAD,
)  # fmt: skip
_figure(
    "rectangle", "AB>CD", (NONZERO,), lambda g, a, b, y: _parallelogram(g, a, b, 0, y),
    "[ABCD] is a rectangle.", "Quadrilateral [ABCD] has four right angles.",
    "[A], [B], [C] and [D], in this order, are the corners of a rectangle.",
    facts=("AB perp BC", "CD par AB", "BC par AD", "AC eq BD"), cases={"AB eq BC": lambda d: (d.unit(),)}, **QUAD,
)  # fmt: skip
PARALLELOGRAM: dict[str, Case] = {
    "AB perp BC": lambda d: (ZERO, None),
    "AB eq BC": lambda d: d.circle(),
    "AC perp BD": lambda d: d.circle(),
    "AB perp BD": lambda d: (ONE, None),
    "AB perp AC": lambda d: (-ONE, None),
}
_figure(
    "parallelogram", "AB>CD", (REAL, NONZERO), _parallelogram,
    "[ABCD] is a parallelogram.", "In quadrilateral [ABCD], [AB] is parallel to [DC] and [AD] is parallel to [BC].",
    "[A], [B], [C] and [D], in this order, are the corners of a parallelogram.",
    facts=("AB par CD", "AD par BC", "AB eq CD"), cases=PARALLELOGRAM, **QUAD,
)  # fmt: skip
_figure(
    "slanted parallelogram", "AB>CD", (NONZERO, NONZERO), _parallelogram,
    "[ABCD] is a parallelogram without a right angle.", "The parallelogram [ABCD] is not a rectangle.",
    "[ABCD] is a parallelogram whose neighbouring sides are not perpendicular.",
    facts=("AB par CD", "AD par BC"), cases={k: v for k, v in PARALLELOGRAM.items() if k != "AB perp BC"}, **QUAD,
)  # fmt: skip
_figure(
    "rhombus", "AB>CD", (NONZERO,), lambda g, a, b, t: _parallelogram(g, a, b, *g.circle(t)),
    "[ABCD] is a rhombus.", "All four sides of quadrilateral [ABCD] are equally long.",
    "[A], [B], [C] and [D], in this order, are the corners of a rhombus.",
    facts=("AB eq BC", "AB par CD", "AC perp BD"), cases={"AB perp BC": lambda d: (d.unit(),)}, **QUAD,
)  # fmt: skip
_figure(
    "trapezoid", "AB>CD", (REAL, NONZERO, POSITIVE), _trapezoid,
    "[ABCD] is a trapezoid whose only parallel sides are [AB] and [CD].",
    "Quadrilateral [ABCD] has exactly one pair of parallel sides, namely [AB] and [CD].",
    "The bases of trapezoid [ABCD] are [AB] and [CD]; its legs [AD] and [BC] are not parallel.",
    facts=("AB par CD",), requires=("AB ne CD",),
    cases={
        "AD perp AB": lambda d: (ZERO, None, None),
        "BC perp AB": lambda d: (lambda r: (1 - r, None, r))(d(POSITIVE)),
        "AD eq BC": lambda d: (lambda r: ((1 - r) / 2, None, r))(d(POSITIVE)),
        "AB eq AD": lambda d: (*d.circle(), None),
        "AD perp BD": lambda d: (*d.right(), None),
    },
    **QUAD,
)  # fmt: skip
_figure(
    "isosceles trapezoid", "AB>CD", (NONZERO, POSITIVE),
    lambda g, a, b, y, r: _trapezoid(g, a, b, (1 - r) / 2, y, r),
    "[ABCD] is an isosceles trapezoid whose only parallel sides are [AB] and [CD].",
    "In trapezoid [ABCD] the bases [AB] and [CD] have different lengths, and the legs [AD] and [BC] equal ones.",
    "Trapezoid [ABCD] has just two parallel sides, [AB] and [CD], and it is symmetric: [AD] = [BC].",
    facts=("AB par CD", "AD eq BC", "AC eq BD"), requires=("AB ne CD",),
    cases={"AC perp BD": lambda d: (lambda r: ((1 + r) / 2 * d(SIGN) if d.k == 1 else None, r))(d(POSITIVE))}, **QUAD,
)  # fmt: skip
_figure(
    "right trapezoid", "AB>CD", (NONZERO, POSITIVE), lambda g, a, b, y, r: _trapezoid(g, a, b, 0, y, r),
    "[ABCD] is a trapezoid with exactly one pair of parallel sides, [AB] and [CD], and a right angle at [A].",
    "In trapezoid [ABCD] only [AB] and [CD] are parallel, and [AD] is perpendicular to [AB].",
    "Trapezoid [ABCD] has bases [AB] and [CD] of different lengths; angle [DAB] is a right angle.",
    facts=("AB par CD", "AD perp AB"), requires=("AB ne CD",),
    cases={
        "AB eq AD": lambda d: (d.unit(), None),
        "AC perp BD": lambda d: (lambda s: (s, s * s * d.k))(d(POSITIVE)),
    },
    **QUAD,
)  # fmt: skip
_figure(
    "kite", "AB>CD", (NONZERO, BEYOND), _kite,
    "[ABCD] is a convex kite with [AB] = [AD] and [CB] = [CD].",
    "In the convex quadrilateral [ABCD], [AB] and [AD] are equally long, and so are [CB] and [CD].",
    "[ABCD] is a convex kite whose axis of symmetry is [AC].",
    facts=("AB eq AD", "BC eq CD", "AC perp BD"),
    cases={
        "AB eq BC": lambda d: (None, TWO),
        "AB perp AD": lambda d: (d.unit(), None),
        "AB perp BC": lambda d: (lambda t: (t, 1 + d.k * t * t))(d(NONZERO)),
    },
    **QUAD,
)  # fmt: skip
_figure(
    "quadrilateral", "AB>CD", (REAL, NONZERO, BETWEEN, BEYOND), _quadrilateral,
    "[ABCD] is a convex quadrilateral.", "[A], [B], [C] and [D], in this order, are the corners of a convex polygon.",
    "The convex quadrilateral [ABCD] is given.",
    facts=("convex ABCD",),
    cases={
        "AB par CD": lambda d: (lambda s: (None, None, s, 1 / s))(d(BETWEEN)),
        "AD par BC": lambda d: (lambda s: (None, None, s, 1 / (1 - s)))(d(BETWEEN)),
        "AD eq BC": lambda d: (None, None, HALF, TWO),
        "AB perp AD": lambda d: (ZERO, None, None, None),
        "AB eq AD": lambda d: (*d.circle(), None, None),
        "AC perp BD": lambda d: (*d.circle(), HALF, None),
    },
    **QUAD,
)  # fmt: skip
_figure(
    "hexagon", "AB>CDEF", (SIGN,),
    lambda g, a, b, s: (
        g.move(b, a, b, HALF, s / 2), g.move(b, a, b, 0, s), g.move(a, a, b, 0, s), g.move(a, a, b, -HALF, s / 2),
    ),
    "[ABCDEF] is a regular hexagon.", "The corners of a regular hexagon are, in order, [A], [B], [C], [D], [E], [F].",
    "Hexagon [ABCDEF] has equal sides and equal angles.",
    facts=("convex ABCDEF", "AB eq BC", "AB eq EF", "AB par DE", "AB perp BD"), polygons=("ABCDEF",), unit=3,
)  # fmt: skip


def _with_centre(name: str) -> None:
    """A quadrilateral and the point where its diagonals cross, in one sentence."""
    base = ALL[name]

    def place(g: Plane, a: Point, b: Point, *free) -> tuple[Point, ...]:
        c, d = base.place(g, a, b, *free)
        return c, d, meet(a, c, b, d)

    first = base.texts[0].removesuffix(".")
    _figure(
        f"{name} with diagonals", "AB>CDO", base.free, place,
        f"{first}; its diagonals cross at [O].", f"{first}, and segments [AC] and [BD] intersect at [O].",
        f"{first}, and [O] is the common point of its diagonals [AC] and [BD].",
        facts=(*base.facts, "O in AC", "O in BD"), cases=base.cases, requires=base.requires, polygons=base.polygons,
        unit=base.unit, lines=("AOC", "BOD"),
    )  # fmt: skip


for _name in ("square", "rectangle", "parallelogram", "rhombus", "kite", "isosceles trapezoid", "quadrilateral"):
    _with_centre(_name)


def _some_order(g: Plane, a: Point, b: Point, x, y, s, r, order) -> tuple[Point, ...]:
    """C and D so that the four points are corners of a convex polygon in one of its three essentially different orders:
    ABCD, ABDC, ACBD."""
    c, d = _quadrilateral(g, a, b, x, y, s, r)
    if order == 2:  # A and B face each other: the two others are across the segment
        m = g.move(a, a, b, s)
        c = g.move(m, a, b, x, y)
        return c, g.move(c, c, m, r)
    return (c, d) if order == 0 else (d, c)


_figure(
    "corners in some order", "AB>CD", (REAL, NONZERO, BETWEEN, BEYOND, ORDER), _some_order,
    "[A], [B], [C] and [D] are the corners of a convex quadrilateral, but the order in which they follow is not given.",
    "Some convex quadrilateral has the corners [A], [B], [C] and [D], not necessarily in this order.",
    "Take the four corners of a convex quadrilateral and call them, in any order, [A], [B], [C] and [D].",
    cases={f"convex {word}": (lambda d, n=n: (None, None, None, None, Fraction(n)))
           for n, word in enumerate(("ABCD", "ABDC", "ACBD"))},
    family="order",
)  # fmt: skip

# ---------------------------------------------------------------- circles

_figure(
    "circle with diameter", "AB>OC", (NONZERO,),
    lambda g, a, b, t: (g.move(a, a, b, HALF), g.move(a, a, b, *g.right(t))),
    "[AB] is a diameter of the circle with centre [O], and [C] is another point of this circle.",
    "On the circle with centre [O] and diameter [AB] lies a third point [C].",
    "The circle around [O] passes through [A], [B] and [C]; segment [AB] contains [O].",
    facts=("AC perp BC", "O in AB", "OA eq OC"), cases={"AC eq BC": lambda d: (d.unit(),)},
    circles=("OA",), lines=("AOB",),
)  # fmt: skip
_figure(
    "chord", "AB>O", (NONZERO,), lambda g, a, b, y: _apex(g, a, b, HALF, y),
    "[AB] is a chord of the circle with centre [O], but no diameter.",
    "The points [A] and [B] lie on the circle with centre [O], and line [AB] misses [O].",
    "The circle around [O] has [AB] as one of its chords; this chord does not pass through [O].",
    facts=("OA eq OB",), cases={"OA perp OB": lambda d: (d.unit() / 2 if d.k == 1 else None,)}, circles=("OA",),
)  # fmt: skip
_figure(
    "chord with midpoint", "AB>OM", (NONZERO,),
    lambda g, a, b, y: (g.move(a, a, b, HALF, y), g.move(a, a, b, HALF)),
    "[M] is the midpoint of [AB], a chord of the circle with centre [O] that misses [O].",
    "In the circle around [O], the chord [AB], which is no diameter, is halved by the point [M].",
    "[A] and [B] lie on the circle with centre [O]; segment [AB] has midpoint [M], which is not [O].",
    facts=("OM perp AB", "OA eq OB", "M in AB"), cases={"OM eq AM": lambda d: (d.unit() / 2 if d.k == 1 else None,)},
    circles=("OA",), lines=("AMB",),
)  # fmt: skip
_figure(
    "tangent", "OA>T", (NONZERO,), lambda g, o, a, y: (g.move(a, o, a, 0, y),),
    "Line [AT] touches the circle with centre [O] at [A].",
    "[A] is on the circle around [O], and [T] is another point of the tangent at [A].",
    "The tangent at point [A] of the circle with centre [O] passes through [T].",
    facts=("OA perp AT",), cases={"OA eq AT": lambda d: (d.unit(),)}, circles=("OA",),
)  # fmt: skip
_figure(
    "two tangents", "OA>PB", (NONZERO,),
    lambda g, o, a, y: (lambda p: (p, g.mirror(a, o, p)))(g.move(a, o, a, 0, y)),
    "From [P] two tangents are drawn to the circle with centre [O]; they touch it at [A] and [B].",
    "The lines [PA] and [PB] touch the circle around [O] at the two points [A] and [B].",
    "The tangents at the points [A] and [B] of the circle with centre [O] meet at [P].",
    facts=("PA eq PB", "PA perp OA", "PB perp OB", "OP perp AB"), cases={"PA perp PB": lambda d: (d.unit(),)},
    circles=("OA",),
)  # fmt: skip
_figure(
    "diameter with tangent", "AB>OT", (NONZERO,),
    lambda g, a, b, y: (g.move(a, a, b, HALF), g.move(b, a, b, 0, y)),
    "[AB] is a diameter of the circle with centre [O]; the tangent at [B] passes through [T].",
    "Line [BT] touches the circle around [O] at [B], and [A] is the point of the circle opposite [B].",
    "The circle with centre [O] has the diameter [AB]; at its end [B] the tangent [BT] is drawn.",
    facts=("AB perp BT", "O in AB"), cases={"AB eq BT": lambda d: (d.unit(),)}, circles=("OA",), lines=("AOB",),
)  # fmt: skip


def _off_circle(g: Plane, o: Point, a: Point, t, s) -> tuple[Point, ...]:
    return (g.move(o, o, g.move(o, o, a, *g.circle(t)), s),)


_figure(
    "point inside circle", "OA>P", (REAL, BETWEEN), _off_circle,
    "[P] is inside the circle that has centre [O] and passes through [A], and it is not [O].",
    "The circle around [O] passes through [A]; the point [P], which is not [O], is closer to [O] than [A] is.",
    "Inside the circle with centre [O] and radius [OA] lies a point [P] other than [O].",
    cases={"P on OA": lambda d: (ZERO, None), "OP perp OA": lambda d: (d.unit(), None)}, circles=("OA",),
)  # fmt: skip
_figure(
    "point outside circle", "OA>P", (REAL, BEYOND), _off_circle,
    "[P] is outside the circle that has centre [O] and passes through [A].",
    "The circle around [O] passes through [A]; the point [P] is farther from [O] than [A] is.",
    "Outside the circle with centre [O] and radius [OA] lies a point [P].",
    cases={
        "P on OA": lambda d: (ZERO, None), "OP perp OA": lambda d: (d.unit(), None),
        "PA perp OA": lambda d: (lambda t: (t, (1 + d.k * t * t) / (1 - d.k * t * t)) if d.k * t * t < 1
                                 else (None, None))(d(BETWEEN)),
    },
    circles=("OA",),
)  # fmt: skip

# ---------------------------------------------------------------- points on and around two points


def _any(g: Plane, a: Point, b: Point, x, y) -> tuple[Point, ...]:
    return (g.move(a, a, b, x, y),)


_add(
    "midpoint", "AB>M", (), lambda g, a, b: (g.move(a, a, b, HALF),),
    "[M] is the midpoint of segment [AB].", "The point [M] halves segment [AB].",
    "On segment [AB] lies [M] with [AM] = [MB].",
    facts=("M in AB", "AM eq MB"), lines=("AMB",),
)  # fmt: skip
_add(
    "between", "AB>P", (BETWEEN,), lambda g, a, b, t: (g.move(a, a, b, t),),
    "[P] lies on segment [AB], between its ends.",
    "The point [P] is somewhere strictly between [A] and [B] on line [AB].",
    "Segment [AB] contains [P], which is neither [A] nor [B].",
    facts=("P in AB",), cases={"AP eq PB": lambda d: (HALF,)}, lines=("APB",),
)  # fmt: skip
_add(
    "beyond", "AB>P", (BEYOND,), lambda g, a, b, t: (g.move(a, a, b, t),),
    "Segment [AB] is extended beyond [B] to [P].", "[P] is on line [AB], and [B] is between [A] and [P].",
    "On the extension of [AB] past [B] lies the point [P].",
    facts=("B in AP",), cases={"AB eq BP": lambda d: (TWO,)}, lines=("ABP",),
)  # fmt: skip
_add(
    "on line", "AB>P", (LINE,), lambda g, a, b, t: (g.move(a, a, b, t),),
    "[P] is another point of line [AB].", "The infinite line [AB] passes through [P].",
    "[A], [B] and [P] are three points of one line, in some order.",
    facts=("P on AB",),
    cases={"P in AB": lambda d: (d(BETWEEN),), "B in AP": lambda d: (d(BEYOND),), "A in PB": lambda d: (-d(POSITIVE),),
           "AP eq PB": lambda d: (HALF,), "AP eq AB": lambda d: (-ONE,)},
    lines=("ABP",),
)  # fmt: skip
_add(
    "off line", "AB>P", (REAL, NONZERO), _any,
    "[P] is a point that is not on line [AB].", "Line [AB] does not pass through the point [P].",
    "Somewhere away from line [AB] lies the point [P].",
    facts=("P off AB",),
    cases={"AP perp AB": lambda d: (ZERO, None), "BP perp AB": lambda d: (ONE, None),
               "AP eq PB": lambda d: (HALF, None),
           "AP perp PB": lambda d: d.right(), "AP eq AB": lambda d: d.circle()},
)  # fmt: skip
_add(
    "some point", "AB>P", (REAL, REAL), _any,
    "[P] is a further point in the plane of [A] and [B].",
    "Besides [A] and [B] there is a point [P]; its place is not known.",
    "[P] is any point other than [A] and [B].",
    cases={"P on AB": lambda d: (d(LINE), ZERO), "P in AB": lambda d: (d(BETWEEN), ZERO),
           "AP perp AB": lambda d: (ZERO, None), "AP eq PB": lambda d: (HALF, None), "AP perp PB": lambda d: d.right(),
           "AP eq AB": lambda d: d.circle()},
)  # fmt: skip
_add(
    "perpendicular at A", "AB>P", (NONZERO,), lambda g, a, b, y: (g.move(a, a, b, 0, y),),
    "Line [AP] is perpendicular to line [AB].", "The perpendicular to [AB] at [A] passes through [P].",
    "Angle [PAB] is a right angle.",
    facts=("AP perp AB",), cases={"AP eq AB": lambda d: (d.unit(),)},
)  # fmt: skip
_add(
    "perpendicular bisector", "AB>PQ", (REAL, REAL),
    lambda g, a, b, y, z: (g.move(a, a, b, HALF, y), g.move(a, a, b, HALF, z)),
    "Line [PQ] is the perpendicular bisector of segment [AB].",
    "[P] and [Q] are two points, each of which is as far from [A] as from [B].",
    "Line [PQ] crosses segment [AB] at its midpoint and at a right angle.",
    facts=("PQ perp AB", "AP eq PB", "AQ eq QB"), cases={"P on AB": lambda d: (ZERO, None),
    "Q on AB": lambda d: (None, ZERO)},
)  # fmt: skip
_add(
    "same distance", "AB>P", (REAL,), lambda g, a, b, y: (g.move(a, a, b, HALF, y),),
    "[P] is as far from [A] as from [B].", "The distances [PA] and [PB] are equal.",
    "[P] lies on the perpendicular bisector of segment [AB].",
    facts=("AP eq PB",), cases={"P on AB": lambda d: (ZERO,),
    "AP perp PB": lambda d: (d.unit() / 2 if d.k == 1 else None,)},
)  # fmt: skip
_add(
    "circle around A", "A>P", (REAL, REAL),
    lambda g, a, x, y: (g.move(a, (0, 0, 1), (1, 0, 1), x, y),),
    "[P] is a point of some circle with centre [A].", "The circle around [A] passes through [P].",
    "With centre [A] and some radius, the circle through [P] is drawn.",
    circles=("AP",),
)  # fmt: skip

# ---------------------------------------------------------------- three points and more

_add(
    "parallel through P", "ABP>Q", (NONZERO,), lambda g, a, b, p, t: (g.move(p, a, b, t),),
    "Line [PQ] is parallel to line [AB] and not the same line.",
    "Through [P], which is not on line [AB], the parallel to [AB] is drawn; it passes through [Q].",
    "The lines [AB] and [PQ] are two different parallel lines.",
    facts=("PQ par AB",), requires=("P off AB",), cases={"PQ eq AB": lambda d: (d(SIGN),)},
)  # fmt: skip
_add(
    "perpendicular through P", "ABP>Q", (NONZERO,), lambda g, a, b, p, s: (g.move(p, a, b, 0, s),),
    "Line [PQ] is perpendicular to line [AB].", "The perpendicular to line [AB] through [P] passes through [Q].",
    "Through [P] and [Q] goes a line at a right angle to line [AB].",
    facts=("PQ perp AB",), cases={"PQ eq AB": lambda d: (d.unit(),)},
)  # fmt: skip
_add(
    "foot", "ABP>F", (), lambda g, a, b, p: (g.foot(p, a, b),),
    "[F] is the foot of the perpendicular from [P] to line [AB], and [P] is not on this line.",
    "From [P], which is not on line [AB], the perpendicular to this line is dropped; it meets the line at [F].",
    "The point of line [AB] nearest to [P], which lies off the line, is [F].",
    facts=("PF perp AB", "F on AB"), requires=("P off AB",), lines=("ABF",),
)  # fmt: skip
_add(
    "mirror image", "ABP>Q", (), lambda g, a, b, p: (g.mirror(p, a, b),),
    "[Q] is the mirror image of [P] in line [AB], and [P] is not on this line.",
    "Reflecting [P], which is not on line [AB], in this line gives [Q].",
    "Line [AB] is the perpendicular bisector of segment [PQ].",
    facts=("PQ perp AB", "PA eq QA", "PB eq QB"), requires=("P off AB",),
)  # fmt: skip
_add(
    "meeting point", "ABCD>S", (), lambda g, a, b, c, d: (meet(a, b, c, d),),
    "Line [AB] and line [CD] are different lines and meet at [S].",
    "[S] is the only common point of line [AB] and line [CD].",
    "The infinite lines [AB] and [CD] cross at the point [S].",
    facts=("S on AB", "S on CD"), lines=("ABS", "CDS"),
)  # fmt: skip
_add(
    "median point", "ABC>M", (), lambda g, a, b, c: (g.move(b, b, c, HALF),),
    "The median from [A] in triangle [ABC] ends at [M].", "[AM] is the median of triangle [ABC] that starts at [A].",
    "In triangle [ABC] the midpoint of the side opposite [A] is [M].",
    facts=("M in BC", "BM eq MC"), lines=("BMC",), takes="triangle",
)  # fmt: skip
_add(
    "altitude foot", "ABC>H", (), lambda g, a, b, c: (g.foot(a, b, c),),
    "The altitude of triangle [ABC] from [A] meets line [BC] at [H].",
    "[H] is the foot of the altitude from [A] in triangle [ABC], taken on line [BC].",
    "In triangle [ABC] the perpendicular from vertex [A] to line [BC] ends at [H].",
    facts=("AH perp BC", "H on BC"), lines=("BCH",), takes="triangle",
)  # fmt: skip
_add(
    "midpoints of two sides", "ABC>MN", (), lambda g, a, b, c: (g.move(a, a, b, HALF), g.move(a, a, c, HALF)),
    "[M] and [N] are the midpoints of the sides [AB] and [AC] of triangle [ABC], in this order.",
    "In triangle [ABC] the midline [MN] joins the midpoint [M] of [AB] to the midpoint [N] of [AC].",
    "Side [AB] of triangle [ABC] has midpoint [M], and side [AC] has midpoint [N].",
    facts=("MN par BC", "M in AB", "N in AC"), lines=("AMB", "ANC"), takes="triangle",
)  # fmt: skip
_add(
    "centroid", "ABC>G", (), lambda g, a, b, c: (g.move(a, a, g.move(b, b, c, HALF), Fraction(2, 3)),),
    "[G] is the centroid of triangle [ABC].", "The three medians of triangle [ABC] meet at [G].",
    "In triangle [ABC] the common point of the medians is [G].",
    takes="triangle",
)  # fmt: skip
_add(
    "circumcentre", "ABC>U", (),
    lambda g, a, b, c: (
        (lambda m, n: (meet(m, g.move(m, a, b, 0, 1), n, g.move(n, a, c, 0, 1)),))(
            g.move(a, a, b, HALF), g.move(a, a, c, HALF))
    ),
    "[U] is the centre of the circle through the vertices of triangle [ABC].",
    "The perpendicular bisectors of the sides of triangle [ABC] meet at [U].",
    "[U] is the circumcentre of triangle [ABC].",
    facts=("AU eq BU", "BU eq CU"), takes="triangle", circles=("UA",),
)  # fmt: skip
_add(
    "centre of diagonals", "ABCD>O", (), lambda g, a, b, c, d: (meet(a, c, b, d),),
    "The diagonals of quadrilateral [ABCD] cross at [O].", "Segments [AC] and [BD] intersect at [O].",
    "[O] is the common point of [AC] and [BD], the diagonals of [ABCD].",
    facts=("O in AC", "O in BD"), lines=("AOC", "BOD"), takes="quad",
)  # fmt: skip
_add(
    "point inside triangle", "ABC>P", (BETWEEN, BETWEEN),
    lambda g, a, b, c, s, t: (g.move(a, a, g.move(b, b, c, s), t),),
    "[P] is a point inside triangle [ABC].", "Triangle [ABC] contains [P] in its interior.",
    "The point [P] lies within triangle [ABC] and on none of its sides.",
    takes="triangle",
)  # fmt: skip
_add(
    "tangent point", "OA>T", (NONZERO,), lambda g, o, a, y: (g.move(a, o, a, 0, y),),
    "[T] is another point of the tangent at [A] to the circle with centre [O].",
    "The circle around [O] is touched at [A] by line [AT].",
    "At [A] the tangent [AT] to the circle with centre [O] is drawn.",
    facts=("OA perp AT",), cases={"OA eq AT": lambda d: (d.unit(),)}, takes="circle",
)  # fmt: skip
_add(
    "other end of diameter", "OA>B", (), lambda g, o, a: (g.move(o, a, o, 1),),
    "[AB] is a diameter of the circle with centre [O].",
    "The diameter through [A] of the circle around [O] ends at [B].",
    "On the circle with centre [O] the point opposite [A] is [B].",
    facts=("O in AB", "OA eq OB"), takes="circle", lines=("AOB",),
)  # fmt: skip
_add(
    "point on circle", "OA>P", (NONZERO,), lambda g, o, a, t: (g.move(o, o, a, *g.circle(t)),),
    "[P] is another point of the circle that has centre [O] and passes through [A].",
    "The circle around [O] passes through [A] and [P].",
    "[OA] and [OP] are two radii of the circle with centre [O].",
    facts=("OA eq OP",), cases={"OA perp OP": lambda d: (d.unit(),)}, takes="circle",
)  # fmt: skip

# ---------------------------------------------------------------- for questions about angles


def _crossing(g: Plane, a: Point, b: Point, t, x, y, s) -> tuple[Point, ...]:
    p = g.move(a, a, b, t)
    e = g.move(p, a, b, x, y)
    return e, g.move(p, e, p, s), p


_figure(
    "crossing lines", "AB>EFG", (BETWEEN, REAL, NONZERO, POSITIVE), _crossing,
    "Segments [AB] and [EF] cross at [G], which is not an end of either.",
    "[G] lies between [A] and [B] and also between [E] and [F], and the lines [AB] and [EF] are different.",
    "Line [EF] crosses line [AB] at [G]; [A] and [B] are on different sides of [G], and so are [E] and [F].",
    facts=("G in AB", "G in EF"), cases={"AB perp EF": lambda d: (None, ZERO, None, None)}, lines=("AGB", "EGF"),
    family="crossing",
)  # fmt: skip
_figure(
    "two rays", "AB>EFG", (BETWEEN, REAL, NONZERO, REAL, POSITIVE),
    lambda g, a, b, t, x, y, z, s: (
        (lambda p: (g.move(p, a, b, x, y), g.move(p, a, b, z, -y * s), p))(g.move(a, a, b, t))
    ),
    "[G] lies between [A] and [B]; the points [E] and [F] are on different sides of line [AB].",
    "On line [AB] the point [G] is between [A] and [B], and the rays [GE] and [GF] go to opposite sides of this line.",
    "From [G], inside segment [AB], a ray to [E] is drawn on one side of line [AB] and a ray to [F] on the other.",
    facts=("G in AB", "EF opp AB"),
    cases={"G in EF": lambda d: (lambda t, x, y, s: (t, x, y, -x * s, s))(
        d(BETWEEN), d(REAL), d(NONZERO), d(POSITIVE))},
    lines=("AGB", "GE", "GF"), family="crossing",
)  # fmt: skip


def _second_line(g: Plane, a: Point, f: Point, p: Point, h, x, y, s) -> tuple[Point, ...]:
    """C, D and H: H on the way from p to f, C on the side of a if y > 0, H between C and D."""
    at = g.move(p, p, f, h)
    c = g.move(g.move(at, p, f, x), p, a, y)
    return c, g.move(at, c, at, s), at


SECOND = {"takes": "crossing", "family": "transversal", "lines": ("CHD", "GHF")}
_add(
    "second line, sides known", "ABEFG>CDH", (BETWEEN, REAL, POSITIVE, POSITIVE),
    lambda g, a, b, e, f, p, h, x, y, s: _second_line(g, a, f, p, h, x, y, s),
    "Another line [CD] crosses line [EF] at [H], between [G] and [F]; [C] is on the same side of line [EF] as [A], "
    "and [D] on the other.",
    "[H] is between [G] and [F] and also between [C] and [D]; [A] and [C] are on one side of line [EF].",
    "At [H], a point between [G] and [F], line [EF] is crossed by line [CD], with [C] on the side of [A] and "
    "[D] on the side of [B].",
    facts=("H in GF", "H in CD", "AC same EF"), cases={"CD par AB": lambda d: (None, ZERO, None, None)}, **SECOND,
)  # fmt: skip
_add(
    "second line, parallel", "ABEFG>CDH", (BETWEEN, POSITIVE, POSITIVE),
    lambda g, a, b, e, f, p, h, y, s: _second_line(g, a, f, p, h, 0, y, s),
    "Line [CD] is parallel to [AB] and crosses line [EF] at [H], between [G] and [F]; [C] is on the same side of line "
    "[EF] as [A], and [D] on the other.",
    "[H] is between [G] and [F] and also between [C] and [D]; the lines [AB] and [CD] are parallel, and [A] and [C] "
    "are on one side of line [EF].",
    "Parallel to [AB], line [CD] passes through [H], a point between [G] and [F], with [C] on the side of [A] and "
    "[D] on the side of [B] of line [EF].",
    facts=("H in GF", "H in CD", "AC same EF", "CD par AB"), **SECOND,
)  # fmt: skip
_add(
    "second line, sides unknown", "ABEFG>CDH", (BETWEEN, REAL, NONZERO, POSITIVE),
    lambda g, a, b, e, f, p, h, x, y, s: _second_line(g, a, f, p, h, x, y, s),
    "Another line [CD] crosses line [EF] at [H], between [G] and [F]; [H] is between [C] and [D].",
    "[H] is between [G] and [F] and also between [C] and [D], and [C] is not on line [EF].",
    "At [H], a point between [G] and [F], line [EF] is crossed by line [CD]; [C] and [D] are on different sides of it.",
    facts=("H in GF", "H in CD"),
    cases={"AC same EF": lambda d: (None, None, d(POSITIVE), None),
               "AC opp EF": lambda d: (None, None, -d(POSITIVE), None),
           "CD par AB": lambda d: (None, ZERO, None, None)},
    **SECOND,
)  # fmt: skip
_add(
    "diagonal", "ABCD>", (), lambda g, a, b, c, d: (),
    "The diagonal [AC] is drawn.", "Segment [AC] divides it into two triangles.", "Its corners [A] and [C] are joined.",
    takes="quad", family="diagonal", lines=("AC",),
)  # fmt: skip


def sides(polygon: str) -> list[str]:
    """ "ABC" -> AB, BC, CA."""
    return ["".join(pair) for pair in pairwise(polygon + polygon[0])]
