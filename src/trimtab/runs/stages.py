"""The stages of a recipe: inherited defaults, references to earlier results, and shared stages."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trimtab import methods
from trimtab.common.yaml_text import read_tree
from trimtab.runs.check import validate
from trimtab.runs.models_key import CACHE
from trimtab.runs.recipe import Recipe, RecipeError, Used
from trimtab.runs.shipped import find

REFERENCE = re.compile(r"(cache:)?@([^/@\s]+)")
"""`@NAME` as a model: the result of the run of that name; `cache:@NAME`: the teacher cache of that stage"""


def runs_of(tree: Mapping[str, Any], where: str, file: Path | None, output: str) -> list[tuple[Recipe, str]]:
    """The runs of a tree, each with its place for messages.

    Args:
        file: that the tree was read from; `use:` looks next to it.
        output: of the recipe, without the seed that the tree's may contain.

    Raises:
        RecipeError: naming the place and the key.
    """
    if "stages" not in tree:
        if "use" in tree:
            raise RecipeError(f"{where}: use belongs in a stage; write stages: [{{use: {tree['use']}}}, ...]")
        _one_policy(tree, where)
        return [(validate(Recipe, refer(tree, {}, beside(output)), where, ()), where)]
    return list(_staged(dict(tree), where, file, output))


def _staged(tree: dict[str, Any], where: str, file: Path | None, output: str) -> Iterator[tuple[Recipe, str]]:
    stages = tree.pop("stages")
    if not isinstance(stages, list) or not all(isinstance(stage, dict) for stage in stages):
        raise RecipeError(f"{where}: stages must be a list of recipes")
    folder, minutes = tree.pop("output"), tree.pop("minutes", None)
    known: dict[str, str] = {}  # name -> the model or the cache that the stage writes
    for number, stage in enumerate(stages):
        own, place = dict(stage), f"{where}: stages[{number}]"
        title = title_of(own, number)
        own.pop("name", None)
        if title in known or "/" in title:
            raise RecipeError(f"{place} needs its own name; {title!r} is taken")
        if "use" in own:
            if minutes is not None:
                raise RecipeError(
                    f"{place}: minutes gives all stages the same number of steps, and a used recipe has its own; "
                    "leave one out"
                )
            recipe = _used(own, title, place, file, output, known)
            known.setdefault(Path(str(stage["use"])).stem, made_by(recipe))
        else:
            full = merge(tree, {**own, "output": f"{folder}/{title}"})
            full = refer(full, known, None, place)
            _one_policy(full, place)
            recipe = validate(Recipe, full, where, ("stages", number))
        known[title] = made_by(recipe)
        yield recipe, place


def made_by(recipe: Recipe) -> str:
    """What a later stage reads of a run: its model, or the teacher cache that it writes."""
    return f"{CACHE}{recipe.output}" if recipe.precompute else f"{recipe.output}/model"


def title_of(stage: Mapping[str, Any], number: int) -> str:
    """The name of a stage: its own, or that of the recipe that it uses, or its method's."""
    used = stage.get("use")
    named = methods.title(str(stage.get("method", number))) if used is None else Path(str(used)).stem
    return str(stage.get("name", named))


def _used(
    own: dict[str, Any], title: str, place: str, file: Path | None, output: str, known: Mapping[str, str]
) -> Recipe:
    """A stage that is another recipe: in the folder shared by all its users or, if keys next to `use` change it, in a
    folder of this recipe."""
    source = own.pop("use")
    if not isinstance(source, str):
        raise RecipeError(f"{place}: use is {source!r}; give the name or the file of a recipe")
    path = _find_used(source, file, place)
    tree = read_tree(path, RecipeError)
    if file is not None and path.resolve() == file.resolve():
        raise RecipeError(f"{place}: {source} uses itself; name another recipe")
    if "stages" in tree or "seeds" in tree:
        back = [one.get("use") for one in tree.get("stages") or () if isinstance(one, dict)]
        circle = file is not None and any(name and _same(name, path, file) for name in back)
        raise RecipeError(
            f"{place}: {source} {'uses this recipe in turn' if circle else 'has several runs itself'}, but a stage is "
            "one run; list its stages here, one by one"
        )
    for key in ("use", "minutes", "precompute"):
        if tree.get(key) is not None:
            raise RecipeError(f"{place}: {source} has {key}, which a stage cannot have; leave it out there")
    shared_in = tree.get("output", f"{beside(output)}/{path.stem}")
    plain = validate(Recipe, refer({**tree, "output": shared_in}, {}, beside(output)), str(path), ())
    changed = merge(tree, _instead(tree, own))
    _one_policy(changed, place)
    changed = refer({**changed, "output": shared_in}, known, beside(output), place)
    recipe = validate(Recipe, changed, place, ())
    shared = recipe == plain
    named = source if file is None or not (file.parent / source).is_file() else str(path)
    recipe.used = Used(named, title, f"{output}/{title}", shared)
    if not shared:
        recipe.output = recipe.used.own
    return recipe


def _find_used(source: str, file: Path | None, place: str) -> Path:
    """The file of a recipe that a stage uses: next to this one, in the working directory, or shipped."""
    near = [] if file is None else [file.parent / source, file.parent / f"{source}.yaml"]
    if found := next((path for path in near if path.is_file()), None):
        return found
    try:
        return find(source)
    except RecipeError as error:
        raise RecipeError(f"{place}: use: {error}") from None


def _same(name: str, beside_it: Path, file: Path) -> bool:
    near = (beside_it.parent / name, beside_it.parent / f"{name}.yaml")
    return any(path.is_file() and path.resolve() == file.resolve() for path in near)


def beside(output: str) -> str:
    """The folder of runs that a recipe shares with others: the parent of its own output."""
    return str(Path(output).parent)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _instead(tree: Mapping[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """Changes under the names that the tree uses: student is an alias of policy."""
    had, given = tree.get("models"), own.get("models")
    if not isinstance(had, Mapping) or not isinstance(given, Mapping):
        return own
    for name, other in (("policy", "student"), ("student", "policy")):
        if name in given and name not in given.keys() & had.keys() and other in had and other not in given:
            given = {**{key: value for key, value in given.items() if key != name}, other: given[name]}
    return {**own, "models": given}


def refer(tree: Mapping[str, Any], known: Mapping[str, str], others: str | None, where: str = "") -> dict[str, Any]:
    """Resolve `@NAME` to the model of the run of that name, and `cache:@NAME` to the teacher cache that it writes: an
    earlier stage, or another recipe.

    Args:
        known: earlier stages and what they write, see `made_by`.
        others: folder of other recipes' runs; None if only stages are meant.

    Raises:
        RecipeError: if there is no such stage, or it writes the other.
    """
    if not isinstance(tree.get("models"), Mapping):
        return dict(tree)
    models = dict(tree["models"])
    for role, value in models.items():
        if isinstance(value, str):
            models[role] = _referred(value, f"models.{role}", known, others, where)
        elif isinstance(value, Mapping) and role != "lora":
            models[role] = {
                key: _referred(one, f"models.{role}.{key}", known, others, where) if isinstance(one, str) else one
                for key, one in value.items()
            }
    return {**tree, "models": models}


def _referred(value: str, key: str, known: Mapping[str, str], others: str | None, where: str) -> str:
    """One name of `refer`; any other is returned as it is."""
    if not value.removeprefix(CACHE).startswith("@"):
        return value
    name, cached = REFERENCE.fullmatch(value), value.startswith(CACHE)
    if name and name[2] in known:
        found = known[name[2]]
        if cached != found.startswith(CACHE):
            made, way = ("a model", f"@{name[2]}") if cached else ("a teacher cache", f"{CACHE}@{name[2]}")
            raise RecipeError(f"{where}: {key} is {value}, but that stage writes {made}; write {way}")
        return found
    if name and others is not None:
        return f"{CACHE}{others}/{name[2]}" if cached else f"{others}/{name[2]}/model"
    raise RecipeError(f"{where}: {key} is {value}, but the earlier stages are: {', '.join(sorted(known)) or 'none'}")


def _one_policy(tree: Mapping[str, Any], where: str) -> None:
    models = tree.get("models")
    if isinstance(models, Mapping) and {"policy", "student"} <= models.keys():
        raise RecipeError(f"{where}: models has both policy and student, which are the same model; leave one out")


def once(runs: Sequence[tuple[Recipe, str]]) -> list[tuple[Recipe, str]]:
    """Drop used stages that an earlier seed already has: they have their own seed."""
    seen: set[str] = set()
    kept = []
    for recipe, place in runs:
        if recipe.used is None or recipe.output not in seen:
            kept.append((recipe, place))
        seen.add(recipe.output)
    return kept
