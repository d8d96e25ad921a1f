"""What a checkpoint's own generation config asks for and transformers no longer does by itself."""

from types import SimpleNamespace
from typing import Any

from transformers import GenerationConfig
from transformers.generation.configuration_utils import GenerationMode
from transformers.generation.utils import GENERATION_MODES_MAPPING

from trimtab.decoding import DecodingError
from trimtab.decoding._config import complete
from trimtab.models.loading import base_of
from trimtab.models.places import place_of

ASKED_BY = {
    GenerationMode.GROUP_BEAM_SEARCH: ("num_beam_groups", "diversity_penalty"),
    GenerationMode.CONTRASTIVE_SEARCH: ("penalty_alpha",),
    GenerationMode.DOLA_GENERATION: ("dola_layers",),
    GenerationMode.CONSTRAINED_BEAM_SEARCH: ("force_words_ids", "constraints"),
}


def check_stored(name: str) -> None:
    """As `check_own`, of the file beside the weights, where there is one; nothing is loaded."""
    place = place_of(base_of(name))
    try:
        config = GenerationConfig.from_pretrained(place.path, **place.arguments())
    except (OSError, ValueError):  # none there, or one that `check_own` sees as the model has it
        return
    check_own(config, name)


def check_own(config: Any, name: str) -> None:
    """A checkpoint's generation config must be one that `generate` can follow here.

    Raises:
        DecodingError: naming the setting that asks for code from the hub.
    """
    way_out = "choose another strategy, such as beam or sample"
    whole = complete({}, (0,), 0, 1, own=SimpleNamespace(generation_config=config))
    if whole.low_memory and (whole.num_beams or 1) > 1:
        raise DecodingError(
            f"{name}: its generation config asks for low_memory=True, which beams no longer know; {way_out}"
        )
    mode = whole.get_generation_mode()
    if "/" not in str(GENERATION_MODES_MAPPING.get(mode, "")):
        return
    said = [f"{key}={getattr(config, key)}" for key in ASKED_BY.get(mode, ()) if getattr(config, key, None) is not None]
    raise DecodingError(
        f"{name}: its generation config asks for {mode.value.replace('_', ' ')} ({', '.join(said)}), which "
        f"transformers does by code from the hub alone, and none is run here; {way_out}"
    )
