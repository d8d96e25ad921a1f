"""A checkpoint is what its config describes, or it is refused by the names of its tensors or files."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForTokenClassification

import tiny
import tiny_folder
from trimtab.models import loading
from trimtab.models.builtin import ModelNotFound
from trimtab.models.checks import BrokenModel
from trimtab.models.loading import load_model, load_tokenizer, notes
from trimtab.models.scalar_head import with_scalar_head

KINDS = ["llama", "gpt2", "gemma2", "qwen2", "mistral", "mixtral"]


def saved(folder, kind="llama", **changes):
    if kind == "mixtral":
        config = AutoConfig.for_model(
            "mixtral", vocab_size=tiny_folder.VOCAB, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
            num_attention_heads=2, num_key_value_heads=1, num_local_experts=3, num_experts_per_tok=2,
            tie_word_embeddings=False,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tiny_folder.byte_tokenizer().save_pretrained(folder)
        return folder
    tiny_folder.save(folder, kind, num_hidden_layers=2, **changes)
    return folder


def edit(folder, change):
    """Change the tensors of a folder in place."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"format": "pt"})


def refused(folder, kind=BrokenModel, load=load_model) -> str:
    with pytest.raises(kind) as caught:
        load(str(folder))
    message = str(caught.value)
    assert "\n" not in message
    assert str(folder) in message
    return message


@pytest.mark.parametrize("kind", KINDS)
def test_a_tensor_that_is_missing_over_or_of_another_shape_is_named_in_every_family(tmp_path, kind):
    folder = saved(tmp_path / "model", kind)
    load_model(str(folder))
    whole = load_file(folder / "model.safetensors")
    name = next(key for key in whole if "layers.1" in key or "h.1." in key if "norm" in key or "ln_" in key)
    edit(folder, lambda tensors: tensors.pop(name))
    assert f"lacks 1 tensor that its config asks for: {name}" in refused(folder)
    save_file({**whole, name: torch.zeros(7)}, folder / "model.safetensors", {"format": "pt"})
    message = refused(folder)
    assert f"{name} is 7 in the weights and 16 by the config" in message
    more = name.replace(".1.", ".2.")
    save_file({**whole, more: whole[name].clone()}, folder / "model.safetensors", {"format": "pt"})
    assert f"has 1 tensor that its config does not ask for: {more}" in refused(folder)


def test_many_missing_tensors_are_counted_and_the_first_are_named(tmp_path):
    folder = saved(tmp_path / "model")
    edit(folder, lambda tensors: [tensors.pop(key) for key in list(tensors) if "layers.1" in key])
    message = refused(folder)
    assert "lacks 9 tensors" in message
    assert message.count("model.layers.1.") == 3
    assert "and 6 more" in message


def test_a_bias_that_the_config_does_not_know_is_no_extra(tmp_path):
    folder = saved(tmp_path / "model")
    edit(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(16)}))
    assert "q_proj.bias" in refused(folder)


def test_an_expert_that_lacks_a_part_is_named(tmp_path):
    folder = saved(tmp_path / "model", "mixtral")
    name = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    edit(folder, lambda tensors: tensors.pop(name))
    with pytest.raises(ValueError, match="experts") as caught:
        load_model(str(folder))
    assert name in str(caught.value)


def test_a_missing_head_is_refused_unless_it_is_tied_or_not_used(tmp_path):
    folder = saved(tmp_path / "untied")
    edit(folder, lambda tensors: tensors.pop("lm_head.weight"))
    assert "lm_head.weight" in refused(folder)
    load_model(str(folder), needs_head=False)
    edit(folder, lambda tensors: tensors.pop("model.norm.weight"))
    with pytest.raises(BrokenModel, match=r"model\.norm\.weight"):
        load_model(str(folder), needs_head=False)
    tied = saved(tmp_path / "tied", "llama_tied")
    assert "lm_head.weight" not in load_file(tied / "model.safetensors")
    load_model(str(tied))


def test_what_is_computed_may_be_stored(tmp_path):
    """As in folders that older versions of transformers wrote."""
    folder = saved(tmp_path / "gpt2", "gpt2")
    masks = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    }
    edit(folder, lambda tensors: tensors.update(masks))
    assert notes(load_model(str(folder))) == []
    folder = saved(tmp_path / "llama")
    edit(folder, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}))
    assert notes(load_model(str(folder))) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("v_head.summary.weight", "a value head"),
        ("score.weight", "a score head"),
        ("model.vision_tower.blocks.0.weight", "vision or audio parts"),
        ("mtp.layers.0.weight", "multi-token prediction layers"),
    ],
)
def test_parts_beside_the_language_model_are_left_out_and_reported(tmp_path, name, kind, caplog):
    folder = saved(tmp_path / "model")
    edit(folder, lambda tensors: tensors.update({name: torch.zeros(1, 16)}))
    model = load_model(str(folder))
    assert notes(model) == [f"the model {folder}: {kind} left out (1 tensor: {name})"]
    assert [one.getMessage() for one in caplog.records if one.name == "trimtab"] == notes(model)


def test_a_scorer_needs_its_own_head_and_a_language_model_has_none(tmp_path):
    scorer = with_scalar_head(tiny.model(), 0)
    scorer.save_pretrained(tmp_path / "scorer")
    load_model(str(tmp_path / "scorer"), kind=AutoModelForTokenClassification)
    edit(tmp_path / "scorer", lambda tensors: tensors.pop("score.weight"))
    with pytest.raises(BrokenModel, match=r"lacks .* score\.weight"):
        load_model(str(tmp_path / "scorer"), kind=AutoModelForTokenClassification)


# ---------------------------------------------------------------- files

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_pointer_of_git_lfs_is_called_one(tmp_path, name):
    folder = saved(tmp_path / "model")
    (folder / name).write_text(POINTER)
    assert f"{name} is a Git LFS pointer" in refused(folder, ModelNotFound)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_that_is_a_pointer_or_no_json_or_not_there_is_called_so(tmp_path, name):
    folder = saved(tmp_path / "model")
    (folder / name).write_text(POINTER)
    assert f"{name} is a Git LFS pointer" in refused(folder, ModelNotFound, load_tokenizer)
    (folder / name).write_text('{"model": ')
    assert f"{name} is not valid JSON" in refused(folder, ModelNotFound, load_tokenizer)
    for path in folder.glob("*token*"):
        path.unlink()
    assert "it has no tokenizer" in refused(folder, ModelNotFound, load_tokenizer)


@pytest.mark.parametrize("content", ["{}", "[]", "3"])
def test_json_that_is_no_tokenizer_is_called_so(tmp_path, content):
    folder = saved(tmp_path / "model")
    (folder / "tokenizer.json").write_text(content)
    assert "tokenizer.json is not a tokenizer" in refused(folder, ModelNotFound, load_tokenizer)


@pytest.mark.parametrize("kept", [0, 5, 50, -40])
def test_weights_that_are_cut_off_are_called_so(tmp_path, kept):
    folder = saved(tmp_path / "model")
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert "model.safetensors is cut off" in refused(folder, ModelNotFound)


def test_weights_that_are_rubbish_are_called_so(tmp_path):
    folder = saved(tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"<html>" * 100)
    assert "model.safetensors is not a safetensors file" in refused(folder, ModelNotFound)


def sharded(folder):
    load_model(str(folder)).save_pretrained(folder, max_shard_size="10KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    return folder / "model.safetensors.index.json"


def test_a_shard_that_the_index_names_and_nobody_finds_is_named(tmp_path):
    folder = saved(tmp_path / "model")
    index = sharded(folder)
    load_model(str(folder))
    shard = sorted(folder.glob("model-0*"))[1]
    shard.unlink()
    assert f"names {shard.name}, which the folder lacks" in refused(folder, ModelNotFound)
    index.write_text("{")
    assert f"{index.name} is not valid JSON" in refused(folder, ModelNotFound)


def test_an_index_that_leaves_shards_out_costs_the_names_of_what_is_missing(tmp_path):
    folder = saved(tmp_path / "model")
    index = sharded(folder)
    tree = json.loads(index.read_text())
    first = min(tree["weight_map"].values())
    tree["weight_map"] = dict.fromkeys(tree["weight_map"], first)
    index.write_text(json.dumps(tree))
    assert "tensors that its config asks for" in refused(folder)


def test_pickles_are_not_read_and_are_called_so(tmp_path):
    folder = saved(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    assert "it has no weights" in refused(folder, ModelNotFound)
    torch.save({}, folder / "pytorch_model.bin")
    assert "its weights are pickles (pytorch_model.bin)" in refused(folder, ModelNotFound)


def configured(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


@pytest.mark.parametrize(
    ("quantised", "package"),
    [
        ({"quant_method": "gptq", "bits": 4}, "optimum"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": "quanto"}, "optimum-quanto"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "torchao"),
    ],
)
def test_a_quantised_checkpoint_says_what_to_install(tmp_path, quantised, package):
    folder = configured(saved(tmp_path / "model"), quantization_config=quantised)
    message = refused(folder, ModelNotFound)
    assert "needs a package that is not installed" in message
    assert package in message


@pytest.mark.parametrize("changes", [{"hidden_size": "wide"}, {"model_type": "nonesuch"}, {"rope_parameters": 3}])
def test_whatever_a_config_makes_the_loader_raise_costs_one_line(tmp_path, changes):
    refused(configured(saved(tmp_path / "model"), **changes), ModelNotFound)


def test_settings_of_a_tokenizer_alone_are_no_tokenizer(tmp_path):
    folder = saved(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    said = refused(folder, ModelNotFound, load_tokenizer)
    assert "it has settings of a tokenizer (tokenizer_config.json), but not the tokenizer itself" in said


def test_a_message_that_announces_a_list_is_reported_with_it():
    error = ValueError("Couldn't make it from one of: \n(1) a file, \n(2) a slow one. \nYou need this.\n")
    assert loading._first_line(error) == "Couldn't make it from one of: (1) a file, (2) a slow one."
    assert loading._first_line(ValueError("It says:\nno\nmore")) == "It says: no"
