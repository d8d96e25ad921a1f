"""Every file in decoding/ goes through one battery; a new strategy needs no line here."""

import inspect
from pathlib import Path

import pytest

from trimtab import decoding

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.parametrize("name", decoding.names())
HANDED_OVER = ["model", "input_ids", "logits_processor", "stopping_criteria", "generation_config"]


def test_it_has_a_summary_an_equation_a_paper_and_a_test_of_its_own(name):
    page = inspect.getdoc(inspect.getmodule(decoding.load(name)))
    assert decoding.summary(name).endswith(".")
    assert page.startswith(decoding.summary(name))
    assert "\n    z = " in page
    assert "arXiv:" in page
    assert (ROOT / "tests" / "decoding" / f"test_{name}.py").is_file()


def test_generate_can_call_it_and_each_option_has_a_name_of_its_own(name):
    parameters = inspect.signature(decoding.load(name)).parameters
    assert list(parameters)[: len(HANDED_OVER)] == HANDED_OVER
    assert list(parameters.values())[-1].kind is inspect.Parameter.VAR_KEYWORD
    options = list(parameters.values())[len(HANDED_OVER) : -1]
    assert all(option.default is not inspect.Parameter.empty for option in options)
