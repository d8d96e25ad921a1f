"""What is random in training alone is found, named and switched off, in every place where models keep it."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

import tiny
from trimtab.models import noise

IDS = torch.arange(3, 19)[None]

SMALL = {"vocab_size": tiny.VOCAB, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
MORE = {"intermediate_size": 24, "max_position_embeddings": 64, "num_key_value_heads": 1, "initializer_range": 0.4}
KINDS = {
    "gpt2": lambda: tiny.model("gpt2"),  # modules, at its default of 0.1
    "attention": lambda: tiny.model("llama", attention_dropout=0.3),  # a number handed to a function
    "gemma2": lambda: tiny.model("gemma2", attention_dropout=0.3),
    "opt": lambda: _made(
        "opt", ffn_dim=24, word_embed_proj_dim=16, dropout=0.3, attention_dropout=0.2, layerdrop=0.4
    ),  # residual dropout by a function, and layers that are skipped
    "xglm": lambda: _made("xglm", d_model=16, ffn_dim=24, num_layers=2, attention_heads=2, dropout=0.3, layerdrop=0.4),
    "mixtral": lambda: _made("mixtral", num_local_experts=4, num_experts_per_tok=2, router_jitter_noise=0.3),
    "phimoe": lambda: _made(
        "phimoe", num_local_experts=4, num_experts_per_tok=2, router_jitter_noise=0.01, input_jitter_noise=0.2
    ),  # its router draws the experts in training, whatever the noise
    "falcon": lambda: _made("falcon", hidden_dropout=0.3, attention_dropout=0.2),  # looked up in the config each time
    "persimmon": lambda: _made("persimmon", hidden_dropout=0.1, attention_dropout=0.3),
    "switch_off_twice": lambda: tiny.model("gpt2"),
}


def _made(kind: str, **changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = AutoConfig.for_model(kind, **{**SMALL, **MORE, **changes})
        return AutoModelForCausalLM.from_config(config).eval()


def _adapted(dropout: float):
    model = get_peft_model(tiny.model("llama"), LoraConfig(target_modules=["q_proj", "v_proj"], lora_dropout=dropout))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    return model


KINDS["lora"] = lambda: _adapted(0.5)


def logits(model, training: bool) -> torch.Tensor:
    model.train(training)
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_training_is_the_model_in_evaluation_once_it_is_switched_off(kind):
    torch.manual_seed(1)
    model = KINDS[kind]()
    wanted = logits(model, training=False)
    assert noise.rates(model)
    assert not torch.allclose(logits(model, training=True), wanted, atol=1e-3)  # the test can see it
    noise.switch_off(model)
    if kind == "switch_off_twice":
        noise.switch_off(model)
    torch.testing.assert_close(logits(model, training=True), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(logits(model, training=False), wanted, rtol=0, atol=0)


def test_the_largest_rate_of_each_kind_is_named():
    assert noise.rates(tiny.model("llama")) == {}
    assert noise.rates(tiny.model("llama", attention_dropout=0.3)) == {"attention_dropout": 0.3}
    assert noise.rates(_adapted(0.5)) == {"lora_dropout": 0.5}
    assert noise.rates(KINDS["mixtral"]()) == {"jitter_noise": 0.3}
    assert {"hidden_dropout": 0.3, "attention_dropout": 0.2}.items() <= noise.rates(KINDS["falcon"]()).items()
    assert set(noise.rates(tiny.model("gpt2"))) == {"drop", "dropout", "attn_dropout", "resid_dropout"}


@pytest.mark.parametrize("kind", ["gpt2", "falcon"])
def test_the_config_and_what_is_saved_keep_the_models_own_settings(tmp_path, kind):
    model = KINDS[kind]()
    rates = noise.rates(model)
    noise.switch_off(model)
    assert noise.rates(model) == {}
    model.save_pretrained(tmp_path)
    assert noise.rates(AutoModelForCausalLM.from_pretrained(tmp_path)) == rates


def test_a_layer_that_asks_its_config_sees_all_else_of_it_as_it_is():
    model = KINDS["falcon"]()
    noise.switch_off(model)
    model.config.use_cache = False  # later
    other = copy.deepcopy(model)
    for one in (model, other):
        layer = one.transformer.h[0]
        assert (layer.config.hidden_dropout, one.config.hidden_dropout) == (0.0, 0.3)
        assert layer.config.use_cache is False


def test_gradients_and_gradient_checkpointing_continue_as_in_training():
    model = KINDS["mixtral"]()
    noise.switch_off(model)
    model.gradient_checkpointing_enable()
    model.train()
    assert model.training
    assert all(layer.training for layer in model.model.layers)
    model(input_ids=IDS).logits.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_copy_has_a_mode_of_its_own():
    model = KINDS["mixtral"]()
    noise.switch_off(model)
    other = copy.deepcopy(model)
    other.train()
    assert other.model.layers[0].training
    assert not model.model.layers[0].training
