"""Runs that learn from rollouts, from a recipe to a report, in two processes and in one."""

import shutil
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console
from safetensors.torch import load_file

import tiny
import tiny_group
from tiny_rollout_runs import WITH_MODELS, lay_out, lines, parsed, reward_models, run, with_models
from tiny_runs import cut_off, same_weights, weights
from trimtab.runs import run as runs
from trimtab.runs.folder import RunError

pytestmark = pytest.mark.slow
SGD = {"optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "save_total_limit": 10}
METHODS = {
    **WITH_MODELS,
    "grpo, kl": {"method": "grpo", "options": {"kl": 0.1}},
    "rloo": {"method": "rloo"},
    "reinforce": {"method": "reinforce", "options": {"baseline": "leave_one_out", "kl_coef": 0.1}},
    "lco": {"method": "lco", "options": {"loss": "mse"}},
    "lco of halves": {"method": "lco", "options": {"advantage": "completed", "rewards": "group"}},
}
LEARN_ALONG = {"ppo": "valuemodel", "distrl, online": "onlineprefixreward", "distrl, online pairs": "onlinepairreward"}
TIMES = ("time", "second", "launch", "command")


class Both(NamedTuple):
    """Folders of the same runs, by name of the method."""

    one: Path
    two: Path
    files: Path


def recipe(files: Path, judges: dict[str, str], name: str, output: Path, processes: int) -> dict[str, Any]:
    """Two updates on each batch of rollouts, in which a group of four lies in one process, or in both."""
    made = with_models(files, judges, name, output, METHODS)
    rate = 20.0 if name == "lco of halves" else 0.5  # its gradients are small
    made["training"] |= {
        **SGD,
        "learning_rate": rate,
        "per_device_train_batch_size": (2 if name == "rloo" else 4) // processes,
    }
    made["eval"] = {"answers": 2, "batch_size": 3}  # which parts completions otherwise than processes do
    made["reward"] = {"name": made["reward"], "correct": 0.5}  # about half of the completions are
    return made


def run_all(trees: list[dict[str, Any]]) -> None:
    for made in trees:
        run(made)


def resume(made: dict[str, Any]) -> None:
    runs.run(parsed(made), resume=True, console=Console(quiet=True))


@pytest.fixture(scope="module")
def judges(both_files, tmp_path_factory) -> dict[str, str]:
    return reward_models(both_files, tmp_path_factory.mktemp("judges"))


@pytest.fixture(scope="module")
def both_files(tmp_path_factory) -> Path:
    return lay_out(tmp_path_factory.mktemp("files"))


@pytest.fixture(scope="module")
def both(both_files, judges, tmp_path_factory) -> Both:
    one, two = (tmp_path_factory.mktemp(name) for name in ("one", "two"))
    made = partial(recipe, both_files, judges)
    run_all([made(name, one / name, 1) for name in METHODS])
    assert tiny_group.in_group(two, run_all, [made(name, two / name, 2) for name in METHODS]) == [None, None]
    return Both(one, two, both_files)


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_move_the_weights_as_one_does(both, name):
    start = load_file(both.files / "teacher" / "model.safetensors")
    moved, moved_too = (
        {key: value - start[key] for key, value in weights(folder / name).items()} for folder in (both.one, both.two)
    )
    assert max(value.abs().max() for value in moved.values()) > 1e-2
    assert tiny.relative_error(moved_too, moved) < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_two_processes_write_the_logs_and_samples_of_one(both, name):
    for file in ("metrics.jsonl", "samples.jsonl"):
        for wanted, found in zip(lines(both.one / name / file), lines(both.two / name / file), strict=True):
            kept = {key for key in wanted if not any(word in key for word in TIMES)}
            assert {key: found[key] for key in kept} == {key: alike(wanted[key]) for key in kept}


def alike(value: Any) -> Any:
    """The same up to rounding."""
    return (
        pytest.approx(value, rel=1e-4, abs=2e-4)
        if isinstance(value, float | list) and value and is_numbers(value)
        else value
    )


def is_numbers(value: Any) -> bool:
    return all(isinstance(one, float | int) for one in (value if isinstance(value, list) else [value]))


@pytest.mark.parametrize("name", LEARN_ALONG)
def test_models_that_learn_along_learn_in_two_processes_what_they_learn_in_one(both, name):
    states = []
    for folder in (both.one, both.two):
        last = folder / name / "checkpoints" / "checkpoint-4"
        states.append(load_file(next(last.glob(f"{LEARN_ALONG[name]}_*.safetensors"))))
    before = load_file(
        next((both.one / name / "checkpoints" / "checkpoint-2").glob(f"{LEARN_ALONG[name]}_*.safetensors"))
    )
    moved, moved_too = (
        {key: value.float() - before[key].float() for key, value in state.items() if key.startswith("weight")}
        for state in states
    )
    assert max(value.abs().max() for value in moved.values()) > 1e-3
    assert tiny.relative_error(moved_too, moved) < 1e-3  # AdamW divides by small gradients


@pytest.mark.parametrize("name", ["grpo, kl", "distrl, online"])
def test_two_processes_that_are_resumed_end_with_the_same_weights_to_the_bit(both, judges, tmp_path, name):
    cut_off(both.two / name, tmp_path / "run", 2)
    made = recipe(both.files, judges, name, tmp_path / "run", 2)
    assert tiny_group.in_group(tmp_path, resume, made) == [None, None]
    assert same_weights(both.two / name, tmp_path / "run")
    trained = [event for event in lines(tmp_path / "run" / "metrics.jsonl") if event["event"] == "train"]
    whole = [event for event in lines(both.two / name / "metrics.jsonl") if event["event"] == "train"]
    assert [event["loss"] for event in trained[-2:]] == [event["loss"] for event in whole[-2:]]


@pytest.mark.parametrize("name", ["grpo, kl", "distrl, online"])
def test_a_run_of_two_processes_goes_on_in_one(both, judges, tmp_path, name):
    cut_off(both.two / name, tmp_path / "run", 2)
    resume(recipe(both.files, judges, name, tmp_path / "run", 1))
    start = load_file(both.files / "teacher" / "model.safetensors")
    moved, moved_too = (
        {key: value - start[key] for key, value in weights(folder).items()}
        for folder in (both.one / name, tmp_path / "run")
    )
    assert tiny.relative_error(moved_too, moved) < 1e-5
    for change in ({"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}, {}):
        cut_off(both.two / name, tmp_path / "other", 2)
        other = recipe(both.files, judges, name, tmp_path / "other", 1)
        other["training"] |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 1, **change}
        said = "with training.steps_per_generation a" if change else "with 4 rows an update, and 1 would take 2"
        with pytest.raises(RunError, match=said):
            resume(other)
        shutil.rmtree(tmp_path / "other")
