"""Data that comes with trimtab: bundled answers of a teacher, and tasks with unlimited fresh rows."""

import random
import re
from collections.abc import Callable, Iterable, Iterator
from importlib.resources import files
from itertools import islice
from typing import Any

from trimtab.common.files import records
from trimtab.data.generators.facts import facts
from trimtab.data.generators.labelled import cues, opinions, overlap
from trimtab.data.generators.solutions import check_split, planted_errors
from trimtab.data.generators.tool_world import tools
from trimtab.data.generators.worked_sums import worked_sums


def everyday(split: str) -> list[dict[str, Any]]:
    """Answers of SmolLM2-135M-Instruct (Apache-2.0) to `data/prompts.py`, sampled at temperature 0.8.

    Made by `scripts/teacher_answers.py`; only answers that ended by themselves were kept.
    """
    check_split(split)
    return _bundled(f"everyday_{split}.jsonl")


def arithmetic(
    split: str, rows: int = 1000, seed: int = 0, digits: int = 2, terms: int = 2
) -> Iterator[dict[str, Any]]:
    """Sums and products in words, with answers that can be checked.

    The operands decide the split (one task in ten is held out), so no held-out question is ever a training row,
    whatever the seed. Rows may repeat among themselves.

    Args:
        split: train or heldout.
        rows: how many.
        seed: of all draws.
        digits: 1 or 2, of an operand at most.
        terms: 2 to 4 operands; the first two may be multiplied, further ones are added or subtracted, one a line.

    Raises:
        ValueError: for another split, or numbers of digits or terms that are not built.
    """
    check_split(split)
    for name, value, most in (("digits", digits, (1, 2)), ("terms", terms, (2, 3, 4))):
        if value not in most:
            raise ValueError(f"{name} is {value}; expected {most[0]} to {most[-1]}")
    return _arithmetic(split == "heldout", rows, random.Random(f"arithmetic-{split}-{seed}"), digits, terms)


def _arithmetic(heldout: bool, rows: int, drawn: random.Random, digits: int, terms: int) -> Iterator[dict[str, Any]]:
    made = 0
    while made < rows:
        numbers = [drawn.randint(2, 10**digits - 1) for _ in range(terms)]
        if (sum(a * b for a, b in zip(numbers, (31, 17, 13, 7))) % 10 == 0) != heldout:
            continue
        signs = [drawn.choice("+-*" if place == 0 else "+-") for place in range(terms - 1)]
        task, total, lines = str(numbers[0]), numbers[0], []
        for sign, number in zip(signs, numbers[1:]):
            before, total = total, {"+": total + number, "-": total - number, "*": total * number}[sign]
            lines.append(f"{before} {sign} {number} = {total}")
            task += f" {sign} {number}"
        made += 1
        yield {
            "messages": [
                {"role": "user", "content": f"What is {task}?"},
                {"role": "assistant", "content": "\n".join(lines)},
            ],
            "answer": str(total),
        }


def brevity(split: str) -> list[dict[str, Any]]:
    """Preferences for short answers, from the rows of `everyday`: the first sentence is chosen, the whole is rejected.

    Only answers of several sentences are pairs. Methods that take single answers take the chosen ones.
    """
    pairs = []
    for row in everyday(split):
        *prompt, answer = row["messages"]
        first = re.split(r"(?<=[.!?])\s+", answer["content"].strip())[0]
        if len(first) < len(answer["content"].strip()):
            pairs.append({"prompt": prompt, "chosen": [{**answer, "content": first}], "rejected": [answer]})
    return pairs


def prose(split: str) -> list[dict[str, Any]]:
    """Passages of Natsume Soseki's "Botchan", translated in 1919 (public domain).

    Made by `scripts/prose_passages.py`. All are held out: no recipe here trains on them.
    """
    if split != "heldout":
        raise ValueError(f"prose has the split heldout alone, not {split!r}")
    return _bundled("prose.jsonl")


def geomrel(split: str, rows: int | None = None, seed: int = 0, deepest: int = 5) -> Iterator[dict[str, Any]]:
    """Which relation holds between lines, points, angles and shapes that are described in words; see `data/geometry`.

    Each row has `messages`, the official keys `question`, `answer`, `relation`, and `level`, `depth`, `scene`,
    `options`, `seed`, `evidence`. The 2,000 test rows are bundled, made by `scripts/geomrel_rows.py`; training
    rows are made when asked for, 10,000 unless told. The text of a question decides its split (one in ten is a test
    question, whatever its points are called), so no test question is ever a training row, whatever the seed. No row
    chains more than `deepest` constructions.

    Raises:
        ValueError: for another split, for a seed of the test rows, which are fixed, and if deepest is not 1 to 5.
    """
    if split not in ("train", "test"):
        raise ValueError(f"splits are train and test, not {split!r}")
    from trimtab.data.generators.geometry import items, wording

    if deepest not in items.DEPTHS:
        raise ValueError(f"deepest is 1 to 5, not {deepest}")

    if split == "test":
        if seed:
            raise ValueError("the test rows are fixed; a seed is for train")
        bundled = (row for row in _bundled("geomrel_test.jsonl") if row["depth"] <= deepest)
        return ({"messages": items.chat(row["question"], row["answer"]), **row} for row in islice(bundled, rows))
    depths = items.DEPTHS[:deepest]
    made = items.generate(seed, depths, keep=lambda question: not wording.is_test(question))
    return islice(made, 10_000 if rows is None else rows)


def _bundled(name: str) -> list[dict[str, Any]]:
    return list(records((files("trimtab.data") / "bundled" / name).read_bytes()))


DATASETS: dict[str, Callable[..., Iterable[dict[str, Any]]]] = {
    "everyday": everyday,
    "arithmetic": arithmetic,
    "brevity": brevity,
    "prose": prose,
    "geomrel": geomrel,
    "planted_errors": planted_errors,
    "worked_sums": worked_sums,
    "cues": cues,
    "opinions": opinions,
    "overlap": overlap,
    "facts": facts,
    "tools": tools,
}
