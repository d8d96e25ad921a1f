"""Divergences: values worked by hand, limits, bounds and analytic gradients."""

import math

import numpy as np
import pytest
import torch

from trimtab.objectives.divergence import (
    abkl,
    akl,
    forward_kl,
    jsd,
    reverse_kl,
    skewed_forward_kl,
    skewed_reverse_kl,
    todi,
)

ALL = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jsd": jsd,
    "jsd 0.1": lambda s, t: jsd(s, t, beta=0.1),
    "skewed_forward_kl": skewed_forward_kl,
    "skewed_reverse_kl": skewed_reverse_kl,
    "skewed_forward_kl 0": lambda s, t: skewed_forward_kl(s, t, skew=0),
    "skewed_reverse_kl 0.7": lambda s, t: skewed_reverse_kl(s, t, skew=0.7),
    "akl": akl,
    "akl 0.9": lambda s, t: akl(s, t, mu=0.9),
    "todi": todi,
    "todi 3": lambda s, t: todi(s, t, beta=3),
    "abkl 1 1": abkl,
    "abkl 0.2 0.7": lambda s, t: abkl(s, t, alpha=0.2, beta=0.7),
    "abkl 0.7 0": lambda s, t: abkl(s, t, alpha=0.7, beta=0),
    "abkl 0 0.7": lambda s, t: abkl(s, t, alpha=0, beta=0.7),
    "abkl 0 0": lambda s, t: abkl(s, t, alpha=0, beta=0),
    "abkl 0.3 -0.3": lambda s, t: abkl(s, t, alpha=0.3, beta=-0.3),
    "abkl 1.5 -0.5": lambda s, t: abkl(s, t, alpha=1.5, beta=-0.5),
    "abkl -0.3 -0.2": lambda s, t: abkl(s, t, alpha=-0.3, beta=-0.2),
}
WEIGHED = ("akl", "akl 0.9", "todi", "todi 3")  # by the student itself, held constant
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
    if name.startswith("akl"):
        return np.array([akl_of_one(p[i], q[i], 0.9 if name.endswith("0.9") else 0.5) for i in range(len(p))])
    if name.startswith("todi"):
        a = 1 / (1 + (q / p) ** (3 if name.endswith("3") else 1))
        return (a * p * np.log(p / q) + (1 - a) * q * np.log(q / p)).sum(-1)
    if name.startswith("abkl"):
        return ab_of(p, q, *map(float, name.split()[1:]))
    skew = 0.7 if name.endswith("0.7") else 0.1
    return kl(q, skew * q + (1 - skew) * p)


def akl_of_one(p, q, mu):
    """As the released code: ranks by the teacher, those whose cumulative probability exceeds mu are the tail."""
    head = tail = cumulative = 0.0
    for rank, v in enumerate(np.argsort(-p)):
        cumulative += p[v]
        if rank == 0 or cumulative <= mu:
            head += abs(p[v] - q[v])
        else:
            tail += abs(p[v] - q[v])
    return head / (head + tail) * kl(p, q) + tail / (head + tail) * kl(q, p)


def ab_of(p, q, a, b):
    """The alpha-beta divergence and its limits, as printed."""
    if a == b == 0:
        each = (np.log(p) - np.log(q)) ** 2 / 2
    elif b == 0:
        each = (p**a * np.log(p**a / q**a) - p**a + q**a) / a**2
    elif a == 0:
        each = (q**b * np.log(q**b / p**b) - q**b + p**b) / b**2
    elif a + b == 0:
        each = (np.log(q**a / p**a) + p**a / q**a - 1) / a**2
    else:
        each = -(p**a * q**b - a / (a + b) * p ** (a + b) - b / (a + b) * q ** (a + b)) / (a * b)
    return each.sum(-1)


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


@pytest.mark.parametrize("name", sorted(ALL.keys() - WEIGHED))
def test_gradient_is_that_of_finite_differences(name):
    student, teacher = pair(n=2, v=5)
    divergence = ALL[name]
    assert torch.autograd.gradcheck(lambda x: divergence(x.log_softmax(-1), teacher), (student,))


@every_divergence
def test_a_step_against_the_gradient_makes_it_smaller(divergence):
    student, teacher = pair()
    before = divergence(student.log_softmax(-1), teacher)
    before.sum().backward()
    step = 0.1 * student.grad / student.grad.norm(dim=-1, keepdim=True).clamp(min=1)
    after = divergence((student.detach() - step).log_softmax(-1), teacher)
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


P3, Q3 = torch.tensor([[0.6, 0.3, 0.1]]).log(), torch.tensor([[0.2, 0.5, 0.3]]).log()


def test_akl_of_three_tokens():
    # mu 0.5: the first of the teacher exceeds it alone and is the head all the same: h = 0.4, t = 0.2 + 0.2
    forward = 0.6 * math.log(3) + 0.3 * math.log(0.6) + 0.1 * math.log(1 / 3)
    reverse = 0.2 * math.log(1 / 3) + 0.5 * math.log(5 / 3) + 0.3 * math.log(3)
    close(akl(Q3, P3), forward / 2 + reverse / 2)
    close(akl(Q3, P3, mu=0.95), 0.75 * forward + 0.25 * reverse)  # the head is 0.6 + 0.3


def test_akl_with_all_of_the_vocabulary_in_its_head_is_the_forward_kl():
    p, q = torch.tensor([[0.5, 0.25, 0.25]]).log(), torch.tensor([[0.25, 0.25, 0.5]]).log()  # sums exactly to 1
    close(akl(q, p, mu=1.0), forward_kl(q, p).item())


def test_todi_of_three_tokens():
    p, q = (0.6, 0.3, 0.1), (0.2, 0.5, 0.3)
    wanted = 0.0
    for a, b in zip(p, q):
        share = a / (a + b)  # sigmoid(log(p/q))
        wanted += share * a * math.log(a / b) + (1 - share) * b * math.log(b / a)
    close(todi(Q3, P3), wanted)


def test_todi_with_beta_0_is_half_of_both_kls_and_with_a_large_one_takes_of_each_id_what_is_positive():
    close(todi(Q3, P3, beta=0), (forward_kl(Q3, P3) + reverse_kl(Q3, P3)).item() / 2)
    close(todi(Q3, P3, beta=200), 0.6 * math.log(3) + 0.5 * math.log(5 / 3) + 0.3 * math.log(3))


def test_abkl_of_three_tokens():
    close(abkl(Q3, P3), 0.5 * (0.4**2 + 0.2**2 + 0.2**2))  # (1, 1)
    p, q = (0.6, 0.3, 0.1), (0.2, 0.5, 0.3)
    each = [a**0.2 * b**0.7 - 0.2 / 0.9 * a**0.9 - 0.7 / 0.9 * b**0.9 for a, b in zip(p, q)]
    close(abkl(Q3, P3, alpha=0.2, beta=0.7), -sum(each) / 0.14)


def test_abkl_is_the_forward_kl_at_1_0_the_reverse_at_0_1_and_hellingers_at_one_half():
    student, teacher = pair()
    log_q = student.detach().log_softmax(-1)
    torch.testing.assert_close(abkl(log_q, teacher, alpha=1, beta=0), forward_kl(log_q, teacher))
    torch.testing.assert_close(abkl(log_q, teacher, alpha=0, beta=1), reverse_kl(log_q, teacher))
    hellinger = ((log_q / 2).exp() - (teacher / 2).exp()).square().sum(-1)
    torch.testing.assert_close(abkl(log_q, teacher, alpha=0.5, beta=0.5), 2 * hellinger)


@pytest.mark.parametrize("limit", [(0.7, 0.0), (0.0, 0.7), (0.0, 0.0), (0.4, -0.4), (-0.4, 0.4)])
def test_abkl_is_continuous_where_its_formula_divides_by_0(limit):
    student, teacher = pair()
    log_q = student.detach().log_softmax(-1)
    alpha, beta = limit
    near = abkl(log_q, teacher, alpha=alpha + 1e-5, beta=beta + 1.3e-5)
    torch.testing.assert_close(near, abkl(log_q, teacher, alpha=alpha, beta=beta), rtol=2e-3, atol=1e-6)


def frozen_akl(log_q, log_p, at):
    """AKL with the shares of another student."""
    p, other = log_p.exp(), at.exp()
    shares = []
    for row in range(len(p)):
        order = p[row].argsort(descending=True)
        tail = p[row][order].cumsum(0) > 0.5
        tail[0] = False
        apart = (p[row] - other[row]).abs()[order]
        shares.append(apart[~tail].sum() / apart.sum())
    h = torch.stack(shares)
    return h * forward_kl(log_q, log_p) + (1 - h) * reverse_kl(log_q, log_p)


def frozen_todi(log_q, log_p, at):
    a = torch.sigmoid(log_p - at)
    return (a * log_p.exp() * (log_p - log_q) + (1 - a) * log_q.exp() * (log_q - log_p)).sum(-1)


@pytest.mark.parametrize(("weighed", "frozen"), [(akl, frozen_akl), (todi, frozen_todi)])
def test_the_weights_of_akl_and_todi_are_constants(weighed, frozen):
    student, teacher = pair()
    at = student.detach().log_softmax(-1)
    wanted = frozen(student.log_softmax(-1), teacher, at)
    found = weighed(student.log_softmax(-1), teacher)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(
        torch.autograd.grad(found.sum(), student)[0], torch.autograd.grad(wanted.sum(), student)[0]
    )
    few, of_few = pair(n=2, v=5)
    fixed = few.detach().log_softmax(-1)
    assert torch.autograd.gradcheck(lambda x: frozen(x.log_softmax(-1), of_few, fixed), (few,))


@every_divergence
def test_the_order_of_the_vocabulary_does_not_matter(divergence):
    student, teacher = pair()
    log_q, order = student.detach().log_softmax(-1), torch.randperm(9)
    torch.testing.assert_close(divergence(log_q[:, order], teacher[:, order]), divergence(log_q, teacher))


@every_divergence
def test_float32_keeps_small_values(divergence):
    log_p = torch.randn(6, 9, dtype=torch.float64).log_softmax(-1)
    log_q = (log_p + 0.01 * torch.randn(6, 9, dtype=torch.float64)).log_softmax(-1)
    torch.testing.assert_close(
        divergence(log_q.float(), log_p.float()), divergence(log_q, log_p).float(), rtol=2e-2, atol=3e-7
    )


@pytest.mark.parametrize(
    ("divergence", "wrong"),
    [(akl, {"mu": -0.1}), (akl, {"mu": 1.1}), (akl, {"mu": float("nan")}), (todi, {"beta": -1.0}),
     (todi, {"beta": float("inf")}), (abkl, {"alpha": float("nan")}), (abkl, {"beta": float("inf")})],
)  # fmt: skip
def test_parameters_outside_their_range_are_refused(divergence, wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.* must"):
        divergence(Q, P, **wrong)
