"""The training that every generator is judged by: `python3 train.py` runs outputs/generate.py, trains on its lines, and
says how many sums of numbers drawn at random are right.

Nothing here can be changed: the evaluation has its own copy.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

LETTERS = "\n 0123456789+=,;:.-|abcdefghijklmnopqrstuvwxyz"
LONGEST = 40
"""letters of a line"""
STEPS, BATCH, RATE = 180, 96, 4e-3
WIDTH, HEADS, LAYERS = 64, 4, 2


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.before, self.between = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.mixed, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, _ = x.shape
        parts = self.mixed(self.before(x)).view(rows, length, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, WIDTH))
        return x + self.down(functional.relu(self.up(self.between(x))))


class LetterModel(nn.Module):
    """A transformer of 0.1 million weights that predicts the next letter."""

    def __init__(self) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(len(LETTERS), WIDTH), nn.Embedding(LONGEST + 1, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.end, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, len(LETTERS))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.end(self.blocks(self.letters(x) + self.places.weight[: x.shape[1]])))


def coded(lines: list[str]) -> Tensor:
    """[lines, letters], filled up with ends of line."""
    longest = max(len(line) for line in lines) + 1
    return torch.tensor([[LETTERS.index(letter) for letter in line.ljust(longest, "\n")] for line in lines])


def trained(lines: list[str], seed: int) -> LetterModel:
    """A model that has learnt what follows the first `=` of lines picked at random, up to their end."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    model, codes = LetterModel(), coded(lines)
    after, ends = (codes == LETTERS.index("=")).cumsum(1) > 0, (codes == 0).cumsum(1) <= 1
    counted = (after[:, :-1] & ends[:, 1:]).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01, betas=(0.9, 0.98))
    plan = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS, pct_start=0.1)
    for _ in range(STEPS):
        picked = torch.randint(len(lines), (BATCH,))
        scores, wanted, weights = model(codes[picked, :-1]), codes[picked, 1:], counted[picked]
        losses = functional.cross_entropy(scores.transpose(1, 2), wanted, reduction="none")
        loss = (losses * weights).sum() / weights.sum().clamp(min=1)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        plan.step()
    return model


@torch.no_grad()
def completed(model: LetterModel, prompts: list[str]) -> list[str]:
    """What the model writes after prompts of one length, always the most probable letter, up to the end of the line."""
    codes = coded(prompts)[:, :-1]
    length = codes.shape[1]
    while codes.shape[1] < LONGEST and not (codes[:, length:] == 0).any(1).all():
        codes = torch.cat([codes, model(codes)[:, -1:].argmax(2)], 1)
    return ["".join(LETTERS[code] for code in row).partition("\n")[0] for row in codes[:, length:].tolist()]


def question(pair: tuple[int, int]) -> str:
    return f"{pair[0]}+{pair[1]}="


def answer(text: str, ones_first: bool) -> int | None:
    """The number that a completion says: the digits after its last `=`, or all of them."""
    digits = "".join(letter for letter in text.rpartition("=")[2] if letter.isdigit())
    return int(digits[::-1] if ones_first else digits) if digits else None


def exact_match(model: LetterModel, pairs: list[tuple[int, int]], ones_first: bool) -> float:
    said = completed(model, [question(pair) for pair in pairs])
    return sum(answer(text, ones_first) == sum(pair) for text, pair in zip(said, pairs)) / len(pairs)


def drawn(count: int, seed: int | str) -> list[tuple[int, int]]:
    """Pairs of numbers of three digits."""
    rng = random.Random(seed)
    return [(rng.randrange(100, 1000), rng.randrange(100, 1000)) for _ in range(count)]


if __name__ == "__main__":
    seed = os.environ.get("SEED", "0")
    subprocess.run([sys.executable, "outputs/generate.py", seed], check=True)
    ones_first = json.loads(Path("outputs/format.json").read_text())["ones_first"]
    model = trained(Path("lines.txt").read_text().splitlines(), int(seed))
    print(f"exact match {exact_match(model, drawn(500, 'practice'), ones_first):.3f}")
