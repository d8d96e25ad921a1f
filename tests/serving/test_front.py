"""OpenAI's API with a strength: what is answered, what is refused and how, and that a client that leaves ends it."""

import json
import logging
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import openai
import pytest
import torch
from openai import OpenAI
from starlette.testclient import TestClient
from transformers.cli.serving.chat_completion import UNUSED_CHAT_COMPLETION_FIELDS

import tiny_dial
from trimtab.decoding.dial.custom_generate import generate as dial
from trimtab.decoding.realign import realign
from trimtab.models.dial import read_dial
from trimtab.serving.changes import by_engine, pieces
from trimtab.serving.dialects import NOT_BY_TRANSFORMERS, WITHOUT_EFFECT, Dialect
from trimtab.serving.front import Front
from trimtab.serving.refusals import RequestRefused

ASK = [{"role": "user", "content": "count 3"}]
CHAT = "/v1/chat/completions"
NAN = float("nan")


@pytest.fixture(scope="module")
def client(site):
    return OpenAI(base_url=f"{site.url}/v1", api_key=site.token, max_retries=0)


@pytest.fixture(scope="module")
def http(site):
    with httpx.Client(base_url=site.url, headers={"Authorization": f"Bearer {site.token}"}, timeout=60) as one:
        yield one


def ask(client, strength, stream=False, **more):
    how = {"model": "tiny", "messages": ASK, "max_completion_tokens": 12, "extra_body": {"strength": strength}, **more}
    if not stream:
        return client.chat.completions.create(**how).choices[0].message.content
    return "".join(one.choices[0].delta.content or "" for one in client.chat.completions.create(**how, stream=True))


def by_realign(site, strength):
    """The same answer without any server."""
    tokenizer = site.engine.tokenizer
    model, _ = tiny_dial.expanded()
    inputs = tokenizer.apply_chat_template(ASK, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    out = model.generate(
        **inputs, custom_generate=realign, strength=strength, max_new_tokens=12, do_sample=False, eos_token_id=0
    )
    return tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


@pytest.mark.parametrize("strength", [0, 0.3, 1.5])
def test_an_answer_is_that_of_realign_streamed_or_not(client, site, strength):
    wanted = by_realign(site, strength)
    assert ask(client, strength) == wanted
    assert ask(client, strength, stream=True).rstrip("\ufffd") == wanted.rstrip("\ufffd")


def test_answers_differ_between_strengths_and_two_at_once_are_those_of_one_by_one(client):
    alone = [ask(client, strength) for strength in (0.0, 0.5, 1.0, 1.5)]
    assert len(set(alone)) == 4
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(partial(ask, client), [0.0, 0.5, 1.0, 1.5] * 3))
    assert together == alone * 3


def test_a_schedule_changes_the_strength_in_the_middle(client):
    first = ask(client, [1.0, 0.0])
    assert first[:4] == ask(client, 1.0)[:4]
    assert first not in (ask(client, 1.0), ask(client, 0.0))


@pytest.mark.parametrize(
    ("strength", "message"),
    [
        ("0.5", "strength must be a number, or a list of numbers, got '0.5'"),
        (True, "strength must be a number, or a list of numbers, got True"),
        ([1, "x"], "strength must be a number, or a list of numbers, got [1, 'x']"),
        (float("nan"), "strength must be finite, got nan"),
        ([0.5, float("inf")], "strength must be finite, got [0.5, inf]"),
        ([], "strength is an empty list"),
        (10.5, "strength must lie between -10 and 10, got 10.5"),
        ([0.5] * 13, "strength has 13 parts, and the answer at most 12 tokens"),
        (10**400, "strength must be finite"),
    ],
)
def test_a_wrong_strength_is_refused_in_a_line(http, strength, message):
    body = {"model": "tiny", "messages": ASK, "max_completion_tokens": 12, "strength": strength}
    answer = http.post(CHAT, content=json.dumps(body))
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["type"]) == (400, "strength", "invalid_request_error")
    assert error["message"].startswith(message)
    assert "\n" not in answer.text


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"model": "other"}, 404, "there is no model 'other' here; the model is 'tiny'"),
        ({"messages": []}, 400, "messages must be a list"),
        ({"messages": [{"content": "x"}]}, 400, "each message needs a role"),
        ({"max_tokens": 0}, 400, "max_tokens must be a whole number of at least 1, got 0"),
        ({"max_tokens": 600}, 400, "the prompt has 11 tokens, and the model reads 512: there is room for 501 more"),
        ({"messages": [{"role": "user", "content": "x" * 600}]}, 400, "the prompt has 604 tokens, and the model reads"),
        ({"n": 2}, 400, "n: this engine gives one answer"),
        ({"logprobs": True}, 400, "logprobs is not supported by this engine"),
        ({"generation_config": "{}"}, 400, "generation_config is not taken here"),
        ({"temperature": "hot"}, 400, "temperature must be a number"),
        ({"metadata": {"a": NAN}, "nonsense": NAN}, 400, "a number of the request is not finite"),
        ({"nonsense": 1}, 400, "Unexpected fields in the request: {'nonsense'}"),
        ({"strenght": 1}, 400, "there is no field 'strenght'; did you mean 'strength'?"),
        ({"temperature": 1e-300}, 400, "temperature must be a number, 0 or at least 0.01, got 1e-300"),
        ({"temperature": NAN}, 400, "temperature must be a number"),
        ({"top_p": "x"}, 400, "top_p must be a number above 0 and at most 1, got 'x'"),
        ({"top_p": NAN, "temperature": 1}, 400, "top_p must be a number above 0"),
        ({"seed": "x"}, 400, "seed must be a whole number"),
        ({"seed": 2**70}, 400, "seed must be a whole number of 64 bits"),
        ({"stop": 3}, 400, "stop must be a text, or a list of texts, got 3"),
        ({"stop": ["a", 4]}, 400, "stop must be a text, or a list of texts"),
        ({"logit_bias": "x"}, 400, "logit_bias must be a mapping from token ids to numbers"),
        ({"logit_bias": {"x": 1}}, 400, "logit_bias must be a mapping"),
        ({"logit_bias": {"3": NAN}}, 400, "logit_bias must be a mapping"),
        ({"logit_bias": {"99999": 1}}, 400, "logit_bias names token 99999, and the model's vocabulary ends at 258"),
        ({"frequency_penalty": 0.5}, 400, "frequency_penalty is not supported by this engine"),
        ({"reasoning_effort": "low"}, 400, "reasoning_effort is not supported by this engine"),
        ({"tool_choice": "required"}, 400, "tool_choice is not supported by this engine"),
        ({"max_completion_tokens": 4, "max_tokens": "x"}, 400, "max_tokens must be a whole number"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, "a text of the request is no Unicode"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            400,
            "a part of a message must be text, got {'type': 'image_url'",
        ),
        ({"messages": [{"role": "user", "content": [1]}]}, 400, "a part of a message must be text, got 1"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, 400, "a part of a message must be text"),
        ({"tools": "x"}, 400, "the messages do not fit the model's chat template"),
        ({"chat_template_kwargs": "x"}, 400, "the request: chat_template_kwargs is"),
        (
            {"chat_template_kwargs": {"chat_template": "{{ 1/0 }}"}},
            400,
            "the request: chat_template_kwargs sets 'chat_template', which is no variable of a chat template",
        ),
        ({"chat_template_kwargs": {"return_tensors": "pt"}}, 400, "the request: chat_template_kwargs sets 'return_"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_other_mistakes_are_refused_before_anything_is_streamed(http, change, status, message, stream):
    answer = http.post(CHAT, content=json.dumps({"model": "tiny", "messages": ASK, "stream": stream, **change}))
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert answer.json()["error"]["message"].startswith(message)


def test_a_picture_with_a_text_is_no_text(http):
    part = {"type": "image_url", "image_url": {"url": "x"}, "text": "a house"}
    answer = http.post(CHAT, json={"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}, part]}]})
    assert answer.status_code == 400
    assert http.post(CHAT, json={"messages": [{"role": "user", "content": [{"type": "text", "text": "?"}]}]}).is_success


def test_what_is_streamed_is_said_by_true_or_false(http):
    answer = http.post(CHAT, json={"messages": ASK, "stream": "yes"})
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "stream must be true or false, got 'yes'")


def test_a_choice_that_changes_nothing_and_a_bias_of_whole_numbers_are_taken(http):
    """0 is the end token."""
    body = {"messages": ASK, "max_completion_tokens": 4, "tool_choice": "auto", "logit_bias": {"0": 100}}
    answer = http.post(CHAT, json=body)
    assert (answer.status_code, answer.json()["usage"]["completion_tokens"]) == (200, 1)


def test_every_field_that_transformers_ignores_is_refused_or_changes_no_answer():
    assert UNUSED_CHAT_COMPLETION_FIELDS.issubset({*NOT_BY_TRANSFORMERS, *WITHOUT_EFFECT, "n"})


def test_without_a_choice_of_tools_the_model_sees_none():
    tools = [{"type": "function", "function": {"name": "f"}}]
    asked = Dialect("transformers").request({"messages": ASK, "tools": tools, "tool_choice": "none"}, 0.5)
    assert not {"tools", "tool_choice"} & asked.keys()


def test_a_client_that_leaves_within_its_request_costs_no_traceback(site, http, caplog):
    host, port = site.url.removeprefix("http://").split(":")
    head = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {site.token}\r\nContent-Length: 1000\r\n\r\n"
    log = logging.getLogger("uvicorn.error")
    log.addHandler(caplog.handler)  # it does not propagate
    try:
        with socket.create_connection((host, int(port))) as one:
            one.sendall(f"{head}{{".encode())
            one.shutdown(socket.SHUT_WR)
            one.recv(1)  # until it is closed
        assert http.get("/dial").status_code == 200
    finally:
        log.removeHandler(caplog.handler)
    assert not caplog.records


@pytest.mark.parametrize("raw", [b"{", b"[]", b"\xff", b"[" * 100_000])
def test_what_is_no_request_is_refused(http, raw):
    assert http.post(CHAT, content=raw).status_code == 400


def test_a_large_request_is_refused(http, monkeypatch):
    monkeypatch.setattr("trimtab.serving.front.LARGEST", 100)
    assert http.post(CHAT, content=b" " * 101).json()["error"]["code"] == 413


def test_a_strength_outside_of_the_recommended_range_is_answered_with_a_warning(http):
    body = {"model": "tiny", "messages": ASK, "max_completion_tokens": 4, "strength": 2}
    answer = http.post(CHAT, json=body)
    said = "strength 2 is outside of the recommended range, -0.5 to 1.5"
    assert (answer.json()["warning"], answer.headers["x-trimtab-warning"]) == (said, said)
    streamed = http.post(CHAT, json={**body, "stream": True})
    assert streamed.headers["x-trimtab-warning"] == said
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert "warning" not in http.post(CHAT, json={**body, "strength": 1.5}).json()


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Bearer", "a-token-of-tests", "bearer a-token-of-tests"])
@pytest.mark.parametrize("path", ["/v1/models", CHAT, "/dial", "/dial/changes", "/nowhere"])
def test_without_the_token_there_is_nothing(site, path, given):
    answer = httpx.get(site.url + path, headers={"Authorization": given} if given else {})
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, 401)


def test_the_engine_itself_asks_for_its_key(site):
    assert httpx.get(f"{site.inner}/v1/models").status_code == 401


def test_openai_client_reads_errors_and_models(client, site):
    assert [one.id for one in client.models.list()] == ["tiny"]
    with pytest.raises(openai.BadRequestError, match="strength must be a number"):
        ask(client, "much")
    with pytest.raises(openai.AuthenticationError):
        OpenAI(base_url=f"{site.url}/v1", api_key="wrong", max_retries=0).models.list()
    assert client.chat.completions.create(model="tiny", messages=ASK, max_tokens=2).model == "tiny"


def test_a_temperature_samples_and_none_does_not(client):
    assert ask(client, 1.0) == ask(client, 1.0)
    drawn = {ask(client, 1.0, temperature=2.0, seed=seed) for seed in range(4)}
    assert len(drawn) > 1
    assert ask(client, 1.0, temperature=2.0, seed=1) == ask(client, 1.0, temperature=2.0, seed=1)


def test_a_seed_gives_the_same_answer_beside_others(client):
    sampled = partial(ask, client, 0.5, temperature=2.0)
    alone = [sampled(seed=seed) for seed in range(4)]
    assert len(set(alone)) == 4
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: sampled(seed=seed), list(range(4)) * 3))
    assert together == alone * 3


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_ends_the_generation(http, site, monkeypatch, stream):
    """The third forward waits until the client is gone; a whole answer would be 490 more."""
    gone, ended, calls = threading.Event(), threading.Event(), []

    def count(*_):
        calls.append(1)
        if len(calls) == 3:
            begun.set()
            assert gone.wait(30)

    begun, generate = threading.Event(), site.engine.model.generate

    def watched(**how):
        try:
            return generate(**how)
        finally:
            ended.set()

    monkeypatch.setattr(site.engine.model, "generate", watched)
    hook = site.engine.model.register_forward_hook(count)
    asked = {"model": "tiny", "messages": ASK, "max_completion_tokens": 490, "strength": 0.5, "stream": stream}
    other = httpx.Client(base_url=site.url, headers=http.headers)
    if stream:
        with other.stream("POST", CHAT, json={**asked, "stop": "\x00never"}):
            assert begun.wait(30)
    else:
        with pytest.raises(httpx.ReadTimeout):
            other.post(CHAT, json={**asked, "stop": "\x00never"}, timeout=0.5)
    other.close()
    gone.set()
    assert ended.wait(30)
    hook.remove()
    assert 3 <= len(calls) < 300


def test_changes_are_differences_of_log_probabilities(http, site):
    answer = "4 é"
    found = http.post("/dial/changes", json={"messages": ASK, "answer": answer, "strength": 0.7}).json()["tokens"]
    assert "".join(one["text"] for one in found) == answer
    model, original = tiny_dial.expanded()
    prompt = site.engine.tokenizer.apply_chat_template(ASK, add_generation_prompt=True, return_dict=True)["input_ids"]
    ids = site.engine.tokenizer(answer, add_special_tokens=False)["input_ids"]
    wanted = tiny_dial.changes(model, original, prompt, ids, 0.7)
    wanted = [*wanted[:2], wanted[2] + wanted[3]]  # the two bytes of é are one piece
    torch.testing.assert_close(torch.tensor([one["change"] for one in found]), torch.tensor(wanted), rtol=0, atol=1e-4)


@pytest.mark.parametrize("most", [4, 12])
def test_changes_at_a_schedule_are_those_of_its_strengths(http, most):
    """Of 4 tokens, at most 4: two at each strength; at most 12: all at the first."""
    asked = {"messages": ASK, "answer": "abcd", "max_completion_tokens": most}
    parts, first, second = (
        [one["change"] for one in http.post("/dial/changes", json={**asked, "strength": strength}).json()["tokens"]]
        for strength in ([1.0, 0.3], 1.0, 0.3)
    )
    assert parts == pytest.approx([*first[:2], *second[2:]] if most == 4 else first)
    assert first != second


def test_at_strength_0_nothing_has_changed(http):
    found = http.post("/dial/changes", json={"messages": ASK, "answer": "abc", "strength": 0}).json()["tokens"]
    assert [one["change"] for one in found] == [0.0, 0.0, 0.0]
    assert http.post("/dial/changes", json={"messages": ASK, "answer": "", "strength": 1}).json()["tokens"] == []


@pytest.mark.parametrize(
    ("change", "message"),
    [({"answer": 3}, "answer must be the text"), ({"answer": "x" * 600}, "the prompt has"),
     ({"strength": [1, 0]}, "a list of strengths divides the tokens that the answer could have; give max_completion"),
     ({"strength": [1, 0, 1], "max_tokens": 2}, "strength has 3 parts, and the answer at most 2 tokens"),
     ({"answer": "\ud800"}, "a text of the request is no Unicode"), ({"tools": []}, "tools is not taken here"),
     ({"max_tokens": "x"}, "max_tokens must be a whole number")],
)  # fmt: skip
def test_changes_of_nothing_are_refused(http, change, message):
    body = {"messages": ASK, "answer": "a", "strength": 1, **change}
    answer = http.post("/dial/changes", content=json.dumps(body))
    assert (answer.status_code, answer.json()["error"]["message"][: len(message)]) == (400, message)


def test_pieces_are_the_text_and_keep_all_changes():
    found = pieces(" a😀b ", [(1, 2), (2, 3), (2, 3), (3, 4)], [1.0, 2.0, 3.0, 4.0])
    assert found == [
        {"text": " a", "change": 1.0}, {"text": "😀", "change": 5.0}, {"text": "b", "change": 4.0},
        {"text": " ", "change": 0.0},
    ]  # fmt: skip


def test_an_engine_that_is_gone_is_a_502(site, dial_folder):
    key = {"Authorization": f"Bearer {site.token}"}
    front = Front(
        "tiny", read_dial(dial_folder), Dialect("transformers"), "http://127.0.0.1:9", "k", site.token, by_engine
    )
    with TestClient(front.app(), headers=key) as one:
        answer = one.post(CHAT, json={"messages": ASK})
    assert (answer.status_code, answer.json()["error"]["type"]) == (502, "engine_error")


def test_a_request_to_vllm_brings_the_strength_as_it_takes_it():
    asked = Dialect("vllm").request(
        {"messages": ASK, "strength": 0.5, "n": 2, "vllm_xargs": {"penalty_strength": 1.2}}, 0.5
    )
    assert asked == {
        "messages": ASK, "n": 2, "temperature": 0, "vllm_xargs": {"penalty_strength": 1.2, "strength": 0.5},
    }  # fmt: skip
    with pytest.raises(RequestRefused, match="vllm_xargs must be a mapping"):
        Dialect("vllm").request({"vllm_xargs": "x"}, 0.5)


def test_no_hook_is_added_or_removed_while_another_answer_runs(site):
    """torch goes through a layer's hooks while another thread changes them, and fails."""
    streams = partial(dial.TwoStreams, site.engine.model, site.engine.dial, torch.zeros(1, 1), "cpu", None, {})
    hooks = site.engine.model.get_submodule(site.engine.dial["modules"][0])._forward_hooks

    def beside():
        with streams():
            return list(hooks)

    with ThreadPoolExecutor(1) as pool, streams():
        alone = list(hooks)
        assert pool.submit(beside).result() == alone == list(hooks)
        assert len(alone) == 1
    assert not hooks


def test_hooks_of_one_thread_leave_other_threads_alone(site):
    """As when two answers are computed at a time."""
    model, ids, entered, done = site.engine.model, torch.tensor([[5, 6, 7]]), threading.Event(), threading.Event()

    def hold():
        with dial.TwoStreams(model, site.engine.dial, torch.zeros(1, 1), "cpu", None, {}):
            entered.set()
            done.wait(30)

    with torch.no_grad(), ThreadPoolExecutor(1) as pool:
        alone = model(ids).logits
        held = pool.submit(hold)
        assert entered.wait(30)
        beside = model(ids).logits
        done.set()
        held.result()
    assert torch.equal(alone, beside)
