"""Weights from a safetensors file on a disk that trainer and server share (/dev/shm): neither NCCL nor a GPU."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import safe_open
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload

from trimtab_vllm.weights_folder import check_model, check_same, file_in, weights_folder


@dataclass
class FileInitInfo(WeightTransferInitInfo):
    folder: str
    """where the trainer writes; must be the server's own folder"""
    model: dict[str, Any] = field(default_factory=dict)
    """of the trainer's config: values that the server's must have too, by name"""


@dataclass
class FileUpdateInfo(WeightTransferUpdateInfo):
    name: str
    """of the file in that folder; it holds every tensor of the model, under the names of its checkpoint"""


class FileWeightTransfer(WeightTransferEngine[FileInitInfo, FileUpdateInfo]):
    """Every worker reads the whole file and takes its part, as it does when a model is loaded.

    A file that cannot be read is refused before anything is touched. One that does not fit the model leaves the worker
    with some of its weights, until the next update succeeds.
    """

    init_info_cls = FileInitInfo
    update_info_cls = FileUpdateInfo
    supports_draft_weight_update = False
    folder: Path | None = None
    loaded = False
    """something was loaded since `start_weight_update`"""

    def init_transfer_engine(self, init_info: FileInitInfo) -> None:
        folder = weights_folder()
        check_same(folder, init_info.folder)
        check_model(init_info.model, self.model_config.hf_text_config)
        self.folder = folder

    def start_weight_update(self) -> None:
        if self.folder is None:
            raise RuntimeError("init_weight_transfer_engine comes before the first update of weights")
        self.loaded = False

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))  # nothing is asynchronous, so there is no wait

    def receive_weights(self, update_info: FileUpdateInfo) -> None:
        assert self.folder is not None
        with safe_open(file_in(self.folder, update_info.name), framework="pt") as file:
            names = list(file.keys())
            initialize_layerwise_reload(self.model)
            self.loaded = True
            self.model.load_weights((name, file.get_tensor(name)) for name in names)

    def finish_weight_update(self) -> None:
        if not self.loaded:
            raise RuntimeError("no weights came since the update was started")
        finalize_layerwise_reload(self.model, self.model_config)
        self.loaded = False

    def shutdown(self) -> None:
        self.folder = None
