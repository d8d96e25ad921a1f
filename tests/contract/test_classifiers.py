"""Every method that trains classifiers goes through one battery; a new one needs no line here."""

import importlib
from pathlib import Path

import pytest
import torch

import tiny_classifier
from method_bench import allowed, alternatives
from trimtab import methods
from trimtab.core import Plan, PlanError, Teacher
from trimtab.models.classifier import twice_differentiable
from trimtab.runs.parse import load_recipe, parse
from trimtab.runs.recipe import RecipeError, Stages
from trimtab.runs.shipped import shipped
from trimtab.signals.classifier import FrozenClassifier, call_on_labels

ROOT = Path(__file__).parents[2]
NAMES = [name for name in methods.names() if methods.load(name).loop == "classification"]
every_method = pytest.mark.parametrize("name", NAMES)
every_task = pytest.mark.parametrize("outputs", [1, 2, 3])
SETTINGS = {
    f"{name} {options}": (name, options)
    for name in NAMES
    for options in [
        {},
        *(
            {key: one}
            for key in methods.load(name).config.model_fields
            for one in alternatives(methods.load(name).config, key)[:2]
        ),
    ]
    if allowed(methods.load(name).config, **options) is not None
}
every_setting = pytest.mark.parametrize(("name", "options"), SETTINGS.values(), ids=SETTINGS.keys())


def plan(name: str, outputs: int, options: dict | None = None, dtype: torch.dtype = torch.float32) -> Plan:
    method = methods.load(name)
    config = method.config.model_validate(options or {})
    teacher = {}
    if method.requirements(config).model(Teacher):
        teacher["teacher"] = FrozenClassifier(tiny_classifier.classifier(outputs=outputs, seed=9, layers=3).to(dtype))
    return method.build(config, None, **teacher)


def step(name, outputs, batch=None, *, rows=None, tokens=None, options=None, dtype=torch.float32, change=None, epoch=0):
    """Loss, gradients by name, and output of a step from a fresh policy."""
    policy = twice_differentiable(tiny_classifier.classifier(outputs=outputs)).to(dtype)
    if change:
        change(policy)
    batch = tiny_classifier.inputs(outputs) if batch is None else batch
    output = call_on_labels(
        plan(name, outputs, options, dtype), policy, batch, rows, tokens_per_row=tokens, epoch=epoch, epochs=3
    )
    output.loss.backward()
    return output, {key: p.grad for key, p in policy.named_parameters() if p.grad is not None}


def assert_close(found: dict, wanted: dict) -> None:
    """The whole gradients are equal to 1e-5 of their length."""
    assert found.keys() == wanted.keys()
    apart = sum((found[key] - wanted[key]).square().sum() for key in wanted)
    assert apart <= 1e-10 * sum(one.square().sum() for one in wanted.values())


@every_method
def test_it_has_a_paper_a_claim_an_equation_a_recipe_and_a_test_of_its_own(name):
    method = methods.load(name)
    assert all((method.paper, method.claim.endswith("."), method.equation, methods.summary(name).endswith(".")))
    assert f"tiny_{name}" in shipped()
    assert list((ROOT / "tests" / "methods").glob(f"test_{name}*.py"))
    assert all(field.description for field in method.config.model_fields.values())
    with pytest.raises(ValueError, match="Extra inputs"):
        method.config.model_validate({"no_such_option": 1})
    module = importlib.import_module(f"trimtab.methods.{name}")
    assert isinstance(module.METHOD, type(method))


@every_method
def test_its_recipe_loads_and_names_a_missing_model(name):
    recipe = load_recipe(f"tiny_{name}")
    assert (recipe.stages[-1] if isinstance(recipe, Stages) else recipe).method == name
    required = methods.load(name).requirements(methods.load(name).config())
    for role in [key for model in required.models for key in model.keys]:
        with pytest.raises(RecipeError, match=f"needs models.{role}"):
            parse({"method": name, "models": {"policy": "x"}, "data": {"train": "z"}}, "here", "run")


@every_task
@every_method
def test_its_plan_provides_what_it_needs_and_the_gradient_reaches_the_policy_alone(name, outputs):
    made = plan(name, outputs)
    if made.signals:
        with pytest.raises(PlanError, match="needs the signal"):
            Plan(made.objective, reduction=made.reduction)
    output, grads = step(name, outputs)
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(one).all() for one in grads.values())
    assert all(one.abs().sum() > 0 for key, one in grads.items() if "layer" in key and "key.bias" not in key)
    assert not any(
        p.requires_grad or p.grad is not None for signal in made.signals for m in signal.models for p in m.parameters()
    )
    for key, (total, number) in output.metrics.items():
        assert torch.isfinite(total), key
        assert not total.requires_grad, key
        assert number >= 3, key


@every_task
@every_method
def test_padding_changes_nothing(name, outputs):
    (narrow, grads), (wide, wide_grads) = (
        step(name, outputs, tiny_classifier.inputs(outputs, width)) for width in (7, 12)
    )
    assert wide.loss.item() == pytest.approx(narrow.loss.item(), rel=1e-5)
    assert_close(wide_grads, grads)


@every_task
@every_method
def test_grouping_of_rows_and_accumulation_change_nothing(name, outputs):
    whole, grads = step(name, outputs)
    batch = tiny_classifier.inputs(outputs)
    tokens = batch["attention_mask"].sum() / 3
    parts = [step(name, outputs, tiny_classifier.pick(batch, rows), rows=3, tokens=tokens) for rows in ([0, 2], [1])]
    assert sum(output.loss.item() for output, _ in parts) == pytest.approx(whole.loss.item(), rel=1e-5)
    assert_close({key: parts[0][1][key] + parts[1][1][key] for key in grads}, grads)
    for key, (total, number) in whole.metrics.items():
        assert sum(one.metrics[key][0].item() for one, _ in parts) == pytest.approx(total.item(), rel=1e-4, abs=1e-6)
        assert sum(one.metrics[key][1].item() for one, _ in parts) == number


@every_task
@every_method
def test_it_runs_in_bfloat16(name, outputs):
    exact, _ = step(name, outputs)
    output, grads = step(name, outputs, dtype=torch.bfloat16)
    assert output.loss.dtype == torch.float32
    assert all(torch.isfinite(one).all() for one in grads.values())
    assert output.loss.item() == pytest.approx(exact.loss.item(), rel=0.2, abs=0.2)


@every_task
@every_method
def test_gradient_checkpointing_changes_nothing(name, outputs):
    def checkpointed(policy):
        policy.train().activation_checkpointing_enable({"use_reentrant": False})

    (plain, grads), (again, again_grads) = step(name, outputs), step(name, outputs, change=checkpointed)
    assert again.loss.item() == pytest.approx(plain.loss.item(), rel=1e-5)
    assert_close(again_grads, grads)


@every_setting
def test_an_option_that_is_changed_changes_what_is_learnt(name, options):
    """Under settings where it matters; `task` decides how rows are read."""
    if set(options) <= {"task"}:
        return
    base = {"steps": 2} if "steps" not in options else {}
    base |= {"temperature": 2.5} if "temperature" not in options else {}
    (_, grads), (_, other_grads) = (
        (step(name, 3, options={**base, **given}, epoch=1) for given in ({}, options))
        if options.get("beta") != 0
        else (step(name, 3, epoch=1), step(name, 3, options=options, epoch=1))
    )
    assert any(not torch.allclose(grads[key], other_grads[key], rtol=1e-5, atol=1e-9) for key in grads)


@every_task
@every_method
def test_answers_that_are_certain_give_finite_values_and_gradients(name, outputs):
    def certain(policy):
        with torch.no_grad():
            policy.classifier.weight *= 1e4

    output, grads = step(name, outputs, change=certain)
    assert torch.isfinite(output.loss)
    assert all(torch.isfinite(one).all() for one in grads.values())
