"""Frozen models that are split over processes give what whole ones give."""

import pytest
import torch
from accelerate import PartialState
from torch.distributed.tensor import DTensor

import tiny
import tiny_group
from trimtab.models.footprint import frozen_groups
from trimtab.models.splitting import is_split, split_layers
from trimtab.runs.estimated_split import shard
from trimtab.signals.frozen import FrozenModel

INPUTS = {
    "input_ids": torch.arange(12).reshape(2, 6) + 3,
    "attention_mask": torch.ones(2, 6, dtype=torch.long),
    "labels": torch.arange(12).reshape(2, 6) + 3,
}


def states_of_a_split_model(kind):
    PartialState(cpu=True)  # forms the group
    model = tiny.model(kind)
    whole = sum(parameter.numel() for parameter in model.parameters())
    split_layers(model, torch.device("cpu"))
    split_layers(model, torch.device("cpu"))  # of a later stage: nothing
    teacher = FrozenModel(model)
    found = [teacher.hidden(INPUTS) for _ in range(2)][1]
    parts = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    in_layers = [p for p in model.parameters() if isinstance(p, DTensor)]
    return found, teacher.project(found), whole, sum(map(torch.numel, parts)), sum(p.numel() for p in in_layers)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2", "qwen3"])
def test_a_split_model_gives_the_states_of_a_whole_one_and_keeps_half_of_its_layers(tmp_path, kind):
    teacher = FrozenModel(tiny.model(kind))
    wanted = teacher.hidden(INPUTS)
    outside, layers = frozen_groups(teacher.model.config, "float32")
    found_by = tiny_group.in_group(tmp_path, states_of_a_split_model, kind)
    for rank, (found, logits, whole, kept, in_layers) in enumerate(found_by):
        assert torch.allclose(found, wanted, atol=1e-6)
        assert torch.allclose(logits, teacher.project(wanted), atol=1e-5)
        assert in_layers > 0
        assert kept == pytest.approx(whole - in_layers / 2, rel=0.02)  # again a part after it was whole
        estimated = sum(shard(weight.shape, 2, rank) for layer in layers for weight in layer)
        assert kept == outside // 4 + estimated


def test_a_whole_model_is_not_split():
    assert not is_split(tiny.model("llama"))
