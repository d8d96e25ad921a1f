"""Change facts that a model knows: from edit requests to a checkpoint, with what it says before and after."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import typer
from pydantic import Field, model_validator

from trimtab.commands.asking import LoadedSettings
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import quiet, say
from trimtab.runs.edit_recipes import EDIT_STAGES, EditMethod

if TYPE_CHECKING:
    from rich.console import Console


SET = {
    "models.policy": "a step starts from the model of the one before, the first from --model",
    "models.trust_remote_code": "evaluations and chains of thought run no code that comes with a model; trimtab train "
    "does",
    "data.train": "the rows are those of the edits",
    "output": "the folder is --out",
}
"""key of a stage's recipe -> why it is not overridden"""


class EditCommand(LoadedSettings):
    """Which facts, which model, and how. `--dtype` and `--device-map` are of evaluations and chains of thought; that of
    training is STAGE.models.dtype."""

    positional = ("edits",)
    rest = "overrides"
    words: ClassVar[str] = "EDITS [STAGE.KEY=VALUE]..."
    edits: str
    """A file of edits, in our own columns or as ZsRE, CounterFact, QAEdit or MQuAKE come; any source of rows."""
    overrides: tuple[str, ...] = ()
    """STAGE.KEY=VALUE overrides a key of a stage's recipe, such as edit.training.max_steps=50; the stages of etcon are
    tpsft and consolidate, that of the others is edit."""
    model: Annotated[str, Shown("MODEL")]
    """The model to edit: a builtin model, a folder or a Hub id."""
    method: EditMethod = "locft_bf"
    """locft_bf: localised fine-tuning over all edits; ft_m: one layer, a few updates; lora: adapters; etcon: chains of
    thought of the model with the new answer, then GRPO."""
    out: Annotated[Path, Shown("FOLDER")]
    """Folder of the session: `model`, the steps, the evaluations and the report."""
    batch: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Edits made at once; all by default, one with --every."""
    every: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Make edits one after another (or --batch at once), and evaluate after each N."""
    limit: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """Use only the first N edits."""
    conflicts: Literal["refuse", "last"] = "refuse"
    """Refuse two edits of one fact with different targets, or keep the last."""
    modes: tuple[Literal["chat", "reasoning", "question", "instruction"], ...] = ()
    """How the model is asked in evaluations; chat by default, question without a chat template."""
    max_new_tokens: Annotated[int, Shown("N"), Field(ge=1)] = 256
    """With etcon: maximum length of a chain of thought."""
    no_cot_filter: bool = False
    """With etcon: keep chains that assert the old answer."""
    no_eval: bool = False
    """Make the edits and evaluate nothing."""
    seed: Annotated[int, Shown("N"), Field(ge=0)] = 0
    """Random seed."""
    resume: bool = False
    """Resume a session."""
    rollback: Annotated[int | None, Shown("STEP"), Field(ge=0)] = None
    """Go back to the model after a step, 0 for the original, and remove later steps."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        size = self.batch or 1
        if self.every is not None and self.every % size:
            raise SettingsError(f"--every {self.every}: edits are made {size} at once; give a multiple of {size}")
        if self.no_cot_filter and self.method != "etcon":
            raise SettingsError("--no-cot-filter: only etcon has chains of thought; leave it out")
        for word in self.overrides:
            if word.partition(".")[0] not in EDIT_STAGES[self.method]:
                names = " or ".join(f"{one}.KEY=VALUE" for one in EDIT_STAGES[self.method])
                raise SettingsError(f"{word!r} names no stage of {self.method}; write {names}")
            key = word.partition(".")[2].partition("=")[0].replace("models.student", "models.policy")
            if key in SET:
                raise SettingsError(f"{word!r} cannot be set: {SET[key]}")
        return self


SETTINGS = EditCommand


def main(settings: EditCommand) -> None:
    """Edit, and print the path of the report."""
    quiet()
    from rich.console import Console

    typer.echo(f"report: {_edit(settings, Console())}")


def edit_model(edits: str | Path, model: str | Path, *, out: str | Path, console: Any = None, **settings: Any) -> Path:
    """Change facts that a model knows, as `trimtab edit` does.

    Args:
        edits: a file of edits, or another source of rows.
        model: a builtin model, a folder or a Hub id.
        out: folder of the session.
        console: of rich, for progress; nothing is shown if not given.
        settings: flags of `trimtab edit`: `method="etcon", every=10, overrides=("tpsft.training.max_steps=20",)`.

    Returns:
        The folder, with `model`, `report.html` and `session.json`.

    Raises:
        UserError: naming what is wrong.
    """
    from rich.console import Console

    asked = EditCommand(edits=str(edits), model=str(model), out=Path(out), **settings)
    return _edit(asked, console or Console(quiet=True)).parent


def _edit(settings: EditCommand, console: "Console") -> Path:
    from trimtab.common import fingerprint
    from trimtab.data.edits import load_edits
    from trimtab.report import edits as page
    from trimtab.runs.early import check_asked
    from trimtab.runs.edit_session import EditPlan, EditSession

    check_asked([("--model", settings.model)], [settings.edits])
    found = load_edits(settings.edits, conflicts=settings.conflicts)
    for note in found.notes:
        say(console, note)
    edits = found.edits[: settings.limit]
    size = settings.batch or (1 if settings.every else len(edits))
    plan = EditPlan(
        settings.model, settings.method, size, settings.every or 0, settings.seed, not settings.no_cot_filter,
        settings.max_new_tokens, settings.overrides, fingerprint.of_text(repr([asdict(one) for one in edits])),
        settings.how,
    )  # fmt: skip
    session = EditSession(settings.out, plan, edits, console)
    session.check()
    with session.open(settings.resume or settings.rollback is not None):
        if settings.rollback is not None:
            session.roll_back(settings.rollback)
            say(console, f"{settings.out} stands at step {settings.rollback}; --resume makes the later edits again")
        else:
            _go_on(settings, session)
        return page.write_session(session.folder, _shown(session))


def _go_on(settings: EditCommand, session: Any) -> None:
    """Make the steps that are left, with evaluations before, on the way and after."""
    from trimtab.report import edits as page

    if not settings.no_eval:
        _evaluate(settings, session, 0)

    def after(step: int) -> None:
        made = len(session.made(step))
        if not settings.no_eval and (step == session.steps or (settings.every and made % settings.every == 0)):
            _evaluate(settings, session, step)
            page.write_session(session.folder, _shown(session))

    session.go_on(after)
    _card(session)


def _evaluate(settings: EditCommand, session: Any, step: int) -> None:
    """Ask all edits of the model after a step, also those that are not made yet."""
    from trimtab.commands.evaluate import evaluate_model
    from trimtab.models import loading

    evals, modes = session.folder / "evals", settings.modes
    if not modes:
        modes = ("chat",) if loading.load_tokenizer(settings.model).chat_template else ("question",)
    options = {"file": settings.edits, "modes": modes, "number": settings.limit, "conflicts": settings.conflicts}
    if step:
        options["before"] = str(evals / "0000")
    say(session.console, "evaluating the original model" if step == 0 else f"evaluating step {step}")
    evaluate_model(
        session.model_at(step), "edit", out=evals / f"{step:04d}", options={"edit": options}, seed=settings.seed,
        console=session.console, dtype=settings.dtype, device_map=settings.device_map,
    )  # fmt: skip


def _shown(session: Any) -> dict[str, Any]:
    """What the report says of a session."""
    return {
        "plan": asdict(session.plan),
        "step": session.at(),
        "steps": session.steps,
        "failed": session.state()["failed"],
        "edits": [asdict(one) for one in session.edits],
        "made": {step: len(session.made(step)) for step in range(session.steps + 1)},
    }


def _card(session: Any) -> None:
    """Say in the model's card which facts were changed."""
    path = session.folder / "model" / "README.md"
    if not path.is_file():
        return
    made = session.made(session.at())
    lines = "\n".join(f"- {one.prompt} **{one.target_new}**" for one in made)
    text = path.read_text(encoding="utf-8").partition("\n## Edited facts\n")[0]
    path.write_text(
        f"{text}\n## Edited facts\n\n{len(made)} facts of {session.plan.model} were changed by "
        f"{session.plan.method}, {session.plan.batch} at once:\n\n{lines}\n",
        encoding="utf-8",
    )
