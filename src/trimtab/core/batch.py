"""Answer tokens of a micro-batch, flattened; the only file that shifts predictions against labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from trimtab.core.draws import hashed_uniform
from trimtab.core.logprobs import token_logprobs, token_logprobs_and_entropy
from trimtab.core.topk import FLOOR, TopK, class_logprobs

if TYPE_CHECKING:
    from trimtab.core.loss import Losses

IGNORE = -100
"""The label of a token that is not part of an answer."""
COMPARED = "compared"
"""The signal and the column that marks tokens which are compared between the two sequences of a pair: for each answer
token a number that is -1 elsewhere. The j-th marked token of sequence 2i belongs to the j-th of 2i + 1."""

ATTRIBUTED = "attributed"
"""The column of prepared rows, and of a batch [B, T], that marks the tokens of attribution maps among those of the
prompts."""


def answer_mask(labels: Tensor) -> Tensor:
    """[B, T - 1] bool: whether logits[b, t] predict an answer token, labels[b, t + 1].

    Args:
        labels: [B, T] with -100 at prompt and padding.
    """
    return labels[:, 1:] != IGNORE


def predicting(states: Tensor, labels: Tensor) -> Tensor:
    """[N, ...] of `states` [B, T, ...] (hidden states, logits) at the positions that predict the answer tokens."""
    return states[:, :-1][answer_mask(labels)]


def answering(states: Tensor, labels: Tensor) -> Tensor:
    """[N, ...] of `states` [B, T, ...] at the answer tokens themselves."""
    return states[:, 1:][answer_mask(labels)]


def finite(logits: Tensor) -> Tensor:
    """Logits with -inf replaced by a number whose softmax is exactly 0: 0 * log 0 must be 0 and not NaN."""
    return logits.clamp(min=FLOOR)


@dataclass(frozen=True)
class LazyLogits:
    """Logits of a frozen model, computed from its hidden states when they are read."""

    hidden: Tensor
    """[N, D] of the answer tokens, without gradient."""
    head: Callable[[Tensor], Tensor]
    """[n, D] -> [n, V]"""
    vocab_size: int
    """V"""

    def __getitem__(self, part: slice) -> LazyLogits:
        return replace(self, hidden=self.hidden[part])

    def compute(self) -> Tensor:
        """[N, V], without gradient."""
        with torch.no_grad():
            return self.head(self.hidden)


@dataclass(frozen=True)
class OtherVocabulary:
    """Logits of a model whose ids are not the policy's: they are neither cropped nor compared id by id."""

    logits: LazyLogits | Tensor
    """[N, V']"""

    def __getitem__(self, part: slice | Tensor) -> OtherVocabulary:
        return OtherVocabulary(self.logits[part])  # type: ignore[index]

    def compute(self) -> Tensor:
        """[N, V'], without gradient."""
        return self.logits.compute() if isinstance(self.logits, LazyLogits) else self.logits.detach()


@dataclass(frozen=True)
class Candidates:
    """A few tokens of the vocabulary at each answer position, with their values."""

    ids: Tensor
    """[N, K], all different at a position; slot 0 is the answer token itself"""
    logprobs: Tensor
    """[N, K] nats, under the policy that sampled the completion, at its temperature"""
    advantages: Tensor | None = None
    """[N, K]"""
    mask: Tensor | None = None
    """[N, K] bool, which of them count; None for all"""

    def __getitem__(self, part: slice) -> Candidates:
        fields = (self.ids, self.logprobs, self.advantages, self.mask)
        return Candidates(*(None if one is None else one[part] for one in fields))  # type: ignore[arg-type]


def with_sampled_first(
    topk_ids: Tensor, topk_logprobs: Tensor, sampled_ids: Tensor, sampled_logprobs: Tensor
) -> Candidates:
    """The most likely tokens of each position as candidates, with the sampled token in slot 0.

    If it is already among them, it is swapped with the one in slot 0; otherwise the last one is dropped.

    Args:
        topk_ids, topk_logprobs: [N, K] in descending order; nats.
        sampled_ids, sampled_logprobs: [N].
    """
    found = topk_ids == sampled_ids[:, None]
    there = found.any(dim=1, keepdim=True)

    def placed(topk: Tensor, sampled: Tensor) -> Tensor:
        behind = torch.where(there, torch.where(found, topk[:, :1], topk), topk.roll(1, dims=1))
        return torch.cat([sampled[:, None], behind[:, 1:]], dim=1)

    return Candidates(placed(topk_ids, sampled_ids), placed(topk_logprobs, sampled_logprobs))


def _vocab_size(signal: Any) -> int | None:
    if isinstance(signal, (LazyLogits, TopK)):
        return signal.vocab_size
    is_table = isinstance(signal, Tensor) and signal.dim() == 2 and signal.is_floating_point()
    return signal.size(-1) if is_table else None


@dataclass(eq=False)
class TokenBatch:
    """The answer tokens of a micro-batch, without padding: index i of every field is the same predicted token.

    `signals` holds what an objective reads: "policy" and other models as logits [N, V] (or `LazyLogits`), as `TopK`,
    or as log-probabilities of the targets [N]; and any per-token tensor ("advantages": [N]) or `Candidates`.
    """

    targets: Tensor
    """[N] ids"""
    row: Tensor
    """[N] which sequence of the micro-batch"""
    position: Tensor
    """[N] index inside its answer"""
    row_id: Tensor
    """[R] id of the dataset row, for seeded draws"""
    lengths: Tensor
    """[R] answer tokens of each row"""
    signals: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    step: int = 0
    _cache: dict = field(default_factory=dict, repr=False)

    @classmethod
    def from_labels(
        cls, labels: Tensor, signals: Mapping[str, Any] | None = None, *, row_id: Tensor | None = None,
        seed: int = 0, step: int = 0,
    ) -> TokenBatch:  # fmt: skip
        """The answer tokens marked by `labels` [B, T], with signals that are already flattened."""
        mask = answer_mask(labels)
        position = (mask.cumsum(dim=1) - 1)[mask]
        row = torch.arange(labels.size(0), device=labels.device).unsqueeze(1).expand_as(mask)[mask]
        row_id = torch.arange(labels.size(0), device=labels.device) if row_id is None else row_id
        targets = labels[:, 1:][mask]
        return cls(targets, row, position, row_id, mask.sum(dim=1), dict(signals or {}), seed, step)

    @classmethod
    def align(
        cls, logits: Tensor, labels: Tensor, signals: Mapping[str, Tensor] | None = None, *,
        row_id: Tensor | None = None, seed: int = 0, step: int = 0,
    ) -> TokenBatch:  # fmt: skip
        """The answer tokens of ordinary padded tensors. This is the only shift by one.

        Args:
            logits: [B, T, V] of the policy; logits[b, t] predict token t + 1.
            labels: [B, T] with -100 at prompt and padding, or outside the smallest vocabulary.
            signals: by name, [B, T, V'] (logits of another model, shifted like the policy's),
                [B, T] (a property of token t, shifted like the labels) or [B] (one for each row).
            row_id: [B] ids of the dataset rows; the row's index if not given.
        """
        signals = dict(signals or {})
        vocab = min([logits.size(-1)] + [s.size(-1) for s in signals.values() if s.dim() == 3])
        labels = labels.masked_fill(labels >= vocab, IGNORE)
        mask = answer_mask(labels)
        flat: dict[str, Tensor] = {}
        for name, value in {"policy": logits, **signals}.items():
            if value.dim() == 3:
                flat[name] = predicting(value, labels)
            elif value.dim() == 2:
                flat[name] = value[:, 1:][mask]
            else:
                flat[name] = value[:, None].expand_as(mask)[mask]
            if value.dim() == 3 and torch.isneginf(flat[name]).any():
                flat[name] = finite(flat[name])
        return cls.from_labels(labels, flat, row_id=row_id, seed=seed, step=step)

    def __len__(self) -> int:
        return self.targets.size(0)

    def __getitem__(self, part: slice) -> TokenBatch:
        """The tokens of `part`; fields of whole rows (`row_id`, `lengths`) stay whole."""
        return replace(
            self,
            targets=self.targets[part],
            row=self.row[part],
            position=self.position[part],
            signals={name: value[part] for name, value in self.signals.items()},
            _cache={},
        )

    def with_signals(self, **signals: Any) -> TokenBatch:
        """The same tokens with further signals."""
        return replace(self, signals={**self.signals, **signals}, _cache={})

    def computed(self) -> TokenBatch:
        """The same tokens, with every `LazyLogits` replaced by its logits."""
        return self.with_signals(
            **{name: value.compute() for name, value in self.signals.items() if isinstance(value, LazyLogits)}
        )

    @property
    def vocab_size(self) -> int:
        """The smallest vocabulary among the signals that are distributions; all are cropped to it."""
        sizes = [size for size in map(_vocab_size, self.signals.values()) if size is not None]
        if not sizes:
            raise KeyError("this batch holds no logits")
        return min(sizes)

    def _signal(self, name: str) -> Any:
        if name not in self.signals:
            there = ", ".join(sorted(self.signals)) or "none"
            raise KeyError(
                f"the batch has no signal {name!r}; it has: {there}; name it in the objective's `needs`, and what "
                "provides it in the method's Requirements"
            )
        return self.signals[name]

    def logits(self, of: str = "policy") -> Tensor:
        """[N, V] in the dtype of the model, cropped to the common vocabulary."""
        if ("logits", of) not in self._cache:
            signal = self._signal(of)
            if isinstance(signal, TopK):
                raise signal.refuse(of, "the whole distribution")
            logits = signal.compute() if isinstance(signal, LazyLogits) else signal
            if logits.dim() != 2:
                raise KeyError(f"signal {of!r} has shape {tuple(logits.shape)}, expected logits [N, V]")
            self._cache["logits", of] = logits[:, : self.vocab_size]
        return self._cache["logits", of]

    def log_softmax(self, of: str = "policy", temperature: float = 1.0) -> Tensor:
        """[N, V] nats, float32."""
        key = ("log_softmax", of, temperature)
        if key not in self._cache:
            logits = self.logits(of)
            scaled = logits if temperature == 1.0 else logits.float() / temperature
            self._cache[key] = torch.log_softmax(scaled, dim=-1, dtype=torch.float32)
        return self._cache[key]

    def classes(self, of: str = "teacher", temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the policy and of another model over the classes that both can tell apart.

        Returns:
            Two tables in nats, float32: [N, V] of every token; or [N, K + 1] of the K tokens and the rest, if the other
            model is only known as `TopK`. The policy's has a gradient; a divergence between them is one of the whole
            distributions, or at most that.
        """
        signal = self._signal(of)
        if not isinstance(signal, TopK):
            return self.log_softmax("policy", temperature), self.log_softmax(of, temperature)
        if temperature != 1.0:
            raise signal.refuse(of, f"the distribution at temperature {temperature:g}")
        return class_logprobs(self.logits(), signal.ids), signal.classes()

    def logprobs(self, of: str = "policy", ids: Tensor | None = None) -> Tensor:
        """Log-probabilities in nats, float32: [N] of the targets, or shaped like `ids` ([N] or [N, K])."""
        signal = self._signal(of)
        if isinstance(signal, Tensor) and signal.dim() == 1:
            if ids is not None:
                raise KeyError(f"signal {of!r} holds log-probabilities of the targets only")
            return signal.float()
        if isinstance(signal, TopK):
            return signal.label_logprobs if ids is None else signal.logprobs_of(ids, self.targets, of)
        ids = self.targets if ids is None else ids
        known = self._cache.get(("log_softmax", of, 1.0))
        if known is not None:
            return known.gather(-1, ids.unsqueeze(-1) if ids.dim() == 1 else ids).view(ids.shape)
        return token_logprobs(self.logits(of), ids)

    def logprobs_and_entropy(self, ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Of the policy, from one softmax: `logprobs(ids=ids)`, and the entropy [N] in nats, which has no gradient."""
        return token_logprobs_and_entropy(self.logits(), self.targets if ids is None else ids)

    def uniform(self, stream: int = 0) -> Tensor:
        """[N] float32 in [0, 1): the same for a token however the update is split or resumed."""
        return hashed_uniform(self.seed, self.step, self.row_id[self.row], self.position, stream)

    def compared(self) -> tuple[Tensor, Tensor]:
        """[M] each: the places of the tokens marked by `COMPARED` in sequences 2i, and of their fellows in 2i + 1.

        Raises:
            ValueError: if the two sequences of a pair have different numbers of them.
        """
        marked = self._signal(COMPARED) >= 0
        first, second = ((marked & (self.row % 2 == side)).nonzero()[:, 0] for side in (0, 1))
        if len(first) != len(second) or not torch.equal(self.row[first] + 1, self.row[second]):
            raise ValueError("the two sequences of a pair must have the same number of compared tokens")
        return first, second

    def row_sum(self, values: Tensor) -> Tensor:
        """[R]: the sum of `values` [N] over the answer tokens of each sequence; 0 if it has none."""
        return values.new_zeros(len(self.lengths)).index_add(0, self.row, values)

    def table(self, values: Tensor) -> Tensor:
        """[R, T, ...]: `values` [N, ...] by sequence and position in its answer, T the longest; 0 after its end."""
        longest = int(self.lengths.max()) if len(self.lengths) else 0
        empty = values.new_zeros(len(self.lengths), longest, *values.shape[1:])
        return empty.index_put((self.row, self.position), values)

    def prefix_sum(self, values: Tensor) -> Tensor:
        """[N]: the sum of `values` [N] over the answer tokens of the same sequence up to and including each."""
        return self.table(values).cumsum(1)[self.row, self.position]

    def losses(self, values: Tensor, **metrics: Tensor) -> Losses:
        """Values [N] with metrics: tensors [N] or [n] (over a part of the tokens), kept as (sum, count)."""
        from trimtab.core.loss import Losses

        kept = {}
        for name, value in metrics.items():
            value = value.detach().float()
            kept[name] = (value.sum(), torch.tensor(float(value.numel()), device=value.device))
        return Losses(values, kept)
