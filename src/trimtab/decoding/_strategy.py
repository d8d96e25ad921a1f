"""What a decoding strategy exports, and the settings common to all sampling."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from trimtab.common.options import Options

GREEDY: dict[str, Any] = {"do_sample": False, "num_beams": 1}
PLAIN: dict[str, Any] = {"do_sample": True, "num_beams": 1, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
"""Arguments of `generate`; `trimtab.decoding.arguments` switches off everything they do not set."""


class Temperature(Options):
    temperature: float = Field(1.0, gt=0)
    """Temperature of the softmax, applied before any token is excluded."""

    def warpers(self) -> LogitsProcessorList:
        """Warpers in the order of transformers. A processor passed to `generate` runs before the warpers that
        `generate` makes, so a rule that must run after them brings its own."""
        return LogitsProcessorList([TemperatureLogitsWarper(self.temperature)] if self.temperature != 1.0 else [])


class Sampling(Temperature):
    top_k: int = Field(0, ge=0)
    """Only sample from this many of the most likely tokens; 0 for all. Before the strategy's own rule."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Only sample from the most likely tokens that add up to this probability; before the strategy's own rule."""

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
    """arguments(options, marks) -> arguments of `model.generate`; new for each call, since processors keep state"""
    idle: Callable[[Any], Mapping[str, str]] = lambda options: {}
    """idle(options) -> settings without effect under the others, and why; setting one of them is an error"""
