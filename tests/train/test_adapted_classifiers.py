"""Runs that train decoders as classifiers, and classifiers with adapters: what is saved answers as what was trained."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from rich.console import Console
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

import tiny_classifier
from tiny_runs import cut_off, events, same_weights
from trimtab.core import Labels
from trimtab.models.classifier import ClassifierError, load_classifier, stored_labels
from trimtab.runs.parse import parse
from trimtab.runs.recipe import Recipe
from trimtab.runs.run import run

CLASSES = Labels(tiny_classifier.CLASSES)
LORA = {"r": 2, "lora_alpha": 8, "target_modules": "all-linear"}


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("adapted")
    for kind in ("bert", "distilbert", *tiny_classifier.DECODERS):
        tiny_classifier.save(folder / kind, kind, head=False)
        if kind == "bert":  # as many come: without weights of the pooler, which a task needs
            encoder = tiny_classifier.classifier(kind, head=False)
            kept = {name: value for name, value in encoder.state_dict().items() if "pooler" not in name}
            encoder.save_pretrained(folder / kind, state_dict=kept)
        tokenizer = AutoTokenizer.from_pretrained(folder / kind)
        if kind in tiny_classifier.DECODERS:  # as many come: no token to pad with, and padding on the left
            tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token = "[CLS]", "[SEP]", None
            tokenizer.padding_side = "left"
            tokenizer.save_pretrained(folder / kind)
    tiny_classifier.write(folder / "rows.jsonl", tiny_classifier.rows(8, "three"))
    tiny_classifier.write(folder / "held.jsonl", tiny_classifier.rows(7, "three", start=50))
    return folder


def trained(files: Path, output: Path, kind: str, resume: bool = False, **changes: Any) -> Path:
    models = {"policy": str(files / kind)} if "student" not in changes.get("models", {}) else {}
    made: dict[str, Any] = {
        "method": "classify", "models": models, "output": str(output),
        "data": {"train": str(files / "rows.jsonl"), "heldout": str(files / "held.jsonl")},
        "training": {
            "num_train_epochs": 2, "learning_rate": 0.01, "per_device_train_batch_size": 4, "save_steps": 1,
            "save_total_limit": 9, "logging_steps": 1,
        },
    }  # fmt: skip
    for key, value in changes.items():
        made[key] = {**made[key], **value} if isinstance(made.get(key), dict) else value
    recipe = parse(made, "test", "run")
    assert isinstance(recipe, Recipe)
    return run(recipe, resume=resume, console=Console(quiet=True)).folder


def held_answers(folder: Path) -> list[int]:
    """The class of each held-out row after the last step, as the run measured it."""
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    last = max(one["step"] for one in samples)
    found = {one["row_id"]: int(one["answer"]) for one in samples if one["kind"] == "heldout" and one["step"] == last}
    return [found[row] for row in sorted(found)]


def texts(files: Path) -> list[str]:
    return [json.loads(line)["sentence"] for line in (files / "held.jsonl").read_text().splitlines()]


def padded(files: Path, folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(folder)(texts(files), return_tensors="pt", padding=True)


@torch.no_grad()
def logits(model: Any, batch: Any) -> torch.Tensor:
    read = {key: batch[key] for key in ("input_ids", "attention_mask")}
    return model.eval()(**read).logits


@pytest.mark.parametrize("kind", tiny_classifier.DECODERS)
def test_a_decoder_becomes_a_classifier_that_transformers_reads_in_batches_of_unequal_rows(files, tmp_path, kind):
    folder = trained(files, tmp_path / "run", kind)
    model = AutoModelForSequenceClassification.from_pretrained(folder / "model")
    assert type(model).__name__.lower().startswith(kind)
    assert model.config.pad_token_id == 3
    assert logits(model, padded(files, folder / "model")).argmax(dim=-1).tolist() == held_answers(folder)
    said = pipeline("text-classification", str(folder / "model"), device="cpu")(texts(files), batch_size=7)
    assert [one["label"] for one in said] == [CLASSES.names[answer] for answer in held_answers(folder)]
    notes = [event["text"] for event in events(folder, "note")]
    assert any("8 rows of" in note and "end with [SEP], which also pads" in note for note in notes)


@pytest.mark.slow
def test_a_decoder_learns_where_its_teacher_looks_and_its_first_token_is_no_part_of_maps(files, tmp_path):
    teacher = trained(files, tmp_path / "teacher", "llama")
    folder = trained(
        files, tmp_path / "run", "llama", method="ad_kd", options={"beta": 5.0, "steps": 2},
        models={"student": {"from": "teacher", "layers": 1}, "teacher": str(teacher / "model")},
    )  # fmt: skip
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    maps = [one for one in samples if one["kind"] == "attribution"]
    assert maps
    assert all("[CLS]" not in one["tokens"] for one in maps)
    assert all(sum(x * x for x in one["student"]) == pytest.approx(1, rel=1e-4) for one in maps)
    assert events(folder, "eval")[-1]["attribution_loss"] > 0


@pytest.mark.fast("bert")
@pytest.mark.parametrize("kind", ["bert", "distilbert", "llama", "gpt2"])
def test_an_adapter_with_its_head_is_saved_and_answers_as_the_merged_model(files, tmp_path, kind):
    folder = trained(files, tmp_path / "run", kind, models={"lora": LORA})
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert settings["task_type"] == "SEQ_CLS"
    batch = padded(files, folder / "model")
    wanted = logits(AutoModelForSequenceClassification.from_pretrained(folder / "model"), batch)
    assert wanted.argmax(dim=-1).tolist() == held_answers(folder)
    assert stored_labels(str(folder / "adapter")) == CLASSES
    ours = load_classifier(str(folder / "adapter"), CLASSES, seed=11)
    ours.config.pad_token_id = 3 if kind in tiny_classifier.DECODERS else 0
    torch.testing.assert_close(logits(ours, batch), wanted, rtol=1e-4, atol=1e-5)
    torch.manual_seed(12)  # the new head of the base model is drawn at random, and replaced
    base = AutoModelForSequenceClassification.from_pretrained(files / kind, num_labels=3, pad_token_id=0)
    base.config.pad_token_id = ours.config.pad_token_id
    torch.testing.assert_close(
        logits(PeftModel.from_pretrained(base, folder / "adapter"), batch), wanted, rtol=1e-4, atol=1e-5
    )


def test_only_the_adapter_and_the_head_are_trained(files, tmp_path):
    folder = trained(files, tmp_path / "run", "bert", models={"lora": LORA})
    before = AutoModelForSequenceClassification.from_pretrained(files / "bert", num_labels=3).bert
    after = AutoModelForSequenceClassification.from_pretrained(folder / "model").bert
    assert torch.equal(before.embeddings.word_embeddings.weight, after.embeddings.word_embeddings.weight)
    assert not torch.equal(before.encoder.layer[0].output.dense.weight, after.encoder.layer[0].output.dense.weight)


@pytest.mark.slow
def test_a_student_with_an_adapter_is_attributed_though_its_embeddings_are_frozen_and_resumes(files, tmp_path):
    teacher = trained(files, tmp_path / "teacher", "bert")
    how: dict[str, Any] = {
        "method": "ad_kd", "options": {"beta": 5.0},
        "models": {"policy": str(files / "bert"), "teacher": str(teacher / "model"), "lora": LORA},
    }  # fmt: skip
    whole = trained(files, tmp_path / "whole", "bert", **how)
    assert events(whole, "eval")[-1]["attribution_loss"] != events(whole, "eval")[0]["attribution_loss"]
    cut_off(whole, tmp_path / "run", 3)
    assert same_weights(whole, trained(files, tmp_path / "run", "bert", resume=True, **how))


def test_an_adapter_without_a_head_is_no_classifier(files, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(files / "llama")
    get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", r=2)).save_pretrained(tmp_path / "adapter")
    with pytest.raises(ClassifierError, match="holds no head for a task"):
        load_classifier(str(tmp_path / "adapter"), CLASSES)
