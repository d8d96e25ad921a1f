"""Find a model by builtin name, local folder or hub id."""

import itertools
import logging
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForTokenClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils.hub import cached_file

from trimtab.models import checks, folder
from trimtab.models.adapter_models import embedding_rows, holds_score_head, own_tensors, weights_of, with_adapter
from trimtab.models.builtin import ModelNotFound
from trimtab.models.limits import Limits, of_config
from trimtab.models.places import adapter_at, not_given, place_of
from trimtab.models.quantised import keep_place, packing
from trimtab.models.scalar_head import with_scalar_head
from trimtab.models.spread import spread
from trimtab.models.tokenizers import check_same_tokens

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def locate(name: str) -> str:
    """The folder of `name`, or its name on the hub without a revision."""
    return place_of(name).path


def base_of(name: str, seen: tuple[str, ...] = ()) -> str:
    """The name of the whole model, or of the base model of an adapter.

    Raises:
        ModelNotFound: if adapters name each other.
    """
    adapter = adapter_at(place_of(name), name)
    if adapter is None:
        return name
    if name in seen:
        raise ModelNotFound(f"the adapters {' and '.join(seen)} name each other as their base model")
    return base_of(adapter.base, (*seen, name))


def fetch(what: Any, name: str, fault: Callable[[Path], str | None], **kwargs: Any) -> Any:
    """`what.from_pretrained`, with a one-line error: the loaders of weights, tokenizers, quantised layers and a model's
    own code raise errors of many unrelated types. `fault` finds what is wrong with a folder's files."""
    where = place_of(name)
    place = where.path
    # its log repeats each failed request, of which the last becomes the message below
    if (hub := logging.getLogger("huggingface_hub")).level != logging.ERROR:  # setting it asks all loggers anew
        hub.setLevel(logging.ERROR)
    try:
        return what.from_pretrained(place, **where.arguments(), **kwargs)
    except Exception as error:
        if isinstance(error, ImportError):  # a model's own code, or that of its quantised layers
            raise ModelNotFound(f"the model {name} needs a package that is not installed: {_all(error)}") from error
        reason = _first_line(error)
        if Path(place).is_dir():
            found = fault(Path(place)) or reason
            raise ModelNotFound(f"the model folder {name} could not be loaded: {found}") from error
        raise not_given(name, reason) from error


def _first_line(error: Exception) -> str:
    """The first line of a message; after a colon also the next one, or all that are numbered."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    following = list(itertools.takewhile(lambda line: re.match(r"\(?\d+[.)]|[-*] ", line), lines[1:])) or lines[1:2]
    lines = [lines[0], *following] if lines[0].endswith(":") else lines[:1]
    return " ".join([*([type(error).__name__] if isinstance(error, KeyError) else []), *lines])


def _all(error: Exception) -> str:
    """The message in one line: how to install a package is often in its second line."""
    return " ".join(str(error).split())[:300]


def load_tokenizer(name: str, *, trust_remote_code: bool = False, resize: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a model, with a padding token: the end token if it has none, or one outside the embedding.
    Padding is masked, so nothing depends on which token it is.

    Args:
        resize: the embedding gets a row for each token, so that the padding token stays.
    """
    tokenizer = fetch(AutoTokenizer, _with_tokenizer(name), folder.tokenizer_fault, trust_remote_code=trust_remote_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is not None and not resize:
        _pad_within(tokenizer, load_config(name, trust_remote_code=trust_remote_code))
    return tokenizer


def _with_tokenizer(name: str) -> str:
    """`name`, or the base model of an adapter without a tokenizer."""
    place = place_of(name)
    adapter = adapter_at(place, name)
    if adapter is None:
        return name
    local = Path(place.path)
    if local.is_dir():
        has = any((local / file).is_file() for file in folder.TOKENIZER_FILES)
    else:
        has = cached_file(
            place.path, "tokenizer_config.json", **place.arguments(), _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False, _raise_exceptions_for_gated_repo=False,
        ) is not None  # fmt: skip
    return name if has else _with_tokenizer(adapter.base)


def _pad_within(tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
    """Another padding token where the embedding has no row for it."""
    vocab = getattr(config.get_text_config(decoder=True), "vocab_size", None)
    if vocab is None or int(tokenizer.pad_token_id) < vocab:  # type: ignore[arg-type]
        return
    special = [tokenizer.eos_token_id, *tokenizer.all_special_ids]
    within = next((token for token in special if isinstance(token, int) and token < vocab), None)
    if within is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(within)


def load_config(name: str, *, trust_remote_code: bool = False) -> Any:
    """The config of a model, or of an adapter's base model, without weights."""
    config = fetch(AutoConfig, base_of(name), folder.config_fault, trust_remote_code=trust_remote_code)
    if rows := _stored_rows(name):
        text = config.get_text_config(decoder=True)
        text.vocab_size = max(text.vocab_size, rows)  # as `with_adapter` grows it
    return config


def _stored_rows(name: str) -> int:
    """Rows of the embedding that an adapter or its base stores whole; 0 for none."""
    adapter = adapter_at(place_of(name), name)
    if adapter is None:
        return 0
    return max(embedding_rows(adapter), _stored_rows(adapter.base))


def limits(name: str, *, trust_remote_code: bool = False) -> Limits:
    """What a causal language model can read, without its weights."""
    config = load_config(name, trust_remote_code=trust_remote_code)
    try:
        return of_config(config, trust_remote_code=trust_remote_code)
    except Exception as error:  # of the model's own class, which loading its weights would raise too
        raise ModelNotFound(f"the model {name} could not be built: {_first_line(error)}") from error


def check_vocabulary(
    tokenizer: PreTrainedTokenizerBase, vocab: int, name: str, role: str, *, trust_remote_code: bool = False
) -> tuple[int, str | None]:
    """Rows of the head of the model `name`, and the note of `check_same_tokens`, without loading its weights.

    Args:
        tokenizer, vocab: of the policy; rows of its head, or fewer.
        role: of the other model, for messages.
    """
    other = load_tokenizer(name, trust_remote_code=trust_remote_code)
    size = load_config(name, trust_remote_code=trust_remote_code).get_text_config().vocab_size
    return size, check_same_tokens(tokenizer, other, vocab, size, role)


def device() -> str:
    """The device for inference: the GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def load_model(
    name: str,
    *,
    dtype: str = "float32",
    trust_remote_code: bool = False,
    kind: Any = AutoModelForCausalLM,
    needs_head: bool = True,
    device_map: str | dict[str, Any] | None = None,
    bits: int | None = None,
) -> PreTrainedModel:
    """A model in eval mode, a causal language model unless `kind` is another auto class, from safetensors only.

    Args:
        dtype: a name, or "auto" for the checkpoint's own.
        needs_head: False if the output head is not used, so that it may be missing.
        device_map: as in transformers; None leaves all on the CPU.
        bits: 4 or 8 for weights that bitsandbytes packs while they are loaded.

    Raises:
        ModelNotFound: if it does not exist or cannot be loaded.
        BrokenModel: if the weights do not match the config.
    """
    how: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code, "kind": kind, "bits": bits}
    adapter = adapter_at(place_of(name), name)
    packed = bits is not None or (adapter is not None and _stored_packed(name, trust_remote_code))
    late = adapter is not None and device_map is not None and not packed
    how["device_map"] = None if late else device_map
    if adapter is None:
        return _load_whole(name, needs_head=needs_head, **how)
    base_of(name)  # refuses a circle
    weights = weights_of(adapter)
    supplied = own_tensors(weights)

    def base() -> PreTrainedModel:
        scores = kind is AutoModelForTokenClassification and holds_score_head(weights)
        if scores and not _gives_scores(adapter.base, trust_remote_code):
            below = load_model(adapter.base, needs_head=False, **{**how, "kind": AutoModelForCausalLM})
            return with_scalar_head(below, seed=0)  # the adapter's own head replaces it
        if adapter_at(place_of(adapter.base), adapter.base) is not None:
            return load_model(adapter.base, needs_head=needs_head, **how)
        return _load_whole(adapter.base, needs_head=needs_head, supplied=supplied, **how)

    model = with_adapter(base, adapter, weights).eval()
    if late and device_map is not None:  # the adapter must reach weights that would then lie elsewhere
        keep_place(spread(model, device_map))
    return model


def _stored_packed(name: str, trust_remote_code: bool) -> bool:
    """Whether a model is stored quantised, so that its loader places it."""
    config = load_config(name, trust_remote_code=trust_remote_code)
    return any(getattr(one, "quantization_config", None) for one in (config, config.get_text_config(decoder=True)))


def _gives_scores(name: str, trust_remote_code: bool) -> bool:
    """Whether a model, or an adapter with its base, has a scalar head."""
    adapter = adapter_at(place_of(name), name)
    if adapter is not None:
        return holds_score_head(weights_of(adapter)) or _gives_scores(adapter.base, trust_remote_code)
    config = load_config(name, trust_remote_code=trust_remote_code)
    return any("TokenClassification" in kind for kind in getattr(config, "architectures", None) or ())


def _load_whole(
    name: str,
    *,
    dtype: str,
    trust_remote_code: bool,
    kind: Any,
    needs_head: bool,
    device_map: str | dict[str, Any] | None = None,
    bits: int | None = None,
    supplied: Collection[str] = (),
) -> PreTrainedModel:
    """As `load_model`, without adapters; tensors named in `supplied` come from elsewhere."""
    model, info = fetch(
        kind,
        name,
        folder.weights_fault,
        dtype=DTYPES.get(dtype, dtype),
        **({} if device_map is None else {"device_map": device_map}),
        **({} if bits is None else {"quantization_config": packing(bits, dtype)}),
        trust_remote_code=trust_remote_code,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # `check_tensors` refuses them by name
        output_loading_info=True,
    )
    found = checks.check_tensors(model, info, name, needs_head=needs_head, supplied=supplied)
    model._trimtab_notes = found  # type: ignore[assignment]
    for note in found:
        checks.LOGGER.warning(note)
    keep_place(model)
    return model.eval()


def cast(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """The model as if loaded in that dtype, in place: tables that are not stored, such as rotary frequencies, keep
    theirs."""
    stored = set(model.state_dict())
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        if value.is_floating_point() and (name in stored or isinstance(value, torch.nn.Parameter)):
            value.data = value.data.to(DTYPES[dtype])
    return model


def notes(model: Any) -> list[str]:
    """Notes for the user from when a model was loaded."""
    return list(getattr(model, "_trimtab_notes", ()))
