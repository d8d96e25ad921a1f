"""Paraphrase a test set that models may have seen, keeping meaning and answers (Clean-Eval)."""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator
from rich.console import Console

from trimtab import __version__
from trimtab.commands.asking import LoadedSettings
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import cells, quiet, say, table_of
from trimtab.common.workdir import META, Workdir
from trimtab.rewriting.options import RewriteSettings

if TYPE_CHECKING:
    from trimtab.common.files import JsonLines
    from trimtab.evals.models import Model
    from trimtab.rewriting.questions import Cleaned, PairScorer
    from trimtab.rewriting.rewriters import Rewriter

CANDIDATES = ".candidates.part"


class CleanSettings(LoadedSettings, RewriteSettings):
    """Which rows to rewrite, and which models rewrite and judge them."""

    positional = ("file",)
    words: ClassVar[str] = "FILE [KEY=VALUE]..."
    file: str
    """Rows with question, options and answer, or with the columns named by fields."""
    out: Annotated[Path, Shown("FILE.jsonl")]
    """Where to write the rewritten rows."""
    rewriter: Annotated[str, Shown("rules|MODEL")] = "rules"
    """What rewrites: rules, a model, or TO,BACK for two translation models."""
    detector: Annotated[str, Shown("auto|lm:MODEL|nli:MODEL|embedding|none")] = "auto"
    """What checks that the meaning is kept; auto asks the rewriting model."""
    scorer: Annotated[str, Shown("chrf|embedding|bleurt:FOLDER")] = "chrf"
    """Similarity by which candidates are selected."""
    endpoint: Annotated[str | None, Shown("URL")] = None
    """URL of an OpenAI-compatible server that runs the rewriter; API key in TRIMTAB_API_KEY."""
    served_as: Annotated[str | None, Shown("NAME")] = None
    """Name under which the server answers, if that is not the rewriter's or a dated version of it."""
    reader: Annotated[str | None, Shown("MODEL")] = None
    """Drop rewrites that this model answers differently from the original."""
    force: bool = False
    """Overwrite an existing file."""
    fields: tuple[str, ...] = ("question",)
    """Columns to rewrite, in rows that do not name their own."""
    rows: int | None = Field(default=None, ge=1)
    """Use only the first N rows."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.out.suffix != ".jsonl":
            raise SettingsError(f"--out: rows are written as .jsonl; choose FILE.jsonl instead of {self.out}")
        if self.out.exists() and self.out.resolve() == Path(self.file).expanduser().resolve():
            raise SettingsError(f"--out: {self.out} is the input file; choose another FILE.jsonl")
        if self.served_as and not self.endpoint:
            raise SettingsError("--served-as is about a server; name it: --endpoint URL")
        return self


SETTINGS = CleanSettings


def main(settings: CleanSettings) -> None:
    """Rewrite the rows, and print how many were kept."""
    from trimtab.runs.early import check_asked

    by_name = settings.rewriter == "rules" or settings.endpoint
    writers = [] if by_name else [("--rewriter", name) for name in settings.rewriter.split(",")]
    kind, _, judge = settings.detector.partition(":")
    judge = "" if kind not in ("nli", "lm") or (kind == "lm" and settings.endpoint) else judge
    check_asked([*writers, ("--detector", judge), ("--reader", settings.reader)], [settings.file])
    quiet()
    clean(settings)


class KeptCandidates(dict[str, Any]):
    """Candidates by key, appended to a file line by line."""

    def __init__(self, lines: "JsonLines"):
        super().__init__((row["key"], row["value"]) for row in lines.rows)
        self.lines = lines

    def __setitem__(self, key: str, value: Any) -> None:
        if self.get(key) != value:
            super().__setitem__(key, value)
            self.lines.append([{"key": key, "value": value}])


def clean(
    settings: CleanSettings,
    rewriter: "Rewriter | None" = None,
    detector: "PairScorer | None" = None,
    scorer: "PairScorer | None" = None,
    reader: "Model | None" = None,
    console: Console | None = None,
) -> "Cleaned":
    """Write paraphrased rows and, next to them, a meta file with settings, prompts, models and measures; print what
    was kept and dropped.

    Candidates are kept in FILE.candidates.part by text, way, prompts, seed and rewriter. An interrupted
    call resumes from there, and a call with another detector, scorer or selection reuses them.

    Args:
        settings: `rewriter` is "rules", a model (builtin, folder or hub id; causal or encoder-decoder) or TO,BACK (two
            translators); `detector` "auto" (the language model that rewrites, asked for yes or no; "embedding" where
            there is none, or where it cannot tell), "embedding", "nli:MODEL", "lm:MODEL" (with an endpoint the
            server's, unless it is a folder or builtin) or "none"; `scorer` "chrf", "embedding" or "bleurt:FOLDER".
        rewriter, detector, scorer, reader: in place of those that the settings name.
        console: for progress and the table.

    Raises:
        UserError: for a mistake of the user; nothing is written then but candidates.
        Interrupted: after Ctrl-C.
    """
    console = console or Console()
    work = Workdir(settings.out, "clean", (META,), is_file=True, option="another FILE.jsonl", force=settings.force)
    work.check()
    with work.open():
        return _clean(settings, work, rewriter, detector, scorer, reader, console)


def _clean(
    settings: CleanSettings,
    work: Workdir,
    rewriter: "Rewriter | None",
    detector: "PairScorer | None",
    scorer: "PairScorer | None",
    reader: "Model | None",
    console: Console,
) -> "Cleaned":
    from transformers import AutoModelForCausalLM

    from trimtab.common.errors import check_answered
    from trimtab.common.progress import bar
    from trimtab.data.sources import load_rows
    from trimtab.evals.models import HFModel
    from trimtab.rewriting import by_name, clean_eval, contamination, questions
    from trimtab.rewriting.questions import CleanEvalError

    rows = load_rows(settings.file)[: settings.rows]
    try:
        questions.read(rows, settings.fields)
    except CleanEvalError as error:
        raise CleanEvalError(f"{settings.file}: {error}") from None
    if settings.endpoint and settings.rewriter == "rules":
        raise CleanEvalError("--endpoint needs the name of the model on the server: --rewriter MODEL")
    models = by_name.ModelsByName(settings.how)
    likeness = scorer or by_name.scorer_of(settings.scorer)
    server = None
    if settings.endpoint:
        server = by_name.RewritingServer(settings.endpoint, settings.rewriter, settings.served_as)
    writer = rewriter or by_name.rewriter_of(settings.rewriter, server, settings, models)
    judge, why = detector, ""
    if judge is None:
        named = rewriter or settings.rewriter
        judge, why = by_name.detector_of(settings.detector, named, server, settings, models)
    if reader is None and settings.reader:
        reader = HFModel(*models(settings.reader, AutoModelForCausalLM), settings.reader)
    if not writer.ways:
        raise CleanEvalError("there is nothing to generate candidates with: n_par is 0 and pivots are empty")
    checked = f"is checked by {judge.name}, threshold {judge.threshold:g}" if judge else "is not checked"
    say(console, f"meaning {checked}{f' ({why})' if why else ''}")
    made = KeptCandidates(work.records(CANDIDATES, "key", "value", what="candidates"))
    if made:
        say(console, f"{len(made)} candidates from an earlier call are in {made.lines.path}")
    with bar(console) as progress:
        task = progress.add_task("rewrite", total=None, note="candidates")
        result = clean_eval.clean(
            rows, writer, judge, likeness, settings, reader=reader, fields=settings.fields, stored=made,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )  # fmt: skip
    errors = [one["error"] for one in _candidates(result) if one["error"]]
    check_answered([one["error"] for one in _candidates(result)], writer.name, whole=True)
    report = contamination.surface(result, by_name.reporters(likeness))
    who = {
        "rewriter": writer.name,
        "detector": judge and {"name": judge.name, "threshold": judge.threshold, "fallback": why or None},
        "reader": reader and reader.facts(),
        "scorer": likeness.name,
        "ways": [way._asdict() for way in writer.ways],
    }
    _write(settings, work, rows, result, who, report)
    _show(console, report)
    if errors:
        say(console, f"{len(errors)} candidates failed with an error; run the same command with --force to retry them")
    say(console, f"rows: {settings.out}\nmeta: {work.path(META)}\ncandidates: {made.lines.path}")
    return result


def _write(
    settings: CleanSettings, work: Workdir, rows: Any, result: "Cleaned", who: dict[str, Any], report: dict[str, Any]
) -> None:
    """Write the rows and their meta file."""
    from importlib.metadata import version

    from trimtab.common import fingerprint

    meta = {
        "paper": "arXiv:2311.09154",
        "source": settings.file,
        "rows": fingerprint.of_each(rows),
        **who,
        "settings": settings.model_dump(include={*RewriteSettings.model_fields, "fields", "rows"}),
        "report": report,
        "left_out": result.left_out,
        "trimtab": __version__,
        "versions": ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers")),
        "command_line": shlex.join(["trimtab", *sys.argv[1:]]),
    }
    work.write_rows(result.rows, meta)


def _candidates(result: "Cleaned") -> Iterator[dict[str, Any]]:
    return (one for row in [*result.rows, *result.left_out] for of in row["candidates"].values() for one in of)


def _show(console: Console, report: dict[str, Any]) -> None:
    table = table_of("what", "number", box=None, pad_edge=False)
    table.add_row("items", str(report["items"]))
    table.add_row("rewritten", f"{report['rewritten']:.1%}")
    if report["left out"]:
        table.add_row("left out", str(report["left out"]))
    table.add_row("candidates", str(report["candidates"]))
    table.add_row("kept", str(report["survivors"]))
    for reason, number in report["dropped"].items():
        table.add_row(*cells((f"dropped: {reason}", number)))
    for name, value in report.items():
        if isinstance(value, list) and len(value) == 3:
            mean, low, high = value
            table.add_row(*cells((name, f"{mean:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]"))))
    console.print(table)
