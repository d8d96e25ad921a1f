"""What is wrong with a call of a tool is said so that it can be mended."""

import pytest

from trimtab.data.tool_arguments import CallFault, arguments_of

SCHEMAS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "parameters": {
                "type": "object",
                "properties": {
                    "town": {"type": "string"},
                    "days": {"type": "integer"},
                    "unit": {"type": "string", "enum": ["C", "F"], "nullable": True},
                    "hours": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["town"],
            },
        },
    },
    {"name": "list_files", "parameters": {"type": "object", "properties": {}}},
    {"name": "free", "parameters": {"type": "object", "additionalProperties": True}},
    {"name": "bare"},
    {"name": "broken", "parameters": {"type": "object", "properties": {"a": {"minimum": "x"}}}},
    {
        "name": "loose",
        "parameters": {
            "type": "dict",
            "properties": {
                "number": {"type": "int"},
                "text": {"type": "STRING"},
                "day": {"type": "date"},
                "many": {"type": ["float", "null"]},
                "type": {"type": "string"},
                "nullable": {"type": "boolean"},
            },
        },
    },
    {"name": "either", "parameters": {"anyOf": [{"properties": {"a": {"type": "integer"}}, "required": ["a"]}]}},
    {"name": "far", "parameters": {"properties": {"a": {"$ref": "https://nowhere.example/schema.json"}}}},
    {"name": "none", "parameters": {"type": "object", "properties": "x"}},
]


@pytest.mark.parametrize(
    "name, arguments, given",
    [
        ("get_weather", '{"town": "Bern"}', {"town": "Bern"}),
        ("get_weather", '{"town": "Bern", "unit": null, "days": 2}', {"town": "Bern", "unit": None, "days": 2}),
        ("get_weather", {"town": "{curly} </s>"}, {"town": "{curly} </s>"}),
        ("list_files", "{}", {}),
        ("free", '{"anything": [1]}', {"anything": [1]}),
        ("bare", "{}", {}),
        (
            "loose",
            '{"number": 1, "text": "x", "day": [1], "many": 2.5}',
            {"number": 1, "text": "x", "day": [1], "many": 2.5},
        ),
        ("either", '{"a": 1}', {"a": 1}),
        ("loose", '{"type": "x", "nullable": true}', {"type": "x", "nullable": True}),
    ],
)
def test_a_call_that_fits_its_schema_gives_its_arguments(name, arguments, given):
    assert arguments_of(name, arguments, SCHEMAS) == given


@pytest.mark.parametrize(
    "name, arguments, said",
    [
        ("get_wether", "{}", "there is no tool \"get_wether\"; did you mean 'get_weather'?"),
        (
            "xyz",
            "{}",
            'there is no tool "xyz"; the tools are get_weather, list_files, free, bare, broken, loose, either',
        ),
        ("get_weather", "{'town': 'Bern'}", "the arguments of get_weather are no JSON: Expecting property name"),
        ("get_weather", "", "the arguments of get_weather are no JSON: Expecting value"),
        ("get_weather", '{"days": NaN}', "the arguments of get_weather are no JSON: NaN is no value of JSON"),
        ("get_weather", "[" * 100_000, "the arguments of get_weather are nested too deeply"),
        ("get_weather", '"Bern"', "the arguments of get_weather are a text; write a mapping"),
        ("get_weather", "[1]", "the arguments of get_weather are a list; write a mapping"),
        ("get_weather", "null", "the arguments of get_weather are null; write a mapping"),
        ("get_weather", "{}", "get_weather needs the argument 'town'; it takes town, days, unit, hours"),
        ("get_weather", '{"town": "B", "twon": 1}', "get_weather has no argument \"twon\"; did you mean 'town'?"),
        ("list_files", '{"all": true}', 'list_files has no argument "all"; it takes none'),
        ("get_weather", '{"town": 3}', "town of get_weather is 3; it must be a text"),
        ("get_weather", '{"town": "B", "days": "2"}', 'days of get_weather is "2"; it must be a whole number'),
        ("get_weather", '{"town": "B", "days": true}', "days of get_weather is true; it must be a whole number"),
        ("get_weather", '{"town": "B", "hours": [1, "x"]}', 'hours.1 of get_weather is "x"; it must be a whole number'),
        ("get_weather", '{"town": "B", "unit": "K"}', 'unit of get_weather is "K"; it must be one of C, F'),
        ("bare", '{"a": 1}', 'bare has no argument "a"; it takes none'),
        ("broken", '{"a": 1}', "the schema of broken is no JSON schema: 'x' is not of type 'number'"),
        ("either", '{"a": "1"}', 'a of either is "1"; it must be a whole number'),
        ("far", '{"a": 1}', "the arguments of far cannot be checked: "),
        ("none", "{}", "the schema of none is no JSON schema: 'x' is not of type 'object'"),
        ("loose", '{"number": "1"}', 'number of loose is "1"; it must be a whole number'),
        ("loose", '{"many": "1"}', 'many of loose is "1"; it must be a number or null'),
        ("loose", '{"nullable": "1"}', 'nullable of loose is "1"; it must be true or false'),
    ],
)
def test_a_call_that_does_not_fit_is_told_what_is_wrong(name, arguments, said):
    with pytest.raises(CallFault) as found:
        arguments_of(name, arguments, SCHEMAS)
    assert str(found.value).startswith(said)
    assert "\n" not in str(found.value)


def test_without_any_tool_that_is_what_is_said():
    with pytest.raises(CallFault, match='there is no tool "x"; there are no tools'):
        arguments_of("x", "{}", [])
