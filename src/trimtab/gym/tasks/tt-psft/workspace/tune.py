"""Fine-tune a small policy by PSFT, and see what it forgets: `python3 tune.py outputs/choice.json`.

The policy writes a language of 16 letters, of which each depends on the two before it. It is tuned on demonstrations of
another language, which begin with a few pairs of letters only and are wrong at one letter of four.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.methods.psft import psft_values
from trimtab.objectives.divergence import forward_kl

LETTERS, WIDTH, HIDDEN = 16, 8, 32
BATCH, BATCHES, WRONG = 16, 48, 0.25
"""demonstrations of an update, batches of demonstrations, share of wrong letters"""
INNER_EPOCHS, LEARNING_RATE = 6, 0.01
NEW = 40
"""pairs of letters of the new language"""
LIMITS = {"epsilon": (0.001, 1000.0), "refresh": (1, BATCHES)}


class WindowError(Exception):
    """A choice that cannot be carried out."""


def checked(choice: Any) -> dict[str, Any]:
    """A choice with all that it needs, and nothing else."""
    if not isinstance(choice, dict) or set(choice) != set(LIMITS):
        raise WindowError(f"a choice has these keys: {', '.join(LIMITS)}")
    for name, (low, high) in LIMITS.items():
        value = choice[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise WindowError(f"{name} is {value!r}; expected a number from {low:g} to {high:g}")
    if not isinstance(choice["refresh"], int):
        raise WindowError("refresh is no whole number")
    return choice


def language(seed: int) -> Tensor:
    """[256, 16] log-probabilities of the next letter after each pair of letters."""
    draw = torch.Generator().manual_seed(seed)
    last, before = (torch.randn(LETTERS, LETTERS, generator=draw) * 1.5 for _ in range(2))
    both = torch.randn(LETTERS, LETTERS, LETTERS, generator=draw)
    return (before[:, None] + last[None] + both).view(-1, LETTERS).log_softmax(-1)


class Policy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(LETTERS, WIDTH)
        self.hidden = nn.Linear(2 * WIDTH, HIDDEN)
        self.out = nn.Linear(HIDDEN, LETTERS)

    def forward(self, pairs: Tensor) -> Tensor:
        """[N] pairs of letters -> [N, 16] log-probabilities."""
        both = torch.cat([self.embed(pairs // LETTERS), self.embed(pairs % LETTERS)], dim=-1)
        return self.out(torch.tanh(self.hidden(both))).log_softmax(-1)


class Setting:
    """An old language with a policy that writes it, and a new one with the pairs that it begins with."""

    def __init__(self, number: int):
        draw = torch.Generator().manual_seed(number)
        self.old, self.new = language(2 * number), language(2 * number + 1)
        order = torch.randperm(LETTERS**2, generator=draw)
        self.new_pairs, self.old_pairs = order[:NEW], order[NEW:]
        torch.manual_seed(number)
        self.policy = Policy()
        optimizer = torch.optim.Adam(self.policy.parameters(), 0.02)
        for _ in range(300):
            optimizer.zero_grad()
            forward_kl(self.policy(torch.arange(LETTERS**2)), self.old).mean().backward()
            optimizer.step()

    def demonstrations(self, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pairs of letters, and the letter that follows each; some are wrong."""
        pairs = self.new_pairs[torch.randint(NEW, (BATCH,), generator=draw)]
        letters = torch.multinomial(self.new[pairs].exp(), 1, generator=draw)[:, 0]
        wrong = torch.rand(BATCH, generator=draw) < WRONG
        return pairs, torch.where(wrong, torch.randint(LETTERS, (BATCH,), generator=draw), letters)

    def loss(self, policy: Policy) -> tuple[float, float]:
        """KL(language || policy), in nats a letter, of the new and of the old one."""
        with torch.no_grad():
            return tuple(
                float(forward_kl(policy(pairs), language[pairs]).mean())
                for pairs, language in ((self.new_pairs, self.new), (self.old_pairs, self.old))
            )  # type: ignore[return-value]


@cache
def setting(number: int) -> Setting:
    return Setting(number)


def tuned(choice: Mapping[str, Any], given: Setting, seed: int) -> Policy:
    """The policy after PSFT by a choice."""
    draw = torch.Generator().manual_seed(seed)
    policy, snapshot = Policy(), Policy()
    policy.load_state_dict(given.policy.state_dict())
    optimizer = torch.optim.Adam(policy.parameters(), LEARNING_RATE)
    updates = BATCHES * INNER_EPOCHS
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda update: 1 - update / updates)
    for window in range(0, BATCHES, choice["refresh"]):
        batches = [given.demonstrations(draw) for _ in range(min(choice["refresh"], BATCHES - window))]
        snapshot.load_state_dict(policy.state_dict())
        for pairs, letters in batches * INNER_EPOCHS:
            ours = policy(pairs).gather(1, letters[:, None])[:, 0]
            with torch.no_grad():
                before = snapshot(pairs).gather(1, letters[:, None])[:, 0]
            optimizer.zero_grad()
            psft_values(ours, before, choice["epsilon"]).mean().backward()
            optimizer.step()
            schedule.step()
    return policy


def measured(choice: Mapping[str, Any], settings: Sequence[int], seed: int) -> dict[str, float]:
    """Means over settings, in nats: what is left to learn of the new language, what was lost of the old one, and their
    sum."""
    torch.set_num_threads(1)
    left, lost = [], []
    for number in settings:
        given = setting(number)
        (_, before), (new, old) = given.loss(given.policy), given.loss(tuned(choice, given, 1000 * seed + number))
        left.append(new)
        lost.append(old - before)
    means = {"left": sum(left) / len(left), "lost": sum(lost) / len(lost)}
    return means | {"regret": sum(means.values())}


if __name__ == "__main__":
    place = Path(sys.argv[1] if len(sys.argv) > 1 else "outputs/choice.json")
    means = measured(checked(json.loads(place.read_text())), range(4), 0)
    print("left to learn: {left:.4f} nats, lost: {lost:.4f} nats, regret: {regret:.4f}".format(**means))
