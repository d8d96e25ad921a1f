"""Write the report of a run or an evaluation, or compare several."""

from pathlib import Path
from typing import Annotated, ClassVar

import typer

from trimtab.common.settings import CommandSettings, Shown


class ReportSettings(CommandSettings):
    """Which folders, and where to write the page."""

    positional = ("runs",)
    words: ClassVar[str] = "RUN..."
    alone = False
    runs: tuple[Path, ...]
    """Folders of runs (runs/NAME), or of evaluations."""
    out: Annotated[Path | None, Shown("FILE.html")] = None
    """Where to write the page; in the folder itself, or runs/comparison.html, by default."""


SETTINGS = ReportSettings


def main(settings: ReportSettings) -> None:
    """Write the page, and print the tables."""
    from rich.console import Console

    from trimtab import report
    from trimtab.report import evaluation
    from trimtab.report.reading import distinct_names
    from trimtab.report.words import to_continue

    trained, evaluations = evaluation.split(list(settings.runs))
    if not trained:
        own = evaluations[0] / "report.html" if len(evaluations) == 1 else Path("runs/comparison.html")
        typer.echo(f"report: {evaluation.write(evaluations, settings.out or own)}")
        return
    suites = evaluation.sections(evaluations)
    page = report.write(trained, settings.out, suites)
    console = Console()
    loaded = [report.load(run) for run in trained]
    for table in filter(None, (report.table(loaded, console.width), report.seeds_table(loaded, console.width))):
        console.print(table)
    for line in (*to_continue(distinct_names(loaded)), *evaluation.lines(suites)):
        typer.echo(line)
    typer.echo(f"report: {page}")
