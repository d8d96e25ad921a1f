"""Penalty and adaptive decoding as logits processors of vLLM's first model runner.

    vllm serve MODEL --logits-processors trimtab_vllm.decoding:PenaltyDecoding trimtab_vllm.decoding:AdaptiveDecoding

A request asks for them by `vllm_xargs`: {"penalty_strength": 1.2}, {"adaptive_epsilon": 0.001}. They are never
registered by themselves: an installed processor of this interface would keep vLLM's second model runner from starting.
"""

from torch import Tensor
from vllm.logits_process import LogitsProcessor as OfOneRequest
from vllm.sampling_params import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor

from trimtab_vllm.rules import Adaptive, Penalty, candidates, penalised


class PenaltyDecoding(AdapterLogitsProcessor):
    """`trimtab.decoding.penalty` for each request that asks for it."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        Penalty.asked(sampling_params.extra_args)

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> OfOneRequest | None:
        how, ends = Penalty.asked(params.extra_args), params.all_stop_token_ids
        if how is None:
            return None

        def penalise(prompt: list[int], output: list[int], logits: Tensor) -> Tensor:
            return penalised(logits, prompt, output, how, ends)

        return penalise


class AdaptiveDecoding(AdapterLogitsProcessor):
    """`trimtab.decoding.adaptive` for each request that asks for it, after its temperature."""

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Refuse settings that are none, and top_k and top_p, which vLLM applies afterwards instead of before."""
        if Adaptive.asked(sampling_params.extra_args) is None:
            return
        if sampling_params.top_p < 1 or sampling_params.top_k > 0:
            raise ValueError(
                f"adaptive decoding goes without top_k and top_p, got {sampling_params.top_k} and "
                f"{sampling_params.top_p:g} (maybe from the model's generation_config.json); set them to -1 and 1"
            )

    def is_argmax_invariant(self) -> bool:
        return True  # the most probable token is always kept

    def new_req_logits_processor(self, params: SamplingParams) -> OfOneRequest | None:
        how = Adaptive.asked(params.extra_args)
        if how is None:
            return None

        def adapt(output: list[int], logits: Tensor) -> Tensor:
            return logits.masked_fill(~candidates(logits, how), float("-inf"))

        return adapt
