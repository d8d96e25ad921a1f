"""From YAML to a checked recipe: its stages, its seeds, and the words of a command line that change it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from trimtab.common.files import DataError, half_character, read_text
from trimtab.common.yaml_text import Loader, parse_value
from trimtab.runs.check import check_method, check_minutes, check_plainly, validate
from trimtab.runs.recipe import Recipe, RecipeError, Stages
from trimtab.runs.shipped import find


def load_recipe(
    path: str | Path,
    overrides: Iterable[str] = (),
    *,
    first: Callable[[Sequence[Recipe]], None] | None = None,
) -> Recipe | Stages:
    """Read a recipe, apply `a.b=value` overrides, and check everything that can be checked without a model.

    Args:
        path: of a file, or the name of one that comes with trimtab.
        overrides: words of a command line.
        first: further checks of the runs, made before anything heavy is imported, see `trimtab.runs.early`.

    Raises:
        RecipeError: naming the file and the key.
    """
    path = find(path)
    tree = read_tree(path)
    for override in overrides:
        _override(tree, override)
    if found := half_character(tree):
        raise RecipeError(f"{path}: {found[0]} holds half of a character: {found[1]} without the other half")
    return parse(tree, str(path), path.stem, first=first)


def read_tree(path: Path) -> dict[str, Any]:
    """What the file of a recipe holds.

    Raises:
        RecipeError: if that is no YAML, or no keys and values.
    """
    try:
        tree = yaml.load(read_text(path), Loader)
    except DataError as error:
        raise RecipeError(str(error)) from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f" line {mark.line + 1}" if mark else ""
        raise RecipeError(f"{path}:{at} is no YAML: {getattr(error, 'problem', None) or error}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds a {type(tree).__name__}, expected keys and values")
    return tree


def parse(
    tree: Mapping[str, Any], where: str, name: str, *, first: Callable[[Sequence[Recipe]], None] | None = None
) -> Recipe | Stages:
    """A recipe from a tree of plain values; `where` is for messages, `name` for the run folder.

    Args:
        first: see `load_recipe`.
    """
    tree = dict(tree)
    tree.setdefault("output", f"runs/{name}")
    seeds = _seeds(tree, where)
    output = tree["output"]
    seeded = [{**tree, "seed": seed, "output": f"{output}-seed{seed}"} for seed in seeds] or [tree]
    runs = [run for one in seeded for run in _runs(one, where)]
    for recipe, place in runs:  # names, files, numbers and folders, before torch is imported, which takes seconds
        check_plainly(recipe, place)
    if first is not None:
        first([recipe for recipe, _ in runs])
    minutes = tree.get("minutes") if seeds or "stages" in tree else None
    for recipe, place in runs:
        check_method(recipe, place)
        check_minutes(recipe, minutes, where)
    recipes = [recipe for recipe, _ in runs]
    if not seeds and "stages" not in tree:
        return recipes[0]
    return validate(Stages, {"output": output, "minutes": minutes, "stages": recipes, "seeds": seeds}, where, ())


def _runs(tree: Mapping[str, Any], where: str) -> list[tuple[Recipe, str]]:
    """The runs of a tree, each with its place for messages."""
    tree = dict(tree)
    if "stages" not in tree:
        _one_policy(tree, where)
        return [(validate(Recipe, tree, where, ()), where)]
    stages = tree.pop("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise RecipeError(f"{where}: stages must be a list of recipes")
    output = tree.pop("output")
    tree.pop("minutes", None)
    runs, seen = [], set()
    for number, stage in enumerate(stages):
        own, place = dict(stage), f"{where}: stages[{number}]"
        title = str(own.pop("name", own.get("method", number)))
        if title in seen or "/" in title:
            raise RecipeError(f"{place} needs a name of its own, {title!r} is taken")
        seen.add(title)
        full = _merge(tree, {**own, "output": f"{output}/{title}"})
        full = _refer_to_stages(full, output, seen - {title}, place)
        _one_policy(full, place)
        runs.append((validate(Recipe, full, where, ("stages", number)), place))
    return runs


def _seeds(tree: dict[str, Any], where: str) -> list[int]:
    """Takes `seeds` out of a tree.

    Raises:
        RecipeError: if it is no list of different seeds, or another key sets them too.
    """
    seeds = tree.pop("seeds", None)
    if seeds is None:
        return []
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise RecipeError(f"{where}: seeds is {seeds!r}; give a list of whole numbers from 0, such as [0, 1, 2]")
    if len(set(seeds)) < len(seeds):
        raise RecipeError(f"{where}: seeds is {seeds!r}, which names one twice; the two runs would be the same")
    stages = tree.get("stages")
    own = ["the recipe", *(f"stages[{i}]" for i in range(len(stages)))] if isinstance(stages, list) else ["the recipe"]
    for place, part in zip(own, [tree, *(stages if isinstance(stages, list) else [])]):
        if isinstance(part, Mapping) and "seed" in part:
            raise RecipeError(f"{where}: {place} has a seed beside seeds; leave one of them out")
    return seeds


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _refer_to_stages(tree: dict[str, Any], output: str, earlier: set[str], where: str) -> dict[str, Any]:
    """`@name` as a model is the folder that an earlier stage wrote."""
    models = dict(tree.get("models") or {})
    for role, value in models.items():
        if isinstance(value, str) and value.startswith("@"):
            if value[1:] not in earlier:
                known = ", ".join(sorted(earlier)) or "none"
                raise RecipeError(f"{where}: models.{role} is {value}, but the earlier stages are: {known}")
            models[role] = f"{output}/{value[1:]}/model"
    return {**tree, "models": models} if models else tree


def _one_policy(tree: Mapping[str, Any], where: str) -> None:
    models = tree.get("models")
    if isinstance(models, Mapping) and {"policy", "student"} <= models.keys():
        raise RecipeError(f"{where}: models has both policy and student, two names of one model; leave one out")


def _override(tree: dict[str, Any], text: str) -> None:
    key, sign, value = text.partition("=")
    if not sign or not key.strip():
        raise RecipeError(f"{text!r} is no override; write key=value, for example training.max_steps=20")
    parsed = parse_value(text, value)
    *parents, last = key.strip().split(".")
    place: Any = tree
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place
        if place is None or not isinstance(place, dict):
            raise RecipeError(f"override {text!r}: {part} holds no keys")
    if last == "student":  # the other name of the policy must not stand beside it
        place.pop("policy", None)
    if last == "policy":
        place.pop("student", None)
    if last in ("seed", "seeds") and place is tree:
        place.pop({"seed": "seeds", "seeds": "seed"}[last], None)
    place[last] = parsed
