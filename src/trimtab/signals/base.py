"""Reading the signals of a plan, and the forward they are read for."""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from trimtab.core import Plan, Signal
from trimtab.models.forward import ObjectiveCall, ObjectiveOutput
from trimtab.models.packing import PLACE


class Given(Signal):
    """Placeholder for a signal that the caller of a plan passes with each batch, as a tensor."""

    vocab_size = 0

    def __init__(self, name: str):
        self.name, self.provides = name, frozenset({name})


def read_signals(signals: Iterable[Signal], policy: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
    """The values of all `signals` for a micro-batch, by name."""
    found: dict[str, Any] = {}
    for signal in signals:
        found |= signal(policy, inputs)
    return found


def models_of(signals: Iterable[Signal]) -> list[Any]:
    """The models that these signals read besides the policy."""
    return [model for signal in signals for model in signal.models]


def common_vocab(models: Iterable[Any]) -> int:
    """The number of ids that all these models have: heads may be padded to different lengths."""
    return min(model.config.get_text_config().vocab_size for model in models)


def without_unknown(inputs: Mapping[str, Tensor], vocab: int) -> dict[str, Tensor]:
    """Inputs for a model that only has ids below `vocab`: others, which a policy with a padded head may sample, are
    read as id 0; they have no label."""
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
    auxiliary_total: Tensor | float | None = None,
) -> ObjectiveOutput:
    """One forward of the policy with the plan's objective, fed by its signals.

    Args:
        policy: with `add_objective_forward`; may be wrapped.
        known: signals that were already read.
        total, seed, step: see `trimtab.core.weights` and `TokenBatch.uniform`.
        temperature, router_loss: see `ObjectiveCall`.
        auxiliary_total: what the plan's auxiliary term counts in the whole update; None: this batch is the whole
            update.
    """
    if plan.auxiliary is not None and auxiliary_total is None:
        auxiliary_total = plan.auxiliary.number(inputs)
    signals = {**read_signals(plan.signals, policy, inputs), **(known or {})}
    labels, row_id = inputs["labels"], inputs["row_id"]
    call = ObjectiveCall(
        plan.objective, labels, signals, row_id, plan.reduction, total, seed=seed, step=step, temperature=temperature,
        router_loss=router_loss, place=inputs.get(PLACE), auxiliary=plan.auxiliary,
        auxiliary_total=1.0 if auxiliary_total is None else auxiliary_total,
    )  # fmt: skip
    return policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], objective_call=call)
