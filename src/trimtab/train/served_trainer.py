"""Training on rollouts that a vLLM server samples."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trimtab.common import collectives
from trimtab.common.errors import UserError
from trimtab.core import TokenBatch, answer_mask
from trimtab.core.draws import hashed_uniform
from trimtab.core.loss import IMPORTANCE
from trimtab.train.importance import check_correction, correction_of, importance, measures
from trimtab.train.rollouts import STREAM, RolloutTrainer
from trimtab.train.served import How
from trimtab.train.served_rollouts import TOKENS, ServedRollouts


class ServedRolloutTrainer(RolloutTrainer):
    """`RolloutTrainer` with TRL's server mode: the weights are sent and compared before completions are asked for, and
    the loss of each token is weighed by how much likelier it is under the policy than it was in the server.

    Args:
        how: how the server is reached.
        longest: tokens of the longest prompt and its completion.
    """

    def __init__(self, *args: Any, how: How, longest: int, **kwargs: Any):
        super().__init__(*args, **kwargs)
        policy = self.accelerator.unwrap_model(self.model)
        _check_weights(policy)
        self.correction = correction_of(self.args)
        check_correction(self.correction, self.plan)
        self.corrects = self.correction is not None
        self.use_vllm, self.vllm_mode = True, "server"
        self.vllm_importance_sampling_correction = False  # TRL's own would weigh a loss that is not computed
        self._last_loaded_step = -1
        settings = self._settings
        self.vllm_generation: Any = ServedRollouts(
            how=how,
            ends=self.eos_token_ids,
            seed=self._seed,
            step=lambda: self.state.global_step,
            computing=self.compute_loss_context_manager,
            longest=longest,
            corrects=self.corrects,
            model=self.model,
            accelerator=self.accelerator,
            processing_class=self._tokenizer,
            repetition_penalty=settings.repetition_penalty,
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            min_p=settings.min_p,
            max_completion_length=settings.max_completion_length,
        )

    def _seed(self, place: int) -> int:
        """What the server draws the completions of a prompt with, by its place in the batch of rollouts."""
        places = torch.tensor([place])
        drawn = hashed_uniform(self.args.seed, self.state.global_step, places, torch.zeros_like(places), STREAM)
        return int(drawn.double().item() * 2**31)

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        generation, before = self.vllm_generation, self._last_loaded_step
        generation.probe = [token for ids in prompt_ids[:: self._answers] for token in ids][:TOKENS]
        found = super(RolloutTrainer, self)._generate_single_turn(prompt_ids, *args, **kwargs)
        if self._last_loaded_step != before:
            seconds, apart = collectives.objects((generation.seconds, generation.apart))[0]
            self._log_learnt({"seconds_sync": seconds, "engine_check": apart})
        return found

    def _importance(
        self, rows: Mapping[str, Tensor], batch: TokenBatch, signals: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        if self.correction is None:
            return {}
        sampled = rows["sampled"][:, 1:][answer_mask(rows["labels"])]
        weighed = importance(batch, signals["old"], sampled, self.correction)
        for name, pair in measures(weighed).items():
            self._count(name, pair)
        return {IMPORTANCE: weighed.weights}

    def remarks(self) -> list[str]:
        again = self.vllm_generation.again
        said = f"the server was started again {again} times during training; each time it got the weights once more"
        return [*super().remarks(), *([said] if again else [])]


class SentWeights(UserError):
    """Weights that a server cannot take."""


def _check_weights(policy: Any) -> None:
    if getattr(policy, "is_quantized", False) or any(not p.dtype.is_floating_point for p in policy.parameters()):
        raise SentWeights(
            "the policy's weights are quantised, and a server takes whole ones; load it in models.dtype, or leave out "
            "rollouts.engine"
        )
