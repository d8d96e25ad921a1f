"""The tools of a small world of `trimtab:tools`."""

import json
from collections.abc import Mapping
from typing import Any

from trimtab.agents.tools import FAILED, Toolbox, ToolFailed
from trimtab.data.generators.tool_world.world import World, WorldError
from trimtab.data.trajectories import name_of


class WorldTools(Toolbox):
    """The tools that a row of `trimtab:tools` offers, in its world.

    Raises:
        WorldError: if it is no such row.
    """

    def __init__(self, row: Mapping[str, Any], longest: int = Toolbox.longest):
        self.longest = longest
        try:
            self.schemas = row["tools"] if isinstance(row["tools"], list) else json.loads(row["tools"])
            self._start = json.loads(row["world"])
            self._names = [name_of(tool) for tool in self.schemas]
        except (KeyError, TypeError, ValueError) as error:
            raise WorldError(f"no row of trimtab:tools: {type(error).__name__}: {error}") from error
        self.reset()

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        text, failed = self.world.run(name, arguments)
        if failed:
            raise ToolFailed(text.removeprefix(FAILED))
        return text

    def reset(self) -> None:
        """The world as it was before the first call."""
        self.world = World(self._start, self._names)
