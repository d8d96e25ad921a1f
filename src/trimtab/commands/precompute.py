"""Run a recipe's frozen models once over its training rows and store their log-probabilities as columns."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from pydantic import model_validator
from rich.console import Console

from trimtab.commands.train import RecipeSettings
from trimtab.common.errors import UserError
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import quiet
from trimtab.common.workdir import META, Workdir

if TYPE_CHECKING:
    from trimtab.runs.recipe import Recipe


class PrecomputeError(UserError):
    """A recipe for which nothing can be precomputed."""


class PrecomputeSettings(RecipeSettings):
    """Which recipe, and where to write the rows."""

    alone = True
    out: Annotated[Path, Shown("FILE.jsonl")]
    """File for the rows with their new columns."""
    force: bool = False
    """Overwrite an existing file."""

    @model_validator(mode="after")
    def _rows(self) -> Self:
        if self.out.suffix != ".jsonl":
            raise SettingsError(f"--out: rows are written as .jsonl; choose FILE.jsonl instead of {self.out}")
        return self


SETTINGS = PrecomputeSettings


def main(settings: PrecomputeSettings) -> None:
    """Precompute, and print how to use the columns."""
    from trimtab.runs.early import check_places
    from trimtab.runs.parse import load_recipe
    from trimtab.runs.recipe import Stages

    loaded = load_recipe(settings.recipe, settings.overrides, first=check_places, trains=False)
    stages = loaded.stages if isinstance(loaded, Stages) else [loaded]
    quiet()
    from trimtab.runs.precomputed import columns_of

    chosen = max(stages, key=lambda stage: len(columns_of(stage)))
    meta = precompute(chosen, settings.out, command=shlex.join(["trimtab", *sys.argv[1:]]), force=settings.force)
    columns = columns_of(chosen)
    typer.echo(f"rows: {settings.out}\nmeta: {meta}\ncolumns for {chosen.method}: {', '.join(columns)}")
    use = [f"data.train={settings.out}"]
    if "reference_logprobs" in columns:
        use.append("models.reference=column")
    if "weak_delta" in columns:
        use.append("options.weak=column models.weak_reference=null models.weak_aligned=null")
    typer.echo(f"train on them with {' '.join(use)}")


def precompute(
    recipe: "Recipe", out: Path, *, command: str, force: bool = False, console: Console | None = None
) -> Path:
    """Write the recipe's training rows with the log-probabilities of its frozen models, and a meta file that says what
    they were computed from.

    Columns hold one number in nats and float32 for each answer token: `reference_logprobs` log pi_ref(y_t), where the
    method measures from a reference; `weak_delta` log pi_weak_aligned(y_t) - log pi_weak_reference(y_t), of wspo. Those
    of rejected answers begin with `rejected_`. The models run one after another, in models.frozen_dtype, over the rows
    as training reads them: cut to training.max_length. Tokens that are cut off, and rows that are not kept, have null
    in place of numbers; training refuses to read one. All rows stay, in their order.

    Each batch is kept in FILE.columns.part until the rows are written: a call that was stopped goes on there.

    Args:
        recipe: of a method with a reference or a weak pair.
        out: a .jsonl file.
        command: for the meta.
        force: replace a file that is there.
        console: for progress.

    Returns:
        The meta's path.

    Raises:
        ValueError: (or a subclass) for a mistake in the recipe, its rows or models, or a file that is there; nothing
            is written then.
        Interrupted: after Ctrl-C.
    """
    from trimtab.runs.precomputed import PART, columns_of, frozen_columns

    columns = columns_of(recipe)
    if not columns:
        raise PrecomputeError(
            f"method {recipe.method} with these settings needs no log-probabilities of answers from a frozen model; "
            "columns are computed for recipes of dpo or wspo that name their models"
        )
    if out.exists() and out.resolve() == Path(recipe.data.train).expanduser().resolve():
        raise PrecomputeError(f"{out} is the recipe's own data.train; choose another --out FILE.jsonl")
    work = Workdir(
        out, "precompute", (META,), is_file=True, option="another --out FILE.jsonl", force=force, parts=(PART,)
    )
    work.check()
    with work.open():
        rows, meta = frozen_columns(recipe, columns, work, console or Console())
        return work.write_rows(rows, {**meta, "command_line": command})
