"""Suites under inspect_ai: the items, verdicts and numbers of our own runner, and a log that opens."""

import pytest

pytest.importorskip("inspect_ai")

from inspect_ai import eval as inspect_eval
from inspect_ai.log import read_eval_log
from inspect_ai.model import GenerateConfig, get_model

import tiny_folder
from trimtab.evals import harness, suites
from trimtab.evals.models import HFModel
from trimtab.evals.runner import EvalSpec, ask, measures
from trimtab.evals.suite import SuiteError
from trimtab.models.loading import load_model, load_tokenizer

SUITE, LIMIT = "socialbench", 7


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_folder.save(tmp_path_factory.mktemp("model") / "tiny", max_position_embeddings=4096)


@pytest.fixture(scope="module")
def log(folder, tmp_path_factory):
    logs = tmp_path_factory.mktemp("logs")
    (found,) = inspect_eval(
        harness.suite_task(SUITE, limit=LIMIT, max_new_tokens=6),
        model=get_model(f"trimtab/{folder}", batch=4, memoize=False),
        log_dir=str(logs),
        display="none",
    )
    return read_eval_log(found.location)


def test_every_suite_is_a_task_of_its_name():
    for name in suites.names():
        assert getattr(harness, name).__name__ == name


@pytest.mark.slow
def test_answers_are_those_of_our_own_runner(log, folder):
    assert log.status == "success", log.error
    suite = suites.load(SUITE)
    items = list(suite.items(suites.check(SUITE, {})))[:LIMIT]
    local = HFModel(load_model(folder), load_tokenizer(folder), batch=4)
    found = ask(EvalSpec(suite, items, next(iter(suite.prompts)), max_new_tokens=6), local)
    theirs = {sample.id: sample.output.completion for sample in log.samples}
    assert theirs == {one.item.id: one.answers[-1] for one in found}
    ours = {f"{m.name}, {m.group}": m.value.estimate for m in measures(suite, found)}
    metrics = log.results.scores[0].metrics
    for name, value in ours.items():
        if value == value:
            assert metrics[name].value == pytest.approx(value), name
    assert metrics["mean"].value == pytest.approx(ours["robust strict, all"])


@pytest.mark.slow
def test_the_log_says_what_was_asked(log):
    assert log.eval.task_version == suites.load(SUITE).version
    sample = log.samples[0]
    assert (
        sample.messages[0].text
        == suites.load(SUITE).prompts["zero_shot"][0](harness._item(sample.metadata), ())[0]["content"]
    )


def test_a_decoding_strategy_and_its_settings_reach_the_model(folder):
    model = get_model(f"trimtab/{folder}", decoding="penalty", strength=1.5, memoize=False)
    answerer = model.api._model
    assert (answerer.strategy, answerer.options) == ("penalty", {"strength": 1.5})
    with pytest.raises(ValueError, match="no setting 'nothing'"):
        get_model(f"trimtab/{folder}", decoding="penalty", nothing=1, memoize=False)


def test_sampling_that_would_be_ignored_is_refused(folder):
    import anyio

    for given in ({}, {"decoding": "top_k"}):
        model = get_model(f"trimtab/{folder}", memoize=False, **given)
        with pytest.raises(SuiteError, match="-M decoding=NAME"):
            anyio.run(lambda: model.api.generate([], [], "none", GenerateConfig(temperature=0.7)))  # noqa: B023


def test_a_model_in_memory_answers_as_it_is_now(folder):
    live = load_model(folder), load_tokenizer(folder)
    model = get_model("trimtab/live", live=live, memoize=False)
    assert model.api._model.model is live[0]


def test_an_unknown_prompt_is_named():
    with pytest.raises(SuiteError, match="there is no prompt 'x'"):
        harness.suite_task(SUITE, prompt="x")


def test_edits_are_asked_and_counted_as_by_our_own_runner(folder, tmp_path):
    settings = {"file": "trimtab:facts/train?rows=2", "general": 1}
    (found,) = inspect_eval(
        harness.suite_task("edit", max_new_tokens=4, **settings),
        model=get_model(f"trimtab/{folder}", batch=32, memoize=False),
        log_dir=str(tmp_path),
        display="none",
    )
    assert found.status == "success", found.error
    suite = suites.load("edit")
    items = list(suite.items(suites.check("edit", settings)))
    spec = EvalSpec(suite, items, "edit", max_new_tokens=4)
    ours = measures(suite, ask(spec, HFModel(load_model(folder), load_tokenizer(folder), batch=32)))
    metrics = found.results.scores[0].metrics
    assert ours
    for one in ours:
        assert metrics[f"{one.name}, {one.group}"].value == pytest.approx(one.value.estimate), one.name


def test_a_text_to_go_on_with_is_not_asked_as_a_chat():
    with pytest.raises(SuiteError, match="inspect asks by chats"):
        harness.suite_task("edit", modes=["question"])
