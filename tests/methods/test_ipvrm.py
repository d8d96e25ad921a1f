"""IPVRM: prefix values of the log-ratio to the start, its two means, and what it asks for."""

from math import exp, log

import pytest
import torch

import tiny
from trimtab.core import Reference, Requirements, TokenBatch, reduce, weights
from trimtab.methods.ipvrm import METHOD, Config
from trimtab.signals.frozen import FrozenModel

ROWS = tiny.rows(((3, 5), (3, 2)))


def plan(**changes):
    return METHOD.build(Config(**changes), None, reference=FrozenModel(tiny.model(), name="reference"))


def loss(made, ratios: list[float], outcomes: list[float]) -> float:
    reference = torch.full((7,), -1.0)
    batch = TokenBatch.from_labels(
        ROWS.labels,
        {"policy": reference + torch.tensor(ratios), "reference": reference, "outcome": torch.tensor(outcomes)},
    )
    return reduce(made.objective(batch), weights(batch, made.reduction, per=made.objective.per)).item()


def softplus(x: float) -> float:
    return log(1 + exp(x))


def test_at_the_start_every_token_costs_softplus_of_the_margin():
    assert loss(plan(), [0.0] * 7, [1.0] * 5 + [0.0] * 2) == pytest.approx(softplus(5))
    assert loss(plan(margin=0.0), [0.0] * 7, [1.0] * 5 + [0.0] * 2) == pytest.approx(log(2))


def test_tokens_count_alike_or_answers_do():
    ratios = [1.0] * 5 + [0.0] * 2  # v = 10 for each prefix of the right answer, 0 for those of the wrong one
    right, wrong = softplus(-5), softplus(5)
    outcomes = [1.0] * 5 + [0.0] * 2
    assert loss(plan(), ratios, outcomes) == pytest.approx((5 * right + 2 * wrong) / 7, rel=1e-5)
    assert loss(plan(mean="row"), ratios, outcomes) == pytest.approx((right + wrong) / 2, rel=1e-5)


def test_weights_early_and_late_are_of_the_plan():
    ratios, outcomes = [1.0] + [0.0] * 6, [1.0] * 7
    early, late = (loss(plan(mean="row", weighting=w), ratios, outcomes) for w in ("early", "late"))
    assert early < late  # the value is above 0 early in the first answer


def test_it_asks_for_outcomes_and_the_initial_policy():
    assert METHOD.requirements(Config()) == Requirements("outcomes", "scorer", (Reference(),))
    assert plan().objective.needs == {"reference", "outcome"}
