"""Write a trained dial as a folder that transformers and vLLM serve, with a strength for each request."""

from pathlib import Path
from typing import Annotated, ClassVar, Self

from pydantic import model_validator

from trimtab.common.settings import CommandSettings, SettingsError, Shown


class ExportSettings(CommandSettings):
    """Which run, and what to write."""

    positional = ("run", "out")
    words: ClassVar[str] = "RUN OUT"
    run: Path
    """Folder of a finished run (runs/NAME), or of its model."""
    out: Path
    """New folder."""
    range: Annotated[str | None, Shown("LOW,HIGH")] = None
    """Recommended strengths; by default 0,1."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.out.expanduser().resolve() == self.run.expanduser().resolve():
            raise SettingsError(f"OUT: {self.out} is the run itself; choose another OUT")
        return self


SETTINGS = ExportSettings


def main(settings: ExportSettings) -> None:
    """Write the folder, and say how to use it."""
    from trimtab.runs.exporting import ExportError, parse_span, source_of

    span = None if settings.range is None else parse_span(settings.range)
    if settings.out.expanduser().exists():
        raise ExportError(f"{settings.out} exists; choose another OUT")
    source = source_of(settings.run)
    from trimtab.common.terminal import quiet

    quiet()
    from rich.console import Console

    from trimtab.common.terminal import say
    from trimtab.runs.exporting import export_dial

    dial = export_dial(source, settings.out, span)
    low, high = dial.recommended
    say(
        Console(),
        f"{settings.out}: any strength, recommended {low:g} to {high:g}; requests in {settings.out}/README.md",
    )
    say(Console(), f"serve it with: transformers serve --trust-remote-code {settings.out}")
