"""The paper's lightweight ReAct loop: a chat model that calls one tool a turn, and whose history is summarised when it
grows too long."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

from trimtab.common.errors import UserError
from trimtab.gym.actions import parse, schema
from trimtab.gym.agents import Briefing, Memory, Move
from trimtab.gym.agents.history import Messages, Node, Summarize, as_text, digest, messages, summary
from trimtab.gym.observation import LONGEST, truncated

SYSTEM = """You are a careful researcher who works alone on one task, with tools, on one machine without a network.
Understand the task and its files first, think about what could work and why, and plan with the tool think. Then \
implement, train, look at what came out, submit, and improve on it with what is left of time and submissions.
- Call exactly one tool at a time, with absolute paths below /workspace. What you say without a call does nothing.
- Start what takes long without waiting for it, look at its output after some steps, estimate how long it still needs, \
and be patient: what you kill early was for nothing. Use sleep with the session that you wait for.
- Change one thing at a time, measure it on data that you did not fit, and believe no number that you cannot explain.
- Keep a copy of the outputs of each submission, and put the best one back before you finish: the last one counts."""
SUMMARISER = """You summarise the work of a researcher on a task, so that it can go on without the steps that you are \
shown. Call the tool once. Keep numbers, paths, and what failed and why; leave out what no longer matters."""
CHARACTERS = 3
"""of a token at least, for estimates"""
TRIES = 3
"""of a summary"""
LEAST = 64
"""tokens of an answer"""


class ContextTooShort(UserError):
    """A model that cannot read task and tools."""


class Called(NamedTuple):
    """A call as a model wrote it."""

    name: Any
    arguments: Any
    """a mapping, or its JSON"""


class ModelTurn(NamedTuple):
    """What a chat model answers."""

    text: str
    calls: Sequence[Called]
    tokens: int | None
    """read and written; None where nobody counts them"""


class ChatModel(Protocol):
    """A model that calls tools."""

    name: str
    context: int | None
    """most tokens of messages and answer; None where only a server knows"""

    def ask(self, messages: Messages, tools: Sequence[Mapping[str, Any]], max_new_tokens: int, seed: int) -> ModelTurn:
        """The next turn.

        Raises:
            UserError: for what it cannot read.
            Unanswered: if it does not answer.
        """
        ...

    def count(self, messages: Messages, tools: Sequence[Mapping[str, Any]]) -> int:
        """About how many tokens these are."""
        ...


class React:
    """Asks a model for one call after the other.

    Args:
        seed: of its draws.
        max_new_tokens: of a turn.
        threshold: tokens at which the first half of the history is summarised, if the model's context is not full
            before.
    """

    name: ClassVar[str] = "react"

    def __init__(self, model: ChatModel, *, seed: int = 0, max_new_tokens: int = 8192, threshold: int = 100_000):
        self.model, self.seed, self.max_new_tokens, self.threshold = model, seed, max_new_tokens, threshold
        self.longest = LONGEST if model.context is None else min(LONGEST, model.context * CHARACTERS // 8)
        """characters of an observation"""
        self.path: list[Node] = []
        self.asked = 0
        """how often the model was asked, which gives the seeds"""
        self.task, self.tools = "", list[dict[str, Any]]()

    def begin(self, briefing: Briefing) -> None:
        self.task, self.tools = briefing.task, briefing.tools

    def act(self, seen: Mapping[str, Any] | None, left: float) -> Move:
        for node in self.path:
            if node["kind"] == "step" and node["seen"] is None:
                node["seen"] = seen
        spent: list[int | None] = []
        while self._too_long(left) and self._summarise(spent):
            continue
        asked = self.messages(left)
        if (room := self._room(asked)) < min(LEAST, self.max_new_tokens):
            raise ContextTooShort(
                f"the history takes {self.model.count(asked, self.tools):,} tokens, and {self.model.name} reads "
                f"{self.model.context:,}; choose a model with a longer context"
            )
        turn = self._ask(asked, self.tools, spent, room)
        first = next(iter(turn.calls), None)
        call = None if first is None else first._asdict()
        self.path.append({"kind": "step", "said": turn.text, "call": call, "seen": None})
        action = parse(None, None) if first is None else parse(first.name, first.arguments)
        tokens = None if None in spent else sum(number or 0 for number in spent)
        return Move(action, turn.text or None, tokens)

    def tell(self, text: str) -> None:
        self.path.append({"kind": "note", "text": text})

    def memory(self) -> Memory:
        return {"path": [dict(node) for node in self.path], "asked": self.asked}

    def recall(self, memory: Memory) -> None:
        self.path, self.asked = [dict(node) for node in memory["path"]], memory["asked"]

    def messages(self, left: float) -> Messages:
        """All that the model is asked with."""
        hours, minutes = divmod(int(left // 60), 60)
        task = f"{self.task}\n\nTime left: {hours} h {minutes} min."
        first = [{"kind": "note", "text": task}]
        found = messages([*first, *self.path], self.longest)
        found[0]["content"] = found[0]["content"].removeprefix("[note]\n")
        return [{"role": "system", "content": SYSTEM}, *found]

    def _ask(
        self, asked: Messages, tools: Sequence[Mapping[str, Any]], spent: list[int | None], room: int
    ) -> ModelTurn:
        turn = self.model.ask(asked, tools, min(room, self.max_new_tokens), self.seed + self.asked)
        self.asked += 1
        spent.append(turn.tokens)
        return turn

    @property
    def _kept(self) -> int:
        """Tokens of the context that are kept free for an answer."""
        return self.max_new_tokens if self.model.context is None else min(self.max_new_tokens, self.model.context // 4)

    def _room(self, asked: Messages) -> int:
        """Tokens that an answer may have."""
        if self.model.context is None:
            return self.max_new_tokens
        return self.model.context - self.model.count(asked, self.tools)

    def _too_long(self, left: float) -> bool:
        number, most = self.model.count(self.messages(left), self.tools), self.model.context
        return number >= self.threshold or (most is not None and number + self._kept >= most)

    def _summarise(self, spent: list[int | None]) -> bool:
        """Put a summary in the place of the first half of the path, if it has any that is no summary already."""
        half = (len(self.path) + 1) // 2
        first, rest = self.path[:half], self.path[half:]
        if not rest or (half == 1 and first[0]["kind"] == "summary"):
            return False
        room = self.threshold if self.model.context is None else self.model.context - self._kept
        told = f"The task:\n{self.task}\n\nThe steps:\n{as_text(first, self.longest)}"
        told = truncated(told, CHARACTERS * room // 2)
        asked = [{"role": "system", "content": SUMMARISER}, {"role": "user", "content": told}]
        text = None
        for _ in range(TRIES):
            turn = self._ask(asked, [schema(Summarize)], spent, self._kept)
            text = summary(turn.calls[0]._asdict() if turn.calls else None)
            if text is not None:
                break
        steps = sum(node["steps"] if node["kind"] == "summary" else node["kind"] == "step" for node in first)
        self.path = [{"kind": "summary", "text": text or digest(first), "steps": steps}, *rest]
        return True
