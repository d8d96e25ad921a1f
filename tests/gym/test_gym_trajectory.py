"""What a run leaves in its folder."""

import json

import pytest

from tiny_gym import engine, make_task
from trimtab.gym import actions
from trimtab.gym.episode import Episode
from trimtab.gym.trajectory import GymRunError, GymTrajectory, RunFacts, read_result, write_result


@pytest.fixture
def episode(tmp_path):
    engine()
    with Episode(make_task(tmp_path / "task"), tmp_path / "run") as made:
        yield made


def test_a_step_is_a_line_with_action_observation_and_what_runs(episode):
    written = GymTrajectory(episode.folder)
    for call in (
        actions.RunCommand(command="sleep 100"),
        actions.CreateSession(session_id="other"),
        actions.Null(reason="no call"),
    ):
        written.add(episode, call, episode.step(call), 0.25, "so be it", 7)
    lines = [json.loads(line) for line in (episode.folder / "trajectory.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    first, _, last = lines
    assert first["action"]["arguments"] == {
        "command": "sleep 100", "session_id": "main", "wait_for_completion": False
    }  # fmt: skip
    assert last["action"] == {"name": "null", "arguments": {"reason": "no call"}}
    assert (last["observation"]["success"], last["observation"]["error_message"]) == (False, "no call")
    assert last["sessions"] == {"main": "busy", "other": "idle"}
    assert (last["took"], last["said"], last["tokens"]) == (0.25, "so be it", 7)
    assert 0 < first["seconds"] <= last["seconds"] < 60
    assert set(last) == {"step", "seconds", "took", "action", "observation", "said", "tokens", "sessions"}


def test_a_torn_last_line_is_read_over_and_its_step_written_anew(episode):
    path = episode.folder / "trajectory.jsonl"
    finish = actions.Null(reason="")
    GymTrajectory(episode.folder).add(episode, finish, episode.step(finish), 0.0)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"step": 2, "sec')
    again = GymTrajectory(episode.folder)
    assert path.read_bytes() == whole
    assert again.add(episode, finish, episode.step(finish), 0.0)["step"] == 2


def test_the_result_tells_of_whom_it_is(episode):
    episode.call("create_file", {"filename": "outputs/answers.txt", "content": "tangerine0451 b c z"})
    episode.call("eval")
    written = write_result(episode, RunFacts(agent="scripted", title="Guess", seed=3))
    found = read_result(episode.folder)
    assert found == written
    assert found["best"] == pytest.approx(75.0)
    assert {"agent": "scripted", "model": None, "seed": 3, "title": "Guess"}.items() <= found.items()
    assert found["submissions"][0]["score"] == found["best"]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(GymRunError, match="has no gym"):
        read_result(tmp_path)
    (tmp_path / "gym.json").write_text("[]")
    with pytest.raises(GymRunError, match="is not what"):
        read_result(tmp_path)
