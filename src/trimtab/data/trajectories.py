"""Trajectories of tool agents: what users, planner, caller, tools and summariser said, one after another.

Read from messages with `tool_calls`, from alpha-UMi's normalised form (arXiv:2401.07324) and from ToolBench's files;
written as messages or as the normalised form.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

from trimtab.data.messages import REASONING, Message, messages_of, text_of, tools_of
from trimtab.data.sources import DataError

Role = Literal["user", "assistant", "caller", "observation", "conclusion"]
"""`assistant` is the planner, `observation` what a tool has returned"""
CALL, CONCLUDE, GIVE_UP = "Next: caller.", "Next: conclusion.", "Next: give up."
"""how a planner's turn ends: who speaks next"""
ACTION, INPUT = "Action:", "Action Input:"
NO_ANSWER = "none"
"""the conclusion of a trajectory that has none"""
INVALID = "invalid_hallucination_function_name"
"""what ToolBench's files have in place of the name of a tool that is not there"""
FINISH = "Finish"
"""ToolBench's function that ends a trajectory"""
NAME, DESCRIPTION = 64, 256
"""characters of a tool's name and of a description that the paper keeps"""
SYSTEM, TOOLS = ("system", "developer"), ("tool", "function", "ipython")
"""roles of messages"""


class Step(NamedTuple):
    """One turn."""

    role: Role
    value: str


@dataclass(frozen=True)
class Trajectory:
    """A conversation of an agent, with the tools that it was given."""

    steps: tuple[Step, ...]
    tools: tuple[dict[str, Any], ...] = ()
    """JSON schemas, as transformers' chat templates read them"""
    system: str = ""
    """what the row's own system message says"""
    id: str = ""
    remarks: Counter = field(default_factory=Counter, compare=False)
    """what was read otherwise than it stands, by reason"""

    @property
    def instruction(self) -> str:
        return next((step.value for step in self.steps if step.role == "user"), "")

    @property
    def names(self) -> list[str]:
        return [name_of(tool) for tool in self.tools]


class Call(NamedTuple):
    """What a caller asks for."""

    name: str
    arguments: str
    """JSON, as it was written"""


# ---------------------------------------------------------------- the paper's texts


def planned(thought: str, following: str) -> str:
    """A planner's turn."""
    return f"{thought}\n {following}" if thought else f" {following}"


def thought_of(value: str) -> tuple[str, str | None]:
    """A planner's thought, and who speaks next: the first of give up, conclusion, caller that stands in the turn; None
    where none does."""
    for following in (GIVE_UP, CONCLUDE, CALL):
        before, mark, _ = value.partition(following)
        if mark:
            return before.strip(), following
    return value.strip(), None


def action(call: Call) -> str:
    """A caller's turn."""
    return f"{ACTION} {call.name}\n{INPUT} {call.arguments}"


def call_of(value: str) -> Call:
    """What a caller's turn asks for, "none" and {} where there is nothing; arguments may hold the marks themselves."""
    behind = value.partition(ACTION)
    name, mark, arguments = behind[2].partition(INPUT)
    return Call(name.strip() if behind[1] else "none", arguments.strip() if mark else "{}")


# ---------------------------------------------------------------- reading


def trajectory(row: Mapping[str, Any], where: str) -> Trajectory:
    """A row in any of the three forms.

    Raises:
        DataError: if it is in none, or its turns make no trajectory.
    """
    if isinstance(row.get("answer_generation"), Mapping):
        return from_toolbench(row, where)
    if "conversations" in row:
        return from_normalised(row, where)
    if "messages" in row:
        return from_messages(row, where)
    raise DataError(
        f"{where}: a trajectory is a row with messages and tools, with conversations (user, assistant, caller, "
        f"observation, conclusion), or of ToolBench's files; this row has {', '.join(map(str, row)) or 'nothing'}"
    )


def from_normalised(row: Mapping[str, Any], where: str) -> Trajectory:
    """Of alpha-UMi's form: `conversations` of {from, value}, `tools` as schemas or as {Name, function, input}."""
    turns = row["conversations"]
    if not isinstance(turns, list) or not turns:
        raise DataError(f"{where}: conversations must be a list of turns, each with 'from' and 'value'")
    steps = []
    for number, turn in enumerate(turns, start=1):
        given: Mapping[str, Any] = turn if isinstance(turn, Mapping) else {}
        role: Any = given.get("from")
        value: Any = given.get("value")
        if role not in get_args(Role) or not isinstance(value, str | None):
            known = ", ".join(get_args(Role))
            raise DataError(
                f"{where}: turn {number} of conversations is from {role!r}; expected one of {known}, with a text as "
                "'value'"
            )
        steps.append(Step(role, value or ""))
    tools = tuple(_schema(tool, f"{where}: tool {i}") for i, tool in enumerate(tools_of(row, where) or (), start=1))
    found = Trajectory(tuple(steps), tools, str(row.get("system") or ""), str(row.get("id") or ""))
    return _checked(found, where)


def _schema(tool: Any, where: str) -> dict[str, Any]:
    """A tool as a JSON schema, from that or from the paper's {Name, function, input}."""
    if isinstance(tool, Mapping) and isinstance(tool.get("Name"), str):
        given = tool.get("input") or {}
        if not isinstance(given, Mapping):
            raise DataError(f"{where} ({tool['Name']}) has the input {given!r}; expected argument: 'type, description'")
        properties = {}
        for name, text in given.items():
            kind, _, said = str(text).partition(", ")
            properties[name] = {"type": kind, "description": said} if said else {"type": kind}
        return _function(tool["Name"], str(tool.get("function") or ""), properties, list(properties))
    own = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(own, Mapping) or not isinstance(own.get("name"), str):
        raise DataError(f"{where} has no name; expected a JSON schema of a function, or Name, function and input")
    return dict(tool) if isinstance(tool.get("function"), Mapping) else {"type": "function", "function": dict(own)}


def _function(name: str, description: str, properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": dict(properties), "required": list(required)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def from_messages(row: Mapping[str, Any], where: str) -> Trajectory:
    """Of messages with `tool_calls`, arguments as a mapping or as JSON.

    Each of several calls in a message becomes a turn with its own observation. The text of a message of the assistant
    without a call is a conclusion, and its thought the planner's; `give_up: true` marks one that gives up.
    """
    messages = messages_of(row["messages"], "messages", where)
    steps: list[Step] = []
    system: list[str] = []
    remarks: Counter = Counter()
    place = 0
    while place < len(messages):
        message, at = messages[place], f"{where}: message {place + 1} of messages"
        place += 1
        if message["role"] in SYSTEM:
            system.append(message["content"])
        elif message["role"] == "user":
            steps.append(Step("user", message["content"]))
        elif message["role"] != "assistant":
            raise DataError(f"{at} is of role {message['role']!r}, and answers no call; expected user or assistant")
        else:
            behind = place
            while behind < len(messages) and messages[behind]["role"] in TOOLS:
                behind += 1
            steps += _said(message, messages[place:behind], at, remarks)
            place = behind
    tools = tuple(_schema(tool, f"{where}: tool {i}") for i, tool in enumerate(tools_of(row, where) or (), start=1))
    return _checked(Trajectory(tuple(steps), tools, "\n".join(system), str(row.get("id") or ""), remarks), where)


def _said(message: Message, results: Sequence[Message], where: str, remarks: Counter) -> Iterator[Step]:
    """The turns of a message of the assistant, and of the tools that it calls."""
    thoughts = [message[key] for key in REASONING if isinstance(message.get(key), str)]
    calls, content = message.get("tool_calls", []), text_of(message["content"])
    if not calls:
        if results:
            raise DataError(f"{where} calls no tool, and {len(results)} of a tool follow it")
        thought = "\n".join(thoughts)
        if message.get("give_up"):
            yield Step("assistant", planned("\n".join([*thoughts, content] if content else thoughts), GIVE_UP))
            return
        yield Step("assistant", planned(thought, CONCLUDE))
        yield Step("conclusion", content)
        return
    remarks["calls of one message became turns"] += len(calls) > 1
    answers = _paired(calls, results, where)
    for number, (call, answer) in enumerate(zip(calls, answers)):
        thought = "\n".join([*thoughts, content] if content else thoughts) if number == 0 else ""
        yield Step("assistant", planned(thought, CALL))
        given = call["function"]["arguments"]
        arguments = given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)
        yield Step("caller", action(Call(call["function"]["name"], arguments)))
        if answer is not None:
            yield Step("observation", text_of(answer["content"]))


def _paired(calls: Sequence[Mapping[str, Any]], results: Sequence[Message], where: str) -> list[Message | None]:
    """What answers each call: by id where results name one, else in their order."""
    left = list(results)
    found: list[Message | None] = []
    for call in calls:
        named = [one for one in left if one.get("tool_call_id") is not None and one["tool_call_id"] == call.get("id")]
        unnamed = [one for one in left if one.get("tool_call_id") is None or call.get("id") is None]
        own = next(iter([*named, *unnamed]), None)
        if own is not None:
            left.remove(own)
        found.append(own)
    if left:
        raise DataError(
            f"{where} calls {len(calls)} of its tools, and {len(results)} answer, one of them to another call"
        )
    return found


def from_toolbench(row: Mapping[str, Any], where: str) -> Trajectory:
    """Of a file of ToolBench's answers, `answer_generation` with `query`, `function` and `train_messages`; its last
    chain, as in the paper."""
    given = row["answer_generation"]
    chains, functions = given.get("train_messages"), given.get("function")
    if not isinstance(chains, list) or not chains or not isinstance(functions, list):
        raise DataError(
            f"{where}: answer_generation needs train_messages, a list of chains, and function; it was cut off"
        )
    chain = chains[-1] if isinstance(chains[-1], list) else chains
    steps = [Step("user", str(given.get("query") or ""))]
    for number, message in enumerate(chain[2:], start=3):
        steps += _of_toolbench(message, f"{where}: message {number} of the last chain")
    tools = tuple(_shortened(tool) for tool in functions if tool.get("name") != FINISH)
    return _checked(Trajectory(tuple(steps), tools, "", str(row.get("id") or "")), where)


def _of_toolbench(message: Any, where: str) -> Iterator[Step]:
    role = message.get("role") if isinstance(message, Mapping) else None
    content = message.get("content") or "" if role else ""
    if role == "user":
        yield Step("user", content)
    elif role == "function":
        yield Step("observation", _response(content))
    elif role == "assistant" and isinstance(call := message.get("function_call"), Mapping):
        if call.get("name") == FINISH:
            yield from _finished(content, str(call.get("arguments") or ""))
        else:
            yield Step("assistant", planned(content, CALL))
            yield Step("caller", action(Call(str(call.get("name")), str(call.get("arguments") or "{}"))))
    elif role == "assistant":
        yield Step("assistant", planned("", CONCLUDE))
        yield Step("conclusion", content or NO_ANSWER)
    else:
        raise DataError(f"{where} is of role {role!r}; expected user, assistant or function")


def _finished(content: str, arguments: str) -> Iterator[Step]:
    """The end of a chain of ToolBench's; arguments that are no JSON are read as far as they go."""
    try:
        given = json.loads(arguments)
        gives_up = given.get("return_type") == "give_up_and_restart"
        answer = given.get("final_answer") or NO_ANSWER
    except (ValueError, AttributeError):
        gives_up = "give_up_and_restart" in arguments
        _, mark, behind = arguments.partition('"final_answer": ')
        answer = behind.strip(' \n}"') or content or NO_ANSWER if mark else content or NO_ANSWER
    if gives_up:
        yield Step("assistant", planned(content, GIVE_UP))
        return
    yield Step("assistant", planned(content, CONCLUDE))
    yield Step("conclusion", str(answer))


def _response(content: str) -> str:
    """The field "response" of what ToolBench's functions return, or what stands behind its name."""
    try:
        found = json.loads(content).get("response", "")
        return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    except (ValueError, AttributeError):
        return content.partition('"response":')[2].strip()


def _shortened(tool: Mapping[str, Any]) -> dict[str, Any]:
    """A function of ToolBench as the paper documents it: the end of its name, the beginning of what it says it does,
    the end of what it says of an argument; every argument, needed or not."""
    given = (tool.get("parameters") or {}).get("properties") or {}
    properties = {}
    for name, one in given.items():
        said = str(one.get("description") or "")[-DESCRIPTION:]
        properties[name] = {"type": one.get("type", "string"), **({"description": said} if said else {})}
    said = str(tool.get("description") or "")[:DESCRIPTION]
    return _function(str(tool.get("name") or "")[-NAME:], said, properties, list(properties))


def _checked(found: Trajectory, where: str) -> Trajectory:
    if not any(step.role == "user" for step in found.steps):
        raise DataError(f"{where}: nobody asks for anything; a trajectory has a user's turn")
    for number, (before, step) in enumerate(zip((Step("user", ""), *found.steps), found.steps), start=1):
        if step.role in ("caller", "conclusion") and before.role != "assistant":
            raise DataError(f"{where}: turn {number} is of the {step.role}, and no turn of the assistant precedes it")
    if found.steps[-1].role not in ("conclusion", "assistant"):
        found.remarks["ends without an answer"] += 1
    return found


# ---------------------------------------------------------------- writing


def to_normalised(found: Trajectory) -> dict[str, Any]:
    """The row in alpha-UMi's form, with `tools` as schemas."""
    turns = [{"from": step.role, "value": step.value} for step in found.steps]
    more = {key: value for key in ("id", "system") if (value := getattr(found, key))}
    return {**more, "tools": list(found.tools), "instruction": found.instruction, "conversations": turns}


def to_messages(found: Trajectory) -> dict[str, Any]:
    """The row as messages with `tool_calls`; arguments that are no JSON stay texts."""
    messages: list[Message] = [{"role": "system", "content": found.system}] if found.system else []
    steps = list(found.steps)
    called = 0
    for step, behind in zip(steps, [*steps[1:], None]):
        if step.role == "user":
            messages.append({"role": "user", "content": step.value})
        elif step.role == "observation":
            messages.append({"role": "tool", "tool_call_id": f"call_{called}", "content": step.value})
        elif step.role == "assistant":
            messages.append(_message(step, behind))
        elif step.role == "caller":
            called += 1
            call = call_of(step.value)
            function = {"name": call.name, "arguments": _read(call.arguments)}
            messages[-1]["tool_calls"] = [{"type": "function", "id": f"call_{called}", "function": function}]
    return {**({"id": found.id} if found.id else {}), "tools": list(found.tools), "messages": messages}


def _message(step: Step, behind: Step | None) -> Message:
    thought, following = thought_of(step.value)
    if behind is not None and behind.role == "conclusion":
        thinks = {"reasoning_content": thought} if thought else {}
        return {"role": "assistant", "content": behind.value, **thinks}
    gives_up = {"give_up": True} if following == GIVE_UP else {}
    return {"role": "assistant", "content": thought, **gives_up}


def _read(arguments: str) -> Any:
    """A mapping where it would be written as it stands, else the text."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return arguments
    same = isinstance(found, dict) and json.dumps(found, ensure_ascii=False) == arguments
    return found if same else arguments


def documentation(tools: Sequence[Mapping[str, Any]]) -> str:
    """The paper's documentation of tools: one JSON object {Name, function, input} a line."""
    lines = []
    for tool in tools:
        own = tool.get("function", tool)
        given = (own.get("parameters") or {}).get("properties") or {}
        inputs = {
            name: ", ".join(filter(None, [str(one.get("type", "string")), one.get("description")]))
            for name, one in given.items()
        }
        line = {"Name": name_of(tool), "function": own.get("description", ""), "input": inputs}
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return "".join(lines)


def name_of(tool: Mapping[str, Any]) -> str:
    return tool.get("function", tool)["name"]
