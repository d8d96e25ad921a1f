"""The loop of a chat model: what it is asked with, what becomes of what it says, and when its history is summarised."""

import json

import pytest

from tiny_gym import SECRET
from trimtab.gym import snapshots
from trimtab.gym.agents.history import messages
from trimtab.gym.agents.react import Called, ContextTooShort, ModelTurn, React
from trimtab.gym.episode import Episode
from trimtab.gym.playing import go_on, play
from trimtab.gym.trajectory import GymTrajectory, RunFacts

SUMMARY = Called("summarize", {"state_of_the_art": "75 points", "experiments": ["guessed: 75"]})


class Talker:
    """Says what a script has it say, and counts a thousand tokens for each message."""

    name = "talker"

    def __init__(self, *turns, context=None):
        self.turns, self.context = list(turns), context
        self.asked, self.seeds, self.most = [], [], []

    def ask(self, messages, tools, max_new_tokens, seed):
        self.asked.append((messages, [tool["name"] for tool in tools]))
        self.seeds.append(seed)
        self.most.append(max_new_tokens)
        said = self.turns.pop(0)
        if isinstance(said, BaseException):
            raise said
        text, *calls = said
        return ModelTurn(text, calls, 10)

    def count(self, messages, tools):
        return 1000 * len(messages)


def create(text):
    return Called("create_file", json.dumps({"filename": "outputs/answers.txt", "content": text}))


def run(task, model, folder, **how):
    agent = React(model, seed=3, **how)
    with Episode(task, folder) as episode:
        return agent, play(episode, agent, RunFacts(agent.name, "T", model.name))


def test_a_model_works_by_calls_and_a_reply_without_one_is_a_null_action_with_the_reason(task, tmp_path):
    model = Talker(
        ("I think.",),
        ("Mistyped.", Called("create_fil", "{}")),
        ("", Called("create_file", "{oops")),
        ("Now.", create(f"{SECRET} b c z"), Called("finish", {})),
        ("Done.", Called("finish", {})),
    )
    _, result = run(task, model, tmp_path / "run")
    assert result["final"] == pytest.approx(75.0)
    rows = GymTrajectory(tmp_path / "run").rows
    assert [row["action"]["name"] for row in rows] == ["null", "null", "null", "create_file", "finish"]
    reasons = [row["action"]["arguments"]["reason"] for row in rows[:3]]
    assert reasons[0] == "there was no call of a tool; call exactly one"
    assert "did you mean 'create_file'" in reasons[1]
    assert "are no JSON" in reasons[2]
    assert [(row["said"], row["tokens"]) for row in rows[:3]] == [("I think.", 10), ("Mistyped.", 10), (None, 10)]
    assert model.seeds == [3, 4, 5, 6, 7]
    last = model.asked[-1][0]
    assert [message["role"] for message in last] == [
        "system", "user", "assistant", "user", "assistant", "tool", "assistant", "user", "assistant", "tool"
    ]  # fmt: skip
    assert "Write four words to outputs/answers.txt." in last[1]["content"]
    assert "Time left: 0 h 0 min." in last[1]["content"]
    (call,) = last[8]["tool_calls"]
    assert call["function"]["name"] == "create_file"
    assert json.loads(call["function"]["arguments"])["content"] == f"{SECRET} b c z"
    assert last[9]["tool_call_id"] == call["id"]
    assert json.loads(last[9]["content"])["file_path"] == "outputs/answers.txt"
    assert last[6]["content"] == "create_file {oops"


def test_a_call_that_no_server_would_take_in_a_history_is_shown_as_text():
    def shown(name, arguments):
        step = {"kind": "step", "said": "", "call": {"name": name, "arguments": arguments}, "seen": {"success": False}}
        return messages([step], 100)

    assert [one["role"] for one in shown("evall", "")] == ["assistant", "tool"]
    for name, arguments in (("<eval>", {}), (None, {}), ("eval", "[1]"), ("eval", 3)):
        assistant, user = shown(name, arguments)
        assert (assistant["content"], user["role"]) == (f"{name} {arguments}", "user")


def test_the_first_half_of_a_long_history_is_replaced_by_a_summary(task, tmp_path):
    work = [("", Called("open_file", {"path": "data/words.txt"})) for _ in range(6)]
    model = Talker(*work, ("", SUMMARY), ("", create("a b c d")), ("", Called("finish", "")))
    agent, result = run(task, model, tmp_path / "run", threshold=14_000)
    told, tools = model.asked[6]
    assert tools == ["summarize"]
    assert told[1]["content"].count("open_file") >= 3
    after = model.asked[7][0]
    assert "[summary of 3 steps]\nstate of the art:\n75 points\nexperiments:\n- guessed: 75" in after[1]["content"]
    assert [message["role"] for message in after[2:]] == ["assistant", "tool"] * 3
    assert GymTrajectory(tmp_path / "run").rows[6]["tokens"] == 20
    assert [node["kind"] for node in agent.path] == ["summary", *["step"] * 5]
    assert result["final"] == pytest.approx(75.0)


def test_a_model_that_gives_no_summary_gets_what_it_did_by_rule(task, tmp_path):
    work = [("", Called("open_file", {"path": "data/words.txt"})) for _ in range(2)]
    nothing = [("I would rather not.",), ("", Called("summarize", {})), ("", Called("finish", {}))]
    model = Talker(*work, *nothing, ("", Called("finish", {})), context=6_000)
    run(task, model, tmp_path / "run", max_new_tokens=10)
    text = model.asked[-1][0][1]["content"]
    assert '- open_file {"path": "data/words.txt"}: lines 1 to 4 of 4 of data/words.txt' in text
    assert len(GymTrajectory(tmp_path / "run").rows) == 3


def test_an_answer_gets_what_the_context_has_room_for_and_a_context_without_room_is_refused(task, tmp_path):
    model = Talker(("", Called("finish", {})), context=2_100)
    run(task, model, tmp_path / "run", max_new_tokens=1_000)
    assert model.most == [100]
    with pytest.raises(ContextTooShort, match="takes 2,000 tokens, and talker reads 2,050; choose a model"):
        run(task, Talker(context=2_050), tmp_path / "other")


def test_a_model_that_fails_goes_on_with_its_history_and_hears_of_the_interruption(task, tmp_path):
    folder = tmp_path / "run"
    command = Called("run_command", {"command": "true", "wait_for_completion": True})
    with pytest.raises(ConnectionError):
        run(task, Talker(("First.", command), ConnectionError()), folder)
    assert snapshots.steps(folder) == [1]
    model = Talker(("", create("a b c d")), ("", Called("finish", {})))
    agent = React(model, seed=3)
    with go_on(folder, task, agent) as episode:
        assert play(episode, agent, RunFacts(agent.name, "T"))["final"] == pytest.approx(75.0)
    first = model.asked[0][0]
    assert [message["role"] for message in first] == ["system", "user", "assistant", "tool", "user"]
    assert json.loads(first[3]["content"])["exit_code"] == 0
    assert first[4]["content"].endswith("Sessions are lost, with all that ran in them: main.")
    assert model.seeds == [4, 5]
