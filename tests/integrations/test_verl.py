"""Our advantages and losses under verl's names give the numbers of our own trainer, by verl's own functions.

Run in an environment of verl: see docs/guides/verl.md.
"""

import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from trimtab.core import IGNORE, Candidates, Rollouts, TokenBatch, reduce, weights
from trimtab.core.plan import AdvantageEstimator
from trimtab.methods import distrl, hpd, lco, opd, psft, reinforce

pytest.importorskip("verl", reason="verl is not installed; it has an environment of its own: docs/guides/verl.md")
pytestmark = pytest.mark.slow

import numpy as np
from hydra import compose, initialize_config_module
from verl import DataProto
from verl.trainer.config import AlgoConfig
from verl.trainer.ppo.core_algos import FixedKLController, get_adv_estimator_fn, get_policy_loss_fn
from verl.trainer.ppo.ray_trainer import apply_kl_penalty, compute_advantage
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import FSDPActorConfig

from trimtab.integrations import verl as ours

MASK = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 0, 1, 0]])
"""of unequal lengths; the last response has a token of a tool in the middle"""
UIDS = np.array(["b", "a", "b", "a"], dtype=object)
GROUP = torch.tensor([0, 1, 0, 1])
NUM_TOKENS = int(MASK.sum())
VOCAB = 7


def actor(**changes):
    settings = {"strategy": "fsdp", "rollout_n": 2, "ppo_micro_batch_size_per_gpu": 1, **changes}
    return FSDPActorConfig(**settings)


def batch_of(mask=MASK) -> TokenBatch:
    """The same tokens as our trainer has them, behind prompts of two tokens."""
    labels = torch.full((len(mask), 2 + mask.size(1)), IGNORE)
    labels[:, 2:][mask.bool()] = 1
    return TokenBatch.from_labels(labels)


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def likely(*shape: int, seed: int = 0) -> torch.Tensor:
    return numbers(*shape, VOCAB, seed=seed).log_softmax(dim=-1)


def advantages_by_verl(name: str, rewards: torch.Tensor, algorithm: AlgoConfig | None = None, **batch) -> torch.Tensor:
    data = DataProto.from_dict(
        tensors={"token_level_rewards": rewards, "response_mask": MASK, **batch}, non_tensors={"uid": UIDS}
    )
    found = compute_advantage(data, name, config=algorithm or AlgoConfig(adv_estimator=name))
    torch.testing.assert_close(found.batch["returns"], found.batch["advantages"])
    return found.batch["advantages"]


def advantages_by_us(estimator: AdvantageEstimator, rewards=None, candidates=None, **signals) -> torch.Tensor:
    totals = torch.zeros(len(MASK)) if rewards is None else (rewards * MASK).sum(dim=1)
    flat = {name: value[MASK.bool()] for name, value in signals.items()}
    return estimator(Rollouts(batch_of(), totals, GROUP, flat, candidates))


def check_only_inside(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found[MASK.bool()], wanted)
    assert not found[~MASK.bool()].any()


# ---------------------------------------------------------------- advantages


@pytest.mark.parametrize(("name", "center"), [("trimtab_q_rm", False), ("trimtab_q_rm_centered", True)])
def test_token_scores_of_a_reward_model_become_the_advantages_of_our_reinforce(name, center):
    scores = numbers(*MASK.shape)
    estimator = reinforce.ScoreAdvantages(reinforce.Config(token_reward="tokens", center=center))
    wanted = advantages_by_us(estimator, token_scores=scores)["advantages"]
    check_only_inside(advantages_by_verl(name, scores), wanted)
    assert wanted.std() > 0.1


def test_token_scores_worked_by_hand():
    """Scores 1, 3 | 2: mean 2, std sqrt(2/3); the last tokens have the means of their responses."""
    rewards, mask = torch.tensor([[1.0, 3.0], [2.0, 9.0]]), torch.tensor([[1, 1], [1, 0]])
    found, _ = get_adv_estimator_fn("trimtab_q_rm")(token_level_rewards=rewards, response_mask=mask)
    std = (2 / 3) ** 0.5
    torch.testing.assert_close(found, torch.tensor([[1 / std, 2 / std], [2 / std, 0.0]]))


def test_values_of_an_ipvrm_become_the_advantages_of_our_distrl():
    rewards, ratio = torch.zeros(MASK.shape), numbers(*MASK.shape, seed=1)
    rewards[0, 2] = rewards[1, 4] = 1.0
    old = likely(*MASK.shape)[..., :1][MASK.bool()]
    held = Candidates(torch.ones_like(old, dtype=torch.long), old)
    signals = {"reward_model": (ratio + likely(*MASK.shape)[..., 0])[..., None]}
    found = advantages_by_us(distrl.TokenValues(distrl.Config(alpha=0.0)), rewards, held, **signals)["advantages"]
    check_only_inside(advantages_by_verl("trimtab_distrl", rewards, reward_baselines=ratio), found)


def test_the_reward_part_of_distrl_is_that_of_the_prompts_group():
    """Rewards 1 and 0 in each group: advantages +1 and -1 but for 0.05 times a whitened number."""
    rewards = torch.zeros(MASK.shape)
    rewards[0, 2] = rewards[1, 4] = 1.0
    found = advantages_by_verl("trimtab_distrl", rewards, reward_baselines=torch.zeros(MASK.shape))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, -1.0, -1.0])[:, None] * MASK)


def test_the_teacher_as_verls_reference_model_gives_the_advantages_of_our_opd():
    teacher, old = (likely(*MASK.shape, seed=seed)[..., 0] for seed in (1, 2))
    given = {"token_level_scores": torch.zeros(MASK.shape), "old_log_probs": old, "ref_log_prob": teacher}
    data = DataProto.from_dict(tensors={**given, "response_mask": MASK})
    data, _ = apply_kl_penalty(data, FixedKLController(1.0), kl_penalty="kl")
    wanted = advantages_by_us(opd.LogRatio(), teacher=teacher, old=old)["advantages"]
    check_only_inside(advantages_by_verl("trimtab_opd", data.batch["token_level_rewards"]), wanted)


def test_rewards_become_the_shifts_of_our_lco():
    rewards = torch.zeros(MASK.shape)
    rewards[:, 0] = torch.tensor([1.0, -1.0, 0.5, 0.0])
    found = advantages_by_verl("trimtab_lco", rewards)
    torch.testing.assert_close(found, torch.tensor([1 / 2, -1 / 200, 0.5 / 2, 0.0])[:, None] * MASK)


@pytest.mark.parametrize(
    ("name", "said"),
    [("trimtab_q_rm", "token scores"), ("trimtab_distrl", "the whole response"), ("trimtab_lco", "the whole response")],
)
def test_a_penalty_within_the_rewards_is_refused(name, said):
    algorithm = AlgoConfig(adv_estimator=name, use_kl_in_reward=True)
    with pytest.raises(ours.VerlError, match=f"{said}.*set algorithm.use_kl_in_reward=False"):
        advantages_by_verl(name, torch.zeros(MASK.shape), algorithm, reward_baselines=torch.zeros(MASK.shape))


def test_distrl_says_which_key_of_the_batch_it_reads():
    with pytest.raises(ours.VerlError, match=r'batch\["reward_baselines"\] has to hold log phi.*is missing'):
        advantages_by_verl("trimtab_distrl", torch.zeros(MASK.shape))
    with pytest.raises(ours.VerlError, match=r"of the shape of response_mask \[4, 5\]; it has \[4\]"):
        advantages_by_verl("trimtab_distrl", torch.zeros(MASK.shape), reward_baselines=torch.zeros(4))


# ---------------------------------------------------------------- losses

REDUCTIONS = {
    "token-mean": "token_mean",
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-mean": "sequence_mean",
}
"""verl's names -> ours"""


def by_verl(name, log_prob, old, advantages, how="token-mean", **bounds):
    """Loss and gradient at log_prob."""
    log_prob = log_prob.clone().requires_grad_()
    given = {"old_log_prob": old, "log_prob": log_prob, "advantages": advantages, "response_mask": MASK}
    loss, metrics = get_policy_loss_fn(name)(**given, loss_agg_mode=how, config=actor(**bounds))
    loss.backward()
    assert all(isinstance(value, float) for value in metrics.values())
    return loss.detach(), log_prob.grad


def logits_by_us(objective, signals, how="token_mean"):
    """Loss and gradient at the logits, as our trainer computes them."""
    logits = numbers(NUM_TOKENS, VOCAB, seed=5).requires_grad_()
    batch = batch_of()
    batch.targets = signals.pop("targets", batch.targets)
    batch.signals = {"policy": logits, **signals}
    loss = reduce(objective(batch), weights(batch, how))
    loss.backward()
    return loss.detach(), logits.grad


def logits_by_verl(name, old, advantages, ids, how="token-mean", **bounds):
    """The same by verl's function, of the log-probabilities [B, T] or [B, T, K] of ids [N] or [N, K]."""
    logits = numbers(NUM_TOKENS, VOCAB, seed=5).requires_grad_()
    flat = logits.log_softmax(dim=-1).gather(1, ids.reshape(NUM_TOKENS, -1)).reshape(ids.shape)
    log_prob = torch.zeros(*MASK.shape, *ids.shape[1:]).index_put((MASK.bool(),), flat)
    given = {"old_log_prob": old, "log_prob": log_prob, "advantages": advantages, "response_mask": MASK}
    loss, _ = get_policy_loss_fn(name)(**given, loss_agg_mode=how, config=actor(**bounds))
    loss.backward()
    return loss.detach(), logits.grad


def spread(flat: torch.Tensor) -> torch.Tensor:
    """[B, T, ...] of [N, ...], with numbers at masked places that would be seen in a sum."""
    found = torch.full((*MASK.shape, *flat.shape[1:]), -3.0)
    found[MASK.bool()] = flat
    return found


def check_same(one, other) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert one[1].abs().max() > 1e-4


@pytest.mark.parametrize("how", list(REDUCTIONS))
def test_psft_is_that_of_our_trainer_whatever_verl_divides_by(how):
    ids, snapshot = torch.ones(NUM_TOKENS, dtype=torch.long), likely(NUM_TOKENS, seed=6)[:, 1] - 0.3
    one = logits_by_us(psft.PSFT(0.28), {"snapshot": snapshot}, REDUCTIONS[how])
    other = logits_by_verl("trimtab_psft", spread(snapshot), spread(snapshot), ids, how, clip_ratio_high=0.28)
    check_same(one, other)


def test_psft_worked_by_hand():
    """Ratios 1, 2 and 1/2 with epsilon 0.28: losses -1, -1.28, -1/2; gradients -1, 0, -1/2, over nine tokens."""
    log_prob = torch.zeros(MASK.shape)
    log_prob[0, :3] = torch.tensor([1.0, 2.0, 0.5]).log()
    loss, grad = by_verl("trimtab_psft", log_prob, torch.zeros(MASK.shape), torch.full(MASK.shape, -7.0),
                         clip_ratio_high=0.28)  # fmt: skip
    assert NUM_TOKENS == 12
    torch.testing.assert_close(loss, torch.tensor(-(1 + 1.28 + 0.5 + 9) / 12))
    torch.testing.assert_close(grad[0], torch.tensor([-1.0, 0.0, -0.5, 0.0, 0.0]) / 12)


@pytest.mark.parametrize("num_candidates", [1, 3])
def test_lco_is_that_of_our_trainer(num_candidates):
    ids = torch.stack([torch.randperm(VOCAB, generator=torch.Generator().manual_seed(i)) for i in range(NUM_TOKENS)])
    ids = ids[:, :num_candidates]
    before = likely(NUM_TOKENS, seed=6).gather(1, ids)
    advantages, beta = F.pad(numbers(NUM_TOKENS, 1, seed=7), (0, num_candidates - 1)), torch.full((NUM_TOKENS,), 0.5)
    held = Candidates(ids, before, advantages, torch.ones_like(ids, dtype=torch.bool))
    signals = {"targets": ids[:, 0], "candidates": held, "beta": beta}
    one = logits_by_us(lco.LCO("kld", "old", keep=True), signals)
    shift = spread(advantages[:, 0] / 0.5)
    shape = ids[:, 0] if num_candidates == 1 else ids
    old = spread(before[:, 0] if num_candidates == 1 else before)
    check_same(one, logits_by_verl("trimtab_lco", old, shift, shape))


def test_a_lco_step_of_no_advantage_has_no_gradient_on_policy():
    log_prob = likely(*MASK.shape)[..., 0]
    loss, grad = by_verl("trimtab_lco", log_prob, log_prob, torch.zeros(MASK.shape))
    torch.testing.assert_close(loss, torch.tensor(0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(grad, torch.zeros(MASK.shape), atol=1e-6, rtol=0)


@pytest.mark.parametrize("sampled", [True, False])
def test_the_surrogate_of_hpd_is_that_of_our_trainer(sampled):
    label, draw = (torch.randint(VOCAB, (NUM_TOKENS,), generator=torch.Generator().manual_seed(i)) for i in (1, 2))
    ids = torch.stack([label, draw if sampled else label], dim=1)
    before, teacher = (likely(NUM_TOKENS, seed=seed) for seed in (6, 7))
    config = hpd.Config(mini_batches=2, student_sampling=sampled)
    held = Candidates(ids, before.gather(1, ids))
    one = logits_by_us(hpd.HPD(config), {"targets": label, "teacher": teacher, "snapshot": held})
    pull, push = hpd.hpd_weights(
        *(before.gather(1, ids)[:, 0], teacher.gather(1, ids)[:, 0]),
        *(before.gather(1, ids)[:, 1], teacher.gather(1, ids)[:, 1], ids[:, 0] == ids[:, 1]),
        student_sampling=sampled,
    )
    weight = torch.stack([pull, push], dim=1) if sampled else pull
    given = (ids, before.gather(1, ids)) if sampled else (label, before.gather(1, ids)[:, 0])
    bounds = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 10.0}
    check_same(one, logits_by_verl("trimtab_hpd", spread(given[1]), spread(weight), given[0], **bounds))


@pytest.mark.parametrize("alpha", [0.1, 0.0])
def test_distrl_is_that_of_our_trainer(alpha):
    """With candidates and without."""
    config = distrl.Config(alpha=alpha, num_candidates=3) if alpha else distrl.Config(alpha=0.0)
    ids = torch.stack([torch.randperm(VOCAB, generator=torch.Generator().manual_seed(i)) for i in range(NUM_TOKENS)])
    ids = ids[:, :3]
    before = likely(NUM_TOKENS, seed=6).gather(1, ids)
    mask = before.exp() > 0.1
    mask[:, 0] = True
    held = Candidates(ids, before, numbers(NUM_TOKENS, 3, seed=8), mask)
    advantages, scale = numbers(NUM_TOKENS, seed=9), torch.full((NUM_TOKENS,), 1.7)
    signals = {"targets": ids[:, 0], "candidates": held, "advantages": advantages, "candidate_scale": scale}
    one = logits_by_us(distrl.DistRL(config), {**signals, "old": before[:, 0]})
    shape, old, given = ids[:, 0], before[:, 0], advantages
    if alpha:
        shape, old = ids, before
        given = torch.cat([advantages[:, None], ours.folded(held, scale, alpha)], dim=1)
    bounds = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 3.0}
    check_same(one, logits_by_verl("trimtab_distrl", spread(old), spread(given), shape, **bounds))


@pytest.mark.parametrize("name", ["trimtab_distrl", "trimtab_hpd"])
def test_without_candidates_the_surrogate_is_verls_own(name):
    log_prob, old = (likely(*MASK.shape, seed=seed)[..., 0] for seed in (1, 2))
    advantages = numbers(*MASK.shape, seed=3)
    for how in (*REDUCTIONS, "token-sum", "seq-mean-token-sum-norm"):
        bounds = {"clip_ratio_low": 0.2, "clip_ratio_high": 0.28, "clip_ratio_c": 3.0, "how": how}
        one, other = (by_verl(loss, log_prob, old, advantages, **bounds) for loss in (name, "vanilla"))
        check_same(one, other)


def test_what_is_masked_changes_nothing():
    log_prob, old = (likely(*MASK.shape, seed=seed)[..., 0] for seed in (1, 2))
    advantages = numbers(*MASK.shape, seed=3)
    outside = ~MASK.bool()
    for name in ("trimtab_psft", "trimtab_lco", "trimtab_hpd", "trimtab_distrl"):
        one = by_verl(name, log_prob, old, advantages)
        other = by_verl(name, *(value.masked_fill(outside, -9.0) for value in (log_prob, old, advantages)))
        check_same(one, other)
        assert not one[1][outside].any()


def test_weights_of_another_sampling_policy_multiply_the_tokens():
    log_prob = likely(*MASK.shape)[..., 0]
    given = {"old_log_prob": log_prob, "log_prob": log_prob, "advantages": log_prob, "response_mask": MASK}
    more = {"config": actor(), "rollout_is_weights": torch.full(MASK.shape, 0.5)}
    plain, _ = get_policy_loss_fn("trimtab_psft")(**given, config=actor())
    half, _ = get_policy_loss_fn("trimtab_psft")(**given, **more)
    torch.testing.assert_close(half, plain / 2)


def test_shapes_that_do_not_fit_are_refused():
    two, three = torch.zeros(MASK.shape), torch.zeros(*MASK.shape, 3)
    with pytest.raises(ours.VerlError, match=r"policy loss trimtab_hpd.*\[4, 5\]"):
        by_verl("trimtab_hpd", three, three, two)


def test_verl_finds_the_module_by_its_environment_variable():
    look = (
        "import verl, verl.trainer.ppo.core_algos as c;"
        "print(*(n for n in [*c.ADV_ESTIMATOR_REGISTRY, *c.POLICY_LOSS_REGISTRY] if n.startswith('trimtab')))"
    )
    environment = {**os.environ, "VERL_USE_EXTERNAL_MODULES": "trimtab.integrations.verl"}
    done = subprocess.run([sys.executable, "-c", look], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    names = "q_rm q_rm_centered distrl opd lco psft lco hpd distrl"
    assert done.stdout.split() == [f"trimtab_{name}" for name in names.split()]


def negated(real):
    return lambda *given: -real(*given)


def turned(real):
    return lambda one, other: real(other, one)


def unmasked(real):
    return lambda loss_mask, **given: real(loss_mask=torch.ones_like(loss_mask), **given)


def everywhere(real):
    return lambda mask: real(torch.ones_like(mask))


def ungrouped(real):
    return lambda rewards, mask, index, **signals: real(rewards, mask, range(len(mask)), **signals)


@pytest.mark.parametrize(
    ("name", "wrong", "test"),
    [
        ("clipped_surrogate", negated, partial(test_distrl_is_that_of_our_trainer, 0.1)),
        ("clipped_surrogate", negated, partial(test_the_surrogate_of_hpd_is_that_of_our_trainer, True)),
        ("forward_kl", turned, partial(test_lco_is_that_of_our_trainer, 3)),
        ("agg_loss", unmasked, partial(test_psft_is_that_of_our_trainer_whatever_verl_divides_by, "token-mean")),
        ("tokens", everywhere, test_token_scores_worked_by_hand),
        ("rollouts", ungrouped, test_the_reward_part_of_distrl_is_that_of_the_prompts_group),
    ],
)
def test_a_mistake_of_sign_mask_or_group_is_seen(monkeypatch, name, wrong, test):
    monkeypatch.setattr(ours, name, wrong(getattr(ours, name)))
    with pytest.raises((AssertionError, RuntimeError, IndexError)):
        test()


PAGE = Path(__file__).parents[2] / "docs" / "guides" / "verl.md"
CONFIGURATIONS = [block.split() for block in re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)]


@pytest.mark.parametrize("overrides", CONFIGURATIONS, ids=lambda one: one[0].partition("=")[2])
def test_the_documented_configurations_are_verls_and_name_what_is_registered(overrides):
    needed = ["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=1"]
    with initialize_config_module("verl.trainer.config", version_base=None):
        whole = compose("ppo_trainer", overrides=[*overrides, *needed])
    found = omega_conf_to_dataclass(whole.actor_rollout_ref.actor)
    assert callable(get_policy_loss_fn(found.policy_loss.loss_mode))
    assert callable(get_adv_estimator_fn(omega_conf_to_dataclass(whole.algorithm).adv_estimator))


def test_every_registered_name_has_its_configuration():
    said = " ".join(" ".join(one) for one in CONFIGURATIONS)
    assert len(CONFIGURATIONS) == 6
    assert set(re.findall(r"trimtab_\w+", said)) == {
        f"trimtab_{name}" for name in ("q_rm", "distrl", "opd", "psft", "lco", "hpd")
    }
