"""Processes that were started differently are refused in all; one that fails ends the others with its message."""

from pathlib import Path
from typing import Any

import pytest

import tiny_folder
from tiny_processes import run_all

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return tiny_folder.lay_out(tmp_path_factory.mktemp("files"))


def tree(files: Path, output: Path, **changes: Any) -> dict[str, Any]:
    models = {"policy": str(files / "teacher")}
    made = tiny_folder.recipe(files, "sft", output=str(output), eval={"every": None, "prompts": []}, **changes)
    return {**made, "models": models}


def poisoned(rank: int) -> None:
    """In the second process, the third update of a run called `nan` has a loss that is none, and one of a run called
    `fails` an error of its own."""
    from trimtab.train.base import ObjectiveLoop

    plain = ObjectiveLoop._loss

    def loss(self: Any, *args: Any, **known: Any) -> Any:
        output = plain(self, *args, **known)
        if rank == 1 and self.state.global_step == 2:
            if "nan" in self.args.output_dir:
                assert output.loss is not None
                output.loss = output.loss * float("nan")
                self._update[-1] = (output.loss.detach(), self._update[-1][1])
            if "fails" in self.args.output_dir:
                raise RuntimeError("a device has died")
        return output

    ObjectiveLoop._loss = loss


@pytest.fixture(scope="module")
def found(files, tmp_path_factory) -> tuple[Path, list[list[dict[str, Any]]]]:
    folder = tmp_path_factory.mktemp("runs")
    jobs = [
        {"trees": [tree(files, folder / "seeds", seed=0), tree(files, folder / "seeds", seed=1)]},
        {"trees": [tree(files, folder / "first"), tree(files, folder / "second")]},
        {"tree": tree(files, folder / "nan")},
        {"tree": tree(files, folder / "fails")},  # the last one: it ends the other process
    ]
    return folder, run_all(jobs, folder / "log", 2, poisoned)


def test_other_seeds_and_folders_are_refused_in_both(found):
    folder, (first, second) = found
    for of in (first, second):
        assert of[0]["error"].startswith("RunError: process 1 was started with another recipe: seed is 1 there and 0")
        assert "output is" in of[1]["error"]
    assert not any((folder / name).exists() for name in ("seeds", "first", "second"))


def test_a_loss_that_is_none_in_one_process_ends_both_with_its_rows(found):
    _, (first, second) = found
    assert first[2]["error"] == second[2]["error"]
    assert first[2]["error"].startswith("NotFinite: step 3: the loss is nan, in a batch with training rows ")


def test_a_process_that_fails_ends_the_other_with_its_message(found):
    folder, (first, second) = found
    assert "a device has died" in second[3]["error"]
    assert second[3]["seconds"] < 60
    assert first[3] == {"code": 1}  # it was ended where it waited
    said = (folder / "log" / "rank0.err").read_text()
    assert "error: process 1 failed: RuntimeError: a device has died" in said
