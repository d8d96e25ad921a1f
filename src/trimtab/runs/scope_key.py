"""The recipe's `scope`: which of the policy's parameters are trained (`trimtab.models.scope` finds them)."""

import re
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, Field

from trimtab.common.options import Strict

if TYPE_CHECKING:
    from trimtab.runs.recipe import Recipe

BLOCKS = ("mlp", "attention")
FORMS = "all, lora, {mlp: [4, 8], parts: [down_proj]} or a pattern of names of parameters"


class Listed(Strict, BaseModel):
    """Single layers."""

    layers: list[Annotated[int, Field(ge=0)]]
    """Numbers of layers, from 0."""


Layers = Literal["all"] | Annotated[int, Field(ge=0)] | list[Annotated[int, Field(ge=0)]] | Listed


class LayerScope(Strict, BaseModel):
    """Blocks of some layers, found by what they do and not by their names."""

    mlp: Layers | None = None
    """Layers whose MLP (or mixture of experts) is trained: `all`; one number; a pair for all layers from the first to
    the second, as [4, 8]; or `{layers: [4, 6, 8]}` for single ones."""
    attention: Layers | None = None
    """The same for attention."""
    parts: list[str] | None = None
    """Weights in these blocks by their names in the model, all of them by default. `down_proj` and `o_proj` are what
    writes the output of an MLP and of attention, whatever a family calls them."""


def _checked(given: Any) -> Any:
    if given is None or isinstance(given, LayerScope):
        return given
    if isinstance(given, str) and given.strip():
        try:
            re.compile(given)
        except re.error as error:
            raise ValueError(f"is {given!r}, which is no pattern ({error}); write {FORMS}") from None
        return given
    if not isinstance(given, dict):
        raise ValueError(f"is {given!r}; write {FORMS}")
    if unknown := [key for key in given if key not in (*BLOCKS, "parts")]:
        raise ValueError(f"has no key {unknown[0]!r}; its keys: mlp, attention, parts")
    blocks = [block for block in BLOCKS if given.get(block) is not None]
    if not blocks:
        raise ValueError("names no block; write mlp or attention with layers, such as {mlp: [4, 8]}")
    for block in blocks:
        _check_layers(given[block], block)
    parts = [given["parts"]] if isinstance(given.get("parts"), str) else given.get("parts")
    if parts is not None and (not isinstance(parts, list) or not parts or not all(isinstance(p, str) for p in parts)):
        raise ValueError(f"has parts {parts!r}; list names of weights, such as [down_proj]")
    return {**given, "parts": parts}


def _check_layers(given: Any, block: str) -> None:
    listed = isinstance(given, dict | Listed)
    numbers = (given.get("layers") if isinstance(given, dict) else given.layers) if listed else given
    if not listed and (numbers == "all" or _is_layer(numbers)):
        return
    if not isinstance(numbers, list) or not numbers or not all(map(_is_layer, numbers)):
        raise ValueError(
            f"has {block}: {given!r}; write all, a layer from 0, a pair for all layers between, or {{layers: [...]}}"
        )
    keys = set(given) if isinstance(given, dict) else {"layers"}
    if listed and keys == {"layers"} and len(set(numbers)) == len(numbers):
        return
    if listed:
        raise ValueError(f"has {block}: {given!r}; write {{layers: [...]}} with each layer once")
    if len(numbers) > 2:
        raise ValueError(
            f"has {block}: {given!r}, and two numbers mean all layers between them; for these {len(numbers)} layers "
            f"write {block}: {{layers: {given!r}}}, for a range the first and the last"
        )
    if len(numbers) == 2 and numbers[0] > numbers[1]:
        raise ValueError(f"has {block}: {given!r}, which ends before it begins; the first layer comes first")


def _is_layer(number: Any) -> bool:
    return type(number) is int and number >= 0


ScopeKey = Annotated[str | LayerScope | None, BeforeValidator(_checked)]


def fault(recipe: "Recipe", trains: str) -> str | None:
    """Why the scope does not fit the rest of the recipe; None if it does.

    Args:
        trains: what the method trains, see `Requirements`.
    """
    scope, lora = recipe.scope, recipe.models.lora
    if scope == "lora" and lora is None:
        return "scope: lora trains adapters only, and the recipe has none; add models.lora, or leave out scope"
    if scope == "all" and lora is not None:
        return "scope: all trains the model's own weights, and models.lora freezes them; leave one of them out"
    if scope in (None, "all", "lora"):
        return None
    if trains == "identity_layer":
        return f"method {recipe.method} trains its identity layer and nothing else; leave out scope"
    for key in ("target_modules", "target_parameters", "layers_to_transform", "layers_pattern", "layer_replication"):
        if lora is not None and lora.get(key) is not None:
            return f"scope and models.lora.{key} both say where adapters are; leave one of them out"
    return None


def asked(recipe: "Recipe") -> str | dict[str, Any] | None:
    """The scope as `trimtab.models.scope.resolve` reads it; None for all that the method trains."""
    scope = recipe.scope
    if scope in (None, "all", "lora"):
        return None
    return scope.model_dump(exclude_none=True) if isinstance(scope, LayerScope) else scope


def said(recipe: "Recipe") -> str | None:
    """As written; None where there is none."""
    found = asked(recipe)
    return recipe.scope if found is None else found if isinstance(found, str) else _words(found)  # type: ignore[return-value]


def _words(found: dict[str, Any]) -> str:
    parts = []
    for key, value in found.items():
        listed = value["layers"] if isinstance(value, dict) else value
        text = f"[{', '.join(map(str, listed))}]" if isinstance(listed, list) else str(listed)
        parts.append(f"{key}: {f'{{layers: {text}}}' if isinstance(value, dict) else text}")
    return f"{{{', '.join(parts)}}}"
