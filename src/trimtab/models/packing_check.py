"""Whether the layers of a model keep the rows of a pack apart, tried out on a few tokens."""

from collections.abc import Iterable, Mapping
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from transformers.utils.generic import is_flash_attention_requested

from trimtab.common.errors import UserError, first_line
from trimtab.models.forward import backbone, same_logits
from trimtab.models.masters import inner
from trimtab.models.packing import HOW, packs_for
from trimtab.models.probing import eval_mode, probe_ids

LENGTHS = (7, 9, 5, 3)
PLACES = ((0, 0), (0, 7), (1, 0), (1, 5))


class CannotPack(UserError):
    """A model whose layers do not keep the rows of a pack apart."""


def check_packing(model: Any, role: str) -> None:
    """Check that the layers of a model keep the rows of a pack apart, and note how.

    Args:
        model: as it is trained, with adapters or an identity layer.
        role: for messages.

    Raises:
        CannotPack: if they do not.
    """
    if fault := _find_out(model):
        raise CannotPack(
            f"training.packing: the {role} {fault}; leave training.packing out, rows are then padded to the longest of "
            "their batch"
        )


def settle_packing(model: Any, role: str) -> str | None:
    """As `check_packing` for a model that is only read: one that cannot keep rows apart reads them padded, and what is
    returned is a note for the user."""
    if fault := _find_out(model):
        setattr(backbone(inner(model)), HOW, "padded")
        return f"training.packing: the {role} {fault}; it reads rows padded to the longest of their batch"
    return None


def settle_packs(
    policy: Any, others: Iterable[Any], named: Mapping[str, Any], device: torch.device
) -> list[str | None]:
    """`check_packing` of the policy and `settle_packing` of the models that are read beside it. Returns notes for the
    user.

    Args:
        device: of the run, to which models with flash attention are moved, as that runs on no CPU.
        named: role -> model, for messages; others are the reference.
    """
    roles, others = {id(model): role for role, model in named.items()}, list(others)
    for model in (policy, *others):
        if device.type != "cpu" and is_flash_attention_requested(model.config):
            model.to(device)
    check_packing(policy, "policy")
    return [settle_packing(model, roles.get(id(model), "reference")) for model in others]


SHARE = "training.share_prefixes"


def check_sharing(model: Any, role: str, longest: int) -> None:
    """Check that the layers of a model read rows with a common beginning as each alone.

    Args:
        model: as it is trained, with adapters or an identity layer.
        role: for messages.
        longest: tokens of the longest row.

    Raises:
        CannotPack: if they do not.
    """
    if fault := _sharing_fault(model, longest):
        raise CannotPack(f"{SHARE}: the {role} {fault}; leave {SHARE} out, each row is then read whole")


def settle_sharing(policy: Any, others: Iterable[Any], named: Mapping[str, Any], longest: int) -> list[str]:
    """`check_sharing` of the policy; models beside it that cannot share read whole rows, of which the notes say."""
    check_sharing(policy, "policy", longest)
    roles, notes = {id(model): role for role, model in named.items()}, []
    for model in others:
        if fault := _sharing_fault(model, longest):
            setattr(backbone(inner(model)), HOW, "padded")
            notes.append(f"{SHARE}: the {roles.get(id(model), 'reference')} {fault}; it reads each row whole")
    return notes


@torch.no_grad()
def _sharing_fault(model: Any, longest: int) -> str | None:
    """Why layers cannot share; tried on two rows as long as the longest of the run, of which half is common, so that a
    window of attention that is not known here shows."""
    layers: Any = backbone(inner(model))
    name = f"({layers.config.model_type})"
    if layers.config._attn_implementation not in ("sdpa", "eager"):
        return f"{name} has {layers.config._attn_implementation} attention, which takes no mask; sdpa and eager do"
    if "position_ids" not in signature(layers.forward).parameters:
        return f"{name} takes no position_ids, so that a token behind another row's would be misplaced"
    longest = max(longest, 8)
    ids = probe_ids(inner(model), 2, longest)
    ids[1, : longest // 2] = ids[0, : longest // 2]
    place = torch.tensor([[0, 0, 0], [0, longest, longest // 2]], device=ids.device)
    with eval_mode(layers):
        try:
            packed = packs_for(layers, ids, torch.ones_like(ids), place)
            states = layers(**packed.arguments, use_cache=False).last_hidden_state.flatten(0, 1)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
            return f"{name} does not take a mask of its own ({first_line(error)})"
        alone = [layers(input_ids=one[None], use_cache=False).last_hidden_state[0] for one in ids]
    fits = all(same_logits(states[index], one) for index, one in zip(packed.index, alone))
    return None if fits else f"{name} reads a row behind a shared beginning otherwise than alone"


@torch.no_grad()
def _find_out(model: Any) -> str | None:
    """On four short rows in two packs: whether a row reads the same bits whatever stands before it in its pack, and
    whether its states are those that it has alone, up to rounding. The first way to read packs of which that is true
    is noted; if there is none, the last one's fault is returned."""
    layers: Any = backbone(inner(model))
    name = f"({layers.config.model_type})"
    if "position_ids" not in signature(layers.forward).parameters:
        return f"{name} takes no position_ids, so the rows of a pack cannot be told apart"
    fault = None
    with eval_mode(layers):
        for how in ("positions", "masks"):
            setattr(layers, HOW, how)
            fault = _fault(layers, probe_ids(inner(model), len(LENGTHS), max(LENGTHS)))
            if fault is None:
                return None
    return f"{name} {fault}"


def _fault(layers: nn.Module, ids: Tensor) -> str | None:
    other = ids.clone()
    other[0::2] = ids[0::2].flip(1).roll(1, 0)  # the first row of each pack
    try:
        found, after = _second_rows(layers, ids), _second_rows(layers, other)
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError, KeyError) as error:
        return f"does not run on packed rows ({first_line(error)})"
    close = 1e-5 if found[0].dtype == torch.float32 else 2e-2
    rounding = close * found[0].float().std() if _has_experts(layers) else 0.0
    if not all((a - b).abs().max() <= rounding for a, b in zip(found, after)):
        return (
            "reads a row of a pack otherwise if the row before it is another: its attention is not blocked between "
            "rows, or its layers carry a state across (convolutions, linear attention, state spaces)"
        )
    alone = [layers(input_ids=ids[i : i + 1, : LENGTHS[i]], use_cache=False).last_hidden_state[0] for i in (1, 3)]
    # written so that NaN is a fault
    return (
        None if all(same_logits(a, b) for a, b in zip(found, alone)) else "reads a row of a pack otherwise than alone"
    )


def _has_experts(layers: Any) -> bool:
    """Whether tokens share products of a shape that goes by how many an expert has, and so their rounding."""
    return any("expert" in key for key in vars(layers.config))


def _second_rows(layers: nn.Module, ids: Tensor) -> list[Tensor]:
    """[T, D] states of the second row of each pack."""
    lengths, place = (torch.tensor(one, device=ids.device) for one in (LENGTHS, PLACES))
    mask = (torch.arange(ids.size(1), device=ids.device) < lengths[:, None]).long()
    packed = packs_for(layers, ids, mask, place)
    states = layers(**packed.arguments, use_cache=False).last_hidden_state.flatten(0, 1)
    return [states[packed.index[i, : LENGTHS[i]]] for i in (1, 3)]
