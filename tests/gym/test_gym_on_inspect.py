"""The gym's tasks under inspect_ai: the same actions, the same score."""

import pytest

from tiny_gym import engine, make_task

pytest.importorskip("inspect_ai")

from inspect_ai import eval as inspect_eval
from inspect_ai.model import ModelOutput, get_model

from trimtab.evals import harness
from trimtab.gym.agents.scripted import Scripted, reference
from trimtab.gym.episode import Episode
from trimtab.gym.finding import bundled
from trimtab.gym.on_inspect.tasks import gym_task
from trimtab.gym.playing import play
from trimtab.gym.trajectory import RunFacts, read_result, read_steps


@pytest.fixture
def task(tmp_path):
    engine()
    return make_task(tmp_path / "words", **{"reference/solve.py": "open('answers.txt', 'w').write('a b c d')\n",
                                            "reference/outputs/answers.txt": "a b c z"})  # fmt: skip


def run(task, tmp_path, model="none/none", **how):
    (log,) = inspect_eval(
        gym_task(str(task.folder), out=str(tmp_path / "runs"), **how), model=model, log_dir=str(tmp_path / "logs"),
        display="none",
    )  # fmt: skip
    (folder,) = (tmp_path / "runs").iterdir()
    return log, folder


def test_the_reference_scores_under_inspect_what_it_scores_by_our_own_command(task, tmp_path):
    log, folder = run(task, tmp_path, agent="scripted")
    assert log.status == "success", log.error
    agent = Scripted(reference(task))
    with Episode(task, tmp_path / "own") as episode:
        ours = play(episode, agent, RunFacts(agent.name, "T"))
    (sample,) = log.samples
    score = sample.scores["gym_score"]
    assert score.value == {key: ours[key] for key in ("final", "best", "private")}
    assert score.value["final"] == pytest.approx(50.0)
    assert log.results.scores[0].metrics["mean"].value == pytest.approx(50.0)
    assert log.eval.task_version == task.version()
    actions = [row["action"] for row in read_steps(folder)]
    assert actions == [row["action"] for row in read_steps(tmp_path / "own")]
    assert read_result(folder)["agent"] == "inspect:scripted"


def called(name, **arguments):
    return ModelOutput.for_tool_call("mockllm/model", name, arguments)


def test_a_model_works_by_tools_until_the_episode_is_over_and_what_is_no_call_is_a_null_action(task, tmp_path):
    says = [
        called("create_file", filename="outputs/answers.txt", content="a b c d"),
        called("open_file", path=3),
        ModelOutput.from_content("mockllm/model", "I think."),
        called("think", thought="t" * 300),
        called("finish"),
    ]
    model = get_model("mockllm/model", custom_outputs=says)

    async def count(text):  # inspect would download an encoding
        return len(text) // 4

    model.api.count_text_tokens = count
    log, folder = run(task, tmp_path, model)
    assert log.status == "success", log.error
    (sample,) = log.samples
    assert sample.scores["gym_score"].value["final"] == pytest.approx(75.0)
    rows = read_steps(folder)
    assert [row["action"]["name"] for row in rows] == ["create_file", "null", "null", "null", "finish"]
    reasons = [row["action"]["arguments"].get("reason", "") for row in rows]
    assert "3 is not of type 'string'" in reasons[1]
    assert reasons[2] == "there was no call of a tool; call exactly one"
    assert "is too long" in reasons[3]
    assert '"success": true' in next(one for one in sample.messages if one.role == "tool").text
    assert sample.messages[0].role == "system"
    assert "Write four words" in sample.messages[1].text


def test_every_bundled_task_has_a_name_under_inspect_and_nothing_is_left_behind(task, tmp_path, monkeypatch):
    assert all(hasattr(harness, f"gym_{name.replace('-', '_')}") for name in bundled())
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    asked = harness.gym(str(task.folder), agent="scripted")
    (log,) = inspect_eval(asked, model="none/none", log_dir=str(tmp_path / "logs"), display="none")
    assert log.status == "success", log.error
    assert sorted(one.name for one in tmp_path.iterdir()) == ["logs", "words"]
