"""Streams with their own cache, which is checked at a model's first tokens by also reading each text as a whole.

`generate` makes one cache, for one model, and classes keep their state in different forms, some inside their modules:
two streams must not share it, and rows of a batch must not get mixed up.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel
from transformers.generation.utils import ALL_CACHE_NAMES

from trimtab.decoding._batching import keeps_keys_and_values, warn_without_cache
from trimtab.decoding._streams import Stream

FIRST = 3
"""tokens at which a model with unknown states is also recomputed"""
FAILURES = (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError)
"""of a model whose cache does not fit it"""
_CORRECT: WeakKeyDictionary[Any, dict[tuple[bool, bool], bool]] = WeakKeyDictionary()
"""model -> (several rows, padding) -> whether its cache is correct"""


def without_cache(inputs: dict[str, Any]) -> dict[str, Any]:
    """The inputs of a forward without any cache."""
    return {name: value for name, value in inputs.items() if name not in ALL_CACHE_NAMES}


def own_cache(model: Any, inputs: dict[str, Any], generation_config: GenerationConfig, num_rows: int) -> dict[str, Any]:
    """The inputs that `generate` prepared for another model, with an empty cache of the kind this one uses."""
    found = without_cache(inputs)
    if found.get("use_cache"):
        most = (generation_config.max_length or 1) - 1
        model._prepare_cache_for_generation(
            generation_config, found, generation_config.get_generation_mode(), num_rows, most
        )
    return found


class CheckedStream(Stream):
    """A stream that continues without a cache if its model's cache is wrong, and says so once per model."""

    def __init__(
        self, model: PreTrainedModel, rows: Tensor, generation_config: GenerationConfig, inputs: dict[str, Any]
    ):
        super().__init__(model, rows, generation_config, inputs)
        mask = inputs.get("attention_mask")
        self.kind = (len(rows) > 1, mask is not None and not bool(mask.all()))
        self.known = _CORRECT.setdefault(self.model, {})
        self.checked = range(1, 2) if keeps_keys_and_values(model) else range(FIRST)
        self.step = 0
        if self.known.get(self.kind) is False:
            self.inputs = {**without_cache(inputs), "use_cache": False}

    def __call__(self, input_ids: Tensor) -> Tensor:
        step, self.step = self.step, self.step + 1
        cached = self.inputs.get("use_cache") and not self.model.training  # dropout differs between two forwards
        if not cached or self.known.get(self.kind) or step not in self.checked:
            return super().__call__(input_ids)
        anew = Stream(self.model, self.rows, self.generation_config, {**without_cache(self.inputs), "use_cache": False})
        anew.started = self.started
        with _states_aside(self.model):
            wanted = anew(input_ids)
        try:
            found = super().__call__(input_ids)
        except FAILURES:
            found = None
        if found is None or not alike(found, wanted, coarse=self.model.dtype != torch.float32):
            self.inputs, self.started = anew.inputs, True
            if False not in self.known.values():
                warn_without_cache(self.model)
            self.known[self.kind] = False
            return wanted
        if step == self.checked[-1]:
            self.known[self.kind] = True
        return found


@contextmanager
def _states_aside(model: Any) -> Iterator[None]:
    """A context that restores what modules themselves keep of earlier tokens (recurrent_gemma's do)."""
    kept = [(module.__dict__, _states_of(module)) for module in model.modules()]
    yield
    for own, before in kept:
        own.update(before)


def _states_of(module: Any) -> dict[str, Tensor | None]:
    """Tensors of a module that are not parameters or buffers, and attributes for such."""
    found = {name: value for name, value in vars(module).items() if value is None or isinstance(value, Tensor)}
    return {name: value if value is None else value.clone() for name, value in found.items()}


def alike(found: Tensor, wanted: Tensor, *, coarse: bool) -> bool:
    """Whether logits [n, V] are equal up to rounding; `coarse` for weights with 8 or 11 bits."""
    apart = (found - wanted).nan_to_num(nan=0.0, posinf=torch.inf, neginf=torch.inf).abs().amax(dim=-1)
    largest = wanted.masked_fill(~wanted.isfinite(), 0.0).abs().amax(dim=-1)
    return bool((apart <= (0.1 if coarse else 1e-3) * largest).all())
