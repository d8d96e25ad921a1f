"""An episode from the first action to the final score."""

import json
import time
from pathlib import Path

import pytest

from tiny_gym import EVALUATOR, SECRET, SETTINGS, engine, make_task, said
from trimtab.gym.actions import ListFiles
from trimtab.gym.agents import Move
from trimtab.gym.agents.scripted import Scripted
from trimtab.gym.episode import Episode
from trimtab.gym.evaluation import EvaluationError, evaluate
from trimtab.gym.playing import play
from trimtab.gym.submissions import SubmissionError, Submissions
from trimtab.gym.trajectory import RunFacts, read_steps

ANSWERS = f"{SECRET}\nb\nx\nd\n"  # 3 of 4 public labels, 3 of 4 private ones

EMPTY = bytes(10240)
"""an archive of nothing"""


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def handed_in(episode: Episode, text: str = ANSWERS) -> dict:
    episode.call("create_file", {"filename": "outputs/answers.txt", "content": text})
    return episode.call("eval").to_dict()


def test_a_submission_is_scored_at_once_and_the_private_split_is_not_told(episode):
    found = handed_in(episode, f"{SECRET} b c z")
    assert found["overall_score"] == pytest.approx(100 * 0.8 * (0.75 - 0) / 0.8)
    assert (found["already_eval_num"], found["evals_left"]) == (1, 2)
    assert found["metrics"] == {"accuracy": 0.75}
    record = episode.submissions.records[0]
    assert record.private_metrics == {"accuracy": 0.5}
    assert record.private_score == pytest.approx(50.0)
    assert "0.5" not in str(found)


def test_one_submission_more_than_allowed_scores_0_and_ends_the_episode(episode):
    for _ in range(3):
        handed_in(episode)
    assert episode.over() is None
    found = episode.call("eval").to_dict()
    assert (found["success"], found["overall_score"]) == (False, 0.0)
    assert "submissions" in episode.over()
    assert "the episode is over" in str(episode.call("list_files"))
    assert len(episode.submissions.records) == 3


def test_the_end_is_a_forced_final_evaluation_beside_the_best(episode):
    handed_in(episode)
    handed_in(episode, "a a a a")
    result = episode.end()
    assert (result["best"], result["final"]) == (pytest.approx(75.0), pytest.approx(0.0))
    assert (result["best_private"], result["private"]) == (pytest.approx(75.0), pytest.approx(0.0))
    assert [one["final"] for one in result["submissions"]] == [False, False, True]
    assert episode.end()["submissions"] == result["submissions"]
    assert json.loads(json.dumps(result)) == result


def test_outputs_that_are_missing_or_malformed_score_0_with_a_message(episode):
    found = episode.call("eval").to_dict()
    assert (found["overall_score"], found["message"]) == (0.0, "outputs/answers.txt is missing")
    found = handed_in(episode, "a b")
    assert (found["overall_score"], found["message"]) == (0.0, "answers.txt has 2 words; 4 are wanted")
    assert episode.budget.submissions == 2


@pytest.mark.parametrize(
    "body, said_privately",
    [
        ("raise KeyError('tangerine0451')", SECRET),
        ("return None", ""),
        ("return {'public': [], 'private': []}", ""),
        ("return {'public': [{'name': 'accuracy', 'value': 1.0}]}", ""),
        ("return [{'name': 'accuracy', 'value': float('nan')}]", "nan"),
        ("return [{'name': 'accuracy', 'value': float('inf')}]", "inf"),
        ("return [{'name': 'accuracy', 'value': True}]", "True"),
        ("return [{'name': 'accuracy', 'value': 10**400}]", "0000"),
        ("return 2 * [{'name': 'accuracy', 'value': 1.0}]", ""),
        ("return [{'name': 'x' * (1 << 21), 'value': 1.0}]", ""),
        ("return [{'name': 'accuracy', 'value': '1'}]", "1"),
        ("return [{'name': 'other', 'value': 1.0}]", ""),
        ("import os; os._exit(0)", ""),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ""),
        ("raise SystemExit(0)", "SystemExit"),
    ],
)
def test_an_evaluator_that_fails_costs_no_submission_and_tells_the_agent_nothing(tmp_path, body, said_privately):
    engine()
    task = make_task(tmp_path / "task", evaluator=f"def validate(submitted):\n    {body}\n")
    with Episode(task, tmp_path / "run") as episode:
        found = episode.call("eval").to_dict()
        assert found["success"] is False
        assert "costs no submission" in found["error_message"]
        assert SECRET not in str(found)
        assert episode.budget.submissions == 0
        assert episode.submissions.records == []
        assert said_privately in (episode.folder / "evaluator.log").read_text()
        assert "longer than" not in found["error_message"]


def test_an_evaluator_has_a_time_limit(tmp_path):
    engine()
    settings = SETTINGS.replace("evaluation_seconds: 20", "evaluation_seconds: 1.5")
    body = "import subprocess\n\n\ndef validate(submitted):\n    subprocess.run(['sleep', '432'])\n"
    task = make_task(tmp_path / "task", evaluator=body, settings=settings)
    with Episode(task, tmp_path / "run") as episode:
        began = time.monotonic()
        found = episode.call("eval").to_dict()
        assert "longer than 1.5 seconds" in found["error_message"]
        assert time.monotonic() - began < 20
        assert episode.budget.evaluation_seconds >= 1.5


def test_evaluations_together_have_one_too(tmp_path):
    engine()
    settings = SETTINGS.replace("cpu_seconds: 60", "cpu_seconds: 60, evaluation_seconds: 0.05")
    with Episode(make_task(tmp_path / "task", settings=settings), tmp_path / "run") as episode:
        assert "took longer than 0.05 seconds" in str(handed_in(episode))


def test_an_evaluation_ends_with_the_time_of_the_episode_and_the_final_one_is_made_all_the_same(tmp_path):
    engine()
    settings = SETTINGS.replace("seconds: 60, steps", "seconds: 1.0, steps")
    slow = EVALUATOR.replace("import json\n", "import json, time\n", 1).replace(
        "    labels =", "    time.sleep(3)\n    labels =", 1
    )
    with Episode(make_task(tmp_path / "task", evaluator=slow, settings=settings), tmp_path / "run") as episode:
        episode.call("create_file", {"filename": "outputs/answers.txt", "content": ANSWERS})
        began = time.monotonic()
        found = episode.call("eval").to_dict()
        assert time.monotonic() - began < 3
        assert found["error_message"].endswith("the time of 1 seconds is used up; it costs no submission")
        assert episode.budget.submissions == 0
        assert episode.end()["final"] == pytest.approx(75.0)


def test_without_time_for_evaluations_none_is_begun(tmp_path):
    engine()
    settings = SETTINGS.replace("cpu_seconds: 60", "cpu_seconds: 60, evaluation_seconds: 5")
    with Episode(make_task(tmp_path / "task", settings=settings), tmp_path / "run") as episode:
        episode.budget.evaluation_seconds = 5.0
        assert "all 5 seconds for evaluations are used up" in str(handed_in(episode))
        assert episode.budget.evaluation_seconds == 5.0
        assert episode.end()["final"] == pytest.approx(75.0)


def test_nothing_is_left_of_an_evaluation_that_takes_too_long(tmp_path, monkeypatch):
    engine()
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    before = set(Path("/tmp").glob("trimtab-judged-*"))
    settings = SETTINGS.replace("evaluation_seconds: 20", "evaluation_seconds: 2")
    body = "def validate(submitted):\n    submitted.run(['bash', '-c', 'mkdir -m 0 shut; sleep 99'], 100)\n"
    task = make_task(tmp_path / "task", evaluator=body, settings=settings)
    with pytest.raises(EvaluationError, match="longer than 2 seconds"):
        evaluate(task, EMPTY, engine())
    assert set(Path("/tmp").glob("trimtab-judged-*")) == before
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_final_evaluation_that_fails_says_where_the_reason_is(tmp_path):
    engine()
    task = make_task(tmp_path / "task", evaluator="def validate(submitted):\n    raise KeyError('x')\n")
    with Episode(task, tmp_path / "run") as episode:
        result = episode.end()
    assert result["error"] == f"the evaluator failed; {tmp_path}/run/evaluator.log says why"


def test_a_submission_is_kept_and_scored_again(task, episode):
    handed_in(episode)
    kept = Submissions(episode.folder / "submissions")
    assert kept.records == episode.submissions.records
    again = evaluate(task, kept.read(1), episode.engine)
    assert again.metrics == kept.records[0].metrics
    assert (again.score, again.private_score) == (kept.records[0].score, kept.records[0].private_score)
    path = kept.archive(1)
    path.write_bytes(path.read_bytes().replace(b"tangerine", b"mandarine"))
    with pytest.raises(SubmissionError, match="SHA-256 differs"):
        kept.read(1)
    with pytest.raises(SubmissionError, match="no submission 7"):
        kept.read(7)


@pytest.mark.parametrize("text", ["[]", '{"number": 1}', '{"number": 1, "speed": 2}'])
def test_a_record_that_is_none_is_refused_with_its_place(tmp_path, text):
    (tmp_path / "001.json").write_text(text)
    with pytest.raises(SubmissionError, match=r"001\.json is not a submission of this version of trimtab"):
        Submissions(tmp_path)


def test_the_same_outputs_give_the_same_archive(episode):
    handed_in(episode)
    said(episode, "touch -d 2001-01-01 outputs/answers.txt; chmod 600 outputs/answers.txt")
    handed_in(episode)
    first, second = episode.submissions.records
    assert first.sha256 == second.sha256


def test_the_clock_ends_an_action_that_blocks(tmp_path):
    engine()
    task = make_task(tmp_path / "task", settings=SETTINGS.replace("seconds: 60, steps", "seconds: 1.0, steps"))
    with Episode(task, tmp_path / "run") as episode:
        began = time.monotonic()
        episode.call("run_command", {"command": "sleep 500"})
        episode.call("sleep", {"seconds": 1000})
        assert time.monotonic() - began < 10
        session = episode.sessions.sessions["main"]
        assert session.wait(10, lambda: session.idle)
        assert "the time of 1 seconds" in session.killed_because
        found = episode.call("run_command", {"command": "echo x"}).to_dict()
        assert "the episode is over: the time" in found["error_message"]


def test_cpu_seconds_end_what_runs_and_the_episode(tmp_path):
    engine()
    task = make_task(tmp_path / "task", settings=SETTINGS.replace("cpu_seconds: 60", "cpu_seconds: 0.3"))
    with Episode(task, tmp_path / "run") as episode:
        found = said(episode, "while :; do :; done")
        assert found["success"] is False
        assert "CPU seconds are used up" in found["error_message"]
        assert "CPU seconds" in episode.over()


def test_steps_end_the_episode(tmp_path):
    engine()
    task = make_task(tmp_path / "task", settings=SETTINGS.replace("steps: 200", "steps: 2"))
    with Episode(task, tmp_path / "run") as episode:
        assert episode.call("list_files").success
        assert episode.over() is None
        assert said(episode, "sleep 0.2; echo done")["output"] == "done"  # the last one is carried out to its end
        assert episode.over() == "all 2 steps are used up"
        assert not episode.call("list_files").success
        result = episode.end()
        assert (result["budget"]["steps"], result["over"]) == (2, "all 2 steps are used up")


def test_the_step_beyond_the_last_is_not_asked_for(tmp_path):
    engine()
    task = make_task(tmp_path / "task", settings=SETTINGS.replace("steps: 200", "steps: 3"))
    agent = Scripted([Move(ListFiles())] * 5)
    with Episode(task, tmp_path / "run") as episode:
        result = play(episode, agent, RunFacts("scripted", "t"))
    assert (agent.at, result["budget"]["steps"], len(read_steps(episode.folder))) == (3, 3, 3)
    assert [one["final"] for one in result["submissions"]] == [True]


def test_a_sleep_ends_with_the_session_that_it_watches(episode):
    episode.call("run_command", {"command": "sleep 0.3"})
    found = episode.call("sleep", {"seconds": 600, "session_id": "main"}).to_dict()
    assert found["idle"] is True
    assert 0.1 < found["slept"] < 20


def test_a_command_that_is_waited_for_too_long_is_killed_and_said(episode, monkeypatch):
    monkeypatch.setattr("trimtab.gym.session_actions.WAITING", 0.3)
    found = said(episode, "echo begun; sleep 300 & sleep 300")
    assert found["success"] is False
    assert "killed; run it without waiting" in found["error_message"]
    assert found["output"] == "begun"
    assert said(episode, "echo next")["output"].endswith("next")


@pytest.mark.parametrize("command", ["while :; do :; done", "while :; do sleep 0.05; done"])
def test_a_shell_that_goes_on_by_itself_is_killed_and_its_session_has_ended(episode, monkeypatch, command):
    monkeypatch.setattr("trimtab.gym.session_actions.WAITING", 0.3)
    found = said(episode, command)
    assert found["error_message"].endswith("killed, and its session with it; run it without waiting")
    assert "has ended" in str(episode.call("get_session_status"))
    assert said(episode, "echo next")["output"] == "next"


def test_a_kill_says_what_it_has_left(episode):
    episode.call("run_command", {"command": "while :; do :; done"})
    assert "still busy" in episode.call("kill_session_processes", {"force": True}).message
    episode.call("run_command", {"command": "sleep 100", "session_id": "other"})
    assert episode.sessions.sessions["other"].wait(5.0, lambda: bool(episode.sessions.sessions["other"].processes()))
    killed = episode.call("kill_session_processes", {"session_id": "other"}).message
    assert killed == "1 process got SIGTERM"


def test_files_are_shown_in_windows_and_edited_by_line(episode):
    lines = "".join(f"line {number}\n" for number in range(1, 251))
    episode.call("create_file", {"filename": "long.txt", "content": lines})
    shown = episode.call("open_file", {"path": "long.txt", "line_number": 120}).to_dict()
    assert shown["line_info"] == "70-169 of 250"
    assert episode.call("file_scroll_down").to_dict()["line_info"] == "170-250 of 250"
    assert episode.call("file_scroll_up").to_dict()["line_info"] == "70-169 of 250"
    assert episode.call("file_goto_line", {"line": 249}).to_dict()["content"] == "   249  line 249\n   250  line 250"
    assert episode.call("search_file", {"term": "line 24"}).to_dict()["content"].count("\n") == 10


@pytest.mark.parametrize(
    "start, end, content, wanted",
    [
        (1, 1, "A", "A\nb\nc\nd\n"),
        (4, 4, "D\nE", "a\nb\nc\nD\nE\n"),
        (5, 4, "e", "a\nb\nc\nd\ne\n"),
        (2, 1, "x", "a\nx\nb\nc\nd\n"),
        (1, 4, "", ""),
        (6, 6, "x", None),
        (3, 1, "x", None),
        (2, 5, "x", None),
    ],
)
def test_an_edit_replaces_lines_from_the_first_to_one_after_the_last(episode, start, end, content, wanted):
    call = {"path": "data/words.txt", "start": start, "end": end, "content": content}
    found = episode.call("edit_file", call).to_dict()
    text = (episode.workspace.folder / "data" / "words.txt").read_text()
    if wanted is None:
        assert "has 4 lines" in found["error_message"]
        assert text == "a\nb\nc\nd\n"
    else:
        assert text == wanted


def test_files_and_documents_are_found(episode):
    assert episode.call("find_file", {"pattern": "*.txt"}).to_dict()["content"] == "data/words.txt"
    assert episode.call("search_dir", {"term": "c"}).to_dict()["content"] == "data/words.txt:3: c"
    assert episode.call("get_file_info", {"path": "data"}).to_dict()["kind"] == "folder"
    assert (
        "manual.md, line 1"
        in episode.call("search_documents", {"query": "fruit's citrus\"; DROP"}).to_dict()["content"]
    )
    assert episode.call("search_documents", {"query": "!!"}).to_dict()["content"] == ""
    assert "there are: manual.md" in str(episode.call("open_document", {"document": "../task.yaml"}))


def test_an_edit_changes_no_byte_of_other_lines(episode):
    said(episode, "printf 'caf\\351\\nb\\n' > latin")
    found = episode.call("edit_file", {"path": "latin", "start": 2, "end": 2, "content": "B"}).to_dict()
    assert "latin is no UTF-8 text" in found["error_message"]
    assert (episode.workspace.folder / "latin").read_bytes() == b"caf\xe9\nb\n"
    assert "caf\ufffd" in episode.call("open_file", {"path": "latin"}).to_dict()["content"]


@pytest.mark.parametrize("most, more", [(3, ""), (2, ", more are not shown")])
def test_a_search_says_what_it_does_not_show(episode, monkeypatch, most, more):
    monkeypatch.setattr("trimtab.gym.file_actions.FOUND", most)
    said(episode, "mkdir s; cd s; for n in 1 2 3; do echo wanted > $n.log; done")
    shown = episode.call("search_dir", {"term": "wanted"}).to_dict()
    assert shown["message"] == f"{most} lines with 'wanted' in /workspace{more}"
    assert shown["content"].count("wanted") == most
    named = episode.call("find_file", {"pattern": "*.log"}).to_dict()
    assert named["message"] == f"{most} files named *.log{more}"
    assert named["content"].count(".log") == most


def test_a_search_says_what_it_has_not_looked_at(episode, monkeypatch):
    said(episode, "echo wanted > a; echo wanted and more > b")
    monkeypatch.setattr("trimtab.gym.file_actions.READABLE", 10)
    found = episode.call("search_dir", {"term": "wanted"}).message
    assert found == "1 line with 'wanted' in /workspace; 1 file of more than 10 bytes is not searched"
    monkeypatch.setattr("trimtab.gym.file_actions.SEARCHING", 0.0)
    assert episode.call("search_dir", {"term": "wanted"}).message.endswith("; not all is searched after 0 seconds")


def test_a_long_output_is_cut_in_the_middle_and_says_so(episode):
    output = said(episode, "seq 9000")["output"]
    assert output.startswith("1\n2\n3\n")
    assert output.endswith("\n8999\n9000")
    assert "characters," in output
    assert "lines omitted ...]" in output
    output = said(episode, "seq 25000")["output"]
    assert output.startswith("[... 15,000 lines that are no longer kept ...]\n15001\n")
    assert output.endswith("\n25000")
    found = episode.call("get_session_output", {"start_lines": 10000}).to_dict()
    assert found["message"] == "10,000 lines, of which the newest 30,000 characters are shown"
    assert len(found["output"]) == 30_000


def test_a_long_command_does_not_fill_the_list_of_sessions(episode):
    said(episode, f": {'x' * 90_000}")
    assert len(str(episode.call("list_sessions"))) < 2_000


def test_a_thought_may_not_follow_a_thought(episode):
    assert episode.call("think", {"thought": "one"}).success
    assert not episode.call("think", {"thought": "two"}).success
    assert episode.call("list_files").success
    assert episode.call("think", {"thought": "three"}).success


def test_the_hint_costs_score(tmp_path):
    engine()
    with Episode(make_task(tmp_path / "task", settings=SETTINGS + "hint_cost: 10\n"), tmp_path / "run") as episode:
        handed_in(episode)
        assert "second word is b" in str(episode.call("view_hint"))
        assert episode.end()["final"] == pytest.approx(65.0)


def test_sessions_are_listed_read_and_closed(episode):
    episode.call("run_command", {"command": "echo a; echo b; echo c", "session_id": "s"})
    episode.call("sleep", {"seconds": 5, "session_id": "s"})
    assert (
        episode.call("get_session_output", {"session_id": "s", "start_lines": 2, "end_lines": 1}).to_dict()["output"]
        == "b"
    )
    assert (
        episode.call("get_session_recent_output", {"session_id": "s", "seconds": 100}).to_dict()["output"] == "a\nb\nc"
    )
    later = {"session_id": "s", "since_timestamp": time.time() + 5}
    assert episode.call("get_session_output", later).to_dict()["output"] == ""
    assert episode.call("list_sessions").to_dict()["sessions"][0]["last_exit_code"] == 0
    episode.call("clear_session_buffer", {"session_id": "s"})
    assert episode.call("get_session_output", {"session_id": "s"}).to_dict()["output"] == ""
    assert episode.call("create_session", {"session_id": "t"}).success
    assert not episode.call("create_session", {"session_id": "t"}).success
    assert episode.call("close_session", {"session_id": "t"}).success
    assert "there is no session t" in str(episode.call("get_session_status", {"session_id": "t"}))
    assert episode.call("close_all_sessions").success
    assert episode.sessions.sessions == {}


def test_only_so_many_sessions_are_open_at_a_time(episode, monkeypatch):
    monkeypatch.setattr("trimtab.gym.session_actions.MOST", 2)
    found = [episode.call("create_session", {"session_id": name}) for name in "abc"]
    assert [one.success for one in found] == [True, True, False]


def test_an_episode_goes_on_from_its_state_with_its_budget(task, tmp_path):
    clock = Clock()
    with Episode(task, tmp_path / "run", clock=clock) as first:
        handed_in(first)
        clock.now = 12.0
        first.call("think", {"thought": "x"})
        state = json.loads(json.dumps(first.state()))
    later = Clock()
    later.now = 500.0
    with Episode(task, tmp_path / "run", clock=later, state=state) as second:
        assert second.budget.state() == state["budget"]
        assert second.submissions.records == first.submissions.records
        assert not second.call("think", {"thought": "y"}).success
        handed_in(second)
        assert (second.budget.submissions, len(second.submissions.records)) == (2, 2)
        assert second.state()["budget"]["seconds"] == pytest.approx(12.0)


def test_code_that_was_handed_in_runs_in_a_sandbox_of_its_own(tmp_path):
    engine()
    evaluator = (
        "def validate(submitted):\n"
        "    given = {'question.txt': '20 22'}\n"
        "    done = submitted.run(['python3', 'outputs/add.py'], 20, given, ['answer.txt', 'nothing'])\n"
        "    value = float(done.files.get('answer.txt', b'0') == b'42')\n"
        "    return [{'name': 'accuracy', 'value': value}]\n"
    )
    program = (
        "import os\n"
        "a, b = map(int, open('question.txt').read().split())\n"
        "open('answer.txt', 'w').write(str(a + b))\n"
        "print('score 100')\n"
    )
    task = make_task(tmp_path / "task", evaluator=evaluator)
    with Episode(task, tmp_path / "run") as episode:
        episode.call("create_file", {"filename": "outputs/add.py", "content": program})
        assert episode.call("eval").to_dict()["overall_score"] == 100.0


def test_an_evaluator_that_cannot_be_imported_is_told_apart(tmp_path):
    engine()
    task = make_task(tmp_path / "task", evaluator=EVALUATOR + "\nimport no_such_package\n")
    with pytest.raises(EvaluationError, match="the evaluator failed") as failed:
        evaluate(task, EMPTY, engine())
    assert "no_such_package" in failed.value.log
