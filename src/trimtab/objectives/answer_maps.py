"""Which tokens of a prompt a model's answer rests on, and a loss that makes a student's agree with its teacher's.

The paper (AD-KD, arXiv:2305.10010) does it for classifiers; for models that generate it is our extension. What is
attributed is the log-probability of the row's answer as a whole, one number a row, so that a map costs one gradient
however long the answer is: A = dF/dE * E at the embeddings E of the prompt's tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from trimtab.core import IGNORE, Head, Losses
from trimtab.core.auxiliary import AuxiliaryLoss, ReadInside
from trimtab.core.batch import ATTRIBUTED, answer_mask
from trimtab.core.draws import hashed_uniform
from trimtab.objectives.attribution import Distance, at_least_float32, distance, token_map

MAPS = "teacher_maps"
"""The signal that holds `TeacherMaps`."""
STREAM = 2305
"""of the draws of positions"""


@dataclass(frozen=True)
class Views:
    """Single next tokens that are attributed, instead of the whole answer."""

    tokens: Tensor
    """[B, q] places among the N answer tokens, -1 where a row has fewer"""
    ids: Tensor
    """[B, q, C] next tokens at each"""


@dataclass(frozen=True)
class TeacherMaps:
    """What is compared with the policy: one map for each view of each row. A part of a batch keeps it whole."""

    maps: Tensor
    """[V, B, T] float32 of norm 1 along the tokens, or all 0 where a row has no such view; constants"""
    mask: Tensor
    """[B, T] bool: tokens that maps are made of"""
    vocab: int
    """ids over which both models' distributions are"""
    views: Views | None = None
    """None: the answer as a whole"""

    def __getitem__(self, part: Any) -> "TeacherMaps":
        return self


def attributable(inputs: Mapping[str, Tensor]) -> Tensor:
    """[B, T] bool: tokens that maps are made of: those marked in the column `ATTRIBUTED` (all but padding where there
    is none) that are no answer tokens and stand before the row's last one."""
    labels = inputs["labels"]
    answer = labels != IGNORE
    answer = torch.cat([torch.zeros_like(answer[:, :1]), answer[:, 1:]], dim=1)  # nothing predicts the first token
    before = answer.flip(1).cumsum(dim=1).flip(1) > 0
    given = inputs.get(ATTRIBUTED, inputs["attention_mask"])
    return (given > 0) & ~answer & before


def draw_views(
    labels: Tensor, row_id: Tensor, positions: int, candidates: int, states: Tensor, head: Head, vocab: int, seed: int,
    step: int,
) -> Views:  # fmt: skip
    """Up to `positions` answer tokens of each row, all different, and the most likely next tokens at each.

    A draw depends on the seed, the update, the row and the token's place alone.

    Args:
        labels: [B, T].
        row_id: [B].
        states, head: of the teacher, [N, D] at the answer tokens.
        vocab: only ids below it.
    """
    mask = answer_mask(labels)
    row = mask.nonzero()[:, 0]
    position = mask.cumsum(dim=1)[mask] - 1
    score = labels.new_full(mask.shape, -1, dtype=torch.float32)
    score[mask] = hashed_uniform(seed, step, row_id[row], position, STREAM)
    place = torch.full_like(labels[:, 1:], -1)
    place[mask] = torch.arange(len(row), device=labels.device)
    chosen = score.topk(min(positions, mask.size(1)), dim=1).indices
    tokens = place.gather(1, chosen)
    with torch.no_grad():
        ids = head(states.detach()[tokens.clamp(min=0).flatten()])[:, :vocab].topk(min(candidates, vocab)).indices
    return Views(tokens, ids.unflatten(0, tokens.shape))


def answers_at(states: Tensor, head: Head, labels: Tensor, vocab: int, views: Views | None = None) -> Tensor:
    """[V, B] float32 what is attributed, with a second derivative: log p of each row's answer given its prompt, or of
    single next tokens; 0 without a gradient where a row has none.

    Args:
        states: [N, D] at the answer tokens.
        labels: [B, T].
        vocab: ids over which the distribution is.
    """
    if views is None:
        mask = answer_mask(labels)
        targets, row = labels[:, 1:][mask], mask.nonzero()[:, 0]
        logprobs = _log_softmax(head(states), vocab).gather(-1, targets[:, None])[:, 0]
        return logprobs.new_zeros(len(labels)).index_add(0, row, logprobs)[None]
    if not len(states):
        return states.new_zeros(views.ids[0].numel(), len(labels)) + states.sum()
    there = views.tokens >= 0
    table = _log_softmax(head(states[views.tokens.clamp(min=0).flatten()]), vocab).unflatten(0, there.shape)
    return (table.gather(-1, views.ids) * there[..., None]).flatten(1).T


def _log_softmax(logits: Tensor, vocab: int) -> Tensor:
    """In float32 at least. Plain operations: the engine's own have no second derivative."""
    return torch.log_softmax(at_least_float32(logits[..., :vocab]), dim=-1)


def answer_maps(
    values: Tensor, embedded: Tensor, mask: Tensor, top: int | None = None, norm: int = 2, *, create_graph: bool = False
) -> Iterator[Tensor]:
    """For each view the map [B, T] of its gradient times the embeddings.

    Rows do not depend on each other, so the gradient of the sum over rows holds that of each.

    Args:
        values: [V, B], made from `embedded` [B, T, H].
        mask: [B, T] bool.
        top, norm: see `token_map`.
        create_graph: keep what is needed to differentiate the maps, through the gradient and through E.
    """
    for view in values:
        (gradient,) = torch.autograd.grad(view.sum(), embedded, create_graph=create_graph, retain_graph=True)
        yield token_map(at_least_float32(gradient) * at_least_float32(embedded), mask, top, norm)


class AnswerAttribution(AuxiliaryLoss):
    """value of a row = b sum_views sum_tokens d(s, t), s and t the maps of policy and teacher

    Args:
        weight: b.
        norm: p of a map's norm.
        kind: the distance d.
    """

    needs = frozenset({MAPS})

    def __init__(self, weight: float, norm: int = 2, kind: Distance = "square"):
        self.weight, self.norm = weight, norm
        self.kind: Distance = kind

    def number(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Tokens that maps are made of."""
        return attributable(inputs).sum()

    def pairs(self, read: ReadInside, *, create_graph: bool = True) -> Iterator[tuple[Tensor, Tensor]]:
        """For each view the maps [B, T] of policy and teacher."""
        known: TeacherMaps = read.signals[MAPS]
        vocab = min(known.vocab, read.head.vocab_size)
        values = answers_at(read.states, read.head, read.labels, vocab, known.views)
        ours = answer_maps(values, read.embedded, known.mask, norm=self.norm, create_graph=create_graph)
        return zip(ours, known.maps, strict=True)

    def __call__(self, read: ReadInside) -> Losses:
        known: TeacherMaps = read.signals[MAPS]
        apart = read.embedded.new_zeros(len(read.labels), dtype=known.maps.dtype)
        cosines: list[Tensor] = []
        for ours, theirs in self.pairs(read):
            apart = apart + distance(ours, theirs, self.kind).sum(dim=-1)
            cosines.append(cosines_of(ours, theirs))
        every = torch.cat(cosines)
        metrics = {
            "attribution_loss": (apart.detach().sum().float(), known.mask.sum().float()),
            "map_cosine": (every.sum(), every.new_tensor(float(every.numel()))),
        }
        return Losses(self.weight * apart, metrics)


def cosines_of(ours: Tensor, theirs: Tensor) -> Tensor:
    """[n] float32 cosines of the maps of the rows that have any."""
    some = (theirs > 0).any(dim=-1)
    return F.cosine_similarity(ours.detach()[some].float(), theirs[some].float(), dim=-1)
