"""Agents without a model, and runs of them: what is done, what is kept, and how a stopped run goes on."""

import json

import pytest
import yaml

from tiny_gym import EVALUATOR, SETTINGS, engine, make_task
from trimtab.gym import snapshots
from trimtab.gym.actions import schemas
from trimtab.gym.agents import Briefing
from trimtab.gym.agents.drawn import DRAWS, RandomAgent
from trimtab.gym.agents.human import Human
from trimtab.gym.agents.scripted import Impatient, Scripted, ScriptError, read_script, reference
from trimtab.gym.episode import Episode
from trimtab.gym.playing import go_on, play
from trimtab.gym.snapshots import SnapshotError
from trimtab.gym.task import TaskError
from trimtab.gym.trajectory import GymRunError, GymTrajectory, RunFacts, read_result

TRAIN = """
import time

for step in range(1, 21):
    time.sleep(0.01)
    known = "a b c d".split()[: step // 5]
    open("outputs/answers.txt", "w").write(" ".join(known + ["?"] * (4 - len(known))))
"""
SCRIPT = [
    {"name": "run_command", "arguments": {"command": "mkdir -p outputs", "wait_for_completion": True}},
    {"name": "run_command", "arguments": {"command": "python3 train.py", "session_id": "training"}},
    {"name": "sleep", "arguments": {"seconds": 20, "session_id": "training"}},
    {"name": "eval"},
    {"name": "finish"},
]


@pytest.fixture
def task(tmp_path):
    engine()
    return make_task(
        tmp_path / "task", **{"workspace/train.py": TRAIN, "reference/solve.py": TRAIN, "reference/outputs/note": "n\n"}
    )


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text(yaml.safe_dump(SCRIPT))
    return path


def run(task, agent, folder, **how):
    with Episode(task, folder) as episode:
        return play(episode, agent, RunFacts(agent.name, task.settings.title), **how)


def test_a_script_is_carried_out_kept_and_done_again_with_the_same_score(task, script, tmp_path):
    result = run(task, Scripted(read_script(script)), tmp_path / "run")
    assert (result["final"], result["best"]) == pytest.approx((75.0, 75.0))
    assert result["over"] == "the agent has finished"
    rows = GymTrajectory(tmp_path / "run").rows
    assert [row["action"]["name"] for row in rows] == [one["name"] for one in SCRIPT]
    assert rows[1]["sessions"] == {"main": "idle", "training": "busy"}
    again = run(task, Scripted(read_script(tmp_path / "run")), tmp_path / "again")
    assert [one["score"] for one in again["submissions"]] == [one["score"] for one in result["submissions"]]
    assert len(GymTrajectory(tmp_path / "again")) == len(rows)
    hasty = run(task, Impatient(read_script(tmp_path / "run")), tmp_path / "hasty")
    assert hasty["final"] < result["final"]
    assert [row["action"]["name"] for row in GymTrajectory(tmp_path / "hasty").rows][3] == "kill_session_processes"


def test_a_replay_waits_for_what_had_ended_without_being_told_to(task, tmp_path):
    """A run in which the model thought for as long as the training took."""
    rows, folder = [], tmp_path / "thoughtful"
    folder.mkdir()
    with Episode(task, tmp_path / "made") as episode:
        written = GymTrajectory(episode.folder)
        for move in Scripted(read_script_of(tmp_path, [*SCRIPT[:2], SCRIPT[-1]])).moves:
            if move.action.name == "finish":
                episode.call("sleep", {"seconds": 20, "session_id": "training"})
            rows.append(written.add(episode, move.action, episode.step(move.action), 0.0))
    for row in rows:
        row["seconds"] = 0.0  # of a machine that was infinitely fast
    (folder / "trajectory.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert run(task, Scripted(read_script(folder)), tmp_path / "again")["final"] == pytest.approx(75.0)


def read_script_of(tmp_path, rows):
    path = tmp_path / "other.yaml"
    path.write_text(yaml.safe_dump(rows))
    return read_script(path)


def test_a_tasks_own_solution_is_done_by_actions(task, tmp_path):
    moves = reference(task)
    assert [move.action.name for move in moves] == [
        "create_file", "create_file", "run_command", "sleep", "get_session_output", "finish"
    ]  # fmt: skip
    assert run(task, Scripted(moves), tmp_path / "run")["final"] == pytest.approx(75.0)
    with pytest.raises(TaskError, match="has no solution 'other'"):
        reference(task, "other")
    (task.folder / "reference/outputs/weights").write_bytes(b"\xff\xfe")
    with pytest.raises(ScriptError, match=r"weights is no text"):
        reference(task)


class Stopping(Scripted):
    """Is stopped before its third action, once."""

    stopped = False
    heard = ""

    def act(self, seen, left):
        if self.at == 2 and not self.stopped:
            self.stopped = True
            raise KeyboardInterrupt
        self.seen = getattr(self, "seen", seen)
        return super().act(seen, left)

    def tell(self, text):
        self.heard = text


def test_a_run_that_is_stopped_goes_on_where_it_was_and_the_agent_hears_of_lost_sessions(task, script, tmp_path):
    folder, moves = tmp_path / "run", read_script(script)
    with pytest.raises(KeyboardInterrupt):
        run(task, Stopping(moves), folder)
    assert snapshots.steps(folder) == [2]
    with pytest.raises(GymRunError, match="is a run of the agent scripted, which random cannot"):
        go_on(folder, task, RandomAgent())
    agent = Stopping(moves)
    agent.stopped = True
    with go_on(folder, task, agent) as episode:
        assert agent.heard.endswith("with all that ran in them: main, training.")
        result = play(episode, agent, RunFacts(agent.name, "T"))
    assert agent.seen["source"] == "run_command"  # the last thing that it had seen
    assert [row["step"] for row in GymTrajectory(folder).rows] == [1, 2, 3, 4, 5]
    assert result["budget"]["steps"] == 5
    assert result["final"] == 0  # for the training was lost, and the script does not look
    with pytest.raises(GymRunError, match="has ended; branch"):
        go_on(folder, task, agent)
    with go_on(folder, task, agent, tmp_path / "branch", 2) as branch:
        branch.call("run_command", {"command": "python3 train.py", "wait_for_completion": True})
        assert play(branch, agent, RunFacts(agent.name, "T"))["final"] == pytest.approx(75.0)


def test_submissions_are_told_of_before_the_run_has_ended(task, tmp_path):
    answers = {"filename": "outputs/answers.txt", "content": "a b c d"}
    moves = read_script_of(tmp_path, [{"name": "create_file", "arguments": answers}, {"name": "eval"}])
    seen = []

    def on_step(row):
        seen.append(len(read_result(tmp_path / "run")["submissions"]))
        if row["action"]["name"] == "eval":
            raise KeyboardInterrupt

    with Episode(task, tmp_path / "run") as episode, pytest.raises(KeyboardInterrupt):
        play(episode, Scripted(moves), RunFacts("scripted", "T"), on_step=on_step)
    assert seen == [0, 1]
    result = read_result(tmp_path / "run")
    assert (result["budget"]["steps"], result["best"], result["final"]) == (2, pytest.approx(75.0), None)


def test_a_final_evaluation_that_failed_is_made_again_when_the_run_goes_on(tmp_path):
    engine()
    broken = tmp_path / "broken"
    broken.touch()
    check = f"    import os\n    assert not os.path.exists({str(broken)!r})\n"
    evaluator = EVALUATOR.replace("    labels =", f"{check}    labels =", 1)
    task, folder = make_task(tmp_path / "task", evaluator=evaluator), tmp_path / "run"
    answers = {"filename": "outputs/answers.txt", "content": "a b c d"}
    moves = read_script_of(tmp_path, [{"name": "create_file", "arguments": answers}, {"name": "finish"}])
    with Episode(task, folder) as episode:
        result = play(episode, Scripted(moves), RunFacts("scripted", "T"), every=10)
    assert (result["final"], snapshots.steps(folder)) == (None, [2])
    assert "evaluator.log says why" in result["error"]
    broken.unlink()
    agent = Scripted(moves)
    with go_on(folder, task, agent) as episode:
        result = play(episode, agent, RunFacts("scripted", "T"))
    assert (result["final"], result["error"], result["over"]) == (pytest.approx(75.0), "", "the agent has finished")
    assert result["budget"]["steps"] == 2


def test_an_action_that_is_broken_off_is_done_again_and_counted_once(task, tmp_path, monkeypatch):
    answers = {"filename": "outputs/answers.txt", "content": "a b c d"}
    moves = read_script_of(tmp_path, [{"name": "create_file", "arguments": answers}, {"name": "eval"}])

    def stopped(episode, final):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Episode, "_evaluated", stopped)
        run(task, Scripted(moves), tmp_path / "run")
    agent = Scripted(moves)
    with go_on(tmp_path / "run", task, agent) as episode:
        result = play(episode, agent, RunFacts(agent.name, "T"))
    assert result["budget"]["steps"] == 2
    assert [one["final"] for one in result["submissions"]] == [False, True]


def test_a_snapshot_that_is_due_while_something_runs_is_taken_when_that_has_ended(task, script, tmp_path):
    notes = []
    run(task, Scripted(read_script(script)), tmp_path / "run", every=2, on_note=notes.append)
    assert snapshots.steps(tmp_path / "run") == [3, 4, 5]
    assert len(notes) == 1
    assert notes[0].startswith("session training is busy with")


def test_a_random_agent_makes_valid_calls_alone_and_the_same_ones_from_the_same_seed(task, tmp_path):
    assert {key for tool in schemas() for key in tool["parameters"]["properties"]} == set(DRAWS)

    def drawn(agent: RandomAgent, number: int) -> list:
        agent.begin(Briefing("", schemas(), 60.0))
        return [agent.act(None, 1.0).action for _ in range(number)]

    found = drawn(RandomAgent(1), 1500)
    assert {one.name for one in found} == {tool["name"] for tool in schemas()}
    assert found == drawn(RandomAgent(1), 1500) != drawn(RandomAgent(2), 1500)
    later = RandomAgent(1)
    later.recall({"at": 200})
    assert drawn(later, 300) == found[200:500]
    few = make_task(tmp_path / "few" / "task", settings=SETTINGS.replace("steps: 200", "steps: 12"))
    result = run(few, RandomAgent(5), tmp_path / "run")
    assert result["final"] == 0
    assert "steps are used up" in result["over"] or result["over"] == "the agent has finished"


@pytest.mark.parametrize(
    "text, said",
    [
        ("- {name: evall}", r"action 1: there is no tool 'evall'; did you mean 'eval'"),
        ("- {name: eval}\n- {name: open_file}", "action 2: open_file: path is missing"),
        ("- {name: eval, args: {}}", 'action 1 is not {"name"'),
        ("name: eval", "is no list of actions"),
        ("[", "is not valid YAML"),
    ],
)
def test_a_script_that_cannot_be_carried_out_is_refused_with_its_place(tmp_path, text, said):
    path = tmp_path / "script.yaml"
    path.write_text(text)
    with pytest.raises(ScriptError, match=said):
        read_script(path)


def test_a_person_is_asked_again_for_what_is_no_action(task, tmp_path):
    typed, shown = iter(['open_fil {"path": "x"}', "?", 'open_file {"path": "data/words.txt"}']), []

    def ask(prompt):
        shown.append(prompt)
        line = next(typed, None)
        if line is None:
            raise EOFError
        return line

    result = run(task, Human(ask, shown.append), tmp_path / "run")
    rows = GymTrajectory(tmp_path / "run").rows
    assert [row["action"]["name"] for row in rows] == ["open_file"]
    assert "there is no tool 'open_fil'; did you mean 'open_file'?" in shown
    assert any("     1  a" in text for text in shown)
    assert result["final"] == 0
    assert snapshots.steps(tmp_path / "run") == []
    with pytest.raises(SnapshotError, match="has no snapshot"):
        snapshots.read(tmp_path / "run")
