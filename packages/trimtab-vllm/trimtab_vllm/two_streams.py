"""Two streams through one network: around its first layer (the original model) and through it (the aligned one).

    original: e -> layers 1..L,    aligned: e -> layer 0 -> layers 1..L,    z = (1 - s) z_original + s z_aligned

Both are one batch of 2 T tokens for every linear layer, original first, so weights are read once; in attention each has
keys and values of its own: 2 L + 1 caches. Only the caches and the way through the layers differ from vLLM's own model
classes, whose layers are used as they are.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from vllm.compilation.decorators import support_torch_compile
from vllm.config import VllmConfig
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.logits_processor import LogitsProcessor
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.models.interfaces import SupportsQuant
from vllm.model_executor.models.llama import LlamaModel
from vllm.model_executor.models.mistral import MistralModel
from vllm.model_executor.models.qwen2 import Qwen2Model
from vllm.model_executor.models.qwen3 import Qwen3Model
from vllm.model_executor.models.utils import AutoWeightsLoader, maybe_prefix
from vllm.sequence import IntermediateTensors

from trimtab_vllm.mixture import mixed
from trimtab_vllm.rows import rows_of

ORIGINAL = "attn_original"


class TwoCaches(nn.Module):
    """Attention of both streams; the same weights, other keys and values."""

    def __init__(self, aligned: Attention, original: Attention):
        super().__init__()
        self.aligned, self.original = aligned, original

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[2 T, heads * size] from as many rows of each, original first."""
        t = q.shape[0] // 2
        original = self.original(q[:t].contiguous(), k[:t].contiguous(), v[:t].contiguous())
        aligned = self.aligned(q[t:].contiguous(), k[t:].contiguous(), v[t:].contiguous())
        return torch.cat([original, aligned])


def second_cache(attention: nn.Module, vllm_config: VllmConfig) -> TwoCaches:
    """The `attn` of one of vLLM's attention blocks, and one like it for the original stream."""
    first: Any = attention.attn
    second = Attention(
        attention.num_heads,
        attention.head_dim,
        attention.scaling,
        num_kv_heads=attention.num_kv_heads,
        cache_config=vllm_config.cache_config,
        quant_config=vllm_config.quant_config,
        per_layer_sliding_window=first.sliding_window,
        prefix=first.layer_name.removesuffix("attn") + ORIGINAL,
    )
    return TwoCaches(first, second)


class TwoStreams(nn.Module if TYPE_CHECKING else object):
    """Goes before one of vLLM's decoders."""

    layers: Any
    norm: Any

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__(vllm_config=vllm_config, prefix=prefix)
        for layer in self.layers[1:]:
            layer.self_attn.attn = second_cache(layer.self_attn, vllm_config)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """[T, 2 H] hidden states of the original and of the aligned stream, side by side."""
        embedded = self.embed_input_ids(input_ids) if inputs_embeds is None else inputs_embeds
        changed, residual = self.layers[0](positions, embedded, None)
        both, residual = torch.cat([embedded, changed + residual]), None
        twice = torch.cat([positions, positions])
        for layer in self.layers[1:]:
            both, residual = layer(twice, both, residual)
        both, _ = self.norm(both, residual)
        t = positions.shape[0]
        return torch.cat([both[:t], both[t:]], dim=-1)


DYNAMIC = {"input_ids": 0, "positions": 0, "intermediate_tensors": 0, "inputs_embeds": 0}


@support_torch_compile(dynamic_arg_dims=DYNAMIC)
class LlamaTwoStreams(TwoStreams, LlamaModel):
    pass


@support_torch_compile(dynamic_arg_dims=DYNAMIC)
class MistralTwoStreams(TwoStreams, MistralModel):
    pass


@support_torch_compile(dynamic_arg_dims=DYNAMIC)
class Qwen2TwoStreams(TwoStreams, Qwen2Model):
    pass


@support_torch_compile(dynamic_arg_dims=DYNAMIC)
class Qwen3TwoStreams(TwoStreams, Qwen3Model):
    pass


DECODERS = {
    "llama": LlamaTwoStreams,
    "mistral": MistralTwoStreams,
    "qwen2": Qwen2TwoStreams,
    "qwen3": Qwen3TwoStreams,
}


class TrimtabDialForCausalLM(nn.Module, SupportsQuant):
    """A decoder of two streams, its head, and the mixture.

    It declares neither adapters nor stages nor drafts, so vLLM refuses those by itself too.
    """

    hf_to_vllm_mapper = LlamaModel.hf_to_vllm_mapper
    packed_modules_mapping: ClassVar = {
        "qkv_proj": ["q_proj", "k_proj", "v_proj"],
        "gate_up_proj": ["gate_proj", "up_proj"],
    }

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        self.config = config = vllm_config.model_config.hf_config
        self.model = DECODERS[config.model_type](vllm_config=vllm_config, prefix=maybe_prefix(prefix, "model"))
        self.lm_head = ParallelLMHead(
            config.vocab_size,
            config.hidden_size,
            quant_config=vllm_config.quant_config,
            prefix=maybe_prefix(prefix, "lm_head"),
        )
        if config.tie_word_embeddings:
            self.lm_head = self.lm_head.tie_weights(self.model.embed_tokens)
        self.logits_processor = LogitsProcessor(config.vocab_size, scale=getattr(config, "logit_scale", 1.0))
        self.rows = rows_of(vllm_config)

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        return self.model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: Tensor | None,
        positions: Tensor,
        intermediate_tensors: IntermediateTensors | None = None,
        inputs_embeds: Tensor | None = None,
    ) -> Tensor:
        """[T, 2 H]"""
        return self.model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """[N, V] float32 for the N requests of the running batch, in its order.

        Args:
            hidden_states: [N, 2 H] at the last token of each.
        """
        original, aligned = hidden_states.chunk(2, dim=-1)
        strengths = self.rows.strengths(len(hidden_states))
        return mixed(strengths, original, aligned, lambda states: self.logits_processor(self.lm_head, states))

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        return AutoWeightsLoader(self).load_weights(weights)
