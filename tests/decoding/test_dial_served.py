"""`transformers serve` on an exported folder: each request names its strength; chat templates of known families."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny_dial
import zoo
from trimtab.decoding.realign import realign

BLOCKED = "import sys; sys.modules['trimtab'] = None; from transformers.cli.transformers import main; main()"
"""the server's own start, where trimtab is not installed"""
CHAT = [{"role": "user", "content": "What is rain?"}]


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The exported folder, and the address of a server that serves it."""
    folder, port = tiny_dial.export(tmp_path_factory.mktemp("served"), recommended=(-1.0, 2.0)), free_port()
    words = ["serve", "--trust-remote-code", "--host", "127.0.0.1", "--port", str(port), str(folder)]
    log = (folder.parent / "serve.log").open("w")
    server = subprocess.Popen(
        [sys.executable, "-c", BLOCKED, *words], stdout=log, stderr=log, cwd=folder.parent,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""},
    )  # fmt: skip
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 180
    while server.poll() is None and time.monotonic() < until:
        try:
            urllib.request.urlopen(f"{url}/health", timeout=1)
            break
        except OSError:
            time.sleep(0.5)
    yield folder, url
    server.send_signal(signal.SIGINT)
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()
    log.close()


def wanted(folder, strength, number=12):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    ids = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    out = model.generate(**ids, custom_generate=realign, strength=strength, do_sample=False, max_new_tokens=number)
    return tokenizer.decode(out[0, ids["input_ids"].size(1) :], skip_special_tokens=True)


@pytest.mark.slow
def test_two_clients_ask_one_server_at_two_strengths_at_once(served):
    openai = pytest.importorskip("openai")
    folder, url = served
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)

    def ask(strength, stream=False):
        found = client.chat.completions.create(
            model=str(folder), messages=CHAT, max_completion_tokens=12, stream=stream,
            extra_body={"generation_config": json.dumps({"strength": strength})},
        )  # fmt: skip
        if not stream:
            return found.choices[0].message.content
        return "".join(part.choices[0].delta.content or "" for part in found if part.choices)

    strengths = [0.0, 0.5, 1.0, 1.5]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, strengths))
    assert answers == [wanted(folder, strength) for strength in strengths]
    assert len(set(answers)) == 4
    assert ask([1.0, 0.0]) == wanted(folder, [[1.0]] * 6 + [[0.0]] * 6)
    assert ask(0.5, stream=True) == answers[1].rstrip("\ufffd")  # what begins a character is held back


@pytest.mark.slow
def test_a_strength_that_means_nothing_fails_alone(served):
    openai = pytest.importorskip("openai")
    folder, url = served
    how = {"model": str(folder), "messages": CHAT, "max_completion_tokens": 12}
    with (
        openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as first,
        pytest.raises(openai.InternalServerError),
    ):
        first.chat.completions.create(**how, extra_body={"generation_config": '{"strength": NaN}'})
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        plain = client.chat.completions.create(**how)
    assert plain.choices[0].message.content == wanted(folder, 1.0)


def code_of(card):
    """The Python of a model card, block by block."""
    return re.findall(r"```python\n(.*?)```", card.read_text(), re.DOTALL)


def test_the_code_of_the_model_card_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    folder = tiny_dial.export(tmp_path)
    monkeypatch.chdir(tmp_path)
    exec(code_of(folder / "README.md")[0], {})
    said = capsys.readouterr().out
    assert all(strength in said for strength in ("0.0 ", "0.5 ", "1.0 ", "[1.0, 0.5, 0.0] "))


@pytest.mark.slow
def test_the_request_of_the_model_card_is_answered(served, capsys):
    pytest.importorskip("openai")
    folder, url = served
    text = code_of(folder / "README.md")[1].replace("http://localhost:8000", url).replace('"dial"', f'"{folder}"')
    exec(text.replace("=64", "=12"), {})
    said = capsys.readouterr().out
    assert said == "".join(f"{strength} {wanted(folder, strength)}\n" for strength in (0.0, 1.0))


@pytest.mark.parametrize("name", ["llama3", "qwen3", "deepseekv3", "gemma", "cohere2", "phi3"])
def test_the_template_of_a_family_comes_along(tmp_path, name):
    tokenizer = zoo.of_bytes(name)
    folder = tiny_dial.export(
        tmp_path, "qwen3", tokenizer=tokenizer, vocab_size=len(tokenizer), max_position_embeddings=4096
    )
    stored, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    how = {"add_generation_prompt": True, "return_dict": True, "return_tensors": "pt"}
    inputs = stored.apply_chat_template(CHAT, **how)
    assert inputs["input_ids"].tolist() == tokenizer.apply_chat_template(CHAT, **how)["input_ids"].tolist()
    greedy = {"do_sample": False, "max_new_tokens": 6}
    found = model.generate(**inputs, custom_generate=str(folder), trust_remote_code=True, strength=0.5, **greedy)
    assert torch.equal(found, model.generate(**inputs, custom_generate=realign, strength=0.5, **greedy))
