"""Two processes under DDP that share an update give the gradient of one, also of attribution maps: their second
derivative is taken inside the wrapped forward."""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

import tiny
from trimtab.core import Plan
from trimtab.methods.ad_kd_language import Config, build
from trimtab.models.classifier import twice_differentiable
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.answer_maps import attributable
from trimtab.signals.base import call_plan
from trimtab.signals.frozen import FrozenModel

ROWS = tiny.rows(((3, 5), (1, 1), (2, 0), (4, 7), (2, 9), (1, 3), (6, 0), (2, 4)))
SHARES = (([0, 3], [1]), ([4, 5], [6, 7, 2]))
"""for each process, its micro-batches"""
OPTIONS = ({"beta": 20.0}, {"beta": 20.0, "positions": 2, "candidates": 2})


def policy(seed: int = 0) -> torch.nn.Module:
    made = tiny.model("llama_tied", seed=seed)
    add_objective_forward(twice_differentiable(made))
    return made


def backward(plan: Plan, model: torch.nn.Module, parts, processes: int) -> dict[str, torch.Tensor]:
    tokens, units = (ROWS.labels[:, 1:] != -100).sum() / processes, attributable(ROWS.inputs()).sum() / processes
    for part in parts:
        loss = call_plan(plan, model, ROWS.pick(part).inputs(), tokens, auxiliary_total=units).loss
        assert loss is not None
        loss.backward()
    return {name.removeprefix("module."): found for name, found in tiny.gradients(model).items()}


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found = []
    for options in OPTIONS:
        plan = build(Config(**options), policy(), FrozenModel(policy(9)))
        found.append(backward(plan, DistributedDataParallel(policy()), SHARES[rank], 2))
    if rank == 0:
        torch.save(found, f"{folder}/gradients.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory) -> list:
    folder = tmp_path_factory.mktemp("two_processes_maps")
    mp.start_processes(process, args=(str(folder),), nprocs=2, start_method="fork")  # imports nothing again
    return torch.load(folder / "gradients.pt", weights_only=False)


@pytest.mark.parametrize("number", [0, 1], ids=["answer", "views"])
def test_gradients_of_two_processes_are_those_of_one_with_all_rows(of_two_processes, number):
    plan = build(Config(**OPTIONS[number]), policy(), FrozenModel(policy(9)))
    wanted = backward(plan, policy(), [list(range(8))], 1)
    assert tiny.relative_error(of_two_processes[number], wanted) < 1e-4
    assert tiny.relative_error(backward(plan, policy(), [[0, 3, 1]], 1), wanted) > 0.01
