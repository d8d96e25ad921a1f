"""AD-KD as a method: its settings, and plain distillation without maps."""

import pytest
import torch
from pydantic import ValidationError

import tiny_classifier
from trimtab.methods.ad_kd import METHOD, Config, build
from trimtab.signals.classifier import FrozenClassifier, call_on_labels


def test_its_defaults_are_those_of_the_released_program():
    found = Config()
    assert (found.alpha, found.temperature, found.beta, found.steps, found.norm) == (0.8, 2.0, 1.0, 1, 2)
    assert (found.distance, found.top, found.anneal) == ("square", None, False)
    assert METHOD.loop == "classification"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beta": 0, "steps": 3}, "steps is 3 but has no effect: it is only used with a beta above 0"),
        ({"alpha": 0, "temperature": 3}, "temperature is 3.0 but has no effect: it is only used with an alpha above 0"),
    ],
)
def test_a_setting_without_effect_is_refused(options, said):
    with pytest.raises(ValidationError, match=said):
        Config(**options)


def test_without_maps_it_is_plain_distillation_and_takes_no_second_derivative():
    policy, teacher = tiny_classifier.classifier(), tiny_classifier.classifier(seed=5)
    made = build(Config(beta=0, alpha=0.6, temperature=3), policy, FrozenClassifier(teacher))
    assert made.objective.steps == 0
    inputs = tiny_classifier.inputs()
    read = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    output = call_on_labels(made, policy, inputs)
    student, target = policy(**read).logits, teacher(**read).logits
    task = torch.nn.functional.cross_entropy(student, inputs["labels"])
    soft = torch.nn.functional.cross_entropy(student / 3, (target / 3).softmax(-1))
    torch.testing.assert_close(output.loss, 0.4 * task + 0.6 * soft)
    assert "map_cosine" not in output.metrics


def test_a_student_that_is_its_teacher_has_equal_maps():
    policy = tiny_classifier.classifier(outputs=3, seed=4)
    made = build(Config(steps=3), policy, FrozenClassifier(tiny_classifier.classifier(outputs=3, seed=4)))
    output = call_on_labels(made, policy, tiny_classifier.inputs(3))
    assert output.metrics["attribution_loss"][0].item() == pytest.approx(0, abs=1e-9)
    assert output.metrics["map_cosine"][0].item() == pytest.approx(3, rel=1e-5)


def test_the_teacher_is_read_without_dropout():
    teacher = tiny_classifier.classifier(dropout=0.5).train()
    signal = FrozenClassifier(teacher)
    one, other = (signal.read(tiny_classifier.inputs(), 1).answers for _ in range(2))
    assert torch.equal(one, other)
