"""Rollouts from a server: it gets the policy's weights and says the same of them, or the run ends with a message."""

import threading

import pytest
import torch
from peft import LoraConfig, get_peft_model

import tiny_folder
from fake_engine import serving
from tiny_rollout_trainer import SETTINGS, count_of_a, dataset, grpo, policy
from tiny_rollouts_served import served_trainer
from trimtab.core import Plan
from trimtab.methods.rloo import LeaveOneOut, WholeAnswers
from trimtab.models.forward import add_objective_forward
from trimtab.train import settings
from trimtab.train.importance import CorrectionError
from trimtab.train.rollouts import RolloutTrainer
from trimtab.train.served import EngineError, EngineGone, How, ServerClient
from trimtab.train.served_trainer import ServedRolloutTrainer


@pytest.fixture
def engine(tmp_path):
    with serving(policy(seed=3), tmp_path / "weights") as one:
        yield one


def how(engine, **changes) -> How:
    return How(engine.url, str(engine.folder), 0.0, 30.0, "float32")._replace(**changes)


def trainer(folder, engine, plan=None, model=None, reach=None, longest=32, **changes) -> ServedRolloutTrainer:
    return served_trainer(
        folder, plan or grpo(), model or policy(), tiny_folder.byte_tokenizer(), reach or how(engine), longest=longest,
        **changes,
    )  # fmt: skip


def logged(made) -> dict:
    return next(one for one in made.state.log_history if "loss" in one)


# ---------------------------------------------------------------- what works


def test_completions_are_those_of_the_policy_and_its_weights_reach_the_server(tmp_path, engine):
    made = trainer(tmp_path, engine, max_steps=2)
    made.train()
    first, second = engine.sent
    torch.testing.assert_close(first["model.norm.weight"], policy().model.norm.weight.detach())
    assert not torch.equal(first["lm_head.weight"], second["lm_head.weight"])  # after an update
    assert torch.equal(first["lm_head.weight"], first["model.embed_tokens.weight"])  # tied, and sent by both names
    found = logged(made)
    assert found["engine_check"] < 1e-5
    assert found["engine_logprob_difference"] < 1e-5
    assert found["importance_ratio"] == pytest.approx(1, abs=1e-4)
    assert found["importance_beyond"] == 0
    assert not list(engine.folder.iterdir())  # nothing is left of the files


def test_the_update_is_that_of_the_same_completions_sampled_here(tmp_path, engine):
    own_model = policy()
    add_objective_forward(own_model)
    args = settings.build(settings.check(dict(SETTINGS), "rollouts"), tmp_path, 0, "rollouts")
    own = RolloutTrainer(
        model=own_model, args=args, plan=grpo(), reward_funcs=[count_of_a], train_dataset=dataset(),
        processing_class=tiny_folder.byte_tokenizer(), correct=(1.0,),
    )  # fmt: skip
    made, sampled = trainer(tmp_path, engine), []

    def kept(prompts, number):
        sampled.append(made.vllm_generation._asked(prompts, number))
        return sampled[-1]

    made.vllm_generation._asked, made.vllm_generation._ask = made.vllm_generation._ask, kept
    made.train()
    own._generate_single_turn = lambda *args, **kwargs: (sampled[0][0], None)  # what the server sampled
    own.train()
    assert sampled[0][0]
    for one, other in zip(made.model.parameters(), own_model.parameters()):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
        assert not torch.equal(other, torch.zeros_like(other))


def test_a_completion_ends_with_an_end_token_or_at_its_longest(tmp_path, engine):
    made = trainer(tmp_path, engine, max_completion_length=40)
    made.train()
    (asked,) = {(tuple(body["stop_token_ids"]), body["max_tokens"]) for path, body in engine.seen
                if path == "/v1/completions" and "n" in body}  # fmt: skip
    assert asked == (tuple(made.eos_token_ids), 40)
    rows = made.plan.advantages.seen[0].batch
    ends = [rows.targets[rows.row == row].tolist() for row in range(4)]
    assert all(len(one) == 40 or one[-1] in made.eos_token_ids for one in ends)
    assert all(token not in made.eos_token_ids for one in ends for token in one[:-1])


def test_the_loss_is_weighed_by_the_probability_under_the_policy_over_that_in_the_server(tmp_path, engine):
    plan = grpo()
    made = trainer(tmp_path, engine, plan, vllm_importance_sampling_mode="token_truncate")
    said = made.vllm_generation._ask

    def bent(prompts, number):
        ids, logprobs, which = said(prompts, number)
        return ids, [[[value - 0.5] for (value,) in row] for row in logprobs], which  # it says e^-0.5 of each

    made.vllm_generation._ask = bent
    weights = []
    corrected = made._importance
    made._importance = lambda *given: weights.append(corrected(*given)["importance"]) or {"importance": weights[0]}
    made.train()
    torch.testing.assert_close(weights[0], torch.full_like(weights[0], 0.5).exp(), rtol=1e-4, atol=0)
    assert logged(made)["importance_ratio"] == pytest.approx(1.6487, rel=1e-3)
    assert logged(made)["engine_logprob_difference"] == pytest.approx(0.5, rel=1e-3)


def test_completions_do_not_depend_on_how_often_they_are_asked_for(tmp_path, engine):
    client = ServerClient(how(engine), "policy", seeds=lambda place: 7 + place)
    more = {"stop_token_ids": [0], "ignore_eos": True}
    sampling = {"n": 2, "temperature": 1.0, "max_tokens": 6, "logprobs": 0}
    one, other = (client.completions([[5, 6], [5, 6]], more, **sampling) for _ in range(2))
    assert one == other
    assert one["completion_ids"][:2] != one["completion_ids"][2:]  # the second prompt has a seed of its own


def test_adapters_are_sent_merged_and_the_weights_under_them_keep_their_bits(tmp_path, engine):
    torch.manual_seed(0)
    lora = LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    model = get_peft_model(policy(), lora)
    before = {name: value.detach().clone() for name, value in model.named_parameters() if "lora" not in name}
    made = trainer(tmp_path, engine, model=model)
    made.train()
    assert logged(made)["engine_check"] < 1e-5  # the server computes what policy and adapters do
    after = dict(made.model.named_parameters())
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not any("lora" in name or "base_layer" in name for name in engine.sent[0])
    plain = before["base_model.model.model.layers.0.self_attn.q_proj.base_layer.weight"]
    assert not torch.allclose(engine.sent[0]["model.layers.0.self_attn.q_proj.weight"], plain)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "change, said",
    [
        ({"dtype": "torch.bfloat16"}, "its dtype is bfloat16 instead of float32"),
        ({"max_model_len": 31}, "its --max-model-len is 31, and prompt and completion have up to 32"),
        ({"logprobs_mode": "raw_logprobs"}, "its --logprobs-mode is raw_logprobs instead of processed_logprobs"),
        ({"quantization": "fp8"}, "its weights are quantised"),
    ],
)
def test_a_server_that_does_not_fit_is_refused_by_what_differs(tmp_path, engine, change, said):
    engine.config |= change
    with pytest.raises(EngineError, match=said):
        trainer(tmp_path, engine)
    assert not engine.sent


def test_another_tokenizer_is_refused(tmp_path, engine):
    engine.tokenize = lambda body: {"tokens": [1, 2, 3]}
    with pytest.raises(EngineError, match="its tokenizer gives other ids"):
        trainer(tmp_path, engine)


def test_another_model_is_refused_with_the_servers_words(tmp_path, engine):
    words = "Worker failed with error 'the server has another model: hidden_size is 16 here and 8', please check it"
    engine.failing["/init_weight_transfer_engine"] = (500, f"Call failed: {words}")
    with pytest.raises(EngineError, match="another model: hidden_size is 16 here and 8$"):
        trainer(tmp_path, engine)
    asked = next(body for path, body in engine.seen if path == "/init_weight_transfer_engine")["init_info"]
    assert asked["model"]["vocab_size"] == tiny_folder.VOCAB


@pytest.mark.parametrize("backend, said", [(None, "by nothing"), ("ipc", "by ipc"), ("nccl", "needs a CUDA device")])
def test_a_server_that_takes_no_weights_from_here_is_refused(tmp_path, engine, backend, said):
    engine.backend = backend
    with pytest.raises(EngineError, match=f"{said}.* start it with: TRIMTAB_WEIGHTS_FOLDER="):
        trainer(tmp_path, engine)


def test_a_server_without_its_development_endpoints_is_refused_with_the_command(tmp_path, engine):
    engine.failing["/server_info"] = (404, "Not Found")
    with pytest.raises(EngineError, match="has no /server_info; start one with: .*VLLM_SERVER_DEV_MODE=1 vllm serve"):
        trainer(tmp_path, engine)


def test_a_folder_that_is_not_there_is_named(tmp_path, engine):
    with pytest.raises(EngineError, match="there is no folder /nowhere; make it: mkdir -m 700 /nowhere"):
        trainer(tmp_path, engine, reach=how(engine, weights_folder="/nowhere"))


def test_no_server_is_said_after_the_wait(tmp_path, engine):
    with pytest.raises(EngineGone, match="no server is up at http://127.0.0.1:9 .* after 0.1 seconds; start one with"):
        trainer(tmp_path, engine, reach=how(engine, server="http://127.0.0.1:9", wait=0.1))


def test_a_server_that_keeps_old_weights_stops_the_run(tmp_path, engine):
    engine.stale = True
    made = trainer(tmp_path, engine)
    with pytest.raises(EngineError, match="gives other log-probabilities than the policy: .* nats apart"):
        made.train()
    assert not list(engine.folder.iterdir())


@pytest.mark.parametrize("tolerance, passes", [(1e-12, False), (0.5, True)])
def test_how_far_server_and_policy_may_be_apart_can_be_said(tmp_path, engine, tolerance, passes):
    made = trainer(tmp_path, engine, reach=how(engine, tolerance=tolerance))
    said = made.vllm_generation._own
    made.vllm_generation._own = lambda ids: said(ids) + 0.4
    if passes:
        made.train()
    else:
        with pytest.raises(EngineError, match="0.4 nats apart on average over .* tokens, 1e-12 are allowed"):
            made.train()


def test_weights_of_tokens_are_refused_for_a_method_of_whole_completions(tmp_path, engine):
    plan = Plan(WholeAnswers(0.2, 0.2), reduction="sequence_mean", advantages=LeaveOneOut(0.0))
    with pytest.raises(CorrectionError, match="token_mask"):
        trainer(tmp_path, engine, plan, vllm_importance_sampling_mode="token_mask")
    trainer(tmp_path, engine, plan).train()


def test_a_completion_that_was_broken_off_is_not_learnt_from(tmp_path, engine):
    made = trainer(tmp_path, engine, max_completion_length=40)
    engine.broken_off = True
    with pytest.raises(EngineGone, match="broke off a completion after 1 tokens"):
        made.train()


def test_a_key_is_sent_and_a_server_that_asks_for_one_is_named(tmp_path, engine, monkeypatch):
    monkeypatch.setenv("TRIMTAB_API_KEY", "secret")
    client = ServerClient(how(engine), "policy")
    assert client.session.headers["Authorization"] == "Bearer secret"
    engine.failing["/v1/models"] = (401, "Unauthorized")
    with pytest.raises(EngineError, match="asks for a key; give it in TRIMTAB_API_KEY"):
        ServerClient(how(engine), "policy")


# ---------------------------------------------------------------- a server that fails on the way


def test_a_server_that_answers_500_ends_the_run_with_its_words(tmp_path, engine):
    made = trainer(tmp_path, engine)
    engine.failing["/update_weights"] = (500, "no room")
    with pytest.raises(EngineError, match="answers 500 to /update_weights: no room"):
        made.train()
    assert not list(engine.folder.iterdir())


def test_a_server_that_hangs_is_given_up(tmp_path, engine):
    made = trainer(tmp_path, engine, reach=how(engine, timeout=1.0))
    engine.before["/reset_prefix_cache"] = lambda: engine.hanging.update({"/reset_prefix_cache": 3.0})
    with pytest.raises(EngineGone, match="has not answered /reset_prefix_cache within 1 seconds.*rollouts.timeout"):
        made.train()


def test_a_server_that_was_started_again_gets_the_weights_once_more(tmp_path, engine):
    made = trainer(tmp_path, engine)

    def again():
        engine.before["/v1/completions"] = engine.restart  # at the first completion, after the check

    engine.before["/v1/completions"] = again
    made.train()
    assert made.vllm_generation.again == 1
    assert len(engine.sent) == 2
    torch.testing.assert_close(engine.sent[0]["lm_head.weight"], engine.sent[1]["lm_head.weight"])
    assert logged(made)["engine_logprob_difference"] < 1e-5  # none of the old weights' completions is learnt from
    assert any("started again 1 times" in remark for remark in made.remarks())


def test_a_server_that_was_started_again_between_updates_gets_the_weights(tmp_path, engine):
    made = trainer(tmp_path, engine, max_steps=2)
    turn = made._generate_single_turn
    made._generate_single_turn = lambda *args, **kwargs: (turn(*args, **kwargs), engine.restart())[0]
    made.train()
    assert made.vllm_generation.again == 1
    assert len(engine.sent) == 2


def test_a_server_that_comes_back_as_another_one_is_refused(tmp_path, engine):
    made = trainer(tmp_path, engine)
    engine.config["dtype"] = "torch.bfloat16"
    engine.restart()
    with pytest.raises(EngineError, match="its dtype is bfloat16"):
        made.train()


def test_another_run_on_the_same_server_is_noticed(tmp_path, engine):
    made = trainer(tmp_path, engine)

    def other():
        engine.before["/v1/completions"] = lambda: engine.finish_weight_update({"weight_version": "other"})

    engine.before["/v1/completions"] = other
    with pytest.raises(EngineError, match="changed by another program: they are 'other'"):
        made.train()


def test_a_server_that_is_gone_ends_the_run_with_how_it_goes_on(tmp_path):
    with serving(policy(seed=3), tmp_path / "weights") as engine:
        made = trainer(tmp_path, engine)
        gone = threading.Event()
        ask = made.vllm_generation._ask

        def dies(prompts, number):
            if not gone.is_set():
                gone.set()
                engine.shutdown()
                engine.server_close()
                made.vllm_generation.vllm_client.session.close()
            return ask(prompts, number)

        made.vllm_generation._ask = dies
        with pytest.raises(EngineGone, match="is gone .* start it again and resume the run with --resume"):
            made.train()
