"""A teacher that is not there: what it gave for each row, read from a cache."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from trimtab.common.errors import UserError
from trimtab.core import LazyLogits, Signal, TokenBatch, TopK, answer_mask, label_logprobs
from trimtab.models.stored_head import StoredTeacher
from trimtab.signals.row_store import Fields, RowStore, rows_of

Kind = Literal["hidden", "topk"]


class NotCached(UserError):
    """A row that a cache does not hold."""


class AbsentTeacher(Signal):
    """A teacher of which a head, or the size of its vocabulary, stands for the model."""

    teacher: StoredTeacher

    @property
    def models(self) -> list[Any]:
        return [self.teacher]

    @property
    def vocab_size(self) -> int:
        return self.teacher.config.vocab_size


class CachedTeacher(AbsentTeacher):
    """Gives what `FrozenModel` gives, from a store: hidden states and head as `LazyLogits`, or `TopK`.

    Args:
        store: rows with the fields "hidden", or "ids", "logprobs", "rest" and "label_logprobs".
        teacher: its head for hidden states.
        reads: "answers" for log-probabilities [N] of the answer tokens.
        place: the folder, for messages.
    """

    def __init__(
        self,
        store: RowStore,
        teacher: StoredTeacher,
        *,
        name: str = "teacher",
        reads: Literal["distribution", "answers"] = "distribution",
        place: str = "",
    ):
        self.store, self.teacher, self.name, self.place = store, teacher, name, place
        self.kind: Kind = "topk" if teacher.module is None else "hidden"
        self.provides, self.distribution = frozenset({name}), reads == "distribution"

    def reading(self, reads: Literal["distribution", "answers"]) -> "CachedTeacher":
        """The same, read otherwise."""
        return CachedTeacher(self.store, self.teacher, name=self.name, reads=reads, place=self.place)

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        found = self._recall(inputs)
        if self.kind == "topk":
            return {self.name: self._top_k(found)}
        states = found["hidden"].to(self.teacher.dtype)
        if self.distribution:
            return {self.name: LazyLogits(states, self._project, self.teacher.head().vocab_size)}
        with torch.autocast(states.device.type, enabled=False):
            head = replace(self.teacher.head(), temperature=self.temperature)
            return {self.name: label_logprobs(TokenBatch.from_labels(inputs["labels"]), states, head)}

    def _top_k(self, found: Fields) -> Any:
        if not self.distribution:
            return found["label_logprobs"]
        return TopK(found["ids"].long(), found["logprobs"], found["rest"], found["label_logprobs"], self.vocab_size)

    def _recall(self, inputs: Mapping[str, Tensor]) -> Fields:
        rows = []
        for i, (key, alone) in enumerate(rows_of(inputs)):
            row = self.store.get(key)
            if row is None and not answer_mask(alone["labels"]).any():  # fills a batch
                row = {name: field[:0] for name, field in self.store.any_row().items()}
            if row is None:
                raise NotCached(f"the cache {self.place} has no row like row {int(inputs['row_id'][i]) + 1} of a batch")
            rows.append(row)
        device = inputs["labels"].device
        return {name: torch.cat([row[name] for row in rows]).to(device) for name in rows[0]}

    def _project(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return self.teacher(hidden)

    def check(self, batches: Iterable[Mapping[str, Tensor]], source: str, numbers: Iterable[int], way_out: str) -> None:
        """Check that every row is there, before anything is trained.

        Args:
            batches: of one row each.
            source: where the rows are from, and `numbers` theirs in it, for messages.

        Raises:
            NotCached: naming the first row that is missing.
        """
        lacking, total = [], 0
        for inputs, number in zip(batches, numbers, strict=True):
            total += 1
            if any(key not in self.store for key, _ in rows_of(inputs)):
                lacking.append(number)
        if lacking:
            several = f" ({len(lacking)} of {total} rows are not)" if len(lacking) > 1 else ""
            raise NotCached(f"{source}: row {lacking[0]} is not in the teacher cache {self.place}{several}; {way_out}")
