"""Planner, caller and summariser of a roles folder as who answers a suite; and what an agent does in a world."""

import io
import json
import shutil

import pytest
from rich.console import Console

import tiny_agent
import tiny_folder
from trimtab.agents.roles import load_roles
from trimtab.commands.evaluate import evaluate_model
from trimtab.common.errors import UserError
from trimtab.data.trajectories import trajectory
from trimtab.evals.models import HFModel
from trimtab.evals.role_models import RolesModel, roles_on, smallest
from trimtab.evals.suite import SPEAKER, SuiteError, text
from trimtab.evals.suites._tool_rows import references
from trimtab.evals.suites._tool_runs import numbers, worked_on
from trimtab.models.inference import load_for_inference
from trimtab.models.limits import Limits
from trimtab.models.loading import load_tokenizer
from trimtab.report.evaluation import read

SPLITS = [f"trimtab:tools/{split}?rows=4" for split in ("heldout", "unseen_tools")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_agent.roles_folder(tmp_path_factory.mktemp("roles") / "agent")


def spoken(role, prompt):
    return [{**text(prompt)[0], SPEAKER: role}]


def test_each_role_answers_with_its_own_adapter_whoever_is_asked_beside_it(folder):
    prompts = [("planner", "a b"), ("caller", "a b"), ("summarizer", "a b"), ("planner", "c"), ("caller", "c")]
    model = RolesModel(load_roles(folder, context=None))
    found = model.answer([spoken(*one) for one in prompts], 8)
    for (role, prompt), reply in zip(prompts, found):
        alone = HFModel(load_for_inference(str(folder / role)), load_tokenizer(str(folder / role)))
        assert reply.text == alone.answer([text(prompt)], 8)[0].text
    assert len({reply.text for reply in found[:3]}) == 3  # so that it matters who speaks


def test_a_role_that_is_not_there_is_named(folder):
    with pytest.raises(SuiteError, match="has no backbone"):
        RolesModel(load_roles(folder, context=None)).answer([text("a")], 2)


def test_what_all_can_read_is_the_least_of_each():
    found = smallest([Limits(9, None, 4096), Limits(8, 512), Limits(10, None, 2048)])
    assert found == Limits(8, 512, 2048)


def test_the_command_asks_a_roles_folder_runs_the_tasks_and_goes_on(folder, tmp_path):
    how = {"options": {"tools": {"file": SPLITS, "run": True, "max_steps": 2, "max_input": 1000}}, "max_new_tokens": 6}
    console = Console(file=io.StringIO(), width=200)
    evaluate_model(folder, "tools", out=tmp_path / "out", console=console, **how)
    found = read(tmp_path / "out" / "tools")
    assert found.facts["signature"]["prompt"] == "roles"
    assert "planner adapter on" in found.facts["signature"]["roles"]
    assert found.value("task success").estimate == 0
    assert found.value("plans a task", "split=heldout").estimate <= 2
    runs = tmp_path / "out" / "tools" / "runs.jsonl"
    rows = [json.loads(line) for line in runs.read_text().splitlines()]
    assert len(rows) == 8
    assert {"success", "state", "answer", "ended", "conversations"} <= set(rows[0])
    runs.write_text("".join(line + "\n" for line in runs.read_text().splitlines()[:5]))
    evaluate_model(folder, "tools", out=tmp_path / "out", console=console, **how)
    again = [json.loads(line) for line in runs.read_text().splitlines()]
    assert [{**row, "seconds": 0} for row in again] == [{**row, "seconds": 0} for row in rows]
    assert "prompts have a cut history" in console.file.getvalue()


def test_one_model_plays_all_roles_or_one_text(tmp_path):
    name = tiny_folder.save(tmp_path / "tiny", max_position_embeddings=2048)
    model = HFModel(load_for_inference(name), load_tokenizer(name))
    assert set(roles_on(model, "backbone", {}).speakers) == {"backbone"}
    assert set(roles_on(model, "roles", {}).speakers) == {"planner", "caller", "summarizer"}
    how = {"options": {"tools": {"file": SPLITS[:1], "rows": 1, "run": True, "max_steps": 1}}, "max_new_tokens": 4}
    evaluate_model(name, "tools", out=tmp_path / "out", **how)
    assert read(tmp_path / "out" / "tools").value("task success") is not None


@pytest.mark.parametrize(
    ("suites", "settings", "said"),
    [
        (("tools", "geomrel"), {}, "answers the suite tools and not geomrel"),
        (("tools",), {"prompt": "backbone"}, "answers the prompt roles and not backbone"),
        (("tools",), {"adapter": "somewhere"}, "--adapter: .* is a roles folder"),
    ],
)
def test_what_roles_do_not_answer_is_refused(folder, tmp_path, suites, settings, said):
    with pytest.raises(UserError, match=said):
        evaluate_model(folder, suites, out=tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------- tasks in a world


def replayed(one):
    """Roles that say what the row's own trajectory says."""
    steps = trajectory(one.row, "here").steps
    said = {role: [step.value for step in steps if step.role == role] for role in ("assistant", "caller", "conclusion")}
    return tiny_agent.scripted(said["assistant"], said["caller"], said["conclusion"])


def test_who_does_what_the_row_does_has_done_the_task():
    done = [worked_on(one, replayed(one), max_steps=12) for one in references(SPLITS, None, "", "")]
    assert [row["success"] for row in done] == [True] * 8
    assert {one.name: one.value.estimate for one in numbers(done) if one.group == "all"} == {
        "task success": 1, "final state right": 1, "answer right": 1,
        "plans a task": sum(sum(t["from"] == "assistant" for t in row["conversations"]) for row in done) / 8,
    }  # fmt: skip


def test_who_gives_up_at_once_has_not_done_it():
    one = next(one for one in references(SPLITS, None, "", "") if not one.row["gives_up"])
    row = worked_on(one, tiny_agent.scripted([tiny_agent.NO]), max_steps=12)
    assert (row["success"], row["answer"], row["ended"]) == (False, False, "gave up")


def test_what_answers_depend_on_names_each_adapter(folder, tmp_path):
    """So that an evaluation does not go on with adapters that were trained again."""

    other = tmp_path / "agent"
    shutil.copytree(folder, other)
    shutil.rmtree(other / "caller")
    tiny_agent.save_adapter(other / "caller", str(other / "base"), seed=9)
    facts = [RolesModel(load_roles(one, context=None)).facts() for one in (folder, folder, other)]
    first, again, changed = [{key: one[key].split()[-1] for key in ("model", "tokenizer")} for one in facts]
    assert first == again
    assert first["tokenizer"] == changed["tokenizer"]
    assert first["model"] != changed["model"]
