"""Does a rewrite say something else? Rules for what embeddings of sentences do not see, in English.

Words of both texts are paired: the same word, a form of it, or one that WordNet knows as a synonym. What is left over
on both sides may be opposites; what is paired may stand in another order, so that who does what to whom has changed.
The rules need no parser and are strict: they would rather lose a good rewrite than let a wrong one pass.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from trimtab.rewriting import wordnet
from trimtab.rewriting.canonical import canonical

KINDS = ("opposites", "relations", "certainty", "tense", "question", "order")
"""what `changed` finds, in the order in which it looks"""


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


ASKED = _set("who whom whose when where why how what which")
AUXILIARIES = _set(
    "am is are was were be been being do does did done doing has have had having will would shall should can could "
    "may might must ought"
)
PREPOSITIONS = _set(
    "of to in on at by for from with into onto upon about as than per via within among between during through "
    "throughout around across along towards toward over up off out since because due so if when while although though "
    "whereas whether"
)
FUNCTION = (
    ASKED | AUXILIARIES | PREPOSITIONS
    | _set(
        "a an the this that these those there here i you he she it we they me him her us them my your his its our "
        "their mine yours hers ours theirs myself yourself himself herself itself ourselves themselves oneself one "
        "ones someone something somebody anyone anything everyone everything and or but nor not no yes too also very "
        "just such own other another any some all every each both either neither many much more most less few fewer "
        "least only even still already yet again then now please s t re ve ll d m let true"
    )
)  # fmt: skip
"""words that carry no thing or deed of their own; `trimtab.rewriting.protected` counts quantifiers and negations"""
RELATIONS = {
    "before": _set("before prior preceding earlier ahead"),
    "after": _set("after afterwards later"),
    "until": _set("until till"),
    "against": _set("against"),
    "with": _set("without excluding except"),
    "unless": _set("unless"),
    "than": _set("than"),
}
"""relation -> words for it; a rewrite has each as often"""
FUNCTION |= frozenset(word for words in RELATIONS.values() for word in words)
POSSIBLE = _set("probably perhaps maybe possibly likely might apparently presumably supposedly")
CERTAIN = _set("certainly definitely surely undoubtedly unquestionably inevitably")
MAY, MUST = _set("may can could"), _set("must should shall ought")
NOW, THEN = _set("is are am has does do"), _set("was were had did")
FUNCTION |= POSSIBLE | CERTAIN
REQUESTS = _set(
    "explain describe tell give name list state calculate compute find determine write compose say show mention "
    "identify pick choose work provide define discuss make get use"
)
FRAME = REQUESTS | _set(
    "event place go come own turn become serve put know count number amount quantity way manner means thing kind type "
    "sort form example instance fact case happen occur result right exactly call mean meaning able possible people "
    "person take need want consequence there "
    "following option statement choice value result total find contain hold "
    "consist comprise conclude infer"
)
"""words that ask, or hold a sentence together: they may come and go"""
LIGHT = _set("draw complete carry_out perform conduct undergo reach achieve provide deliver hold belong member")
"""verbs that a noun may need to say what a verb says alone: draw a conclusion, conclude"""
CUES = {
    "when": _set("year date time day month century moment hour age period"),
    "where": _set("place city country location town region source spot area land state site begin"),
    "who": _set("person people name author inventor artist man woman one"),
    "why": _set("reason cause purpose explain make lead bring because"),
    "how": _set(
        "way method means manner process number amount much distance length height age old time speed price cost size "
        "weight total quantity count far long temperature"
    ),
}
"""question word -> words that ask for the same behind what, which, or a request"""
_PAIRS = """
take_in give_off; take_in give_out; give take; borrow lend; borrow return; buy sell; arrive leave; import export;
accept reject; accept refuse; confirm deny; earn pay; win lose; gain lose; pass fail; expand contract; expand shrink;
grow shrink; raise lower; rise fall; rise drop; increase decrease; increase reduce; open close; open shut; begin end;
start stop; start end; start finish; turn_on turn_off; switch_on switch_off; put_on take_off; go_up go_down; teach
learn; push pull; load unload; enter leave; enter exit; include exclude; attract repel; add subtract; multiply divide;
sum product; sum difference; product quotient; numerator denominator; radius diameter; area perimeter; area
circumference; artery vein; early late; first last; north south; east west; left right; above below; over under;
inside outside; up down; on off; into from; upper lower; inner outer; front back; mother father; brother sister; son
daughter; husband wife; uncle aunt; king queen; boy girl; man woman; male female; day night; summer winter; spring
autumn; hot cold; rough smooth; old young; old new; rich poor; cause effect; profit loss; advantage disadvantage;
victory defeat; winner loser; buyer seller; teacher student; employer employee; maximum minimum; positive negative;
acid base; odd even; prime composite; input output; encode decode; encrypt decrypt; ascend descend; ascending
descending; clockwise counterclockwise; horizontal vertical; parallel perpendicular; solid liquid; predator prey;
plural singular; past future; including excluding; with before; with without; with after; and or; ancestor descendant;
upstream downstream; absorb emit; absorb release; inhale exhale; freeze melt; freeze boil; evaporate condense; create
destroy; build destroy; protect harm; allow forbid; permit prohibit; remember forget; love hate; agree disagree; save
spend; praise blame; hire fire; attack defend; send receive; question answer; plus minus; inflation deflation; import
export; majority minority; deposit withdraw; mean median; average median; mean mode; average mode; median mode; area
volume; surface volume;
odd eveninteger; maker user; cause result; parent child; host guest; doctor patient; permanent temporary
"""
OWN_OPPOSITES = tuple(_set(pair) for pair in re.split(";", _PAIRS))
"""opposites that WordNet lacks or knows of other senses alone; of this project"""
_ALIKE = """
human person people; solve find; photo picture; run lead; whole entire all; left remain; stand short; protagonist
hero; long time duration length; affect effect influence impact; far distance; old age; tall high height; fast quick
speed; big large size; heavy weight weigh; often frequency; much amount quantity; many number; cost price; add sum
plus; subtract difference minus; multiply product times; divide quotient; sleep asleep; freeze ice; live home; reach
travel arrive; born birth; alive living life; dead death die; kid child; ill sick; correct right; wrong incorrect; own
have possess; begin start; end finish stop; nearest closest near close; improve better; late delay; permit allow;
source begin origin; symbol stand represent; inventor creator; role function purpose;
follow conclude infer inference conclusion deduce;
travel cover drive ride;
make_up consist comprise compose; feel feeling attitude opinion; occur happen break_out; call know
"""
OWN_SYNONYMS = tuple(_set(group) for group in re.split(";", _ALIKE))
"""words that say the same in some sentence, which WordNet does not pair; of this project"""
PREFIXES = ("un", "in", "im", "il", "ir", "dis", "non", "non-", "mis", "anti", "anti-", "de", "counter", "under")
PARTICLES = _set("in out on off up down away back over through along")
AMBIGUOUS = _set("in on over through along")
"""particles that may also begin a phrase of their own, as in: the fall in prices"""
TURNED = frozenset(map(frozenset, (("in", "out"), ("on", "off"), ("up", "down"))))
"""particles that turn a verb round"""
UNITS = _set(
    "second minute hour day week month year decade century millimetre centimetre metre kilometre millimeter "
    "centimeter meter kilometer inch foot yard mile gram kilogram pound ounce ton tonne litre liter millilitre gallon "
    "degree radian cent dollar euro percent volt watt joule newton hertz"
)
CLAUSE = _set("if when before after because although though while until unless")
CONDITION = _set("if unless")
PHRASE = _set("than from to by for with of against without only")
TO_OR_GOING = _set("stop remember forget regret")
"""verbs that say another thing before an infinitive than before a form in -ing"""
SCOPE = _set("all every each both many much always only necessarily everyone everybody everything must")
SENTENCE = frozenset(".?!")
HYPOTHETICAL = ("should have", "could have", "would have", "must have")
BE = _set("is are was were be been being get gets got am")
_SUFFIXES = """
ical ic ences ence ances ance ations ation itions ition ments ment ings ing ness ers ors ies ied ied ised ises ise
ized izes ize ions ion ists ist able ible ally ous ial al ity ive ful ely ly ed er or es en e y s
"""
SUFFIXES = _SUFFIXES.split()


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
        for alike in (_equal, _stems, _synonyms):
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


def changed(original: str, candidate: str) -> str | None:
    """The first kind of change of meaning that a rule sees, or None.

    Returns:
        One of `KINDS`: words with the opposite meaning; other words for before, after, until, without; certainty or
        duty that was not there; now for then; another question word; parts that changed places.
    """
    both = pair(original, candidate)
    for kind, looks in zip(KINDS, (_opposed, _related, _certain, _timed, _asked, _ordered), strict=True):
        if looks(both):
            return kind
    return None


def unexplained(original: str, candidate: str) -> list[str]:
    """Words of either text that nothing in the other stands for, questions' frames aside."""
    return [word.text for left in left_over(original, candidate) for word in left]


def left_over(original: str, candidate: str) -> tuple[list[Word], list[Word]]:
    """These words, of each text."""
    return _leftovers(pair(original, candidate))


def may_be_said(word: Word, text: str, other: str) -> bool:
    """Whether a word of a text that has no counterpart could have one that WordNet does not know of: it is no unit, and
    neither the opposite nor a sibling of a word that the other text has instead, as evening is of morning."""
    if word.bases & UNITS or not word.text.replace("_", "").replace("-", "").isascii():
        return False
    own = {base for one in words(canonical(text)) for base in one.bases}
    instead = [one for one in words(canonical(other)) if one.content and not one.bases & own]
    return not any(_opposite(word, one) or wordnet.siblings(word.bases, one.bases) for one in instead)


# ---------------------------------------------------------------- words beside words


def _measures(one: Word, other: Word) -> bool:
    """Units that differ, such as minutes and seconds, which WordNet takes for the same short time."""
    ours, theirs = one.bases & UNITS, other.bases & UNITS
    return bool(ours or theirs) and not ours & theirs


def _equal(one: Word, other: Word) -> bool:
    return bool(one.bases & other.bases)


def _stems(one: Word, other: Word) -> bool:
    if one.text.endswith("less") != other.text.endswith("less"):
        return False
    return any(len(stem) > 2 for stem in _stemmed(one) & _stemmed(other)) and not _negates(one, other)


def _stemmed(word: Word) -> set[str]:
    found = set(word.bases)
    for base in word.bases:
        found |= {base[: -len(end)] for end in SUFFIXES if base.endswith(end) and len(base) - len(end) > 2}
    return found


def _synonyms(one: Word, other: Word) -> bool:
    own = any(one.bases & group and other.bases & group for group in OWN_SYNONYMS)
    alike = own or wordnet.synonyms(one.bases, other.bases)
    return alike and not _measures(one, other) and not _opposite(one, other)


def _opposite(one: Word, other: Word) -> bool:
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


def _opposed(both: Pairing) -> bool:
    ours, theirs = both.left
    # small words count where they came or went
    ours, theirs = ours + _gone(both.ours, both.theirs), theirs + _gone(both.theirs, both.ours)
    return any(_opposite(one, other) for one in ours for other in theirs) or _by_or_to(both)


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
    told = {numbers[place] for place in range(ends[0]) if place in numbers}
    (behind,) = [found for marker, found in _behind(one, others, RELATIONS["after"])] or [set()]
    return bool(behind) and behind <= told


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


def _asked(both: Pairing) -> bool:
    """The one asks who, when, where, why or how, and the other something else."""

    def asks(of: Sequence[Word]) -> set[str]:
        texts = {"who" if word.text in ("whom", "whose") else word.text for word in of}
        return texts & CUES.keys()

    if _who(both.ours) + _who(both.theirs) in ("subjectobject", "objectsubject"):
        return not (_agents(both.ours) or _agents(both.theirs))
    ours, theirs = asks(both.ours), asks(both.theirs)
    if "?" not in [word.text for word in both.ours] or ours & theirs or not (ours and theirs):
        return False
    named = [{base for word in of for base in word.bases} for of in (both.ours, both.theirs)]
    mine = all(CUES[word] & named[1] for word in ours)
    return not mine


def _who(of: Sequence[Word]) -> str:
    """Whether a question asks who did it, or to whom it was done."""
    for word, following in pairwise(of):
        if word.text in ("who", "whom") and not any(a.text == "by" and b is word for a, b in pairwise(of)):
            return "object" if word.text == "whom" or following.text in ("do", "does", "did") else "subject"
    return ""


# ---------------------------------------------------------------- order


def _ordered(both: Pairing) -> bool:
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
    passive = _agents(both.ours) or _agents(both.theirs)
    if passive:
        return _wrong_agent(both) or _governed(both, CLAUSE) or _possessed(both)
    return _swapped(both) or _turned(both) or _governed(both, CLAUSE) or _governed(both, PHRASE) or _possessed(both)


def _exchanged(both: Pairing) -> bool:
    """Two words have changed places, and nothing else has."""
    if len(both.ours) != len(both.theirs):
        return False
    apart = [k for k, (one, other) in enumerate(zip(both.ours, both.theirs)) if not _equal(one, other)]
    if len(apart) != 2 or not all(word.content for k in apart for word in (both.ours[k], both.theirs[k])):
        return False
    i, j = apart
    back = _equal(both.ours[i], both.theirs[j]) and _equal(both.ours[j], both.theirs[i])
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
    return _equal(one, other) or _synonyms(one, other)


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
    found = [dict(_behind(of, numbers, markers)) for of, numbers in zip((both.ours, both.theirs), both.numbers)]
    for marker in found[0].keys() & found[1].keys():
        ours, theirs = found[0][marker], found[1][marker]
        if ours and theirs and (not ours & theirs or (marker in CONDITION and ours - theirs and theirs - ours)):
            return True
    return False


def _behind(of: Sequence[Word], numbers: dict[int, int], markers: frozenset[str]) -> Iterator[tuple[str, set[int]]]:
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


def _agents(of: Sequence[Word]) -> list[tuple[int, int]]:
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
        behind = {own.get(agent) for verb, agent in _agents(of)}
        ahead = {others.get(agent) for _, agent in _agents(other)}
        for verb, agent in _agents(of):
            if verb not in own or agent not in own:
                continue
            if ahead:
                if own[agent] not in ahead and behind - {None}:
                    return True
            elif places[own[agent]] > places[own[verb]]:
                return True
    return False


# ---------------------------------------------------------------- what nothing stands for


def _leftovers(both: Pairing) -> tuple[list[Word], list[Word]]:
    asked = [{word.text for word in of} & CUES.keys() for of in (both.ours, both.theirs)]
    cues = frozenset(cue for word in asked[0] ^ asked[1] for cue in CUES[word])
    kinds = [_kind_asked(of) for of in (both.ours, both.theirs)]
    loose = FRAME | cues
    result = []
    for left, own, other, text in zip(both.left, kinds, kinds[::-1], (both.theirs, both.ours)):
        strange = [word for word in left if not word.bases & loose and (word.place not in own or other)]
        strange = [word for word in strange if not _light(word, both)]
        result.append([word for word in strange if not _said(word, text)])
    return result[0], result[1]


def _light(word: Word, both: Pairing) -> bool:
    """Whether it is a verb of `LIGHT` before a noun that the other text has, as a verb if need be."""
    for of, paired in ((both.ours, set(both.pairs)), (both.theirs, set(both.pairs.values()))):
        if word in of and word.bases & LIGHT:
            behind = next((k for k in range(of.index(word) + 1, len(of)) if of[k].content), None)
            return behind in paired
    return False


def _said(word: Word, text: Sequence[Word]) -> bool:
    """Whether some word of the other text says it too, though that has a counterpart already."""
    return any(
        other.content and not other.bases & FRAME and any(alike(word, other) for alike in (_equal, _stems, _synonyms))
        for other in text
    )


def _kind_asked(of: Sequence[Word]) -> set[int]:
    """Places of nouns behind which and what, which narrow down what is asked for: which city, what food."""
    return {word.place for asks, word in pairwise(of) if asks.text in ("which", "what") and word.content}
