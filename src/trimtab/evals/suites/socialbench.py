"""SocialBench: how well a model plays a role, alone and in a group, in nine dimensions.

The authors' rows carry no licence and do not come with trimtab: `path` reads them from a copy of theirs. Without it
run rows written for trimtab (`data/bundled/socialbench.jsonl`, CC0, English): the same format, other texts, so that
numbers are not those of the paper. Memory there takes keywords from the user's and the Assistant's turns.

Prompts have the structure of the release and our wording, save that the options are named as they are (the release says
"A to D" whatever their number). Two parsers: "official" follows the release, "robust" is `parsing.letters`.

Source: Chen et al., ACL Findings 2024 (arXiv:2403.13679), and its released loader and scorer.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError

from trimtab.common.errors import wrong_value
from trimtab.data.sources import DataError, load_rows
from trimtab.evals.suite import Answered, Estimate, Item, Options, Suite, SuiteError, Verdict
from trimtab.evals.suites._roles import MEMORY, SITUATION, prompt
from trimtab.metrics.intervals import Interval, mean_of, stratified_mean
from trimtab.rewards._marks import without_reasoning
from trimtab.rewards.parsing import letters

Dimension = Literal[
    "SA Style", "SA Know.", "EP Situ.", "EP Emo.", "CM Short", "CM Long", "SP Pos.", "SP Neu.", "SP Neg."
]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)
CATEGORIES: dict[str, tuple[Dimension, ...]] = {
    "Individual-SA-RoleStyle": ("SA Style",),
    "Individual-SA-RoleKnowledge": ("SA Know.",),
    SITUATION: ("EP Situ.",),
    "Individual-EP-DialogueEmotionDetect": ("EP Emo.",),
    "Individual-EP-HumorSarcasmDetect": ("EP Emo.",),
    MEMORY: ("CM Short", "CM Long"),
    "Group-SAP-Positive": ("SP Pos.",),
    "Group-SAP-Neutral": ("SP Neu.",),
    "Group-SAP-Negative": ("SP Neg.",),
}
FILES: dict[str, tuple[Dimension, ...]] = {
    "self_awareness.json": ("SA Style", "SA Know."),
    "emotional_perception.json": ("EP Situ.", "EP Emo."),
    "conversation_memory.json": ("CM Short", "CM Long"),
    "social_preference.json": ("SP Pos.", "SP Neu.", "SP Neg."),
}
HOME = "https://github.com/X-PLUG/SocialBench"
LONG = 40
"""turns from which on a dialogue is long"""
PROFILE_LINES = 10
"""of a profile that a group prompt shows"""


class SocialBenchOptions(Options):
    path: Path | None = None
    """Folder with the authors' four JSON files, or one .json or .jsonl file of such rows; if not given, own rows."""
    dimensions: tuple[Dimension, ...] = Field(DIMENSIONS, min_length=1)
    """Which of the nine are asked; files of the others need not be there."""
    lang: Literal["en", "zh"] | None = None
    """Rows of this language alone; if not given, of both."""
    number: int | None = Field(None, ge=1)
    """Rows of a dimension at most, the first ones."""
    truncate_profiles: bool = True
    """Show the first ten lines of each profile of a group, as the authors do; they may cut the role's own."""
    leave_out_own: bool = False
    """Leave out the profile of the role that is played, in groups; the authors' call shows it."""


# ---------------------------------------------------------------- rows


class _Turn(BaseModel):
    speaker: str = Field(alias="from")
    value: str


class _Meta(BaseModel):
    category: str
    lang: Literal["en", "zh"]
    name: str | None = None
    profile: dict[str, str] | None = None


class _Row(BaseModel):
    dialogue: list[_Turn] = Field(min_length=1)
    choices: dict[str, str] | None = None
    label: list[str] = Field(min_length=1)
    meta: _Meta

    def problem(self) -> str | None:
        """What pydantic does not see."""
        meta, choices = self.meta, self.choices or {}
        if meta.category not in CATEGORIES:
            return f"meta.category is {meta.category!r}; known are {', '.join(CATEGORIES)}"
        if meta.category == MEMORY:
            if not all(keyword.strip() for keyword in self.label):
                return "label has an empty keyword, which every reply would hold"
        elif not choices or not set(choices) <= set("ABCDEFGH"):
            return f"choices has the letters {', '.join(choices) or 'of no option'}; expected some of A to H"
        elif wrong := [letter for letter in self.label if letter not in choices]:
            return f"label {wrong[0]!r} is not among the choices {', '.join(choices)}"
        if "-EP-" not in meta.category:
            if not meta.name:
                return "meta.name is missing"
            if not meta.profile or ("Group" not in meta.category and meta.name not in meta.profile):
                return f"meta.profile has no profile of {meta.name!r}"
        return None

    @property
    def dimension(self) -> Dimension:
        return CATEGORIES[self.meta.category][self.meta.category == MEMORY and len(self.dialogue) >= LONG]


def items(options: SocialBenchOptions) -> list[Item]:
    """The rows as items, in the order of the files.

    Raises:
        DataError: naming the file, and the row and the key where it is one row's fault.
        SuiteError: if no row is of the language and the dimensions asked for.
    """
    found: list[Item] = []
    seen: Counter[Dimension] = Counter()
    for name, rows in _rows(options):
        for number, raw in enumerate(rows, start=1):
            row = _checked(raw, f"{name}: row {number}")
            wanted = row.dimension in options.dimensions and options.lang in (None, row.meta.lang)
            if wanted and (options.number is None or seen[row.dimension] < options.number):
                seen[row.dimension] += 1
                found.append(_item(f"{Path(name).stem}-{number}", row, options))
    if not found:
        where = options.path or "trimtab's own rows"
        asked = f"{', '.join(options.dimensions)}, language {options.lang or 'en or zh'}"
        raise SuiteError(f"{where}: there is no row of {asked}" + ("" if options.path else "; they are English"))
    return found


def _rows(options: SocialBenchOptions) -> list[tuple[str, list[dict[str, Any]]]]:
    if options.path is None:
        with as_file(files("trimtab.data") / "bundled" / "socialbench.jsonl") as own:
            return [(own.name, load_rows(str(own)))]
    path = options.path.expanduser()
    if path.is_file():
        return [(str(path), load_rows(str(path)))]
    if not path.is_dir():
        raise DataError(f"there is no folder {path}; the files come from {HOME} (data/), without path run own rows")
    loaded = []
    for name, dimensions in FILES.items():
        if set(dimensions).isdisjoint(options.dimensions):
            continue
        if not (path / name).is_file():
            raise DataError(
                f"{path} has no file {name}, needed for {' and '.join(dimensions)}; copy it from {HOME} (data/), or "
                "ask for other dimensions"
            )
        try:
            loaded.append((str(path / name), load_rows(str(path / name))))
        except DataError as error:
            raise DataError(f"{error}; if the download was cut short, copy {name} again from {HOME} (data/)") from error
    return loaded


def _checked(raw: Mapping[str, Any], where: str) -> _Row:
    try:
        row = _Row.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        what = "is missing" if first["type"] == "missing" else wrong_value(first)
        raise DataError(f"{where}: {key} {what}; the rows' format is that of {HOME}") from None
    if problem := row.problem():
        raise DataError(f"{where}: {problem}")
    return row


def _item(identity: str, row: _Row, options: SocialBenchOptions) -> Item:
    meta = row.meta
    group = meta.category.startswith("Group")
    if group:
        shown = [
            _cut(text) if options.truncate_profiles else text
            for name, text in (meta.profile or {}).items()
            if not (options.leave_out_own and name == meta.name)
        ]
    else:
        shown = [meta.profile[meta.name]] if meta.profile and meta.name in meta.profile else []
    asked = [turn.value for turn in row.dialogue if turn.speaker.lower() not in (str(meta.name).lower(), "assistant")]
    return Item(
        id=identity,
        text="\n".join(f"{turn.speaker}: {turn.value}" for turn in row.dialogue),
        options=row.choices or {} if meta.category != MEMORY else {},
        target=tuple(dict.fromkeys(row.label)),
        groups={"dimension": row.dimension, "level": "group" if group else "individual", "lang": meta.lang},
        max_new_tokens=512 if meta.category == MEMORY else None,
        data={
            "category": meta.category,
            "name": meta.name,
            "profile": "\n\n\n".join(shown),
            "last": row.dialogue[-1].value,
            "last_user": asked[-1] if asked else row.dialogue[-1].value,
        },
    )


def _cut(profile: str) -> str:
    return "\n".join(re.sub(r"\n+", "\n", profile).split("\n")[:PROFILE_LINES])


# ---------------------------------------------------------------- verdicts

_OFFICIALLY = re.compile(r"(?:\b|\W+|^|[\u4e00-\u9fff]+|(?<=[A-D]))([A-H])(?:\b|(?=[A-D])|$|\W+|[\u4e00-\u9fff]+)")


def official_letters(text: str) -> tuple[str, ...]:
    """Capital letters A to H that stand alone or beside one of A to D, in order of appearance, each once.

    So "AC" gives A and C, and the article of "A good choice is C" gives an A. What parts two letters belongs to the
    first where it is Chinese, so that "选A和C" gives A alone.
    """
    return tuple(dict.fromkeys(_OFFICIALLY.findall(text)))


def official_value(parsed: Sequence[str], target: Sequence[str]) -> float:
    """One right letter: 1 if the first one parsed is it, whatever follows. Several: 0 if any is wrong, else the share
    of them that was found."""
    return float(parsed[0] == target[0]) if len(target) == 1 else robust_value(parsed, target)


def robust_value(parsed: Sequence[str], target: Sequence[str]) -> float:
    """0 if any letter is wrong, else the share of the right ones that was found."""
    return len(set(parsed)) / len(target) if set(parsed) <= set(target) else 0.0


def recall(reply: str, keywords: Sequence[str]) -> Verdict:
    """The keywords that are substrings of the reply, whatever their case, over all of them; none for an empty reply.

    A reply that names everything scores 1, and "Parisian" holds "Paris": read it beside the length of replies.
    """
    if not reply.strip():
        return Verdict(None, None)
    found = [keyword for keyword in keywords if keyword.lower() in reply.lower()]
    return Verdict(found, len(found) / len(keywords))


def score(item: Item, reply: str) -> dict[str, Verdict]:
    """The verdicts of both parsers.

    Memory: "robust" leaves out reasoning blocks and takes full-width letters for plain ones; else both are `recall`.
    Options: "robust" lets several letters count only where a row may have several (EP Situ.), and there a wrong letter
    costs all even if one letter is right; the official rule looks at the first letter of such rows alone.
    """
    if not item.options:
        plain = unicodedata.normalize("NFKC", without_reasoning(reply))
        return {"robust": recall(plain, item.target), "official": recall(reply, item.target)}
    robust = letters(reply, item.options, several=item.data["category"] == SITUATION)
    official = official_letters(reply)
    return {
        "robust": Verdict(robust, robust_value(robust, item.target)) if robust else Verdict(None, None),
        "official": Verdict(official, official_value(official, item.target)) if official else Verdict(None, None),
    }


def read(item: Item, p: Mapping[str, float]) -> Verdict:
    """The likeliest letter as the whole answer: where several are right it earns its share. Not in the paper."""
    best = max(p, key=lambda letter: p[letter])
    return Verdict((best,), robust_value((best,), item.target))


# ---------------------------------------------------------------- numbers


def floor(item: Item) -> float:
    """What needs no understanding: the value expected of one letter drawn at random, or for memory that of the user's
    last turn repeated as the reply."""
    if item.options:
        return 1 / len(item.options)
    return recall(item.data["last_user"], item.target).value or 0.0


def measures(answered: Sequence[Answered]) -> list[Estimate]:
    """What the paper reports, beyond the means by dimension.

    "Avg" is the unweighted mean over the dimensions that were asked, of "strict" (no answer counts 0), "answered" (no
    answer does not count: the official number) and "unparsed" (the share of such rows); also for the individual and the
    group level, and their difference. "floor" is the mean of `floor`, and "reply length" that of the replies to memory
    rows, in characters. Intervals are of 95 %, over rows within each dimension.
    """
    valid = [one for one in answered if one.error is None]
    members_of = {name: [one for one in valid if one.item.groups["dimension"] == name] for name in DIMENSIONS}
    by_dimension = {name: members for name, members in members_of.items() if members}
    group = {name: members for name, members in by_dimension.items() if name.startswith("SP")}
    individual = {name: members for name, members in by_dimension.items() if name not in group}
    levels = {"all": by_dimension, "level=individual": individual, "level=group": group}
    found: list[Estimate] = []
    for parser in valid[0].verdicts if valid else ():
        for kind in ("strict", "answered", "unparsed"):
            for level, members in levels.items():
                if members:
                    found.append(_average(f"{parser} Avg {kind}", level, _strata(members, parser, kind)))
            if individual and group:
                found.append(_difference(parser, kind, individual, group))
    for level, members in levels.items():
        if members:
            strata = [([floor(one.item) for one in some], [1.0] * len(some)) for some in members.values()]
            found.append(_average("floor Avg", level, strata))
    for name, members in by_dimension.items():
        floors = [floor(one.item) for one in members]
        found.append(Estimate("floor", f"dimension={name}", mean_of(floors), len(members)))
        if name.startswith("CM"):
            sizes = [len(one.answers[-1]) if one.answers else 0 for one in members]
            found.append(Estimate("reply length", f"dimension={name}", mean_of(sizes), len(members)))
    return found


Strata = list[tuple[list[float], list[float]]]


def _strata(by_dimension: Mapping[str, Sequence[Answered]], parser: str, kind: str) -> Strata:
    """(values, what they are divided by) of each dimension."""
    strata = []
    for members in by_dimension.values():
        values = [one.verdicts[parser].value for one in members]
        known = [float(value is not None) for value in values]
        top = [1 - flag for flag in known] if kind == "unparsed" else [value or 0.0 for value in values]
        strata.append((top, known if kind == "answered" else [1.0] * len(values)))
    return strata


def _average(name: str, group: str, strata: Strata) -> Estimate:
    return Estimate(name, group, stratified_mean(strata), round(sum(sum(counts) for _, counts in strata)))


def _difference(parser: str, kind: str, individual: Mapping[str, Any], group: Mapping[str, Any]) -> Estimate:
    one, other = _strata(individual, parser, kind), _strata(group, parser, kind)
    weights = [1 / len(one)] * len(one) + [-1 / len(other)] * len(other)
    value: Interval = stratified_mean(one + other, weights)
    number = round(sum(sum(counts) for _, counts in one + other))
    return Estimate(f"{parser} individual - group {kind}", "all", value, number)


SUITE = Suite(
    paper="arXiv:2403.13679",
    version="3",
    options=SocialBenchOptions,
    items=items,
    prompts={"zero_shot": (prompt,)},
    score=score,
    max_new_tokens=32,
    score_options=read,
    measures=measures,
)
