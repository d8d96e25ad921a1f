"""Words of two texts, and which of them say the same."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from trimtab.rewriting import wordnet
from trimtab.rewriting.canonical import canonical
from trimtab.rewriting.lexicon import (
    AMBIGUOUS,
    FUNCTION,
    OWN_OPPOSITES,
    OWN_SYNONYMS,
    PARTICLES,
    PREFIXES,
    SUFFIXES,
    TURNED,
    UNITS,
)


class Word(NamedTuple):
    """A word of a text."""

    text: str
    """in small letters; a verb and its particle joined by _"""
    bases: frozenset[str]
    place: int
    """among all words and marks of the text"""

    @property
    def content(self) -> bool:
        return self.text not in FUNCTION and self.text[:1].isalnum()


def words(text: str) -> list[Word]:
    """All words and marks in their order; "take in" and the like are one, where WordNet has them."""
    text = text.replace("’", "'")
    for short, whole in (("can't", "can not"), ("cannot", "can not"), ("won't", "will not"), ("n't", " not")):
        text = re.sub(rf"{short}\b", whole, text, flags=re.IGNORECASE)
    text = re.sub(r"[^\W\d_]+(?:-[^\W\d_]+)+", _parted, text.lower())
    found = re.findall(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:-[^\W\d_]+)*|'s\b|[^\w\s]|\w", text)
    result: list[Word] = []
    place = 0
    while place < len(found):
        word = found[place]
        joined = _phrase(word, found[place + 1]) if place + 1 < len(found) else frozenset()
        if joined:
            result.append(Word("_".join(found[place : place + 2]), joined, place))
            place += 2
            continue
        result.append(Word(word, wordnet.bases(word) if word.isalpha() else frozenset((word,)), place))
        place += 1
    return result


def _parted(found: re.Match[str]) -> str:
    """A compound as one word where WordNet has it or its first part is a prefix, else as its parts."""
    return (
        found[0] if wordnet.known(found[0]) or f"{found[0].split('-')[0]}-" in PREFIXES else found[0].replace("-", " ")
    )


def _phrase(verb: str, particle: str) -> frozenset[str]:
    if particle not in PARTICLES or verb in FUNCTION or not verb.isalpha():
        return frozenset()
    bases = wordnet.bases(verb)
    found = frozenset(joined for base in bases if (joined := f"{base}_{particle}") in wordnet.load().sets)
    return found | bases if found and particle in AMBIGUOUS else found


@dataclass(frozen=True)
class Pairing:
    """Words of two texts, and which of them say the same."""

    ours: list[Word]
    theirs: list[Word]

    @cached_property
    def pairs(self) -> dict[int, int]:
        """Places of content words in `ours` -> those of their counterparts in `theirs`, each used once."""
        found: dict[int, int] = {}
        for alike in (same_word, same_stem, synonyms):
            for i, one in enumerate(self.ours):
                if not one.content or i in found:
                    continue
                free = (j for j, other in enumerate(self.theirs) if other.content and j not in found.values())
                fits = [j for j in free if alike(one, self.theirs[j])]
                if fits:  # of several the one with the same neighbours, of these the first
                    found[i] = max(fits, key=lambda j: self._company(i, j))
        return found

    def _company(self, i: int, j: int) -> int:
        """How many of the nearest content words, two to each side, are the same."""
        sides = [[_near(of, place, step) for of, place in ((self.ours, i), (self.theirs, j))] for step in (-1, 1)]
        return sum(bool(a & b) for ours, theirs in sides for a, b in zip(ours, theirs))

    @cached_property
    def left(self) -> tuple[list[Word], list[Word]]:
        """Content words of both texts that have no counterpart."""
        theirs = set(self.pairs.values())
        return (
            [one for i, one in enumerate(self.ours) if one.content and i not in self.pairs],
            [one for j, one in enumerate(self.theirs) if one.content and j not in theirs],
        )

    @cached_property
    def numbers(self) -> tuple[dict[int, int], dict[int, int]]:
        """Places of paired words in each text -> a number that both words of a pair share."""
        ordered = sorted(self.pairs)
        return (
            {i: number for number, i in enumerate(ordered)},
            {self.pairs[i]: number for number, i in enumerate(ordered)},
        )


def _near(of: Sequence[Word], place: int, step: int) -> list[frozenset[str]]:
    """Base forms of the two nearest content words on one side."""
    end = len(of) if step > 0 else -1
    return [of[k].bases for k in range(place + step, end, step) if of[k].content][:2]


def pair(original: str, candidate: str) -> Pairing:
    return Pairing(words(canonical(original)), words(canonical(candidate)))


def same_word(one: Word, other: Word) -> bool:
    return bool(one.bases & other.bases)


def same_stem(one: Word, other: Word) -> bool:
    if one.text.endswith("less") != other.text.endswith("less"):
        return False
    return any(len(stem) > 2 for stem in _stemmed(one) & _stemmed(other)) and not _negates(one, other)


def _stemmed(word: Word) -> set[str]:
    found = set(word.bases)
    for base in word.bases:
        found |= {base[: -len(end)] for end in SUFFIXES if base.endswith(end) and len(base) - len(end) > 2}
    return found


def synonyms(one: Word, other: Word) -> bool:
    own = any(one.bases & group and other.bases & group for group in OWN_SYNONYMS)
    alike = own or wordnet.synonyms(one.bases, other.bases)
    return alike and not _measures(one, other) and not opposite(one, other)


def _measures(one: Word, other: Word) -> bool:
    """Units that differ, such as minutes and seconds, which WordNet takes for the same short time."""
    ours, theirs = one.bases & UNITS, other.bases & UNITS
    return bool(ours or theirs) and not ours & theirs


def opposite(one: Word, other: Word) -> bool:
    own = any(len(pair & one.bases) == 1 and pair - one.bases <= other.bases for pair in OWN_OPPOSITES)
    parts = frozenset((one.text.partition("_")[2], other.text.partition("_")[2]))
    return own or parts in TURNED or _negates(one, other) or wordnet.opposites(one.bases, other.bases)


def _negates(one: Word, other: Word) -> bool:
    """One is the other behind un-, in-, dis- and the like, or -less beside -ful."""
    for a, b in ((one, other), (other, one)):
        for base in a.bases:
            if any(prefix + base in b.bases for prefix in PREFIXES):
                return True
            if base.endswith("less") and {f"{base[:-4]}ful", base[:-4]} & b.bases:
                return True
    return False
