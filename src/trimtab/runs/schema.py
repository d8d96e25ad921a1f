"""The JSON Schema of recipes, for completion and checks in editors."""

import json
from typing import Any

from pydantic import PydanticUserError, TypeAdapter
from pydantic.json_schema import models_json_schema

from trimtab import methods
from trimtab.runs.explain import OF_STAGES, all_keys
from trimtab.runs.keys import training
from trimtab.runs.recipe import Eval, Recipe
from trimtab.train import keys as training_keys

DRAFT = "http://json-schema.org/draft-07/schema#"
"""the draft that yaml-language-server fully supports"""
OPTIONAL = ("Recipe", "Models", "Data")
"""sections that a stage may complete from the keys next to `stages`"""
SECTIONS = ("models", "data", "options", "training", "eval")


def schema() -> dict[str, Any]:
    """Of a recipe, with stages or without."""
    configs = {name: methods.load(name).config for name in methods.names()}
    refs, made = models_json_schema(
        [(kind, "validation") for kind in (Recipe, Eval, *configs.values())], ref_template="#/definitions/{model}"
    )
    definitions = made["$defs"]
    option_refs = {name: _name(refs[(kind, "validation")]) for name, kind in configs.items()}
    for name, old in option_refs.items():
        definitions[f"options of {name}"] = definitions.pop(old)
    for part in OPTIONAL:
        definitions[part].pop("required", None)
    _allow_both_names(definitions)
    loops = {name: methods.load(name).loop for name in configs}
    for loop in training_keys.CONFIG_NAMES:
        definitions[f"training, {loop}"] = _training([name for name in configs if loops[name] == loop])
    run = definitions.pop("Recipe")
    _with_methods(run, loops)
    definitions["run"] = run
    definitions["stage"] = _stage(run)
    return _draft_7({"$schema": DRAFT, "title": "A recipe of trimtab", "definitions": definitions, **_whole(run)})


def text() -> str:
    """The text of `recipes/schema.json`."""
    return json.dumps(schema(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _name(ref: dict[str, Any]) -> str:
    return ref["$ref"].rpartition("/")[2]


def _allow_both_names(definitions: dict[str, Any]) -> None:
    """Aliases: student for policy, and `from` for source; the role of an agent by itself."""
    roles = definitions["AgentData"]["properties"]["role"]["enum"]
    definitions["Data"]["properties"]["agent"]["anyOf"].append({"enum": roles})
    models = definitions["Models"]["properties"]
    models["student"] = models["policy"]
    cut = definitions["Cut"]["properties"]
    found = cut.get("from") or cut["source"]
    cut |= {"from": found, "source": found}
    suites = definitions["Eval"]["properties"]["suites"]
    suites["additionalProperties"] = {"anyOf": [suites["additionalProperties"], {"type": "null"}]}


def _training(named: list[str]) -> dict[str, Any]:
    said = {one.key.removeprefix("training."): one for one in all_keys(named) if one.key.startswith("training.")}
    keys = {}
    for key, kind in training(named).items():
        keys[key] = {**_typed(key, kind), "description": f"{said[key].help} Default: {said[key].default}".strip()}
    return {"type": "object", "additionalProperties": False, "properties": keys}


def _typed(key: str, kind: str) -> dict[str, Any]:
    """A declared type as a schema; unrestricted if it is not built of numbers, booleans and strings."""
    if key in training_keys.CHOICES:
        return {"enum": list(training_keys.values_of(training_keys.CHOICES[key]))}
    plain = training_keys.plain_type(kind)
    try:
        return {} if plain is None else TypeAdapter(plain).json_schema()
    except PydanticUserError:
        return {}


def _with_methods(run: dict[str, Any], loops: dict[str, str]) -> None:
    """The keys of a run, with options and training arguments by method."""
    keys = run["properties"]
    names = {"enum": list(loops)}
    own = {"type": "string", "pattern": "[./]"}
    keys["method"] = {"anyOf": [names, own], "description": keys["method"]["description"]}
    one = {"anyOf": [{"$ref": "#/definitions/RewardSpec"}, {"type": "string"}]}
    keys["reward"] = {
        "anyOf": [*one["anyOf"], {"type": "array", "items": one}],
        "description": keys["reward"]["description"],
    }
    keys["precompute"]["anyOf"].append({"enum": ["hidden", "topk"]})
    every = ({"$ref": f"#/definitions/training, {loop}"} for loop in training_keys.CONFIG_NAMES)
    keys["training"] = {"anyOf": list(every), "description": keys["training"]["description"]}
    for section in SECTIONS:  # an empty section has its defaults
        keys[section] = {"anyOf": [keys[section], {"type": "null"}], **_said(keys[section])}
    run["allOf"] = [
        {
            "if": {"properties": {"method": {"const": name}}, "required": ["method"]},
            "then": {
                "properties": {
                    "options": {"anyOf": [{"$ref": f"#/definitions/options of {name}"}, {"type": "null"}]},
                    "training": {"anyOf": [{"$ref": f"#/definitions/training, {loop}"}, {"type": "null"}]},
                }
            },
        }
        for name, loop in loops.items()
    ]


def _said(key: dict[str, Any]) -> dict[str, Any]:
    return {"description": key["description"]} if "description" in key else {}


def _stage(run: dict[str, Any]) -> dict[str, Any]:
    """A run as one of several: with a name, or as `use:` of a recipe."""
    more = {name: {"type": "string", "description": OF_STAGES[f"stages.{name}"][2]} for name in ("name", "use")}
    keys = {key: value for key, value in run["properties"].items() if key not in ("output", "minutes")}
    return {**run, "properties": {**more, **keys}, "title": "A stage"}


def _whole(run: dict[str, Any]) -> dict[str, Any]:
    """A recipe: one run, or several stages with their common keys."""
    seeds = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True}
    stages = {"type": "array", "items": {"$ref": "#/definitions/stage"}, "minItems": 1}
    more = {
        "seeds": {**seeds, "description": OF_STAGES["seeds"][2]},
        "stages": {**stages, "description": OF_STAGES["stages"][2]},
    }
    policy = {"anyOf": [{"required": ["policy"]}, {"required": ["student"]}]}
    alone = {
        "required": ["method", "models", "data"],
        "properties": {"models": policy, "data": {"required": ["train"]}},
    }
    return {
        "type": "object",
        "additionalProperties": False,
        "properties": {**run["properties"], **more},
        "allOf": [*run["allOf"], {"if": {"not": {"required": ["stages"]}}, "then": alone}],
    }


def _draft_7(tree: Any) -> Any:
    """Draft 7 ignores keys next to a `$ref`; titles that repeat the key are noise."""
    if isinstance(tree, list):
        return [_draft_7(one) for one in tree]
    if not isinstance(tree, dict):
        return tree
    made = {key: _draft_7(value) for key, value in tree.items() if key != "title" or not isinstance(value, str)}
    if "$ref" in made and len(made) > 1:
        return {"allOf": [{"$ref": made.pop("$ref")}], **made}
    return made
