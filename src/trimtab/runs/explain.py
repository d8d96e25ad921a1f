"""Explain keys of recipes: type, default and help, and which shipped recipes use them."""

import types
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trimtab.common.errors import closest
from trimtab.common.yaml_text import read_tree
from trimtab.runs.keys import could_mean, training
from trimtab.runs.recipe import Recipe, RecipeError, Stages
from trimtab.runs.shipped import recipe_folder, shipped
from trimtab.train import keys as training_keys
from trimtab.train.described import Argument, arguments

OF_STAGES = {
    "seeds": ("list[int]", "none", "Instead of `seed`: run the recipe once per seed, in folders OUTPUT-seed0 ..."),
    "stages": ("list of recipes", "none", Stages.__doc__ or ""),
    "stages.name": ("str", "the method", "Name of a stage: its folder in the output, and `@NAME` in later stages."),
    "stages.use": (
        "str",
        "none",
        "A shipped recipe or a file: the stage is that recipe, trained once for all recipes that use it. Keys next to "
        "it override its own.",
    ),
}
OF_LORA = "PEFT's LoraConfig"
OWN_HELP = {
    "bf16": "Autocast to bfloat16. Off unless a recipe asks for it, on a GPU too; TRL switches it on.",
    "gradient_checkpointing": "Recompute activations in the backward pass: less memory, slower steps. Off unless a "
    "recipe asks for it, on a GPU too; TRL switches it on.",
    "disable_dropout": "Train without the policy's dropout. By default dropout is off for methods that learn a ratio "
    "to stored log-probabilities.",
    "share_prefixes": "Read what rows of a batch have in common at their beginning once: the turns of one "
    "conversation, the two answers of a pair. Values and gradients are those of whole rows, up to rounding.",
}
DEFAULTS_IN_WORDS = {
    "output": "runs/NAME, for the recipe NAME.yaml",
    "stages": "none",
    "models.policy.layers": "required if models.policy is a mapping",
    "reward.name": "required in each reward",
}
"""of keys that their models call required"""
YAML_WORDS = {"None": "null", "True": "true", "False": "false"}
OWN_DEFAULTS = {"default_optim": "adamw_torch_fused", "disable_dropout": "null", "share_prefixes": "false"}
"""defaults in words, where the source has only a name"""


@dataclass(frozen=True)
class Explained:
    """A key of a recipe."""

    key: str
    kind: str
    default: str
    help: str
    of: str = ""
    """the method whose option it is, or the loop whose training argument it is"""


def all_keys(methods_named: Iterable[str] | None = None) -> list[Explained]:
    """Every key of a recipe, in the order of its sections.

    Args:
        methods_named: whose options and training arguments; those of all by default.
    """
    from trimtab import methods

    named = list(methods.names() if methods_named is None else methods_named)
    found = [*_of_model(Recipe, "")]
    for name in named:
        found += [
            Explained(f"options.{key}", shown_kind(one.annotation), _default(one), _words(one.description), name)
            for key, one in methods.load(name).config.model_fields.items()
        ]
    found += list(_of_training(named))
    lora = arguments("LoraConfig")
    found += [
        Explained(f"models.lora.{k}", one.kind, _as_yaml(one.default), one.help, OF_LORA) for k, one in lora.items()
    ]
    return [*found, *(Explained(key, *said) for key, said in OF_STAGES.items())]


def explain(key: str, methods_named: Iterable[str] | None = None) -> list[Explained]:
    """What a key means: one explanation, or several if its section is missing or several methods have it.

    Raises:
        RecipeError: if there is no such key, with a suggestion.
    """
    known = all_keys(methods_named)
    if found := [one for one in known if _matches(one.key, key)]:
        return found
    sections: dict[str, list[str]] = {}
    for one in known:
        section, _, name = one.key.rpartition(".")
        if one.of == OF_LORA or name == "NAME":
            continue
        sections.setdefault(section, []).append(name)
    if meant := could_mean(key, sections) if "." not in key else []:
        exact = [one for one in known if one.key in meant and one.key.rpartition(".")[2] == key]
        return exact or [one for one in known if one.key in meant]
    every = list(dict.fromkeys(one.key for one in known))
    close = closest(key, every)
    if close is None:  # the section may be wrong as well
        last = {one.rpartition(".")[2]: one for one in every}
        close = last.get(closest(key.rpartition(".")[2], last) or "")
    said = f"did you mean {close!r}?" if close else "trimtab show train lists all keys"
    raise RecipeError(f"a recipe has no key {key!r}; {said}")


def _matches(pattern: str, key: str) -> bool:
    """`eval.suites.NAME.limit` matches any suite."""
    wanted, given = pattern.split("."), key.split(".")
    return len(wanted) == len(given) and all(part in (one, "NAME") for one, part in zip(given, wanted))


def keys_below(key: str, methods_named: Iterable[str] | None = None) -> list[Explained]:
    """The keys of a section; none for a key that is not a section."""
    depth = key.count(".") + 1
    known = all_keys(methods_named)
    return [one for one in known if one.key.count(".") >= depth and _matches(_first(one.key, depth), key)]


def _first(key: str, parts: int) -> str:
    return ".".join(key.split(".")[:parts])


def used_by(key: str, method: str = "") -> list[str]:
    """Shipped recipes that set the key.

    Args:
        method: only runs of this method, for its options.
    """
    parts = key.split(".")
    found = []
    for name in shipped():
        tree = read_tree(recipe_folder() / f"{name}.yaml", RecipeError)
        runs = [tree, *(stage for stage in tree.get("stages") or ())]
        if parts[0] == "stages" and len(parts) > 1:
            runs, wanted = runs[1:], parts[1:]
        else:
            wanted = parts
        of = [run for run in runs if not method or run.get("method", tree.get("method")) == method]
        if any(_stands(run, wanted) for run in of):
            found.append(name)
    return found


def _stands(tree: Any, parts: list[str]) -> bool:
    if isinstance(tree, list):
        return any(_stands(one, parts) for one in tree)
    if not parts:
        return True
    if not isinstance(tree, Mapping):
        return False
    if parts[0] == "NAME":
        return any(_stands(one, parts[1:]) for one in tree.values())
    names = {parts[0], *({"policy", "student"} if parts[0] in ("policy", "student") else ())}
    names |= {"from"} if parts[0] == "source" else set()
    return any(_stands(tree[name], parts[1:]) for name in names & tree.keys())


def _of_model(kind: type[BaseModel], at: str) -> Iterator[Explained]:
    for name, one in kind.model_fields.items():
        key = f"{at}{'from' if name == 'source' else name}"
        default = DEFAULTS_IN_WORDS.get(key) or _default(one)
        yield Explained(key, shown_kind(one.annotation), default, _words(one.description))
        for inner in _models_in(one.annotation):
            many = get_origin(one.annotation) is dict
            if many:
                yield Explained(f"{key}.NAME", "keys", "see its keys", _words(inner.__doc__))
            yield from _of_model(inner, f"{key}.NAME." if many else f"{key}.")


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]


def _of_training(named: list[str]) -> Iterator[Explained]:
    from trimtab import methods

    loops: list[training_keys.Loop] = sorted({methods.load(name).loop for name in named}, reverse=True)
    of_loop: dict[training_keys.Loop, dict[str, Argument]]
    of_loop = {loop: arguments(training_keys.CONFIG_NAMES[loop]) for loop in loops}
    ours = {**training_keys.DEFAULTS, **training_keys.DEFAULTS_OF_RUNS, "num_train_epochs": 1}  # of runs.check
    for key, kind in training(named).items():
        said: dict[training_keys.Loop, Argument] = {loop: found[key] for loop, found in of_loop.items() if key in found}
        defaults: dict[training_keys.Loop, str]
        defaults = {
            loop: _as_yaml(str(ours.get(key, OWN_DEFAULTS.get(one.default, one.default)))) for loop, one in said.items()
        }
        default = ", ".join(dict.fromkeys(defaults.values()))
        if len(set(defaults.values())) > 1:
            default = ", ".join(f"{value} ({training_keys.OF_LOOP[loop]})" for loop, value in defaults.items())
        if key in training_keys.CHOICES:
            kind = f"one of {', '.join(training_keys.values_of(training_keys.CHOICES[key]))}"
        words = OWN_HELP.get(key) or next((one.help for one in said.values()), "")
        one_loop = len(said) < len(loops) and key not in training_keys.ADDED
        only = " and ".join(training_keys.OF_LOOP[loop] for loop in said) if one_loop else ""
        yield Explained(f"training.{key}", kind, OWN_DEFAULTS.get(key, default), words, only)


def _default(one: FieldInfo) -> str:
    if one.is_required():
        return "required"
    if one.default_factory is not None:
        return "see its keys"
    return "empty" if one.default in ({}, []) else _as_yaml(str(one.default))


def _as_yaml(default: str) -> str:
    return YAML_WORDS.get(default, default)


def _words(text: str | None) -> str:
    return " ".join((text or "").split())


def shown_kind(annotation: Any) -> str:
    """A type as users write its values."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return shown_kind(inside[0])
    if origin is Literal:
        return " | ".join(map(str, inside))
    if origin in (Union, types.UnionType):
        return " | ".join(shown_kind(one) for one in inside)
    if annotation in (None, type(None)):
        return "null"
    if origin in (list, dict, tuple):
        return f"{origin.__name__}[{', '.join(map(shown_kind, inside))}]"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "keys"
    return "any" if annotation is Any else getattr(annotation, "__name__", str(annotation))
