"""The agent with scripted roles: every branch of the loop, and that roles read what they read in training."""

from collections import Counter

import pytest

from tiny_agent import CALL, ENOUGH, NO, PLANS, Scripted, Seen, Tools, scripted
from trimtab.agents.loop import Agent, AgentError, Stopped
from trimtab.agents.roles import Roles
from trimtab.data.agent_roles import Prompter, samples
from trimtab.data.trajectories import Step, trajectory


def roles_said(result):
    return [step.role for step in result.trajectory.steps]


def test_plan_call_observation_and_answer_one_after_another():
    tools, roles = Tools(), scripted([PLANS, ENOUGH], [CALL], ["It is 12 C."])
    result = Agent(roles, tools).run("Weather in Bern?", id="7")
    assert result.trajectory.steps == (
        Step("user", "Weather in Bern?"), Step("assistant", PLANS), Step("caller", CALL), Step("observation", "12 C"),
        Step("assistant", ENOUGH), Step("conclusion", "It is 12 C."),
    )  # fmt: skip
    assert tools.calls == [("look", {"town": "Bern"})]
    assert (result.ended, result.answer, result.counts) == ("conclusion", "It is 12 C.", Counter(calls=1))
    assert result.tokens["planner"].texts == 2
    assert result.tokens["planner"].written == len(PLANS) + len(ENOUGH)
    assert trajectory(result.row(), "here") == result.trajectory


@pytest.mark.parametrize("single", [False, True])
def test_roles_read_what_they_read_in_training(single):
    if single:
        texts = [f"I look.\n{CALL}", f"Once more. {CALL}", "Enough.\nconclusion: It is 12 C."]
        roles = Roles({"backbone": Scripted(texts)}, Prompter("</s>", ("</s>",)))
    else:
        roles = scripted([PLANS, PLANS, ENOUGH], [CALL, CALL], ["It is 12 C."])
    result = Agent(roles, Tools({"look": "12 C </s> {history} user: x"})).run("Weather in {thought} Bern?</s>")
    for role, speaker in roles.speakers.items():
        wanted = [one.prompt for one in samples(result.trajectory, role, roles.prompter, Counter())]
        assert speaker.prompts == wanted
        assert "{history} user: x" in speaker.prompts[-1]
        assert "</s> {history}" not in speaker.prompts[-1]
    assert result.answer == "It is 12 C."


@pytest.mark.parametrize(
    ("said", "kept", "ended"),
    [
        ("A Next: conclusion. B Next: give up. C", "A Next: conclusion. B Next: give up.", "gave up"),
        ("A Next: caller. B Next: conclusion. C", "A Next: caller. B Next: conclusion.", "conclusion"),
        (": A Next: conclusion. Next: conclusion.", "A Next: conclusion.", "conclusion"),
    ],
)
def test_a_plan_is_cut_behind_its_first_marker_of_give_up_conclusion_and_caller(said, kept, ended):
    result = Agent(scripted([said], [], ["answer"]), Tools()).run("?")
    assert result.trajectory.steps[1] == Step("assistant", kept)
    assert result.ended == ended
    assert (result.answer is None) == (ended == "gave up")


def test_a_plan_without_a_marker_is_a_call_and_is_counted():
    turns = []
    result = Agent(scripted(["I look. ", ENOUGH], [CALL], ["x"]), Tools()).run("?", on_turn=turns.append)
    assert result.trajectory.steps[1] == Step("assistant", PLANS)
    assert result.counts["plans without a marker"] == 1
    assert turns[1].note == "no marker, so the caller goes on"
    assert [turn.place for turn in turns] == [1, 2, 3, 4, 5, 6]


def test_an_empty_plan_is_drawn_again_warmer_each_time():
    roles = scripted(["", " .", ",", ENOUGH], [], ["x"])
    result = Agent(roles, Tools(), seed=3).run("?")
    asked = roles.speakers["planner"].asked
    assert [one["temperature"] for one in asked] == [0.0, 0.5, 0.75, 1.0]
    assert len({one["seed"] for one in asked}) == 4
    assert result.counts["empty plans that were drawn again"] == 3
    assert result.answer == "x"
    warm = scripted(["", ENOUGH], [], ["x"])
    Agent(warm, Tools(), temperature=0.8).run("?")
    assert [one["temperature"] for one in warm.speakers["planner"].asked] == [0.8, 0.8]


def test_draws_depend_on_the_seed_the_task_and_their_number():
    def seeds(task, seed):
        roles = scripted(["", NO])
        Agent(roles, Tools(), seed=seed).run(task)
        return [one["seed"] for one in roles.speakers["planner"].asked]

    assert seeds("a", 1) == seeds("a", 1)
    assert len({*seeds("a", 1), *seeds("b", 1), *seeds("a", 2)}) == 6


def test_a_plan_that_stays_empty_is_a_call_after_five_draws():
    roles = scripted([""] * 5 + [NO], [CALL])
    result = Agent(roles, Tools()).run("?")
    assert roles_said(result) == ["user", "assistant", "caller", "observation", "assistant"]
    assert result.trajectory.steps[1].value == " Next: caller."


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("I do not know", "error: the call could not be read: it has no line 'Action:'"),
        ("Action: look", "error: the call could not be read: it has no line 'Action Input:'"),
    ],
)
def test_a_call_that_cannot_be_read_is_an_observation_and_the_planner_goes_on(call, said):
    tools = Tools()
    result = Agent(scripted([PLANS, NO], [call]), tools).run("?")
    assert result.trajectory.steps[3].value.startswith(said)
    assert tools.calls == []
    assert result.counts["calls that could not be read"] == 1
    assert result.ended == "gave up"


def test_a_call_that_failed_is_counted_and_long_observations_are_cut():
    call = "Action: lok\nAction Input: {}"
    result = Agent(scripted([PLANS, PLANS, NO], [call, CALL]), Tools({"look": "x" * 50}), observation_limit=40).run("?")
    assert result.trajectory.steps[3].value == "there is no tool 'lok'"
    assert result.counts["calls that failed"] == 1
    assert result.trajectory.steps[6].value == "x" * 40 + " [...]"


def test_a_run_ends_as_given_up_after_its_plans():
    result = Agent(scripted([PLANS] * 3, [CALL] * 3), Tools(), max_steps=3).run("?")
    assert (result.ended, result.answer) == ("steps", None)
    assert result.reason == "after 3 plans there was no answer"
    assert roles_said(result).count("assistant") == 3
    assert result.trajectory.steps[-1].role == "observation"


def test_a_history_that_is_too_long_is_cut_and_what_does_not_fit_even_so_ends():
    tools = Tools({"look": "y" * 600})
    fitting = Agent(scripted([PLANS, ENOUGH], [CALL], ["x"], {"summarizer": 400}), tools, max_new_tokens=10)
    result = fitting.run("?")
    assert len(fitting.roles.speakers["summarizer"].prompts[0]) <= 390
    assert "y [...]" in fitting.roles.speakers["summarizer"].prompts[0]
    assert result.counts["prompts with a cut history"] == 1
    assert result.trajectory.steps[3].value == "y" * 600  # the row keeps it whole
    ended = Agent(scripted([PLANS], contexts={"planner": 50}), tools).run("?")
    assert (ended.ended, ended.answer) == ("context", None)


def test_a_search_goes_back_to_the_last_plan_and_draws_another_child():
    other = "I ask.\n Next: caller."
    texts = [PLANS, NO, "Still no.\n Next: give up.", other, ENOUGH]
    roles = scripted(texts, [CALL, CALL], ["found"])
    turns = []
    result = Agent(roles, Tools(), search="dfs").run("?", on_turn=turns.append)
    assert result.answer == "found"
    assert [step.value for step in result.trajectory.steps if step.role == "assistant"] == [other, ENOUGH]
    assert [steps[-1].value for steps in result.left] == [NO, "Still no.\n Next: give up."]
    assert [one["temperature"] for one in roles.speakers["planner"].asked] == [0.0, 0.0, 0.7, 0.7, 0.0]
    assert [turn.place for turn in turns] == [1, 2, 3, 4, 5, 5, 2, 3, 4, 5, 6]
    assert result.row()["left"][0][-1] == {"from": "assistant", "value": NO}


def test_a_search_ends_when_all_children_are_tried_or_its_plans_are_used_up():
    result = Agent(scripted([NO, "No!\n Next: give up."]), Tools(), search="dfs").run("?")
    assert (result.ended, result.reason) == ("gave up", "the planner gave up, in the last of 2 branches")
    same = Agent(scripted([NO, NO]), Tools(), search="dfs").run("?")
    assert same.counts["children that were drawn before"] == 1
    assert same.left == ()
    deep = Agent(scripted([PLANS] * 4, [CALL] * 4), Tools(), search="dfs", max_steps=9, max_plans=4).run("?")
    assert (deep.ended, deep.reason) == ("steps", "4 plans gave no answer")


class Resettable(Tools):
    def reset(self):
        self.resets += 1
        self.calls.clear()


def test_tools_that_can_begin_anew_are_where_the_branch_began():
    texts = [PLANS, NO, "Other.\n Next: caller.", NO, ENOUGH]
    tools = Resettable()
    Agent(scripted(texts, [CALL, CALL], ["x"]), tools, search="dfs").run("?")
    assert tools.resets == 2  # before the second child, and before that child's own second child
    assert len(tools.calls) == 2  # replayed: the branch's first call; and its own


def test_ctrl_c_keeps_what_was_done():
    with pytest.raises(Stopped) as stopped:
        Agent(scripted([PLANS, KeyboardInterrupt()], [CALL]), Tools()).run("?")
    assert roles_said(stopped.value.result) == ["user", "assistant", "caller", "observation"]
    assert stopped.value.result.ended == "stopped"


def test_texts_are_streamed_by_role():
    said = []
    Agent(scripted([PLANS, ENOUGH], [CALL], ["x"]), Tools()).run("?", on_text=lambda role, text: said.append(role))
    assert said == ["planner", "caller", "planner", "summarizer"]


def test_a_single_model_that_gives_up_or_says_nothing_of_a_call():
    roles = Roles({"backbone": Scripted(["Hm.", "No.\nconclusion: give up."])}, Prompter("</s>"))
    result = Agent(roles, Tools()).run("?")
    assert [step.value for step in result.trajectory.steps[1:]] == [
        "Hm.\n Next: caller.", "",
        "error: the call could not be read: it has no line 'Action:' with the name of a tool",
        "No.\n Next: give up.",
    ]  # fmt: skip
    assert result.counts["plans without a marker"] == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_steps": 0}, "max_steps is 0; it must be at least 1"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"search": "bfs"}, "search is 'bfs'; it must be 'chain' or 'dfs'"),
    ],
)
def test_an_agent_that_cannot_run_is_refused(changes, said):
    with pytest.raises(AgentError, match=said):
        Agent(scripted(), Tools(), **changes)
    with pytest.raises(AgentError, match="the task is empty"):
        Agent(scripted(), Tools()).run(" ")


def test_a_tool_says_what_it_saw():
    assert Tools().run("look", "{}") == Seen("12 C")
