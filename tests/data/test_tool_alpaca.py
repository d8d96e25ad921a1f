"""ToolAlpaca's rows as trajectories."""

import pytest

from trimtab.data.sources import DataError
from trimtab.data.tool_alpaca import is_tool_alpaca, of_tool_alpaca
from trimtab.data.trajectories import Step

API = {
    "Name": "Pond",
    "Function_Description": {
        "facts": 'Says facts.\nParameters: {"kind": "string. One of: [food, home]. Which.", "limit": "integer."}\n'
        "Output: Successful response.\n - Format: application/json",
        "random": "Shows one.\nParameters: {}\nOutput: ok",
        "components": "",
    },
}
LOG = '\nThought: I ask for\nfacts.\nASSISTANT Action: facts\nASSISTANT Action Input: {"kind": "food"}'
STEP = [["facts", '{"kind": "food"}', LOG], "Status Code: 200. Response: worms"]
DONE = {"input": "What do they eat?\nHint: worms", "Final Thought": "Enough.", "output": "Worms.",
        "intermediate_steps": [STEP]}  # fmt: skip


def made(**row):
    return list(of_tool_alpaca({**API, **row}, "file: row 1"))


def test_an_instance_is_a_trajectory_without_the_hint():
    one, other = made(Instances=[DONE, {"input": "not done", "output": "-"}, {**DONE, "Final Thought": ""}])
    assert one.steps == (
        Step("user", "What do they eat?"),
        Step("assistant", "I ask for\nfacts.\n Next: caller."),
        Step("caller", 'Action: facts\nAction Input: {"kind": "food"}'),
        Step("observation", "Status Code: 200. Response: worms"),
        Step("assistant", "Enough.\n Next: conclusion."),
        Step("conclusion", "Worms."),
    )
    assert (one.id, other.id) == ("Pond-1", "Pond-3")
    assert other.steps[4].value == " Next: conclusion."


def test_functions_are_tools_with_their_parameters():
    (one,) = made(Instances=[DONE])
    assert one.names == ["facts", "random"]
    function = one.tools[0]["function"]
    assert function["description"] == "Says facts."
    assert function["parameters"]["properties"] == {
        "kind": {"type": "string", "description": "One of: [food, home]. Which."},
        "limit": {"type": "integer", "description": ""},
    }
    assert one.tools[1]["function"]["parameters"]["properties"] == {}


def test_of_golden_answers_the_first_call_is_a_reference():
    calls = [{"Action": "facts", "Action_Input": '{"limit": 3}'}, {"Action": "random", "Action_Input": "{}"}]
    one, other = made(Instructions=["Three facts?", "x", "One?"], Golden_Answers=[calls, [], calls[1:]])
    assert one.steps[1:] == (
        Step("assistant", " Next: caller."), Step("caller", 'Action: facts\nAction Input: {"limit": 3}'),
    )  # fmt: skip
    assert one.remarks == {"calls behind the first are left out, for no observation is there": 1}
    assert (other.id, other.remarks) == ("Pond-3", {})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"Instances": [{**DONE, "intermediate_steps": [["facts", "{}"]]}]}, "instance 1: a step is"),
        ({"Instructions": ["x"], "Golden_Answers": [[{"Action": "facts"}]]}, "golden answer 1 has no"),
        ({"Instances": [DONE], "Function_Description": {"f": "x\nParameters: {a}\nOutput: y"}}, "of f are no JSON"),
    ],
)
def test_what_is_not_as_in_its_files_is_named(row, said):
    with pytest.raises(DataError, match=f"file: row 1.*{said}"):
        made(**row)


def test_it_is_told_from_other_rows():
    assert is_tool_alpaca({**API, "Instances": []})
    assert not is_tool_alpaca(API)
    assert not is_tool_alpaca({"messages": []})
