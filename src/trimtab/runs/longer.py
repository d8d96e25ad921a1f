"""Extending a finished run: allowed if the steps so far are what the longer run would have trained."""

from pathlib import Path
from typing import Any

import torch
from transformers import get_scheduler

from trimtab.common.errors import UserError

LOOKED_AT = 2000
"""steps at which two schedules are compared"""


class TooLong(UserError):
    """A run that cannot be extended, or would become shorter."""


def check(folder: Path, args: Any, was: int, now: int) -> None:
    """Check that the learning rate over the steps trained so far is that of the longer run.

    Args:
        folder: of the run.
        args: of `settings.build`.
        was, now: updates.

    Raises:
        TooLong: with the reason.
    """
    if now < was:
        raise TooLong(
            f"{folder} has trained {was} steps and the recipe asks for {now}; a run can be extended but not "
            "shortened: choose another output=FOLDER"
        )
    before, after = _rates(args, was, was), _rates(args, now, was)
    apart = next(
        (i for i, (one, other) in enumerate(zip(before, after)) if abs(one - other) > 1e-9 * max(one, other)), None
    )
    if apart is not None:
        name = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
        raise TooLong(
            f"{folder} cannot be extended: training.lr_scheduler_type={name} depends on the total number of "
            f"steps, so a run of {now} would have trained the first {was} differently; start over with "
            "output=FOLDER, and use lr_scheduler_type=constant (or constant_with_warmup with a fixed number of "
            "warmup_steps) for runs to be extended"
        )


def _rates(args: Any, steps: int, upto: int) -> list[float]:
    """Learning rates at steps before `upto` of a schedule over so many."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    warmup = args.get_warmup_steps(steps)
    schedule = get_scheduler(args.lr_scheduler_type, optimizer, warmup, steps, args.lr_scheduler_kwargs)
    rate = getattr(schedule, "lr_lambdas", [None])[0]
    if rate is None:
        return [float(steps)]  # it is not known how it goes: taken for another one
    return [float(rate(step)) for step in range(0, upto, max(1, upto // LOOKED_AT))]
