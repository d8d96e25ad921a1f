"""Plans of several methods beside tiny models."""

from typing import Any

import torch
from torch import Tensor, nn

import tiny
from trimtab.core import Plan
from trimtab.methods import dpo, hpd, kd, trra
from trimtab.models.packing import PLACE
from trimtab.signals.base import call_plan
from trimtab.signals.frozen import FrozenModel


def plan_of(method, kind, policy, **options) -> Plan:
    """The plan of a method with tiny models in the roles that it needs."""
    other = {seed: tiny.model(kind, seed=seed) for seed in (3, 4)}
    roles = {kd: {"teacher": 3}, hpd: {"teacher": 3}, trra: {"reference": 3, "aligned": 4}, dpo: {"reference": 3}}
    signals = {name: FrozenModel(other[seed], name=name) for name, seed in roles.get(method, {}).items()}
    if method is dpo:
        signals = {"reference": FrozenModel(other[3], name="reference", reads="answers")}
    return method.METHOD.build(method.METHOD.config(**options), policy, **signals)


def same_as_padded(plan: Plan, policy: nn.Module, rows: tiny.Rows, places: Tensor) -> None:
    """Loss, values, metrics and gradient of rows in packs are those of padded ones."""
    policy.zero_grad()
    inputs = rows.inputs()
    padded: Any = call_plan(plan, policy, inputs, seed=7, step=3, router_loss=0.0)
    padded.loss.backward()
    wanted = tiny.gradients(policy)
    policy.zero_grad()
    packed: Any = call_plan(plan, policy, {**inputs, PLACE: places}, seed=7, step=3)
    packed.loss.backward()
    torch.testing.assert_close(packed.loss, padded.loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(packed.unreduced, padded.unreduced, rtol=1e-5, atol=1e-5)
    assert packed.metrics.keys() == padded.metrics.keys()
    for name, pair in padded.metrics.items():
        torch.testing.assert_close(packed.metrics[name][0], pair[0], rtol=1e-5, atol=2e-5)
        assert packed.metrics[name][1] == pair[1], name
    assert tiny.relative_error(tiny.gradients(policy), wanted) < 1e-5
