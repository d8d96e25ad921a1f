"""Divergences: values worked by hand, limits, bounds and analytic gradients."""

import math

import numpy as np
import pytest
import torch

from trimtab.objectives.divergence import forward_kl, jsd, reverse_kl, skewed_forward_kl, skewed_reverse_kl

ALL = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "jsd 0.1": lambda s, t: jsd(s, t, beta=0.1),
    "skewed_forward_kl": skewed_forward_kl,
    "skewed_reverse_kl": skewed_reverse_kl,
    "skewed_forward_kl 0": lambda s, t: skewed_forward_kl(s, t, skew=0),
    "skewed_reverse_kl 0.7": lambda s, t: skewed_reverse_kl(s, t, skew=0.7),
}
every_divergence = pytest.mark.parametrize("divergence", ALL.values(), ids=ALL.keys())

Q = torch.tensor([[0.5, 0.5]]).log()  # student
P = torch.tensor([[0.75, 0.25]]).log()  # teacher


def pair(n=6, v=9, dtype=torch.float64, sharpness=2.0):
    """Student logits with gradient and teacher log-probabilities."""
    student = (sharpness * torch.randn(n, v, dtype=dtype)).requires_grad_()
    return student, (sharpness * torch.randn(n, v, dtype=dtype)).log_softmax(-1)


def kl(a, b):
    """Sum of a log(a/b) over the last axis, in numpy."""
    return np.where(a > 0, a * (np.log(np.where(a > 0, a, 1)) - np.log(b)), 0).sum(-1)


def close(found, *expected):
    torch.testing.assert_close(found, torch.tensor(expected))


def test_forward_kl_of_two_known_distributions():
    close(forward_kl(Q, P), 0.75 * math.log(1.5) + 0.25 * math.log(0.5))


def test_reverse_kl_of_two_known_distributions():
    close(reverse_kl(Q, P), 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25))


def test_jsd_of_two_known_distributions():
    m = 0.625, 0.375
    to_p = 0.75 * math.log(0.75 / m[0]) + 0.25 * math.log(0.25 / m[1])
    to_q = 0.5 * math.log(0.5 / m[0]) + 0.5 * math.log(0.5 / m[1])
    close(jsd(Q, P), (to_p + to_q) / 2)


def test_beta_is_the_share_of_the_teacher_in_the_mixture_and_in_the_sum():
    m = 0.2 * 0.75 + 0.8 * 0.5, 0.2 * 0.25 + 0.8 * 0.5
    to_p = 0.75 * math.log(0.75 / m[0]) + 0.25 * math.log(0.25 / m[1])
    to_q = 0.5 * math.log(0.5 / m[0]) + 0.5 * math.log(0.5 / m[1])
    close(jsd(Q, P, beta=0.2), 0.2 * to_p + 0.8 * to_q)


def test_skewed_forward_kl_mixes_the_teacher_into_the_student():
    m = 0.1 * 0.75 + 0.9 * 0.5, 0.1 * 0.25 + 0.9 * 0.5
    close(skewed_forward_kl(Q, P), 0.75 * math.log(0.75 / m[0]) + 0.25 * math.log(0.25 / m[1]))


def test_skewed_reverse_kl_mixes_the_student_into_the_teacher():
    m = 0.1 * 0.5 + 0.9 * 0.75, 0.1 * 0.5 + 0.9 * 0.25
    close(skewed_reverse_kl(Q, P), 0.5 * math.log(0.5 / m[0]) + 0.5 * math.log(0.5 / m[1]))


def numpy_reference(name, q, p):
    if name == "forward_kl" or name == "skewed_forward_kl 0":
        return kl(p, q)
    if name == "reverse_kl":
        return kl(q, p)
    if name.startswith("jsd"):
        beta = 0.1 if name.endswith("0.1") else 0.5
        m = beta * p + (1 - beta) * q
        return beta * kl(p, m) + (1 - beta) * kl(q, m)
    if name == "skewed_forward_kl":
        return kl(p, 0.1 * p + 0.9 * q)
    skew = 0.7 if name.endswith("0.7") else 0.1
    return kl(q, skew * q + (1 - skew) * p)


@pytest.mark.parametrize("name", ALL)
def test_values_are_those_of_numpy_in_float64(name):
    student, teacher = pair()
    q, p = student.detach().softmax(-1).numpy(), teacher.exp().numpy()
    found = ALL[name](student.log_softmax(-1), teacher)
    np.testing.assert_allclose(found.detach().numpy(), numpy_reference(name, q, p), rtol=1e-12, atol=1e-14)


@every_divergence
def test_value_is_zero_where_both_agree_and_positive_elsewhere(divergence):
    student, teacher = pair()
    same = student.detach().log_softmax(-1)
    torch.testing.assert_close(divergence(same, same), torch.zeros(6, dtype=torch.float64), rtol=0, atol=1e-14)
    assert divergence(same, teacher).gt(1e-3).all()


@every_divergence
def test_gradient_is_zero_where_both_agree(divergence):
    student, _ = pair()
    divergence(student.log_softmax(-1), student.detach().log_softmax(-1)).sum().backward()
    torch.testing.assert_close(student.grad, torch.zeros_like(student), rtol=0, atol=1e-14)


def test_gradient_of_the_forward_kl_at_the_logits_is_q_minus_p():
    student, teacher = pair()
    forward_kl(student.log_softmax(-1), teacher).sum().backward()
    torch.testing.assert_close(student.grad, student.detach().softmax(-1) - teacher.exp())


def test_gradient_of_the_reverse_kl_at_the_logits_is_q_times_the_excess_log_ratio():
    student, teacher = pair()
    value = reverse_kl(student.log_softmax(-1), teacher)
    value.sum().backward()
    log_q = student.detach().log_softmax(-1)
    wanted = log_q.exp() * (log_q - teacher - value.detach()[:, None])
    torch.testing.assert_close(student.grad, wanted)


@every_divergence
def test_gradient_is_that_of_finite_differences(divergence):
    student, teacher = pair(n=2, v=5)
    assert torch.autograd.gradcheck(lambda x: divergence(x.log_softmax(-1), teacher), (student,))


@every_divergence
def test_a_step_against_the_gradient_makes_it_smaller(divergence):
    student, teacher = pair()
    before = divergence(student.log_softmax(-1), teacher)
    before.sum().backward()
    after = divergence((student.detach() - 0.1 * student.grad).log_softmax(-1), teacher)
    assert (after < before).all()


@every_divergence
def test_the_teacher_gets_no_gradient(divergence):
    student, teacher = pair()
    teacher.requires_grad_()
    divergence(student.log_softmax(-1), teacher).sum().backward()
    assert teacher.grad is None


@every_divergence
def test_there_is_one_value_a_token_and_none_depends_on_another(divergence):
    student, teacher = pair()
    log_q = student.detach().log_softmax(-1)
    whole = divergence(log_q, teacher)
    assert whole.shape == (6,)
    torch.testing.assert_close(torch.cat([divergence(log_q[i : i + 1], teacher[i : i + 1]) for i in range(6)]), whole)


def test_jsd_over_beta_tends_to_the_forward_kl_and_over_one_minus_beta_to_the_reverse():
    student, teacher = pair()
    log_q = student.detach().log_softmax(-1)
    near = 1e-7
    torch.testing.assert_close(jsd(log_q, teacher, beta=near) / near, forward_kl(log_q, teacher), rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(
        jsd(log_q, teacher, beta=1 - near) / near, reverse_kl(log_q, teacher), rtol=1e-4, atol=1e-6
    )


def test_jsd_is_symmetric_at_one_half_and_only_there():
    student, teacher = pair()
    log_q = student.detach().log_softmax(-1)
    torch.testing.assert_close(jsd(log_q, teacher), jsd(teacher, log_q))
    torch.testing.assert_close(jsd(log_q, teacher, beta=0.3), jsd(teacher, log_q, beta=0.7))
    assert (jsd(log_q, teacher, beta=0.3) - jsd(teacher, log_q, beta=0.3)).abs().max() > 1e-3


def test_jsd_reaches_log_2_for_distributions_that_share_nothing():
    apart = torch.tensor([[0.0, -1e4], [-1e4, 0.0]]).log_softmax(-1)
    close(jsd(apart, apart.flip(0)), math.log(2), math.log(2))
    student, teacher = pair(n=200, sharpness=20.0)
    assert jsd(student.log_softmax(-1), teacher).max() <= math.log(2) + 1e-12


@pytest.mark.parametrize("skew", [0.01, 0.1, 0.5])
def test_skewed_divergences_stay_below_minus_log_skew_and_reach_it(skew):
    apart = torch.tensor([[0.0, -1e4]]).log_softmax(-1)
    for divergence in (skewed_forward_kl, skewed_reverse_kl):
        close(divergence(apart, apart.flip(1), skew=skew), -math.log(skew))
        student, teacher = pair(n=200, sharpness=20.0)
        assert divergence(student.log_softmax(-1), teacher, skew=skew).max() <= -math.log(skew) + 1e-12


def test_no_skew_is_the_plain_divergence():
    student, teacher = pair()
    log_q = student.detach().log_softmax(-1)
    torch.testing.assert_close(skewed_forward_kl(log_q, teacher, skew=0), forward_kl(log_q, teacher), rtol=0, atol=0)
    torch.testing.assert_close(skewed_reverse_kl(log_q, teacher, skew=0), reverse_kl(log_q, teacher), rtol=0, atol=0)


@every_divergence
def test_a_token_that_one_side_excludes_gives_finite_values_and_gradients(divergence):
    floor = -3e4  # what a batch puts in the place of -inf
    logits = torch.tensor([[0.0, 1.0, floor], [0.0, 1.0, 2.0], [0.0, 1.0, floor]], requires_grad=True)
    teacher = torch.tensor([[0.0, 1.0, 2.0], [0.0, 1.0, floor], [0.0, 1.0, floor]]).log_softmax(-1)
    value = divergence(logits.log_softmax(-1), teacher)
    value.sum().backward()
    assert value.isfinite().all()
    assert logits.grad.isfinite().all()
    assert abs(value[2].item()) < 1e-6


@pytest.mark.parametrize("beta", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_a_beta_at_or_outside_the_ends_is_refused_with_the_way_out(beta):
    with pytest.raises(ValueError, match="beta must lie strictly between 0 and 1.*use forward_kl or reverse_kl"):
        jsd(Q, P, beta=beta)


@pytest.mark.parametrize("skew", [1.0, -0.1, 2.0, float("nan")])
@pytest.mark.parametrize("divergence", [skewed_forward_kl, skewed_reverse_kl])
def test_a_skew_outside_its_range_is_refused(divergence, skew):
    with pytest.raises(ValueError, match=r"skew must lie in \[0, 1\), got"):
        divergence(Q, P, skew=skew)
