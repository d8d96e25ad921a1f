"""Apply KEY=VALUE overrides of a command line to a recipe; ambiguous ones are refused."""

from collections.abc import Iterable, Mapping
from typing import Any

from trimtab.common.errors import closest, nearest
from trimtab.common.yaml_text import YamlError, parse_value
from trimtab.runs.keys import TOP, could_mean, sections
from trimtab.runs.recipe import RecipeError
from trimtab.runs.stages import title_of

INSTEAD = {"student": "policy", "policy": "student"}
"""two names of one key"""
NOT_INHERITED = {"output", "minutes", "seed", "seeds", "stages"}


def override_all(tree: dict[str, Any], words: Iterable[str]) -> None:
    """Apply overrides to the tree of a recipe, in order.

    Raises:
        RecipeError: see `override`; or if one would undo an earlier one.
    """
    earlier: list[tuple[str, ...]] = []
    for word in words:
        override(tree, word)
        key = word.partition("=")[0].strip()
        parts = tuple(INSTEAD["student"] if part == "student" else part for part in key.split("."))
        if parts in earlier:
            raise RecipeError(f"override {word!r}: {key} is given twice; give it once")
        if undone := next((one for one in earlier if one[: len(parts)] == parts), None):
            raise RecipeError(f"override {word!r}: {key} is given after {'.'.join(undone)}, which it would undo")
        earlier.append(parts)


def override(tree: dict[str, Any], text: str) -> None:
    """Apply an override to the tree of a recipe.

    Raises:
        RecipeError: if it is malformed, its key is ambiguous, or no run would use it.
    """
    key, sign, value = text.partition("=")
    key = key.strip()
    if not sign or not key:
        raise RecipeError(f"{text!r} is not an override; write key=value, for example training.max_steps=20")
    try:
        parsed = parse_value(text, value)
    except YamlError as error:
        raise RecipeError(str(error)) from None
    parts = key.split(".")
    if parts[0] == "stages" and len(parts) > 1:
        place, parts = _stage(tree, parts[1], text), parts[2:]
        if not parts:
            raise RecipeError(f"override {text!r}: name a key of that stage, such as stages.{key.split('.')[1]}.seed=1")
    else:
        place = tree
        _check_section(tree, parts, text)
        _check_taken(tree, parts, text)
    _put(place, parts, parsed, text)


def _put(place: Any, parts: list[str], value: Any, text: str) -> None:
    top = place
    *parents, last = parts
    for part in parents:
        place = place.setdefault(part, {}) if isinstance(place, dict) else place
        if place is None or not isinstance(place, dict):
            raise RecipeError(f"override {text!r}: {part} has no keys")
    if last in INSTEAD:  # the alias of the policy must not stay next to it
        place.pop(INSTEAD[last], None)
    if last in ("seed", "seeds") and place is top:
        place.pop({"seed": "seeds", "seeds": "seed"}[last], None)
    place[last] = value


def _stage(tree: Mapping[str, Any], name: str, text: str) -> dict[str, Any]:
    """The stage that `stages.NAME.KEY=VALUE` means."""
    stages = tree.get("stages")
    if not isinstance(stages, list) or not all(isinstance(one, dict) for one in stages):
        raise RecipeError(f"override {text!r}: the recipe has no stages")
    titles = [title_of(one, number) for number, one in enumerate(stages)]
    if name in titles:
        return stages[titles.index(name)]
    if name.isdecimal() and int(name) < len(stages):
        return stages[int(name)]
    said = nearest(name, titles, f"the stages are {', '.join(titles)}")
    raise RecipeError(f"override {text!r}: there is no stage {name!r}; {said}")


def _check_section(tree: Mapping[str, Any], parts: list[str], text: str) -> None:
    """Raise a RecipeError for a key without its section, naming the keys that it could mean."""
    if parts[0] in TOP:
        return
    known = sections(tree)
    meant = [".".join([one, *parts[1:]]) for one in could_mean(parts[0], known)]
    if len(meant) > 1:
        raise RecipeError(f"override {text!r} could mean {_or(meant)}; write one of them in full")
    if meant:
        raise RecipeError(f"override {text!r}: {parts[0]} is not a key of the recipe; did you mean {meant[0]}?")
    names = {key: f"{section}.{key}" for section, keys in known.items() for key in keys} | {key: key for key in TOP}
    if len(parts) == 1:
        close = closest(parts[0], names)
        said = f"did you mean {names[close]!r}?" if close else f"known keys: {', '.join(TOP)}"
        raise RecipeError(f"override {text!r}: the recipe has no key {parts[0]!r}; {said}")


def _check_taken(tree: Mapping[str, Any], parts: list[str], text: str) -> None:
    """A key next to stages is only their default: refuse an override that every stage sets itself, as it would do
    nothing."""
    stages = tree.get("stages")
    if not isinstance(stages, list) or parts[0] in NOT_INHERITED or not all(isinstance(one, dict) for one in stages):
        return
    own = [title_of(one, i) for i, one in enumerate(stages) if "use" not in one and _has(one, parts)]
    used = [title_of(one, i) for i, one in enumerate(stages) if "use" in one]
    if len(own) + len(used) < len(stages):
        return
    key = ".".join(parts)
    meant = [f"stages.{title}.{key}" for title in own or used]
    if len(meant) > 1:
        raise RecipeError(
            f"override {text!r} could mean {_or(meant)}: each stage has its own; write one of them in full"
        )
    raise RecipeError(f"override {text!r}: the stages have their own {key}; did you mean {meant[0]}?")


def _has(tree: Any, parts: list[str]) -> bool:
    for part in parts:
        names = {part, INSTEAD.get(part, part)}
        found = next((name for name in names if isinstance(tree, Mapping) and name in tree), None)
        if found is None:
            return False
        tree = tree[found]
    return True


def _or(names: list[str]) -> str:
    shown, more = names[:6], len(names) - 6
    if more > 0:
        return f"{', '.join(shown)} or {more} others"
    return f"{', '.join(shown[:-1])} or {shown[-1]}"
