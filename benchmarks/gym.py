"""What does the gym cost an agent: an action, a sandbox, a session that is opened and closed, a snapshot?

action     from a command that does nothing to its observation: what the gym adds to the work of a command (median)
file       showing a file of 100 lines (median)
start      a session, from nothing to a shell that takes commands (median)
snapshot   of a workspace of 100 MB in 100 files, all of them new (median)
restore    of the same (median)
left over  descriptors, threads and processes that are there after many sessions, and were not before
"""

import os
import statistics
import tempfile
import threading
import time
from functools import partial
from pathlib import Path

import psutil

from common import Target, parser, signature, table, write
from trimtab.gym import snapshots
from trimtab.gym.episode import Episode
from trimtab.gym.sandbox import Sandbox
from trimtab.gym.session import Session
from trimtab.gym.task import load_task

ACTION, START, SNAPSHOT = 0.020, 0.150, 2.0
"""seconds"""
FILES = 100
"""of a megabyte each"""
TASK = {
    "task.yaml": "title: T\nlicence: CC0-1.0\nbudget: {steps: 1000000}\n"
    "metrics: [{name: a, baseline: 0, reference: 1}]\n",
    "description.md": "Nothing.\n",
    "evaluator.py": "def validate(submitted):\n    return [{'name': 'a', 'value': 0.0}]\n",
    "workspace/lines.txt": "a line\n" * 100,
}


def main() -> None:
    args = parser(__doc__).parse_args()
    about, repeats = signature(), args.repeats or (3 if args.quick else 100)
    with tempfile.TemporaryDirectory() as place:
        found = measured(Path(place), repeats)
    left = found.pop("left over")
    rows = [[name, statistics.median(seconds) * 1e3, max(seconds) * 1e3] for name, seconds in found.items()]
    targets = [
        Target(f"gym: median {name}, in seconds", limit, None if args.quick else statistics.median(found[name]))
        for name, limit in (("action", ACTION), ("start", START), ("snapshot", SNAPSHOT), ("restore", SNAPSHOT))
    ]
    targets.append(Target(f"gym: left over of {2 * repeats} sessions", 0.0, None if args.quick else float(left[0])))
    cells = [{"contestant": name, "seconds": seconds} for name, seconds in found.items()]
    path = write("gym", args, {"signature": about, "cells": cells, "left over": left}, targets)
    print(table(["what", "median, ms", "longest, ms"], rows))
    print("\n".join(map(str, targets)), path.name, sep="\n")


def measured(place: Path, repeats: int) -> dict[str, list[float]]:
    """Seconds of every round."""
    for name, text in TASK.items():
        path = place / "task" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found: dict[str, list[float]] = {"action": [], "file": [], "start": []}
    with Episode(load_task(place / "task"), place / "run") as episode:
        command = {"command": ":", "wait_for_completion": True}
        episode.call("run_command", command)
        for _ in range(repeats):
            found["action"].append(_seconds(lambda: episode.call("run_command", command)))
            found["file"].append(_seconds(lambda: episode.call("open_file", {"path": "lines.txt"})))
        before = _open_now()
        for _ in range(2 * repeats):
            found["start"].append(_opened(episode.sandbox()))
        found |= _kept(episode, repeats // 20 or 1, FILES if repeats >= 20 else 1)
        found["left over"] = [float(max(after - was for after, was in zip(_open_now(), before)))]
    return found


def _kept(episode: Episode, rounds: int, files: int) -> dict[str, list[float]]:
    """Seconds of snapshots whose files all are new, and of restoring each."""
    found: dict[str, list[float]] = {"snapshot": [], "restore": []}
    for number in range(rounds):
        for one in range(files):
            episode.workspace.write(f"data/{one}", os.urandom(1_000_000))
        found["snapshot"].append(_seconds(partial(snapshots.take, episode, {}, number)))
        held, again = snapshots.read(episode.folder), episode.folder.with_name(f"restored{number}")
        again.mkdir()
        began = time.perf_counter()
        restored = snapshots.restore(episode.folder, held, episode.task, again)
        found["restore"].append(time.perf_counter() - began)
        restored.remove()
    return found


def _opened(sandbox: Sandbox) -> float:
    """Seconds until a session takes commands; it leaves a process to clean up."""
    began = time.perf_counter()
    session = Session("one", sandbox)
    took = time.perf_counter() - began
    session.run("setsid sleep 1000 &")
    session.close()
    return took


def _seconds(call) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _open_now() -> tuple[int, int, int]:
    """Descriptors, threads and processes."""
    own = psutil.Process()
    return own.num_fds(), threading.active_count(), len(own.children(recursive=True))


if __name__ == "__main__":
    main()
