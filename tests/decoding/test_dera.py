"""Two models at decode time: the same mixture as with an identity layer, from two sets of weights."""

from functools import partial

import pytest
import torch
from torch import nn

import tiny
from trimtab.decoding.dera import dera
from trimtab.decoding.realign import realign
from trimtab.models.identity_layer import bypass, identity_layer, insert_identity_layer

PROMPT = torch.tensor([[5, 9, 20, 11, 30, 7], [4, 4, 31, 12, 8, 3], [6, 44, 3, 3, 17, 21]])
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
LOGITS = {"return_dict_in_generate": True, "output_logits": True}
SCHEDULE = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.5, 0.5], [0.25, 2.0, 1.0]])


def mixed(reference, aligned, strength, prompt=PROMPT, **changes):
    settings = {**GREEDY, **changes}
    return reference.generate(prompt, custom_generate=dera, aligned=aligned, strength=strength, **settings)


def logits(output):
    return torch.stack(output.logits, dim=1)


@pytest.mark.parametrize("kind", ["llama_tied", "gemma2", "gpt2"])
def test_at_the_ends_it_is_one_model_and_the_other_is_not_called(kind):
    reference, aligned = tiny.model(kind), tiny.model(kind, seed=1)
    calls = []
    for model in (reference, aligned):
        model.register_forward_hook(lambda m, args, out: calls.append(m))
    for strength, model, other in ((0, reference, aligned), (1, aligned, reference)):
        wanted = model.generate(PROMPT, **GREEDY, **LOGITS)
        calls.clear()
        found = mixed(reference, aligned, strength, **LOGITS)
        assert torch.equal(found.sequences, wanted.sequences)
        assert torch.equal(logits(found), logits(wanted))
        assert other not in calls


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("strength", [-0.5, 0.5, 2.0, [0.0, 0.5, 1.0], SCHEDULE, lambda step: 1 / (1 + step)])
def test_with_the_weights_of_an_expanded_model_it_equals_realign(strength, use_cache):
    reference = tiny.model("llama_tied")
    expanded = insert_identity_layer(reference)
    with torch.no_grad():
        for weight in identity_layer(expanded).parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    padded = torch.ones_like(PROMPT)
    padded[1, :3] = 0
    settings = {**GREEDY, **LOGITS, "attention_mask": padded, "use_cache": use_cache}
    ours = expanded.generate(PROMPT, custom_generate=realign, strength=strength, **settings)
    found = mixed(reference, expanded, strength, **settings)
    assert torch.equal(found.sequences, ours.sequences)
    torch.testing.assert_close(logits(found), logits(ours), rtol=1e-4, atol=1e-5)
    with bypass(expanded):
        assert torch.equal(mixed(expanded, reference, 0.5), reference.generate(PROMPT, **GREEDY))


def test_logits_are_linear_in_the_strength():
    reference, aligned = tiny.model(), tiny.model(seed=1)
    with torch.no_grad():
        z = [model(PROMPT).logits[:, -1] for model in (reference, aligned)]
    for strength in (-0.5, 0.3, 1.5):
        found = logits(mixed(reference, aligned, strength, max_new_tokens=1, **LOGITS))[:, 0]
        torch.testing.assert_close(found, (1 - strength) * z[0] + strength * z[1], rtol=1e-5, atol=1e-5)


def test_each_model_has_a_cache_of_its_own():
    # of another depth, so that one cache for both would not fit
    reference, aligned = tiny.model(), tiny.model(seed=1, num_hidden_layers=3)
    assert torch.equal(mixed(reference, aligned, 0.5), mixed(reference, aligned, 0.5, use_cache=False))


def test_the_aligned_model_may_be_wrapped():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    reference, aligned = tiny.model(), tiny.model(seed=1)
    assert torch.equal(mixed(reference, Wrapper(aligned), 0.5), mixed(reference, aligned, 0.5))


def test_a_streamer_gets_the_new_tokens():
    class Streamer(list):
        def put(self, tokens):
            self.extend(tokens.tolist())

        def end(self):
            self.append("end")

    streamer = Streamer()
    strategy = partial(dera, streamer=streamer, aligned=tiny.model(seed=1))
    found = tiny.model().generate(PROMPT[:1], custom_generate=strategy, strength=0.5, **GREEDY)
    assert streamer == [*found[0, PROMPT.size(1) :].tolist(), "end"]


def test_mistakes_are_refused():
    reference = tiny.model()
    with pytest.raises(ValueError, match=r"dera needs the aligned model: generate\(\.\.\., custom_generate=dera"):
        reference.generate(PROMPT, custom_generate=dera, strength=0.5, **GREEDY)
    with pytest.raises(ValueError, match="have 53 and 61 tokens; they must have the same"):
        mixed(reference, tiny.model(vocab_size=61), 0.5)
    with pytest.raises(ValueError, match="strength must be finite"):
        mixed(reference, tiny.model(seed=1), float("inf"))
    with pytest.raises(ValueError, match="not with 3 beams"):
        mixed(reference, tiny.model(seed=1), 0.5, num_beams=3)
    with pytest.raises(ValueError, match="Linear holds no transformers model"):
        mixed(reference, nn.Linear(1, 1), 0.5)
