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
from trimtab.models.probing import eval_mode


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
    """The model with its adapters merged.

    A head that is tied to an embedding with an adapter keeps its own weights; the two are tied again only if they are
    still equal.
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
    """Untie shared weights that have an adapter; whether there were any."""
    shared = [group for group in _shared(model) if any(".base_layer." in name for name in group)]
    _untie(model, shared)
    return bool(shared)


def _untie_layers(model: Any) -> None:
    """Untie repeated layers, which share their weights while adapters train."""
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


@torch.no_grad()
def logits_at_tokens(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """[N, V] float32 logits of the tokens of a batch that are not padding; [N, 1] scores of a scalar head."""
    mask = batch["attention_mask"]
    with eval_mode(model):
        logits = model(input_ids=batch["input_ids"], attention_mask=mask, use_cache=False).logits
    return logits[mask.bool()].float().cpu()


def is_faithful(found: Tensor, wanted: Tensor, without: Tensor, *, rounded: bool = False) -> bool:
    """Whether logits are the same up to a small share of their spread and of the adapter's effect, so that a lost
    adapter is noticed however little it has learnt.

    Args:
        found, wanted, without: `logits_of` the merged model, the trained one, and that with its adapter disabled.
        rounded: the weights behind `found` were rounded to 8 or 11 bits, which may hide a small adapter.
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
    """The share of an adapter's effect that is left in `found`, from 0 to 1; noise counts little.

    The projection <found - without, trained - without> / |trained - without|^2.
    """
    finite = trained.isfinite() & found.isfinite() & without.isfinite()
    done, left = (trained - without)[finite].double(), (found - without)[finite].double()
    if done.square().mean().sqrt() <= NOISE * trained[finite].double().std():
        return 1.0
    return float((left * done).sum() / done.square().sum())


_WRAPPED = re.compile(r"\.(base_layer|original_module|modules_to_save\.default)(?=\.)")
"""what PEFT adds to the names of the model's own tensors"""


def in_float32(policy: Any) -> dict[str, torch.dtype]:
    """Convert the model to float32, on the CPU if the GPU has no room.

    Returns:
        The earlier dtypes of the base model's tensors, by their names without an adapter, for `in_own_dtypes`.
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
