"""Actions of agents: their schemas, calls that are malformed, and long texts."""

import jsonschema
import pytest

from trimtab.gym.actions import ACTIONS, OFFERED, Null, RunCommand, Submit, parse, schemas
from trimtab.gym.observation import GymObservation, truncated

PAPERS = {
    "run_command", "create_session", "list_sessions", "close_session", "close_all_sessions", "get_session_output",
    "get_session_recent_output", "get_session_status", "check_session_idle", "input_in_session",
    "clear_session_buffer", "kill_session_processes", "open_file", "file_goto_line", "file_scroll_down",
    "file_scroll_up", "create_file", "edit_file", "search_dir", "search_file", "find_file", "list_files",
    "get_file_info", "think", "sleep", "eval", "view_hint", "finish",
}  # fmt: skip
"""of the paper's actions, those that need no web and no parser of media"""


def test_the_papers_actions_are_offered_and_null_is_not():
    assert set(OFFERED) == PAPERS | {"search_documents", "open_document"}
    assert set(ACTIONS) == {*OFFERED, "null"}


def test_every_schema_is_one_and_explains_itself():
    for tool in schemas():
        jsonschema.Draft202012Validator.check_schema(tool["parameters"])
        assert tool["description"]
        assert all(one["description"] for one in tool["parameters"]["properties"].values()), tool["name"]
    by_name = {tool["name"]: tool["parameters"] for tool in schemas("view_hint")}
    assert "view_hint" not in by_name
    assert by_name["run_command"]["required"] == ["command"]
    assert by_name["finish"]["properties"] == {}


def test_arguments_are_an_object_or_its_json():
    wanted = RunCommand(command="ls")
    assert parse("run_command", {"command": "ls"}) == wanted
    assert parse("run_command", '{"command": "ls"}') == wanted
    assert parse("eval", None) == parse("eval", "") == Submit()
    assert wanted.session_id == "main"
    assert wanted.wait_for_completion is False


@pytest.mark.parametrize(
    "name, arguments, said",
    [
        (None, None, "no call of a tool"),
        ("", {}, "no call of a tool"),
        ("run_comand", {}, "did you mean 'run_command'"),
        ("null", {"reason": "x"}, "there is no tool 'null'"),
        (7, {}, "there is no tool 7"),
        ("sleep", "{", "no JSON"),
        ("sleep", "[" * 100_000, "no JSON"),
        ("sleep", "[1]", "are a list"),
        ("sleep", {}, "seconds is missing"),
        ("sleep", {"seconds": "soon"}, "it must be a number"),
        ("sleep", {"seconds": float("nan")}, "finite"),
        ("sleep", {"seconds": float("inf")}, "finite"),
        ("sleep", {"seconds": -1}, "above 0"),
        ("sleep", {"seconds": True}, "it must be a number"),
        ("sleep", {"second": 1, "seconds": 1}, "did you mean 'seconds'"),
        ("think", {"thought": "x" * 200}, "199 characters"),
        ("create_session", {"session_id": "../x"}, "session_id"),
        ("create_session", {"session_id": ""}, "session_id"),
        ("edit_file", {"path": "a", "start": 0, "end": 1, "content": ""}, "at least 1"),
        ("create_file", {"filename": "a", "content": ["x"]}, "content"),
    ],
)
def test_a_malformed_call_becomes_null_with_the_reason(name, arguments, said):
    found = parse(name, arguments)
    assert isinstance(found, Null)
    assert said in found.reason
    assert len(found.reason) < 1200


def test_a_long_text_keeps_its_first_fifth_and_its_end():
    text = "a" * 6000 + "\n" * 10 + "b" * 10_000 + "c" * 24_000
    found = truncated(text)
    head, note, tail = found.split("\n[... ")[0], found.split("\n[... ")[1].split(" ...]\n")[0], found[-24_000:]
    assert (head, tail) == ("a" * 6000, "c" * 24_000)
    assert note == "10,010 characters, 10 lines omitted"
    assert truncated("x" * 30_000) == "x" * 30_000


def test_an_observation_names_its_message_by_its_success():
    good, bad = (
        GymObservation("run", "run_command", success, "said", {"exit_code": 0}, 1.0) for success in (True, False)
    )
    assert good.to_dict() == {
        "success": True, "message": "said", "observation_type": "run", "timestamp": 1.0, "source": "run_command",
        "exit_code": 0,
    }  # fmt: skip
    assert bad.to_dict()["error_message"] == "said"
    assert "message" not in bad.to_dict()
