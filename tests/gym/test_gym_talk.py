"""Talks of an evaluator with a program of the agent, in a sandbox."""

import time
from pathlib import Path

import pytest

from tiny_gym import engine, make_task
from trimtab.gym.judging import Rejected, Submitted
from trimtab.gym.sandbox import SandboxLimits

ECHO = "import json, sys\nfor line in sys.stdin:\n    print(json.dumps({'heard': json.loads(line)}))\n"


@pytest.fixture
def submitted(tmp_path):
    task = make_task(tmp_path / "task")
    (tmp_path / "outputs").mkdir()
    return Submitted(tmp_path / "outputs", task.hidden, task.folder, engine(), SandboxLimits())


def test_what_is_said_is_answered_line_by_line(submitted):
    with submitted.talk(["python3", "echo.py"], 20, {"echo.py": ECHO}) as talk:
        for value in ({"a": [1.5, "é\n"]}, "x" * 300_000, None):
            assert talk.ask(value) == {"heard": value}


@pytest.mark.parametrize(
    "program, told",
    [
        ("import sys; sys.stdin.readline(); raise SystemExit('first\\nno idea')", "ended early: no idea"),
        ("print('{\"a\": 1')", "no JSON"),
        ("print('[' * 100_000)", "no JSON"),
        ("import os\nwhile True: os.write(1, b'x' * 65536)", "more than 33,554,432 bytes"),
        ("import time; time.sleep(60)", "not done after 0.5 seconds"),
        ("import sys, os\nwhile True: os.write(2, b'x' * 65536)", "not done after 0.5 seconds"),
    ],
)
def test_a_program_that_does_not_answer_is_rejected_with_the_reason(submitted, program, told):
    seconds = 0.5 if "0.5" in told else 10
    began = time.monotonic()
    with pytest.raises(Rejected, match=told), submitted.talk(["python3", "x.py"], seconds, {"x.py": program}) as talk:
        talk.ask("?")
    assert time.monotonic() - began < 5


def test_a_program_that_does_not_read_holds_nobody_up(submitted):
    with pytest.raises(Rejected, match="not done after"), submitted.talk(["sleep", "60"], 0.5, {}) as talk:
        talk.say("x" * 1_000_000)


def test_modules_come_from_the_task_and_not_from_what_was_handed_in(submitted):
    (submitted.task / "workspace" / "double.py").write_text("def double(x):\n    return 2 * x\n")
    (submitted.folder / "workspace").mkdir()
    (submitted.folder / "workspace" / "double.py").write_text("raise SystemExit")
    assert submitted.module("workspace/double.py").double(4) == 8


def test_no_descriptor_is_left_of_what_was_run(submitted):
    submitted.run(["true"], 20)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        submitted.run(["true"], 20)
        with submitted.talk(["python3", "echo.py"], 20, {"echo.py": ECHO}) as talk:
            talk.ask(1)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
