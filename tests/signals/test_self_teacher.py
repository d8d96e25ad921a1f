"""A teacher that reads another prompt, and the policy as its own teacher."""

import pytest
import torch

import tiny
from trimtab.core import IGNORE, TokenBatch
from trimtab.methods import kd
from trimtab.models.adapters import add_lora
from trimtab.models.forward import add_objective_forward
from trimtab.signals.base import call_plan
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import InitialPolicy
from trimtab.signals.other_prompt import OtherPrompt
from trimtab.signals.self_teacher import AveragePolicy

ROWS = tiny.rows(((3, 5), (1, 1), (2, 0), (4, 7), (1, 3)))
INPUTS = {**ROWS.inputs(), "row_id": torch.arange(5)}
OWN = [ROWS.input_ids[i, :n].tolist() for i, n in enumerate((3, 1, 2, 4, 1))]
OTHER = [[9, 8], [7, 7, 7, 7], [5], [4, 30, 31, 32, 33, 34], [12]]


def policy(kind: str = "llama", **changes):
    made = tiny.model(kind, seed=5, **changes)
    add_objective_forward(made)
    return made


def current(model, reads="distribution"):
    from contextlib import nullcontext

    return InitialPolicy(nullcontext, "teacher", model, reads)


def test_rows_are_read_behind_the_other_prompts_with_the_same_answers():
    made = OtherPrompt(FrozenModel(tiny.model("llama")), OTHER).swapped(INPUTS)
    assert made["input_ids"][0].tolist() == [9, 8, *ROWS.input_ids[0, 3:8].tolist(), *[0] * 6]
    assert made["labels"][0].tolist() == [IGNORE] * 2 + ROWS.labels[0, 3:8].tolist() + [IGNORE] * 6
    assert made["attention_mask"].sum(1).tolist() == [7, 5, 1, 13, 4]
    assert made["input_ids"][2].tolist() == [5, *[0] * 12], "of a row without an answer the prompt alone"


def test_a_masked_token_of_an_answer_stays_in_it():
    labels = ROWS.labels.clone()
    labels[0, 4] = IGNORE  # a sampled token that another model lacks
    made = OtherPrompt(FrozenModel(tiny.model("llama")), OTHER).swapped({**INPUTS, "labels": labels})
    assert made["input_ids"][0, 2:7].tolist() == ROWS.input_ids[0, 3:8].tolist()
    assert made["labels"][0, 3] == IGNORE
    assert (made["labels"] != IGNORE).sum() == (labels != IGNORE).sum()


@pytest.mark.parametrize("reads", ["distribution", "answers"])
def test_each_answer_token_has_what_the_teacher_says_of_it_behind_the_other_prompt(reads):
    model = tiny.model("llama", seed=3)
    found = OtherPrompt(FrozenModel(model, reads=reads), OTHER)(None, INPUTS)["teacher"]
    ids = torch.tensor([[9, 8, *ROWS.input_ids[0, 3:8].tolist()]])
    with torch.no_grad():
        logp = model(input_ids=ids).logits[0, 1:6].log_softmax(-1)
    first = found[:5] if reads == "answers" else found.compute()[:5].log_softmax(-1)
    wanted = logp.gather(1, ids[0, 2:, None])[:, 0] if reads == "answers" else logp
    torch.testing.assert_close(first, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("divergence", ["forward_kl", "reverse_kl", "jsd"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_of_its_own_prompt_the_policy_learns_nothing_from_itself(divergence, kind):
    model = policy(kind)
    signal = OtherPrompt(current(model), OWN)
    plan = kd.build(kd.Config.model_validate({"divergence": divergence}), model, signal)
    found = call_plan(plan, model, INPUTS)
    assert found.loss is not None
    found.loss.backward()
    assert float(found.loss.detach()) == pytest.approx(0, abs=1e-6)
    assert all(float(g.abs().max()) < 1e-6 for g in tiny.gradients(model).values())


def test_of_another_prompt_it_learns_towards_what_it_says_there():
    model = policy()
    plan = kd.build(kd.Config.model_validate({}), model, OtherPrompt(current(model), OTHER))
    found = call_plan(plan, model, INPUTS)
    assert found.loss is not None
    found.loss.backward()
    gradient = tiny.gradients(model)
    plain = policy()
    target = FrozenModel(tiny.model("llama", seed=5))
    wanted = call_plan(kd.build(kd.Config.model_validate({}), plain, OtherPrompt(target, OTHER)), plain, INPUTS)
    assert wanted.loss is not None
    wanted.loss.backward()
    assert float(found.loss.detach()) == pytest.approx(float(wanted.loss.detach()), rel=1e-4)
    assert float(found.loss.detach()) > 1e-3
    assert tiny.relative_error(gradient, tiny.gradients(plain)) < 1e-4


def moved(model, by: float):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(by * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))


@pytest.mark.parametrize("kind", ["llama", "llama_tied"])
@pytest.mark.parametrize("reads", ["distribution", "answers"])
@pytest.mark.parametrize("lora", [False, True])
def test_the_average_is_that_of_the_formula(kind, reads, lora):
    """Two updates with decay .75: w' = .75 (.75 w0 + .25 w1) + .25 w2."""
    model = policy(kind)
    if lora:
        model = add_lora(
            model, {"r": 2, "target_modules": ["q_proj", "down_proj"], "modules_to_save": ["norm"]}, seed=0
        )
    signal = AveragePolicy(0.75, model, reads)
    weights = []
    for step in range(3):
        signal.before_update(model, step, seed=0)
        weights.append({k: p.detach().clone() for k, p in model.named_parameters() if p.requires_grad})
        if step < 2:
            moved(model, 0.05)
    before = {k: p.detach().clone() for k, p in model.named_parameters()}
    found = signal(model, INPUTS)["teacher"]
    found = found if reads == "answers" else found.compute().log_softmax(-1)
    assert all(torch.equal(p, before[k]) for k, p in model.named_parameters()), "the policy keeps its weights"
    w0, w1, w2 = weights
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in w0:
                parameter.copy_(0.75 * (0.75 * w0[name] + 0.25 * w1[name]) + 0.25 * w2[name])
        logits = model(input_ids=ROWS.input_ids, attention_mask=ROWS.attention_mask).logits
    batch = TokenBatch.align(logits, ROWS.labels)
    wanted = batch.logprobs() if reads == "answers" else batch.log_softmax()
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_average_goes_on_from_a_checkpoint():
    one, other = policy(), policy()
    whole, stopped = AveragePolicy(0.5, one), AveragePolicy(0.5, other)
    for step in range(2):
        for signal, model in ((whole, one), (stopped, other)):
            signal.before_update(model, step, seed=0)
            moved(model, 0.05)
    resumed = AveragePolicy(0.5, other)
    resumed.load_state_dict({name: value.clone() for name, value in stopped.state_dict().items()})
    for signal, model in ((whole, one), (resumed, other)):
        signal.before_update(model, 2, seed=0)
    assert whole.state_dict().keys() == resumed.state_dict().keys()
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
