"""What a model draws at random in training alone, dropout first of all, and how it is switched off.

A ratio of two policies of one network means nothing where one of them was read with dropout and the other without.
"""

import re
from types import MethodType
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

RATE = re.compile(r"dropout|layer_?drop|drop_path|drop_prob|drop_rate|pdrop")
"""Names of numbers that modules hand to functional dropout, or by which they skip layers."""
JITTER = re.compile(r"jitter")
"""Names of settings of routers that multiply their input by random numbers or draw the experts; some of these settings
act in evaluation too, so that they stay as they are and the router itself does not go into training."""


def rates(model: nn.Module) -> dict[str, float]:
    """By name of the setting the largest rate above 0 at which the model drops something in training, or jitters."""
    found: dict[str, float] = {}
    for path, module in model.named_modules():
        own = {path.rpartition(".")[2] or "dropout": module.p} if isinstance(module, _DropoutNd) else _rates(module)
        if "lora_dropout" in path:
            own = {"lora_dropout": max(own.values(), default=0.0)}
        for name, rate in (own | _jitter(module)).items():
            if rate > 0:
                found[name] = max(found.get(name, 0.0), float(rate))
    return found


def switch_off(model: nn.Module) -> None:
    """Take dropout of every kind out of the model's training, and keep routers that jitter out of it.

    Not by `eval()`: gradient checkpointing and some architectures go by the mode of training. The config is left as it
    is, so that a saved model has its own settings.
    """
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name in _rates(module):
            setattr(module, name, 0.0)
        if any(JITTER.search(name) for name in vars(module)):
            module.train = MethodType(_train_below, module)  # type: ignore[method-assign]
            module.training = False


def _train_below(self: nn.Module, mode: bool = True) -> nn.Module:
    """`train` of a module that itself stays in evaluation."""
    for child in self.children():
        child.train(mode)
    return self


def _rates(module: nn.Module) -> dict[str, float]:
    return {name: value for name, value in _numbers(module) if RATE.search(name)}


def _jitter(module: nn.Module) -> dict[str, float]:
    return {name: value for name, value in _numbers(module) if JITTER.search(name)}


def _numbers(module: nn.Module) -> list[tuple[str, Any]]:
    own = vars(module).items()
    return [(name, value) for name, value in own if isinstance(value, (int, float)) and not isinstance(value, bool)]
