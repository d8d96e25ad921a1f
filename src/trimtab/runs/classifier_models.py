"""The models of a run that trains a classifier: the policy, its adapter, and the teacher."""

from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedModel

from trimtab.core import Labels, Plan
from trimtab.models.adapter_saving import remember_initial
from trimtab.models.adapter_starts import base_is_unchanged
from trimtab.models.adapters import add_lora
from trimtab.models.classifier import ClassifierError, embeddings_block, head_parts, load_classifier, stored_labels
from trimtab.models.probing import probe_logits
from trimtab.models.scope import Scope, freeze_others
from trimtab.models.student import keep_layers, layer_indices
from trimtab.runs.folder import RunError
from trimtab.runs.models_key import Cut
from trimtab.runs.policy import Shared, policy_scope
from trimtab.runs.recipe import Recipe, policy_source


def shared_classifier(recipe: Recipe, shared: Shared, name: str, labels: Labels) -> PreTrainedModel:
    models = recipe.models
    key = ("classifier", name, models.frozen_dtype)
    if key not in shared.models:
        how = {"dtype": models.frozen_dtype, "trust_remote_code": models.trust_remote_code}
        shared.models[key] = load_classifier(name, labels, **how)
    return shared.models[key]


def classifier_to_train(recipe: Recipe, teacher: PreTrainedModel | None, labels: Labels) -> PreTrainedModel:
    """The classifier to train: a model, which gets a head if it has none, or layers of one."""
    models, cut = recipe.models, recipe.models.policy
    same = isinstance(cut, Cut) and cut.source == "teacher" and models.dtype == models.frozen_dtype
    if same and teacher is not None:
        source = teacher
    else:
        how: dict[str, Any] = {"dtype": models.dtype, "trust_remote_code": models.trust_remote_code}
        source = load_classifier(policy_source(recipe), labels, **how, seed=recipe.seed)
    if not isinstance(cut, Cut):
        return source
    try:
        made = keep_layers(source, layer_indices(source, cut.layers))
    except ValueError as error:
        raise RunError(f"models.policy.layers: {error}") from error
    return made.requires_grad_(True)


def check_classifier_plan(recipe: Recipe, plan: Any, models: Sequence[PreTrainedModel]) -> None:
    """Check what the method has built, and that the models' embeddings are found where they are asked for."""
    if not isinstance(plan, Plan):
        raise RunError(f"method {recipe.method}: build returned {type(plan).__name__}, expected a Plan")
    if getattr(plan.objective, "steps", 0):
        for model in models:
            try:
                embeddings_block(model)
            except ClassifierError as error:
                raise RunError(f"method {recipe.method}: {error}; options.beta=0 distils without maps") from None


def scope_of_classifier(recipe: Recipe, policy: PreTrainedModel) -> tuple[Scope | None, tuple[str, ...]]:
    """What the recipe's scope names, and what is to be said of it; without an adapter all else but a new head is frozen
    from now on."""
    if (scope := policy_scope(policy, recipe)) is None:
        return None, ()
    if recipe.models.lora is not None:
        return scope, scope.notes
    inside = {id(parameter) for parameter in policy.base_model.parameters()}
    trained = stored_labels(policy_source(recipe), trust_remote_code=recipe.models.trust_remote_code) is not None
    head = [] if trained else [one for one in policy.parameters() if id(one) not in inside]
    freeze_others(policy, scope, head)
    return scope, (*scope.notes, *(["the new head is trained besides the scope"] if head else []))


def with_lora(policy: PreTrainedModel, recipe: Recipe, scope: Scope | None = None) -> Any:
    """The policy with the recipe's adapter, if it has one; the head is trained as a whole and stored with it."""
    lora = recipe.models.lora
    if lora is None:
        return policy
    before = probe_logits(policy).detach()
    adapted = add_lora(policy, lora, recipe.seed, head=head_parts(policy), scope=scope)
    if not base_is_unchanged(adapted, before):
        remember_initial(adapted)
    return adapted
