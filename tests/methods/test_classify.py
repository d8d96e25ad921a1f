"""Fine-tuning a classifier is transformers' own loss."""

import pytest
import torch

import tiny_classifier
from trimtab.methods.classify import METHOD, Config, build
from trimtab.signals.classifier import call_on_labels


@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_its_loss_and_gradient_are_those_of_the_model_itself(outputs):
    assert METHOD.loop == "classification"
    policy, inputs = tiny_classifier.classifier(outputs=outputs), tiny_classifier.inputs(outputs)
    own = policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], labels=inputs["labels"]).loss
    output = call_on_labels(build(Config(), policy), policy, inputs)
    torch.testing.assert_close(output.loss, own)
    weight = policy.classifier.weight
    ours, theirs = (torch.autograd.grad(one, weight, retain_graph=True)[0] for one in (output.loss, own))
    torch.testing.assert_close(ours, theirs)
