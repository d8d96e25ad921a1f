"""SFT is the negative log-likelihood of the answers; its options weigh the tokens or hold the policy at its start."""

import math

import pytest
import torch
from pydantic import ValidationError

import tiny
from tiny_rollouts import Reader
from trimtab.core import IGNORE, PlanError, Reference, Requirements, TokenBatch, reduce, weights
from trimtab.methods.sft import METHOD, Config
from trimtab.objectives.likelihood import Likelihood, k3
from trimtab.signals.frozen import FrozenModel

LABELS = torch.tensor([[IGNORE, 0, 1], [IGNORE, IGNORE, 2]])


def test_loss_is_minus_the_log_probability_of_the_next_token():
    logits = torch.log(
        torch.tensor([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [1, 1, 1]], [[1, 1, 1], [0.2, 0.7, 0.1], [1, 1, 1]]])
    )
    losses = Likelihood()(TokenBatch.align(logits, LABELS))
    torch.testing.assert_close(losses.values, -torch.log(torch.tensor([0.5, 0.6, 0.1])))
    total, number = losses.metrics["nll"]
    torch.testing.assert_close(total, torch.tensor(-math.log(0.5 * 0.6 * 0.1)))
    assert number == 3


def test_gradient_at_the_logits_is_q_minus_one_hot_over_the_tokens():
    logits = torch.zeros(2, 3, 3, requires_grad=True)
    batch = TokenBatch.align(logits, LABELS)
    reduce(Likelihood()(batch), weights(batch, "token_mean")).backward()
    third = torch.full((3,), 1 / 3)
    torch.testing.assert_close(logits.grad[0, 0], (third - torch.tensor([1.0, 0, 0])) / 3)
    torch.testing.assert_close(logits.grad[0, 1], (third - torch.tensor([0, 1.0, 0])) / 3)
    torch.testing.assert_close(logits.grad[1, 1], (third - torch.tensor([0, 0, 1.0])) / 3)
    assert logits.grad[:, 2].eq(0).all()
    assert logits.grad[1, 0].eq(0).all()


def test_the_plan_needs_no_other_model():
    plan = METHOD.build(METHOD.config(), None)
    assert isinstance(plan.objective, Likelihood)
    assert plan.objective.needs == frozenset()
    assert METHOD.requirements(Config()) == Requirements()


# --- weights and KL ---------------------------------------------------------------------------------------------


def batch() -> tuple[torch.Tensor, TokenBatch]:
    """Logits with gradient; the start is another table of logits."""
    logits = torch.randn(2, 3, 5).requires_grad_()
    return logits, TokenBatch.align(logits, LABELS, {"reference": torch.randn(2, 3, 5)})


def gradient(values: torch.Tensor, tokens: TokenBatch) -> torch.Tensor:
    return torch.autograd.grad(values.sum(), tokens.signals["policy"], retain_graph=True)[0]


def test_weighted_by_probability_each_token_has_the_gradient_of_sft_times_its_probability():
    _, tokens = batch()
    plain, weighted = Likelihood()(tokens).values, Likelihood("probability")(tokens).values
    probability = (-plain.detach()).exp()
    torch.testing.assert_close(weighted, probability * plain)
    torch.testing.assert_close(gradient(weighted, tokens), probability[:, None] * gradient(plain, tokens))


def test_weighted_by_the_ratio_to_the_start_each_token_counts_as_much_as_it_became_likelier_up_to_the_cap():
    _, tokens = batch()
    shift = torch.tensor([math.log(0.5), math.log(1.5), math.log(4.0)])
    tokens = tokens.with_signals(reference=tokens.logprobs().detach() - shift)
    plain = Likelihood()(tokens).values
    for cap, ratios in ((2.0, [0.5, 1.5, 2.0]), (1.0, [0.5, 1.0, 1.0])):
        values = Likelihood("ratio", cap=cap)(tokens).values
        torch.testing.assert_close(values, torch.tensor(ratios) * plain)
        torch.testing.assert_close(gradient(values, tokens), torch.tensor(ratios)[:, None] * gradient(plain, tokens))


def test_k3_is_r_minus_1_minus_log_r_and_averages_to_the_kl_under_the_policy():
    logprobs, reference = torch.log(torch.tensor([0.5, 0.3, 0.2])), torch.log(torch.tensor([0.2, 0.3, 0.5]))
    wanted = torch.tensor([0.4 - 1 - math.log(0.4), 0.0, 2.5 - 1 - math.log(2.5)])
    torch.testing.assert_close(k3(logprobs, reference), wanted)
    kl = (logprobs.exp() * (logprobs - reference)).sum()
    torch.testing.assert_close((logprobs.exp() * wanted).sum(), kl)


def test_the_kl_is_added_to_the_likelihood_with_its_coefficient():
    _, tokens = batch()
    plain, estimated = Likelihood()(tokens).values, Likelihood(kl=0.5)(tokens).values
    torch.testing.assert_close(estimated, plain + 0.5 * k3(tokens.logprobs(), tokens.logprobs("reference")))
    whole = Likelihood(kl=0.5, full_kl=True)(tokens)
    q, p = tokens.logits().softmax(-1), tokens.logits("reference").softmax(-1)
    kl = (q * (q / p).log()).sum(-1)
    torch.testing.assert_close(whole.values, plain + 0.5 * kl)
    torch.testing.assert_close(whole.metrics["kl"][0], kl.sum().detach())


@pytest.mark.parametrize("full", [False, True])
def test_at_the_start_the_kl_changes_neither_loss_nor_gradient(full):
    _, tokens = batch()
    tokens = tokens.with_signals(reference=tokens.logits().detach())
    plain, values = Likelihood()(tokens).values, Likelihood(kl=3.0, full_kl=full)(tokens).values
    torch.testing.assert_close(values, plain)
    torch.testing.assert_close(gradient(values, tokens), gradient(plain, tokens), rtol=1e-5, atol=1e-6)


def test_the_gradient_of_the_kl_pulls_back_towards_the_start():
    _, tokens = batch()
    log_q, log_p = tokens.log_softmax().detach(), tokens.log_softmax("reference")
    q, kl = log_q.exp(), (log_q.exp() * (log_q - log_p)).sum(-1, keepdim=True)
    alone = Likelihood(kl=1.0, full_kl=True)(tokens).values - Likelihood()(tokens).values
    torch.testing.assert_close(gradient(alone, tokens), q * (log_q - log_p - kl), rtol=1e-4, atol=1e-6)
    alone = Likelihood(kl=1.0)(tokens).values - Likelihood()(tokens).values
    ratio = (tokens.logprobs("reference") - tokens.logprobs()).detach().exp()
    wanted = (1 - ratio)[:, None] * (torch.eye(5)[tokens.targets] - q)
    torch.testing.assert_close(gradient(alone, tokens), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "models"),
    [
        ({}, ()),
        ({"weight": "probability"}, ()),
        ({"weight": "ratio"}, (Reference(),)),
        ({"kl": 0.5}, (Reference(),)),
        ({"kl": 0.5, "kl_form": "full"}, (Reference("distribution", named=True),)),
        ({"kl": 0.5, "kl_form": "full", "weight": "ratio"}, (Reference("distribution", named=True),)),
    ],
)
def test_each_setting_asks_for_what_it_reads_and_its_plan_is_given_it(settings, models):
    config, rows = Config(**settings), tiny.rows()
    assert METHOD.requirements(config) == Requirements(models=models)
    if not models:
        assert METHOD.build(config, None).signals == ()
        return
    reads = models[0].reads
    signal = FrozenModel(tiny.model("llama_tied", seed=3), name="reference", reads=reads)
    plan = METHOD.build(config, None, reference=signal)
    given = plan.signals[0](None, rows.inputs())["reference"]
    policy = torch.randn(13, tiny.VOCAB).requires_grad_()
    values = plan.objective(TokenBatch.from_labels(rows.labels, {"policy": policy, "reference": given})).values
    assert torch.isfinite(values).all()
    assert isinstance(given, torch.Tensor) == (reads == "answers")


def test_the_weight_ratio_needs_the_model_that_training_started_from():
    nothing = Reader()
    with pytest.raises(PlanError, match="Likelihood needs the signal reference"):
        METHOD.build(Config(weight="ratio"), None, reference=nothing)


@pytest.mark.parametrize("setting", [{"weight": "two"}, {"cap": 0.0}, {"kl": -0.1}, {"kl_form": "k1"}])
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Config(**setting)
