"""`trimtab serve` with real vLLM behind it, as a client sees it; skipped where no vLLM is found."""

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import httpx
import psutil
import pytest

import tiny_dial
from trimtab.decoding.realign import realign
from trimtab.engines.vllm import EngineMissing, find_vllm
from trimtab.serving.start import has_plugin

pytestmark = pytest.mark.slow
TOKEN = "a-token-of-tests"
SIZE = {"hidden_size": 64, "head_dim": 32, "num_attention_heads": 2, "num_key_value_heads": 1, "bos_token_id": 1}
"""vLLM's attention on a CPU has heads of 32 at least"""
ASK = [{"role": "user", "content": "Where is it?"}]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The command, and where it listens."""
    openai = pytest.importorskip("openai")
    try:
        program = find_vllm()
    except EngineMissing as error:
        pytest.skip(str(error))
    if not has_plugin(program):
        pytest.skip(f"{program} has no trimtab-vllm")
    folder = tiny_dial.export(tmp_path_factory.mktemp("served"), "llama", (-0.5, 1.5), **SIZE)
    words = ["serve", str(folder), "--engine", "vllm", "--port", "0", "--dtype", "float32", "--max-length", "128"]
    command = [sys.executable, "-m", "trimtab", *words, "--cache-gib", "0.05", "--eager"]
    environment = {**os.environ, "TRIMTAB_API_KEY": TOKEN, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    said = []
    for line in process.stdout:
        said.append(line)
        if line.startswith("Ctrl-C"):
            break
    address = re.search(r'base_url="(\S+)/v1"', "".join(said))
    assert address, "".join(said)
    client = openai.OpenAI(base_url=f"{address[1]}/v1", api_key=TOKEN, max_retries=0)
    yield SimpleNamespace(url=address[1], client=client, process=process, said="".join(said))
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)


def ask(site, strength, tokens=10):
    answer = site.client.chat.completions.create(
        model="dial", messages=ASK, max_completion_tokens=tokens, extra_body={"strength": strength}
    )
    return answer.choices[0].message.content.rstrip("\ufffd")  # vLLM keeps back bytes that are no whole character


def by_realign(strength, tokens=10):
    model, _ = tiny_dial.expanded("llama", **SIZE)
    tokenizer = tiny_dial.tiny_folder.byte_tokenizer()
    inputs = tokenizer.apply_chat_template(ASK, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    how = {"custom_generate": realign, "max_new_tokens": tokens, "do_sample": False, "eos_token_id": 0}
    out = model.generate(**inputs, strength=strength, **how)
    return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).rstrip("\ufffd")


def test_an_exported_folder_answers_several_strengths_at_once_as_realign_does(site):
    assert site.said.startswith("engine: vllm;")
    strengths = [0.0, 0.3, 1.0, 1.4]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: ask(site, one), strengths))
    assert found == [by_realign(one) for one in strengths]
    assert len(set(found)) > 1
    parts = [[1.0]] * 5 + [[0.0]] * 5
    assert ask(site, [1.0, 0.0]) == by_realign(parts)


def test_changes_under_vllm_are_those_of_the_model(site):
    header = {"Authorization": f"Bearer {TOKEN}"}
    asked = {"messages": ASK, "answer": "abc", "strength": 1.0}
    found = httpx.post(f"{site.url}/dial/changes", json=asked, headers=header, timeout=300).json()["tokens"]
    model, original = tiny_dial.expanded("llama", **SIZE)
    tokenizer = tiny_dial.tiny_folder.byte_tokenizer()
    prompt = tokenizer.apply_chat_template(ASK, add_generation_prompt=True, return_dict=True)["input_ids"]
    wanted = tiny_dial.changes(model, original, prompt, tokenizer("abc", add_special_tokens=False)["input_ids"])
    assert [one["change"] for one in found] == pytest.approx(wanted, abs=1e-3)


def test_mistakes_cost_a_line_and_a_warning_comes_with_the_answer(site):
    http = httpx.Client(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=300)
    body = {"model": "dial", "messages": ASK, "max_completion_tokens": 2}
    for strength, said in (("strong", "strength"), (11, "between -10 and 10"), ([1, 0, 1], "3 parts")):
        answer = http.post(f"{site.url}/v1/chat/completions", json={**body, "strength": strength})
        message = answer.json()["error"]["message"]
        assert (answer.status_code, said in message, "\n" in message) == (400, True, False), message
    answer = http.post(f"{site.url}/v1/chat/completions", json={**body, "strength": 3})
    assert (answer.status_code, "3" in answer.headers["x-trimtab-warning"]) == (200, True)
    assert httpx.get(f"{site.url}/v1/models").status_code == 401


def test_an_engine_that_dies_ends_the_server_with_a_line_and_leaves_nothing(site):
    """The last test: afterwards there is no server."""
    children = psutil.Process(site.process.pid).children(recursive=True)
    engine = next(one for one in children if "EngineCore" in " ".join(one.cmdline()) or "EngineCore" in one.name())
    engine.kill()
    said, _ = site.process.communicate(timeout=60)
    last = said.strip().splitlines()[-1]
    assert site.process.returncode == 2, said
    assert re.match("error: .* ended", last), said
    assert not [one for one in children if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
