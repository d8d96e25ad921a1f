"""Penalty decoding: near-greedy, with a windowed repetition penalty and a length penalty against early stops.

Three corrections of greedy decoding. A repetition penalty a on every token id of the context G, by sign,

    s'_v = s_v / a  where s_v >= 0,  s_v a  where s_v < 0,      v in G,

each id once, however often it occurs. Forgetting: G is the last W tokens. And a length penalty: a strong penalty
does not affect the end token, which then comes too early, so until `least` tokens are generated it is treated as if it
were in G.

Paper: arXiv:2310.14971. The window and the length penalty are described in the paper but not in released code; their
formulas here are our interpretation. The penalty is not invariant to a constant added to all logits;
`normalize` takes log-probabilities instead.
"""

import math
import sys
from collections.abc import Callable, Collection
from typing import Any, Literal
from weakref import ref

import torch
from pydantic import Field
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from trimtab.common.errors import UserError
from trimtab.decoding import DecodingError, Marks
from trimtab.decoding._strategy import GREEDY, PLAIN, Sampling, Strategy

EosMode = Literal["repeat", "linear", "block", "none"]


def weaken(scores: Tensor, strength: float) -> Tensor:
    """Penalised scores of repeated tokens: positive ones shrink, negative ones grow in size."""
    return torch.where(scores < 0, scores * strength, scores / strength)


def penalty(
    scores: Tensor,
    input_ids: Tensor,
    strength: float,
    window: int | None = None,
    *,
    seen: Tensor | None = None,
    excluded: Tensor | None = None,
) -> Tensor:
    """Scores [B, V] with every token of the last `window` of `input_ids` made less likely; a new tensor.

    The work is B x window, independent of context and vocabulary, besides the copy.

    Args:
        scores: logits or log-probabilities; a score of 0 stays 0.
        input_ids: [B, T], prompt included.
        strength: a > 0; 1 changes nothing, below 1 rewards repetition.
        window: W; None for the whole context, 0 for none of it.
        seen: [B, T] bool, the tokens that count; padding should not.
        excluded: [E] ids that are never changed.
    """
    start = 0 if window is None else max(0, input_ids.size(1) - window)
    ids = input_ids[:, start:]
    if strength == 1.0 or not ids.size(1):
        return scores.clone()
    found = scores.gather(1, ids)
    changed = weaken(found, strength)
    if seen is not None:
        changed = torch.where(seen[:, start:], changed, found)
    if excluded is not None and excluded.numel():
        changed = torch.where(torch.isin(ids, excluded), found, changed)
    # an id may stand at a place that counts and at one that does not: the changed score wins
    return scores.scatter_reduce(1, ids, changed, "amin" if strength > 1 else "amax")


def _call() -> LogitsProcessorList | None:
    """The list that calls the processor: `generate` makes one per call, which tells apart two calls of which the second
    continues the text of the first."""
    caller = sys._getframe(2)
    return caller.f_locals.get("self") if caller.f_code is LogitsProcessorList.__call__.__code__ else None


class PenaltyProcessor(LogitsProcessor):
    """`penalty` for `model.generate(..., logits_processor=[...])`, greedy or sampling; before any warper.

    Its state belongs to one call of `generate`; the next call starts fresh, even with a text that continues the last
    one. Called by hand, it starts fresh unless the ids are the last ones plus one token.
    It cannot be used with transformers' continuous batching, which passes other rows at each step.

    Args:
        strength: of the penalty, a > 0.
        window: number of tokens that are penalised; None for all.
        eos: what holds back the end token while fewer than `least` tokens are generated. `repeat`: penalised by
            `eos_strength` as if it had been generated once; `linear`: minus `eos_strength` times the remaining share;
            `block`: banned; `none`.
        least: generated tokens.
        eos_strength: `strength` if None.
        eos_token_id: one or several; needed unless eos is `none`.
        pad_token_id: of left padding, which does not count.
        prompt: whether prompt tokens count.
        excluded: ids that may always be repeated, such as the end of a turn, digits or code.
        normalize: penalise log-probabilities, which are all negative, instead of logits.
    """

    supports_continuous_batching = False

    def __init__(
        self,
        strength: float,
        window: int | None = None,
        *,
        eos: EosMode = "none",
        least: int = 0,
        eos_strength: float | None = None,
        eos_token_id: int | Collection[int] | None = None,
        pad_token_id: int | None = None,
        prompt: bool = True,
        excluded: Collection[int] = (),
        normalize: bool = False,
    ):
        for name, value in (("strength", strength), ("eos_strength", eos_strength)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise UserError(f"{name} must be a number above 0, got {value!r}; 1 means no penalty")
        if window is not None and window < 0:
            raise UserError(f"window must be 0 or more tokens, or None for all, got {window}")
        if least < 0:
            raise UserError(f"least must be 0 or more tokens, got {least}")
        ends = [eos_token_id] if isinstance(eos_token_id, int) else list(eos_token_id or ())
        if eos != "none" and least and not ends:
            raise UserError(f"eos={eos} needs the model's end token, but it has none; choose eos=none")
        self.strength, self.window, self.eos, self.least = float(strength), window, eos, least
        self.eos_strength = float(strength if eos_strength is None else eos_strength)
        self.ends, self.pad, self.prompt, self.normalize = ends, pad_token_id, prompt, normalize
        self.excluded = torch.tensor(sorted(excluded), dtype=torch.long)
        self.reset()

    def reset(self) -> None:
        """Forget the current sequence."""
        self._prompt_length = 0
        self._last: Tensor | None = None
        self._call: Callable[[], Any] = lambda: None
        self._unseen: Tensor | None = None

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        length, call = input_ids.size(1), _call()
        if call is not self._call() or not self._continues(input_ids):
            self._begin(input_ids)
            self._call = (lambda: None) if call is None else ref(call)
        self._last = input_ids
        if self.normalize:
            scores = scores.float().log_softmax(dim=-1)
        found = penalty(
            scores, input_ids, self.strength, self.window, seen=self._seen(input_ids), excluded=self._ids(scores)
        )
        if self.eos != "none" and length - self._prompt_length < self.least:
            ends = [token for token in self.ends if token < scores.size(1)]
            found[:, ends] = self._held_back(scores[:, ends], length - self._prompt_length)
        return found

    def _continues(self, input_ids: Tensor) -> bool:
        """Whether these are the last ids plus one token per row; beams may have been reordered."""
        last = self._last
        if last is None or input_ids.shape != (last.size(0), last.size(1) + 1) or last.device != input_ids.device:
            return False
        before = input_ids[:, :-1]
        if torch.equal(before, last):
            return True
        prompts = torch.equal(before[:, : self._prompt_length], last[:, : self._prompt_length])
        return prompts and all(bool((row == last).all(dim=1).any()) for row in before)

    def _begin(self, input_ids: Tensor) -> None:
        self._prompt_length = input_ids.size(1)
        self._unseen = None
        if not self.prompt:
            self._unseen = torch.full_like(input_ids[:, :1], self._prompt_length)
        elif self.pad is not None:
            padding = (input_ids == self.pad).cumprod(dim=1).sum(dim=1, keepdim=True)
            if padding.any():
                self._unseen = padding  # [B, 1] tokens at the left that were not said

    def _seen(self, input_ids: Tensor) -> Tensor | None:
        if self._unseen is None:
            return None
        return torch.arange(input_ids.size(1), device=input_ids.device) >= self._unseen

    def _ids(self, scores: Tensor) -> Tensor:
        if self.excluded.device != scores.device:
            self.excluded = self.excluded.to(scores.device)
        return self.excluded

    def _held_back(self, scores: Tensor, generated: int) -> Tensor:
        if self.eos == "repeat":
            return weaken(scores, self.eos_strength)
        if self.eos == "linear":
            return scores - self.eos_strength * (1 - generated / self.least)
        return torch.full_like(scores, -math.inf)


class PenaltySettings(Sampling):
    strength: float = Field(1.2, gt=0)
    """Strength of the penalty; 1 is none, below 1 rewards repetition. The paper's is unconfirmed; 1.2 is CTRL's."""
    window: int | None = Field(100, ge=0)
    """Number of last tokens that are penalised, including the prompt's; null for all."""
    eos: EosMode = "repeat"
    """What holds back the end token before `least` tokens: a penalty as for a repeated token, one that falls linearly,
    a ban, or nothing."""
    least: int = Field(128, ge=0)
    """Minimum number of generated tokens before the end token is allowed freely."""
    eos_strength: float | None = Field(None, gt=0)
    """Strength of that penalty; default: `strength`."""
    prompt: bool = True
    """Whether tokens of the prompt are penalised too."""
    excluded: tuple[int, ...] = ()
    """Token ids that may always be repeated."""
    normalize: bool = False
    """Penalise log-probabilities instead of logits."""
    sample: bool = False
    """Sample the next token; otherwise decode greedily."""


def arguments(options: PenaltySettings, marks: Marks | None) -> dict[str, Any]:
    if marks is None:
        raise DecodingError("penalty needs the tokenizer for its end tokens and padding: arguments(name, tokenizer)")
    chosen = options.model_dump(exclude={"sample", "temperature", "top_k", "top_p", "strength"})
    ends = {"eos_token_id": marks.ends, "pad_token_id": marks.pad}
    try:
        processors = LogitsProcessorList([PenaltyProcessor(options.strength, **chosen, **ends)])
    except ValueError as error:
        raise DecodingError(f"decoding penalty: {error}") from None
    if not options.sample:
        return {**GREEDY, "logits_processor": processors}
    return {**PLAIN, "logits_processor": LogitsProcessorList([*processors, *options.warpers()])}


def idle(options: PenaltySettings) -> dict[str, str]:
    """PenaltySettings without effect, and why."""
    found = {}
    if not options.sample:
        found |= dict.fromkeys(("temperature", "top_k", "top_p"), "decoding is greedy; add decoding.sample=true")
    if options.eos == "none":
        reason = "eos=none does not hold back the end token; choose another eos"
        found |= dict.fromkeys(("least", "eos_strength"), reason)
    if options.eos == "block":
        found["eos_strength"] = "eos=block bans the end token, whatever the strength"
    if options.least == 0:
        reason = "the end token is only held back before `least` tokens, and least is 0"
        found |= dict.fromkeys(("eos", "eos_strength"), reason)
    if options.strength == 1:
        found |= dict.fromkeys(("window", "prompt", "excluded"), "a strength of 1 penalises nothing")
    of_end = options.strength if options.eos_strength is None else options.eos_strength
    held = options.eos in ("repeat", "linear") and options.least > 0
    if options.window == 0:
        found |= dict.fromkeys(("prompt", "excluded"), "a window of 0 holds no token to penalise")
        if not held or options.eos_strength is not None:
            found["strength"] = "a window of 0 holds no token to penalise"
    weakens = (options.strength != 1 and options.window != 0) or (held and options.eos == "repeat" and of_end != 1)
    if not weakens:
        found["normalize"] = "no score is penalised"
    return found


STRATEGY = Strategy(
    paper="arXiv:2310.14971",
    equation="s'_v = s_v / a where s_v >= 0, s_v a where s_v < 0, for v among the last W tokens; then the best",
    options=PenaltySettings,
    arguments=arguments,
    idle=idle,
)
