"""From YAML to a checked recipe, with its stages, seeds and command-line overrides."""

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab.common import processes
from trimtab.common.files import half_character
from trimtab.common.yaml_text import read_tree
from trimtab.runs.check import check_method, check_minutes, check_plainly, validate
from trimtab.runs.overrides import override_all
from trimtab.runs.recipe import Origin, Recipe, RecipeError, Stages
from trimtab.runs.shipped import find
from trimtab.runs.stages import once, runs_of


def load_recipe(
    path: str | Path,
    overrides: Iterable[str] = (),
    *,
    first: Callable[[Sequence[Recipe]], None] | None = None,
    trains: bool = True,
) -> Recipe | Stages:
    """Read a recipe, apply `a.b=value` overrides, and check everything that can be checked without a model.

    Args:
        path: a file, or the name of a shipped recipe.
        overrides: KEY=VALUE words.
        first: further checks of the runs, made before anything heavy is imported, see `trimtab.runs.early`.
        trains: whether it is to be trained; else what TRL alone can say of training arguments is not asked.

    Raises:
        RecipeError: naming the file and the key.
    """
    given, overrides, path = str(path), tuple(overrides), find(path)
    tree = read_tree(path, RecipeError)
    override_all(tree, overrides)
    if found := half_character(tree):
        raise RecipeError(f"{path}: {found[0]} holds half of a character: {found[1]} without the other half")
    loaded = parse(tree, str(path), path.stem, first=first, file=path, trains=trains)
    runs = loaded.stages if isinstance(loaded, Stages) else [loaded]
    words = shlex.join(processes.started_with(given, overrides))
    for recipe in runs:
        recipe.read_from(Origin(words, isinstance(loaded, Stages)))
    return loaded


def parse(
    tree: Mapping[str, Any],
    where: str,
    name: str,
    *,
    first: Callable[[Sequence[Recipe]], None] | None = None,
    file: Path | None = None,
    trains: bool = True,
) -> Recipe | Stages:
    """A recipe from a tree of plain values; `where` is for messages, `name` for the run folder.

    Args:
        first, trains: see `load_recipe`.
        file: that the tree was read from, beside which `use:` looks.
    """
    tree = dict(tree)
    tree.setdefault("output", f"runs/{name}")
    seeds = _seeds(tree, where)
    output = tree["output"]
    seeded = [{**tree, "seed": seed, "output": f"{output}-seed{seed}"} for seed in seeds] or [tree]
    runs = once([run for one in seeded for run in runs_of(one, where, file, str(output))])
    for recipe, place in runs:  # names, files, numbers and folders, before torch is imported, which takes seconds
        check_plainly(recipe, place)
    if first is not None:
        first([recipe for recipe, _ in runs])
    minutes = tree.get("minutes") if seeds or "stages" in tree else None
    for recipe, place in runs:
        check_method(recipe, place, trains)
        check_minutes(recipe, minutes, where)
    recipes = [recipe for recipe, _ in runs]
    if all(recipe.precompute for recipe in recipes):
        raise RecipeError(
            f"{where}: precompute is of a stage before others that train, and nothing is trained here; write a teacher "
            f"cache with trimtab precompute {where} --teacher {recipes[0].precompute.teacher} --out FOLDER"  # type: ignore[union-attr]
        )
    if not seeds and "stages" not in tree:
        return recipes[0]
    return validate(Stages, {"output": output, "minutes": minutes, "stages": recipes, "seeds": seeds}, where, ())


def _seeds(tree: dict[str, Any], where: str) -> list[int]:
    """Take `seeds` out of a tree.

    Raises:
        RecipeError: if it is not a list of distinct seeds, or a seed is set as well.
    """
    seeds = tree.pop("seeds", None)
    if seeds is None:
        return []
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise RecipeError(f"{where}: seeds is {seeds!r}; give a list of whole numbers from 0, such as [0, 1, 2]")
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"{where}: seeds is {seeds!r}, which contains one twice; the two runs would be identical")
    stages = tree.get("stages")
    own = ["the recipe", *(f"stages[{i}]" for i in range(len(stages)))] if isinstance(stages, list) else ["the recipe"]
    for place, part in zip(own, [tree, *(stages if isinstance(stages, list) else [])]):
        if isinstance(part, Mapping) and "seed" in part and "use" not in part:
            raise RecipeError(f"{where}: {place} has both seed and seeds; leave one of them out")
    return seeds
