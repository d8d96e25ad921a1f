"""Progress of a training run: a bar on a terminal, one line per log elsewhere."""

from typing import Any

from rich.console import Console
from rich.progress import Progress
from transformers import TrainerCallback

from trimtab.common.count import count
from trimtab.common.progress import bar, left
from trimtab.common.terminal import say

_SHOWN = (
    "loss",
    "reward",
    "pass_at_1",
    "correct",
    "map_cosine",
    "nll",
    "divergence",
    "grad_norm",
    "groups_without_signal",
    "one_outcome",
)
_LABELS = {
    "pass_at_1": "pass@1",
    "correct": "accuracy",
    "map_cosine": "cosine of the maps",
    "grad_norm": "gradient norm",
    "groups_without_signal": "groups without signal",
    "one_outcome": "batches of one outcome",
}


class ShowProgress(TrainerCallback):
    """A bar on a terminal, one line per log elsewhere."""

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
        shown = {_LABELS.get(name, name): logs[name] for name in _SHOWN if isinstance(logs.get(name), float)}
        note = "  ".join(f"{label} {value:.3g}" for label, value in shown.items())
        if "tokens_per_second" in logs:
            note += f"  {count(round(logs['tokens_per_second']), 'answer token')}/s"
        if "tokens_read_per_second" in logs:
            note += f"  {count(round(logs['tokens_read_per_second']), 'token')}/s"
        self.progress.update(self.task, completed=state.global_step, note=note)
        if not self.console.is_terminal:
            seconds = self.progress.tasks[0].time_remaining
            remaining = "" if seconds is None else f"  {left(seconds)}"
            say(self.console, f"{self.title}  step {state.global_step}/{state.max_steps}  {note}{remaining}")

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.close()

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None
