"""One turn of an agent whose tools others run: what planner and caller or summariser say, and what they ask for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from trimtab.agents.roles import Roles
from trimtab.data.agent_roles import AgentRole, next_prompt
from trimtab.data.trajectories import CALL, CONCLUDE, GIVE_UP, Call, Step, Trajectory, call_of, thought_of
from trimtab.evals.suite import SuiteError
from trimtab.metrics.tool_calls import ACTION, END, NO_NAME, read_backbone

NOTHING = "none"
"""in place of a text that says nothing, as in the paper"""


class Reaction(NamedTuple):
    """What an agent does now: a call, an answer, or neither, where it gives up."""

    thought: str
    call: Call | None = None
    answer: str | None = None


def cleaned(answer: str) -> str:
    """An answer without the colon that repeats the prompt's, "none" where it says nothing."""
    found = answer.removeprefix(": ")
    return NOTHING if found.strip() in ("", ".", ",") else found


def cut(answer: str) -> str:
    """A planner's answer up to and with who goes on: the first of give up, conclusion and caller that it names, and the
    caller where it names none."""
    plan = cleaned(answer)
    for mark in (GIVE_UP, CONCLUDE, CALL):
        before, named, _ = plan.partition(mark)
        if named:
            return before + mark
    return f"{plan} {CALL}"


def following(plan: str) -> AgentRole | None:
    """Who goes on behind a plan that is `cut`."""
    return None if plan.endswith(GIVE_UP) else "summarizer" if plan.endswith(CONCLUDE) else "caller"


def join(plan: str, role: str, value: str) -> str:
    return f"{plan}{END}{role}: {value}"


def joined(answers: Sequence[str]) -> str:
    """What the roles have said as one text, "PLANNER</s>caller: CALL"; what one model said."""
    if len(answers) == 1:
        return answers[0]
    plan = cut(answers[0])
    role = following(plan)
    return join(plan, "caller" if role == "caller" else "conclusion", cleaned(answers[1])) if role else plan


def react(roles: Roles, found: Trajectory, max_new_tokens: int, seed: int = 0) -> Reaction:
    """What comes after these turns, greedily.

    Raises:
        SuiteError: if task and tools do not fit into a role's context.
    """

    def write(role: AgentRole, steps: Sequence[Step]) -> str:
        speaker = roles.speakers[role]

        def fits(prompt: str) -> bool:
            return speaker.context is None or speaker.length(prompt) + max_new_tokens <= speaker.context

        made = next_prompt(replace(found, steps=tuple(steps)), role, roles.prompter, fits)
        if made is None:
            raise SuiteError(
                f"the tools and the task do not fit into the context of the {role}, {speaker.context} tokens"
            )
        how = {"max_new_tokens": max_new_tokens, "temperature": 0.0, "seed": seed, "on_text": None}
        return speaker.write(made[0], **how).text

    if roles.single:
        text = write("backbone", found.steps).removeprefix(": ")
        said = read_backbone(text)
        if said.plan == "call":
            thought = text.partition(ACTION)[0].strip()
            named = said.name is not None and said.name != NO_NAME
            return (
                Reaction(thought, Call(said.name or NO_NAME, said.arguments or "{}"))
                if named
                else Reaction("", None, text)
            )
        return Reaction(text.partition("conclusion: ")[0].strip(), None, said.answer)
    plan = cut(write("planner", found.steps))
    role, thought = following(plan), thought_of(plan)[0]
    if role is None:
        return Reaction(thought)
    text = cleaned(write(role, (*found.steps, Step("assistant", plan))))
    if role == "summarizer":
        return Reaction(thought, None, text.strip())
    return Reaction(thought, call_of(text)) if ACTION in text else Reaction(thought, None, text)
