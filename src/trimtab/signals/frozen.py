"""A frozen model whose distribution the objective reads."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.core import LazyLogits, Signal, TokenBatch, label_logprobs
from trimtab.models.forward import StatesCall, backbone, check_head, read_layers, resolve_head
from trimtab.models.packing import PLACE


class FrozenModel(Signal):
    """Runs a frozen model in its own dtype and returns hidden states and head, never full logits.

    With `remember`, each row passes through the model once and its hidden states (D numbers per answer token instead of
    V) are kept in main memory; alone, so that a resumed run reads the same bits. With `reads="answers"` it returns
    log-probabilities [N] of the answer tokens instead.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        name: str = "teacher",
        remember: bool = False,
        reads: Literal["distribution", "answers"] = "distribution",
    ):
        check_head(model)
        self.model, self.name, self.remember = model.eval().requires_grad_(False), name, remember
        self.provides = frozenset({name})
        self.distribution = reads == "distribution"
        self._remembered: dict[tuple[bytes, bytes], Tensor] = {}

    @property
    def models(self) -> list[PreTrainedModel]:
        return [self.model]

    @property
    def vocab_size(self) -> int:
        return self.model.config.get_text_config().vocab_size

    @torch.no_grad()
    def hidden(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[N, D] at the positions that predict the answer tokens."""
        labels = inputs["labels"]
        highest = int(inputs["input_ids"].max())
        if highest >= self.vocab_size:
            raise UserError(
                f"a row has the token id {highest}, which is outside the {self.name}'s vocabulary of "
                f"{self.vocab_size}; remove such rows or choose another model"
            )
        with torch.autocast(labels.device.type, enabled=False):
            rows = {"input_ids": inputs["input_ids"], "attention_mask": inputs["attention_mask"], "use_cache": False}
            return read_layers(backbone(self.model), StatesCall(labels, inputs.get(PLACE)), (), rows)[1]

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        states = self._recall(inputs) if self.remember else self._states(inputs)
        if not self.distribution:
            return {self.name: states}
        return {self.name: LazyLogits(states, self._project, resolve_head(self.model).vocab_size)}

    def _states(self, inputs: Mapping[str, Tensor]) -> Tensor:
        hidden = self.hidden(inputs)
        if self.distribution:
            return hidden
        with torch.autocast(hidden.device.type, enabled=False):
            head = replace(resolve_head(self.model), temperature=self.temperature)
            return label_logprobs(TokenBatch.from_labels(inputs["labels"]), hidden, head)

    def _recall(self, inputs: Mapping[str, Tensor]) -> Tensor:
        found = []
        for i, length in enumerate(inputs["attention_mask"].sum(dim=1).tolist()):
            alone = {key: inputs[key][i : i + 1, :length] for key in ("input_ids", "attention_mask", "labels")}
            key = (_bytes(alone["input_ids"]), _bytes(alone["labels"]))
            if key not in self._remembered:
                self._remembered[key] = self._states(alone).cpu()
            found.append(self._remembered[key])
        return torch.cat(found).to(inputs["labels"].device)

    def _project(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return resolve_head(self.model)(hidden)


def _bytes(ids: Tensor) -> bytes:
    return ids.to("cpu", torch.int32).numpy().tobytes()
