"""The folder for the Hub: `generate` loads it from a path and decodes as with the processors themselves."""

from importlib.resources import files
from types import SimpleNamespace

import pytest
import torch
from transformers import GenerationConfig

import architectures
import tiny
from trimtab import decoding

FOLDER = str(files("trimtab.decoding") / "hub")


@pytest.mark.parametrize(
    ("strategy", "settings"),
    [
        ("adaptive", {"epsilon": 0.02}),
        ("penalty", {"strength": 2.0, "least": 4}),
        ("greedy", {}),
        ("beam", {"beams": 2}),
    ],
)
def test_it_decodes_as_the_strategy_does(strategy, settings):
    model = tiny.model("llama", initializer_range=0.4)
    model.generation_config.eos_token_id = 2
    ids = {"input_ids": torch.tensor([[5, 6, 7], [8, 9, 10]]), "max_new_tokens": 8, "pad_token_id": 0}
    ends = SimpleNamespace(eos_token_id=2, pad_token_id=None)
    torch.manual_seed(0)
    wanted = model.generate(**ids, **decoding.arguments(strategy, ends, **settings))
    torch.manual_seed(0)
    found = model.generate(**ids, custom_generate=FOLDER, trust_remote_code=True, strategy=strategy, settings=settings)
    assert torch.equal(found, wanted)


def hub(model, strategy="greedy", **given):
    ids = torch.tensor([[5, 6, 7]])
    given = {"max_new_tokens": 12, "pad_token_id": 0, **given}
    return model.generate(ids, custom_generate=FOLDER, trust_remote_code=True, strategy=strategy, **given).tolist()


def test_nothing_of_the_models_own_config_acts_and_what_is_handed_over_does():
    model = tiny.model("llama", initializer_range=0.4)
    wanted = hub(model)
    model.generation_config.update(repetition_penalty=5.0, no_repeat_ngram_size=1, suppress_tokens=[*range(9, 40)])
    assert hub(model) == wanted
    ids = torch.tensor([[5, 6, 7]])
    penalised = tiny.model("llama", initializer_range=0.4).generate(
        ids, max_new_tokens=12, pad_token_id=0, repetition_penalty=5.0
    )
    assert hub(model, repetition_penalty=5.0) == penalised.tolist() != wanted
    handed = GenerationConfig(repetition_penalty=5.0, max_new_tokens=12, pad_token_id=0, eos_token_id=2)
    assert hub(model, generation_config=handed) == penalised.tolist()
    assert hub(model, strategy="model") != wanted


def test_what_a_strategy_sets_itself_is_not_handed_over():
    model = tiny.model("llama")
    with pytest.raises(decoding.DecodingError, match="do_sample is set by the strategy greedy"):
        hub(model, do_sample=True)
    with pytest.raises(decoding.DecodingError, match="temperature is set by the strategy adaptive"):
        hub(model, strategy="adaptive", temperature=0.5)
    hub(model, do_sample=False)


def test_a_model_whose_cache_mixes_up_rows_generates_without_one():
    model = architectures.build("rwkv")
    model.generation_config.eos_token_id = None
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    how = {"custom_generate": FOLDER, "trust_remote_code": True, "strategy": "greedy", "max_new_tokens": 8}
    together = model.generate(ids, **how, pad_token_id=0)
    alone = [model.generate(row[None], **how, pad_token_id=0)[0] for row in ids]
    assert together.tolist() == [row.tolist() for row in alone]
    stock = model.generate(ids, do_sample=False, max_new_tokens=8, pad_token_id=0)
    assert together.tolist() != stock.tolist()  # otherwise nothing was to be mended
