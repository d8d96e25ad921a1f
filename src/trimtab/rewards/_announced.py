"""The letters that a reply announces as its answer."""

import re
from collections.abc import Iterator

from trimtab.rewards._marks import MARK

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
FINAL = re.compile(
    rf"\bfinal(?:ly)?\s+(?:answer|choice|option|decision)\b{_FILL}{MARK}|最终(?:答案|选择){_FILL}{MARK}", re.I
)
ANNOUNCED = re.compile(
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
    rf"){MARK}"
    rf"|{MARK}{_PREDICATE}{_POSITIVE}"
    rf"|{MARK}\s*(?:选项|项)?\s*(?:则|也|才|就)?(?:是|为)?(?:更|最|比较|才|完全|更加|最为)*"
    r"(?:正确|合适|贴切|恰当|符合|对的|适合|准确|合理|佳|好)",
    re.IGNORECASE,
)
WEAKLY = re.compile(
    rf"{MARK}{_PREDICATE}\s+(?:(?:best|better|also)\s+)?(?:fits?|match(?:es)?|works|suits|remains?|wins|it is)\b"
    rf"|\b(?:is|was)\s+(?:option\s+|choice\s+)?{MARK}(?=\s*(?:[.!;:)]|,|$|because|since|as\b|which))"
    r"|(?:^|[.!?;:,\n])\s*(?:no|so|hence|thus|therefore|probably|maybe|perhaps|definitely|likely|surely|certainly|clearly"
    r"|in summary|in conclusion|overall|finally|conclusion|but|yet|因此|所以|故)[\s,:(]*(?:option|choice|it's|选项)?\s*"
    rf"{MARK}\)?\s*(?=[.!,;\n]|$)"
    rf"|\bbut\s+(?:option\s+)?{MARK}(?:\s+(?:is|does|fits|works))?\s*$"
    rf"|(?<!not )\bonly\s+(?:option\s+|choice\s+)?{MARK}(?=\s+\w)",
    re.IGNORECASE,
)
_TENTATIVE = re.compile(r"\b(?:might|may|could|possibly|perhaps|maybe)\b|可能|也许|大概", re.IGNORECASE)
OTHERS = re.compile(
    r"\b(?:many|some|most|other)\s+(?:\w+\s+)?(?:students|people|readers|would|might|may|say|choose|pick)\b|\bstudents\b"
    r"|\bothers\b|\btempt\w*|\bmistake\w*|\bmistaken\w*|\bone (?:might|may|could)\b|\byou (?:might|may|could)\b|\bwhy\b"
    r"|\bwhether\b|\bwrong to\b|\bsuppos(?:e|ing)\b"
    r"|\bassum(?:e|ing)\b|\bimagine\b|\binitially\b|\bat first\b|有人|很多人|容易误|假设",
    re.IGNORECASE,
)
IF = re.compile(r"\bif\b(?!\s+I (?:had|have|must|were) to)|\bunless\b|\bhad the\b|如果|假如|要是", re.IGNORECASE)
_STOPS = re.compile(r"[.!?。！？](?=[\s⟦]|$)|\n+|[。！？]")


def sentences_of(text: str) -> Iterator[tuple[str, str]]:
    """Each sentence with its final punctuation mark."""
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


def announced_letters(marked: str, pattern: re.Pattern[str]) -> str | None:
    """The letters of the last announcement; "|" if it hedges, or if several tentative ones differ."""
    firm, tentative, conditional = [], [], []
    for sentence, stop in sentences_of(marked):
        asks = stop in ("?", "？") and not re.search(r"\bfinal answer:|,\s*(?:isn't it|right|no)\s*$", sentence)
        if asks:
            continue
        for named, clause, end in _found(pattern, sentence):
            if OTHERS.search(clause):
                continue
            if IF.search(sentence[:end]) or re.match(
                r"\s*,?\s*(?:only\s+|but\s+)?(?:if|unless|when)\b", sentence[end:]
            ):
                if (not IF.search(clause) and ";" in sentence[:end]) or re.search(
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
