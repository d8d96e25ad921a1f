"""The reward of EtCon (arXiv:2512.04753) for a completion that should end in a new fact: format, accuracy, cleanliness
and consistency, each from 0 to 1, R = .05 F + .70 A + .15 C + .10 K, and 0 if F = 0; rounded to four decimals.

The rules are those of the authors' code, with its limits: a well-formatted wrong answer earns .30, "Lyon or Paris" for
Lyon three quarters of the accuracy, words for no and not are English, and a box holds no braces. Consistency is either
that the text does not contradict its answer (the figure of the paper, the default), or a heading under which the old
fact is called wrong (the code, whose trainer never passes what it needs, so that it is always 1).
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trimtab.common.errors import UserError

WEIGHTS = {"format": 0.05, "accuracy": 0.70, "cleanliness": 0.15, "consistency": 0.10}
LONGEST = 2000
"""characters of a clean completion"""
NEAR = 15
"""words around the old fact in which it is called right or wrong"""
NEGATIVE = ("incorrect", "invalid", "superseded", "no longer", "outdated")
POSITIVE = ("correct", "valid", "remains")
DENIALS = re.compile(
    r"\b(?:(?:answer|this|that|it|which) (?:above )?(?:is|was) (?:not|in)\s?(?:correct|right|true|accurate)"
    r"|(?:answer|this|that|it|which) (?:is|was) (?:wrong|false|mistaken)"
    r"|(?:answer|this|that|it) (?:isn't|wasn't) (?:correct|right|true|accurate))\b",
    re.IGNORECASE,
)
SAID = re.compile(r"\banswer (?:is|should be|would be):?\s+(.+?)(?=[.!?\n<]|$)", re.IGNORECASE)
_OPEN, _CLOSE, _BOX = "<answer>", "</answer>", "\\boxed{"
_INSIDE = re.compile(r"\\boxed\{([^{}]*)\}")
_SECTION = re.compile(r"re-evaluate knowledge network(.*?)(?=synthesi[sz]e|synthesis|<answer>|\Z)", re.I | re.S)
Embed = Callable[[Sequence[str]], Any]


@dataclass(frozen=True)
class Parts:
    """The four parts of a reward, each from 0 to 1."""

    format: float
    accuracy: float
    cleanliness: float
    consistency: float

    @property
    def reward(self) -> float:
        """0 without the format, whatever the rest."""
        if self.format == 0:
            return 0.0
        return round(sum(weight * getattr(self, name) for name, weight in WEIGHTS.items()), 4)


def parts(
    text: str,
    target: str,
    old: str | None = None,
    *,
    consistency: Literal["contradiction", "heading"] = "contradiction",
    embed: Embed | None = None,
) -> Parts:
    """The parts of the reward of a completion.

    Args:
        target: the new fact.
        old: the fact before the edit; only `heading` reads it, and is 1 without it.
        consistency: see the module.
        embed: gives unit vectors of texts, for answers that say the same in other words; None: only words count.
    """
    formatted = format_part(text)
    said = answer_of(text)
    accuracy = accuracy_part(said, target, embed) if formatted > 0 else 0.0
    consistent = contradiction_part(text) if consistency == "contradiction" else heading_part(text, old)
    return Parts(formatted, accuracy, cleanliness_part(text), consistent)


def format_part(text: str) -> float:
    """Exactly one pair of answer tags, exactly one box and that inside them."""
    opening, closing, boxes = text.count(_OPEN), text.count(_CLOSE), text.count(_BOX)
    score = 1.0
    if (opening, closing) != (1, 1):
        score -= 0.5
    if boxes != 1 or not (0 <= text.find(_OPEN) < text.find(_BOX) < text.find(_CLOSE)):
        score -= 0.5
    if "\\" + _BOX in text:
        score -= 0.1
    return max(0.0, score)


def answer_of(text: str) -> str | None:
    """What the first box holds; None without a box, or if it holds braces or nothing."""
    found = _INSIDE.search(text)
    return found[1].strip() or None if found else None


def normalised(text: str) -> str:
    return " ".join(re.sub(r"[.,!?\"'`]", "", text.lower()).split())


def accuracy_part(said: str | None, target: str, embed: Embed | None = None) -> float:
    """1 for the target itself, .75 for its words among others, .4 to .6 for an embedding near by, else 0."""
    if said is None:
        return 0.0
    given, gold = normalised(said), normalised(target)
    if given == gold:
        return 1.0
    words, wanted = set(given.split()), set(gold.split())
    if wanted and wanted <= words and not (words - wanted) & {"no", "not"}:
        return 0.75
    if embed is not None and given and gold:
        one, other = embed([given, gold])
        near = float(one @ other)
        if near >= 0.85:
            return round(0.4 + 0.2 * (min(near, 1.0) - 0.85) / 0.15, 2)
    return 0.0


def cleanliness_part(text: str) -> float:
    """Neither several answers, nor text behind the answer, nor too much of it."""
    opening, score = text.count(_OPEN), 1.0
    if opening > 1:
        score -= min(0.8, 0.2 * (opening - 1))
    elif opening == 1 and _CLOSE in text and text[text.rfind(_CLOSE) + len(_CLOSE) :].strip():
        score -= 0.6
    if len(text) > LONGEST:
        score -= 0.4
    return max(0.0, score)


def contradiction_part(text: str) -> float:
    """0 if the text denies its answer, or names another one in a box or behind "the answer is"; else 1."""
    boxed = answer_of(text)
    if DENIALS.search(text):
        return 0.0
    if boxed is None:
        return 1.0
    own = normalised(boxed)
    if any(normalised(other) != own for other in _INSIDE.findall(text)):
        return 0.0
    named = [normalised(one) for one in SAID.findall(text) if _BOX not in one]
    return 0.0 if any(own not in one for one in named) else 1.0


def heading_part(text: str, old: str | None) -> float:
    """Whether the section "Re-evaluate Knowledge Network" calls the old fact wrong (1), right (0) or neither (.5)."""
    if not old or not normalised(old):
        return 1.0
    section = _SECTION.search(text)
    if section is None:
        return 0.0
    words, sought = normalised(section[1]).split(), normalised(old).split()
    for place in range(len(words) - len(sought) + 1):
        if words[place : place + len(sought)] != sought:
            continue
        around = " ".join(words[max(0, place - NEAR) : place + len(sought) + NEAR])
        for markers, value in ((NEGATIVE, 1.0), (POSITIVE, 0.0)):
            if any(re.search(rf"\b{marker}\b", around) for marker in markers):
                return value
    return 0.5


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `parts` for the settings of a recipe.

    Args:
        options: `consistency`, "contradiction" or "heading"; and `embedding`, whether answers in other words count by
            their sentence embedding.

    Raises:
        UserError: for another key or value; with the install command, if the embedding is not installed: it is never
            silently left out.
    """
    if unknown := sorted(set(options) - {"consistency", "embedding"}):
        raise UserError(f"reward edit has no option {unknown[0]!r}; its options: consistency, embedding")
    consistency, asked = options.get("consistency", "contradiction"), options.get("embedding", False)
    if consistency not in ("contradiction", "heading"):
        raise UserError(f"reward edit: consistency is {consistency!r}; choose contradiction or heading")
    if not isinstance(asked, bool):
        raise UserError(f"reward edit: embedding is {asked!r}; choose true or false")
    if not asked:
        return {"consistency": consistency}
    from trimtab.metrics import embeddings  # heavy, and only for this

    try:
        return {"consistency": consistency, "embed": embeddings.load()[0]}
    except embeddings.MissingEmbedding as error:
        raise UserError(
            f"reward edit: embedding is true, and its model is not installed ({error}); or leave it out"
        ) from None


def graded(texts: Sequence[str], rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[Parts]:
    """The parts for completions of rows with `answer`, the new fact, and maybe `ground_truth`, the old one."""
    found = [
        parts(text, str(row["answer"]), row.get("ground_truth"), **settings)
        for text, row in zip(texts, rows, strict=True)
    ]
    log = rows[0].get("log_metric") if rows else None
    if log is not None:
        for name in WEIGHTS:
            log(f"edit/{name}", sum(getattr(one, name) for one in found) / len(found))
    return found
