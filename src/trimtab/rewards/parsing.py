r"""Which option does a free text choose? One parser for all suites and rewards with options.

Precision comes before recall: a text that hedges ("A or B"), weighs options without settling on one, or was cut off
before it did, chooses nothing. `tests/rewards/written_answers.jsonl` holds what is understood, example by example.

A text is read in steps: thoughts are left out, LaTeX, markdown and JSON become plain words, letters of options become
marks (⟦B⟧, several that "and" or a comma joins ⟦AC⟧, that "or" joins ⟦AC|⟧), what is ruled out becomes ∅, and then
the first of these that is found decides:

1. a box or a final answer, the last one;
2. an announced answer ("the answer is C", "I choose (c)", "D is correct", "答案是C", "选C"), the last one, but for what
   is said under a condition, of other people, or as a question;
3. letters that open a line ("C. ...", "**C**"), unless the lines go through the options;
4. the text of an option, as the whole reply, as its beginning, or as the only one that the last sentence names;
5. the only letter of a short reply.
"""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from typing import NamedTuple

# ---------------------------------------------------------------- thoughts

_NAMES = r"(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis|seed:think)"
_OPENS = rf"<{_NAMES}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis(?:<\|message\|>)?"
_CLOSES = rf"</{_NAMES}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final(?:<\|message\|>)?"
_TAG = re.compile(f"(?P<opens>{_OPENS})|(?P<closes>{_CLOSES})", re.IGNORECASE)


def without_reasoning(text: str) -> str:
    """What a reply says outside its thoughts: <think> blocks and those of other families (<thinking>, [THINK],
    <|channel|>analysis, ...).

    A block that is never closed reaches to the end: such a reply was cut off before it answered. A closing tag alone
    ends a block that the chat template opened.
    """
    kept: list[str] = []
    start, inside = 0, False
    for tag in _TAG.finditer(text):
        if tag["opens"] and not inside:
            kept.append(text[start : tag.start()])
            inside = True
        elif tag["closes"]:
            if not inside:
                kept.clear()  # the template opened it
            start, inside = tag.end(), False
    if not inside:
        kept.append(text[start:])
    return " ".join(kept).strip()


# ---------------------------------------------------------------- plain words

_REWRITES = [
    (re.compile(pattern, re.IGNORECASE), replacement)
    for pattern, replacement in (
        (r"~~[^~\n]{0,200}~~", " "),
        (r"\b(or|and)\s*\$*\s*\\f?boxed", r" \1 "),
        (r"\\f?boxed\s*", " \nfinal answer: "),
        (r"\\(?:text|textbf|mathrm|mathbf|mathsf|textit|operatorname|rm|bf|mbox)(?![a-z])", " "),
        (r"\\[()\[\]]|\$|\\[,;:! ]|\\(?:left|right|quad|qquad)(?![a-z])", " "),
        (r"</?(?:answer|final|final_answer|choice|option)>", "\nfinal answer: "),
        (r"<\|[a-z_]*\|>|</?[bi]>|</?strong>|</?em>|<br\s*/?>", " "),
        (r"[*`\"“”「」『』‘]|__", ""),
        (r"(?<!\w)_([^_\n]{1,60})_(?!\w)", r"\1"),
        (r"[【】]", " "),
        (r"(?m)^[ \t]*[#>]+[ \t]*", ""),
        (r"[→⇒∴]|=>|->|-->", " therefore "),
        (r"[—–―]", " - "),
        (r"[{}]", " "),
        (r"(?<!\w)'([A-Z])'(?!\w)", r"\1"),
    )
]


def _plain(text: str) -> str:
    text = text.replace("，", "; ").replace("’", "'")
    text = unicodedata.normalize("NFKC", text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return re.sub(r"[⟦⟧∅]", " ", text).strip()


# ---------------------------------------------------------------- letters become marks


class _Letters(NamedTuple):
    """Patterns for the letters that are offered."""

    small: re.Pattern[str]
    several: re.Pattern[str]
    one: re.Pattern[str]


_AFTER_A = (
    "and|or|is|was|because|since|as|seems?|looks?|fits?|matches|suits|works?|makes|must|should|would|could|might|may"
    "|will|cannot|can|comes|too|does|doesn't|isn't|wasn't|can't|but|though|although|while|which|it"
)
_ENDS = r"(?![A-Za-z0-9_]|['’][A-Za-z]|-[A-Za-z])"


@cache
def _letters(offered: str) -> _Letters:
    small = offered.lower()
    before = r"(?<![A-Za-z0-9_'’\-\\])"
    lead = r"\b(?:answer|option|choice|letter|choose|chose|pick|picked|select|selected|go with)s?\b"
    link = r"(?:\s*(?:\bis\b|\bare\b|\bwould be\b|\bmust be\b|\boption\b|\bchoice\b|:|=|-)){0,6}\s*"
    no_word = rf"(?!(?<=a) +(?!(?:{_AFTER_A})\b)[a-z])"
    return _Letters(
        small=re.compile(
            rf"(?i:(?P<lead>{lead}{link}|(?:选项|答案|选择?)(?:是|为|:)?\s*))(?P<one>[{small}]){_ENDS}{no_word}"
            rf"|\((?P<inner>[{small}])\)|^[ \t]*(?P<line>[{small}])(?=[.):]|[ \t]*$)",
            re.MULTILINE,
        ),
        several=re.compile(
            before + f"(?=[{offered}]{{2}})" + "".join(f"{letter}?" for letter in offered) + r"(?![A-Za-z0-9_'’])"
        ),
        one=re.compile(rf"{before}[(\[]?(?P<one>[{offered}]){_ENDS}[)\]]?"),
    )


_MARK = r"⟦([^⟧]*)⟧"
_SUBJECT = (
    r"(?:\s*(?:and|or|和|与|及|或|、|,)\s*⟦[^⟧]*⟧){0,8}\s*"
    r"(?:(?:is|are|was|were|seems?|has|have|does|do|looks?)\b|[太不过很更没都均])"
)
_JOINED = re.compile(
    r"⟦[^⟧]*⟧(?:\s*(?:"
    r"(?:(?:,\s*)?(?:\b(?:and|or)\b|或者|还是|以及|和|与|及|或)(?:\s*(?:also|possibly|maybe|perhaps|even)\b)?)"
    rf"|[/&+、]|,(?!\s*⟦[^⟧]*⟧{_SUBJECT}))\s*(?:选项|(?:option|choice)\s+)?⟦[^⟧]*⟧)+",
    re.IGNORECASE,
)
_OR = re.compile(r"\bor\b|或|还是|/")

_BEFORE = (
    r"(?:\b(?:not|never|cannot|rather than|instead of|except|unlike|neither|nor|none of"
    r"|(?:eliminat|exclud|reject|discard|dismiss)(?:e|es|ed|ing)?|(?:rule|rules|ruled|ruling) out)\b|n't\b"
    r"|不是|不等于|并非|排除|而非|除了|不(?:应该?|应当|该|能|会|要|可以?|太)?(?:选择?|是|为))"
)
_LINKS = (
    r"(?:\s|\b(?:be|is|to be|choose|pick|select|go with|go for|the|options?|choices?|answers?|either|both|such as)\b"
    r"|选项|答案|[(:]){0,16}"
)
_OUT_BEFORE = re.compile(rf"{_BEFORE}{_LINKS}{_MARK}(?:\s*(?:nor|or|and|[,、和与及或])\s*{_MARK})*", re.IGNORECASE)
_BE = r"(?:\s+(?:is|are|was|were|seems?|looks?|would be|can be|can|could|does|do|did|has|have|had|will|would|should))"
_OUT_AFTER = re.compile(
    rf"{_MARK}(?:{_BE}(?:\s+(?:also|both|all|clearly|obviously|simply|just|then|therefore|thus)\b)*"
    r"(?:n't|\s+(?:not|never|wrong|incorrect|false|untrue|too|out|off|invalid|impossible|ruled|eliminated|excluded)\b)"
    r"|\s+(?:cannot|contradicts?|fails?)\b"
    r"|\s*(?:选项|项)?(?:则|也|都|均|就|显然|明显|是|与[^,;。\n]{0,12})*(?:不|错|太|过于|排除|有误|无关|没有))",
    re.IGNORECASE,
)


def _marked(text: str, offered: str) -> str:
    """A plain text with ⟦letters⟧ for options, ⟦letters|⟧ where "or" joins them, and ∅ for what is ruled out."""
    patterns = _letters(offered)

    def small(found: re.Match[str]) -> str:
        letter = found["one"] or found["inner"] or found["line"]
        return f"{found['lead'] or ''} ⟦{letter.upper()}⟧"

    text = patterns.small.sub(small, text)
    text = patterns.several.sub(lambda found: f"⟦{found[0]}⟧", text)
    pieces = re.split(r"(⟦[^⟧]*⟧)", text)
    text = "".join(piece if piece.startswith("⟦") else patterns.one.sub(_one, piece) for piece in pieces)
    text = _OUT_BEFORE.sub(" ∅ ", text)
    text = _JOINED.sub(_join, text)
    return _OUT_AFTER.sub(" ∅ ", text)


def _one(found: re.Match[str]) -> str:
    """A letter's mark; the article "A" at the beginning of a sentence and the pronoun "I" stay."""
    letter, rest = found["one"], found.string[found.end() :]
    article = found[0] == "A" and re.match(rf" +(?!(?:{_AFTER_A})\b)[a-z]", rest) is not None
    within = re.search(r"[a-z,;] *$", found.string[: found.start()][-20:]) is not None
    pronoun = letter == "I" and re.match(r" +[a-z']", rest) is not None
    return found[0] if (article and not within) or pronoun else f"⟦{letter}⟧"


def _join(found: re.Match[str]) -> str:
    inside = "".join(re.findall(_MARK, found[0]))
    named = "".join(dict.fromkeys(letter for letter in inside if letter != "|"))
    hedged = "|" in inside or _OR.search(re.sub(_MARK, "", found[0])) is not None
    return f"⟦{named}{'|' * (hedged and len(named) > 1)}⟧"


# ---------------------------------------------------------------- what announces

_FILL = (
    r"(?:[\s:=,\-(∅;]|\b(?:is|are|was|were|be|been|being|would|should|must|might|may|could|will|can|has|to|seems?"
    r"|appears?|likely|probably|most|definitely|clearly|simply|indeed|therefore|thus|hence|then|here|but|rather|instead"
    r"|option|choice|letter|answer|number|the|it|it's|that's|of|this|question|given by|obviously"
    r"|actually|really|in fact)\b"
    r"|就|应该?|应当|可能|大概|是|为|选|选项){0,24}?"
)
_PREDICATE = r"(?:(?:,?\s+(?:then|therefore|thus|by far|clearly|indeed|definitely|obviously))*\s*)"
_POSITIVE = (
    r"(?:\s+(?:is|are|was|must be|would be|should be|has to be|seems to be|appears to be|seems|appears|looks|remains?"
    r"|feels)|\s+(?:provides|gives|offers|represents|describes|captures|is))"
    r"(?:\s+(?:also|clearly|indeed|definitely|therefore|thus|both|all|probably|likely|obviously|simply))*"
    r"\s+(?:correct|right|true|best|(?:the|my|our)\s+(?:\w+[ -]){0,3}?"
    r"(?:answer|choice|option|one|fit|response|reply|pick|match|solution|best|most \w+|only \w+)\b)"
)
_FINAL = re.compile(
    rf"\bfinal(?:ly)?\s+(?:answer|choice|option|decision)\b{_FILL}{_MARK}|最终(?:答案|选择){_FILL}{_MARK}", re.I
)
_ANNOUNCED = re.compile(
    rf"(?:\b(?:answers?|solution|verdict|conclusion)\b{_FILL}"
    r"|\b(?:answers?|options?|choices?|letters?|one)\s+(?:that|which|to|for|of|in|among)\b"
    rf"(?:(?!\bnot\b|n't\b)[^.;?!\n⟦∅]){{0,80}}?\b(?:is|are|would be|must be)\b{_FILL}"
    rf"|\b(?:options?|choices?|letters?|response|reply|selection|pick|statement)\b\s*(?:\([^)\n]*\)|here|now)?\s*"
    rf"(?:\b(?:is|are|was|would|should|must|might|may|could|has|seems?|appears?|to)\b|[:=]){_FILL}"
    r"|\b(?:choos(?:e|es|ing)|chose|pick(?:s|ed|ing)?|select(?:s|ed|ing)?|(?:go|goes|going|went)\s+(?:with|for)"
    r"|opt(?:s|ed|ing)?\s+for|settl(?:e|ed|ing)\s+on|prefers?|says?|repl(?:y|ies)|respond|vote for|favou?r|conclude)\b"
    rf"(?:[\s:(]|\b(?:with|option|choice|answer|letter|the|that it's|that it is)\b){{0,16}}"
    r"|\b(?:(?:it|that|this)(?:\s+(?:is|was|must be|has to be|would be|should be|will be|could be|might be|may be"
    r"|might also be|could also be|may also be)|'s)|has to be|must be|leaves|leaving|left with|corresponds? to|matches"
    r"|points? to|namely)"
    rf"(?:[\s:(∅;]|\b(?:us|with|only|but|definitely|probably|likely|clearly|therefore|thus|then|simply|option|choice"
    r"|answer|the|rather|actually|really|in fact|indeed)\b){0,16}"
    r"|(?:答案|正确的|合适的|贴切的|恰当的|符合的|选项|结论|选择)\s*(?:就|应该?|应当|可能|大概|也许|只能|一定)?\s*(?:是|为|选|:)"
    r"[\s:(∅;,]*(?:而是|选项|选)?\s*"
    r"|答案\s*[(:]?\s*"
    r"|(?:选择|选定|选出|选)\s*(?:了|的是|项|出)?[\s:(]*(?:选项|答案)?\s*"
    r"|(?:应该?|应当|就|而|只能|可能|也许|大概|一定|肯定)(?:是|为)\s*(?:选项)?\s*"
    rf"){_MARK}"
    rf"|{_MARK}{_PREDICATE}{_POSITIVE}"
    rf"|{_MARK}\s*(?:选项|项)?\s*(?:则|也|才|就)?(?:是|为)?(?:更|最|比较|才|完全|更加|最为)*"
    r"(?:正确|合适|贴切|恰当|符合|对的|适合|准确|合理|佳|好)",
    re.IGNORECASE,
)
_WEAKLY = re.compile(
    rf"{_MARK}{_PREDICATE}\s+(?:(?:best|better|also)\s+)?(?:fits?|match(?:es)?|works|suits|remains?|wins|it is)\b"
    rf"|\b(?:is|was)\s+(?:option\s+|choice\s+)?{_MARK}(?=\s*(?:[.!;:)]|,|$|because|since|as\b|which))"
    r"|(?:^|[.!?;:,\n])\s*(?:no|so|hence|thus|therefore|probably|maybe|perhaps|definitely|likely|surely|certainly|clearly"
    r"|in summary|in conclusion|overall|finally|conclusion|but|yet|因此|所以|故)[\s,:(]*(?:option|choice|it's|选项)?\s*"
    rf"{_MARK}\)?\s*(?=[.!,;\n]|$)"
    rf"|\bbut\s+(?:option\s+)?{_MARK}(?:\s+(?:is|does|fits|works))?\s*$"
    rf"|(?<!not )\bonly\s+(?:option\s+|choice\s+)?{_MARK}(?=\s+\w)",
    re.IGNORECASE,
)
_TENTATIVE = re.compile(r"\b(?:might|may|could|possibly|perhaps|maybe)\b|可能|也许|大概", re.IGNORECASE)
_OTHERS = re.compile(
    r"\b(?:many|some|most|other)\s+(?:\w+\s+)?(?:students|people|readers|would|might|may|say|choose|pick)\b|\bstudents\b"
    r"|\bothers\b|\btempt\w*|\bmistake\w*|\bmistaken\w*|\bone (?:might|may|could)\b|\byou (?:might|may|could)\b|\bwhy\b"
    r"|\bwhether\b|\bwrong to\b|\bsuppos(?:e|ing)\b"
    r"|\bassum(?:e|ing)\b|\bimagine\b|\binitially\b|\bat first\b|有人|很多人|容易误|假设",
    re.IGNORECASE,
)
_IF = re.compile(r"\bif\b(?!\s+I (?:had|have|must|were) to)|\bunless\b|\bhad the\b|如果|假如|要是", re.IGNORECASE)
_STOPS = re.compile(r"[.!?。！？](?=[\s⟦]|$)|\n+|[。！？]")


def _sentences(text: str) -> Iterator[tuple[str, str]]:
    """Each sentence with the sign that ends it."""
    start = 0
    for stop in _STOPS.finditer(text):
        yield text[start : stop.start()], stop[0]
        start = stop.end()
    yield text[start:], ""


def _found(pattern: re.Pattern[str], sentence: str) -> Iterator[tuple[str, str, int]]:
    """The letters of each match, the match with the clause before it, and where it ends."""
    place = 0
    while match := pattern.search(sentence, place):
        named = next(group for group in match.groups() if group is not None)
        clause = max(sentence.rfind(sign, 0, match.start()) for sign in ";,")
        yield named, sentence[clause + 1 : match.end()], match.end()
        place = match.start() + 1 if match.end() == match.start() else match.end()


def _announced(marked: str, pattern: re.Pattern[str]) -> str | None:
    """The letters of the last announcement; "|" where it hedges, or where several tentative ones differ."""
    firm, tentative, conditional = [], [], []
    for sentence, stop in _sentences(marked):
        asks = stop in ("?", "？") and not re.search(r"\bfinal answer:|,\s*(?:isn't it|right|no)\s*$", sentence)
        if asks:
            continue
        for named, clause, end in _found(pattern, sentence):
            if _OTHERS.search(clause):
                continue
            if _IF.search(sentence[:end]) or re.match(
                r"\s*,?\s*(?:only\s+|but\s+)?(?:if|unless|when)\b", sentence[end:]
            ):
                if (not _IF.search(clause) and ";" in sentence[:end]) or re.search(
                    r",\s*(?:but|so|and so|yet)\b", sentence[:end]
                ):
                    firm.append(named)
                elif not re.search(r"\b(?:would|were|had)\b", sentence):
                    conditional.append(named)
            elif _TENTATIVE.search(clause) or "|" in named:
                tentative.append(named)
            else:
                firm.append(named)
    if firm:
        return firm[-1]
    together = "".join(dict.fromkeys(letter for named in tentative for letter in named if letter != "|"))
    if together:
        return together if len(together) == 1 else f"{together}|"
    return conditional[-1] if conditional else None


# ---------------------------------------------------------------- letters that open a line

_LINE = re.compile(
    rf"^[ \t\-•]*(?P<noun>(?:option|choice|answer|letter|选项|答案)\s*)?{_MARK}(?P<rest>.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_GOOD = re.compile(r"\b(?:fits|correct|right|best|works|matches|true)\b|正确|合适|符合|✓|✔|✅", re.IGNORECASE)
_BAD = re.compile(r"\b(?:not|wrong|incorrect|false|too|no|never)\b|n't\b|[不错太]|✗|✘|❌", re.IGNORECASE)


def _opening(marked: str, texts: Mapping[str, str], several: bool) -> str | None:
    """Letters that open lines; "" where the lines go through the options and settle on none."""
    found: list[tuple[str, str]] = []
    for line in _LINE.finditer(marked):
        named, rest = line[2], line["rest"].strip()
        text = _key(texts.get(named, ""))
        exact = bool(text) and _key(rest).startswith(text)
        bare = not rest.strip(" .:!)-")
        if line["noun"] and not (bare or exact):
            found.append((named, " ✗"))  # talks about an option
        elif bare or exact or re.match(r"[.:,!)、\-;]", rest):
            found.append((named, rest))
    if not found:
        return None
    if re.search(rf"{_MARK}\s*[:.)]", found[0][1]):  # one line that lists the options
        return ""
    distinct = list(dict.fromkeys(named for named, _ in found))
    if len(distinct) == 1:
        text = _key(texts.get(distinct[0], ""))
        if text and _key(found[0][1]).startswith(text):
            return distinct[0]
        about = re.split(r"[,;.]|\b(?:because|since|as|while|whereas)\b", found[0][1].lstrip(" .:,!)-;"))[0]
        return "" if len(found) == 1 and _BAD.search(about) else distinct[0]
    good = list(dict.fromkeys(named for named, rest in found if _GOOD.search(rest) and not _BAD.search(rest)))
    if len(good) == 1 and not several:
        return good[0]
    if not found[-1][1].strip(" .:!)-") and len([1 for _, rest in found if not rest.strip(" .:!)-")]) == 1:
        return found[-1][0]  # a bare letter after the options were gone through
    if several and len(distinct) < len(texts) and not any(_BAD.search(rest) for _, rest in found):
        return "".join(distinct)
    return ""


# ---------------------------------------------------------------- texts of options


def _key(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().replace("’", "'").split()).strip(" .,:;!?。-()\"'“”")


_STATED = re.compile(
    r"\b(?:answer|option|choice)\b(?:\s+(?:is|would be|must be|should be))?\s*:?\s*(?P<rest>.+)"
    r"|\b(?:it's|it is|that's|that is|i choose|i pick|i'd go with|i would choose|i would say)\s+(?P<other>.+)"
    r"|(?:答案|应该?|选择?)\s*(?:是|为|:)?\s*(?P<zh>.+)",
    re.IGNORECASE,
)
_UNSURE = re.compile(
    r"\b(?:not|whether|if|need to|find|suppose|assume|let|or|nor|neither|than|cannot tell)\b|n't\b|\?|[不否]|还是|或",
    re.IGNORECASE,
)


_CONCLUDES = re.compile(r"\b(?:so|hence|thus|therefore|must be|answer|conclusion|remains|leaves)\b|因此|所以|故", re.I)


def _by_text(plain: str, texts: Mapping[str, str]) -> str | None:
    keys = {letter: _key(text) for letter, text in texts.items() if _key(text)}
    if not keys:
        return None
    any_ = "|".join(map(re.escape, keys.values()))
    negated = re.compile(rf"\b(?:not|rather than|instead of|neither|nor)\s+(?:the\s+)?(?:{any_})(?!\w)", re.IGNORECASE)
    if not any(negated.search(key) for key in keys.values()):
        plain = negated.sub(" ", plain)
    whole = _key(plain)
    for letter, key in keys.items():
        if whole == key:
            return letter
    sentences = [one for one, _ in _sentences(plain) if one.strip()]
    for sentence in reversed(sentences):
        stated = _STATED.search(sentence)
        if stated and not _UNSURE.search(sentence[: stated.start()]):
            rest = _key(stated["rest"] or stated["other"] or stated["zh"])
            for letter in sorted(keys, key=lambda one: -len(keys[one])):
                if re.match(rf"(?:the |an? )?{re.escape(keys[letter])}(?!\w)", rest) and _alone(rest, letter, keys):
                    return letter
    if sentences:
        first = _key(sentences[0])
        for letter in sorted(keys, key=lambda one: -len(keys[one])):
            if re.match(rf"{re.escape(keys[letter])}(?:$|[,;:]| - | because| since)", first) and _alone(
                first, letter, keys
            ):
                return letter
        last = _key(sentences[-1])
        clauses = [
            one for one in re.split(r"[,;:]|\b(?:so|hence|thus|therefore)\b|因此|所以|故", last) if _named(one, keys)
        ]
        last = clauses[0] if len(clauses) == 1 else last
        named = _named(last, keys)
        rest = last
        for letter in named:
            rest = rest.replace(keys[letter], " ")
        others = {letter for sentence in sentences[:-1] for letter in _named(_key(sentence), keys)} - set(named)
        if others and not _CONCLUDES.search(sentences[-1]):
            return None
        if len(named) == 1 and (len(keys[named[0]]) > 3 or not keys[named[0]].isascii()) and not _UNSURE.search(rest):
            return named[0]
    return None


def _named(sentence: str, keys: Mapping[str, str]) -> list[str]:
    """Options that a sentence names; not such whose text is a part of another's that it names."""
    spans: dict[str, list[tuple[int, int]]] = {}
    for letter, key in keys.items():
        edges = (r"(?<!\w)", r"(?!\w)") if key.isascii() else ("", "")
        if of := [found.span() for found in re.finditer(f"{edges[0]}{re.escape(key)}{edges[1]}", sentence)]:
            spans[letter] = of
    every = [span for of in spans.values() for span in of]
    return [
        letter
        for letter, of in spans.items()
        if any(not any(s <= a and b <= e and (s, e) != (a, b) for s, e in every) for a, b in of)
    ]


def _alone(sentence: str, letter: str, keys: Mapping[str, str]) -> bool:
    """Whether no other option is named beside it, save after "not"."""
    kept = re.sub(r"\b(?:not|rather than|instead of)\b.*|而不是.*|不是.*", "", sentence.replace(keys[letter], "\1", 1))
    return not _named(kept, {one: key for one, key in keys.items() if one != letter})


# ---------------------------------------------------------------- a letter alone

_NAMED_SO = re.compile(
    r"\b(?:point|points|line|lines|angle|angles|vertex|segment|ray|circle|triangle|side|plan|vitamin|grade|type|class"
    r"|team|part|figure|table|section|appendix|group|step|case|model|company|person|train|car|box|set|node|city|player"
    rf"|room|level|series)\s+{_MARK}",
    re.IGNORECASE,
)


def _lone(marked: str) -> str | None:
    named = re.findall(_MARK, marked)
    if not named or "|" in "".join(named) or "?" in marked or _OTHERS.search(marked) or _IF.search(marked):
        return None
    if len(named) == 1 and len(marked.split()) <= 12 and not _NAMED_SO.search(marked):
        if re.search(rf"\b(?:option|choice)\s*{_MARK}\s*\S", marked, re.IGNORECASE) or re.search(
            rf"{_MARK}\s*:", marked
        ):
            return None  # talks about an option
        return named[0]
    return None


# ---------------------------------------------------------------- the whole


def letters(text: str, offered: Mapping[str, str] | Collection[str], several: bool = False) -> tuple[str, ...]:
    """The options that a reply ends up choosing, in the order named; empty where it chooses none.

    Args:
        text: any.
        offered: capital letters, or letter -> text of the option, which is then understood as well; nothing else is
            ever returned.
        several: whether more than one may be right. If not, a reply that names several has not chosen.
    """
    texts = dict(offered) if isinstance(offered, Mapping) else dict.fromkeys(offered, "")
    single = {letter: option for letter, option in texts.items() if re.fullmatch("[A-Z]", letter)}
    plain = _plain(without_reasoning(text))
    if not plain or not texts:
        return ()
    if not single:
        return _other_names(plain, texts)
    chosen = _chosen(plain, single, several)
    if "|" in chosen:
        return ()
    found = tuple(dict.fromkeys(chosen))
    return found if several or len(found) == 1 else ()


def _chosen(plain: str, texts: Mapping[str, str], several: bool) -> str:
    if _key(plain).upper() in texts and len(plain.strip(" .:()[]")) == 1:
        return _key(plain).upper()
    marked = _marked(plain, "".join(sorted(texts)))
    for pattern in (_FINAL, _ANNOUNCED):
        if (named := _announced(marked, pattern)) is not None:
            return named
    opening = _opening(marked, texts, several)
    if opening:
        return opening
    if (weak := _announced(marked, _WEAKLY)) is not None:
        return weak
    if opening is None and several and (whole := re.fullmatch(rf"\s*(?:both\s+)?{_MARK}[\s.!]*", marked, re.I)):
        return whole[1]
    by_text = None if opening == "" else _by_text(plain, texts)
    if by_text is not None:
        return by_text
    return (_lone(marked) or "") if opening is None else ""


def _other_names(plain: str, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Options that are not called by capital letters, such as 1 and 2."""
    names = "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))
    said = re.findall(
        rf"(?i:\banswer\b|\boption\b|\bchoice\b|答案|选项|选)[\s:(是为]*(?:is\s+|option\s+)?\(?({names})(?!\w|[.,]\d)",
        plain,
    )
    if said:
        return tuple(said[-1:]) if len(set(said)) == 1 or re.search(r"\banswer\b", plain, re.IGNORECASE) else ()
    if match := re.match(rf"\(?({names})(?:[).:](?!\d)|\s*$)", plain):
        return (match[1],)
    by_text = _by_text(plain, texts)
    return () if by_text is None else (by_text,)
