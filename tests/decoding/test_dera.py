"""Two models at decode time: the same mixture as with an identity layer, from two sets of weights."""

import copy
from functools import partial
from typing import ClassVar
from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, MambaForCausalLM

import architectures
import tiny
import tiny_folder
from trimtab.decoding._config import generate
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


@pytest.mark.fast("0.5-*", "strength3*", "<lambda>*")
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


@pytest.mark.parametrize("strength", [0.0, 0.5, [0.0, 0.4, 1.0], 1.0])
def test_an_adapter_in_the_reference_itself_is_left_out_of_it(strength):
    """PEFT changes the model that it wraps, so that both would be the aligned one."""
    torch.manual_seed(0)
    adapter = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    model, reference = tiny.model(), tiny.model()
    aligned = get_peft_model(model, adapter).eval()
    apart = copy.deepcopy(aligned).merge_and_unload()
    found = logits(mixed(model, aligned, strength, **LOGITS))
    torch.testing.assert_close(found, logits(mixed(reference, apart, strength, **LOGITS)), rtol=1e-4, atol=1e-4)
    assert torch.equal(logits(mixed(model, aligned, 1.0, **LOGITS)), logits(model.generate(PROMPT, **GREEDY, **LOGITS)))
    with pytest.raises(ValueError, match="are the same object, with an adapter"):
        mixed(model, model, strength)


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


@pytest.mark.parametrize("sizes", [(53, 61), (61, 53)])
@pytest.mark.parametrize("strength", [0, 0.5, 1, SCHEDULE])
def test_heads_of_different_lengths_are_mixed_over_the_tokens_that_both_have(sizes, strength):
    reference, aligned = tiny.model(vocab_size=sizes[0]), tiny.model(seed=1, vocab_size=sizes[1])
    with torch.no_grad():  # padding that would be the likeliest token by far
        for model in (reference, aligned):
            model.lm_head.weight[53:] = 5 * model.lm_head.weight[: len(model.lm_head.weight) - 53].abs()
    table = torch.as_tensor(strength, dtype=torch.float32).expand(3, 3)
    ids = PROMPT
    for step in range(3):
        with torch.no_grad():
            z = [model(ids).logits[:, -1, :53] for model in (reference, aligned)]
        now = table[step][:, None]
        ids = torch.cat([ids, ((1 - now) * z[0] + now * z[1]).argmax(-1, keepdim=True)], dim=1)
    found = mixed(reference, aligned, strength, max_new_tokens=3, **LOGITS)
    assert found.sequences.tolist() == ids.tolist()
    assert found.logits[0].size(1) == sizes[0]


def test_mistakes_are_refused():
    reference = tiny.model()
    with pytest.raises(ValueError, match=r"dera needs the aligned model: generate\(\.\.\., custom_generate=dera"):
        reference.generate(PROMPT, custom_generate=dera, strength=0.5, **GREEDY)
    with pytest.raises(ValueError, match="prompt has the token id 44, and reference and aligned model share 40"):
        mixed(reference, tiny.model(vocab_size=40), 0.5)
    with pytest.raises(ValueError, match="strength must be finite"):
        mixed(reference, tiny.model(seed=1), float("inf"))
    with pytest.raises(ValueError, match="not 3 beams"):
        mixed(reference, tiny.model(seed=1), 0.5, num_beams=3)
    with pytest.raises(ValueError, match="Linear holds no transformers model"):
        mixed(reference, nn.Linear(1, 1), 0.5)


# ---------------------------------------------------------------- whatever a model keeps from token to token

STATES = (
    "mamba", "falcon_mamba", "rwkv", "lfm2", "minimax",
)  # fmt: skip
MORE = (
    "mamba2", "recurrent_gemma", "xlstm", "wide_xlstm", "jamba", "bamba", "zamba", "zamba2", "qwen3_next",
    "granitemoehybrid", "falcon_h1", "nemotron_h", "lfm2_moe", "mixtral", "gpt_oss", "gemma3_text", "deepseek_v3",
)  # fmt: skip
every_state = pytest.mark.parametrize("kind", [*STATES, *(pytest.param(kind, marks=pytest.mark.slow) for kind in MORE)])


ZAMBA = {
    "zamba": {
        "attention_hidden_size": 64, "attention_head_dim": 32, "num_hidden_layers": 3,
        "layers_block_type": ["mamba", "hybrid", "hybrid"],
    }
}  # fmt: skip


def xlstm(kind, seed):
    """Small sizes do not fit the cache that it makes itself."""
    width, heads = (32, 4) if kind == "xlstm" else (256, 2)
    sizes = {"vocab_size": 53, "hidden_size": width, "embedding_dim": width, "num_heads": heads, "num_blocks": 2}
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("xlstm", **sizes, num_hidden_layers=2)).eval()


def two(kind):
    """Two models of a kind with states that matter: at the usual spread a wrong one would hardly be seen."""
    found = []
    for seed in (0, 1):
        with patch.dict(architectures.ADJUSTED, ZAMBA):
            made = xlstm(kind, seed) if "xlstm" in kind else architectures.build(kind, seed)
        made.config.get_text_config().eos_token_id = made.generation_config.eos_token_id = None
        found.append(made)
    return found


@every_state
@pytest.mark.fast("mixed-*")
@pytest.mark.parametrize("strength", [0.5, [0.0, 0.5, 1.0], SCHEDULE], ids=["all", "mixed", "schedule"])
def test_two_streams_share_no_state_whatever_their_models_keep(kind, strength):
    reference, aligned = two(kind)
    found = mixed(reference, aligned, strength, **LOGITS)
    wanted = mixed(reference, aligned, strength, use_cache=False, **LOGITS)
    assert torch.equal(found.sequences, wanted.sequences)
    torch.testing.assert_close(logits(found), logits(wanted), rtol=1e-3, atol=1e-3)
    plain = [model(found.sequences[:, :-1], use_cache=False).logits[:, PROMPT.size(1) - 1 :] for model in two(kind)]
    if isinstance(strength, float):
        torch.testing.assert_close(logits(found), (plain[0] + plain[1]) / 2, rtol=1e-3, atol=1e-3)


class SharedMamba(MambaForCausalLM):
    """A model whose states are wrong as soon as something else is read, as of one that holds them itself."""

    kept: ClassVar[list] = []

    def forward(self, *args, cache_params=None, use_cache=None, **inputs):
        given = self.kept[0] if use_cache and inputs["input_ids"].size(1) == 1 else cache_params
        found = super().forward(*args, cache_params=given, use_cache=use_cache, **inputs)
        if use_cache:
            self.kept[:] = [found.cache_params]
        return found


def test_streams_that_do_share_a_state_are_seen_at_the_first_tokens_and_continue_without(caplog):
    config = architectures.config("mamba")
    reference, aligned = SharedMamba(config), SharedMamba(config)
    for model in (reference.eval(), aligned.eval()):
        model.generation_config.eos_token_id = None
    found = mixed(reference, aligned, [0.0, 0.5, 1.0], **LOGITS)
    again = mixed(reference, aligned, [0.0, 0.5, 1.0], **LOGITS)
    wanted = mixed(reference, aligned, [0.0, 0.5, 1.0], use_cache=False, **LOGITS)
    for one in (found, again):
        torch.testing.assert_close(logits(one), logits(wanted), rtol=1e-3, atol=1e-3)
    said = [record.message for record in caplog.records if "recomputes the whole text for each token" in record.message]
    assert 1 <= len(said) <= 2
    assert all(message.startswith("SharedMamba: ") for message in said)


def test_mixed_up_rows_of_a_batch_are_noticed_though_one_row_was_correct():
    """rwkv's cache is right for one row; a batch of several is then held against reading anew too."""
    reference, aligned = two("rwkv")
    mixed(reference, aligned, 0.5, PROMPT[:1])
    found = mixed(reference, aligned, 0.5, **LOGITS)
    wanted = mixed(reference, aligned, 0.5, use_cache=False, **LOGITS)
    torch.testing.assert_close(logits(found), logits(wanted), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "mamba", "minimax", "recurrent_gemma"])
def test_a_correct_cache_is_used_after_its_first_tokens(kind):
    """Also of one whose modules themselves keep what they have read."""
    reference, aligned = two(kind)
    widths = []
    for model in (reference, aligned):
        model.get_input_embeddings().register_forward_hook(lambda m, args, out: widths.append(out.size(1)))
    mixed(reference, aligned, 0.5)
    assert widths.count(1) == 14  # of seven tokens after the first, in two models
    widths.clear()
    mixed(reference, aligned, 0.5)
    assert widths == [6, 6, *[1] * 14]


def test_the_stricter_of_two_models_decides_how_prompts_are_batched():
    """Minimax takes padding for text: prompts of equal length are asked together, also as the second model."""
    tokenizer = tiny_folder.byte_tokenizer()
    reference, aligned = two("llama")[0], two("minimax")[1]
    inputs = tokenizer(["hello there", "hi", "ho"], return_tensors="pt", padding=True, padding_side="left")
    inputs = {name: inputs[name] for name in ("input_ids", "attention_mask")}
    given = {"custom_generate": dera, "aligned": aligned, "strength": 0.5}
    together = generate(reference, tokenizer, inputs, 6, **given)[:, inputs["input_ids"].size(1) :]
    for row, prompt in enumerate(["hello there", "hi", "ho"]):
        one = tokenizer(prompt, return_tensors="pt")
        alone = generate(reference, tokenizer, {"input_ids": one["input_ids"]}, 6, **given)[
            0, one["input_ids"].size(1) :
        ]
        assert together[row, : len(alone)].tolist() == alone.tolist()
