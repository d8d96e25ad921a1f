"""Do two texts mean the same? By words and embeddings, a model of entailment, or a language model that is asked."""

import math
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from trimtab.common import fingerprint
from trimtab.common.errors import Unanswered
from trimtab.data.tokens import encode_prompts
from trimtab.decoding._batching import batches, takes
from trimtab.evals.first_tokens import MOST
from trimtab.evals.openai_model import OpenAIModel
from trimtab.evals.suite import SuiteError, user
from trimtab.metrics import embeddings
from trimtab.models.tokenizers import token_positions
from trimtab.rewards._marks import without_reasoning
from trimtab.rewriting import wording
from trimtab.rewriting.canonical import canonical
from trimtab.rewriting.questions import CleanEvalError, Pair, PairScorer
from trimtab.rewriting.similarity import cosines

BATCH = 16
"""pairs that a model reads together"""
ALIKE = 0.6
"""cosine of a word's tokens to tokens of the other text from which on one of them says the same"""
ANSWER = 512
"""tokens that a server may write to say yes or no; one that reasons needs them"""
SAME = (
    "Here are two texts.\n\nFirst: {original}\n\nSecond: {candidate}\n\nDoes the second ask or state exactly what the "
    "first does, so that the same answer is right for both? Reply with yes or no."
)
TokenVectors = tuple[Tensor, list[tuple[int, int]]]
"""of a text: [T, D], and the characters of each token; see `embeddings.load_words`"""


def words_and_cosines(
    embed: Callable[[Sequence[str]], Tensor] | None = None,
    name: str = "",
    threshold: float = 0.7,
    words: Callable[[str], TokenVectors] | None = None,
) -> PairScorer:
    """The cosine of sentence embeddings, and 0 where a word of either text has no counterpart in the other that WordNet
    knows, and none that the embedding reads alike in its place: what the embedding of a text alone lets through are
    such words.

    Args, Raises: see `cosines`; `words` reads the tokens of a text, see `embeddings.load_words`, as `embed` does; with
        another `embed` and none of its own, WordNet alone decides.
    """
    if embed is None and words is None:
        words = embeddings.load_words()
    cosine_of = cosines(embed, name, threshold)

    def both(pairs: Sequence[Pair]) -> list[float]:
        values = cosine_of(pairs)
        return [
            0.0 if value >= threshold and _has_unmatched_word(pair, words) else value
            for pair, value in zip(pairs, values)
        ]

    return PairScorer(f"{cosine_of.name}, words by WordNet 3.0", both, threshold)


def _has_unmatched_word(pair: Pair, words: Callable[[str], TokenVectors] | None) -> bool:
    """Whether a word of either text has no counterpart in the other."""
    left = wording.unmatched(*pair)
    if not any(left) or words is None:
        return any(left)
    texts = [canonical(text) for text in pair]
    read = [words(text) for text in texts]
    for own, other in ((0, 1), (1, 0)):
        for word in left[own]:
            if not wording.may_have_counterpart(word, *(pair if own == 0 else pair[::-1])):
                return True
            if _nearest(word.text, texts[own], read[own], read[other]) < ALIKE:
                return True
    return False


def _nearest(word: str, text: str, own: TokenVectors, other: TokenVectors) -> float:
    """The mean, over the tokens of a word in its text, of the cosine to the nearest token of the other text."""
    found = re.search(rf"\b{re.escape(word.partition('_')[0])}\b", text, re.IGNORECASE)
    tokens = [k for k, (start, end) in enumerate(own[1]) if found and found.start() <= start < end <= found.end()]
    there = [k for k, (start, end) in enumerate(other[1]) if start < end]
    if not tokens or not there:
        return 0.0
    return float((own[0][tokens] @ other[0][there].T).max(dim=1).values.mean())


def nli(model: Any, tokenizer: Any, name: str = "", threshold: float = 0.5) -> PairScorer:
    """The smaller of the probabilities that the original entails the candidate, and the candidate the original.

    Args:
        model: for the classification of (premise, hypothesis), with a label whose name begins with "entail".
        name: for the record; the fingerprint of the weights is added.

    Raises:
        CleanEvalError: where no label, or more than one, is that of entailment.
    """
    labels = {int(i): str(label) for i, label in model.config.id2label.items()}
    found = [i for i, label in labels.items() if label.lower().startswith("entail")]
    if len(found) != 1:
        raise CleanEvalError(
            f"{name or 'the NLI model'} has labels {', '.join(labels.values())}; one must be named entailment"
        )

    def entails(pairs: Sequence[Pair]) -> Tensor:
        return torch.softmax(classified(model, tokenizer, pairs), dim=-1)[:, found[0]]

    def both(pairs: Sequence[Pair]) -> list[float]:
        back = [(candidate, original) for original, candidate in pairs]
        return torch.minimum(entails(pairs), entails(back)).tolist()

    return PairScorer(f"NLI both ways {name} {fingerprint.of_model(model)}", both, threshold)


def yes_or_no(model: Any, tokenizer: Any, name: str = "", threshold: float = 0.5) -> PairScorer:
    """P(yes) / (P(yes) + P(no)) of a language model that is asked whether both texts mean the same.

    P sums over the first tokens of the word with and without a capital and a space in front; tokens that could begin
    either count for neither.

    Args:
        model, tokenizer: causal; the question goes through the chat template where there is one.

    Raises:
        CleanEvalError: where the tokenizer begins yes and no with the same tokens.
    """
    first = {}
    for word in ("yes", "no"):
        spelt = [spelling for way in (word, word.capitalize()) for spelling in (way, f" {way}")]
        first[word] = {tokenizer(one, add_special_tokens=False).input_ids[0] for one in spelt}
    yes, no = (sorted(first[one] - first[other]) for one, other in (("yes", "no"), ("no", "yes")))
    if not yes or not no:
        raise CleanEvalError(f"the tokenizer of {name or 'the detector'} cannot tell yes from no by the first token")

    @torch.no_grad()
    def same(pairs: Sequence[Pair]) -> list[float]:
        found = []
        for start in range(0, len(pairs), BATCH):
            prompts = [_ask(*pair) for pair in pairs[start : start + BATCH]]
            inputs: Any = encode_prompts(tokenizer, prompts).to(next(model.parameters()).device)
            sure = [0.0] * len(prompts)
            for places, given in batches(model, inputs):
                if "attention_mask" in given and takes(model, "position_ids"):
                    given["position_ids"] = token_positions(given["attention_mask"])
                logits = model(**given).logits[:, -1].float()
                of_yes, of_no = logits[:, yes].logsumexp(dim=-1), logits[:, no].logsumexp(dim=-1)
                for place, value in zip(places, torch.sigmoid(of_yes - of_no).tolist()):
                    sure[place] = value
            found += sure
        return found

    return PairScorer(f"yes or no {name} {fingerprint.of_model(model)}", same, threshold)


def by_server(server: OpenAIModel, threshold: float = 0.5) -> PairScorer:
    """P(yes) / (P(yes) + P(no)) of a server that is asked the question of `yes_or_no`, where it tells the likeliest
    first tokens; else 1 where it writes yes, and 0. NaN where it gave no answer."""
    tells: list[bool] = []

    def one(pair: Pair) -> float:
        chat = user(_ask(*pair))
        if not tells or tells[0]:
            try:
                found = server.first_tokens(chat, MOST)
                tells[:] = tells or [found is not None]
            except SuiteError:
                found, tells[:] = None, [False]
            except Unanswered:  # this request; a server that is gone says so again below
                found = None
            share = _share(found or ())
            if share is not None:
                return share
        (reply,) = server.answer([chat], ANSWER)
        return math.nan if reply.error else float(_says_yes(reply.text))

    def same(pairs: Sequence[Pair]) -> list[float]:
        first = [one(pair) for pair in pairs[:1]]
        with ThreadPoolExecutor(max_workers=server.batch) as pool:
            return first + list(pool.map(one, pairs[1:]))

    return PairScorer(f"yes or no by {server.name} at {server.url}", same, threshold)


def _share(tokens: Iterable[tuple[str, float]]) -> float | None:
    """P(yes) of P(yes) and P(no) among first tokens; None where both are missing."""
    mass = {"yes": 0.0, "no": 0.0}
    for token, logprob in tokens:
        word = token.strip().lower()
        if word in mass:
            mass[word] += math.exp(logprob)
    return mass["yes"] / sum(mass.values()) if sum(mass.values()) > 0.5 else None


def _says_yes(text: str) -> bool:
    return bool(re.match(r"\W*yes\b", without_reasoning(text), re.IGNORECASE))


TRIED = (
    ("What is the capital of France?", "Which city is the capital of France?", True),
    ("The shop opens at 9.", "At 9 the shop opens.", True),
    ("Who wrote the letter?", "Who is the author of the letter?", True),
    ("He bought a car last year.", "Last year he purchased a car.", True),
    ("The dog bit the man.", "The man was bitten by the dog.", True),
    ("What is the capital of France?", "What is the capital of Spain?", False),
    ("The shop opens at 9.", "The shop closes at 9.", False),
    ("Who wrote the letter?", "When was the letter written?", False),
    ("He bought a car last year.", "He did not buy a car last year.", False),
    ("The dog bit the man.", "The man bit the dog.", False),
)
"""(first, second, whether they mean the same): what a detector must tell apart"""
ENOUGH = 8
"""of `TRIED` that a language model must judge correctly to serve as a detector"""


def num_correct(detector: PairScorer) -> int:
    """How many of `TRIED` it judges correctly."""
    values = detector([(one, other) for one, other, _ in TRIED])
    return sum((value >= detector.threshold) == same for value, (_, _, same) in zip(values, TRIED))


def _ask(original: str, candidate: str) -> str:
    first, second = SAME.split("{candidate}")
    return first.replace("{original}", original) + candidate + second


@torch.no_grad()
def classified(model: Any, tokenizer: Any, pairs: Sequence[Pair], **options: Any) -> Tensor:
    """[N, labels] logits of the pairs as one sequence each, cut where the model's positions end."""
    found = []
    device, longest = next(model.parameters()).device, getattr(model.config, "max_position_embeddings", 512)
    for start in range(0, len(pairs), BATCH):
        ones, others = zip(*pairs[start : start + BATCH])
        options |= {"padding": True, "truncation": True, "max_length": min(longest, 512), "return_tensors": "pt"}
        inputs = tokenizer(list(ones), list(others), **options)
        found.append(model(**inputs.to(device)).logits.float().cpu())
    return torch.cat(found)
