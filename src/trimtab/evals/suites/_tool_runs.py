"""The suite `tools` with `run`: the agent works on each task in its world, and what it has done is checked."""

from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.data.generators.tool_world.world import check
from trimtab.evals import RUNS
from trimtab.evals.suite import Answered, Estimate, Fit, SuiteError
from trimtab.evals.suites._tool_rows import ToolReference, references
from trimtab.metrics.intervals import mean_of

CHECKS = {"success": "task success", "state": "final state right", "answer": "answer right"}
"""what `check` says of a task, and the names of the numbers"""


def run_tasks(
    fit: Fit, settings: Any, answered: Sequence[Answered], model: Any, work: Any, console: Any
) -> list[Estimate]:
    """Shares of the tasks that were done, of all and of each split, with intervals over tasks. Those that stand in the
    folder are not worked on again."""
    from trimtab.common.progress import advance, bar
    from trimtab.common.terminal import say
    from trimtab.evals.models import HFModel
    from trimtab.evals.role_models import RolesModel, roles_on

    if isinstance(model, RolesModel):
        roles = model.roles
    elif isinstance(model, HFModel) and fit.prompt in ("backbone", "roles"):
        roles = roles_on(model, fit.prompt, settings.templates)
    else:
        say(console, f"tools.run: agents write texts, and do not run with the prompt {fit.prompt}; nothing was run")
        return []
    if model.strategy != "greedy":
        raise SuiteError(f"tools.run: agents decode greedily; leave out --decoding {model.strategy}, or tools.run")
    wanted = list(dict.fromkeys(one.item.data["trajectory"] for one in answered))
    all_of_them = references(settings.file, settings.rows, settings.only, settings.without)
    tasks = {one.id: one for one in all_of_them if one.id in set(wanted)}
    kept = work.records(RUNS, "id", "success", what="runs")
    done = {row["id"]: row for row in kept.rows}
    with bar(console) as progress:
        left = [tasks[key] for key in wanted if key not in done]
        task: Any = progress.add_task("tasks", total=len(left), note="tasks")
        for one in left:
            done[one.id] = worked_on(one, roles, max_steps=settings.max_steps, max_new_tokens=fit.new)
            kept.append([done[one.id]])
            advance(progress, task, 1)
    return numbers([done[key] for key in wanted])


def worked_on(one: ToolReference, roles: Any, **how: Any) -> dict[str, Any]:
    """A row of what an agent has done on a task, with what is right of it."""
    from trimtab.agents.loop import Agent
    from trimtab.agents.world_tools import WorldTools

    with WorldTools(one.row) as tools:
        result = Agent(roles, tools, **how).run(one.found.instruction, id=one.id)
    return {**result.row(), "id": one.id, "split": one.split, **check(one.row, result.trajectory.steps)}


def numbers(rows: Sequence[Mapping[str, Any]]) -> list[Estimate]:
    """Means over tasks."""
    groups = {"all": list(rows)}
    for split in dict.fromkeys(row["split"] for row in rows):
        groups[f"split={split}"] = [row for row in rows if row["split"] == split]
    found = []
    for group, members in groups.items():
        for key, name in CHECKS.items():
            found.append(Estimate(name, group, mean_of([float(row[key]) for row in members]), len(members)))
        plans = [sum(turn["from"] == "assistant" for turn in row["conversations"]) for row in members]
        found.append(Estimate("plans a task", group, mean_of(plans), len(members)))
    return found
