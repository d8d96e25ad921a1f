"""With a number for each row and position, what a row draws depends on nothing else."""

from functools import partial

import pytest
import torch

import tiny
from trimtab.core.draws import hashed_uniform, inverse_cdf
from trimtab.decoding._config import generate

PROMPT = torch.tensor([[0, 9, 20, 11], [5, 4, 31, 12], [0, 9, 20, 11], [0, 0, 3, 17], [6, 44, 3, 8], [5, 4, 31, 12]])
MASK = (PROMPT != 0).long()
LIMITS = {"temperature": 0.6, "top_k": 20, "top_p": 0.8}


class Tokenizer:
    """What `generate` asks of one."""

    pad_token_id = eos_token_id = 1

    def __len__(self) -> int:
        return 64


def numbers(rows, position: int, seed: int = 0):
    return hashed_uniform(seed, 0, rows, torch.full_like(rows, position))


def sampled(kind: str = "llama_tied", some=slice(None), leave: bool = False, uniform=numbers, ends=(1,), **changes):
    """[B, 12] new tokens, and 0 after an end token."""
    model = tiny.model(kind, initializer_range=0.3)
    model.generation_config.eos_token_id = list(ends)
    given = {"input_ids": PROMPT[some], "attention_mask": MASK[some]}
    how = {"do_sample": True, "leave": leave, "uniform": uniform, **changes}
    found = generate(model, Tokenizer(), given, 12, **how)[:, PROMPT.size(1) :]
    found = torch.nn.functional.pad(found, (0, 12 - found.size(1)))
    after = torch.isin(found, torch.tensor(ends)).cumsum(dim=1).roll(1, 1) * (torch.arange(12) > 0)
    return found.masked_fill(after > 0, 0)


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2", "gemma3"])
@pytest.mark.parametrize("leave", [False, True])
def test_a_row_alone_draws_what_it_draws_among_others(kind, leave):
    found = sampled(kind, leave=leave, **LIMITS)
    assert not torch.equal(found[0], found[2])  # rows of one prompt
    assert torch.equal(found, sampled(kind, leave=not leave, **LIMITS))
    for row in range(len(PROMPT)):
        own = partial(lambda row, rows, position: numbers(rows + row, position), row)
        assert torch.equal(sampled(kind, slice(row, row + 1), leave, own, **LIMITS)[0], found[row])


def test_tokens_do_not_depend_on_rows_that_have_left():
    ends = tuple(range(1, 16))
    found = sampled(leave=True, ends=ends)
    lengths = (found > 0).sum(dim=1)
    assert len(lengths.unique()) > 2
    assert torch.equal(found, sampled(leave=False, ends=ends))


def test_the_tokens_are_drawn_from_the_distribution_that_generate_samples_from():
    """The first one, worked out from the model's own logits."""
    model = tiny.model("llama_tied", initializer_range=0.3)
    with torch.no_grad():
        logits = model(input_ids=PROMPT[[1, 4, 5]]).logits[:, -1] / 0.6
    best = logits.topk(20)
    p = best.values.softmax(-1)
    inside = p.cumsum(-1) - p < 0.8
    wanted = torch.zeros_like(logits).scatter(1, best.indices, p * inside)
    for leave in (False, True):
        found = sampled(leave=leave, **LIMITS)[[1, 4, 5], 0]
        assert torch.equal(found, inverse_cdf(wanted, numbers(torch.tensor([1, 4, 5]), 0)))


def test_greedy_tokens_and_beams_are_those_of_generate():
    for how in ({"do_sample": False}, {"do_sample": False, "num_beams": 2}):
        assert torch.equal(sampled(**how), sampled(uniform=None, **how))


def test_the_model_draws_as_before_afterwards():
    model = tiny.model("llama_tied")
    given = {"input_ids": PROMPT, "attention_mask": MASK}
    generate(model, Tokenizer(), given, 2, do_sample=True, uniform=numbers)
    assert "_get_logits_processor" not in vars(model)
