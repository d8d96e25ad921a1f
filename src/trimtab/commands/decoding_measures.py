"""The metrics of a comparison of decoding strategies: table columns and curves."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from trimtab.decoding.penalty import PenaltyProcessor
from trimtab.evals.continuations import Generations, Passage
from trimtab.evals.token_view import repeat_sentence
from trimtab.metrics import embeddings
from trimtab.metrics.intervals import Interval, bootstrap_corpus, bootstrap_ratio, bootstrap_sums, mean_of
from trimtab.metrics.text_quality import MissingMauve, cosine, counts, distinct, mauve, zipf
from trimtab.report.decoding import MeasureColumn, Series, mean_along


def coherence_of(passages: Sequence[Passage], texts: Mapping[str, Sequence[str]]) -> tuple[dict[str, list[float]], str]:
    """strategy -> cosine similarity of each text and its prompt; and the name of the embedding model."""
    try:
        embed, name = embeddings.load()
    except embeddings.MissingEmbedding as error:
        return {}, str(error)
    prompts = embed([passage.prompt for passage in passages])
    return {key: cosine(prompts, embed(list(found))).tolist() for key, found in texts.items()}, name


def mauve_of(states: Mapping[str, Tensor], signature: dict[str, str]) -> list[MeasureColumn]:
    """MAUVE: similarity to human text by last-token hidden states, over five clusterings."""
    values = {}
    try:
        for name in states:
            if name != "human":
                found = [mauve(states["human"].numpy(), states[name].numpy(), seed) for seed in range(5)]
                values[name] = Interval(float(np.mean(found)), min(found), max(found))
    except MissingMauve as error:
        signature["MAUVE"] = f"not measured: {error}"
        return []
    signature["MAUVE"] = f"of the last hidden states, {len(states['human'])} texts each"
    meaning = (
        "How hard the texts are to tell from human ones, by clusters of the model's hidden states; at 1 they cannot be "
        "told apart. In brackets: lowest and highest of five clusterings. With few texts only large differences count."
    )
    return [MeasureColumn("MAUVE", meaning, 3, values)]


def columns_of(
    texts: Mapping[str, Sequence[str]],
    logprobs: Mapping[str, Sequence[Sequence[float]]],
    written: Sequence[Generations],
    coherence: Mapping[str, Sequence[float]],
) -> list[MeasureColumn]:
    """The columns of the table, from left to right."""
    return [*_repetition(texts), *_coherent(coherence), *_tokens(logprobs, written), *_words(texts), *_again(written)]


def _repetition(texts: Mapping[str, Sequence[str]]) -> list[MeasureColumn]:
    resampled = partial(bootstrap_sums, skip_nan=True)

    def ngrams(found: Sequence[str], *sizes: int) -> np.ndarray:
        """[R, 2 len(sizes)]: distinct n-grams and n-grams of each text."""
        return np.array([[c for n in sizes for c in counts(text, n)] for text in found], dtype=np.float64)

    repeats = "Share of {}-grams of words that already occurred in the same text. Human text: a few percent."
    columns = [
        MeasureColumn(
            f"rep-{n}",
            repeats.format(n),
            3,
            {k: resampled(ngrams(t, n), lambda s: 1 - s[..., 0] / s[..., 1]) for k, t in texts.items()},
        )
        for n in (2, 3, 4)
    ]
    diversity = {
        k: resampled(ngrams(t, 2, 3, 4), lambda s: np.prod(s[..., 0::2] / s[..., 1::2], axis=-1))
        for k, t in texts.items()
    }
    columns.append(
        MeasureColumn("diversity", "Product of 1 - rep-n over n = 2, 3, 4; 1 if nothing repeats.", 3, diversity)
    )
    pairs = "Distinct word bigrams over all bigrams, pooled over texts; falls as the amount of text grows."
    two = {k: bootstrap_corpus(t, lambda found: distinct(found, 2)) for k, t in texts.items()}
    return [*columns, MeasureColumn("distinct-2", pairs, 3, two)]


def _coherent(coherence: Mapping[str, Sequence[float]]) -> list[MeasureColumn]:
    meaning = "Cosine similarity of the sentence embeddings of text and prompt."
    values = {k: mean_of(v) for k, v in coherence.items()}
    return [MeasureColumn("coherence", meaning, 3, values)] if coherence else []


def _tokens(logprobs: Mapping[str, Sequence[Sequence[float]]], written: Sequence[Generations]) -> list[MeasureColumn]:
    def mean(values: Sequence[Sequence[float]], transform: Any = None) -> Interval:
        table = np.array([[sum(row), len(row)] for row in values], dtype=np.float64)
        return bootstrap_ratio(table[:, 0], table[:, 1], transform=transform)

    return [
        MeasureColumn(
            "perplexity",
            "exp of the mean negative log-probability per token, given the prompt. Human text is neither lowest nor "
            "highest: far below it texts are dull, far above it they lose the thread.",
            1,
            {k: mean([[-x for x in row] for row in v], np.exp) for k, v in logprobs.items()},
        ),
        MeasureColumn(
            "greedy ratio",
            "Share of tokens that were the model's most likely token.",
            3,
            {one.name: mean(one.best) for one in written},
        ),
        MeasureColumn(
            "candidates",
            "Tokens that were left to draw from, on average.",
            1,
            {one.name: mean(one.kept) for one in written if any(one.kept)},
        ),
    ]


def _words(texts: Mapping[str, Sequence[str]]) -> list[MeasureColumn]:
    falls = "Zipf exponent: how steeply word frequency falls with rank; about 1 for human text."
    return [
        MeasureColumn(
            "words", "Words per text.", 1, {k: mean_of([len(x.split()) for x in t]) for k, t in texts.items()}
        ),
        MeasureColumn("zipf", falls, 2, {k: bootstrap_corpus(t, zipf) for k, t in texts.items()}),
    ]


def _again(written: Sequence[Generations]) -> list[MeasureColumn]:
    meaning = "Self-reinforcement: share of repeated tokens that are more probable than at their previous occurrence."
    values = {
        one.name: mean_of([rates["sr-1"] for rates in one.reinforcement if rates])
        for one in written
        if one.reinforcement and one.reinforcement[0]
    }
    return [MeasureColumn("SR-1", meaning, 3, values)] if values else []


def map_of(columns: Sequence[MeasureColumn]) -> tuple[MeasureColumn, MeasureColumn]:
    """Axes of the map: diversity and coherence, or perplexity without an embedding model."""
    by_title = {column.title: column for column in columns}
    return by_title["diversity"], by_title.get("coherence", by_title["perplexity"])


def series_of(written: Sequence[Generations], new: int) -> list[Series]:
    series, along = Series, mean_along

    def again(ids: Sequence[int]) -> list[float]:
        """Whether each token completes a 4-gram that occurred before."""
        seen: set[tuple[int, ...]] = set()
        found = [math.nan] * min(3, len(ids))
        for end in range(4, len(ids) + 1):
            gram = tuple(ids[end - 4 : end])
            found.append(float(gram in seen))
            seen.add(gram)
        return found

    return [
        series(
            "Repetition along the text",
            "Share of texts whose token completes a 4-gram of tokens that already occurred in the text.",
            along({one.name: [again(ids) for ids in one.ids] for one in written}, new),
        ),
        series(
            "Entropy along the text",
            "Entropy of the model's next-token distribution, in nats, at each position of the text.",
            along({one.name: one.entropy for one in written}, new),
        ),
        series(
            "Candidates along the text",
            "Tokens that were left to draw from, on average.",
            along({one.name: one.kept for one in written if any(one.kept)}, new),
            log=True,
        ),
        series(
            "Confidence along the text",
            "One minus the normalised entropy of the candidates' probabilities with the rest taken as uniform.",
            along({one.name: one.confidence for one in written if any(one.kept)}, new),
        ),
    ]


TIMES = 10
"""Repetitions of a sentence."""


def repeated(model: PreTrainedModel, tokenizer: Any, passages: Sequence[Passage]) -> list[Series]:
    """Repeat sentences of the human texts (or prompts): does the model come to expect them?"""
    found = []
    for passage in passages:
        sentences = re.split(r"(?<=[.!?])\s+", f"{passage.prompt} {passage.reference or ''}".strip())[1:-1]
        found += [sentence for sentence in sentences if 6 <= len(sentence.split()) <= 25][:1]
    if not found:
        return []
    processors = {
        "the model": None,
        "penalty 1.2": lambda: PenaltyProcessor(1.2),
        "penalty 1.2, last 20 tokens": lambda: PenaltyProcessor(1.2, 20),
    }
    tables = repeat_sentence(model, tokenizer, found[:12], TIMES, processors)
    return [
        Series(
            "A repeated sentence",
            f"Mean probability of the tokens of {len(found[:12])} sentences of the texts at their k-th repetition: the "
            "model comes to expect what it has read. With a penalty on all repeated tokens, and on those in a window.",
            {name: table.nanmean(dim=0).tolist() for name, table in tables.items()},
            across="repetition",
        )
    ]
