"""A teacher is asked once: a run that reads the cache is the run with the live teacher, or it is refused."""

import math
import shutil

import pytest
import torch
from rich.console import Console
from transformers import BertConfig, BertLMHeadModel

import tiny
import tiny_folder
from tiny_caches import QUIET, batch_of, parsed, tree
from tiny_runs import events, weights
from trimtab.common.errors import UserError
from trimtab.core import TokenBatch
from trimtab.core.topk import top_k
from trimtab.models import loading
from trimtab.models.forward import resolve_head
from trimtab.models.stored_head import load_head, store_head
from trimtab.runs.cached_teacher import cache_facts, open_cache
from trimtab.runs.parse import parse
from trimtab.runs.run import run
from trimtab.runs.teacher_pass import cache_teacher
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.row_store import RowStore, write_tensors


@pytest.mark.parametrize("method", ["kd", "hpd"])
def test_a_run_from_hidden_states_is_the_run_with_the_live_teacher(files, caches, tmp_path, method):
    live = run(parsed(files, tmp_path / "live", method), console=QUIET).folder
    alone = tmp_path / "elsewhere"
    shutil.copytree(files, alone)
    shutil.rmtree(alone / "teacher")  # the model is gone: nothing can load it
    cached = run(parsed(alone, tmp_path / "cached", method, f"cache:{caches / 'hidden'}"), console=QUIET).folder
    for event in ("train", "eval"):
        for one, other in zip(events(live, event), events(cached, event), strict=True):
            for key in one.keys() & {"loss", "forward_kl", "reverse_kl", "agreement", "teacher_nll", "grad_norm"}:
                assert other[key] == pytest.approx(one[key], rel=1e-4, abs=1e-5), (event, key)
    assert tiny.relative_error(weights(cached), weights(live)) < 1e-3
    signature = (cached / "signature.txt").read_text()
    assert f"teacher: cache:{caches / 'hidden'} (hidden, float32) " in signature


LORA = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"}
WAYS = {
    "packs": {"training": {"packing": True, "max_steps": 3, "learning_rate": 1e-3}},
    "an adapter": {"models": {"lora": LORA}},
    "micro-batches of one": {"training": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 4}},
    "three epochs": {"training": {"max_steps": -1, "num_train_epochs": 3}},
}


@pytest.mark.fast("*-packs", "kd-three epochs", "kd-an adapter")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", ["kd", "hpd"])
def test_in_every_way_to_train_a_cached_teacher_gives_the_live_ones_losses(files, caches, tmp_path, method, way):
    found = []
    for name, teacher in (("live", None), ("cached", f"cache:{caches / 'hidden'}")):
        made = tree(files, tmp_path / name, method, teacher, training=WAYS[way].get("training", {}))
        made["models"] |= WAYS[way].get("models", {})
        made["training"]["learning_rate"] = 1e-3
        found.append([one["loss"] for one in events(run(parse(made, "test", "run"), console=QUIET).folder, "train")])
    assert len(found[0]) >= (12 if way == "three epochs" else 3)
    assert found[1] == pytest.approx(found[0], rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("method", ["kd", "hpd"])
def test_loss_and_gradient_from_hidden_states_equal_the_live_teachers(files, caches, method):
    from trimtab.methods import hpd, kd
    from trimtab.models.forward import add_objective_forward
    from trimtab.signals.base import call_plan

    made = parsed(files, caches / "never", method, f"cache:{caches / 'hidden'}")
    inputs = batch_of(made)
    live = FrozenModel(loading.load_model(str(files / "teacher")))
    cached = open_cache(cache_facts(made))
    found = []
    for teacher in (live, cached):
        policy = loading.load_model(str(files / "student"))
        add_objective_forward(policy)
        module = {"kd": kd, "hpd": hpd}[method]
        out = call_plan(module.build(module.Config(), policy, teacher), policy, inputs)
        out.loss.backward()
        found.append((out.loss.detach(), torch.cat([p.grad.flatten() for p in policy.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    assert (found[0][1] - found[1][1]).norm() < 1e-5 * found[0][1].norm()


def test_top_k_of_the_cache_is_that_of_the_live_teacher(files, caches):
    made = parsed(files, caches / "never", teacher=f"cache:{caches / 'topk'}")
    inputs = batch_of(made)
    live = FrozenModel(loading.load_model(str(files / "teacher")))(None, inputs)["teacher"].compute()
    expected = top_k(live, 16, TokenBatch.from_labels(inputs["labels"]).targets)
    found = open_cache(cache_facts(made))(None, inputs)["teacher"]
    assert torch.equal(found.ids, expected.ids)
    for name in ("logprobs", "rest", "label_logprobs"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-5, atol=1e-5)


def test_a_run_from_the_most_likely_tokens_trains_and_says_what_it_knows(files, caches, tmp_path):
    folder = run(parsed(files, tmp_path / "run", "kd", f"cache:{caches / 'topk'}"), console=QUIET).folder
    live = run(parsed(files, tmp_path / "live"), console=QUIET).folder
    for one, other in zip(events(folder, "eval"), events(live, "eval"), strict=True):
        assert 0 < one["forward_kl"] <= other["forward_kl"] + 1e-2
        if one["step"] == 0:
            assert one["forward_kl"] <= other["forward_kl"]
            assert one["agreement"] == pytest.approx(other["agreement"])
            assert one["teacher_nll"] == pytest.approx(other["teacher_nll"], rel=1e-5)
    assert "known by its 16 most likely tokens, 0." in (folder / "metrics.jsonl").read_text()


def test_what_the_tokens_cost_is_measured_on_the_rows_and_stated_by_the_command_and_the_run(files, caches, tmp_path):
    made = parsed(files, tmp_path / "run", teacher=f"cache:{caches / 'topk'}")
    live, masses, lost = FrozenModel(loading.load_model(str(files / "teacher"))), [], []
    for which in ("train", "heldout"):
        p = live(None, batch_of(made, which))["teacher"].compute().softmax(-1).double()
        rest = p.sort(descending=True).values[:, 16:]
        mass = rest.sum(-1)
        entropy = -torch.special.xlogy(rest / mass[:, None], rest / mass[:, None]).sum(-1)
        masses.append(1 - mass)
        lost.append(mass * (math.log(tiny_folder.VOCAB - 16) - entropy))
    covered, left = (float(torch.cat(one).mean()) for one in (masses, lost))
    written = cache_teacher(parsed(files, tmp_path / "n"), tmp_path / "cache", "topk", k=16, console=QUIET)
    assert (written.covered, written.left_out) == (pytest.approx(covered, abs=1e-5), pytest.approx(left, abs=1e-5))
    assert f"a lower bound, {left:.4f} nats a token below" in written.said()
    folder = run(made, console=QUIET).folder
    for said in (written.said(), (folder / "metrics.jsonl").read_text(), (folder / "report.html").read_text()):
        assert f"off by at most {2 * (1 - covered):.4f} in sum over all others" in said


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [("hpd", {}, "HPD reads log-probabilities of any token"), ("kd", {"temperature": 2.0}, "at temperature 2")],
)
def test_what_k_tokens_cannot_give_is_refused_before_training(files, caches, tmp_path, method, options, said):
    made = parsed(files, tmp_path / "run", method, f"cache:{caches / 'topk'}", options=options)
    with pytest.raises(UserError, match=f"method {method} .*{said} .*--teacher hidden"):
        run(made, console=QUIET)
    assert not (tmp_path / "run").exists()


def test_a_cache_beside_a_cache_in_memory_is_harmless_and_said(files, caches, tmp_path):
    made = tree(files, tmp_path / "run", "kd", f"cache:{caches / 'hidden'}", training={"max_steps": 1})
    made["models"]["teacher_cache"] = "disk"
    folder = run(parse(made, "test", "run"), console=QUIET).folder
    assert "models.teacher_cache=disk keeps nothing: the teacher is a cache" in (folder / "metrics.jsonl").read_text()
    assert not (folder / "teacher_cache").exists()


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_completions_do_not_pile_up_in_a_cache(files, tmp_path, where, monkeypatch):
    tasks = tiny_folder.write_jsonl(tmp_path / "tasks.jsonl", [{"prompt": f"{i}+1=", "answer": "2"} for i in range(4)])
    made = tree(files, tmp_path / "run", "opd", reward="exact", data={"train": tasks, "heldout": tasks})
    made["training"] = {"max_steps": 2, "per_device_train_batch_size": 8, "max_completion_length": 4}
    made["models"]["teacher_cache"] = where
    monkeypatch.setattr(RowStore, "put", lambda *args, **counted: pytest.fail("a completion was kept"))
    folder = run(parse(made, "test", "run"), console=QUIET).folder
    assert f"models.teacher_cache={where} keeps nothing with method opd" in (folder / "metrics.jsonl").read_text()
    assert not (folder / "teacher_cache").exists()


def test_rollouts_cannot_be_read_from_a_cache(files, caches, tmp_path):
    made = tree(files, tmp_path / "run", "opd", f"cache:{caches / 'hidden'}", reward="exact")
    made["data"] = {"train": tiny_folder.write_jsonl(tmp_path / "t.jsonl", [{"prompt": "1+1=", "answer": "2"}] * 4)}
    made["training"] = {"max_steps": 1, "per_device_train_batch_size": 8, "max_completion_length": 4}
    with pytest.raises(UserError, match="opd samples new completions, and a cache only holds what"):
        parse(made, "test", "run")


def test_little_covered_mass_is_warned_about(files, tmp_path, capsys):
    out = Console(width=400)
    made = cache_teacher(parsed(files, tmp_path / "n"), tmp_path / "cache", "topk", k=2, console=out)
    assert made.covered < 0.9
    assert f"warning: the 2 most likely tokens have {made.covered:.2f}" in capsys.readouterr().out
    all_of_it = cache_teacher(parsed(files, tmp_path / "n"), tmp_path / "all", "topk", k=259, console=out)
    assert all_of_it.covered == pytest.approx(1)
    assert "warning" not in capsys.readouterr().out


def bert() -> BertLMHeadModel:
    """Its head is a layer, a norm and a table."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    return BertLMHeadModel(BertConfig(vocab_size=tiny.VOCAB, is_decoder=True, **sizes))


@pytest.mark.parametrize("kind", ["llama", "gemma2", "cohere", "phi", "bert"])
def test_heads_of_every_shape_are_read_back_to_the_bit(kind, tmp_path):
    teacher = FrozenModel(bert() if kind == "bert" else tiny.model(kind, seed=3))
    store_head(teacher.model, tmp_path, write_tensors)
    hidden = teacher.hidden(tiny.rows().inputs())
    assert torch.equal(load_head(tmp_path)(hidden), resolve_head(teacher.model)(hidden))
