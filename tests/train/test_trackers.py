"""What trackers are told: training, and what is measured on held-out rows, in the run's folder."""

import json
import sys
import types

import pytest
from rich.console import Console

import tiny_folder
from trimtab.common.errors import Interrupted
from trimtab.runs.parse import parse
from trimtab.runs.run import run

QUIET = Console(quiet=True)


@pytest.fixture
def tensorboard(monkeypatch, tmp_path_factory):
    """A writer in place of TensorBoard's, which is no dependency: it writes what it is told as JSON lines."""

    class SummaryWriter:
        def __init__(self, log_dir=None):
            from pathlib import Path

            self.path = Path(log_dir)
            self.path.mkdir(parents=True, exist_ok=True)
            self.closed = False
            with (self.path / "opened").open("a") as out:
                out.write("1")

        def add_text(self, *_):
            assert not self.closed

        def add_scalar(self, name, value, step):
            assert not self.closed
            with (self.path / "events.jsonl").open("a") as out:
                out.write(json.dumps([name, value, step]) + "\n")

        def flush(self): ...

        def close(self):
            self.closed = True
            (self.path / "closed").touch()

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    found = tmp_path_factory.mktemp("packages")
    (found / "tensorboard").mkdir()
    (found / "tensorboard" / "__init__.py").touch()
    monkeypatch.syspath_prepend(found)
    monkeypatch.setattr("transformers.integrations.integration_utils.is_tensorboard_available", lambda: True)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)


def scalars(folder):
    lines = (folder / "tensorboard" / "events.jsonl").read_text().splitlines()
    return {(name, step): value for name, value, step in map(json.loads, lines)}


def recipe(folder, method="sft", **changes):
    tiny_folder.lay_out(folder)
    return parse(tiny_folder.recipe(folder, method, **changes), "test", "test")


def test_held_out_measures_reach_the_tracker_whose_files_lie_in_the_run(tmp_path, tensorboard):
    folder = run(recipe(tmp_path, training={"report_to": "tensorboard"}), console=QUIET).folder
    told = scalars(folder)
    events = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    measured = {event["step"]: event for event in events if event["event"] == "eval"}
    assert list(measured) == [0, 3, 6]
    for step, event in measured.items():
        assert told["eval/perplexity", step] == event["perplexity"]
        assert told["eval/loss", step] == event["nll"]
        assert told["eval/mean_token_accuracy", step] == event["top1"]
    assert {step for name, step in told if name == "train/loss"} == {1, 2, 3, 4, 5, 6}
    assert (folder / "tensorboard" / "closed").exists()
    assert (folder / "tensorboard" / "opened").read_text() == "1"  # not closed and opened anew for the last measures
    assert not list((folder / "checkpoints").glob("runs"))


@pytest.mark.slow
def test_a_place_that_the_user_chose_stays(tmp_path, tensorboard, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "elsewhere"))
    folder = run(recipe(tmp_path, training={"report_to": "tensorboard"}), console=QUIET).folder
    assert (tmp_path / "elsewhere" / "events.jsonl").exists()
    assert not (folder / "tensorboard").exists()


def test_trackers_are_closed_when_a_run_is_stopped(tmp_path, tensorboard, monkeypatch):
    from trimtab.train.events import StopOnInterrupt

    monkeypatch.setattr(StopOnInterrupt, "on_train_begin", lambda self, *_, **__: setattr(self, "interrupted", True))
    with pytest.raises(Interrupted):
        run(recipe(tmp_path, training={"report_to": "tensorboard"}), console=QUIET)
    assert (tmp_path / "run" / "tensorboard" / "closed").exists()


def test_trackers_call_a_run_by_its_folder(tmp_path):
    from trimtab.train import settings

    assert settings.build({"bf16": False}, tmp_path / "mine", 0).run_name == "mine"
    assert settings.build({"bf16": False, "run_name": "other"}, tmp_path / "mine", 0).run_name == "other"


# ---------------------------------------------------------------- preferences


def preference_run(tmp_path, method="dpo", heldout=None, **changes):
    tiny_folder.lay_out(tmp_path)
    rows = tiny_folder.pair_rows(16)
    tiny_folder.write_jsonl(tmp_path / "train.jsonl", rows)
    tiny_folder.write_jsonl(tmp_path / "heldout.jsonl", heldout or tiny_folder.pair_rows(7))
    console = Console(record=True, width=300)
    tree = tiny_folder.recipe(tmp_path, method, **changes)
    result = run(parse(tree, "test", "test"), console=console)
    events = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    return result, console.export_text(), [event for event in events if event["event"] == "eval"]


@pytest.mark.fast("dpo")
@pytest.mark.parametrize("method", ["dpo", "clm"])
def test_preferences_of_held_out_pairs_are_the_headline(tmp_path, method):
    result, said, measured = preference_run(tmp_path, method)
    assert measured[0]["preference_accuracy"] == 0.5
    assert measured[0]["preference_margin"] == 0
    assert measured[-1]["preference_accuracy"] != 0.5
    assert measured[-1]["preference_margin"] != 0
    assert "perplexity" in measured[-1]
    page = result.report.read_text()
    headline = page.partition("<h1>")[2].partition("</h1>")[0]
    assert "preference accuracy" in headline
    assert "preference margin" in headline
    assert "held-out rows, step 0: preference accuracy 0.5  margin 0  perplexity" in said


@pytest.mark.slow
def test_the_margin_is_that_of_the_rows_by_hand(tmp_path):
    """The mean over pairs, not over their tokens."""
    result, _, measured = preference_run(tmp_path)
    samples = [json.loads(line) for line in (result.folder / "samples.jsonl").read_text().splitlines()]
    rows = [one for one in samples if one["kind"] == "heldout" and one["step"] == 6]
    assert len({row["tokens"] for row in rows}) > 1
    mean = sum(row["preference_margin"] for row in rows) / len(rows)
    assert measured[-1]["preference_margin"] == pytest.approx(mean)
    from trimtab.report import load
    from trimtab.report.comparing import last
    from trimtab.report.measures import MARGIN

    assert last(load(result.folder), MARGIN).estimate == pytest.approx(mean)


@pytest.mark.slow
def test_held_out_rows_without_a_rejected_answer_are_reported(tmp_path):
    _, said, measured = preference_run(tmp_path, heldout=tiny_folder.chat_rows(5))
    assert "held-out preferences are not measured: not every held-out row has" in said
    assert "preference_accuracy" not in measured[-1]
    assert "perplexity" in measured[-1]
