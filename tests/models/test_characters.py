"""The builtin untrained model reads characters, and its template is one that rows and generation can use."""

import string

import pytest
import torch

from trimtab.core import IGNORE
from trimtab.data.rows import prepare
from trimtab.data.tokens import encode_prompts
from trimtab.models import builtin
from trimtab.models.builtin import builtin_folder
from trimtab.models.characters import CHARACTERS
from trimtab.models.loading import load_model, load_tokenizer

NAME = "characters-1m"
CHAT = [{"role": "user", "content": "2+3=?"}, {"role": "assistant", "content": "2+3=5.\n5."}]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("TRIMTAB_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def tokenizer(cache):
    return load_tokenizer(NAME)


def test_every_printable_character_and_the_newline_is_a_token_that_comes_back(tokenizer):
    assert set(CHARACTERS) == set(string.printable) - set("\t\r\x0b\x0c")
    ids = tokenizer(CHARACTERS, add_special_tokens=False).input_ids
    assert len(set(ids)) == len(ids) == 96
    assert tokenizer.decode(ids) == CHARACTERS
    assert len(tokenizer) == 101


def test_text_comes_back_with_its_spaces_and_without_special_tokens(tokenizer):
    text = " Is  2 , 3 .\n\nnot 'm  5 ?  "
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.decode(tokenizer(f"<user>{text}<end><pad>").input_ids, skip_special_tokens=True) == text


def test_a_character_that_is_unknown_is_one_token_and_nothing_fails(tokenizer):
    ids = tokenizer("a é\t🙂b", add_special_tokens=False).input_ids
    assert [token == tokenizer.unk_token_id for token in ids] == [False, False, True, True, True, False]


def test_offsets_are_those_of_the_characters(tokenizer):
    found = tokenizer("1+2\n=3.", add_special_tokens=False, return_offsets_mapping=True)
    assert found.offset_mapping == [(i, i + 1) for i in range(7)]


def test_a_chat_is_its_turns_between_special_tokens_and_a_prompt_is_how_it_begins(tokenizer):
    chat = [{"role": "system", "content": "Be right."}, *CHAT, {"role": "user", "content": "?"}]
    whole = tokenizer.apply_chat_template(chat, tokenize=False)
    assert whole == "<user>Be right.<end><user>2+3=?<end><assistant>2+3=5.\n5.<end><user>?<end>"
    for number in range(1, 5):
        assert whole.startswith(tokenizer.apply_chat_template(chat[:number], tokenize=False))
    prompt = tokenizer.apply_chat_template(chat[:2], tokenize=False, add_generation_prompt=True)
    assert whole.startswith(prompt)
    assert prompt.endswith("<assistant>")


def test_rows_learn_the_answer_and_its_end(tokenizer):
    prepared = prepare([{"messages": CHAT}], tokenizer, max_length=64)
    (row,) = prepared.rows
    learnt = [label for label in row["labels"] if label != IGNORE]
    assert tokenizer.decode(learnt) == "2+3=5.\n5.<end>"
    assert tokenizer.decode(row["input_ids"][: -len(learnt)]) == "<user>2+3=?<end><assistant>"
    assert prepared.counts.no_end == 0


def test_the_model_is_the_same_in_every_cache_and_leaves_the_global_draws_alone(cache, tmp_path, monkeypatch):
    model = load_model(NAME)
    torch.manual_seed(5)
    expected = torch.rand(3)
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))
    torch.manual_seed(5)
    other = load_model(NAME)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))
    assert list((tmp_path / "models").iterdir()) == [builtin_folder(NAME)]


def test_generation_stops_at_the_end_token_and_pads(cache, tokenizer):
    model = load_model(NAME)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert model.config.vocab_size == len(tokenizer)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    inputs = encode_prompts(tokenizer, [CHAT[:1], [{"role": "user", "content": "12*12-3?"}]])
    ended = torch.zeros(len(tokenizer))
    ended[tokenizer.eos_token_id] = 100

    class Ends:
        def __call__(self, ids, scores):
            return scores + (ended if ids.size(1) > inputs["input_ids"].size(1) + 2 else 0)

    output = model.generate(**inputs, max_new_tokens=9, do_sample=False, logits_processor=[Ends()])
    assert output.size(1) == inputs["input_ids"].size(1) + 4
    assert (output[:, -1] == tokenizer.eos_token_id).all()


def test_it_is_made_once_and_a_making_that_is_killed_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIMTAB_CACHE", str(tmp_path))

    def killed(module, folder):
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(builtin, "_make", killed)
        with pytest.raises(KeyboardInterrupt):
            builtin_folder(NAME)
    assert list((tmp_path / "models").iterdir()) == []
    made = builtin_folder(NAME)
    monkeypatch.setattr(builtin, "_make", killed)
    assert builtin_folder(NAME) == made == tmp_path / "models" / f"{NAME}-{builtin.BUILTIN[NAME].version}"
