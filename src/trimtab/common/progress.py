"""Progress with rates and time left."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from trimtab.common.terminal import say

T = TypeVar("T")
_SHOWN = ("loss", "reward", "pass_at_1", "nll", "divergence", "grad_norm", "groups_without_signal", "one_outcome")
_SAID = {
    "pass_at_1": "pass@1",
    "grad_norm": "gradient norm",
    "groups_without_signal": "groups alike",
    "one_outcome": "batches of one outcome",
}


def bar(console: Console) -> Progress:
    """A bar whose tasks have a `note`; nothing is drawn where there is no terminal."""
    columns = (
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    return Progress(*columns, console=console, disable=not console.is_terminal)


def advance(progress: Progress, task: Any, number: int) -> None:
    """Move a bar; where there is no terminal to draw it on, a line says how far the work is."""
    progress.update(task, advance=number)
    console = progress.console
    if not console.is_terminal:
        one = progress.tasks[task]
        shown = "" if one.time_remaining is None else f"  {left(one.time_remaining)}"
        done = f"{one.description}  {one.completed:.0f}/{one.total or 0:.0f} {one.fields['note']}"
        say(console, f"{done}{shown}")


def left(seconds: float) -> str:
    """Time left, for a line."""
    return f"left {int(seconds) // 60}:{int(seconds) % 60:02d}"


def watched(
    batches: Iterable[T], name: str, total: int, unit: str, size: Callable[[T], int], console: Console
) -> Iterator[T]:
    """The batches, with progress, rate and time left: a bar on a terminal, ten lines elsewhere.

    Args:
        name: of the work.
        total: of the sizes.
        unit: in which sizes are counted.
        size: of a batch.
        console: to draw on.
    """
    done, lines, start = 0, 0, time.perf_counter()
    with bar(console) as progress:
        task: Any = progress.add_task(name, total=total, note=unit)
        for batch in batches:
            yield batch
            done += size(batch)
            rate = done / (time.perf_counter() - start)
            progress.update(task, completed=done, note=f"{unit}  {rate:,.0f}/s")
            if not console.is_terminal and done * 10 // total > lines:
                lines = done * 10 // total
                at = f"{name}  {done:,}/{total:,} {unit}  {rate:,.0f}/s  {left((total - done) / rate)}"
                say(console, at)


def num_tokens(batch: Mapping[str, Any]) -> int:
    """Of a padded batch, without its padding."""
    return int(batch["attention_mask"].sum())


class ShowProgress(TrainerCallback):
    """A bar on a terminal, a line for each log elsewhere."""

    def __init__(self, title: str, console: Console | None = None):
        self.title, self.console = title, console or Console()
        self.progress: Progress | None = None
        self.task: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.progress = bar(self.console)
        self.task = self.progress.add_task(self.title, total=state.max_steps, completed=state.global_step, note="")
        self.progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.progress is not None:
            self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **kwargs: Any) -> None:
        if self.progress is None or not logs or "loss" not in logs:
            return
        note = "  ".join(
            f"{_SAID.get(name, name)} {logs[name]:.3g}" for name in _SHOWN if isinstance(logs.get(name), float)
        )
        if "tokens_per_second" in logs:
            note += f"  {logs['tokens_per_second']:.0f} answer tokens/s"
        self.progress.update(self.task, completed=state.global_step, note=note)
        if not self.console.is_terminal:
            seconds = self.progress.tasks[0].time_remaining
            shown = "" if seconds is None else f"  {left(seconds)}"
            at = f"step {state.global_step}/{state.max_steps}"
            say(self.console, f"{self.title}  {at}  {note}{shown}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
