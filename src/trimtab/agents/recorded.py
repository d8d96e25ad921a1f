"""Tools that answer with what was recorded."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from trimtab.agents.tools import Toolbox, ToolFailed, ToolsError
from trimtab.data.tool_arguments import CallFault, arguments_of
from trimtab.data.trajectories import call_of, name_of, trajectory

OPEN = {"additionalProperties": True}
TYPES = {bool: "boolean", str: "string", int: "integer", float: "number", list: "array", dict: "object"}


class Recorded(Toolbox):
    """Recorded responses: each call gets what was recorded for its name and arguments, the n-th such call the n-th
    response, and further ones the last. What was not recorded is an error that says so.

    Args:
        rows: of `{name, arguments, observation}` with `error: true` for one that failed, of `{tools: [schemas]}`, or
            trajectories, whose tools, calls and observations are taken. A tool without a schema takes the arguments
            that were recorded.
        longest: characters of an observation.
        where: of messages.

    Raises:
        ToolsError: for a row that is none of these.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]], longest: int = Toolbox.longest, where: str = "line"):
        self.longest = longest
        self._schemas: dict[str, dict[str, Any]] = {}
        self._given: dict[str, dict[str, str]] = defaultdict(dict)
        """tool -> argument -> type, of tools without a schema"""
        self._said: dict[tuple[str, str], list[tuple[str, bool]]] = defaultdict(list)
        self._asked: Counter[tuple[str, str]] = Counter()
        for number, row in enumerate(rows, start=1):
            self._take(row, f"{where} {number}")
        self.schemas = list(self._schemas.values())
        for name, given in self._given.items():
            if name not in self._schemas:
                properties = {key: {"type": kind} if kind else {} for key, kind in given.items()}
                parameters = {"type": "object", "properties": properties, "required": []}
                function = {"name": name, "description": "", "parameters": parameters}
                self.schemas.append({"type": "function", "function": function})

    def _take(self, row: Mapping[str, Any], where: str) -> None:
        if any(key in row for key in ("messages", "conversations", "answer_generation")):
            found = trajectory(row, where)
            self._schemas |= {name_of(tool): tool for tool in found.tools}
            for step, behind in zip(found.steps, found.steps[1:]):
                if step.role == "caller" and behind.role == "observation":
                    call = call_of(step.value)
                    self._add(call.name, call.arguments, behind.value, False, where, strict=False)
        elif isinstance(row.get("tools"), list):
            self._schemas |= {name_of(tool): tool for tool in row["tools"]}
        elif isinstance(row.get("name"), str) and {"arguments", "observation"} <= row.keys():
            said = row["observation"]
            text = said if isinstance(said, str) else json.dumps(said, ensure_ascii=False)
            self._add(row["name"], row["arguments"], text, bool(row.get("error")), where)
        else:
            raise ToolsError(
                f"{where}: a recorded response has name, arguments and observation; this one has "
                f"{', '.join(map(str, row)) or 'nothing'}"
            )

    def _add(self, name: str, arguments: Any, text: str, error: bool, where: str, strict: bool = True) -> None:
        try:
            given = arguments_of(name, arguments or {}, [{"name": name, "parameters": OPEN}])
        except CallFault as fault:
            if strict:
                raise ToolsError(f"{where}: {fault}") from None
            return  # of a trajectory in which a call went wrong
        known = self._given[name]
        for key, value in given.items():
            known[key] = TYPES.get(type(value), "")
        self._said[name, _key(given)].append((text, error))

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        place = name, _key(arguments)
        if place not in self._said:
            raise ToolFailed(f"nothing is recorded for {name} with {json.dumps(arguments, ensure_ascii=False)}")
        said = self._said[place]
        text, error = said[min(self._asked[place], len(said) - 1)]
        self._asked[place] += 1
        if error:
            raise ToolFailed(text)
        return text

    def reset(self) -> None:
        """Begin with the first response to each call again."""
        self._asked.clear()


def _key(arguments: Mapping[str, Any]) -> str:
    return json.dumps(arguments, sort_keys=True)
