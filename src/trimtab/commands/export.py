"""Write a trained dial as a folder that transformers and vLLM serve, with a strength for each request."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, model_validator

from trimtab.common.settings import CommandSettings, SettingsError, Shown

if TYPE_CHECKING:
    from rich.console import Console


class ExportSettings(CommandSettings):
    """Which run, and what to write."""

    positional = ("run", "out")
    rest = "overrides"
    words: ClassVar[str] = "RUN OUT [KEY=VALUE]..."
    run: Path
    """Folder of a finished run (runs/NAME), or of its model."""
    out: Path
    """New folder."""
    range: Annotated[str | None, Shown("LOW,HIGH")] = None
    """Recommended strengths; by default those that `trimtab sweep RUN` found, else 0,1."""
    strength: Annotated[float | None, Shown("S"), Field(allow_inf_nan=False, ge=-10, le=10)] = None
    """Plain weights at one strength: exact at 0 and 1, else distilled by TrRa, which KEY=VALUE sets as in a recipe."""
    adapter: bool = False
    """Write the adapter of a run with models.lora for PEFT."""
    overrides: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.out.expanduser().resolve() == self.run.expanduser().resolve():
            raise SettingsError(f"OUT: {self.out} is the run itself; choose another OUT")
        if self.adapter and (self.strength is not None or self.range is not None):
            raise SettingsError("--adapter writes an adapter as it was trained; leave out --strength and --range")
        if self.strength is not None and self.range is not None:
            raise SettingsError("--range is of a folder with a dial; leave it out with --strength")
        if self.overrides and not self.distils:
            raise SettingsError(f"{self.overrides[0]} is for a strength that is distilled; leave it out")
        return self

    @property
    def distils(self) -> bool:
        return self.strength is not None and self.strength not in (0, 1)


SETTINGS = ExportSettings


def main(settings: ExportSettings) -> None:
    """Write the folder, and say how to use it."""
    from trimtab.runs.exporting import ExportError, parse_span, source_of

    span = None if settings.range is None else parse_span(settings.range)
    if settings.out.expanduser().exists():
        raise ExportError(f"{settings.out} exists; choose another OUT")
    source_of(settings.run)
    from trimtab.common.terminal import quiet

    quiet()
    from rich.console import Console

    export_into(settings, Console(), span)


def export_into(settings: ExportSettings, console: "Console", recommended: tuple[float, float] | None = None) -> None:
    """Write the folder that the settings ask for, and say how to use it.

    Raises:
        UserError: for a mistake of the user; nothing is left behind then.
    """
    from trimtab.common.terminal import say
    from trimtab.runs.exporting import export_dial, measured_range, source_of
    from trimtab.runs.plain_export import export_adapter, export_distilled, export_exact

    source, out = source_of(settings.run), settings.out.expanduser()
    if settings.adapter:
        base = export_adapter(source, out)
        say(console, f'{out}: an adapter on {base}; load it with PeftModel.from_pretrained(MODEL, "{out}")')
    elif settings.strength is None:
        dial = export_dial(source, out, recommended or measured_range(source))
        low, high = dial.recommended
        say(console, f"{out}: any strength, recommended {low:g} to {high:g}; requests to copy are in {out}/README.md")
        say(console, f"serve it with: transformers serve --trust-remote-code {out}")
    else:
        if settings.distils:
            how = export_distilled(source, out, settings.strength, settings.overrides, console)
        else:
            how = export_exact(source, out, settings.strength)
        say(console, f"{out}: plain weights at strength {settings.strength:g}, {how}")
