"""Let an agent work on a research task in a sandbox; every step is kept, and the run can be resumed or branched."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from trimtab.commands.asking import LoadedSettings
from trimtab.common.errors import Interrupted, Unanswered, UserError, check_known
from trimtab.common.settings import SettingsError, Shown
from trimtab.common.terminal import quiet, say

if TYPE_CHECKING:
    from rich.console import Console

    from trimtab.gym import Episode, GymTask
    from trimtab.gym.agents import GymAgent

AGENTS = ("react", "scripted", "impatient", "random", "human")
OF_MODELS = ("model", "temperature", "max_new_tokens", "summarise_at", "dtype", "device_map")
"""settings of an agent that asks a model"""


class GymRunSettings(LoadedSettings):
    """Which task, and who works on it."""

    positional = ("task",)
    words: ClassVar[str] = "TASK"
    task: str
    """A task that comes with trimtab (`trimtab gym list`), a task folder, or a YAML of InnovatorBench."""
    agent: Annotated[str, Shown("AGENT")]
    """react: the paper's loop around --model; scripted: the task's own reference solution; scripted:FILE: a list of
    actions (YAML or JSON lines), or the folder of a run, which is done again; impatient:FILE: the same, but what it
    waits for is killed after a fifth of the time; random; human: you."""
    model: Annotated[str | None, Shown("MODEL")] = None
    """With react: http://HOST/v1#MODEL of a server, a builtin model, a folder, a Hub id or a roles folder."""
    out: Annotated[Path | None, Shown("DIR")] = None
    """Folder of the run; runs/gym/TASK-AGENT-SEED by default."""
    seed: Annotated[int, Shown("N"), Field(ge=0)] = 0
    """Random seed of the agent."""
    snapshot_every: Annotated[int, Shown("N"), Field(ge=0)] = 10
    """Steps between two snapshots, which are taken when nothing runs, and at the end; 0: only where it is stopped."""
    resume: bool = False
    """Go on with the run in --out from its last snapshot."""
    branch: Annotated[int | None, Shown("STEP"), Field(ge=0)] = None
    """Go on from the snapshot at STEP of the run in --out, in a new folder beside it."""
    unsafe: bool = False
    """Run commands without a sandbox: they may do whatever you may."""
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Of the model; 0 for greedy."""
    max_new_tokens: Annotated[int, Shown("N"), Field(ge=1)] = 8192
    """Tokens of a turn of the model."""
    summarise_at: Annotated[int, Shown("TOKENS"), Field(ge=1)] = 100_000
    """Tokens of the history at which its first half is summarised, if the model's context is not full before."""

    @property
    def kind(self) -> str:
        return self.agent.partition(":")[0]

    @property
    def folder(self) -> Path:
        name = Path(self.task).resolve().name
        return self.out or Path("runs/gym") / f"{name}-{self.kind}-{self.seed}"

    @model_validator(mode="after")
    def _fits(self) -> Self:
        check_known(self.kind, AGENTS, "agent", "agents", SettingsError)
        file = self.agent.partition(":")[2]
        if file and self.kind not in ("scripted", "impatient"):
            raise SettingsError(f"--agent {self.agent}: only scripted and impatient have a file")
        if self.kind == "impatient" and not file:
            raise SettingsError(
                "--agent impatient: give the run or the actions whose waiting it cuts short, impatient:FILE"
            )
        if self.kind == "react" and self.model is None:
            raise SettingsError("--agent react asks a model; name it: --model MODEL")
        if self.kind != "react" and (given := [name for name in OF_MODELS if name in self.model_fields_set]):
            raise SettingsError(f"--{given[0].replace('_', '-')}: {self.kind} asks no model; use --agent react")
        if self.resume and self.branch is not None:
            raise SettingsError("--resume goes on with the run itself, and --branch with a copy; give one of them")
        return self


SETTINGS = GymRunSettings


def main(settings: GymRunSettings) -> None:
    """Play, show each step, and say what it scored."""
    quiet()
    from rich.console import Console

    from trimtab.gym.finding import find_task, task_folder
    from trimtab.gym.playing import play
    from trimtab.gym.sandbox import find_engine
    from trimtab.gym.trajectory import RunFacts

    console, task = Console(), find_task(settings.task)
    if not settings.unsafe:
        find_engine()
    _check_folder(settings)
    agent = _agent(settings, task, console)
    facts = RunFacts(settings.kind, task.settings.title, settings.model, settings.seed, task_folder(settings.task))
    made: list[int] = []
    with _opened(settings, task, agent) as episode:
        where = episode.folder
        say(console, f"{task.settings.title}: {episode.budget.left() / 60:.0f} min, sandbox: {episode.engine}")
        for note in task.notes:
            say(console, note, style="yellow")

        def on_step(row: dict[str, Any]) -> None:
            made.append(row["step"])
            say(console, step_line(row, episode.budget.left(), console.width))

        try:
            result = play(
                episode, agent, facts, every=settings.snapshot_every, on_step=on_step,
                on_note=lambda text: say(console, text, style="grey50"),
            )  # fmt: skip
        except (KeyboardInterrupt, Unanswered, UserError) as stopped:
            raise _stopped(settings, stopped, where, bool(made)) from None
    _end(console, result, where)


def step_line(row: dict[str, Any], left: float, width: int) -> str:
    """A step: what was done, what came of it, and the time that is left."""
    seen, arguments = row["observation"], row["action"]["arguments"]
    outcome = seen["message"] if seen["success"] else f"failed: {seen['error_message']}"
    given = next(
        (str(arguments[key]) for key in ("command", "path", "filename", "thought", "seconds") if key in arguments), ""
    )
    text = " ".join(f"{row['action']['name']} {given}".split())
    line = f"{row['step']:>4} {left / 60:>4.0f} min left  {text[:60]}: {' '.join(outcome.split())}"
    return line if len(line) <= width else f"{line[: max(0, width - 3)]}..."


def _check_folder(settings: GymRunSettings) -> None:
    """Refuse to write into what is there, and to go on with what is not, or with other draws."""
    from trimtab.gym.trajectory import read_result

    folder = settings.folder
    goes_on = settings.resume or settings.branch is not None
    if not goes_on and folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already; --resume goes on with it, another --out begins anew")
    if goes_on and not folder.is_dir():
        raise UserError(f"there is no run {folder}; name it with --out")
    if settings.resume and (seed := read_result(folder).get("seed", settings.seed)) != settings.seed:
        raise UserError(
            f"--seed {settings.seed}: {folder} is a run with --seed {seed}, which --resume goes on with; --branch "
            "takes another one"
        )


@contextmanager
def _opened(settings: GymRunSettings, task: "GymTask", agent: "GymAgent") -> Iterator["Episode"]:
    """The episode, in a folder that no other process writes to meanwhile."""
    from trimtab.common.locks import writing

    with ExitStack() as stack:

        def hold(folder: Path) -> None:
            stack.enter_context(writing(folder, "another process", "wait for it, or branch from a snapshot"))

        if settings.resume:
            hold(settings.folder)
        episode = stack.enter_context(_episode(settings, task, agent))
        if not settings.resume:
            hold(episode.folder)
        yield episode


def _episode(settings: GymRunSettings, task: "GymTask", agent: "GymAgent") -> "Episode":
    """A new one, or one of a run that goes on."""
    from trimtab.gym import Episode
    from trimtab.gym.playing import go_on

    folder = settings.folder
    if settings.branch is not None:
        place = _free(folder.with_name(f"{folder.name}-step{settings.branch}"))
        return go_on(folder, task, agent, place, settings.branch, unsafe=settings.unsafe)
    if settings.resume:
        return go_on(folder, task, agent, unsafe=settings.unsafe)
    return Episode(task, folder, unsafe=settings.unsafe)


def _free(folder: Path) -> Path:
    """This folder, or the first with a number behind its name that is not there."""
    number, found = 1, folder
    while found.exists():
        number += 1
        found = folder.with_name(f"{folder.name}-{number}")
    return found


def _agent(settings: GymRunSettings, task: "GymTask", console: "Console") -> "GymAgent":
    from trimtab.gym.agents.drawn import RandomAgent
    from trimtab.gym.agents.human import Human
    from trimtab.gym.agents.scripted import Impatient, Scripted, read_script, reference

    kind, _, file = settings.agent.partition(":")
    if kind == "random":
        return RandomAgent(settings.seed)
    if kind == "human":
        return Human(input, lambda text: say(console, text))
    if kind != "react":
        made: Callable[..., Scripted] = Impatient if kind == "impatient" else Scripted
        return made(read_script(Path(file)) if file else reference(task))
    from trimtab.evals.chat_models import load_chat
    from trimtab.gym.agents.react import React

    assert settings.model is not None
    model = load_chat(settings.model, settings.how, temperature=settings.temperature)
    how = {"max_new_tokens": settings.max_new_tokens, "threshold": settings.summarise_at}
    return React(model, seed=settings.seed, **how)


def _stopped(settings: GymRunSettings, error: BaseException, where: Path, made: bool) -> BaseException:
    """The error to end with. A run that was stopped before its first step is deleted, if it was begun now."""
    from trimtab.gym.workspace import remove_tree

    if not (made or settings.resume):
        remove_tree(where)
        if isinstance(error, KeyboardInterrupt):
            return Interrupted("stopped before the first step; nothing is kept")
        return error
    kept = f"{where} is kept; the same command with --out {where} --resume goes on"
    if isinstance(error, KeyboardInterrupt):
        return Interrupted(f"stopped; {kept}")
    return (Unanswered if isinstance(error, Unanswered) else UserError)(f"{error}; {kept}")


def _end(console: "Console", result: dict[str, Any], where: Path) -> None:
    """What it scored."""
    if result["final"] is None:
        again = f"the same command with --out {where} --resume goes on to it"
        say(console, f"no final score: {result['error']}; {again}", style="yellow")
    else:
        of = f"final {result['final']:.1f}, best {result['best']:.1f}, private {result['private']:.1f}"
        say(console, f"{of} of 100 ({result['over']})", style="bold")
    say(console, f"run: {where}")
