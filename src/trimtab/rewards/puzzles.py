"""Is an answer to a task of reasoning-gym right? Asked of the generator's own judge.

Some of these judges evaluate what a model wrote: call `verdict` in a process that may be killed (`rewards/pool.py`).
"""

import re
from typing import Literal

from trimtab.data.generators import reasoning
from trimtab.rewards.final import final_answer


def warm_up() -> None:
    """Generators are loaded with their first task."""


def verdict(text: str, task: str) -> Literal["right", "wrong"]:
    """Right where the judge gives a full point to what the text may mean by its answer: what stands between its last
    <answer> tags, else all of it, or its final answer.

    Args:
        task: the column of that name, of `reasoning_gym:NAME`.
    """
    tagged = re.findall(r"<answer>(.*?)</answer>", text, re.DOTALL)
    final = final_answer(text)
    meant = [tagged[-1].strip()] if tagged else [text.strip(), *([] if final is None else [final])]
    return "right" if any(reasoning.score(task, answer) >= 1 for answer in meant) else "wrong"
