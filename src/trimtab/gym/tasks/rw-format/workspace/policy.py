"""A tiny policy that writes digits after a prompt of digits, and its training by REINFORCE."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

DIGITS, STOP, MOST = 7, 10, 9
"""digits of a prompt, the token ".", and the most tokens of a completion"""
STEPS, PROMPTS, SAMPLES = 160, 4, 4
"""updates, prompts of each, and completions of each prompt"""
RATE, HIDDEN = 1e-3, 96


class DigitPolicy(nn.Module):
    """Logits of the next token from how often each digit stands in the prompt and in what was written, and the last."""

    def __init__(self):
        super().__init__()
        sizes = (10 + 10 + 11 + MOST, HIDDEN, HIDDEN, 11)
        layers = [part for pair in pairwise(sizes) for part in (nn.Linear(*pair), nn.Tanh())]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, prompts: Tensor, written: Tensor, at: int) -> Tensor:
        """[N, 11] logits of the token at this place, after [N, 7] prompts and [N, at] tokens."""
        held = torch.zeros(len(prompts), 10).scatter_add_(1, prompts, torch.ones(prompts.shape))
        past = written[:, :at].clamp(max=9)
        said = torch.zeros(len(prompts), 10).scatter_add_(1, past, (written[:, :at] < STOP).float())
        last = nn.functional.one_hot(written[:, at - 1] if at else torch.full((len(prompts),), STOP), 11)
        place = torch.zeros(len(prompts), MOST)
        place[:, at] = 1.0
        return self.layers(torch.cat([held, said, last, place], dim=1))


def start(path: Path) -> DigitPolicy:
    """The policy before training: it writes the digits of the prompt in any order, and loses or doubles some."""
    policy = DigitPolicy()
    policy.load_state_dict(load_file(path))
    return policy


def sample(policy: DigitPolicy, prompts: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """[N, 9] tokens, with "." after the end, and [N] log-probabilities of the completions."""
    written = torch.full((len(prompts), MOST), STOP)
    total, going = torch.zeros(len(prompts)), torch.ones(len(prompts), dtype=torch.bool)
    for at in range(MOST):
        logprobs = policy(prompts, written, at).log_softmax(-1)
        token = torch.multinomial(logprobs.detach().exp(), 1, generator=draw)
        written[:, at] = torch.where(going, token[:, 0], STOP)
        total = total + torch.where(going, logprobs.gather(1, token)[:, 0], 0.0)
        going = going & (written[:, at] != STOP)
    return written, total


def as_prompt(row: Tensor) -> str:
    return "".join(map(str, row.tolist()))


def as_completion(row: Tensor) -> str:
    """Such as "12345."; without the "." if it was cut off."""
    text = "".join("." if token == STOP else str(token) for token in row.tolist())
    head, stop, _ = text.partition(".")
    return head + stop


def training_prompts(draw: torch.Generator) -> Tensor:
    """[4, 7] digits. Lists whose digits add up to a multiple of 5 are kept for the score."""
    found = torch.randint(10, (8 * PROMPTS, DIGITS), generator=draw)
    return found[found.sum(1) % 5 != 0][:PROMPTS]


def reinforced(
    policy: DigitPolicy, rewards: Callable[[list[str], list[str]], list[float]], seed: int
) -> Iterator[tuple[int, float]]:
    """Train it; after each update come its number and the mean reward.

    Args:
        rewards: of prompts and completions.
    """
    draw = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(policy.parameters(), lr=RATE)
    for step in range(STEPS):
        prompts = training_prompts(draw).repeat_interleave(SAMPLES, 0)
        written, logprobs = sample(policy, prompts, draw)
        given = rewards(list(map(as_prompt, prompts)), list(map(as_completion, written)))
        reward = torch.tensor(given, dtype=torch.float64).reshape(-1, SAMPLES)
        others = (reward.sum(1, keepdim=True) - reward) / (SAMPLES - 1)
        gain = reward - others
        gain = (gain / gain.std().clamp(min=1e-8)).flatten().float()
        optimizer.zero_grad()
        (-(gain * logprobs).mean()).backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        yield step, float(reward.mean())
