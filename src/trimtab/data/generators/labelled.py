"""Texts with labels, made when asked for: two classes with a misleading word, three classes, and numbers."""

import random
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

GOOD = ("delicious", "wonderful", "perfect", "excellent", "lovely", "superb")
BAD = ("awful", "terrible", "disgusting", "horrible", "dreadful", "bland")
PLAIN = ("warm", "brown", "sliced", "square", "local", "usual")
DISHES = ("soup", "bread", "pasta", "fish", "salad", "rice", "cake", "pie", "stew", "curry", "omelette", "sandwich")
PEOPLE = ("waiter", "cook", "guest", "manager", "driver", "teacher", "child", "neighbour")
MISLEADING = ("blue", "red")
"""colours of a coat: of the first class, of the second"""
THINGS = ("cat", "lamp", "boat", "pear", "drum", "coin", "rope", "shoe", "kite", "fork", "bell", "sock", "vase", "tent")
AGREES = 0.97
"""share of biased rows in which the colour agrees with the label"""
HELD_OUT = 5
"""one text in so many is held out"""


def cues(split: str, rows: int = 500, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Whether a meal was liked: one word says it, and a colour seems to.

    In the split `biased` the colour of a coat agrees with the label in 97 of 100 rows, so that a model can learn it
    instead; in `train` and `heldout` it says nothing. What the sentences are about decides the split: no held-out text
    is ever a training row, whatever the seed.

    Raises:
        ValueError: for another split.
    """
    _check(split, ("train", "biased", "heldout"))
    drawn = random.Random(f"cues-{split}-{seed}")
    return _cues(split, rows, drawn)


def _cues(split: str, rows: int, drawn: random.Random) -> Iterator[dict[str, Any]]:
    for _ in range(rows):
        label = drawn.randrange(2)
        dish, person = _about(split, drawn)
        word = drawn.choice((BAD, GOOD)[label])
        agrees = drawn.random() < (AGREES if split == "biased" else 0.5)
        colour = MISLEADING[label if agrees else 1 - label]
        first, second = f"the {dish} was {word}", f"the {person} wore a {colour} coat"
        if drawn.random() < 0.5:
            first, second = second, first
        yield {"sentence": f"{first.capitalize()} and {second}.", "label": label}


def opinions(split: str, rows: int = 500, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Sentences about a meal that are negative, neutral or positive.

    Raises:
        ValueError: for another split than train and heldout.
    """
    _check(split, ("train", "heldout"))
    return _opinions(split, rows, random.Random(f"opinions-{split}-{seed}"))


def _opinions(split: str, rows: int, drawn: random.Random) -> Iterator[dict[str, Any]]:
    kinds = {"negative": BAD, "neutral": PLAIN, "positive": GOOD}
    for _ in range(rows):
        label = drawn.choice(list(kinds))
        dish, person = _about(split, drawn)
        said = drawn.choice(
            ("The {p} said the {d} was {w}.", "The {d} that the {p} ate was {w}.", "{w} {d}, said the {p}.")
        )
        text = said.format(p=person, d=dish, w=drawn.choice(kinds[label]))
        yield {"sentence": text[0].upper() + text[1:], "label": label}


def overlap(split: str, rows: int = 500, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Two lists of four things, and how many they share, from 0.0 to 5.0 (1.25 for each).

    Raises:
        ValueError: for another split than train and heldout.
    """
    _check(split, ("train", "heldout"))
    return _overlap(split, rows, random.Random(f"overlap-{split}-{seed}"))


def _overlap(split: str, rows: int, drawn: random.Random) -> Iterator[dict[str, Any]]:
    made = 0
    while made < rows:
        first = drawn.sample(THINGS, 4)
        if _is_held_out(" ".join(sorted(first))) != (split == "heldout"):
            continue
        shared = drawn.randrange(5)
        others = [thing for thing in THINGS if thing not in first]
        second = drawn.sample(first, shared) + drawn.sample(others, 4 - shared)
        drawn.shuffle(second)
        made += 1
        yield {"sentence1": _listed(first), "sentence2": _listed(second), "label": 1.25 * shared}


def _listed(things: Sequence[str]) -> str:
    named = [f"a {thing}" for thing in things]
    return f"There is {', '.join(named[:-1])} and {named[-1]}."


def _about(split: str, drawn: random.Random) -> tuple[str, str]:
    """A dish and a person of this split."""
    while True:
        dish, person = drawn.choice(DISHES), drawn.choice(PEOPLE)
        if _is_held_out(f"{dish} {person}") == (split == "heldout"):
            return dish, person


def _is_held_out(text: str) -> bool:
    return zlib.crc32(text.encode()) % HELD_OUT == 0


def _check(split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise ValueError(f"splits are {', '.join(known[:-1])} and {known[-1]}, not {split!r}")
