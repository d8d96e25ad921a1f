"""Make a roles folder for `trimtab agent run` from finished runs of data.agent."""

from pathlib import Path
from typing import Annotated, ClassVar, Self

import typer
from pydantic import model_validator

from trimtab.common.settings import CommandSettings, SettingsError, Shown
from trimtab.common.terminal import quiet

Given = Annotated[str | None, Shown("RUN")]


class AgentRolesSettings(CommandSettings):
    """Which models play which role."""

    positional = ("out",)
    words: ClassVar[str] = "OUT"
    out: Path
    """The folder to write."""
    stages: Annotated[Path | None, Shown("RUN")] = None
    """A run of stages, such as that of tiny_agent: its planner, caller and summarizer. Roles that are given besides
    take the place of the run's."""
    planner: Given = None
    """A finished run, a model, an adapter, or http://HOST/v1#MODEL of a server (http://HOST/v1/chat#MODEL for one that
    only takes chats); likewise for each role."""
    caller: Given = None
    """Who writes calls."""
    summarizer: Given = None
    """Who writes answers."""
    backbone: Given = None
    """Instead of the three: one model that writes thought and call in one."""
    all: Given = None
    """Instead of the three: one model that is asked as each of them."""
    copy_models: bool = False
    """Copy whole models and the base of adapters too, so that the folder can be moved; adapters are always copied."""
    whole: bool = False
    """Take the merged models of runs with adapters."""

    @property
    def given(self) -> dict[str, str]:
        names = ("planner", "caller", "summarizer", "backbone", "all")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.given and self.stages is None:
            raise SettingsError(
                "no role is given; write --stages RUN, or --planner RUN --caller RUN --summarizer RUN, or --backbone "
                "RUN"
            )
        return self


SETTINGS = AgentRolesSettings


def main(settings: AgentRolesSettings) -> None:
    """Write the folder, and say what each role is."""
    quiet()
    from trimtab.agents.making import make_roles, roles_of_stages

    given = settings.given if settings.stages is None else roles_of_stages(settings.stages, settings.given)
    for line in make_roles(settings.out, given, copy=settings.copy_models, whole=settings.whole):
        typer.echo(line)
    typer.echo(f"roles: {settings.out}")
