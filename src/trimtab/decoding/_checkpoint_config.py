"""Settings in a checkpoint's generation config that transformers no longer supports by itself."""

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
    """As `check_own`, for the file in a model's folder, if there is one."""
    place = place_of(base_of(name))
    try:
        config = GenerationConfig.from_pretrained(place.path, **place.arguments())
    except (OSError, ValueError):  # none, or one that is checked when the model is loaded
        return
    check_own(config, name)


def check_own(config: Any, name: str) -> None:
    """Raise a DecodingError if `generate` cannot follow a checkpoint's generation config."""
    way_out = "choose another strategy, such as beam or sample"
    whole = complete({}, (0,), 0, 1, own=SimpleNamespace(generation_config=config))
    if whole.low_memory and (whole.num_beams or 1) > 1:
        raise DecodingError(
            f"{name}: its generation config asks for low_memory=True, which beam search no longer supports; {way_out}"
        )
    mode = whole.get_generation_mode()
    if "/" not in str(GENERATION_MODES_MAPPING.get(mode, "")):
        return
    given = [
        f"{key}={getattr(config, key)}" for key in ASKED_BY.get(mode, ()) if getattr(config, key, None) is not None
    ]
    raise DecodingError(
        f"{name}: its generation config asks for {mode.value.replace('_', ' ')} ({', '.join(given)}), which "
        f"transformers only does with code from the hub, and none is run here; {way_out}"
    )
