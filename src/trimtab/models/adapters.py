"""LoRA through PEFT."""

from typing import Any

from transformers import PreTrainedModel, set_seed


class AdapterError(ValueError):
    """Adapter settings that PEFT does not take."""


def add_lora(model: PreTrainedModel, settings: dict[str, Any], seed: int) -> Any:
    """The model with freshly drawn adapters; its own weights are frozen.

    Args:
        model: with `add_objective_forward` or `add_score_forward` already called; a scalar head is trained as a whole.
        settings: arguments of PEFT's LoraConfig.
        seed: of the draw.

    Raises:
        AdapterError: in PEFT's words, with the name of the setting's place.
    """
    from peft import LoraConfig, get_peft_model

    modules = settings.get("target_modules") or ()
    if isinstance(modules, list) and "lm_head" in modules:
        raise AdapterError("models.lora.target_modules holds lm_head, which TRL's trainer does not take; leave it out")
    set_seed(seed)
    task = "CAUSAL_LM" if model.get_output_embeddings() is not None else "TOKEN_CLS"  # PEFT trains that head whole
    try:
        return get_peft_model(model, LoraConfig(task_type=task, **settings))
    except (TypeError, ValueError) as error:
        raise AdapterError(f"models.lora: {str(error).strip().partition(chr(10))[0]}") from error
