"""`training.share_prefixes: true` in a recipe: what it changes, and what is refused."""

import re
from typing import Any

import pytest
import torch

import architectures
import tiny_folder
from tiny_runs import QUIET, events, recipe, weights
from trimtab.models.packing_check import CannotPack
from trimtab.runs.budget import seconds_per_step
from trimtab.runs.estimate import estimates
from trimtab.runs.job import load_job
from trimtab.runs.policy import Shared
from trimtab.runs.run import run
from trimtab.train import settings
from trimtab.train.keys import TrainingError, check_early


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_folder.lay_out(tmp_path_factory.mktemp("files"))
    architectures.build("jamba").save_pretrained(folder / "jamba")
    tiny_folder.byte_tokenizer().save_pretrained(folder / "jamba")
    turns = ["How much is it?", "It is three.", "And with tax?", "It is four.", "Thanks a lot.", "You are welcome."]
    rows = [
        {"prompt": f"Shop {shop}. {' '.join(turns[:end])}", "completion": turns[end]}
        for shop in range(8)
        for end in (1, 3, 5)
    ]
    tiny_folder.write_jsonl(folder / "turns.jsonl", rows)
    return folder


def shared(files, output, method="kd", training=None, **changes) -> Any:
    asked = {
        "max_length": 120, "max_steps": 2, "optim": "sgd", "share_prefixes": True, "per_device_train_batch_size": 6,
        "train_sampling_strategy": "sequential", "gradient_accumulation_steps": 1, **(training or {}),
    }  # fmt: skip
    data = {"train": str(files / "turns.jsonl"), **changes.pop("data", {})}
    return recipe(files, output, method, training=asked, data=data, **changes)


@pytest.mark.parametrize("method", ["sft", "kd"])
def test_training_gives_the_weights_of_rows_read_whole(files, tmp_path, method):
    models = {} if method == "kd" else {"student": str(files / "teacher"), "teacher": None}
    one = run(shared(files, tmp_path / "shared", method, models=models), console=QUIET).folder
    plain = shared(files, tmp_path / "plain", method, {"share_prefixes": False}, models=models)
    other = run(plain, console=QUIET).folder
    found, wanted = weights(one), weights(other)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)
    for a, b in zip(events(one, "train"), events(other, "train"), strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
        assert a["answer_tokens"] == b["answer_tokens"]


@pytest.mark.parametrize("order", ["sequential", "random"])
def test_a_run_says_what_is_saved_and_how_to_save_more(files, tmp_path, order):
    training = {"train_sampling_strategy": order, "per_device_train_batch_size": 3}
    job = load_job(shared(files, tmp_path / "run", training=training), Shared(), QUIET)
    (note,) = (one for one in job.notes if one.startswith("training.share_prefixes"))
    share, *better = (int(one) for one in re.findall(r"(\d+)%", note))
    in_order = better[0] if order == "random" else share
    # each shop's rows are a batch, and its last row holds nearly all of the others
    assert 50 < in_order <= 66
    assert (share < 20) == (order == "random")
    assert len(better) == (order == "random")


def test_batches_of_the_run_have_shared_places_and_are_timed(files, tmp_path):
    job = load_job(shared(files, tmp_path / "run"), Shared(), QUIET)
    assert job.args.share_prefixes
    assert seconds_per_step(job, QUIET) > 0
    assert any("tokens that may be shared" in part.name for part in estimates(shared(files, tmp_path / "run"))[0].parts)


def test_a_policy_that_cannot_share_is_refused_before_a_folder_is_made(files, tmp_path):
    made = shared(files, tmp_path / "run", "sft", models={"student": str(files / "jamba"), "teacher": None})
    with pytest.raises(
        CannotPack, match=r"the policy \(jamba\) .*a mask of its own.*leave training\.share_prefixes out"
    ):
        run(made, console=QUIET)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("loop", "training", "message"),
    [
        ("rollouts", {}, "only for methods that learn from rows"),
        ("classification", {}, "only for methods that learn from rows"),
        ("supervised", {"packing": True}, "leave one of them out"),
        ("supervised", {"router_aux_loss_coef": 0.1}, "counts each token"),
    ],
)
def test_what_goes_with_it_is_checked_early_and_late(loop, training, message):
    for check in (settings.check, check_early):
        with pytest.raises(TrainingError, match=message):
            check({"share_prefixes": True, **training}, loop)
