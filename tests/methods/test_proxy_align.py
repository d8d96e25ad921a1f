"""The alignment of a proxy: its loss by hand, its start at log 2, its gradient, and pairs that do not count."""

import math

import pytest
import torch

from trimtab.core import IGNORE, Plan, PlanError, Reference, TokenBatch, count, reduce, weights
from trimtab.methods.proxy_align import METHOD, Align, Config
from trimtab.objectives.preference import DPO
from trimtab.signals.base import Given

LABELS = torch.tensor(
    [
        [IGNORE, IGNORE, 3, 5, 2],
        [IGNORE, IGNORE, 4, IGNORE, IGNORE],
        [IGNORE, 1, 6, IGNORE, IGNORE],
        [IGNORE, 1, 2, 3, 4],
    ]
)
CHOSEN = torch.tensor([True] * 3 + [False] + [True] * 2 + [False] * 4)


def batch(shift: torch.Tensor | None = None, labels=LABELS) -> tuple[torch.Tensor, TokenBatch]:
    """Two pairs; the reference's log-probability of each token lies `shift` below the policy's, or is the policy's."""
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 5, 7, dtype=torch.float64, generator=generator).requires_grad_()
    tokens = TokenBatch.align(logits, labels)
    return logits, tokens if shift is None else tokens.with_signals(snapshot=tokens.logprobs().detach() - shift)


def loss_of(objective, tokens: TokenBatch) -> torch.Tensor:
    return reduce(objective(tokens), weights(tokens, "preference_mean", per="preference"))


def test_it_is_the_mean_over_pairs_of_dpo_plus_the_mean_over_the_teacher_s_tokens_of_their_likelihood():
    shift = torch.tensor([0.1, 0.2, 0.3, 0.5, -1.0, 1.0, 0.4, 0.3, 0.2, 0.1])  # sums: 0.6 and 0.5, 0.0 and 1.0
    _, tokens = batch(shift)
    dpo = [math.log1p(math.exp(-2.0 * 0.1)), math.log1p(math.exp(2.0 * 1.0))]
    nll = -tokens.logprobs()[CHOSEN].mean().item()
    assert loss_of(Align(2.0, 0.7), tokens).item() == pytest.approx(sum(dpo) / 2 + 0.7 * nll, rel=1e-5)


def test_against_itself_the_preference_costs_log_2():
    _, tokens = batch()
    assert loss_of(Align(0.1, 0.0), tokens).item() == pytest.approx(math.log(2), rel=1e-6)


def test_without_the_likelihood_it_is_dpo_and_as_beta_vanishes_it_is_flat():
    shift = torch.linspace(-1, 1, 10)
    (logits, tokens), (other, alone) = batch(shift), batch(shift)
    loss_of(Align(0.5, 0.0), tokens).backward()
    alone = alone.with_signals(reference=alone.signals["snapshot"])
    reduce(DPO(0.5)(alone), weights(alone, "sequence_mean", per="sequence")).backward()
    torch.testing.assert_close(logits.grad, other.grad)
    flat, tokens = batch(shift)
    loss_of(Align(1e-9, 0.0), tokens).backward()
    assert flat.grad.abs().max() < 1e-8


def test_its_gradient_raises_the_teacher_s_tokens_and_lowers_the_sampled_ones():
    logits, tokens = batch()
    loss_of(Align(0.1, 0.0), tokens).backward()
    at_labels = logits.grad[:, :-1].gather(2, LABELS[:, 1:, None].clamp(min=0))[..., 0][LABELS[:, 1:] != IGNORE]
    assert (at_labels[CHOSEN] < 0).all()
    assert (at_labels[~CHOSEN] > 0).all()
    q = tokens.log_softmax().exp().gather(1, tokens.targets[:, None])[:, 0]
    wanted = 0.1 * 0.5 / 2 * (1 - q) * torch.where(CHOSEN, -1.0, 1.0)  # beta sigma(0) / P, at the label's logit
    torch.testing.assert_close(at_labels, wanted.double(), rtol=1e-5, atol=1e-8)


def test_a_pair_that_was_dropped_changes_nothing():
    dropped = LABELS.clone()
    dropped[2:] = IGNORE
    _, tokens = batch(torch.linspace(-1, 1, 4), dropped)
    _, whole = batch(torch.cat([torch.linspace(-1, 1, 4), torch.zeros(6)]))
    alone = TokenBatch.from_labels(
        LABELS[:2], {"policy": whole.logits()[:4], "snapshot": whole.signals["snapshot"][:4]}
    )
    assert loss_of(Align(), tokens).item() == pytest.approx(loss_of(Align(), alone).item(), rel=1e-6)
    assert Align()(tokens).metrics["margin"][1] == 1
    none = TokenBatch.from_labels(torch.full((2, 4), IGNORE), {"policy": torch.zeros(0, 7)})
    assert loss_of(Align(), none).item() == 0


def test_micro_batches_share_the_update_s_counts_of_pairs_and_of_the_teacher_s_tokens():
    shift = torch.linspace(-1, 1, 10)
    _, whole = batch(shift)
    total = sum(count(part, "preference_mean") for part in (LABELS[:2], LABELS[2:]))
    assert total.tolist() == [4, 5]
    parts = [
        TokenBatch.from_labels(labels, {"policy": whole.logits()[some], "snapshot": whole.signals["snapshot"][some]})
        for labels, some in ((LABELS[:2], slice(0, 4)), (LABELS[2:], slice(4, 10)))
    ]
    found = [reduce(Align()(one), weights(one, "preference_mean", total, "preference")) for one in parts]
    torch.testing.assert_close(sum(found), loss_of(Align(), whole))


def test_the_reference_is_the_round_s_beginning_or_the_initial_policy():
    previous, initial = (METHOD.build(Config(), None), Config(reference="initial"))
    assert previous.objective.needs == previous.signals[0].provides == {"snapshot"}
    assert METHOD.requirements(Config()).models == ()
    assert METHOD.requirements(initial).models == (Reference(),)
    made = METHOD.build(initial, None, reference=Given("reference"))
    assert made.objective.ratio == "reference"
    assert made.rejected is made.signals[0]
    assert made.signals[0](None, {}) == {}


def test_its_reduction_goes_with_it_alone():
    with pytest.raises(PlanError, match="preference_mean goes with an objective per preference"):
        Plan(Align(), signals=METHOD.build(Config(), None).signals, reduction="sequence_mean")
