"""Padding on the left, the size of a batch and the cache change no greedy text, whatever the architecture."""

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import tiny
import tiny_folder
from trimtab import decoding
from trimtab.decoding import _batching
from trimtab.decoding._batching import batches, keeps, pads_left
from trimtab.decoding._config import config_of, generate
from trimtab.evals import continuations as compare
from trimtab.evals.models import HFModel
from trimtab.evals.suite import user

TOKENIZER = tiny_folder.byte_tokenizer()
PROMPTS = ["hello there, my friend", "hi", "a b c d e f g h i j k l m n o p q r s t", "hi"]
COMMON = {
    "vocab_size": tiny_folder.VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 256, "pad_token_id": 0, "eos_token_id": 0, "bos_token_id": 0,
}  # fmt: skip
LINEAR = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
OTHERS = {
    "qwen2": {"num_key_value_heads": 2}, "gpt_neox": {},
    "falcon": {"alibi": False, "new_decoder_architecture": False, "multi_query": False},
    "bloom": {}, "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4, "sliding_window": 8},
    "qwen3_moe": {"num_key_value_heads": 2, "head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2,
                  "moe_intermediate_size": 24, "decoder_sparse_step": 1},
    "gpt_oss": {"num_key_value_heads": 2, "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2,
                "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "cohere2": {"num_key_value_heads": 2, "sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]},
    "mamba": {"state_size": 4}, "falcon_mamba": {"state_size": 4},
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "chunk_size": 8},
    "jamba": {"num_key_value_heads": 2, "mamba_d_state": 4, "mamba_dt_rank": 4, "attn_layer_period": 2,
              "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1, "num_experts": 2,
              "use_mamba_kernels": False},
    "bamba": {"num_key_value_heads": 2, "attn_layer_indices": [1], **LINEAR},
    "granitemoehybrid": {"num_key_value_heads": 2, "layer_types": ["mamba", "attention"], "num_local_experts": 2,
                         "num_experts_per_tok": 1, "shared_intermediate_size": 24, **LINEAR},
    "qwen3_next": {"num_key_value_heads": 2, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
                   "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2,
                   "linear_num_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2,
                   "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    "recurrent_gemma": {"num_key_value_heads": 1, "lru_width": 32, "attention_window_size": 16,
                        "block_types": ["recurrent", "attention"]},
    "minimax": {"num_key_value_heads": 2, "head_dim": 8, "layer_types": ["linear_attention", "full_attention"],
                "num_local_experts": 2, "num_experts_per_tok": 1, "block_size": 8},
    "rwkv": {"context_length": 64, "attention_hidden_size": 32},
    "xlstm": {"num_blocks": 2, "embedding_dim": 32, "num_heads": 4},  # these sizes do not fit its own cache
}  # fmt: skip
BY_LENGTH = {"recurrent_gemma", "minimax"}
"""Their states take padding for text."""
ONE_BY_ONE = {"rwkv"}
"""Whose cache gets the rows of a batch mixed up, in transformers 5.23."""
FAST = ("llama", "gpt2", "gemma3", "mistral", "rwkv")
SLOW = ("gemma2", "qwen3", "phi", "phi3", "cohere", *(kind for kind in OTHERS if kind not in (*FAST, "xlstm")))


def model(kind):
    if kind not in OTHERS:
        return tiny.model(kind, vocab_size=tiny_folder.VOCAB, eos_token_id=0, pad_token_id=0, bos_token_id=0,
                          **({"n_positions": 256} if kind == "gpt2" else {"max_position_embeddings": 256}))  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(COMMON | OTHERS[kind]))).eval()
        for parameter in built.parameters():
            if parameter.dim() > 1:  # at the usual spread a wrong state would hardly be seen
                torch.nn.init.normal_(parameter, std=0.3)
    return built


def encoded(prompts):
    inputs = TOKENIZER(prompts, return_tensors="pt", padding=True, padding_side="left")
    return {name: inputs[name] for name in ("input_ids", "attention_mask")}


def new_tokens(made, prompts, **how):
    """Of each prompt, up to its end token."""
    inputs = encoded(prompts)
    rows = generate(made, TOKENIZER, inputs, 12, **how)[:, inputs["input_ids"].size(1) :].tolist()
    return [row[: row.index(0)] if 0 in row else row for row in rows]


@pytest.mark.fast("llama", "gpt2")
@pytest.mark.parametrize("kind", [*FAST, *(pytest.param(kind, marks=pytest.mark.slow) for kind in SLOW)])
def test_padding_batch_and_cache_change_no_greedy_text(kind):
    made = model(kind)
    alone = [new_tokens(made, [prompt])[0] for prompt in PROMPTS]
    assert len({tuple(text) for text in alone}) > 1
    assert new_tokens(made, PROMPTS) == alone
    assert new_tokens(made, PROMPTS, leave=True) == alone
    assert new_tokens(made, PROMPTS, use_cache=False) == alone
    for name in ("penalty", "beam"):
        how = [decoding.arguments(name, TOKENIZER) for _ in range(5)]
        one_by_one = [new_tokens(made, [prompt], **asked)[0] for prompt, asked in zip(PROMPTS, how)]
        assert new_tokens(made, PROMPTS, **how[-1]) == one_by_one, name
    assert keeps(made) == ("a row" if kind in ONE_BY_ONE else "rows")
    assert pads_left(made) is (kind not in BY_LENGTH | ONE_BY_ONE)


def test_prompts_of_equal_length_are_batched_where_padding_is_read_as_text():
    made, inputs = model("minimax"), encoded(PROMPTS)
    found = batches(made, inputs)
    assert [batch.places for batch in found] == [[0], [1, 3], [2]]
    assert found[1].inputs["input_ids"].tolist() == [TOKENIZER("hi").input_ids] * 2
    assert [batch.places for batch in batches(model("llama"), inputs)] == [[0, 1, 2, 3]]
    assert [batch.places for batch in batches(made, encoded(["hi", "ho"]))] == [[0, 1]]
    assert [batch.places for batch in batches(model("rwkv"), encoded(["hi", "ho"]))] == [[0], [1]]


@pytest.mark.slow
def test_a_model_whose_cache_does_not_work_generates_without_one_and_the_config_says_so():
    made = model("xlstm")
    wanted = [new_tokens(made, [prompt], use_cache=False)[0] for prompt in PROMPTS]
    assert keeps(made) == ""
    assert new_tokens(made, PROMPTS) == wanted
    assert config_of(made, TOKENIZER, {}, 5).use_cache is False
    assert config_of(model("llama"), TOKENIZER, {}, 5).use_cache is True


def test_whoever_pads_them_nevertheless_gets_other_texts():
    """Otherwise asking in groups would mend nothing."""
    made, inputs = model("rwkv"), encoded(PROMPTS)
    together = made.generate(input_ids=inputs["input_ids"], max_new_tokens=12, do_sample=False)
    alone = made.generate(input_ids=encoded(["hi"])["input_ids"], max_new_tokens=12, do_sample=False)
    assert together[1, -12:].tolist() != alone[0, -12:].tolist()


def test_it_is_tried_out_once_for_a_model_and_leaves_it_and_the_draws_as_they_were(monkeypatch):
    made, tried = model("llama").train(), []
    monkeypatch.setattr(_batching, "_prompts", lambda one, real=_batching._prompts: tried.append(one) or real(one))
    state = torch.get_rng_state()
    own = made.generation_config
    assert pads_left(made)
    assert pads_left(made)
    assert tried == [made]
    assert made.training
    assert made.generation_config is own
    assert torch.equal(torch.get_rng_state(), state)


def test_what_differs_from_row_to_row_stays_with_its_row():
    """A processor for each group of rows, several sequences of each prompt, and the order of the prompts."""
    made = model("minimax")
    asked = []

    def each(rows):
        asked.append(rows)
        return {}

    inputs = encoded(PROMPTS)
    twice = generate(made, TOKENIZER, inputs, 6, num_beams=2, num_return_sequences=2, each=each)
    assert asked == [[0], [1, 3], [2]]
    width = inputs["input_ids"].size(1)
    for row, prompt in enumerate(PROMPTS):
        one = encoded([prompt])
        alone = generate(made, TOKENIZER, one, 6, num_beams=2, num_return_sequences=2)[:, one["input_ids"].size(1) :]
        for copy in range(2):
            found = twice[2 * row + copy, width:].tolist()
            wanted = alone[copy].tolist()
            assert found[: len(wanted)] == wanted
            assert set(found[len(wanted) :]) <= {0}
            assert twice[2 * row + copy, :width].tolist() == inputs["input_ids"][row].tolist()


@pytest.mark.parametrize("kind", ["rwkv", pytest.param("mamba", marks=pytest.mark.slow), "llama"])
def test_labels_have_the_probabilities_of_whole_texts(kind):
    made = model(kind)
    labels = ["A", "yes", "no"]
    found = HFModel(made, TOKENIZER).compare([user(prompt) for prompt in PROMPTS], [labels] * 4)
    for prompt, values in zip(PROMPTS, found):
        text = TOKENIZER.apply_chat_template(user(prompt), tokenize=False, add_generation_prompt=True)
        start = len(TOKENIZER(text).input_ids)
        for label in labels:
            ids = torch.tensor([TOKENIZER(text + label).input_ids])
            with torch.no_grad():
                log_p = made(input_ids=ids).logits[0].log_softmax(-1)
            wanted = sum(log_p[at - 1, ids[0, at]].item() for at in range(start, ids.size(1)))
            assert values[label] == pytest.approx(wanted, abs=2e-3)


@pytest.mark.slow
def test_strategies_are_compared_on_models_that_cannot_be_padded():
    made = model("rwkv")
    passages = [compare.Passage(prompt) for prompt in PROMPTS]
    greedy, beam = compare.write(made, TOKENIZER, passages, {"greedy": {}, "beam": {}}, new=12)
    assert [ids[: ids.index(0)] if 0 in ids else ids for ids in greedy.ids] == [
        new_tokens(made, [p])[0] for p in PROMPTS
    ]
    assert all(all(best) for best in greedy.best)
    assert beam.ids[1] == beam.ids[3]
