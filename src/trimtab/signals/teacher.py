"""A frozen model whose distribution the objective reads."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.core import LazyLogits, predicting
from trimtab.models.forward import check_head, resolve_head


class FrozenTeacher:
    """Runs a frozen model in its own dtype and hands over hidden states and head, never full logits.

    With `remember`, each row passes through the teacher once, alone, and its hidden states are kept in
    main memory under its `row_id`: D numbers for each answer token instead of V. Alone, because then they
    depend on nothing but the row, so a resumed run reads the same bits.
    """

    def __init__(self, model: PreTrainedModel, *, name: str = "teacher", remember: bool = False):
        check_head(model)
        self.model, self.name, self.remember = model.eval().requires_grad_(False), name, remember
        self.provides = frozenset({name})
        self._remembered: dict[int, Tensor] = {}

    @property
    def vocab_size(self) -> int:
        """Rows of the head."""
        return self.model.config.get_text_config().vocab_size

    @torch.no_grad()
    def hidden(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """[N, D] at the positions that predict the answer tokens."""
        labels = inputs["labels"]
        highest = int(inputs["input_ids"].max())
        if highest >= self.vocab_size:
            raise ValueError(
                f"a row holds the token id {highest}, which the {self.name}'s vocabulary ({self.vocab_size}) does not; "
                "take such rows out or choose another model"
            )
        with torch.autocast(labels.device.type, enabled=False):
            output = self.model.base_model(
                input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], use_cache=False
            )
        return predicting(output.last_hidden_state, labels)

    def __call__(self, policy: nn.Module, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        hidden = self._recall(inputs) if self.remember else self.hidden(inputs)
        return {self.name: LazyLogits(hidden, self._project, self.vocab_size)}

    def _recall(self, inputs: Mapping[str, Tensor]) -> Tensor:
        rows = inputs["row_id"].tolist()
        for i, row in enumerate(rows):
            if row not in self._remembered:
                length = int(inputs["attention_mask"][i].sum())
                alone = {key: inputs[key][i : i + 1, :length] for key in ("input_ids", "attention_mask", "labels")}
                self._remembered[row] = self.hidden(alone).cpu()
        return torch.cat([self._remembered[row] for row in rows]).to(inputs["labels"].device)

    def _project(self, hidden: Tensor) -> Tensor:
        with torch.autocast(hidden.device.type, enabled=False):
            return resolve_head(self.model)(hidden)
