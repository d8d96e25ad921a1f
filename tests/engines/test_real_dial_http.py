"""The dial over HTTP, as the openai client asks for it; skipped where no vLLM is found."""

import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from test_real_dial import PROCESSORS, with_dial

from tiny_folder import VOCAB, byte_tokenizer
from trimtab.decoding.realign import realign
from trimtab.engines.vllm import EngineMissing, Serve, VLLMServer, find_vllm, free_port

pytestmark = pytest.mark.slow
KEY, WORDS = "a-key-of-the-test", "The ferry left at noon"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A server and its model."""
    pytest.importorskip("openai")
    try:
        find_vllm()
    except EngineMissing as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("dial")
    model = with_dial("llama", folder, vocab_size=VOCAB, eos_token_id=0, bos_token_id=None)
    byte_tokenizer().save_pretrained(folder)
    serve = Serve(
        str(folder), free_port(), name="dial", dtype="float32", max_model_len=128, max_num_seqs=8,
        kv_cache_bytes=2**25, eager=True, more=("--logits-processors", *PROCESSORS),
    )  # fmt: skip
    log = folder / "log"
    with VLLMServer(serve, key=KEY, environment={"OMP_NUM_THREADS": "1"}, log=log) as server:
        yield server, model, log


def client(server):
    import openai

    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


def ask(server, **args):
    """The tokens of an answer, and their log-probabilities."""
    most = args.pop("max_tokens", 12)
    more = {"vllm_xargs": args, "return_token_ids": True, "ignore_eos": True}
    said = client(server).completions.create(
        model="dial", prompt=WORDS, temperature=0, max_tokens=most, logprobs=0, extra_body=more
    )
    return said.choices[0].model_extra["token_ids"], said.choices[0].logprobs.token_logprobs


def test_requests_of_several_strengths_at_once_are_answered_as_realign_does(served):
    server, model, _ = served
    ids = torch.tensor([byte_tokenizer()(WORDS)["input_ids"]])
    strengths = [0.0, 0.5, 1.0, 1.5, 0.25, -0.5, 0.75, 1.25] * 2
    with ThreadPoolExecutor(len(strengths)) as pool:
        found = list(pool.map(lambda s: ask(server, strength=s)[0], strengths))
    for strength, tokens in zip(strengths, found, strict=True):
        wanted = model.generate(
            ids, custom_generate=realign, strength=strength, max_new_tokens=12, do_sample=False, pad_token_id=0
        )
        assert tokens == wanted[0, ids.size(1) :].tolist()
    assert len(set(map(tuple, found))) == 8


def test_a_chat_has_a_strength_too(served):
    server, _, _ = served
    answers = [
        client(server).chat.completions.create(
            model="dial", messages=[{"role": "user", "content": "Hi"}], max_tokens=8, temperature=0, extra_body=more
        )
        for more in ({"vllm_xargs": {"strength": 1.0}}, {}, {"vllm_xargs": {"strength": 0}})
    ]
    one, same, other = (answer.choices[0].message.content for answer in answers)
    assert one == same != other


def test_an_answer_read_at_its_own_strength_has_the_logprobs_it_was_given(served):
    server, _, _ = served
    tokens, logprobs = ask(server, strength=0.5)
    again, read = ask(server, strength=0.5, follow=tokens)
    assert again == tokens
    torch.testing.assert_close(torch.tensor(read), torch.tensor(logprobs), rtol=0, atol=1e-4)
    again, other = ask(server, strength=0.0, follow=tokens)
    assert again == tokens
    assert max(abs(a - b) for a, b in zip(other, logprobs, strict=True)) > 0.1


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ('{"strength": "strong"}', "strength must be a number, or a list of numbers, got 'strong'"),
        ('{"strength": NaN}', "strength must be a number, or a list of numbers, got nan"),
        ('{"strength": []}', "got []"),
        ('{"strength": [0.5, "a"]}', "got [0.5, 'a']"),
        ('{"strength": [0, 1, 0, 1]}', "strength has 4 parts, and the answer at most 3 tokens"),
        ('{"strength": 4.5}', "strength must be between -2 and 4 for this model, got 4.5"),
        ('{"strenght": 0.5}', "strenght is not a setting; did you mean 'strength'?"),
        ('{"follow": [3, 4]}', "max_tokens must be as many, got 3"),
        ('{"penalty_strength": 0}', "penalty_strength must be a number above 0, got 0"),
        ('{"adaptive_epsilon": 2}', "adaptive_epsilon must be at least 0 and below 1, got 2"),
        ('{"strength": 0.5}, "prompt_logprobs": 0', "gives no prompt_logprobs"),
        ('{"adaptive_epsilon": 0.1}, "top_p": 0.5', "adaptive decoding goes without top_k and top_p"),
    ],
)
def test_bad_input_costs_one_line_and_the_status_400(served, args, said):
    server, _, _ = served
    body = f'{{"model": "dial", "prompt": "a", "max_tokens": 3, "vllm_xargs": {args}}}'
    headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{server.url}/v1/completions", body.encode(), headers)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=60)
    answer = json.loads(refused.value.read())
    assert refused.value.code == 400
    assert said in answer["error"]["message"]
    assert "\n" not in answer["error"]["message"]


def test_beyond_the_recommended_range_the_log_has_a_warning(served):
    server, _, log = served
    assert ask(server, strength=[2.5, 0.5])[0]
    warned = [line for line in log.read_text(encoding="utf-8").splitlines() if "WARNING" in line and "2.5" in line]
    assert len(warned) == 1
    assert "strength 2.5 is outside of the range that this model recommends, 0 to 1.5" in warned[0]


def test_adaptive_decoding_samples_candidates_only(served):
    """Eight candidates hold .09 of the probability: sixty draws would not all be among them by chance."""
    from trimtab.decoding.adaptive import adaptive

    server, model, _ = served
    ids = torch.tensor([byte_tokenizer()(WORDS)["input_ids"]])
    with torch.no_grad():
        logits = model(ids).logits[0, -1:]
    kept = (adaptive(logits / 2, 0.0005) > -torch.inf)[0].nonzero()[:, 0].tolist()
    more = {"vllm_xargs": {"adaptive_epsilon": 0.0005}, "return_token_ids": True}
    said = client(server).completions.create(
        model="dial", prompt=WORDS, temperature=2, max_tokens=1, n=60, seed=1, extra_body=more
    )
    drawn = {choice.model_extra["token_ids"][0] for choice in said.choices}
    assert 1 < len(kept) < 12
    assert drawn <= set(kept)
    assert len(drawn) > 1
