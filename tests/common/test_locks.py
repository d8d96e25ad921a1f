"""One writer at a time, which a message names; a writer that was killed is in nobody's way."""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import tiny_folder
from trimtab.common import locks
from trimtab.common.locks import Busy, holder, lock_path, writing

HOLD = """
import os, signal, sys, time
from pathlib import Path
from trimtab.common.locks import writing
signal.signal(signal.SIGINT, signal.default_int_handler)  # of a shell's background it would be ignored
with writing(Path(sys.argv[1]), "another run", "wait"):
    parent = os.getpid()
    if "fork" in sys.argv and os.fork() == 0:  # as a worker of a data loader, which looks for its parent now and then
        while os.getppid() == parent:
            time.sleep(0.1)
        time.sleep(1)
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def held(place: Path, *words: str) -> subprocess.Popen:
    """Another process that writes there."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(place), *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


@pytest.fixture(params=["folder", "file"])
def place(request, tmp_path) -> Path:
    found = tmp_path / "place"
    if request.param == "folder":
        found.mkdir()
    return found


def refused(place: Path) -> str:
    with pytest.raises(Busy) as raised, writing(place, "another run", "choose another place"):
        pass
    return str(raised.value)


def test_a_second_writer_is_refused_with_process_and_host_until_the_first_has_ended(place):
    process = held(place)
    try:
        said = f"is being written by another run (process {process.pid} on {platform.node()}); choose another place"
        assert refused(place) == refused(place) == f"{place} {said}"
        assert holder(place) == f"is being written by another process (process {process.pid} on {platform.node()})"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()
    assert holder(place) is None
    with writing(place, "another run", "wait"):
        assert str(os.getpid()) in refused(place)
    assert not lock_path(place).exists()


@pytest.mark.parametrize("words", [(), ("fork",)])
def test_a_writer_that_was_killed_is_in_nobodys_way(place, words):
    process = held(place, *words)
    process.kill()
    process.wait()
    assert lock_path(place).exists()
    with writing(place, "another run", "wait"):
        assert lock_path(place).read_text().split()[0] == str(os.getpid())
    assert not lock_path(place).exists()


def test_a_writer_on_another_host_is_believed(place, monkeypatch):
    process = held(place)
    try:
        lock_path(place).write_text(f"{2**22 + 5}\nelsewhere\n")
        start = time.monotonic()
        assert f"(process {2**22 + 5} on elsewhere)" in refused(place)
        assert time.monotonic() - start < locks.PATIENCE / 2
        lock_path(place).write_text("")  # nothing is known of the holder
        assert "is being written by another run; choose" in refused(place)
    finally:
        process.kill()
        process.wait()


def test_processes_of_one_launch_are_one_writer(place, monkeypatch):
    with writing(place, "another run", "wait"):
        monkeypatch.setenv("RANK", "1")
        with writing(place, "another run", "wait"):
            pass
        monkeypatch.setenv("RANK", "0")
        assert lock_path(place).exists()
        refused(place)


def test_without_locks_a_warning_is_printed_and_the_work_continues(place, monkeypatch, capsys):
    def no_locks(*args):
        raise OSError(locks.errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "_take", no_locks)
    with writing(place, "another run", "wait"):
        pass
    assert f"{place}: the file system does not support locks" in capsys.readouterr().err


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return tiny_folder.save(tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("command", ["generate", "compare-decoding", "clean", "precompute", "collect"])
def test_no_command_writes_where_another_one_does(trimtab, tmp_path, model, command):
    out = tmp_path / ("out.html" if command == "compare-decoding" else "out.jsonl")
    rows = [{"prompt": f"{i}+1?", "question": f"{i}+1?", "options": ["1", "2"], "answer": "A"} for i in range(3)]
    pairs = tiny_folder.write_jsonl(tmp_path / "pairs.jsonl", tiny_folder.pair_rows(3))
    tree = {"method": "dpo", "models": {"policy": model}, "data": {"train": pairs}, "output": str(tmp_path / "run")}
    (tmp_path / "recipe.yaml").write_text(json.dumps(tree))
    source = tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    words = {
        "generate": ["--model", model, "--prompt", "a"],
        "compare-decoding": ["--model", model, "--prompts", source],
        "clean": [source],
        "precompute": [tmp_path / "recipe.yaml"],
        "collect": [source, "--model", model],
    }[command]
    if command == "collect":
        out.mkdir()
    before = {path.name for path in tmp_path.iterdir()}
    with writing(out, "another call", "wait"):
        code, _, err = trimtab(command, *words, "--out", out)
    assert code == 2
    assert f"{out} is being written by another" in err
    assert f"(process {os.getpid()} on " in err
    assert {path.name for path in tmp_path.iterdir()} == before
