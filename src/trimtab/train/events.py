"""The run folder's event log, and the callbacks that write it."""

import math
import signal
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from trimtab.common import processes
from trimtab.common.files import append_lines, drop_torn_line, records
from trimtab.train.together import any_process


class EventLog:
    """Append-only JSON lines; a kill tears at most the last line."""

    def __init__(self, folder: Path):
        self.metrics, self.samples = folder / "metrics.jsonl", folder / "samples.jsonl"

    def event(self, event: str, step: int, **fields: Any) -> None:
        _append(self.metrics, {"event": event, "step": step, "time": time.time(), **fields})

    def sample(self, kind: str, step: int, **fields: Any) -> None:
        _append(self.samples, {"kind": kind, "step": step, **fields})

    def events(self) -> list[dict[str, Any]]:
        """All complete lines written so far."""
        return list(records(self.metrics.read_bytes().rpartition(b"\n")[0])) if self.metrics.exists() else []

    def resume(self, step: int, command: str = "") -> None:
        """Record that entries of later steps are superseded, and the command."""
        self.event("resume", step, command=command)
        self.sample("resume", step)


def _append(path: Path, row: Mapping[str, Any]) -> None:
    if path.exists():
        drop_torn_line(path)
    not_finite = [key for key, value in row.items() if isinstance(value, float) and not math.isfinite(value)]
    append_lines(path, [{**row, **dict.fromkeys(not_finite)}])  # JSON has no NaN


class WriteEvents(TrainerCallback):
    """Write the trainer's logs, with rates, to the event log; call `evaluate(model, step, whole)` when it is due."""

    def __init__(self, log: EventLog, evaluate: Callable[[Any, int, bool], None] | None, every: int | None):
        self.log, self.evaluate, self.every = log, evaluate, every
        self.seconds = 0.0
        """spent in training, evaluations left out"""
        self._since = 0.0
        self._at = (0.0, 0.0)  # answer tokens and seconds at the last log

    def _evaluate(self, model: Any, step: int, whole: bool) -> None:
        self._stop_clock()
        if self.evaluate is not None:
            self.evaluate(model, step, whole)
        self._since = time.perf_counter()

    def _stop_clock(self) -> None:
        now = time.perf_counter()
        self.seconds += now - self._since
        self._since = now

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._since = time.perf_counter()
        if state.global_step == 0:
            self._evaluate(kwargs["model"], 0, True)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        self._stop_clock()
        if not logs or "loss" not in logs:
            return
        read = logs.get("tokens_read")  # of classifiers, which have no answer tokens
        tokens, seconds = logs.get("answer_tokens", 0.0) if read is None else read, self.seconds
        rate = "tokens_per_second" if read is None else "tokens_read_per_second"
        logs[rate] = (tokens - self._at[0]) / max(seconds - self._at[1], 1e-9)
        self._at = (tokens, seconds)
        if state.is_world_process_zero:
            self.log.event("train", state.global_step, seconds=round(seconds, 3), **logs)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.every and state.global_step % self.every == 0 and state.global_step < state.max_steps:
            self._evaluate(kwargs["model"], state.global_step, False)

    def state_dict(self) -> dict[str, Tensor]:
        self._stop_clock()
        return {"seconds": torch.tensor([self.seconds, *self._at], dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.seconds, tokens, seconds = state["seconds"].tolist()
        self._at = (tokens, seconds)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stop_clock()


class StopOnInterrupt(TrainerCallback):
    """The first Ctrl-C stops training after the current step, with a checkpoint; the second stops it at once.

    Args:
        every: updates between two steps at which a run can be resumed.
    """

    def __init__(self, every: int = 1) -> None:
        self.interrupted, self.every = False, every
        self._before: Any = None

    def _handle(self, number: int, frame: Any) -> None:
        if self.interrupted:
            raise KeyboardInterrupt
        self.interrupted = True
        if processes.rank() == 0:
            again = "Ctrl-C again stops at once and loses the steps since the last checkpoint"
            print(f"\nstopping after this step; {again}")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.interrupted = any_process(self.interrupted, args.device)  # Ctrl-C reaches them in different steps
        if self.interrupted and state.global_step < state.max_steps and state.global_step % self.every == 0:
            control.should_save = control.should_training_stop = True

    def restore(self) -> None:
        """Restore the earlier handler."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None
