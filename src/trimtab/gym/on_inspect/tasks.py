"""The gym's tasks as tasks of inspect_ai: an episode's actions are tools, and our evaluation is the scorer.

inspect eval trimtab/gym_df_noisy --model openai/...
inspect eval trimtab/gym -T task=FOLDER --model openai/...
inspect eval trimtab/gym_df_noisy -T agent=scripted --model none/none
"""

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import anyio.to_thread
from inspect_ai import Task, task
from inspect_ai.agent import AgentState, as_solver, react
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageAssistant, ChatMessageTool, CompactionAuto, execute_tools
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, solver
from inspect_ai.tool import ToolCall, ToolDef, ToolParams
from inspect_ai.util import store

from trimtab.common.errors import check_known
from trimtab.gym import actions
from trimtab.gym.actions import Action
from trimtab.gym.agents.react import SYSTEM
from trimtab.gym.agents.scripted import reference
from trimtab.gym.episode import Episode
from trimtab.gym.finding import bundled, find_task, task_folder
from trimtab.gym.observation import GymObservation
from trimtab.gym.task import GymTask, TaskError
from trimtab.gym.trajectory import GymTrajectory, RunFacts, write_result

AgentName = Literal["react", "scripted"]
AGENTS = ("react", "scripted")
KEY = "trimtab_gym"
"""under which the store of a sample names its episode"""


@dataclass
class InspectEpisode:
    """The episode of a sample."""

    episode: Episode
    written: GymTrajectory
    facts: RunFacts
    temporary: tempfile.TemporaryDirectory | None
    """where nothing is to be kept"""

    def step(self, action: Action) -> GymObservation:
        """Carry out an action, and keep the step."""
        began = time.monotonic()
        found = self.episode.step(action)
        self.written.add(self.episode, action, found, time.monotonic() - began)
        return found

    def end(self) -> dict[str, Any]:
        """The final evaluation."""
        self.episode.end()
        return write_result(self.episode, self.facts)

    def close(self) -> None:
        self.episode.close()
        if self.temporary is not None:
            self.episode.remove()
            self.temporary.cleanup()


_open: dict[str, InspectEpisode] = {}
"""of the samples that are being worked on: a store holds no objects"""


def own_episode() -> InspectEpisode:
    """The episode of the sample that this is called for."""
    return _open[store().get(KEY)]


def tools_of(of: GymTask) -> list[ToolDef]:
    """The actions as tools, which find the episode of their sample."""
    return [_tool(schema) for schema in of.tools()]


def _tool(schema: dict[str, Any]) -> ToolDef:
    async def act(**kwargs: Any) -> str:
        action = actions.parse(schema["name"], kwargs)
        return str(await anyio.to_thread.run_sync(own_episode().step, action))

    parameters = ToolParams.model_validate(schema["parameters"])
    return ToolDef(act, schema["name"], schema["description"], parameters, parallel=False, max_output=0)


def gym_task(
    name: str, agent: AgentName = "react", out: str | None = None, unsafe: bool = False, compaction: bool = True
) -> Task:
    """A task of the gym.

    Args:
        name: as `trimtab gym run` takes it.
        agent: react, or scripted for the task's own reference solution.
        out: a folder that keeps the runs, one folder for each sample.
        unsafe: run commands without a sandbox.
        compaction: let react compact a history that grows too long. inspect counts its tokens, for some models by
            files that it downloads.

    Raises:
        TaskError: if there is no such task.
    """
    check_known(agent, AGENTS, "agent", "agents", TaskError)
    found = find_task(name)
    return Task(
        dataset=MemoryDataset([Sample(id=found.name, input=found.description)], name=found.name),
        setup=open_episode(name, agent, out, unsafe),
        solver=scripted(name) if agent == "scripted" else by_react(name, compaction),
        scorer=gym_score(),
        cleanup=close_episode,
        version=found.version(),
        name=f"gym_{found.name.replace('-', '_')}",
    )


@task(name="gym")
def gym(
    task: str, agent: AgentName = "react", out: str | None = None, unsafe: bool = False, compaction: bool = True
) -> Task:
    """A research task in trimtab's gym, by name or folder."""
    return gym_task(task, agent, out, unsafe, compaction)


def _named(name: str) -> Any:
    def make(agent: AgentName = "react", out: str | None = None, unsafe: bool = False, compaction: bool = True) -> Task:
        return gym_task(name, agent, out, unsafe, compaction)

    make.__name__ = make.__qualname__ = f"gym_{name.replace('-', '_')}"
    make.__doc__ = find_task(name).settings.title
    return task(name=make.__name__)(make)


NAMED: dict[str, Any] = {f"gym_{name.replace('-', '_')}": _named(name) for name in bundled()}


@solver
def open_episode(name: str, agent: str, out: str | None, unsafe: bool) -> Solver:
    """Begin the episode of a sample; solvers that use the tools of the state have its actions."""

    async def setup(state: TaskState, generate: Generate) -> TaskState:
        found = find_task(name)
        temporary = None if out else tempfile.TemporaryDirectory(prefix="trimtab-gym-")
        parent = Path(out) if out else Path(temporary.name if temporary else "")
        folder = parent / f"{found.name}-{state.uuid}"
        episode = await anyio.to_thread.run_sync(lambda: Episode(found, folder, unsafe=unsafe))
        model = None if agent == "scripted" else str(state.model)
        facts = RunFacts(f"inspect:{agent}", found.settings.title, model, 0, task_folder(name))
        _open[state.uuid] = InspectEpisode(episode, GymTrajectory(folder), facts, temporary)
        state.store.set(KEY, state.uuid)
        state.tools = [tool.as_tool() for tool in tools_of(found)]
        return state

    return setup


async def close_episode(state: TaskState) -> None:
    """End what runs."""
    if (own := _open.pop(state.uuid, None)) is not None:
        await anyio.to_thread.run_sync(own.close)


@solver
def by_react(name: str, compaction: bool) -> Solver:
    """inspect's ReAct agent, until the episode is over."""
    tools, compact = tools_of(find_task(name)), CompactionAuto() if compaction else None
    return as_solver(react(prompt=SYSTEM, tools=tools, submit=False, on_continue=_goes_on, compaction=compact))


async def _goes_on(state: AgentState) -> bool | str:
    """Whether the episode goes on; what inspect could not read as a call is the action null, with the reason."""
    own = own_episode()
    asked = max(n for n, message in enumerate(state.messages) if isinstance(message, ChatMessageAssistant))
    said = state.messages[asked]
    reasons = [
        message.error.message
        for message in state.messages[asked + 1 :]
        if isinstance(message, ChatMessageTool) and message.error is not None and message.error.type == "parsing"
    ]
    nothing = isinstance(said, ChatMessageAssistant) and not said.tool_calls
    if nothing:
        null = actions.parse(None, None)
        assert isinstance(null, actions.Null)
        reasons = [null.reason]
    for reason in reasons:
        await anyio.to_thread.run_sync(own.step, actions.Null(reason=reason))
    if own.episode.over() is not None:
        return False
    return reasons[0] if nothing else True


@solver
def scripted(name: str) -> Solver:
    """The task's own reference solution, by the same tools."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        for number, move in enumerate(reference(find_task(name)), start=1):
            arguments = move.action.model_dump(mode="json", exclude_unset=True)
            call = ToolCall(f"call_{number}", move.action.name, arguments)
            state.messages.append(ChatMessageAssistant(content="", tool_calls=[call]))
            state.messages += (await execute_tools(state.messages, state.tools)).messages
        return state

    return solve


@scorer(metrics={"final": [mean(), stderr()], "best": [mean()], "private": [mean()]})
def gym_score() -> Scorer:
    """Points from 0 to 100, as `trimtab gym run` gives them: of the final outputs, the best of all submissions, and
    the final outputs on the private split."""

    async def score(state: TaskState, target: Target) -> Score:
        result = await anyio.to_thread.run_sync(_open[state.uuid].end)
        if result["final"] is None:
            raise RuntimeError(f"there is no final score: {result['error']}")
        values = {key: result[key] for key in ("final", "best", "private")}
        return Score(value=values, explanation=result["over"], metadata=result)

    return score
