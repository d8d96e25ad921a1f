"""The weights that correct for an engine's probabilities: worked by hand, as TRL's, and in the gradient."""

import math
from types import SimpleNamespace

import pytest
import torch

import tiny
from tiny_rollout_trainer import Grouped
from trimtab.core import IGNORE, Plan, TokenBatch, reduce, weights
from trimtab.core.loss import IMPORTANCE, by_importance
from trimtab.methods.rloo import WholeAnswers
from trimtab.models.forward import ObjectiveCall, add_objective_forward
from trimtab.objectives.policy_gradient import PolicyGradient, Reinforce
from trimtab.train.importance import Correction, CorrectionError, check_correction, correction_of, importance, measures
from trimtab.train.layout import laid_out

LABELS = torch.tensor([[IGNORE, 3, 4, IGNORE], [IGNORE, IGNORE, IGNORE, IGNORE], [IGNORE, 5, 6, 7]])
OLD = torch.tensor([0.5, 0.5, 0.2, 0.8, 0.3]).log()
SAMPLED = torch.tensor([0.25, 0.625, 0.4, 0.2, 0.3]).log()
# ratios of tokens: 2, 0.8, 0.5, 4, 1; of completions: 1.6, 2


def weighed(mode, low=None, high=None, old=OLD, sampled=SAMPLED):
    return importance(TokenBatch.from_labels(LABELS), old, sampled, Correction(mode, low, high))


@pytest.mark.parametrize(
    "mode, low, high, wanted",
    [
        ("token_truncate", None, 3.0, [2, 0.8, 0.5, 3, 1]),
        ("token_truncate", 0.75, 1.5, [1.5, 0.8, 0.75, 1.5, 1]),
        ("token_mask", None, 3.0, [2, 0.8, 0.5, 0, 1]),
        ("token_mask", 0.75, None, [2, 0.8, 0, 4, 1]),
        ("sequence_truncate", None, 1.8, [1.6, 1.6, 1.8, 1.8, 1.8]),
        ("sequence_mask", None, 1.8, [1.6, 1.6, 0, 0, 0]),
        ("sequence_mask", 1.8, None, [0, 0, 2, 2, 2]),
        ("sequence_mask", None, 3.0, [1.6, 1.6, 2, 2, 2]),
    ],
)
def test_weights_of_known_probabilities(mode, low, high, wanted):
    torch.testing.assert_close(weighed(mode, low, high).weights, torch.tensor(wanted, dtype=torch.float32))


def test_the_same_probabilities_have_the_weight_1():
    for mode in ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask"):
        assert weighed(mode, None, 3.0, sampled=OLD).weights.tolist() == [1.0] * 5


def test_a_token_that_the_engine_does_not_tell_counts_as_1():
    unknown = SAMPLED.clone()
    unknown[3] = math.nan
    found = weighed("sequence_truncate", None, 3.0, sampled=unknown)
    torch.testing.assert_close(found.weights, torch.tensor([1.6, 1.6, 0.5, 0.5, 0.5]))
    assert len(found.difference) == 4


def test_what_is_shown_is_the_ratio_before_its_bounds():
    found = measures(weighed("token_mask", None, 3.0))
    means = {name: float(total / number) for name, (total, number) in found.items()}
    assert means["importance_ratio"] == pytest.approx((2 + 0.8 + 0.5 + 4 + 1) / 5)
    assert means["importance_ratio_largest"] == pytest.approx(4)
    assert means["importance_beyond"] == pytest.approx(1 / 5)
    wanted = (math.log(2) + math.log(1 / 0.8) + math.log(2) + math.log(4) + 0) / 5
    assert means["engine_logprob_difference"] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("mode", ["token_truncate", "token_mask", "sequence_truncate", "sequence_mask"])
@pytest.mark.parametrize("low, high", [(None, 1.7), (0.7, None), (0.7, 1.7)])
def test_the_weights_are_those_of_trl(mode, low, high):
    """TRL's lines, from its GRPO trainer, on tables by row."""
    batch = TokenBatch.from_labels(LABELS)
    mask, old, sampled = (batch.table(one) for one in (torch.ones(5), OLD, SAMPLED))
    difference = torch.nan_to_num((old - sampled) * mask, nan=0.0)
    if mode.startswith("sequence"):
        difference = difference.sum(dim=-1, keepdim=True)
    ratio = torch.exp(difference)
    if mode.endswith("truncate"):
        ratio = torch.clamp(ratio, min=low, max=high)
    else:
        outside = (ratio < (-math.inf if low is None else low)) | (ratio > (math.inf if high is None else high))
        ratio = ratio.masked_fill(outside, value=0.0)
    wanted = (ratio * mask)[mask.bool()]
    torch.testing.assert_close(weighed(mode, low, high).weights, wanted)


def test_settings_have_trls_names_and_defaults(tmp_path):
    from trimtab.train import settings

    def built(**changes):
        return settings.build(settings.check({"use_cpu": True, **changes}, "rollouts"), tmp_path, 0, "rollouts")

    assert correction_of(built()) == Correction("sequence_mask", None, 3.0)
    assert correction_of(built(vllm_importance_sampling_correction=False)) is None
    token = built(vllm_importance_sampling_mode="token_truncate", vllm_importance_sampling_clip_min=0.5)
    assert correction_of(token) == Correction("token_truncate", 0.5, 3.0)


def test_weights_of_tokens_do_not_fit_an_objective_of_completions():
    whole = Plan(WholeAnswers(0.2, 0.2), reduction="sequence_mean", advantages=Grouped())
    check_correction(Correction("sequence_mask", None, 3.0), whole)
    check_correction(None, whole)
    with pytest.raises(CorrectionError, match="sequence_mask or sequence_truncate"):
        check_correction(Correction("token_mask", None, 3.0), whole)


def _gradient(objective, signals, reduction):
    model = tiny.model("llama", 0)
    add_objective_forward(model)
    rows = tiny.rows(((2, 3), (1, 0), (1, 4)))
    call = ObjectiveCall(objective, rows.labels, signals, torch.arange(3), reduction)
    loss = model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, objective_call=call).loss
    loss.backward()
    return loss.detach(), model.lm_head.weight.grad.clone()


@pytest.mark.parametrize("objective", [Reinforce(), PolicyGradient(0.2, 0.2), WholeAnswers(0.2, 0.2)])
def test_a_weight_scales_what_its_completion_adds_to_loss_and_gradient(objective):
    reduction = "sequence_mean" if objective.per == "sequence" else "token_mean"
    advantages = torch.tensor([1.0, 1, 1, -2, -2, -2, -2])
    twice = advantages * torch.tensor([0.0, 0, 0, 2.5, 2.5, 2.5, 2.5])  # all three are homogeneous in the advantage
    weight = torch.tensor([0.0, 0, 0, 2.5, 2.5, 2.5, 2.5])
    found = _gradient(objective, {"advantages": advantages, IMPORTANCE: weight}, reduction)
    wanted = _gradient(objective, {"advantages": twice}, reduction)
    for one, other in zip(found, wanted):
        torch.testing.assert_close(one, other)


def test_the_weight_of_a_sequence_is_that_of_its_tokens():
    batch = TokenBatch.from_labels(LABELS)
    of_tokens = torch.tensor([0.5, 0.5, 2, 2, 2])
    assert by_importance(batch, of_tokens, "token").tolist() == of_tokens.tolist()
    assert by_importance(batch, of_tokens, "sequence").tolist() == [0.5, 1, 2]
    assert reduce(batch.losses(torch.ones(5)), weights(batch, "token_mean") * of_tokens).item() == pytest.approx(7 / 5)


def test_what_the_engine_says_stays_with_its_tokens():
    rows = laid_out(
        {
            "prompt_ids": torch.tensor([[9, 9, 5], [4, 5, 6]]),
            "prompt_mask": torch.tensor([[0, 0, 1], [1, 1, 1]]),
            "completion_ids": torch.tensor([[7, 8, 2], [7, 9, 9]]),
            "completion_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
            "sampling_per_token_logps": torch.tensor([[-1.0, -2, -3], [-4, 0, 0]]),
        }
    )
    assert rows["sampled"].tolist() == [[0, -1, -2, -3], [0, 0, 0, -4]]
    batch = TokenBatch.from_labels(rows["labels"])
    assert rows["sampled"][:, 1:][rows["labels"][:, 1:] != IGNORE].tolist() == [-1, -2, -3, -4]
    assert batch.targets.tolist() == [7, 8, 2, 7]


def test_correction_says_itself():
    assert str(Correction("token_mask", 0.5, None)) == "token_mask, 0.5 to no bound"
    off = SimpleNamespace(vllm_importance_sampling_correction=False)
    assert correction_of(off) is None
