"""Log-probabilities of the most likely tokens at each position of an answer."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from trimtab.core import Candidates, Losses, Objective, Signal, TokenBatch, with_sampled_first
from trimtab.models.forward import add_objective_forward
from trimtab.signals.initial_policy import read_with
from trimtab.signals.reward_model import RewardModelError, TokenRewardModel


class CandidateLogprobs(Objective):
    """An "objective" without a loss: collects log-probabilities of each answer token and of candidates.

    Args:
        candidates: how many of the most likely tokens are kept, with the answer token in slot 0; 0 for none.
        ids: [N, K] tokens to keep instead.
        vocab: ids from here on are padding that another model of the run lacks; they are never candidates.
    """

    def __init__(self, candidates: int = 0, ids: Tensor | None = None, vocab: int | None = None):
        self.candidates = candidates if vocab is None else min(candidates, vocab)
        self.ids, self.vocab, self._seen = ids, vocab, 0
        self._logprobs: list[Tensor] = []
        self._normaliser: list[Tensor] = []
        self._kept: list[Candidates] = []

    def __call__(self, batch: TokenBatch) -> Losses:
        log_p, answers = batch.log_softmax(), batch.targets
        own = log_p.gather(1, answers[:, None])[:, 0]
        self._logprobs.append(own)
        self._normaliser.append(torch.logsumexp(batch.logits().float(), dim=-1))
        if self.candidates:
            known = log_p[:, : self.vocab]
            ids = known.topk(min(self.candidates, known.size(1))).indices
            if self.ids is not None:
                ids = self.ids[self._seen : self._seen + len(batch)]
            self._kept.append(with_sampled_first(ids, log_p.gather(1, ids), answers, own))
        self._seen += len(batch)
        return batch.losses(own)

    def found(self) -> dict[str, Tensor]:
        """ "logprobs" and "normaliser" [N]: log pi(y_t) and log sum_v exp z_v, nats; with candidates also
        "candidate_ids" and "candidate_logprobs" [N, K]."""
        nothing = torch.zeros(0)  # if no row has an answer
        found = {
            "logprobs": torch.cat(self._logprobs or [nothing]),
            "normaliser": torch.cat(self._normaliser or [nothing]),
        }
        if self.candidates:
            none = torch.zeros(0, self.candidates if self.ids is None else self.ids.size(1))
            found["candidate_ids"] = torch.cat([one.ids for one in self._kept] or [none.long()])
            found["candidate_logprobs"] = torch.cat([one.logprobs for one in self._kept] or [none])
        return found


class RewardModelAtCandidates(Signal):
    """A reward model's log-probabilities of the candidates, as "reward_model" [N, K]; and if `measured` those of its
    reference model, as "reward_model_reference".

    Args:
        reward_model: whose scores come from a language model.
        chooses: its own most likely tokens are the candidates, see `choose_candidates`; otherwise they are given.
        measured: its reference model is read too; otherwise it is released.
    """

    def __init__(self, reward_model: TokenRewardModel, chooses: bool = False, measured: bool = False):
        if reward_model.spec.source == "scalar":
            raise RewardModelError(
                "this reward model has a head that only scores the answer's own tokens, not candidates; use one that "
                "is a language model (method ipvrm, q_rm with head logit or logprob, dpo)"
            )
        self.reward_model, self.chooses = reward_model, chooses
        if measured and reward_model.reference is None:
            raise RewardModelError(
                "log-ratios were asked for, and this reward model has no reference model; use one of method ipvrm or "
                "of kind dpo_rm or implicit_prm"
            )
        if not measured:
            reward_model.reference = None
        elif reward_model.reference is not None:
            add_objective_forward(reward_model.reference.model)
        self.provides = frozenset({"reward_model", *(["reward_model_reference"] if measured else [])})

    @property
    def models(self) -> list[PreTrainedModel]:
        return self.reward_model.models

    def __call__(self, policy: nn.Module | None, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        read, ids = {"reward_model": self.reward_model.model}, inputs["candidate_ids"]
        if self.reward_model.reference is not None:
            read["reward_model_reference"] = self.reward_model.reference.model
        return {name: _read(one, inputs, CandidateLogprobs(1, ids))["candidate_logprobs"] for name, one in read.items()}

    def choose_candidates(self, inputs: Mapping[str, Tensor], number: int) -> Tensor:
        return _read(self.reward_model.model, inputs, CandidateLogprobs(number, vocab=self.vocab))["candidate_ids"]


def _read(model: PreTrainedModel, inputs: Mapping[str, Tensor], written: CandidateLogprobs) -> dict[str, Tensor]:
    with torch.autocast(inputs["labels"].device.type, enabled=False):
        read_with(written, model, inputs, {})
    return written.found()
