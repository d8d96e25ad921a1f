"""Every file in decoding/ goes through one battery; a new strategy needs no line here."""

import importlib
import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tiny
from tiny_table import table
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


# ---------------------------------------------------------------- every setting acts, or is refused

CHANGED = {
    "temperature": 0.5, "top_k": 3, "top_p": 0.4, "beams": 3, "k": 3, "p": 0.3, "mass": 0.5, "cutoff": 0.2, "h": 0.2,
    "strength": 2.0, "window": 1, "eos": "linear", "least": 1, "eos_strength": 3.0, "prompt": False, "excluded": [5],
    "normalize": True, "sample": True, "epsilon": 0.1, "rule": "legacy", "vocab": "unmasked", "flat": "all",
    "flat_below": 0.9,
}  # fmt: skip
"""for each setting a value that is not its default"""
BESIDE = {
    ("adaptive", "flat"): {"flat_below": 0.9}, ("adaptive", "flat_below"): {"flat": "all"},
    ("adaptive", "vocab"): {"top_k": 3}, 
    **{("penalty", key): {"sample": True} for key in ("temperature", "top_k", "top_p")},
}  # fmt: skip
"""settings beside which it does something"""


def _effect(name, settings):
    """What a strategy makes of three steps, and its other arguments."""
    found = decoding.arguments(name, ENDS, **settings)
    processors, steps = found.pop("logits_processor", ()), []
    ids = torch.tensor([[0, 5, 6, 5], [7, 8, 9, 10]])
    for step in range(3):
        scores = torch.randn(2, 12, generator=torch.Generator().manual_seed(step)) * (0.1 if step == 2 else 2)
        for processor in processors:
            scores = processor(ids, scores)
        steps.append(scores)
        ids = torch.cat([ids, torch.tensor([[6], [11]])], dim=1)
    return found, torch.stack(steps)


def _settings(name):
    return sorted(decoding.strategy(name).options.model_fields)


@table(("name", "key"), [(name, key) for name in CHOSEN for key in _settings(name)])
def test_every_setting_acts(name, key):
    beside = BESIDE.get((name, key), {})
    alone = {} if key.startswith("flat") else beside  # those two act together or not at all
    before, after = _effect(name, alone), _effect(name, {**beside, key: CHANGED[key]})
    assert before[0] != after[0] or not torch.equal(before[1], after[1])


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("penalty", {"temperature": 0.5}, "decoding.temperature has no effect: decoding is greedy"),
        ("penalty", {"top_k": 5}, "decoding.top_k has no effect"),
        ("penalty", {"top_p": 0.5}, "decoding.top_p has no effect"),
        ("penalty", {"eos": "none", "least": 5}, "decoding.least has no effect: eos=none does not hold back the end"),
        ("penalty", {"eos": "none", "eos_strength": 2.0}, "decoding.eos_strength has no effect"),
        ("penalty", {"eos": "block", "eos_strength": 2.0}, "decoding.eos_strength has no effect: eos=block bans"),
        ("penalty", {"least": 0, "eos": "block"}, "decoding.eos has no effect: .* least is 0"),
        ("penalty", {"strength": 1.0, "window": 5}, "decoding.window has no effect: a strength of 1 penal"),
        ("penalty", {"strength": 1.0, "prompt": False}, "decoding.prompt has no effect"),
        ("penalty", {"strength": 1.0, "normalize": True}, "decoding.normalize has no effect"),
        ("penalty", {"window": 0, "excluded": [5]}, "decoding.excluded has no effect: a window of 0 holds"),
        ("penalty", {"window": 0, "least": 0, "strength": 2.0}, "decoding.strength has no effect"),
        ("adaptive", {"flat": "all"}, "decoding.flat has no effect: .* set decoding.flat_below"),
        ("adaptive", {"flat_below": 0.5}, "decoding.flat_below has no effect: flat=top1"),
    ],
)  # fmt: skip
def test_a_setting_that_does_nothing_beside_the_others_is_refused(name, settings, message):
    key = re.search(r"decoding\.(\w+)", message)[1]
    default = decoding.strategy(name).options.model_fields[key].default
    with pytest.raises(decoding.DecodingError, match=message):
        decoding.check(name, settings)
    assert decoding.check(name, {**settings, key: default})  # said as it is anyway
    module = decoding.strategy(name)
    chosen = [module.options.model_validate(one) for one in (settings, {**settings, key: default})]
    _same_effect(module, chosen)


def _same_effect(strategy, chosen):
    """What is refused would have done nothing."""
    marks = decoding.Marks((2,), 0)
    scores, ids = torch.randn(2, 12, generator=torch.Generator().manual_seed(0)), torch.tensor([[3, 5], [7, 8]])
    found = []
    for options in chosen:
        made, now = strategy.arguments(options, marks), scores
        for processor in made["logits_processor"]:
            now = processor(ids, now)
        found.append((made["do_sample"], now.log_softmax(dim=-1)))
    assert found[0][0] == found[1][0]
    torch.testing.assert_close(found[0][1], found[1][1])
