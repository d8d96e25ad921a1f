"""Generated answers whose verdict is known: how many are judged rightly, how fast, and what hostile ones cost.

Each answer has a truth and is made either equal to it or not; sympy holds both values against each other before any
answer is written. math-verify alone gets the first of the same texts, and, since it reads LaTeX only between dollars,
their bare answers between dollars.
"""

import logging
import random
import time
from collections import Counter
from collections.abc import Callable
from importlib.metadata import version
from typing import Any, NamedTuple

import sympy
from math_verify import parse, verify
from sympy import Rational, latex, sqrt

from common import Target, parser, signature, table, tell, write
from trimtab.rewards.pool import MathPool

SEED, ANSWERS, FEWER, SECONDS, WORKERS = 0, 5_000, 1_000, 5.0, 2
PATIENCE = 60.0  # seconds for an answer that ends: a busy machine must not turn its verdict
TRIMTAB, ALONE, BARE = "trimtab", "math-verify alone", "math-verify, bare answers"
X = sympy.Symbol("x")
WRAPPINGS = (
    "So we get \\boxed{%s}.",
    "Therefore the answer is $%s$.",
    "2 + 3 = 5.\nThe answer is %s.",
    "Step 1: 7.\n#### %s",
)

Draw = random.Random


class Case(NamedTuple):
    kind: str
    truth: str
    answer: str
    """without words"""
    text: str
    right: bool


class Pair(NamedTuple):
    """A truth and an answer: what they are and how they are written."""

    value: Any
    other: Any
    truth: str
    answer: str


# ---------------------------------------------------------------- kinds of answers: (draw, is it right?) -> pair


def integer(draw: Draw, right: bool) -> Pair:
    value = draw.choice([-1, 1]) * draw.randint(0, 10 ** draw.randint(1, 9))
    other = value if right else value + draw.choice([-10, -1, 1, 10, 1000])
    return Pair(value, other, str(value), draw.choice(["%d", "%d.0", "{%d}", "%d.00"]) % other)


def thousands(draw: Draw, right: bool) -> Pair:
    value = draw.randint(1_000, 10 ** draw.randint(4, 12))
    other = value if right else draw.choice([value + 1, value * 10, value // 1000 + value % 1000])
    marks = [",", "{,}", "\\,", ",\\!", " ", "\\ "]
    truth, answer = (f"{x:,}".replace(",", draw.choice([*marks, ""])) for x in (value, other))
    return Pair(value, other, truth, answer)


def ratio(draw: Draw) -> Rational:
    return Rational(draw.choice([-1, 1]) * draw.randint(1, 60), draw.randint(2, 40))


def fraction(draw: Draw, right: bool) -> Pair:
    value = ratio(draw)
    other = value if right else draw.choice([-value, 1 / value, value + Rational(1, value.q + 1)])
    factor = draw.randint(1, 4)
    above, below, sign = abs(other.p) * factor, other.q * factor, "-" if other < 0 else ""
    forms = [r"\frac{%d}{%d}", r"\dfrac{%d}{%d}", r"\tfrac{%d}{%d}", "%d/%d", r"{%d}/{%d}"]
    return Pair(value, other, latex(value), sign + draw.choice(forms) % (above, below))


def mixed_number(draw: Draw, right: bool) -> Pair:
    whole, part = draw.randint(1, 30), Rational(draw.randint(1, 8), 9)
    value = whole + part
    other = value if right else whole * part
    shown = whole if right else draw.choice([whole + 1, whole + 2])
    other = value if right else shown + part
    answer = draw.choice([r"%d\frac{%d}{%d}", "%d %d/%d", r"%d\,\frac{%d}{%d}"]) % (shown, part.p, part.q)
    return Pair(value, other, latex(value), answer)


def decimal(draw: Draw, right: bool) -> Pair:
    places = draw.randint(1, 6)
    value = Rational(draw.randint(1, 10 ** (places + 2)), 10**places)
    other = value if right else value + Rational(draw.choice([-1, 1]), 10**places)
    written = f"{float(other):.{places}f}"
    return Pair(value, other, latex(value), draw.choice([written, written + "00", written.removeprefix("0")]))


def repeating(draw: Draw, right: bool) -> Pair:
    start, period = str(draw.randint(0, 99)), str(draw.randint(1, 98))
    value = Rational(int(start), 10 ** len(start)) + Rational(int(period), 10 ** len(start) * (10 ** len(period) - 1))
    other = value if right else value + Rational(draw.choice([-1, 1]), 7)
    return Pair(value, other, latex(other), rf"0.{start}\overline{{{period}}}")


def rounded(draw: Draw, right: bool) -> Pair:
    """Right with 7 digits or more, wrong with 3."""
    value = draw.choice(
        [ratio(draw) / 7, sqrt(draw.choice([2, 3, 5, 7])) * draw.randint(1, 9), sympy.pi / draw.randint(2, 9)]
    )
    digits = draw.randint(8, 12) if right else 3
    close = sympy.N(value, digits)
    other = value if right else Rational(str(close))
    if other == value and not right:
        return rounded(draw, right)
    return Pair(value, other, latex(value), str(close))


def power(draw: Draw, right: bool) -> Pair:
    base, exponent = draw.randint(2, 12), draw.choice([*range(2, 9), -1, -2, -3])
    value = sympy.Integer(base) ** exponent
    other = (
        value
        if right
        else draw.choice([value * base, sympy.Integer(base) * exponent + 1, sympy.Integer(base + 1) ** exponent])
    )
    if not right and other == sympy.Integer(base + 1) ** exponent:
        base += 1
    if right or other == sympy.Integer(base) ** exponent:
        plain = [f"{base}^{{{exponent}}}", f"{base}^{exponent}", f"{base}**{exponent}", f"{base}^({exponent})"]
        return Pair(value, other, latex(value), draw.choice(plain))
    return Pair(value, other, f"{base}^{{{exponent}}}", latex(other))


def root(draw: Draw, right: bool) -> Pair:
    outer, inner = draw.randint(1, 9), draw.choice([2, 3, 5, 6, 7, 10, 11])
    value = outer * sqrt(inner)
    other = value if right else draw.choice([outer * sqrt(inner + 1), (outer + 1) * sqrt(inner), -value, value / inner])
    square = sympy.expand(other**2)
    sign = "-" if other.is_negative else ""
    forms = [
        rf"{sign}\sqrt{{{latex(square)}}}",
        f"{sign}sqrt({square})",
        latex(other),
        str(other),
        f"{sign}√({square})",
    ]
    forms += [rf"\frac{{{latex(sympy.expand(other * sqrt(inner)))}}}{{\sqrt{{{inner}}}}}"]
    return Pair(value, other, latex(value), draw.choice(forms))


def percentage(draw: Draw, right: bool) -> Pair:
    number = Rational(draw.randint(1, 999), draw.choice([1, 2, 4, 10]))
    other = number if right else number + draw.choice([1, Rational(1, 2), 10])
    shown = str(other) if other.q == 1 else f"{float(other):g}"
    answer = draw.choice([rf"{shown}\%", f"{shown}%", f"{shown} percent", rf"{shown}\ \%"])
    true = f"{float(number):g}"
    return Pair(number, other, draw.choice([rf"{true}\%", true, latex(number / 100)]), answer)


def ends(draw: Draw) -> tuple[Rational, Rational]:
    low = Rational(draw.randint(-20, 20), draw.choice([1, 1, 2, 3]))
    return low, low + Rational(draw.randint(1, 30), draw.choice([1, 1, 2]))


def interval(draw: Draw, right: bool) -> Pair:
    (low, high), opened = ends(draw), [draw.random() < 0.5, draw.random() < 0.5]
    value = sympy.Interval(low, high, *opened)
    if right:
        other = value
    elif draw.random() < 0.5:
        other = sympy.Interval(low, high + 1, *opened)
    else:
        other = sympy.Interval(low, high, not opened[0], opened[1])

    def written(one: Any) -> str:
        left, close = "(" if one.left_open else "[", ")" if one.right_open else "]"
        form = draw.choice(["%s%s, %s%s", r"\left%s%s, %s\right%s", "%s%s,%s%s"])
        return form % (left, latex(one.start), latex(one.end), close)

    return Pair(value, other, written(value), written(other))


def union(draw: Draw, right: bool) -> Pair:
    low, high = ends(draw)
    value = sympy.Union(sympy.Interval.open(-sympy.oo, low), sympy.Interval(high, sympy.oo, False, True))
    other = value if right else sympy.Union(sympy.Interval.open(-sympy.oo, low), sympy.Interval.open(high, sympy.oo))
    close = "[" if right else "("
    parts = [rf"(-\infty, {latex(low)})", rf"{close}{latex(high)}, \infty)"]
    draw.shuffle(parts)
    truth = rf"(-\infty, {latex(low)}) \cup [{latex(high)}, \infty)"
    return Pair(
        value, other, truth, draw.choice([r" \cup ", "∪"]).join(parts).replace(r"\infty", draw.choice([r"\infty", "∞"]))
    )


def inequality(draw: Draw, right: bool) -> Pair:
    bound = sympy.Integer(draw.randint(-30, 30))
    value = sympy.Interval(-sympy.oo, bound)
    other = (
        value if right else draw.choice([sympy.Interval.open(-sympy.oo, bound), sympy.Interval(-sympy.oo, bound + 1)])
    )
    sign, end = ("<" if other.right_open else r"\le"), other.end
    turned = {"<": ">", r"\le": r"\ge"}[sign]
    truth = draw.choice([rf"(-\infty, {bound}]", rf"x \le {bound}", rf"x \leq {bound}"])
    return Pair(value, other, truth, draw.choice([f"x {sign} {end}", f"{end} {turned} x"]))


def members(draw: Draw) -> list[Any]:
    return draw.sample(
        [sympy.Integer(n) for n in range(-9, 30)] + [Rational(1, 2), Rational(-2, 3), sqrt(2), sqrt(5)],
        draw.randint(2, 5),
    )


def finite_set(draw: Draw, right: bool) -> Pair:
    first = members(draw)
    second = list(first)
    draw.shuffle(second)
    if not right:
        second[0] = second[0] + 31
    answer = ", ".join(map(latex, second))
    forms = [r"\{%s\}", r"\left\{%s\right\}"]
    return Pair(
        sympy.FiniteSet(*first),
        sympy.FiniteSet(*second),
        r"\{{{}\}}".format(", ".join(map(latex, first))),
        draw.choice(forms) % answer,
    )


def ordered(draw: Draw, right: bool) -> Pair:
    first = members(draw)
    second = list(first) if right else [*first[1:], first[0]]
    forms = ["(%s)", r"\left(%s\right)", "( %s )"]
    truth = "({})".format(", ".join(map(latex, first)))
    return Pair(sympy.Tuple(*first), sympy.Tuple(*second), truth, draw.choice(forms) % ", ".join(map(latex, second)))


def set_for_tuple(draw: Draw, right: bool) -> Pair:
    """A set where a tuple is asked for, or the other way round; always wrong, but for the same brackets."""
    first = sorted(draw.sample(range(30), draw.randint(2, 4)))
    text = ", ".join(map(str, first))
    both = [(sympy.FiniteSet(*first), rf"\{{{text}\}}"), (sympy.Tuple(*first), f"({text})")]
    draw.shuffle(both)
    (value, truth), (other, answer) = both[0], both[0] if right else both[1]
    return Pair(value, other, truth, answer)


def solutions(draw: Draw, right: bool) -> Pair:
    first = sorted(draw.sample(range(-20, 20), 2))
    second = list(reversed(first)) if right else [first[0], first[1] + 1]
    forms = ["x = %d or x = %d", "%d and %d", "%d, %d", r"x = %d \text{ or } x = %d", r"\{%d, %d\}"]
    truth = draw.choice([r"\{%d, %d\}", "%d, %d"]) % tuple(first)
    return Pair(sympy.FiniteSet(*first), sympy.FiniteSet(*second), truth, draw.choice(forms) % tuple(second))


def equation(draw: Draw, right: bool) -> Pair:
    value = ratio(draw)
    other = value if right else value + draw.choice([-1, 1])
    forms = ["x = %s", "y=%s", "f(2) = %s", "x=2-2+%s" if other > 0 else "x=%s"]
    return Pair(
        value,
        other,
        draw.choice(["%s", "x = %s"]) % latex(value),
        draw.choice(forms[: 1 if right else 4]) % latex(other),
    )


def condition(draw: Draw, right: bool) -> Pair:
    """An equation that only mentions the value is not the value."""
    value = sympy.Integer(draw.randint(2, 50))
    forms = ["x^2 = %s", "2x = %s", r"\sqrt{x} = %s", "x + 1 = %s"]
    other = value if right else sympy.Symbol("condition")
    return Pair(value, other, str(value), (draw.choice(["x = %s", "%s"]) if right else draw.choice(forms)) % value)


def polynomial(draw: Draw, right: bool) -> Pair:
    factors = [X - draw.randint(-9, 9) for _ in range(draw.randint(2, 3))]
    value = draw.randint(1, 5) * sympy.prod(factors)
    other = value if right else value + draw.choice([1, X, -2 * X])
    whole = sympy.expand(other)
    terms = [latex(term) for term in whole.as_ordered_terms()]
    draw.shuffle(terms)
    shuffled = "+".join(terms).replace("+-", "-")
    forms = [shuffled, latex(whole), latex(sympy.factor(other)), str(whole), str(whole).replace("**", "^")]
    return Pair(value, other, latex(draw.choice([value, sympy.expand(value)])), draw.choice(forms))


def rational_function(draw: Draw, right: bool) -> Pair:
    a, b = draw.sample(range(1, 12), 2)
    value = 1 / (X + a) - 1 / (X + b)
    other = value if right else 1 / (X + a) + 1 / (X + b)
    return Pair(
        value,
        other,
        latex(value),
        draw.choice([latex(sympy.together(other)), latex(other), str(sympy.together(other))]),
    )


def with_unit(draw: Draw, right: bool) -> Pair:
    value = draw.randint(2, 900)
    other = value if right else value + draw.choice([1, 10])
    forms = [
        "%d km",
        "%d litres",
        r"%d \text{ cm}",
        r"%d \text{ cm}^2",
        r"%d\ \mathrm{m/s}",
        "%d km/h",
        r"\$%d",
        r"%d^\circ",
        "%d°",
    ]
    forms += ["%d apples", r"%d^{\circ}", r"%d\text{ square units}", "%d dollars", "%d cents per minute"]
    return Pair(value, other, str(value), draw.choice(forms) % other)


def scientific(draw: Draw, right: bool) -> Pair:
    digits, exponent = draw.randint(11, 99), draw.choice([*range(-20, -2), *range(3, 25)])
    value = Rational(digits, 10) * sympy.Integer(10) ** exponent
    other = value if right else value * draw.choice([10, Rational(1, 10), 2, Rational(digits + 1, digits)])
    size = exponent + (1 if other >= 10 * sympy.Integer(10) ** exponent else 0)
    while abs(other) < sympy.Integer(10) ** size:
        size -= 1
    number = other / sympy.Integer(10) ** size
    shown = f"{float(number):g}"
    forms = [
        rf"{shown} \times 10^{{{size}}}",
        rf"{shown}\cdot 10^{{{size}}}",
        f"{shown}e{size}",
        f"{shown} × 10^{size}",
        f"{shown}E{size:+d}",
    ]
    forms += [f"{shown}*10^{size}", f"{shown}*10**{size}"]
    return Pair(value, other, rf"{digits / 10} \times 10^{{{exponent}}}", draw.choice(forms))


def angle(draw: Draw, right: bool) -> Pair:
    above, below = draw.randint(1, 11), draw.choice([2, 3, 4, 6, 8, 12])
    value = sympy.pi * above / below
    other = value if right else draw.choice([sympy.pi * (above + 1) / below, value + 1, Rational(above, below)])
    forms = [latex(other), str(other), str(other).replace("pi", "π").replace("*", "")]
    return Pair(value, other, latex(value), draw.choice(forms))


def transcendental(draw: Draw, right: bool) -> Pair:
    a, b = draw.randint(2, 9), draw.randint(2, 4)
    value, text = draw.choice(
        [
            (sympy.log(a**b), rf"{b}\ln {a}"),
            (sympy.exp(b), f"e^{{{b}}}"),
            (sympy.sin(sympy.pi / (b + 1)), latex(sympy.sin(sympy.pi / (b + 1)))),
            (sympy.log(a**b, a), str(b)),
        ]
    )
    forms = {b: rf"\log_{{{a}}} {a**b}", sympy.exp(b): f"e^{b}"}
    answer = forms.get(
        value,
        rf"\sin\left(\frac{{\pi}}{{{b + 1}}}\right)" if value.has(sympy.sin) or value.is_algebraic else rf"\ln {a**b}",
    )
    other = value if right else value + 1
    return Pair(value, other, text, answer if right else f"{answer} + 1")


def trigonometric(draw: Draw, right: bool) -> Pair:
    n = draw.randint(1, 5)
    value, text = draw.choice(
        [(sympy.sin(2 * n * X), rf"2\sin({n}x)\cos({n}x)"), (sympy.cos(n * X) ** 2, rf"1-\sin^2({n}x)")]
    )
    other = value if right else value + draw.choice([sympy.sin(X), sympy.Integer(1)])
    return Pair(value, other, latex(other), text)


def complex_number(draw: Draw, right: bool) -> Pair:
    a, b = draw.randint(1, 20), draw.randint(2, 20)
    value = a + b * sympy.I
    other = value if right else draw.choice([a - b * sympy.I, b + a * sympy.I if a != b else -value])
    re, im = sympy.re(other), sympy.im(other)
    answer = draw.choice([f"{im}i + {re}", f"{re} + {im}i", f"{re}+{im}*i"]).replace("+ -", "- ").replace("+-", "-")
    return Pair(value, other, f"{a}+{b}i", answer)


def matrix(draw: Draw, right: bool) -> Pair:
    rows = [[draw.randint(-9, 9) for _ in range(2)] for _ in range(2)]
    other = [list(row) for row in rows]
    if not right:
        other[draw.randrange(2)][draw.randrange(2)] += 1

    def written(kind: str, one: list[list[int]]) -> str:
        lines = r" \\ ".join(" & ".join(map(str, row)) for row in one)
        return rf"\begin{{{kind}}} {lines} \end{{{kind}}}"

    return Pair(
        sympy.Matrix(rows),
        sympy.Matrix(other),
        written("pmatrix", rows),
        written(draw.choice(["pmatrix", "bmatrix"]), other),
    )


def counting(draw: Draw, right: bool) -> Pair:
    n, k = draw.randint(4, 12), draw.randint(2, 3)
    value, text = draw.choice([(sympy.binomial(n, k), rf"\binom{{{n}}}{{{k}}}"), (sympy.factorial(n), f"{n}!")])
    other = value if right else value + draw.choice([1, n])
    return Pair(value, other, str(other), text)


KINDS: dict[str, Callable[[Draw, bool], Pair]] = {
    one.__name__: one
    for one in (
        *(integer, thousands, fraction, mixed_number, decimal, repeating, rounded, power, root, percentage, interval),
        *(union, inequality, finite_set, ordered, set_for_tuple, solutions, equation, condition, polynomial),
        *(rational_function, with_unit, scientific, angle, transcendental, trigonometric, complex_number, matrix),
        counting,
    )
}  # fmt: skip


def equal(value: Any, other: Any) -> bool:
    """What sympy says; plain equality for sets, tuples and matrices."""
    if (
        isinstance(value, (int, sympy.Expr))
        and isinstance(other, (int, sympy.Expr))
        and not isinstance(value, sympy.MatrixBase)
    ):
        return bool(sympy.simplify(sympy.sympify(value) - sympy.sympify(other)) == 0)
    return bool(value == other)


def cases(number: int, seed: int) -> list[Case]:
    """As many right as wrong ones of each kind."""
    draw = random.Random(seed)
    found = []
    for place in range(number):
        kind, right = list(KINDS)[place // 2 % len(KINDS)], place % 2 == 0
        pair = KINDS[kind](draw, right)
        while equal(pair.value, pair.other) is not right:
            assert not right, (kind, pair)
            pair = KINDS[kind](draw, right)
        found.append(Case(kind, pair.truth, pair.answer, draw.choice(WRAPPINGS) % pair.answer, right))
    return found


# ---------------------------------------------------------------- hostile answers

HOSTILE = {
    "a tower of powers": r"\boxed{10^{10^{10}}}",
    "a tower in Python's notation": "The answer is 10**10**10.",
    "a tower of six twos": r"\boxed{2^{2^{2^{2^{2^{2}}}}}}",
    "factorials of factorials": r"\boxed{(((9!)!)!)!}",
    "one large factorial": r"\boxed{100000000!}",
    "a large binomial": r"\boxed{\binom{10^{12}}{5 \cdot 10^{11}}}",
    "a long sum": r"\boxed{\sum_{n=1}^{10000000000} n^{n}}",
    "a polynomial of a high power": r"\boxed{(x+y+z+w+1)^{500}}",
    "10,000 nested boxes": r"\boxed{" * 10_000 + "1" + "}" * 10_000,
    "10,000 nested braces": r"\boxed{" + "{" * 10_000 + "1" + "}" * 10_001,
    "4,000 nested parentheses": r"\boxed{" + "(" * 4_000 + "1" + ")" * 4_000 + "}",
    "1,500 nested fractions": r"\boxed{" + r"\frac{1}{" * 1_500 + "1" + "}" * 1_501,
    "a megabyte of digits": "1" * 2**20,
    "9,000 digits in a box": r"\boxed{" + "9" * 9_000 + "}",
    "1,600 formulas": "$1$, " * 1_600,
    "NUL bytes": "\0" * 10_000,
    "nothing": "",
    "emoji and half a surrogate": "\U0001f600\ud800" * 3_000,
    "dollars": "$" * 10_000,
}


def hostile(seconds: float, chosen: dict[str, str]) -> list[dict[str, Any]]:
    """Outcome and seconds of each, and whether the next answer is judged rightly."""
    found = []
    with MathPool(seconds, workers=1) as pool:
        pool.grade(["1"], ["2"])
        for name, text in chosen.items():
            start = time.perf_counter()
            (outcome,) = pool.grade([text], ["7"])
            taken = time.perf_counter() - start
            start = time.perf_counter()
            after = pool.grade([r"\boxed{7}", r"\boxed{8}"], ["7", "7"])
            then = time.perf_counter() - start
            cell = {"what": name, "outcome": outcome, "seconds": round(taken, 3), "next_seconds": round(then, 3)}
            found.append({**cell, "next_right": after == ["right", "wrong"]})
    return found


# ---------------------------------------------------------------- both judges


def alone(truth: str, text: str) -> bool:
    return verify(parse(f"${truth}$"), parse(text))


def counted(generated: list[Case], verdicts: list[bool]) -> dict[str, dict[str, Any]]:
    """kind -> answers, right ones refused, wrong ones accepted, and an example."""
    cells: dict[str, dict[str, Any]] = {}
    for one, good in zip(generated, verdicts):
        cell = cells.setdefault(one.kind, {"answers": 0, "refused": 0, "accepted": 0})
        cell["answers"] += 1
        if good != one.right:
            cell["accepted" if good else "refused"] += 1
            cell.setdefault("example", {"truth": one.truth, "text": one.text, "right": one.right})
    return cells


def main() -> None:
    args = parser(__doc__).parse_args()
    about = signature()
    number = 2 * len(KINDS) if args.quick else ANSWERS
    generated = cases(number, SEED)
    tell(f"{number} answers")
    texts, truths = [one.text for one in generated], [one.truth for one in generated]
    with MathPool(PATIENCE, WORKERS) as pool:
        pool.grade(["1", "2"], ["2", "1"])  # both workers have started
        start = time.perf_counter()
        outcomes = pool.grade(texts, truths)
        ours_seconds = time.perf_counter() - start
    tell(f"{number / ours_seconds:.1f} a second; math-verify alone")
    logging.disable(logging.CRITICAL)
    start = time.perf_counter()
    plain = [alone(one.truth, one.text) for one in generated[:FEWER]]
    alone_seconds = time.perf_counter() - start
    bare = [alone(one.truth, f"${one.answer}$") for one in generated[:FEWER]]
    judged = {TRIMTAB: [outcome == "right" for outcome in outcomes], ALONE: plain, BARE: bare}
    cells = {judge: counted(generated, verdicts) for judge, verdicts in judged.items()}
    tell("hostile answers")
    limit = 1.0 if args.quick else SECONDS
    cost = hostile(limit, dict(list(HOSTILE.items())[-4:]) if args.quick else HOSTILE)

    def errors(cells: dict[str, dict[str, Any]]) -> int:
        return sum(cell["refused"] + cell["accepted"] for cell in cells.values())

    targets = [
        Target("math: wrong verdicts", 0, None if args.quick else errors(cells[TRIMTAB])),
        Target(
            "math: seconds of a hostile answer beyond its limit",
            0.5,
            None if args.quick else max(c["seconds"] for c in cost) - limit,
        ),
        Target(
            "math: answers after a hostile one that are judged wrongly",
            0,
            None if args.quick else sum(not c["next_right"] for c in cost),
        ),
    ]
    result = {
        "signature": about,
        "setting": {
            "seed": SEED,
            "answers": number,
            "of_them_alone": len(plain),
            "seconds": SECONDS,
            "workers": WORKERS,
            **{name: version(name) for name in ("math-verify", "sympy")},
        },
        "outcomes": Counter(outcomes),
        "wrong_verdicts": {judge: errors(found) for judge, found in cells.items()},
        "answers_a_second": {
            f"trimtab, {WORKERS} workers": round(number / ours_seconds, 1),
            "math-verify alone, one process": round(len(plain) / alone_seconds, 1),
        },
        "kinds": {kind: {judge: found[kind] for judge, found in cells.items()} for kind in KINDS},
        "hostile": cost,
    }
    path = write("math_verification", args, result, targets)
    rows = [
        [kind, *(f"{found[kind]['refused']} + {found[kind]['accepted']}" for found in cells.values())] for kind in KINDS
    ]
    print("right ones refused + wrong ones accepted")
    print(table(["kind", *cells], rows))
    print(table(["hostile answer", "outcome", "seconds", "seconds of the next two", "judged rightly"], [
        [c["what"], c["outcome"], c["seconds"], c["next_seconds"], str(c["next_right"])] for c in cost
    ]))  # fmt: skip
    print("", *targets, result["answers_a_second"], path.name, sep="\n")


if __name__ == "__main__":
    main()
