"""Sums of numbers drawn at random, as people write them."""

import random
import sys
from pathlib import Path

rng = random.Random(int(sys.argv[1]))
pairs = [(rng.randrange(100, 1000), rng.randrange(100, 1000)) for _ in range(20_000)]
Path("lines.txt").write_text("".join(f"{a}+{b}={a + b}\n" for a, b in pairs))
