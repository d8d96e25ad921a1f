"""DistRL: values of candidates, the normalisations behind an advantage, and the loss over what candidates cover."""

import math
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import nn

import tiny
from tiny_rollouts import Reader, rollouts
from trimtab.core import Candidates, Head, PlanError, Reference, RewardModel, TokenBatch, fused_loss, reduce, weights
from trimtab.methods.distrl import METHOD, Config, DistRL, TokenValues, candidate_mask, candidates_kl, online
from trimtab.objectives.policy_gradient import PolicyGradient, clipped_surrogate
from trimtab.signals.reward_model import ScoreSpec, TokenRewardModel

LENGTHS, REWARDS, GROUP = (3, 2, 1, 2), [1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1]
N, V, K = 8, 11, 4
LAST = torch.tensor([0, 0, 1, 0, 1, 1, 0, 1]).bool()
LABELS = torch.full((4, 5), -100)
for _i, _length in enumerate(LENGTHS):
    LABELS[_i, 1 : 1 + _length] = torch.arange(3, 3 + _length)


def held(seed: int = 0, k: int = K, sharpness: float = 2.0) -> tuple[torch.Tensor, Candidates]:
    """Logits of the policy at the answer tokens, and candidates with the answer token first."""
    generator = torch.Generator().manual_seed(seed)
    logits = sharpness * torch.randn(N, V, generator=generator)
    targets = TokenBatch.from_labels(LABELS).targets
    others = torch.stack([torch.tensor([v for v in range(V) if v != t]) for t in targets.tolist()])
    ids = torch.cat([targets[:, None], others[:, : k - 1]], dim=1)
    return logits, Candidates(ids, logits.log_softmax(-1).gather(1, ids))


def advantages_of(scores=None, candidates=None, **settings):
    candidates = held()[1] if candidates is None else candidates
    scores = candidates.logprobs + torch.randn(N, K) if scores is None else scores
    config = Config(**{"num_candidates": K, **settings})
    return TokenValues(config)(rollouts(LENGTHS, REWARDS, GROUP, candidates, reward_model=scores))


# ---------------------------------------------------------------- which candidates take part


def test_candidates_below_the_least_probability_stay_out_but_the_drawn_token_never_does():
    logprobs = torch.tensor([[0.05, 0.5, 0.1, 0.2], [0.6, 0.3, 0.05, 0.05]]).log()
    mask = candidate_mask(Candidates(torch.zeros(2, 4), logprobs), torch.zeros(2).bool(), 0.1 + 1e-6)
    assert mask.tolist() == [[True, True, False, True], [True, True, False, False]]
    alone = candidate_mask(Candidates(torch.zeros(2, 4), logprobs), torch.zeros(2).bool(), 1.0)
    assert alone.tolist() == [[True, False, False, False]] * 2


def test_at_an_answers_end_there_are_none():
    assert advantages_of()["candidates"].mask[LAST].any().item() is False
    assert advantages_of()["candidates"].mask[~LAST, 0].all()


def test_the_nucleus_is_taken_by_probability_and_keeps_the_likeliest():
    logprobs = torch.tensor([[0.05, 0.5, 0.15, 0.25], [0.02, 0.9, 0.05, 0.03]]).log()
    mask = candidate_mask(Candidates(torch.zeros(2, 4), logprobs), torch.zeros(2).bool(), 0.0, top_p=0.8)
    assert mask.tolist() == [[True, True, False, True], [True, True, False, False]]


# ---------------------------------------------------------------- advantages


def test_the_reward_models_differences_over_the_spread_of_prefix_values_are_the_candidates_advantages():
    _, candidates = held()
    scores = candidates.logprobs + torch.randn(N, K)
    values = 10 * (scores - candidates.logprobs)
    values[LAST] = 0
    prefix = torch.cat([part.cumsum(0) for part in values[:, 0].split(LENGTHS)])
    found = advantages_of(scores)["candidates"]
    torch.testing.assert_close(found.advantages, values / prefix.std(correction=0))
    assert found.advantages[LAST].eq(0).all()
    assert torch.equal(found.ids, candidates.ids)
    assert torch.equal(found.logprobs, candidates.logprobs)


def test_the_drawn_tokens_advantage_by_hand():
    _, candidates = held()
    scores = candidates.logprobs + torch.randn(N, K)
    values = 10 * (scores - candidates.logprobs)[:, 0]
    values[LAST] = 0
    prefix = torch.cat([part.cumsum(0) for part in values.split(LENGTHS)])
    difference = (values - values.mean()) / prefix.std(correction=0)
    after = torch.cat([part.flip(0).cumsum(0).flip(0) for part in difference.split(LENGTHS)])
    gae = (after - after.mean()) / (after.var() + 1e-8).sqrt()
    outcome = torch.tensor([1.0, 1, 1, -1, -1, 0, 0, 0])  # (1 - 1/2) / (1/2), and a group of equal rewards
    torch.testing.assert_close(advantages_of(scores)["advantages"], outcome + 0.05 * gae)
    torch.testing.assert_close(advantages_of(scores, outcome_coef=0.0, gae_coef=1.0)["advantages"], gae)


def test_by_prompt_group_the_differences_are_normalised_within_it_and_candidates_as_before():
    _, candidates = held()
    scores = candidates.logprobs + torch.randn(N, K)
    values = 10 * (scores - candidates.logprobs)[:, 0]
    values[LAST] = 0
    parts = []
    for part, lengths in ((values[:5], (3, 2)), (values[5:], (1, 2))):
        prefix = torch.cat([answer.cumsum(0) for answer in part.split(lengths)])
        parts.append((part - part.mean()) / prefix.std(correction=0))
    after = torch.cat([part.flip(0).cumsum(0).flip(0) for part in torch.cat(parts).split(LENGTHS)])
    gae = (after - after.mean()) / (after.var() + 1e-8).sqrt()
    found = advantages_of(scores, td_norm="prompt_group", outcome_coef=0.0, gae_coef=1.0)
    torch.testing.assert_close(found["advantages"], gae)
    assert torch.equal(found["candidates"].advantages, advantages_of(scores)["candidates"].advantages)


def test_a_reward_model_that_is_the_policy_says_nothing():
    _, candidates = held()
    found = advantages_of(candidates.logprobs)
    assert found["candidates"].advantages.eq(0).all()
    assert found["advantages"].tolist() == pytest.approx([1, 1, 1, -1, -1, 0, 0, 0])  # the outcome alone


def test_a_reward_model_in_another_unit_says_the_same():
    _, candidates = held()
    noise = torch.randn(N, K)
    one, other = (advantages_of(candidates.logprobs + scale * noise) for scale in (1.0, 30.0))
    torch.testing.assert_close(one["advantages"], other["advantages"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one["candidates"].advantages, other["candidates"].advantages, rtol=1e-4, atol=1e-5)


def test_a_single_token_has_no_spread_and_no_candidates():
    candidates = Candidates(torch.tensor([[3, 4]]), torch.tensor([[-1.0, -2.0]]))
    given = rollouts((1,), [1.0], candidates=candidates, reward_model=[[-0.5, -0.5]])
    found = TokenValues(Config(num_candidates=2))(given)
    assert found["advantages"].tolist() == [0]
    assert found["candidates"].mask.any().item() is False
    assert found["candidate_scale"].isfinite().all()


# ---------------------------------------------------------------- the loss


def batch_of(logits, signals) -> TokenBatch:
    return TokenBatch.from_labels(LABELS, {"policy": logits, **signals})


def test_at_the_old_policy_it_is_minus_the_mean_advantage_and_minus_the_covered_mean_of_candidates():
    logits, candidates = held()
    signals = advantages_of(candidates=candidates, p_min=0.02, gae_coef=1.0)
    batch = batch_of(logits, signals)
    losses = DistRL(Config(num_candidates=K, alpha=0.1))(batch)
    found = reduce(losses, weights(batch, "token_mean"))
    marked = signals["candidates"]
    covered = marked.logprobs.exp() * marked.mask
    wanted = -signals["advantages"].mean() - 0.1 * (covered * marked.advantages).sum() / covered.sum()
    assert marked.mask.sum() > N
    assert found.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert losses.metrics["coverage"][0].item() == pytest.approx(covered.sum().item(), rel=1e-5)
    assert losses.metrics["candidates"][0] == marked.mask.sum()
    assert losses.metrics["candidate_clip_fraction"] == (0, marked.mask.sum())


@pytest.mark.parametrize("distance", [0.5, 2.0])
def test_away_from_it_both_losses_are_clipped_by_their_own_bounds(distance):
    logits, candidates = held()
    signals = advantages_of(candidates=candidates, p_min=0.02)
    moved = logits + distance * torch.randn(N, V)
    batch = batch_of(moved, {**signals, "old": candidates.logprobs[:, 0]})
    config = Config(num_candidates=K, alpha=0.3)
    new, marked = moved.log_softmax(-1).gather(1, candidates.ids), signals["candidates"]
    sampled = clipped_surrogate(new[:, 0], candidates.logprobs[:, 0], signals["advantages"], 0.2, 0.28, 3.0)
    others = clipped_surrogate(new, marked.logprobs, marked.advantages, 0.2, 0.2, 3.0)
    ratio = (new - marked.logprobs).exp()
    if distance == 2:  # past the dual clip
        assert ((ratio[:, 0] > 3) & (signals["advantages"] < 0)).any()
        assert ((ratio > 3) & (marked.advantages < 0) & marked.mask).any()
    else:  # past the bound above, and of candidates past their own
        assert ((ratio[:, 0] > 1.28) & (signals["advantages"] > 0)).any()
        assert ((ratio > 1.2) & (marked.advantages > 0) & marked.mask).any()
    covered = marked.logprobs.exp() * marked.mask
    wanted = sampled.mean() + 0.3 * (covered * others).sum() / covered.sum()
    losses = DistRL(config)(batch)
    assert reduce(losses, weights(batch, "token_mean")).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert losses.metrics["candidate_clip_fraction"][0] > 0


def test_over_the_whole_vocabulary_the_candidates_gradient_is_the_exact_policy_gradient():
    logits = torch.randn(N, V)
    candidates = held(k=V)[1]
    candidates = Candidates(candidates.ids, logits.log_softmax(-1).gather(1, candidates.ids))
    scores = candidates.logprobs + torch.randn(N, V)
    signals = advantages_of(scores, candidates, num_candidates=V, p_min=0.0, outcome_coef=0.0, gae_coef=0.0)
    leaf = logits.clone().requires_grad_()
    batch = batch_of(leaf, signals)
    (found,) = torch.autograd.grad(
        reduce(DistRL(Config(num_candidates=V, alpha=1.0))(batch), weights(batch, "token_mean")), leaf
    )
    advantages = torch.zeros(N, V).scatter(1, candidates.ids, signals["candidates"].advantages)
    pi = logits.softmax(-1)
    centred = pi * (advantages - (pi * advantages).sum(1, keepdim=True)) / (N - LAST.sum())
    torch.testing.assert_close(found, -torch.where(LAST[:, None], 0.0, centred), rtol=1e-4, atol=1e-6)


def test_without_candidates_it_is_the_plain_policy_gradient_with_its_three_bounds():
    logits, candidates = held()
    signals = advantages_of(candidates=candidates)
    batch = batch_of(logits + torch.randn(N, V), {**signals, "old": candidates.logprobs[:, 0]})
    found = DistRL(Config(alpha=0.0))(batch)
    wanted = PolicyGradient(0.2, 0.28, dual=3.0)(batch)
    torch.testing.assert_close(found.values, wanted.values)
    for name in ("ratio", "clip_fraction", "entropy", "nll", "advantage", "zero_advantage"):
        torch.testing.assert_close(found.metrics[name][0], wanted.metrics[name][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_engine_gives_the_value_and_the_gradient_of_plain_logits(monkeypatch, dtype):
    monkeypatch.setattr("trimtab.core.vocab.BLOCK_TOKENS", 3)
    monkeypatch.setattr("trimtab.core.vocab.SLICE_BYTES", 4 * V * 2)
    signals = advantages_of(p_min=0.02)
    head, hidden = Head(nn.Linear(6, V, dtype=dtype), V), torch.randn(N, 6, dtype=dtype).requires_grad_()
    batch = TokenBatch.from_labels(LABELS, signals)
    weight, objective = weights(batch, "token_mean"), DistRL(Config(num_candidates=K))
    wanted = objective(batch.with_signals(policy=head(hidden)))
    found = fused_loss(objective, batch, hidden, head, weight)
    rtol, atol = (1e-4, 1e-6) if dtype == torch.float32 else (2**-6, 2**-8)
    torch.testing.assert_close(found.values, wanted.values.detach(), rtol=rtol, atol=atol)
    (expected,) = torch.autograd.grad(reduce(wanted, weight), hidden)
    (grad,) = torch.autograd.grad(found.loss, hidden)
    torch.testing.assert_close(grad, expected, rtol=rtol, atol=atol)
    assert found.metrics.keys() == wanted.metrics.keys()
    for name, (total, number) in wanted.metrics.items():
        assert found.metrics[name][1] == number
        assert found.metrics[name][0].item() == pytest.approx(total.item(), rel=1e-2, abs=1e-3)


def test_its_defaults_are_the_released_ones():
    config = Config()
    assert (config.num_candidates, config.p_min, config.alpha, config.gae_coef) == (5, 0.1, 0.1, 0.05)
    assert (config.epsilon, config.epsilon_high, config.dual_clip) == (0.2, 0.28, 3.0)
    assert METHOD.requirements(config).models == (RewardModel("policy"),)
    frozen = Config(online="frozen")
    plan = METHOD.build(frozen, None, reward_model=Reader("reward_model"))
    assert config.online == "before"
    assert (plan.advantages.candidates, plan.reduction) == (5, "token_mean")
    with pytest.raises(PlanError, match="TokenValues needs reward_model, which no rollout signal"):
        METHOD.build(frozen, None, reward_model=Reader("token_scores"))
    with pytest.raises(ValidationError, match="dual_clip"):
        Config(dual_clip=1.0)


def test_the_differences_add_up_to_the_value_of_the_answer():
    _, candidates = held()
    scores = candidates.logprobs + torch.randn(N, K)
    found = advantages_of(scores)["candidates"].advantages[:, 0]
    whole = torch.stack([part.sum() for part in found.split(LENGTHS)])
    values = 10 * (scores - candidates.logprobs)[:, 0].masked_fill(LAST, 0.0)
    wanted = torch.stack([part.sum() for part in values.split(LENGTHS)])
    prefix = torch.cat([part.cumsum(0) for part in values.split(LENGTHS)])
    torch.testing.assert_close(whole * prefix.std(correction=0), wanted)


# ---------------------------------------------------------------- a KL to the start, and prompts that are left out


def test_the_kl_over_candidates_and_the_rest_by_hand():
    policy, start = torch.tensor([[0.6, 0.1]]).log(), torch.tensor([[0.3, 0.4]]).log()  # the rest has .3 in both
    wanted = 0.6 * math.log(2) + 0.1 * math.log(0.25)
    assert candidates_kl(policy, start, 0.0).item() == pytest.approx(wanted, rel=1e-5)
    assert candidates_kl(policy, start, 1.0).item() == pytest.approx(0.1 * math.log(0.25), rel=1e-5)
    assert candidates_kl(policy, start, 5.0).item() == 0
    full = torch.tensor([[0.7, 0.3]]).log()  # nothing is left: 1e-5 of the policy, .3 of the start
    wanted = 0.7 * math.log(0.7 / 0.3) + 0.3 * math.log(0.3 / 0.4) + 1e-5 * math.log(1e-5 / 0.3)
    assert candidates_kl(full, start, 0.0).item() == pytest.approx(wanted, rel=1e-4)


def test_the_kl_is_added_and_read_only_with_a_coefficient():
    logits, candidates = held()
    start = candidates.logprobs - 6.0
    scores = candidates.logprobs + torch.randn(N, K)
    settings = {"num_candidates": K, "kl": 0.1}
    given = rollouts(LENGTHS, REWARDS, GROUP, candidates, reward_model=scores, reference=start)
    signals = TokenValues(Config(**settings))(given)
    assert torch.equal(signals["reference"].logprobs, start)
    found = DistRL(Config(**settings))(batch_of(logits, signals)).values
    plain = DistRL(Config(num_candidates=K))(batch_of(logits, signals)).values
    torch.testing.assert_close(
        found - plain, 0.1 * candidates_kl(candidates.logprobs, start, 5.0), rtol=1e-4, atol=1e-5
    )
    assert METHOD.requirements(Config(kl=0.1)).models[1:] == (Reference(reads="candidates"),)
    assert METHOD.requirements(Config()).models[1:] == ()


def test_prompts_with_only_correct_or_only_incorrect_completions_count_nowhere():
    logits, candidates = held()
    scores = candidates.logprobs + torch.randn(N, K)
    config = Config(num_candidates=K, min_accuracy=0.01, max_accuracy=0.99)
    given = rollouts(LENGTHS, REWARDS, GROUP, candidates, reward_model=scores)  # the second prompt was easy
    batch = batch_of(logits, TokenValues(config)(given))
    found = reduce(DistRL(config)(batch), weights(batch, "token_mean"))
    # as if its answers had not been written
    alone = rollouts(LENGTHS[:2], REWARDS[:2], GROUP[:2], candidates[:5], reward_model=scores[:5])
    plain = Config(num_candidates=K)
    first = TokenBatch.from_labels(LABELS[:2], {"policy": logits[:5], **TokenValues(plain)(alone)})
    assert found.item() == pytest.approx(reduce(DistRL(plain)(first), weights(first, "token_mean")).item(), rel=1e-5)
    assert DistRL(config)(batch).metrics["kept"][0] == 5
    none = TokenValues(Config(num_candidates=K, max_accuracy=0.4))(given)  # the first prompt was half right
    assert none["token_weight"].eq(0).all()
    assert DistRL(config)(batch_of(logits, none)).values.eq(0).all()


def test_what_is_correct_is_apart_from_what_was_earned():
    _, candidates = held()
    scores = candidates.logprobs + torch.randn(N, K)
    config = Config(num_candidates=K, min_accuracy=0.01, max_accuracy=0.99)
    given = rollouts(LENGTHS, [0.0, -1.0, 0.0, 0.0], GROUP, candidates, reward_model=scores)
    assert TokenValues(config)(given)["token_weight"].eq(0).all()
    known = replace(given, outcome=torch.tensor([1.0, 0.0, 1.0, 1.0]))
    assert TokenValues(config)(known)["token_weight"].tolist() == pytest.approx([8 / 5] * 5 + [0] * 3)


@pytest.mark.parametrize(
    ("settings", "kind", "beta", "margin"),
    [
        ({}, "OnlinePrefixReward", 10.0, 5.0),
        ({"adaptive": "weight", "beta": 3.0, "margin": 1.0}, "OnlinePrefixReward", 3.0, 1.0),
        ({"online_loss": "implicit_prm"}, "OnlineAnswerReward", 0.05, 0.0),
        ({"online_loss": "implicit_prm", "margin": 2.0}, "OnlineAnswerReward", 0.05, 2.0),
        ({"online_loss": "dpo_rm"}, "OnlinePairReward", 0.05, None),
    ],
)
def test_the_reward_model_learns_online_as_its_kind_does_with_its_own_beta(settings, kind, beta, margin):
    trained = TokenRewardModel(tiny.model("llama_tied"), ScoreSpec("logprob", "sum", 0.05, outcomes=True))
    made = online(Config(online="before", **settings), trained)
    assert (type(made).__name__, made.beta, getattr(made, "margin", None)) == (kind, beta, margin)
    assert getattr(made, "adaptive", True) == settings.get("adaptive", True)
    with pytest.raises(ValidationError, match="margin is 1.0 but has no effect"):
        Config(online="before", online_loss="dpo_rm", margin=1.0)
    with pytest.raises(ValidationError, match="online_loss is dpo_rm but has no effect"):
        Config(online="frozen", online_loss="dpo_rm")


def test_bounds_of_accuracy_that_leave_no_prompt_are_refused():
    with pytest.raises(ValidationError, match=r"min_accuracy is 0.9 and max_accuracy 0.1: no prompt lies between"):
        Config(min_accuracy=0.9, max_accuracy=0.1)
    for wrong in ({"min_accuracy": 1.0}, {"max_accuracy": 0.0}):
        with pytest.raises(ValidationError):
            Config(**wrong)
