"""Frozen models whose layers are split over the processes of a launch."""

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from transformers import PreTrainedModel

from trimtab.common import collectives
from trimtab.common.errors import UserError
from trimtab.models.student import find_layers


def is_split(model: nn.Module) -> bool:
    return any(isinstance(module, FSDPModule) for module in model.modules())


def split_layers(model: PreTrainedModel, device: torch.device) -> None:
    """Give each process its part of every decoder layer's weights; a layer is whole only while it computes.

    Embedding, final norm and head stay whole everywhere: the objective calls the head block by block, when the model's
    own forward is over. All processes must call the model equally often.

    Args:
        model: on any device; layer after layer it moves to this one, so that this one never holds all of them.

    Raises:
        UserError: for a model whose layers share weights, or have none of their own.
    """
    if is_split(model):
        return
    layers = find_layers(model, model.config.get_text_config(decoder=True).num_hidden_layers)[1]
    known: set[int] = set()
    for number, layer in enumerate(layers):
        own = {id(parameter) for parameter in layer.parameters()}
        if known & own:
            raise UserError(f"{type(model).__name__}: layer {number} shares weights with another, and cannot be split")
        known |= own
    mesh = init_device_mesh(device.type, (collectives.size(),))
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)  # each is a root, which by default stays whole
