"""A teacher that counts, a student that is trained, and the distillation of one into the other."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

WORDS, WINDOW = 256, 12
"""words of the language, and how many of the last the student sees"""
STEPS, TOKENS, RATE = 110, 512, 3e-3
"""updates, and tokens of each: the student sees every one once"""
CONTEXTS = 12_000
"""pairs of words that the teacher keeps a row for: 3 million numbers"""


class CountingTeacher:
    """Chances of a word after the last two, from counts of a text, each level mixed with the one below."""

    def __init__(self, text: Tensor):
        one = torch.bincount(text, minlength=WORDS).float() + 1.0
        self.single = one / one.sum()
        pairs = torch.bincount(text[:-1] * WORDS + text[1:], minlength=WORDS**2).reshape(WORDS, WORDS).float()
        self.after = (pairs + 8.0 * self.single) / (pairs.sum(1, keepdim=True) + 8.0)
        contexts = text[:-2] * WORDS + text[1:-1]
        kept = torch.bincount(contexts, minlength=WORDS**2).topk(CONTEXTS).indices
        self.row = torch.full((WORDS**2,), -1)
        self.row[kept] = torch.arange(CONTEXTS)
        rows = self.row[contexts]
        places = (rows * WORDS + text[2:])[rows >= 0]
        counts = torch.bincount(places, minlength=CONTEXTS * WORDS).reshape(CONTEXTS, WORDS).float()
        below = self.after[kept % WORDS]
        self.table = (counts + 16.0 * below) / (counts.sum(1, keepdim=True) + 16.0)

    def logits(self, windows: Tensor) -> Tensor:
        """[N, 256] log-probabilities after [N, 12] words."""
        rows = self.row[windows[:, -2] * WORDS + windows[:, -1]]
        chances = torch.where(rows[:, None] >= 0, self.table[rows.clamp(min=0)], self.after[windows[:, -1]])
        return chances.log()


class WindowStudent(nn.Module):
    """Logits of the next word from the last twelve: 0.28 million weights."""

    def __init__(self):
        super().__init__()
        self.embedded = nn.Embedding(WORDS, 64)
        self.hidden = nn.Linear(WINDOW * 64, 256)
        self.out = nn.Linear(256, WORDS)

    def forward(self, windows: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(self.embedded(windows).flatten(1))))


def read(path: Path) -> Tensor:
    return torch.tensor(list(path.read_bytes()))


def examples(text: Tensor) -> tuple[Tensor, Tensor]:
    """[N, 12] words and [N] words that follow."""
    windows = text.unfold(0, WINDOW + 1, 1)
    return windows[:, :-1], windows[:, -1]


def distilled(
    teacher: CountingTeacher, text: Tensor, gradient: Callable[[Tensor, Tensor, Tensor, int], Tensor], seed: int
) -> WindowStudent:
    """A student that was trained on a text once.

    Args:
        gradient: of the loss by the student's logits, from [512, 256] logits of the student and of the teacher, [512]
            targets and the number of the update. Tokens come in no order.
    """
    torch.manual_seed(seed)
    student = WindowStudent()
    windows, targets = examples(text)
    order = torch.randperm(len(windows))
    optimizer = torch.optim.Adam(student.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.1, STEPS)
    for step in range(STEPS):
        rows = order[step * TOKENS : (step + 1) * TOKENS]
        logits = student(windows[rows])
        optimizer.zero_grad()
        logits.backward(gradient(logits.detach(), teacher.logits(windows[rows]), targets[rows], step))
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return student


@torch.no_grad()
def loss_of(model: Callable[[Tensor], Tensor], text: Tensor) -> float:
    """Mean negative log-likelihood of a text's words, in nats."""
    parts = zip(*(part.split(10_000) for part in examples(text)))
    losses = [nn.functional.cross_entropy(model(windows), targets, reduction="none") for windows, targets in parts]
    return torch.cat(losses).mean().item()
