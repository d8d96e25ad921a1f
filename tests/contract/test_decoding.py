"""Every file in decoding/ goes through one battery; a new strategy needs no line here."""

import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tiny
from trimtab import decoding
from trimtab.decoding._stock import STOCK

ROOT = Path(__file__).parents[2]
HANDED_OVER = ["model", "input_ids", "logits_processor", "stopping_criteria", "generation_config"]
ENDS = SimpleNamespace(eos_token_id=2, pad_token_id=0)
MODULES = {name: importlib.import_module(f"trimtab.decoding.{name}") for name in decoding.names()}
MIXED = [name for name, module in MODULES.items() if not hasattr(module, "STRATEGY")]
CHOSEN = sorted(set(decoding.known()) - set(MIXED))


@pytest.mark.parametrize("name", decoding.names())
def test_it_has_a_summary_an_equation_a_paper_and_a_test_of_its_own(name):
    page = inspect.getdoc(inspect.getmodule(decoding.load(name)))
    assert decoding.summary(name).endswith(".")
    assert page.startswith(decoding.summary(name))
    assert any(line.startswith("    ") and " = " in line for line in page.splitlines())
    assert "arXiv:" in page
    assert (ROOT / "tests" / "decoding" / f"test_{name}.py").is_file()


@pytest.mark.parametrize("name", MIXED)
def test_generate_can_call_it_and_each_option_has_a_name_of_its_own(name):
    parameters = inspect.signature(decoding.load(name)).parameters
    assert list(parameters)[: len(HANDED_OVER)] == HANDED_OVER
    assert list(parameters.values())[-1].kind is inspect.Parameter.VAR_KEYWORD
    options = list(parameters.values())[len(HANDED_OVER) : -1]
    assert all(option.default is not inspect.Parameter.empty for option in options)
    with pytest.raises(decoding.DecodingError, match="chosen by a strength"):
        decoding.strategy(name)


def test_strategies_of_transformers_have_a_line_each():
    assert STOCK.keys() == decoding.STOCK.keys()


@pytest.mark.parametrize("name", CHOSEN)
def test_every_setting_has_a_default_and_a_text(name):
    chosen = decoding.strategy(name)
    assert chosen.equation
    for setting in chosen.options.model_fields.values():
        assert not setting.is_required()
        assert setting.description


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", CHOSEN)
def test_its_processors_keep_shape_dtype_and_the_callers_tensor(name, dtype):
    scores = (3 * torch.randn(3, 40, generator=torch.Generator().manual_seed(0))).to(dtype)
    ids = torch.randint(40, (3, 6), generator=torch.Generator().manual_seed(1))
    for processor in decoding.arguments(name, ENDS).get("logits_processor", ()):
        before = scores.clone()
        found = processor(ids, scores)
        assert (found.shape, found.dtype) == (scores.shape, dtype)
        assert torch.equal(scores, before)
        assert (found > -torch.inf).any(dim=-1).all()
        alone = [p(ids[i : i + 1], scores[i : i + 1]) for i in range(3) for p in [_same(name, processor)]]
        assert torch.equal(torch.cat(alone), found)
        if type(processor).__module__.startswith("trimtab."):
            assert isinstance(processor.supports_continuous_batching, bool)


def _same(name, processor):
    return next(p for p in decoding.arguments(name, ENDS)["logits_processor"] if type(p) is type(processor))


@pytest.mark.parametrize("name", CHOSEN)
def test_generate_takes_its_arguments_whatever_the_models_own_settings_are(name):
    model = tiny.model("llama", initializer_range=0.4)
    model.generation_config.update(do_sample=True, top_k=1, temperature=0.1, num_beams=1, repetition_penalty=1.0)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    output = model.generate(ids, max_new_tokens=5, pad_token_id=0, **decoding.arguments(name, ENDS))
    assert output.shape == (2, 8)
    if name == "sample":
        assert not torch.equal(output, model.generate(ids, max_new_tokens=5, pad_token_id=0))


def test_an_unknown_strategy_or_setting_is_named():
    with pytest.raises(decoding.DecodingError, match="did you mean 'adaptive'"):
        decoding.strategy("adaptiv")
    with pytest.raises(decoding.DecodingError, match="top_p has no setting 'top_p'; did you mean 'p'|its settings"):
        decoding.arguments("top_p", top_p=0.5)
