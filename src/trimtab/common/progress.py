"""Progress bars with rates and time left."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from trimtab.common.terminal import say

T = TypeVar("T")


def bar(console: Console) -> Progress:
    """A bar whose tasks have a `note`; nothing is drawn without a terminal."""
    columns = (
        TextColumn("{task.description}", style="bold", markup=False), BarColumn(), MofNCompleteColumn(),
        TextColumn("{task.fields[note]}", markup=False), TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=console, disable=not console.is_terminal)


def advance(progress: Progress, task: Any, number: int) -> None:
    """Advance a bar; without a terminal, print a line instead."""
    progress.update(task, advance=number)
    console = progress.console
    if not console.is_terminal:
        one = progress.tasks[task]
        shown = "" if one.time_remaining is None else f"  {left(one.time_remaining)}"
        done = f"{one.description}  {one.completed:.0f}/{one.total or 0:.0f} {one.fields['note']}"
        say(console, f"{done}{shown}")


def left(seconds: float) -> str:
    """Time left, in words."""
    return f"left {int(seconds) // 60}:{int(seconds) % 60:02d}"


def watched(
    batches: Iterable[T], name: str, total: int, unit: str, size: Callable[[T], int], console: Console
) -> Iterator[T]:
    """Yield the batches and show progress, rate and time left: a bar on a terminal, ten lines elsewhere. `size` of a
    batch and `total` are counted in `unit`."""
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
    """Number of tokens in a padded batch, without padding."""
    return int(batch["attention_mask"].sum())
