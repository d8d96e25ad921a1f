"""Training budgets in minutes: how many steps fit on this machine."""

import statistics
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from rich.console import Console

from trimtab.common.count import count
from trimtab.common.progress import watched
from trimtab.common.terminal import say
from trimtab.data.collate import length_sorted
from trimtab.data.shared_prefixes import SharedPrefixes
from trimtab.runs.check import samples
from trimtab.runs.folder import RunError, stored_recipe
from trimtab.runs.frozen_places import move_frozen
from trimtab.runs.job import Job, load_job
from trimtab.runs.models_key import cache_folder
from trimtab.runs.policy import Shared
from trimtab.runs.recipe import Recipe, Stages, named_models, policy_source
from trimtab.signals.base import call_plan
from trimtab.signals.classifier import call_on_labels
from trimtab.train import checkpoints, settings
from trimtab.train.budget import Budget
from trimtab.train.events import EventLog


def as_short(recipe: Recipe, before: Sequence[Path], console: Console) -> list[str]:
    """Cap a stage at the steps of the previous one, which the budget may have stopped early, so that they can be
    compared. Returns a note for the user."""
    planned = recipe.training["max_steps"]
    trained = [
        event["step"] for folder in before for event in EventLog(folder).events() if event["event"] == "finished"
    ]
    if not trained or trained[-1] >= planned:
        return []
    recipe.training["max_steps"] = trained[-1]
    note = (
        f"{count(trained[-1], 'step')} instead of {planned}, as many as {before[0]} trained in its share of the minutes"
    )
    say(console, note)
    return [note]


def seconds_trained(folder: Path) -> float:
    """Seconds of training of a finished run."""
    return next((e["seconds"] for e in reversed(EventLog(folder).events()) if e["event"] == "finished"), 0.0)


def seconds_per_step(job: Job, console: Console | None = None, most: float = float("inf")) -> float:
    """Seconds that an update of this job takes on this machine, optimizer included; the weights stay as they are.

    The median over three batches of typical rows, after a warm-up, with a tenth added for logs and checkpoints.

    Args:
        console: for progress.
        most: seconds after which no further batch is measured.
    """
    args = settings.build(job.recipe.training, Path(job.recipe.output), job.recipe.seed, job.method.loop)
    device, size = args.device, args.per_device_train_batch_size
    policy = job.policy.to(device).train()
    if args.gradient_checkpointing:
        policy.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    move_frozen(job, device)
    mixed = torch.bfloat16 if args.bf16 else torch.float16
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)  # does all the work and changes nothing
    forward, update = [], []
    batches, number = _typical(job, 4, size, device)
    name = f"measuring the speed of this machine for {job.recipe.method}"
    began = time.perf_counter()
    for inputs in watched(
        batches, name, number, "rows", lambda one: len(one["labels"]), console or Console(quiet=True)
    ):
        start = time.perf_counter()
        if len(forward) > 1 and start - began > most:
            break
        with torch.autocast(device.type, mixed, enabled=bool(args.bf16 or args.fp16)):
            output = (call_plan if job.labels is None else call_on_labels)(job.plan, policy, inputs)
        assert output.loss is not None
        output.loss.backward()
        forward.append(time.perf_counter() - start)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        update.append(time.perf_counter() - start - forward[-1])
    policy.eval()
    policy.gradient_checkpointing_disable()
    typical = [statistics.median(timings[1:] or timings) for timings in (forward, update)]
    seconds = 1.1 * (typical[0] * args.gradient_accumulation_steps + typical[1])
    return max(gather_object([seconds]))  # all processes must choose the same number of steps


def _typical(job: Job, number: int, size: int, device: torch.device) -> tuple[Iterable[dict[str, Any]], int]:
    """Batches of rows of middle length, or of packs or of rows that share as they come, and how many rows they hold.

    Args:
        number: of batches.
        size: rows or packs of a batch.
    """
    collator: Any = job.collator
    if job.args.share_prefixes:  # rows that follow each other are those that begin alike
        collator, units = SharedPrefixes(collator), job.train.rows[: number * size]
        held = len(units)
    elif job.packing is None:
        rows = sorted(job.train.rows, key=lambda row: len(row["input_ids"]))
        middle = max(0, len(rows) // 2 - 2 * size)
        some = rows[middle : middle + number * size]
        return length_sorted(some, collator, size, device), len(some)
    else:
        packs = job.packing.packs()
        packs = packs[:: max(1, len(packs) // (number * size))][: number * size]
        units = [[job.train.rows[i] for i in pack] for pack in packs]
        held = sum(map(len, units))
    batches = (collator(units[start : start + size]) for start in range(0, len(units), size))
    return ({name: value.to(device) for name, value in batch.items()} for batch in batches), held


def pace(recipe: Recipe, later: Collection[str], shared: Shared, console: Console) -> str:
    """How long the steps of a recipe take on this machine, in words; or why that is not measured.

    Args:
        later: folders of models that are yet to be trained.

    Raises:
        UserError: if it cannot be loaded.
    """
    if samples(recipe):
        return f"not measured: {recipe.method} writes completions, and how long they get is not known beforehand"
    names = (policy_source(recipe), *named_models(recipe).values())
    if missing := [name for name in names if name in later and not Path(name).is_dir()]:
        return f"not measured: {missing[0]} is yet to be trained"
    cache = cache_folder(recipe.models.teacher)
    if cache is not None and recipe.models.teacher in later and not cache.is_dir():
        return f"not measured: {cache} is yet to be written"
    job = load_job(recipe, shared, Console(quiet=True))
    seconds = seconds_per_step(job, console)
    return (
        f"{seconds:.2g} s a step on {job.args.device.type}, so {seconds * job.updates / 60:.2g} minutes for "
        f"{count(job.updates, 'step')} (measured over a few rows of middle length; evaluations come on top)"
    )


def fit_steps(recipe: Recipe, minutes: float, seconds: float, asked: int) -> str:
    """Lower `max_steps` to fit the budget; returns the decision in words.

    Args:
        asked: updates without a budget.
    """
    possible = max(1, int(minutes * 60 / seconds))
    recipe.training["max_steps"] = steps = min(asked, possible)
    shown = f"{minutes:g} {'minute' if minutes == 1 else 'minutes'}"
    pace = f"this machine needs about {seconds:.1f} s a step"
    if steps < asked:
        return f"{pace}: training {count(steps, 'step')}, as {asked} do not fit in {shown}"
    return f"{pace}: {count(steps, 'step')} fit{'s' * (steps == 1)} in {shown}"


def fit_stages(stages: Stages, console: Console, shared: Shared) -> tuple[str, list[float]]:
    """Give all stages the same number of steps, so that they can be compared.

    Returns:
        What was decided, in words, and how long a step of each stage takes beside those of the others.
    """
    assert stages.minutes is not None
    stored = [Path(recipe.output) / "recipe.yaml" for recipe in stages.stages]
    known = next((path for path in stored if path.exists()), None)
    each = [1.0] * len(stages.stages)
    if known is not None:
        steps = stored_recipe(known)["training"].get("max_steps")
        if steps is None:
            raise RunError(f"{known.parent} holds a run without a budget of minutes; choose another output=FOLDER")
        note = f"{count(steps, 'step')}, as in {known.parent}"
        for recipe in stages.stages:
            recipe.training["max_steps"] = steps
    else:
        asked, most = [], 6 * stages.minutes / len(stages.stages)
        for number, recipe in enumerate(stages.stages):
            job = load_job(recipe, shared, Console(quiet=True))
            each[number] = seconds_per_step(job, console, most)
            asked.append(job.updates)
        notes = [fit_steps(recipe, stages.minutes, sum(each), n) for recipe, n in zip(stages.stages, asked)]
        note = f"{notes[0]} (all {len(notes)} stages together)"
    say(console, note)
    return note, each


def said_of_budget(step: int, planned: int, budget: Budget) -> str:
    return (
        f"stopped after step {step} of {planned}: {budget.used / 60:.1f} of {budget.seconds / 60:.1f} minutes are "
        "used, because the machine is slower than when its speed was measured; the learning rate schedule was made for "
        "all steps"
    )


def ran_out(log: EventLog, checkpoint: Path) -> bool:
    """Whether the budget stopped the run after this checkpoint."""
    step = checkpoints.step_of(checkpoint)
    return any(event["event"] == "out of time" and event["step"] == step for event in log.events())
