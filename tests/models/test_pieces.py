"""The builtin untrained model that learns to use tools reads every text, and short in what the roles write."""

import pytest

from trimtab.models.loading import load_model, load_tokenizer

NAME = "pieces-3m"


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TRIMTAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        assert sum(weight.numel() for weight in load_model(NAME).parameters()) == 2_944_704
        yield load_tokenizer(NAME)


@pytest.mark.parametrize(
    "text", ['Action: run_sql\nAction Input: {"query": "x = \'Lea\'"}', "Grüße 12.5 日本 \t{x}", " "]
)
def test_every_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.decode(tokenizer(f"<user>{text}<end>").input_ids, skip_special_tokens=True) == text


def test_digits_are_single_and_the_words_of_a_call_whole(tokenizer):
    assert len(tokenizer("2026-11-30").input_ids) == 10
    assert len(tokenizer("Action: ").input_ids) <= 3
    assert len(tokenizer(" Next: conclusion.").input_ids) <= 5


def test_a_chat_is_its_turns_behind_their_roles(tokenizer):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == "<user>a<end><assistant>b<end>"
    asked = tokenizer.apply_chat_template(chat[:1], tokenize=False, add_generation_prompt=True)
    assert asked == "<user>a<end><assistant>"
