"""Which option does a free text choose? For any suite whose options have letters."""

import re
import unicodedata
from collections.abc import Collection
from functools import cache
from typing import NamedTuple

_THOUGHT = re.compile(r"<(think|thinking|reasoning|thought)>.*?(?:</\1>|\Z)", re.DOTALL | re.IGNORECASE)
_END_OF_THOUGHT = re.compile(r"</(?:think|thinking|reasoning|thought)>", re.IGNORECASE)


def without_reasoning(text: str) -> str:
    """What a reply says after its <think> blocks (also thinking, reasoning, thought).

    A block that is never closed reaches to the end: such a reply was cut off before it answered. A closing tag alone
    ends a block that the chat template opened.
    """
    return _END_OF_THOUGHT.split(_THOUGHT.sub(" ", text))[-1].strip()


def letters(text: str, offered: Collection[str], several: bool = False) -> tuple[str, ...]:
    """The options that a reply ends up choosing, in the order named; empty where it chooses none.

    Reasoning blocks do not count, full-width letters do, and what is only ruled out ("not B", "不选B") is passed over.
    Of three places the first that names an offered letter decides:

    1. an announced answer ("the answer is C", "I choose (c)", "\\boxed{C}", "答案是C", "选C"), the last such;
    2. letters that open a line ("C. ...", "c)", "**C**");
    3. letters that stand alone: capitals save the article "A" (before a lower-case word, unless that is one such as
       "is" or "and"), and small ones in parentheses or after "option".

    Args:
        text: any.
        offered: capital letters; no other letter is ever returned.
        several: whether more than one may be right. If not, one letter is returned at most: in 1. and 2. a reply that
            names several has not chosen, unless 2. goes through the options line by line, and 3. takes the last.
    """
    if not offered:
        return ()
    patterns = _patterns("".join(sorted(offered)))
    text = unicodedata.normalize("NFKC", without_reasoning(text))
    text = patterns.ruled_out.sub(" ; ", text)
    announced = patterns.announced.findall(text)
    if announced:
        found = patterns.named(announced[-1])
        return found if several or len(found) == 1 else ()
    opening = patterns.opening.findall(text)
    found = patterns.named(" ".join(opening))
    if (several and found) or len(found) == 1:
        return found
    if len(opening) == 1:
        return ()
    alone = [letter.upper() for letter in patterns.alone.findall(text)]
    return tuple(dict.fromkeys(alone)) if several else tuple(alone[-1:])


class _Patterns(NamedTuple):
    ruled_out: re.Pattern[str]
    announced: re.Pattern[str]
    opening: re.Pattern[str]
    alone: re.Pattern[str]
    offered: str

    def named(self, listed: str) -> tuple[str, ...]:
        """Letters of a list such as "A, (c) and D"."""
        words = re.sub(r"and|or", " ", listed)
        return tuple(dict.fromkeys(letter for letter in words.upper() if letter in self.offered))


@cache
def _patterns(offered: str) -> _Patterns:
    ends = r"(?![A-Za-z0-9_]|-[A-Za-z])"
    starts = r"(?<![A-Za-z0-9_])"
    small = offered.lower()
    no_article = r"(?!(?<=[Aa])[ \t]+(?!(?:and|or|is|because|since|seems|fits)\b)[a-z])"
    run = "(?=[" + offered + "])" + "".join(f"{letter}?" for letter in offered)  # "AC", never a word such as "BAD"
    one = rf"[(\[{{*\"'“「]*(?:{run}|[{small}]){ends}{no_article}[)\]}}*\"'”」]*"
    many = rf"{one}(?:(?:[\s,、/&+;]|\band\b|\bor\b|和|与|及|或|以及)+{one})*"
    verb = r"(?:\b(?i:choose|chose|pick|picked|select|selected|go with|going with)\b|(?:选择|应选|选)(?!项)了?)"
    noun = r"(?:(?i:\banswers?\b)|(?i:\b(?:option|choice)s?\s*(?:is\b|are\b|:))|答案|选项(?=是|为|:))"
    filler = r"(?:[\s:*_=>\-$(\[\"'“「]|\\boxed\{|\\text\{|是|为|应该|应|选项"
    filler += r"|(?i:\b(?:is|are|should|would|must|be|options?|choices?|letters?)\b))*"
    return _Patterns(
        ruled_out=re.compile(
            r"(?:\b(?i:not|rather than|instead of)\b|不是|不(?:应该?|该)?选择?|并非|排除)"
            r"\s*(?i:(?:the\s+)?(?:option|answer)s?\s*)?(?:选项)?\s*"
            rf"[(\"'“]*[{offered}]{ends}{no_article}[)\"'”]*"
        ),
        announced=re.compile(rf"(?<!not )(?<!n't )(?:{verb}|{noun}|\\boxed(?=\{{)){filler}({many})"),
        opening=re.compile(rf"^[ \t*#>\-]*({many})[ \t]*(?=[.:,)*\-、。]|$)", re.MULTILINE),
        alone=re.compile(
            rf"{starts}[{offered}]{ends}{no_article}|(?<=[Oo]ption )[{small}]{ends}|(?<=\()[{small}](?=\))"
        ),
        offered=offered,
    )
