"""Sample and grade a model's answers to tasks, as training rows for reward models; resumable."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import typer
from pydantic import Field, model_validator
from rich.console import Console

from trimtab import __version__, decoding
from trimtab.commands.asking import StrategySettings, check_decoding, check_server
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import quiet, say
from trimtab.common.workdir import Workdir

if TYPE_CHECKING:
    from trimtab.evals.collection import CollectCounts
    from trimtab.evals.models import Model

SAMPLES, FACTS = "samples.jsonl", "collection.json"


class CollectSettings(StrategySettings):
    """Which tasks to sample, how often, and how."""

    positional = ("source",)
    words: ClassVar[str] = "SOURCE [KEY=VALUE]..."
    source: str
    """Rows with messages or a prompt, and the correct answer."""
    out: Annotated[Path, Shown("FOLDER")]
    """Folder for all samples, and for pairs and labels by split."""
    answers: Annotated[int, Shown("N"), Field(ge=2)] = 8
    """Samples per task."""
    limit: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Use only the first N tasks."""
    heldout: Annotated[float, Shown("SHARE"), Field(ge=0, le=1)] = 0.05
    """Share of tasks that go to the held-out split."""
    pairs: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Maximum number of pairs per task."""
    temperature: Annotated[float | None, Shown("T"), Field(ge=0.01)] = None
    """Sampling temperature; 1 by default."""
    decoding: Annotated[str | None, Shown("NAME")] = None
    """A decoding strategy, see `trimtab list decoding`; sampling by default."""
    max_new_tokens: Annotated[int, Shown("N"), Field(ge=1)] = 256
    """Maximum length of a completion, in tokens."""
    endpoint: Annotated[str | None, Shown("URL")] = None
    """URL of an OpenAI-compatible server; API key in TRIMTAB_API_KEY."""
    seed: Annotated[int, Shown("N"), Field(ge=0)] = 0
    """Random seed."""
    batch: Annotated[int, Shown("N"), Field(ge=1)] = 32
    """Batch size."""
    verify: Literal["exact", "math"] = "exact"
    """How answers are compared: last number or words, or as mathematical expressions."""
    force: bool = False
    """Overwrite an existing collection."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.endpoint:
            check_server(self)
        check_decoding(self)
        if self.decoding is None:
            return self
        if self.temperature is not None:
            raise SettingsError(
                f"--temperature is for plain sampling; with --decoding {self.decoding} write "
                "decoding.temperature=T, where that strategy has one (trimtab show lists the keys)"
            )
        decoding.check(self.decoding, self.options.get("decoding", {}))
        return self


SETTINGS = CollectSettings


def main(settings: CollectSettings) -> None:
    """Collect, and print the counts."""
    from trimtab.runs.early import check_asked

    named = [("--model", settings.model), ("--adapter", settings.adapter)]
    check_asked([] if settings.endpoint else named, [settings.source], settings.decoding)
    quiet()
    for what, number in vars(collect(settings)).items():
        typer.echo(f"{what.replace('_', ' '):>10}  {number:,}")
    typer.echo(f"rows: {settings.out}")


def collect(settings: CollectSettings, model: "Model | None" = None, console: Console | None = None) -> "CollectCounts":
    """Sample every task several times, grade the answers, and write training rows for reward models.

    The folder gets `samples.jsonl` (every answer, appended as it comes, so that the work is resumable), and for the
    splits train and heldout `SPLIT.pairs.jsonl` (prompt, chosen, rejected) and `SPLIT.answers.jsonl` (prompt,
    completion, label), of tasks that got correct and incorrect answers. A task is in one split.

    Args:
        settings: `source` are rows with messages or a prompt, and the correct `answer`.
        model: instead of the settings' model.
        console: for progress.

    Raises:
        UserError: for rows, a model or a folder that cannot be used.
    """
    from trimtab.common.environment import environment
    from trimtab.common.files import json_line
    from trimtab.evals import collection

    console = console or Console()
    tasks = collection.tasks_of(settings.source, settings.limit)
    if model is None and not settings.endpoint:
        for note in collection.check_tasks(tasks, settings.asked, settings.max_new_tokens):
            say(console, note)
    work = Workdir(settings.out, "collect", (SAMPLES, FACTS, *collection.FILES), force=settings.force)
    work.check()
    model = model or _model(settings)
    signature = {
        "trimtab": __version__,
        **collection.facts(settings.source, tasks, settings.answers, settings.max_new_tokens, settings.verify),
        **model.facts(),
        **environment(),
    }
    with work.open():
        work.sign(signature)
        samples = collection.ask(
            tasks, settings.answers, model, work.records(SAMPLES, "task", "number", what="answers"),
            batch=settings.batch, seed=settings.seed, max_new_tokens=settings.max_new_tokens, console=console,
        )  # fmt: skip
        counts, written = collection.rows_of(
            tasks, samples, settings.answers, heldout=settings.heldout, pairs=settings.pairs, verify=settings.verify
        )
        for name, rows in written.items():
            work.write(name, map(json_line, rows))
        work.write(FACTS, json_line({"signature": signature, "counts": asdict(counts)}, indent=1))
    return counts


def _model(settings: CollectSettings) -> "Model":
    from trimtab.common.workdir import SIGNATURE
    from trimtab.data.chat_date import adopt_date
    from trimtab.evals.models import HFModel
    from trimtab.evals.openai_model import OpenAIModel
    from trimtab.models import loading
    from trimtab.models.inference import load_for_inference

    temperature = 1.0 if settings.temperature is None else settings.temperature
    how: dict[str, Any] = {"seed": settings.seed, "batch": settings.batch}
    if settings.endpoint:
        return OpenAIModel(settings.endpoint, settings.model, temperature=temperature, **how)
    name = settings.asked
    tokenizer = loading.load_tokenizer(name)
    adopt_date(tokenizer, settings.out / SIGNATURE)
    model = load_for_inference(name, settings.how)
    options = settings.options.get("decoding", {}) if settings.decoding else {"temperature": temperature}
    return HFModel(model, tokenizer, name, strategy=settings.decoding or "sample", options=options, **how)
