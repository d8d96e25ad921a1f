"""Where LCO's loss is convex in the logits, and how near its target is to that over all tokens (arXiv:2603.00963).

    python tests/claims/lco_convexity.py --out benchmarks/results/claims_lco_convexity.json

At places with 400 tokens the policy that wrote is drawn at random, peaked so that its five likeliest tokens have most
of the probability. What each setting of `lco` learns there is held against the paper's statement, a loss over all
tokens:

- violation: the largest amount over all draws by which the loss half way between two random points lies above the mean
  of its values at both (of each token alone), and the share of places where it does so by more than 1e-3;
- away: half the sum of absolute differences between its gradient at the logits (the policy less the target) and that of
  the loss over all tokens, at the policy that wrote and one that has moved; candidates' scores are in the same unit;
- idle: the size of the gradient at the policy that wrote where no token has an advantage, where it should be 0.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import toys
from torch import Tensor

from trimtab.core import Candidates, TokenBatch
from trimtab.methods.lco import LCO, over_std

SPARSE = {"5 candidates": (5, True), "5 candidates, others removed": (5, False), "all tokens": (0, True)}


@dataclass(frozen=True)
class Settings:
    vocab: int = 400
    places: int = 100
    draws: int = 30
    """of two points, at each place"""
    sharpness: float = 3.0
    """standard deviation of the logits of the policy that wrote"""
    distance: float = 3.0
    """of the points, around that policy"""
    beta: float = 2.0


@dataclass(frozen=True)
class Place:
    """What is known at some places of answers."""

    old: Tensor
    """[N, V] logits of the policy that wrote"""
    drawn: Tensor
    """[N]"""
    scores: Tensor
    """[N, V] log-probabilities of a verifier"""


def place(settings: Settings) -> Place:
    old = settings.sharpness * torch.randn(settings.places, settings.vocab)
    drawn = torch.multinomial(old.softmax(-1), 1)[:, 0]
    return Place(old, drawn, (0.7 * old + 1.5 * torch.randn_like(old)).log_softmax(-1))


def learnt(at: Place, settings: Settings, k: int, keep: bool, dense: bool, loss: Any = "kld", advantage: float = 1.0):
    """logits [N, V] -> [N] values of LCO with k candidates (0: all tokens), of which the drawn one has `advantage`, or
    where `dense` each the verifier's score in units of the five likeliest."""
    log_p = at.old.log_softmax(-1)
    order = log_p.scatter(1, at.drawn[:, None], torch.inf).argsort(dim=1, descending=True)
    ids = order[:, : k or settings.vocab]
    advantages = torch.zeros(ids.shape)
    if dense:
        five = at.scores.gather(1, order[:, :5])
        unit = five.std(dim=1, keepdim=True)
        advantages = (at.scores.gather(1, ids) - five.mean(dim=1, keepdim=True)) / unit
        if k:
            torch.testing.assert_close(advantages[:, :5], over_std(five), rtol=1e-4, atol=1e-4)
    else:
        advantages[:, 0] = advantage
    beta = settings.beta if advantage >= 0 or dense else 100 * settings.beta
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[:, 1:] = dense or loss == "kld"
    held = Candidates(ids, log_p.gather(1, ids), advantages, mask)
    objective = LCO(loss, "old", keep=keep)
    labels = torch.cat([torch.full((len(ids), 1), -100), at.drawn[:, None]], dim=1)
    batch = TokenBatch.from_labels(labels, {
        "candidates": held, "beta": torch.full((len(ids),), beta), "normaliser": at.old.logsumexp(-1)
    })  # fmt: skip
    return lambda logits: objective(batch.with_signals(policy=logits)).values


def violation(values: Callable[[Tensor], Tensor], at: Place, settings: Settings) -> dict[str, float]:
    largest, bad = torch.zeros(len(at.old)), torch.zeros(len(at.old), dtype=torch.bool)
    for _ in range(settings.draws):
        one, other = (at.old + settings.distance * torch.randn_like(at.old) for _ in range(2))
        above = values((one + other) / 2) - (values(one) + values(other)) / 2
        largest, bad = torch.maximum(largest, above), bad | (above > 1e-3)
    return {"violation": largest.max().item(), "share": bad.float().mean().item()}


def gradient(values: Callable[[Tensor], Tensor], logits: Tensor) -> Tensor:
    leaf = logits.clone().requires_grad_()
    return torch.autograd.grad(values(leaf).sum(), leaf)[0]


def run_seed(seed: int, settings: Settings) -> dict[str, toys.Measures]:
    at, rows = place(settings), {}
    moved = at.old + 0.5 * torch.randn_like(at.old)
    for name, dense, advantage in (("sparse, +1", False, 1.0), ("sparse, -1", False, -1.0), ("dense", True, 1.0)):
        exact = learnt(at, settings, 0, True, dense, advantage=advantage)
        for which, (k, keep) in SPARSE.items():
            values = learnt(at, settings, k, keep, dense, advantage=advantage)
            away = [(gradient(values, z) - gradient(exact, z)).abs().sum(1).mean().item() / 2 for z in (at.old, moved)]
            nothing = learnt(at, settings, k, keep, False, advantage=0.0)
            rows[f"{name}, {which}"] = violation(values, at, settings) | {
                "away": away[0], "away, moved": away[1], "idle": gradient(nothing, at.old).abs().sum(1).mean().item()
            }  # fmt: skip
    for loss in ("mse", "logcosh"):
        rows[loss] = violation(learnt(at, settings, 5, True, False, loss), at, settings)
    return rows


EXPERIMENT = toys.Experiment("lco_convexity", run_seed, Settings(), str(__doc__))

if __name__ == "__main__":
    sys.exit(toys.main(EXPERIMENT, seeds=5))
