"""Run a recipe's frozen models once over its rows and store what they give: log-probabilities, or a teacher cache."""

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import typer
from pydantic import Field, model_validator
from rich.console import Console

from trimtab.commands.asking import RaySettings
from trimtab.commands.train import RecipeSettings
from trimtab.common import processes
from trimtab.common.errors import UserError
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import quiet
from trimtab.common.workdir import META, Workdir

if TYPE_CHECKING:
    from trimtab.common.on_ray import Cluster
    from trimtab.runs.recipe import Recipe


class PrecomputeError(UserError):
    """A recipe for which nothing can be precomputed."""


class PrecomputeSettings(RecipeSettings, RaySettings):
    """Which recipe, and where to write the rows."""

    alone = False
    teacher: Literal["hidden", "topk"] | None = None
    """Write what the recipe's teacher gives for its rows to a folder, for models.teacher=cache:FOLDER: its last
    `hidden` states, which are exact for every method; or its `topk` most likely tokens with their log-probabilities and
    the mass of the rest."""
    k: int | None = Field(None, ge=1)
    """Number of tokens for --teacher topk; 64 by default."""
    dtype: Literal["bfloat16", "float32"] | None = None
    """Of hidden states; that of models.frozen_dtype by default."""
    out: Annotated[Path, Shown("FILE.jsonl")]
    """File for the rows with their new columns; with --teacher a folder."""
    force: bool = False
    """Overwrite an existing file, or begin an existing folder anew."""

    @model_validator(mode="after")
    def _kinds(self) -> Self:
        if self.k is not None and self.teacher != "topk":
            raise SettingsError("--k: only the most likely tokens have a number; add --teacher topk, or leave it out")
        if self.dtype is not None and self.teacher != "hidden":
            raise SettingsError("--dtype: only hidden states have one to choose; add --teacher hidden, or leave it out")
        return self

    @model_validator(mode="after")
    def _one_kind_of_processes(self) -> Self:
        if self.ray is not None and processes.launched() > 1:
            raise SettingsError("--ray: its workers share the work already; start the command without a launcher")
        return self

    @model_validator(mode="after")
    def _rows(self) -> Self:
        if self.teacher is not None:
            if self.out.suffix == ".jsonl" or self.out.is_file():
                raise SettingsError(f"--out: what a teacher gives is written to a folder; {self.out} is a file")
            if self.force and processes.launched() > 1:
                raise SettingsError(f"--force: several processes cannot begin anew together; remove {self.out} first")
            return self
        if self.out.suffix != ".jsonl":
            raise SettingsError(f"--out: rows are written as .jsonl; choose FILE.jsonl instead of {self.out}")
        return self


SETTINGS = PrecomputeSettings


def main(settings: PrecomputeSettings) -> None:
    """Precompute, and print how to use the columns or the cache."""
    from trimtab.runs.early import check_places
    from trimtab.runs.parse import load_recipe
    from trimtab.runs.recipe import Stages

    if settings.teacher is None:
        processes.check_alone("precompute")
    loaded = load_recipe(settings.recipe, settings.overrides, first=check_places, trains=False)
    stages = loaded.stages if isinstance(loaded, Stages) else [loaded]
    quiet()
    if settings.teacher is not None:
        _cache(settings, stages)
    else:
        _columns(settings, stages)


def _columns(settings: PrecomputeSettings, stages: "list[Recipe]") -> None:
    from trimtab.runs.precomputed import columns_of

    chosen = max(stages, key=lambda stage: len(columns_of(stage)))
    command = shlex.join(["trimtab", *sys.argv[1:]])
    with settings.cluster() as ray:
        meta = precompute(chosen, settings.out, command=command, force=settings.force, ray=ray)
    columns = columns_of(chosen)
    typer.echo(f"rows: {settings.out}\nmeta: {meta}\ncolumns for {chosen.method}: {', '.join(columns)}")
    use = [f"data.train={settings.out}"]
    if "reference_logprobs" in columns:
        use.append("models.reference=column")
    if "weak_delta" in columns:
        use.append("options.weak=column models.weak_reference=null models.weak_aligned=null")
    typer.echo(f"train on them with {' '.join(use)}")


def _cache(settings: PrecomputeSettings, stages: "list[Recipe]") -> None:
    from trimtab.runs.models_key import cache_folder
    from trimtab.runs.teacher_pass import cache_teacher

    assert settings.teacher is not None
    named = (one for one in stages if one.models.teacher is not None and cache_folder(one.models.teacher) is None)
    chosen = next(named, stages[0])
    how: dict[str, Any] = {"k": settings.k, "dtype": settings.dtype, "force": settings.force}
    with settings.cluster() as ray:
        written = cache_teacher(chosen, settings.out, settings.teacher, ray=ray, **how)
    if processes.rank() == 0:
        typer.echo(f"{written.said()}\ntrain on it with models.teacher=cache:{settings.out}")


def precompute(
    recipe: "Recipe",
    out: Path,
    *,
    command: str,
    force: bool = False,
    console: Console | None = None,
    ray: "Cluster | None" = None,
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
        ray: shares the batches among workers.

    Returns:
        The meta's path.

    Raises:
        ValueError: (or a subclass) for a mistake in the recipe, its rows or models, or a file that is there; nothing
            is written then.
        Interrupted: after Ctrl-C.
    """
    from trimtab.data.sources import whole_source
    from trimtab.runs.precomputed import PART, columns_of, frozen_columns

    columns = columns_of(recipe)
    if not columns:
        raise PrecomputeError(
            f"method {recipe.method} with these settings needs no log-probabilities of answers from a frozen model; "
            "columns are computed for recipes of dpo or wspo that name their models"
        )
    if out.exists() and out.resolve() == Path(whole_source(recipe.data.train)).expanduser().resolve():
        raise PrecomputeError(f"{out} is the recipe's own data.train; choose another --out FILE.jsonl")
    work = Workdir(
        out, "precompute", (META,), is_file=True, option="another --out FILE.jsonl", force=force, parts=(PART,)
    )
    work.check()
    with work.open():
        rows, meta = frozen_columns(recipe, columns, work, console or Console(), ray)
        return work.write_rows(rows, {**meta, "command_line": command})
