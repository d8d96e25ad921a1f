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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from trimtab.common.errors import nearest
from trimtab.data.sources import DataError, load_rows
from trimtab.evals.suite import (
    Answered,
    Estimate,
    Item,
    Messages,
    Options,
    Suite,
    SuiteError,
    Verdict,
    grouped,
    lines,
    user,
)
from trimtab.metrics import consistency
from trimtab.metrics.intervals import Array, Interval, bootstrap, bootstrap_ratio, mean_of
from trimtab.metrics.ranks import percentile
from trimtab.rewards.parsing import without_reasoning

Mask = NDArray[np.bool_]
PARTS = ("statement", "scenario")
LABELS = "1234567"

PERSONAS = {
    "outgoing": "You love company. You are lively and talkative, and being among people gives you energy.",
    "reserved": "You prefer quiet. You are calm and say little, and being alone gives you energy.",
    "orderly": "You love order. You plan ahead, keep your things in place and finish what you begin.",
    "anxious": "You worry a lot. Small troubles upset you, and your mood changes quickly.",
}


class PersonalitySettings(Options):
    path: str = ""
    """Own pairs instead of the bundled ones, as .jsonl, .json or .parquet."""
    traits: tuple[str, ...] = ()
    """Only pairs of these traits, such as [E, C]; all if empty."""
    lang: str = ""
    """Only pairs in this language; all if empty. Questions are there in en and zh, bundled pairs in en."""
    repeats: int = Field(5, ge=1)
    """How often each question is asked in each order, with another wording each time; there are five wordings."""
    persona: str = ""
    """What comes before each question: outgoing, reserved, orderly, anxious, or a text of your own."""
    order: Literal["both", "ascending", "descending"] = "both"
    """Descending: 1 stands for full agreement, and the scenario's options change places."""
    readout: Literal["expected", "likeliest"] = "expected"
    """Where probabilities of the seven labels are known: their mean, or the likeliest label (constrained decoding)."""
    delta: float = Field(1.0, ge=0, le=6)
    """Points that a consistent pair may be apart; 0, 1 and 2 are always shown."""
    humans: str = ""
    """A table of people to compare with: a row each, and columns PAIR.statement and PAIR.scenario of 1 to 7."""


# ---------------------------------------------------------------- pairs


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Statement(_Part):
    text: str = Field(min_length=1)
    reverse_of: str | None = None
    """pair_id of the statement that says the opposite"""


class Scenario(_Part):
    text: str = Field(min_length=1)
    low: str = Field(min_length=1)
    high: str = Field(min_length=1)
    """the behaviour that the statement describes"""


class Pair(_Part):
    """A line of a file of pairs."""

    pair_id: str = Field(min_length=1)
    framework: str = "big5"
    trait: str = Field(min_length=1)
    facet: str | None = None
    key: Literal[-1, 1]
    """1 if agreement means more of the trait"""
    lang: str = "en"
    statement: Statement
    scenario: Scenario
    licence: str | None = None
    source: str | None = None


def load_pairs(path: str = "") -> list[Pair]:
    """The pairs of a file, in its order; the bundled ones without a path.

    Raises:
        DataError: naming the row and the field; also for a pair_id that comes twice, and for a reverse-worded partner
            that is not there, does not point back, or is not of the other key of the same trait and language.
    """
    source = path or str(files("trimtab.data") / "bundled" / "personality.jsonl")
    pairs: dict[str, Pair] = {}
    for number, row in enumerate(load_rows(source), start=1):
        try:
            pair = Pair.model_validate(row)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise DataError(f"{source}: row {number}: {field}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
        if pair.pair_id in pairs:
            raise DataError(f"{source}: row {number}: pair_id {pair.pair_id!r} was there before; make it unique")
        pairs[pair.pair_id] = pair
    for number, pair in enumerate(pairs.values(), start=1):
        name = pair.statement.reverse_of
        other = pairs.get(name) if name is not None else None
        fits = other and (other.statement.reverse_of, other.key, other.trait, other.lang) == (
            pair.pair_id, -pair.key, pair.trait, pair.lang
        )  # fmt: skip
        if name is not None and not fits:
            wrong = "points elsewhere or has another trait, language or the same key" if other else "is not in the file"
            raise DataError(f"{source}: row {number}: statement.reverse_of is {name!r}, which {wrong}")
    return list(pairs.values())


def load_people(path: str, pairs: Sequence[Pair]) -> dict[tuple[str, str], list[float | None]]:
    """(pair_id, part) -> one rating a person, in the order of the rows; None for an empty cell.

    Args:
        path: .csv, .jsonl, .json or .parquet with the columns PAIR.statement and PAIR.scenario for each pair, whole
            numbers from 1 to 7 with 7 for agreement and for the option `high`. Other columns are not read.

    Raises:
        DataError: naming the column that is missing, or row, column and content of a cell that is no rating.
    """
    rows = load_rows(path)
    table: dict[tuple[str, str], list[float | None]] = {}
    for pair in pairs:
        for part in PARTS:
            column = f"{pair.pair_id}.{part}"
            if not any(column in row for row in rows):
                said = nearest(column, rows[0], "every pair has one for each part")
                raise DataError(f"{path} has no column {column!r}; {said}")
            table[pair.pair_id, part] = [_rating(row.get(column), path, n, column) for n, row in enumerate(rows, 1)]
    return table


def _rating(cell: Any, path: str, number: int, column: str) -> float | None:
    text = "" if cell is None else str(cell).strip()
    if text in ("", "nan"):  # the latter is parquet's way to say that there is none
        return None
    if not re.fullmatch(r"[1-7](\.0*)?", text):
        raise DataError(f"{path}: row {number}: {column} is {cell!r}; expected a whole number from 1 to 7, or nothing")
    return float(text)


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
        said = nearest(name, PERSONAS, f"there are: {', '.join(PERSONAS)}, or write a sentence")
        raise SuiteError(f"personality.persona: there is no persona {name!r}; {said}")
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


@dataclass(frozen=True)
class RatingTable:
    """Answers joined by pair; ratings are NaN where there is none."""

    ratings: dict[str, Array]
    """part -> [N, orders, repeats]"""
    traits: list[str]
    keys: Array
    """[N] +1 or -1"""
    partners: list[tuple[int, int]]
    """places of reverse-worded statements, each couple once"""
    asked: Array
    """[N] questions that were put, of both parts"""
    people: dict[str, Array]
    """part -> [respondents, N]"""
    delta: float

    def means(self, part: str) -> Array:
        """[N] over orders and repeats."""
        return consistency.mean(self.ratings[part], (1, 2))

    def valid(self) -> tuple[Array, Array, Mask]:
        """Statements and scenarios of the pairs that have both, and which those are."""
        s, a = self.means("statement"), self.means("scenario")
        both = ~np.isnan(s) & ~np.isnan(a)
        return s[both], a[both], both


def tabulate(answered: Sequence[Answered]) -> RatingTable:
    """Join both parts by pair_id; the headline verdict counts, and errors are neither asked nor answered."""
    first = {one.item.data["pair_id"]: one.item for one in answered}
    place = {pair_id: n for n, pair_id in enumerate(first)}
    orders = sorted({one.item.data["order"] for one in answered})
    repeats = 1 + max(one.item.data["repeat"] for one in answered)
    ratings = {part: np.full((len(place), len(orders), repeats), np.nan) for part in PARTS}
    asked = np.zeros(len(place))
    num_people = max(len(one.item.data["humans"]) for one in answered)
    people = {part: np.full((num_people, len(place)), np.nan) for part in PARTS}
    for one in answered:
        data = one.item.data
        n = place[data["pair_id"]]
        people[data["part"]][: len(data["humans"]), n] = np.array(data["humans"], float)
        if one.error is not None:
            continue
        value = next(iter(one.verdicts.values())).value
        asked[n] += 1
        ratings[data["part"]][n, orders.index(data["order"]), data["repeat"]] = np.nan if value is None else value
    couples = ((n, place.get(item.data["reverse_of"], -1)) for n, item in enumerate(first.values()))
    return RatingTable(
        ratings=ratings,
        traits=[item.groups["trait"] for item in first.values()],
        keys=np.array([item.data["key"] for item in first.values()], float),
        partners=[(n, other) for n, other in couples if n < other],
        asked=asked,
        people=people,
        delta=answered[0].item.data["delta"],
    )


def measures(answered: Sequence[Answered]) -> list[Estimate]:
    """Agreement with its chance levels, reliability, profiles and people: for all pairs, each trait and each language.

    Intervals are of 95 % over pairs, except for chance levels, where they hold 95 % of what chance gives.
    """
    found: list[Estimate] = []
    for group, members in grouped(answered).items():
        if not members:
            continue
        table = tabulate(members)
        reliability = list(_reliability(table, members, group))
        if group == "all":
            found += gate(reliability)
        found += [*_agreement(table, group), *reliability, *_profile(table, group)]
    return found


def _agreement(table: RatingTable, group: str) -> Iterator[Estimate]:
    s, a, both = table.valid()
    number, repetitions = len(s), table.ratings["statement"].shape[1] * table.ratings["statement"].shape[2]
    torn, blind = consistency.shuffled(a), consistency.uniform(number, repetitions)
    for name, metric in consistency.metrics(table.delta).items():
        value = bootstrap(metric, s, a)
        yield Estimate(name, group, value, number)
        if not number:
            continue
        by_chance = metric(s, torn)
        yield Estimate(f"{name} of shuffled pairs", group, consistency.spread(by_chance), number)
        yield Estimate(f"{name} of uniform answers", group, consistency.spread(metric(*blind)), number)
        if group == "all":
            for constant in (4, 7):
                always = np.full(number, float(constant))
                yield Estimate(f"{name} of always {constant}", group, _plain(float(metric(always, always))), number)
        if name == "spearman" or name.startswith("PCP"):
            p = consistency.p_value(value.estimate, by_chance)
            yield Estimate(f"{name} p-value", group, _plain(p), number)
        yield from _people(table, name, metric, value.estimate, both, group)


def _people(
    table: RatingTable, name: str, metric: consistency.Metric, value: float, both: Mask, group: str
) -> Iterator[Estimate]:
    """Mean and sd over respondents, and the model's percentile: of the number itself, so for VMD low is good."""
    values = []
    for s, a in zip(table.people["statement"][:, both], table.people["scenario"][:, both]):
        known = ~np.isnan(s) & ~np.isnan(a)
        values.append(float(metric(s[known], a[known])) if known.any() else np.nan)
    people = np.array([v for v in values if not np.isnan(v)])
    if not len(values):
        return
    for what, number in (
        ("human mean", float(people.mean()) if len(people) else np.nan),
        ("human sd", float(people.std(ddof=1)) if len(people) > 1 else np.nan),
        ("human percentile", percentile(value, people)),
    ):
        yield Estimate(f"{name} {what}", group, _plain(number), len(people))


def _reliability(table: RatingTable, members: Sequence[Answered], group: str) -> Iterator[Estimate]:
    given = sum((~np.isnan(x)).sum((1, 2)) for x in table.ratings.values())
    yield Estimate("answer rate", group, bootstrap_ratio(given, table.asked), int(table.asked.sum()))
    masses = [one.mass for one in members if one.mass is not None]
    if masses:
        yield Estimate("mass on labels", group, mean_of(masses), len(masses))
    apart = consistency.reverse_differences(table.means("statement"), table.partners)
    yield _mean("reverse difference", group, apart)
    near = np.where(np.isnan(apart), np.nan, consistency.near(apart, 1.0))
    yield _mean("reverse within 1", group, near)
    for part in PARTS:
        x = table.ratings[part]
        amounts = consistency.scored(x, table.keys).reshape(len(x), -1)
        half = consistency.split_half(amounts, table.traits, table.keys)
        yield Estimate(f"split-half {part}", group, _plain(half), len(x))
        if len(set(table.traits)) == 1:
            yield Estimate(f"alpha {part}", group, _plain(consistency.cronbach(amounts)), len(x))
        shifts = consistency.order_shifts(x)
        yield _mean(f"order sensitivity {part}", group, abs(shifts))
        yield _mean(f"order shift {part}", group, shifts)
        yield _mean(f"repeat sd {part}", group, consistency.repeat_spread(x))


GATE = (
    ("answer rate", ">=", 0.95),
    ("reverse difference", "<=", 1.5),
    ("split-half statement", ">=", 0.7),
    ("order sensitivity statement", "<=", 1.0),
    ("order sensitivity scenario", "<=", 1.0),
    ("repeat sd statement", "<=", 1.0),
    ("repeat sd scenario", "<=", 1.0),
)
"""What must hold before agreement is interpreted. The paper has a gate of unknown contents; these limits are ours."""


def gate(reliability: Sequence[Estimate]) -> list[Estimate]:
    """1 where a demand is met, 0 where not, NaN where it was not measured (one order, one repeat, constant answers).

    The whole is 0 if a demand is not met, NaN if one was not measured, and 1 otherwise.
    """
    by_name = {measure.name: measure for measure in reliability}
    found = []
    for name, sign, limit in GATE:
        value = by_name[name].value.estimate
        met = value >= limit if sign == ">=" else value <= limit
        passed = np.nan if np.isnan(value) else float(met)
        found.append(Estimate(f"gate: {name} {sign} {limit:g}", "all", _plain(passed), by_name[name].number))
    demands = np.array([measure.value.estimate for measure in found])
    whole = 0.0 if (demands == 0).any() else float(demands.min())  # min is NaN if one is
    return [Estimate("gate", "all", _plain(whole), len(GATE)), *found]


def _profile(table: RatingTable, group: str) -> Iterator[Estimate]:
    s, a, both = table.valid()
    said, done = consistency.scored(s, table.keys[both]), consistency.scored(a, table.keys[both])
    traits = np.unique(np.array(table.traits)[both], return_inverse=True)[1]
    if len(set(table.traits)) == 1:
        yield _mean("profile statement", group, said)
        yield _mean("profile scenario", group, done)
    yield Estimate("profile distance", group, bootstrap(consistency.profile_distance, said, done, traits), len(s))


def _mean(name: str, group: str, values: Array) -> Estimate:
    known = values[~np.isnan(values)]
    return Estimate(name, group, mean_of(known), len(known))


def _plain(value: float) -> Interval:
    return Interval(value, np.nan, np.nan)


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
