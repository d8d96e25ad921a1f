"""Rows in packs are read as alone: positions begin anew, and no row sees another."""

import pytest
import torch
from torch import nn
from transformers import AttentionInterface

import architectures
import tiny
from tiny_plans import plan_of, same_as_padded
from tiny_table import families, table
from trimtab.core import IGNORE, Objective, Plan
from trimtab.methods import dpo, hpd, kd, psft, sft, trra
from trimtab.models.adapters import add_lora
from trimtab.models.forward import StatesCall, add_objective_forward, backbone, read_layers, resolve_head
from trimtab.models.identity_layer import insert_identity_layer
from trimtab.models.packing import HOW, PLACE, packs
from trimtab.models.packing_check import CannotPack, check_packing
from trimtab.models.scalar_head import add_score_forward, with_scalar_head
from trimtab.signals.base import call_plan
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import own_logprobs
from trimtab.signals.row_store import RowStore
from trimtab.signals.snapshot import PolicySnapshot

ROWS = tiny.rows(((3, 5), (1, 1), (2, 0), (4, 7), (1, 3)))
PLACES = torch.tensor([[0, 0], [0, 8], [0, 10], [1, 4], [1, 0]])
"""in two packs of 12 and 15 tokens; of the second the last row comes first"""
PACKED = {**ROWS.inputs(), PLACE: PLACES}


def test_rows_are_laid_out_at_their_places_with_positions_of_their_own():
    ids = torch.tensor([[5, 6, 7], [8, 9, 0], [3, 0, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
    found = packs(ids, mask, torch.tensor([[0, 0], [0, 3], [1, 0]]))
    assert found.arguments["input_ids"].tolist()[0] == [5, 6, 7, 8, 9]
    assert found.arguments["input_ids"].tolist()[1][0] == 3
    assert found.arguments["position_ids"].tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 2, 3]]  # padding is one more row
    assert found.arguments["attention_mask"] is None
    assert found.mask.tolist() == [[True] * 5, [True, False, False, False, False]]
    assert found.index.tolist() == [[0, 1, 2], [3, 4, 0], [5, 0, 0]]


def test_flat_rows_stand_behind_each_other_without_padding():
    ids = torch.tensor([[5, 6, 7], [8, 9, 0], [3, 0, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0]])
    found = packs(ids, mask, torch.tensor([[0, 0], [0, 3], [1, 0]]), flat=True)
    assert found.arguments["input_ids"].tolist() == [[5, 6, 7, 8, 9, 3]]
    assert found.arguments["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0]]
    assert found.mask.all()
    assert found.index.tolist() == [[0, 1, 2], [3, 4, 0], [5, 0, 0]]


def states(layers: nn.Module, rows: tiny.Rows) -> torch.Tensor:
    """[N, D] at the answer tokens of packed rows."""
    inputs = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask, "use_cache": False}
    with torch.no_grad():
        return read_layers(layers, StatesCall(rows.labels, PLACES), (), inputs)[1]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@table("kind", list(tiny._KINDS))
def test_a_row_has_the_same_bits_whatever_stands_before_it(kind, attention):
    model = tiny.model(kind)
    if attention == "sdpa" and kind == "gemma2":
        pytest.skip("transformers has no sdpa for it, as its logits of attention are capped")
    model.set_attn_implementation(attention)
    other = ROWS._replace(input_ids=ROWS.input_ids.clone())
    other.input_ids[[0, 4], :8] = ROWS.input_ids[[0, 4], :8].flip(1)  # the first row of each pack
    head, layers = resolve_head(model), backbone(model)
    with torch.no_grad():
        before, after = (head(states(layers, rows)) for rows in (ROWS, other))
    first = torch.tensor([True] * 5 + [False] * 8 + [True] * 3)  # answer tokens of the first rows
    assert torch.equal(before[~first], after[~first])
    assert not torch.equal(before[first], after[first])


def _both(plan: Plan, policy: nn.Module, rows=ROWS, places=PLACES) -> None:
    same_as_padded(plan, policy, rows, places)


@pytest.mark.parametrize("kind", families(list(tiny._KINDS)))
@pytest.mark.parametrize("method", [sft, kd, hpd, trra], ids=lambda one: one.__name__.rpartition(".")[2])
def test_loss_metrics_and_gradient_are_those_of_padded_rows(method, kind):
    policy = tiny.model(kind)
    add_objective_forward(policy)
    _both(plan_of(method, kind, policy), policy)


def test_pairs_and_means_over_rows_are_those_of_padded_rows():
    policy = tiny.model("gemma2")
    add_objective_forward(policy)
    pairs, places = ROWS.pick([0, 3, 1, 4]), torch.tensor([[0, 0], [1, 0], [0, 8], [1, 11]])
    _both(plan_of(dpo, "gemma2", policy), policy, pairs, places)
    _both(plan_of(psft, "gemma2", policy, loss_agg="seq-mean-token-mean"), policy)


def test_a_snapshot_and_a_teacher_that_remembers_read_packs():
    policy = tiny.model("mistral")
    add_objective_forward(policy)
    snapshot = PolicySnapshot(every=8)
    snapshot.take(policy)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.05)
    packed, padded = (snapshot(policy, one)["snapshot"] for one in (PACKED, ROWS.inputs()))
    torch.testing.assert_close(packed, padded, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(packed, own_logprobs(policy, PACKED))
    teacher = tiny.model("gemma2", seed=3)
    live, remembers = FrozenModel(teacher), FrozenModel(teacher, store=RowStore())
    found = [one(None, PACKED)["teacher"].compute() for one in (live, remembers)]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changed", ["lora", "identity layer", "checkpointing", "scalar head"])
def test_what_changes_the_policy_reads_packs(changed):
    policy = tiny.model("mistral")
    if changed == "scalar head":
        policy = with_scalar_head(policy, seed=0)
        add_score_forward(policy)
        _both(Plan(_Squares()), policy)
        check_packing(policy, "policy")
        return
    add_objective_forward(policy)
    if changed == "lora":
        policy = add_lora(policy, {"r": 2, "target_modules": "all-linear", "init_lora_weights": False}, seed=0)
    elif changed == "identity layer":
        policy = insert_identity_layer(policy)
        add_objective_forward(policy)
    else:
        policy.gradient_checkpointing_enable({"use_reentrant": False})
        policy.train()
    _both(plan_of(sft, "mistral", policy), policy)
    check_packing(policy, "policy")


class _Squares(Objective):
    """Squared scores of a scalar head."""

    def __call__(self, batch):
        scores = batch.signals["policy"]
        return batch.losses(scores**2, score=scores)


def test_the_router_loss_leaves_padding_out():
    policy = architectures.build("mixtral")
    add_objective_forward(policy)
    plan = plan_of(sft, "llama", policy)
    padded, packed = (
        call_plan(plan, policy, inputs, router_loss=1.0).metrics["router_loss"][0] for inputs in (ROWS.inputs(), PACKED)
    )
    torch.testing.assert_close(packed, padded)


@table("kind", ["llama", "gpt_oss", "opt", "falcon", "mixtral", "qwen3_moe", "gemma3n_text", "llama4_text", "gpt_neo"])
def test_packs_are_accepted_of_layers_that_can_and_states_are_those_of_padded_rows(kind):
    model = architectures.build(kind)
    check_packing(model, "policy")
    layers = backbone(model)
    inputs = {"input_ids": ROWS.input_ids, "attention_mask": ROWS.attention_mask, "use_cache": False}
    with torch.no_grad():
        padded = read_layers(layers, StatesCall(ROWS.labels), (), inputs)[1]
    torch.testing.assert_close(states(layers, ROWS), padded, rtol=1e-4, atol=1e-4)


def test_masks_are_made_here_only_for_layers_that_pass_no_positions_on():
    for kind, how in (("llama", "positions"), ("opt", "masks"), ("gpt_oss", "masks")):
        model = architectures.build(kind)
        check_packing(model, "policy")
        assert getattr(backbone(model), HOW) == how, kind


@table(
    "kind, reason",
    [
        ("mamba", "takes no position_ids"), ("rwkv", "takes no position_ids"), ("bloom", "takes no position_ids"),
        ("mpt", "takes no position_ids"), ("jamba", "carry a state across"), ("qwen3_next", "carry a state across"),
        ("lfm2_moe", "carry a state across"), ("recurrent_gemma", "carry a state across"),
        ("roberta", "otherwise than alone"),
    ],
)  # fmt: skip
def test_layers_that_cannot_keep_rows_apart_are_refused(kind, reason):
    with pytest.raises(CannotPack, match=rf"training\.packing: the teacher \({kind}\).*{reason}.*leave"):
        check_packing(architectures.build(kind), "teacher")


def _by_lengths(module, query, key, value, attention_mask, scaling=None, cu_seq_lens_q=None, **kwargs):
    """What flash attention computes of rows that stand behind each other, from their lengths alone."""
    assert attention_mask is None
    assert query.size(0) == 1
    groups = query.size(1) // key.size(1)
    parts = []
    for start, stop in zip(cu_seq_lens_q[:-1].tolist(), cu_seq_lens_q[1:].tolist()):
        q, k, v = (one[:, :, start:stop] for one in (query, key, value))
        k, v = (one.repeat_interleave(groups, dim=1) for one in (k, v))
        parts.append(nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scaling))
    return torch.cat(parts, dim=2).transpose(1, 2), None


def test_flash_attention_is_given_rows_without_padding_and_their_lengths():
    policy = tiny.model("qwen3")
    add_objective_forward(policy)
    wanted = call_plan(plan_of(sft, "qwen3", policy), policy, ROWS.inputs()).loss
    AttentionInterface.register("flash_by_lengths", _by_lengths)
    policy.config._attn_implementation = "flash_by_lengths"
    torch.testing.assert_close(call_plan(plan_of(sft, "qwen3", policy), policy, PACKED).loss, wanted)


def test_no_token_is_predicted_across_rows():
    """The first token of a row has no label, wherever the row stands: the row before it has no say in the loss."""
    policy = tiny.model("llama")
    add_objective_forward(policy)
    every = ROWS._replace(labels=ROWS.input_ids.masked_fill(ROWS.attention_mask == 0, IGNORE))
    every.labels[:, 0] = IGNORE
    found = call_plan(plan_of(sft, "llama", policy), policy, {**every.inputs(), PLACE: PLACES})
    assert len(found.unreduced) == int(ROWS.attention_mask.sum()) - len(ROWS.labels)
    _both(plan_of(sft, "llama", policy), policy, every)
