"""A run that has ended is made longer, where the longer run would have trained its steps alike."""

from pathlib import Path

import pytest
import yaml
from rich.console import Console

import tiny_folder
from tiny_runs import drive, events, same_weights
from trimtab import report
from trimtab.runs.folder import RunError
from trimtab.runs.longer import TooLong
from trimtab.runs.parse import parse
from trimtab.runs.run import run

QUIET = Console(quiet=True)
CONSTANT = {"lr_scheduler_type": "constant", "logging_steps": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


def tree(files: Path, output: Path, **training) -> dict:
    return tiny_folder.recipe(files, "sft", output=str(output), training={**CONSTANT, **training}, eval={"every": None})


def carried_out(files: Path, output: Path, resume: bool = False, **training) -> Path:
    return run(parse(tree(files, output, **training), "test", "run"), resume=resume, console=QUIET).folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "then"),
    [
        ({"max_steps": 4}, {"max_steps": 9}),
        ({"max_steps": 3, "save_steps": 2}, {"max_steps": 4, "save_steps": 2}),
        ({"max_steps": -1, "num_train_epochs": 1}, {"max_steps": -1, "num_train_epochs": 2}),
        ({"max_steps": 4, "lr_scheduler_type": "constant_with_warmup", "warmup_steps": 3}, {"max_steps": 7}),
    ],
)
def test_a_finished_run_made_longer_ends_as_one_that_was_as_long_from_the_start(files, tmp_path, first, then):
    then = {**first, **then}
    whole = carried_out(files, tmp_path / "whole", **then)
    folder = carried_out(files, tmp_path / "run", **first)
    was = events(folder, "finished")[-1]["step"]
    carried_out(files, folder, resume=True, **then)
    assert same_weights(folder, whole)
    stored = yaml.safe_load((folder / "recipe.yaml").read_text())["training"]
    assert {key: stored[key] for key in then} == then
    now = events(whole, "finished")[-1]["step"]
    assert events(folder, "finished")[-1]["step"] == now > was
    loaded = report.load(folder)
    assert [event["step"] for event in loaded.train] == list(range(1, now + 1))
    assert f"extended to {now} steps from {was}" in loaded.notes
    with pytest.raises(RunError, match="holds this run, finished"):
        carried_out(files, folder, **then)
    carried_out(files, folder, resume=True, **then)  # nothing is left to do
    assert events(folder, "resume")[-1]["step"] == was


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "kwargs"), [("linear", None), ("cosine", None), ("cosine_with_min_lr", {"min_lr_rate": 0.1})]
)
def test_a_schedule_over_all_steps_cannot_be_made_longer_and_says_why(files, tmp_path, name, kwargs):
    how = {"lr_scheduler_type": name, **({"lr_scheduler_kwargs": kwargs} if kwargs else {})}
    folder = carried_out(files, tmp_path / name, max_steps=3, **how)
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(TooLong, match=f"lr_scheduler_type={name} depends on the total number of steps"):
        carried_out(files, folder, resume=True, max_steps=6, **how)
    assert (folder / "metrics.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_run_is_not_made_shorter_and_a_warmup_by_share_moves(files, tmp_path):
    folder = carried_out(files, tmp_path / "run", max_steps=4)
    with pytest.raises(TooLong, match="has trained 4 steps and the recipe asks for 2"):
        carried_out(files, folder, resume=True, max_steps=2)
    how = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.5}
    folder = carried_out(files, tmp_path / "share", max_steps=4, **how)
    with pytest.raises(TooLong, match="depends on the total number of steps"):
        carried_out(files, folder, resume=True, max_steps=8, **how)


def test_without_resume_the_way_is_named_and_other_changes_are_refused_as_before(files, tmp_path):
    folder = carried_out(files, tmp_path / "run", max_steps=3)
    with pytest.raises(RunError, match=r"max_steps is 3 there and 5 here\); .*, or add --resume to train it further"):
        carried_out(files, folder, max_steps=5)
    with pytest.raises(RunError, match="choose another output=FOLDER$"):
        carried_out(files, folder, resume=True, max_steps=5, learning_rate=0.5)


@pytest.mark.slow  # three runs and a kill
def test_a_longer_run_that_is_killed_goes_on(files, tmp_path):
    whole = carried_out(files, tmp_path / "whole", max_steps=8)
    folder = carried_out(files, tmp_path / "run", max_steps=4)
    longer = tree(files, folder, max_steps=8)
    assert drive(tmp_path, longer, "step:5", "--resume").returncode == -9
    assert drive(tmp_path, longer, "none", "--resume").returncode == 0
    assert same_weights(folder, whole)
