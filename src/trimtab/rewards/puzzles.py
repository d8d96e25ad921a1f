"""Grade answers to tasks of reasoning-gym with the generator's own scorer.

Some of these scorers evaluate what a model wrote: call `verdict` in a process that may be killed (`rewards/pool.py`).
"""

import re
from typing import Literal

from trimtab.data.generators import reasoning
from trimtab.rewards.final import final_answer


def warm_up() -> None:
    """Nothing to do: generators are loaded with their first task."""


def verdict(text: str, task: str) -> Literal["correct", "incorrect"]:
    """Correct if the scorer gives full marks to a candidate answer: what is between the last <answer> tags, else the
    whole text, or its final answer.

    Args:
        task: the column of that name, of `reasoning_gym:NAME`.
    """
    tagged = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    final = final_answer(text)
    candidates = [tagged[-1].strip()] if tagged else [text.strip(), *([] if final is None else [final])]
    return "correct" if any(reasoning.score(task, answer) >= 1 for answer in candidates) else "incorrect"
