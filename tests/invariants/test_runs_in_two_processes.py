"""Whole runs in two processes are those of one: rows, order, weights, held-out numbers, logs and checkpoints."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import tiny
import tiny_classifier
import tiny_folder
from tiny_processes import FSDP, fsdp_on_a_cpu, run_all
from tiny_runs import cut_off, events, weights

pytestmark = pytest.mark.slow
SGD = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
TRAINING = {**SGD, "max_steps": 6, "save_steps": 2, "save_total_limit": 9, "logging_steps": 3, "max_length": 64}
ROWS = 15
"""not a multiple of the four rows of an update, so that an epoch ends in a batch that is not full"""
EVAL: dict[str, Any] = {"every": 3, "batch_size": 2}
SUITES = {"geomrel": {"limit": 5, "max_new_tokens": 4}}
METHODS: dict[str, dict[str, Any]] = {
    "sft": {"eval": {**EVAL, "prompts": ["a", "b c", "d"], "max_new_tokens": 4, "suites": SUITES}},
    "kd": {"models": {"teacher_cache": "memory"}},
    "hpd": {},
    "psft": {"options": {"refresh": 1, "inner_epochs": 2}},
    "dpo": {},
    "reward_model": {},
    "classify": {},
}


SPLIT = ("sft", "kd", "hpd", "dpo", "reward_model", "classify")
"""methods that also train with split weights"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    tiny_folder.write_jsonl(folder / "train.jsonl", tiny_folder.chat_rows(ROWS))
    tiny_folder.write_jsonl(folder / "pairs.jsonl", tiny_folder.pair_rows(ROWS))
    tiny_classifier.save(folder / "encoder", head=True, outputs=2)
    tiny_classifier.write(folder / "labelled.jsonl", tiny_classifier.rows(16))
    tiny_classifier.write(folder / "labelled_heldout.jsonl", tiny_classifier.rows(5, start=40))
    return folder


def tree(files: Path, method: str, output: Path, processes: int, **changes: Any) -> dict[str, Any]:
    training = {**TRAINING, "per_device_train_batch_size": 2 // processes, "gradient_accumulation_steps": 2}
    training |= changes.pop("training", {})
    asked = {"eval": EVAL, **METHODS.get(method, {}), **changes}
    made = tiny_folder.recipe(files, method, output=str(output), training=training, **asked)
    if method not in ("kd", "hpd"):
        made["models"] = {"policy": str(files / "teacher")}
    if method == "reward_model":
        made["eval"] = EVAL
    if method in ("dpo", "reward_model"):
        made["data"] = {"train": str(files / "pairs.jsonl"), "heldout": str(files / "pairs.jsonl"), "heldout_rows": 5}
    if method == "classify":
        made["models"] = {"policy": str(files / "encoder")}
        made["data"] = {"train": str(files / "labelled.jsonl"), "heldout": str(files / "labelled_heldout.jsonl")}
        made["eval"] = EVAL
    return made


@pytest.fixture(scope="module")
def runs(files, tmp_path_factory) -> Path:
    """Each method in one process and in two; then a run of each resumed in the other number."""
    folder = tmp_path_factory.mktemp("runs")
    found = {}
    for number in (1, 2):
        jobs = [{"tree": tree(files, method, folder / f"{method}-{number}", number)} for method in METHODS]
        found[number] = run_all(jobs, folder / f"log{number}", number)
    for number in (1, 2):
        cut_off(folder / f"hpd-{3 - number}", folder / f"hpd-then-{number}", 2)
        job = {"tree": tree(files, "hpd", folder / f"hpd-then-{number}", number), "resume": True}
        found[f"then {number}"] = run_all([job], folder / f"again{number}", number)
    jobs = [{"tree": tree(files, method, folder / f"{method}-fsdp", 2)} for method in SPLIT]
    adam = {"training": {"optim": "adamw_torch", "learning_rate": 0.01}}
    jobs += [{"tree": tree(files, "sft", folder / "adam-fsdp", 2, **adam)}]
    found["fsdp"] = run_all(jobs, folder / "log-fsdp", 2, fsdp_on_a_cpu, FSDP)
    cut_off(folder / "adam-fsdp", folder / "adam-fsdp-again", 2)
    jobs = [{"tree": tree(files, "sft", folder / "adam-fsdp-again", 2, **adam), "resume": True}]
    jobs += [{"tree": tree(files, "psft", folder / "psft-fsdp", 2)}]
    jobs += [{"tree": split_teacher(files, folder / "kd-all-fsdp")}]
    found["fsdp again"] = run_all(jobs, folder / "log-fsdp-again", 2, fsdp_on_a_cpu, FSDP)
    (folder / "found.json").write_text(json.dumps(found))
    return folder


def split_teacher(files: Path, output: Path) -> dict[str, Any]:
    made = tree(files, "kd", output, 2)
    made["models"] |= {"teacher_cache": "off", "split_frozen": True}
    return made


def errors(runs: Path, log: str) -> list[list[str]]:
    return [[one.get("error", "") for one in of] for of in json.loads((runs / "found.json").read_text())[log]]


def moved(run: Path, files: Path, method: str) -> dict:
    name = "encoder" if method == "classify" else "teacher"
    before = load_file(files / name / "model.safetensors")
    after = weights(run)
    kept = {key: value for key, value in after.items() if before.get(key, value).shape == value.shape and key in before}
    if method in ("kd", "hpd"):
        return {key: value - before[key.replace("layers.1", "layers.2")] for key, value in kept.items()}
    return {key: value - before[key] for key, value in kept.items()}


@pytest.mark.parametrize("log", ["1", "2", "then 1", "then 2", "fsdp"])
def test_all_runs_finish(runs, log):
    assert not any(any(of) for of in errors(runs, log)), errors(runs, log)


@pytest.mark.parametrize("method", METHODS)
def test_weights_of_two_processes_are_those_of_one(runs, files, method):
    one, two = (moved(runs / f"{method}-{number}", files, method) for number in (1, 2))
    assert max(value.abs().max() for value in one.values()) > 1e-4
    assert tiny.relative_error(two, one) < 1e-4
    assert tiny.relative_error(weights(runs / f"{method}-2"), weights(runs / f"{method}-1")) < 1e-6


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("event", ["train", "eval"])
def test_logs_of_two_processes_are_those_of_one(runs, method, event):
    one, two = (events(runs / f"{method}-{number}", event) for number in (1, 2))
    assert len(one) == {"train": 2, "eval": 3}[event]
    compare(one, two)


def compare(one: list[dict], two: list[dict]) -> None:
    of_time = {"event", "time", "seconds", "tokens_per_second", "tokens_read_per_second"}
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - of_time:
            assert b[key] == pytest.approx(a[key], rel=2e-4, abs=1e-6), (key, a["step"])


@pytest.mark.parametrize("method", SPLIT)
def test_split_weights_are_trained_and_saved_as_whole_ones(runs, method):
    one, split = runs / f"{method}-1", runs / f"{method}-fsdp"
    assert "processes: 2, FSDP2 over gloo" in (split / "signature.txt").read_text()
    assert tiny.relative_error(weights(split), weights(one)) < 1e-6
    for event in ("train", "eval"):
        compare(events(one, event), events(split, event))


def test_split_weights_are_resumed_and_a_method_that_swaps_them_is_refused(runs):
    of_sft, of_psft = zip(*(of[:2] for of in errors(runs, "fsdp again")))
    assert not any(of_sft)
    assert tiny.relative_error(weights(runs / "adam-fsdp-again"), weights(runs / "adam-fsdp")) < 1e-6
    assert all("this method swaps the policy's weights with earlier ones" in error for error in of_psft)
    assert not (runs / "psft-fsdp").exists()


def test_a_teacher_that_is_split_too_teaches_the_same(runs):
    assert not any(of[2]["error"] for of in json.loads((runs / "found.json").read_text())["fsdp again"])
    assert tiny.relative_error(weights(runs / "kd-all-fsdp"), weights(runs / "kd-1")) < 1e-6
    compare(events(runs / "kd-1", "eval"), events(runs / "kd-all-fsdp", "eval"))


@pytest.mark.parametrize("number", [1, 2])
def test_a_run_goes_on_in_another_number_of_processes(runs, number):
    again, whole = runs / f"hpd-then-{number}", runs / f"hpd-{number}"
    assert tiny.relative_error(weights(again), weights(whole)) < 1e-6
    assert events(again, "resume")[0]["step"] == 2
    assert any("before it was trained in" in note["text"] for note in events(again, "note"))
    lines = [json.loads(line) for line in (again / "metrics.jsonl").read_text().splitlines()]
    since = next(number for number, line in enumerate(lines) if line["event"] == "resume")
    # the first log counts two updates from before the checkpoint, made in the other number of processes
    compare(events(whole, "train"), [line for line in lines[since:] if line["event"] == "train"])
