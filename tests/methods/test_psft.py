"""PSFT: values and gradients of the clipped ratio, its limits, and the window that its snapshot lives for."""

import math

import pytest
import torch
from pydantic import ValidationError

import tiny
from tiny_training import trainer
from trimtab.core import IGNORE, Plan, PlanError, Requirements, TokenBatch, reduce, weights
from trimtab.methods import sft
from trimtab.methods.psft import METHOD, PSFT, Config, psft_values
from trimtab.objectives.likelihood import Likelihood

LABELS = torch.tensor([[IGNORE, IGNORE, 3, 5, 2], [IGNORE, 4, 1, IGNORE, IGNORE]])
NUM_TOKENS = 5


def log(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).log()


def batch(shift: float = 0.0, seed: int = 0) -> tuple[torch.Tensor, TokenBatch]:
    """Logits with gradient, and the answer tokens with a snapshot whose ratio is exp(shift) at each of them."""
    logits = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed)).requires_grad_()
    tokens = TokenBatch.align(logits, LABELS)
    return logits, tokens.with_signals(snapshot=tokens.logprobs().detach() - shift)


def mean(objective, tokens: TokenBatch) -> torch.Tensor:
    return reduce(objective(tokens), weights(tokens, "token_mean"))


# --- values and gradients ---------------------------------------------------------------------------------------


def test_the_loss_is_minus_the_ratio_up_to_the_clip():
    old = log(0.5, 0.1, 0.1, 0.1, 0.4)
    new = log(0.5, 0.12, 0.128, 0.3, 0.004)
    wanted = -torch.tensor([1.0, 1.2, 1.28, 1.28, 0.01], dtype=torch.float64)
    torch.testing.assert_close(psft_values(new, old, 0.28), wanted)


def test_the_gradient_at_the_log_probability_is_minus_the_ratio_and_exactly_zero_past_the_clip():
    old = log(0.2, 0.2, 0.2, 0.2)
    new = log(0.002, 0.2, 0.25, 0.26).requires_grad_()
    psft_values(new, old, 0.28).sum().backward()
    torch.testing.assert_close(new.grad[:3], -torch.tensor([0.01, 1.0, 1.25], dtype=torch.float64))
    assert new.grad[3] == 0


def test_without_epsilon_nothing_is_clipped_at_either_end():
    new = log(0.002, 0.9).requires_grad_()
    values = psft_values(new, log(0.2, 0.1), None)
    values.sum().backward()
    torch.testing.assert_close(values, -torch.tensor([0.01, 9.0], dtype=torch.float64))
    torch.testing.assert_close(new.grad, values.detach())


def test_a_very_large_epsilon_is_no_clip():
    new, old = log(0.002, 0.9, 0.3), log(0.2, 0.1, 0.2)
    torch.testing.assert_close(psft_values(new, old, 1e6), psft_values(new, old, None))


def test_log_ratios_beyond_20_are_clamped_and_teach_nothing():
    new = torch.tensor([-90.0, -1.0, -30.0]).requires_grad_()
    values = psft_values(new, torch.tensor([-1.0, -90.0, -12.0]), None)
    values.sum().backward()
    torch.testing.assert_close(values, -torch.tensor([math.exp(-20), math.exp(20), math.exp(-18)]))
    torch.testing.assert_close(new.grad, torch.tensor([0.0, 0.0, -math.exp(-18)]))


def test_the_snapshot_gets_no_gradient():
    old = log(0.2).requires_grad_()
    assert not psft_values(log(0.1), old, 0.28).requires_grad


def test_every_value_lies_between_minus_1_minus_epsilon_and_0():
    old, new = (torch.rand(1000, generator=torch.Generator().manual_seed(s)).log() for s in (1, 2))
    values = psft_values(new, old, 0.28)
    assert values.min().item() == pytest.approx(-1.28)
    assert (values < 0).all()


# --- as an objective --------------------------------------------------------------------------------------------


def test_a_fresh_snapshot_gives_minus_1_and_the_gradient_of_sft():
    logits, tokens = batch()
    loss = mean(PSFT(0.28), tokens)
    (found,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(mean(Likelihood(), tokens), logits)
    assert loss.item() == pytest.approx(-1.0, abs=1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_a_snapshot_that_is_not_given_is_the_policy_itself():
    logits, tokens = batch(shift=0.2)
    alone = TokenBatch.align(logits, LABELS)
    losses = PSFT(0.28)(alone)
    assert torch.equal(losses.values, -torch.ones(NUM_TOKENS))
    (found,) = torch.autograd.grad(losses.values.sum(), logits)
    (wanted,) = torch.autograd.grad(Likelihood()(TokenBatch.align(logits, LABELS)).values.sum(), logits)
    torch.testing.assert_close(found, wanted)
    assert not torch.equal(PSFT(0.28)(tokens).values, losses.values)


def test_with_every_ratio_past_the_clip_the_gradient_is_exactly_zero():
    logits, tokens = batch(shift=0.3)  # e^0.3 = 1.35
    loss = mean(PSFT(0.28), tokens)
    loss.backward()
    assert loss.item() == pytest.approx(-1.28, abs=1e-6)
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_far_below_1_the_gradient_at_the_logits_is_the_ratio_times_that_of_sft():
    logits, tokens = batch(shift=-3.0)
    mean(PSFT(0.28), tokens).backward()
    policy = tokens.logits().detach().softmax(-1)
    one_hot = torch.eye(7)[tokens.targets]
    found = TokenBatch.align(logits.grad, LABELS).logits()
    torch.testing.assert_close(found, -math.exp(-3.0) * (one_hot - policy) / NUM_TOKENS, rtol=1e-4, atol=1e-8)


def test_the_metrics_tell_what_was_clipped_and_how_far_the_policy_moved():
    _, tokens = batch()
    shift = torch.tensor([0.5, 0.0, -0.5, 0.3, 0.2])
    tokens = tokens.with_signals(snapshot=tokens.logprobs().detach() - shift)
    metrics = PSFT(0.28)(tokens).metrics
    assert metrics["clip_fraction"][0] == 2
    assert all(number == NUM_TOKENS for _, number in metrics.values())
    torch.testing.assert_close(metrics["ratio"][0], shift.exp().sum())
    torch.testing.assert_close(metrics["log_ratio"][0], shift.sum())
    torch.testing.assert_close(metrics["nll"][0], -tokens.logprobs().sum().detach())
    assert PSFT(None)(tokens).metrics["clip_fraction"][0] == 0


def test_the_report_counts_the_tokens_that_were_clipped_in_training_alone():
    objective = PSFT(0.28)
    _, tokens = batch()
    past = tokens.with_signals(snapshot=tokens.logprobs().detach() - torch.tensor([0.5, 0.5, 0.0, 0.0, 0.5]))
    with torch.no_grad():
        objective(past)
    assert objective.tables(str) == {"Tokens clipped most": []}
    objective(past)
    again = tokens.with_signals(snapshot=tokens.logprobs().detach() - torch.tensor([0.0, 0.5, 0.0, 0.0, 0.0]))
    objective(again)
    assert objective.clipped.tolist() == [0, 1, 0, 1, 0, 2, 0]  # answers are 3 5 2 and 4 1
    (rows,) = objective.tables(lambda ids: f"t{ids[0]}").values()
    assert rows[0] == {"token": "'t5'", "times": 2}
    assert {row["token"] for row in rows} == {"'t1'", "'t3'", "'t5'"}
    other = PSFT(0.28)
    other.load_state_dict(objective.state_dict())
    assert other.tables(str) == objective.tables(str)


# --- in training ------------------------------------------------------------------------------------------------


def trained(folder, plan, **training) -> tuple[dict[str, torch.Tensor], list[dict]]:
    policy = tiny.model("llama_tied")
    made = trainer(folder, plan, policy, max_steps=6, logging_steps=1, learning_rate=0.3, **training)
    made.train()
    return {name: value.detach().clone() for name, value in policy.named_parameters()}, made.state.log_history[:-1]


def test_with_a_new_snapshot_at_each_update_it_is_sft(tmp_path):
    wanted, _ = trained(tmp_path, sft.METHOD.build(sft.Config(), None))
    found, log = trained(tmp_path, METHOD.build(Config(refresh=1), None))
    assert tiny.relative_error(found, wanted) < 1e-6
    assert all(entry["ratio"] == 1 for entry in log)


def test_with_an_older_snapshot_it_moves_the_policy_less_far_than_sft(tmp_path):
    start = {name: value.detach() for name, value in tiny.model("llama_tied").named_parameters()}
    plain, _ = trained(tmp_path, sft.METHOD.build(sft.Config(), None))
    found, log = trained(tmp_path, METHOD.build(Config(refresh=3), None))
    assert [entry["ratio"] == 1 for entry in log] == [True, False, False, True, False, False]
    assert all(entry["clip_fraction"] > 0 for entry in log if entry["ratio"] != 1)
    assert tiny.relative_error(found, start) < tiny.relative_error(plain, start)


def test_without_a_refresh_the_first_snapshot_stays_for_ever(tmp_path):
    _, log = trained(tmp_path, METHOD.build(Config(refresh=None), None))
    assert [entry["ratio"] == 1 for entry in log] == [True] + 5 * [False]


@pytest.mark.fast("4")
@pytest.mark.parametrize("size", [1, 4])
def test_accumulation_changes_no_update_within_a_window(tmp_path, size):
    whole, _ = trained(tmp_path, METHOD.build(Config(refresh=3), None))
    split, _ = trained(
        tmp_path,
        METHOD.build(Config(refresh=3), None),
        per_device_train_batch_size=size,
        gradient_accumulation_steps=8 // size,
    )
    assert tiny.relative_error(split, whole) < 1e-5


def test_a_warm_up_is_sft_and_the_first_snapshot_is_taken_behind_it(tmp_path):
    found, log = trained(tmp_path, METHOD.build(Config(refresh=2, warmup_sft_steps=3), None))
    plain, plain_log = trained(tmp_path, sft.METHOD.build(sft.Config(), None))
    assert [entry["loss"] for entry in log[:3]] == pytest.approx([entry["loss"] for entry in plain_log[:3]], rel=1e-5)
    assert [entry["ratio"] == 1 for entry in log] == [True] * 4 + [False, True]
    assert [round(entry["loss"], 3) for entry in log[3:]] == [-1.0, pytest.approx(-1.1, abs=0.2), -1.0]
    six, _ = trained(tmp_path, METHOD.build(Config(refresh=2, warmup_sft_steps=6), None))
    assert tiny.relative_error(six, plain) < 1e-6
    assert tiny.relative_error(found, plain) > 1e-3


def test_a_run_that_continues_within_its_warm_up_has_no_snapshot_yet():
    made = METHOD.build(Config(refresh=2, warmup_sft_steps=3), None)
    (snapshot,) = made.signals
    policy = tiny.model("llama_tied")
    snapshot.load_state_dict({})
    for step, fresh, kept in ((1, True, 0), (2, True, 0), (3, True, 1), (4, False, 1), (5, True, 1)):
        snapshot.before_update(policy, step, 0)
        assert (snapshot.fresh, bool(snapshot.state_dict())) == (fresh, bool(kept))


# --- plan and settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "every", "window"),
    [
        ({}, 8, None),
        ({"refresh": 4, "inner_epochs": 3}, 12, (4, 3)),
        ({"refresh": None}, None, None),
        ({"refresh": 1, "inner_epochs": 2}, 2, (1, 2)),
    ],
)
def test_a_snapshot_lives_as_long_as_its_window_is_gone_through(settings, every, window):
    plan = METHOD.build(Config(**settings), None)
    (snapshot,) = plan.signals
    assert snapshot.every == every
    assert METHOD.requirements(Config(**settings)).window == window
    assert plan.reduction == "token_mean"
    assert plan.objective.epsilon == 0.28


def test_the_defaults_are_the_papers_and_no_other_model_is_wanted():
    config = Config()
    assert (config.epsilon, config.refresh, config.inner_epochs) == (0.28, 8, 1)
    assert METHOD.requirements(config) == Requirements()


@pytest.mark.parametrize(
    ("loss_agg", "wanted"),
    [
        ("token-mean", (3 * 1.2 + 0.5) / 4),
        ("seq-mean-token-sum", (3 * 1.2 + 0.5) / 2),
        ("seq-mean-token-mean", (1.2 + 0.5) / 2),
    ],
)
def test_tokens_rows_or_their_sums_count_the_same(loss_agg, wanted):
    made = METHOD.build(Config(loss_agg=loss_agg), None)
    labels = torch.tensor([[IGNORE, 3, 5, 2], [IGNORE, 4, IGNORE, IGNORE], [IGNORE] * 4])  # 3, 1 and no tokens
    tokens = TokenBatch.align(torch.randn(3, 4, 7), labels)
    old = tokens.logprobs() - torch.tensor([1.2, 1.2, 1.2, 0.5]).log()
    loss = reduce(made.objective(tokens.with_signals(snapshot=old)), weights(tokens, made.reduction))
    assert loss.item() == pytest.approx(-wanted, rel=1e-5)


def test_a_warm_up_that_would_end_within_a_window_is_refused():
    with pytest.raises(ValidationError, match="warmup_sft_steps is 5, and a window takes 6 updates .* a multiple of 6"):
        Config(refresh=3, inner_epochs=2, warmup_sft_steps=5)
    assert Config(refresh=3, inner_epochs=2, warmup_sft_steps=12).warmup_sft_steps == 12


def test_a_plan_without_a_snapshot_is_refused():
    with pytest.raises(PlanError, match="PSFT needs the signal snapshot"):
        Plan(PSFT(0.28))


@pytest.mark.parametrize("setting", [{"epsilon": 0.0}, {"epsilon": -0.1}, {"refresh": 0}, {"inner_epochs": 0}])
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Config(**setting)
