"""Sample a model's or a server's answers to tasks, as graded rows for reward models or as a teacher's; resumable."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import typer
from pydantic import Field, model_validator
from rich.console import Console

from trimtab import __version__, decoding
from trimtab.commands.asking import RaySettings, ServerSettings, StrategySettings, check_decoding, check_server
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import quiet, say
from trimtab.common.workdir import Workdir, WorkdirError

if TYPE_CHECKING:
    from datetime import datetime

    from trimtab.common.files import JsonLines
    from trimtab.common.on_ray import Cluster
    from trimtab.evals.collection import Block, CollectCounts, CompletionCounts
    from trimtab.evals.models import Model, Reply

SAMPLES, FACTS = "samples.jsonl", "collection.json"


class CollectSettings(ServerSettings, StrategySettings, RaySettings):
    """Which tasks to sample, how often, and how."""

    positional = ("source",)
    words: ClassVar[str] = "SOURCE [KEY=VALUE]..."
    source: str
    """Rows with messages or a prompt, and the correct answer if answers are graded."""
    out: Annotated[Path, Shown("FOLDER")]
    """Folder for all samples, and for rows by split."""
    write: Literal["graded", "completions"] = "graded"
    """Rows to write: pairs and labels of tasks with correct and incorrect answers, or every whole answer as it is."""
    answers: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Samples per task; by default 8, and 1 with --write completions."""
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
    seed: Annotated[int, Shown("N"), Field(ge=0)] = 0
    """Random seed."""
    batch: Annotated[int, Shown("N"), Field(ge=1)] = 32
    """Batch size; of a server, requests under way at a time."""
    verify: Literal["exact", "math"] = "exact"
    """How answers are compared: last number or words, or as mathematical expressions."""
    force: bool = False
    """Overwrite an existing collection."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.endpoint:
            check_server(self)
            if self.ray is not None:
                raise SettingsError("--ray: a server answers many requests at a time (--batch); leave --ray out")
        self.check_endpoint()
        if self.write == "graded" and self.answers == 1:
            raise SettingsError("--answers 1: graded rows are pairs and labels of one task, which takes at least 2; or "
                                "--write completions")  # fmt: skip
        if self.write == "completions":
            given = ["--pairs"] * (self.pairs is not None) + ["--verify"] * (self.verify != "exact")
            if given:
                raise SettingsError(f"{' and '.join(given)}: only for graded rows, and --write completions grades none")
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

    @property
    def number(self) -> int:
        """Samples per task."""
        return self.answers or (8 if self.write == "graded" else 1)


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


def collect(
    settings: CollectSettings, model: "Model | None" = None, console: Console | None = None
) -> "CollectCounts | CompletionCounts":
    """Sample the answers to every task, and write training rows.

    The folder gets `samples.jsonl` (every answer, appended as it comes, so that the work is resumable), and for the
    splits train and heldout `SPLIT.pairs.jsonl` (prompt, chosen, rejected) and `SPLIT.answers.jsonl` (prompt,
    completion, label), of tasks that got correct and incorrect answers; or with `write="completions"` `SPLIT.jsonl`
    (prompt, completion). A task is in one split. If a budget is reached, rows are made of what is there.

    Args:
        settings: `source` are rows with messages or a prompt, and the correct `answer` if answers are graded.
        model: instead of the settings' model.
        console: for progress.

    Raises:
        UserError: for rows, a model or a folder that cannot be used.
        Unanswered: if a server does not answer; what has come is kept.
    """
    from trimtab.common.environment import environment
    from trimtab.common.files import json_line
    from trimtab.evals import collection
    from trimtab.evals.spending import Usage

    console = console or Console()
    graded, answers = settings.write == "graded", settings.number
    tasks = collection.tasks_of(settings.source, settings.limit, graded=graded)
    if model is None and not settings.endpoint:
        for note in collection.check_tasks(tasks, settings.asked, settings.max_new_tokens):
            say(console, note)
    files = (*collection.FILES, *collection.COMPLETIONS)
    work = Workdir(settings.out, "collect", (SAMPLES, FACTS, *files), force=settings.force)
    work.check()
    model = model or _model(settings)
    signature = {
        "trimtab": __version__,
        **collection.facts(settings.source, tasks, answers, settings.max_new_tokens, settings.verify, settings.write),
        **model.facts(),
        **environment(),
    }
    with settings.cluster() as ray, work.open():
        work.sign(signature)
        lines = work.records(SAMPLES, "task", "number", what="answers")
        samples, stopped = _samples(settings, tasks, model, lines, ray, console)
        if graded:
            counts, written = collection.rows_of(
                tasks, samples, answers, heldout=settings.heldout, pairs=settings.pairs, verify=settings.verify
            )
        else:
            counts, written = collection.completions_of(tasks, samples, answers, heldout=settings.heldout)
        for name, rows in written.items():
            work.write(name, map(json_line, rows))
        spent = {"usage": Usage.of(lines.rows).row()} if settings.endpoint else {}
        early = {"stopped": stopped} if stopped else {}
        facts = {"signature": signature, "counts": asdict(counts), **spent, **early}
        work.write(FACTS, json_line(facts, indent=1))
    if stopped:
        say(console, stopped)
    return counts


def _samples(
    settings: CollectSettings, tasks: Any, model: "Model", lines: "JsonLines", ray: "Cluster | None", console: Console
) -> tuple[Any, str]:
    """Samples by task and number, and why a budget has stopped them early."""
    from trimtab.data.chat_date import chat_date
    from trimtab.evals import collection
    from trimtab.evals.models import HFModel
    from trimtab.evals.openai_model import OpenAIModel
    from trimtab.evals.serving import ask_server

    how: dict[str, Any] = {"max_new_tokens": settings.max_new_tokens, "console": console}
    if ray is not None:
        assert isinstance(model, HFModel)
        load = partial(_answerer, settings, model.facts(), chat_date(model.tokenizer))
        model.model.to("meta")  # type: ignore[arg-type]
        how["answered"] = partial(ray.map, load)
    if not isinstance(model, OpenAIModel):
        return collection.ask(tasks, settings.number, model, lines, batch=settings.batch, **how), ""
    model.budget = settings.budget(lines.rows)
    wanted, chats = collection.keys_of(tasks, settings.number), [collection.chat_of(task) for task in tasks]
    return ask_server(wanted, chats, model, lines, seed=settings.seed, **how)


def _answerer(
    settings: CollectSettings, expected: Mapping[str, str], moment: "datetime"
) -> "Callable[[Block], list[Reply]]":
    """`answer_block` of a model that is loaded now, where a worker runs; it has to be the one of the command."""
    from trimtab.common.workdir import differences, different
    from trimtab.evals.collection import answer_block

    model = _model(settings, moment)
    for difference in differences(expected, model.facts()):
        raise WorkdirError(
            f"{settings.asked}: the Ray worker on {socket.gethostname()} has {different(*difference)}; "
            "name one folder that all machines share"
        )
    return partial(answer_block, model, settings.max_new_tokens)


def _model(settings: CollectSettings, moment: "datetime | None" = None) -> "Model":
    """The model of the settings.

    Args:
        moment: what its chat template writes as the date; by default that of an earlier call.
    """
    from trimtab.common.workdir import SIGNATURE
    from trimtab.data.chat_date import adopt_date, set_chat_date
    from trimtab.evals.models import HFModel
    from trimtab.evals.openai_model import OpenAIModel
    from trimtab.models import loading
    from trimtab.models.inference import load_for_inference

    temperature = 1.0 if settings.temperature is None else settings.temperature
    how: dict[str, Any] = {"seed": settings.seed, "batch": settings.batch}
    if settings.endpoint:
        more = {"key_env": settings.key_env, "timeout": settings.timeout, "tries": settings.tries}
        return OpenAIModel(
            settings.endpoint, settings.model, temperature=temperature,
            served_as=settings.served_as or settings.model, **more, **how,
        )  # fmt: skip
    name = settings.asked
    tokenizer = loading.load_tokenizer(name)
    if moment is None:
        adopt_date(tokenizer, settings.out / SIGNATURE)
    else:
        set_chat_date(tokenizer, moment)
    model = load_for_inference(name, settings.how)
    options = settings.options.get("decoding", {}) if settings.decoding else {"temperature": temperature}
    return HFModel(model, tokenizer, name, strategy=settings.decoding or "sample", options=options, **how)
