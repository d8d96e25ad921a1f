"""Align a proxy with a teacher: DPO in rounds, the teacher's text against a sampled answer, and likelihood."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from trimtab.core import Losses, Method, MethodConfig, Plan, Reference, Requirements, Sampler, TokenBatch
from trimtab.objectives.preference import DPO, dpo_loss
from trimtab.signals.snapshot import PolicySnapshot


class Config(MethodConfig):
    beta: float = Field(0.1, gt=0)
    """Strength of the pull towards the reference; smaller values let the policy move further."""
    nll_coef: float = Field(1.0, ge=0)
    """Weight of the negative log-likelihood of the teacher's texts, a mean over their tokens."""
    round_updates: int = Field(50, ge=1)
    """Updates of a round; the policy at its beginning samples the rejected answers."""
    reference: Literal["previous", "initial"] = "previous"
    """Reference of DPO: the policy at the beginning of the round (paper), or before training (the authors' code)."""
    temperature: float = Field(1.0, gt=0)
    """Sampling temperature of the rejected answers."""
    max_new_tokens: int = Field(256, ge=1)
    """Longest rejected answer, in tokens."""


class RoundStart(PolicySnapshot, Sampler):
    """The policy at the beginning of the round: it samples, and is the reference if `config.reference` is "previous".

    Args:
        config: for `round_updates`, `temperature` and `max_new_tokens`.
    """

    def __init__(self, config: Config):
        super().__init__(config.round_updates)
        self.temperature, self.max_new_tokens = config.temperature, config.max_new_tokens
        self.is_reference = config.reference == "previous"
        self.provides = frozenset({self.name} if self.is_reference else ())

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        return super().__call__(policy, inputs) if self.is_reference else {}

    @contextmanager
    def as_it_was(self, policy: nn.Module) -> Iterator[None]:
        if self.fresh or not self._pairs:
            yield
            return
        self._exchange()
        try:
            yield
        finally:
            self._exchange()


class Align(DPO):
    """loss = mean over pairs of -log sigma(beta rho) + nll_coef * mean over tokens of -log pi(y_c), with
    rho = [log pi(y_c) - log pi_ref(y_c)] - [log pi(y_r) - log pi_ref(y_r)]

    The chosen answer y_c is the teacher's text, the rejected one y_r was sampled. A pair with an empty answer has no
    loss; one that is left out has two.
    """

    per = "preference"

    def __init__(self, beta: float = 0.1, nll_coef: float = 1.0, reference: str = "snapshot"):
        super().__init__(beta)
        self.nll_coef, self.ratio, self.needs = nll_coef, reference, frozenset({reference})

    def ratios(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        logprobs, name = batch.logprobs(), str(self.ratio)
        # a snapshot as old as the policy is not given: it is the policy
        reference = batch.logprobs(of=name) if name in batch.signals else logprobs.detach()
        ratios = batch.row_sum(logprobs - reference)  # [R]
        return ratios[0::2], ratios[1::2]

    def __call__(self, batch: TokenBatch) -> Losses:
        chosen, rejected = self.ratios(batch)
        whole = (batch.lengths[0::2] > 0) & (batch.lengths[1::2] > 0)  # [P]
        loss = dpo_loss(chosen, rejected, self.beta) * whole
        nll = -batch.logprobs()
        values = torch.cat([loss.repeat_interleave(2), self.nll_coef * nll])
        margin = self.beta * (chosen - rejected)[whole]
        return batch.losses(
            values, dpo=loss[whole], accuracy=(margin > 0).float(), margin=margin, nll=nll[batch.row % 2 == 0]
        )


def build(config: Config, policy: nn.Module, reference: Any = None) -> Plan:
    start = RoundStart(config)
    name = "snapshot" if reference is None else "reference"
    return Plan(
        Align(config.beta, config.nll_coef, name),
        signals=[start] if reference is None else [start, reference],
        reduction="preference_mean",
        rejected=start,
    )


def requires(config: Config) -> Requirements:
    return Requirements(rows="sampled_pairs", models=(Reference(),) if config.reference == "initial" else ())


METHOD = Method(
    paper="arXiv:2401.07013",
    claim="A proxy that prefers a teacher's texts to its own answers comes closer to it than by likelihood alone.",
    equation="L = -log sigma(beta (sum_t log pi/pi_ref(teacher) - sum_t log pi/pi_ref(sampled))) "
    "- nll_coef log pi(y_t)",
    config=Config,
    build=build,
    requires=requires,
)
