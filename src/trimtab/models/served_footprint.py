"""Memory of a vLLM server of a model, from its config and the server's settings alone."""

from dataclasses import dataclass
from typing import Any

from trimtab.common.errors import UserError
from trimtab.models.footprint import HALVES, frozen_bytes


class ServedError(UserError):
    """A server that vLLM would not start."""


@dataclass(frozen=True)
class EngineSettings:
    """Arguments of `vllm serve`, under their own names."""

    max_model_len: int
    """tokens of the longest request, prompt and answer"""
    max_num_seqs: int = 256
    """requests at the same time"""
    dtype: str = "bfloat16"
    kv_cache_dtype: str = "auto"
    """that of the model, or fp8 with a byte for each number"""
    tensor_parallel_size: int = 1
    block_size: int = 16
    """tokens of a block of the cache"""


@dataclass(frozen=True)
class ServerBytes:
    """What a server needs on each device; vLLM itself takes `--gpu-memory-utilization` of it, however much is used."""

    weights: int
    kv_cache: int
    """of all requests at their full length; with less, vLLM lets requests wait"""
    logits: int
    """of all requests, in float32, twice: as computed and as sampled from"""

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.logits


def server_bytes(config: Any, settings: EngineSettings, *, trust_remote_code: bool = False) -> ServerBytes:
    """Estimate the bytes of a server on each device.

    Activations of a batch of prompts and CUDA graphs are not included (vLLM measures them as it starts).

    Args:
        config: of the model, of transformers; layers that keep a window or a state are taken for full attention, which
            needs more.

    Raises:
        ServedError: where heads cannot be split over the devices.
    """
    text = config.get_text_config(decoder=True)
    number, heads = settings.tensor_parallel_size, text.num_attention_heads
    if heads % number:
        raise ServedError(
            f"tensor_parallel_size {number}: {heads} heads are not split by it; give a divisor of {heads}"
        )
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    kept = getattr(text, "num_key_value_heads", None) or heads
    mine = max(1, kept // number)  # fewer than devices: each has a copy
    size = 1 if settings.kv_cache_dtype.startswith("fp8") else 2 if settings.dtype in HALVES else 4
    blocks = -(-settings.max_model_len // settings.block_size)
    token = 2 * text.num_hidden_layers * mine * width * size
    weights = frozen_bytes(config, settings.dtype, "cuda", trust_remote_code=trust_remote_code)
    return ServerBytes(
        -(-weights // number),
        settings.max_num_seqs * blocks * settings.block_size * token,
        2 * 4 * settings.max_num_seqs * text.vocab_size,
    )
