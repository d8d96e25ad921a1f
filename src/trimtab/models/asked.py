"""Loading a model for inference as a command asks for it: dtype, devices and adapter."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from transformers import AutoModelForCausalLM, PreTrainedModel

from trimtab.common.errors import UserError
from trimtab.models import loading
from trimtab.models.builtin import ModelNotFound
from trimtab.models.places import ADAPTER, OnModel, adapter_at, place_of

Dtype = Literal["auto", "float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class How:
    """How to load a model, besides its name."""

    dtype: Dtype = "auto"
    """auto: as the checkpoint was saved"""
    device_map: Literal["auto"] | None = None
    """auto: spread over all devices; None: on the first GPU, or on the CPU"""

    def check_server(self, name: str, mistake: type[UserError]) -> None:
        """Refuse what says how to load a model, where a server has loaded its own.

        Raises:
            mistake: naming the options.
        """
        found = ["--adapter"] if isinstance(name, OnModel) else []
        found += ["--dtype"] if self.dtype != "auto" else []
        found += ["--device-map"] if self.device_map else []
        if found:
            raise mistake(f"{' and '.join(found)}: only for a model that is loaded here, but --endpoint names a server")


def with_adapter(model: str, adapter: str | None) -> str:
    """The name by which a model with this adapter is loaded, its tokenizer and its config too.

    Raises:
        ModelNotFound: if no adapter lies there.
    """
    if adapter is None:
        return model
    try:
        found = adapter_at(place_of(adapter), OnModel(adapter, model))
    except ModelNotFound as error:
        local = Path(adapter).expanduser()
        said = f"the folder {adapter} has no {ADAPTER}" if local.is_dir() else str(error)
        raise ModelNotFound(f"--adapter: {said}") from error
    if found is None:
        raise ModelNotFound(f"--adapter: {adapter} is not a PEFT adapter: it has no {ADAPTER}")
    return OnModel(adapter, model)


def load_asked(name: str, how: How | None = None, kind: Any = AutoModelForCausalLM) -> PreTrainedModel:
    """A model in eval mode for inference, on the device where it is to run.

    Args:
        name: see `with_adapter`.

    Raises:
        ModelNotFound, BrokenModel: see `loading.load_model`.
    """
    how = how or How()
    model = loading.load_model(name, dtype=how.dtype, device_map=how.device_map, kind=kind)
    return model.to(loading.device())  # type: ignore[arg-type]
