"""LCO: targets, advantages and losses by hand and by their limits, convexity, and steps on a fixed batch."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from tiny_rollouts import Reader, rollouts
from trimtab.core import Candidates, Head, PlanError, Requirements, RewardModel, TokenBatch, fused_loss, reduce, weights
from trimtab.methods.lco import (
    LCO,
    METHOD,
    CandidateAdvantages,
    Config,
    Rho,
    completed,
    log_cosh,
    log_outside,
    over_std,
    scaled_by_rho,
    shifted,
)
from trimtab.objectives.policy_gradient import clipped_surrogate

N, V, K = 6, 9, 4
LABELS = torch.tensor([[-100, 3, 5, 2], [-100, 4, 1, 8]])
LENGTHS = (3, 3)
TARGETS = torch.tensor([3, 5, 2, 4, 1, 8])
close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-6)


def old_logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(N, V, generator=torch.Generator().manual_seed(seed))


def held(logits: torch.Tensor, k: int = K) -> Candidates:
    """Candidates with the answer token first, under the policy of `logits`."""
    others = torch.stack([torch.tensor([v for v in range(V) if v != t]) for t in TARGETS.tolist()])
    ids = torch.cat([TARGETS[:, None], others[:, : k - 1]], dim=1)
    return Candidates(ids, logits.log_softmax(-1).gather(1, ids))


def advantages_of(old=None, paid=(1.0, -1.0), k=K, scores=None, reference=None, **settings) -> dict:
    """What the objective reads where the policy of the logits `old` wrote both answers."""
    old = old_logits() if old is None else old
    signals = {"normaliser": old.logsumexp(-1)}
    if scores is not None:
        signals["reward_model"] = scores
    if reference is not None:
        signals["reward_model_reference"] = reference
    config = Config(**settings)
    return CandidateAdvantages(config)(rollouts(LENGTHS, list(paid), candidates=held(old, k), **signals))


def objective(**settings) -> LCO:
    config = Config(**settings)
    scores = Reader("reward_model", "reward_model_reference") if config.dense else None
    return METHOD.build(config, None, reward_model=scores).objective


def values(logits: torch.Tensor, signals: dict, **settings) -> torch.Tensor:
    return objective(**settings)(TokenBatch.from_labels(LABELS, {"policy": logits, **signals})).values


def gradient(logits: torch.Tensor, signals: dict, **settings) -> torch.Tensor:
    """[N, V] of the sum over tokens."""
    leaf = logits.clone().requires_grad_()
    (found,) = torch.autograd.grad(values(leaf, signals, **settings).sum(), leaf)
    return found


DENSE = {"advantage": "q_rm"}
REMOVED = {**DENSE, "outside": "remove"}


# ---------------------------------------------------------------- targets


def test_the_target_is_the_old_distribution_times_the_exponential_normalised():
    base = torch.tensor([[0.5, 0.3, 0.2]]).log()
    found = shifted(base, torch.tensor([[math.log(2), 0.0]]))
    close(found.exp(), torch.tensor([[1.0, 0.3, 0.2]]) / 1.5)  # the last bin has no advantage
    removed = shifted(base[:, :2], torch.tensor([[math.log(2), 0.0]]))
    close(removed.exp(), torch.tensor([[1.0, 0.3]]) / 1.3)


def test_a_target_sums_to_one_and_its_log_ratio_to_the_old_one_is_the_advantage_less_a_constant():
    base, shift = old_logits().log_softmax(-1), torch.randn(N, V)
    found = shifted(base, shift)
    close(found.exp().sum(1), torch.ones(N))
    close((found - base - shift).std(dim=1), torch.zeros(N))
    close(shifted(base, shift + 7.0), found)


def test_the_mass_outside_is_what_candidates_leave():
    logits = old_logits()
    wanted = 1 - held(logits).logprobs.exp().sum(1, keepdim=True)
    close(log_outside(held(logits).logprobs).exp(), wanted)
    assert log_outside(torch.tensor([[0.0]])).item() == pytest.approx(math.log(1e-12))


def test_rho_raises_and_lowers_the_drawn_token_and_shares_the_rest_as_before():
    p = torch.tensor([0.5, 0.9, 0.5, 0.99, 1.0])
    base = torch.stack([p, 0.75 * (1 - p), 0.25 * (1 - p)], dim=1).clamp(min=1e-9).log()
    found = scaled_by_rho(base, torch.tensor([True, True, False, False, False])).exp()
    # .8 * .5 < .8: stays. .8 * .99 = .792 < .8: stays. .8 * 1 = .8 moves
    wanted = torch.tensor([0.6, 0.99, 0.5, 0.99, 0.8])
    close(found[:, 0], wanted)
    close(found[:4, 1], 0.75 * (1 - wanted[:4]))
    close(found.sum(1), torch.ones(5))


def test_the_bounds_of_rho_may_be_others():
    p = torch.tensor([0.5, 0.9, 0.5, 0.9])
    base = torch.stack([p, 1 - p], dim=1).log()
    found = scaled_by_rho(base, torch.tensor([True, True, False, False]), Rho(1.5, 0.5, 0.95, 0.3)).exp()
    close(found[:, 0], torch.tensor([0.75, 0.95, 0.5, 0.45]))  # .5 * .5 lies below .3 and stays
    made = objective(target="rho", rho_up=1.5, rho_down=0.5, rho_ceiling=0.95, rho_floor=0.3)
    assert made.rho == Rho(1.5, 0.5, 0.95, 0.3)
    assert objective(target="rho").rho == Rho(1.2, 0.8, 0.99, 0.8)


def test_rho_of_a_token_that_is_next_to_impossible_is_finite():
    base = torch.tensor([[-110.0, 0.0], [-1e4, 0.0]])
    found = scaled_by_rho(base, torch.tensor([True, True]))
    close(found[:, 0], torch.tensor([-110.0, -1e4]) + math.log(1.2))
    assert found.isfinite().all()


# ---------------------------------------------------------------- log-cosh


def test_log_cosh_is_half_a_square_near_zero_and_a_line_far_away_and_never_overflows():
    assert log_cosh(torch.tensor([0.0])).item() == pytest.approx(0, abs=1e-7)
    small = torch.tensor([0.02], dtype=torch.float64)
    assert log_cosh(small).item() == pytest.approx(0.0002, rel=1e-3)
    assert log_cosh(torch.tensor([-50.0])).item() == pytest.approx(50 - math.log(2))
    assert log_cosh(torch.tensor([1e4], dtype=torch.float16)).item() == pytest.approx(1e4, rel=1e-3)
    assert log_cosh(torch.tensor([1.3])).item() == pytest.approx(math.log(math.cosh(1.3)), rel=1e-6)
    leaf = torch.tensor([0.7, -0.7, 0.0, 300.0]).requires_grad_()
    log_cosh(leaf).sum().backward()
    close(leaf.grad, leaf.detach().tanh())


# ---------------------------------------------------------------- advantages


def test_a_reward_is_known_of_the_drawn_token_alone_and_where_it_is_not_positive_beta_is_a_hundredfold():
    found = advantages_of(paid=(2.0, 0.0))
    assert found["candidates"].advantages.tolist() == [[2, 0, 0, 0]] * 3 + [[0, 0, 0, 0]] * 3
    assert found["beta"].tolist() == [2, 2, 2, 200, 200, 200]
    assert advantages_of(neg_beta_scale=1.0)["beta"].tolist() == [2] * 6
    assert found.keys() == {"candidates", "beta"}


def test_rewards_may_be_normalised_over_their_group():
    found = advantages_of(paid=(1.0, 0.0), rewards="group")
    wanted = 0.5 / (math.sqrt(0.5) + 1e-4)
    assert found["candidates"].advantages[:, 0].tolist() == pytest.approx([wanted] * 3 + [-wanted] * 3)


def test_completed_advantages_have_a_mean_of_zero_under_the_policy_unless_the_floor_holds():
    probability = torch.tensor([0.05, 0.5, 0.9, 0.99])
    known, others = completed(torch.tensor([1.0, -2.0, 1.0, 1.0]), probability)
    mean = probability * known + (1 - probability) * others
    assert mean[:3].tolist() == pytest.approx([0, 0, 0], abs=1e-7)
    assert known.tolist() == pytest.approx([0.95, -1, 0.1, 0.01])
    assert others[3].item() == pytest.approx(-0.99 * 0.01 / 0.1)
    assert (known - others)[:3].tolist() == pytest.approx([1, -2, 1])


def test_completed_rewards_reach_the_target_as_the_difference_to_all_other_tokens():
    sure = old_logits()
    sure[0, TARGETS[0]] += 9  # the floor holds there
    found = advantages_of(old=sure, advantage="completed")["candidates"]
    known, others = completed(torch.tensor([1.0] * 3 + [-1.0] * 3), held(sure).logprobs[:, 0].exp())
    close(found.advantages[:, 0], known - others)
    assert found.advantages[0, 0] < 0.5
    assert found.advantages[:, 1:].eq(0).all()


def test_a_verifiers_scores_are_divided_by_their_std_over_the_candidates():
    scores = torch.tensor([[-1.0, -2.0, -6.0], [-3.0, -3.0, -3.0]])
    found = over_std(scores)
    std = math.sqrt((4 + 1 + 9) / 2)
    assert found[0].tolist() == pytest.approx([2 / std, 1 / std, -3 / std], rel=1e-5)
    assert found[1].tolist() == [0, 0, 0]
    assert over_std(torch.full((1, 5), -3.9882662296295166)).tolist() == [[0] * 5]  # whose mean float32 rounds


def test_dense_advantages_are_those_of_the_verifier_or_of_its_log_ratio():
    scores, reference = -torch.rand(N, K), -torch.rand(N, K)
    close(advantages_of(scores=scores, **DENSE)["candidates"].advantages, over_std(scores))
    found = advantages_of(scores=scores, reference=reference, advantage="dpo_rm")
    close(found["candidates"].advantages, over_std(scores - reference))
    assert found["beta"].tolist() == [2] * N


@pytest.mark.parametrize("loss", ["mse", "logcosh"])
def test_where_both_are_sure_of_the_token_raw_losses_leave_it_alone(loss):
    old = old_logits()
    old[torch.arange(4), TARGETS[:4]] += 12
    scores = torch.full((N, K), -1.0)
    scores[2:5, 0] = -0.01
    found = advantages_of(old=old, scores=scores, loss=loss, **DENSE)
    assert found["beta"].tolist() == [2, 2, 200, 200, 2, 2]
    assert advantages_of(old=old, scores=scores, loss="kld", **DENSE)["beta"].tolist() == [2] * N
    assert (
        advantages_of(old=old, scores=scores, loss=loss, agreement_threshold=-2.0, **DENSE)["beta"][:4].tolist()
        == [200] * 4
    )


# ---------------------------------------------------------------- losses


LOSSES = ({"loss": "kld"}, {"loss": "mse"}, {"loss": "logcosh"})
KINDS = [
    *LOSSES,
    *({**LOSSES[0], **DENSE, "outside": how} for how in ("remove", "keep")),
    *({**loss, **DENSE} for loss in LOSSES[1:]),
]
every_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: " ".join(kind.values()))


@every_kind
def test_without_advantages_loss_and_gradient_are_zero_at_the_old_policy(kind):
    equal = torch.full((N, K), -0.7)
    signals = advantages_of(paid=(0.0, 0.0), scores=equal, **kind)
    if kind["loss"] == "kld" and kind.get("outside") == "remove":  # the target is the old policy among candidates
        close(shifted(held(old_logits()).logprobs, torch.zeros(N, K)).exp().sum(1), torch.ones(N))
        kept = signals["candidates"].logprobs.exp().sum(1)
        close(values(old_logits(), signals, **kind), -kept.log())
        return
    assert values(old_logits(), signals, **kind).abs().max() < 1e-6
    assert gradient(old_logits(), signals, **kind).abs().max() < 1e-5


@every_kind
def test_a_very_large_beta_is_no_advantage(kind):
    scores = -torch.rand(N, K)
    one = advantages_of(scores=scores, **{**kind, "beta": 1e9})
    none = advantages_of(paid=(0.0, 0.0), scores=torch.full((N, K), -1.0), **kind)
    close(values(old_logits(1), one, **kind), values(old_logits(1), none, **kind))


def test_a_very_small_beta_is_the_likelihood_of_a_token_that_was_good():
    logits = old_logits(1)
    signals = advantages_of(paid=(1.0, 1.0), beta=1e-3)
    close(values(logits, signals), -logits.log_softmax(-1)[torch.arange(N), TARGETS])
    close(gradient(logits, signals), logits.softmax(-1) - torch.eye(V)[TARGETS])


@pytest.mark.parametrize("kind", [{}, {"neg_beta_scale": 1.0}, {**DENSE, "outside": "keep"}])
def test_with_the_whole_vocabulary_the_kl_is_that_of_the_distributions(kind):
    scores = -3 * torch.rand(N, V)
    signals = advantages_of(scores=scores, k=V, **kind)
    logits, marked = old_logits(1), signals["candidates"]
    shift = torch.zeros(N, V).scatter(1, marked.ids, marked.advantages / signals["beta"][:, None])
    target = (old_logits().log_softmax(-1) + shift).log_softmax(-1)
    wanted = (target.exp() * (target - logits.log_softmax(-1))).sum(1)
    close(values(logits, signals, **kind), wanted)
    close(gradient(logits, signals, **kind), logits.softmax(-1) - target.exp())


def test_with_a_lump_the_gradient_is_the_policy_less_a_target_that_shares_the_rest_as_the_policy_does():
    logits, signals = old_logits(1), advantages_of()
    marked, pi = signals["candidates"], logits.softmax(-1)
    shift = torch.zeros(N, V).scatter(1, marked.ids, marked.advantages / signals["beta"][:, None])
    exact = (old_logits().log_softmax(-1) + shift).log_softmax(-1).exp()
    inside = torch.zeros(N, V).scatter(1, marked.ids, 1.0).bool()
    lump = exact.masked_fill(inside, 0.0).sum(1, keepdim=True)
    rest = pi.masked_fill(inside, 0.0)
    wanted = torch.where(inside, exact, lump * rest / rest.sum(1, keepdim=True))
    close(gradient(logits, signals), pi - wanted)


def test_a_policy_that_leaves_nothing_outside_has_a_finite_loss_and_a_bounded_gradient():
    logits = old_logits(1)
    logits.scatter_add_(1, held(logits).ids, torch.full((N, K), 60.0))
    signals = advantages_of()
    assert values(logits, signals).isfinite().all()
    found = gradient(logits, signals)
    assert found.isfinite().all()
    assert found.abs().max() <= 1
    close(found.sum(1), torch.zeros(N))


def test_at_its_target_the_gradient_is_zero():
    signals = advantages_of(neg_beta_scale=1.0)
    at = old_logits().clone()
    at[torch.arange(N), TARGETS] += torch.tensor([0.5] * 3 + [-0.5] * 3)
    for loss in ("kld", "mse", "logcosh"):
        known = advantages_of(neg_beta_scale=1.0, loss=loss)
        assert gradient(at, known, loss=loss).abs().max() < 1e-6
        assert gradient(old_logits(), known, loss=loss).abs().max() > 1e-2
    assert values(at, signals).abs().max() < 1e-6


@pytest.mark.parametrize("k", [1, K, V])
def test_a_small_advantage_has_the_policy_gradient_over_beta(k):
    logits, beta = old_logits(), 1000.0
    signals = advantages_of(k=k, beta=beta, neg_beta_scale=1.0)
    pi, advantage = logits.softmax(-1), torch.tensor([1.0] * 3 + [-1.0] * 3)
    own = pi[torch.arange(N), TARGETS]
    a = advantage[:, None] * torch.eye(V)[TARGETS]
    wanted = -pi * (a - (own * advantage)[:, None]) / beta  # minus the covariance of pi with A
    torch.testing.assert_close(gradient(logits, signals), wanted, rtol=2e-3, atol=3e-7)


def test_removed_tokens_have_no_place_in_the_target_and_candidates_none_but_their_own():
    scores, logits = -3 * torch.rand(N, K), old_logits(1)
    signals = advantages_of(scores=scores, **REMOVED)
    marked, std = held(old_logits()), scores.std(1, keepdim=True)
    target = (marked.logprobs + scores / std / 2.0).softmax(1)  # uncentred, as in the authors' code: the same
    policy = logits.log_softmax(-1)
    wanted = (target * (target.log() - policy.gather(1, marked.ids))).sum(1)
    close(values(logits, signals, **REMOVED), wanted)
    full = torch.zeros(N, V).scatter(1, marked.ids, target)
    close(gradient(logits, signals, **REMOVED), policy.exp() - full)


def test_raw_losses_compare_raw_logits():
    logits, scores = old_logits(1), -3 * torch.rand(N, K)
    ids = held(logits).ids
    for loss, size in (("mse", torch.square), ("logcosh", log_cosh)):
        sparse = advantages_of(loss=loss, neg_beta_scale=1.0)
        wanted = old_logits().gather(1, ids)[:, 0] + torch.tensor([0.5] * 3 + [-0.5] * 3)
        close(values(logits, sparse, loss=loss), size(logits.gather(1, ids)[:, 0] - wanted))
        dense = advantages_of(loss=loss, scores=scores, **DENSE)
        wanted = old_logits().gather(1, ids) + over_std(scores) / 2
        close(values(logits, dense, loss=loss, **DENSE), size(logits.gather(1, ids) - wanted).sum(1))
        lifted = values(logits + 3.0, dense, loss=loss, **DENSE)  # not invariant to a shift of all logits
        assert (lifted - values(logits, dense, loss=loss, **DENSE)).abs().min() > 0.1


def test_the_squared_loss_at_the_old_policy_pushes_the_drawn_token_alone():
    signals = advantages_of(loss="mse", neg_beta_scale=1.0)
    found = gradient(old_logits(), signals, loss="mse")
    close(found, -2 * torch.tensor([0.5] * 3 + [-0.5] * 3)[:, None] * torch.eye(V)[TARGETS])


def test_a_target_ahead_of_the_policy_is_never_reached():
    one, other = old_logits(1), old_logits(2)
    for loss, step in (("mse", lambda a: 2 * a), ("logcosh", torch.tanh)):
        signals = advantages_of(loss=loss, target="current", neg_beta_scale=1.0)
        settings = {"loss": loss, "target": "current"}
        close(values(one, signals, **settings), values(other, signals, **settings))
        shift = torch.tensor([0.5] * 3 + [-0.5] * 3)
        close(gradient(one, signals, **settings), -step(shift)[:, None] * torch.eye(V)[TARGETS])
    kld = advantages_of(target="current", neg_beta_scale=1.0)
    at_old = advantages_of(neg_beta_scale=1.0)
    close(gradient(old_logits(), kld, target="current"), gradient(old_logits(), at_old))
    assert gradient(one, kld, target="current").abs().max() > 0.05


def test_rho_moves_the_drawn_tokens_probability_by_a_fifth():
    logits = old_logits(1)
    logits[3, TARGETS[3]] += 30
    signals = advantages_of(target="rho")
    pi = logits.softmax(-1)
    p = pi[torch.arange(N), TARGETS]
    moved = torch.where(torch.tensor([True] * 3 + [False] * 3), (1.2 * p).clamp(max=0.99), p)
    moved[3] = 0.8 * p[3]
    target = pi * ((1 - moved) / (1 - p))[:, None]
    target[torch.arange(N), TARGETS] = moved
    assert signals["token_weight"].tolist() == [2] * N  # 6 tokens over 3 of a half, times 1
    found = gradient(logits, signals, target="rho") / 2
    torch.testing.assert_close(found[:3], pi[:3] - target[:3], rtol=1e-3, atol=1e-5)
    assert found[4:].abs().max() < 1e-6
    assert found[3, TARGETS[3]].item() == pytest.approx(0.2, abs=1e-3)


def test_positive_tokens_and_the_others_have_a_mean_of_their_own():
    lengths, rewards = (4, 1, 1), [3.0, -2.0, 0.0]
    candidates = Candidates(torch.zeros(6, 1, dtype=torch.long), torch.full((6, 1), -1.0))
    given = rollouts(lengths, rewards, candidates=candidates)
    half = CandidateAdvantages(Config(advantage="completed", num_candidates=1))(given)["token_weight"]
    assert half.tolist() == pytest.approx([6 / 4] * 4 + [6 / 2] * 2)
    by_rho = CandidateAdvantages(Config(target="rho"))(given)["token_weight"]
    assert by_rho.tolist() == pytest.approx([3 * 6 / 4] * 4 + [2 * 6 / 2, 0])
    losses = torch.arange(6.0)  # of tokens
    assert (losses * half).mean().item() == pytest.approx(losses[:4].mean() + losses[4:].mean())
    signals = advantages_of(advantage="completed")
    doubled = {**signals, "token_weight": 2 * signals["token_weight"]}
    logits = old_logits(1)
    close(values(logits, doubled, advantage="completed"), 2 * values(logits, signals, advantage="completed"))
    single = CandidateAdvantages(Config(target="rho"))(rollouts((2,), [1.0], candidates=candidates[:2]))
    assert single["token_weight"].tolist() == [1, 1]


# ---------------------------------------------------------------- convexity


CONVEX = [
    {"k": V},
    {"k": V, "neg_beta_scale": 1.0, "beta": 0.2},
    {"loss": "mse"},
    {"loss": "logcosh"},
    {"outside": "remove"},
    REMOVED,
    {"loss": "logcosh", **DENSE},
]


@pytest.mark.parametrize("kind", CONVEX, ids=str)
def test_it_is_convex_in_the_logits(kind):
    settings = {name: value for name, value in kind.items() if name != "k"}
    signals = advantages_of(scores=-3 * torch.rand(N, kind.get("k", K)), **kind)
    for _ in range(200):
        one, other, share = 5 * torch.randn(N, V), 5 * torch.randn(N, V), torch.rand(())
        between = values(share * one + (1 - share) * other, signals, **settings)
        chord = share * values(one, signals, **settings) + (1 - share) * values(other, signals, **settings)
        assert (between <= chord + 1e-4).all()


def test_with_a_lump_it_is_not():
    signals = advantages_of(k=1, neg_beta_scale=1.0, beta=1e9)  # the target is the old policy
    settings = {"neg_beta_scale": 1.0, "beta": 1e9}
    first, second = (held(old_logits()).ids[:, n] for n in (1, 2))  # drawn token and one other are alike likely
    one, other = (9 * (torch.eye(V)[TARGETS] + torch.eye(V)[ids]) for ids in (first, second))
    chord = (values(one, signals, **settings) + values(other, signals, **settings)) / 2
    assert (values((one + other) / 2, signals, **settings) > chord + 0.1).any()


def test_the_clipped_surrogate_is_not():
    old = torch.tensor([0.2]).log()

    def surrogate(z: float) -> float:  # of the logit of the token beside one of 0
        new = torch.tensor([[z, 0.0]]).log_softmax(-1)[:, 0]
        return clipped_surrogate(new, old, torch.ones(1), 0.2, 0.2).item()

    one, other = -6.0, -1.0
    assert surrogate((one + other) / 2) > (surrogate(one) + surrogate(other)) / 2 + 0.05


# ---------------------------------------------------------------- steps on a fixed batch


def descend(loss_of, steps: int = 200, rate: float = 0.5):
    """Free logits under plain gradient steps: losses, and mean gradient norms of a token."""
    logits, losses, norms = old_logits().clone(), [], []
    for _ in range(steps):
        leaf = logits.clone().requires_grad_()
        per_token = loss_of(leaf)
        (grad,) = torch.autograd.grad(per_token.sum(), leaf)
        losses.append(per_token.mean().item())
        norms.append(grad.norm(dim=1).mean().item())
        logits = logits - rate * grad
    return logits, losses, norms


def falls(losses) -> bool:
    return all(after <= before + 1e-6 for before, after in pairwise(losses))


@pytest.mark.parametrize("loss", ["kld", "mse", "logcosh"])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_steps_on_a_fixed_batch_lower_the_loss_every_time_and_come_to_rest(loss, scale):
    settings = {"loss": loss, "beta": 1.0, "neg_beta_scale": scale}
    signals = advantages_of(**settings)
    final, losses, norms = descend(lambda z: values(z, signals, **settings))
    assert falls(losses)
    assert losses[0] > 1e-2
    assert norms[-1] < 0.05 * norms[0]
    entropy = torch.distributions.Categorical(logits=final).entropy().mean()
    assert entropy > 0.8 * torch.distributions.Categorical(logits=old_logits()).entropy().mean()


def test_a_policy_gradient_on_it_never_comes_to_rest_and_one_clipped_stops_at_its_bound():
    advantage = torch.tensor([1.0] * 3 + [-1.0] * 3)
    old = old_logits().log_softmax(-1)[torch.arange(N), TARGETS]

    def of_drawn(z):
        return z.log_softmax(-1)[torch.arange(N), TARGETS]

    final, _, norms = descend(lambda z: -advantage * of_drawn(z))
    assert norms[-1] > 0.3 * norms[0]
    assert of_drawn(final)[3:].max() < -50
    _, _, norms = descend(lambda z: clipped_surrogate(of_drawn(z), old, advantage, 0.2, 0.2))
    assert norms[-1] == 0


def test_a_target_ahead_of_the_policy_on_it_drives_bad_tokens_away_without_end():
    settings = {"loss": "mse", "target": "current", "beta": 1.0, "neg_beta_scale": 1.0}
    signals = advantages_of(**settings)
    final, losses, norms = descend(lambda z: values(z, signals, **settings))
    assert losses == pytest.approx([1.0] * 200, rel=1e-5)
    assert norms[-1] == pytest.approx(norms[0])
    assert final.log_softmax(-1)[torch.arange(N), TARGETS][3:].max() < -50


# ---------------------------------------------------------------- plan, settings and engine


EVERY = [
    *KINDS,
    {"target": "current"},
    {"target": "rho"},
    {"advantage": "completed"},
    {"loss": "mse", "target": "current"},
    {"advantage": "dpo_rm"},
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: " ".join(kind.values()))
def test_the_engine_gives_the_value_and_the_gradient_of_plain_logits(monkeypatch, kind, dtype):
    monkeypatch.setattr("trimtab.core.vocab.BLOCK_TOKENS", 3)
    monkeypatch.setattr("trimtab.core.vocab.SLICE_BYTES", 4 * V * 2)
    signals = advantages_of(scores=-torch.rand(N, K), reference=-torch.rand(N, K), **kind)
    head, hidden = Head(nn.Linear(5, V, dtype=dtype), V), torch.randn(N, 5, dtype=dtype).requires_grad_()
    batch, how = TokenBatch.from_labels(LABELS, signals), objective(**kind)
    weight = weights(batch, "token_mean")
    wanted = how(batch.with_signals(policy=head(hidden)))
    found = fused_loss(how, batch, hidden, head, weight)
    rtol, atol = (1e-4, 1e-6) if dtype == torch.float32 else (2**-5, 2**-7)
    torch.testing.assert_close(found.values, wanted.values.detach(), rtol=rtol, atol=atol)
    (expected,) = torch.autograd.grad(reduce(wanted, weight), hidden)
    (grad,) = torch.autograd.grad(found.loss, hidden)
    assert expected.abs().max() > 0
    torch.testing.assert_close(grad, expected, rtol=rtol, atol=atol)
    for name, (total, number) in wanted.metrics.items():
        assert found.metrics[name][1] == number
        assert found.metrics[name][0].item() == pytest.approx(total.item(), rel=1e-2, abs=1e-2)


def test_it_tells_entropy_likelihood_and_ratio():
    logits = old_logits(1)
    for settings in ({}, DENSE, {"loss": "mse"}):
        signals = advantages_of(scores=-torch.rand(N, K), **settings)
        batch = TokenBatch.from_labels(LABELS, {"policy": logits, **signals})
        metrics = objective(**settings)(batch).metrics
        policy = logits.log_softmax(-1)
        own = policy[torch.arange(N), TARGETS]
        close(metrics["nll"][0], -own.sum())
        close(metrics["entropy"][0], -(policy.exp() * policy).sum())
        close(metrics["ratio"][0], (own - held(old_logits()).logprobs[:, 0]).exp().sum())


def test_its_plan_reads_what_its_settings_need():
    assert METHOD.build(Config(), None).advantages.needs == frozenset()
    assert METHOD.build(Config(loss="mse"), None).advantages.needs == {"normaliser"}
    assert METHOD.build(Config(loss="mse", target="current"), None).advantages.needs == frozenset()
    assert METHOD.build(Config(), None).advantages.candidates == 5
    with pytest.raises(PlanError, match="CandidateAdvantages needs reward_model_reference, which no rollout signal"):
        METHOD.build(Config(advantage="dpo_rm"), None, reward_model=Reader("reward_model"))
    assert METHOD.requirements(Config(advantage="q_rm")).models == (RewardModel("model"),)
    assert METHOD.requirements(Config(advantage="q_rm", candidates="policy")).models == (RewardModel("policy"),)
    assert METHOD.requirements(Config()) == Requirements()
    assert [objective(outside=how, **kind).keep for kind in ({}, DENSE) for how in ("remove", "keep")] == [
        False,
        True,
    ] * 2
    assert Config().outside == "keep"


@pytest.mark.parametrize(
    ("wrong", "way_out"),
    [
        ({"loss": "mse", "target": "rho"}, "set loss: kld"),
        ({"loss": "logcosh", "advantage": "completed"}, "set loss: kld"),
        ({"target": "rho", "advantage": "q_rm"}, "set advantage: sparse"),
        ({"advantage": "dpo_rm", "num_candidates": 1}, "must be 2 or more"),
        ({"beta": 0.0}, "beta"),
        ({"agreement_threshold": 0.5}, "agreement_threshold"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_the_way_out(wrong, way_out):
    with pytest.raises(ValidationError, match=way_out):
        Config(**wrong)
