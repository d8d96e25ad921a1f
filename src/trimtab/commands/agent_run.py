"""Let an agent work on tasks with tools, and show each turn while it is written."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from rich.text import Text

from trimtab.commands.asking import LoadedSettings
from trimtab.common.count import count
from trimtab.common.disk import writing_to
from trimtab.common.errors import Interrupted, UserError
from trimtab.common.files import dumps
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import quiet, say

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.agents.loop import AgentResult, AgentTurn, Tools

WORLD = "trimtab:tools"
"""tools that come with tasks, and with a checker"""
COLOURS = {"user": "bold", "assistant": "cyan", "caller": "yellow", "observation": "grey50", "conclusion": "bold green"}
NAMES = {"user": "task", "assistant": "planner", "caller": "caller", "observation": "tool", "conclusion": "answer"}
SPEAKS = {"planner": "assistant", "caller": "caller", "summarizer": "conclusion", "backbone": "assistant"}
"""role -> the turn that it writes"""


class AgentRunSettings(LoadedSettings):
    """Which roles, which tools, and which tasks."""

    positional = ("roles",)
    words: ClassVar[str] = "ROLES"
    roles: str
    """A roles folder, as `trimtab agent roles` makes it."""
    tools: Annotated[str, Shown("TOOLS")]
    """TOOLS.py, a file of Python functions; recorded responses or trajectories as .jsonl; mcp:COMMAND or mcp:URL of an
    MCP server; or trimtab:tools/SPLIT, whose rows are tasks with tools of their own."""
    task: Annotated[tuple[str, ...], Shown("TEXT")] = ()
    """A task."""
    rows: Annotated[int | None, Shown("N"), Field(ge=1)] = None
    """With trimtab:tools: work on its first N tasks, and check each."""
    out: Annotated[Path | None, Shown("FILE.jsonl")] = None
    """Append each trajectory as a training row."""
    max_steps: Annotated[int, Shown("N"), Field(ge=1)] = 12
    """Plans of a trajectory; one that reaches them counts as given up."""
    max_new_tokens: Annotated[int, Shown("N"), Field(ge=1)] = 512
    """Tokens of a turn."""
    context: Annotated[int, Shown("TOKENS"), Field(ge=1)] = 4096
    """Tokens of a prompt and what follows it, if the model reads so many; longer histories are cut at observations
    first."""
    observation_limit: Annotated[int, Shown("CHARACTERS"), Field(ge=1)] = 4000
    """Characters of an observation that are kept."""
    tool_seconds: Annotated[float, Shown("SECONDS"), Field(gt=0, allow_inf_nan=False)] = 30.0
    """Time limit of a call of TOOLS.py or an MCP server."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """0 for greedy. An empty plan is drawn again, warmer."""
    search: Literal["chain", "dfs"] = "chain"
    """dfs: where the planner gives up, go back to the last plan and draw another."""
    width: Annotated[int, Shown("N"), Field(ge=2)] = 2
    """With dfs: children of a plan."""
    seed: Annotated[int, Shown("N"), Field(ge=0)] = 0
    """Random seed."""

    @property
    def is_world(self) -> bool:
        return self.tools.partition("/")[0] == WORLD

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.rows is not None and not self.is_world:
            raise SettingsError(f"--rows: only {WORLD}/SPLIT has tasks of its own; say what is to be done with --task")
        if self.is_world and self.task:
            raise SettingsError(f"--task: each row of {self.tools} has its own task; leave it out, and give --rows N")
        if self.is_world and self.rows is None:
            raise SettingsError(f"--rows is missing: give the number of tasks of {self.tools}")
        if not self.is_world and not self.task:
            raise SettingsError('--task is missing: say what is to be done, --task "TEXT"')
        if "width" in self.model_fields_set and self.search != "dfs":
            raise SettingsError("--width: only a search has children; add --search dfs, or leave it out")
        return self


SETTINGS = AgentRunSettings


def main(settings: AgentRunSettings) -> None:
    """Work on each task, show its turns, and append its row."""
    quiet()
    from rich.console import Console

    from trimtab.agents.loop import Agent, Stopped
    from trimtab.agents.roles import load_roles

    console = Console()
    if settings.out is not None:
        _check_out(settings.out)
    names = ("max_steps", "max_new_tokens", "observation_limit", "temperature", "search", "width", "seed")
    how = {name: getattr(settings, name) for name in names}
    tasks = _tasks(settings)
    done: list[Mapping[str, bool] | None] = []
    try:
        with ExitStack() as stack:
            toolbox = None if settings.is_world else stack.enter_context(_opened(settings))
            roles = load_roles(settings.roles, settings.how, context=settings.context)
            for number, task in enumerate(tasks, start=1):
                if len(tasks) > 1:
                    console.rule(Text(f"task {number} of {len(tasks)}"), align="left", style="grey50")
                with task.tools(toolbox, settings.observation_limit) as tools:
                    result = Agent(roles, tools, **how).run(task.text, id=task.id, **_shown(console))
                found = task.check(result)
                _end(console, result, found)
                _append(settings.out, {**result.row(), **({"checked": found} if found else {})})
                done.append(found)
    except Stopped as stopped:
        _append(settings.out, stopped.result.row())
        kept = f"; {settings.out} holds what was done, up to here" if settings.out else ""
        raise Interrupted(f"stopped in task {len(done) + 1} of {len(tasks)}{kept}") from None
    finally:
        if checked := [one["success"] for one in done if one is not None]:
            say(console, f"success: {sum(checked)} of {count(len(checked), 'task')}", style="bold")
        if settings.out is not None and done:
            say(console, f"trajectories: {settings.out}")


def _opened(settings: AgentRunSettings) -> Any:
    from trimtab.agents.toolboxes import open_toolbox

    return open_toolbox(settings.tools, settings.tool_seconds, settings.observation_limit)


@dataclass(frozen=True)
class _Task:
    """What is to be done; `row` is one of trimtab:tools, with tools of its own."""

    text: str
    id: str = ""
    row: Mapping[str, Any] | None = None

    @contextmanager
    def tools(self, shared: Any, longest: int) -> Iterator["Tools"]:
        """Its tools, as they are at the beginning."""
        if self.row is None:
            if (reset := getattr(shared, "reset", None)) is not None:
                reset()
            yield shared
            return
        from trimtab.agents.world_tools import WorldTools

        with WorldTools(self.row, longest) as own:
            yield own

    def check(self, result: "AgentResult") -> Mapping[str, bool] | None:
        if self.row is None:
            return None
        from trimtab.data.generators.tool_world.world import check

        return check(self.row, result.trajectory.steps)


def _tasks(settings: AgentRunSettings) -> list[_Task]:
    if not settings.is_world:
        return [_Task(text) for text in settings.task]
    from trimtab.data.sources import load_rows
    from trimtab.data.trajectories import trajectory

    sign = "&" if "?" in settings.tools else "?"
    rows = load_rows(f"{settings.tools}{sign}rows={settings.rows}")
    texts = [trajectory(row, f"{settings.tools}: row {number}").instruction for number, row in enumerate(rows, start=1)]
    return [_Task(text, f"{settings.tools} {n}", row) for n, (text, row) in enumerate(zip(texts, rows), start=1)]


def _shown(console: "Console") -> dict[str, Any]:
    """What the agent tells while it works: pieces of a text on a terminal, whole turns elsewhere."""
    writing: list[str] = []

    def on_text(role: str, piece: str) -> None:
        turn = SPEAKS[role]
        if writing[-1:] != [role]:
            _label(console, turn, "")
            writing.append(role)
        console.print(Text(piece, style=COLOURS[turn]), end="", soft_wrap=True)

    def on_turn(turn: "AgentTurn") -> None:
        streamed = bool(writing) and turn.step.role != "user" and turn.step.role != "observation"
        writing.clear()
        if streamed:
            console.print(Text(f"  ({turn.note})" if turn.note else "", style="grey50"))
            return
        _label(console, turn.step.role, f" {turn.note}" if turn.note else "")
        console.print(Text(turn.step.value, style=COLOURS[turn.step.role]), soft_wrap=True)

    return {"on_turn": on_turn, **({"on_text": on_text} if console.is_terminal else {})}


def _label(console: "Console", turn: str, note: str) -> None:
    console.print(Text(f"{NAMES[turn]}{note} ", style=f"{COLOURS[turn]} reverse"), end="")
    console.print(" ", end="")


def _end(console: "Console", result: "AgentResult", found: Mapping[str, bool] | None) -> None:
    """How it ended, at what cost."""
    tokens = ", ".join(f"{role} {one.read:,} + {one.written:,}" for role, one in result.tokens.items())
    reused = sum(one.reused for one in result.tokens.values())
    counts = "".join(f"; {number} {what}" for what, number in result.counts.items())
    verdict = "" if found is None else ("success" if found["success"] else "no success") + "; "
    say(
        console,
        f"{verdict}{result.ended}: {result.reason}; {result.seconds:.1f} s, tokens read + written: {tokens}; "
        f"{reused:,} not read again{counts}",
        style="grey50",
    )


def _check_out(path: Path) -> None:
    """Refuse a file that holds something else than rows, and one that cannot be written."""
    from trimtab.common.disk import check_writable

    if path.is_dir():
        raise UserError(f"--out {path} is a folder; name a file, such as {path / 'trajectories.jsonl'}")
    if path.is_file() and path.stat().st_size:
        first = path.read_bytes().partition(b"\n")[0]
        try:
            known = "conversations" in json.loads(first)
        except (ValueError, TypeError):
            known = False
        if not known:
            raise UserError(f"--out {path} holds something else than trajectories; choose another file")
    check_writable(path.parent, UserError, "choose another --out")


def _append(path: Path | None, row: Mapping[str, Any]) -> None:
    if path is None:
        return
    with writing_to(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8", newline="\n") as file:
            file.write(dumps(row) + "\n")
