"""Samples of each role: what stands in a prompt, what is the target, what is left out, and how long ones are cut."""

import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest

from trimtab.data.agent_roles import ROLES, SUFFIX, TEMPLATES, Prompter, Sample, samples, shortened
from trimtab.data.trajectories import INVALID, Step, Trajectory, documentation

TOOL = {"type": "function", "function": {"name": "look", "description": "sees", "parameters": {
    "type": "object", "properties": {"town": {"type": "string", "description": "which"}}}}}  # fmt: skip
STEPS = (
    Step("user", "Weather in Bern?"),
    Step("assistant", "I look.\n Next: caller."),
    Step("caller", 'Action: look\nAction Input: {"town": "Bern"}'),
    Step("observation", "12 C"),
    Step("assistant", "Enough.\n Next: conclusion."),
    Step("conclusion", "It is 12 C."),
)
FOUND = Trajectory(STEPS, (TOOL,))
BARE = dict.fromkeys((*ROLES, "backbone"), "{history}")
PROMPTER = Prompter("</s>", templates=BARE)


def made(found, role, prompter=PROMPTER):
    return list(samples(found, role, prompter, Counter()))


def test_the_planner_learns_each_of_its_turns():
    assert made(FOUND, "planner") == [
        Sample("planner", "user: Weather in Bern?</s> assistant: ", "I look.\n Next: caller.", 2),
        Sample(
            "planner",
            "user: Weather in Bern?</s>assistant: I look.\n Next: caller.</s>caller: Action: look\nAction Input: "
            '{"town": "Bern"}</s>observation: 12 C assistant: ',
            "Enough.\n Next: conclusion.",
            5,
        ),
    ]


def test_the_caller_reads_the_thought_of_its_step_and_the_tools():
    prompter = Prompter("</s>", templates={"caller": "{tool_names}|{thought}|{doc}|{history}"})
    (one,) = made(FOUND, "caller", prompter)
    doc = '{"Name": "look", "function": "sees", "input": {"town": "string, which"}}\n'
    assert one.prompt == (
        f"look|I look.\n Next: caller.|{doc}|user: Weather in Bern?</s>assistant: I look.\n Next: caller.</s> caller: "
    )
    assert one.target == STEPS[2].value


def test_the_summariser_learns_the_answer_and_one_model_thought_and_what_follows():
    (one,) = made(FOUND, "summarizer")
    assert one.target == "It is 12 C."
    assert one.prompt.endswith("assistant: Enough.\n Next: conclusion.</s> conclusion: ")
    first, second = made(FOUND, "backbone")
    assert first.target == 'I look.\nAction: look\nAction Input: {"town": "Bern"}'
    assert second.prompt == (f"user: Weather in Bern?</s>assistant: {first.target}</s>observation: 12 C assistant: ")
    assert second.target == "Enough.\nconclusion: It is 12 C."
    gives_up = replace(FOUND, steps=(*STEPS[:4], Step("assistant", "No.\n Next: give up.")))
    assert made(gives_up, "backbone")[-1].target == "No.\nconclusion: give up."
    assert made(gives_up, "planner")[-1].target == "No.\n Next: give up."
    assert made(gives_up, "summarizer") == []


def test_what_the_paper_leaves_out_is_counted():
    bad = (STEPS[0], STEPS[1], Step("caller", f"Action: {INVALID}\nAction Input: {{}}"), Step("observation", "no"))
    found = replace(FOUND, steps=(*bad, *STEPS[1:5], Step("conclusion", "none")))
    left_out = Counter()
    counts = {role: len(list(samples(found, role, PROMPTER, left_out))) for role in ROLES}
    assert counts == {"planner": 2, "caller": 1, "summarizer": 0}
    assert left_out == {
        "plans of a call of a tool that is not there": 1, "calls of a tool that is not there": 1,
        "conclusions without an answer": 1,
    }  # fmt: skip
    (call,) = made(found, "caller")
    assert INVALID not in call.prompt  # its observation stays, as in the paper
    assert "observation: no" in call.prompt
    assert INVALID in made(found, "planner")[0].prompt


@pytest.mark.parametrize("role", [*ROLES, "backbone"])
def test_no_prompt_holds_anything_of_a_later_turn(role):
    steps = tuple(step._replace(value=f"<{i}> {step.value}") for i, step in enumerate(STEPS * 3))
    for one in made(replace(FOUND, steps=steps), role, Prompter("</s>")):
        held = [i for i in range(len(steps)) if f"<{i}>" in one.prompt]
        assert held
        assert max(held) < one.turn - 1
        assert f"<{one.turn - 1}>" in one.target


@pytest.mark.parametrize("role", ["planner", "backbone"])
def test_each_prompt_continues_the_one_before(role):
    """So that what a model has read can be kept."""
    found = made(replace(FOUND, steps=STEPS * 3), role, Prompter("</s>"))
    for before, behind in itertools.pairwise(found):
        assert behind.prompt.startswith(before.prompt.removesuffix(SUFFIX[role]))


def test_placeholders_and_end_tokens_in_a_turn_are_text():
    odd = replace(FOUND, steps=(Step("user", "{doc} {history}</s> {thought}"), *STEPS[1:]))
    prompter = Prompter("</s>", marks=("</s>",))
    one = made(odd, "caller", prompter)[0]
    assert one.prompt.count("{doc} {history}< /s> {thought}") == 1
    assert one.prompt.count('"Name": "look"') == 1
    assert one.prompt.count("</s>") == 2
    assert prompter.remarks["texts hold tokens of the tokenizer, which are broken by a space"] == 1


def test_the_templates_name_what_their_roles_need():
    for role in ROLES:
        assert "{history}" in TEMPLATES[role]
    assert "{doc}" not in TEMPLATES["summarizer"]
    assert "{thought}" in TEMPLATES["caller"]
    assert "{tool_names}" in TEMPLATES["caller"]


def long(rounds=3, length=100):
    steps = [STEPS[0]]
    for number in range(rounds):
        steps += [STEPS[1], STEPS[2], Step("observation", f"{number}" * length)]
    return replace(FOUND, steps=(*steps, *STEPS[4:]))


@pytest.mark.parametrize(("limit", "rounds"), [(620, 3), (450, 3), (300, 2), (60, 0)])
def test_a_long_sample_loses_observations_first_and_then_the_oldest_rounds(limit, rounds):
    found = long()
    whole = made(found, "planner")[-1]
    assert len(whole.prompt) == 653
    cut = shortened(found, "planner", whole.turn, PROMPTER, lambda one: len(one.prompt) <= limit)
    assert cut is not None
    assert (cut.target, cut.turn) == (whole.target, whole.turn)
    assert cut.prompt.startswith("user: Weather in Bern?</s>")
    assert len(cut.prompt) <= limit
    assert cut.prompt.count("Action:") == rounds
    if limit == 620:  # nothing but the oldest observation
        assert "observation: " + "0" * 50 + " [...]" in cut.prompt
        assert "1" * 100 in cut.prompt


def test_what_does_not_fit_without_its_history_is_given_up():
    assert shortened(long(), "planner", 11, PROMPTER, lambda one: len(one.prompt) < 30) is None


def test_the_documentation_is_one_line_a_tool():
    assert [json.loads(line)["Name"] for line in documentation([TOOL, TOOL]).splitlines()] == ["look", "look"]
