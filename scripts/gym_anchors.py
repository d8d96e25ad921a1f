"""Do the anchors of the gym's tasks hold? Carries out each task's own solutions with several seeds, and scores them.

    python scripts/gym_anchors.py                   all tasks of src/trimtab/gym/tasks
    python scripts/gym_anchors.py df-noisy          one of them, or a task folder
    python scripts/gym_anchors.py df-noisy --solutions slip --seeds 0 1 2 3 4 --dry

    python scripts/gym_anchors.py df-noisy --rescore       after a change of its anchors, and of nothing else

The slip is the reference with one mistake, of tests/gym/slips: it shows which tasks give partial credit.

The seed is the variable SEED that a solution's solve.py sees, and `submitted.seed` of the evaluator. Points are those
of the score before it ends at 0 and 100. On either split the mean of the seeds must lie within 5 points of 0 for the
baseline, and within 8 of 80 for the reference; anything else makes the exit code 1. Results of the tasks that were
measured replace theirs in benchmarks/results/gym_anchors.json.
"""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.append(str(ROOT / "benchmarks"))

from common import signature, table, tell
from trimtab.gym.episode import Episode
from trimtab.gym.solutions import lay_over
from trimtab.gym.task import TASKS, GymTask, load_task

RESULTS = ROOT / "benchmarks" / "results" / "gym_anchors.json"
SLIPS = ROOT / "tests" / "gym" / "slips"
WANTED = {"baseline": (0.0, 5.0), "reference": (80.0, 8.0)}
"""points and how far off they may be"""
SPLITS = {"public": "metrics", "private": "private_metrics"}
SCORES = {"public": "score", "private": "private_score"}


def main() -> int:
    args = _arguments()
    folders = [Path(one) if "/" in one else TASKS / one for one in args.tasks] or sorted(TASKS.iterdir())
    kept = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    rows, failed = [], False
    for task in map(load_task, folders):
        if args.rescore:
            cells = {name: [rescored(task, one) for one in found] for name, found in kept[task.name]["cells"].items()}
        else:
            names = args.solutions or [*WANTED, *(["slip"] if (SLIPS / task.name).is_dir() else [])]
            cells = {name: [measured(task, name, seed) for seed in args.seeds] for name in names}
        summary = {name: summed(task, found) for name, found in cells.items()}
        kept[task.name] = {
            "signature": kept[task.name]["signature"]
            if args.rescore
            else {**signature(), "command": shlex.join(["python", "scripts/gym_anchors.py", *sys.argv[1:]])},
            "version": task.version(),
            "seeds": [one["seed"] for one in next(iter(cells.values()))],
            "summary": summary,
            "cells": cells,
        }
        for name, found in summary.items():
            verdict = judged(name, found)
            failed = failed or verdict == "NO"
            points = [f"{found['points'][split]:.1f} ± {found['deviation'][split]:.1f}" for split in SPLITS]
            values = ", ".join(f"{metric} {value:.4f}" for metric, value in found["values"].items())
            rows.append([task.name, name, *points, values, f"{found['seconds']:.1f}", verdict])
        if not args.dry:
            RESULTS.write_text(json.dumps(dict(sorted(kept.items())), indent=1) + "\n")
    print(table(["task", "solution", "public", "private", "mean of both splits", "evaluation, s", "holds"], rows))
    return int(failed)


def measured(task: GymTask, name: str, seed: int) -> dict[str, Any]:
    """What a solution scores with a seed."""
    with tempfile.TemporaryDirectory() as folder, Episode(task.seeded(seed), Path(folder) / "run") as episode:
        began = time.monotonic()
        lay_over(episode, str(SLIPS / task.name) if name == "slip" else name)
        solving = time.monotonic() - began
        result = episode.end()
        log = Path(folder) / "run" / "evaluator.log"
        if result["error"]:
            raise SystemExit(f"{task.name}, {name}, seed {seed}: {result['error']}\n{log.read_text()}")
    record = result["submissions"][-1]
    values = {split: record[key] for split, key in SPLITS.items()}
    tell(f"{task.name} {name} seed {seed}: {values} {record['message']}")
    cell = {
        "seed": seed,
        "values": values,
        "message": record["message"],
        "solving_seconds": round(solving, 2),
        "evaluation_seconds": round(episode.budget.evaluation_seconds, 2),
    }
    return rescored(task, cell)


def rescored(task: GymTask, cell: dict[str, Any]) -> dict[str, Any]:
    """The same values with the points that they get now."""
    scores = {key: task.score(cell["values"][split]) if cell["values"][split] else 0.0 for split, key in SCORES.items()}
    return {**cell, **scores, "points": {split: pointed(task, found) for split, found in cell["values"].items()}}


def pointed(task: GymTask, values: dict[str, float]) -> float:
    """Points of all metrics, which may be below 0 and above 100; 0 for rejected outputs."""
    weights = sum(one.weight for one in task.settings.metrics)
    return sum(one.weight / weights * one.points(values[one.name]) for one in task.settings.metrics if values)


def summed(task: GymTask, cells: list[dict[str, Any]]) -> dict[str, Any]:
    points = {split: [one["points"][split] for one in cells] for split in SPLITS}
    values = {
        metric.name: [one["values"][split][metric.name] for one in cells for split in SPLITS if one["values"][split]]
        for metric in task.settings.metrics
    }
    return {
        "score": {split: round(statistics.mean(one[key] for one in cells), 3) for split, key in SCORES.items()},
        "points": {split: round(statistics.mean(found), 3) for split, found in points.items()},
        "deviation": {split: round(statistics.pstdev(found), 3) for split, found in points.items()},
        "values": {name: round(statistics.mean(found), 6) for name, found in values.items() if found},
        "seconds": max(one["evaluation_seconds"] for one in cells),
    }


def judged(name: str, found: dict[str, Any]) -> str:
    if name not in WANTED:
        return "-"
    wanted, off = WANTED[name]
    return "yes" if all(abs(points - wanted) <= off for points in found["points"].values()) else "NO"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("tasks", nargs="*", help="names or folders; all by default")
    parser.add_argument("--solutions", nargs="+", help="folders of a task, or slip; by default all three")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument(
        "--rescore", action="store_true", help="measure nothing: score the stored values by new anchors"
    )
    parser.add_argument("--dry", action="store_true", help="write no results")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
