"""The training that every set of sentences is judged by: `python3 train.py TRAIN.tsv TEST.tsv` says the macro-F1.

Nothing here can be changed: the evaluation has its own copy.
"""

import os
import re
import sys
import zlib
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

INTENTS = (
    "alarm_cancel", "alarm_set", "message_read", "message_send", "music_play", "music_stop", "table_book",
    "table_cancel", "timer_set", "weather",
)  # fmt: skip
BUCKETS, WIDTH, STEPS, BATCH, RATE, MODELS = 4096, 32, 300, 64, 0.01, 6

Rows = list[tuple[str, str]]
"""intent and sentence"""


def read(path: Path) -> Rows:
    return [tuple(line.split("\t")) for line in path.read_text(encoding="utf-8").splitlines()]


def hashed(text: str) -> list[int]:
    """The words of a sentence and its pairs of words, as numbers below 4,096."""
    words = ["<", *re.findall(r"[\w'-]+", text.lower()), ">"]
    parts = [*words, *(f"{one} {other}" for one, other in pairwise(words))]
    return [zlib.crc32(part.encode()) % BUCKETS for part in parts]


def coded(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """[rows, longest] numbers of words, [rows, longest] weights that add up to 1 in a row, and [rows] intents."""
    parts = [torch.tensor(hashed(text)) for _, text in rows]
    numbers = nn.utils.rnn.pad_sequence(parts, batch_first=True)
    weights = nn.utils.rnn.pad_sequence([torch.full((len(one),), 1 / len(one)) for one in parts], batch_first=True)
    return numbers, weights, torch.tensor([INTENTS.index(intent) for intent, _ in rows])


class Classifier(nn.Module):
    """A mean of embeddings of words and pairs, and a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(BUCKETS, WIDTH, mode="sum")
        self.head = nn.Linear(WIDTH, len(INTENTS))

    def forward(self, numbers: Tensor, weights: Tensor) -> Tensor:
        return self.head(torch.tanh(self.words(numbers, per_sample_weights=weights)))


def trained(rows: Rows, seed: int) -> list[Classifier]:
    """Six classifiers. The number of steps is the same whatever the rows are."""
    torch.set_num_threads(1)
    numbers, weights, intents = coded(rows)
    models = []
    for one in range(MODELS):
        torch.manual_seed(MODELS * seed + one)
        model = Classifier()
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
        for _ in range(STEPS):
            picked = torch.randint(len(rows), (BATCH,))
            loss = functional.cross_entropy(model(numbers[picked], weights[picked]), intents[picked])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        models.append(model)
    return models


@torch.no_grad()
def macro_f1(models: list[Classifier], rows: Rows) -> float:
    """F1 of each intent, averaged; then the mean over the classifiers."""
    numbers, weights, intents = coded(rows)
    found = []
    for model in models:
        said = model(numbers, weights).argmax(1)
        for intent in range(len(INTENTS)):
            right = ((said == intent) & (intents == intent)).sum().item()
            found.append(2 * right / max(1, ((said == intent).sum() + (intents == intent).sum()).item()))
    return sum(found) / len(found)


if __name__ == "__main__":
    rows, test = (read(Path(name)) for name in sys.argv[1:3])
    print(f"macro-F1 {macro_f1(trained(rows, int(os.environ.get('SEED', '0'))), test):.3f} on {sys.argv[2]}")
