"""A method: its source, its settings, its requirements, and how its plan is built."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from trimtab.common.options import Options
from trimtab.core.plan import Plan
from trimtab.core.requirements import Requirements


class MethodConfig(Options):
    """Settings of a method."""

    def only(self, holds: bool, of: str, *names: str) -> None:
        """For validators: raise a ValueError if one of the settings `names` has no effect and is not its default.

        Args:
            holds: whether they have an effect.
            of: when they do, in words: "loss: dpo".
        """
        if holds:
            return
        for name in names:
            value, default = getattr(self, name), type(self).model_fields[name].default
            if value != default:
                raise ValueError(f"{name} is {value} but has no effect: it is only used with {of}; leave it out")


@dataclass(frozen=True, kw_only=True)
class Method:
    """What a method's file exports as METHOD."""

    config: type[MethodConfig] = MethodConfig
    build: Callable[..., Plan]
    """build(config, policy, **models) -> Plan; the models are signals, see `Requirements.provides`"""
    requires: Requirements | Callable[[Any], Requirements] = field(default_factory=Requirements)
    """fixed, or by the method's settings"""
    loop: Literal["supervised", "rollouts", "classification"] = "supervised"
    """learns from rows, from completions that the policy samples for their prompts, or from texts with labels"""
    paper: str = ""
    """"arXiv:..." or the name of the source"""
    claim: str = ""
    """the paper's claim, in one sentence"""
    equation: str = ""
    """the loss of one token, as plain text"""

    def requirements(self, config: MethodConfig) -> Requirements:
        """What it requires under these settings."""
        return self.requires if isinstance(self.requires, Requirements) else self.requires(config)
