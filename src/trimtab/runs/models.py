"""Load the models that a method requires: one function per kind of requirement returns its signals."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedModel

from trimtab.core import (
    Aligned,
    Critic,
    ModelRequirement,
    Plan,
    Reference,
    Requirements,
    RewardModel,
    Signal,
    Teacher,
    WeakPair,
)
from trimtab.data import stored
from trimtab.models import loading
from trimtab.models.forward import crop_to
from trimtab.models.scalar_head import as_critic
from trimtab.runs import other_tokenizer, several_teachers
from trimtab.runs.check import samples
from trimtab.runs.folder import RunError
from trimtab.runs.models_key import SELF, SELF_AVERAGE, SELF_INITIAL, SELVES, STORED, TEACHER, is_teacher, teachers_of
from trimtab.runs.policy import Shared
from trimtab.runs.recipe import Recipe
from trimtab.signals.auxiliary import ValueModel
from trimtab.signals.base import common_vocab, models_of
from trimtab.signals.cached import CachedTeacher
from trimtab.signals.candidates import RewardModelAtCandidates
from trimtab.signals.columns import Column
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import InitialPolicy
from trimtab.signals.other_prompt import OtherPrompt
from trimtab.signals.reference import ReferenceAtCandidates
from trimtab.signals.reward_model import TokenRewardModel, load_reward_model
from trimtab.signals.row_store import RowStore
from trimtab.signals.self_teacher import AveragePolicy, WholeAverage
from trimtab.signals.served import ServedTeacher
from trimtab.signals.several import Teachers

Reads = Literal["distribution", "answers"]
AnyTeacher = (
    FrozenModel | CachedTeacher | ServedTeacher | Teachers | InitialPolicy | AveragePolicy | WholeAverage | OtherPrompt
)
DECAY = 0.99
Off = Callable[[], AbstractContextManager]
"""context in which the policy is the initial policy"""
CACHES = "teacher_cache"
"""folder of a run for models.teacher_cache: disk"""


@dataclass
class LoadedModels:
    """What signals are made of."""

    recipe: Recipe
    shared: Shared
    frozen: dict[str, PreTrainedModel]
    """by the key that names it in the recipe"""
    policy: Any
    off: Off | None
    """if the trained part can be switched off"""
    initial: PreTrainedModel | None
    """a copy of the policy before training, where one is needed"""
    cached: CachedTeacher | ServedTeacher | None = None
    """the teacher, where it is a cache or a server"""
    routes: dict[str, Tensor] = field(default_factory=dict)
    """which of several teachers each row has, by "train" and "heldout", see `several_teachers.routes`"""
    prompts: dict[str, list[list[int]]] = field(default_factory=dict)
    """what the teacher reads in the place of each row's prompt, alike"""
    average: AveragePolicy | None = None
    """of the policy's weights, where that is the teacher"""
    signals: dict[str, Signal] = field(default_factory=dict)
    """what was made so far, by the argument of `Method.build`"""

    def frozen_signal(self, role: str, reads: Reads = "distribution") -> FrozenModel:
        """A named model."""
        return FrozenModel(self.frozen[role], name=role, store=self._store(role, reads), reads=reads)

    def _store(self, role: str, reads: Reads) -> RowStore | None:
        return row_store(self.recipe, f"{role}-{reads}")

    @property
    def cached_model(self) -> Any:
        """What stands for the model of a teacher that is not loaded, which reads no rows here."""
        return None if self.cached is None else self.cached.teacher

    def compares(self, required: Requirements) -> bool:
        """Whether held-out rows are compared with a teacher."""
        recipe, data = self.recipe, self.recipe.data
        if data.teacher_prompt is not None:
            return "heldout" in self.prompts
        if data.teacher_column is not None:
            return "heldout" in self.routes
        shared = other_tokenizer.sharing(self.frozen, required)
        kept = self.cached is not None or recipe.models.teacher in (SELF_INITIAL, SELF_AVERAGE)
        return kept or any(map(is_teacher, shared))

    def teacher(self, rows: str = "train", reads: Reads = "distribution") -> AnyTeacher:
        """The teacher, or several as one.

        Args:
            rows: that it reads, "train" or "heldout".
        """
        prompts = self.prompts.get(rows)
        found = self._plain_teacher(rows, reads)
        return found if prompts is None else OtherPrompt(found, prompts)

    def _plain_teacher(self, rows: str, reads: Reads) -> Any:
        if self.recipe.models.teacher in SELVES:
            return self._policy_itself(rows, reads)
        several = {name: self._remembered(f"{TEACHER}.{name}") for name in teachers_of(self.recipe.models)}
        if several:
            return several_teachers.signal(self.recipe, several, self.routes.get(rows), reads)
        if self.cached is not None and reads == "distribution":
            return self.cached
        if self.cached is not None:
            return self.cached.reading(reads)
        return self._remembered(TEACHER) if reads == "distribution" else self.frozen_signal(TEACHER, reads)

    def _policy_itself(self, rows: str, reads: Reads) -> Any:
        models = self.recipe.models
        if models.teacher == SELF_AVERAGE:
            if self.average is None:
                decay = DECAY if models.teacher_decay is None else models.teacher_decay
                self.average = AveragePolicy(decay, self.policy)
            if rows == "heldout":
                return WholeAverage(self.average)
            self.average.distribution = reads == "distribution"
            return self.average
        if models.teacher == SELF:
            return InitialPolicy(nullcontext, TEACHER, self.policy, reads)
        return self.start(TEACHER, reads)

    def start(self, name: str, reads: Reads) -> FrozenModel | InitialPolicy:
        """The initial policy: what is trained switched off, or a copy."""
        if self.off is not None:
            return InitialPolicy(self.off, name, self.policy, reads)
        return self.initial_signal(name, reads)

    def _remembered(self, role: str) -> FrozenModel:
        """A teacher's distribution: one for all stages, with what it remembers."""
        key = (id(self.frozen[role]), kept_in(self.recipe))
        if key not in self.shared.teachers:
            self.shared.teachers[key] = self.frozen_signal(role)
        return self.shared.teachers[key]

    def initial_signal(self, name: str, reads: Reads = "distribution") -> FrozenModel:
        """The copy of the initial policy."""
        assert self.initial is not None
        model = loading.cast(self.initial, self.recipe.models.frozen_dtype)
        return FrozenModel(model, name=name, store=self._store(name, reads), reads=reads)


def kept_in(recipe: Recipe) -> Literal["off", "memory", "disk"]:
    """Where rows are kept that come again; completions are new each time."""
    return "off" if samples(recipe) else recipe.models.teacher_cache


def row_store(recipe: Recipe, name: str) -> RowStore | None:
    """Where what a frozen model gives for rows is kept, by models.teacher_cache."""
    kind = kept_in(recipe)
    if kind == "disk":
        return RowStore(Path(recipe.output) / CACHES / name, mend=True)
    return RowStore() if kind == "memory" else None


def note_of_cache(loaded: LoadedModels) -> str | None:
    """What the user should know if models.teacher_cache keeps nothing."""
    asked = loaded.recipe.models.teacher_cache
    if asked != "off" and samples(loaded.recipe):
        return (
            f"models.teacher_cache={asked} keeps nothing with method {loaded.recipe.method}: its completions are new "
            "each time"
        )
    if asked != "off" and isinstance(loaded.cached, CachedTeacher) and not loaded.frozen and loaded.initial is None:
        return f"models.teacher_cache={asked} keeps nothing: the teacher is a cache, and no other model is read"
    return None


def load_signals(required: Requirements, loaded: LoadedModels) -> dict[str, Signal]:
    """The arguments of `Method.build` besides the settings and the policy.

    Raises:
        RunError: for an unknown kind of model.
    """
    for model in required.models:
        if not isinstance(model, tuple(LOADERS)):
            known = ", ".join(kind.__name__ for kind in LOADERS)
            raise RunError(f"method {loaded.recipe.method} requires a {type(model).__name__}; known are: {known}")
    for kind, load in LOADERS.items():
        model = required.model(kind)
        if model is not None:
            loaded.signals |= load(model, loaded)
    return loaded.signals


def _teacher(asked: Teacher, loaded: LoadedModels) -> dict[str, Signal]:
    if asked.own_tokenizer:
        return {"teacher": other_tokenizer.signal(loaded.recipe, loaded.teacher())}
    return {"teacher": loaded.teacher(reads="distribution" if asked.reads == "distribution" else "answers")}


def _reference(asked: Reference, loaded: LoadedModels) -> dict[str, Signal]:
    if loaded.recipe.models.reference == STORED:
        return {"reference": Column(stored.REFERENCE, "reference")}
    reads: Reads = "distribution" if asked.reads == "distribution" else "answers"
    if "reference" in loaded.frozen:
        found: FrozenModel | InitialPolicy = loaded.frozen_signal("reference", reads)
    else:
        found = loaded.start("reference", reads)
    return {"reference": ReferenceAtCandidates(found) if asked.reads == "candidates" else found}


def _aligned(asked: Aligned, loaded: LoadedModels) -> dict[str, Signal]:
    return {"aligned": loaded.frozen_signal("aligned")}


def _weak_pair(asked: WeakPair, loaded: LoadedModels) -> dict[str, Signal]:
    return {role: loaded.frozen_signal(role, "answers") for role in asked.keys}


def _reward_model(asked: RewardModel, loaded: LoadedModels) -> dict[str, Signal]:
    models = loaded.recipe.models
    assert models.reward_model is not None
    found = load_reward_model(models.reward_model, dtype=models.frozen_dtype)
    if asked.candidates is None:
        return {"reward_model": found.scores_as_trained()}
    return {"reward_model": RewardModelAtCandidates(found, asked.candidates == "model", asked.measured)}


def _critic(asked: Critic, loaded: LoadedModels) -> dict[str, Signal]:
    scores = loaded.signals.get("reward_model")
    begun = loaded.initial if scores is None else scores.models[0]
    assert begun is not None
    model = as_critic(deepcopy(begun), loaded.recipe.seed)
    return {"critic": ValueModel(model, asked.learning_rate, reduction=asked.reduction)}


LOADERS: dict[type[ModelRequirement], Callable[[Any, LoadedModels], dict[str, Signal]]] = {
    Teacher: _teacher,
    Reference: _reference,
    Aligned: _aligned,
    WeakPair: _weak_pair,
    RewardModel: _reward_model,
    Critic: _critic,
}
"""In the order in which they are loaded: a critic begins as the reward model."""


def starts_from(recipe: Recipe, reference: str | None, start: str) -> bool:
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


def crop_alike(policy: Any, plan: Plan, heldout: Sequence[Signal], stored: int | None) -> None:
    """Restrict the policy and all models that it is compared with to the same ids. A reward model of which only scores
    are used is left as it was trained.

    Args:
        heldout: what is read beside rows that are not trained on, where objectives crop by themselves.
        stored: ids that stored columns are over.
    """
    parts = [one for one in (*plan.signals, *plan.rollout_signals) if not one.own_vocabulary]
    vocab = common_vocab([policy, *models_of(parts)])
    for model in models_of(heldout):  # an earlier stage may have cropped it
        crop_to(model, common_vocab([model]))
    for model in (policy, *models_of(one for one in parts if not isinstance(one, TokenRewardModel))):
        crop_to(model, min(vocab, stored or vocab))
