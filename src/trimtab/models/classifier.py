"""Classifiers: transformers' sequence classification models, and what they say at points between no embeddings and
those of a text."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from trimtab.common.errors import UserError
from trimtab.core import EmbeddingPath, Labels
from trimtab.models import folder, loading
from trimtab.models.adapter_models import holds_score_head, weights_of, with_adapter
from trimtab.models.checks import BrokenModel
from trimtab.models.folder import shown
from trimtab.models.places import adapter_at, place_of
from trimtab.models.probing import eval_mode
from trimtab.models.student import find_layers
from trimtab.objectives.attribution import points_on_path

READ = ("input_ids", "attention_mask", "token_type_ids")
"""what a classifier takes of a batch, where it is there"""


class ClassifierError(UserError):
    """A model that is not a classifier of the kind that is needed."""


def stored_labels(name: str, *, trust_remote_code: bool = False) -> Labels | None:
    """The labels of a trained classifier by its config; None if the model has no head for a task yet.

    An adapter's labels stand in a config.json beside it, as a run leaves it, else in its base model's.
    """
    place = place_of(name)
    if adapter_at(place, name) is not None and (Path(place.path) / "config.json").is_file():
        config = loading.fetch(AutoConfig, name, folder.config_fault, trust_remote_code=trust_remote_code)
    else:
        config = loading.load_config(name, trust_remote_code=trust_remote_code)
    if not any("ForSequenceClassification" in kind for kind in getattr(config, "architectures", None) or ()):
        return None
    if config.problem_type == "multi_label_classification":
        raise ClassifierError(f"the model {name} gives several labels to one text, which is not built; use another")
    if config.problem_type == "regression" or config.num_labels == 1:
        return Labels()
    return Labels(tuple(str(config.id2label[number]) for number in range(config.num_labels)))


def load_classifier(
    name: str, labels: Labels, *, dtype: str = "float32", trust_remote_code: bool = False, seed: int = 0
) -> PreTrainedModel:
    """A classifier in eval mode; a model without a head for a task gets one, drawn with `seed`. Adapters are merged.

    Raises:
        ClassifierError: for a model of which transformers has no classifier, or an adapter without a head.
        BrokenModel: if its weights do not match its config.
    """
    how: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    adapter = adapter_at(place_of(name), name)
    if adapter is None:
        return _load_whole(name, labels, seed=seed, **how)
    weights = weights_of(adapter)
    if stored_labels(adapter.base, trust_remote_code=trust_remote_code) is None and not holds_score_head(weights):
        raise ClassifierError(
            f"the adapter {name} holds no head for a task, nor does its base model {adapter.base}; use its merged model"
        )
    return with_adapter(lambda: load_classifier(adapter.base, labels, seed=seed, **how), adapter, weights).eval()


def _load_whole(name: str, labels: Labels, *, dtype: str, trust_remote_code: bool, seed: int) -> PreTrainedModel:
    trained = stored_labels(name, trust_remote_code=trust_remote_code) is not None
    config = loading.load_config(name, trust_remote_code=trust_remote_code)
    if type(config) not in AutoModelForSequenceClassification._model_mapping and not trust_remote_code:
        raise ClassifierError(f"the model {name}: transformers has no classifier of type {config.model_type}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, info = loading.fetch(
            AutoModelForSequenceClassification,
            name,
            folder.weights_fault,
            dtype=loading.DTYPES.get(dtype, dtype),
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **({} if trained else settings_of(labels)),
        )
    _check_weights(model, info, name, trained)
    return model.eval()


def head_parts(model: PreTrainedModel) -> list[str]:
    """The parts outside a classifier's layers that its answer goes through, by their own names: BERT's pooler and
    classifier, a decoder's score."""
    inside = [name for name, _ in model.base_model.named_children() if "pooler" in name]
    outside = [name for name, part in model.named_children() if part is not model.base_model]
    return [name for name in (*inside, *outside) if _has_weights(model, name)]


def _has_weights(model: PreTrainedModel, name: str) -> bool:
    part = getattr(model, name, None) or getattr(model.base_model, name)
    return next(part.parameters(), None) is not None


@torch.no_grad()
def answers_of(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """[R, C] float32 logits of a batch, in eval mode."""
    with eval_mode(model):
        return read_path(model, batch, 0).answers.cpu()


def settings_of(labels: Labels) -> dict[str, Any]:
    """The labels as transformers' configs name them."""
    problem = "regression" if labels.regression else "single_label_classification"
    names = dict(enumerate(labels.names or ("LABEL_0",)))
    return {"problem_type": problem, "id2label": names, "label2id": {name: i for i, name in names.items()}}


def _check_weights(model: PreTrainedModel, info: Mapping[str, Any], name: str, trained: bool) -> None:
    """Refuse weights of another shape, and missing ones besides those of a new head."""
    what, base = f"the model {name}", f"{model.base_model_prefix}."
    if mismatched := sorted(info["mismatched_keys"]):
        raise BrokenModel(f"{what}: {mismatched[0][0]} has another shape than its config says; fix config.json")
    missing = sorted(info["missing_keys"])
    new = [] if trained else [key for key in missing if not key.startswith(base) or ".pooler." in key]
    if lacking := [key for key in missing if key not in new]:
        raise BrokenModel(
            f"{what} lacks {len(lacking)} tensor{'s' * (len(lacking) > 1)} that its config asks for: {shown(lacking)}; "
            "they would be initialised randomly. Use the complete folder, or fix config.json"
        )
    inside = [key for key in sorted(info["unexpected_keys"]) if key.startswith(base) and ".pooler." not in key]
    if inside:
        raise BrokenModel(
            f"{what} has {len(inside)} tensor{'s' * (len(inside) > 1)} that its config does not ask for: "
            f"{shown(inside)}; fix config.json, or remove them from the weights"
        )
    model._trimtab_notes = [f"{what}: new weights for the task: {shown(new)}"] if new else []  # type: ignore[assignment]
    for note in loading.notes(model):
        logging.getLogger("trimtab").info(note)


def is_causal(model: PreTrainedModel) -> bool:
    """Whether it is a decoder that reads its answer at a text's last token: transformers calls such a head `score`."""
    return hasattr(model, "score") and not model.config.is_encoder_decoder


def pad_alike(models: Sequence[PreTrainedModel], tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that texts are padded with, on the right; decoders, which find a text's end by it, are told.

    A folder that is saved with `tokenizer` pads in the same way wherever it is loaded.

    Raises:
        ClassifierError: if the tokenizer has no token to pad with, and one of the models is a decoder.
    """
    causal = [model for model in models if is_causal(model)]
    if not causal:
        return int(tokenizer.pad_token_id or 0)  # type: ignore[arg-type]
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ClassifierError(
            f"the tokenizer of {type(causal[0]).__name__} has no token to pad texts with (pad, end or unknown), and a "
            "decoder finds a text's last token by it; give it a pad_token"
        )
    tokenizer.padding_side = "right"
    if "token_type_ids" in tokenizer.model_input_names:  # GPT-2 would add words' embeddings for them
        tokenizer.model_input_names = [one for one in tokenizer.model_input_names if one != "token_type_ids"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    for model in causal:
        for config in (model.config, model.config.get_text_config()):
            config.pad_token_id = tokenizer.pad_token_id
    return int(tokenizer.pad_token_id)  # type: ignore[arg-type]


def embeddings_block(model: PreTrainedModel) -> nn.Module:
    """The module whose output is a text's embeddings.

    Of an encoder: words, positions and all, behind layer norm and dropout: the part of the base model, beside the
    layers, that holds the lookup of words and a norm. Of a decoder: the lookup of words itself.

    Raises:
        ClassifierError: for a model without such a block.
    """
    words = model.get_input_embeddings()
    if is_causal(model):
        return words
    _, layers = find_layers(model, model.config.get_text_config().num_hidden_layers)
    for part in model.base_model.children():
        inside = set(part.modules())
        norms = [one for one in inside if "norm" in type(one).__name__.lower()]
        if words in inside and part is not words and layers not in inside and norms:
            return part
    raise ClassifierError(
        f"{type(model).__name__} ({model.config.model_type}) has no block of embeddings with a layer norm beside its "
        "layers, so its input is not attributed; known to work: BERT, RoBERTa, DistilBERT, ELECTRA, DeBERTa, and "
        "decoders such as Llama, Qwen and GPT-2"
    )


def read_path(model: Any, inputs: Mapping[str, Tensor], steps: int, *, constant: bool = False) -> EmbeddingPath:
    """What a classifier says at `steps` points of the way to the embeddings of a batch, in one forward.

    The last point are the embeddings themselves. Points share one draw of the embeddings' dropout.

    Args:
        model: may be wrapped.
        inputs: `input_ids`, `attention_mask` [R, S], and `token_type_ids` where the tokenizer gives them.
        steps: 0 to attribute nothing: an ordinary forward.
        constant: its weights are frozen, so that a graph is built from the embeddings on.
    """
    causal = is_causal(plain(model))
    read = {key: inputs[key] for key in READ if key in inputs and not (causal and key == "token_type_ids")}
    how = {"use_cache": False} if causal else {}
    if steps == 0:
        return EmbeddingPath(model(**read, **how).logits.float()[None])
    rows, found = len(read["input_ids"]), {}

    def scale(module: nn.Module, args: Any, output: Any) -> Tensor:
        if not isinstance(output, Tensor) or output.dim() != 3:
            raise ClassifierError(
                f"{type(module).__name__} gives no tensor of embeddings, so nothing can be attributed"
            )
        found["embedded"] = output[-rows:].detach() if constant else output[-rows:]
        found["points"] = points_on_path(found["embedded"], steps)
        if not found["points"].requires_grad:  # the weights before them are frozen, as beside an adapter
            found["points"].requires_grad_()
        return found["points"]

    handle = embeddings_block(plain(model)).register_forward_hook(scale)
    try:
        logits = model(**{key: value.repeat(steps, 1) for key, value in read.items()}, **how).logits.float()
    finally:
        handle.remove()
    return EmbeddingPath(logits.unflatten(0, (steps, rows)), found["points"], found["embedded"])


def plain(model: Any) -> PreTrainedModel:
    """The model inside wrappers of several processes, and of adapters."""
    if hasattr(model, "get_base_model"):
        return model.get_base_model()
    return plain(model.module) if hasattr(model, "module") and not isinstance(model, PreTrainedModel) else model


def twice_differentiable(model: PreTrainedModel) -> PreTrainedModel:
    """Attention whose gradient has a gradient: fused kernels have none."""
    model.set_attn_implementation("eager")
    return model
