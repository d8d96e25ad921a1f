"""Keep a teacher's correct and different rationales of each question, for MCC-KD."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from rich.console import Console

from trimtab import __version__
from trimtab.common.errors import UserError
from trimtab.common.settings import CommandSettings, SettingsError, Shown
from trimtab.common.terminal import cells, say, table_of
from trimtab.common.workdir import META, Workdir

if TYPE_CHECKING:
    from trimtab.data.rationale_selection import Correct, SelectionCounts


class NothingSelected(UserError):
    """No row is left."""


class SelectSettings(CommandSettings):
    """Which rationales to keep."""

    positional = ("source",)
    words: ClassVar[str] = "ROWS [KEY=VALUE]..."
    source: str
    """Rows with a prompt, rationales and an answer, or with one completion each, as `trimtab collect` writes them."""
    out: Annotated[Path, Shown("FILE.jsonl")]
    """Where to write the rows."""
    verify: Annotated[str, Shown("auto|exact|choice|math|none|FILE.py:FUNCTION")] = "auto"
    """What says whether a rationale states the answer: a reward; auto is choice for options and letters, else exact."""
    keep: Annotated[int, Shown("N"), Field(ge=1)] = 5
    """Most rationales of a row."""
    pick: Literal["diverse", "random", "first"] = "diverse"
    """Which ones, if there are more: those that resemble each other least, random ones, or the first."""
    threshold: Annotated[float, Shown("X"), Field(gt=0)] = 0.8
    """Jaccard similarity of words from which on a rationale is a near-duplicate of a later one; above 1 for none."""
    ngram: Annotated[int, Shown("N"), Field(ge=1)] = 3
    """Words of the n-grams by which rationales are compared for diverse."""
    least: Annotated[int, Shown("N"), Field(ge=1)] = 1
    """Drop rows with fewer rationales; training needs 2."""
    rows: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Use only the first N rows."""
    seed: int = 0
    """Of random."""
    force: bool = False
    """Overwrite an existing file."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.out.suffix != ".jsonl":
            raise SettingsError(f"--out: rows are written as .jsonl; choose FILE.jsonl instead of {self.out}")
        if self.out.exists() and self.out.resolve() == Path(self.source).expanduser().resolve():
            raise SettingsError(f"--out: {self.out} is the input file; choose another FILE.jsonl")
        if self.least > self.keep:
            raise SettingsError(
                f"--least {self.least}: more than the {self.keep} rationales that --keep leaves of a row"
            )
        return self


SETTINGS = SelectSettings


def main(settings: SelectSettings) -> None:
    """Select, and print what was kept and dropped."""
    from trimtab.data.sources import check_there

    check_there(settings.source)
    select_into(settings)


def select_into(settings: SelectSettings, console: Console | None = None) -> "SelectionCounts":
    """Write the rows with the rationales that are kept, and a meta file with settings and counts.

    Raises:
        UserError: for a mistake of the user, or if no row is left; nothing is written then.
    """
    from trimtab.common import fingerprint
    from trimtab.data.rationale_selection import select
    from trimtab.data.sources import load_rows

    console = console or Console()
    work = Workdir(
        settings.out, "select-rationales", (META,), is_file=True, option="another FILE.jsonl", force=settings.force
    )
    work.check()
    correct = _verifier(settings.verify)
    with work.open():
        rows = load_rows(settings.source)[: settings.rows]
        how = settings.model_dump(include={"keep", "pick", "threshold", "ngram", "least", "seed"})
        made, counts = select(rows, settings.source, correct, **how)
        if not made:
            raise NothingSelected(
                f"{settings.source}: no row is left of {counts.rows}: {counts.incorrect} of {counts.rationales} "
                f"rationales are incorrect by verify={settings.verify}, and {counts.rows_too_few} rows have fewer than "
                f"{settings.least} others; look at their answers, or choose another verify"
            )
        meta = {
            "paper": "arXiv:2310.14747",
            "source": settings.source,
            "rows": fingerprint.of_each(rows),
            "settings": {"verify": settings.verify, **how},
            "counts": vars(counts),
            "trimtab": __version__,
            "command_line": shlex.join(["trimtab", *sys.argv[1:]]),
        }
        work.write_rows(made, meta)
    _show(counts, settings, console)
    say(console, f"rows: {settings.out}\nmeta: {work.path(META)}")
    return counts


def _verifier(name: str) -> "Correct | None":
    """What `select` asks; loaded, so that a wrong name is refused before rows are read."""
    if name == "none":
        return None
    from trimtab.rewards import verifiable
    from trimtab.rewards.graded import which_are_correct
    from trimtab.rewards.places import label_of

    rewards = {one: verifiable.load(one) for one in (("exact", "choice") if name == "auto" else (name,))}

    def correct(texts: Sequence[str], task: Mapping[str, Any]) -> Sequence[bool]:
        answer = task["answer"] if task["options"] else label_of(task["answer"])
        chosen = name if name != "auto" else "choice" if task["options"] or _is_letter(answer) else "exact"
        columns = {"answer": answer, **({"options": task["options"]} if task["options"] else {})}
        prompts = [task["prompt"]] * len(texts)
        values = rewards[chosen](prompts, texts, **{key: [value] * len(texts) for key, value in columns.items()})
        return which_are_correct([values], [1.0], prompts)

    return correct


def _is_letter(answer: Any) -> bool:
    return isinstance(answer, str) and len(answer) == 1 and answer in "ABCDE"


def _show(counts: "SelectionCounts", settings: SelectSettings, console: Console) -> None:
    table = table_of("what", "number", "note", box=None, pad_edge=False)
    lines = [
        ("rationales", counts.rationales, ""),
        ("empty", counts.empty, ""),
        ("incorrect", counts.incorrect, f"by verify={settings.verify}"),
        ("near-duplicates", counts.near_duplicates, f"{settings.threshold:g} of a later one's words, or more"),
        ("not picked", counts.not_picked, f"more than keep={settings.keep} in a row"),
        ("kept", counts.kept, ""),
        ("rows", counts.rows, ""),
        ("dropped: no rationale left", counts.rows_without_any, _first(counts, "rows_without_any")),
        (f"dropped: fewer than {settings.least}", counts.rows_too_few, _first(counts, "rows_too_few")),
        ("rows kept", counts.rows_kept, ""),
        ("of them with one rationale", counts.rows_with_one, "training refuses them; least=2 drops them"),
    ]
    for what, number, note in lines:
        table.add_row(*cells((what, number, note if number else "")))
    console.print(table)


def _first(counts: "SelectionCounts", what: str) -> str:
    return f"first: row {counts.first[what]}" if what in counts.first else ""
