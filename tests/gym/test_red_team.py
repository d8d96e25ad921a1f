"""What a hostile agent tries, and that it fails: from a session, by actions, and through what it hands in."""

import os
import socket
import threading
import time

import psutil
import pytest

import red_team
from tiny_gym import SECRET, SETTINGS, both_engines, engine, make_task, said
from trimtab.gym.episode import Episode
from trimtab.gym.inside import filter as calls
from trimtab.gym.sandbox import INSIDE

TOKEN = "hf_agentsmustnotseethis"
QUOTA = 20_000_000


@pytest.fixture(scope="module", params=both_engines())
def cell(request, tmp_path_factory):
    """An episode, and what attempts are told of the host, which listens and holds a token in its environment."""
    engine()
    host = tmp_path_factory.mktemp("host")
    settings = SETTINGS.replace("seconds: 60, steps: 200", "steps: 100000").replace(
        "cpu_seconds: 60", "cpu_seconds: 6000"
    )
    task = make_task(tmp_path_factory.mktemp("tasks") / "task", settings=settings)
    called = []
    servers = [socket.create_server(("127.0.0.1", 0)), socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX)]
    names = {"socket": f"{host}/s", "abstract": f"trimtab-test-{os.getpid()}-{request.param}"}
    servers[1].bind(names["socket"])
    servers[2].bind("\0" + names["abstract"])
    for one in servers:
        one.listen()
        threading.Thread(target=_answer, args=(one, called), daemon=True).start()
    os.environ["HF_TOKEN"] = TOKEN
    known = {
        "task": task.folder, "run": host / "run", "host": host, "labels": task.folder / "hidden" / "labels.json",
        "pid": os.getpid(), "port": servers[0].getsockname()[1], "token": TOKEN, "python": "python3",
        "inside": INSIDE, **names,
    }  # fmt: skip
    with Episode(task, host / "run") as episode:
        episode.engine = request.param
        episode.known, episode.called = known, called
        yield episode
    del os.environ["HF_TOKEN"]
    for one in servers:
        one.shutdown(socket.SHUT_RDWR)  # which ends the thread that accepts
        one.close()


def _answer(server: socket.socket, called: list) -> None:
    while True:
        try:
            called.append(server.accept())
        except OSError:
            return


def tried(cell, command: str) -> str:
    """The output of an attempt, which has run to its end and has not got what it wanted."""
    for name, value in cell.known.items():
        command = command.replace(f"{{{name}}}", str(value))
    found = said(cell, f"{command}\necho tried")
    output = found.get("output", "")
    assert "tried" in output.splitlines(), found
    assert "ESCAPED" not in output, found
    assert SECRET not in output
    assert TOKEN not in output
    return output


@pytest.mark.parametrize("name", red_team.ATTEMPTS)
def test_an_attempt_from_a_session_fails(cell, name):
    before = (cell.known["host"] / "planted").exists(), cell.task.version()
    tried(cell, red_team.ATTEMPTS[name])
    assert cell.called == []
    assert before == (False, cell.task.version())


CALL = "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nprint(libc.syscall({words}), ctypes.get_errno())\n"


def call(cell, *words: int) -> str:
    """Result and errno of a system call."""
    return tried(cell, f"python3 -c '{CALL.format(words=', '.join(map(str, words)))}'").splitlines()[-2]


@pytest.mark.parametrize("name", calls.REFUSED)
def test_a_system_call_that_weakens_a_sandbox_is_refused(cell, name):
    column = calls.MACHINES[os.uname().machine][1]
    numbers = calls.REFUSED[name]
    assert call(cell, numbers[column], 0, 0, 0, 0, 0) == f"-1 {numbers[2]}"


@pytest.mark.parametrize("flag", [0x20000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000])
def test_a_process_in_a_new_namespace_is_refused(cell, flag):
    column = calls.MACHINES[os.uname().machine][1]
    assert call(cell, calls.CLONE[column], flag | 17, 0, 0, 0, 0) == "-1 1"


def test_the_other_table_of_system_calls_is_refused(cell):
    if os.uname().machine != "x86_64":
        pytest.skip("only x86_64 has the x32 table")
    assert call(cell, 0x40000000 | calls.REFUSED["mount"][0], 0, 0, 0, 0, 0) == "-1 38"


def test_a_fork_bomb_stays_in_its_cell_and_is_killed(cell):
    cell.call("run_command", {"command": ":() { : | : & }; :; sleep 60", "session_id": "bomb"})
    time.sleep(0.3)
    session = cell.sessions.sessions["bomb"]
    assert len(session.processes()) <= 40
    cell.call("close_session", {"session_id": "bomb"})
    assert tried(cell, "true") == "tried"


DAEMONS = {
    "in the background": "sleep 777 &",
    "of its own session": "setsid sleep 777 &",
    "that ignores the hang-up": "nohup sleep 777 > /dev/null 2>&1 &",
    "forked twice": "(setsid sh -c 'sleep 777 &' &)",
    "that ignores signals": "(trap '' TERM HUP INT; setsid sleep 777) &",
    "disowned": "sleep 777 & disown",
    "with another name": "(exec -a kworker sleep 777) &",
    "that starts itself anew": "while :; do setsid sleep 777; done &",
}


@pytest.mark.parametrize("how", DAEMONS)
def test_a_daemon_ends_with_its_session(cell, how):
    cell.call("run_command", {"command": DAEMONS[how], "session_id": "d"})
    session = cell.sessions.sessions["d"]
    assert session.wait(10, lambda: any(one.name == "sleep" for one in session.processes()))
    left = [one for one in psutil.process_iter(["cmdline"]) if "777" in (one.info["cmdline"] or [])]
    assert left
    assert not session.idle
    cell.call("close_session", {"session_id": "d"})
    assert not [one for one in left if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]


def test_the_end_of_all_that_can_be_killed_ends_the_session_alone(cell):
    cell.call("run_command", {"command": "kill -9 -1", "session_id": "k"})
    cell.call("sleep", {"seconds": 1, "session_id": "k"})
    assert tried(cell, "true") == "tried"
    cell.call("close_session", {"session_id": "k"})


def test_memory_that_is_too_much_is_not_had(cell):
    output = tried(cell, "python3 -c 'x = bytearray(3_000_000_000)' 2>&1 | tail -1")
    assert "MemoryError" in output


@pytest.mark.slow  # seconds
def test_processes_that_together_hold_too_much_memory_are_killed(cell):
    hog = "python3 -c \"x = b'x' * 900_000_000; import time; time.sleep(100)\" & "
    cell.call("run_command", {"command": hog * 3 + "wait", "session_id": "m"})
    session = cell.sessions.sessions["m"]
    assert session.wait(30, lambda: session.killed_because is not None)
    assert "bytes of memory" in session.killed_because
    cell.call("close_session", {"session_id": "m"})


FILLS = {
    "one file after another": "for i in 1 2 3 4 5 6 7 8 9; do head -c 1000000000 /dev/zero > big$i; done",
    "many files": "for i in $(seq 200); do head -c 1000000 /dev/zero > big$i; done",
    "reserved blocks": "python3 -c \"import os\nfor i in range(9):\n f = os.open(f'big{i}', os.O_CREAT | os.O_RDWR); "
    "os.posix_fallocate(f, 0, 9000000)\"",
    "names alone": "mkdir big; cd big; seq 5000 | xargs touch; cd ..",
    "deleted files that stay open": "python3 -c \"import os, time\nfor i in range(100):\n"
    " f = os.open('big', os.O_CREAT | os.O_RDWR); os.unlink('big')\n for _ in range(9): os.write(f, bytes(1000000))\n"
    "time.sleep(60)\"",
    "files in folders without rights": "for i in $(seq 200); do mkdir big$i; head -c 1000000 /dev/zero > big$i/f; "
    "chmod 000 big$i; done",
    "folders of any depth": "python3 -c \"import os\nfor i in range(5000): os.mkdir('big'); os.chdir('big')\"",
}  # fmt: skip


@pytest.mark.fast("*-[!f]*", "*-files*")
@pytest.mark.parametrize("how", FILLS)
def test_a_disk_that_is_filled_ends_what_fills_it(cell, how):
    free = os.statvfs(cell.folder)
    cell.call("run_command", {"command": f"{FILLS[how]}; sleep 60", "session_id": "f"})
    session = cell.sessions.sessions["f"]
    assert session.wait(30, lambda: session.killed_because is not None)
    assert "workspace holds" in session.killed_because
    assert cell.workspace.usage().bytes < 10 * QUOTA
    cell.call("close_session", {"session_id": "f"})
    assert os.statvfs(cell.folder).f_bfree > free.f_bfree - 10 * QUOTA // free.f_frsize
    tried(cell, "chmod -R u+rwX . ; rm -rf big* ; ls")
    assert cell.workspace.usage().beyond(cell.workspace.quota) is None


@pytest.mark.parametrize("place", ["/tmp", "/dev/shm"])
def test_memory_for_files_is_limited(cell, place):
    output = tried(cell, f"head -c 100000000 /dev/zero > {place}/x; stat -c %s {place}/x; rm -f {place}/x")
    assert int(output.splitlines()[-2]) <= 8_000_000 + os.sysconf("SC_PAGE_SIZE")


def test_a_hole_takes_no_disk_and_cannot_be_larger_than_a_file_may_be(cell):
    output = tried(cell, "truncate -s 1T hole 2>&1; stat -c %s hole; rm -f hole")
    assert int(output.splitlines()[-2]) <= 10_000_000


ACTIONS = {
    "open_file": ("path", {}),
    "get_file_info": ("path", {}),
    "list_files": ("path", {}),
    "search_file": ("path", {"term": "a"}),
    "search_dir": ("path", {"term": "a"}),
    "find_file": ("path", {"pattern": "*"}),
    "create_file": ("filename", {"content": "planted"}),
    "edit_file": ("path", {"start": 1, "end": 1, "content": "planted"}),
}
PLACES = {
    "its own place": "{labels}",
    "the way up": "../../../../../../../../..{labels}",
    "the way up from the workspace": "/workspace/../../../../../../../..{labels}",
    "a link": "to_labels",
    "a link to its folder": "to_task/hidden/labels.json",
    "a link to a link": "to_link/hidden/labels.json",
    "a link to the root": "to_root{labels}",
    "a link through /proc": "to_proc{labels}",
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("action", ACTIONS)
def test_no_action_on_files_reaches_the_labels(cell, action, place):
    links = "ln -sfn {labels} to_labels; ln -sfn {task} to_task; ln -sfn to_task to_link; ln -sfn / to_root; "
    tried(cell, links + "ln -sfn /proc/self/root to_proc")
    key, rest = ACTIONS[action]
    path = PLACES[place].replace("{labels}", str(cell.known["labels"]))
    version = cell.task.version()
    found = cell.call(action, {key: path, **rest})
    assert SECRET not in str(found)
    assert "labels.json" not in str(found.to_dict().get("content", ""))
    if action != "get_file_info" or place != "a link":  # which says that it is a link
        assert not found.success or action in ("find_file", "search_dir") or place == "a link"
    assert cell.task.version() == version


def test_a_folder_that_is_swapped_for_a_link_again_and_again_leads_nowhere(cell):
    swap = (
        "import os\nos.makedirs('d/hidden', exist_ok=True); open('d/hidden/labels.json', 'w').write('mine')\n"
        f"os.path.islink('e') or os.symlink('{cell.known['task']}', 'e')\n"
        "import ctypes\nlibc, here, exchange = ctypes.CDLL(None), -100, 2\n"
        "while True: libc.renameat2(here, b'd', here, b'e', exchange)\n"
    )
    cell.call("create_file", {"filename": "swap.py", "content": swap})
    cell.call("run_command", {"command": "python3 swap.py", "session_id": "s"})
    version, kinds = cell.task.version(), set()
    end, least = time.monotonic() + 20, time.monotonic() + 0.5
    while (len(kinds) < 2 and time.monotonic() < end) or time.monotonic() < least:
        found = cell.call("open_file", {"path": "d/hidden/labels.json"})
        cell.call("create_file", {"filename": "d/hidden/planted", "content": "x"})
        kinds.add(found.success)
        assert SECRET not in str(found)
    cell.call("close_session", {"session_id": "s"})
    assert kinds == {True, False}
    assert cell.task.version() == version
