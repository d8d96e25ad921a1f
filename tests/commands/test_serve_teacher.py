"""`trimtab serve-teacher` starts the right line with a key, on this machine alone, and Ctrl-C ends all of it."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from trimtab.engines.http import API_KEY
from trimtab.engines.vllm import COMMAND, free_port

FAKE = Path(__file__).parents[1] / "engines" / "fake_vllm.py"


@pytest.fixture(autouse=True)
def program(tmp_path, monkeypatch) -> Path:
    path = tmp_path / "vllm"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "$@"\n')
    path.chmod(0o755)
    monkeypatch.setenv(COMMAND, str(path))
    monkeypatch.delenv(API_KEY, raising=False)
    return path


@pytest.fixture
def model(tmp_path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path / "model"


def test_dry_run_prints_the_line_alone(trimtab, program, model):
    words = ("--k", "100", "--port", "8150", "--dtype", "bfloat16", "--max-length", "4096", "--cache-gib", "2")
    code, out, err = trimtab("serve-teacher", model, *words, "--more", "--tensor-parallel-size 2", "--dry-run")
    assert (code, err) == (0, "")
    assert out == (
        f'VLLM_API_KEY="$TRIMTAB_API_KEY" {program} serve {model} --host 127.0.0.1 --port 8150 --served-model-name '
        "teacher --dtype bfloat16 --max-model-len 4097 --max-logprobs 100 --kv-cache-memory-bytes 2147483648 "
        "--logprobs-mode raw_logprobs --generation-config vllm --max-num-batched-tokens 2048 --enable-scale-out "
        "--tensor-parallel-size 2\n"
    )


def test_dry_run_needs_no_vllm(trimtab, model, monkeypatch, tmp_path):
    monkeypatch.delenv(COMMAND)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.chdir(tmp_path)
    code, out, _ = trimtab("serve-teacher", model, "--dry-run")
    assert (code, out.startswith(f'VLLM_API_KEY="$TRIMTAB_API_KEY" vllm serve {model} ')) == (0, True)
    code, _, err = trimtab("serve-teacher", model)
    assert (code, err.count("\n"), "vLLM is not installed" in err) == (2, 1, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere/at/all"], "nowhere/at/all"),
        (["minilm-l6", "--dry-run"], "minilm-l6 predicts no next token"),
        (["MODEL", "--k", "0"], "--k is '0'; it must be at least 1"),
        (["MODEL", "--more", "'"], "--more: No closing quotation"),
        (["ADAPTER"], "is an adapter, and vLLM serves whole models; merge it"),
    ],
)
def test_what_cannot_be_served_costs_one_line(trimtab, model, tmp_path, words, message):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    named = {"MODEL": str(model), "ADAPTER": str(tmp_path / "adapter")}
    code, _, err = trimtab("serve-teacher", *(named.get(word, word) for word in words))
    assert (code, err.count("\n")) == (2, 1), err
    assert message in err


def test_one_that_dies_says_its_last_line(trimtab, model, monkeypatch):
    monkeypatch.setenv("FAKE_VLLM", json.dumps({"dies": 3}))
    code, out, err = trimtab("serve-teacher", model, "--port", str(free_port()))
    assert (code, err.count("\n"), "ended with exit code 3: " in err) == (2, 1, True)
    key = out.partition(f"export {API_KEY}=")[2].split()[0]
    assert len(key) > 20
    assert key not in err


@pytest.mark.fast("ours")
@pytest.mark.parametrize("given", ["", "ours"])
def test_ctrl_c_ends_the_server_and_its_children(model, tmp_path, given):
    environment = {**os.environ, "FAKE_VLLM": json.dumps({"child": True}), **({API_KEY: given} if given else {})}
    port, log = free_port(), tmp_path / "log"
    words = ["serve-teacher", str(model), "--port", str(port), "--log", str(log)]
    process = subprocess.Popen(
        [sys.executable, "-m", "trimtab", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**environment, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "Ctrl-C stops it" in line:
            break
    said = "".join(lines)
    assert f"models.teacher=vllm://127.0.0.1:{port}" in said
    assert "ready: vLLM 0.32.0+cpu, rows of up to 127 tokens" in said
    assert ("who asks needs this key" in said) == (not given)
    child = int(log.read_text().partition("child ")[2].split()[0])
    servers = psutil.Process(process.pid).children(recursive=True)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "the server was stopped" in err, "Traceback" in err) == (130, True, False)
    _, left = psutil.wait_procs([*servers], timeout=5)
    assert left == []
    assert not psutil.pid_exists(child)
