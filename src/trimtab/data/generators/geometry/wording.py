"""How a scene and a query become text: letters, sentences, question, options."""

import random
import re
import zlib
from collections.abc import Mapping, Sequence

from trimtab.data.generators.geometry.constructions import filled
from trimtab.data.generators.geometry.oracle import Query
from trimtab.data.generators.geometry.questions import CANNOT, NONE, QUESTIONS
from trimtab.data.generators.geometry.scenes import Scene

ALPHABET = "ABCDEFGHJKLMNOPQRSTUVWXYZ"
"""without I, which is a word"""
CONVENTION = "Lines are infinite, and different letters name different points."
CHOICES = "Answer choices:"
INSIDE = (
    "Where is the point {0} with respect to {1}?",
    {"yes": "Inside", "no": "Outside", CANNOT: "Cannot be inferred"},
)
SHAPES = {3: "triangle", 4: "quadrilateral", 5: "pentagon", 6: "hexagon"}
SHUFFLED = ("angles at a transversal", "angles at a diagonal")
"""kinds whose names are offered in any order"""


def names(scene: Scene, drawn: random.Random) -> str:
    """A random letter for each point."""
    return "".join(drawn.sample(ALPHABET, scene.size))


def described(argument: Sequence[int], letters: str, *, shape: bool) -> str:
    """An argument of a query in words: letters, or what shape they name."""
    named = "".join(letters[n] for n in argument)
    if not shape:
        return named
    return f"the circle around {named[0]} through {named[1]}" if len(named) == 2 else f"{SHAPES[len(named)]} {named}"


def sentences(scene: Scene, letters: str, drawn: random.Random) -> str:
    """One sentence for each construction, drawn from its wordings."""
    found = []
    for c, (_, used) in zip(scene.constructions, scene.steps):
        roles = {role: letters[n] for role, n in zip(c.letters, used)}
        found.append(filled(drawn.choice(c.texts), roles))
    return " ".join(found)


def asked(query: Query, letters: str, drawn: random.Random) -> tuple[str, dict[str, str]]:
    """The question, and its options: answer -> text, in the order shown."""
    question = QUESTIONS[query.kind]
    text, texts = drawn.choice(question.texts), question.answers
    if query.kind == "point-shape" and drawn.random() < 0.5:
        text, texts = INSIDE
    arguments = [
        described(a, letters, shape=i == 1 and (query.kind.endswith("shape") or "SL_YSP" in question.codes.values()))
        for i, a in enumerate(query.arguments)
    ]
    offered = list(query.offered)
    if query.kind in SHUFFLED:
        drawn.shuffle(offered)
    return text.format(*arguments), {name: texts[name] for name in (*offered, NONE, CANNOT) if name in texts}


def question(text: str, options: Mapping[str, str]) -> str:
    """Text and options (letter -> text) as the official rows write them, the options on a line of their own."""
    return f"{text}\n{CHOICES} " + " ".join(f"{letter}. {option}" for letter, option in options.items())


def normal(question: str) -> str:
    """A question without its options and with its points named in the order in which they appear: the same for all
    re-letterings."""
    order: dict[str, str] = {}

    def renamed(found: re.Match) -> str:
        return "".join(order.setdefault(letter, ALPHABET[len(order)]) for letter in found[0])

    return re.sub(r"\b[A-Z]+\b", renamed, question.partition(f"\n{CHOICES}")[0])


def is_test(question: str) -> bool:
    """One question in ten is kept for tests, by its `normal` form: so no test question, re-lettered or not, is ever a
    training row, whatever the seed."""
    return zlib.crc32(normal(question).encode()) % 10 == 0
