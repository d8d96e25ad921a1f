"""Calls of tools, held against the JSON schemas of the tools: what is wrong with one, in words that help to mend it."""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, NoReturn

from trimtab.common.errors import UserError, closest

KINDS = {
    "string": "a text", "integer": "a whole number", "number": "a number", "boolean": "true or false",
    "array": "a list", "object": "a mapping", "null": "null",
}  # fmt: skip
ALIASES = {
    "str": "string", "text": "string", "int": "integer", "float": "number", "double": "number", "bool": "boolean",
    "list": "array", "tuple": "array", "dict": "object", "none": "null",
}  # fmt: skip
"""types as schemas of data sets name them"""
ELSEWHERE = {"patternProperties", "allOf", "anyOf", "oneOf", "$ref", "if"}
"""keys of a schema by which it may have other arguments than its `properties`"""
LONGEST = 200
"""characters of what a call got wrong that are repeated"""


class CallFault(UserError):
    """A call that no tool can take; the message is what its caller is told."""


def schema_of(name: str, schemas: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The schema of a tool's arguments.

    Raises:
        CallFault: if no tool has that name, with the nearest ones.
    """
    known = {own["name"]: own for own in (one.get("function", one) for one in schemas)}
    if name not in known:
        close = closest(name, known)
        listed = f"the tools are {', '.join(known)}" if known else "there are no tools"
        raise CallFault(f"there is no tool {_short(name)}; {f'did you mean {close!r}?' if close else listed}")
    return known[name].get("parameters") or {}


def arguments_of(name: str, arguments: str | Mapping[str, Any], schemas: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The arguments of a call, from their JSON.

    An argument that the schema does not name is refused, unless it allows others explicitly.

    Raises:
        CallFault: for an unknown tool, arguments that are no JSON or no mapping, and those that the schema refuses.
    """
    schema = schema_of(name, schemas)
    given: Any = arguments
    if isinstance(arguments, str):
        try:
            given = json.loads(arguments, parse_constant=_refused)
        except RecursionError:
            raise CallFault(f"the arguments of {name} are nested too deeply") from None
        except ValueError as error:
            raise CallFault(f"the arguments of {name} are no JSON: {error}") from None
    if not isinstance(given, Mapping):
        kind = KINDS[_kind(given)]
        raise CallFault(f"the arguments of {name} are {kind}; write a mapping of their names to values, such as {{}}")
    _check(name, given, schema)
    return dict(given)


def _refused(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no value of JSON")


def _check(name: str, given: Mapping[str, Any], schema: Mapping[str, Any]) -> None:
    from jsonschema.exceptions import best_match

    checked = _validator(name, json.dumps(schema))
    known = schema.get("properties") or {}
    for key in schema.get("required") or ():
        if key not in given:
            takes = f"; it takes {', '.join(known)}" if len(known) > 1 else ""
            raise CallFault(f"{name} needs the argument {key!r}{takes}")
    if not schema.get("additionalProperties") and not ELSEWHERE & schema.keys():
        for key in given:
            if key not in known:
                close = closest(key, known)
                takes = f"it takes {', '.join(known) or 'none'}"
                hint = f"did you mean {close!r}?" if close else takes
                raise CallFault(f"{name} has no argument {_short(key)}; {hint}")
    try:
        error = best_match(checked.iter_errors(dict(given)))
    except Exception as failed:  # a reference to another document, a pattern that is none: of several libraries
        raise CallFault(f"the arguments of {name} cannot be checked: {str(failed)[:LONGEST]}") from failed
    if error is None:
        return
    place = ".".join(map(str, error.absolute_path)) or "the arguments"
    if error.validator == "type":
        wanted = [error.validator_value] if isinstance(error.validator_value, str) else error.validator_value
        said = f"it must be {' or '.join(KINDS.get(one, one) for one in wanted)}"
    elif error.validator == "enum":
        said = f"it must be one of {', '.join(map(str, error.validator_value))}"[:LONGEST]
    else:
        said = error.message[:LONGEST]
    raise CallFault(f"{place} of {name} is {_short(error.instance)}; {said}")


@lru_cache(256)
def _validator(name: str, text: str) -> Any:
    from jsonschema import SchemaError
    from jsonschema.validators import Draft202012Validator, validator_for

    schema = _checkable(json.loads(text))
    valid = validator_for(schema, default=Draft202012Validator)
    try:
        valid.check_schema(schema)
    except SchemaError as error:
        raise CallFault(f"the schema of {name} is no JSON schema: {error.message[:LONGEST]}") from None
    return valid(schema)


def _checkable(schema: Any) -> Any:
    """A schema in which "nullable", as `get_json_schema` writes None, has become a type. Types by the names of Python
    or in capitals are those of JSON, and others are left out."""
    if isinstance(schema, list):
        return [_checkable(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _checkable(value) for key, value in schema.items()}
    kinds = made.get("type")
    if isinstance(kinds, str | list):
        given = [kinds] if isinstance(kinds, str) else kinds
        known = [ALIASES.get(one.lower(), one.lower()) for one in map(str, given)]
        made["type"] = known if isinstance(kinds, list) else known[0]
        if not set(known) <= KINDS.keys():
            del made["type"]
    if isinstance(made.get("nullable"), bool):
        return {"anyOf": [made, {"type": "null"}]} if made.pop("nullable") else made
    return made


def _kind(value: Any) -> str:
    """Of a value of JSON."""
    kinds = {bool: "boolean", str: "string", int: "integer", float: "number", list: "array", type(None): "null"}
    return kinds.get(type(value), "object")


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."
