"""Three losses of a training step. The logits at position t predict token t + 1; labels are -100 at prompts and
padding."""

import torch
from torch import Tensor

IGNORE = -100


def sft(logits: Tensor, labels: Tensor, num_tokens: int) -> Tensor:
    """Negative log-likelihood of the answer tokens.

    Args:
        logits: [B, T, V].
        labels: [B, T].
        num_tokens: answer tokens of the whole update, of which this batch may hold a part.

    Returns:
        Their sum in this batch, divided by `num_tokens`.
    """
    targets = labels[:, 1:]
    mask = targets != IGNORE
    logprobs = logits[:, :-1].log_softmax(dim=-1)
    chosen = logprobs.gather(-1, targets.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(chosen * mask).sum() / num_tokens


def distil(student: Tensor, teacher: Tensor, labels: Tensor, num_tokens: int, temperature: float) -> Tensor:
    """KL(teacher || student) of the next-token distributions that predict the answer tokens, at a temperature.

    Args:
        student, teacher: [B, T, V] logits; no gradient flows to the teacher's.
        labels: [B, T].
        num_tokens: as in `sft`.

    Returns:
        temperature ** 2 times the sum over the answer tokens of this batch, divided by `num_tokens`.
    """
    mask = (labels != IGNORE)[:, 1:]
    p = (teacher.detach()[:, :-1] / temperature).log_softmax(dim=-1)
    q = (student[:, :-1] / temperature).log_softmax(dim=-1)
    divergence = (p.exp() * (p - q)).sum(dim=-1)
    return temperature**2 * (divergence * mask).sum() / num_tokens


def dpo(policy: Tensor, reference: Tensor, labels: Tensor, beta: float) -> Tensor:
    """-log sigmoid(beta * (chosen - rejected)) of the answers' log-ratios, log policy(answer) - log reference(answer).

    Args:
        policy, reference: [2P, T, V] logits; row 2i is the chosen answer of a pair, row 2i + 1 the rejected one. No
            gradient flows to the reference's.
        labels: [2P, T].

    Returns:
        The mean over the P pairs.
    """
    targets = labels[:, 1:]
    mask = targets != IGNORE
    index = targets.clamp(min=0).unsqueeze(-1)
    ours = policy[:, :-1].log_softmax(dim=-1).gather(-1, index).squeeze(-1)
    theirs = reference.detach()[:, :-1].log_softmax(dim=-1).gather(-1, index).squeeze(-1)
    ratios = ((ours - theirs) * mask).sum(dim=1)
    margins = ratios[0::2] - ratios[1::2]
    return -torch.log(torch.sigmoid(beta * margins)).mean()
