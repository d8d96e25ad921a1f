"""The final answer of a text, and whether it is correct."""

import re
from collections.abc import Iterator
from fractions import Fraction

_BOXED = re.compile(r"\\f?boxed\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_STATED = re.compile(
    r"\banswer\*{0,2}\s*(?:is\b|would be\b|should be\b|must be\b|:|：|=)[\s:：*]*(?P<stated>[^\n]+)"
    r"|####[ \t]*(?P<marked>[^\n]+)|<answer>(?P<tagged>.*?)</answer>|答案\s*(?:是|为|:|：)[\s:：*]*(?P<zh>[^\n]+)",
    re.IGNORECASE | re.DOTALL,
)
_NUMBER = re.compile(r"[-−]?(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?(?:\s*/\s*\d+)?|[-−]?\.\d+")
_SENTENCE = re.compile(r"[.!?](?=\s|$)|[。！？；]")
_BECAUSE = re.compile(
    r"\s*[,，;]?\s*(?:\b(?:and|but)\s+)?\b(?:since|because|as|so|which|where|but|not|rather than|given that)\b"
    r"|\s+[-–—]\s+|\s*[,，]?\s*(?:因为|由于)",
    re.IGNORECASE,
)
_ASIDE = re.compile(r"(?<=\S)\s+\((?=[^()]*(?:=|[A-Za-z]{2}))[^()]*\)\s*$")
_POWER = re.compile(r"(?<=[A-Za-z}])\s*\^\s*\{?-?\d+\}?")
_BEFORE_MORE = re.compile(r"\b(?:on|in|at|for|after|before|per|by|from|with|when|if|until|to|over)\b", re.IGNORECASE)
_EMPHASIS = re.compile(r"(?<![\w)])\*\*|\*\*(?![\w(])|__|`")
"""bold and code, and no power"""
_UNITS = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|operatorname)\s*\{([^{}]*)\}|\\[,;:! ()\[\]]|\$")


def number(text: str) -> Fraction | None:
    """The last number of a text as an exact value: "1,200", "-3.5", "7/4"; None without one, or if divided by 0."""
    found = _NUMBER.findall(text)
    return _value(found[-1]) if found else None


def number_places(text: str) -> list[tuple[int, int]]:
    """Where the numbers of a text stand, as `number` reads them."""
    return [found.span() for found in _NUMBER.finditer(text)]


def _value(written: str) -> Fraction | None:
    upper, _, lower = written.replace(",", "").replace("−", "-").replace(" ", "").partition("/")
    if lower and int(lower) == 0:
        return None
    return Fraction(upper) / (int(lower) if lower else 1)


def clause(piece: str) -> str:
    """The answer in what follows "the answer is", without the next sentence, a reason or an aside.

    "8. He bought them on day 3." is 8, as are "8, since 5 + 3 = 8" and "8 (5 + 3 = 8)".
    """
    text = _EMPHASIS.sub("", piece).strip()
    stop = _SENTENCE.search(text)
    text = text[: stop.start()] if stop else text
    reason = _BECAUSE.search(text)
    text = text[: reason.start()] if reason and reason.start() else text
    return _ASIDE.sub("", text).strip()


def stated_at(text: str) -> tuple[int, int] | None:
    r"""Where the explicitly stated answer stands: in the last \boxed{...}, else behind the last "answer is", "answer:",
    "####" or "答案是" on its line, or between <answer> tags; None if there is none of these.

    A negated statement ("the answer is not ...") does not count.
    """
    places = [found.span(1) for found in _BOXED.finditer(text)]
    if not places:
        places = [one for one in _statements(text) if not re.match(r"\s*not\b", text[slice(*one)], re.IGNORECASE)]
    return places[-1] if places else None


def _statements(text: str) -> Iterator[tuple[int, int]]:
    """Where each statement stands, from its beginning to the end of its line; a line may hold several."""
    start = 0
    while found := _STATED.search(text, start):
        group = next(g for g in range(1, 5) if found[g] is not None)
        yield found.span(group)
        start = found.start(group)


def stated(text: str) -> str | None:
    """The explicitly stated answer, see `stated_at`."""
    place = stated_at(text)
    return None if place is None else text[slice(*place)].strip()


def final_answer(text: str) -> str | None:
    """The final answer of a text: the stated one, without what follows, else its last number; None without either."""
    found = stated(text)
    if found is not None:
        return clause(found).strip("*$ ")
    numbers = _NUMBER.findall(text)
    return numbers[-1] if numbers else None


def is_correct(text: str, truth: str) -> bool:
    """Whether a text's stated answer is the truth; if it states none, whether the whole text or its last number is.

    A stated number counts whatever unit, reason or sentence follows; two numbers, as in "3 or 4", do not count.
    """
    found = stated(text)
    if found is None:
        denied = _STATED.search(text) is not None
        return _plain(text) == _plain(truth) or (not denied and _is_number(truth) and number(text) == number(truth))
    return same(found, truth)


def same(answer: str | None, truth: str) -> bool:
    """Equal as numbers if the truth is one, else as texts ignoring case, spaces, quotes and a full stop.

    A number may be surrounded by words ("540 litres"); a text may not, but a sentence, a reason or an aside may follow.
    """
    if answer is None:
        return False
    if _plain(answer) == _plain(truth) or _plain(clause(answer)) == _plain(truth):
        return True
    return _is_number(truth) and _one_number(clause(answer)) == number(truth)


def _is_number(truth: str) -> bool:
    return _NUMBER.fullmatch(truth.strip()) is not None and number(truth) is not None


def _one_number(text: str) -> Fraction | None:
    """The number in a short text; of an equation its right side; None if there are several."""
    text = _POWER.sub("", _UNITS.sub(r" \1 ", text))
    for piece in (text.rpartition("=")[2], text):
        found = list(_NUMBER.finditer(piece))
        if len(found) > 1 and _BEFORE_MORE.search(piece[found[0].end() : found[1].start()]):
            found = found[:1]
        if len(found) == 1:
            after = piece[found[0].end() : found[0].end() + 1]
            return None if after in ("^", ":") else _value(found[0][0])
    return None


def _plain(text: str) -> str:
    bare = _UNITS.sub(r"\1", _EMPHASIS.sub("", text))
    return " ".join(bare.casefold().split()).strip("\"'“”‘’").rstrip(".。").strip("\"'“”‘’")
