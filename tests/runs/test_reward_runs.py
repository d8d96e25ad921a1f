"""Reward models from a recipe to a folder that can be read again."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

import tiny_folder
from tiny_rollout_runs import parsed, run
from tiny_runs import drive, same_weights
from tiny_runs import weights as model_weights
from trimtab.commands.precompute import precompute
from trimtab.common import fingerprint
from trimtab.core import TokenBatch, answer_mask
from trimtab.data.collate import Collator
from trimtab.data.rows import prepare
from trimtab.data.sources import DataError
from trimtab.methods import load
from trimtab.models.loading import load_model
from trimtab.models.scalar_head import with_scalar_head
from trimtab.models.student import keep_layers
from trimtab.runs.folder import RunError
from trimtab.signals.columns import Column
from trimtab.signals.reward_model import load_reward_model

RIGHT = [{**row, "label": i % 3 > 0} for i, row in enumerate(tiny_folder.chat_rows(16))]
STEPS = [
    {
        "prompt": [{"role": "user", "content": f"count {i}"}],
        "completions": [str(j) for j in range(i % 4 + 1)],
        "labels": [j < 2 for j in range(i % 4 + 1)],
    }
    for i in range(16)
]
ROWS = {"pairs": tiny_folder.pair_rows(16), "answers": RIGHT, "steps": STEPS}
KINDS = {
    "q_rm": ("q_rm", {}, "pairs"),
    "ipvrm": ("ipvrm", {}, "answers"),
    "step_prm": ("reward_model", {"kind": "step_prm"}, "steps"),
    "dpo_rm": ("reward_model", {"kind": "dpo_rm", "beta": 0.5}, "pairs"),
    "pgtg": ("reward_model", {"kind": "pgtg"}, "pairs"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    for name, rows in ROWS.items():
        tiny_folder.write_jsonl(folder / f"{name}.jsonl", rows)
    return folder


def tree(files: Path, output: Path, kind: str, **changes) -> dict:
    method, options, rows = KINDS[kind]
    changes = {"eval": {"every": 3, "prompts": []}, **changes}
    data = {"train": str(files / f"{rows}.jsonl"), "heldout": str(files / f"{rows}.jsonl"), "heldout_rows": 6}
    made = tiny_folder.recipe(files, method, output=str(output), options=options, data=data, **changes)
    made["models"] = {"policy": {"from": str(files / "teacher"), "layers": [0, 2]}, **changes.get("models", {})}
    return made


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory) -> dict[str, Path]:
    """Runs of the kinds that are asked for."""
    folder = tmp_path_factory.mktemp("runs")

    class Trained(dict):
        def __missing__(self, kind):
            self[kind] = run(tree(files, folder / kind, kind))
            return self[kind]

    return Trained()


@pytest.mark.fast("step_prm")
@pytest.mark.parametrize("kind", KINDS)
def test_held_out_rows_are_judged_before_and_after_by_what_they_hold(finished, kind):
    events = [json.loads(line) for line in (finished[kind] / "metrics.jsonl").read_text().splitlines()]
    evals = [event for event in events if event["event"] == "eval"]
    assert [event["step"] for event in evals] == [0, 3, 6]
    assert all(event["rows"] == event["tokens"] == 6 for event in evals)
    assert ("brier" in evals[0]) == (kind == "ipvrm")
    assert evals[-1]["reward_loss"] < evals[0]["reward_loss"]
    assert "reward loss" in (finished[kind] / "report.html").read_text()


@pytest.mark.parametrize("kind", KINDS)
def test_the_folder_of_a_run_is_read_again_as_it_was_trained(finished, kind):
    model = load_reward_model(str(finished[kind] / "model"))
    method, _, form = KINDS[kind]
    assert model.spec.method == method
    rows = prepare(ROWS[form][:6], tiny_folder.byte_tokenizer(), max_length=64, pairs=form == "pairs",
                   outcomes=form == "answers", steps=form == "steps").rows  # fmt: skip
    inputs = Collator(0, tiny_folder.VOCAB, columns=("rating",) if form == "steps" else ())(rows)
    scores = model(None, inputs)["token_scores"]

    signals = {"policy": scores, "reference": torch.zeros_like(scores)}
    if form == "answers":
        signals["outcome"] = inputs["outcome"][:, None].expand_as(inputs["labels"])[:, 1:][
            answer_mask(inputs["labels"])
        ]
    if form == "steps":
        signals["rating"] = inputs["rating"][:, 1:][answer_mask(inputs["labels"])]
    batch = TokenBatch.from_labels(inputs["labels"], signals)
    chosen = load(method)
    options = chosen.config.model_validate(KINDS[kind][1])
    given = {name: Column("reference_logprobs", name) for name in chosen.requirements(options).provides}
    objective: Any = chosen.build(options, None, **given).objective
    judged = objective.evaluate(batch, scores)
    samples = [json.loads(line) for line in (finished[kind] / "samples.jsonl").read_text().splitlines()]
    last = [sample for sample in samples if sample["step"] == 6]
    assert judged["objective"].tolist() == pytest.approx([sample["reward_loss"] for sample in last], rel=1e-4, abs=1e-5)
    assert judged["accuracy"].tolist() == [sample["reward_accuracy"] for sample in last]


def test_what_a_value_is_made_of_is_in_the_folder(finished):
    pgtg, dpo_rm, q_rm = (load_reward_model(str(finished[kind] / "model")).spec for kind in ("pgtg", "dpo_rm", "q_rm"))
    assert (pgtg.squash, pgtg.gathered) == (True, "mean")
    assert (dpo_rm.beta, dpo_rm.gathered, dpo_rm.squash) == (0.5, "sum", False)
    assert q_rm.beta == 0.2


def test_the_reference_of_a_cut_down_start_is_named_with_its_layers_and_fingerprint(finished, files):
    reading = load_reward_model(str(finished["ipvrm"] / "model")).spec
    assert reading.reference == {"from": str(files / "teacher"), "layers": [0, 2]}
    assert (reading.source, reading.gathered, reading.beta, reading.outcomes) == ("ratio", "prefix_mean", 10.0, True)
    start = keep_layers(load_model(str(files / "teacher")), [0, 2])
    assert reading.reference_fingerprint == fingerprint.of_model(start)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["q_rm", "ipvrm"])
def test_a_killed_and_resumed_run_ends_with_the_same_weights_to_the_bit(finished, files, tmp_path, kind):
    made = tree(files, tmp_path / "run", kind)
    killed = drive(tmp_path, made, "step:3")
    assert killed.returncode == -9, killed.stderr[-2000:]
    resumed = drive(tmp_path, made, "none", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert same_weights(tmp_path / "run", finished[kind])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("named", [False, True])
def test_what_was_trained_in_half_precision_is_measured_from_its_start(files, tmp_path, dtype, named):
    """The start is rounded in training, and its fingerprint is that of the rounded weights."""
    made = tree(files, tmp_path / "run", "dpo_rm", training={"max_steps": 1})
    made["models"] |= {"dtype": dtype, "lora": {"r": 2, "target_modules": ["q_proj"]}}
    if named:
        made["models"] |= {"reference": str(files / "teacher"), "frozen_dtype": dtype}
    credit = load_reward_model(str(run(made) / "model"))
    assert credit.reference is not None
    (start,) = credit.reference.models
    whole = load_model(str(files / "teacher"), dtype=dtype)
    for name, value in (whole if named else keep_layers(whole, [0, 2])).state_dict().items():
        assert torch.equal(start.state_dict()[name], value.float())


def test_lora_trains_the_head_too_and_leaves_a_folder_that_is_read(files, tmp_path):
    made = tree(files, tmp_path / "run", "q_rm", models={"lora": {"r": 2, "target_modules": ["q_proj"]}})
    folder = run(made)
    before: Any = with_scalar_head(load_model(str(files / "teacher")), seed=0).score
    after: Any = load_reward_model(str(folder / "model")).model.score
    assert not torch.equal(before.weight, after.weight)


@pytest.mark.fast("llama-pissa")
@pytest.mark.parametrize("init", [True, "pissa", "olora"])
@pytest.mark.parametrize("model", ["llama", "llama_tied"])
def test_the_adapter_of_a_reward_model_gives_the_scores_of_its_merged_model(files, tmp_path, model, init):
    base = tiny_folder.save(tmp_path / "base", model)
    lora = {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": init}
    folder = run(tree(files, tmp_path / "run", "q_rm", models={"policy": base, "lora": lora}))
    assert not (folder / "model.part").exists()
    adapter, merged = (load_reward_model(str(folder / name)) for name in ("adapter", "model"))
    assert adapter.spec == merged.spec
    assert adapter.spec.method == "q_rm"
    rows = prepare(ROWS["pairs"][:4], tiny_folder.byte_tokenizer(), max_length=64, pairs=True).rows
    one, other = (of(None, Collator(0, tiny_folder.VOCAB)(rows))["token_scores"] for of in (adapter, merged))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-4)
    assert one.std() > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize("out", [None, ["k_proj"], ".*k_proj"])
def test_adapters_in_all_linear_layers_leave_the_head_that_is_trained_whole(files, tmp_path, out):
    lora = {"r": 2, "target_modules": "all-linear", "exclude_modules": out}
    folder = run(tree(files, tmp_path / "run", "q_rm", models={"lora": lora}))
    names = set(load_file(folder / "adapter/adapter_model.safetensors"))
    head = {name for name in names if "score" in name}
    assert {"base_model.model.score.weight"} <= head <= {f"base_model.model.score.{own}" for own in ("weight", "bias")}
    assert any("k_proj" in name for name in names) == (out is None)
    assert any("q_proj" in name for name in names)
    load_reward_model(str(folder / "model"))


@pytest.mark.parametrize(
    "changes", [{"kl_to_initial": True}, {"prompts": ["hello"]}, {"suites": {"geomrel": {"limit": 1}}}]
)
def test_a_reward_model_is_asked_nothing(files, tmp_path, changes):
    (name,) = changes
    with pytest.raises(RunError, match=f"eval.{name}: q_rm trains a reward model"):
        run(tree(files, tmp_path / "run", "q_rm", eval={"every": 3, "prompts": [], **changes}))
    assert not (tmp_path / "run").exists()


def notes(folder: Path) -> list[str]:
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [event["text"] for event in events if event["event"] == "note"]


def test_answers_without_their_end_are_said_with_their_share(finished, files, tmp_path):
    assert not notes(finished["q_rm"])
    made = tree(files, tmp_path / "run", "ipvrm", training={"max_steps": 1, "max_length": 18})
    made["data"]["max_dropped"] = 1.0
    (said,) = notes(run(made))
    assert "of the rows hold an answer without its end token" in said
    assert not said.startswith("0.0%")


@pytest.mark.slow
def test_a_reference_that_training_does_not_start_from_is_said_and_kept_in_the_file(files, tmp_path):
    made = tree(files, tmp_path / "run", "ipvrm", training={"max_steps": 1})
    made["models"]["reference"] = str(files / "teacher")
    (said,) = notes(run(made))
    assert "values do not start at 0" in said
    assert load_reward_model(str(tmp_path / "run" / "model")).spec.reference == str(files / "teacher")


@pytest.mark.slow
def test_stored_log_probabilities_stand_in_for_the_reference(finished, files, tmp_path):
    made = tree(files, tmp_path / "run", "ipvrm")
    for which in ("train", "heldout"):
        once = {**made, "data": {"train": made["data"][which]}}
        precompute(parsed(once), tmp_path / f"{which}.jsonl", command="test", console=Console(quiet=True))
    made["models"]["reference"] = "column"
    with pytest.raises(DataError, match="answers.jsonl: there is no .*; "):
        run(made)
    made["data"] |= {which: str(tmp_path / f"{which}.jsonl") for which in ("train", "heldout")}
    folder = run(made)
    live, stored = (model_weights(place) for place in (finished["ipvrm"], folder))
    for name, value in live.items():
        torch.testing.assert_close(stored[name], value, rtol=1e-3, atol=1e-4)
    assert load_reward_model(str(folder / "model")).spec.reference == {
        "from": str(files / "teacher"),
        "layers": [0, 2],
    }
