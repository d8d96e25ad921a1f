"""Rows that begin alike are read once and come out as if each were read alone."""

from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import architectures
import tiny
from tiny_plans import plan_of, same_as_padded
from tiny_table import families, table
from trimtab.core import IGNORE
from trimtab.data.collate import Collator
from trimtab.data.shared_prefixes import SharedPrefixes, shared_places
from trimtab.methods import dpo, hpd, kd, psft, sft, trra
from trimtab.models.adapters import add_lora
from trimtab.models.forward import StatesCall, add_objective_forward, backbone, read_layers
from trimtab.models.packing import PLACE, packs, seen_in
from trimtab.models.packing_check import CannotPack, check_sharing, settle_sharing
from trimtab.signals.base import call_plan

A, B, C, D = [5, 6, 7, 8], [5, 6, 7, 9, 4], [5, 6, 3], [9, 9, 9]


def test_rows_stand_behind_the_row_they_share_most_with():
    found = shared_places([A, B, C, D])
    assert found is not None
    # in order C, A, B: A shares [5, 6] with C, B [5, 6, 7] with A; D has a pack of its own, or room behind another
    pack, start, shared = found.T.tolist()
    assert shared == [2, 3, 0, 0]
    assert pack[0] == pack[1] == pack[2] != pack[3]
    assert start == [3, 5, 0, 0]


def test_rows_that_begin_otherwise_or_hardly_alike_are_padded_as_ever():
    assert shared_places([A, D]) is None
    assert shared_places([[1, *range(10, 30)], [1, *range(40, 60)]]) is None  # the first token alone
    assert shared_places([A]) is None


def test_a_row_that_stands_twice_keeps_a_token_of_its_own():
    found = shared_places([A, A])
    assert found is not None
    assert found.tolist() == [[0, 0, 0], [0, 4, 3]]


def test_a_pack_is_no_longer_than_two_rows():
    rows = [[*range(100), 200 + i] for i in range(300)]
    found = shared_places(rows)
    assert found is not None
    assert int((found[:, 1] + 101 - found[:, 2]).max()) <= 202
    assert len(found[:, 0].unique()) == 3


def test_layout_positions_and_what_is_seen_by_hand():
    ids = torch.tensor([[5, 6, 7], [5, 6, 9], [3, 0, 0]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 0, 0]])
    places = torch.tensor([[0, 0, 0], [0, 3, 2], [1, 0, 0]])
    found = packs(ids, mask, places)
    seen = seen_in(found, mask, places)
    assert found.arguments["input_ids"][0].tolist() == [5, 6, 7, 9]
    assert found.arguments["position_ids"][0].tolist() == [0, 1, 2, 2]
    assert found.index.tolist() == [[0, 1, 2], [0, 1, 3], [4, 0, 0]]
    assert found.mask.tolist() == [[True] * 4, [True, False, False, False]]
    assert seen[0].int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 0, 1]]
    assert seen[1].int().tolist() == torch.eye(4, dtype=torch.int).tolist()


def _tree() -> tiny.Rows:
    """Six rows: a trunk of turns (each row goes on where an earlier one ended), a branch, and strangers."""
    rows = tiny.rows(((3, 5), (7, 4), (9, 3), (6, 2), (1, 3), (4, 4)), width=13)
    rows.input_ids[1, :8] = rows.input_ids[0, :8]
    rows.input_ids[2, :11] = rows.input_ids[1, :11]
    rows.input_ids[3, :5] = rows.input_ids[0, :5]
    labels = rows.input_ids.masked_fill(rows.labels == IGNORE, IGNORE)
    return rows._replace(labels=labels)


def _places(rows: tiny.Rows) -> torch.Tensor:
    lengths = rows.attention_mask.sum(dim=1).tolist()
    found = shared_places([ids[:size] for ids, size in zip(rows.input_ids.tolist(), lengths)])
    assert found is not None
    assert int((found[:, 2] > 0).sum()) == 3
    return found


def _same(plan: Any, policy: Any, rows: tiny.Rows | None = None) -> None:
    """Loss, values, metrics and gradient are those of rows that are read alone."""
    rows = _tree() if rows is None else rows
    same_as_padded(plan, policy, rows, _places(rows))


@pytest.mark.parametrize("kind", families(list(tiny._KINDS)))
@pytest.mark.parametrize("method", [sft, kd, hpd, trra], ids=lambda one: one.__name__.rpartition(".")[2])
def test_loss_and_gradient_are_those_of_rows_read_alone(method, kind):
    policy = tiny.model(kind)
    add_objective_forward(policy)
    _same(plan_of(method, kind, policy), policy)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_both_kinds_of_attention_take_the_mask(attention):
    policy = tiny.model("llama")
    policy.set_attn_implementation(attention)
    add_objective_forward(policy)
    _same(plan_of(sft, "llama", policy), policy)
    _same(plan_of(psft, "llama", policy, loss_agg="seq-mean-token-mean"), policy)


def test_a_pair_shares_its_prompt():
    policy = tiny.model("gemma2")
    add_objective_forward(policy)
    rows = tiny.rows(((5, 3), (5, 6), (4, 2), (4, 3)))
    rows.input_ids[1, :5] = rows.input_ids[0, :5]
    rows.input_ids[3, :4] = rows.input_ids[2, :4]
    pairs = rows._replace(row_id=torch.tensor([3, 3, 9, 9]))
    found = shared_places([ids[:n] for ids, n in zip(rows.input_ids.tolist(), rows.attention_mask.sum(1).tolist())])
    assert found is not None
    plan = plan_of(dpo, "gemma2", policy)
    alone = call_plan(plan, policy, pairs.inputs(), seed=7, step=3)
    shared = call_plan(plan, policy, {**pairs.inputs(), PLACE: found}, seed=7, step=3)
    torch.testing.assert_close(shared.loss, alone.loss, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("changed", ["lora", "checkpointing", "bfloat16"])
def test_what_changes_the_policy_shares(changed):
    policy = tiny.model("mistral")
    add_objective_forward(policy)
    if changed == "lora":
        policy = add_lora(policy, {"r": 2, "target_modules": "all-linear", "init_lora_weights": False}, seed=0)
    elif changed == "checkpointing":
        policy.gradient_checkpointing_enable({"use_reentrant": False})
        policy.train()
    else:
        check_sharing(policy.bfloat16(), "policy", 12)
        return
    _same(plan_of(sft, "mistral", policy), policy)


@table("kind", ["llama", "gpt_oss", "opt", "mixtral", "qwen3_moe", "gemma3n_text", "gpt2", "phi", "falcon"])
def test_accepted_layers_give_the_states_of_rows_read_alone(kind):
    model = architectures.build(kind)
    check_sharing(model, "policy", 12)
    layers, rows = backbone(model), _tree()
    inputs = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask, "use_cache": False}
    with torch.no_grad():
        alone = read_layers(layers, StatesCall(rows.labels), (), dict(inputs))[1]
        shared = read_layers(layers, StatesCall(rows.labels, _places(rows)), (), dict(inputs))[1]
    torch.testing.assert_close(shared, alone, rtol=1e-4, atol=1e-4)


@table(
    "kind, reason",
    [
        ("mamba", "takes no position_ids"), ("bloom", "takes no position_ids"), ("jamba", "a mask of its own"),
        ("qwen3_next", "a mask of its own"),
    ],
)  # fmt: skip
def test_layers_that_cannot_share_are_refused(kind, reason):
    with pytest.raises(CannotPack, match=rf"training\.share_prefixes: the policy \({kind}\).*{reason}.*leave"):
        check_sharing(architectures.build(kind), "policy", 12)


def test_windows_go_by_positions_and_not_by_places_in_the_pack():
    for model in (tiny.model("mistral"), tiny.model("gemma3")):  # windows of 4: in all layers, and in some
        check_sharing(model, "policy", 40)
    check_sharing(architectures.build("llama4_text"), "policy", 40)  # chunks


def test_a_window_that_no_mask_shows_is_refused():
    config = architectures.config("gpt_neo")
    config.window_size = 16
    model = AutoModelForCausalLM.from_config(config).eval()
    check_sharing(model, "policy", 8)
    with pytest.raises(CannotPack, match=r"\(gpt_neo\) reads a row behind a shared beginning otherwise than alone"):
        check_sharing(model, "policy", 40)


def test_a_model_beside_the_policy_reads_whole_rows_where_it_cannot_share():
    other = architectures.build("jamba")
    (note,) = settle_sharing(tiny.model("llama"), [other], {"teacher": other}, 12)
    assert "the teacher (jamba)" in note
    assert note.endswith("it reads each row whole")


def test_batches_have_places_only_where_that_saves_tokens():
    collator = SharedPrefixes(Collator(0, 50))
    row = {"input_ids": A, "labels": [IGNORE, IGNORE, 7, 8], "row_id": 0}
    other = {"input_ids": D, "labels": [IGNORE, 9, 9], "row_id": 1}
    longer = {"input_ids": [*A, 3], "labels": [IGNORE] * 4 + [3], "row_id": 2}
    assert "place" not in collator([row, other])
    assert collator([row, longer])["place"].tolist() == [[0, 0, 0], [0, 4, 4]]
