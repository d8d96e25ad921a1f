"""Terminal sessions: what they remember, when they are busy, and that nothing is left of them."""

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from tiny_gym import both_engines, engine
from trimtab.gym.ring import text_of
from trimtab.gym.running import ready
from trimtab.gym.sandbox import Sandbox, SandboxLimits
from trimtab.gym.session import LONGEST_COMMAND, Session, SessionError
from trimtab.gym.workspace import Workspace

PATIENCE = 20.0
STATUSES = {"true": 0, "false": 1, "(exit 7)": 7, "no_such_command": 127, "(kill -9 $BASHPID)": 137}


@pytest.fixture(scope="module", params=both_engines())
def sandbox(request, tmp_path_factory):
    engine()
    workspace = Workspace.create(tmp_path_factory.mktemp("sessions") / "workspace")
    limits = SandboxLimits(memory=1 << 30, processes=60, scratch=1 << 22)
    yield Sandbox(workspace.folder, request.param, workspace.uid, limits)
    workspace.remove()


@pytest.fixture
def session(sandbox):
    made = Session("one", sandbox)
    yield made
    made.close()


def ran(session: Session, command: str) -> str:
    """What a command writes."""
    mark = session.ring.mark
    session.run(command)
    assert session.wait(PATIENCE, lambda: session.idle), session.processes()
    return text_of(session.ring.after(mark))


def test_a_shell_remembers_its_folder_its_variables_and_its_functions(session):
    ran(session, "cd /tmp; X=3; twice() { echo $(($1 * 2)); }")
    assert ran(session, "pwd; echo $X; twice 4") == "/tmp\n3\n8"


def test_the_status_is_the_commands(session):
    for command, status in (
        ("true", 0),
        ("false", 1),
        ("(exit 7)", 7),
        ("no_such_command", 127),
        ("kill -9 $BASHPID", 0),
    ):
        if "kill" not in command:
            ran(session, command)
            assert session.last_status == status


def test_a_syntax_error_and_several_lines_do_not_end_it(session):
    assert "syntax error" in ran(session, "if (")
    assert ran(session, "for i in 1 2\ndo echo $i\ndone\ncat <<EOF\n'a\nEOF") == "1\n2\n'a"


def test_a_busy_session_refuses_a_second_command_until_all_processes_have_ended(session):
    session.run("sleep 100 & echo started")
    assert session.wait(PATIENCE, lambda: session.last_status == 0)
    assert not session.idle
    with pytest.raises(SessionError, match=r"busy with (sleep|bash) \(\d"):
        session.run("echo x")
    assert session.kill_processes(force=True) == 1
    assert session.wait(PATIENCE, lambda: session.idle)
    assert ran(session, "echo x").endswith("x")


def test_builtins_that_run_keep_it_busy(session):
    session.run("while :; do :; done")
    assert not session.wait(0.2, lambda: session.idle)
    with pytest.raises(SessionError, match="busy"):
        session.run("echo x")


def test_input_reaches_the_program_that_reads_and_no_later_command(session):
    session.run("read a; read b; echo $b $a")
    assert session.input("1\n2\necho stolen\n") == 16
    assert session.wait(PATIENCE, lambda: session.idle)
    assert text_of(session.ring.lines()) == "2 1"
    assert ran(session, "echo next") == "next"
    with pytest.raises(SessionError, match="waits for input"):
        session.input("x\n")


def test_input_that_nobody_reads_does_not_block(session):
    session.run("sleep 100")
    assert 0 < session.input("x" * (1 << 21)) < 1 << 21


def test_a_command_does_not_get_the_descriptors_of_the_shell(session):
    assert ran(session, "ls /proc/self/fd | xargs") == "0 1 2 3"  # 3 is that of ls on the folder
    assert "Bad file descriptor" in ran(session, "echo 0 >&4")


def test_the_end_of_the_shell_is_that_of_the_session(session):
    session.run("sleep 100 & exit 3")
    assert session.wait(PATIENCE, lambda: not session.alive)
    assert session.idle
    with pytest.raises(SessionError, match="has ended"):
        session.run("echo x")


@pytest.mark.parametrize("command", ["echo \0", "x" * (LONGEST_COMMAND + 1)])
def test_a_command_that_no_shell_can_read_is_refused(session, command):
    with pytest.raises(SessionError, match="a command has at most"):
        session.run(command)


def test_output_without_line_breaks_and_binary_output_are_kept_in_bounded_memory(session):
    ran(session, "head -c 2000000 /dev/zero; head -c 2800000 /dev/urandom")
    lines = session.ring.lines()
    assert len(lines) <= 10_001
    assert max(len(line.text) for line in lines) <= 4000
    assert ran(session, "echo; echo still here").endswith("still here")


def test_a_flood_of_lines_is_read_to_its_end(session):
    ran(session, "seq 300000")
    assert session.ring.total == 300_000
    assert text_of(session.ring.slice(2)) == "299999\n300000"


def test_waiting_ends_with_what_is_waited_for(session):
    session.run("sleep 0.2")
    began = time.monotonic()
    assert session.wait(PATIENCE, lambda: session.idle)
    assert time.monotonic() - began < 5


def test_what_a_guard_objects_to_is_killed_and_the_reason_is_kept(sandbox):
    seen = []

    def guard(session, cpu_seconds, memory):
        seen.append((cpu_seconds, memory))
        return "too much" if cpu_seconds > 0.2 else None

    session = Session("guarded", sandbox, guard)
    session.run("while :; do :; done & sleep 100 & wait")
    assert session.wait(PATIENCE, lambda: session.idle)
    assert session.killed_because == "too much"
    assert max(memory for _, memory in seen) > 1 << 20
    session.close()


@pytest.mark.parametrize("said", ["junk", "", "1 2 x", "99999999999999999999"])
def test_a_command_that_writes_to_the_descriptor_of_statuses_stays_watched(sandbox, said):
    session = Session("forged", sandbox, lambda session, cpu_seconds, memory: "enough" if cpu_seconds > 0.2 else None)
    session.run(f"for n in 10 11 12 13; do echo {said} >&$n; done; while :; do :; done")
    assert session.wait(PATIENCE, lambda: session.killed_because == "enough")
    session.close()


def test_a_shell_that_reads_no_commands_holds_nobody_up(sandbox, monkeypatch):
    monkeypatch.setattr("trimtab.gym.session.READING", 0.5)
    session = Session("stopped", sandbox)
    session.run("for n in 10 11 12 13; do echo 0 >&$n; done; while :; do :; done")
    assert session.wait(PATIENCE, lambda: session.idle)
    began = time.monotonic()
    with pytest.raises(SessionError, match="session stopped reads no commands any more, and was ended"):
        session.run(f": {'x' * 90_000}")
    assert time.monotonic() - began < 10
    assert session.wait(PATIENCE, lambda: not session.alive)
    session.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_session_that_cannot_be_watched_any_more_ends(sandbox):
    def guard(session, cpu_seconds, memory):
        raise OSError("no descriptor is left")

    session = Session("unwatched", sandbox, guard)
    assert session.wait(PATIENCE, lambda: not session.alive)
    assert session.killed_because == "it could not be watched any more"
    assert session._running.ended
    session.close()


def test_output_that_comes_behind_a_status_does_not_hold_the_watch_up(sandbox):
    looks, asleep = [], threading.Event()

    def guard(*_):
        looks.append(1)
        if len(looks) == 5:
            asleep.set()
            time.sleep(0.6)  # the status, and then the output, are there when it has slept

    session = Session("late", sandbox, guard)
    assert asleep.wait(PATIENCE)
    session.run("(sleep 0.2; echo late) &")
    assert session.wait(PATIENCE, lambda: text_of(session.ring.lines()) == "late")
    number = len(looks)
    assert session.wait(2.0, lambda: len(looks) > number + 2)
    session.close()


@pytest.mark.parametrize("command", ["while :; do :; done", "while :; do sleep 0.01; done", "read forever"])
def test_what_goes_on_when_its_processes_are_killed_ends_with_its_shell(sandbox, command):
    session = Session("stubborn", sandbox, lambda session, *_: "enough" if time.time() - session.created > 1 else None)
    session.run(command)
    assert session.wait(PATIENCE, lambda: session.idle)
    assert (session.alive, session.killed_because) == (False, "enough")
    session.close()


def test_a_shell_that_holds_too_much_memory_is_killed_though_it_is_idle(sandbox):
    objecting = threading.Event()
    session = Session("full", sandbox, lambda session, _, memory: "too much" if objecting.is_set() else None)
    assert ran(session, "x=$(head -c 100000000 /dev/zero | tr '\\0' a); echo ${#x}") == "100000000"
    time.sleep(1.0)  # it does nothing any more
    objecting.set()
    assert session.wait(PATIENCE, lambda: not session.alive)
    assert session.killed_because == "too much"
    session.close()


def test_a_shell_that_does_nothing_survives_what_is_objected_to(sandbox):
    looks: list[int] = []
    session = Session("quiet", sandbox, lambda *_: looks.append(1) or "enough")
    assert session.wait(PATIENCE, lambda: len(looks) > 10)
    assert (session.alive, session.killed_because) == (True, None)
    session.close()


def test_cpu_seconds_of_processes_that_nobody_waits_for_are_counted(sandbox):
    session = Session("counted", sandbox)
    session.run(
        "trap '' CHLD; (trap '' CHLD; for i in 1 2 3; do (timeout 0.5 sh -c 'while :; do :; done') & done; wait)"
    )
    assert session.wait(PATIENCE, lambda: session.idle)
    assert session.cpu_seconds > 0.05
    session.close()


def test_a_command_that_has_ended_before_anybody_looks_has_run(sandbox, monkeypatch):
    def late(heard, seconds):
        found = ready(heard, seconds)
        time.sleep(0.5)
        return found

    monkeypatch.setattr("trimtab.gym.sandbox.ready", late)
    before = open_now()
    done = sandbox.run(["bash", "-c", "echo quick; exit 3"], 20)
    assert (done.code, done.output, done.timed_out) == (3, b"quick\n", False)
    assert open_now() == before


def open_now() -> tuple[int, int]:
    """Descriptors and threads of this process."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def test_nothing_is_left_of_sessions_that_are_closed(sandbox):
    first = Session("warm", sandbox)
    first.close()
    before = open_now()
    children = {one.pid for one in psutil.Process().children(recursive=True)}
    inner = []
    for number in range(8):
        session = Session(str(number), sandbox)
        session.run("sleep 987 & setsid sleep 987 & (nohup setsid sleep 987 > /dev/null 2>&1 &)")
        session.wait(PATIENCE, lambda session=session: len(session.processes()) >= 3)
        inner += [one.pid for one in psutil.Process().children(recursive=True) if one.pid not in children]
        session.close()
    assert open_now() == before
    assert inner
    assert not [pid for pid in inner if psutil.pid_exists(pid)]


def test_a_session_ends_with_the_process_that_opened_it(sandbox, tmp_path):
    told = tmp_path / "told"
    program = (
        "import sys, time, psutil\n"
        "from pathlib import Path\n"
        "from trimtab.gym.sandbox import Sandbox\n"
        "from trimtab.gym.session import Session\n"
        f"session = Session('a', Sandbox(Path({str(sandbox.folder)!r}), {sandbox.engine!r}, {sandbox.uid!r}))\n"
        "session.run('setsid sleep 654')\n"
        "session.wait(20, lambda: len(session.processes()) > 0)\n"
        f"Path({str(told)!r}).write_text(' '.join(str(one.pid) for one in psutil.Process().children(recursive=True)))\n"
        "time.sleep(100)\n"
    )
    running = subprocess.Popen([sys.executable, "-c", program])
    end = time.monotonic() + 60
    while not (told.exists() and told.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    pids = list(map(int, told.read_text().split()))
    running.send_signal(signal.SIGKILL)
    running.wait()
    while any(map(_runs, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert len(pids) >= 3
    assert not any(map(_runs, pids))


def _runs(pid: int) -> bool:
    try:
        return "sleep 654" in Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return False
