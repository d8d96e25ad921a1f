"""Texts that say things and then say them again elsewhere: what a model needs before it can use its context."""

import json
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

SYLLABLES = tuple(a + b for a in "bdfgklmnprstvz" for b in "aeiou")
ENDS = ("", "", "n", "r", "s", "l", "x")
VERBS = ("add", "get", "find", "list", "move", "send", "book", "check", "make", "read", "run", "set", "open", "count")
SORTS = ("string", "number", "boolean")
HELD_OUT = 5
"""one made-up word in so many is of the held-out split"""


def lookups(split: str, rows: int = 500, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Plain texts for a model that is to learn to find things in its context before it learns anything else.

    A text introduces functions and calls them, lists records and asks for their fields, and copies lines. What is
    asked for was always said before, with made-up words that no two texts share but by chance, so nothing can be
    learnt by heart. Which made-up words there are decides the split.

    Args:
        split: train or heldout.
        rows: how many; the first ones do not depend on it.
        seed: of all draws.

    Raises:
        ValueError: for another split.
    """
    if split not in ("train", "heldout"):
        raise ValueError(f"splits are train and heldout, not {split!r}")
    return _rows(split, rows, Random(f"lookups-{split}-{seed}"))


def _rows(split: str, rows: int, drawn: Random) -> Iterator[dict[str, Any]]:
    for _ in range(rows):
        parts = drawn.sample((_functions, _records, _lines), 2)
        yield {"text": "\n".join(part(split, drawn) for part in parts)}


def word(split: str, drawn: Random) -> str:
    """A made-up word of the split."""
    while True:
        made = "".join(drawn.choices(SYLLABLES, k=drawn.randint(1, 3))) + drawn.choice(ENDS)
        if (sum(map(ord, made)) % HELD_OUT == 0) == (split == "heldout"):
            return made


def _value(split: str, drawn: Random) -> Any:
    kinds: tuple[Callable[[], Any], ...] = (
        lambda: word(split, drawn),
        lambda: f"{word(split, drawn)} {word(split, drawn)}",
        lambda: drawn.randint(2, 999),
        lambda: f"2026-{drawn.randint(1, 12):02d}-{drawn.randint(1, 28):02d}",
        lambda: f"{word(split, drawn)}@{word(split, drawn)}.example",
        lambda: f"{drawn.choice('ABCDE')}{drawn.randint(10, 999)}",
    )
    return drawn.choice(kinds)()


def _functions(split: str, drawn: Random) -> str:
    """A line for each function, and calls of some of them in another order, as their documentation says."""
    known: dict[str, list[str]] = {}
    for _ in range(drawn.randint(3, 5)):
        known[f"{drawn.choice(VERBS)}_{word(split, drawn)}"] = [word(split, drawn) for _ in range(drawn.randint(1, 3))]
    lines = []
    for name, fields in known.items():
        inputs = {field: f"{drawn.choice(SORTS)}, {word(split, drawn)}" for field in fields}
        lines.append(json.dumps({"Name": name, "function": f"{word(split, drawn)} {word(split, drawn)}", "input": inputs}))
    for name in drawn.sample(sorted(known), min(3, len(known))):
        given = {field: _value(split, drawn) for field in known[name]}
        stated = ", ".join(f"{field} {value}" for field, value in given.items())
        lines += [f"{name} with {stated}", f"Action: {name}", f"Action Input: {json.dumps(given)}"]
    return "\n".join(lines)


def _records(split: str, drawn: Random) -> str:
    """Records of named fields, and questions for fields of some of them."""
    fields = [word(split, drawn) for _ in range(drawn.randint(2, 3))]
    records = {word(split, drawn): [_value(split, drawn) for _ in fields] for _ in range(drawn.randint(3, 5))}
    lines = [json.dumps({"name": name, **dict(zip(fields, values))}) for name, values in records.items()]
    for _ in range(5):
        name, place = drawn.choice(sorted(records)), drawn.randrange(len(fields))
        lines.append(f"{fields[place]} of {name}: {records[name][place]}")
    return "\n".join(lines)


def _lines(split: str, drawn: Random) -> str:
    """Lines with a name, which are then repeated in another order."""
    said = {word(split, drawn): " ".join(str(_value(split, drawn)) for _ in range(3)) for _ in range(drawn.randint(3, 5))}
    lines = [f"{name}: {text}" for name, text in said.items()]
    return "\n".join(lines + [f"{name} says: {said[name]}" for name in drawn.sample(sorted(said), len(said))])
