"""What a tool agent says at one turn, against what a reference says there: the static metrics of alpha-UMi
(arXiv:2401.07324, as its released code computes them).

A text is read in one of two forms. Roles: "PLANNER</s>caller: CALL", "PLANNER</s>conclusion: ANSWER", or a planner that
gives up. One model: a thought and a call, or a thought and "conclusion: ANSWER".
"""

import json
from collections.abc import Collection, Sequence
from typing import Any, Literal, NamedTuple

from trimtab.metrics.text_quality import rouge_l

Plan = Literal["give up", "finish", "call"]
GIVE_UP, CONCLUDE, CALL = "Next: give up", "Next: conclusion", "Next: caller"
END = "</s>"
"""between planner and caller or summariser, whatever the tokenizer's own token is"""
ANSWER = "conclusion: "
ACTION, INPUT = "Action:", "Action Input:"
NO_NAME, NO_ARGUMENTS, NO_ANSWER = "none", "{}", "none"


class Said(NamedTuple):
    """What stands in a text."""

    plan: Plan
    name: str | None = None
    """of the tool, "none" where a call names none; None where nothing is called"""
    arguments: str | None = None
    """as written"""
    answer: str | None = None


class Judged(NamedTuple):
    """A prediction against its reference; None where a metric does not count the sample."""

    plan: bool
    action: bool | None
    """whether the same tool is named, where the reference calls one"""
    arguments: float | None
    """in [0, 1], where the reference calls a tool; see `argument_score`. 0 for another tool"""
    hard: float | None
    """`arguments` where the reference has some; as in the paper, another tool is 0 here and in `easy`"""
    easy: float | None
    """`arguments` where the reference has none"""
    calls: bool
    """whether the prediction names a tool"""
    hallucinated: bool
    """whether that tool is none of the sample's"""
    undecided: bool
    """whether the prediction names no tool, answers nothing and does not give up: the paper reads that as a call"""
    rouge: float | None
    """ROUGE-L of the answer as the paper's package counts, where the reference answers"""
    rouge_words: float | None
    """ROUGE-L of its words: one subsequence over the whole text, without case and punctuation"""


# ---------------------------------------------------------------- reading


def read(text: str) -> Said:
    """As roles say it where the text says who goes on ("Next: caller", "conclusion", "give up"), else as one model."""
    return read_roles(text) if any(mark in text for mark in (GIVE_UP, CONCLUDE, CALL)) else read_backbone(text)


def read_roles(text: str) -> Said:
    """What planner and caller or summariser say. A call without a caller's part is one of no tool; the authors' code
    fails there."""
    if GIVE_UP in text:
        return Said("give up")
    if CONCLUDE in text:
        return Said("finish", answer=_behind_last(text, ANSWER, text).replace(END, ""))
    parts = text.split(END)
    return _call(parts[1] if len(parts) > 1 else "")


def read_backbone(text: str) -> Said:
    """What one model says."""
    if ANSWER + "give up" in text:
        return Said("give up")
    if ANSWER in text:
        return Said("finish", answer=_behind_last(text, ANSWER, text))
    return _call(text)


def _call(text: str) -> Said:
    """Behind the last of each mark, as in the paper, even where that one stands within the arguments."""
    name = _behind_last(text, ACTION, NO_NAME).partition(INPUT)[0].strip()
    return Said("call", name, _behind_last(text, INPUT, NO_ARGUMENTS).strip())


def _behind_last(text: str, mark: str, otherwise: str) -> str:
    _, found, behind = text.rpartition(mark)
    return behind if found else otherwise


def parsed(arguments: str) -> Any:
    """JSON, or None where it is none."""
    try:
        return json.loads(arguments)
    except (ValueError, RecursionError):
        return None


# ---------------------------------------------------------------- judging


def judge(reference: Said, prediction: Said, names: Collection[str]) -> Judged:
    """One prediction.

    Args:
        names: of the tools that the sample offers.
    """
    action = arguments = hard = easy = rouge = words = None
    if reference.plan == "call":
        action = (prediction.name or NO_NAME) == reference.name
        wanted = parsed(reference.arguments or NO_ARGUMENTS)
        if not action:
            arguments = hard = easy = 0.0
        elif isinstance(wanted, dict):  # else there is nothing to compare with
            arguments = argument_score(wanted, prediction.arguments or NO_ARGUMENTS)
            hard, easy = (arguments, None) if wanted else (None, arguments)
    elif reference.plan == "finish":
        answer = NO_ANSWER if prediction.answer is None else prediction.answer
        rouge = rouge_of_the_paper(reference.answer or "", answer)
        words = rouge_l(reference.answer or "", answer)
    calls = prediction.name is not None and prediction.name != NO_NAME
    return Judged(
        plan=prediction.plan == reference.plan,
        action=action,
        arguments=arguments,
        hard=hard,
        easy=easy,
        calls=calls,
        hallucinated=calls and prediction.name not in names,
        undecided=prediction.plan == "call" and not calls,
        rouge=rouge,
        rouge_words=words,
    )


def argument_score(reference: dict[str, Any], arguments: str) -> float:
    """F1 of the keys of arguments, in [0, 1]: a key with another value counts half.

    With s = 1 for each of the reference's keys with its value and 1/2 for one with another value, recall is s over the
    reference's keys and precision s over the prediction's. No arguments are asked for: 1 for {} and 0 otherwise.
    """
    given = parsed(arguments)
    if not reference:
        return float(given == {})
    if not isinstance(given, dict):
        return 0.0
    found = sum((1.0 if given[key] == value else 0.5) for key, value in reference.items() if key in given)
    if not found:
        return 0.0
    recall, precision = found / len(reference), found / len(given)
    return 2 * recall * precision / (recall + precision)


# ---------------------------------------------------------------- ROUGE-L of the paper


def rouge_of_the_paper(reference: str, prediction: str) -> float:
    """ROUGE-L as the package rouge 1.0.1 counts it: sentences end at each ".", words at blanks; a word counts once.

    The words of the longest common subsequences of all pairs of sentences, over the distinct words of either side; F1
    with 1e-8 in its denominator, so that equal texts have 1 - 5e-9. The package fails on a text without a sentence,
    which is 0 here.
    """
    ours, theirs = _sentences(prediction), _sentences(reference)
    if not ours or not theirs:
        return 0.0
    common: set[str] = set()
    for one in theirs:
        for other in ours:
            common |= _common(one, other)
    recall = len(common) / len({word for sentence in theirs for word in sentence})
    precision = len(common) / len({word for sentence in ours for word in sentence})
    return 2 * precision * recall / (precision + recall + 1e-8)


def _sentences(text: str) -> list[list[str]]:
    """Of blanks alone, the sentence has one empty word."""
    return [" ".join(one.split()).split(" ") for one in text.split(".") if one]


def _common(one: Sequence[str], other: Sequence[str]) -> set[str]:
    """The words of a longest common subsequence; of several the one that drops words of `other` first."""
    table = [[0] * (len(other) + 1)]
    for word in one:
        above, row = table[-1], [0]
        for j, against in enumerate(other):
            row.append(above[j] + 1 if word == against else max(above[j + 1], row[j]))
        table.append(row)
    found, i, j = set(), len(one), len(other)
    while i and j:
        if one[i - 1] == other[j - 1]:
            found.add(one[i - 1])
            i, j = i - 1, j - 1
        elif table[i - 1][j] > table[i][j - 1]:
            i -= 1
        else:
            j -= 1
    return found
