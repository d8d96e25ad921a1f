"""Q-RM: its plan is the mean score under Bradley-Terry with the paper's constants, for each of its heads."""

import pytest
import torch
from pydantic import ValidationError

import tiny
from trimtab.core import Requirements, TokenBatch
from trimtab.methods.q_rm import METHOD, Config
from trimtab.objectives.reward_models import bradley_terry

ROWS = tiny.rows(((3, 5), (3, 2), (1, 1), (1, 7)))


@pytest.mark.parametrize("head", ["scalar", "logit", "logprob"])
def test_the_loss_compares_mean_scores_with_beta_and_margin_of_the_paper(head):
    logits = torch.randn(*ROWS.labels.shape, tiny.VOCAB)
    batch = TokenBatch.align(logits, ROWS.labels)
    if head == "scalar":
        batch = batch.with_signals(policy=torch.randn(15))
    plan = METHOD.build(Config(head=head), None)
    of = {
        "scalar": lambda: batch.signals["policy"],
        "logit": lambda: batch.logits().gather(1, batch.targets[:, None])[:, 0],
        "logprob": batch.logprobs,
    }[head]()
    means = torch.stack([part.mean() for part in of.split([5, 2, 1, 7])])
    wanted = bradley_terry(means[0::2], means[1::2], 0.2, 2.0).repeat_interleave(2)
    torch.testing.assert_close(plan.objective(batch).values, wanted)
    assert plan.reduction == "sequence_mean"
    assert not plan.signals


def test_it_requires_pairs_and_a_scalar_head_by_default():
    assert METHOD.requirements(Config()) == Requirements("pairs", "scalar_head")
    assert METHOD.requirements(Config(head="logit")) == Requirements("pairs", "scorer")


def test_a_likelihood_of_scores_that_have_none_is_refused():
    assert Config(head="logprob", nll=1.0).nll == 1
    with pytest.raises(ValidationError, match="only head logprob"):
        Config(nll=1.0)


@pytest.mark.parametrize("wrong", [{"beta": 0.0}, {"margin": -1.0}, {"head": "value"}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(ValidationError):
        Config(**wrong)
