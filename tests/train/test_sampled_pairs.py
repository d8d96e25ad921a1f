"""Pairs of an answer and a sampled one: what is sampled by which weights, what is dropped, and a resume."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
import tiny_group
import tiny_training
from trimtab.core import IGNORE, TokenBatch
from trimtab.data.collate import Collator
from trimtab.methods.proxy_align import METHOD, Config
from trimtab.models.forward import add_objective_forward
from trimtab.train import settings
from trimtab.train.sampled_pairs import (
    SampledPairsError,
    SampledPairsTrainer,
    check_one_answer,
    check_sampling,
    pairs_of,
    prompts_of,
    until_end,
)

ROWS = {
    "input_ids": torch.tensor([[7, 8, 3, 4, 2], [9, 5, 2, 0, 0], [6, 6, 6, 0, 0]]),
    "labels": torch.tensor([[IGNORE, IGNORE, 3, 4, 2], [IGNORE, 5, 2, IGNORE, IGNORE], [IGNORE] * 5]),
    "attention_mask": torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [1, 1, 1, 0, 0]]),
    "row_id": torch.tensor([4, 5, 6]),
}


def ids(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.long)


def test_a_pair_has_one_prompt_and_labels_for_both_answers():
    assert [one.tolist() for one in prompts_of(ROWS)] == [[7, 8], [9], [6, 6, 6]]
    made = pairs_of({key: value[:2] for key, value in ROWS.items()}, [ids(3, 2), ids(1, 1, 1, 2)], pad=0)
    assert made["input_ids"].tolist() == [[7, 8, 3, 4, 2], [7, 8, 3, 2, 0], [9, 5, 2, 0, 0], [9, 1, 1, 1, 2]]
    i = IGNORE
    assert made["labels"].tolist() == [[i, i, 3, 4, 2], [i, i, 3, 2, i], [i, 5, 2, i, i], [i, 1, 1, 1, 2]]
    assert made["attention_mask"].sum(dim=1).tolist() == [5, 4, 3, 5]
    assert made["row_id"].tolist() == [4, 4, 5, 5]


@pytest.mark.parametrize("answer", [(3, 4, 2), ()])
def test_equal_and_empty_answers_and_rows_without_one_have_no_labels(answer):
    made = pairs_of(ROWS, [ids(*answer), ids(7), ids(1, 2)], pad=0)
    assert (made["labels"][[0, 1, 4, 5]] == IGNORE).all()
    assert (made["labels"][2:4] != IGNORE).any(dim=1).all()


def test_a_sampled_answer_ends_with_its_end_token():
    assert until_end(ids(4, 2, 0, 0), ids(2, 9)).tolist() == [4, 2]
    assert until_end(ids(4, 5), ids(2)).tolist() == [4, 5]


def test_a_row_with_several_answers_is_refused_with_the_way_out():
    check_one_answer([IGNORE, 1, 2, IGNORE], 1)
    with pytest.raises(SampledPairsError, match="training row 7 has 2 answers.*data.turns: each"):
        check_one_answer([IGNORE, 1, IGNORE, 2], 7)


def test_packs_and_sharded_policies_are_refused(monkeypatch):
    check_sampling(SimpleNamespace(packing=False), [])
    with pytest.raises(SampledPairsError, match="training.packing joins"):
        check_sampling(SimpleNamespace(packing=True), [])
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    with pytest.raises(SampledPairsError, match="the launch asks for ZeRO-3"):
        check_sampling(SimpleNamespace(packing=False), [])


# ---------------------------------------------------------------- in training


class Keeps(SampledPairsTrainer):
    """Keeps the batches that it was given, and the weights at the time."""

    def _paired(self, batches: Any) -> list:
        before = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        made = super()._paired(batches)
        self.kept = [*getattr(self, "kept", []), (before, [dict(one) for one in batches], made)]
        return made


def trainer(folder, policy=None, options: Config | None = None, **training: Any) -> Keeps:
    policy = policy or tiny.model("llama_tied")
    add_objective_forward(policy)
    given = {
        "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "max_steps": 4, "learning_rate": 0.5,
        "optim": "sgd", "lr_scheduler_type": "constant", "save_strategy": "no", "use_cpu": True, **training,
    }  # fmt: skip
    tokenizer = tiny.tokenizer(["<unk>", *(f"w{i}" for i in range(tiny.VOCAB - 1))])
    tokenizer.pad_token = tokenizer.eos_token = "<unk>"
    options = options or Config(round_updates=2, max_new_tokens=5)
    return Keeps(
        model=policy,
        args=settings.build(settings.check(given), folder, seed=0),
        plan=METHOD.build(options, policy),
        train_dataset=tiny_training.dataset(),
        processing_class=tokenizer,
        data_collator=Collator(0, tiny.VOCAB),
    )


def sampled_of(made: list) -> list[list[int]]:
    return [
        row[labels != IGNORE].tolist()
        for one in made
        for row, labels in zip(one["input_ids"][1::2], one["labels"][1::2])
    ]


def test_rejected_answers_are_sampled_by_the_weights_of_the_round_s_beginning(tmp_path):
    one = trainer(tmp_path)
    one.train()
    weights = [before for before, _, _ in one.kept]
    begun = [0, 0, 2, 2]
    for update, (_, batches, made) in enumerate(one.kept):
        policy = tiny.model("llama_tied")
        policy.load_state_dict(weights[begun[update]])
        again = trainer(tmp_path / f"again{update}", policy)
        again.state.global_step = update
        again.plan.rejected.before_update = lambda *args: None  # it is as old as the policy
        torch.manual_seed(99)
        assert sampled_of(again._paired(batches)) == sampled_of(made)
    assert not all(torch.equal(weights[0][name], value) for name, value in weights[1].items())
    answers = [answer for _, _, made in one.kept for answer in sampled_of(made)]
    assert len({tuple(answer) for answer in answers}) > 8


def test_what_is_counted_is_what_was_sampled_and_the_reference_is_the_round_s_beginning(tmp_path):
    one = trainer(tmp_path, max_steps=1)
    one.train()
    ((_, _, made),) = one.kept
    tokens = sum(int((part["labels"] != IGNORE).sum()) for part in made)
    assert one.totals.answer_tokens == tokens
    losses = [entry for entry in one.state.log_history if "dpo" in entry]
    assert losses[0]["dpo"] == pytest.approx(0.693147, rel=1e-5)
    with torch.no_grad():
        policy, chosen = tiny.model("llama_tied"), []
        for part in made:
            logits = policy(input_ids=part["input_ids"], attention_mask=part["attention_mask"]).logits
            batch = TokenBatch.align(logits, part["labels"])
            chosen.append(-batch.logprobs()[batch.row % 2 == 0])
    nll = torch.cat(chosen).mean().item()
    assert losses[0]["nll"] == pytest.approx(nll, rel=1e-4)
    assert losses[0]["loss"] == pytest.approx(0.693147 + nll, rel=1e-4)


def test_a_run_that_stopped_within_a_round_samples_and_learns_the_same(tmp_path):
    whole = trainer(tmp_path / "whole", max_steps=4, save_strategy="steps", save_steps=1)
    whole.train()
    again = trainer(tmp_path / "again", max_steps=4)
    again.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoints" / "checkpoint-3"))
    assert sampled_of(again.kept[-1][2]) == sampled_of(whole.kept[-1][2])
    for name, value in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], value), name


def trained(folder, size: int) -> tuple[list[list[int]], dict[str, Tensor], dict[str, float]]:
    one = trainer(folder, per_device_train_batch_size=size)
    one.train()
    logs = [entry for entry in one.state.log_history if "dpo" in entry]
    rows = [(int(row), ids) for _, batches, made in one.kept
            for row, ids in zip(torch.cat([b["row_id"] for b in batches]), sampled_of(made))]  # fmt: skip
    return rows, {name: value.detach().clone() for name, value in one.model.state_dict().items()}, logs[-1]


def test_two_processes_sample_and_learn_what_one_does(tmp_path):
    rows, weights, log = trained(tmp_path / "one", 2)
    first, second = tiny_group.in_group(tmp_path, trained, tmp_path / "two", 1)
    assert sorted(first[0] + second[0]) == sorted(rows)
    start = tiny.model("llama_tied").state_dict()
    moved = {name: value - start[name] for name, value in weights.items()}
    for _, own, _ in (first, second):
        assert tiny.relative_error({name: value - start[name] for name, value in own.items()}, moved) < 1e-5
    for name in ("dpo", "nll", "dropped_pairs", "answer_tokens", "loss"):
        assert first[2][name] == pytest.approx(log[name], rel=1e-4, abs=1e-6), name
