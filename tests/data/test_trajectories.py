"""Trajectories of tool agents are read from the forms that people have, and written again without loss."""

import json

import pytest

from trimtab.data.sources import DataError
from trimtab.data.trajectories import (
    CALL,
    CONCLUDE,
    GIVE_UP,
    Call,
    action,
    call_of,
    documentation,
    planned,
    thought_of,
    to_messages,
    to_normalised,
    trajectory,
)

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "weather of a town",
        "parameters": {
            "type": "object",
            "properties": {"town": {"type": "string", "description": "the town"}},
            "required": ["town"],
        },
    },
}
ROW = {
    "tools": [WEATHER],
    "messages": [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Weather in Bern?"},
        {
            "role": "assistant", "content": "I look it up.",
            "tool_calls": [{"function": {"name": "get_weather", "arguments": {"town": "Bern"}}}],
        },
        {"role": "tool", "content": "12 C, rain"},
        {"role": "assistant", "content": "It is 12 C and raining.", "reasoning_content": "Enough."},
    ],
}  # fmt: skip
STEPS = [
    ("user", "Weather in Bern?"),
    ("assistant", "I look it up.\n Next: caller."),
    ("caller", 'Action: get_weather\nAction Input: {"town": "Bern"}'),
    ("observation", "12 C, rain"),
    ("assistant", "Enough.\n Next: conclusion."),
    ("conclusion", "It is 12 C and raining."),
]


def test_messages_become_the_turns_of_the_paper():
    found = trajectory(ROW, "row 1")
    assert list(found.steps) == STEPS
    assert found.system == "Be kind."
    assert found.instruction == "Weather in Bern?"
    assert found.names == ["get_weather"]


@pytest.mark.parametrize("content", ["I look it up.", "", None])
def test_arguments_as_json_and_absent_contents_are_read(content):
    call = {"role": "assistant", "content": content,
            "tool_calls": [{"id": "a", "type": "function",
                            "function": {"name": "get_weather", "arguments": '{"town": "Bern"}'}}]}  # fmt: skip
    row = {**ROW, "messages": [*ROW["messages"][:2], call, {"role": "tool", "tool_call_id": "a", "content": "12"}]}
    found = trajectory(row, "row 1")
    assert found.steps[1].value == (f"{content}\n Next: caller." if content else " Next: caller.")
    assert found.steps[2] == STEPS[2]
    assert found.remarks == {"ends without an answer": 1, "calls of one message became turns": 0}


def test_both_forms_are_written_without_loss():
    found = trajectory(ROW, "row 1")
    again = trajectory(to_normalised(found), "row 1")
    assert again == found
    assert trajectory(to_messages(again), "row 1") == found
    odd = [*STEPS[:2], ("caller", 'Action: get_weather\nAction Input: {"town":"Bern"'), *STEPS[3:4],
           ("assistant", "I cannot.\n Next: give up.")]  # fmt: skip
    given = {"tools": [WEATHER], "conversations": [{"from": role, "value": value} for role, value in odd]}
    there = trajectory(given, "row 1")
    assert list(there.steps) == odd
    assert trajectory(to_messages(there), "row 1") == there
    assert to_messages(there)["messages"][1]["tool_calls"][0]["function"]["arguments"] == '{"town":"Bern"'
    assert to_messages(there)["messages"][-1] == {"role": "assistant", "content": "I cannot.", "give_up": True}


def test_several_calls_of_one_message_become_turns_in_their_order_with_the_results_that_name_them():
    calls = [{"id": n, "function": {"name": "get_weather", "arguments": {"town": n}}} for n in "ab"]
    row = {"tools": [WEATHER], "messages": [
        {"role": "user", "content": "?"}, {"role": "assistant", "content": "Both.", "tool_calls": calls},
        {"role": "tool", "tool_call_id": "b", "content": "of b"},
        {"role": "tool", "tool_call_id": "a", "content": "of a"},
        {"role": "assistant", "content": "done"}]}  # fmt: skip
    found = trajectory(row, "row 1")
    assert [step.value for step in found.steps if step.role == "observation"] == ["of a", "of b"]
    assert [step.value for step in found.steps if step.role == "assistant"] == [
        "Both.\n Next: caller.", " Next: caller.", " Next: conclusion.",
    ]  # fmt: skip
    assert found.remarks["calls of one message became turns"] == 1
    stray = {**row, "messages": [*row["messages"][:3], {"role": "tool", "tool_call_id": "z", "content": "?"}]}
    with pytest.raises(DataError, match="row 1: message 2 of messages calls 2 of its tools, and 2 answer"):
        trajectory(stray, "row 1")


def toolbench(*chain, **changes):
    function = {
        "name": "x" * 70, "description": "d" * 300,
        "parameters": {"properties": {"a": {"type": "integer", "description": "e" * 300}, "b": {"type": "string"}}},
    }  # fmt: skip
    given = {"query": "Ask", "function": [function, {"name": "Finish"}], "valid_data": True}
    first = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    return {"answer_generation": {**given, "train_messages": [["other"], [*first, *chain]], **changes}}


def finish(arguments, content="So."):
    return {"role": "assistant", "content": content, "function_call": {"name": "Finish", "arguments": arguments}}


def test_files_of_toolbench_are_read_as_in_the_paper():
    call = {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"a":1}'}}
    result = {"role": "function", "content": json.dumps({"error": "", "response": "42"})}
    end = finish(json.dumps({"return_type": "give_answer", "final_answer": "It is 42."}))
    found = trajectory(toolbench(call, result, {"role": "function", "content": 'x "response": cut'}, end), "row 1")
    assert list(found.steps) == [
        ("user", "Ask"), ("assistant", " Next: caller."), ("caller", 'Action: f\nAction Input: {"a":1}'),
        ("observation", "42"), ("observation", "cut"), ("assistant", "So.\n Next: conclusion."),
        ("conclusion", "It is 42."),
    ]  # fmt: skip
    line = json.loads(documentation(found.tools))
    assert line == {"Name": "x" * 64, "function": "d" * 256, "input": {"a": "integer, " + "e" * 256, "b": "string"}}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ('{"return_type": "give_up_and_restart"}', None),
        ('{"return_type": "give_up_and_restart", "x', None),
        ('{"return_type": "give_answer"}', "none"),
        ('{"return_type": "give_answer", "final_answer": "cut off"}}', "cut off"),
        ("{broken", "So."),
    ],
)
def test_the_end_of_a_chain_of_toolbench_is_read_as_far_as_it_goes(arguments, said):
    steps = trajectory(toolbench(finish(arguments)), "row 1").steps[1:]
    wanted = [("assistant", "So.\n Next: give up.")]
    if said is not None:
        wanted = [("assistant", "So.\n Next: conclusion."), ("conclusion", said)]
    assert list(steps) == wanted


def test_a_turn_is_planned_and_read_by_the_order_of_the_paper():
    assert thought_of(planned("I see.", CALL)) == ("I see.", CALL)
    assert thought_of("No Next: caller. or Next: give up. here") == ("No Next: caller. or", GIVE_UP)
    assert thought_of(planned("", CONCLUDE)) == ("", CONCLUDE)
    assert thought_of("nothing") == ("nothing", None)


def test_a_call_is_read_though_its_arguments_hold_the_marks():
    for odd in (Call("f", '{"q": "x"}'), Call("f", '{"q": "Action Input: y, Action: z"}'), Call("f", "{broken")):
        assert call_of(action(odd)) == odd
    assert call_of("no call") == Call("none", "{}")
    assert call_of("Action: f") == Call("f", "{}")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"text": "x"}, "a trajectory is a row with messages and tools.* this row has text"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "nobody asks for anything"),
        ({"messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "y"}]}, "answers no call"),
        ({"conversations": [{"from": "human", "value": "x"}]}, "turn 1 of conversations is from 'human'"),
        (
            {"conversations": [{"from": "user", "value": "x"}, {"from": "caller", "value": "y"}]},
            "no turn of the assistant",
        ),
        ({"conversations": [{"from": "user", "value": "x"}], "tools": [{"a": 1}]}, "tool 1 has no name"),
        ({"answer_generation": {"train_messages": [], "function": []}}, "it was cut off"),
    ],
)
def test_what_is_no_trajectory_is_refused_with_the_place(row, said):
    with pytest.raises(DataError, match=f"rows.jsonl: row 3: .*{said}"):
        trajectory(row, "rows.jsonl: row 3")
