"""CLM (arXiv:2503.04346) and InRa (arXiv:2506.12704): rate of good tokens against strength; see `dial.py`.

What is asserted stood here before the run on seeds 0 to 2. In an earlier run of InRa in this design the rates at
strength -1, -.5, 0, .5, 1, 1.5, 2 and 3 were .166, .199, .220, .246, .277, .296, .319 and .358; a step has to reach
about a third of the one seen there. Of CLM there was no earlier run, so its steps have to be larger than zero.
Settings were tried once, on seed 100, where InRa alone was looked at (.265 at strength 0, .316 at 1).
"""

from itertools import pairwise

import pytest
import torch
import toys

from dial import EXPERIMENT, STRENGTHS, Settings, random_order

SEEDS = (0, 1, 2)
INRA_STEPS = dict(zip(STRENGTHS[1:], (0.01, 0.007, 0.008, 0.01, 0.006, 0.007, 0.013)))


def step(name: str, low: float, high: float, measure: str, margin: float) -> tuple[str, tuple]:
    return f"{name}: {measure} from {low:g} to {high:g}", (f"{name}, {high:g}", f"{name}, {low:g}", measure, margin)


CLAIMS = dict(
    [step("inra", low, high, "rate", INRA_STEPS[high]) for low, high in pairwise(STRENGTHS)]
    + [step("clm", low, high, "rate", 0.0) for low, high in pairwise(STRENGTHS)]
    + [step("clm", low, high, "margin", 0.0) for low, high in pairwise(STRENGTHS)]
)
"""claim -> (the row whose measure is larger, the one whose measure is smaller, the measure, by how much)"""

CONTROLS = {
    "pairs in random order teach little": ("clm, 1", "clm, random pairs, 1", "rate", 0.0),
    "pairs in random order give little margin": ("clm, 1", "clm, random pairs, 1", "margin", 0.5),
}


@pytest.mark.claims
@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_claimed_of_the_dial(result, claim):
    toys.expect(result, claim, *CLAIMS[claim])


@pytest.mark.claims
@pytest.mark.parametrize("control", CONTROLS)
def test_the_experiment_can_tell(result, control):
    assert result.shortfall(*CONTROLS[control]) is None, result.table()


@pytest.mark.claims
@pytest.mark.parametrize("name", ["untrained", "inra", "clm", "clm, random pairs"])
def test_at_strength_0_text_and_logits_are_those_of_the_original_to_the_last_bit(result, name):
    row = result.rows[f"{name}, 0"]
    assert row["logits_changed"] == row["tokens_changed"] == [0.0] * len(SEEDS)
    assert row["rate"] == result.rows["original"]["rate"]


@pytest.mark.claims
@pytest.mark.parametrize("strength", STRENGTHS)
def test_before_training_the_dial_does_nothing(result, strength):
    assert result.rows[f"untrained, {strength:g}"]["rate"] == result.rows["original"]["rate"]
    assert result.rows[f"untrained, {strength:g}"]["margin"] == [0.0] * len(SEEDS)


SMALL = Settings(width=8, layers=1, pretraining=2, samples=64, sft_steps=2, dpo_steps=2, measured=16, length=4)


@pytest.mark.slow
def test_a_seed_fixes_every_number():
    one, other = (toys.run(EXPERIMENT, (5,), SMALL) for _ in range(2))
    assert one.rows == other.rows
    assert one.rows["clm, 0"]["logits_changed"] == [0.0]
    assert one.rows["clm, 1"] != one.rows["inra, 1"] != one.rows["untrained, 1"]


def test_pairs_in_random_order_are_the_same_pairs():
    pairs = torch.arange(80).view(20, 4)
    turned = random_order(pairs, torch.Generator().manual_seed(0))
    both, before = turned.view(10, 8).sort().values, pairs.view(10, 8)
    assert torch.equal(both, before)
    assert 0 < (turned[0::2] != pairs[0::2]).any(dim=1).sum() < 10
