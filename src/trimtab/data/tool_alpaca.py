"""ToolAlpaca's files (arXiv:2306.05301) as trajectories: a row is an API with its functions and many tasks."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from trimtab.data.sources import DataError
from trimtab.data.trajectories import CALL, CONCLUDE, NO_ANSWER, Call, Step, Trajectory, action, planned

PARAMETERS = re.compile(r"\nParameters: (.*?)(?:\nOutput: |\Z)", re.DOTALL)
THOUGHT = re.compile(r"^\s*(?:Thought:)?\s*(.*?)\s*(?:\n?(?:ASSISTANT )?Action:.*)?$", re.DOTALL)
HINT = "\nHint: "


def is_tool_alpaca(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("Function_Description"), Mapping) and ("Instances" in row or "Golden_Answers" in row)


def of_tool_alpaca(row: Mapping[str, Any], where: str) -> Iterator[Trajectory]:
    """The row's trajectories: those of its `Instances`, else the first call of each of its `Golden_Answers`, for later
    ones need what a tool has returned.

    Raises:
        DataError: naming the task that is not as in ToolAlpaca's files.
    """
    api = str(row.get("Name") or "api")
    functions = {name: text for name, text in row["Function_Description"].items() if name != "components"}
    tools = tuple(_tool(name, str(text), where) for name, text in functions.items())
    if "Instances" in row:
        for number, one in enumerate(row["Instances"], start=1):
            if one.get("intermediate_steps"):
                yield Trajectory(tuple(_steps(one, f"{where}: instance {number}")), tools, "", f"{api}-{number}")
        return
    for number, (task, calls) in enumerate(zip(row.get("Instructions") or (), row["Golden_Answers"]), start=1):
        if not calls:
            continue
        first = calls[0]
        if not isinstance(first, Mapping) or not {"Action", "Action_Input"} <= set(first):
            raise DataError(f"{where}: golden answer {number} has no Action and Action_Input")
        steps = (Step("user", task), Step("assistant", planned("", CALL)), Step("caller", _call(first)))
        remarks = Counter({"calls behind the first are left out, for no observation is there": len(calls) - 1})
        yield Trajectory(steps, tools, "", f"{api}-{number}", +remarks)


def _call(given: Mapping[str, Any]) -> str:
    return action(Call(str(given["Action"]), str(given["Action_Input"])))


def _steps(one: Mapping[str, Any], where: str) -> Iterator[Step]:
    yield Step("user", str(one.get("input") or "").rsplit(HINT, 1)[0])
    for step in one["intermediate_steps"]:
        try:
            (name, arguments, log), result = step
        except (TypeError, ValueError):
            raise DataError(f"{where}: a step is [[tool, arguments, log], result], this one is {step!r:.80}") from None
        found = THOUGHT.match(str(log))
        yield Step("assistant", planned(found[1] if found else "", CALL))
        yield Step("caller", action(Call(str(name), str(arguments))))
        yield Step("observation", str(result))
    yield Step("assistant", planned(str(one.get("Final Thought") or ""), CONCLUDE))
    yield Step("conclusion", str(one.get("output") or NO_ANSWER))


def _tool(name: str, text: str, where: str) -> dict[str, Any]:
    """A function from its description, with "Parameters: {name: "type. description"}" on a line of its own."""
    found = PARAMETERS.search(text)
    try:
        given = json.loads(found[1]) if found else {}
    except ValueError:
        raise DataError(f"{where}: the parameters of {name} are no JSON") from None
    properties = {}
    for argument, said in given.items():
        kind, _, more = str(said).partition(". ")
        properties[argument] = {"type": kind.strip(".").lower(), "description": more}
    function = {
        "name": name,
        "description": text.partition("\nParameters:")[0],
        "parameters": {"type": "object", "properties": properties, "required": []},
    }
    return {"type": "function", "function": function}
