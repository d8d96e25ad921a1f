"""LoRA runs from a recipe to models that other commands load; a wrong merge is told and not saved."""

import json

import pytest
import torch
from rich.console import Console
from safetensors import safe_open

import architectures
import tiny
import tiny_folder
from trimtab.models.adapters import AdapterError, add_lora
from trimtab.models.forward import add_objective_forward
from trimtab.models.identity_layer import bypass, identity_layer, insert_identity_layer
from trimtab.models.loading import load_model
from trimtab.runs import job, saving
from trimtab.runs.folder import RunError
from trimtab.runs.models_key import Cut
from trimtab.runs.parse import parse
from trimtab.runs.run import run

QUIET = Console(quiet=True)
IDS = torch.arange(12)[None] * 3


def recipe(folder, lora, method="sft", kind="llama_tied"):
    tiny_folder.save(folder / "model", kind)
    rows = tiny_folder.pair_rows(4) if method in ("dpo", "clm") else tiny_folder.chat_rows(4)
    tree = {
        "method": method,
        "models": {"policy": str(folder / "model"), "lora": {"r": 4, "target_modules": "all-linear", **lora}},
        "data": {"train": tiny_folder.write_jsonl(folder / "train.jsonl", rows)},
        "training": {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 0.01},
        "output": str(folder / "run"),
    }
    return parse(tree, "recipe", "run")


@pytest.mark.parametrize(
    "lora",
    [{"init_lora_weights": "pissa"}, {"target_modules": ["embed_tokens"]}],
)
def test_the_adapter_and_the_model_of_a_run_are_the_same_model(tmp_path, lora):
    run(recipe(tmp_path, lora), console=QUIET)
    one, two = (load_model(str(tmp_path / "run" / name))(input_ids=IDS).logits for name in ("adapter", "model"))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=2e-4)
    start = load_model(str(tmp_path / "model"))(input_ids=IDS).logits
    assert (one - start).abs().max() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "llama_tied", "qwen2", "gemma3"])
def test_layers_that_an_adapter_repeats_have_weights_of_their_own_in_the_saved_model(tmp_path, kind):
    run(recipe(tmp_path, {"layer_replication": [[0, 2], [1, 3]]}, kind=kind), console=QUIET)
    one, two = (load_model(str(tmp_path / "run" / name)) for name in ("adapter", "model"))
    assert two.config.num_hidden_layers == 4
    torch.testing.assert_close(one(input_ids=IDS).logits, two(input_ids=IDS).logits, rtol=1e-3, atol=2e-4)


@pytest.mark.fast("0.01-float32")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("rate", [0.01, 1e-5])
def test_a_merge_that_is_wrong_is_told_and_the_adapter_kept(tmp_path, monkeypatch, dtype, rate):
    monkeypatch.setattr(saving, "merged", lambda policy: policy.unload())  # as PEFT without the adapter
    made = recipe(tmp_path, {})
    made.models.dtype, made.training["learning_rate"] = dtype, rate
    with pytest.raises(RunError, match="differs from the trained model"):
        run(made, console=QUIET)
    assert (tmp_path / "run/adapter/adapter_model.safetensors").is_file()
    assert not (tmp_path / "run/model").exists()
    assert not (tmp_path / "run/model.part").exists()


@pytest.mark.slow
@pytest.mark.parametrize("lora", [{}, {"init_lora_weights": "pissa"}, {"modules_to_save": ["lm_head"]}])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_models_in_few_bits_are_saved_in_them_and_what_rounding_takes_is_said(tmp_path, dtype, lora):
    made = recipe(tmp_path, lora, kind="llama")
    made.models.dtype = dtype
    run(made, console=QUIET)
    with safe_open(tmp_path / "run/model/model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 == {getattr(torch, dtype)}
    assert "the merged model keeps" not in (tmp_path / "run/metrics.jsonl").read_text()


@pytest.mark.slow
def test_an_adapter_finer_than_the_rounding_of_the_weights_is_said(tmp_path):
    made = recipe(tmp_path, {})
    made.models.dtype, made.training["learning_rate"] = "bfloat16", 1e-4
    run(made, console=QUIET)
    assert "in bfloat16 the merged model keeps" in (tmp_path / "run/metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_model_that_is_trained_under_autocast_is_held_against_itself_without(tmp_path):
    made = recipe(tmp_path, {})
    made.training |= {"bf16": True, "use_cpu": True}
    run(made, console=QUIET)
    one, two = (load_model(str(tmp_path / "run" / name))(input_ids=IDS).logits for name in ("adapter", "model"))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=2e-4)


@pytest.mark.slow
def test_a_reference_that_the_adapter_would_change_is_kept_as_a_second_model_and_said(tmp_path):
    run(recipe(tmp_path, {"init_lora_weights": "olora"}, "dpo"), console=QUIET)
    assert "the initial policy is kept as a second model" in (tmp_path / "run/metrics.jsonl").read_text()


@pytest.mark.slow
def test_an_adapter_as_the_policy_of_full_training_is_trained_as_a_whole(tmp_path):
    run(recipe(tmp_path, {}), console=QUIET)
    made = recipe(tmp_path, {})
    made.models.policy, made.models.lora, made.output = str(tmp_path / "run/adapter"), None, str(tmp_path / "full")
    start = load_model(made.models.policy)
    assert all(parameter.requires_grad for parameter in start.parameters())
    run(made, console=QUIET)
    now = dict(load_model(str(tmp_path / "full/model")).named_parameters())
    assert [name for name, before in start.named_parameters() if torch.equal(before, now[name])] == []


def test_a_run_in_which_nothing_would_be_trained_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    make = job.make_policy
    monkeypatch.setattr(job, "make_policy", lambda *of: make(*of).requires_grad_(False))
    made = recipe(tmp_path, {})
    made.models.lora = None
    with pytest.raises(RunError, match="no parameter of the policy would be trained"):
        run(made, console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.fast("cut")
@pytest.mark.parametrize("made_by", ["cut", "grown"])
def test_an_adapter_on_a_model_that_its_run_made_is_no_adapter_of_the_model_it_was_made_from(tmp_path, made_by):
    made = recipe(tmp_path, {})
    if made_by == "cut":
        made.models.policy = Cut(**{"from": str(tmp_path / "model"), "layers": [0, 2]})
    else:
        tokenizer = tiny_folder.byte_tokenizer()
        tokenizer.add_tokens(["<extra>"])
        tokenizer.save_pretrained(tmp_path / "model")
        made.models.resize = True
    run(made, console=QUIET)
    assert json.loads((tmp_path / "run/adapter/adapter_config.json").read_text())["base_model_name_or_path"] is None
    with pytest.raises(ValueError, match="kept layers, added rows.*use the merged model .*run/model") as caught:
        load_model(str(tmp_path / "run/adapter"))
    assert "\n" not in str(caught.value)
    load_model(str(tmp_path / "run/model"))


@pytest.mark.slow
def test_resize_that_adds_no_row_leaves_the_adapter_on_its_base(tmp_path):
    made = recipe(tmp_path, {})
    made.models.resize = True
    run(made, console=QUIET)
    one, two = (load_model(str(tmp_path / "run" / name))(input_ids=IDS).logits for name in ("adapter", "model"))
    torch.testing.assert_close(one, two, rtol=1e-3, atol=2e-4)


# ---------------------------------------------------------------- on an identity layer


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama_tied", "gpt2"])
@pytest.mark.parametrize("method", ["clm", "inra"])
@pytest.mark.parametrize(
    "lora", [{}, {"target_modules": ["o_proj", "down_proj", "c_proj"], "init_lora_weights": "gaussian"}]
)
def test_adapters_of_an_identity_layer_train_that_layer_alone(tmp_path, method, kind, lora):
    run(recipe(tmp_path, lora, method=method, kind=kind), console=QUIET)
    original, model = load_model(str(tmp_path / "model")), load_model(str(tmp_path / "run/model"))
    wanted = original(input_ids=IDS).logits
    assert (model(input_ids=IDS).logits - wanted).abs().max() > 1e-4
    with bypass(model):
        torch.testing.assert_close(model(input_ids=IDS).logits, wanted, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="use the merged model .*run/model"):
        load_model(str(tmp_path / "run/adapter"))


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        (
            {"target_modules": ["q_proj"]},
            "nothing would be learned: self_attn.o_proj, mlp.down_proj of the identity layer",
        ),
        (
            {"target_modules": ["qproj"]},
            "target_modules=.'qproj'. matches nothing in the identity layer; it has self_attn",
        ),
        ({"layers_to_transform": [1]}, "models.lora.layers_to_transform has no effect"),
        ({"bias": "all"}, "models.lora.bias=all would train biases of all layers"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save=.'lm_head'. matches nothing in the identity layer"),
        ({"target_modules": "all-linear", "init_lora_weights": "pissa"}, "leave init_lora_weights as it is"),
    ],
)
def test_adapters_that_reach_elsewhere_or_learn_nothing_are_refused(lora, message):
    policy = insert_identity_layer(tiny.model("llama"))
    add_objective_forward(policy)
    with pytest.raises(AdapterError, match=message):
        add_lora(policy, {"r": 2, **lora}, seed=0, only=identity_layer(policy))


def test_only_places_of_the_layer_get_adapters_whatever_they_are_named_by():
    names = {}
    for given in (None, "all-linear", ["o_proj"], r".*\.(o|down)_proj"):
        policy = insert_identity_layer(tiny.model("llama"))
        add_objective_forward(policy)
        adapted = add_lora(policy, {"r": 2, "target_modules": given}, seed=0, only=identity_layer(policy))
        found = {name.partition(".lora_")[0] for name, p in adapted.named_parameters() if p.requires_grad}
        names[str(given)] = {name.rpartition("layers.")[2] for name in found}
    assert names["None"] == names["all-linear"]
    assert names["['o_proj']"] == {"0.self_attn.o_proj"}
    assert names[r".*\.(o|down)_proj"] == {"0.self_attn.o_proj", "0.mlp.down_proj"}
    assert len(names["all-linear"]) == 7
    assert all(name.startswith("0.") for name in names["all-linear"])


@pytest.mark.parametrize("kind", ["glm4_moe", "deepseek_v3"])
@pytest.mark.parametrize("lora", [{}, {"target_modules": ["down_proj", "gate_proj"], "lora_dropout": 0.1}])
def test_adapters_of_a_dense_identity_layer_stay_out_of_the_experts_behind_it(kind, lora):
    """PEFT reads its names as those of experts of older checkpoints, in all layers."""
    policy = insert_identity_layer(architectures.build(kind))
    layer = identity_layer(policy)
    adapted = add_lora(policy, {"r": 2, **lora}, seed=0, only=layer)
    trained = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert all(".layers.0." in name for name in trained)
    assert any(".layers.0.mlp.gate_proj.lora_A" in name for name in trained)
    experts = add_lora(architectures.build(kind), {"r": 2, "target_modules": "all-linear"}, seed=0)
    assert any(".layers.1.mlp.experts" in name for name, p in experts.named_parameters() if p.requires_grad)
