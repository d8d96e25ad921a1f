"""What writes the output of each block of a decoder layer, found by trying and not by its name.

With these weights at zero a block writes zeros and still learns. Of attention and of an MLP it is the linear layer that
runs last; of a mixture the experts' last weights, one tensor for all of them or a layer each, and those of the experts
that all tokens share. A block in which a gate runs last (rwkv, qwen2_moe) is why each choice is tried.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers.pytorch_utils import Conv1D

from trimtab.models.probing import reaches, restored

Writers = dict[str, nn.Linear | Conv1D | nn.Parameter]
"""by name in the layer: linear layers, and of experts the tensors themselves"""
LAST = ("down", "w2", "out", "fc2", "c_proj", "wo", "4h_to_h")
"""parts of names of an expert's last weights, which are tried first"""


@dataclass
class Seen:
    """One call of a layer."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    order: list[str]
    """names of its modules, in the order in which they ended"""
    width: dict[str, int]
    """entries of a row of their outputs"""

    @property
    def hidden(self) -> int | None:
        """Entries of a row of what the layer was given."""
        given = _first(self.args or tuple(self.kwargs.values()))
        return None if given is None else given.size(-1)


def output_writers(layer: nn.Module, run: Callable[[], Any]) -> Writers:
    """What writes the output of each block of `layer`: a child with weights inside; linear layers that are children
    themselves are one block together. A block that is never zero (a router) has none.

    Args:
        run: calls the model that the layer is a part of.
    """
    seen = _watched(layer, run)
    if seen is None:
        return {}
    found: Writers = {}
    linear = {name for name, child in layer.named_children() if isinstance(child, nn.Linear | Conv1D)}
    direct = [name for name in seen.order if name in linear]
    for name, _ in layer.named_children():
        if name not in direct:
            found |= _as_writers(layer, _of_block(layer, seen, name))
    if direct:
        found |= _as_writers(layer, _of_module(layer, direct[-1])[0])
    return found


def _watched(layer: nn.Module, run: Callable[[], Any]) -> Seen | None:
    """The first call of the layer; None if it is not called."""
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    order: list[str] = []
    width: dict[str, int] = {}

    def note(name: str) -> Any:
        def ended(module: nn.Module, args: Any, output: Any) -> None:
            order.append(name)
            first = _first(output)
            if first is not None and first.dim() > 1:
                width[name] = first.size(-1)

        return ended

    with ExitStack() as hooks:
        for name, module in layer.named_modules():
            if name:
                hooks.enter_context(module.register_forward_hook(note(name)))
        before = layer.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
        hooks.enter_context(before)
        run()
    return Seen(*calls[0], order, width) if calls else None


def _first(output: Any) -> Any:
    """The first tensor of what a module gave."""
    if isinstance(output, tuple | list):
        return next((one for one in output if isinstance(one, Tensor)), None)
    return output if isinstance(output, Tensor) else None


def _of_block(layer: nn.Module, seen: Seen, block: str) -> list[str]:
    """Names of the parameters of `layer` that write what `block` gives; none where it is never zero."""
    for chosen in _candidates(layer, seen, block):
        for names in dict.fromkeys((tuple(chosen), (*chosen, *_behind(layer, block, chosen[0])))):
            if _silent(layer, seen, block, names):
                return list(names)
    parts: list[list[str]] = []
    for part in _parts(layer, block):
        if seen.width.get(part, 0) == seen.hidden and (chosen := _of_block(layer, seen, part)):
            parts.append(_everywhere(layer, chosen))
    if not parts or not _silent(layer, seen, block, _joined(parts)):
        return _last(layer, seen, block)
    for one in list(parts):  # such as a router with as many experts as the model is wide
        rest = [other for other in parts if other is not one]
        if rest and _silent(layer, seen, block, _joined(rest)):
            parts = rest
    return _joined(parts)


def _last(layer: nn.Module, seen: Seen, block: str) -> list[str]:
    """The linear layer that runs last, of a block that adds its output to what it was given (bloom) and is not zero."""
    if "." in block or seen.width.get(block, 0) != seen.hidden:
        return []
    for chosen in _candidates(layer, seen, block):
        if isinstance(layer.get_submodule(chosen[0].rpartition(".")[0]), nn.Linear | Conv1D):
            return chosen
    return []


def _behind(layer: nn.Module, block: str, name: str) -> list[str]:
    """Biases that the modules around a weight add to what it gives."""
    parts, found = name.split("."), []
    for at in range(len(block.split(".")), len(parts) - 1):
        around = ".".join(parts[:at])
        if (bias := _parameter(layer, f"{around}.bias")) is not None and bias.dim() == 1:
            found.append(f"{around}.bias")
    return [one for one in found if one != name]


def _joined(parts: Iterable[list[str]]) -> list[str]:
    return list(dict.fromkeys(name for part in parts for name in part))


def _parts(layer: nn.Module, block: str) -> Iterator[str]:
    """Children of a module; of a list of modules, which does not run itself, its members."""
    for name, child in layer.get_submodule(block).named_children():
        path = f"{block}.{name}"
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _parts(layer, path)
        else:
            yield path


def _candidates(layer: nn.Module, seen: Seen, block: str) -> Iterator[list[str]]:
    """Weights of one module in or at a block: linear layers, what ran last first, then other tables."""
    names = [name for name in dict.fromkeys(reversed(seen.order)) if name == block or name.startswith(f"{block}.")]
    linear = [name for name in names if isinstance(layer.get_submodule(name), nn.Linear | Conv1D)]
    for name in (*linear, *(name for name in names if name not in linear)):
        for chosen in _of_module(layer, name):
            yield _everywhere(layer, chosen)


def _of_module(layer: nn.Module, name: str) -> list[list[str]]:
    """The weights of a linear layer with its bias; of a module with tensors of its own, each with its bias."""
    module = layer.get_submodule(name)
    own = [key for key, _ in module.named_parameters(recurse=False)]
    if isinstance(module, nn.Linear | Conv1D):
        return [[f"{name}.{key}" for key in own]]
    if isinstance(module, nn.Embedding):
        return []
    tables = [key for key in own if module.get_parameter(key).dim() > 1 and not key.endswith("bias")]
    tables.reverse()
    ordered = sorted(tables, key=lambda key: not any(part in key for part in LAST))
    return [[f"{name}.{key}" for key in (table, *_biases(table, own))] for table in ordered]


def _biases(table: str, own: Iterable[str]) -> list[str]:
    names = (f"{table}_bias", f"{table}.bias", table.replace("weight", "bias"))
    return [name for name in names if name in own and name != table]


def _everywhere(layer: nn.Module, names: Iterable[str]) -> list[str]:
    """The same weights in all members of a list of experts, of which few tokens reach a few only."""
    found = dict.fromkeys(names)
    for name in list(found):
        parts = name.split(".")
        for at in range(1, len(parts) - 1):
            members = layer.get_submodule(".".join(parts[:at]))
            if isinstance(members, nn.ModuleList) and parts[at].isdigit():
                for other, _ in members.named_children():
                    same = ".".join([*parts[:at], other, *parts[at + 1 :]])
                    if _parameter(layer, same) is not None:
                        found[same] = None
    return list(found)


def _parameter(layer: nn.Module, name: str) -> nn.Parameter | None:
    try:
        return layer.get_parameter(name)
    except AttributeError:
        return None


def _as_writers(layer: nn.Module, names: Iterable[str]) -> Writers:
    """Linear layers by their own names, other weights by theirs."""
    found: Writers = {}
    for name in names:
        owner = name.rpartition(".")[0]
        module = layer.get_submodule(owner)
        if isinstance(module, nn.Linear | Conv1D):
            found[owner] = module
        else:
            found[name] = layer.get_parameter(name)
    return found


def _silent(layer: nn.Module, seen: Seen, block: str, names: Iterable[str]) -> bool:
    """Whether a block gives zeros with these weights at zero, and one of them still gets a gradient: with the first
    weights of a gated expert at zero, which give zeros too, nothing would ever be learnt."""
    weights = [layer.get_parameter(name) for name in names]
    with restored(weights), torch.enable_grad():
        for weight in weights:
            nn.init.zeros_(weight.requires_grad_(True))
        outputs = _outputs(layer, seen, block)
        if not outputs or any(int(output.count_nonzero()) for output in outputs):
            return False
        return reaches(outputs, weights)


def _outputs(layer: nn.Module, seen: Seen, block: str) -> list[Tensor]:
    """What a block gives in another call of the layer."""
    found: list[Tensor] = []

    def note(module: nn.Module, args: Any, output: Any) -> None:
        first = _first(output)
        if first is not None:
            found.append(first.clone())  # some are added to in place

    args, kwargs = tree_map_only(Tensor, Tensor.clone, (seen.args, seen.kwargs))
    with layer.get_submodule(block).register_forward_hook(note):
        layer(*args, **kwargs)  # copies, since some layers write into their inputs
    return found
