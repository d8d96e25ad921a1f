"""Models in memory and servers: what they answer, what options are worth to them, and what becomes of failures."""

import time

import pytest
import torch
from tokenizers import processors

import tiny
import tiny_folder
from trimtab.common.errors import Unanswered
from trimtab.data.tokens import encode_prompts
from trimtab.evals.echoes import without_begin
from trimtab.evals.models import HFModel, renormalised
from trimtab.evals.openai_model import OpenAIModel
from trimtab.evals.suite import SuiteError, user

CHATS = [user("count to three"), user("a"), user("say it again and again")]


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_folder.byte_tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny.model(vocab_size=tiny_folder.VOCAB, max_position_embeddings=256, eos_token_id=0, bos_token_id=None)


def test_answers_are_those_of_each_prompt_alone(model, tokenizer):
    together = HFModel(model, tokenizer).answer(CHATS, 8)
    for chat, reply in zip(CHATS, together):
        inputs = encode_prompts(tokenizer, [chat])
        output = model.generate(**inputs, do_sample=False, max_new_tokens=8, pad_token_id=0)
        alone = tokenizer.decode(output[0, inputs["input_ids"].size(1) :], skip_special_tokens=True)
        assert reply == (alone, None)


@pytest.mark.parametrize("strategy, rows", [("greedy", 2), ("penalty", 4), ("beam", 20)])
def test_equal_prompts_are_read_once_where_no_processor_remembers_rows(model, tokenizer, strategy, rows):
    sizes = []
    table = model.get_input_embeddings()
    handle = table.register_forward_hook(lambda m, args, out: sizes.append(out.size(0)))
    found = HFModel(model, tokenizer, strategy=strategy).answer([CHATS[0], CHATS[1], CHATS[0], CHATS[0]], 4)
    handle.remove()
    assert sizes[0] == rows
    assert found[0] == found[2] == found[3]


def test_a_decoding_strategy_draws_the_answers_and_the_seed_repeats_them(model, tokenizer):
    def drawn(seed):
        return HFModel(model, tokenizer, strategy="top_k", options={"k": 50}, seed=seed).answer(CHATS, 12)

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)
    with pytest.raises(ValueError, match="did you mean 'top_k'"):
        HFModel(model, tokenizer, strategy="topk")


def chain(model, tokenizer, chat, label):
    """log p of a label by one forward over prompt and label, without a cache or padding."""
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    start = tokenizer(text, add_special_tokens=False).input_ids
    ids = torch.tensor([tokenizer(text + label, add_special_tokens=False).input_ids])
    logp = model(ids).logits.log_softmax(-1)[0]
    return sum(logp[t - 1, ids[0, t]].item() for t in range(len(start), ids.size(1)))


@pytest.mark.parametrize("labels", [["A", "B", "C"], ["yes", "no", "it depends"], ["A", "long one"]])
def test_options_get_the_probability_of_all_their_tokens(model, tokenizer, labels):
    found = HFModel(model, tokenizer).compare(CHATS, [labels, labels[:2], labels])
    with torch.no_grad():
        for chat, of, values in zip(CHATS, [labels, labels[:2], labels], found):
            assert list(values) == of
            for label in of:
                assert values[label] == pytest.approx(chain(model, tokenizer, chat, label), abs=1e-4)


def test_options_behind_a_shared_beginning_are_worth_what_they_are_alone(model, tokenizer):
    system = {"role": "system", "content": "You are asked to choose one."}
    chats = [[system, {"role": "user", "content": text}] for text in ("a", "b, or not b", "say it again")]
    labels = [["A", "B"], [" yes it is", "no"], ["A", "it cannot be known"]]
    sizes = []
    handle = model.get_input_embeddings().register_forward_hook(lambda m, args, out: sizes.append(tuple(out.shape[:2])))
    together = HFModel(model, tokenizer).compare(chats, labels)
    handle.remove()
    assert [rows for rows, _ in sizes] == [1, 3, 6]
    for chat, of, found in zip(chats, labels, together):
        assert found == pytest.approx({label: chain(model, tokenizer, chat, label) for label in of}, abs=1e-4)


def test_the_model_keeps_its_mode_and_gets_no_gradients(model, tokenizer):
    model.train()
    try:
        HFModel(model, tokenizer).answer(CHATS[:1], 2)
        HFModel(model, tokenizer).compare(CHATS[:1], [["A", "bc"]])
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())
    finally:
        model.eval()


def test_what_does_not_fit_into_learnt_positions_is_refused(tokenizer):
    model = tiny.model("gpt2", vocab_size=tiny_folder.VOCAB, n_positions=256)
    with pytest.raises(SuiteError, match="reads at most 256"):
        HFModel(model, tokenizer).answer([user("x" * 250)], 8)


def test_rotary_positions_beyond_the_training_are_read(model, tokenizer):
    assert model.config.max_position_embeddings == 256
    assert len(HFModel(model, tokenizer).answer([user("x" * 250)], 8)) == 1


def test_a_token_that_the_embedding_lacks_is_named(model):
    tokenizer = tiny_folder.byte_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    with pytest.raises(SuiteError, match="'<extra>'"):
        HFModel(model, tokenizer).answer([user("<extra>")], 2)


def test_a_tokenizer_without_a_template_is_reported_and_works(model):
    plain = tiny_folder.byte_tokenizer(template=None)
    local = HFModel(model, plain)
    assert local.facts()["template"] == "none, prompts are plain text"
    assert len(local.answer(CHATS, 3)) == 3
    assert local.compare(CHATS[:1], [["A", "B"]])[0].keys() == {"A", "B"}


def test_probabilities_among_labels_and_their_mass():
    p, mass = renormalised({"A": -1.0, "B": -2.0})
    assert p["A"] == pytest.approx(1 / (1 + 2.718281828**-1))
    assert sum(p.values()) == pytest.approx(1)
    assert mass == pytest.approx(2.718281828**-1 + 2.718281828**-2)


# ---------------------------------------------------------------- a server


def endpoint(server, **changes):
    return OpenAIModel(server.url, "m", **{"pause": 0.0, "tries": 3, "timeout": 5.0, **changes})


def test_a_server_answers_in_order(server, monkeypatch):
    monkeypatch.setenv("TRIMTAB_API_KEY", "of-the-test")
    asked = endpoint(server)
    assert [reply.text for reply in asked.answer(CHATS, 5)] == [f"you said {c[0]['content']}" for c in CHATS]
    assert {(s["model"], s["max_tokens"], s["temperature"]) for s in server.seen} == {("m", 5, 0.0)}
    assert set(server.keys) == {"Bearer of-the-test"}
    assert "of-the-test" not in str(asked.facts())


@pytest.mark.parametrize("failure", [(500, "{}"), (429, "{}"), (200, "this is no JSON"), (200, '{"choices": []}')])
def test_a_failure_that_passes_costs_nothing(server, failure):
    server.script = [failure, failure]
    assert endpoint(server).answer(CHATS[:1], 5)[0] == ("you said count to three", None)
    assert len(server.seen) == 3


@pytest.mark.parametrize("failure", [(503, "{}"), (200, "<html>"), (200, '{"choices": [{"message": {}}]}')])
def test_a_failure_that_stays_is_an_error_of_the_item_and_no_answer(server, failure):
    server.script = [failure] * 3
    text, error = endpoint(server).answer(CHATS[:1], 5)[0]
    assert text == ""
    assert error
    assert "in 3 tries" in error


def test_a_server_that_is_not_there_ends_it_after_few_tries_with_the_cause():
    pytest.importorskip("openai")
    asked = OpenAIModel("http://127.0.0.1:9/v1", "m", tries=50, pause=0.0, timeout=2.0)
    with pytest.raises(Unanswered, match=r"http://127.0.0.1:9/v1 cannot be reached \(.*refused.*start the server"):
        asked.answer(CHATS * 8, 5)


def test_a_server_that_goes_away_ends_it_and_one_that_is_slow_does_not(server):
    asked = endpoint(server, tries=4)
    assert asked.answer(CHATS[:1], 5)[0].error is None
    server.shutdown()
    server.server_close()
    with pytest.raises(Unanswered, match="cannot be reached"):
        asked.answer(CHATS[:1], 5)


def test_a_request_that_takes_too_long_is_an_error_of_the_item(server):
    server.reply = lambda asked: time.sleep(0.4) or "late"
    assert "in 2 tries" in (endpoint(server, tries=2, timeout=0.1).answer(CHATS[:1], 5)[0].error or "")


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refusal_of_one_item_is_an_error_of_that_item_at_once(server, status):
    server.script = [(status, '{"error": {"message": "content filter"}}')]
    first, second = endpoint(server, batch=1).answer([CHATS[0]] * 2, 5)
    assert "content filter" in (first.error or "")
    assert second.error is None
    assert len(server.seen) == 2


def test_an_address_without_its_scheme_is_refused():
    pytest.importorskip("openai")
    with pytest.raises(SuiteError, match="write http://127.0.0.1:9/v1"):
        OpenAIModel("127.0.0.1:9/v1", "m")


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_ends_the_evaluation_at_once(server, status):
    server.script = [(status, "{}")] * 3
    with pytest.raises(SuiteError, match="look at the address, the model's name and TRIMTAB_API_KEY"):
        endpoint(server).answer(CHATS[:1], 5)
    assert len(server.seen) == 1


def test_a_server_cannot_compare_options():
    pytest.importorskip("openai")
    with pytest.raises(SuiteError, match="use --mode generate"):
        OpenAIModel("http://127.0.0.1:9/v1", "m").compare(CHATS[:1], [["A"]])


# ---------------------------------------------------------------- a server that echoes


def language(model, tokenizer):
    """What vLLM's completions give: the tokens of a prompt with their log-probabilities, and new tokens if asked."""

    def complete(asked):
        ids = tokenizer(asked["prompt"], add_special_tokens=False).input_ids
        new = [70] * asked["max_tokens"]
        with torch.no_grad():
            log_p = model(torch.tensor([ids + new])).logits.log_softmax(-1)[0]
        values = [None, *(log_p[t - 1, token].item() for t, token in enumerate(ids + new) if t)]
        tokens = [tokenizer.decode([i]) for i in ids + new]
        return {"text": tokenizer.decode(ids + new), "logprobs": {"tokens": tokens, "token_logprobs": values}}

    return complete


@pytest.mark.parametrize("templated", [True, False])
@pytest.mark.parametrize("least", [0, 1])
def test_a_server_that_echoes_gives_the_probabilities_of_the_model_itself(server, model, tokenizer, templated, least):
    server.complete = language(model, tokenizer)
    server.least = least
    labels = [["A", "B"], ["yes", "no"], ["A", "it depends"]]
    asked = endpoint(server, tokenizer=tokenizer if templated else None)
    found = asked.compare(CHATS, labels)
    wanted = HFModel(model, tokenizer, plain=not templated).compare(CHATS, labels)
    for one, other in zip(found, wanted, strict=True):
        assert one == pytest.approx(other, abs=1e-3)
    assert {s["max_tokens"] for s in server.seen if s.get("echo")} == ({0} if not least else {0, 1})
    template = asked.facts()["template"]
    assert template == (HFModel(model, tokenizer).facts()["template"] if templated else "none, prompts are plain text")
    assert "template" not in endpoint(server).facts()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"logprobs": None}, "its completions hold no logprobs"),
        ({"text": " and so on"}, "it does not echo the prompt"),
        ({"logprobs": {"tokens": ["a", "b"], "token_logprobs": [None, None]}}, "leave tokens of the prompt out"),
        (None, "it refused the request .Error code: 404"),
    ],
)
def test_a_server_that_tells_too_little_is_refused_with_what_it_does(server, model, tokenizer, change, reason):
    if change is not None:
        whole = language(model, tokenizer)
        server.complete = lambda asked: {**whole(asked), **change}
    asked = endpoint(server)
    with pytest.raises(SuiteError, match=f"cannot compare options: .*{reason}.*use --mode generate"):
        asked.echoes.check()


@pytest.mark.parametrize("least", [0, 1])
def test_letters_of_several_tokens_are_echoed_as_parts_of_them(server, model, tokenizer, least):
    """Each byte of such a letter comes back as a sign that stands for none."""
    whole = language(model, tokenizer)
    server.complete = lambda asked: {**whole(asked), "text": asked["prompt"] + "a" * least}
    server.least = least
    chats, labels = [[{"role": "user", "content": "Gut, schön oder 好?"}]], [["schön", "好", "A"]]
    found = endpoint(server, tokenizer=tokenizer).compare(chats, labels)
    assert found[0] == pytest.approx(HFModel(model, tokenizer).compare(chats, labels)[0], abs=1e-3)


def test_an_option_with_a_token_that_has_no_probability_is_no_answer(server, model, tokenizer):
    whole = language(model, tokenizer)

    def complete(asked):
        found = whole(asked)
        if asked["prompt"].endswith("yes"):
            found["logprobs"]["token_logprobs"][-1] = None
        return found

    server.complete = complete
    with pytest.raises(Unanswered, match="tokens of the option 'yes' came back without log-probabilities"):
        endpoint(server, tokenizer=tokenizer).compare(CHATS[:1], [["yes", "no"]])


def test_an_option_that_grows_together_with_its_prompt_is_refused(server):
    def complete(asked):
        text = asked["prompt"]
        tokens = [text[:-2], text[-2:]]  # the last two characters, whatever they are
        return {"text": text, "logprobs": {"tokens": tokens, "token_logprobs": [None, -1.0]}}

    server.complete = complete
    with pytest.raises(SuiteError, match="joins the end of the prompt .* and the option 'B' into one token"):
        endpoint(server).compare([user("a")], [["B"]])


def test_a_begin_token_that_the_template_writes_is_left_to_the_server():
    tokenizer = tiny_folder.byte_tokenizer()
    assert without_begin(tiny_folder.byte_tokenizer(), "<|user|>a") == "<|user|>a"
    tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<|user|> $A", special_tokens=[("<|user|>", 1)]
    )
    assert without_begin(tokenizer, "<|user|>a") == "a"
