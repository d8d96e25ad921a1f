"""`trimtab gym`: a run from its first line to its page, what goes on, and what a mistake costs."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from tiny_gym import EVALUATOR, SETTINGS, engine, make_task
from trimtab.commands.gym_run import step_line
from trimtab.common import locks
from trimtab.gym import sandbox
from trimtab.gym.agents.scripted import Scripted
from trimtab.gym.finding import bundled, find_task
from trimtab.gym.sandbox import SandboxError

ANSWERS = {"name": "create_file", "arguments": {"filename": "outputs/answers.txt", "content": "tangerine0451 b c z"}}


@pytest.fixture
def task(tmp_path, monkeypatch):
    engine()
    monkeypatch.chdir(tmp_path)
    return make_task(tmp_path / "words", **{"reference/outputs/answers.txt": "a b c d"}).folder


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.yaml"
    path.write_text(yaml.safe_dump([ANSWERS, {"name": "eval"}, {"name": "think", "arguments": {"thought": "hm"}}]))
    return path


def test_a_run_shows_its_steps_and_is_reported_and_scored_again(trimtab, task, script, tmp_path):
    code, out, err = trimtab(
        "gym", "run", task, "--agent", f"scripted:{script}", "--snapshot-every", "1", "--seed", "4"
    )
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0].startswith("Guess the labels: 1 min, sandbox: ")
    assert lines[2].endswith("min left  eval: score 75.00")
    assert "final 75.0, best 75.0, private 50.0 of 100 (the agent has stopped)" in lines
    assert lines[-1] == "run: runs/gym/words-scripted-4"
    run = tmp_path / "runs/gym/words-scripted-4"
    assert {"agent": "scripted", "seed": 4, "title": "Guess the labels"}.items() <= json.loads(
        (run / "gym.json").read_text()
    ).items()
    code, out, err = trimtab("gym", "report", run)
    assert code == 0, err
    assert "75.0" in out
    assert (run / "report.html").is_file()
    code, out, err = trimtab("gym", "rescore", run)
    assert code == 0, err
    assert [line.split() for line in out.splitlines()[1:]] == [
        ["1", "75.00", "75.00", "50.00", "50.00"], ["2", "(final)", "75.00", "75.00", "50.00", "50.00"]
    ]  # fmt: skip
    code, out, err = trimtab("gym", "run", task, "--agent", f"scripted:{script}", "--out", run, "--branch", "1")
    assert code == 0, err
    assert out.splitlines()[-1] == f"run: {run}-step1"
    assert len(json.loads((tmp_path / f"{run}-step1/gym.json").read_text())["submissions"]) == 2
    code, out, err = trimtab("gym", "diff", f"{run}@1", f"{run}-step1")
    assert code == 0, err
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["no", "file", "differs"]
    assert ["steps", "1", "3"] in lines
    assert ["score", "of", "submission", "1", "75.00"] in lines
    for words, said in (([run, f"{run}@7"], "no snapshot at step 7; there are: 1"), ([task, run], "has no snapshot")):
        code, _, err = trimtab("gym", "diff", *words)
        assert (code, err.count("\n")) == (2, 1)
        assert said in err
    (task / "hint.md").write_text("Another version.")
    code, _, err = trimtab("gym", "rescore", run)
    assert (code, err.count("\n")) == (2, 1)
    assert "scores of other versions do not compare" in err
    code, _, err = trimtab("gym", "run", task, "--agent", f"scripted:{script}", "--out", run, "--branch", "1")
    assert (code, err.count("\n")) == (2, 1)
    assert "scores of other versions do not compare" in err
    assert sorted(one.name for one in run.parent.iterdir()) == ["words-scripted-4", "words-scripted-4-step1"]


def test_an_evaluator_that_fails_when_scores_are_computed_again_is_named_with_the_reason(trimtab, tmp_path):
    engine()
    broken = tmp_path / "broken"
    check = f"    import os\n    assert not os.path.exists({str(broken)!r}), 'labels are locked'\n"
    task = make_task(tmp_path / "words", EVALUATOR.replace("    labels =", f"{check}    labels =", 1)).folder
    script = tmp_path / "s.yaml"
    script.write_text(yaml.safe_dump([ANSWERS]))
    assert trimtab("gym", "run", task, "--agent", f"scripted:{script}", "--out", tmp_path / "run")[0] == 0
    broken.touch()
    code, _, err = trimtab("gym", "rescore", tmp_path / "run")
    assert (code, err.count("\n")) == (2, 1)
    assert (
        err
        == f"error: submission 1: the evaluator failed: AssertionError: labels are locked; see {task}/evaluator.py\n"
    )


def test_ctrl_c_keeps_the_run_and_resume_goes_on(trimtab, task, script, monkeypatch):
    real, stop = Scripted.act, [True]

    def act(agent, seen, left):
        if agent.at == 2 and stop.pop():
            raise KeyboardInterrupt
        return real(agent, seen, left)

    monkeypatch.setattr(Scripted, "act", act)
    words = ["gym", "run", task, "--agent", f"scripted:{script}", "--out", "made"]
    code, _, err = trimtab(*words)
    assert code == 130
    assert "made is kept; the same command with --out made --resume goes on" in err
    code, _, err = trimtab(*words)
    assert (code, err) == (2, "error: made is there already; --resume goes on with it, another --out begins anew\n")
    with locks.writing(Path("made"), "", ""):
        code, _, err = trimtab(*words, "--resume")
    assert code == 2
    assert "made is being written by another process" in err
    code, _, err = trimtab(*words, "--resume", "--seed", "3")
    said = "error: --seed 3: made is a run with --seed 0, which --resume goes on with; --branch takes another one\n"
    assert (code, err) == (2, said)
    stop.append(False)
    code, out, err = trimtab(*words, "--resume")
    assert code == 0, err
    assert out.splitlines()[1].startswith("   3 ")
    code, _, err = trimtab(*words, "--resume")
    assert code == 2
    assert "made has ended; branch from one of its snapshots" in err


def test_a_server_that_does_not_answer_leaves_nothing_of_a_run_that_has_not_begun(trimtab, task, server, tmp_path):
    make_task(task, settings=SETTINGS.replace("steps: 200", "steps: 3"))
    server.script = [(401, '{"error": {"message": "no such key"}}')]
    words = ["gym", "run", task, "--agent", "react", "--model", f"{server.url}#m", "--out", "asked"]
    code, _, err = trimtab(*words)
    assert code == 2
    assert "no such key" in err
    assert not (tmp_path / "asked").exists()
    code, out, err = trimtab(*words, "--max-new-tokens", "10", "--snapshot-every", "0")
    assert code == 0, err
    assert out.count("null: failed: there was no call of a tool; call exactly one") == 3
    assert "final 0.0, best 0.0, private 0.0 of 100 (all 3 steps are used up)" in out
    assert json.loads((tmp_path / "asked/gym.json").read_text())["model"] == f"{server.url}#m"


def without(task, name):
    shutil.rmtree(task / name) if (task / name).is_dir() else (task / name).unlink()
    return task


@pytest.mark.parametrize(
    "words, said",
    [
        (["df-nosy", "--agent", "random"], "there is no task 'df-nosy'; did you mean 'df-noisy'?"),
        (["./nowhere", "--agent", "random"], "there is no task folder nowhere"),
        (["words", "--agent", "randm"], "there is no agent 'randm'; did you mean 'random'?"),
        (["words", "--agent", "react"], "--agent react asks a model; name it: --model MODEL"),
        (["words", "--agent", "random", "--model", "m"], "--model: random asks no model"),
        (["words", "--agent", "random:x"], "only scripted and impatient have a file"),
        (["words", "--agent", "impatient"], "give the run or the actions"),
        (["words", "--agent", "scripted:nowhere.yaml"], "there is no file nowhere.yaml"),
        (["words", "--agent", "random", "--out", "nowhere", "--resume"], "there is no run nowhere"),
        (["words", "--agent", "random", "--out", "words", "--resume"], "words is not a run of `trimtab gym run`"),
        (["words", "--agent", "random", "--resume", "--branch", "1"], "give one of them"),
        (["no-evaluator", "--agent", "random"], "no-evaluator has no evaluator.py"),
        (["no-licence", "--agent", "random"], "task.yaml has no licence"),
        (["no-anchor", "--agent", "random"], "task.yaml has no metrics"),
    ],
)
def test_a_mistake_of_a_run_costs_a_line_and_leaves_nothing(trimtab, task, tmp_path, words, said):
    without(make_task(tmp_path / "no-evaluator").folder, "evaluator.py")
    metrics = "\nmetrics: [{name: accuracy, baseline: 0, reference: 1}]\n"
    for name, settings in (("no-licence", f"title: T{metrics}"), ("no-anchor", "title: T\nlicence: MIT\n")):
        folder = make_task(tmp_path / name).folder
        (folder / "task.yaml").write_text(settings)
    before = sorted(tmp_path.iterdir())
    code, _, err = trimtab("gym", "run", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert said in err
    assert sorted(tmp_path.iterdir()) == before


def test_a_machine_without_a_sandbox_starts_nothing_unless_told(trimtab, task, monkeypatch, tmp_path):
    def none():
        raise SandboxError("there is no sandbox on this machine (bwrap is not installed)")

    monkeypatch.setattr(sandbox, "find_engine", none)
    words = ["gym", "run", task, "--agent", "scripted", "--out", "run"]
    code, _, err = trimtab(*words)
    assert (code, err) == (2, "error: there is no sandbox on this machine (bwrap is not installed)\n")
    assert not (tmp_path / "run").exists()
    code, out, err = trimtab(*words, "--unsafe")
    assert code == 0, err
    assert "sandbox: none" in out


def test_bundled_tasks_are_listed_and_found_by_name(trimtab):
    code, out, _ = trimtab("gym", "list")
    assert code == 0
    assert all(name in out and find_task(name).name == name for name in bundled())
    assert "df-noisy" in bundled()


def test_a_line_of_a_step_fits_the_terminal():
    row = {
        "step": 12,
        "action": {"name": "run_command", "arguments": {"command": "python3 train.py\n--steps 3"}},
        "observation": {"success": False, "error_message": "it was\nkilled" * 50},
    }
    found = step_line(row, 90.0, 100)
    assert found.startswith("  12    2 min left  run_command python3 train.py --steps 3: failed: it was killed")
    assert len(found) == 100
