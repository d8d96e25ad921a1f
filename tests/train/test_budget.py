"""A budget of minutes ends training when it is used up, and not later."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console

import tiny_folder
from tiny_runs import drive, events
from trimtab import report
from trimtab.runs import run as runs
from trimtab.runs.budget import seconds_per_step
from trimtab.runs.job import load_job
from trimtab.runs.parse import parse
from trimtab.runs.policy import Shared
from trimtab.runs.run import run, run_stages
from trimtab.train.budget import GRACE, Budget

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


def steps_of(seconds: list[float], limit: float, steps: int = 10, used: float = 0.0) -> tuple[int, Budget]:
    """Steps that are trained where each takes so many seconds."""
    now = [100.0]
    budget = Budget(limit, clock=lambda: now[0])
    budget.load_state_dict({"used": torch.tensor(used)})
    control, args = SimpleNamespace(should_save=False, should_training_stop=False), SimpleNamespace(device="cpu")
    for step, took in enumerate(seconds, start=1):
        budget.on_step_begin(args, None, control)
        now[0] += took
        budget.on_step_end(args, SimpleNamespace(global_step=step, max_steps=steps), control)
        if control.should_training_stop:
            assert control.should_save
            return step, budget
        now[0] += 50.0  # an evaluation
    return len(seconds), budget


def test_no_step_is_begun_that_would_go_beyond_the_budget():
    assert steps_of([1.0] * 10, 5.0 - GRACE)[0] == 5
    assert steps_of([1.0] * 10, 5.5 - GRACE)[0] == 5
    assert steps_of([1.0, 1.0, 3.0, 3.0], 7.0 - GRACE)[0] == 3


def test_at_least_one_is_trained_and_the_last_one_is_no_early_stop():
    assert steps_of([9.0] * 3, 1.0)[0] == 1
    steps, budget = steps_of([1.0] * 10, 10.0)
    assert (steps, budget.over) == (10, False)


def test_what_was_used_before_a_resume_counts():
    steps, budget = steps_of([1.0] * 10, 5.0 - GRACE, used=3.0)
    assert (steps, budget.over) == (2, True)
    assert budget.state_dict()["used"].item() == 5.0


def slow(monkeypatch, seconds: float) -> None:
    """Every step takes longer than was measured."""

    class Slow(Budget):
        def on_step_end(self, args, state, control, **kwargs):
            self._since -= seconds
            super().on_step_end(args, state, control, **kwargs)

    monkeypatch.setattr(runs, "Budget", Slow)


def test_a_run_on_a_machine_that_becomes_slower_is_stopped_with_what_was_reached(files, tmp_path, monkeypatch):
    slow(monkeypatch, 15.0)
    console = Console(record=True, width=500)
    made = tiny_folder.recipe(files, "sft", output=str(tmp_path / "run"), minutes=1, eval={"every": None})
    folder = run(parse(made, "test", "run"), console=console).folder
    assert events(folder, "finished")[0]["step"] == 4
    assert (folder / "model" / "model.safetensors").is_file()
    note = "stopped after step 4 of 6: 1.0 of 1.0 minutes are used"
    assert note in console.export_text()
    loaded = report.load(folder)
    assert loaded.notes[-1].startswith(note)
    assert loaded.evals[-1]["step"] == 4
    assert "stopped after step 4 of 6" in (folder / "report.html").read_text()
    assert run(parse(made, "test", "run"), resume=True, console=QUIET).folder == folder  # it is finished


def test_the_speed_is_measured_with_progress_and_not_for_long(files, tmp_path):
    console = Console(record=True, width=500)
    made = parse(tiny_folder.recipe(files, "sft", output=str(tmp_path / "run")), "test", "run")
    job = load_job(made, Shared(), QUIET)
    seconds_per_step(job, console)
    text = console.export_text()
    assert "measuring the speed of this machine for sft" in text
    assert "8/8 rows" in text
    seconds_per_step(job, console, most=0.0)
    assert "8/8 rows" not in console.export_text()


@pytest.mark.slow
def test_later_stages_train_as_few_steps_as_one_that_was_stopped(files, tmp_path, monkeypatch):
    slow(monkeypatch, 10.0)
    tree = tiny_folder.recipe(files, output=str(tmp_path / "both"), minutes=1, eval={"every": None})
    del tree["method"]
    tree["stages"] = [{"method": "sft"}, {"method": "kd"}]
    run_stages(parse(tree, "test", "both"), console=QUIET)
    first, second = (events(tmp_path / "both" / name, "finished")[0]["step"] for name in ("sft", "kd"))
    assert first < 6
    assert second <= first
    assert any("as many as" in note for note in report.load(tmp_path / "both" / "kd").notes)


@pytest.mark.slow
def test_a_run_that_was_stopped_by_its_budget_and_killed_before_its_end_trains_no_further(files, tmp_path):
    tree = tiny_folder.recipe(files, "sft", output=str(tmp_path / "run"), minutes=0.0001, eval={"every": None})
    tree["training"]["save_steps"] = 100
    killed = drive(tmp_path, tree, "final")
    assert killed.returncode == -9, killed.stderr[-2000:]
    step = events(tmp_path / "run", "eval")[-1]["step"]
    again = drive(tmp_path, tree, "none", "--resume")
    assert again.returncode == 0, again.stderr[-2000:]
    assert events(tmp_path / "run", "finished")[0]["step"] == step
