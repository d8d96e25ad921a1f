"""Proxy-KD: weights by how well the proxy fits each text, and what the student learns from both."""

import math

import pytest
import torch
from pydantic import ValidationError

import tiny
import tiny_training
from trimtab.core import IGNORE, Signal, TokenBatch, reduce, top_k, weights
from trimtab.methods.proxy_kd import METHOD, Config, FitWeights, ProxyKD, fit_weights
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match
from trimtab.signals.frozen import FrozenModel

LABELS = torch.tensor([[IGNORE, 1, 2, 3, IGNORE], [IGNORE, IGNORE, 4, 5, IGNORE], [IGNORE] * 5])
W = torch.tensor([0.2, 0.9, 0.5])


def batch(v: int = 9, teacher: torch.Tensor | None = None, w: torch.Tensor = W, dtype=torch.float32):
    """Five answer tokens of two rows, and a row without one."""
    generator = torch.Generator().manual_seed(3)
    logits = (2 * torch.randn(3, 5, v, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
    other = 2 * torch.randn(3, 5, v, generator=generator, dtype=torch.float64) if teacher is None else teacher
    return logits, TokenBatch.align(logits, LABELS, {"teacher": other.to(dtype), "row_weight": w.to(dtype)})


def mean(objective, tokens: TokenBatch) -> torch.Tensor:
    return reduce(objective(tokens), weights(tokens, "token_mean"))


# ---------------------------------------------------------------- weights


def test_a_weight_is_the_logistic_of_the_standardised_log_likelihood():
    logliks = torch.tensor([-1.0, -3.0, -2.0, -2.0], dtype=torch.float64)  # mean -2, population deviation sqrt(1/2)
    high = 1 / (1 + math.exp(-math.sqrt(2) / 0.4))
    wanted = torch.tensor([high, 1 - high, 0.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(fit_weights(logliks, 0.4), wanted)
    paper = 1 / (1 + math.exp(-math.sqrt(2)))
    assert fit_weights(logliks, 1.0)[0].item() == pytest.approx(paper)


def test_weights_lie_between_0_and_1_grow_with_the_log_likelihood_and_ignore_a_shift():
    logliks = torch.randn(50, dtype=torch.float64).sort().values
    found = fit_weights(logliks)
    assert ((found > 0) & (found < 1)).all()
    assert (found.diff() > 0).all()
    torch.testing.assert_close(fit_weights(logliks - 700), found)


@pytest.mark.parametrize("values", [[-2.0] * 4, [-0.1] * 3, [-7.0], [0.0, 0.0]])
def test_equal_rows_all_weigh_a_half(values):
    assert fit_weights(torch.tensor(values, dtype=torch.float64)).tolist() == [0.5] * len(values)


class Proxy(Signal):
    """Gives log-probabilities of the tokens, as a frozen model that is read at the answers alone."""

    provides = frozenset({"teacher"})

    def __call__(self, policy, inputs):
        mask = inputs["labels"][:, 1:] != IGNORE
        return {"teacher": -inputs["labels"][:, 1:][mask].double()}  # token v has -v nats


def weigher(loglik: str, rows=((7, LABELS),)) -> FitWeights:
    signal = FitWeights(Proxy(), loglik)  # type: ignore[arg-type]
    signal.before_training(
        torch.nn.Module(),
        [{"labels": labels, "row_id": torch.arange(first, first + len(labels))} for first, labels in rows],
    )
    return signal


def test_the_statistics_are_of_all_rows_with_an_answer_by_mean_or_sum_of_their_tokens():
    assert weigher("sum").logliks == {7: -6.0, 8: -9.0}
    assert weigher("mean").logliks == pytest.approx({7: -6 / 3.0001, 8: -9 / 2.0001})
    split = weigher("mean", ((7, LABELS[:1]), (8, LABELS[1:])))
    assert split.logliks == weigher("mean").logliks
    inputs = {"labels": LABELS, "row_id": torch.tensor([7, 8, 9])}
    high = 1 / (1 + math.exp(-1 / 0.4))  # two rows lie one deviation from their mean
    torch.testing.assert_close(
        split(None, inputs)["row_weight"], torch.tensor([high] * 3 + [1 - high] * 2), check_dtype=False
    )


def test_a_resumed_run_has_the_weights_of_its_checkpoint_and_reads_no_row_again():
    first, again = weigher("mean"), FitWeights(Proxy())
    again.load_state_dict(first.state_dict())

    def batches():
        raise AssertionError("read again")
        yield

    again.before_training(torch.nn.Module(), batches())
    inputs = {"labels": LABELS, "row_id": torch.tensor([7, 8, 9])}
    assert torch.equal(again(None, inputs)["row_weight"], first(None, inputs)["row_weight"])


def test_a_run_weighs_all_of_its_rows_by_the_proxy_before_the_first_update(tmp_path):
    proxy = tiny.model("llama_tied", seed=5)
    plan = METHOD.build(Config(), None, teacher=FrozenModel(proxy))
    trainer = tiny_training.trainer(tmp_path, plan)
    trainer.train()
    rows = tiny_training.dataset()
    wanted = []
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]])
        with torch.no_grad():
            logprobs = TokenBatch.align(proxy(input_ids=ids).logits, labels).logprobs()
        wanted.append(logprobs.double().sum() / (len(logprobs) + 1e-4))
    found = plan.signals[1].logliks
    assert [found[i] for i in range(8)] == pytest.approx(torch.stack(wanted).tolist(), rel=1e-5)


def test_a_store_of_a_few_tokens_weighs_rows_by_the_whole_distribution_s_log_probabilities():
    _, tokens = batch()
    table = tokens.logits("teacher").detach()

    class Store(Signal):
        def __call__(self, policy, inputs):
            return {"teacher": top_k(table, 1, tokens.targets)}

    signal = FitWeights(Store(), "sum")
    signal.before_training(torch.nn.Module(), [{"labels": LABELS, "row_id": torch.tensor([7, 8, 9])}])
    wanted = tokens.row_sum(tokens.logprobs(of="teacher"))
    assert signal.logliks == pytest.approx({7: wanted[0].item(), 8: wanted[1].item()}, rel=1e-5)


# ---------------------------------------------------------------- the student's loss


def test_the_loss_is_the_token_mean_of_likelihood_plus_the_weighted_divergence():
    _, tokens = batch()
    found = mean(ProxyKD(alpha=3.0, nll_coef=0.5), tokens)
    kl = forward_kl(tokens.log_softmax(), tokens.log_softmax("teacher"))
    w = torch.tensor([0.2, 0.2, 0.2, 0.9, 0.9])
    torch.testing.assert_close(found, 0.5 * -tokens.logprobs().mean() + 3.0 * (w * kl).sum() / 5)


def test_with_alpha_0_it_is_sft_exactly():
    (logits, tokens), (plain, alone) = batch(), batch()
    found, wanted = mean(ProxyKD(alpha=0.0), tokens), mean(Likelihood(), alone)
    found.backward()
    wanted.backward()
    assert found.item() == wanted.item()
    assert torch.equal(logits.grad, plain.grad)
    assert METHOD.build(Config(alpha=0.0), None).signals == ()
    assert METHOD.requirements(Config(alpha=0.0)).models == ()


def test_a_student_that_is_its_proxy_has_no_divergence_and_only_the_likelihood_s_gradient():
    logits, _ = batch()
    _, tokens = batch(teacher=logits.detach())
    losses = ProxyKD(alpha=100.0)(tokens)
    assert losses.metrics["divergence"][0].abs().item() < 1e-5
    torch.testing.assert_close(losses.values, -tokens.logprobs(), rtol=1e-4, atol=1e-4)


def test_the_gradient_of_the_divergence_at_a_position_is_alpha_w_times_q_minus_p_over_all_tokens():
    logits, tokens = batch(dtype=torch.float64)
    mean(ProxyKD(alpha=7.0, nll_coef=0.0), tokens).backward()
    q, p = tokens.log_softmax().exp(), tokens.log_softmax("teacher").exp()
    w = torch.tensor([0.2, 0.2, 0.2, 0.9, 0.9])
    wanted = torch.zeros_like(logits[:, :-1])
    wanted[LABELS[:, 1:] != IGNORE] = (7.0 * w[:, None] * (q - p) / 5).detach().double()
    torch.testing.assert_close(logits.grad[:, :-1], wanted, rtol=1e-5, atol=1e-7)
    assert (logits.grad[:, -1] == 0).all()


def test_without_weights_it_is_token_mean_distillation_and_twice_the_weight_is_twice_the_term():
    _, tokens = batch()
    match = mean(Match(forward_kl), tokens)
    torch.testing.assert_close(mean(ProxyKD(nll_coef=0.0, weighted=False), tokens), match)
    torch.testing.assert_close(mean(ProxyKD(nll_coef=0.0), batch(w=torch.ones(3))[1]), match)
    once, twice = (mean(ProxyKD(nll_coef=0.0), batch(w=w)[1]) for w in (W, 2 * W))
    torch.testing.assert_close(twice, 2 * once)


def test_a_store_of_all_tokens_gives_the_dense_loss_and_one_of_a_few_at_most_that():
    logits, tokens = batch()
    table = tokens.logits("teacher")
    dense = mean(ProxyKD(alpha=5.0), tokens)
    found = {}
    for k in (1, 3, 9):
        kept = top_k(table, k, tokens.targets)
        found[k] = mean(ProxyKD(alpha=5.0), tokens.with_signals(teacher=kept))
    torch.testing.assert_close(found[9], dense)
    assert found[1] < found[3] < dense
    grads = [torch.autograd.grad(one, logits, retain_graph=True)[0] for one in (dense, found[9])]
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-6)


def test_one_stored_token_and_the_rest_is_a_divergence_of_two_classes():
    _, tokens = batch()
    kept = top_k(tokens.logits("teacher"), 1, tokens.targets)
    p, q = kept.logprobs[:, 0].exp(), tokens.logprobs(ids=kept.ids)[:, 0].exp()
    wanted = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    found = ProxyKD(nll_coef=0.0, weighted=False)(tokens.with_signals(teacher=kept)).values
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": 0, "gamma_scale": 1.0}, "it is only used with an alpha above 0"),
        ({"weighting": "none", "loglik": "sum"}, "it is only used with weighting: fit"),
        ({"alpha": 0, "nll_coef": 0}, "nothing would be learnt"),
        ({"gamma_scale": 0}, "greater than 0"),
    ],
)
def test_settings_without_effect_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        Config(**settings)
