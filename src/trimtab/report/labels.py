"""Readable names of logged metrics."""

import re
from collections.abc import Mapping
from typing import Any

from trimtab.report.measures import MEASURES

LABELS = {
    "loss": "loss",
    "nll": "negative log-likelihood",
    "grad_norm": "gradient norm",
    "learning_rate": "learning rate",
    "epoch": "epochs",
    "answer_tokens": "answer tokens",
    "num_tokens": "tokens read",
    "tokens_per_second": "answer tokens per second",
    "tokens_read": "tokens read",
    "tokens_read_per_second": "tokens read per second",
    "seconds": "seconds of training",
    "reward": "reward",
    "reward_std": "spread of rewards",
    "pass_at_1": "pass@1 in training",
    "ratio": "probability ratio",
    "log_ratio": "log-ratio",
    "clip_fraction": "share of tokens clipped",
    "candidate_clip_fraction": "share of candidates clipped",
    "kl": "KL to the reference",
    "accuracy": "preference accuracy",
    "margin": "preference margin",
    "reward_chosen": "implicit reward, chosen",
    "reward_rejected": "implicit reward, rejected",
    "strong_ratio": "log-ratio of the policy",
    "weak_ratio": "log-ratio of the weak pair",
    "consistency": "divergence between the answers",
    "answer_agreement": "agreement of the answers",
    "brier": "Brier score",
    "token_score_auc": "token scores against outcomes",
    "groups_without_signal": "groups without training signal",
    "frac_reward_zero_std": "groups without training signal",
    "completions/mean_length": "completion length",
    "completions/min_length": "shortest completion",
    "completions/max_length": "longest completion",
    "completions/clipped_ratio": "truncation rate",
    "completions/mean_terminated_length": "length of completions that end",
    "completions/min_terminated_length": "shortest completion that ends",
    "completions/max_terminated_length": "longest completion that ends",
    "seconds_generation": "seconds of generating",
    "seconds_reward": "seconds of rewarding",
    "seconds_advantages": "seconds of advantages",
    "step_time": "seconds of a step",
    "teacher_nll": "the teacher's negative log-likelihood",
    # what became of rows
    "rows": "rows in the source",
    "kept": "rows kept",
    "truncated": "rows with a truncated answer",
    "prompt_too_long": "rows whose prompt fills the limit, left out",
    "empty": "rows without an answer, left out",
    "identical": "pairs with equal answers, left out",
    "tokens": "tokens",
    "no_end": "answers without an end token",
    "longest": "longest row, in tokens",
    "left_out_of_each_epoch": "rows left out of each epoch",
    "plain": "rows of plain texts, without the chat template",
    "split": "conversations split into a row for each turn",
    "rewritten": "rows whose earlier turns the chat template rewrites",
    "calls": "rows with a tool call that the chat template leaves out",
    "texts": "rows with a text that the chat template changes",
    "thoughts": "rows with a thought that the chat template leaves out",
    "emptied": "rows without a thought where the prompt opens one",
    "switched": "rows whose thought the prompt has no place for, or the reverse",
    "seam": "rows whose prompt and answer the tokenizer would join",
    "marks": "rows with a begin or end token in the text",
    "headless": "rows whose answers begin with their own header",
    "blank": "rows with an empty rationale, left out",
    "copies": "rows with a rationale that occurs twice",
    "unanswered": "rows with a rationale that does not state the answer, not compared",
    "cut_answer": "rows with a rationale whose answer is cut off, not compared",
    "unlike": "rows whose rationales write the answer in different tokens",
    "train": "training rows",
    "heldout": "held-out rows",
}
_SHORT = {measure.event_key: measure.short for measure in MEASURES}
_TITLES = {measure.event_key: measure.title for measure in MEASURES}


def label(key: str) -> str:
    """Of a logged number: the name of its measure, of `LABELS`, or its key in words."""
    if key in _TITLES or key in LABELS:
        return _TITLES.get(key) or LABELS[key]
    if reward := re.fullmatch(r"rewards/(.+)/(mean|std)", key):
        return f"reward {reward[1]}" if reward[2] == "mean" else f"spread of reward {reward[1]}"
    return key.replace("_", " ").replace("/", ", ")


def short(key: str) -> str:
    """The same for a line of a terminal."""
    return _SHORT.get(key) or label(key)


def counted(data: Mapping[str, Any]) -> dict[str, str]:
    """What became of rows, as a run logged it, in words: a label and a number, with the first such row."""
    found = {}
    for part, counts in data.items():
        if not isinstance(counts, dict):  # no held-out rows
            continue
        first = {**counts.get("first", {}), "plain": counts.get("first_plain")}
        numbers = {key: n for key, n in counts.items() if isinstance(n, int) and key != "first_plain"}
        for key, number in {**numbers, **counts.get("remarks", {})}.items():
            if number or key != "plain":
                row = f" (first: row {first[key]:,})" if number and first.get(key) else ""
                found[f"{label(part)}: {label(key)}"] = f"{number:,}{row}"
    return found
