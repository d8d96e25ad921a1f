"""A teacher with another tokenizer: it reads its own ids of each row, and is laid out along the student's tokens."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.core import Head, LazyLogits, OtherVocabulary, Signal, TokenBatch, answer_mask, label_logprobs
from trimtab.data.two_tokenizers import SEGMENT, STARTS, TEACHER, CommonTokens


class OtherTokenizer(Signal):
    """For each of the N answer tokens of the policy: "segment" [N] which segment of the micro-batch it is in, -1 for
    none; "starts" [N] whether it is the first of one that begins at the same byte on both sides; "merged" [N] whether
    that segment is compared as a whole; "segment_logprob" [N] nats, under the teacher at `temperature`; and "teacher",
    the teacher's logits over its own vocabulary where `starts`, and of no meaning elsewhere.

    Args:
        teacher: gives "teacher" as hidden states and a head.
        common: ids that mean the same on both sides.
    """

    provides = frozenset({"teacher", "segment", "starts", "merged", "segment_logprob"})
    own_vocabulary = True

    def __init__(self, teacher: Signal, common: CommonTokens):
        self.teacher, self.common = teacher, common

    @property
    def models(self) -> Any:
        return self.teacher.models

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        theirs = {name: inputs[f"{TEACHER}{name}"] for name in ("input_ids", "attention_mask", "labels")}
        found = self.teacher(policy, {**theirs, "row_id": inputs["row_id"]})["teacher"]
        if not isinstance(found, LazyLogits):
            raise UserError("a teacher of another tokenizer must give whole distributions; name the model itself")
        number, ours = _numbered(inputs[SEGMENT], inputs["labels"], inputs[f"{TEACHER}{SEGMENT}"])
        _, of_teacher = _numbered(inputs[f"{TEACHER}{SEGMENT}"], theirs["labels"], inputs[SEGMENT])
        starts = inputs[STARTS][:, 1:][answer_mask(inputs["labels"])].bool()
        head = Head(found.head, found.vocab_size, temperature=self.temperature)
        logprobs = label_logprobs(TokenBatch.from_labels(theirs["labels"]), found.hidden, head)
        first, size = _first_and_size(of_teacher, number)
        _, own_size = _first_and_size(ours, number)
        whole = logprobs.new_zeros(number).index_add(0, of_teacher, logprobs)
        compared = torch.zeros(number, dtype=torch.bool, device=ours.device)
        compared[ours[starts]] = True
        merged = ~compared | (size > 1) | (own_size > 1)
        inside = ours >= 0
        at = torch.where(inside, ours, 0)
        if not number:  # no row of the micro-batch has a segment, and nothing is read
            first, merged, whole = at.new_zeros(1), inside.new_zeros(1), logprobs.new_zeros(1)
            found = replace(found, hidden=found.hidden.new_zeros(1, found.hidden.size(-1)))
        return {
            "teacher": OtherVocabulary(replace(found, hidden=found.hidden[first[at]])),
            "segment": ours,
            "starts": starts,
            "merged": inside & merged[at],
            "segment_logprob": whole[at] * inside,
        }


def _numbered(segment: Tensor, labels: Tensor, other: Tensor) -> tuple[int, Tensor]:
    """How many segment numbers there are in the micro-batch, and that of each answer token [N], -1 for none.

    Args:
        segment: [B, T] numbers within the rows; `other` of the other side, [B, T'].
        labels: [B, T]
    """
    most = int(max(segment.max(), other.max())) + 1
    rows = torch.arange(len(segment), device=segment.device)[:, None]
    whole = torch.where(segment >= 0, segment + most * rows, -1)
    return most * len(segment), whole[:, 1:][answer_mask(labels)]


def _first_and_size(segment: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """[number] each: the first token of each segment (0 where there is none), and its tokens."""
    inside = segment >= 0
    places = torch.arange(len(segment), device=segment.device)[inside]
    first = torch.full((number,), len(segment), device=segment.device).scatter_reduce(
        0, segment[inside], places, "amin"
    )
    size = torch.zeros(number, dtype=torch.long, device=segment.device).index_add(
        0, segment[inside], torch.ones_like(places)
    )
    return first.where(size > 0, 0), size
