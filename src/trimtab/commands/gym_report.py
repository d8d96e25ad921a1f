"""Show what runs of `trimtab gym run` scored, and write their page."""

from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from trimtab.common.settings import CommandSettings, Shown


class GymReportSettings(CommandSettings):
    """Which runs."""

    positional = ("runs",)
    words: ClassVar[str] = "RUN..."
    alone = False
    runs: tuple[Path, ...]
    """Folders of runs."""
    out: Annotated[Path | None, Shown("FILE.html")] = None
    """Where to write the page; report.html in the folder of a run, or comparison.html above several, by default."""


SETTINGS = GymReportSettings


def main(settings: GymReportSettings) -> None:
    """Print a line for each run, and write the page."""
    from rich.console import Console

    from trimtab.common.terminal import cells, table_of
    from trimtab.gym.trajectory import read_result
    from trimtab.report.gym import write

    results = {run: read_result(run) for run in settings.runs}
    columns = ("run", "task", "agent", "model", "steps", "final", "best", "private", "minutes")
    table = table_of(*columns, box=None, pad_edge=False)
    for run, of in results.items():
        used = of["budget"]
        row = [run, of["task"], of["agent"], of["model"] or "", used["steps"]]
        row += [_points(of[key]) for key in ("final", "best", "private")]
        table.add_row(*cells([*row, f"{used['seconds'] / 60:.1f}"]))
    Console().print(table)
    typer.echo(f"report: {write(settings.runs, settings.out)}")


def _points(value: Any) -> str:
    return "" if value is None else f"{value:.1f}"
