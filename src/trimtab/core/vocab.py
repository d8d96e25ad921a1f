"""The vocabulary engine: computes any objective with memory that does not grow with tokens x vocabulary.

The heads (of the policy and of a frozen teacher) are applied to the hidden states of a *block* of answer tokens at a
time; the objective sees a smaller *slice* of it as an ordinary `TokenBatch` with logits. The gradient of a slice is
taken at once, with weights known beforehand, so no logits outlive their block. Blocks are larger than slices because
each block reads the heads and the head's gradient, while slices that fit the cache make the objective fast.

An objective of whole sequences, or of prefixes, reads log-probabilities of the answer tokens (or their logits, by its
`leaf`): they are computed first, without gradient, and the objective's gradient at them weighs a second pass. The first
pass runs backwards, so that the logits of the first block can be reused.

An objective of pairs of tokens makes two passes: over the tokens, and over the states of both tokens of each pair.

The head is called as a module, so adapters, biases and quantised heads work, and its parameters get their gradient
through autograd, as tied embeddings, DDP and FSDP need. Only a plain linear head has its gradient added up in place.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.core.batch import LazyLogits, TokenBatch, finite
from trimtab.core.logprobs import token_logprobs
from trimtab.core.loss import Losses, Objective, computed_by, num_values
from trimtab.core.pairs import PairedObjective, pairs_of
from trimtab.core.topk import TopK

BLOCK_TOKENS = 512
"""Tokens of a block, enough that reading the head and adding to its gradient costs little beside the products."""
SLICE_BYTES = 8 << 20
"""Most float32 bytes of a slice's logits; an objective makes a few tables of this size."""
CUDA_SCALE = 4
"""An accelerator has no cache to fit and wants larger launches."""


@dataclass(frozen=True)
class Head:
    """From hidden states to logits: a module, then a scale and a soft-cap."""

    module: nn.Module | Callable[[Tensor], Tensor]
    vocab_size: int
    scale: float = 1.0
    softcap: float | None = None
    masks: bool = False
    """whether the model gives some tokens a logit of -inf, which `finite` replaces"""
    temperature: float = 1.0
    """logits are divided by it at the end"""
    cropped: bool = False
    """the module gives more logits than `vocab_size`: those after it are padding that another model lacks"""

    def finish(self, raw: Tensor) -> Tensor:
        """Logits from what the module returned."""
        if self.cropped:
            raw = raw[..., : self.vocab_size]
        if self.scale != 1.0:
            raw = raw * self.scale
        if self.softcap is not None:
            raw = self.softcap * torch.tanh(raw / self.softcap)
        if self.temperature != 1.0:
            raw = raw / self.temperature
        return finite(raw) if self.masks else raw

    def __call__(self, hidden: Tensor) -> Tensor:
        return self.finish(self.module(hidden))

    def plain_linear(self, hidden: Tensor) -> nn.Linear | None:
        """The module, if it is a plain linear layer in float32, whose gradient needs no autograd."""
        module = self.module
        if not isinstance(module, nn.Linear):
            return None
        plain = (
            type(module) is nn.Linear
            and type(module.weight) is nn.Parameter
            and hidden.dtype == module.weight.dtype == torch.float32
            and "forward" not in vars(module)  # accelerate's hooks put one there
            and not torch.is_autocast_enabled(hidden.device.type)
            and not (module._forward_pre_hooks or module._forward_hooks)
            and not (module._backward_pre_hooks or module._backward_hooks)
        )
        return module if plain else None

    def parameters(self) -> list[Tensor]:
        """The trainable parameters as they are now, since FSDP and PEFT exchange them.

        Raises:
            UserError: if they are sharded, so that the gradient would be lost silently.
        """
        if not isinstance(self.module, nn.Module):
            return []
        trainable: list[Tensor] = [p for p in self.module.parameters() if p.requires_grad]
        if any(hasattr(p, "device_mesh") for p in trainable):
            raise UserError("the output head is sharded on its own; shard it together with the whole model")
        if any(hasattr(p, "ds_id") for p in trainable):
            raise UserError("the output head is sharded by ZeRO-3, which the engine has not been tested with; use DDP")
        views = (v for m in self.module.modules() for v in vars(m).values() if isinstance(v, Tensor))
        if any(v.requires_grad for v in views):
            raise UserError("the output head is sharded by FSDP1, whose views lose its gradient; use DDP")
        return trainable


@dataclass(frozen=True)
class Fused:
    """The result of one pass of the engine."""

    loss: Tensor
    """scalar, float32; differentiable where gradients are enabled"""
    metrics: dict[str, tuple[Tensor, Tensor]]
    """name -> (sum, count)"""
    values: Tensor
    """float32, detached, before the weights: [N] of each token, [R] of each sequence, or [N + M] of tokens and pairs"""


def _tokens(limit: int, vocab_size: int, device: torch.device) -> int:
    scale = 1 if device.type == "cpu" else CUDA_SCALE
    return max(1, scale * limit // (4 * vocab_size))


def _cut(number: int, size: int) -> list[slice]:
    return [slice(i, min(i + size, number)) for i in range(0, number, size)]


class _Pass:
    """One pass over the blocks; collects values, metrics and, if asked for, gradients."""

    def __init__(self, objective: Objective, batch: TokenBatch, head: Head, weights: Tensor):
        self.objective, self.batch, self.head, self.weights = objective, batch, head, weights.float()
        self.values = torch.zeros_like(self.weights)
        self.metrics: dict[str, tuple[Tensor, Tensor]] = {}
        self.first: Tensor | None = None
        """what the head's module gave for the first block, where an earlier pass left it"""
        self.slice = _tokens(SLICE_BYTES, head.vocab_size, weights.device)

    def _blocks(self) -> list[slice]:
        return _cut(len(self.batch), BLOCK_TOKENS)

    def _slices(self, block: slice) -> Iterator[tuple[slice, TokenBatch, slice]]:
        """Each slice of a block: its place inside the block, its tokens, and its place among all."""
        batch = self.batch[block].computed()
        for inside in _cut(len(batch), self.slice):
            yield inside, batch[inside], slice(block.start + inside.start, block.start + inside.stop)

    def _objective(self, policy: Tensor, batch: TokenBatch, part: slice) -> Tensor:
        """[n] values of the tokens of `part`; values and metrics are kept."""
        batch = batch.with_signals(policy=self.head.finish(policy))
        losses = computed_by(self.objective, batch)
        self.values[part] = losses.values.detach().float()
        for name, (total, number) in losses.metrics.items():
            before = self.metrics.get(name)
            self.metrics[name] = (total, number) if before is None else (before[0] + total, before[1] + number)
        return losses.values

    def _block(self, leaf: Tensor, block: slice, parameters: list[Tensor], sums: list[Tensor]) -> Tensor:
        """Gradient at the hidden states of one block; those at the parameters are added to `sums`."""
        linear = self.head.plain_linear(leaf)
        raw, self.first = self.first if linear is not None else None, None  # autograd wants logits of its own
        if raw is None:
            with torch.set_grad_enabled(linear is None):
                raw = self.head.module(leaf)
        grad_raw = raw if linear is not None else torch.empty_like(raw)  # a gradient takes its logits' place
        for inside, batch, part in self._slices(block):
            logits = raw.detach()[inside].requires_grad_()
            with torch.enable_grad():
                values = self._objective(logits, batch, part)
            if values.requires_grad:
                weights = self.weights[part].to(values.dtype)
                (grad_raw[inside],) = torch.autograd.grad(values, logits, weights)
            else:
                grad_raw[inside] = 0
            del logits, values  # a slice's tables must not outlive it beside those of the next
        if linear is not None:  # autograd would make a gradient as large as the head for each block
            for parameter, total in zip(parameters, sums):
                if parameter is linear.weight:
                    total.addmm_(grad_raw.T, leaf)
                elif parameter is linear.bias:
                    total.add_(grad_raw.sum(dim=0))
            return grad_raw @ linear.weight
        grad_leaf, *grads = torch.autograd.grad(
            raw, [leaf, *parameters], grad_raw, allow_unused=True, materialize_grads=True
        )
        for total, grad in zip(sums, grads):
            total.add_(grad)
        return grad_leaf

    def with_grad(self, hidden: Tensor, parameters: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Gradients of the values, weighted, at the hidden states and at the head's parameters."""
        grad_hidden = torch.zeros_like(hidden)
        sums = [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
        for block in self._blocks():
            leaf = hidden[block].detach().requires_grad_()
            grad_hidden[block] = self._block(leaf, block, parameters, sums)
        return grad_hidden, [total.to(parameter.dtype) for parameter, total in zip(parameters, sums)]

    def without_grad(self, hidden: Tensor, backwards: bool = False) -> Tensor | None:
        """The head's output for the last block, or, if `backwards`, for the first one.

        Tokens are visited in order, unless `backwards`, which matters to an objective that keeps state.
        """
        raw = None
        blocks = self._blocks()
        for block in reversed(blocks) if backwards else blocks:
            del raw  # one such table is alive
            raw = self.head.module(hidden[block])
            for inside, batch, part in self._slices(block):
                self._objective(raw[inside], batch, part)
        return raw


class _FusedLoss(torch.autograd.Function):
    """A loss whose gradient is taken block by block while it is computed."""

    @staticmethod
    def forward(ctx: Any, work: _Pass, hidden: Tensor, *parameters: Tensor) -> Tensor:
        wanted = [p for p, needed in zip(parameters, ctx.needs_input_grad[2:]) if needed]
        # weights are scaled to about 1/16 by a power of two, so that float16 neither underflows nor overflows
        largest = torch.cat([work.weights.abs(), work.weights.new_zeros(1)]).max()
        ctx.scale = torch.where(largest > 0, torch.exp2(torch.ceil(torch.log2(largest)) + 4), 1.0)
        work.weights = work.weights / ctx.scale
        grad_hidden, grads = work.with_grad(hidden, wanted)
        ctx.save_for_backward(grad_hidden, *grads)
        return (work.values * work.weights).sum() * ctx.scale

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple:
        grad_hidden, *rest = ctx.saved_tensors
        scale = grad_outputs[0] * ctx.scale
        grads = iter(rest)
        needed = ctx.needs_input_grad
        return (
            None,
            grad_hidden * scale if needed[1] else None,
            *((next(grads) * scale if n else None) for n in needed[2:]),
        )


@dataclass(frozen=True)
class LabelLogprobs(Objective):
    """value = log q(y_t), from which objectives of whole sequences, and references, are computed."""

    vocab_size: int | None = None
    """ids from here on are padding that another model of the run lacks"""

    def __call__(self, batch: TokenBatch) -> Losses:
        return Losses(token_logprobs(batch.logits()[:, : self.vocab_size], batch.targets), {})


class LabelLogits(Objective):
    """value = z(y_t), the raw logit of the answer token."""

    def __call__(self, batch: TokenBatch) -> Losses:
        return Losses(batch.logits().gather(1, batch.targets[:, None])[:, 0].float(), {})


def _weighted(work: _Pass, hidden: Tensor) -> Tensor:
    """The sum of values times weights; with gradient to the states and the head where gradients are enabled."""
    if torch.is_grad_enabled():
        loss = _FusedLoss.apply(work, hidden, *work.head.parameters())
        assert isinstance(loss, Tensor)
        return loss
    work.without_grad(hidden)
    return (work.values * work.weights).sum()


@torch.no_grad()
def label_logprobs(batch: TokenBatch, hidden: Tensor, head: Head, vocab_size: int | None = None) -> Tensor:
    """[N] log-probabilities of the answer tokens, float32, without gradient, from hidden states [N, D]."""
    return _read(LabelLogprobs(vocab_size), batch, hidden, head)[0].values


@torch.no_grad()
def _read(objective: Objective, batch: TokenBatch, hidden: Tensor, head: Head) -> tuple[_Pass, Tensor | None]:
    """A pass with its values, and the head's output for the first block."""
    work = _Pass(objective, replace(batch, signals={}), head, hidden.new_zeros(len(batch), dtype=torch.float32))
    return work, work.without_grad(hidden, backwards=True)


def _sequence_loss(objective: Objective, batch: TokenBatch, hidden: Tensor, head: Head, weights: Tensor) -> Fused:
    vocab = batch.with_signals(policy=LazyLogits(hidden, head, head.vocab_size)).vocab_size
    known = {
        name: label_logprobs(batch, value.hidden, Head(value.head, value.vocab_size), vocab)
        for name, value in batch.signals.items()
        if isinstance(value, LazyLogits)
    }
    known |= {name: value.label_logprobs for name, value in batch.signals.items() if isinstance(value, TopK)}
    read = LabelLogits() if objective.leaf == "logit" else LabelLogprobs(vocab)
    work, raw = _read(read, batch, hidden, head)
    leaf = work.values.requires_grad_()
    with torch.enable_grad():
        losses = computed_by(objective, batch.with_signals(**known, policy=leaf))
    values = losses.values.detach().float()
    loss = (values * weights).sum()
    if torch.is_grad_enabled() and losses.values.requires_grad:
        (grad,) = torch.autograd.grad(losses.values, leaf, weights.to(losses.values.dtype))
        work = _Pass(read, work.batch, head, grad)
        work.first, raw = raw, None  # else it would outlive its block
        carrier = _weighted(work, hidden)
        loss = loss + (carrier - carrier.detach())  # the value of one, the gradient of the other
    return Fused(loss, losses.metrics, values)


class _HeadOfBoth(nn.Module):
    """The head on both states of each pair: [n, 2 D] -> [n, 2 V], finished."""

    def __init__(self, head: Head):
        super().__init__()
        self.head, self.module = head, head.module  # a submodule, so that its parameters are found

    def forward(self, hidden: Tensor) -> Tensor:
        return self.head(hidden.reshape(2 * len(hidden), -1)).reshape(len(hidden), -1)


def _paired_loss(objective: PairedObjective, batch: TokenBatch, hidden: Tensor, head: Head, weights: Tensor) -> Fused:
    first, second, of_pairs = pairs_of(batch)
    tokens = fused_loss(objective.tokens, batch, hidden, head, weights[: len(batch)])
    both = Head(_HeadOfBoth(head), 2 * head.vocab_size)
    states = torch.cat([hidden[first], hidden[second]], dim=1)  # [M, 2 D]
    pairs = fused_loss(objective.pairs, of_pairs, states, both, weights[len(batch) :])
    metrics = {**tokens.metrics, **pairs.metrics}
    return Fused(tokens.loss + pairs.loss, metrics, torch.cat([tokens.values, pairs.values]))


def fused_loss(objective: Objective, batch: TokenBatch, hidden: Tensor, head: Head, weights: Tensor) -> Fused:
    """Loss of `objective` on answer tokens given as hidden states, without keeping their logits in memory.

    Args:
        objective: with `per="sequence"` or "prefix" it may only read label log-probabilities (`batch.logprobs`) and
            signals [N]; `LazyLogits` are given to it as such.
        batch: the answer tokens, with every signal that the objective needs but "policy".
        hidden: [N, D] of the policy at the positions that predict the answer tokens.
        weights: from `weights`, [N] or, per sequence, [R], or, per pair, [N + M].

    Returns:
        The loss (with gradient to `hidden` and the head's trainable parameters), metrics and values; up to rounding
        the same as `reduce(objective(batch with logits), weights)`.
    """
    number = num_values(batch, objective.per)
    if not (hidden.size(0) == len(batch) and weights.size(0) == number):
        raise ValueError(
            f"{hidden.size(0)} hidden states, {len(batch)} tokens in {len(batch.lengths)} sequences and "
            f"{weights.size(0)} weights for an objective per {objective.per}"
        )
    if isinstance(objective, PairedObjective):
        return _paired_loss(objective, batch, hidden, head, weights.float())
    if objective.per != "token":
        return _sequence_loss(objective, batch, hidden, head, weights.float())
    first = None
    if objective.reads_first is not None:
        read, first = _read(objective.reads_first, batch, hidden, head)
        batch = objective.prepared(batch, read.values)
    work = _Pass(objective, batch, head, weights)
    work.first, first = first if torch.is_grad_enabled() else None, None  # else it would outlive its block
    return Fused(_weighted(work, hidden), work.metrics, work.values)
