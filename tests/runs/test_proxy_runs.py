"""Proxy-KD by recipe: estimates, checks before anything is written, and all stages in one run."""

import json

import pytest
from rich.console import Console

import tiny_folder
from tiny_runs import events
from trimtab.runs.estimate import estimates
from trimtab.runs.parse import load_recipe, parse
from trimtab.runs.recipe import RecipeError
from trimtab.runs.run import run, run_stages
from trimtab.train.sampled_pairs import SampledPairsError

QUIET = Console(quiet=True)


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


def test_one_command_warms_up_aligns_and_teaches(files, tmp_path):
    one = tree(files, tmp_path / "all")
    del one["method"]
    del one["models"]
    policy = str(files / "a")
    one["stages"] = [
        {"name": "warmup", "method": "sft", "models": {"policy": policy}},
        {
            "name": "align",
            "method": "proxy_align",
            "models": {"policy": "@warmup"},
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
    result = run_stages(parse(one, "test", "run"), console=QUIET)
    assert result.report.is_file()
    for name, metric in (("align", "dropped_pairs"), ("student", "weighted_divergence")):
        assert any(metric in event for event in events(tmp_path / "all" / name, "train")), name
    stored, live = (events(tmp_path / "all" / name, "train") for name in ("student", "live"))
    assert len(stored) == len(live) > 0
    for one, other in zip(stored, live):
        for metric in ("loss", "divergence", "weight", "weighted_divergence", "grad_norm"):
            assert one[metric] == pytest.approx(other[metric], rel=1e-4, abs=1e-5), metric


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
