"""A frozen model whose distribution the objective reads."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.core import Head, LazyLogits, Signal, TokenBatch, label_logprobs
from trimtab.models.forward import StatesCall, backbone, check_head, read_layers, resolve_head
from trimtab.models.packing import PLACE
from trimtab.signals.row_store import RowStore, rows_of

READ = ("input_ids", "attention_mask", "labels", PLACE)
"""what it reads of a batch"""


class FrozenModel(Signal):
    """Runs a frozen model in its own dtype and returns hidden states and head, never full logits.

    With a `store`, each row passes through the model once and its hidden states (D numbers per answer token instead of
    V) are kept there; alone, so that a resumed run reads the same bits. With `reads="answers"` it returns
    log-probabilities [N] of the answer tokens instead.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        name: str = "teacher",
        store: RowStore | None = None,
        reads: Literal["distribution", "answers"] = "distribution",
    ):
        check_head(model)
        self.model, self.name, self.store = model.eval().requires_grad_(False), name, store
        self.provides = frozenset({name})
        self.distribution = reads == "distribution"
        self._field = "hidden" if self.distribution else "label_logprobs"

    @property
    def models(self) -> list[PreTrainedModel]:
        return [self.model]

    @property
    def device(self) -> torch.device:
        """Where the model is computed, which need not be where its inputs are."""
        return self.model.device

    @property
    def vocab_size(self) -> int:
        return self.model.config.get_text_config().vocab_size

    @torch.no_grad()
    def hidden(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[N, D] at the positions that predict the answer tokens."""
        return self.states(inputs)

    def states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """As `hidden`, with a graph where gradients are enabled."""
        labels = inputs["labels"]
        highest = int(inputs["input_ids"].max())
        if highest >= self.vocab_size:
            raise UserError(
                f"a row has the token id {highest}, which is outside the {self.name}'s vocabulary of "
                f"{self.vocab_size}; remove such rows or choose another model"
            )
        there = {name: inputs[name].to(self.device) for name in READ if name in inputs}
        with torch.autocast(self.device.type, enabled=False):
            call = StatesCall(there["labels"], there.get(PLACE))
            rows = {"input_ids": there["input_ids"], "attention_mask": there["attention_mask"], "use_cache": False}
            return read_layers(backbone(self.model), call, (), rows)[1].to(labels.device)

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        states = self._states(inputs) if self.store is None else self._recall(inputs, self.store)
        if not self.distribution:
            return {self.name: states}
        return {self.name: LazyLogits(states, self.project, resolve_head(self.model).vocab_size)}

    def at_checkpoint(self) -> None:
        if self.store is not None:
            self.store.flush()

    def _states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        hidden = self.hidden(inputs)
        if self.distribution:
            return hidden
        batch = TokenBatch.from_labels(inputs["labels"])
        head = Head(self.project, resolve_head(self.model).vocab_size, temperature=self.temperature)
        return label_logprobs(batch, hidden, head)

    def _recall(self, inputs: Mapping[str, Tensor], store: RowStore) -> Tensor:
        found = []
        for key, alone in rows_of(inputs):
            kept = store.get(key)
            if kept is None:
                kept = {self._field: self._states(alone).cpu()}
                store.put(key, kept)
            found.append(kept[self._field])
        return torch.cat(found).to(inputs["labels"].device)

    def project(self, hidden: Tensor) -> Tensor:
        """[n, V] logits of hidden states [n, D], on the device of these."""
        with torch.autocast(self.device.type, enabled=False):
            return resolve_head(self.model)(hidden.to(self.device)).to(hidden.device)
