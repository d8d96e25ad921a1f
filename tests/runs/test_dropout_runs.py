"""Runs of models with dropout: it is off where a ratio is learnt, which is told, signed and may be refused; the saved
model keeps its own settings. And a run that an earlier version began goes on under settings that came since."""

import json
import math
from pathlib import Path

import pytest
import yaml
from rich.console import Console
from transformers import AutoConfig

import tiny_folder
from trimtab.runs.folder import RunError, check_folder
from trimtab.runs.parse import parse
from trimtab.runs.run import run

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    sizes = {"n_layer": 2, "n_positions": 512, "resid_pdrop": 0.2, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    tiny_folder.save(folder / "policy", "gpt2", **sizes)
    tiny_folder.write_jsonl(folder / "train.jsonl", tiny_folder.chat_rows(16))
    tiny_folder.write_jsonl(folder / "pairs.jsonl", tiny_folder.pair_rows(8))
    return folder


def recipe(files: Path, output: Path, method: str, rows: str = "train", models=None, **training):
    tree = {
        "method": method,
        "models": {"policy": str(files / "policy"), **(models or {})},
        "data": {"train": str(files / f"{rows}.jsonl")},
        "training": {
            "per_device_train_batch_size": 4,
            "max_steps": 3,
            "learning_rate": 0.0,
            "max_length": 64,
            "save_steps": 1,
            **training,
        },
        "output": str(output),
    }
    return parse(tree, "test", "run")


def events(folder: Path, kind: str) -> list[dict]:
    return [one for one in map(json.loads, (folder / "metrics.jsonl").read_text().splitlines()) if one["event"] == kind]


def test_without_learning_ratios_are_one_and_the_saved_model_has_its_dropout(files, tmp_path):
    made = recipe(files, tmp_path / "run", "psft")
    folder = run(made, console=QUIET).folder
    assert [event["ratio"] for event in events(folder, "train")] == pytest.approx([1.0] * 3, abs=1e-5)
    told = [event["text"] for event in events(folder, "note") if "dropout" in event["text"]]
    assert told == [
        "the policy's dropout is off (attn_dropout 0.1, drop 0.1, dropout 0.2, resid_dropout 0.2): psft learns a ratio "
        "to log-probabilities computed without it; training.disable_dropout: false keeps it"
    ]
    assert "\ndropout: off (attn_dropout 0.1" in (folder / "signature.txt").read_text()
    saved = AutoConfig.from_pretrained(folder / "model")
    assert (saved.attn_pdrop, saved.resid_pdrop) == (0.1, 0.2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "models"), [("dpo", {}), ("dpo", {"lora": {"r": 2, "lora_dropout": 0.3}}), ("clm", {})]
)
def test_preferences_begin_at_log_2(files, tmp_path, method, models):
    folder = run(recipe(files, tmp_path / "run", method, "pairs", models), console=QUIET).folder
    assert [event["loss"] for event in events(folder, "train")] == pytest.approx([math.log(2)] * 3, abs=1e-5)


@pytest.mark.slow
def test_dropout_stays_where_no_ratio_is_learnt_and_where_the_user_keeps_it(files, tmp_path):
    folder = run(recipe(files, tmp_path / "sft", "sft"), console=QUIET).folder
    assert "dropout" not in (folder / "signature.txt").read_text()
    folder = run(recipe(files, tmp_path / "kept", "psft", disable_dropout=False), console=QUIET).folder
    assert "\ndropout: kept (" in (folder / "signature.txt").read_text()
    assert abs(events(folder, "train")[-1]["log_ratio"]) > 1e-3
    assert any("dropout is kept" in event["text"] for event in events(folder, "note"))
    folder = run(recipe(files, tmp_path / "off", "sft", disable_dropout=True), console=QUIET).folder
    losses = [event["nll"] for event in events(folder, "train")]
    again = run(recipe(files, tmp_path / "again", "sft", disable_dropout=True, max_steps=2), console=QUIET).folder
    assert [event["nll"] for event in events(again, "train")] == losses[:2]
    assert "\ndropout: off (" in (folder / "signature.txt").read_text()


def test_a_run_of_an_earlier_version_goes_on_under_settings_that_came_since(files, tmp_path):
    made = recipe(files, tmp_path / "run", "psft")
    folder = run(made, console=QUIET).folder
    stored = yaml.safe_load((folder / "recipe.yaml").read_text())
    for later in ("loss_agg", "warmup_sft_steps"):
        del stored["options"][later]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(stored))
    assert check_folder(folder, made, resume=True) == "finished"
    signature = (folder / "signature.txt").read_text()
    (folder / "signature.txt").write_text(signature.replace(", 'loss_agg': 'token-mean', 'warmup_sft_steps': 0", ""))
    (folder / "report.html").unlink()
    last = folder / "checkpoints" / "checkpoint-3"
    assert last.is_dir()
    run(recipe(files, tmp_path / "run", "psft"), resume=True, console=QUIET)
    stored["options"]["epsilon"] = 0.3
    (folder / "recipe.yaml").write_text(yaml.safe_dump(stored))
    with pytest.raises(RunError, match=r"another recipe \(options.epsilon is 0.3 there and 0.28 here"):
        check_folder(folder, made, resume=True)
