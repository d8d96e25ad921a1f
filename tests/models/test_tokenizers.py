"""Two models may be compared only where the same id means the same token."""

import pytest

import tiny
import tiny_folder
from trimtab.data.tokens import encode_prompts
from trimtab.models.tokenizers import TokenizerMismatch, check_same_tokens

WORDS = ["<unk>", "hello", "world", "key", "3", "14", "s", "="]


def check(policy, other, policy_vocab=None, other_vocab=None, role="teacher"):
    return check_same_tokens(policy, other, policy_vocab or len(policy), other_vocab or len(other), role)


def test_equal_tokenizers_need_no_message():
    assert check(tiny.tokenizer(WORDS), tiny.tokenizer(WORDS)) is None


@pytest.mark.parametrize("policy, other", [(8, 64), (64, 8)])
def test_heads_that_are_padded_differently_are_cropped_with_a_message(policy, other):
    message = check(tiny.tokenizer(WORDS), tiny.tokenizer(WORDS), policy, other, "reference")
    assert message == (
        f"policy has {policy} vocabulary rows and reference {other}; the token ids are the same, so both are cropped "
        "to 8"
    )


def test_equally_padded_heads_need_no_message():
    assert check(tiny.tokenizer(WORDS), tiny.tokenizer(WORDS), 64, 64) is None


def test_two_words_exchanged_are_refused_with_an_example_and_the_way_out():
    other = ["<unk>", "world", "hello", *WORDS[3:]]
    with pytest.raises(TokenizerMismatch) as caught:
        check(tiny.tokenizer(WORDS), tiny.tokenizer(other))
    assert str(caught.value) == (
        "policy and teacher have different tokenizers: 2 tokens differ, for example 'hello' is id 1 in the policy and "
        "2 in the teacher; choose a teacher of the same model family"
    )
    assert isinstance(caught.value, ValueError)


def test_a_word_that_one_of_them_lacks_is_refused_as_absent():
    other = [*WORDS[:3], "clé", *WORDS[4:]]
    with pytest.raises(TokenizerMismatch, match="'clé' is id absent in the policy and 3 in the reference"):
        check(tiny.tokenizer(WORDS), tiny.tokenizer(other), role="reference")


def test_more_words_at_the_end_of_one_of_them_are_cropped():
    longer = tiny.tokenizer([*WORDS, "extra", "words"])
    assert "both are cropped to 8" in check(tiny.tokenizer(WORDS), longer)
    assert "both are cropped to 8" in check(longer, tiny.tokenizer(WORDS))


def test_more_words_that_a_padded_head_has_room_for_are_refused():
    # id 8 would be "extra" for one and a row that was never trained for the other
    with pytest.raises(TokenizerMismatch, match="'extra' is id absent in the policy and 8 in the teacher"):
        check(tiny.tokenizer(WORDS), tiny.tokenizer([*WORDS, "extra"]), 64, 64)


def test_the_same_words_with_another_way_to_cut_a_text_are_refused():
    with pytest.raises(TokenizerMismatch, match="have the same tokens but split text differently"):
        check(tiny.tokenizer(WORDS), tiny.tokenizer(WORDS, split="characters"))


@pytest.mark.parametrize("template", [tiny_folder.TEMPLATE, None], ids=["chat", "plain"])
def test_prompts_are_padded_on_the_left_and_framed_where_there_is_a_chat_template(template):
    tokenizer = tiny_folder.byte_tokenizer(template)
    encoded = encode_prompts(tokenizer, ["a", "longer"])
    assert encoded.keys() == {"input_ids", "attention_mask"}
    assert encoded["attention_mask"].tolist()[0][:5] == [0] * 5
    assert encoded["attention_mask"].sum(dim=1).diff() == 5
    texts = [tokenizer.decode(ids[mask.bool()]) for ids, mask in zip(encoded["input_ids"], encoded["attention_mask"])]
    frame = "<|user|>{}<|end|>\n<|assistant|>" if template else "{}"
    assert texts == [frame.format("a"), frame.format("longer")]
    assert tokenizer.padding_side == "right"
