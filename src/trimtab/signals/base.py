"""Signals of a plan, read together, and the forward that they are read for."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from trimtab.core import Plan, Signal
from trimtab.models.forward import ObjectiveCall, ObjectiveOutput


class Given(Signal):
    """A signal that the caller of a plan hands over with each batch, as a tensor: it stands for the model that a method
    is built with, and gives nothing itself."""

    vocab_size = 0

    def __init__(self, name: str):
        self.name, self.provides = name, frozenset({name})


def read_signals(signals: Iterable[Signal], policy: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """What all `signals` say of a micro-batch, by name."""
    found: dict[str, Any] = {}
    for signal in signals:
        found |= signal(policy, inputs)
    return found


def models_of(signals: Iterable[Signal]) -> list[Any]:
    """The models besides the policy that these signals read."""
    return [model for signal in signals for model in signal.models]


def common_vocab(models: Iterable[Any]) -> int:
    """Ids below it are known to all of these models: heads may be padded, each to another length."""
    return min(model.config.get_text_config().vocab_size for model in models)


def without_unknown(inputs: Mapping[str, Tensor], vocab: int) -> dict[str, Tensor]:
    """Inputs for a model that knows ids below `vocab` alone: others are read as id 0. A policy may draw them where its
    head is padded; they have no label then."""
    ids = inputs["input_ids"]
    return {**inputs, "input_ids": ids.masked_fill(ids >= vocab, 0)}


def call_plan(
    plan: Plan,
    policy: nn.Module,
    inputs: Mapping[str, Tensor],
    total: Tensor | float | None = None,
    *,
    known: Mapping[str, Any] | None = None,
    seed: int = 0,
    step: int = 0,
    temperature: float = 1.0,
    router_loss: float = 0.0,
) -> ObjectiveOutput:
    """One forward of the policy with the plan's objective, fed by its signals.

    Args:
        plan: of a method.
        policy: with `add_objective_forward`; may be wrapped.
        inputs: as a signal takes them.
        known: signals that were read before.
        total, seed, step: see `trimtab.core.weights` and `TokenBatch.uniform`.
        temperature: what the policy's logits are divided by.
        router_loss: see `ObjectiveCall`.
    """
    signals = {**read_signals(plan.signals, policy, inputs), **(known or {})}
    labels, row_id = inputs["labels"], inputs["row_id"]
    call = ObjectiveCall(
        plan.objective, labels, signals, row_id, plan.reduction, total, seed=seed, step=step, temperature=temperature,
        router_loss=router_loss,
    )  # fmt: skip
    return policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], objective_call=call)
