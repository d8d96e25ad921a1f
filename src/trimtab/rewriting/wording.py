"""Does a rewrite say something else? Rules for what embeddings of sentences do not see, in English.

Words of both texts are paired: the same word, a form of it, or one that WordNet knows as a synonym. What is left over
on both sides may be opposites; what is paired may stand in another order, so that who does what to whom has changed.
The rules need no parser and are strict: they would rather lose a good rewrite than let a wrong one pass.
"""

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

from trimtab.rewriting import wordnet
from trimtab.rewriting.canonical import canonical
from trimtab.rewriting.lexicon import (
    CERTAIN,
    CUES,
    FRAME,
    HYPOTHETICAL,
    LIGHT,
    MAY,
    MUST,
    NOW,
    POSSIBLE,
    RELATIONS,
    SCOPE,
    SENTENCE,
    THEN,
    TO_OR_GOING,
    UNITS,
)
from trimtab.rewriting.pairing import Pairing, Word, opposite, pair, same_stem, same_word, synonyms, words
from trimtab.rewriting.word_order import agents, behind_of, reordered

KINDS = ("opposites", "relations", "certainty", "tense", "question", "order")
"""what `changed` finds, in the order in which it looks"""


def changed(original: str, candidate: str) -> str | None:
    """The first kind of change of meaning that a rule sees, or None.

    Returns:
        One of `KINDS`: words with the opposite meaning; other words for before, after, until, without; certainty or
        duty that was not there; now for then; another question word; parts that changed places.
    """
    both = pair(original, candidate)
    for kind, looks in zip(KINDS, (_opposed, _related, _certain, _timed, _question_changed, reordered), strict=True):
        if looks(both):
            return kind
    return None


def may_have_counterpart(word: Word, text: str, other: str) -> bool:
    """Whether a word of a text that has no counterpart could have one that WordNet does not know of: it is no unit, and
    neither the opposite nor a sibling of a word that the other text has instead, as evening is of morning."""
    if word.bases & UNITS or not word.text.replace("_", "").replace("-", "").isascii():
        return False
    own = {base for one in words(canonical(text)) for base in one.bases}
    instead = [one for one in words(canonical(other)) if one.content and not one.bases & own]
    return not any(opposite(word, one) or wordnet.siblings(word.bases, one.bases) for one in instead)


# ---------------------------------------------------------------- words beside words


def _opposed(both: Pairing) -> bool:
    ours, theirs = both.left
    # small words count where they came or went
    ours, theirs = ours + _gone(both.ours, both.theirs), theirs + _gone(both.theirs, both.ours)
    return any(opposite(one, other) for one in ours for other in theirs) or _by_or_to(both)


def _gone(of: Sequence[Word], other: Sequence[Word]) -> list[Word]:
    left = Counter(word.text for word in of if not word.content) - Counter(w.text for w in other if not w.content)
    found = {word.text: word for word in of}
    return [found[text] for text in left if text.isalpha()]


def _by_or_to(both: Pairing) -> bool:
    """Raised by 200, or to 200."""

    def before(of: Sequence[Word]) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for small, word in pairwise(of):
            if word.text[:1].isdigit() and small.text in ("by", "to", "from", "until", "with"):
                found.setdefault(word.text, set()).add(small.text)
        return found

    ours, theirs = before(both.ours), before(both.theirs)
    return any(not ours[number] & theirs[number] for number in ours.keys() & theirs.keys())


# ---------------------------------------------------------------- small words


def _related(both: Pairing) -> bool:
    def counts(of: Sequence[Word]) -> dict[str, int]:
        texts = [word.text for word in of]
        return {name: sum(text in those for text in texts) for name, those in RELATIONS.items()}

    if _to(both.ours) & _going(both.theirs) or _going(both.ours) & _to(both.theirs):
        return True
    ours, theirs = counts(both.ours), counts(both.theirs)
    if _denied(both.ours) != _denied(both.theirs):
        return True
    differ = {name for name in RELATIONS if ours[name] != theirs[name]}
    return differ != {"after"} or not _joined(both, theirs["after"] - ours["after"]) if differ else False


def _to(of: Sequence[Word]) -> set[str]:
    """Verbs of `TO_OR_GOING` before an infinitive: she stopped to talk."""
    return {base for verb, to in pairwise(of) if to.text == "to" for base in verb.bases & TO_OR_GOING}


def _going(of: Sequence[Word]) -> set[str]:
    """The same before what was already done: she stopped talking."""
    return {base for verb, done in pairwise(of) if done.text.endswith("ing") for base in verb.bases & TO_OR_GOING}


def _denied(of: Sequence[Word]) -> Counter[str]:
    """Words behind "not" that it takes back: not all are right is not: all are not right."""
    return Counter(word.text for no, word in pairwise(of) if no.text == "not" and word.text in SCOPE)


def _joined(both: Pairing, more: int) -> bool:
    """Two sentences, of which the one tells what came first, became one with "after", or the other way round."""
    sides = ((both.ours, both.numbers[0]), (both.theirs, both.numbers[1]))
    (apart, numbers), (one, others) = sides if more > 0 else sides[::-1]
    ends = [place for place, word in enumerate(apart) if word.text in SENTENCE]
    if abs(more) != 1 or len(ends) < 2 or len(ends) <= sum(word.text in SENTENCE for word in one):
        return False
    first = {numbers[place] for place in range(ends[0]) if place in numbers}
    (behind,) = [found for marker, found in behind_of(one, others, RELATIONS["after"])] or [set()]
    return bool(behind) and behind <= first


def _certain(both: Pairing) -> bool:
    ours, theirs = ({word.text for word in of} for of in (both.ours, both.theirs))
    for those in (POSSIBLE, CERTAIN):
        if bool(ours & those) != bool(theirs & those):
            return True
    for modal in HYPOTHETICAL:
        if _together(both.ours, *modal.split()) != _together(both.theirs, *modal.split()):
            return True
    duty = [bool(of & MUST) or "required" in of or "obliged" in of for of in (ours, theirs)]
    leave = [bool(of & MAY) for of in (ours, theirs)]
    return duty[0] != duty[1] and leave[0] != leave[1]


def _together(of: Sequence[Word], modal: str, verb: str) -> bool:
    """Whether a modal and "have" stand before a participle, the subject or "not" among them: should the captain have
    done."""
    for place, word in enumerate(of):
        ahead = list(of[place + 1 : place + 7]) if word.text == modal else []
        for have, participle in pairwise(ahead):
            if have.text == verb and (
                participle.text.endswith("ed")
                or participle.text in wordnet.load().irregular
                or participle.text in ("been", "done")
            ):
                return True
    return False


def _timed(both: Pairing) -> bool:
    """The one speaks of now alone, and the other of then."""

    def tenses(of: Sequence[Word]) -> tuple[bool, bool]:
        texts = {word.text for word in of}
        forms = (word.text.endswith("ed") or word.text in wordnet.load().irregular for word in of if word.content)
        return bool(texts & NOW), bool(texts & THEN) or any(forms)

    for own, other in ((both.ours, both.theirs), (both.theirs, both.ours)):
        texts, others = ({word.text for word in of} for of in (own, other))
        if texts & {"will", "shall"} and not others & {"will", "shall"} and _past(other) and not _past(own):
            return True
        if "being" in texts and "been" in others and not ("been" in texts or "being" in others):
            return True
    ours, theirs = tenses(both.ours), tenses(both.theirs)
    return (ours, theirs) in (((True, False), (False, True)), ((False, True), (True, False))) and all(
        {word.text for word in of} & (NOW | THEN) for of in (both.ours, both.theirs)
    )


def _past(of: Sequence[Word]) -> bool:
    """What is done: was, did, had, and has with a participle behind it."""
    for place, word in enumerate(of):
        if word.text in THEN:
            return True
        if word.text in ("has", "have"):
            after = [one for one in of[place + 1 : place + 3] if one.text not in ("already", "just", "not", "never")]
            if any(one.text.endswith("ed") or one.text in wordnet.load().irregular for one in after if one.content):
                return True
    return False


def _question_changed(both: Pairing) -> bool:
    """The one asks who, when, where, why or how, and the other something else."""

    def asks(of: Sequence[Word]) -> set[str]:
        texts = {"who" if word.text in ("whom", "whose") else word.text for word in of}
        return texts & CUES.keys()

    if _who(both.ours) + _who(both.theirs) in ("subjectobject", "objectsubject"):
        return not (agents(both.ours) or agents(both.theirs))
    ours, theirs = asks(both.ours), asks(both.theirs)
    if "?" not in [word.text for word in both.ours] or ours & theirs or not (ours and theirs):
        return False
    named = [{base for word in of for base in word.bases} for of in (both.ours, both.theirs)]
    return not all(CUES[word] & named[1] for word in ours)


def _who(of: Sequence[Word]) -> str:
    """Whether a question asks who did it, or to whom it was done."""
    for word, following in pairwise(of):
        if word.text in ("who", "whom") and not any(a.text == "by" and b is word for a, b in pairwise(of)):
            return "object" if word.text == "whom" or following.text in ("do", "does", "did") else "subject"
    return ""


# ---------------------------------------------------------------- words without a counterpart


def unmatched(original: str, candidate: str) -> tuple[list[Word], list[Word]]:
    """Words of each text that nothing in the other stands for, questions' frames aside."""
    both = pair(original, candidate)
    asked = [{word.text for word in of} & CUES.keys() for of in (both.ours, both.theirs)]
    cues = frozenset(cue for word in asked[0] ^ asked[1] for cue in CUES[word])
    kinds = [_kind_asked(of) for of in (both.ours, both.theirs)]
    loose = FRAME | cues
    result = []
    for left, own, other, text in zip(both.left, kinds, kinds[::-1], (both.theirs, both.ours)):
        strange = [word for word in left if not word.bases & loose and (word.place not in own or other)]
        strange = [word for word in strange if not _light(word, both)]
        result.append([word for word in strange if not _covered(word, text)])
    return result[0], result[1]


def _light(word: Word, both: Pairing) -> bool:
    """Whether it is a verb of `LIGHT` before a noun that the other text has, as a verb if need be."""
    for of, paired in ((both.ours, set(both.pairs)), (both.theirs, set(both.pairs.values()))):
        if word in of and word.bases & LIGHT:
            behind = next((k for k in range(of.index(word) + 1, len(of)) if of[k].content), None)
            return behind in paired
    return False


def _covered(word: Word, text: Sequence[Word]) -> bool:
    """Whether some word of the other text says it too, though that has a counterpart already."""
    return any(
        other.content
        and not other.bases & FRAME
        and any(alike(word, other) for alike in (same_word, same_stem, synonyms))
        for other in text
    )


def _kind_asked(of: Sequence[Word]) -> set[int]:
    """Places of nouns behind which and what, which narrow down what is asked for: which city, what food."""
    return {word.place for asks, word in pairwise(of) if asks.text in ("which", "what") and word.content}
