"""TensorBoard, W&B, trackio and others also get held-out metrics, under TRL's names, and are closed after the last."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import Trainer, TrainerCallback
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK, TensorBoardCallback

NAMES = {
    "preference_accuracy": "rewards/accuracies",
    "preference_margin": "rewards/margins",
    "top1": "mean_token_accuracy",
    "completion_length": "completions/mean_length",
    "truncation_rate": "completions/clipped_ratio",
    "nll": "loss",
    "reward_loss": "loss",
    "reward_accuracy": "accuracy",
    "tokens": "num_tokens",
}
"""ours -> TRL's, after eval_"""


class Trackers(TrainerCallback):
    """Forwards every event to the trackers of a run except its end, after which more is logged.

    TensorBoard's files lie in `tensorboard` in the run's folder, unless TENSORBOARD_LOGGING_DIR is set.
    """

    def __init__(self, trackers: list[TrainerCallback], folder: Path):
        self.trackers = trackers
        for one in trackers:
            if isinstance(one, TensorBoardCallback) and "TENSORBOARD_LOGGING_DIR" not in os.environ:
                one.logging_dir = str(folder / "tensorboard")

    def held_out(self, trainer: Trainer, measured: Mapping[str, float]) -> None:
        logs = {f"eval_{NAMES.get(name, name)}": value for name, value in measured.items()}
        for one in self.trackers:
            one.on_log(trainer.args, trainer.state, trainer.control, logs=logs, model=trainer.model)

    def close(self, trainer: Trainer) -> None:
        for one in self.trackers:
            one.on_train_end(
                trainer.args, trainer.state, trainer.control, model=trainer.model,
                processing_class=trainer.processing_class,
            )  # fmt: skip


def _passing(event: str) -> Callable[..., None]:
    def pass_on(self: Trackers, args: Any, state: Any, control: Any, **known: Any) -> None:
        for one in self.trackers:
            getattr(one, event)(args, state, control, **known)

    return pass_on


for _event in [name for name in dir(TrainerCallback) if name.startswith("on_") and name != "on_train_end"]:
    setattr(Trackers, _event, _passing(_event))


def gather(trainer: Trainer, folder: Path) -> Trackers:
    """Replace the trackers among a trainer's callbacks by one `Trackers`."""
    kinds = tuple(INTEGRATION_TO_CALLBACK.values())
    callbacks = trainer.callback_handler.callbacks
    found = Trackers([one for one in callbacks if isinstance(one, kinds)], folder)
    if found.trackers:
        place = callbacks.index(found.trackers[0])
        trainer.callback_handler.callbacks = [one for one in callbacks if one not in found.trackers]
        trainer.callback_handler.callbacks.insert(place, found)
    return found
