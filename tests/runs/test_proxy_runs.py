"""Proxy-KD by recipe: estimates, checks before anything is written, and all stages in one run."""

import json
import math

import pytest
from rich.console import Console
from safetensors import safe_open

import tiny_folder
from tiny_runs import cut_off, events, same_weights
from trimtab.runs.estimate import estimates
from trimtab.runs.parse import load_recipe, parse
from trimtab.runs.recipe import RecipeError
from trimtab.runs.run import run, run_stages
from trimtab.train.sampled_pairs import SampledPairsError

QUIET = Console(quiet=True)
LORA = {"r": 2, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    tiny_folder.save(folder / "a", seed=3)
    tiny_folder.write_jsonl(folder / "answers.jsonl", tiny_folder.chat_rows(9))
    return folder


def tree(files, output, method="proxy_align", **changes) -> dict:
    training = {"max_steps": 3, "per_device_train_batch_size": 2, "learning_rate": 0.01, "max_length": 64}
    return {
        "method": method,
        "models": {"policy": str(files / "a")},
        "data": {"train": str(files / "answers.jsonl")},
        "training": training,
        "eval": {"prompts": []},
        "output": str(output),
        **changes,
    }


@pytest.mark.fast("whole")
@pytest.mark.parametrize("lora", [None, LORA], ids=["whole", "with adapters"])
def test_one_command_warms_up_aligns_and_teaches(files, tmp_path, lora):
    one = tree(files, tmp_path / "all")
    del one["method"]
    del one["models"]
    policy, adapted = str(files / "a"), {"lora": lora} if lora else {}
    one["data"]["train"] += "[55%:]"
    one["stages"] = [
        {
            "name": "warmup",
            "method": "sft",
            "models": {"policy": policy, **adapted},
            "data": {"train": f"{files / 'answers.jsonl'}[:10%]"},
        },
        {
            "name": "align",
            "method": "proxy_align",
            "models": {"policy": "@warmup", **adapted},
            "data": {"train": f"{files / 'answers.jsonl'}[10%:55%]"},
            "options": {"round_updates": 2, "max_new_tokens": 6},
        },
        {
            "name": "store",
            "method": "proxy_kd",
            "precompute": "hidden",
            "models": {"student": policy, "teacher": "@align"},
        },
        {"name": "student", "method": "proxy_kd", "models": {"student": policy, "teacher": "cache:@store"}},
        {"name": "live", "method": "proxy_kd", "models": {"student": policy, "teacher": "@align"}},
    ]
    parsed = parse(one, "test", "run")
    assert len(estimates(parsed)) == 4
    result = run_stages(parsed, console=QUIET)
    assert result.report.is_file()
    signatures = {name: (tmp_path / "all" / name / "signature.txt").read_text() for name in ("align", "student")}
    assert "answers.jsonl[10%:55%] " in signatures["align"]
    assert "answers.jsonl[55%:] " in signatures["student"]
    for name, metric in (("align", "dropped_pairs"), ("student", "weighted_divergence")):
        assert any(metric in event for event in events(tmp_path / "all" / name, "train")), name
    stored, live = (events(tmp_path / "all" / name, "train") for name in ("student", "live"))
    assert len(stored) == len(live) > 0
    for one, other in zip(stored, live):
        for metric in ("loss", "divergence", "weight", "weighted_divergence", "grad_norm"):
            assert one[metric] == pytest.approx(other[metric], rel=1e-4, abs=1e-5), metric
    for name in ("warmup", "align"):
        assert (tmp_path / "all" / name / "adapter").is_dir() == bool(lora)
        with safe_open(tmp_path / "all" / name / "model" / "model.safetensors", "pt") as saved:  # merged
            assert not any("lora" in key for key in saved.keys())  # noqa: SIM118


@pytest.mark.fast("whole")
@pytest.mark.parametrize("lora", [None, {**LORA, "lora_dropout": 0.1}], ids=["whole", "with adapters"])
def test_a_round_begins_at_its_own_reference_and_a_run_goes_on_within_it_to_the_bit(files, tmp_path, lora):
    one = tree(files, tmp_path / "run", options={"round_updates": 2, "max_new_tokens": 6})
    one["training"] |= {"max_steps": 4, "save_steps": 1}
    one["models"] |= {"lora": lora} if lora else {}
    whole = run(parse(one, "test", "run"), console=QUIET).folder
    dpo = [event["dpo"] for event in events(whole, "train")]
    assert dpo[0] == dpo[2] == pytest.approx(math.log(2), abs=1e-6)
    assert all(abs(value - math.log(2)) > 1e-4 for value in (dpo[1], dpo[3]))
    cut_off(whole, tmp_path / "cut", 1)
    again = run(parse({**one, "output": str(tmp_path / "cut")}, "test", "run"), resume=True, console=QUIET).folder
    assert same_weights(whole, again)


@pytest.mark.slow
def test_the_initial_policy_may_be_the_reference(files, tmp_path):
    options = {"reference": "initial", "round_updates": 1, "max_new_tokens": 6}
    run(parse(tree(files, tmp_path / "run", options=options), "test", "run"), console=QUIET)
    assert (tmp_path / "run" / "model").is_dir()


def test_what_cannot_be_sampled_for_is_refused_and_nothing_is_written(files, tmp_path):
    one = tree(files, tmp_path / "run")
    one["training"] |= {"packing": True}
    with pytest.raises(SampledPairsError, match="leave it out"):
        run(parse(one, "test", "run"), console=QUIET)
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
    several = tiny_folder.write_jsonl(tmp_path / "turns.jsonl", [{"messages": turns}] * 3)
    with pytest.raises(SampledPairsError, match="training row 1 has 2 answers"):
        run(parse(tree(files, tmp_path / "run", data={"train": str(several)}), "test", "run"), console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_estimate_counts_the_round_s_beginning_and_what_is_sampled():
    align = estimates(load_recipe("tiny_proxy_align"))[-1]
    names = [part.name for part in align.parts]
    assert "snapshot of trained weights" in names
    assert "KV cache of 32 sampled answers" in names


def test_steps_that_sample_are_not_timed_beforehand(files, trimtab, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(json.dumps(tree(files, tmp_path / "run", options={"max_new_tokens": 6})))
    status, said, err = trimtab("train", path, "--dry-run", "--time")
    assert status == 0, err
    assert "not measured: proxy_align writes completions" in said
    with pytest.raises(RecipeError, match="leave out minutes"):
        parse(tree(files, tmp_path / "run", minutes=1), "test", "run")
