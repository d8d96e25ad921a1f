"""The folder for the Hub: `generate` loads it from a path and decodes as with the processors themselves."""

from importlib.resources import files
from types import SimpleNamespace

import pytest
import torch

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
