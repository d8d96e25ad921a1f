"""One network, two ways through it: at the ends of the dial the two models themselves, between them their mixture."""

from functools import partial

import pytest
import torch

import tiny
from tiny_table import families
from trimtab.decoding.realign import realign
from trimtab.models.identity_layer import IdentityLayerError, bypass, identity_layer, insert_identity_layer

KINDS = families(
    ("llama_tied", "gemma3", "gpt2", "smollm3", "mistral", "olmo2"), ("llama_tied", "gemma3", "gpt2", "olmo2")
)
PROMPT = torch.tensor([[5, 9, 20, 11, 30, 7], [4, 4, 31, 12, 8, 3], [6, 44, 3, 3, 17, 21]])
GREEDY = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
LOGITS = {"return_dict_in_generate": True, "output_logits": True}


def pair(kind="llama_tied"):
    """The original, and the same with an identity layer that was trained."""
    original = tiny.model(kind)
    expanded = insert_identity_layer(original)
    with torch.no_grad():
        for weight in identity_layer(expanded).parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)
    return original, expanded


def at(strength, model, prompt=PROMPT, **changes):
    return model.generate(prompt, custom_generate=realign, strength=strength, **{**GREEDY, **changes})


def logits(output):
    return torch.stack(output.logits, dim=1)  # [B, new, V]


# ---------------------------------------------------------------- the ends of the dial


@pytest.mark.parametrize("kind", KINDS)
def test_at_0_it_is_the_original_model_and_at_1_the_expanded_one_to_the_last_bit(kind):
    original, expanded = pair(kind)
    found = []
    for strength, model in ((0.0, original), (1.0, expanded)):
        ours, stock = at(strength, expanded, **LOGITS), model.generate(PROMPT, **GREEDY, **LOGITS)
        assert torch.equal(ours.sequences, stock.sequences)
        assert torch.equal(logits(ours), logits(stock))
        found.append(ours.sequences)
    assert not torch.equal(*found)


@pytest.mark.parametrize("strength, rows", [(0, 3), (1, 3), (0.5, 6), ([0, 0.5, 1], 4), ([[0.0], [0.0]], 3)])
def test_a_request_runs_only_the_streams_that_it_needs(strength, rows):
    _, expanded = pair()
    sizes = set()
    expanded.get_input_embeddings().register_forward_hook(lambda m, args, out: sizes.add(out.size(0)))
    at(strength, expanded)
    assert sizes == {rows}


# ---------------------------------------------------------------- mixing what the layer hands on


@pytest.mark.parametrize("kind", KINDS)
def test_merged_at_the_embedding_the_ends_are_the_two_models_in_one_way(kind):
    original, expanded = pair(kind)
    sizes = set()
    for strength, model in ((0.0, original), (1.0, expanded)):
        stock = model.generate(PROMPT, **GREEDY, **LOGITS)
        hook = expanded.get_input_embeddings().register_forward_hook(lambda m, args, out: sizes.add(out.size(0)))
        ours = at(strength, expanded, merge="embedding", **LOGITS)
        hook.remove()
        assert torch.equal(ours.sequences, stock.sequences)
        assert torch.equal(logits(ours), logits(stock))
    assert sizes == {len(PROMPT)}


@pytest.mark.parametrize("strength", [-0.5, 0.5, 1.7])
def test_merged_at_the_embedding_each_request_gets_its_own_mixture(strength):
    _, expanded = pair()
    found = at([0.0, strength, 1.0], expanded, merge="embedding", **LOGITS)
    layer = identity_layer(expanded)

    def by_hand(module, args, kwargs, output):
        given, made = (args or (kwargs["hidden_states"],))[0], output if torch.is_tensor(output) else output[0]
        mixed = given + strength * (made - given)
        return mixed if torch.is_tensor(output) else (mixed, *output[1:])

    hook = layer.register_forward_hook(by_hand, with_kwargs=True)
    wanted = expanded(found.sequences[1:2, :-1]).logits[0, PROMPT.size(1) - 1 :]
    hook.remove()
    torch.testing.assert_close(logits(found)[1], wanted, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(logits(found)[1], logits(at(strength, expanded, **LOGITS))[1], atol=1e-3)


def test_merged_at_the_embedding_a_schedule_reaches_each_token():
    """The first token is the original model's, and what is read after it is read by the aligned one."""
    _, expanded = pair()
    found = at([[0.0], [1.0]], expanded, merge="embedding", **LOGITS)
    with bypass(expanded):
        start = expanded(PROMPT, use_cache=True)
    torch.testing.assert_close(logits(found)[:, 0], start.logits[:, -1])
    second = expanded(found.sequences[:, PROMPT.size(1)][:, None], past_key_values=start.past_key_values)
    torch.testing.assert_close(logits(found)[:, 1], second.logits[:, -1])


def test_another_merge_is_refused():
    with pytest.raises(ValueError, match="merge must be one of logits, embedding, got 'hidden'"):
        at(0.5, pair()[1], merge="hidden")


# ---------------------------------------------------------------- between and beyond


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_linear_in_the_strength(kind):
    original, expanded = pair(kind)
    with torch.no_grad():
        z_original, z_aligned = (model(PROMPT).logits[:, -1] for model in (original, expanded))
    for strength in (-0.5, 0.3, 1.5, 2.0):
        found = logits(at(strength, expanded, max_new_tokens=1, **LOGITS))[:, 0]
        wanted = (1 - strength) * z_original + strength * z_aligned
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("strength", [0.5, [0.0, 0.5, 1.0]])
def test_with_and_without_a_cache_it_is_the_same(kind, strength):
    _, expanded = pair(kind)
    assert torch.equal(at(strength, expanded), at(strength, expanded, use_cache=False))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_different_strengths_equals_one_run_for_each(kind):
    _, expanded = pair(kind)
    strengths = [0.0, 0.6, 1.0]
    together = at(torch.tensor(strengths), expanded, **LOGITS)
    for i, strength in enumerate(strengths):
        alone = at(strength, expanded, PROMPT[i : i + 1], **LOGITS)
        assert torch.equal(together.sequences[i], alone.sequences[0])
        torch.testing.assert_close(logits(together)[i], logits(alone)[0], rtol=1e-4, atol=1e-5)


def test_both_streams_read_the_tokens_that_were_chosen():
    original, expanded = pair()
    output = at(0.5, expanded, **LOGITS)
    with torch.no_grad():
        both = [model(output.sequences).logits[:, PROMPT.size(1) - 1 : -1] for model in (original, expanded)]
    torch.testing.assert_close(logits(output), (both[0] + both[1]) / 2, rtol=1e-4, atol=1e-5)


def test_minus_infinity_stays_improbable_and_makes_no_nan():
    _, expanded = pair()

    def ban(module, args, output):
        output[..., 7] = -torch.inf
        return output

    expanded.get_output_embeddings().register_forward_hook(ban)
    for strength in (-1.0, 0.0, 0.5, 1.0, 2.0):
        found = logits(at(strength, expanded, **LOGITS))
        assert not found.isnan().any()
        assert (found[..., 7] <= -29_000).all()


def test_float32_whatever_the_model_computes_in():
    _, expanded = pair()
    expanded.to(torch.bfloat16)
    found = at(0.5, expanded, **LOGITS)
    assert logits(found).dtype == torch.float32


# ---------------------------------------------------------------- schedules


def test_a_schedule_is_followed_token_by_token_and_its_last_entry_holds_on():
    original, expanded = pair()
    output = at([[0.0], [1.0], [0.25]], expanded, **LOGITS)
    with torch.no_grad():
        z = [model(output.sequences).logits[:, PROMPT.size(1) - 1 : -1] for model in (original, expanded)]
    strengths = torch.tensor([0.0, 1.0, *[0.25] * 6])[None, :, None]
    torch.testing.assert_close(logits(output), (1 - strengths) * z[0] + strengths * z[1], rtol=1e-4, atol=1e-5)


def test_a_schedule_may_differ_between_requests_and_may_be_a_function():
    _, expanded = pair()
    table = torch.tensor([[0.0, 0.5, 1.0], [1.0, 0.5, 0.5], [0.25, 2.0, 1.0]])
    as_table = at(table, expanded)
    assert torch.equal(as_table, at(lambda step: table[min(step, 2)], expanded))
    assert torch.equal(at([[0.0], [1.0]], expanded), at(lambda step: float(step > 0), expanded))
    for i in range(3):
        assert torch.equal(as_table[i : i + 1], at(table[:, i : i + 1], expanded, PROMPT[i : i + 1]))


# ---------------------------------------------------------------- what generate() is asked for


@pytest.mark.parametrize("kind", KINDS)
def test_left_padding_changes_nothing(kind):
    _, expanded = pair(kind)
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), PROMPT[:1, 2:]], dim=1)
    both = torch.cat([padded, torch.cat([PROMPT[1:2], PROMPT[2:, :2]], dim=1)])
    mask = torch.ones_like(both)
    mask[0, :4] = 0
    found = at([0.5, 0.7], expanded, both, attention_mask=mask)
    assert torch.equal(found[0, 8:], at(0.5, expanded, PROMPT[:1, 2:])[0, 4:])
    assert torch.equal(found[1], at(0.7, expanded, both[1:])[0])


def test_sampling_is_that_of_generate_and_repeats_with_its_seed():
    original, expanded = pair()
    sampling = {"do_sample": True, "temperature": 0.8, "top_p": 0.9, "top_k": 20}
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(at(0.5, expanded, **sampling))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    for strength, model in ((0.0, original), (1.0, expanded)):
        torch.manual_seed(3)
        ours = at(strength, expanded, **sampling)
        torch.manual_seed(3)
        assert torch.equal(ours, model.generate(PROMPT, **{**GREEDY, **sampling}))


def test_processors_see_the_mixed_logits():
    _, expanded = pair()
    free = at(0.5, expanded)
    banned = int(free[0, PROMPT.size(1)])
    found = at(0.5, expanded, bad_words_ids=[[banned]], output_scores=True, **LOGITS)
    assert banned not in found.sequences[:, PROMPT.size(1) :]
    assert torch.equal(logits(found)[:, 0], logits(at(0.5, expanded, **LOGITS))[:, 0])
    assert torch.isneginf(found.scores[0][:, banned]).all()


def test_each_row_ends_with_its_own_end_token_and_is_padded():
    _, expanded = pair()
    free = at([0.5, 0.2, 0.9], expanded)
    end = int(free[0, PROMPT.size(1) + 2])
    found = at([0.5, 0.2, 0.9], expanded, eos_token_id=end)
    for row, whole in zip(found[:, PROMPT.size(1) :], free[:, PROMPT.size(1) :]):
        stops = (whole == end).nonzero()[:1, 0] + 1
        length = int(stops) if len(stops) else row.size(0)
        assert torch.equal(row[:length], whole[: row.size(0)][:length])
        assert (row[length:] == 0).all()
    alone = at(0.5, expanded, PROMPT[:1], eos_token_id=end)
    assert alone[0, -1] == end
    assert alone.size(1) <= PROMPT.size(1) + 3


def test_several_samples_of_a_request_have_its_strength():
    _, expanded = pair()
    several = {"do_sample": True, "top_k": 1, "num_return_sequences": 2}
    found = at([0.0, 0.5, 1.0], expanded, **several)
    assert torch.equal(found, at([0.0, 0.5, 1.0], expanded).repeat_interleave(2, dim=0))


def test_a_streamer_gets_the_new_tokens():
    class Streamer:
        def __init__(self):
            self.seen, self.ended = [], False

        def put(self, tokens):
            self.seen += tokens.tolist()

        def end(self):
            self.ended = True

    _, expanded = pair()
    streamer = Streamer()
    found = expanded.generate(PROMPT[:1], custom_generate=partial(realign, streamer=streamer), strength=0.5, **GREEDY)
    assert streamer.seen == found[0, PROMPT.size(1) :].tolist()
    assert streamer.ended


def test_it_works_through_peft():
    from peft import LoraConfig, get_peft_model

    original, expanded = pair()
    wanted = at(0.5, expanded)
    adapted = get_peft_model(expanded, LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[0])).eval()
    assert torch.equal(at(0.5, adapted), wanted)
    assert torch.equal(at(0.0, adapted), original.generate(PROMPT, **GREEDY))


def test_nothing_is_left_behind():
    _, expanded = pair()
    before = expanded.generate(PROMPT, **GREEDY)
    at(0.5, expanded)
    with pytest.raises(RuntimeError, match="stop"):
        at(lambda step: (_ for _ in ()).throw(RuntimeError("stop")), expanded)
    assert not identity_layer(expanded)._forward_hooks
    assert torch.equal(expanded.generate(PROMPT, **GREEDY), before)
    with bypass(expanded):  # from outside: both streams go around
        assert torch.equal(at(0.5, expanded), tiny.model("llama_tied").generate(PROMPT, **GREEDY))


# ---------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    "strength, message",
    [
        (float("nan"), "strength must be finite, got nan"),
        ([0.0, float("inf"), 1.0], "strength must be finite"),
        ([0.0, 1.0], r"shape \[2\] for 3 requests; give a number, one for each request, or a schedule"),
        ([[0.0, 1.0]], r"shape \[1, 2\] for 3 requests"),
        ([], r"shape \[0\] for 3 requests"),
        ("strong", "strength must consist of numbers, got 'strong'"),
        (None, "strength must consist of numbers, got None"),
        (torch.zeros(1, 1, 1), r"shape \[1, 1, 1\]"),
        (lambda step: [0.0, 1.0], r"shape \[2\] for 3 requests"),
        (lambda step: [[0.0]], r"shape \[1, 1\] for 3 requests"),
        (lambda step: float("nan"), "strength must be finite"),
    ],
)
def test_a_strength_that_means_nothing_is_refused(strength, message):
    _, expanded = pair()
    with pytest.raises(ValueError, match=message):
        at(strength, expanded)


def test_a_model_without_an_identity_layer_is_refused():
    with pytest.raises(IdentityLayerError, match="LlamaForCausalLM .* has no identity layer"):
        at(0.5, tiny.model())


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"num_beams": 2}, "not 2 beams"),
        ({"output_attentions": True, "return_dict_in_generate": True}, "output_attentions is not supported"),
        ({"output_hidden_states": True, "return_dict_in_generate": True}, "output_hidden_states is not supported"),
    ],
)
def test_what_it_does_not_do_is_refused(settings, message):
    _, expanded = pair()
    with pytest.raises(ValueError, match=message):
        at(0.5, expanded, **settings)


def test_a_cache_that_holds_something_is_refused():
    _, expanded = pair()
    cache = expanded(PROMPT, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="past_key_values must be empty"):
        at(0.5, expanded, torch.cat([PROMPT, PROMPT[:, :1]], dim=1), past_key_values=cache)
