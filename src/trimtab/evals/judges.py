"""Whether a generated text gives the answer: by normalised match, by containment, or by a model that is asked."""

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from trimtab.common import fingerprint
from trimtab.common.errors import check_answered
from trimtab.common.files import JsonLines
from trimtab.evals.suite import Messages, user
from trimtab.rewards._marks import without_reasoning
from trimtab.rewards.parsing import letter_of

if TYPE_CHECKING:
    from trimtab.evals.models import Model

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_DROPPED, _SPACED = re.compile(r"[.,'’`\"]"), re.compile(r"[^\w\s]|_")
_UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")
"""scripts that write no spaces between words"""
_ANSWER = re.compile(r"<answer>(.*?)(?:</answer>|$)", re.IGNORECASE | re.DOTALL)
_BOXED = re.compile(r"\\boxed\s*\{")
_SAID = re.compile(r"(?:^|\n)\W*(?:the )?(?:final )?answer(?: is)?\W*[:：]\s*", re.IGNORECASE)


# ---------------------------------------------------------------- by rule


def normalised(text: str) -> str:
    """Lower case without punctuation, articles and repeated white space; a text of nothing else as it is."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    words = _ARTICLES.sub(" ", _SPACED.sub(" ", _DROPPED.sub("", plain)))
    return " ".join(words.split()) or plain.strip()


def matches(reply: str, answers: Sequence[str]) -> bool:
    """Whether a reply is one of the answers and nothing else, both normalised."""
    return normalised(reply) in {normalised(answer) for answer in answers}


def contains(reply: str, answers: Sequence[str]) -> bool:
    """Whether one of the answers stands in a reply, word by word, both normalised."""
    said = normalised(reply)
    return any(_stands(normalised(answer), said) for answer in answers)


def _stands(answer: str, said: str) -> bool:
    return answer in said if _UNSPACED.search(answer) else f" {answer} " in f" {said} "


def yes_or_no(reply: str) -> str | None:
    """ "yes" or "no", whichever of the two words comes first in a reply; None without either."""
    return next((word for word in normalised(reply).split() if word in ("yes", "no")), None)


def is_yes_or_no(answers: Sequence[str]) -> bool:
    return bool(answers) and all(normalised(answer) in ("yes", "no") for answer in answers)


def conclusion(reply: str) -> str:
    """The last answer that a text with reasoning gives: in answer tags, in a box, or behind "Answer:"; the whole text
    without its thoughts where it marks none. Full stops and line breaks end nothing."""
    text = without_reasoning(reply)
    tagged = _ANSWER.findall(text)
    text = tagged[-1] if tagged else text
    boxes = list(_BOXED.finditer(text))
    if boxes:
        return _braced(text[boxes[-1].end() :])
    said = list(_SAID.finditer(text))
    return text[said[-1].end() :].strip() if said and not tagged else text.strip()


def _braced(text: str) -> str:
    """What stands before the brace that closes a box."""
    depth = 1
    for place, sign in enumerate(text):
        depth += (sign == "{") - (sign == "}")
        if depth == 0:
            return text[:place].strip()
    return text.strip()


# ---------------------------------------------------------------- by a model


class ToJudge(NamedTuple):
    """What a judge is asked."""

    asked: str
    answers: tuple[str, ...]
    reply: str


def judge_prompt(question: ToJudge) -> Messages:
    """Our wording: everything said, nothing contradictory, no mere repetition."""
    expected = " or ".join(question.answers)
    return user(
        f"You check answers.\n\nQuestion: {question.asked}\nExpected answer: {expected}\n"
        f"Answer to check: {question.reply.strip()}\n\nThe answer is correct if it gives the expected answer, says "
        "nothing that contradicts it and does not only repeat itself. It may be longer and in other words.\nReply with "
        "one letter: A if the answer is correct, B if it is not."
    )


def judged(
    questions: Sequence[ToJudge],
    judge: "Model",
    kept: JsonLines,
    *,
    max_new_tokens: int = 16,
    advance: Callable[[int], Any] = lambda number: None,
) -> list[bool | None]:
    """What a model says of each answer; None where it has said neither A nor B, or the request failed.

    A judgement is stored when it comes and is not asked for twice, by this call or a later one; a failed request is no
    judgement and is asked again by the next call.

    Args:
        kept: lines with `key` and `correct`.

    Raises:
        Unanswered: if the first requests, or all, failed.
    """
    who = fingerprint.of_text(repr(sorted(_unbatched(judge.facts()).items())))
    keys = [fingerprint.of_text(f"{who} {question!r}") for question in questions]
    known: dict[str, Any] = {row["key"]: row["correct"] for row in kept.rows}
    open_ = list({key: one for key, one in zip(keys, questions) if key not in known}.items())
    advance(len(questions) - len(open_))
    open_.sort(key=lambda one: -len(one[1].reply))
    errors: list[str | None] = [None] if known else []
    name = f"the judge {getattr(judge, 'name', '')}".strip()
    for start in range(0, len(open_), judge.batch):
        some = open_[start : start + judge.batch]
        replies = judge.answer([judge_prompt(question) for _, question in some], max_new_tokens)
        rows = [
            {"key": key, "correct": _verdict(reply.text), "said": reply.text, **question._asdict()}
            for (key, question), reply in zip(some, replies, strict=True)
            if not reply.error
        ]
        kept.append(rows)
        known |= {row["key"]: row["correct"] for row in rows}
        errors += [reply.error for reply in replies]
        check_answered(errors, name)
        advance(len(some))
    check_answered(errors, name, whole=True)
    return [known.get(key) for key in keys]


def _unbatched(facts: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in facts.items() if key != "batch"}


def _verdict(text: str) -> bool | None:
    letter = letter_of(text, {"A": "correct", "B": "incorrect"})
    return None if letter is None else letter == "A"
