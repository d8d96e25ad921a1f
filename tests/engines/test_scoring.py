"""What goes over the wire to a server, and what comes back of it that is not as it should be."""

import pytest

import tiny
from tiny_vllm import TinyVLLM
from trimtab.common.errors import UserError
from trimtab.engines.address import Address, address_of, is_address
from trimtab.engines.scoring import ScoringServer, ServerLost, ServerRefused, number


@pytest.fixture
def server():
    with TinyVLLM(tiny.model("llama", 3)) as one:
        yield one


def client(server: TinyVLLM, **how) -> ScoringServer:
    found = ScoringServer(address_of(server.address), **{"pauses": (0.01, 0.02), **how})
    found.model = "teacher"
    return found


def test_addresses():
    assert address_of("vllm://host:8150") == Address("http://host:8150", None)
    assert address_of("vllm://host") == Address("http://host:8000", None)
    assert address_of("vllms://h.example:443/org/name") == Address("https://h.example:443", "org/name")
    assert address_of("vllm://[::1]:81") == Address("http://[::1]:81", None)
    assert address_of("org/name") is None
    assert is_address("vllm://host")
    assert not is_address({"a": "b"})
    for wrong in (
        "vllm://",
        "vllm://:80",
        "vllm://host:port",
        "vllm://host:0",
        "vllm://user@host:80",
        "vllm://h:99999",
    ):
        with pytest.raises(UserError, match="is no address of a server; write vllm://HOST:PORT"):
            address_of(wrong)


def test_a_request_holds_ids_and_neutral_sampling(server):
    client(server).most_likely([5, 6, 7], 4, [1, 2])
    path, asked = server.asked[-1]
    assert path == "/v1/completions"
    assert (asked["prompt"], asked["prompt_logprobs"], asked["max_tokens"]) == ([5, 6, 7], 4, 1)
    assert (asked["temperature"], asked["top_p"], asked["top_k"], asked["repetition_penalty"]) == (1.0, 1.0, 0, 1.0)
    server.scale_out = True
    other = client(server)
    other.tokens_in_out = True
    other.most_likely([5, 6, 7], 4, [1, 2])
    path, asked = server.asked[-1]
    assert (path, asked["token_ids"]) == ("/inference/v1/generate", [5, 6, 7])
    assert asked["sampling_params"]["detokenize"] is False


def test_the_key_is_sent_and_never_said(server, monkeypatch):
    server.key = "secret"
    monkeypatch.setenv("TRIMTAB_API_KEY", "secret")
    client(server).most_likely([5, 6, 7], 4, [1])
    monkeypatch.setenv("TRIMTAB_API_KEY", "mistaken")
    with pytest.raises(ServerRefused, match="refuses the key .*TRIMTAB_API_KEY") as raised:
        client(server).most_likely([5, 6, 7], 4, [1])
    assert "mistaken" not in str(raised.value)


@pytest.mark.parametrize("status", [500, 503, 429, 0])
def test_what_may_pass_is_tried_again(server, status):
    server.fails = [status, status]
    assert len(client(server).most_likely([5, 6, 7], 4, [1, 2]).labels) == 2
    assert len(server.asked) == 3
    server.fails = [status] * 3
    with pytest.raises(ServerLost, match="does not answer"):
        client(server).most_likely([5, 6, 7], 4, [1])


@pytest.mark.parametrize("status", [400, 404, 422])
def test_what_is_refused_is_not(server, status):
    server.fails = [status]
    with pytest.raises(ServerRefused, match=f"refused the request .HTTP {status}"):
        client(server).most_likely([5, 6, 7], 4, [1])
    assert len(server.asked) == 1


def test_a_server_that_was_gone_is_held_against_what_it_was_once(server):
    asked, found = client(server), []
    asked.verify = lambda: found.append(len(server.asked))
    asked.most_likely([5, 6, 7], 4, [1])
    assert found == []
    server.fails = [500]
    asked.most_likely([5, 6, 7], 4, [1])
    asked.most_likely([5, 6, 7], 4, [1])
    assert len(found) == 1


def test_a_server_that_fails_again_while_it_is_held_against_what_it_was(server):
    asked = client(server)

    def verify() -> None:
        server.fails = [500] if len(server.asked) < 4 else []
        asked.most_likely([5, 6, 7], 4, [1])

    asked.verify, server.fails = verify, [500]
    assert len(asked.most_likely([5, 6, 7], 4, [1]).labels) == 1


def test_the_first_failure_ends_all_and_the_order_is_kept(server):
    asked = client(server)
    rows = [[5, 6, one] for one in range(3, 20)]
    found = asked.each(lambda row: asked.most_likely(row, 1, [2]).labels[0], rows)
    assert found == [asked.most_likely(row, 1, [2]).labels[0] for row in rows]
    with pytest.raises(ServerRefused, match="out of vocabulary"):
        asked.each(lambda row: asked.most_likely(row, 1, [2]), [*rows, [5, 6, tiny.VOCAB]])


def test_answers_that_hold_no_log_probabilities(server):
    for answer, message in (
        ({"choices": [{"index": 0, "prompt_logprobs": None}]}, "gave no prompt_logprobs of a row"),
        ({"choices": [{"index": 0, "prompt_logprobs": [None, {}, {}]}]}, "gave no 4 log-probabilities of token 1"),
        ({"choices": []}, "gave no completion of each prompt"),
        (["what"], "gave no completion of each prompt"),
    ):
        server.completions = lambda asked, answer=answer: (200, answer)
        with pytest.raises(ServerRefused, match=message):
            client(server).most_likely([5, 6, 7], 4, [1])


def test_minus_infinity_in_its_three_forms_and_what_is_no_log_probability():
    assert number(None) == number("-inf") == number(float("-inf")) == -9999.0
    assert number(1e-6) == 0.0
    for wrong in (3.5, float("nan")):
        with pytest.raises(ServerRefused, match="--logprobs-mode raw_logprobs"):
            number(wrong)
