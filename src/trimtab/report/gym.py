"""The page of runs in the research gym: scores over time, what the agent did, and how it went about it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from trimtab.common.count import count
from trimtab.common.files import write_atomic
from trimtab.gym.process_metrics import ProcessMetrics, process_metrics
from trimtab.gym.trajectory import read_result, read_steps
from trimtab.report.curves import COLOURS, drawing, run_colour
from trimtab.report.gym_steps import KINDS, Room, cells, conversation, lanes
from trimtab.report.html import template
from trimtab.report.measures import digits
from trimtab.report.reading import ReportError, names_apart, page_of
from trimtab.report.words import duration

Steps = Sequence[Mapping[str, Any]]
METRICS = {
    "steps": ("steps", "Actions, malformed calls too."),
    "duration": ("duration", "Budget used when the last observation came."),
    "tokens": ("tokens", "Read and written by the agent's model."),
    "first_eval_step": ("first eval step", "Step of the first submission."),
    "score_gain": ("score gain", "Public score of the last submission less that of the first."),
    "eval_abuse": ("eval abuse", "Pairs of submissions in a row with no edit between."),
    "session_leak": ("session leak", "Sessions opened and not closed."),
    "reclaim_rate": ("reclaim rate", "Opened sessions that were closed."),
    "deadlock_ratio": ("deadlock ratio", "Steps in runs of 10 and more that only sleep or look at sessions."),
    "blind_retry": ("blind retry", "Steps in runs of 3 and more of the same failing call."),
    "format_fail_rate": ("format-fail rate", "Malformed calls."),
    "effective_step_rate": ("effective step rate", "What the three rates above leave."),
    "read_before_edit": ("read before edit", "Edits by line whose file was shown in the 20 steps before."),
    "edit_rollback": ("edit rollback", "Edits whose file is edited again within 5 actions."),
    "post_fix_verification": ("verified last edit", "Whether a command or a submission follows the last edit."),
    "action_bigram_entropy": ("action entropy", "Of pairs of actions in a row, in bits: low is monotonous."),
}
"""process metric -> what the page calls it, and what it means"""
COUNTS = ("steps", "tokens", "first_eval_step", "session_leak")


@dataclass(frozen=True)
class GymRun:
    """A run folder."""

    name: str
    folder: Path
    result: Mapping[str, Any]
    steps: Steps
    process: ProcessMetrics

    @property
    def seconds(self) -> float:
        """All that lies on its axis of time."""
        used = float(self.result.get("budget", {}).get("seconds", 0.0))
        return max([used, self.process.duration, *(float(one["seconds"]) for one in self.result["submissions"])])

    @property
    def running(self) -> bool:
        return self.result.get("final") is None and not self.result.get("over") and not self.result.get("error")


def write(folders: Sequence[Path], output: Path | None = None) -> Path:
    """Write one HTML file that needs no network, of one run or of several side by side.

    Args:
        folders: that `trimtab gym run` wrote.
        output: `report.html` in the folder of a single run, `comparison.html` in the common parent of several, if not
            given. What was there is replaced at once or, on an error, not at all.

    Raises:
        ReportError: if there is no folder.
        GymRunError: if one is no run.
    """
    if not folders:
        raise ReportError("no run given; name at least one folder that `trimtab gym run` wrote")
    runs = _read([Path(folder) for folder in folders])
    return write_atomic(Path(output or page_of([run.folder for run in runs], len(runs) == 1)), render(runs))


def _read(folders: Sequence[Path]) -> list[GymRun]:
    names = names_apart([folder.resolve().name for folder in folders], folders)
    found = []
    for name, folder in zip(names, folders, strict=True):
        result, steps = read_result(folder), read_steps(folder)
        found.append(GymRun(name, folder, result, steps, process_metrics(steps)))
    return found


def render(runs: Sequence[GymRun]) -> str:
    """The page as text."""
    room = Room.of([len(run.steps) for run in runs])
    return template("gym.html").render(
        headline=_headline(runs),
        cautions=_cautions(runs),
        runs=[_about(run, index, room) for index, run in enumerate(runs)],
        scores=Markup(_scores(runs)),  # numbers only: no text of an agent is in there
        metrics=[(*said, [_shown(name, run.process) for run in runs]) for name, said in METRICS.items()],
        several_tasks=len({run.result["task"] for run in runs}) > 1,
        kinds=KINDS,
    )


def _headline(runs: Sequence[GymRun]) -> str:
    if len(runs) == 1:
        result = runs[0].result
        title = result.get("title") or result["task"]
        if result.get("final") is not None:
            return f"{title}: {_points(result['final'])} of 100 points"
        return f"{title}: {'still running' if runs[0].running else 'no final score'}"
    scored = [run for run in runs if run.result.get("final") is not None]
    tasks = count(len({run.result["task"] for run in runs}), "task")
    if not scored:
        return f"{len(runs)} runs at {tasks}, none with a final score"
    if tasks != "1 task":
        mean = sum(run.result["final"] for run in scored) / len(scored)
        return f"{len(runs)} runs at {tasks}: {_points(mean)} points on average"
    best = max(scored, key=lambda run: run.result["final"])
    return f"{len(runs)} runs: {best.name} leads with {_points(best.result['final'])} of 100 points"


def _cautions(runs: Sequence[GymRun]) -> list[str]:
    versions: dict[str, set[str]] = {}
    for run in runs:
        versions.setdefault(run.result["task"], set()).add(run.result["version"])
    found = [
        f"{task} differs between the runs ({', '.join(sorted(known))}): their scores do not compare"
        for task, known in versions.items()
        if len(known) > 1
    ]
    found += [
        f"{run.name} ran without a sandbox: what it did was not contained, and its scores are worth as much as its word"
        for run in runs
        if run.result.get("isolation") == "none"
    ]
    return found + [f"{run.name} has no final score: {run.result['error']}" for run in runs if run.result.get("error")]


def _about(run: GymRun, index: int, room: Room) -> dict[str, Any]:
    result = run.result
    ended = "still running" if run.running else result.get("over") or result.get("error") or "ended"
    shown, hidden = conversation(run.steps, room)
    strip, uncoloured = cells(run.steps, room)
    kinds = Counter(one["observation"]["observation_type"] for one in run.steps)
    return {
        "name": run.name,
        "id": f"r{index}",
        "colour": f"var(--run-{index % COLOURS})",
        "title": result.get("title") or result["task"],
        "who": ", ".join(filter(None, (result["agent"], result.get("model"), f"seed {result.get('seed', 'unknown')}"))),
        "scores": {key: _points(result.get(key)) for key in ("final", "private", "best", "best_private")},
        "steps": len(run.steps),
        "submissions": [_submission(one) for one in result["submissions"]],
        "seconds": duration(run.seconds),
        "ended": ended,
        "facts": [
            f"task {result['task']}, version {result['version']}",
            f"sandbox: {result.get('isolation', 'unknown')}",
            *(["the hint was seen"] if result.get("hint_seen") else []),
            *_used(result.get("budget", {})),
        ],
        "kinds": [(kind, number) for kind, number in kinds.most_common() if kind in KINDS],
        "strip": strip,
        "uncoloured": uncoloured,
        "lanes": lanes(run.steps, run.seconds),
        "conversation": shown,
        "hidden": hidden,
    }


def _used(budget: Mapping[str, Any]) -> list[str]:
    words = {"cpu_seconds": "of CPU", "evaluation_seconds": "of evaluation"}
    return [f"{duration(budget[key])} {what}" for key, what in words.items() if budget.get(key)]


def _submission(record: Mapping[str, Any]) -> dict[str, Any]:
    public, private = record.get("metrics", {}), record.get("private_metrics", {})
    return {
        "number": "final" if record.get("final") else str(record["number"]),
        "seconds": duration(record["seconds"]),
        "score": _points(record["score"]),
        "private": _points(record["private_score"]),
        "metrics": [(name, _value(public.get(name)), _value(private.get(name))) for name in {**public, **private}],
        "message": record.get("message", ""),
        "sha256": record["sha256"][:12],
    }


def _value(value: float | None) -> str:
    return "–" if value is None else digits(value)


def _points(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _shown(name: str, process: ProcessMetrics) -> str:
    """A process metric in words."""
    value = getattr(process, name)
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in COUNTS:
        return f"{value:,}"
    if name == "duration":
        return duration(value)
    if name == "score_gain":
        return f"{value:+.1f}".replace("-", "−")
    return f"{value:.2f} bits" if name == "action_bigram_entropy" else f"{value:.0%}"


def _scores(runs: Sequence[GymRun]) -> str:
    """Public and private scores of all submissions over time; empty where there are none."""
    if not any(run.result["submissions"] for run in runs):
        return ""
    longest = max(run.seconds for run in runs)
    unit, size = next(((u, s) for u, s in (("h", 3600.0), ("min", 60.0)) if longest >= 2 * s), ("s", 1.0))

    def paint(axes: Any) -> None:
        axes.set_ylim(-4, 104)
        axes.set_xlim(0, max(longest / size, 1e-9))
        for index, run in enumerate(runs):
            records, colour = run.result["submissions"], run_colour(index)
            times = [one["seconds"] / size for one in records]
            for key, line, filled in (("score", "-", colour), ("private_score", ":", "none")):
                scores = [one[key] for one in records]
                axes.plot(times, scores, line, color=colour, linewidth=1.5)
                for time, score, one in zip(times, scores, records, strict=True):
                    mark, wide = ("D", 6) if one.get("final") else ("o", 5)
                    axes.plot(
                        *([time], [score], mark),
                        markersize=wide,
                        markerfacecolor=filled,
                        markeredgecolor=colour,
                        clip_on=False,
                    )

    return drawing("gym scores", unit, False, paint)
