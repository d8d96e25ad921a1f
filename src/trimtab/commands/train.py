"""Run a recipe; the run folder gets the model, the metrics and a report."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import typer
from pydantic import Field, model_validator

from trimtab.commands import completion
from trimtab.common import processes
from trimtab.common.settings import CommandSettings, SettingsError, Shown

if TYPE_CHECKING:
    from trimtab.runs.run import Result


class RecipeSettings(CommandSettings):
    """A recipe, and overrides of its keys."""

    positional = ("recipe",)
    rest = "overrides"
    words: ClassVar[str] = "RECIPE [KEY=VALUE]..."
    complete = staticmethod(completion.recipes)
    alone = False
    recipe: str
    """A recipe file, or the name of a shipped recipe (`trimtab list recipes`)."""
    overrides: tuple[str, ...] = ()
    """KEY=VALUE overrides a key of the recipe, such as training.max_steps=20 (`trimtab show train` lists them)."""

    def first(self) -> Any:
        """The recipe, or the first of its stages."""
        from trimtab.runs.early import check_places
        from trimtab.runs.parse import load_recipe
        from trimtab.runs.recipe import Stages

        loaded = load_recipe(self.recipe, self.overrides, first=lambda runs: check_places(runs[:1]), trains=False)
        return loaded.stages[0] if isinstance(loaded, Stages) else loaded


class TrainSettings(RecipeSettings):
    """How to run a recipe."""

    dry_run: bool = False
    """Print the complete recipe and an estimate of its memory use, and exit."""
    gpu_memory: Annotated[float | None, Shown("GB")] = Field(None, gt=0)
    """With --dry-run: estimate for a GPU with so many GB (of 10^9 bytes), which this machine need not have."""
    time: bool = False
    """With --dry-run: also load the models and measure the time of a step on this machine."""
    resume: bool = False
    """Resume an unfinished run of this recipe."""
    edited: bool = False
    """With --resume: accept that your code (a reward, a method) was edited since."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> Self:
        if self.time and not self.dry_run:
            raise SettingsError("--time: the report of a run says how long its steps took; add --dry-run")
        if self.gpu_memory is not None and not self.dry_run:
            raise SettingsError("--gpu-memory: a run takes the device that is there; add --dry-run")
        if self.edited and not self.resume:
            raise SettingsError("--edited: a new run takes the code as it is; leave it out, or add --resume")
        return self


SETTINGS = TrainSettings


def main(settings: TrainSettings) -> None:
    """Train, and print the path of the report."""
    from trimtab.common.terminal import quiet
    from trimtab.runs.early import check_places
    from trimtab.runs.parse import load_recipe
    from trimtab.runs.recipe import dump

    if settings.dry_run:
        loaded = load_recipe(settings.recipe, settings.overrides, first=check_places)
        quiet()
        from trimtab.commands.memory_table import commented, timed
        from trimtab.runs.estimated_split import Split

        split = None if settings.gpu_memory is None else Split(device="cuda")
        typer.echo(f"{dump(loaded)}{commented(loaded, split, settings.gpu_memory)}", nl=False)
        if settings.time:
            typer.echo(timed(loaded), nl=False)
        return
    loaded = _loaded(settings.recipe, settings.overrides, settings.resume)
    quiet()
    from rich.console import Console

    from trimtab import report

    console = Console(quiet=processes.rank() != 0)
    result = _carried_out(loaded, settings.resume, settings.edited, console)
    trained = [one for one in getattr(loaded, "stages", [loaded]) if one.precompute is None]
    finished = [report.load(Path(one.output)) for one in trained]
    tables = [report.table(finished, console.width)]
    tables += [report.seeds_table(finished, console.width)] if len(finished) > 1 else []
    for table in filter(None, tables):
        console.print(table)
    if processes.rank() == 0:
        typer.echo(f"report: {result.report}")


def _loaded(recipe: str, overrides: Iterable[str], resume: bool) -> Any:
    """The recipe or its stages, whose files and folders were looked for."""
    from trimtab.runs.early import check_outputs, check_places
    from trimtab.runs.parse import load_recipe

    def first(runs: Sequence[Any]) -> None:
        check_places(runs)
        check_outputs(runs, resume)

    return load_recipe(recipe, overrides, first=first)


def _carried_out(loaded: Any, resume: bool, edited: bool, console: Any) -> "Result":
    from trimtab.runs.recipe import Stages
    from trimtab.runs.run import run, run_stages

    carry_out: Any = run_stages if isinstance(loaded, Stages) else run
    return carry_out(loaded, resume=resume, edited=edited, console=console)


def train_recipe(
    recipe: str | Path, *, resume: bool = False, edited: bool = False, console: Any = None, **changes: Any
) -> "Result":
    """Run a recipe, as `trimtab train` does.

    Args:
        recipe: a file, or the name of a shipped recipe.
        resume: resume an unfinished run.
        edited: accept that its code was edited since.
        console: a rich console, for progress; nothing is shown by default.
        changes: keys of the recipe, nested as there: `training={"max_steps": 20}`.

    Returns:
        The run's folder and report; for stages, their common folder and comparison.

    Raises:
        UserError: for a mistake in the recipe, its data or its models; nothing is left behind then.
    """
    from rich.console import Console

    loaded = _loaded(str(recipe), tuple(_words(changes)), resume)
    return _carried_out(loaded, resume, edited, console or Console(quiet=True))


def _words(changes: Mapping[str, Any], at: str = "") -> Iterator[str]:
    """Nested changes as KEY=VALUE words of a command line; JSON is YAML."""
    for key, value in changes.items():
        if isinstance(value, Mapping) and value:
            yield from _words(value, f"{at}{key}.")
        else:
            yield f"{at}{key}={json.dumps(value, default=str, ensure_ascii=False)}"
