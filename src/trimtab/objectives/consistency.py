"""The same answer after two rationales: how far apart the two distributions are that predict it (MCC-KD)."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from trimtab.core import Losses, Objective, TokenBatch
from trimtab.core.batch import COMPARED

Direction = Literal["both", "from_first"]
TemperatureOn = Literal["both", "target"]


def _log_probabilities(logits: Tensor, temperature: float, smoothing_eps: float | None) -> Tensor:
    """[M, V] nats of p = softmax(logits / temperature), or smoothed: (p + eps) / (sum_v (p_v + eps) + eps)."""
    logits = (logits if logits.dtype == torch.float64 else logits.float()) / temperature
    if smoothing_eps is None:
        return logits.log_softmax(dim=-1)
    raised = logits.softmax(dim=-1) + smoothing_eps
    return (raised / (raised.sum(dim=-1, keepdim=True) + smoothing_eps)).log()


def consistency(
    first_logits: Tensor, second_logits: Tensor, *, temperature: float = 1.0, smoothing_eps: float | None = None,
    temperature_on: TemperatureOn = "both", direction: Direction = "both",
) -> Tensor:  # fmt: skip
    """(KL(p_b || p_a) + KL(p_a || p_b)) / 2 of p = softmax(z / temperature): half of Jeffreys' divergence.

    There is no teacher: the gradient reaches both sides.

    Args:
        first_logits, second_logits: [M, V] at positions that belong together, one after each of two rationales.
        temperature: T of both distributions; the value is not rescaled by its square.
        smoothing_eps: add this to each probability before the logarithm, as the authors' code does with 7e-5. At a
            vocabulary of 32,000 more than two thirds of each distribution are uniform then; for reproduction only.
        temperature_on: "target" divides the logits of the target alone, of KL(target || other), as the authors' code.
        direction: "from_first" is KL(sg(p_a) || p_b), where the first side is the target and gets no gradient.

    Returns:
        [M] nats; exact ones are >= 0, and 0 where both distributions are the same.

    Source: MCC-KD (arXiv:2310.14747), equation of L_MCC; the authors' code smooths, and divides the target alone by T.
    """

    def kl(target: Tensor, other: Tensor) -> Tensor:
        log_p = _log_probabilities(target, temperature, smoothing_eps)
        log_q = _log_probabilities(other, temperature if temperature_on == "both" else 1.0, smoothing_eps)
        return (log_p.exp() * (log_p - log_q)).sum(dim=-1)

    if direction == "from_first":
        return kl(first_logits.detach(), second_logits)
    return 0.5 * (kl(second_logits, first_logits) + kl(first_logits, second_logits))


Span = tuple[int, int]


def consistency_at(
    first_logits: Tensor, second_logits: Tensor, first_spans: Sequence[Sequence[Span]],
    second_spans: Sequence[Sequence[Span]], **how: object,
) -> Tensor:  # fmt: skip
    """`consistency` at given indices of the logits, taken literally: the mean over all positions of all rows.

    The j-th position of a row's spans on one side meets the j-th on the other. A row is skipped if a span of it ends
    at or behind the last index, or its sides have different numbers of positions.

    Args:
        first_logits, second_logits: [B, T, V] and [B, T', V].
        first_spans, second_spans: of each row its spans [start, end).
        how: keyword arguments of `consistency`.

    Returns:
        A scalar; 0 if every row is skipped.
    """
    sides: tuple[list[Tensor], list[Tensor]] = ([], [])
    for row, both in enumerate(zip(first_spans, second_spans, strict=True)):
        places = [[i for start, end in spans for i in range(start, end)] for spans in both]
        tables = first_logits[row], second_logits[row]
        outside = any(end >= len(table) for table, spans in zip(tables, both) for _, end in spans)
        if not outside and len(places[0]) == len(places[1]):
            for side, table, place in zip(sides, tables, places):
                side.append(table[place])
    if not sum(map(len, sides[0])):
        return 0.0 * (first_logits.sum() + second_logits.sum())
    return consistency(torch.cat(sides[0]), torch.cat(sides[1]), **how).mean()  # type: ignore[arg-type]


class Consistency(Objective):
    """value = alpha (KL(p_b || p_a) + KL(p_a || p_b)) / 2 of a pair of tokens; see `PairedObjective`.

    The signal `COMPARED` holds the place of each token's rationale in its row. With direction "from_first" the one that
    stands earlier there is the target.

    Args:
        alpha: weight; at 0 the divergence is measured all the same.
        how: as of `consistency`.
    """

    def __init__(
        self, alpha: float, *, temperature: float = 1.0, smoothing_eps: float | None = None,
        temperature_on: TemperatureOn = "both", direction: Direction = "both",
    ):  # fmt: skip
        self.alpha, self.temperature, self.smoothing_eps = alpha, temperature, smoothing_eps
        self.temperature_on: TemperatureOn = temperature_on
        self.direction: Direction = direction
        self.needs = frozenset({COMPARED})

    def __call__(self, batch: TokenBatch) -> Losses:
        first, second = batch.logits().chunk(2, dim=-1)
        agree = (first.argmax(dim=-1) == second.argmax(dim=-1)).float()
        if self.direction == "from_first":
            places = batch.signals[COMPARED]  # [M, 2]
            swapped = places[:, 1:] < places[:, :1]
            first, second = torch.where(swapped, second, first), torch.where(swapped, first, second)
        values = consistency(
            first, second, temperature=self.temperature, smoothing_eps=self.smoothing_eps,
            temperature_on=self.temperature_on, direction=self.direction,
        )  # fmt: skip
        return batch.losses(self.alpha * values, consistency=values, answer_agreement=agree)

    @staticmethod
    def measures(first: Tensor, second: Tensor) -> dict[str, Tensor]:
        """[M] each, of logits [M, V] after two rationales, whatever the options: exact and in both directions."""
        agree = (first.argmax(dim=-1) == second.argmax(dim=-1)).float()
        return {"consistency": consistency(first, second), "answer_agreement": agree}
