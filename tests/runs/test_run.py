"""From a recipe to a run folder: what is written, what is refused, what continues."""

import json
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
import tiny_folder
from tiny_runs import QUIET, drive, driving, events, recipe, same_weights, weights
from trimtab import report
from trimtab.common.locks import writing
from trimtab.models import loading
from trimtab.runs import run as runs
from trimtab.runs.budget import seconds_per_step
from trimtab.runs.folder import RunError, check_folder
from trimtab.runs.job import load_job
from trimtab.runs.parse import parse
from trimtab.runs.policy import Shared, make_policy
from trimtab.runs.run import run, run_stages
from trimtab.signals.row_store import RowStore
from trimtab.train import checkpoints
from trimtab.train.checkpoints import CheckpointError


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def finished(files) -> Path:
    return run(recipe(files, files / "finished"), console=QUIET).folder


def test_a_run_folder_holds_what_the_contract_says(finished):
    found = {path.name for path in finished.iterdir()}
    assert found == {
        "recipe.yaml", "signature.txt", "metrics.jsonl", "samples.jsonl", "model", "checkpoints", "report.html"
    }  # fmt: skip
    assert not list(finished.glob("**/*.part"))
    assert [e["step"] for e in events(finished, "eval")] == [0, 3, 6]
    assert [e["step"] for e in events(finished, "train")] == [1, 2, 3, 4, 5, 6]
    assert events(finished, "finished")[0]["step"] == 6


def test_the_signature_names_what_the_result_depends_on(finished):
    text = (finished / "signature.txt").read_text()
    for key in (
        "method: hpd",
        "options:",
        "seed: 0",
        "policy:",
        "teacher:",
        "chat template:",
        "dtype:",
        "versions:",
        "hardware:",
    ):
        assert key in text, key


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True])
def test_a_policy_in_bfloat16_learns_at_a_small_rate_and_is_saved_in_bfloat16(files, tmp_path, mixed):
    """Its last checkpoint holds what was learnt, and the folder is that, rounded once."""
    made = recipe(
        files, tmp_path / "run", models={"dtype": "bfloat16"},
        training={"learning_rate": 1e-5, "lr_scheduler_type": "constant", "bf16": mixed, "use_cpu": True},
    )  # fmt: skip
    start: Any = dict(make_policy(made, Shared()).named_parameters())
    folder = run(made, console=QUIET).folder
    assert "trainable weights are kept in float32" in (folder / "metrics.jsonl").read_text()
    stored = load_file(folder / "checkpoints" / "checkpoint-6" / "model.safetensors")
    saved = load_file(folder / "model" / "model.safetensors")
    assert {value.dtype for value in stored.values()} == {torch.float32}
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    moved = torch.cat([(value - start[name].float()).flatten() for name, value in stored.items()])
    assert (moved.abs() > 3e-5).float().mean() > 0.2  # of six steps of 1e-5
    assert all(torch.equal(value.bfloat16(), saved[name]) for name, value in stored.items())
    assert AutoModelForCausalLM.from_pretrained(folder / "model").dtype == torch.bfloat16


def test_the_trained_model_is_an_ordinary_folder_with_fewer_layers_and_a_card(finished, files):
    model = AutoModelForCausalLM.from_pretrained(finished / "model")
    assert model.config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(finished / "model").chat_template == tiny_folder.TEMPLATE
    assert "hpd" in (finished / "model" / "README.md").read_text()
    assert not list((finished / "model").glob("*.bin"))


@pytest.mark.parametrize(("dtype", "frozen"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_student_is_rounded_to_its_own_dtype_and_not_to_its_teachers(files, tmp_path, dtype, frozen):
    made = recipe(files, tmp_path / "run", models={"dtype": dtype, "frozen_dtype": frozen})
    student: Any = make_policy(made, Shared())
    teacher: Any = loading.load_model(str(files / "teacher"), dtype=dtype)
    assert torch.equal(student.get_input_embeddings().weight, teacher.get_input_embeddings().weight)
    assert torch.equal(student.model.rotary_emb.inv_freq, teacher.model.rotary_emb.inv_freq)


def test_training_moved_the_student_towards_its_teacher(files, tmp_path):
    folder = run(
        recipe(files, tmp_path / "kd", "kd", training={"max_steps": 40, "learning_rate": 0.01, "save_steps": 40}),
        console=QUIET,
    ).folder
    first, *_, last = events(folder, "eval")
    assert last["forward_kl"] < 0.5 * first["forward_kl"]


def test_the_same_recipe_gives_the_same_weights_to_the_bit(finished, files, tmp_path):
    assert same_weights(run(recipe(files, tmp_path / "again"), console=QUIET).folder, finished)


@pytest.mark.slow
def test_another_seed_gives_other_weights(finished, files, tmp_path):
    assert not same_weights(run(recipe(files, tmp_path / "other", seed=1), console=QUIET).folder, finished)


@pytest.mark.slow
def test_remembered_frozen_states_change_nothing_but_rounding(finished, files, tmp_path):
    folders = {}
    for where in ("memory", "disk"):
        tree = tiny_folder.recipe(files, output=str(tmp_path / where))
        tree["models"]["teacher_cache"] = where
        folders[where] = run(parse(tree, "test", "run"), console=QUIET).folder
    assert tiny.relative_error(weights(folders["memory"]), weights(finished)) < 1e-3
    assert same_weights(folders["memory"], folders["disk"])
    kept = RowStore(folders["disk"] / "teacher_cache" / "teacher-distribution")
    assert len(kept) > 0


def test_a_cache_that_is_off_is_said_as_yaml_reads_it(files, tmp_path):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "run"))
    tree["models"]["teacher_cache"] = yaml.safe_load("off")
    assert parse(tree, "test", "run").models.teacher_cache == "off"


def test_held_out_rows_are_stored_one_by_one_before_and_after(finished):
    loaded = report.load(finished)
    assert set(loaded.heldout) == {0, 6}
    total = sum(row["tokens"] for row in loaded.heldout[6].values())
    nll = sum(row["nll"] for row in loaded.heldout[6].values()) / total
    assert nll == pytest.approx(loaded.evals[-1]["nll"])
    assert [len(g) for g in loaded.generations.values()] == [1, 1]


def test_drift_is_nothing_at_the_start_and_answers_have_a_length_before_and_after(files, tmp_path):
    made = recipe(files, tmp_path / "run", "sft", eval={"kl_to_initial": True, "max_new_tokens": 3})
    first, middle, last = events(run(made, console=QUIET).folder, "eval")
    assert first["kl_to_initial"] == pytest.approx(0, abs=1e-6)
    assert last["kl_to_initial"] > 0.01
    assert 0 <= first["answer_length"] <= 3
    assert "answer_length" in last
    assert "answer_length" not in middle


def test_answers_have_a_length_without_held_out_rows_too(files, tmp_path):
    folder = run(recipe(files, tmp_path / "run", "sft", data={"heldout": None}), console=QUIET).folder
    assert [event.keys() - {"event", "step", "time"} for event in events(folder, "eval")] == [{"answer_length"}] * 2


def test_held_out_measures_are_those_of_the_answers_whatever_training_reads(finished, files, tmp_path):
    models = {"student": str(files / "teacher"), "reference": str(files / "teacher"), "aligned": str(files / "teacher")}
    made = recipe(files, tmp_path / "run", "trra", models=models, options={"mask": "all"})
    assert events(run(made, console=QUIET).folder, "eval")[0]["tokens"] == events(finished, "eval")[0]["tokens"]


def test_a_finished_run_is_refused_and_resuming_it_is_no_work(finished, files):
    with pytest.raises(RunError, match="holds this run, finished"):
        run(recipe(files, finished), console=QUIET)
    stamp = (finished / "model" / "model.safetensors").stat().st_mtime_ns
    assert run(recipe(files, finished), resume=True, console=QUIET).report == finished / "report.html"
    assert (finished / "model" / "model.safetensors").stat().st_mtime_ns == stamp


def test_a_run_folder_of_another_recipe_is_refused_with_the_difference(finished, files):
    with pytest.raises(RunError, match=r"seed is 0 there and 7 here\); choose another output"):
        run(recipe(files, finished, seed=7), resume=True, console=QUIET)


def test_a_run_that_is_alive_is_neither_begun_nor_gone_on_with_by_a_second_process(finished, files, tmp_path):
    folder = unfinished(finished, tmp_path / "run")
    made = recipe(files, folder)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with writing(folder, "another run", "wait"):
        for resume in (False, True):
            with pytest.raises(RunError, match=rf"is being written by .*process {os.getpid()} on ") as raised:
                run(made, resume=resume, console=QUIET)
            assert "--resume" not in str(raised.value)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert same_weights(run(made, resume=True, console=QUIET).folder, finished)


def test_a_later_process_of_one_launch_does_not_trip_over_what_the_first_one_has_begun(finished, files, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    assert check_folder(finished, recipe(files, finished), resume=False) is None
    assert check_folder(finished, recipe(files, finished), resume=True) == "finished"


def test_of_two_processes_that_begin_the_same_run_at_once_one_is_refused_and_leaves_nothing(files, tmp_path):
    made = recipe(files, tmp_path / "run", training={"max_steps": 2})
    (tmp_path / "run").mkdir()
    with writing(tmp_path / "run", "another run", "wait"), pytest.raises(RunError, match="is being written by another"):
        run(made, console=QUIET)
    assert list((tmp_path / "run").iterdir()) == []
    run(made, console=QUIET)
    stamp = (tmp_path / "run" / "metrics.jsonl").read_bytes()
    with pytest.raises(RunError, match="holds this run, finished"):
        run(made, console=QUIET)
    assert (tmp_path / "run" / "metrics.jsonl").read_bytes() == stamp


def test_a_run_that_fails_before_it_has_begun_leaves_no_folder(files, tmp_path, monkeypatch):
    def fails(*args, **kwargs):
        raise ValueError("no")

    monkeypatch.setattr(runs, "_start", fails)
    with pytest.raises(ValueError, match="no"):
        run(recipe(files, tmp_path / "run"), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_folder_that_is_no_run_folder_is_refused_and_left_alone(files, tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(RunError, match="exists and is not a run folder"):
        run(recipe(files, tmp_path), console=QUIET)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_there_must_be_something_to_resume(files, tmp_path):
    with pytest.raises(RunError, match="to resume; leave out --resume"):
        run(recipe(files, tmp_path / "none"), resume=True, console=QUIET)


def _broken(files: Path, tmp_path: Path, kind: str) -> dict:
    """Changes to a recipe that are noticed only when data and models are looked at."""
    rows = tiny_folder.chat_rows(4)
    path = tmp_path / "rows.jsonl"
    if kind == "missing file":
        return {"data": {"train": str(tmp_path / "nowhere.jsonl")}}
    if kind == "malformed line":
        path.write_text(json.dumps(rows[0]) + "\n{oops\n")
    elif kind == "no answer":
        tiny_folder.write_jsonl(path, [*rows, {"messages": [{"role": "user", "content": "?"}]}])
    elif kind == "all masked":
        tiny_folder.write_jsonl(path, [{"messages": [{"role": "user", "content": "?"}]}])
    elif kind == "long prompt":
        tiny_folder.write_jsonl(path, [*rows, {"prompt": "x" * 99, "completion": "y"}])
    elif kind == "other tokenizer":
        folder = tmp_path / "other"
        tiny_folder.save(folder)
        tokenizer = tiny.tokenizer(["<unk>", *map(str, range(tiny_folder.VOCAB - 1))])
        tokenizer.eos_token = "<unk>"
        tokenizer.save_pretrained(folder)
        return {"models": {"student": str(folder)}}
    elif kind == "missing model":
        return {"models": {"student": str(tmp_path / "nowhere" / "at" / "all")}}
    elif kind == "hub without network":
        return {"models": {"student": "someone/something"}}
    return {"data": {"train": str(path)}}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing file", "there is no file"),
        ("malformed line", "line 2 is not valid JSON"),
        ("no answer", r"1 of 5 rows would be dropped or truncated: 1 without an answer \(first: row 5\)"),
        ("all masked", "no row is left of 1"),
        ("long prompt", r"1 whose prompt alone fills the limit \(first: row 5\)"),
        ("other tokenizer", "policy and teacher have different tokenizers"),
        ("missing model", "there is no folder"),
        ("hub without network", "could not load the model 'someone/something'"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(files, tmp_path, kind, message):
    broken = recipe(files, tmp_path / "out", **_broken(files, tmp_path, kind))
    with pytest.raises(ValueError, match=message) as raised:
        run(broken, console=QUIET)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_policy_with_a_padded_vocabulary_is_cropped_with_a_message_and_trains(files, tmp_path):
    tiny_folder.save(tmp_path / "wide", seed=4, vocab_size=tiny_folder.VOCAB + 5)
    made = recipe(files, tmp_path / "out", models={"student": str(tmp_path / "wide")})
    folder = run(made, console=QUIET).folder
    (note,) = events(folder, "note")
    assert "cropped to 259" in note["text"]
    assert weights(folder)["model.embed_tokens.weight"].shape[0] == tiny_folder.VOCAB + 5


def test_lora_trains_adapters_alone_and_leaves_a_merged_model_and_the_adapter(files, tmp_path):
    lora = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
    folder = run(recipe(files, tmp_path / "out", models={"lora": lora}), console=QUIET).folder
    assert (folder / "adapter" / "adapter_config.json").is_file()
    AutoModelForCausalLM.from_pretrained(folder / "model")
    teacher = load_file(files / "teacher" / "model.safetensors")
    trained = weights(folder)
    changed = {
        name for name in trained if not torch.equal(trained[name], teacher[name.replace("layers.1", "layers.2")])
    }
    assert changed
    assert all(name.split(".")[-2] in ("q_proj", "v_proj") for name in changed)


def test_lora_settings_that_peft_does_not_take_are_named(files, tmp_path):
    with pytest.raises(ValueError, match=r"models\.lora: .*rank"):
        run(recipe(files, tmp_path / "out", models={"lora": {"rank": 2}}), console=QUIET)


def test_stages_run_in_order_share_the_teacher_and_are_compared(files, tmp_path):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "both"))
    del tree["method"]
    tree["stages"] = [{"method": "sft"}, {"method": "kd", "models": {"student": "@sft"}}]
    result = run_stages(parse(tree, "test", "both"), console=QUIET)
    assert result.report == tmp_path / "both" / "comparison.html"
    first = events(tmp_path / "both" / "sft", "eval")[-1]
    second = events(tmp_path / "both" / "kd", "eval")[0]
    assert second["nll"] == pytest.approx(first["nll"])


@pytest.mark.slow  # the drawing itself is tested in tests/report
def test_stages_that_differ_in_one_number_are_drawn_against_it(files, tmp_path):
    teacher = str(files / "teacher")
    tree = tiny_folder.recipe(files, output=str(tmp_path / "sweep"), training={"max_steps": 1})
    del tree["method"], tree["models"]
    trra = {"method": "trra", "models": {"policy": teacher, "reference": teacher, "aligned": "@brief"}}
    strengths = [{**trra, "name": f"s{i}", "options": {"strength": value}} for i, value in enumerate((2, 0.5))]
    tree["stages"] = [{"name": "brief", "method": "sft", "models": {"policy": teacher}}, *strengths]
    page = run_stages(parse(tree, "test", "sweep"), console=QUIET).report.read_text()
    assert "Against strength" in page
    assert page.index("s1: strength 0.5 (step 1)") < page.index("s0: strength 2 (step 1)")


@pytest.mark.slow
def test_a_budget_of_minutes_lowers_the_steps_and_says_so(files, tmp_path):
    made = recipe(files, tmp_path / "out", training={"max_steps": 1000000}, minutes=0.02)
    folder = run(made, console=QUIET).folder
    (note,) = events(folder, "note")
    steps = events(folder, "finished")[0]["step"]
    assert f"training {steps} steps" in note["text"]
    assert "max_steps: 1000000" not in (folder / "recipe.yaml").read_text()
    made = recipe(files, tmp_path / "out", training={"max_steps": 1000000}, minutes=0.02)
    assert run(made, resume=True, console=QUIET).folder == folder


@pytest.mark.slow  # measures its speed
def test_an_epoch_in_windows_is_as_long_with_a_budget_of_minutes_as_without(files, tmp_path):
    changes = {**PSFT, "training": {"max_steps": -1, "num_train_epochs": 2}, "eval": {"every": None, "prompts": []}}
    asked = run(recipe(files, tmp_path / "asked", "psft", **changes), console=QUIET).folder
    fitted = run(recipe(files, tmp_path / "fitted", "psft", **changes, minutes=9), console=QUIET).folder
    assert events(fitted, "finished")[0]["step"] == events(asked, "finished")[0]["step"] == 12


def test_measuring_the_speed_leaves_the_weights_alone(files, tmp_path):
    job = load_job(recipe(files, tmp_path / "out"), Shared(), QUIET)
    before = {name: value.clone() for name, value in job.policy.state_dict().items()}
    assert seconds_per_step(job) > 0
    assert all(torch.equal(value, before[name]) for name, value in job.policy.state_dict().items())
    assert all(p.grad is None for p in job.policy.parameters())


@pytest.mark.fast("step:3")
@pytest.mark.parametrize("what", ["step:3", "save:4", "final"])
def test_a_killed_and_resumed_run_ends_with_the_same_weights_to_the_bit(finished, files, tmp_path, what):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "run"))
    killed = drive(tmp_path, tree, what)
    assert killed.returncode == -9, killed.stderr[-2000:]
    resumed = drive(tmp_path, tree, "none", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert same_weights(tmp_path / "run", finished)
    loaded = report.load(tmp_path / "run")
    assert [event["step"] for event in loaded.train] == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in loaded.evals] == [0, 3, 6]
    assert set(loaded.heldout) == {0, 6}


@pytest.mark.slow  # three runs
def test_a_run_in_bfloat16_is_resumed_to_the_bit(files, tmp_path):
    changes = {"models": {"dtype": "bfloat16"}, "training": {"learning_rate": 1e-4}}
    whole = run(recipe(files, tmp_path / "whole", **changes), console=QUIET).folder
    tree = tiny_folder.recipe(files, output=str(tmp_path / "run"), **changes)
    assert drive(tmp_path, tree, "step:3").returncode == -9
    assert drive(tmp_path, tree, "none", "--resume").returncode == 0
    assert same_weights(tmp_path / "run", whole)


PSFT = {"options": {"epsilon": 0.1, "refresh": 3, "inner_epochs": 2}, "training": {"max_steps": 11}}
"""Windows of 6 updates, the second cut off; one window is an epoch, because 16 rows fill no second one."""


@pytest.fixture(scope="module")
def in_windows(files) -> Path:
    return run(recipe(files, files / "in_windows", "psft", **PSFT), console=QUIET).folder


@pytest.mark.slow  # three runs; the stops of `train/test_resume.py` are in windows too, and fast
@pytest.mark.parametrize("what", ["step:5", "step:9"])
def test_a_run_in_windows_that_is_killed_goes_on_with_its_snapshot_and_its_rows(in_windows, files, tmp_path, what):
    tree = tiny_folder.recipe(files, "psft", output=str(tmp_path / "run"), **PSFT)
    assert drive(tmp_path, tree, what).returncode == -9
    resumed = drive(tmp_path, tree, "none", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert same_weights(tmp_path / "run", in_windows)
    once, twice = report.load(in_windows), report.load(tmp_path / "run")
    for key in ("ratio", "clip_fraction", "nll"):
        assert [event[key] for event in once.train] == [event[key] for event in twice.train], key
    assert events(tmp_path / "run", "table")[-1]["rows"] == events(in_windows, "table")[0]["rows"]


@pytest.mark.slow
def test_the_ratio_is_1_where_a_window_begins_and_only_there(in_windows):
    apart = [abs(event["ratio"] - 1) for event in events(in_windows, "train")]
    assert [step for step, distance in enumerate(apart) if distance == 0] == [0, 6]
    assert all(distance > 1e-4 for step, distance in enumerate(apart) if step not in (0, 6))
    assert any(event["clip_fraction"] > 0 for event in events(in_windows, "train"))
    assert events(in_windows, "table")[0]["rows"]


@pytest.mark.slow
def test_a_line_torn_by_a_kill_is_dropped_when_the_run_goes_on(finished, files, tmp_path):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "run"))
    assert drive(tmp_path, tree, "log:5").returncode == -9
    resumed = drive(tmp_path, tree, "none", "--resume")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert all(json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert same_weights(tmp_path / "run", finished)


def test_ctrl_c_saves_after_the_step_says_how_to_go_on_and_loses_nothing(finished, files, tmp_path):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "run"))
    stopped = drive(tmp_path, tree, "interrupt:2")
    assert stopped.returncode == 130, stopped.stderr[-2000:]
    again = f"continue with: trimtab train {tmp_path}/run/recipe.yaml --resume"
    assert f"stopped after step 3; kept: {tmp_path}/run/checkpoints/checkpoint-3; {again}\n" in stopped.stdout
    assert events(tmp_path / "run", "interrupted")[0]["step"] == 3
    with pytest.raises(RunError, match="add --resume to continue"):
        run(parse(tree, "test", "run"), console=QUIET)
    assert drive(tmp_path, tree, "none", "--resume").returncode == 0
    assert same_weights(tmp_path / "run", finished)


@pytest.mark.slow
def test_kills_at_random_times_change_nothing(finished, files, tmp_path):
    """Not at places that somebody thought of: after a random share of the seconds that a whole run takes."""
    tree = tiny_folder.recipe(files, output=str(tmp_path / "whole"), training={"save_steps": 1})
    start = time.perf_counter()
    assert drive(tmp_path, tree, "none").returncode == 0
    seconds = time.perf_counter() - start
    tree["output"] = str(tmp_path / "run")
    seed = int(os.environ.get("TRIMTAB_TEST_SEED", time.time()))
    print(f"TRIMTAB_TEST_SEED={seed}")
    generator, killed = random.Random(seed), 0
    for _ in range(8):
        flags = ["--resume"] if (tmp_path / "run" / "recipe.yaml").exists() else []
        command = driving(tmp_path, tree, "none", *flags)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, errors = process.communicate(timeout=generator.uniform(0.3, 1.0) * seconds)
            assert process.returncode == 0, errors[-2000:]
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
    assert killed > 0
    last = drive(tmp_path, tree, "none", *(["--resume"] if (tmp_path / "run").exists() else []))
    assert last.returncode == 0, last.stderr[-2000:]
    assert same_weights(tmp_path / "run", tmp_path / "whole")
    assert same_weights(tmp_path / "run", finished)
    assert [event["step"] for event in report.load(tmp_path / "run").train] == [1, 2, 3, 4, 5, 6]


def unfinished(finished: Path, folder: Path) -> Path:
    """A copy of a finished run as it was after its checkpoint of step 4."""
    shutil.copytree(finished, folder)
    shutil.rmtree(folder / "checkpoints" / "checkpoint-6")
    (folder / "report.html").unlink()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["event"] != "finished"]
    (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in kept))
    text = (folder / "recipe.yaml").read_text().replace(str(finished), str(folder))
    (folder / "recipe.yaml").write_text(text)
    return folder


def test_a_resume_with_other_rows_or_another_teacher_is_refused_by_name(finished, files, tmp_path):
    folder = unfinished(finished, tmp_path / "run")
    kept = (files / "train.jsonl").read_bytes()
    try:
        tiny_folder.write_jsonl(files / "train.jsonl", tiny_folder.chat_rows(40, start=300))
        with pytest.raises(RunError, match="cannot be resumed: it was started with different training data .* there, "):
            run(recipe(files, folder), resume=True, console=QUIET)
    finally:
        (files / "train.jsonl").write_bytes(kept)
    weights_file = files / "teacher" / "model.safetensors"
    kept = weights_file.read_bytes()
    try:
        tiny_folder.save(files / "teacher", seed=5)
        with pytest.raises(
            RunError, match="cannot be resumed: it was started with a different (policy|teacher) .* there, "
        ):
            run(recipe(files, folder), resume=True, console=QUIET)
    finally:
        weights_file.write_bytes(kept)


def test_a_resume_without_a_signature_says_that_it_is_missing(finished, files, tmp_path):
    folder = unfinished(finished, tmp_path / "run")
    (folder / "signature.txt").unlink()
    with pytest.raises(RunError, match="signature.txt is missing, which is needed to check"):
        run(recipe(files, folder), resume=True, console=QUIET)


@pytest.mark.slow
def test_a_resume_logs_the_same_numbers_between_two_logs(files, tmp_path):
    changes = {"training": {"logging_steps": 4, "save_steps": 3, "max_steps": 8}}
    whole = run(recipe(files, tmp_path / "whole", **changes), console=QUIET).folder
    tree = tiny_folder.recipe(files, output=str(tmp_path / "run"), **changes)
    assert drive(tmp_path, tree, "step:3").returncode == -9
    assert drive(tmp_path, tree, "none", "--resume").returncode == 0
    kept = ("step", "answer_tokens", "nll")
    one, other = ([{k: e[k] for k in kept} for e in report.load(f).train] for f in (whole, tmp_path / "run"))
    assert one == other
    assert events(tmp_path / "run", "finished")[0]["tokens"] == events(whole, "finished")[0]["tokens"]


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_recipe_was_written_starts_afresh(finished, files, tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "signature.txt").write_text("method: hpd\n")
    (folder / "metrics.jsonl").write_text('{"event": "start", "step": 0}\n')
    run(recipe(files, folder), console=QUIET)
    assert same_weights(folder, finished)
    assert len(events(folder, "start")) == 1


def test_a_recipe_that_is_torn_or_foreign_is_named(files, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    for text in ("a: [1,", "just: this"):
        (folder / "recipe.yaml").write_text(text)
        with pytest.raises(RunError, match="is not the recipe of a run"):
            run(recipe(files, folder), console=QUIET)


def test_a_mistake_in_the_last_stage_costs_nothing(files, tmp_path):
    tree = tiny_folder.recipe(files, output=str(tmp_path / "both"))
    del tree["method"]
    tree["stages"] = [{"method": "sft"}, {"method": "kd", "data": {"train": str(files / "missing.jsonl")}}]
    with pytest.raises(ValueError, match="there is no file"):
        run_stages(parse(tree, "test", "both"), console=QUIET)
    assert not (tmp_path / "both").exists()


def test_a_row_that_a_frozen_model_cannot_read_is_named_before_anything_is_written(files, tmp_path):
    short = tiny_folder.save(tmp_path / "short", vocab_size=3 + 100)
    rows = [{"prompt": "a", "completion": "b"}, {"prompt": "a", "completion": "\u00e9"}]
    data = {"train": tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows), "heldout": None}
    models = {"student": str(files / "teacher"), "teacher": short}
    with pytest.raises(ValueError, match="row 2 holds the token id [0-9]+, not in the teacher's vocabulary .103."):
        run(recipe(files, tmp_path / "run", models=models, data=data), console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_checkpoint_that_lost_a_file_is_not_gone_on_from(files, tmp_path):
    changes = {"training": {"max_steps": 4, "save_steps": 1, "save_total_limit": 3}}
    whole = run(recipe(files, tmp_path / "whole", **changes), console=QUIET).folder
    folder = tmp_path / "run"
    tree = tiny_folder.recipe(files, output=str(folder), **changes)
    assert drive(tmp_path, tree, "step:3").returncode == -9
    steps = folder / "checkpoints"
    newest = checkpoints.last_complete(steps)
    (newest / "optimizer.pt").unlink()
    older = checkpoints.last_complete(steps)
    assert checkpoints.step_of(older) < checkpoints.step_of(newest)
    state = older / "trainer_state.json"
    kept = state.read_bytes()
    state.write_bytes(kept[:50])
    for path in steps.iterdir():
        if path not in (older, newest):
            shutil.rmtree(path)
    with pytest.raises(CheckpointError, match=f"{newest.name}/optimizer.pt is missing, and no other checkpoint"):
        run(parse(tree, "test", "run"), resume=True, console=QUIET)
    state.write_bytes(kept)
    console = Console(record=True, width=500)
    run(parse(tree, "test", "run"), resume=True, console=console)
    note = f"{newest.name} is not complete ({newest}/optimizer.pt is missing), so the run resumes from {older.name}"
    assert note in console.export_text()
    assert events(folder, "note")[-1]["text"] == note
    assert same_weights(folder, whole)


@pytest.mark.slow
def test_a_run_that_lost_its_checkpoints_starts_again_and_ends_the_same(finished, files, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / "report.html").unlink()
    text = (tmp_path / "run" / "recipe.yaml").read_text().replace(str(finished), str(tmp_path / "run"))
    (tmp_path / "run" / "recipe.yaml").write_text(text)
    run(recipe(files, tmp_path / "run"), resume=True, console=QUIET)
    assert same_weights(tmp_path / "run", finished)
    assert [event["step"] for event in report.load(tmp_path / "run").evals] == [0, 3, 6]


@pytest.mark.parametrize(
    ("method", "changes", "said"),
    [
        (
            "sft",
            {"training": {"per_device_train_batch_size": 20, "dataloader_drop_last": True}},
            "16 training rows are too few",
        ),
        (
            "psft",
            {"options": {"refresh": 8, "inner_epochs": 2}},
            "16 training rows do not fill a window: a window takes 32",
        ),
        ("sft", {"training": {"max_steps": -1, "num_train_epochs": 0}}, "num_train_epochs is 0"),
        ("sft", {"training": {"max_steps": 0}}, "max_steps is 0"),
    ],
)
def test_a_run_that_could_make_no_update_is_refused_before_any_model_is_loaded(
    files, tmp_path, monkeypatch, method, changes, said
):
    def load(*args, **kwargs):
        raise AssertionError("a model is loaded")

    monkeypatch.setattr(loading, "load_model", load)
    with pytest.raises(ValueError, match=said):
        run(recipe(files, tmp_path / "run", method, **changes), console=QUIET)
    assert not (tmp_path / "run").exists()


def test_rows_that_are_left_out_of_each_epoch_are_said_and_stand_in_the_report(files, tmp_path):
    console = Console(record=True, width=200)
    training = {"per_device_train_batch_size": 3, "dataloader_drop_last": True, "max_steps": 1}
    folder = run(recipe(files, tmp_path / "run", "sft", training=training), console=console).folder
    note = "1 of 16 rows is dropped from each epoch, different ones each time: a batch takes 3"
    assert console.export_text().count(note) == 1
    assert [event["text"][: len(note)] for event in events(folder, "note")] == [note]
    assert events(folder, "start")[0]["data"]["train"]["left_out_of_each_epoch"] == 1
    assert "rows left out of each epoch" in (folder / "report.html").read_text()


@pytest.mark.slow
def test_seeds_are_ordinary_runs_one_after_another_that_go_on_with_resume(files, tmp_path):
    changes = {"training": {"max_steps": 2}, "eval": {"every": None}}
    tree = tiny_folder.recipe(files, "sft", output=str(tmp_path / "run"), seeds=[0, 3], **changes)
    made = parse(tree, "test", "run")
    result = run_stages(made, console=QUIET)
    assert result.report == tmp_path / "run" / "comparison.html"
    one = run(recipe(files, tmp_path / "alone", "sft", seed=3, **changes), console=QUIET).folder
    assert same_weights(one, tmp_path / "run-seed3")
    assert not same_weights(one, tmp_path / "run-seed0")
    for seed in (0, 3):
        assert report.load(tmp_path / f"run-seed{seed}").recipe["seed"] == seed
    shutil.rmtree(tmp_path / "run-seed3")
    stamp = (tmp_path / "run-seed0" / "model" / "model.safetensors").stat().st_mtime_ns
    run_stages(made, resume=True, console=QUIET)
    assert (tmp_path / "run-seed0" / "model" / "model.safetensors").stat().st_mtime_ns == stamp
    assert same_weights(one, tmp_path / "run-seed3")


DISTRIBUTION = '''
"""Keeps near its start: the KL from the model that training started from, over the whole vocabulary."""
from trimtab.core import Method, Plan, Reference, Requirements
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.matching import Match


def build(config, policy, reference):
    reference.name, reference.provides = "teacher", frozenset({"teacher"})
    return Plan(Match(forward_kl, 1.0, 0.5), signals=(reference,))


METHOD = Method(build=build, requires=Requirements(models=(Reference(reads="distribution"),)))
'''


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cut", "lora", "named"])
def test_a_method_may_read_the_whole_distribution_of_the_start(files, tmp_path, monkeypatch, kind):
    from trimtab import methods

    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "near.py").write_text(DISTRIBUTION)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "methods")])
    monkeypatch.setattr(methods._FILES, "folder", tmp_path / "methods")
    models = {"cut": {}, "lora": {"lora": {"r": 2}}, "named": {"reference": str(files / "teacher")}}[kind]
    try:
        made = recipe(files, tmp_path / "run", "near", models=models)
        first, *_ = events(run(made, console=QUIET).folder, "train")
        assert (first["divergence"] > 1e-3) == (kind == "named")
        with pytest.raises(ValueError, match="reads whole distributions from models.reference, but"):
            recipe(files, tmp_path / "run", "near", models={"reference": "column"})
    finally:
        sys.modules.pop("trimtab.methods.near", None)
