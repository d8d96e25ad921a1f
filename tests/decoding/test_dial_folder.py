"""The `generate.py` of an exported folder, which knows nothing of trimtab: the tokens are those of `realign`."""

import ast
import json
import warnings
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig, StoppingCriteriaList, StopStringCriteria

import tiny_dial
import tiny_folder
from tiny_table import families
from trimtab.decoding.realign import realign
from trimtab.runs.exporting import SUPPORTED

KINDS = families(("llama_tied", "llama", "mistral", "qwen2", "qwen3"), ("llama_tied", "mistral", "qwen3"))
STRENGTHS = [0.0, 0.3, 0.5, 1.0, 1.5]
GREEDY = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
WHOLE = {"return_dict_in_generate": True, "output_logits": True}


def prompts(lengths=(6, 3, 5, 4, 6)):
    """Random tokens, padded on the left."""
    ids = torch.randint(5, 200, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[0] * (max(lengths) - n) + [1] * n for n in lengths])
    return {"input_ids": ids * mask, "attention_mask": mask}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_dial.export(tmp_path_factory.mktemp("dial"), recommended=(-1.0, 2.0))


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def at(model, folder, strength=None, inputs=None, **how):
    given = {} if strength is None else {"strength": strength}
    inputs = prompts() if inputs is None else inputs
    return model.generate(**inputs, custom_generate=str(folder), trust_remote_code=True, **given, **{**GREEDY, **how})


def with_realign(model, strength, inputs=None, **how):
    inputs = prompts() if inputs is None else inputs
    return model.generate(**inputs, custom_generate=realign, strength=strength, **{**GREEDY, **how})


def logits(output):
    return torch.stack(output.logits, dim=1)


# ---------------------------------------------------------------- the same tokens


@pytest.mark.parametrize("kind", KINDS)
def test_a_padded_batch_of_strengths_has_the_tokens_and_logits_of_realign(tmp_path, kind):
    folder = tiny_dial.export(tmp_path, kind, recommended=(-1.0, 2.0))
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    assert model.config.model_type in SUPPORTED
    ours, theirs = at(model, folder, torch.tensor(STRENGTHS), **WHOLE), with_realign(model, STRENGTHS, **WHOLE)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert torch.equal(logits(ours), logits(theirs))
    for strength in STRENGTHS:
        assert torch.equal(at(model, folder, strength), with_realign(model, strength))


def test_at_its_ends_it_is_the_two_models(tmp_path):
    folder = tiny_dial.export(tmp_path)
    dialled = AutoModelForCausalLM.from_pretrained(folder).eval()
    expanded, original = tiny_dial.expanded()
    found = {strength: at(dialled, folder, strength) for strength in (0, 1)}
    assert torch.equal(found[0], original.generate(**prompts(), **GREEDY))
    assert torch.equal(found[1], expanded.generate(**prompts(), **GREEDY))
    assert not torch.equal(found[0], found[1])


def test_a_list_is_a_schedule_in_equal_parts_of_the_longest_answer(model, folder):
    """Token t of at most 8 gets entry floor(3 t / 8): 0 0 0 1 1 1 2 2."""
    found = at(model, folder, [1.0, 0.25, 1.5])
    by_token = [[strength] for strength in (1.0, 1.0, 1.0, 0.25, 0.25, 0.25, 1.5, 1.5)]
    assert torch.equal(found, with_realign(model, by_token))
    assert not torch.equal(found, at(model, folder, [1.5, 0.25, 1.0]))


def test_each_prompt_may_have_its_own_schedule(model, folder):
    found = at(model, folder, [[0.0], [1.0, 0.5], 0.3, [0.0, 1.0], 1.5])
    by_token = [[0.0, 1.0 if t < 4 else 0.5, 0.3, 0.0 if t < 4 else 1.0, 1.5] for t in range(8)]
    assert torch.equal(found, with_realign(model, by_token))


@pytest.mark.parametrize("strength, rows", [(0, 5), (1.0, 5), (0.5, 10), ([0, 0.0], 5), ([1.0, 0.0], 10)])
def test_a_request_takes_the_paths_that_it_needs(model, folder, strength, rows):
    sizes = set()
    hook = model.get_input_embeddings().register_forward_hook(lambda m, args, out: sizes.add(out.size(0)))
    at(model, folder, strength)
    hook.remove()
    assert sizes == {rows}
    assert not any(layer._forward_hooks for layer in model.model.layers)


def test_draws_samples_stops_and_processors_are_those_of_generate(model, folder):
    for how in (
        {"do_sample": True, "top_p": 0.9},
        {"do_sample": True, "num_return_sequences": 2},
        {"eos_token_id": [*range(100)], "pad_token_id": 0},
        {"bad_words_ids": [[token] for token in range(100)]},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"prefill_chunk_size": 2},
    ):
        torch.manual_seed(0)
        theirs = with_realign(model, STRENGTHS, **how)
        torch.manual_seed(0)
        assert torch.equal(at(model, folder, torch.tensor(STRENGTHS), **how), theirs)


def test_a_stop_string_ends_an_answer(model, folder):
    tokenizer, alone = tiny_folder.byte_tokenizer(), prompts((6,))
    how = {**GREEDY, "max_new_tokens": 20}
    whole = at(model, folder, 0.5, alone, **how)[0, 6:]
    pieces = (tokenizer.decode(whole[at : at + 2]) for at in range(2, 16))
    stop = next(text for text in pieces if text.isascii())
    criteria = StoppingCriteriaList([StopStringCriteria(tokenizer=tokenizer, stop_strings=[stop])])
    theirs = with_realign(model, 0.5, alone, stopping_criteria=criteria, **how)
    assert theirs.size(1) < 26
    assert torch.equal(at(model, folder, 0.5, alone, tokenizer=tokenizer, stop_strings=[stop], **how), theirs)
    config = GenerationConfig(strength=0.5, stop_strings=[stop], **how)
    assert torch.equal(at(model, folder, None, alone, tokenizer=tokenizer, generation_config=config, **how), theirs)


class Collected:
    def __init__(self):
        self.put_in, self.ended = [], 0

    def put(self, tokens):
        self.put_in.append(tokens.tolist())

    def end(self):
        self.ended += 1


def test_a_streamer_gets_the_prompt_and_each_token_once(model, folder):
    alone, seen = prompts((6,)), Collected()
    found = at(model, folder, 0.5, alone, streamer=seen)
    assert seen.put_in == [alone["input_ids"].tolist(), *[[token] for token in found[0, 6:].tolist()]]
    assert seen.ended == 1


# ---------------------------------------------------------------- how it is called


def test_a_model_loaded_with_its_code_takes_strengths_by_itself(folder, model):
    own = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    inputs = prompts()
    wanted = at(model, folder, 0.5)
    found = own.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], strength=0.5, **GREEDY)
    assert torch.equal(found, wanted)
    assert torch.equal(own.generate(**inputs, generation_config=GenerationConfig(strength=0.5, **GREEDY)), wanted)
    assert torch.equal(own.generate(**inputs, **GREEDY), at(model, folder, 1.0))
    assert torch.equal(own.generate(**inputs, custom_generate=realign, strength=0.5, **GREEDY), wanted)
    assert torch.equal(at(own, folder, 0.5), wanted)


def test_an_argument_goes_before_the_generation_config_which_is_left_as_it_was(model, folder):
    config = GenerationConfig(strength=0.5, **GREEDY)
    found = model.generate(
        **prompts(), custom_generate=str(folder), trust_remote_code=True, generation_config=config, strength=0.0
    )
    assert torch.equal(found, at(model, folder, 0.0))
    assert config.strength == 0.5


def test_a_served_request_without_a_length_is_answered_at_length(model, folder):
    """transformers alone would stop after 20 tokens."""
    config = GenerationConfig(strength=0.5, do_sample=False, eos_token_id=None)
    alone = prompts((6,))
    model.generation_config.eos_token_id, ends = None, model.generation_config.eos_token_id
    seen = []

    def enough(ids, scores, **kwargs):
        seen.append(ids.size(1))
        return torch.full((ids.size(0),), ids.size(1) >= 36)

    found = model.generate(
        **alone, custom_generate=str(folder), trust_remote_code=True, generation_config=config,
        stopping_criteria=StoppingCriteriaList([enough]),
    )  # fmt: skip
    model.generation_config.eos_token_id = ends
    assert found.size(1) == 36
    assert len(seen) == 30


def test_it_imports_torch_and_transformers_alone(folder):
    tree = ast.parse((folder / "custom_generate" / "generate.py").read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} == {
        "copy", "math", "threading", "warnings", "numbers", "torch", "transformers"
    }  # fmt: skip


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "strength, message",
    [
        (float("nan"), "strength must be finite, got nan"),
        ([0.0, float("inf")], "strength must be finite, got inf"),
        (10**400, "strength must be finite, got 1000"),
        ("strong", "strength must be a number, or a list of numbers, got 'strong'"),
        ([0.5, "x"], "strength must be a number, or a list of numbers, got 'x'"),
        (True, "strength must be a number, or a list of numbers, got True"),
        ({"a": 1}, "strength must be a number, or a list of numbers"),
        (10.5, "strength must lie between -10 and 10, got 10.5"),
        ([], "strength is an empty list"),
        ([0.5] * 9, "strength has 9 parts, and the answer at most 8 tokens"),
        ([[0.5], [0.5]], "strength has entries for 2 prompts, and there are 5"),
        (torch.zeros(4), "strength has entries for 4 prompts, and there are 5"),
        ([[0.5]] * 4 + [[]], "strength is an empty list"),
    ],
)
def test_a_strength_that_means_nothing_is_refused_in_one_line(model, folder, strength, message):
    with pytest.raises(ValueError, match=message) as caught:
        at(model, folder, strength)
    assert "\n" not in str(caught.value)
    assert not any(layer._forward_hooks for layer in model.model.layers)


def test_outside_of_the_recommended_range_it_warns(model, folder):
    with pytest.warns(UserWarning, match="strength 2.5 is outside of the recommended range, -1 to 2"):
        at(model, folder, [0.5, 2.5])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        at(model, folder, 2.0)


@pytest.mark.parametrize(
    "how, message",
    [
        ({"num_beams": 2}, "not with 2 beams"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states .* is not supported"),
        ({"guidance_scale": 1.5}, "guidance_scale .* is not supported"),
        ({"penalty_alpha": 0.5, "top_k": 4}, "penalty_alpha .contrastive search. is not supported"),
        ({"prompt_lookup_num_tokens": 2}, "prompt_lookup_num_tokens .speculative decoding. is not supported"),
        ({"stop_strings": ["a"]}, "stop_strings need the tokenizer"),
        ({"assistant_model": "self"}, "speculative decoding"),
    ],
)
def test_what_two_streams_cannot_do_is_refused(model, folder, how, message):
    how = {name: model if value == "self" else value for name, value in how.items()}
    with pytest.raises(ValueError, match=message):
        at(model, folder, 0.5, **how)


def test_a_prompt_beyond_the_context_is_refused(model, folder):
    inputs = {"input_ids": torch.ones(1, 512, dtype=torch.long), "attention_mask": torch.ones(1, 512)}
    with pytest.raises(ValueError, match="the prompt has 512 tokens, and the model reads 512; shorten it"):
        at(model, folder, 0.5, inputs)


def test_a_cache_that_holds_something_is_refused(model, folder):
    alone = prompts((6,))
    cache = model(**alone, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="past_key_values must be empty"):
        at(model, folder, 0.5, alone, past_key_values=cache)


def test_another_version_and_a_model_without_a_dial_are_refused_by_name(tmp_path):
    folder = tiny_dial.export(tmp_path)
    path = Path(folder / "config.json")
    config = json.loads(path.read_text())
    path.write_text(json.dumps({**config, "trimtab_dial": {**config["trimtab_dial"], "version": 2}}))
    with pytest.raises(ValueError, match="/dial: its dial has version 2, and this generate.py reads version 1"):
        at(AutoModelForCausalLM.from_pretrained(folder), folder, 0.5)
    with pytest.raises(ValueError, match="/trained has no dial .*; write a folder with: trimtab export RUN FOLDER"):
        at(AutoModelForCausalLM.from_pretrained(tmp_path / "trained"), folder, 0.5)


@pytest.mark.parametrize("names", [None, [], ["model.layers.9"], [3]])
def test_a_folder_that_names_no_layers_of_its_model_is_refused(tmp_path, names):
    folder = tiny_dial.export(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.config.trimtab_dial = {**model.config.trimtab_dial, "modules": names}
    with pytest.raises(ValueError, match="trimtab_dial.modules names .*, no layers of this model; export the run"):
        at(model, folder, 0.5)
