"""Metrics on held-out rows, summed over tokens and kept per row."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from trimtab.core import Losses, Objective, Plan, Signal, TokenBatch, TopK, answer_mask
from trimtab.core.auxiliary import AuxiliaryLoss, ReadInside
from trimtab.core.batch import COMPARED
from trimtab.core.pairs import PairedObjective
from trimtab.models.forward import InsideCall
from trimtab.models.probing import eval_mode
from trimtab.objectives.answer_maps import AnswerAttribution, attributable, cosines_of
from trimtab.objectives.attribution import distance
from trimtab.objectives.divergence import forward_kl, reverse_kl
from trimtab.objectives.reward_models import token_scores
from trimtab.signals.base import common_vocab, models_of, read_signals, without_unknown
from trimtab.signals.initial_policy import read_with


class TokenMeasures(Objective):
    """An "objective" for evaluation only: it keeps a column per metric."""

    def __init__(self) -> None:
        self.columns: list[dict[str, Tensor]] = []

    def __call__(self, batch: TokenBatch) -> Losses:
        self.columns.append(token_measures(batch))
        return batch.losses(self.columns[-1]["nll"])


def token_measures(batch: TokenBatch) -> dict[str, Tensor]:
    """[N] each: nll, entropy (nats), top1 (0 or 1); with a teacher forward_kl, reverse_kl (over the classes that both
    tell apart, see `TokenBatch.classes`), agreement, teacher_nll; with the initial policy kl_to_initial,
    KL(policy || initial policy)."""
    log_q = batch.log_softmax("policy")
    best = log_q.argmax(dim=-1)
    measures = {
        "nll": -batch.logprobs(),
        "entropy": -(log_q.exp() * log_q).sum(dim=-1),
        "top1": (best == batch.targets).float(),
    }
    if "teacher" in batch.signals:
        teacher = batch.signals["teacher"]
        of_classes, log_p = batch.classes("teacher")
        likeliest = teacher.ids[:, 0] if isinstance(teacher, TopK) else log_p.argmax(dim=-1)
        measures |= {
            "forward_kl": forward_kl(of_classes, log_p),
            "reverse_kl": reverse_kl(of_classes, log_p),
            "agreement": (best == likeliest).float(),
            "teacher_nll": -batch.logprobs(of="teacher"),
        }
    if "start" in batch.signals:
        measures["kl_to_initial"] = reverse_kl(log_q, batch.log_softmax("start"))
    return measures


def measure(
    policy: nn.Module, batches: Iterable[Mapping[str, Tensor]], signals: Sequence[Signal] = ()
) -> dict[int, dict[str, float]]:
    """Sums over the answer tokens of each row.

    Args:
        policy: with `add_objective_forward`; called as in training, so wrapped and sharded models work.
        batches: of prepared rows, on the policy's device.
        signals: of a frozen teacher and of the initial policy, if any.

    Returns:
        row_id -> {"tokens": count, measure: sum over the row's answer tokens}.
    """
    rows: dict[int, dict[str, float]] = {}
    others = models_of(signals)
    for inputs in batches:
        known = without_unknown(inputs, common_vocab(others)) if others else inputs
        found = read_signals(signals, policy, known)
        reader = TokenMeasures()
        read_with(reader, policy, inputs, found)
        lengths = answer_mask(inputs["labels"]).sum(dim=1).tolist()
        names = list(reader.columns[0]) if reader.columns else []
        columns = {name: torch.cat([part[name] for part in reader.columns]).double().cpu() for name in names}
        start = 0
        for row, length in zip(inputs["row_id"].tolist(), lengths):
            sums = {name: column[start : start + length].sum().item() for name, column in columns.items()}
            rows[row] = {"tokens": length, **sums}
            start += length
    return dict(sorted(rows.items()))


class SequenceMeasures(Objective):
    """An "objective" for evaluation only: it keeps metrics of each answer or pair."""

    per = "sequence"

    def __init__(self, objective: Objective, metrics: Callable[[TokenBatch], dict[str, Tensor]]):
        self.needs, self.leaf, self.metrics = objective.needs, objective.leaf, metrics
        self.found: dict[str, Tensor] = {}

    def __call__(self, batch: TokenBatch) -> Losses:
        self.found = self.metrics(batch)
        return batch.losses(torch.zeros(len(batch.lengths), device=batch.targets.device))


def _read(
    policy: nn.Module,
    batches: Iterable[Mapping[str, Tensor]],
    plan: Plan,
    metrics: Callable[[TokenBatch], dict[str, Tensor]],
) -> Iterator[tuple[list[int], dict[str, list[float]]]]:
    """The row_ids of each batch, and its metrics."""
    for inputs in batches:
        reader = SequenceMeasures(plan.objective, metrics)
        signals = read_signals(plan.signals, policy, inputs)
        read_with(reader, policy, inputs, signals, reduction="sequence_mean")
        yield inputs["row_id"].tolist(), {name: values.tolist() for name, values in reader.found.items()}


def evaluate(policy: nn.Module, batches: Iterable[Mapping[str, Tensor]], plan: Plan) -> dict[int, dict[str, float]]:
    """Metrics of a reward model on each held-out row.

    Args:
        policy: as of `measure`.
        batches: of prepared rows with all that the plan's signals read.
        plan: with a `RewardObjective`.

    Returns:
        row_id -> {"tokens": 1, "reward_loss", "reward_accuracy", and "brier" if there are outcomes}.
    """
    objective: Any = plan.objective
    rows: dict[int, dict[str, float]] = {}
    for ids, found in _read(
        policy, batches, plan, lambda batch: objective.evaluate(batch, token_scores(batch, objective.source))
    ):
        columns = {REWARDS[name]: values for name, values in found.items() if name in REWARDS}
        for i, row in enumerate(ids[:: len(ids) // len(columns["reward_loss"])]):  # of a pair one
            rows[row] = {"tokens": 1, **{name: column[i] for name, column in columns.items()}}
    return dict(sorted(rows.items()))


class NoValues(Objective):
    """Per token, and 0: for evaluation of pairs alone."""

    def __call__(self, batch: TokenBatch) -> Losses:
        return batch.losses(torch.zeros(len(batch), device=batch.targets.device))


class PairMeasures(NoValues):
    """An "objective" for evaluation only: it keeps the measures of compared tokens, with the pair of each."""

    def __init__(self, measures: Callable[[Tensor, Tensor], dict[str, Tensor]]):
        self.measures, self.needs = measures, frozenset({COMPARED})
        self.columns: list[dict[str, Tensor]] = []

    def __call__(self, batch: TokenBatch) -> Losses:
        first, second = batch.logits().chunk(2, dim=-1)
        self.columns.append({"pair": batch.row // 2, **self.measures(first, second)})
        return super().__call__(batch)


def rationale_pairs(
    policy: nn.Module, batches: Iterable[Mapping[str, Tensor]], plan: Plan
) -> dict[int, dict[str, float]]:
    """How alike the answers are after two rationales of held-out questions: means over the compared tokens of each.

    Args:
        plan: with a `PairedObjective` whose `pairs` have `measures`.

    Returns:
        row_id -> "consistency", "answer_agreement".
    """
    rows: dict[int, dict[str, float]] = {}
    measures = getattr(plan.objective.pairs, "measures", None)  # type: ignore[attr-defined]
    if measures is None:  # of a method of the user's own
        return rows
    for inputs in batches:
        reader = PairMeasures(measures)
        signals = read_signals(plan.signals, policy, inputs)
        read_with(PairedObjective(NoValues(), reader), policy, inputs, signals, reduction="pair_mean")
        columns = {name: torch.cat([one[name] for one in reader.columns]).cpu() for name in reader.columns[0]}
        pair = columns.pop("pair")
        for place, row in enumerate(inputs["row_id"].tolist()[::2]):
            rows[row] = {name: column[pair == place].double().mean().item() for name, column in columns.items()}
    return rows


def preferences(policy: nn.Module, batches: Iterable[Mapping[str, Tensor]], plan: Plan) -> dict[int, dict[str, float]]:
    """Preference metrics on held-out pairs, relative to the reference of training.

    Returns:
        row_id -> `preference_accuracy`, `preference_margin`.
    """
    rows: dict[int, dict[str, float]] = {}
    for ids, columns in _read(policy, batches, plan, plan.objective.preferences):
        for i, row in enumerate(ids[::2]):
            rows[row] = {name: column[i] for name, column in columns.items()}
    return rows


class KeptMaps(AuxiliaryLoss):
    """An auxiliary "loss" for evaluation only: it keeps the maps [B, T] of policy and teacher, of each view."""

    def __init__(self, term: AnswerAttribution):
        self.term, self.needs = term, term.needs
        self.found: list[tuple[Tensor, Tensor]] = []

    def __call__(self, read: ReadInside) -> Losses:
        self.found = [(ours.detach(), theirs) for ours, theirs in self.term.pairs(read, create_graph=False)]
        return Losses(read.embedded.new_zeros(len(read.labels)), {})


def attributions(policy: nn.Module, batches: Iterable[Mapping[str, Tensor]], plan: Plan) -> dict[int, dict[str, Any]]:
    """Attribution maps of held-out rows, in eval mode.

    Args:
        batches: of prepared rows with the column `ATTRIBUTED`.
        plan: whose auxiliary term is an `AnswerAttribution`.

    Returns:
        row_id -> `attribution_loss` (the distance of the maps, per token), `map_cosine` (mean over views); and
        `ids`, `student`, `teacher`: tokens of the prompt with both maps of the first view. Rows without a map are left
        out.
    """
    term, rows = plan.auxiliary, {}
    assert isinstance(term, AnswerAttribution)
    for inputs in batches:
        reader, mask = KeptMaps(term), attributable(inputs)
        with eval_mode(policy), torch.enable_grad():
            call = InsideCall(inputs["labels"], reader, read_signals(plan.signals, policy, inputs))
            policy(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], objective_call=call)
        apart = sum(distance(ours, theirs, term.kind).sum(dim=1) for ours, theirs in reader.found)
        for place, row in enumerate(inputs["row_id"].tolist()):
            real = mask[place]
            cosines = torch.cat([cosines_of(o[place, None], t[place, None]) for o, t in reader.found])
            if not len(cosines):
                continue
            ours, theirs = (one[place][real].tolist() for one in reader.found[0])
            loss = float(apart[place] / real.sum())  # type: ignore[index]
            rows[row] = {"attribution_loss": loss, "map_cosine": float(cosines.mean())}
            rows[row] |= {"ids": inputs["input_ids"][place][real].tolist(), "student": ours, "teacher": theirs}
    return dict(sorted(rows.items()))


PER_ROW = (
    "preference_accuracy", "preference_margin", "consistency", "answer_agreement", "attribution_loss", "map_cosine",
)  # fmt: skip
"""Metrics of rows that are not sums over tokens; a row may lack them."""
REWARDS = {"objective": "reward_loss", "accuracy": "reward_accuracy", "brier": "brier"}
"""Metric of a reward objective -> its name in run folders."""


def summary(rows: Mapping[int, Mapping[str, float]]) -> dict[str, float]:
    """Means over all tokens of the rows with that metric, those of `PER_ROW` over rows; and perplexity = exp(nll)."""
    tokens = sum(row["tokens"] for row in rows.values())
    names = list(dict.fromkeys(name for row in rows.values() for name in row if name not in ("tokens", *PER_ROW)))
    having = {name: [row for row in rows.values() if name in row] for name in names}
    means = {name: sum(row[name] for row in some) / sum(row["tokens"] for row in some) for name, some in having.items()}
    for name in PER_ROW:
        if known := [row[name] for row in rows.values() if name in row]:
            means[name] = sum(known) / len(known)
    perplexity = {"perplexity": torch.tensor(means["nll"], dtype=torch.float64).exp().item()} if "nll" in means else {}
    return {"rows": len(rows), "tokens": tokens, **perplexity, **means}
