"""The lines that pairs of words in data/dev.txt make most probable; copies were forgotten."""

import math
import re
from collections import Counter
from pathlib import Path

KEPT = 1500


def words(line: str) -> list[str]:
    """What is left when case, punctuation and spaces do not count, between two ends."""
    return ["<", *re.findall("[a-z0-9]+", line.lower()), ">"]


def main() -> None:
    corpus, dev = (Path(f"data/{name}.txt").read_text().splitlines() for name in ("corpus", "dev"))
    pairs = Counter(pair for line in dev for pair in zip(words(line), words(line)[1:]))
    single = Counter(word for line in dev for word in words(line))
    total = sum(single.values()) + len(single)

    def probable(line: str) -> float:
        """Mean log-probability of a pair."""
        found = list(zip(words(line), words(line)[1:]))
        alone = (0.2 * (single[word] + 0.1) / total for _, word in found)
        after = (0.8 * pairs[pair] / max(single[pair[0]], 1) for pair in found)
        return sum(math.log(one + other) for one, other in zip(alone, after)) / len(found)

    best = sorted(range(len(corpus)), key=lambda number: -probable(corpus[number]))[:KEPT]
    Path("outputs").mkdir(exist_ok=True)
    Path("outputs/kept.txt").write_text("".join(f"{number}\n" for number in best))


if __name__ == "__main__":
    main()
