"""What packed weights need is told from a checkpoint's config; nothing here needs the libraries that pack."""

import pytest

import tiny
from trimtab.models.footprint import TrainedShape, footprint, frozen_bytes, num_weights
from trimtab.models.quantised import QuantisedError

LAYERS, WIDTH, INNER, HEADS, KEYS = 2, 16, 24, 16, 8
PACKED = LAYERS * (2 * WIDTH * HEADS + 2 * WIDTH * KEYS + 3 * WIDTH * INNER)  # q, o; k, v; gate, up, down
OTHER = 2 * tiny.VOCAB * WIDTH + (2 * LAYERS + 1) * WIDTH  # embedding, head and norms


def config(**said):
    made = tiny.model("llama").config
    if said:
        made.quantization_config = said
    return made


GROUP_OF_4_BITS = 0.5 + (2 + 0.5) / 32
"""bytes a weight: four bits, and of 32 weights together a scale of two bytes and a zero of four bits"""


@pytest.mark.parametrize(
    ("said", "each"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 32}, GROUP_OF_4_BITS),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 1),
        ({"quant_method": "awq", "bits": 4, "group_size": 32}, GROUP_OF_4_BITS),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 0.5 + 4 / 64),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 0.5 + 1 / 64),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 1),
        ({"quant_method": "quanto", "weights": "int2"}, 0.25),
    ],
)
def test_packed_weights_have_the_bits_of_their_config_and_the_others_their_dtype(said, each):
    assert num_weights(config(**said)) == PACKED + OTHER
    assert frozen_bytes(config(), "bfloat16") == 2 * (PACKED + OTHER)
    assert abs(frozen_bytes(config(**said), "bfloat16") - (PACKED * each + 2 * OTHER)) < 1


def test_layers_that_a_checkpoint_leaves_whole_are_whole():
    skipped = {"llm_int8_skip_modules": ["down_proj", "lm_head"]}
    down = LAYERS * WIDTH * INNER
    found = frozen_bytes(config(quant_method="bitsandbytes", load_in_8bit=True, **skipped), "bfloat16")
    assert found == PACKED - down + 2 * (OTHER + down)


def test_eight_bits_are_counted_as_they_are_unpacked_without_a_gpu():
    said = config(quant_method="fp8", weight_block_size=[128, 128], activation_scheme="dynamic")
    assert frozen_bytes(said, "bfloat16", "cpu") == 2 * (PACKED + OTHER)
    assert frozen_bytes(said, "bfloat16", "cuda") == PACKED + 2 * OTHER


def test_adapters_stand_beside_packed_weights():
    said = config(quant_method="bitsandbytes", load_in_8bit=True)
    found = footprint(said, "bfloat16", TrainedShape(lora={"r": 4, "target_modules": ["q_proj"]}), 2, 8)
    adapters = LAYERS * 4 * (WIDTH + HEADS)
    assert (found.trained, found.weights) == (adapters, PACKED + 2 * OTHER + 4 * adapters)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"quant_method": "bitnet"}, "bitnet are not estimated: transformers does not say how many bits one has"),
        ({"quant_method": "nobody's"}, "nobody's are not estimated: Unknown quantization type"),
    ],
)
def test_what_nothing_says_is_not_estimated(said, why):
    with pytest.raises(QuantisedError, match=why):
        frozen_bytes(config(**said), "bfloat16")
