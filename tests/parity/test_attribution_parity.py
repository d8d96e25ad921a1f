"""Integrated gradients and maps of classifiers against captum's layer integrated gradients."""

import pytest
import torch
from torch import Tensor, nn

import tiny_classifier
from trimtab.models.classifier import embeddings_block, read_path
from trimtab.objectives.attribution import integrated_gradients, token_map, views

pytest.importorskip("captum")

STEPS = 5


def of_captum(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, view: int | None, steps: int) -> Tensor:
    """[R, S, H] with zero embeddings as the baseline and the right Riemann sum.

    captum makes a layer's baseline by running the model on other inputs, and no text has embeddings of zero: so its
    input is a factor of the embeddings, 1 for the text and 0 for the baseline, and its layer stands behind the product.
    """
    from captum.attr import LayerIntegratedGradients

    gate, factor = nn.Identity(), {}
    handle = embeddings_block(model).register_forward_hook(lambda module, args, out: gate(out * factor["is"]))  # type: ignore[arg-type]

    def forward(scale: Tensor, ids: Tensor, mask: Tensor, wanted: Tensor) -> Tensor:
        factor["is"] = scale[:, None, None]
        return views(model(input_ids=ids, attention_mask=mask).logits[None], wanted)[view or 0, 0]

    try:
        return LayerIntegratedGradients(forward, gate).attribute(
            torch.ones(len(labels), dtype=torch.float64), torch.zeros(len(labels), dtype=torch.float64),
            additional_forward_args=(inputs["input_ids"], inputs["attention_mask"], labels),
            n_steps=steps, method="riemann_right",
        )  # fmt: skip
    finally:
        handle.remove()


def in_float64(kind: str, outputs: int) -> nn.Module:
    return tiny_classifier.classifier(kind, outputs).double()


@pytest.mark.parametrize("outputs", [1, 2, 3], ids=["regression", "two classes", "three classes"])
@pytest.mark.parametrize("kind", [*tiny_classifier.KINDS, *tiny_classifier.DECODERS])
def test_attributions_are_those_of_captum(kind, outputs):
    model, inputs = in_float64(kind, outputs), tiny_classifier.inputs(outputs)
    labels = inputs["labels"].double() if outputs == 1 else inputs["labels"]
    path = read_path(model, inputs, STEPS)
    found = views(path.logits.double(), labels)
    assert len(found) == (3 if outputs == 3 else 1)
    mask = inputs["attention_mask"].bool()
    for number, view in enumerate(found):
        ours = integrated_gradients(view, path)
        theirs = of_captum(model, inputs, labels, number, STEPS)
        scale = theirs.abs().max()
        assert (ours - theirs).abs().max() < 1e-6 * scale  # logits are read in float32
        torch.testing.assert_close(token_map(ours, mask), token_map(theirs, mask), rtol=1e-5, atol=1e-6)
