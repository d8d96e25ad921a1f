"""The agent of alpha-UMi (arXiv:2401.07324): planner, caller, tool, and so on until the summariser answers."""

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple, Protocol

from trimtab.agents.roles import Roles
from trimtab.agents.speakers import Spoken
from trimtab.common.errors import UserError
from trimtab.data.agent_roles import CUT, AgentRole, next_prompt
from trimtab.data.trajectories import (
    ACTION,
    CALL,
    CONCLUDE,
    GIVE_UP,
    INPUT,
    Step,
    Trajectory,
    call_of,
    planned,
    thought_of,
    to_normalised,
)

Ended = Literal["conclusion", "gave up", "steps", "context", "stopped"]
"""how a run ends: `steps` and `context` are limits, at which it counts as given up"""
EMPTY = ("", ".", ",")
"""plans that are drawn again"""
TRIES = 5
"""draws of a plan"""
DRAWN, GROWS = 0.5, 0.25
"""temperature of the second draw of an empty plan if that of the agent is lower, and how much each further one adds: a
greedy model would write the same again"""
SIBLING = 0.7
"""least temperature of a second child in a search"""
FAILED = "error: "
"""how observations of failed calls begin"""
CONCLUSION = "conclusion: "
"""how a single model says that it answers"""


AGAIN = ("gave up", "the same plan was drawn before")
"""of a child in a search, which is then left"""


class AgentError(UserError):
    """An agent, or a task, that cannot be run."""


class Observed(Protocol):
    """What a tool has returned."""

    @property
    def text(self) -> str: ...

    @property
    def error(self) -> Any:
        """True where the call failed."""
        ...


class Tools(Protocol):
    """The tools of a task."""

    @property
    def schemas(self) -> Sequence[Mapping[str, Any]]: ...

    def run(self, name: str, arguments: str) -> Observed:
        """Call a tool with arguments as JSON; what is wrong with them is an observation too."""
        ...


class AgentTurn(NamedTuple):
    """A turn that was just written."""

    step: Step
    place: int
    """its number in the trajectory, from 1; one that was taken before in a search means that the turns from there on
    were left"""
    note: str = ""
    """what is to be said of it"""


@dataclass
class RoleTokens:
    """Tokens of a role."""

    texts: int = 0
    read: int = 0
    """tokens of prompts that were read"""
    reused: int = 0
    """tokens of prompts whose keys and values were kept from before"""
    written: int = 0

    def add(self, one: Spoken) -> None:
        self.texts, self.read = self.texts + 1, self.read + one.read
        self.reused, self.written = self.reused + one.reused, self.written + one.written


@dataclass(frozen=True)
class AgentResult:
    """What came of a task."""

    trajectory: Trajectory
    ended: Ended
    answer: str | None
    """None if it was given up"""
    reason: str
    """why it ended"""
    seconds: float
    tokens: Mapping[str, RoleTokens]
    """by role"""
    counts: Counter = field(default_factory=Counter)
    """by what happened: plans without a marker, calls that could not be read, and so on"""
    left: tuple[tuple[Step, ...], ...] = ()
    """whole trajectories of branches that a search has left"""

    def row(self) -> dict[str, Any]:
        """As a training row in the normalised form, with how it ended."""
        more: dict[str, Any] = {"ended": self.ended, "reason": self.reason, "seconds": round(self.seconds, 3)}
        if self.counts:
            more["counts"] = dict(self.counts)
        if self.left:
            more["left"] = [[{"from": one.role, "value": one.value} for one in steps] for steps in self.left]
        return {**to_normalised(self.trajectory), **more}


class Stopped(KeyboardInterrupt):
    """A Ctrl-C during a task; `result` holds what was done."""

    def __init__(self, result: AgentResult):
        super().__init__("stopped")
        self.result = result


@dataclass
class _Node:
    """A planner's turn that is yet to be written, with the turns before it."""

    steps: tuple[Step, ...]
    children: set[str] = field(default_factory=set)
    tried: int = 0


@dataclass
class Agent:
    """Works on tasks with tools.

    Args:
        roles: who speaks.
        toolbox: what they may call.
        max_steps: plans of a trajectory; one that reaches them counts as given up.
        temperature: 0 for greedy. A plan that is empty is drawn up to four times more, at 0.5, 0.75, 1 and 1.25 where
            the temperature is lower, and is then taken as it is, a call, as every plan without a marker.
        max_new_tokens: of a turn.
        observation_limit: characters of an observation that are kept.
        search: `chain` ends where the planner gives up; `dfs` goes back to the last plan with fewer than `width`
            children and draws another.
        max_plans: plans of a whole search; by default five times `max_steps`.
        system: of the trajectory, as its row says it; no role reads it.
    """

    roles: Roles
    toolbox: Tools
    max_steps: int = 12
    temperature: float = 0.0
    seed: int = 0
    max_new_tokens: int = 512
    observation_limit: int = 4000
    search: Literal["chain", "dfs"] = "chain"
    width: int = 2
    max_plans: int | None = None
    system: str = ""

    def __post_init__(self) -> None:
        least = {"max_steps": 1, "max_new_tokens": 1, "observation_limit": 1, "width": 1, "max_plans": 1}
        for name, most in least.items():
            value = getattr(self, name)
            if value is not None and value < most:
                raise AgentError(f"{name} is {value}; it must be at least {most}")
        if not self.temperature >= 0:
            raise AgentError(f"temperature is {self.temperature}; it must be at least 0")
        if self.search not in ("chain", "dfs"):
            raise AgentError(f"search is {self.search!r}; it must be 'chain' or 'dfs'")

    def run(
        self,
        task: str,
        *,
        id: str = "",
        on_turn: Callable[[AgentTurn], Any] | None = None,
        on_text: Callable[[str, str], Any] | None = None,
    ) -> AgentResult:
        """Work on a task.

        Args:
            task: what the user says.
            id: of the trajectory.
            on_turn: gets each turn when it is whole.
            on_text: gets the role and each piece of a text while it is written.

        Raises:
            Stopped: at a Ctrl-C, with what was done.
        """
        if not task.strip():
            raise AgentError("the task is empty; say what the agent is to do")
        return _Work(self, id, on_turn, on_text).go(task)


class _Work:
    """One task."""

    def __init__(self, agent: Agent, id: str, on_turn: Any, on_text: Any):
        self.agent, self.on_turn, self.on_text = agent, on_turn, on_text
        self.found = Trajectory((), tuple(dict(one) for one in agent.toolbox.schemas), agent.system, id)
        self.tokens: dict[str, RoleTokens] = {}
        self.counts: Counter = Counter()
        self.texts = 0
        self.began = time.perf_counter()

    def go(self, task: str) -> AgentResult:
        agent = self.agent
        width = agent.width if agent.search == "dfs" else 1
        most = agent.max_plans or (5 * agent.max_steps if width > 1 else agent.max_steps)
        self.steps: tuple[Step, ...] = ()
        ends: list[tuple[tuple[Step, ...], Ended, str]] = []
        plans = 0
        try:
            self._say(Step("user", task))
            self.found = replace(self.found, steps=self.steps)
            path = [_Node(self.steps)]
            while path:
                node = path[-1]
                if node.tried >= width:
                    path.pop()
                    continue
                if plans >= most:
                    break
                plans += 1
                self.steps, node.tried = node.steps, node.tried + 1
                if node.tried > 1:
                    self._restore(node.steps)
                ended, reason = self._round(node)
                if (ended, reason) == AGAIN:
                    continue
                if ended == "conclusion":
                    return self._result(ended, reason, [steps for steps, _, _ in ends])
                if ended is None and len(path) < agent.max_steps:
                    path.append(_Node(self.steps))
                    continue
                if ended is None:
                    ended, reason = "steps", f"after {agent.max_steps} plans there was no answer"
                ends.append((self.steps, ended, reason))
        except KeyboardInterrupt:
            raise Stopped(self._result("stopped", "stopped by the user", [steps for steps, _, _ in ends])) from None
        self.steps, ended, reason = ends[-1] if ends else (self.steps, "steps", f"{most} plans gave no answer")
        if len(ends) > 1:
            reason += f", in the last of {len(ends)} branches"
        return self._result(ended, reason, [steps for steps, _, _ in ends[:-1]])

    def _result(self, ended: Ended, reason: str, left: Sequence[tuple[Step, ...]]) -> AgentResult:
        answer = self.steps[-1].value if ended == "conclusion" else None
        seconds = time.perf_counter() - self.began
        found = replace(self.found, steps=self.steps)
        return AgentResult(found, ended, answer, reason, seconds, self.tokens, +self.counts, tuple(left))

    def _restore(self, steps: tuple[Step, ...]) -> None:
        """Put the tools back to where a branch began, by their calls so far, where they can begin anew."""
        if (reset := getattr(self.agent.toolbox, "reset", None)) is None:
            return
        reset()
        for step, behind in itertools.pairwise(steps):
            if step.role == "caller" and behind.role == "observation" and _unreadable(step.value) is None:
                self.agent.toolbox.run(*call_of(step.value))

    # ------------------------------------------------------------ one plan, and what follows it

    def _round(self, node: _Node) -> tuple[Any, str]:
        """How the trajectory ends with the plan that is written now, and why; None if it goes on."""
        role: AgentRole = "backbone" if self.agent.roles.single else "planner"
        text = self._plan(role, node)
        if text is None:
            return "context", "the tools and the task do not fit into the context"
        plan, following, rest = self._read(role, text)
        if plan in node.children:
            self.counts["children that were drawn before"] += 1
            return AGAIN
        node.children.add(plan)
        self._say(Step("assistant", plan), "" if following is not None else "no marker, so the caller goes on")
        if following == GIVE_UP:
            return "gave up", "the planner gave up"
        if following == CONCLUDE:
            answer = self._write("summarizer") if rest is None else rest
            if answer is None:
                return "context", "the observations do not fit into the summariser's context"
            self._say(Step("conclusion", answer))
            return "conclusion", "the planner had enough"
        called = self._write("caller") if rest is None else rest
        if called is None:
            return "context", "the observations do not fit into the caller's context"
        self._say(Step("caller", called))
        self._say(Step("observation", self._observe(called)))
        return None, ""

    def _plan(self, role: AgentRole, node: _Node) -> str | None:
        least = self.agent.temperature if node.tried == 1 else max(self.agent.temperature, SIBLING)
        text = self._write(role, least)
        tries = 1
        while text is not None and text.strip() in EMPTY and tries < TRIES:
            text = self._write(role, max(least, DRAWN) + GROWS * (tries - 1))
            tries += 1
        self.counts["empty plans that were drawn again"] += tries - 1
        return text

    def _read(self, role: AgentRole, text: str) -> tuple[str, str | None, str | None]:
        """A plan as a turn, who speaks next by its marker, and of a single model what that says."""
        if role == "planner":
            following = thought_of(text)[1]
            if following is None:
                self.counts["plans without a marker"] += 1
                return planned(text.strip(), CALL), None, None
            return text[: text.index(following) + len(following)], following, None
        before, mark, said = text.partition(CONCLUSION)
        if mark and ACTION not in before:
            thought = before.strip()
            if said.strip().startswith("give up"):
                return planned(thought, GIVE_UP), GIVE_UP, None
            return planned(thought, CONCLUDE), CONCLUDE, said.strip()
        thought, mark, _ = text.partition(ACTION)
        self.counts["plans without a marker"] += not mark
        return planned(thought.strip(), CALL), CALL if mark else None, text[len(thought) :].strip()

    def _observe(self, called: str) -> str:
        if (fault := _unreadable(called)) is not None:
            self.counts["calls that could not be read"] += 1
            return f"{FAILED}the call could not be read: {fault}"
        observed = self.agent.toolbox.run(*call_of(called))
        self.counts["calls"] += 1
        self.counts["calls that failed"] += bool(observed.error)
        limit = self.agent.observation_limit
        self.counts["observations that were cut"] += len(observed.text) > limit
        return observed.text if len(observed.text) <= limit else observed.text[:limit] + CUT

    def _write(self, role: AgentRole, temperature: float | None = None) -> str | None:
        """What a role writes now; None if its prompt does not fit."""
        agent, speaker = self.agent, self.agent.roles.speakers[role]

        def fits(prompt: str) -> bool:
            return speaker.context is None or speaker.length(prompt) + agent.max_new_tokens <= speaker.context

        found = next_prompt(replace(self.found, steps=self.steps), role, agent.roles.prompter, fits)
        if found is None:
            return None
        self.counts["prompts with a cut history"] += found[1]
        on_text = None if self.on_text is None else lambda piece: self.on_text(role, piece)
        written = speaker.write(
            found[0], max_new_tokens=agent.max_new_tokens, on_text=on_text,
            temperature=agent.temperature if temperature is None else temperature,
            seed=random.Random(f"{agent.seed} {self.texts} {self.found.instruction}").getrandbits(31),
        )  # fmt: skip
        self.texts += 1
        self.tokens.setdefault(role, RoleTokens()).add(written)
        text = written.text.removeprefix(": ")
        return text if role == "planner" else text.strip()

    def _say(self, step: Step, note: str = "") -> None:
        self.steps = (*self.steps, step)
        if self.on_turn is not None:
            self.on_turn(AgentTurn(step, len(self.steps), note))


def _unreadable(called: str) -> str | None:
    """Why a caller's turn is no call; None if it is one."""
    if ACTION not in called:
        return f"it has no line {ACTION!r} with the name of a tool"
    return None if INPUT in called else f"it has no line {INPUT!r} with the arguments as JSON"
