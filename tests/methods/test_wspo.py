"""WSPO: the squared difference of two log-ratios by hand, its optimum, and where the weak ratio comes from."""

import pytest
import torch
from pydantic import ValidationError

import tiny
from trimtab.core import IGNORE, PlanError, Reference, Requirements, TokenBatch, WeakPair, reduce, weights
from trimtab.data.stored import WEAK_DELTA
from trimtab.methods.wspo import METHOD, WSPO, Config
from trimtab.models.forward import add_objective_forward
from trimtab.signals.columns import Column
from trimtab.signals.frozen import FrozenModel

LABELS = torch.tensor([[IGNORE, IGNORE, 3, 5, 2], [IGNORE, 4, IGNORE, IGNORE, IGNORE]])
STRONG = torch.tensor([0.1, -0.2, 0.6, 0.4])  # of 3 tokens and 1
WEAK = torch.tensor([0.5, 0.25, -1.0, 2.0])
ROWS = tiny.rows(((3, 5), (1, 1), (4, 7)))


def batch(strong=STRONG, weak=WEAK) -> tuple[torch.Tensor, TokenBatch]:
    """Answer tokens whose log-ratios are `strong` for the policy and `weak` for the weak pair."""
    logits = torch.randn(2, 5, 7).requires_grad_()
    tokens = TokenBatch.align(logits, LABELS)
    start = torch.randn(4)
    return logits, tokens.with_signals(
        reference=tokens.logprobs().detach() - strong, weak_aligned=start + weak, weak_reference=start
    )


def loss_of(tokens: TokenBatch, gamma: float, level: str = "token", reduction: str = "sequence_mean") -> torch.Tensor:
    objective = WSPO(gamma, level, column=False)
    return reduce(objective(tokens), weights(tokens, reduction, per=objective.per))


# --- values and gradients ---------------------------------------------------------------------------------------


def test_each_token_costs_the_square_of_gamma_times_the_strong_ratio_minus_the_weak_one():
    _, tokens = batch()
    wanted = (0.5 * STRONG - WEAK) ** 2
    torch.testing.assert_close(WSPO(0.5, "token", column=False)(tokens).values, wanted, rtol=1e-4, atol=1e-6)
    by_row = (wanted[:3].mean() + wanted[3]) / 2
    assert loss_of(tokens, 0.5).item() == pytest.approx(by_row.item(), rel=1e-5)
    assert loss_of(tokens, 0.5, reduction="token_mean").item() == pytest.approx(wanted.mean().item(), rel=1e-5)


def test_at_the_level_of_answers_the_mean_difference_is_squared():
    _, tokens = batch()
    error = 0.5 * STRONG - WEAK
    wanted = torch.stack([error[:3].mean() ** 2, error[3] ** 2])
    torch.testing.assert_close(WSPO(0.5, "sequence_mean", column=False)(tokens).values, wanted, rtol=1e-4, atol=1e-6)
    assert loss_of(tokens, 0.5, "sequence_mean").item() == pytest.approx(wanted.mean().item(), rel=1e-5)


def test_a_policy_equal_to_its_reference_costs_the_mean_squared_weak_ratio_and_has_gradient_minus_2_gamma_dw():
    logits, tokens = batch(strong=torch.zeros(4))
    loss = loss_of(tokens, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(((WEAK[:3] ** 2).mean() + WEAK[3] ** 2).item() / 2, rel=1e-5)
    weight = torch.tensor([1 / 6, 1 / 6, 1 / 6, 1 / 2])
    direction = torch.eye(7)[tokens.targets] - tokens.logits().detach().softmax(-1)
    wanted = (weight * -2 * 0.1 * WEAK)[:, None] * direction
    torch.testing.assert_close(TokenBatch.align(logits.grad, LABELS).logits(), wanted, rtol=1e-4, atol=1e-7)


def test_a_weak_pair_that_never_changed_holds_the_policy_where_it_is():
    logits, tokens = batch(strong=torch.zeros(4), weak=torch.zeros(4))
    loss = loss_of(tokens, 0.1)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert logits.grad.abs().max() < 1e-7
    _, tokens = batch(weak=torch.zeros(4))
    wanted = 0.01 * ((STRONG[:3] ** 2).mean() + STRONG[3] ** 2) / 2
    assert loss_of(tokens, 0.1).item() == pytest.approx(wanted.item(), rel=1e-4)


@pytest.mark.parametrize("level", ["token", "sequence_mean"])
@pytest.mark.parametrize("gamma", [2.0, 0.5])
def test_nothing_is_left_to_learn_where_the_strong_ratio_is_the_weak_one_over_gamma(level, gamma):
    logits, tokens = batch(strong=WEAK / gamma)
    loss = loss_of(tokens, gamma, level)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-10)
    assert logits.grad.abs().max() < 1e-5


@pytest.mark.parametrize("level", ["token", "sequence_mean"])
def test_exchanging_the_weak_models_turns_the_gradient_at_the_start_around(level):
    logits, tokens = batch(strong=torch.zeros(4))
    exchanged = tokens.with_signals(
        weak_aligned=tokens.signals["weak_reference"], weak_reference=tokens.signals["weak_aligned"]
    )
    (one,) = torch.autograd.grad(loss_of(tokens, 0.1, level), logits, retain_graph=True)
    (other,) = torch.autograd.grad(loss_of(exchanged, 0.1, level), logits)
    torch.testing.assert_close(one, -other)
    assert one.abs().max() > 1e-3


def test_with_the_reference_as_the_weak_reference_and_gamma_1_the_weak_aligned_model_is_the_optimum():
    logits = torch.randn(2, 5, 7).requires_grad_()
    tokens = TokenBatch.align(logits, LABELS)
    start = torch.randn(4)
    same = tokens.with_signals(reference=start, weak_reference=start, weak_aligned=tokens.logprobs().detach())
    assert loss_of(same, 1.0).item() == pytest.approx(0, abs=1e-10)


def test_a_constant_added_to_all_logits_of_a_token_changes_nothing():
    logits, tokens = batch()
    moved = TokenBatch.align(logits + torch.randn(2, 5, 1), LABELS)
    moved = moved.with_signals(**{name: tokens.signals[name] for name in tokens.signals if name != "policy"})
    assert loss_of(moved, 0.1).item() == pytest.approx(loss_of(tokens, 0.1).item(), rel=1e-4)


def test_the_metrics_are_both_ratios():
    _, tokens = batch()
    for level in ("token", "sequence_mean"):
        metrics = WSPO(0.1, level, column=False)(tokens).metrics
        torch.testing.assert_close(metrics["strong_ratio"][0], STRONG.sum(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(metrics["weak_ratio"][0], WEAK.sum(), rtol=1e-4, atol=1e-5)
        assert metrics["nll"][1] == 4


# --- where the weak ratio comes from ----------------------------------------------------------------------------


def step(config: Config, inputs, **models):
    """One engine step of `tiny.model("llama")` against a reference of its own weights."""
    policy = tiny.model("llama")
    add_objective_forward(policy)
    plan = METHOD.build(config, policy, reference=FrozenModel(tiny.model("llama", seed=9), name="reference"), **models)
    signals = {}
    for signal in plan.signals:
        signals |= signal(policy, inputs)
    call = tiny.call(plan.objective, ROWS, signals, reduction=plan.reduction)
    output = policy(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask, objective_call=call)
    output.loss.backward()
    return output, tiny.gradients(policy)


def weak(seed: int, name: str, vocab: int = tiny.VOCAB, **how) -> FrozenModel:
    return FrozenModel(tiny.model("llama_tied", seed=seed, vocab_size=vocab), name=name, **how)


def weak_ratio() -> torch.Tensor:
    """[B, T]: the weak log-ratio of each token, laid out like the labels."""
    table = torch.zeros(ROWS.labels.shape)
    found = [weak(s, "w", reads="answers")(None, ROWS.inputs())["w"] for s in (4, 3)]
    table[ROWS.labels != IGNORE] = found[0] - found[1]
    return table


@pytest.mark.parametrize("level", ["token", "sequence_mean"])
def test_two_live_models_and_a_stored_column_are_the_same(level):
    models = {"weak_aligned": weak(4, "weak_aligned"), "weak_reference": weak(3, "weak_reference")}
    live, live_grads = step(Config(level=level), ROWS.inputs(), **models)
    stored, stored_grads = step(Config(level=level, weak="column"), ROWS.inputs() | {WEAK_DELTA: weak_ratio()})
    torch.testing.assert_close(stored.unreduced, live.unreduced, rtol=1e-5, atol=1e-6)
    assert tiny.relative_error(stored_grads, live_grads) < 1e-5


def test_weak_models_may_have_a_vocabulary_of_another_size():
    """Only log-probabilities of the answers are exchanged, each under its own softmax."""
    models = {
        "weak_aligned": weak(4, "weak_aligned", 60, reads="answers"),
        "weak_reference": weak(3, "weak_reference", 60, reads="answers"),
    }
    output, _ = step(Config(), ROWS.inputs(), **models)
    ratio = []
    for model in models.values():
        with torch.no_grad():
            logits = model.model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits
        ratio.append(TokenBatch.align(logits, ROWS.labels).logprobs())
    total, number = output.metrics["weak_ratio"]
    assert (total / number).item() == pytest.approx((ratio[0] - ratio[1]).mean().item(), rel=1e-4, abs=1e-5)


# --- plan and settings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "reduction", "per"),
    [
        ({}, "sequence_mean", "token"),
        ({"mean": "token"}, "token_mean", "token"),
        ({"level": "sequence_mean"}, "sequence_mean", "sequence"),
    ],
)
def test_what_counts_alike(settings, reduction, per):
    models = {name: weak(3, name) for name in ("reference", "weak_aligned", "weak_reference")}
    plan = METHOD.build(Config(**settings), None, **models)
    assert plan.reduction == reduction
    assert plan.objective.per == per
    assert plan.objective.gamma == 0.1
    assert {name for signal in plan.signals for name in signal.provides} == set(models)


def test_a_column_takes_the_place_of_the_weak_models():
    config = Config(weak="column")
    plan = METHOD.build(config, None, reference=weak(3, "reference"))
    assert isinstance(plan.signals[1], Column)
    assert plan.objective.needs == {"reference", WEAK_DELTA}
    assert METHOD.requirements(config) == Requirements(columns=(WEAK_DELTA,), models=(Reference(),))
    assert METHOD.requirements(Config()) == Requirements(models=(Reference(), WeakPair()))


def test_weak_models_under_one_name_are_refused():
    with pytest.raises(PlanError, match="WSPO needs the signal weak_reference"):
        METHOD.build(
            Config(),
            None,
            reference=weak(3, "reference"),
            weak_aligned=weak(4, "weak_aligned"),
            weak_reference=weak(3, "weak_aligned"),
        )


@pytest.mark.parametrize("setting", [{"gamma": 0.0}, {"gamma": -1.0}, {"level": "row"}, {"mean": "all"}, {"weak": "x"}])
def test_settings_outside_their_range_are_refused(setting):
    with pytest.raises(ValidationError, match=next(iter(setting))):
        Config(**setting)


@pytest.mark.parametrize("level", ["token", "sequence_mean"])
def test_the_likelihood_of_the_answer_is_added_as_the_mean_over_its_tokens(level):
    _, tokens = batch()
    nll = -tokens.logprobs()
    by_row = torch.stack([nll[:3].mean(), nll[3]]).mean().item()
    objective = WSPO(0.5, level, column=False, nll_coef=0.3)
    found = reduce(objective(tokens), weights(tokens, "sequence_mean", per=objective.per))
    assert found.item() == pytest.approx(loss_of(tokens, 0.5, level).item() + 0.3 * by_row, rel=1e-5)
    made = METHOD.build(
        Config(nll_coef=0.3, level=level),
        None,
        *(FrozenModel(tiny.model(), name=n) for n in ("reference", "weak_aligned", "weak_reference")),
    )
    assert made.objective.nll_coef == 0.3
