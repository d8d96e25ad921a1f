"""A server is found, started in an environment of its own, waited for, read, and ended with its children."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from trimtab.common.errors import UserError
from trimtab.engines import vllm
from trimtab.engines.http import RequestFailed, request_json
from trimtab.engines.vllm import EngineFailed, EngineMissing, Serve, VLLMServer, find_vllm, free_port, served

FAKE = Path(__file__).with_name("fake_vllm.py")


@pytest.fixture(autouse=True)
def program(tmp_path, monkeypatch) -> Path:
    """A program `vllm` that runs with this Python."""
    path = tmp_path / "vllm"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv(vllm.COMMAND, str(path))
    return path


def started(monkeypatch, key: str = "", **how) -> VLLMServer:
    monkeypatch.setenv("FAKE_VLLM", json.dumps(how))
    return VLLMServer(Serve("some/model", free_port()), key=key)


def test_the_command_has_what_was_asked_and_nothing_else():
    assert Serve("m", 8150).command("vllm") == ["vllm", "serve", "m", "--host", "127.0.0.1", "--port", "8150"]
    asked = Serve(
        "m", 8150, name="teacher", dtype="float32", max_model_len=1024, max_num_seqs=32, max_logprobs=64,
        kv_cache_bytes=2**30, seed=3, eager=True, more=("--logprobs-mode", "raw_logprobs"),
    )  # fmt: skip
    assert asked.command("vllm")[7:] == [
        "--served-model-name", "teacher", "--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "32",
        "--max-logprobs", "64", "--kv-cache-memory-bytes", "1073741824", "--seed", "3", "--enforce-eager",
        "--logprobs-mode", "raw_logprobs",
    ]  # fmt: skip


def test_a_server_says_what_it_serves_and_ends_with_its_block(monkeypatch):
    with started(monkeypatch, key="secret") as server:
        said = served(server.url, key="secret")
        assert (said.models, said.roots, said.longest) == (("teacher",), ("some/model",), (128,))
        assert said.version == "0.32.0+cpu"
        with pytest.raises(RequestFailed, match="HTTP 401: Unauthorized"):
            served(server.url, key="wrong")
        assert "secret" not in server.said
        log, process = server.log, server.process
    assert process is not None
    assert process.poll() is not None
    assert log is not None
    assert not log.exists()
    with pytest.raises(RequestFailed, match="[Rr]efused"):
        request_json(f"{server.url}/health")


def test_its_environment_has_nothing_of_ours_or_of_a_launcher(monkeypatch):
    for name in ("PYTHONPATH", "VIRTUAL_ENV", "RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_USE_CPU"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("HF_HOME", "/there")
    with started(monkeypatch) as server:
        found = request_json(f"{server.url}/environment")
    assert found["HF_HOME"] == "/there"
    assert not found.keys() & {"PYTHONPATH", "VIRTUAL_ENV", "RANK", "WORLD_SIZE", "MASTER_PORT", "ACCELERATE_USE_CPU"}


def test_one_that_dies_is_an_error_with_its_last_line_and_without_the_key(monkeypatch):
    with pytest.raises(EngineFailed, match="ended with exit code 3") as raised, started(monkeypatch, "secret", dies=3):
        pass
    assert str(raised.value).endswith("ended with exit code 3: key ***")


def test_of_many_lines_the_error_that_matters_is_said_and_where_the_rest_stands(tmp_path):
    log = tmp_path / "vllm.log"
    log.write_text(
        "(APIServer pid=0) WARNING 11-30 [utils.py:1] this can cause `OSError: [Errno 24] Too many open files`\n"
        "(EngineCore pid=1) ERROR 11-30 [core.py:1] Traceback (most recent call last):\n"
        "(EngineCore pid=1) ERROR 11-30 [core.py:1] ValueError: Available memory (18.8 GiB) is less than desired\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    server = VLLMServer(Serve("some/model", 1), log=log, program="vllm")
    server.process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])
    server.process.wait()
    with pytest.raises(EngineFailed) as raised:
        server.check_alive()
    said = f"ended with exit code 1: ValueError: Available memory (18.8 GiB) is less than desired (see {log})"
    assert str(raised.value).endswith(said)


def test_one_that_never_gets_ready_is_ended(monkeypatch):
    server = started(monkeypatch, never=True)
    server.start()
    with pytest.raises(EngineFailed, match=r"was not ready in 0 seconds"):
        server.wait_ready(0.3)
    server.stop()
    assert server.process is not None
    assert server.process.poll() is not None


def test_children_and_a_server_that_does_not_listen_are_ended_too(monkeypatch):
    server = started(monkeypatch, child=True, deaf=True)
    server.start()
    server.wait_ready()
    child = int(next(line for line in server.last_lines() if line.startswith("child")).split()[1])
    assert psutil.pid_exists(child)
    server.stop(0.5)
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE
    assert server.process is not None
    assert server.process.poll() == -9
    server.stop()  # twice is once


def test_a_port_that_is_taken_is_refused_before_anything_starts(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        server = VLLMServer(Serve("m", port))
        with pytest.raises(UserError, match=f"port {port} of 127.0.0.1 cannot be had .* choose another port"):
            server.start()
    assert server.process is None


def test_the_program_is_found_by_variable_then_path_then_folder(monkeypatch, tmp_path, program):
    assert find_vllm() == str(program)
    monkeypatch.setenv(vllm.COMMAND, str(tmp_path / "nothing"))
    with pytest.raises(EngineMissing, match="TRIMTAB_VLLM is .*nothing, which is no program"):
        find_vllm()
    monkeypatch.delenv(vllm.COMMAND)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_vllm() == str(program)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(EngineMissing, match="vLLM is not installed: .* `make engines`") as raised:
        find_vllm()
    assert "\n" not in str(raised.value)
    made = tmp_path / vllm.MADE
    made.parent.mkdir(parents=True)
    program.rename(made)
    assert find_vllm() == str(made)
