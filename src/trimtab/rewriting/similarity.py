"""Do two texts mean the same, and how alike are they? Detectors and scorers for Clean-Eval, of (original, candidate).

A scorer has a name and gives a number for each pair; a detector has a threshold besides.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from trimtab.common import fingerprint
from trimtab.common.errors import Unanswered
from trimtab.data.tokens import encode_prompts
from trimtab.decoding._batching import batches, takes
from trimtab.evals.first_tokens import MOST
from trimtab.evals.models import OpenAIModel
from trimtab.evals.suite import Messages, SuiteError, user
from trimtab.metrics import embeddings
from trimtab.metrics.text_quality import cosine, ngrams
from trimtab.models.tokenizers import token_positions
from trimtab.rewards.parsing import without_reasoning
from trimtab.rewriting import wording
from trimtab.rewriting.canonical import canonical
from trimtab.rewriting.clean_eval import CleanEvalError, Pair

BATCH = 16
"""Pairs that a model reads together."""
ALIKE = 0.6
"""cosine of a word's tokens to tokens of the other text from which on one of them says the same"""
ANSWER = 512
"""tokens that a server may write to say yes or no; one that reasons needs them"""
SAME = (
    "Here are two texts.\n\nFirst: {original}\n\nSecond: {candidate}\n\nDoes the second ask or state exactly what the "
    "first does, so that the same answer is right for both? Reply with yes or no."
)
MISSING = "sacrebleu is not installed: pip install 'trimtab[eval]'"


@dataclass(frozen=True)
class Measured:
    """A function of pairs with a name; with a threshold it is a detector."""

    name: str
    of: Callable[[Sequence[Pair]], list[float]]
    threshold: float = 0.5
    """from which value on both texts mean the same"""

    def __call__(self, pairs: Sequence[Pair]) -> list[float]:
        return self.of(pairs)


# ---------------------------------------------------------------- without a model


def _metric(kind: str, **options: Any) -> Callable[[Sequence[Pair]], list[float]]:
    try:
        import sacrebleu
    except ImportError:
        raise CleanEvalError(MISSING) from None
    metric = getattr(sacrebleu, kind)(**options)
    return lambda pairs: [metric.sentence_score(candidate, [original]).score / 100 for original, candidate in pairs]


def chrf() -> Measured:
    """chrF of each pair by sacrebleu, in [0, 1]: F of character n-grams up to 6, recall twice as heavy.

    Raises:
        CleanEvalError: where sacrebleu is missing, with what to install.
    """
    return Measured("chrF (sacrebleu)", _metric("CHRF"))


def bleu() -> Measured:
    """BLEU of each pair by sacrebleu, in [0, 1], over the n-gram lengths that the candidate has.

    Raises:
        CleanEvalError: see `chrf`.
    """
    return Measured("BLEU (sacrebleu)", _metric("BLEU", effective_order=True))


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


def copied(original: str, candidate: str, n: int = 13) -> tuple[int, int]:
    """How many of the candidate's n-grams of words (as for `rouge_l`) the original has, and how many there are."""
    one, other = (re.findall(r"\w+", text.lower()) for text in (original, candidate))
    known = set(ngrams(one, n))
    found = list(ngrams(other, n))
    return sum(gram in known for gram in found), len(found)


# ---------------------------------------------------------------- by models


def cosines(
    embed: Callable[[Sequence[str]], Tensor] | None = None, name: str = "", threshold: float = 0.85
) -> Measured:
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
    return Measured(f"cosine of {name}", partial(_cosines, embed), threshold)


def _cosines(embed: Callable[[Sequence[str]], Tensor], pairs: Sequence[Pair]) -> list[float]:
    places = {text: i for i, text in enumerate(dict.fromkeys(text for pair in pairs for text in pair))}
    table = embed(list(places))
    return cosine(table[[places[one] for one, _ in pairs]], table[[places[other] for _, other in pairs]]).tolist()


def words_and_cosines(
    embed: Callable[[Sequence[str]], Tensor] | None = None,
    name: str = "",
    threshold: float = 0.7,
    words: Callable[[str], tuple[Tensor, list[tuple[int, int]]]] | None = None,
) -> Measured:
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
        return [0.0 if value >= threshold and _strange(pair, words) else value for pair, value in zip(pairs, values)]

    return Measured(f"{cosine_of.name}, words by WordNet 3.0", both, threshold)


def _strange(pair: Pair, words: Callable[[str], tuple[Tensor, list[tuple[int, int]]]] | None) -> bool:
    """Whether a word of either text stands for nothing in the other."""
    left = wording.left_over(*pair)
    if not any(left) or words is None:
        return any(left)
    texts = [canonical(text) for text in pair]
    read = [words(text) for text in texts]
    for own, other in ((0, 1), (1, 0)):
        for word in left[own]:
            if not wording.may_be_said(word, *(pair if own == 0 else pair[::-1])):
                return True
            if _nearest(word.text, texts[own], read[own], read[other]) < ALIKE:
                return True
    return False


def _nearest(
    word: str, text: str, own: tuple[Tensor, list[tuple[int, int]]], other: tuple[Tensor, list[tuple[int, int]]]
) -> float:
    """The mean, over the tokens of a word in its text, of the cosine to the nearest token of the other text."""
    found = re.search(rf"\b{re.escape(word.partition('_')[0])}\b", text, re.IGNORECASE)
    tokens = [k for k, (start, end) in enumerate(own[1]) if found and found.start() <= start < end <= found.end()]
    there = [k for k, (start, end) in enumerate(other[1]) if start < end]
    if not tokens or not there:
        return 0.0
    return float((own[0][tokens] @ other[0][there].T).max(dim=1).values.mean())


def nli(model: Any, tokenizer: Any, name: str = "", threshold: float = 0.5) -> Measured:
    """The smaller of the probabilities that the original entails the candidate, and the candidate the original.

    Args:
        model: for the classification of (premise, hypothesis), with a label whose name begins with "entail".
        tokenizer: of the model.
        name: for the record; the fingerprint of the weights is added.
        threshold: of the detector.

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
        return torch.softmax(_classified(model, tokenizer, pairs), dim=-1)[:, found[0]]

    def both(pairs: Sequence[Pair]) -> list[float]:
        back = [(candidate, original) for original, candidate in pairs]
        return torch.minimum(entails(pairs), entails(back)).tolist()

    return Measured(f"NLI both ways {name} {fingerprint.of_model(model)}", both, threshold)


def yes_or_no(model: Any, tokenizer: Any, name: str = "", threshold: float = 0.5) -> Measured:
    """P(yes) / (P(yes) + P(no)) of a language model that is asked whether both texts mean the same.

    P sums over the first tokens of the word with and without a capital and a space in front; tokens that could begin
    either count for neither.

    Args:
        model, tokenizer: causal; the question goes through the chat template where there is one.
        name, threshold: see `nli`.

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
            asked = [_ask(*pair) for pair in pairs[start : start + BATCH]]
            inputs: Any = encode_prompts(tokenizer, asked).to(next(model.parameters()).device)
            sure = [0.0] * len(asked)
            for places, given in batches(model, inputs):
                if "attention_mask" in given and takes(model, "position_ids"):
                    given["position_ids"] = token_positions(given["attention_mask"])
                logits = model(**given).logits[:, -1].float()
                of_yes, of_no = logits[:, yes].logsumexp(dim=-1), logits[:, no].logsumexp(dim=-1)
                for place, value in zip(places, torch.sigmoid(of_yes - of_no).tolist()):
                    sure[place] = value
            found += sure
        return found

    return Measured(f"yes or no {name} {fingerprint.of_model(model)}", same, threshold)


def by_server(server: OpenAIModel, threshold: float = 0.5) -> Measured:
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

    return Measured(f"yes or no by {server.name} at {server.url}", same, threshold)


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


def asked(ask: Callable[[Sequence[Messages]], Sequence[str]], name: str) -> Measured:
    """1 where whoever answers chats says yes to the question of `yes_or_no`, else 0."""

    def same(pairs: Sequence[Pair]) -> list[float]:
        return [float(_says_yes(answer)) for answer in ask([user(_ask(*p)) for p in pairs])]

    return Measured(f"yes or no by {name}", same)


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
"""of `TRIED` that a language model must judge rightly to be one"""


def judges(detector: Measured) -> int:
    """How many of `TRIED` it judges rightly."""
    values = detector([(one, other) for one, other, _ in TRIED])
    return sum((value >= detector.threshold) == same for value, (_, _, same) in zip(values, TRIED))


def _ask(original: str, candidate: str) -> str:
    first, second = SAME.split("{candidate}")
    return first.replace("{original}", original) + candidate + second


@torch.no_grad()
def _classified(model: Any, tokenizer: Any, pairs: Sequence[Pair], **options: Any) -> Tensor:
    """[N, labels] logits of the pairs as one sequence each, cut where the model's positions end."""
    found = []
    device, longest = next(model.parameters()).device, getattr(model.config, "max_position_embeddings", 512)
    for start in range(0, len(pairs), BATCH):
        ones, others = zip(*pairs[start : start + BATCH])
        options |= {"padding": True, "truncation": True, "max_length": min(longest, 512), "return_tensors": "pt"}
        inputs = tokenizer(list(ones), list(others), **options)
        found.append(model(**inputs.to(device)).logits.float().cpu())
    return torch.cat(found)


# ---------------------------------------------------------------- BLEURT


def bleurt(folder: str | Path) -> Measured:
    """A checkpoint of BLEURT (arXiv:2004.04696, arXiv:2110.06341): an encoder reads reference and candidate, and a
    linear head on its first position gives one number, whose range depends on the checkpoint.

    Args:
        folder: with config.json, model.safetensors and tokenizer.json (or vocab.txt). Either an encoder of transformers
            with one label, as in conversions of the BERT-based BLEURT, or model_type "bleurt", as in conversions of
            BLEURT-20: the parts of RemBERT under names of their own, with `embedding_size` where the embeddings are
            narrower than the layers.

    Raises:
        CleanEvalError: naming what is missing or does not fit.
    """
    folder = Path(folder).expanduser()
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            hint = (
                "; save its pytorch_model.bin as model.safetensors" if (folder / "pytorch_model.bin").exists() else ""
            )
            raise CleanEvalError(f"{folder} holds no {name}, so it is no BLEURT checkpoint that can be read{hint}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CleanEvalError(f"{folder}/config.json is no JSON: {error}") from error
    model = _bleurt_model(folder, config).eval()
    tokenizer = _bleurt_tokenizer(folder)

    def scores(pairs: Sequence[Pair]) -> list[float]:
        return _classified(model, tokenizer, pairs, return_token_type_ids=True)[:, 0].tolist()

    return Measured(f"BLEURT {folder.name} {fingerprint.of_model(model)}", scores)


def _bleurt_model(folder: Path, config: dict[str, Any]) -> nn.Module:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    weights = load_file(folder / "model.safetensors")
    if config.get("model_type") == "bleurt":
        narrow = config.get("embedding_size")
        kind, inner = ("rembert", "rembert") if narrow else ("bert", "bert")
        names = ("model_type", "architectures", "transformers_version", "_name_or_path", "embedding_size")
        rest = {key: value for key, value in config.items() if key not in names}
        rest |= {"input_embedding_size": narrow, "classifier_dropout_prob": 0.0} if narrow else {}
        made = AutoConfig.for_model(kind, **rest)
        weights = {_renamed(name, inner): weight for name, weight in weights.items()}
    else:
        made = AutoConfig.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_config(made)
    if made.num_labels != 1:
        raise CleanEvalError(f"{folder} has {made.num_labels} labels; BLEURT has one, a number")
    weights = {name: weight for name, weight in weights.items() if not name.endswith("position_ids")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise CleanEvalError(f"the weights of {folder} do not fit its config.json: {str(error)[:200]}") from error
    return model


def _renamed(name: str, inner: str) -> str:
    """A weight's name in a BLEURT conversion -> in the encoder of transformers that has the same parts."""
    name = re.sub(r"^bleurt\.", f"{inner}.", name)
    return name.replace(".encoder.embedding_projection.", ".encoder.embedding_hidden_mapping_in.")


def _bleurt_tokenizer(folder: Path) -> Any:
    from transformers import BertTokenizer, PreTrainedTokenizerFast

    if (folder / "tokenizer.json").is_file():  # read as it is: its class may be one that transformers does not know
        tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    elif (folder / "vocab.txt").is_file():
        tokenizer = BertTokenizer.from_pretrained(folder)
    else:
        raise CleanEvalError(f"{folder} holds no tokenizer.json and no vocab.txt; save its tokenizer as a fast one")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = "[PAD]"
    return tokenizer
