"""Rollouts from a real vLLM server, which is the only one that can tell whether its numbers are the policy's."""

import subprocess
from pathlib import Path

import pytest
import requests
import torch
from peft import LoraConfig, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM, AutoTokenizer

from tiny_rollout_trainer import Grouped
from tiny_rollouts_served import served_trainer
from trimtab.core import Plan
from trimtab.engines.vllm import EngineMissing, Serve, VLLMServer, find_vllm, free_port
from trimtab.models.builtin import builtin_folder
from trimtab.objectives.policy_gradient import PolicyGradient
from trimtab.runs import run as runs
from trimtab.runs.parse import parse
from trimtab.train import served_rollouts
from trimtab.train.served import EngineError, How

pytestmark = pytest.mark.slow


def program() -> str:
    """vLLM with the plugin, or a reason to skip."""
    try:
        found = find_vllm()
    except EngineMissing as error:
        pytest.skip(str(error))
    python = Path(found).with_name("python")
    if subprocess.run([python, "-c", "import trimtab_vllm"], capture_output=True).returncode:
        pytest.skip(f"{python} lacks the plugin: pip install --no-deps packages/trimtab-vllm")
    return found


def server_of(folder: Path, model: str, port: int) -> VLLMServer:
    more = ("--weight-transfer-config", '{"backend": "file"}', "--logprobs-mode", "processed_logprobs")
    serve = Serve(
        model, port, dtype="float32", max_model_len=512, max_num_seqs=32, max_logprobs=-1, kv_cache_bytes=2**28,
        eager=True, more=more,
    )  # fmt: skip
    own = {"TRIMTAB_WEIGHTS_FOLDER": str(folder), "VLLM_SERVER_DEV_MODE": "1", "OMP_NUM_THREADS": "1"}
    return VLLMServer(serve, environment=own, program=program())


@pytest.fixture(scope="module")
def model() -> str:
    program()
    return str(builtin_folder("characters-1m"))


@pytest.fixture(scope="module")
def server(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("weights")
    with server_of(folder, model, free_port()) as one:
        one.folder = folder
        yield one


def how(server, **changes) -> How:
    return How(server.url, str(server.folder), 5.0, 300.0, "float32")._replace(**changes)


def policy(model: str, seed: int = 1):
    """The served model with other weights, so that old ones would be seen."""
    made = AutoModelForCausalLM.from_pretrained(model)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return made


def trainer(folder, server, model, made=None, **changes):
    plan = Plan(PolicyGradient(0.2, 0.2), advantages=Grouped())
    made = policy(model) if made is None else made
    return served_trainer(
        folder, plan, made, AutoTokenizer.from_pretrained(model), how(server), longest=200,
        **{"learning_rate": 0.05, "max_completion_length": 24, "num_generations": 4, **changes},
    )  # fmt: skip


def test_the_server_says_the_same_of_the_tokens_as_the_policy_at_every_update(tmp_path, server, model):
    made = trainer(tmp_path, server, model, max_steps=3, temperature=0.7, steps_per_generation=2)
    made.train()
    found = [one for one in made.state.log_history if "loss" in one]
    assert len(found) == 3
    checks = [one["engine_check"] for one in found if "engine_check" in one]
    assert len(checks) == 2  # one transfer of weights for each batch of rollouts
    assert max(checks) < 1e-4
    assert max(one.get("engine_logprob_difference", 0) for one in found) < 1e-4
    assert found[0]["importance_ratio"] == pytest.approx(1, abs=1e-3)
    rollouts = made.plan.advantages.seen[0]
    lengths, ends = rollouts.batch.lengths.tolist(), made.eos_token_ids
    rows = [one.tolist() for one in rollouts.batch.targets.split(lengths)]
    assert all(len(one) == 24 or one[-1] in ends for one in rows)
    assert all(token not in ends for one in rows for token in one[:-1])


def test_limits_on_sampling_hold_and_are_corrected_for(tmp_path, server, model):
    made = trainer(tmp_path, server, model, top_k=3, vllm_importance_sampling_mode="token_truncate")
    made.train()
    (found,) = (one for one in made.state.log_history if "loss" in one)
    assert 0.05 < found["importance_ratio"] < 0.999  # the three likeliest share what all had
    assert found["engine_check"] < 1e-4  # which is of the model alone


def test_adapters_arrive_merged(tmp_path, server, model):
    torch.manual_seed(0)
    lora = LoraConfig(r=4, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    made = trainer(tmp_path, server, model, get_peft_model(policy(model), lora))
    made.train()
    (found,) = (one for one in made.state.log_history if "loss" in one)
    assert found["engine_check"] < 1e-4
    assert found["engine_logprob_difference"] < 1e-4


def test_a_tied_head_that_is_not_sent_is_noticed(tmp_path, server, model, monkeypatch):
    monkeypatch.setattr(served_rollouts, "_tied_head", lambda model: None)
    made = trainer(tmp_path, server, model, policy(model, seed=2))  # of another head than tests before left there
    with pytest.raises(EngineError, match="gives other log-probabilities than the policy"):
        made.train()


def test_another_model_is_named_by_the_server(tmp_path, server, model):
    made = policy(model)
    made.config.intermediate_size = 64
    with pytest.raises(EngineError, match="another model: intermediate_size is 352 here and 64 in the trainer"):
        trainer(tmp_path, server, model, made)


def test_the_server_reads_no_other_file_and_goes_on(tmp_path, server, model):
    def post(path, **body):
        return requests.post(f"{server.url}{path}", json=body, timeout=60)

    assert "the server reads them from" in post("/init_weight_transfer_engine", init_info={"folder": "/tmp"}).text
    assert post("/init_weight_transfer_engine", init_info={"folder": str(server.folder)}).ok
    for name in ("../x.safetensors", "/etc/passwd", "x.bin", "none.safetensors"):
        assert post("/start_weight_update").ok
        refused = post("/update_weights", update_info={"name": name})
        assert refused.status_code == 500
        assert "file" in refused.text
    trainer(tmp_path, server, model).train()


TASKS = "trimtab:planted_errors/train?rows=64&level=small"


def recipe(server, folder, model, steps):
    training = {"per_device_train_batch_size": 8, "num_generations": 4, "max_completion_length": 16, "save_steps": 1}
    return parse(
        {
            "method": "grpo", "models": {"policy": model}, "data": {"train": TASKS}, "reward": "exact",
            "rollouts": {"engine": "vllm", "server": server.url, "weights_folder": str(server.folder)},
            "training": {**training, "max_steps": steps, "learning_rate": 0.001, "lr_scheduler_type": "constant"},
            "output": str(folder),
        }, "here", "run",
    )  # fmt: skip


def test_a_run_is_resumed_on_a_server_with_other_weights(tmp_path, server, model):
    quiet = Console(quiet=True)
    runs.run(recipe(server, tmp_path / "run", model, 2), console=quiet)
    other = tmp_path / "other"
    trainer(other, server, model).train()  # leaves its own weights in the server
    found = runs.run(recipe(server, tmp_path / "run", model, 4), console=quiet, resume=True)
    page = found.report.read_text()
    assert "engine and policy after each transfer of weights" in page
    assert "by the vLLM server at" in page


def test_a_server_that_is_killed_and_started_again_gets_the_weights(tmp_path, model):
    folder, port = tmp_path / "weights", free_port()
    folder.mkdir()
    first = server_of(folder, model, port)
    first.folder = folder
    with first:
        made = trainer(tmp_path, first, model, max_steps=2)
        turn, second = made._generate_single_turn, []

        def then_restart(*given):
            found = turn(*given)
            if not second:
                first.stop()
                second.append(server_of(folder, model, port))
                second[0].start()
                second[0].wait_ready()
            return found

        made._generate_single_turn = then_restart
        try:
            made.train()
        finally:
            for one in second:
                one.stop()
    assert made.vllm_generation.again == 1
    checks = [one["engine_check"] for one in made.state.log_history if "engine_check" in one]
    assert len(checks) == 2
    assert max(checks) < 1e-4
