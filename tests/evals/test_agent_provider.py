"""An agent as a provider of inspect: what it reads of the messages, and what its roles say as calls and answers."""

import pytest

pytest.importorskip("inspect_ai")

from inspect_ai import Task
from inspect_ai import eval as inspect_eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log
from inspect_ai.model import get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, system_message, use_tools
from inspect_ai.tool import tool

import tiny_agent
import tiny_folder
from tiny_agent import CALL, ENOUGH, NO, PLANS
from trimtab.agents.roles import Roles
from trimtab.data.agent_roles import Prompter
from trimtab.data.trajectories import Call, Step, Trajectory
from trimtab.evals.agent_turns import Reaction, react
from trimtab.evals.role_models import load_agent
from trimtab.evals.suite import SuiteError

ASKED = Trajectory((Step("user", "Weather in Bern?"),), (tiny_agent.TOOL,))


def one_model(*texts):
    return Roles({"backbone": tiny_agent.Scripted(texts)}, Prompter("</s>", ("</s>",)))


@pytest.mark.parametrize(
    ("roles", "done"),
    [
        (tiny_agent.scripted([PLANS], [CALL]), Reaction("I look.", Call("look", '{"town": "Bern"}'))),
        (tiny_agent.scripted([ENOUGH], (), ["It is 12 C."]), Reaction("Enough.", None, "It is 12 C.")),
        (tiny_agent.scripted([NO]), Reaction("No.")),
        (
            tiny_agent.scripted(["I look."], ["hm"]),
            Reaction("I look.", None, "hm"),
        ),  # no call: its text, for all to see
        (one_model(f"I look.\n{CALL}"), Reaction("I look.", Call("look", '{"town": "Bern"}'))),
        (one_model("Enough.\nconclusion: It is 12 C."), Reaction("Enough.", None, "It is 12 C.")),
        (one_model("No.\nconclusion: give up."), Reaction("No.")),
        (one_model("hm"), Reaction("", None, "hm")),
    ],
)
def test_what_an_agent_does_at_a_turn(roles, done):
    assert react(roles, ASKED, 16) == done


def test_what_does_not_fit_is_said():
    with pytest.raises(SuiteError, match="do not fit into the context of the planner, 50 tokens"):
        react(tiny_agent.scripted([PLANS], contexts={"planner": 50}), ASKED, 16)


@tool
def look():
    async def execute(town: str) -> str:
        """Sees the weather.

        Args:
            town: where
        """
        if town == "Rome":
            raise ValueError("no such town")
        return f"12 C in {town}"

    return execute


def run(roles, tmp_path, **more):
    task = Task(
        dataset=MemoryDataset([Sample(id=1, input="Weather in Bern?", target="12 C")]),
        solver=[system_message("Be brief."), use_tools(look()), generate()],
        scorer=includes(),
        **more,
    )
    model = get_model("trimtab_agent/scripted", live=roles, memoize=False)
    (found,) = inspect_eval(task, model=model, log_dir=str(tmp_path), display="none")
    return read_eval_log(found.location)


def test_inspect_runs_the_tools_that_an_agent_calls(tmp_path):
    roles = tiny_agent.scripted([PLANS, ENOUGH], [CALL], ["It is 12 C."])
    log = run(roles, tmp_path)
    assert log.status == "success", log.error
    assert log.results.scores[0].metrics["accuracy"].value == 1
    (sample,) = log.samples
    assert [message.role for message in sample.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert sample.messages[2].tool_calls[0].arguments == {"town": "Bern"}
    second = roles.speakers["planner"].prompts[1]
    assert second.endswith(
        "user: Be brief.\n\nWeather in Bern?</s>assistant: I look.\n Next: caller.</s>caller: Action: look\n"
        'Action Input: {"town": "Bern"}</s>observation: 12 C in Bern assistant: '
    )
    assert '"Name": "look", "function": "Sees the weather.", "input": {"town": "string, where"}' in second


def test_arguments_that_are_no_json_come_back_as_an_error(tmp_path):
    roles = tiny_agent.scripted([PLANS, ENOUGH], ["Action: look\nAction Input: {town}"], ["I do not know."])
    log = run(roles, tmp_path)
    assert log.status == "success", log.error
    assert "observation: error: " in roles.speakers["planner"].prompts[1]
    assert "no JSON object: {town}" in roles.speakers["planner"].prompts[1]


def test_a_folder_of_roles_and_one_model_are_loaded(tmp_path):
    folder = tiny_agent.roles_folder(tmp_path / "agent")
    assert set(load_agent(str(folder)).speakers) == {"planner", "caller", "summarizer"}
    name = tiny_folder.save(tmp_path / "tiny", max_position_embeddings=2048)
    assert load_agent(name).single
