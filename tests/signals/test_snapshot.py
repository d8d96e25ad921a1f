"""Lagged weights: when they are renewed, what they hold, and that the policy is left as it was."""

import pytest
import torch

import tiny
from tiny_training import trainer
from trimtab.core import Plan
from trimtab.methods.psft import PSFT
from trimtab.models.adapters import add_lora
from trimtab.models.forward import add_objective_forward
from trimtab.signals.initial_policy import own_logprobs
from trimtab.signals.snapshot import PolicySnapshot

ROWS = tiny.rows()


def policy(kind: str = "llama_tied"):
    model = tiny.model(kind)
    add_objective_forward(model)
    return model


def begin(snapshot: PolicySnapshot, model, step: int) -> None:
    """What the trainer does before the first micro-batch of an update."""
    snapshot.before_update(model, step, 0)


@torch.no_grad()
def move(model, by: float = 0.1) -> None:
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter), alpha=by)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# --- the window -------------------------------------------------------------------------------------------------


def test_it_is_renewed_every_so_many_updates_and_gives_nothing_while_it_is_as_old_as_the_policy():
    model, snapshot, given = policy(), PolicySnapshot(3), []
    for step in range(8):
        begin(snapshot, model, step)
        found = snapshot(model, ROWS.inputs())
        if step % 3 == 0:
            assert found == {}
            given.append(own_logprobs(model, ROWS.inputs()))
        else:  # of the weights at the last renewal, to the last bit
            assert torch.equal(found["snapshot"], given[-1])
            assert not torch.allclose(found["snapshot"], own_logprobs(model, ROWS.inputs()), atol=1e-3)
        move(model)


def test_without_a_number_of_updates_the_first_one_stays():
    model, snapshot = policy(), PolicySnapshot(None)
    first = own_logprobs(model, ROWS.inputs())
    for step in range(5):
        begin(snapshot, model, step)
        assert snapshot.fresh == (step == 0)
        if step:
            assert torch.equal(snapshot(model, ROWS.inputs())["snapshot"], first)
        move(model)


def test_all_micro_batches_of_an_update_see_the_same_snapshot():
    model, snapshot = policy(), PolicySnapshot(2)
    begin(snapshot, model, 0)
    assert snapshot(model, ROWS.pick([0]).inputs()) == snapshot(model, ROWS.pick([1]).inputs()) == {}
    first = own_logprobs(model, ROWS.inputs())
    move(model)
    begin(snapshot, model, 1)
    parts = [snapshot(model, ROWS.pick(part).inputs())["snapshot"] for part in ([0, 1], [2, 3])]
    torch.testing.assert_close(torch.cat(parts), first, rtol=1e-5, atol=1e-5)


def test_outside_a_training_loop_the_first_call_takes_it():
    model, snapshot = policy(), PolicySnapshot(4)
    first = own_logprobs(model, ROWS.inputs())
    assert torch.equal(snapshot(model, ROWS.inputs())["snapshot"], first)
    move(model)
    assert torch.equal(snapshot(model, ROWS.inputs())["snapshot"], first)


# --- the exchange of weights ------------------------------------------------------------------------------------


def lagging():
    """A policy one step ahead of its snapshot."""
    model, snapshot = policy(), PolicySnapshot(4)
    begin(snapshot, model, 0)
    move(model)
    begin(snapshot, model, 1)
    return model, snapshot


def test_reading_it_leaves_the_policy_as_it_was():
    model, snapshot = lagging()
    before, parameters = weights_of(model), [id(p) for p in model.parameters()]
    logprobs = own_logprobs(model, ROWS.inputs())
    snapshot(model, ROWS.inputs())
    assert same(weights_of(model), before)
    assert [id(p) for p in model.parameters()] == parameters  # those that the optimizer holds
    assert torch.equal(own_logprobs(model, ROWS.inputs()), logprobs)
    assert all(p.grad is None for p in model.parameters())


def test_an_error_while_it_is_read_leaves_the_policy_as_it_was():
    model, snapshot = lagging()
    before, lagged = weights_of(model), {name: value.clone() for name, value in snapshot.state_dict().items()}
    bad = ROWS.inputs() | {"input_ids": torch.full_like(ROWS.input_ids, tiny.VOCAB)}
    with pytest.raises(IndexError):
        snapshot(model, bad)
    assert same(weights_of(model), before)
    assert same(snapshot.state_dict(), lagged)


def test_a_step_between_two_reads_does_not_reach_it():
    model, snapshot = lagging()
    first = snapshot(model, ROWS.inputs())["snapshot"]
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(input_ids=ROWS.input_ids, labels=ROWS.labels).loss.backward()
    optimizer.step()
    assert torch.equal(snapshot(model, ROWS.inputs())["snapshot"], first)


def test_tied_weights_are_held_once_and_exchanged_in_both_places():
    model, snapshot = lagging()
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert not any("lm_head" in name for name in snapshot.state_dict())
    start = own_logprobs(policy(), ROWS.inputs())
    assert torch.equal(snapshot(model, ROWS.inputs())["snapshot"], start)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_under_lora_only_adapters_are_copied():
    model = add_lora(policy(), {"r": 2, "target_modules": "all-linear"}, seed=1)
    snapshot = PolicySnapshot(4)
    begin(snapshot, model, 0)
    held, trained = snapshot.state_dict(), {name for name, p in model.named_parameters() if p.requires_grad}
    assert held.keys() == trained
    assert all("lora" in name for name in held)
    start = own_logprobs(model, ROWS.inputs())
    move(model)
    begin(snapshot, model, 1)
    assert torch.equal(snapshot(model, ROWS.inputs())["snapshot"], start)
    assert not torch.allclose(own_logprobs(model, ROWS.inputs()), start, atol=1e-3)


# --- in a trainer and through a checkpoint ----------------------------------------------------------------------


class Ratios(PSFT):
    """PSFT that remembers the largest |log ratio| of each micro-batch."""

    def __init__(self):
        super().__init__(None)
        self.seen: list[float] = []

    def __call__(self, batch):
        losses = super().__call__(batch)
        old = batch.signals.get("snapshot")
        self.seen.append(0.0 if old is None else float((batch.logprobs().detach() - old).abs().max()))
        return losses


def plan(every: int) -> Plan:
    snapshot = PolicySnapshot(every)
    return Plan(Ratios(), (snapshot,))


def test_in_a_trainer_the_ratio_leaves_1_after_an_update_and_returns_with_a_new_snapshot(tmp_path):
    """A copy of a model that a trainer has patched would run the policy itself, and the ratio would stay 1."""
    made = plan(3)
    trainer(tmp_path, made, max_steps=7, learning_rate=0.03).train()
    seen = made.objective.seen
    assert [round(ratio, 6) == 0 for ratio in seen] == [True, False, False, True, False, False, True]
    assert seen[2] > seen[1] > 1e-3


@pytest.mark.parametrize("lora", [False, True])
def test_what_a_checkpoint_holds_brings_the_snapshot_back_in_mid_window(lora):
    def fresh():
        return add_lora(policy(), {"r": 2, "target_modules": "all-linear"}, seed=1) if lora else policy()

    model, snapshot = fresh(), PolicySnapshot(4)
    for step in range(6):  # the last snapshot is that of update 4
        begin(snapshot, model, step)
        move(model)
    held = {name: value.clone() for name, value in snapshot.state_dict().items()}
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    begin(snapshot, model, 6)
    wanted = snapshot(model, ROWS.inputs())["snapshot"]

    other, resumed = fresh(), PolicySnapshot(4)
    other.load_state_dict(weights)
    resumed.load_state_dict(held)
    begin(resumed, other, 6)
    assert torch.equal(resumed(other, ROWS.inputs())["snapshot"], wanted)
    assert same(weights_of(other), weights_of(model))
    move(other)
    begin(resumed, other, 7)
    assert torch.equal(resumed(other, ROWS.inputs())["snapshot"], wanted)  # not read from the checkpoint again
    begin(resumed, other, 8)
    assert resumed(other, ROWS.inputs()) == {}


def test_a_run_that_continues_where_a_window_begins_takes_a_new_one():
    model, snapshot = policy(), PolicySnapshot(4)
    snapshot.load_state_dict({name: torch.zeros_like(value) for name, value in model.named_parameters()})
    begin(snapshot, model, 4)
    assert snapshot.fresh
    assert same(snapshot.state_dict(), weights_of(model))


@pytest.mark.slow
def test_a_resumed_training_ends_with_the_weights_of_one_that_was_not_interrupted(tmp_path):
    def run(folder, steps, resume=None):
        saving = {"save_strategy": "steps", "save_steps": 2}
        made = trainer(folder, plan(4), max_steps=steps, learning_rate=0.03, optim="adamw_torch", **saving)
        made.train(resume_from_checkpoint=resume)
        return weights_of(made.model)

    whole = run(tmp_path / "whole", 7)
    run(tmp_path / "part", 2)
    (checkpoint,) = (tmp_path / "part" / "checkpoints").glob("checkpoint-2")
    assert same(run(tmp_path / "part", 7, str(checkpoint)), whole)
