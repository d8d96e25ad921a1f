"""A softmax over positions instead of tokens, as released with TrRa (arXiv:2506.12704); for reproduction only.

Each column of a row's logits [L, V] is normalised over the row's L positions. As the engine holds few positions at a
time, `PositionSums` computes the normalisers in a pass of its own.
"""

import torch
from torch import Tensor

from trimtab.core import Losses, Objective, TokenBatch


class PositionSums(Objective):
    """An "objective" without a loss: collects log sum_t exp h_t[v] of each row, for the policy and the teacher."""

    needs = frozenset({"teacher"})

    def __init__(self) -> None:
        self.rows: dict[str, dict[int, Tensor]] = {"policy": {}, "teacher": {}}

    def __call__(self, batch: TokenBatch) -> Losses:
        for name, rows in self.rows.items():
            logits = batch.logits(name).detach().float()
            for row in batch.row.unique().tolist():
                found = logits[batch.row == row].logsumexp(dim=0)  # [V]
                rows[row] = torch.logaddexp(rows[row], found) if row in rows else found
        return Losses(batch.logits().new_zeros(len(batch), dtype=torch.float32), {})

    def table(self, name: str, number: int) -> Tensor:
        """[R, V]; zeros for rows without a token."""
        rows = self.rows[name]
        empty = torch.zeros_like(next(iter(rows.values())))
        return torch.stack([rows.get(row, empty) for row in range(number)])


class PositionAxis(Objective):
    """values_t = sum_v p_t[v] (log p_t[v] - log q_t[v]), p and q the softmax of column v over a row's positions."""

    needs = frozenset({"teacher", "policy_sums", "teacher_sums"})
    ratio = "policy_sums"

    def __call__(self, batch: TokenBatch) -> Losses:
        log_q = batch.logits().float() - batch.logits("policy_sums")
        log_p = batch.logits("teacher").float() - batch.logits("teacher_sums")
        q = log_q.exp()  # the sums are constants here: d log sum / dh_t = q_t is added by hand
        values = (log_p.exp() * (log_p - log_q) + (q - q.detach())).sum(dim=-1)
        return batch.losses(values, nll=-batch.logprobs())
