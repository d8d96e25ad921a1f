"""Ragged generation gives what `generate` gives, and computes only rows that go on and prompts that differ."""

import pytest
import torch
from transformers import StaticCache
from transformers.generation import LogitsProcessor

import tiny
from trimtab.decoding._early_exit import early_exit

KINDS = ("llama_tied", "gemma3", "gpt2", "mistral", "olmo2", "phi3")
PROMPT = torch.tensor([[0, 9, 20, 11], [5, 4, 31, 12], [0, 9, 20, 11], [0, 0, 3, 17], [6, 44, 3, 8], [5, 4, 31, 12]])
MASK = (PROMPT != 0).long()
LENGTHS = (3, 9, 2, 6, 9, 2)
END = 1


class EndAt(LogitsProcessor):
    """Nothing ends a row before its length, and the end token then; a row is known by its first new token."""

    def __init__(self, firsts, lengths):
        self.length_of = dict(zip(firsts, lengths))
        self.firsts = list(firsts)

    def __call__(self, input_ids, scores):
        made = input_ids.size(1) - PROMPT.size(1)
        scores = scores.clone()
        scores[:, END] = -torch.inf
        for row, ids in enumerate(input_ids.tolist()):
            if made == 0:
                forced = self.firsts[row]
            elif made == self.length_of[ids[PROMPT.size(1)]] - 1:
                forced = END
            else:
                continue
            scores[row] = -torch.inf
            scores[row, forced] = 0.0
        return scores


def settings(**changes):
    shared = {"attention_mask": MASK, "max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, "eos_token_id": END}
    return {**shared, "logits_processor": [EndAt(range(40, 46), LENGTHS)], **changes}


def watch(model):
    """Sizes of the batches that go through the model, as they come."""
    sizes = []
    model.get_input_embeddings().register_forward_hook(lambda m, args, out: sizes.append(tuple(out.shape[:2])))
    return sizes


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_tokens_are_those_of_generate(kind):
    model = tiny.model(kind)
    found = model.generate(PROMPT, custom_generate=early_exit, **settings())
    assert torch.equal(found, model.generate(PROMPT, **settings()))
    assert found.shape == (6, 13)
    assert (found[2, 6:] == 0).all()


def test_rows_that_have_ended_leave_and_equal_prompts_are_read_once():
    model = tiny.model("llama_tied")
    sizes = watch(model)
    model.generate(PROMPT, custom_generate=early_exit, **settings())
    assert sizes == [(4, 4), (6, 1), (4, 1), (3, 1), (3, 1), (3, 1), (2, 1), (2, 1), (2, 1)]


def test_a_few_that_have_ended_wait_for_others():
    model = tiny.model("llama_tied")
    sizes = watch(model)
    prompt = torch.cat([PROMPT, PROMPT])
    asked = settings(attention_mask=MASK.repeat(2, 1), logits_processor=[EndAt(range(40, 52), (2, 3, *[6] * 10))])
    found = model.generate(prompt, custom_generate=early_exit, **asked)
    assert [rows for rows, _ in sizes] == [4, 12, 12, 10, 10, 10]
    assert (found[0, PROMPT.size(1) + 2 :] == 0).all()


def test_prompts_that_differ_by_their_padding_alone_are_two():
    """Token 0 pads the first and begins the second."""
    model = tiny.model("llama_tied")
    prompt, mask = torch.tensor([[0, 9, 20], [0, 9, 20]]), torch.tensor([[0, 1, 1], [1, 1, 1]])
    plain = {"attention_mask": mask, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    sizes = watch(model)
    found = model.generate(prompt, custom_generate=early_exit, **plain)
    assert sizes[0] == (2, 3)
    assert torch.equal(found, model.generate(prompt, **plain))


def test_sampled_tokens_have_the_probabilities_of_the_model():
    model = tiny.model("llama_tied")
    prompt = PROMPT[[1]].expand(4000, -1)
    torch.manual_seed(0)
    found = model.generate(
        prompt, custom_generate=early_exit, max_new_tokens=1, do_sample=True, pad_token_id=0, top_k=0
    )
    shares = torch.bincount(found[:, -1], minlength=model.config.vocab_size) / 4000
    wanted = model(PROMPT[[1]]).logits[0, -1].softmax(-1)
    assert 0.5 * (shares - wanted).abs().sum() < 0.1  # total variation; .05 expected of 4,000 draws from 50 tokens


def test_the_rows_that_continue_are_drawn_from_their_own_probabilities():
    """A row's past is still its own after others have left: each new token's rank under the model is that of greedy."""
    model = tiny.model("llama_tied")
    found = model.generate(PROMPT, custom_generate=early_exit, **settings(do_sample=True, temperature=1e-6))
    assert torch.equal(found, model.generate(PROMPT, **settings()))


def test_without_an_end_token_every_row_goes_to_the_limit():
    model = tiny.model("gpt2")
    plain = {"attention_mask": MASK, "max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(model.generate(PROMPT, custom_generate=early_exit, **plain), model.generate(PROMPT, **plain))


@pytest.mark.parametrize("how", [{"use_cache": False}, {"cache_implementation": "static"}])
def test_with_no_cache_or_a_static_one_the_tokens_are_the_same(how):
    model = tiny.model("llama_tied")
    found = model.generate(PROMPT, custom_generate=early_exit, **settings(), **how)
    assert torch.equal(found, model.generate(PROMPT, **settings()))


def test_rows_of_a_static_cache_stay():
    model = tiny.model("llama_tied")
    sizes = watch(model)
    model.generate(PROMPT, custom_generate=early_exit, **settings(), cache_implementation="static")
    assert {rows for rows, _ in sizes} == {6}


def test_what_it_does_not_do_is_refused():
    model = tiny.model("llama_tied")
    with pytest.raises(ValueError, match="not 2 beams"):
        model.generate(PROMPT, custom_generate=early_exit, **settings(num_beams=2))
    with pytest.raises(ValueError, match="return_dict_in_generate"):
        model.generate(PROMPT, custom_generate=early_exit, **settings(return_dict_in_generate=True))
    full = StaticCache(config=model.config, max_cache_len=20)
    model(PROMPT, past_key_values=full)
    with pytest.raises(ValueError, match="must be empty"):
        model.generate(PROMPT, custom_generate=early_exit, past_key_values=full, **settings())
