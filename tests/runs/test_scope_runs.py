"""Runs with a scope: what is frozen stays as it is to the bit, everywhere the scope is named, and resumes."""

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from safetensors.torch import load_file

import tiny
import tiny_classifier
import tiny_folder
import tiny_rollout_runs
import tiny_runs
from trimtab.common.errors import UserError
from trimtab.models.scope import ScopeError
from trimtab.runs.estimate import estimates
from trimtab.runs.parse import parse
from trimtab.runs.recipe import RecipeError, dump
from trimtab.runs.run import run
from trimtab.train.base import check_sharding

DOWN = {"mlp": [1, 2], "parts": ["down_proj"]}
NAMES = {f"model.layers.{n}.mlp.down_proj.weight" for n in (1, 2)}


def tree(folder, method="sft", **changes):
    tiny_folder.save(folder / "policy", changes.pop("kind", "llama_tied"))
    rows = tiny_folder.pair_rows(8) if method == "dpo" else tiny_folder.chat_rows(8)
    return {
        "method": method,
        "models": {"policy": str(folder / "policy"), **changes.pop("models", {})},
        "data": {"train": tiny_folder.write_jsonl(folder / "train.jsonl", rows)},
        "training": {"max_steps": 4, "per_device_train_batch_size": 2, "learning_rate": 0.01, "save_steps": 2,
                     "weight_decay": 0.1},
        "scope": DOWN,
        "output": str(folder / "run"),
        **changes,
    }  # fmt: skip


def changed(folder, start="policy"):
    before, after = load_file(folder / start / "model.safetensors"), tiny_runs.weights(folder / "run")
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


@pytest.mark.parametrize("method", ["sft", "psft", "dpo"])
def test_only_the_scope_changes_and_all_else_stays_to_the_bit(tmp_path, method):
    run(parse(tree(tmp_path, method), "recipe", "run"), console=tiny_runs.QUIET)
    assert changed(tmp_path) == NAMES
    card = (tmp_path / "run/model/README.md").read_text()
    assert "scope: {mlp: [1, 2], parts: [down_proj]}" in card
    assert "trained parameters: 768" in card
    assert "{mlp: [1, 2], parts: [down_proj]}" in (tmp_path / "run/report.html").read_text()


def test_weights_in_bfloat16_that_are_frozen_stay_too(tmp_path):
    made = parse(tree(tmp_path, models={"dtype": "bfloat16"}), "recipe", "run")
    run(made, console=tiny_runs.QUIET)
    before, after = load_file(tmp_path / "policy/model.safetensors"), tiny_runs.weights(tmp_path / "run")
    assert {name for name in before if not torch.equal(before[name].bfloat16(), after[name])} == NAMES


def test_gradient_checkpointing_reaches_the_scope(tmp_path):
    made = tree(tmp_path)
    made["training"]["gradient_checkpointing"] = True
    run(parse(made, "recipe", "run"), console=tiny_runs.QUIET)
    assert changed(tmp_path) == NAMES


def test_rollouts_train_the_scope_alone(tmp_path):
    tiny_folder.save(tmp_path / "teacher")
    tasks = [{"prompt": f"count {i}", "answer": "a"} for i in range(6)]
    tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", tasks)
    (tmp_path / "own.py").write_text(tiny_rollout_runs.REWARD)
    made = tiny_rollout_runs.tree(tmp_path, tmp_path / "run", options={"kl": 0.1}, training={"max_steps": 2})
    tiny_rollout_runs.run({**made, "eval": {}, "scope": "layers.1.mlp"})
    assert changed(tmp_path, "teacher") == {f"model.layers.1.mlp.{part}_proj.weight" for part in ("gate", "up", "down")}


def test_a_tied_head_in_the_scope_trains_the_embedding_and_it_is_said(tmp_path):
    run(parse(tree(tmp_path, scope="lm_head"), "recipe", "run"), console=tiny_runs.QUIET)
    assert changed(tmp_path) == {"model.embed_tokens.weight"}
    notes = [event["text"] for event in tiny_runs.events(tmp_path / "run", "note")]
    assert any("are one weight" in note for note in notes)


def test_adapters_of_a_scope_change_only_its_weights_in_the_merged_model(tmp_path):
    made = tree(tmp_path, models={"lora": {"r": 2}}, kind="gpt2", scope={"mlp": 1, "parts": ["down_proj"]})
    run(parse(made, "recipe", "run"), console=tiny_runs.QUIET)
    assert changed(tmp_path) == {"transformer.h.1.mlp.c_proj.weight"}


def test_a_resumed_run_is_the_whole_one_and_another_scope_is_another_run(tmp_path):
    made = tree(tmp_path)
    run(parse(made, "recipe", "run"), console=tiny_runs.QUIET)
    tiny_runs.cut_off(tmp_path / "run", tmp_path / "cut", 2)
    run(parse({**made, "output": str(tmp_path / "cut")}, "recipe", "run"), resume=True, console=tiny_runs.QUIET)
    assert tiny_runs.same_weights(tmp_path / "run", tmp_path / "cut")
    tiny_runs.cut_off(tmp_path / "run", tmp_path / "other", 2)
    other = parse({**made, "output": str(tmp_path / "other"), "scope": {"mlp": 1}}, "recipe", "run")
    with pytest.raises(ValueError, match="scope"):
        run(other, resume=True, console=tiny_runs.QUIET)


def test_the_memory_estimate_counts_the_scope(tmp_path):
    scoped, whole = (parse({**tree(tmp_path), "scope": scope}, "recipe", "run") for scope in (DOWN, None))
    sizes = [{part.name: part.size for part in estimates(one)[0].parts} for one in (scoped, whole)]
    gradients = [next(size for name, size in one.items() if name.startswith("gradients")) for one in sizes]
    assert gradients[0] == 4 * 768 < gradients[1]


def test_layers_beyond_the_model_leave_nothing_behind(tmp_path):
    with pytest.raises(ScopeError, match=r"scope\.mlp names layers 1 to 8, but the model has 3, 0 to 2"):
        run(parse(tree(tmp_path, scope={"mlp": [1, 8]}), "recipe", "run"), console=tiny_runs.QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("head", [False, True])
def test_a_classifier_trains_the_scope_and_a_head_that_is_new(tmp_path, head):
    tiny_classifier.save(tmp_path / "policy", head=head)
    rows = tiny_classifier.write(tmp_path / "rows.jsonl", tiny_classifier.rows(8))
    made = {
        "method": "classify",
        "models": {"policy": str(tmp_path / "policy")},
        "data": {"train": rows},
        "training": {"max_steps": 2, "learning_rate": 0.01, "per_device_train_batch_size": 4},
        "scope": {"mlp": 0, "parts": ["down_proj"]},
        "output": str(tmp_path / "run"),
    }
    run(parse(made, "recipe", "run"), console=tiny_runs.QUIET)
    before, after = load_file(tmp_path / "policy/model.safetensors"), tiny_runs.weights(tmp_path / "run")
    before = {name if name.startswith(("bert", "classifier")) else f"bert.{name}": one for name, one in before.items()}
    moved = {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}
    assert moved == {f"bert.encoder.layer.0.output.dense.{part}" for part in ("weight", "bias")}
    assert ("classifier.weight" in before) == head
    notes = [event["text"] for event in tiny_runs.events(tmp_path / "run", "note")]
    assert any("new head" in note for note in notes) != head


@pytest.mark.parametrize(
    "scope, said",
    [
        ({"mlp": [4, 6, 8]}, r"write mlp: \{layers: \[4, 6, 8\]\}"),
        ({"mlp": [8, 4]}, "ends before it begins"),
        ({"mlp": -1}, "a layer from 0"),
        ({"mlp": True}, "a layer from 0"),
        ({"mlp": {"layers": [1, 1]}}, "each layer once"),
        ({"mlp": []}, "a layer from 0"),
        ({"parts": ["down_proj"]}, "names no block"),
        ({"ffn": 1}, "has no key 'ffn'; its keys: mlp, attention, parts"),
        ({"mlp": 1, "parts": []}, "list names of weights"),
        ("layers[", "is no pattern"),
        (3, "is 3; write all, lora"),
        ("lora", "add models.lora"),
    ],
)
def test_a_scope_that_means_nothing_or_two_things_is_refused(tmp_path, scope, said):
    with pytest.raises(RecipeError, match=said):
        parse(tree(tmp_path, scope=scope), "recipe", "run")


def test_scope_and_adapters_do_not_say_two_things(tmp_path):
    with pytest.raises(RecipeError, match="leave one of them out"):
        parse(tree(tmp_path, scope="all", models={"lora": {"r": 2}}), "recipe", "run")
    with pytest.raises(RecipeError, match="both say where adapters are"):
        parse(tree(tmp_path, models={"lora": {"r": 2, "target_modules": "all-linear"}}), "recipe", "run")
    with pytest.raises(RecipeError, match="trains its identity layer"):
        parse(tree(tmp_path, "clm"), "recipe", "run")


@pytest.mark.parametrize("scope", [DOWN, {"mlp": {"layers": [0, 2]}}, {"attention": "all"}, "lora_a|mlp", "all", None])
def test_a_dumped_recipe_has_the_same_scope(tmp_path, scope):
    import yaml

    found = parse(tree(tmp_path, scope=scope), "recipe", "run")
    again = parse(yaml.safe_load(dump(found)), "recipe", "run")
    assert again.scope == found.scope


def test_fsdp_that_joins_frozen_and_trained_parameters_is_refused():
    model = tiny.model("llama")
    joined = FullyShardedDataParallelPlugin(fsdp_version=1, use_orig_params=False)
    check_sharding(joined, model)
    next(model.parameters()).requires_grad_(False)
    with pytest.raises(UserError, match="fsdp_use_orig_params: true"):
        check_sharding(joined, model)
    check_sharding(FullyShardedDataParallelPlugin(fsdp_version=1, use_orig_params=True), model)
    check_sharding(FullyShardedDataParallelPlugin(fsdp_version=2), model)
    check_sharding(None, model)
