"""Every file in methods/ goes through one battery; a new method needs no line here."""

import importlib
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

import tiny
from tiny_rollouts import signals_of_rollouts, written
from trimtab import methods
from trimtab.core import (
    IGNORE,
    Critic,
    Plan,
    PlanError,
    Requirements,
    RewardModel,
    TokenBatch,
    answer_mask,
    count,
    reduce,
    vocab,
    weights,
)
from trimtab.core.batch import COMPARED
from trimtab.models.forward import add_objective_forward
from trimtab.models.identity_layer import insert_identity_layer, train_only_identity_layer
from trimtab.models.scalar_head import add_score_forward, with_scalar_head
from trimtab.models.scope import freeze_others, resolve
from trimtab.runs.parse import load_recipe, parse
from trimtab.runs.recipe import RecipeError, Stages
from trimtab.runs.shipped import shipped
from trimtab.signals.auxiliary import AuxiliaryModel
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.reward_model import ScoreSpec, TokenRewardModel

ROOT = Path(__file__).parents[2]
NAMES = [name for name in methods.names() if methods.load(name).loop != "classification"]
"""those that learn from tokens; `test_classifiers.py` holds the battery of the others"""
pytestmark = pytest.mark.parametrize("name", NAMES)


def required(name: str) -> Requirements:
    method = methods.load(name)
    return method.requirements(method.config())


def pairs(name: str) -> bool:
    return required(name).rows in ("pairs", "sampled_pairs")


def twofold(name: str) -> bool:
    """Whether two neighbouring sequences belong together."""
    return pairs(name) or required(name).rows == "rationales"


def rows_for(name: str, **settings) -> tiny.Rows:
    """Three rows; of pairs two, whose chosen and rejected answers share a prompt's length; or what the policy wrote."""
    rows = tiny.rows(((3, 5), (3, 2), (1, 1), (1, 7)) if twofold(name) else ((3, 5), (1, 1), (4, 7)), **settings)
    return written(tiny.model("llama_tied"), rows) if methods.load(name).loop == "rollouts" else rows


def policy_for(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    policy = tiny.model("llama_tied").to(dtype)
    if required(name).trains == "scalar_head":
        policy = with_scalar_head(policy, seed=0)
        add_score_forward(policy)
        return policy
    if required(name).trains == "identity_layer":
        policy = insert_identity_layer(policy)
        train_only_identity_layer(policy)
    add_objective_forward(policy)
    return policy


def inputs_of(name: str, rows: tiny.Rows) -> dict:
    """With an outcome for each row, or marks of what is compared in a pair, where the method reads them."""
    inputs = rows.inputs()
    if required(name).rows == "rationales":
        return {**inputs, COMPARED: compared(rows)}
    return {**inputs, "outcome": (rows.row_id % 2).float()} if required(name).rows == "outcomes" else inputs


def compared(rows: tiny.Rows) -> torch.Tensor:
    """The last answer token of both sequences of each pair, where both have one."""
    marks = torch.full_like(rows.labels, -1.0, dtype=torch.float32)
    for row in range(0, len(marks) - 1, 2):
        ends = [(rows.labels[at] != IGNORE).nonzero()[-1:, 0] for at in (row, row + 1)]
        for side, end in enumerate(ends if all(map(len, ends)) else ()):
            marks[row + side, end] = side
    return marks


def plan(name: str, policy: torch.nn.Module, dtype: torch.dtype = torch.float32) -> Plan:
    """The method with its defaults, and tiny models for all its roles."""
    method = methods.load(name)
    roles = {role: model for model in required(name).models for role in model.provides}
    given = {}
    for i, role in enumerate(sorted(roles.keys() - {"reward_model", "critic"})):
        model = tiny.model("llama_tied", seed=11 + i).to(dtype)
        given[role] = FrozenModel(model, name=role, reads=roles[role].reads)
    if (scoring := required(name).model(RewardModel)) is not None:  # at candidates, or of the answer tokens alone
        reads = scoring.candidates is not None
        name_of = "reward_model" if reads else "token_scores"
        kind = "distribution" if reads else "answers"
        given["reward_model"] = FrozenModel(tiny.model("llama_tied", seed=21).to(dtype), name=name_of, reads=kind)
        if reads:  # what learns online
            learns, spec = tiny.model("llama_tied", seed=21).to(dtype), ScoreSpec("logprob", "mean", 1.0, outcomes=True)
            given["reward_model"].reward_model = TokenRewardModel(learns, spec)
    if required(name).model(Critic):
        given["critic"] = FrozenModel(tiny.model("llama_tied", seed=22).to(dtype), name="values", reads="answers")
    return method.build(method.config(), policy, **given)


def signals_of(
    name: str, made: Plan, policy: PreTrainedModel, rows: tiny.Rows, buffer: tiny.Rows | None = None
) -> dict:
    signals = signals_of_rollouts(made, policy, rows, buffer) if made.advantages else {}
    for signal in made.signals:
        signals |= signal(policy, inputs_of(name, rows))
    return signals


def step(
    name: str,
    rows: tiny.Rows | None = None,
    *,
    total: float | torch.Tensor | None = None,
    dtype: torch.dtype = torch.float32,
    buffer: tiny.Rows | None = None,
):
    """Loss, gradients, output and plan of one engine step from a fresh policy; `buffer`: all answers it has written."""
    rows = rows or rows_for(name)
    policy = policy_for(name, dtype)
    made = plan(name, policy, dtype)
    signals = signals_of(name, made, policy, rows, buffer)
    call = tiny.call(made.objective, rows, signals, reduction=made.reduction, total=total)
    output = policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask, objective_call=call)
    output.loss.backward()
    return output, tiny.gradients(policy), made


def plain(name: str) -> tuple[torch.Tensor, torch.Tensor, TokenBatch]:
    """Loss and gradient at ordinary logits [B, T, V], or at the scores [B, T, 1] of a scalar head."""
    rows, policy = rows_for(name), policy_for(name)
    made = plan(name, policy)
    with torch.no_grad():
        logits = policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    logits.requires_grad_()
    if required(name).trains == "scalar_head":
        scores = logits[:, 1:, 0][answer_mask(rows.labels)]
        batch = TokenBatch.from_labels(rows.labels, {"policy": scores}, row_id=rows.row_id)
    else:
        batch = TokenBatch.align(logits, rows.labels, row_id=rows.row_id)
    batch = batch.with_signals(**signals_of(name, made, policy, rows))
    loss = reduce(made.objective(batch), weights(batch, made.reduction, per=made.objective.per))
    loss.backward()
    return loss, logits.grad, batch


def test_it_has_a_paper_a_claim_an_equation_a_recipe_and_a_test_of_its_own(name):
    method = methods.load(name)
    assert method.paper
    assert method.claim.endswith(".")
    assert method.equation
    assert methods.summary(name).endswith(".")
    assert f"tiny_{name}" in shipped()
    assert list((ROOT / "tests" / "methods").glob(f"test_{name}*.py"))


def test_each_of_its_options_explains_itself_and_an_unknown_one_is_refused(name):
    config = methods.load(name).config
    assert all(field.description for field in config.model_fields.values())
    with pytest.raises(ValueError, match="Extra inputs"):
        config.model_validate({"no_such_option": 1})


def test_its_recipe_loads_and_names_a_missing_model_before_anything_is_loaded(name):
    recipe = load_recipe(f"tiny_{name}")
    assert (recipe.stages[-1] if isinstance(recipe, Stages) else recipe).method == name
    keys = [key for model in required(name).models if model.fault({}) for key in model.keys]
    for role in keys:
        tree = {
            "method": name,
            "models": dict.fromkeys(keys, "y") | {"policy": "x"},
            "data": {"train": "z"},
        }
        tree["models"][role] = None
        with pytest.raises(RecipeError, match=f"needs models.{role}"):
            parse(tree, "here", "run")


def test_it_builds_from_its_defaults_and_its_plan_provides_what_it_needs(name):
    made = plan(name, policy_for(name))
    provided = frozenset().union(
        *(signal.provides for signal in [*made.signals, *([made.advantages] if made.advantages else [])])
    )
    assert made.objective.needs <= provided
    assert (made.advantages is not None) == (methods.load(name).loop == "rollouts")
    if made.advantages:
        with pytest.raises(PlanError, match="needs the signal"):
            Plan(made.objective, made.signals, reduction=made.reduction)
        if made.advantages.needs - {"old", "normaliser"}:
            with pytest.raises(PlanError, match="which no rollout signal of the plan provides"):
                Plan(made.objective, made.signals, reduction=made.reduction, advantages=made.advantages)
    for signal in made.signals:
        if signal.provides & made.objective.needs:
            with pytest.raises(PlanError, match="needs the signal"):
                Plan(made.objective, [s for s in made.signals if s is not signal])


def test_with_a_scope_its_gradient_reaches_the_scope_and_nothing_else(name):
    policy, rows = policy_for(name), rows_for(name)
    if required(name).trains == "identity_layer":
        return  # a scope is refused beside it, see `runs.scope_key`
    scope = resolve(policy, {"mlp": [1, 1], "parts": ["down_proj"]})
    freeze_others(policy, scope)
    made = plan(name, policy)
    signals = signals_of(name, made, policy, rows)
    call = tiny.call(made.objective, rows, signals, reduction=made.reduction)
    policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask, objective_call=call).loss.backward()
    grads = tiny.gradients(policy)
    assert set(grads) == set(scope.names)
    whole = step(name, rows)[1]
    torch.testing.assert_close(grads, {one: whole[one] for one in grads}, rtol=1e-4, atol=1e-6)


def test_its_loss_and_metrics_are_finite_and_detached_and_the_gradient_reaches_the_policy_alone(name):
    output, grads, made = step(name)
    assert torch.isfinite(output.loss)
    assert grads
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    trained = [grad for key, grad in grads.items() if "layers" in key]
    if (
        required(name).trains == "identity_layer"
    ):  # what stands before an output projection of zeros has no gradient yet
        assert any(grad.abs().sum() > 0 for grad in trained)
        assert all("layers.0." in key for key in grads)
    else:
        assert all(grad.abs().sum() > 0 for grad in trained)
    read = [one for one in (*made.signals, *made.rollout_signals) if not isinstance(one, AuxiliaryModel)]
    frozen = [model for signal in read for model in signal.models]
    assert not any(p.requires_grad or p.grad is not None for model in frozen for p in model.parameters())
    for key, (total, number) in output.metrics.items():
        assert torch.isfinite(total), key
        assert not total.requires_grad, key
        assert number > 0, key


def test_it_logs_the_negative_log_likelihood(name):
    if required(name).trains == "scalar_head":
        assert "nll" not in step(name)[0].metrics
        return
    rows = rows_for(name)
    output, _, _ = step(name)
    total, number = output.metrics["nll"]
    if pairs(name):
        rows = rows.pick([0, 2])  # of the chosen answers
    with torch.no_grad():
        logits = tiny.model("llama_tied")(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    expected = -TokenBatch.align(logits, rows.labels).logprobs()
    assert number == len(expected) == (6 if pairs(name) else 15 if twofold(name) else 13)
    assert (total / number).item() == pytest.approx(expected.mean().item(), rel=1e-5)


def test_prompt_padding_and_last_positions_get_no_gradient_on_plain_logits(name):
    _, grad, _ = plain(name)
    labels = rows_for(name).labels
    counts = torch.zeros_like(labels, dtype=torch.bool)
    if required(name).trains == "scalar_head":  # a score is read behind its token
        counts = labels != IGNORE
    else:
        counts[:, :-1] = labels[:, 1:] != IGNORE
    assert (grad[~counts] == 0).all()
    assert (grad[counts].abs().sum(dim=-1) > 0).any()


def test_the_engine_and_plain_logits_agree(name):
    loss, _, batch = plain(name)
    output, _, made = step(name)
    assert output.loss.item() == pytest.approx(loss.item(), rel=1e-5, abs=1e-6)
    torch.testing.assert_close(output.unreduced, made.objective(batch).values.detach().float(), rtol=1e-4, atol=1e-5)


def test_padding_changes_nothing(name):
    wide = rows_for(name, width=20)
    (narrow, grads, _), (padded, padded_grads, _) = step(name), step(name, wide)
    assert padded.loss.item() == pytest.approx(narrow.loss.item(), rel=1e-5, abs=1e-6)
    assert tiny.relative_error(padded_grads, grads) < 1e-5


def test_grouping_of_rows_and_accumulation_change_nothing(name):
    whole, grads, made = step(name)
    rows = rows_for(name)
    total = 13 if made.reduction == "token_mean" else len(rows.row_id)
    if made.reduction == "preference_mean":
        total = torch.tensor([4, 6])
    if made.reduction == "pair_mean":
        total = count(rows.labels, made.reduction, compared(rows))
    groups = ([0, 1], [2, 3]) if twofold(name) else ([0, 2], [1])
    parts = [step(name, rows.pick(group), total=total, buffer=rows) for group in groups]
    assert sum(p[0].loss.item() for p in parts) == pytest.approx(whole.loss.item(), rel=1e-5, abs=1e-6)
    summed = {key: parts[0][1][key] + parts[1][1][key] for key in grads}
    assert tiny.relative_error(summed, grads) < 1e-5


def test_the_size_of_the_engines_chunks_changes_nothing(name, monkeypatch):
    whole, grads, _ = step(name)
    monkeypatch.setattr(vocab, "SLICE_BYTES", 1)
    monkeypatch.setattr(vocab, "BLOCK_TOKENS", 3)
    small, small_grads, _ = step(name)
    torch.testing.assert_close(small.unreduced, whole.unreduced, rtol=1e-5, atol=1e-6)
    assert tiny.relative_error(small_grads, grads) < 1e-5


def test_it_runs_in_bfloat16(name):
    exact, _, _ = step(name)
    output, grads, _ = step(name, dtype=torch.bfloat16)
    assert output.loss.dtype == torch.float32
    assert all(torch.isfinite(grad).all() for grad in grads.values())
    assert output.loss.item() == pytest.approx(exact.loss.item(), rel=0.2, abs=0.2)


def test_an_empty_answer_is_a_finite_zero_without_gradient(name):
    if required(name).rows == "pairs":
        with pytest.raises(ValueError, match="neither of them empty"):
            step(name, tiny.rows(((3, 0), (2, 4))))
        return
    output, grads, _ = step(name, tiny.rows(((3, 0), (2, 0))))
    assert output.loss.item() == 0
    assert all((grad == 0).all() for grad in grads.values())


def test_an_empty_answer_among_others_changes_nothing_under_the_token_mean(name):
    if pairs(name):
        return  # refused, see above
    with_empty = tiny.rows(((3, 5), (1, 1), (4, 7), (2, 0)))
    if twofold(name):
        with_empty = tiny.rows(((3, 5), (3, 2), (1, 1), (1, 7), (2, 0), (2, 0)))
    if methods.load(name).loop == "rollouts":
        with_empty = written(tiny.model("llama_tied"), with_empty)
    (one, grads, made), (other, other_grads, _) = step(name), step(name, with_empty)
    assert made.reduction in ("token_mean", "sequence_mean", "pair_mean")
    assert other.loss.item() == pytest.approx(one.loss.item(), rel=1e-5, abs=1e-6)
    assert tiny.relative_error(other_grads, grads) < 1e-5


def test_its_module_exports_one_method_and_imports_no_other(name):
    module = importlib.import_module(f"trimtab.methods.{name}")
    assert isinstance(module.METHOD, type(methods.load("sft")))
    text = (ROOT / "src" / "trimtab" / "methods" / f"{name}.py").read_text()
    assert not any(f"methods.{other}" in text for other in NAMES)
