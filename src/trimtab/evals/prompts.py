"""Ways to ask an item of any suite: at once, step by step, after examples, or by GeoCoT's two stages.

GeoCoT (arXiv:2501.13773) first takes the text apart and then reasons back from the question. Its published wording is
not known here; the one below is made from the description of the two stages.
"""

from collections.abc import Sequence
from typing import NamedTuple

from trimtab.common.errors import UserError
from trimtab.evals.suite import Item, Messages, Prompt, lines, user


class Example(NamedTuple):
    """A question that was answered, for few-shot prompts."""

    question: str
    """with its options"""
    reasoning: str
    answer: str
    """a letter"""


CLOSING = 'End with a line of the form "Answer: X", X being the letter of one option.'
OPEN_CLOSING = 'End with a line of the form "Answer: ..." that holds nothing but the result.'
AT_ONCE = "Give the answer alone, without an explanation."
STEPWISE = "Reason step by step before you answer."
DECOMPOSE = """Stage 1, take the text apart:
- every point it names;
- every line, with all the points known to lie on it, in their order where the text fixes it;
- every circle, polygon or other shape, its vertices in order;
- every relation that the text states: equal, parallel, perpendicular, midpoint, tangent and the like.
Write down only what the text says."""
REVERSE = """Stage 2, reason back from the question:
- name the two things that are asked about;
- pick from stage 1 the facts that bear on them;
- take the options one by one: suppose the option is right, say what would then have to be true, and mark it as
  contradicted by the facts, forced by them, or merely possible;
- choose the option that is forced; if two or more remain possible, choose the one that says it cannot be inferred."""


def question(item: Item) -> str:
    """The item with its options, one a line."""
    return f"{item.text}\n\n{lines(item.options)}" if item.options else item.text


def closing(item: Item) -> str:
    return CLOSING if item.options else OPEN_CLOSING


def zero_shot(item: Item, before: Sequence[str] = ()) -> Messages:
    return user(f"{question(item)}\n\n{AT_ONCE} {closing(item)}")


def cot(item: Item, before: Sequence[str] = ()) -> Messages:
    return user(f"{question(item)}\n\n{STEPWISE} {closing(item)}")


def geocot(item: Item, before: Sequence[str] = ()) -> Messages:
    """Both stages in one call."""
    return user(f"{question(item)}\n\nWork in two stages.\n\n{DECOMPOSE}\n\n{REVERSE}\n\n{closing(item)}")


def decompose(item: Item, before: Sequence[str] = ()) -> Messages:
    """The first of two calls; the options are not shown yet."""
    return user(f"{item.text}\n\nDo not answer the question yet. {DECOMPOSE}")


def reverse(item: Item, before: Sequence[str]) -> Messages:
    """The second call, given the answer to the first."""
    return user(f"{question(item)}\n\nStage 1 found:\n{before[-1].strip()}\n\n{REVERSE}\n\n{closing(item)}")


def few_shot(examples: Sequence[Example], *, reasoning: bool = False, instructions: str = "") -> Prompt:
    """Examples as turns of the chat, then the item.

    Args:
        reasoning: show the reasoning of the examples, and ask for the same.
        instructions: in place of "step by step", such as the two stages of GeoCoT; only with `reasoning`.

    Raises:
        ValueError: without an example.
    """
    if not examples:
        raise UserError("few-shot prompts need an example")
    how = (instructions or STEPWISE) if reasoning else AT_ONCE

    def step(item: Item, before: Sequence[str] = ()) -> Messages:
        messages: Messages = []
        for example in examples:
            answer = f"{example.reasoning}\nAnswer: {example.answer}" if reasoning else f"Answer: {example.answer}"
            messages += user(f"{example.question}\n\n{how} {CLOSING}")
            messages.append({"role": "assistant", "content": answer})
        return messages + user(f"{question(item)}\n\n{how} {closing(item)}")

    return (step,)


def variants(examples: Sequence[Example] = ()) -> dict[str, Prompt]:
    """name -> steps, for a suite's `prompts`; those with examples only where there are some."""
    found: dict[str, Prompt] = {
        "zero_shot": (zero_shot,),
        "cot": (cot,),
        "geocot": (geocot,),
        "geocot_two": (decompose, reverse),
    }
    if examples:
        found["few_shot"] = few_shot(examples)
        found["few_shot_cot"] = few_shot(examples, reasoning=True)
        two = f"Work in two stages.\n\n{DECOMPOSE}\n\n{REVERSE}\n\n"
        found["few_shot_geocot"] = few_shot(examples, reasoning=True, instructions=two)
    return found
