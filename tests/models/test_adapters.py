"""What an adapter changes is found by trying; what is saved of it gives what was trained."""

import json

import pytest
import torch

import architectures
import tiny
import tiny_folder
from trimtab.models import adapter_merging, adapter_saving, adapter_starts
from trimtab.models.adapters import AdapterError, add_lora, check_settings
from trimtab.models.checks import BrokenModel
from trimtab.models.forward import add_objective_forward
from trimtab.models.loading import limits, load_config, load_model, load_tokenizer
from trimtab.models.probing import probe_logits

IDS = torch.arange(12)[None] * 3 % tiny_folder.VOCAB
EMBEDDING = {"gpt2": "wte"}
SETTINGS = {
    "plain": {},
    "some": {"target_modules": ["q_proj", "v_proj", "c_attn"]},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True},
    "ranks": {"rank_pattern": {"q_proj": 2, "c_attn": 2}, "alpha_pattern": {"v_proj": 3, "c_proj": 3}},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa by draws": {"init_lora_weights": "pissa_niter_4"},
    "pissa, rslora, ranks": {"init_lora_weights": "pissa", "use_rslora": True, "rank_pattern": {"q_proj": 2}},
    "pissa, dora": {"init_lora_weights": "pissa", "use_dora": True},
    "bias": {"bias": "all"},
    "embedding saved": {"modules_to_save": ["EMBEDDING"]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "both saved": {"modules_to_save": ["EMBEDDING", "lm_head"]},
    "on the embedding": {"target_modules": ["EMBEDDING"]},
    "on the embedding, tied": {"target_modules": ["EMBEDDING"], "ensure_weight_tying": True},
    "on the embedding, dora": {"target_modules": ["EMBEDDING"], "use_dora": True},
    "tokens": {"trainable_token_indices": [3, 4]},
}


def logits(model):
    with torch.no_grad():
        return model.eval()(input_ids=IDS, use_cache=False).logits


def trained(folder, kind, settings):
    """A base in a folder, and a policy on it whose trained parameters are no longer what they were."""
    base = tiny_folder.save(folder / "base", kind)
    model = load_model(base)
    add_objective_forward(model)
    before = probe_logits(model).detach()
    names = {"EMBEDDING": EMBEDDING.get(kind, "embed_tokens")}
    settings = {
        key: [names.get(one, one) for one in value] if isinstance(value, list) else value
        for key, value in {"r": 4, "target_modules": "all-linear", **settings}.items()
    }
    policy = add_lora(model, settings, 0)
    if not adapter_starts.base_is_unchanged(policy, before):
        adapter_saving.remember_initial(policy)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(0.03 * torch.randn(parameter.shape, generator=draw))
    return base, policy


@pytest.mark.fast(
    *("llama_tied-plain", "llama_tied-both saved", "llama_tied-dora", "llama_tied-on the embedding, tied"),
    *("llama_tied-pissa, rslora, ranks", "llama_tied-tokens", "gpt2-pissa", "llama-head saved", "qwen2-bias"),
)
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("kind", ["llama", "llama_tied", "gpt2", "qwen2"])
def test_the_saved_adapter_and_the_merged_model_are_the_trained_one(tmp_path, kind, name):
    base, policy = trained(tmp_path, kind, SETTINGS[name])
    wanted = logits(policy)
    assert (wanted - logits(load_model(base))).abs().max() > 1e-3
    adapter_saving.save(policy, tmp_path / "adapter", base)
    adapter_merging.merged(policy).save_pretrained(tmp_path / "merged")
    for folder in ("adapter", "merged"):
        found = load_model(str(tmp_path / folder))
        torch.testing.assert_close(logits(found), wanted, rtol=1e-3, atol=2e-4)
        assert not any("lora" in key for key in found.state_dict())


@pytest.mark.parametrize(
    ("kind", "name", "stays"),
    [
        ("llama", "plain", True), ("llama_tied", "dora", True), ("llama_tied", "embedding saved", True),
        ("llama_tied", "on the embedding", True), ("gpt2", "tokens", True), ("llama", "bias", True),
        ("qwen2", "bias", False), ("gpt2", "bias", False), ("llama", "pissa", False), ("gpt2", "pissa", False),
    ],
)  # fmt: skip
def test_without_its_adapter_a_policy_is_the_start_only_where_its_own_weights_stay(tmp_path, kind, name, stays):
    model = load_model(tiny_folder.save(tmp_path / "base", kind))
    before = probe_logits(model).detach()
    settings = {"r": 4, "target_modules": "all-linear", **SETTINGS[name]}
    names = {"EMBEDDING": EMBEDDING.get(kind, "embed_tokens")}
    settings = {k: [names.get(x, x) for x in v] if isinstance(v, list) else v for k, v in settings.items()}
    policy = add_lora(model, settings, 0)
    kept = {name: value.clone() for name, value in policy.state_dict().items()}
    assert adapter_starts.stays_initial(policy, before) is stays
    assert all(torch.equal(value, kept[name]) for name, value in policy.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "place"),
    [
        ({"lora_bias": True}, "models.lora.lora_bias"),
        ({"init_lora_weights": "eva"}, "models.lora.init_lora_weights=eva"),
        ({"init_lora_weights": "corda"}, "models.lora.init_lora_weights=corda"),
        ({"layers_to_transform": [0]}, "models.lora: "),
    ],
)
def test_what_could_not_be_trained_or_merged_is_reported_before_training(settings, place):
    with pytest.raises(AdapterError) as caught:
        add_lora(tiny.model(), {"r": 2, "target_modules": "all-linear", **settings}, 0)
    assert str(caught.value).startswith(place)


@pytest.mark.parametrize(
    ("key", "said"),
    [("rank", "did you mean 'r'"), ("lora_alhpa", "did you mean 'lora_alpha'"), ("zzz", "its keys: .*lora_alpha")],
)
def test_a_setting_that_peft_has_not_is_named_with_the_nearest(key, said):
    with pytest.raises(AdapterError, match=f"models.lora: PEFT's LoraConfig has no '{key}'; .*{said}"):
        add_lora(tiny.model(), {key: 4, "target_modules": "all-linear"}, 0)


@pytest.mark.parametrize("kind", ["mamba", "falcon_h1", "nemotron_h"])
def test_all_linear_layers_are_those_that_peft_takes(kind):
    model = architectures.build(kind)
    policy = add_lora(model, {"r": 2, "target_modules": "all-linear"}, 0)
    adapted = {name.rpartition(".lora_A")[0] for name, _ in policy.named_parameters() if ".lora_A." in name}
    assert adapted
    assert not any(name.endswith("out_proj") for name in adapted)
    with pytest.raises(AdapterError, match="out_proj"):
        add_lora(architectures.build(kind), {"r": 2, "target_modules": ["out_proj"]}, 0)


def test_layers_that_an_initialisation_breaks_are_reported_before_training():
    with pytest.raises(AdapterError, match=r"models\.lora: "):
        add_lora(tiny.model("gpt2"), {"r": 2, "target_modules": "all-linear", "init_lora_weights": "olora"}, 0)


# ---------------------------------------------------------------- adapters as models


def test_an_adapter_has_its_bases_config_and_tokenizer_unless_it_has_its_own(tmp_path):
    base, policy = trained(tmp_path, "llama", {})
    adapter_saving.save(policy, tmp_path / "adapter", base)
    name = str(tmp_path / "adapter")
    assert load_config(name).hidden_size == 16
    assert load_tokenizer(name).get_vocab() == tiny_folder.byte_tokenizer().get_vocab()
    own = tiny_folder.byte_tokenizer()
    own.add_tokens(["<own>"])
    own.save_pretrained(name)
    assert "<own>" in load_tokenizer(name).get_vocab()


def test_a_base_may_lie_beside_its_adapter_and_be_one(tmp_path):
    base, policy = trained(tmp_path, "llama", {})
    wanted = logits(policy)
    adapter_saving.save(policy, tmp_path / "adapter", base)
    settings(tmp_path / "adapter", base_model_name_or_path="../base")
    torch.testing.assert_close(logits(load_model(str(tmp_path / "adapter"))), wanted, rtol=1e-3, atol=2e-4)
    settings(tmp_path / "adapter", base_model_name_or_path="../adapter")
    with pytest.raises(ValueError, match="names itself"):
        load_model(str(tmp_path / "adapter"))
    settings(tmp_path / "adapter", base_model_name_or_path=None)
    with pytest.raises(ValueError, match="does not name its base model"):
        load_model(str(tmp_path / "adapter"))


def settings(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_an_adapter_that_lacks_tensors_or_does_not_fit_is_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    base, policy = trained(tmp_path, "llama", {})
    adapter_saving.save(policy, tmp_path / "adapter", base)
    path = tmp_path / "adapter/adapter_model.safetensors"
    whole = load_file(path)
    first = min(whole)
    save_file({key: value for key, value in whole.items() if key != first}, path)
    with pytest.raises(BrokenModel, match=f"lacks 1 of its tensors: {first}"):
        load_model(str(tmp_path / "adapter"))
    save_file({**whole, "base_model.model.model.nothing.lora_A.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(BrokenModel, match="has no place: .*nothing"):
        load_model(str(tmp_path / "adapter"))
    save_file(whole, path)
    tiny_folder.save(tmp_path / "base", "llama", hidden_size=32)
    with pytest.raises(BrokenModel, match="does not fit"):
        load_model(str(tmp_path / "adapter"))
    path.write_bytes(path.read_bytes()[:30])
    with pytest.raises(BrokenModel, match="could not be read"):
        load_model(str(tmp_path / "adapter"))


def test_an_adapter_that_lost_what_it_took_out_of_its_base_is_refused(tmp_path):
    base, policy = trained(tmp_path, "llama", {"init_lora_weights": "pissa_niter_4"})
    policy.peft_config["default"].base_model_name_or_path = base
    policy.save_pretrained(tmp_path / "adapter")
    with pytest.raises(BrokenModel, match="init_lora_weights=pissa_niter_4"):
        load_model(str(tmp_path / "adapter"))


def test_a_whole_model_and_an_adapter_in_one_folder_are_refused(tmp_path):
    base, policy = trained(tmp_path, "llama", {})
    adapter_saving.save(policy, tmp_path / "base", base)
    with pytest.raises(ValueError, match="has both a whole model and an adapter"):
        load_model(base)


@pytest.mark.fast("llama_tied-by PEFT", "llama-saved")
@pytest.mark.parametrize("way", ["saved", "by PEFT"])
@pytest.mark.parametrize("kind", ["llama", "llama_tied", "gpt2", "qwen2"])
def test_rows_that_an_adapter_adds_to_the_embedding_are_read_and_counted(tmp_path, kind, way):
    base = tiny_folder.save(tmp_path / "base", kind)
    tokenizer = tiny_folder.byte_tokenizer()
    tokenizer.add_tokens(["<one>", "<two>"], special_tokens=True)
    model = load_model(base)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    add_objective_forward(model)
    embedding = EMBEDDING.get(kind, "embed_tokens")
    how = {
        "saved": {"target_modules": "all-linear", "modules_to_save": [embedding, "lm_head"]},
        "by PEFT": {"target_modules": "all-linear"},
    }
    policy = add_lora(model, {"r": 2, **how[way]}, 0)
    adapter_saving.save(policy, tmp_path / "adapter", base)
    tokenizer.save_pretrained(tmp_path / "adapter")
    name = str(tmp_path / "adapter")
    assert limits(name).vocab == load_config(name).vocab_size == len(tokenizer) == tiny_folder.VOCAB + 2
    assert limits(base).vocab == tiny_folder.VOCAB
    ids = torch.tensor([[5, tiny_folder.VOCAB + 1, 7]])
    found = load_model(name)
    torch.testing.assert_close(found(input_ids=ids).logits, policy.eval()(input_ids=ids).logits, rtol=1e-3, atol=2e-4)


def test_rows_without_those_of_the_head_are_refused(tmp_path):
    base = tiny_folder.save(tmp_path / "base", "llama")
    model = load_model(base)
    model.resize_token_embeddings(tiny_folder.VOCAB + 2, mean_resizing=False)
    adapter_saving.save(add_lora(model, {"r": 2, "target_modules": ["embed_tokens"]}, 0), tmp_path / "adapter", base)
    with pytest.raises(BrokenModel, match=r"adds 2 rows to the embedding but none to the head \(lm_head\)"):
        load_model(str(tmp_path / "adapter"))


@pytest.mark.parametrize("training", [True, False])
def test_a_model_keeps_its_mode_when_it_gets_adapters(training):
    model = tiny.model("gpt2").train(training)
    policy = add_lora(model, {"r": 2, "target_modules": "all-linear"}, seed=0)
    assert {module.training for module in policy.modules()} == {training}


@pytest.mark.parametrize("bias", [False, "yes", None])
def test_biases_that_peft_would_fall_over_later_are_refused_by_their_words(bias):
    with pytest.raises(AdapterError, match=r"models.lora.bias is .*; it must be none, all or lora_only"):
        check_settings({"r": 2, "bias": bias})
    check_settings({"r": 2, "bias": "lora_only"})
