"""Ids and lengths that a model can read are found in what it is made of, and held against what it is to read."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import tiny
import tiny_folder
from tiny_table import table
from trimtab.models import limits, loading
from trimtab.models.growth import grow_embedding, num_tokens
from trimtab.models.limits import LimitError, Limits, beyond, check_prompts

SIZES = {
    "vocab_size": 60, "hidden_size": 32, "d_model": 32, "word_embed_proj_dim": 32, "n_embd": 32, "num_hidden_layers": 1,
    "n_layer": 1, "decoder_layers": 1, "num_attention_heads": 2, "n_head": 2, "decoder_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 16, "ffn_dim": 16, "intermediate_size": 16, "rotary_dim": 8,
    "pad_token_id": 1,
}  # fmt: skip


def built(kind, most=20):
    known = AutoConfig.for_model(kind)
    names = {*known.to_dict(), *known.attribute_map}
    sizes = {**SIZES, "max_position_embeddings": most, "n_positions": most, "is_decoder": True}
    config = AutoConfig.for_model(kind, **{key: value for key, value in sizes.items() if key in names})
    with torch.random.fork_rng():
        return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.parametrize(
    ("kind", "places"),
    [("gpt2", 20), ("opt", 20), ("biogpt", 20), ("gptj", 20), ("openai-gpt", 20), ("gpt_bigcode", 20), ("ctrl", 20),
     ("bart", 20), ("roberta", 18)],
)  # fmt: skip
def test_a_table_of_positions_holds_so_many_places_and_no_more(kind, places):
    model = built(kind)
    found = limits.of_model(model)
    assert (found.places, found.trained) == (places, None)
    assert limits.of_config(model.config) == found
    with torch.no_grad():
        model(input_ids=torch.full((1, places), 5))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, places + 1), 5))


@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral", "gemma2", "phi", "gpt_neox", "falcon"])
def test_rotary_positions_are_computed_for_any_place(kind):
    model = built(kind, most=32)  # as wide as the model: no weight is taken for a table
    found = limits.of_model(model)
    assert (found.places, found.trained) == (None, 32)
    with torch.no_grad():
        assert model(input_ids=torch.full((1, 40), 5)).logits.isfinite().all()


WIDE = {"num_local_experts": 4, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


@table("kind", ["mixtral", "qwen3_moe", "olmoe", "gpt_oss", "jamba", "granitemoe", "falcon_h1"])
@table("most", [32, 16, 64, 4])
def test_weights_that_are_as_wide_as_the_places_are_no_positions(kind, most):
    known = AutoConfig.for_model(kind)
    names = {*known.to_dict(), *known.attribute_map}
    sizes = {**SIZES, **WIDE, "max_position_embeddings": most}
    config = AutoConfig.for_model(kind, **{key: value for key, value in sizes.items() if key in names})
    assert limits.of_config(config) == Limits(60, None, most)


class Positions(torch.nn.Module):
    """As authors of models of their own write them."""

    def __init__(self, name, shape):
        super().__init__()
        self.register_parameter(name, torch.nn.Parameter(torch.zeros(shape)))


@pytest.mark.parametrize("name", ["wpe", "pos_embed", "position_embeddings", "embed_pos", "pos_emb"])
@pytest.mark.parametrize("shape", [(20, 32), (1, 20, 32)])
def test_a_parameter_that_is_named_for_positions_is_a_table_of_them(name, shape):
    model = built("llama", most=20)
    model.model.add_module("own", Positions(name, shape))
    assert limits.of_model(model).places == 20


def test_parameters_of_other_names_or_shapes_are_not_tables():
    model = built("llama", most=20)
    model.model.add_module("own", Positions("posterior", (20, 32)))
    model.model.add_module("more", Positions("position_gate", (4, 20, 20)))
    assert limits.of_model(model).places is None


@pytest.mark.parametrize("kind", ["bloom", "mamba"])
def test_a_model_without_positions_has_no_limit(kind):
    found = limits.of_model(built(kind))
    assert (found.places, found.trained) == (None, None)


def test_prompts_are_held_against_places_and_ids():
    tokenizer = tiny_folder.byte_tokenizer()
    known = Limits(vocab=50, places=10)
    assert check_prompts([[1] * 6, [2]], 4, known, tokenizer, "m") == []
    with pytest.raises(LimitError, match=r"prompt 2 and its answer need 6 \+ 5 = 11 tokens, and m reads at most 10"):
        check_prompts([[1], [1] * 6], 5, known, tokenizer, "m")
    with pytest.raises(LimitError, match=r"prompt 2 has the token .* \(id 50\), .* of m \(50 rows\)"):
        check_prompts([[49], [50]], 1, known, tokenizer, "m")


def test_positions_that_were_not_trained_are_reported_and_read():
    known = Limits(vocab=50, places=None, trained=10)
    assert beyond(10, known, "m") == []
    (note,) = check_prompts([[1] * 8], 3, known, tiny_folder.byte_tokenizer(), "m")
    assert note.startswith("up to 11 tokens are read, but m was trained for 10")


def with_tokens(folder, pad=None, **changes):
    tiny_folder.save(folder, **changes)
    tokenizer = tiny_folder.byte_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    if pad:
        tokenizer.add_special_tokens({"pad_token": pad})
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_padding_token_that_the_embedding_lacks_is_exchanged_and_the_answers_are_the_same(tmp_path):
    name = with_tokens(tmp_path / "model", pad="[PAD]")
    tokenizer = loading.load_tokenizer(name)
    assert tokenizer.pad_token == "<|end|>"
    assert loading.load_tokenizer(name, resize=True).pad_token == "[PAD]"
    assert loading.limits(name).vocab == tiny_folder.VOCAB


def test_new_rows_are_drawn_from_the_seed_around_the_mean_and_the_old_ones_stay():
    one, two, other = (tiny.model("llama_tied") for _ in range(3))
    old = one.get_input_embeddings().weight.clone()
    grow_embedding(one, 60, seed=1)
    grow_embedding(two, 60, seed=1)
    grow_embedding(other, 60, seed=2)
    weight = one.get_input_embeddings().weight
    assert weight.shape[0] == one.config.vocab_size == one.lm_head.weight.shape[0] == 60
    assert torch.equal(weight[: len(old)], old)
    assert torch.equal(weight, two.get_input_embeddings().weight)
    assert not torch.equal(weight, other.get_input_embeddings().weight)
    assert (weight[len(old) :] - old.mean(dim=0)).abs().max() < 0.1 * old.std()
    grow_embedding(one, 10, seed=1)  # a padded embedding is not cut
    assert one.get_input_embeddings().weight.shape[0] == 60


def test_the_number_of_tokens_is_the_highest_id_and_one():
    tokenizer = tiny_folder.byte_tokenizer()
    tokenizer.add_tokens(["<extra>"])
    assert num_tokens(tokenizer) == tiny_folder.VOCAB + 1
