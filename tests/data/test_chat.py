"""Conversations as people write them and templates as models have them: what is learnt, behind which prompt, and what
is said about it."""

import json
from datetime import datetime

import pytest
from tokenizers import processors

import tiny_folder
from tiny_table import table
from trimtab.core import IGNORE
from trimtab.data.chat_date import adopt_date, date_facts, set_chat_date
from trimtab.data.counts import REMARKS
from trimtab.data.messages import messages_of
from trimtab.data.rows import answer_offsets, prepare
from trimtab.data.sources import DataError
from trimtab.data.tasks import prepare_tasks, task_ids
from trimtab.data.tokens import encode_prompts
from trimtab.models.ends import end_tokens

HEAD = "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
TOOLS = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.content %}{{ m.content }}{% endif %}"
    "{% for t in m.tool_calls %}{{ '[' + t.function.name + (t.function.arguments | tojson) + ']' }}{% endfor %}"
    "{{ '<|end|>\n' }}{% endfor %}" + HEAD
)
OPENS = (  # as of R1: thoughts are dropped from every turn, and the prompt opens one
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content.split('</think>')[-1] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
)
CALL = {"type": "function", "function": {"name": "rain", "arguments": {"city": "Rom", "days": 2}}}


def user(text):
    return {"role": "user", "content": text}


def said(text, **more):
    return {"role": "assistant", "content": text, **more}


def read(row, template=tiny_folder.TEMPLATE, tokenizer=None, **how):
    """What each prepared row is, answers in [[ ]], and the remarks."""
    tokenizer = tokenizer or tiny_folder.byte_tokenizer(template)
    prepared = prepare([row], tokenizer, max_length=10**6, **how)
    shown = []
    for one in prepared.rows:
        text, inside = "", False
        for token, label in zip(one["input_ids"], one["labels"]):
            if (label != IGNORE) != inside:
                text, inside = text + ("]]" if inside else "[["), not inside
            text += tokenizer.decode([token])
        shown.append(text + "]]" * inside)
    return shown, set(prepared.counts.remarks)


# ---------------------------------------------------------------- calls of tools


@pytest.mark.parametrize("content", [{"content": ""}, {"content": None}, {}], ids=["empty", "null", "absent"])
@pytest.mark.parametrize(
    "call",
    [
        CALL,
        {**CALL, "function": {"name": "rain", "arguments": '{"city": "Rom", "days": 2}'}},
        {"name": "rain", "arguments": {"city": "Rom", "days": 2}},
        {"id": None, "type": None, "function": {"name": "rain", "arguments": {"city": "Rom", "days": 2}, "x": None}},
    ],
    ids=["mapping", "json", "flat", "nulls"],
)
def test_a_call_is_an_answer_whatever_form_it_has_and_the_tools_reply_is_none(content, call):
    messages = [user("a"), {"role": "assistant", **content, "tool_calls": [call]}, {"role": "tool", "content": "wet"}]
    (text,), remarks = read({"messages": [*messages, said("b")]}, TOOLS)
    answer = '[[[rain{"city": "Rom", "days": 2}]<|end|>]]'
    assert text == f"<|user|>a<|end|>\n<|assistant|>{answer}\n<|tool|>wet<|end|>\n<|assistant|>[[b<|end|>]]"
    assert not remarks


def test_a_template_that_wants_arguments_as_text_gets_them_so():
    template = TOOLS.replace("(t.function.arguments | tojson)", "t.function.arguments")
    for arguments in ({"city": "Rom"}, '{"city":"Rom"}'):
        call = {"type": "function", "function": {"name": "rain", "arguments": arguments}}
        (text,), _ = read({"messages": [user("a"), said("", tool_calls=[call])]}, template)
        assert text.endswith('[[[rain{"city": "Rom"}]<|end|>]]')


def test_a_call_that_the_template_does_not_write_is_not_learnt_and_is_reported():
    messages = [user("a"), said("", tool_calls=[CALL]), {"role": "tool", "content": "wet"}, said("b")]
    (text,), remarks = read({"messages": messages})
    assert text.count("[[") == 1
    assert text.endswith("[[b<|end|>]]")
    assert remarks == {"calls"}
    prepared = prepare([{"messages": messages[:2]}] * 2, tiny_folder.byte_tokenizer(), max_length=99)
    assert prepared.counts.empty == 2
    assert prepared.notes() == [f"rows: 2 rows {REMARKS['calls']} (first: row 1)"]
    (note,) = prepare([{"messages": messages}], tiny_folder.byte_tokenizer(), max_length=99).notes()
    assert note == f"rows: 1 row {REMARKS['calls']} (first: row 1)"


def test_each_call_has_to_be_written_whatever_its_name():
    first = TOOLS.replace("{% for t in m.tool_calls %}", "{% for t in (m.tool_calls or [])[:1] %}")
    two = [CALL, {**CALL, "function": {"name": "rain", "arguments": {"city": "Oslo"}}}]
    (text,), remarks = read({"messages": [user("a"), said("", tool_calls=two), user("b"), said("c")]}, first)
    assert text.endswith("[[c<|end|>]]")
    assert text.count("[[") == 1
    assert remarks == {"calls"}
    assert read({"messages": [user("a"), said("rain", tool_calls=[CALL]), user("b"), said("c")]})[1] == {"calls"}
    nameless = TOOLS.replace("t.function.name", "t.id")
    (text,), remarks = read({"messages": [user("a"), said("", tool_calls=[{**CALL, "id": "call_1"}])]}, nameless)
    assert '[[[call_1{"city": "Rom", "days": 2}]<|end|>]]' in text
    assert not remarks


MOVES = (  # as of Mistral v3: the system message stands in the last question, and there is no generation prompt
    "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' }}"
    "{% if loop.last and messages[0].role == 'system' %}{{ messages[0].content + ': ' }}{% endif %}"
    "{{ m.content + '<|assistant|>' }}{% elif m.role == 'assistant' %}{% if m.tool_calls %}{% for t in m.tool_calls %}"
    "{{ '[CALL ' + t.function.name + ']' }}{% endfor %}{% else %}{{ ' ' + m.content }}{% endif %}{{ '<|end|>' }}"
    "{% endif %}{% endfor %}"
)


def test_an_answer_is_whole_though_the_template_moves_what_stands_before_it():
    system = {"role": "system", "content": "Be"}
    (text,), _ = read({"messages": [system, user("Rain?"), said("", tool_calls=[CALL])]}, MOVES)
    assert text == "<|user|>Be: Rain?<|assistant|>[[[CALL rain]<|end|>]]"
    (text,), _ = read({"messages": [system, user("four is what?"), said("four")]}, MOVES)
    assert text == "<|user|>Be: four is what?<|assistant|>[[ four<|end|>]]"
    chat = [system, user("four is what?"), said("four"), user("z"), said("five")]
    (text,), remarks = read({"messages": chat}, MOVES, turns="all")
    assert text == "<|user|>four is what?<|assistant|>[[ four<|end|>]]<|user|>Be: z<|assistant|>[[ five<|end|>]]"
    assert "rewritten" in remarks


@pytest.mark.parametrize("tools", [[{"name": "rain"}], '[{"name": "rain"}]'])
def test_tools_reach_the_template(tools):
    (text,), _ = read({"messages": [user("a"), said("b")], "tools": tools}, TOOLS)
    assert text.startswith('[{"name": "rain"}]<|user|>')
    tokenizer, task = tiny_folder.byte_tokenizer(TOOLS), {"prompt": [user("a")], "tools": tools}
    ids = task_ids(tokenizer, task, "row 1")
    assert tokenizer.decode(ids).startswith('[{"name": "rain"}]<|user|>')
    assert encode_prompts(tokenizer, [task])["input_ids"][0].tolist() == ids


def test_no_tools_are_no_empty_list_of_them():
    template = TOOLS.replace("{% if tools %}", "{% if tools is not none %}")
    (text,), _ = read({"messages": [user("a"), said("b")], "tools": []}, template)
    assert text.startswith("<|user|>")


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"role": "assistant", "tool_calls": ["rain"]}, "message 2 of messages has tool_calls ['rain']"),
        ({"role": "assistant", "tool_calls": [{"arguments": {}}]}, "expected a list of calls, each with a name"),
        ({"role": "assistant", "content": [{"type": "image"}]}, "message 2 of messages holds a part of type 'image'"),
        ({"role": "assistant", "content": 3}, "message 2 of messages has the content 3"),
        ({"role": "tool", "content": None}, "message 2 of messages has no content"),
    ],
)
def test_what_no_template_reads_costs_a_line_with_the_message(message, reason):
    with pytest.raises(DataError) as raised:
        read({"messages": [user("a"), message, said("b")]}, TOOLS)
    assert reason in str(raised.value)
    assert str(raised.value).startswith("rows: row 1: ")


def test_parts_of_text_are_text_for_a_template_that_reads_text_and_parts_for_one_that_reads_parts():
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b", "image": None}]
    (text,), _ = read({"messages": [{"role": "user", "content": parts}, said("c")]})
    assert text == "<|user|>ab<|end|>\n<|assistant|>[[c<|end|>]]"
    of_parts = tiny_folder.TEMPLATE.replace("m['content']", "(m['content'] | map(attribute='text') | join)")
    assert read({"messages": [user("ab"), said("c")]}, of_parts)[0] == [text]


# ---------------------------------------------------------------- thoughts


def test_a_prompt_that_opens_a_thought_is_followed_by_the_rest_of_it():
    for content in ("<think>\na</think>ho", "<think>a</think>ho", "a</think>ho"):
        (text,), remarks = read({"messages": [user("hi"), said(content)]}, OPENS)
        assert text == "<|user|>hi<|end|><|assistant|><think>\n[[a</think>ho<|end|>]]"
        assert not remarks
    (text,), _ = read({"messages": [user("hi"), said("ho", reasoning_content="a")]}, OPENS)
    assert text == "<|user|>hi<|end|><|assistant|><think>\n[[a\n</think>\n\nho<|end|>]]"


def test_an_answer_without_a_thought_closes_the_one_that_the_prompt_opens_and_that_is_reported():
    (text,), remarks = read({"messages": [user("hi"), said("ho")]}, OPENS)
    assert text == "<|user|>hi<|end|><|assistant|><think>\n[[\n</think>\n\nho<|end|>]]"
    assert remarks == {"emptied"}


def test_a_thought_that_the_template_drops_from_the_last_turn_is_learnt_all_the_same():
    older = OPENS.replace("<think>\n", "")
    (text,), _ = read({"messages": [user("hi"), said("<think>\na\n</think>\n\nho")]}, older)
    assert text == "<|user|>hi<|end|><|assistant|>[[<think>\na\n</think>\n\nho<|end|>]]"


def test_a_thought_that_the_template_knows_nothing_of_is_reported():
    assert read({"messages": [user("hi"), said("ho", reasoning_content="a")]})[1] == {"thoughts"}


CLOSES = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' and loop.last %}"
    "{{ '<think>\n' + (m.reasoning_content or '') + '\n</think>\n\n' }}{% endif %}"
    "{{ m.content + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}"
    "{% if not enable_thinking %}{{ '\n</think>\n\n' }}{% endif %}{% endif %}"
)


def test_a_thought_behind_a_prompt_that_closes_an_empty_one_is_learnt_with_thinking_switched_on():
    (text,), remarks = read({"messages": [user("hi"), said("ho", reasoning_content="a")]}, CLOSES)
    assert text == "<|user|>hi<|end|><|assistant|><think>\n[[a\n</think>\n\nho<|end|>]]"
    assert remarks == {"switched"}
    (text,), remarks = read({"messages": [user("hi"), said("ho")]}, CLOSES)
    assert text == "<|user|>hi<|end|><|assistant|><think>\n\n</think>\n\n[[ho<|end|>]]"
    assert not remarks


def test_a_switch_that_the_row_sets_is_kept_and_the_thought_that_has_no_place_is_reported():
    row = {"messages": [user("hi"), said("ho", reasoning_content="a")]}
    (text,), remarks = read({**row, "chat_template_kwargs": {"enable_thinking": False}}, CLOSES)
    assert text == "<|user|>hi<|end|><|assistant|><think>\n\n</think>\n\n[[ho<|end|>]]"
    assert remarks == {"thoughts"}


def test_the_characters_of_an_answer_are_found_though_the_prompt_has_opened_its_thought():
    tokenizer = tiny_folder.byte_tokenizer(OPENS)
    answer = "<think>\ned</think>d"
    offsets = answer_offsets({"prompt": [user("d")], "completion": [said(answer)]}, tokenizer, "row 1")
    assert "".join(answer[a:b] for a, b in offsets) == "ed</think>d"
    assert offsets[-2:] == [(len(answer) - 1, len(answer)), (len(answer), len(answer))]


ANSWERS = (  # as of DeepSeek V3.1: a prompt closes a thought that it has not opened, or opens one
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if m.role == 'assistant' %}"
    "{{ '</think>' + m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}{{ '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}"
    "{% if thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}{% endif %}"
)


@pytest.mark.parametrize(
    "answer", [said("<think>easy</think>four"), said("easy</think>four"), said("four", reasoning_content="easy")]
)
@pytest.mark.parametrize("asked", [{}, {"chat_template_kwargs": {"thinking": True}}], ids=["switched", "asked for"])
def test_a_thought_is_closed_once_behind_the_prompt_that_opens_it(answer, asked):
    (text,), remarks = read({"messages": [user("q"), answer], **asked}, ANSWERS)
    assert text == "<|user|>q<|end|><|assistant|><think>[[easy</think>four<|end|>]]"
    assert remarks == (set() if asked else {"switched"})
    (text,), remarks = read({"messages": [user("q"), said("four")]}, ANSWERS)
    assert text == "<|user|>q<|end|><|assistant|></think>[[four<|end|>]]"


def test_a_thought_that_the_template_writes_otherwise_than_its_prompt_opens_one_is_learnt_once():
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}" + (
        "{% if add_generation_prompt %}{{ '<|assistant|><think>\n' }}{% endif %}"
    )
    (text,), remarks = read({"messages": [user("q"), said("<think>hm</think>ho")]}, template)
    assert text == "<|user|>q<|end|><|assistant|><think>\n[[hm</think>ho<|end|>]]"
    assert not remarks


def test_no_answer_begins_within_what_prompt_and_answer_share():
    template = (  # as of Gemma 4, which goes on with the turn of a call and closes it only where nothing follows
        "{% for m in messages %}{% if m.role == 'user' %}{{ '<|user|>' + m.content + '<|end|>' + '<|assistant|>' }}"
        "{% elif m.role == 'tool' %}{{ '(' + m.content + ')' }}{% if loop.last %}{{ '<|end|>' }}{% endif %}"
        "{% else %}{{ m.content }}{% for t in m.tool_calls or [] %}{{ '[' + t.function.name + ']' }}{% endfor %}"
        "{% if not m.tool_calls %}{{ '<|end|>' }}{% endif %}{% endif %}{% endfor %}"
    )
    tool = {"role": "tool", "content": "18"}
    shown, _ = read({"messages": [user("a"), said("", tool_calls=[CALL]), tool, said("It is")]}, template, turns="last")
    assert shown == ["<|user|>a<|end|><|assistant|>[rain](18)<|end|>[[It is<|end|>]]"]


SPLITS = (  # as of Qwen 3, which reads a thought out of the content
    "{% for m in messages %}{{ '<|' + m.role + '|>' }}{% if '</think>' in m.content %}"
    "{{ '<think>' + m.content.split('</think>')[0].split('<think>')[-1] + '</think>' }}"
    "{{ m.content.split('</think>')[-1] }}"
    "{% else %}{{ m.content }}{% endif %}{{ '<|end|>' }}{% endfor %}" + HEAD
)


def test_a_part_of_a_thought_that_the_template_drops_is_reported():
    assert read({"messages": [user("q"), said("<think>a</think>b")]}, SPLITS)[1] == set()
    assert "thoughts" in read({"messages": [user("q"), said("<think>a</think> is it</think>b")]}, SPLITS)[1]


# ---------------------------------------------------------------- turns

TURNS = [user("a"), said("<think>b</think>c"), user("d"), said("<think>e</think>f")]
FIRST = "<|user|>a<|end|><|assistant|><think>\n[[b</think>c<|end|>]]"
SECOND = "<|user|>a<|end|><|assistant|>c<|end|><|user|>d<|end|><|assistant|><think>\n[[e</think>f<|end|>]]"


def test_turns_that_a_template_rewrites_become_rows_as_the_model_meets_them():
    for turns in ("auto", "each"):
        shown, remarks = read({"messages": TURNS}, OPENS, turns=turns)
        assert shown == [FIRST, SECOND]
        assert remarks == ({"split"} if turns == "auto" else set())


def test_the_last_turn_alone_or_all_turns_in_one_row_by_choice():
    assert read({"messages": TURNS}, OPENS, turns="last") == ([SECOND], set())
    (text,), remarks = read({"messages": TURNS}, OPENS, turns="all")
    last = "<|user|>d<|end|><|assistant|><think>\n[[e</think>f<|end|>]]"
    assert text == f"<|user|>a<|end|><|assistant|>[[c<|end|>]]{last}"
    assert remarks == {"rewritten"}


def test_where_the_template_keeps_its_prefix_one_row_holds_all_turns_and_each_makes_the_same_of_it():
    messages = [user("a"), said("b"), user("c"), said("d")]
    one, each = read({"messages": messages}), read({"messages": messages}, turns="each")
    assert one[0] == ["<|user|>a<|end|>\n<|assistant|>[[b<|end|>]]\n<|user|>c<|end|>\n<|assistant|>[[d<|end|>]]"]
    assert each[0][1] == one[0][0].replace("[[b<|end|>]]", "b<|end|>")


def test_rows_that_a_conversation_became_have_ids_of_their_own_and_lead_back_to_it():
    rows = [{"messages": TURNS}, {"messages": TURNS[:2]}, {"messages": TURNS}]
    prepared = prepare(rows, tiny_folder.byte_tokenizer(OPENS), max_length=999)
    assert [row["row_id"] for row in prepared.rows] == [0, 3, 1, 2, 5]
    assert [prepared.number(row) for row in prepared.rows] == [1, 1, 2, 3, 3]
    assert (prepared.counts.rows, prepared.counts.kept) == (5, 5)
    assert prepared.notes()[0] == f"rows: 2 rows {REMARKS['split']} (first: row 1)"


def test_a_turn_that_is_too_long_is_dropped_alone_and_counted():
    prepared = prepare([{"messages": TURNS}], tiny_folder.byte_tokenizer(OPENS), max_length=18)
    counts = prepared.counts
    assert (counts.rows, counts.kept, counts.truncated, counts.prompt_too_long) == (2, 1, 1, 1)


def test_a_column_of_numbers_is_cut_to_the_turns():
    row = {"messages": TURNS, "weak_delta": list(range(len("b</think>c") + 1 + len("e</think>f") + 1))}
    first, second = prepare([row], tiny_folder.byte_tokenizer(OPENS), max_length=999, columns=["weak_delta"]).rows
    assert first["weak_delta"] + second["weak_delta"] == row["weak_delta"]
    assert len(first["weak_delta"]) == len("b</think>c") + 1


def test_the_two_answers_of_a_pair_stay_one_row_each_though_the_template_rewrites_their_turns():
    rejected = [*TURNS[:3], said("g"), user("h"), said("i")]
    (row,) = prepare(
        [{"chosen": TURNS, "rejected": rejected}], tiny_folder.byte_tokenizer(OPENS), max_length=999, pairs=True
    ).rows
    decode = tiny_folder.byte_tokenizer().decode
    assert decode(row["input_ids"]) == SECOND.replace("[[", "").replace("]]", "")
    assert decode(row["rejected_input_ids"]).endswith(
        "g<|end|><|user|>h<|end|><|assistant|><think>\n\n</think>\n\ni<|end|>"
    )


def test_a_template_that_loses_a_turn_of_the_whole_conversation_cannot_keep_it_in_one_row():
    forgetful = "{% for m in messages %}{{ m['content'] if loop.last else '-' }}{% endfor %}"
    messages = [user("a"), said("b"), user("c"), said("d")]
    with pytest.raises(DataError, match=r"leaves nothing of message 2 .* use data.turns: auto"):
        read({"messages": messages}, forgetful, turns="all")
    assert len(read({"messages": messages}, forgetful)[0]) == 2


def test_a_template_without_a_generation_prompt_leaves_the_header_to_the_model_and_that_is_reported():
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '<|end|>' }}{% endfor %}"
    shown, remarks = read({"messages": [user("a"), said("b")]}, template)
    assert shown == ["<|user|>a<|end|>[[<|assistant|>b<|end|>]]"]
    assert remarks == {"headless"}


def test_an_answer_that_ends_with_what_begins_the_next_message_learns_that_token_as_its_end():
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}" + HEAD
    tokenizer = tiny_folder.byte_tokenizer(template)
    end = tokenizer.convert_tokens_to_ids("<|user|>")
    for messages in ([user("a"), said("b")], [user("a"), said("b"), user("c"), said("d")]):
        (text,), _ = read({"messages": messages}, tokenizer=tokenizer, end_ids=[end])
        assert "[[b<|user|>]]" in text
    assert text == "<|user|>a<|assistant|>[[b<|user|>]]c<|assistant|>[[d<|user|>]]"


def test_a_conversation_may_begin_with_the_assistant_who_may_say_a_letter_of_the_end_token():
    (text,), remarks = read({"messages": [said("d"), user("a"), said("n")]})
    assert text == "<|assistant|>[[d<|end|>]]\n<|user|>a<|end|>\n<|assistant|>[[n<|end|>]]"
    assert not remarks


def test_an_answer_ends_at_its_own_end_token_though_the_template_writes_another_behind_the_conversation():
    template = tiny_folder.TEMPLATE + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}"
    (text,), remarks = read({"messages": [user("a"), said("b"), user("c"), said("d")]}, template)
    assert text == "<|user|>a<|end|>\n<|assistant|>[[b<|end|>]]\n<|user|>c<|end|>\n<|assistant|>[[d<|end|>]]"
    assert not remarks


@pytest.mark.parametrize("content", ["<think>\nx\n</think>", "x</think>"])
def test_a_thought_and_nothing_else_is_an_answer(content):
    (text,), _ = read({"messages": [user("a"), said(content)]}, OPENS)
    assert text.startswith("<|user|>a<|end|><|assistant|><think>\n[[x")
    assert text.endswith("</think><|end|>]]")


def test_a_model_whose_turns_end_where_the_next_one_begins_stops_there():
    template = "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content }}{% endfor %}" + HEAD
    tokenizer = tiny_folder.byte_tokenizer(template)
    assert tokenizer.convert_tokens_to_ids("<|user|>") in end_tokens(tokenizer)
    (text,), remarks = read({"messages": [user("a"), said("b")]}, tokenizer=tokenizer, end_ids=end_tokens(tokenizer))
    assert text == "<|user|>a<|assistant|>[[b<|user|>]]"
    assert not remarks


# ---------------------------------------------------------------- marks


def with_marks(template, adds):
    """A tokenizer that begins a text with <s>, ends it with its end token, or both."""
    tokenizer = tiny_folder.byte_tokenizer(template)
    tokenizer.add_special_tokens({"bos_token": "<s>"})
    single = ("<s> " if "begin" in adds else "") + "$A" + (" <|end|>" if "end" in adds else "")
    known = [("<s>", tokenizer.bos_token_id), ("<|end|>", tokenizer.eos_token_id)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=known)
    return tokenizer


@table("adds", [(), ("begin",), ("end",), ("begin", "end")], ids=str)
@table("begin", ["", "<s>"])
@table("end", ["", "<|end|>", "<|end|>\n"])
def test_begin_and_end_stand_once_whatever_the_tokenizer_and_the_row_add(adds, begin, end):
    tokenizer = with_marks(tiny_folder.TEMPLATE, adds)
    start = "<s>" if "begin" in adds or begin else ""
    for row in ({"text": f"{begin}ab{end}"}, {"prompt": f"{begin}a", "completion": f"b{end}"}):
        (text,), remarks = read(row, tokenizer=tokenizer)
        plain = text.replace("[[", "").replace("]]", "")
        assert plain == f"{start}ab<|end|>"
        assert remarks == ({"marks"} if end or (begin and "begin" in adds) else set())
    pair = {"prompt": f"{begin}a", "chosen": f"b{end}", "rejected": "c"}
    (row,) = prepare([pair], tokenizer, max_length=99, pairs=True).rows
    assert tokenizer.decode(row["input_ids"]) == f"{start}ab<|end|>"
    assert tokenizer.decode(row["rejected_input_ids"]) == f"{start}ac<|end|>"
    ids = encode_prompts(tokenizer, [f"{begin}a"], plain=True)["input_ids"][0].tolist()
    assert tokenizer.decode(ids) == f"{start}a"


def test_a_template_that_writes_the_begin_is_not_given_another_and_answers_that_hold_their_end_keep_one():
    tokenizer = with_marks("{{ bos_token }}" + tiny_folder.TEMPLATE, ("begin", "end"))
    (text,), remarks = read({"messages": [user("a"), said("b<|end|>")]}, tokenizer=tokenizer)
    assert text == "<s><|user|>a<|end|>\n<|assistant|>[[b<|end|>]]"
    assert remarks == {"marks"}
    ids = encode_prompts(tokenizer, ["a"])["input_ids"][0].tolist()
    assert tokenizer.decode(ids) == "<s><|user|>a<|end|>\n<|assistant|>"


# ---------------------------------------------------------------- preferences


def test_a_pairs_prompt_may_be_a_text_or_stand_in_the_answers_and_is_written_once():
    answers = {"chosen": [said("b")], "rejected": [said("c")]}
    whole = {"chosen": [user("a"), said("b")], "rejected": [user("a"), said("c")]}
    forms = [{"prompt": "a", **answers}, {"prompt": [user("a")], **answers}, whole, {"prompt": "a", **whole}]
    forms += [{"prompt": [user("a")], **whole}, {"prompt": [user("a")], "chosen": "b", "rejected": "c"}]
    forms += [
        {"prompt": "a", **answers, "rejected": "c"},
        {**whole, "rejected": "c"},
        {"prompt": "a", **whole, "chosen": "b"},
    ]
    forms += [{"prompt": [{**user("a"), "name": None}], **whole}]
    found = [
        {**row, "row_id": 0} for row in prepare(forms, tiny_folder.byte_tokenizer(), max_length=99, pairs=True).rows
    ]
    assert len(found) == len(forms)
    assert all(row == found[0] for row in found)


def test_the_end_of_a_prompt_that_the_answers_begin_with_is_written_once():
    row = {"prompt": [{"role": "system", "content": "s"}, user("a")], "chosen": [user("a"), said("b")], "rejected": "c"}
    tokenizer = tiny_folder.byte_tokenizer()
    (pair,) = prepare([row], tokenizer, max_length=99, pairs=True).rows
    assert tokenizer.decode(pair["input_ids"]) == "<|system|>s<|end|>\n<|user|>a<|end|>\n<|assistant|>b<|end|>"


def test_a_thought_in_one_answer_of_a_pair_switches_thinking_for_both():
    row = {"prompt": [user("hi")], "chosen": [said("ho", reasoning_content="x")], "rejected": [said("no")]}
    tokenizer = tiny_folder.byte_tokenizer(CLOSES)
    (pair,) = prepare([row], tokenizer, max_length=99, pairs=True).rows
    prompt = "<|user|>hi<|end|><|assistant|><think>\n"
    assert tokenizer.decode(pair["input_ids"]) == f"{prompt}x\n</think>\n\nho<|end|>"
    assert tokenizer.decode(pair["rejected_input_ids"]) == f"{prompt}\n</think>\n\nno<|end|>"


def test_answers_that_part_at_an_earlier_turn_are_compared_from_there():
    chosen, rejected = [user("a"), said("b"), user("c"), said("d")], [user("a"), said("e"), user("f"), said("g")]
    tokenizer = tiny_folder.byte_tokenizer()
    (row,) = prepare([{"chosen": chosen, "rejected": rejected}], tokenizer, max_length=99, pairs=True).rows
    own = [i for i, label in zip(row["rejected_input_ids"], row["rejected_labels"]) if label != IGNORE]
    assert tokenizer.decode(own) == "e<|end|>g<|end|>"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"chosen": [user("a"), said("b")], "rejected": [user("c"), said("d")]},
            "chosen and rejected part at message 1, which is no answer",
        ),
        (
            {"prompt": "pirate", "chosen": [user("a"), said("b")], "rejected": [user("a"), said("c")]},
            "the prompt 'pirate' is no part of the messages under chosen",
        ),
        ({"prompt": 3, "chosen": [user("a"), said("b")], "rejected": [user("a"), said("c")]}, "row 1: prompt is int"),
    ],
)
def test_a_pair_that_answers_two_questions_or_hides_its_prompt_is_refused(row, reason):
    with pytest.raises(DataError, match=reason):
        prepare([row], tiny_folder.byte_tokenizer(), max_length=99, pairs=True)


# ---------------------------------------------------------------- templates that fail, and dates


def test_a_template_that_fails_in_any_way_costs_a_line():
    for template in ("{{ messages[7].content }}", "{{ 1 / 0 }}", "{% for m in messages %}{{ m.content }"):
        tokenizer = tiny_folder.byte_tokenizer(template)
        with pytest.raises(DataError, match="row 1: the chat template does not take these messages: "):
            prepare([{"messages": [user("a"), said("b")]}], tokenizer, max_length=9)
        with pytest.raises(DataError, match="row 1: the chat template does not take these messages: "):
            prepare_tasks([{"prompt": "a"}], tokenizer, "rows")
        with pytest.raises(DataError, match="prompt 1: the chat template does not take these messages: "):
            encode_prompts(tokenizer, ["a"])


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        (3, "chat_template_kwargs is 3; expected an object of the template's variables"),
        ('{"a"', "chat_template_kwargs is '{\"a\"'; expected an object"),
        ({"tokenize": True}, "chat_template_kwargs sets 'tokenize', which is no variable of a chat template"),
    ],
)
def test_variables_of_the_template_that_are_none_cost_a_line(kwargs, reason):
    for row in ({"messages": [user("a"), said("b")]}, {"prompt": "a"}):
        given = {**row, "chat_template_kwargs": kwargs}
        with pytest.raises(DataError) as raised:
            if "prompt" in row:
                prepare_tasks([given], tiny_folder.byte_tokenizer(), "rows")
            else:
                read(given)
        assert f"rows: row 1: {reason}" in str(raised.value)


def test_variables_of_the_template_may_be_json():
    row = {"messages": [user("hi"), said("ho")], "chat_template_kwargs": '{"enable_thinking": true}'}
    (text,), _ = read(row, CLOSES)
    assert text == "<|user|>hi<|end|><|assistant|><think>\n[[\n</think>\n\nho<|end|>]]"


@pytest.mark.parametrize("part", [{"type": "image", "image": "a.png"}, {"type": "text", "text": None}, 1])
def test_a_question_in_parts_that_are_no_text_costs_a_line(part):
    row = {"prompt": [{"role": "user", "content": [part, {"type": "text", "text": "what?"}]}]}
    with pytest.raises(DataError, match="row 1: message 1 of prompt holds a part of type"):
        prepare_tasks([row], tiny_folder.byte_tokenizer(), "rows")


def test_what_a_row_asks():
    tokenizer = tiny_folder.byte_tokenizer()
    reply = {"role": "tool", "content": ""}
    rows = [
        {"prompt": None, "messages": [user("a"), said("b")]},
        {"prompt": [user("a"), said("", tool_calls=[CALL]), reply]},
    ]
    first, second = prepare_tasks(rows, tokenizer, "rows").rows
    assert first["prompt"] == [user("a")]
    assert second["prompt"][-1] == reply
    with pytest.raises(DataError, match="the prompt ends with a message of the assistant, which is no question"):
        prepare_tasks([{"prompt": [user("a"), said("b")]}], tokenizer, "rows")


def test_a_template_that_refuses_is_quoted_and_not_the_form_that_it_cannot_read():
    template = (
        "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools here') }}{% endif %}"
        "{{ m.content[0].text + '<|end|>' }}{% endfor %}"
    )
    messages = [user("a"), {"role": "tool", "content": "x"}, said("b")]
    with pytest.raises(DataError, match="no tools here"):
        read({"messages": messages}, template)


DATED = "{{ strftime_now('%d %b %Y') + strftime_now( \"%H:%M\" ) }}" + tiny_folder.TEMPLATE


def test_a_template_that_writes_the_date_writes_one_moment_however_long_it_takes(tmp_path):
    tokenizer = tiny_folder.byte_tokenizer(DATED)
    set_chat_date(tokenizer, datetime(2024, 2, 29, 23, 59, 58))
    (text,), _ = read({"messages": [user("a"), said("b")]}, tokenizer=tokenizer)
    assert text.startswith("29 Feb 202423:59<|user|>")
    assert date_facts(tokenizer) == {"chat date": "2024-02-29T23:59:58"}
    for name, kept in (
        ("signature.txt", "x: y\nchat date: 2024-02-29T23:59:58\n"),
        ("a.json", json.dumps(date_facts(tokenizer))),
    ):
        (tmp_path / name).write_text(kept)
        other = tiny_folder.byte_tokenizer(DATED)
        adopt_date(other, tmp_path / "not there", tmp_path / name)
        assert date_facts(other) == date_facts(tokenizer)


def test_without_a_date_in_the_template_there_is_none_in_the_signature_and_else_it_is_today():
    assert date_facts(tiny_folder.byte_tokenizer()) == {}
    before = datetime.now().replace(microsecond=0)
    found = date_facts(tiny_folder.byte_tokenizer(DATED))
    assert before <= datetime.fromisoformat(found["chat date"]) <= datetime.now()


def test_messages_of_keeps_what_it_does_not_know():
    message = {"role": "user", "content": "a", "name": "Ann", "weight": 2, "note": None}
    assert messages_of([message], "messages", "row 1") == [{"role": "user", "content": "a", "name": "Ann", "weight": 2}]
