"""Makes vLLM serve a folder with a dial as such, and refuse what a dial cannot do, before anything is loaded.

vLLM calls a class of `MODELS_CONFIG_MAP` for the architecture of each model. A folder with a dial has the architecture
of an ordinary model with one layer more; without this it would be served at strength 1, without a word.
"""

from dataclasses import dataclass
from typing import Any

from vllm.config import ModelConfig, VllmConfig
from vllm.logger import init_logger
from vllm.model_executor.models.config import VerifyAndUpdateConfig

from trimtab_vllm.dial_folder import KEY, MARK, DialFolder, check_family, read

logger = init_logger("vllm.trimtab")

ARCHITECTURE = "TrimtabDialForCausalLM"
PROCESSOR = "trimtab_vllm.dial:Dial"
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"


@dataclass(frozen=True)
class Served:
    """What the process that takes requests knows of the model."""

    folder: DialFolder
    vocab: int
    logprobs: str
    """the mode of log-probabilities"""


_served: Served | None = None


def served() -> Served:
    """The model of this process; vLLM checks a request without saying of which model it is.

    Raises:
        ValueError: if the model has no dial.
    """
    if _served is None:
        raise ValueError("this model has no dial")
    return _served


def take_up(config: ModelConfig) -> None:
    """Serve a folder with a dial by the class that has one.

    Raises:
        ValueError: for a folder of another version, or a model that has no dial here.
    """
    said, architecture = getattr(config.hf_config, KEY, None), config.architecture
    if said is None:
        if architecture == ARCHITECTURE:
            raise ValueError(f"{config.model} has no dial: its config.json has no {KEY}; `trimtab export` writes it")
        if getattr(config.hf_config, MARK, False):
            logger.warning(
                "%s is served at strength 1: `trimtab export` makes a folder with a dial of it", config.model
            )
        return
    read(said)
    if architecture == ARCHITECTURE:
        return
    check_family(config.hf_config.model_type, architecture)
    config.hf_config.architectures = [ARCHITECTURE]
    config.model_arch_config = config.get_model_arch_config()
    config._model_info, config._architecture = config.registry.inspect_model_cls([ARCHITECTURE], config)


class DialConfig(VerifyAndUpdateConfig):
    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        take_up(model_config)

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        """Refuse what does not go with a dial, and add the processor that reads strengths.

        Raises:
            ValueError: with what is to be changed.
        """
        global _served
        check_settings(vllm_config)
        model = vllm_config.model_config
        processors = list(model.logits_processors or [])
        model.logits_processors = [*(one for one in processors if one != PROCESSOR), PROCESSOR]  # the last word
        _served = Served(read(getattr(model.hf_config, KEY)), model.get_vocab_size(), model.logprobs_mode)


def check_settings(config: VllmConfig) -> None:
    """Raise a ValueError for a server that would mix wrongly."""
    refused = {
        "speculative decoding": config.speculative_config is not None,
        "LoRA adapters": config.lora_config is not None,
        "pipeline parallelism": config.parallel_config.pipeline_parallel_size > 1,
        f"the runner {config.model_config.runner_type}": config.model_config.runner_type != "generate",
        "dual chunk attention": hasattr(config.model_config.hf_config, "dual_chunk_attention_config"),
    }
    for what, asked in refused.items():
        if asked:
            raise ValueError(f"a model with a dial does not go with {what}; start the server without")
    if config.use_v2_model_runner:
        raise ValueError(f"the dial needs vLLM's first model runner; start the server with {RUNNER}=0")


def watching(base: type[VerifyAndUpdateConfig]) -> type[VerifyAndUpdateConfig]:
    """What vLLM does for an architecture, and then a look for a dial."""

    class Watching(base):
        trimtab = True

        @staticmethod
        def verify_and_update_model_config(model_config: Any) -> None:
            base.verify_and_update_model_config(model_config)
            take_up(model_config)

    return Watching
