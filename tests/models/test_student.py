"""A student made of some layers computes what the teacher would without the others."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import architectures
import tiny
from tiny_table import families
from trimtab.models.forward import add_objective_forward
from trimtab.models.student import evenly_spaced, find_layers, keep_layers

PATTERN = ["sliding_attention", "full_attention", "full_attention", "sliding_attention"]
CASES = {
    "llama": ("llama", {}),
    "llama_tied": ("llama_tied", {}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
    "qwen3": ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3", {"layer_types": PATTERN}),
    "phi": ("phi", {}),
    "phi3": ("phi3", {}),
    "olmo2": ("olmo2", {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0, 1, 0]}),
    "cohere": ("cohere", {}),
    "granite": ("granite", {}),
    "gpt2": ("gpt2", {}),
}
every_kind = pytest.mark.parametrize("case", families(CASES))


def four_layers(case, **more):
    kind, changes = case
    layers = {"n_layer": 4} if kind == "gpt2" else {"num_hidden_layers": 4}
    return tiny.model(kind, **layers, **changes, **more)


def logits(model):
    rows = tiny.rows()  # longer than the sliding windows
    with torch.no_grad():
        return model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, use_cache=False).logits


def without(model, kept):
    """Logits of `model` where every layer that is not in `kept` hands on what it was given."""

    def skip(layer, args, kwargs, output):
        given = args[0] if args else kwargs["hidden_states"]
        return given if isinstance(output, torch.Tensor) else (given, *output[1:])

    _, layers = find_layers(model, model.config.get_text_config().num_hidden_layers)
    hooks = [layer.register_forward_hook(skip, with_kwargs=True) for i, layer in enumerate(layers) if i not in kept]
    try:
        return logits(model)
    finally:
        for hook in hooks:
            hook.remove()


@every_kind
@pytest.mark.parametrize("kept", [[0, 3], [1, 2, 3], [2]])
def test_logits_are_those_of_the_original_without_the_other_layers(case, kept):
    model = four_layers(case)
    wanted = without(model, kept)
    student = keep_layers(model, kept)
    assert student.config.get_text_config().num_hidden_layers == len(kept)
    torch.testing.assert_close(logits(student), wanted, rtol=1e-4, atol=1e-5)
    assert (wanted - logits(model)).abs().max() > 1e-2  # the layers that were left out did something


@every_kind
def test_all_layers_give_the_original_to_the_last_bit(case):
    model = four_layers(case)
    assert torch.equal(logits(keep_layers(model, [0, 1, 2, 3])), logits(model))


@every_kind
def test_generation_with_a_cache_equals_generation_without(case):
    # a layer that kept its old number would look for its keys at a place of the cache that is not its own
    student = keep_layers(four_layers(case), [1, 3])
    prompt = torch.tensor([[5, 9, 20, 11, 30, 7]])
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": 10**6}
    cached = student.generate(prompt, use_cache=True, **settings)
    assert cached.shape == (1, 14)
    assert torch.equal(cached, student.generate(prompt, use_cache=False, **settings))


@every_kind
def test_layers_are_renumbered(case):
    student = keep_layers(four_layers(case), [1, 3])
    numbers = [m.layer_idx for m in student.modules() if isinstance(getattr(m, "layer_idx", None), int)]
    assert set(numbers) == {0, 1}


@every_kind
def test_a_student_that_was_saved_and_loaded_gives_the_same_logits(case, tmp_path):
    student = keep_layers(four_layers(case), [1, 3])
    student.save_pretrained(tmp_path)
    loaded = type(student).from_pretrained(tmp_path)
    assert loaded.config.get_text_config().num_hidden_layers == 2
    assert torch.equal(logits(loaded), logits(student))


@every_kind
def test_the_original_is_left_as_it_was(case):
    model = four_layers(case)
    before, config = logits(model), model.config.to_dict()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    student = keep_layers(model, [0, 2])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert torch.equal(logits(model), before)
    assert model.config.to_dict() == config
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "case, name, kept, expected",
    [
        (CASES["gemma3"], "layer_types", [0, 1], ["sliding_attention", "full_attention"]),
        (CASES["gemma3"], "layer_types", [1, 2], ["full_attention", "full_attention"]),
        (CASES["gemma2"], "layer_types", [0, 2], ["sliding_attention", "sliding_attention"]),
        (CASES["smollm3"], "no_rope_layers", [1, 2, 3], [0, 1, 0]),
        (CASES["qwen2"], "layer_types", [1, 2], ["full_attention", "sliding_attention"]),
    ],
)
def test_lists_with_one_entry_a_layer_are_cut_alike(case, name, kept, expected, tmp_path):
    student = keep_layers(four_layers(case), kept)
    assert getattr(student.config, name) == expected
    student.save_pretrained(tmp_path)
    assert getattr(type(student).from_pretrained(tmp_path).config, name) == expected


def test_the_number_of_window_layers_counts_those_that_are_kept():
    model = four_layers(CASES["qwen2"])
    assert [keep_layers(model, kept).config.max_window_layers for kept in ([0, 1], [1, 3], [2, 3])] == [2, 1, 0]


def test_a_list_that_is_not_about_layers_is_kept_whole():
    model = tiny.model("llama", num_hidden_layers=2, eos_token_id=[2, 5])
    assert keep_layers(model, [0]).config.eos_token_id == [2, 5]


def test_a_tied_head_stays_tied():
    student = keep_layers(four_layers(CASES["llama_tied"]), [0, 3])
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight


@pytest.mark.parametrize("training", [True, False])
def test_dtype_mode_and_generation_settings_are_those_of_the_original(training):
    model = four_layers(CASES["gpt2"]).to(torch.bfloat16).train(training)  # gpt2 has dropout
    model.generation_config.max_length = 77
    student = keep_layers(model, [0, 3])
    assert {p.dtype for p in student.parameters()} == {torch.bfloat16}
    assert student.training is training
    assert student.generation_config.max_length == 77
    student.generation_config.max_length = 5
    assert model.generation_config.max_length == 77


def test_a_student_of_a_patched_model_can_be_patched_itself():
    model = four_layers(CASES["llama"])
    add_objective_forward(model)
    student = keep_layers(model, [0, 3])
    wanted = without(model, [0, 3])
    add_objective_forward(student)
    torch.testing.assert_close(logits(student), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layers", [[], [0, 4], [-1, 2], [2, 1], [1, 1]])
def test_layers_that_cannot_be_kept_are_refused(layers):
    model = four_layers(CASES["llama"])
    with pytest.raises(ValueError) as caught:
        keep_layers(model, layers)
    assert str(caught.value) == f"layers must be ascending indices from 0 to 3, got {layers}"


def test_layers_are_found_by_their_number_and_not_by_their_name():
    assert find_layers(four_layers(CASES["gpt2"]), 4)[0] == "transformer.h"
    path, layers = find_layers(four_layers(CASES["llama"]), 4)
    assert path == "model.layers"
    assert len(layers) == 4


def test_lists_inside_the_layers_do_not_count():
    class Expert(nn.Module):
        def __init__(self):
            super().__init__()
            self.experts = nn.ModuleList(nn.Linear(1, 1) for _ in range(3))

    decoder = nn.Module()
    decoder.blocks = nn.ModuleList(Expert() for _ in range(3))
    assert find_layers(decoder, 3)[0] == "blocks"


def test_no_list_or_two_lists_of_that_length_are_refused():
    two = nn.Module()
    two.encoder, two.decoder = (nn.ModuleList(nn.Linear(1, 1) for _ in range(3)) for _ in range(2))
    with pytest.raises(ValueError, match="Module: looked for one list of 3 decoder layers, found: encoder, decoder"):
        find_layers(two, 3)
    with pytest.raises(ValueError, match="LlamaForCausalLM: looked for one list of 7 decoder layers, found: none"):
        find_layers(four_layers(CASES["llama"]), 7)


@pytest.mark.parametrize(
    "num_layers, keep, expected",
    [
        (4, 4, [0, 1, 2, 3]),
        (5, 3, [0, 2, 4]),
        (7, 3, [0, 3, 6]),
        (30, 2, [0, 29]),
        (10, 4, [0, 3, 6, 9]),
        (8, 1, [0]),
        (1, 1, [0]),
    ],
)
def test_evenly_spaced_layers_by_hand(num_layers, keep, expected):
    assert evenly_spaced(num_layers, keep) == expected


def test_evenly_spaced_layers_hold_both_ends_and_have_gaps_that_differ_by_one_at_most():
    for num_layers in range(2, 50):
        for keep in range(2, num_layers + 1):
            found = evenly_spaced(num_layers, keep)
            gaps = [b - a for a, b in pairwise(found)]
            assert len(found) == keep
            assert (found[0], found[-1]) == (0, num_layers - 1)
            assert min(gaps) >= 1
            assert max(gaps) - min(gaps) <= 1


@pytest.mark.parametrize("keep", [0, -1, 5])
def test_an_impossible_number_of_layers_is_refused(keep):
    with pytest.raises(ValueError, match=f"cannot keep {keep} of 4 layers"):
        evenly_spaced(4, keep)


DIFFERING = {
    "qwen2_moe": {"mlp_only_layers": [1]},
    "qwen3_moe": {"decoder_sparse_step": 2},
    "deepseek_v3": {"first_k_dense_replace": 2},
    "glm4_moe": {"first_k_dense_replace": 1},
    "ernie4_5_moe": {"moe_layer_start_index": 2},
    "afmoe": {"num_dense_layers": 2},
    "jamba": {},
    "bamba": {"attn_layer_indices": [1, 3]},
    "llama4_text": {"moe_layers": [1, 3]},
    "recurrent_gemma": {"block_types": ["recurrent", "attention"]},
    "falcon_h1": {},
    "granite_swa": {},
    "minicpm3": {},
    "bart": {"decoder_layers": 4},
}
"""types whose layers differ by a setting that goes by index, or whose configs hold other lists and numbers"""


def of_type(kind, **changes):
    small = architectures.config(kind)
    given = {**small.to_dict(), "num_hidden_layers": 4, **changes}
    for name, value in given.items():
        if name in ("layer_types", "layer_rope_theta", "no_rope_layers") and value is not None:
            given[name] = (value * 4)[:4]
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(type(small)(**{k: v for k, v in given.items() if k != "num_layers"})).eval()


@pytest.mark.fast("kept0-llama4_text", "kept1-deepseek_v3", "kept0-recurrent_gemma", "kept1-jamba", "kept1-bart")
@pytest.mark.parametrize("kind", DIFFERING)
@pytest.mark.parametrize("kept", [[0, 3], [1, 2]])
def test_settings_by_index_follow_the_layers(kind, kept, tmp_path):
    model = of_type(kind, **DIFFERING[kind])
    assert len(find_layers(model, 4)[1]) == 4
    student = keep_layers(model, kept)
    before, after = find_layers(model, 4)[1], find_layers(student, 2)[1]
    for place, number in enumerate(kept):
        state = after[place].state_dict()
        assert state.keys() == before[number].state_dict().keys()
        assert all(torch.equal(value, state[name]) for name, value in before[number].state_dict().items())
    torch.testing.assert_close(logits(student), without(model, kept), rtol=1e-4, atol=1e-5)
    student.save_pretrained(tmp_path)
    assert torch.equal(logits(type(student).from_pretrained(tmp_path)), logits(student))


@pytest.mark.parametrize("kind", ["gemma3n_text", "gemma4_text"])
@pytest.mark.parametrize("kept", [[0], [1]])
def test_tables_with_a_part_for_each_layer_and_settings_of_single_layers_follow(kind, kept):
    """Embeddings for each layer lie one behind the other, and each kind of attention has heads of its own size."""
    model = architectures.build(kind)
    student = keep_layers(model, kept)
    tables = [one.get_parameter("model.embed_tokens_per_layer.weight") for one in (model, student)]
    assert tables[0].size(1) == 2 * tables[1].size(1)
    torch.testing.assert_close(logits(student), without(model, kept), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "kept"),
    [("modernbert-decoder", [1]), ("diffllama", [1]), ("rwkv", [0]), ("prophetnet", [0])],
)
def test_layers_that_cannot_stand_elsewhere_are_refused_in_one_line(kind, kept):
    model = architectures.build(kind)
    with pytest.raises(ValueError, match=rf"^{type(model).__name__} \(.*\) cannot be built from its layers") as raised:
        keep_layers(model, kept)
    assert "\n" not in str(raised.value)


def test_layers_that_see_are_not_those_that_read():
    model = architectures.multimodal("gemma3")
    text, vision = model.config.get_text_config(), model.config.vision_config
    assert text.num_hidden_layers != vision.num_hidden_layers
    vision.num_hidden_layers = text.num_hidden_layers
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(model.config).eval()
    path, _ = find_layers(model, text.num_hidden_layers)
    assert "language" in path
    student = keep_layers(model, [1])
    assert len(student.get_submodule(path)) == 1
    ids = torch.arange(3, 15)[None]
    with torch.no_grad():
        assert student(input_ids=ids).logits.isfinite().all()
