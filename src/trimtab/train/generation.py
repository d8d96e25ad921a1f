"""How a policy samples completions inside TRL's trainer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from transformers import GenerationConfig

from trimtab.decoding._batching import alone
from trimtab.decoding._config import run
from trimtab.decoding._draws import Uniform


@contextmanager
def as_it_was(model: Any) -> Iterator[None]:
    """Restores a model's tensors, which TRL rounds to the dtype of training.bf16 for continuous batching."""
    weights = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    try:
        yield
    finally:
        for parameter, data in weights:
            if parameter.dtype != data.dtype:
                parameter.data = data
        for module, own in buffers:
            for name, old in own.items():
                now = module._buffers[name]
                if old is not None and now is not None and now.dtype != old.dtype:
                    module._buffers[name] = old


@contextmanager
def generating(model: Any, tokenizer: Any, uniform: Uniform) -> Iterator[None]:
    """Within, `model.generate` follows only the config that TRL passes, and runs without dropout."""
    call, modes = model.generate, [(module, module.training) for module in model.modules()]

    def generate(generation_config: GenerationConfig, **inputs: Any) -> Tensor:
        leave = not generation_config.cache_implementation
        return run(model, generation_config, inputs, tokenizer=tokenizer, leave=leave, call=call, uniform=uniform)

    model.generate = generate
    model.eval()
    try:
        with alone(model):  # for continuous batching, which does not call `generate`
            yield
    finally:
        del model.generate  # the class's own is behind it
        for module, mode in modes:
            module.training = mode
