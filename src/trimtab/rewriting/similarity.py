"""How alike are two texts? Scorers for Clean-Eval, of (original, candidate)."""

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from trimtab.metrics import embeddings
from trimtab.metrics.text_quality import cosine, ngrams
from trimtab.metrics.text_quality import rouge_l as rouge_l  # for its neighbours
from trimtab.rewriting.questions import CleanEvalError, Pair, PairScorer

MISSING = "sacrebleu is not installed: pip install sacrebleu"


def _metric(kind: str, **options: Any) -> Callable[[Sequence[Pair]], list[float]]:
    try:
        import sacrebleu
    except ImportError:
        raise CleanEvalError(MISSING) from None
    metric = getattr(sacrebleu, kind)(**options)
    return lambda pairs: [metric.sentence_score(candidate, [original]).score / 100 for original, candidate in pairs]


def chrf() -> PairScorer:
    """chrF of each pair by sacrebleu, in [0, 1]: F of character n-grams up to 6, recall twice as heavy.

    Raises:
        CleanEvalError: where sacrebleu is missing, with what to install.
    """
    return PairScorer("chrF (sacrebleu)", _metric("CHRF"))


def bleu() -> PairScorer:
    """BLEU of each pair by sacrebleu, in [0, 1], over the n-gram lengths that the candidate has.

    Raises:
        CleanEvalError: see `chrf`.
    """
    return PairScorer("BLEU (sacrebleu)", _metric("BLEU", effective_order=True))


def copied(original: str, candidate: str, n: int = 13) -> tuple[int, int]:
    """How many of the candidate's n-grams of words (as for `rouge_l`) the original has, and how many there are."""
    one, other = (re.findall(r"\w+", text.lower()) for text in (original, candidate))
    known = set(ngrams(one, n))
    found = list(ngrams(other, n))
    return sum(gram in known for gram in found), len(found)


def cosines(
    embed: Callable[[Sequence[str]], Tensor] | None = None, name: str = "", threshold: float = 0.85
) -> PairScorer:
    """Cosine of sentence embeddings: the weakest detector, which hardly sees a negation.

    Args:
        embed: texts -> [N, D]; all-MiniLM-L6-v2 out of its wheel if not given.
        name: of the embedding.
        threshold: of the detector.

    Raises:
        MissingEmbedding: where the wheel is not installed.
    """
    if embed is None:
        embed, name = embeddings.load()
    return PairScorer(f"cosine of {name}", partial(_cosines, embed), threshold)


def _cosines(embed: Callable[[Sequence[str]], Tensor], pairs: Sequence[Pair]) -> list[float]:
    places = {text: i for i, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
    table = embed(list(places))
    return cosine(table[[places[one] for one, _ in pairs]], table[[places[other] for _, other in pairs]]).tolist()
