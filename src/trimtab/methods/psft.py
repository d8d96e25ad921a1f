"""PSFT: fine-tune on demonstrations, moving each token no further than PPO's clip allows."""

from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from trimtab.core import Losses, Method, MethodConfig, Objective, Plan, Reduction, Requirements, TokenBatch
from trimtab.objectives.policy_gradient import ratios
from trimtab.signals.snapshot import PolicySnapshot


class Config(MethodConfig):
    epsilon: float | None = Field(0.28, gt=0)
    """Upper clip: above a ratio of 1 + epsilon to the snapshot a token has no gradient; null: no clip (unstable)."""
    refresh: int | None = Field(8, ge=1)
    """Updates between two snapshots (K); null: always the initial policy. With 1, and one inner epoch, this is SFT."""
    inner_epochs: int = Field(1, ge=1)
    """Passes over the rows of a window of `refresh` updates before the next window."""
    loss_agg: Literal["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"] = "token-mean"
    """Average over all tokens, or over rows, each counting as the sum or the mean of its tokens."""
    warmup_sft_steps: int = Field(0, ge=0)
    """Updates of plain SFT before the first snapshot: a better fit in domain, but further from the initial policy out
    of domain."""

    @model_validator(mode="after")
    def _nothing_idle(self) -> "Config":
        several = self.refresh is None or self.refresh * self.inner_epochs > 1
        self.only(several, "several updates from one snapshot (refresh or inner_epochs above 1)", "epsilon",
                  "warmup_sft_steps")  # fmt: skip
        return self

    @model_validator(mode="after")
    def _whole_windows(self) -> "Config":
        updates = (self.refresh or 1) * self.inner_epochs
        if self.inner_epochs > 1 and self.warmup_sft_steps % updates:
            raise ValueError(
                f"warmup_sft_steps is {self.warmup_sft_steps}, and a window takes {updates} updates (refresh times "
                f"inner_epochs): its rows would be split between SFT and PSFT; make it a multiple of {updates}"
            )
        return self


REDUCTIONS: dict[str, Reduction] = {
    "token-mean": "token_mean",
    "seq-mean-token-sum": "sequence_sum",
    "seq-mean-token-mean": "sequence_mean",
}
"""The authors' names -> ours."""


def psft_values(logprobs: Tensor, snapshot_logprobs: Tensor, epsilon: float | None) -> Tensor:
    """-min(r, 1 + epsilon), with r = pi(y) / pi_snapshot(y): PPO's surrogate with an advantage of 1.

    Args:
        logprobs: [N] nats, of the answer tokens; with gradient.
        snapshot_logprobs: [N], constants.
        epsilon: None for no clip.

    Returns:
        [N] in [-(1 + epsilon), 0). The gradient at logprobs is -r, and 0 above 1 + epsilon. Log-ratios are
        clamped to +-20.
    """
    ratio = ratios(logprobs, snapshot_logprobs)
    return -ratio if epsilon is None else -ratio.clamp(max=1 + epsilon)


class PSFT(Objective):
    """loss = -min(r_t, 1 + epsilon); before the update `first`, that of SFT, -log pi(y_t)"""

    needs = frozenset({"snapshot"})
    ratio = "snapshot"

    def __init__(self, epsilon: float | None, first: int = 0):
        self.epsilon, self.first = epsilon, first
        self.clipped = torch.zeros(0, dtype=torch.long)
        """[V] how often each id was clipped in training"""

    def __call__(self, batch: TokenBatch) -> Losses:
        logprobs = batch.logprobs()
        # a snapshot as old as the policy is not given: it is the policy
        snapshot = batch.logprobs(of="snapshot") if "snapshot" in batch.signals else logprobs.detach()
        values = psft_values(logprobs, snapshot, self.epsilon) if batch.step >= self.first else -logprobs
        ratio = ratios(logprobs.detach(), snapshot)
        limit = float("inf") if self.epsilon is None else 1 + self.epsilon
        clipped = ratio > limit
        if torch.is_grad_enabled():
            self._remember(batch.targets[clipped], batch.vocab_size)
        return batch.losses(
            values, nll=-logprobs, ratio=ratio, log_ratio=logprobs - snapshot, clip_fraction=clipped.float()
        )

    def _remember(self, ids: Tensor, vocab_size: int) -> None:
        counts = torch.bincount(ids, minlength=vocab_size)
        self.clipped = counts if not len(self.clipped) else self.clipped.to(counts.device).add_(counts)

    def state_dict(self) -> dict[str, Tensor]:
        return {"clipped": self.clipped}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.clipped = state["clipped"]

    def tables(self, decode: Any) -> dict[str, list[dict[str, Any]]]:
        """The most frequently clipped tokens, for the report; `decode` turns ids into text."""
        most = self.clipped.topk(min(20, len(self.clipped)))
        rows = [(i, n) for i, n in zip(most.indices.tolist(), most.values.tolist()) if n]
        return {"Tokens clipped most": [{"token": repr(decode([i])), "times": n} for i, n in rows]}


def window(config: Config) -> tuple[int, int] | None:
    """Updates whose rows are repeated, and how often; None for a single pass."""
    return (config.refresh or 1, config.inner_epochs) if config.inner_epochs > 1 else None


def build(config: Config, policy: nn.Module) -> Plan:
    updates = None if config.refresh is None else config.refresh * config.inner_epochs
    snapshot = PolicySnapshot(updates, config.warmup_sft_steps)
    return Plan(
        PSFT(config.epsilon, config.warmup_sft_steps), signals=(snapshot,), reduction=REDUCTIONS[config.loss_agg]
    )


METHOD = Method(
    paper="arXiv:2508.17784",
    claim="Fine-tuning keeps entropy and general abilities, because no token moves further than the clip allows.",
    equation="L_t = -min(r_t, 1 + epsilon),  r = pi(y) / pi_snapshot(y)",
    config=Config,
    build=build,
    requires=lambda config: Requirements(window=window(config)),
)
