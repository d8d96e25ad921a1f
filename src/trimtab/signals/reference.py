"""The reference model's log-probabilities of the most likely tokens at each position of an answer."""

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.core import Signal
from trimtab.models.forward import add_objective_forward
from trimtab.signals.candidates import CandidateLogprobs
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.initial_policy import InitialPolicy, read_with


class ReferenceAtCandidates(Signal):
    """Log-probabilities of the `candidate_ids` [N, K] of the inputs under the reference, as "reference" [N, K]."""

    provides = frozenset({"reference"})

    def __init__(self, reference: FrozenModel | InitialPolicy):
        self.reference = reference
        if isinstance(reference, FrozenModel):
            add_objective_forward(reference.model)

    @property
    def models(self) -> list[Any]:
        return list(self.reference.models)

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        assert policy is not None
        written, reference = CandidateLogprobs(1, inputs["candidate_ids"]), self.reference
        frozen = isinstance(reference, FrozenModel)
        alone = torch.autocast(inputs["labels"].device.type, enabled=False)
        with alone if frozen else nullcontext(), nullcontext() if frozen else reference.off():
            read_with(written, reference.model if frozen else policy, inputs, {}, self.temperature)
        return {"reference": written.found()["candidate_logprobs"]}
