"""A plan refuses to build what cannot run; settings refuse what they do not know."""

import pytest
import torch
from pydantic import ValidationError

from trimtab.core import (
    AdvantageEstimator,
    Objective,
    Plan,
    PlanError,
    RolloutBatch,
    Rollouts,
    Signal,
    Stateful,
    TokenBatch,
)
from trimtab.methods import hpd, kd, sft
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match


def provider(*names):
    signal = Signal()
    signal.provides = frozenset(names)
    return signal


class Pairs(Objective):
    per = "sequence"

    def __call__(self, batch):
        raise AssertionError("never run")


class Two(Objective):
    needs = frozenset({"teacher", "reference", "advantages"})

    def __call__(self, batch):
        raise AssertionError("never run")


def test_a_plan_whose_signals_are_all_there_is_built():
    objective = Match(forward_kl, 1.0, 0.0)
    plan = Plan(objective, signals=(provider("teacher", "reference"),))
    assert plan.objective is objective
    assert plan.reduction == "token_mean"
    assert Plan(Likelihood()).signals == ()


def test_a_missing_signal_is_named_with_what_is_provided():
    with pytest.raises(PlanError, match="^HPD needs the signal teacher; the plan provides: none$"):
        Plan(hpd.HPD(hpd.Config()))
    with pytest.raises(PlanError, match="^Two needs the signals advantages, reference; the plan provides: teacher$"):
        Plan(Two(), signals=(provider("teacher"),))
    with pytest.raises(PlanError, match="^Two needs the signal advantages; the plan provides: reference, teacher$"):
        Plan(Two(), signals=(provider("teacher"), provider("reference")))


def test_an_objective_of_whole_sequences_has_no_mean_over_tokens():
    with pytest.raises(PlanError, match="Pairs has one value per sequence, so there is no mean over tokens"):
        Plan(Pairs())
    assert Plan(Pairs(), reduction="sequence_mean").objective.per == "sequence"


def test_a_plan_error_is_the_users_mistake():
    assert issubclass(PlanError, ValueError)


@pytest.mark.parametrize("method", [sft, kd, hpd])
def test_an_unknown_setting_is_refused_by_name(method):
    with pytest.raises(ValidationError, match="temprature"):
        method.Config(temprature=2.0)


@pytest.mark.parametrize("method", [kd, hpd])
def test_settings_are_frozen_and_their_docstrings_are_the_help(method):
    config = method.Config()
    for name, field in type(config).model_fields.items():
        assert field.description, name
        with pytest.raises(ValidationError, match="frozen"):
            setattr(config, name, getattr(config, name))


# --- methods that learn from their own answers


class Paid(AdvantageEstimator):
    """It reads what it is asked to."""

    def __init__(self, *needs):
        self.needs = frozenset(needs)

    def __call__(self, rollouts):
        raise AssertionError("never run")


class Advantages(Objective):
    needs = frozenset({"advantages"})

    def __call__(self, batch):
        raise AssertionError("never run")


def test_what_an_advantage_estimator_provides_is_a_signal_of_the_objective():
    estimator = Paid()
    assert Plan(Advantages(), advantages=estimator).advantages is estimator
    with pytest.raises(PlanError, match="^Advantages needs the signal advantages; the plan provides: none$"):
        Plan(Advantages())


def test_what_it_needs_a_rollout_signal_must_provide_and_no_signal_of_the_objective_does():
    with pytest.raises(PlanError, match="^Paid needs token_scores, values, which no rollout signal of the plan"):
        Plan(Advantages(), advantages=Paid("token_scores", "values"))
    with pytest.raises(PlanError, match="^Paid needs values, which no rollout signal"):
        Plan(Advantages(), advantages=Paid("token_scores", "values"), rollout_signals=(provider("token_scores"),))
    with pytest.raises(PlanError, match="^Paid needs values, which no rollout signal"):
        Plan(Advantages(), signals=(provider("values"),), advantages=Paid("values"))
    assert Plan(Advantages(), advantages=Paid("values"), rollout_signals=(provider("values"), provider("more")))


def test_outputs_of_the_sampling_policy_need_no_rollout_signal():
    assert Plan(Advantages(), advantages=Paid("old", "normaliser"))


def test_a_rollout_signal_is_no_signal_of_the_objective():
    with pytest.raises(PlanError, match="Advantages needs the signal advantages"):
        Plan(Advantages(), rollout_signals=(provider("advantages"),))


def test_values_of_answers_reach_their_tokens():
    labels = torch.tensor([[-100, 3, 4], [-100, -100, -100], [-100, 5, -100]])
    rollouts = Rollouts(TokenBatch.from_labels(labels), torch.zeros(3), torch.zeros(3, dtype=torch.long), {})
    assert rollouts.of_token(torch.tensor([1.0, 2.0, 3.0])).tolist() == [1, 1, 3]


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"objective": lambda batch: None}, "^function is not a subclass of Objective; write class function"),
        (
            {"objective": Two},
            r"^Two is not a subclass of Objective; write class Two\(Objective\) and pass an instance$",
        ),
        (
            {"objective": Pairs(), "signals": (Two(),), "reduction": "sum"},
            "^Two is not a subclass of Signal; write class Two",
        ),
        ({"objective": Pairs(), "rollout_signals": (3,), "reduction": "sum"}, "^int is not a subclass of Signal"),
        ({"objective": Advantages(), "advantages": Two()}, "^Two is not a subclass of AdvantageEstimator"),
    ],
)
def test_a_part_of_another_kind_is_named_with_the_class_that_it_has_to_have(parts, said):
    with pytest.raises(PlanError, match=said):
        Plan(**parts)


def test_what_a_signal_does_not_override_does_nothing():
    signal = Signal()
    assert (signal.provides, signal.needs, list(signal.models), signal(None, {})) == (frozenset(), frozenset(), [], {})
    signal.before_update(torch.nn.Identity(), 0, 0)
    nothing = torch.zeros(0)
    rollouts = RolloutBatch({}, nothing, nothing, None, update_rows=1)
    assert signal.before_advantages(rollouts) == signal.after_advantages(rollouts, {}) == {}
    assert signal.remarks() == []
    assert not isinstance(signal, Stateful)
