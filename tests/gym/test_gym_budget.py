"""The budget of an episode, on a clock that is set by hand."""

import json

import pytest
from pydantic import ValidationError

from trimtab.gym.budget import BudgetLimits, GymBudget


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_clock_starts_with_the_first_action_and_stands_still_while_paused():
    clock = Clock()
    budget = GymBudget(BudgetLimits(seconds=10), clock)
    clock.now = 100.0
    assert budget.seconds == 0
    budget.begin()
    clock.now = 104.0
    assert (budget.seconds, budget.left()) == (4.0, 6.0)
    budget.pause()
    clock.now = 200.0
    assert budget.seconds == 4.0
    budget.begin()
    clock.now = 206.0
    assert budget.left() == 0
    assert "the time of 10 seconds" in budget.over()


def test_a_restored_budget_has_used_what_the_stored_one_had():
    clock = Clock()
    budget = GymBudget(BudgetLimits(), clock)
    budget.begin()
    budget.steps, budget.submissions, budget.evaluation_seconds = 7, 2, 3.5
    budget.use_cpu("a", 1.25)
    clock.now = 8.0
    stored = json.loads(json.dumps(budget.state()))
    later = Clock()
    later.now = 1000.0
    restored = GymBudget(BudgetLimits(), later, stored)
    restored.begin()
    assert restored.state() == stored
    restored.use_cpu("b", 1.0)
    assert restored.cpu_seconds == 2.25


def test_the_cpu_seconds_of_a_session_are_a_count_and_not_a_sum():
    budget = GymBudget(BudgetLimits(cpu_seconds=3))
    for seconds in (1.0, 2.0, 1.5):
        budget.use_cpu("a", seconds)
    assert budget.cpu_seconds == 2.0
    assert budget.over() is None
    budget.use_cpu("b", 1.0)
    assert "CPU seconds" in budget.over()


def test_the_last_step_ends_it_and_so_does_one_submission_more_than_allowed():
    for key, allowed, last in (("steps", 4, 4), ("submissions", 2, 3)):
        budget = GymBudget(BudgetLimits(**{key: allowed}))
        setattr(budget, key, last - 1)
        assert budget.over() is None
        setattr(budget, key, last)
        assert f"all {allowed} {key}" in budget.over()


@pytest.mark.parametrize("limits", [{"seconds": 0}, {"steps": 0}, {"submissions": -1}, {"hours": 1}])
def test_limits_that_make_no_sense_are_refused(limits):
    with pytest.raises(ValidationError):
        BudgetLimits(**limits)
