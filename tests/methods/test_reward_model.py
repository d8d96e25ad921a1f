"""The other reward models: each kind is the loss that its name says, and asks for the rows that it needs."""

from math import exp, log

import pytest
import torch

import tiny
from trimtab.core import Reference, TokenBatch
from trimtab.methods.reward_model import IMPLICIT, METHOD, PAIRWISE, Config
from trimtab.signals.frozen import FrozenModel

ROWS = tiny.rows(((1, 2), (1, 3)))
SCORES = torch.tensor([0.5, 1.5, -1.0, 0.0, 2.0])  # of an answer of 2 tokens and one of 3
OUTCOME = torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
RATING = torch.tensor([float("nan"), 1.0, -1.0, float("nan"), 0.0])


def sigma(x: float) -> float:
    return 1 / (1 + exp(-x))


def tanh(x: float) -> float:
    return torch.tensor(x).tanh().item()


WANTED = {
    "orm": [-log(sigma(1.5 - 2.0))] * 2,
    "focal": [-log(sigma(-0.5)) - 0.01 * sum(log(sigma(s + 5)) + log(sigma(5 - s)) for s in (1.5, 2.0))] * 2,
    "focal_mean": [-((1 - 2 * (sigma(2 / 3) - 0.5)) ** 2) * log(sigma(2 / 3))] * 2,
    "pgtg": [-log(sigma(2.5 * ((sigma(0.5) + sigma(1.5)) / 2 - (sigma(-1) + 0.5 + sigma(2)) / 3)))] * 2,
    "dpo_rm": [-log(sigma(0.05 * (2.0 - 1.0)))] * 2,
    "orm_pointwise": [-log(sigma(1.5)), -log(sigma(-2.0))],
    "focal_pointwise": [-((1 - sigma(1.5)) ** 2) * log(sigma(1.5)), -(sigma(2.0) ** 2) * log(sigma(-2.0))],
    "implicit_prm": [-log(sigma(0.05 * 2.0)), -log(sigma(-0.05 * 1.0))],
    "step_prm": [(tanh(1.5) - 1) ** 2, ((tanh(-1.0) + 1) ** 2 + tanh(2.0) ** 2) / 2],
}


def made(kind: str):
    reference = {"reference": FrozenModel(tiny.model(), name="reference")} if kind in IMPLICIT else {}
    return METHOD.build(Config(kind=kind), None, **reference)


@pytest.mark.parametrize("kind", WANTED)
def test_each_kind_by_hand(kind):
    signals = {"policy": SCORES, "reference": torch.zeros(5), "outcome": OUTCOME, "rating": RATING}
    batch = TokenBatch.from_labels(ROWS.labels, signals)
    assert made(kind).objective(batch).values.tolist() == pytest.approx(WANTED[kind], rel=1e-5)


@pytest.mark.parametrize("kind", WANTED)
def test_each_kind_asks_for_the_rows_and_models_that_its_plan_reads(kind):
    required, plan = METHOD.requirements(Config(kind=kind)), made(kind)
    assert required.scores
    assert (required.rows == "pairs") == (kind in PAIRWISE)
    assert (required.rows == "outcomes") == ("outcome" in plan.objective.needs)
    assert (required.rows == "steps") == ("rating" in plan.objective.needs)
    assert (required.model(Reference) is not None) == ("reference" in plan.objective.needs)
    assert (required.trains == "scalar_head") == (plan.objective.source == "scalar")


def test_kinds_without_a_reference_may_read_the_language_model_instead_of_a_head():
    assert METHOD.requirements(Config(kind="orm", head="logit")).trains == "scorer"
    assert METHOD.build(Config(kind="step_prm", head="logprob"), None).objective.leaf == "logprob"
