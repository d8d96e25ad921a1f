"""How a task is written down: its question, the calls with what the tools return, and the end."""

import re
from collections.abc import Sequence
from datetime import date as Day
from random import Random
from typing import Any

from trimtab.data.generators.tool_world import values
from trimtab.data.generators.tool_world.apps import UNITS, State
from trimtab.data.generators.tool_world.world import FAILED, World


class Draft:
    """A task that is being made.

    Args:
        drawn: of all draws.
        heldout: whether its values and its wording are held out.
    """

    def __init__(self, drawn: Random, heldout: bool):
        self.drawn, self.heldout = drawn, heldout
        self.state: State = values.fresh(drawn, heldout)
        """of all apps; a task may change it before its first call"""
        self.messages: list[dict[str, Any]] = []
        self.used: list[str] = []
        """tools that were called"""
        self.facts: list[str] = []
        self.gives_up = False
        self._world: World | None = None
        self._dots = False
        """whether it is known that days are written with dots"""
        self._codes = False

    @property
    def world(self) -> World:
        if self._world is None:
            self._world = World(self.state)  # of a copy
        return self._world

    def ask(self, *wordings: str, **given: Any) -> None:
        """The question, in one of these words; the last ones are held out."""
        wording = wordings[-1] if self.heldout else self.drawn.choice(wordings[:-1])
        self.messages.append({"role": "user", "content": wording.format(**given)})

    def chance(self, share: float) -> bool:
        return self.drawn.random() < share

    def pick(self, pool: Sequence[str]) -> str:
        """A name of the split's share."""
        return values.one(tuple(pool), self.drawn, self.heldout)

    def call(self, thought: str, name: str, /, **arguments: Any) -> str:
        """Call a tool; a day or a unit that it wants otherwise is mended by a second call."""
        if self._dots and "date" in arguments:
            arguments["date"] = dotted(arguments["date"])
        if self._codes:
            arguments |= {key: UNITS[arguments[key]][0] for key in ("unit", "to") if name == "convert_units"}
        text = self._call(thought, name, arguments)
        if "DD.MM.YYYY" in text:
            self._dots = True
            return self._call(
                "The date must be written with dots.", name, {**arguments, "date": dotted(arguments["date"])}
            )
        if text.startswith(f"{FAILED}units are"):
            self._codes = True
            short = {key: UNITS[arguments[key]][0] for key in ("unit", "to")}
            return self._call("The units must be written short.", name, {**arguments, **short})
        return text

    def _call(self, thought: str, name: str, arguments: dict[str, Any]) -> str:
        text = self.world.call(name, arguments)
        number = f"call_{sum(message['role'] == 'tool' for message in self.messages) + 1}"
        function = {"name": name, "arguments": arguments}
        asked = {"type": "function", "id": number, "function": function}
        self.messages += [
            {"role": "assistant", "content": thought, "tool_calls": [asked]},
            {"role": "tool", "tool_call_id": number, "content": text},
        ]
        self.used += [name] if name not in self.used else []
        return text

    def finish(self, answer: str, *facts: str, thought: str = "I know all that was asked.") -> None:
        """The answer, and what of it must be said as it stands."""
        self.messages.append({"role": "assistant", "content": answer, "reasoning_content": thought})
        self.facts = list(facts)

    def give_up(self, thought: str, *facts: str) -> None:
        """The end of a task that cannot be done, and what must have been seen before."""
        self.messages.append({"role": "assistant", "content": thought, "give_up": True})
        self.facts, self.gives_up = list(facts), True


def dotted(day: str) -> str:
    """DD.MM.YYYY, from YYYY-MM-DD."""
    return Day.fromisoformat(day).strftime("%d.%m.%Y")


def failed(text: str) -> bool:
    return text.startswith(FAILED)


def behind(pattern: str, text: str) -> str:
    """What the group of a pattern holds in an observation."""
    found = re.search(pattern, text)
    assert found is not None, (pattern, text)
    return found[1]
