"""A critic reads what stands before a token and learns returns; a prefix-value reward model learns outcomes online."""

from copy import deepcopy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tiny
from trimtab.core import RolloutBatch, TokenBatch, answer_mask
from trimtab.models.forward import add_objective_forward
from trimtab.models.scalar_head import add_score_forward, as_critic, with_scalar_head
from trimtab.signals.auxiliary import (
    OnlineAnswerReward,
    OnlinePairReward,
    OnlinePrefixReward,
    OnlineReward,
    ValueModel,
    pairs_of,
)
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.reward_model import ScoreSpec, TokenRewardModel

ROWS = tiny.rows(((3, 5), (2, 4), (1, 6), (2, 3)))
ANSWERED = TokenBatch.from_labels(ROWS.labels)


def rollouts(old, outcome, group, size: int, micro: int | None = None) -> RolloutBatch:
    return RolloutBatch(ROWS.inputs(), outcome, group, old, size, micro)


def value_pass(made, returns, size: int, micro: int | None = None) -> dict[str, float]:
    return made.after_advantages(rollouts(None, returns, returns, size, micro), {"returns": returns})


def critic(learning_rate: float = 0.01, dtype: torch.dtype = torch.float32, **settings) -> ValueModel:
    return ValueModel(as_critic(tiny.model("llama").to(dtype), seed=3), learning_rate, **settings)


def test_a_value_is_read_before_the_token_and_knows_nothing_of_it():
    made = critic()
    values = made(None, ROWS.inputs())["values"]
    with torch.no_grad():
        scores = made.model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits[..., 0]
    torch.testing.assert_close(values, scores[:, :-1][answer_mask(ROWS.labels)])
    first = ANSWERED.position == 0
    other = ROWS.input_ids.clone()
    other[ROWS.labels != -100] = 7  # the answers are others, the prompts the same
    again = made(None, {**ROWS.inputs(), "input_ids": other})["values"]
    assert torch.equal(values[first], again[first])
    assert not torch.allclose(values[~first], again[~first])


def test_a_critic_of_a_reward_model_has_its_layers_and_a_head_of_its_own():
    judge = with_scalar_head(tiny.model("llama"), seed=0)
    add_score_forward(judge)
    made = as_critic(deepcopy(judge), seed=5)
    assert not torch.equal(made.score.weight, judge.score.weight)
    for (name, mine), (_, theirs) in zip(made.model.named_parameters(), judge.model.named_parameters(), strict=True):
        assert torch.equal(mine, theirs), name
    assert torch.equal(made.score.weight, as_critic(deepcopy(judge), seed=5).score.weight)


@pytest.mark.parametrize("reduction", ["token_mean", "sequence_mean"])
def test_a_pass_of_the_critic_is_adamw_on_the_mean_square_of_its_tokens_or_answers(reduction):
    made, returns = critic(reduction=reduction), torch.linspace(-1, 1, len(ANSWERED))
    plain = as_critic(tiny.model("llama"), seed=3)
    optimizer = torch.optim.AdamW(plain.parameters(), lr=0.01, weight_decay=0.0)
    losses = []
    for rows in ((0, 1), (2, 3)):
        own = torch.isin(ANSWERED.row, torch.tensor(rows))
        some = list(rows)
        scores = plain(input_ids=ROWS.input_ids[some], attention_mask=ROWS.attention_mask[some]).logits[..., 0]
        values = scores[:, :-1][answer_mask(ROWS.labels[some])]
        squares = (values - returns[own]).square()
        of_rows = [squares[ANSWERED.row[own] == row].mean() for row in rows]
        loss = squares.mean() if reduction == "token_mean" else sum(of_rows) / 2
        loss.backward()
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    found = value_pass(made, returns, 2)
    assert found["critic_loss"] == pytest.approx(sum(losses) / 2, rel=1e-4)
    for mine, theirs in zip(made.model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_critic_that_is_loaded_continues_as_the_one_that_was_saved():
    returns = torch.linspace(-1, 1, len(ANSWERED))
    one, other = critic(), critic()
    value_pass(one, returns, 2)
    other.load_state_dict(one.state_dict())
    for made in (one, other):
        value_pass(made, returns, 2)
    for mine, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def online(
    adaptive: Any = True,
    learning_rate: float = 0.01,
    dtype: torch.dtype = torch.float32,
    kind: Any = OnlinePrefixReward,
) -> OnlineReward:
    model = tiny.model("llama_tied", 4).to(dtype)
    add_objective_forward(model)
    reference = FrozenModel(tiny.model("llama_tied", 4), name="reference", reads="answers")
    credit = TokenRewardModel(model, ScoreSpec("ratio", "prefix_mean", 10.0, outcomes=True), reference)
    if kind is OnlinePairReward:
        return kind(credit, learning_rate, beta=0.3, when="before")
    beta, margin = (10.0, 5.0) if kind is OnlinePrefixReward else (0.3, 1.0)
    return kind(credit, learning_rate, beta=beta, margin=margin, adaptive=adaptive, when="before")


@pytest.mark.parametrize("adaptive", [True, False, "margin", "weight"])
def test_outcomes_are_learnt_by_the_loss_of_the_paper(adaptive):
    made = online(adaptive)
    outcome, group = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 0, 1])
    old = torch.linspace(-3, -1, len(ANSWERED))
    with torch.no_grad():
        log_p = made.model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits.log_softmax(-1)
    ratios = log_p[:, :-1].gather(2, ROWS.input_ids[:, 1:, None])[..., 0][answer_mask(ROWS.labels)] - old
    wanted = []
    for row, right in enumerate((True, False, False, True)):
        own = ratios[ANSWERED.row == row]
        mean = own.cumsum(0) / torch.arange(1, len(own) + 1)
        share, mixed = (1 / 3, True) if row < 3 else (1.0, False)  # a group alone in being right says nothing
        logit = torch.logit(torch.tensor(share)).item() if mixed else 0.0
        margin = 5 - (logit if right else -logit) if adaptive in (True, "margin") else 5.0
        rare = 1 / (2 * share) if right else 1 / (2 * (1 - share)) if mixed else 0.0
        weight = rare if adaptive in (True, "weight") else 1.0
        loss = -F.logsigmoid(10 * mean * (1 if right else -1) - margin).mean()
        wanted.append(weight * loss if mixed else torch.tensor(0.0))
    found = made.learn(rollouts(old, outcome, group, size=4))
    assert found["reward_model_loss"] == pytest.approx((sum(wanted) / 4).item(), rel=1e-4)


def answer_ratios(made, old) -> torch.Tensor:
    """[R] sums of log-ratios, from full logits."""
    with torch.no_grad():
        log_p = made.model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits.log_softmax(-1)
    ratios = log_p[:, :-1].gather(2, ROWS.input_ids[:, 1:, None])[..., 0][answer_mask(ROWS.labels)] - old
    return ANSWERED.row_sum(ratios)


def test_outcomes_of_whole_answers_are_learnt_as_of_an_implicit_prm():
    made, old = online(True, kind=OnlineAnswerReward), torch.linspace(-3, -1, len(ANSWERED))
    value = 0.3 * answer_ratios(made, old)
    share = 1 / 3
    wanted = []
    for row, right in enumerate((True, False, False)):  # the fourth is right, and alone
        logit = torch.logit(torch.tensor(share)).item()
        loss = -F.logsigmoid((1 if right else -1) * value[row] - (1 - logit if right else 1 + logit))
        wanted.append((1 / (2 * share) if right else 1 / (2 * (1 - share))) * loss)
    outcome, group = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 0, 1])
    found = made.learn(rollouts(old, outcome, group, size=4))
    assert found["reward_model_loss"] == pytest.approx((sum(wanted) / 4).item(), rel=1e-4)


def test_pairs_of_correct_and_incorrect_completions_are_learnt_as_by_a_dpo_reward_model():
    made, old = online(kind=OnlinePairReward), torch.linspace(-3, -1, len(ANSWERED))
    value = 0.3 * answer_ratios(made, old)
    wanted = -F.logsigmoid(value[1] - value[0]) - F.logsigmoid(value[2] - value[3])
    outcome, group = torch.tensor([0.0, 1.0, 1.0, 0.0]), torch.tensor([0, 0, 1, 1])
    assert made.learn(rollouts(old, outcome, group, size=4))["reward_model_loss"] == pytest.approx(wanted.item())
    found = online(kind=OnlinePairReward).learn(rollouts(old, outcome * 0, group, size=4))
    assert (found["reward_model_loss"], found["one_outcome"]) == (0, 1)


def test_pairs_are_zipped_within_a_prompt_and_hold_no_empty_answer():
    outcome = torch.tensor([1, 0, 0, 1, 1, 1, 0, 1, 0, 1])
    group = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 2])
    lengths = torch.tensor([3, 1, 2, 2, 1, 1, 0, 4, 2, 1])
    assert pairs_of(outcome, group, lengths).tolist() == [0, 1, 3, 2, 7, 8]
    assert pairs_of(outcome[4:6], group[4:6], lengths[4:6]).tolist() == []


def test_what_it_learnt_is_what_advantages_are_made_of():
    made, inputs = online(True), ROWS.inputs()
    credit = TokenRewardModel(made.model, ScoreSpec("logprob", "mean", 1.0, outcomes=False))
    made.model.requires_grad_(True)
    before = credit(None, inputs)["token_scores"]
    rewards, group = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1])
    old = torch.full((len(ANSWERED),), -3.0)
    losses = [made.learn(rollouts(old, rewards, group, size=4))["reward_model_loss"] for _ in range(6)]
    assert losses[-1] < losses[0]
    gained = ANSWERED.row_sum(credit(None, inputs)["token_scores"] - before)
    assert (gained[rewards > 0] > gained[rewards < 1].max()).all()


# ---------------------------------------------------------------- how an auxiliary model learns

RETURNS = torch.linspace(-1, 1, len(ANSWERED))
OUTCOME, GROUP = torch.tensor([1.0, 0.0, 0.0, 1.0]), torch.tensor([0, 0, 1, 1])
OLD = torch.full((len(ANSWERED),), -3.0)


def learn(made, size: int = 4, micro: int | None = None) -> float:
    """One pass; its loss."""
    if isinstance(made, ValueModel):
        return value_pass(made, RETURNS, size, micro)["critic_loss"]
    return made.learn(rollouts(OLD, OUTCOME, GROUP, size, micro))["reward_model_loss"]


LEARNERS = {
    "critic": critic,
    "critic, answers": lambda *args: critic(*args, reduction="sequence_mean"),
    "prefixes": lambda *args: online(True, *args),
    "answers": lambda *args: online(True, *args, kind=OnlineAnswerReward),
    "pairs": lambda *args: online(True, *args, kind=OnlinePairReward),
}


@pytest.mark.fast("answers-dtype0", "pairs-dtype1", "prefixes-dtype0", "critic-dtype1")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_model_in_half_precision_learns_as_one_in_float32(name, dtype):
    made, whole = LEARNERS[name](1e-5, dtype), LEARNERS[name](1e-5)
    start = {key: p.detach().clone() for key, p in made.model.named_parameters()}
    for p, other in zip(whole.model.parameters(), made.model.parameters(), strict=True):
        p.data.copy_(other)  # the same weights, rounded
    begun = {key: p.detach().clone() for key, p in whole.model.named_parameters()}
    for _ in range(20):
        learn(made), learn(whole)
    mine = torch.cat([(p - start[key].float()).flatten() for key, p in made.model.named_parameters()])
    theirs = torch.cat([(p - begun[key]).flatten() for key, p in whole.model.named_parameters()])
    assert all(p.dtype == torch.float32 for p in made.model.parameters() if p.requires_grad)
    assert theirs.abs().max() > 1e-4
    assert torch.cosine_similarity(mine, theirs, dim=0) > (0.99 if dtype == torch.float16 else 0.9)
    assert mine.norm().item() == pytest.approx(theirs.norm().item(), rel=0.1)


@pytest.mark.parametrize("name", LEARNERS)
def test_micro_batches_learn_what_one_large_batch_does_and_no_forward_is_larger(name):
    """Their gradients add up; an update divides by its own count whatever its micro-batches hold."""
    whole = LEARNERS[name]()
    sgd(whole)
    losses = [learn(whole, 4)]
    for micro in (1, 2, 3):
        parts = LEARNERS[name]()
        sgd(parts)
        sizes = rows_of_forwards(parts)
        losses.append(learn(parts, 4, micro))
        assert max(sizes) == (2 if name == "pairs" else micro)  # a pair is not parted
        for mine, theirs in zip(parts.model.parameters(), whole.model.parameters(), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=1e-6)
    assert losses == pytest.approx([losses[0]] * 4, rel=1e-5)


def rows_of_forwards(made) -> list[int]:
    """Is filled while it learns."""
    sizes: list[int] = []
    made.model.get_input_embeddings().register_forward_hook(lambda m, args, out: sizes.append(len(args[0])))
    return sizes


def sgd(made) -> None:
    """In AdamW's first step the size of a gradient does not show, and its rounding does."""
    made._optimizer = torch.optim.SGD(made._trained, lr=0.1)


def test_each_forward_is_as_wide_as_its_longest_row():
    made, widths = critic(), []
    made.model.get_input_embeddings().register_forward_hook(lambda m, args, out: widths.append(args[0].size(1)))
    learn(made, 4, 1)
    assert widths == [8, 6, 7, 5]


def test_batches_of_one_outcome_teach_nothing_and_are_counted():
    made = online(True)
    learn(made)  # so that the optimizer has momentum
    before = [p.detach().clone() for p in made.model.parameters()]
    alike = torch.tensor([1.0, 1.0, 0.0, 0.0])  # of each prompt
    found = made.learn(rollouts(OLD, alike, GROUP, 4))
    assert (found["reward_model_loss"], found["one_outcome"], found["share_correct"]) == (0, 1, 0.5)
    for p, was in zip(made.model.parameters(), before, strict=True):
        assert torch.equal(p, was)
    assert made.remarks()[0].startswith("in 1 of 2 batches, all completions of each prompt had the same outcome")
    again = online(True)
    again.load_state_dict(made.state_dict())
    assert again.remarks() == made.remarks()
    assert not online(True).remarks()


def test_an_update_whose_groups_have_one_outcome_makes_no_step():
    made = online(True)
    outcome = torch.tensor([1.0, 0.0, 1.0, 1.0])
    made.learn(rollouts(OLD, outcome, GROUP, size=2))
    state = made._optimizer.state[made._trained[0]]
    assert state["step"] == 1  # the second update holds one group, all of it right
