"""Where the answer stands in a rationale."""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from trimtab.rewards.final import number, number_places, same, stated_at
from trimtab.rewards.options import OptionsError, correct, lettered

Place = tuple[int, int]
_CONCLUDES = re.compile(r"\b(?:therefore|thus|hence|so)\b|因此|所以|故", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|(?<=[。！？；])|\n")
_AROUND = "$€£¥% \t\n"
"""of a label that is a number otherwise"""


def label_of(answer: Any) -> str:
    """The label of a row as text: what stands behind "####" in GSM8K's form, without spaces around; a number without
    the sign of a currency or of per cent."""
    label = str(answer).rpartition("####")[2].strip()
    bare = label.strip(_AROUND)
    return bare if number_places(bare) == [(0, len(bare))] else label


def place_of_answer(text: str, answer: Any, options: Any = None) -> Place | None:
    """The characters [start, end) of the answer in a rationale; None if its final answer is not the label.

    A number is found by its value, however it is written (7, 7.0, 1,000); a letter alone, as a capital or in brackets;
    other texts in any case, and not inside a word. It is looked for where the answer is stated ("answer is", "answer:",
    "####", a box), else in the last sentence with "therefore", "so", "thus" or "hence", else in the last sentence: the
    first place in the first sentence of a statement, and the last one in others.

    Args:
        answer: the label, a text or a number; of options a letter, an index or a text.
        options: of a multiple-choice row, as `trimtab.rewards.options.lettered` takes them.
    """
    forms = _forms(answer, options)
    if (stated := stated_at(text)) is not None:
        start, end = stated
        found = _first(text, start, _first_sentence(text, start, end), forms)
        if found is None and any(same(text[start:end], form) for form in forms):
            return _stripped(text, start, end)
        return found
    sentences = list(_sentences(text))
    last = [one for one in sentences if _CONCLUDES.search(text[slice(*one)])] or sentences
    if not last:
        return None
    for form in forms:
        if places := list(_places(text, *last[-1], form)):
            return places[-1]
    return None


def _forms(answer: Any, options: Any) -> Sequence[str]:
    """The texts that stand for the answer, the likeliest first."""
    if not options:
        return [label_of(answer)]
    try:
        texts = lettered(options)
        letters = correct(texts, answer)
    except OptionsError:
        return [label_of(answer)]
    return [*letters, *(texts[letter] for letter in letters)] if len(letters) == 1 else []


def _places(text: str, start: int, end: int, form: str) -> Iterator[Place]:
    """Where a form of the answer stands within [start, end)."""
    value = number(form) if number_places(form) == [(0, len(form))] else None
    if value is not None:
        for a, b in number_places(text[start:end]):
            if number(text[start + a : start + b]) == value:
                yield start + a, start + b
        return
    if not form:
        return
    edges = (r"(?<!\w)", r"(?!\w)") if form.isascii() and form[0].isalnum() and form[-1].isalnum() else ("", "")
    alone = len(form) == 1 and form.isalpha() and form.isascii()
    pattern = rf"(?<!\w){form.upper()}(?!\w)|(?<=[(\[]){form.lower()}(?=[)\]])" if alone else re.escape(form)
    ways = re.compile(pattern if alone else f"{edges[0]}{pattern}{edges[1]}", 0 if alone else re.IGNORECASE)
    for found in ways.finditer(text, start, end):
        yield found.span()


def _first(text: str, start: int, end: int, forms: Sequence[str]) -> Place | None:
    return next((place for form in forms for place in _places(text, start, end, form)), None)


def _first_sentence(text: str, start: int, end: int) -> int:
    begun = start + len(text[start:end]) - len(text[start:end].lstrip())
    stop = _SENTENCE_END.search(text, begun, end)
    return stop.start() if stop else end


def _sentences(text: str) -> Iterator[Place]:
    at = 0
    for stop in [*_SENTENCE_END.finditer(text), None]:
        end = stop.start() if stop else len(text)
        if text[at:end].strip():
            yield at, end
        at = stop.end() if stop else end


def _stripped(text: str, start: int, end: int) -> Place | None:
    piece = text[start:end]
    first = len(piece) - len(piece.lstrip())
    return (start + first, start + len(piece.rstrip())) if piece.strip() else None
