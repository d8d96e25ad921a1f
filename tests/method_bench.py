"""Every method under settings that its schema allows, on tensors that are drawn here: loss, gradient, and all else
that a plan decides. A new method is covered by its schema."""

import typing
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import replace
from functools import cache
from itertools import combinations, product
from types import UnionType
from typing import Any, Literal, get_args, get_origin

import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import PreTrainedModel

import tiny
from trimtab import methods
from trimtab.core import (
    Candidates,
    Critic,
    LazyLogits,
    Method,
    MethodConfig,
    OtherVocabulary,
    Plan,
    Requirements,
    RewardModel,
    Rollouts,
    Teacher,
    TokenBatch,
    answer_mask,
    reduce,
    weights,
    with_sampled_first,
)
from trimtab.core.batch import COMPARED
from trimtab.core.draws import inverse_cdf
from trimtab.data.two_tokenizers import CommonTokens
from trimtab.models.forward import add_objective_forward
from trimtab.objectives.answer_maps import TeacherMaps
from trimtab.signals.columns import Column
from trimtab.signals.frozen import FrozenModel
from trimtab.signals.other_tokenizer import OtherTokenizer
from trimtab.signals.reward_model import ScoreSpec, TokenRewardModel

V = tiny.VOCAB
NAMES = [name for name in methods.names() if methods.load(name).loop != "classification"]
"""of methods that learn from tokens"""

# ---------------------------------------------------------------- settings


def alternatives(config: type[MethodConfig], name: str) -> list[Any]:
    """Other values than the default that the type of a setting names, or some of its numbers."""
    field = config.model_fields[name]
    found: list[Any] = []
    for kind in _kinds(field.annotation):
        if get_origin(kind) is Literal:
            found += get_args(kind)
        elif kind is bool:
            found += [True, False]
        elif kind is type(None):
            found.append(None)
        elif kind in (int, float):
            found += _numbers(field.default, kind)
    return [one for one in dict.fromkeys(found) if not _same(one, field.default) and _taken(config, {name: one})]


def _kinds(annotation: Any) -> list[Any]:
    if get_origin(annotation) in (UnionType, typing.Union):
        return [kind for part in get_args(annotation) for kind in _kinds(part)]
    return [annotation]


def _numbers(default: Any, kind: type) -> list[Any]:
    size = default if isinstance(default, (int, float)) and default else 1
    if kind is int:
        return [int(size) + 1, 2 * int(size) + 1, max(int(size) // 2, 1), 0]
    some = [0.4 * size, 1.7 * size, 0.3, 0.9, -0.5 * size]
    return some if default is not None else [*some, 1.05]  # a bound above 1 that is met


def _same(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


def _taken(config: type[MethodConfig], options: dict[str, Any]) -> bool:
    """Whether the type and the bounds of each setting take its value; whether they fit together is another thing."""
    try:
        config.model_validate(options)
    except ValidationError as error:
        return all(one["type"] == "value_error" for one in error.errors())
    return True


def allowed(config: type[MethodConfig], **options: Any) -> MethodConfig | None:
    """None where these settings are refused."""
    try:
        return config.model_validate(options)
    except ValidationError:
        return None


def gates(config: type[MethodConfig], together: int = 1) -> Iterator[dict[str, Any]]:
    """Settings under which others begin or cease to matter: none, each choice, and each number that is null, 0 or
    1 turned to another; up to so many of them together."""
    single: dict[str, list[dict[str, Any]]] = {}
    for name, field in config.model_fields.items():
        chosen = any(get_origin(kind) is Literal or kind is bool for kind in _kinds(field.annotation))
        others = [{name: one} for one in alternatives(config, name)]
        if chosen or field.default is None:
            single[name] = others
        elif field.default in (0, 1):
            single[name] = others[:1]
    yield {}
    for number in range(1, together + 1):
        for names in combinations(single, number):
            for parts in product(*(single[name] for name in names)):
                yield {name: one for part in parts for name, one in part.items()}


def switches(config: type[MethodConfig]) -> Iterator[dict[str, Any]]:
    """Each number at 0, at 1 or null, where that is another than its default: what may switch other settings off."""
    for name, field in config.model_fields.items():
        kinds = _kinds(field.annotation)
        ends = [kind(end) for kind in kinds if kind in (int, float) for end in (0, 1)]
        ends += [None for kind in kinds if kind is type(None)]
        for end in ends:
            if end != field.default and allowed(config, **{name: end}) is not None:
                yield {name: end}


# ---------------------------------------------------------------- plans

_IDS = list(range(V - 9))
_COMMON = CommonTokens(_IDS, _IDS, [*_IDS, *[V - 9] * 9], [*_IDS, *[V - 9] * 9])
"""two vocabularies that have all but nine tokens in common"""


@cache
def _model(seed: int) -> PreTrainedModel:
    return tiny.model("llama_tied", seed=seed)


@cache
def _checked(seed: int, name: str, reads: Any) -> FrozenModel:
    return FrozenModel(_model(seed), name=name, reads=reads)


def _frozen(seed: int, name: str, reads: str = "distribution") -> FrozenModel:
    """One whose head was checked before."""
    return copy(_checked(seed, name, reads))


def built(method: Method, config: MethodConfig) -> Plan:
    """Its plan, with tiny models for all roles."""
    required = method.requirements(config)
    roles = sorted(set(required.provides) - {"reward_model", "critic"})
    given: dict[str, Any] = {role: _frozen(11 + i, role) for i, role in enumerate(roles)}
    if (teacher := required.model(Teacher)) is not None and teacher.own_tokenizer:
        given["teacher"] = OtherTokenizer(given["teacher"], _COMMON)
    if (scoring := required.model(RewardModel)) is not None:
        given["reward_model"] = reward_signal(scoring)
    if required.model(Critic):
        given["critic"] = _frozen(22, "values", "answers")
    return method.build(config, _model(0), **given)


def reward_signal(asked: RewardModel) -> Any:
    """A signal of candidates with the reward model that learns, or of the answer tokens alone."""
    reader = _frozen(21, "token_scores", "answers")
    if asked.candidates is None:
        return reader
    made = Column("reward_model")
    made.provides = frozenset({"reward_model", "reward_model_reference"})
    made.reward_model = TokenRewardModel(_model(21), ScoreSpec("logprob", "mean", 1.0, outcomes=True))
    return made


# ---------------------------------------------------------------- what they do

Change = Callable[[str, Tensor], Tensor]
"""(name of a signal, values) -> values: log-probabilities [N] or [N, K], or logits [..., V] ("policy" among them)."""


def unchanged(name: str, values: Tensor) -> Tensor:
    return values


class Done(typing.NamedTuple):
    """What a plan does with an update."""

    loss: Tensor
    gradient: Tensor
    """at the policy's logits"""
    values: Tensor
    metrics: dict[str, tuple[Tensor, Tensor]]


def update(
    method: Method, config: MethodConfig, step: int = 3, change: Change = unchanged, dtype: torch.dtype = torch.float32
) -> Done:
    """One update, of rows or of rollouts, whose policy has moved since its other sides were read."""
    plan, required = built(method, config), method.requirements(config)
    make = _rollouts if method.loop == "rollouts" else _rows
    batch, logits = make(plan, required, step, change, dtype)
    losses = plan.objective(batch)
    loss = reduce(losses, weights(batch, plan.reduction, per=plan.objective.per))
    gradient = torch.autograd.grad(loss, logits, allow_unused=True)[0] if loss.requires_grad else None
    return Done(
        loss.detach(),
        torch.zeros_like(logits) if gradient is None else gradient,
        losses.values.detach(),
        losses.metrics,
    )


def decided(method: Method, config: MethodConfig) -> list[Any]:
    """What a plan decides besides: what it asks for, its division, and settings of its signals."""
    plan, required = built(method, config), method.requirements(config)
    found = [required, plan.reduction, plan.objective.ratio, plan.objective.per, sorted(plan.objective.needs)]
    if (estimator := plan.advantages) is not None:
        found += [estimator.candidates, sorted(estimator.needs), sorted(estimator.provides)]
    for part in (*plan.signals, *plan.rollout_signals, *([plan.auxiliary] if plan.auxiliary else [])):
        plain = {k: v for k, v in vars(part).items() if isinstance(v, (int, float, str, bool, type(None)))}
        found.append((type(part).__name__, plain))
    return found


def _leaf(logits: Tensor, change: Change, dtype: torch.dtype) -> Tensor:
    return change("policy", logits).to(dtype).detach().requires_grad_()


def _policy(batch: TokenBatch, logits: Tensor, scalar: bool) -> TokenBatch:
    return batch.with_signals(policy=logits[:, 0].float() if scalar else logits)


def _rows(
    plan: Plan, required: Requirements, step: int, change: Change, dtype: torch.dtype
) -> tuple[TokenBatch, Tensor]:
    """Pairs share a prompt's length; two rows have answers of one token."""
    twofold = required.rows in ("pairs", "rationales", "sampled_pairs")
    lengths = ((3, 5), (3, 2), (1, 1), (1, 7)) if twofold else ((3, 15), (1, 1), (4, 20))
    rows = tiny.rows(lengths)
    inputs: dict[str, Any] = rows.inputs()
    inputs["outcome"] = (rows.row_id // 7 % 2).float()
    draws = torch.Generator().manual_seed(3)
    for column in required.columns:
        inputs[column] = torch.randn(rows.labels.shape, generator=draws)
    inputs["rating"] = torch.full(rows.labels.shape, torch.nan)
    inputs[COMPARED] = torch.full(rows.labels.shape, -1.0)
    for row, (prompt, answer) in enumerate(lengths):
        inputs[COMPARED][row, prompt + answer - 1] = (row in (0, 3)) + 1  # the second rationale, then the first
        inputs["rating"][row, prompt + answer - 1] = row % 3 - 1.0
    if (teacher := required.model(Teacher)) is not None and teacher.own_tokenizer:
        inputs |= _read_by_the_teacher(rows)
    policy = tiny.model("llama_tied")
    add_objective_forward(policy)
    for signal in plan.signals:
        for at in (0, step):  # as in the course of a run
            signal.before_update(policy, at, 0)
    signals: dict[str, Any] = {}
    for signal in plan.signals:
        signals |= signal(policy, inputs)
    with torch.no_grad():
        logits = policy(input_ids=rows.input_ids, attention_mask=rows.attention_mask).logits
    own = logits[:, :-1][answer_mask(rows.labels)]
    far = torch.tensor([0.3, 1.0, 3.0]).repeat(len(own))[: len(own), None]
    own = own + far * torch.randn(own.shape, generator=draws)
    batch = TokenBatch.from_labels(rows.labels, row_id=rows.row_id, seed=1, step=step)
    leaf = _leaf(own, change, dtype)
    plain = {name: _changed(name, value, change, dtype) for name, value in signals.items()}
    return _policy(batch.with_signals(**plain), leaf, required.trains == "scalar_head"), leaf


def _read_by_the_teacher(rows: tiny.Rows) -> dict[str, Tensor]:
    """The same ids on both sides, in segments of one token and of two by turns."""
    place = (rows.labels != -100).cumsum(dim=1) - 1
    segment = torch.where(rows.labels != -100, 2 * place // 3, -1)
    starts = (segment != segment.roll(1, dims=1)) & (segment >= 0)
    theirs = {f"teacher_{name}": getattr(rows, name) for name in ("input_ids", "attention_mask", "labels")}
    return {"segment": segment, "starts": starts.long(), "teacher_segment": segment, **theirs}


def _changed(name: str, value: Any, change: Change, dtype: torch.dtype) -> Any:
    if isinstance(value, LazyLogits):
        return change(name, value.compute().float()).to(dtype)
    if isinstance(value, TeacherMaps):
        return value
    if isinstance(value, OtherVocabulary):
        return OtherVocabulary(change(name, value.compute().float()).to(dtype))
    if isinstance(value, Candidates):
        return replace(value, logprobs=change(name, value.logprobs))
    return value if name in ("outcome", "rating", COMPARED) or not value.is_floating_point() else change(name, value)


def _rollouts(
    plan: Plan, required: Requirements, step: int, change: Change, dtype: torch.dtype
) -> tuple[TokenBatch, Tensor]:
    """Answers to five prompts, one of which all are right; places at which the policy and whoever judges it are nearly
    sure beside others; answers from which the policy has hardly moved beside others."""
    lengths = (5, 9, 1, 7, 12, 4, 6, 3, 2, 8, 1, 3, 5, 2, 10, 4)
    rewards = [1.0, -1.0, 0.5, -1.0, 1.0, 0.0, 1.0, 1.0, 1.0, -1.0, 1.0, -1.0, 0.3, 1.0, -1.0, 0.2]
    group = [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 4]
    labels = torch.full((len(lengths), max(lengths) + 1), -100)
    for row, length in enumerate(lengths):
        labels[row, 1 : 1 + length] = 0
    number, draws = sum(lengths), torch.Generator().manual_seed(3)
    sharpness = torch.tensor([1.0, 3.0, 14.0]).repeat(number)[:number, None]
    old = torch.randn(number, V, generator=draws) * sharpness
    labels[labels == 0] = inverse_cdf(old.softmax(-1), torch.rand(number, generator=draws))
    batch = TokenBatch.from_labels(labels, row_id=7 * torch.arange(len(lengths)), seed=1, step=step)

    def judge(near: float) -> Tensor:
        return (near * old + 0.5 * torch.randn(old.shape, generator=draws)).log_softmax(-1)

    others = {name: judge(0.9) for name in ("reward_model", "reward_model_reference", "reference", "teacher")}
    old_logprobs = old.log_softmax(-1)
    estimator = plan.advantages
    assert estimator is not None
    picked = batch.targets[:, None]
    candidates = None
    if estimator.candidates:
        scoring = required.model(RewardModel)
        base = others["reward_model"] if scoring is not None and scoring.candidates == "model" else old_logprobs
        top = base.topk(min(estimator.candidates, V)).indices
        candidates = with_sampled_first(
            top, old_logprobs.gather(1, top), batch.targets, old_logprobs.gather(1, picked)[:, 0]
        )
        picked = candidates.ids
        candidates = Candidates(candidates.ids, change("old", candidates.logprobs))
    signals = {
        "old": change("old", old_logprobs.gather(1, batch.targets[:, None])[:, 0]),
        "normaliser": old.logsumexp(-1),
        "values": torch.randn(number, generator=draws),
        "token_scores": torch.randn(number, generator=draws),
    }
    for name, log_p in others.items():
        wide = bool(estimator.candidates) and name != "teacher"
        said = log_p.gather(1, picked if wide else batch.targets[:, None])
        signals[name] = change(name, said if wide else said[:, 0])
    found = estimator(Rollouts(batch, torch.tensor(rewards), torch.tensor(group), signals, candidates))
    for name in plan.objective.needs - found.keys():
        found[name] = signals[name]
    far = torch.linspace(0.05, 1.0, len(lengths))[batch.row, None]
    moved = old + far * torch.randn(old.shape, generator=draws)
    leaf = _leaf(moved, change, dtype)
    return batch.with_signals(**{"old": signals["old"], **found, "policy": leaf}), leaf
