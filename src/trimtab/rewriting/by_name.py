"""Rewriters, detectors and scorers of Clean-Eval by the names that a command line has for them."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForSequenceClassification

from trimtab.evals.openai_model import OpenAIModel
from trimtab.metrics.embeddings import MissingEmbedding
from trimtab.models import loading
from trimtab.models.builtin import BUILTIN
from trimtab.models.inference import LoadOptions, load_for_inference
from trimtab.rewriting import bleurt, detectors, rewriters, similarity
from trimtab.rewriting.options import RewriteSettings
from trimtab.rewriting.questions import CleanEvalError, PairScorer
from trimtab.rewriting.rewriters import Rewriter, Way, causal, seq2seq, ways
from trimtab.rewriting.rules import Rules


class ModelsByName:
    """Models that were loaded, by name: one that rewrites and judges is loaded once."""

    def __init__(self, how: LoadOptions | None) -> None:
        self.how = how
        self.loaded: dict[tuple[str, Any], tuple[Any, Any]] = {}

    def __call__(self, name: str, kind: Any) -> tuple[Any, Any]:
        if (name, kind) not in self.loaded:
            tokenizer = loading.load_tokenizer(name)
            model = load_for_inference(name, self.how, kind)
            self.loaded[name, kind] = (model, tokenizer)
        return self.loaded[name, kind]


@dataclass(frozen=True)
class RewritingServer:
    """A server, and the name under which one of its models answers."""

    url: str
    rewriter: str
    served_as: str | None = None
    """None: under its own"""

    def model(self, name: str, **how: Any) -> OpenAIModel:
        """One of its models; an answer of another one is refused."""
        served_as = self.served_as if self.served_as and name == self.rewriter else name
        return OpenAIModel(self.url, name, served_as=served_as, **how)


def rewriter_of(name: str, server: RewritingServer | None, settings: RewriteSettings, models: ModelsByName) -> Rewriter:
    if name == "rules":
        return Rules(settings.n_par)
    by = ways(settings.n_par, settings.pivots)
    if server:
        model = server.model(name, temperature=settings.temperature, batch=settings.batch)
        return rewriters.endpoint(model, by, max_new_tokens=settings.max_new_tokens)
    how: dict[str, Any] = {"temperature": settings.temperature, "max_new_tokens": settings.max_new_tokens}
    names = name.split(",")
    if len(names) == 1 and not loading.load_config(name).is_encoder_decoder:
        return causal(*models(name, AutoModelForCausalLM), by, name=name, **how)
    origin = "backtranslate" if len(names) > 1 else "paraphrase"
    by = tuple(Way(origin, (settings.prompt,) * len(names), draw) for draw in range(settings.n_par))
    return seq2seq([models(one, AutoModelForSeq2SeqLM) for one in names], by, name=" ".join(names), **how)


def detector_of(
    name: str, rewriter: str | Rewriter, server: RewritingServer | None, settings: RewriteSettings, models: ModelsByName
) -> tuple[PairScorer | None, str]:
    """The detector, and of `auto` why it is the fall-back."""
    kind, _, model = name.partition(":")
    given: dict[str, Any] = {} if settings.threshold is None else {"threshold": settings.threshold}
    if name == "none":
        return None, ""
    if name == "auto":
        return _by_language_model(rewriter, server, models, given)
    if name == "embedding":
        return detectors.words_and_cosines(**given), ""
    if kind == "nli" and model:
        return detectors.nli(*models(model, AutoModelForSequenceClassification), model, **given), ""
    if kind == "lm" and model and server and model not in BUILTIN and not Path(model).expanduser().exists():
        return detectors.by_server(server.model(model, batch=settings.batch), **given), ""
    if kind == "lm" and model:
        return detectors.yes_or_no(*models(model, AutoModelForCausalLM), model, **given), ""
    raise CleanEvalError(f"--detector: {name!r} is none; there are auto, embedding, nli:MODEL, lm:MODEL and none")


def _by_language_model(
    rewriter: str | Rewriter, server: RewritingServer | None, models: ModelsByName, given: dict[str, Any]
) -> tuple[PairScorer, str]:
    """The language model that rewrites, where it can tell whether texts mean the same; else the embedding, and why."""
    why = "the fall-back, for no language model rewrites: name one by --detector lm:MODEL"
    if isinstance(rewriter, str) and rewriter != "rules" and "," not in rewriter:
        found = None
        if server:
            found = detectors.by_server(server.model(rewriter), **given)
        elif not loading.load_config(rewriter).is_encoder_decoder:
            found = detectors.yes_or_no(*models(rewriter, AutoModelForCausalLM), rewriter, **given)
        if found is not None:
            correct = detectors.num_correct(found)
            if correct >= detectors.ENOUGH:
                return found, ""
            why = (
                f"the fall-back, for {rewriter} judges {correct} of {len(detectors.TRIED)} plain examples rightly: "
                "name another by --detector lm:MODEL"
            )
    return detectors.words_and_cosines(**given), why


def scorer_of(name: str) -> PairScorer:
    kind, _, folder = name.partition(":")
    if name == "chrf":
        return similarity.chrf()
    if name == "embedding":
        return similarity.cosines()
    if kind == "bleurt" and folder:
        return bleurt.bleurt(folder)
    raise CleanEvalError(f"--scorer: {name!r} is none; there are chrf, embedding and bleurt:FOLDER")


def reporters(scorer: PairScorer) -> list[PairScorer]:
    """The scorer, and what else can be measured on this machine."""
    found = {scorer.name: scorer}
    for make in (similarity.chrf, similarity.bleu, similarity.cosines):
        try:
            one = make()
        except (CleanEvalError, MissingEmbedding):
            continue
        found.setdefault(one.name, one)
    return list(found.values())
