"""BLEURT, from a folder of its weights."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import nn

from trimtab.common import fingerprint
from trimtab.rewriting.detectors import classified
from trimtab.rewriting.questions import CleanEvalError, Pair, PairScorer


def bleurt(folder: str | Path) -> PairScorer:
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
    convert = "; save its pytorch_model.bin as model.safetensors" if (folder / "pytorch_model.bin").exists() else ""
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise CleanEvalError(f"{folder} holds no {name}, so it is no BLEURT checkpoint that can be read{convert}")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise CleanEvalError(f"{folder}/config.json is not valid JSON: {error}") from error
    model = _bleurt_model(folder, config).eval()
    tokenizer = _bleurt_tokenizer(folder)

    def scores(pairs: Sequence[Pair]) -> list[float]:
        return classified(model, tokenizer, pairs, return_token_type_ids=True)[:, 0].tolist()

    return PairScorer(f"BLEURT {folder.name} {fingerprint.of_model(model)}", scores)


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
