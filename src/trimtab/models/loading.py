"""Find a model by builtin name, local folder or hub id."""

import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from trimtab.mistakes import nearest
from trimtab.models.builtin import BUILTIN, ModelNotFound, builtin_folder
from trimtab.models.tokenizers import check_same_tokens

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def locate(name: str) -> str:
    """What `from_pretrained` is given for `name`.

    Raises:
        ModelNotFound: if `name` looks like a folder that is not there.
    """
    if name in BUILTIN:
        return str(builtin_folder(name))
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelNotFound(f"the folder {name} holds no config.json, so it is no Hugging Face model")
        return str(path)
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise ModelNotFound(f"there is no folder {name}")
    return name


def _fetch(what: Any, name: str, **kwargs: Any) -> Any:
    """Call a `from_pretrained`, with one clear line where the hub or the cache does not have the model."""
    place = locate(name)
    # it repeats each failed request in the log, and the last failure becomes the message below
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    try:
        return what.from_pretrained(place, **kwargs)
    except (OSError, ValueError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if Path(place).is_dir():
            raise ModelNotFound(f"the model folder {name} could not be loaded: {reason}") from error
        meant = nearest(name, BUILTIN, "")
        raise ModelNotFound(
            f"could not load the model {name!r}: it is no builtin ({', '.join(BUILTIN)}), no local folder, and the hub "
            f"did not give it ({reason}){meant and '; ' + meant}"
        ) from error


def load_tokenizer(name: str, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a padding token (the end token where it has none of its own)."""
    tokenizer = _fetch(AutoTokenizer, name, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """The config of a model, without its weights."""
    return _fetch(AutoConfig, name, trust_remote_code=trust_remote_code)


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, vocab: int, name: str, role: str, *, trust_remote_code: bool = False
) -> tuple[int, str | None]:
    """Rows of the head of the model `name`, and what `check_same_tokens` says of it, without loading its weights.

    Args:
        tokenizer: of the policy.
        vocab: rows of the policy's head, or fewer.
        name: of the other model.
        role: what it is, for messages.

    Raises:
        ModelNotFound: if it is not there.
        TokenizerMismatch: if its ids mean other tokens.
    """
    other = load_tokenizer(name, trust_remote_code=trust_remote_code)
    size = load_config(name, trust_remote_code=trust_remote_code).get_text_config().vocab_size
    return size, check_same_tokens(tokenizer, other, vocab, size, role)


def device() -> str:
    """Where a model that is only asked goes: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(
    name: str, *, dtype: str = "float32", trust_remote_code: bool = False, kind: Any = AutoModelForCausalLM
) -> PreTrainedModel:
    """A model in eval mode, a causal language model unless `kind` is another auto class. Weights are read from
    safetensors only.

    Raises:
        ModelNotFound: with what was looked for.
    """
    model = _fetch(
        kind,
        name,
        dtype=DTYPES[dtype],
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
    )
    return model.eval()
