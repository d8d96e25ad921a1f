"""Which parameters a scope names, in any family: by what blocks do, and not by what they are called."""

import pytest
import torch

import architectures
import tiny
from tiny_table import families
from trimtab.models.adapters import AdapterError, add_lora
from trimtab.models.footprint import TrainedShape, footprint
from trimtab.models.forward import add_objective_forward
from trimtab.models.scope import ScopeError, freeze_others, resolve

DOWN = {"mlp": [1, 1], "parts": ["down_proj"]}
# family -> what writes the MLP's output in layer 1, and what attention's
WRITERS = {
    "llama": ("model.layers.1.mlp.down_proj.weight", "model.layers.1.self_attn.o_proj.weight"),
    "gpt2": ("transformer.h.1.mlp.c_proj.weight", "transformer.h.1.attn.c_proj.weight"),
    "opt": ("model.decoder.layers.1.fc2.weight", "model.decoder.layers.1.self_attn.out_proj.weight"),
    "falcon": ("transformer.h.1.mlp.dense_4h_to_h.weight", "transformer.h.1.self_attention.dense.weight"),
    "bloom": ("transformer.h.1.mlp.dense_4h_to_h.weight", "transformer.h.1.self_attention.dense.weight"),
    "gpt_neox": ("gpt_neox.layers.1.mlp.dense_4h_to_h.weight", "gpt_neox.layers.1.attention.dense.weight"),
    "gptj": ("transformer.h.1.mlp.fc_out.weight", "transformer.h.1.attn.out_proj.weight"),
    "phi3": ("model.layers.1.mlp.down_proj.weight", "model.layers.1.self_attn.o_proj.weight"),
    "gemma2": ("model.layers.1.mlp.down_proj.weight", "model.layers.1.self_attn.o_proj.weight"),
    "mixtral": ("model.layers.1.mlp.experts.down_proj", "model.layers.1.self_attn.o_proj.weight"),
    "lfm2": ("model.layers.1.feed_forward.w2.weight", "model.layers.1.self_attn.out_proj.weight"),
    "recurrent_gemma": (
        "model.layers.1.mlp_block.down_proj.weight", "model.layers.1.temporal_block.linear_out.weight",
    ),
    "bert": ("bert.encoder.layer.1.output.dense.weight", "bert.encoder.layer.1.attention.output.dense.weight"),
}  # fmt: skip


def built(kind):
    return tiny.model(kind) if kind in tiny._KINDS else architectures.build(kind)


@pytest.mark.parametrize("kind", families([*WRITERS], ("llama", "gpt2", "opt", "mixtral", "bloom")))
def test_down_proj_and_o_proj_are_what_writes_a_block_in_any_family(kind):
    model, (down, o) = built(kind), WRITERS[kind]
    assert [name for name in resolve(model, DOWN).names if "bias" not in name] == [down]
    found = resolve(model, {"attention": 1, "parts": ["o_proj"]}).names
    assert [name for name in found if "bias" not in name] == [o]


@pytest.mark.parametrize("kind", families([*WRITERS], ("gpt2", "mixtral")))
def test_a_model_without_weights_has_the_same_scope(kind):
    model = built(kind)
    here = {block: resolve(model, {block: 1, "parts": [part]}).names
            for block, part in (("mlp", "down_proj"), ("attention", "o_proj"))}  # fmt: skip
    bare = model.to("meta")
    for block, part in (("mlp", "down_proj"), ("attention", "o_proj")):
        assert resolve(bare, {block: 1, "parts": [part]}).names == here[block]


def test_all_weights_of_experts_that_every_token_shares_and_of_the_others_are_the_output():
    found = resolve(architectures.build("qwen2_moe"), {"mlp": [0, 1], "parts": ["down_proj"]})
    ends = ("mlp.experts.down_proj", "mlp.shared_expert.down_proj.weight")
    assert set(found.names) == {f"model.layers.{n}.{end}" for n in (0, 1) for end in ends}
    assert set(found.tables) == {f"model.layers.{n}.mlp.experts.down_proj" for n in (0, 1)}


@pytest.mark.parametrize(
    "asked, layers",
    [
        ({"mlp": [1, 3]}, {1, 2, 3}),
        ({"mlp": 2}, {2}),
        ({"mlp": [2]}, {2}),
        ({"mlp": {"layers": [0, 3]}}, {0, 3}),
        ({"mlp": "all"}, {0, 1, 2, 3}),
    ],
)
def test_a_pair_is_a_range_with_both_ends_and_a_list_is_itself(asked, layers):
    names = resolve(tiny.model("llama", num_hidden_layers=4), asked).names
    assert {int(name.split(".")[2]) for name in names} == layers
    parts = ("gate_proj", "up_proj", "down_proj")
    assert set(names) == {f"model.layers.{n}.mlp.{part}.weight" for n in layers for part in parts}


def test_the_one_input_of_an_mlp_without_gate_is_up_proj_and_a_fused_one_is_not():
    assert resolve(tiny.model("gpt2"), {"mlp": 0, "parts": ["up_proj"]}).names == (
        "transformer.h.0.mlp.c_fc.weight", "transformer.h.0.mlp.c_fc.bias",
    )  # fmt: skip
    with pytest.raises(ScopeError, match="has no 'up_proj'; it has gate_up_proj, down_proj"):
        resolve(tiny.model("phi3"), {"mlp": 0, "parts": ["up_proj"]})


@pytest.mark.parametrize("asked", [{"mlp": [1, 40]}, {"attention": 40}, {"mlp": {"layers": [0, 40]}}])
def test_layers_beyond_the_model_are_refused_with_its_range(asked):
    with pytest.raises(ScopeError, match=r"40, but the model has 2, 0 to 1"):
        resolve(tiny.model("llama"), asked)


def test_what_is_not_there_is_named_with_what_is():
    with pytest.raises(ScopeError, match="'w3'; it has gate_proj, up_proj, down_proj, and down_proj is what writes"):
        resolve(tiny.model("llama"), {"mlp": 0, "parts": ["w3"]})
    with pytest.raises(ScopeError, match=r"scope 'mlpp' matches no parameter of LlamaForCausalLM; .* model.embed"):
        resolve(tiny.model("llama"), "mlpp")
    with pytest.raises(ScopeError, match=r"scope\.mlp: layer 0 of MambaForCausalLM has no mlp"):
        resolve(architectures.build("mamba"), {"mlp": 0})


def test_a_tied_head_is_the_embedding_too_and_it_is_said():
    found = resolve(tiny.model("llama_tied"), "lm_head")
    assert found.names == ("model.embed_tokens.weight",)
    assert "lm_head.weight" in found.notes[0]
    assert "one weight" in found.notes[0]
    assert not resolve(tiny.model("llama"), "lm_head").notes


def test_finding_a_scope_changes_no_weight_and_no_flag():
    model = tiny.model("gpt2")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    resolve(model, DOWN)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_blocks_of_other_names_are_known_by_what_they_do():
    model = tiny.model("llama")
    for layer in model.model.layers:
        layer.first, layer.second = layer.self_attn, layer.mlp
        del layer.self_attn, layer.mlp
        type_of = type(layer)
        layer.__class__ = type(
            "Renamed", (type_of,), {"self_attn": property(lambda x: x.first), "mlp": property(lambda x: x.second)}
        )
    assert resolve(model, DOWN).names == ("model.layers.1.second.down_proj.weight",)
    assert resolve(model, {"attention": 0, "parts": ["o_proj"]}).names == ("model.layers.0.first.o_proj.weight",)


def test_only_the_scope_has_gradients():
    model = tiny.model("llama_tied")
    found = resolve(model, DOWN)
    freeze_others(model, found)
    rows = tiny.rows()
    model(input_ids=rows.input_ids, labels=rows.input_ids).loss.backward()
    assert set(tiny.gradients(model)) == set(found.names) == {"model.layers.1.mlp.down_proj.weight"}


@pytest.mark.parametrize("kind", families(("llama", "gpt2", "opt", "mixtral", "gpt_oss"), ("gpt2", "mixtral")))
def test_adapters_are_in_the_modules_of_the_scope_alone(kind):
    model = built(kind)
    found = resolve(model, DOWN)
    add_objective_forward(model)
    policy = add_lora(model, {"r": 2}, 0, scope=found)
    adapters = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert adapters
    assert all(".1." in name and "lora_" in name for name in adapters)
    assert len(adapters) == 2


def test_adapters_need_weights_of_linear_layers():
    model = tiny.model("llama")
    add_objective_forward(model)
    with pytest.raises(AdapterError, match="need weights of linear layers, and it names model.layers.0.input"):
        add_lora(model, {"r": 2}, 0, scope=resolve(model, "layers.0.input_layernorm"))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_estimate_counts_what_is_trained(kind):
    model = tiny.model(kind)
    found = resolve(model, DOWN)
    size = sum(model.get_parameter(name).numel() for name in found.names)
    plain = footprint(model.config, "float32", TrainedShape(), 2, 8)
    scoped = footprint(model.config, "float32", TrainedShape(scope=DOWN), 2, 8)
    assert scoped.trained == size < plain.trained
    assert scoped.head == 0
    assert scoped.activations < plain.activations
    assert scoped.params == plain.params
    of_lora = footprint(model.config, "float32", TrainedShape(scope=DOWN, lora={"r": 2}), 2, 8)
    assert of_lora.trained == 2 * sum(model.get_parameter(found.names[0]).shape)
