r"""Verify mathematical answers: math-verify, with a normalisation of notation before it.

A completion may take forever or all memory to evaluate: call `verdict` in a process that may be killed
(`rewards/pool.py`), never in one that matters. What this layer adds to math-verify 0.9.0, each for a case that it
grades incorrectly (benchmarks/math_verification.py counts them):

- thousands separated by spaces, 1.5e-3, 2**3, 1 1/2, 0.\overline{3} and words such as pi are converted to LaTeX first;
  math-verify takes a number out of them, so that 2**3 is 2. What is still not LaTeX is unparsed;
- decimals are exact, and may be off by less than a millionth, and less than two millionths of the truth, so that six
  digits are enough for small numbers; math-verify rounds to six places or cuts off what is below 1e-15, so that 1e-20
  equals 2e-20;
- a percentage is correct by its number or by its value (12.5% for 12.5 and for 1/8);
- {1, 2} is not (1, 2), and x^2 = 5 is not 5.
"""

import re
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import sympy
from latex2sympy2_extended import is_expr_of_only_symbols
from latex2sympy2_extended.logic import And
from math_verify import LatexExtractionConfig, parse, verify
from sympy.core.function import AppliedUndef

from trimtab.rewards.final import clause

Outcome = Literal["correct", "incorrect", "unparsed"]
TOLERANCE = sympy.Rational(1, 10**6)


def warm_up() -> None:
    """Build grammars and patterns, which happens at their first use."""
    for text in ("so it is $x + 1$, I think", r"\boxed{\frac{1}{3}}"):
        verdict(text, "0.333333")


class Interpretation(NamedTuple):
    """One interpretation of a notation."""

    value: Any
    """a sympy expression, relation, set, tuple or matrix"""
    percent: bool
    brackets: str
    """around several members: "(" for a tuple or interval, "{" for a set, "" for none"""


def verdict(text: str, truth: str) -> Outcome:
    r"""Whether a text's answer equals the truth.

    The answer is the last \boxed{...} (or several joined by "and", "or" or a comma), else what follows the last
    "answer is", "answer:" or "####", without the next sentence, a reason or an aside, else the whole of a line without
    words, else the last mathematics that math-verify finds.

    Args:
        text: anything; evaluating it may not terminate.
        truth: an expression, or a text that ends with one after "####" or in a box.
    """
    wanted = stated(truth) or truth
    found = stated(text)
    if plain(text if found is None else found) == plain(wanted):
        return "correct"
    answers = interpretations(found) if found is not None else extracted(text)
    if not answers:
        return "unparsed"
    equivalent = any(same(one, other) for one in interpretations(wanted) for other in answers)
    return "correct" if equivalent else "incorrect"


def plain(piece: str) -> str:
    """A normal form for texts that are not mathematics, and for identical notation."""
    without = re.sub(r"\\(?:text|mathrm|textbf|mbox)\s*\{([^{}]*)\}|\\boxed\b|[$*]", r"\1", piece)
    return " ".join(without.casefold().split()).rstrip(".")


# ---------------------------------------------------------------- where the answer stands

_ANSWER_IS = re.compile(
    r"\banswer\**\s*(?:is\b(?!\s+not\b)|(?:would|should|must) be\b|:|：|=)\**[:：]?\s*|####\s*"
    r"|答案\s*(?:是|为|:|：)\s*",
    re.IGNORECASE,
)
_MATHS = re.compile(r"\$\$(.+?)\$\$|\$(.+?)\$|\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_JOINED = re.compile(r"[\s$]*(?:,?\s*\band\b|,?\s*\bor\b|,)[\s$]*(?:[A-Za-z]\s*=\s*)?")
_WORD = re.compile(r"(?<![\\{A-Za-z])[A-Za-z]{2,}")
_KNOWN = "sin cos tan sec csc cot arcsin arccos arctan log ln exp sqrt pi infinity inf and or percent degrees"
_WORDS = frozenset(_KNOWN.split())


def stated(text: str) -> str | None:
    """The part of a text that is its answer, as written; None if it announces none."""
    boxed = _boxed(text)
    if boxed:
        return ", ".join(boxed)
    announced = list(_ANSWER_IS.finditer(text))
    if announced:
        rest = text[announced[-1].end() :].replace(r"\$", "")
        line = rest.partition("\n")[0] if not rest.startswith(("$$\n", "\\[\n")) else rest
        return _marked(line) or clause(line).rstrip(".* ").lstrip("* ") or None
    bare = text.strip()
    if bare and "\n" not in bare and not _prose(bare):
        return _marked(bare) or bare.removesuffix(".")
    return None


def _boxed(text: str) -> list[str]:
    """The content of the last box, and of those before it that are separated only by "and", "or" or a comma."""
    found: list[tuple[int, int, str]] = []
    for start in re.finditer(r"\\f?boxed\s*\{", text):
        end = _closing(text, start.end() - 1)
        if end is not None:
            found.append((start.start(), end, text[start.end() : end].strip()))
    chosen: list[str] = []
    following = None
    for start, end, content in reversed(found):
        if following is not None and not _JOINED.fullmatch(text[end + 1 : following]):
            break
        chosen.insert(0, content)
        following = start
    return chosen


def _closing(text: str, opening: int) -> int | None:
    depth = 0
    for place in range(opening, len(text)):
        if text[place] == "{":
            depth += 1
        elif text[place] == "}":
            depth -= 1
            if depth == 0:
                return place
    return None


def _marked(line: str) -> str | None:
    """The first formula of a line, and those joined to it by "and", "or" or a comma."""
    chosen: list[str] = []
    end = 0
    for match in _MATHS.finditer(line):
        content = next(group for group in match.groups() if group)
        if chosen and not _JOINED.fullmatch(line[end : match.start()]):
            break
        if not _prose(content):  # between two prices
            chosen.append(content.strip())
            end = match.end()
    return ", ".join(chosen) or None


def _prose(text: str) -> bool:
    return any(
        word.casefold() not in _WORDS for word in _WORD.findall(re.sub(r"\\(?:text|mathrm)\s*\{[^{}]*\}", "", text))
    )


# ---------------------------------------------------------------- one notation

_SIGNS = str.maketrans({
    "−": "-", "–": "-", "×": r"\times ", "·": r"\cdot ", "⋅": r"\cdot ", "÷": "/", "π": r"\pi ", "∞": r"\infty ",
    "≤": r"\le ", "≥": r"\ge ", "≠": r"\ne ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ", "°": "", "±": r"\pm ",
    "½": r"\frac{1}{2}", "¼": r"\frac{1}{4}", "¾": r"\frac{3}{4}", "∅": r"\emptyset ", "€": "", "£": "",
    "\u00a0": " ", "\u2009": " ", "\u202f": " ", "\0": " ",
})  # fmt: skip
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_UNIT = r"\\(?:text|mathrm|textrm|mbox|operatorname)\s*\{[^{}]*\}(?:\s*\^\s*\{?-?\d\}?)?"
_RULES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\\$|\$|\\displaystyle\b|\\!|\\(?:left|right|[bB]igg?[lr]?)(?![A-Za-z])", ""),
        (r"(?<!\\)\\[,;: ]|~|\\q?quad\b", " "),
        (r"\\%|\bpercent\b", "%"),
        (r"√\s*(\d+|[A-Za-z])", r"\\sqrt{\1}"),
        (r"√\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\^\s*\{\s*\\circ\s*\}|\^\s*\\circ|\\degree\b|\bdegrees?\b", ""),
        (r"\*\*", "^"),
        (r"\^\s*\(([^()]*)\)", r"^{\1}"),
        (r"\^\s*(-?\d+)", r"^{\1}"),
        (r"(?<=\d)\{,\}(?=\d{3})", ""),
        (r"(?<![\w.])(\d+(?:\.\d+)?|\.\d+)[eE]([+-]?\d+)(?!\w)", r"\1\\times 10^{\2}"),
        (r"(?<=\d) +(\d+)\s*/\s*(\d+)", r"\\frac{\1}{\2}"),
        (r"(?<![\\A-Za-z])(pi|sqrt|sin|cos|tan|ln|log|arcsin|arccos|arctan)(?![A-Za-z])", r"\\\1 "),
        (r"\\sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"\be\^", "e^"),
    )
]
_SPACED = re.compile(r"(?<![\d.])\d{1,3}(?: \d{3})+(?!\d)")
_COMMAS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?!\d|,\d)")
_PLAIN = re.compile(r"(-?)(\d+)(?:(\.\d+)|/(0*[1-9]\d*))?")
_REPEATING = re.compile(r"(\d*)\.(\d*)\\(?:overline|bar)\s*\{(\d+)\}")
_WITH_UNIT = re.compile(rf"^(.*[\d}})%])\s*(?:{_UNIT})\s*\.?$", re.DOTALL)
_WITH_WORDS = re.compile(r"^([^A-Za-z]*(?:\\[a-z]+[^A-Za-z]*)*[\d})])\s+[A-Za-z]{2}.*$", re.DOTALL)


def latex(piece: str) -> str:
    """The same in LaTeX that latex2sympy parses completely."""
    text = re.sub(r"[⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+", lambda found: f"^{{{found[0].translate(_RAISED)}}}", piece).translate(_SIGNS)
    for pattern, replacement in _RULES:
        text = pattern.sub(replacement, text)
    text = _SPACED.sub(lambda found: found[0].replace(" ", ""), text)
    text = _REPEATING.sub(_fraction, text)
    return text.strip().removesuffix(".").strip()


def _fraction(found: re.Match[str]) -> str:
    whole, start, period = found.groups()
    value = Fraction(int(period), 10 ** len(start) * (10 ** len(period) - 1)) + Fraction(f"{whole or 0}.{start or 0}")
    return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"


@lru_cache(maxsize=4096)
def interpretations(piece: str) -> tuple[Interpretation, ...]:
    """All interpretations of a piece: with and without a possible unit; commas between thousands or members."""
    text = latex(piece)
    texts = [text]
    for pattern in (_WITH_UNIT, _WITH_WORDS):
        if match := pattern.match(text):
            texts.append(match[1].strip())
    found = []
    for one in dict.fromkeys(texts):
        value, percent = (one[:-1].strip(), True) if one.endswith("%") else (one, False)
        for form in _by_commas(value):
            read = _read(form)
            if read is not None:
                found.append(Interpretation(read, percent, _brackets(form)))
    return tuple(found)


def _by_commas(text: str) -> list[str]:
    joined = _COMMAS.sub(lambda found: found[0].replace(",", ""), text)
    members = _COMMAS.sub(lambda found: found[0].replace(",", ", "), text)
    if joined == text:
        return [text]
    inside = text[:1] in "([" or text.startswith("\\{")
    return [members] if inside and "," not in joined else [joined, members]


def _brackets(text: str) -> str:
    pairs = {"(": ")", "[": "]"}
    if "," not in text:
        return ""
    if text.startswith("\\{") and text.endswith("\\}"):
        return "{"
    if text[:1] in pairs and text[-1:] in (")", "]"):
        depth = 0
        for place, sign in enumerate(text):
            depth += (sign in "([") - (sign in ")]")
            if depth == 0:
                return "(" if place == len(text) - 1 else ""
    return ""


def _read(text: str) -> Any:
    """The parsed expression; None if it cannot be parsed completely."""
    if match := _PLAIN.fullmatch(text):  # most answers; the grammar takes milliseconds
        sign, whole, decimals, below = match.groups()
        number = sympy.Float(f"{whole}{decimals}") if decimals else sympy.Rational(int(whole), int(below or 1))
        return -number if sign else number
    found = parse(f"${text}$", [LatexExtractionConfig()], parsing_timeout=None) if text else []  # type: ignore[arg-type]
    return found[0] if len(found) == 2 else None  # the expression, and the text that it was read from


def extracted(text: str) -> tuple[Interpretation, ...]:
    """What math-verify finds in a text that announces no answer."""
    found = parse(text, parsing_timeout=None)  # type: ignore[arg-type]
    return tuple(Interpretation(one, False, "") for one in found if not isinstance(one, str))


# ---------------------------------------------------------------- comparing


def same(truth: Interpretation, answer: Interpretation) -> bool:
    """Whether an answer is equivalent to the truth."""
    if truth.brackets and answer.brackets and truth.brackets != answer.brackets:
        return False
    if equal(truth.value, answer.value):
        return True
    return truth.percent != answer.percent and equal(_share(truth), _share(answer))


def _share(one: Interpretation) -> Any:
    return one.value / 100 if one.percent and isinstance(one.value, sympy.Expr) else one.value


def equal(truth: Any, answer: Any) -> bool:
    """Compares like math-verify, except for numbers, and for equations if a value is asked for."""
    chain: Any = answer
    first = chain._unsorted_args[0] if isinstance(chain, And) else chain  # type: ignore[attr-defined]
    if isinstance(first, sympy.Eq) and not isinstance(truth, (sympy.Eq, And)):
        left = first.lhs
        if left.free_symbols and not is_expr_of_only_symbols(left) and not isinstance(left, AppliedUndef):
            return False
    if all(isinstance(one, sympy.Expr) and one.is_number and one.is_finite for one in (truth, answer)):
        return _equal_numbers(truth, answer)
    return verify(truth, answer, allow_set_relation_comp=True, timeout_seconds=None)


def _equal_numbers(truth: Any, answer: Any) -> bool:
    exact = _exact(truth)
    apart = exact - _exact(answer)
    if truth.has(sympy.Float) or answer.has(sympy.Float):
        gap, size = (abs(one if one.is_Rational else sympy.N(one, 30)) for one in (apart, exact))
        return bool(gap == 0 or gap < TOLERANCE * min(1, 2 * size))
    return bool(apart == 0 or (verify(truth, answer, timeout_seconds=None) and apart.equals(0) is not False))


def _exact(number: sympy.Expr) -> Any:
    """Decimals as exact fractions."""
    done = number.doit()
    return done.xreplace({decimal: sympy.Rational(str(decimal)) for decimal in done.atoms(sympy.Float)})
