"""The trainer on TRL: who divides, what is logged, what stops it, which checkpoints count."""

from typing import Any

import pytest
import torch
from datasets import Dataset

import tiny
from tiny_training import dataset, trainer
from trimtab import methods
from trimtab.core import IGNORE, Objective, Plan, TokenBatch
from trimtab.data.collate import Collator
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match
from trimtab.signals.frozen import FrozenModel
from trimtab.train import settings
from trimtab.train.base import NotFinite
from trimtab.train.checkpoints import (
    CheckpointError,
    check,
    last_complete,
    mark_complete,
    passed_over,
    remove_incomplete,
)
from trimtab.train.settings import TrainingError


def moved(folder, plan_of=None, **training: Any) -> dict[str, torch.Tensor]:
    """How far one SGD step moves each weight: minus the learning rate times the gradient."""
    policy = tiny.model("llama_tied")
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    trainer(folder, plan_of and plan_of(), policy, **training).train()
    return {name: value - before[name] for name, value in policy.state_dict().items() if "rotary" not in name}


def teacher_plan() -> Plan:
    return Plan(Match(forward_kl, 1.0, 0.0), (FrozenModel(tiny.model("llama_tied", seed=5)),))


def hpd_plan() -> Plan:
    method = methods.load("hpd")
    return method.build(method.config(), tiny.model(), teacher=FrozenModel(tiny.model("llama_tied", seed=5)))


def sequence_plan() -> Plan:
    return Plan(Likelihood(), reduction="sequence_mean")


@pytest.mark.fast("1-teacher_plan", "1-hpd_plan", "2-sequence_plan")
@pytest.mark.parametrize("plan_of", [None, teacher_plan, hpd_plan, sequence_plan])
@pytest.mark.parametrize("size", [1, 2, 4])
def test_an_update_is_the_same_however_its_eight_rows_are_split(tmp_path, plan_of, size):
    whole = moved(tmp_path, plan_of)
    split = moved(tmp_path, plan_of, per_device_train_batch_size=size, gradient_accumulation_steps=8 // size)
    assert sum(float(v.abs().sum()) for v in whole.values()) > 0
    assert tiny.relative_error(split, whole) < 1e-5


def test_an_update_is_the_gradient_of_the_mean_over_answer_tokens(tmp_path):
    policy = tiny.model("llama_tied")
    batch = Collator(0, tiny.VOCAB)(list(dataset()))
    logits = policy(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten(), ignore_index=IGNORE
    ).backward()
    expected = {name: -0.1 * grad for name, grad in tiny.gradients(policy).items()}
    found = moved(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    assert tiny.relative_error({name: found[name] for name in expected}, expected) < 1e-5


def test_gradient_checkpointing_changes_no_update(tmp_path):
    assert tiny.relative_error(moved(tmp_path, gradient_checkpointing=True), moved(tmp_path)) < 1e-6


def test_logged_metrics_are_means_over_the_answer_tokens_of_the_update(tmp_path):
    made = trainer(tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=4, logging_steps=1)
    policy = made.model
    batch = Collator(0, tiny.VOCAB)(list(dataset()))
    with torch.no_grad():
        logits = policy(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    expected = -TokenBatch.align(logits, batch["labels"]).logprobs().mean().item()
    made.train()
    logged = made.state.log_history[0]
    assert logged["nll"] == pytest.approx(expected, rel=1e-5)
    assert logged["loss"] == pytest.approx(expected, rel=1e-5)
    assert logged["answer_tokens"] == 30


class _Poisoned(Objective):
    """SFT whose loss is NaN for the row with id 5."""

    needs = frozenset()
    per = "token"

    def __init__(self, gradient_only: bool = False):
        self.gradient_only = gradient_only

    def __call__(self, batch: TokenBatch):
        values = -batch.logprobs()
        bad = batch.row_id[batch.row] == 5
        if self.gradient_only:  # finite value, infinite slope
            return batch.losses(torch.where(bad, (values - values.detach()).clamp(min=0).sqrt(), values))
        return batch.losses(torch.where(bad, values * float("nan"), values))


@pytest.mark.parametrize("gradient_only", [False, True])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_weights_change(tmp_path, gradient_only):
    made = trainer(tmp_path, Plan(_Poisoned(gradient_only)), per_device_train_batch_size=8, max_grad_norm=1.0)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    with pytest.raises(NotFinite, match=r"^step 1: the (loss|gradient norm) is (nan|inf).* 6"):
        made.train()
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())


def test_the_rows_of_a_loss_that_is_not_finite_are_those_of_its_micro_batch_counted_from_one(tmp_path):
    made = trainer(
        tmp_path, Plan(_Poisoned()), per_device_train_batch_size=1, gradient_accumulation_steps=8, max_grad_norm=1.0
    )
    with pytest.raises(NotFinite, match=r"in a batch with training rows 6; the weights"):
        made.train()


def test_an_update_whose_labels_are_all_masked_is_finite_and_moves_nothing(tmp_path):
    rows = Dataset.from_list([{"input_ids": [3, 4], "labels": [IGNORE, IGNORE], "row_id": 0}])
    policy = tiny.model("llama_tied")
    before = policy.get_input_embeddings().weight.clone()
    trainer(tmp_path, policy=policy, rows=rows).train()
    assert torch.equal(policy.get_input_embeddings().weight, before)


def test_every_kept_checkpoint_is_marked_complete_and_older_ones_go(tmp_path):
    made = trainer(tmp_path, max_steps=4, save_strategy="steps", save_steps=1, save_total_limit=2)
    made.train()
    kept = sorted(path.name for path in (tmp_path / "checkpoints").glob("checkpoint-*"))
    assert kept == ["checkpoint-3", "checkpoint-4"]
    assert last_complete(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "checkpoint-4"


def test_the_older_checkpoint_is_there_until_the_newer_one_is_complete(tmp_path, monkeypatch):
    made = trainer(tmp_path, max_steps=2, save_strategy="steps", save_steps=1, save_total_limit=1)

    def killed(*args):
        if made.state.global_step == 2:
            raise SystemExit

    monkeypatch.setattr(made, "_save_rng_state", killed)
    with pytest.raises(SystemExit):
        made.train()
    assert last_complete(tmp_path / "checkpoints").name == "checkpoint-1"


def test_a_checkpoint_without_its_marker_is_ignored_and_removed(tmp_path):
    for step in (2, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
    mark_complete(tmp_path / "checkpoint-2")
    assert last_complete(tmp_path) == tmp_path / "checkpoint-2"
    assert remove_incomplete(tmp_path) == [tmp_path / "checkpoint-10"]
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]


def test_a_checkpoint_counts_only_with_the_files_that_it_was_written_with(tmp_path):
    for step in (2, 4):
        (tmp_path / f"checkpoint-{step}" / "part").mkdir(parents=True)
        (tmp_path / f"checkpoint-{step}" / "optimizer.pt").write_bytes(b"x" * 9)
        (tmp_path / f"checkpoint-{step}" / "part" / "model.safetensors").write_bytes(b"y" * 9)
        mark_complete(tmp_path / f"checkpoint-{step}")
    newest, older = tmp_path / "checkpoint-4", tmp_path / "checkpoint-2"
    (newest / "notes.txt").write_text("of the user")
    assert last_complete(tmp_path) == newest
    assert passed_over(tmp_path, newest) is None
    (newest / "part" / "model.safetensors").write_bytes(b"y" * 5)
    assert last_complete(tmp_path) == older
    note = passed_over(tmp_path, older)
    assert "model.safetensors has 5 bytes, and had 9 when it was written" in note
    assert "so the run resumes from checkpoint-2" in note
    check(tmp_path)
    (older / "optimizer.pt").unlink()
    assert last_complete(tmp_path) is None
    with pytest.raises(
        CheckpointError, match="checkpoint-4 cannot be resumed from: .*part/model.safetensors has 5 byt"
    ):
        check(tmp_path)
    (newest / "complete").write_text("")  # as earlier versions wrote it
    assert last_complete(tmp_path) == newest
    (newest / "complete").write_text('{"optim')
    assert last_complete(tmp_path) is None
    assert sorted(remove_incomplete(tmp_path)) == [older, newest]
    check(tmp_path)


def test_the_newest_checkpoint_goes_by_its_number(tmp_path):
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        mark_complete(tmp_path / f"checkpoint-{step}")
    assert last_complete(tmp_path).name == "checkpoint-10"


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"lerning_rate": 1}, "did you mean 'learning_rate'"),
        ({"seed": 1}, "training.seed is set by the recipe's `seed`"),
        ({"padding_free": True}, "give training.packing: true"),
        ({"ignore_data_skip": True}, "would restart its epoch"),
        ({"dataloader_in_order": False}, "a different order each time"),
        ({"zzz": 1}, "the keys are those of TRL's SFTConfig"),
    ],
)
def test_training_arguments_that_cannot_be_used_are_refused(training, message):
    with pytest.raises(TrainingError, match=message):
        settings.check(training)


def test_a_value_that_trl_refuses_is_one_line(tmp_path):
    with pytest.raises(TrainingError) as raised:
        settings.build({"lr_scheduler_type": "zigzag"}, tmp_path, 0)
    assert "\n" not in str(raised.value)


def test_bf16_and_gradient_checkpointing_are_off_by_default_unlike_in_trl():
    assert settings.check({}) == {"bf16": False, "gradient_checkpointing": False}
    assert settings.check({"bf16": True})["bf16"] is True
