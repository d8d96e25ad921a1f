"""Free numbers of a construction: what values they may take, and how they are drawn."""

import random
from collections.abc import Callable
from fractions import Fraction

from trimtab.data.generators.geometry.plane import Plane

BETWEEN, BEYOND, POSITIVE, NONZERO, LINE, REAL, SIGN, ORDER = range(8)
"""(0, 1); above 1; above 0; all but 0; all but 0 and 1; all; -1 or 1; 0, 1 or 2"""

_PLAIN = [Fraction(n, d) for n, d in ((1, 1), (2, 1), (1, 2), (3, 1), (1, 3), (3, 2), (2, 3), (1, 100), (100, 1))]
_INNER = [Fraction(n, d) for n, d in ((1, 2), (1, 3), (2, 3), (1, 4), (3, 4), (1, 5), (4, 5), (1, 100), (99, 100))]
_OUTER = [Fraction(n, d) for n, d in ((2, 1), (3, 2), (3, 1), (4, 1), (4, 3), (5, 1), (101, 100), (100, 1))]
_SIGNS = [Fraction(-1), Fraction(1)]
_ORDERS = [Fraction(0), Fraction(1), Fraction(2)]


def _signed(values: list[Fraction]) -> list[Fraction]:
    return values + [-value for value in values]


def _pool(size: int = 2048) -> list[Fraction]:
    """Positive fractions, half of them below 1; many different ones, so that no polynomial vanishes on them by luck."""
    drawn = random.Random("fractions of geometry")
    return [Fraction(drawn.randint(1, 499), drawn.randint(1, 499)) for _ in range(size)]


_MANY = _pool()
_MANY_INNER = [value / (1 + value) for value in _MANY]
_MANY_OUTER = [1 + value for value in _MANY]
GENERIC = {
    BETWEEN: _MANY_INNER, BEYOND: _MANY_OUTER, POSITIVE: _MANY, NONZERO: _signed(_MANY),
    LINE: _MANY_INNER + _MANY_OUTER + [-value for value in _MANY], REAL: _signed(_MANY), SIGN: _SIGNS, ORDER: _ORDERS,
}  # fmt: skip
SPECIAL = {
    BETWEEN: _INNER, BEYOND: _OUTER, POSITIVE: _PLAIN, NONZERO: _signed(_PLAIN),
    LINE: _INNER + _OUTER + [-value for value in _PLAIN], REAL: [Fraction(0), *_signed(_PLAIN)], SIGN: _SIGNS,
    ORDER: _ORDERS,
}  # fmt: skip


def allowed(kind: int, value: Fraction) -> bool:
    """May a number of this kind have this value?"""
    n, d = value.numerator, value.denominator
    if kind == REAL:
        return True
    if kind == NONZERO:
        return n != 0
    if kind == POSITIVE:
        return n > 0
    if kind == BETWEEN:
        return 0 < n < d
    if kind == BEYOND:
        return n > d
    if kind == LINE:
        return n != 0 and n != d
    return d == 1 and (n in (-1, 1) if kind == SIGN else n in (0, 1, 2))


def piece(kind: int, value: Fraction) -> int:
    """Which connected piece of its values a number lies in."""
    if kind in (NONZERO, SIGN):
        return 1 if value.numerator > 0 else -1
    if kind == LINE:
        return -1 if value.numerator < 0 else int(value.numerator > value.denominator)
    return int(value) if kind == ORDER else 0


class Draw:
    """Numbers for one realisation, generic or special; `k` is that of the plane."""

    def __init__(self, drawn: random.Random, plane: Plane, special: bool):
        self.random, self.plane, self.k = drawn, plane, plane.k
        self.pools = SPECIAL if special else GENERIC

    def __call__(self, kind: int) -> Fraction:
        pool = self.pools[kind]
        return pool[int(self.random.random() * len(pool))]

    def circle(self) -> tuple[Fraction, Fraction]:
        x, y = self.plane.circle(self(NONZERO))
        return Fraction(*x), Fraction(*y)

    def right(self) -> tuple[Fraction, Fraction]:
        x, y = self.plane.right(self(NONZERO))
        return Fraction(*x), Fraction(*y)

    def unit(self) -> Fraction | None:
        """-1 or 1 where a turned vector keeps its length, which is k = 1 alone."""
        return self(SIGN) if self.k == 1 else None


Case = Callable[[Draw], tuple[Fraction | None, ...]]
"""The free numbers that bring a coincidence about; None for one that is drawn as ever"""
