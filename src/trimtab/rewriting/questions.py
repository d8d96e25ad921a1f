"""Rows that Clean-Eval reads, and what it returns."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trimtab.common.errors import UserError
from trimtab.data.sources import Row
from trimtab.rewards.options import OptionsError, correct, lettered

Pair = tuple[str, str]
"""(original, candidate); the original is BLEURT's reference"""
COLUMNS = ("clean", "origin", "score", "kept", "generated", "dropped", "rewritten", "candidates")
"""that `clean` adds to a row, or replaces"""


class CleanEvalError(UserError):
    """Rows, settings or models that nothing can be cleaned with."""


@dataclass(frozen=True)
class PairScorer:
    """How alike the texts of pairs are, as numbers in a range of its own; as a detector, whether they mean the same."""

    name: str
    score: Callable[[Sequence[Pair]], list[float]]
    threshold: float = 0.5
    """of a detector: from which value on both texts mean the same"""

    def __call__(self, pairs: Sequence[Pair]) -> list[float]:
        return self.score(pairs)


@dataclass(frozen=True)
class CleanQuestion:
    """A parsed row: what is rewritten, and what must not change."""

    id: str
    texts: dict[str, str]
    """field -> text, of the fields to rewrite"""
    options: tuple[str, ...]
    """texts of the incorrect options"""
    answer: tuple[str, ...]
    """texts of the correct ones, or the open answer"""
    row: Row
    offered: tuple[str, ...] = ()
    """texts of all options, in their order"""


@dataclass
class Candidate:
    """A candidate and what became of it."""

    text: str
    origin: str
    seed: int
    prompts: tuple[str, ...]
    via: list[str]
    """intermediate texts, such as that in the pivot language"""
    same: float | None = None
    """the detector's value; None where an earlier rule dropped the candidate"""
    score: float | None = None
    error: str | None = None
    """of a server that gave no answer"""
    why: str | None = None
    """the reason for dropping it; None for a survivor"""


@dataclass(frozen=True)
class Cleaned:
    """What `clean` made."""

    rows: list[Row]
    left_out: list[Row]
    """rows with a text that could not be rewritten, under unrewritten=drop"""
    bands: dict[str, tuple[float, float]] = field(default_factory=dict)
    """field -> the scores that counted as moderate"""

    @property
    def dropped(self) -> dict[str, int]:
        """reason -> candidates, the most frequent first."""
        total = sum((Counter(row["dropped"]) for row in [*self.rows, *self.left_out]), Counter())
        return dict(total.most_common())


def read(rows: Sequence[Row], rewritable: Sequence[str] = ("question",)) -> list[CleanQuestion]:
    """Rows as the pipeline sees them.

    Args:
        rows: {"id", "fields": {name: text}, "options", "answer", "rewritable": [names]}, or flat ones whose texts are
            columns. `id` is the row's number where there is none; options and answer may be missing.
        rewritable: names of the texts to rewrite, for rows that do not name their own.

    Raises:
        CleanEvalError: naming the row.
    """
    found = []
    for number, row in enumerate(rows):
        where = f"row {number + 1}"
        texts = row.get("fields", row)
        names = row.get("rewritable") or list(rewritable)
        if not isinstance(texts, dict) or isinstance(names, str):
            raise CleanEvalError(f"{where}: fields must be an object of texts and rewritable a list of their names")
        for name in names:
            if not isinstance(texts.get(name), str) or not texts[name].strip():
                there = ", ".join(key for key, text in texts.items() if isinstance(text, str)) or "none"
                raise CleanEvalError(f"{where} has no text {name!r} to rewrite; its texts: {there} (see fields=[...])")
        try:
            options = lettered(row["options"]) if row.get("options") is not None else {}
            answer = row.get("answer")
            known = correct(options, answer) if options and answer is not None else ()
        except OptionsError as error:
            raise CleanEvalError(f"{where}: {error}") from None
        incorrect = tuple(text for letter, text in options.items() if letter not in known)
        gold = tuple(options[letter] for letter in known)
        if not options and answer is not None:
            gold = tuple(str(one) for one in (answer if isinstance(answer, list) else [answer]))
        identity = str(row["id"]) if row.get("id") is not None else str(number)
        rewritten = {name: texts[name] for name in names}
        found.append(CleanQuestion(identity, rewritten, incorrect, gold, row, tuple(options.values())))
    twice = [identity for identity, times in Counter(question.id for question in found).items() if times > 1]
    if twice:
        raise CleanEvalError(f"{len(twice)} ids come more than once, such as {twice[0]!r}; each row needs its own")
    return found


def cleaned(row: Row) -> Row:
    """The row with its new texts in place of the old ones, such as another round of cleaning wants it."""
    rest = {key: value for key, value in row.items() if key not in COLUMNS}
    return {**rest, "fields": {**row["fields"], **row["clean"]}} if "fields" in row else {**rest, **row["clean"]}
