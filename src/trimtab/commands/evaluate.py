"""Suites on a model: an evaluation folder with every answer, numbers with intervals, and a page."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from trimtab import __version__
from trimtab.common import fingerprint, user_code
from trimtab.common.disk import check_writable
from trimtab.common.environment import environment
from trimtab.common.errors import UserError
from trimtab.common.files import json_line
from trimtab.common.locks import writing
from trimtab.common.progress import advance, bar
from trimtab.common.terminal import cells, say, table_of
from trimtab.common.yaml_text import parse_value
from trimtab.data.chat import adopt_date
from trimtab.evals import suites
from trimtab.evals.first_tokens import comparing
from trimtab.evals.models import HFModel, Model, OpenAIModel
from trimtab.evals.runner import Answers, EvalSpec, Mode, ask, check_spec, eval_spec, measures
from trimtab.evals.suite import Answered, baselines, plain
from trimtab.models import loading
from trimtab.models.asked import How, load_asked
from trimtab.report import evaluation as page
from trimtab.report.evaluation import FACTS, SAMPLES
from trimtab.report.html import put


class EvaluateError(UserError):
    """An evaluation that cannot be done as it was asked for."""


@dataclass(frozen=True)
class Settings:
    """What the command line was given."""

    model: str
    out: Path
    endpoint: str | None = None
    prompt: str | None = None
    mode: Mode | None = None
    """as the suite likes best if not given"""
    limit: int | None = None
    seed: int = 0
    batch: int = 32
    max_new_tokens: int | None = None
    decoding: str | None = None
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """suite -> settings; "decoding" -> those of the strategy"""
    how: How = field(default_factory=How)
    tokenizer: str | None = None
    """whose chat template writes what a server echoes; None: plain text"""

    def __post_init__(self) -> None:
        if self.endpoint:
            self.how.check_server(self.model, EvaluateError)
        if self.endpoint and self.decoding:
            raise EvaluateError("--decoding needs a model in memory; a server decodes by itself at temperature 0")
        if self.options.get("decoding") and not self.decoding:
            key = next(iter(self.options["decoding"]))
            raise EvaluateError(f"decoding.{key} is a setting of a strategy; name it: --decoding NAME")
        if self.tokenizer and not (self.endpoint and self.mode == "loglikelihood"):
            raise EvaluateError(
                "--tokenizer writes the prompts behind which a server's options are compared; it is of --endpoint with "
                "--mode loglikelihood alone"
            )


def parse(words: Sequence[str], names: Sequence[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Suites, and settings SUITE.KEY=VALUE or decoding.KEY=VALUE, from the words of a command line.

    Raises:
        EvaluateError: naming what is neither.
    """
    chosen = [word for word in words if "=" not in word]
    for name in chosen:
        suites.load(name)
    options: dict[str, dict[str, Any]] = {}
    for word in words:
        key, sign, value = word.partition("=")
        name, dot, option = key.partition(".")
        if not sign:
            continue
        if not dot or not option:
            raise EvaluateError(f"{word!r} is no setting; write SUITE.KEY=VALUE, for example geomrel.seed=1")
        if name != "decoding" and name not in chosen:
            raise EvaluateError(f"{word!r} is a setting of {name}, which is not run: {', '.join(chosen) or 'none'} is")
        options.setdefault(name, {})[option] = parse_value(word, value)
    if not chosen:
        raise EvaluateError(f"name a suite: {', '.join(names)}")
    return chosen, options


def evaluate(names: Sequence[str], settings: Settings, console: Console | None = None) -> list[Path]:
    """Run suites on a model; each gets a folder of its own below `settings.out`.

    A folder that holds the same evaluation, stopped half-way, is gone on with; finished, it is only counted again.

    Raises:
        ValueError: a subclass that names what is wrong, before weights are loaded where that can be known.
    """
    console = console or Console()
    questions = {
        name: eval_spec(
            name,
            settings.options.get(name),
            prompt=settings.prompt,
            mode=settings.mode or ("generate" if settings.decoding else None),
            limit=settings.limit,
            max_new_tokens=settings.max_new_tokens,
        )
        for name in names
    }
    if not settings.endpoint:
        for note in _check_questions(questions, settings.model):
            say(console, note)
    for name in names:
        check_writable(settings.out / name, EvaluateError, "choose another --out")
    model = model_of(settings)
    if settings.endpoint and settings.mode == "loglikelihood" and not settings.tokenizer:
        say(console, f"options stand behind plain prompts; --tokenizer {settings.model} uses its chat template")
    folders = []
    for name, asked in questions.items():
        folder = settings.out / name
        asked, who = settled(asked, model, settings)
        if asked.fallback:
            say(console, f"{name}: {asked.fallback}; answers are read as they are written")
        found = answered(folder, name, asked, who, settings, console)
        written = page.read(folder)
        console.print(table(written))
        errors = [one.error for one in found if one.error is not None]
        if errors:
            say(
                console,
                f"{name}: {len(errors)} of {len(found)} items ended in an error and count nowhere, the first in: "
                f"{errors[0]}; run the same command again to ask them",
            )
        signature = written.facts["signature"]
        say(console, f"signature: {'; '.join(f'{key} {value}' for key, value in signature.items())}")
        folders.append(folder)
    return folders


def _check_questions(questions: Mapping[str, EvalSpec], model: str) -> list[str]:
    """Hold all prompts against what the model can read, before its weights are loaded."""
    tokenizer, limits = loading.load_tokenizer(model), loading.limits(model)
    notes = [note for name, asked in questions.items() for note in check_spec(name, asked, tokenizer, limits, model)]
    return notes[:1]


def model_of(settings: Settings) -> Model:
    """A server, or a model that is loaded now."""
    if settings.endpoint:
        tokenizer = loading.load_tokenizer(settings.tokenizer) if settings.tokenizer else None
        server = OpenAIModel(
            settings.endpoint, settings.model, seed=settings.seed, batch=settings.batch, tokenizer=tokenizer
        )
        if settings.mode == "loglikelihood":
            server.echoes.check()
        return server
    tokenizer = loading.load_tokenizer(settings.model)
    adopt_date(tokenizer, *sorted(settings.out.glob(f"*/{FACTS}")))
    model = load_asked(settings.model, settings.how)
    return HFModel(
        model,
        tokenizer,
        settings.model,
        strategy=settings.decoding or "greedy",
        options=settings.options.get("decoding", {}),
        seed=settings.seed,
        batch=settings.batch,
    )


def settled(asked: EvalSpec, model: Model, settings: Settings) -> tuple[EvalSpec, Model]:
    """A question that a server can answer, and who is asked: where the suite would like probabilities that the server
    does not tell, its written answers are read."""
    if settings.mode is not None or asked.mode == "generate" or not isinstance(model, OpenAIModel):
        return asked, model
    item, steps = asked.items[0], asked.suite.prompts[asked.prompt]
    who, why = comparing(model, steps[-1](item, [""] * (len(steps) - 1)), list(item.options))
    return (asked, who) if who else (replace(asked, mode="generate", fallback=f"fall-back: {why}"), model)


def answered(
    folder: Path, name: str, asked: EvalSpec, model: Model, settings: Settings, console: Console
) -> list[Answered]:
    """The items of one evaluation, whose folder is made or gone on with.

    Raises:
        EvaluateError: if the folder holds another evaluation, or is being written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder, "another evaluation", "wait for it, or choose another --out", EvaluateError):
        return _into(folder, name, asked, model, settings, console)


def _into(
    folder: Path, name: str, asked: EvalSpec, model: Model, settings: Settings, console: Console
) -> list[Answered]:
    signature = {
        "trimtab": __version__,
        "suite": f"{name} {asked.suite.version}",
        "code": user_code.described(user_code.files([sys.modules.get(f"trimtab.evals.suites.{name}")])),
        "items": f"{len(asked.items)}, {fingerprint.of_each(asdict(item) for item in asked.items)}",
        "prompt": asked.prompt,
        "mode": f"{asked.mode} ({asked.fallback})" if asked.fallback else asked.mode,
        "max_new_tokens": str(asked.max_new_tokens or "of the suite"),
        **model.facts(),
        **environment(),
    }
    _same(folder, signature)
    facts = {
        "suite": name, "paper": asked.suite.paper, "summary": suites.summary(name), "model": settings.model,
        "settings": dict(settings.options.get(name, {})), "signature": signature, "finished": False,
        "baselines": baselines(asked.suite, asked.items),
    }  # fmt: skip
    _write(folder / FACTS, facts)
    answers = Answers(folder / SAMPLES)
    done = answers.read()
    left = len(asked.items) - sum(item.id in done and not done[item.id].get("error") for item in asked.items)
    if done:
        say(console, f"{name}: {len(asked.items) - left} of {len(asked.items)} items were answered before")
    with bar(console) as progress:
        task: Any = progress.add_task(name, total=left, note="items")

        def keep(rows: list[dict[str, Any]]) -> None:
            answers.append(rows)
            advance(progress, task, len(rows))

        found = ask(asked, model, done, keep)
    facts |= {"finished": True, "measures": [plain(one) for one in measures(asked.suite, found)]}
    _write(folder / FACTS, facts)
    page.write([folder], folder / "report.html")
    return found


def _same(folder: Path, signature: Mapping[str, str]) -> None:
    """A folder holds one evaluation: answers of different models or prompts are never mixed."""
    path = folder / FACTS
    if not path.is_file():
        if (folder / SAMPLES).is_file():
            raise EvaluateError(f"{folder} holds answers and no {FACTS}; choose another --out, or delete the folder")
        return
    try:
        before = json.loads(path.read_text(encoding="utf-8"))["signature"]
    except (ValueError, KeyError, TypeError):
        raise EvaluateError(f"{path} cannot be read; choose another --out, or delete the folder") from None
    loose = {"trimtab", "versions", "hardware", "python", "batch"}
    for key in [k for k in signature if k not in loose]:
        if before.get(key) != signature[key]:
            raise EvaluateError(
                f"{folder} holds another evaluation: its {key} is {before.get(key)}, and now {signature[key]}; "
                "choose another --out, or delete the folder"
            )


def _write(path: Path, facts: Mapping[str, Any]) -> None:
    put(json_line(facts, indent=1, default=str), path)


def table(found: page.Evaluation) -> Table:
    """Numbers over all items for a terminal, with the baselines."""
    headings = ("measure", "value", "95% interval", "items")
    rows = table_of(*headings, title=found.title, title_justify="left", box=None)
    for one in found.measures:
        if one.group == "all":
            rows.add_row(*cells((one.name, *page.number(one.value), one.number)))
    for name, value in found.baselines.items():
        rows.add_row(*cells((f"({name})", f"{value:.3f}", "", "")))
    return rows


PARTS = ("model", "adapter", "final", "checkpoint", "checkpoints", "output", "outputs")
"""names of folders that say nothing of the model in them; checkpoint-100 says half"""


def folder_name(model: str) -> str:
    """A name for the evaluations of a model: a folder's name behind that of its run, RUN for RUN/model and
    RUN-checkpoint-10 for RUN/checkpoints/checkpoint-10; of a hub's model the last part of its id."""
    path = Path(model).expanduser()
    if not path.exists():
        return model.rstrip("/").split("/")[-1] or "model"
    kept: list[str] = []
    for name in path.resolve().parts[:0:-1]:
        if name in PARTS:
            continue
        kept.insert(0, name)
        if not name.startswith("checkpoint-"):
            break
    adapter = ["adapter"] if path.resolve().name == "adapter" else []
    return "-".join([*kept, *adapter]) or "model"
