"""DPO: the sigmoid loss of pairs by hand, its start at log 2, and its gradient at the logits."""

import math

import pytest
import torch
from pydantic import ValidationError

import tiny
from trimtab.core import IGNORE, Plan, PlanError, Reference, Requirements, TokenBatch, reduce, weights
from trimtab.methods.dpo import METHOD, Config
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.preference import DPO, dpo_loss
from trimtab.signals.frozen import FrozenModel

LABELS = torch.tensor(
    [
        [IGNORE, IGNORE, 3, 5, 2],
        [IGNORE, IGNORE, 4, IGNORE, IGNORE],
        [IGNORE, 1, 6, IGNORE, IGNORE],
        [IGNORE, 1, 2, 3, 4],
    ]
)
PAIRS = tiny.rows(((3, 5), (3, 2), (1, 1), (1, 7)))


def batch(reference_shift: torch.Tensor | float = 0.0) -> tuple[torch.Tensor, TokenBatch]:
    """Two pairs; the reference's log-probability of each token lies `reference_shift` below the policy's."""
    logits = torch.randn(4, 5, 7).requires_grad_()
    tokens = TokenBatch.align(logits, LABELS)
    return logits, tokens.with_signals(reference=tokens.logprobs().detach() - reference_shift)


def mean(objective, tokens: TokenBatch) -> torch.Tensor:
    return reduce(objective(tokens), weights(tokens, "sequence_mean", per="sequence"))


def test_the_loss_of_two_log_ratios_is_minus_log_sigmoid_of_beta_times_their_difference():
    chosen, rejected = torch.tensor([2.0, -1.0]), torch.tensor([-1.0, 1.0])
    wanted = torch.tensor([math.log1p(math.exp(-0.5 * 3)), math.log1p(math.exp(0.5 * 2))])
    torch.testing.assert_close(dpo_loss(chosen, rejected, 0.5), wanted)


def test_equal_ratios_cost_log_2_and_large_differences_stay_finite():
    ratios = torch.tensor([0.0, 3.0, -7.0])
    torch.testing.assert_close(dpo_loss(ratios, ratios, 0.1), torch.full((3,), math.log(2)))
    far = dpo_loss(torch.tensor([1e4, -1e4]), torch.zeros(2), 1.0)
    torch.testing.assert_close(far, torch.tensor([0.0, 1e4]))


def test_log_ratios_are_summed_over_each_answer_and_both_rows_of_a_pair_carry_its_loss():
    shift = torch.tensor([0.1, 0.2, 0.3, 0.5, -1.0, 1.0, 0.4, 0.3, 0.2, 0.1])  # 3 + 1 and 2 + 4 tokens
    _, tokens = batch(shift)
    first, second = dpo_loss(torch.tensor([0.6, 0.0]), torch.tensor([0.5, 1.0]), 2.0)
    found = DPO(2.0)(tokens).values
    torch.testing.assert_close(found, torch.stack([first, first, second, second]), rtol=1e-5, atol=1e-6)
    assert mean(DPO(2.0), tokens).item() == pytest.approx((first + second).item() / 2, rel=1e-5)


def test_the_gradient_at_the_logits_pulls_up_the_chosen_answer_and_pushes_down_the_rejected_one():
    shift = torch.tensor([0.1, 0.2, 0.3, 0.5, -1.0, 1.0, 0.4, 0.3, 0.2, 0.1])
    logits, tokens = batch(shift)
    mean(DPO(2.0), tokens).backward()
    doubt = torch.sigmoid(-2.0 * torch.tensor([0.6 - 0.5, 0.0 - 1.0]))  # of each pair
    sign = torch.tensor([1.0, -1.0, 1.0, -1.0])[tokens.row]
    direction = torch.eye(7)[tokens.targets] - tokens.logits().detach().softmax(-1)
    wanted = -2.0 * (doubt[tokens.row // 2] * sign)[:, None] * direction / 2
    torch.testing.assert_close(TokenBatch.align(logits.grad, LABELS).logits(), wanted, rtol=1e-4, atol=1e-7)


def test_exchanging_the_answers_turns_the_gradient_around_at_the_start():
    logits, tokens = batch()
    exchanged = TokenBatch.align(logits[[1, 0, 3, 2]], LABELS[[1, 0, 3, 2]])
    exchanged = exchanged.with_signals(reference=exchanged.logprobs().detach())
    (one,) = torch.autograd.grad(mean(DPO(0.1), tokens), logits, retain_graph=True)
    (other,) = torch.autograd.grad(mean(DPO(0.1), exchanged), logits)
    torch.testing.assert_close(one, -other)
    assert one.abs().max() > 0


def test_the_metrics_are_those_of_the_pairs():
    shift = torch.tensor([0.1, 0.2, 0.3, 0.5, -1.0, 1.0, 0.4, 0.3, 0.2, 0.1])
    _, tokens = batch(shift)
    metrics = DPO(2.0)(tokens).metrics
    found = {name: (total / number).item() for name, (total, number) in metrics.items()}
    assert found.pop("nll") == pytest.approx(-tokens.logprobs()[[0, 1, 2, 4, 5]].mean().item(), rel=1e-5)
    wanted = {
        "accuracy": 0.5,
        "margin": 2.0 * (0.1 - 1.0) / 2,
        "reward_chosen": 2.0 * (0.6 + 0.0) / 2,
        "reward_rejected": 2.0 * (0.5 + 1.0) / 2,
    }
    assert found == pytest.approx(wanted, abs=1e-5)


def test_it_starts_at_log_2_when_the_reference_is_a_copy_of_the_policy():
    policy = tiny.model("llama_tied")
    add_objective_forward(policy)
    plan = METHOD.build(Config(), policy, reference=FrozenModel(tiny.model("llama_tied"), name="reference"))
    (signal,) = plan.signals
    call = tiny.call(plan.objective, PAIRS, signal(policy, PAIRS.inputs()), reduction=plan.reduction)
    output = policy(input_ids=PAIRS.input_ids, attention_mask=PAIRS.attention_mask, objective_call=call)
    assert output.loss.item() == pytest.approx(math.log(2), abs=1e-6)
    assert output.metrics["margin"][0].item() == pytest.approx(0, abs=1e-5)
    assert output.metrics["accuracy"][1] == 2


@pytest.mark.parametrize(
    "labels", [LABELS[:3], torch.cat([LABELS[:3], torch.full((1, 5), IGNORE)])], ids=["odd", "empty answer"]
)
def test_what_are_no_pairs_is_refused(labels):
    tokens = TokenBatch.align(torch.randn(len(labels), 5, 7), labels)
    with pytest.raises(ValueError, match="needs pairs"):
        DPO(0.1)(tokens.with_signals(reference=tokens.logprobs()))


def test_the_plan_asks_for_pairs_and_for_labels_alone_of_the_model_it_started_from():
    reference = FrozenModel(tiny.model("llama_tied"), name="reference", reads="answers")
    plan = METHOD.build(Config(), None, reference=reference)
    assert plan.objective.beta == 0.1
    assert plan.reduction == "sequence_mean"
    assert reference(None, PAIRS.inputs())["reference"].shape == (15,)
    assert METHOD.requirements(Config()) == Requirements("pairs", models=(Reference(),))


def test_a_plan_without_a_reference_or_with_a_mean_over_tokens_is_refused():
    with pytest.raises(PlanError, match="DPO needs the signal reference"):
        Plan(DPO(0.1), reduction="sequence_mean")
    with pytest.raises(PlanError, match="no mean over tokens"):
        Plan(DPO(0.1), (FrozenModel(tiny.model(), name="reference"),))


@pytest.mark.parametrize("beta", [0.0, -0.1])
def test_a_beta_that_is_not_positive_is_refused(beta):
    with pytest.raises(ValidationError, match="beta"):
        Config(beta=beta)
