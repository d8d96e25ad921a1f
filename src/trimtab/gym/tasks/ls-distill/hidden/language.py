"""A language of 256 words, and text of it: `python3 language.py` writes the texts of the workspace.

A sentence begins with a word of one of 8 topics; then function words and content words take turns, and "." ends it. A
content word depends on the function word before it and on the topic, which may stand ten words back.
"""

import math
import random
from pathlib import Path

TOPICS, TOPIC_WORDS, FUNCTION, CONTENT = 8, 4, 31, 192
STOP, FIRST_FUNCTION, FIRST_CONTENT = 0, 33, 64
TEXTS = {"teacher": 120_000, "student": 57_000, "practice": 20_000}
"""words"""


def tables() -> tuple[list[list[float]], list[list[list[float]]]]:
    """Cumulative chances of function words after each content word, and of content words by topic and function word."""
    draw = random.Random("language")

    def logits(rows: int, columns: int, scale: float) -> list[list[float]]:
        return [[draw.gauss(0, scale) for _ in range(columns)] for _ in range(rows)]

    after, by_function = logits(CONTENT, FUNCTION, 1.2), logits(FUNCTION, CONTENT, 1.4)
    by_topic = logits(TOPICS, CONTENT, 1.8)
    functions = [_summed(row) for row in after]
    contents = [[_summed([a + b for a, b in zip(one, topic)]) for one in by_function] for topic in by_topic]
    return functions, contents


def _summed(logits: list[float]) -> list[float]:
    total, found = 0.0, []
    for one in logits:
        total += math.exp(one)
        found.append(total)
    return found


def text(key: str, words: int) -> bytes:
    """A byte for each word."""
    functions, contents = tables()
    draw, found = random.Random(key), bytearray()
    while len(found) < words:
        topic = draw.randrange(TOPICS)
        found.append(1 + topic * TOPIC_WORDS + draw.randrange(TOPIC_WORDS))
        word = draw.randrange(CONTENT)
        for _ in range(draw.randint(3, 5)):
            function = draw.choices(range(FUNCTION), cum_weights=functions[word])[0]
            word = draw.choices(range(CONTENT), cum_weights=contents[topic][function])[0]
            found += bytes([FIRST_FUNCTION + function, FIRST_CONTENT + word])
        found.append(STOP)
    return bytes(found[:words])


if __name__ == "__main__":
    for name, words in TEXTS.items():
        (Path(__file__).parents[1] / "workspace" / f"{name}.bin").write_bytes(text(name, words))
