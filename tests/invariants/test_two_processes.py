"""Two processes that share an update give the gradient of one process that has all its rows.

Two real processes talk over gloo; under DDP, and under FSDP2 with each layer and the root sharded. The tied
head is the hard case: its gradient has two sources, and outside the model's forward its weight is no whole tensor.
"""

from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

import tiny
from trimtab.core import Objective, answer_mask, count
from trimtab.core.batch import COMPARED
from trimtab.core.pairs import PairedObjective
from trimtab.methods.hpd import HPD
from trimtab.methods.hpd import Config as HPDConfig
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.consistency import Consistency
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match

PROCESSES = 2
ROWS = ((3, 5), (1, 1), (2, 0), (4, 7), (2, 9), (1, 3), (6, 0), (2, 4))
# for each process, its micro-batches; the second process has one without a single answer token
SHARES = {
    "one backward": (([0, 1, 2, 3],), ([4, 5, 6, 7],)),
    "two backwards": (([0, 3], [1, 4]), ([6, 2], [5, 7])),
}
OBJECTIVES = {
    "sft": Likelihood(),
    "kd": Match(forward_kl, 1.0, 0.3),
    "hpd": HPD(HPDConfig()),
    "mcc_kd": PairedObjective(Likelihood(), Consistency(5.0)),
}
CASES = [
    (wrapper, kind, objective, share, reduction)
    for wrapper in ("ddp", "fsdp2")
    for kind, objective, share, reduction in (
        *(("llama_tied", name, "one backward", "token_mean") for name in ("sft", "kd", "hpd")),
        ("llama_tied", "mcc_kd", "one backward", "pair_mean"),
        ("llama_tied", "hpd", "two backwards", "sequence_mean"),
        ("llama", "kd", "two backwards", "token_mean"),
        ("gemma2", "hpd", "one backward", "token_mean"),
    )
]


def wrap(model: torch.nn.Module, wrapper: str) -> torch.nn.Module:
    if wrapper == "ddp":
        return DistributedDataParallel(model)
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def build(kind: str) -> torch.nn.Module:
    model = tiny.model(kind)
    add_objective_forward(model)
    return model


def accumulate(model: torch.nn.Module, objective_name: str, parts: list[list[int]], reduction: str, total) -> None:
    """Backward passes over the micro-batches `parts` of ROWS."""
    rows, objective = tiny.rows(ROWS), OBJECTIVES[objective_name]
    teacher = tiny.teacher(tiny.model("llama", seed=9))
    for part in parts:
        picked = rows.pick(part)
        signals = teacher(model, picked.inputs()) if "teacher" in objective.needs else {}
        if COMPARED in objective.needs:
            signals = {COMPARED: compared(rows)[part][:, 1:][answer_mask(picked.labels)]}
        call = tiny.call(objective, picked, signals, reduction=reduction, total=total, seed=1, step=4)
        model(input_ids=picked.input_ids, attention_mask=picked.attention_mask, objective_call=call).loss.backward()


def compared(rows: tiny.Rows) -> torch.Tensor:
    """The last tokens of both answers of a pair of rows, where both have one; other numbers of them in each process."""
    marks = torch.full(rows.labels.shape, -1.0)
    for row, ((prompt, answer), (_, other)) in enumerate(zip(ROWS, ROWS[1:] + ROWS[:1])):
        pair = (answer, ROWS[row - 1][1]) if row % 2 else (answer, other)
        if all(pair):
            marks[row, prompt + answer - 1] = 0
    return marks


def global_count(reduction: str) -> torch.Tensor:
    rows = tiny.rows(ROWS)
    return count(rows.labels, reduction, compared(rows))


def whole(gradients: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {
        name.removeprefix("module."): g.full_tensor() if isinstance(g, DTensor) else g for name, g in gradients.items()
    }


class Ones(Objective):
    """A value of 1 for each token; remembers the dtype of a signal."""

    needs = frozenset()
    per = "token"

    def __call__(self, batch):
        self.dtype = batch.signals["advantages"].dtype
        return batch.losses(torch.ones(len(batch)))


def under_mixed_precision() -> dict:
    """What becomes of a float32 signal and of the total where FSDP2 casts the inputs of a forward to bfloat16."""
    model = fully_shard(
        build("llama"),
        mesh=init_device_mesh("cpu", (PROCESSES,)),
        mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32),
    )
    rows, ones = tiny.rows(ROWS), Ones()
    tokens = int(count(rows.labels, "token_mean"))
    call = tiny.call(ones, rows, {"advantages": torch.ones(tokens)}, total=torch.tensor(1001 / PROCESSES))
    loss = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, objective_call=call).loss
    return {"dtype": ones.dtype, "total": tokens / loss.item()}


def with_a_head_sharded_alone(rank: int) -> dict | Exception:
    """Gradients where the head is a group of its own, or the error that refused it."""
    model = build("llama")
    mesh = init_device_mesh("cpu", (PROCESSES,))
    for part in (*model.model.layers, model.lm_head, model):
        fully_shard(part, mesh=mesh)
    total = global_count("token_mean") / PROCESSES
    try:
        accumulate(model, "sft", SHARES["one backward"][rank], "token_mean", total)
    except Exception as error:  # whichever the engine chooses to refuse it with
        return error
    return whole(tiny.gradients(model))


def process(rank: int, folder: str) -> None:
    """One of the two; the first writes down what it found."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=PROCESSES)
    found = {}
    for case in CASES:
        wrapper, kind, objective, share, reduction = case
        model = wrap(build(kind), wrapper)
        accumulate(model, objective, SHARES[share][rank], reduction, global_count(reduction) / PROCESSES)
        found[case] = whole(tiny.gradients(model))
    found["mixed precision"] = under_mixed_precision()
    found["head alone"] = with_a_head_sharded_alone(rank)
    if rank == 0:
        torch.save(found, f"{folder}/gradients.pt")
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def of_two_processes(tmp_path_factory) -> dict:
    folder: Path = tmp_path_factory.mktemp("two_processes")
    mp.start_processes(process, args=(str(folder),), nprocs=PROCESSES, start_method="fork")  # imports nothing again
    return torch.load(folder / "gradients.pt", weights_only=False)


def of_one_process(kind, objective, reduction) -> dict[str, torch.Tensor]:
    model = build(kind)
    accumulate(model, objective, [list(range(len(ROWS)))], reduction, global_count(reduction))
    return tiny.gradients(model)


@pytest.mark.parametrize("case", CASES, ids=", ".join)
def test_gradients_of_two_processes_are_those_of_one_with_all_rows(of_two_processes, case):
    _, kind, objective, _, reduction = case
    wanted = of_one_process(kind, objective, reduction)
    assert tiny.relative_error(of_two_processes[case], wanted) < 1e-5
    for name, gradient in wanted.items():
        assert tiny.relative_error({name: of_two_processes[case][name]}, {name: gradient}) < 1e-4, name


def test_a_head_sharded_alone_is_refused_or_right(of_two_processes):
    found = of_two_processes["head alone"]
    if not isinstance(found, Exception):
        assert tiny.relative_error(found, of_one_process("llama", "sft", "token_mean")) < 1e-5


def test_mixed_precision_of_fsdp2_leaves_the_total_and_the_signals_in_float32(of_two_processes):
    found = of_two_processes["mixed precision"]
    assert found["total"] == pytest.approx(500.5, rel=1e-5)
    assert found["dtype"] == torch.float32


def test_the_rows_would_tell_a_mean_of_means_apart():
    wanted = of_one_process("llama_tied", "sft", "token_mean")
    model = build("llama_tied")
    run = partial(accumulate, model, "sft", reduction="token_mean", total=None)
    for part, *_ in SHARES["one backward"]:
        run([part])
    halved = {name: g / PROCESSES for name, g in tiny.gradients(model).items()}
    assert tiny.relative_error(halved, wanted) > 0.01
