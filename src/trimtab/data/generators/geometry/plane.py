"""Exact plane geometry in whole numbers: points, the few ways to make one from others, and signs of products.

A point is a triple (x, y, w) of whole numbers with w > 0 and stands for (x / w, y * sqrt(k) / w), k being that of the
`Plane`. With k = 1 this is every rational point. With k = 3 equilateral triangles and regular hexagons are exact as
well; right angles, mirror images and circles are exact with any k, squares with k = 1 alone.
"""

from fractions import Fraction
from functools import cache
from math import gcd
from typing import Any

Point = tuple[int, int, int]
Number = Any
"""a Fraction, a whole number, or a pair (numerator, denominator); a symbol of a computer algebra passes too"""


class Degenerate(ValueError):
    """Points lie so that what was asked for does not exist, such as the meeting point of parallel lines."""


def point(x: Any, y: Any, w: Any) -> Point:
    """The triple in lowest terms with w > 0, so that equal points are equal triples.

    Raises:
        Degenerate: if w is 0.
    """
    if w == 0:
        raise Degenerate("a point at infinity")
    try:
        common = gcd(x, y, w) if w > 0 else -gcd(x, y, w)
    except TypeError:  # symbols have no greatest common divisor
        return x, y, w
    return x // common, y // common, w // common


def vector(a: Point, b: Point) -> tuple[int, int]:
    """From a to b, times the product of their w, which is positive."""
    return b[0] * a[2] - a[0] * b[2], b[1] * a[2] - a[1] * b[2]


def cross(u: tuple[int, int], v: tuple[int, int]) -> int:
    """Zero for parallel vectors, positive if v is to the left of u (with any k, up to the factor sqrt(k))."""
    return u[0] * v[1] - u[1] * v[0]


def turn(a: Point, b: Point, c: Point) -> int:
    """Positive if c is to the left of the line from a to b, zero if on it."""
    (x, y, w), (p, q, r), (s, t, v) = a, b, c
    return (p * w - x * r) * (t * w - y * v) - (q * w - y * r) * (s * w - x * v)


def between(a: Point, m: Point, b: Point) -> bool:
    """Is m strictly between a and b?"""
    u, v = vector(a, m), vector(m, b)
    return cross(u, v) == 0 and u[0] * v[0] + u[1] * v[1] > 0


def meet(a: Point, b: Point, c: Point, d: Point) -> Point:
    """Where line ab meets line cd.

    Raises:
        Degenerate: if they are parallel.
    """
    return point(*_product(_product(a, b), _product(c, d)))


def _product(p: tuple[int, int, int], q: tuple[int, int, int]) -> tuple[int, int, int]:
    return p[1] * q[2] - p[2] * q[1], p[2] * q[0] - p[0] * q[2], p[0] * q[1] - p[1] * q[0]


def _parts(t: Number) -> tuple[Any, Any]:
    kind = type(t)
    if kind is Fraction:
        return t.as_integer_ratio()
    return t if kind is tuple else (t, 1)


class Plane:
    """What depends on right angles and lengths: y is counted in units of sqrt(k)."""

    def __init__(self, k: int = 1):
        self.k = k

    def dot(self, u: tuple[int, int], v: tuple[int, int]) -> int:
        return u[0] * v[0] + self.k * u[1] * v[1]

    def move(self, p: Point, a: Point, b: Point, t: Number, s: Number | None = None) -> Point:
        """p + t * ab + s * n, where n is ab turned left by a right angle and sqrt(k) times as long; None is 0."""
        (x, y, w), (ux, uy), (n, d) = p, vector(a, b), _parts(t)
        scale = d * a[2] * b[2]
        if s is None:
            return point(x * scale + w * n * ux, y * scale + w * n * uy, w * scale)
        m, e = _parts(s)
        n, m, scale = n * e, m * d, scale * e
        return point(x * scale + w * (n * ux - m * self.k * uy), y * scale + w * (n * uy + m * ux), w * scale)

    def foot(self, p: Point, a: Point, b: Point) -> Point:
        """The foot of the perpendicular from p to line ab."""
        return self.move(a, a, b, self._along(p, a, b))

    def mirror(self, p: Point, a: Point, b: Point) -> Point:
        """The mirror image of p in line ab."""
        return self.move(p, p, self.foot(p, a, b), 2)

    def _along(self, p: Point, a: Point, b: Point) -> tuple[int, int]:
        u = vector(a, b)
        return self.dot(vector(a, p), u) * b[2], self.dot(u, u) * p[2]

    def longer(self, a: Point, b: Point, c: Point, d: Point) -> tuple[int, int]:
        """|ab|^2 - |cd|^2 as (number, positive scale)."""
        u, v, one, other = vector(a, b), vector(c, d), (a[2] * b[2]) ** 2, (c[2] * d[2]) ** 2
        return self.dot(u, u) * other - self.dot(v, v) * one, one * other

    def circle(self, t: Number) -> tuple[Any, Any]:
        """Factors (x, y) for `move` that keep lengths: |x * ab + y * n| = |ab|; every t gives such a pair."""
        n, d = _parts(t)
        below = d * d + self.k * n * n
        return (d * d - self.k * n * n, below), (2 * n * d, below)

    def right(self, t: Number) -> tuple[Any, Any]:
        """Factors (x, y) for `move` from a that see segment ab at a right angle."""
        n, d = _parts(t)
        below = d * d + self.k * n * n
        return (d * d, below), (n * d, below)


@cache
def plane(k: int) -> Plane:
    return Plane(k)


# ---------------------------------------------------------------- facts


def holds(g: Plane, points: dict[str, Point], fact: str) -> bool:
    """Is a fact true of named points? Exact, without tolerance.

    Args:
        fact: "AB perp CD", "AB par CD" (or one line), "AB eq CD" and "AB ne CD" (lengths), "P on AB", "P off AB"
            (lines), "M in AB" (strictly between), "acute ABC", "obtuse ABC" (the angle at B), "CD opp AB", "CD same AB"
            (C and D on opposite sides, on one side of line AB), "convex ABCD" (a convex polygon in this order).
    """
    words = _words(fact)
    if words[0] in ("acute", "obtuse", "convex"):
        kind, corners = words[0], [points[letter] for letter in words[1]]
        if kind == "convex":
            return convex(corners)
        a, b, c = corners
        found = g.dot(vector(b, a), vector(b, c))
        return found > 0 if kind == "acute" else found < 0
    left, kind, right = words
    p, q = [points[letter] for letter in left], [points[letter] for letter in right]
    if kind in ("on", "off"):
        return (turn(q[0], q[1], p[0]) == 0) == (kind == "on")
    if kind == "in":
        return between(q[0], p[0], q[1])
    if kind in ("opp", "same"):
        product = turn(q[0], q[1], p[0]) * turn(q[0], q[1], p[1])
        return product < 0 if kind == "opp" else product > 0
    if kind in ("eq", "ne"):
        return (g.longer(*p, *q)[0] == 0) == (kind == "eq")
    u, v = vector(*p), vector(*q)
    return {"perp": g.dot(u, v), "par": cross(u, v)}[kind] == 0


@cache
def _words(fact: str) -> list[str]:
    return fact.split()


def convex(corners: list[Point]) -> bool:
    """Do the corners, in this order, make a strictly convex polygon?"""
    number = len(corners)
    for i in range(number):
        a, b = corners[i], corners[(i + 1) % number]
        signs = {turn(a, b, corners[(i + j) % number]) > 0 for j in range(2, number)}
        zeros = any(turn(a, b, corners[(i + j) % number]) == 0 for j in range(2, number))
        if zeros or len(signs) > 1:
            return False
    return True
