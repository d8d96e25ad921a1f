"""An option that is changed changes what is learnt, or is refused: none is taken and then left alone.

The settings are those that each method's schema allows; a new method needs no line here.
"""

from typing import Any

import pytest
import torch

from method_bench import NAMES, Done, allowed, alternatives, decided, gates, switches, update
from trimtab import methods
from trimtab.core import Method, MethodConfig

DONE: dict[tuple[type[MethodConfig], str], tuple[list[Any], list[Done]]] = {}
"""what each setting does: most are met under several gates"""


def done(method: Method, config: MethodConfig) -> tuple[list[Any], list[Done]]:
    key = type(config), config.model_dump_json()
    if key not in DONE:
        DONE[key] = decided(method, config), [update(method, config, step) for step in (0, 3)]
    return DONE[key]


def does_the_same(method: Method, one: MethodConfig, other: MethodConfig) -> bool:
    (decisions, updates), (others, other_updates) = done(method, one), done(method, other)
    if decisions != others:
        return False
    for before, after in zip(updates, other_updates, strict=True):
        alike = before.values.shape == after.values.shape
        if not (alike and torch.allclose(before.values, after.values, rtol=1e-5, atol=1e-6)):
            return False
        if not torch.allclose(before.gradient, after.gradient, rtol=1e-4, atol=1e-8):
            return False
    return True


@pytest.mark.fast(*(name for name in NAMES if name not in ("distrl", "ad_kd_language")))  # half of all the time, in two
@pytest.mark.parametrize("name", NAMES)
def test_each_option_that_is_taken_does_something(name):
    method = methods.load(name)
    idle = []
    for gate in (*gates(method.config), *switches(method.config)):
        base = allowed(method.config, **gate)
        if base is None:
            continue
        for option in method.config.model_fields:
            if option in gate:
                continue
            changed = [allowed(method.config, **gate, **{option: one}) for one in alternatives(method.config, option)]
            taken = [one for one in changed if one is not None]
            if taken and all(does_the_same(method, base, one) for one in taken):
                idle.append(f"{option} under {gate or 'the defaults'}")
    assert not idle, f"{name} takes and ignores: {'; '.join(idle)}"


@pytest.mark.parametrize("name", NAMES)
def test_each_option_can_be_changed_from_its_default_somewhere(name):
    config = methods.load(name).config
    for option in config.model_fields:
        others = alternatives(config, option)
        ways = [{**gate, option: one} for gate in gates(config, 2) if option not in gate for one in others]
        assert any(allowed(config, **way) for way in ways), option


@pytest.mark.parametrize(
    "name, off, idle",
    [
        ("distrl", {"alpha": 0.0}, {"num_candidates": 3}),
        ("distrl", {"p_min": 1.0}, {"num_candidates": 3}),
        ("kd", {"cross_entropy": 1.0}, {"divergence": "skewed_reverse_kl", "skew": 0.3}),
        ("lco", {"advantage": "q_rm", "loss": "mse", "agreement_scale": 1.0}, {"agreement_threshold": -0.1}),
        ("ppo", {"value_coef": 0.0}, {"critic_learning_rate": 1e-4}),
        ("ppo", {"value_coef": 0.0}, {"critic_mean": "row"}),
        ("ppo", {"advantage": "gae", "gamma": 0.0}, {"lam": 0.5}),
        ("psft", {"refresh": 1}, {"warmup_sft_steps": 2}),
    ],
)
def test_what_moves_other_parts_alone_is_refused_where_the_policy_does_not_see_them(name, off, idle):
    config = methods.load(name).config
    assert allowed(config, **off) is not None
    assert allowed(config, **off, **idle) is None
    assert name == "kd" or allowed(config, **{key: off[key] for key in ("advantage", "loss") if key in off}, **idle)
