"""A model with an adapter from a folder, merged in memory."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel
from transformers.utils.hub import cached_file

from trimtab.models.adapter_merging import merged
from trimtab.models.adapters import describe_repeated, num_layers
from trimtab.models.checks import BrokenModel
from trimtab.models.folder import shown
from trimtab.models.places import Adapter
from trimtab.models.quantised import is_quantised

_PREFIX = "base_model.model."
FILE = "adapter_model.safetensors"
UNFAITHFUL = ("pissa_niter_", "corda", "eva", "loftq", "lora_ga")
"""initialisations that may have changed the base weights in a way that the adapter does not store"""


def weights_of(adapter: Adapter) -> dict[str, Tensor]:
    """The tensors of an adapter, from safetensors."""
    from peft.utils.save_and_load import load_peft_weights

    folder = Path(adapter.place.path)
    if folder.is_dir() and not (folder / FILE).is_file():
        raise BrokenModel(f"the adapter {folder} has no {FILE}; only safetensors are read")
    try:
        return load_peft_weights(adapter.place.path, device="cpu", use_safetensors=True, **adapter.place.arguments())
    except Exception as error:  # of the hub, of torn files, of pickles
        raise BrokenModel(f"the adapter {adapter.place.named()} could not be read: {_line(error)}") from error


def own_tensors(weights: dict[str, Tensor]) -> set[str]:
    """Names of the model's own tensors that an adapter stores whole, such as a head trained with it."""
    return {name.removeprefix(_PREFIX) for name in weights if ".lora_" not in name}


def embedding_rows(adapter: Adapter) -> int:
    """Rows of the token embedding that an adapter stores whole, without loading it; 0 for none."""
    place = adapter.place
    path = Path(place.path) / FILE
    if not Path(place.path).is_dir():
        found = cached_file(place.path, FILE, **place.arguments(), _raise_exceptions_for_missing_entries=False)
        path = Path(found or FILE)
    if not path.is_file():
        return 0
    try:
        with safe_open(path, "pt") as file:
            names = [name for name in file.keys() if EMBEDDING.search(name)]  # noqa: SIM118
            return max((file.get_slice(name).get_shape()[0] for name in names), default=0)
    except SafetensorError as error:
        raise BrokenModel(f"the adapter {place.named()} could not be read: {_line(error)}") from error


EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|tokens_embed|embedding\w*)\.weight$"
)
"""names of token embeddings"""


def holds_score_head(weights: dict[str, Tensor]) -> bool:
    """Whether an adapter was trained with a scalar head instead of the language model's."""
    return any(re.search(r"(^|\.)(score|classifier)\.(weight|bias)$", name) for name in own_tensors(weights))


def with_adapter(base: Callable[[], PreTrainedModel], adapter: Adapter, weights: dict[str, Tensor]) -> PreTrainedModel:
    """The base model, loaded by `base`, with the adapter merged; on quantised weights it stays unmerged.

    Raises:
        BrokenModel: if the adapter does not fit, or is of a kind that cannot be merged.
    """
    from peft import PeftModel, get_peft_model_state_dict

    name = adapter.place.named()
    init = adapter.settings.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(UNFAITHFUL):
        raise BrokenModel(
            f"the adapter {name} was initialised with init_lora_weights={init} and saved without what that removed "
            "from the model's own weights, which cannot be recovered; save it converted, as PEFT's "
            "path_initial_model_for_weight_conversion does, or merged"
        )
    model = base()
    _grow(model, weights)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # missing keys are checked below
            layers = num_layers(model)
            policy = PeftModel.from_pretrained(model, adapter.place.path, **adapter.place.arguments())
            describe_repeated(policy, layers)
    except Exception as error:  # of shapes, settings, missing layers, unknown kinds
        raise BrokenModel(f"the adapter {name} does not fit {adapter.base}: {_line(error)}") from error
    expected = set(get_peft_model_state_dict(policy))
    if missing := sorted(expected - set(weights)):
        raise BrokenModel(f"the adapter {name} lacks {len(missing)} of its tensors: {shown(missing)}; copy it again")
    if over := sorted(set(weights) - expected - {f"{_PREFIX}{own}" for own in dict(model.named_parameters())}):
        raise BrokenModel(
            f"the adapter {name} holds {len(over)} tensors for which {adapter.base} has no place: {shown(over)}"
        )
    if is_quantised(model):
        return model  # its layers hold the adapter
    if not hasattr(policy.base_model, "merge_and_unload"):
        kind = adapter.settings.get("peft_type")
        raise BrokenModel(f"the adapter {name} is of kind {kind}, which cannot be merged into a model")
    try:
        return merged(policy).requires_grad_(True)  # PEFT has frozen what it wrapped
    except Exception as error:
        raise BrokenModel(f"the adapter {name} cannot be merged: {_line(error)}") from error


def _grow(model: PreTrainedModel, weights: dict[str, Tensor]) -> None:
    """Resize the embedding to the rows that the adapter stores."""
    embedding = model.get_input_embeddings()
    name = next((n for n, module in model.named_modules() if module is embedding), None)
    stored = weights.get(f"{_PREFIX}{name}.weight", weights.get(f"{_PREFIX}{name}.base_layer.weight"))
    if stored is not None and stored.shape[0] > embedding.num_embeddings:  # type: ignore[operator]
        head = next((n for n, module in model.named_modules() if module is model.get_output_embeddings()), None)
        tied = head is None or model.get_parameter(f"{head}.weight") is embedding.weight
        if not tied and not any(key.startswith(f"{_PREFIX}{head}.") for key in weights):
            more = stored.shape[0] - embedding.num_embeddings  # type: ignore[operator]
            raise BrokenModel(
                f"the adapter adds {more} rows to the embedding but none to the head ({head}), which would be "
                f"initialised randomly; save it with modules_to_save: [{head}]"
            )
        model.resize_token_embeddings(stored.shape[0], mean_resizing=False)  # the adapter's own rows replace them


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
