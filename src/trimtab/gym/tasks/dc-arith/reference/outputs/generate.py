"""Sums of numbers drawn at random, from the ones on; a letter before each digit says whether something is carried."""

import random
import sys
from pathlib import Path


def written(a: int, b: int) -> str:
    text, carried = "", 0
    for place in (1, 10, 100):
        carried, digit = divmod(a // place % 10 + b // place % 10 + carried, 10)
        text += f"{'nc'[carried]}{digit}"
    return f"{text}{carried}"


rng = random.Random(int(sys.argv[1]))
pairs = [(rng.randrange(100, 1000), rng.randrange(100, 1000)) for _ in range(20_000)]
Path("lines.txt").write_text("".join(f"{a}+{b}={written(a, b)}\n" for a, b in pairs))
