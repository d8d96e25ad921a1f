"""Solutions of small tasks, each correct and with one planted error, so that the label of every token is known.

The correct values and those that follow from the error are written down line by line, each time with harmless edits of
its own. On average only the error is to tell the two apart. So repeated terms are as frequent as dropped ones and + in
the place of - as - in that of +; for other errors a coin, thrown before one is sought, says whether the final answer
grows or shrinks; and incorrect results have the denominators of the correct ones.
"""

import zlib
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any, Literal, NamedTuple, get_args

from trimtab.data.generators.problem_templates import NAMES, SMALL, TEMPLATES, THINGS
from trimtab.data.generators.problems import Template
from trimtab.data.generators.slips import KINDS, Variant, open_to, places_of
from trimtab.data.generators.solving import Line, Slot, Value, solve, values_of

Form = Literal["pairs", "steps", "answers"]
Level = Literal["usual", "small"]
FURTHEST = 3
"""the factor between the wrong and the right final answer at most"""
TRIES = 4
"""errors that are tried on one task"""
REMARKS = ("There is nothing to round.", "The terms of a sum have no order.", "The steps go in order.")
EDITS = ("reworded", "tight", "swapped", "remark")
REWORDED, TIGHT, SWAPPED, REMARK = 0.25, 0.15, 0.3, 0.05
"""shares of the lines with each edit; of those whose first two operands may change places for the third"""


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
    check_split(split)
    if form not in get_args(Form):
        raise ValueError(f"forms are {', '.join(get_args(Form))}, not {form!r}")
    if level not in get_args(Level):
        raise ValueError(f"levels are {', '.join(get_args(Level))}, not {level!r}")
    templates = SMALL if level == "small" else TEMPLATES
    return _rows(split == "heldout", rows, Random(f"planted_errors-{split}-{seed}"), form, templates)


def check_split(split: str) -> None:
    if split not in ("train", "heldout"):
        raise ValueError(f"splits are train and heldout, not {split!r}")


def _rows(
    heldout: bool, rows: int, drawn: Random, form: Form, templates: tuple[Template, ...]
) -> Iterator[dict[str, Any]]:
    right = False
    kinds = [kind for kind, variants in KINDS.items() if all(open_to(variant, templates) for variant in variants)]
    for row in range(rows):
        right = drawn.random() < 0.5 if row % 2 == 0 else not right  # one of two
        kind = drawn.choice(kinds)
        template, numbers, truth, lines, planted = _problem(drawn, KINDS[kind], heldout, templates)
        words = _words(drawn)
        text = drawn.choice(template.wordings).format(**words, **_letters(numbers))
        prompt = [{"role": "user", "content": text[0].upper() + text[1:]}]
        chosen, rejected = (_write(drawn, template, numbers, words, side) for side in (truth, lines))
        answer = str(truth[-1].result)
        known = values_of(template, numbers, truth)
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


def _problem(
    drawn: Random, variants: Sequence["Variant"], heldout: bool, templates: tuple[Template, ...]
) -> tuple[Template, tuple[int, ...], list[Line], list[Line], Planted]:
    """A task of the split with its numbers, the right lines, the wrong ones, and the error that makes them wrong."""
    variant = drawn.choice(variants)
    grows = drawn.random() < 0.5 if len(variants) == 1 else None  # several mirror each other
    while True:
        template = drawn.choice(open_to(variant, templates))
        numbers, truth = _task(drawn, template, heldout)
        for _ in range(TRIES):
            step = drawn.choice(places_of(variant, template))
            before = values_of(template, numbers, truth[:step])
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
