"""Strengths of requests, as a logits processor of vLLM: it checks them, keeps them by row, and forces an answer that is
to be followed."""

from typing import Any

import torch
from torch import Tensor
from vllm.config import VllmConfig
from vllm.logger import init_logger
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

from trimtab_vllm.dial_config import ARCHITECTURE, served
from trimtab_vllm.dial_folder import KEY, read
from trimtab_vllm.rows import rows_of
from trimtab_vllm.strengths import FOLLOW, check

logger = init_logger("vllm.trimtab")


class Dial(LogitsProcessor):
    """Added by itself to a server of a folder with a dial. Logits are mixed by the model, before any processor."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse a request, which vLLM answers with HTTP 400, or warn of it in the log.

        Raises:
            ValueError: in one line.
        """
        model = served()
        if sampling_params.prompt_logprobs is not None:
            raise ValueError(
                "a model with a dial gives no prompt_logprobs (echo with logprobs); ask for the log-probabilities of "
                "an answer with vllm_xargs.follow"
            )
        args = sampling_params.extra_args
        for warning in check(args, sampling_params.max_tokens, model.folder, model.vocab):
            logger.warning("%s", warning)
        if FOLLOW in (args or {}) and not model.logprobs.startswith("raw"):
            raise ValueError(f"follow needs --logprobs-mode raw_logprobs; this server has {model.logprobs}")

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool):
        if vllm_config.model_config.architecture != ARCHITECTURE:
            raise ValueError(f"{vllm_config.model_config.model} has no dial: leave {type(self).__name__} out")
        self.rows = rows_of(vllm_config)
        self.rows.default = read(getattr(vllm_config.model_config.hf_config, KEY)).default
        self.asked: dict[int, Any] = self.rows.asked

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        process_dict_updates(self.asked, batch_update, self.rows.row)

    def apply(self, logits: Tensor) -> Tensor:
        """[N, V] with all of an answer that is followed banned but its next token."""
        for place, row in self.asked.items():
            token = len(row.output)
            if token < len(row.follow):
                logits[place] = float("-inf")
                logits[place, row.follow[token]] = 0.0
        return logits
