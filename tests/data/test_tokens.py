"""A text is tokenised as a whole, and a prompt has the tokens with which the model is asked."""

import itertools

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import tiny_folder
from tiny_table import table
from trimtab.core import IGNORE
from trimtab.data.rows import prepare
from trimtab.data.tokens import answer_tails, coder, encode_prompts

ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m.role + '|>\n' + m.content + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
SCHEMES = ("always", "first", "never", "normalizer")


def pieces(scheme: str, template: str | None = ZEPHYR) -> PreTrainedTokenizerFast:
    """A space is a mark that belongs to the piece behind it, and texts may begin with one, as Llama 2's do."""
    letters = [chr(code) for code in range(33, 127)]
    words = ["<unk>", "<s>", "</s>", "▁", *letters, "\n", *(f"▁{letter}" for letter in letters)]
    built = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [("▁", letter) for letter in letters], unk_token="<unk>")
    )
    if scheme == "normalizer":
        built.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        built.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    built.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    built.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in words[:3]])
    built.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    made = PreTrainedTokenizerFast(tokenizer_object=built, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.pad_token = "</s>"
    made.chat_template = template
    return made


def merging() -> PreTrainedTokenizerFast:
    """Bytes, two newlines of which grow together, and so do a blank and a letter."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ċ", "Ċ"), ("ĊĊ", "Ċ"), ("Ġ", "a")]
    words = [*tiny_folder.SPECIAL, *alphabet, "ĊĊ", "ĊĊĊ", "Ġa"]
    built = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = decoders.ByteLevel()
    built.add_special_tokens([AddedToken(word, special=True) for word in tiny_folder.SPECIAL])
    made = PreTrainedTokenizerFast(tokenizer_object=built, eos_token="<|end|>", pad_token="<|end|>")
    made.chat_template = ZEPHYR
    return made


def one(tokenizer, row, **how):
    prepared = prepare([row], tokenizer, max_length=999, **how)
    return prepared.rows[0], prepared.counts.remarks


def answer(row):
    return [i for i, label in zip(row["input_ids"], row["labels"]) if label != IGNORE]


CHATS = [
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho he"}],
    [
        {"role": "user", "content": "hi"}, {"role": "assistant", "content": " ho"},
        {"role": "user", "content": "he"}, {"role": "assistant", "content": "ha "},
    ],
]  # fmt: skip


@pytest.mark.parametrize("scheme, chat", itertools.product(SCHEMES, CHATS))
def test_a_conversation_has_the_ids_of_its_whole_text_and_its_prompt_those_that_are_asked(scheme, chat):
    tokenizer = pieces(scheme)
    row, remarks = one(tokenizer, {"messages": chat})
    whole = tokenizer.apply_chat_template(chat, return_dict=True)["input_ids"]
    assert row["input_ids"] == whole[: len(row["input_ids"])]
    asked = encode_prompts(tokenizer, [chat[:1]])["input_ids"][0].tolist()
    assert row["input_ids"][: len(asked)] == asked
    assert row["labels"][len(asked)] != IGNORE
    assert not remarks


@table("scheme", SCHEMES)
@table("prompt, completion", [("Q: x\n", "yes no"), ("Q: x", " yes"), ("Q:", "\nx"), ("", "yes")])
def test_a_plain_text_has_the_ids_of_the_whole_with_begin_and_end(scheme, prompt, completion):
    tokenizer = pieces(scheme)
    row, remarks = one(tokenizer, {"prompt": prompt, "completion": completion})
    assert row["input_ids"] == [*tokenizer(prompt + completion).input_ids, tokenizer.eos_token_id]
    asked = encode_prompts(tokenizer, [prompt], plain=True)["input_ids"][0].tolist()
    assert row["input_ids"][: len(asked)] == asked
    assert not remarks


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_prompt_that_ends_with_a_blank_keeps_its_tokens_and_the_answer_goes_on_behind_it(scheme):
    tokenizer = pieces(scheme)
    row, remarks = one(tokenizer, {"prompt": "Q: ", "completion": "yes no"})
    words = tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert words[-8:] == ["▁", "y", "e", "s", "▁n", "o", "</s>"][-8:] or words[-7:] == [
        "▁",
        "y",
        "e",
        "s",
        "▁n",
        "o",
        "</s>",
    ]
    asked = encode_prompts(tokenizer, ["Q: "], plain=True)["input_ids"][0].tolist()
    assert row["input_ids"][: len(asked)] == asked
    assert remarks == {"seam": 1}


def test_newlines_that_grow_together_over_the_seam_stay_apart_as_the_model_writes_them():
    tokenizer = merging()
    row, remarks = one(tokenizer, {"messages": [CHATS[0][0], {"role": "assistant", "content": "\n\nho"}]})
    words = tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert words[-6:] == ["Ċ", "ĊĊ", "h", "o", "<|end|>"][-6:] or words[-5:] == ["Ċ", "ĊĊ", "h", "o", "<|end|>"]
    assert tokenizer.convert_ids_to_tokens(answer(row)) == ["ĊĊ", "h", "o", "<|end|>"]
    assert remarks == {"seam": 1}


def test_a_conversation_with_such_a_seam_becomes_a_row_for_each_turn_and_later_turns_read_it_joined():
    tokenizer = merging()
    chat = [CHATS[0][0], {"role": "assistant", "content": "\n\nho"}, *CHATS[0]]
    prepared = prepare([{"messages": chat}], tokenizer, max_length=999)
    first, second = prepared.rows
    assert tokenizer.convert_ids_to_tokens(answer(first))[0] == "ĊĊ"
    asked = encode_prompts(tokenizer, [chat[:3]])["input_ids"][0].tolist()
    assert second["input_ids"][: len(asked)] == asked
    assert "ĊĊĊ" in tokenizer.convert_ids_to_tokens(asked)
    assert set(prepared.counts.remarks) == {"seam", "split"}


def test_a_character_that_the_tokenizer_does_not_know_is_no_seam():
    template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"
    chat = [{"role": "user", "content": "日"}, CHATS[0][1], *CHATS[0]]
    for scheme in SCHEMES:
        row, remarks = one(pieces(scheme, template), {"messages": chat})
        assert not remarks
        assert len(answer(row)) > 2


def test_options_go_on_behind_the_prompt_as_a_model_would_write_them():
    tokenizer = merging()
    assert answer_tails(tokenizer, "Q:", [" a", "a"], True) == [
        [tokenizer.convert_tokens_to_ids("Ġa")], [tokenizer.convert_tokens_to_ids("a")],
    ]  # fmt: skip
    assert answer_tails(tokenizer, "Q: ", ["a"], True) == [[tokenizer.convert_tokens_to_ids("a")]]


def test_what_is_known_of_a_tokenizer_is_known_anew_once_tokens_were_added():
    tokenizer = merging()
    assert coder(tokenizer) is coder(tokenizer)
    before = coder(tokenizer)
    tokenizer.add_tokens(["<new>"])
    assert tokenizer.convert_tokens_to_ids("<new>") in coder(tokenizer).added
    assert coder(tokenizer) is not before


def test_prompts_of_unlike_lengths_are_padded_on_the_left():
    tokenizer = tiny_folder.byte_tokenizer()
    found = encode_prompts(tokenizer, ["a", "abc"], plain=True)
    assert found["attention_mask"].tolist() == [[0, 0, 1], [1, 1, 1]]
    assert found["input_ids"][0].tolist() == [tokenizer.pad_token_id] * 2 + tokenizer("a").input_ids
