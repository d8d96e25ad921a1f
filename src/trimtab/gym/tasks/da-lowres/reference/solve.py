"""Sentences with other values in their slots and other words for their words."""

import json
import os
import random
import re
from pathlib import Path

ROWS, CHANGED = 2000, 0.6


def found(sentence: str, words: list[str]) -> str | None:
    """The longest of the words that the sentence holds."""
    held = [word for word in words if re.search(rf"(?<![\w']){re.escape(word)}(?![\w'])", sentence)]
    return max(held, key=len, default=None)


def varied(sentence: str, groups: list[list[str]], chance: float, rng: random.Random) -> str:
    """One word of each group in place of that which the sentence holds."""
    marked: list[str] = []
    for group in groups:
        word = found(sentence, group)
        if word is not None and rng.random() < chance:
            sentence = re.sub(rf"(?<![\w']){re.escape(word)}(?![\w'])", f"<{len(marked)}>", sentence, count=1)
            marked.append(rng.choice(group))
    return re.sub(r"<(\d+)>", lambda at: marked[int(at[1])], sentence)


def main() -> None:
    rng = random.Random(int(os.environ.get("SEED", "0")))
    rows = [line.split("\t") for line in Path("data/train.tsv").read_text().splitlines()]
    slots = list(json.loads(Path("data/slots.json").read_text()).values())
    synonyms = [line.split(", ") for line in Path("data/synonyms.txt").read_text().splitlines()]
    made = [tuple(row) for row in rows]
    for number in range(ROWS - len(rows)):
        intent, sentence = rows[number % len(rows)]
        made.append((intent, varied(varied(sentence, slots, 1.0, rng), synonyms, CHANGED, rng)))
    Path("outputs").mkdir(exist_ok=True)
    Path("outputs/train.tsv").write_text("".join(f"{intent}\t{sentence}\n" for intent, sentence in made))


if __name__ == "__main__":
    main()
