"""The final answer of a text, and whether two of them are the same."""

import re
from fractions import Fraction

_BOXED = re.compile(r"\\boxed\s*\{((?:[^{}]|\{[^{}]*\})*)\}")
_SAID = re.compile(r"\banswer\s*(?:is|:|=)\s*([^\n]+)", re.IGNORECASE)
_NUMBER = re.compile(r"[-−]?\d[\d,]*(?:\.\d+)?(?:\s*/\s*\d+)?")


def number(text: str) -> Fraction | None:
    """The last number of a text as an exact value: "1,200", "-3.5", "7/4"; None without one, or over 0."""
    found = _NUMBER.findall(text)
    if not found:
        return None
    upper, _, lower = found[-1].replace(",", "").replace("−", "-").replace(" ", "").partition("/")
    if lower and int(lower) == 0:
        return None
    return Fraction(upper) / (int(lower) if lower else 1)


def final_answer(text: str) -> str | None:
    r"""What a text settles on: the last \boxed{...}, else what follows the last "answer is" on its line, else the last
    number; None if there is none of these."""
    boxed, said = _BOXED.findall(text), _SAID.findall(text)
    if boxed:
        return boxed[-1].strip()
    if said:
        return said[-1].strip().rstrip(".").strip("*$ ")
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def same(answer: str | None, truth: str) -> bool:
    """Equal as numbers where the truth is one, else as texts without case, spaces and a full stop.

    A number may stand among words ("540 litres"); a text may not.
    """
    if answer is None:
        return False
    if _NUMBER.fullmatch(truth.strip()):
        return number(answer) == number(truth)
    plain = [" ".join(text.casefold().split()).rstrip(".") for text in (answer, truth)]
    return plain[0] == plain[1]
