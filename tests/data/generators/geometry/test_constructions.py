"""Constructions place their points exactly as their sentences say, and reach each coincidence they allow."""

import re
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from tiny_table import table
from trimtab.data.generators.geometry.constructions import ALL, filled
from trimtab.data.generators.geometry.plane import Degenerate, between, convex, holds, meet, plane, point, turn
from trimtab.data.generators.geometry.questions import QUESTIONS

sys.path.insert(0, str(Path(__file__).parent))
from scenes import realisations


def planes(c):
    return (c.unit,) if c.unit else (1, 3)


@table("name", ALL)
def test_its_facts_hold_exactly_in_every_realisation(name):
    c = ALL[name]
    for k in planes(c):
        found = list(realisations(c, k, seed=1))
        assert len(found) == 40
        for g, points in found:
            for fact in c.facts:
                assert holds(g, points, fact), (fact, points)


@table("name, case", [(name, case) for name, c in ALL.items() for case in c.cases])
def test_each_listed_coincidence_is_reached(name, case):
    c = ALL[name]
    found = list(realisations(c, c.unit or 1, seed=2, case=case, number=8))
    assert len(found) == 8
    assert all(holds(g, points, case) for g, points in found)


@table("name", ALL)
def test_listed_coincidences_are_not_always_there(name):
    c = ALL[name]
    for case in c.cases:
        assert not all(holds(g, points, case) for g, points in realisations(c, c.unit or 1, seed=3)), case


@table("name", ALL)
def test_it_has_three_wordings_that_name_all_points_and_no_other(name):
    c = ALL[name]
    assert len(set(c.texts)) >= 3
    for text in c.texts:
        named = set("".join(re.findall(r"\[([A-Z]+)\]", text)))
        needed = set(c.letters) if c.given else {"A", "C"}
        if c.family == "transversal":  # the first line and its sides were said before
            needed = set("EFGCDH")
        if name == "diagonal":
            needed = set()
        assert needed <= named <= set(c.letters), text
        bare = re.sub(r"\[[A-Z]+\]", "", text)
        assert not re.search(r"\b[A-Z]+\b", bare), f"a word that looks like a point: {text}"
        assert text[-1] == "."


def test_questions_have_three_wordings_without_words_that_look_like_points():
    for question in QUESTIONS.values():
        assert len(set(question.texts)) >= 3
        assert not any(re.search(r"\b[A-Z]+\b", text) for text in question.texts)


def test_letters_are_filled_in_without_touching_words():
    assert filled("[ABC] is A triangle; [A] first.", {"A": "Q", "B": "A", "C": "T"}) == "QAT is A triangle; Q first."


def test_plane_against_values_worked_by_hand():
    g = plane(1)
    a, b, p = (0, 0, 1), (4, 0, 1), (1, 3, 1)
    assert g.move(a, a, b, Fraction(1, 2), Fraction(1, 4)) == (2, 1, 1)
    assert g.move(p, (1, 1, 1), (3, 2, 1), 0, 1) == (0, 5, 1)  # (2, 1) turned left is (-1, 2)
    assert g.foot(p, a, b) == (1, 0, 1)
    assert g.mirror(p, a, b) == (1, -3, 1)
    assert meet(a, p, b, (0, 12, 1)) == (2, 6, 1)
    assert Fraction(*g.longer(a, b, a, (1, 1, 2))) == 16 - Fraction(1, 2)
    assert Fraction(*g.longer(a, (1, 1, 2), a, b)) == Fraction(1, 2) - 16
    assert g.longer(p, (1, 1, 2), (1, 1, 2), p)[0] == 0
    assert turn(a, b, p) == 12
    assert turn(a, p, b) == -12
    assert between(a, (3, 0, 2), b)
    assert not between(a, (5, 0, 1), b)
    assert point(-2, 4, -6) == (1, -2, 3)
    with pytest.raises(Degenerate, match="infinity"):
        meet(a, b, (0, 1, 1), (1, 1, 1))


def test_unit_of_three_makes_an_equilateral_triangle_rational():
    g = plane(3)
    a, b = (0, 0, 1), (2, 0, 1)
    c = (1, 1, 1)  # (1, sqrt 3)
    assert [g.longer(a, b, *side)[0] for side in ((a, c), (b, c))] == [0, 0]
    assert Fraction(*g.longer(a, (0, 1, 1), a, (1, 0, 1))) == 3 - 1
    assert g.dot((2, 0), (0, 1)) == 0


def test_a_polygon_is_convex_in_one_order_and_not_in_another():
    square = [(0, 0, 1), (1, 0, 1), (1, 1, 1), (0, 1, 1)]
    assert convex(square)
    assert convex(square[::-1])
    assert not convex([square[0], square[2], square[1], square[3]])
    assert not convex([(0, 0, 1), (1, 0, 1), (2, 0, 1), (0, 1, 1)])


def test_a_fact_that_does_not_hold_is_found_out():
    points = {"A": (0, 0, 1), "B": (2, 0, 1), "C": (0, 2, 1), "D": (1, 0, 1), "E": (3, 1, 1)}
    g = plane(1)
    true = ("AB perp AC", "AB eq AC", "D on AB", "D in AB", "C off AB", "acute ABC", "CE same AB", "AB par AD")
    false = ("AB perp BC", "AB ne AC", "C on AB", "B in AD", "D off AB", "obtuse ABC", "CE opp AB", "AB par AC")
    assert all(holds(g, points, fact) for fact in true)
    assert not any(holds(g, points, fact) for fact in false)
