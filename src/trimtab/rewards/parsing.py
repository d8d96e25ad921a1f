r"""The option that a free text chooses: one parser for all suites and rewards with options.

Precision comes before recall: a text that hedges ("A or B"), weighs options without settling on one, or was truncated
before it did, chooses nothing. `tests/rewards/written_answers.jsonl` lists what is understood, example by example.

A text is parsed in steps: reasoning is removed, LaTeX, markdown and JSON become plain words, option letters become
marks (⟦B⟧, several joined by "and" or a comma ⟦AC⟧, joined by "or" ⟦AC|⟧), what is ruled out becomes ∅, and then
the first of these that is found decides:

1. a box or a final answer, the last one;
2. an announced answer ("the answer is C", "I choose (c)", "D is correct", "答案是C", "选C"), the last one, except what
   is said under a condition, about other people, or as a question;
3. letters that open a line ("C. ...", "**C**"), unless the lines go through the options;
4. the text of an option, as the whole reply, as its beginning, or as the only one named in the last sentence;
5. the only letter of a short reply.
"""

import re
import unicodedata
from collections.abc import Collection, Mapping

from trimtab.rewards._announced import ANNOUNCED, FINAL, IF, OTHERS, WEAKLY, announced_letters, sentences_of
from trimtab.rewards._marks import MARK, in_plain_words, with_marks, without_reasoning

# ---------------------------------------------------------------- letters that open a line

_LINE = re.compile(
    rf"^[ \t\-•]*(?P<noun>(?:option|choice|answer|letter|选项|答案)\s*)?{MARK}(?P<rest>.*)$",
    re.IGNORECASE | re.MULTILINE,
)
_GOOD = re.compile(r"\b(?:fits|correct|right|best|works|matches|true)\b|正确|合适|符合|✓|✔|✅", re.IGNORECASE)
_BAD = re.compile(r"\b(?:not|wrong|incorrect|false|too|no|never)\b|n't\b|[不错太]|✗|✘|❌", re.IGNORECASE)


def _opening(marked: str, texts: Mapping[str, str], several: bool) -> str | None:
    """Letters that open lines; "" if the lines go through the options without settling on one."""
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
    if re.search(rf"{MARK}\s*[:.)]", found[0][1]):  # one line that lists the options
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
    sentences = [one for one, _ in sentences_of(plain) if one.strip()]
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
    """Options named in a sentence; not those whose text is part of another one it names."""
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
    """Whether no other option is named, except after "not"."""
    rest = re.sub(r"\b(?:not|rather than|instead of)\b.*|而不是.*|不是.*", "", sentence.replace(keys[letter], "\1", 1))
    return not _named(rest, {one: key for one, key in keys.items() if one != letter})


# ---------------------------------------------------------------- a letter alone

_NAMED_SO = re.compile(
    r"\b(?:point|points|line|lines|angle|angles|vertex|segment|ray|circle|triangle|side|plan|vitamin|grade|type|class"
    r"|team|part|figure|table|section|appendix|group|step|case|model|company|person|train|car|box|set|node|city|player"
    rf"|room|level|series)\s+{MARK}",
    re.IGNORECASE,
)


def _lone(marked: str) -> str | None:
    named = re.findall(MARK, marked)
    if not named or "|" in "".join(named) or "?" in marked or OTHERS.search(marked) or IF.search(marked):
        return None
    if len(named) == 1 and len(marked.split()) <= 12 and not _NAMED_SO.search(marked):
        if re.search(rf"\b(?:option|choice)\s*{MARK}\s*\S", marked, re.IGNORECASE) or re.search(rf"{MARK}\s*:", marked):
            return None  # talks about an option
        return named[0]
    return None


# ---------------------------------------------------------------- the whole


def letters(text: str, offered: Mapping[str, str] | Collection[str], several: bool = False) -> tuple[str, ...]:
    """The options that a reply ends up choosing, in the order named; empty if it chooses none.

    Args:
        text: any.
        offered: capital letters, or letter -> text of the option, which is then understood as well; nothing else is
            ever returned.
        several: whether more than one may be correct. If not, a reply that names several has not chosen.
    """
    texts = dict(offered) if isinstance(offered, Mapping) else dict.fromkeys(offered, "")
    single = {letter: option for letter, option in texts.items() if re.fullmatch("[A-Z]", letter)}
    plain = in_plain_words(without_reasoning(text))
    if not plain or not texts:
        return ()
    if not single:
        return _other_names(plain, texts)
    chosen = _chosen(plain, single, several)
    if "|" in chosen:
        return ()
    found = tuple(dict.fromkeys(chosen))
    return found if several or len(found) == 1 else ()


def letter_of(text: str, offered: Mapping[str, str]) -> str | None:
    """The one option that a reply chooses, or None."""
    return next(iter(letters(text, offered)), None)


def _chosen(plain: str, texts: Mapping[str, str], several: bool) -> str:
    if _key(plain).upper() in texts and len(plain.strip(" .:()[]")) == 1:
        return _key(plain).upper()
    marked = with_marks(plain, "".join(sorted(texts)))
    for pattern in (FINAL, ANNOUNCED):
        if (named := announced_letters(marked, pattern)) is not None:
            return named
    opening = _opening(marked, texts, several)
    if opening:
        return opening
    if (weak := announced_letters(marked, WEAKLY)) is not None:
        return weak
    if opening is None and several and (whole := re.fullmatch(rf"\s*(?:both\s+)?{MARK}[\s.!]*", marked, re.I)):
        return whole[1]
    by_text = None if opening == "" else _by_text(plain, texts)
    if by_text is not None:
        return by_text
    return (_lone(marked) or "") if opening is None else ""


def _other_names(plain: str, texts: Mapping[str, str]) -> tuple[str, ...]:
    """Options whose names are not capital letters, such as 1 and 2."""
    names = "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))
    named = re.findall(
        rf"(?i:\banswer\b|\boption\b|\bchoice\b|答案|选项|选)[\s:(是为]*(?:is\s+|option\s+)?\(?({names})(?!\w|[.,]\d)",
        plain,
    )
    if named:
        return tuple(named[-1:]) if len(set(named)) == 1 or re.search(r"\banswer\b", plain, re.IGNORECASE) else ()
    if match := re.match(rf"\(?({names})(?:[).:](?!\d)|\s*$)", plain):
        return (match[1],)
    by_text = _by_text(plain, texts)
    return () if by_text is None else (by_text,)
