"""Scores of tokens, their links to preferences and outcomes: by hand, by limits and by identities."""

from functools import partial
from math import exp, log

import pytest
import torch

import tiny
from trimtab.core import TokenBatch, reduce, weights
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.reward_models import (
    Outcomes,
    Pairs,
    StepRatings,
    adaptive_margin,
    bradley_terry,
    difficulty_weights,
    focal_bradley_terry,
    focal_logistic,
    gather,
    logistic,
    online_prefix_loss,
    prefix_weights,
    token_scores,
)

LOG2 = log(2)


def sigma(x: float) -> float:
    return 1 / (1 + exp(-x))


def answers(*lengths: int, **signals: torch.Tensor) -> TokenBatch:
    """Answers of so many tokens, with signals [N]."""
    width = max(lengths) + 1
    labels = torch.full((len(lengths), width), -100)
    for i, length in enumerate(lengths):
        labels[i, 1 : 1 + length] = 3
    return TokenBatch.from_labels(labels, signals)


def scored(lengths: tuple[int, ...], scores: list[float], **signals: list[float]) -> tuple[TokenBatch, torch.Tensor]:
    leaf = torch.tensor(scores, requires_grad=True)
    return answers(*lengths, policy=leaf, **{k: torch.tensor(v) for k, v in signals.items()}), leaf


# ---------------------------------------------------------------- gathering


def test_a_prefix_sum_starts_anew_with_each_answer():
    batch = answers(3, 0, 2)
    found = batch.prefix_sum(torch.tensor([1.0, 2.0, 4.0, 10.0, 20.0]))
    assert found.tolist() == [1, 3, 7, 10, 30]


def test_a_value_that_is_not_finite_stays_in_its_answer():
    found = answers(2, 2).prefix_sum(torch.tensor([1.0, float("nan"), 5.0, 6.0]))
    assert found[2:].tolist() == [5, 11]


def test_scores_are_gathered_as_the_last_one_their_sum_their_mean_or_the_mean_so_far():
    batch, scores = answers(3, 0, 1), torch.tensor([1.0, 2.0, 6.0, 5.0])
    assert gather(batch, scores, "last").tolist() == [6, 0, 5]
    assert gather(batch, scores, "sum").tolist() == [9, 0, 5]
    assert gather(batch, scores, "mean").tolist() == [3, 0, 5]
    assert gather(batch, scores, "prefix_mean").tolist() == [1, 1.5, 3, 5]


def test_sources_read_the_logit_the_log_probability_and_the_ratio_of_the_label():
    rows = tiny.rows(((2, 3), (1, 2)))
    logits, reference = torch.randn(2, *rows.labels.shape, tiny.VOCAB)
    batch = TokenBatch.align(logits, rows.labels, {"reference": reference})
    at = (rows.labels[:, 1:] != -100).nonzero()
    for i, (b, t) in enumerate(at.tolist()):
        label = rows.labels[b, t + 1]
        own, other = logits[b, t].log_softmax(-1)[label], reference[b, t].log_softmax(-1)[label]
        assert token_scores(batch, "logit")[i].item() == pytest.approx(logits[b, t, label].item())
        assert token_scores(batch, "logprob")[i].item() == pytest.approx(own.item(), rel=1e-5)
        assert token_scores(batch, "ratio")[i].item() == pytest.approx((own - other).item(), rel=1e-4)


# ---------------------------------------------------------------- links to a preference


def test_bradley_terry_by_hand_and_its_margin_is_not_multiplied_by_beta():
    loss = bradley_terry(torch.tensor([12.0]), torch.tensor([2.0]), beta=0.2, margin=2.0)
    assert loss.item() == pytest.approx(LOG2)  # .2 * 10 - 2 = 0
    assert bradley_terry(torch.tensor([3.0]), torch.tensor([3.0])).item() == pytest.approx(LOG2)
    steep = bradley_terry(torch.tensor([1.0]), torch.tensor([3.0]), beta=0.5, margin=1.0)
    assert steep.item() == pytest.approx(-log(sigma(-2)))


def test_the_focal_link_weighs_a_correctly_ranked_pair_less():
    wrong = focal_bradley_terry(torch.tensor([0.0]), torch.tensor([1.0]))
    assert wrong.item() == pytest.approx(-log(sigma(-1)))  # below 1/2 the weight is 1
    right = focal_bradley_terry(torch.tensor([1.0]), torch.tensor([0.0]))
    assert right.item() == pytest.approx(-((1 - 2 * (sigma(1) - 0.5)) ** 2) * log(sigma(1)))


def test_the_focal_links_penalty_by_hand():
    plain = focal_bradley_terry(torch.tensor([4.0]), torch.tensor([-7.0]))
    with_penalty = focal_bradley_terry(torch.tensor([4.0]), torch.tensor([-7.0]), penalty=0.02)
    outside = [-(log(sigma(s + 5)) + log(sigma(5 - s))) for s in (4, -7)]
    assert (with_penalty - plain).item() == pytest.approx(0.02 * sum(outside) / 2, rel=1e-4)


# ---------------------------------------------------------------- links to an outcome


def test_the_logistic_link_by_hand():
    value, right, wrong = torch.tensor([7.0]), torch.tensor([1.0]), torch.tensor([0.0])
    assert logistic(value, right, 5.0).item() == pytest.approx(-log(sigma(2)))
    assert logistic(value, wrong, 5.0).item() == pytest.approx(-log(sigma(-12)), rel=1e-6)
    assert logistic(torch.zeros(1), right).item() == pytest.approx(LOG2)
    for outcome in (right, wrong):
        assert logistic(torch.zeros(1), outcome, 5.0).item() == pytest.approx(log(1 + exp(5)))


def test_the_focal_logistic_link_by_hand():
    found = focal_logistic(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.0]))
    assert found.tolist() == pytest.approx(
        [(1 - sigma(1)) ** 2 * -log(sigma(1)), sigma(1) ** 2 * -log(sigma(-1))], rel=1e-5
    )


# ---------------------------------------------------------------- Pairs


def q_rm(**changes) -> Pairs:
    return Pairs("scalar", "mean", partial(bradley_terry, **{"beta": 0.2, "margin": 2.0, **changes}))


def test_the_loss_of_a_pair_by_hand_and_the_gradient_is_the_same_at_each_token_of_an_answer():
    batch, scores = scored((3, 2), [4.0, -1.0, 3.0, 1.0, 5.0])  # means 2 and 3
    losses = q_rm()(batch)
    z = 0.2 * (2 - 3) - 2
    assert losses.values.tolist() == pytest.approx([-log(sigma(z))] * 2)
    reduce(losses, weights(batch, "sequence_mean", per="sequence")).backward()
    pull = 0.2 * (1 - sigma(z))
    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-pull / 3] * 3 + [pull / 2] * 2)


def test_the_pair_loss_ignores_a_constant_and_the_order_of_tokens():
    once = q_rm()(scored((3, 2), [4.0, -1.0, 3.0, 1.0, 5.0])[0]).values
    moved = q_rm()(scored((3, 2), [14.0, 9.0, 13.0, 11.0, 15.0])[0]).values
    mixed = q_rm()(scored((3, 2), [3.0, 4.0, -1.0, 5.0, 1.0])[0]).values
    torch.testing.assert_close(moved, once)
    torch.testing.assert_close(mixed, once)


def test_for_answers_of_one_token_the_mean_is_the_last_token():
    batch, _ = scored((1, 1), [0.3, 0.9])
    last = Pairs("scalar", "last", bradley_terry)(batch).values
    torch.testing.assert_close(q_rm(beta=1.0, margin=0.0)(batch).values, last)
    assert last[0].item() == pytest.approx(-log(sigma(-0.6)))


def test_last_reads_no_other_token():
    batch, scores = scored((3, 2), [4.0, -1.0, 3.0, 1.0, 5.0])
    Pairs("scalar", "last", bradley_terry)(batch).values.sum().backward()
    assert scores.grad is not None
    assert (scores.grad != 0).tolist() == [False, False, True, False, True]


def test_pgtg_squashes_scores_and_multiplies_their_mean_by_the_pairs_mean_length():
    batch, _ = scored((2, 4), [0.0, 2.0, 1.0, 1.0, -1.0, -1.0])
    chosen = 3 * (0.5 + sigma(2)) / 2
    rejected = 3 * (2 * sigma(1) + 2 * sigma(-1)) / 4
    loss = Pairs("scalar", "mean", bradley_terry, squash=True)(batch).values[0]
    assert loss.item() == pytest.approx(-log(sigma(chosen - rejected)), rel=1e-6)


def test_simpo_with_the_likelihood_of_the_chosen_answer():
    batch, _ = scored((2, 1), [-1.0, -3.0, -2.5])
    objective = Pairs("logprob", "mean", partial(bradley_terry, beta=0.2, margin=2.0), nll=1.0)
    assert objective(batch).values[0].item() == pytest.approx(-log(sigma(0.2 * 0.5 - 2)) + 2.0)
    assert objective(batch).metrics["nll"][0].item() == 4
    with pytest.raises(ValueError, match="needs log-probabilities"):
        Pairs("scalar", "mean", bradley_terry, nll=1.0)


def test_a_tie_counts_half():
    batch, _ = scored((1, 1, 1, 1, 1, 1), [1.0, 0.0, 2.0, 2.0, 0.0, 1.0])
    total, number = q_rm()(batch).metrics["accuracy"]
    assert (total.item(), number.item()) == (1.5, 3)


@pytest.mark.parametrize("lengths", [(2, 0), (2, 1, 1)])
def test_an_empty_answer_and_half_a_pair_are_refused(lengths):
    batch = answers(*lengths, policy=torch.zeros(sum(lengths)))
    with pytest.raises(ValueError, match="neither of them empty"):
        q_rm()(batch)


# ---------------------------------------------------------------- Outcomes


def ipvrm(margin: float = 5.0, **changes) -> Outcomes:
    return Outcomes("ratio", "prefix_mean", partial(logistic, margin=margin), **{"beta": 10.0, **changes})


def ratios(lengths, values, outcome, reference=None):
    return scored(lengths, values, reference=reference or [0.0] * len(values), outcome=outcome)


def test_the_prefix_loss_by_hand():
    batch, _ = ratios((2, 1), [0.3, 0.7, -0.2], [1.0, 1.0, 0.0])
    found = ipvrm()(batch).values.tolist()
    assert found == pytest.approx([-log(sigma(3 - 5)), -log(sigma(5 - 5)), -log(sigma(-(-2 + 5)))], rel=1e-5)


@pytest.mark.parametrize("margin", [0.0, 5.0])
def test_where_the_model_is_its_reference_each_token_costs_softplus_of_the_margin(margin):
    batch, _ = ratios((3, 2), [-1.0, -2.0, -0.5, -3.0, -1.0], [1.0] * 3 + [0.0] * 2, [-1.0, -2.0, -0.5, -3.0, -1.0])
    assert ipvrm(margin)(batch).values.tolist() == pytest.approx([log(1 + exp(margin))] * 5)


def test_a_score_with_the_other_sign_and_the_other_outcome_costs_the_same():
    one, _ = ratios((3,), [0.3, -0.7, 0.2], [1.0] * 3)
    other, _ = ratios((3,), [-0.3, 0.7, -0.2], [0.0] * 3)
    torch.testing.assert_close(ipvrm()(one).values, ipvrm()(other).values)


def test_the_loss_at_a_token_pulls_its_prefix_alone_and_each_token_of_it_alike():
    batch, scores = ratios((3, 1), [0.1, 0.2, 0.3, 0.4], [1.0] * 4)
    ipvrm()(batch).values[1].backward()
    assert scores.grad is not None
    pull = -10 / 2 * (1 - sigma(10 * 0.15 - 5))
    assert scores.grad.tolist() == pytest.approx([pull, pull, 0, 0], rel=1e-5)


def test_for_answers_of_one_token_the_prefix_loss_is_that_of_the_implicit_prm():
    batch, _ = ratios((1, 1), [0.3, -0.4], [1.0, 0.0])
    implicit = Outcomes("ratio", "sum", logistic, beta=10.0)
    torch.testing.assert_close(ipvrm(0.0)(batch).values, implicit(batch).values)


def test_the_implicit_prm_judges_the_sum():
    batch, _ = ratios((3,), [1.0, 2.0, -0.5], [1.0] * 3)
    found = Outcomes("ratio", "sum", logistic, beta=0.05)(batch).values
    assert found.tolist() == pytest.approx([-log(sigma(0.125))])


def test_late_and_early_weights_have_mean_one_and_grow_and_fall():
    batch = answers(4, 1, 3)
    late, early = prefix_weights(batch, "late"), prefix_weights(batch, "early")
    assert late.tolist() == pytest.approx([0.4, 0.8, 1.2, 1.6, 1, 0.5, 1, 1.5])
    assert early.tolist() == pytest.approx([2, 4 / 3, 2 / 3, 0, 1, 2, 1, 0])
    base, _ = ratios((3,), [0.3, -0.7, 0.2], [1.0] * 3)
    torch.testing.assert_close(
        ipvrm(weighting="late")(base).values, ipvrm()(base).values * torch.tensor([0.5, 1.0, 1.5])
    )


def test_what_is_judged_of_a_whole_answer():
    batch, _ = ratios((2, 1), [0.3, 0.7, 0.2], [1.0, 1.0, 0.0])
    objective = ipvrm()
    found = objective.evaluate(batch, token_scores(batch, "ratio"))
    assert found["value"].tolist() == pytest.approx([5, 2])
    assert found["accuracy"].tolist() == [1, 0]
    assert found["brier"].tolist() == pytest.approx([(sigma(5) - 1) ** 2, sigma(2) ** 2], rel=1e-4)
    losses = objective(batch).values.tolist()
    assert found["objective"].tolist() == pytest.approx([(losses[0] + losses[1]) / 2, losses[2]])
    metrics = objective(batch).metrics
    assert metrics["value_correct"][0].item() == pytest.approx(5)
    assert metrics["value_incorrect"][0].item() == pytest.approx(2)


# ---------------------------------------------------------------- StepRatings


def test_steps_are_rated_at_their_last_token_and_count_alike_within_an_answer():
    nan = float("nan")
    batch, scores = scored((3, 2), [9.0, 0.5, -1.0, 7.0, 2.0], rating=[nan, 1.0, -1.0, nan, 1.0])
    objective = StepRatings("scalar")
    squares = [(torch.tensor(x).tanh().item() - y) ** 2 for x, y in ((0.5, 1), (-1.0, -1), (2.0, 1))]
    losses = objective(batch)
    assert losses.values.tolist() == pytest.approx([(squares[0] + squares[1]) / 2, squares[2]])
    losses.values.sum().backward()
    assert scores.grad is not None
    assert (scores.grad != 0).tolist() == [False, True, True, False, True]


# ---------------------------------------------------------------- on line


def test_the_adaptive_margin_by_hand():
    outcome, share = torch.tensor([1.0, 0.0, 1.0, 0.0]), torch.tensor([0.5, 0.5, 0.9, 0.9])
    found = adaptive_margin(outcome, share, 5.0)
    assert found.tolist() == pytest.approx([5, 5, 5 - log(9), 5 + log(9)], rel=1e-5)


def test_groups_of_one_outcome_keep_the_margin_and_weigh_nothing():
    outcome, share = torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])
    assert adaptive_margin(outcome, share, 5.0).tolist() == [5, 5]
    assert difficulty_weights(outcome, share).tolist() == [0, 0]


@pytest.mark.parametrize("right", [1, 2, 3])
def test_difficulty_weights_have_mean_one_over_a_mixed_group(right):
    outcome = torch.tensor([1.0] * right + [0.0] * (4 - right))
    found = difficulty_weights(outcome, torch.full((4,), right / 4))
    assert found.mean().item() == pytest.approx(1)
    assert found[0].item() == pytest.approx(1 / (2 * right / 4))


def test_the_online_loss_is_the_offline_one_where_margins_are_alike():
    batch, scores = ratios((2, 1), [0.3, 0.7, -0.2], [1.0, 1.0, 0.0])
    found = online_prefix_loss(batch, scores, torch.tensor([1.0, 0.0]), torch.full((2,), 5.0), 10.0)
    torch.testing.assert_close(found, ipvrm()(batch).values)


# ---------------------------------------------------------------- in the engine


OBJECTIVES = {
    "ratio, prefix": ipvrm(),
    "ratio, sum": Outcomes("ratio", "sum", logistic, beta=0.05),
    "logprob, pairs": Pairs("logprob", "mean", partial(bradley_terry, beta=0.2, margin=2.0), nll=1.0),
    "logit, pairs": Pairs("logit", "mean", partial(bradley_terry, beta=0.2, margin=2.0)),
    "logit, last": Outcomes("logit", "last", focal_logistic),
}


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_engine_gives_the_value_and_the_gradient_of_plain_logits(name):
    objective = OBJECTIVES[name]
    rows = tiny.rows(((3, 5), (3, 2), (1, 1), (1, 7)))
    reference = torch.randn(15)
    outcome = torch.tensor([1.0] * 5 + [0.0] * 3 + [1.0] * 7)
    signals = {"reference": reference, "outcome": outcome}
    signals = {key: value for key, value in signals.items() if key in objective.needs}
    how = "token_mean" if objective.per == "prefix" else "sequence_mean"

    plain, fused = tiny.model("gemma2"), tiny.model("gemma2")  # its head has a soft-cap and is tied
    logits = plain(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    batch = TokenBatch.align(logits, rows.labels).with_signals(**signals)
    wanted = objective(batch)
    loss = reduce(wanted, weights(batch, how, per=objective.per))
    loss.backward()

    add_objective_forward(fused)
    output = fused(
        input_ids=rows.input_ids,
        attention_mask=rows.attention_mask,
        objective_call=tiny.call(objective, rows, signals, reduction=how),
    )
    output.loss.backward()
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-5)
    torch.testing.assert_close(output.unreduced, wanted.values.detach(), rtol=1e-4, atol=1e-5)
    assert tiny.relative_error(tiny.gradients(fused), tiny.gradients(plain)) < 1e-5
