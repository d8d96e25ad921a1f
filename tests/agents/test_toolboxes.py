"""Tools that are run: recorded responses, small worlds, and what becomes of calls that no tool can take."""

import json

import pytest

import tiny_folder
from trimtab.agents.recorded import Recorded
from trimtab.agents.toolboxes import open_toolbox
from trimtab.agents.tools import Toolbox, ToolFailed, ToolsError, shortened
from trimtab.agents.world_tools import WorldTools
from trimtab.data.generators.tool_world import tools as rows_of
from trimtab.data.trajectories import call_of, name_of, trajectory

TOWN = {"type": "object", "properties": {"town": {"type": "string"}}, "required": ["town"]}
WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "weather", "parameters": TOWN}}


class Echo(Toolbox):
    """Says what it was asked."""

    schemas = [WEATHER]  # noqa: RUF012

    def call(self, name, arguments):
        if arguments["town"] == "Atlantis":
            raise ToolFailed("no town\nof that name")
        return arguments["town"]


def test_a_call_is_checked_before_it_is_made_and_faults_are_observations():
    box = Echo()
    assert box.run("get_weather", '{"town": "{history}</s>"}')[:2] == ("{history}</s>", False)
    assert box.run("get_weather", {"town": "Bern"}).text == "Bern"
    for name, arguments, said in (
        ("get_weather", "{'town': 1}", "error: the arguments of get_weather are no JSON"),
        ("get_weather", '"Bern"', "error: the arguments of get_weather are a text; write a mapping"),
        ("get_wether", "{}", "error: there is no tool \"get_wether\"; did you mean 'get_weather'?"),
        ("get_weather", "{}", "error: get_weather needs the argument 'town'"),
        ("get_weather", '{"town": 3}', "error: town of get_weather is 3; it must be a text"),
        ("get_weather", '{"town": "Atlantis"}', "error: no town of that name"),
    ):
        found = box.run(name, arguments)
        assert found.error
        assert found.text.startswith(said)
        assert found.seconds >= 0


def test_long_observations_are_cut_with_a_note():
    box = Echo()
    box.longest = 100
    found = box.run("get_weather", {"town": "ab" * 1000})
    assert len(found.text) <= 100
    assert found.text.startswith("abab")
    assert found.text.endswith("b [cut: 2,000 characters]")
    assert shortened(found.text, 100) == found.text
    assert shortened("x" * 100, 100) == "x" * 100
    assert box.run("get_weather", {"town": ""}).text == ""


# ---------------------------------------------------------------- recorded responses


def test_recorded_responses_are_found_by_what_was_asked_and_not_by_how():
    box = Recorded(
        [
            {"tools": [WEATHER]},
            {"name": "get_weather", "arguments": '{"town": "Bern"}', "observation": "12 C"},
            {"name": "get_weather", "arguments": {"town": "Oslo"}, "observation": {"C": 3}},
            {"name": "get_weather", "arguments": {"town": "Rome"}, "observation": "broken", "error": True},
        ]
    )
    assert box.schemas == [WEATHER]
    assert box.run("get_weather", '{ "town":"Bern" }')[:2] == ("12 C", False)
    assert box.run("get_weather", {"town": "Oslo"}).text == '{"C": 3}'
    assert box.run("get_weather", {"town": "Rome"})[:2] == ("error: broken", True)
    found = box.run("get_weather", {"town": "Lima"})
    assert found[:2] == ('error: nothing is recorded for get_weather with {"town": "Lima"}', True)


def test_the_nth_time_a_call_gets_what_was_recorded_the_nth_time():
    lines = [{"name": "next", "arguments": {}, "observation": str(number)} for number in (1, 2)]
    box = Recorded(lines)
    assert [box.run("next", "{}").text for _ in range(4)] == ["1", "2", "2", "2"]
    box.reset()
    assert box.run("next", "{}").text == "1"


def test_tools_without_a_schema_take_the_arguments_that_were_recorded():
    box = Recorded([{"name": "f", "arguments": {"a": 1, "b": "x"}, "observation": "y"}])
    (schema,) = box.schemas
    assert name_of(schema) == "f"
    assert schema["function"]["parameters"]["properties"] == {"a": {"type": "integer"}, "b": {"type": "string"}}
    assert box.run("f", '{"c": 1}').text == 'error: f has no argument "c"; it takes a, b'


def test_trajectories_are_recordings_of_their_tools(tmp_path):
    rows = [row for row in rows_of("train", 12) if not row["gives_up"]]
    file = tiny_folder.write_jsonl(tmp_path / "rows.jsonl", rows)
    with open_toolbox(str(file or tmp_path / "rows.jsonl")) as box:
        assert {name_of(one) for row in rows for one in row["tools"]} == {name_of(one) for one in box.schemas}
        steps = trajectory(rows[0], "row").steps
        place = next(place for place, step in enumerate(steps) if step.role == "caller")
        call = call_of(steps[place].value)
        assert box.run(call.name, call.arguments).text == steps[place + 1].value


@pytest.mark.parametrize(
    "line, said",
    [
        ({"name": "f"}, "line 1: a recorded response has name, arguments and observation; this one has name"),
        ({"name": "f", "arguments": "{", "observation": "x"}, "line 1: the arguments of f are no JSON"),
        ({"name": "f", "arguments": [1], "observation": "x"}, "line 1: the arguments of f are a list"),
        ({"a": 1}, "line 1: a recorded response has name, arguments and observation; this one has a"),
    ],
)
def test_a_line_that_is_no_recording_is_told(line, said):
    with pytest.raises(ToolsError, match=said):
        Recorded([line])


# ---------------------------------------------------------------- worlds


def test_a_world_of_a_row_is_a_toolbox_that_begins_anew():
    row = next(row for row in rows_of("train", 200) if row["task"] == "order" and not row["gives_up"])
    calls = [call_of(step.value) for step in trajectory(row, "row").steps if step.role == "caller"]
    said = [step.value for step in trajectory(row, "row").steps if step.role == "observation"]
    with WorldTools(row) as box:
        assert [name_of(one) for one in box.schemas] == [name_of(one) for one in row["tools"]]
        assert [box.run(*call).text for call in calls] == said
        assert box.world.state() == json.loads(row["final"])
        assert box.run("fly", "{}").error
        box.reset()
        assert box.world.state() == json.loads(row["world"])


def test_a_world_is_opened_by_the_source_of_its_row():
    with open_toolbox("trimtab:tools/heldout?rows=3[2:3]") as box:
        assert isinstance(box, WorldTools)
        assert box.schemas == list(rows_of("heldout", 3))[2]["tools"]
    with pytest.raises(ToolsError, match=r"trimtab:arithmetic/train\?rows=1: no row of trimtab:tools: KeyError"):
        open_toolbox("trimtab:arithmetic/train?rows=1")


def test_what_is_no_tools_is_told_with_the_forms_there_are(tmp_path):
    with pytest.raises(ToolsError, match=r"there is no file .*none\.py"):
        open_toolbox(str(tmp_path / "none.py"))
    with pytest.raises(ToolsError, match=r"'weather' is no tools: expected TOOLS\.py, a \.jsonl .* mcp:COMMAND"):
        open_toolbox("weather")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(ToolsError, match=r"empty\.jsonl holds no rows"):
        open_toolbox(str(tmp_path / "empty.jsonl"))
