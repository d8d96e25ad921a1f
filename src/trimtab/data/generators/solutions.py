"""Solutions of small tasks, each right and with one planted error, so that the label of every token is known.

A row is made from a task (`data/problems.py`), an error and two writings: the right values and those that follow
from the error are written down line by line, each time with harmless edits of its own. On average only the error is
to tell the two apart. So repeated terms are as frequent as dropped ones and + in the place of - as - in that of +; for
other errors a coin, thrown before one is sought, says whether the final answer grows or shrinks; and wrong results have
the denominators of the right ones.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache
from random import Random
from typing import Any, Literal, NamedTuple, get_args

from trimtab.data.generators.problems import NAMES, SMALL, TEMPLATES, THINGS, Step, Template

Form = Literal["pairs", "steps", "answers"]
Level = Literal["usual", "small"]
Value = int | Fraction
LARGEST, LARGEST_SMALL = 999, 99
"""of all values, at each level"""
FURTHEST = 3
"""the factor between the wrong and the right final answer at most"""
TRIES = 4
"""errors that are tried on one task"""
FACTORS = {7: (5, 6, 10, 12), 12: (6, 10, 20, 24), 24: (12, 20, 30, 60), 60: (30, 50, 100), 2: (3, 4)}
"""known factors, and what is taken for them"""
REMARKS = ("There is nothing to round.", "The terms of a sum have no order.", "The steps go in order.")
EDITS = ("reworded", "tight", "swapped", "remark")
REWORDED, TIGHT, SWAPPED, REMARK = 0.25, 0.15, 0.3, 0.05
"""shares of the lines with each edit; of those whose first two operands may change places for the third"""


class Line(NamedTuple):
    operands: tuple[int, ...]
    """places in the list of all values"""
    numbers: tuple[Value, ...]
    """what is written for them"""
    operators: tuple[str, ...]
    result: Value


class Slot(NamedTuple):
    """A token group of a line: "number" and "operator" count from 0, "result" has 0."""

    part: Literal["number", "operator", "result"]
    place: int = 0


class Planted(NamedTuple):
    step: int
    slots: tuple[Slot, ...]
    """which are wrong in its line"""


class WrittenSolution(NamedTuple):
    lines: list[str]
    edits: list[tuple[str, int]]
    """kind and line"""
    spans: list[tuple[int, Slot, int, int]]
    """line, slot and character offsets in the text, in their order"""


def planted_errors(
    split: str, rows: int = 1000, seed: int = 0, form: Form = "pairs", level: Level = "usual"
) -> Iterator[dict[str, Any]]:
    """Solutions of small tasks line by line, right ones and ones with a planted error whose tokens are known.

    The kinds of errors are `KINDS`, equally frequent. What follows from an error is computed rightly from the wrong
    value, and the final answer is wrong. An answer is the lines of its steps joined by "\\n"; the last one is
    "The answer is N.". The numbers of a task decide its split (one task in ten is held out), so no held-out task is
    ever a training row, in whatever wording and whatever the seed. Row i tells of the same problem in each form.

    Args:
        split: train or heldout.
        rows: how many; the first ones do not depend on it. Rows may repeat among themselves.
        seed: of all draws.
        form: "pairs": `prompt`, `chosen` and `rejected` as messages; `error`: its `kind`, its `step` (from 0) and the
            characters `start` to `end` of the rejected answer that are wrong (a number, an operator, both for a
            repeated term, the result where a term was dropped); `wrong`: [start, end] of each later number that is
            not that of the right solution; `answer`: the right one; `edits`: harmless changes, each with `answer`
            ("chosen" or "rejected"), `kind` and `step`.
            "steps": `prompt`, `completions`, `labels` (false from the error on), `first_error` (-1 if there is none),
            `answer`, `kind` (or None). One row of each two is right.
            "answers": `prompt` and `completion` as messages, `label`, `error` as above (or None), `answer`. One row
            of each two is right.
        level: "usual": tasks in words, expressions and equations, results up to 999, of all `KINDS`. "small": short
            expressions, with numbers up to 12 and results below 100, in lines such as "7+5=12." of which the last one
            is "N."; swapped operands are the only edit. There are no known factors and no equations, so no errors of
            the kinds "conversion" and "inverse".

    Raises:
        ValueError: for another split, form or level.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"splits are train and heldout, not {split!r}")
    if form not in get_args(Form):
        raise ValueError(f"forms are {', '.join(get_args(Form))}, not {form!r}")
    if level not in get_args(Level):
        raise ValueError(f"levels are {', '.join(get_args(Level))}, not {level!r}")
    templates = SMALL if level == "small" else TEMPLATES
    return _rows(split == "heldout", rows, Random(f"planted_errors-{split}-{seed}"), form, templates)


def _rows(
    heldout: bool, rows: int, drawn: Random, form: Form, templates: tuple[Template, ...]
) -> Iterator[dict[str, Any]]:
    right = False
    kinds = [kind for kind, variants in KINDS.items() if all(_open_to(variant, templates) for variant in variants)]
    for row in range(rows):
        right = drawn.random() < 0.5 if row % 2 == 0 else not right  # one of two
        kind = drawn.choice(kinds)
        template, numbers, truth, lines, planted = _problem(drawn, KINDS[kind], heldout, templates)
        words = _words(drawn)
        text = drawn.choice(template.wordings).format(**words, **_letters(numbers))
        prompt = [{"role": "user", "content": text[0].upper() + text[1:]}]
        chosen, rejected = (_write(drawn, template, numbers, words, side) for side in (truth, lines))
        answer = str(truth[-1].result)
        known = _values(template, numbers, truth)
        (start, *_), (*_, end) = zip(*(s[2:] for s in rejected.spans if s[0] == planted.step and s[1] in planted.slots))
        error = {"kind": kind, "step": planted.step, "start": start, "end": end}
        completions = (chosen if right else rejected).lines
        if form == "pairs":
            yield {
                "prompt": prompt,
                "chosen": _message(chosen.lines),
                "rejected": _message(rejected.lines),
                "error": error,
                "wrong": _consequences(rejected, lines, known, template.first_result, end),
                "answer": answer,
                "edits": [
                    {"answer": side, "kind": edit, "step": step}
                    for side, written in (("chosen", chosen), ("rejected", rejected))
                    for edit, step in written.edits
                ],
            }
        elif form == "steps":
            yield {
                "prompt": prompt,
                "completions": completions,
                "labels": [right or step < planted.step for step in range(len(completions))],
                "first_error": -1 if right else planted.step,
                "answer": answer,
                "kind": None if right else kind,
            }
        else:
            yield {
                "prompt": prompt,
                "completion": _message(completions),
                "label": right,
                "error": None if right else error,
                "answer": answer,
            }


def _message(lines: Sequence[str]) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": "\n".join(lines)}]


def _letters(numbers: Sequence[int]) -> dict[str, int]:
    return dict(zip("abcdefgh", numbers))


def _words(drawn: Random) -> dict[str, str]:
    (who, friend), (thing, other) = drawn.sample(NAMES, 2), drawn.sample(THINGS, 2)
    return {"who": who, "friend": friend, "thing": thing, "other": other}


# ---------------------------------------------------------------- solving


def solve(template: Template, numbers: Sequence[int], begun: Sequence[Line] = ()) -> list[Line] | None:
    """The lines of a solution, the last of which gives the answer; None if the task or what is begun is not good.

    Good are numbers of 2 or more and whole results from 1 to the largest; the root of an equation may be a fraction. In
    a task no number comes twice, so each has one origin.
    """
    values = _values(template, numbers, ())
    if min(numbers) < 2:
        return None
    lines, largest = list(begun), LARGEST_SMALL if template.small else LARGEST
    for index, step in enumerate(template.steps):
        if index == len(lines):
            lines.append(_line(step, values))
        result = lines[index].result
        is_root = template.algebra and index >= len(template.steps) - 2
        if not 1 <= result <= largest or (result.denominator > 1 and not is_root):
            return None
        values.append(result)
    if not begun and len(set(values)) < len(values) - 1:  # the last line repeats the last result
        return None
    return lines


def _line(step: Step, values: Sequence[Value]) -> Line:
    numbers = tuple(values[place] for place in step.operands)
    return Line(step.operands, numbers, step.operators, _total(numbers, step.operators))


def _total(numbers: Sequence[Value], operators: Sequence[str]) -> Value:
    total = numbers[0]
    for operator, number in zip(operators, numbers[1:]):
        if operator == "+":
            total += number
        elif operator == "-":
            total -= number
        elif operator == "*":
            total *= number
        else:
            total = total // number if total % number == 0 else Fraction(total) / number
    return total


def _values(template: Template, numbers: Sequence[int], lines: Sequence[Line]) -> list[Value]:
    return [*numbers, *template.factors, *(line.result for line in lines)]


def _problem(
    drawn: Random, variants: Sequence["Variant"], heldout: bool, templates: tuple[Template, ...]
) -> tuple[Template, tuple[int, ...], list[Line], list[Line], Planted]:
    """A task of the split with its numbers, the right lines, the wrong ones, and the error that makes them wrong."""
    variant = drawn.choice(variants)
    grows = drawn.random() < 0.5 if len(variants) == 1 else None  # several mirror each other
    while True:
        template = drawn.choice(_open_to(variant, templates))
        numbers, truth = _task(drawn, template, heldout)
        for _ in range(TRIES):
            step = drawn.choice(_where(variant, template))
            before = _values(template, numbers, truth[:step])
            found = variant.change(drawn, template, truth[step], before)
            lines = found and solve(template, numbers, [*truth[:step], found[0]])
            if found and lines and _passes(lines, truth, grows):
                return template, numbers, truth, lines, Planted(step, found[1])


def _task(drawn: Random, template: Template, heldout: bool) -> tuple[tuple[int, ...], list[Line]]:
    while True:
        numbers = template.draw(drawn)
        if (zlib.crc32(f"{template.name} {numbers}".encode()) % 10 == 0) == heldout and (
            truth := solve(template, numbers)
        ):
            return numbers, truth


def _passes(lines: Sequence[Line], truth: Sequence[Line], grows: bool | None) -> bool:
    right, wrong = truth[-1].result, lines[-1].result
    return (
        wrong != right
        and grows in (None, wrong > right)
        and max(wrong, right) <= FURTHEST * min(wrong, right)
        and all(line.result.denominator == true.result.denominator for line, true in zip(lines, truth))
    )


# ---------------------------------------------------------------- errors

Change = Callable[[Random, Template, Line, Sequence[Value]], tuple[Line, tuple[Slot, ...]] | None]


class Variant(NamedTuple):
    """A kind of error, or one way to make it."""

    strikes: Callable[[Template, Step], bool]
    change: Change
    """of the right line, with all values before it: another line and what is wrong in it; None if it did not work"""


@cache
def _open_to(variant: Variant, templates: tuple[Template, ...]) -> tuple[Template, ...]:
    return tuple(template for template in templates if _where(variant, template))


@cache
def _where(variant: Variant, template: Template) -> tuple[int, ...]:
    return tuple(index for index, step in enumerate(template.steps) if variant.strikes(template, step))


def _misprint(drawn: Random, number: Value) -> Value:
    """A number with one digit replaced or two neighbours exchanged; a fraction one unit further."""
    if isinstance(number, Fraction):
        return number + drawn.choice((-1, 1))
    digits = list(str(number))
    place = drawn.randrange(len(digits))
    if place and drawn.random() < 0.3:
        digits[place - 1], digits[place] = digits[place], digits[place - 1]
    else:
        digits[place] = drawn.choice("0123456789")
    return number if digits[0] == "0" else int("".join(digits))


def _slip(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
    result = _misprint(drawn, line.result)
    return None if abs(result - line.result) == 10 else (line._replace(result=result), (Slot("result"),))


def _carry(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
    return line._replace(result=line.result + drawn.choice((-10, 10))), (Slot("result"),)


def _exchange(old: str, new: str, *, algebra: bool) -> Variant:
    """Another operator in the place of one; operators of a line stay of one rank."""

    def strikes(template: Template, step: Step) -> bool:
        return template.algebra == algebra and old in step.operators and (len(step.operators) == 1 or new in "+-")

    def change(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
        place = drawn.choice([i for i, operator in enumerate(line.operators) if operator == old])
        operators = (*line.operators[:place], new, *line.operators[place + 1 :])
        changed = line._replace(operators=operators, result=_total(line.numbers, operators))
        return changed, (Slot("operator", place),)

    return Variant(strikes, change)


def _is_given(template: Template, place: int) -> bool:
    return place < template.num_given


def _is_factor(template: Template, place: int) -> bool:
    return template.num_given <= place < template.first_result


def _is_result(template: Template, place: int) -> bool:
    return place >= template.first_result


def _replace(origin: Callable[[Template, int], bool]) -> Variant:
    """Another number in the place of one from this origin: a misprint, or another number from there."""

    def strikes(template: Template, step: Step) -> bool:
        return any(origin(template, place) for place in step.operands)

    def change(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
        index = drawn.choice([i for i, place in enumerate(line.operands) if origin(template, place)])
        number = line.numbers[index]
        others = [value for place, value in enumerate(values) if origin(template, place)]
        if origin is _is_factor:
            new = drawn.choice(FACTORS[int(number)])
        else:
            new = drawn.choice(others) if drawn.random() < 0.3 else _misprint(drawn, number)
        if new < 2:
            return None
        numbers = (*line.numbers[:index], new, *line.numbers[index + 1 :])
        return line._replace(numbers=numbers, result=_total(numbers, line.operators)), (Slot("number", index),)

    return Variant(strikes, change)


def _drop(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
    left_out = drawn.randrange(line.operators[0] == "-", len(line.operands))
    operands = line.operands[:left_out] + line.operands[left_out + 1 :]
    numbers = line.numbers[:left_out] + line.numbers[left_out + 1 :]
    operators = line.operators[1:]  # they are all the same
    return Line(operands, numbers, operators, _total(numbers, operators)), (Slot("result"),)


def _repeat(drawn: Random, template: Template, line: Line, values: Sequence[Value]):
    (operator,) = line.operators
    twice = drawn.randrange(2)
    operands, numbers = (*line.operands, line.operands[twice]), (*line.numbers, line.numbers[twice])
    operators = (operator, operator)
    return Line(operands, numbers, operators, _total(numbers, operators)), (Slot("operator", 1), Slot("number", 2))


def _computes(template: Template, step: Step) -> bool:
    return bool(step.operators)


def _is_sum(*operators: str) -> Callable[[Template, Step], bool]:
    return lambda _, step: step.operators == operators


KINDS: dict[str, tuple[Variant, ...]] = {
    "slip": (Variant(_computes, _slip),),
    "carry": (Variant(_computes, _carry),),
    "operation": tuple(_exchange(old, new, algebra=False) for old, new in ("+-", "-+", "+-", "-+", "*+", "+*")),
    "inverse": tuple(_exchange(old, new, algebra=True) for old, new in ("+-", "-+", "+-", "-+", "*+", "/-")),
    "misread": (_replace(_is_given),),
    "copy": (_replace(_is_result),),
    "conversion": (_replace(_is_factor),),
    "dropped": (Variant(_is_sum("+", "+"), _drop), Variant(_is_sum("-", "-"), _drop)),
    "repeated": (Variant(_is_sum("+"), _repeat), Variant(_is_sum("-"), _repeat)),
}
"""wrong result of an operation; a result off by ten; another operation; in an equation, the operation in place of its
inverse; a number of the task misread; an earlier result copied wrongly; a wrong known factor; a term left out; a
term counted twice"""


# ---------------------------------------------------------------- writing


def _write(
    drawn: Random, template: Template, numbers: Sequence[int], words: dict[str, str], lines: Sequence[Line]
) -> WrittenSolution:
    """Lines of text with their edits. Draws do not depend on whether a line is wrong."""
    written = WrittenSolution([], [], [])
    offset, named = 0, words | _letters(numbers)
    for index, (step, line) in enumerate(zip(template.steps, lines)):
        reworded, tight, swapped, remark = edited = _edits(drawn, line, template.small)
        lead = step.lead.format(**named)
        if line.operators:
            tight = tight or template.small
            label = step.label.format(**named).capitalize() if reworded else f"Step {index + 1}"
            lead = "" if template.small else f"{label}: {lead.replace(' ', '') if tight else lead}"
        order = (1, 0, *range(2, len(line.operands))) if swapped else range(len(line.operands))
        text = lead
        for slot, word in _parts(line, order):
            if slot.part != "number" and not tight:
                text += " "
            text += "= "[: 2 - tight] if slot.part == "result" else ""
            written.spans.append((index, slot, offset + len(text), offset + len(text) + len(word)))
            text += word + (" " if slot.part == "operator" and not tight else "")
        text += f". {drawn.choice(REMARKS)}" if remark else "."
        written.lines.append(text)
        offset += len(text) + 1
        written.edits.extend((kind, index) for kind, done in zip(EDITS, edited) if done)
    return written


def _edits(drawn: Random, line: Line, small: bool) -> tuple[bool, bool, bool, bool]:
    """Whether each of EDITS is made in a line: none in the last one, and of small tasks operands swapped alone."""
    reworded, tight, swapped, remark = [drawn.random() < share for share in (REWORDED, TIGHT, SWAPPED, REMARK)]
    if not line.operators:
        return False, False, False, False
    swapped = swapped and line.operators[0] in "+*"
    return (False, False, swapped, False) if small else (reworded, tight, swapped, remark)


def _parts(line: Line, order: Sequence[int]) -> Iterator[tuple[Slot, str]]:
    """The words of a line in the order in which they are written."""
    for place, index in enumerate(order):
        if place:
            yield Slot("operator", place - 1), line.operators[place - 1]
        yield Slot("number", index), str(line.numbers[index])
    if line.operators:
        yield Slot("result"), str(line.result)


def _consequences(
    written: WrittenSolution, lines: Sequence[Line], truth: Sequence[Value], first_result: int, after: int
) -> list[list[int]]:
    """The later numbers that differ from those of the right solution."""

    def differs(index: int, slot: Slot) -> bool:
        line = lines[index]
        if slot.part == "result":
            return line.result != truth[first_result + index]
        return slot.part == "number" and line.numbers[slot.place] != truth[line.operands[slot.place]]

    return [[start, end] for index, slot, start, end in written.spans if start >= after and differs(index, slot)]
