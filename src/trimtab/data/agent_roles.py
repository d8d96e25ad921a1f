"""What planner, caller, summariser and a single model learn from a trajectory, in the text format of alpha-UMi
(arXiv:2401.07324, sections 3.2 and 3.3).

A prompt is made of a role's template, of the documentation of the tools and of the turns so far, and ends where the
role begins to write. Nothing of a later turn stands in it.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

from trimtab.data.sources import DataError
from trimtab.data.trajectories import (
    GIVE_UP,
    INVALID,
    NO_ANSWER,
    Step,
    Trajectory,
    documentation,
    thought_of,
)

AgentRole = Literal["planner", "caller", "summarizer", "backbone"]
ROLES: tuple[AgentRole, ...] = ("planner", "caller", "summarizer")
"""those of the paper's three models; the backbone is one model that plays all"""
SUFFIX: dict[AgentRole, str] = {
    "planner": " assistant: ", "caller": " caller: ", "summarizer": " conclusion: ", "backbone": " assistant: ",
}  # fmt: skip
"""what a prompt ends in"""
TEMPLATES: dict[AgentRole, str] = {
    "planner": (
        "system: You answer a user with the help of tools, one step at a time. Think about the step that comes now, "
        "then say who goes on: 'Next: caller.' to use a tool, 'Next: conclusion.' when you know enough to answer, "
        "'Next: give up.' when the tools cannot help.\nTools:\n{doc}\n{history}"
    ),
    "caller": (
        "system: You write the call of a tool that a plan asks for, in two lines:\nAction: the name of the tool, one "
        "of {tool_names}\nAction Input: its arguments as JSON\nTools:\n{doc}\n{history}\nplan: {thought}\n"
    ),
    "summarizer": "system: You answer a user from what the tools have returned.\n{history}",
    "backbone": (
        "system: You answer a user with the help of tools, one step at a time. Think about the step that comes now, "
        "then write a call:\nAction: the name of the tool, one of {tool_names}\nAction Input: its arguments as JSON\n"
        "or, when you know enough, 'conclusion: ' and the answer, or 'conclusion: give up.'\nTools:\n{doc}\n{history}"
    ),
}
"""Placeholders: {doc}, a line for each tool; {tool_names}; {history}; {thought}, the planner's last."""
PLACEHOLDER = re.compile(r"\{(doc|history|thought|tool_names)\}")
CUT = " [...]"
"""behind an observation of which only the beginning is left"""


class Sample(NamedTuple):
    """What a role is asked, and what it has to write."""

    role: AgentRole
    prompt: str
    target: str
    turn: int
    """number of the turn in the trajectory, from 1"""


@dataclass(frozen=True)
class Prompter:
    """Writes prompts.

    Args:
        end: the text of the token that ends a turn.
        marks: texts that the tokenizer reads as tokens of their own; where a turn holds one, it is broken by a space.
        templates: other ones than `TEMPLATES`, by role.
    """

    end: str
    marks: tuple[str, ...] = ()
    templates: Mapping[AgentRole, str] = field(default_factory=dict)
    remarks: Counter = field(default_factory=Counter, compare=False)

    def plain(self, text: str) -> str:
        """A text of the row's, in which no mark is left."""
        broken = text
        for mark in self.marks:
            broken = broken.replace(mark, f"{mark[:1]} {mark[1:]}")
        self.remarks["texts hold tokens of the tokenizer, which are broken by a space"] += broken != text
        return broken

    def history(self, steps: Sequence[Step]) -> str:
        """The turns one after another, each with the end token but for observations."""
        parts = []
        for step in steps:
            ends = "" if step.role == "observation" else self.end
            parts.append(f"{step.role}: {self.plain(step.value)}{ends}")
        return "".join(parts)

    def prompt(self, role: AgentRole, found: Trajectory, steps: Sequence[Step], thought: str = "") -> str:
        """What a role reads after these turns; placeholders are filled in one pass, so that what stands in a turn is
        never read as one."""
        values: dict[str, Callable[[], str]] = {
            "doc": lambda: self.plain(documentation(found.tools)),
            "tool_names": lambda: ", ".join(found.names),
            "history": lambda: self.history(steps),
            "thought": lambda: self.plain(thought),
        }
        template = self.templates.get(role, TEMPLATES[role])
        return PLACEHOLDER.sub(lambda place: values[place[1]](), template) + SUFFIX[role]


def prompter_of(tokenizer: Any, templates: Mapping[Any, str] | None = None) -> Prompter:
    """Writes prompts for models with this tokenizer.

    Raises:
        DataError: for a tokenizer without a token that ends a turn.
    """
    if not isinstance(tokenizer.eos_token, str):
        raise DataError("the turns of an agent end with the tokenizer's end token, and this tokenizer has none")
    marks = tuple(sorted({str(token) for token in tokenizer.all_special_tokens}))
    return Prompter(tokenizer.eos_token, marks, templates or {})


def samples(found: Trajectory, role: AgentRole, prompter: Prompter, left_out: Counter) -> Iterator[Sample]:
    """Those of a role, in the order of the turns; counts in `left_out` what is no sample, by reason."""
    yield from {"planner": _planner, "caller": _caller, "summarizer": _summarizer, "backbone": _backbone}[role](
        found, prompter, left_out
    )


def _planner(found: Trajectory, prompter: Prompter, left_out: Counter) -> Iterator[Sample]:
    steps = found.steps
    for place, step in enumerate(steps):
        if step.role != "assistant":
            continue
        behind = steps[place + 1] if place + 1 < len(steps) else None
        if behind is not None and behind.role == "caller" and INVALID in behind.value:
            left_out["plans of a call of a tool that is not there"] += 1
        elif behind is None or behind.role not in ("caller", "conclusion"):
            if thought_of(step.value)[1] == GIVE_UP:
                yield _sample("planner", found, place, prompter)
            else:
                left_out["plans that nothing follows"] += 1
        else:
            yield _sample("planner", found, place, prompter)


def _caller(found: Trajectory, prompter: Prompter, left_out: Counter) -> Iterator[Sample]:
    """Calls of tools that are not there are left out of what later calls read too."""
    for place, step in enumerate(found.steps):
        if step.role != "caller":
            continue
        if INVALID in step.value:
            left_out["calls of a tool that is not there"] += 1
            continue
        before = [one for one in found.steps[:place] if not (one.role == "caller" and INVALID in one.value)]
        prompt = prompter.prompt("caller", found, before, found.steps[place - 1].value)
        yield Sample("caller", prompt, prompter.plain(step.value), place + 1)


def _summarizer(found: Trajectory, prompter: Prompter, left_out: Counter) -> Iterator[Sample]:
    for place, step in enumerate(found.steps):
        if step.role == "conclusion" and step.value == NO_ANSWER:
            left_out["conclusions without an answer"] += 1
        elif step.role == "conclusion":
            yield _sample("summarizer", found, place, prompter)


def _sample(role: AgentRole, found: Trajectory, place: int, prompter: Prompter) -> Sample:
    prompt = prompter.prompt(role, found, found.steps[:place])
    return Sample(role, prompt, prompter.plain(found.steps[place].value), place + 1)


def _backbone(found: Trajectory, prompter: Prompter, left_out: Counter) -> Iterator[Sample]:
    """A thought with the call or the conclusion that follows; a turn of the history too."""
    for place, step in enumerate(found.steps):
        if step.role != "assistant":
            continue
        behind = found.steps[place + 1] if place + 1 < len(found.steps) else None
        value = merged(step, behind)
        if value is None:
            left_out["plans that nothing follows"] += 1
            continue
        prompt = prompter.prompt("backbone", found, folded(found.steps[:place]))
        yield Sample("backbone", prompt, prompter.plain(value), place + 1)


def folded(steps: Sequence[Step]) -> list[Step]:
    """Turns as a single model's history has them: each thought with what follows it."""
    behind = [*steps[1:], None]
    merges = ((one, merged(one, after) if one.role == "assistant" else one.value) for one, after in zip(steps, behind))
    return [
        Step(one.role, value) for one, value in merges if one.role not in ("caller", "conclusion") and value is not None
    ]


def merged(step: Step, behind: Step | None) -> str | None:
    """A planner's turn and what follows it, as one model writes them; None where nothing does."""
    thought, following = thought_of(step.value)
    if behind is not None and behind.role == "caller":
        return f"{thought}\n{behind.value}"
    if behind is not None and behind.role == "conclusion":
        return f"{thought}\nconclusion: {behind.value}"
    return f"{thought}\nconclusion: give up." if following == GIVE_UP else None


NEXT: dict[AgentRole, Step] = {
    "planner": Step("assistant", f" {GIVE_UP}"), "caller": Step("caller", "?"), "summarizer": Step("conclusion", "?"),
    "backbone": Step("assistant", f" {GIVE_UP}"),
}  # fmt: skip
"""a turn of each role that makes a sample, where the role's own is yet to be written"""


def next_prompt(
    found: Trajectory, role: AgentRole, prompter: Prompter, fits: Callable[[str], bool]
) -> tuple[str, bool] | None:
    """What a role reads that goes on with a trajectory, as training writes it, and whether its history had to be cut,
    as `shortened` does, so that the prompt fits; None if it does not even so."""
    asked = replace(found, steps=(*found.steps, NEXT[role]), remarks=Counter())
    turn = len(asked.steps)
    one = next(one for one in samples(asked, role, prompter, Counter()) if one.turn == turn)
    if fits(one.prompt):
        return one.prompt, False
    cut = shortened(asked, role, turn, prompter, lambda sample: fits(sample.prompt))
    return None if cut is None else (cut.prompt, True)


# ---------------------------------------------------------------- what is too long


def shortened(
    found: Trajectory, role: AgentRole, turn: int, prompter: Prompter, fits: Callable[[Sample], bool]
) -> Sample | None:
    """The sample of a turn that is too long, from a trajectory that is cut until it fits: observations, from the oldest
    on, to a half, a quarter and so on; then whole rounds of the oldest calls. Task, tools and target stay.

    Returns:
        None if it does not fit even so.
    """
    for steps in _cuts(found.steps, turn):
        cut = replace(found, steps=steps, remarks=Counter())
        target = len(steps) - (len(found.steps) - turn)
        made = next((one for one in samples(cut, role, prompter, Counter()) if one.turn == target), None)
        if made is not None and fits(made):
            return made._replace(turn=turn)
    return None


def _cuts(steps: Sequence[Step], turn: int) -> Iterator[tuple[Step, ...]]:
    """Ever shorter forms of the turns before `turn`."""
    now = list(steps)
    places = [place for place, step in enumerate(now[: turn - 1]) if step.role == "observation"]
    length = max([0, *(len(now[place].value) for place in places)])
    while length > 2 * len(CUT):
        length //= 2
        for place in places:
            if len(now[place].value) > length + len(CUT):
                now[place] = Step("observation", now[place].value.removesuffix(CUT)[:length] + CUT)
                yield tuple(now)
    first = next(place for place, step in enumerate(now) if step.role == "user")
    own = next(place for place in range(turn - 1, -1, -1) if now[place].role == "assistant")
    while True:  # the oldest round: from a planner's turn up to the next
        begins = next((i for i in range(first + 1, own) if now[i].role == "assistant"), None)
        if begins is None:
            return
        ends = next(i for i in range(begins + 1, own + 1) if now[i].role == "assistant")
        del now[begins:ends]
        own -= ends - begins
        yield tuple(now)
