"""What a run needs, checked and loaded; nothing has been written yet."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from trimtab import __version__
from trimtab.common import fingerprint, processes, user_code
from trimtab.common.environment import environment
from trimtab.common.terminal import say
from trimtab.core import Method, Plan, Wants
from trimtab.data import stored
from trimtab.data.chat import date_facts
from trimtab.data.collate import Collator
from trimtab.data.rows import RATING, Prepared
from trimtab.decoding._config import described
from trimtab.evals.runner import EvalSpec, eval_spec
from trimtab.models import loading, noise
from trimtab.models.adapter_saving import remember_initial
from trimtab.models.adapter_starts import base_is_whole, off_is_start, start_logits
from trimtab.models.adapters import add_lora, check_settings
from trimtab.models.ends import settle
from trimtab.models.forward import add_objective_forward, crop_to
from trimtab.models.identity_layer import bypass, identity_layer, insert_identity_layer, train_only_identity_layer
from trimtab.models.masters import train_in_float32
from trimtab.models.scalar_head import add_score_forward, as_critic, with_scalar_head
from trimtab.objectives.reward_models import RewardObjective
from trimtab.rewards import verifiable as rewards
from trimtab.runs.policy import (
    Shared,
    load_shared,
    make_policy,
    marks,
    method_of,
    policy_tokenizer,
    policy_vocab,
    shown,
)
from trimtab.runs.recipe import FROZEN, STORED, Models, Recipe, policy_source
from trimtab.runs.rows import adopt_run_date, check_asked, check_ids, check_tasks, prepare_pairs, prepare_source
from trimtab.runs.run_folder import RunError
from trimtab.runs.signature import dtypes, models_facts, own_code, rewarded, suite_facts
from trimtab.signals.auxiliary import ValueModel
from trimtab.signals.base import common_vocab, models_of
from trimtab.signals.candidates import RewardModelAtCandidates
from trimtab.signals.columns import Column
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import InitialPolicy
from trimtab.signals.reward_model import ScoreSpec, TokenRewardModel, load_reward_model, score_spec_of
from trimtab.train import settings
from trimtab.train.epochs import Epoch, epoch_of, updates_asked
from trimtab.train.rollouts import check_buffer, rollout_config


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
    questions: dict[str, EvalSpec] = field(default_factory=dict)
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
        name: eval_spec(
            name, how.options, prompt=how.prompt, mode=how.mode, limit=how.limit, max_new_tokens=how.max_new_tokens
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
    for note in check_asked(recipe, tokenizer, own_vocab, train, held, questions, args):
        notes.append(note)
        say(console, note)

    frozen = {
        role: load_shared(shared, name, models.frozen_dtype, models.trust_remote_code)
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
            InitialPolicy(off, policy=policy, distribution=whole) if off else _frozen_copy(start, "reference", recipe)
        )
    if recipe.eval.kl_to_initial:
        held_signals.append(_frozen_copy(start, "start", recipe))
    if wants.credit:
        given["reward_model"] = _reward_model(models, wants)
    if wants.critic is not None:
        begun = given["reward_model"].models[0] if wants.credit else start
        assert begun is not None
        critic = as_critic(deepcopy(begun), recipe.seed)
        given["critic"] = ValueModel(critic, wants.critic, reduction=wants.critic_reduction)
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
            {"reward_model": f"{models.reward_model} {fingerprint.of_model(given['reward_model'].models[0])}"}
            if wants.credit
            else {}
        ),
        **({"embedding": f"{own_vocab} rows, models.resize"} if models.resize else {}),
        "trained parameters": f"{sum(p.numel() for p in policy.parameters() if p.requires_grad):,}",
        "tokenizer": fingerprint.of_tokenizer(tokenizer),
        "chat template": fingerprint.of_text(str(tokenizer.chat_template)),
        **date_facts(tokenizer),
        "training data": f"{recipe.data.train} {rows_name}",
        **({"reward": rewarded(recipe, judges)} if judges else {}),
        "code": user_code.described(own_code(recipe, judges, questions, (policy, *frozen.values()))),
        **({"stored columns": models_facts(stored.models(recipe.data.train))} if wants.columns else {}),
        "held-out data": f"{recipe.data.heldout} {held_name}",
        **{f"suite {name}": suite_facts(of) for name, of in questions.items()},
        "dtype": dtypes(recipe),
        **dropped,
        **({"generation": described(rollout_config(args, *marks(policy, tokenizer)))} if judges else {}),
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
    parts = (*plan.signals, *plan.rollout_signals)
    vocab = common_vocab([policy, *models_of(parts)])
    for model in models_of(heldout):  # an earlier stage may have cropped it
        crop_to(model, common_vocab([model]))
    for model in (policy, *models_of(one for one in parts if not isinstance(one, TokenRewardModel))):
        crop_to(model, min(vocab, stored or vocab))


def _reward_model(models: Models, wants: Wants) -> TokenRewardModel | RewardModelAtCandidates:
    """The reward model whose scores the advantages are made of."""
    assert models.reward_model is not None
    found = load_reward_model(models.reward_model, dtype=models.frozen_dtype)
    if wants.credit_candidates is None:
        return found.scores_as_trained()
    return RewardModelAtCandidates(found, wants.credit_candidates == "model", wants.credit_measured)


def _dropout(recipe: Recipe, plan: Plan, policy: Any) -> tuple[dict[str, str], str]:
    """The signature's line of the policy's dropout, where it matters, and what the user should know."""
    rates, asked = noise.rates(policy), recipe.training.get("disable_dropout")
    if not rates or (asked is None and plan.objective.ratio is None):
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
    assert isinstance(plan.objective, RewardObjective)
    return score_spec_of(plan.objective, reference=place, reference_fingerprint=name, method=recipe.method)


def _check_eval(recipe: Recipe, wants: Wants) -> None:
    """A reward model is held against rows and asked nothing.

    Raises:
        RunError: naming the setting.
    """
    asked = {"kl_to_initial": recipe.eval.kl_to_initial, "prompts": recipe.eval.prompts, "suites": recipe.eval.suites}
    for name in [name for name, value in asked.items() if value and wants.reward_model]:
        raise RunError(f"eval.{name}: {recipe.method} trains a reward model, which answers nothing; leave it out")


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


def move_frozen(job: Job, device: torch.device) -> None:
    """Frozen models go where the policy is."""
    for model in models_of([*job.plan.signals, *job.plan.rollout_signals, *job.heldout_signals]):
        model.to(device)
