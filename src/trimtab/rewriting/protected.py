"""Spans of a text that carry its label: numbers, units, negations, quantifiers, code, names, options and the answer.

English, and by rule; what else the rules see (opposites, an order turned round) is in `trimtab.rewriting.wording`. They
are strict: they would rather lose a good rewrite than let a wrong one pass.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

from trimtab.rewriting import wording, wordnet
from trimtab.rewriting.canonical import canonical
from trimtab.rewriting.lexicon import FUNCTION

_UNIT_GROUPS = """
km kilometre kilometres kilometer kilometers; m metre metres meter meters;
cm centimetre centimetres centimeter centimeters; mm millimetre millimetres millimeter millimeters; mile miles mi;
foot feet ft; inch inches; kg kilogram kilograms; g gram grams; mg milligram milligrams; tonne tonnes ton tons;
pound lb lbs pounds; l litre litres liter liters; ml millilitre millilitres milliliter milliliters;
s sec second seconds; ms millisecond milliseconds; min minute minutes; h hr hour hours; day days; week weeks;
month months; year years; % percent; °c celsius; °f fahrenheit; k kelvin; v volt volts; w watt watts; hz hertz;
j joule joules; n newton newtons; $ dollar dollars usd; € euro euros eur; £ gbp quid; cent cents
"""
_UNITS = {name: group.split()[0] for group in _UNIT_GROUPS.split(";") for name in group.split()}
"""unit as written, in small letters -> the one that counts for all that say the same"""
_WORD_NUMBERS = (
    "zero two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion half "
    "third quarter double triple twice dozen pair pairs couple first"
)
_QUANTIFIERS = (
    "all every each some most more less least few fewer fewest many much several both either only just merely solely "
    "exactly always sometimes often usually generally normally typically commonly rarely seldom hardly must together "
    "altogether total apiece largest greatest highest biggest maximum smallest lowest minimum too enough almost nearly"
)
_SMALL = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_SAME_GROUPS = """
all every each apiece; less fewer; most largest greatest highest biggest maximum;
least fewest smallest lowest minimum; almost nearly; only just merely solely;
often usually generally normally typically commonly; rarely seldom hardly; together total altogether; twice double;
pair pairs
"""
_SAME = {word: group.split()[0] for group in _SAME_GROUPS.split(";") for word in group.split()[1:]}
_SAME |= {word: str(i) for i, word in enumerate(_SMALL.split())}
"""quantifiers and numbers -> the one that counts for all that say the same"""
_NEGATIONS = (
    "not never no none nobody nothing nowhere neither nor without except unless cannot false incorrect untrue wrong "
    "unlike"
)

_DIGITS = r"\d+(?:,\d{3})*(?:\.\d+)?"
_UNIT = "|".join(re.escape(unit) for unit in sorted(_UNITS, key=len, reverse=True))
_MEASURED = re.compile(
    rf"(?<![\w.])(?P<sign>[-−+])?(?P<money>[$€£])?(?P<number>{_DIGITS})(?:[ -]?(?P<unit>{_UNIT})(?!\w))?", re.IGNORECASE
)
_CODE = re.compile(
    r"```.*?```|`[^`\n]+`"  # fenced and quoted
    r"|\$[^\s$](?:[^$\n]*[^\s$])?\$(?!\d)|\\\w+"  # formulas of TeX
    r"|https?://\S+"
    r"|\b\w+\([^()\n]*\)|\b\w*_\w+\b"  # calls and names with an underscore
    r"|[=<>≤≥≠^*×÷+]",
    re.DOTALL,
)
_NAME = re.compile(r"(?<!°)(?<!° )\b(?:[A-Z][\w'’-]*|\w*(?:\d[A-Za-z]|[a-z][A-Z]|[A-Za-z]\d)\w*)")
_SENTENCE = re.compile(r"(?:^|(?<=[.!?:])\s+|\n\s*)[\"'“‘(]*")


def _words(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(words.split())})\b", re.IGNORECASE)


_PATTERNS = {
    "numbers": _words(_WORD_NUMBERS),
    "negations": re.compile(_words(_NEGATIONS).pattern + r"|(?<=\w)n['’]t\b", re.IGNORECASE),
    "quantifiers": re.compile(rf"(?<!\bhow )(?<!\bas ){_words(_QUANTIFIERS).pattern}", re.IGNORECASE),
}
SPANS = ("answer", "options", "code", "numbers", "units", "negations", "quantifiers", "names", "opening")
"""kinds of spans; the last are names that open a sentence, and may be written small elsewhere"""
COUNTED = ("numbers", "units", "negations", "quantifiers")
"""kinds whose ways to be written are made one before they are counted"""
KINDS = (*SPANS[:-1], *wording.KINDS)
"""what `broken` finds"""


def named(phrase: str) -> re.Pattern[str]:
    """Where an option or an answer is named: as whole words, in any case."""
    return re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE)


def _found(text: str, options: Sequence[str], answer: Sequence[str]) -> Iterator[tuple[str, str, int, int]]:
    """(kind, normal form, start, end) of each span."""
    for match in _CODE.finditer(text):
        yield "code", match[0], *match.span()
    for match in _MEASURED.finditer(text):
        number = (match["sign"] or "").replace("−", "-").replace("+", "") + match["number"].replace(",", "")
        yield "numbers", number, *match.span()
        unit = match["unit"] or match["money"]
        if unit:
            yield "units", f"{number} {_UNITS[unit.lower()]}", *match.span()
    for kind, pattern in _PATTERNS.items():
        for match in pattern.finditer(text):
            form = match[0].lower().replace("’", "'")
            yield kind, "not" if form in ("n't", "cannot") else _SAME.get(form, form), *match.span()
    starts = {match.end() for match in _SENTENCE.finditer(text)}
    for match in _NAME.finditer(text):
        if match[0] != "I" and (match.start() not in starts or not match[0].istitle()):
            yield "names", re.sub(r"['’]s$", "", match[0]), *match.span()
        elif match[0] != "I" and _opens(match[0], text[match.end() :]):
            yield "opening", re.sub(r"['’]s$", "", match[0]), *match.span()
    for kind, phrases in (("options", options), ("answer", answer)):
        for phrase in phrases:
            if len(phrase) > 1 or phrase.isdigit():  # the letters a and I are words too
                for match in named(phrase).finditer(text):
                    yield kind, phrase.casefold(), *match.span()


def _opens(word: str, rest: str) -> bool:
    """Whether the first word of a sentence is a name: none that WordNet knows, or one before another capital."""
    word = re.sub(r"['’]s$", "", word).lower()
    if word in FUNCTION or not word.isalpha():
        return False
    return not wordnet.known(word) or bool(re.match(r" [A-Z][a-z]", rest))


def spans(text: str, options: Sequence[str] = (), answer: Sequence[str] = ()) -> list[tuple[int, int]]:
    """Places of a text that a rewrite must carry over, in order; they may overlap."""
    return sorted({(start, end) for _, _, start, end in _found(text, options, answer)})


def _forms(name: str) -> Iterator[str]:
    """Patterns of a name, of how else it is written, and of what is of it: Europe, European; Iran, Iranian."""
    yield re.escape(canonical(name).strip())
    yield re.escape(name) + (r"(?:n|an|ian)?" if len(name) > 3 else "")
    for ending in ("ian", "an", "n"):
        if name.endswith(ending) and len(name) - len(ending) > 3:
            yield re.escape(name.removesuffix(ending))


def broken(original: str, candidate: str, options: Sequence[str] = (), answer: Sequence[str] = ()) -> str | None:
    """The first kind of span that a rewrite does not carry over, or of change that `wording.changed` sees, or None.

    A rewrite has the same numbers, units, negations, quantifiers and code as often as the original, and all its names.
    It names an option, and the answer, as often as the original does: what it names anew would be a hint.

    Args:
        original, candidate: texts.
        options: other than the answer.
        answer: texts of the correct options, or the open answer.

    Returns:
        One of `KINDS`.
    """
    before: dict[str, Counter[str]] = {kind: Counter() for kind in SPANS}
    after: dict[str, Counter[str]] = {kind: Counter() for kind in SPANS}
    for text, counts in ((original, before), (candidate, after)):
        for form, canonised in ((text, False), (canonical(text), True)):
            for kind, found, _, _ in _found(form, options, answer):
                if (kind in COUNTED) == canonised:
                    counts[kind][found] += 1
    for kind in SPANS[:-2]:
        if before[kind] != after[kind]:
            return kind
    for kind, flags in (("names", 0), ("opening", re.IGNORECASE)):
        texts = f"{candidate}\n{canonical(candidate)}"
        for name in before[kind]:
            if not any(re.search(rf"(?<!\w){form}(?!\w)", texts, flags) for form in _forms(name)):
                return "names"
    return wording.changed(original, candidate)
