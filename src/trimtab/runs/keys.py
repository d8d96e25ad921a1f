"""The keys of a recipe by section, found without importing torch where possible."""

from collections.abc import Container, Iterable, Mapping
from typing import Any

from trimtab.common.errors import UserError
from trimtab.runs.models_key import Models
from trimtab.runs.recipe import Data, Eval, Recipe, Stages
from trimtab.train import keys as training_keys

SECTIONS = {"models": Models, "data": Data, "eval": Eval}
TOP = (*Recipe.model_fields, "seeds", "stages")
assert set(Stages.model_fields) <= set(TOP)


def training(methods_named: Iterable[str] = ()) -> dict[str, str]:
    """Keys under `training` and their declared types, for the loops of these methods, or for both."""
    from trimtab import methods

    loops: set[training_keys.Loop] = set()
    for name in methods_named:
        try:
            loops.add(methods.load(name).loop)
        except UserError:  # reported when the recipe is checked
            continue
    return training_of(loops or training_keys.CONFIG_NAMES)


def training_of(loops: Container[training_keys.Loop]) -> dict[str, str]:
    """The same for loops that are known."""
    found: dict[str, str] = {}
    for loop, name in training_keys.CONFIG_NAMES.items():
        if loop not in loops:
            continue
        declared = training_keys.declared(name)
        taken = {*training_keys.OURS, *training_keys.NOT_BUILT} - training_keys.USED_BY_ROLLOUTS
        if loop == "rollouts":
            base = training_keys.declared("TrainingArguments")
            taken |= {key for key in declared if key not in base and key not in training_keys.USED_BY_ROLLOUTS}
        found |= {key: kind for key, kind in declared.items() if key not in taken}
    found.pop("local_rank", None)  # that of `accelerate launch`
    return found | {key: kind.__name__ for key, kind in training_keys.ADDED.items()}


def methods_of(tree: Mapping[str, Any]) -> list[str]:
    """Names of the methods in a recipe's tree, including its stages'."""
    stages = tree.get("stages")
    parts = [tree, *(one for one in stages if isinstance(one, Mapping))] if isinstance(stages, list) else [tree]
    return list(dict.fromkeys(part["method"] for part in parts if isinstance(part.get("method"), str)))


def sections(tree: Mapping[str, Any]) -> dict[str, list[str]]:
    """Section -> its keys, for a recipe with this tree's methods."""
    from trimtab import methods

    found = {name: [*kind.model_fields] for name, kind in SECTIONS.items()}
    found["models"].append("student")
    named = methods_of(tree)
    found["training"] = list(training(named))
    options: list[str] = []
    for name in named:
        try:
            options += methods.load(name).config.model_fields
        except UserError:  # told where the recipe is checked
            continue
    found["options"] = list(dict.fromkeys(options))
    return found


def could_mean(key: str, known: Mapping[str, Iterable[str]]) -> list[str]:
    """Full names of the keys that a key without its section could mean.

    Those of that name; and, of other sections, those that end in the same words, or of which it is the initials:
    `batch_size` is a key of eval and the end of training.per_device_train_batch_size, and `lr` is learning_rate.
    """
    exact = [section for section, keys in known.items() if key in keys]
    wider = [
        f"{section}.{name}"
        for section, keys in known.items()
        for name in keys
        if section not in exact and (name.endswith(f"_{key}") or _initials(name) == key)
    ]
    return [*(f"{section}.{key}" for section in exact), *wider]


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split("_") if word)
