"""OPD: the log-ratio to the teacher on own answers, and the divergence whose gradient it is."""

import torch

import tiny
from tiny_rollouts import Reader, rollouts
from trimtab.core import Teacher, TokenBatch
from trimtab.methods.opd import METHOD, Config
from trimtab.objectives.divergence import reverse_kl
from trimtab.signals.frozen import FrozenModel


def test_the_advantage_is_how_much_likelier_the_teacher_finds_the_token():
    plan = METHOD.build(Config(), None, teacher=Reader("teacher"))
    found = plan.advantages(rollouts((2, 1), [9.0, 9.0], teacher=[-1.0, -2.0, -0.5], old=[-3.0, -1.0, -0.5]))
    assert found["advantages"].tolist() == [2, -1, 0]


def test_over_all_tokens_that_could_have_been_drawn_its_gradient_is_that_of_the_reverse_kl():
    torch.manual_seed(3)
    logits, teacher = torch.randn(5, dtype=torch.float64).requires_grad_(), torch.randn(5).double().log_softmax(0)
    (wanted,) = torch.autograd.grad(reverse_kl(logits.log_softmax(0)[None], teacher[None]).sum(), logits)
    plan = METHOD.build(Config(), None, teacher=Reader("teacher"))
    q = logits.detach().log_softmax(0)
    found = plan.advantages(rollouts((1,) * 5, [0.0] * 5, teacher=teacher, old=q))  # each token once
    labels = torch.stack([torch.full((5,), -100), torch.arange(5)], dim=1)
    batch = TokenBatch.align(logits.expand(5, 2, 5), labels).with_signals(**found)
    (found,) = torch.autograd.grad((plan.objective(batch).values * q.exp()).sum(), logits)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_the_teacher_is_read_for_log_probabilities():
    rows = tiny.rows(((3, 5), (1, 1)))
    teacher = tiny.model(seed=3)
    plan = METHOD.build(Config(), None, teacher=FrozenModel(teacher, reads="answers"))
    (signal,) = plan.rollout_signals
    with torch.no_grad():
        logits = teacher(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    found = signal(None, rows.inputs())["teacher"]
    torch.testing.assert_close(found, TokenBatch.align(logits, rows.labels).logprobs())
    assert METHOD.requirements(Config()).models == (Teacher(reads="answers"),)
    assert plan.advantages.needs == {"teacher", "old"}
