"""A reward model on disk, and its scores as a signal."""

import json

import pytest
import torch

import tiny
from trimtab.common import fingerprint
from trimtab.core import TokenBatch
from trimtab.models.scalar_head import add_score_forward, with_scalar_head
from trimtab.objectives import reward_models
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.reward_model import (
    FILE,
    RewardModelError,
    ScoreSpec,
    TokenRewardModel,
    load_reward_model,
    score_spec_of,
)

ROWS = tiny.rows(((3, 5), (1, 1), (4, 7)))


def batch() -> TokenBatch:
    return TokenBatch.from_labels(ROWS.labels)


def logprobs(model) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits
    return TokenBatch.align(logits, ROWS.labels).logprobs()


def saved(folder, kind: str = "ratio", **reading) -> str:
    """A reward model, and where it is measured from, as folders."""
    tiny.model(seed=1).save_pretrained(folder / "start")
    if kind == "scalar":
        with_scalar_head(tiny.model(seed=2), seed=0).save_pretrained(folder / "rm")
        return str(folder / "rm")
    tiny.model(seed=2).save_pretrained(folder / "rm")
    fields = {"reference": str(folder / "start"), "reference_fingerprint": fingerprint.of_model(tiny.model(seed=1))}
    ScoreSpec(kind, "prefix_mean", 10.0, True, **{**(fields if kind == "ratio" else {}), **reading}).write(
        folder / "rm"
    )
    return str(folder / "rm")


def test_log_ratios_are_those_of_the_two_models(tmp_path):
    scores = load_reward_model(saved(tmp_path))(None, ROWS.inputs())["token_scores"]
    torch.testing.assert_close(scores, logprobs(tiny.model(seed=2)) - logprobs(tiny.model(seed=1)))
    assert not scores.requires_grad


@pytest.mark.parametrize("kind", ["logit", "logprob"])
def test_a_language_model_scores_by_its_logit_or_log_probability(tmp_path, kind):
    scores = load_reward_model(saved(tmp_path, kind))(None, ROWS.inputs())["token_scores"]
    model = tiny.model(seed=2)
    with torch.no_grad():
        logits = model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits
    torch.testing.assert_close(scores, reward_models.token_scores(TokenBatch.align(logits, ROWS.labels), kind))


def test_a_stock_token_classification_model_with_one_label_needs_no_file(tmp_path):
    model = load_reward_model(saved(tmp_path, "scalar"))
    scorer = with_scalar_head(tiny.model(seed=2), seed=0)
    add_score_forward(scorer)
    with torch.no_grad():
        wanted = scorer(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits[..., 0]
    found = model(None, ROWS.inputs())["token_scores"]
    torch.testing.assert_close(found, wanted[ROWS.labels != -100], rtol=1e-5, atol=1e-5)
    assert model.spec.source == "scalar"


def test_a_cut_down_start_is_cut_again_from_its_source(tmp_path):
    name = saved(tmp_path)
    from trimtab.models.student import keep_layers

    start = keep_layers(tiny.model(seed=1), [1])
    where = {"from": str(tmp_path / "start"), "layers": [1]}
    ScoreSpec("ratio", "sum", 1.0, True, where, fingerprint.of_model(start)).write(tmp_path / "rm")
    scores = load_reward_model(name)(None, ROWS.inputs())["token_scores"]
    torch.testing.assert_close(scores, logprobs(tiny.model(seed=2)) - logprobs(start))


def test_a_reference_with_other_weights_is_refused_and_one_that_moved_is_found(tmp_path):
    name = saved(tmp_path)
    tiny.model(seed=5).save_pretrained(tmp_path / "other")
    (tmp_path / "start").rename(tmp_path / "moved")
    with pytest.raises(RewardModelError, match="the weights differ"):
        load_reward_model(name, reference=str(tmp_path / "other"))
    assert load_reward_model(name, reference=str(tmp_path / "moved")).reference is not None


def test_a_language_model_without_the_file_is_no_reward_model(tmp_path):
    saved(tmp_path)
    with pytest.raises(RewardModelError, match=f"is not a reward model: it has no {FILE}"):
        load_reward_model(str(tmp_path / "start"))


@pytest.mark.parametrize("text", ["no json", json.dumps({"source": "ratio", "unknown": 1})])
def test_a_file_that_says_something_else_is_named(tmp_path, text):
    name = saved(tmp_path)
    (tmp_path / "rm" / FILE).write_text(text)
    with pytest.raises(RewardModelError, match=f"{FILE} does not describe how to read the model"):
        load_reward_model(name)


def test_a_ratio_needs_a_reference_and_a_head_has_none():
    reading = ScoreSpec("ratio", "sum", 1.0, True)
    with pytest.raises(RewardModelError, match="need a reference"):
        TokenRewardModel(tiny.model(), reading)
    with pytest.raises(RewardModelError, match="need no reference"):
        TokenRewardModel(
            tiny.model(), ScoreSpec("logit", "sum", 1.0, True), FrozenModel(tiny.model(), name="reference")
        )


@pytest.mark.parametrize(
    ("gathered", "wanted"),
    [
        ("last", [0.5, 1.0, -1.0]),
        ("sum", [0.5, 1.5, 0.5]),
        ("mean", [0.5, 0.75, 0.5 / 3]),
        ("prefix_mean", [0.5, 0.75, 0.5 / 3]),
    ],
)
def test_values_of_prefixes_by_hand(gathered, wanted):
    rows = tiny.rows(((1, 3),))
    model = TokenRewardModel(tiny.model(), ScoreSpec("logit", gathered, 2.0, True))
    values = model.values(TokenBatch.from_labels(rows.labels), torch.tensor([0.5, 1.0, -1.0]))
    assert values.tolist() == pytest.approx([2 * value for value in wanted])


def test_a_squashed_score_is_paid_as_it_was_trained(tmp_path):
    scorer = with_scalar_head(tiny.model(seed=2), seed=0)
    scorer.save_pretrained(tmp_path)
    ScoreSpec("scalar", "mean", 1.0, False, squash=True).write(tmp_path)
    raw = load_reward_model(str(tmp_path))(None, ROWS.inputs())["token_scores"]
    found = load_reward_model(str(tmp_path)).scores_as_trained()
    paid = found(None, ROWS.inputs())["token_scores"]
    torch.testing.assert_close(paid, raw.sigmoid())
    torch.testing.assert_close(found.values(batch(), paid), load_reward_model(str(tmp_path)).values(batch(), raw))
    first = batch().position == 0
    torch.testing.assert_close(found.values(batch(), paid)[first], raw.sigmoid()[first])


def test_a_reading_says_what_the_objective_was():
    made = score_spec_of(
        reward_models.Outcomes("ratio", "prefix_mean", reward_models.logistic, beta=10.0), method="ipvrm"
    )
    assert made == ScoreSpec("ratio", "prefix_mean", 10.0, True, method="ipvrm")
    pairs = score_spec_of(reward_models.Pairs("scalar", "mean", reward_models.bradley_terry))
    assert (pairs.beta, pairs.outcomes) == (1.0, False)
    assert score_spec_of(reward_models.StepRatings("scalar")).gathered == "last"
