"""Measure a dial at several strengths: a property, quality, the distance from both models, and a range to recommend."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from trimtab import __version__
from trimtab.commands.asking import LoadedSettings, keys_of_suites
from trimtab.commands.generate import parse_strengths
from trimtab.common.errors import UserError
from trimtab.common.settings import SettingsError, Shown
from trimtab.evals import suites
from trimtab.models.dial import LIMITS, read_dial

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.commands.evaluate import EvaluateSettings
    from trimtab.evals.dial_sweep import AtStrength
    from trimtab.runs.exporting import Source

LINES, PAGE, LENGTH, SUITES = "strengths.jsonl", "report.html", "length", "suites"


class SweepError(UserError):
    """A model whose dial cannot be measured."""


class SweepSettings(LoadedSettings):
    """Which dial, at which strengths, on which prompts."""

    positional = ("run",)
    words: ClassVar[str] = "RUN [KEY=VALUE]..."
    run: Path
    """Folder of a finished run (runs/NAME), of its model, or an exported one."""
    strengths: Annotated[tuple[str, ...], Shown("S,S,...")] = ("0,0.25,0.5,0.75,1,1.5,2,3",)
    """Strengths; 0 and 1 are always measured."""
    prompts: Annotated[str, Shown("FILE")] = "trimtab:everyday/heldout"
    """One prompt per line, or rows with `prompt` or `messages`."""
    number: Annotated[int, Shown("N"), Field(ge=1)] = 32
    """Use only the first N prompts."""
    measure: Annotated[str, Shown("NAME")] = LENGTH
    """What is wanted: length (tokens of an answer), or a reward: exact, choice, math, FILE.py:FUNCTION."""
    tolerance: Annotated[float, Shown("X"), Field(gt=0, allow_inf_nan=False)] = 0.1
    """How much worse answers may be beyond 0 and 1: share of the perplexity, and share of 4-grams that repeat."""
    max_new_tokens: Annotated[int, Shown("N"), Field(ge=1)] = 128
    """Maximum length of an answer, in tokens."""
    temperature: Annotated[float, Shown("T"), Field(ge=0, allow_inf_nan=False)] = 0.0
    """Sampling temperature; 0 is greedy."""
    seed: Annotated[int, Shown("N"), Field(ge=0)] = 0
    """Random seed."""
    suite: Annotated[tuple[str, ...], Shown("NAME")] = ()
    """A suite (`trimtab list suites`) to run at each strength too, as trimtab eval does; SUITE.KEY=VALUE sets it."""
    limit: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Use only the first N items of suites."""
    out: Annotated[Path | None, Shown("FOLDER")] = None
    """Folder for numbers and an HTML page; RUN.sweep by default, where trimtab export finds the range."""
    write: bool = False
    """Write the recommended range into RUN, an exported folder: its config and its model card."""
    force: bool = False
    """Overwrite an existing sweep."""
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        low, high = LIMITS
        for one in self.chosen:
            if not low <= one <= high:
                raise SettingsError(f"--strengths: {one:g} leaves the limits of the dial, {low:g} to {high:g}")
        for name in self.suite:
            suites.check_name(name)
        if self.limit is not None and not self.suite:
            raise SettingsError("--limit is of the items of suites; name one with --suite, or see --number for prompts")
        return self.check_owned()

    @classmethod
    def rivals(cls, key: str, given: Mapping[str, Any], plain: Sequence[str]) -> Sequence[str]:
        return keys_of_suites(key, given.get("suite") or ())

    def owned(self) -> Mapping[str, Any]:
        return dict.fromkeys(self.suite, ())

    @property
    def chosen(self) -> list[float]:
        """The strengths, ascending."""
        return sorted({0.0, 1.0, *parse_strengths(self.strengths, "--strengths")})


SETTINGS = SweepSettings


def main(settings: SweepSettings) -> None:
    """Measure, and print the path of the page."""
    from trimtab.runs.early import check_asked
    from trimtab.runs.exporting import source_of

    source = source_of(settings.run)
    if settings.write:
        read_dial(source.model)
    check_asked([], [settings.prompts] if settings.prompts.startswith("trimtab:") else [])
    from trimtab.common.terminal import quiet

    quiet()
    import typer

    typer.echo(f"report: {sweep(settings)}")


def sweep(settings: SweepSettings, console: "Console | None" = None) -> Path:
    """Measure into a folder: strengths.jsonl, sweep.json, signature.txt and report.html. Strengths that are there are
    not measured again.

    Returns:
        The page.

    Raises:
        UserError: naming what is wrong, before weights are loaded where possible.
    """
    from rich.console import Console

    from trimtab.common.files import json_line, read_json
    from trimtab.common.terminal import say
    from trimtab.common.workdir import Workdir
    from trimtab.evals import dial_sweep as measures
    from trimtab.models.identity_layer import MARK
    from trimtab.models.inference import load_for_inference
    from trimtab.report import dial_sweep as page
    from trimtab.rewards import verifiable
    from trimtab.runs.exporting import SWEEP, measured_beside, source_of, weights_of, write_recommended

    console = console or Console()
    source = source_of(settings.run)
    if not read_json(source.model / "config.json").get(MARK):
        raise SweepError(f"{source.name} has no dial: no layer was inserted into its model; train one with clm or inra")
    out = settings.out or measured_beside(source)
    work = Workdir(out, "sweep", (LINES, SWEEP, PAGE), force=settings.force)
    work.check()
    by_suite = SuitesAtStrengths(settings, source, out)
    by_suite.check(console)
    reward = None if settings.measure == LENGTH else verifiable.load(settings.measure)
    rows = _rows(settings)
    if reward is not None:
        verifiable.check_rows(reward, rows, settings.prompts)
    tokenizer = _checked(settings, source, rows, console)
    weights = weights_of(source)
    with work.open():
        signature = _signature(settings, rows, weights, reward)
        work.sign(signature)
        model = cache(lambda: load_for_inference(str(source.model), settings.how))
        found = _measured(settings, model, tokenizer, rows, reward, work, console)
        found = [one for one in found if one.strength in settings.chosen]
        numbers = by_suite.measured(model, console)
        span = measures.recommended(found, settings.tolerance)
        facts = {
            "model": source.name, "weights": weights, "measure": settings.measure, "tolerance": settings.tolerance,
            "recommended": span, "breaks": measures.first_break(found, settings.tolerance), "signature": signature,
            "prompts": len(rows), "undecided": measures.undecided(found, settings.tolerance),
            "strengths": [{"strength": one.strength, **measures.stored(one)} for one in found], "suites": numbers,
        }  # fmt: skip
        work.write(SWEEP, json_line(facts, indent=1))
        asked = [page.words(measures.asked_by(row, "")) for row in rows]
        page.write(facts, list(zip(asked, *(one.answers for one in found))), out / PAGE)
        if settings.write:
            write_recommended(source.model, span)
    console.print(page.table(facts))
    for one in page.suite_tables(facts):
        console.print(one)
    say(console, page.verdict(facts))
    return out / PAGE


def _rows(settings: SweepSettings) -> list[dict[str, Any]]:
    from trimtab.data.sources import SUFFIXES, load_rows, prompt_lines
    from trimtab.evals.dial_sweep import asked_by

    path = Path(settings.prompts).expanduser()
    lines = not path.name.lower().endswith(SUFFIXES) and path.is_file()
    found = [{"prompt": line} for line in prompt_lines(path)] if lines else load_rows(settings.prompts)
    rows = [dict(row) for row in found[: settings.number]]
    for number, row in enumerate(rows, start=1):
        asked_by(row, f"{settings.prompts}: row {number}")
    return rows


def _checked(settings: SweepSettings, source: "Source", rows: Sequence[dict[str, Any]], console: "Console") -> Any:
    """The tokenizer; prompts and the longest answers fit the model."""
    from trimtab.common.terminal import say
    from trimtab.data.tokens import prompt_ids
    from trimtab.evals.dial_sweep import asked_by
    from trimtab.models import loading
    from trimtab.models.limits import check_prompts

    name = str(source.model)
    tokenizer = loading.load_tokenizer(name)
    ids = [prompt_ids(tokenizer, asked_by(row, ""), f"prompt {i}") for i, row in enumerate(rows, start=1)]
    for note in check_prompts(ids, settings.max_new_tokens, loading.limits(name), tokenizer, name):
        say(console, note)
    return tokenizer


def _signature(settings: SweepSettings, rows: Sequence[dict[str, Any]], weights: str, reward: Any) -> dict[str, str]:
    """All that the numbers of a strength depend on."""
    from trimtab.common import fingerprint
    from trimtab.common.environment import environment

    return {
        "trimtab": __version__,
        "weights": weights,
        "dtype": settings.dtype,
        "prompts": f"{len(rows)} of {settings.prompts} {fingerprint.of_each(rows)}",
        "measure": f"{settings.measure} {getattr(reward, 'source', None) or ''}".strip(),
        "max_new_tokens": str(settings.max_new_tokens),
        "temperature": f"{settings.temperature:g}",
        "seed": str(settings.seed),
        **environment(),
    }


def _measured(
    settings: SweepSettings, model: Callable[[], Any], tokenizer: Any, rows: Sequence[dict[str, Any]], reward: Any,
    work: Any, console: "Console",
) -> "list[AtStrength]":  # fmt: skip
    """All strengths in the folder, ascending; those that are missing are measured and appended."""
    from trimtab.common.progress import watched
    from trimtab.evals.dial_sweep import AtStrength, measure

    lines = work.records(LINES, "strength", what="strengths")
    try:
        there = {AtStrength(**line).strength for line in lines.rows}
    except TypeError:
        raise SweepError(f"{lines.path} holds a line that is no strength; add --force to measure again") from None
    if missing := [strength for strength in settings.chosen if strength not in there]:
        how: Any = {"new": settings.max_new_tokens, "temperature": settings.temperature, "seed": settings.seed}
        made = (measure(model(), tokenizer, rows, strength, reward, **how) for strength in missing)
        for one in watched(made, "sweep", len(missing), "strengths", lambda one: 1, console):
            lines.append([one.record()])
    return sorted((AtStrength(**line) for line in lines.rows), key=lambda one: one.strength)


@dataclass(frozen=True)
class SuitesAtStrengths:
    """Suites of a sweep, each answered at each strength in a folder of its own, as `trimtab eval` writes it."""

    settings: SweepSettings
    source: "Source"
    out: Path

    def asked(self, strength: float) -> "EvaluateSettings":
        """The evaluation at a strength."""
        from trimtab.commands.evaluate import EvaluateSettings
        from trimtab.common.count import exact

        own = self.settings
        return EvaluateSettings(
            model=str(self.source.model), suites=own.suite, out=self.out / SUITES / exact(strength), seed=own.seed,
            limit=own.limit, options=own.options, force=own.force, dtype=own.dtype, device_map=own.device_map,
        )  # fmt: skip

    def check(self, console: "Console") -> None:
        """Before weights are loaded.

        Raises:
            UserError: for suites that do not fit the model, or that need more of it than answers at a strength.
        """
        from trimtab.commands.evaluate import questions_of, workdir

        if not self.settings.suite:
            return
        for name, spec in questions_of(self.asked(0.0), console).items():
            if spec.suite.finish is not None:
                raise SweepError(
                    f"--suite {name}: after its answers it works on with the model's weights or agents, which have no "
                    "strength there; leave it out, or the setting that asks for that"
                )
        for strength in self.settings.chosen:
            for name in self.settings.suite:
                workdir(self.asked(strength).folder / name, self.asked(strength)).check()

    def measured(self, model: Callable[[], Any], console: "Console") -> dict[str, list[dict[str, Any]]]:
        """Suite -> its measures over all items at each strength: {"strength": 0.5, MEASURE: [estimate, low, high]}."""
        from rich.console import Console as Quiet

        from trimtab.commands.evaluate import evaluate
        from trimtab.common.progress import watched
        from trimtab.common.workdir import SIGNATURE
        from trimtab.data.chat_date import adopt_date
        from trimtab.evals.dial_model import DialModel
        from trimtab.evals.suite import plain
        from trimtab.models.loading import load_tokenizer
        from trimtab.report.evaluation import read

        if not self.settings.suite:
            return {}
        name = str(self.source.model)
        tokenizer = load_tokenizer(name)
        adopt_date(tokenizer, *sorted((self.out / SUITES).glob(f"*/*/{SIGNATURE}")))
        warm = self.settings.temperature
        how: Any = {"strategy": "sample", "options": {"temperature": warm}} if warm else {}
        found: dict[str, list[dict[str, Any]]] = {one: [] for one in self.settings.suite}

        def answer(strength: float) -> float:
            asked = self.asked(strength)
            one = DialModel(model(), tokenizer, name, strength=strength, seed=asked.seed, batch=asked.batch, **how)
            for suite, folder in zip(asked.suites, evaluate(asked, Quiet(quiet=True), one), strict=True):
                numbers = {each.name: plain(each.value) for each in read(folder).measures if each.group == "all"}
                found[suite].append({"strength": strength, **numbers})
            return strength

        made, number = map(answer, self.settings.chosen), len(self.settings.chosen)
        for _ in watched(made, "suites", number, "strengths", lambda one: 1, console):
            pass
        return found
