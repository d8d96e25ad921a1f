"""LCO (arXiv:2603.00963) is convex where nothing is lumped; see `lco_convexity.py` for the set-up.

What was asked, before the run: is the default convex (it is not), and is a target that keeps the tokens outside the
candidates nearer to one over all tokens than one that removes them (it is)?
"""

import pytest
from lco_convexity import EXPERIMENT  # noqa: F401

SEEDS = (0, 1)
KINDS = ("sparse, +1", "sparse, -1", "dense")


@pytest.mark.claims
@pytest.mark.parametrize("kind", KINDS)
def test_with_a_lump_the_loss_is_not_convex_and_without_one_it_is(result, kind):
    assert result.mean(f"{kind}, 5 candidates", "violation") > 0.5
    assert result.mean(f"{kind}, 5 candidates, others removed", "violation") < 1e-3
    assert result.mean(f"{kind}, all tokens", "violation") < 1e-3


@pytest.mark.claims
@pytest.mark.parametrize("loss", ["mse", "logcosh"])
def test_losses_of_raw_logits_are_convex(result, loss):
    assert result.mean(loss, "violation") < 1e-3


@pytest.mark.claims
@pytest.mark.parametrize("kind", KINDS)
def test_to_keep_the_others_is_nearer_to_all_tokens_and_at_rest_without_advantages(result, kind):
    kept, removed = f"{kind}, 5 candidates", f"{kind}, 5 candidates, others removed"
    for measure in ("away", "away, moved"):
        assert result.mean(kept, measure) < 0.6 * result.mean(removed, measure)
    assert result.mean(kept, "idle") < 1e-5
    assert result.mean(removed, "idle") > 0.5
