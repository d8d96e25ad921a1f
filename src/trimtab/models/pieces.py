"""A small untrained language model that reads pieces of words, so that it can learn to use tools on one CPU core."""

from importlib.resources import files

from transformers import LlamaConfig, PreTrainedTokenizerFast

POSITIONS = 2048
PAD, END, USER, ASSISTANT, TOOL, SYSTEM = SPECIAL = ("<pad>", "<end>", "<user>", "<assistant>", "<tool>", "<system>")
TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<' + message['role'] + '>' }}{{ message['content'] }}"
    f"{END}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """1,500 pieces, made by `scripts/pieces.py`; bytes where no piece fits, single digits, so every text can be read. A
    chat is its turns, each behind its role and ended by `<end>`."""
    file = files("trimtab.models").joinpath("bundled", "pieces.json")
    return PreTrainedTokenizerFast(
        tokenizer_file=str(file), pad_token=PAD, eos_token=END, chat_template=TEMPLATE,
        additional_special_tokens=[USER, ASSISTANT, TOOL, SYSTEM], clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
    )  # fmt: skip


def config() -> LlamaConfig:
    """Of the model: 3.0 million weights."""
    return LlamaConfig(
        vocab_size=1500, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=6,
        max_position_embeddings=POSITIONS, tie_word_embeddings=True, bos_token_id=None,
        eos_token_id=SPECIAL.index(END), pad_token_id=SPECIAL.index(PAD),
    )  # fmt: skip
