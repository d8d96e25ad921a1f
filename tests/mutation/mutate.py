"""Plant one mistake at a time in a copy of the source; the tests named for it must go red.

    python tests/mutation/mutate.py             all mistakes, then a table; exit code 1 if one went unnoticed
    python tests/mutation/mutate.py shift hpd   those whose name holds one of the words

A mistake is an exact replacement of a text that the file holds exactly once. A text that is no longer found is an
error and not a mistake that was caught: mend the list when the source changes.
"""

import argparse
import contextlib
import importlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
HEAVY = (
    *("torch", "numpy", "scipy.stats", "pytest", "hypothesis", "_hypothesis_pytestplugin", "pydantic", "tokenizers"),
    *("peft", "trl.trainer.utils", "trl.trainer.dpo_trainer", "trl.experimental.gkd", "trl.kernels.chunked_divergence"),
    *(f"transformers.models.{m}.modeling_{m}" for m in ("llama", "gemma2", "cohere", "granite", "gpt2", "phi", "bert")),
)
"""Imported once, before the children are forked; nothing of trimtab."""


class Mistake(NamedTuple):
    name: str
    file: str
    """under src/trimtab"""
    old: str
    new: str
    tests: tuple[str, ...]
    """files or functions under tests; each must go red"""


BATCH, DRAWS, LOSS = "core/test_batch.py::", "core/test_draws.py::", "core/test_loss.py::"
LOGPROBS, VOCAB = "core/test_logprobs.py::", "core/test_vocab.py::"
DIVERGENCE, PARITY = "objectives/test_divergence.py::", "parity/test_divergence_parity.py::"
SFT, KD, HPD = "methods/test_sft.py::", "methods/test_kd.py::", "methods/test_hpd.py::"
FORWARD, STUDENT, TEACHER = "models/test_forward.py::", "models/test_student.py::", "models/test_frozen_model.py::"
PSFT, TRRA, WSPO = "methods/test_psft.py::", "methods/test_trra.py::", "methods/test_wspo.py::"
DPO_PARITY = "parity/test_dpo_parity.py::"
DPO, CLM, INRA = "methods/test_dpo.py::", "methods/test_clm.py::", "methods/test_inra.py::"
SNAPSHOT, START = "signals/test_snapshot.py::", "signals/test_start.py::"
WINDOWS = "train/test_windows.py::"
FUSED, COLUMNS = "signals/test_fused.py::", "signals/test_columns.py::"
LOADING, TOKENIZERS = "models/test_loading.py::", "models/test_tokenizers.py::"
CHATS, TOKENS = "data/test_chat.py::", "data/test_tokens.py::"
STORED, COLLATE, ROWS = "commands/test_precompute.py::", "data/test_collate.py::", "data/test_rows.py::"
SWEEPS, READING, MEASURED = (f"report/test_report_{name}.py::" for name in ("sweeps", "reading", "measures"))
ADAPTIVE, PENALTY = "decoding/test_adaptive.py::", "decoding/test_penalty.py::"
SCORE, SCORES_PAGE = "commands/test_score.py::", "report/test_scores_page.py::"
CREDIT_MEASURES = "metrics/test_token_scores.py::"
BEGINNING = "decoding/test_beginning.py::"
RAGGED = "decoding/test_ragged.py::"
ROLLOUTS, LEARNING = "train/test_rollouts.py::", "signals/test_learning.py::"
FIRST, NOISE = "train/test_first_ratio.py::", "models/test_noise.py::"
EXTREMES = "contract/test_extremes.py::test_what_underflows_teaches_finite_losses_and_gradients"
OPTIONS = "contract/test_options.py::test_each_option_that_is_taken_does_something"
ADVANTAGES, SURROGATE = "objectives/test_advantages.py::", "objectives/test_policy_gradient.py::"
GRPO, REINFORCE, RLOO, PPO, OPD, DISTRL, LCO = (
    f"methods/test_{name}.py::" for name in ("grpo", "reinforce", "rloo", "ppo", "opd", "distrl", "lco")
)
QUALITY, GEOMREL = "metrics/test_text_quality.py::", "evals/test_geomrel.py::"
PLACED, ORACLE = "data/generators/geometry/test_constructions.py::", "data/generators/geometry/test_oracle.py::"
IDENTITY, REALIGN, DERA = "models/test_identity_layer.py::", "decoding/test_realign.py::", "decoding/test_dera.py::"

MISTAKES = [
    # --- the batch
    Mistake(
        "shift: answer mask not moved by one",
        "core/batch.py",
        "    return labels[:, 1:] != IGNORE",
        "    return labels[:, :-1] != IGNORE",
        (
            BATCH + "test_answer_mask_says_which_predictions_count",
            BATCH + "test_prompt_padding_and_last_position_get_no_gradient",
            SFT + "test_gradient_at_the_logits_is_q_minus_one_hot_over_the_tokens",
        ),
    ),
    Mistake(
        "shift: logits and hidden states moved like labels",
        "core/batch.py",
        "    return states[:, :-1][answer_mask(labels)]",
        "    return states[:, 1:][answer_mask(labels)]",
        (
            BATCH + "test_predicting_states_are_those_one_place_before_the_answer_tokens",
            TEACHER + "test_its_logits_are_the_models_own_at_the_answer_tokens",
            FORWARD + "test_our_sft_is_the_loss_of_transformers_itself",
            BATCH + "test_logits_at_t_meet_the_label_at_t_plus_1",
            BATCH + "test_another_models_logits_are_shifted_like_the_policys",
            PARITY + "test_sft_is_torchs_cross_entropy",
        ),
    ),
    Mistake(
        "shift: token signals moved like logits",
        "core/batch.py",
        "flat[name] = value[:, 1:][mask]",
        "flat[name] = value[:, :-1][mask]",
        (BATCH + "test_a_signal_of_tokens_is_shifted_like_the_labels",),
    ),
    Mistake(
        "shift: targets are the tokens that were read",
        "core/batch.py",
        "        targets = labels[:, 1:][mask]",
        "        targets = labels[:, :-1][mask]",
        (
            BATCH + "test_logits_at_t_meet_the_label_at_t_plus_1",
            SFT + "test_loss_is_minus_the_log_probability_of_the_next",
        ),
    ),
    Mistake(
        "mask: inverted",
        "core/batch.py",
        "    return labels[:, 1:] != IGNORE",
        "    return labels[:, 1:] == IGNORE",
        (
            BATCH + "test_loss_does_not_change_with_the_logits_of_ignored_positions",
            LOSS + "test_count_is_what_each_reduction_divides_by",
        ),
    ),
    Mistake(
        "mask: ignored",
        "core/batch.py",
        "    return labels[:, 1:] != IGNORE",
        "    return labels[:, 1:] == labels[:, 1:]",
        (
            BATCH + "test_rows_positions_and_lengths_of_ragged_rows",
            BATCH + "test_no_answer_token_at_all_gives_an_empty_batch_and_a_loss_of_zero",
        ),
    ),
    Mistake(
        "positions counted from 1 over prompt and answer",
        "core/batch.py",
        "(mask.cumsum(dim=1) - 1)[mask]",
        "(mask | ~mask).cumsum(dim=1)[mask]",
        (
            BATCH + "test_rows_positions_and_lengths_of_ragged_rows",
            DRAWS + "test_the_draws_of_a_batch_are_the_same_for_any_cut_grouping_order_and_padding",
        ),
    ),
    Mistake(
        "crop: to the larger vocabulary",
        "core/batch.py",
        "        return min(sizes)",
        "        return max(sizes)",
        (
            BATCH + "test_both_distributions_are_cropped_to_the_smaller_vocabulary",
            VOCAB + "test_engine_equals_plain_logits_with_a_teacher_of_another_vocabulary",
        ),
    ),
    Mistake(
        "crop: the first lost label kept",
        "core/batch.py",
        "labels.masked_fill(labels >= vocab, IGNORE)",
        "labels.masked_fill(labels > vocab, IGNORE)",
        (
            BATCH + "test_both_distributions_are_cropped",
            BATCH + "test_a_label_outside_the_only_vocabulary_is_no_answer",
        ),
    ),
    Mistake(
        "infinite logits: set to 0",
        "core/batch.py",
        "    return logits.clamp(min=-30_000.0)",
        "    return logits.nan_to_num(neginf=0.0)",
        (BATCH + "test_minus_infinity_has_exactly_no_probability_and_stays_finite",),
    ),
    Mistake(
        "infinite logits: left as they are",
        "core/batch.py",
        "            if value.dim() == 3 and torch.isneginf(flat[name]).any():",
        "            if False:",
        (BATCH + "test_masked_tokens_teach_finite_losses_and_no_gradient_of_their_own",),
    ),
    Mistake(
        "temperature: ignored",
        "core/batch.py",
        "logits.float() / temperature",
        "logits.float()",
        (
            KD + "test_temperature_softens_both_distributions_and_does_not_rescale_the_loss",
            PARITY + "test_kd_is_trls_generalised_jsd_in_value_and_gradient",
        ),
    ),
    Mistake(
        "precision: log-softmax in bfloat16",
        "core/batch.py",
        "torch.log_softmax(scaled, dim=-1, dtype=torch.float32)",
        "torch.log_softmax(scaled, dim=-1).float()",
        (BATCH + "test_log_softmax_of_bfloat16_logits_runs_in_float32", KD + "test_bfloat16_logits_lose_nothing"),
    ),
    Mistake(
        "a replaced signal read from the cache",
        "core/batch.py",
        "signals={**self.signals, **signals}, _cache={})",
        "signals={**self.signals, **signals})",
        (BATCH + "test_a_replaced_signal_is_the_one_that_is_read",),
    ),
    # --- log-probabilities
    Mistake(
        "log-probability: sign of the softmax in the gradient",
        "core/logprobs.py",
        "grad_logits.mul_(-grad.sum(dim=-1, keepdim=True))",
        "grad_logits.mul_(grad.sum(dim=-1, keepdim=True))",
        (LOGPROBS + "test_value_and_gradient_are_those_of_torch", LOGPROBS + "test_gradient_is_one_hot_minus_softmax"),
    ),
    Mistake(
        "log-probability: an id given twice counts once",
        "core/logprobs.py",
        "grad_logits.scatter_add_(-1, ids, grad.to(grad_logits.dtype))",
        "grad_logits.copy_(grad_logits.scatter(-1, ids, grad.float() + grad_logits.gather(-1, ids)))",
        (LOGPROBS + "test_an_id_given_twice_counts_twice_in_the_gradient",),
    ),
    # --- the reduction
    Mistake(
        "divisor: mean of means",
        "core/loss.py",
        "        total = max(len(batch), 1) if total is None else total",
        "        total = max(len(batch), 1)",
        (
            LOSS + "test_a_total_that_is_given_replaces_the_count_of_this_batch",
            LOSS + "test_loss_does_not_depend_on_how_rows_are_grouped",
            HPD + "test_any_split_into_micro_batches_has_the_same_draws_and_the_same_gradient",
            FORWARD + "test_eight_rows_give_the_same_gradient_as_8x1_2x4_and_1x8",
        ),
    ),
    Mistake(
        "divisor: long rows count more in the mean over sequences",
        "core/loss.py",
        "(ones / batch.lengths[batch.row] if how",
        "(ones if how",
        (LOSS + "test_sequence_mean_gives_every_row_with_an_answer_the_same_share",),
    ),
    Mistake(
        "divisor: rows without an answer counted",
        "core/loss.py",
        "        return mask.any(dim=1).sum()",
        "        return (mask.sum(dim=1) >= 0).sum()",
        (
            LOSS + "test_count_is_what_each_reduction_divides_by",
            LOSS + "test_the_count_of_the_batch_itself_is_the_default_total",
        ),
    ),
    Mistake(
        "divisor: the call's total is dropped",
        "models/forward.py",
        "weights(batch, call.reduction, call.total, call.objective.per)",
        "weights(batch, call.reduction, per=call.objective.per)",
        (
            FORWARD + "test_the_call_says_how_to_divide",
            FORWARD + "test_eight_rows_give_the_same_gradient_as_8x1_2x4_and_1x8",
        ),
    ),
    Mistake(
        "reduction: mean of the weighted values",
        "core/loss.py",
        "    return (losses.values * weights).sum()",
        "    return (losses.values * weights).mean()",
        (LOSS + "test_token_mean_divides_by_the_answer_tokens", VOCAB + "test_engine_equals_plain_logits"),
    ),
    # --- draws
    Mistake(
        "draws: the hash ignores the row",
        "core/draws.py",
        "for part in (seed, step, stream, row_id, position):",
        "for part in (seed, step, stream, position):",
        (DRAWS + "test_a_draw_depends_on_each_of_its_five_coordinates", DRAWS + "test_draws_are_uniform"),
    ),
    Mistake(
        "draws: the hash ignores the update",
        "core/draws.py",
        "for part in (seed, step, stream, row_id, position):",
        "for part in (seed, stream, row_id, position):",
        (
            DRAWS + "test_the_draws_of_a_batch_change_with_seed_step_and_stream",
            HPD + "test_another_step_or_seed_draws_other_competitors",
            FORWARD + "test_seed_and_step_of_the_call_reach_the_draws",
        ),
    ),
    Mistake(
        "draws: the coordinates are summed, not mixed",
        "core/draws.py",
        "        state = _mix(state + _signed(_GOLDEN) + part)",
        "        state = state + part\n    state = _mix(state)",
        (DRAWS + "test_draws_for_different_places_are_independent",),
    ),
    Mistake(
        "draws: by the row of the micro-batch",
        "core/batch.py",
        "hashed_uniform(self.seed, self.step, self.row_id[self.row], self.position, stream)",
        "hashed_uniform(self.seed, self.step, self.row, self.position, stream)",
        (
            DRAWS + "test_the_draws_of_a_batch_are_the_same_for_any_cut_grouping_order_and_padding",
            HPD + "test_any_split_into_micro_batches_has_the_same_draws_and_the_same_gradient",
        ),
    ),
    Mistake(
        "draws: from the global generator",
        "core/batch.py",
        "hashed_uniform(self.seed, self.step, self.row_id[self.row], self.position, stream)",
        "torch.rand(len(self))",
        (
            HPD + "test_evaluating_twice_gives_the_same_loss_and_leaves_the_generator_alone",
            HPD + "test_any_split_into_micro_batches_has_the_same_draws_and_the_same_gradient",
            FORWARD + "test_eight_rows_give_the_same_gradient_as_8x1_2x4_and_1x8",
        ),
    ),
    Mistake(
        "draws: an id of probability 0 at the end of its interval",
        "core/draws.py",
        "right=True",
        "right=False",
        (
            DRAWS + "test_inverse_cdf_never_returns_an_id_of_probability_zero",
            DRAWS + "test_the_ends_of_the_unit_interval_give_the_first_and_the_last_possible_id",
        ),
    ),
    Mistake(
        "draws: probabilities not normalised",
        "core/draws.py",
        "uniform.to(cdf.dtype).unsqueeze(-1) * cdf[:, -1:]",
        "uniform.to(cdf.dtype).unsqueeze(-1) * 1.0",
        (DRAWS + "test_inverse_cdf_normalises_each_row",),
    ),
    # --- the engine
    Mistake(
        "head: gradient of the last block only",
        "core/vocab.py",
        "total.addmm_(grad_raw.T, leaf)",
        "total.copy_(grad_raw.T @ leaf)",
        (VOCAB + "test_engine_equals_plain_logits",),
    ),
    Mistake(
        "head: gradient of the last block only, where autograd makes it",
        "core/vocab.py",
        "            total.add_(grad)\n",
        "            total.copy_(grad)\n",
        (VOCAB + "test_a_head_of_two_layers_trains_both",),
    ),
    Mistake(
        "head: gradient of the bias dropped",
        "core/vocab.py",
        "total.add_(grad_raw.sum(dim=0))",
        "pass",
        (VOCAB + "test_only_the_bias_can_be_trained",),
    ),
    Mistake(
        "head: hooks passed over",
        "core/vocab.py",
        "            and not (module._forward_pre_hooks or module._forward_hooks)\n",
        "",
        (VOCAB + "test_what_a_hook_makes_of_a_linear_head_is_trained_through",),
    ),
    Mistake(
        "head: a forward of its own passed over",
        "core/vocab.py",
        '            and "forward" not in vars(module)',
        "            and True",
        (VOCAB + "test_what_a_patched_forward_makes_of_a_linear_head_is_trained_through",),
    ),
    Mistake(
        "engine: logits left in the place of a gradient that is nothing",
        "core/vocab.py",
        "grad_raw[inside] = 0",
        "pass",
        (VOCAB + "test_values_that_do_not_depend_on_the_policy_give_it_no_gradient",),
    ),
    Mistake(
        "head: gradient dropped",
        "core/vocab.py",
        "        return trainable\n",
        "        return []\n",
        (
            VOCAB + "test_a_head_that_is_trained_alone_gets_its_gradient",
            FORWARD + "test_a_tied_head_and_embedding_get_one_gradient_that_holds_both",
            FORWARD + "test_lora_gets_the_gradients_of_plain_autograd_and_the_rest_none",
        ),
    ),
    Mistake(
        "head: frozen parameters asked for a gradient",
        "core/vocab.py",
        "= [p for p in self.module.parameters() if p.requires_grad]",
        "= list(self.module.parameters())",
        (VOCAB + "test_only_the_bias_can_be_trained",),
    ),
    Mistake(
        "head: logit scale skipped",
        "core/vocab.py",
        "        if self.scale != 1.0:",
        "        if False:",
        (
            VOCAB + "test_the_head_scales_first_and_caps_afterwards",
            FORWARD + "test_our_sft_is_the_loss_of_transformers_itself",
            PARITY + "test_the_engine_with_kd_is_trls_chunked_divergence_from_hidden_states",
        ),
    ),
    Mistake(
        "head: soft-cap skipped",
        "core/vocab.py",
        "        if self.softcap is not None:",
        "        if False:",
        (
            VOCAB + "test_the_head_scales_first_and_caps_afterwards",
            FORWARD + "test_our_sft_is_the_loss_of_trls_fused_head_in_value_and_gradient",
        ),
    ),
    Mistake(
        "head: logits divided where they are multiplied",
        "models/forward.py",
        "1.0 / float(scaling)",
        "float(scaling)",
        (FORWARD + "test_the_scale_and_the_soft_cap_are_those_of_the_config",),
    ),
    Mistake(
        "engine: gradient from above ignored",
        "core/vocab.py",
        "scale = grad_outputs[0] * ctx.scale",
        "scale = ctx.scale",
        (VOCAB + "test_the_gradient_that_comes_from_above_is_multiplied_in",),
    ),
    Mistake(
        "engine: weights are not scaled back",
        "core/vocab.py",
        "scale = grad_outputs[0] * ctx.scale",
        "scale = grad_outputs[0]",
        (VOCAB + "test_engine_equals_plain_logits",),
    ),
    Mistake(
        "engine: small weights underflow in float16",
        "core/vocab.py",
        "torch.where(largest > 0, torch.exp2(torch.ceil(torch.log2(largest)) + 4), 1.0)",
        "torch.ones_like(largest)",
        (VOCAB + "test_float16_gradients_survive_with_a_scaled_loss",),
    ),
    Mistake(
        "engine: weights of the first tokens for every slice",
        "core/vocab.py",
        "self.weights[part].to(values.dtype)",
        "self.weights[: len(values)].to(values.dtype)",
        (VOCAB + "test_engine_equals_plain_logits_for_every_reduction",),
    ),
    Mistake(
        "engine: gradient of a slice at the wrong tokens",
        "core/vocab.py",
        "(grad_raw[inside],) = torch",
        "(grad_raw[: inside.stop - inside.start],) = torch",
        (VOCAB + "test_engine_equals_plain_logits",),
    ),
    Mistake(
        "engine: metrics of the last slice only",
        "core/vocab.py",
        "(before[0] + total, before[1] + number)",
        "(total, number)",
        (VOCAB + "test_engine_equals_plain_logits", VOCAB + "test_without_gradients_the_values_are_the_same"),
    ),
    Mistake(
        "engine: blocks read backwards",
        "core/vocab.py",
        "        for block in reversed(blocks) if backwards else blocks:",
        "        for block in reversed(blocks):",
        (
            VOCAB + "test_an_objective_that_keeps_what_it_sees_sees_the_tokens_in_their_order",
            "train/test_heldout.py::test_rows_are_measured_the_same_in_any_batches_and_as_from_full_logits",
        ),
    ),
    Mistake(
        "engine: one block for all tokens",
        "core/vocab.py",
        "_cut(len(self.batch), BLOCK_TOKENS)",
        "_cut(len(self.batch), 10**9)",
        (VOCAB + "test_no_tensor_grows_with_tokens_times_vocabulary",),
    ),
    Mistake(
        "sequences: every one weighs 1 in the gradient",
        "core/vocab.py",
        "leaf, weights.to(losses.values.dtype))",
        "leaf, torch.ones_like(losses.values))",
        (DPO_PARITY + "test_dpo_is_trls_in_value_and_gradient",),
    ),
    Mistake(
        "sequences: the carrier of the gradient left in the loss",
        "core/vocab.py",
        "loss = loss + (carrier - carrier.detach())",
        "loss = loss + carrier",
        (
            DPO_PARITY + "test_dpo_is_trls_in_value_and_gradient",
            DPO + "test_it_starts_at_log_2_when_the_reference_is_a_copy_of_the_policy",
        ),
    ),
    Mistake(
        "forward: hidden states one place late",
        "models/forward.py",
        "predicting(hidden, call.labels)",
        "predicting(hidden.roll(-1, 1), call.labels)",
        (
            FORWARD + "test_a_tied_head_and_embedding_get_one_gradient_that_holds_both",
            FORWARD + "test_our_sft_is_the_loss_of_transformers_itself",
        ),
    ),
    Mistake(
        "forward: a deepcopy runs the original",
        "models/forward.py",
        "MethodType(type(self).forward, self)",
        "MethodType(type(self).forward, model)",
        (FORWARD + "test_a_deepcopy_runs_its_own_weights",),
    ),
    Mistake(
        "forward: unknown logits accepted",
        "models/forward.py",
        "            if _gives(model, hidden, own):",
        "            if True:",
        (FORWARD + "test_a_model_whose_logits_cannot_be_rebuilt_is_refused",),
    ),
    # --- objectives and methods
    Mistake(
        "sft: sign of the log-likelihood",
        "objectives/likelihood.py",
        'if self.weight != "one" else -logprobs',
        'if self.weight != "one" else logprobs',
        (
            SFT + "test_loss_is_minus_the_log_probability_of_the_next_token",
            SFT + "test_gradient_at_the_logits_is_q_minus_one_hot_over_the_tokens",
            PARITY + "test_sft_is_torchs_cross_entropy",
        ),
    ),
    Mistake(
        "divergence: direction of the forward KL",
        "objectives/divergence.py",
        "    return _kl(teacher_logprobs.detach(), student_logprobs)",
        "    return _kl(student_logprobs, teacher_logprobs.detach())",
        (
            DIVERGENCE + "test_forward_kl_of_two_known_distributions",
            DIVERGENCE + "test_gradient_of_the_forward_kl_at_the_logits_is_q_minus_p",
            PARITY + "test_forward_kl_is_torchs_kl_div",
            PARITY + "test_kd_is_trls_generalised_jsd_in_value_and_gradient",
        ),
    ),
    Mistake(
        "divergence: direction of the reverse KL",
        "objectives/divergence.py",
        "    return _kl(student_logprobs, teacher_logprobs.detach())",
        "    return _kl(teacher_logprobs.detach(), student_logprobs)",
        (
            DIVERGENCE + "test_reverse_kl_of_two_known_distributions",
            PARITY + "test_reverse_kl_is_torchs_kl_div_with_the_roles_exchanged",
        ),
    ),
    Mistake(
        "divergence: the teacher is trained too",
        "objectives/divergence.py",
        "    return _kl(teacher_logprobs.detach(), student_logprobs)",
        "    return _kl(teacher_logprobs, student_logprobs)",
        (DIVERGENCE + "test_the_teacher_gets_no_gradient",),
    ),
    Mistake(
        "divergence: shares of the mixture exchanged",
        "objectives/divergence.py",
        "log_p + math.log(share_of_p), log_q + math.log1p(-share_of_p)",
        "log_q + math.log(share_of_p), log_p + math.log1p(-share_of_p)",
        (
            DIVERGENCE + "test_beta_is_the_share_of_the_teacher_in_the_mixture_and_in_the_sum",
            DIVERGENCE + "test_skewed_forward_kl_mixes_the_teacher_into_the_student",
            DIVERGENCE + "test_skewed_divergences_stay_below_minus_log_skew_and_reach_it",
        ),
    ),
    Mistake(
        "divergence: the JSD's two terms exchanged",
        "objectives/divergence.py",
        "    return beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)",
        "    return (1 - beta) * _kl(log_p, log_m) + beta * _kl(log_q, log_m)",
        (
            DIVERGENCE + "test_jsd_over_beta_tends_to_the_forward_kl",
            PARITY + "test_kd_is_trls_generalised_jsd_in_value_and_gradient",
        ),
    ),
    Mistake(
        "kd: temperature of the student alone",
        "objectives/matching.py",
        'batch.log_softmax("teacher", self.temperature)',
        'batch.log_softmax("teacher")',
        (
            KD + "test_temperature_softens_both_distributions_and_does_not_rescale_the_loss",
            PARITY + "test_kd_is_trls_generalised_jsd_in_value_and_gradient",
        ),
    ),
    Mistake(
        "kd: shares of divergence and cross-entropy exchanged",
        "objectives/matching.py",
        "(1 - self.cross_entropy) * values + self.cross_entropy * nll",
        "self.cross_entropy * values + (1 - self.cross_entropy) * nll",
        (KD + "test_cross_entropy_is_mixed_in_at_temperature_1", KD + "test_all_cross_entropy_is_sft"),
    ),
    Mistake(
        "hpd: agreement counts as up",
        "methods/hpd.py",
        "up = (k > 0)",
        "up = (k >= 0)",
        (
            HPD + "test_the_weights_of_every_branch_are_those_of_the_paper",
            HPD + "test_a_student_equal_to_its_teacher_gets_loss_0_and_gradient_0",
        ),
    ),
    Mistake(
        "hpd: suppresses what the student underestimates",
        "methods/hpd.py",
        "~hit & (k_draw < 0)",
        "~hit & (k_draw > 0)",
        (
            HPD + "test_the_weights_of_every_branch_are_those_of_the_paper",
            HPD + "test_the_objective_is_the_paper_written_out_token_by_token",
            HPD + "test_the_second_weight_is_never_positive_and_neither_has_a_gradient",
        ),
    ),
    Mistake(
        "hpd: pulls the competitor up",
        "methods/hpd.py",
        "pull, suppress * k_draw",
        "pull, -(suppress * k_draw)",
        (
            HPD + "test_the_weights_of_every_branch_are_those_of_the_paper",
            HPD + "test_gradient_at_the_logits_is_the_two_weighted_one_hots_minus_q",
        ),
    ),
    Mistake(
        "hpd: hit mask one place off",
        "methods/hpd.py",
        "hit = ids[:, 0] == ids[:, 1]",
        "hit = ids[:, 0].roll(1) == ids[:, 1]",
        (
            HPD + "test_a_draw_is_compared_with_its_own_label_and_not_with_the_one_before",
            HPD + "test_the_objective_is_the_paper_written_out_token_by_token",
        ),
    ),
    Mistake(
        "hpd: hits not excluded",
        "methods/hpd.py",
        "~hit & (k_draw < 0)",
        "(k_draw < 0)",
        (
            HPD + "test_the_weights_of_every_branch_are_those_of_the_paper",
            HPD + "test_draws_that_always_hit_leave_k_or_p_plus_k_on_the_label",
        ),
    ),
    Mistake(
        "hpd: reinforcement lost",
        "methods/hpd.py",
        "1 + suppress.float() if reinforce else 1.0",
        "1.0",
        (
            HPD + "test_the_weights_of_every_branch_are_those_of_the_paper",
            HPD + "test_each_ablation_reaches_the_objective",
        ),
    ),
    Mistake(
        "hpd: sign of the loss",
        "methods/hpd.py",
        "        values = -(weight * student).sum(dim=1)",
        "        values = (weight * student).sum(dim=1)",
        (
            HPD + "test_with_one_update_a_batch_the_loss_form_has_the_gradient_of_two_added_ppo_surrogates",
            HPD + "test_a_sure_teacher_and_a_student_that_gives_the_label_nothing_make_it_plain_cross_entropy",
        ),
    ),
    Mistake(
        "hpd: gradient through the weights",
        "methods/hpd.py",
        "    with torch.no_grad():\n        k = ",
        "    with torch.enable_grad():\n        k = ",
        (HPD + "test_the_second_weight_is_never_positive_and_neither_has_a_gradient",),
    ),
    Mistake(
        "hpd: draws in the dtype of the logits",
        "methods/hpd.py",
        "batch.log_softmax().detach().exp()",
        "batch.logits().detach().softmax(dim=-1)",
        (HPD + "test_draws_from_bfloat16_logits_use_a_float32_softmax",),
    ),
    Mistake(
        "hpd: printed sign of the JSD weight",
        "methods/hpd.py",
        "        return q * (torch.logaddexp",
        "        return -q * (torch.logaddexp",
        (
            HPD + "test_descending_a_one_token_baseline_over_every_label_makes_its_divergence_fall",
            HPD + "test_the_opposite_sign_makes_the_divergence_grow",
        ),
    ),
    Mistake(
        "sft: gradient through the weight of a token",
        "objectives/likelihood.py",
        "self._weight(batch, logprobs.detach())",
        "self._weight(batch, logprobs)",
        (
            SFT + "test_weighted_by_probability_each_token_has_the_gradient_of_sft_times",
            SFT + "test_weighted_by_the_ratio_to_the_start",
        ),
    ),
    Mistake(
        "sft: the weight ratio capped from below",
        "objectives/likelihood.py",
        ".exp().clamp(max=self.cap)",
        ".exp().clamp(min=self.cap)",
        (SFT + "test_weighted_by_the_ratio_to_the_start",),
    ),
    Mistake(
        "sft: the estimated KL turned around",
        "objectives/likelihood.py",
        "    log_ratio = (reference_logprobs - logprobs)",
        "    log_ratio = (logprobs - reference_logprobs)",
        (
            SFT + "test_k3_is_r_minus_1_minus_log_r_and_averages_to_the_kl_under_the_policy",
            SFT + "test_the_gradient_of_the_kl_pulls_back_towards_the_start",
        ),
    ),
    Mistake(
        "psft: clipped at the lower end",
        "methods/psft.py",
        "-ratio.clamp(max=1 + epsilon)",
        "-ratio.clamp(min=1 - epsilon)",
        (
            PSFT + "test_the_loss_is_minus_the_ratio_up_to_the_clip",
            PSFT + "test_the_gradient_at_the_log_probability_is_minus_the_ratio_and_exactly_zero_past_the_clip",
            PSFT + "test_with_every_ratio_past_the_clip_the_gradient_is_exactly_zero",
            PSFT + "test_far_below_1_the_gradient_at_the_logits_is_the_ratio_times_that_of_sft",
            PSFT + "test_every_value_lies_between_minus_1_minus_epsilon_and_0",
            DPO_PARITY + "test_psft_is_its_formula",
        ),
    ),
    Mistake(
        "psft: the ratio turned around",
        "methods/psft.py",
        "    ratio = ratios(logprobs, snapshot_logprobs)",
        "    ratio = ratios(snapshot_logprobs, logprobs)",
        (
            PSFT + "test_the_loss_is_minus_the_ratio_up_to_the_clip",
            PSFT + "test_a_fresh_snapshot_gives_minus_1_and_the_gradient_of_sft",
            PSFT + "test_with_a_new_snapshot_at_each_update_it_is_sft",
        ),
    ),
    Mistake(
        "ratio: the other side is trained too",
        "objectives/policy_gradient.py",
        "    return (logprobs - old.detach())",
        "    return (logprobs - old)",
        (PSFT + "test_the_snapshot_gets_no_gradient",),
    ),
    Mistake(
        "psft: a window's snapshot lives for one pass over it",
        "methods/psft.py",
        "config.refresh * config.inner_epochs",
        "config.refresh",
        (PSFT + "test_a_snapshot_lives_as_long_as_its_window_is_gone_through",),
    ),
    Mistake(
        "trra: reference and aligned exchanged",
        "methods/trra.py",
        "FusedTeacher(reference, aligned, config.strength)",
        "FusedTeacher(aligned, reference, config.strength)",
        (
            TRRA + "test_a_policy_equal_to_the_end_of_the_scale_has_loss_0_and_gradient_0",
            TRRA + "test_the_gradient_at_the_logits_is_the_difference_of_the_softmaxes_over_the_tokens",
        ),
    ),
    Mistake(
        "wspo: gamma at the weak ratio",
        "methods/wspo.py",
        "self.gamma * strong - weak",
        "strong - self.gamma * weak",
        (
            WSPO + "test_each_token_costs_the_square_of_gamma_times_the_strong_ratio_minus_the_weak_one",
            WSPO + "test_nothing_is_left_to_learn_where_the_strong_ratio_is_the_weak_one_over_gamma",
            WSPO + "test_a_policy_equal_to_its_reference_costs_the_mean_squared_weak_ratio",
            DPO_PARITY + "test_wspo_is_its_formula",
        ),
    ),
    Mistake(
        "wspo: the weak pair exchanged",
        "methods/wspo.py",
        'batch.logprobs(of="weak_aligned") - batch.logprobs(of="weak_reference")',
        'batch.logprobs(of="weak_reference") - batch.logprobs(of="weak_aligned")',
        (
            WSPO + "test_each_token_costs_the_square_of_gamma_times_the_strong_ratio_minus_the_weak_one",
            WSPO + "test_two_live_models_and_a_stored_column_are_the_same",
        ),
    ),
    Mistake(
        "wspo: sums over answers where means are meant",
        "methods/wspo.py",
        "(batch.row_sum(one) / batch.lengths.clamp(min=1) for one in (error, nll))",
        "(batch.row_sum(one) for one in (error, nll))",
        (WSPO + "test_at_the_level_of_answers_the_mean_difference_is_squared",),
    ),
    Mistake(
        "wspo: long answers count more",
        "methods/wspo.py",
        'config.mean == "row"',
        "False",
        (WSPO + "test_what_counts_alike",),
    ),
    Mistake(
        "dpo: chosen and rejected exchanged",
        "objectives/preference.py",
        "ratios[0::2], ratios[1::2]",
        "ratios[1::2], ratios[0::2]",
        (
            DPO + "test_log_ratios_are_summed_over_each_answer_and_both_rows_of_a_pair_carry_its_loss",
            DPO + "test_the_gradient_at_the_logits_pulls_up_the_chosen_answer_and_pushes_down_the_rejected_one",
            CLM + "test_the_margin_of_the_chosen_answers_grows_with_the_strength_on_both_sides",
        ),
    ),
    Mistake(
        "dpo: means over answers where sums are meant",
        "objectives/preference.py",
        'batch.logprobs(of="reference"))  # [R]',
        'batch.logprobs(of="reference")) / batch.lengths',
        (
            DPO + "test_log_ratios_are_summed_over_each_answer_and_both_rows_of_a_pair_carry_its_loss",
            DPO + "test_the_gradient_at_the_logits_pulls_up_the_chosen_answer",
            DPO_PARITY + "test_dpo_is_trls_in_value_and_gradient",
        ),
    ),
    Mistake(
        "dpo: without the reference",
        "objectives/preference.py",
        'batch.logprobs() - batch.logprobs(of="reference")',
        "batch.logprobs()",
        (
            DPO + "test_it_starts_at_log_2_when_the_reference_is_a_copy_of_the_policy",
            CLM + "test_it_starts_at_log_2_with_the_network_itself_as_reference",
            INRA + "test_its_dpo_starts_at_log_2",
        ),
    ),
    Mistake(
        "dpo: an unfinished pair accepted",
        "objectives/preference.py",
        "if len(ratios) % 2 or not (batch.lengths > 0).all():",
        "if len(ratios) % 2:",
        (DPO + "test_what_are_no_pairs_is_refused",),
    ),
    # --- signals and models
    Mistake(
        "snapshot: never renewed",
        "signals/snapshot.py",
        "(done > 0 and self.every is not None and done % self.every == 0)",
        "False",
        (
            SNAPSHOT + "test_it_is_renewed_every_so_many_updates_and_gives_nothing_while_it_is_as_old_as_the_policy",
            SNAPSHOT + "test_a_run_that_goes_on_where_a_window_begins_takes_a_new_one",
            PSFT + "test_with_a_new_snapshot_at_each_update_it_is_sft",
        ),
    ),
    Mistake(
        "snapshot: runs the live policy, so the ratio is always 1",
        "signals/snapshot.py",
        "            parameter.data = lagged",
        "            pass",
        (
            SNAPSHOT + "test_in_a_trainer_the_ratio_leaves_1_after_an_update_and_returns_with_a_new_snapshot",
            SNAPSHOT + "test_under_lora_only_adapters_are_copied",
            PSFT + "test_with_an_older_snapshot_it_moves_the_policy_less_far_than_sft",
        ),
    ),
    Mistake(
        "snapshot: an error leaves the lagged weights in the policy",
        "signals/snapshot.py",
        "            found = self._read(policy, inputs)\n        finally:\n            self._exchange()",
        "            found = self._read(policy, inputs)\n            self._exchange()\n"
        "        finally:\n            pass",
        (SNAPSHOT + "test_an_error_while_it_is_read_leaves_the_policy_as_it_was",),
    ),
    Mistake(
        "snapshot: the weights of the update before",
        "signals/snapshot.py",
        "parameter.detach().clone()",
        "parameter.detach()",
        (
            SNAPSHOT + "test_it_is_renewed_every_so_many_updates_and_gives_nothing",
            SNAPSHOT + "test_a_step_between_two_reads_does_not_reach_it",
        ),
    ),
    Mistake(
        "snapshot: frozen weights copied too",
        "signals/snapshot.py",
        "            if not parameter.requires_grad:",
        "            if False:",
        (SNAPSHOT + "test_under_lora_only_adapters_are_copied",),
    ),
    Mistake(
        "snapshot: that of a checkpoint forgotten",
        "signals/snapshot.py",
        "        elif self._stored:",
        "        elif False:",
        (
            SNAPSHOT + "test_what_a_checkpoint_holds_brings_the_snapshot_back_in_mid_window",
            SNAPSHOT + "test_a_resumed_training_ends_with_the_weights_of_one_that_was_not_interrupted",
        ),
    ),
    Mistake(
        "windows: one row of each",
        "train/windows.py",
        "                yield from order[start : start + self.window]",
        "                yield order[start : start + self.window][_]",
        (WINDOWS + "test_each_window_is_given_several_times_in_a_row_before_the_next",),
    ),
    Mistake(
        "windows: the same order in every epoch",
        "train/orders.py",
        "hash((self.seed, self.epoch)) % 2**63",
        "self.seed",
        (WINDOWS + "test_the_rows_that_fill_no_window_change_from_epoch_to_epoch",),
    ),
    Mistake(
        "start: what is trained stays switched on",
        "signals/start.py",
        "        with self.off():\n            if not self.distribution:",
        "        with torch.no_grad():\n            if not self.distribution:",
        (
            START + "test_it_is_the_base_model_to_the_last_bit_whatever_was_trained",
            CLM + "test_around_the_trained_layer_the_network_is_the_original_to_the_last_bit",
            DPO_PARITY + "test_dpo_of_an_adapter_is_trls_with_the_policy_without_it_as_reference",
        ),
    ),
    Mistake(
        "start: read with dropout",
        "signals/start.py",
        "    policy.train(training)\n",
        "",
        (START + "test_dropout_is_off_while_it_is_read_and_the_mode_comes_back",),
    ),
    Mistake(
        "identity layer: not passed over",
        "models/identity_layer.py",
        "            return replace(given, output)",
        "            return output",
        (
            START + "test_it_is_the_base_model_to_the_last_bit_whatever_was_trained",
            CLM + "test_around_the_trained_layer_the_network_is_the_original_to_the_last_bit",
            INRA + "test_training_the_layer_leaves_the_network_around_it_as_it_was",
        ),
    ),
    Mistake(
        "fused teacher: the ends of the scale exchanged",
        "signals/fused.py",
        "torch.lerp(r, a, self.strength)",
        "torch.lerp(a, r, self.strength)",
        (
            FUSED + "test_the_ends_of_the_scale_are_the_models_themselves_to_the_last_bit",
            FUSED + "test_in_between_and_beyond_the_logits_are_linear_in_the_strength",
            TRRA + "test_each_token_costs_the_kl_from_the_softmax_of_the_mixed_logits",
        ),
    ),
    Mistake(
        "fused teacher: probabilities mixed, not logits",
        "signals/fused.py",
        "            return torch.lerp(r, a, self.strength)",
        "            return torch.lerp(r.softmax(-1), a.softmax(-1), self.strength).clamp(min=1e-30).log()",
        (
            FUSED + "test_in_between_and_beyond_the_logits_are_linear_in_the_strength",
            TRRA + "test_each_token_costs_the_kl_from_the_softmax_of_the_mixed_logits",
        ),
    ),
    Mistake(
        "columns: one place early",
        "signals/columns.py",
        "[:, 1:][answer_mask(",
        "[:, :-1][answer_mask(",
        (
            COLUMNS + "test_each_number_stands_at_its_own_answer_token",
            WSPO + "test_two_live_models_and_a_stored_column_are_the_same",
        ),
    ),
    Mistake(
        "teacher: hidden states one place late",
        "signals/frozen.py",
        "predicting(output.last_hidden_state, labels)",
        "predicting(output.last_hidden_state.roll(-1, 1), labels)",
        (
            TEACHER + "test_its_logits_are_the_models_own_at_the_answer_tokens",
            FORWARD + "test_a_tied_head_and_embedding_get_one_gradient_that_holds_both",
        ),
    ),
    Mistake(
        "teacher: not frozen",
        "signals/frozen.py",
        "model.eval().requires_grad_(False)",
        "model.eval()",
        (TEACHER + "test_the_model_is_frozen_in_eval_mode_and_named",),
    ),
    Mistake(
        "teacher: runs under the policy's autocast",
        "signals/frozen.py",
        "        with torch.autocast(hidden.device.type, enabled=False):\n            return resolve_head",
        "        with torch.no_grad():\n            return resolve_head",
        (TEACHER + "test_it_runs_in_its_own_dtype_whatever_the_autocast",),
    ),
    Mistake(
        "student: layers keep their old numbers",
        "models/student.py",
        "    made.tie_weights()",
        "    made.tie_weights()\n"
        "    for new, old in enumerate(layers):\n"
        "        for module in find_layers(made, len(layers))[1][new].modules():\n"
        '            if hasattr(module, "layer_idx"):\n'
        "                module.layer_idx = old",
        (STUDENT + "test_layers_are_renumbered",),
    ),
    Mistake(
        "student: config lists cut at the end",
        "models/kept_layers.py",
        "type(value)(value[i] for i in layers)",
        "value[: len(layers)]",
        (
            STUDENT + "test_lists_with_one_entry_a_layer_are_cut_alike",
            STUDENT + "test_logits_are_those_of_the_original_without_the_other_layers",
        ),
    ),
    Mistake(
        "student: the first layers whatever was asked for",
        "models/student.py",
        "if old == int(index)}",
        "if new == int(index)}",
        (STUDENT + "test_logits_are_those_of_the_original_without_the_other_layers",),
    ),
    Mistake(
        "dial: the first projection of a block is zeroed, not the last",
        "models/layer_outputs.py",
        "for name in dict.fromkeys(reversed(seen.order)) if",
        "for name in dict.fromkeys(seen.order) if",
        (IDENTITY + "test_what_writes_the_output_of_a_block_is_found",),
    ),
    Mistake(
        "dial: output biases are not zeroed",
        "models/identity_layer.py",
        "isinstance(writer, nn.Parameter) else writer.parameters():",
        "isinstance(writer, nn.Parameter) else [writer.weight]:",
        (IDENTITY + "test_only_the_output_projections_differ_from_a_copy_of_the_first_layer",),
    ),
    Mistake(
        "dial: the identity is taken for granted",
        "models/identity_layer.py",
        "    if not all(torch.equal(given, returned) for given, returned in seen) or",
        "    if not seen and",
        (IDENTITY + "test_attention_scaled_by_the_layers_number_is_refused",),
    ),
    Mistake(
        "dial: an expert's first weights are zeroed, which never learn again",
        "models/layer_outputs.py",
        "    return any(gradient is not None and int(gradient.count_nonzero()) for gradient in gradients)",
        "    return True",
        (IDENTITY + "test_weights_at_zero_that_would_never_learn_are_not_chosen",),
    ),
    Mistake(
        "dial: only the experts that a few tokens reach are zeroed",
        "models/layer_outputs.py",
        "if isinstance(members, nn.ModuleList) and parts[at].isdigit():",
        "if isinstance(members, nn.ModuleList) and parts[at].isalpha():",
        (IDENTITY + "test_all_experts_of_a_list_are_zeroed",),
    ),
    Mistake(
        "dial: the new layer comes after the first",
        "models/identity_layer.py",
        "        _, layers = find_layers(expanded, number + 1)",
        "        layers = find_layers(expanded, number + 1)[1][1:]",
        (
            IDENTITY + "test_only_the_output_projections_differ_from_a_copy_of_the_first_layer",
            IDENTITY + "test_around_a_changed_layer_the_logits_are_the_originals",
        ),
    ),
    Mistake(
        "dial: the config's lists are not extended",
        "models/kept_layers.py",
        "and _by_layer(name, value, total):",
        "and _by_layer(name, value, total) and len(layers) <= total:",
        (
            IDENTITY + "test_layers_are_renumbered_and_lists_with_one_entry_a_layer_repeat_their_first",
            IDENTITY + "test_logits_are_those_of_the_original_to_the_last_bit",
        ),
    ),
    Mistake(
        "dial: the model is not marked",
        "models/identity_layer.py",
        "    setattr(expanded.config, MARK, True)",
        "    setattr(model.config, MARK, True)",
        (
            IDENTITY + "test_a_saved_folder_loads_with_stock_classes",
            IDENTITY + "test_logits_are_those_of_the_original_to_the_last_bit",
        ),
    ),
    Mistake(
        "dial: everything is trained",
        "models/identity_layer.py",
        "    model.requires_grad_(False)",
        "    layer.requires_grad_(False)",
        (IDENTITY + "test_only_the_layer_gets_gradients_and_moves_the_loss",),
    ),
    Mistake(
        "dial: the other rows go around",
        "models/identity_layer.py",
        "torch.where(_for_each(rows, given), given, computed)",
        "torch.where(_for_each(rows, given), computed, given)",
        (
            IDENTITY + "test_rows_choose_for_themselves",
            IDENTITY + "test_no_gradient_comes_from_rows_that_go_around",
            REALIGN + "test_at_0_it_is_the_original_model_and_at_1_the_expanded_one",
        ),
    ),
    Mistake(
        "asked: a model is spread before its adapter reaches it",
        "models/loading.py",
        "    late = adapter is not None and",
        "    late = False and",
        ("models/test_asked_models.py::test_an_adapter_reaches_all_layers_of_a_model_that_is_spread",),
    ),
    Mistake(
        "dial: names of a dense identity layer are read as those of experts",
        "models/layer_lora.py",
        "    kept = known.pop(kind, None)",
        "    kept = known.get(kind)",
        ("runs/test_lora_runs.py::test_adapters_of_a_dense_identity_layer_stay_out_of_the_experts_behind_it",),
    ),
    Mistake(
        "echoes: a token without a log-probability counts as certain",
        "evals/echoes.py",
        "                if any(value is None for _, value in rest):",
        "                if not rest:",
        ("evals/test_models.py::test_an_option_with_a_token_that_has_no_probability_is_no_answer",),
    ),
    Mistake(
        "dera: an adapter in the reference itself stays on",
        "decoding/dera.py",
        "with own_part() if needed is dial.original else nullcontext():",
        "with nullcontext():",
        (DERA + "test_an_adapter_in_the_reference_itself_is_left_out_of_it",),
    ),
    Mistake(
        "dial: rows are taken for tokens where a layer carries several streams",
        "models/identity_layer.py",
        ".view(-1, *[1] * (states.dim() - 1))",
        "[:, None, None]",
        (IDENTITY + "test_rows_choose_for_themselves_where_a_layer_carries_several_streams",),
    ),
    Mistake(
        "dial: an error leaves the way around open",
        "models/identity_layer.py",
        "    try:\n        yield\n    finally:\n        hook.remove()",
        "    yield\n    hook.remove()",
        (
            IDENTITY + "test_one_way_around_inside_another_and_errors_leave_nothing_behind",
            REALIGN + "test_nothing_is_left_behind",
        ),
    ),
    # --- decoding
    Mistake(
        "decoding: realign mixes with the wrong sign",
        "decoding/realign.py",
        "1 - now[dial.original]",
        "1 + now[dial.original]",
        (
            REALIGN + "test_logits_are_linear_in_the_strength",
            REALIGN + "test_both_streams_read_the_tokens_that_were_chosen",
            REALIGN + "test_a_schedule_is_followed_token_by_token",
            DERA + "test_with_the_weights_of_an_expanded_model_it_equals_realign",
        ),
    ),
    Mistake(
        "decoding: dera reads its reference in place of the aligned model",
        "decoding/dera.py",
        "(dial.aligned, lambda now: now, other, others)",
        "(dial.aligned, lambda now: now, model, others)",
        (
            DERA + "test_at_the_ends_it_is_one_model_and_the_other_is_not_called",
            DERA + "test_logits_are_linear_in_the_strength",
        ),
    ),
    Mistake(
        "decoding: one cache for both models",
        "decoding/dera.py",
        "others = own_cache(other, inputs, generation_config, int(dial.aligned.sum()))",
        "others = dict(inputs)",
        (DERA + "test_a_right_cache_is_used_after_its_first_tokens",),
    ),
    Mistake(
        "server: an option counts with the end of its prompt",
        "evals/echoes.py",
        "                rest = whole[len(prompt) :]",
        "                rest = whole[len(prompt) - 1 :]",
        ("evals/test_models.py::test_a_server_that_echoes_gives_the_probabilities_of_the_model_itself",),
    ),
    Mistake(
        "loading: an adapter is put on the model that it names",
        "models/places.py",
        "            return Adapter(place, name.base, settings)",
        "            pass",
        ("models/test_asked_models.py::test_an_adapter_is_put_on_the_model_that_is_named_whatever_it_names_itself",),
    ),
    Mistake(
        "decoding: a setting that does nothing is taken",
        "decoding/__init__.py",
        "    for key in sorted(checked.model_fields_set & idle.keys()):",
        "    for key in sorted(checked.model_fields_set - idle.keys() - checked.model_fields_set):",
        ("contract/test_decoding.py::test_a_setting_that_does_nothing_beside_the_others_is_refused",),
    ),
    Mistake(
        "compare: text is read without what the tokenizer begins texts with",
        "commands/compare_decoding.py",
        'ids = prompt_ids(tokenizer, prompt, "the prompt", plain=not chat)',
        "ids = coder(tokenizer).ids(asked)",
        ("commands/test_compare_decoding.py::test_the_same_token_behind_the_same_prompt_has_the_same_score",),
    ),
    Mistake(
        "decoding: a cache that two streams share is believed",
        "decoding/_checked.py",
        "if found is None or not alike(found, wanted, coarse=self.model.dtype != torch.float32):",
        "if found is None:",
        (DERA + "test_streams_that_do_share_a_state_are_seen_at_the_first_tokens",),
    ),
    Mistake(
        "decoding: a request's strength goes to another",
        "decoding/_streams.py",
        ".repeat_interleave(self.copies, dim=1)",
        ".repeat(1, self.copies).flip(1)",
        (
            REALIGN + "test_a_batch_of_different_strengths_equals_one_run_for_each",
            REALIGN + "test_several_samples_of_a_request_have_its_strength",
        ),
    ),
    Mistake(
        "decoding: a schedule is one token late",
        "decoding/_streams.py",
        "self.schedule[min(step, len",
        "self.schedule[min(max(step - 1, 0), len",
        (REALIGN + "test_a_schedule_is_followed_token_by_token",),
    ),
    Mistake(
        "decoding: both streams always run",
        "decoding/_streams.py",
        "(self.schedule != 1).any(dim=0), (self.schedule != 0).any(dim=0)",
        "(self.schedule == self.schedule).any(dim=0), (self.schedule == self.schedule).any(dim=0)",
        (REALIGN + "test_a_request_runs_only_the_streams_that_it_needs",),
    ),
    Mistake(
        "decoding: a stream keeps the mask of the whole batch",
        "decoding/_streams.py",
        "        return value[rows.to(value.device)]",
        "        return value[torch.zeros_like(rows)]",
        (REALIGN + "test_left_padding_changes_nothing",),
    ),
    Mistake(
        "decoding: rows that have ended go on",
        "decoding/_streams.py",
        "tokens = torch.where(unfinished, tokens, pad)",
        "tokens = torch.where(unfinished, tokens, tokens)",
        (REALIGN + "test_each_row_ends_with_its_own_end_token_and_is_padded",),
    ),
    Mistake(
        "decoding: minus infinity times a strength",
        "decoding/_streams.py",
        "weight * finite(logits)",
        "weight * logits",
        (REALIGN + "test_minus_infinity_stays_improbable_and_makes_no_nan",),
    ),
    Mistake(
        "tokenizers: exchanged ids accepted",
        "models/tokenizers.py",
        "    if differ:",
        "    if len(differ) > 2:",
        (TOKENIZERS + "test_two_words_exchanged_are_refused_with_an_example_and_the_way_out",),
    ),
    Mistake(
        "builtin: converted in place",
        "models/builtin.py",
        "    part = Path(tempfile.mkdtemp(",
        "    part = folder\n    part.mkdir()\n    _ = (Path, dict(",
        (LOADING + "test_of_two_conversions_at_once_the_first_that_is_done_stays",),
    ),
    # --- conversations
    Mistake(
        "chat: a call without a text is no answer",
        "data/chat.py",
        'done = bool(message.get("tool_calls")) or any(',
        "done = any(",
        (CHATS + "test_a_call_is_an_answer_whatever_form",),
    ),
    Mistake(
        "chat: an empty list of tools reaches the template",
        "data/chat.py",
        "    return tools or None\n",
        "    return tools\n",
        (CHATS + "test_no_tools_are_no_empty_list",),
    ),
    Mistake(
        "chat: what a prompt has opened is opened again",
        "data/chat.py",
        "thought = head.lstrip().removeprefix(opening) if opening in head else head",
        "thought = head",
        (CHATS + "test_a_prompt_that_opens_a_thought",),
    ),
    Mistake(
        "chat: a dropped thought stays dropped",
        "data/chat.py",
        "            return Turn(before, head + close + _joined(tail, answer))",
        "            return Turn(before, answer)",
        (CHATS + "test_a_thought_that_the_template_drops",),
    ),
    Mistake(
        "chat: the date is that of the moment",
        "data/chat.py",
        "json.dumps(moment.strftime(",
        "json.dumps(datetime.now().strftime(",
        (CHATS + "test_a_template_that_writes_the_date",),
    ),
    Mistake(
        "rows: turns joined though the template rewrites the first",
        "data/rows.py",
        "            if not turn.prompt.startswith(done):\n                return None\n",
        "",
        (CHATS + "test_turns_that_a_template_rewrites",),
    ),
    Mistake(
        "rows: what follows the end token is learnt",
        "data/rows.py",
        "        return Turn(turn.prompt, turn.answer[:end])\n",
        "        return turn\n",
        (CHATS + "test_an_answer_ends_at_its_own_end_token",),
    ),
    Mistake(
        "rows: a second end token behind the row's own",
        "data/rows.py",
        "        if last >= 0 and not self.coder",
        "        if last >= 9**9 and not self.coder",
        (CHATS + "test_begin_and_end_stand_once",),
    ),
    Mistake(
        "tokens: a second begin token before the row's own",
        "data/tokens.py",
        "ids if not plain or ids[: len(self.first)] == self.first else",
        "ids if not plain else",
        (CHATS + "test_begin_and_end_stand_once",),
    ),
    Mistake(
        "tokens: the prompt has the ids of the whole and not of what is asked",
        "data/tokens.py",
        "return j + len(own) if ids[j : j + len(own)] == own else None",
        "return j + len(own)",
        (TOKENS + "test_newlines_that_grow_together", TOKENS + "test_a_prompt_that_ends_with_a_blank"),
    ),
    Mistake(
        "tokens: an answer begins as a text does",
        "data/tokens.py",
        "own, where = self.continuation(piece) if at else self._alone(piece)",
        "own, where = self._alone(piece)",
        (TOKENS + "test_a_prompt_that_ends_with_a_blank",),
    ),
    # --- rows and stored columns
    Mistake(
        "pairs: all chosen answers before all rejected ones",
        "data/collate.py",
        "for row in rows for prefix in prefixes(row)]",
        "for side in (0, 1) for row in rows for prefix in prefixes(row)[side : side + 1]]",
        (COLLATE + "test_pairs_lie_side_by_side",),
    ),
    Mistake(
        "pairs: a column of messages taken for both answers",
        "data/rows.py",
        'key: row[key] for key in ("tools", "chat_template_kwargs")',
        'key: row[key] for key in ("tools", "messages")',
        (ROWS + "test_messages_may_hold_the_prompt_of_a_pair",),
    ),
    Mistake(
        "adaptive: the rest is one minus the sum",
        "decoding/adaptive.py",
        "p.scatter(-1, ids, 0.0).sum(dim=-1, keepdim=True)",
        "(1 - top.sum(dim=-1, keepdim=True))",
        (ADAPTIVE + "test_nothing_is_lost_where_all_others_together",),
    ),
    Mistake(
        "adaptive: one token too many counted as unknown",
        "decoding/adaptive.py",
        "flat(before, others + 1)",
        "flat(before, others)",
        (ADAPTIVE + "test_what_a_token_is_worth_by_hand", ADAPTIVE + "test_increments_are_never_negative"),
    ),
    Mistake(
        "adaptive: last drops what is before a gap",
        "decoding/adaptive.py",
        "keep = (worth > epsilon).flip(-1).cumsum(dim=-1).flip(-1) > 0",
        "keep = worth > epsilon",
        (ADAPTIVE + "test_the_rules_differ_on_a_plateau",),
    ),
    Mistake(
        "penalty: negative scores are rewarded",
        "decoding/penalty.py",
        "torch.where(scores < 0, scores * strength, scores / strength)",
        "scores / strength",
        (PENALTY + "test_scores_of_repeated_tokens_by_hand",),
    ),
    Mistake(
        "penalty: the window is one too long",
        "decoding/penalty.py",
        "max(0, input_ids.size(1) - window)",
        "max(0, input_ids.size(1) - window - 1)",
        (PENALTY + "test_a_window_forgets",),
    ),
    Mistake(
        "penalty: the end is penalised on top of the window",
        "decoding/penalty.py",
        "self._held_back(scores[:, ends],",
        "self._held_back(found[:, ends],",
        (PENALTY + "test_an_end_that_was_said_is_penalised_once",),
    ),
    Mistake(
        "penalty: padding was said",
        "decoding/penalty.py",
        "            if padding.any():",
        "            if False:",
        (PENALTY + "test_left_padding_is_nothing_that_was_said",),
    ),
    Mistake(
        "text: n-grams of the corpus in place of each text",
        "metrics/text_quality.py",
        "        distinct, whole = distinct + of_text[0], whole + of_text[1]",
        "        distinct, whole = max(distinct, of_text[0]), whole + of_text[1]",
        (QUALITY + "test_repetition_counts_within_texts",),
    ),
    Mistake(
        "text: self-reinforcement compares after the update",
        "metrics/text_quality.py",
        "        if token in self.last and self.last[token] < q:",
        "        if token in self.last:",
        (QUALITY + "test_self_reinforcement_by_hand",),
    ),
    Mistake(
        "position axis: the normaliser has no gradient",
        "objectives/positions.py",
        " + (q - q.detach())",
        "",
        (TRRA + "test_position_axis_is_the_released_loss",),
    ),
    Mistake(
        "position axis: rows share a normaliser",
        "objectives/positions.py",
        "logits[batch.row == row].logsumexp(dim=0)",
        "logits.logsumexp(dim=0)",
        (TRRA + "test_position_axis_is_the_released_loss",),
    ),
    Mistake(
        "stored: the weak models change places",
        "commands/precompute.py",
        "kept[-1] - kept[0] if len(roles) == 2",
        "kept[0] - kept[-1] if len(roles) == 2",
        (STORED + "test_stored_and_live_log_ratios", STORED + "test_each_row_keeps_its_place"),
    ),
    Mistake(
        "stored: the rejected answer is given the numbers of the chosen one",
        "commands/precompute.py",
        'logprobs[role][row["row_id"]][number] for role',
        'logprobs[role][row["row_id"]][0] for role',
        (STORED + "test_stored_and_live_references_train_the_same",),
    ),
    Mistake(
        "stored: the rejected answer reads the numbers of the chosen one",
        "data/collate.py",
        "torch.tensor(row[prefix + name])",
        "torch.tensor(row[name] * 9)[: len(row[prefix + name])]",
        (COLUMNS + "test_each_answer_of_a_pair_has_its_own_numbers",),
    ),
    Mistake(
        "stored: a column of other rows accepted",
        "data/stored.py",
        "        if known.get(name) != now:",
        "        if name not in known:",
        (STORED + "test_a_column_that_was_computed_from_something_else",),
    ),
    Mistake(
        "stored: rows beside the meta of others after a kill",
        "data/stored.py",
        "        meta_path(file).unlink(missing_ok=True)\n",
        "",
        (STORED + "test_killed_between_its_two_files",),
    ),
    # --- evaluation, and what is said of it
    Mistake(
        "wording: opposites pass",
        "rewriting/wording.py",
        "any(_opposite(one, other) for one in ours for other in theirs)",
        "any(False for one in ours for other in theirs)",
        ("rewriting/test_wording.py::test_each_rule_sees_its_kind_of_change",),
    ),
    Mistake(
        "wording: parts that changed places pass",
        "rewriting/wording.py",
        "sides[1].get(word) == (right, left)",
        "sides[1].get(word) == (left, right, word)",
        ("rewriting/test_wording.py::test_each_rule_sees_its_kind_of_change",),
    ),
    Mistake(
        "wording: a word that nothing stands for is excused by a sibling",
        "rewriting/wording.py",
        "_opposite(word, one) or wordnet.siblings(word.bases, one.bases)",
        "_opposite(word, one)",
        (
            "rewriting/test_wording.py::test_a_word_that_nothing_stands_for_may_be_said_by_its_place_but_not_by_a_sibling_or_a_unit",
        ),
    ),
    Mistake(
        "wording: a condition and what follows change places",
        "rewriting/wording.py",
        "(marker in CONDITION and ours - theirs and theirs - ours)",
        "False",
        ("rewriting/test_wording.py::test_each_rule_sees_its_kind_of_change",),
    ),
    Mistake(
        "canonical: what need not be is what must not be",
        "rewriting/canonical.py",
        'not (?:required|obliged) to\\b": "need not"',
        'not (?:required|obliged) to\\b": "must not"',
        ("rewriting/test_wording.py::test_what_only_looks_like_another_way_to_write_it_is_a_change",),
    ),
    Mistake(
        "protected: a name that opens a sentence is not",
        "rewriting/protected.py",
        '(("names", 0), ("opening", re.IGNORECASE))',
        '(("names", 0),)',
        ("rewriting/test_wording.py::test_a_name_that_opens_a_sentence_is_protected",),
    ),
    Mistake(
        "clean: the fall-back is not named",
        "commands/clean.py",
        '"fallback": why or None',
        '"fallback": None',
        ("commands/test_clean.py::test_without_a_language_model_the_fall_back_is_named",),
    ),
    Mistake(
        "eval: a dead server is an error of every item",
        "evals/models.py",
        "if _unreachable(last) and self.answered == answered:",
        "if False and self.answered == answered:",
        ("evals/test_models.py::test_a_server_that_is_not_there_ends_it_after_few_tries_with_the_cause",),
    ),
    Mistake(
        "eval: where all is an error there is a report",
        "common/errors.py",
        "if known and (whole or len(known) >= GIVE_UP):",
        "if known and (False and len(known) >= GIVE_UP):",
        ("commands/test_evaluate.py::test_where_every_item_is_an_error_the_first_cause_is_told",),
    ),
    Mistake(
        "eval: the folder is that of the model and not of the run",
        "commands/evaluate.py",
        "        if name in PARTS:\n            continue\n",
        "",
        ("commands/test_evaluate.py::test_evaluations_are_named_after_the_run_that_made_the_model",),
    ),
    Mistake(
        "personality: a fall-back in silence",
        "commands/evaluate.py",
        'fallback=f"fall-back: {why}"',
        'fallback=""',
        ("commands/test_evaluate.py::test_without_probabilities_the_text_is_read_and_that_is_said",),
    ),
    Mistake(
        "report: a run beside evaluations is dropped",
        "report/evaluation.py",
        "(is_run(one) or not _within(one))",
        "(False)",
        ("commands/test_evaluate.py::test_a_report_of_a_run_and_an_evaluation_shows_both",),
    ),
    Mistake(
        "trackers: closed before the last measures",
        "train/trackers.py",
        'if name.startswith("on_") and name != "on_train_end"',
        'if name.startswith("on_")',
        ("train/test_trackers.py::test_held_out_measures_reach_the_tracker_whose_files_lie_in_the_run",),
    ),
    Mistake(
        "preferences: the mean over tokens and not over pairs",
        "train/heldout.py",
        "means[name] = sum(known) / len(known)",
        "means[name] = sum(known) / tokens",
        ("train/test_trackers.py::test_the_margin_is_that_of_the_rows_by_hand",),
    ),
    Mistake(
        "preferences: a tie is a loss",
        "objectives/preference.py",
        "0.5 * (chosen == rejected)",
        "0.0 * (chosen == rejected)",
        ("train/test_trackers.py::test_preferences_of_held_out_pairs_are_the_headline",),
    ),
    Mistake(
        "rollouts: the worst are the best",
        "report/rollouts.py",
        '"worst": lambda row: row["reward"],',
        '"worst": lambda row: -row["reward"],',
        ("report/test_report_page.py::test_rollouts_are_the_best_the_worst_and_the_typical_ones",),
    ),
    Mistake(
        "seeds: an interval that is too wide",
        "report/seeds.py",
        "/ math.sqrt(number)",
        "/ math.sqrt(number - 1)",
        ("report/test_report_seeds.py::test_the_mean_and_its_interval_by_hand",),
    ),
    Mistake(
        "seeds: runs of unlike seeds are paired",
        "report/seeds.py",
        "        a, b = ours[seed], theirs[seed]\n",
        "        a, b = ours[seed], list(theirs.values())[0]\n",
        ("report/test_report_seeds.py::test_means_and_paired_differences",),
    ),
    # --- the report
    Mistake(
        "report: a table that a resume superseded stays",
        "report/reading.py",
        'for title, kept in tables.items() if kept["step"] <= event["step"]}',
        "for title, kept in tables.items()}",
        (READING + "test_the_last_table_of_a_title_counts",),
    ),
    Mistake(
        "report: drifts from different starts compared",
        "report/measures.py",
        'measure.against == "start" and not',
        'measure.against == "nothing" and not',
        (MEASURED + "test_drift_is_measured_on_rows",),
    ),
    Mistake(
        "report: a sweep over runs that differ in more",
        "report/sweeps.py",
        'setting(run, f"options.{option}")',
        "run.recipe['method']",
        (SWEEPS + "test_other_runs_are_no_sweep", SWEEPS + "test_of_a_grid_each_row"),
    ),
    # --- geometry
    Mistake(
        "evaluation: answers that were not understood leave the denominator",
        "evals/suite.py",
        '("strict", sums, ones)',
        '("strict", sums, known)',
        (
            "evals/test_suite.py::test_an_answer_that_was_not_understood_is_wrong_in_one_number_and_absent_from_the_other",
        ),
    ),
    Mistake(
        "evaluation: errors count as wrong answers",
        "evals/suite.py",
        "[one for one in answered if one.error is None]",
        "[one for one in answered if one.error is None or one.verdicts is not None]",
        ("evals/test_suite.py::test_an_error_is_no_wrong_answer",),
    ),
    Mistake(
        "evaluation: an item that ended in an error is not asked again",
        "evals/runner.py",
        'for key, row in (done or {}).items() if not row.get("error")}',
        "for key, row in (done or {}).items()}",
        ("evals/test_runner.py::test_an_item_that_ended_in_an_error_is_asked_again",),
    ),
    Mistake(
        "evaluation: the first token stands for the whole label",
        "evals/models.py",
        "found[row][k] += rest[i",
        "found[row][k] += 0 * rest[i",
        ("evals/test_models.py::test_options_get_the_probability_of_all_their_tokens",),
    ),
    Mistake(
        "evaluation: positions of labels count the padding",
        "evals/models.py",
        "at = positions[owner, -1:] + 1",
        "at = 0 * positions[owner, -1:] + mask.size(1)",
        ("evals/test_models.py::test_options_get_the_probability_of_all_their_tokens",),
    ),
    Mistake(
        "evaluation: a refusal is tried again",
        "evals/models.py",
        "return error.status_code in (408, 409, 429) or error.status_code >= 500",
        "return True",
        ("evals/test_models.py::test_a_refusal_ends_the_evaluation_at_once",),
    ),
    Mistake(
        "evaluation: a torn line is kept",
        "data/stored.py",
        "        os.truncate(path, end)",
        "        os.truncate(path, len(whole))",
        ("evals/test_runner.py::test_a_torn_last_line_is_cut_off_and_others_are_named",),
    ),
    Mistake(
        "geometry: the turned vector goes the other way",
        "data/generators/geometry/plane.py",
        "(n * ux - m * self.k * uy)",
        "(n * ux + m * self.k * uy)",
        (PLACED + "test_plane_against_values", PLACED + "test_its_facts_hold_exactly"),
    ),
    Mistake(
        "geometry: lengths without the plane's unit",
        "data/generators/geometry/plane.py",
        "return u[0] * v[0] + self.k * u[1] * v[1]",
        "return u[0] * v[0] + u[1] * v[1]",
        (PLACED + "test_unit_of_three", PLACED + "test_its_facts_hold_exactly"),
    ),
    Mistake(
        "geometry: between includes the line beyond",
        "data/generators/geometry/plane.py",
        "return cross(u, v) == 0 and u[0] * v[0] + u[1] * v[1] > 0",
        "return cross(u, v) == 0",
        (PLACED + "test_plane_against_values",),
    ),
    Mistake(
        "oracle: coincidences are not forced",
        "data/generators/geometry/oracle.py",
        "cases = list(c.cases.values()) if special else []",
        "cases = []",
        (ORACLE + "test_answers_that_everyone_can_check",),
    ),
    Mistake(
        "oracle: a quantity may change its sign",
        "data/generators/geometry/oracle.py",
        "    if any(len(found) > 1 for found in signs.values()):",
        "    if False:",
        (ORACLE + "test_a_quantity_that_changes_sign_is_not_said_never_to_vanish",),
    ),
    Mistake(
        "oracle: two quantities at once are let pass",
        "data/generators/geometry/oracle.py",
        "        if len(left) > 1:",
        "        if False:",
        (ORACLE + "test_a_label_that_hangs_on_two_quantities_at_once_is_not_claimed",),
    ),
    Mistake(
        "oracle: a point on the boundary counts as outside",
        "data/generators/geometry/questions.py",
        """        raise NotAsked("on the boundary")""",
        """        return _only("no")""",
        (ORACLE + "test_a_point_on_the_boundary_is_not_asked_about",),
    ),
    Mistake(
        "oracle: two names of one line are parallel",
        "data/generators/geometry/questions.py",
        """            raise NotAsked("one line")""",
        """            return _only("parallel")""",
        (ORACLE + "test_one_line_with_two_names_is_not_asked_about",),
    ),
    Mistake(
        "oracle: sides of the transversal are swapped",
        "data/generators/geometry/questions.py",
        """return _only("corresponding") if side == other_side else frozenset()""",
        """return _only("corresponding") if side != other_side else frozenset()""",
        (ORACLE + "test_roles_at_a_transversal",),
    ),
    Mistake(
        "oracle: interior and exterior are swapped",
        "data/generators/geometry/questions.py",
        "return _same_ray(g, v, x, h if v == p else p), turn",
        "return not _same_ray(g, v, x, h if v == p else p), turn",
        (ORACLE + "test_roles_at_a_transversal",),
    ),
    Mistake(
        "oracle: clockwise polygons are inside out",
        "data/generators/geometry/questions.py",
        "    if turn(*shape[:3]) < 0:",
        "    if False:",
        (ORACLE + "test_answers_that_everyone_can_check",),
    ),
    Mistake(
        "split: by the letters of a question",
        "data/generators/geometry/wording.py",
        "return zlib.crc32(normal(question).encode()) % 10 == 0",
        "return zlib.crc32(question.encode()) % 10 == 0",
        (GEOMREL + "test_a_question_is_in_one_split_whatever_its_points_are_called",),
    ),
    Mistake(
        "parser: one of two options that a text names is its choice",
        "rewards/parsing.py",
        "    return found if several or len(found) == 1 else ()",
        "    return found[:1]",
        ("rewards/test_parsing.py::test_a_written_answer_is_read",),
    ),
    Mistake(
        "parser: a thought is part of the answer",
        "rewards/parsing.py",
        "plain = _plain(without_reasoning(text))",
        "plain = _plain(text)",
        ("rewards/test_parsing.py::test_a_written_answer_is_read",),
    ),
    Mistake(
        "drawing: upside down",
        "evals/suites/geomrel.py",
        "{MARGIN + (top - p[1]) * scale:.1f}",
        "{MARGIN + (p[1] - low) * scale:.1f}",
        (GEOMREL + "test_a_square_is_drawn_as_a_square",),
    ),
    Mistake(
        "score: change against the value itself",
        "evals/scored.py",
        "zip([0.0, *self.values], self.values)]",
        "zip(self.values, self.values[1:])]",
        (SCORE + "test_changes_of_value_add_up",),
    ),
    Mistake(
        "score: tokens without their white space",
        "commands/score.py",
        "tokens.append(asked.text[at:end] if",
        "tokens.append(asked.text[start:end] if",
        (SCORE + "test_white_space_belongs_to_the_token_behind_it",),
    ),
    Mistake(
        "score: first token that nothing predicts is kept",
        "commands/score.py",
        "offsets[len(offsets) - len(ids) :], offsets[: len(offsets) - len(ids)]",
        "offsets[: len(ids)], []",
        (SCORE + "test_plain_texts_are_scored_from",),
    ),
    Mistake(
        "score: an answer is cut one token late",
        "commands/score.py",
        'cut = max(0, len(row["input_ids"]) - max_length)',
        'cut = max(0, len(row["input_ids"]) - max_length - 1)',
        (SCORE + "test_a_long_answer_loses_its_end",),
    ),
    Mistake(
        "score: done answers are scored again",
        "commands/score.py",
        "if one.asked.id not in done]",
        "if one.asked.id is not done]",
        (SCORE + "test_a_killed_call_is_gone_on_with",),
    ),
    Mistake(
        "score: what follows counts as the error",
        "evals/scored.py",
        "errors = [credit.mark(scored.offsets, [asked.error])",
        "errors = [credit.mark(scored.offsets, [asked.error, *asked.wrong])",
        (SCORE + "test_pairs_and_their_planted_errors",),
    ),
    Mistake(
        "score: chosen and rejected change places",
        "evals/scored.py",
        'for side in ("chosen", "rejected"))\n        pairs',
        'for side in ("rejected", "chosen"))\n        pairs',
        (SCORE + "test_pairs_and_their_planted_errors",),
    ),
    Mistake(
        "score: logits for probabilities",
        "evals/scored.py",
        "return np.exp(-np.logaddexp(0, -np.asarray(values, float)))",
        "return np.exp(-np.logaddexp(0, np.asarray(values, float)))",
        (
            SCORE + "test_answers_of_a_model_that_learnt_from_outcomes",
            SCORE + "test_pairs_and_their_planted_errors",
        ),
    ),
    Mistake(
        "score: rules of log-ratios for every score",
        "evals/scored.py",
        "rules = credit.RULES[:4] if ratios else credit.RULES[4:]",
        "rules = credit.RULES[:4]",
        (SCORE + "test_steps_are_verified_by_the_rules",),
    ),
    Mistake(
        "score: best of the smallest n",
        "evals/scored.py",
        "key=lambda n: (n * sum(size >= n for size in sizes), n))",
        "key=lambda n: -n)",
        (SCORE + "test_of_unequal_numbers_of_answers",),
    ),
    Mistake(
        "score: right answers are the wrong ones of the AUC",
        "metrics/token_scores.py",
        "((ranks(value) * right).sum(-1) - rights * (rights + 1) / 2)",
        "((ranks(value) * (1 - right)).sum(-1) - rights * (rights + 1) / 2)",
        (CREDIT_MEASURES + "test_auc_of_answers_by_hand",),
    ),
    Mistake(
        "score: a value of 0 says right",
        "metrics/token_scores.py",
        "return _mean((value > 0) == (right > 0), seed)",
        "return _mean((value >= 0) == (right > 0), seed)",
        (CREDIT_MEASURES + "test_the_sign_of_a_value",),
    ),
    Mistake(
        "score: a signature is not looked at",
        "commands/score.py",
        "if key not in LOOSE and before.get(key) != now:",
        "if key in LOOSE and before.get(key) != now:",
        (SCORE + "test_other_scores_are_never_mixed_in",),
    ),
    Mistake(
        "score: the page's colours have one direction",
        "report/scores.py",
        "middle = 0.0 if has_zero else float(np.median(numbers))",
        "middle = float(np.median(numbers))",
        (SCORES_PAGE + "test_colours_diverge_from_zero",),
    ),
    Mistake(
        "credit: the margin is multiplied by beta",
        "objectives/credit.py",
        "-F.logsigmoid(beta * (chosen - rejected) - margin)",
        "-F.logsigmoid(beta * (chosen - rejected - margin))",
        ("objectives/test_credit_objectives.py::test_bradley_terry_by_hand",),
    ),
    Mistake(
        "credit: a prefix is divided by the whole answer",
        "objectives/credit.py",
        "return batch.prefix_sum(scores) / (batch.position + 1)",
        "return batch.prefix_sum(scores) / batch.lengths[batch.row]",
        (
            "objectives/test_credit_objectives.py::test_scores_are_gathered",
            "objectives/test_credit_objectives.py::test_the_prefix_loss_by_hand",
        ),
    ),
    Mistake(
        "credit: the margin of wrong answers has the other sign",
        "objectives/credit.py",
        "(1 - outcome) * F.logsigmoid(-(value + margin))",
        "(1 - outcome) * F.logsigmoid(-(value - margin))",
        ("objectives/test_credit_objectives.py::test_the_logistic_link_by_hand",),
    ),
    Mistake(
        "credit: last is the token before the last",
        "objectives/credit.py",
        "torch.where(batch.position + 1 == batch.lengths",
        "torch.where(batch.position + 2 == batch.lengths",
        ("objectives/test_credit_objectives.py::test_scores_are_gathered",),
    ),
    Mistake(
        "credit: early weights are late ones",
        "objectives/credit.py",
        'weight = share if weighting == "late" else 1 - share',
        "weight = share",
        ("objectives/test_credit_objectives.py::test_late_and_early_weights",),
    ),
    Mistake(
        "credit: the adaptive margin has the other sign",
        "objectives/credit.py",
        "(margin - (2 * outcome - 1) * shift)",
        "(margin + (2 * outcome - 1) * shift)",
        ("objectives/test_credit_objectives.py::test_the_adaptive_margin_by_hand",),
    ),
    Mistake(
        "credit: right answers weigh by the share of wrong ones",
        "objectives/credit.py",
        "torch.where(outcome > 0.5, share, 1 - share)",
        "torch.where(outcome > 0.5, 1 - share, share)",
        ("objectives/test_credit_objectives.py::test_difficulty_weights_have_mean_one",),
    ),
    Mistake(
        "credit: a ratio without its reference",
        "objectives/credit.py",
        'return batch.logprobs() - batch.logprobs(of="reference")',
        "return batch.logprobs()",
        ("objectives/test_credit_objectives.py::test_sources_read_the_logit",),
    ),
    Mistake(
        "credit: a score is read before its token",
        "models/scalar_head.py",
        "        places = hidden[:, :-1] if before else hidden[:, 1:]",
        "        places = hidden[:, :-1]",
        ("models/test_scalar_head.py::test_the_score_of_a_token_is_read_behind_it",),
    ),
    Mistake(
        "credit: the head's bias is trained",
        "models/scalar_head.py",
        "head.bias.requires_grad_(False)",
        "head.bias.requires_grad_(True)",
        ("models/test_scalar_head.py::test_the_score_of_a_token_is_read_behind_it",),
    ),
    Mistake(
        "credit: prefix sums run over rows",
        "core/batch.py",
        ".cumsum(1)[self.row, self.position]",
        ".cumsum(0)[self.row, self.position]",
        ("objectives/test_credit_objectives.py::test_a_prefix_sum_starts_anew",),
    ),
    Mistake(
        "engine: logits are read as log-probabilities",
        "core/vocab.py",
        'getattr(objective, "leaf", "logprob") == "logit"',
        'getattr(objective, "leaf", "logprob") == "none"',
        ("objectives/test_credit_objectives.py::test_the_engine_gives_the_value",),
    ),
    Mistake(
        "rows: a step ends at the first token of the next",
        "data/rows.py",
        "if begin < at), default=-1)",
        "if begin <= at + 1), default=-1)",
        ("data/test_rows.py::test_the_last_token_of_a_stretch",),
    ),
    Mistake(
        "rows: a wrong step is rated as a right one",
        "data/rows.py",
        "(1.0 if label else -1.0)",
        "(1.0 if label else 1.0)",
        ("data/test_rows.py::test_the_steps_of_an_answer",),
    ),
    Mistake(
        "credit: a stored reference is not looked at",
        "signals/reward_model.py",
        "if reading.reference_fingerprint in (None, prints[-1]):",
        "if prints[-1]:",
        ("signals/test_reward_model_signal.py::test_a_reference_with_other_weights",),
    ),
    Mistake(
        "credit: held-out rows are those of one side",
        "train/heldout.py",
        'ids[:: len(ids) // len(columns["reward_loss"])]',
        'ids[: len(columns["reward_loss"])]',
        ("runs/test_reward_runs.py::test_held_out_rows_are_judged",),
    ),
    Mistake(
        "collect: wrong answers are chosen",
        "commands/collect.py",
        "pairs = list(zip(right, wrong))[: settings.pairs]",
        "pairs = list(zip(wrong, right))[: settings.pairs]",
        ("commands/test_collect.py::test_right_and_wrong_answers_are_paired",),
    ),
    Mistake(
        "collect: every answer to a number is right",
        "rewards/final.py",
        "_one_number(clause(answer)) == number(truth)",
        "_one_number(clause(answer)) is not None",
        ("rewards/test_final.py::test_answers_are_the_same",),
    ),
    # --- learning from own answers
    Mistake(
        "advantages: the std of a group is that of the population",
        "objectives/advantages.py",
        "    variance = group_mean(centred.square(), group) * size / (size - 1).clamp(min=1)",
        "    variance = group_mean(centred.square(), group)",
        (ADVANTAGES + "test_normalised_by_hand", GRPO + "test_value_and_gradient_are_those_of_trls"),
    ),
    Mistake(
        "advantages: the answer itself is in the mean that leaves it out",
        "objectives/advantages.py",
        "    return (rewards - group_mean(rewards, group)) * size / (size - 1).clamp(min=1)",
        "    return rewards - group_mean(rewards, group)",
        (ADVANTAGES + "test_the_mean_that_leaves_one_out", RLOO + "test_value_and_gradient_are_those_of_trls"),
    ),
    Mistake(
        "advantages: generalised ones stop one short of the longest answer's end",
        "objectives/advantages.py",
        "    for t in reversed(range(rewards.size(1))):",
        "    for t in reversed(range(rewards.size(1) - 1)):",
        (ADVANTAGES + "test_gae_by_hand", ADVANTAGES + "test_gae_without_discount"),
    ),
    Mistake(
        "advantages: the penalty rewards what the start finds likelier",
        "objectives/advantages.py",
        "    return rewards - coefficient * (old - reference).abs()",
        "    return rewards - coefficient * (old - reference)",
        (REINFORCE + "test_the_penalty_is_taken_after", PPO + "test_the_advantage_is_the_scaled_score"),
    ),
    Mistake(
        "surrogate: the larger of the two is taken",
        "objectives/policy_gradient.py",
        "    values = -torch.minimum(ratio * advantages, bounded * advantages)",
        "    values = -torch.maximum(ratio * advantages, bounded * advantages)",
        (SURROGATE + "test_the_surrogate_by_hand", SURROGATE + "test_the_gradient_is_that_of_the_ratio"),
    ),
    Mistake(
        "surrogate: the dual clip holds for good tokens",
        "objectives/policy_gradient.py",
        "    return torch.where(advantages < 0, torch.minimum(",
        "    return torch.where(advantages > 0, torch.minimum(",
        (SURROGATE + "test_the_dual_clip_bounds",),
    ),
    Mistake(
        "surrogate: the KL without the ratio",
        "objectives/policy_gradient.py",
        "ratio * kl if self.kl_ratio else kl",
        "kl",
        (
            SURROGATE + "test_over_all_tokens_that_could_have_been_drawn",
            GRPO + "test_value_and_gradient_are_those_of_trls",
        ),
    ),
    Mistake(
        "opd: the student's share of the ratio is the teacher's",
        "methods/opd.py",
        'rollouts.signals["teacher"] - rollouts.signals["old"]',
        'rollouts.signals["old"] - rollouts.signals["teacher"]',
        (OPD + "test_the_advantage_is_how_much_likelier", OPD + "test_over_all_tokens_that_could_have_been_drawn"),
    ),
    Mistake(
        "candidates: a drawn token that is among them stands there twice",
        "core/batch.py",
        "torch.where(found, topk[:, :1], topk)",
        "topk",
        (BATCH + "test_a_drawn_token_among_the_candidates", BATCH + "test_candidates_are_all_different"),
    ),
    Mistake(
        "head: logits are multiplied by the temperature",
        "core/vocab.py",
        "            raw = raw / self.temperature",
        "            raw = raw * self.temperature",
        (VOCAB + "test_the_temperature_divides_at_the_end",),
    ),
    Mistake(
        "distrl: candidates at an answer's end",
        "methods/distrl.py",
        "    return mask & ~last[:, None]",
        "    return mask",
        (DISTRL + "test_at_an_answers_end_there_are_none",),
    ),
    Mistake(
        "distrl: candidates' loss is a mean over tokens",
        "methods/distrl.py",
        "torch.full_like(spread, len(batch)) / covered.clamp(min=1e-12)",
        "torch.ones_like(spread)",
        (DISTRL + "test_at_the_old_policy_it_is_minus",),
    ),
    Mistake(
        "distrl: candidates are clipped as the drawn token is",
        "methods/distrl.py",
        "held.advantages, config.epsilon, config.epsilon, config",
        "held.advantages, config.epsilon, config.epsilon_high, config",
        (DISTRL + "test_away_from_it_both_losses_are_clipped",),
    ),
    Mistake(
        "lco: the shift of the candidates falls on the bin of all others",
        "methods/lco.py",
        "F.pad(shift, (0, base.size(1) - shift.size(1)))",
        "F.pad(shift, (base.size(1) - shift.size(1), 0))",
        (LCO + "test_the_target_is_the_old_distribution", LCO + "test_with_a_lump_the_gradient"),
    ),
    Mistake(
        "lco: the raw target without the normaliser",
        "methods/lco.py",
        'held.logprobs + batch.signals["normaliser"][:, None]',
        "held.logprobs",
        (LCO + "test_raw_losses_compare_raw_logits", LCO + "test_without_advantages_loss_and_gradient"),
    ),
    Mistake(
        "lco: a reward of zero has the sharp beta",
        "methods/lco.py",
        "torch.where(reward > 0, config.beta,",
        "torch.where(reward >= 0, config.beta,",
        (LCO + "test_a_reward_is_known_of_the_drawn_token_alone",),
    ),
    Mistake(
        "lco: one of the two is sure enough",
        "methods/lco.py",
        "torch.minimum(held.logprobs[:, 0], verifier[:, 0])",
        "torch.maximum(held.logprobs[:, 0], verifier[:, 0])",
        (LCO + "test_where_both_are_sure_of_the_token",),
    ),
    Mistake(
        "plan: what the objective is told counts as read for the credit",
        "core/plan.py",
        "        read = KEPT.union(",
        "        read = (KEPT | provided).union(",
        ("core/test_plan.py::test_what_a_credit_needs_a_reader_must_provide",),
    ),
    # ------------------------------------------------------------ learning from own answers
    Mistake(
        "rollouts: rows keep their gaps",
        "train/rollouts.py",
        "    order = (~mask).int().argsort(dim=1, stable=True)",
        "    order = mask.int().argsort(dim=1, stable=True)",
        (ROLLOUTS + "test_prompts_on_the_left",),
    ),
    Mistake(
        "rollouts: what a tool wrote is learnt",
        "train/rollouts.py",
        '        own = own & output["tool_mask"].bool()',
        "        own = own",
        (ROLLOUTS + "test_tokens_that_a_tool_wrote",),
    ),
    Mistake(
        "rollouts: groups are mixed up",
        "train/rollouts.py",
        "device=batch.row.device) // self._answers",
        "device=batch.row.device) % self._answers",
        (ROLLOUTS + "test_the_credit_gets_all_answers",),
    ),
    Mistake(
        "rollouts: old log-probabilities at temperature 1",
        "train/rollouts.py",
        "read_with(written, self.model, inputs, {}, temperature=self.temperature)",
        "read_with(written, self.model, inputs, {})",
        (ROLLOUTS + "test_the_credit_gets_all_answers",),
    ),
    Mistake(
        "rollouts: every update is divided by all rollouts",
        "train/rollouts.py",
        "            update = buffered[step : step + self.args.gradient_accumulation_steps]",
        "            update = buffered",
        (ROLLOUTS + "test_an_update_is_divided_by_its_own_tokens",),
    ),
    Mistake(
        "rollouts: the order of what was read is lost",
        "train/rollouts.py",
        "        back = torch.cat(places).argsort()",
        "        back = torch.cat(places)",
        (ROLLOUTS + "test_what_is_read_in_batches_of_like_length",),
    ),
    Mistake(
        "critic: the value knows the token",
        "models/scalar_head.py",
        "        places = hidden[:, :-1] if before else hidden[:, 1:]",
        "        places = hidden[:, 1:]",
        (LEARNING + "test_a_value_is_read_before_the_token",),
    ),
    Mistake(
        "learning: one-sided groups teach",
        "signals/learning.py",
        "torch.full_like(outcome, self.margin), seen.mixed.float()",
        "torch.full_like(outcome, self.margin), (seen.share >= 0).float()",
        (LEARNING + "test_outcomes_are_learnt_by_the_loss_of_the_paper",),
    ),
    Mistake(
        "learning: weights in half precision are trained as they are",
        "models/masters.py",
        "        parameter.data = parameter.data.float()",
        "        parameter.data = parameter.data.clone()",
        (
            LEARNING + "test_a_model_in_half_precision_learns_as_one_in_float32",
            "models/test_masters.py::test_weights_in_bfloat16_move_as_those_in_float32",
        ),
    ),
    Mistake(
        "learning: each micro-batch is divided by its own count",
        "signals/learning.py",
        "objective_call=call).loss\n        loss.backward()",
        "objective_call=call).loss\n        loss = loss * total / count(labels, how)\n        loss.backward()",
        (LEARNING + "test_micro_batches_learn_what_one_large_batch_does",),
    ),
    Mistake(
        "learning: batches of one outcome make a step",
        "signals/learning.py",
        "(weighed is not None and not weighed.any())",
        "weighed is None",
        (LEARNING + "test_batches_of_one_outcome_teach_nothing",),
    ),
    Mistake(
        "learning: pairs are made of answers to different prompts",
        "signals/learning.py",
        "torch.nonzero((group == one) & (lengths > 0) & (outcome == y))",
        "torch.nonzero((group >= one) & (lengths > 0) & (outcome == y))",
        (LEARNING + "test_pairs_are_zipped_within_a_prompt",),
    ),
    Mistake(
        "rollouts: what is right is what all rewards add up to",
        "train/rollouts.py",
        "        self._outcomes = torch.tensor(right, dtype=torch.float32, device=rewards.device)",
        "        self._outcomes = (self._rewards > 0).float()",
        (ROLLOUTS + "test_what_is_right_is_what_the_first_reward_says",),
    ),
    Mistake(
        "rewards: the last one that judges an answer says whether it is right",
        "rewards/judged.py",
        "        found.append(said[0])",
        "        found.append(said[-1])",
        (ROLLOUTS + "test_the_first_reward_that_judges_an_answer_says_whether_it_is_right",),
    ),
    Mistake(
        "resume: edited code is gone on with unasked",
        "runs/folder.py",
        "    if not edited:\n        raise RunError(",
        "    if False:\n        raise RunError(",
        ("common/test_user_code.py::test_a_resume_is_refused_where_the_file_of_a_method_was_edited",),
    ),
    Mistake(
        "credit: the start is held against what was learnt in float32 alone",
        "signals/reward_model.py",
        "    return sorted(DTYPES, key=lambda one: one != own)",
        '    return ["float32"]',
        ("runs/test_reward_runs.py::test_what_was_trained_in_half_precision_is_measured_from_its_start",),
    ),
    Mistake(
        "padded heads: a model's padding has a share of its probability",
        "models/forward.py",
        "cropped=vocab is not None)",
        "cropped=False)",
        ("runs/test_padded_vocabularies.py::test_wspo_is_over_the_ids_that_all_of_its_models_know",),
    ),
    Mistake(
        "rollouts: padding of the policy's head is learnt",
        "train/rollouts.py",
        '        return {**rows, "labels": rows["labels"].masked_fill(unknown, IGNORE)}',
        "        return rows",
        ("runs/test_padded_vocabularies.py::test_what_learns_from_own_answers",),
    ),
    Mistake(
        "credit: squashed scores are read as they are",
        "signals/reward_model.py",
        "        scores = scores.sigmoid() if self.reading.squash and not self.as_trained else scores",
        "        scores = scores",
        ("contract/test_reward_models.py::test_the_better_of_two_answers",),
    ),
    Mistake(
        "code: what a reward imports is not looked at",
        "common/user_code.py",
        "            waiting += [other for other in _imported(path)",
        "            waiting += [other for other in ()",
        ("common/test_user_code.py::test_the_files_of_a_reward",),
    ),
    Mistake(
        "rollouts: old log-probabilities lose their sign",
        "train/rollouts.py",
        '        return {"old": found.pop("logprobs"), **found}',
        '        return {"old": -found.pop("logprobs"), **found}',
        (ROLLOUTS + "test_the_credit_gets_all_answers",),
    ),
    # ------------------------------------------------------------ ragged generation, a dial at the embedding, puzzles
    Mistake(
        "ragged: the pasts of rows that go on are mixed up",
        "decoding/_streams.py",
        "            cache.batch_select_indices(places.to(self.model.device))",
        "            cache.batch_select_indices(places.flip(0).to(self.model.device))",
        (RAGGED + "test_greedy_tokens_are_those_of_generate",),
    ),
    Mistake(
        "ragged: the mask stays that of all rows",
        "decoding/_streams.py",
        "        self.inputs = {name: pick(value, places, num_rows) for name, value in self.inputs.items()}",
        "        self.inputs = dict(self.inputs)",
        (RAGGED + "test_greedy_tokens_are_those_of_generate",),
    ),
    Mistake(
        "best of n: a different answer counts as often as it was given",
        "metrics/token_scores.py",
        "of_name.sum(axis=1) / (votes > 0).sum(axis=1)",
        "(of_name * votes).sum(axis=1) / votes.sum(axis=1)",
        (CREDIT_MEASURES + "test_scores_that_know_nothing_do_as_well_as_any_of_the_different_answers",),
    ),
    Mistake(
        "beginning: positions count the gap",
        "decoding/_beginning.py",
        "token_positions(attention_mask), cache)",
        "column.expand_as(input_ids).contiguous(), cache)",
        (BEGINNING + "test_logits_are_those_of_whole_prompts",),
    ),
    Mistake(
        "beginning: attention sees the gap",
        "decoding/_beginning.py",
        "input_ids.gather(1, source), attention_mask.gather(1, source)",
        "input_ids.gather(1, source), torch.ones_like(attention_mask)",
        (BEGINNING + "test_logits_are_those_of_whole_prompts",),
    ),
    Mistake(
        "beginning: what is equal further on is shared too",
        "decoding/_beginning.py",
        ".all(dim=0).cumprod(dim=0).sum()",
        ".all(dim=0).sum()",
        (BEGINNING + "test_tokens_that_all_rows_share_leave_each_one_of_its_own",),
    ),
    Mistake(
        "beginning: a window that slides over the gap is let pass",
        "decoding/_beginning.py",
        ' or any(getattr(layer, "is_sliding", False) for layer in cache.layers)',
        "",
        (BEGINNING + "test_a_sliding_window_is_refused_and_its_cache_stays_empty",),
    ),
    Mistake(
        "beginning: rows come back in the order of their lengths",
        "decoding/_beginning.py",
        ".argsort() if order != sorted(order) else slice(None)",
        ".argsort().sort()[0]",
        (BEGINNING + "test_greedy_tokens_after_groups_are_those_of_generate",),
    ),
    Mistake(
        "beginning: a group's padding stands behind what is a row's own",
        "decoding/_beginning.py",
        "torch.cat([part[:, :, :shared], gap, part[:, :, shared:]], dim=2)",
        "torch.cat([part, gap], dim=2)",
        (BEGINNING + "test_logits_after_groups_are_those_of_whole_prompts",),
    ),
    Mistake(
        "beginning: a group does not see what all begin with",
        "decoding/_beginning.py",
        "past = mask.new_ones(len(mask), seen)",
        "past = mask.new_zeros(len(mask), seen)",
        (BEGINNING + "test_logits_after_groups_are_those_of_whole_prompts",),
    ),
    Mistake(
        "beginning: all rows are read at once",
        "decoding/_beginning.py",
        "if last and together is not None and",
        "if last and together is None and",
        (BEGINNING + "test_a_group_holds_as_many_tokens_as_are_read_at_a_time",),
    ),
    Mistake(
        "ragged: nobody leaves",
        "decoding/_ragged.py",
        "        if leave and len(rows) - number >= LEAVE * len(rows):",
        "        if leave and number == 0:",
        (RAGGED + "test_rows_that_have_ended_leave",),
    ),
    Mistake(
        "ragged: prompts that differ by their padding alone are one",
        "decoding/_ragged.py",
        "    whole = input_ids if attention_mask is None else torch.cat([input_ids, attention_mask], dim=1)",
        "    whole = input_ids",
        (RAGGED + "test_prompts_that_differ_by_their_padding_alone",),
    ),
    Mistake(
        "ragged: tokens follow an end",
        "decoding/_ragged.py",
        "        column[rows] = torch.where(unfinished[rows], tokens, column[rows])",
        "        column[rows] = tokens",
        (RAGGED + "test_a_few_that_have_ended_wait",),
    ),
    Mistake(
        "config: the model's own acts",
        "decoding/_fits.py",
        "        part.generation_config = GenerationConfig()",
        "        pass",
        ("decoding/test_config.py::test_no_field_of_the_models_own_config_acts_on_a_strategy",),
    ),
    Mistake(
        "config: rows leave under a penalty that knows them",
        "decoding/_config.py",
        "value in neutral.items() if name not in BY_ROW)",
        "value in ())",
        ("decoding/test_config.py::test_rows_leave_only_where_nothing_looks_at_the_whole_batch",),
    ),
    Mistake(
        "padding: states that take it for text are padded",
        "decoding/_fits.py",
        "    elif mask is None or bool(mask.all()) or pads_left(model):",
        "    elif True:",
        ("decoding/test_padding.py::test_prompts_of_equal_length_are_asked_together",),
    ),
    Mistake(
        "penalty: two calls are one where the text goes on",
        "decoding/penalty.py",
        "call is not self._call() or not",
        "not",
        (PENALTY + "test_what_it_remembers_belongs_to_one_call",),
    ),
    Mistake(
        "ends: a header ends a turn",
        "models/ends.py",
        "        if token in opening:",
        "        if False:",
        ("models/test_ends.py::test_the_token_that_ends_a_turn_is_found",),
    ),
    Mistake(
        "rollouts: generation is TRL's everywhere",
        "train/rollouts.py",
        "        leave = not generation_config.cache_implementation",
        "        leave = False",
        (ROLLOUTS + "test_prompts_are_read_once_for_all_their_answers",),
    ),
    Mistake(
        "dial: the embedding is mixed the other way round",
        "models/identity_layer.py",
        "(1 - s) * given + s * computed",
        "s * given + (1 - s) * computed",
        ("decoding/test_realign.py::test_merged_at_the_embedding_each_request",),
    ),
    # --- ratios of one network, and what underflows
    Mistake(
        "ratio: dropout stays",
        "train/base.py",
        "            noise.switch_off(self.model)  # type: ignore[arg-type]",
        "            pass",
        (
            FIRST + "test_ratios_stay_at_one_where_nothing_is_learnt_though_the_model_has_dropout",
            FIRST + "test_dropout_stays_where_no_ratio_is_learnt_and_goes_where_it_is_asked",
        ),
    ),
    Mistake(
        "noise: layers are still skipped",
        "models/noise.py",
        r'RATE = re.compile(r"dropout|layer_?drop|',
        r'RATE = re.compile(r"dropout|',
        (NOISE + "test_a_model_in_training_is_the_model_in_evaluation_once_it_is_switched_off",),
    ),
    Mistake(
        "noise: routers go into training",
        "models/noise.py",
        "        if any(JITTER.search(name) for name in vars(module)):",
        "        if False:",
        (NOISE + "test_a_model_in_training_is_the_model_in_evaluation_once_it_is_switched_off",),
    ),
    Mistake(
        "noise: a config that is asked in each forward says what it did",
        "models/noise.py",
        "dict.fromkeys(asked, 0.0))",
        "asked)",
        (NOISE + "test_a_model_in_training_is_the_model_in_evaluation_once_it_is_switched_off",),
    ),
    Mistake(
        "hpd: the student before draws padding of its head",
        "signals/snapshot.py",
        "policy=batch.logits()[:, : self.vocab]",
        "policy=batch.logits()",
        (HPD + "test_the_student_before_draws_from_what_the_teacher_knows_as_the_student_does",),
    ),
    Mistake(
        "rollouts: written with dropout",
        "train/rollouts.py",
        "    model.eval()\n    try:\n        with alone(model):",
        "    try:\n        with alone(model):",
        ("train/test_rollouts.py::test_answers_are_written_without_dropout_and_learnt_from_with_it",),
    ),
    Mistake(
        "first ratio: nothing is refused",
        "train/first_ratio.py",
        "    if exact and apart.largest >= LIMIT:",
        "    if exact and apart.largest >= 1e9:",
        (
            FIRST + "test_noise_that_is_left_stops_the_run_before_anything_is_learnt",
            FIRST + "test_a_reference_that_is_the_start_is_held_against_the_policy",
        ),
    ),
    Mistake(
        "first ratio: the first micro-batch alone is looked at",
        "train/base.py",
        "is not None and self.state.global_step == self._first:",
        "is not None and self.state.global_step == self._first and not self._update:",
        (
            FIRST + "test_every_micro_batch_of_the_first_update_is_looked_at",
            FIRST + "test_a_micro_batch_without_an_answer_does_not_end_the_look",
        ),
    ),
    Mistake(
        "first ratio: its draws move those of training",
        "train/first_ratio.py",
        '    with _same_draws(inputs["labels"].device):',
        "    if True:",
        (FIRST + "test_a_look_at_the_ratio_changes_no_draw_and_no_update",),
    ),
    Mistake(
        "hpd: jsd by probabilities that underflow",
        "methods/hpd.py",
        "(torch.logaddexp(p_label, q_label) - math.log(2) - q_label)",
        "(((p_label.exp() + q) / 2).log() - q_label)",
        (HPD + "test_the_jsd_weight_of_two_impossible_tokens_is_zero_and_not_nan", EXTREMES),
    ),
    Mistake(
        "k3: overflows",
        "objectives/likelihood.py",
        "(reference_logprobs - logprobs).clamp(max=LARGEST_LOG_RATIO)",
        "reference_logprobs - logprobs",
        (EXTREMES,),
    ),
    Mistake(
        "lco: rho by probabilities that underflow",
        "methods/lco.py",
        "    raised = (log_p + math.log(rho.up)).clamp",
        "    raised = (rho.up * log_p.exp()).log().clamp",
        (LCO + "test_rho_of_a_token_that_is_next_to_impossible_is_finite", EXTREMES),
    ),
    Mistake("options: idle ones are taken", "core/plan.py", "        if holds:\n", "        if True:\n", (OPTIONS,)),
    # --- further forms of methods
    Mistake(
        "grpo: the paper's KL with a ratio",
        "objectives/policy_gradient.py",
        "ratio * kl if self.kl_ratio else kl",
        "ratio * kl",
        (GRPO + "test_the_kl_of_the_paper_is_the_estimate_alone_and_trls_is_times_the_ratio",),
    ),
    Mistake(
        "reduction: sums of rows are shared by their tokens",
        "core/loss.py",
        '(ones / batch.lengths[batch.row] if how == "sequence_mean" else ones)',
        "(ones / batch.lengths[batch.row])",
        (LOSS + "test_sequence_sum_is_the_mean_over_rows", PSFT + "test_tokens_rows_or_their_sums_count_the_same"),
    ),
    Mistake(
        "psft: the first snapshot before the warm-up",
        "signals/snapshot.py",
        "        done = state.global_step - self.first",
        "        done = state.global_step",
        (
            PSFT + "test_a_warm_up_is_sft_and_the_first_snapshot_is_taken_behind_it",
            PSFT + "test_a_run_that_goes_on_within_its_warm_up_has_no_snapshot_yet",
        ),
    ),
    Mistake(
        "hpd: weights of the running student",
        "methods/hpd.py",
        "        old = student.detach() if before is None else before.logprobs",
        "        old = student.detach()",
        (HPD + "test_away_from_it_weights_and_draws_stay_and_the_ratio_is_clipped_by_hand",),
    ),
    Mistake(
        "wspo: the likelihood is taken off",
        "methods/wspo.py",
        "error.square() + self.nll_coef * likelihood",
        "error.square() - self.nll_coef * likelihood",
        (WSPO + "test_the_likelihood_of_the_answer_is_added_as_the_mean_over_its_tokens",),
    ),
    Mistake(
        "trra: the likelihood in the place of the divergence",
        "objectives/matching.py",
        "            mixed = mixed + self.nll_coef * nll",
        "            mixed = self.nll_coef * nll",
        (TRRA + "test_the_likelihood_of_the_tokens_is_added_to_the_whole_divergence",),
    ),
    Mistake(
        "distrl: small log-ratios count",
        "methods/distrl.py",
        "torch.where(ratio.abs() < threshold, 0.0, ratio)",
        "ratio",
        (DISTRL + "test_the_kl_over_candidates_and_the_rest_by_hand",),
    ),
    Mistake(
        "distrl: prompts that are filtered count in the mean",
        "methods/distrl.py",
        "tokens * (len(tokens) / tokens.sum().clamp(min=1))",
        "tokens.float()",
        (DISTRL + "test_prompts_that_all_or_no_answer_got_right_count_nowhere",),
    ),
    Mistake(
        "lco: others are removed by default",
        "methods/lco.py",
        'keep=config.outside == "keep"',
        "keep=False",
        (LCO + "test_without_advantages_loss_and_gradient_are_zero_at_the_old_policy",),
    ),
    # --- commands and runs
    Mistake(
        "processes: a group of another size is taken",
        "common/processes.py",
        "    if asked != size:",
        "    if asked < size:",
        ("common/test_processes.py::test_a_group_of_another_size_than_was_launched_is_refused",),
    ),
    Mistake(
        "hub: what is not there is not told",
        "common/hub.py",
        '        return "gone"',
        '        return "unknown"',
        ("test_hub.py::test_a_mistyped_model_is_asked_for_once_and_told",),
    ),
    Mistake(
        "rows: the second part counts from the first row",
        "data/rows.py",
        "    jobs = ((rows[start : start + STRETCH], start) for start in starts)",
        "    jobs = ((rows[start : start + STRETCH], 0) for start in starts)",
        ("runs/test_preparation.py::test_many_rows_at_a_time_are_what_each_is_alone",),
    ),
    Mistake(
        "rows: kept for another tokenizer",
        "runs/preparation.py",
        '        "tokenizer": _of_tokenizer(tokenizer),',
        '        "tokenizer": "",',
        ("runs/test_preparation.py::test_anything_that_they_depend_on_makes_them_anew",),
    ),
    Mistake(
        "rows: a kept file is not held against its digest",
        "data/kept.py",
        "        if metadata.pop(DIGEST, None) != _digest(arrays, metadata):",
        "        if metadata.pop(DIGEST, None) is None:",
        ("runs/test_preparation.py::test_a_file_that_is_not_as_it_was_written_is_made_anew",),
    ),
    Mistake(
        "rows: data.chat does nothing",
        "data/rows.py",
        "(texts and has_template and self.chat)",
        "(texts and has_template and False)",
        ("data/test_rows.py::test_as_chat_they_are_the_row_of_messages",),
    ),
    Mistake(
        "longer: any schedule is taken",
        "runs/longer.py",
        "1e-9 * max(one, other)",
        "1e9 * max(one, other)",
        ("runs/test_longer.py::test_a_schedule_over_all_steps_cannot_be_made_longer_and_says_why",),
    ),
    Mistake(
        "budget: a step may go beyond it",
        "train/budget.py",
        "self.used + last > self.seconds + GRACE",
        "self.used > self.seconds + GRACE",
        ("train/test_budget.py::test_no_step_is_begun_that_would_go_beyond_the_budget",),
    ),
    Mistake(
        "trouble: a mistake of the code loses its traceback",
        "common/failures.py",
        "    if package is not None and package not in OURS and",
        "    if package is None or package in OURS and",
        ("common/test_failures.py::test_a_mistake_of_the_code_keeps_its_traceback_and_asks_for_a_report",),
    ),
    Mistake(
        "start: the distribution is that of the trained policy",
        "signals/start.py",
        "            with self.off():\n                return replace(",
        "            with torch.no_grad():\n                return replace(",
        (START + "test_a_head_that_is_trained_is_that_of_the_start_too",),
    ),
    Mistake(
        "seeds: every run has the first one",
        "runs/recipe.py",
        '{**tree, "seed": seed, "output"',
        '{**tree, "seed": seeds[0], "output"',
        ("runs/test_recipe.py::test_seeds_make_a_run_of_each_in_a_folder_of_its_own",),
    ),
    Mistake(
        "early: a schedule that is not there is found by TRL alone",
        "train/keys.py",
        "and allowed and training[key] not in allowed",
        "and allowed and training[key] in ()",
        ("runs/test_early.py::test_a_mistake_in_a_name_is_told_without_torch",),
    ),
]


class Outcome(NamedTuple):
    exit_code: int
    failed: frozenset[str]
    output: str


class Collector:
    """A pytest plugin that notes which tests failed."""

    def __init__(self):
        self.failed: set[str] = set()

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed.add(report.nodeid)


def run_tests(source: str, tests: list[str], pipe) -> None:
    """In a forked child: the tests with `trimtab` from the folder `source`."""
    os.chdir(TESTS)
    os.environ["PYTHONPATH"] = source  # of the processes that tests start themselves
    sys.path.insert(0, source)
    sys.dont_write_bytecode = True
    import pytest

    import trimtab

    assert Path(trimtab.__file__).is_relative_to(source), trimtab.__file__
    collector, output = Collector(), io.StringIO()
    options = ["-q", "-p", "no:cacheprovider", "--tb=line", "--no-header", f"--rootdir={TESTS}", "-c", os.devnull]
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        code = pytest.main([*options, *tests], plugins=[collector])
    pipe.send(Outcome(int(code), frozenset(collector.failed), output.getvalue()))


def functions(names: tuple[str, ...]) -> list[str]:
    """Full ids of the test functions whose ids begin with the given ones; each must be the start of exactly one."""
    found = []
    for name in names:
        file, _, start = name.partition("::")
        text = (TESTS / file).read_text(encoding="utf-8")
        defined = [
            line.split("(")[0].removeprefix("def ") for line in text.splitlines() if line.startswith("def test_")
        ]
        matching = [function for function in defined if function.startswith(start)]
        matching = [start] if start in matching else matching
        if len(matching) != 1:
            raise SystemExit(f"{file}: {start!r} is the start of {len(matching)} tests, not of one")
        found.append(f"{file}::{matching[0]}")
    return found


def start(mistake: Mistake | None, tests: list[str], clean: Path, source: Path):
    """A running child and the end of the pipe that its outcome comes from; `source` becomes a copy of `clean`."""
    shutil.copytree(clean, source, symlinks=True)
    if mistake is not None:
        path = source / "trimtab" / mistake.file
        path.write_text(path.read_text(encoding="utf-8").replace(mistake.old, mistake.new), encoding="utf-8")
    context = multiprocessing.get_context("fork")  # the heavy imports are paid for once
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=run_tests, args=(str(source), tests, theirs))
    child.start()
    theirs.close()
    return child, ours


def finish(child, pipe) -> Outcome:
    try:
        outcome = pipe.recv()
    except EOFError:
        outcome = Outcome(-1, frozenset(), "the child ended without a result")
    child.join()
    return outcome


def check_texts(mistakes: list[Mistake], source: Path) -> None:
    """Each text must be in `source` exactly once.

    Raises:
        SystemExit: naming all that are not.
    """
    stale = []
    for mistake in mistakes:
        times = (source / "trimtab" / mistake.file).read_text(encoding="utf-8").count(mistake.old)
        if times != 1:
            stale.append(f"{mistake.name}: found {times} times in {mistake.file}: {mistake.old.strip()!r}")
    if stale:
        raise SystemExit("these texts must be found exactly once; mend the list of mistakes:\n" + "\n".join(stale))


def verdict(outcome: Outcome, tests: list[str]) -> str:
    """ "caught", or what is wrong. Exit code 1 is pytest's for failed tests: an import error is no catch."""
    if outcome.exit_code not in (0, 1):
        return f"BROKEN (exit code {outcome.exit_code})"
    green = [test for test in tests if not any(failed.partition("[")[0] == test for failed in outcome.failed)]
    return f"SURVIVED {', '.join(green)}" if green else "caught"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mistakes whose name holds one of these")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    mistakes = [m for m in MISTAKES if not options.words or any(word in m.name for word in options.words)]
    tests = {mistake.name: functions(mistake.tests) for mistake in mistakes}
    assert len(tests) == len(mistakes), "two mistakes have the same name"

    began = time.monotonic()
    os.environ["HF_HUB_OFFLINE"] = os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    for name in HEAVY:
        importlib.import_module(name)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        clean = Path(folder, "src")  # one copy at the start: the checkout may change while this runs
        shutil.copytree(ROOT / "src", clean, ignore=shutil.ignore_patterns("__pycache__", "bundled"))
        data = Path("trimtab", "data", "bundled")  # large, and no mistake is planted in it
        (clean / data).symlink_to(ROOT / "src" / data)
        check_texts(mistakes, clean)
        every = sorted({test for named in tests.values() for test in named})
        unchanged = finish(*start(None, every, clean, Path(folder, "unchanged")))
        if unchanged.exit_code != 0:
            print(unchanged.output)
            print("the tests are not green without a mistake")
            return 1
        waiting, running = list(enumerate(mistakes)), []
        while waiting or running:
            while waiting and len(running) < options.workers:
                i, mistake = waiting.pop(0)
                running.append((mistake, *start(mistake, tests[mistake.name], clean, Path(folder, str(i)))))
            mistake, child, pipe = running.pop(0)
            outcome = finish(child, pipe)
            word = verdict(outcome, tests[mistake.name])
            bad += word != "caught"
            print(f"{mistake.name:58} {mistake.file:26} {len(tests[mistake.name])} tests  {word}", flush=True)
            if word.startswith("BROKEN"):
                print(outcome.output)
    print(f"{len(mistakes) - bad} of {len(mistakes)} mistakes caught in {time.monotonic() - began:.0f} s")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
