"""An agent that does anything: valid actions with valid arguments, drawn at random."""

import random
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from trimtab.gym.actions import parse
from trimtab.gym.agents import Briefing, Memory, Move

SESSIONS = ("main", "one", "two")
PATHS = ("outputs/answers.txt", "outputs/model.py", "notes.md", "data", "outputs", ".", "/workspace/outputs", "task.md")
COMMANDS = ("ls -la", "pwd", "echo drawn >> notes.md", "sleep 0.1", "python3 -c 'print(sum(range(10)))'", "false",
            "mkdir -p outputs && date > outputs/answers.txt", "cat notes.md", "yes | head -n 100")  # fmt: skip
WORDS = ("data", "outputs", "the", "label", "a", "loss", "*.py", "*")
DRAWS: dict[str, Callable[[random.Random], Any]] = {
    "session_id": lambda draw: draw.choice(SESSIONS),
    "command": lambda draw: draw.choice(COMMANDS),
    "wait_for_completion": lambda draw: draw.random() < 0.5,
    "force": lambda draw: draw.random() < 0.5,
    "start_lines": lambda draw: draw.randint(1, 100),
    "end_lines": lambda draw: draw.randint(0, 5),
    "since_timestamp": lambda draw: None,
    "seconds": lambda draw: round(draw.uniform(0.01, 0.2), 3),
    "line": lambda draw: draw.randint(1, 100),
    "line_number": lambda draw: draw.randint(1, 100),
    "context_lines": lambda draw: draw.randint(1, 200),
    "start": lambda draw: draw.randint(1, 3),
    "end": lambda draw: draw.randint(0, 3),
    "top_k": lambda draw: draw.randint(1, 20),
    "path": lambda draw: draw.choice(PATHS),
    "filename": lambda draw: draw.choice(PATHS),
    "document": lambda draw: draw.choice(("manual.md", "paper.md")),
    "content": lambda draw: " ".join(draw.choices(WORDS, k=draw.randint(0, 20))) + "\n",
    "input_text": lambda draw: draw.choice(WORDS) + "\n",
    "term": lambda draw: draw.choice(WORDS),
    "pattern": lambda draw: draw.choice(WORDS),
    "query": lambda draw: draw.choice(WORDS),
    "thought": lambda draw: "perhaps " + draw.choice(WORDS),
}
"""parameter -> a value of it"""
RARE = ("finish", "eval", "view_hint")
"""tools that are drawn once where another is drawn ten times"""


class RandomAgent:
    """Draws tools and arguments; the same seed draws the same."""

    name: ClassVar[str] = "random"

    def __init__(self, seed: int = 0):
        self.seed, self.at = seed, 0
        self.tools: list[dict[str, Any]] = []

    def begin(self, briefing: Briefing) -> None:
        self.tools = briefing.tools

    def act(self, seen: Mapping[str, Any] | None, left: float) -> Move:
        draw = random.Random(f"{self.seed} {self.at}")
        self.at += 1
        weights = [1 if tool["name"] in RARE else 10 for tool in self.tools]
        (tool,) = draw.choices(self.tools, weights)
        parameters = tool["parameters"]
        given = [key for key in parameters["properties"] if key in parameters["required"] or draw.random() < 0.7]
        return Move(parse(tool["name"], {key: DRAWS[key](draw) for key in given}))

    def tell(self, text: str) -> None: ...

    def memory(self) -> Memory:
        return {"at": self.at}

    def recall(self, memory: Memory) -> None:
        self.at = memory["at"]
