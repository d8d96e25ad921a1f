"""`training.packing: true` in a recipe: what is said of it, what is refused, and who reads rows padded."""

import io

import pytest
import torch
from rich.console import Console

import architectures
import tiny_folder
from tiny_runs import QUIET, events, recipe, weights
from trimtab.commands.preview import preview_recipe
from trimtab.models.packing_check import CannotPack
from trimtab.runs.budget import seconds_per_step
from trimtab.runs.estimate import estimates
from trimtab.runs.job import load_job
from trimtab.runs.policy import Shared
from trimtab.runs.run import run


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    for kind in ("mamba", "opt"):
        architectures.build(kind).save_pretrained(folder / kind)
        tiny_folder.byte_tokenizer().save_pretrained(folder / kind)
    return folder


def packed(files, output, method="kd", training=None, **changes):
    asked = {"packing": True, "max_length": 120, "max_steps": 2, **(training or {})}
    return recipe(files, output, method, training=asked, **changes)


def test_a_run_says_how_rows_are_packed_and_counts_the_tokens_of_rows(files, tmp_path):
    made = packed(files, tmp_path / "packed", training={"max_steps": -1, "num_train_epochs": 2})
    padded = recipe(
        files, tmp_path / "padded", "kd", training={"max_length": 120, "max_steps": -1, "num_train_epochs": 2}
    )
    (one, other) = (run(each, console=QUIET).folder for each in (made, padded))
    notes = [event["text"] for event in events(one, "note")]
    job = load_job(made, Shared(), QUIET)
    assert job.packing is not None
    assert str(job.packing) in notes
    assert job.packing.number < len(job.train.rows) == 16
    tokens = [events(folder, "train")[-1]["answer_tokens"] for folder in (one, other)]
    assert tokens[0] == tokens[1] == 2 * job.train.counts.answer_tokens
    assert len(events(one, "train")) < len(events(other, "train"))


def test_the_preview_and_the_estimate_know_packs(files, tmp_path):
    made = packed(files, tmp_path / "run")
    text = io.StringIO()
    preview_recipe(made, 1, "train", Console(file=text, width=120))
    packing = load_job(made, Shared(), QUIET).packing
    assert packing is not None
    line = next(line for line in text.getvalue().splitlines() if line.startswith("packs"))
    assert line.split()[1] == str(packing.number)
    assert f"{packing.filled:.0%} filled" in line
    assert "of at most 120 tokens" in line
    (estimate,) = estimates(made)
    longest = max(sum(packing.sizes[i] for i in pack) for pack in packing.packs())
    assert estimate.length == longest > max(packing.sizes)
    assert any(part.name == f"mask of 2 x {longest} packed tokens" for part in estimate.parts)
    held = io.StringIO()
    preview_recipe(made, 1, "heldout", Console(file=held, width=120))
    assert "packs" not in held.getvalue()


def test_a_step_of_packs_is_timed_without_changing_the_policy(files, tmp_path):
    job = load_job(packed(files, tmp_path / "run"), Shared(), QUIET)
    before = {name: value.clone() for name, value in job.policy.state_dict().items()}
    assert seconds_per_step(job, QUIET) > 0
    assert all(torch.equal(value, before[name]) for name, value in job.policy.state_dict().items())


def test_a_policy_that_cannot_keep_rows_apart_is_refused_before_a_folder_is_made(files, tmp_path):
    made = packed(files, tmp_path / "run", "sft", models={"student": str(files / "mamba"), "teacher": None})
    with pytest.raises(CannotPack, match=r"the policy \(mamba\) takes no position_ids.*leave training\.packing out"):
        run(made, console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_teacher_that_cannot_keep_rows_apart_reads_them_padded(files, tmp_path):
    models = {"student": {"from": str(files / "opt"), "layers": 1}, "teacher": str(files / "mamba")}
    training = {"per_device_train_batch_size": 64, "gradient_accumulation_steps": 1, "optim": "sgd", "max_steps": 2}
    one = run(packed(files, tmp_path / "packed", models=models, training=training), console=QUIET).folder
    plain = recipe(files, tmp_path / "padded", "kd", models=models, training={**training, "max_length": 120})
    other = run(plain, console=QUIET).folder
    notes = [event["text"] for event in events(one, "note")]
    assert any("the teacher (mamba) takes no position_ids" in note and "reads rows padded" in note for note in notes)
    found, wanted = weights(one), weights(other)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-5) for name in wanted)
