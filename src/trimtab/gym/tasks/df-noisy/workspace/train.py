"""The training that every choice of lines is judged by: `python3 train.py outputs/kept.txt` says its bits per byte.

Nothing here can be changed: the evaluation has its own copy.
"""

import math
import os
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

SEEN, WIDTH, HIDDEN = 16, 16, 192
STEPS, BATCH, RATE = 600, 1024, 4e-3


class ByteModel(nn.Sequential):
    """A network that predicts a byte from the 16 before it."""

    def __init__(self) -> None:
        super().__init__(
            nn.Embedding(128, WIDTH), nn.Flatten(), nn.Linear(SEEN * WIDTH, HIDDEN), nn.GELU(),
            nn.Linear(HIDDEN, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, 128),
        )  # fmt: skip


def windows(lines: list[str]) -> tuple[Tensor, Tensor]:
    """[bytes, 16] what comes before each byte, and [bytes] that byte."""
    text = "\n" * SEEN + "".join(f"{line}\n" for line in lines)
    codes = torch.tensor([min(ord(letter), 127) for letter in text])
    return codes.unfold(0, SEEN, 1)[:-1], codes[SEEN:]


def trained(lines: list[str], seed: int) -> ByteModel:
    """A model that has read bytes of these lines, picked at random. The number of steps is always the same."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, (before, wanted) = ByteModel(), windows(sorted(lines))
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        picked = torch.randint(len(wanted), (BATCH,))
        loss = functional.cross_entropy(model(before[picked]), wanted[picked])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        plan.step()
    return model


@torch.no_grad()
def bits_per_byte(model: ByteModel, lines: list[str]) -> float:
    before, wanted = windows(lines)
    return functional.cross_entropy(model(before), wanted).item() / math.log(2)


if __name__ == "__main__":
    corpus, dev = (Path(f"data/{name}.txt").read_text().splitlines() for name in ("corpus", "dev"))
    kept = [corpus[int(number)] for number in Path(sys.argv[1]).read_text().split()]
    print(f"{bits_per_byte(trained(kept, int(os.environ.get('SEED', '0'))), dev):.4f} bits per byte on data/dev.txt")
