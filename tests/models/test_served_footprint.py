"""A vLLM server's memory from a config: by hand, and against vLLM's own sizes of a block where it is installed."""

import pytest
import torch
from transformers import LlamaConfig

from trimtab.models.served_footprint import EngineSettings, ServedError, server_bytes

LAYERS, HEADS, KEPT, WIDTH, VOCAB = 3, 4, 2, 8, 50
CONFIG = LlamaConfig(
    vocab_size=VOCAB, hidden_size=HEADS * WIDTH, intermediate_size=24, num_hidden_layers=LAYERS,
    num_attention_heads=HEADS, num_key_value_heads=KEPT, tie_word_embeddings=True,
)  # fmt: skip
D = HEADS * WIDTH
WEIGHTS = VOCAB * D + LAYERS * (2 * D * D + 2 * D * KEPT * WIDTH + 3 * D * 24 + 2 * D) + D


def test_weights_keys_and_values_and_logits_are_counted_by_hand():
    found = server_bytes(CONFIG, EngineSettings(max_model_len=20, max_num_seqs=5))
    assert found.weights == 2 * WEIGHTS
    assert found.kv_cache == 5 * 32 * (2 * LAYERS * KEPT * WIDTH * 2)  # 20 tokens are two blocks of 16
    assert found.logits == 2 * 4 * 5 * VOCAB
    assert found.total == found.weights + found.kv_cache + found.logits


def test_numbers_of_a_byte_halve_the_cache_and_float32_doubles_it():
    half = server_bytes(CONFIG, EngineSettings(max_model_len=16)).kv_cache
    assert 2 * server_bytes(CONFIG, EngineSettings(max_model_len=16, kv_cache_dtype="fp8")).kv_cache == half
    assert server_bytes(CONFIG, EngineSettings(max_model_len=16, dtype="float32")).kv_cache == 2 * half


def test_devices_share_weights_and_heads_and_copy_heads_that_are_too_few():
    one, two, four = (server_bytes(CONFIG, EngineSettings(16, tensor_parallel_size=number)) for number in (1, 2, 4))
    assert (two.weights, two.kv_cache) == (-(-one.weights // 2), one.kv_cache // 2)
    assert four.kv_cache == two.kv_cache
    with pytest.raises(ServedError, match="tensor_parallel_size 3: 4 heads are not split by it"):
        server_bytes(CONFIG, EngineSettings(16, tensor_parallel_size=3))


def test_a_block_has_the_size_that_vllm_gives_it():
    interface = pytest.importorskip("vllm.v1.kv_cache_interface", reason="vLLM is not installed")
    block = interface.FullAttentionSpec(block_size=16, num_kv_heads=KEPT, head_size=WIDTH, dtype=torch.bfloat16)
    found = server_bytes(CONFIG, EngineSettings(max_model_len=16, max_num_seqs=1))
    assert found.kv_cache == LAYERS * block.page_size_bytes
