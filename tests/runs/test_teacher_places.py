"""A teacher on a device of its own, in few bits, and with an adapter."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from rich.console import Console

import tiny_folder
from tiny_runs import QUIET, events, recipe, same_weights
from trimtab.common.processes import ProcessError
from trimtab.models.loading import load_model
from trimtab.runs.estimate import estimates
from trimtab.runs.job import load_job
from trimtab.runs.policy import Shared
from trimtab.runs.recipe import RecipeError
from trimtab.runs.run import run

HAS_BITS = find_spec("bitsandbytes") is not None


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    wide = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 32}  # what a block of 64 weights divides
    wide |= {"num_attention_heads": 4, "num_key_value_heads": 4}
    tiny_folder.save(folder / "wide", kind="llama", seed=4, **wide)
    return folder


def taught(files: Path, output: Path, **models):
    student = {"student": str(files / "teacher"), "teacher": str(files / "wide")}
    return recipe(files, output, "kd", models={**student, **models}, training={"max_steps": 2, "save_steps": 2})


def test_on_the_policys_own_device_it_is_the_same_teacher(files, tmp_path):
    plain = run(taught(files, tmp_path / "plain"), console=QUIET).folder
    placed = run(taught(files, tmp_path / "placed", teacher_device="cpu"), console=QUIET).folder
    assert same_weights(plain, placed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator")
def test_it_stays_on_the_cpu_beside_an_accelerator(files, tmp_path):
    plain = run(taught(files, tmp_path / "plain"), console=QUIET).folder
    asked = taught(files, tmp_path / "placed", teacher_device="cpu")
    job = load_job(asked, Shared(), Console(quiet=True))
    assert job.heldout_signals[0].models[0].to("cuda").device.type == "cpu"
    placed = run(asked, console=QUIET).folder
    for a, b in zip(events(plain, "train"), events(placed, "train"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)


@pytest.mark.parametrize("name", ["cuda:17", "gpu", "CPU"])
def test_a_device_that_is_not_there_costs_one_line(files, tmp_path, trimtab, name):
    (tmp_path / "r.yaml").write_text(
        json.dumps(taught(files, tmp_path / "run", teacher_device=name).model_dump(mode="json", by_alias=True))
    )
    code, _, err = trimtab("train", tmp_path / "r.yaml")
    assert code == 2
    assert f"models.teacher_device: there is no {name} on this machine; it has: cpu" in " ".join(err.split())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("key", [{"teacher_device": "cpu"}, {"teacher_bits": 8}])
@pytest.mark.parametrize("teacher", [None, "cache:nowhere"])
def test_where_no_teacher_is_loaded_nothing_is_said_of_it(files, tmp_path, key, teacher):
    with pytest.raises(RecipeError, match=f"{next(iter(key))} is of a teacher that is loaded"):
        recipe(files, tmp_path / "run", "kd", models={"student": str(files / "teacher"), "teacher": teacher, **key})


@pytest.mark.skipif(HAS_BITS, reason="bitsandbytes is installed")
def test_few_bits_without_bitsandbytes_are_refused_by_name(files, tmp_path):
    with pytest.raises(RecipeError, match=r"teacher_bits needs bitsandbytes.*pip install bitsandbytes"):
        taught(files, tmp_path / "run", teacher_bits=4)


@pytest.mark.skipif(not HAS_BITS, reason="bitsandbytes is not installed")
@pytest.mark.parametrize(("bits", "most"), [(4, 0.6), (8, 0.1)])
def test_a_teacher_in_few_bits_says_nearly_the_same_and_takes_less(files, tmp_path, bits, most):
    asked = taught(files, tmp_path / "run", teacher_bits=bits)
    job = load_job(asked, Shared(), Console(quiet=True))
    teacher = job.plan.signals[0]
    inputs = job.collator(job.train.rows[:4])
    found = teacher(None, inputs)["teacher"].compute().softmax(-1)
    whole = load_job(taught(files, tmp_path / "whole"), Shared(), Console(quiet=True)).plan.signals[0]
    wanted = whole(None, inputs)["teacher"].compute().softmax(-1)
    assert 0 < (found - wanted).abs().sum(-1).mean() < most
    kinds = {type(module).__name__ for module in teacher.models[0].modules()}
    assert kinds & {"Linear4bit", "Linear8bitLt"}
    assert len(events(run(asked, console=QUIET).folder, "train")) == 2


def test_the_estimate_counts_few_bits(files, tmp_path, monkeypatch):
    from trimtab.runs import teacher_key

    monkeypatch.setattr(teacher_key, "find_spec", lambda name: name)
    whole, packed = (
        next(p for p in estimates(taught(files, tmp_path / "run", **bits))[0].parts if p.name.startswith("teacher "))
        for bits in ({}, {"teacher_bits": 4})
    )
    assert "4 bits" in packed.name
    assert packed.size < whole.size / 2


def test_a_teacher_may_be_an_adapter_on_its_base(files, tmp_path):
    lora = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
    trained = recipe(
        files, tmp_path / "sft", "sft", models={"teacher": None, "student": str(files / "wide"), "lora": lora}
    )
    folder = run(trained, console=QUIET).folder
    job = load_job(taught(files, tmp_path / "run", teacher=str(folder / "adapter")), Shared(), Console(quiet=True))
    inputs = job.collator(job.train.rows[:2])
    merged = load_model(str(folder / "model"))
    with torch.no_grad():
        wanted = merged(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    of_answers = inputs["labels"][:, 1:] != -100
    found = job.plan.signals[0](None, inputs)["teacher"].compute()
    torch.testing.assert_close(found, wanted[:, :-1][of_answers], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"models": {"teacher_cache": "memory"}}, "teacher_cache keeps rows by process"),
        ({"models": {"teacher_device": "cpu"}}, "teacher_device names one place"),
        ({"minutes": 1}, "minutes are measured with whole models"),
        ({"models": {"teacher": "vllm://127.0.0.1:8000"}}, "no frozen model is loaded"),
    ],
)
def test_what_a_split_teacher_cannot_do_is_refused_by_name(files, tmp_path, changes, why):
    models = {"student": str(files / "teacher"), "teacher": str(files / "teacher"), "split_frozen": True}
    changes = {**changes, "models": models | changes.get("models", {})}
    with pytest.raises(RecipeError, match=rf"models.split_frozen: .*{why}.*leave one of them out"):
        recipe(files, tmp_path / "run", "kd", **changes)


def test_a_teacher_is_split_only_where_the_policy_is(files, tmp_path):
    with pytest.raises(
        ProcessError, match=r"split_frozen .* trains in 1 process on cpu; .*trimtab launch --devices N --fsdp"
    ):
        run(taught(files, tmp_path / "run", split_frozen=True), console=Console(quiet=True))
    assert not (tmp_path / "run").exists()
