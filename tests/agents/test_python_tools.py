"""Tools that are functions of a user's file, in a process of their own that may raise, hang, print or end."""

import contextlib
import os
import signal
import textwrap
import threading
import time

import psutil
import pytest

from trimtab.agents.python_tools import PythonTools
from trimtab.agents.toolboxes import open_toolbox
from trimtab.agents.tools import ToolsError
from trimtab.data.trajectories import name_of

TOOLS = '''
import os, sys, time, subprocess
from helpers import twice
print("while it is imported")
counter = {"calls": 0}


def double(text: str, times: int = 2) -> str:
    """Repeat a text

    Args:
        text: what to repeat
        times: how often
    """
    counter["calls"] += 1
    print("a line that looks like a reply", flush=True)
    os.write(1, b'{"id": 1, "text": "wrong"}\\n')
    return twice(text) if times == 2 else text * times


def count() -> int:
    """How often double was called"""
    return counter["calls"]


def odd(kind: str):
    """Does something odd

    Args:
        kind: what
    """
    if kind == "raises":
        raise ValueError("a mistake\\nof two lines")
    if kind == "leaves":
        sys.exit(3)
    if kind == "ends":
        os._exit(3)
    if kind == "killed":
        os.kill(os.getpid(), 9)
    if kind == "hangs":
        while True:
            pass
    if kind == "sleeps with children":
        subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL)
        time.sleep(60)
    if kind == "sleeps":
        time.sleep(1.5)
        return "slept"
    if kind == "prints":
        for _ in range(300):
            os.write(1, b"x" * 2**20)
            os.write(2, b"x" * 2**20)
        return "printed"
    if kind == "gigabyte":
        return "\\u00e9" * 2**27
    if kind == "set":
        return {1}
    if kind == "nan":
        return float("nan")
    if kind == "loop":
        made = []
        made.append(made)
        return made
    if kind == "half":
        return "\\ud800"
    if kind == "reads":
        return sys.stdin.read()
    if kind == "forks":
        if os.fork() == 0:
            return "child"
        time.sleep(0.3)
        return "parent"
    if kind == "nothing":
        return None
    if kind == "table":
        return {"a": [1, 2.5, None], "\\u00fc": True}
    if kind == "memory":
        return len(bytearray(8 * 2**30))


async def later(number: float) -> float:
    """Comes later

    Args:
        number: a number
    """
    return number + 1


def _hidden(a: str): ...
'''


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tools")
    (folder / "helpers.py").write_text("def twice(text):\n    return text * 2\n")
    (folder / "tools.py").write_text(TOOLS)
    return folder / "tools.py"


@pytest.fixture(scope="module")
def box(file):
    with PythonTools(str(file), seconds=3, longest=2000, memory=4 * 2**30) as made:
        yield made


def test_public_functions_of_the_file_are_tools_with_their_schemas(box):
    assert [name_of(one) for one in box.schemas] == ["double", "count", "odd", "later"]
    own = box.schemas[0]["function"]
    assert own["description"] == "Repeat a text"
    assert own["parameters"]["properties"]["times"] == {"type": "integer", "description": "how often"}
    assert own["parameters"]["required"] == ["text"]
    assert [path.name for path in box.files] == ["helpers.py", "tools.py"]


def test_what_a_tool_prints_is_not_what_it_returns_and_it_may_remember(box):
    before = int(box.run("count", "{}").text)
    assert box.run("double", '{"text": "ab"}')[:2] == ("abab", False)
    assert box.run("double", '{"text": "ab", "times": 3}').text == "ababab"
    assert box.run("count", "{}").text == str(before + 2)
    assert box.run("later", '{"number": 1.5}').text == "2.5"


@pytest.mark.parametrize(
    "kind, text",
    [("nothing", "null"), ("table", '{"a": [1, 2.5, null], "ü": true}'), ("prints", "printed"), ("reads", ""),
     ("half", "?"), ("forks", "parent")],
)  # fmt: skip
def test_what_is_returned_becomes_a_text(box, kind, text):
    assert box.run("odd", {"kind": kind})[:2] == (text, False)


@pytest.mark.parametrize(
    "kind, said",
    [
        ("raises", "error: ValueError: a mistake (tools.py, line 33)"),
        ("leaves", "error: SystemExit: 3 (tools.py, line 35)"),
        ("ends", "error: odd ended its process (exit code 3), which is started anew"),
        ("killed", "error: odd ended its process (killed by SIGKILL), which is started anew"),
        ("set", "error: odd returned a set, which is no JSON: return a text, a number, a list or a dict"),
        ("nan", "error: odd returned a float, which is no JSON: return a text, a number, a list or a dict"),
        ("loop", "error: odd returned a list, which is no JSON: return a text, a number, a list or a dict"),
        ("memory", "error: MemoryError (tools.py, line 78)"),
    ],
)
def test_a_tool_that_fails_is_an_observation_and_the_next_call_works(box, kind, said):
    found = box.run("odd", {"kind": kind})
    assert found[:2] == (said, True)
    assert box.run("double", '{"text": "a"}')[:2] == ("aa", False)


def test_a_gigabyte_is_cut(box):
    found = box.run("odd", {"kind": "gigabyte"})
    assert len(found.text) <= 2000
    assert found.text.endswith(" [cut: 134,217,728 characters]")
    assert not found.error


def alive(group):
    """The processes of a group; those that ended and that nobody has waited for do not count."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError, PermissionError):
            found += [one.pid] if os.getpgid(one.pid) == group and one.status() != psutil.STATUS_ZOMBIE else []
    return found


def test_a_tool_that_hangs_is_stopped_with_its_children(box, monkeypatch):
    monkeypatch.setattr(box, "seconds", 0.5)
    for kind in ("hangs", "sleeps with children"):
        box.run("double", '{"text": "a"}')
        group = box.pid
        began = time.monotonic()
        found = box.run("odd", {"kind": kind})
        assert found[:2] == ("error: odd took longer than 0.5 s and was stopped; its process is started anew", True)
        assert 0.5 <= found.seconds <= time.monotonic() - began < 20
        assert box.run("count", "{}").text == "0"  # what it remembered is lost
        assert alive(group) == []


def test_an_interrupt_leaves_no_reply_behind_that_the_next_call_would_take(box):
    box.run("double", '{"text": "a"}')
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt):
        box.run("odd", '{"kind": "sleeps"}')
    signal.signal(signal.SIGINT, before)
    assert box.run("double", '{"text": "a"}')[:2] == ("aa", False)


def test_arguments_are_checked_before_the_process_is_asked(box):
    assert box.run("double", '{"text": 3}').text == "error: text of double is 3; it must be a text"
    assert box.run("double", '{"text": "a", "tims": 3}').text == (
        "error: double has no argument \"tims\"; did you mean 'times'?"
    )
    assert box.run("_hidden", '{"a": "b"}').text.startswith('error: there is no tool "_hidden"')


def test_long_arguments_go_through(box):
    assert box.run("double", {"text": "x" * 300_000, "times": 1}).text.endswith("[cut: 300,000 characters]")


def test_it_ends_with_its_block_and_can_be_begun_anew(file):
    with open_toolbox(str(file)) as made:
        assert isinstance(made, PythonTools)
        made.run("double", '{"text": "a"}')
        assert made.run("count", "{}").text == "1"
        made.restart()
        assert made.run("count", "{}").text == "0"
        pid = made.pid
    with pytest.raises(ProcessLookupError):
        os.killpg(pid, 0)


@pytest.mark.parametrize(
    "text, said",
    [
        ("def f(:", r"tools .*bad\.py: importing .*bad\.py raised SyntaxError: .* line 1"),
        ("import nothing_of_that_name", r"importing .*bad\.py raised ModuleNotFoundError: .* line 1"),
        ("import sys; sys.exit(1)", r"importing .*bad\.py raised SystemExit: 1"),
        ("import os; os._exit(1)", r"bad\.py: its process ended while the file was imported \(exit code 1\)"),
        ("x = 1", r"bad\.py defines no public function; a tool is a function with type hints and a docstring"),
        ("def f(a): ...", r"bad\.py: f cannot be described as a tool: .*; give it a docstring"),
        ('def f(a):\n    """It\n\n    Args:\n        a: it\n    """', r"f cannot be described as a tool: .*type hint"),
        ("TOOLS = [1]", r"bad\.py: TOOLS holds a int; expected functions"),
        ("TOOLS = 1", r"bad\.py: TOOLS is a int; expected a list of functions"),
    ],
)  # fmt: skip
def test_a_file_without_tools_is_one_line(tmp_path, text, said):
    (tmp_path / "bad.py").write_text(text + "\n")
    with pytest.raises(ToolsError, match=said) as found:
        PythonTools(str(tmp_path / "bad.py"))
    assert "\n" not in str(found.value)


def test_a_list_says_which_functions_are_tools(tmp_path):
    text = '''
    from os.path import basename

    def one() -> str:
        """One"""
        return "1"

    def two() -> str:
        """Two"""
        return "2"

    TOOLS = [two]
    '''
    (tmp_path / "listed.py").write_text(textwrap.dedent(text))
    with PythonTools(str(tmp_path / "listed.py")) as box:
        assert [name_of(one) for one in box.schemas] == ["two"]
        assert box.run("two", "{}").text == "2"
        assert box.run("one", "{}").error


def test_limits_must_be_positive(file):
    with pytest.raises(ToolsError, match="a tool needs time, got 0 seconds"):
        PythonTools(str(file), seconds=0)
