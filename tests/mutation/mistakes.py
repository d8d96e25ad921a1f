"""Mistakes at the heart of each part, planted by `mutate.py`: the tests named for one must go red."""

from typing import NamedTuple


class Mistake(NamedTuple):
    name: str
    where: str
    """`core.batch:answer_mask`: a module and a function in it, `Class.method` where one name is not unique"""
    old: str
    """an expression or a statement that the function holds once, however it is laid out"""
    new: str
    tests: tuple[str, ...]
    """beginnings of test functions under tests; each must go red"""


BATCH, DRAWS, LOSS = "core/test_batch.py::", "core/test_draws.py::", "core/test_loss.py::"
LOGPROBS, VOCAB, TOPK = "core/test_logprobs.py::", "core/test_vocab.py::", "core/test_topk.py::"
PAIRS, CONSISTENCY = "core/test_pairs.py::", "objectives/test_rationale_consistency.py::"
DIVERGENCE, PARITY = "objectives/test_divergence.py::", "parity/test_divergence_parity.py::"
SFT, KD, HPD, PSFT, WSPO, DPO, CLM, LCO, DISTRL, GRPO, RLOO = (
    f"methods/test_{name}.py::"
    for name in ("sft", "kd", "hpd", "psft", "wspo", "dpo", "clm", "lco", "distrl", "grpo", "rloo")
)
FORWARD, STUDENT, IDENTITY = "models/test_forward.py::", "models/test_student.py::", "models/test_identity_layer.py::"
SNAPSHOT, FUSED, COLUMNS = "signals/test_snapshot.py::", "signals/test_fused.py::", "signals/test_columns.py::"
ADVANTAGES, SURROGATE = "objectives/test_advantages.py::", "objectives/test_policy_gradient.py::"
ATTRIBUTION = "objectives/test_attribution.py::"
PACKS = "models/test_packing.py::"
STORE, CACHED = "signals/test_row_store.py::", "commands/test_teacher_cache.py::"
WRITTEN = "commands/test_teacher_cache_written.py::"
REALIGN, CHATS = "decoding/test_realign.py::", "data/test_chat.py::"

JUDGES, EDIT_SUITE, PREFIXES = "evals/test_judges.py::", "evals/test_edit.py::", "evals/test_prefixes.py::"
EDITS, MADE_FACTS = "data/test_edits.py::", "data/generators/test_facts.py::"
SCOPE = "models/test_scope.py::"

MISTAKES = [
    # --- what is trained
    Mistake(
        "scope: what it does not name is trained too",
        "models.scope:freeze_others",
        "name in kept or id(parameter) in extra",
        "name in kept or id(parameter) in extra or parameter.dim() == 1",
        (f"{SCOPE}test_only_the_scope_has_gradients", "runs/test_scope_runs.py::test_only_the_scope_changes"),
    ),
    Mistake(
        "scope: a pair leaves out its last layer",
        "models.scope:check_layers",
        "range(numbers[0], numbers[1] + 1)",
        "range(numbers[0], numbers[1])",
        (f"{SCOPE}test_a_pair_is_a_range",),
    ),
    Mistake(
        "scope: blocks that read other tokens are MLPs",
        "models.scope:_is_alone",
        "torch.allclose(*flat, rtol=0.0001, atol=1e-06)",
        "not torch.allclose(*flat, rtol=0.0001, atol=1e-06)",
        (f"{SCOPE}test_blocks_of_other_names",),
    ),
    # --- edits of facts
    Mistake(
        "edit: means are over probes",
        "evals.suites._edit_measures:mean_over",
        'one.item.data.get("edit", one.item.text)',
        "one.item.id",
        (EDIT_SUITE + "test_means_are_over_edits_and_not_over_probes",),
    ),
    Mistake(
        "edit: what was known before counts",
        "evals.suites._edit_measures:judged_measures",
        'kind not in ("locality", "general")',
        'kind in ("locality", "general")',
        (EDIT_SUITE + "test_what_was_known_before_is_no_edit",),
    ),
    Mistake(
        "judge: an answer is contained as letters",
        "evals.judges:_stands",
        'f" {answer} " in f" {said} "',
        "answer in said",
        (JUDGES + "test_an_answer_is_contained_as_words",),
    ),
    Mistake(
        "judge: a request that failed is a verdict",
        "evals.judges:judged",
        "not reply.error",
        "True",
        (JUDGES + "test_a_request_that_fails_is_no_judgement", JUDGES + "test_a_judge_that_is_down"),
    ),
    Mistake(
        "drift: the KL goes the other way",
        "evals.prefixes:drift",
        "(log_p.exp() * (log_p - log_q))",
        "(log_q.exp() * (log_q - log_p))",
        (PREFIXES + "test_the_drift_is_the_kl",),
    ),
    Mistake(
        "legacy: logits are not shifted",
        "evals.prefixes:logits_behind",
        "logits[row, len(one.prompt) - 1 : end - 1]",
        "logits[row, len(one.prompt) : end]",
        (PREFIXES + "test_each_token_is_predicted_from_all_before_it",),
    ),
    Mistake(
        "facts: neighbours are drawn from the subjects that are edited",
        "data.generators.facts:_known",
        "drawn.sample(NEVER_EDITED, 2)",
        "drawn.sample(mine, 2)",
        (MADE_FACTS + "test_no_subject_is_in_both_splits_and_nothing_that_must_stay",),
    ),
    Mistake(
        "facts: the hop of an edit is that of the old fact",
        "data.generators.facts:_edit",
        "fact.new.hop",
        "fact.old.hop",
        (MADE_FACTS + "test_the_first_edit_by_hand",),
    ),
    Mistake(
        "edits: a row with an empty target counts",
        "data.edits:_checked",
        "not plain(edit.target_new)",
        "edit.target_new is None",
        (EDITS + "test_a_bad_row_of_a_users_file_is_refused", EDITS + "test_rows_of_zsre_with_an_empty_alternative"),
    ),
    Mistake(
        "edits: only the first of the old answers is compared",
        "data.edits:_checked",
        "next((one for one in old if plain(one) == plain(edit.target_new)), None)",
        "next((one for one in old[:1] if plain(one) == plain(edit.target_new)), None)",
        (EDITS + "test_a_benchmarks_row_whose_target_is_the_second_of_its_old_answers",),
    ),
    Mistake(
        "edits: the same words with the same answer contradict, other answers do not",
        "data.edits:_merged",
        "plain(rival.target_new) != plain(edit.target_new)",
        "plain(rival.target_new) == plain(edit.target_new)",
        (EDITS + "test_two_edits_that_contradict_each_other", EDITS + "test_rows_that_repeat_an_edit"),
    ),
    # --- what a frozen model gave, found again
    Mistake(
        "cache: a missing row is not noticed before training",
        "signals.cached:CachedTeacher.check",
        "lacking.append(number)",
        "number",
        (WRITTEN + "test_a_row_that_is_missing_is_refused",),
    ),
    Mistake(
        "store: rows with the same ids and other labels are one",
        "signals.row_store:row_key",
        "(ids, labels)",
        "(ids,)",
        (STORE + "test_a_row_is_known_by_ids_and_labels",),
    ),
    Mistake(
        "store: every row of a shard begins where the shard does",
        "signals.row_store:RowStore._add",
        "start += length",
        "start += 0",
        (STORE + "test_rows_come_back_bit_by_bit",),
    ),
    Mistake(
        "top-k: what the classes leave out is counted without the entropy of the rest",
        "core.topk:left_out",
        "math.log(number) - rest",
        "math.log(number)",
        (TOPK + "test_what_the_classes_leave_out_by_hand",),
    ),
    Mistake(
        "store: a shard with a flipped bit is read",
        "signals.row_store:_faults",
        'digest != shard["sha256"]',
        "len(digest) != 64",
        (STORE + "test_a_torn_shard_is_refused",),
    ),
    Mistake(
        "cache: the share of a process depends on what another has written meanwhile",
        "runs.teacher_pass:_ask",
        "list(keyed.items())[rank::number]",
        "[one for one in keyed.items() if any(key not in store for key in one[0])][rank::number]",
        (WRITTEN + "test_processes_of_a_launch_write_rows_of_their_own",),
    ),
    Mistake(
        "cache: completions are kept, which never come again",
        "runs.models:kept_in",
        '"off" if samples(recipe) else recipe.models.teacher_cache',
        "recipe.models.teacher_cache",
        (CACHED + "test_completions_do_not_pile_up",),
    ),
    Mistake(
        "cache: a stage that trains can be read as a cache",
        "runs.stages:_referred",
        "cached != found.startswith(CACHE)",
        "cached is None",
        ("runs/test_cache_stages.py::test_a_stage_that_cannot_be_written_or_read",),
    ),
    # --- rows in packs
    Mistake(
        "packs: positions go on from row to row",
        "models.packing:packs",
        "position_ids.flatten().index_put((index[real],), within[real])",
        "position_ids.flatten().index_put((index[real],), index[real] % width)",
        (PACKS + "test_rows_are_laid_out_at_their_places", PACKS + "test_a_row_has_the_same_bits_whatever"),
    ),
    Mistake(
        "packs: a mask that blocks nothing between rows",
        "models.packing:packs",
        '{"input_ids": ids, "position_ids": position_ids, "attention_mask": None}',
        '{"input_ids": ids, "position_ids": position_ids, "attention_mask": mask.long()}',
        (PACKS + "test_a_row_has_the_same_bits_whatever", PACKS + "test_no_token_is_predicted_across_rows"),
    ),
    Mistake(
        "packs: states of the neighbouring token",
        "models.packing:packs",
        "(pack * width + start)[:, None] + within",
        "(pack * width + start)[:, None] + within - 1",
        (PACKS + "test_rows_are_laid_out_at_their_places",),
    ),
    Mistake(
        "packs: layers that let rows see each other are taken",
        "models.packing_check:_fault",
        "not all((a - b).abs().max() <= rounding for a, b in zip(found, after))",
        "False",
        (PACKS + "test_layers_that_cannot_keep_rows_apart_are_refused",),
    ),
    Mistake(
        "packs: rows stand on each other",
        "data.collate:places",
        "start + len(row[f'{prefix}input_ids'])",
        "start",
        ("train/test_packs.py::test_the_collator_gives_each_row_its_place",),
    ),
    Mistake(
        "packs: a row goes where it does not fit",
        "data.packs:fit",
        "rooms >> size",
        "rooms >> (size - 1)",
        ("train/test_packs.py::test_every_row_is_in_one_pack",),
    ),
    # --- the most likely tokens and the rest
    Mistake(
        "top k: the rest is summed over all tokens",
        "core.topk:_Classes.forward",
        "table.scatter(-1, ids, -torch.inf).logsumexp(dim=-1, keepdim=True)",
        "table.logsumexp(dim=-1, keepdim=True)",
        (TOPK + "test_values_worked_by_hand", TOPK + "test_it_is_a_coarsening"),
    ),
    Mistake(
        "top k: no gradient through the rest's class",
        "core.topk:_Classes.backward",
        "of_rest * share - total * probabilities",
        "-total * probabilities",
        (TOPK + "test_gradient_is_that_of_numbers",),
    ),
    Mistake(
        "top k: the normaliser takes no part of the rest's gradient",
        "core.topk:_Classes.backward",
        "of_chosen.sum(dim=-1, keepdim=True) + of_rest",
        "of_chosen.sum(dim=-1, keepdim=True)",
        (TOPK + "test_gradient_is_that_of_numbers", TOPK + "test_two_hundred_steps_of_reverse_kl"),
    ),
    # --- pairs of rationales
    Mistake(
        "pairs: one divisor for the tokens of both sides",
        "core.loss:_pair_weights",
        "(0.5 / total[:2].float())",
        "(1 / total[:2].float().sum()).expand(2)",
        (PAIRS + "test_alpha_zero_is_the_mean_of_both_token_means", PAIRS + "test_the_loss_is_the_mean_of_two"),
    ),
    Mistake(
        "pairs: the other side without gradient",
        "objectives.consistency:consistency",
        "kl(first_logits, second_logits)",
        "kl(first_logits, second_logits.detach())",
        (CONSISTENCY + "test_the_gradient_reaches_both_sides", CONSISTENCY + "test_the_gradient_of_both_sides"),
    ),
    Mistake(
        "pairs: answers of other tokens are compared",
        "data.rationales:draw",
        "said[0] == said[1]",
        "len(said[0]) > 0",
        ("data/test_rationales.py::test_answers_of_other_tokens_are_not_compared",),
    ),
    Mistake(
        "pairs: the second rationale may be the first",
        "train.dataset:DrawnRationales.__getitem__",
        "second + (second >= first)",
        "second",
        ("data/test_rationales.py::test_draws_are_uniform_over_pairs",),
    ),
    Mistake(
        "pairs: the same draws in every epoch",
        "train.dataset:DrawnRationales.__getitem__",
        "int(self.epoch)",
        "0",
        (
            "data/test_rationales.py::test_draws_are_uniform_over_pairs",
            "methods/test_mcc_kd.py::test_the_second_epoch_draws_anew",
        ),
    ),
    # --- what is learnt from: shifts, masks, precision, draws
    Mistake(
        "shift: answer mask not moved by one",
        "core.batch:answer_mask",
        "labels[:, 1:]",
        "labels[:, :-1]",
        (
            BATCH + "test_answer_mask_says_which_predictions_count",
            SFT + "test_gradient_at_the_logits_is_q_minus_one_hot_over_the_tokens",
        ),
    ),
    Mistake(
        "mask: inverted",
        "core.batch:answer_mask",
        "labels[:, 1:] != IGNORE",
        "labels[:, 1:] == IGNORE",
        (BATCH + "test_loss_does_not_change_with_the_logits_of_ignored", LOSS + "test_count_is_what_each_reduction"),
    ),
    Mistake(
        "shift: logits and hidden states moved like labels",
        "core.batch:predicting",
        "states[:, :-1]",
        "states[:, 1:]",
        (BATCH + "test_logits_at_t_meet_the_label", FORWARD + "test_our_sft_is_the_loss_of_transformers_itself"),
    ),
    Mistake(
        "shift: stored numbers one place early",
        "signals.columns:Column.__call__",
        "inputs[self.column][:, 1:]",
        "inputs[self.column][:, :-1]",
        (COLUMNS + "test_each_number_stands_at_its_own", WSPO + "test_two_live_models_and_a_stored_column"),
    ),
    Mistake(
        "crop: to the larger vocabulary",
        "core.batch:vocab_size",
        "min(sizes)",
        "max(sizes)",
        (BATCH + "test_both_distributions_are_cropped", VOCAB + "test_engine_equals_plain_logits_with_a_teacher_of"),
    ),
    Mistake(
        "temperature: ignored",
        "core.batch:TokenBatch.log_softmax",
        "logits.float() / temperature",
        "logits.float()",
        (KD + "test_temperature_softens_both", PARITY + "test_kd_is_trls_generalised_jsd"),
    ),
    Mistake(
        "precision: log-softmax in bfloat16",
        "core.batch:TokenBatch.log_softmax",
        "torch.log_softmax(scaled, dim=-1, dtype=torch.float32)",
        "torch.log_softmax(scaled, dim=-1).float()",
        (BATCH + "test_log_softmax_of_bfloat16_logits_runs_in_float32", KD + "test_bfloat16_logits_lose_nothing"),
    ),
    Mistake(
        "draws: by the row of the micro-batch",
        "core.batch:uniform",
        "self.row_id[self.row]",
        "self.row",
        (DRAWS + "test_the_draws_of_a_batch_are_the_same_for_any_cut", HPD + "test_any_split_into_micro_batches"),
    ),
    Mistake(
        "draws: the hash ignores the row",
        "core.draws:hashed_uniform",
        "(seed, step, stream, row_id, position)",
        "(seed, step, stream, position)",
        (DRAWS + "test_a_draw_depends_on_each_of_its_five_coordinates", DRAWS + "test_draws_are_uniform"),
    ),
    # --- divisors, and the engine between logits and loss
    Mistake(
        "divisor: mean of means",
        "core.loss:weights",
        "total = max(len(batch), 1) if total is None else total",
        "total = max(len(batch), 1)",
        (
            LOSS + "test_loss_does_not_depend_on_how_rows_are_grouped",
            FORWARD + "test_eight_rows_give_the_same_gradient_as_8x1_2x4_and_1x8",
        ),
    ),
    Mistake(
        "divisor: long rows count more in the mean over sequences",
        "core.loss:weights",
        "ones / batch.lengths[batch.row]",
        "ones",
        (LOSS + "test_sequence_mean_gives_every_row_with_an_answer_the_same_share",),
    ),
    Mistake(
        "log-probability: sign of the softmax in the gradient",
        "core.logprobs:_TokenLogprobs.backward",
        "-grad.sum(dim=-1, keepdim=True)",
        "grad.sum(dim=-1, keepdim=True)",
        (LOGPROBS + "test_value_and_gradient_are_those_of_torch", LOGPROBS + "test_gradient_is_one_hot_minus_softmax"),
    ),
    Mistake(
        "head: gradient of the last block only",
        "core.vocab:_block",
        "total.addmm_(grad_raw.T, leaf)",
        "total.copy_(grad_raw.T @ leaf)",
        (VOCAB + "test_engine_equals_plain_logits",),
    ),
    Mistake(
        "head: soft-cap skipped",
        "core.vocab:Head.finish",
        "self.softcap is not None",
        "False",
        (VOCAB + "test_the_head_scales_first_and_caps", FORWARD + "test_our_sft_is_the_loss_of_trls_fused_head"),
    ),
    Mistake(
        "engine: gradient from above ignored",
        "core.vocab:_FusedLoss.backward",
        "grad_outputs[0] * ctx.scale",
        "ctx.scale",
        (VOCAB + "test_the_gradient_that_comes_from_above_is_multiplied_in",),
    ),
    # --- objectives and methods: signs, directions, roles
    Mistake(
        "sft: sign of the log-likelihood",
        "objectives.likelihood:Likelihood.__call__",
        "-self._weight(batch, logprobs.detach()) * logprobs if self.weight != 'one' else -logprobs",
        "-self._weight(batch, logprobs.detach()) * logprobs if self.weight != 'one' else logprobs",
        (SFT + "test_loss_is_minus_the_log_probability_of_the_next", PARITY + "test_sft_is_torchs_cross_entropy"),
    ),
    Mistake(
        "divergence: direction of the forward KL",
        "objectives.divergence:forward_kl",
        "_kl(teacher_logprobs.detach(), student_logprobs)",
        "_kl(student_logprobs, teacher_logprobs.detach())",
        (DIVERGENCE + "test_forward_kl_of_two_known", PARITY + "test_forward_kl_is_torchs_kl_div"),
    ),
    Mistake(
        "divergence: the JSD's two terms exchanged",
        "objectives.divergence:jsd",
        "beta * _kl(log_p, log_m) + (1 - beta) * _kl(log_q, log_m)",
        "(1 - beta) * _kl(log_p, log_m) + beta * _kl(log_q, log_m)",
        (DIVERGENCE + "test_jsd_over_beta_tends_to_the_forward_kl", PARITY + "test_kd_is_trls_generalised_jsd"),
    ),
    Mistake(
        "divergence: AKL's shares exchanged",
        "objectives.divergence:akl",
        "share * _kl(log_p, student_logprobs)",
        "(1 - share) * _kl(log_p, student_logprobs)",
        (DIVERGENCE + "test_akl_of_three_tokens", DIVERGENCE + "test_the_weights_of_akl_and_todi_are_constants"),
    ),
    Mistake(
        "divergence: ToDi's weights have a gradient",
        "objectives.divergence:todi",
        "beta * excess.detach()",
        "beta * excess",
        (DIVERGENCE + "test_the_weights_of_akl_and_todi_are_constants",),
    ),
    Mistake(
        "divergence: the powers of p and q exchanged",
        "objectives.divergence:_ab_terms",
        "torch.expm1(alpha * to_p + beta * to_q)",
        "torch.expm1(beta * to_p + alpha * to_q)",
        (DIVERGENCE + "test_abkl_of_three_tokens", DIVERGENCE + "test_abkl_is_continuous_where"),
    ),
    Mistake(
        "top k: of the other model",
        "objectives.matching:Match._distributions",
        "logits[self.top_k_of == 'teacher']",
        "logits[self.top_k_of == 'student']",
        (KD + "test_the_most_likely_tokens_and_the_rest_are_classes_of_their_own",),
    ),
    Mistake(
        "top k: the rest is no class",
        "objectives.matching:Match.__call__",
        "self.divergence(log_q, log_p)",
        "self.divergence(log_q[:, : self.top_k], log_p[:, : self.top_k])",
        (
            KD + "test_a_divergence_of_classes_is_never_negative",
            KD + "test_200_steps_of_reverse_kl_on_the_most_likely_tokens",
        ),
    ),
    Mistake(
        "segments: white space that one side drops is no boundary",
        "data.alignment:_boundaries",
        "(done, following, number)",
        "(done, done, number)",
        ("data/test_alignment.py::test_where_one_side_drops_a_space",),
    ),
    Mistake(
        "segments: vocabularies compared wherever a segment begins",
        "data.alignment:align",
        "begin is not None and begin == teacher.begins[b]",
        "True",
        (
            "data/test_alignment.py::test_where_one_side_drops_a_space",
            "data/test_alignment.py::test_vocabularies_are_compared_where_both_begin_at_the_same_byte",
        ),
    ),
    Mistake(
        "segments: not the product of their tokens",
        "objectives.segments:MatchSegments.prepared",
        "kept.new_zeros(number).index_add(0, of, kept[inside])",
        "kept.new_zeros(number).scatter(0, of, kept[inside])",
        ("objectives/test_segments.py::test_the_loss_of_three_tokens_in_two_segments",),
    ),
    Mistake(
        "segments: what they pull at is not theirs",
        "objectives.segments:MatchSegments.__call__",
        "(chosen - chosen.detach())",
        "(chosen.detach() - chosen)",
        ("objectives/test_segments.py::test_value_and_gradient_are_those_of_the_products",),
    ),
    Mistake(
        "other tokenizer: the teacher's states of the token itself",
        "signals.other_tokenizer:OtherTokenizer.__call__",
        "found.hidden[first[at]]",
        "found.hidden[(first[at] + 1) % len(found.hidden)]",
        ("signals/test_other_tokenizer.py::test_what_the_teacher_says_is_that_of_its_own_row",),
    ),
    Mistake(
        "other tokenizer: single tokens are compared twice",
        "signals.other_tokenizer:OtherTokenizer.__call__",
        "~compared | (size > 1) | (own_size > 1)",
        "size > 0",
        ("signals/test_other_tokenizer.py::test_what_the_teacher_says_is_that_of_its_own_row",),
    ),
    Mistake(
        "fused teacher: the ends of the scale exchanged",
        "signals.fused:fuse",
        "torch.lerp(r, a, self.strength)",
        "torch.lerp(a, r, self.strength)",
        (
            FUSED + "test_the_ends_of_the_scale_are_the_models",
            "methods/test_trra.py::test_each_token_costs_the_kl_from",
        ),
    ),
    Mistake(
        "hpd: pulls the competitor up",
        "methods.hpd:hpd_weights",
        "suppress * k_draw",
        "-(suppress * k_draw)",
        (HPD + "test_the_weights_of_every_branch_are_those", HPD + "test_gradient_at_the_logits_is_the_two_weighted"),
    ),
    Mistake(
        "psft: the ratio turned around",
        "methods.psft:psft_values",
        "ratios(logprobs, snapshot_logprobs)",
        "ratios(snapshot_logprobs, logprobs)",
        (PSFT + "test_the_loss_is_minus_the_ratio_up_to_the_clip", PSFT + "test_a_fresh_snapshot_gives_minus_1"),
    ),
    Mistake(
        "ratio: the other side is trained too",
        "objectives.policy_gradient:ratios",
        "old.detach()",
        "old",
        (PSFT + "test_the_snapshot_gets_no_gradient",),
    ),
    Mistake(
        "surrogate: the larger of the two is taken",
        "objectives.policy_gradient:clipped_surrogate",
        "torch.minimum(ratio * advantages, bounded * advantages)",
        "torch.maximum(ratio * advantages, bounded * advantages)",
        (SURROGATE + "test_the_surrogate_by_hand", SURROGATE + "test_the_gradient_is_that_of_the_ratio"),
    ),
    Mistake(
        "advantages: the std of a group is that of the population",
        "objectives.advantages:group_normalised",
        "group_mean(centred.square(), group) * size / (size - 1).clamp(min=1)",
        "group_mean(centred.square(), group)",
        (ADVANTAGES + "test_normalised_by_hand", GRPO + "test_value_and_gradient_are_those_of_trls"),
    ),
    Mistake(
        "advantages: the answer itself is in the mean that leaves it out",
        "objectives.advantages:leave_one_out",
        "(rewards - group_mean(rewards, group)) * size / (size - 1).clamp(min=1)",
        "rewards - group_mean(rewards, group)",
        (ADVANTAGES + "test_the_mean_that_leaves_one_out", RLOO + "test_value_and_gradient_are_those_of_trls"),
    ),
    Mistake(
        "advantages: what comes later is not discounted",
        "objectives.advantages:gae",
        "gamma * lam * after",
        "gamma * after",
        (ADVANTAGES + "test_gae_by_hand",),
    ),
    Mistake(
        "dpo: chosen and rejected exchanged",
        "objectives.preference:DPO.ratios",
        "(ratios[0::2], ratios[1::2])",
        "(ratios[1::2], ratios[0::2])",
        (
            DPO + "test_log_ratios_are_summed_over_each_answer_and_both_rows_of_a_pair_carry_its_loss",
            CLM + "test_the_margin_of_the_chosen_answers_grows_with_the_strength_on_both_sides",
        ),
    ),
    Mistake(
        "dpo: without the reference",
        "objectives.preference:DPO.ratios",
        'batch.logprobs() - batch.logprobs(of="reference")',
        "batch.logprobs()",
        (
            DPO + "test_it_starts_at_log_2_when_the_reference_is_a_copy_of_the_policy",
            CLM + "test_it_starts_at_log_2_with_the_network_itself_as_reference",
        ),
    ),
    Mistake(
        "wspo: gamma at the weak ratio",
        "methods.wspo:WSPO.__call__",
        "self.gamma * strong - weak",
        "strong - self.gamma * weak",
        (WSPO + "test_each_token_costs_the_square_of_gamma", "parity/test_dpo_parity.py::test_wspo_is_its_formula"),
    ),
    Mistake(
        "lco: a reward of zero has the sharp beta",
        "methods.lco:_sparse",
        "reward > 0",
        "reward >= 0",
        (LCO + "test_a_reward_is_known_of_the_drawn_token_alone",),
    ),
    Mistake(
        "distrl: small log-ratios count",
        "methods.distrl:candidates_kl",
        "torch.where(ratio.abs() < threshold, 0.0, ratio)",
        "ratio",
        (DISTRL + "test_the_kl_over_candidates_and_the_rest_by_hand",),
    ),
    Mistake(
        "credit: the margin is multiplied by beta",
        "objectives.reward_models:bradley_terry",
        "beta * (chosen - rejected) - margin",
        "beta * (chosen - rejected - margin)",
        ("objectives/test_reward_model_objectives.py::test_bradley_terry_by_hand",),
    ),
    # --- models and signals
    Mistake(
        "student: the first layers whatever was asked for",
        "models.student:copy_layers",
        "old == int(index)",
        "new == int(index)",
        (STUDENT + "test_logits_are_those_of_the_original_without_the_other_layers",),
    ),
    Mistake(
        "dial: the other rows go around",
        "models.identity_layer:around",
        "torch.where(_for_each(rows, given), given, computed)",
        "torch.where(_for_each(rows, given), computed, given)",
        (
            IDENTITY + "test_rows_choose_for_themselves",
            REALIGN + "test_at_0_it_is_the_original_model_and_at_1_the_expanded_one",
        ),
    ),
    Mistake(
        "head of scores: a score is read before its token",
        "core.batch:answering",
        "states[:, 1:]",
        "states[:, :-1]",
        ("models/test_scalar_head.py::test_the_score_of_a_token_is_read_behind_it",),
    ),
    Mistake(
        "snapshot: never renewed",
        "signals.snapshot:before_update",
        "done % self.every == 0",
        "False",
        (SNAPSHOT + "test_it_is_renewed_every_so_many_updates", PSFT + "test_with_a_new_snapshot_at_each_update_it_is"),
    ),
    # --- rows, steps, resume
    Mistake(
        "rows: what follows the end token is learnt",
        "data.row_reader:RowReader._ended",
        "turn.answer[:end]",
        "turn.answer",
        (CHATS + "test_an_answer_ends_at_its_own_end_token",),
    ),
    Mistake(
        "tokens: a second begin token before the row's own",
        "data.tokens:_begun",
        "ids[: len(self.first)] == self.first",
        "False",
        (CHATS + "test_begin_and_end_stand_once",),
    ),
    Mistake(
        "windows: one row of each",
        "train.windows:windowed",
        "yield from order[start : start + window]",
        "yield order[start : start + window][_]",
        ("train/test_windows.py::test_each_window_is_given_several_times_in_a_row_before_the_next",),
    ),
    Mistake(
        "resume: a torn line is kept",
        "common.files:drop_torn_line",
        "os.truncate(path, end)",
        "os.truncate(path, path.stat().st_size)",
        ("evals/test_runner.py::test_a_torn_last_line_is_cut_off_and_others_are_named",),
    ),
    Mistake(
        "workdir: another signature is taken for the same",
        "common.workdir:differences",
        "before.get(key) != now.get(key)",
        "before.get(key) == now.get(key)",
        ("common/test_workdir.py::test_another_signature_is_refused_by_its_line",),
    ),
    Mistake(
        "workdir: files that lay there before are taken away with what was begun",
        "common.workdir:Workdir.open",
        "not any(map(Path.exists, self._made()))",
        "any(map(Path.exists, self._made()))",
        ("common/test_workdir.py::test_files_of_others_stay_where_the_folder_is_refused",),
    ),
    Mistake(
        "workdir: the file of another command is replaced with --force",
        "common.workdir:Workdir.check",
        "(other := self._owner()) not in (None, self.command)",
        "(other := self._owner()) in ('',)",
        ("common/test_workdir.py::test_a_file_of_another_command_is_refused",),
    ),
    Mistake(
        "precompute: batches that were kept are computed again",
        "runs.precomputed:_label_logprobs",
        "number in done",
        "number in ()",
        ("commands/test_precompute.py::test_what_was_stopped_is_resumed_and_ends",),
    ),
    Mistake(
        "workdir: what a full disk took of a line stays",
        "common.files:append_lines",
        "os.truncate(path, before)",
        "os.truncate(path, path.stat().st_size)",
        ("common/test_workdir.py::test_a_full_disk_leaves_whole_lines",),
    ),
    Mistake(
        "settings: a word that two keys could mean is taken",
        "common.settings:_set",
        "len(meant) > 1",
        "len(meant) > 2",
        ("common/test_command_settings.py::test_a_mistake_is_one_line",),
    ),
    # --- decoding
    Mistake(
        "decoding: realign mixes with the wrong sign",
        "decoding.realign:next_logits",
        "1 - now[dial.original]",
        "1 + now[dial.original]",
        (REALIGN + "test_logits_are_linear_in_the_strength", "decoding/test_dera.py::test_with_the_weights_of_an_exp"),
    ),
    Mistake(
        "early exit: the pasts of rows that go on are mixed up",
        "decoding._streams:keep",
        "cache.batch_select_indices(places.to(self.model.device))",
        "cache.batch_select_indices(places.flip(0).to(self.model.device))",
        ("decoding/test_early_exit.py::test_greedy_tokens_are_those_of_generate",),
    ),
    Mistake(
        "prefill: attention sees the gap",
        "decoding._prefill:prefill",
        "attention_mask.gather(1, source)",
        "torch.ones_like(attention_mask)",
        ("decoding/test_prefill.py::test_logits_are_those_of_whole_prompts",),
    ),
    Mistake(
        "penalty: negative scores are rewarded",
        "decoding.penalty:weaken",
        "torch.where(scores < 0, scores * strength, scores / strength)",
        "scores / strength",
        ("decoding/test_penalty.py::test_scores_of_repeated_tokens_by_hand",),
    ),
    # --- what a run needs, told beforehand
    Mistake(
        "memory: Adam keeps one number a weight",
        "runs.estimate:_state",
        'OPTIMIZER_BYTES.get(name.removesuffix("_torch"), 8)',
        'OPTIMIZER_BYTES.get(name.removesuffix("_torch"), 4)',
        ("runs/test_estimate_parts.py::test_weights_gradients_and_optimizer_state",),
    ),
    Mistake(
        "memory: a cache keeps keys alone",
        "models.footprint:kv_bytes",
        "2 * text.num_hidden_layers",
        "text.num_hidden_layers",
        ("runs/test_estimate_parts.py::test_a_kv_cache_is", "runs/test_estimate.py::test_keys_and_values_of_a_token"),
    ),
    # --- rewards, metrics, evaluation
    Mistake(
        "parser: one of two options that a text names is its choice",
        "rewards.parsing:letters",
        "found if several or len(found) == 1 else ()",
        "found[:1]",
        ("rewards/test_parsing.py::test_a_written_answer_is_read",),
    ),
    Mistake(
        "auc: right answers are the wrong ones",
        "metrics.ranks:auc",
        "ranks(scores) * of_positives",
        "ranks(scores) * (1 - of_positives)",
        ("metrics/test_ranks.py::test_the_auc_of_four_answers_by_hand",),
    ),
    Mistake(
        "intervals: too wide",
        "metrics.intervals:student_mean",
        "number**0.5",
        "(number - 1) ** 0.5",
        ("report/test_report_seeds.py::test_the_mean_and_its_interval_by_hand",),
    ),
    Mistake(
        "accuracy: answers that were not understood leave the denominator",
        "evals.suite:accuracy",
        '("strict", sums, ones)',
        '("strict", sums, known)',
        ("evals/test_suite.py::test_an_answer_that_was_not_understood_is_incorrect_in_one_number_and_absent",),
    ),
    # --- runs
    Mistake(
        "folder: a run with a checkpoint is started over",
        "runs.folder:stopped_early",
        'ours and not made and not checkpoints.any_marked(folder / "checkpoints")',
        "ours and not made",
        ("runs/test_stopped_runs.py::test_what_can_be_resumed_or_is_of_others_is_not_started_over",),
    ),
    Mistake(
        "report: the numbers of an unfinished run are said to be of its first evaluation",
        "report.words:unfinished",
        "run.measured[-1]",
        "run.steps",
        ("report/test_report_table.py::test_numbers_of_an_earlier_step_say_so_beside_the_steps_and_name_the_run",),
    ),
    # --- the command line
    Mistake(
        "overrides: a section may undo the keys that were given before it",
        "runs.overrides:override_all",
        "one[: len(parts)] == parts",
        "one[: len(parts)] == one",
        ("runs/test_recipe.py::test_an_override_that_undoes_an_earlier_one_is_refused",),
    ),
    Mistake(
        "show: a section has the keys of all sections",
        "runs.explain:keys_below",
        "_matches(_first(one.key, depth), key)",
        "True",
        ("runs/test_explain.py::test_a_section_is_explained_with_its_keys_and_nothing_else",),
    ),
    Mistake(
        "eval: other items are taken for the first of more",
        "commands.evaluate:_extends",
        "found == fingerprint.of_each(asdict(item) for item in asked.items[: int(number)])",
        "True",
        ("commands/test_evaluate.py::test_only_the_first_of_the_same_items_are_extended",),
    ),
    Mistake(
        "places: the model of a run is not looked for",
        "models.places:_no_model",
        "is_run and inside",
        "is_run and not inside",
        ("commands/test_missing_models.py::test_what_is_no_model_is_named_with_the_way_out",),
    ),
    # --- attribution
    Mistake(
        "attribution: the student's map is a constant in the second derivative",
        "objectives.attribution:integrated_gradients",
        "mean * _at_least_float32(path.embedded)",
        "mean.detach() * _at_least_float32(path.embedded)",
        (ATTRIBUTION + "test_the_gradient_of_the_attribution_loss_agrees_with_finite_differences",),
    ),
    Mistake(
        "decoders: maps count the token that begins every text",
        "data.labelled:LabelledCollator.__call__",
        "ids[:, 0] != self.sink",
        "ids[:, 0] == self.sink",
        ("train/test_adapted_classifiers.py::test_a_decoder_learns_where_its_teacher_looks",),
    ),
    Mistake(
        "decoders: their configs pad with another token than the rows",
        "models.classifier:pad_alike",
        "config.pad_token_id = tokenizer.pad_token_id",
        "config.pad_token_id = config.pad_token_id",
        ("models/test_classifier.py::test_models_and_tokenizer_pad_alike_whatever_they_padded_with_before",),
    ),
    Mistake(
        "adapters of classifiers: a new pooler is not saved with them",
        "models.classifier:head_parts",
        "(*inside, *outside)",
        "outside",
        ("train/test_adapted_classifiers.py::test_an_adapter_with_its_head_is_saved_and_answers_as_the_merged_model",),
    ),
    Mistake(
        "classifiers: each micro-batch is divided by its own rows",
        "signals.classifier:call_on_labels",
        "len(batch.labels) if rows is None else rows",
        "len(batch.labels)",
        ("contract/test_classifiers.py::test_grouping_of_rows_and_accumulation_change_nothing",),
    ),
    Mistake(
        "attribution: the path begins at its left end",
        "objectives.attribution:points_on_path",
        "torch.arange(1, steps + 1, device=embedded.device, dtype=embedded.dtype)",
        "torch.arange(0, steps, device=embedded.device, dtype=embedded.dtype)",
        (
            ATTRIBUTION + "test_points_are_the_right_ends_of_equal_parts",
            ATTRIBUTION + "test_one_step_is_gradient_times_input",
            "parity/test_attribution_parity.py::test_attributions_are_those_of_captum",
        ),
    ),
    Mistake(
        "attribution: the first dimensions instead of the largest",
        "objectives.attribution:token_map",
        "squares.topk(top, dim=-1).values",
        "squares[..., :top]",
        (ATTRIBUTION + "test_a_map_worked_by_hand",),
    ),
    Mistake(
        "servers: a rewriter may be another model than the one asked",
        "rewriting.by_name:RewritingServer.model",
        "served_as=served_as",
        "served_as=None",
        ("commands/test_served_models.py::test_another_model_is_refused_by_its_name_and_allowed_by_it",),
    ),
    Mistake(
        "budget: requests under way are not reserved",
        "evals.spending:RequestBudget.request",
        "self.spent + self.reserved + most",
        "self.spent + most",
        ("commands/test_collect_server.py::test_no_request_is_sent_that_could_exceed_a_budget_of_tokens",),
    ),
    Mistake(
        "collect: an answer of another model is taken",
        "evals.openai_model:OpenAIModel._check_name",
        "is_version(name, self.served_as)",
        "True",
        ("commands/test_collect_server.py::test_another_model_than_the_one_asked_for_ends_it",),
    ),
    Mistake(
        "proxy_kd: texts that the proxy finds unlikely weigh more",
        "methods.proxy_kd:fit_weights",
        "logliks - logliks.mean()",
        "logliks.mean() - logliks",
        (
            "methods/test_proxy_kd.py::test_a_weight_is_the_logistic_of_the_standardised_log_likelihood",
            "methods/test_proxy_kd.py::test_weights_lie_between_0_and_1",
        ),
    ),
    Mistake(
        "proxy_align: the likelihood is divided by the tokens of both answers",
        "core.loss:count",
        "torch.stack([mask.any(dim=1).sum(), mask[0::2].sum()])",
        "torch.stack([mask.any(dim=1).sum(), mask.sum()])",
        (
            "methods/test_proxy_align.py::test_micro_batches_share_the_update",
            "train/test_sampled_pairs.py::test_what_is_counted_is_what_was_sampled",
        ),
    ),
    Mistake(
        "proxy_align: rejected answers are sampled by the policy as it is now",
        "methods.proxy_align:RoundStart.as_it_was",
        "self.fresh or not self._pairs",
        "True",
        ("train/test_sampled_pairs.py::test_rejected_answers_are_sampled_by_the_weights_of_the_round",),
    ),
    Mistake(
        "several teachers: weights are not scaled to a sum of 1",
        "signals.several:Teachers.__init__",
        "weight / sum(weights)",
        "weight",
        ("signals/test_several.py::test_of_equal_teachers_the_average_is_each",),
    ),
    Mistake(
        "several teachers: a later turn has the teacher of another row",
        "signals.several:Teachers._routed",
        "row_id % len(routes)",
        "row_id.clamp(max=len(routes) - 1)",
        ("signals/test_several.py::test_each_row_is_read_by_its_own_teacher_also_of_a_later_turn",),
    ),
]
