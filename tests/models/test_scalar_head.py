"""A head with one score for each token: stock classes, the given layers, and the objective inside the forward."""

import pytest
import torch
from transformers import AutoModelForTokenClassification

import tiny
from trimtab.core import answer_mask
from trimtab.models.forward import UnsupportedModel
from trimtab.models.scalar_head import add_score_forward, with_scalar_head
from trimtab.signals.reward_model import HeadScore

FAMILIES = ["llama", "llama_tied", "mistral", "qwen2", "qwen3", "phi", "phi3", "smollm3", "gemma2", "gpt2"]


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_folder_loads_with_stock_classes_and_gives_the_same_scores(kind, tmp_path):
    model = tiny.model(kind)
    scorer = with_scalar_head(model, seed=3)
    scorer.save_pretrained(tmp_path)
    loaded, info = AutoModelForTokenClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    ids = torch.arange(8)[None] + 3
    with torch.no_grad():
        scores = scorer(input_ids=ids).logits
        hidden = model.base_model(input_ids=ids).last_hidden_state
        head = scorer.score if hasattr(scorer, "score") else scorer.classifier
        torch.testing.assert_close(loaded(input_ids=ids).logits, scores, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores, hidden @ head.weight.T, rtol=1e-5, atol=1e-5)  # and no bias
    assert scores.shape == (1, 8, 1)
    assert scores.std() > 0


def test_in_training_mode_nothing_is_dropped():
    scorer = with_scalar_head(tiny.model("llama"), seed=0).train()
    ids = torch.arange(8)[None] + 3
    assert torch.equal(scorer(input_ids=ids).logits, scorer(input_ids=ids).logits)


def test_the_head_is_drawn_by_the_seed_and_leaves_the_global_generator_alone():
    before = torch.random.get_rng_state()
    one, same, other = (with_scalar_head(tiny.model(), seed=seed).score.weight for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_family_without_such_a_model_is_named():
    with pytest.raises(UnsupportedModel, match="no token classification model of type cohere"):
        with_scalar_head(tiny.model("cohere"), seed=0)


def test_the_score_of_a_token_is_read_behind_it_and_the_bias_is_not_trained():
    scorer = with_scalar_head(tiny.model(), seed=0)
    add_score_forward(scorer)
    rows = tiny.rows(((3, 5), (1, 1)))
    output = scorer(
        input_ids=rows.input_ids, attention_mask=rows.attention_mask, objective_call=tiny.call(HeadScore(), rows)
    )
    plain = scorer(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits[..., 0]
    torch.testing.assert_close(output.unreduced, plain[:, 1:][answer_mask(rows.labels)].detach())
    torch.testing.assert_close(output.unreduced, plain[rows.labels != -100].detach())
    output.loss.backward()
    assert scorer.score.weight.grad is not None
    assert not scorer.score.bias.requires_grad


def test_a_classifier_with_more_labels_is_no_reward_model():
    config = tiny.model().config
    config.num_labels = 2
    with pytest.raises(UnsupportedModel, match="no linear head with one output"):
        add_score_forward(AutoModelForTokenClassification.from_config(config))
