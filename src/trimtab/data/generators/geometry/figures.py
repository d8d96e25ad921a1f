"""Triangles, quadrilaterals and circles."""

from fractions import Fraction

from trimtab.data.generators.geometry.construction import ALL, HALF, ONE, TWO, ZERO, figure
from trimtab.data.generators.geometry.draws import BETWEEN, BEYOND, LINE, NONZERO, ORDER, POSITIVE, REAL, SIGN, Case
from trimtab.data.generators.geometry.plane import Plane, Point, meet

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

figure(
    "triangle", "AB>C", (REAL, NONZERO), _apex,
    "[ABC] is a triangle.", "The points [A], [B] and [C] are the vertices of a triangle.",
    "Three points [A], [B] and [C] do not lie on one line; they form triangle [ABC].",
    **OF_TRIANGLE,
)  # fmt: skip
figure(
    "scalene triangle", "AB>C", (REAL, NONZERO), _apex,
    "[ABC] is a scalene triangle.", "In triangle [ABC] no two sides have the same length.",
    "The three sides of triangle [ABC] have three different lengths.",
    polygons=("ABC",), requires=("AB ne BC", "BC ne AC", "AC ne AB"),
    cases={f: c for f, c in TRIANGLE.items() if "eq" not in f},
)  # fmt: skip
figure(
    "acute triangle", "AB>C", (BETWEEN, NONZERO), _apex,
    "[ABC] is an acute triangle.", "All three angles of triangle [ABC] are smaller than a right angle.",
    "Triangle [ABC] has acute angles only.",
    polygons=("ABC",), requires=("acute ACB",), facts=("acute CAB", "acute ABC"),
    cases={"AC eq BC": lambda d: (HALF, d(BEYOND))},
)  # fmt: skip
figure(
    "obtuse triangle", "AB>C", (BEYOND, NONZERO), _apex,
    "In triangle [ABC] the angle at [B] is obtuse.", "[ABC] is a triangle; angle [ABC] is larger than a right angle.",
    "Triangle [ABC] has an obtuse angle at its vertex [B].",
    polygons=("ABC",), facts=("obtuse ABC",),
    cases={"AB eq BC": lambda d: (lambda x, y: (1 + abs(x), y))(*d.circle())},
)  # fmt: skip
figure(
    "right triangle", "AB>C", (NONZERO,), lambda g, a, b, y: (g.move(b, a, b, 0, y),),
    "Triangle [ABC] has a right angle at [B].", "In triangle [ABC], angle [ABC] measures 90 degrees.",
    "[ABC] is a right triangle whose hypotenuse is [AC].",
    polygons=("ABC",), facts=("AB perp BC",), cases={"AB eq BC": lambda d: (d.unit(),)},
)  # fmt: skip
figure(
    "isosceles triangle, base AB", "AB>C", (NONZERO,), lambda g, a, b, y: _apex(g, a, b, HALF, y),
    "Triangle [ABC] is isosceles with [CA] = [CB].", "In triangle [ABC] the sides [AC] and [BC] are equally long.",
    "[ABC] is an isosceles triangle; its apex is [C] and its base is [AB].",
    polygons=("ABC",), facts=("AC eq BC",),
    cases={"AC perp BC": lambda d: (d.unit() / 2 if d.k == 1 else None,)},
)  # fmt: skip
figure(
    "isosceles triangle, leg AB", "AB>C", (NONZERO,), lambda g, a, b, t: _apex(g, a, b, *g.circle(t)),
    "Triangle [ABC] is isosceles with [AB] = [AC].", "In triangle [ABC] the sides [AB] and [AC] have equal length.",
    "[ABC] is an isosceles triangle; its apex is [A] and its base is [BC].",
    polygons=("ABC",), facts=("AB eq AC",),
    cases={"AB perp AC": lambda d: (d.unit(),), "obtuse CAB": lambda d: (d(BEYOND),)},
)  # fmt: skip
figure(
    "equilateral triangle", "AB>C", (SIGN,), lambda g, a, b, s: _apex(g, a, b, HALF, s / 2),
    "Triangle [ABC] is equilateral.", "All sides of triangle [ABC] are equally long.",
    "[ABC] is a triangle with three angles of 60 degrees.",
    polygons=("ABC",), facts=("AB eq BC", "BC eq AC"), unit=3,
)  # fmt: skip
figure(
    "triangle with median", "AB>CM", (REAL, NONZERO),
    lambda g, a, b, x, y: (g.move(a, a, b, x, y), g.move(a, a, b, HALF)),
    "In triangle [ABC] the median from [C] meets side [AB] at [M].",
    "[CM] is a median of triangle [ABC], with [M] on side [AB].",
    "[ABC] is a triangle, and [M] is the midpoint of its side [AB].",
    facts=("M in AB", "AM eq MB"), lines=("AMB",), **OF_TRIANGLE,
)  # fmt: skip
figure(
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
figure(
    "triangle with bisector", "AB>CD", (NONZERO, POSITIVE),
    lambda g, a, b, t, s: _bisected(g, a, b, t, s),
    "In triangle [ABC] the bisector of the angle at [A] meets side [BC] at [D].",
    "[AD] bisects angle [BAC] of triangle [ABC], where [D] is on side [BC].",
    "[ABC] is a triangle; the point [D] of side [BC] is chosen so that angles [BAD] and [DAC] are equal.",
    facts=("D in BC",), lines=("BDC",), polygons=("ABC",),
    cases={"AB eq AC": lambda d: (None, ONE), "AB perp AC": lambda d: (d.unit(), None)},
)  # fmt: skip
figure(
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

figure(
    "square", "AB>CD", (SIGN,), lambda g, a, b, y: _parallelogram(g, a, b, 0, y),
    "[ABCD] is a square.", "The quadrilateral [ABCD] has four equal sides and four right angles.",
    "[A], [B], [C] and [D], in this order, are the corners of a square.",
    facts=("AB eq BC", "AB perp BC", "CD par AB", "CD eq AB", "AC perp BD"), unit=1, **QUAD,
)  # fmt: skip
figure(
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
figure(
    "parallelogram", "AB>CD", (REAL, NONZERO), _parallelogram,
    "[ABCD] is a parallelogram.", "In quadrilateral [ABCD], [AB] is parallel to [DC] and [AD] is parallel to [BC].",
    "[A], [B], [C] and [D], in this order, are the corners of a parallelogram.",
    facts=("AB par CD", "AD par BC", "AB eq CD"), cases=PARALLELOGRAM, **QUAD,
)  # fmt: skip
figure(
    "slanted parallelogram", "AB>CD", (NONZERO, NONZERO), _parallelogram,
    "[ABCD] is a parallelogram without a right angle.", "The parallelogram [ABCD] is not a rectangle.",
    "[ABCD] is a parallelogram whose neighbouring sides are not perpendicular.",
    facts=("AB par CD", "AD par BC"), cases={k: v for k, v in PARALLELOGRAM.items() if k != "AB perp BC"}, **QUAD,
)  # fmt: skip
figure(
    "rhombus", "AB>CD", (NONZERO,), lambda g, a, b, t: _parallelogram(g, a, b, *g.circle(t)),
    "[ABCD] is a rhombus.", "All four sides of quadrilateral [ABCD] are equally long.",
    "[A], [B], [C] and [D], in this order, are the corners of a rhombus.",
    facts=("AB eq BC", "AB par CD", "AC perp BD"), cases={"AB perp BC": lambda d: (d.unit(),)}, **QUAD,
)  # fmt: skip
figure(
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
figure(
    "isosceles trapezoid", "AB>CD", (NONZERO, POSITIVE),
    lambda g, a, b, y, r: _trapezoid(g, a, b, (1 - r) / 2, y, r),
    "[ABCD] is an isosceles trapezoid whose only parallel sides are [AB] and [CD].",
    "In trapezoid [ABCD] the bases [AB] and [CD] have different lengths, and the legs [AD] and [BC] equal ones.",
    "Trapezoid [ABCD] has just two parallel sides, [AB] and [CD], and it is symmetric: [AD] = [BC].",
    facts=("AB par CD", "AD eq BC", "AC eq BD"), requires=("AB ne CD",),
    cases={"AC perp BD": lambda d: (lambda r: ((1 + r) / 2 * d(SIGN) if d.k == 1 else None, r))(d(POSITIVE))}, **QUAD,
)  # fmt: skip
figure(
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
figure(
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
figure(
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
figure(
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
    figure(
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


figure(
    "corners in some order", "AB>CD", (REAL, NONZERO, BETWEEN, BEYOND, ORDER), _some_order,
    "[A], [B], [C] and [D] are the corners of a convex quadrilateral, but the order in which they follow is not given.",
    "Some convex quadrilateral has the corners [A], [B], [C] and [D], not necessarily in this order.",
    "Take the four corners of a convex quadrilateral and call them, in any order, [A], [B], [C] and [D].",
    cases={f"convex {word}": (lambda d, n=n: (None, None, None, None, Fraction(n)))
           for n, word in enumerate(("ABCD", "ABDC", "ACBD"))},
    family="order",
)  # fmt: skip

# ---------------------------------------------------------------- circles

figure(
    "circle with diameter", "AB>OC", (NONZERO,),
    lambda g, a, b, t: (g.move(a, a, b, HALF), g.move(a, a, b, *g.right(t))),
    "[AB] is a diameter of the circle with centre [O], and [C] is another point of this circle.",
    "On the circle with centre [O] and diameter [AB] lies a third point [C].",
    "The circle around [O] passes through [A], [B] and [C]; segment [AB] contains [O].",
    facts=("AC perp BC", "O in AB", "OA eq OC"), cases={"AC eq BC": lambda d: (d.unit(),)},
    circles=("OA",), lines=("AOB",),
)  # fmt: skip
figure(
    "chord", "AB>O", (NONZERO,), lambda g, a, b, y: _apex(g, a, b, HALF, y),
    "[AB] is a chord of the circle with centre [O], but no diameter.",
    "The points [A] and [B] lie on the circle with centre [O], and line [AB] misses [O].",
    "The circle around [O] has [AB] as one of its chords; this chord does not pass through [O].",
    facts=("OA eq OB",), cases={"OA perp OB": lambda d: (d.unit() / 2 if d.k == 1 else None,)}, circles=("OA",),
)  # fmt: skip
figure(
    "chord with midpoint", "AB>OM", (NONZERO,),
    lambda g, a, b, y: (g.move(a, a, b, HALF, y), g.move(a, a, b, HALF)),
    "[M] is the midpoint of [AB], a chord of the circle with centre [O] that misses [O].",
    "In the circle around [O], the chord [AB], which is no diameter, is halved by the point [M].",
    "[A] and [B] lie on the circle with centre [O]; segment [AB] has midpoint [M], which is not [O].",
    facts=("OM perp AB", "OA eq OB", "M in AB"), cases={"OM eq AM": lambda d: (d.unit() / 2 if d.k == 1 else None,)},
    circles=("OA",), lines=("AMB",),
)  # fmt: skip
figure(
    "tangent", "OA>T", (NONZERO,), lambda g, o, a, y: (g.move(a, o, a, 0, y),),
    "Line [AT] touches the circle with centre [O] at [A].",
    "[A] is on the circle around [O], and [T] is another point of the tangent at [A].",
    "The tangent at point [A] of the circle with centre [O] passes through [T].",
    facts=("OA perp AT",), cases={"OA eq AT": lambda d: (d.unit(),)}, circles=("OA",),
)  # fmt: skip
figure(
    "two tangents", "OA>PB", (NONZERO,),
    lambda g, o, a, y: (lambda p: (p, g.mirror(a, o, p)))(g.move(a, o, a, 0, y)),
    "From [P] two tangents are drawn to the circle with centre [O]; they touch it at [A] and [B].",
    "The lines [PA] and [PB] touch the circle around [O] at the two points [A] and [B].",
    "The tangents at the points [A] and [B] of the circle with centre [O] meet at [P].",
    facts=("PA eq PB", "PA perp OA", "PB perp OB", "OP perp AB"), cases={"PA perp PB": lambda d: (d.unit(),)},
    circles=("OA",),
)  # fmt: skip
figure(
    "diameter with tangent", "AB>OT", (NONZERO,),
    lambda g, a, b, y: (g.move(a, a, b, HALF), g.move(b, a, b, 0, y)),
    "[AB] is a diameter of the circle with centre [O]; the tangent at [B] passes through [T].",
    "Line [BT] touches the circle around [O] at [B], and [A] is the point of the circle opposite [B].",
    "The circle with centre [O] has the diameter [AB]; at its end [B] the tangent [BT] is drawn.",
    facts=("AB perp BT", "O in AB"), cases={"AB eq BT": lambda d: (d.unit(),)}, circles=("OA",), lines=("AOB",),
)  # fmt: skip


def _off_circle(g: Plane, o: Point, a: Point, t, s) -> tuple[Point, ...]:
    return (g.move(o, o, g.move(o, o, a, *g.circle(t)), s),)


figure(
    "point inside circle", "OA>P", (REAL, BETWEEN), _off_circle,
    "[P] is inside the circle that has centre [O] and passes through [A], and it is not [O].",
    "The circle around [O] passes through [A]; the point [P], which is not [O], is closer to [O] than [A] is.",
    "Inside the circle with centre [O] and radius [OA] lies a point [P] other than [O].",
    cases={"P on OA": lambda d: (ZERO, None), "OP perp OA": lambda d: (d.unit(), None)}, circles=("OA",),
)  # fmt: skip
figure(
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
