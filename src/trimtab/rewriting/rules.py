"""Rewrites by rule, where no capable model is at hand: synonyms, the order of clauses, and forms of questions.

What it can do, in English and sentence by sentence:

- put a word of the lexicon below in place of its pair (about 120 of them, words that mean the same in nearly
  every sentence and have the same grammar);
- move a clause that begins with one of a few conjunctions or prepositions (if, when, while, before, because, during,
  according to, in <year>) from the end to the front, or from the front to the end;
- turn a few forms of questions and requests into others ("What is X?" -> "X is what?", "Who wrote X?" ->
  "Name the person who wrote X.").

It knows nothing of meaning beyond that. It never touches a protected span, and gives nothing where no rule fits, so on
texts of technical terms it changes little. Its rewrites stay near the original: they test a pipeline, and show whether
memory hangs on the exact words; they are no substitute for a model where a benchmark is to be renewed.
"""

import random
import re
from collections.abc import Sequence

from trimtab.common import fingerprint
from trimtab.rewriting.protected import spans
from trimtab.rewriting.rewriters import Request, Rewritten, Way

LEXICON = """
big large; bigger larger; biggest largest; begin start; begins starts; began started; buy purchase; buys purchases
bought purchased; buying purchasing; helps assists; helped assisted; helping assisting; display show; displays shows
displayed showed; obtain get; obtains gets; obtained got; obtaining getting; requires needs; required needed
build construct; builds constructs; built constructed; building constructing; choose select; chooses selects
chose selected; chosen selected; choosing selecting; keep retain; keeps retains; kept retained; keeping retaining
quick fast; quickly rapidly; quicker faster; rich wealthy; difficult hard; easy simple; mistake error; mistakes errors
child youngster; children youngsters; doctor physician; doctors physicians; lawyer attorney; lawyers attorneys
car automobile; cars automobiles; road street; roads streets; shop store; shops stores; sea ocean; forest woodland
forests woodlands; stone rock; stones rocks; job occupation; jobs occupations; picture image; pictures images
trip journey; trips journeys; film movie; films movies; illness disease; illnesses diseases; happy glad; sad unhappy
angry furious; tired weary; afraid scared; clever smart; brave courageous; strange odd; important significant
main principal; whole entire; famous well-known; type kind; types kinds; amount quantity; amounts quantities
reason cause; reasons causes; outcome result; outcomes results; aim goal; aims goals; problem issue; problems issues
method procedure; methods procedures; location place; locations places; country nation; countries nations
person individual; persons individuals; people persons; because since; maybe perhaps; nearly almost; roughly about
enough sufficient; below beneath; above over; while whilst; among amid; happen occur; happens occurs; happened occurred
happening occurring; try attempt; tries attempts; tried attempted; trying attempting; speak talk; speaks talks
spoke talked; speaking talking; shut close; receive get; receives gets; received got; explain clarify
explains clarifies; explained clarified; permit allow; permits allows; permitted allowed; gather collect
gathers collects; gathered collected; respond reply; responds replies; responded replied
take in absorb; takes in absorbs; took in absorbed; find out discover; finds out discovers; found out discovered
look for seek; looks for seeks; looked for sought; carry out perform; carries out performs; carried out performed
give back return; gives back returns; gave back returned; go up rise; goes up rises; went up rose
"""
_AMBIGUOUS = """
start starts show shows showed get gets got needs needed hard kind kinds cause causes result results issue issues place
places individual individuals since about over close reply replies return returns rise rises rose fast right
"""
"""what a word may become, but not be taken for: it has another meaning or another grammar"""

_CLAUSE = r"(?:if|when|while|before|because|during|according to)"
_TO_FRONT = re.compile(
    rf"^(?P<main>[^,;:]+?) (?P<clause>{_CLAUSE} [^,;:?.!]+|in \d{{4}})(?P<end>[?.!]?)$", re.IGNORECASE
)
_TO_BACK = re.compile(
    rf"^(?P<clause>{_CLAUSE} [^,;:]+|in \d{{4}}), (?P<main>[^,;:?.!]+)(?P<end>[?.!]?)$", re.IGNORECASE
)
_FORMS: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), forms)
    for pattern, forms in (
        (r"^What (is|are|was|were) (.+)\?$", (r"\2 \1 what?", r"Say what \2 \1.", r"Can you say what \2 \1?")),
        (r"^Who (\w+(?:ed|ote|ade|ok|on|an|ew|uilt|ound|oke|elt)) (.+)\?$",
         (r"Name the person who \1 \2.", r"\2: who \1 this?")),
        (r"^Where (is|are|was|were) (.+)\?$", (r"In what place \1 \2?", r"Say where \2 \1.")),
        (r"^When (is|are|was|were) (.+)\?$", (r"At what time \1 \2?",)),
        (r"^Why (is|are|was|were|do|does|did) (.+)\?$", (r"For what reason \1 \2?",)),
        (r"^Which of the following (.+)\?$",
         (r"Of the following, which \1?", r"Pick the one of the following that \1.")),
        (r"^Which (\w+) (is|are|was|were) (.+)\?$", (r"What \1 \2 \3?", r"Name the \1 that \2 \3.")),
        (r"^Which (?!of |one )(\w+) (.+)\?$", (r"What \1 \2?",)),
        (r"^What (\w+) (do|does|did|can|will) (.+)\?$", (r"Which \1 \2 \3?",)),
        (r"^(?:Find|Compute|Calculate|Determine) (.+)\.$", (r"Work out \1.", r"What is \1?")),
        (r"^(?:Explain|Describe) (.+)\.$", (r"Give an account of \1.",)),
    )
)  # fmt: skip


class Rules:
    """A `Rewriter` without a model; see the file's docstring for what it can do.

    Args:
        n: candidates a text.
        share: of the words that have a synonym, how many are replaced; at least one is.
    """

    def __init__(self, n: int = 4, share: float = 0.7):
        forms = [[pattern.pattern, *forms] for pattern, forms in _FORMS]
        self.name = f"rules {fingerprint.of_values([LEXICON, forms, share])}"
        self.share, self.ways = share, tuple(Way("rules", (), draw) for draw in range(n))

    def __call__(self, requests: Sequence[Request]) -> list[Rewritten]:
        return [Rewritten(self._rewrite(request)) for request in requests]

    def _rewrite(self, request: Request) -> str:
        rng = random.Random(fingerprint.of_values([request.text, request.seed]))
        sentences = re.split(r"((?<=[.!?])\s+|\n+)", request.text)  # at odd places what is between them
        changed = [part if i % 2 else self._sentence(part, request.options, rng) for i, part in enumerate(sentences)]
        text = "".join(changed)
        return "" if text == request.text else text

    def _sentence(self, sentence: str, options: Sequence[str], rng: random.Random) -> str:
        changes = [_reorder, _reform, lambda text, rng: _synonyms(text, options, rng, self.share)]
        rng.shuffle(changes)
        for change in changes[: rng.choice((2, 3, 3))]:
            sentence = change(sentence, rng)
        return sentence


def _reorder(sentence: str, rng: random.Random) -> str:
    """A clause from one end of the sentence to the other."""
    if match := _TO_BACK.match(sentence):
        return f"{_raise(match['main'])} {_lower(match['clause'])}{match['end']}"
    if match := _TO_FRONT.match(sentence):
        return f"{_raise(match['clause'])}, {_lower(match['main'])}{match['end']}"
    return sentence


def _reform(sentence: str, rng: random.Random) -> str:
    """Another form of the first kind of question that fits; not of one with a clause beside it."""
    if re.search(rf"\s{_CLAUSE}\b", sentence, re.IGNORECASE):
        return sentence
    for pattern, forms in _FORMS:
        if match := pattern.match(sentence):
            return _raise(match.expand(rng.choice(forms)))
    return sentence


def _synonyms(sentence: str, options: Sequence[str], rng: random.Random, share: float) -> str:
    """Words of the lexicon that lie in no protected span, replaced from the end so that places stay valid."""
    fixed = spans(sentence, options)
    places = [
        match
        for match in _KNOWN.finditer(sentence)
        if not any(start < match.end() and match.start() < end for start, end in fixed)
    ]
    chosen = [match for match in places if rng.random() < share] or ([rng.choice(places)] if places else [])
    for match in reversed(chosen):
        word = rng.choice(_OTHERS[match[0].lower()])
        article = r"\1n " if word[0] in "aeio" else r"\1 "
        before = re.sub(r"\b([Aa])n? $", article, sentence[: match.start()])
        sentence = before + (_raise(word) if match[0][0].isupper() else word) + sentence[match.end() :]
    return sentence


def _others() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for pair in re.split(r"[;\n]", LEXICON.strip()):
        words = pair.split()
        # the first word of a pair is one word, unless its last two are particles of a verb
        cut = 2 if len(words) > 2 and words[1] in ("in", "back", "out", "for", "up") else 1
        one, other = " ".join(words[:cut]), " ".join(words[cut:])
        for word, instead in ((one, other), (other, one)):
            if word not in _AMBIGUOUS.split() and instead not in found.get(word, ()):
                found.setdefault(word, []).append(instead)
    return found


_OTHERS = _others()
_KNOWN = re.compile(rf"\b(?:{'|'.join(sorted(map(re.escape, _OTHERS), key=len, reverse=True))})\b", re.IGNORECASE)


def _raise(text: str) -> str:
    return text[:1].upper() + text[1:]


def _lower(text: str) -> str:
    """The first letter small, unless the word is a name, or I."""
    first = text.split(" ", 1)[0]
    return text if first.lower() not in _FUNCTION_WORDS.split() else text[:1].lower() + text[1:]


_FUNCTION_WORDS = """
a an the this that these those what which who whom whose where when why how is are was were do does did can could will
would should may if while after before because during according in on at by for from of to he she it they we you his
her its their our your my there name say find compute calculate determine explain describe pick give
"""
