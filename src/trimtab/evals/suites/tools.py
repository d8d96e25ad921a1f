"""Tools: whether a model goes on as a reference does, turn by turn of its trajectories.

At every turn of the planner the model reads the reference's history and says what comes now: a call, an answer, or
that it gives up. Prompts: `backbone` (one model, the text format of alpha-UMi), `roles` (planner, then caller or
summariser), `instruct` (that of `backbone` as a message, for chat models and servers), `chat` (messages and tools, by
the model's chat template). Numbers: those of the paper's static evaluation, with intervals over trajectories.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pydantic import Field

from trimtab.common.fingerprint import of_text
from trimtab.data.agent_roles import AgentRole, Prompter, next_prompt, prompter_of
from trimtab.data.tokens import coder, prompt_text
from trimtab.data.trajectories import GIVE_UP, INVALID, Call, Step, Trajectory, action, thought_of, to_messages
from trimtab.evals.agent_turns import NOTHING, cut, following, join, joined
from trimtab.evals.suite import (
    SPEAKER,
    SPECIAL,
    Answered,
    Estimate,
    Fit,
    Item,
    Messages,
    Options,
    Suite,
    SuiteError,
    Verdict,
    text,
    user,
)
from trimtab.evals.suites._tool_measures import judged
from trimtab.evals.suites._tool_measures import measures as measured
from trimtab.evals.suites._tool_rows import ToolReference, references
from trimtab.evals.suites._tool_runs import run_tasks
from trimtab.metrics.tool_calls import ANSWER, read

WORLDS = tuple(f"trimtab:tools/{split}?rows=100" for split in ("heldout", "unseen_tools", "unseen_templates"))
"""what is asked where nobody says"""


class ToolsSettings(Options):
    file: tuple[str, ...] = Field(WORLDS, min_length=1)
    """The trajectories: rows with messages, conversations or of ToolBench, ToolAlpaca's files, or folders of
    ToolBench's answers; several are compared as splits."""
    rows: int | None = Field(None, ge=1)
    """Trajectories at most of each file, the first ones."""
    only: str = ""
    """File of ids, as a JSON list or mapping or one a line: only these trajectories."""
    without: str = ""
    """File of ids, or a folder of such: all trajectories but these."""
    trained_on: str = ""
    """Trajectories of the training: those with a tool that these lack are a group of their own, "unseen"."""
    max_input: int | None = Field(None, ge=1)
    """Tokens of a prompt at most; by default what the model has room for. Longer ones lose observations first, then the
    oldest calls."""
    templates: dict[AgentRole, str] = Field(default_factory=dict)
    """Other templates of prompts by role, such as those of the recipe; those of a roles folder are its own."""
    run: bool = False
    """Also let the agent work on each task with the tools of its world, and check what it has done; for rows of
    trimtab:tools."""
    max_steps: int = Field(12, ge=1)
    """With run: plans of a task, after which it counts as given up."""


# ---------------------------------------------------------------- items


def items(settings: ToolsSettings) -> list[Item]:
    """Each turn of a planner's; of tools that are not there, and with nothing behind it, none.

    Raises:
        DataError: naming the row that is no trajectory.
        SuiteError: if no turn is left.
    """
    known = _known(settings.trained_on) if settings.trained_on else None
    found = []
    for one in references(settings.file, settings.rows, settings.only, settings.without):
        if settings.run and "world" not in one.row:
            raise SuiteError(
                f"tools.run: {one.id} is no row of trimtab:tools, which holds the world that it is done in"
            )
        found += _of_trajectory(one, known)
    if not found:
        raise SuiteError(f"tools.file: no trajectory of {', '.join(settings.file)} has a turn of a planner")
    return found


def _known(source: str) -> frozenset[str]:
    return frozenset(name for one in references([source], None, "", "") for name in one.found.names)


def _of_trajectory(one: ToolReference, known: frozenset[str] | None) -> Iterator[Item]:
    steps, names = one.found.steps, one.found.names
    groups = {"split": one.split}
    if known is not None:
        groups["tools"] = "seen" if set(names) <= known else "unseen"
    for place, step in enumerate(steps):
        reference = _reference(steps, place)
        if reference is None:
            continue
        plan = read(reference).plan
        before = "\n".join(f"{role}: {value}" for role, value in steps[:place])
        yield Item(
            id=f"{one.id}.{place + 1}",
            text=f"Turn {place + 1}, behind\n{before}",
            target=(reference,),
            groups={**groups, "plan": plan},
            data={
                "trajectory": one.id,
                "turn": place + 1,
                "steps": [list(step) for step in steps[:place]],
                "tools": list(one.found.tools),
                "names": names,
                "system": one.found.system,
            },
        )


def _reference(steps: Sequence[Step], place: int) -> str | None:
    """What planner and caller or summariser say at a turn; None where it is none of the planner's, or no sample."""
    step, behind = steps[place], steps[place + 1] if place + 1 < len(steps) else None
    if step.role != "assistant" or (behind is None and thought_of(step.value)[1] != GIVE_UP):
        return None
    if behind is not None and behind.role in ("caller", "conclusion"):
        return None if behind.role == "caller" and INVALID in behind.value else join(step.value, *behind)
    return step.value if thought_of(step.value)[1] == GIVE_UP else None


# ---------------------------------------------------------------- asking


@dataclass
class Asking:
    """Writes the prompts of items, for one model or for any."""

    prompter: Prompter
    tokenizer: Any = None
    most: int | None = None
    """tokens of a prompt"""
    remarks: Counter[str] = field(default_factory=Counter)
    _known: dict[tuple[str, str], str] = field(default_factory=dict)

    def backbone(self, item: Item, answers: Sequence[str]) -> Messages:
        return text(self.prompt("backbone", item))

    def instruct(self, item: Item, answers: Sequence[str]) -> Messages:
        return user(self.prompt("backbone", item))

    def plan(self, item: Item, answers: Sequence[str]) -> Messages:
        return _spoken("planner", self.prompt("planner", item))

    def go_on(self, item: Item, answers: Sequence[str]) -> Messages:
        """The caller, or the summariser, behind the plan as it was written; nobody, if the plan gives up."""
        plan = cut(answers[0])
        role = following(plan)
        return _spoken(role, self.prompt(role, item, plan)) if role else []

    def chat(self, item: Item, answers: Sequence[str]) -> Messages:
        """As the model's own chat template writes messages with calls, and tools."""
        if self.tokenizer is None:
            raise SuiteError("tools: the prompt chat is for models that are loaded here; use --prompt instruct")
        steps = tuple(Step(*step) for step in item.data["steps"])
        row = to_messages(Trajectory(steps, tuple(item.data["tools"]), item.data["system"]))
        asked = {"prompt": row["messages"], "tools": row["tools"]}
        return [{**text(prompt_text(self.tokenizer, asked, f"tools: {item.id}")[0])[0], SPECIAL: "kept"}]

    def parsed(self, item: Item, answers: Sequence[str]) -> str:
        """The first call that the tokenizer finds in an answer, or what is said, in the form of one model; "" where it
        cannot read it."""
        (prompt,) = self.chat(item, ())
        try:
            found = self.tokenizer.parse_response(answers[-1], prefix=prompt["content"], tools=item.data["tools"])
            calls = found.get("tool_calls")
            if not calls:
                content = (found.get("content") or "").strip()
                return f"{ANSWER}{content}" if content else ""
            called = calls[0].get("function", calls[0])
            given = called.get("arguments", {})
            return action(Call(str(called["name"]), given if isinstance(given, str) else json.dumps(given)))
        except Exception:  # whatever a tokenizer's template meets in a text that is not of its form
            return ""

    def prompt(self, role: AgentRole, item: Item, plan: str = "") -> str:
        if self.tokenizer is None or plan:
            return self._written(role, item, plan)
        key = (role, item.id)
        if key not in self._known:  # prompts of first steps are looked at several times, and tokenised to be measured
            self._known[key] = self._written(role, item, plan)
        return self._known[key]

    def _written(self, role: AgentRole, item: Item, plan: str) -> str:
        steps = [Step(*step) for step in item.data["steps"]]
        own = [Step("assistant", plan)] if plan else []
        found = Trajectory((*steps, *own), tuple(item.data["tools"]), item.data["system"])
        made = next_prompt(found, role, self.prompter, self._fits)
        if made is None:
            self.remarks["prompts are too long even without their history"] += 1
            made = next_prompt(found, role, self.prompter, lambda prompt: True)
            assert made is not None
        elif made[1]:
            self.remarks["prompts have a cut history, so as to fit"] += 1
        return made[0]

    def _fits(self, prompt: str) -> bool:
        return self.most is None or len(coder(self.tokenizer).prompt(prompt, True)) <= self.most


def _spoken(role: AgentRole, prompt: str) -> Messages:
    return [{**text(prompt)[0], SPEAKER: role}]


def check_chats(tokenizer: Any) -> None:
    """Raise SuiteError for a tokenizer that cannot write chats with tools, or read what a model writes."""
    if tokenizer.chat_template is None:
        raise SuiteError(
            "tools: the prompt chat needs a chat template, and the tokenizer has none; use --prompt backbone"
        )
    if getattr(tokenizer, "response_template", None) is None:
        raise SuiteError(
            "tools: the prompt chat needs the tokenizer's response_template, by which transformers finds calls in what "
            "a model writes, and it has none; use --prompt instruct"
        )


def bound(settings: ToolsSettings, fit: Fit) -> Suite:
    """With the end token of a model's tokenizer between turns, and histories that are cut where it has no room."""
    lengths = [length for length in (settings.max_input, fit.most) if length is not None]
    prompter = prompter_of(fit.tokenizer, settings.templates)
    asking = Asking(prompter, fit.tokenizer, min(lengths, default=None))
    facts = {"prompts": f"end {prompter.end!r}, at most {asking.most or 'any number of'} tokens"}
    if settings.templates:
        facts["templates"] = of_text(repr(sorted(settings.templates.items())))
    if settings.run:
        facts["run"] = f"at most {settings.max_steps} plans"
    more: dict[str, Any] = {"finish": partial(run_tasks, fit) if settings.run else None}
    if fit.prompt == "chat":
        check_chats(fit.tokenizer)
        facts["responses"] = of_text(repr(fit.tokenizer.response_template))
        more |= {"joined": asking.parsed, "measures": partial(measured, joined=asking.parsed)}
    return replace(SUITE, prompts=prompts_of(asking), bound=None, facts=facts, remarks=asking.remarks, **more)


def prompts_of(asking: Asking) -> Mapping[str, Any]:
    return {
        "backbone": (asking.backbone,),
        "roles": (asking.plan, asking.go_on),
        "instruct": (asking.instruct,),
        "chat": (asking.chat,),
    }


# ---------------------------------------------------------------- verdicts


def score(item: Item, answer: str) -> Mapping[str, Verdict]:
    """Verdicts on plan, tool, arguments and answer, each where the reference asks for it."""
    none = Verdict(None, None)
    if not answer.strip():
        return dict.fromkeys(("plan", "action", "arguments", "answer", "tool exists"), none)
    understood, found = read(answer), judged(item, answer)
    name, arguments, reply = understood.name, understood.arguments, understood.answer
    return {
        "plan": Verdict(understood.plan, float(found.plan)),
        "action": none if found.action is None else Verdict(name or NOTHING, float(found.action)),
        "arguments": none if found.arguments is None else Verdict(arguments or "{}", found.arguments),
        "answer": none if found.rouge_words is None else Verdict(reply or NOTHING, found.rouge_words),
        "tool exists": Verdict(name, float(not found.hallucinated)) if found.calls else none,
    }


def said(item: Item, answers: Sequence[str]) -> str:
    return joined(answers)


def measures(answered: Sequence[Answered]) -> list[Estimate]:
    return measured(answered, said)


SUITE = Suite(
    paper="arXiv:2401.07324",
    version="1",
    options=ToolsSettings,
    items=items,
    prompts=prompts_of(Asking(Prompter("\n"))),
    score=score,
    max_new_tokens=256,
    measures=measures,
    accuracy=False,
    joined=said,
    bound=bound,
)
