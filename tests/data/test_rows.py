"""Rows become tokens and labels, and nothing is lost without being counted."""

import pytest

import tiny_folder
from trimtab.core import IGNORE
from trimtab.data.counts import check_dropped
from trimtab.data.rows import answer_offsets, last_tokens, prepare
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
    assert (prepared.rows, prepared.counts.prompt_too_long) == ([], 1)


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


def test_row_ids_are_places_in_the_source_though_earlier_rows_were_dropped():
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


def test_messages_without_a_template_are_refused():
    with pytest.raises(DataError, match="no chat template"):
        prepare([{"messages": chat(("user", "a"), ("assistant", "b"))}], tiny_folder.byte_tokenizer(None), max_length=9)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"question": "a", "reply": "b"},
            "row 2 has the columns question, reply; expected text, messages, prompt and completion, or chosen",
        ),
        ({"messages": "hello"}, "row 2: messages must be a list"),
        ({"messages": [{"role": "user"}]}, "row 2: message 1 of messages has no content"),
        ({"messages": [{"content": "a"}]}, "row 2: messages must be a list of messages, each with a 'role'"),
        ({"prompt": 3, "completion": "b"}, "row 2: prompt and completion must be two texts"),
        ({"prompt": 3, "completion": chat(("assistant", "b"))}, "row 2: prompt must be a list of messages"),
    ],
)
def test_a_row_of_no_known_format_is_named(row, message):
    with pytest.raises(DataError, match=message):
        prepare([{"text": "ab"}, row], TOKENIZER, max_length=50, source="file")


def test_losses_above_the_share_are_refused_with_counts_and_the_first_row():
    rows = [{"text": "abcdef"}] + [{"text": "ab"}] * 9
    prepared = prepare(rows, TOKENIZER, max_length=4, source="file")
    with pytest.raises(DataError, match=r"file: 1 of 10 rows would be dropped or truncated: 1 truncated \(first: row"):
        check_dropped(prepared, 0.09)
    check_dropped(prepared, 0.1)


def test_the_share_that_the_message_suggests_is_enough():
    prepared = prepare([{"text": "abcdef"}, {"text": "ab"}, {"text": "ab"}], TOKENIZER, max_length=4)
    with pytest.raises(DataError) as raised:
        check_dropped(prepared, 0.0)
    check_dropped(prepared, float(str(raised.value).rpartition("=")[2]))


def test_data_of_which_no_row_is_left_is_refused_whatever_the_share():
    with pytest.raises(DataError, match="no row is left of 1"):
        check_dropped(prepare([{"text": ""}], TOKENIZER, max_length=4), 1.0)


def test_messages_that_the_template_refuses_are_named_with_their_row():
    tokenizer = tiny_folder.byte_tokenizer(
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    )
    row = {"messages": [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]}
    with pytest.raises(DataError, match="row 1: the chat template does not take these messages: no system"):
        prepare([row], tokenizer, max_length=9)
    with pytest.raises(DataError, match="row 1: messages is an empty list"):
        prepare([{"messages": []}], tiny_folder.byte_tokenizer(), max_length=9)


def pair(chosen: str = "cd", rejected: str = "e", **more) -> dict:
    return {"prompt": "ab", "chosen": chosen, "rejected": rejected, **more}


def test_both_answers_of_a_pair_are_kept_after_the_same_prompt():
    (row,) = prepare([pair()], TOKENIZER, max_length=50, pairs=True).rows
    assert set(row) == {"row_id", "input_ids", "labels", "rejected_input_ids", "rejected_labels"}
    assert (TOKENIZER.decode(row["input_ids"]), learnt(row)) == ("abcd<|end|>", "cd<|end|>")
    rejected = {"input_ids": row["rejected_input_ids"], "labels": row["rejected_labels"]}
    assert (TOKENIZER.decode(rejected["input_ids"]), learnt(rejected)) == ("abe<|end|>", "e<|end|>")


def test_messages_may_hold_the_prompt_of_a_pair_themselves():
    before = chat(("user", "a"), ("assistant", "b"), ("user", "c"))
    good, bad = chat(("assistant", "d")), chat(("assistant", "e"))
    apart = {"prompt": before, "chosen": good, "rejected": bad}
    whole = {"chosen": before + good, "rejected": before + bad}
    rows = [apart, whole, {**whole, "prompt": "c", "messages": before + good}]  # what some sets on the hub add
    prepared = prepare(rows, TOKENIZER, max_length=99, pairs=True).rows
    assert len(prepared) == 3
    assert all({**row, "row_id": 0} == prepared[0] for row in prepared)
    assert learnt(prepared[0]) == "d<|end|>"


def test_methods_without_pairs_learn_the_chosen_answer_alone():
    (row,) = prepare([pair()], TOKENIZER, max_length=50).rows
    assert set(row) == {"row_id", "input_ids", "labels"}
    assert row == one({"prompt": "ab", "completion": "cd"})


def test_a_pair_is_truncated_or_dropped_as_one_and_counted_once():
    prepared = prepare([pair("cdef", "ghij"), pair(), pair(prompt="abcd")], TOKENIZER, max_length=4, pairs=True)
    counts = prepared.counts
    assert (counts.kept, counts.truncated, counts.prompt_too_long, counts.num_dropped()) == (2, 2, 1, 3)
    assert [(learnt(row), len(row["rejected_input_ids"])) for row in prepared.rows] == [("cd", 4), ("cd", 4)]


def test_pairs_with_the_same_or_no_answer_are_counted_and_refused_above_the_share():
    rows = [pair(), pair("x", "x"), pair("", "y"), pair("y", ""), *[pair()] * 6]
    prepared = prepare(rows, TOKENIZER, max_length=50, source="file", pairs=True)
    assert (prepared.counts.identical, prepared.counts.empty, prepared.counts.kept) == (1, 2, 7)
    assert [row["row_id"] for row in prepared.rows] == [0, 4, 5, 6, 7, 8, 9]
    with pytest.raises(DataError, match=r"1 with two answers that are the same \(first: row 2\)") as raised:
        check_dropped(prepared, 0.29)
    assert "2 without an answer (first: row 3)" in str(raised.value)
    check_dropped(prepared, 0.3)


def test_answers_that_are_the_same_after_truncation_are_identical():
    assert prepare([pair("cdx", "cdy")], TOKENIZER, max_length=4, pairs=True).counts.identical == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "a", "completion": "b"}, "row 1 has the columns prompt, completion; expected chosen and rejected"),
        ({"chosen": "a", "rejected": "b"}, "row 1 has chosen and no prompt; texts need one"),
        ({"chosen": chat(("assistant", "a")), "rejected": chat(("assistant", "b"))}, "row 1: prompt is an empty list"),
    ],
)
def test_a_pair_that_cannot_be_read_is_named(row, message):
    with pytest.raises(DataError, match=message):
        prepare([row], TOKENIZER, max_length=50, pairs=True)


def test_a_column_has_one_number_for_each_answer_token_and_is_cut_with_them():
    row = {"prompt": "ab", "completion": "cde", "weak_delta": [0.5, 1, -2, 3]}
    (whole,) = prepare([row], TOKENIZER, max_length=50, columns=["weak_delta"]).rows
    assert whole["weak_delta"] == [0.5, 1.0, -2.0, 3.0]
    (cut,) = prepare([row], TOKENIZER, max_length=4, columns=["weak_delta"]).rows
    assert (learnt(cut), cut["weak_delta"]) == ("cd", [0.5, 1.0])


def test_the_first_token_of_a_text_has_no_number():
    (row,) = prepare([{"text": "abc", "weak_delta": [1, 2, 3]}], TOKENIZER, max_length=50, columns=["weak_delta"]).rows
    assert row["weak_delta"] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ({}, "row 1 has no column weak_delta"),
        ({"weak_delta": [1, 2]}, "row 1: weak_delta has 2 values for 3 answer tokens; it was made with another"),
        ({"weak_delta": 0.5}, "row 1: weak_delta has 0.5 for 3 answer tokens"),
    ],
)
def test_a_column_that_does_not_fit_is_named(column, message):
    with pytest.raises(DataError, match=message):
        prepare([{"prompt": "a", "completion": "bc", **column}], TOKENIZER, max_length=50, columns=["weak_delta"])


# ---------------------------------------------------------------- labels of answers and of steps

ANSWER = {"prompt": chat(("user", "a")), "completion": chat(("assistant", "bc"))}
STEPS = {"prompt": chat(("user", "q")), "completions": ["ab", "c", "def"], "labels": [True, True, False]}


@pytest.mark.parametrize(("label", "wanted"), [(True, 1.0), (False, 0.0), (1, 1.0), (0, 0.0)])
def test_a_label_becomes_an_outcome(label, wanted):
    (row,) = prepare([{**ANSWER, "label": label}], TOKENIZER, max_length=200, outcomes=True).rows
    assert row["outcome"] == wanted


@pytest.mark.parametrize(("label", "said"), [(None, "no label"), (2, "the label 2"), ("yes", "the label 'yes'")])
def test_another_label_is_named_with_its_row(label, said):
    rows = [{**ANSWER, "label": 1}, {**ANSWER, "label": label}]
    with pytest.raises(DataError, match=f"rows: row 2 has {said}; expected 1 or true"):
        prepare(rows, TOKENIZER, max_length=200, outcomes=True)


@pytest.mark.parametrize("chatty", [True, False])
def test_the_steps_of_an_answer_are_joined_and_rated_at_the_last_token_of_each(chatty):
    row = STEPS if chatty else {**STEPS, "prompt": "q"}
    (prepared,) = prepare([row], TOKENIZER, max_length=200, steps=True).rows
    assert learnt(prepared) == "ab\nc\ndef<|end|>"
    found = [None if rating != rating else rating for rating in prepared["rating"]]
    assert found == [None, 1, None, 1, None, None, None, -1, None]  # a b \n c \n d e f end


def test_ratings_are_kept_as_they_are_and_cut_with_the_answer():
    (prepared,) = prepare([{**STEPS, "labels": [1, 0, -1]}], TOKENIZER, max_length=200, steps=True).rows
    assert [rating for rating in prepared["rating"] if rating == rating] == [1, 0, -1]
    prompt = sum(label == IGNORE for label in prepared["labels"])
    (short,) = prepare([STEPS], TOKENIZER, max_length=prompt + 5, steps=True).rows
    assert len(short["rating"]) == sum(label != IGNORE for label in short["labels"]) == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"labels": [True]}, "1 labels for 3 steps"),
        ({"labels": None}, "no labels for 3 steps"),
        ({"labels": [True, True, 3]}, "the step label 3"),
        ({"completions": "ab"}, "expected prompt, completions"),
    ],
)
def test_steps_that_do_not_fit_are_named(change, said):
    with pytest.raises(DataError, match=f"row 1.*{said}"):
        prepare([{**STEPS, **change}], TOKENIZER, max_length=200, steps=True)


def test_offsets_say_which_characters_of_the_answer_a_token_stands_for():
    row = {"prompt": chat(("user", "bc")), "completion": chat(("assistant", "b ü"))}
    offsets = answer_offsets(row, TOKENIZER, "row 1")
    prepared = one(row)
    assert len(offsets) == sum(label != IGNORE for label in prepared["labels"])
    assert [("b ü"[a:b]) for a, b in offsets] == ["b", " ", "ü", "ü", ""]  # a character of two bytes, then the end


def test_the_last_token_of_a_stretch_begins_before_its_end():
    assert last_tokens([(0, 0), (0, 2), (2, 5), (5, 6), (6, 6)], [2, 4, 6]) == [1, 2, 3]
    assert last_tokens([(0, 0)], [3]) == [-1]


def test_a_template_that_changes_the_answer_hides_its_steps():
    shouting = tiny_folder.byte_tokenizer(tiny_folder.TEMPLATE.replace("m['content']", "m['content'] | upper"))
    with pytest.raises(DataError, match="changes the text of the answer"):
        prepare([STEPS], shouting, max_length=200, steps=True)


# ---------------------------------------------------------------- texts for a chat model

PLAIN = {"prompt": "2 + 2?", "completion": "4"}
AS_CHAT = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}


def of_chat_model(rows, template=tiny_folder.TEMPLATE, **how):
    return prepare(rows, tiny_folder.byte_tokenizer(template), **{"max_length": 99, "source": "rows.jsonl", **how})


def test_plain_texts_stay_texts_and_that_is_reported_once():
    made = of_chat_model([AS_CHAT, PLAIN, PLAIN, {"text": "a"}])
    tokenizer = tiny_folder.byte_tokenizer()
    assert tokenizer.decode(made.rows[1]["input_ids"]) == "2 + 2?4<|end|>"
    (note,) = made.notes()
    assert note.startswith("rows.jsonl: 2 rows with a prompt and a completion that are plain texts")
    assert "data.chat=true" in note
    assert note.endswith("(first: row 2)")


def test_as_chat_they_are_the_row_of_messages():
    assert of_chat_model([PLAIN], chat=True).rows == of_chat_model([AS_CHAT]).rows
    assert not of_chat_model([PLAIN], chat=True).notes()
    mixed = {"prompt": [{"role": "user", "content": "2 + 2?"}], "completion": "4"}
    assert of_chat_model([mixed]).rows == of_chat_model([AS_CHAT]).rows


def test_a_model_without_a_template_gets_no_remark_and_changes_nothing():
    assert not of_chat_model([PLAIN], template=None).notes()
    assert of_chat_model([PLAIN], template=None, chat=True).rows == of_chat_model([PLAIN], template=None).rows


def test_pairs_labels_and_steps_of_texts_are_chats_too():
    pair = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5"}
    assert "data.chat" in of_chat_model([pair], pairs=True).notes()[0]
    made = of_chat_model([pair], pairs=True, chat=True).rows[0]
    wanted = {"prompt": AS_CHAT["messages"][:1], "chosen": AS_CHAT["messages"][1:]}
    wanted["rejected"] = [{"role": "assistant", "content": "5"}]
    assert made == of_chat_model([wanted], pairs=True).rows[0]
    labelled = of_chat_model([{**PLAIN, "label": 1}], outcomes=True, chat=True).rows[0]
    assert labelled == {**of_chat_model([AS_CHAT]).rows[0], "outcome": 1.0}
    steps = {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]}
    as_chat = {**steps, "prompt": [{"role": "user", "content": "p"}]}
    one, other = (of_chat_model([row], steps=True, chat=True).rows[0] for row in (steps, as_chat))
    assert str(one) == str(other)  # NaN
