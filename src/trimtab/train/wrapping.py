"""What a launch has become: processes, wrapper and sharding, read from the engine and compared with what was asked.

accelerate falls back without a word: on a CPU it makes DDP of FSDP, and a DeepSpeed file may leave each process alone.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainerCallback

from trimtab.common.processes import ProcessError, is_on, launched
from trimtab.core import Plan
from trimtab.signals.snapshot import PolicySnapshot

GATHERED = ("FSDP", "ZeRO-3")
"""beginnings of the names of wrappers under which no process holds all weights between two forwards"""
SHARDED = ("FSDP", "ZeRO")
"""beginnings of the names of wrappers that split the weights, or what is made of them"""


@dataclass(frozen=True)
class Wrapping:
    """How the processes of a run share its work."""

    processes: int
    kind: str
    """none, DDP, FSDP1, FSDP2, or ZeRO- and its stage"""
    backend: str
    """of the group: gloo, nccl; empty for one process"""
    device: str

    @property
    def splits_weights(self) -> bool:
        """Whether no process holds all weights between two forwards."""
        return self.kind.startswith(GATHERED)

    @property
    def splits_states(self) -> bool:
        """Whether no process holds all states of the optimizer."""
        return self.kind.startswith(SHARDED)

    def line(self) -> str:
        """For signatures: the number, and with several processes how they share."""
        return str(self.processes) if self.processes == 1 else f"{self.processes}, {self.kind} over {self.backend}"

    def __str__(self) -> str:
        many = f"{self.processes} {'process' if self.processes == 1 else 'processes'} on {self.device}"
        return many if self.processes == 1 else f"{many}, {self.kind} over {self.backend}"


def asked(environment: Mapping[str, str] | None = None) -> str:
    """What the launcher was asked for, in the words of `Wrapping.kind`; "FSDP" and "ZeRO" where it gave no number."""
    given = os.environ if environment is None else environment
    if is_on(given, "ACCELERATE_USE_DEEPSPEED"):
        stage = given.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "")
        return f"ZeRO-{stage}" if stage.isdecimal() else "ZeRO"
    if is_on(given, "ACCELERATE_USE_FSDP"):
        version = given.get("FSDP_VERSION", "")
        return f"FSDP{version}" if version.isdecimal() else "FSDP"
    return "DDP" if launched(given) > 1 else "none"


def wrapping(accelerator: Any) -> Wrapping:
    """What accelerate will wrap the policy in."""
    kind = accelerator.distributed_type.value
    if kind == "FSDP":
        kind = f"FSDP{accelerator.state.fsdp_plugin.fsdp_version}"
    elif kind == "DEEPSPEED":
        kind = f"ZeRO-{accelerator.state.deepspeed_plugin.zero_stage}"
    elif kind != "NO":
        kind = "DDP" if kind.startswith("MULTI_") else kind  # also of a group of one, as torchrun makes it
    else:
        kind = "none"
    backend = str(torch.distributed.get_backend()) if torch.distributed.is_initialized() else ""
    return Wrapping(accelerator.num_processes, kind, backend, accelerator.device.type)


def check_asked(found: Wrapping, environment: Mapping[str, str] | None = None) -> None:
    """Refuse a launch that has become something else than it was asked to be.

    Raises:
        ProcessError: with the way out.
    """
    wanted = asked(environment)
    if found.processes == launched(environment) == 1 and wanted == "none" and found.kind == "DDP":
        return
    if found.kind == wanted or (wanted in SHARDED and found.kind.startswith(wanted)):
        return
    if wanted.startswith("FSDP") and found.device == "cpu":
        way = "accelerate has no FSDP on a CPU; leave it out there (trimtab launch --devices N RECIPE makes DDP)"
    elif wanted.startswith("ZeRO"):
        way = (
            "on a CPU accelerate takes DeepSpeed only with use_cpu: true in its file and ACCELERATE_USE_CPU unset; "
            "trimtab launch writes such a file"
        )
    else:
        way = "make both agree, or let trimtab launch write the file of accelerate"
    raise ProcessError(
        f"the launcher was asked for {wanted} and the run would train with {found.kind} ({found}): {way}"
    )


def check_states(found: Wrapping, before: str, optimizer: str = "") -> None:
    """Refuse a resume that could not read the optimizer's states: wrappers that split them have files of their own.

    Args:
        before: `Wrapping.line` of the run so far.
        optimizer: its name; plain SGD has no states, which torch refuses to load for split weights.

    Raises:
        ProcessError: with the way out.
    """
    if found.kind.startswith("FSDP") and optimizer == "sgd":
        raise ProcessError(
            f"training.optim=sgd keeps no states, and with {found.kind} torch cannot resume without any; start over "
            "with output=FOLDER and another optimizer, such as adamw_torch"
        )
    number, _, rest = before.partition(", ")
    was = rest.partition(" over ")[0]
    same = found.kind == was or not (found.splits_states or was.startswith(SHARDED))
    if not same or (was.startswith("ZeRO") and number != str(found.processes)):
        raise ProcessError(
            f"the run was trained in {before}, and its checkpoints hold the optimizer's states as "
            f"{was or 'one process'} stores them; now it would train in {found.line()}: resume it as before, or start "
            "over with output=FOLDER"
        )


@contextmanager
def head_in_the_root(model: Any) -> Iterator[None]:
    """Within, accelerate's FSDP2 leaves embedding and head to the group of the whole model.

    The objective calls the head block by block inside the model's forward, where the root has gathered it. In a group
    with the final norm, as accelerate makes one, it would be freed before its gradient is there.
    """
    names = ("get_input_embeddings", "get_output_embeddings")
    for name in names:
        model.__dict__[name] = lambda: None
    try:
        yield
    finally:
        for name in names:
            del model.__dict__[name]


def check_sharded_plan(found: Wrapping, plan: Plan) -> None:
    """Refuse what reads or differentiates weights in a way that does not work where they are split.

    Raises:
        ProcessError: for a method with older weights of the policy, or with attribution maps.
    """
    if not found.splits_weights:
        return
    signals = [*plan.signals, *plan.rollout_signals]
    signals += [part for one in signals for part in vars(one).values() if isinstance(part, PolicySnapshot)]
    lags = [
        one for one in signals if isinstance(one, PolicySnapshot) and (one.every != 1 or type(one).take is not TAKE)
    ]
    twice = plan.auxiliary is not None or getattr(plan.objective, "steps", 0)
    if lags or twice:
        what = "swaps the policy's weights with earlier ones" if lags else "takes gradients of gradients"
        raise ProcessError(
            f"{found.kind} splits the weights, and this method {what}, which is not built for parts of them; start it "
            "with DDP (trimtab launch --devices N without --fsdp or --zero3)"
        )


TAKE = PolicySnapshot.take
"""how snapshots copy weights; averages have their own"""


def kind_of(model: nn.Module) -> str:
    """What a prepared model is wrapped in, in the words of `Wrapping.kind`."""
    if isinstance(model, DistributedDataParallel):
        return "DDP"
    if isinstance(model, FullyShardedDataParallel):
        return "FSDP1"
    if isinstance(model, FSDPModule) and any(isinstance(parameter, DTensor) for parameter in model.parameters()):
        return "FSDP2"
    if type(model).__name__ == "DeepSpeedEngine":
        return f"ZeRO-{model.zero_optimization_stage()}"  # type: ignore[operator]
    return "none"


class ConfirmWrapping(TrainerCallback):
    """Compare the wrapper of the prepared model with the one that was announced, before the first step.

    Args:
        trainer: whose `model_wrapped` is prepared when training begins.
        announced: what the run has said that it is.
    """

    def __init__(self, trainer: Any, announced: Wrapping):
        self.trainer, self.announced = trainer, announced

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        found = kind_of(self.trainer.model_wrapped)
        if found != self.announced.kind:
            raise ProcessError(
                f"accelerate announced {self.announced.kind} and wrapped the policy in {found} "
                f"({type(self.trainer.model_wrapped).__name__}), so {self.announced.processes} processes would not "
                "train one model; start it in one process, or with trimtab launch --devices N RECIPE"
            )
