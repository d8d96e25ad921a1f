"""Two processes that learn from rollouts do what one does that has all of them."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import torch.distributed as dist

import tiny
import tiny_group
from tiny_rollout_trainer import count_of_a, grpo, policy, trainer
from trimtab.models.scalar_head import as_critic
from trimtab.objectives.policy_gradient import ValueLoss
from trimtab.signals.auxiliary import ValueModel
from trimtab.train import first_ratio
from trimtab.train.events import StopOnInterrupt

pytestmark = pytest.mark.slow  # a sixth of a minute for the group alone; test_sampled_pairs has a fast one


class Case(NamedTuple):
    rows: int
    """of a micro-batch, over all processes"""
    settings: dict[str, Any]


CASES = {
    "whole groups": Case(4, {"num_generations": 2}),
    "a group lies in both": Case(2, {"num_generations": 4, "steps_per_generation": 2}),
    "several micro-batches": Case(4, {"num_generations": 4, "gradient_accumulation_steps": 2}),
    "several updates": Case(4, {"num_generations": 2, "steps_per_generation": 2, "num_iterations": 2}),
    "limits on sampling": Case(4, {"temperature": 0.7, "top_p": 0.9, "top_k": 50}),
    "transformers' own generation": Case(4, {"cache_implementation": "dynamic", "temperature": 0.7, "top_k": 50}),
    "one has no answer": Case(2, {"num_generations": 4, "steps_per_generation": 2, "mask_truncated_completions": True}),
}
ONE_BEGUN = "one has no answer"


def train(folder: Path, name: str, processes: int) -> dict[str, Any]:
    """What a small run of GRPO does in this process."""
    rows, settings = CASES[name]
    plan, shown = grpo(candidates=3, needs=frozenset({"old"})), []
    settings = {"max_steps": 4, **settings, "per_device_train_batch_size": rows // processes}
    made = trainer(folder, plan, watch=lambda step, rows: shown.append((step, rows)), **settings)
    if name == ONE_BEGUN:
        made._generate_single_turn = lambda *given: given_completions(made)
    made.train()
    return {
        "weights": {name: value.detach().clone() for name, value in made.model.named_parameters()},
        "targets": [one.batch.targets.tolist() for one in plan.advantages.seen],
        "rewards": [one.rewards.tolist() for one in plan.advantages.seen],
        "groups": [one.group.tolist() for one in plan.advantages.seen],
        "rows": [one.batch.row_id.tolist() for one in plan.advantages.seen],
        "old": [one.signals["old"] for one in plan.advantages.seen],
        "candidates": [one.candidates.logprobs for one in plan.advantages.seen],
        "tokens": made.totals.answer_tokens,
        "shown": shown,
        "logs": made.state.log_history,
    }


def given_completions(made: Any) -> tuple[list[list[int]], None]:
    """Of the four completions to a prompt, the first process has two that do not end and so do not count."""
    places = [made.accelerator.process_index * len(made._rows) + i for i in range(len(made._rows))]
    step = made.state.global_step
    return [[5 + place, 120 + step] + ([0] if place >= 2 else [9] * place) for place in places], None


def both(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: train(folder / name, name, tiny_group.PROCESSES) for name in CASES}


@pytest.fixture(scope="module")
def of_two(tmp_path_factory) -> list[dict[str, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("two")
    return tiny_group.in_group(folder, both, folder)


@pytest.fixture(scope="module")
def of_one(tmp_path_factory) -> dict[str, dict[str, Any]]:
    return {name: train(tmp_path_factory.mktemp("one"), name, 1) for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_completions_rewards_and_groups_of_two_processes_are_those_of_one(of_two, of_one, name):
    one = of_one[name]
    for found in of_two:
        assert {key: found[name][key] for key in ("targets", "rewards", "groups", "rows", "tokens")} == {
            key: one[key] for key in ("targets", "rewards", "groups", "rows", "tokens")
        }
        for key in ("old", "candidates"):
            for mine, wanted in zip(found[name][key], one[key], strict=True):
                torch.testing.assert_close(mine, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_two_processes_move_the_weights_of_a_policy_that_samples_as_one_does(of_two, of_one, name):
    start = dict(policy().named_parameters())
    moved, *others = (
        {key: value - start[key].detach() for key, value in found[name]["weights"].items()}
        for found in (of_one, *of_two)
    )
    assert max(value.abs().max() for value in moved.values()) > 1e-2
    for other in others:
        assert tiny.relative_error(other, moved) < 1e-5
    assert all(torch.equal(others[0][key], others[1][key]) for key in moved)


@pytest.mark.parametrize("name", CASES)
def test_rollouts_are_shown_once_in_the_order_of_one_process_and_logs_are_over_all(of_two, of_one, name):
    first, second = (found[name] for found in of_two)
    assert second["shown"] == []
    for (step, rows), (wanted_step, wanted) in zip(first["shown"], of_one[name]["shown"], strict=True):
        assert step == wanted_step
        assert [{**row, "advantages": pytest.approx(row["advantages"], abs=2e-4)} for row in rows] == wanted
    for log, wanted in zip(first["logs"], of_one[name]["logs"], strict=True):
        kept = {key for key in log if not any(word in key for word in ("time", "second", "epoch"))}
        assert kept == {key for key in wanted if not any(word in key for word in ("time", "second", "epoch"))}
        for key in kept:
            assert log[key] == pytest.approx(wanted[key], rel=1e-4, abs=1e-5), key


def test_one_process_had_no_answer_token_of_its_own(of_one):
    """Or the case above would be none."""
    labels = of_one[ONE_BEGUN]["shown"][0][1]
    assert [len(row["ids"]) for row in labels] == [0, 0, 3, 3]


# ---------------------------------------------------------------- models that learn along


def learn_along() -> tuple[float, dict[str, torch.Tensor]]:
    """Two updates of a critic, of three rows and of one, which the second of two processes has no part of."""
    if "RANK" in os.environ:
        dist.init_process_group("gloo")
    rows = tiny.rows(((3, 5), (2, 4), (1, 6), (2, 3)))
    made = ValueModel(as_critic(tiny.model("llama"), seed=3), 0.01)
    made._optimizer = torch.optim.SGD(made._trained, lr=0.5)
    returns = torch.arange(18.0) / 9
    loss = made.fit(rows.inputs(), {"returns": returns}, ValueLoss(), "token_mean", 3, 1)
    return loss, {name: value for name, value in made.state_dict().items() if name.startswith("weight")}


def test_a_critic_learns_in_two_processes_what_it_learns_in_one(tmp_path):
    loss, wanted = learn_along()
    first, second = tiny_group.in_group(tmp_path, learn_along)
    model = as_critic(tiny.model("llama"), seed=3)
    start = {f"weight.{i}": p.detach() for i, p in enumerate(p for p in model.parameters() if p.requires_grad)}
    moved = {name: value - start[name] for name, value in wanted.items()}
    assert max(value.abs().max() for value in moved.values()) > 1e-3
    for own, weights in (first, second):
        assert own == pytest.approx(loss, rel=1e-5)
        assert tiny.relative_error({name: value - start[name] for name, value in weights.items()}, moved) < 1e-5


# ---------------------------------------------------------------- one that fails


def failing(folder: Path, what: str) -> str:
    """The error of a run in which something goes wrong in the second process alone."""
    second = os.environ["RANK"] == "1"

    def reward(prompts, completions, completion_ids, **columns):
        if second and what == "reward":
            raise ZeroDivisionError("the second one's reward failed")
        if second and what == "not graded":
            return [None] * len(prompts)
        return count_of_a(prompts, completions, completion_ids)

    made = trainer(folder, grpo(), rewards=[reward], per_device_train_batch_size=2, max_steps=2)
    if what == "generation" and second:
        made.generation_config.eos_token_id = "none"
    if what == "loss" and second:
        made._shuffled = spoilt(made._shuffled)
    made.add_callback(interrupt := StopOnInterrupt())
    interrupt.interrupted = what == "interrupt" and second
    if what == "ratio":
        apart = [first_ratio.Apart("old", 0.5, 0.1)] if second else []
        first_ratio.measured = lambda *given: apart  # of this forked process
    try:
        made.train()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return f"stopped after step {made.state.global_step}"


def spoilt(shuffled: Any) -> Any:
    def changed(rows: Any) -> Any:
        return shuffled({**rows, "signal.advantages": rows["signal.advantages"] * torch.nan})

    return changed


FAILURES = {
    "loss": ("NotFinite: step 1: the loss is nan", "NotFinite: step 1: the loss is nan"),
    "interrupt": ("stopped after step 1", "stopped after step 1"),
    "reward": ("OtherProcessFailed: process 1 failed: the second", "ZeroDivisionError: the second one's reward failed"),
    "generation": ("OtherProcessFailed: process 1 failed: ", ""),
    "not graded": ("NotGraded: ", "NotGraded: "),
    "ratio": ("RatioError: the ratio of the policy in training", "RatioError: the ratio of the policy in training"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_what_fails_in_one_process_ends_the_other_with_its_message(tmp_path, what):
    found = tiny_group.in_group(tmp_path, failing, tmp_path / "run", what)
    for one, begun in zip(found, FAILURES[what]):
        assert one.startswith(begun), found
    if what in ("loss", "not graded"):
        assert found[0] == found[1]
