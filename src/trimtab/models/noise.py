"""Randomness that a model only has in training, above all dropout, and switching it off.

A ratio of two policies of one network means nothing where one of them was read with dropout and the other without.
"""

import inspect
import re
from collections.abc import Iterator, Mapping
from functools import cache
from types import CodeType, MethodType
from typing import Any

from torch import nn
from torch.nn.modules.dropout import _DropoutNd
from transformers import PreTrainedModel

from trimtab.models.masters import inner

RATE = re.compile(r"dropout|layer_?drop|drop_path|drop_prob|drop_rate|pdrop")
"""Names of numbers that modules hand to functional dropout, or by which they skip layers."""
JITTER = re.compile(r"jitter")
"""Names of settings of routers that multiply their input by random numbers or draw the experts; some of these settings
act in evaluation too, so that they stay as they are and the router itself does not go into training."""


def rates(model: nn.Module) -> dict[str, float]:
    """By name of the setting the largest rate above 0 at which the model drops something in training, or jitters."""
    found: dict[str, float] = {}
    for path, module in model.named_modules():
        own = _matching(RATE, module)
        if isinstance(module, _DropoutNd):
            own = {path.rpartition(".")[2] or "dropout": module.p}
        if "lora_dropout" in path:
            own = {"lora_dropout": max(own.values(), default=0.0)}
        for name, rate in (own | _matching(JITTER, module) | _configured(module)).items():
            if rate > 0:
                found[name] = max(found.get(name, 0.0), float(rate))
    return found


def switch_off(model: nn.Module) -> None:
    """Take dropout of every kind out of the model's training, and keep routers that jitter out of it.

    Not by `eval()`: gradient checkpointing and some architectures go by the mode of training. The config is left as it
    is, so that a saved model has its own settings.
    """
    saved = inner(model)
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name in _matching(RATE, module):
            setattr(module, name, 0.0)
        if module is not saved and (asked := _configured(module)):
            module.config = _Quiet(module.config, dict.fromkeys(asked, 0.0))  # type: ignore[arg-type, assignment]
        if any(JITTER.search(name) for name in vars(module)):
            module.train = MethodType(_train_below, module)  # type: ignore[method-assign]
            module.training = False


def _train_below(self: nn.Module, mode: bool = True) -> nn.Module:
    """`train` of a module that itself stays in evaluation."""
    for child in self.children():
        child.train(mode)
    return self


def _matching(pattern: re.Pattern[str], module: nn.Module) -> dict[str, float]:
    """Numbers among the module's own attributes whose names match."""
    return {name: value for name, value in vars(module).items() if pattern.search(name) and type(value) in (int, float)}


def _configured(module: nn.Module) -> dict[str, float]:
    """Rates above 0 that the module looks up in its config each time it is called."""
    config = getattr(module, "config", None)
    found = {} if config is None else {name: getattr(config, name, None) for name in _looked_up(type(module))}
    return {name: rate for name, rate in found.items() if isinstance(rate, (int, float)) and rate > 0}


@cache
def _looked_up(kind: type[nn.Module]) -> frozenset[str]:
    """Names of rates that stand beside `config` in the code of a class, except where it is built."""
    own = [base for base in kind.__mro__ if base.__module__ != PreTrainedModel.__module__]
    methods = [one for base in own for name, one in vars(base).items() if name != "__init__"]
    plain = [inspect.unwrap(one) for one in methods if inspect.isfunction(one)]
    names = [set(_names(one.__code__)) for one in plain if inspect.isfunction(one)]
    return frozenset(name for some in names if "config" in some for name in some if RATE.search(name))


def _names(code: CodeType) -> Iterator[str]:
    """Of globals and attributes, in functions inside of it too."""
    yield from code.co_names
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _names(one)


class _Quiet:
    """A config in which some settings are others; all else is as it is in the config, also what is changed later."""

    def __init__(self, config: Any, instead: Mapping[str, float]):
        self.__dict__.update(_config=config, **instead)

    def __getattr__(self, name: str) -> Any:
        if name == "_config":  # asked of a copy that is being made
            raise AttributeError(name)
        return getattr(self._config, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._config, name, value)
