"""How an agent worked, by rules on its trajectory: what it did with its steps, whatever its score."""

import posixpath
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from math import log2
from typing import Any

from trimtab.gym.workspace import WORKSPACE

POLLS = frozenset(
    ("sleep", "check_session_idle", "get_session_status", "list_sessions", "get_session_output",
     "get_session_recent_output")
)  # fmt: skip
"""actions that only look whether something has happened"""
EDITS, RUNS = ("edit_file", "create_file"), ("run_command", "eval")
SHOWS = ("open_file", "file_goto_line", "file_scroll_down", "file_scroll_up")
DEADLOCK, RETRIES, READ, ROLLBACK = 10, 3, 20, 5

TrajectoryStep = Mapping[str, Any]


@dataclass(frozen=True)
class ProcessMetrics:
    """Rule-based process metrics; None where there is nothing to measure. An edit is an `edit_file` or `create_file`
    that succeeded; what commands write is not seen."""

    steps: int
    first_eval_step: int | None
    """number of the step of the first `eval`"""
    eval_abuse: float | None
    """share of pairs of consecutive evals with no edit between"""
    session_leak: int
    """sessions that were opened and not closed"""
    reclaim_rate: float | None
    """share of opened sessions that were closed"""
    deadlock_ratio: float | None
    """share of steps in runs of 10 and more that sleep or look at sessions"""
    blind_retry: float | None
    """share of steps in runs of 3 and more of the same call that fail"""
    read_before_edit: float | None
    """share of edits by line whose file was shown in the 20 steps before"""
    edit_rollback: float | None
    """share of edits whose file is edited again within 5 actions"""
    post_fix_verification: bool | None
    """whether a command or an eval comes after the last edit"""
    format_fail_rate: float | None
    """share of malformed calls"""
    effective_step_rate: float | None
    """1 less `format_fail_rate`, `blind_retry` and `deadlock_ratio`; 0 where these, which may overlap, exceed 1"""
    action_bigram_entropy: float | None
    """of the names of two actions in a row, in bits"""
    tokens: int | None
    """that the agent's model read and wrote, where steps say so"""
    duration: float
    """seconds of budget at the last observation"""
    score_gain: float | None
    """public score of the last evaluation less that of the first, the forced final one apart"""


def process_metrics(steps: Sequence[TrajectoryStep]) -> ProcessMetrics:
    """Measure a trajectory, of steps as `trajectory.jsonl` holds them.

    Source: section 5 of the notes on InnovatorBench (arXiv:2510.27598) and work that follows it.
    """
    names = [_name(one) for one in steps]
    edits = [at for at, one in enumerate(steps) if names[at] in EDITS and one["observation"]["success"]]
    evals = [at for at, name in enumerate(names) if name == "eval"]
    opened, closed = _sessions(steps)
    deadlock = _share_in_runs(steps, lambda one: _name(one) in POLLS, DEADLOCK)
    blind = _share_in_runs(steps, _failure, RETRIES)
    malformed = _mean([one["observation"]["observation_type"] == "null" for one in steps])
    lost = None if malformed is None else malformed + (blind or 0.0) + (deadlock or 0.0)
    return ProcessMetrics(
        steps=len(steps),
        first_eval_step=steps[evals[0]]["step"] if evals else None,
        eval_abuse=_mean([not any(a < at < b for at in edits) for a, b in pairwise(evals)]),
        session_leak=opened - closed,
        reclaim_rate=closed / opened if opened else None,
        deadlock_ratio=deadlock,
        blind_retry=blind,
        read_before_edit=_read_before_edit(steps, edits),
        edit_rollback=_mean([_again(steps, edits, at) for at in edits]),
        post_fix_verification=any(name in RUNS for name in names[edits[-1] + 1 :]) if edits else None,
        format_fail_rate=malformed,
        effective_step_rate=None if lost is None else max(0.0, 1.0 - lost),
        action_bigram_entropy=_entropy(Counter(pairwise(names))),
        tokens=_tokens(steps),
        duration=float(steps[-1]["seconds"]) if steps else 0.0,
        score_gain=_gain([steps[at]["observation"] for at in evals]),
    )


def _name(step: TrajectoryStep) -> str:
    return step["action"]["name"]


def _mean(values: Sequence[bool]) -> float | None:
    return sum(values) / len(values) if values else None


def _sessions(steps: Sequence[TrajectoryStep]) -> tuple[int, int]:
    """How many have appeared, and how many of them have gone."""
    opened = closed = 0
    for before, after in pairwise([set(), *(set(one.get("sessions") or ()) for one in steps)]):
        opened, closed = opened + len(after - before), closed + len(before - after)
    return opened, closed


def _share_in_runs(steps: Sequence[TrajectoryStep], key: Callable[[TrajectoryStep], Any], least: int) -> float | None:
    """Share of steps in runs of at least so many with the same key; steps without one are in none."""
    runs = [len(list(run)) for value, run in groupby(steps, key) if value]
    return sum(length for length in runs if length >= least) / len(steps) if steps else None


def _failure(step: TrajectoryStep) -> tuple[str, Any] | None:
    """What a step that failed has tried."""
    return None if step["observation"]["success"] else (_name(step), step["action"]["arguments"])


def _path(step: TrajectoryStep) -> str | None:
    """The file that a step has shown or edited, however it was named."""
    path = step["observation"].get("file_path")
    return None if path is None else posixpath.normpath(posixpath.join(WORKSPACE, path))


def _read_before_edit(steps: Sequence[TrajectoryStep], edits: Sequence[int]) -> float | None:
    def shown(at: int) -> Iterator[str | None]:
        return (_path(one) for one in steps[max(0, at - READ) : at] if _name(one) in SHOWS)

    return _mean([_path(steps[at]) in shown(at) for at in edits if _name(steps[at]) == "edit_file"])


def _again(steps: Sequence[TrajectoryStep], edits: Sequence[int], at: int) -> bool:
    return any(at < later <= at + ROLLBACK and _path(steps[later]) == _path(steps[at]) for later in edits)


def _entropy(counts: Counter[tuple[str, str]]) -> float | None:
    total = counts.total()
    return sum(n / total * log2(total / n) for n in counts.values()) if total else None


def _tokens(steps: Sequence[TrajectoryStep]) -> int | None:
    known = [one["tokens"] for one in steps if one.get("tokens") is not None]
    return sum(known) if known else None


def _gain(observed: Sequence[Mapping[str, Any]]) -> float | None:
    scores = [one["overall_score"] for one in observed if one["success"]]
    return scores[-1] - scores[0] if len(scores) > 1 else None
