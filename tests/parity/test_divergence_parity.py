"""The divergences against independent implementations: torch's kl_div and TRL's generalised JSD."""

import pytest
import torch
from torch.nn import functional as F
from trl.experimental.gkd import GKDTrainer
from trl.kernels.chunked_divergence import ChunkedDivergenceFunction

from tiny_rollouts import Reader
from trimtab.core import Head, LazyLogits, TokenBatch, fused_loss, reduce, weights
from trimtab.methods.kd import Config, build
from trimtab.objectives import divergence as d
from trimtab.objectives.matching import Match

N, D, V = 7, 6, 31


@pytest.fixture
def logits():
    student = (2 * torch.randn(N, V, dtype=torch.float64)).requires_grad_()
    return student, 2 * torch.randn(N, V, dtype=torch.float64)


def gradient(value, at):
    return torch.autograd.grad(value.sum(), at)[0]


def test_forward_kl_is_torchs_kl_div(logits):
    student, teacher = logits
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    wanted = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    found = d.forward_kl(log_q, log_p)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), student, retain_graph=True)[0], gradient(wanted, student)
    )


def test_reverse_kl_is_torchs_kl_div_with_the_roles_exchanged(logits):
    student, teacher = logits
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    wanted = F.kl_div(log_p, log_q, reduction="none", log_target=True).sum(-1)
    found = d.reverse_kl(log_q, log_p)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), student, retain_graph=True)[0], gradient(wanted, student)
    )


def kd_on(student, teacher, beta, temperature):
    """KD on plain logits, with TRL's beta: 0 is the forward KL, 1 the reverse."""
    name = {0.0: "forward_kl", 1.0: "reverse_kl"}.get(beta, "jsd")
    config = Config(divergence=name, temperature=temperature, **({"beta": beta} if name == "jsd" else {}))
    objective = build(config, None, Reader("teacher")).objective
    labels = torch.zeros(1, N + 1, dtype=torch.long)
    pad = torch.zeros(1, 1, V, dtype=student.dtype)
    batch = TokenBatch.align(
        torch.cat([student[None], pad], 1), labels, {"teacher": torch.cat([teacher[None], pad], 1)}
    )
    return objective(batch).values


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 0.9, 1.0])
def test_kd_is_trls_generalised_jsd_in_value_and_gradient(logits, beta, temperature):
    student, teacher = (x.detach().float().requires_grad_() for x in logits)
    wanted = GKDTrainer.generalized_jsd_loss(
        student[None], teacher.detach()[None], beta=beta, temperature=temperature, reduction="none"
    )
    wanted = wanted[0].sum(-1)
    found = kd_on(student, teacher, beta, temperature)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient(found, student), gradient(wanted, student), rtol=1e-4, atol=1e-6)
    assert gradient(kd_on(student, teacher, beta, temperature), student).abs().max() > 1e-3


@pytest.mark.parametrize("temperature", [1.0, 2.5])
@pytest.mark.parametrize("beta", [0.0, 0.2, 0.5, 1.0])
def test_the_engine_with_kd_is_trls_chunked_divergence_from_hidden_states(monkeypatch, beta, temperature):
    monkeypatch.setattr("trimtab.core.vocab.BLOCK_TOKENS", 4)
    monkeypatch.setattr("trimtab.core.vocab.SLICE_BYTES", 4 * V * 3)
    hidden, weight = torch.randn(N, D, requires_grad=True), torch.randn(V, D, requires_grad=True)
    teacher_hidden, teacher_weight = torch.randn(N, D + 2), torch.randn(V, D + 2)
    scale, softcap = 0.7, 4.0
    wanted, _ = ChunkedDivergenceFunction.apply(
        *(hidden, weight, None, teacher_hidden, teacher_weight, None, beta, temperature),
        *(scale, softcap, 1.0, None),
    )
    wanted_grads = torch.autograd.grad(wanted.mean(), [hidden, weight])

    module = torch.nn.Linear(D, V, bias=False)
    module.weight = torch.nn.Parameter(weight.detach().clone())
    lazy = LazyLogits(teacher_hidden, lambda h: h @ teacher_weight.T, V)
    batch = TokenBatch.from_labels(torch.zeros(1, N + 1, dtype=torch.long), {"teacher": lazy})
    name = {0.0: "forward_kl", 1.0: "reverse_kl"}.get(beta, "jsd")
    divergence = (lambda s, t: d.jsd(s, t, beta=beta)) if name == "jsd" else getattr(d, name)
    fused = fused_loss(
        Match(divergence, temperature, 0.0),
        batch,
        hidden,
        Head(module, V, scale, softcap),
        weights(batch, "token_mean"),
    )
    grads = torch.autograd.grad(fused.loss, [hidden, module.weight])
    torch.testing.assert_close(fused.values, wanted.detach(), rtol=1e-4, atol=1e-5)
    for found, expected in zip(grads, wanted_grads):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_sft_is_torchs_cross_entropy(logits):
    from trimtab.objectives.likelihood import Likelihood

    student = logits[0].detach().float()[None].requires_grad_()
    labels = torch.randint(0, V, (1, N))
    labels[0, 3] = -100
    wanted = F.cross_entropy(student[0, :-1], labels[0, 1:], ignore_index=-100)
    batch = TokenBatch.align(student, labels)
    found = reduce(Likelihood()(batch), weights(batch, "token_mean"))
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient(found, student), gradient(wanted, student))
