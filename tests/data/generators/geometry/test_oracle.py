"""Labels against theorems, against figures worked by hand, against motions of the plane and against sympy."""

import random
import sys
from fractions import Fraction
from itertools import islice
from pathlib import Path

import pytest

from tiny_table import table
from trimtab.data.generators.geometry import items
from trimtab.data.generators.geometry.conditions import NotAsked
from trimtab.data.generators.geometry.constructions import ALL
from trimtab.data.generators.geometry.draws import ORDER, SIGN
from trimtab.data.generators.geometry.oracle import Query, answer_of, judge
from trimtab.data.generators.geometry.plane import point
from trimtab.data.generators.geometry.questions import CANNOT, NONE
from trimtab.data.generators.geometry.scenes import Scene, Undecided, realise

sys.path.insert(0, str(Path(__file__).parent))
from scenes import answer, scene


@table(
    "steps, kind, arguments, wanted",
    [
        ("triangle with midline ABCMN", "line-line", ("MN", "AB"), "parallel"),
        ("triangle ABC; midpoints of two sides ABCMN", "line-line", ("MN", "BC"), "parallel"),
        ("circle with diameter ABOC", "line-line", ("AC", "BC"), "perpendicular"),
        ("rhombus ABCD", "line-line", ("AC", "BD"), "perpendicular"),
        ("kite ABCD", "line-line", ("AC", "BD"), "perpendicular"),
        ("tangent OAT", "line-line", ("OA", "AT"), "perpendicular"),
        ("two tangents OAPB", "line-line", ("OP", "AB"), "perpendicular"),
        ("chord with midpoint ABOM", "line-line", ("OM", "AB"), "perpendicular"),
        ("hexagon ABCDEF", "line-line", ("AC", "CD"), "perpendicular"),
        ("hexagon ABCDEF", "line-line", ("AD", "BC"), "parallel"),
        ("circle with diameter ABOC; midpoint ACM", "line-line", ("OM", "AC"), "perpendicular"),
        ("isosceles triangle, base AB ABC; midpoint ABM", "line-line", ("CM", "AB"), "perpendicular"),
        ("triangle ABC; centroid ABCG; midpoint BCM", "line-point", ("G", "AM"), "yes"),
        ("parallelogram ABCD; midpoint ACM", "line-point", ("M", "BD"), "yes"),
        ("isosceles triangle, leg AB ABC; midpoint BCM", "altitude", ("AM", "ABC"), "yes"),
        ("isosceles triangle, leg AB ABC; midpoint BCM", "bisector", ("AM", "ABC"), "yes"),
        ("chord ABO; other end of diameter OAC", "diameter", ("AC", "OA"), "yes"),
    ],
)
def test_theorems_come_out_as_identities(steps, kind, arguments, wanted):
    found = answer(steps, kind, *arguments)
    assert (found.answer, found.evidence.kind) == (wanted, "identity")


@table(
    "steps, kind, arguments, wanted",
    [
        ("triangle ABC", "line-line", ("AB", "AC"), CANNOT),  # a right triangle is allowed
        ("scalene triangle ABC", "line-line", ("AB", "AC"), CANNOT),
        ("equilateral triangle ABC", "line-line", ("AB", "AC"), "intersecting"),
        ("isosceles triangle, leg AB ABC", "line-line", ("AB", "BC"), "intersecting"),
        ("isosceles triangle, leg AB ABC", "line-line", ("AB", "AC"), CANNOT),
        ("parallelogram ABCD", "line-line", ("AB", "BC"), CANNOT),
        ("slanted parallelogram ABCD", "line-line", ("AB", "BC"), "intersecting"),
        ("slanted parallelogram ABCD", "line-line", ("AC", "BD"), CANNOT),
        ("quadrilateral ABCD", "line-line", ("AB", "CD"), CANNOT),
        ("trapezoid ABCD", "line-line", ("AD", "BC"), CANNOT),  # both legs may meet at a right angle
        ("triangle ABC; between BCD", "line-line", ("AB", "AD"), CANNOT),
        ("equilateral triangle ABC; between BCD", "line-line", ("AB", "AD"), "intersecting"),
        ("equilateral triangle ABC; beyond BCD", "line-line", ("AB", "AD"), CANNOT),
        ("triangle ABC", "line-point", ("C", "AB"), "no"),
        ("triangle ABC; on line ABP", "line-point", ("P", "AB"), "yes"),
        ("triangle ABC; some point ABP", "line-point", ("P", "AB"), CANNOT),
        ("triangle with altitude ABCH", "segment-shape", ("CH", "ABC"), CANNOT),  # obtuse: the foot is outside
        ("acute triangle ABC; foot ABCF", "segment-shape", ("CF", "ABC"), "yes"),
        ("obtuse triangle ABC; foot ABCF", "segment-shape", ("CF", "ABC"), "no"),
        ("triangle with median ABCM", "segment-shape", ("CM", "ABC"), "yes"),
        ("chord ABO", "segment-shape", ("OA", "OA"), "yes"),  # a radius lies inside its circle
        ("chord ABO", "segment-shape", ("AB", "OA"), "yes"),
        ("tangent OAT", "segment-shape", ("AT", "OA"), "no"),
        ("square ABCD; beyond ABE", "segment-shape", ("BE", "ABCD"), "no"),
        ("triangle ABC; point inside triangle ABCP", "point-shape", ("P", "ABC"), "yes"),
        ("triangle ABC; centroid ABCG", "point-shape", ("G", "ABC"), "yes"),
        ("triangle ABC; circumcentre ABCU", "point-shape", ("U", "ABC"), CANNOT),
        ("acute triangle ABC; circumcentre ABCU", "point-shape", ("U", "ABC"), "yes"),
        ("triangle ABC; median point ABCM; between AMP", "point-shape", ("P", "ABC"), "yes"),
        ("triangle ABC; median point ABCM; beyond AMP", "point-shape", ("P", "ABC"), "no"),
        ("triangle ABC; median point ABCM", "altitude", ("AM", "ABC"), CANNOT),
        ("triangle ABC; median point ABCM", "median", ("AM", "ABC"), "yes"),
        ("square ABCD", "diagonal", ("AC", "ABCD"), "yes"),
        ("square ABCD", "side", ("AC", "ABCD"), "no"),
        ("chord ABO", "radius", ("OB", "OA"), "yes"),
        ("chord ABO", "diameter", ("AB", "OA"), "no"),
        ("crossing lines ABEFG", "angles at a crossing", ("AGE", "BGF"), "vertical"),
        ("crossing lines ABEFG", "angles at a crossing", ("AGE", "EGB"), "supplementary"),
        ("two rays ABEFG", "angles at a crossing", ("AGE", "BGF"), CANNOT),
        ("two rays ABEFG", "angles at a crossing", ("AGE", "EGB"), "supplementary"),
        ("square ABCD", "angles in some order", ("A", "C", "ABCD"), "opposite"),
        ("kite ABCD", "angles in some order", ("A", "D", "ABCD"), "adjacent"),
        ("corners in some order ABCD", "angles in some order", ("A", "C", "ABCD"), CANNOT),
    ],
)
def test_answers_that_everyone_can_check(steps, kind, arguments, wanted):
    assert answer(steps, kind, *arguments).answer == wanted


def test_a_label_that_hangs_on_two_quantities_at_once_is_not_claimed():
    """A free point may be the foot of the altitude, which random points never are."""
    with pytest.raises(Undecided, match="two quantities"):
        answer("equilateral triangle ABC; between CBD; some point CDE", "altitude", "EC", "ABC")


def test_a_quantity_that_changes_sign_is_not_claimed_never_to_vanish():
    """Scalene excludes it, but a sign that changes is no proof, so that no label is given."""
    with pytest.raises(Undecided, match="changes sign"):
        answer("scalene triangle ABC; median point ABCM", "altitude", "AM", "ABC")


FIGURE = "ABEFGCDH"
KNOWN, PARALLEL, UNKNOWN = (
    f"crossing lines ABEFG; second line, {word} ABEFGCDH" for word in ("sides known", "parallel", "sides unknown")
)


@table("steps", [KNOWN, PARALLEL])
@table(
    "one, other, wanted",
    [
        ("AGH", "DHG", "alternate interior"),
        ("BGH", "CHG", "alternate interior"),
        ("AGE", "DHF", "alternate exterior"),
        ("AGE", "CHG", "corresponding"),
        ("BGF", "DHF", "corresponding"),
        ("AGH", "CHG", "consecutive interior"),
        ("BGE", "DHF", "consecutive exterior"),
        ("AGE", "BGF", "vertical"),
        ("AGE", "AGF", "supplementary"),
        ("AGE", "DHG", NONE),
    ],
)
def test_roles_at_a_transversal(steps, one, other, wanted):
    assert answer(steps, "angles at a transversal", one, other, FIGURE).answer == wanted


@pytest.mark.parametrize(
    "one, other, wanted",
    [("AGH", "DHG", CANNOT), ("AGE", "CHG", CANNOT), ("AGE", "BGF", "vertical"), ("AGE", "EGB", "supplementary")],
)
def test_unknown_sides_leave_the_angles_at_one_crossing_as_they_are(one, other, wanted):
    """The official rows mark these as undetermined although what was left out does not touch them."""
    assert answer(UNKNOWN, "angles at a transversal", one, other, FIGURE).answer == wanted


@pytest.mark.parametrize(
    "one, other, wanted",
    [
        ("BAC", "DCA", "alternate interior"),
        ("DAC", "BCA", "alternate interior"),
        ("BAC", "CAD", "complementary"),
        ("BAC", "BCA", "complementary"),
        ("ABC", "CDA", "opposite"),
        ("ABC", "BCD", "adjacent"),
        ("BAC", "ABC", NONE),
    ],
)
def test_angles_in_a_rectangle_with_its_diagonal(one, other, wanted):
    names = (wanted, "opposite", "adjacent") if wanted in ("complementary", "alternate interior") else ()
    offered = tuple(dict.fromkeys(names)) or ("opposite", "adjacent", "alternate interior")
    found = answer("rectangle ABCD; diagonal ABCD", "angles at a diagonal", one, other, "ABCD", offered=offered)
    assert found.answer == wanted


def test_two_offered_answers_that_hold_at_once_are_refused():
    """In a square the alternate interior angles measure 45 degrees each."""
    with pytest.raises(Undecided, match="alternate interior and complementary"):
        answer("square ABCD; diagonal ABCD", "angles at a diagonal", "BAC", "DCA", "ABCD")


def test_a_scene_that_contradicts_itself_is_refused():
    with pytest.raises(Undecided, match="no realisation"):
        answer("parallelogram ABCD; meeting point ABCDS", "line-line", "AS", "BC")


def test_a_point_on_the_boundary_is_not_asked_about():
    with pytest.raises(Undecided, match="no clear answer"):
        answer("triangle ABC; between ABP", "point-shape", "P", "ABC")


def test_one_line_with_two_names_is_not_asked_about():
    with pytest.raises(Undecided, match="no clear answer"):
        answer("triangle ABC; between ABP", "line-line", "AP", "BP")


def test_squares_and_angles_of_60_degrees_are_not_mixed():
    with pytest.raises(Undecided, match="not rational in one plane"):
        answer("square ABCD; equilateral triangle CDE", "line-line", "AE", "BC")


# ---------------------------------------------------------------- random items


@pytest.fixture(scope="module")
def made():
    """(scene, query, judgement) of generated items, of all depths."""
    found = []
    drawn = random.Random("tests")
    for depth, number in ((1, 60), (2, 80), (3, 40), (4, 15)):
        wanted = list(islice(items._turns(depth), number))
        for_depth = items._fill(drawn, depth, wanted)
        new = None
        while True:
            try:
                _, where, query, judged = for_depth.send(new)
            except StopIteration:
                break
            found.append((where, query, judged))
            new = True
    return found


@pytest.mark.slow
def test_the_two_realisations_of_what_cannot_be_inferred_differ(made):
    undecided = [one for one in made if one[2].answer == CANNOT]
    assert len(undecided) > 30
    for where, query, judged in undecided:
        (name, one), (other_name, other) = judged.evidence.witnesses
        assert judged.evidence.kind == "counterexample"
        assert name == answer_of(where, query, one.points)
        assert other_name == answer_of(where, query, other.points)
        assert name != other_name
        assert realise(where, one.numbers) == one.points  # they are realisations of the scene
        assert realise(where, other.numbers) == other.points


def test_one_number_moved_is_the_realisation_of_all_the_numbers(made):
    compared = 0
    for where, _, _ in made[::10]:
        start = where.realisation(0)
        for i in range(len(where.free) if start else 0):
            found = where.nudged(0, i)
            if found is not None:
                assert [n for n, (one, other) in enumerate(zip(start.numbers, found.numbers)) if one != other] == [i]
                assert found.points == realise(where, found.numbers)
                compared += 1
    assert compared > 30


def test_points_rest_on_the_steps_that_their_own_were_made_from(made):
    for where, query, _ in made[::10]:
        for argument in query.arguments:
            wanted, points = set(), list(argument)
            while points:
                step = where.origins[points.pop()]
                if step not in wanted:
                    wanted.add(step)
                    points += where.steps[step][1][: len(where.constructions[step].taken)]
            assert where.ancestors(argument) == wanted


@pytest.mark.parametrize(
    "a, b, e, f, flip",
    [
        (1, 0, 7, -3, 1),  # translation
        (Fraction(3, 5), Fraction(4, 5), 0, 0, 1),  # rotation
        (5, 0, 0, 0, 1),  # scaling
        (1, 0, 0, 0, -1),  # reflection
        (Fraction(-7, 3), Fraction(2, 9), 11, 13, -1),  # all at once
    ],
)
def test_motions_of_the_plane_leave_the_answer(made, a, b, e, f, flip):
    def whole(x, y, w):
        below = Fraction(x).denominator * Fraction(y).denominator
        return point(int(x * below), int(y * below), int(w * below))

    for where, query, _ in made:
        start = where.realisation(0)
        if start is None:
            continue
        try:
            before = answer_of(where, query, start.points)
        except (NotAsked, Undecided):
            continue
        k = where.plane.k
        turned = [
            whole(a * x - k * b * flip * y + e * w, b * x + a * flip * y + f * w, Fraction(w))
            for x, y, w in start.points
        ]
        assert answer_of(where, query, turned) == before


def test_distractors_leave_the_answer_and_touch_the_question_at_one_point_at_most(made):
    drawn, longer = random.Random(4), 0
    for where, query, judged in made[::3]:
        found, again = items._distracted(drawn, where, query, judged)
        if found is where:
            continue
        longer += 1
        assert found.steps[:-1] == where.steps
        assert len({n for a in query.arguments for n in a} & set(found.steps[-1][1])) <= 1
        assert judge(found, query).answer == again.answer == judged.answer
    assert longer > 20


def test_every_step_of_an_item_is_needed(made):
    for where, query, _ in made:
        needed = where.ancestors([n for a in query.arguments for n in a])
        assert all(i in needed or not c.given for i, c in enumerate(where.constructions))


def test_labels_do_not_depend_on_what_was_asked_before(made):
    for where, query, judged in made[::10]:
        assert judge(Scene(where.steps), query) == judged


def test_further_realisations_agree_with_labels_that_are_claimed_for_all(made):
    for where, query, judged in made:
        if judged.answer == CANNOT:
            continue
        for number in range(5000, 5030):
            found = where.realisation(number)
            if found is not None:
                assert answer_of(where, query, found.points) == judged.answer, (where.steps, query)


# ---------------------------------------------------------------- sympy


def sympy_answer(where: Scene, query: Query, points) -> str | None:
    """By sympy's own geometry; None for what it has no word for."""
    import sympy as s

    high = s.sqrt(where.plane.k)
    at = [s.Point(s.Rational(x, w), s.Rational(y, w) * high) for x, y, w in points]
    one, other = ([at[n] for n in a] for a in query.arguments[:2])
    if query.kind == "line-line":
        p, q = s.Line(*one), s.Line(*other)
        return "parallel" if p.is_parallel(q) else "perpendicular" if p.is_perpendicular(q) else "intersecting"
    if query.kind == "line-point":
        return "yes" if s.Point.is_collinear(*one, *other) else "no"
    if query.kind == "point-shape":
        inside = s.Circle(other[0], other[0].distance(other[1])) if len(other) == 2 else s.Polygon(*other)
        return "yes" if inside.encloses_point(one[0]) else "no"
    if query.kind == "segment-shape":
        shape = s.Circle(other[0], other[0].distance(other[1])) if len(other) == 2 else s.Polygon(*other)
        ends = [end for end in one if not (len(other) == 2 or any(end in side for side in shape.sides))]
        if len(other) == 2:
            return "yes" if all(s.simplify(end.distance(other[0]) - shape.radius) <= 0 for end in one) else "no"
        inner = [*ends, one[0].midpoint(one[1])]
        return "yes" if all(shape.encloses_point(p) for p in inner) else "no"
    if query.kind in ("median", "altitude", "bisector"):
        triangle = s.Triangle(*other)
        lines = {"median": triangle.medians, "altitude": triangle.altitudes, "bisector": triangle.bisectors()}[
            query.kind
        ]
        return "yes" if any({*line.points} == {*one} for line in lines.values()) else "no"
    if query.kind == "radius":
        return "yes" if other[0] in one and one[0].distance(one[1]) == other[0].distance(other[1]) else "no"
    if query.kind == "diameter":
        rim = other[0].distance(other[1])
        return "yes" if one[0].midpoint(one[1]) == other[0] and one[0].distance(other[0]) == rim else "no"
    return None


@pytest.mark.parametrize("number", [60, pytest.param(100_000, marks=pytest.mark.slow)])
def test_sympy_gives_the_same_answers_in_fresh_realisations(made, number):
    checked = 0
    for where, query, judged in made[:number]:
        found = where.realisation(7001) or where.realisation(7000)
        if found is None or query.kind == "bisector":
            continue
        cases = judged.evidence.witnesses if judged.answer == CANNOT else ((judged.answer, found),)
        for wanted, one in cases:
            theirs = sympy_answer(where, query, one.points)
            if theirs is not None:
                assert theirs == wanted, (where.steps, query)
                checked += 1
    assert checked > min(number, len(made)) / 3


def test_identities_are_identities_of_symbols(made):
    """Free numbers as symbols: the quantity must vanish as a polynomial, not only at rational points."""
    import sympy as s

    checked = 0
    for where, query, judged in made:
        if judged.evidence.kind != "identity" or query.kind not in ("line-line", "line-point") or len(where.steps) > 2:
            continue
        if any(c.requires for c in where.constructions) or len(where.free) > 4:
            continue
        start = where.realisation(0)
        if start is None:
            continue
        symbols = [s.Symbol(f"t{i}") for i in range(len(where.free))]
        points = realise(
            where, [n if kind in (SIGN, ORDER) else t for kind, n, t in zip(where.free, start.numbers, symbols)]
        )
        one, other = ([points[n] for n in a] for a in query.arguments)
        if query.kind == "line-point":
            value = s.Matrix([other[0], other[1], one[0]]).det()
        else:
            u, v = ((b[0] * a[2] - a[0] * b[2], b[1] * a[2] - a[1] * b[2]) for a, b in (one, other))
            k = where.plane.k
            value = u[0] * v[1] - u[1] * v[0] if judged.answer == "parallel" else u[0] * v[0] + k * u[1] * v[1]
        assert s.expand(value) == 0, (where.steps, query)
        checked += 1
    assert checked >= 8


def test_every_construction_occurs(made):
    used = {name for where, *_ in made for name, _ in where.steps}
    assert len(used) > 0.6 * len(ALL)
    assert used <= ALL.keys()


def test_letters_do_not_matter():
    one = scene("triangle ABC; median point ABCM; between AMP", "point-shape", "P", "ABC")
    other = scene("triangle QXF; median point QXFZ; between QZK", "point-shape", "K", "QXF")
    assert one == other
