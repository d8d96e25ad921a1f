"""What two English words have to do with each other: base forms, synonyms, opposites, and kinds of the same thing.

Read from a part of WordNet 3.0 that ships with trimtab (its licence stands in the file); no download, no dependency.
"""

from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from importlib.resources import files
from itertools import product
from typing import NamedTuple

NEAR = 2
"""steps up from two nouns to what both are kinds of, from where on they are no siblings"""
ENDINGS = {
    "n": (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"), ("es", ""), ("s", "")),
    "v": (("ies", "y"), ("ied", "y"), ("es", "e"), ("es", ""), ("s", ""), ("ed", "e"), ("ed", ""), ("ing", "e"),
          ("ing", "")),
    "a": (("ier", "y"), ("iest", "y"), ("er", "e"), ("er", ""), ("est", "e"), ("est", "")),
    "r": (("ier", "y"), ("er", ""), ("est", "")),
}  # fmt: skip
"""inflections: an ending, and what stands there in the base form"""


class WordNet(NamedTuple):
    parents: list[int | None]
    """of each set of synonyms, the set that it is a kind of"""
    kinds: list[str]
    """n, v, a or r"""
    sets: dict[str, tuple[int, ...]]
    """word -> sets that it is in"""
    opposites: dict[str, frozenset[str]]
    origins: dict[str, frozenset[str]]
    """words of one origin that look different, such as high and height"""
    irregular: dict[str, tuple[str, ...]]
    opposed: dict[int, frozenset[int]]
    """set of adjectives -> sets that hold an opposite"""


@cache
def load() -> WordNet:
    """The words that ship with trimtab."""
    parents: list[int | None] = []
    kinds: list[str] = []
    sets, pairs, origins, forms = (defaultdict(list) for _ in range(4))
    text = (files("trimtab.data") / "bundled" / "wordnet.txt").read_text(encoding="utf-8")
    for line in text.splitlines():
        kind, _, rest = line.partition(" ")
        words = rest.split()
        if kind == "!":
            _both(pairs, words)
        elif kind == "+":
            _both(origins, words)
        elif kind == "~":
            forms[words[0]].append(words[1])
        elif kind != "#":
            for word in words[1:]:
                sets[word].append(len(kinds))
            parents.append(None if words[0] == "-" else int(words[0]))
            kinds.append(kind)
    opposed: dict[int, set[int]] = defaultdict(set)
    for word, others in pairs.items():
        for one in sets.get(word, ()):
            opposed[one] |= {two for other in others for two in sets.get(other, ()) if kinds[one] == kinds[two] == "a"}
    return WordNet(
        parents, kinds, {word: tuple(of) for word, of in sets.items()}, _frozen(pairs), _frozen(origins),
        {form: tuple(of) for form, of in forms.items()}, {one: frozenset(of) for one, of in opposed.items()},
    )  # fmt: skip


def _both(table: dict[str, list[str]], words: list[str]) -> None:
    table[words[0]].append(words[1])
    table[words[1]].append(words[0])


def _frozen(table: dict[str, list[str]]) -> dict[str, frozenset[str]]:
    return {word: frozenset(of) for word, of in table.items()}


def known(word: str) -> bool:
    """Whether it, in small letters, or one of its base forms is a word of the list."""
    return any(base in load().sets for base in bases(word))


@cache
def bases(word: str) -> frozenset[str]:
    """A word in small letters and the words of the list that it may be a form of."""
    net = load()
    found = {word, *net.irregular.get(word, ())}
    for kind, endings in ENDINGS.items():
        for ending, instead in endings:
            if not word.endswith(ending) or len(word) - len(ending) < 2:
                continue
            stem = word[: -len(ending)]
            for base in (stem + instead, *((stem[:-1],) if stem[-1] == stem[-2:-1] and not instead else ())):
                if any(net.kinds[one] == kind for one in net.sets.get(base, ())):
                    found.add(base)
    return frozenset(found)


def synonyms(one: Iterable[str], other: Iterable[str]) -> bool:
    """Whether some base form of one word shares a meaning with one of the other, is a kind of it, or has its origin."""
    net = load()
    for a, b in product(one, other):
        ours, theirs = set(net.sets.get(a, ())), set(net.sets.get(b, ()))
        if b in net.origins.get(a, ()) or ours & theirs or _above(ours) & theirs or _above(theirs) & ours:
            return True
    return False


def opposites(one: Iterable[str], other: Iterable[str]) -> bool:
    """Whether some base forms are antonyms, of adjectives also by what they are similar to."""
    net = load()
    for a, b in product(one, other):
        if b in net.opposites.get(a, ()):
            return True
        ours, theirs = ({*_heads(net.sets.get(word, ()))} for word in (a, b))
        if any(net.opposed.get(head, frozenset()) & theirs for head in ours) and not ours & theirs:
            return True
    return False


def siblings(one: Iterable[str], other: Iterable[str]) -> bool:
    """Whether two nouns are different kinds of one thing, such as iron and copper."""
    net = load()
    ours, theirs = ([s for w in words for s in net.sets.get(w, ()) if net.kinds[s] == "n"] for words in (one, other))
    return any(_meet(x, y) for x, y in product(ours, theirs))


def _above(of: set[int]) -> set[int]:
    net = load()
    return {parent for one in of if (parent := net.parents[one]) is not None}


def _heads(of: Iterable[int]) -> set[int]:
    """Sets of adjectives, and those that they are similar to."""
    net = load()
    adjectives = {one for one in of if net.kinds[one] == "a"}
    return adjectives | _above(adjectives)


def _meet(one: int, other: int) -> bool:
    """Both are kinds of a third within `NEAR` steps, neither is one of the other, and the third is no mere thing."""
    ours, theirs = (_line(start, NEAR) for start in (one, other))
    return one not in theirs and other not in ours and any(x in theirs for x in ours[1:]) and len(_line(one, 9)) > 4


def _line(start: int, steps: int) -> list[int]:
    net = load()
    found = [start]
    while len(found) <= steps and (parent := net.parents[found[-1]]) is not None:
        found.append(parent)
    return found
