"""The number of updates in an epoch, and the rows that it drops; known before a model is loaded."""

import math
from dataclasses import dataclass
from typing import Any

from trimtab.train.packs import Packing
from trimtab.train.settings import Loop, TrainingError


@dataclass(frozen=True)
class Epoch:
    updates: int
    left_out: int = 0
    """dropped rows, which fill no batch, window or batch of rollouts"""
    note: str = ""
    """about dropped or repeated rows"""


def epoch_of(
    args: Any, loop: Loop, rows: int, window: tuple[int, int] | None = None, packing: Packing | None = None
) -> Epoch:
    """An epoch over a number of rows, with `args` of `settings.build` and `window` of `Requirements.window`.

    Raises:
        TrainingError: if there are too few rows for one update.
    """
    if loop == "rollouts":
        return _of_rollouts(args, rows)
    if packing is not None:
        return _of_packs(args, packing, window)
    if rows < args.world_size:
        raise TrainingError(
            f"{rows} training {'row is' if rows == 1 else 'rows are'} too few for {args.world_size} processes, each of "
            f"which takes others; start at most {rows}, or add rows"
        )
    size = args.train_batch_size * args.world_size
    whole = size * args.gradient_accumulation_steps
    if window is not None:
        return _of_windows(args, rows, window, whole)
    if not args.dataloader_drop_last:
        batches = math.ceil(rows / size)
        # of other loops they are filled with rows without answer tokens, see `train.orders`
        twice = batches * size - rows if args.world_size > 1 and loop == "classification" else 0
        verb = "is" if twice == 1 else "are"
        note = f"{twice} of {rows} rows {verb} repeated in each epoch, so that all processes have full batches"
        return Epoch(math.ceil(batches / args.gradient_accumulation_steps), note=note if twice else "")
    strategy = getattr(args.train_sampling_strategy, "value", args.train_sampling_strategy)
    unit = whole if strategy == "batch_rebalance" else size
    taken = rows // unit * unit
    how = f"a batch takes {unit} and training.dataloader_drop_last drops the rest"
    if taken == 0:
        raise TrainingError(
            f"{rows} training rows are too few for an update: {how}; lower training.per_device_train_batch_size or "
            "leave out dataloader_drop_last"
        )
    return Epoch(math.ceil(taken / whole), rows - taken, _left(rows, taken, how, strategy == "sequential"))


def _of_packs(args: Any, packing: Packing, window: tuple[int, int] | None) -> Epoch:
    """Packs are split until all batches are full, so no row is dropped or repeated, unless there are too few."""
    whole = args.train_batch_size * args.world_size * args.gradient_accumulation_steps
    if packing.number % packing.multiple:
        raise TrainingError(
            f"{packing}: an update takes {whole}{f' and a window {packing.multiple}' if window else ''}, which is more "
            "than there are rows; lower training.per_device_train_batch_size, the number of packs in a batch"
        )
    times = 1 if window is None else window[1]
    batches = math.ceil(packing.number / (args.train_batch_size * args.world_size))
    return Epoch(math.ceil(batches / args.gradient_accumulation_steps) * times, note=str(packing))


def _of_windows(args: Any, rows: int, window: tuple[int, int], whole: int) -> Epoch:
    updates, times = window
    size = updates * whole
    windows = rows // size
    how = f"a window takes {size} (options.refresh {updates} x {whole} rows of an update)"
    if windows == 0:
        raise TrainingError(f"{rows} training rows do not fill a window: {how}; lower options.refresh or batch size")
    return Epoch(windows * updates * times, rows - windows * size, _left(rows, windows * size, how, False))


def _of_rollouts(args: Any, rows: int) -> Epoch:
    size = args.generation_batch_size // args.num_generations
    batches = rows // size
    how = (
        f"a batch of rollouts takes {size} (training.generation_batch_size {args.generation_batch_size} / "
        f"num_generations {args.num_generations})"
    )
    if batches == 0:
        raise TrainingError(
            f"{rows} training tasks are too few for an update: {how}; add tasks, or lower training."
            "per_device_train_batch_size or steps_per_generation"
        )
    updates = batches * args.num_iterations * args.steps_per_generation // args.gradient_accumulation_steps
    return Epoch(updates, rows - batches * size, _left(rows, batches * size, how, not args.shuffle_dataset))


def _left(rows: int, taken: int, how: str, fixed: bool) -> str:
    if rows == taken:
        return ""
    which = "the last ones, as the order is fixed" if fixed else "different ones each time"
    return (
        f"{rows - taken} of {rows} rows {'is' if rows - taken == 1 else 'are'} dropped from each epoch, {which}: {how}"
    )


def updates_asked(args: Any, epoch: Epoch) -> int:
    """Updates of the whole training, as transformers counts them."""
    return args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * epoch.updates)
