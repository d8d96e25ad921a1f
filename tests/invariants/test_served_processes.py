"""Two processes that learn from a server's completions: the first talks, and both do what one would."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
import tiny_folder
import tiny_group
from fake_engine import serving
from tiny_rollout_trainer import grpo, policy
from tiny_rollouts_served import served_trainer
from trimtab.train.served import How

pytestmark = pytest.mark.slow


def train(folder: Path, how: How, processes: int, **changes: Any) -> dict[str, Any]:
    settings = {"max_steps": 2, "per_device_train_batch_size": 4 // processes, "num_generations": 4, **changes}
    plan = grpo(needs=frozenset({"old"}))
    made = served_trainer(folder, plan, policy(), tiny_folder.byte_tokenizer(), how, **settings)
    made.train()
    return {
        "weights": {name: value.detach().clone() for name, value in made.model.named_parameters()},
        "targets": [one.batch.targets.tolist() for one in plan.advantages.seen],
        "ratio": [one["importance_ratio"] for one in made.state.log_history if "loss" in one],
        "talks": hasattr(made.vllm_generation, "vllm_client"),
    }


@pytest.fixture
def engine(tmp_path):
    with serving(policy(seed=3), tmp_path / "weights") as one:
        yield one


def how(engine) -> How:
    return How(engine.url, str(engine.folder), 0.0, 30.0, "float32")


def test_the_first_of_two_processes_talks_and_both_learn_what_one_does(tmp_path, engine):
    found = tiny_group.in_group(tmp_path / "two", train, tmp_path / "two", how(engine), 2)
    sent = len(engine.sent)
    one = train(tmp_path / "one", how(engine), 1)
    assert sent == 2  # one transfer for each batch of rollouts
    assert [other["talks"] for other in found] == [True, False]
    start = {name: value.detach() for name, value in policy().named_parameters()}
    moved = {name: value - start[name] for name, value in one["weights"].items()}
    for other in found:
        assert other["targets"] == one["targets"]
        assert other["ratio"] == pytest.approx(one["ratio"], abs=1e-5)
        assert tiny.relative_error({n: v - start[n] for n, v in other["weights"].items()}, moved) < 1e-5
    assert all(torch.equal(found[0]["weights"][name], found[1]["weights"][name]) for name in start)


@pytest.mark.parametrize("path", ["/update_weights", "/v1/completions", "/init_weight_transfer_engine"])
def test_what_the_server_refuses_ends_both(tmp_path, engine, path):
    engine.failing[path] = (500, "no room")
    first, second = tiny_group.in_group(tmp_path / "two", train, tmp_path / "two", how(engine), 2)
    assert f"answers 500 to {path}: no room" in str(first)
    assert f"process 0 failed: the server at {engine.url} answers 500 to {path}" in str(second)
