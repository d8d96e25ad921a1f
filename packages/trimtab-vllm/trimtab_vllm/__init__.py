"""Plugins for vLLM, which loads them in each of its processes through the entry point `vllm.general_plugins`."""

FILE_WEIGHTS = "file"
"""the backend of `--weight-transfer-config` under which weights come from files"""


def register() -> None:
    """Make the plugins known to vLLM; a second call changes nothing."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if FILE_WEIGHTS not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(FILE_WEIGHTS, "trimtab_vllm.file_weights", "FileWeightTransfer")
