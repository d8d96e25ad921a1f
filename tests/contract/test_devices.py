"""Every method, the engine and decoding on a device that is not the CPU: numbers are those of the CPU, up to rounding.

By default that is `tests/second_device.py`, which computes on the CPU and refuses what CUDA would;
`--device cuda` takes a GPU.
"""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import tiny
import tiny_classifier
from contract import test_classifiers as of_texts
from contract import test_methods as of_tokens
from second_device import MixedDevices, moved
from trimtab import methods
from trimtab.core import IGNORE, Head, LazyLogits, TokenBatch, fused_loss, weights
from trimtab.core.draws import hashed_uniform, inverse_cdf
from trimtab.objectives.divergence import forward_kl
from trimtab.objectives.likelihood import Likelihood
from trimtab.objectives.matching import Match

CLOSE = {"rtol": 2e-3, "atol": 2e-5}


@pytest.fixture
def models_there(device, monkeypatch):
    """Models of `tiny` are made on the device from now on, when it is called."""

    def start() -> None:
        for module, name in ((tiny, "model"), (tiny_classifier, "classifier")):
            make = getattr(module, name)
            monkeypatch.setattr(module, name, lambda *a, make=make, **k: moved(make(*a, **k), device))

    return start


def on_cpu(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: one.detach().cpu() for name, one in found.items()}


def test_devices_are_not_mixed_silently(device):
    with pytest.raises((MixedDevices, RuntimeError), match="same device"):
        torch.ones(3, device=device) + torch.ones(3)


@pytest.mark.parametrize("name", of_tokens.NAMES)
def test_a_method_has_the_loss_and_the_gradients_of_the_cpu(name, device, models_there):
    rows = of_tokens.rows_for(name)
    wanted, gradients, _ = of_tokens.step(name, rows)
    models_there()
    output, found, _ = of_tokens.step(name, type(rows)(*(one.to(device) for one in rows)))
    assert output.loss.device.type == device.type
    torch.testing.assert_close(output.loss.detach().cpu(), wanted.loss.detach(), **CLOSE)
    torch.testing.assert_close(on_cpu(found), gradients, **CLOSE)
    assert output.metrics.keys() == wanted.metrics.keys()
    for key, pair in wanted.metrics.items():
        torch.testing.assert_close([one.cpu() for one in output.metrics[key]], list(pair), **CLOSE)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("name", of_texts.NAMES)
def test_a_classifier_has_the_loss_and_the_gradients_of_the_cpu(name, outputs, device, models_there):
    batch = tiny_classifier.inputs(outputs)
    wanted, gradients = of_texts.step(name, outputs, batch)
    models_there()
    output, found = of_texts.step(name, outputs, {key: one.to(device) for key, one in batch.items()})
    torch.testing.assert_close(output.loss.detach().cpu(), wanted.loss.detach(), **CLOSE)
    torch.testing.assert_close(on_cpu(found), gradients, **CLOSE)


def test_draws_are_those_of_the_cpu_to_the_bit(device):
    row, place = torch.arange(4096) * 7919, torch.arange(4096) % 97
    wanted = hashed_uniform(3, 5, row, place, 1)
    assert torch.equal(hashed_uniform(3, 5, row.to(device), place.to(device), 1).cpu(), wanted)
    p = torch.randn(64, 500, generator=torch.Generator().manual_seed(0)).softmax(-1)
    found = inverse_cdf(p.to(device), wanted[:64].to(device)).cpu()
    assert (found == inverse_cdf(p, wanted[:64])).float().mean() > 0.95  # a sum of 500 may be rounded to another id


@pytest.mark.parametrize("tokens", [3, 700])
def test_the_engine_gives_the_loss_and_gradients_of_plain_logits(tokens, device):
    torch.manual_seed(0)
    hidden, weight = torch.randn(tokens, 16), torch.randn(5000, 16)
    labels = torch.randint(5000, (1, tokens + 1))
    labels[0, 0] = IGNORE
    head = moved(torch.nn.Linear(16, 5000, bias=False), device)
    with torch.no_grad():
        head.weight.copy_(weight)
    states = hidden.to(device).requires_grad_()
    batch = TokenBatch.from_labels(labels.to(device))
    fused_loss(Likelihood(), batch, states, Head(head, 5000), weights(batch, "token_mean")).loss.backward()
    plain, of_head = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    F.cross_entropy(plain @ of_head.T, labels[0, 1:]).backward()
    torch.testing.assert_close(states.grad.cpu(), plain.grad, **CLOSE)
    torch.testing.assert_close(head.weight.grad.cpu(), of_head.grad, **CLOSE)
    teacher = LazyLogits(hidden.flip(0).to(device), head, 5000)
    objective = Match(forward_kl, temperature=1.0, cross_entropy=0.0)
    both = batch.with_signals(teacher=teacher)
    loss = fused_loss(objective, both, states, Head(head, 5000), weights(both, "token_mean")).loss
    p, log_q = (hidden.flip(0) @ weight.T).softmax(-1), (hidden @ weight.T).log_softmax(-1)
    torch.testing.assert_close(loss.detach().cpu(), F.kl_div(log_q, p, reduction="batchmean"), **CLOSE)


@pytest.mark.parametrize("how", ["token_mean", "sequence_mean", "pair_mean", "preference_mean"])
def test_the_tokens_of_an_update_are_counted_where_the_loader_has_put_them(how, device):
    from trimtab.train.trainer import ObjectiveTrainer

    rows = tiny.rows(((3, 5), (3, 2), (1, 1), (1, 7)))
    labels = rows.labels
    trainer: Any = SimpleNamespace(
        _update=[], plan=SimpleNamespace(reduction=how, auxiliary=None), totals=SimpleNamespace(answer_tokens=0.0),
        accelerator=SimpleNamespace(reduce=lambda one, how: one, num_processes=1),
    )  # fmt: skip
    count = ObjectiveTrainer._get_num_items_in_batch
    wanted = count(trainer, [{"labels": labels}, {"labels": labels}], torch.device("cpu"))
    there = labels.to(device)
    found = count(trainer, [{"labels": there}, {"labels": there}], device)
    assert torch.equal(found.cpu(), wanted)
    assert trainer.totals.answer_tokens == 4 * 15


def test_methods_are_all_there():
    assert sorted([*of_tokens.NAMES, *of_texts.NAMES]) == sorted(methods.names())


PROMPT = torch.tensor([[5, 6, 7, 8], [0, 9, 10, 11]])
ASKED = {"max_new_tokens": 6, "pad_token_id": 0, "do_sample": False}


def asked(device) -> dict[str, Any]:
    return {"input_ids": PROMPT.to(device), "attention_mask": (PROMPT != 0).long().to(device), **ASKED}


def test_generation_that_leaves_early_gives_the_tokens_of_the_cpu(device, models_there):
    from trimtab.decoding._early_exit import early_exit

    wanted = tiny.model("llama").generate(**asked("cpu"))
    models_there()
    found = tiny.model("llama").generate(**asked(device), custom_generate=early_exit)
    assert torch.equal(found.cpu(), wanted)


@pytest.mark.parametrize("merge", ["logits", "embedding"])
def test_the_dial_of_an_inserted_layer_turns_as_on_the_cpu(merge, device, models_there):
    from trimtab.decoding.realign import realign
    from trimtab.models.identity_layer import insert_identity_layer

    def said(where) -> torch.Tensor:
        model = insert_identity_layer(tiny.model("llama"))
        with torch.no_grad():
            for one in model.model.layers[0].parameters():
                one.add_(0.3)
        return model.generate(**asked(where), custom_generate=realign, strength=[0.5, 1.5], merge=merge).cpu()

    wanted = said("cpu")
    models_there()
    assert torch.equal(said(device), wanted)


def test_two_models_are_mixed_as_on_the_cpu(device, models_there):
    from trimtab.decoding.dera import dera

    def said(where) -> torch.Tensor:
        aligned = tiny.model("llama", seed=3)
        model = tiny.model("llama")
        return model.generate(**asked(where), custom_generate=dera, aligned=aligned, strength=[0.0, 0.7]).cpu()

    wanted = said("cpu")
    models_there()
    assert torch.equal(said(device), wanted)
