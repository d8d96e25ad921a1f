"""Rows become tokens and labels, and nothing is lost without being counted."""

import pytest

import tiny_folder
from trimtab.core import IGNORE
from trimtab.data.rows import check_losses, prepare
from trimtab.data.sources import DataError

TOKENIZER = tiny_folder.byte_tokenizer()
END = TOKENIZER.eos_token_id


def learnt(row: dict) -> str:
    return TOKENIZER.decode([i for i, label in zip(row["input_ids"], row["labels"]) if label != IGNORE])


def one(row: dict, max_length: int = 200) -> dict:
    (prepared,) = prepare([row], TOKENIZER, max_length=max_length).rows
    return prepared


def chat(*turns: tuple[str, str]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in turns]


def test_of_a_conversation_only_the_assistants_turns_with_their_end_tokens_are_learnt():
    row = one({"messages": chat(("user", "a"), ("assistant", "bc"), ("user", "d"), ("assistant", "e"))})
    assert (
        TOKENIZER.decode(row["input_ids"])
        == "<|user|>a<|end|>\n<|assistant|>bc<|end|>\n<|user|>d<|end|>\n<|assistant|>e<|end|>"
    )
    assert learnt(row) == "bc<|end|>e<|end|>"


def test_labels_are_the_ids_where_they_are_labels():
    row = one({"messages": chat(("user", "a"), ("assistant", "bc"))})
    assert all(label in (IGNORE, i) for i, label in zip(row["input_ids"], row["labels"]))


def test_the_prompt_has_the_ids_it_has_when_the_model_is_asked():
    row = one({"messages": chat(("user", "a b"), ("assistant", "c"))})
    asked = TOKENIZER.apply_chat_template(chat(("user", "a b")), tokenize=False, add_generation_prompt=True)
    ids = TOKENIZER(asked, add_special_tokens=False).input_ids
    assert row["input_ids"][: len(ids)] == ids
    assert row["labels"][: len(ids)] == [IGNORE] * len(ids)
    assert row["labels"][len(ids)] != IGNORE


def test_a_completion_of_text_ends_with_the_end_token_and_its_prompt_is_not_learnt():
    row = one({"prompt": "ab", "completion": "cd"})
    assert TOKENIZER.decode(row["input_ids"]) == "abcd<|end|>"
    assert learnt(row) == "cd<|end|>"


def test_a_completion_of_messages_is_learnt_and_its_prompt_is_not_even_where_the_prompt_has_assistants_turns():
    prompt = chat(("user", "a"), ("assistant", "b"), ("user", "c"))
    assert learnt(one({"prompt": prompt, "completion": chat(("assistant", "d"))})) == "d<|end|>"


def test_all_of_a_text_is_learnt_but_its_first_token_which_nothing_predicts():
    assert learnt(one({"text": "abc"})) == "bc<|end|>"


def test_a_row_that_is_too_long_loses_the_end_of_its_answer_and_is_counted():
    prepared = prepare([{"prompt": "ab", "completion": "cdef"}], TOKENIZER, max_length=4)
    assert learnt(prepared.rows[0]) == "cd"
    assert (prepared.counts.truncated, prepared.counts.kept, prepared.counts.first) == (1, 1, {"truncated": 1})


def test_a_row_that_just_fits_is_not_truncated():
    assert prepare([{"prompt": "ab", "completion": "c"}], TOKENIZER, max_length=4).counts.truncated == 0


def test_a_row_whose_prompt_fills_the_limit_is_dropped_and_counted():
    prepared = prepare([{"prompt": "abcd", "completion": "e"}], TOKENIZER, max_length=4)
    assert (prepared.rows, prepared.counts.dropped) == ([], 1)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": chat(("user", "a"))},
        {"messages": chat(("user", "a"), ("assistant", "  "))},
        {"prompt": "a", "completion": ""},
        {"prompt": "a", "completion": None},
        {"text": ""},
    ],
)
def test_a_row_without_an_answer_is_counted_as_empty(row):
    prepared = prepare([{"text": "abc"}, row], TOKENIZER, max_length=50)
    assert (prepared.counts.empty, prepared.counts.kept, prepared.counts.first) == (1, 1, {"empty": 2})


def test_row_ids_are_places_in_the_source_though_rows_before_were_lost():
    rows = [{"text": ""}, {"text": "ab"}, {"text": "cd"}]
    assert [row["row_id"] for row in prepare(rows, TOKENIZER, max_length=50).rows] == [1, 2]


def test_an_answer_without_an_end_token_is_counted():
    template = (
        "{% for m in messages %}{{ m['role'] + ':' + m['content'] + ' ' }}{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    prepared = prepare(
        [{"messages": chat(("user", "a"), ("assistant", "b"))}], tiny_folder.byte_tokenizer(template), max_length=50
    )
    assert prepared.counts.no_end == 1


def test_tokens_are_counted():
    counts = prepare([{"prompt": "ab", "completion": "c"}, {"text": "xyz"}], TOKENIZER, max_length=50).counts
    assert (counts.tokens, counts.answer_tokens, counts.longest) == (4 + 4, 2 + 3, 4)


def test_a_template_that_rewrites_earlier_turns_is_refused():
    forgetful = "{% for m in messages %}{{ m['content'] if loop.last else '-' }}{% endfor %}"
    rows = [{"messages": chat(("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d"))}]
    with pytest.raises(DataError, match="row 1: the chat template rewrites earlier turns"):
        prepare(rows, tiny_folder.byte_tokenizer(forgetful), max_length=50)


def test_messages_without_a_template_are_refused():
    with pytest.raises(DataError, match="no chat template"):
        prepare([{"messages": chat(("user", "a"), ("assistant", "b"))}], tiny_folder.byte_tokenizer(None), max_length=9)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "a", "reply": "b"}, "row 2 has the columns question, reply; expected text, messages, or prompt"),
        ({"messages": "hello"}, "row 2: messages must be a list"),
        ({"messages": [{"role": "user"}]}, "row 2: messages must be a list of messages, each with a text"),
        ({"prompt": 3, "completion": "b"}, "row 2: prompt and completion must be two texts"),
        ({"prompt": "a", "completion": chat(("assistant", "b"))}, "row 2: prompt must be a list of messages"),
    ],
)
def test_a_row_of_no_known_format_is_named(row, message):
    with pytest.raises(DataError, match=message):
        prepare([{"text": "ab"}, row], TOKENIZER, max_length=50, source="file")


def test_losses_above_the_share_are_refused_with_counts_and_the_first_row():
    rows = [{"text": "abcdef"}] + [{"text": "ab"}] * 9
    prepared = prepare(rows, TOKENIZER, max_length=4, source="file")
    with pytest.raises(DataError, match=r"file: 1 of 10 rows would be lost: 1 truncated \(first: row 1\)"):
        check_losses(prepared, 0.09)
    check_losses(prepared, 0.1)


def test_the_share_that_the_message_suggests_is_enough():
    prepared = prepare([{"text": "abcdef"}, {"text": "ab"}, {"text": "ab"}], TOKENIZER, max_length=4)
    with pytest.raises(DataError) as raised:
        check_losses(prepared, 0.0)
    check_losses(prepared, float(str(raised.value).rpartition("=")[2]))


def test_data_of_which_no_row_is_left_is_refused_whatever_the_share():
    with pytest.raises(DataError, match="no row is left of 1"):
        check_losses(prepare([{"text": ""}], TOKENIZER, max_length=4), 1.0)


def test_messages_that_the_template_refuses_are_named_with_their_row():
    tokenizer = tiny_folder.byte_tokenizer(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    row = {"messages": [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(DataError, match="row 1: the chat template does not take these messages: no system"):
        prepare([row], tokenizer, max_length=9)
    with pytest.raises(DataError, match="row 1: messages is an empty list"):
        prepare([{"messages": []}], tiny_folder.byte_tokenizer(), max_length=9)
