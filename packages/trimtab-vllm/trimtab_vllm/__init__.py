"""Plugins for vLLM, which loads them in each of its processes through the entry point `vllm.general_plugins`."""

FILE_WEIGHTS = "file"
"""the backend of `--weight-transfer-config` under which weights come from files"""


def register() -> None:
    """Make the plugins known to vLLM; a second call changes nothing."""
    from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

    if FILE_WEIGHTS not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(FILE_WEIGHTS, "trimtab_vllm.file_weights", "FileWeightTransfer")
    _register_dial()


def _register_dial() -> None:
    """A class of models with a dial, and for every architecture a look whether the folder has one."""
    from vllm.model_executor.models import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP, VerifyAndUpdateConfig

    from trimtab_vllm.dial_config import ARCHITECTURE, DialConfig, watching

    if ARCHITECTURE in MODELS_CONFIG_MAP:
        return
    for name in ModelRegistry.get_supported_archs():
        MODELS_CONFIG_MAP[name] = watching(MODELS_CONFIG_MAP.get(name, VerifyAndUpdateConfig))
    ModelRegistry.register_model(ARCHITECTURE, f"trimtab_vllm.two_streams:{ARCHITECTURE}")
    MODELS_CONFIG_MAP[ARCHITECTURE] = DialConfig
