"""The evaluator of InnovatorBench's tasks: runs a task's own TaskBenchmark in a sandbox, which sees what the authors'
evaluations do, the workspace and evaluations/, but neither network nor anything else of this machine. The workspace
is the task's own with the outputs that were handed in."""

import json
import secrets
from pathlib import Path
from typing import Any

from trimtab.common.errors import UserError
from trimtab.gym.judging import Rejected, Submitted, judged_workspace
from trimtab.gym.sandbox import Sandbox
from trimtab.gym.workspace import Workspace, WorkspaceError

OUTPUTS, SCORE = "data/outputs", "score"
FOREVER = 1e6
"""seconds; the evaluation as a whole has a limit"""
LARGEST = 1 << 20
WORKER = """
import json, sys
from importlib import import_module

asked = json.loads(sys.stdin.read())
sys.path.insert(0, asked["root"])
place = f"evaluations.{asked['task']}.task"
config = import_module(f"{place}.config").TaskConfig(
    eval_workspace=f"{asked['root']}/evaluations", workspace=asked["workspace"]
)
results = import_module(f"{place}.evaluation").TaskBenchmark(config).validate()
found = [one if isinstance(one, dict) else one.to_dict() for one in results]
with open(asked["reply"], "w") as out:
    json.dump([one.get("eval_results", one) for one in found], out, default=str)
"""


class BenchmarkError(UserError):
    """A TaskBenchmark that fails."""


def validate(submitted: Submitted) -> list[dict[str, Any]]:
    """The sum of all scores, and each."""
    outputs = submitted.folder / OUTPUTS
    if not outputs.is_dir() or not any(outputs.iterdir()):
        raise Rejected(f"there is nothing in {OUTPUTS}")
    with judged_workspace(submitted.folder) as workspace:
        _lay_beside(submitted.workspace, workspace)
        found = _asked(submitted, workspace)
    scores = [one[SCORE] for one in found]
    named = [{"name": f"metric_{number}", "value": score} for number, score in enumerate(scores)]
    return [{"name": SCORE, "value": sum(scores)}, *named]


def _lay_beside(source: Path, workspace: Workspace) -> None:
    """Links to all of the task's own workspace that is not of the outputs."""
    for path in (*source.iterdir(), *(source / "data").glob("*")):
        there = workspace.folder / path.relative_to(source)
        if path.relative_to(source) == Path("data"):
            there.mkdir(exist_ok=True)
        elif not there.exists():
            there.symlink_to(path)
    workspace.own()


def _asked(submitted: Submitted, workspace: Workspace) -> list[dict[str, Any]]:
    """What the task's benchmark says, each with a score."""
    root, task = submitted.hidden.parent.parent, submitted.hidden.name
    package = [path for path in submitted.hidden.parent.iterdir() if path.name in ("base", "__init__.py", task)]
    sandbox = Sandbox(
        workspace.folder,
        engine=submitted.engine,
        uid=workspace.uid,
        limits=submitted.limits,
        readable=(*package, submitted.workspace),
        environment=submitted.environment or {},
    )
    reply = f".{secrets.token_hex(16)}"
    asked = {"root": str(root), "task": task, "workspace": sandbox.inside, "reply": f"{sandbox.inside}/{reply}"}
    ran = sandbox.run(["python3", "-c", WORKER], FOREVER, json.dumps(asked).encode())
    try:
        found = json.loads(workspace.read(reply, LARGEST)) if ran.code == 0 else None
    except (WorkspaceError, ValueError):
        found = None
    if not isinstance(found, list) or not found or not all(isinstance(one, dict) and SCORE in one for one in found):
        error = ran.error.decode(errors="replace")[-5000:]
        raise BenchmarkError(f"TaskBenchmark ended with {ran.code} and no list of results with a score: {error}")
    return found
