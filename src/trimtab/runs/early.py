"""Checks that take a moment, before torch and transformers are imported: names, files, folders."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from trimtab.common import processes
from trimtab.common.errors import UserError, looked_in
from trimtab.common.workdir import Workdir
from trimtab.data.sources import check_there as check_rows
from trimtab.decoding import check_name as check_decoding
from trimtab.evals.suites import check_name as check_suite
from trimtab.models.places import check_there as check_model
from trimtab.runs.folder import is_new
from trimtab.runs.models_key import cache_folder
from trimtab.runs.recipe import Recipe, RecipeError, named_models
from trimtab.runs.stages import made_by


class AskError(UserError):
    """Nothing to complete."""


def check_places(recipes: Sequence[Recipe]) -> None:
    """Check that everything named by the recipes of one command exists.

    Args:
        recipes: in the order of their runs; a model that an earlier one writes need not be there yet.

    Raises:
        ValueError: a subclass that names what is not there.
    """
    made: set[str] = set()
    for recipe in recipes:
        for source in filter(None, (recipe.data.train, recipe.data.heldout)):
            check_rows(source)
        folder = cache_folder(recipe.models.teacher)
        if folder is not None and recipe.models.teacher not in made and not folder.is_dir():
            raise RecipeError(
                f"models.teacher: there is no folder {folder}{looked_in(folder)}; write it with trimtab precompute "
                f"RECIPE models.teacher=MODEL --teacher hidden --out {folder}"
            )
        for reward in recipe.reward:
            place = reward.name.rpartition(":")[0]
            if place.endswith(".py") and not Path(place).is_file():
                raise RecipeError(
                    f"reward: there is no file {place}{looked_in(place)}; write your own reward as FILE.py:FUNCTION"
                )
        for role, name in _models(recipe).items():
            if name not in made:
                check_model(name, f"models.{role}")
        made.add(made_by(recipe))


def check_asked(
    models: Iterable[tuple[str, str | None]],
    sources: Iterable[str | None] = (),
    decoding: str | None = None,
    suites: Iterable[str] = (),
) -> None:
    """Check the names given to a command that runs models, before anything heavy is imported.

    Args:
        models: the option that names one, and the name.
        sources: of rows.
        decoding: the name of a strategy.
        suites: names.

    Raises:
        ValueError: a subclass that names what is not there.
    """
    for option, name in models:
        if name:
            check_model(name, option)
    for source in filter(None, sources):
        check_rows(source)
    for suite in suites:
        check_suite(suite)
    if decoding is not None:
        check_decoding(decoding)


def check_prompts(texts: Sequence[str] | None, file: Path | None) -> None:
    """Check that there is something to complete.

    Raises:
        AskError: if there is nothing, or no such file.
    """
    if not texts and file is None:
        raise AskError("no prompts: give --prompt TEXT or --prompts FILE")
    if file is not None and str(file) != "-" and not file.expanduser().exists():
        raise AskError(f"--prompts: there is no file {file}{looked_in(file)}")


def check_outputs(recipes: Sequence[Recipe], resume: bool) -> None:
    """Check that the folders can take the runs; an existing run's settings are compared later.

    Args:
        recipes: of one command; of several, some may be finished and others not started.
        resume: whether to resume a run.

    Raises:
        RunError: naming the folder.
    """
    if processes.rank() != 0:  # the main process checks, and may already be writing
        return
    for recipe in recipes:
        if recipe.used is not None and recipe.used.shared:  # an existing run may be the one to reuse
            continue
        if recipe.precompute is not None:  # goes on by itself
            Workdir(Path(recipe.output), "precompute", option="another output=FOLDER").check()
            continue
        folder = Path(recipe.output)
        is_new(folder, resume and (len(recipes) == 1 or folder.exists()))


def _models(recipe: Recipe) -> dict[str, str]:
    models = recipe.models
    policy = models.policy if isinstance(models.policy, str) else models.policy.source
    named = {"policy": policy, **named_models(recipe)}
    return {role: name for role, name in named.items() if name != "teacher"}
