"""Evaluate a model on suites: every answer, metrics with intervals, and a page; resumable."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import typer
from pydantic import Field, model_validator
from rich.console import Console
from rich.table import Table

from trimtab import __version__, decoding
from trimtab.commands import completion
from trimtab.commands.asking import (
    AskedSettings,
    LoadedSettings,
    check_decoding,
    check_server,
    folder_name,
    keys_of_strategy,
    keys_of_suites,
)
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import cells, quiet, say, table_of
from trimtab.common.workdir import SIGNATURE, Workdir, read_signature
from trimtab.evals import FACTS, JUDGEMENTS, RUNS, SAMPLES, suites

if TYPE_CHECKING:
    from trimtab.evals.models import Model
    from trimtab.evals.role_models import RolesAsked
    from trimtab.evals.runner import EvalSpec
    from trimtab.evals.suite import Answered
    from trimtab.report.evaluation import Evaluation

PAGE = "report.html"


class AnsweringSettings(LoadedSettings):
    """How a model is evaluated: shared by `eval` and `contamination`."""

    prompt: Annotated[str | None, Shown("NAME")] = None
    """Name of one of the suite's prompts, see `trimtab show SUITE`."""
    limit: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Use only the first N items."""
    endpoint: Annotated[str | None, Shown("URL")] = None
    """URL of an OpenAI-compatible server; API key in TRIMTAB_API_KEY."""
    served_as: Annotated[str | None, Shown("NAME")] = None
    """Name under which the server answers, if that is not MODEL or a dated version of it."""
    max_new_tokens: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Maximum length of an answer; the suite's default if not given."""
    seed: Annotated[int, Shown("N"), Field(ge=0)] = 0
    """Random seed."""
    batch: Annotated[int, Shown("N"), Field(ge=1)] = 32
    """Batch size."""
    tokenizer: Annotated[str | None, Shown("MODEL")] = None
    """Tokenizer whose chat template formats prompts, with --endpoint --mode loglikelihood."""
    force: bool = False
    """Overwrite existing results."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_a_server(self) -> Self:
        if self.endpoint:
            check_server(self)
        if self.served_as and not self.endpoint:
            raise SettingsError("--served-as is about a server; name it: --endpoint URL")
        if self.tokenizer and not (self.endpoint and getattr(self, "mode", None) == "loglikelihood"):
            raise SettingsError(
                "--tokenizer formats the prompts for which a server scores options; it is only for --endpoint with "
                "--mode loglikelihood"
            )
        return self


class EvaluateSettings(AnsweringSettings, AskedSettings):
    """Which suites, and which model."""

    positional = ("suites",)
    complete = staticmethod(completion.suite_names)
    words: ClassVar[str] = "SUITE... [KEY=VALUE]..."
    suites: tuple[str, ...] = ()
    """Suites to run, see `trimtab list suites`."""
    out: Annotated[Path | None, Shown("FOLDER")] = None
    """Folder that gets one subfolder per suite; runs/eval/NAME (of the run or model) by default."""
    mode: Literal["generate", "loglikelihood"] | None = None
    """generate: parse generated answers; loglikelihood: compare the options' probabilities. Default: the suite's."""
    decoding: Annotated[str | None, Shown("NAME")] = None
    """A decoding strategy, see `trimtab list decoding`; greedy by default."""
    limit: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Use only the first N items; with a larger N later, only the new items are asked."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_decoding(self)
        if not self.suites:
            raise SettingsError(f"name a suite: {', '.join(suites.names())}")
        for name in self.suites:
            suites.check_name(name)
        if self.decoding:
            decoding.check_name(self.decoding)
        return self.check_owned()

    @classmethod
    def rivals(cls, key: str, given: Mapping[str, Any], plain: Sequence[str]) -> Sequence[str]:
        return [*keys_of_suites(key, plain), *keys_of_strategy(key, given.get("decoding"))]

    def owned(self) -> Mapping[str, Any]:
        return {**dict.fromkeys(self.suites, ()), "decoding": ()}

    @property
    def folder(self) -> Path:
        return self.out or Path("runs/eval") / folder_name(self.model)

    @property
    def is_roles(self) -> bool:
        """Whether the model is a folder of several, which a roles.json names."""
        return not self.endpoint and (Path(self.model).expanduser() / "roles.json").is_file()


SETTINGS = EvaluateSettings


def main(settings: EvaluateSettings) -> None:
    """Evaluate, and print the paths of the pages."""
    from trimtab.runs.early import check_asked

    here = not settings.endpoint and not settings.is_roles
    named = [("--model", settings.model), ("--adapter", settings.adapter)] if here else []
    check_asked(named, decoding=settings.decoding, suites=settings.suites)
    quiet()
    for folder in evaluate(settings):
        typer.echo(f"report: {folder / PAGE}")


def evaluate(settings: EvaluateSettings, console: Console | None = None, answerer: "Model | None" = None) -> list[Path]:
    """Run suites on a model; each gets its own folder below `settings.folder`.

    The same evaluation, interrupted, is resumed; finished, only its metrics are computed again.

    Args:
        answerer: the loaded model; by default it is loaded as the settings say.

    Raises:
        UserError: naming what is wrong, before weights are loaded where that can be known.
    """
    from trimtab.report import evaluation as page

    console = console or Console()
    questions = questions_of(settings, console)
    for name in settings.suites:
        workdir(settings.folder / name, settings).check()
    answerer = answerer or model_of(settings, settings.folder)
    if settings.endpoint and settings.mode == "loglikelihood" and not settings.tokenizer:
        say(console, f"options are scored after plain prompts; --tokenizer {settings.model} uses its chat template")
    folders = []
    for name, asked in questions.items():
        folder = settings.folder / name
        asked, who = settled(asked, answerer, settings.mode)
        if asked.fallback:
            say(console, f"{name}: {asked.fallback}; generated answers are parsed instead")
        found = answered(folder, name, asked, who, settings, console)
        written = page.read(folder)
        console.print(table(written))
        errors = [one.error for one in found if one.error is not None]
        if errors:
            say(
                console,
                f"{name}: {len(errors)} of {len(found)} items failed with an error and are excluded, the first with: "
                f"{errors[0]}; run the same command again to retry them",
            )
        signature = written.facts["signature"]
        say(console, f"signature: {'; '.join(f'{key} {value}' for key, value in signature.items())}")
        folders.append(folder)
    return folders


def questions_of(settings: EvaluateSettings, console: Console) -> dict[str, "EvalSpec"]:
    """What is asked in each suite, which fits the model; no weights are loaded.

    Raises:
        UserError: naming what is wrong.
    """
    from trimtab.evals.runner import eval_spec

    roles = _roles(settings)
    found = {
        name: eval_spec(
            name,
            {**(roles.options if roles else {}), **settings.options.get(name, {})},
            prompt=roles.prompt if roles else settings.prompt,
            mode=settings.mode or ("generate" if settings.decoding else None),
            limit=settings.limit,
            max_new_tokens=settings.max_new_tokens,
        )
        for name in settings.suites
    }
    if not settings.endpoint:
        found, notes = _checked_questions(found, settings.asked, roles)
        for note in notes:
            say(console, note)
    return found


def evaluate_model(
    model: str | Path, suites: str | Sequence[str], *, console: Console | None = None, **settings: Any
) -> dict[str, Path]:
    """Evaluate a model on suites, as `trimtab eval` does.

    Args:
        model: a builtin model, a folder or a Hub id.
        suites: a name or several, see `trimtab list suites`.
        console: of rich, for numbers and progress; nothing is shown if not given.
        settings: flags of `trimtab eval`: `limit=20, out="runs/eval/mine"`.

    Returns:
        The folder of each suite, with `report.html`, `evaluation.json` and `samples.jsonl`.

    Raises:
        UserError: naming what is wrong, before weights are loaded where that can be known.
    """
    names = (suites,) if isinstance(suites, str) else tuple(suites)
    asked = EvaluateSettings(model=str(model), suites=names, **settings)
    return dict(zip(asked.suites, evaluate(asked, console or Console(quiet=True)), strict=True))


def workdir(folder: Path, settings: EvaluateSettings) -> Workdir:
    return Workdir(folder, "eval", (SAMPLES, FACTS, PAGE, JUDGEMENTS, RUNS), force=settings.force)


def _roles(settings: EvaluateSettings) -> "RolesAsked | None":
    """The roles folder that is to answer, if it is one."""
    if not settings.is_roles:
        return None
    if settings.adapter:
        raise SettingsError(f"--adapter: {settings.model} is a roles folder, which names its adapters itself")
    from trimtab.evals.role_models import asked_roles

    return asked_roles(settings.model, settings.suites, settings.prompt)


def _checked_questions(
    questions: Mapping[str, "EvalSpec"], model: str, roles: "RolesAsked | None" = None
) -> tuple[dict[str, "EvalSpec"], list[str]]:
    """The suites with prompts for this model, which all fit it, before its weights are loaded; and notes."""
    from trimtab.evals.runner import check_spec, fitted
    from trimtab.models import loading

    if roles:
        tokenizer, limits = roles.tokenizer, roles.limits
    else:
        tokenizer, limits = loading.load_tokenizer(model), loading.limits(model)
    found = {name: fitted(asked, tokenizer, limits) for name, asked in questions.items()}
    notes = [note for name, asked in found.items() for note in check_spec(name, asked, tokenizer, limits, model)]
    return found, list(dict.fromkeys(notes))


def model_of(settings: EvaluateSettings, folder: Path) -> "Model":
    """A server, or the loaded model; `folder` holds the evaluations, and the date in their prompts."""
    from trimtab.data.chat_date import adopt_date
    from trimtab.evals.models import HFModel
    from trimtab.evals.openai_model import OpenAIModel
    from trimtab.evals.role_models import RolesModel
    from trimtab.models import loading
    from trimtab.models.inference import load_for_inference

    how: dict[str, Any] = {"seed": settings.seed, "batch": settings.batch}
    if settings.endpoint:
        tokenizer = loading.load_tokenizer(settings.tokenizer) if settings.tokenizer else None
        how["served_as"] = settings.served_as or settings.model
        server = OpenAIModel(settings.endpoint, settings.model, tokenizer=tokenizer, **how)
        if settings.mode == "loglikelihood":
            server.echoes.check()
        return server
    name = settings.asked
    how |= {"strategy": settings.decoding or "greedy", "options": settings.options.get("decoding", {})}
    if settings.is_roles:
        return RolesModel.load(name, settings.how, **how)
    tokenizer = loading.load_tokenizer(name)
    adopt_date(tokenizer, *sorted(folder.glob(f"*/{SIGNATURE}")))
    model = load_for_inference(name, settings.how)
    return HFModel(model, tokenizer, name, **how)


def settled(asked: "EvalSpec", answerer: "Model", mode: str | None) -> tuple["EvalSpec", "Model"]:
    """An evaluation that a server can run, and its model: if the suite prefers probabilities that the server does not
    return, generated answers are parsed instead."""
    from trimtab.evals.first_tokens import comparing
    from trimtab.evals.openai_model import OpenAIModel

    if mode is not None or asked.mode == "generate" or not isinstance(answerer, OpenAIModel):
        return asked, answerer
    item, steps = asked.items[0], asked.suite.prompts[asked.prompt]
    who, why = comparing(answerer, steps[-1](item, [""] * (len(steps) - 1)), list(item.options))
    return (asked, who) if who else (replace(asked, mode="generate", fallback=f"fall-back: {why}"), answerer)


def signature_of(name: str, asked: "EvalSpec", answerer: "Model") -> dict[str, str]:
    """Everything that the answers depend on."""
    from trimtab.common import fingerprint, user_code
    from trimtab.common.environment import environment

    return {
        "trimtab": __version__,
        "suite": f"{name} {asked.suite.version}",
        "code": user_code.described(user_code.files([sys.modules.get(f"trimtab.evals.suites.{name}")])),
        "items": f"{len(asked.items)}, {fingerprint.of_each(asdict(item) for item in asked.items)}",
        "prompt": asked.prompt,
        "mode": f"{asked.mode} ({asked.fallback})" if asked.fallback else asked.mode,
        "max_new_tokens": str(asked.max_new_tokens or "of the suite"),
        **asked.suite.facts,
        **answerer.facts(),
        **environment(),
    }


def _extends(before: Mapping[str, str] | None, asked: "EvalSpec", signature: Mapping[str, str]) -> bool:
    """Whether an earlier evaluation asked the first of these items, and each answer depends on its item alone."""
    from trimtab.common import fingerprint

    number, _, found = (before or {}).get("items", "").partition(", ")
    if not number.isdecimal() or int(number) >= len(asked.items) or "do_sample=True" in signature.get("generation", ""):
        return False
    return found == fingerprint.of_each(asdict(item) for item in asked.items[: int(number)])


def answered(
    folder: Path,
    name: str,
    asked: "EvalSpec",
    answerer: "Model",
    settings: EvaluateSettings,
    console: Console,
) -> list["Answered"]:
    """Evaluate the items of one suite, in a new or resumed folder.

    Raises:
        WorkdirError: if the folder holds another evaluation, or is being written.
    """
    from trimtab.common.files import json_line
    from trimtab.common.progress import advance, bar
    from trimtab.evals.runner import ask, measures
    from trimtab.evals.suite import baselines, plain
    from trimtab.report import evaluation as page

    signature = signature_of(name, asked, answerer)
    model = settings.model if settings.endpoint else settings.asked
    facts = {
        "suite": name, "paper": asked.suite.paper, "summary": suites.summary(name), "model": model,
        "settings": dict(settings.options.get(name, {})), "signature": signature, "finished": False,
        "baselines": baselines(asked.suite, asked.items),
    }  # fmt: skip
    with workdir(folder, settings).open() as work:
        loose = {"batch", *(["items"] if _extends(read_signature(folder), asked, signature) else [])}
        work.sign(signature, loose=loose)
        answers = work.records(SAMPLES, "id", what="answers")
        done = {row["id"]: row for row in answers.rows}
        work.write(FACTS, json_line(facts, indent=1, default=str))
        left = len(asked.items) - sum(item.id in done and not done[item.id].get("error") for item in asked.items)
        if done:
            say(console, f"{name}: {len(asked.items) - left} of {len(asked.items)} items are already answered")
        with bar(console) as progress:
            task: Any = progress.add_task(name, total=left, note="items")

            def keep(rows: list[dict[str, Any]]) -> None:
                answers.append(rows)
                advance(progress, task, len(rows))

            found = ask(asked, answerer, done, keep)
        numbers = measures(asked.suite, found)
        if asked.suite.finish is not None:
            options = asked.options or suites.check(name, settings.options.get(name, {}))
            valid = [one for one in found if one.error is None]
            numbers += asked.suite.finish(options, valid, answerer, work, console)
        facts |= {"finished": True, "measures": [plain(one) for one in numbers]}
        work.write(FACTS, json_line(facts, indent=1, default=str))
        page.write([folder], folder / PAGE)
    return found


def table(found: "Evaluation") -> Table:
    """Numbers over all items for a terminal, with the baselines."""
    from trimtab.report.evaluation import number

    headings = ("measure", "value", "95% interval", "items")
    rows = table_of(*headings, title=found.title, title_justify="left", box=None)
    for one in found.measures:
        if one.group == "all":
            rows.add_row(*cells((one.name, *number(one.value), one.number)))
    for name, value in found.baselines.items():
        rows.add_row(*cells((f"({name})", f"{value:.3f}", "", "")))
    return rows
