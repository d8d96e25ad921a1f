"""KD: which divergence its settings choose, the temperature, and the share of cross-entropy."""

import itertools
import math

import pytest
import torch
from pydantic import ValidationError

import tiny
from tiny_rollouts import Reader
from trimtab.common.errors import UserError
from trimtab.core import (
    IGNORE,
    Head,
    LazyLogits,
    PlanError,
    Signal,
    Teacher,
    TokenBatch,
    TopKError,
    class_logprobs,
    fused_loss,
    reduce,
    top_k,
    weights,
)
from trimtab.methods.kd import METHOD, Config
from trimtab.objectives import divergence as d
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match

DIVERGENCES = (
    *("forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl"),
    *("akl", "todi", "abkl"),
)


class Given(Signal):
    """A teacher as a plan knows it: something that provides "teacher"."""

    provides = frozenset({"teacher"})


def objective(**settings) -> Match:
    return METHOD.build(Config(**settings), None, teacher=Given()).objective


def batch(dtype=torch.float32, v=9):
    logits = (2 * torch.randn(2, 5, v)).to(dtype).requires_grad_()
    labels = torch.tensor([[IGNORE, 1, 2, 3, IGNORE], [IGNORE, IGNORE, 4, IGNORE, IGNORE]])
    return logits, TokenBatch.align(logits, labels, {"teacher": 2 * torch.randn(2, 5, v)})


EXPECTED = {
    "forward_kl": lambda s, t: d.forward_kl(s, t),
    "reverse_kl": lambda s, t: d.reverse_kl(s, t),
    "jsd": lambda s, t: d.jsd(s, t, beta=0.3),
    "skewed_forward_kl": lambda s, t: d.skewed_forward_kl(s, t, skew=0.2),
    "skewed_reverse_kl": lambda s, t: d.skewed_reverse_kl(s, t, skew=0.2),
    "akl": lambda s, t: d.akl(s, t, mu=0.8),
    "todi": lambda s, t: d.todi(s, t, beta=2.0),
    "abkl": lambda s, t: d.abkl(s, t, alpha=0.2, beta=0.7),
}
OWN = {
    "jsd": {"beta": 0.3},
    "skewed_forward_kl": {"skew": 0.2},
    "skewed_reverse_kl": {"skew": 0.2},
    "akl": {"akl_mu": 0.8},
    "todi": {"todi_beta": 2.0},
    "abkl": {"abkl_alpha": 0.2, "abkl_beta": 0.7},
}


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_settings_choose_the_divergence_and_its_parameter(name):
    _, tokens = batch()
    found = objective(divergence=name, **OWN.get(name, {}))(tokens).values
    torch.testing.assert_close(found, EXPECTED[name](tokens.log_softmax(), tokens.log_softmax("teacher")))


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_parameters_of_another_divergence_are_refused(name):
    for own in OWN.values():
        if own.keys() != OWN.get(name, {}).keys():
            with pytest.raises(
                ValidationError, match=f"{next(iter(own))} is .* but has no effect: it is only used with"
            ):
                Config(divergence=name, **own)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_the_engine_in_small_blocks_gives_what_plain_logits_give(name, monkeypatch):
    monkeypatch.setattr("trimtab.core.vocab.BLOCK_TOKENS", 3)
    monkeypatch.setattr("trimtab.core.vocab.SLICE_BYTES", 4 * 9 * 2)
    hidden, head = torch.randn(7, 4, requires_grad=True), torch.nn.Linear(4, 9)
    teacher = torch.randn(7, 5), torch.nn.Linear(5, 9)
    tokens = TokenBatch.from_labels(torch.randint(0, 9, (1, 8)))
    matched, weight = objective(divergence=name, **OWN.get(name, {})), weights(tokens, "token_mean")
    dense = reduce(matched(tokens.with_signals(policy=head(hidden), teacher=teacher[1](teacher[0]).detach())), weight)
    wanted = torch.autograd.grad(dense, [hidden, head.weight])
    lazy = tokens.with_signals(teacher=LazyLogits(teacher[0], teacher[1], 9))
    fused = fused_loss(matched, lazy, hidden, Head(head, 9), weight)
    torch.testing.assert_close(fused.loss, dense)
    torch.testing.assert_close(torch.autograd.grad(fused.loss, [hidden, head.weight]), wanted)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_ids_that_one_model_masks_give_neither_nan_nor_infinity(name):
    logits, teacher = torch.randn(2, 1, 4, 9), torch.randn(1, 4, 9)
    logits[0, ..., 3] = logits[1, ..., 3] = teacher[..., 5] = -math.inf
    logits[0, ..., 5] = -math.inf
    for given in logits:
        given.requires_grad_()
        tokens = TokenBatch.align(given, torch.tensor([[IGNORE, 1, 2, 4]]), {"teacher": teacher})
        found = objective(divergence=name, **OWN.get(name, {}))(tokens).values
        (grad,) = torch.autograd.grad(found.sum(), given)
        assert found.isfinite().all()
        assert grad.isfinite().all()


def test_the_default_is_the_forward_kl_alone_at_temperature_1():
    _, tokens = batch()
    found = objective()(tokens)
    torch.testing.assert_close(found.values, d.forward_kl(tokens.log_softmax(), tokens.log_softmax("teacher")))


def test_temperature_softens_both_distributions_and_does_not_rescale_the_loss():
    logits = torch.tensor([[[0.0, 2.0], [0.0, 0.0]]])
    teacher = torch.tensor([[[math.log(9.0), 0.0], [0.0, 0.0]]])
    tokens = TokenBatch.align(logits, torch.tensor([[IGNORE, 0]]), {"teacher": teacher})
    p = torch.tensor([3 / 4, 1 / 4])  # 9^(1/2) : 1
    q = torch.softmax(torch.tensor([0.0, 1.0]), 0)
    wanted = (p * (p / q).log()).sum()
    torch.testing.assert_close(objective(temperature=2.0)(tokens).values, wanted[None])


def test_gradient_at_temperature_t_is_q_minus_p_over_t():
    logits, tokens = batch()
    objective(temperature=2.5)(tokens).values.sum().backward()
    q = (tokens.logits().detach() / 2.5).softmax(-1)
    p = (tokens.logits("teacher") / 2.5).softmax(-1)
    torch.testing.assert_close(logits.grad[0, :3], ((q - p) / 2.5)[:3])


def test_cross_entropy_is_mixed_in_at_temperature_1():
    _, tokens = batch()
    alone = objective(temperature=3.0)(tokens).values
    mixed = objective(temperature=3.0, cross_entropy=0.25)(tokens).values
    torch.testing.assert_close(mixed, 0.75 * alone + 0.25 * Likelihood()(tokens).values)


def test_all_cross_entropy_is_sft_in_value_and_gradient():
    logits, tokens = batch()
    found = objective(cross_entropy=1.0)(tokens).values
    torch.testing.assert_close(found, Likelihood()(tokens).values)
    (grad,) = torch.autograd.grad(found.sum(), logits, retain_graph=True)
    (wanted,) = torch.autograd.grad(Likelihood()(tokens).values.sum(), logits)
    torch.testing.assert_close(grad, wanted)


def test_the_metrics_are_divergence_and_nll_whatever_the_mix():
    _, tokens = batch()
    metrics = objective(divergence="jsd", cross_entropy=0.5, temperature=2.0)(tokens).metrics
    wanted = d.jsd(tokens.log_softmax(temperature=2.0), tokens.log_softmax("teacher", 2.0))
    torch.testing.assert_close(metrics["divergence"][0], wanted.sum().detach())
    torch.testing.assert_close(metrics["nll"][0], Likelihood()(tokens).values.sum().detach())
    assert not any(total.requires_grad for total, _ in metrics.values())


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_student_that_agrees_with_its_teacher_gets_no_loss_and_no_gradient(name):
    logits = torch.randn(1, 4, 9, requires_grad=True)
    tokens = TokenBatch.align(logits, torch.tensor([[1, 2, 3, 4]]), {"teacher": logits.detach().clone()})
    loss = reduce(objective(divergence=name)(tokens), weights(tokens, "token_mean"))
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert logits.grad.abs().max() < 1e-6


@pytest.mark.parametrize("temperature", [1.0, 1.5])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_bfloat16_logits_lose_nothing_but_their_own_rounding(name, temperature):
    _, tokens = batch(torch.bfloat16)
    exact = TokenBatch.from_labels(
        torch.tensor([[IGNORE, 1, 2, 3], [IGNORE, IGNORE, 4, IGNORE]]),
        {"policy": tokens.logits().detach().double(), "teacher": tokens.logits("teacher").double()},
    )
    found = objective(divergence=name, temperature=temperature)(tokens).values
    assert found.dtype == torch.float32
    wanted = objective(divergence=name, temperature=temperature)(exact).values
    torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "setting",
    [
        {"divergence": "kl"},
        *({"beta": b} for b in (0.0, 1.0)),
        *({"skew": s} for s in (-0.1, 1.0)),
        *({"akl_mu": m} for m in (-0.1, 1.1)),
        *({"todi_beta": b} for b in (-1.0, math.inf)),
        {"abkl_alpha": math.nan},
        {"abkl_beta": math.inf},
        *({"temperature": t} for t in (0.0, -1.0)),
        *({"cross_entropy": c} for c in (-0.1, 1.1)),
    ],
)
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Config(**setting)


def test_a_plan_without_a_teacher_is_refused():
    nothing = Reader()
    with pytest.raises(PlanError, match="Match needs the signal teacher"):
        METHOD.build(Config(), None, teacher=nothing)
    assert METHOD.requirements(Config()).models == (Teacher(),)


# ---------------------------------------------------------------- the most likely tokens

ON_CLASSES = tuple(name for name in DIVERGENCES if name != "akl")


def plain(v=9, n=6, spread=2.0, dtype=torch.float32):
    """Logits of policy and teacher [N, V] and their batch."""
    student = (spread * torch.randn(n, v, dtype=dtype)).requires_grad_()
    teacher = spread * torch.randn(n, v, dtype=dtype)
    tokens = TokenBatch.from_labels(torch.randint(0, v, (1, n + 1)), {"policy": student, "teacher": teacher})
    return student, teacher, tokens


@pytest.mark.parametrize("of", ["teacher", "student"])
def test_the_most_likely_tokens_and_the_rest_are_classes_of_their_own(of):
    student = torch.tensor([[0.1, 0.2, 0.3, 0.4]]).log()
    teacher = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    tokens = TokenBatch.from_labels(torch.zeros(1, 2, dtype=torch.long), {"policy": student, "teacher": teacher})
    found = objective(top_k=2, top_k_of=of)(tokens)
    if of == "teacher":
        wanted = 0.5 * math.log(0.5 / 0.1) + 0.3 * math.log(0.3 / 0.2) + 0.2 * math.log(0.2 / 0.7)
    else:
        wanted = 0.05 * math.log(0.05 / 0.4) + 0.15 * math.log(0.15 / 0.3) + 0.8 * math.log(0.8 / 0.3)
    torch.testing.assert_close(found.values, torch.tensor([wanted]))
    torch.testing.assert_close(found.metrics["covered_mass"][0], torch.tensor(0.8 if of == "teacher" else 0.2))


@pytest.mark.parametrize("of", ["teacher", "student"])
@pytest.mark.parametrize("name", ON_CLASSES)
def test_all_of_the_vocabulary_as_most_likely_tokens_is_the_whole_divergence(name, of):
    student, _, tokens = plain()
    own = OWN.get(name, {})
    found = objective(divergence=name, top_k=9, top_k_of=of, temperature=1.5, **own)(tokens).values
    wanted = objective(divergence=name, temperature=1.5, **own)(tokens).values
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), student)[0], torch.autograd.grad(wanted.sum(), student)[0]
    )


@pytest.mark.parametrize("of", ["teacher", "student"])
@pytest.mark.parametrize("name", ON_CLASSES)
def test_a_divergence_of_classes_is_never_negative_and_0_for_equal_models(name, of):
    for k in (1, 3, 8):
        _, _, tokens = plain(n=200, spread=4.0)
        assert objective(divergence=name, top_k=k, top_k_of=of)(tokens).values.min() > 0
        logits, _, tokens = plain()
        same = tokens.with_signals(teacher=logits.detach().clone())
        found = objective(divergence=name, top_k=k, top_k_of=of)(same).values
        (grad,) = torch.autograd.grad(found.sum(), logits)
        torch.testing.assert_close(found, torch.zeros(6), rtol=0, atol=1e-6)
        torch.testing.assert_close(grad, torch.zeros_like(grad), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["forward_kl", "reverse_kl", "jsd", "skewed_forward_kl", "skewed_reverse_kl"])
def test_a_divergence_of_classes_is_at_most_the_whole_one_and_grows_with_them(name):
    _, _, tokens = plain(n=100)
    values = [objective(divergence=name, top_k=k)(tokens).values for k in (1, 2, 4, 8, 9)]
    values.append(objective(divergence=name)(tokens).values)
    for fewer, more in itertools.pairwise(values):
        assert (fewer <= more + 1e-6).all()


@pytest.mark.parametrize("name", [name for name in ON_CLASSES if name != "todi"])  # whose weights are constants
@pytest.mark.parametrize("of", ["teacher", "student"])
def test_the_gradient_of_classes_is_that_of_finite_differences(name, of):
    student, teacher, _ = plain(n=2, v=6, dtype=torch.float64)
    ids = (teacher if of == "teacher" else student.detach()).topk(2).indices
    log_p = class_logprobs(teacher, ids)
    divergence = EXPECTED[name]
    assert torch.autograd.gradcheck(lambda x: divergence(class_logprobs(x, ids), log_p), (student,))
    wanted = torch.autograd.grad(divergence(class_logprobs(student, ids), log_p).sum(), student)[0]
    single = student.detach().float().requires_grad_()
    tokens = TokenBatch.from_labels(torch.zeros(1, 3).long(), {"policy": single, "teacher": teacher.float()})
    found = objective(divergence=name, top_k=2, top_k_of=of, **OWN.get(name, {}))(tokens).values
    torch.testing.assert_close(torch.autograd.grad(found.sum(), single)[0], wanted.float(), rtol=1e-4, atol=1e-6)


def test_200_steps_of_reverse_kl_on_the_most_likely_tokens_do_not_empty_them():
    teacher = 2 * torch.randn(8, 40)
    logits = torch.nn.Parameter(0.1 * torch.randn(8, 40))
    optimizer = torch.optim.Adam([logits], lr=0.1)
    matched, ids = objective(divergence="reverse_kl", top_k=4), teacher.topk(4).indices
    mass = []
    for _ in range(200):
        tokens = TokenBatch.from_labels(torch.zeros(1, 9).long(), {"policy": logits, "teacher": teacher})
        loss = matched(tokens).values.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mass.append(logits.detach().softmax(-1).gather(-1, ids).sum(-1))
    wanted = teacher.softmax(-1).gather(-1, ids)
    assert (mass[-1] > mass[0]).all()
    torch.testing.assert_close(logits.detach().softmax(-1).gather(-1, ids), wanted, rtol=0.02, atol=1e-3)


def test_most_likely_tokens_that_a_divergence_or_a_vocabulary_does_not_have_are_refused():
    with pytest.raises(ValidationError, match="akl reads the order of all tokens"):
        Config(divergence="akl", top_k=4)
    with pytest.raises(ValidationError, match="top_k_of is student but has no effect: it is only used with top_k"):
        Config(top_k_of="student")
    with pytest.raises(ValidationError, match="top_k"):
        Config(top_k=0)
    _, _, tokens = plain()
    with pytest.raises(UserError, match="options.top_k: 10 is more than the vocabulary's 9 tokens"):
        objective(top_k=10)(tokens)
    with pytest.raises(UserError, match="options.top_k: 54 is more than the vocabulary's 53 tokens"):
        METHOD.build(Config(top_k=54), tiny.model(), teacher=tiny.teacher(tiny.model("llama", 1)))
    assert METHOD.build(Config(top_k=53), tiny.model(), teacher=tiny.teacher(tiny.model("llama", 1)))


@pytest.mark.parametrize("name", ON_CLASSES)
def test_a_teacher_that_is_known_by_its_most_likely_tokens_gives_what_a_live_one_gives(name):
    student, teacher, tokens = plain()
    stored = tokens.with_signals(teacher=top_k(teacher, 3, tokens.targets))
    found, wanted = objective(divergence=name)(stored), objective(divergence=name, top_k=3)(tokens)
    torch.testing.assert_close(found.values, wanted.values)
    torch.testing.assert_close(found.metrics, wanted.metrics)
    torch.testing.assert_close(
        torch.autograd.grad(found.values.sum(), student)[0], torch.autograd.grad(wanted.values.sum(), student)[0]
    )


def test_what_a_stored_teacher_of_few_tokens_does_not_have_is_refused():
    _, teacher, tokens = plain()
    stored = tokens.with_signals(teacher=top_k(teacher, 3, tokens.targets))
    with pytest.raises(TopKError, match="reads the order of all tokens of the teacher"):
        objective(divergence="akl")(stored)
    with pytest.raises(TopKError, match="temperature 2"):
        objective(temperature=2.0)(stored)
    with pytest.raises(UserError, match="only known by its 3 most likely tokens, which are compared anyway"):
        objective(top_k=2)(stored)


@pytest.mark.parametrize("of", ["teacher", "student"])
def test_the_engine_in_small_blocks_gives_what_plain_logits_give_on_classes(of, monkeypatch):
    monkeypatch.setattr("trimtab.core.vocab.BLOCK_TOKENS", 3)
    monkeypatch.setattr("trimtab.core.vocab.SLICE_BYTES", 4 * 9 * 2)
    hidden, head = torch.randn(7, 4, requires_grad=True), torch.nn.Linear(4, 9)
    teacher = torch.randn(7, 5), torch.nn.Linear(5, 9)
    tokens = TokenBatch.from_labels(torch.randint(0, 9, (1, 8)))
    matched, weight = objective(divergence="jsd", top_k=3, top_k_of=of), weights(tokens, "token_mean")
    dense = reduce(matched(tokens.with_signals(policy=head(hidden), teacher=teacher[1](teacher[0]).detach())), weight)
    wanted = torch.autograd.grad(dense, [hidden, head.weight])
    fused = fused_loss(
        matched, tokens.with_signals(teacher=LazyLogits(teacher[0], teacher[1], 9)), hidden, Head(head, 9), weight
    )
    torch.testing.assert_close(fused.loss, dense)
    torch.testing.assert_close(torch.autograd.grad(fused.loss, [hidden, head.weight]), wanted)
