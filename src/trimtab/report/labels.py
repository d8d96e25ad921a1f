"""Readable names of logged metrics."""

import re

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
    "empty": "rows without an answer, dropped",
    "identical": "pairs with equal answers, dropped",
    "tokens": "tokens",
    "no_end": "answers without an end token",
    "longest": "longest row, in tokens",
    "left_out_of_each_epoch": "rows dropped from each epoch",
    "first": "first such row",
    "remarks": "rows with a remark",
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


def of_data(key: str) -> str:
    """Of a count of rows, such as train.first.truncated."""
    return ": ".join(label(part) for part in key.split("."))
