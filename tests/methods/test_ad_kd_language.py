"""AD-KD of models that generate: settings, what it is without maps, and runs from the command line's recipe on."""

import json

import pytest
import torch
from pydantic import ValidationError

import tiny
import tiny_folder
from trimtab.core import Plan, PlanError
from trimtab.methods.ad_kd_language import METHOD, Config, build
from trimtab.methods.kd import Config as KDConfig
from trimtab.methods.kd import build as build_kd
from trimtab.models.classifier import twice_differentiable
from trimtab.models.forward import UnsupportedModel, add_objective_forward, input_embeddings
from trimtab.models.second_derivative import differentiable_twice
from trimtab.runs.parse import parse
from trimtab.runs.recipe import RecipeError
from trimtab.runs.run import run
from trimtab.signals.base import Given, call_plan
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.row_store import RowStore

ROWS = tiny.rows(((3, 5), (1, 1), (4, 7)))


def policy(seed: int = 0):
    made = tiny.model("llama_tied", seed=seed)
    add_objective_forward(twice_differentiable(made))
    return made


def update(plan: Plan, rows: tiny.Rows = ROWS, **how):
    """Output and gradient of a step from a fresh policy."""
    made = policy()
    output = call_plan(plan, made, rows.inputs(), **how)
    output.loss.backward()
    return output, tiny.gradients(made)


def plan_of(seed: int = 5, **options) -> Plan:
    return build(Config(**options), policy(), FrozenModel(policy(seed)))


def test_its_defaults_are_those_of_ad_kd():
    found = Config()
    assert (found.alpha, found.temperature, found.beta, found.norm, found.distance) == (0.8, 2.0, 1.0, 2, "square")
    assert (found.top, found.positions, found.candidates, found.divergence) == (None, None, 1, "forward_kl")
    assert METHOD.loop == "supervised"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"beta": 0, "norm": 1}, "norm is 1 but has no effect: it is only used with a beta above 0"),
        ({"candidates": 2}, "candidates is 2 but has no effect: it is only used with positions"),
        (
            {"alpha": 0, "divergence": "jsd"},
            "divergence is jsd but has no effect: it is only used with an alpha above 0",
        ),
        ({"positions": 2, "candidates": 3}, "positions x candidates is 6, and each of these views costs"),
        ({"positions": 0}, "greater than or equal to 1"),
        ({"positions": 5}, "less than or equal to 4"),
    ],
)
def test_a_setting_without_effect_or_of_too_many_views_is_refused(options, said):
    with pytest.raises(ValidationError, match=said):
        Config(**options)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd", "akl", "todi", "abkl", "skewed_forward_kl"])
def test_without_maps_it_is_kd(divergence):
    ours = plan_of(beta=0, alpha=0.6, temperature=3, divergence=divergence)
    options = KDConfig(cross_entropy=0.4, temperature=3, divergence=divergence)
    kd = build_kd(options, policy(), FrozenModel(policy(5)))
    assert ours.auxiliary is None
    (found, gradients), (wanted, others) = update(ours), update(kd)
    assert found.loss.item() == pytest.approx(wanted.loss.item(), rel=1e-6)
    assert tiny.relative_error(gradients, others) < 1e-6
    assert "map_cosine" not in found.metrics


def test_the_loss_is_that_of_kd_and_beta_times_that_of_the_maps():
    plain, maps = (update(plan_of(alpha=0.6, beta=beta))[0] for beta in (0, 7.0))
    total, number = maps.metrics["attribution_loss"]
    assert number == 3 + 1 + 4
    assert maps.loss.item() == pytest.approx(plain.loss.item() + 7 * (total / number).item(), rel=1e-6)
    assert maps.metrics["map_cosine"][1] == 3
    assert -1 <= (maps.metrics["map_cosine"][0] / 3).item() <= 1


def test_a_student_that_is_its_teacher_has_equal_maps():
    output, _ = update(plan_of(seed=0, positions=2))
    assert output.metrics["attribution_loss"][0].item() == pytest.approx(0, abs=1e-9)
    cosines, number = output.metrics["map_cosine"]
    assert number == 3 + 2  # the row of one answer token has one view
    assert cosines.item() == pytest.approx(5, rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"positions": 2, "candidates": 2}])
def test_micro_batches_of_an_update_add_up_to_it(options):
    plan = plan_of(beta=20.0, **options)
    whole, gradients = update(plan)
    parts = [update(plan, ROWS.pick(some), total=13.0, auxiliary_total=8.0) for some in ([0, 2], [1])]
    assert sum(part[0].loss.item() for part in parts) == pytest.approx(whole.loss.item(), rel=1e-5)
    summed = {name: parts[0][1][name] + parts[1][1][name] for name in gradients}
    assert tiny.relative_error(summed, gradients) < 1e-5


def test_gradient_checkpointing_changes_nothing():
    plan = plan_of(beta=20.0)
    whole, gradients = update(plan)
    made = policy().train()
    made.gradient_checkpointing_enable({"use_reentrant": False})
    output = call_plan(plan, made, ROWS.inputs())
    output.loss.backward()
    assert output.loss.item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert tiny.relative_error(tiny.gradients(made), gradients) < 1e-5


@pytest.mark.parametrize("teacher", [Given("teacher"), "kept", "answers"])
def test_a_teacher_that_cannot_be_looked_into_is_refused(teacher):
    if teacher == "kept":
        teacher = FrozenModel(policy(5), store=RowStore())
    if teacher == "answers":
        teacher = FrozenModel(policy(5), reads="answers")
    with pytest.raises(PlanError, match="made inside the teacher, with each batch"):
        build(Config(), policy(), teacher)


class Once(torch.autograd.Function):
    """tanh whose backward says that it has no derivative."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x.tanh()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return grad * (1 - ctx.saved_tensors[0].tanh().square())


class Silent(torch.autograd.Function):
    """tanh whose backward has the derivative of a constant."""

    @staticmethod
    def forward(ctx, x):
        ctx.slope = 1 - x.tanh().square()
        return x.tanh()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.slope.detach() if not grad.requires_grad else grad.detach() * ctx.slope + 0 * grad


def fused(x):
    return torch.nn.functional.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]


@pytest.mark.parametrize(
    ("part", "said"),
    [
        (Once.apply, "its second derivative, which attribution maps need, is wrong: a part of it is taken as constant"),
        (Silent.apply, "a part of it is taken as constant"),
        (fused, "has no second derivative, which attribution maps need: derivative for"),
    ],
)
def test_a_model_without_a_second_derivative_is_refused_with_the_reason(part, said):
    made = policy()
    differentiable_twice(made)
    made.model.layers[0].mlp.act_fn = type("Part", (torch.nn.Module,), {"forward": lambda self, x: part(x)})()
    with pytest.raises(UnsupportedModel, match=said):
        differentiable_twice(made)


def test_a_model_that_does_not_look_its_tokens_up_once_is_refused():
    made = policy()
    with pytest.raises(UnsupportedModel, match="does not look its tokens up"), input_embeddings(made):
        pass


# ---------------------------------------------------------------- runs


def files(folder, **changes):
    tiny_folder.save(folder / "teacher")
    tiny_folder.write_jsonl(folder / "train.jsonl", tiny_folder.chat_rows(12))
    tiny_folder.write_jsonl(folder / "heldout.jsonl", tiny_folder.chat_rows(4, 40))
    tree = tiny_folder.recipe(folder, "ad_kd_language")
    tree["training"] = {"per_device_train_batch_size": 4, "max_steps": 3, "learning_rate": 1e-3, "bf16": False}
    tree["training"] |= {"logging_steps": 1, "gradient_checkpointing": False}
    tree["output"] = str(folder / "run")
    for key, value in changes.items():
        tree[key] = {**tree.get(key, {}), **value} if isinstance(value, dict) else value
    return parse(tree, "test", str(folder / "run"))


def lines(folder, name):
    return [json.loads(line) for line in (folder / "run" / name).read_text().splitlines()]


def test_a_run_logs_both_losses_and_shows_maps_of_held_out_prompts(tmp_path):
    report = run(files(tmp_path, options={"beta": 5.0})).report
    logged = lines(tmp_path, "metrics.jsonl")
    steps = [line for line in logged if "attribution_loss" in line and line.get("event") != "eval"]
    assert {"map_cosine", "divergence", "nll"} <= steps[0].keys()
    held = [line for line in logged if line.get("event") == "eval"]
    assert {"map_cosine", "attribution_loss", "forward_kl"} <= held[-1].keys()
    drawn = [line for line in lines(tmp_path, "samples.jsonl") if line["kind"] == "attribution"]
    assert {line["row_id"] for line in drawn} == {0, 1, 2, 3}
    # what the user says, without the marks of the template
    assert "".join(drawn[-1]["tokens"]).replace("Ġ", " ") in {f"count {i}" for i in range(40, 44)}
    for side in ("student", "teacher"):
        assert sum(share**2 for share in drawn[-1][side]) == pytest.approx(1, rel=1e-4)
    text = report.read_text()
    assert "Attribution maps" in text
    assert "cosine of the attribution maps" in text.lower()
    assert "attribution loss" in text.lower()


def test_with_an_adapter_and_drawn_views_the_student_moves_towards_its_teachers_maps(tmp_path):
    how = {"per_device_train_batch_size": 4, "max_steps": 12, "learning_rate": 5e-3}
    recipe = files(
        tmp_path, options={"beta": 50.0, "alpha": 1.0, "positions": 1, "candidates": 2}, training=how,
        models={"lora": {"r": 4, "target_modules": "all-linear"}}, eval={"every": 12},
    )  # fmt: skip
    run(recipe)
    held = [line for line in lines(tmp_path, "metrics.jsonl") if line.get("event") == "eval"]
    assert held[-1]["map_cosine"] > held[0]["map_cosine"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"models": {"teacher_cache": "memory"}}, "models.teacher_cache: the teacher's maps are made with each batch"),
        ({"models": {"teacher_device": "cpu"}}, "models.teacher_device: the teacher's maps are made beside"),
        ({"models": {"teacher": "self:initial", "student": "x"}}, "cannot be taught by itself"),
        (
            {"models": {"teacher": {"a": "x", "b": "y"}, "teacher_weights": {"a": 1, "b": 1}, "student": "x"}},
            "reads inside its teacher, and takes one",
        ),
        ({"training": {"packing": True, "max_length": 64}}, "training.packing: the maps of rows in one pack"),
        ({"training": {"torch_compile": True}}, "a compiled model has no second derivative"),
        (
            {"training": {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": True}}},
            "use_reentrant has no second derivative",
        ),
    ],
)
def test_what_cannot_work_is_refused_by_name(tmp_path, changes, said):
    with pytest.raises(RecipeError, match=said):
        files(tmp_path, **changes)
    assert not (tmp_path / "run").exists()


def test_rows_without_prompts_are_refused(tmp_path):
    recipe = files(tmp_path)
    tiny_folder.write_jsonl(tmp_path / "train.jsonl", [{"text": f"count {i}"} for i in range(12)])
    with pytest.raises(ValueError, match="no row has a prompt whose tokens an answer can be attributed to"):
        run(recipe)
    assert not (tmp_path / "run").exists()
