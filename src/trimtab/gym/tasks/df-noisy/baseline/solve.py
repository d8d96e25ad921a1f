"""A random half."""

import os
import random
from pathlib import Path

lines = len(Path("data/corpus.txt").read_text().splitlines())
kept = random.Random(int(os.environ.get("SEED", "0"))).sample(range(lines), lines // 2)
Path("outputs").mkdir(exist_ok=True)
Path("outputs/kept.txt").write_text("".join(f"{number}\n" for number in kept))
