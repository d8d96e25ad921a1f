"""Long sums, worked out term by term in a wording that varies: a task whose long answers can be judged."""

import zlib
from collections.abc import Iterator
from random import Random
from string import ascii_lowercase
from typing import Any

SPLITS = {"heldout": (0,), "tuning": (1,), "train": tuple(range(2, 10))}
"""split -> which tenths of all tasks are in it"""
FULL, SWAPPED = 0.5, 0.25
"""shares of lines with the whole sum, and with its two numbers exchanged; the others hold the result alone"""


def chains(split: str, rows: int, seed: int = 0, terms: int = 12) -> Iterator[dict[str, Any]]:
    """Rows with `messages` and `answer`: "a3b+8c-2" is asked, and "b:3+8=11", "c:9", "so 9" answered on lines.

    The task decides its split, so no task is in two of them, whatever the seed. Totals are 0 to 9 `terms`.
    """
    drawn = Random(f"chains-{split}-{seed}")
    made = 0
    while made < rows:
        task, lines, total = _chain(drawn, terms)
        if zlib.crc32(task.encode()) % 10 not in SPLITS[split]:
            continue
        made += 1
        messages = [{"role": "user", "content": task}, {"role": "assistant", "content": "\n".join(lines)}]
        yield {"messages": messages, "answer": str(total)}


def _chain(drawn: Random, terms: int) -> tuple[str, list[str], int]:
    total = drawn.randint(1, 9)
    task, lines = f"a{total}", []
    for name in ascii_lowercase[1:terms]:
        number = drawn.randint(1, 9)
        minus = number <= total and drawn.random() < 0.5
        before, total = total, total - number if minus else total + number
        sign, style = "-" if minus else "+", drawn.random()
        task += f"{name}{sign}{number}"
        if style < FULL or (style < FULL + SWAPPED and minus):
            lines.append(f"{name}:{before}{sign}{number}={total}")
        elif style < FULL + SWAPPED:
            lines.append(f"{name}:{number}+{before}={total}")
        else:
            lines.append(f"{name}:{total}")
    return task, [*lines, f"so {total}"], total
