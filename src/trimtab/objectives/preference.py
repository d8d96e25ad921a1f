"""Preferences between two answers to the same prompt: rows 2i are chosen, 2i+1 rejected."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from trimtab.core import Losses, Objective, Plan, Signal, TokenBatch


def paired(batch: TokenBatch) -> bool:
    """Whether the rows are pairs of answers, none of them empty; a pair of two empty ones, which fills a batch of
    several processes, has no weight."""
    answered = batch.lengths > 0
    return len(answered) % 2 == 0 and bool((answered[0::2] == answered[1::2]).all())


def dpo_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """[P] -log sigma(beta (chosen - rejected)), the sigmoid loss of DPO (arXiv:2305.18290).

    Args:
        chosen, rejected: [P] log-ratios of whole answers, sum_t log pi(y_t) - log pi_ref(y_t), in nats.
    """
    return -F.logsigmoid(beta * (chosen - rejected))


class DPO(Objective):
    """loss = -log sigma(beta ((log pi(y_w) - log pi_ref(y_w)) - (log pi(y_l) - log pi_ref(y_l))))

    Both sequences of a pair carry the pair's loss, so the mean over sequences is the mean over pairs.
    """

    needs = frozenset({"reference"})
    per, ratio = "sequence", "reference"

    def __init__(self, beta: float):
        self.beta = beta

    def ratios(self, batch: TokenBatch) -> tuple[Tensor, Tensor]:
        """[P] each: log-ratios of whole chosen and rejected answers to the reference, in nats."""
        ratios = batch.row_sum(batch.logprobs() - batch.logprobs(of="reference"))  # [R]
        if not paired(batch):
            raise ValueError("DPO needs pairs of a chosen and a rejected answer, neither of them empty")
        return ratios[0::2], ratios[1::2]

    def preferences(self, batch: TokenBatch) -> dict[str, Tensor]:
        """[P] each: whether the chosen answer has the higher implicit reward (ties count half), and by how much."""
        chosen, rejected = self.ratios(batch)
        accuracy = (chosen > rejected).float() + 0.5 * (chosen == rejected).float()
        return {"preference_accuracy": accuracy, "preference_margin": self.beta * (chosen - rejected)}

    def __call__(self, batch: TokenBatch) -> Losses:
        chosen, rejected = self.ratios(batch)
        loss = dpo_loss(chosen, rejected, self.beta)
        kept = batch.lengths[0::2] > 0
        chosen, rejected = chosen[kept], rejected[kept]
        return batch.losses(
            loss.repeat_interleave(2),
            accuracy=(chosen > rejected).float(),
            margin=self.beta * (chosen - rejected),
            reward_chosen=self.beta * chosen,
            reward_rejected=self.beta * rejected,
            nll=-batch.logprobs()[batch.row % 2 == 0],
        )


def dpo_plan(config: Any, policy: Any, reference: Signal) -> Plan:
    """DPO with the `beta` of a method's config, as `Method.build`."""
    return Plan(DPO(config.beta), signals=(reference,), reduction="sequence_mean")
