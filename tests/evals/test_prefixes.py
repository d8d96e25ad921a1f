"""What models say at each prefix of a given text."""

import math

import pytest
import torch

import tiny
import tiny_folder
from fixed_model import Fixed
from trimtab.data.messages import TEXT
from trimtab.evals.prefixes import Continuation, drift, given, logits_behind, teacher_forced

TOKENIZER = tiny_folder.byte_tokenizer()


def test_the_drift_is_the_kl_from_the_original_to_the_model_by_hand():
    original, model = Fixed({5: 0.75, 6: 0.25}), Fixed({5: 0.5, 6: 0.5})
    row = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "bcd"}]}
    (found,) = drift(model, original, TOKENIZER, [row])
    assert found.kl == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert found.same == 1.0
    (other,) = drift(Fixed({5: 0.4, 6: 0.6}), original, TOKENIZER, [row])
    assert other.same == 0.0
    (none,) = drift(original, original, TOKENIZER, [row])
    assert none.kl == 0.0
    with pytest.raises(ValueError, match="vocabularies of 7 and 259 tokens"):
        drift(Fixed({5: 1.0}, 7), original, TOKENIZER, [row])


def test_a_target_that_the_model_would_write_scores_one():
    model = Fixed({TOKENIZER.convert_tokens_to_ids("a"): 1.0})
    text = [{"role": TEXT, "content": "q"}]
    assert teacher_forced(model, TOKENIZER, [(text, "aaa")]) == [pytest.approx(3 / 4)]  # the space is not an a


def test_behind_a_chat_a_target_follows_the_template_and_behind_a_text_a_space():
    model = Fixed({TOKENIZER.convert_tokens_to_ids("a"): 1.0})
    chat, text = [{"role": "user", "content": "q"}], [{"role": TEXT, "content": "q"}]
    assert teacher_forced(model, TOKENIZER, [(chat, "aab"), (text, "aab")]) == [pytest.approx(2 / 3), 0.5]


def test_each_token_is_predicted_from_all_before_it_and_from_no_other_text():
    model = tiny.model("llama", vocab_size=tiny_folder.VOCAB)
    texts = [Continuation([7, 8, 9], [10]), Continuation([7], [8, 9, 10, 11, 12])]
    for one, found in zip(texts, logits_behind(model, texts), strict=True):
        whole = one.prompt + one.text
        prefixes = [torch.tensor([whole[:n]]) for n in range(len(one.prompt), len(whole))]
        wanted = torch.stack([model(input_ids=ids).logits[0, -1] for ids in prefixes])
        torch.testing.assert_close(found, wanted)


def test_a_chat_stands_in_its_template_and_a_text_does_not():
    (chat,) = given(TOKENIZER, [([{"role": "user", "content": "a"}], "b")])
    (text,) = given(TOKENIZER, [("a", " b")], plain=True)
    assert len(chat.prompt) > 1
    assert (len(text.prompt), len(text.text)) == (1, 2)
