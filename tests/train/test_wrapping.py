"""A run says what its launch has become, and refuses one that has become something else."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from trimtab.common.processes import ProcessError
from trimtab.train.wrapping import ConfirmWrapping, Wrapping, asked, check_asked, check_states, kind_of, wrapping

ONE = Wrapping(1, "none", "", "cpu")
DDP = Wrapping(2, "DDP", "gloo", "cpu")


def accelerator(kind: str, processes: int = 2, **plugins) -> SimpleNamespace:
    return SimpleNamespace(
        distributed_type=SimpleNamespace(value=kind),
        num_processes=processes,
        state=SimpleNamespace(**{name: SimpleNamespace(**of) for name, of in plugins.items()}),
        device=torch.device("cpu"),
    )


@pytest.mark.parametrize(
    ("environment", "kind"),
    [
        ({}, "none"),
        ({"WORLD_SIZE": "1"}, "none"),
        ({"WORLD_SIZE": "2"}, "DDP"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "FSDP2"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "true"}, "FSDP"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_FSDP": "false"}, "DDP"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "3"}, "ZeRO-3"),
        ({"WORLD_SIZE": "2", "ACCELERATE_USE_DEEPSPEED": "true"}, "ZeRO"),
    ],
)
def test_what_a_launcher_asks_for_stands_in_the_environment(environment, kind):
    assert asked(environment) == kind


def test_what_a_run_is_comes_from_the_engine():
    assert wrapping(accelerator("NO", 1)) == ONE
    assert wrapping(accelerator("MULTI_CPU")).kind == "DDP"
    assert wrapping(accelerator("MULTI_GPU")).kind == "DDP"
    assert wrapping(accelerator("MULTI_GPU", 1)).line() == "1"
    assert wrapping(accelerator("FSDP", fsdp_plugin={"fsdp_version": 2})).kind == "FSDP2"
    assert wrapping(accelerator("DEEPSPEED", deepspeed_plugin={"zero_stage": 3})).kind == "ZeRO-3"


def test_lines_say_how_processes_share():
    assert (ONE.line(), str(ONE)) == ("1", "1 process on cpu")
    assert (DDP.line(), str(DDP)) == ("2, DDP over gloo", "2 processes on cpu, DDP over gloo")
    assert not DDP.splits_weights
    assert not Wrapping(2, "ZeRO-2", "nccl", "cuda").splits_weights
    assert Wrapping(2, "ZeRO-3", "nccl", "cuda").splits_weights
    assert Wrapping(2, "FSDP2", "nccl", "cuda").splits_weights


def test_a_launch_that_became_something_else_is_refused():
    several = {"WORLD_SIZE": "2"}
    check_asked(ONE, {})
    check_asked(DDP, several)
    check_asked(Wrapping(1, "DDP", "gloo", "cpu"), {"WORLD_SIZE": "1"})
    check_asked(Wrapping(2, "FSDP1", "nccl", "cuda"), {**several, "ACCELERATE_USE_FSDP": "true"})
    with pytest.raises(ProcessError, match=r"asked for FSDP2 .* with DDP .*: accelerate has no FSDP on a CPU"):
        check_asked(DDP, {**several, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
    with pytest.raises(ProcessError, match="asked for FSDP2 .* with FSDP1"):
        found = Wrapping(2, "FSDP1", "nccl", "cuda")
        check_asked(found, {**several, "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"})
    zero = {**several, "ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2"}
    with pytest.raises(ProcessError, match="asked for ZeRO-2 .* with DDP .*use_cpu"):
        check_asked(DDP, zero)
    with pytest.raises(ProcessError, match="asked for DDP and .* with none"):
        check_asked(ONE, several)


def test_states_of_an_optimizer_that_are_stored_otherwise_are_not_passed_over():
    check_states(ONE, "2, DDP over gloo")
    check_states(DDP, "1")
    check_states(Wrapping(4, "FSDP2", "nccl", "cuda"), "2, FSDP2 over nccl")
    check_states(Wrapping(2, "ZeRO-2", "nccl", "cuda"), "2, ZeRO-2 over nccl")
    with pytest.raises(ProcessError, match=r"trained in 2, FSDP2 over nccl, .* it would train in 1: resume it as"):
        check_states(ONE, "2, FSDP2 over nccl")
    with pytest.raises(ProcessError, match="as one process stores them"):
        check_states(Wrapping(2, "FSDP2", "nccl", "cuda"), "1")
    with pytest.raises(ProcessError, match="training.optim=sgd keeps no states"):
        check_states(Wrapping(2, "FSDP2", "nccl", "cuda"), "2, FSDP2 over nccl", "sgd")
    with pytest.raises(ProcessError, match="trained in 4, ZeRO-2"):
        check_states(Wrapping(2, "ZeRO-2", "nccl", "cuda"), "4, ZeRO-2 over nccl")


def test_a_model_that_is_not_wrapped_as_announced_ends_the_run():
    model = nn.Linear(2, 2)
    assert kind_of(model) == "none"
    trainer = SimpleNamespace(model_wrapped=model)
    ConfirmWrapping(trainer, ONE).on_train_begin(None, None, None)
    with pytest.raises(ProcessError, match=r"announced DDP and wrapped the policy in none \(Linear\)"):
        ConfirmWrapping(trainer, DDP).on_train_begin(None, None, None)
