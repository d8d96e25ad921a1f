"""WSPO (arXiv:2410.18640) from a weak Markov model to a strong one; see `wspo_markov.py` for the set-up.

What is asserted stood here before the first run. In an earlier run of this design the weak model was aligned to a rate
of good tokens of .86, and gamma 2, 1, .5, .25 and .1 gave .73, .87, .95, .99 and 1.00 at the level of tokens and .87,
.88, .85, .84 and .55 at that of answers. A step has to reach about a third of the one seen there. How long the weak
model is aligned was chosen on seeds 100 and 101 by its rate alone.
"""

from dataclasses import replace
from itertools import pairwise

import pytest
import toys
from intervals import over_seeds
from wspo_markov import EXPERIMENT, GAMMAS, Settings

SEEDS = (0, 1, 2, 3, 4)
STEPS = dict(zip(GAMMAS[1:], (0.04, 0.02, 0.01, 0.0)))

CLAIMS = {
    **{
        f"the rate rises from gamma {larger:g} to {smaller:g}": (
            f"token, {smaller:g}",
            f"token, {larger:g}",
            "rate",
            STEPS[smaller],
        )
        for larger, smaller in pairwise(GAMMAS)
    },
    **{
        f"the policy moves further from gamma {larger:g} to {smaller:g}": (
            f"token, {smaller:g}",
            f"token, {larger:g}",
            "kl",
            0.0,
        )
        for larger, smaller in pairwise(GAMMAS)
    },
    "gamma .1 goes beyond the weak model": ("token, 0.1", "weak, aligned", "rate", 0.05),
    "at the level of answers a small gamma breaks": ("token, 0.1", "sequence_mean, 0.1", "rate", 0.1),
    "at the level of answers the rate is not monotone": ("sequence_mean, 1", "sequence_mean, 0.1", "rate", 0.0),
}
"""claim -> (the row whose measure is larger, the one whose measure is smaller, the measure, by how much)"""

CONTROLS = {
    "training helps": ("token, 1", "untrained", "rate", 0.3),
    "the weak pair exchanged teaches the opposite": ("untrained", "weak pair exchanged, 0.5", "rate", 0.1),
    "a weak pair of one model teaches nothing": ("token, 0.5", "weak pair of one model, 0.5", "rate", 0.3),
}


@pytest.mark.claims
@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_claimed_of_wspo(result, claim):
    toys.expect(result, claim, *CLAIMS[claim])


@pytest.mark.claims
def test_with_gamma_1_the_strong_model_reaches_the_rate_of_the_weak_one(result):
    error = over_seeds(result.rows["token, 1"]["rate_error"])
    if error.high >= 0.03:
        pytest.xfail(f"did not reproduce: within .03 of the weak model at gamma 1 ({error})")


@pytest.mark.claims
@pytest.mark.parametrize("control", CONTROLS)
def test_the_experiment_can_tell(result, control):
    assert result.shortfall(*CONTROLS[control]) is None, result.table()


@pytest.mark.claims
def test_a_weak_pair_of_one_model_leaves_the_policy_where_it_is(result):
    difference = result.difference("weak pair of one model, 0.5", "untrained", "rate")
    assert max(abs(difference.low), abs(difference.high)) < 0.02, difference


SMALL = replace(Settings(), vocab=8, weak_width=4, strong_width=8, pretraining=3, samples=32, alignment=3, steps=2)


def test_a_seed_fixes_every_number():
    one, other = (toys.run(EXPERIMENT, (5,), SMALL) for _ in range(2))
    assert one.rows == other.rows
    assert one.rows["weak pair of one model, 0.5"]["kl"] == pytest.approx([0.0], abs=1e-4)
    assert one.rows["untrained"]["kl"] == pytest.approx([0.0], abs=1e-6)
