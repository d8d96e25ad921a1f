"""What each device of a launch holds, against real shards in two processes and by arithmetic."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.tensor import DTensor

import tiny
import tiny_folder
from tiny_group import in_group
from tiny_processes import FSDP, fsdp_on_a_cpu
from trimtab.models.footprint import TrainedShape, footprint
from trimtab.models.quantised import QuantisedError
from trimtab.runs.estimate import MemoryEstimate, estimates
from trimtab.runs.estimated_split import Split, gathered, partition, shard
from trimtab.runs.parse import parse


def test_a_shard_has_equal_rows_and_the_last_ones_less_or_none():
    assert [shard((10, 3), 4, rank) for rank in range(4)] == [9, 9, 9, 3]
    assert [shard((5,), 4, rank) for rank in range(4)] == [2, 2, 1, 0]
    for rows, number in ((10, 4), (5, 4), (3, 8), (16, 2)):
        chunks = torch.zeros(rows, 2).chunk(number)
        assert [shard((rows, 2), number, rank) for rank in range(len(chunks))] == [one.numel() for one in chunks]


def test_a_partition_is_an_equal_part_of_all_numbers_padded_to_two():
    assert [partition(8, 4), partition(9, 4), partition(17, 4), partition(1, 8)] == [2, 4, 6, 2]


def sharded(kind: str) -> dict[str, Any]:
    """What a process holds of a model under FSDP2, before and after a step of two micro-batches."""
    from accelerate import Accelerator

    from trimtab.train.wrapping import head_in_the_root

    os.environ |= FSDP
    fsdp_on_a_cpu(0)
    accelerator = Accelerator(cpu=True)
    model = tiny.model(kind).train()
    with head_in_the_root(model):
        model, optimizer = accelerator.prepare(model, torch.optim.AdamW(model.parameters()))
    mine = [p.to_local().numel() for p in model.parameters() if isinstance(p, DTensor)]
    ids = torch.zeros(1, 6, dtype=torch.long)

    def step() -> None:
        accelerator.backward(model(input_ids=ids).logits.square().mean())

    with accelerator.no_sync(model):
        step()
    whole = 0
    for module in model.modules():
        if hasattr(module, "_get_fsdp_state"):
            for group in module._get_fsdp_state()._fsdp_param_groups:
                for one in group.fsdp_params:
                    kept = one.unsharded_accumulated_grad
                    kept = one._unsharded_param.grad if kept is None and hasattr(one, "_unsharded_param") else kept
                    whole += 0 if kept is None else kept.numel() * kept.element_size()
    exchanged = sum(p.grad is not None for p in model.parameters())
    step()
    gradients = sum(p.grad.to_local().numel() for p in model.parameters())
    optimizer.step()
    states = sum(
        one.to_local().numel()
        for state in optimizer.state.values()
        for one in state.values()
        if isinstance(one, DTensor) and one.dim()
    )
    return {"mine": mine, "whole": whole, "exchanged": exchanged, "gradients": gradients, "states": states}


@pytest.mark.parametrize("kind", ["llama", "llama_tied"])
def test_shards_gradients_and_states_of_fsdp_are_the_real_ones_of_each_process(kind, tmp_path):
    found = in_group(tmp_path, sharded, kind)
    one = footprint(tiny.model(kind).config, "float32", TrainedShape(), 1, 6)
    every = [weight for group in one.groups for weight in group]
    for rank, real in enumerate(found):
        assert not isinstance(real, Exception), real
        local = sum(shard(weight.shape, 2, rank) for weight in every)
        assert sum(real["mine"]) == real["gradients"] == local
        assert real["states"] == 2 * local
        assert sorted(real["mine"]) == sorted(shard(weight.shape, 2, rank) for weight in every)
        assert real["exchanged"] == 0
        assert real["whole"] == gathered(every, None)  # until the last micro-batch
    assert one.params == sum(weight.numel for weight in every)


LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"]}


def sharded_adapters() -> int:
    """Bytes that a process holds of a frozen model in bfloat16 with adapters in float32, after a step."""
    from accelerate import Accelerator
    from peft import LoraConfig, get_peft_model

    from trimtab.train.wrapping import head_in_the_root

    os.environ |= FSDP
    fsdp_on_a_cpu(0)
    accelerator = Accelerator(cpu=True)
    model: Any = get_peft_model(tiny.model("llama").to(torch.bfloat16), LoraConfig(task_type="CAUSAL_LM", **LORA))
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for one in trained:
        one.data = one.data.float()
    with head_in_the_root(model):
        model, optimizer = accelerator.prepare(model, torch.optim.AdamW(trained))
    ids = torch.arange(3, 9)[None]
    accelerator.backward(model(input_ids=ids).logits.float().square().mean())
    optimizer.step()
    return sum(p.to_local().numel() * p.element_size() for p in model.parameters())


def test_frozen_weights_under_adapters_are_divided_in_their_own_dtype(tmp_path):
    found = in_group(tmp_path, sharded_adapters)
    one = footprint(tiny.model("llama").config, "bfloat16", TrainedShape(lora=LORA), 1, 6)
    for rank, held in enumerate(found):
        every = [weight for group in one.groups for weight in group]
        assert held == sum(shard(weight.shape, 2, rank) * weight.element_size for weight in every)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


def estimate(files: Path, kind: str = "none", number: int = 1, **changes: Any) -> MemoryEstimate:
    tree = tiny_folder.recipe(files, changes.pop("method", "sft"), output=str(files / "out"), **changes)
    (found,) = estimates(parse(tree, "test", "run"), Split(number, kind, "cuda"))
    return found


def size(found: MemoryEstimate, start: str) -> int:
    return next(part.size for part in found.parts if part.name.startswith(start))


def names(found: MemoryEstimate) -> str:
    return "\n".join(part.name for part in found.parts)


WEIGHTS = 8064
"""worked by hand in test_estimate_parts.py; all but the rows of the embedding are multiples of eight"""
LAYER = 2 * 16 * 16 + 2 * 16 * 8 + 3 * 16 * 24 + 2 * 16
EMBEDDING = tiny_folder.VOCAB * 16


def part(number: int) -> int:
    """Of the weights, with rows of the embedding rounded up."""
    return (WEIGHTS - EMBEDDING) // number + -(-tiny_folder.VOCAB // number) * 16


def test_ddp_adds_a_second_set_of_gradients_to_each_device(files):
    alone, two = estimate(files), estimate(files, "DDP", 2)
    assert size(two, "policy") == size(alone, "policy") == 4 * WEIGHTS
    assert size(two, "buffers of gradients") == 4 * WEIGHTS
    assert "buffers of gradients" not in names(alone)


def test_fsdp_divides_weights_gradients_and_states_and_gathers_a_layer_at_a_time(files):
    found = estimate(files, "FSDP2", 4)
    root = WEIGHTS - 2 * LAYER
    assert size(found, "policy") == size(found, "gradients, their part") == 4 * part(4)
    assert size(found, "optimizer state") == 8 * part(4)
    assert size(found, "embedding, head and norm, gathered") == 4 * root
    assert size(found, "two layers") == 3 * 4 * LAYER
    assert size(found, "gradients of embedding and head") == 2 * 4 * root
    assert size(found, "gradients, whole until") == 4 * WEIGHTS
    assert size(estimate(files, "FSDP2", 4, training={"bf16": True}), "two layers") == 3 * 2 * LAYER


def test_whole_gradients_are_kept_by_fsdp_only_where_several_micro_batches_wait(files):
    assert "gradients, whole" not in names(estimate(files, "FSDP2", 4, training={"gradient_accumulation_steps": 1}))
    each = {"accelerator_config": {"gradient_accumulation_kwargs": {"sync_each_batch": True}}}
    found = estimate(files, "FSDP2", 4, training=each)
    assert "gradients, whole" not in names(found)
    part = next(one for one in found.parts if one.name.startswith("gradients, their part"))
    assert part.share["forward"] == 1.0


def test_zero_2_keeps_whole_weights_and_a_part_of_all_that_is_float32(files):
    mine = partition(WEIGHTS, 4)
    found = estimate(files, "ZeRO-2", 4, training={"bf16": True})
    assert size(found, "policy") == 2 * WEIGHTS
    assert size(found, "float32 weights, their part") == 4 * mine
    assert size(found, "gradients, their part") == 2 * mine
    assert size(found, "gradients in float32") == 4 * mine
    assert size(found, "optimizer state") == 8 * mine
    assert size(found, "buffer of gradients") == 1_000_000_000
    assert size(estimate(files, "ZeRO-2", 4), "policy") == 4 * WEIGHTS


def test_frozen_models_are_whole_on_each_device(files):
    one, eight = estimate(files, method="kd"), estimate(files, "FSDP2", 8, method="kd")
    assert size(one, "teacher") == size(eight, "teacher") > 4 * WEIGHTS


def test_a_split_teacher_is_divided_layer_by_layer_and_one_layer_is_whole(files):
    alone = estimate(files, method="kd")
    split = {"models": {"split_frozen": True}}
    found = estimate(files, "FSDP2", 4, method="kd", **split)
    parts = {one.name.rpartition(", ")[2]: one.size for one in found.parts if one.name.startswith("teacher")}
    assert parts.keys() == {"its part", "gathered"}
    assert parts["gathered"] == 2 * 4 * LAYER
    layers = 3  # of the teacher, whose student has two
    assert parts["its part"] == size(alone, "teacher") - 4 * layers * (LAYER - LAYER // 4)


def test_adapters_are_all_that_is_trained_and_frozen_weights_are_divided_in_their_dtype(files):
    lora = {"lora": {"r": 4}, "student": str(files / "teacher"), "dtype": "bfloat16"}
    alone, found = estimate(files, models=lora), estimate(files, "FSDP2", 2, models=lora)
    trained = size(alone, "gradients of") // 4
    assert size(found, "gradients, their part") == 4 * trained // 2
    assert size(alone, "policy") == 4 * trained + 2 * (WEIGHTS + LAYER)
    assert size(found, "policy") == 4 * trained // 2 + 2 * (part(2) + LAYER // 2)


def test_a_quantised_policy_is_not_estimated_with_fsdp(files):
    one = footprint(tiny.model("llama").config, "float32", TrainedShape(), 1, 6)
    from dataclasses import replace

    from trimtab.runs.estimated_split import policy_parts

    with pytest.raises(QuantisedError, match="not estimated with FSDP2"):
        policy_parts(replace(one, packed=True), Split(2, "FSDP2"), None, 8, "adamw", True)
