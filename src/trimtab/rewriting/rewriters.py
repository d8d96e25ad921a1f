"""Candidates for a rewrite: paraphrases and back-translations, by any model that completes a prompt."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from trimtab.common import fingerprint
from trimtab.core.draws import hashed_uniform, inverse_cdf
from trimtab.decoding._batching import alone
from trimtab.decoding._config import complete as complete_config
from trimtab.decoding._texts import generate_texts
from trimtab.evals.models import Reply
from trimtab.evals.openai_model import OpenAIModel
from trimtab.evals.suite import user
from trimtab.models.ends import end_tokens

PARAPHRASE = (
    "Put the text below into other words, so that it asks or states exactly the same. {style} Leave numbers, units, "
    "names, code and formulas as they stand. Do not answer the text, explain it or add to it. Write the new text "
    "and nothing else.\n\nText: {text}"
)
STYLES = (
    "Move the parts of the sentence to other places.",
    "Choose other words of the same meaning.",
    "Give the sentence another subject and another verb.",
    "Say it more plainly.",
)
TO_PIVOT = (
    "Translate the text below into {language}. Leave numbers, names, code and formulas as they stand, and do not "
    "answer the text. Write the translation and nothing else.\n\nText: {text}"
)
FROM_PIVOT = (
    "The text below is in {language}. Translate it into English. Leave numbers, names, code and formulas as they "
    "stand, and do not answer the text. Write the translation and nothing else.\n\nText: {text}"
)
LANGUAGES = {
    "ar": "Arabic", "cs": "Czech", "de": "German", "es": "Spanish", "fr": "French", "hi": "Hindi", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "nl": "Dutch", "pl": "Polish", "pt": "Portuguese", "ru": "Russian",
    "sv": "Swedish", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip


class Way(NamedTuple):
    """One way to a candidate."""

    origin: str
    """"paraphrase", "backtranslate:zh", ..."""
    prompts: tuple[str, ...]
    """asked one after another, each about the answer to the one before, which stands for {text}"""
    draw: int = 0
    """the candidate's seed is that of the pipeline plus this"""


def ways(n_par: int = 4, pivots: Sequence[str] = ("zh", "de", "fr")) -> tuple[Way, ...]:
    """Paraphrases, each asked for in a style of its own, and a back-translation through each pivot.

    Args:
        n_par: number of paraphrases; the styles come round again after four.
        pivots: codes of languages, or their English names; "zh+de" goes through both before it comes back.

    Source: the two kinds are those of Clean-Eval (arXiv:2311.09154); numbers and languages are not published.
    """
    found = [Way("paraphrase", (PARAPHRASE.replace("{style}", STYLES[k % len(STYLES)]),), k) for k in range(n_par)]
    for pivot in pivots:
        languages = [LANGUAGES.get(code, code) for code in pivot.split("+")]
        prompts = [TO_PIVOT.replace("{language}", language) for language in languages]
        found.append(Way(f"backtranslate:{pivot}", (*prompts, FROM_PIVOT.replace("{language}", languages[-1]))))
    return tuple(found)


class Request(NamedTuple):
    """A text to rewrite in one way."""

    text: str
    way: Way
    seed: int
    options: tuple[str, ...] = ()
    """strings that keep their place: those options that the text names"""


class Rewritten(NamedTuple):
    """A candidate; its text is empty where none was made."""

    text: str
    via: tuple[str, ...] = ()
    """intermediate texts, such as that in the pivot language"""
    error: str | None = None
    """why a server gave no answer; the request may be asked again"""


class Rewriter(Protocol):
    """Makes candidates. The same request gives the same candidate, in whatever company it is asked."""

    @property
    def name(self) -> str:
        """everything that a candidate depends on besides its request: model, fingerprint, settings"""
        ...

    @property
    def ways(self) -> Sequence[Way]: ...

    def __call__(self, requests: Sequence[Request]) -> list[Rewritten]: ...


Complete = Callable[[Sequence[str], Sequence[int]], Sequence[Reply]]
"""complete(prompts, seeds) -> replies, with an empty text where an answer was cut off"""


@dataclass(frozen=True)
class Prompted:
    """A rewriter that asks models; `causal`, `seq2seq` and `endpoint` make one."""

    name: str
    ways: tuple[Way, ...]
    steps: tuple[Complete, ...]
    """the models for a way's first prompt, second prompt, ...; the last one also answers the rest"""

    def __call__(self, requests: Sequence[Request]) -> list[Rewritten]:
        texts: list[list[str]] = [[request.text] for request in requests]
        errors: dict[int, str | None] = {}
        for step in range(max((len(request.way.prompts) for request in requests), default=0)):
            going = [i for i, request in enumerate(requests) if step < len(request.way.prompts) and texts[i][-1]]
            if going:
                prompts = [requests[i].way.prompts[step].replace("{text}", texts[i][-1]) for i in going]
                replies = self.steps[min(step, len(self.steps) - 1)](prompts, [_draw(requests[i], step) for i in going])
                for i, (answer, errors[i]) in zip(going, replies, strict=True):
                    texts[i].append(_tidy(answer, requests[i].text))
        return [
            Rewritten(own[-1] if len(own) == len(r.way.prompts) + 1 else "", tuple(own[1:-1]), errors.get(i))
            for i, (r, own) in enumerate(zip(requests, texts))
        ]


def _draw(request: Request, step: int) -> int:
    """A seed of its own for each question, below 2**63."""
    return int(fingerprint.of_values([request.text, request.way.origin, request.seed, step]), 16) >> 1


def _tidy(answer: str, original: str) -> str:
    """Without thoughts, a label in front, and quotation marks that the original does not have."""
    text = re.sub(r"(?s)^.*</think>", "", answer).strip()
    text = re.sub(r"(?i)^(?:new |rewritten )?(?:text|translation)\s*:\s*", "", text)
    for opening, closing in ('""', "''", "“”", "„“", "«»"):
        if len(text) > 1 and text[0] == opening and text[-1] == closing and original[:1] != opening:
            text = text[1:-1].strip()
    return text


class _Drawn(LogitsProcessor):
    """Leaves one token for each row, drawn by the row's own seed: a row does not depend on its neighbours."""

    def __init__(self, seeds: Sequence[int], temperature: float):
        self.seeds, self.temperature, self.position = torch.tensor(seeds), temperature, 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        rows = self.seeds.to(scores.device)
        uniform = hashed_uniform(0, self.position, rows, torch.zeros_like(rows))
        self.position += 1
        chosen = inverse_cdf(torch.softmax(scores.float() / self.temperature, dim=-1), uniform)
        return torch.full_like(scores, -torch.inf).scatter(1, chosen[:, None], 0.0)


def _sampling(seeds: Sequence[int], temperature: float) -> dict[str, Any]:
    return {"logits_processor": LogitsProcessorList([_Drawn(seeds, temperature)])} if temperature else {}


def causal(
    model: Any,
    tokenizer: Any,
    by: Sequence[Way] | None = None,
    *,
    name: str = "",
    temperature: float = 0.7,
    max_new_tokens: int = 128,
) -> Prompted:
    """A causal language model in memory; prompts go through its chat template where it has one.

    Args:
        tokenizer: with a padding token.
        name: for the record; the fingerprint of the weights is added.
        temperature: at 0 the best token is taken.
        max_new_tokens: an answer that has not ended by then is no candidate.
    """

    def complete(prompts: Sequence[str], seeds: Sequence[int]) -> list[Reply]:
        def each(rows: list[int]) -> dict[str, Any]:
            return _sampling([seeds[row] for row in rows], temperature)

        answers = generate_texts(model, tokenizer, prompts, max_new_tokens, each=each)
        return [Reply(answer.text if answer.num_tokens < max_new_tokens else "") for answer in answers]

    return Prompted(_name(name, [model], temperature, max_new_tokens), tuple(by or ways()), (complete,))


TRANSLATORS = (
    "decoder_start_token_id", "bos_token_id", "forced_bos_token_id", "forced_eos_token_id", "bad_words_ids",
)  # fmt: skip
"""What of an encoder-decoder's own generation config says how its texts begin and end, not how they are drawn."""


def seq2seq(
    models: Sequence[tuple[Any, Any]],
    by: Sequence[Way],
    *,
    name: str = "",
    temperature: float = 0.7,
    max_new_tokens: int = 128,
    **options: Any,
) -> Prompted:
    """Encoder-decoder models: one that paraphrases, or one to a pivot language and one back.

    Args:
        models: (model, tokenizer) for the first prompt of a way, the second, ...
        by: such as `[Way("paraphrase", ("paraphrase: {text}",))]`, or `[Way("backtranslate:de", ("{text}", "{text}"))]`
            for a pair of translators.
        options: further ones of `model.generate`.
    """

    def completes(model: Any, tokenizer: Any) -> Complete:
        @torch.no_grad()
        def complete(prompts: Sequence[str], seeds: Sequence[int]) -> list[Reply]:
            inputs = tokenizer(list(prompts), return_tensors="pt", padding=True, truncation=True)
            inputs = {key: inputs[key].to(model.device) for key in ("input_ids", "attention_mask")}
            ids = end_tokens(tokenizer, model)
            how = {name: getattr(model.generation_config, name, None) for name in TRANSLATORS} | options
            config = complete_config(how, ids, tokenizer.pad_token_id, max_new_tokens)
            with alone(model):
                output = model.generate(**inputs, generation_config=config, **_sampling(seeds, temperature))[:, 1:]
            ends = torch.tensor(ids or (-1,))
            ended = torch.isin(output.cpu(), ends).any(dim=1) | (output.size(1) < max_new_tokens)
            texts = tokenizer.batch_decode(output, skip_special_tokens=True)
            return [Reply(text if whole else "") for text, whole in zip(texts, ended.tolist())]

        return complete

    made = tuple(completes(model.eval(), tokenizer) for model, tokenizer in models)
    return Prompted(_name(name, [model for model, _ in models], temperature, max_new_tokens), tuple(by), made)


def endpoint(server: OpenAIModel, by: Sequence[Way] | None = None, *, max_new_tokens: int = 128) -> Prompted:
    """A server of chat completions at its temperature, with a seed of its own for each request; see `causal`."""

    def complete(prompts: Sequence[str], seeds: Sequence[int]) -> list[Reply]:
        return server.whole([user(prompt) for prompt in prompts], max_new_tokens, [seed >> 32 for seed in seeds])

    name = f"{server.name} at {server.url}"
    return Prompted(_name(name, [], server.temperature, max_new_tokens), tuple(by or ways()), (complete,))


def _name(name: str, models: Sequence[Any], temperature: float, max_new_tokens: int) -> str:
    known = [name, *(fingerprint.of_model(model) for model in models)]
    return " ".join(filter(None, [*known, f"temperature={temperature:g}", f"max_new_tokens={max_new_tokens}"]))
