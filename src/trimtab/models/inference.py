"""Loading a model for inference with a dtype, devices and an adapter."""

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
class LoadOptions:
    dtype: Dtype = "auto"
    """auto: as the checkpoint was saved"""
    device_map: Literal["auto"] | None = None
    """auto: spread over all devices; None: on the first GPU, or on the CPU"""

    def check_server(self, name: str, mistake: type[UserError]) -> None:
        """Raise `mistake` for options of loading that are given with a server's model."""
        found = ["--adapter"] if isinstance(name, OnModel) else []
        found += ["--dtype"] if self.dtype != "auto" else []
        found += ["--device-map"] if self.device_map else []
        if found:
            raise mistake(f"{' and '.join(found)}: only for a model that is loaded here, but --endpoint names a server")


def with_adapter(model: str, adapter: str | None) -> str:
    """The name by which a model with this adapter, its tokenizer and its config are loaded."""
    if adapter is None:
        return model
    try:
        found = adapter_at(place_of(adapter), OnModel(adapter, model))
    except ModelNotFound as error:
        local = Path(adapter).expanduser()
        reason = f"the folder {adapter} has no {ADAPTER}" if local.is_dir() else str(error)
        raise ModelNotFound(f"--adapter: {reason}") from error
    if found is None:
        raise ModelNotFound(f"--adapter: {adapter} is not a PEFT adapter: it has no {ADAPTER}")
    return OnModel(adapter, model)


def load_for_inference(name: str, how: LoadOptions | None = None, kind: Any = AutoModelForCausalLM) -> PreTrainedModel:
    """A model in eval mode, on the device where it runs; for `name` see `with_adapter`."""
    how = how or LoadOptions()
    model = loading.load_model(name, dtype=how.dtype, device_map=how.device_map, kind=kind)
    return model.to(loading.device())  # type: ignore[arg-type]
