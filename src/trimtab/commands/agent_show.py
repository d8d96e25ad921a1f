"""Write a page of an agent's trajectories, turn by turn, with what each role said."""

from pathlib import Path
from typing import Annotated, ClassVar

import typer

from trimtab.common.settings import CommandSettings, Shown
from trimtab.common.terminal import quiet


class AgentShowSettings(CommandSettings):
    """Which trajectories, and where to write the page."""

    positional = ("file",)
    words: ClassVar[str] = "FILE.jsonl"
    file: str
    """Rows of trajectories: those of `trimtab agent run --out`, training rows, or another source of rows."""
    out: Annotated[Path | None, Shown("FILE.html")] = None
    """Where to write the page; FILE.html beside the rows by default."""


SETTINGS = AgentShowSettings


def main(settings: AgentShowSettings) -> None:
    """Write the page, and print its path."""
    quiet()
    from trimtab.common.errors import UserError
    from trimtab.data.sources import load_rows
    from trimtab.data.trajectories import trajectory
    from trimtab.report.agents import write

    if settings.out is None and not Path(settings.file).expanduser().is_file():
        raise UserError(f"{settings.file} is no file to write a page beside; name the page: --out FILE.html")
    out = settings.out or Path(settings.file).expanduser().with_suffix(".html")
    rows = load_rows(settings.file)
    found = [(row, trajectory(row, f"{settings.file}: row {number}")) for number, row in enumerate(rows, start=1)]
    typer.echo(f"page: {write(settings.file, found, out)}")
