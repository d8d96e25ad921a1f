"""One training system a file. A method is found by its file name: there is no list to edit."""

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trimtab.common import by_file
from trimtab.common.errors import UserError, check_known

if TYPE_CHECKING:
    from trimtab.core import Method, Plan

_FOLDER = Path(__file__).parent


class UnknownMethod(UserError):
    """A name that no file in this folder has."""


def names() -> list[str]:
    """The methods there are, without importing them."""
    return by_file.names(_FOLDER)


def summary(name: str) -> str:
    """The first line of the method's docstring, without importing it."""
    return by_file.summary(_FOLDER, name)


def check_name(name: str) -> None:
    """Whether a file has that name, without importing it.

    Raises:
        UnknownMethod: with the nearest name.
    """
    check_known(name, names(), "method", "known methods", UnknownMethod)


def load(name: str) -> "Method":
    """The METHOD of the file called `name`.

    Raises:
        UnknownMethod: with the nearest name.
    """
    check_name(name)
    return importlib.import_module(f"trimtab.methods.{name}").METHOD


def plan_of(name: str, policy: Any = None, **options: Any) -> "Plan":
    """A method's plan for a loop of your own: its signals are what you hand over with each batch.

        plan = plan_of("kd", divergence="reverse_kl")
        batch = TokenBatch.align(logits, labels, {"teacher": teacher_logits})
        loss = reduce(plan.objective(batch), weights(batch, plan.reduction))

    `plan.objective.needs` names the signals.

    Args:
        name: of the method.
        policy: for methods that look at it when they are built.
        options: of the method, see `trimtab show METHOD`; defaults where none are given.

    Raises:
        ValueError: for an unknown method or option, and for a method that needs models that run: a reward model, or a
            critic.
    """
    from trimtab.common.errors import check_settings
    from trimtab.core import Critic, RewardModel
    from trimtab.signals.base import Given

    method = load(name)
    config = check_settings(method.config, options, f"method {name}", "", UserError)
    required = method.requirements(config)
    for kind, what in ((RewardModel, "a reward model"), (Critic, "a critic")):
        if required.model(kind):
            raise UserError(f"method {name} with these options runs {what} on its own answers; train it by a recipe")
    return method.build(config, policy, **{role: Given(role) for role in required.provides})
