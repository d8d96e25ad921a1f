"""Consistency of answers: values worked by hand, symmetry, limits, spans and finite differences."""

import math

import numpy as np
import pytest
import torch

from trimtab.core import TokenBatch
from trimtab.core.batch import COMPARED
from trimtab.objectives.consistency import Consistency, consistency, consistency_at

A = torch.tensor([[0.75, 0.25]], dtype=torch.float64).log()
B = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
KL_AB = 0.75 * math.log(1.5) + 0.25 * math.log(0.5)
KL_BA = 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25)


def two(n=5, v=7):
    return tuple((2 * torch.randn(n, v, dtype=torch.float64)).requires_grad_() for _ in range(2))


def p(logits, temperature=1.0):
    raised = np.exp(logits.detach().numpy() / temperature)
    return raised / raised.sum(-1, keepdims=True)


def test_it_is_half_the_sum_of_both_kls_of_two_known_distributions():
    assert consistency(A, B).item() == pytest.approx((KL_AB + KL_BA) / 2)


def test_it_is_half_of_jeffreys_divergence():
    first, second = two()
    a, b = p(first), p(second)
    jeffreys = ((a - b) * np.log(a / b)).sum(-1)
    torch.testing.assert_close(consistency(first, second), torch.tensor(jeffreys / 2))


def test_equal_distributions_have_no_value_and_no_gradient():
    first, _ = two()
    second = first.detach().clone().requires_grad_()
    values = consistency(first, second)
    values.sum().backward()
    torch.testing.assert_close(values, torch.zeros_like(values))
    for side in (first, second):
        torch.testing.assert_close(side.grad, torch.zeros_like(side))


def test_swapping_the_sides_changes_nothing_and_no_value_is_negative():
    first, second = two(50)
    torch.testing.assert_close(consistency(first, second), consistency(second, first))
    assert (consistency(first, second) >= 0).all()


def test_a_constant_added_to_the_logits_changes_nothing():
    first, second = two()
    torch.testing.assert_close(consistency(first + 3, second - 2), consistency(first, second))


def test_the_temperature_divides_both_sides_and_a_high_one_makes_them_equal():
    first, second = two()
    torch.testing.assert_close(consistency(first, second, temperature=2.0), consistency(first / 2, second / 2))
    assert consistency(first, second, temperature=1e4).max() < 1e-6


def test_the_temperature_of_the_target_alone_is_that_of_the_released_code():
    first, second = two()
    warm, cold = (p(first, 2.0), p(second, 2.0)), (p(first), p(second))
    expected = [(warm[i] * np.log(warm[i] / cold[1 - i])).sum(-1) for i in (0, 1)]
    found = consistency(first, second, temperature=2.0, temperature_on="target")
    torch.testing.assert_close(found, torch.tensor(sum(expected) / 2))


def test_the_smoothed_value_of_two_known_distributions():
    """(p + 0.1) / (1.2 + 0.1): 0.85, 0.35 and 0.6, 0.6 over 1.3, which sum to 1.2 / 1.3."""
    a, b = (0.85 / 1.3, 0.35 / 1.3), (0.6 / 1.3, 0.6 / 1.3)
    both = [sum(x * math.log(x / y) for x, y in zip(*sides)) for sides in ((a, b), (b, a))]
    assert consistency(A, B, smoothing_eps=0.1).item() == pytest.approx(sum(both) / 2)


def test_smoothing_by_the_released_constant_loses_half_of_a_large_divergence_and_a_small_one_loses_nothing():
    first, second = (4 * torch.randn(40, 2000, dtype=torch.float64) for _ in range(2))
    exact = consistency(first, second).mean()
    assert consistency(first, second, smoothing_eps=7e-5).mean() < 0.8 * exact
    torch.testing.assert_close(consistency(first, second, smoothing_eps=1e-16).mean(), exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    "how",
    [{}, {"temperature": 1.7}, {"smoothing_eps": 1e-3}, {"temperature": 0.6, "temperature_on": "target"}],
)
def test_the_gradient_of_both_sides_is_that_of_finite_differences(how):
    first, second = two(2, 4)
    assert torch.autograd.gradcheck(lambda a, b: consistency(a, b, **how), (first, second))


def test_the_gradient_reaches_both_sides_and_is_worked_by_hand():
    """d/dz_a of half of both: (p_a (log p_a - log p_b - KL_ab) + p_a - p_b) / 2."""
    first, second = two()
    consistency(first, second).sum().backward()
    for one, other in ((first, second), (second, first)):
        a, b = p(one), p(other)
        kl = (a * np.log(a / b)).sum(-1, keepdims=True)
        torch.testing.assert_close(one.grad, torch.tensor((a * (np.log(a / b) - kl) + a - b) / 2))


def test_from_first_is_one_kl_whose_target_gets_no_gradient():
    first, second = two()
    value = consistency(first, second, direction="from_first")
    a, b = p(first), p(second)
    torch.testing.assert_close(value, torch.tensor((a * np.log(a / b)).sum(-1)))
    value.sum().backward()
    assert first.grad is None
    torch.testing.assert_close(second.grad, torch.tensor(b - a))


# ---------------------------------------------------------------- at indices of logits


def test_spans_are_indices_of_the_logits_and_other_places_get_no_gradient():
    first, second = (torch.randn(2, 6, 5, dtype=torch.float64).requires_grad_() for _ in range(2))
    value = consistency_at(first, second, [[(1, 3)], [(0, 1)]], [[(2, 4)], [(4, 5)]])
    expected = consistency(
        torch.stack([first[0, 1], first[0, 2], first[1, 0]]), torch.stack([second[0, 2], second[0, 3], second[1, 4]])
    ).mean()  # positions of all rows count the same
    torch.testing.assert_close(value, expected)
    value.backward()
    inside = torch.zeros(2, 6, dtype=torch.bool)
    inside[0, 1] = inside[0, 2] = inside[1, 0] = True
    assert (first.grad[~inside] == 0).all()
    assert (first.grad[inside].abs().sum(-1) > 0).all()


def test_several_spans_of_a_row_are_pooled():
    first, second = (torch.randn(1, 9, 5) for _ in range(2))
    found = consistency_at(first, second, [[(0, 1), (5, 7)]], [[(2, 4), (6, 7)]])
    torch.testing.assert_close(found, consistency(first[0, [0, 5, 6]], second[0, [2, 3, 6]]).mean())


def test_rows_that_are_out_of_range_or_of_unequal_lengths_are_left_out_exactly():
    first, second = (torch.randn(4, 6, 5) for _ in range(2))
    spans = [[(1, 2)], [(4, 6)], [(0, 2)], [(1, 3)]], [[(3, 4)], [(1, 3)], [(1, 2)], [(2, 3)]]
    found = consistency_at(first, second, *spans)
    torch.testing.assert_close(found, consistency(first[:1, 1], second[:1, 3]).mean())


def test_nothing_to_compare_is_zero():
    first, second = (torch.randn(1, 4, 5, requires_grad=True) for _ in range(2))
    found = consistency_at(first, second, [[(0, 9)]], [[(0, 9)]])
    found.backward()
    assert found.item() == 0
    assert (first.grad == 0).all()


# ---------------------------------------------------------------- as an objective


def test_the_earlier_rationale_of_the_row_is_the_target_whichever_side_it_was_drawn_for():
    first, second = two(2)
    places = torch.tensor([[0, 3], [2, 1]])
    batch = TokenBatch(
        *(torch.arange(2) for _ in range(5)), {"policy": torch.cat([first, second], 1), COMPARED: places}
    )
    values = Consistency(0.5, direction="from_first")(batch).values
    torch.testing.assert_close(values[0], 0.5 * consistency(first, second, direction="from_first")[0])
    torch.testing.assert_close(values[1], 0.5 * consistency(second, first, direction="from_first")[1])
