"""Held-out metrics: names, units, explanations and formatting."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trimtab.metrics.intervals import Interval


@dataclass(frozen=True)
class Measure:
    key: str
    """field of a held-out row: a sum over the row's answer tokens"""
    title: str
    short: str
    better: Literal["lower", "higher", "neither"]
    unit: str
    meaning: str
    kind: Literal["mean", "perplexity", "share"] = "mean"
    against: Literal["", "teacher", "start"] = ""
    """the other model that it is measured against, if any"""
    by_row: bool = False
    """one number a row, which some rows may lack, and no sum over tokens"""

    @property
    def event_key(self) -> str:
        """The same as a mean, in an evaluation event."""
        return "perplexity" if self.key == "nll" else self.key


PERPLEXITY = Measure(
    "nll",
    "perplexity",
    "perplexity",
    "lower",
    "equally likely tokens",
    "How surprised the model is by the held-out answers: as uncertain as a uniform choice among this many next "
    "tokens. 1 would be certainty.",
    kind="perplexity",
)
FORWARD_KL = Measure(
    "forward_kl",
    "forward KL to the teacher",
    "forward KL",
    "lower",
    "nats per token",
    "How much probability mass of the teacher the student misses. 0 means the same predictions at every token.",
    against="teacher",
)
REWARD_LOSS = Measure(
    "reward_loss",
    "reward loss",
    "reward loss",
    "lower",
    "nats",
    "The reward model's training objective on held-out pairs or answers.",
)
PASS_AT_1 = Measure(
    "pass_at_1",
    "pass@1",
    "pass@1",
    "higher",
    "share of completions",
    "How often a completion that the model samples for a held-out task is correct.",
    kind="share",
)
PREFERENCE = Measure(
    "preference_accuracy",
    "preference accuracy",
    "preference accuracy",
    "higher",
    "share of pairs",
    "Of held-out pairs, how often the chosen answer has become likelier, measured from the reference, than the "
    "rejected one. Ties count half, so that training starts from 50%.",
    kind="share",
    by_row=True,
)
MARGIN = Measure(
    "preference_margin",
    "preference margin",
    "margin",
    "higher",
    "beta times nats",
    "How much higher the implicit reward of the chosen answer of a held-out pair is than that of the rejected one: "
    "beta times the difference of their log-ratios to the reference.",
    by_row=True,
)
CONSISTENCY = Measure(
    "consistency",
    "divergence between the answers",
    "consistency",
    "lower",
    "nats",
    "How far apart the distributions over an answer's tokens are after two given rationales of a held-out question: "
    "half of Jeffreys' divergence, mean over questions. A model that knows no answer has a small one too.",
    by_row=True,
)
ANSWER_AGREEMENT = Measure(
    "answer_agreement",
    "agreement of the answers",
    "agreement",
    "higher",
    "share of tokens",
    "Of an answer's tokens, how many are most likely after both of two given rationales of a held-out question.",
    kind="share",
    by_row=True,
)
ACCURACY = Measure(
    "correct",
    "accuracy",
    "accuracy",
    "higher",
    "share of rows",
    "How often the most likely class is the row's label.",
    kind="share",
)
SQUARED_ERROR = Measure(
    "squared_error",
    "squared error",
    "squared error",
    "lower",
    "squared units of the label",
    "Mean squared difference between the model's number and the label.",
)
MEASURES = (
    ACCURACY,
    SQUARED_ERROR,
    Measure(
        "cross_entropy",
        "cross-entropy",
        "cross-entropy",
        "lower",
        "nats per row",
        "Negative log-probability of the row's label.",
    ),
    Measure(
        "map_cosine",
        "cosine of the attribution maps",
        "cosine of the maps",
        "higher",
        "cosine per row",
        "How alike the tokens are that student and teacher rest their decisions, or their answers, on: 1 for equal "
        "maps.",
        against="teacher",
        by_row=True,
    ),
    Measure(
        "attribution_loss",
        "attribution loss",
        "attribution loss",
        "lower",
        "per token",
        "Distance of the student's attribution map to its teacher's, summed over views; options.beta is its weight.",
        against="teacher",
        by_row=True,
    ),
    Measure(
        "soft_loss",
        "soft loss",
        "soft loss",
        "lower",
        "nats per row, or squared units",
        "Cross-entropy of the student's probabilities under the teacher's, at options.temperature; for numbers the "
        "squared difference of both, divided by it.",
        against="teacher",
    ),
    PASS_AT_1,
    PREFERENCE,
    MARGIN,
    CONSISTENCY,
    ANSWER_AGREEMENT,
    PERPLEXITY,
    FORWARD_KL,
    REWARD_LOSS,
    Measure(
        "reward_accuracy",
        "reward accuracy",
        "reward accuracy",
        "higher",
        "share of rows",
        "Of pairs, how often the chosen answer scores higher, ties counting half; of single answers, how often the "
        "sign of the score is correct.",
        kind="share",
    ),
    Measure(
        "brier",
        "Brier score",
        "Brier",
        "lower",
        "squared probability",
        "Mean squared difference between the predicted probability that an answer is correct and whether it is. Always "
        "predicting 1/2 gives 0.25.",
    ),
    Measure(
        "reverse_kl",
        "reverse KL to the teacher",
        "reverse KL",
        "lower",
        "nats per token",
        "How much probability mass the student has where the teacher has little. 0 means the same predictions "
        "everywhere.",
        against="teacher",
    ),
    Measure(
        "entropy",
        "entropy",
        "entropy",
        "neither",
        "nats per token",
        "How widely the model spreads probability over next tokens. Near 0 it always favours one token and its texts "
        "vary little; neither high nor low is good in itself.",
    ),
    Measure(
        "agreement",
        "agreement with the teacher",
        "agreement",
        "higher",
        "share of tokens",
        "How often the student's most likely token is also the teacher's.",
        kind="share",
        against="teacher",
    ),
    Measure(
        "top1",
        "next-token accuracy",
        "accuracy",
        "higher",
        "share of tokens",
        "How often the model's most likely token is the one in the held-out answer.",
        kind="share",
    ),
    Measure(
        "kl_to_initial",
        "KL to the initial policy",
        "KL to initial",
        "neither",
        "nats per token",
        "How far the policy has moved from the initial policy, as KL(policy || initial policy) on held-out answers. "
        "0 means unchanged; neither a small nor a large change is good in itself.",
        against="start",
    ),
    Measure(
        "reward",
        "reward",
        "reward",
        "higher",
        "mean of completions",
        "Mean training reward of completions of held-out tasks.",
    ),
    Measure(
        "completion_length",
        "completion length",
        "length",
        "neither",
        "tokens",
        "Mean length of the completions that the model samples for held-out tasks, end token included.",
    ),
    Measure(
        "truncation_rate",
        "truncation rate",
        "truncated",
        "lower",
        "share of completions",
        "Completions of held-out tasks that were cut at training.max_completion_length before they ended.",
        kind="share",
    ),
    Measure(
        "answer_length",
        "answer length",
        "answer length",
        "neither",
        "tokens",
        "Mean length of the answers to the prompts under sample texts, each cut off at eval.max_new_tokens. Too few "
        "for an interval.",
    ),
)


def verdict(measure: Measure, moved: Interval | None) -> str:
    """What a difference says: better, worse, higher, lower, no change, may be chance, or "" without an interval."""
    if moved is None or not moved.known:
        return ""
    if moved == (0, 0, 0):
        return "no change"
    if not moved.excludes_zero:
        return "may be chance"
    direction = "higher" if moved.estimate > 0 else "lower"
    if measure.better == "neither":
        return direction
    return "better" if direction == measure.better else "worse"


def number(x: float, measure: Measure, signed: bool = False) -> str:
    """Three significant digits; shares in percent."""
    sign = "+" if signed and x > 0 else ""
    if not np.isfinite(x):
        return "not a number" if np.isnan(x) else "infinite"
    if measure.kind == "share":
        return f"{sign}{100 * x:.1f}".replace("-", "−") + (" points" if signed else "%")
    return sign + digits(x)


def digits(x: float) -> str:
    """Three significant digits without an exponent where a reader can do without."""
    size = abs(x)
    if size >= 1e7 or 0 < size < 1e-4:
        text = f"{x:.2e}"
    elif size >= 100:
        text = f"{x:,.0f}"
    elif size == 0:
        text = "0"
    else:
        text = f"{x:.{2 - int(np.floor(np.log10(float(f'{size:.2e}'))))}f}"
    return text.replace("-", "−")


def span(interval: Interval, measure: Measure, signed: bool = False) -> str:
    """The 95% interval as text, "" where there is none."""
    if not interval.known:
        return ""
    low, high = (number(end, measure, signed).removesuffix(" points").removesuffix("%") for end in interval[1:])
    return f"[{low}, {high}]"
