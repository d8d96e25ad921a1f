"""A method's objective in a loop of one's own, without a trainer, a model or a stand-in for one."""

import pytest
import torch

import tiny
from trimtab import methods
from trimtab.core import TokenBatch, reduce, weights
from trimtab.methods import plan_of
from trimtab.objectives.divergence import reverse_kl

ROWS = tiny.rows()
V = tiny.VOCAB


def logits(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*ROWS.labels.shape, V, generator=generator)


def test_the_loss_is_that_of_the_equation():
    plan = plan_of("kd", divergence="reverse_kl")
    batch = TokenBatch.align(logits(0).requires_grad_(), ROWS.labels, {"teacher": logits(1)})
    loss = reduce(plan.objective(batch), weights(batch, plan.reduction))
    own = TokenBatch.align(logits(0), ROWS.labels, {"teacher": logits(1)})
    wanted = reverse_kl(own.log_softmax(), own.log_softmax(of="teacher")).mean()
    torch.testing.assert_close(loss, wanted)


@pytest.mark.parametrize("name", methods.names())
def test_every_method_that_reads_no_running_model_gives_one(name):
    if name in ("distrl", "ppo"):
        with pytest.raises(ValueError, match=f"method {name} with these options runs (a reward model|a critic)"):
            plan_of(name)
        return
    if name == "ad_kd_language":
        with pytest.raises(ValueError, match=f"method {name} with these options reads inside both models"):
            plan_of(name)
        assert plan_of(name, beta=0).auxiliary is None
        return
    plan = plan_of(name, policy=tiny.model("llama_tied"))
    assert callable(plan.objective)
    assert set(plan.objective.needs) <= {
        "teacher",
        "reference",
        "snapshot",
        "weak_delta",
        *_given(plan),
        "outcome",
    }


def _given(plan) -> set[str]:
    return (
        set(plan.advantages.provides) if plan.advantages else {*(name for one in plan.signals for name in one.provides)}
    )


def test_options_are_checked():
    with pytest.raises(ValueError, match="method kd has no setting 'temprature'; did you mean 'temperature'"):
        plan_of("kd", temprature=2.0)
    with pytest.raises(ValueError, match="did you mean 'kd'"):
        plan_of("kdd")
