"""Personality: does a model do what it says about itself? Statements beside everyday scenarios, on one scale of 1 to 7.

Each pair holds a statement ("I start conversations.") and a scenario with two options, of which `high` is what the
statement describes; so a consistent respondent gives both the same number. Statement and scenario are asked apart,
the scale in two orders, and each order in several wordings of the question. The answers are joined by `pair_id` in
`measures`: agreement, what it would be by chance, and whether the answers are reliable enough to be read at all.

The bundled pairs (CC0) are built on 39 of the 50 Big-Five markers of the International Personality Item Pool
(ipip.ori.org, public domain; Goldberg 1999, Goldberg et al. 2006) and 21 reversals of our own: traits E extraversion,
A agreeableness, C conscientiousness, ES emotional stability, I intellect. The paper's own corpus is not public.
"""

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from trimtab.common.errors import nearest
from trimtab.evals.suite import Item, Messages, Options, Suite, SuiteError, Verdict, lines, user
from trimtab.evals.suites._agreement import measures
from trimtab.evals.suites._pairs import PARTS, Pair, load_pairs, load_people
from trimtab.rewards._marks import without_reasoning

LABELS = "1234567"

PERSONAS = {
    "outgoing": "You love company. You are lively and talkative, and being among people gives you energy.",
    "reserved": "You prefer quiet. You are calm and say little, and being alone gives you energy.",
    "orderly": "You love order. You plan ahead, keep your things in place and finish what you begin.",
    "anxious": "You worry a lot. Small troubles upset you, and your mood changes quickly.",
}


class PersonalitySettings(Options):
    path: str = ""
    """Your own pairs instead of the bundled ones, as .jsonl, .json or .parquet."""
    traits: tuple[str, ...] = ()
    """Only pairs of these traits, such as [E, C]; all if empty."""
    lang: str = ""
    """Only pairs in this language; all if empty. Questions exist in en and zh, bundled pairs in en."""
    repeats: int = Field(5, ge=1)
    """How often each question is asked in each order, with another wording each time; there are five wordings."""
    persona: str = ""
    """What comes before each question: outgoing, reserved, orderly, anxious, or a text of your own."""
    order: Literal["both", "ascending", "descending"] = "both"
    """Descending: 1 stands for full agreement, and the scenario's options change places."""
    readout: Literal["expected", "likeliest"] = "expected"
    """Where probabilities of the seven labels are known: their mean, or the likeliest label (constrained decoding)."""
    delta: float = Field(1.0, ge=0, le=6)
    """Points by which a consistent pair may differ; 0, 1 and 2 are always shown."""
    humans: str = ""
    """A table of people to compare with: one row each, with columns PAIR.statement and PAIR.scenario from 1 to 7."""


# ---------------------------------------------------------------- questions

SCALES = {
    ("en", "statement"): (
        "fully disagree", "mostly disagree", "slightly disagree", "undecided",
        "slightly agree", "mostly agree", "fully agree",
    ),
    ("en", "scenario"): (
        "certainly A", "probably A", "rather A", "undecided", "rather B", "probably B", "certainly B",
    ),
    ("zh", "statement"): ("完全不同意", "基本不同意", "有点不同意", "不确定", "有点同意", "基本同意", "完全同意"),
    ("zh", "scenario"): ("肯定选A", "很可能选A", "偏向选A", "不确定", "偏向选B", "很可能选B", "肯定选B"),
}  # fmt: skip
WORDINGS = {
    ("en", "statement"): (
        "How much do you agree with this statement about yourself?",
        "Do you agree that this statement describes you?",
        "Here is a statement about you. Say how far you agree with it.",
        "Think of how you usually are. Do you agree with this statement?",
        "Rate your agreement with this statement about yourself.",
    ),
    ("en", "scenario"): (
        "What would you do in this situation, A or B?",
        "Which of the two are you more likely to do, A or B?",
        "Imagine that this happens to you. Say whether you would do A or B.",
        "Think of how you usually act. Would you do A or B here?",
        "Rate which of the two you would do here, A or B.",
    ),
    ("zh", "statement"): (
        "下面这句话说的是你自己，你在多大程度上同意？",
        "你是否同意这句话符合你的情况？",
        "下面是一句关于你的描述，请说明你的同意程度。",
        "想一想你平时的样子，你同意这句话吗？",
        "请评定你对这句关于自己的话的同意程度。",
    ),
    ("zh", "scenario"): (
        "在这种情况下你会怎么做，A还是B？",
        "这两种做法中你更可能选哪一种，A还是B？",
        "设想你遇到这件事，请说明你会选A还是B。",
        "想一想你平时的做法，这时你会选A还是B？",
        "请评定你在这里会选哪一种做法，A还是B。",
    ),
}
CLOSING = {"en": "Answer with one number from 1 to 7.", "zh": "请只用1到7之间的一个数字回答。"}


def items(settings: PersonalitySettings) -> list[Item]:
    """One for each pair, part, order and repeat.

    Raises:
        DataError: see `load_pairs` and `load_people`.
        SuiteError: where the settings leave no pair, or name a language or a persona that is not there.
    """
    pairs = load_pairs(settings.path)
    for what, wanted, there in (
        ("traits", settings.traits, {pair.trait for pair in pairs}),
        ("lang", (settings.lang,) if settings.lang else (), {pair.lang for pair in pairs}),
    ):
        if missing := sorted(set(wanted) - there):
            raise SuiteError(f"personality.{what}: no pair is of {missing[0]!r}; there are: {', '.join(sorted(there))}")
    pairs = [p for p in pairs if p.trait in (settings.traits or [p.trait]) and settings.lang in ("", p.lang)]
    if not pairs:
        raise SuiteError("personality: no pair is of both the traits and the language asked for")
    if unknown := sorted({pair.lang for pair in pairs} - CLOSING.keys()):
        raise SuiteError(f"personality: there are no questions in {unknown[0]!r}; there are: {', '.join(CLOSING)}")
    people = load_people(settings.humans, pairs) if settings.humans else {}
    persona = _persona(settings.persona)
    orders = ("ascending", "descending") if settings.order == "both" else (settings.order,)
    shared = {"persona": persona, "readout": settings.readout, "delta": settings.delta}
    return [
        Item(
            id=f"{pair.pair_id}.{part}.{order}.{repeat}",
            text=_question(pair, part, order, repeat),
            options=dict(zip(LABELS, _scale(pair, part, order))),
            groups={"trait": pair.trait, "lang": pair.lang},
            data={
                "pair_id": pair.pair_id, "part": part, "order": order, "repeat": repeat, "key": pair.key,
                "reverse_of": pair.statement.reverse_of, "humans": people.get((pair.pair_id, part), []), **shared,
            },
        )
        for pair in pairs for part in PARTS for order in orders for repeat in range(settings.repeats)
    ]  # fmt: skip


def _persona(name: str) -> str:
    """The text of a shipped persona, or a text as it is: one word alone can only be a name."""
    if name in PERSONAS or not name.strip():
        return PERSONAS.get(name, "")
    if len(name.split()) == 1 and name.isascii():
        hint = nearest(name, PERSONAS, f"there are: {', '.join(PERSONAS)}, or write a sentence")
        raise SuiteError(f"personality.persona: there is no persona {name!r}; {hint}")
    return name.strip()


def _scale(pair: Pair, part: str, order: str) -> Sequence[str]:
    """What 1 to 7 mean. A scenario's scale stays: its options change places instead."""
    scale = SCALES[pair.lang, part]
    return scale[::-1] if (part, order) == ("statement", "descending") else scale


def _question(pair: Pair, part: str, order: str, repeat: int) -> str:
    wordings = WORDINGS[pair.lang, part]
    wording = wordings[repeat % len(wordings)]
    if part == "statement":
        return f"{wording}\n\n{pair.statement.text}"
    low, high = pair.scenario.low, pair.scenario.high
    first, second = (low, high) if order == "ascending" else (high, low)
    return f"{pair.scenario.text}\n\nA: {first}\nB: {second}\n\n{wording}"


def ask(item: Item, answers: Sequence[str]) -> Messages:
    """Persona, question and scale in one message: many chat templates know no system."""
    parts = (item.data["persona"], item.text, lines(item.options), CLOSING[item.groups["lang"]])
    return user("\n\n".join(part for part in parts if part))


# ---------------------------------------------------------------- answers

_REFUSAL = re.compile(
    r"\bas an? (\w+ )?(ai|artificial intelligence|language model|llm|chatbot)\b"
    r"|\b(i am|i'm) (just |only )?an? (\w+ )?(ai|language model|llm|chatbot|computer program)\b"
    r"|\bi (do not|don't) (really |actually )?(have|possess) (an? |any |my own |personal |human |real )*"
    r"(personality|feelings|emotions|opinions|preferences|consciousness)\b"
    r"|\b(cannot|can't|can not|unable to|not able to) (answer|rate|choose|respond|provide|give)\b"
    r"|(作为|我是)(一个|一款|一名|个)?(大型|大)?(人工智能|ai|语言模型|聊天机器人)"
    r"|我没有(个人|自己的)?(性格|个性|人格|情感|感受)|(无法|不能)回答"
)
_SCALE = re.compile(
    r"(?<=\d)\s*(/|out of|of)\s*(7|seven)(?![a-z0-9]|\.\d)|\bout of (7|seven)\b"  # 5/7, 5 of 7, five out of seven
    r"|(?<![\d.])(1|\bone) ?(to|and|-|–|到|至) ?(7|seven)(?![a-z0-9]|\.\d)"  # 1 to 7
    r"|(满分|总分)是?7分?"
)
_NUMBER = re.compile(r"(?<![a-z0-9_])(?<!\d[.,])[-−]?\d+(?:[.,]\d+)*(?![a-z0-9_]|[.,]\d)")
_WORDS: dict[str, str] = dict(
    zip(("one", "two", "three", "four", "five", "six", "seven", *"一二三四五六七"), LABELS * 2)
)
_WORD = re.compile(
    r"(?:^|\b(?:say|is|choose|pick|answer|rating|number)\b|[:：]|选择?|是|为|案)[\s:：\"'*“]*"
    r"(one|two|three|four|five|six|seven|[一二三四五六七])分?[\s.!。！\"'*”]*$"
)


def parse(text: str) -> int | None:
    """The whole number from 1 to 7 that an answer gives, or None.

    All numbers in it must be the same one, but for the scale of "5/7", "5 out of 7" and "from 1 to 7": "3 or 4", "10",
    "4.5" and a list of all the labels are no answer. Without digits a number word (English or Chinese) counts that ends
    the answer and stands alone or after a word such as "say", "is" or "选". Whoever says that they are a machine or
    cannot answer has not answered, whatever number follows. Thoughts do not count.
    """
    text = unicodedata.normalize("NFKC", without_reasoning(text)).lower().replace("’", "'")
    if _REFUSAL.search(text):
        return None
    text = _SCALE.sub(" ", text)
    numbers = set(_NUMBER.findall(text))
    if not numbers and not re.search(r"\d", text):
        word = _WORD.search(text)
        return int(_WORDS[word[1]]) if word else None
    only = re.fullmatch(r"([1-7])(?:\.0+)?", numbers.pop()) if len(numbers) == 1 else None
    return int(only[1]) if only else None


def score(item: Item, answer: str) -> Mapping[str, Verdict]:
    """`parsed` is the number as given; `value` means agreement, or the option `high`, in either order."""
    number = parse(answer)
    return {"integer": Verdict(number, None if number is None else _undo(item, number))}


def read(item: Item, p: Mapping[str, float]) -> Verdict:
    """The mean of the labels under their probabilities, or the likeliest of them; `value` as in `score`."""
    if item.data["readout"] == "likeliest":
        number = float(max(p, key=lambda label: p[label]))
    else:
        number = sum(int(label) * share for label, share in p.items())
    return Verdict(number, _undo(item, number))


def _undo(item: Item, number: float) -> float:
    return float(8 - number if item.data["order"] == "descending" else number)


# ---------------------------------------------------------------- measures


SUITE = Suite(
    paper="arXiv:2402.14679",
    version="3",
    options=PersonalitySettings,
    items=items,
    prompts={"scale": (ask,)},
    score=score,
    max_new_tokens=16,
    score_options=read,
    measures=measures,
    accuracy=False,
    default_mode="loglikelihood",
)
