"""A dial measured: at each strength its answers, what is wanted of them, their quality, and how far both ends are.

Perplexity and divergences are per token of the answers, the end token among them, and are read from the two streams of
the model: around the inserted layer and through it.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimtab.data.tasks import question
from trimtab.data.tokens import encode_prompts
from trimtab.decoding._config import generate
from trimtab.decoding.realign import realign
from trimtab.metrics.intervals import Interval, bootstrap_ratio, paired_difference
from trimtab.metrics.text_quality import counts
from trimtab.models.ends import end_tokens
from trimtab.models.identity_layer import bypass
from trimtab.objectives.divergence import forward_kl
from trimtab.rewards.verifiable import Reward

AT_A_TIME = 8
"""prompts that are answered together"""
FEWEST = 6
"""prompts by which a difference is decided: five of five are worse by chance in more than one of 40 sweeps"""
GRAM = 4
"""words of which a repetition counts"""


@dataclass
class AtStrength:
    """Answers at one strength; lists have one entry per prompt, sums are over the answer's tokens, in nats."""

    strength: float
    answers: list[str]
    tokens: list[int]
    value: list[float | None]
    """the property; None where a reward does not grade"""
    nll: list[float]
    """under the original model"""
    kl_original: list[float]
    """KL(p_s || p_0)"""
    kl_aligned: list[float]
    """KL(p_s || p_1)"""
    repeats: list[int]
    """4-grams of words that occurred before in their answer"""
    grams: list[int]
    """all of them"""
    ids: list[list[int]] | None = None
    """the answers' tokens, up to the first end token"""

    def record(self) -> dict[str, Any]:
        """As JSON has it, without the tokens."""
        return {name: value for name, value in asdict(self).items() if name != "ids"}


def asked_by(row: Mapping[str, Any], where: str) -> Any:
    """The prompt of a row: a text, or messages."""
    prompt = row.get("prompt")
    return prompt if isinstance(prompt, str) and prompt else question(row, where)


def kl_to_ends(original: Tensor, aligned: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """KL(p_s || p_0) and KL(p_s || p_1) of logits [N, V], in nats, [N] each."""
    mixed = original if strength == 0 else aligned if strength == 1 else (1 - strength) * original + strength * aligned
    log_s, log_0, log_1 = (logits.log_softmax(dim=-1) for logits in (mixed, original, aligned))
    return forward_kl(log_0, log_s), forward_kl(log_1, log_s)


def measure(
    model: Any, tokenizer: Any, rows: Sequence[Mapping[str, Any]], strength: float, reward: Reward | None, *,
    new: int, temperature: float, seed: int,
) -> AtStrength:  # fmt: skip
    """Answer the rows at a strength, and read the answers.

    Args:
        model: with an inserted layer.
        reward: of the property; without one it is the length of the answers, in tokens.
        new: most tokens of an answer.
        temperature: 0 is greedy.
    """
    answers, ids, sums = [], [], []
    ends = set(end_tokens(tokenizer, model))
    how: dict[str, Any] = (
        {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    )
    for start in range(0, len(rows), AT_A_TIME):
        asked = [asked_by(row, f"row {start + i}") for i, row in enumerate(rows[start:][:AT_A_TIME], 1)]
        given: Any = encode_prompts(tokenizer, asked).to(model.device)
        torch.manual_seed(seed + start)
        with torch.no_grad():
            output = generate(model, tokenizer, given, new, custom_generate=realign, strength=strength, **how)
        width = given["input_ids"].size(1)
        for prompt, mask, whole in zip(given["input_ids"], given["attention_mask"].bool(), output[:, width:].tolist()):
            end = next((i + 1 for i, token in enumerate(whole) if token in ends), len(whole))
            ids.append(whole[:end])
            answers.append(tokenizer.decode(whole[:end], skip_special_tokens=True))
            sums.append(_read(model, prompt[mask], whole[:end], strength))
    tokens = [len(one) for one in ids]
    grams = [counts(text, GRAM) for text in answers]
    return AtStrength(
        strength, answers, tokens,
        list(map(float, tokens)) if reward is None else _graded(reward, rows, answers),
        *map(list, zip(*sums)),
        repeats=[whole - distinct for distinct, whole in grams], grams=[whole for _, whole in grams], ids=ids,
    )  # fmt: skip


@torch.no_grad()
def _read(model: Any, prompt: Tensor, answer: list[int], strength: float) -> tuple[float, float, float]:
    """Sums over an answer: its nll under the original model, and its divergences from both ends."""
    ids = torch.cat([prompt, prompt.new_tensor(answer)])
    with bypass(model, torch.tensor([False, True], device=ids.device)):
        logits = model(input_ids=ids.expand(2, -1), use_cache=False).logits
    aligned, original = logits[:, len(prompt) - 1 : -1].float()
    nll = torch.nn.functional.cross_entropy(original, ids[len(prompt) :].to(original.device), reduction="sum")
    to_original, to_aligned = kl_to_ends(original, aligned, strength)
    return float(nll), float(to_original.sum()), float(to_aligned.sum())


def _graded(reward: Reward, rows: Sequence[Mapping[str, Any]], answers: Sequence[str]) -> list[float | None]:
    names = dict.fromkeys(name for row in rows for name in row if name != "prompt")
    columns = {name: [row.get(name) for row in rows] for name in names}
    return reward([row.get("prompt") for row in rows], answers, None, **columns)


def intervals(one: AtStrength) -> dict[str, Interval]:
    """Each measure with its 95% interval over prompts."""
    graded = [value for value in one.value if value is not None]
    return {
        "property": bootstrap_ratio(graded, np.ones(len(graded))),
        "perplexity": bootstrap_ratio(one.nll, one.tokens, transform=np.exp),
        "repetition": bootstrap_ratio(one.repeats, one.grams),
        "kl_original": bootstrap_ratio(one.kl_original, one.tokens),
        "kl_aligned": bootstrap_ratio(one.kl_aligned, one.tokens),
    }


def stored(one: AtStrength) -> dict[str, list[float | None]]:
    """The intervals as JSON has them: [estimate, low, high], None for a number that is not known."""
    return {key: [x if math.isfinite(x) else None for x in value] for key, value in intervals(one).items()}


def is_worse(end: AtStrength, other: AtStrength, tolerance: float) -> bool:
    """Whether answers are worse than those at an end, with the whole interval of the paired difference: their
    perplexity by more than the share `tolerance`, or their repetition by more than `tolerance` of all 4-grams."""
    return any(found.low > most for found, most in _differences(end, other, tolerance))


def _differences(end: AtStrength, other: AtStrength, tolerance: float) -> list[tuple[Interval, float]]:
    """How much worse answers are than those at an end, in nll per token and in repetition, and how much they may be."""
    return [
        (paired_difference(end.nll, end.tokens, other.nll, other.tokens), math.log1p(tolerance)),
        (paired_difference(end.repeats, end.grams, other.repeats, other.grams), tolerance),
    ]


def is_decided(end: AtStrength, other: AtStrength, tolerance: float) -> bool:
    """Whether the prompts are enough to say that answers are worse than those at an end, or that they are not: there
    are at least `FEWEST`, and no interval holds what may be and more. Texts without any 4-gram do not repeat."""
    if len(end.answers) < FEWEST:
        return False
    found = [(one, most) for one, most in _differences(end, other, tolerance) if not math.isnan(one.estimate)]
    return any(one.low > most for one, most in found) or all(one.high <= most for one, most in found)


def undecided(found: Sequence[AtStrength], tolerance: float) -> list[float]:
    """The strengths beyond 0 and 1, up to where it breaks, of which the prompts are too few to say whether it breaks.

    Args:
        found, tolerance: see `first_break`.
    """
    at = {one.strength: one for one in found}
    low, high = first_break(found, tolerance)
    return [
        one.strength for one in found
        if (one.strength < 0 and (low is None or one.strength >= low))
        or (one.strength > 1 and (high is None or one.strength <= high))
        if not is_decided(at[0 if one.strength < 0 else 1], one, tolerance)
    ]  # fmt: skip


def first_break(found: Sequence[AtStrength], tolerance: float) -> tuple[float | None, float | None]:
    """The first strength below 0 that is worse than 0, and the first above 1 that is worse than 1; None if none is.

    Args:
        found: of ascending strengths, 0 and 1 among them.
        tolerance: see `is_worse`.
    """
    at = {one.strength: one for one in found}
    below = (one.strength for one in reversed(found) if one.strength < 0 and is_worse(at[0], one, tolerance))
    above = (one.strength for one in found if one.strength > 1 and is_worse(at[1], one, tolerance))
    return next(below, None), next(above, None)


def recommended(found: Sequence[AtStrength], tolerance: float) -> tuple[float, float]:
    """The strengths that were measured before it breaks, lowest and highest: at least 0 to 1."""
    low, high = first_break(found, tolerance)
    kept = [s for s in (one.strength for one in found) if (low is None or s > low) and (high is None or s < high)]
    return min(kept), max(kept)
