"""Test whether a model has seen a test set: scores on the original, a paraphrase and fresh items, and their gaps."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import typer
from pydantic import model_validator
from rich.console import Console
from rich.table import Table

from trimtab import __version__
from trimtab.commands.asking import keys_of_suites
from trimtab.commands.evaluate import AnsweringSettings, EvaluateSettings, answered, model_of
from trimtab.common.errors import UserError
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import cells, quiet, say, table_of
from trimtab.common.workdir import Workdir

if TYPE_CHECKING:
    from trimtab.evals.runner import EvalSpec
    from trimtab.evals.suite import Answered
    from trimtab.rewriting.contamination import Set, Triangle

SUITE, FACTS, REPORT = "multiple_choice", "contamination.json", "report.html"


class ContaminationError(UserError):
    """Sets that cannot be compared."""


class ContaminationSettings(AnsweringSettings):
    """Which sets, and which models."""

    positional = ("clean",)
    words: ClassVar[str] = "CLEAN.jsonl [KEY=VALUE]..."
    owner = SUITE
    clean: str
    """Output of `trimtab clean`: rows that also hold the original wording."""
    control: Annotated[str, Shown("FILE")]
    """Fresh questions of the same kind."""
    model: Annotated[tuple[str, ...], Shown("MODEL")]
    """A builtin model, a folder, a Hub id, or a model on the server; may be repeated."""
    out: Annotated[Path, Shown("FOLDER")]
    """Folder for all answers, the gaps, and an HTML page."""
    baseline: Annotated[str | None, Shown("MODEL")] = None
    """One of the models that cannot have seen the original."""
    mode: Literal["generate", "loglikelihood"] = "generate"
    """generate: parse a generated answer; loglikelihood: take the likeliest option."""
    allow_same: bool = False
    """Allow evaluating the model that made the clean set, which flatters it."""

    @classmethod
    def rivals(cls, key: str, given: Mapping[str, Any], plain: Sequence[str]) -> Sequence[str]:
        return keys_of_suites(key, [SUITE])

    def owned(self) -> Mapping[str, Any]:
        return {SUITE: ()}

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for key in ("file", "which"):
            if key in self.options.get(SUITE, {}):
                raise SettingsError(f"{key}: the files are CLEAN.jsonl and --control FILE")
        if self.baseline is not None and self.baseline not in self.model:
            raise SettingsError(f"--baseline {self.baseline} is not one of the models: {', '.join(self.model)}")
        if self.served_as and len(self.model) > 1:
            raise SettingsError("--served-as is the name of one model, and several are asked; evaluate them one by one")
        if len(set(self.model)) < len(self.model):
            raise SettingsError("a model is listed twice; list each once")
        return self.check_owned()

    def of(self, model: str) -> EvaluateSettings:
        """The evaluation settings of one model."""
        same = (
            "prompt",
            "mode",
            "limit",
            "endpoint",
            "served_as",
            "max_new_tokens",
            "seed",
            "batch",
            "tokenizer",
            "force",
        )
        how = {name: getattr(self, name) for name in (*same, "dtype", "device_map")}
        return EvaluateSettings(suites=(SUITE,), model=model, out=self.out, **how)


SETTINGS = ContaminationSettings


def main(settings: ContaminationSettings) -> None:
    """Evaluate the sets, and print the path of the page."""
    from trimtab.runs.early import check_asked

    named = [] if settings.endpoint else [("--model", name) for name in settings.model]
    check_asked(named, [settings.clean, settings.control])
    quiet()
    contamination(settings)
    typer.echo(f"report: {settings.out / REPORT}")


def contamination(settings: ContaminationSettings, console: Console | None = None) -> "list[Triangle]":
    """Evaluate each model on the three sets, one folder each, and write the gaps, `contamination.json` and a page.

    An interrupted call is resumed.

    Raises:
        UserError: for a mistake of the user, where possible before weights are loaded.
    """
    from trimtab.common import fingerprint
    from trimtab.evals.suite import baselines, plain
    from trimtab.report import contamination as page
    from trimtab.rewriting.contamination import SETS, check_author, triangles

    console = console or Console()
    rewriter, rows = _made_by(settings.clean)
    for model in () if settings.allow_same else settings.model:
        check_author(model, rewriter)
    asked: dict[Set, EvalSpec] = {name: _question(name, settings) for name in SETS}
    _check_sets(asked, rows, settings)
    work = Workdir(settings.out, "contamination", (FACTS, REPORT), force=settings.force)
    work.check()
    signature = {
        "trimtab": __version__,
        "clean": fingerprint.of_files([Path(settings.clean).expanduser()]),
        "control": fingerprint.of_files([Path(settings.control).expanduser()]),
        **{key: str(getattr(settings, key)) for key in ("mode", "prompt", "limit", "seed", "baseline")},
        "options": str(settings.options.get(SUITE, {})),
    }
    with work.open():
        work.sign(signature, loose={"baseline"})
        found_by = {model: _answered(model, asked, settings, console) for model in settings.model}
        found = triangles(found_by, rewriter=rewriter, baseline=settings.baseline, allow_same=settings.allow_same)
        facts: dict[str, Any] = {
            "trimtab": __version__, "clean": settings.clean, "control": settings.control, "rewriter": rewriter,
            "baseline": settings.baseline, "mode": settings.mode, "seed": settings.seed,
            "items": {name: len(one.items) for name, one in asked.items()},
            "unchanged wording": _unchanged(asked["original"], asked["clean"]),
            "errors": {
                model: {name: sum(one.error is not None for one in of) for name, of in sets.items()}
                for model, sets in found_by.items()
            },
            "a random option": baselines(asked["original"].suite, asked["original"].items).get("random"),
        }  # fmt: skip
        work.write(FACTS, json.dumps({**facts, "models": plain([vars(one) for one in found])}, indent=1) + "\n")
        links = {model: {name: f"{folder_of(model)}/{name}/{REPORT}" for name in SETS} for model in settings.model}
        page.write(found, facts, links, settings.out / REPORT)
    console.print(table(found))
    for line in (*page.findings(found, facts), *page.cautions(facts)):
        say(console, line)
    return found


def _check_sets(asked: "Mapping[Set, EvalSpec]", rows: int, settings: ContaminationSettings) -> None:
    """Check that the clean set is complete, the control set fresh, and each model's name resolves."""
    from trimtab.models import loading

    if settings.limit is None and len(asked["clean"].items) != rows:
        raise ContaminationError(
            f"{settings.clean} has {len(asked['clean'].items)} rows, but its meta file says {rows}; use the file as "
            "`trimtab clean` wrote it, and --limit for fewer items"
        )
    known = {_words(item.text) for name in ("original", "clean") for item in asked[name].items}
    both = sum(_words(item.text) in known for item in asked["control"].items)
    if both:
        raise ContaminationError(
            f"{settings.control}: {both} of its questions are also in {settings.clean}; a control set must be fresh"
        )
    for model in () if settings.endpoint else settings.model:
        loading.load_config(model)  # a wrong name is reported before the first item is evaluated


def folder_of(model: str) -> str:
    """The name of a model's folder."""
    return re.sub(r"[^\w.-]+", "-", model).strip("-.") or "model"


def _question(name: "Set", settings: ContaminationSettings) -> "EvalSpec":
    from trimtab.evals.runner import eval_spec

    file = settings.control if name == "control" else settings.clean
    which = "clean" if name == "clean" else "original"
    return eval_spec(
        SUITE, {**settings.options.get(SUITE, {}), "file": file, "which": which}, prompt=settings.prompt,
        mode=settings.mode, limit=settings.limit, max_new_tokens=settings.max_new_tokens,
    )  # fmt: skip


def _answered(
    model: str, asked: "Mapping[Set, EvalSpec]", settings: ContaminationSettings, console: Console
) -> "dict[Set, list[Answered]]":
    """Evaluate one model, which is in memory only during this call."""
    how, folder = settings.of(model), settings.out / folder_of(model)
    answerer = model_of(how, folder)
    found: dict[Set, list[Answered]] = {}
    for name, one in asked.items():
        say(console, f"{model}: {name}")
        found[name] = answered(folder / name, SUITE, one, answerer, how, console)
    return found


def _words(text: str) -> str:
    """A question normalised for comparison."""
    return " ".join(re.findall(r"\w+", text.casefold()))


def _unchanged(original: "EvalSpec", clean: "EvalSpec") -> int:
    """Number of items with the same text in both sets: no rewrite of theirs survived."""
    texts = {item.id: item.text for item in original.items}
    return sum(texts.get(item.id) == item.text for item in clean.items)


def _made_by(clean: str) -> tuple[str, int]:
    """The rewriter of the clean set, and its number of rows."""
    from trimtab.data import stored

    if not Path(clean).expanduser().is_file():
        raise ContaminationError(f"there is no file {clean}; make it with `trimtab clean FILE --out FILE.jsonl`")
    path = stored.meta_path(Path(clean).expanduser())
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
        return str(meta["rewriter"]), meta["report"]["items"] - meta["report"]["left out"]
    except (OSError, ValueError, KeyError, TypeError):
        raise ContaminationError(
            f"{clean}: there is no {path.name} next to it that says what rewrote it; make both with "
            "`trimtab clean FILE --out FILE.jsonl`"
        ) from None


def table(found: "Sequence[Triangle]") -> Table:
    """Scores and gaps for a terminal."""
    from trimtab.report import contamination as page
    from trimtab.rewriting.contamination import SETS

    gaps = ["original - clean", "original - control", *(["minus the baseline's"] if found[0].shift else []), "recovery"]
    rows = table_of("", *(one.model for one in found), box=None)
    for name in SETS:
        rows.add_row(*cells((name, *(one.scores[name].shown() for one in found))))
    for name, values in zip(gaps, zip(*(page.gaps(one) for one in found))):
        rows.add_row(*cells((name, *values)))
    return rows
