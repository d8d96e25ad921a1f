"""TrRa (arXiv:2506.12704) against decoding with two models; see `trra_markov.py` for the set-up.

What is asserted stood here before the first run. In an earlier run of this design the rates of good tokens at the
strengths -.5, 0, .5, 1, 1.5 and 2 were .000, .216, .911, .998, 1.00 and 1.00, at most .004 from those of the fused
pair and at most .0012 nats from it; the loss over positions gave .031, .218, .607, .806, .880 and .912, .08 to .26
nats away. A step of the rate has to reach about a third of the one seen there; beyond 1 the rate is at its ceiling,
so log-odds are compared. How long the reference is aligned was chosen on seeds 100 and 101 by its rate alone.
"""

from dataclasses import replace

import pytest
import torch
import toys
from intervals import over_seeds
from trra_markov import EXPERIMENT, STRENGTHS, Settings

SEEDS = (0, 1, 2, 3, 4)

CLAIMS = {
    "a negative strength goes below the reference": ("trra, 0", "trra, -0.5", "rate", 0.07),
    "half the strength goes far": ("trra, 0.5", "trra, 0", "rate", 0.2),
    "all the strength goes further": ("trra, 1", "trra, 0.5", "rate", 0.02),
    "strength 1.5 goes beyond the aligned model": ("trra, 1.5", "trra, 1", "log_odds", 0.0),
    "strength 2 goes further still": ("trra, 2", "trra, 1.5", "log_odds", 0.0),
    **{
        f"over positions the target is missed, strength {s:g}": (f"position axis, {s:g}", f"trra, {s:g}", "kl", 0.03)
        for s in STRENGTHS
        if s
    },
    "over positions the rate falls short, strength 0.5": ("position axis, 0.5", "trra, 0.5", "rate_error", 0.1),
    "over positions the rate falls short, strength 1": ("position axis, 1", "trra, 1", "rate_error", 0.05),
    "over positions the rate falls short, strength 1.5": ("position axis, 1.5", "trra, 1.5", "rate_error", 0.04),
    "over positions the rate falls short, strength 2": ("position axis, 2", "trra, 2", "rate_error", 0.03),
}
"""claim -> (the row whose measure is larger, the one whose measure is smaller, the measure, by how much)"""

CONTROLS = {f"training helps, strength {s:g}": (f"untrained, {s:g}", f"trra, {s:g}", "kl", 0.1) for s in STRENGTHS if s}


@pytest.mark.claims
@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_claimed_of_trra(result, claim):
    toys.expect(result, claim, *CLAIMS[claim])


@pytest.mark.claims
@pytest.mark.parametrize("strength", STRENGTHS)
def test_the_student_becomes_the_fused_pair(result, strength):
    row = result.rows[f"trra, {strength:g}"]
    assert over_seeds(row["kl"]).high < 0.01, result.table()
    assert over_seeds(row["rate_error"]).high < 0.02, result.table()


@pytest.mark.claims
@pytest.mark.parametrize("control", CONTROLS)
def test_the_experiment_can_tell(result, control):
    assert result.shortfall(*CONTROLS[control]) is None, result.table()


@pytest.mark.claims
def test_the_aligned_model_is_at_the_ceiling_and_the_reference_is_not(result):
    assert result.mean("fused, 1", "rate") > 0.95
    assert 0.15 < result.mean("fused, 0", "rate") < 0.35


SMALL = replace(Settings(), vocab=8, embedding=4, width=8, pretraining=3, samples=32, alignment=3, steps=2, length=4)


def test_a_seed_fixes_every_number():
    one, other = (toys.run(EXPERIMENT, (5,), SMALL) for _ in range(2))
    assert one.rows == other.rows
    assert one.rows["untrained, 0"]["kl"] == [0.0]
    assert one.rows["trra, 0"]["kl"] == pytest.approx([0.0], abs=1e-4)  # Adam makes steps of rounding


def test_the_loss_over_positions_is_blind_to_what_all_positions_share():
    """A token that is likelier at every position alike changes no softmax over positions."""
    from trra_markov import position_axis

    models = [toys.ToyLM(6, 4, 8) for _ in range(3)]
    ids = torch.randint(6, (2, 7))
    before = position_axis(*models, 0.5, ids)
    with torch.no_grad():
        models[0].body[2].bias += torch.randn(6)
    torch.testing.assert_close(position_axis(*models, 0.5, ids), before)
