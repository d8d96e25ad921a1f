"""Extend a causal language model to compute an objective inside its own forward.

Inside, because there the hooks of DDP and FSDP2 have gathered the parameters, the autocast context is
the right one, and the gradient of a tied head reaches the embedding once.
"""

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils.generic import ModelOutput

from trimtab.common.errors import UserError
from trimtab.core import Head, Objective, Reduction, TokenBatch, fused_loss, predicting, reduce, weights
from trimtab.core.auxiliary import AuxiliaryLoss, ReadInside
from trimtab.core.batch import answering, finite
from trimtab.core.loss import IMPORTANCE, by_importance, weight_of_rows
from trimtab.models.masters import inner
from trimtab.models.packing import HOW, packs_for
from trimtab.models.probing import eval_mode, probe_ids, probe_logits


class UnsupportedModel(UserError):
    """A model whose logits the engine cannot reproduce from its hidden states and its head."""


class ObjectiveCall:
    """What `model(..., objective_call=...)` computes instead of logits.

    A plain class and no dataclass: the mixed precision of FSDP2 looks into dataclasses and would cast
    the total and the signals to bfloat16.
    """

    def __init__(
        self,
        objective: Objective,
        labels: Tensor,
        signals: Mapping[str, Any],
        row_id: Tensor,
        reduction: Reduction = "token_mean",
        total: Tensor | float | None = None,
        *,
        seed: int = 0,
        step: int = 0,
        temperature: float = 1.0,
        router_loss: float = 0.0,
        place: Tensor | None = None,
        auxiliary: AuxiliaryLoss | None = None,
        auxiliary_total: Tensor | float = 1.0,
    ):
        self.router_loss = router_loss  # times the loss that keeps the experts of a mixture evenly loaded
        self.auxiliary, self.auxiliary_total = auxiliary, auxiliary_total  # see `core.loss.weight_of_rows`
        self.objective, self.total, self.seed, self.step = objective, total, seed, step
        self.temperature = temperature  # of the policy, whose logits are divided by it
        self.reduction: Reduction = reduction
        self.labels = labels  # [B, T] with -100 at prompt and padding
        self.signals = signals
        self.row_id = row_id  # [B]
        self.place = place  # [B, 2] of the rows in packs, if the layers are to read them packed; see `models.packing`

    def answer(self, states: Tensor, head: Head) -> "ObjectiveOutput":
        """From hidden states [N, D] that predict the answer tokens of the whole micro-batch."""
        return objective_output(self, states, head)


class StatesCall:
    """Instead of an `ObjectiveCall`: gives the hidden states that predict the answer tokens, as `unreduced` [N, D]."""

    router_loss = 0.0
    auxiliary: AuxiliaryLoss | None = None

    def __init__(self, labels: Tensor, place: Tensor | None = None):
        self.labels = labels  # [B, T]
        self.place = place

    def answer(self, states: Tensor, head: Head) -> "ObjectiveOutput":
        return ObjectiveOutput(unreduced=states)  # type: ignore[arg-type]


class InsideCall(StatesCall):
    """Instead of an `ObjectiveCall`: gives the values of an auxiliary loss, as `unreduced` [B]."""

    def __init__(
        self, labels: Tensor, auxiliary: AuxiliaryLoss, signals: Mapping[str, Any], place: Tensor | None = None
    ):
        super().__init__(labels, place)
        self.auxiliary, self.signals = auxiliary, signals


@dataclass
class ObjectiveOutput(ModelOutput):
    """Scalar loss, metrics as (sum, count), and the unreduced values, [N] per token or [R] per sequence."""

    loss: Tensor | None = None
    metrics: dict | None = None
    unreduced: Tensor | None = None


def _scale_and_softcap(config: Any) -> tuple[float, float | None]:
    """What the model does to its head's output, from the names that transformers' models use for it."""
    caps = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
    softcap = next((cap for name in caps if (cap := getattr(config, name, None)) is not None), None)
    for name in ("logit_scale", "output_multiplier", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name)), softcap
    for name in ("logits_scaling", "logits_mup_width_multiplier"):
        if (scaling := getattr(config, name, None)) is not None:
            return float(scaling) if config.model_type == "hyperclovax" else 1.0 / float(scaling), softcap
    return 1.0, softcap


def backbone(model: PreTrainedModel) -> nn.Module:
    """The layers under the head, which give hidden states."""
    found = model.base_model
    if found is model:  # the class names a part that it has under another name
        found = next((child for child in model.children() if isinstance(child, PreTrainedModel)), None)
    if found is None:
        raise UnsupportedModel(f"{type(model).__name__}: its layers cannot be separated from its head")
    return found


def resolve_head(model: PreTrainedModel) -> Head:
    """The head of `model` as it is now: looked up at each call, since PEFT and FSDP exchange modules."""
    module = model.get_output_embeddings()
    if module is None:
        raise UnsupportedModel(f"{type(model).__name__} has no output head")
    if path := getattr(model, "_trimtab_head", ()):
        parts = [model.get_submodule(name) for name in path]
        module = parts[0] if len(parts) == 1 else nn.Sequential(*parts)
    config = model.config.get_text_config()
    scale, softcap = _scale_and_softcap(config)
    vocab, masks = getattr(model, KNOWN, None), getattr(model, "_trimtab_masks_logits", False)
    size = config.vocab_size if vocab is None else vocab
    return Head(module, size, scale, softcap, masks=masks, cropped=vocab is not None)


KNOWN = "_trimtab_vocab"
"""attribute of a model: only ids below it have a probability"""


def crop_to(model: Any, vocab: int) -> None:
    """Crop a model's distributions to the ids below `vocab` wherever an objective reads them: later ones are padding of
    its head that another model of the run lacks. Generation is unchanged.

    Args:
        model: with or without adapters; a second call replaces the first.
        vocab: at most the rows of its head.
    """
    model = inner(model)
    setattr(model, KNOWN, vocab if vocab < model.config.get_text_config().vocab_size else None)


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Check backbone + head against the model's own logits on a few tokens.

    Raises:
        UnsupportedModel: if they differ: the model does something to its logits that is not known here, and
            training on wrong logits would go unnoticed.
    """
    name = f"{type(model).__name__} ({model.config.get_text_config().model_type})"
    with eval_mode(model):
        own = probe_logits(model)
        if own.isnan().any():
            raise UnsupportedModel(f"{name} outputs NaN; its weights are broken")
        hidden = backbone(model)(input_ids=probe_ids(model), use_cache=False).last_hidden_state
        model._trimtab_masks_logits = bool(torch.isneginf(own).any())  # type: ignore[assignment]
        for path in _heads(model):
            model._trimtab_head = path  # type: ignore[assignment]
            if _gives(model, hidden, own):
                return
    model._trimtab_head = ()  # type: ignore[assignment]
    raise UnsupportedModel(
        f"{name}: the output head applied to the last hidden state does not "
        "reproduce the model's own logits; the model changes them in a way trimtab does not support"
    )


def _heads(model: PreTrainedModel) -> Iterator[tuple[str, ...]]:
    """Names of modules that in sequence may be the head: the output embedding; what holds it (BERT); and all modules
    after the layers."""
    yield ()
    embedding, layers = model.get_output_embeddings(), backbone(model)
    name = next((name for name, module in model.named_modules() if module is embedding), "")
    while "." in name:
        name = name.rpartition(".")[0]
        yield (name,)
    children = [child for child, module in model.named_children() if layers not in module.modules()]
    if name in children:
        yield tuple(children[: children.index(name) + 1])


def _gives(model: PreTrainedModel, hidden: Tensor, logits: Tensor) -> bool:
    try:
        found = replace(resolve_head(model), cropped=False)(hidden)
    except (RuntimeError, TypeError, AttributeError):  # not a module from hidden states to logits
        return False
    if not isinstance(found, Tensor) or found.shape != logits.shape:
        return False
    # the hidden states are the same, so the bound is tight enough to show a soft-cap on a new model's small logits
    return same_logits(found, logits, least_spread=1e-3, close=1e-4)


def same_logits(found: Tensor, wanted: Tensor, least_spread: float = 0.0, close: float = 1e-3) -> bool:
    """Whether two tables of logits are the same up to rounding, which goes by the dtype and the spread of `wanted`;
    `close` is the share of it in float32."""
    close = close if wanted.dtype == torch.float32 else 2e-2
    found, wanted = finite(found.float()), finite(wanted.float())
    spread = max(wanted[wanted > -1e4].std().item(), least_spread)
    return torch.allclose(found, wanted, rtol=close, atol=close * spread)


def add_objective_forward(model: PreTrainedModel) -> None:
    """Let `model(..., objective_call=ObjectiveCall(...))` return an `ObjectiveOutput`.

    Call it before PEFT, TRL or accelerate wrap the model; a second call changes nothing. Without the argument the
    forward is the original one.

    Raises:
        UnsupportedModel: see `check_head`.
    """
    if getattr(model, "_trimtab_forward", False):
        return
    check_head(model)
    patched_before = model.__dict__.get("forward")

    @functools.wraps(type(model).forward)  # generate() validates its arguments against the signature
    def forward(self: PreTrainedModel, *args: Any, objective_call: Any = None, **kwargs: Any) -> Any:
        if objective_call is None:
            # looked up on `self`: a deepcopy must run its own weights and not those of the original
            original = patched_before or MethodType(type(self).forward, self)
            return original(*args, **kwargs)
        kwargs["use_cache"] = False
        if objective_call.router_loss:
            kwargs["output_router_logits"] = True
        with input_embeddings(self, objective_call.auxiliary is not None) as embedded:
            layers, states, mask = read_layers(backbone(self), objective_call, args, kwargs)
        output = answered(self, objective_call, states)  # pyright: ignore[reportCallIssue]
        if objective_call.auxiliary is not None:
            add_auxiliary(output, objective_call, embedded[0], states, resolve_head(self))
        if objective_call.router_loss:
            router = router_loss(self, layers, mask)
            assert output.loss is not None
            assert output.metrics is not None
            output.loss = output.loss + objective_call.router_loss * router
            output.metrics["router_loss"] = (router.detach(), torch.ones_like(router.detach()))
        return output

    model.forward = MethodType(forward, model)  # type: ignore[method-assign]
    model._trimtab_forward = True  # type: ignore[assignment]


# takes gradients itself, block by block; torch.compile compiles the layers
@torch.compiler.disable
def answered(model: PreTrainedModel, call: Any, states: Tensor) -> "ObjectiveOutput":
    """The answer of a call to hidden states."""
    return call.answer(states, resolve_head(model))


@contextmanager
def input_embeddings(model: PreTrainedModel, wanted: bool = True) -> Iterator[list[Tensor]]:
    """Within, what the lookup of tokens gives is kept: [B, T, H], of which a gradient can be taken whatever is frozen.

    What a family does to embeddings before its layers (Gemma's scale, GPT-2's positions) it does to them as ever.

    Raises:
        UnsupportedModel: if there is not one lookup in a forward.
    """
    found: list[Tensor] = []
    if not wanted:
        yield found
        return

    def keep(module: nn.Module, args: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 3 or found:
            raise UnsupportedModel(f"{type(model).__name__} does not look its tokens up once, so no maps can be made")
        found.append(output if output.requires_grad else output.detach().requires_grad_())
        return found[0]

    handle = model.get_input_embeddings().register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()
    if not found:
        raise UnsupportedModel(f"{type(model).__name__} does not look its tokens up, so no maps can be made")


def add_auxiliary(output: "ObjectiveOutput", call: Any, embedded: Tensor, states: Tensor, head: Head) -> None:
    """Add the auxiliary term of a call, and its metrics; of an `InsideCall` it is all that there is."""
    losses = call.auxiliary(ReadInside(embedded, states, head, call.labels, call.signals))
    if output.loss is None:
        output.unreduced = losses.values
        return
    output.loss = output.loss + reduce(losses, weight_of_rows(losses.values, call.auxiliary_total))
    assert output.metrics is not None
    output.metrics |= losses.metrics


def read_layers(
    layers: nn.Module, call: Any, args: Sequence[Any], kwargs: Mapping[str, Any], *, before: bool = True
) -> tuple[Any, Tensor, Tensor | None]:
    """Run the layers on the rows of a micro-batch, or on the packs in which they have a place.

    Args:
        call: with `labels` and `place`.
        args, kwargs: of the layers; `input_ids` and `attention_mask` [B, T] by name, if there are packs.
        before: read the answer tokens at the position that predicts them, and not at their own.

    Returns:
        Output of the layers, its states [N, D] of the answer tokens, and the mask of what the layers read.
    """
    of_answers = predicting if before else answering
    if call.place is None or getattr(layers, HOW, None) == "padded":
        output = layers(*args, **kwargs)
        return output, of_answers(output.last_hidden_state, call.labels), kwargs.get("attention_mask")
    more = dict(kwargs)
    packed = packs_for(layers, more.pop("input_ids"), more.pop("attention_mask"), call.place)
    output = layers(**{**more, **packed.arguments})
    return output, output.last_hidden_state.flatten(0, 1)[of_answers(packed.index, call.labels)], packed.mask


def router_loss(model: PreTrainedModel, layers: Any, attention_mask: Tensor | None) -> Tensor:
    """The load balancing loss of a mixture of experts on a micro-batch, as transformers computes it; with an even load
    it is the number of experts per token.

    Args:
        layers: output of the backbone with `output_router_logits`.
        attention_mask: [B, T].
    """
    balancing = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    logits = getattr(layers, "router_logits", None)
    if balancing is None or not logits or not hasattr(model, "num_experts_per_tok"):
        raise UnsupportedModel(
            f"training.router_aux_loss_coef: transformers has no router loss for {type(model).__name__}; leave it out"
        )
    return balancing(logits, model.num_experts, model.num_experts_per_tok, attention_mask)


def compute_objective(call: ObjectiveCall, hidden: Tensor, head: Head) -> ObjectiveOutput:
    """The objective on hidden states [B, T, D] of a whole micro-batch."""
    return objective_output(call, predicting(hidden, call.labels), head)


def objective_output(call: ObjectiveCall, states: Tensor, head: Head) -> ObjectiveOutput:
    """The objective on hidden states [N, D] that predict the answer tokens of a whole micro-batch."""
    batch = TokenBatch.from_labels(call.labels, call.signals, row_id=call.row_id, seed=call.seed, step=call.step)
    weight = weights(batch, call.reduction, call.total, call.objective.per)
    if IMPORTANCE in call.signals:
        weight = weight * by_importance(batch, call.signals[IMPORTANCE], call.objective.per)
    head = replace(head, temperature=call.temperature)
    fused = fused_loss(call.objective, batch, states, head, weight)
    return ObjectiveOutput(loss=fused.loss, metrics=fused.metrics, unreduced=fused.values)  # type: ignore[arg-type]
