"""PSFT (arXiv:2508.17784) against SFT where forgetting can be measured exactly; see `psft_markov.py` for the set-up.

What is asserted stood here before the run on seeds 0 to 4. The sources and the model were chosen on seed 100 by
bringing SFT near the figures of an earlier run of this design (training loss, entropy and cost of A .81, 1.27 and 3.54
after 80 updates; .54, .62 and 7.47 after 640); a first trial there, with other sources, showed all methods once. In
that earlier run PSFT had .34 more entropy and .58 less cost of A after 80 updates, and 1.12 less after 640; a claim
asks for about a third of that. A claim of the paper that does not show is an expected failure that says so with its
numbers.
"""

from dataclasses import replace

import pytest
import toys
from psft_markov import EXPERIMENT, Settings

SEEDS = (0, 1, 2, 3, 4)

CLAIMS = {
    "psft keeps more entropy than sft after 80 updates": ("psft, 80", "sft, 80", "entropy", 0.1),
    "psft forgets less than sft after 80 updates": ("sft, 80", "psft, 80", "nll_a", 0.2),
    "psft keeps more entropy than sft after 640 updates": ("psft, 640", "sft, 640", "entropy", 0.0),
    "psft forgets less than sft after 640 updates": ("sft, 640", "psft, 640", "nll_a", 0.4),
    "without the clip more is forgotten": ("no clip, 80", "psft, 80", "nll_a", 0.0),
    "psft forgets less than sft at the same training loss": ("sft at psft's training loss", "psft, 80", "nll_a", 0.0),
}
"""claim -> (the row whose measure is larger, the one whose measure is smaller, the measure, by how much)"""

CONTROLS = {
    "training helps: sft": ("pre-trained", "sft, 80", "train_nll", 0.5),
    "training helps: psft": ("pre-trained", "psft, 80", "train_nll", 0.5),
    "fine-tuning forgets": ("sft, 80", "pre-trained", "nll_a", 0.2),
    "under SGD without a clip training diverges": ("no clip, SGD", "psft, SGD", "worse", 0.5),
    "the clip stops fewer tokens as training goes on": ("psft, 80", "psft, 640", "clipped", 0.0),
    "small disjoint batches clip little": ("psft, 80", "psft disjoint K=8, 80", "clipped", 0.1),
}


@pytest.mark.claims
@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_claimed_of_psft(result, claim):
    toys.expect(result, claim, *CLAIMS[claim])


@pytest.mark.claims
@pytest.mark.parametrize("control", CONTROLS)
def test_the_experiment_can_tell(result, control):
    assert result.shortfall(*CONTROLS[control]) is None, result.table()


@pytest.mark.claims
def test_with_small_disjoint_batches_psft_is_nearly_sft(result):
    difference = result.difference("psft disjoint K=8, 80", "sft disjoint, 80", "nll_a")
    assert max(abs(difference.low), abs(difference.high)) < 0.05, difference


SMALL = replace(Settings(), vocab=8, embedding=4, width=8, pretraining=3, samples=16, length=4, steps=4, heldout=8)


def test_a_seed_fixes_every_number():
    one, other = (toys.run(EXPERIMENT, (5,), SMALL) for _ in range(2))
    assert one.rows == other.rows
    assert one.as_dict()["experiment"] == "psft_markov"
    assert "| psft, 4 |" in one.table()
