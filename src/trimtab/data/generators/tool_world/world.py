"""A small world: tools over a state that is plain JSON, and whether an agent has done in it what it was asked to do."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from trimtab.common.errors import UserError
from trimtab.data.generators.tool_world import apps, unseen_apps
from trimtab.data.generators.tool_world.apps import App, Refused, State
from trimtab.data.tool_arguments import CallFault, arguments_of
from trimtab.data.trajectories import GIVE_UP, Call, Step, call_of, name_of, thought_of

SEEN: tuple[type[App], ...] = (
    apps.Calendar, apps.Weather, apps.Shop, apps.Calculator, apps.Units, apps.Files, apps.Staff, apps.Contacts,
    apps.Money,
)  # fmt: skip
UNSEEN: tuple[type[App], ...] = (unseen_apps.Bank, unseen_apps.Trains, unseen_apps.Library, unseen_apps.Home)
OWNERS: dict[str, type[App]] = {tool: app for app in (*SEEN, *UNSEEN) for tool in app.tools}
"""tool -> the app it belongs to"""
FAILED = "error: "
"""how an observation of a call begins that failed"""


class WorldError(UserError):
    """A row or a state that no world can be made of."""


class World:
    """Tools that can be called.

    Args:
        state: of the apps, as the column `world` of a row holds it in JSON.
        tools: the names of those that are offered; all of the apps in the state if not given.

    Raises:
        WorldError: for an unknown tool, or one whose app the state lacks.
    """

    def __init__(self, state: Mapping[str, Any], tools: Sequence[str] | None = None):
        self._state: State = _copy(state)
        self._apps = {app.name: app(self._state) for app in (*SEEN, *UNSEEN) if app.name in self._state}
        self.tools = [one for app in self._apps.values() for one in app.tools] if tools is None else list(tools)
        for tool in self.tools:
            if tool not in OWNERS or OWNERS[tool].name not in self._apps:
                raise WorldError(f"the world has no tool {tool!r}; its apps are {', '.join(self._apps)}")

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """JSON schemas of the tools, as chat templates read them."""
        return schemas_of(self.tools)

    def state(self) -> State:
        """A copy of the state as it is now."""
        return _copy(self._state)

    def call(self, name: str, arguments: str | Mapping[str, Any]) -> str:
        """What a tool returns, in one line; errors begin with "error: " and change nothing."""
        return self.run(name, arguments)[0]

    def run(self, name: str, arguments: str | Mapping[str, Any]) -> tuple[str, bool]:
        """What a tool returns, and whether the call failed."""
        try:
            given = arguments_of(name, arguments, [_schema(tool) for tool in self.tools])
            return getattr(self._apps[OWNERS[name].name], name)(**given), False
        except (CallFault, Refused) as error:
            return f"{FAILED}{' '.join(str(error).split())}", True


def _copy(state: Mapping[str, Any]) -> State:
    return json.loads(json.dumps(state))


def schemas_of(tools: Sequence[str]) -> list[dict[str, Any]]:
    return [_copy(_schema(tool)) for tool in tools]


@lru_cache
def _schema(tool: str) -> dict[str, Any]:
    from transformers.utils.chat_template_utils import get_json_schema

    made = get_json_schema(_bound(tool))
    made["function"].pop("return", None)
    return made


def _bound(tool: str) -> Callable[..., Any]:
    """The method without its `self`, which is no argument."""
    app = OWNERS[tool]
    return getattr(object.__new__(app), tool)


# ---------------------------------------------------------------- checking


class TaskOutcome(NamedTuple):
    """What a trajectory did."""

    calls: tuple[Call, ...]
    answer: str | None
    """None if there is none"""
    gave_up: bool


def outcome_of(steps: Sequence[Step]) -> TaskOutcome:
    """Of the turns of a trajectory."""
    calls = tuple(call_of(step.value) for step in steps if step.role == "caller")
    last = steps[-1] if steps else Step("user", "")
    answer = last.value if last.role == "conclusion" else None
    gave_up = last.role == "assistant" and thought_of(last.value)[1] == GIVE_UP
    return TaskOutcome(calls, answer, gave_up)


def check(row: Mapping[str, Any], steps: Sequence[Step]) -> dict[str, bool]:
    """Whether a trajectory, of whatever agent, has done what a row of `trimtab:tools` asks for: `check_outcome`."""
    return check_outcome(row, outcome_of(steps))


def check_outcome(row: Mapping[str, Any], done: TaskOutcome) -> dict[str, bool]:
    """Whether a row's task was done, by calling the tools again in a fresh world.

    Returns:
        `state`: the world has become what it should. `answer`: every fact of `answer` was returned by a call that did
        not fail, and is said in the answer as it stands there; of a task that must be given up: they were returned by
        any call, and it was given up. `success`: both.

    Raises:
        WorldError: if the row is none of `trimtab:tools`.
    """
    try:
        start, final = json.loads(row["world"]), json.loads(row["final"])
        facts, gives_up = list(row["answer"]), bool(row["gives_up"])
        tools = row["tools"] if isinstance(row["tools"], list) else json.loads(row["tools"])
        world = World(start, [name_of(tool) for tool in tools])
    except (KeyError, TypeError, ValueError) as error:
        raise WorldError(f"no row of trimtab:tools: {type(error).__name__}: {error}") from error
    returned = [world.run(call.name, call.arguments) for call in done.calls]
    observations = [text for text, failed in returned if gives_up or not failed]  # an error may repeat a guess
    seen = all(any(says(text, fact) for text in observations) for fact in facts)
    if gives_up:
        answer = done.gave_up and seen
    else:
        answer = seen and done.answer is not None and all(says(done.answer, fact) for fact in facts)
    state = world.state() == final
    return {"state": state, "answer": answer, "success": state and answer}


def says(text: str, fact: str) -> bool:
    """Whether a fact stands in a text, as whole words and numbers: 12 is not said by 12.5 or 120."""
    wanted = r"\s+".join(map(re.escape, fact.casefold().split()))
    return re.search(rf"(?<![\w.]){wanted}(?!\w|[.,]\d)", text.casefold()) is not None
