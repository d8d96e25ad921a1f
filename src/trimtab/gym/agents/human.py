"""A person at the terminal as the agent."""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from trimtab.gym import actions
from trimtab.gym.agents import Briefing, Memory, Move

HOW = 'an action and its arguments as JSON, such as open_file {"path": "README.md"}; ? lists them, Ctrl-D ends the task'


class Human:
    """Asks for each action. What is no action is asked for again; it costs nothing.

    Args:
        ask: a line that is typed behind a prompt; EOFError when nothing more is typed.
        say: shows a text.
    """

    name: ClassVar[str] = "human"

    def __init__(self, ask: Callable[[str], str], say: Callable[[str], Any]):
        self.ask, self.say = ask, say
        self.tools: list[dict[str, Any]] = []

    def begin(self, briefing: Briefing) -> None:
        self.tools = briefing.tools
        self.say(briefing.task)
        self.say(HOW)

    def act(self, seen: Mapping[str, Any] | None, left: float) -> Move | None:
        for key, value in (seen or {}).items():
            if key not in ("timestamp", "source", "observation_type", "success"):
                self.say(f"{key}: {value}")
        while True:
            try:
                name, _, arguments = self.ask(f"{left / 60:.0f} min left> ").strip().partition(" ")
            except EOFError:
                return None
            if name == "?":
                for tool in self.tools:
                    self.say(f"{tool['name']} {', '.join(tool['parameters']['properties'])}")
                continue
            action = actions.parse(name, arguments)
            if not isinstance(action, actions.Null):
                return Move(action)
            self.say(action.reason)

    def tell(self, text: str) -> None:
        self.say(text)

    def memory(self) -> Memory:
        return {}

    def recall(self, memory: Memory) -> None: ...
