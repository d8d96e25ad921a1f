"""Who does what to whom? Whether words that two texts share stand in another order."""

from collections import Counter
from collections.abc import Iterator, Sequence

from trimtab.rewriting.lexicon import BE, CLAUSE, CONDITION, PHRASE, PREPOSITIONS, SENTENCE
from trimtab.rewriting.pairing import Pairing, Word, same_word, synonyms


def reordered(both: Pairing) -> bool:
    return _reordered(both) and _reordered(Pairing(_unfronted(both.ours), _unfronted(both.theirs)))


def _unfronted(of: list[Word]) -> list[Word]:
    """What opens a sentence with a small word and ends with a comma goes behind the rest: at noon, he left."""
    result: list[Word] = []
    sentence: list[Word] = []
    for word in of:
        sentence.append(word)
        if word.text in SENTENCE:
            result += _last(sentence)
            sentence = []
    return result + _last(sentence)


def _last(sentence: list[Word]) -> list[Word]:
    comma = next((place for place, word in enumerate(sentence) if word.text == ","), 0)
    if not comma or sentence[0].text not in PREPOSITIONS | CLAUSE or len(sentence) - comma < 4:
        return sentence
    end = len(sentence) - (sentence[-1].text in SENTENCE)
    return [*sentence[comma + 1 : end], *sentence[:comma], *sentence[end:]]


def _reordered(both: Pairing) -> bool:
    if _exchanged(both):
        return True
    passive = agents(both.ours) or agents(both.theirs)
    if passive:
        return _wrong_agent(both) or _governed(both, CLAUSE) or _possessed(both)
    return _swapped(both) or _turned(both) or _governed(both, CLAUSE) or _governed(both, PHRASE) or _possessed(both)


def _exchanged(both: Pairing) -> bool:
    """Two words have changed places, and nothing else has."""
    if len(both.ours) != len(both.theirs):
        return False
    apart = [k for k, (one, other) in enumerate(zip(both.ours, both.theirs)) if not same_word(one, other)]
    if len(apart) != 2 or not all(word.content for k in apart for word in (both.ours[k], both.theirs[k])):
        return False
    i, j = apart
    back = same_word(both.ours[i], both.theirs[j]) and same_word(both.ours[j], both.theirs[i])
    return back and not _in_list(both.ours[i + 1 : j])


def _swapped(both: Pairing) -> bool:
    """Two words have changed places and a third between them has not."""
    _, theirs = both.numbers
    order = [theirs[j] for j in sorted(theirs)]
    for i, j in ((i, order[i]) for i in range(len(order)) if order[i] > i):
        anchored = order[j] == i and any(order[k] == k for k in range(i + 1, j))
        if anchored and not _listed(both, i, j) and not _alike(both, i, j):
            return True
    return False


def _alike(both: Pairing, i: int, j: int) -> bool:
    """One word twice, or two that say the same: which is which cannot be told."""
    one, other = (both.ours[sorted(both.pairs)[number]] for number in (i, j))
    return same_word(one, other) or synonyms(one, other)


def _listed(both: Pairing, i: int, j: int) -> bool:
    """Members of one list, whose order says nothing: only commas, and, or between them."""
    places = {number: place for place, number in both.numbers[0].items()}
    return _in_list(both.ours[places[i] + 1 : places[j]])


def _in_list(between: Sequence[Word]) -> bool:
    return all(word.text in ("and", "or", ",") or word.content for word in between) and any(
        word.text in ("and", "or") for word in between
    )


def _turned(both: Pairing) -> bool:
    """The neighbours of a word have changed sides."""
    sides = []
    for numbers in both.numbers:
        order = [numbers[place] for place in sorted(numbers)]
        sides.append({word: (left, right) for left, word, right in zip(order, order[1:], order[2:])})
    return any(
        sides[1].get(word) == (right, left) and not _alike(both, left, right)
        for word, (left, right) in sides[0].items()
    )


def _governed(both: Pairing, markers: frozenset[str]) -> bool:
    """What stands behind a small word is quite another part of the text."""
    found = [dict(behind_of(of, numbers, markers)) for of, numbers in zip((both.ours, both.theirs), both.numbers)]
    for marker in found[0].keys() & found[1].keys():
        ours, theirs = found[0][marker], found[1][marker]
        if ours and theirs and (not ours & theirs or (marker in CONDITION and ours - theirs and theirs - ours)):
            return True
    return False


def behind_of(of: Sequence[Word], numbers: dict[int, int], markers: frozenset[str]) -> Iterator[tuple[str, set[int]]]:
    """Small words that come once, with the paired words of their clause (to the next mark) or phrase."""
    counts = Counter(word.text for word in of)
    for place, word in enumerate(of):
        if word.text not in markers or counts[word.text] > 1:
            continue
        found: set[int] = set()
        for k in range(place + 1, len(of)):
            small = not of[k].content
            if of[k].text in ",;:.?!" or (found and small and word.text in PHRASE and of[k].text != "'s"):
                break
            if small and word.text in CLAUSE and of[k].text in CLAUSE:
                break
            if k in numbers:
                found.add(numbers[k])
            elif of[k].content and word.text in PHRASE:
                found.add(-1 - k)  # a word without counterpart
        if all(number >= 0 for number in found):
            yield word.text, found


def _possessed(both: Pairing) -> bool:
    """The mother of the father became the father of the mother."""
    ours, theirs = (set(_owners(of, numbers)) for of, numbers in zip((both.ours, both.theirs), both.numbers))
    return any((thing, owner) in theirs and (owner, thing) not in theirs for owner, thing in ours)


def _owners(of: Sequence[Word], numbers: dict[int, int]) -> Iterator[tuple[int, int]]:
    """(owner, what is owned)"""
    for place, word in enumerate(of):
        before = next((k for k in range(place - 1, -1, -1) if of[k].content), None)
        if word.text == "'s":
            thing = _head(of, place)
            if before in numbers and thing in numbers:
                yield numbers[before], numbers[thing]  # type: ignore[index]
        elif word.text == "of" and before == place - 1:
            owner = _head(of, place)
            if owner is not None and before in numbers and owner in numbers:
                yield numbers[owner], numbers[before]


def _head(of: Sequence[Word], place: int) -> int | None:
    """The first content word of the phrase that begins behind a place, possessors passed over."""
    for k in range(place + 1, len(of)):
        if of[k].content and (k + 1 == len(of) or of[k + 1].text != "'s"):
            return k
        if not of[k].content and of[k].text not in ("'s", "the", "a", "an", "his", "her", "their", "its"):
            return None
    return None


def agents(of: Sequence[Word]) -> list[tuple[int, int]]:
    """(place of a participle, place of who does it) of passives: was praised by the teacher."""
    found = []
    for place, word in enumerate(of):
        verb = place - 1
        if word.text != "by" or verb < 1 or not of[verb].content:
            continue
        if any(one.text in BE for one in of[max(0, verb - 6) : verb]):
            agent = next((k for k in range(place + 1, len(of)) if of[k].content), None)
            if agent is not None:
                found.append((verb, agent))
    return found


def _wrong_agent(both: Pairing) -> bool:
    """Who does it in the one stands, in the other, where the one that it is done to must stand."""
    sides = ((both.ours, both.theirs, both.numbers), (both.theirs, both.ours, both.numbers[::-1]))
    for of, other, (own, others) in sides:
        places = {number: place for place, number in others.items()}
        behind = {own.get(agent) for verb, agent in agents(of)}
        ahead = {others.get(agent) for _, agent in agents(other)}
        for verb, agent in agents(of):
            if verb not in own or agent not in own:
                continue
            if ahead:
                if own[agent] not in ahead and behind - {None}:
                    return True
            elif places[own[agent]] > places[own[verb]]:
                return True
    return False
