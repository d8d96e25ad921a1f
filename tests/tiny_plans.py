"""Plans of several methods beside tiny models."""

import tiny
from trimtab.core import Plan
from trimtab.methods import dpo, hpd, kd, trra
from trimtab.signals.frozen import FrozenModel


def plan_of(method, kind, policy, **options) -> Plan:
    """The plan of a method with tiny models in the roles that it needs."""
    other = {seed: tiny.model(kind, seed=seed) for seed in (3, 4)}
    roles = {kd: {"teacher": 3}, hpd: {"teacher": 3}, trra: {"reference": 3, "aligned": 4}, dpo: {"reference": 3}}
    signals = {name: FrozenModel(other[seed], name=name) for name, seed in roles.get(method, {}).items()}
    if method is dpo:
        signals = {"reference": FrozenModel(other[3], name="reference", reads="answers")}
    return method.METHOD.build(method.METHOD.config(**options), policy, **signals)
