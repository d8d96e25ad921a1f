"""Which parameters of a model are trained: all, those of blocks of some layers, or those that a pattern names.

Blocks and their parts are found by what they do. Of the blocks of a decoder layer attention is the one that reads other
tokens; the MLP (or the mixture of experts) reads each token alone. What writes a block's output is found by running it
(`layer_outputs`): `down_proj` of gpt2 is `c_proj`, of opt `fc2`, of falcon `dense_4h_to_h`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from transformers.pytorch_utils import Conv1D

from trimtab.common.errors import UserError
from trimtab.models.folder import shown
from trimtab.models.layer_outputs import output_writers
from trimtab.models.probing import probe_logits
from trimtab.models.quantised import is_quantised
from trimtab.models.student import find_layers

BLOCKS = ("mlp", "attention")
MLP = re.compile(r"mlp|ffn|feed_?forward|moe|expert|^ff|^fc\d|^intermediate$|^output$|^lin\d", re.IGNORECASE)
ATTENTION = re.compile(r"attn|attention|mixer|mamba|conv|temporal", re.IGNORECASE)
"""names of blocks, where a layer cannot be run, and where several read each token alone"""
OUTPUT = {"mlp": "down_proj", "attention": "o_proj"}
"""the part that writes a block's output, whatever a family calls it"""
INPUT = "up_proj"
"""the one other weight of an MLP without a gate"""
WROTE = re.compile(
    r"down|w2$|^w?o$|^wo$|o_proj|out_proj|fc_out|fc2|c_proj|4h_to_h$|output|^dense$|^w_out$|linear_out$", re.I
)
"""names of what writes a block's output, for models that cannot be run here"""


class ScopeError(UserError):
    """A scope that the model does not have."""


@dataclass(frozen=True)
class Scope:
    """Parameters of a model."""

    names: tuple[str, ...]
    """of the parameters, each once"""
    modules: tuple[str, ...]
    """linear layers and embeddings among them, for adapters"""
    tables: tuple[str, ...]
    """weights of experts that are no linear layers, for adapters"""
    notes: tuple[str, ...] = ()


def resolve(model: Any, asked: str | Mapping[str, Any]) -> Scope:
    """The parameters of a model that a scope names.

    Args:
        asked: a pattern that is searched in names of parameters; or a mapping with `mlp` and/or `attention` (`all`, a
            layer, a pair for all layers from the first to the second, or `{layers: [...]}`) and maybe `parts`, names of
            weights in these blocks. `down_proj` and `o_proj` are what writes the block's output.

    Raises:
        ScopeError: naming what was looked for, and what there is.
    """
    return _collected(model, _by_pattern(model, asked) if isinstance(asked, str) else _by_blocks(model, asked))


def freeze_others(model: nn.Module, scope: Scope, always: Iterable[nn.Parameter] = ()) -> None:
    """Train only the parameters of the scope, and those of `always`."""
    kept = set(scope.names)
    extra = {id(parameter) for parameter in always if parameter.requires_grad}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in kept or id(parameter) in extra)


def check_layers(asked: Any, total: int, where: str) -> list[int]:
    """The layers that `mlp` or `attention` names, see `resolve`.

    Raises:
        ScopeError: if the model has no such layers.
    """
    listed = asked["layers"] if isinstance(asked, Mapping) else asked
    if listed in ("all", None):
        return list(range(total))
    numbers = [listed] if isinstance(listed, int) else list(listed)
    if not isinstance(asked, Mapping) and len(numbers) == 2:
        numbers = list(range(numbers[0], numbers[1] + 1))
    beyond = [number for number in numbers if not 0 <= number < total]
    if beyond:
        span = f"{numbers[0]} to {numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
        raise ScopeError(f"{where} names layers {span}, but the model has {total}, 0 to {total - 1}")
    return numbers


# ---------------------------------------------------------------- by name


def _by_pattern(model: Any, pattern: str) -> list[str]:
    """Names of parameters, tied ones under each of their names."""
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    found = [name for name in names if re.search(pattern, name)]
    if not found:
        raise ScopeError(
            f"scope {pattern!r} matches no parameter of {_class(model)}; some of its names: {_some(names)}"
        )
    return found


def _some(names: Iterable[str]) -> str:
    """Names, those of all layers once."""
    return shown(list(dict.fromkeys(re.sub(r"\.\d+\.", ".N.", name) for name in names)))


# ---------------------------------------------------------------- by structure


def _by_blocks(model: Any, asked: Mapping[str, Any]) -> list[str]:
    total = model.config.get_text_config(decoder=True).num_hidden_layers
    path, layers = find_layers(model, total)
    numbers = {block: check_layers(asked[block], total, f"scope.{block}") for block in BLOCKS if block in asked}
    known: dict[Any, Blocks] = {}  # layers of one shape are alike
    found: list[str] = []
    parts = asked.get("parts")
    for block, chosen in numbers.items():
        some = False
        for number in chosen:
            layer = layers[number]
            shape = tuple((name, p.shape) for name, p in layer.named_parameters())
            if shape not in known:
                known[shape] = Blocks.of(layer, model)
            names = known[shape].weights(layer, block)
            if not names:
                if asked[block] == "all":
                    continue
                inside = shown([name for name, _ in layer.named_children()])
                raise ScopeError(f"scope.{block}: layer {number} of {_class(model)} has no {block}; it holds {inside}")
            some = True
            if parts is not None:
                names = _parts(layer, known[shape], block, names, parts, f"layer {number} of {_class(model)}")
            found += [f"{path}.{number}.{name}" for name in names]
        if not some:
            raise ScopeError(f"scope.{block}: no layer of {_class(model)} has one")
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Blocks:
    """The blocks of a decoder layer."""

    children: dict[str, list[str]]
    """block -> names of the layer's children"""
    writers: dict[str, list[str]]
    """block -> names of parameters that write its output"""

    @classmethod
    def of(cls, layer: nn.Module, model: Any) -> "Blocks":
        names = [name for name, child in layer.named_children() if any(p.dim() > 1 for p in child.parameters())]
        runs = not is_quantised(model) and next(layer.parameters()).device.type != "meta"
        alone = _reads_each_token_alone(layer, names, model) if runs else {}
        by_name = {name: bool(MLP.search(name)) and not ATTENTION.search(name) for name in names}
        mlp = [name for name in names if alone.get(name, by_name[name])]
        named = [name for name in mlp if by_name[name]]
        # some classes look back by one token in their MLP (rwkv)
        mlp = named or mlp or [name for name in names if by_name[name]]
        attention = [name for name in names if name not in mlp and (ATTENTION.search(name) or alone.get(name) is False)]
        children = {"mlp": mlp, "attention": attention}
        every = _written(layer, model, runs)
        return cls(children, {block: [n for n in every if n.partition(".")[0] in of] for block, of in children.items()})

    def weights(self, layer: nn.Module, block: str) -> list[str]:
        """Names of all parameters of a block."""
        children = self.children[block]
        return [name for name, _ in layer.named_parameters() if name.partition(".")[0] in children]


def _reads_each_token_alone(layer: nn.Module, names: Iterable[str], model: Any) -> dict[str, bool]:
    """Of children that run: whether what they give at the last token stays when the tokens before it change."""
    calls: dict[str, tuple[Any, Any]] = {}

    def note(name: str) -> Any:
        return lambda module, args, kwargs: calls.setdefault(name, (args, kwargs)) and None

    hooks = [layer.get_submodule(name).register_forward_pre_hook(note(name), with_kwargs=True) for name in names]
    try:
        with torch.no_grad():
            probe_logits(model)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: _is_alone(layer.get_submodule(name), *calls[name]) for name in calls}


@torch.no_grad()
def _is_alone(block: nn.Module, args: Any, kwargs: Any) -> bool:
    def called(change: bool) -> Tensor | None:
        seen = []

        def copied(one: Tensor) -> Tensor:
            one = one.clone()
            if one.is_floating_point() and one.dim() == 3 and not seen:
                seen.append(one)
                if change:
                    one[:, :-1] = one[:, :-1].flip(1) * 0.5
            return one

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            given, named = tree_map_only(Tensor, copied, (args, kwargs))
            output = block(*given, **named)
        first = output[0] if isinstance(output, tuple | list) else output
        return first if isinstance(first, Tensor) else None

    try:
        before, after = called(False), called(True)
    except Exception:  # of a class that is called twice with one cache: it reads other tokens
        return False
    if before is None or after is None or before.dim() < 2:
        return False
    flat = [one.reshape(-1, one.shape[-1])[-1] for one in (before, after)]
    return torch.allclose(*flat, rtol=1e-4, atol=1e-6)


def _written(layer: nn.Module, model: Any, runs: bool) -> list[str]:
    """Names of parameters that write the outputs of the layer's blocks, as wide as the model is."""
    if runs:
        with torch.no_grad():
            writers = output_writers(layer, lambda: probe_logits(model))
        found = []
        for name, one in writers.items():
            found += [name] if isinstance(one, nn.Parameter) else [f"{name}.{key}" for key, _ in one.named_parameters()]
    else:
        found = [name for name, _ in layer.named_parameters() if WROTE.search(_own_name(name))]
    width = model.config.get_text_config(decoder=True).hidden_size
    narrow = {owner for name in found if (owner := name.rpartition(".")[0]) and _width(layer, owner) not in (width, 0)}
    return [name for name in found if name.rpartition(".")[0] not in narrow]


def _width(layer: nn.Module, owner: str) -> int:
    """Numbers that a linear layer gives for a token; 0 for other modules, and for packed weights."""
    module = layer.get_submodule(owner)
    if isinstance(module, Conv1D):
        return module.nf
    return module.out_features if type(module) is nn.Linear else 0


def _own_name(name: str) -> str:
    """What a family calls a weight: of a linear layer its module, of other weights the parameter."""
    owner, _, last = name.rpartition(".")
    return owner.rpartition(".")[2] if owner and last in ("weight", "bias", "qweight") else last


def _parts(
    layer: nn.Module, blocks: Blocks, block: str, names: Sequence[str], parts: Iterable[str], where: str
) -> list[str]:
    """Those of a block's parameters that are called, or do, what the parts name.

    Raises:
        ScopeError: for a part that the block does not have.
    """
    found: dict[str, None] = {}
    for part in parts:
        chosen = [name for name in names if _own_name(name) in (part, f"{part}_bias")]
        if part == OUTPUT[block]:
            chosen += blocks.writers[block]
        if not chosen and block == "mlp" and part == INPUT:
            others = [name for name in names if name not in blocks.writers[block]]
            owners = {_own_name(name) for name in others if layer.get_parameter(name).dim() > 1}
            chosen = [name for name in others if len(owners) == 1 and _own_name(name) in owners - {"gate_up_proj"}]
        if not chosen:
            have = dict.fromkeys(_own_name(name) for name in names)
            raise ScopeError(
                f"scope.parts: the {block} in {where} has no {part!r}; it has {', '.join(have)}, and {OUTPUT[block]} "
                "is what writes its output"
            )
        found |= dict.fromkeys(chosen)
    return list(found)


# ---------------------------------------------------------------- what was chosen


def _collected(model: Any, chosen: Iterable[str]) -> Scope:
    """Each parameter once, with the layers around it, and what is tied to it."""
    every = list(model.named_parameters(remove_duplicate=False))
    names_of: dict[int, list[str]] = {}
    for name, parameter in every:
        names_of.setdefault(id(parameter), []).append(name)
    asked = set(chosen)
    own = {id(parameter): name for name, parameter in model.named_parameters()}
    ids = list(dict.fromkeys(id(parameter) for name, parameter in every if name in asked))
    tied = [names_of[one] for one in ids if len(names_of[one]) > 1]
    notes = [f"scope: {' and '.join(names)} are one weight, so that training one trains the other" for names in tied]
    names = [own[one] for one in ids]
    modules, tables = [], []
    for name in names:
        owner, _, last = name.rpartition(".")
        module = model.get_submodule(owner)
        if isinstance(module, nn.Linear | Conv1D | nn.Embedding) or (is_quantised(model) and last == "weight"):
            modules.append(owner)
        elif model.get_parameter(name).dim() > 1 and "bias" not in last:
            tables.append(name)
    return Scope(tuple(names), tuple(dict.fromkeys(modules)), tuple(tables), tuple(notes))


def _class(model: Any) -> str:
    return type(model).__name__
