"""A ratio is 1 where both sides are the same weights: dropout is off, and what else may keep it from that is told."""

import pytest
import torch
from datasets import Dataset

import tiny
from tiny_training import dataset, trainer
from trimtab import methods
from trimtab.core import Losses, Objective, Plan, Signal, TokenBatch
from trimtab.models import noise
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.likelihood import Likelihood
from trimtab.signals.frozen import FrozenModel
from trimtab.train import first_ratio
from trimtab.train.first_ratio import Apart, RatioError, verdict


def psft(**options) -> Plan:
    method = methods.load("psft")
    return method.build(method.config(**options), tiny.model())


class Held(Signal):
    """A reference that says what it is told to."""

    provides = frozenset({"reference"})

    def __init__(self, model, off: float = 0.0):
        self.signal, self.off = FrozenModel(model, name="reference", reads="answers"), off

    def __call__(self, policy, inputs):
        return {"reference": self.signal(policy, inputs)["reference"] + self.off}


def logged(made) -> list[dict]:
    made.train()
    return [log for log in made.state.log_history if "nll" in log]


def test_ratios_stay_at_one_where_nothing_is_learnt_though_the_model_has_dropout(tmp_path):
    made = trainer(tmp_path, psft(refresh=3), tiny.model("gpt2"), learning_rate=0.0, max_steps=3, logging_steps=1)
    assert [log["ratio"] for log in logged(made)] == pytest.approx([1.0] * 3, abs=1e-5)
    assert noise.rates(made.model) == {}


def test_dropout_stays_without_a_ratio_and_is_switched_off_on_request(tmp_path):
    assert noise.rates(trainer(tmp_path, Plan(Likelihood()), tiny.model("gpt2")).model)
    assert not noise.rates(trainer(tmp_path, Plan(Likelihood()), tiny.model("gpt2"), dropout=False).model)


def test_dropout_that_the_user_keeps_is_reported_with_its_effect(tmp_path):
    made = trainer(tmp_path, psft(), tiny.model("gpt2"), dropout=True, learning_rate=0.0)
    told = []
    made.tell = told.append
    made.train()
    assert len(told) == 1
    assert "dropout is kept (training.disable_dropout: false)" in told[0]
    assert noise.rates(made.model)


class _Noisy(torch.nn.Module):
    """Noise of a kind that nobody knows."""

    def forward(self, hidden):
        return hidden + 0.1 * torch.randn_like(hidden) if self.training else hidden


def test_noise_that_is_left_stops_the_run_before_anything_is_learnt(tmp_path):
    policy = tiny.model("llama")
    policy.model.layers[0].mlp = torch.nn.Sequential(policy.model.layers[0].mlp, _Noisy())
    made = trainer(tmp_path, psft(), policy)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    with pytest.raises(
        RatioError, match=r"^the ratio of the policy in training to the same policy .* dropout or other"
    ):
        made.train()
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())


class _NoisyWhereLong(_Noisy):
    """Of batches with long rows alone."""

    def forward(self, hidden):
        return super().forward(hidden) if hidden.size(1) > 8 else hidden


ONE_BY_ONE = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 8,
    "train_sampling_strategy": "sequential",
}


def test_every_micro_batch_of_the_first_update_is_looked_at(tmp_path):
    policy = tiny.model("llama")
    policy.model.layers[0].mlp = torch.nn.Sequential(policy.model.layers[0].mlp, _NoisyWhereLong())
    made = trainer(tmp_path, psft(), policy, **ONE_BY_ONE)
    with pytest.raises(RatioError, match="before the first update"):
        made.train()
    assert made.state.global_step == 0


@pytest.mark.fast("7")
@pytest.mark.parametrize("empty", [0, 7])
def test_a_micro_batch_without_an_answer_does_not_end_the_look(tmp_path, empty):
    rows = dataset().to_list()
    rows[empty]["labels"] = [-100] * len(rows[empty]["labels"])
    made = trainer(
        tmp_path, psft(), tiny.model("gpt2"), Dataset.from_list(rows), dropout=True, max_steps=2, **ONE_BY_ONE
    )
    told = []
    made.tell = told.append
    made.train()
    assert len(told) == 1  # once, and of the first update alone


def test_the_forwards_of_a_look_do_not_go_by_what_a_process_has_to_learn():
    """Sharded weights are gathered in each of them, by all processes together."""
    policy = tiny.model("llama")
    add_objective_forward(policy)
    called = []
    policy.model.register_forward_hook(lambda *_: called.append(1))
    numbers = []
    for lengths in (((3, 5), (1, 1)), ((3, 0), (1, 0))):
        called.clear()
        first_ratio.measured(psft(), policy, tiny.rows(lengths).inputs(), {}, 1.0, False)
        numbers.append(len(called))
    assert numbers == [2, 2]


@pytest.mark.slow
def test_a_look_at_the_ratio_changes_no_draw_and_no_update(tmp_path):
    def trained(seen: bool):
        made = trainer(tmp_path, psft(), tiny.model("gpt2"), dropout=True)
        made.tell = lambda note: None
        if not seen:
            made._see_ratio = lambda *args: None
        torch.manual_seed(5)
        made.train()
        return made.model.state_dict()

    one, other = trained(seen=False), trained(seen=True)
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.fast("0.01")
@pytest.mark.parametrize("off", [0.0, 0.01])
def test_a_reference_that_is_the_start_is_held_against_the_policy(tmp_path, off):
    plan = Plan(Likelihood(kl=0.5), signals=(Held(tiny.model("llama"), off),))
    made = trainer(tmp_path, plan, tiny.model("llama"))
    made.train()  # nobody said that it is the start
    made = trainer(tmp_path, plan, tiny.model("llama"))
    made.reference_dtype = "float32"
    if not off:
        made.train()
        return
    with pytest.raises(RatioError, match=r"to the reference \(the initial policy\) differs from 1 by up to 0\.01"):
        made.train()


@pytest.mark.fast("True")
@pytest.mark.parametrize("bf16", [True, False])
def test_in_bfloat16_what_rounding_does_is_silent(tmp_path, bf16):
    policy = tiny.model("llama") if bf16 else tiny.model("llama").to(torch.bfloat16)
    made = trainer(tmp_path, psft(), policy, bf16=bf16)
    told = []
    made.tell = told.append
    made.train()
    assert told == []


def test_more_than_rounding_is_reported_in_bfloat16_and_refused_in_float32():
    apart = Apart("old", 0.4, 0.1)
    with pytest.raises(
        RatioError, match=r"to the policy that generated the completions differs from 1 by up to 0\.4 \(0\.1 on average"
    ):
        verdict(apart, exact=True, dropout_kept=False)
    assert "more than by rounding" in str(verdict(apart, exact=False, dropout_kept=False))
    assert verdict(Apart("old", 0.04, 0.01), exact=False, dropout_kept=False) is None
    assert verdict(Apart("old", 9e-4, 9e-4), exact=True, dropout_kept=False) is None
    with pytest.raises(RatioError):
        verdict(Apart("old", 1e-3, 1e-5), exact=True, dropout_kept=False)


class _Old(Objective):
    """Any objective of rollouts."""

    needs = frozenset()
    per, ratio = "token", "old"

    def __call__(self, batch: TokenBatch) -> Losses:
        return batch.losses(-batch.logprobs())


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_old_log_probabilities_are_held_against_the_policy_at_its_temperature(temperature):
    from trimtab.signals.initial_policy import own_logprobs

    policy, rows = tiny.model("llama"), tiny.rows()
    add_objective_forward(policy)
    old = own_logprobs(policy, rows.inputs(), temperature)
    wrong = old.clone()
    wrong[2] -= 0.5
    for known, size in ((old, 0.0), (wrong, torch.tensor(0.5).expm1().item())):
        found = first_ratio.measured(Plan(_Old()), policy, rows.inputs(), {"old": known}, temperature, False)
        assert [one.side for one in found] == ["itself", "old"]
        assert found[1].largest == pytest.approx(size, abs=1e-4)
        assert found[1].mean == pytest.approx(size / len(old), abs=1e-4)
