"""A small untrained language model that reads characters, so that it can learn arithmetic on one CPU core."""

from string import ascii_letters, digits, punctuation

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, PreTrainedTokenizerFast

CHARACTERS = f"\n {digits}{ascii_letters}{punctuation}"
POSITIONS = 1024
PAD, END, UNKNOWN, USER, ASSISTANT = SPECIAL = ("<pad>", "<end>", "<unk>", "<user>", "<assistant>")
TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{ASSISTANT}' if message['role'] == 'assistant' else '{USER}' }}}}{{{{ message['content'] }}}}{END}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Printable ASCII and the newline, a token each; any other character is `<unk>`. A chat is its turns, each behind
    `<assistant>` or (whoever else speaks) `<user>` and ended by `<end>`."""
    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *CHARACTERS])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    made.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token=PAD, eos_token=END, unk_token=UNKNOWN, chat_template=TEMPLATE,
        additional_special_tokens=[USER, ASSISTANT], clean_up_tokenization_spaces=False, model_max_length=POSITIONS,
    )  # fmt: skip


def config() -> LlamaConfig:
    """Of the model: 817 thousand weights."""
    return LlamaConfig(
        vocab_size=len(SPECIAL) + len(CHARACTERS), hidden_size=128, intermediate_size=352, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=POSITIONS, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=SPECIAL.index(END), pad_token_id=SPECIAL.index(PAD),
    )  # fmt: skip
