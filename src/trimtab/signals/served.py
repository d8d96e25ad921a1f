"""A teacher on another machine: a server is asked about each row, by token ids."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.core import TopK, answer_mask
from trimtab.engines.scoring import ScoredRow, ScoringServer
from trimtab.models.stored_head import StoredTeacher
from trimtab.signals.cached import AbsentTeacher
from trimtab.signals.row_store import Fields, RowStore, rows_of

SMALLEST_REST = 2.0**-20
"""Mass of all other tokens where their log-probabilities sum to 1 within rounding of float32: that of one who has less
is not told, and 0 would make a reverse divergence infinite."""
ASKED_TOGETHER = 32
"""places of a row whose tokens are asked for in one request"""


def fields_of(scored: ScoredRow, targets: Sequence[int], k: int, vocab: int) -> Fields:
    """What is kept of the answer tokens of a row, as a teacher cache holds it.

    Args:
        targets: [n] the answer tokens.
        vocab: over which the mass is spread.
    """
    ids = torch.tensor(scored.ids, dtype=torch.int32).view(len(targets), k)
    logprobs = torch.tensor(scored.logprobs, dtype=torch.float64).view(len(targets), k)
    labels = torch.tensor(scored.labels, dtype=torch.float64)
    inside = (ids == torch.tensor(list(targets), dtype=torch.int32)[:, None]).any(dim=1)
    rest = rest_of(logprobs, labels.masked_fill(inside, -torch.inf), vocab)
    return {"ids": ids, "logprobs": logprobs.float(), "rest": rest.float(), "label_logprobs": labels.float()}


def rest_of(logprobs: Tensor, others: Tensor, vocab: int) -> Tensor:
    """[N] nats: log of the mass of all tokens but the K.

    It is what is left of 1, and at least that of a token that is known to be among the others, and at most as much as
    if each of the others were as likely as the last of the K.

    Args:
        logprobs: [N, K] nats, float64, in descending order.
        others: [N] nats, of one other token; -inf where none is known.
    """
    number = vocab - logprobs.size(1)
    if number <= 0 or not logprobs.size(1):
        return torch.full_like(others, -torch.inf if number <= 0 else 0.0)
    left = (1 - logprobs.exp().sum(dim=1)).clamp(min=SMALLEST_REST).log()
    return torch.minimum(torch.maximum(left, others), logprobs[:, -1] + math.log(number)).clamp(max=0.0)


class ServedTeacher(AbsentTeacher):
    """Gives the K most likely tokens of a served model as `TopK`, which asks the server for others that are read.

    Args:
        server: which was probed.
        k: number of tokens.
        vocab: ids that both the teacher and the policy have.
        asks: whether the server scores given tokens.
        store: where rows are kept that come again.
        reads: "answers" for log-probabilities [N] of the answer tokens.
    """

    kind: Literal["topk"] = "topk"

    def __init__(
        self,
        server: ScoringServer,
        k: int,
        vocab: int,
        *,
        asks: bool = True,
        store: RowStore | None = None,
        reads: Literal["distribution", "answers"] = "distribution",
        name: str = "teacher",
    ):
        self.server, self.k, self.asks, self.store, self.name = server, k, asks, store, name
        self.teacher = StoredTeacher(vocab)
        self.provides, self.distribution = frozenset({name}), reads == "distribution"

    def reading(self, reads: Literal["distribution", "answers"]) -> "ServedTeacher":
        """The same, read otherwise."""
        how: dict[str, Any] = {"asks": self.asks, "store": self.store, "name": self.name, "reads": reads}
        return ServedTeacher(self.server, self.k, self.vocab_size, **how)

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        device = inputs["labels"].device
        rows = [(key, alone) for key, alone in rows_of(inputs)]
        known = self.fields(dict(rows))
        found = {
            name: torch.cat([known[key][name] for key, _ in rows]).to(device)
            for name in ("ids", "logprobs", "rest", "label_logprobs")
        }
        if not self.distribution:
            return {self.name: found["label_logprobs"]}
        place = torch.arange(len(found["rest"]), device=device)
        return {
            self.name: TopK(
                found["ids"].long(), found["logprobs"], found["rest"], found["label_logprobs"], self.vocab_size,
                ask=_Asker(self.server, [alone for _, alone in rows]) if self.asks else None, place=place,
            )
        }  # fmt: skip

    def at_checkpoint(self) -> None:
        if self.store is not None:
            self.store.flush()

    def fields(self, rows: Mapping[bytes, Mapping[str, Tensor]]) -> dict[bytes, Fields]:
        """What is kept of each row [1, T], by key; those that are not yet kept are asked for, many at a time."""
        kept = {} if self.store is None else {key: self.store.get(key) for key in rows}
        found = {key: fields for key, fields in kept.items() if fields is not None}
        lacking = [key for key in rows if key not in found]
        for key, fields in zip(lacking, self.server.each(lambda key: self._asked(rows[key]), lacking), strict=True):
            found[key] = fields
            if self.store is not None:
                self.store.put(key, fields)
        return found

    def _asked(self, alone: Mapping[str, Tensor]) -> Fields:
        ids, places = row_and_places(alone)
        if not places:
            return fields_of(ScoredRow([], [], []), [], self.k, self.vocab_size)
        scored = self.server.most_likely(ids[: places[-1] + 1], self.k, places)
        highest = max(map(max, scored.ids), default=0)
        if highest >= self.vocab_size:
            raise UserError(
                f"the {self.name} at {self.server.url} gives the token id {highest} probability, which is outside the "
                f"{self.vocab_size:,} that the policy has too; take a smaller models.teacher_k, or another teacher"
            )
        return fields_of(scored, [ids[place] for place in places], self.k, self.vocab_size)


def row_and_places(alone: Mapping[str, Tensor]) -> tuple[list[int], list[int]]:
    """Ids of a row [1, T], and the places of its answer tokens."""
    places = answer_mask(alone["labels"])[0].nonzero()[:, 0] + 1
    return alone["input_ids"][0].tolist(), places.tolist()


class _Asker:
    """Asks a server for log-probabilities of tokens at the answer tokens of a micro-batch."""

    def __init__(self, server: ScoringServer, rows: Sequence[Mapping[str, Tensor]]):
        self.server, self.rows = server, [row_and_places(row) for row in rows]
        self.of_row = [i for i, (_, places) in enumerate(self.rows) for _ in places]
        self.place = [place for _, places in self.rows for place in places]

    def __call__(self, which: Tensor, ids: Tensor) -> Tensor:
        """[m] nats.

        Args:
            which: [m] answer tokens, counted over the micro-batch.
            ids: [m] the tokens at these places.
        """
        asked: dict[int, list[tuple[int, int, int]]] = {}
        for number, (one, token) in enumerate(zip(which.tolist(), ids.tolist(), strict=True)):
            asked.setdefault(self.of_row[one], []).append((self.place[one], token, number))
        parts = [
            (row, sorted(several)[start : start + ASKED_TOGETHER])
            for row, several in asked.items()
            for start in range(0, len(several), ASKED_TOGETHER)
        ]

        def answer(part: tuple[int, list[tuple[int, int, int]]]) -> list[float]:
            row, several = part
            places, tokens, _ = zip(*several)
            return self.server.of_tokens(self.rows[row][0], places, tokens)

        found = torch.empty(len(which), dtype=torch.float32)
        for (_, several), values in zip(parts, self.server.each(answer, parts), strict=True):
            found[torch.tensor([number for *_, number in several])] = torch.tensor(values, dtype=torch.float32)
        return found.to(ids.device)
