"""Merging an adapter into its model: tied weights, dtypes, and a check that the output is unchanged."""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.models.masters import compute_as_stored, own_dtype


class AdapterError(UserError):
    """Adapter settings that PEFT rejects, or under which no model could be saved."""


def check_merge(policy: Any) -> None:
    """Check before training that the adapters can be merged at its end."""
    for name, module in policy.named_modules():
        biased = getattr(module, "lora_bias", None)
        if isinstance(biased, Mapping) and any(biased.values()) and module.get_base_layer().bias is None:
            raise AdapterError(
                f"models.lora.lora_bias: {name.rpartition('model.')[2]} has no bias that the adapter's could be merged "
                "into; leave it out"
            )


def merged(policy: Any) -> PreTrainedModel:
    """The model with its adapters added to its weights.

    Where an adapter is on an embedding that the head is tied to, the head keeps the weights that it had in training;
    the two are tied again only if they are still equal.
    """
    base = policy.get_base_model()
    if any(getattr(config, "layer_replication", None) for config in policy.peft_config.values()):
        _untie_layers(base)
    untied = _untie_adapted(base)
    found = policy.merge_and_unload()
    if untied:
        _tie_if_equal(found)
    return found


def _untie_adapted(model: nn.Module) -> bool:
    """Give each name of a weight that is shared, and that an adapter is on, a weight of its own."""
    shared = [group for group in _shared(model) if any(".base_layer." in name for name in group)]
    _untie(model, shared)
    return bool(shared)


def _untie_layers(model: Any) -> None:
    """Give repeated layers, which share their weights while adapters train, weights of their own."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    kept = {id(parameter) for end in ends if end is not None for parameter in end.parameters()}
    _untie(model, [group for group in _shared(model) if id(model.get_parameter(group[0])) not in kept])


def _shared(model: nn.Module) -> list[list[str]]:
    """Names of each parameter that has several."""
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(name)
    return [group for group in names.values() if len(group) > 1]


def _untie(model: nn.Module, groups: list[list[str]]) -> None:
    for name in [name for group in groups for name in group[1:]]:
        owner, _, own = name.rpartition(".")
        module = model.get_submodule(owner)
        weight = getattr(module, own)
        setattr(module, own, nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad))


def _tie_if_equal(model: PreTrainedModel) -> None:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or head is None:
        return
    if torch.equal(embedding.weight, head.weight):  # type: ignore[arg-type]
        model.tie_weights()
        return
    for config in {id(one): one for one in (model.config, model.config.get_text_config(decoder=True))}.values():
        config.tie_word_embeddings = False
    model.tie_weights()  # recomputes what is tied: nothing


EXACT, ROUNDED, NOISE = 1e-3, 5e-2, 1e-5
"""of the root mean square, as shares of the logits' spread"""


def answers_without(policy: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """As `answers_of`, of a policy whose adapter is lost."""
    with policy.disable_adapter():
        return answers_of(policy, batch)


@torch.no_grad()
def answers_of(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """[N, V] float32 logits at the places of a batch that are no padding; N of a scalar head's scores [N, 1]."""
    was_training = model.training
    model.eval()
    try:
        mask = batch["attention_mask"]
        logits = model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).logits
    finally:
        model.train(was_training)
    return logits[mask.bool()].float().cpu()


def same_answers(found: Tensor, wanted: Tensor, without: Tensor, *, rounded: bool = False) -> bool:
    """Whether two ways to the same weights give the same, in float32: apart by little of the logits' spread, and by
    little of what the adapter does, so that an adapter that is lost is seen however little it has learnt.

    Args:
        found: of `answers_of`, as the others.
        wanted: of the trained model.
        without: of it without its adapter.
        rounded: the weights behind `found` were rounded to 8 or 11 bits otherwise, which may hide a small adapter.
    """
    if found.shape != wanted.shape:
        return False
    finite = wanted.isfinite() & found.isfinite() & without.isfinite()
    spread = wanted[finite].std().clamp(min=1e-3)
    if rounded:
        return bool(_apart(found, wanted, finite) <= ROUNDED * spread)
    most = torch.minimum(EXACT * spread, 0.1 * _apart(without, wanted, finite)) + NOISE * spread
    return bool(_apart(found, wanted, finite) <= most)


def _apart(one: Tensor, other: Tensor, where: Tensor) -> Tensor:
    return (one - other)[where].square().mean().sqrt()


def kept_share(found: Tensor, trained: Tensor, without: Tensor) -> float:
    """How much of what an adapter does is left in `found`: 1 for all, 0 for nothing. Noise beside it counts little.

    The projection <found - without, trained - without> / |trained - without|^2.
    """
    finite = trained.isfinite() & found.isfinite() & without.isfinite()
    done, left = (trained - without)[finite].double(), (found - without)[finite].double()
    if done.square().mean().sqrt() <= NOISE * trained[finite].double().std():
        return 1.0
    return float((left * done).sum() / done.square().sum())


_WRAPPED = re.compile(r"\.(base_layer|original_module|modules_to_save\.default)(?=\.)")
"""what PEFT puts into the names of the model's own tensors"""


def in_float32(policy: Any) -> dict[str, torch.dtype]:
    """Compute in float32 from now on, with the same weights; a model for which the GPU has no room goes to the CPU.

    Returns:
        The dtypes that the tensors of the model below had, by their names without an adapter, for `in_own_dtypes`.
    """
    base, device = policy.get_base_model(), next(policy.parameters()).device
    had: dict[str, torch.dtype] = {}
    for name, value in (*base.named_parameters(remove_duplicate=False), *base.named_buffers(remove_duplicate=False)):
        if "modules_to_save" not in name:
            had[_WRAPPED.sub("", name)] = own_dtype(value)
    size = 4 * sum(value.numel() for value in policy.parameters())
    if device.type == "cuda" and policy.dtype != torch.float32 and torch.cuda.mem_get_info(device)[0] < 2 * size:
        policy.to("cpu")
    policy.float()
    compute_as_stored(policy)
    return had


@torch.no_grad()
def in_own_dtypes(model: PreTrainedModel, had: Mapping[str, torch.dtype]) -> PreTrainedModel:
    """The merged model in the dtypes of `in_float32`, in place."""
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        value.data = value.data.to(had.get(name, value.dtype))
    return model
