"""What was read is read once: the same texts as without, also while adapters are switched; and roles on a server."""

import json
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread

import pytest

import tiny_agent
import tiny_folder
from trimtab.agents import speakers
from trimtab.agents.roles import load_roles
from trimtab.agents.speakers import EndpointSpeaker, LocalModel, LocalSpeaker, RolesError
from trimtab.common.errors import Unanswered
from trimtab.models.loading import load_model, load_tokenizer

HISTORY = ["system: do.\nTools:\n{}\nuser: go<|end|>", "assistant: I look.<|end|>caller: x<|end|>", "observation: 12 C"]
HOW = {"max_new_tokens": 12, "temperature": 0.0, "seed": 0}


def texts(speaker, temperature=0.0):
    """Of prompts of which each goes on from the one before, but for what ends it; then one of another task."""
    prompts = ["".join(HISTORY[:number]) + " assistant: " for number in (1, 2, 3)]
    return [speaker.write(one, **{**HOW, "temperature": temperature}) for one in [*prompts, prompts[1], "user: other"]]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize(("kind", "reuses"), [("llama", True), ("gpt2", True), ("qwen3", True), ("gemma2", False)])
def test_what_was_read_is_not_read_again_and_the_texts_are_the_same(tmp_path, kind, reuses, temperature):
    name = tiny_folder.save(tmp_path / kind, kind, **({"n_positions": 512} if kind == "gpt2" else {}))
    owner = LocalModel(load_model(name), load_tokenizer(name), name)
    kept = texts(LocalSpeaker(owner), temperature)
    anew = texts(LocalSpeaker(owner, reuse=False), temperature)
    assert [one.text for one in kept] == [one.text for one in anew]
    assert [one.read + one.reused for one in kept] == [one.read for one in anew]
    assert all(one.reused == 0 for one in anew)
    shared = [len("".join(HISTORY[:number]).replace("<|end|>", "|")) for number in (1, 2)]
    assert [one.reused for one in kept[1:3]] == (shared if reuses else [0, 0])
    assert kept[4].reused == 0


def test_a_prompt_that_was_read_whole_is_read_from_its_last_token(tmp_path):
    name = tiny_folder.save(tmp_path / "llama")
    speaker = LocalSpeaker(LocalModel(load_model(name), load_tokenizer(name), name))
    first, again = (speaker.write("user: go", **HOW) for _ in range(2))
    assert (first.text, again.read, again.reused) == (again.text, 1, first.read - 1)


def test_each_role_has_its_own_keys_and_values_while_adapters_are_switched(tmp_path):
    folder = tiny_agent.roles_folder(tmp_path)
    kept, anew = load_roles(folder), load_roles(folder, reuse=False)
    found = {}
    for roles in (kept, anew):
        found[roles is kept] = [
            (role, one.text)
            for number in (1, 2, 3)
            for role in ("planner", "caller", "summarizer")
            for one in [roles.speakers[role].write("".join(HISTORY[:number]) + f" {role}: ", **HOW)]
        ]
    assert found[True] == found[False]
    assert len({text for _, text in found[True][:3]}) == 3  # the adapters differ
    owners = {id(speaker.owner) for speaker in kept.speakers.values()}
    assert len(owners) == 1


def test_an_adapter_says_what_it_says_in_plain_peft(tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = tiny_agent.roles_folder(tmp_path)
    roles = load_roles(folder)
    tokenizer = load_tokenizer(str(folder / "base"))
    for role, speaker in roles.speakers.items():
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "base"), folder / role)
        ids = tokenizer("user: go assistant: ", return_tensors="pt").input_ids
        wanted = model.generate(input_ids=ids, max_new_tokens=12, do_sample=False)[0, ids.size(1) :]
        assert speaker.write("user: go assistant: ", **HOW).text == tokenizer.decode(wanted, skip_special_tokens=True)


def test_the_model_itself_speaks_between_its_adapters(tmp_path):
    folder = tiny_agent.roles_folder(tmp_path, roles={"planner": "planner", "caller": "base", "summarizer": "base"})
    roles = load_roles(folder)
    assert roles.speakers["caller"].owner is roles.speakers["planner"].owner
    first = [roles.speakers[role].write("user: go", **HOW).text for role in ("planner", "caller", "planner")]
    name = str(folder / "base")
    alone = LocalSpeaker(LocalModel(load_model(name), load_tokenizer(name), name)).write("user: go", **HOW).text
    assert first[1] == alone != first[0] == first[2]


def test_a_text_is_told_in_pieces_that_make_the_whole(tmp_path):
    name = tiny_folder.save(tmp_path / "llama")
    pieces = []
    speaker = LocalSpeaker(LocalModel(load_model(name), load_tokenizer(name), name))
    whole = speaker.write("user: go", **{**HOW, "temperature": 1.0, "seed": 4}, on_text=pieces.append).text
    assert "".join(pieces) == whole
    assert len(pieces) > 1


def test_draws_depend_on_the_seed_alone(tmp_path):
    name = tiny_folder.save(tmp_path / "llama")
    speaker = LocalSpeaker(LocalModel(load_model(name), load_tokenizer(name), name))
    first, other, again = (speaker.write("x", max_new_tokens=12, temperature=1.0, seed=seed) for seed in (1, 2, 1))
    assert first.text == again.text != other.text


@contextmanager
def server(answer, status=200):
    """Answers each request with `answer` of its body; yields the address and what was asked."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path, body, self.headers.get("Authorization")))
            data = json.dumps(answer(body)).encode()
            self.send_response(status)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=made.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{made.server_port}/v1", asked
    finally:
        made.shutdown()
        made.server_close()
        thread.join()


def test_a_server_is_asked_by_text_or_by_a_chat(monkeypatch):
    monkeypatch.setenv("TRIMTAB_API_KEY", "secret")
    said = {"choices": [{"text": "yes</s>no"}], "usage": {"prompt_tokens": 7, "completion_tokens": 2}}
    with server(lambda body: said) as (url, asked):
        told = []
        one = EndpointSpeaker.at(f"{url}#tiny", "</s>").write("p", **{**HOW, "seed": 2**40 + 5}, on_text=told.append)
    assert one == ("yes", 7, 0, 2)
    assert told == ["yes"]
    body = {"model": "tiny", "prompt": "p", "max_tokens": 12, "temperature": 0.0, "seed": 5, "stop": ["</s>"]}
    assert asked == [("/v1/completions", body, "Bearer secret")]
    with server(lambda body: {"choices": [{"message": {"content": "yes"}}]}) as (url, asked):
        assert EndpointSpeaker.at(f"{url}/chat#tiny", "</s>").write("p", **HOW).text == "yes"
    assert asked[0][0] == "/v1/chat/completions"
    assert asked[0][1]["messages"] == [{"role": "user", "content": "p"}]


def test_a_server_that_refuses_or_does_not_answer(monkeypatch):
    monkeypatch.setattr(speakers.time, "sleep", lambda seconds: None)
    with (
        server(lambda body: {"error": {"message": "no such model"}}, 404) as (url, _),
        pytest.raises(RolesError, match=r"refused the request \(HTTP 404: no such model\).*v1/chat#MODEL"),
    ):
        EndpointSpeaker.at(f"{url}#tiny", "</s>").write("p", **HOW)
    with server(lambda body: {}, 503) as (url, asked), pytest.raises(Unanswered, match="in 4 tries"):
        EndpointSpeaker.at(f"{url}#tiny", "</s>").write("p", **HOW)
    assert len(asked) == 4
    with server(lambda body: {"x": 1}) as (url, _), pytest.raises(Unanswered, match="holds no text"):
        EndpointSpeaker.at(f"{url}#tiny", "</s>").write("p", **HOW)
    with pytest.raises(RolesError, match="written as http://HOST/v1#MODEL"):
        EndpointSpeaker.at("http://127.0.0.1/v1", "</s>")
