"""`trimtab serve`: what cannot be served costs a line, and what can is served until Ctrl-C."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager

import psutil
import pytest
from openai import OpenAI

import tiny_dial
import tiny_folder
from trimtab.commands.serve import folder_of
from trimtab.engines.http import API_KEY
from trimtab.engines.vllm import COMMAND
from trimtab.serving.run import bound


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "there is no folder nowhere"),
        (["PLAIN"], "has no dial: no layer was inserted"),
        (["PLAIN", "--token", "short"], "--token must have at least 8 characters"),
        (["PLAIN", "--token", "with a space"], "--token must have at least 8 characters"),
        (["PLAIN", "--port", "70000"], "--port is '70000'; it must be at most 65535"),
        (["DIAL", "--engine", "vllm"], "which is no program"),
        (["OLD"], "its dial has version 99, and this trimtab reads version 1"),
        (["DIAL", "--engine", "transformers", "--host", "203.0.113.7"], "port 0 of 203.0.113.7 cannot be had"),
    ],
)
def test_what_cannot_be_served_costs_a_line(trimtab, tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.setenv(COMMAND, str(tmp_path / "no-vllm"))
    tiny_folder.save(tmp_path / "plain")
    dial = tiny_dial.export(tmp_path)
    old = tmp_path / "old"
    if "OLD" in words:
        dial.rename(old)
        config = (old / "config.json").read_text().replace('"version": 1,', '"version": 99,')
        (old / "config.json").write_text(config)
    places = {"PLAIN": str(tmp_path / "plain"), "DIAL": str(dial), "OLD": str(old)}
    port = () if "--port" in words else ("--port", "0")
    capsys.readouterr()
    code, _, err = trimtab("serve", *(places.get(word, word) for word in words), *port)
    assert (code, err.count("\n"), message in err) == (2, 1, True), err


def test_a_port_that_is_taken_costs_a_line_before_an_engine_is_started(trimtab, tmp_path, capsys):
    dial = tiny_dial.export(tmp_path)
    capsys.readouterr()
    with bound("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        code, out, err = trimtab("serve", dial, "--engine", "transformers", "--port", port)
    assert (code, out) == (2, "")
    assert (
        err == f"error: port {port} of 127.0.0.1 cannot be had (address already in use); choose another with --port\n"
    )


def broken_template(folder):
    (folder / "chat_template.jinja").unlink()


def broken_settings(folder):
    (folder / "generation_config.json").write_text("[]")


def broken_json(folder):
    (folder / "generation_config.json").write_text("{")


def broken_weights(folder):
    (folder / "model.safetensors").unlink()


def broken_tokenizer(folder):
    (folder / "tokenizer.json").unlink()


@pytest.mark.parametrize("exported", [True, False])
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (broken_template, "has no chat template, and all that is served are chats; put the chat_template.jinja"),
        (broken_settings, "generation_config.json is not a JSON object; copy it again"),
        (broken_json, "generation_config.json: line 1 is not valid JSON"),
        (broken_weights, "it has no weights"),
        (broken_tokenizer, "not the tokenizer itself"),
    ],
)
def test_what_an_engine_would_miss_later_is_said_before_it_is_started(trimtab, tmp_path, exported, spoil, message):
    folder = tiny_dial.export(tmp_path) if exported else tiny_dial.save(tmp_path / "trained")
    spoil(folder)
    code, out, err = trimtab("serve", folder, "--engine", "transformers", "--port", "0")
    assert (code, out, err.count("\n"), message in err) == (2, "", 1, True), err
    assert str(folder) in err


def test_a_run_whose_config_only_names_the_key_is_exported(tmp_path):
    """As that of a model whose base lies in a folder of this name."""
    folder = tiny_dial.save(tmp_path / "trained")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "_name_or_path": "trimtab_dial"}))
    place, dial = folder_of(folder, tmp_path)
    assert (place, dial.modules) == (tmp_path / "dial", ("model.layers.0",))
    assert (place / "model.safetensors").readlink() == folder / "model.safetensors"
    assert not (place / "config.json").is_symlink()


def test_a_template_that_the_engine_is_given_will_do(tmp_path):
    folder = tiny_dial.export(tmp_path)
    broken_template(folder)
    assert folder_of(folder, tmp_path, template=True)[0] == folder


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dtype", "float32", "--eager"], "--dtype and --eager: only under vLLM, and the engine is transformers"),
        (["--max-length", "64"], "--max-length: only under vLLM"),
        (["--log", "."], "the log . cannot be written: Is a directory; choose another file"),
    ],
)
def test_a_setting_without_effect_and_a_log_that_is_none_are_refused(trimtab, tmp_path, words, message):
    dial = tiny_dial.export(tmp_path)
    code, _, err = trimtab("serve", dial, "--engine", "transformers", "--port", "0", *words)
    assert (code, err.count("\n"), message in err) == (2, 1, True), err


@pytest.mark.parametrize("token", ["short", "with a space", "with-an-\u00e4"])
def test_a_token_of_the_environment_must_be_one_too(trimtab, tmp_path, monkeypatch, token):
    monkeypatch.setenv(API_KEY, token)
    code, _, err = trimtab("serve", tiny_dial.export(tmp_path), "--engine", "transformers", "--port", "0")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith(f"error: {API_KEY} must have at least 8 characters")
    assert token not in err


@contextmanager
def serving(folder):
    """The process, its address and token, when it is ready."""
    environment = {name: value for name, value in os.environ.items() if name != API_KEY}
    words = [sys.executable, "-u", "-m", "trimtab", "serve", str(folder), "--port", "0", "--engine", "transformers"]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            said = ""
            while "Ctrl-C" not in said:
                line = process.stdout.readline()
                assert line, process.stderr.read()
                said += line
            found = re.search(r"page: (\S+)/#token=(\S+)", said)
            assert found, said
            yield process, found[1], found[2]
        finally:
            if process.poll() is None:
                process.kill()


@pytest.mark.slow
def test_a_run_is_served_at_two_strengths_until_ctrl_c(tmp_path):
    model = tiny_dial.save(tmp_path / "model")
    with serving(model) as (process, url, token):
        client = OpenAI(base_url=f"{url}/v1", api_key=token)
        answers = [
            client.chat.completions.create(
                model="model", messages=[{"role": "user", "content": "hi"}], max_completion_tokens=8,
                extra_body={"strength": strength},
            ).choices[0].message.content
            for strength in (0.0, 1.0)
        ]  # fmt: skip
        assert answers[0] != answers[1]
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert (process.returncode, err.strip(), token in out) == (130, "the server was stopped", False)
        assert not any(child.is_running() for child in children)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_of_a_server_that_is_ended(tmp_path, monkeypatch, number):
    """The engine sees for itself that a server that was killed is gone."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    with serving(tiny_dial.save(tmp_path / "model")) as (process, _, _):
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(number)
        process.communicate(timeout=60)
        assert not psutil.wait_procs(children, timeout=20)[1]
    if number != signal.SIGKILL:
        assert not list((tmp_path / "temporary").glob("trimtab-*"))


@pytest.mark.slow
def test_an_engine_that_dies_ends_the_server_with_a_line(tmp_path):
    with serving(tiny_dial.export(tmp_path)) as (process, _, _):
        for child in psutil.Process(process.pid).children():
            child.kill()
        _, err = process.communicate(timeout=60)
        assert (process.returncode, err.count("\n")) == (2, 1)
        assert "ended with exit code -9" in err
