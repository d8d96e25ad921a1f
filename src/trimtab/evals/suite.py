"""What a suite is: items, prompts, and a pure score; and how scores become numbers with intervals."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np

from trimtab.common.options import Options as Options  # with SuiteError, for suites to take from here
from trimtab.evals import SuiteError as SuiteError
from trimtab.metrics.intervals import Interval, bootstrap_ratio

SPEAKER, SPECIAL = "speaker", "special"
"""keys of a message: which role of an agent goes on; that special tokens stay in the answer, for whoever parses it"""
Messages = list[dict[str, str]]
"""of a chat: [{"role": "user", "content": ...}, ...]"""


@dataclass(frozen=True)
class Item:
    """One question."""

    id: str
    text: str
    """what is asked, without the options"""
    options: Mapping[str, str] = field(default_factory=dict)
    """letter -> text, in the order shown; none for an open answer"""
    target: tuple[str, ...] = ()
    """right letters; for an open answer whatever the suite's score looks for"""
    groups: Mapping[str, str] = field(default_factory=dict)
    """by which scores are split, such as {"relation": "parallel", "depth": "2"}; the same keys for all items"""
    max_new_tokens: int | None = None
    """of its answer, where that differs from the suite's"""
    data: Mapping[str, Any] = field(default_factory=dict)
    """what else the suite's prompts, score and drawing need; JSON"""


class Verdict(NamedTuple):
    """What was understood, and what it is worth; both None where no answer was found."""

    parsed: Any
    value: float | None


Step = Callable[[Item, Sequence[str]], Messages]
"""step(item, answers to the steps before) -> the messages to answer next; if there are none, the answer is empty"""
Prompt = tuple[Step, ...]


@dataclass(frozen=True)
class Answered:
    """An item, what was answered, and its verdicts; `error` where no answer came through no fault of the model."""

    item: Item
    answers: tuple[str, ...]
    verdicts: Mapping[str, Verdict]
    """parser -> verdict"""
    error: str | None = None
    mass: float | None = None
    """probability of all the labels together before it was renormalised; None where no options were compared"""


class Estimate(NamedTuple):
    """A number of a whole evaluation, or of one group of it."""

    name: str
    group: str
    """"all", or "key=value" """
    value: Interval
    number: int
    """items that it is over"""


def chosen(item: Item, letter: str | None) -> Verdict:
    """Of an answer that settles on one letter, or on none."""
    return Verdict(letter, None if letter is None else float(letter in item.target))


def argmax(item: Item, p: Mapping[str, float]) -> Verdict:
    """The likeliest label counts as the answer; of equal ones the first."""
    return chosen(item, max(p, key=lambda label: p[label]))


class Fit(NamedTuple):
    """What prompts are written for."""

    tokenizer: Any
    most: int | None
    """tokens of a prompt, so that the longest answer has room; None where a model reads any length"""
    new: int
    """tokens of the longest answer"""
    prompt: str
    """the prompt's name"""


def last(item: Item, answers: Sequence[str]) -> str:
    """The answer to the last step."""
    return answers[-1]


@dataclass(frozen=True)
class Suite:
    """What a file in `evals/suites/` exports as SUITE."""

    paper: str
    version: str
    """changes whenever an item, a prompt or a parser does"""
    options: type[Options]
    items: Callable[[Any], Sequence[Item]]
    """items(options), always in the same order for the same options; errors are SuiteError or DataError"""
    prompts: Mapping[str, Prompt]
    """name -> steps; the first is the default"""
    score: Callable[[Item, str], Mapping[str, Verdict]]
    """score(item, last answer) -> parser -> verdict: pure, never raises, the first parser gives the headline"""
    max_new_tokens: int = 64
    score_options: Callable[[Item, Mapping[str, float]], Verdict] = argmax
    """score_options(item, label -> probability, summing to 1 over labels): the verdict where options are compared"""
    measures: Callable[[Sequence[Answered]], Sequence[Estimate]] = lambda answered: ()
    """beyond means of verdicts"""
    draw: Callable[[Item], str] | None = None
    """an SVG of the item"""
    accuracy: bool = True
    """whether means of the verdicts' values make sense"""
    default_mode: Literal["generate", "loglikelihood"] = "generate"
    """if nobody says: answers are written, or the options' probabilities compared where these are known"""
    finish: Callable[[Any, Sequence[Answered], Any, Any, Any], Sequence[Estimate]] | None = None
    """finish(options, answered, model, workdir, console): further numbers, for which models are asked and files kept;
    of `trimtab eval` alone"""
    joined: Callable[[Item, Sequence[str]], str] = last
    """joined(item, answers to all steps): what is scored, in place of the last of them"""
    bound: Callable[[Any, Fit], "Suite"] | None = None
    """bound(options, fit): the suite for a model that is loaded here, if its prompts depend on tokenizer and length"""
    facts: Mapping[str, str] = field(default_factory=dict)
    """what else answers depend on, for signatures"""
    remarks: Counter[str] = field(default_factory=Counter)
    """what is to be said of the prompts that were written, by its number"""


def lines(options: Mapping[str, str]) -> str:
    """Options as a prompt shows them, one a line."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def text(content: str) -> Messages:
    """Text for the model to go on with, without the chat template; servers of chats do not take it."""
    from trimtab.data.messages import TEXT  # with transformers, which no page needs

    return [{"role": TEXT, "content": content}]


def user(text: str) -> Messages:
    """A chat of one message."""
    return [{"role": "user", "content": text}]


# ---------------------------------------------------------------- numbers


def accuracy(answered: Sequence[Answered]) -> list[Estimate]:
    """Means of the verdicts' values: for each parser, over all items and by each group.

    An item whose answer was not understood counts 0 in "strict" and not at all in "answered"; "unparsed" is their
    share. Items that ended in an error count nowhere. Intervals are of 95 %, over items.
    """
    valid = [one for one in answered if one.error is None]
    found: list[Estimate] = []
    for group, members in grouped(valid).items():
        for parser in members[0].verdicts if members else ():
            values = [one.verdicts[parser].value for one in members]
            known = np.array([value is not None for value in values], float)
            sums = np.array([value or 0.0 for value in values])
            ones = np.ones(len(values))
            for name, top, bottom in (
                ("strict", sums, ones), ("answered", sums, known), ("unparsed", 1 - known, ones),
            ):  # fmt: skip
                number = int(bottom.sum())
                found.append(Estimate(f"{parser} {name}", group, bootstrap_ratio(top, bottom), number))
    return found


def grouped(answered: Iterable[Answered]) -> dict[str, list[Answered]]:
    """ "all" and each "key=value" -> its items; keys in their order, values sorted."""
    everything = list(answered)
    by_group: dict[str, list[Answered]] = {"all": everything}
    keys = list(dict.fromkeys(key for one in everything for key in one.item.groups))
    for key in keys:
        for value in sorted({one.item.groups[key] for one in everything if key in one.item.groups}):
            by_group[f"{key}={value}"] = [one for one in everything if one.item.groups.get(key) == value]
    return by_group


def plain(thing: Any) -> Any:
    """Measures as JSON: tuples with names as objects, NaN and infinity as null."""
    if isinstance(thing, Interval):
        return [plain(x) for x in thing]
    if hasattr(thing, "_asdict"):
        return plain(thing._asdict())
    if isinstance(thing, Mapping):
        return {key: plain(value) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [plain(value) for value in thing]
    return None if isinstance(thing, float) and not np.isfinite(thing) else thing


def baselines(suite: Suite, items: Sequence[Item]) -> dict[str, float]:
    """What needs no model: the score of a letter drawn uniformly, of the best single letter, and of always giving the
    commonest right answer (by its text, among items with the same options). Empty where items have no options.

    The last is left out where most items have options of their own, for then it would be told the answer.
    """
    choices = [item for item in items if item.options and item.target] if suite.accuracy else []
    if not choices:
        return {}
    worth: dict[str, dict[str, float]] = {}  # item -> letter -> score
    for item in choices:
        verdicts = {letter: next(iter(suite.score(item, f"Answer: {letter}").values())) for letter in item.options}
        worth[item.id] = {letter: verdict.value or 0.0 for letter, verdict in verdicts.items()}
    letters = sorted({letter for item in choices for letter in item.options})
    found = {
        "random": sum(sum(of.values()) / len(of) for of in worth.values()) / len(choices),
        "best letter": max(sum(of.get(letter, 0.0) for of in worth.values()) for letter in letters) / len(choices),
    }
    by_kind: dict[frozenset[str], list[Item]] = {}
    for item in choices:
        by_kind.setdefault(frozenset(item.options.values()), []).append(item)
    if len(by_kind) <= len(choices) / 4:
        total = 0.0
        for kind, same in by_kind.items():
            of_text = dict.fromkeys(kind, 0.0)
            for item in same:
                for letter, text in item.options.items():
                    of_text[text] += worth[item.id][letter]
            total += max(of_text.values())
        found["majority answer"] = total / len(choices)
    return found
