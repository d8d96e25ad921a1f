"""From a recipe to a finished run folder: check, load, train, measure, report."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text
from transformers import (
    PrinterCallback,
    TrainerState,
)

from trimtab import methods, report
from trimtab.common import processes
from trimtab.common.disk import writing_to
from trimtab.common.errors import Interrupted
from trimtab.common.files import write_atomic
from trimtab.common.terminal import say
from trimtab.common.workdir import read_signature, write_signature
from trimtab.data.rows import LENGTHS
from trimtab.data.sources import load_rows
from trimtab.report.rollouts import spread
from trimtab.runs import classification, longer, shared_stages
from trimtab.runs.alike import check_same_signature
from trimtab.runs.budget import (
    as_short,
    fit_stages,
    fit_steps,
    ran_out,
    said_of_budget,
    seconds_per_step,
    seconds_trained,
)
from trimtab.runs.evaluation import evaluator
from trimtab.runs.folder import (
    ANOTHER,
    check_folder,
    check_signature,
    is_new,
    kept,
    note_of_move,
    stopped_early,
    workdir,
)
from trimtab.runs.frozen_places import place_frozen
from trimtab.runs.job import Job, load_job
from trimtab.runs.models_key import STORED
from trimtab.runs.policy import Shared, marks
from trimtab.runs.recipe import Recipe, Stages, dump
from trimtab.runs.saving import save_model, whole_weights
from trimtab.runs.served_job import how_sampled, rollout_trainer
from trimtab.runs.shared_stages import is_reusable, reused
from trimtab.runs.teacher_pass import check_sizes, write_stage
from trimtab.train import checkpoints, settings, trackers
from trimtab.train.base import ObjectiveLoop
from trimtab.train.budget import Budget
from trimtab.train.classification import ClassificationTrainer
from trimtab.train.dataset import DrawnRationales, Rows
from trimtab.train.epochs import updates_asked
from trimtab.train.events import EventLog, StopOnInterrupt, WriteEvents
from trimtab.train.progress import ShowProgress
from trimtab.train.rollouts import check_buffer, rollout_config
from trimtab.train.sampled_pairs import SampledPairsTrainer
from trimtab.train.together import told_of_failures
from trimtab.train.trainer import ObjectiveTrainer
from trimtab.train.wrapping import ConfirmWrapping, Wrapping, check_asked, check_sharded_plan, check_states, wrapping


@dataclass(frozen=True)
class Result:
    """Where to find a finished run."""

    folder: Path
    report: Path


def run(recipe: Recipe, *, resume: bool = False, edited: bool = False, console: Console | None = None) -> Result:
    """Run one recipe.

    Args:
        resume: resume an unfinished run.
        edited: accept that its code was edited since; the run notes it.

    Raises:
        ValueError: (or a subclass) for a mistake in the recipe, its data or its models; the run folder is
            then not created.
        Interrupted: after Ctrl-C.
    """
    return _run_one(recipe, _Asked(resume, edited, console or Console(), Shared()))


def run_stages(stages: Stages, *, resume: bool = False, edited: bool = False, console: Console | None = None) -> Result:
    """Run the stages in order and compare them. When resuming, finished stages are kept.

    Args as of `run`.
    """
    asked = _Asked(resume, edited, console or Console(), Shared())
    try:
        folders = _run_all(stages, asked)
        return Result(Path(stages.output), report.write(folders, Path(stages.output) / "comparison.html"))
    except KeyboardInterrupt:  # between two stages
        raise Interrupted(f"stopped; what is finished is kept; continue with: {stages.stages[0].command()}") from None


@dataclass(frozen=True)
class _Asked:
    """How all runs of a command are to be carried out, see `run`."""

    resume: bool
    edited: bool
    console: Console
    shared: Shared


@dataclass(frozen=True)
class _Share:
    """What a stage has of the minutes of all."""

    seconds: float | None
    """of training, after which it is ended"""
    notes: Sequence[str]


def _run_all(stages: Stages, asked: _Asked) -> list[Path]:
    """The stages in order; returns their folders."""
    console, shared = asked.console, asked.shared
    shared_stages.place(stages.stages, console)
    for recipe in stages.stages:  # a mistake in the last stage must not cost the first ones
        recipe.minutes = stages.minutes  # says in the run folder that the steps were fitted
        if recipe.precompute is None and not is_reusable(recipe):
            check_folder(Path(recipe.output), recipe, asked.resume and Path(recipe.output).exists())
    check_sizes(stages.stages)
    first, *later = ({one.data.train, one.data.heldout} for one in stages.stages)
    for source in filter(None, set().union(*later) - first):  # the first stage reads its own at once
        load_rows(source)
    notes, shares = [], [1.0] * len(stages.stages)
    if stages.minutes is not None:
        note, shares = fit_stages(stages, console, shared)
        notes = [note]
    folders: list[Path] = []
    for number, recipe in enumerate(stages.stages):
        console.rule(Text(f"{'precompute' if recipe.precompute else recipe.method}: {recipe.output}"))
        if recipe.precompute is not None:
            shared.teachers.clear()  # what it asks is not in memory while later stages read the cache
            shared.models.clear()
            say(console, write_stage(recipe, console).said())
            continue
        if is_reusable(recipe) and reused(stages.stages, number, shared, console):
            folders.append(Path(recipe.output))
            continue
        seconds = None
        if stages.minutes is not None:
            notes += as_short(recipe, folders[-1:], console)
            left = 60 * stages.minutes - sum(map(seconds_trained, folders))
            seconds = left * shares[number] / sum(shares[number:])
        again = replace(asked, resume=asked.resume and Path(recipe.output).exists())
        folders.append(_run_one(recipe, again, _Share(seconds, notes)).folder)
    return folders


def _run_one(recipe: Recipe, asked: _Asked, share: _Share | None = None) -> Result:
    """One run.

    Args:
        share: of a stage; any other run has its minutes alone, and fits its steps to them.
    """
    folder, resume, console = Path(recipe.output), asked.resume, asked.console
    seconds = 60 * recipe.minutes if recipe.minutes is not None else None
    if processes.rank() == 0:
        is_new(folder, resume)
    work = workdir(folder)
    with told_of_failures(work.abandon), processes.ended_tidily(), work.open(partial(kept, recipe)):
        stored = check_folder(folder, recipe, resume)
        if isinstance(stored, str):
            say(console, f"{folder} is already finished")
            return Result(folder, folder / "report.html")
        if stored is not None:
            recipe = recipe.model_copy(update={"training": stored["training"]})  # steps that were fitted to the machine
        job = load_job(recipe, asked.shared, console)
        check_same_signature(job.signature)
        if stored is not None:
            job.moved = note_of_move(folder)
            job.edited = check_signature(folder, job.signature, asked.edited)
            longer_events = [event["to"] for event in EventLog(folder).events() if event["event"] == "longer"]
            job.more = max(longer_events, default=0)
            if way := stored.get("as_it_was"):
                _make_longer(folder, job, way)
        elif share is None and recipe.minutes is not None:
            pace = seconds_per_step(job, console, 6 * recipe.minutes)
            job.notes.append(fit_steps(recipe, recipe.minutes, pace, job.updates))
            say(console, job.notes[-1])
        job.notes += share.notes if share else ()
        job.seconds = share.seconds if share else seconds
        return execute(job, folder, resume=stored is not None, console=console)


def _make_longer(folder: Path, job: Job, way: str) -> None:
    """Extend a resumed run to more steps.

    Args:
        way: how to resume it as it was.

    Raises:
        TooLong: see `trimtab.runs.longer.check`; of an unfinished run with that way.
    """
    last = checkpoints.last_complete(folder / "checkpoints")
    job.more = job.updates
    if last is None:
        job.longer = f"extended to {job.updates} steps; no checkpoint is left, so it starts over"
        return
    planned = TrainerState.load_from_json(str(last / "trainer_state.json")).max_steps
    try:
        longer.check(folder, job.args, planned, job.updates)
    except longer.TooLong:
        if (step := checkpoints.step_of(last)) >= planned:
            raise
        raise longer.TooLong(
            f"{folder} holds a run of {planned} steps, stopped after step {step}, and the recipe asks for "
            f"{job.updates}; {way}, or {ANOTHER}"
        ) from None
    job.longer = f"extended to {job.updates} steps from {planned}"


def execute(job: Job, folder: Path, *, resume: bool, console: Console) -> Result:
    """Train, measure, save; nothing about the recipe can fail any more."""
    recipe = job.recipe
    args = settings.build(recipe.training, folder, recipe.seed, job.method.loop)
    log = EventLog(folder)
    interrupt = StopOnInterrupt(check_buffer(args) if job.rollouts else 1)
    if job.rollouts:
        generation = rollout_config(args, *marks(job.policy, job.tokenizer))
        job.notes.append(f"completions are generated {how_sampled(job, args, generation)}")
    progress = ShowProgress(f"{recipe.method} -> {folder}", console)
    checkpoint = checkpoints.last_complete(folder / "checkpoints") if resume else None

    def tell(means: dict[str, float]) -> None:
        tracked.held_out(trainer, means)

    evaluate = (evaluator if job.labels is None else classification.evaluator)(job, args, log, console, tell)
    events = WriteEvents(log, evaluate, recipe.eval.every)
    budget = [] if job.seconds is None else [Budget(job.seconds)]
    trainer = _trainer(job, args, log, [events, progress, interrupt, *budget])
    if job.starts_from_reference:
        trainer.reference_dtype = STORED if recipe.models.reference == STORED else recipe.models.frozen_dtype

    def remark(note: str) -> None:
        if trainer.is_world_process_zero():
            log.event("note", trainer.state.global_step, text=note)
            say(console, note)

    trainer.tell = remark
    trainer.remove_callback(PrinterCallback)
    shared = wrapping(trainer.accelerator)
    check_asked(shared)
    check_sharded_plan(shared, job.plan)
    if resume:
        check_states(
            shared, (read_signature(folder) or {}).get("processes", ""), getattr(args.optim, "value", args.optim)
        )
    job.signature["processes"] = shared.line()
    trainer.callback_handler.callbacks.insert(0, ConfirmWrapping(trainer, shared))  # before the first evaluation
    tracked = trackers.gather(trainer, folder)
    place_frozen(job, args.device, shared)
    say(console, f"training in {shared}")
    main = trainer.is_world_process_zero()
    if main:
        folder.mkdir(parents=True, exist_ok=True)
        _start(job, folder, log, resume, checkpoint, console, shared)
    trainer.accelerator.wait_for_everyone()
    try:
        if checkpoint is not None and (_is_last(checkpoint, job.more) or ran_out(log, checkpoint)):
            trainer.finish_from(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        progress.close()
        interrupt.restore()
    step = trainer.state.global_step
    if any(one.over for one in budget):
        if main:
            note = said_of_budget(step, trainer.state.max_steps, budget[0])
            log.event("out of time", step, text=note)
            say(console, note)
    elif interrupt.interrupted and step < trainer.state.max_steps:
        tracked.close(trainer)
        if main:
            log.event("interrupted", step)
        trainer.accelerator.wait_for_everyone()
        raise Interrupted(f"stopped after step {step}; {kept(recipe, '')}")
    if evaluate is not None:
        evaluate(trainer.model, step, True)
    tracked.close(trainer)
    weights = whole_weights(trainer) if shared.splits_weights else None
    if main:
        say(console, "saving the model and writing the report")
        learnt = [remark for one in (*job.plan.rollout_signals, trainer) for remark in one.remarks()]
        with writing_to(folder / "model"):
            for note in (*learnt, *save_model(trainer, job, folder, weights)):
                log.event("note", step, text=note)
                say(console, note)
        for title, rows in job.plan.objective.tables(job.tokenizer.decode).items():
            log.event("table", step, title=title, rows=rows)
        answers = {"tokens": trainer.totals.answer_tokens} if job.labels is None else {}
        log.event("finished", step, seconds=round(events.seconds, 2), **answers)
        report.write([folder])
    trainer.accelerator.wait_for_everyone()  # a next stage reads what is written here
    return Result(folder, folder / "report.html")


def _trainer(job: Job, args: Any, log: EventLog, callbacks: list[Any]) -> ObjectiveLoop:
    asked = job.recipe.training.get("disable_dropout")
    drawn = job.train.rows and LENGTHS in job.train.rows[0]
    shared: dict[str, Any] = {
        "dropout": None if asked is None else not asked,
        "model": job.policy,
        "args": args,
        "plan": job.plan,
        "train_dataset": DrawnRationales(job.train.rows, job.recipe.seed) if drawn else Rows(job.train.rows),
        "processing_class": job.tokenizer,
        "callbacks": callbacks,
    }
    if job.labels is not None:
        epochs = math.ceil(updates_asked(args, job.epoch) / job.epoch.updates)
        how: dict[str, Any] = {"epoch_updates": job.epoch.updates, "epochs": epochs}
        return ClassificationTrainer(**shared, data_collator=job.collator, **how)
    if not job.rollouts:
        kind = ObjectiveTrainer if job.plan.rejected is None else SampledPairsTrainer
        trainer = kind(**shared, data_collator=job.collator, window=job.window, packing=job.packing)
        trainer.num_sources = job.train.sources
        return trainer

    def watch(step: int, rows: list[dict[str, Any]]) -> None:
        for row in spread(rows, SHOWN_ROLLOUTS):
            tokens = [job.tokenizer.decode([token]) for token in row.pop("ids")]
            log.sample("rollout", step, **row, tokens=tokens)

    return rollout_trainer(
        job, **shared, reward_funcs=job.rewards, watch=watch, correct=[one.correct for one in job.recipe.reward]
    )


SHOWN_ROLLOUTS = 4
"""of each batch, in samples.jsonl: the best, the worst, and those between"""


def _is_last(checkpoint: Path, updates: int) -> bool:
    """Whether the run was stopped after its last step, while evaluating or saving: nothing is left to train."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state.global_step >= max(state.max_steps, updates)


def _start(
    job: Job, folder: Path, log: EventLog, resume: bool, checkpoint: Path | None, console: Console, shared: Wrapping
) -> None:
    if resume:
        passed = checkpoints.passed_over(folder / "checkpoints", checkpoint) if checkpoint else None
        checkpoints.remove_incomplete(folder / "checkpoints")
        log.resume(checkpoints.step_of(checkpoint) if checkpoint else -1, job.recipe.command())
        if job.longer:
            step = checkpoints.step_of(checkpoint) if checkpoint else 0
            say(console, job.longer)
            log.event("longer", step, to=job.more)
            log.event("note", step, text=job.longer)
            write_atomic(folder / "recipe.yaml", dump(job.recipe))
        for note in filter(None, (job.edited, job.moved)):
            say(console, note)
            log.event("note", checkpoints.step_of(checkpoint) if checkpoint else 0, text=note)
            write_signature(folder, "train", job.signature)
        if job.moved:
            write_atomic(folder / "recipe.yaml", dump(job.recipe))
        if checkpoint and passed:
            say(console, passed)
            log.event("note", checkpoints.step_of(checkpoint), text=passed)
        return
    if stopped_early(folder):
        job.notes.append(f"{folder} held a run that stopped before its first checkpoint; it starts over")
        say(console, job.notes[-1])
        checkpoints.remove_incomplete(folder / "checkpoints")
    for left in (log.metrics, log.samples):  # of a run that stopped early
        left.unlink(missing_ok=True)
    write_signature(folder, "train", job.signature)
    method = {
        "name": job.recipe.method,
        "paper": job.method.paper,
        "claim": job.method.claim,
        "equation": job.method.equation,
        "summary": methods.summary(job.recipe.method),
    }
    of_train = {**vars(job.train.counts), "left_out_of_each_epoch": job.epoch.left_out}
    counts = {"train": of_train, "heldout": vars(job.heldout.counts) if job.heldout else None}
    log.event("start", 0, method=method, data=counts, launch=vars(shared), command=job.recipe.command())
    for note in job.notes:
        log.event("note", 0, text=note)
    write_atomic(folder / "recipe.yaml", dump(job.recipe))  # last: a folder with a recipe holds all that a resume reads
