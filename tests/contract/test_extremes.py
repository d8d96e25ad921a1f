"""Log-probabilities that underflow as probabilities give finite values, metrics and gradients, in every method and
under every choice of its settings."""

import pytest
import torch
from torch import Tensor

from method_bench import NAMES, V, allowed, gates, update
from trimtab import methods

LOGITS = ("policy", "teacher", "reference", "reward_model", "reward_model_reference", "policy_sums", "teacher_sums")


def lowered(of: str, size: float):
    """Of "policy", "others" or "all" every second answer token (or every token but one) is next to impossible."""

    def change(name: str, values: Tensor) -> Tensor:
        if (of == "others" and name == "policy") or (of == "policy" and name != "policy"):
            return values
        if values.dim() == 2 and values.size(1) == V:  # logits: a single id, alone or with all others far below it
            high = torch.arange(len(values)) % V
            return torch.full_like(values, -size).scatter(1, high[:, None], 0.0)
        if values.dim() == 2:  # of candidates
            return torch.full_like(values, -size).scatter(1, (torch.arange(len(values)) % 3 == 0).long()[:, None], 0.0)
        return torch.where(torch.arange(len(values)) % 2 == 0, -size, values)

    return change


@pytest.mark.fast("*-110.0-dtype0", "*-10000.0-dtype1")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [110.0, 1e4])
@pytest.mark.parametrize("name", NAMES)
def test_what_underflows_teaches_finite_losses_and_gradients(name, size, dtype):
    method, broken = methods.load(name), []
    for gate in gates(method.config):
        config = allowed(method.config, **gate)
        if config is None:
            continue
        for of in ("policy", "others", "all"):
            done = update(method, config, change=lowered(of, size), dtype=dtype)
            tensors = {"loss": done.loss, "gradient": done.gradient, "values": done.values}
            tensors |= {key: total for key, (total, _) in done.metrics.items()}
            broken += [f"{key} under {gate}, {of} low" for key, one in tensors.items() if not one.isfinite().all()]
    assert not broken
