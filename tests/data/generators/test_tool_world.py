"""Small worlds of tools: what the tools do, that the trajectory of a row does its task, and that a spoilt one fails."""

import json
import re
from collections import Counter
from itertools import pairwise

import jsonschema
import pytest

from trimtab.data.generators.tool_world import SPLITS, values
from trimtab.data.generators.tool_world import tools as rows_of
from trimtab.data.generators.tool_world.world import OWNERS, SEEN, UNSEEN, World, WorldError, check, outcome_of, says
from trimtab.data.sources import DataError, load_rows
from trimtab.data.trajectories import (
    CONCLUDE,
    GIVE_UP,
    Call,
    Step,
    action,
    call_of,
    name_of,
    planned,
    to_messages,
    to_normalised,
    trajectory,
)

STATE = {
    "dates": "iso",
    "calendar": {"events": [["2026-05-03", "10:00", "dentist", "E7"]], "next": 40},
    "weather": {"Bern": {"2026-05-03": [12, "rain"]}},
    "shop": {"products": {"oak desk": ["desk", 30, 2], "red desk": ["desk", 20, 0]}, "orders": [], "next": 5},
    "calculator": {},
    "units": {"written": "codes"},
    "files": {"notes.txt": "fix the bike", "list.txt": "2 oak desk"},
    "staff": {"columns": ["name", "team", "wage"], "rows": [["Ana", "sales", 4200], ["Ben", "legal", 5000]]},
    "contacts": {"people": {"Ana": "ana@post.example"}, "sent": [], "next": 3},
    "money": {"EUR": 1.0, "CHF": 0.9},
    "bank": {"accounts": {"savings": 80, "checking": 200}, "next": 1},
    "trains": {"trains": {"T10": ["Bern", "Oslo", "06:10", 0], "T12": ["Bern", "Oslo", "08:10", 1]},
               "seats": [], "next": 9},
    "library": {"books": {"The Red Lamp": ["Adler", 1]}, "reserved": [], "next": 2},
    "home": {"study": [12, 16]},
}  # fmt: skip


@pytest.mark.parametrize(
    "name, arguments, said",
    [
        ("list_events", {"date": "2026-05-03"}, "10:00 dentist"),
        ("list_events", {"date": "2026-05-04"}, "no events"),
        ("list_events", {"date": "3 May"}, "error: write the date as YYYY-MM-DD"),
        ("list_events", {"date": "2026-02-30"}, "error: there is no day 2026-02-30"),
        ("add_event", {"title": "run", "date": "2026-05-03", "time": "11:00"}, "event E40"),
        (
            "add_event", {"title": "run", "date": "2026-05-03", "time": "10:00"},
            "error: 10:00 is taken, next free: 11:00",
        ),
        (
            "add_event", {"title": "run", "date": "2026-05-03", "time": "9"},
            "error: the time is a full hour from 08:00 to 18:00",
        ),
        ("move_event", {"title": "Dentist", "date": "2026-05-04", "time": "10:00"}, "moved event E7"),
        ("move_event", {"title": "chess", "date": "2026-05-04", "time": "10:00"}, "error: no event chess"),
        ("get_weather", {"city": "Bern", "date": "2026-05-03"}, "12 C, rain"),
        ("get_weather", {"city": "Rome", "date": "2026-05-03"}, "error: no forecast for Rome"),
        ("get_weather", {"city": "Bern", "date": "2026-05-05"}, "error: no forecast for that day"),
        ("find_products", {"kind": "desk"}, "oak desk, red desk"),
        ("find_products", {"kind": "sofa"}, "none"),
        ("get_price", {"product": "oak desk"}, "30 EUR"),
        ("check_stock", {"product": "oak desk"}, "2 left"),
        ("place_order", {"product": "oak desk", "quantity": 2}, "order A5"),
        ("place_order", {"product": "oak desk", "quantity": 3}, "error: only 2 left"),
        ("place_order", {"product": "red desk", "quantity": 1}, "error: sold out"),
        ("place_order", {"product": "oak desk", "quantity": -1}, "error: order at least 1"),
        ("place_order", {"product": "big desk", "quantity": 1}, "error: no product big desk"),
        ("calculate", {"expression": "3 * (12.5 - 2) / 2"}, "15.75"),
        ("calculate", {"expression": "1 / 0"}, "error: that is no sum; write such as 3 * 12"),
        ("calculate", {"expression": "__import__('os')"}, "error: that is no sum; write such as 3 * 12"),
        ("calculate", {"expression": "9**9**9"}, "error: that is no sum; write such as 3 * 12"),
        ("convert_units", {"value": 12, "unit": "oz", "to": "g"}, "340.19 g"),
        ("convert_units", {"value": 1, "unit": "mi", "to": "km"}, "1.61 km"),
        ("convert_units", {"value": 1, "unit": "miles", "to": "km"}, "error: units are kg, g, lb, oz, km, m, mi, ft"),
        ("convert_units", {"value": 1, "unit": "mi", "to": "kg"}, "error: mi and kg measure different things"),
        ("list_files", {}, "list.txt, notes.txt"),
        ("read_file", {"name": "notes.txt"}, "fix the bike"),
        ("read_file", {"name": "notes"}, "error: no file notes, there are list.txt, notes.txt"),
        ("write_file", {"name": "new.txt", "text": "{history} </s>"}, "saved new.txt"),
        ("write_file", {"name": "../new.txt", "text": "x"}, "error: the name must end in .txt"),
        ("write_file", {"name": "new.txt", "text": "x" * 501}, "error: the text has more than 500 characters"),
        ("run_sql", {"query": "SELECT wage FROM staff WHERE name = 'Ana'"}, "4200"),
        ("run_sql", {"query": "SELECT name, team FROM staff"}, "Ana, sales; Ben, legal"),
        ("run_sql", {"query": "SELECT name FROM staff WHERE name = 'Cleo'"}, "no rows"),
        ("run_sql", {"query": "SELECT pay FROM staff"}, "error: no such column: pay; the columns are name, team, wage"),
        ("run_sql", {"query": "UPDATE staff SET wage = wage + 1"}, "changed 2 rows"),
        ("run_sql", {"query": "DROP TABLE staff"}, "error: not authorized; the columns are name, team, wage"),
        ("run_sql", {"query": "ATTACH 'x.db' AS y"}, "error: not authorized; the columns are name, team, wage"),
        ("run_sql", {"query": ""}, "error: that is no query"),
        ("find_contact", {"name": "ana"}, "ana@post.example"),
        ("find_contact", {"name": "Ben"}, "error: no contact Ben"),
        ("send_message", {"to": "ana@post.example", "text": "hi"}, "message M3"),
        ("send_message", {"to": "Ana", "text": "hi"}, "error: no address Ana"),
        ("exchange_money", {"amount": 30, "currency": "EUR", "to": "CHF"}, "27 CHF"),
        ("exchange_money", {"amount": 30, "currency": "EUR", "to": "USD"}, "error: currencies are EUR, CHF"),
        ("get_balance", {"account": "savings"}, "80 EUR"),
        ("transfer_money", {"source": "savings", "target": "checking", "amount": 80}, "transfer T1"),
        ("transfer_money", {"source": "savings", "target": "checking", "amount": 81}, "error: savings has too little"),
        ("transfer_money", {"source": "savings", "target": "checking", "amount": -1}, "error: move more than 0 EUR"),
        ("find_trains", {"origin": "Bern", "destination": "Oslo"}, "T10 at 06:10, T12 at 08:10"),
        ("book_seat", {"train": "T12"}, "seat S9"),
        ("book_seat", {"train": "T10"}, "error: T10 is full"),
        ("find_book", {"author": "Adler"}, "The Red Lamp"),
        ("reserve_book", {"title": "the red lamp"}, "reservation R2"),
        ("get_temperature", {"room": "study"}, "12 C"),
        ("set_temperature", {"room": "study", "degrees": 25}, "error: at most 24 C"),
        ("set_temperature", {"room": "study", "degrees": 20}, "heating to 20 C"),
        (
            "set_temperature", {"room": "study", "degrees": "20"},
            'error: degrees of set_temperature is "20"; it must be a whole number',
        ),
    ],
)  # fmt: skip
def test_a_tool_returns_a_line_and_one_that_fails_changes_nothing(name, arguments, said):
    world = World(STATE)
    assert world.call(name, arguments) == said
    reads = name.startswith(
        ("list", "get", "find", "check", "calculate", "convert", "read", "exchange")
    ) or "SELECT" in str(arguments)
    assert (world.state() == STATE) == (reads or said.startswith("error"))
    assert World(STATE).call(name, json.dumps(arguments)) == said


def test_a_query_that_never_ends_is_stopped():
    many = ", ".join(f"staff s{number}" for number in range(25))
    text = World(STATE).call("run_sql", {"query": f"SELECT count(*) FROM {many}"})
    assert text == "error: interrupted; the columns are name, team, wage"


def test_what_tools_do_is_kept_in_the_state():
    world = World(STATE)
    for name, arguments in (
        ("add_event", {"title": "run", "date": "2026-05-03", "time": "11:00"}),
        ("add_event", {"title": "swim", "date": "2026-05-03", "time": "12:00"}),
        ("place_order", {"product": "oak desk", "quantity": 2}),
        ("send_message", {"to": "ana@post.example", "text": "hi"}),
        ("run_sql", {"query": "UPDATE staff SET wage = 1 WHERE name = 'Ben'"}),
        ("write_file", {"name": "notes.txt", "text": "done"}),
    ):
        assert not world.run(name, arguments)[1]
    now = world.state()
    assert now["calendar"]["events"][1:] == [
        ["2026-05-03", "11:00", "run", "E40"],
        ["2026-05-03", "12:00", "swim", "E41"],
    ]
    assert now["shop"]["products"]["oak desk"] == ["desk", 30, 0]
    assert now["shop"]["orders"] == [["A5", "oak desk", 2]]
    assert now["contacts"]["sent"] == [["M3", "ana@post.example", "hi"]]
    assert now["staff"]["rows"] == [["Ana", "sales", 4200], ["Ben", "legal", 1]]
    assert now["files"]["notes.txt"] == "done"
    assert STATE["calendar"]["next"] == 40


def test_days_with_dots_and_units_in_words_are_those_of_another_world():
    world = World({**STATE, "dates": "dots", "units": {"written": "words"}})
    assert world.call("list_events", {"date": "03.05.2026"}) == "10:00 dentist"
    assert world.call("list_events", {"date": "2026-05-03"}) == "error: write the date as DD.MM.YYYY"
    assert world.call("convert_units", {"value": 1, "unit": "miles", "to": "kilometres"}) == "1.61 kilometres"


def test_only_offered_tools_can_be_called():
    world = World(STATE, ["get_price"])
    assert [name_of(one) for one in world.schemas] == ["get_price"]
    assert world.run("place_order", {"product": "oak desk", "quantity": 1}) == (
        'error: there is no tool "place_order"; the tools are get_price', True
    )  # fmt: skip
    with pytest.raises(WorldError, match="the world has no tool 'fly'"):
        World(STATE, ["fly"])
    with pytest.raises(WorldError, match="the world has no tool 'get_price'; its apps are calculator"):
        World({"calculator": {}}, ["get_price"])


@pytest.mark.parametrize(
    "text, fact, said",
    [
        ("It costs 12 EUR.", "12 EUR", True), ("It costs 12.", "12", True), ("It costs 12.50", "12", False),
        ("It costs 112", "12", False), ("It costs 3.12", "12", False), ("(12  eur)", "12 EUR", True),
        ("order a417!", "A417", True), ("A4170", "A417", False), ("-5 degrees", "5", True), ("12,5", "12", False),
        ("12, 13", "12", True),
    ],
)  # fmt: skip
def test_a_fact_is_said_by_whole_words_and_numbers(text, fact, said):
    assert says(text, fact) == said


# ---------------------------------------------------------------- rows


@pytest.fixture(scope="module", params=SPLITS)
def made(request):
    return request.param, list(rows_of(request.param, 120))


def test_every_trajectory_passes_the_checker_and_its_calls_fit_the_schemas(made):
    for row in made[1]:
        found = trajectory(row, "row")
        assert check(row, found.steps) == {"state": True, "answer": True, "success": True}, row["task"]
        schemas = {name_of(one): one["function"]["parameters"] for one in row["tools"]}
        world = World(json.loads(row["world"]), list(schemas))
        for step, behind in pairwise(found.steps):
            if step.role == "caller":
                call = call_of(step.value)
                jsonschema.validate(json.loads(call.arguments), schemas[call.name])
                assert world.call(call.name, call.arguments) == behind.value
        assert found.steps[-1].role == ("assistant" if row["gives_up"] else "conclusion")


def without(steps, place):
    """The turns without a call, its plan and its observation."""
    return [step for number, step in enumerate(steps) if number not in (place - 1, place, place + 1)]


def other(arguments):
    for key, value in arguments.items():
        yield {**arguments, key: f"{value}zz" if isinstance(value, str) else value + 1}


def test_a_missing_call_and_a_wrong_argument_fail(made):
    tried = 0
    for row in made[1]:
        steps = trajectory(row, "row").steps
        places = [place for place, step in enumerate(steps) if step.role == "caller"]
        for place in places if not row["gives_up"] else []:
            if steps[place + 1].value.startswith("error: "):
                continue
            assert not check(row, without(steps, place))["success"], (row["task"], steps[place])
            call = call_of(steps[place].value)
            for arguments in other(json.loads(call.arguments)):
                spoilt = [*steps]
                spoilt[place] = Step("caller", action(Call(call.name, json.dumps(arguments))))
                assert not check(row, spoilt)["success"], (row["task"], arguments)
                tried += 1
    assert tried > 100


def test_an_invented_answer_and_giving_up_without_need_fail(made):
    for row in made[1]:
        *steps, plan, end = trajectory(row, "row").steps
        if row["gives_up"]:
            steps = [*steps, plan]
            assert not check(row, [*steps, Step("assistant", planned("", CONCLUDE)), Step("conclusion", "Done.")])[
                "success"
            ]
            assert not check(row, steps)["success"]
            assert not row["answer"] or not check(row, [steps[0], end])["answer"]
            continue
        assert not check(row, [*steps, Step("assistant", planned("No.", GIVE_UP))])["success"]
        assert not check(row, [*steps, plan])["success"]
        assert not check(row, [*steps, plan, Step("conclusion", "All is done.")])["success"]
        assert row["answer"]
        for fact in row["answer"]:
            assert not check(row, [*steps, plan, Step("conclusion", end.value.replace(fact, "7"))])["success"]
        told = "\n".join(row["answer"])
        assert not check(row, [steps[0], plan, Step("conclusion", told)])["success"], "nothing was looked up"


def test_a_guess_that_an_error_repeats_was_not_looked_up():
    row = next(row for row in rows_of("train", 200) if row["task"] == "price_abroad" and not row["gives_up"])
    asked, *_, plan, end = trajectory(row, "row").steps
    assert check(row, trajectory(row, "row").steps)["success"]
    calls = [
        turn
        for fact in row["answer"]
        for turn in (Step("caller", action(Call("get_price", json.dumps({"product": fact})))), Step("observation", "?"))
    ]
    assert check(row, [asked, *calls, plan, end]) == {"state": True, "answer": False, "success": False}


def test_more_than_was_asked_for_fails_by_the_state():
    row = next(row for row in rows_of("train", 200) if row["task"] == "tell_weather" and not row["gives_up"])
    *steps, plan, end = trajectory(row, "row").steps
    asked, sent = steps[1:4], steps[-3:]
    assert sent[1].value.startswith("Action: send_message")
    assert check(row, [*steps, *asked, plan, end])["success"]  # asking twice changes nothing
    assert check(row, [*steps, *sent, plan, end]) == {"state": False, "answer": True, "success": False}


def test_a_row_that_is_none_of_these_is_told():
    with pytest.raises(WorldError, match=r"no row of trimtab:tools: KeyError: 'world'"):
        check({"messages": []}, [])


def test_an_outcome_is_read_from_the_last_turn():
    call = Step("caller", action(Call("f", "{}")))
    ends = [Step("assistant", planned("x", CONCLUDE)), Step("conclusion", "yes")]
    assert outcome_of([Step("user", "q"), call, *ends]) == ((Call("f", "{}"),), "yes", False)
    assert outcome_of([Step("user", "q"), Step("assistant", planned("x", GIVE_UP))]) == ((), None, True)
    assert outcome_of([Step("user", "q"), call]) == ((Call("f", "{}"),), None, False)
    assert outcome_of([]) == ((), None, False)


def test_rows_have_two_to_six_calls_some_of_which_fail_and_tools_that_are_not_needed(made):
    split, rows = made
    failing = 0
    for row in rows:
        found = trajectory(row, "row")
        used = {call.name for call in outcome_of(found.steps).calls}
        assert row["gives_up"] or 2 <= len(outcome_of(found.steps).calls) <= 6
        offered = [name_of(one) for one in row["tools"]]
        assert len(set(offered)) == len(offered)
        assert used < set(offered)
        failing += any(step.value.startswith("error: ") for step in found.steps) and not row["gives_up"]
        text = "".join(step.value for step in found.steps) + json.dumps(row["tools"])
        assert text.isascii()
        assert len(text) < 4000
    assert 0.08 < sum(row["gives_up"] for row in rows) / len(rows) < 0.25
    assert failing / len(rows) > 0.15, split


def test_splits_share_no_question_no_name_and_no_tool_that_is_to_be_new():
    train = [row for seed in (0, 1, 2) for row in rows_of("train", 150, seed)]
    asked = {row["messages"][0]["content"] for row in train}
    assert len(asked) > 400
    new = {tool for tool, app in OWNERS.items() if app in UNSEEN}
    assert len(OWNERS) - len(new) == 17
    assert len(new) == 8
    offered = Counter(name_of(one) for row in train for one in row["tools"])
    assert set(offered) == set(OWNERS) - new
    days = set(re.findall(r"\d{4}-\d\d-\d\d", " ".join(asked)))
    assert len(days) > 50
    assert not any(map(values.held_out, days))
    tasks = {row["task"] for row in train}
    for split in SPLITS[1:]:
        rows = list(rows_of(split, 150))
        assert not asked & {row["messages"][0]["content"] for row in rows}
        for row in rows:
            names = {name_of(one) for one in row["tools"]}
            assert split == "unseen_tools" or not names & new
            if split == "unseen_tools" and not row["gives_up"]:
                assert {call.name for call in outcome_of(trajectory(row, "row").steps).calls} & new
        mine = {row["task"] for row in rows}
        assert mine <= tasks if split == "heldout" else not mine & tasks
    for pool in (values.CITIES, values.PEOPLE, values.EVENTS, values.FILES, values.DAYS):
        assert sum(map(values.held_out, pool)) >= 4


def test_training_rows_are_asked_in_other_words_than_held_out_ones():
    def first_words(split):
        return {row["messages"][0]["content"].split()[0] for row in rows_of(split, 300) if row["task"] == "cheaper"}

    assert first_words("train") == {"Order", "Which", "I", "Compare", "Please"}
    assert first_words("heldout") == {"Find"}


def test_a_seed_gives_the_same_rows_and_the_first_do_not_depend_on_how_many():
    assert list(rows_of("train", 30, 4)) == list(rows_of("train", 40, 4))[:30]
    assert list(rows_of("train", 30, 4)) != list(rows_of("train", 30, 5))


def test_they_are_a_source_of_rows_and_are_written_in_both_forms_without_loss():
    rows = load_rows("trimtab:tools/unseen_tools?rows=20&seed=3")
    assert json.loads(json.dumps(rows)) == rows
    for row in rows:
        found = trajectory(row, "row")
        for written in (to_messages(found), to_normalised(found)):
            again = trajectory(json.loads(json.dumps(written)), "again")
            assert again.steps == found.steps
            assert check(row, again.steps)["success"]
        assert check({**row, "tools": json.dumps(row["tools"])}, found.steps)["success"]
    with pytest.raises(DataError, match="splits are train, heldout, unseen_tools, unseen_templates, not 'test'"):
        load_rows("trimtab:tools/test")


def test_every_tool_has_a_schema_with_words_for_each_argument():
    for one in World(STATE).schemas:
        own = one["function"]
        assert own["description"]
        assert all(argument["description"] for argument in own["parameters"]["properties"].values())
    assert len(World(STATE).schemas) == sum(len(app.tools) for app in (*SEEN, *UNSEEN)) == 25
