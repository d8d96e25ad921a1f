"""Every file in evals/suites/ goes through one battery; a new suite needs no line here."""

import copy
import json
import xml.etree.ElementTree as ET
from dataclasses import asdict
from pathlib import Path

import pytest

from trimtab.evals import suites
from trimtab.evals.runner import answered, measures
from trimtab.evals.suite import SuiteError, Verdict, grouped

ROOT = Path(__file__).parents[2]
TEXTS = [
    "",
    " ",
    "A",
    "B.",
    "Answer: C",
    "(d)",
    "I think it is A or B",
    "\\boxed{A}",
    "答案：B",
    "\x00\ud7ff",
    "E" * 5000,
    "7",
]


def items_of(name):
    """Items with default settings; a suite that needs a file of the user's says so and has none here."""
    suite = suites.load(name)
    try:
        return suite, list(suite.items(suites.check(name, {})))
    except SuiteError as error:
        if f"{name}." not in str(error):  # a message that names the setting that is missing
            raise
        pytest.skip("needs a file of the user's")


@pytest.mark.parametrize("name", suites.names())
def test_it_has_a_summary_a_version_and_a_test_of_its_own(name):
    suite = suites.load(name)
    assert suites.summary(name).endswith(".")
    assert suite.version
    assert suite.prompts
    assert all(steps for steps in suite.prompts.values())
    assert (ROOT / "tests" / "evals" / f"test_{name}.py").is_file()
    for setting in suite.options.model_fields.values():
        assert not setting.is_required()
        assert setting.description


@pytest.mark.parametrize("name", suites.names())
def test_items_are_the_same_each_time_distinct_and_json(name):
    suite, items = items_of(name)
    assert items == list(suite.items(suites.check(name, {})))
    assert len({item.id for item in items}) == len(items) > 0
    keys = {tuple(item.groups) for item in items}
    assert len(keys) == 1
    for item in items:
        json.dumps(asdict(item))
        assert item.text
        if item.options and suite.accuracy:
            assert item.target
            assert set(item.target) <= set(item.options)
            assert len(set(item.options.values())) == len(item.options), item.id
    assert sum(
        len(of) for key, of in grouped([answered(suite, _row(i), i) for i in items[:50]]).items() if key == "all"
    )


def _row(item, text=""):
    return {"answers": [text], "id": item.id}


@pytest.mark.parametrize("name", suites.names())
def test_every_prompt_makes_messages_that_show_what_is_asked(name):
    suite, items = items_of(name)
    for steps in suite.prompts.values():
        for item in items[:: max(1, len(items) // 20)]:
            answers = []
            for step in steps:
                try:
                    chat = step(item, answers)
                except SuiteError:  # of a prompt that needs the model's tokenizer
                    if suite.bound is None:
                        raise
                    break
                assert chat
                assert all({"role", "content"} <= set(m) <= {"role", "content", "speaker"} for m in chat)
                assert all(m["content"].strip() for m in chat)
                assert all(m["role"] in ("system", "user", "assistant", "text") for m in chat)
                answers.append("what was said before")
            else:
                shown = chat[-1]["content"]
                assert all(text in shown for text in item.options.values()) or not suite.accuracy


@pytest.mark.parametrize("name", suites.names())
def test_a_score_is_pure_and_finds_the_right_answer_or_none(name):
    suite, items = items_of(name)
    for item in items[:: max(1, len(items) // 60)]:
        before = copy.deepcopy(item)
        for text in TEXTS:
            found = dict(suite.score(item, text))
            assert found == dict(suite.score(item, text))
            assert all(isinstance(v, Verdict) and (v.parsed is None) == (v.value is None) for v in found.values())
            if suite.accuracy:
                assert all(v.value is None or 0 <= v.value <= 1 for v in found.values())
        assert item == before
        if suite.accuracy and len(item.target) == 1 and item.options:
            first = next(iter(suite.score(item, f"Answer: {item.target[0]}").values()))
            assert first.value == 1.0
            wrong = next(letter for letter in item.options if letter not in item.target)
            assert next(iter(suite.score(item, f"Answer: {wrong}").values())).value == 0.0
        assert next(iter(suite.score(item, "").values())).value is None


@pytest.mark.parametrize("name", suites.names())
def test_probabilities_of_options_give_a_verdict(name):
    suite, items = items_of(name)
    for item in items[:20]:
        if item.options:
            p = dict.fromkeys(item.options, 0.0)
            best = item.target[0] if suite.accuracy else next(iter(p))
            found = suite.score_options(item, p | {best: 1.0})
            assert found.value is not None
            assert not suite.accuracy or found.value == 1.0


@pytest.mark.parametrize("name", suites.names())
def test_numbers_come_out_of_any_answers(name):
    suite, items = items_of(name)
    for text in ("", "A", "Answer: 4"):
        found = measures(suite, [answered(suite, _row(item, text), item) for item in items[:80]])
        assert found
        names = [(m.name, m.group) for m in found]
        assert len(set(names)) == len(names)
    assert measures(suite, []) is not None


@pytest.mark.parametrize("name", suites.names())
def test_drawings_are_svg(name):
    suite, items = items_of(name)
    if suite.draw is None:
        pytest.skip("draws nothing")
    for item in items[:: max(1, len(items) // 40)]:
        assert ET.fromstring(suite.draw(item)).tag.endswith("svg")


@pytest.mark.parametrize("name", suites.names())
def test_a_setting_that_is_not_there_is_named(name):
    with pytest.raises(SuiteError, match=f"suite {name} has no setting 'nothing_like_it'"):
        suites.check(name, {"nothing_like_it": 1})
