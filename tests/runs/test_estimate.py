"""What a run needs is told before anything is loaded, and is what it takes."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model

import tiny
import tiny_folder
from trimtab.commands.memory_table import shown, table
from trimtab.data.sources import load_rows
from trimtab.models.footprint import TrainedShape, footprint, kv_bytes, num_weights
from trimtab.models.forward import backbone
from trimtab.models.identity_layer import insert_identity_layer, train_only_identity_layer
from trimtab.models.loading import load_model
from trimtab.models.scalar_head import with_scalar_head
from trimtab.models.student import keep_layers
from trimtab.runs import estimate
from trimtab.runs.estimate import estimates
from trimtab.runs.parse import load_recipe, parse
from trimtab.runs.policy import policy_tokenizer
from trimtab.runs.recipe import Recipe
from trimtab.runs.rows import prepare_source
from trimtab.runs.shipped import recipe_folder

CLOSE = 0.25
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


def saved(model, policy, rows: int, length: int) -> int:
    """Bytes that a real forward keeps."""

    def run():
        ids = torch.zeros(rows, length, dtype=torch.long)
        mask = torch.ones_like(ids)
        mask[0, -1] = 0  # rows of different lengths
        out = backbone(model)(input_ids=ids, attention_mask=mask, use_cache=False)
        assert out.last_hidden_state.requires_grad
        return out

    return tiny.saved_bytes(policy, run)


@pytest.mark.parametrize("kind", ["llama", "llama_tied", "gemma2", "gpt2"])
def test_a_model_without_memory_counts_as_the_real_one(kind):
    model = tiny.model(kind).train()
    found = footprint(model.config, "float32", TrainedShape(), 3, 20)
    assert found.params == found.trained == sum(p.numel() for p in model.parameters())
    assert found.weights == 4 * found.params
    assert found.activations == saved(model, model, 3, 20)
    assert num_weights(model.config) == found.params


def test_checkpointing_adapters_and_half_precision_are_counted():
    model = tiny.model("llama_tied").train()
    plain = footprint(model.config, "float32", TrainedShape(), 3, 64)
    assert (
        footprint(model.config, "float32", TrainedShape(checkpointing=True), 3, 64).activations < plain.activations / 3
    )
    settings = {"r": 4, "target_modules": ["q_proj", "v_proj"]}
    lora = footprint(model.config, "bfloat16", TrainedShape(lora=settings), 3, 64)
    policy = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **settings))
    trained = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert (lora.trained, lora.head) == (trained, 0)
    assert lora.weights == 4 * trained + 2 * plain.params  # what is trained is kept in float32


def test_an_identity_layer_and_a_scalar_head_are_counted():
    model = tiny.model("llama").train()
    one = insert_identity_layer(model)
    train_only_identity_layer(one)
    found = footprint(model.config, "float32", TrainedShape(identity_layer=True), 3, 20)
    assert found.params == sum(p.numel() for p in one.parameters())
    assert found.trained == sum(p.numel() for p in one.parameters() if p.requires_grad)
    assert found.activations == saved(one.train(), one, 3, 20)
    head = footprint(model.config, "float32", TrainedShape(scalar_head=True), 3, 20)
    scorer = with_scalar_head(tiny.model("llama"), 0)
    assert abs(head.params - sum(p.numel() for p in scorer.parameters())) <= 2 * head.width
    assert head.head == 0


def test_keys_and_values_of_a_token_are_counted():
    model = tiny.model("llama")
    cache = model(input_ids=torch.zeros(2, 7, dtype=torch.long), use_cache=True).past_key_values
    real = sum(t.numel() * 4 for layer in cache.layers for t in (layer.keys, layer.values))
    assert kv_bytes(model.config, "float32") * 2 * 7 == real
    assert kv_bytes(model.config, "bfloat16") * 2 * 7 == real // 2


def parts(files: Path, method: str, **changes) -> dict[str, int]:
    made = parse(tiny_folder.recipe(files, method, output=str(files / "out"), **changes), "test", "run")
    (found,) = estimates(made)
    return {part.name: part.size for part in found.parts}


def size(found: dict[str, int], start: str) -> int:
    return next(size for name, size in found.items() if name.startswith(start))


def test_parts_of_a_run_are_those_of_its_recipe(files):
    teacher = load_model(str(files / "teacher"))
    found = parts(files, "hpd")
    weights = size(found, "policy")
    assert size(found, "gradients") == weights
    assert size(found, "optimizer state") == 2 * weights
    assert size(parts(files, "hpd", training={"optim": "sgd"}), "optimizer state") == 0
    assert size(found, "teacher") == 4 * sum(p.numel() for p in teacher.parameters())
    kept = keep_layers(teacher, [0])
    one = parts(files, "hpd", models={"student": {"from": "teacher", "layers": [0]}})
    assert size(one, "policy") == 4 * sum(p.numel() for p in kept.parameters())
    half = parts(files, "hpd", models={"frozen_dtype": "bfloat16"})
    assert 2 * size(half, "teacher") == size(found, "teacher")
    assert not any(name.startswith("copy of the initial policy") for name in found)
    assert any(
        name.startswith("copy of the initial policy") for name in parts(files, "hpd", eval={"kl_to_initial": True})
    )
    twice = parts(files, "hpd", training={"per_device_train_batch_size": 8})
    assert size(twice, "activations") > 3 * size(found, "activations")


def test_the_table_adds_up_to_the_peak(files):
    made = parse(tiny_folder.recipe(files, "hpd", output=str(files / "out")), "test", "run")
    (found,) = estimates(made)
    phase, peak = found.peak()
    assert peak == sum(int(part.size * part.share.get(phase, 0)) for part in found.parts)
    *_, last, fragmented = table(found).splitlines()
    assert last.split() == ["peak", *shown(peak).split()]
    activations = next(part.size for part in found.parts if part.name.startswith("activations"))
    assert fragmented.endswith(shown(peak + activations // 2))


def test_a_run_that_learns_from_rollouts_is_estimated_too(files):
    tiny_folder.write_jsonl(files / "tasks.jsonl", [{"prompt": f"count {i}", "answer": "1"} for i in range(4)])
    tree = {
        "method": "grpo",
        "models": {"policy": str(files / "teacher")},
        "data": {"train": str(files / "tasks.jsonl")},
        "reward": "exact",
        "training": {"per_device_train_batch_size": 4, "num_generations": 2, "max_completion_length": 4},
        "output": str(files / "out"),
    }
    (found,) = estimates(parse(tree, "test", "run"))
    assert any(part.name.startswith("KV cache of rollouts, 4 x") for part in found.parts)
    served = {"rollouts": {"engine": "vllm", "server": "http://localhost:8000"}}
    (found,) = estimates(parse({**tree, **served}, "test", "run"))
    assert not any("of rollouts" in part.name for part in found.parts)  # they are in the server's memory


def test_stages_start_from_models_that_are_yet_to_be_trained(files):
    tree = tiny_folder.recipe(files, "sft", output=str(files / "both"))
    tree |= {"stages": [{"name": "a"}, {"name": "b", "models": {"student": "@a"}}]}
    one, other = estimates(parse(tree, "test", "run"))
    assert [part.size for part in one.parts] == [part.size for part in other.parts]


# ---------------------------------------------------------------- held against what runs take


def longest_rows(recipe: Recipe, folder: Path, number: int) -> str:
    """The longest rows of a recipe's data as a file, so that a few steps meet what the whole run meets once."""
    rows = load_rows(recipe.data.train)
    prepared = prepare_source(recipe, "train", policy_tokenizer(recipe))
    by_length = sorted(prepared.rows, key=lambda row: -len(row["input_ids"]))
    return tiny_folder.write_jsonl(
        folder / "longest.jsonl", [rows[row["row_id"] % len(rows)] for row in by_length[:number]]
    )


def held_against(name: str, folder: Path, *words: str) -> tuple[int, int]:
    """Estimated and measured bytes of a few steps of a recipe on its longest rows."""
    words = ("training.max_steps=2", "eval.prompts=[]", f"output={folder / 'run'}", *words)
    recipe = load_recipe(name, words)
    assert isinstance(recipe, Recipe)
    if not recipe.reward:
        batch = recipe.training["per_device_train_batch_size"]
        words += (f"data.train={longest_rows(recipe, folder, 3 * batch)}", "data.heldout_rows=8")
    (found,) = estimates(load_recipe(name, words))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(HERE / "measured_memory.py"), name, *words],
        check=True, capture_output=True, text=True, env=environment,
    )  # fmt: skip
    return found.peak()[1], json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tiny_policy", ()),
        ("tiny_imitator", ("models.policy=characters-1m",)),
        ("tiny_dpo", ()),
        ("tiny_clm", ()),
        ("tiny_sft", ()),
        ("tiny_kd", ()),
        ("tiny_kd", ("models.lora={r: 8}", "models.student=smollm2-135m")),
    ],
)
def test_the_peak_is_what_a_tiny_recipe_takes(tmp_path, name, words):
    estimated, measured = held_against(name, tmp_path, *words)
    assert abs(estimated - measured) < CLOSE * measured, f"{estimated / 1e6:.0f} MB and {measured / 1e6:.0f} MB"


@pytest.mark.slow
def test_the_peak_is_what_rollouts_take(tmp_path):
    tree = yaml.safe_load((recipe_folder() / "tiny_grpo.yaml").read_text())["stages"][-1]
    del tree["name"]
    path = tmp_path / "grpo.yaml"
    path.write_text(json.dumps(tree))
    estimated, measured = held_against(str(path), tmp_path, "models.policy=characters-1m")
    assert abs(estimated - measured) < CLOSE * measured, f"{estimated / 1e6:.0f} MB and {measured / 1e6:.0f} MB"


def test_a_dry_run_ends_in_the_estimate_and_stays_a_recipe(files, trimtab, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(tiny_folder.recipe(files, "hpd")))
    status, said, _ = trimtab("train", path, "--dry-run")
    assert status == 0
    assert "#   teacher" in said
    assert "# memory" in said
    again = tmp_path / "again.yaml"
    again.write_text(said)
    assert load_recipe(again) == load_recipe(path)


def test_a_dry_run_measures_a_step_where_it_is_asked_to_and_stays_a_recipe(files, trimtab, tmp_path):
    tree = tiny_folder.recipe(files, "sft", output=str(tmp_path / "both"))
    path = tmp_path / "mine.yaml"
    stages = [{"name": "a"}, {"name": "b", "method": "hpd"}, {"name": "c", "models": {"student": "@a"}}]
    path.write_text(json.dumps(tree | {"stages": stages}))
    status, said, _ = trimtab("train", path, "--dry-run", "--time")
    assert status == 0
    times = [line for line in said.splitlines() if line.startswith("# time of ")]
    measured = r"# time of {} -> .*: [\d.e-]+ s a step on \w+, so [\d.e-]+ minutes for 6 steps \("
    assert [bool(re.match(measured.format(one), line)) for one, line in zip(("sft", "hpd"), times)] == [True, True]
    assert times[2].endswith(f"not measured: {tmp_path}/both/a/model is yet to be trained")
    again = tmp_path / "again.yaml"
    again.write_text(said)
    assert load_recipe(again) == load_recipe(path)
    assert not (tmp_path / "both").exists()


def test_a_run_is_not_timed_beforehand_unless_it_is_dry(files, trimtab, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(tiny_folder.recipe(files, "hpd")))
    status, _, said = trimtab("train", path, "--time")
    assert status == 2
    assert "add --dry-run" in said


def test_an_estimate_is_for_a_gpu_that_need_not_be_there(files, trimtab, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(tiny_folder.recipe(files, "hpd", training={"fp16": True})))
    status, said, _ = trimtab("train", path, "--dry-run", "--gpu-memory", "24")
    assert status == 0
    assert "# each cuda device, full size" in said
    assert "left of 24 GB" in said
    status, _, said = trimtab("train", path, "--gpu-memory", "24")
    assert status == 2
    assert "add --dry-run" in said


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("models.teacher=./nowhere", "models.teacher: there is no folder ./nowhere"),
        ("data.train=nowhere.jsonl", "there is no file nowhere.jsonl"),
        ("data.heldout=torn.jsonl", "torn.jsonl: line 1 is not valid JSON"),
        ("models.policy=half", "half"),
    ],
)
def test_a_dry_run_is_refused_as_the_run_would_be_where_a_file_is_not_there_or_broken(
    files, trimtab, tmp_path, monkeypatch, word, said
):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(json.dumps(tiny_folder.recipe(files, "hpd")))
    Path("torn.jsonl").write_text("{")
    Path("half").mkdir()  # no config.json
    status, out, err = trimtab("train", "mine.yaml", word, "--dry-run")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err


def test_a_dry_run_of_stages_reads_each_source_once(files, monkeypatch):
    tree = tiny_folder.recipe(files, "sft") | {"stages": [{"name": "a"}, {"name": "b", "method": "hpd"}]}
    seen = []
    monkeypatch.setattr(estimate, "load_rows", lambda source: seen.append(source) or load_rows(source))
    estimates(parse(tree, "test", "run"))
    assert seen == [str(files / "train.jsonl"), str(files / "heldout.jsonl")]
