"""Runs that train classifiers: the same bits by seed and after a resume, whatever the accumulation; rows, tables and
maps in the run folder; and what is refused before anything is written."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from rich.console import Console
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification

import tiny_classifier
from tiny_runs import cut_off, events, same_weights
from trimtab import report
from trimtab.common.errors import UserError
from trimtab.runs.parse import parse
from trimtab.runs.recipe import Recipe
from trimtab.runs.run import run

TASKS = {"two": 2, "three": 3, "number": 1}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """Teachers for three tasks, their rows, and a model without a head."""
    folder = tmp_path_factory.mktemp("classifiers")
    tiny_classifier.save(folder / "base", head=False, dropout=0.1)
    for task, outputs in TASKS.items():
        model = tiny_classifier.classifier(outputs=outputs, seed=3, layers=3, dropout=0.1)
        if task == "three":
            model.config.id2label = dict(enumerate(tiny_classifier.CLASSES))
            model.config.label2id = {name: i for i, name in enumerate(tiny_classifier.CLASSES)}
        model.save_pretrained(folder / f"teacher_{task}")
        tiny_classifier.word_tokenizer().save_pretrained(folder / f"teacher_{task}")
        tiny_classifier.write(folder / f"{task}.jsonl", tiny_classifier.rows(12, task))
        tiny_classifier.write(folder / f"{task}_held.jsonl", tiny_classifier.rows(8, task, start=100))
    return folder


def tree(files: Path, output: Path, task: str = "two", method: str = "ad_kd", **changes: Any) -> dict[str, Any]:
    made: dict[str, Any] = {
        "method": method,
        "models": {"student": {"from": "teacher", "layers": 2}, "teacher": str(files / f"teacher_{task}")},
        "data": {"train": str(files / f"{task}.jsonl"), "heldout": str(files / f"{task}_held.jsonl")},
        "training": {
            "num_train_epochs": 3, "learning_rate": 0.003, "save_steps": 100,
            "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "logging_steps": 2,
        },
        "options": {"beta": 5.0, "steps": 2} if method == "ad_kd" else {},
        "output": str(output),
    }  # fmt: skip
    if method == "classify":
        made["models"] = {"policy": str(files / "base")}
    for key, value in changes.items():
        made[key] = {**made[key], **value} if isinstance(made.get(key), dict) else value
    return made


def carried_out(made: dict, resume: bool = False) -> Path:
    recipe = parse(made, "test", "run")
    assert isinstance(recipe, Recipe)
    return run(recipe, resume=resume, console=Console(quiet=True)).folder


KEPT: dict[str, Any] = {"options": {"anneal": True}, "training": {"save_steps": 1, "save_total_limit": 100}}


@pytest.fixture(scope="module")
def whole(files) -> Path:
    """Nine steps in three epochs, with a checkpoint of each."""
    return carried_out(tree(files, files / "whole", "three", **KEPT))


@pytest.mark.slow
def test_a_run_of_the_same_seed_has_the_same_bits_and_another_seed_others(files, whole, tmp_path):
    same = carried_out(tree(files, tmp_path / "same", "three", options={"anneal": True}))
    other = carried_out(tree(files, tmp_path / "other", "three", seed=1, training={"max_steps": 1}))
    assert same_weights(whole, same)
    assert not same_weights(whole, other)


@pytest.mark.fast("1")
@pytest.mark.parametrize("step", [1, 4, 8])
def test_a_run_that_was_stopped_in_any_epoch_ends_as_if_it_had_not_been(files, whole, tmp_path, step):
    cut_off(whole, tmp_path / "run", step)
    carried_out(tree(files, tmp_path / "run", "three", **KEPT), resume=True)
    assert same_weights(whole, tmp_path / "run")
    assert logged(whole)[-1] == logged(tmp_path / "run")[-1]


def logged(folder: Path) -> list[dict]:
    timed = ("time", "second", "total_flos")
    return [{k: v for k, v in one.items() if not any(t in k for t in timed)} for one in events(folder, "train")]


@pytest.mark.fast("ad_kd")
@pytest.mark.parametrize("method", ["ad_kd", "classify"])
def test_accumulation_changes_nothing_but_rounding(files, tmp_path, method):
    """Without dropout, whose draws depend on the batch; rows of unequal lengths."""
    found = []
    for size, times in ((4, 1), (1, 4)):
        training = {"per_device_train_batch_size": size, "gradient_accumulation_steps": times, "max_steps": 3}
        training |= {
            "disable_dropout": True,
            "save_steps": 100,
            "optim": "sgd",
            "learning_rate": 0.1,
            "logging_steps": 1,
        }
        found.append(carried_out(tree(files, tmp_path / f"{size}", method=method, training=training)))
    one, other = (load_file(folder / "model" / "model.safetensors") for folder in found)
    assert all(torch.allclose(one[key], other[key], rtol=1e-4, atol=1e-6) for key in one)
    for left, right in zip(*(logged(folder) for folder in found), strict=True):
        for key in (
            "loss",
            "cross_entropy",
            "grad_norm",
            "tokens_read",
            *(["attribution_loss"] if method == "ad_kd" else []),
        ):
            assert left[key] == pytest.approx(right[key], rel=1e-4), key


@pytest.mark.fast("two")
@pytest.mark.parametrize("task", TASKS)
def test_the_run_folder_holds_a_model_for_transformers_numbers_tables_and_maps(files, whole, tmp_path, task):
    folder = whole if task == "three" else carried_out(tree(files, tmp_path / "run", task))
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert model.config.num_hidden_layers == 2
    assert model.config.num_labels == TASKS[task]
    if task == "three":
        assert model.config.label2id == {"bad": 0, "fine": 1, "good": 2}
    last = events(folder, "eval")[-1]
    assert {"soft_loss", "attribution_loss", "map_cosine"} <= last.keys()
    assert ("squared_error" if task == "number" else "correct") in last
    tables = report.load(folder).tables
    names = [row["measure"] for row in tables[f"Held-out rows at step {last['step']}"]]
    wanted = {"two": ["accuracy", "F1", "Matthews"], "three": ["accuracy", "macro F1", "Matthews"]}
    assert names == wanted.get(task, ["Pearson", "Spearman", "mean squared error"])
    assert all("teacher and 95% interval" in row for row in tables[f"Held-out rows at step {last['step']}"])
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    maps = [one for one in samples if one["kind"] == "attribution" and one["step"] == last["step"]]
    assert len(maps) == 8
    for one in maps:
        assert len(one["tokens"]) == len(one["student"]) == len(one["teacher"])
        assert sum(x * x for x in one["student"]) == pytest.approx(1, rel=1e-4)
        assert one["tokens"][0] == "[CLS]"
    assert {row["label"] for row in maps} <= (
        set(tiny_classifier.CLASSES) if task == "three" else {row["label"] for row in maps}
    )


def test_the_page_shows_the_maps_token_by_token(whole):
    page = (whole / "report.html").read_text()
    assert "Attribution maps" in page
    assert page.count('<div class="map">') == 16  # a line of the teacher and one of the student for each of eight rows
    assert "[CLS]" in page


def test_it_learns_and_the_maps_come_nearer(files, tmp_path):
    training = {"num_train_epochs": 8, "learning_rate": 0.002}
    folder = carried_out(tree(files, tmp_path / "run", "three", training=training, options={"beta": 100.0}))
    before, after = events(folder, "eval")[0], events(folder, "eval")[-1]
    assert after["map_cosine"] > before["map_cosine"]
    assert after["attribution_loss"] < before["attribution_loss"]


@pytest.mark.slow
def test_a_model_of_bfloat16_keeps_float32_weights_while_it_is_trained(files, tmp_path):
    made = tree(files, tmp_path / "run", models={"dtype": "bfloat16"}, training={"max_steps": 2, "save_steps": 5})
    saved = load_file(carried_out(made) / "model" / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}


@pytest.mark.slow
def test_a_budget_of_minutes_is_measured_and_kept(files, tmp_path):
    folder = carried_out(tree(files, tmp_path / "run", minutes=0.02))
    assert yaml.safe_load((folder / "recipe.yaml").read_text())["training"]["max_steps"] <= 9
    assert any("a step" in event["text"] for event in events(folder, "note"))


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "a teacher without a head": ({"models": {"teacher": "base"}}, "base has no head for a task; fine-tune it first"),
    "labels that differ": (
        {"models": {"student": "teacher_three", "teacher": "teacher_two"}},
        "the labels of .*teacher_three and of its teacher .*teacher_two differ: label 0 is bad and LABEL_0",
    ),
    "rows of another task": (
        {"data": {"train": "three.jsonl", "heldout": None}},
        "row 1 has the label 'bad', which is none of the model's: LABEL_0, LABEL_1",
    ),
    "numbers as texts": (
        {"models": {"teacher": "teacher_number"}, "data": {"train": "quoted.jsonl", "heldout": None}},
        "row 1 has the label '0.25', a text, but the labels of a regression are numbers; write 0.25 without quotes",
    ),
    "another tokenizer": ({"models": {"student": "other"}}, "policy and teacher have different tokenizers"),
    "an adapter of unknown settings": (
        {"models": {"lora": {"rank": 2}}},
        "models.lora: PEFT's LoraConfig has no 'rank'; did you mean 'r'",
    ),
    "prompts": ({"eval": {"prompts": ["x"]}}, "eval.prompts: a classifier generates nothing"),
    "a device of the teacher": (
        {"models": {"teacher_device": "cpu"}},
        "models.teacher_device: a teacher's maps are made beside the policy's",
    ),
    "a prompt of the teacher": (
        {"data": {"teacher_prompt": "hint"}},
        "data.teacher_prompt: a teacher reads the text that the policy reads",
    ),
    "reentrant checkpoints": (
        {"training": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}},
        "use_reentrant has no second derivative",
    ),
    "compiling": ({"training": {"torch_compile": True}}, "a compiled model has no second derivative"),
    "arguments of another loop": (
        {"training": {"packing": True}},
        "training.packing is only for methods that learn from rows",
    ),
    "rows that are cut": ({"training": {"max_length": 4}}, "rows would be dropped or truncated"),
    "too few layers": ({"models": {"student": {"from": "teacher", "layers": 9}}}, "cannot keep 9 of 3 layers"),
}


@pytest.mark.parametrize(("changes", "said"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_trained_is_refused_and_nothing_is_left(files, tmp_path, changes, said):
    rows = tiny_classifier.rows(4, "number")
    tiny_classifier.write(files / "quoted.jsonl", [{**row, "label": str(row["label"])} for row in rows])
    if not (files / "other").exists():
        tiny_classifier.classifier(head=False).save_pretrained(files / "other")
        words = tiny_classifier.WORDS
        tiny_classifier.word_tokenizer((*words[:4], *reversed(words[4:]))).save_pretrained(files / "other")

    def placed(value):
        here = isinstance(value, str) and (files / value).exists()
        return str(files / value) if here else value

    changes = {
        k: {key: placed(one) for key, one in v.items()} if isinstance(v, dict) else v for k, v in changes.items()
    }
    with pytest.raises(UserError, match=said):
        carried_out(tree(files, tmp_path / "run", **changes))
    assert not (tmp_path / "run").exists()


def test_classes_without_a_training_row_are_said(files, tmp_path):
    rows = [row for row in tiny_classifier.rows(20, "three") if row["label"] != "fine"]
    path = tiny_classifier.write(tmp_path / "some.jsonl", rows)
    made = tree(files, tmp_path / "run", "three", data={"train": path}, training={"max_steps": 1})
    notes = [event["text"] for event in events(carried_out(made), "note")]
    assert any("no row has the label fine; the model cannot learn to choose it" in note for note in notes)
