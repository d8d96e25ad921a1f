"""The process of a task's evaluator. It says what it found on a descriptor, not on standard output, and loads no
pickle: nothing that was handed in may become code here."""

import json
import os
import resource
import sys
import traceback
from pathlib import Path
from typing import Any

from trimtab.common import user_code
from trimtab.common.errors import UserError
from trimtab.gym.judging import Rejected, Submitted
from trimtab.gym.sandbox import SandboxLimits


class EvaluatorError(UserError):
    """An evaluator that cannot be imported."""


def work() -> None:
    """Evaluate what standard input asks for."""
    replying = int(sys.argv[1])
    os.set_inheritable(replying, False)
    asked = json.loads(sys.stdin.buffer.read())
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.dont_write_bytecode = True  # a task's folder stays as it is
    task = Path(asked["task"])
    submitted = Submitted(
        folder=Path(asked["outputs"]),
        hidden=Path(asked["hidden"]),
        task=task,
        workspace=Path(asked["workspace"]),
        engine=asked["engine"],
        limits=SandboxLimits(**asked["limits"]),
        readable=tuple(map(Path, asked["readable"])),
        environment=asked["environment"],
    )
    try:
        place = asked["evaluator"]
        module = user_code.load(place, "evaluator", place, "evaluator.py", EvaluatorError)
        sys.addaudithook(_no_pickles)
        reply: dict[str, Any] = {"results": module.validate(submitted)}
        text = json.dumps(reply)
    except Rejected as rejected:
        text = json.dumps({"rejected": str(rejected)})
    except BaseException:  # also SystemExit: whatever it is, it is told
        text = json.dumps({"failed": traceback.format_exc()[-10_000:]})
    with os.fdopen(replying, "w") as out:
        out.write(text)


def _no_pickles(event: str, _: object) -> None:
    if event == "pickle.find_class":
        raise RuntimeError("an evaluator loads no pickles: what was handed in could run as code")
