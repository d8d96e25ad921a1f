"""Enforce a training budget in minutes, because the speed of a machine changes."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from trimtab.train.together import any_process

GRACE = 2.0
"""seconds beyond the budget, so that noise does not end a very small one"""


class Budget(TrainerCallback):
    """Stop training before the step that would exceed the budget; at least one step is trained.

    Only steps are counted, not evaluations and checkpoints.

    Args:
        seconds: of training, over all resumes.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic):
        self.seconds, self.clock = seconds, clock
        self.used = 0.0
        self.over = False
        """whether it has stopped training"""
        self._since = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._since = self.clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        last = self.clock() - self._since
        self.used += last
        if state.global_step < state.max_steps and any_process(self.used + last > self.seconds + GRACE, args.device):
            self.over = control.should_save = control.should_training_stop = True

    def state_dict(self) -> dict[str, Tensor]:
        return {"used": torch.tensor(self.used, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.used = float(state["used"])
