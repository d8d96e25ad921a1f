"""Distil a teacher into a much smaller student: `python3 distil.py outputs/choice.json`.

The teacher is a language of 24 letters, of which each depends on the two before it. The student embeds these two, has a
hidden layer of 12 units, and is trained on letters that the teacher writes.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.objectives import divergence

LETTERS, HIDDEN, WIDTH = 24, 12, 6
BUDGET = 60_000
"""letters that the student reads in all"""
LIMITS = {"temperature": (0.1, 10.0), "learning_rate": (1e-5, 1.0), "tokens_per_update": (64, 8192)}
PARAMETERS = {
    "forward_kl": (), "reverse_kl": (), "jsd": ("beta",), "skewed_forward_kl": ("skew",),
    "skewed_reverse_kl": ("skew",), "akl": ("mu",), "todi": ("beta",), "abkl": ("alpha", "beta"),
}  # fmt: skip
"""divergence of trimtab.objectives.divergence -> its parameters"""

FIRST = {
    "divergence": "forward_kl", "parameters": {}, "temperature": 1.0, "learning_rate": 0.01, "tokens_per_update": 512,
}  # fmt: skip
"""the choice that others are compared with"""


class DivergenceChoiceError(Exception):
    """A choice that cannot be carried out."""


def checked(choice: Any) -> dict[str, Any]:
    """A choice with all that it needs, and nothing else."""
    wanted = {"divergence", "parameters", *LIMITS}
    if not isinstance(choice, dict) or set(choice) != wanted:
        raise DivergenceChoiceError(f"a choice has these keys: {', '.join(sorted(wanted))}")
    if choice["divergence"] not in list(PARAMETERS):
        raise DivergenceChoiceError(f"divergence is {choice['divergence']!r}; expected one of {', '.join(PARAMETERS)}")
    names = PARAMETERS[choice["divergence"]]
    if not isinstance(choice["parameters"], dict) or not set(choice["parameters"]) <= set(names):
        raise DivergenceChoiceError(f"parameters of {choice['divergence']} may be: {', '.join(names) or 'none'}")
    for name, value in {**choice["parameters"], **{key: choice[key] for key in LIMITS}}.items():
        low, high = LIMITS.get(name, (-10.0, 10.0))
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise DivergenceChoiceError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}")
    if not isinstance(choice["tokens_per_update"], int):
        raise DivergenceChoiceError("tokens_per_update is no whole number")
    return choice


def teacher(seed: int) -> Tensor:
    """[576, 24] log-probabilities of the next letter after each pair of letters: a few likely ones, and many rare."""
    draw = torch.Generator().manual_seed(seed)
    last, before = (torch.randn(LETTERS, LETTERS, generator=draw) * 1.6 for _ in range(2))
    both = torch.randn(LETTERS, LETTERS, LETTERS, generator=draw) * 0.8
    return (before[:, None] + last[None] + both).view(-1, LETTERS).log_softmax(-1)


def pairs_in_use(table: Tensor) -> Tensor:
    """[576] how often each pair of letters is met in what the teacher writes."""
    probabilities = table.exp().view(LETTERS, LETTERS, LETTERS)
    share = torch.full((LETTERS, LETTERS), LETTERS**-2.0)
    for _ in range(100):
        share = torch.einsum("ab,abc->bc", share, probabilities)
    return share.flatten()


class Student(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(LETTERS, WIDTH)
        self.hidden = nn.Linear(2 * WIDTH, HIDDEN)
        self.out = nn.Linear(HIDDEN, LETTERS)

    def forward(self, pairs: Tensor) -> Tensor:
        """[N] pairs of letters -> [N, 24] logits."""
        both = torch.cat([self.embed(pairs // LETTERS), self.embed(pairs % LETTERS)], dim=-1)
        return self.out(torch.tanh(self.hidden(both)))


def train(choice: Mapping[str, Any], table: Tensor, seed: int) -> Student:
    """A student that was distilled by a choice from a teacher."""
    torch.manual_seed(seed)
    student, share = Student(), pairs_in_use(table)
    loss = getattr(divergence, choice["divergence"])
    optimizer = torch.optim.Adam(student.parameters(), choice["learning_rate"])
    number, temperature = choice["tokens_per_update"], choice["temperature"]
    for _ in range(BUDGET // number):
        pairs = torch.multinomial(share, number, replacement=True)
        ours = (student(pairs) / temperature).log_softmax(-1)
        theirs = (table[pairs] / temperature).log_softmax(-1)
        optimizer.zero_grad()
        loss(ours, theirs, **choice["parameters"]).mean().backward()
        optimizer.step()
    return student


def gap(student: Student, table: Tensor) -> float:
    """Half the sum of both KLs between teacher and student, in nats a letter; a pair counts as often as it is met."""
    with torch.no_grad():
        ours = student(torch.arange(LETTERS**2)).log_softmax(-1)
        both = divergence.forward_kl(ours, table) + divergence.reverse_kl(ours, table)
        return float((pairs_in_use(table) * both).sum() / 2)


def measured(choice: Mapping[str, Any], teachers: Sequence[int], seed: int) -> tuple[float, float]:
    """The mean gap over teachers, each with a student of its own, and its share of the gap that `FIRST` leaves."""
    torch.set_num_threads(1)
    gaps, shares = [], []
    for number in teachers:
        table = teacher(number)
        found, first = (gap(train(one, table, 1000 * seed + number), table) for one in (choice, FIRST))
        gaps.append(found)
        shares.append(found / first)
    return sum(gaps) / len(gaps), sum(shares) / len(shares)


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/choice.json")
    mean, share = measured(checked(json.loads(place.read_text())), range(3), 0)
    print(f"gap: {mean:.4f} nats a letter, remaining: {share:.4f}")
