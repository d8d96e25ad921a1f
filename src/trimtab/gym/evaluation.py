"""Scores of what was handed in, by the task's evaluator in a process of its own."""

import json
import math
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimtab.common.errors import UserError
from trimtab.gym.sandbox import Engine
from trimtab.gym.submissions import unpack
from trimtab.gym.task import GymTask
from trimtab.gym.workspace import remove_tree

SPLITS = ("public", "private")
MOST = 1 << 20
"""bytes of an evaluator's reply"""
LOG = 20_000
"""bytes of what it prints that are kept"""


class EvaluationError(UserError):
    """An evaluator that failed: its own fault, which costs no submission.

    Args:
        log: for the task's author; it may tell of hidden files, so that agents do not see it.
    """

    def __init__(self, text: str, log: str = ""):
        super().__init__(text)
        self.log = log


@dataclass(frozen=True)
class GymScores:
    """What an evaluator found."""

    score: float
    """points of the public split"""
    private_score: float
    metrics: dict[str, float] = field(default_factory=dict)
    private_metrics: dict[str, float] = field(default_factory=dict)
    message: str = ""
    """why it is 0, where the outputs were rejected"""
    seconds: float = 0.0


def evaluate(task: GymTask, archive: bytes, engine: Engine, seconds: float | None = None) -> GymScores:
    """Score an archive of outputs.

    Args:
        engine: of the sandboxes for what was handed in.
        seconds: less than the task's own limit.

    Raises:
        EvaluationError: if the evaluator fails, takes too long, or returns no usable values.
    """
    began = time.monotonic()
    limit = min(task.settings.evaluation_seconds, seconds if seconds is not None else math.inf)
    place = Path(tempfile.mkdtemp(prefix="trimtab-evaluation-"))
    try:
        outputs = place / "outputs"
        outputs.mkdir()
        unpack(archive, outputs)
        reply = _asked(task, outputs, engine, limit, place)
    finally:
        remove_tree(place)  # with what the evaluator's own sandboxes have left, if it was killed
    took = time.monotonic() - began
    if "rejected" in reply:
        return GymScores(0.0, 0.0, message=str(reply["rejected"])[:2000], seconds=took)
    found = {split: _values(task, reply["results"], split) for split in SPLITS}
    public, private = (task.score(found[split]) for split in SPLITS)
    return GymScores(public, private, found["public"], found["private"], seconds=took)


def _asked(task: GymTask, outputs: Path, engine: Engine, seconds: float, place: Path) -> dict[str, Any]:
    """The reply of the evaluator's process. It comes by a descriptor that nothing else in the process is told of."""
    request = {
        "task": str(task.folder),
        "evaluator": str(task.evaluator),
        "hidden": str(task.hidden),
        "workspace": str(task.workspace),
        "outputs": str(outputs),
        "engine": engine,
        "limits": task.settings.limits.model_dump(),
        "readable": [str(one) for one in packages(task)],
        "environment": task.settings.environment,
    }
    heard, replying = os.pipe()
    log = place / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from trimtab.gym._evaluator import work; work()", str(replying)],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=out,
            cwd=place,
            pass_fds=[replying],
            start_new_session=True,
            env=_environment(place),
        )
    os.close(replying)
    try:
        assert process.stdin is not None
        with suppress(BrokenPipeError):
            process.stdin.write(json.dumps(request).encode())
            process.stdin.close()
        data = _heard(heard, seconds)
    finally:
        os.close(heard)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    printed = log.read_bytes()[-LOG:].decode(errors="replace")
    if data is None:
        raise EvaluationError(f"the evaluator took longer than {seconds:g} seconds", printed)
    if len(data) > MOST:
        raise EvaluationError(f"the evaluator returned more than {MOST:,} bytes", printed)
    try:
        reply = json.loads(data)
    except ValueError as error:
        raise EvaluationError("the evaluator ended without a result", printed) from error
    if "failed" in reply:
        raise EvaluationError("the evaluator failed", f"{reply['failed']}\n{printed}")
    return reply


def _heard(end: int, seconds: float) -> bytes | None:
    """All that is written to a pipe, or a little more than `MOST` bytes of it; None if it is not closed in time."""
    until, found = time.monotonic() + seconds, b""
    with selectors.DefaultSelector() as selector:
        selector.register(end, selectors.EVENT_READ)
        while len(found) <= MOST:
            if not selector.select(max(0.0, until - time.monotonic())):
                return None
            part = os.read(end, 1 << 16)
            if not part:
                break
            found += part
    return found


def _environment(place: Path) -> dict[str, str]:
    path = os.pathsep.join(folder for folder in sys.path if folder)
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "OMP_NUM_THREADS") if name in os.environ}
    own = {"HOME": str(place), "TMPDIR": str(place)}
    return {**kept, **own, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "MPLBACKEND": "Agg"}


def _values(task: GymTask, results: Any, split: str) -> dict[str, float]:
    """The values of a split, of the metrics that the task names."""
    of_split = results.get(split) if isinstance(results, Mapping) else results
    if not isinstance(of_split, list) or not of_split:
        raise EvaluationError(f"the evaluator returned nothing for the {split} split")
    found = {}
    for one in of_split:
        if not isinstance(one, Mapping) or not {"name", "value"} <= one.keys():
            raise EvaluationError("the evaluator returned something else than {name, value}")
        name, value = str(one["name"]), _number(one["value"])
        if value is None:
            raise EvaluationError(f"the evaluator returned no finite number for {name}", str(one["value"]))
        if name in found:
            raise EvaluationError(f"the evaluator returned {name} twice for the {split} split")
        found[name] = value
    for metric in task.settings.metrics:
        if metric.name not in found:
            raise EvaluationError(f"the evaluator returned no {metric.name}")
    return found


def _number(value: Any) -> float | None:
    """A finite number; None if it is none."""
    try:
        found = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        return None
    return found if math.isfinite(found) else None


def packages(task: GymTask) -> list[Path]:
    """The folders of the packages that commands may import besides those of the environment."""
    from importlib.util import find_spec

    found = []
    for name in task.settings.readable:
        spec = find_spec(name)
        if spec is None or not spec.submodule_search_locations:
            raise EvaluationError(f"{task.folder}: there is no package {name!r}, which its task.yaml makes readable")
        found.append(Path(spec.submodule_search_locations[0]))
    return found
