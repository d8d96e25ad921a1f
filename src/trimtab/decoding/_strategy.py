"""What a decoding strategy exports, and the settings that all sampling shares."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from trimtab.common.options import Options

GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1}
PLAIN: dict[str, Any] = {"do_sample": True, "num_beams": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
"""What they do not name is switched off by `trimtab.decoding.arguments`."""


class Temperature(Options):
    temperature: float = Field(1.0, gt=0)
    """Of the softmax, before anything is ruled out."""

    def warpers(self) -> LogitsProcessorList:
        """In the order of transformers. A processor that is handed to `generate` runs before the warpers that
        `generate` makes, so a rule that comes after them brings its own."""
        return LogitsProcessorList([TemperatureLogitsWarper(self.temperature)] if self.temperature != 1.0 else [])


class Sampling(Temperature):
    top_k: int = Field(0, ge=0)
    """Draw among so many tokens only; 0 for all. Before the strategy's own rule."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Draw among the best tokens of this share only. Before the strategy's own rule."""

    def warpers(self) -> LogitsProcessorList:
        """Temperature, top-k, top-p."""
        found = super().warpers()
        if self.top_k:
            found.append(TopKLogitsWarper(self.top_k))
        if self.top_p < 1.0:
            found.append(TopPLogitsWarper(self.top_p))
        return found


@dataclass(frozen=True)
class Strategy:
    """What a file in `decoding/` exports as STRATEGY."""

    paper: str
    equation: str
    options: type[Options]
    arguments: Callable[[Any, Any], dict[str, Any]]
    """arguments(options, marks) -> arguments of `model.generate`; anew for each call, for processors remember"""
    idle: Callable[[Any], Mapping[str, str]] = lambda options: {}
    """idle(options) -> settings that do nothing beside the others, and why; who sets one of them is told"""
