"""From a recipe to a finished run folder: check, load, train, measure, report."""

import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from copy import deepcopy
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate.utils import gather_object
from rich.console import Console
from rich.text import Text
from transformers import (
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PrinterCallback,
    TrainerState,
)

from trimtab import __version__, methods, report
from trimtab.common import failures, fingerprint, processes, user_code
from trimtab.common.disk import FULL, reason, writing_to
from trimtab.common.locks import holder, writing
from trimtab.common.progress import ShowProgress, watched
from trimtab.common.terminal import say
from trimtab.core import Method, MethodConfig, Plan, Wants
from trimtab.data import stored
from trimtab.data.chat import adopt_date, date_facts
from trimtab.data.collate import Collator, length_sorted
from trimtab.data.rows import RATING, Prepared, check_losses, prepare, sequences
from trimtab.data.sources import DataError, Row, load_rows
from trimtab.data.tasks import asked as asked_ids
from trimtab.data.tasks import prepare_tasks
from trimtab.data.tokens import padded, prompt_ids
from trimtab.decoding._config import described
from trimtab.evals.models import Local
from trimtab.evals.runner import Question, ask, check_question, measures, question
from trimtab.models import loading, noise
from trimtab.models.adapters import (
    add_lora,
    answers_of,
    answers_without,
    base_is_whole,
    check_settings,
    in_float32,
    in_own_dtypes,
    kept_share,
    merged,
    off_is_start,
    remember_initial,
    same_answers,
    start_logits,
)
from trimtab.models.adapters import save as save_adapter
from trimtab.models.ends import end_tokens, settle
from trimtab.models.forward import add_objective_forward, crop_to
from trimtab.models.growth import grow_embedding, num_tokens
from trimtab.models.identity_layer import bypass, identity_layer, insert_identity_layer, train_only_identity_layer
from trimtab.models.limits import beyond, check_prompts, token_beyond
from trimtab.models.masters import back_to_own_dtypes, train_in_float32
from trimtab.models.quantised import check_policy, is_quantised
from trimtab.models.scalar_head import add_score_forward, as_critic, with_scalar_head
from trimtab.models.student import asked_layers, keep_layers
from trimtab.report.rollouts import spread
from trimtab.rewards import verifiable as rewards
from trimtab.runs import longer
from trimtab.runs.preparation import prepared as prepared_rows
from trimtab.runs.recipe import FROZEN, STORED, Cut, Models, Recipe, Stages, dump, policy_source
from trimtab.runs.run_folder import RunError, is_new
from trimtab.signals.base import call_plan, common_vocab, models_of
from trimtab.signals.candidates import CreditAtCandidates
from trimtab.signals.columns import Column
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.learning import Critic
from trimtab.signals.reward_model import ScoreSpec, TokenRewardModel, load_reward_model, score_spec_of
from trimtab.signals.start import WithoutAdapter
from trimtab.train import answers, checkpoints, heldout, settings, trackers
from trimtab.train.budget import Budget
from trimtab.train.dataset import Rows
from trimtab.train.epochs import Epoch, epoch_of, updates_asked
from trimtab.train.events import EventLog, StopOnInterrupt, WriteEvents
from trimtab.train.rollouts import RolloutTrainer, check_buffer, rollout_config, way_of_writing
from trimtab.train.trainer import ObjectiveTrainer


class Interrupted(Exception):
    """Ctrl-C ended the run after a step; its checkpoint is whole."""

    def __init__(self, folder: Path, step: int):
        super().__init__(f"stopped after step {step}; continue with --resume (run folder: {folder})")
        self.folder, self.step = folder, step


@dataclass(frozen=True)
class Result:
    """Where a finished run lies."""

    folder: Path
    report: Path


@dataclass
class Shared:
    """What several stages of one process need not load twice."""

    models: dict[Any, PreTrainedModel] = field(default_factory=dict)
    teachers: dict[Any, FrozenModel] = field(default_factory=dict)


@dataclass
class Job:
    """A checked recipe with everything loaded; nothing has been written yet."""

    recipe: Recipe
    method: Method
    plan: Plan
    policy: Any
    tokenizer: PreTrainedTokenizerBase
    train: Prepared
    heldout: Prepared | None
    heldout_signals: list[FrozenModel]
    """the teacher, if there is one, and the start of training, if drift is measured"""
    collator: Collator
    signature: dict[str, str]
    notes: list[str]
    epoch: Epoch
    """what becomes of the training rows each time that they are gone through"""
    updates: int
    """that the recipe asks for"""
    questions: dict[str, Question] = field(default_factory=dict)
    """of the suites that the policy is asked before and after training"""
    reading: ScoreSpec | None = None
    """of a reward model: how its scores are to be read"""
    rewards: list[Any] = field(default_factory=list)
    """of a method that learns from its own answers: what they are worth"""
    pairs: Prepared | None = None
    """held-out preferences, of a method that learns from some"""
    starts_from_reference: bool = False
    """the policy is the same function as its reference before the first update"""
    args: Any = None
    """of the trainer, as `settings.build` makes them"""
    seconds: float | None = None
    """of training, after which it is ended"""
    more: int = 0
    """updates that the run was made longer to; 0 if it is as long as it was begun"""
    longer: str = ""
    """what is to be said where it is made longer now"""
    edited: str = ""
    """and where it is gone on with by code that was edited since"""

    @property
    def rollouts(self) -> bool:
        """Whether it learns from its own answers."""
        return self.method.loop == "rollouts"


def run(recipe: Recipe, *, resume: bool = False, edited: bool = False, console: Console | None = None) -> Result:
    """Carry out one recipe.

    Args:
        resume: go on with it.
        edited: also where files of its code were edited since; the run says so.

    Raises:
        ValueError: (or a subclass) for a mistake in the recipe, its data or its models; the run folder is
            then not created.
        Interrupted: after Ctrl-C.
    """
    seconds = None if recipe.minutes is None else 60 * recipe.minutes
    fit = recipe.minutes is not None
    return _run_one(recipe, resume, console or Console(), Shared(), fit=fit, seconds=seconds, edited=edited)


def run_stages(stages: Stages, *, resume: bool = False, edited: bool = False, console: Console | None = None) -> Result:
    """Carry out the stages in order and compare them. Stages that are finished already are kept when resuming.

    Args as of `run`.
    """
    console, shared = console or Console(), Shared()
    for recipe in stages.stages:  # a mistake in the last stage must not cost the first ones
        recipe.minutes = stages.minutes  # says in the run folder that the steps were fitted
        check_folder(Path(recipe.output), recipe, resume and Path(recipe.output).exists())
    for source in {s for recipe in stages.stages for s in (recipe.data.train, recipe.data.heldout) if s}:
        load_rows(source)
    notes, shares = [], [1.0] * len(stages.stages)
    if stages.minutes is not None:
        note, shares = _fit_stages(stages, console, shared)
        notes = [note]
    folders: list[Path] = []
    for number, recipe in enumerate(stages.stages):
        console.rule(Text(f"{recipe.method}: {recipe.output}"))
        seconds = None
        if stages.minutes is not None:
            notes += _as_short(recipe, folders[-1:], console)
            left = 60 * stages.minutes - sum(map(_seconds_trained, folders))
            seconds = left * shares[number] / sum(shares[number:])
        again = resume and Path(recipe.output).exists()
        done = _run_one(recipe, again, console, shared, fit=False, notes=notes, seconds=seconds, edited=edited)
        folders.append(done.folder)
    page = report.write(folders, Path(stages.output) / "comparison.html")
    return Result(Path(stages.output), page)


def _as_short(recipe: Recipe, before: Sequence[Path], console: Console) -> list[str]:
    """A stage trains no more steps than the one before has, which may have been ended by the budget: they are to be
    compared. Returns what is to be said of it."""
    planned = recipe.training["max_steps"]
    trained = [
        event["step"] for folder in before for event in EventLog(folder).events() if event["event"] == "finished"
    ]
    if not trained or trained[-1] >= planned:
        return []
    recipe.training["max_steps"] = trained[-1]
    note = f"{trained[-1]} steps in place of {planned}, as many as {before[0]} has trained in its share of the minutes"
    say(console, note)
    return [note]


def _seconds_trained(folder: Path) -> float:
    """That a finished run has spent in training."""
    return next((e["seconds"] for e in reversed(EventLog(folder).events()) if e["event"] == "finished"), 0.0)


def _run_one(
    recipe: Recipe,
    resume: bool,
    console: Console,
    shared: Shared,
    fit: bool,
    notes: Sequence[str] = (),
    seconds: float | None = None,
    edited: bool = False,
) -> Result:
    """One run.

    Args:
        fit: measure the speed first, and lower the number of steps.
        seconds: of training, after which it is ended.
    """
    folder = Path(recipe.output)
    if isinstance(check_folder(folder, recipe, resume), dict):
        with _alone(folder):
            return _go_on(recipe, resume, console, shared, fit, notes, seconds, edited)
    return _go_on(
        recipe, resume, console, shared, fit, notes, seconds, edited
    )  # `execute` makes the folder, and locks it


def _alone(folder: Path) -> AbstractContextManager:
    return writing(folder, "another run", "wait for it, or choose another output=FOLDER", RunError)


def _go_on(
    recipe: Recipe,
    resume: bool,
    console: Console,
    shared: Shared,
    fit: bool,
    notes: Sequence[str],
    seconds: float | None,
    edited: bool,
) -> Result:
    folder = Path(recipe.output)
    stored = check_folder(folder, recipe, resume)
    if isinstance(stored, str):
        say(console, f"{folder} is finished already")
        return Result(folder, folder / "report.html")
    if stored is not None:
        recipe = recipe.model_copy(update={"training": stored["training"]})  # steps that were fitted to the machine
    job = load_job(recipe, shared, console)
    job.notes += notes
    if stored is not None:
        job.edited = _check_signature(folder, job.signature, edited)
        if stored.get("is_longer"):
            _make_longer(folder, job)
        else:
            job.more = max(
                (event["to"] for event in EventLog(folder).events() if event["event"] == "longer"), default=0
            )
    if stored is None and fit:
        assert recipe.minutes is not None
        job.notes.append(_fit(recipe, recipe.minutes, seconds_per_step(job, console, 6 * recipe.minutes), job.updates))
        say(console, job.notes[-1])
    job.seconds = seconds
    return execute(job, folder, resume=stored is not None, console=console)


# ---------------------------------------------------------------- the run folder


def check_folder(folder: Path, recipe: Recipe, resume: bool) -> dict[str, Any] | str | None:
    """None for a fresh start, the stored recipe for a resume, "finished" where nothing is left to do.

    Raises:
        RunError: where the folder holds something else, or a run that the user may not want to lose.
    """
    if processes.rank() != 0 and not resume:  # the main process looks, and may have begun to write already
        return None
    if is_new(folder, resume):
        return None
    stored = _stored_recipe(folder / "recipe.yaml")
    asked = yaml.safe_load(dump(recipe))
    stored["options"] = _with_later_options(stored)
    different = sorted(_differences(_comparable(stored), _comparable(asked)))
    is_longer = recipe.minutes is None and longer.only_longer({key for key, _, _ in different})
    if is_longer and resume:
        stored["training"] = longer.with_lengths(stored["training"], asked["training"])
        stored["is_longer"] = True
    elif different:
        key, was, now = different[0]
        raise RunError(
            f"{folder} holds a run of another recipe ({key} is {was} there and {now} here"
            f"{f', and {len(different) - 1} more differ' if len(different) > 1 else ''}); choose another output=FOLDER"
            f"{', or add --resume to train it further' if is_longer else ''}"
        )
    if not is_longer and _is_finished(folder):
        if resume:
            return "finished"
        raise RunError(f"{folder} holds this run, finished; see {folder}/report.html or choose another output=FOLDER")
    if not resume:
        if (now := holder(folder)) is not None:
            raise RunError(f"{folder} {now}; wait for it, or choose another output=FOLDER")
        raise RunError(f"{folder} holds this run, unfinished; add --resume to continue or choose another output=FOLDER")
    checkpoints.check(folder / "checkpoints")
    if not (folder / "signature.txt").is_file():
        raise RunError(
            f"{folder}/signature.txt is missing, by which models and rows are held against those that the run began "
            "with; put it back, or start anew with output=FOLDER"
        )
    return stored


def _is_finished(folder: Path) -> bool:
    """Whether the run has ended, and nothing has gone on with it since."""
    ends = [event["event"] for event in EventLog(folder).events() if event["event"] in ("finished", "resume")]
    return ends[-1:] == ["finished"] and (folder / "report.html").exists()


def _stored_recipe(path: Path) -> dict[str, Any]:
    try:
        stored = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is no recipe of a run; choose another output=FOLDER") from error
    if not isinstance(stored, dict) or not {"method", "models", "data", "training"} <= stored.keys():
        raise RunError(f"{path} is no recipe of a run; choose another output=FOLDER")
    return stored


def _with_later_options(stored: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a recipe that an earlier version stored, with those that the method has got since then at their
    defaults."""
    options = stored.get("options") or {}
    if stored["method"] not in methods.names():
        return options
    return {**methods.load(stored["method"]).config().model_dump(), **options}


ENVIRONMENT = {"trimtab", "versions", "hardware", "python"}
"""Lines of a signature that may differ after a resume; the event log says when."""


CODE = ("reward", "code")
"""Lines that tell the files of a user's code; what is rewarded was compared with the recipe."""


def _check_signature(folder: Path, signature: Mapping[str, str], edited: bool) -> str:
    """A resume goes on with the same models, tokenizer and rows, or not at all; where code was `edited`, if asked.

    Returns:
        What was edited, in words.

    Raises:
        RunError: naming the first line that differs.
    """
    path = folder / "signature.txt"
    stored = dict(line.split(": ", 1) for line in path.read_text(encoding="utf-8").split("\n") if ": " in line)
    for key, now in signature.items():
        if key in ENVIRONMENT | {"options"} or stored.get(key) == now:  # options were compared with the recipe
            continue
        if key in CODE and signature.get("code", "") != stored.get("code", ""):
            continue
        was = f"{key} was {stored.get(key)} and is {now}"
        raise RunError(f"{folder} cannot be resumed: {was}; put back what has changed or start anew with output=FOLDER")
    before, now = stored.get("code", ""), signature.get("code", "")
    if before == now:
        return ""
    said = f"of its code {user_code.changes(before, now)}"
    if stored.get("trimtab") != __version__:
        said += f" (trimtab was {stored.get('trimtab')} and is {__version__})"
    if not edited:
        raise RunError(
            f"{folder} cannot be resumed: {said}; put it back, add --edited to go on with the code as it is now, or "
            "start anew with output=FOLDER"
        )
    return f"gone on with by other code than it was begun with: {said}"


def _make_longer(folder: Path, job: Job) -> None:
    """Let a run that is gone on with train more steps than it was begun with.

    Raises:
        TooLong: see `trimtab.runs.longer.check`.
    """
    last = checkpoints.last_complete(folder / "checkpoints")
    job.more = job.updates
    if last is None:
        job.longer = f"made longer: {job.updates} steps; no checkpoint is left, so that it begins again"
        return
    planned = TrainerState.load_from_json(str(last / "trainer_state.json")).max_steps
    longer.check(folder, job.args, planned, job.updates)
    job.longer = f"made longer: {job.updates} steps in place of {planned}"


def _comparable(recipe: dict[str, Any]) -> dict[str, Any]:
    """Without what changes nothing, and the number of steps where the machine's speed chose it."""
    training = dict(recipe["training"])
    if recipe.get("minutes") is not None:
        training.pop("max_steps", None)
    data = {key: value for key, value in recipe["data"].items() if key != "workers"}
    return {**recipe, "training": training, "data": data}


def _differences(one: Any, other: Any, at: str = "") -> list[tuple[str, str, str]]:
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        found = []
        for key in {**one, **other}:
            found += _differences(one.get(key), other.get(key), f"{at}.{key}" if at else str(key))
        return found
    return [] if one == other else [(at, str(one), str(other))]


# ---------------------------------------------------------------- loading and checking


def load_job(recipe: Recipe, shared: Shared, console: Console) -> Job:
    """Check and load everything that a run needs, cheapest first; nothing is written.

    Raises:
        ValueError: a subclass that names what is wrong.
    """
    models = recipe.models
    method, options, wants = method_of(recipe)
    args = settings.build(recipe.training, Path(recipe.output), recipe.seed, method.loop)  # TRL's own checks come first
    processes.check_group(args.world_size)
    if method.loop == "rollouts":
        check_buffer(args)
    if models.lora is not None:
        check_settings(models.lora)
    judges = [rewards.load(one.name, correct=one.correct, incorrect=one.incorrect) for one in recipe.reward]
    questions = {
        name: question(
            name, how.options, prompt=how.prompt, read=how.read, limit=how.limit, max_new_tokens=how.max_new_tokens
        )
        for name, how in recipe.eval.suites.items()
    }
    _check_eval(recipe, wants)
    tokenizer = policy_tokenizer(recipe)
    adopt_run_date(recipe, tokenizer)
    notes = []
    vocab = own_vocab = policy_vocab(recipe, tokenizer)
    frozen_roles = (*FROZEN, *(["reward_model"] if wants.credit else []))
    names = {role: getattr(models, role) for role in frozen_roles if getattr(models, role) not in (None, STORED)}
    vocabularies = {}
    for role, name in names.items():
        vocabularies[role], message = loading.check_vocabulary(
            tokenizer, vocab, name, role, trust_remote_code=models.trust_remote_code
        )
        if message:
            notes.append(message)
            say(console, message)
        vocab = min(vocab, vocabularies[role])
    train = prepare_source(recipe, "train", tokenizer, console=console)
    epoch = epoch_of(args, method.loop, len(train.rows), wants.window)
    if epoch.note:
        notes.append(epoch.note)
        say(console, epoch.note)
    held = prepare_source(recipe, "heldout", tokenizer, console=console) if recipe.data.heldout else None
    pairs = prepare_pairs(recipe, tokenizer)
    if isinstance(pairs, str):
        notes.append(pairs)
        say(console, pairs)
        pairs = None
    for note in [note for prepared in filter(None, (train, held)) for note in prepared.notes()]:
        notes.append(note)
        say(console, note)

    if method.loop == "rollouts":
        for judge in judges:
            for prepared in filter(None, (train, held)):
                rewards.check_rows(judge, prepared.rows, prepared.source)
        check_tasks(train, held, {r: n for r, n in vocabularies.items() if n < own_vocab}, tokenizer, recipe)
    else:
        check_ids(train, held, {"policy": own_vocab, **vocabularies}, tokenizer)
        if pairs is not None:
            check_ids(pairs, None, {"policy": own_vocab, **vocabularies}, tokenizer)
    for note in _check_asked(recipe, tokenizer, own_vocab, train, held, questions, args):
        notes.append(note)
        say(console, note)

    frozen = {
        role: _load(shared, name, models.frozen_dtype, models.trust_remote_code)
        for role, name in names.items()
        if role != "reward_model"
    }
    policy = make_policy(recipe, shared)
    notes += [note for model in (*frozen.values(), policy) for note in loading.notes(model)]
    ending = settle(policy, tokenizer)
    if ending is not None:
        notes.append(ending)
        say(console, ending)
    prints = {role: fingerprint.of_model(model) for role, model in frozen.items()}
    trained = fingerprint.of_model(policy)
    if models.reference == STORED and not stored.models(recipe.data.train)["reference"].endswith(trained):
        notes.append(
            f"the stored reference is {stored.models(recipe.data.train)['reference']}, "
            f"not the model that training starts from ({trained})"
        )
        say(console, notes[-1])
    if wants.reward_model:
        for note in _reward_notes(train, prints.get("reference"), trained):
            notes.append(note)
            say(console, note)
    needs_copy = wants.start and models.reference is None and models.lora is None and not wants.identity_layer
    needs_copy = needs_copy or (wants.critic is not None and not wants.credit)
    start = deepcopy(policy) if needs_copy or recipe.eval.kl_to_initial else None
    off: Callable[[], AbstractContextManager] | None = None
    if wants.identity_layer:
        policy = insert_identity_layer(policy)
        train_only_identity_layer(policy)
        off = partial(bypass, policy)
    if wants.scalar_head:
        policy = with_scalar_head(policy, recipe.seed)
        add_score_forward(policy)
    else:
        add_objective_forward(policy)
    if models.lora is not None:
        before = start_logits(policy)
        policy = add_lora(
            policy, models.lora, recipe.seed, only=identity_layer(policy) if wants.identity_layer else None
        )
        around = off is not None  # around its identity layer a policy is its start, whatever the adapter does
        off = partial(bypass, policy) if around else policy.disable_adapter
        if not base_is_whole(policy, before):
            remember_initial(policy)
        if wants.start and models.reference is None and not around and not off_is_start(policy, before):
            off, start = None, start or make_policy(recipe, shared)
            notes.append(
                "the adapter's settings change the model's own weights, so that the start is kept as a second model"
            )
            say(console, notes[-1])

    given: dict[str, Any] = {}
    remember = models.teacher_cache == "memory"
    if models.reference == STORED:
        given["reference"] = Column(stored.REFERENCE, "reference")
    held_signals = []
    for role, model in frozen.items():
        if role == "teacher":
            held_signals.append(_teacher_signal(shared, model, remember))
        if role in wants.roles or (role == "reference" and wants.start):
            shares = role == "teacher" and method.loop == "supervised"  # of own answers it reads the labels alone
            given[role] = held_signals[0] if shares else FrozenModel(model, name=role, remember=remember)
    if wants.start and "reference" not in given:
        whole = wants.start == "distribution"
        given["reference"] = (
            WithoutAdapter(off, policy=policy, distribution=whole) if off else _frozen_copy(start, "reference", recipe)
        )
    if recipe.eval.kl_to_initial:
        held_signals.append(_frozen_copy(start, "start", recipe))
    if wants.credit:
        given["credit"] = _credit(models, wants)
    if wants.critic is not None:
        begun = given["credit"].models[0] if wants.credit else start
        assert begun is not None
        critic = as_critic(deepcopy(begun), recipe.seed)
        given["critic"] = Critic(critic, wants.critic, reduction=wants.critic_reduction)
    plan = method.build(options, policy, **given)
    _crop(policy, plan, held_signals, stored.vocabulary(recipe.data.train) if wants.columns else None)
    if train_in_float32(policy):
        notes.append(
            f"trained weights are kept in float32 and products computed in models.dtype, {models.dtype}, to which "
            "model/ is rounded in the end"
        )
        say(console, notes[-1])
    if not any(parameter.requires_grad for parameter in policy.parameters()):
        raise RunError(f"{shown(models.policy)}: no parameter of the policy would be trained; change models.lora")
    dropped, note = _dropout(recipe, plan, policy)
    if note:
        notes.append(note)
        say(console, note)
    of_rows = fingerprint.of_each if method.loop == "rollouts" else fingerprint.of_rows
    rows_name, held_name = (of_rows(one.rows) if one else "none" for one in (train, held))
    signature = {
        "trimtab": __version__,
        "method": recipe.method,
        "options": str(recipe.options),
        "seed": str(recipe.seed),
        "policy": f"{shown(models.policy)} {trained}",
        **{role: f"{getattr(models, role)} {found}" for role, found in prints.items()},
        **(
            {"reward_model": f"{models.reward_model} {fingerprint.of_model(given['credit'].models[0])}"}
            if wants.credit
            else {}
        ),
        **({"embedding": f"{own_vocab} rows, models.resize"} if models.resize else {}),
        "trained parameters": f"{sum(p.numel() for p in policy.parameters() if p.requires_grad):,}",
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        "chat template": fingerprint.of_text(str(tokenizer.chat_template)),
        **date_facts(tokenizer),
        "training data": f"{recipe.data.train} {rows_name}",
        **({"reward": _rewarded(recipe, judges)} if judges else {}),
        "code": user_code.described(_own_code(recipe, judges, questions, (policy, *frozen.values()))),
        **({"stored columns": _described(stored.models(recipe.data.train))} if wants.columns else {}),
        "held-out data": f"{recipe.data.heldout} {held_name}",
        **{f"suite {name}": _asked(of) for name, of in questions.items()},
        "dtype": _dtypes(recipe),
        **dropped,
        **({"generation": described(rollout_config(args, *_marks(policy, tokenizer)))} if judges else {}),
        "reduction": plan.reduction,
        "processes": str(args.world_size),
        **environment(),
    }
    columns = (*wants.columns, *((RATING,) if wants.steps else ()))
    collator = Collator(int(tokenizer.pad_token_id or 0), vocab, wants.every_token, columns)  # type: ignore[arg-type]
    reading = _reading(recipe, plan, trained, prints.get("reference")) if wants.reward_model else None
    return Job(
        recipe,
        method,
        plan,
        policy,
        tokenizer,
        train,
        held,
        held_signals,
        collator,
        signature,
        notes,
        epoch,
        updates_asked(args, epoch),
        questions,
        reading,
        judges,
        pairs,
        wants.start and _starts_from(recipe, prints.get("reference"), trained),
        args,
    )


def _crop(policy: Any, plan: Plan, heldout: Sequence[FrozenModel], stored: int | None) -> None:
    """Policy and all that it is held against in training are distributions over the same ids. A reward model whose
    scores alone are read is read as it was trained.

    Args:
        heldout: what is read beside rows that are not trained on, where objectives crop by themselves.
        stored: ids that stored columns are over.
    """
    parts = (*plan.signals, *plan.readers, *plan.learners)
    vocab = common_vocab([policy, *models_of(parts)])
    for model in models_of(heldout):  # an earlier stage may have cropped it
        crop_to(model, common_vocab([model]))
    for model in (policy, *models_of(one for one in parts if not isinstance(one, TokenRewardModel))):
        crop_to(model, min(vocab, stored or vocab))


def _credit(models: Models, wants: Wants) -> TokenRewardModel | CreditAtCandidates:
    """The reward model whose scores are the credit."""
    assert models.reward_model is not None
    credit = load_reward_model(models.reward_model, dtype=models.frozen_dtype)
    if wants.credit_candidates is None:
        return credit.as_credit()
    return CreditAtCandidates(credit, wants.credit_candidates == "model", wants.credit_measured)


def _dropout(recipe: Recipe, plan: Plan, policy: Any) -> tuple[dict[str, str], str]:
    """The signature's line of the policy's dropout, where it matters, and what the user should know."""
    rates, asked = noise.rates(policy), recipe.training.get("disable_dropout")
    if not rates or (asked is None and plan.ratio is None):
        return {}, ""
    said = ", ".join(f"{name} {rate:g}" for name, rate in sorted(rates.items()))
    if asked is not None:
        return {"dropout": f"{'off' if asked else 'kept'} ({said})"}, ""
    return {"dropout": f"off ({said})"}, (
        f"the policy's dropout is off ({said}): {recipe.method} learns a ratio to log-probabilities that were read "
        "without it; training.disable_dropout: false keeps it"
    )


def _starts_from(recipe: Recipe, reference: str | None, start: str) -> bool:
    """Whether the policy is the same function as its reference before the first update.

    Args:
        reference: fingerprint of the frozen model that the recipe names, if any.
        start: that of the model that training starts from.
    """
    models = recipe.models
    if models.lora is not None and models.lora.get("init_lora_weights", True) in (False, "loftq"):
        return False
    if models.reference == STORED:
        return stored.models(recipe.data.train)["reference"].endswith(start)
    return models.reference is None or reference == start


def _reward_notes(train: Prepared, reference: str | None, start: str) -> list[str]:
    """What the user of a reward model should know of its rows, and of its reference by the models' fingerprints."""
    notes, counts = [], train.counts
    cut = counts.no_end + counts.truncated
    if cut:
        notes.append(
            f"{cut / counts.kept:.1%} of the rows hold an answer without its end token, where most of it is known"
        )
    if reference not in (None, start):
        notes.append(
            f"the reference is {reference} and training starts from {start}: values do not begin at 0; leave out "
            "models.reference to measure from the start"
        )
    return notes


def _reading(recipe: Recipe, plan: Plan, start: str, reference: str | None) -> ScoreSpec:
    """How the reward model that comes out of this run is read.

    Args:
        start: fingerprint of the model that training starts from.
        reference: fingerprint of the frozen model that the recipe names, if any.
    """
    models = recipe.models
    policy = (
        models.policy
        if isinstance(models.policy, str)
        else {"from": policy_source(recipe), "layers": models.policy.layers}
    )
    place, name = (policy, start) if reference is None else (models.reference, reference)
    if models.reference == STORED:
        stored_place, _, name = stored.models(recipe.data.train)["reference"].rpartition(" ")
        place = policy if name == start else stored_place
    if "reference" not in plan.objective.needs:
        place = name = None
    return score_spec_of(plan.objective, reference=place, reference_fingerprint=name, method=recipe.method)


def _check_eval(recipe: Recipe, wants: Wants) -> None:
    """A reward model is held against rows and asked nothing.

    Raises:
        RunError: naming the setting.
    """
    asked = {"kl_to_initial": recipe.eval.kl_to_initial, "prompts": recipe.eval.prompts, "suites": recipe.eval.suites}
    for name in [name for name, value in asked.items() if value and wants.reward_model]:
        raise RunError(f"eval.{name}: {recipe.method} trains a reward model, which answers nothing; leave it out")


def _rewarded(recipe: Recipe, judges: Sequence[rewards.Reward]) -> str:
    """What is rewarded: names, values, and what the files of a user's own functions hold."""
    said = (f"{one.name} {one.correct:g}/{one.incorrect:g}" for one in recipe.reward)
    return ", ".join(f"{name} {judge.source}" if judge.source else name for name, judge in zip(said, judges))


def _own_code(
    recipe: Recipe, judges: Sequence[rewards.Reward], questions: Mapping[str, Question], models: Sequence[Any]
) -> list[Path]:
    """Files of the method and of the suites that are asked, and of what a user wrote: rewards, classes of models."""
    names = [f"trimtab.methods.{recipe.method}", *(f"trimtab.evals.suites.{name}" for name in questions)]
    found = user_code.files(sys.modules.get(name) for name in names)
    return [*found, *(path for judge in judges for path in judge.files), *user_code.of_models(models)]


def _asked(of: Question) -> str:
    """What a suite's numbers depend on besides the policy."""
    items = fingerprint.of_each(asdict(item) for item in of.items)
    return f"{of.suite.version}, {len(of.items)} items {items}, prompt {of.prompt}, read {of.read}"


def _described(models: Mapping[str, str]) -> str:
    return ", ".join(f"{role} {model}" for role, model in models.items())


def method_of(recipe: Recipe) -> tuple[Method, MethodConfig, Wants]:
    """The recipe's method, its settings, and what they want of models and rows."""
    method = methods.load(recipe.method)
    options = method.config.model_validate(recipe.options)
    wants = method.wanted(options)
    if recipe.models.reference == STORED:
        wants = replace(wants, columns=(*wants.columns, stored.REFERENCE))
    return method, options, wants


def prepare_source(
    recipe: Recipe,
    which: str,
    tokenizer: PreTrainedTokenizerBase,
    *,
    refuse: bool = True,
    console: Console | None = None,
) -> Prepared:
    """Rows of `data.train` or `data.heldout` as token ids; refuses data of which too much would be lost.

    Args:
        console: for progress.
    """
    source, limit = getattr(recipe.data, which), recipe.data.rows if which == "train" else recipe.data.heldout_rows
    rows = load_rows(source)
    max_length = recipe.training.get("max_length", 1024)
    method, _, wants = method_of(recipe)
    how: dict[str, Any] = {"console": console, "workers": recipe.data.workers}
    if method.loop == "rollouts":
        kwargs = recipe.training.get("chat_template_kwargs")
        return prepared_rows(rows[:limit], tokenizer, source, prepare_tasks, **how, chat_template_kwargs=kwargs)
    asked = which == "train" or wants.reward_model  # held-out rows of a policy are read as answers alone
    columns = wants.columns if asked else ()
    for column in columns:
        stored.check(source, column, column_facts(rows, tokenizer, recipe.data.chat))
        if (over := stored.vocabulary(source) or 0) > (own := policy_vocab(recipe, tokenizer)):
            raise DataError(f"{source}: its {column} is of {over} token ids, and the policy knows {own}; {stored.MAKE}")
    max_length, limited_by = _row_limit(recipe, max_length or 10**9)
    made = prepared_rows(
        rows[:limit],
        tokenizer,
        source,
        prepare,
        **how,
        max_length=max_length,
        end_ids=end_tokens(tokenizer),
        pairs=wants.pairs and asked,
        columns=columns,
        outcomes=wants.outcomes and asked,
        steps=wants.steps and asked,
        turns=recipe.data.turns,
        chat=recipe.data.chat,
    )
    made.limited_by = limited_by
    if refuse:
        check_losses(made, recipe.data.max_dropped)
    return made


def prepare_pairs(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> Prepared | str | None:
    """Held-out preferences with both answers, or why they are not measured; None for a method that learns from none."""
    wants = method_of(recipe)[2]
    if not wants.pairs or wants.reward_model or recipe.data.heldout is None:
        return None
    rows = load_rows(recipe.data.heldout)[: recipe.data.heldout_rows]
    if not all({"chosen", "rejected"} <= row.keys() for row in rows):
        return "held-out preferences are not measured: not every held-out row has a chosen and a rejected answer"
    if wants.columns:
        return "held-out preferences are not measured: the reference is a stored column of the training rows"
    max_length, _ = _row_limit(recipe, recipe.training.get("max_length", 1024) or 10**9)
    return prepare(
        rows,
        tokenizer,
        max_length=max_length,
        source=recipe.data.heldout,
        end_ids=end_tokens(tokenizer),
        pairs=True,
        chat=recipe.data.chat,
    )


def adopt_run_date(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """Where the chat template writes the date: that of the stored columns that are read, or of the run that goes on."""
    _, _, wants = method_of(recipe)
    columns = [stored.meta_path(Path(recipe.data.train).expanduser())] if wants.columns else []
    adopt_date(tokenizer, *columns, Path(recipe.output) / "signature.txt")


def _row_limit(recipe: Recipe, max_length: int) -> tuple[int, str]:
    """Most tokens of a row, and what they come from: no model of the recipe with a table of positions reads more than
    the table holds."""
    models = recipe.models
    names = {"policy": policy_source(recipe)} | {role: getattr(models, role) for role in (*FROZEN, "reward_model")}
    found = (max_length, "training.max_length")
    for role, name in names.items():
        if name not in (None, STORED):
            places = loading.limits(name, trust_remote_code=models.trust_remote_code).places
            if places is not None and places < found[0]:
                found = (places, f"the positions that the {role} has learnt")
    return found


def policy_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer of the policy."""
    models = recipe.models
    return loading.load_tokenizer(
        policy_source(recipe), trust_remote_code=models.trust_remote_code, resize=models.resize
    )


def policy_vocab(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> int:
    """Rows of the policy's embedding; with models.resize at least one for each token of its tokenizer."""
    rows = loading.limits(policy_source(recipe), trust_remote_code=recipe.models.trust_remote_code).vocab
    return max(rows, num_tokens(tokenizer)) if recipe.models.resize else rows


def _check_asked(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerBase,
    vocab: int,
    train: Prepared,
    held: Prepared | None,
    questions: Mapping[str, Question],
    args: Any,
) -> list[str]:
    """Hold all that the policy will be asked, and the length of all rows, against what it can read.

    Returns:
        What the user should know.

    Raises:
        LimitError: naming the prompt.
    """
    name = policy_source(recipe)
    limits = replace(loading.limits(name, trust_remote_code=recipe.models.trust_remote_code), vocab=vocab)
    notes = []
    if recipe.eval.prompts:
        ids = [prompt_ids(tokenizer, one, f"eval.prompts: prompt {i}") for i, one in enumerate(recipe.eval.prompts, 1)]
        notes += check_prompts(ids, recipe.eval.max_new_tokens, limits, tokenizer, name, what="eval.prompts: prompt")
    for suite, asked in questions.items():
        notes += check_question(suite, asked, tokenizer, limits, name)
    for prepared in filter(None, (train, held)):
        if prepared.rows and "input_ids" not in prepared.rows[0]:
            new, what = args.max_completion_length, f"{prepared.source}: row"
            notes += check_prompts(prepared.prompts, new, limits, tokenizer, name, what=what)
        else:
            notes += beyond(prepared.counts.longest, limits, name)
    return notes[:1]  # of lengths that were never trained: once


def column_facts(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, chat: bool) -> dict[str, str]:
    """What stored columns depend on besides the models that they were computed with."""
    others = ({key: value for key, value in row.items() if not stored.is_computed(key)} for row in rows)
    return {
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        "chat template": fingerprint.of_text(str(tokenizer.chat_template)),
        **date_facts(tokenizer),
        "rows": fingerprint.of_each(others),
        "data.chat": str(chat),
    }


def shown(model: str | Cut) -> str:
    """A model's name for signatures."""
    return model if isinstance(model, str) else f"{model.source}, layers {model.layers}"


def _load(shared: Shared, name: str, dtype: str, trust: bool) -> PreTrainedModel:
    key = (name, dtype)
    if key not in shared.models:
        shared.models[key] = loading.load_model(name, dtype=dtype, trust_remote_code=trust)
    return shared.models[key]


def make_policy(recipe: Recipe, shared: Shared) -> PreTrainedModel:
    """The model that training starts from, without adapter or identity layer."""
    models = recipe.models
    name = policy_source(recipe)
    if isinstance(models.policy, str):
        model = loading.load_model(
            name,
            dtype=models.dtype,
            trust_remote_code=models.trust_remote_code,
            needs_head=not method_of(recipe)[2].scalar_head,
        )
        check_policy(model, models.lora is not None, name)
        return _resized(model, recipe)
    if models.dtype == models.frozen_dtype:
        source = _load(shared, name, models.dtype, models.trust_remote_code)
    else:  # rounded once, and not as the teacher is
        source = loading.load_model(name, dtype=models.dtype, trust_remote_code=models.trust_remote_code)
    check_policy(source, False, name)  # layers are copied in models.dtype
    try:
        layers = asked_layers(source, models.policy.layers)
    except ValueError as error:
        raise RunError(f"models.policy.layers: {error}") from error
    return _resized(keep_layers(source, layers), recipe)


def _resized(policy: PreTrainedModel, recipe: Recipe) -> PreTrainedModel:
    if recipe.models.resize:
        grow_embedding(policy, num_tokens(policy_tokenizer(recipe)), recipe.seed)
    return policy


def check_ids(
    train: Prepared, held: Prepared | None, vocabularies: Mapping[str, int], tokenizer: PreTrainedTokenizerBase
) -> None:
    """No row may hold a token that a model cannot read.

    Raises:
        DataError: naming the first such row.
    """
    for prepared in filter(None, (train, held)):
        for row in prepared.rows:
            highest = max(max(ids) for ids, _ in sequences(row))
            for role, size in vocabularies.items():
                if highest < size:
                    continue
                where = f"{prepared.source}: row {prepared.number(row)}"
                if role == "policy":
                    first = next(token for ids, _ in sequences(row) for token in ids if token >= size)
                    raise DataError(f"{where} {token_beyond(first, size, tokenizer, 'the policy')}")
                raise DataError(
                    f"{where} holds the token id {highest}, which the {role}'s vocabulary ({size}) does not; take such "
                    "rows out or choose another model"
                )


def check_tasks(
    train: Prepared, held: Prepared | None, vocabularies: Mapping[str, int], tokenizer: Any, recipe: Recipe
) -> None:
    """No task may hold a token that a model besides the policy cannot read.

    Args:
        vocabularies: of the models that know fewer tokens than the policy.

    Raises:
        DataError: naming the first such row.
    """
    for prepared in filter(None, (train, held)) if vocabularies else ():
        for number, ids in enumerate(prepared.prompts, start=1):
            where = f"{prepared.source}: row {number}"
            highest = max(ids)
            for role, size in vocabularies.items():
                if highest >= size:
                    raise DataError(
                        f"{where} asks with the token id {highest}, which the {role}'s vocabulary ({size}) does not "
                        "hold; take such rows out or choose another model"
                    )


def _teacher_signal(shared: Shared, teacher: PreTrainedModel, remember: bool) -> FrozenModel:
    """One for all stages, with what it remembers."""
    key = (id(teacher), remember)
    if key not in shared.teachers:
        shared.teachers[key] = FrozenModel(teacher, remember=remember)
    return shared.teachers[key]


def _frozen_copy(start: PreTrainedModel | None, name: str, recipe: Recipe) -> FrozenModel:
    assert start is not None
    model = loading.cast(start, recipe.models.frozen_dtype)
    return FrozenModel(model, name=name, remember=recipe.models.teacher_cache == "memory")


def _dtypes(recipe: Recipe) -> str:
    mixed = next((name for name in ("bf16", "fp16") if recipe.training.get(name)), "no")
    return f"policy {recipe.models.dtype}, teacher {recipe.models.frozen_dtype}, autocast {mixed}"


def environment() -> dict[str, str]:
    """Versions and hardware, for signatures."""
    libraries = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return {
        "versions": ", ".join(f"{name} {version(name)}" for name in libraries),
        "hardware": f"{device}; {platform.machine()}, {os.cpu_count()} cores",
        "python": platform.python_version(),
    }


# ---------------------------------------------------------------- a budget of minutes


def seconds_per_step(job: Job, console: Console | None = None, most: float = float("inf")) -> float:
    """Seconds that an update of this job takes on this machine, optimizer included; the weights stay as they are.

    The median over three batches of typical rows, after a warm-up, with a tenth added for logs and checkpoints.

    Args:
        console: for progress.
        most: seconds after which no further batch is measured.
    """
    args = settings.build(job.recipe.training, Path(job.recipe.output), job.recipe.seed)
    device, size = args.device, args.per_device_train_batch_size
    rows = sorted(job.train.rows, key=lambda row: len(row["input_ids"]))
    middle = max(0, len(rows) // 2 - 2 * size)
    policy = job.policy.to(device).train()
    if args.gradient_checkpointing:
        policy.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs)
    _move_frozen(job, device)
    mixed = torch.bfloat16 if args.bf16 else torch.float16
    trained = [p for p in policy.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=0.0, weight_decay=0.0)  # does all the work and changes nothing
    forward, update = [], []
    some = rows[middle : middle + 4 * size]
    name = f"measuring the speed of this machine for {job.recipe.method}"
    batches = length_sorted(some, job.collator, size, device)
    began = time.perf_counter()
    for inputs in watched(
        batches, name, len(some), "rows", lambda one: len(one["labels"]), console or Console(quiet=True)
    ):
        start = time.perf_counter()
        if len(forward) > 1 and start - began > most:
            break
        with torch.autocast(device.type, mixed, enabled=bool(args.bf16 or args.fp16)):
            output = call_plan(job.plan, policy, inputs)
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


def _fit(recipe: Recipe, minutes: float, seconds: float, asked: int) -> str:
    """Lower `max_steps` so that the budget is kept; returns what was decided, in words.

    Args:
        asked: updates without a budget.
    """
    possible = max(1, int(minutes * 60 / seconds))
    recipe.training["max_steps"] = steps = min(asked, possible)
    pace = f"this machine needs about {seconds:.1f} s a step"
    if steps < asked:
        return f"{pace}, so {asked} steps do not fit into {minutes:g} minutes: training {steps} steps"
    return f"{pace}: {steps} steps fit into {minutes:g} minutes"


def _fit_stages(stages: Stages, console: Console, shared: Shared) -> tuple[str, list[float]]:
    """All stages get the same number of steps, so that they can be compared.

    Returns:
        What was decided, in words, and how long a step of each stage takes beside those of the others.
    """
    assert stages.minutes is not None
    stored = [Path(recipe.output) / "recipe.yaml" for recipe in stages.stages]
    known = next((path for path in stored if path.exists()), None)
    each = [1.0] * len(stages.stages)
    if known is not None:
        steps = _stored_recipe(known)["training"].get("max_steps")
        if steps is None:
            raise RunError(f"{known.parent} holds a run without a budget of minutes; choose another output=FOLDER")
        note = f"{steps} steps, as in {known.parent}"
        for recipe in stages.stages:
            recipe.training["max_steps"] = steps
    else:
        asked, most = [], 6 * stages.minutes / len(stages.stages)
        for number, recipe in enumerate(stages.stages):
            job = load_job(recipe, shared, Console(quiet=True))
            each[number] = seconds_per_step(job, console, most)
            asked.append(job.updates)
        notes = [_fit(recipe, stages.minutes, sum(each), n) for recipe, n in zip(stages.stages, asked)]
        note = f"{notes[0]} (all {len(notes)} stages together)"
    say(console, note)
    return note, each


# ---------------------------------------------------------------- training and measuring


def execute(job: Job, folder: Path, *, resume: bool, console: Console) -> Result:
    """Train, measure, save. The run folder is created here, when nothing about the recipe can fail any more."""
    if resume:
        with _kept(folder):
            return _execute(job, folder, resume, console)
    new = not folder.exists()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _alone(folder), _kept(folder):
            check_folder(folder, job.recipe, resume)  # another process may have begun it while models were loaded
            return _execute(job, folder, resume, console)
    except BaseException:
        if new:
            _take_away(folder)
        raise


@contextmanager
def _kept(folder: Path) -> Iterator[None]:
    """What fails in the machine, in a library or a tracker is told with what is kept; a mistake of the code stays what
    it is, with a note of that.

    Raises:
        RunError: in place of the first.
    """
    try:
        yield
    except (ValueError, Interrupted):  # says itself what is wrong
        raise
    except OSError as failed:
        if isinstance(failed, ConnectionError) and failed.filename is None:  # no disk
            raise RunError(f"{folder}: {reason(failed, folder)}; {_how_on(folder)}") from failed
        room = "make room" if failed.errno in FULL else "mend that"
        raise RunError(f"{folder}: {reason(failed, folder)}; {_how_on(folder, room)}") from failed
    except Exception as failed:
        said = failures.said(failed)
        if said is None:
            failed.add_note(f"{folder}: {_how_on(folder, 'have that mended')}")
            raise
        what, room, _ = said.partition("; make room")
        raise RunError(f"{folder}: {what}; {_how_on(folder, 'make room' if room else 'mend that')}") from failed


def _how_on(folder: Path, then: str = "mend that") -> str:
    """What of a run is kept, and how it goes on."""
    if not (folder / "recipe.yaml").is_file():
        return "there is nothing of this run to resume: start anew"
    last = checkpoints.last_complete(folder / "checkpoints")
    kept = "no checkpoint is written yet" if last is None else f"the checkpoint of step {checkpoints.step_of(last)}"
    return f"kept: {kept}; {then}, and continue with --resume"


def _take_away(folder: Path) -> None:
    """A folder in which nothing was begun is no run folder."""
    for empty in (folder / "checkpoints", folder):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def _execute(job: Job, folder: Path, resume: bool, console: Console) -> Result:
    recipe = job.recipe
    args = settings.build(recipe.training, folder, recipe.seed, job.method.loop)
    log = EventLog(folder)
    interrupt = StopOnInterrupt(check_buffer(args) if job.rollouts else 1)
    if job.rollouts:
        job.notes.append(
            f"answers are written {way_of_writing(args, rollout_config(args, *_marks(job.policy, job.tokenizer)))}"
        )
    progress = ShowProgress(f"{recipe.method} -> {folder}", console)
    checkpoint = checkpoints.last_complete(folder / "checkpoints") if resume else None

    def tell(means: dict[str, float]) -> None:
        tracked.held_out(trainer, means)

    evaluate = _evaluator(job, args, log, console, tell)
    events = WriteEvents(log, evaluate, recipe.eval.every)
    budget = [] if job.seconds is None else [Budget(job.seconds)]
    trainer = _trainer(job, args, log, [events, progress, interrupt, *budget, *job.plan.callbacks])
    if job.starts_from_reference:
        trainer.reference_dtype = STORED if recipe.models.reference == STORED else recipe.models.frozen_dtype

    def remark(note: str) -> None:
        if trainer.is_world_process_zero():
            log.event("note", trainer.state.global_step, text=note)
            say(console, note)

    trainer.tell = remark
    trainer.remove_callback(PrinterCallback)
    tracked = trackers.gather(trainer, folder)
    _move_frozen(job, args.device)
    say(console, _where(args))
    main = trainer.is_world_process_zero()
    folder.mkdir(parents=True, exist_ok=True)
    if main:
        _start(job, folder, log, resume, checkpoint, console)
    trainer.accelerator.wait_for_everyone()
    try:
        if checkpoint is not None and (_is_last(checkpoint, job.more) or _ran_out(log, checkpoint)):
            trainer.finish_from(checkpoint)
        else:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    finally:
        progress.close()
        interrupt.restore()
    step = trainer.state.global_step
    if any(one.over for one in budget):
        if main:
            note = _said_of_budget(step, trainer.state.max_steps, budget[0])
            log.event("out of time", step, text=note)
            say(console, note)
    elif interrupt.asked and step < trainer.state.max_steps:
        tracked.close(trainer)
        if main:
            log.event("interrupted", step)
        raise Interrupted(folder, step)
    if evaluate is not None:
        evaluate(trainer.model, step, True)
    tracked.close(trainer)
    trainer.accelerator.wait_for_everyone()
    if main:
        say(console, "saving the model and writing the report")
        told = (*job.plan.learners, *([trainer] if isinstance(trainer, RolloutTrainer) else []))
        learnt = [remark for one in told for remark in one.remarks()]
        with writing_to(folder / "model"):
            for note in (*learnt, *_save_model(trainer, job, folder)):
                log.event("note", step, text=note)
                say(console, note)
        if hasattr(job.plan.objective, "tables"):
            for title, rows in job.plan.objective.tables(job.tokenizer.decode).items():  # type: ignore[attr-defined]
                log.event("table", step, title=title, rows=rows)
        log.event("finished", step, seconds=round(events.seconds, 2), tokens=trainer.totals.answer_tokens)
        return Result(folder, report.write([folder]))
    return Result(folder, folder / "report.html")


def _said_of_budget(step: int, planned: int, budget: Budget) -> str:
    return (
        f"stopped after step {step} of {planned}: {budget.used / 60:.1f} of {budget.seconds / 60:.1f} minutes are "
        "used, and the machine is slower than it was when its speed was measured; the learning rate was planned for "
        "all steps"
    )


def _ran_out(log: EventLog, checkpoint: Path) -> bool:
    """Whether the budget of minutes had ended the run after this checkpoint."""
    step = checkpoints.step_of(checkpoint)
    return any(event["event"] == "out of time" and event["step"] == step for event in log.events())


def _where(args: Any) -> str:
    """How many processes train, and on what."""
    number = args.world_size
    return f"training in {number} {'process' if number == 1 else 'processes'} on {args.device.type}"


def _trainer(job: Job, args: Any, log: EventLog, callbacks: list[Any]) -> ObjectiveTrainer | RolloutTrainer:
    asked = job.recipe.training.get("disable_dropout")
    shared: dict[str, Any] = {
        "dropout": None if asked is None else not asked,
        "model": job.policy,
        "args": args,
        "plan": job.plan,
        "train_dataset": Rows(job.train.rows),
        "processing_class": job.tokenizer,
        "callbacks": callbacks,
    }
    if not job.rollouts:
        trainer = ObjectiveTrainer(**shared, data_collator=job.collator)
        trainer.num_sources = job.train.sources
        return trainer

    def watch(step: int, rows: list[dict[str, Any]]) -> None:
        for row in spread(rows, SHOWN_ROLLOUTS):
            tokens = [job.tokenizer.decode([token]) for token in row.pop("ids")]
            log.sample("rollout", step, **row, tokens=tokens)

    return RolloutTrainer(
        **shared, reward_funcs=job.rewards, watch=watch, correct=[one.correct for one in job.recipe.reward]
    )


SHOWN_ROLLOUTS = 4
"""of each batch, in samples.jsonl: the best, the worst, and those between"""


def _marks(policy: Any, tokenizer: Any) -> tuple[tuple[int, ...], int | None]:
    """Ids of the end tokens, and of the padding."""
    return end_tokens(tokenizer, policy), tokenizer.pad_token_id


def _move_frozen(job: Job, device: torch.device) -> None:
    """Frozen models go where the policy is."""
    for signal in [*job.plan.signals, *job.plan.readers, *job.plan.learners, *job.heldout_signals]:
        for model in getattr(signal, "models", ()):
            model.to(device)


def _is_last(checkpoint: Path, updates: int) -> bool:
    """The run was stopped after its last step, while it measured or saved: nothing is left to train."""
    state = TrainerState.load_from_json(str(checkpoint / "trainer_state.json"))
    return state.global_step >= max(state.max_steps, updates)


def _start(job: Job, folder: Path, log: EventLog, resume: bool, checkpoint: Path | None, console: Console) -> None:
    if resume:
        note = checkpoints.passed_over(folder / "checkpoints", checkpoint) if checkpoint else None
        checkpoints.remove_incomplete(folder / "checkpoints")
        log.resume(checkpoints.step_of(checkpoint) if checkpoint else -1)
        if job.longer:
            step = checkpoints.step_of(checkpoint) if checkpoint else 0
            say(console, job.longer)
            log.event("longer", step, to=job.more)
            log.event("note", step, text=job.longer)
            _write(folder / "recipe.yaml", dump(job.recipe))
        if job.edited:
            say(console, job.edited)
            log.event("note", checkpoints.step_of(checkpoint) if checkpoint else 0, text=job.edited)
            _write_signature(folder, job.signature)
        if checkpoint and note:
            say(console, note)
            log.event("note", checkpoints.step_of(checkpoint), text=note)
        return
    log.metrics.unlink(missing_ok=True)  # of a run that was killed before it had begun
    _write_signature(folder, job.signature)
    method = {
        "name": job.recipe.method,
        "paper": job.method.paper,
        "claim": job.method.claim,
        "equation": job.method.equation,
        "summary": methods.summary(job.recipe.method),
    }
    of_train = {**vars(job.train.counts), "left_out_of_each_epoch": job.epoch.left_out}
    counts = {"train": of_train, "heldout": vars(job.heldout.counts) if job.heldout else None}
    log.event("start", 0, method=method, data=counts)
    for note in job.notes:
        log.event("note", 0, text=note)
    _write(folder / "recipe.yaml", dump(job.recipe))  # last: a folder with a recipe holds all that a resume reads


def _write_signature(folder: Path, signature: Mapping[str, str]) -> None:
    _write(folder / "signature.txt", "".join(f"{key}: {value}\n" for key, value in signature.items()))


def _write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    with writing_to(path):
        part.write_text(text, encoding="utf-8")
        part.replace(path)


SHOWN = (
    "pass_at_1", "reward", "preference_accuracy", "preference_margin", "perplexity", "forward_kl", "agreement",
    "entropy", "kl_to_initial", "reward_loss", "reward_accuracy", "brier", "answer_length", "completion_length",
)  # fmt: skip
"""Measures of a line of progress."""


def _evaluator(
    job: Job, args: Any, log: EventLog, console: Console, tell: Callable[[dict[str, float]], None]
) -> Callable[[Any, int, bool], None] | None:
    """Measures the held-out rows at a step; `whole` also stores single rows and answers to the prompts. Means are also
    given to `tell`."""
    recipe = job.recipe
    if job.heldout is None and not recipe.eval.prompts and not job.questions:
        return None

    mixed = torch.bfloat16 if args.bf16 else torch.float16

    def evaluate(policy: Any, step: int, whole: bool) -> None:
        # its draws must not move those of training; autocast is said here, because a run that is resumed after its last
        # step measures a model that nothing has wrapped
        with torch.random.fork_rng(), torch.autocast(args.device.type, mixed, enabled=bool(args.bf16 or args.fp16)):
            measure(policy, step, whole)

    def measure(policy: Any, step: int, whole: bool) -> None:
        main = processes.rank() == 0
        means: dict[str, float] = {}
        rows: dict[int, dict[str, float]] = {}
        texts: list[dict[str, Any]] = []
        if job.heldout is not None and job.rollouts:
            rows, texts = answers.judged(
                policy, job.tokenizer, job.heldout.rows, job.rewards, job.collator, job.heldout_signals,
                correct=[one.correct for one in recipe.reward], weights=args.reward_weights,
                answers=recipe.eval.answers,
                max_new_tokens=args.max_completion_length, temperature=args.temperature,
                batch=recipe.eval.batch_size, seed=recipe.seed, kwargs=args.chat_template_kwargs,
            )  # fmt: skip
        elif job.heldout is not None:
            judged = hasattr(job.plan.objective, "judge")
            plain = Collator(job.collator.pad_id, job.collator.vocab_size)  # answers alone, whatever training reads
            collator = job.collator if judged else plain
            batches = length_sorted(job.heldout.rows, collator, recipe.eval.batch_size, args.device)
            if judged:
                rows = heldout.judge(policy, batches, job.plan)
            else:
                rows = heldout.measure(policy, batches, job.heldout_signals)
            if job.pairs is not None:
                batches = length_sorted(job.pairs.rows, job.collator, recipe.eval.batch_size, args.device)
                for row, found in heldout.preferences(policy, batches, job.plan).items():
                    if row in rows:
                        rows[row] |= found
        if rows:
            means |= heldout.summary(rows)
        if main and whole:
            for row, sums in rows.items():
                log.sample("heldout", step, row_id=row, **sums)
            for text in texts[: SHOWN_ANSWERS * recipe.eval.answers : recipe.eval.answers]:
                log.sample("generation", step, prompt=_question(text["prompt"]), text=text["text"])
        if whole and recipe.eval.prompts:
            said = heldout.generate(policy, job.tokenizer, recipe.eval.prompts, recipe.eval.max_new_tokens)
            means["answer_length"] = statistics.mean(answer.num_tokens for answer in said)
            if main:
                for prompt, answer in zip(recipe.eval.prompts, said):
                    log.sample("generation", step, prompt=prompt, text=answer.text)
        for name, asked in job.questions.items() if whole else ():
            found = ask(asked, Local(policy, job.tokenizer, batch=recipe.eval.batch_size))
            numbers = [one for one in measures(asked.suite, found) if one.group == "all"]
            means[name] = numbers[0].value.estimate
            if main:
                lines = [
                    {"measure": n.name, "value and 95% interval": n.value.shown(), "items": n.number} for n in numbers
                ]
                log.event("table", step, title=f"{name} at step {step}", rows=lines)
                for one in found:
                    log.sample("suite", step, suite=name, id=one.item.id, answers=one.answers, verdicts=one.verdicts)
        if main and means:
            log.event("eval", step, **means)
            tell(means)
            shown = (*SHOWN, *job.questions)
            text = "  ".join(f"{report.short(name)} {means[name]:.4g}" for name in shown if name in means)
            say(console, f"held out, step {step}: {text}")

    return evaluate


SHOWN_ANSWERS = 8
"""held-out tasks whose first answer the report shows"""


def _question(prompt: Any) -> str:
    return prompt if isinstance(prompt, str) else prompt[-1]["content"]


def _save_model(trainer: Any, job: Job, folder: Path) -> list[str]:
    """An ordinary Hugging Face folder; adapters are merged into it and kept beside it.

    Returns:
        What the user should know.
    """
    policy = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    for name in ("model.part", "adapter.part"):
        shutil.rmtree(folder / name, ignore_errors=True)
    notes = []
    if job.recipe.models.lora is None:
        back_to_own_dtypes(policy)
        policy.save_pretrained(folder / "model.part")
    else:
        save_adapter(policy, folder / "adapter.part", None if _was_made(job) else policy_source(job.recipe))
        if job.reading is not None:
            job.reading.write(folder / "adapter.part")
        _replace(folder / "adapter.part", folder / "adapter")
        if is_quantised(policy.get_base_model()):
            _save_beside_quantised(job, folder)
            return []
        try:
            notes = _save_merged(policy, job, folder)
        except BaseException:  # what could not be held against the trained model is no model of this run
            shutil.rmtree(folder / "model.part", ignore_errors=True)
            raise
    job.tokenizer.save_pretrained(folder / "model.part")
    if job.reading is not None:
        job.reading.write(folder / "model.part")
    (folder / "model.part" / "README.md").write_text(_model_card(job), encoding="utf-8")
    _replace(folder / "model.part", folder / "model")
    return notes


def _was_made(job: Job) -> bool:
    """Whether the model under the adapter lies in no folder: layers of another, one layer more, or more rows. A
    quantised one's new rows are stored with the adapter."""
    models, policy = job.recipe.models, job.policy
    if not isinstance(models.policy, str) or method_of(job.recipe)[2].identity_layer:
        return True
    if not models.resize or is_quantised(policy.get_base_model() if hasattr(policy, "get_base_model") else policy):
        return False
    rows = loading.limits(models.policy, trust_remote_code=models.trust_remote_code).vocab
    return policy.get_input_embeddings().weight.shape[0] != rows


def _save_beside_quantised(job: Job, folder: Path) -> None:
    """The adapter and the tokenizer as the run's model: added to packed weights it would be rounded with them. Wherever
    a model is named, the folder loads as the quantised model with the adapter beside its weights."""
    shutil.copytree(folder / "adapter", folder / "model.part")
    job.tokenizer.save_pretrained(folder / "model.part")
    (folder / "model.part" / "README.md").write_text(_model_card(job), encoding="utf-8")
    _replace(folder / "model.part", folder / "model")


def _merge_batch(job: Job, device: torch.device) -> dict[str, torch.Tensor]:
    """A few rows on which the saved model is held against the trained one."""
    rows = (job.heldout or job.train).rows[:4]
    if "input_ids" in rows[0]:
        ids = [sequences(row)[0][0][:256] for row in rows]
    else:
        kwargs = job.recipe.training.get("chat_template_kwargs")
        ids = [asked_ids(job.tokenizer, row, "row", kwargs)[:256] for row in rows]
    return {name: value.to(device) for name, value in padded(ids, job.collator.pad_id).items()}


def _save_merged(policy: Any, job: Job, folder: Path) -> list[str]:
    """Merge in float32, save in the model's own dtype, read it and hold it against the trained model, in float32: there
    an adapter that is lost is seen however little it does.

    Returns:
        What is said where the own dtype rounds away some of what was learnt.

    Raises:
        RunError: if its logits differ; the adapter is kept.
    """
    models = job.recipe.models
    changed = hasattr(policy, "_trimtab_initial") and not _was_made(job)
    had = in_float32(policy)
    device = next(policy.parameters()).device
    batch = _merge_batch(job, device)
    trained, without = answers_of(policy, batch), answers_without(policy, batch)
    policy = merged(policy)
    right = same_answers(answers_of(policy, batch), trained, without)
    in_own_dtypes(policy, had).save_pretrained(folder / "model.part")
    written = answers_of(policy.float(), batch)
    policy.to("cpu")  # type: ignore[arg-type]
    kind = AutoModelForCausalLM if policy.get_output_embeddings() is not None else AutoModelForTokenClassification
    how: dict[str, Any] = {"kind": kind, "trust_remote_code": models.trust_remote_code, "dtype": models.dtype}
    if changed:  # an adapter that PEFT alone would store wrongly
        saved = loading.load_model(str(folder / "adapter"), **how).float().to(device)  # type: ignore[arg-type]
        if not same_answers(answers_of(saved, batch), trained, without, rounded=models.dtype != "float32"):
            raise RunError(
                f"{folder}: the adapter added to {policy_source(job.recipe)} does not give what the trained model "
                "gave; choose another init_lora_weights under models.lora"
            )
        del saved
    saved = loading.load_model(str(folder / "model.part"), **how).float().to(device)  # type: ignore[arg-type]
    if not right or not same_answers(answers_of(saved, batch), written, without):
        raise RunError(
            f"{folder}: the adapter merged into the model does not give what the trained model gave, so no model is "
            f"saved; the adapter is whole in {folder}/adapter. Choose other settings under models.lora"
        )
    kept = kept_share(written, trained, without)
    if models.dtype == "float32" or kept >= MOST_KEPT:
        return []
    return [
        f"in {models.dtype} the merged model keeps {max(kept, 0):.0%} of what the adapter has learnt, the rest is "
        f"finer than its weights are rounded; {folder / 'adapter'} is whole, and models.dtype: float32 keeps all"
    ]


MOST_KEPT = 0.9
"""of what an adapter does; a merged model that keeps less is told"""


def _replace(part: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def _model_card(job: Job) -> str:
    recipe = job.recipe
    lines = "\n".join(f"    {key}: {value}" for key, value in job.signature.items())
    return (
        "---\nlibrary_name: transformers\ntags: [trimtab]\n---\n\n"
        f"# {shown(recipe.models.policy)}, trained by {recipe.method}\n\n"
        f"{methods.summary(recipe.method)} Source: {job.method.paper}.\n\n"
        f"    {job.method.equation}\n\nMade with:\n\n{lines}\n\nRecipe:\n\n```yaml\n{dump(recipe)}```\n"
    )
