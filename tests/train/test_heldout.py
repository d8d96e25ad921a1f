"""Held-out measures are sums over the tokens of each row."""

import math

import pytest
import torch

import tiny
from trimtab.core import TokenBatch
from trimtab.decoding._texts import generate_texts
from trimtab.models.forward import add_objective_forward
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.row_store import RowStore
from trimtab.train.heldout import measure, summary, token_measures

P, Q = torch.tensor([[0.5, 0.25, 0.25]]), torch.tensor([[0.25, 0.5, 0.25]])


def test_measures_of_two_known_distributions():
    signals = {"policy": Q.log(), "teacher": P.log()}
    batch = TokenBatch.from_labels(torch.tensor([[-100, 1]]), signals)
    found = {name: value.item() for name, value in token_measures(batch).items()}
    assert found == pytest.approx(
        {
            "nll": math.log(2),
            "entropy": 1.5 * math.log(2),
            "top1": 1.0,
            "forward_kl": 0.5 * math.log(2) - 0.25 * math.log(2),
            "reverse_kl": 0.5 * math.log(2) - 0.25 * math.log(2),
            "agreement": 0.0,
            "teacher_nll": math.log(4),
        }
    )


def test_the_two_divergences_are_not_confused():
    p, q = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.5, 0.5]])
    batch = TokenBatch.from_labels(torch.tensor([[-100, 1]]), {"policy": q.log(), "teacher": p.log()})
    found = token_measures(batch)
    assert found["forward_kl"].item() == pytest.approx(0.9 * math.log(1.8) + 0.1 * math.log(0.2))
    assert found["reverse_kl"].item() == pytest.approx(0.5 * math.log(0.5 / 0.9) + 0.5 * math.log(5))


def test_without_a_teacher_its_measures_are_absent():
    batch = TokenBatch.from_labels(torch.tensor([[-100, 1]]), {"policy": Q.log()})
    assert set(token_measures(batch)) == {"nll", "entropy", "top1"}


@pytest.fixture
def models():
    policy, teacher = tiny.model("llama_tied"), tiny.model("llama_tied", seed=3)
    add_objective_forward(policy)
    return policy, teacher


@pytest.mark.parametrize("block", [512, 4])
def test_rows_are_measured_the_same_in_any_batches_and_as_from_full_logits(models, monkeypatch, block):
    monkeypatch.setattr("trimtab.core.vocab.BLOCK_TOKENS", block)
    policy, teacher = models
    rows = tiny.rows(((3, 5), (1, 1), (4, 7)))
    together = measure(policy, [rows.inputs()], [FrozenModel(teacher)])
    apart = measure(policy, [rows.pick([i]).inputs() for i in range(3)], [FrozenModel(teacher)])
    with torch.no_grad():
        logits = {
            n: m(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
            for n, m in (("policy", policy), ("teacher", teacher))
        }
    for i, row in enumerate(rows.row_id.tolist()):
        batch = TokenBatch.align(logits["policy"][[i]], rows.labels[[i]], {"teacher": logits["teacher"][[i]]})
        expected = {name: value.sum().item() for name, value in token_measures(batch).items()}
        for found in (together, apart):
            assert {k: v for k, v in found[row].items() if k != "tokens"} == pytest.approx(expected, abs=1e-4)
            assert found[row]["tokens"] == len(batch)


def test_a_teacher_that_remembers_gives_the_same_measures_and_runs_once(models, monkeypatch):
    policy, teacher = models
    rows = tiny.rows(((3, 5), (1, 1), (4, 7)))
    live = measure(policy, [rows.inputs()], [FrozenModel(teacher)])
    remembering = FrozenModel(teacher, store=RowStore())
    first = measure(policy, [rows.inputs()], [remembering])
    monkeypatch.setattr(teacher.base_model, "forward", None)  # any further forward would fail
    again = measure(policy, [rows.pick([2, 0]).inputs(), rows.pick([1]).inputs()], [remembering])
    for row in live:
        assert first[row] == pytest.approx(live[row], abs=1e-4)
        assert again[row] == pytest.approx(first[row], abs=1e-5)


def test_what_a_teacher_remembers_of_a_row_does_not_depend_on_its_batch(models):
    _, teacher = models
    rows = tiny.rows(((3, 5), (1, 1), (4, 7)))
    alone, together = FrozenModel(teacher, store=RowStore()), FrozenModel(teacher, store=RowStore())
    one = alone(None, rows.pick([0]).inputs())["teacher"].hidden
    all_ = together(None, rows.inputs())["teacher"].hidden[:5]
    assert torch.equal(one, all_)


def test_another_teacher_remembers_its_own_rows(models):
    _, teacher = models
    first = FrozenModel(teacher, store=RowStore())
    rows, others = tiny.rows(((3, 5),)), tiny.rows(((3, 5),), seed=9)
    kept = first(None, rows.inputs())["teacher"].hidden
    assert not torch.equal(FrozenModel(teacher, store=RowStore())(None, others.inputs())["teacher"].hidden, kept)


def test_a_teachers_weights_are_frozen_and_get_no_gradient(models):
    _, teacher = models
    FrozenModel(teacher)
    assert not any(p.requires_grad for p in teacher.parameters())


def test_the_summary_divides_sums_by_tokens_and_not_means_by_rows():
    rows = {0: {"tokens": 1, "nll": 3.0}, 1: {"tokens": 3, "nll": 1.0}}
    assert summary(rows) == {"rows": 2, "tokens": 4, "nll": 1.0, "perplexity": pytest.approx(math.e)}


def test_measuring_leaves_the_policy_in_its_mode(models):
    policy, _ = models
    for mode in (True, False):
        policy.train(mode)
        measure(policy, [tiny.rows().inputs()])
        assert policy.training is mode


def test_generated_texts_are_the_greedy_continuations_one_prompt_at_a_time(tmp_path):
    import tiny_folder

    policy = tiny.model("llama_tied", vocab_size=tiny_folder.VOCAB, eos_token_id=0, pad_token_id=0)
    tokenizer = tiny_folder.byte_tokenizer()
    prompts = ["a", "a longer prompt"]
    together = generate_texts(policy, tokenizer, prompts, 5)
    assert together == [generate_texts(policy, tokenizer, [p], 5)[0] for p in prompts]
    assert tokenizer.padding_side == "right"


def test_an_answer_has_as_many_tokens_as_came_before_its_end(monkeypatch):
    import tiny_folder

    policy, tokenizer = tiny.model("llama_tied", vocab_size=tiny_folder.VOCAB), tiny_folder.byte_tokenizer()
    word, end = tokenizer("é", add_special_tokens=False).input_ids, tokenizer.eos_token_id
    assert len(word) == 2
    ends = torch.tensor([[*word, end, end], [*word, *word], [end] * 4])
    monkeypatch.setattr(policy, "generate", lambda input_ids, **_: torch.cat([input_ids, ends], dim=1))
    assert generate_texts(policy, tokenizer, ["a", "b", "c"], 4) == [("é", 2), ("éé", 4), ("", 0)]
