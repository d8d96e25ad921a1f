"""`trimtab agent run` and `agent roles`: turns on the terminal, rows that training reads, and what a mistake costs."""

import json
import re

import pytest

import tiny_agent
import tiny_folder
from tiny_agent import CALL, ENOUGH, PLANS, scripted
from trimtab.agents import roles as roles_module
from trimtab.data.generators.tool_world import tools as rows_of
from trimtab.data.trajectories import trajectory

RECORDED = [
    {"tools": [tiny_agent.TOOL]}, {"name": "look", "arguments": {"town": "Bern"}, "observation": "12 C"},
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return tiny_agent.roles_folder(tmp_path_factory.mktemp("agent") / "roles")


@pytest.fixture
def recorded(tmp_path):
    return tiny_folder.write_jsonl(tmp_path / "recorded.jsonl", RECORDED)


def says(monkeypatch, made):
    """The roles that the command loads say what a script has them say."""
    monkeypatch.setattr(roles_module, "load_roles", lambda *words, **how: made)


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tiny_models_work_on_tasks_of_the_bundled_worlds_and_are_checked(trimtab, files, tmp_path):
    out = tmp_path / "new" / "made.jsonl"
    words = ["--tools", "trimtab:tools/heldout", "--max-steps", "1", "--max-new-tokens", "4", "--context", "2000"]
    code, said, err = trimtab("agent", "run", files, *words, "--rows", "2", "--out", out)
    assert code == 0, err
    assert "success: 0 of 2 tasks" in said
    assert f"trajectories: {out}" in said
    made = rows(out)
    assert [row["ended"] for row in made] == ["steps", "steps"]
    assert [trajectory(row, "row").instruction for row in made] == [
        trajectory(row, "row").instruction for row in rows_of("heldout", 2)
    ]
    assert all(row["checked"] == {"state": False, "answer": False, "success": False} or row["checked"] for row in made)
    code, _, err = trimtab("agent", "run", files, *words, "--rows", "1", "--out", out)
    assert code == 0, err
    assert len(rows(out)) == 3  # appended
    code, said, err = trimtab("agent", "show", out)
    assert code == 0, err


def test_roles_that_say_what_a_row_says_solve_its_task(trimtab, monkeypatch, tmp_path):
    reference = [trajectory(row, "row") for row in rows_of("unseen_templates", 4)]
    steps = [step for one in reference for step in one.steps]
    by_role = [[step.value for step in steps if step.role == role] for role in ("assistant", "caller", "conclusion")]
    says(monkeypatch, scripted(*by_role))
    out = tmp_path / "made.jsonl"
    words = ["--tools", "trimtab:tools/unseen_templates", "--rows", "4", "--out", out]
    code, said, err = trimtab("agent", "run", "anything", *words)
    assert code == 0, err
    assert "success: 4 of 4 tasks" in said
    assert [trajectory(row, "row").steps for row in rows(out)] == [one.steps for one in reference]


@pytest.mark.parametrize("streamed", [False, True])
def test_each_turn_is_shown_once_with_who_says_it(trimtab, monkeypatch, recorded, streamed):
    says(monkeypatch, scripted([PLANS, "Enough."], [CALL, "hm"], ["It is [bold]12 C."]))
    if streamed:
        monkeypatch.setenv("FORCE_COLOR", "1")
    words = ["--tools", recorded, "--task", "Weather?", "--max-steps", "2"]
    code, said, err = trimtab("agent", "run", "anything", *words)
    assert code == 0, err
    assert ("\x1b[" in said) == streamed
    shown = [line.strip() for line in re.sub(r"\x1b\[[\d;]*m", "", said).splitlines()]
    note = "no marker, so the caller goes on"
    last = [f"planner  Enough.  ({note})"] if streamed else [f"planner {note}  Enough.", "Next: caller."]
    assert shown[:-1] == [
        "task  Weather?", "planner  I look.", "Next: caller.", "caller  Action: look",
        'Action Input: {"town": "Bern"}', "tool  12 C", *last, "caller  hm",
        "tool  error: the call could not be read: it has no line 'Action:' with the name of a tool",
    ]  # fmt: skip
    assert shown[-1].startswith("steps: after 2 plans there was no answer; ")


def test_each_task_begins_with_the_tools_as_they_were(trimtab, monkeypatch, tmp_path):
    again = {**RECORDED[1], "observation": "13 C"}  # what the same call is told the second time
    tools = tiny_folder.write_jsonl(tmp_path / "recorded.jsonl", [*RECORDED, again])
    says(monkeypatch, scripted([PLANS, ENOUGH] * 2, [CALL, CALL], ["x", "y"]))
    out = tmp_path / "made.jsonl"
    code, _, err = trimtab("agent", "run", "x", "--tools", tools, "--task", "1", "--task", "2", "--out", out)
    assert code == 0, err
    assert [row["conversations"][3]["value"] for row in rows(out)] == ["12 C", "12 C"]


def test_ctrl_c_keeps_what_was_done(trimtab, monkeypatch, recorded, tmp_path):
    says(monkeypatch, scripted([PLANS, ENOUGH, PLANS, KeyboardInterrupt()], [CALL, CALL], ["x"]))
    out = tmp_path / "made.jsonl"
    words = ["--tools", recorded, "--task", "one", "--task", "two", "--out", out]
    code, _, err = trimtab("agent", "run", "anything", *words)
    assert code == 130
    assert f"stopped in task 2 of 2; {out} holds what was done, up to here" in err
    first, second = rows(out)
    assert (first["ended"], second["ended"]) == ("conclusion", "stopped")
    assert len(second["conversations"]) == 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tools", "TOOLS"], '--task is missing: say what is to be done, --task "TEXT"'),
        (["--task", "x"], "--tools is missing"),
        (["--tools", "TOOLS", "--task", "x", "--rows", "2"], "--rows: only trimtab:tools/SPLIT has tasks of its own"),
        (["--tools", "trimtab:tools/heldout"], "--rows is missing: give the number of tasks of trimtab:tools/heldout"),
        (["--tools", "trimtab:tools/heldout", "--task", "x"], "--task: each row of trimtab:tools/heldout has its own"),
        (["--tools", "trimtab:tools/heldot", "--rows", "1"], "heldot"),
        (["--tools", "TOOLS", "--task", "x", "--width", "3"], "--width: only a search has children; add --search dfs"),
        (["--tools", "TOOLS", "--task", " "], "the task is empty"),
        (["--tools", "nothing", "--task", "x"], "'nothing' is no tools"),
        (["--tools", "none.py", "--task", "x"], "none.py"),
        (["--tools", "TOOLS", "--task", "x", "--temperature", "-1"], "--temperature is '-1'; it must be at least 0"),
        (["--tools", "TOOLS", "--task", "x", "--out", "OTHER"], "holds something else than trajectories"),
        (["--tools", "TOOLS", "--task", "x", "--out", "FOLDER"], "is a folder; name a file"),
    ],
)
def test_what_cannot_be_run_costs_a_line_and_leaves_nothing(trimtab, files, recorded, tmp_path, words, said):
    (tmp_path / "other.txt").write_text("mine\n")
    places = {"TOOLS": recorded, "OTHER": str(tmp_path / "other.txt"), "FOLDER": str(tmp_path)}
    code, _, err = trimtab("agent", "run", files, *[places.get(word, word) for word in words])
    assert code == 2
    assert said in err
    assert err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.txt", "recorded.jsonl"]


def test_a_folder_without_roles_is_refused(trimtab, recorded, tmp_path):
    code, _, err = trimtab("agent", "run", tmp_path, "--tools", recorded, "--task", "x")
    assert code == 2
    assert "holds no roles.json; make a roles folder of finished runs: trimtab agent roles" in err


def test_a_roles_folder_is_made_of_what_is_named(trimtab, files, tmp_path):
    given = [word for role in ("planner", "caller", "summarizer") for word in (f"--{role}", files / role)]
    code, said, err = trimtab("agent", "roles", tmp_path / "out", *given)
    assert code == 0, err
    assert said.splitlines()[-1] == f"roles: {tmp_path / 'out'}"
    assert json.loads((tmp_path / "out" / "roles.json").read_text())["base"] == str((files / "base").resolve())
    for words, wanted in (([], "no role is given"), (["--planner", files / "planner"], "a roles folder has --planner")):
        code, _, err = trimtab("agent", "roles", tmp_path / "other", *words)
        assert code == 2
        assert wanted in err
        assert not (tmp_path / "other").exists()
