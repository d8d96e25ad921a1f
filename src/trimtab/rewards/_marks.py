"""Normalising a reply: reasoning is removed, and option letters become marks."""

import re
import unicodedata
from functools import cache
from typing import NamedTuple

_NAMES = r"(?:think|thinking|thoughts?|reasoning|reflection|scratchpad|analysis|seed:think)"
_OPENS = rf"<{_NAMES}>|\[THINK\]|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis(?:<\|message\|>)?"
_CLOSES = rf"</{_NAMES}>|\[/THINK\]|◁/think▷|<\|end_of_thought\|>|<\|channel\|>final(?:<\|message\|>)?"
_TAG = re.compile(f"(?P<opens>{_OPENS})|(?P<closes>{_CLOSES})", re.IGNORECASE)


def without_reasoning(text: str) -> str:
    """A reply without its reasoning: <think> blocks and those of other model families (<thinking>, [THINK],
    <|channel|>analysis, ...).

    A block that is never closed extends to the end: such a reply was truncated before it answered. A closing tag
    alone ends a block that the chat template opened.
    """
    parts: list[str] = []
    start, inside = 0, False
    for tag in _TAG.finditer(text):
        if tag["opens"] and not inside:
            parts.append(text[start : tag.start()])
            inside = True
        elif tag["closes"]:
            if not inside:
                parts.clear()  # the template opened it
            start, inside = tag.end(), False
    if not inside:
        parts.append(text[start:])
    return " ".join(parts).strip()


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


def in_plain_words(text: str) -> str:
    text = text.replace("，", "; ").replace("’", "'")
    text = unicodedata.normalize("NFKC", text)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return re.sub(r"[⟦⟧∅]", " ", text).strip()


class _Letters(NamedTuple):
    """Patterns for the offered letters."""

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


MARK = r"⟦([^⟧]*)⟧"
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
_OUT_BEFORE = re.compile(rf"{_BEFORE}{_LINKS}{MARK}(?:\s*(?:nor|or|and|[,、和与及或])\s*{MARK})*", re.IGNORECASE)
_BE = r"(?:\s+(?:is|are|was|were|seems?|looks?|would be|can be|can|could|does|do|did|has|have|had|will|would|should))"
_OUT_AFTER = re.compile(
    rf"{MARK}(?:{_BE}(?:\s+(?:also|both|all|clearly|obviously|simply|just|then|therefore|thus)\b)*"
    r"(?:n't|\s+(?:not|never|wrong|incorrect|false|untrue|too|out|off|invalid|impossible|ruled|eliminated|excluded)\b)"
    r"|\s+(?:cannot|contradicts?|fails?)\b"
    r"|\s*(?:选项|项)?(?:则|也|都|均|就|显然|明显|是|与[^,;。\n]{0,12})*(?:不|错|太|过于|排除|有误|无关|没有))",
    re.IGNORECASE,
)


def with_marks(text: str, offered: str) -> str:
    """A plain text with ⟦letters⟧ for options, ⟦letters|⟧ if joined by "or", and ∅ for options that are ruled out."""
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
    inside = "".join(re.findall(MARK, found[0]))
    named = "".join(dict.fromkeys(letter for letter in inside if letter != "|"))
    hedged = "|" in inside or _OR.search(re.sub(MARK, "", found[0])) is not None
    return f"⟦{named}{'|' * (hedged and len(named) > 1)}⟧"
