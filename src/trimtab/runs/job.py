"""What a run needs, checked and loaded; nothing has been written yet."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from rich.console import Console
from transformers import PreTrainedTokenizerBase

from trimtab import __version__
from trimtab.common import fingerprint, processes, user_code
from trimtab.common.environment import environment
from trimtab.common.terminal import say
from trimtab.core import Labels, Method, Plan, Teacher
from trimtab.core.batch import COMPARED
from trimtab.data import stored
from trimtab.data.collate import Collator
from trimtab.data.counts import Prepared
from trimtab.data.packs import size_of
from trimtab.data.rows import RATING
from trimtab.data.sources import load_rows
from trimtab.decoding._config import described
from trimtab.evals.runner import EvalSpec, eval_spec
from trimtab.models import loading
from trimtab.models.adapter_starts import stays_initial
from trimtab.models.adapters import check_settings
from trimtab.models.ends import settle
from trimtab.models.masters import train_in_float32
from trimtab.models.packing_check import settle_packs, settle_sharing
from trimtab.models.second_derivative import differentiable_twice
from trimtab.objectives.reward_models import RewardObjective
from trimtab.rewards import verifiable as rewards
from trimtab.runs import absent_teacher, other_tokenizer, rollouts_key, several_teachers, teacher_prompts
from trimtab.runs.alike import check_same_recipe
from trimtab.runs.folder import RunError
from trimtab.runs.models import AnyTeacher, LoadedModels, crop_alike, load_signals, note_of_cache, starts_from
from trimtab.runs.models_key import OTHERS, STORED
from trimtab.runs.policy import (
    Shared,
    changed,
    how_loaded,
    load_shared,
    make_policy,
    marks,
    method_of,
    policy_tokenizer,
    policy_vocab,
    shown,
)
from trimtab.runs.recipe import Recipe, named_models
from trimtab.runs.reward_model import check_eval, reward_notes, score_spec
from trimtab.runs.rows import adopt_run_date, check_asked, check_attributed, check_known, prepare_pairs, prepare_source
from trimtab.runs.signature import (
    dropout,
    dtypes,
    models_facts,
    own_code,
    rewarded,
    suite_facts,
    tokenizer_lines,
    trained,
)
from trimtab.signals.base import models_of
from trimtab.signals.reward_model import ScoreSpec
from trimtab.train import settings
from trimtab.train.epochs import Epoch, epoch_of, updates_asked
from trimtab.train.packs import Packing, note_of_shared, packing_of
from trimtab.train.rollouts import check_buffer, rollout_config
from trimtab.train.sampled_pairs import check_sampling


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
    heldout_signals: list[AnyTeacher]
    """the teacher, if any, and the initial policy, if the KL to it is measured"""
    collator: Collator
    signature: dict[str, str]
    notes: list[str]
    window: tuple[int, int] | None
    """see `Requirements.window`"""
    epoch: Epoch
    """how an epoch uses the training rows"""
    updates: int
    """that the recipe asks for"""
    questions: dict[str, EvalSpec] = field(default_factory=dict)
    """the suites to evaluate before and after training"""
    score_spec: ScoreSpec | None = None
    """for a reward model: how to read its scores"""
    rewards: list[Any] = field(default_factory=list)
    """for a method that learns from rollouts: its rewards"""
    pairs: Prepared | None = None
    """held-out preferences, for a method that learns from preferences"""
    starts_from_reference: bool = False
    """the policy is the same function as its reference before the first update"""
    args: Any = None
    """the trainer's arguments, from `settings.build`"""
    packing: Packing | None = None
    """how rows are packed, if they are"""
    seconds: float | None = None
    """seconds of training after which it stops"""
    more: int = 0
    """updates that the run was extended to; 0 if it was not extended"""
    longer: str = ""
    """a note if it is extended now"""
    edited: str = ""
    """a note if it is resumed with edited code"""
    moved: str = ""
    """a note if it is resumed in another number of processes"""
    rebuild: Callable[[], Any] | None = None
    """gives the policy as before training once more, for a process that holds a share of its weights"""
    labels: Labels | None = None
    """of a method that trains a classifier"""

    @property
    def rollouts(self) -> bool:
        """Whether it learns from rollouts."""
        return self.method.loop == "rollouts"


def load_job(recipe: Recipe, shared: Shared, console: Console) -> Job:
    """Check and load everything that a run needs, cheapest first; nothing is written.

    Raises:
        UserError: a subclass that names what is wrong.
    """
    if method_of(recipe)[0].loop == "classification":
        from trimtab.runs.classification import load_classification_job

        return load_classification_job(recipe, shared, console)
    builder = _Builder(recipe, shared, console)
    builder.check()
    builder.prepare_rows()
    builder.load_models()
    builder.build_plan()
    return builder.job()


class _Builder:
    """Builds a job step by step, in the order of its methods; each uses the results of those before."""

    def __init__(self, recipe: Recipe, shared: Shared, console: Console):
        self.recipe, self.shared, self.console = recipe, shared, console
        self.method, self.options, self.required = method_of(recipe)
        self.rollouts = self.method.loop == "rollouts"
        self.notes: list[str] = []

    def note(self, *texts: str | None) -> None:
        """Print a note for the user, and keep it in the run folder."""
        for text in filter(None, texts):
            self.notes.append(text)
            say(self.console, text)

    def check(self) -> None:
        """The parts that need neither rows nor models."""
        recipe = self.recipe
        self.args = settings.build(recipe.training, Path(recipe.output), recipe.seed, self.method.loop)
        processes.check_group(self.args.world_size)
        check_same_recipe(recipe)
        if self.rollouts:
            check_buffer(self.args)
        if recipe.models.lora is not None:
            check_settings(recipe.models.lora)
        self.rewards = [rewards.load(**one.model_dump()) for one in recipe.reward]
        self.suites = {
            name: eval_spec(
                name, how.options, prompt=how.prompt, mode=how.mode, limit=how.limit, max_new_tokens=how.max_new_tokens
            )
            for name, how in recipe.eval.suites.items()
        }
        check_eval(recipe, self.required)

    def prepare_rows(self) -> None:
        """Rows as token ids, checked against what all models can read."""
        recipe, tokenizer = self.recipe, policy_tokenizer(self.recipe)
        self.tokenizer = tokenizer
        adopt_run_date(recipe, tokenizer)
        self.own_vocab = policy_vocab(recipe, tokenizer)
        self._check_vocabularies()
        read = cache(load_rows)  # once, whoever asks; the rows are gone when this is done
        self.train = prepare_source(recipe, "train", tokenizer, console=self.console, read=read)
        rows, window = self.train.rows, self.required.window
        if self.required.rows == "sampled_pairs":
            check_sampling(self.args, rows)
        self.packing = packing_of(self.args, rows, self.train.max_length, window)
        self.epoch = epoch_of(self.args, self.method.loop, len(rows), window, self.packing)
        self.note(self.epoch.note, note_of_shared(self.args, rows))
        self.held = None
        if recipe.data.heldout:
            self.held = prepare_source(recipe, "heldout", tokenizer, console=self.console, read=read)
        pairs = prepare_pairs(recipe, tokenizer, read)
        self.note(pairs if isinstance(pairs, str) else None)
        self.pairs = None if isinstance(pairs, str) else pairs
        sources = {"train": self.train, "heldout": self.held}
        self.routes, notes = several_teachers.routes(recipe, sources, read)
        self.note(*notes)
        sampled = self.args.max_completion_length if self.rollouts else None
        self.prompts = teacher_prompts.prompts(recipe, sources, tokenizer, sampled, read)
        prepared = [one for one in (self.train, self.held) if one is not None]
        self.note(*(note for one in prepared for note in one.notes()))
        for reward, one in product(self.rewards, prepared):
            rewards.check_rows(reward, one.rows, one.source)
        known = {"policy": self.own_vocab, **self.vocabularies}
        check_known(self.train, self.held, self.pairs, known, tokenizer, tasks=self.rollouts)
        self.note(*check_asked(recipe, tokenizer, self.own_vocab, self.train, self.held, self.suites, self.args))

    def _check_vocabularies(self) -> None:
        models = self.recipe.models
        self.named = named_models(self.recipe)
        self.vocab, self.vocabularies = self.own_vocab, {}
        self.cached = absent_teacher.facts_of(self.recipe, self.tokenizer, self.own_vocab)
        if self.cached is not None:
            self.vocabularies["teacher"] = self.cached.vocab
            self.vocab = min(self.vocab, self.cached.vocab)
        for role, name in other_tokenizer.sharing(self.named, self.required).items():
            self.vocabularies[role], message = other_tokenizer.check_vocabulary(
                self.options, self.tokenizer, self.vocab, name, role, models.trust_remote_code
            )
            self.note(message)
            self.vocab = min(self.vocab, self.vocabularies[role])

    def load_models(self) -> None:
        """The policy with its trainable parts, and the models that the recipe names."""
        recipe, models, required = self.recipe, self.recipe.models, self.required
        frozen = {
            role: load_shared(
                self.shared, name, models.frozen_dtype, models.trust_remote_code, **how_loaded(recipe, role)
            )
            for role, name in self.named.items()
            if role != "reward_model"
        }
        policy = make_policy(recipe, self.shared)
        self.notes += [note for model in (*frozen.values(), policy) for note in loading.notes(model)]
        self.note(settle(policy, self.tokenizer))
        self.prints = {role: fingerprint.of_model(model) for role, model in frozen.items()}
        self.trained = fingerprint.of_model(policy)
        if models.reference == STORED:
            was = stored.models(recipe.data.train)["reference"]
            if not was.endswith(self.trained):
                self.note(f"the stored reference is {was}, not the initial policy ({self.trained})")
        if required.scores:
            self.note(*reward_notes(self.train, self.prints.get("reference"), self.trained))
        asked = {model.initial(models.model_dump()) for model in required.models}
        aside = models.lora is not None or required.trains == "identity_layer"
        copied = "copied" in asked or ("read" in asked and not aside)
        initial = deepcopy(policy) if copied or recipe.eval.kl_to_initial else None
        policy, off, before, notes = changed(policy, recipe, required.trains)
        self.note(*notes)
        if "read" in asked and before is not None and not stays_initial(policy, before):
            off, initial = None, initial or make_policy(recipe, self.shared)
            self.note("the adapter's settings change the base weights, so the initial policy is kept as a second model")
        self.policy = policy
        cached = absent_teacher.opened(self.cached, recipe)
        self.models = LoadedModels(recipe, self.shared, frozen, policy, off, initial, cached, self.routes, self.prompts)

    def build_plan(self) -> None:
        """The method's plan, and the signals for held-out rows."""
        recipe, loaded = self.recipe, self.models
        if self.required.inside:
            self.note(check_attributed(self.train))
            differentiable_twice(self.policy)
        self.heldout_signals = [loaded.teacher("heldout")] if loaded.compares(self.required) else []
        self.note(note_of_cache(loaded))
        signals = load_signals(self.required, loaded)
        if recipe.eval.kl_to_initial:
            self.heldout_signals.append(loaded.initial_signal("start"))
        self.plan = self.method.build(self.options, self.policy, **signals)
        self._check_plan()
        others = [model for model in models_of(self.plan.signals) if model is not loaded.cached_model]
        if self.packing is not None:
            self.note(*settle_packs(self.policy, others, loaded.frozen, self.args.device))
        if self.args.share_prefixes:
            self.note(*settle_sharing(self.policy, others, loaded.frozen, max(map(size_of, self.train.rows))))
        if self.cached is not None and loaded.cached is not None:
            read = [(self.train, self._collator())] if self.required.model(Teacher) else []
            read += [(self.held, Collator(0, self.vocab))] if self.held is not None else []
            self.note(*absent_teacher.check(loaded.cached, self.cached, self.plan.objective, recipe, read))
        columns = stored.vocabulary(recipe.data.train) if self.required.columns else None
        crop_alike(self.policy, self.plan, self.heldout_signals, columns)
        if train_in_float32(self.policy):
            self.note(
                f"trainable weights are kept in float32 and computations run in models.dtype, {recipe.models.dtype}; "
                "model/ is rounded to it at the end"
            )
        if not any(parameter.requires_grad for parameter in self.policy.parameters()):
            named = shown(recipe.models.policy)
            raise RunError(f"{named}: no parameter of the policy would be trained; change models.lora")
        self.dropout, note = dropout(recipe, self.plan, self.policy)
        self.note(note)

    def _collator(self) -> Collator:
        required = self.required
        columns = (*required.columns, *{"steps": (RATING,), "rationales": (COMPARED,)}.get(required.rows, ()))
        pad: Any = self.tokenizer.pad_token_id
        return Collator(int(pad or 0), self.vocab, required.rows == "every_token", columns, required.inside)

    def _check_plan(self) -> None:
        """Check that the plan matches what the method declares."""
        name = self.recipe.method
        if not isinstance(self.plan, Plan):
            raise RunError(f"method {name}: build returned {type(self.plan).__name__}, expected a Plan")
        if (self.plan.advantages is not None) != self.rollouts:
            loop = "rollouts" if self.plan.advantages else "supervised"
            loops = f"loop {self.method.loop!r}, but its plan is for loop {loop!r}"
            raise RunError(f"method {name} declares {loops}; make them agree")
        for signal in self.plan.rollout_signals:
            if signal.distribution:
                raise RunError(
                    f"method {name} reads whole distributions for advantages ({', '.join(signal.provides)}), which "
                    'would not fit into memory; ask for the answers: reads="answers"'
                )
        if self.required.scores and not isinstance(self.plan.objective, RewardObjective):
            raise RunError(
                f"method {name} trains a reward model, and its objective is no RewardObjective; derive it from "
                "trimtab.objectives.reward_models.RewardObjective"
            )

    def _signature(self) -> dict[str, str]:
        recipe, models, loaded = self.recipe, self.recipe.models, self.models
        of_rows = fingerprint.of_each if self.rollouts else fingerprint.of_rows
        rows_name, held_name = (of_rows(one.rows) if one else "none" for one in (self.train, self.held))
        scores = loaded.signals.get("reward_model")
        code = own_code(recipe, self.rewards, self.suites, (self.policy, *loaded.frozen.values()))
        columns = bool(self.required.columns)
        generation = rollout_config(self.args, *marks(self.policy, self.tokenizer)) if self.rollouts else None
        lines: dict[str, str | None] = {
            "trimtab": __version__,
            "method": recipe.method,
            "options": str(recipe.options),
            "seed": str(recipe.seed),
            "policy": f"{shown(models.policy)} {self.trained}",
            **{role: f"{self.named[role]} {found}" for role, found in self.prints.items() if role in OTHERS},
            **absent_teacher.said_of(self.cached, recipe),
            **several_teachers.facts(recipe, self.prints),
            **teacher_prompts.facts(recipe, self.prompts),
            "reward_model": f"{models.reward_model} {fingerprint.of_model(scores.models[0])}" if scores else None,
            "embedding": f"{self.own_vocab} rows, models.resize" if models.resize else None,
            **trained(recipe, self.policy),
            **tokenizer_lines(self.tokenizer),
            **other_tokenizer.facts(recipe, self.required, self.tokenizer),
            "training data": f"{recipe.data.train} {rows_name}",
            "reward": rewarded(recipe, self.rewards) if self.rewards else None,
            "code": user_code.described(code),
            "stored columns": models_facts(stored.models(recipe.data.train)) if columns else None,
            "held-out data": f"{recipe.data.heldout} {held_name}",
            **{f"suite {name}": suite_facts(of) for name, of in self.suites.items()},
            "dtype": dtypes(recipe),
            **self.dropout,
            "generation": described(generation) if generation else None,
            "engine": rollouts_key.said(recipe, self.args),
            "reduction": self.plan.reduction,
            "processes": str(self.args.world_size),
            **environment(),
        }
        return {name: line for name, line in lines.items() if line is not None}

    def job(self) -> Job:
        """All of it."""
        recipe, required, reference = self.recipe, self.required, self.prints.get("reference")
        reads_start = any(model.initial({}) == "read" for model in required.models)
        return Job(
            recipe,
            self.method,
            self.plan,
            self.policy,
            self.tokenizer,
            self.train,
            self.held,
            self.heldout_signals,
            self._collator(),
            self._signature(),
            self.notes,
            required.window,
            self.epoch,
            updates_asked(self.args, self.epoch),
            self.suites,
            score_spec(recipe, self.plan, self.trained, reference) if required.scores else None,
            self.rewards,
            self.pairs,
            reads_start and starts_from(recipe, reference, self.trained),
            self.args,
            self.packing,
            rebuild=lambda: changed(make_policy(recipe, self.shared), recipe, required.trains)[0],
        )
