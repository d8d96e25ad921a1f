"""Quality of open-ended text: repetition, diversity, coherence, likelihood, similarity to human text.

Words are separated by whitespace. Measures over several texts say how they pool: repetition counts n-grams within
each text and divides by the total, like the authors of penalty decoding (arXiv:2310.14971).
"""

import math
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimtab.common.errors import UserError

Ngram = tuple[Any, ...]


def ngrams(items: Sequence[Any], n: int) -> Iterator[Ngram]:
    """All n-grams, in order."""
    return zip(*(items[i:] for i in range(n)))


def counts(text: str, n: int) -> tuple[int, int]:
    """Numbers of distinct and of all n-grams of a text's words."""
    found = list(ngrams(text.split(), n))
    return len(set(found)), len(found)


def repetition(texts: Iterable[str], n: int) -> float:
    """rep-n: the share of n-grams of words that occurred earlier in their own text, in [0, 1], pooled over texts; NaN
    if no text has n words. The authors' loop leaves out each text's last n-gram; here all count.
    """
    distinct, whole = np.array([counts(text, n) for text in texts], int).reshape(-1, 2).sum(axis=0)
    return float(1 - distinct / whole) if whole else math.nan


def diversity(texts: Sequence[str]) -> float:
    """The product of 1 - rep-n over n = 2, 3, 4; 1 if nothing repeats."""
    return math.prod(1 - repetition(texts, n) for n in (2, 3, 4))


def distinct(texts: Iterable[str], n: int) -> float:
    """distinct-n (arXiv:1510.03055): distinct n-grams over all n-grams, pooled over texts; falls with more text."""
    found = Counter(gram for text in texts for gram in ngrams(text.split(), n))
    return len(found) / found.total() if found else math.nan


def rouge_l(original: str, candidate: str) -> float:
    """F1 of the longest common subsequence of the words (case and punctuation do not count), in [0, 1]."""
    one, other = (re.findall(r"\w+", text.lower()) for text in (original, candidate))
    row = [0] * (len(other) + 1)
    for word in one:
        before = row
        row = [0]
        for j, against in enumerate(other):
            row.append(before[j] + 1 if word == against else max(before[j + 1], row[j]))
    return 2 * row[-1] / (len(one) + len(other)) if one or other else 1.0


def zipf(texts: Iterable[str]) -> float:
    """Zipf coefficient: minus the least-squares slope of log frequency over log rank; about 1 for human text."""
    counts = sorted(Counter(word for text in texts for word in text.split()).values(), reverse=True)
    if len(counts) < 2:
        return math.nan
    ranks = np.log(np.arange(1, len(counts) + 1))
    return float(-np.polyfit(ranks, np.log(counts), 1)[0])


def cosine(one: Tensor, other: Tensor) -> Tensor:
    """[N] cosines of the rows of two [N, D], such as embeddings of prompts and their continuations (coherence)."""
    return torch.nn.functional.cosine_similarity(one.double(), other.double(), dim=-1)


class SelfReinforcement:
    """Self-reinforcement: whether tokens get more probable each time they repeat, for one sequence (arXiv:2310.14971).

    `last[v]` is the probability that v had when it was last emitted. For n = 1 a token counts if it had been emitted
    before with a smaller probability; for n = 2, 3, 4 an n-gram counts if the mean of `last` over its tokens is larger
    than when it was last completed. A step counts for top-k if the running mean of the sum of the k largest
    probabilities rises.

    Args:
        prompt: ids; their probability is 1.
        gram: initial value of an n-gram of the prompt: 1e-9 as for greedy text, or 1 as for sampled text.
    """

    SIZES = (2, 4, 6, 8, 10)

    def __init__(self, prompt: Sequence[int], gram: float = 1e-9):
        self.ids = list(prompt)
        self.last = dict.fromkeys(self.ids, 1.0)
        self.stored = {found: gram for n in (2, 3, 4) for found in ngrams(self.ids, n)}
        self.counts = dict.fromkeys((1, 2, 3, 4), 0)
        self.rising = dict.fromkeys(self.SIZES, 0)
        self._means = dict.fromkeys(self.SIZES, 0.0)
        self.steps = 0

    def __call__(self, token: int, p: Tensor) -> None:
        """Add a token sampled from p [V], the model's own distribution before any token was excluded."""
        q = float(p[token])
        if token in self.last and self.last[token] < q:
            self.counts[1] += 1
        self.last[token] = q
        self.ids.append(token)
        for n in (2, 3, 4):
            if len(self.ids) < n:
                continue
            gram = tuple(self.ids[-n:])
            mean = sum(self.last[v] for v in gram) / n
            if gram in self.stored and self.stored[gram] < mean:
                self.counts[n] += 1
            self.stored[gram] = mean
        best = p.topk(min(max(self.SIZES), len(p))).values
        self.steps += 1
        for k in self.SIZES:
            mass = float(p[p >= best[min(k, len(best)) - 1]].sum())
            mean = self._means[k] + (mass - self._means[k]) / self.steps
            if self.steps >= 2 and mean > self._means[k]:
                self.rising[k] += 1
            self._means[k] = mean

    def rates(self) -> dict[str, float]:
        """sr-n = count / (T - n + 1), and sr-top-k = count / T, for T steps; the authors' code has T - 4 for sr-4."""
        rates = {f"sr-{n}": c / max(1, self.steps - n + 1) for n, c in self.counts.items()}
        return rates | {f"sr-top-{k}": c / max(1, self.steps) for k, c in self.rising.items()}


class MissingMauve(UserError):
    """The package mauve-text is not installed."""


def mauve(human: NDArray[np.float64], generated: NDArray[np.float64], seed: int = 0) -> float:
    """MAUVE (arXiv:2102.01454) of two sets of embeddings, by the package mauve-text: 1 if they are indistinguishable.

    Texts are clustered into N/10 clusters. With hundreds of texts it is noisy, and only comparable between sets of the
    same size and embedding.

    Args:
        human, generated: [N, D] and [M, D], such as last hidden states of the last tokens.
        seed: of the clustering.

    Raises:
        MissingMauve: with the install command.
    """
    try:
        from mauve import compute_mauve
    except ImportError:
        raise MissingMauve("pip install mauve-text faiss-cpu") from None
    number = max(2, (len(human) + len(generated)) // 20)
    with warnings.catch_warnings(), _quiet_stderr():
        warnings.simplefilter("ignore")
        found = compute_mauve(p_features=human, q_features=generated, num_buckets=number, seed=seed, verbose=False)  # type: ignore[arg-type]
    return float(found.mauve)  # type: ignore[union-attr]


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Silence faiss, which warns on the file descriptor itself about too few texts per cluster."""
    sys.stderr.flush()
    saved = os.dup(2)
    try:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
