"""Points on and around two points, three or more, and what questions about angles need."""

from fractions import Fraction

from trimtab.data.generators.geometry.construction import HALF, ONE, TWO, ZERO, add, figure
from trimtab.data.generators.geometry.draws import BETWEEN, BEYOND, LINE, NONZERO, POSITIVE, REAL, SIGN
from trimtab.data.generators.geometry.plane import Plane, Point, meet

# ---------------------------------------------------------------- points on and around two points


def _any(g: Plane, a: Point, b: Point, x, y) -> tuple[Point, ...]:
    return (g.move(a, a, b, x, y),)


add(
    "midpoint", "AB>M", (), lambda g, a, b: (g.move(a, a, b, HALF),),
    "[M] is the midpoint of segment [AB].", "The point [M] halves segment [AB].",
    "On segment [AB] lies [M] with [AM] = [MB].",
    facts=("M in AB", "AM eq MB"), lines=("AMB",),
)  # fmt: skip
add(
    "between", "AB>P", (BETWEEN,), lambda g, a, b, t: (g.move(a, a, b, t),),
    "[P] lies on segment [AB], between its ends.",
    "The point [P] is somewhere strictly between [A] and [B] on line [AB].",
    "Segment [AB] contains [P], which is neither [A] nor [B].",
    facts=("P in AB",), cases={"AP eq PB": lambda d: (HALF,)}, lines=("APB",),
)  # fmt: skip
add(
    "beyond", "AB>P", (BEYOND,), lambda g, a, b, t: (g.move(a, a, b, t),),
    "Segment [AB] is extended beyond [B] to [P].", "[P] is on line [AB], and [B] is between [A] and [P].",
    "On the extension of [AB] past [B] lies the point [P].",
    facts=("B in AP",), cases={"AB eq BP": lambda d: (TWO,)}, lines=("ABP",),
)  # fmt: skip
add(
    "on line", "AB>P", (LINE,), lambda g, a, b, t: (g.move(a, a, b, t),),
    "[P] is another point of line [AB].", "The infinite line [AB] passes through [P].",
    "[A], [B] and [P] are three points of one line, in some order.",
    facts=("P on AB",),
    cases={"P in AB": lambda d: (d(BETWEEN),), "B in AP": lambda d: (d(BEYOND),), "A in PB": lambda d: (-d(POSITIVE),),
           "AP eq PB": lambda d: (HALF,), "AP eq AB": lambda d: (-ONE,)},
    lines=("ABP",),
)  # fmt: skip
add(
    "off line", "AB>P", (REAL, NONZERO), _any,
    "[P] is a point that is not on line [AB].", "Line [AB] does not pass through the point [P].",
    "Somewhere away from line [AB] lies the point [P].",
    facts=("P off AB",),
    cases={"AP perp AB": lambda d: (ZERO, None), "BP perp AB": lambda d: (ONE, None),
               "AP eq PB": lambda d: (HALF, None),
           "AP perp PB": lambda d: d.right(), "AP eq AB": lambda d: d.circle()},
)  # fmt: skip
add(
    "some point", "AB>P", (REAL, REAL), _any,
    "[P] is a further point in the plane of [A] and [B].",
    "Besides [A] and [B] there is a point [P]; its place is not known.",
    "[P] is any point other than [A] and [B].",
    cases={"P on AB": lambda d: (d(LINE), ZERO), "P in AB": lambda d: (d(BETWEEN), ZERO),
           "AP perp AB": lambda d: (ZERO, None), "AP eq PB": lambda d: (HALF, None), "AP perp PB": lambda d: d.right(),
           "AP eq AB": lambda d: d.circle()},
)  # fmt: skip
add(
    "perpendicular at A", "AB>P", (NONZERO,), lambda g, a, b, y: (g.move(a, a, b, 0, y),),
    "Line [AP] is perpendicular to line [AB].", "The perpendicular to [AB] at [A] passes through [P].",
    "Angle [PAB] is a right angle.",
    facts=("AP perp AB",), cases={"AP eq AB": lambda d: (d.unit(),)},
)  # fmt: skip
add(
    "perpendicular bisector", "AB>PQ", (REAL, REAL),
    lambda g, a, b, y, z: (g.move(a, a, b, HALF, y), g.move(a, a, b, HALF, z)),
    "Line [PQ] is the perpendicular bisector of segment [AB].",
    "[P] and [Q] are two points, each of which is as far from [A] as from [B].",
    "Line [PQ] crosses segment [AB] at its midpoint and at a right angle.",
    facts=("PQ perp AB", "AP eq PB", "AQ eq QB"), cases={"P on AB": lambda d: (ZERO, None),
    "Q on AB": lambda d: (None, ZERO)},
)  # fmt: skip
add(
    "same distance", "AB>P", (REAL,), lambda g, a, b, y: (g.move(a, a, b, HALF, y),),
    "[P] is as far from [A] as from [B].", "The distances [PA] and [PB] are equal.",
    "[P] lies on the perpendicular bisector of segment [AB].",
    facts=("AP eq PB",), cases={"P on AB": lambda d: (ZERO,),
    "AP perp PB": lambda d: (d.unit() / 2 if d.k == 1 else None,)},
)  # fmt: skip
add(
    "circle around A", "A>P", (REAL, REAL),
    lambda g, a, x, y: (g.move(a, (0, 0, 1), (1, 0, 1), x, y),),
    "[P] is a point of some circle with centre [A].", "The circle around [A] passes through [P].",
    "With centre [A] and some radius, the circle through [P] is drawn.",
    circles=("AP",),
)  # fmt: skip

# ---------------------------------------------------------------- three points and more

add(
    "parallel through P", "ABP>Q", (NONZERO,), lambda g, a, b, p, t: (g.move(p, a, b, t),),
    "Line [PQ] is parallel to line [AB] and not the same line.",
    "Through [P], which is not on line [AB], the parallel to [AB] is drawn; it passes through [Q].",
    "The lines [AB] and [PQ] are two different parallel lines.",
    facts=("PQ par AB",), requires=("P off AB",), cases={"PQ eq AB": lambda d: (d(SIGN),)},
)  # fmt: skip
add(
    "perpendicular through P", "ABP>Q", (NONZERO,), lambda g, a, b, p, s: (g.move(p, a, b, 0, s),),
    "Line [PQ] is perpendicular to line [AB].", "The perpendicular to line [AB] through [P] passes through [Q].",
    "Through [P] and [Q] goes a line at a right angle to line [AB].",
    facts=("PQ perp AB",), cases={"PQ eq AB": lambda d: (d.unit(),)},
)  # fmt: skip
add(
    "foot", "ABP>F", (), lambda g, a, b, p: (g.foot(p, a, b),),
    "[F] is the foot of the perpendicular from [P] to line [AB], and [P] is not on this line.",
    "From [P], which is not on line [AB], the perpendicular to this line is dropped; it meets the line at [F].",
    "The point of line [AB] nearest to [P], which lies off the line, is [F].",
    facts=("PF perp AB", "F on AB"), requires=("P off AB",), lines=("ABF",),
)  # fmt: skip
add(
    "mirror image", "ABP>Q", (), lambda g, a, b, p: (g.mirror(p, a, b),),
    "[Q] is the mirror image of [P] in line [AB], and [P] is not on this line.",
    "Reflecting [P], which is not on line [AB], in this line gives [Q].",
    "Line [AB] is the perpendicular bisector of segment [PQ].",
    facts=("PQ perp AB", "PA eq QA", "PB eq QB"), requires=("P off AB",),
)  # fmt: skip
add(
    "meeting point", "ABCD>S", (), lambda g, a, b, c, d: (meet(a, b, c, d),),
    "Line [AB] and line [CD] are different lines and meet at [S].",
    "[S] is the only common point of line [AB] and line [CD].",
    "The infinite lines [AB] and [CD] cross at the point [S].",
    facts=("S on AB", "S on CD"), lines=("ABS", "CDS"),
)  # fmt: skip
add(
    "median point", "ABC>M", (), lambda g, a, b, c: (g.move(b, b, c, HALF),),
    "The median from [A] in triangle [ABC] ends at [M].", "[AM] is the median of triangle [ABC] that starts at [A].",
    "In triangle [ABC] the midpoint of the side opposite [A] is [M].",
    facts=("M in BC", "BM eq MC"), lines=("BMC",), takes="triangle",
)  # fmt: skip
add(
    "altitude foot", "ABC>H", (), lambda g, a, b, c: (g.foot(a, b, c),),
    "The altitude of triangle [ABC] from [A] meets line [BC] at [H].",
    "[H] is the foot of the altitude from [A] in triangle [ABC], taken on line [BC].",
    "In triangle [ABC] the perpendicular from vertex [A] to line [BC] ends at [H].",
    facts=("AH perp BC", "H on BC"), lines=("BCH",), takes="triangle",
)  # fmt: skip
add(
    "midpoints of two sides", "ABC>MN", (), lambda g, a, b, c: (g.move(a, a, b, HALF), g.move(a, a, c, HALF)),
    "[M] and [N] are the midpoints of the sides [AB] and [AC] of triangle [ABC], in this order.",
    "In triangle [ABC] the midline [MN] joins the midpoint [M] of [AB] to the midpoint [N] of [AC].",
    "Side [AB] of triangle [ABC] has midpoint [M], and side [AC] has midpoint [N].",
    facts=("MN par BC", "M in AB", "N in AC"), lines=("AMB", "ANC"), takes="triangle",
)  # fmt: skip
add(
    "centroid", "ABC>G", (), lambda g, a, b, c: (g.move(a, a, g.move(b, b, c, HALF), Fraction(2, 3)),),
    "[G] is the centroid of triangle [ABC].", "The three medians of triangle [ABC] meet at [G].",
    "In triangle [ABC] the common point of the medians is [G].",
    takes="triangle",
)  # fmt: skip
add(
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
add(
    "centre of diagonals", "ABCD>O", (), lambda g, a, b, c, d: (meet(a, c, b, d),),
    "The diagonals of quadrilateral [ABCD] cross at [O].", "Segments [AC] and [BD] intersect at [O].",
    "[O] is the common point of [AC] and [BD], the diagonals of [ABCD].",
    facts=("O in AC", "O in BD"), lines=("AOC", "BOD"), takes="quad",
)  # fmt: skip
add(
    "point inside triangle", "ABC>P", (BETWEEN, BETWEEN),
    lambda g, a, b, c, s, t: (g.move(a, a, g.move(b, b, c, s), t),),
    "[P] is a point inside triangle [ABC].", "Triangle [ABC] contains [P] in its interior.",
    "The point [P] lies within triangle [ABC] and on none of its sides.",
    takes="triangle",
)  # fmt: skip
add(
    "tangent point", "OA>T", (NONZERO,), lambda g, o, a, y: (g.move(a, o, a, 0, y),),
    "[T] is another point of the tangent at [A] to the circle with centre [O].",
    "The circle around [O] is touched at [A] by line [AT].",
    "At [A] the tangent [AT] to the circle with centre [O] is drawn.",
    facts=("OA perp AT",), cases={"OA eq AT": lambda d: (d.unit(),)}, takes="circle",
)  # fmt: skip
add(
    "other end of diameter", "OA>B", (), lambda g, o, a: (g.move(o, a, o, 1),),
    "[AB] is a diameter of the circle with centre [O].",
    "The diameter through [A] of the circle around [O] ends at [B].",
    "On the circle with centre [O] the point opposite [A] is [B].",
    facts=("O in AB", "OA eq OB"), takes="circle", lines=("AOB",),
)  # fmt: skip
add(
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


figure(
    "crossing lines", "AB>EFG", (BETWEEN, REAL, NONZERO, POSITIVE), _crossing,
    "Segments [AB] and [EF] cross at [G], which is not an end of either.",
    "[G] lies between [A] and [B] and also between [E] and [F], and the lines [AB] and [EF] are different.",
    "Line [EF] crosses line [AB] at [G]; [A] and [B] are on different sides of [G], and so are [E] and [F].",
    facts=("G in AB", "G in EF"), cases={"AB perp EF": lambda d: (None, ZERO, None, None)}, lines=("AGB", "EGF"),
    family="crossing",
)  # fmt: skip
figure(
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
add(
    "second line, sides known", "ABEFG>CDH", (BETWEEN, REAL, POSITIVE, POSITIVE),
    lambda g, a, b, e, f, p, h, x, y, s: _second_line(g, a, f, p, h, x, y, s),
    "Another line [CD] crosses line [EF] at [H], between [G] and [F]; [C] is on the same side of line [EF] as [A], "
    "and [D] on the other.",
    "[H] is between [G] and [F] and also between [C] and [D]; [A] and [C] are on one side of line [EF].",
    "At [H], a point between [G] and [F], line [EF] is crossed by line [CD], with [C] on the side of [A] and "
    "[D] on the side of [B].",
    facts=("H in GF", "H in CD", "AC same EF"), cases={"CD par AB": lambda d: (None, ZERO, None, None)}, **SECOND,
)  # fmt: skip
add(
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
add(
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
add(
    "diagonal", "ABCD>", (), lambda g, a, b, c, d: (),
    "The diagonal [AC] is drawn.", "Segment [AC] divides it into two triangles.", "Its corners [A] and [C] are joined.",
    takes="quad", family="diagonal", lines=("AC",),
)  # fmt: skip
