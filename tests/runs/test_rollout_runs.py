"""Learning from own answers, from a recipe to a report."""

from pathlib import Path

import pytest
from rich.console import Console

import tiny_folder
from tiny_rollout_runs import REWARD, WITH_MODELS, lay_out, lines, parsed, reward_models, run, tree, with_models
from tiny_runs import drive, same_weights
from trimtab.commands.preview import preview_recipe
from trimtab.data.sources import DataError
from trimtab.data.tasks import prepare_tasks
from trimtab.rewards.verifiable import RewardError
from trimtab.runs import run as runs
from trimtab.runs.folder import RunError
from trimtab.runs.recipe import RecipeError
from trimtab.signals.reward_model import RewardModelError
from trimtab.train.rollouts import RolloutError


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    return lay_out(tmp_path_factory.mktemp("files"))


@pytest.mark.slow
def test_rewards_get_the_values_of_their_rows_whatever_other_rows_hold(files, tmp_path):
    rows = [
        {"prompt": "count 1", "answer": 3, "info": {"city": "Rome"}},
        {"prompt": "count 2", "answer": "three", "info": {"zone": 1}, "more": [1, "x", None]},
        {"prompt": "count 3", "answer": 1.5, "info": [True, 2]},
        {"prompt": "count 4", "answer": True, "info": {"zone": {"deep": None}}},
    ]
    tiny_folder.write_jsonl(tmp_path / "unlike.jsonl", rows)
    (tmp_path / "own.py").write_text(REWARD)
    data = {"train": str(tmp_path / "unlike.jsonl"), "heldout": str(tmp_path / "unlike.jsonl")}
    run(tree(files, tmp_path / "run", reward=f"{tmp_path}/own.py:keeping", data=data, training={"max_steps": 4}))
    seen = set((tmp_path / "own.py.seen").read_text().splitlines())
    assert seen == {f"{i} {row['answer']!r} {row['info']!r} {row.get('more')!r}" for i, row in enumerate(rows)}


@pytest.fixture(scope="module")
def finished(files, tmp_path_factory) -> Path:
    return run(tree(files, tmp_path_factory.mktemp("finished") / "run"))


def test_held_out_tasks_are_answered_before_and_after(finished):
    evals = [event for event in lines(finished / "metrics.jsonl") if event["event"] == "eval"]
    assert [event["step"] for event in evals] == [0, 3, 6]
    for event in evals:
        assert {
            "pass_at_1",
            "reward",
            "completion_length",
            "truncation_rate",
            "entropy",
            "kl_to_initial",
        } <= event.keys()
        assert event["rows"] == 3
    assert evals[0]["kl_to_initial"] == pytest.approx(0, abs=1e-6)
    assert evals[-1]["kl_to_initial"] > 1e-4
    assert evals[-1]["reward"] > evals[0]["reward"]


@pytest.mark.slow
def test_several_rewards_of_ones_own_are_weighed_alike_in_training_and_on_held_out_tasks(files, tmp_path):
    (tmp_path / "own.py").write_text(
        REWARD + "\ndef some(prompts, completions, answer, **columns):\n"
        "    return [None if int(one) % 2 else float(one) for one in answer]\n"
    )
    mine = [{"name": f"{tmp_path}/own.py:some", "correct": 2}, {"name": f"{tmp_path}/own.py:letters", "correct": 0.5}]
    made = tree(files, tmp_path / "run", training={"max_steps": 2, "reward_weights": [3.0, 0.0]}, eval={"every": None})
    made["reward"] = mine
    (found, _) = [event for event in lines(run(made) / "metrics.jsonl") if event["event"] == "eval"]
    assert found["reward"] == pytest.approx(3 * (0 + 0 + 2) / 3)  # of answers to the tasks 0, 1 and 2
    assert 1 / 3 <= found["pass_at_1"] <= 2 / 3  # the first one says no and yes, of task 1 the other decides
    (tmp_path / "own.py").write_text("def some(prompts, **columns):\n    return [None] * len(prompts)\n")
    made["reward"], made["output"] = f"{tmp_path}/own.py:some", str(tmp_path / "none")
    made["training"].pop("reward_weights")
    with pytest.raises(ValueError, match="no reward grades a completion of 'count 0'"):
        run(made)


def test_each_step_logs_where_time_went_and_what_was_earned(finished):
    train = [event for event in lines(finished / "metrics.jsonl") if event["event"] == "train"]
    assert len(train) == 6
    fresh = train[::2]  # each batch of rollouts lasts for two updates
    for event in fresh:
        assert {
            "reward",
            "seconds_generation",
            "seconds_reward",
            "seconds_advantages",
            "groups_without_signal",
        } <= event.keys()
    assert all({"entropy", "ratio", "clip_fraction", "grad_norm"} <= event.keys() for event in train)
    assert train[0]["ratio"] == pytest.approx(1, abs=1e-5)
    assert train[1]["ratio"] != pytest.approx(1, abs=1e-7)


def test_the_console_shows_reward_and_pass_at_1_in_training_and_on_held_out_tasks(files, tmp_path):
    console = Console(record=True, width=300)
    folder = runs.run(parsed(tree(files, tmp_path / "run", training={"max_steps": 2})), console=console).folder
    said = console.export_text()
    train = [event for event in lines(folder / "metrics.jsonl") if event["event"] == "train"]
    first = next(line for line in said.splitlines() if "step 1/2" in line)
    assert f"reward {train[0]['reward']:.3g}  pass@1 {train[0]['pass_at_1']:.3g}" in first
    rewards = [row["reward"] for row in lines(folder / "samples.jsonl") if row["kind"] == "rollout"]
    assert 0 <= train[0]["pass_at_1"] <= 1
    assert rewards
    held = next(line for line in said.splitlines() if line.startswith("held-out rows, step 0"))
    assert held.startswith("held-out rows, step 0: pass@1 ")
    assert "  reward " in held


def test_samples_hold_rollouts_with_the_credit_of_each_token(finished):
    rollouts = [row for row in lines(finished / "samples.jsonl") if row["kind"] == "rollout"]
    assert [row["step"] for row in rollouts] == [0] * 4 + [2] * 4 + [4] * 4
    for row in rollouts:
        assert len(row["tokens"]) == len(row["advantages"])
        assert {"prompt", "completion", "reward"} <= row.keys()


def test_the_report_shows_what_was_learnt(finished):
    page = (finished / "report.html").read_text()
    assert "completions are generated with early-exit batching" in page
    assert "pass@1" in page
    assert "The numbers are from 3 held-out rows." in page
    assert "Where the time went" in page
    assert 'class="text rollout"' in page
    assert "count 1" in page


@pytest.mark.fast("step:3")
@pytest.mark.parametrize("what", ["step:3", "save:4", "final"])
def test_a_killed_and_resumed_run_ends_with_the_same_weights_to_the_bit(finished, files, tmp_path, what):
    made = tree(files, tmp_path / "run")
    assert drive(tmp_path, made, what).returncode == -9
    done = drive(tmp_path, made, "never", "--resume")
    assert done.returncode == 0, done.stderr
    assert same_weights(finished, tmp_path / "run")


@pytest.fixture(scope="module")
def judges(files, tmp_path_factory) -> dict[str, str]:
    return reward_models(files, tmp_path_factory.mktemp("judges"))


LOGGED = {
    "ppo": "critic_loss",
    "ppo of scores": "token_score_auc",
    "reinforce of scores": "token_score_auc",
    "distrl": "coverage",
    "distrl, kl": "kept",
    "distrl, online": "reward_model_loss",
    "distrl, online pairs": "one_outcome",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WITH_MODELS)
def test_methods_with_further_models_run_and_log_what_these_do(files, judges, tmp_path, name):
    folder = run(with_models(files, judges, name, tmp_path / "run"))
    train = [event for event in lines(folder / "metrics.jsonl") if event["event"] == "train"]
    assert len(train) == 4
    assert all(isinstance(event["loss"], float) for event in train)
    assert any(event["grad_norm"] > 0 for event in train)
    if name in LOGGED:
        assert any(LOGGED[name] in event for event in train)


@pytest.mark.slow
@pytest.mark.parametrize(("lora", "temperature"), [(True, 1.0), (True, 0.7), (False, 0.7)])
def test_adapters_learn_alone_and_any_policy_is_its_own_start_at_its_temperature(files, tmp_path, lora, temperature):
    made = tree(files, tmp_path / "run", options={"kl": 0.1})
    if lora:
        made["models"]["lora"] = {"r": 2, "target_modules": ["q_proj", "v_proj"]}
    made["training"] |= {"max_steps": 2, "temperature": temperature}
    folder = run(made)
    train = [event for event in lines(folder / "metrics.jsonl") if event["event"] == "train"]
    assert train[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert train[1]["kl"] > 0
    assert train[0]["grad_norm"] > 0
    assert (folder / "adapter" / "adapter_config.json").is_file() == lora


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "distrl, online"])
def test_what_learns_beside_the_policy_is_resumed_too(files, judges, tmp_path, name):
    whole = run(with_models(files, judges, name, tmp_path / "whole"))
    made = with_models(files, judges, name, tmp_path / "run")
    assert drive(tmp_path, made, "step:3").returncode == -9
    done = drive(tmp_path, made, "never", "--resume")
    assert done.returncode == 0, done.stderr
    assert same_weights(whole, tmp_path / "run")


def test_a_reward_model_that_scores_single_tokens_cannot_score_candidates(files, judges, tmp_path):
    made = tree(files, tmp_path / "run", "distrl")
    made["models"]["reward_model"] = judges["q_rm"]
    with pytest.raises(RewardModelError, match="only scores the answer's own tokens"):
        run(made)
    made["models"]["reward_model"] = str(files / "teacher")
    with pytest.raises(RewardModelError, match="is not a reward model"):
        run(made)


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"reward": []}, RecipeError, "needs a reward"),
        ({"method": "sft"}, RecipeError, "leave out reward"),
        ({"models": {"reward_model": "x"}}, RecipeError, "does not use models.reward_model"),
        ({"reward": "exakt"}, RewardError, "exact"),
        ({"training": {"save_steps": 3}}, RolloutError, "multiple of 2"),
        ({"minutes": 3}, RecipeError, "leave out minutes"),
        ({"reward": {"name": "exact", "rihgt": 2}}, RecipeError, "rihgt"),
    ],
)
def test_a_mistake_in_the_recipe_leaves_no_folder(files, tmp_path, changes, error, said):
    made = tree(files, tmp_path / "run", **changes)
    if changes.get("method") == "sft":
        made["training"] = {"max_steps": 1}
    with pytest.raises(error, match=said):
        run(made)
    assert not (tmp_path / "run").exists()


def test_rows_that_ask_nothing_or_know_no_answer_are_named(files, tmp_path):
    tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": "a", "answer": "1"}, {"prompt": "b"}])
    changes = {"data": {"train": str(tmp_path / "tasks.jsonl")}, "reward": "exact"}
    with pytest.raises(RewardError, match="row 2"):
        run(tree(files, tmp_path / "run", **changes))
    tokenizer = tiny_folder.byte_tokenizer()
    with pytest.raises(DataError, match="row 1 holds no question"):
        prepare_tasks([{"messages": [{"role": "assistant", "content": "x"}]}], tokenizer, "rows")
    with pytest.raises(DataError, match="row 2 has no prompt"):
        prepare_tasks([{"prompt": "x"}, {"answer": "x"}], tokenizer, "rows")


def test_a_reward_that_gives_no_number_is_named_and_the_run_can_go_on(files, tmp_path):
    made = tree(files, tmp_path / "run", reward=f"{files}/own.py:broken")
    with pytest.raises(RewardError, match=r"broken.*nan"):
        run(made)


@pytest.mark.slow
def test_a_resume_with_a_reward_that_was_changed_is_refused_by_name(files, tmp_path):
    own = tmp_path / "own.py"
    own.write_text(REWARD)
    made = tree(files, tmp_path / "run", reward=f"{own}:letters")
    assert drive(tmp_path, made, "step:3").returncode == -9
    own.write_text(REWARD.replace("/ 8", "/ 4"))
    with pytest.raises(RunError, match="cannot be resumed: its code has changed: own.py was edited; restore it"):
        runs.run(parsed(made), resume=True, console=Console(quiet=True))
    own.write_text(REWARD)
    runs.run(parsed(made), resume=True, console=Console(quiet=True))


def test_a_preview_shows_what_is_asked_and_what_is_right(files, tmp_path):
    console = Console(record=True, width=100)
    preview_recipe(parsed(tree(files, tmp_path / "run")), 2, "train", console)
    said = console.export_text()
    assert "user: count 1" in said
    assert "answer: 1" in said
    assert "completed by the policy" in said


def test_tasks_keep_what_rewards_read_and_lose_answers():
    rows = [{"messages": [{"role": "user", "content": "1+1"}, {"role": "assistant", "content": "2"}], "answer": "2"}]
    chat = prepare_tasks(rows, tiny_folder.byte_tokenizer(), "rows")
    assert chat.rows == [{"answer": "2", "prompt": [{"role": "user", "content": "1+1"}], "row_id": 0}]
    plain = prepare_tasks(rows, tiny_folder.byte_tokenizer(None), "rows")
    assert plain.rows == [{"answer": "2", "prompt": "1+1", "row_id": 0}]
    assert chat.counts.kept == 1
