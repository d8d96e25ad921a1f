"""A layer that changes nothing until it is trained, and the way around it once it is."""

import re

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM

import architectures
import tiny
from tiny_table import families
from trimtab.models.identity_layer import (
    IdentityLayerError,
    blend,
    bypass,
    identity_layer,
    insert_identity_layer,
    output_projections,
    train_only_identity_layer,
)
from trimtab.models.layer_outputs import output_writers
from trimtab.models.student import find_layers

CASES = {
    "llama": ("llama", {}),
    "llama_tied": ("llama_tied", {}),
    "mistral": ("mistral", {}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "gemma2": ("gemma2", {}),
    "gemma3": ("gemma3", {"layer_types": ["sliding_attention", "full_attention"]}),
    "phi": ("phi", {}),  # biases, and one norm for both blocks
    "phi3": ("phi3", {}),
    "olmo2": ("olmo2", {}),
    "smollm3": ("smollm3", {"no_rope_layers": [1, 0]}),
    "gpt2": ("gpt2", {}),
}
every_kind = pytest.mark.parametrize("case", families(CASES))
ROWS = tiny.rows()  # longer than the sliding windows


def original(case=("llama", {})):
    kind, changes = case
    return tiny.model(kind, **changes)


def perturbed(model):
    """A new model with an identity layer that is one no more."""
    expanded = insert_identity_layer(model)
    with torch.no_grad():
        for weight in identity_layer(expanded).parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return expanded


def logits(model, rows=ROWS):
    with torch.no_grad():
        return model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, use_cache=False).logits


# ---------------------------------------------------------------- insertion


@every_kind
def test_logits_are_those_of_the_original_to_the_last_bit(case):
    model = original(case)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expanded = insert_identity_layer(model)
    assert torch.equal(logits(expanded), logits(model))
    assert len(find_layers(expanded, 3)[1]) == expanded.config.get_text_config().num_hidden_layers == 3
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not hasattr(model.config, "trimtab_identity_layer")


@every_kind
def test_only_the_output_projections_differ_from_a_copy_of_the_first_layer(case):
    expanded = insert_identity_layer(original(case))
    _, (new, first, _) = find_layers(expanded, 3)
    projections = output_projections(expanded, new)
    assert len(projections) == 2
    for name, value in new.state_dict().items():
        if name.rpartition(".")[0] in projections:
            assert value.count_nonzero() == 0
        else:
            assert torch.equal(value, first.state_dict()[name])
    assert {p.data_ptr() for p in new.parameters()}.isdisjoint(p.data_ptr() for p in first.parameters())


@every_kind
def test_layers_are_renumbered_and_lists_with_one_entry_a_layer_repeat_their_first(case):
    model = original(case)
    expanded = insert_identity_layer(model)
    _, layers = find_layers(expanded, 3)
    for i, layer in enumerate(layers):
        numbers = {m.layer_idx for m in layer.modules() if isinstance(getattr(m, "layer_idx", None), int)}
        assert numbers <= {i}
    lists = {n: v for n, v in vars(model.config).items() if n in ("layer_types", "no_rope_layers") and v}
    for name, value in lists.items():
        assert getattr(expanded.config, name) == [value[0], *value]
    if case[0] in ("gemma2", "gemma3", "smollm3", "qwen2", "qwen3"):
        assert lists
    if case[0].startswith("qwen"):
        assert (model.config.max_window_layers, expanded.config.max_window_layers) == (1, 2)


@every_kind
def test_a_saved_folder_loads_with_stock_classes_and_gives_the_model_with_its_layer(case, tmp_path):
    expanded = perturbed(original(case))
    expanded.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is type(expanded)
    assert loaded.config.trimtab_identity_layer is True
    assert torch.equal(logits(loaded), logits(expanded))
    assert not torch.equal(logits(loaded), logits(original(case)))
    with bypass(loaded):
        assert torch.equal(logits(loaded), logits(original(case)))


@pytest.mark.parametrize("kind", ["llama_tied", "gemma2", "gpt2"])
def test_tied_embeddings_stay_tied(kind, tmp_path):
    expanded = insert_identity_layer(tiny.model(kind))
    assert expanded.get_output_embeddings().weight is expanded.get_input_embeddings().weight
    expanded.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_it_is_the_identity_in_bfloat16_too():
    model = original().to(torch.bfloat16)  # rounds the rotary table too, which a model loaded in bfloat16 keeps
    expanded = insert_identity_layer(model)
    assert expanded.dtype == torch.bfloat16
    assert torch.equal(logits(expanded), logits(model))


def test_an_original_that_rounds_a_little_differently_is_no_reason_to_refuse():
    model = original()
    model.lm_head.register_forward_hook(lambda m, args, out: out * (1 + 1e-6))
    insert_identity_layer(model)
    model.lm_head.register_forward_hook(lambda m, args, out: out * 1.1)
    with pytest.raises(IdentityLayerError, match="is not the identity"):
        insert_identity_layer(model)


def test_a_layer_that_is_off_by_rounding_is_refused(monkeypatch):
    def nearly(weight):
        with torch.no_grad():
            return weight.fill_(1e-7)

    monkeypatch.setattr(nn.init, "zeros_", nearly)
    with pytest.raises(IdentityLayerError, match="is not the identity"):
        insert_identity_layer(original())


def test_mode_and_generation_settings_are_those_of_the_original():
    model = original().train()
    model.generation_config.max_new_tokens = 7
    expanded = insert_identity_layer(model)
    assert expanded.training
    assert model.training
    assert expanded.generation_config.max_new_tokens == 7


def test_linear_layers_that_hang_on_the_layer_itself_are_one_block():
    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.attention = nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
            self.down, self.up = nn.Linear(6, 4), nn.Linear(4, 6)  # not in the order in which they run

        def forward(self, *_):
            self.down(self.up(self.attention(self.norm(torch.ones(1, 4)))))

    model, layer = original(), Layer()
    model.register_forward_hook(layer)
    assert list(output_projections(model, layer)) == ["attention.1", "down"]


def test_a_second_insertion_is_refused():
    with pytest.raises(IdentityLayerError, match=r"LlamaForCausalLM \(llama\) has an identity layer already"):
        insert_identity_layer(insert_identity_layer(original()))


def test_attention_scaled_by_the_layers_number_is_refused_since_the_original_would_change():
    model = tiny.model("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(IdentityLayerError, match=r"GPT2LMHeadModel \(gpt2\): a copy of the first layer \(GPT2Block\)"):
        insert_identity_layer(model)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("llama", ["self_attn.o_proj", "mlp.down_proj"]),
        ("gpt2", ["attn.c_proj", "mlp.c_proj"]),
        ("opt", ["fc2", "self_attn.out_proj"]),
        ("mixtral", ["self_attn.o_proj", "mlp.experts.down_proj"]),
        ("gpt_oss", ["self_attn.o_proj", "mlp.experts.down_proj", "mlp.experts.down_proj_bias"]),
        ("qwen2_moe", ["self_attn.o_proj", "mlp.experts.down_proj", "mlp.shared_expert.down_proj"]),
        ("granitemoe", ["self_attn.o_proj", "block_sparse_moe.experts.down_proj"]),
        ("mamba", ["mixer.out_proj"]),
    ],
)
def test_what_writes_the_output_of_a_block_is_found(kind, names):
    """Of a mixture the last weights of all its experts, not the router, and not the gate that runs last."""
    model = architectures.build(kind)
    _, layers = find_layers(model, model.config.get_text_config().num_hidden_layers)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert sorted(output_projections(model, layers[0])) == sorted(names)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())


MIXTURES = ("mixtral", "qwen2_moe", "gpt_oss", "deepseek_v2", "glm4_moe")
MORE = (
    "qwen3_moe", "olmoe", "bloom", "falcon", "mpt", "gemma4_text", "zamba2", "ernie4_5_moe", "jamba", "bamba",
    "llama4_text", "afmoe", "granitemoe", "phimoe", "deepseek_v3", "jetmoe", "lfm2_moe", "qwen3_next",
    "nemotron_h",
)  # fmt: skip


@pytest.mark.parametrize("kind", [*MIXTURES, *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE)])
def test_mixtures_and_layers_that_are_named_by_index_get_one(kind, tmp_path):
    architectures.check_dial(kind, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", architectures.TYPES)
def test_every_architecture_gets_an_identity_layer_or_is_refused_by_name(kind, tmp_path):
    refused = ""
    try:
        architectures.check_dial(kind, tmp_path)
    except architectures.NotTiny as error:
        pytest.skip(str(error))
    except IdentityLayerError as error:
        refused = str(error)
    assert re.match(r"$|\w+( \([\w-]+\)|: looked for one list)", refused), refused


def test_what_multiplies_all_that_a_layer_gives_is_one_in_the_new_layer():
    model = architectures.build("gemma4_text")
    _, layers = find_layers(model, 2)
    layers[0].layer_scalar.fill_(0.5)
    expanded = insert_identity_layer(model)
    assert torch.equal(logits(expanded), logits(model))
    assert [float(layer.layer_scalar) for layer in find_layers(expanded, 3)[1]] == [1.0, 0.5, 1.0]


def test_what_does_not_run_with_one_layer_more_is_refused_by_name(monkeypatch):
    model = original()
    monkeypatch.setattr(type(model), "forward", lambda self, **inputs: {}["no such layer"])
    with pytest.raises(IdentityLayerError, match=r"LlamaForCausalLM \(llama\): .* does not run \(KeyError"):
        insert_identity_layer(model)


class Experts(nn.Module):
    """Two experts in a list, of which tokens reach the first alone, with gates that run last."""

    def __init__(self, tables):
        super().__init__()
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(4, 6), nn.SiLU(), nn.Linear(6, 4)) for _ in range(2))
        self.gate = nn.Linear(4, 4)
        self.second, self.first = (nn.Parameter(torch.randn(2, *shape)) for shape in ((4, 6), (6, 4)))
        self.tables = tables

    def forward(self, x):
        if self.tables:
            gate, up = (x @ self.first[0].T).chunk(2, dim=-1)
            return (nn.functional.silu(gate) * up) @ self.second[0, :, :3].T
        return self.gate(x).sigmoid() * self.experts[0](x)


class Block(nn.Module):
    def __init__(self, tables=False):
        super().__init__()
        self.mlp = Experts(tables)

    def forward(self, x):
        return x + self.mlp(x)


def test_all_experts_of_a_list_are_zeroed_though_few_tokens_reach_few_of_them():
    layer = Block()
    found = output_writers(layer, lambda: layer(torch.randn(2, 3, 4)))
    assert sorted(found) == ["mlp.experts.0.2", "mlp.experts.1.2"]


def test_weights_at_zero_that_would_never_learn_are_not_chosen():
    """With the first weights of a gated expert at zero it gives zeros too, and no gradient reaches anything."""
    layer = Block(tables=True)
    found = output_writers(layer, lambda: layer(torch.randn(2, 3, 4)))
    assert sorted(found) == ["mlp.second"]


def test_layers_without_a_linear_layer_are_refused_with_what_was_found():
    model = original()
    with pytest.raises(IdentityLayerError, match=r"looked for Linear or Conv1D.*found: 0 \(Identity\)"):
        output_projections(model, nn.Sequential(nn.Identity()))


def test_a_model_whose_layers_are_not_found_is_refused_by_name():
    model = original()
    model.others = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    with pytest.raises(IdentityLayerError, match="LlamaForCausalLM: looked for one list of 2 decoder layers"):
        insert_identity_layer(model)


# ---------------------------------------------------------------- training


@every_kind
def test_only_the_layer_gets_gradients_and_moves_the_loss(case):
    expanded = insert_identity_layer(original(case)).train()
    train_only_identity_layer(expanded)
    inside = {f"{find_layers(expanded, 3)[0]}.0.{name}" for name, _ in identity_layer(expanded).named_parameters()}
    assert any("norm" in name or "ln_" in name for name in inside)
    before = logits(expanded.eval())
    optimizer = torch.optim.SGD([p for p in expanded.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):  # behind projections that are zero, nothing moves in the first step
        optimizer.zero_grad()
        expanded(**{k: v for k, v in ROWS.inputs().items() if k != "row_id"}).loss.backward()
        optimizer.step()
    gradients = tiny.gradients(expanded)
    assert gradients.keys() == inside
    used = {name for name, gradient in gradients.items() if gradient.count_nonzero()}
    assert {name for name in inside if "bias" not in name} <= used  # a key's bias moves no attention
    assert not torch.equal(logits(expanded), before)
    with bypass(expanded):
        assert torch.equal(logits(expanded), logits(original(case)))


def test_gradient_checkpointing_gives_the_same_gradients():
    expanded = perturbed(original()).train()
    train_only_identity_layer(expanded)
    inputs = {k: v for k, v in ROWS.inputs().items() if k != "row_id"}
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            expanded.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        expanded.zero_grad()
        with bypass(expanded, torch.tensor([True, False, False, True])):
            expanded(**inputs).loss.backward()
        found.append(tiny.gradients(expanded))
    assert tiny.relative_error(*found) < 1e-6


def test_no_gradient_comes_from_rows_that_go_around():
    expanded = perturbed(original()).train()
    train_only_identity_layer(expanded)
    inputs = {"input_ids": ROWS.input_ids, "attention_mask": ROWS.attention_mask}
    with bypass(expanded, torch.tensor([True, False, False, True])):
        expanded(**inputs).logits[[0, 3]].sum().backward()
    assert all(gradient.count_nonzero() == 0 for gradient in tiny.gradients(expanded).values())


# ---------------------------------------------------------------- the way around


@every_kind
def test_around_a_changed_layer_the_logits_are_the_originals_to_the_last_bit(case):
    model = original(case)
    expanded = perturbed(model)
    aligned = logits(expanded)
    assert (aligned - logits(model)).abs().max() > 1e-2
    with bypass(expanded):
        assert torch.equal(logits(expanded), logits(model))
    assert torch.equal(logits(expanded), aligned)


@every_kind
def test_rows_choose_for_themselves(case):
    model = original(case)
    expanded = perturbed(model)
    rows = torch.tensor([True, False, False, True])
    with bypass(expanded, rows):
        mixed = logits(expanded)
    assert torch.equal(mixed[rows], logits(model)[rows])
    assert torch.equal(mixed[~rows], logits(expanded)[~rows])


def test_rows_choose_for_themselves_where_a_layer_carries_several_streams():
    """[B, T, streams, D], with as many tokens as rows, so that the two could be taken for one another."""
    model = architectures.build("hy_v4")
    expanded, ids = perturbed(model), torch.arange(3, 19).view(4, 4)
    rows, s = torch.tensor([True, False, False, True]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    with torch.no_grad():
        ends = [one(input_ids=ids, use_cache=False).logits for one in (expanded, model)]
        wanted = torch.where(rows[:, None, None], ends[1], ends[0])
        for way in (bypass(expanded, rows), blend(expanded, lambda: s)):
            with way:
                torch.testing.assert_close(expanded(input_ids=ids, use_cache=False).logits, wanted)
    assert (ends[0] - ends[1]).abs().max() > 1e-2


@every_kind
@pytest.mark.parametrize("rows", [None, torch.tensor([True, False])], ids=["all", "one"])
def test_generation_with_a_cache_equals_generation_without(case, rows):
    expanded = perturbed(original(case))
    prompt = torch.tensor([[5, 9, 20, 11, 30, 7], [4, 4, 31, 12, 8, 3]])
    settings = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": 10**6}
    with bypass(expanded, rows):
        cached = expanded.generate(prompt, use_cache=True, **settings)
        assert torch.equal(cached, expanded.generate(prompt, use_cache=False, **settings))
    wanted = original(case).generate(prompt, **settings)
    assert torch.equal(cached[0], wanted[0])
    assert torch.equal(cached[1], wanted[1] if rows is None else expanded.generate(prompt, **settings)[1])


def test_one_way_around_inside_another_and_errors_leave_nothing_behind():
    model = original()
    expanded = perturbed(model)
    aligned = logits(expanded)
    first, second = torch.tensor([True, False, False, False]), torch.tensor([False, True, False, False])
    with bypass(expanded, first):
        with pytest.raises(RuntimeError, match="inside"), bypass(expanded, second):
            both = logits(expanded)
            raise RuntimeError("inside")
        only_first = logits(expanded)
    for found, around in ((both, [0, 1]), (only_first, [0])):
        through = [i for i in range(4) if i not in around]
        assert torch.equal(found[around], logits(model)[around])
        assert torch.equal(found[through], aligned[through])
    assert torch.equal(logits(expanded), aligned)
    assert not identity_layer(expanded)._forward_hooks


def test_a_number_of_rows_that_is_not_the_batchs_is_refused():
    expanded = insert_identity_layer(original())
    with bypass(expanded, torch.tensor([True])), pytest.raises(ValueError, match=r"shape \[1\], the batch has 4 rows"):
        logits(expanded)


def test_it_works_through_peft_and_other_wrappers():
    from peft import LoraConfig, get_peft_model

    class Wrapper(nn.Module):  # what DDP is to the outside
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, **inputs):
            return self.module(**inputs)

    model = original()
    adapted = get_peft_model(
        perturbed(model), LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[0], init_lora_weights=False)
    )
    wrapped = Wrapper(adapted.eval())
    assert (logits(wrapped) - logits(model)).abs().max() > 1e-2
    with bypass(wrapped):
        assert torch.equal(logits(wrapped), logits(model))
    train_only_identity_layer(wrapped)
    assert all("layers.0." in name for name, p in wrapped.named_parameters() if p.requires_grad)


def test_a_model_without_the_layer_is_refused_by_name():
    for use in (identity_layer, train_only_identity_layer):
        with pytest.raises(IdentityLayerError, match=r"LlamaForCausalLM \(llama\) has no identity layer; make one"):
            use(original())
    with pytest.raises(IdentityLayerError, match="has no identity layer"), bypass(original()):
        pass
    with pytest.raises(IdentityLayerError, match="Linear holds no transformers model"):
        identity_layer(nn.Linear(1, 1))
