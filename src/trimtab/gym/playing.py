"""A run: an agent acts in an episode until it is over, and every step is kept."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trimtab.gym import snapshots
from trimtab.gym.agents import Briefing, GymAgent, Memory, Pace
from trimtab.gym.episode import Episode
from trimtab.gym.snapshots import SnapshotError
from trimtab.gym.task import GymTask
from trimtab.gym.trajectory import GymRunError, GymTrajectory, RunFacts, read_result, write_result

LOST = "The run was interrupted and goes on from here. Sessions are lost, with all that ran in them: {names}."
GOES_ON = "The run was interrupted and goes on from here."


def play(
    episode: Episode,
    agent: GymAgent,
    facts: RunFacts,
    *,
    every: int = 0,
    on_step: Callable[[dict[str, Any]], Any] = lambda row: None,
    on_note: Callable[[str], Any] = lambda text: None,
) -> dict[str, Any]:
    """Let an agent act to the end, and write what comes of it.

    Whatever stops it before, such as Ctrl-C or a server that does not answer, a snapshot is taken then, between the
    last two steps; sessions are closed, and the agent will be told.

    Args:
        every: steps between two snapshots; one that is due while something runs is taken when that has ended. The last
            one is of the end, so that a final evaluation that fails can be made again. 0: none but where it is stopped.
        on_step: hears of each step as it is written.
        on_note: hears why a snapshot cannot be taken.

    Returns:
        As `gym.json` holds it.
    """
    written = GymTrajectory(episode.folder)
    seen = written.rows[-1]["observation"] if written.rows else None
    agent.begin(Briefing(episode.task.description, episode.tools(), episode.budget.limits.seconds))
    write_result(episode, facts)
    memory, due, said, handed_in = agent.memory(), False, "", len(episode.submissions.records)
    episode.budget.begin()
    try:
        while episode.over() is None:
            memory = agent.memory()
            move = agent.act(seen, episode.budget.left())
            if move is None or episode.over() is not None:
                break
            _wait(episode, move.pace)
            began = time.monotonic()
            observation = episode.step(move.action)
            row = written.add(episode, move.action, observation, time.monotonic() - began, move.said, move.tokens)
            seen, memory = row["observation"], agent.memory()
            if len(episode.submissions.records) > handed_in:
                handed_in = len(episode.submissions.records)
                write_result(episode, facts)
            on_step(row)
            due = due or (every > 0 and len(written) % every == 0)
            if due and episode.over() is None:
                try:
                    snapshots.take(episode, memory, len(written))
                    due = False
                except SnapshotError as why:
                    if str(why) != said:
                        on_note(said := str(why))
        if every:
            _keep(episode, memory, len(written), on_note)
        episode.end()
    except BaseException:
        _keep(episode, memory, len(written), on_note)
        write_result(episode, facts)
        raise
    return write_result(episode, facts)


def go_on(
    run: Path, task: GymTask, agent: GymAgent, folder: Path | None = None, step: int | None = None, **how: Any
) -> Episode:
    """A run where a snapshot has left it; the agent remembers what it did then, and is told of lost sessions.

    Args:
        folder: a new one for a branch of the run; by default the run itself goes on.
        step: of the snapshot, by default the last one.
        how: of `Episode`.

    Raises:
        GymRunError: if the run has ended, or is one of another agent.
        SnapshotError: see `snapshots.restore`.
    """
    of = read_result(run)
    if of["agent"] != agent.name:
        raise GymRunError(f"{run} is a run of the agent {of['agent']}, which {agent.name} cannot go on with")
    if folder is None and any(one["final"] for one in of["submissions"]):
        raise GymRunError(f"{run} has ended; branch from one of its snapshots, or begin anew in another folder")
    held = snapshots.read(run, step)
    episode = snapshots.restore(run, held, task, folder or run, **how)
    agent.recall(dict(held.agent))
    lost = held.episode["sessions"]
    agent.tell(LOST.format(names=", ".join(lost)) if lost else GOES_ON)
    return episode


def _wait(episode: Episode, pace: Pace) -> None:
    """Until an action is to be done, and no longer than the episode."""
    if pace.seconds:
        time.sleep(min(pace.seconds, episode.budget.left()))
    for session in [episode.sessions.sessions[name] for name in pace.idle if name in episode.sessions.sessions]:
        session.wait(episode.budget.left(), lambda session=session: session.idle or episode.over() is not None)


def _keep(episode: Episode, memory: Memory, step: int, on_note: Callable[[str], Any]) -> None:
    """A snapshot of a run that ends or is stopped; an action that is broken off will be done again."""
    episode.budget.steps = min(step, episode.budget.steps)
    lost = list(episode.sessions.sessions)
    episode.sessions.close_all()
    try:
        snapshots.take(episode, memory, step, lost)
    except SnapshotError as why:
        on_note(f"it cannot go on from here: {why}")
