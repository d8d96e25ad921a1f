"""Q-RM (arXiv:2505.23363) and IPVRM (arXiv:2604.13197) on strings; see `credit_toys.py` for the set-up.

What is asserted stood here before the run on seeds 0 to 2. The learning rate and the number of steps on pairs were
chosen on seeds 100 and 101 by the token AUC of q_rm alone (.84 and .95 then; it still rose). On seed 100 the implicit
PRM with beta .5 came closer to the true values than ipvrm, and nothing was changed for that.
"""

from dataclasses import replace

import pytest
import toys
from credit_toys import EXPERIMENT, Settings
from intervals import over_seeds

SEEDS = (0, 1, 2)
CLAIMS = {
    "q_rm blames the token, the last-token score does not": ("q_rm, plain", "orm, plain", "token_auc", 0.0),
    "what is said after an error is nearer to 0 than the implicit PRM's": (
        "implicit prm, .05", "ipvrm", "after_error", 0.05,
    ),
    "and than the implicit PRM's with a larger beta": ("implicit prm, .5", "ipvrm", "after_error", 0.01),
    "prefix values are better than the implicit PRM's": ("implicit prm, .05", "ipvrm", "brier", 0.0),
    "and than the implicit PRM's with a larger beta, too": ("implicit prm, .5", "ipvrm", "brier", 0.0),
}  # fmt: skip
"""claim -> (the row whose measure is larger, the one whose measure is smaller, the measure, by how much)"""

CONTROLS = {
    "pairs are learnt": ("q_rm, plain", "untrained, plain", "accuracy", 0.3),
    "outcomes are learnt": ("untrained, outcomes", "ipvrm", "end_brier", 0.1),
}


@pytest.mark.claims
@pytest.mark.parametrize("claim", CLAIMS)
def test_what_is_claimed_of_scores_for_tokens(result, claim):
    toys.expect(result, claim, *CLAIMS[claim])


@pytest.mark.claims
@pytest.mark.parametrize(("measure", "least"), [("accuracy", 0.95), ("token_auc", 0.85)])
def test_q_rm_reaches_the_figures_of_its_experiment(result, measure, least):
    found = over_seeds(result.rows["q_rm, plain"][measure])
    if found.estimate < least:
        pytest.xfail(f"did not reproduce: {measure} of q_rm is {found}, to reach {least}")


@pytest.mark.claims
@pytest.mark.parametrize("control", CONTROLS)
def test_the_experiment_can_tell(result, control):
    assert result.shortfall(*CONTROLS[control]) is None, result.table()


SMALL = replace(Settings(), width=8, length=4, pairs=16, heldout=16, fit_steps=2, pair_steps=2, steps=2, batch=8)


def test_a_seed_fixes_every_number():
    one, other = (toys.run(EXPERIMENT, (5,), SMALL) for _ in range(2))
    assert one.rows == other.rows
    assert one.rows["untrained, outcomes"]["after_error"] == pytest.approx([0.5])
