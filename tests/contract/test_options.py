"""An option that is changed changes what is learnt, or is refused: none is taken and then left alone.

The settings are those that each method's schema allows; a new method needs no line here.
"""

import pytest
import torch

from method_bench import allowed, alternatives, decided, gates, update
from trimtab import methods
from trimtab.core import Method, MethodConfig


def does_the_same(method: Method, one: MethodConfig, other: MethodConfig) -> bool:
    if decided(method, one) != decided(method, other):
        return False
    for step in (0, 3):
        before, after = update(method, one, step), update(method, other, step)
        alike = before.values.shape == after.values.shape
        if not (alike and torch.allclose(before.values, after.values, rtol=1e-5, atol=1e-6)):
            return False
        if not torch.allclose(before.gradient, after.gradient, rtol=1e-4, atol=1e-8):
            return False
    return True


@pytest.mark.parametrize("name", methods.names())
def test_each_option_that_is_taken_does_something(name):
    method = methods.load(name)
    idle = []
    for gate in gates(method.config):
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


@pytest.mark.parametrize("name", methods.names())
def test_each_option_can_be_changed_from_its_default_somewhere(name):
    config = methods.load(name).config
    for option in config.model_fields:
        others = alternatives(config, option)
        ways = [{**gate, option: one} for gate in gates(config, 2) if option not in gate for one in others]
        assert any(allowed(config, **way) for way in ways), option
