"""One config for every generation: what a checkpoint's own config says acts nowhere unasked."""

import itertools
from copy import deepcopy

import pytest
import torch
from transformers import GenerationConfig, WatermarkingConfig

import tiny
import tiny_folder
from trimtab import decoding
from trimtab.decoding import _config
from trimtab.decoding._batching import alone
from trimtab.decoding._config import CALLERS, complete, described, fields, generate, may_leave
from trimtab.decoding._texts import generate_texts
from trimtab.decoding.dera import dera
from trimtab.evals.models import HFModel
from trimtab.evals.suite import user
from trimtab.models.adapters import add_lora
from trimtab.rewriting.rewriters import causal
from trimtab.train.answers import draw

TOKENIZER = tiny_folder.byte_tokenizer()
PROMPTS = ["abcabc", "a longer prompt, and 1 2 3"]
PLAIN = sorted({*decoding.known()} - {"dera", "realign", decoding.MODEL})
AWAY = {
    "max_length": 3, "max_new_tokens": 2, "min_length": 60, "min_new_tokens": 9, "early_stopping": True,
    "max_time": 1e-9,
    "stop_strings": ["a", " "], "do_sample": True, "num_beams": 3, "use_cache": False, "cache_implementation": "static",
    "cache_config": {"backend": "quanto"}, "max_cache_len": 99, "temperature": 0.01, "top_k": 1, "top_p": 0.01,
    "min_p": 0.9, "top_h": 0.1, "typical_p": 0.05, "epsilon_cutoff": 0.5, "eta_cutoff": 0.5, "repetition_penalty": 9.0,
    "encoder_repetition_penalty": 9.0, "length_penalty": -3.0, "no_repeat_ngram_size": 2, "bad_words_ids": [[86], [68]],
    "renormalize_logits": True, "forced_bos_token_id": 44, "forced_eos_token_id": 45, "remove_invalid_values": True,
    "exponential_decay_length_penalty": (1, 9.0), "suppress_tokens": [*range(100, 200)],
    "begin_suppress_tokens": [*range(60, 100)], "sequence_bias": [[[70], 90.0]], "token_healing": True,
    "guidance_scale": 3.0, "watermarking_config": WatermarkingConfig(bias=50.0), "num_return_sequences": 2,
    "output_attentions": True, "output_hidden_states": True, "output_scores": True, "output_logits": True,
    "return_dict_in_generate": True, "pad_token_id": 77, "bos_token_id": 78, "encoder_no_repeat_ngram_size": 2,
    "decoder_start_token_id": 79, "is_assistant": True, "prompt_lookup_num_tokens": 3, "penalty_alpha": 0.6,
    "dola_layers": "high", "diversity_penalty": 2.0, "num_beam_groups": 3, "constraints": [1],
    "force_words_ids": [[1]], "prefill_chunk_size": 2, "assistant_early_exit": 1, "low_memory": True,
}  # fmt: skip
"""Values that would change a text, or make `generate` fail."""


def model(**own):
    """Its texts are of many tokens, and it has an end token that comes now and then."""
    made = tiny.model("llama_tied", vocab_size=tiny_folder.VOCAB, eos_token_id=0, pad_token_id=0, bos_token_id=None,
                      max_position_embeddings=512)  # fmt: skip
    for name, value in own.items():
        setattr(made.generation_config, name, value)
    return made


def everything_away():
    """Each field of a generation config of this version of transformers, also those that are not known here."""
    made = model()
    for name in vars(GenerationConfig()):
        if name not in ("eos_token_id", "_original_object_hash", "_from_model_config"):
            setattr(made.generation_config, name, AWAY.get(name, 7))
    made.generation_config.of_another_version = 7
    return made


@pytest.fixture(scope="module")
def away():
    return everything_away()


def texts(made, name, options=None, prompts=PROMPTS):
    torch.manual_seed(0)
    how = decoding.arguments(name, TOKENIZER, model=made, **(options or {}))
    return [answer.text for answer in generate_texts(made, TOKENIZER, prompts, 12, plain=True, **how)]


@pytest.mark.parametrize("name", PLAIN)
def test_no_field_of_the_models_own_config_acts_on_a_strategy(name, away):
    wanted = texts(model(), name)
    assert texts(away, name) == wanted
    assert all(wanted)


@pytest.mark.parametrize("name", PLAIN)
def test_nor_on_its_arguments_in_the_users_own_call(name):
    """But for those that say how much is wanted, and in what form."""
    made, prompt = model(), torch.tensor([[90, 91, 92, 93]])

    def said():
        torch.manual_seed(0)
        return made.generate(prompt, max_new_tokens=12, **decoding.arguments(name, TOKENIZER)).tolist()

    wanted = said()
    for field, value in AWAY.items():
        if field not in CALLERS:
            setattr(made.generation_config, field, value)
    assert said() == wanted


def test_each_of_these_settings_would_have_acted():
    """Otherwise the tests above would prove nothing."""
    acting = ("repetition_penalty", "no_repeat_ngram_size", "suppress_tokens", "num_beams", "bad_words_ids",
              "stop_strings", "sequence_bias", "max_time", "watermarking_config", "begin_suppress_tokens")  # fmt: skip
    prompt = torch.tensor([[90, 91, 92, 93]])
    plain = model().generate(prompt, max_new_tokens=30, do_sample=False)
    for name in acting:
        found = model(**{name: AWAY[name]}).generate(prompt, max_new_tokens=30, tokenizer=TOKENIZER)
        assert not torch.equal(found, plain), name


def test_every_way_to_answers_is_free_of_it(away):
    """Greedy and drawn answers, evaluations, rewrites, an adapter, and two models that are mixed."""

    def ways(made):
        torch.manual_seed(0)
        yield generate_texts(made, TOKENIZER, PROMPTS, 8)
        yield generate_texts(made, TOKENIZER, PROMPTS, 8, do_sample=True, temperature=1.0)
        yield draw(
            made, TOKENIZER, [{"prompt": one} for one in PROMPTS], max_new_tokens=8, temperature=1.0, batch=2, seed=0
        )
        yield HFModel(made, TOKENIZER).answer([user(prompt) for prompt in PROMPTS], 8)
        yield HFModel(made, TOKENIZER, strategy="beam").answer([user(prompt) for prompt in PROMPTS], 8)
        yield causal(made, TOKENIZER, max_new_tokens=8).steps[0](PROMPTS, [1, 2])
        yield generate_texts(made, TOKENIZER, PROMPTS, 8, custom_generate=dera, aligned=model(), strength=0.5)

    assert [*ways(away)] == [*ways(model())]


def test_completions_of_held_out_tasks_depend_on_no_other_task_and_no_batch():
    tasks, how = [{"prompt": one} for one in PROMPTS], {"max_new_tokens": 8, "temperature": 1.0, "seed": 3}
    whole = draw(model(), TOKENIZER, tasks, batch=len(tasks), **how)
    backwards = draw(model(), TOKENIZER, tasks[::-1], batch=1, places=range(len(tasks))[::-1], **how)
    assert [one.ids for one in backwards[::-1]] == [one.ids for one in whole]
    same = draw(model(), TOKENIZER, [tasks[0]] * 8, batch=8, **how)
    assert len({tuple(one.ids) for one in same}) > 4  # each place has numbers of its own


def test_a_wrapped_model_is_free_of_it_and_keeps_it():
    lora = {"r": 2, "target_modules": ["q_proj"]}
    plain, set_ = (add_lora(made, lora, 0) for made in (model(), everything_away()))
    kept = deepcopy(vars(set_.generation_config))
    assert texts(set_, "greedy") == texts(plain, "greedy")
    assert vars(set_.generation_config) == kept


def test_the_models_own_config_is_there_again_also_after_an_error():
    made = model(temperature=0.3)
    own = made.generation_config
    with pytest.raises(ZeroDivisionError), alone(made):
        assert made.generation_config.temperature is None
        raise ZeroDivisionError
    assert made.generation_config is own


def test_nothing_is_left_open_in_a_complete_config():
    config = complete({"do_sample": True}, (2, 5), 0, 9)
    defaults = GenerationConfig._get_default_generation_params()
    left = {name for name, value in defaults.items() if value is not None and getattr(config, name) is None}
    assert left == {"max_length"}  # max_new_tokens stands for it
    assert (config.top_k, config.eos_token_id, config.pad_token_id, config.max_new_tokens) == (0, [2, 5], 0, 9)
    assert complete({"top_k": None, "do_sample": True}, (), None, 9).top_k == 0
    assert complete({}, (5,), None, 9).pad_token_id == 5
    assert fields().keys() >= defaults.keys()


# ---------------------------------------------------------------- as the model's authors set it


def test_model_is_what_its_authors_set_with_our_ends_and_length():
    own = {"repetition_penalty": 3.0, "no_repeat_ngram_size": 2, "eos_token_id": 200, "max_length": 3}
    made = model(**own)
    how = decoding.arguments(decoding.MODEL)
    assert how == {}
    found = generate_texts(made, TOKENIZER, PROMPTS[:1], 12, plain=True, own=True, **how)
    ids = TOKENIZER(PROMPTS[0], return_tensors="pt")
    wanted = model(repetition_penalty=3.0, no_repeat_ngram_size=2).generate(
        **ids, max_new_tokens=12, eos_token_id=[0, 200], pad_token_id=0
    )
    assert found[0].text == TOKENIZER.decode(wanted[0, ids.input_ids.size(1) :], skip_special_tokens=True)
    assert found[0].text != texts(made, "greedy", prompts=PROMPTS[:1])[0]


def test_model_stops_at_its_stop_strings_and_samples_as_it_says():
    written = texts(model(), "greedy", prompts=PROMPTS[:1])[0]
    stop = next(a + b for a, b in itertools.pairwise(written) if (a + b).isascii())
    found = generate_texts(model(stop_strings=[stop]), TOKENIZER, PROMPTS[:1], 12, plain=True, own=True)
    assert found[0].text == written[: written.index(stop) + 2]
    sampled = model(do_sample=True, temperature=3.0)
    drawn = {generate_texts(sampled, TOKENIZER, PROMPTS[:1], 12, plain=True, own=True)[0].text for _ in range(3)}
    assert len(drawn) == 3


def test_model_gives_one_answer_to_each_prompt_whatever_its_authors_set():
    made = model(num_return_sequences=2, num_beams=2, return_dict_in_generate=True, output_scores=True)
    assert len(generate_texts(made, TOKENIZER, PROMPTS, 4, own=True)) == 2


def test_model_has_no_settings():
    with pytest.raises(decoding.DecodingError, match="decoding model has no setting 'temperature'; its settings: none"):
        decoding.arguments("model", temperature=0.5)


def test_an_evaluations_facts_tell_the_whole_config():
    facts = HFModel(model(repetition_penalty=3.0), TOKENIZER, strategy="model").facts()
    assert facts["generation"] == "eos_token_id=[0], pad_token_id=0, repetition_penalty=3.0"
    assert facts["decoding"] == "model"
    assert HFModel(model(repetition_penalty=3.0), TOKENIZER).facts()["generation"] == "eos_token_id=[0], pad_token_id=0"
    assert "seed" in HFModel(model(do_sample=True), TOKENIZER, strategy="model").facts()


def test_a_config_is_described_by_what_is_not_transformers_default():
    assert described(complete({"do_sample": True, "temperature": 0.7}, (2,), 0, 5)) == (
        "do_sample=True, eos_token_id=[2], max_new_tokens=5, pad_token_id=0, temperature=0.7, top_k=0"
    )
    assert described(complete({}, (), None, 5)) == "max_new_tokens=5"
    assert described(complete({"use_cache": False}, (), None, 5)) == "max_new_tokens=5, use_cache=False"


# ---------------------------------------------------------------- rows that leave


@pytest.mark.parametrize(
    ("asked", "may"),
    [
        ({}, True), ({"do_sample": True, "temperature": 0.5, "top_k": 9, "min_p": 0.1}, True),
        ({"repetition_penalty": 1.2}, False), ({"no_repeat_ngram_size": 2}, False), ({"num_beams": 2}, False),
        ({"guidance_scale": 2.0}, False), ({"prompt_lookup_num_tokens": 2}, False),
    ],
)  # fmt: skip
def test_rows_leave_only_where_nothing_looks_at_the_whole_batch(asked, may):
    assert may_leave(complete(asked, (0,), 0, 5), {}) is may
    assert not may_leave(complete(asked, (0,), 0, 5), {"logits_processor": []})


def test_rows_that_leave_change_no_text_under_a_penalty_that_knows_the_rows():
    made = model()
    made.generation_config.eos_token_id = [0, *range(100, 140)]
    inputs = TOKENIZER(PROMPTS, return_tensors="pt", padding=True, padding_side="left")
    asked = {"repetition_penalty": 1.5}
    found, wanted = (generate(made, TOKENIZER, inputs, 20, leave=leave, **asked) for leave in (True, False))
    assert torch.equal(found, wanted)


# ---------------------------------------------------------------- stop strings


def test_stop_strings_work_with_a_loop_of_our_own():
    made = model()
    inputs = TOKENIZER(PROMPTS[:1], return_tensors="pt")
    wanted = made.generate(**inputs, max_new_tokens=12, stop_strings=["a", " "], tokenizer=TOKENIZER)
    for leave in (True, False):
        assert torch.equal(generate(made, TOKENIZER, inputs, 12, leave=leave, stop_strings=["a", " "]), wanted)


def test_the_config_that_was_given_stays_as_it_is():
    config = complete({"stop_strings": ["a"]}, (0,), 0, 4)
    _config.run(model(), config, TOKENIZER(PROMPTS[:1], return_tensors="pt"), tokenizer=TOKENIZER)
    assert config.stop_strings == ["a"]
