"""Score the submissions of a run again, as they were handed in."""

from pathlib import Path
from typing import ClassVar

from trimtab.common.settings import CommandSettings


class GymRescoreSettings(CommandSettings):
    """Which run."""

    positional = ("run",)
    words: ClassVar[str] = "RUN"
    alone = False
    run: Path
    """Folder of a run."""
    unsafe: bool = False
    """Run what was handed in without a sandbox: it may do whatever you may."""


SETTINGS = GymRescoreSettings


def main(settings: GymRescoreSettings) -> None:
    """Print the scores then and now; nothing is written."""
    from rich.console import Console

    from trimtab.common.errors import UserError
    from trimtab.common.terminal import cells, table_of
    from trimtab.gym.evaluation import EvaluationError, evaluate
    from trimtab.gym.finding import task_of
    from trimtab.gym.sandbox import find_engine
    from trimtab.gym.submissions import Submissions
    from trimtab.gym.trajectory import read_result

    task = task_of(settings.run, read_result(settings.run))
    engine = "none" if settings.unsafe else find_engine()
    kept = Submissions(settings.run / "submissions")
    if not kept.records:
        raise UserError(f"{settings.run} has no submissions")
    table = table_of("submission", "score", "now", "private", "now", "what it says", box=None, pad_edge=False)
    for one in kept.records:
        try:
            found = evaluate(task, kept.read(one.number), engine)
        except EvaluationError as failed:
            why = ": ".join(filter(None, (str(failed), failed.log.strip().rpartition("\n")[2])))
            raise UserError(f"submission {one.number}: {why}; see {task.evaluator}") from failed
        name = f"{one.number} (final)" if one.final else one.number
        points = [f"{value:.2f}" for value in (one.score, found.score, one.private_score, found.private_score)]
        table.add_row(*cells([name, *points, found.message]))
    Console().print(table)
