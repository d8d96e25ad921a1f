"""A frozen model whose distribution the objective reads."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.core import Head, LazyLogits, answer_mask


class FrozenTeacher:
    """Runs a frozen model in its own dtype and hands over hidden states and head, never full logits.

    Hidden states that were remembered (`remember`) are looked up by `row_id` instead of computed.
    """

    def __init__(self, model: nn.Module, backbone: nn.Module, head: Head, name: str = "teacher"):
        self.model, self.backbone, self.head, self.name = model.eval().requires_grad_(False), backbone, head, name
        self.provides = frozenset({name})
        self._remembered: dict[int, Tensor] = {}

    @torch.no_grad()
    def hidden(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[N, D] at the positions that predict the answer tokens."""
        labels = inputs["labels"]
        with torch.autocast(labels.device.type, enabled=False):
            output = self.backbone(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            )
        return output.last_hidden_state[:, :-1][answer_mask(labels)]

    def remember(self, batches: Iterable[Mapping[str, Tensor]]) -> None:
        """Keep the hidden states of every row of `batches` in main memory: D numbers a token, not V."""
        for inputs in batches:
            lengths = answer_mask(inputs["labels"]).sum(dim=1).tolist()
            parts = self.hidden(inputs).cpu().split(lengths)
            for row, part in zip(inputs["row_id"].tolist(), parts):
                self._remembered[row] = part.clone()

    def __call__(self, policy: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        if self._remembered:
            parts = [self._remembered[row] for row in inputs["row_id"].tolist()]
            hidden = torch.cat(parts).to(inputs["labels"].device)
        else:
            hidden = self.hidden(inputs)
        return {self.name: LazyLogits(hidden, self._project, self.head.vocab_size)}

    def _project(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return self.head(hidden)
