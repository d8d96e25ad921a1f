"""What all prompts begin with is read once, rows of like length together, and nothing that follows can tell."""

import pytest
import torch
from transformers import DynamicCache

import tiny
from trimtab.decoding import _prefill
from trimtab.decoding._early_exit import early_exit
from trimtab.decoding._prefill import LEAST, prefill, shared_tokens

KINDS = ("llama_tied", "gpt2", "qwen3", "olmo2", "phi3", "cohere")
START = [7, 21, 35, 8, 14, 40, 29, 33, 12, 18]
OWN = [[5, 9], [31, 6, 44, 17, 23], [11], [31, 6, 2, 3]]


def padded(rows, pad=0):
    """[B, T] ids and mask, padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


PROMPT, MASK = padded([START + own for own in OWN])
SETTINGS = {"attention_mask": MASK, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}


def widths(model):
    sizes = []
    model.get_input_embeddings().register_forward_hook(lambda m, args, out: sizes.append(tuple(out.shape[:2])))
    return sizes


def test_tokens_that_all_rows_share_leave_each_one_of_its_own():
    assert shared_tokens(PROMPT, MASK) == 10
    assert shared_tokens(*padded([[1, 2, 3], [1, 2, 3]])) == 2
    assert shared_tokens(*padded([[1, 2, 3, 4], [1, 2]])) == 1
    assert shared_tokens(*padded([[1, 2, 3], [2, 2, 3]])) == 0
    assert shared_tokens(*padded([[1, 2, 3], [1, 9, 3]])) == 1  # what is equal further on is not shared
    assert shared_tokens(*padded([[4], [4, 5]])) == 0


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_logits_are_those_of_whole_prompts(kind):
    model = tiny.model(kind)
    prefilled = prefill(model, PROMPT, MASK)
    assert prefilled is not None
    assert prefilled.cache.get_seq_length() == 10
    rest = model(
        input_ids=prefilled.input_ids[:, 10:], attention_mask=prefilled.attention_mask,
        position_ids=prefilled.position_ids[:, 10:], past_key_values=prefilled.cache,
    ).logits[:, -1]  # fmt: skip
    for row, own in enumerate(OWN):
        alone = model(torch.tensor([START + own])).logits[0, -1]
        torch.testing.assert_close(rest[row], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_those_of_generate(kind):
    model = tiny.model(kind)
    expected = model.generate(PROMPT, **SETTINGS)
    sizes = widths(model)
    assert torch.equal(model.generate(PROMPT, custom_generate=early_exit, **SETTINGS), expected)
    assert sizes == [(1, 10), (4, 5), *[(4, 1)] * 5]


def test_a_model_that_always_gives_all_logits_is_not_passed_logits_to_keep():
    model = tiny.model("llama_tied")
    forward = model.forward

    def older(input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, use_cache=None):
        return forward(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids,
            past_key_values=past_key_values, use_cache=use_cache,
        )  # fmt: skip

    model.forward = older
    prefilled = prefill(model, PROMPT, MASK)
    assert prefilled is not None
    assert prefilled.cache.get_seq_length() == 10


def test_copies_of_a_prompt_are_read_once_behind_the_beginning():
    model = tiny.model("llama_tied")
    twice, mask = PROMPT.repeat_interleave(2, dim=0), MASK.repeat_interleave(2, dim=0)
    settings = {**SETTINGS, "attention_mask": mask}
    expected = model.generate(twice, **settings)
    sizes = widths(model)
    assert torch.equal(model.generate(twice, custom_generate=early_exit, **settings), expected)
    assert sizes[:3] == [(1, 10), (4, 5), (8, 1)]


def test_nothing_is_read_apart_where_nothing_is_gained():
    model = tiny.model("llama_tied")
    assert prefill(model, PROMPT[:1], MASK[:1]) is None
    short = padded([START[: LEAST - 1] + own for own in OWN])
    assert prefill(model, *short) is None
    assert prefill(model, *padded([START[:LEAST] + own for own in OWN])) is not None


def test_a_sliding_window_is_refused_and_its_cache_stays_empty():
    """Its columns count the gap."""
    model = tiny.model("gemma3")
    cache = DynamicCache(config=model.config)
    assert any(layer.is_sliding for layer in cache.layers)
    assert prefill(model, PROMPT, MASK, cache) is None
    assert cache.get_seq_length() == 0
    settings = {**SETTINGS, "max_new_tokens": 3}
    assert torch.equal(
        model.generate(PROMPT, custom_generate=early_exit, **settings), model.generate(PROMPT, **settings)
    )


def test_padding_on_the_right_and_prompts_without_a_mask_are_left_alone():
    model = tiny.model("llama_tied")
    assert prefill(model, PROMPT.flip(1), MASK.flip(1)) is None
    assert prefill(model, PROMPT, None) is None


def test_a_model_without_positions_is_refused():
    model = tiny.model("llama_tied")
    forward = model.forward
    model.forward = lambda input_ids=None, attention_mask=None, past_key_values=None: forward(input_ids)
    assert prefill(model, PROMPT, MASK) is None


# ---------------------------------------------------------------- rows of like length


@pytest.fixture
def few_together(monkeypatch):
    monkeypatch.setattr(_prefill, "TOGETHER", {"cpu": 6})


OTHERS = [[5, 9], [31, 6, 44, 17, 23], [11], [31, 6, 2, 3, 9, 9, 8], [1, 2]]
"""The rows of 7 and 5 tokens are read alone, then 2, 2 and 1 together."""


@pytest.mark.parametrize("start", [START, START[: LEAST - 1]], ids=["shared beginning", "none"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_logits_after_groups_are_those_of_whole_prompts(kind, start, few_together):
    model = tiny.model(kind)
    prefilled = prefill(model, *padded([start + own for own in OTHERS]))
    assert prefilled is not None
    assert prefilled.cache.get_seq_length() == len(start) + 6  # all columns but the last
    rest = model(
        input_ids=prefilled.input_ids[:, -1:], attention_mask=prefilled.attention_mask,
        position_ids=prefilled.position_ids[:, -1:], past_key_values=prefilled.cache,
    ).logits[:, -1]  # fmt: skip
    for row, own in enumerate(OTHERS):
        alone = model(torch.tensor([start + own])).logits[0, -1]
        torch.testing.assert_close(rest[row], alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_after_groups_are_those_of_generate(kind, few_together):
    model = tiny.model(kind)
    ids, mask = padded([START + own for own in OTHERS])
    settings = {**SETTINGS, "attention_mask": mask}
    expected = model.generate(ids, **settings)
    sizes = widths(model)
    assert torch.equal(model.generate(ids, custom_generate=early_exit, **settings), expected)
    assert sizes == [(1, 10), (1, 6), (1, 4), (3, 1), *[(5, 1)] * 6]


def test_a_group_holds_as_many_tokens_as_are_read_at_a_time():
    assert _prefill._groups([2, 5, 1, 7, 2], 6) == [[3], [1], [0, 4, 2]]
    assert _prefill._groups([2, 2, 2, 2], 4) == [[0, 1], [2, 3]]
    assert _prefill._groups([2, 5, 1], None) == [[1, 0, 2]]
    assert _prefill._groups([9], 4) == [[0]]


def test_a_cache_that_was_given_is_filled_in_the_order_of_the_rows(few_together):
    model = tiny.model("llama_tied")
    ids, mask = padded(OTHERS)
    cache = DynamicCache(config=model.config)
    prefilled = prefill(model, ids, mask, cache)
    assert prefilled is not None
    assert prefilled.cache is cache
    keys = cache.layers[0].keys  # [5, H, 6, D]
    assert torch.equal(prefilled.input_ids, ids)
    alone = DynamicCache(config=model.config)
    model(torch.tensor([OTHERS[1]]), past_key_values=alone)
    read = alone.layers[0].keys
    torch.testing.assert_close(keys[1, :, -4:], read[0, :, :4])


@pytest.mark.parametrize("rows", [[[31, 6, 2, 3, 9, 9, 8], [5], [7]], [[5], [31, 6, 44, 17, 23, 1]]])
def test_prompts_of_one_token_may_be_a_group_of_their_own(rows, few_together):
    model = tiny.model("llama_tied")
    ids, mask = padded(rows)
    settings = {**SETTINGS, "attention_mask": mask}
    expected = model.generate(ids, **settings)
    sizes = widths(model)
    assert torch.equal(model.generate(ids, custom_generate=early_exit, **settings), expected)
    assert sizes[:2] == [(1, max(map(len, rows)) - 1), (len(rows), 1)]
